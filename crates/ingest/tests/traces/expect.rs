//! What is recorded against what is expected.

use std::collections::BTreeSet;
use std::fmt::Debug;

use crate::account::Observed;
use crate::trace::{Account, Expected, Trace};

/// The first difference, in words; `None`: there is none.
pub(crate) fn difference(trace: &Trace, observed: &Observed) -> Option<String> {
    let (expected, recorded) = (&trace.expected, &observed.recorded);
    if !observed.is_finished {
        return Some("the recording does not end".to_owned());
    }
    if let Some(finding) = observed.findings.first() {
        return Some(format!("its windows are not sound: {finding}"));
    }
    same("beginning and end", &recorded.span, &expected.span)
        .or_else(|| same("skipped entries", &recorded.damaged, &expected.damaged))
        .or_else(|| asked(recorded, expected))
        .or_else(|| packets(trace, observed))
        .or_else(|| {
            let names: BTreeSet<&String> = recorded.tracks.keys().chain(expected.tracks.keys()).collect();
            names.into_iter().find_map(|name| {
                let nothing = Account::default();
                let recorded = recorded.tracks.get(name).unwrap_or(&nothing);
                let expected = expected.tracks.get(name).unwrap_or(&nothing);
                account(recorded, expected).map(|difference| format!("track {name}: {difference}"))
            })
        })
}

fn asked(recorded: &Expected, expected: &Expected) -> Option<String> {
    let starts: BTreeSet<_> = recorded.asked.keys().chain(expected.asked.keys()).collect();
    starts.into_iter().find_map(|start| {
        let nothing = BTreeSet::new();
        let of = |sets: &'_ std::collections::BTreeMap<_, BTreeSet<u64>>| sets.get(start).unwrap_or(&nothing).clone();
        let (asked, must, may) = (of(&recorded.asked), of(&expected.asked), of(&expected.askable));
        let is_right =
            must.is_subset(&asked) && asked.iter().all(|number| must.contains(number) || may.contains(number));
        (!is_right).then(|| format!("batches {asked:?} of {start:?} are asked for again, expected {must:?}"))
    })
}

fn same<T: PartialEq + Debug>(what: &str, recorded: &T, expected: &T) -> Option<String> {
    (recorded != expected).then(|| format!("{what}: {recorded:?}, expected {expected:?}"))
}

fn account(recorded: &Account, expected: &Account) -> Option<String> {
    same("stored batches", &recorded.stored, &expected.stored)
        .or_else(|| same("late batches", &recorded.late, &expected.late))
        .or_else(|| same("missing", &recorded.missing, &expected.missing))
        .or_else(|| same("lost by the network", &recorded.lost, &expected.lost))
        .or_else(|| same("newest packets", &recorded.newest, &expected.newest))
        .or_else(|| same("key frames", &recorded.keyframes, &expected.keyframes))
        .or_else(|| same("packets that are no RTP", &recorded.invalid, &expected.invalid))
        .or_else(|| same("sender reports", &recorded.reports, &expected.reports))
        .or_else(|| {
            let known = expected.lost_spans.iter();
            known.map(|(of, span)| (of, recorded.lost_spans.get(of), Some(span))).find_map(
                |(of, recorded, expected)| same(&format!("times around the loss of {of:?}"), &recorded, &expected),
            )
        })
}

/// Every packet that is stored is one that was published, as it was published.
fn packets(trace: &Trace, observed: &Observed) -> Option<String> {
    let mut seen = BTreeSet::new();
    observed.packets.iter().find_map(|(track, incarnation, number, at, bytes)| {
        let key = (track.clone(), *incarnation, *number);
        let Some(published) = trace.packets.get(&key) else {
            return Some(format!("packet {key:?} is stored and was never published"));
        };
        if !seen.insert(key.clone()) {
            return Some(format!("packet {key:?} is stored twice"));
        }
        same(&format!("packet {key:?}"), &(*at, bytes), &(published.at, published.data.bytes()))
    })
}
