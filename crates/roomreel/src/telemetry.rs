//! Logs on standard error; traces and metrics over OTLP where an endpoint is given.
//!
//! Owns what is set up once for the process. Does not own any name of a span or metric: those are beside what they measure.
//! A trace's way from process to process is in [`crate::trace_parent`].

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use opentelemetry::global;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use roomreel_backends::secret::without_credentials;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::exporter::Watched;
use crate::trace_parent::{Attach, Detach};

/// The variable of the OpenTelemetry specification, read where ours is not set.
const STANDARD_ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// An exporter that does not answer holds up the end of the process no longer.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Settings of logs, traces and metrics.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logs, traces and metrics")]
pub struct TelemetryArgs {
    /// What is logged: a level, or levels by module as in `info,roomreel_ingest=debug`. [default: info; demo: warn]
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
    /// How log lines look. They go to standard error.
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    log_format: LogFormat,
    /// Where traces and metrics go by OTLP over gRPC, for example http://localhost:4317. OTEL_EXPORTER_OTLP_ENDPOINT works too.
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// Keeps the exporters; [`Telemetry::shut_down`] sends what is left.
#[derive(Debug, Default)]
#[must_use = "what is left is sent on shutdown"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

/// Sets up logs, traces and metrics for this process. Called once, within the runtime.
///
/// # Errors
/// If the filter or the endpoint cannot be used.
pub fn start(args: &TelemetryArgs, role: &'static str, default_level: &str) -> anyhow::Result<Telemetry> {
    // A client's own chatter is not ours; whoever wants it names it.
    let quiet = format!("{default_level},async_nats=warn");
    let level = args.log_level.as_deref().unwrap_or(&quiet);
    let filter = EnvFilter::try_new(level).with_context(|| format!("log_level {level:?} is not a filter"))?;
    let human = match args.log_format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if human {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    } else {
        lines.json().flatten_event(true).with_span_list(false).boxed()
    };
    let telemetry = match endpoint(args) {
        Some(endpoint) => exporters(&endpoint, role)?,
        None => Telemetry::default(),
    };
    global::set_text_map_propagator(TraceContextPropagator::new());
    if let Some(metrics) = &telemetry.metrics {
        global::set_meter_provider(metrics.clone());
    }
    let traces = telemetry.traces.as_ref().map(|traces| {
        global::set_tracer_provider(traces.clone());
        // The exporter's own spans would be exported, and so on.
        let filter = EnvFilter::new("info,h2=off,hyper=off,hyper_util=off,tonic=off,tower=off");
        tracing_opentelemetry::layer().with_tracer(traces.tracer("roomreel")).with_filter(filter)
    });
    tracing_subscriber::registry().with(Attach).with(traces).with(Detach).with(lines.with_filter(filter)).init();
    Ok(telemetry)
}

fn endpoint(args: &TelemetryArgs) -> Option<String> {
    args.otlp_endpoint
        .clone()
        .or_else(|| std::env::var(STANDARD_ENDPOINT_VARIABLE).ok())
        .filter(|endpoint| !endpoint.is_empty())
}

fn exporters(endpoint: &str, role: &'static str) -> anyhow::Result<Telemetry> {
    let named = without_credentials(endpoint);
    if !endpoint.starts_with("http://") {
        bail!("otlp_endpoint {named:?} does not begin with http://; send to a collector beside this process");
    }
    let traces = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_LIMIT)
        .build()
        .with_context(|| format!("otlp_endpoint {named}"))?;
    let metrics = MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_LIMIT)
        .build()
        .with_context(|| format!("otlp_endpoint {named}"))?;
    let resource = Resource::builder()
        .with_service_name(format!("roomreel-{role}"))
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(Telemetry {
        traces: Some(
            SdkTracerProvider::builder()
                .with_batch_exporter(Watched::new(traces, "traces"))
                .with_resource(resource.clone())
                .build(),
        ),
        metrics: Some(
            SdkMeterProvider::builder()
                .with_periodic_exporter(Watched::new(metrics, "metrics"))
                .with_resource(resource)
                .build(),
        ),
    })
}

impl Telemetry {
    /// Sends what is left, within the exporters' limits.
    pub async fn shut_down(self) {
        // The providers block; the exporters they wait for run on this runtime.
        let traces = tokio::task::spawn_blocking(move || {
            self.traces.map_or(Ok(()), |traces| traces.shutdown_with_timeout(EXPORT_LIMIT))
        });
        let metrics = tokio::task::spawn_blocking(move || {
            self.metrics.map_or(Ok(()), |metrics| metrics.shutdown_with_timeout(EXPORT_LIMIT))
        });
        for ended in [traces.await, metrics.await] {
            if let Ok(Err(error)) = ended {
                // The exporter has warned.
                tracing::info!(%error, "the last traces or metrics were not sent");
            }
        }
    }
}
