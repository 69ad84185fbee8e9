//! Deterministic simulation: the product's cores in one thread of one process, in virtual time, among faulty models.
//!
//! What runs is the code that runs in production: the publisher's core, the fold, the commit's decision table, the watermark,
//! the planner with its brake, the rooms and control entries of the coordinator, the leader's tenure. What is modelled are the
//! servers ([`models`]) and, in [`cast`], the thin shells around the cores. Nothing here reads a clock or asks the system for
//! chance: a seed is a run.
//!
//! Does not own: real servers and real shells, which the end-to-end tests have.

pub mod cast;
mod chains;
pub mod faults;
pub mod ledger;
pub mod models;
pub mod oracles;
pub mod planted;
pub mod story;
pub mod world;

use faults::Plan;
use oracles::Violation;
use planted::Bug;
use world::run;

/// A failure as it is told: the plan with every fault left out that it does not need, and its story.
#[must_use]
pub fn explain(plan: &Plan, bug: Option<Bug>, violation: &Violation) -> String {
    let mut least = plan.clone();
    for fault in plan.faults.clone() {
        let without = least.without(fault);
        if run(&without, bug).violation.is_some_and(|found| found.oracle == violation.oracle) {
            least = without;
        }
    }
    let outcome = run(&least, bug);
    let found = outcome.violation.unwrap_or_else(|| violation.clone());
    let faults: String = least.faults.iter().map(|fault| format!("  {fault:?}: {}\n", fault.describe())).collect();
    format!(
        "seed {}: {found}\nfaults it needs:\n{faults}story:\n{}repeat it: make simulate SEED={}\n",
        plan.seed,
        outcome.story.excerpt(&["SFU", "epoch", "room", "replica leads", "loses", "recording"], 20),
        plan.seed
    )
}
