//! The coordinator's instruments.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram};

/// Instruments of one process; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// 1 while this replica leads.
    pub leading: Gauge<u64>,
    /// Recordings that are not final, by state.
    pub recordings: Gauge<u64>,
    /// Nodes whose lease holds, by role.
    pub nodes: Gauge<u64>,
    /// Rooms that are known.
    pub rooms: Gauge<u64>,
    /// Time of one list, plan and perform.
    pub reconcile: Histogram<f64>,
    /// Difference between the most and the least used ingest node, as a share of their capacity.
    pub imbalance: Gauge<f64>,
    /// Folds and renders that were taken from one node and given to another, by cause.
    pub reassignments: Counter<u64>,
    /// Log entries, records and requests that were refused, by kind.
    pub refusals: Counter<u64>,
    /// Writes that met another one, by action.
    pub conflicts: Counter<u64>,
    /// What could not be done and is done again, by action and kind.
    pub failures: Counter<u64>,
    /// Control entries under way.
    pub control_pending: Gauge<u64>,
    /// Notices to participants that an SFU did not take.
    pub notices_failed: Counter<u64>,
    /// Answers of the API, by route and status.
    pub answers: Counter<u64>,
}

impl Metrics {
    /// Makes them on the global meter.
    #[must_use]
    pub fn new() -> Self {
        let meter = opentelemetry::global::meter("roomreel");
        Self {
            leading: meter.u64_gauge("roomreel.coordinator.leading").with_unit("1").build(),
            recordings: meter.u64_gauge("roomreel.coordinator.recordings").with_unit("{recording}").build(),
            nodes: meter.u64_gauge("roomreel.coordinator.nodes").with_unit("{node}").build(),
            rooms: meter.u64_gauge("roomreel.coordinator.rooms").with_unit("{room}").build(),
            reconcile: meter
                .f64_histogram("roomreel.coordinator.reconcile")
                .with_unit("s")
                .with_boundaries(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5])
                .build(),
            imbalance: meter.f64_gauge("roomreel.coordinator.imbalance").with_unit("1").build(),
            reassignments: meter.u64_counter("roomreel.coordinator.reassignments").with_unit("{move}").build(),
            refusals: meter.u64_counter("roomreel.coordinator.refusals").with_unit("{refusal}").build(),
            conflicts: meter.u64_counter("roomreel.coordinator.conflicts").with_unit("{write}").build(),
            failures: meter.u64_counter("roomreel.coordinator.failures").with_unit("{failure}").build(),
            control_pending: meter.u64_gauge("roomreel.coordinator.control_pending").with_unit("{entry}").build(),
            notices_failed: meter.u64_counter("roomreel.coordinator.notices_failed").with_unit("{notice}").build(),
            answers: meter.u64_counter("roomreel.coordinator.answers").with_unit("{answer}").build(),
        }
    }

    /// Counts a refusal.
    pub fn refused(&self, kind: &'static str) {
        self.refusals.add(1, &[KeyValue::new("kind", kind)]);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
