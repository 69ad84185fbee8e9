//! One track's actor: runs its [`TrackFold`] and reports to the room's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use roomreel_shared::window::TrackKey;

use super::room::RoomMessage;
use crate::config::FoldConfig;
use crate::track::{OpenTrack, TrackFold, TrackInput};

/// What a track's actor begins with.
pub(crate) struct TrackArguments {
    pub(crate) open: OpenTrack,
    pub(crate) config: FoldConfig,
    pub(crate) room: ActorRef<RoomMessage>,
    /// Tells answers of a restarted actor from those of the one before.
    pub(crate) generation: u64,
    /// Inputs that were folded without failing; outlives the actor.
    pub(crate) handled: Arc<AtomicUsize>,
}

pub(crate) struct TrackState {
    key: TrackKey,
    fold: TrackFold,
    room: ActorRef<RoomMessage>,
    generation: u64,
    handled: Arc<AtomicUsize>,
}

pub(crate) struct TrackActor;

impl Actor for TrackActor {
    /// Inputs that came together.
    type Msg = Vec<TrackInput>;
    type State = TrackState;
    type Arguments = TrackArguments;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        TrackArguments { open, config, room, generation, handled }: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let fold = TrackFold::new(&open, config);
        Ok(TrackState { key: open.key, fold, room, generation, handled })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        inputs: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let mut outputs = Vec::new();
        for input in inputs {
            state.fold.on_input(input, &mut outputs);
            state.handled.fetch_add(1, Ordering::Release);
        }
        if !outputs.is_empty() {
            let message = RoomMessage::Track { key: state.key.clone(), generation: state.generation, outputs };
            // The room is gone only when it stops, and takes its tracks with it.
            let _ = state.room.cast(message);
        }
        Ok(())
    }
}
