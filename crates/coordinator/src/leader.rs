//! One leadership: reads the rooms, lists what is alive, plans, performs, over and over.
//!
//! Level-triggered: every round lists everything and compares; watches and log entries only bring the next round forward. So a
//! watch that stalls, an event that is lost or an action that fails costs time and nothing else.
//!
//! Owns the loop and its clock. Does not own the lease (see [`crate::node`]) or any decision (see [`crate::plan`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use opentelemetry::KeyValue;
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use roomreel_shared::cluster::{self, ActiveRecording, Role};
use roomreel_shared::id::{RecordingId, SfuId};
use roomreel_shared::late::{LateRender, LateState};
use roomreel_shared::ports::{Coordination, LogEntry, NewEntry, Ports, RoomLog};
use roomreel_shared::recording::{Recording, State};
use roomreel_shared::subject::Shard;
use roomreel_shared::time::RoomTime;
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::CoordinatorConfig;
use crate::control::{At, Control};
use crate::election::Tenure;
use crate::errands::{Done, Errand, Errands};
use crate::failures::Causes;
use crate::metrics::Metrics;
use crate::notices;
use crate::observed::{Observed, Revisions};
use crate::perform::{Effect, Error, Performer};
use crate::plan::{self, Action, Cause, Limits, Memory, Now, World};
use crate::reader::{Read, read_shard};
use crate::rooms::{Refused, RoomKey, Rooms};

/// Longest time between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Shortest time between two rounds.
const ROUND_GAP: Duration = Duration::from_millis(50);
/// Writes under way at once.
const CONCURRENCY: usize = 16;
/// Log entries taken at once.
const READ_AHEAD: usize = 1024;
/// Messages to SFUs under way at once; beyond it they are not sent, and counted.
const MAX_NOTICES: usize = 256;
/// Refused events that are told one by one within this time.
const TOLD_REFUSED: u32 = 16;
const TELL_REFUSED: Duration = Duration::from_secs(10);
/// How long a leader that leaves waits for what is under way.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// A leadership and how long it can be relied upon.
#[derive(Clone)]
pub struct Reign {
    /// Create revision of the leader's key.
    pub fence: u64,
    /// Of the lease the key is bound to.
    pub tenure: watch::Receiver<Tenure>,
    /// What the tenure's times count from.
    pub origin: Instant,
    /// Cancelled when it is over.
    pub over: CancellationToken,
}

impl Reign {
    /// Whether the leader may act now.
    #[must_use]
    pub fn may_act(&self) -> bool {
        !self.over.is_cancelled() && self.tenure.borrow().holds(self.origin.elapsed())
    }

    /// Ends when the tenure does, renewals of meanwhile included.
    pub async fn ended(&self) {
        while self.tenure.borrow().holds(self.origin.elapsed()) {
            let until = self.tenure.borrow().until();
            sleep_until(self.origin + until).await;
        }
    }
}

/// What a leader knows and does.
pub struct Leader {
    ports: Ports,
    limits: Limits,
    shards: u32,
    reign: Reign,
    metrics: Metrics,
    began: Instant,
    rooms: Rooms,
    /// Shards whose past has not been read yet.
    behind: BTreeSet<Shard>,
    memory: Memory,
    control: Control,
    appending: Option<JoinHandle<()>>,
    errands: Errands,
    /// Documents as they stand in the bucket.
    documented: BTreeMap<RecordingId, Recording>,
    notices: JoinSet<()>,
    unreadable: BTreeSet<String>,
    /// Since when, and how many events of the log were refused.
    refused: (Instant, u32),
    causes: Causes,
    is_cut_off: bool,
}

impl Drop for Leader {
    fn drop(&mut self) {
        if let Some(appending) = &self.appending {
            appending.abort();
        }
    }
}

impl Leader {
    /// A new leadership.
    #[must_use]
    pub fn new(ports: Ports, config: CoordinatorConfig, reign: Reign, metrics: Metrics) -> Self {
        let limits = config.limits();
        Self {
            ports,
            shards: config.shards,
            reign,
            metrics,
            began: Instant::now(),
            rooms: Rooms::new(config.shards, config.default_policy, config.idle_limit),
            behind: Shard::all(config.shards).collect(),
            memory: Memory::default(),
            control: Control::new(StdRng::from_os_rng().next_u64(), config.shards, config.window),
            limits,
            appending: None,
            errands: Errands::new(),
            documented: BTreeMap::new(),
            notices: JoinSet::new(),
            unreadable: BTreeSet::new(),
            refused: (Instant::now(), 0),
            causes: Causes::default(),
            is_cut_off: false,
        }
    }

