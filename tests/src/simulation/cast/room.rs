//! One room at an ingest node: the fold, the commit's decision table, the watermarks; a step for every action.

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng as _;
use roomreel_ingest::FoldConfig;
use roomreel_ingest::commit::{Step, after_create, after_read_back, backoff};
use roomreel_ingest::fold::{Fold, FoldOutput};
use roomreel_ingest::room::{Identity, SealedWindow};
use roomreel_ingest::watermark::watermarks;
use roomreel_shared::batch::{PacketData, RtpBatch};
use roomreel_shared::cluster::{FoldSpec, Progress};
use roomreel_shared::id::NodeId;
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::ports::{LogEntry, StoreError};
use roomreel_shared::window::{Hash, Header, Window};

use crate::simulation::faults::Fault;
use crate::simulation::models::bus::Message;
use crate::simulation::models::log::Delivery;
use crate::simulation::planted::{Bug, falsify};
use crate::simulation::world::{self, Env};

/// The process died between two actions.
pub struct Died;

/// A commit under way.
struct Commit {
    window: Box<SealedWindow>,
    step: Step,
    at: Duration,
    failures: u32,
}

struct Folding {
    fold: Fold,
    position: u64,
    generation: u64,
    inbox: VecDeque<LogEntry>,
    /// Sequence of the newest entry that was folded.
    fed: u64,
    rewound: Option<u64>,
    outputs: VecDeque<FoldOutput>,
    committing: Option<Commit>,
    sealed: VecDeque<Box<SealedWindow>>,
    begun: bool,
}

enum State {
    Loading { at: Duration, failures: u32 },
    Folding(Box<Folding>),
    Ended,
}

/// See the module.
pub struct Room {
    spec: FoldSpec,
    keys: RecordingKeys,
    epoch: u64,
    state: State,
    committed: Option<(Header, Hash)>,
    finished: bool,
    beat_at: Duration,
}

impl Room {
    /// Assigned under `epoch`.
    #[must_use]
    pub fn new(spec: FoldSpec, epoch: u64, now: Duration) -> Self {
        Self {
            keys: RecordingKeys::new(&spec.tenant, &spec.room, &spec.recording),
            spec,
            epoch,
            state: State::Loading { at: now, failures: 0 },
            committed: None,
            finished: false,
            beat_at: now,
        }
    }

    /// Under which it was assigned.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// One step.
    ///
    /// # Errors
    /// [`Died`]
    pub fn step(&mut self, node: &NodeId, env: &mut Env) -> Result<(), Died> {
        if let State::Loading { at, failures } = self.state
            && at <= env.now
            && let Err(reason) = self.load(env)
        {
            env.trace(reason.as_bytes());
            self.state = State::Loading { at: env.now + backoff(failures + 1), failures: failures + 1 };
        }
        self.perform(env)?;
        self.read(env);
        self.feed(env)?;
        self.commit(env)?;
        if env.now >= self.beat_at {
            self.beat_at = env.now + Duration::from_secs(1);
            self.beat(node, env);
        }
        Ok(())
    }

    /// Takes over from the end of the chain.
    fn load(&mut self, env: &mut Env) -> Result<(), String> {
        let keys = env.list(&self.keys.windows_prefix()).map_err(|error| error.to_string())?;
        let last = keys.last().map(|key| env.get(key)).transpose().map_err(|error| error.to_string())?;
        let last = last.map(Window::parse).transpose().map_err(|error| error.to_string())?;
        let identity = Identity { epoch: self.epoch, nonce: env.rng.random() };
        let config = FoldConfig::default();
        let fold = match last {
            None => Fold::new(self.spec.clone(), identity, config),
            Some(mut last) => {
                if last.header.epoch > self.epoch && env.bug != Some(Bug::NoEpochCheck) {
                    env.tell(format!("epoch {} finds epoch {} and stops", self.epoch, last.header.epoch));
                    self.state = State::Ended;
                    return Ok(());
                }
                if env.bug == Some(Bug::NoDeduplication) {
                    forget_numbers(&mut last.header);
                }
                let fold =
                    Fold::resume(self.spec.clone(), identity, config, &last).map_err(|error| error.to_string())?;
                let hash = last.hash();
                self.committed = Some((last.header, hash));
                fold
            }
        };
        if fold.room().is_finished() {
            self.finished = true;
            self.state = State::Ended;
            return Ok(());
        }
        let position = match env.bug {
            Some(Bug::ResumeFromDelivered) if self.committed.is_some() => env.delivered + 1,
            _ => fold.room().position(),
        };
        env.tell(format!("epoch {} folds from {position}", self.epoch));
        self.state = State::Folding(Box::new(Folding {
            fold,
            position,
            // Opening a reader looks at the stream's end, as after a break.
            generation: u64::MAX,
            inbox: VecDeque::new(),
            fed: 0,
            rewound: None,
            outputs: VecDeque::new(),
            committing: None,
            sealed: VecDeque::new(),
            begun: false,
        }));
        Ok(())
    }

