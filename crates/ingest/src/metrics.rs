//! What ingest measures of itself.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};
use roomreel_shared::verify::reason_name;
use roomreel_shared::window::{Gap, Missing};

use crate::room::DamagedReason;
use crate::track::Counts;

/// The instruments; made once per node.
#[derive(Debug)]
pub(crate) struct Metrics {
    packets: Counter<u64>,
    bytes: Counter<u64>,
    invalid_packets: Counter<u64>,
    duplicate_batches: Counter<u64>,
    late_batches: Counter<u64>,
    lost_events: Counter<u64>,
    gaps: Counter<u64>,
    pub(crate) windows: Counter<u64>,
    pub(crate) commit_latency: Histogram<f64>,
    pub(crate) commit_retries: Counter<u64>,
    damaged: Counter<u64>,
    pub(crate) replay_requests: Counter<u64>,
    pub(crate) track_restarts: Counter<u64>,
    pub(crate) rooms: UpDownCounter<i64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = opentelemetry::global::meter("roomreel");
        let counter = |name: &'static str, unit: &'static str| meter.u64_counter(name).with_unit(unit).build();
        Self {
            packets: counter("roomreel.ingest.packets", "{packet}"),
            bytes: counter("roomreel.ingest.bytes", "By"),
            invalid_packets: counter("roomreel.ingest.invalid_packets", "{packet}"),
            duplicate_batches: counter("roomreel.ingest.duplicate_batches", "{batch}"),
            late_batches: counter("roomreel.ingest.late_batches", "{batch}"),
            lost_events: counter("roomreel.ingest.lost_events", "{event}"),
            gaps: counter("roomreel.ingest.gaps", "{gap}"),
            windows: counter("roomreel.ingest.windows_committed", "{window}"),
            commit_latency: meter
                .f64_histogram("roomreel.ingest.commit_latency")
                .with_unit("s")
                .with_boundaries(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
                .build(),
            commit_retries: counter("roomreel.ingest.commit_retries", "{attempt}"),
            damaged: counter("roomreel.ingest.damaged_entries", "{entry}"),
            replay_requests: counter("roomreel.ingest.replay_requests", "{request}"),
            track_restarts: counter("roomreel.ingest.track_restarts", "{restart}"),
            rooms: meter.i64_up_down_counter("roomreel.ingest.open_rooms").with_unit("{room}").build(),
        }
    }

    /// An entry of the log was skipped.
    pub(crate) fn on_damaged(&self, why: &DamagedReason) {
        self.damaged.add(1, &[KeyValue::new("kind", why.kind())]);
    }

    /// A window of ours was committed.
    pub(crate) fn on_committed(&self, counts: Counts, gaps: &[Gap], latency: std::time::Duration) {
        self.windows.add(1, &[]);
        self.commit_latency.record(latency.as_secs_f64(), &[]);
        self.packets.add(counts.packets, &[]);
        self.bytes.add(counts.bytes, &[]);
        self.invalid_packets.add(counts.invalid_packets, &[]);
        self.duplicate_batches.add(counts.duplicate_batches, &[]);
        self.late_batches.add(counts.late_batches, &[]);
        self.lost_events.add(counts.lost_events, &[]);
        for gap in gaps {
            self.gaps.add(1, &[KeyValue::new("reason", reason(gap))]);
        }
    }
}

fn reason(gap: &Gap) -> &'static str {
    match gap.missing {
        Missing::Network { .. } => "network",
        Missing::Accepted { reason, .. } => reason_name(reason),
    }
}
