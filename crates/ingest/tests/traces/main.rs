//! Generated adversarial traces, each with the result that is expected of it.
//!
//! A family makes traces of one kind of trouble from a seed. It knows what it put in: what the network lost, what the log
//! lost, what was forbidden; so it says which batches must be stored, in which order, and which gaps must be declared, with
//! numbers, times and reasons. It shares no code with the fold. What the fold made is compared with that, in one go and
//! begun again after windows.
//!
//! A trace that fails prints its family, its seed and the story of the smallest one of that seed that fails;
//! `TRACE=family:seed cargo test -p roomreel-ingest --test traces` runs it alone.

mod account;
mod expect;
mod families;
mod fold;
mod planted;
mod rtp;
mod trace;

use families::FAMILIES;
use trace::Trace;

/// Traces of each family.
const SEEDS: u64 = 18;
/// Packets of a track, about: tried upwards when a trace fails.
const SIZES: [usize; 6] = [12, 25, 50, 100, 160, 240];

/// What is wrong with a trace's result; `None`: nothing.
fn run(trace: &Trace) -> Option<String> {
    let whole = fold::fold(trace, &[]);
    let observed = account::observe(&whole);
    if let Some(difference) = expect::difference(trace, &observed) {
        return Some(difference);
    }
    // The same log makes the same windows wherever the writer crashed (I3).
    let crashes: Vec<u64> = (0..whole.windows.len() as u64).filter(|k| (trace.seed >> (k % 60)) & 1 == k % 2).collect();
    let crashed = fold::fold(trace, &crashes);
    (fold::objects(&crashed) != fold::objects(&whole)).then(|| format!("other windows after crashes at {crashes:?}"))
}

/// Tells of the smallest trace of this family and seed that fails.
fn report(family: &families::Family, seed: u64) -> String {
    for size in SIZES {
        let trace = family.trace(seed, size);
        if let Some(difference) = run(&trace) {
            let story = trace.story.join("\n    ");
            return format!("TRACE={}:{seed} (size {size}): {difference}\n    {story}", family.name);
        }
    }
    format!("TRACE={}:{seed} does not fail at a size of its own", family.name)
}

#[test]
fn every_trace_is_folded_as_expected() {
    let only = std::env::var("TRACE").ok();
    let (mut traces, mut failures, mut stories) = (0, Vec::new(), Vec::new());
    for family in FAMILIES {
        for seed in 0..SEEDS {
            if only.as_ref().is_some_and(|only| *only != format!("{}:{seed}", family.name)) {
                continue;
            }
            traces += 1;
            let size = SIZES[3 + seed as usize % 3];
            if run(&family.trace(seed, size)).is_some() {
                failures.push(format!("{}:{seed}", family.name));
                // The smallest of one seed tells more than all seeds of a family.
                if failures.iter().filter(|failure| failure.starts_with(family.name)).count() == 1 {
                    stories.push(report(family, seed));
                }
            }
        }
    }
    eprintln!("{traces} traces of {} families", FAMILIES.len());
    assert!(failures.is_empty(), "{failures:?} of {traces} traces:\n{}", stories.join("\n"));
    assert!(only.is_some() || traces >= 500);
}

#[test]
fn a_seed_makes_one_trace() {
    for family in FAMILIES {
        let [a, b] = [family.trace(3, 50), family.trace(3, 50)];
        assert_eq!((a.entries, a.expected), (b.entries, b.expected), "{}", family.name);
    }
}
