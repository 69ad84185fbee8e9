//! Layouts as pure functions: a room at one instant in, tiles out.
//!
//! Owns names and aliases of layouts, the language of region documents, where every tile goes, who holds the stage
//! (with hysteresis), and the way from one arrangement to the next. Does not own pixels (see the compositor), nor how
//! a [`Scene`] comes about.

mod arrangement;
mod grid;
mod memory;
mod name;
mod regions;
mod scene;
mod stage;
mod transition;

use std::collections::BTreeSet;
use std::time::Duration;

use roomreel_shared::id::{PeerId, RecordingId};
use roomreel_shared::policy::TrackKind;

pub use arrangement::{Arrangement, Content, Fit, Mark, Overlay, Rect, Theme, Tile};
pub use memory::LayoutMemory;
pub use name::NAMES;
pub use regions::Document;
pub use roomreel_shared::look::Corner;
pub use scene::{Camera, Microphone, Participant, Scene, Screenshare, SourceId, SourceKind};
pub use transition::Transition;

use stage::Strip;

/// Why a text is not a layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No layout has this name.
    #[error("layout {given:?} is not known; use one of {}, or a region document", NAMES.join(", "))]
    UnknownName {
        /// What was asked for, shortened.
        given: String,
    },
    /// The region document cannot be used.
    #[error("{path}: {why}")]
    Document {
        /// The field, as in `regions.main.width`; `layout` for the whole text.
        path: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
}

/// How a room is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    kind: Kind,
    theme: Theme,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// Everybody alike.
    Grid,
    /// One on the stage, the others in a strip.
    Staged(Strip),
    /// One, nobody else.
    SingleSpeaker,
    /// One on all of the canvas, another in a corner of it.
    PictureInPicture,
    /// As a document says.
    Regions(Document),
}

/// Reads a layout's name (see `docs/layouts.md`; case does not matter) or a region document.
///
/// # Errors
/// [`Error`], with the path of the field that is wrong.
pub fn parse(text: &str) -> Result<Layout, Error> {
    let text = text.trim();
    if text.starts_with('{') {
        return Ok(Layout { kind: Kind::Regions(Document::parse(text)?), theme: Theme::Dark });
    }
    name::parse(text)
}

impl Layout {
    /// Colours it is drawn in.
    #[must_use]
    pub fn theme(&self) -> Theme {
        self.theme
    }

    /// The region document, if it is one.
    #[must_use]
    pub fn document(&self) -> Option<&Document> {
        match &self.kind {
            Kind::Regions(document) => Some(document),
            _ => None,
        }
    }

    /// Whether a track of `kind` of this peer is heard. Only a region document leaves sound out.
    #[must_use]
    pub fn hears(&self, peer: &PeerId, kind: TrackKind) -> bool {
        self.document().is_none_or(|document| document.hears(peer, kind))
    }

    /// Whether it can be drawn at this size: regions of a document without a resolution of its own must be inside.
    ///
    /// # Errors
    /// [`Error::Document`] with the path of the first region's field that is not.
    pub fn check(&self, width: u32, height: u32) -> Result<(), Error> {
        self.document().map_or(Ok(()), |document| document.check(width, height))
    }

    /// Whether everybody whom a region document names without a wildcard, shown, heard or left out, was in a recording that has ended;
    /// `peers` are all that ever were.
    ///
    /// # Errors
    /// [`Error::Document`] with the path of the first name that is nobody's.
    pub fn check_sources(&self, recording: &RecordingId, peers: &BTreeSet<PeerId>) -> Result<(), Error> {
        self.document().map_or(Ok(()), |document| document.check_sources(recording, peers))
    }

    /// Where everything goes at `t` (since the recording's start) on a canvas of `width` x `height` pixels.
    ///
    /// Call it with `t` never falling and one `memory` per composite. Who does not fit is on another page; pages turn
    /// every [`PAGE`] of `t`.
    #[must_use]
    pub fn arrange(
        &self,
        scene: &Scene,
        width: u32,
        height: u32,
        memory: &mut LayoutMemory,
        t: Duration,
    ) -> Arrangement {
        let mut arrangement = Arrangement { theme: self.theme, ..Arrangement::default() };
        let mut plan = stage::Plan::new(scene, width, height, memory, t, &mut arrangement);
        match &self.kind {
            Kind::Grid => plan.grid(),
            Kind::Staged(strip) => plan.staged(*strip),
            Kind::SingleSpeaker => plan.single_speaker(),
            Kind::PictureInPicture => plan.picture_in_picture(),
            Kind::Regions(document) => {
                arrangement.tiles = document.place(scene, width, height, &mut *memory, t);
            }
        }
        arrangement.tiles.sort_by_key(|tile| tile.z);
        arrangement
    }
}

/// How long a page of those who do not fit at once is shown.
pub const PAGE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
