//! What stands in for an SFU: a room as a sequence of timed events and packets, and its playing into a publisher.
//!
//! Owns pacing. Does not own what is played: see [`crate::capture`] and [`crate::synthetic`].

use std::time::Duration;

use roomreel_shared::batch::PacketData;
use roomreel_shared::event::EventKind;
use roomreel_shared::id::{RoomId, TrackId};
use roomreel_shared::time::RoomTime;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::publisher::{self, RoomPublisher};
use crate::{capture, synthetic};

/// What happened at one time.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceItem {
    /// In the room.
    Event(EventKind),
    /// A packet was received.
    Packet {
        /// Of this track.
        track: TrackId,
        /// Its bytes.
        data: PacketData,
    },
}

/// Why an item could not be had. The source goes on after it, unless its iterator ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Of a capture.
    #[error(transparent)]
    Capture(#[from] capture::Error),
    /// Of a synthetic room.
    #[error(transparent)]
    Synthetic(#[from] synthetic::Error),
    /// The publisher did not take an item.
    #[error(transparent)]
    Publisher(#[from] publisher::Error),
    /// The source panicked, which is a bug in it.
    #[error("the source ended unexpectedly")]
    Broken,
}

/// A room as a sequence of what happened, about in the order of time. It ends with `RoomClosed`.
pub trait Source: Iterator<Item = Result<(RoomTime, SourceItem), Error>> + Send + 'static {
    /// The room's id.
    fn room(&self) -> &RoomId;

    /// From the first item to the last, if it is known.
    fn duration(&self) -> Option<Duration>;
}

/// How far the playing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Room time since the first item.
    pub elapsed: Duration,
    /// All of it, if known.
    pub total: Option<Duration>,
    /// Events published.
    pub events: u64,
    /// Packets published.
    pub packets: u64,
    /// How far the playing is behind its pace.
    pub lag: Duration,
}

/// What became of a source.
#[derive(Debug, Default)]
pub struct Played {
    /// At the end.
    pub progress: Progress,
    /// What could not be had or published; at most the first [`MAX_PROBLEMS`].
    pub problems: Vec<Error>,
    /// How many there were.
    pub problem_count: u64,
}

/// Problems kept in words.
pub const MAX_PROBLEMS: usize = 100;
/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Items a source may run ahead.
const READ_AHEAD_ITEMS: usize = 1024;

/// Plays `source` into `room`, `speed` times as fast as it was, or as fast as the log takes it if `speed` is 0.
///
/// Room times are published as the source has them. The source runs on a thread of its own.
pub async fn play<S: Source>(
    source: S,
    room: &RoomPublisher,
    speed: f64,
    mut on_progress: impl FnMut(&Progress),
) -> Played {
    let mut played =
        Played { progress: Progress { total: source.duration(), ..Progress::default() }, ..Played::default() };
    let (items, mut received) = mpsc::channel(READ_AHEAD_ITEMS);
    let reader = tokio::task::spawn_blocking(move || {
        for item in source {
            if items.blocking_send(item).is_err() {
                return; // the playing was given up
            }
        }
    });
    let started = Instant::now();
    let mut first: Option<RoomTime> = None;
    let mut reported = started;
    while let Some(item) = received.recv().await {
        let outcome = match item {
            Err(error) => Err(error),
            Ok((time, item)) => {
                let elapsed = time.saturating_since(*first.get_or_insert(time));
                played.progress.elapsed = played.progress.elapsed.max(elapsed);
                if speed > 0.0 {
                    let due = started + elapsed.div_f64(speed);
                    played.progress.lag = Instant::now().saturating_duration_since(due);
                    tokio::time::sleep_until(due).await;
                } else {
                    room.capacity().await;
                }
                publish(room, time, item, &mut played.progress).map_err(Error::from)
            }
        };
        if let Err(error) = outcome {
            played.problem_count += 1;
            if played.problems.len() < MAX_PROBLEMS {
                played.problems.push(error);
            }
        }
        if reported.elapsed() >= PROGRESS_INTERVAL {
            reported = Instant::now();
            on_progress(&played.progress);
        }
    }
    if reader.await.is_err() {
        played.problem_count += 1;
        played.problems.push(Error::Broken);
    }
    on_progress(&played.progress);
    played
}

fn publish(
    room: &RoomPublisher,
    time: RoomTime,
    item: SourceItem,
    progress: &mut Progress,
) -> Result<(), publisher::Error> {
    match item {
        SourceItem::Event(event) => {
            room.event(time, event)?;
            progress.events += 1;
        }
        SourceItem::Packet { track, data } => {
            room.packet(&track, time, data)?;
            progress.packets += 1;
        }
    }
    Ok(())
}
