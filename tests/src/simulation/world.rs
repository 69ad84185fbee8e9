//! The world of one run: virtual time, the models, the cast; a safety phase with faults, then a liveness phase without.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use roomreel_coordinator::plan::Limits;
use roomreel_shared::batch::{Incarnation, Packet, PacketData, RtpBatch};
use roomreel_shared::id::{NodeId, RecordingId, RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::ports::{NewEntry, StoreError};
use roomreel_shared::recording::Recording;
use roomreel_shared::subject::{Address, Entry, Shard, Writer};
use roomreel_shared::time::RoomTime;

use super::cast::coordinator::Replica;
use super::cast::ingest::IngestNode;
use super::cast::room::Died;
use super::cast::sfu::Sfu;
use super::faults::{Fault, Plan};
use super::ledger::Ledger;
use super::models::bus::{BusModel, Message};
use super::models::coordination::CoordinationModel;
use super::models::log::{Answer, LogModel};
use super::models::store::StoreModel;
use super::oracles::{self, Counts, Violation};
use super::planted::Bug;
use super::story::Story;

/// Number of shards of the simulated cluster.
pub const SHARDS: u32 = 1;
const STEP: Duration = Duration::from_millis(50);
/// Virtual time after the healing within which the recording is final (O7): the idle limit, the brake of a mass loss and a
/// command that is given again, one after another, and some.
const LIVENESS: Duration = Duration::from_secs(180);
const IDLE: Duration = Duration::from_secs(45);

/// The tenant.
#[must_use]
pub fn tenant() -> TenantId {
    TenantId::new("acme").expect("valid")
}

/// The room.
#[must_use]
pub fn room() -> RoomId {
    RoomId::new("standup").expect("valid")
}

/// The SFU.
#[must_use]
pub fn sfu() -> SfuId {
    SfuId::new("sfu").expect("valid")
}

/// The room's clock at a virtual time: hours away from the log's.
#[must_use]
pub fn room_time(now: Duration) -> RoomTime {
    RoomTime::from_micros(1_600_000_000_000_000) + now
}

/// The beginning of a recording.
#[derive(Debug, Clone, Copy)]
pub struct Began {
    /// When.
    pub at: Duration,
    /// Where its reading begins.
    pub start_sequence: u64,
}

/// Everything but the cast.
pub struct Env {
    /// Virtual time.
    pub now: Duration,
    /// The one source of chance.
    pub rng: StdRng,
    /// What goes wrong now.
    pub plan: Plan,
    /// What went wrong before the healing.
    pub original: Plan,
    /// What is wrong on purpose.
    pub bug: Option<Bug>,
    /// What happened.
    pub story: Story,
    /// What was accepted.
    pub ledger: Ledger,
    /// JetStream.
    pub log: LogModel,
    /// S3.
    pub store: StoreModel,
    /// etcd.
    pub coordination: CoordinationModel,
    /// Core NATS.
    pub bus: BusModel,
    /// When each recording was begun first.
    pub began: BTreeMap<RecordingId, Began>,
    /// Recordings in their final state.
    pub finished: Vec<Recording>,
    /// A window whose watermark was sent before it stood.
    pub premature: Option<u64>,
    /// A batch that a node asked for although the log had shown it.
    pub passed_over: Option<(u64, u64)>,
    /// Newest sequence that any node was delivered.
    pub delivered: u64,
}

impl Env {
    /// Whether a fault strikes at this opportunity.
    pub fn strikes(&mut self, fault: Fault) -> bool {
        self.plan.strikes(fault, &mut self.rng)
    }

    /// The process dies here, perhaps.
    ///
    /// # Errors
    /// [`Died`]
    pub fn die_perhaps(&mut self) -> Result<(), Died> {
        if self.strikes(Fault::NodesCrashBetweenActions) { Err(Died) } else { Ok(()) }
    }

    /// Notes what happened.
    pub fn tell(&mut self, line: String) {
        self.story.tell(self.now, line);
    }

    /// Counts something towards the trace.
    pub fn trace(&mut self, what: &[u8]) {
        self.story.trace(self.now, what);
    }

    /// Appends to the log.
    pub fn append(&mut self, entry: &NewEntry) -> Answer {
        self.log.append(self.now, entry, &self.plan, &mut self.rng)
    }

    /// Sends to the SFU.
    pub fn send(&mut self, message: Message) {
        if let Message::Watermark(watermark) = &message {
            let recording = RecordingId::new(watermark.recording_id.as_str()).expect("ours");
            let key = RecordingKeys::new(&tenant(), &room(), &recording).window(watermark.window);
            if !self.store.objects().contains_key(key.as_str()) {
                self.premature.get_or_insert(watermark.window);
            }
        }
        self.bus.send(self.now, message, &self.plan, &mut self.rng);
    }

    /// Creates an object.
    ///
    /// # Errors
    /// As the store's.
    pub fn create(&mut self, key: &str, body: &Bytes) -> Result<(), StoreError> {
        if self.bug == Some(Bug::NoConditionalHeader) {
            self.store.put(key, body);
            return Ok(());
        }
        self.store.create(self.now, key, body, &self.plan, &mut self.rng)
    }

    /// Reads an object.
    ///
    /// # Errors
    /// As the store's.
    pub fn get(&mut self, key: &str) -> Result<Bytes, StoreError> {
        self.store.get(self.now, key, &self.plan, &mut self.rng)
    }

    /// Lists keys.
    ///
    /// # Errors
    /// As the store's.
    pub fn list(&mut self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.store.list(self.now, prefix, &self.plan, &mut self.rng)
    }

    fn step(&mut self) {
        let lines = [
            self.log.step(self.now, &self.plan, &mut self.rng),
            self.store.step(self.now, &self.plan, &mut self.rng),
            self.coordination.step(self.now, &self.plan, &mut self.rng),
        ];
        for line in lines.into_iter().flatten() {
            self.tell(line);
        }
        if self.strikes(Fault::LogHoldsForeignEntries) {
            let (subject, payload) = foreign(&mut self.rng);
            self.log.store(self.now, subject, payload);
        }
    }

    fn heal(&mut self) {
        self.tell("everything heals".to_owned());
        self.plan.faults.clear();
        self.log.heal();
        self.store.heal();
        self.coordination.heal();
    }
}

/// Another room's batch under this room's subject (I4).
fn foreign(rng: &mut StdRng) -> (String, Bytes) {
    let track = TrackId::new("track-0").expect("valid");
    let address = Address {
        shard: Shard::of(&tenant(), &room(), SHARDS),
        tenant: tenant(),
        writer: Writer::Sfu(sfu()),
        room: room(),
        entry: Entry::Media(track.clone()),
    };
    let batch = RtpBatch {
        room: RoomId::new("another").expect("valid"),
        track,
        incarnation: Incarnation::new(rng.random_range(1..u64::MAX)).expect("not 0"),
        batch_no: 0,
        first_packet_no: 0,
        packets: vec![Packet { time: RoomTime::default(), data: PacketData::Rtp(vec![0x80; 20].into()) }],
    };
    (address.subject().as_str().to_owned(), batch.encode())
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// What was broken, if anything.
    pub violation: Option<Violation>,
    /// Hash of everything that happened.
    pub trace: blake3::Hash,
    /// What became of the packets.
    pub counts: Counts,
    /// Virtual time that passed.
    pub took: Duration,
    /// What happened.
    pub story: Story,
}

/// Runs one plan to its end.
#[must_use]
pub fn run(plan: &Plan, bug: Option<Bug>) -> Outcome {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let talks = Duration::from_millis(rng.random_range(6_000..22_000));
    let heals = talks + Duration::from_millis(rng.random_range(0..8_000));
    let is_limited = plan.strikes(Fault::RecordingsAreLimited, &mut rng);
    let max_duration = Duration::from_secs(if is_limited { rng.random_range(3..12) } else { 3600 });
    let limits = Limits {
        shards: SHARDS,
        window: Duration::from_millis(rng.random_range(1_000..3_000)),
        idle: IDLE,
        max_duration,
        ending: Duration::from_secs(3600),
        composites: Vec::new(),
    };
    let mut nodes: Vec<_> =
        ["ingest-a", "ingest-b", "ingest-c"].map(|name| IngestNode::new(NodeId::new(name).expect("valid"))).into();
    let mut replicas: Vec<_> = (0..2).map(Replica::new).collect();
    let mut sfu = Sfu::new(talks);
    let mut env = Env {
        now: Duration::ZERO,
        rng,
        plan: plan.clone(),
        original: plan.clone(),
        bug,
        story: Story::default(),
        ledger: Ledger::default(),
        log: LogModel::default(),
        store: StoreModel::default(),
        coordination: CoordinationModel::default(),
        bus: BusModel::default(),
        began: BTreeMap::new(),
        finished: Vec::new(),
        premature: None,
        passed_over: None,
        delivered: 0,
    };
    let mut healed = false;
    loop {
        if !healed && env.now >= heals {
            healed = true;
            env.heal();
            nodes.iter_mut().for_each(|node| node.heal(env.now));
            replicas.iter_mut().for_each(|replica| replica.heal(env.now));
        }
        env.step();
        sfu.step(&mut env);
        nodes.shuffle(&mut env.rng);
        nodes.iter_mut().for_each(|node| node.step(&mut env));
        replicas.iter_mut().for_each(|replica| replica.step(&mut env, &limits));
        let over = healed && !env.finished.is_empty() && env.coordination.recordings.is_empty();
        if over || env.now >= heals + LIVENESS {
            break;
        }
        env.now += STEP;
    }
    let (violation, counts) = oracles::judge(&env);
    if let Some(violation) = &violation {
        env.tell(format!("{violation}"));
    }
    Outcome { violation, trace: env.story.hash(), counts, took: env.now, story: env.story }
}
