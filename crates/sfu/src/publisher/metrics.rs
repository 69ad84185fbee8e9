//! The publisher's statistics as metrics: those of all publishers of a process add up, and outlive them.

use opentelemetry::metrics::{Counter, UpDownCounter};

use super::Stats;

/// A counter and the number it follows.
type Followed = (Counter<u64>, fn(&Stats) -> u64);

/// The instruments of one publisher, and what they have been told.
pub(super) struct Metrics {
    counters: [Followed; 11],
    held_bytes: UpDownCounter<i64>,
    told: Stats,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let meter = opentelemetry::global::meter("roomreel");
        let counter = |name: &'static str, unit: &'static str| meter.u64_counter(name).with_unit(unit).build();
        Self {
            counters: [
                (counter("roomreel.sfu.accepted_packets", "{packet}"), |stats| stats.accepted_packets),
                (counter("roomreel.sfu.accepted_bytes", "By"), |stats| stats.accepted_bytes),
                (counter("roomreel.sfu.rejected", "{item}"), |stats| stats.rejected),
                (counter("roomreel.sfu.stored", "{message}"), |stats| stats.stored),
                (counter("roomreel.sfu.retries", "{message}"), |stats| stats.retries),
                (counter("roomreel.sfu.replays", "{message}"), |stats| stats.replays),
                (counter("roomreel.sfu.evicted", "{message}"), |stats| stats.evicted),
                (counter("roomreel.sfu.dropped_packets", "{packet}"), |stats| stats.dropped_packets),
                (counter("roomreel.sfu.spooled", "{message}"), |stats| stats.spooled),
                (counter("roomreel.sfu.not_spooled", "{message}"), |stats| stats.not_spooled),
                (counter("roomreel.sfu.recovered", "{message}"), |stats| stats.recovered),
            ],
            held_bytes: meter.i64_up_down_counter("roomreel.sfu.held_bytes").with_unit("By").build(),
            told: Stats::default(),
        }
    }

    /// Tells what has changed since the last time.
    pub(super) fn tell(&mut self, stats: Stats) {
        for (counter, read) in &self.counters {
            counter.add(read(&stats).saturating_sub(read(&self.told)), &[]);
        }
        self.held_bytes.add(stats.held_bytes.cast_signed() - self.told.held_bytes.cast_signed(), &[]);
        self.told = stats;
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.tell(Stats { held_bytes: 0, ..self.told });
    }
}
