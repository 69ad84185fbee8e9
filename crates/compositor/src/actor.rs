//! The actor of one render: makes its steps, waits for windows, and is the one owner of retries.
//!
//! A message is one step, so that stopping the actor waits for no more than that. Nothing is lost with the actor: what it has done stands in
//! the bucket. See [`crate::render_job`] for the steps.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use roomreel_shared::cluster::RenderJob;
use roomreel_shared::id::{CompositeId, NodeId};
use roomreel_shared::late::Piece;
use roomreel_shared::ports::Ports;
use roomreel_shared::subject::committed_filter;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::engine::Isolation;
use crate::late::SpanJob;
use crate::render_job::{Error, Job, Next};
use crate::workers::Workers;

/// How often the next window is looked for when nobody announces it.
const POLL: Duration = Duration::from_secs(1);

/// After so many failures in a row, about a minute, somebody should look.
const WORTH_A_LOOK: u32 = 20;

/// Renders one composite of one recording.
pub struct RenderActor;

/// What a render is started with.
pub struct RenderArguments {
    /// The outside.
    pub ports: Ports,
    /// Who renders.
    pub node: NodeId,
    /// What.
    pub job: RenderJob,
    /// Last change of the job's key.
    pub revision: u64,
    /// The cores of the node, shared by all of its renders.
    pub workers: Arc<Workers>,
    /// How renders have processes of their own; `None`: in this process.
    pub isolation: Option<Arc<Isolation>>,
}

/// What a render is told.
#[derive(Debug, Clone, Copy)]
pub enum RenderMessage {
    /// Make a step.
    Step,
    /// A window may have come.
    Wake,
    /// Look for a window, if still waiting as at this turn.
    Poll(u64),
    /// The job's key was changed and is still ours.
    Revision(u64),
}

/// What a render is made of, step by step.
enum Work {
    /// A recording from its first window to its last, or what slices that exist are joined to.
    Whole(Box<Job>),
    /// Spans of a recording that has ended.
    Spans(Box<SpanJob>),
}

impl Work {
    fn new(given: RenderArguments) -> Self {
        let late = given.job.late.clone().zip(given.job.composite.clone());
        if let Some((late, spec)) = late
            && let Piece::Spans { first, end } = late.piece
        {
            return Self::Spans(Box::new(SpanJob::new(given, spec, late, first..end)));
        }
        let RenderArguments { ports, node, job, revision, workers, isolation } = given;
        Self::Whole(Box::new(Job::new(ports, node, job, revision, workers).isolated(isolation)))
    }

    async fn step(&mut self) -> Result<Next, Error> {
        match self {
            Self::Whole(job) => job.step().await,
            Self::Spans(job) => job.step().await,
        }
    }

    async fn report(&mut self, finished: bool, error: Option<String>) -> Result<(), Error> {
        match self {
            Self::Whole(job) => job.report(finished, error).await,
            Self::Spans(job) => job.report(finished, error).await,
        }
    }

    async fn abandon(&mut self) {
        if let Self::Whole(job) = self {
            job.abandon().await;
        }
    }

    fn set_revision(&mut self, revision: u64) {
        match self {
            Self::Whole(job) => job.set_revision(revision),
            Self::Spans(job) => job.set_revision(revision),
        }
    }

    fn composite_id(&self) -> Option<&CompositeId> {
        match self {
            Self::Whole(job) => job.composite_id(),
            Self::Spans(job) => Some(job.composite_id()),
        }
    }
}

/// A render and its retries.
pub struct RenderState {
    job: Work,
    waiting: bool,
    /// Counts waits, so that an old poll wakes nobody.
    turn: u64,
    failures: u32,
    _listening: DropGuard,
}

/// How long to wait before a step that failed `failures` times in a row is made again.
fn backoff(failures: u32) -> Duration {
    Duration::from_millis(100).saturating_mul(1 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(5))
}

