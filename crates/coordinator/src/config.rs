//! What an operator can set.

use std::time::Duration;

use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::id::NodeId;
use roomreel_shared::policy::Policy;

use crate::plan::Limits;

/// Longest window: an ingest node holds one in memory, and a compositor a slice that is as long.
const MAX_WINDOW: Duration = Duration::from_secs(60);

/// Settings of one coordinator replica. All replicas of a cluster must agree on all but `node`.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// This process, unique while it lives.
    pub node: NodeId,
    /// Number of streams the rooms are spread over; at least 1.
    pub shards: u32,
    /// How long a dead leader goes unnoticed; at least 2 s, below which etcd does not grant.
    pub lease_ttl: Duration,
    /// Window duration in log time, at most 60 s.
    pub window: Duration,
    /// A recording ends when its room's log has held nothing of an SFU for this long.
    pub idle_limit: Duration,
    /// A recording ends when it is this old.
    pub max_duration: Duration,
    /// A recording that has ended and makes no progress for this long is given up (I6).
    pub ending_limit: Duration,
    /// In force where a room names none.
    pub default_policy: Policy,
    /// Rendered where a start request names none; empty: documents only.
    pub composites: Vec<CompositeSpec>,
}

impl CoordinatorConfig {
    /// Defaults for a node of this name.
    #[must_use]
    pub fn new(node: NodeId, shards: u32) -> Self {
        Self {
            node,
            shards,
            lease_ttl: Duration::from_secs(4),
            window: Duration::from_secs(4),
            idle_limit: Duration::from_secs(60),
            max_duration: Duration::from_secs(24 * 3600),
            ending_limit: Duration::from_secs(3600),
            default_policy: Policy::default(),
            composites: vec![CompositeSpec::default()],
        }
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// The first setting that is out of its range, in words.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |setting, why: String| Err(ConfigError { setting, why });
        if self.shards == 0 {
            return refuse("shards", "0 streams cannot hold a room; use at least 1".to_owned());
        }
        if self.lease_ttl < Duration::from_secs(2) {
            return refuse("lease_ttl", format!("{:?} is below 2 s, which etcd does not grant", self.lease_ttl));
        }
        for (setting, value) in [
            ("window", self.window),
            ("idle_limit", self.idle_limit),
            ("max_duration", self.max_duration),
            ("ending_limit", self.ending_limit),
        ] {
            if value < Duration::from_millis(100) {
                return refuse(setting, format!("{value:?} is below 100 ms"));
            }
        }
        if self.window > MAX_WINDOW {
            return refuse(
                "window",
                format!("{:?} is above {MAX_WINDOW:?}: nodes hold a window in memory", self.window),
            );
        }
        for composite in &self.composites {
            composite.check().or_else(|e| refuse("composites", e.to_string()))?;
        }
        Ok(())
    }

    /// What the planner goes by.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            shards: self.shards,
            window: self.window,
            idle: self.idle_limit,
            max_duration: self.max_duration,
            ending: self.ending_limit,
            composites: self.composites.clone(),
        }
    }
}

/// A setting is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("coordinator setting {setting}: {why}")]
pub struct ConfigError {
    /// Its name.
    pub setting: &'static str,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_neither_too_short_nor_too_long() {
        for (window_ms, is_right) in [(99, false), (100, true), (60_000, true), (60_001, false)] {
            let config = CoordinatorConfig {
                window: Duration::from_millis(window_ms),
                ..CoordinatorConfig::new(NodeId::new("node").expect("valid"), 4)
            };
            let refused = config.check().err().map(|error| error.setting);
            assert_eq!(refused, (!is_right).then_some("window"), "{window_ms} ms");
        }
    }
}
