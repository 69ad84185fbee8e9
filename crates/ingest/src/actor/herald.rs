//! What a room tells the outside: watermarks, requests, recording state on the bus; progress in the coordination store.
//!
//! Apart from the room's actor, so that a slow server holds up words and not media. Everything on the bus is repeated by the
//! one who says it, so what does not fit is dropped.

use std::sync::Arc;

use bytes::Bytes;
use ractor::ActorRef;
use roomreel_shared::cluster::{self, FoldSpec, Progress};
use roomreel_shared::id::SfuId;
use roomreel_shared::ports::{Bus, Change, Compare, Coordination, Outcome};
use roomreel_shared::subject::{self, Subject};
use roomreel_shared::wire;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::room::RoomMessage;
use crate::commit::backoff;

/// Words that may wait.
const QUEUE: usize = 512;
/// How long an SFU may take to answer a command.
const COMMAND_LIMIT: std::time::Duration = std::time::Duration::from_secs(2);

enum Word {
    Publish(Subject, Bytes),
    Command(Subject, Bytes),
}

/// The room's voice; dropping it ends its tasks.
pub(crate) struct Herald {
    spec: FoldSpec,
    words: mpsc::Sender<Word>,
    progress: watch::Sender<Option<Progress>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Herald {
    /// Progress is written while the assignment stands at revision `epoch`, and by nobody after it (I7).
    pub(crate) fn start(
        bus: Arc<dyn Bus>,
        coordination: Arc<dyn Coordination>,
        spec: FoldSpec,
        epoch: u64,
        room: ActorRef<RoomMessage>,
    ) -> Self {
        let (words, queue) = mpsc::channel(QUEUE);
        let (progress, newest) = watch::channel(None);
        let recording = spec.recording.clone();
        let tasks = [
            AbortOnDropHandle::new(tokio::spawn(speak(bus, queue))),
            AbortOnDropHandle::new(tokio::spawn(async move {
                report(&*coordination, &recording, epoch, newest).await;
                let _ = room.cast(RoomMessage::ProgressWritten);
            })),
        ];
        Self { spec, words, progress, _tasks: tasks }
    }

    /// To one SFU about this room.
    pub(crate) fn tell(&self, sfu: &SfuId, message: wire::back_channel::Message) {
        let subject = subject::back_channel(&self.spec.tenant, sfu, &self.spec.room);
        let envelope = wire::BackChannel { room_id: self.spec.room.to_string(), message: Some(message) };
        self.say(Word::Publish(subject, prost::Message::encode_to_vec(&envelope).into()));
    }

    /// A command to an SFU about this room.
    pub(crate) fn command(&self, sfu: &SfuId, request: String, command: wire::sfu_command::Command) {
        let subject = subject::command(&self.spec.tenant, sfu);
        let message =
            wire::SfuCommand { room_id: self.spec.room.to_string(), request_id: request, command: Some(command) };
        self.say(Word::Command(subject, prost::Message::encode_to_vec(&message).into()));
    }

    /// To renderers: window `k` is there.
    pub(crate) fn committed(&self, k: u64) {
        self.say(Word::Publish(subject::committed(&self.spec.recording), Bytes::from(k.to_string())));
    }

    /// To the coordinator. The room hears [`RoomMessage::ProgressWritten`] when it is the last and written.
    pub(crate) fn progress(&self, progress: Progress) {
        self.progress.send_replace(Some(progress));
    }

    fn say(&self, word: Word) {
        if self.words.try_send(word).is_err() {
            tracing::debug!(room = %self.spec.room, "the bus is slow: a message that will be repeated was dropped");
        }
    }
}

async fn speak(bus: Arc<dyn Bus>, mut queue: mpsc::Receiver<Word>) {
    while let Some(word) = queue.recv().await {
        let done = match word {
            Word::Publish(subject, payload) => bus.publish(&subject, payload).await,
            Word::Command(subject, payload) => {
                // Does not hold up the others: the SFU may not be there.
                let bus = bus.clone();
                tokio::spawn(async move {
                    if let Err(error) = bus.request(&subject, payload, COMMAND_LIMIT).await {
                        tracing::debug!(%subject, %error, "no answer to a command");
                    }
                });
                continue;
            }
        };
        if let Err(error) = done {
            tracing::debug!(%error, "a message that will be repeated was not sent");
        }
    }
}

async fn report(
    coordination: &dyn Coordination,
    recording: &roomreel_shared::id::RecordingId,
    epoch: u64,
    mut newest: watch::Receiver<Option<Progress>>,
) {
    let mut failures = 0;
    while newest.changed().await.is_ok() {
        loop {
            let Some(progress) = newest.borrow_and_update().clone() else { break };
            let value = serde_json::to_vec(&progress).expect("progress has no map with keys that are not text");
            let conditions = vec![Compare::Unchanged(cluster::assignment_key(recording), epoch)];
            let changes = vec![Change::Put(cluster::progress_key(recording), value.into(), None)];
            match coordination.transact(conditions, changes).await {
                Ok(outcome) => {
                    failures = 0;
                    if outcome == Outcome::Conflict {
                        tracing::debug!(%recording, "the assignment has moved on: its new owner says how far it is");
                    }
                    if progress.finished {
                        return;
                    }
                    break;
                }
                Err(error) => {
                    failures += 1;
                    tracing::debug!(%recording, %error, "progress was not written; trying again");
                    tokio::time::sleep(backoff(failures)).await;
                }
            }
        }
    }
}
