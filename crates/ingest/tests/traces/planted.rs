//! Defects planted into what the fold gives, or into what it is given: each must be found.

use roomreel_shared::window::AcceptedReason;

use crate::account::{Observed, observe};
use crate::expect::difference;
use crate::families::FAMILIES;
use crate::fold::fold;
use crate::trace::{Account, Trace};

type Defect = fn(&mut Account) -> bool;

/// Changes one thing in an account; `false` if there is nothing of the kind in it.
const DEFECTS: &[(&str, Defect)] = &[
    ("a batch is not stored", |account| account.stored.values_mut().find_map(Vec::pop).is_some()),
    ("a batch is stored twice", |account| {
        account.stored.values_mut().find(|stored| !stored.is_empty()).map(|stored| stored.push(stored[0])).is_some()
    }),
    ("two batches change places", |account| {
        account.stored.values_mut().find(|stored| stored.len() > 1).map(|stored| stored.swap(0, 1)).is_some()
    }),
    ("a late batch passes for one in time", |account| {
        let Some((incarnation, number)) = account.late.pop_first() else { return false };
        account.stored.entry(incarnation).or_default().push(number);
        true
    }),
    ("a gap is not declared", |account| account.missing.pop_first().is_some()),
    ("a gap is one packet short", |account| {
        let Some(mut gap) = account.missing.pop_first() else { return false };
        gap.packets.1 = gap.packets.1.map_or(Some(gap.packets.0), |last| Some(last + 1));
        account.missing.insert(gap)
    }),
    ("a gap has another reason", |account| {
        let Some(mut gap) = account.missing.pop_first() else { return false };
        let is_log = gap.reason == AcceptedReason::Log;
        gap.reason = if is_log { AcceptedReason::Publisher } else { AcceptedReason::Log };
        account.missing.insert(gap)
    }),
    ("a network loss is not declared", |account| account.lost.values_mut().find_map(Vec::pop).is_some()),
    ("a network loss is declared that was none", |account| {
        account.newest.iter().next().map(|(ssrc, (highest, _))| (*ssrc, *highest)).is_some_and(|(ssrc, highest)| {
            account.lost.entry(ssrc).or_default().push((highest, highest));
            true
        })
    }),
    ("a network loss is off by one", |account| {
        account.lost.values_mut().flatten().next().map(|run| run.1 += 1).is_some()
    }),
    ("a network loss was at another time", |account| {
        account.lost_spans.values_mut().next().map(|span| span.1 += 1).is_some()
    }),
    ("a wrap of sequence numbers is not counted", |account| {
        account
            .newest
            .values_mut()
            .find(|(highest, _)| *highest > 0x1_ffff)
            .map(|newest| newest.0 -= 0x1_0000)
            .is_some()
    }),
    ("a key frame is not indexed", |account| account.keyframes.pop_last().is_some()),
    ("noise is taken for RTP", |account| std::mem::take(&mut account.invalid) > 0),
    ("a sender report is not heard", |account| account.reports.pop_first().is_some()),
];

fn traces() -> impl Iterator<Item = Trace> {
    FAMILIES.iter().flat_map(|family| (0..4).map(|seed| family.trace(seed, 100)))
}

#[test]
fn defects_of_what_is_recorded_are_found() {
    let mut applied = vec![0; DEFECTS.len()];
    for trace in traces() {
        let observed = observe(&fold(&trace, &[]));
        for ((name, defect), applied) in DEFECTS.iter().zip(&mut applied) {
            for track in observed.recorded.tracks.keys() {
                let mut mutated: Observed = observed.clone();
                if defect(mutated.recorded.tracks.get_mut(track).expect("it is there")) {
                    *applied += 1;
                    let found = difference(&trace, &mutated);
                    // Times are known of some losses only.
                    let is_optional =
                        name.contains("another time") && trace.expected.tracks[track].lost_spans.is_empty();
                    assert!(found.is_some() || is_optional, "{name}, in {}:{}", trace.family, trace.seed);
                }
            }
        }
    }
    for ((name, _), applied) in DEFECTS.iter().zip(applied) {
        eprintln!("{name}: planted and found {applied} times");
        assert!(applied > 0, "{name}: no trace has anything of the kind");
    }
}

/// A fold that believed what it is not to believe would see the log so.
#[test]
fn defects_of_what_is_believed_are_found() {
    type Belief = (&'static str, fn(&Trace) -> Option<Trace>);
    let beliefs: [Belief; 4] = [
        ("checksums are not looked at", |trace| {
            let mut trusting = trace.clone();
            let mut changed = false;
            for entry in &mut trusting.entries {
                if let Ok(mut envelope) =
                    <roomreel_shared::wire::RtpBatch as prost::Message>::decode(&entry.payload[..])
                    && entry.subject.contains("media")
                    && envelope.body_crc32c != crc32c::crc32c(&envelope.body)
                {
                    envelope.body_crc32c = crc32c::crc32c(&envelope.body);
                    entry.payload = prost::Message::encode_to_vec(&envelope).into();
                    changed = true;
                }
            }
            changed.then_some(trusting)
        }),
        ("every incarnation is the same", |trace| {
            let mut blind = trace.clone();
            let starts = trace.packets.keys().map(|key| (&key.0, key.1)).collect::<std::collections::BTreeSet<_>>();
            let tracks = starts.iter().map(|start| start.0).collect::<std::collections::BTreeSet<_>>();
            for entry in &mut blind.entries {
                if let Ok(mut batch) = roomreel_shared::batch::RtpBatch::decode(entry.payload.clone()) {
                    batch.incarnation = roomreel_shared::batch::Incarnation::new(7).expect("not 0");
                    entry.payload = batch.encode();
                }
            }
            (starts.len() > tracks.len()).then_some(blind)
        }),
        ("the pause is not heard", |trace| {
            let mut deaf = trace.clone();
            let before = deaf.entries.len();
            deaf.entries.retain(|entry| {
                let event = roomreel_shared::event::RoomEvent::decode(entry.payload.clone());
                !event.is_ok_and(|e| matches!(e.kind, roomreel_shared::event::EventKind::RecordingPaused { .. }))
            });
            (deaf.entries.len() < before).then_some(deaf)
        }),
        ("the log is read in its order, whatever the numbers say", |trace| {
            let mut naive = trace.clone();
            let mut next = std::collections::BTreeMap::<_, (u64, u64)>::new();
            let mut changed = false;
            for entry in &mut naive.entries {
                if let Ok(mut batch) = roomreel_shared::batch::RtpBatch::decode(entry.payload.clone()) {
                    let next = next.entry((batch.track.clone(), batch.incarnation)).or_default();
                    changed |= batch.batch_no != next.0;
                    (batch.batch_no, batch.first_packet_no) = *next;
                    *next = (next.0 + 1, batch.next_packet_no());
                    entry.payload = batch.encode();
                }
            }
            changed.then_some(naive)
        }),
    ];
    for (name, believe) in beliefs {
        let mut planted = 0;
        for trace in traces() {
            if let Some(believed) = believe(&trace) {
                planted += 1;
                let found = difference(&trace, &observe(&fold(&believed, &[])));
                assert!(found.is_some(), "{name}, in {}:{}", trace.family, trace.seed);
            }
        }
        eprintln!("{name}: planted and found {planted} times");
        assert!(planted > 0, "{name}: no trace has anything of the kind");
    }
}
