//! What an operator can set, with the defaults the guarantees are stated for.

use std::time::Duration;

use roomreel_shared::id::NodeId;

/// Limits of the fold. Nodes of one cluster should agree on them: two owners of a room then fold equal windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldConfig {
    /// Log time from noticing that batches are missing until their replay is asked for; doubled from ask to ask.
    pub replay_after: Duration,
    /// Log time until what is missing is declared a gap.
    pub gap_after: Duration,
    /// Log time that media waits for the event that says what it is.
    pub producer_wait: Duration,
    /// Most batches of a track that wait for earlier ones.
    pub held_batches: usize,
    /// Most bytes of a track that wait for earlier ones.
    pub held_bytes: usize,
    /// Least log time between two key frame requests for a track.
    pub keyframe_interval: Duration,
}

impl Default for FoldConfig {
    fn default() -> Self {
        Self {
            replay_after: Duration::from_millis(500),
            gap_after: Duration::from_secs(10),
            producer_wait: Duration::from_secs(3),
            held_batches: 2048,
            held_bytes: 16 * 1024 * 1024,
            keyframe_interval: Duration::from_secs(2),
        }
    }
}

/// An ingest node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestConfig {
    /// Its name, unique while it lives.
    pub node: NodeId,
    /// Without renewal for this long the cluster takes the node for dead.
    pub lease_ttl: Duration,
    /// Bytes of media per second it can carry; the coordinator balances by it.
    pub capacity: u64,
    /// Most bytes of one room's log in memory; the log is the buffer beyond it.
    pub room_bytes: usize,
    /// Most bytes of all logs in memory.
    pub node_bytes: usize,
    /// Longest time [`crate::IngestHandle::drain`] waits for last windows to be committed.
    pub drain_limit: Duration,
    /// Limits of the fold.
    pub fold: FoldConfig,
}

impl IngestConfig {
    /// The defaults for a node of this name.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            lease_ttl: Duration::from_secs(5),
            capacity: 60_000_000,
            room_bytes: 256 * 1024 * 1024,
            node_bytes: 1024 * 1024 * 1024,
            drain_limit: Duration::from_secs(25),
            fold: FoldConfig::default(),
        }
    }
}
