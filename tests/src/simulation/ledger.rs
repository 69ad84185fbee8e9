//! What the publisher accepted, written down by the one who gave it: the oracles' side of the books.

use std::collections::BTreeMap;

use bytes::Bytes;
use roomreel_sfu::publisher::Stats;
use roomreel_shared::batch::RtpBatch;
use roomreel_shared::id::TrackId;

/// One process of the SFU.
#[derive(Debug, Default)]
pub struct Life {
    /// It died; what it held is lost.
    pub crashed: bool,
    /// By track.
    pub tracks: BTreeMap<TrackId, Track>,
    /// Events that were given to the log.
    pub events: BTreeMap<(u64, u64), Bytes>,
    /// The core's own figures.
    pub stats: Stats,
}

/// The packets of a track in one life; their place is their number.
#[derive(Debug, Default)]
pub struct Track {
    /// Known once a batch was made.
    pub incarnation: Option<u64>,
    /// Bytes, and the batch they were sent in, if they were.
    pub packets: Vec<(Bytes, Option<u64>)>,
}

impl Life {
    /// A batch goes to the log.
    pub fn on_batch(&mut self, batch: &RtpBatch) {
        let Some(track) = self.tracks.get_mut(&batch.track) else { return };
        track.incarnation = Some(batch.incarnation.get());
        for number in batch.first_packet_no..batch.next_packet_no() {
            if let Some(packet) = track.packets.get_mut(usize::try_from(number).unwrap_or(usize::MAX)) {
                packet.1 = Some(batch.batch_no);
            }
        }
    }

    /// A watermark above all that was sent: what a publisher believes that trusts the broker.
    #[must_use]
    pub fn watermark_of_everything_sent(&self) -> Vec<(TrackId, u64, u64)> {
        let newest = |track: &Track| track.packets.iter().rev().find_map(|(_, batch)| *batch);
        let tracks = self.tracks.iter();
        tracks.filter_map(|(id, track)| Some((id.clone(), track.incarnation?, newest(track)? + 1))).collect()
    }
}

/// The books.
#[derive(Debug, Default)]
pub struct Ledger {
    /// In the order of their starts.
    pub lives: Vec<Life>,
    total: u64,
}

impl Ledger {
    /// The present, or last, life.
    pub fn life(&mut self) -> &mut Life {
        self.lives.last_mut().expect("the SFU starts before anything else")
    }

    /// The core took a packet.
    pub fn accept(&mut self, track: &TrackId, bytes: Bytes) {
        self.total += 1;
        let track = self.life().tracks.entry(track.clone()).or_default();
        track.packets.push((bytes, None));
    }

    /// RTP sequence number of a track's next packet.
    pub fn next_sequence(&mut self, track: &TrackId) -> u16 {
        self.life().tracks.get(track).map_or(0, |track| track.packets.len()) as u16
    }

    /// Packets accepted so far.
    #[must_use]
    pub fn total_packets(&self) -> u64 {
        self.total
    }
}
