//! What a leader does with the bucket, beside its loop: a store that hangs delays what needs it, and no other decision.
//!
//! What is under way is not begun again; what came to nothing is planned again, and begun again after a pause that grows. Of a recording one thing is done at a time, so that
//! no document overtakes the final state. Owns what is under way, and how much of each kind at once. Does not own what is done
//! (see [`crate::perform`]) or why (see [`crate::plan`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use roomreel_shared::cluster::ActiveRecording;
use roomreel_shared::id::{CompositeId, RecordingId};
use roomreel_shared::recording::Recording;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::failures::Pauses;
use crate::perform::{Effect, Error, Performer};
use crate::plan::Action;
use crate::rooms::RoomKey;

/// How long a room waits for what the bucket has of its recordings, a turn included.
const TAKE_UP_LIMIT: Duration = Duration::from_secs(5);

/// How long a turn is waited for. What was decided is soon not true any more: it is planned again from what is.
const TURN_LIMIT: Duration = Duration::from_secs(1);

/// How many of each kind are performed at once; the others wait for their turn, and for none of another kind.
const STARTS: usize = 64;
const ENDS: usize = 64;
const TAKE_UPS: usize = 16;
const DOCUMENTS: usize = 16;

/// Something that needs the bucket.
#[derive(Debug)]
pub enum Errand {
    /// What was planned; see [`Action::needs_bucket`].
    Action(Box<Action>),
    /// To bring the documents of a recording that is not final up to date.
    Document {
        /// The recording.
        active: Box<ActiveRecording>,
        /// By this leader for the first time.
        first: bool,
    },
}

/// What came of an errand.
pub struct Done {
    /// Which.
    pub errand: Errand,
    /// What.
    pub result: Result<Effect, Error>,
    claim: Claim,
}

/// What is under way.
pub struct Errands {
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    claims: BTreeSet<Claim>,
    pauses: Pauses<Claim>,
    origin: Instant,
    starts: Arc<Semaphore>,
    ends: Arc<Semaphore>,
    take_ups: Arc<Semaphore>,
    documents: Arc<Semaphore>,
}

/// What nobody else does meanwhile.
type Claim = (RoomKey, Task);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Start,
    TakeUp(RecordingId),
    /// Of its documents, or of its final state.
    Write(RecordingId),
    RecordLate(RecordingId, CompositeId),
}

impl Errands {
    /// Nothing is under way.
    #[must_use]
    pub fn new() -> Self {
        let turns = |count| Arc::new(Semaphore::new(count));
        Self {
            under_way: FuturesUnordered::new(),
            claims: BTreeSet::new(),
            pauses: Pauses::new(),
            origin: Instant::now(),
            starts: turns(STARTS),
            ends: turns(ENDS),
            take_ups: turns(TAKE_UPS),
            documents: turns(DOCUMENTS),
        }
    }

    /// Begins an errand unless it, or what it has to wait for, is under way, or it failed lately.
    pub fn begin(&mut self, errand: Errand, performer: &Performer) {
        let Some(claim) = errand.claim() else { return };
        let is_paused = self.pauses.has(&claim, self.origin.elapsed());
        if is_paused || self.claims.contains(&claim) || self.has_to_wait(&errand) {
            return;
        }
        self.claims.insert(claim.clone());
        let (turns, limit) = match &errand {
            Errand::Action(action) if matches!(**action, Action::TakeUp(_)) => (&self.take_ups, Some(TAKE_UP_LIMIT)),
            Errand::Action(action) if matches!(**action, Action::Start(_)) => (&self.starts, None),
            Errand::Action(_) => (&self.ends, None),
            Errand::Document { .. } => (&self.documents, None),
        };
        let (turns, performer) = (Arc::clone(turns), performer.clone());
        let work = async move {
            let perform = async {
                let Ok(_turn) = timeout(TURN_LIMIT, turns.acquire()).await else {
                    return Err(Error::Busy { limit: TURN_LIMIT });
                };
                match &errand {
                    Errand::Action(action) => performer.perform(action).await,
                    Errand::Document { active, first } => {
                        performer.document(active, *first).await.map(|()| Effect::None)
                    }
                }
            };
            let result = match limit {
                Some(limit) => timeout(limit, perform).await.unwrap_or(Err(Error::Silent { limit })),
                None => perform.await,
            };
            Done { errand, result, claim }
        };
        self.under_way.push(work.boxed());
    }

    /// A room in which something may have begun already is started by nobody else.
    fn has_to_wait(&self, errand: &Errand) -> bool {
        let Errand::Action(action) = errand else { return false };
        let Action::Start(active) = &**action else { return false };
        let room = RoomKey::of(&active.recording);
        let of_room = self.claims.range((room.clone(), Task::Start)..).take_while(|(of, _)| *of == room);
        of_room.map(|(_, task)| task).any(|task| match task {
            Task::Start | Task::TakeUp(_) => true,
            Task::Write(id) => *id == active.recording.id,
            Task::RecordLate(..) => false,
        })
    }

    /// The next one that is done; `None` if none is under way.
    pub async fn next(&mut self) -> Option<Done> {
        let done = self.under_way.next().await?;
        self.claims.remove(&done.claim);
        match &done.result {
            Ok(_) => self.pauses.on_done(&done.claim),
            Err(error) => self.pauses.on_failure(done.claim.clone(), error, self.origin.elapsed()),
        }
        Some(done)
    }
}

impl Errand {
    fn claim(&self) -> Option<Claim> {
        let action = match self {
            Self::Document { active, .. } => return Some(writes(&active.recording)),
            Self::Action(action) => action,
        };
        Some(match &**action {
            Action::Start(active) => (RoomKey::of(&active.recording), Task::Start),
            Action::TakeUp(name) => {
                let room = RoomKey { tenant: name.tenant.clone(), room: name.room.clone() };
                (room, Task::TakeUp(name.recording.clone()))
            }
            Action::Finish { recording, .. } => writes(recording),
            Action::FinishLate { render, .. } => {
                let (fold, composite) = (&render.fold, &render.render.spec.composite.id);
                let room = RoomKey { tenant: fold.tenant.clone(), room: fold.room.clone() };
                (room, Task::RecordLate(fold.recording.clone(), composite.clone()))
            }
            _ => return None,
        })
    }
}

fn writes(recording: &Recording) -> Claim {
    (RoomKey::of(recording), Task::Write(recording.id.clone()))
}
