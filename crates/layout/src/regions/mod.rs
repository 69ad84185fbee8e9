//! Region documents: a picture made of rectangles, each a grid of the sources it names.
//!
//! Owns the language (`parse`, after the video layouts of Twilio's compositions) and how regions become tiles. Does not own
//! who is in the room.

mod parse;
mod pattern;
mod unknown;

use std::time::Duration;

use roomreel_shared::id::PeerId;
use roomreel_shared::policy::TrackKind;

use self::pattern::Pattern;
use super::arrangement::{Rect, Tile};
use super::grid::{self, Metrics};
use super::memory::LayoutMemory;
use super::scene::{Scene, SourceId};
use super::stage::{Dress, Shown};
use super::{Error, PAGE};

/// Most cells of one region, whatever the document allows.
const MAX_CELLS: u32 = 400;

/// A region document that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// In ascending `z`.
    regions: Vec<Region>,
    audio_sources: Vec<Pattern>,
    audio_sources_excluded: Vec<Pattern>,
    trim: bool,
    resolution: Option<(u32, u32)>,
}

/// One rectangle of the canvas.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Region {
    name: String,
    x: u32,
    y: u32,
    z: i32,
    /// To the canvas's edge if not given.
    width: Option<u32>,
    height: Option<u32>,
    max_columns: u32,
    max_rows: u32,
    /// Row by row from 0.
    cells_excluded: Vec<u32>,
    reuse: Reuse,
    video_sources: Vec<Pattern>,
    video_sources_excluded: Vec<Pattern>,
}

/// Who is shown when there are more sources than cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    /// A cell is its first source's for ever; it stays empty when that one leaves.
    None,
    /// Those who came first; when one leaves the next in line moves up.
    ShowOldest,
    /// Those who came last.
    ShowNewest,
    /// Everybody in turn, page by page.
    Rotate,
}

impl Document {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// [`Error::Document`] with the field's path.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse::document(text)
    }

    /// Whether a late render leaves out what is before the first media and behind the last.
    #[must_use]
    pub fn trim(&self) -> bool {
        self.trim
    }

    /// Width and height the regions are measured in; without it they are in pixels of the canvas.
    #[must_use]
    pub fn resolution(&self) -> Option<(u32, u32)> {
        self.resolution
    }

    pub(super) fn hears(&self, peer: &PeerId, kind: TrackKind) -> bool {
        let suffix = match kind {
            TrackKind::Audio => "audio",
            TrackKind::Video => "video",
            TrackKind::Screenshare => "screen",
        };
        let named = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.names(peer, suffix));
        named(&self.audio_sources) && !named(&self.audio_sources_excluded)
    }

    /// Whether the regions are inside a canvas and none hides another by chance.
    pub(super) fn check(&self, width: u32, height: u32) -> Result<(), Error> {
        let (width, height) = self.resolution.unwrap_or((width, height));
        for (index, region) in self.regions.iter().enumerate() {
            region.check(width, height)?;
            let rect = region.rect(width, height);
            let hidden = self.regions[..index]
                .iter()
                .find(|other| other.z == region.z && other.rect(width, height).overlaps(&rect));
            if let Some(other) = hidden {
                return Err(Error::Document {
                    path: format!("regions.{}.z_pos", region.name),
                    why: format!(
                        "it overlaps region `{}` and both are at {}; give one of them another z_pos",
                        other.name, region.z
                    ),
                });
            }
        }
        Ok(())
    }

    pub(super) fn place(
        &self,
        scene: &Scene,
        width: u32,
        height: u32,
        memory: &mut LayoutMemory,
        t: Duration,
    ) -> Vec<Tile> {
        let canvas = Rect::new(0, 0, width, height);
        let metrics = Metrics::of(width, height);
        let (from_width, from_height) = self.resolution.unwrap_or((width, height));
        let scale = |value: u32, from: u32, to: u32| {
            u32::try_from(u64::from(value) * u64::from(to) / u64::from(from.max(1))).unwrap_or(to)
        };
        let everything: Vec<_> =
            scene.visible().map(Shown::Person).chain(scene.visible_screenshares().map(Shown::Screen)).collect();
        let mut tiles = Vec::new();
        for region in &self.regions {
            let rect = region.rect(from_width, from_height);
            let right = scale(rect.right(), from_width, width);
            let bottom = scale(rect.bottom(), from_height, height);
            let (x, y) = (scale(rect.x, from_width, width), scale(rect.y, from_height, height));
            let area = Rect::new(x, y, right.saturating_sub(x), bottom.saturating_sub(y));
            if !canvas.contains(&area) || area.is_empty() {
                // Refused by `check`; whoever draws on another canvas all the same gets the regions that are on it.
                continue;
            }
            let wanted: Vec<_> = everything.iter().copied().filter(|shown| region.wants(*shown)).collect();
            for (shown, cell) in region.assign(&wanted, area, metrics, memory, t) {
                if !cell.is_empty() {
                    let radius = if cell == canvas { 0 } else { metrics.radius.min(cell.width / 16) };
                    tiles.push(shown.tile(scene, cell, Dress { z: region.z, radius, ring: cell != canvas }));
                }
            }
        }
        tiles
    }
}

