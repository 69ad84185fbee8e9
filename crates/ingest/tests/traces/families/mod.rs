//! The families: what each is about, and what makes its traces.

mod identity;
mod log;
mod media;
mod network;
mod rules;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use roomreel_shared::batch::PacketData;
use roomreel_shared::event::Codec;

use crate::rtp::{Sent, Stream};
use crate::trace::{Published, Received, Trace, Writing};

/// What a family makes its traces with.
pub(crate) struct Kit {
    pub(crate) rng: StdRng,
    /// Packets of a track, about.
    pub(crate) size: usize,
}

/// A family.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    write: fn(&mut Kit) -> Writing,
}

impl Family {
    pub(crate) fn trace(&self, seed: u64, size: usize) -> Trace {
        let of_family = self.name.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31) + u64::from(byte));
        let rng = StdRng::seed_from_u64(of_family.wrapping_add(seed));
        (self.write)(&mut Kit { rng, size }).finish(self.name, seed)
    }
}

macro_rules! families {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$(Family { name: stringify!($name), write: $module::$name }),*]
    };
}

pub(crate) const FAMILIES: &[Family] = families![
    network::sequence_wrap,
    network::reorder,
    network::reorder_and_loss,
    network::duplicates,
    network::loss_bursts,
    network::late_packets,
    network::numbering_jumps,
    media::timestamp_wrap,
    media::timestamp_jumps,
    media::timestamp_zero,
    media::hostile_receive_times,
    media::payload_type_switch,
    media::simulcast_switches,
    media::silence,
    media::probes,
    media::header_extensions,
    media::retransmissions,
    media::error_correction,
    media::noise,
    media::sender_reports,
    identity::ssrc_change,
    identity::clean_reconnect,
    identity::crash_and_reconnect,
    identity::crash_with_the_same_ssrc,
    identity::overlapping_incarnations,
    log::reordered_batches,
    log::lost_batches,
    log::late_batches,
    log::replayed_batches,
    log::checksum_damage,
    log::log_repeats,
    log::wrong_room,
    log::publisher_drops,
    rules::pause_and_resume,
    rules::forbidden_kind,
    rules::policy_changes,
    rules::media_before_its_event,
    rules::recording_of_the_middle,
    rules::everything_at_once,
];

impl Kit {
    pub(crate) fn chance(&mut self, of_a_hundred: u32) -> bool {
        self.rng.random_range(0..100) < of_a_hundred
    }

    pub(crate) fn up_to(&mut self, most: u64) -> u64 {
        self.rng.random_range(0..=most)
    }

    /// Packets `sent` as they come out of the network: each is kept or lost as `keeps` says.
    pub(crate) fn publish(&mut self, track: &'static str, incarnation: u64, packets: Vec<Received>) -> Published {
        Published::new(track, incarnation, packets, &mut || self.rng.random_range(1..=8))
    }

    /// Batches that are chosen, never the last; each `of_a_hundred`.
    pub(crate) fn choose(&mut self, published: &Published, of_a_hundred: u32) -> Vec<u64> {
        let last = published.batches.len() as u64 - 1;
        (0..last).filter(|_| self.chance(of_a_hundred)).collect()
    }
}

pub(crate) fn received(sent: &[Sent]) -> Vec<Received> {
    sent.iter().map(|sent| Received { at: sent.at, data: PacketData::Rtp(sent.bytes.clone()) }).collect()
}

/// Expects of a stream what `arrived` says, in the order it arrived: its newest packet, its key frames among the batches that
/// are `stored`, and that what never arrived is lost. Packets of other streams may be among them.
pub(crate) fn expect_stream(
    writing: &mut Writing,
    published: &Published,
    stream: &Stream,
    arrived: &[Sent],
    stored: impl Fn(u64) -> bool,
) {
    let batch_of =
        |number: usize| published.batches.iter().position(|range| range.contains(&number)).expect("cut") as u64;
    let kept: Vec<(usize, &Sent)> = arrived
        .iter()
        .enumerate()
        .filter(|(number, sent)| sent.ssrc == stream.ssrc && stored(batch_of(*number)))
        .collect();
    let (Some((_, first)), Some((_, newest))) = (kept.first(), kept.iter().max_by_key(|(_, sent)| sent.index)) else {
        return;
    };
    let account = writing.account(published.track);
    account.newest.insert(stream.ssrc, (stream.extended(first.index, newest.index), newest.timestamp));
    account.keyframes.extend(
        kept.iter()
            .filter(|(_, sent)| sent.starts_picture)
            .map(|(number, sent)| (published.incarnation, *number as u64, sent.ssrc, sent.timestamp)),
    );
}

/// Expects these packets of a stream lost by the network; `first` was the first that came.
pub(crate) fn expect_lost(
    writing: &mut Writing,
    track: &str,
    stream: &Stream,
    first: u64,
    lost: impl IntoIterator<Item = u64>,
) {
    let runs = lost.into_iter().map(|index| (stream.extended(first, index), stream.extended(first, index)));
    let account = writing.account(track);
    let lost = account.lost.entry(stream.ssrc).or_default();
    lost.extend(runs);
    *lost = crate::account::merged(std::mem::take(lost));
    if lost.is_empty() {
        account.lost.remove(&stream.ssrc);
    }
}

/// A room with a camera: VP8 and what goes with it.
pub(crate) fn camera() -> Writing {
    let mut writing = Writing::new();
    let codecs = [
        (96, Codec::Vp8, 90_000),
        (97, Codec::Rtx, 90_000),
        (98, Codec::Vp9, 90_000),
        (102, Codec::H264, 90_000),
        (104, Codec::H265, 90_000),
        (49, Codec::Fec, 90_000),
    ];
    writing.producer("cam", &codecs, 10);
    writing
}

/// A room with a microphone.
pub(crate) fn microphone() -> Writing {
    let mut writing = Writing::new();
    writing.producer("mic", &[(111, Codec::Opus, 48_000), (63, Codec::Red, 48_000)], 10);
    writing
}

/// All of a stream arrives, and all of its batches are stored.
pub(crate) fn plain(
    kit: &mut Kit,
    writing: &mut Writing,
    track: &'static str,
    stream: &Stream,
    sent: &[Sent],
) -> Published {
    let published = kit.publish(track, 7, received(sent));
    writing.all(&published);
    expect_stream(writing, &published, stream, sent, |_| true);
    published
}
