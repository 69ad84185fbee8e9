//! The auditor: what the log accepted against what the bucket holds.
//!
//! Reads both sides from scratch and compares packet by packet. Knows nothing of the fold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use roomreel_shared::batch::RtpBatch;
use roomreel_shared::event::{EventKind, RoomEvent};
use roomreel_shared::id::{CompositeId, RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::ports::{LogEntry, ObjectStore, RoomLog, StoreError};
use roomreel_shared::subject::{Address, Entry, Shard, Writer, room_filter};
use roomreel_shared::window::{Missing, Window};

/// A packet by its publisher's own number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PacketId {
    /// Who published it.
    pub sfu: SfuId,
    /// Of which track.
    pub track: TrackId,
    /// By which numbering.
    pub incarnation: u64,
    /// Its number.
    pub packet_no: u64,
}

/// An event by its writer's own number.
pub type EventId = (Writer, u64, u64);

/// Everything one room's log holds.
#[derive(Debug, Default)]
pub struct LogContents {
    /// Packets with the hash of their bytes; a packet the log holds twice counts once.
    pub packets: BTreeMap<PacketId, blake3::Hash>,
    /// Events of SFUs.
    pub events: BTreeSet<EventId>,
    /// The room was closed.
    pub closed: bool,
}

/// Reads a room's log up to what it holds now. What does not decode, names another room or track than its subject (I4), or is
/// not its writer's to write, was not accepted.
///
/// # Errors
/// When the log does not answer.
pub async fn read_log(log: &dyn RoomLog, tenant: &TenantId, room: &RoomId, shards: u32) -> Result<LogContents> {
    let shard = Shard::of(tenant, room, shards);
    let last = log.last_sequence(shard).await?;
    let mut contents = LogContents::default();
    let mut entries = log.read(shard, &room_filter(shard, tenant, room), 1).await?;
    // The room's newest entry may lie before the stream's newest: silence ends the reading.
    while let Ok(Some(entry)) = tokio::time::timeout(Duration::from_secs(2), entries.next()).await {
        let entry = entry?;
        let sequence = entry.sequence;
        contents.add(room, entry);
        if sequence >= last {
            break;
        }
    }
    Ok(contents)
}

impl LogContents {
    fn add(&mut self, room: &RoomId, entry: LogEntry) {
        let Ok(address) = Address::parse(&entry.subject) else { return };
        match (address.entry, &address.writer) {
            (Entry::Media(track), Writer::Sfu(sfu)) => {
                let Ok(batch) = RtpBatch::decode(entry.payload) else { return };
                if batch.room != *room || batch.track != track {
                    return;
                }
                for (packet, packet_no) in batch.packets.iter().zip(batch.first_packet_no..) {
                    let id = PacketId {
                        sfu: sfu.clone(),
                        track: track.clone(),
                        incarnation: batch.incarnation.get(),
                        packet_no,
                    };
                    self.packets.insert(id, blake3::hash(packet.data.bytes()));
                }
            }
            (Entry::Event, Writer::Sfu(_)) => {
                let Ok(event) = RoomEvent::decode(entry.payload) else { return };
                if event.room != *room || event.kind.is_control() {
                    return;
                }
                self.closed |= matches!(event.kind, EventKind::RoomClosed { .. });
                self.events.insert((address.writer, event.incarnation.get(), event.event_no));
            }
            (_, Writer::Control) => {}
        }
    }
}

/// What a recording's chain of windows holds.
#[derive(Debug, Default)]
pub struct RecordingContents {
    /// The windows, in order.
    pub windows: Vec<Window>,
    /// How often each packet stands in them, and the hash of its bytes.
    pub packets: BTreeMap<PacketId, (u32, blake3::Hash)>,
    /// Packets that gap records account for.
    pub declared: BTreeSet<PacketId>,
    /// Gap records about packets that never reached the SFU.
    pub network_gaps: usize,
    /// Events of SFUs, each with how often it stands.
    pub events: BTreeMap<EventId, u32>,
}

