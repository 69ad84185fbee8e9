//! Faults as data: what may go wrong, how often, and which of it goes wrong under a seed.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Something that may go wrong while the safety phase lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is described in `describe`")]
pub enum Fault {
    LogLosesSuffix,
    LogDiverges,
    LogDeliversTwice,
    LogSwallowsRetries,
    LogReorders,
    LogIsFull,
    LogLosesAnswers,
    LogIsAway,
    LogCorrupts,
    LogHoldsForeignEntries,
    LogClockJumps,
    StoreLosesAnswers,
    StoreLosesRequests,
    StoreConflicts,
    StoreIsBusy,
    StoreHangs,
    StoreReadsTorn,
    StoreIsAway,
    AllLeasesExpire,
    LeasesRevive,
    WatchesAreStale,
    CoordinationIsAway,
    BusLoses,
    BusDuplicates,
    BusDelays,
    SfuCrashes,
    SfuLeavesForGood,
    NodesCrash,
    NodesCrashBetweenActions,
    NodesPause,
    LeadersPause,
    LeadersCrash,
    BufferIsSmall,
    TracksFallSilent,
    RecordingsAreLimited,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 35] = [
        Self::LogLosesSuffix,
        Self::LogDiverges,
        Self::LogDeliversTwice,
        Self::LogSwallowsRetries,
        Self::LogReorders,
        Self::LogIsFull,
        Self::LogLosesAnswers,
        Self::LogIsAway,
        Self::LogCorrupts,
        Self::LogHoldsForeignEntries,
        Self::LogClockJumps,
        Self::StoreLosesAnswers,
        Self::StoreLosesRequests,
        Self::StoreConflicts,
        Self::StoreIsBusy,
        Self::StoreHangs,
        Self::StoreReadsTorn,
        Self::StoreIsAway,
        Self::AllLeasesExpire,
        Self::LeasesRevive,
        Self::WatchesAreStale,
        Self::CoordinationIsAway,
        Self::BusLoses,
        Self::BusDuplicates,
        Self::BusDelays,
        Self::SfuCrashes,
        Self::SfuLeavesForGood,
        Self::NodesCrash,
        Self::NodesCrashBetweenActions,
        Self::NodesPause,
        Self::LeadersPause,
        Self::LeadersCrash,
        Self::BufferIsSmall,
        Self::TracksFallSilent,
        Self::RecordingsAreLimited,
    ];

    /// What it does, in words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::LogLosesSuffix => "the log loses the newest entries, which it had acknowledged",
            Self::LogDiverges => "a replica lacks acknowledged entries and becomes the one that is read",
            Self::LogDeliversTwice => "the log delivers entries twice",
            Self::LogSwallowsRetries => "the log acknowledges a retry as a duplicate of what it never stored",
            Self::LogReorders => "appends overtake each other",
            Self::LogIsFull => "the log refuses entries because it is full",
            Self::LogLosesAnswers => "the log stores an entry and its answer is lost, or loses the request",
            Self::LogIsAway => "the log cannot be reached",
            Self::LogCorrupts => "the log delivers flipped bits",
            Self::LogHoldsForeignEntries => "somebody publishes another room's media to this room's subject",
            Self::LogClockJumps => "the log's clock jumps",
            Self::StoreLosesAnswers => "the store creates an object and its answer is lost",
            Self::StoreLosesRequests => "requests to the store are lost",
            Self::StoreConflicts => "the store answers 409",
            Self::StoreIsBusy => "the store answers 503",
            Self::StoreHangs => "the store does what was asked long after the caller gave up",
            Self::StoreReadsTorn => "the store returns half an object",
            Self::StoreIsAway => "the store cannot be reached",
            Self::AllLeasesExpire => "all leases expire at once",
            Self::LeasesRevive => "the lease of a dead node comes back to life",
            Self::WatchesAreStale => "nodes learn late of assignments",
            Self::CoordinationIsAway => "the coordination store cannot be reached",
            Self::BusLoses => "the bus loses messages",
            Self::BusDuplicates => "the bus delivers messages twice",
            Self::BusDelays => "the bus delays messages",
            Self::SfuCrashes => "the SFU's process dies and starts again",
            Self::SfuLeavesForGood => "the SFU's process dies and does not come back",
            Self::NodesCrash => "ingest processes die and start again",
            Self::NodesCrashBetweenActions => "ingest processes die between one action and the next",
            Self::NodesPause => "ingest processes are paused, and go on as if nothing had been",
            Self::LeadersPause => "the coordinator's leader is paused between planning and performing",
            Self::LeadersCrash => "the coordinator's leader dies",
            Self::BufferIsSmall => "the publisher's buffer holds a second of media",
            Self::TracksFallSilent => "tracks stop sending long before the room closes",
            Self::RecordingsAreLimited => "recordings reach their maximum duration while the room goes on",
        }
    }

    /// How likely it happens at one opportunity: a step of 50 ms of the one it strikes, or a call.
    fn rate(self) -> f64 {
        match self {
            Self::LogReorders | Self::LogDeliversTwice => 0.15,
            Self::LogLosesAnswers | Self::BusLoses | Self::BusDuplicates | Self::BusDelays => 0.2,
            Self::LogSwallowsRetries => 0.3,
            Self::StoreLosesAnswers | Self::StoreLosesRequests | Self::StoreConflicts | Self::StoreIsBusy => 0.25,
            Self::StoreHangs | Self::StoreReadsTorn => 0.2,
            Self::LogCorrupts | Self::LogHoldsForeignEntries | Self::NodesCrashBetweenActions => 0.01,
            Self::LogLosesSuffix | Self::LogDiverges => 0.006,
            Self::NodesCrash | Self::NodesPause => 0.004,
            Self::WatchesAreStale | Self::LeadersPause | Self::LeadersCrash => 0.02,
            Self::AllLeasesExpire | Self::LeasesRevive | Self::LogClockJumps => 0.004,
            Self::LogIsFull | Self::LogIsAway | Self::StoreIsAway | Self::CoordinationIsAway => 0.005,
            Self::SfuCrashes => 0.003,
            Self::SfuLeavesForGood | Self::TracksFallSilent => 0.002,
            Self::BufferIsSmall | Self::RecordingsAreLimited => 1.0,
        }
    }

    /// Whether the log may lack, or never show a reader, what it acknowledged.
    #[must_use]
    pub fn loses_acknowledged(self) -> bool {
        matches!(self, Self::LogLosesSuffix | Self::LogDiverges | Self::LogSwallowsRetries | Self::LogCorrupts)
    }

    /// Whether the log may lose entries that it has delivered to some reader before.
    #[must_use]
    pub fn loses_entries(self) -> bool {
        matches!(self, Self::LogLosesSuffix | Self::LogDiverges)
    }

    /// Whether a batch may come so late, or a replay fail so often, that its gap is declared first.
    #[must_use]
    pub fn delays_batches(self) -> bool {
        matches!(
            self,
            Self::BusLoses
                | Self::BusDelays
                | Self::LogLosesAnswers
                | Self::LogIsAway
                | Self::LogIsFull
                | Self::LogClockJumps
                | Self::NodesPause
                | Self::NodesCrash
                | Self::NodesCrashBetweenActions
        )
    }
}

/// What goes wrong under a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Everything random comes from it.
    pub seed: u64,
    /// What may go wrong.
    pub faults: BTreeSet<Fault>,
}

impl Plan {
    /// The plan of a seed: none to half of all faults, each seed another mixture.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed_0fa7);
        // Where a recording is short, most of what goes wrong goes wrong behind its end.
        let (short, others) = Fault::ALL.split_last().expect("there are some");
        let count = rng.random_range(0..=others.len() / 2);
        let mut faults: BTreeSet<_> = others.choose_multiple(&mut rng, count).copied().collect();
        faults.extend(rng.random_bool(0.2).then_some(*short));
        Self { seed, faults }
    }

    /// The same without one fault.
    #[must_use]
    pub fn without(&self, fault: Fault) -> Self {
        let mut plan = self.clone();
        plan.faults.remove(&fault);
        plan
    }

    /// Whether the fault is among them.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Whether any fault of this plan is such.
    #[must_use]
    pub fn any(&self, kind: impl Fn(Fault) -> bool) -> bool {
        self.faults.iter().any(|fault| kind(*fault))
    }

    pub(super) fn strikes(&self, fault: Fault, rng: &mut StdRng) -> bool {
        self.has(fault) && rng.random_bool(fault.rate())
    }
}
