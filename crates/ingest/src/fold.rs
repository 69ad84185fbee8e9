//! A room's fold and its tracks' folds, run in one thread.
//!
//! What actors do in production, as a plain function: for simulation, tests and tools.

use std::collections::{BTreeMap, VecDeque};

use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::ports::LogEntry;
use roomreel_shared::window::{TrackKey, Window};

use crate::config::FoldConfig;
use crate::room::{Damaged, Identity, ReplayRequest, ResumeError, RoomFold, RoomOutput, SealedWindow};
use crate::track::TrackFold;

/// What comes of folding.
#[derive(Debug)]
pub enum FoldOutput {
    /// Commit this window.
    Commit(Box<SealedWindow>),
    /// Ask an SFU to publish again.
    RequestReplay(ReplayRequest),
    /// Ask an SFU for a key frame of this track.
    RequestKeyframe(TrackKey),
    /// An entry was skipped.
    Damaged(Damaged),
    /// The recording has ended.
    Finished,
}

/// The whole fold of one recording.
#[derive(Debug)]
pub struct Fold {
    room: RoomFold,
    tracks: BTreeMap<TrackKey, TrackFold>,
    config: FoldConfig,
}

impl Fold {
    /// Begins a recording that has no window yet.
    #[must_use]
    pub fn new(spec: FoldSpec, identity: Identity, config: FoldConfig) -> Self {
        Self { room: RoomFold::new(spec, identity, config), tracks: BTreeMap::new(), config }
    }

    /// Goes on after `last`.
    ///
    /// # Errors
    /// As [`RoomFold::resume`].
    pub fn resume(spec: FoldSpec, identity: Identity, config: FoldConfig, last: &Window) -> Result<Self, ResumeError> {
        let mut outputs = Vec::new();
        let room = RoomFold::resume(spec, identity, config, last, &mut outputs)?;
        let mut fold = Self { room, tracks: BTreeMap::new(), config };
        fold.run(outputs);
        Ok(fold)
    }

    /// The room's part.
    #[must_use]
    pub fn room(&self) -> &RoomFold {
        &self.room
    }

    /// Feeds the next entry of the log.
    pub fn on_entry(&mut self, entry: LogEntry) -> Vec<FoldOutput> {
        let mut outputs = Vec::new();
        self.room.on_entry(entry, &mut outputs);
        self.run(outputs)
    }

    /// Ends the window here although its time has not passed.
    pub fn seal_now(&mut self) -> Vec<FoldOutput> {
        let mut outputs = Vec::new();
        self.room.seal_now(&mut outputs);
        self.run(outputs)
    }

    /// Lets go of what it can, for memory's sake: see [`RoomFold::give_back`].
    pub fn give_back(&mut self, even_last: bool) -> Vec<FoldOutput> {
        let mut outputs = Vec::new();
        self.room.give_back(even_last, &mut outputs);
        self.run(outputs)
    }

    /// The log was rolled back and is read from an earlier place: see [`RoomFold::on_rewound`].
    pub fn on_rewound(&mut self, end: u64) {
        self.room.on_rewound(end);
    }

    fn run(&mut self, outputs: Vec<RoomOutput>) -> Vec<FoldOutput> {
        let mut queue = VecDeque::from(outputs);
        let mut results = Vec::new();
        let mut more = Vec::new();
        let mut answers = Vec::new();
        while let Some(output) = queue.pop_front() {
            results.push(match output {
                RoomOutput::OpenTrack(open) => {
                    let track = TrackFold::new(&open, self.config);
                    self.tracks.insert(open.key, track);
                    continue;
                }
                RoomOutput::CloseTrack(key) => {
                    self.tracks.remove(&key);
                    continue;
                }
                RoomOutput::ToTrack(key, input) => {
                    if let Some(track) = self.tracks.get_mut(&key) {
                        track.on_input(input, &mut answers);
                    }
                    for answer in answers.drain(..) {
                        self.room.on_track(&key, answer, &mut more);
                    }
                    queue.extend(more.drain(..));
                    continue;
                }
                RoomOutput::Released => continue,
                RoomOutput::Commit(window) => FoldOutput::Commit(window),
                RoomOutput::RequestReplay(request) => FoldOutput::RequestReplay(request),
                RoomOutput::RequestKeyframe { key, .. } => FoldOutput::RequestKeyframe(key),
                RoomOutput::Damaged(damaged) => FoldOutput::Damaged(damaged),
                RoomOutput::Finished => FoldOutput::Finished,
            });
        }
        results
    }
}
