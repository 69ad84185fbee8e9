//! The bus: messages to the SFU that may be lost, doubled and late.

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use roomreel_ingest::room::ReplayRequest;
use roomreel_shared::id::RecordingId;
use roomreel_shared::wire;

use crate::simulation::faults::{Fault, Plan};

/// What a publisher hears.
#[derive(Debug, Clone)]
pub enum Message {
    /// Whether a recording goes on.
    RecordingState(RecordingId, bool),
    /// What it may forget.
    Watermark(wire::Watermark),
    /// What to publish again.
    Replay(ReplayRequest),
}

/// Messages on their way.
#[derive(Debug, Default)]
pub struct BusModel {
    queue: Vec<(Duration, Message)>,
}

impl BusModel {
    /// Sends a message.
    pub fn send(&mut self, now: Duration, message: Message, plan: &Plan, rng: &mut StdRng) {
        if plan.strikes(Fault::BusLoses, rng) {
            return;
        }
        let copies = 1 + u32::from(plan.strikes(Fault::BusDuplicates, rng));
        for _ in 0..copies {
            let most = if plan.strikes(Fault::BusDelays, rng) { 15_000 } else { 20 };
            self.queue.push((now + Duration::from_millis(rng.random_range(1..=most)), message.clone()));
        }
    }

    /// What has arrived.
    pub fn arrived(&mut self, now: Duration) -> Vec<Message> {
        let mut due: Vec<_> = self.queue.extract_if(.., |(at, _)| *at <= now).collect();
        due.sort_by_key(|(at, _)| *at);
        due.into_iter().map(|(_, message)| message).collect()
    }
}
