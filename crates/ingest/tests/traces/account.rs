//! What a recording has of each track, as it stands in its windows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use roomreel_shared::verify::Checker;
use roomreel_shared::window::{self, Window};

use crate::fold::Folded;
use crate::trace::{self, Account, Expected, Missing, room_ms};

/// What was recorded, in the terms of what is expected, and what is compared in other ways.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    pub(crate) recorded: Expected,
    /// Every stored packet: track, incarnation, number, room milliseconds, bytes; in the order it is stored.
    pub(crate) packets: Vec<(String, u64, u64, i64, Bytes)>,
    /// What the windows contradict each other in, by the checker of recordings.
    pub(crate) findings: Vec<String>,
    pub(crate) is_finished: bool,
}

/// Runs that follow each other are one.
pub(crate) fn merged(mut runs: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    runs.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for run in runs {
        match merged.last_mut().filter(|last| last.1 + 1 == run.0) {
            Some(last) => last.1 = run.1,
            None => merged.push(run),
        }
    }
    merged
}

/// A gap that goes on in the next window is one.
fn merge_missing(missing: BTreeSet<Missing>) -> BTreeSet<Missing> {
    let mut merged: Vec<Missing> = Vec::new();
    for next in missing {
        match merged.last_mut().filter(|last| {
            let follows = last.batches.1 + 1 == next.batches.0 && last.packets.1.map(|p| p + 1) == Some(next.packets.0);
            follows && last.incarnation == next.incarnation && last.reason == next.reason && next.packets.1.is_some()
        }) {
            Some(last) => (last.batches.1, last.packets.1) = (next.batches.1, next.packets.1),
            None => merged.push(next),
        }
    }
    merged.into_iter().collect()
}

fn account<'a>(accounts: &'a mut BTreeMap<String, Account>, key: &window::TrackKey) -> &'a mut Account {
    accounts.entry(key.track.to_string()).or_default()
}

pub(crate) fn observe(folded: &Folded) -> Observed {
    let mut tracks = BTreeMap::new();
    let mut packets = Vec::new();
    let mut checker = Checker::new(trace::tenant(), trace::room(), trace::recording());
    for (number, window) in (0..).zip(&folded.windows) {
        checker.window(number, window.object().clone());
        read(window, &mut tracks, &mut packets);
    }
    for account in tracks.values_mut() {
        account.lost.values_mut().for_each(|runs| *runs = merged(std::mem::take(runs)));
        account.missing = merge_missing(std::mem::take(&mut account.missing));
    }
    let last = folded.windows.last();
    for state in last.iter().flat_map(|window| &window.header.carry_over.tracks) {
        let account = tracks.entry(state.track_id.clone()).or_default();
        for stream in &state.streams {
            account.newest.insert(stream.ssrc, (stream.highest_sequence, stream.last_rtp_timestamp));
            if stream.sender_report_ntp != 0 {
                account.reports.insert(stream.ssrc, stream.sender_report_rtp);
            }
        }
    }
    let mut damaged = BTreeMap::new();
    for skipped in &folded.damaged {
        *damaged.entry(skipped.why.kind()).or_default() += 1;
    }
    let mut asked: BTreeMap<_, BTreeSet<u64>> = BTreeMap::new();
    for request in &folded.replays {
        let Some(track) = &request.track else { continue };
        let asked = asked.entry((track.to_string(), request.incarnation.get())).or_default();
        asked.extend(request.ranges.iter().flat_map(|range| range.first..=range.last));
    }
    let begin = folded.windows.first().map(|window| room_ms(window.header.room_start)).unwrap_or_default();
    let end = last.and_then(|window| window.header.end).map(|end| room_ms(end.room_end)).unwrap_or(i64::MAX);
    let verdict = checker.finish();
    Observed {
        recorded: Expected { tracks, damaged, asked, span: (begin, end), ..Expected::default() },
        packets,
        findings: verdict.findings.into_iter().map(|finding| finding.what).collect(),
        is_finished: folded.is_finished,
    }
}

fn read(window: &Window, tracks: &mut BTreeMap<String, Account>, packets: &mut Vec<(String, u64, u64, i64, Bytes)>) {
    for segment in &window.segments {
        let account = account(tracks, &segment.key);
        account.invalid += u64::from(segment.invalid_packets);
        account.keyframes.extend(
            segment.keyframes.iter().map(|key| (key.incarnation.get(), key.packet_no, key.ssrc.0, key.timestamp.0)),
        );
        for stored in window.batches(segment).expect("whole") {
            let stored = stored.expect("whole");
            let batch = stored.batch;
            let incarnation = batch.incarnation.get();
            if stored.late {
                account.late.insert((incarnation, batch.batch_no));
            } else {
                account.stored.entry(incarnation).or_default().push(batch.batch_no);
            }
            for (packet, number) in batch.packets.iter().zip(batch.first_packet_no..) {
                let bytes = packet.data.bytes().clone();
                packets.push((batch.track.to_string(), incarnation, number, room_ms(packet.time), bytes));
            }
        }
    }
    for gap in &window.header.gaps {
        let account = account(tracks, &gap.key);
        let incarnation = gap.incarnation.get();
        match gap.missing {
            window::Missing::Accepted { reason, batches, packets } => {
                account.missing.insert(Missing { incarnation, batches, packets, reason });
            }
            window::Missing::Network { ssrc, sequences } => {
                account.lost.entry(ssrc.0).or_default().push(sequences);
                account.lost_spans.insert((ssrc.0, sequences.0), (room_ms(gap.span.0), room_ms(gap.span.1)));
            }
        }
    }
}