    fn read(&mut self, env: &mut Env) {
        let State::Folding(folding) = &mut self.state else { return };
        if folding.inbox.len() > 64 {
            return;
        }
        match env.log.read(env.now, &mut folding.generation, folding.position, 48) {
            Delivery::Away => {}
            Delivery::Broken(last) => {
                if last + 1 < folding.position {
                    folding.position = if self.spec.start_sequence <= last { self.spec.start_sequence } else { 1 };
                    folding.rewound = Some(last);
                    env.tell(format!("epoch {} reads the log again from {}", self.epoch, folding.position));
                }
            }
            Delivery::Entries(entries) => {
                for entry in entries {
                    folding.position = entry.sequence + 1;
                    env.delivered = env.delivered.max(entry.sequence);
                    let entry = damage(env, entry);
                    let again = env.strikes(Fault::LogDeliversTwice).then(|| entry.clone());
                    folding.inbox.push_back(entry);
                    folding.inbox.extend(again);
                }
            }
        }
    }

    fn feed(&mut self, env: &mut Env) -> Result<(), Died> {
        loop {
            let State::Folding(folding) = &mut self.state else { return Ok(()) };
            if !folding.sealed.is_empty() {
                return Ok(());
            }
            let Some(entry) = folding.inbox.pop_front() else { return Ok(()) };
            if let Some(end) = folding.rewound.take() {
                folding.fold.on_rewound(end);
            }
            folding.fed = entry.sequence;
            folding.outputs.extend(folding.fold.on_entry(entry));
            self.perform(env)?;
        }
    }

    /// Performs what the fold has decided, one action after another; the process may die before any of them.
    fn perform(&mut self, env: &mut Env) -> Result<(), Died> {
        loop {
            let State::Folding(folding) = &mut self.state else { return Ok(()) };
            let Some(output) = folding.outputs.pop_front() else { return Ok(()) };
            env.die_perhaps()?;
            match output {
                FoldOutput::Commit(window) => {
                    if env.bug == Some(Bug::WatermarkBeforeCommit) {
                        tell_watermarks(env, &window.header);
                    }
                    if folding.committing.is_some() {
                        if env.bug == Some(Bug::OneSealedWindow) {
                            folding.sealed.clear();
                        }
                        folding.sealed.push_back(window);
                    } else {
                        self.begin_commit(env, window);
                    }
                }
                FoldOutput::RequestReplay(request) => {
                    env.trace(format!("{request:?}").as_bytes());
                    let mut asked =
                        request.ranges.iter().flat_map(|range| range.first..=range.last.min(range.first + 999));
                    let of = request.incarnation.get();
                    // Of a room that is recorded twice, the second recording does not read what came before it.
                    let read = self.spec.start_sequence..folding.fed;
                    let is_media = request.track.is_some();
                    let shown = asked.find(|number| is_media && env.log.has_shown((of, *number), read.clone()));
                    env.passed_over = env.passed_over.or(shown.map(|number| (of, number)));
                    if env.bug != Some(Bug::NoReplayRequest) {
                        env.send(Message::Replay(request));
                    }
                }
                FoldOutput::Damaged(damaged) => env.trace(damaged.why.kind().as_bytes()),
                FoldOutput::RequestKeyframe(_) | FoldOutput::Finished => {}
            }
        }
    }

