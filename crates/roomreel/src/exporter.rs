//! Exporters that say once when the collector is away, and once when it is back.
//!
//! Owns the count of exports that failed. What could not be exported is dropped: telemetry never holds up a recording.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// An exporter that is watched.
#[derive(Debug)]
pub struct Watched<E> {
    exporter: E,
    /// What it exports: `traces` or `metrics`.
    signal: &'static str,
    is_failing: AtomicBool,
}

impl<E> Watched<E> {
    /// Watches `exporter`, which exports `signal`.
    pub fn new(exporter: E, signal: &'static str) -> Self {
        Self { exporter, signal, is_failing: AtomicBool::new(false) }
    }

    fn note(&self, outcome: OTelSdkResult) -> OTelSdkResult {
        let was_failing = self.is_failing.swap(outcome.is_err(), Ordering::Relaxed);
        match &outcome {
            Ok(()) if was_failing => tracing::info!(signal = self.signal, "the collector takes telemetry again"),
            Ok(()) => {}
            Err(error) => {
                let meter = opentelemetry::global::meter("roomreel");
                let failures = meter.u64_counter("roomreel.telemetry.failed_exports").with_unit("{export}").build();
                failures.add(1, &[KeyValue::new("signal", self.signal)]);
                if !was_failing {
                    tracing::warn!(
                        signal = self.signal,
                        %error,
                        "telemetry is not taken and is dropped until it is; is the collector at otlp_endpoint there?"
                    );
                }
            }
        }
        outcome
    }
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.note(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Watched<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.note(self.exporter.export(metrics).await)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
