//! A node's share of a late render: its spans, and what is said of them in the coordination store.

use std::ops::Range;
use std::sync::Arc;

use opentelemetry::KeyValue;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::id::CompositeId;
use roomreel_shared::late::LateJob;
use roomreel_shared::ports::Ports;

use super::{Spans, Step};
use crate::actor::RenderArguments;
use crate::claim::Claim;
use crate::render_job::{Error, Meters, Next};
use crate::workers::Workers;

/// Spans that are made for the cluster.
pub(crate) struct SpanJob {
    ports: Ports,
    claim: Claim,
    composite: CompositeId,
    spans: Spans,
    workers: Arc<Workers>,
    meters: Meters,
}

impl SpanJob {
    /// The spans `todo` of `late`.
    pub(crate) fn new(given: RenderArguments, spec: CompositeSpec, late: LateJob, todo: Range<u64>) -> Self {
        let RenderArguments { ports, node, job, revision, workers, isolation } = given;
        Self {
            claim: Claim::new(node, &job, revision),
            composite: spec.id.clone(),
            spans: Spans::new(ports.store.clone(), spec, job.spec, late, todo).isolated(isolation),
            ports,
            workers,
            meters: Meters::new(),
        }
    }

    pub(crate) fn set_revision(&mut self, revision: u64) {
        self.claim.set_revision(revision);
    }

    pub(crate) fn composite_id(&self) -> &CompositeId {
        &self.composite
    }

    /// Does one thing.
    pub(crate) async fn step(&mut self) -> Result<Next, Error> {
        let done = self.try_step().await;
        if let Err(error) = &done
            && !matches!(error, Error::Superseded)
        {
            self.meters.failures.add(1, &[KeyValue::new("permanent", error.is_permanent())]);
        }
        done
    }

    async fn try_step(&mut self) -> Result<Next, Error> {
        // The coordinator gives a node no more of these than it has cores; they take turns with what is live all the same.
        let core = self.workers.turn().await;
        let step = self.spans.step().await;
        drop(core);
        match step? {
            Step::More => Ok(Next::Step),
            Step::Made(length, spent) => {
                self.workers.took(spent);
                self.meters.slices.add(1, &[]);
                self.meters.render_time.record(spent.as_secs_f64() / length.as_secs_f64().max(0.001), &[]);
                self.report(false, None).await?;
                Ok(Next::Step)
            }
            Step::Finished => {
                self.report(true, None).await?;
                Ok(Next::Finished)
            }
        }
    }

    pub(crate) async fn report(&mut self, finished: bool, error: Option<String>) -> Result<(), Error> {
        let slices = self.spans.made();
        Ok(self.claim.report(&*self.ports.coordination, slices, finished, error, Vec::new()).await?)
    }
}