    fn begin_commit(&mut self, env: &Env, mut window: Box<SealedWindow>) {
        let State::Folding(folding) = &mut self.state else { return };
        let previous = self.committed.as_ref().map(|(_, hash)| *hash);
        match env.bug {
            Some(Bug::NoHashLink) if !folding.begun && previous.is_some() => {
                falsify(&mut window, |header| header.previous = Some(Hash::of(b"")), false, false);
            }
            Some(bug @ (Bug::GapNotDeclared | Bug::LateBatchTwice | Bug::OrderLost)) => {
                let change = |header: &mut Header| {
                    header.previous = previous;
                    if bug == Bug::GapNotDeclared {
                        header.gaps.clear();
                    }
                };
                falsify(&mut window, change, bug == Bug::LateBatchTwice, bug == Bug::OrderLost);
            }
            _ => {}
        }
        folding.begun = true;
        folding.committing = Some(Commit { window, step: Step::Create, at: env.now, failures: 0 });
    }

    /// Does what the decision table says, as far as pauses allow.
    fn commit(&mut self, env: &mut Env) -> Result<(), Died> {
        loop {
            let State::Folding(folding) = &mut self.state else { return Ok(()) };
            let Some(mut commit) = folding.committing.take_if(|commit| commit.at <= env.now) else { return Ok(()) };
            env.die_perhaps()?;
            let key = self.keys.window(commit.window.header.window).as_str().to_owned();
            // An answer takes its time.
            commit.at = env.now + Duration::from_millis(env.rng.random_range(1..=40));
            commit.step = match commit.step {
                Step::Create => {
                    let answer = env.create(&key, &commit.window.object.joined());
                    commit.failures += u32::from(answer.is_err());
                    mistaken_create(env, &answer, &mut commit).unwrap_or_else(|| after_create(&answer))
                }
                Step::ReadBack => {
                    let answer = env.get(&key);
                    after_read_back(answer, commit.window.hash, commit.window.header.epoch)
                }
                Step::CreateLater => {
                    commit.at = env.now + backoff(commit.failures);
                    Step::Create
                }
                Step::ReadBackLater => {
                    commit.failures += 1;
                    commit.at = env.now + backoff(commit.failures);
                    Step::ReadBack
                }
                Step::Done => {
                    self.on_committed(env, commit.window);
                    continue;
                }
                Step::Adopt(_) if env.bug == Some(Bug::AdoptWithoutReading) => {
                    let next = folding.sealed.pop_front();
                    if let Some(next) = next {
                        self.begin_commit(env, next);
                    }
                    continue;
                }
                Step::Adopt(_) => {
                    env.tell(format!("epoch {} adopts window {}", self.epoch, commit.window.header.window));
                    self.state = State::Loading { at: env.now, failures: 0 };
                    continue;
                }
                Step::Fenced { held, current } => {
                    match env.bug {
                        Some(Bug::NoEpochCheck) => {
                            self.state = State::Loading { at: env.now, failures: 0 };
                            continue;
                        }
                        Some(Bug::ZombieOverwrites) => env.store.put(&key, &commit.window.object.joined()),
                        _ => {}
                    }
                    env.tell(format!("epoch {held} is fenced by {current}"));
                    self.state = State::Ended;
                    continue;
                }
            };
            folding.committing = Some(commit);
        }
    }

    fn on_committed(&mut self, env: &mut Env, window: Box<SealedWindow>) {
        let State::Folding(folding) = &mut self.state else { return };
        env.tell(format!(
            "epoch {} commits window {} up to {} with {} packets, {} late batches, {} gaps{}",
            self.epoch,
            window.header.window,
            window.header.carry_over.log_sequence,
            window.counts.packets,
            window.counts.late_batches,
            window.header.gaps.len(),
            window.header.end.map(|end| format!(", the last: {:?}", end.reason)).unwrap_or_default()
        ));
        tell_watermarks(env, &window.header);
        let is_last = window.header.end.is_some();
        let next = folding.sealed.pop_front();
        self.committed = Some((window.header, window.hash));
        if is_last {
            self.finished = true;
            self.state = State::Ended;
        } else if let Some(next) = next {
            self.begin_commit(env, next);
        }
    }