/// Reads a recording's chain and checks that it is one (I2).
///
/// # Errors
/// When the bucket does not answer, a window is not whole, or the chain has a hole, a fork or a second end.
pub async fn read_recording(store: &dyn ObjectStore, keys: &RecordingKeys) -> Result<RecordingContents> {
    let mut contents = RecordingContents::default();
    let mut previous = None;
    let mut epoch = 0;
    for number in 0.. {
        let object = match store.get(&keys.window(number)).await {
            Ok(object) => object,
            Err(StoreError::NotFound { .. }) => break,
            Err(error) => return Err(error.into()),
        };
        let window = Window::parse(object).with_context(|| format!("window {number}"))?;
        let header = &window.header;
        ensure!(header.window == number, "window {number} says it is {}", header.window);
        ensure!(header.previous == previous, "I2: window {number} does not name the hash of the one before");
        ensure!(header.epoch >= epoch, "I7: the epoch of window {number} goes back");
        epoch = header.epoch;
        previous = Some(window.hash());
        for segment in &window.segments {
            for stored in window.batches(segment)? {
                let batch = stored?.batch;
                for (packet, packet_no) in batch.packets.iter().zip(batch.first_packet_no..) {
                    let id = PacketId {
                        sfu: segment.key.sfu.clone(),
                        track: segment.key.track.clone(),
                        incarnation: batch.incarnation.get(),
                        packet_no,
                    };
                    let hash = blake3::hash(packet.data.bytes());
                    contents.packets.entry(id).or_insert((0, hash)).0 += 1;
                }
            }
        }
        for gap in &header.gaps {
            match &gap.missing {
                Missing::Network { .. } => contents.network_gaps += 1,
                Missing::Accepted { packets: (first, last), .. } => {
                    for packet_no in *first..=last.unwrap_or(*first) {
                        contents.declared.insert(PacketId {
                            sfu: gap.key.sfu.clone(),
                            track: gap.key.track.clone(),
                            incarnation: gap.incarnation.get(),
                            packet_no,
                        });
                    }
                }
            }
        }
        for stored in &window.events {
            if stored.writer.sfu().is_some() {
                let id = (stored.writer.clone(), stored.event.incarnation.get(), stored.event.event_no);
                *contents.events.entry(id).or_default() += 1;
            }
        }
        contents.windows.push(window);
    }
    let ends = contents.windows.iter().filter(|window| window.header.end.is_some()).count();
    ensure!(ends <= 1, "{ends} windows say that they are the last");
    if ends == 1 {
        let last = contents.windows.last().context("there is one that ends")?;
        ensure!(last.header.end.is_some(), "windows follow the last one");
    }
    Ok(contents)
}

/// The count of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Packets the log accepted.
    pub published: usize,
    /// Of those, in the windows.
    pub recorded: usize,
    /// Of those, in gap records.
    pub declared: usize,
    /// In neither.
    pub missing: usize,
    /// In the windows more than once.
    pub repeated: usize,
    /// In the windows with other bytes, or never published.
    pub foreign: usize,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { published, recorded, declared, missing, repeated, foreign } = self;
        write!(
            f,
            "published {published} recorded {recorded} declared {declared} missing {missing} repeated {repeated} \
             foreign {foreign}"
        )
    }
}

/// Compares packet by packet (I1).
#[must_use]
pub fn compare(log: &LogContents, recording: &RecordingContents) -> Verdict {
    let mut verdict = Verdict {
        published: log.packets.len(),
        recorded: 0,
        declared: 0,
        missing: 0,
        repeated: recording.packets.values().filter(|(times, _)| *times > 1).count(),
        foreign: recording
            .packets
            .iter()
            .filter(|(id, (_, hash))| log.packets.get(id).is_some_and(|published| published != hash))
            .count(),
    };
    for id in log.packets.keys() {
        if recording.packets.contains_key(id) {
            verdict.recorded += 1;
        } else if recording.declared.contains(id) {
            verdict.declared += 1;
        } else {
            verdict.missing += 1;
        }
    }
    verdict
}

/// Requires that everything the log accepted is in exactly one window, events included.
///
/// # Errors
/// With the verdict and the first packets or events that are not.
pub fn require_everything_once(log: &LogContents, recording: &RecordingContents) -> Result<Verdict> {
    let verdict = compare(log, recording);
    if verdict.recorded != verdict.published || verdict.repeated + verdict.foreign > 0 {
        let missing: Vec<_> = log.packets.keys().filter(|id| !recording.packets.contains_key(id)).take(5).collect();
        bail!("I1: {verdict}; first missing: {missing:?}");
    }
    let events: BTreeMap<_, _> = log.events.iter().map(|id| (id.clone(), 1)).collect();
    ensure!(events == recording.events, "I1: events in the log {:?}, in the windows {:?}", events, recording.events);
    Ok(verdict)
}

/// Requires that slices 0..n exist without a hole (I5) and answers how many there are.
///
/// # Errors
/// When the bucket does not answer or a slice is missing.
pub async fn require_contiguous_slices(
    store: &dyn ObjectStore,
    keys: &RecordingKeys,
    composite: &CompositeId,
) -> Result<u64> {
    let listed = store.list(&keys.composite_prefix(composite)).await?;
    let slices: Vec<u64> = listed.iter().filter_map(|object| keys.slice_number(composite, &object.key)).collect();
    let expected: Vec<u64> = (0..slices.len() as u64).collect();
    ensure!(slices == expected, "I5: slices are {slices:?}");
    Ok(slices.len() as u64)
}