    /// Leads until the leadership is over.
    pub async fn run(mut self) {
        let mut tasks = JoinSet::new();
        let (to, mut reads) = mpsc::channel(READ_AHEAD);
        for shard in Shard::all(self.shards) {
            tasks.spawn(read_shard(self.ports.log.clone(), shard, to.clone()));
        }
        drop(to);
        let wake = Arc::new(Notify::new());
        for prefix in [
            cluster::nodes_prefix(Role::Ingest),
            cluster::nodes_prefix(Role::Compositor),
            cluster::progress_prefix(),
            cluster::render_progress_prefix(),
            cluster::late_renders_prefix(),
            cluster::requests_prefix(),
        ] {
            tasks.spawn(wake_on_change(self.ports.coordination.clone(), prefix, wake.clone()));
        }
        let over = self.reign.over.clone();
        let round = ROUND.min(self.limits.window / 4).max(ROUND_GAP);
        let mut next = Instant::now();
        let mut earliest = next;
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = over.cancelled() => return self.leave().await,
                Some(done) = self.errands.next() => {
                    if self.on_done(done) {
                        next = next.min(earliest);
                    }
                }
                () = wake.notified() => next = next.min(earliest),
                count = reads.recv_many(&mut batch, READ_AHEAD) => {
                    if count == 0 {
                        return;
                    }
                    self.take(&mut batch);
                    next = next.min(earliest);
                }
                () = sleep_until(next) => {
                    let changed = self.round().await;
                    earliest = Instant::now() + ROUND_GAP;
                    next = if changed { earliest } else { Instant::now() + round };
                }
            }
        }
    }

    /// What is under way is waited for a little; what is not done is done by whoever leads next.
    async fn leave(mut self) {
        let rest = async {
            while let Some(done) = self.errands.next().await {
                self.on_done(done);
            }
        };
        let _ = timeout(LEAVE_LIMIT, rest).await;
    }

    fn take(&mut self, batch: &mut Vec<Read>) {
        for read in batch.drain(..) {
            match read {
                Read::CaughtUp(shard) => {
                    self.behind.remove(&shard);
                }
                Read::Rewound(shard) => {
                    self.behind.insert(shard);
                }
                Read::Entry(entry) => match self.rooms.apply(&entry) {
                    Ok(Some(echo)) => self.control.on_echo(&echo),
                    Ok(None) => {}
                    Err(why) => self.on_refused(&entry, &why),
                },
            }
        }
    }

    /// Counts a refused entry, and tells of it unless many were told of lately: who floods the log does not flood the logs.
    fn on_refused(&mut self, LogEntry { sequence, subject, .. }: &LogEntry, why: &Refused) {
        self.metrics.refused(why.kind());
        if !self.behind.is_empty() {
            // Of the past, which the leader of then has told.
            tracing::debug!(subject, sequence, %why, "an event of the log was refused");
            return;
        }
        let (since, told) = &mut self.refused;
        if since.elapsed() >= TELL_REFUSED {
            (*since, *told) = (Instant::now(), 0);
        }
        *told += 1;
        if *told <= TOLD_REFUSED {
            tracing::warn!(
                subject, sequence, %why,
                "an event of the log was refused and changes nothing; look at what publishes to this subject"
            );
        } else if *told == TOLD_REFUSED + 1 {
            tracing::warn!("more events are refused within seconds; roomreel.coordinator.refusals counts them");
        }
    }

    /// Lists, plans, performs. Answers whether something was changed.
    async fn round(&mut self) -> bool {
        if !self.reign.may_act() {
            return false;
        }
        let begun = Instant::now();
        let mut observed = match Observed::read(&*self.ports.coordination).await {
            Ok(observed) => observed,
            Err(error) => {
                if !std::mem::replace(&mut self.is_cut_off, true) {
                    tracing::warn!(%error, "the coordinator cannot do its work and tries again every second");
                }
                return false;
            }
        };
        self.report(&observed);
        let now = Now { monotonic: self.began.elapsed(), wall: OffsetDateTime::now_utc() };
        let rooms = self.behind.is_empty().then_some(&self.rooms);
        let world = World { now, alive: &observed.alive, rooms };
        let actions = plan::plan(&world, &mut self.memory, &self.limits);
        let performer = self.performer(std::mem::take(&mut observed.revisions));
        let changed = self.perform(&performer, &observed, actions, now).await;
        self.document(&performer, &observed);
        self.append(now);
        self.rooms.forget_closed();
        self.metrics.reconcile.record(begun.elapsed().as_secs_f64(), &[]);
        changed
    }

    /// Performs what needs no bucket, and begins the rest. Answers whether something was changed.
    async fn perform(&mut self, performer: &Performer, observed: &Observed, actions: Vec<Action>, now: Now) -> bool {
        let at = At { monotonic: now.monotonic, wall: wall(now) };
        for action in &actions {
            match action {
                Action::Command { room, command, event } => self.control.command(room, command, event.clone(), at),
                Action::Tick { room } => self.control.tick(room, at),
                _ => {}
            }
        }
        let (mut beside, actions): (Vec<_>, Vec<_>) = actions.into_iter().partition(Action::needs_bucket);
        // A start waits for what its room takes up, and would always do so while the bucket is away.
        beside.sort_by_key(|action| !matches!(action, Action::Start(_)));
        for action in beside {
            self.errands.begin(Errand::Action(Box::new(action)), performer);
        }
        let doing: Vec<BoxFuture<'_, _>> =
            actions.iter().map(|action| async move { (action, performer.perform(action).await) }.boxed()).collect();
        let done: Vec<_> = stream::iter(doing).buffer_unordered(CONCURRENCY).collect().await;
        let mut changed = false;
        for (action, result) in done {
            let before = match action {
                Action::Update(active) => observed.alive.recordings.get(&active.recording.id),
                _ => None,
            };
            changed |= self.performed(action, result, before);
        }
        changed
    }

    /// What came of an action; answers whether something was changed.
    fn performed(&mut self, action: &Action, result: Result<Effect, Error>, before: Option<&ActiveRecording>) -> bool {
        match result {
            Ok(Effect::None) => return false,
            Ok(Effect::Unknown(recording)) => self.memory.on_unknown(recording),
            Ok(effect) => {
                // A start that met the recording's end begins nothing.
                if effect == Effect::Changed || !matches!(action, Action::Start(_)) {
                    self.tell(action, before);
                }
                log(action, &effect);
                if let Effect::Finished(recording) = effect {
                    self.documented.remove(&recording.id);
                    self.memory.on_finished(*recording);
                }
            }
            Err(error) => {
                if let (Action::Finish { recording, .. }, Error::Store(_) | Error::Silent { .. }) = (action, &error) {
                    self.memory.on_bucket_away(&recording.id);
                }
                self.failed(action.name(), &error);
                return false;
            }
        }
        true
    }

    fn performer(&self, revisions: BTreeMap<String, Revisions>) -> Performer {
        Performer {
            ports: self.ports.clone(),
            reign: self.reign.clone(),
            revisions: Arc::new(revisions),
            shards: self.shards,
            metrics: self.metrics.clone(),
        }
    }

    /// Sets out to bring `unfinished.json` of every active recording up to date.
    fn document(&mut self, performer: &Performer, observed: &Observed) {
        let active = &observed.alive.recordings;
        self.documented.retain(|id, _| active.contains_key(id));
        for active in active.values() {
            let documented = self.documented.get(&active.recording.id);
            if documented != Some(&active.recording) {
                let (active, first) = (Box::new(active.clone()), documented.is_none());
                self.errands.begin(Errand::Document { active, first }, performer);
            }
        }
    }

    /// What came of an errand; answers whether something was changed.
    fn on_done(&mut self, Done { errand, result, .. }: Done) -> bool {
        match (errand, result) {
            (Errand::Action(action), result) => self.performed(&action, result, None),
            (Errand::Document { active, .. }, Ok(_)) => {
                self.documented.insert(active.recording.id.clone(), active.recording);
                false
            }
            (Errand::Document { .. }, Err(error)) => {
                self.failed("document", &error);
                false
            }
        }
    }

    /// Appends due control entries beside the loop: a log that hangs delays nothing else. One batch at a time keeps the order.
    fn append(&mut self, now: Now) {
        if self.appending.as_ref().is_some_and(|appending| !appending.is_finished()) {
            return;
        }
        let due = self.control.due(now.monotonic);
        if !due.is_empty() {
            self.appending = Some(tokio::spawn(append_all(self.ports.log.clone(), due)));
        }
    }

    /// Tells the SFUs of the room what a performed action means to them.
    fn tell(&mut self, action: &Action, before: Option<&ActiveRecording>) {
        while self.notices.try_join_next().is_some() {}
        let (recording, state, notice) = match action {
            Action::Start(active) => (&active.recording, Some(true), notices::notice(None, active)),
            Action::Update(active) => {
                (&active.recording, None, before.and_then(|before| notices::notice(Some(before), active)))
            }
            Action::Finish { recording, .. } => (&**recording, Some(false), None),
            _ => return,
        };
        let key = RoomKey::of(recording);
        let Some(room) = self.rooms.get(&key) else { return };
        let sfus: Vec<SfuId> = room.sfus.iter().cloned().collect();
        let notice = notice.filter(|_| room.policy.notify_participants);
        if self.notices.len() >= MAX_NOTICES {
            self.metrics.notices_failed.add(1, &[]);
            return;
        }
        let (bus, id) = (self.ports.bus.clone(), recording.id.clone());
        if let Some(active) = state {
            self.notices.spawn(notices::tell_state(bus.clone(), key.clone(), sfus.clone(), id.clone(), active));
        }
        if let Some(notice) = notice {
            self.notices.spawn(notices::notify(bus, key, sfus, id, notice, self.metrics.clone()));
        }
    }

    fn report(&mut self, observed: &Observed) {
        if std::mem::take(&mut self.is_cut_off) {
            tracing::info!("the coordination store answers again");
        }
        for (key, why) in &observed.unreadable {
            // Each key is named once: the list comes again every second.
            if self.unreadable.len() < MAX_NOTICES && self.unreadable.insert(key.clone()) {
                self.metrics.refused("record");
                tracing::warn!(key, why, "a record cannot be read and is passed over; delete it if it is not ours");
            }
        }
        for role in [Role::Ingest, Role::Compositor] {
            let count = observed.alive.nodes.keys().filter(|(r, _)| *r == role).count();
            self.metrics.nodes.record(count as u64, &[KeyValue::new("role", format!("{role:?}").to_lowercase())]);
        }
        for state in [State::Starting, State::Active, State::Paused, State::Ending] {
            let active = observed.alive.recordings.values();
            let count = active.filter(|active| active.recording.state == state).count();
            self.metrics
                .recordings
                .record(count as u64, &[KeyValue::new("state", format!("{state:?}").to_lowercase())]);
        }
        self.metrics.imbalance.record(self.memory.imbalance(), &[]);
        self.metrics.rooms.record(self.rooms.len() as u64, &[]);
        self.metrics.control_pending.record(self.control.pending() as u64, &[]);
    }

    /// Counts a failure, and tells of it unless its cause was told of lately.
    fn failed(&mut self, action: &'static str, error: &Error) {
        let kind = error.kind();
        self.metrics.failures.add(1, &[KeyValue::new("action", action), KeyValue::new("kind", kind)]);
        let Some(times) = self.causes.on_failure(error, self.began.elapsed()) else { return };
        if let Error::Over = error {
            tracing::info!(action, "a leadership ended in the middle of it; the next leader sees what came of it");
        } else {
            tracing::warn!(
                action, times, %error,
                "the coordinator could not do this and tries again; roomreel.coordinator.failures counts what fails"
            );
        }
    }
}

