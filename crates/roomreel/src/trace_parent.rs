//! Spans that name a W3C `traceparent` become children of that remote span.
//!
//! What carries a trace from process to process here is a text in a log entry, so the shells hand it to tracing as a span's
//! field `traceparent` and need not know OpenTelemetry. Two layers stand around the OpenTelemetry layer: the one before it
//! attaches the remote span as the context in which a span with such a field is made, the one after it detaches it.

use std::cell::Cell;
use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::{Context, ContextGuard};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::layer;

/// The field's name, and that of the header (W3C Trace Context).
const TRACE_PARENT: &str = "traceparent";

thread_local! {
    /// Set only while a span is being made, on the thread that makes it.
    static ATTACHED: Cell<Option<ContextGuard>> = const { Cell::new(None) };
}

/// Stands before the OpenTelemetry layer.
#[derive(Debug)]
pub struct Attach;

/// Stands after the OpenTelemetry layer.
#[derive(Debug)]
pub struct Detach;

impl<S: Subscriber> Layer<S> for Attach {
    fn on_new_span(&self, attributes: &Attributes<'_>, _id: &Id, _context: layer::Context<'_, S>) {
        let mut found = TraceParent::default();
        attributes.record(&mut found);
        if let Some(parent) = found.0 {
            let carrier = HashMap::from([(TRACE_PARENT.to_owned(), parent)]);
            let remote = TraceContextPropagator::new().extract_with_context(&Context::current(), &carrier);
            ATTACHED.set(Some(remote.attach()));
        }
    }
}

impl<S: Subscriber> Layer<S> for Detach {
    fn on_new_span(&self, _attributes: &Attributes<'_>, _id: &Id, _context: layer::Context<'_, S>) {
        drop(ATTACHED.take());
    }
}

#[derive(Default)]
struct TraceParent(Option<String>);

impl Visit for TraceParent {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == TRACE_PARENT {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn std::fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn a_named_parent_is_the_parent_and_nobody_elses() {
        let provider = SdkTracerProvider::builder().build();
        let otel = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(Attach).with(otel).with(Detach);
        tracing::subscriber::with_default(subscriber, || {
            let trace_of = |span: &tracing::Span| span.context().span().span_context().trace_id().to_string();
            let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            let outer = tracing::info_span!("outer").entered();
            let named = tracing::info_span!("commit", traceparent = Some(parent));
            assert_eq!(trace_of(&named), "0af7651916cd43dd8448eb211c80319c");
            let child = named.in_scope(|| tracing::info_span!("child"));
            assert_eq!(trace_of(&child), "0af7651916cd43dd8448eb211c80319c");
            let none = tracing::info_span!("commit", traceparent = None::<&str>);
            assert_eq!(trace_of(&none), trace_of(&outer));
            let malformed = tracing::info_span!("commit", traceparent = "no such thing");
            assert_eq!(trace_of(&malformed), trace_of(&outer));
        });
    }
}