impl Region {
    fn rect(&self, width: u32, height: u32) -> Rect {
        let to_edge = |side: Option<u32>, edge: u32, from: u32| side.unwrap_or(edge.saturating_sub(from));
        Rect::new(self.x, self.y, to_edge(self.width, width, self.x), to_edge(self.height, height, self.y))
    }

    fn check(&self, width: u32, height: u32) -> Result<(), Error> {
        for (start, start_name, side, side_name, edge) in
            [(self.x, "x_pos", self.width, "width", width), (self.y, "y_pos", self.height, "height", height)]
        {
            let refuse =
                |field: &str, why: String| Err(Error::Document { path: format!("regions.{}.{field}", self.name), why });
            if start.saturating_add(2) > edge {
                return refuse(start_name, format!("{start} is not on a canvas of {width}x{height}"));
            }
            if let Some(side) = side
                && side > edge - start
            {
                return refuse(
                    side_name,
                    format!(
                        "{side} from {start_name} {start} is beyond a canvas of {width}x{height}; at most {} fit",
                        edge - start
                    ),
                );
            }
        }
        Ok(())
    }

    fn wants(&self, shown: Shown<'_>) -> bool {
        let named = |pattern: &Pattern| match shown {
            Shown::Person(person) => pattern.names(&person.peer, "video"),
            Shown::Screen(share) => {
                pattern.names(&share.owner, "screen") || pattern.names(&share.source.peer, "screen")
            }
        };
        self.video_sources.iter().any(named) && !self.video_sources_excluded.iter().any(named)
    }

    /// Who gets which cell of `area`.
    fn assign<'a>(
        &self,
        wanted: &[Shown<'a>],
        area: Rect,
        metrics: Metrics,
        memory: &mut LayoutMemory,
        t: Duration,
    ) -> Vec<(Shown<'a>, Rect)> {
        if self.reuse == Reuse::None {
            let spent = memory.spent.entry(self.name.clone()).or_default();
            for shown in wanted {
                let source = shown.source();
                if spent.len() < MAX_CELLS as usize && !spent.contains(&source) {
                    spent.push(source);
                }
            }
            let cells = self.cells(area, spent.len(), metrics);
            let here = |source: &SourceId| wanted.iter().copied().find(|shown| shown.source() == *source);
            return spent.iter().zip(cells).filter_map(|(source, cell)| Some((here(source)?, cell))).collect();
        }
        let cells = self.cells(area, wanted.len(), metrics);
        let more = wanted.len().saturating_sub(cells.len());
        let first = match self.reuse {
            Reuse::ShowNewest => more,
            Reuse::Rotate => {
                let pages = wanted.len().div_ceil(cells.len().max(1)).max(1) as u128;
                let page = t.as_nanos() / PAGE.as_nanos() % pages;
                // The last page is as full as the others.
                (page as usize * cells.len()).min(more)
            }
            Reuse::None | Reuse::ShowOldest => 0,
        };
        wanted[first..].iter().copied().zip(cells).collect()
    }

    /// Free cells for `count` sources, or as many as there may be.
    fn cells(&self, area: Rect, count: usize, metrics: Metrics) -> Vec<Rect> {
        if count == 0 {
            return Vec::new();
        }
        let mut with_excluded = count;
        loop {
            let (columns, rows) = grid::columns_and_rows(area, with_excluded, self.max_columns, self.max_rows);
            let cells = columns * rows;
            let free = (0..cells).filter(|cell| !self.cells_excluded.contains(cell)).count();
            let is_full =
                u64::from(cells) >= u64::from(self.max_columns) * u64::from(self.max_rows) || cells >= MAX_CELLS;
            if free >= count || is_full {
                let gutter = if cells > 1 { metrics.gutter } else { 0 };
                let places = grid::sharing(area, columns, rows, gutter);
                return (0..cells)
                    .zip(places)
                    .filter(|(cell, _)| !self.cells_excluded.contains(cell))
                    .map(|(_, place)| place)
                    .collect();
            }
            with_excluded = (with_excluded + count - free).max(cells as usize + 1);
        }
    }
}
