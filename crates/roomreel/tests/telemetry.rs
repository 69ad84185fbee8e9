//! What a collector gets from real processes: one trace from publish to slice, the metrics of every role, and no harm without it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A demo of a few seconds takes much less, on any machine that can run it.
const DEMO_LIMIT: Duration = Duration::from_secs(90);

/// Kind and unit of a metric.
type Instrument = (String, String);

/// Keeps what it is sent.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<BTreeMap<String, Instrument>>>,
}

#[async_trait::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.spans.lock().expect("nobody panicked").extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[async_trait::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let scopes = request.into_inner().resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        let metrics = scopes.flat_map(|scope| scope.metrics).map(|metric| {
            let kind = match metric.data {
                Some(Data::Sum(sum)) if sum.is_monotonic => "counter",
                Some(Data::Sum(_)) => "up-down counter",
                Some(Data::Gauge(_)) => "gauge",
                Some(Data::Histogram(_)) => "histogram",
                _ => "another kind",
            };
            (metric.name, (kind.to_owned(), metric.unit))
        });
        self.metrics.lock().expect("nobody panicked").extend(metrics);
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Collector {
    /// Listens on a free port; its URL.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .add_service(MetricsServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        format!("http://{address}")
    }
}

/// Records a small room.
async fn demo(endpoint: &str) -> Output {
    let out = tempfile::tempdir().expect("a temporary folder");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_roomreel"));
    command
        .args(["demo", "--participants", "1", "--seconds", "5", "--window", "1s", "--width", "320", "--height", "180"])
        .arg("--out")
        .arg(out.path())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(DEMO_LIMIT, command.output()).await.expect("within the limit");
    let output = output.expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn attributes(span: &Span) -> BTreeSet<&str> {
    span.attributes.iter().map(|attribute| attribute.key.as_str()).collect()
}

/// The metrics that docs/metrics.md lists.
fn documented() -> BTreeMap<String, Instrument> {
    let document = include_str!("../../../docs/metrics.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `roomreel."));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        assert_eq!(cells.len(), 7, "{row}");
        (format!("roomreel.{}", cells[0]), (cells[1].to_owned(), cells[2].to_owned()))
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_is_in_the_trace_of_what_was_published() {
    let collector = Collector::default();
    let endpoint = collector.serve().await;
    let output = demo(&endpoint).await;
    assert!(output.stderr.is_empty(), "nothing to warn of: {}", String::from_utf8_lossy(&output.stderr));

    let spans = collector.spans.lock().expect("nobody panicked").clone();
    let named = |name: &'static str| spans.iter().filter(move |span| span.name == name);
    let child_of = |parent: &Span, name| {
        let (trace, parent) = (parent.trace_id.clone(), parent.span_id.clone());
        named(name).find(move |span| span.trace_id == trace && span.parent_span_id == parent)
    };
    let chains = named("publish").filter_map(|publish| {
        let commit = child_of(publish, "commit window")?;
        let render = child_of(publish, "render slice")?;
        let put = child_of(render, "put slice")?;
        assert!(publish.parent_span_id.is_empty(), "the publisher's span is the root");
        assert!(attributes(publish).contains("messaging.message.id"));
        assert!(attributes(commit).is_superset(&["key", "window"].into()));
        assert!(attributes(render).is_superset(&["recording", "composite", "slice", "window"].into()));
        assert!(publish.start_time_unix_nano < commit.start_time_unix_nano);
        assert!(commit.start_time_unix_nano < render.start_time_unix_nano);
        assert!(render.start_time_unix_nano < put.start_time_unix_nano);
        Some(())
    });
    let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
    assert!(chains.count() > 0, "no trace goes from publish to slice: {names:?}");
    let slices = named("put slice").count();
    assert_eq!(slices, named("render slice").count(), "one span for each slice: {names:?}");
    assert!(slices >= 5, "{names:?}");

    assert!(named("write").count() > 0, "the coordinator's are there too: {names:?}");

    let metrics = collector.metrics.lock().expect("nobody panicked").clone();
    for name in [
        "roomreel.sfu.accepted_packets",
        "roomreel.sfu.held_bytes",
        "roomreel.ingest.packets",
        "roomreel.ingest.commit_latency",
        "roomreel.compositor.slices",
        "roomreel.compositor.slice_lag",
        "roomreel.coordinator.leading",
        "roomreel.coordinator.reconcile",
    ] {
        assert!(metrics.contains_key(name), "{name} is not among {metrics:?}");
    }
    let documented = documented();
    for (name, instrument) in &metrics {
        assert_eq!(documented.get(name), Some(instrument), "{name} as docs/metrics.md has it");
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_a_warning_for_each_signal() {
    // Nobody listens on the port of a listener that is gone.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let output = demo(&format!("http://{address}")).await;
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    for signal in ["traces", "metrics"] {
        let warnings = lines.iter().filter(|line| line.contains("WARN") && line.contains(&format!("\"{signal}\"")));
        assert_eq!(warnings.count(), 1, "{said}");
    }
}

#[test]
fn the_document_lists_the_metrics_of_the_code() {
    let mut files = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..")];
    let mut names = BTreeSet::new();
    while let Some(path) = files.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("the source can be listed");
            let entries = entries.map(|entry| entry.expect("it can be read").path());
            files.extend(entries.filter(|path| !path.ends_with("tests") && !path.ends_with("examples")));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("source is text");
            let literals = text.split('"').filter(|literal| {
                literal.strip_prefix("roomreel.").is_some_and(|rest| {
                    rest.matches('.').count() == 1 && rest.bytes().all(|b| b.is_ascii_lowercase() || b"._".contains(&b))
                })
            });
            names.extend(literals.map(str::to_owned));
        }
    }
    assert_eq!(names, documented().into_keys().collect());
}
