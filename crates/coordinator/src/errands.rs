//! What a leader does with the bucket, beside its loop: a store that hangs delays what needs it, and no other decision.
//!
//! What is under way is not begun again; what came to nothing is planned again, and begun again after a pause that grows. Of a
//! recording one thing is done at a time, so that no document overtakes the final state. Owns what is under way, and how much of
//! each kind at once. Does not own what is done (see [`crate::perform`]) or why (see [`crate::plan`]).

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// How long a room waits for what the bucket has of its recordings once it is looked at, and before while the bucket answers nobody.
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
    take_ups: Arc<TakeUps>,
    documents: Arc<Semaphore>,
}

/// Those who look at what the bucket has, in the order in which they were begun: after a loss of the coordination store they are many.
struct TakeUps {
    turns: Semaphore,
    /// How many the bucket has answered.
    answered: AtomicU64,
}

impl TakeUps {
    fn new(at_once: usize) -> Self {
        Self { turns: Semaphore::new(at_once), answered: AtomicU64::new(0) }
    }

    /// Looks when its turn comes, which is waited for as long as others are answered: whoever gave up would have to wait at the end.
    async fn look<T>(&self, look: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let limit = TAKE_UP_LIMIT;
        let mut turn = pin!(self.turns.acquire());
        let _turn = loop {
            let answered = self.answered.load(Ordering::Relaxed);
            match timeout(limit, &mut turn).await {
                Ok(turn) => break turn,
                Err(_) if self.answered.load(Ordering::Relaxed) > answered => {}
                Err(_) => return Err(Error::Busy { limit }),
            }
        };
        let result = timeout(limit, look).await.unwrap_or(Err(Error::Silent { limit }));
        if result.is_ok() {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

/// Whose turn an errand waits for.
enum Turns {
    /// Its place is kept.
    Kept(Arc<TakeUps>),
    /// It comes soon, or the errand is planned again.
    Soon(Arc<Semaphore>),
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
            take_ups: Arc::new(TakeUps::new(TAKE_UPS)),
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
        let turns = match &errand {
            Errand::Action(action) => match &**action {
                Action::TakeUp(_) => Turns::Kept(Arc::clone(&self.take_ups)),
                Action::Start(_) => Turns::Soon(Arc::clone(&self.starts)),
                _ => Turns::Soon(Arc::clone(&self.ends)),
            },
            Errand::Document { .. } => Turns::Soon(Arc::clone(&self.documents)),
        };
        let performer = performer.clone();
        let work = async move {
            let result = {
                let perform = async {
                    match &errand {
                        Errand::Action(action) => performer.perform(action).await,
                        Errand::Document { active, first } => {
                            performer.document(active, *first).await.map(|()| Effect::None)
                        }
                    }
                };
                match turns {
                    Turns::Kept(take_ups) => take_ups.look(perform).await,
                    Turns::Soon(turns) => match timeout(TURN_LIMIT, turns.acquire()).await {
                        Ok(_turn) => perform.await,
                        Err(_) => Err(Error::Busy { limit: TURN_LIMIT }),
                    },
                }
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
            Action::TakeUp(name) => (RoomKey::new(&name.tenant, &name.room), Task::TakeUp(name.recording.clone())),
            Action::Finish { recording, .. } => writes(recording),
            Action::FinishLate { render, .. } => {
                let (fold, composite) = (&render.fold, &render.render.spec.composite.id);
                let task = Task::RecordLate(fold.recording.clone(), composite.clone());
                (RoomKey::new(&fold.tenant, &fold.room), task)
            }
            _ => return None,
        })
    }
}

fn writes(recording: &Recording) -> Claim {
    (RoomKey::of(recording), Task::Write(recording.id.clone()))
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// What came of each of `count` looks, begun at once, and when.
    async fn looks(count: u64, look: impl AsyncFn(u64) -> Result<u64, Error>) -> Vec<(Result<u64, Error>, Duration)> {
        let (take_ups, begun) = (TakeUps::new(4), Instant::now());
        let looks: FuturesUnordered<_> =
            (0..count).map(async |number| (take_ups.look(look(number)).await, begun.elapsed())).collect();
        looks.collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn hundreds_are_taken_up_in_order_however_long_that_takes() {
        let slow = async |number| {
            sleep(Duration::from_secs(3)).await;
            Ok(number)
        };
        let done = looks(400, slow).await;
        let order: Vec<_> = done.iter().map(|(result, _)| *result.as_ref().expect("answered")).collect();
        assert!(order.iter().enumerate().all(|(place, number)| number.abs_diff(place as u64) < 4), "{order:?}");
        assert_eq!(done.last().map(|(_, at)| *at), Some(Duration::from_secs(300)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_that_answers_nobody_keeps_no_room_waiting() {
        let done = looks(400, async |_| std::future::pending().await).await;
        for (result, at) in done {
            assert!(matches!(result, Err(Error::Busy { .. } | Error::Silent { .. })), "{result:?}");
            assert!(at <= 2 * TAKE_UP_LIMIT, "{at:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_holds_up_no_other_for_long() {
        let one_in_ten_hangs = async |number: u64| match number % 10 {
            0 => std::future::pending().await,
            _ => Ok(number),
        };
        let done = looks(400, one_in_ten_hangs).await;
        assert_eq!(done.iter().filter(|(result, _)| result.is_ok()).count(), 360, "nobody gives up the place");
    }
}
