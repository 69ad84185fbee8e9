//! A track as its room's actor sees it: what it began the window with and what it was told since, so that it can begin again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ractor::ActorRef;
use roomreel_shared::wire;

use crate::track::{OpenTrack, SealedTrack, TrackBatch, TrackInput};

/// Failures in a row at one input, after which it counts as poison.
const POISON_AFTER: u32 = 3;

/// A running track.
pub(super) struct Slot {
    pub(super) actor: ActorRef<Vec<TrackInput>>,
    pub(super) generation: u64,
    /// What it began the window with.
    pub(super) open: OpenTrack,
    /// What is for it since; kept so that it can begin again.
    pub(super) journal: Vec<TrackInput>,
    /// What of that it was told; the rest goes to it with the next [`Slot::tell`].
    pub(super) told: usize,
    pub(super) handled: Arc<AtomicUsize>,
    /// Failures, and the input they happened at.
    pub(super) failures: (u32, usize),
    /// It was told that packets are not valid RTP; once is enough.
    pub(super) told_invalid: bool,
}

impl Slot {
    /// This is for the track.
    pub(super) fn note(&mut self, input: TrackInput) {
        self.journal.push(input);
    }

    /// Tells it what was noted, all at once.
    pub(super) fn tell(&mut self) {
        let untold = &self.journal[self.told..];
        if !untold.is_empty() {
            // A failed actor does not take it; its successor gets the journal.
            let _ = self.actor.cast(untold.to_vec());
            self.told = self.journal.len();
        }
    }

    /// The window's part is given: the next one begins from it.
    pub(super) fn on_sealed(&mut self, part: &SealedTrack) {
        let sealed = self.journal.iter().position(|input| matches!(input, TrackInput::Seal { .. }));
        let told: Vec<TrackInput> = self.journal.drain(..=sealed.unwrap_or(0)).collect();
        for input in &told {
            match input {
                TrackInput::Admission(admission) => self.open.admission = *admission,
                TrackInput::Producer(producer) => self.open.state.producer = Some((&**producer).into()),
                _ => {}
            }
        }
        let producer = self.open.state.producer.take();
        self.open.state = wire::TrackState { producer, ..part.state.clone() };
        let held: Vec<Arc<TrackBatch>> = part.held.clone();
        // What waits comes again before what followed the seal, as if it had been told then.
        self.handled.fetch_sub(told.len(), Ordering::AcqRel);
        self.handled.fetch_add(held.len(), Ordering::AcqRel);
        self.told = self.told - told.len() + held.len();
        self.journal.splice(0..0, held.into_iter().map(TrackInput::Batch));
        self.failures = (0, 0);
    }

    /// The actor failed: counts it against the input it failed at, which at the third time is poison and left out.
    ///
    /// # Errors
    /// It is no batch, and nothing can stand in its place.
    pub(super) fn on_failed(&mut self) -> Result<(), String> {
        let at = self.handled.load(Ordering::Acquire);
        let (count, before) = self.failures;
        self.failures = (if at == before { count + 1 } else { 1 }, at);
        if self.failures.0 < POISON_AFTER {
            return Ok(());
        }
        let Some(TrackInput::Batch(batch)) = self.journal.get(at) else {
            let track = &self.open.key.track;
            return Err(format!("track {track} failed {POISON_AFTER} times in a row, and not at a batch"));
        };
        tracing::error!(track = %self.open.key.track, sequence = batch.sequence, "a batch cannot be folded and is left out");
        self.journal[at] = TrackInput::Poisoned(batch.clone());
        self.failures = (0, at);
        Ok(())
    }
}