    fn beat(&self, node: &NodeId, env: &mut Env) {
        if let Some((header, _)) = &self.committed {
            tell_watermarks(env, header);
        }
        env.send(Message::RecordingState(self.spec.recording.clone(), !self.finished));
        let (log_time, sfu_log_time) = match &self.state {
            State::Folding(folding) => folding.fold.room().log_times(),
            _ => Default::default(),
        };
        if matches!(self.state, State::Loading { .. }) || matches!(self.state, State::Ended) && !self.finished {
            return;
        }
        let header = self.committed.as_ref().map(|(header, _)| header);
        let end = header.map(|header| header.end.map_or(header.room_seen, |end| end.room_end));
        let progress = Progress {
            node: node.clone(),
            windows: header.map_or(0, |header| header.window + 1),
            finished: self.finished,
            log_time_us: log_time.as_micros(),
            sfu_log_time_us: sfu_log_time.as_micros(),
            paused: false,
            bytes_per_second: 0,
            incomplete: header.is_some_and(Header::is_incomplete),
            duration_us: match (header, end) {
                (Some(header), Some(end)) => end.micros_since(header.room_start).max(0).unsigned_abs(),
                _ => 0,
            },
        };
        env.coordination.report(env.now, &self.spec.recording, self.epoch, progress);
    }
}

fn tell_watermarks(env: &mut Env, header: &Header) {
    for (_, watermark) in watermarks(&header.recording, header.window, &header.carry_over) {
        env.send(Message::Watermark(watermark));
    }
}

/// What a planted bug makes of an answer.
fn mistaken_create(env: &Env, answer: &Result<(), StoreError>, commit: &mut Commit) -> Option<Step> {
    match (env.bug?, answer) {
        (Bug::NoAnswerIsSuccess, Err(StoreError::Unavailable { .. })) => Some(Step::Done),
        // Nothing is read back: what was created without an answer is created again, and met.
        (Bug::OwnWindowNotRecognized, Err(StoreError::Unavailable { .. })) => Some(Step::CreateLater),
        (Bug::OwnWindowNotRecognized, Err(StoreError::AlreadyExists { .. })) => {
            let next = |header: &mut Header| {
                header.window += 1;
                header.previous.get_or_insert(Hash::of(b""));
            };
            falsify(&mut commit.window, next, false, false);
            Some(Step::Create)
        }
        _ => None,
    }
}

fn forget_numbers(header: &mut Header) {
    let carry = &mut header.carry_over;
    (carry.log_sequence, carry.seen_sequence) = (0, 0);
    for state in carry.tracks.iter_mut().flat_map(|track| &mut track.incarnations) {
        (state.next_batch_no, state.next_packet_no) = (0, 0);
        state.declared_missing.clear();
    }
}

/// Bits that flip on the way, and what a fold without checks would make of hostile entries.
fn damage(env: &mut Env, mut entry: LogEntry) -> LogEntry {
    let Ok(mut batch) = RtpBatch::decode(entry.payload.clone()) else { return entry };
    if batch.room != world::room() {
        if env.bug == Some(Bug::ForeignRoom) {
            batch.room = world::room();
            entry.payload = batch.encode();
        }
        return entry;
    }
    if env.strikes(Fault::LogCorrupts) {
        env.log.on_damaged(env.now, (batch.incarnation.get(), batch.batch_no), entry.sequence);
        let mut bytes = batch.packets[0].data.bytes().to_vec();
        let at = bytes.len() - 1;
        bytes[at] ^= 1;
        batch.packets[0].data = PacketData::Rtp(bytes.into());
        let corrupted = batch.encode();
        entry.payload = if env.bug == Some(Bug::NoChecksum) {
            corrupted
        } else {
            // The bytes of the one under the checksum of the other.
            let mut bytes = entry.payload.to_vec();
            let at = bytes.len() - 1;
            bytes[at] ^= 1;
            bytes.into()
        };
    }
    entry
}