fn wall(now: Now) -> RoomTime {
    RoomTime::from_micros(i64::try_from(now.wall.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX))
}

/// Appends each room's entries in order; what fails is due again later.
async fn append_all(log: Arc<dyn RoomLog>, due: Vec<Vec<NewEntry>>) {
    let log = &log;
    let in_order = |entries: Vec<NewEntry>| async move {
        for entry in entries {
            let subject = entry.subject.clone();
            if let Err(error) = log.append(entry).await {
                tracing::info!(%subject, %error, "a control entry is appended again later");
                return;
            }
        }
    };
    let rooms: Vec<BoxFuture<'_, ()>> = due.into_iter().map(|entries| in_order(entries).boxed()).collect();
    stream::iter(rooms).buffer_unordered(CONCURRENCY).collect::<Vec<()>>().await;
}

/// Wakes the loop when something below `prefix` may have changed.
async fn wake_on_change(store: Arc<dyn Coordination>, prefix: String, wake: Arc<Notify>) {
    loop {
        if let Ok(mut changes) = store.watch(&prefix).await {
            // What changed before the watch stood is found by this round.
            wake.notify_one();
            while changes.next().await.is_some() {
                wake.notify_one();
            }
        }
        sleep(ROUND).await;
    }
}

/// The story of a recording, in a few lines.
fn log(action: &Action, effect: &Effect) {
    match (action, effect) {
        (_, Effect::Finished(recording)) => {
            let Recording { tenant, room, id, state, reason, .. } = &**recording;
            if *state == State::Failed {
                tracing::warn!(%tenant, %room, recording = %id, reason, "a recording failed; what it has is in the bucket");
            } else {
                tracing::info!(%tenant, %room, recording = %id, ?state, reason, "a recording ended");
            }
        }
        (Action::FinishLate { render, .. }, _) => {
            let LateRender { recording, spec, state, reason, .. } = &render.render;
            let composite = &spec.composite.id;
            if *state == LateState::Failed {
                tracing::warn!(%recording, %composite, reason, "a late render failed; its slices are in the bucket");
            } else {
                tracing::info!(%recording, %composite, "a late render is complete");
            }
        }
        (Action::Start(active), _) => {
            let Recording { tenant, room, id, .. } = &active.recording;
            tracing::info!(%tenant, %room, recording = %id, "a recording starts");
        }
        (Action::Assign { assignment, cause }, _) => {
            let (recording, node, cause) = (&assignment.spec.recording, &assignment.node, cause.map(Cause::name));
            tracing::info!(%recording, %node, cause, "a recording is assigned");
        }
        _ => {}
    }
}