impl Actor for RenderActor {
    type Msg = RenderMessage;
    type State = RenderState;
    type Arguments = RenderArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<RenderMessage>,
        args: RenderArguments,
    ) -> Result<RenderState, ActorProcessingErr> {
        let cancelled = CancellationToken::new();
        tokio::spawn(listen(args.ports.clone(), args.job.clone(), myself.clone(), cancelled.clone()));
        myself.cast(RenderMessage::Step)?;
        Ok(RenderState {
            job: Work::new(args),
            waiting: false,
            turn: 0,
            failures: 0,
            _listening: cancelled.drop_guard(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<RenderMessage>,
        message: RenderMessage,
        state: &mut RenderState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RenderMessage::Step => return step(&myself, state).await,
            RenderMessage::Revision(revision) => state.job.set_revision(revision),
            RenderMessage::Poll(turn) if turn != state.turn => {}
            RenderMessage::Wake | RenderMessage::Poll(_) => {
                if std::mem::take(&mut state.waiting) {
                    myself.cast(RenderMessage::Step)?;
                }
            }
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<RenderMessage>, state: &mut RenderState) -> Result<(), ActorProcessingErr> {
        state.job.abandon().await;
        Ok(())
    }
}

async fn step(myself: &ActorRef<RenderMessage>, state: &mut RenderState) -> Result<(), ActorProcessingErr> {
    let composite = state.job.composite_id().map(ToString::to_string);
    match state.job.step().await {
        Ok(next) => {
            state.failures = 0;
            match next {
                Next::Step => myself.cast(RenderMessage::Step)?,
                Next::Wait => {
                    state.waiting = true;
                    state.turn += 1;
                    let turn = state.turn;
                    myself.send_after(POLL, move || RenderMessage::Poll(turn));
                }
                Next::Finished => myself.stop(Some(FINISHED.to_owned())),
            }
            Ok(())
        }
        Err(Error::Superseded) => {
            tracing::info!(composite, "the render goes on at another node");
            myself.stop(Some(SUPERSEDED.to_owned()));
            Ok(())
        }
        Err(error) if error.is_permanent() => {
            // The coordinator counts failures and decides who tries again; it has to be told.
            if let Err(unreported) = state.job.report(false, Some(error.to_string())).await {
                tracing::info!(error = %unreported, composite, "the failure of a render could not be reported");
            }
            // Nothing is called after an error is returned.
            state.job.abandon().await;
            Err(error.into())
        }
        Err(error) => {
            state.failures = state.failures.saturating_add(1);
            let failures = state.failures;
            if failures == WORTH_A_LOOK {
                tracing::warn!(%error, composite, failures, "a render tries again and again and makes no progress");
            } else {
                tracing::info!(%error, composite, failures, "a render waits to try again");
            }
            myself.send_after(backoff(state.failures), || RenderMessage::Step);
            Ok(())
        }
    }
}

/// Why an actor stopped that has nothing left to do.
pub(crate) const FINISHED: &str = "finished";
/// Why an actor stopped whose job was given to another node.
pub(crate) const SUPERSEDED: &str = "superseded";

/// Wakes the render when a window is announced. Only a hint: the render polls too, so a bus that is gone costs a second.
async fn listen(ports: Ports, job: RenderJob, render: ActorRef<RenderMessage>, cancelled: CancellationToken) {
    let filter = committed_filter(&job.spec.recording);
    let listening = async {
        loop {
            if let Ok(mut messages) = ports.bus.subscribe(&filter).await {
                while messages.next().await.is_some() {
                    if render.cast(RenderMessage::Wake).is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::select! {
        () = cancelled.cancelled() => {}
        () = listening => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_slow_down_and_go_on() {
        let waits: Vec<_> = [1, 2, 4, 7, 100, u32::MAX].map(|failures| backoff(failures).as_millis()).into();
        assert_eq!(waits, [100, 200, 800, 5000, 5000, 5000]);
    }
}
