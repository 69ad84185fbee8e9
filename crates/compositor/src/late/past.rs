//! What a span has to be told of the windows before it.
//!
//! Footers are read once and kept without what nobody asks for any more; packets only where a picture builds on them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::ports::{ObjectStore, StoreError};
use roomreel_shared::rtp::Ssrc;
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::{FetchError, Footer, TrackKey};

use crate::render::WARM_UP;
use crate::render_job::Error;

/// Reads under way at once.
const CONCURRENCY: usize = 16;
/// A key picture that is older at the beginning of a span than this is not sought: the track shows nothing until the next one.
const LOOK_BACK: Duration = Duration::from_secs(600);

/// A window whose footer was read.
struct Known {
    /// An object with its events alone; of window 0, with what it carries over too.
    object: Bytes,
    /// The newest room time seen.
    seen: RoomTime,
}

/// Windows of a recording that has ended, from the first on, as far as they were needed.
pub(super) struct Past {
    store: Arc<dyn ObjectStore>,
    keys: RecordingKeys,
    /// Lengths of the window objects; empty before they were listed.
    sizes: Vec<u64>,
    known: Vec<Known>,
    room_start: RoomTime,
    /// Of each stream, its key pictures: in which window, and when.
    keyframes: BTreeMap<(TrackKey, Ssrc), Vec<(u64, RoomTime)>>,
}

impl Past {
    pub(super) fn new(store: Arc<dyn ObjectStore>, keys: RecordingKeys) -> Self {
        let room_start = RoomTime::default();
        Self { store, keys, sizes: Vec::new(), known: Vec::new(), room_start, keyframes: BTreeMap::new() }
    }

    /// The windows, from the first on, of which a span that begins at `at` on the recording's clock needs no more than is given
    /// here. The one behind them is the first that it has to read.
    pub(super) async fn before(&mut self, at: Duration) -> Result<Vec<Bytes>, Error> {
        self.read_until(at).await?;
        let begins = self.room_start + at;
        let warm_up = begins.offset_micros(-(WARM_UP.as_micros() as i64));
        let count = self.known.partition_point(|known| known.seen < warm_up);
        let mut windows: Vec<_> = self.known[..count].iter().map(|known| known.object.clone()).collect();
        // No further than is read whatever was read before: what is found must not depend on that.
        let reach = self.known.partition_point(|known| known.seen < begins) + 1;
        for (number, tracks) in self.build_upon(count as u64..reach as u64, warm_up, begins) {
            windows[number as usize] = self.with_packets(number, &tracks).await?;
        }
        Ok(windows)
    }

    /// Reads footers until one has seen the room at `at`.
    async fn read_until(&mut self, at: Duration) -> Result<(), Error> {
        if self.sizes.is_empty() {
            let listed = self.store.list(&self.keys.windows_prefix()).await?;
            let numbered =
                listed.iter().filter_map(|object| Some((self.keys.window_number(&object.key)?, object.size)));
            let in_order = (0..).zip(numbered).take_while(|(expected, (number, _))| expected == number);
            self.sizes = in_order.map(|(_, (_, size))| size).collect();
            if self.sizes.is_empty() {
                return Err(StoreError::NotFound { key: self.keys.window(0).to_string() }.into());
            }
        }
        while self.known.last().is_none_or(|last| last.seen < self.room_start + at) {
            let next = self.known.len() as u64;
            let end = (next + CONCURRENCY as u64).min(self.sizes.len() as u64);
            if next == end {
                break;
            }
            let footers: Vec<_> =
                stream::iter(next..end).map(|number| self.footer(number)).buffered(CONCURRENCY).try_collect().await?;
            for footer in footers {
                self.learn(&footer);
            }
        }
        Ok(())
    }

    fn learn(&mut self, footer: &Footer) {
        let window = footer.window();
        let number = self.known.len() as u64;
        if number == 0 {
            self.room_start = window.header.room_start;
        }
        for segment in &window.segments {
            for keyframe in &segment.keyframes {
                self.keyframes.entry((segment.key.clone(), keyframe.ssrc)).or_default().push((number, keyframe.time));
            }
        }
        let object = if number == 0 { window.object().clone() } else { footer.events_only() };
        let seen = self.known.last().map_or(window.header.room_seen, |last| last.seen.max(window.header.room_seen));
        self.known.push(Known { object, seen });
    }

    /// Which tracks' packets are needed of the windows before `followed`: those of streams without a key picture in the warm-up, from
    /// their newest one on.
    fn build_upon(&self, followed: Range<u64>, warm_up: RoomTime, begins: RoomTime) -> BTreeMap<u64, Vec<TrackKey>> {
        let oldest = warm_up.offset_micros(-(LOOK_BACK.as_micros() as i64));
        let mut from: BTreeMap<&TrackKey, u64> = BTreeMap::new();
        for ((key, _), keyframes) in &self.keyframes {
            let is_fresh = keyframes.iter().any(|(window, time)| followed.contains(window) && *time <= begins);
            let newest = keyframes.iter().rev().find(|(window, _)| *window < followed.start);
            let newest = newest.filter(|(_, time)| *time >= oldest);
            if let Some((window, _)) = newest.filter(|_| !is_fresh) {
                from.entry(key).and_modify(|from| *from = (*from).min(*window)).or_insert(*window);
            }
        }
        let mut needed: BTreeMap<u64, Vec<TrackKey>> = BTreeMap::new();
        for (key, from) in from {
            for window in from..followed.start {
                needed.entry(window).or_default().push(key.clone());
            }
        }
        needed
    }

    /// A window with the packets of these tracks.
    async fn with_packets(&self, number: u64, tracks: &[TrackKey]) -> Result<Bytes, Error> {
        let footer = self.footer(number).await?;
        let mut packets = BTreeMap::new();
        for (index, segment) in footer.window().segments.iter().enumerate() {
            if let Some(range) = footer.range(index).filter(|_| tracks.contains(&segment.key)) {
                packets.insert(index, self.store.get_range(&self.keys.window(number), range).await?);
            }
        }
        Ok(footer.with_media(&packets))
    }

    async fn footer(&self, number: u64) -> Result<Footer, Error> {
        let key = self.keys.window(number);
        let size = self.sizes.get(number as usize).copied().unwrap_or_default();
        Footer::fetch(&*self.store, &key, size).await.map_err(|error| match error {
            FetchError::Store(error) => error.into(),
            FetchError::Window(source) => Error::Window { number, source },
        })
    }
}
