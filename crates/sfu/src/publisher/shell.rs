//! Performs what the core decides: appends, waits, reports.
//!
//! Owns the clock and the appends in flight. Does not decide anything about messages.

use std::future::pending;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use opentelemetry::KeyValue;
use opentelemetry::global::BoxedSpan;
use opentelemetry::trace::{Span as _, SpanKind, Tracer as _};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use roomreel_shared::ports::{NewEntry, RoomLog};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PublisherConfig;
use super::core::Core;
use super::metrics::Metrics;
use super::spool::{self, Done, Files, Job, SpoolConfig};

/// The core with what wakes its users. The lock is held for a few microseconds and never across an await.
pub(super) struct Shared {
    core: Mutex<Core>,
    started: Instant,
    work: Notify,
    progress: Notify,
    /// Jobs for the spool's thread.
    spool: Option<SyncSender<Job>>,
}

impl Shared {
    pub(super) fn new(config: &PublisherConfig) -> Self {
        let (tenant, sfu) = (config.tenant.clone(), config.sfu.clone());
        let core = Core::new(config.limits.clone(), tenant, sfu, config.shards, StdRng::from_os_rng());
        let (work, progress) = (Notify::new(), Notify::new());
        Self { core: Mutex::new(core), started: Instant::now(), work, progress, spool: None }
    }

    /// With a spool, whose thread ends with it.
    pub(super) fn spooled(config: &PublisherConfig, spool: &SpoolConfig) -> Result<Arc<Self>, spool::Error> {
        let (files, recovered) = Files::open(spool, &config.tenant, &config.sfu)?;
        let mut result = Ok(());
        let shared = Arc::new_cyclic(|weak: &Weak<Self>| {
            let weak = weak.clone();
            let done = move |done| {
                if let Some(shared) = weak.upgrade() {
                    shared.with(|core, _| match done {
                        Done::Written(key, place) => core.on_spooled(key, place),
                        Done::NotWritten(key) => core.on_not_spooled(key),
                        Done::Read(key, payload) => core.on_read(key, payload),
                    });
                    shared.wake();
                }
            };
            let mut shared = Self::new(config);
            match spool::start(files, done) {
                Ok(jobs) => shared.spool = Some(jobs),
                Err(source) => result = Err(spool::Error::Io { path: spool.dir.clone(), source }),
            }
            shared.with(|core, _| {
                core.use_spool();
                core.recover(recovered);
            });
            shared
        });
        result.map(|()| shared)
    }

    /// Gives the spool's thread what the core has for it.
    fn spool(&self) {
        let Some(jobs) = &self.spool else { return };
        self.with(|core, _| {
            while let Some(job) = core.next_job() {
                let refused = match jobs.try_send(job) {
                    Ok(()) => continue,
                    Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
                };
                if !core.put_back(refused) {
                    break;
                }
            }
        });
    }

    /// Runs `action` on the core at this time.
    pub(super) fn with<T>(&self, action: impl FnOnce(&mut Core, Duration) -> T) -> T {
        let now = self.started.elapsed();
        action(&mut self.core.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    /// There may be something to send.
    pub(super) fn wake(&self) {
        self.work.notify_one();
    }

    /// Waits until the core is as asked; looks again whenever the log answered.
    pub(super) async fn wait_until(&self, condition: impl Fn(&Core) -> bool) {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            if self.with(|core, _| condition(core)) {
                return;
            }
            progress.await;
        }
    }
}

/// Sends until `stop`. One task polls all appends, so that they start in the order of the queue.
pub(super) async fn send(shared: Arc<Shared>, log: Arc<dyn RoomLog>, stop: CancellationToken) {
    let mut appends = FuturesUnordered::new();
    let mut is_failing = false;
    let mut metrics = Metrics::new();
    loop {
        let (next, due, stats) = shared.with(|core, now| {
            core.on_time(now);
            let next: Vec<_> = std::iter::from_fn(|| core.poll(now)).collect();
            (next, core.next_due(), core.stats())
        });
        shared.spool();
        metrics.tell(stats);
        for mut send in next {
            let log = log.clone();
            appends.push(async move {
                let span = traced(&mut send.entry);
                let outcome = log.append(send.entry).await;
                drop(span); // ends it
                (send.key, outcome)
            });
        }
        let due = async {
            match due {
                Some(due) => tokio::time::sleep_until(shared.started + due).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return shared.spool(),
            Some((key, outcome)) = appends.next(), if !appends.is_empty() => match outcome {
                Ok(appended) => {
                    shared.with(|core, now| core.on_appended(now, key, appended));
                    if std::mem::take(&mut is_failing) {
                        tracing::info!("the log takes entries again");
                    }
                }
                Err(error) => {
                    shared.with(|core, now| core.on_failed(now, key));
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "the log does not take entries; they are kept and sent again");
                    }
                }
            },
            () = shared.work.notified() => {}
            () = due => {}
        }
        shared.progress.notify_waiters();
    }
}

/// The span in which a sampled message is published; the message then carries it as its parent. Where nobody collects
/// traces, the ids that the message has stay.
fn traced(entry: &mut NewEntry) -> Option<BoxedSpan> {
    if !entry.trace_parent.as_ref()?.ends_with("-01") {
        return None;
    }
    let tracer = opentelemetry::global::tracer("roomreel");
    let attributes = [
        KeyValue::new("messaging.destination.name", entry.subject.to_string()),
        KeyValue::new("messaging.message.id", entry.message_id.clone()),
    ];
    let builder = tracer.span_builder("publish").with_kind(SpanKind::Producer).with_attributes(attributes);
    let span = builder.start_with_context(&tracer, &opentelemetry::Context::new());
    let context = span.span_context();
    if context.is_valid() && context.is_sampled() {
        entry.trace_parent = Some(format!("00-{}-{}-01", context.trace_id(), context.span_id()));
    }
    Some(span)
}
