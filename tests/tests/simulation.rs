//! Deterministic simulation of the whole path: seeds under faults, planted bugs, and one's own seeds by environment.
//!
//! `SEEDS=n` runs n seeds, `SEED=k` begins with, or without `SEEDS` runs only, seed k; see `make simulate`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use roomreel_tests::simulation::explain;
use roomreel_tests::simulation::faults::Plan;
use roomreel_tests::simulation::oracles::Counts;
use roomreel_tests::simulation::planted::Bug;
use roomreel_tests::simulation::world::run;

/// Seeds of the gate, each run twice.
const GATE: u64 = 500;
/// A planted bug that is not found within so many seeds says that an oracle is blind.
const PLANTED: u64 = 1000;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().expect("a number"))
}

/// Runs seeds; panics with the story of the first that fails, after having tried all.
fn simulate(seeds: std::ops::Range<u64>, twice: bool) {
    let began = Instant::now();
    let mut counts = Counts::default();
    let mut virtual_seconds = 0.0;
    let mut failed = Vec::new();
    for seed in seeds.clone() {
        let plan = Plan::of(seed);
        let outcome = run(&plan, None);
        counts.add(outcome.counts);
        virtual_seconds += outcome.took.as_secs_f64();
        if twice {
            assert_eq!(outcome.trace, run(&plan, None).trace, "seed {seed} is not deterministic");
        }
        failed.extend(outcome.violation.map(|violation| (plan, violation)));
    }
    let took = began.elapsed().as_secs_f64();
    let Counts { accepted, recorded, declared, unknown, elsewhere, beyond, broker_lost, windows, excused } = counts;
    let mut summary = String::new();
    let runs = seeds.clone().count() * if twice { 2 } else { 1 };
    write!(
        summary,
        "simulation: seeds {}..{} failed {} | {:.1} seeds/s, {:.0} virtual seconds/s\n\
         packets accepted {accepted} recorded {recorded} declared {declared} lost with their process {unknown} in another recording {elsewhere} behind its end {beyond} | \
         windows {windows} | the log acknowledged and lost {broker_lost} entries\n",
        seeds.start,
        seeds.end,
        failed.len(),
        runs as f64 / took,
        virtual_seconds * if twice { 2.0 } else { 1.0 } / took
    )
    .expect("text takes everything");
    for (why, count) in &excused {
        writeln!(summary, "missing {count:>8}  {why}").expect("text takes everything");
    }
    for (plan, violation) in &failed {
        writeln!(summary, "seed {}: {violation}", plan.seed).expect("text takes everything");
    }
    // Past the capture of the test harness: whoever simulates wants the figures of success, too.
    let _ = std::io::stderr().write_all(summary.as_bytes());
    if let Some((plan, violation)) = failed.first() {
        panic!("{}", explain(plan, None, violation));
    }
}

#[test]
fn seeds() {
    match (setting("SEEDS"), setting("SEED")) {
        (None, None) => simulate(0..GATE, true),
        (None, Some(seed)) => simulate(seed..seed + 1, true),
        (Some(count), first) => simulate(first.unwrap_or(0)..first.unwrap_or(0) + count, false),
    }
}

#[test]
fn every_planted_bug_is_found() {
    if setting("SEEDS").or(setting("SEED")).is_some() {
        return;
    }
    let mut found = Vec::new();
    let mut blind = Vec::new();
    for bug in Bug::ALL {
        // A seed that fails by itself proves nothing about the bug.
        let by = (0..PLANTED).find_map(|seed| {
            let plan = Plan::of(seed);
            let violation = run(&plan, Some(bug)).violation?;
            run(&plan, None).violation.is_none().then_some((seed, violation))
        });
        match by {
            Some((seed, violation)) => found.push(format!("{bug:?} by seed {seed}: {violation}")),
            None => blind.push(bug),
        }
    }
    let _ = std::io::stderr().write_all((found.join("\n") + "\n").as_bytes());
    assert!(blind.is_empty(), "not found within {PLANTED} seeds: {blind:?}");
}
