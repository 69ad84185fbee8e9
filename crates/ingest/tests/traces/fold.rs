//! The fold under test.

use bytes::Bytes;
use roomreel_ingest::FoldConfig;
use roomreel_ingest::fold::{Fold, FoldOutput};
use roomreel_ingest::room::{Damaged, Identity, ReplayRequest};
use roomreel_shared::window::Window;

use crate::trace::Trace;

const IDENTITY: Identity = Identity { epoch: 3, nonce: 4 };

/// What a fold gave.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    pub(crate) windows: Vec<Window>,
    pub(crate) damaged: Vec<Damaged>,
    pub(crate) replays: Vec<ReplayRequest>,
    pub(crate) is_finished: bool,
}

impl Folded {
    fn take(&mut self, outputs: Vec<FoldOutput>) {
        for output in outputs {
            match output {
                FoldOutput::Commit(window) => {
                    self.windows.push(Window::parse(window.object.joined()).expect("an own window can be read"));
                }
                FoldOutput::Damaged(damaged) => self.damaged.push(damaged),
                FoldOutput::RequestReplay(request) => self.replays.push(request),
                FoldOutput::RequestKeyframe(_) => {}
                FoldOutput::Finished => self.is_finished = true,
            }
        }
    }
}

/// Folds a trace; after each window in `crashes`, begins again from that window alone.
pub(crate) fn fold(trace: &Trace, crashes: &[u64]) -> Folded {
    let config = FoldConfig::default();
    let mut fold = Fold::new(trace.spec.clone(), IDENTITY, config);
    let mut folded = Folded::default();
    let mut at = 0;
    while at < trace.entries.len() {
        let before = folded.windows.len();
        folded.take(fold.on_entry(trace.entries[at].clone()));
        at += 1;
        let committed = folded.windows.len();
        if committed > before && crashes.contains(&(committed as u64 - 1)) {
            let last = &folded.windows[committed - 1];
            fold = Fold::resume(trace.spec.clone(), IDENTITY, config, last).expect("an own window can be gone on from");
            let position = fold.room().position();
            at = trace.entries.iter().position(|entry| entry.sequence >= position).unwrap_or(trace.entries.len());
        }
    }
    folded
}

pub(crate) fn objects(folded: &Folded) -> Vec<&Bytes> {
    folded.windows.iter().map(Window::object).collect()
}
