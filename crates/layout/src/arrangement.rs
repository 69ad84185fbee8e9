//! What a layout decides: tiles and their places on the canvas.

use std::time::Duration;

use roomreel_shared::look::Corner;

use super::scene::SourceId;

/// A rectangle of whole 2x2 blocks of pixels, so that chroma follows luma exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rect {
    /// Pixels from the left; even.
    pub x: u32,
    /// Pixels from the top; even.
    pub y: u32,
    /// Pixels; even.
    pub width: u32,
    /// Pixels; even.
    pub height: u32,
}

impl Rect {
    /// With every coordinate rounded down to even.
    #[must_use]
    pub fn new(x: u32, y: u32, width: u32, height: u32) -> Self {
        Self { x: x & !1, y: y & !1, width: width & !1, height: height & !1 }
    }

    /// First column to the right of it.
    #[must_use]
    pub fn right(&self) -> u32 {
        self.x + self.width
    }

    /// First row below it.
    #[must_use]
    pub fn bottom(&self) -> u32 {
        self.y + self.height
    }

    /// Whether it covers no pixel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// Whether the two share a pixel.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.x < other.right() && other.x < self.right() && self.y < other.bottom() && other.y < self.bottom()
    }

    /// Whether `other` lies wholly in this.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.x <= other.x && self.y <= other.y && other.right() <= self.right() && other.bottom() <= self.bottom()
    }

    /// This without a border of `by` pixels, rounded to even.
    pub(super) fn shrunk(&self, by: u32) -> Self {
        let by = (by & !1).min(self.width / 2).min(self.height / 2);
        Self::new(self.x + by, self.y + by, self.width - 2 * by, self.height - 2 * by)
    }
}

/// How a picture fills its tile; it is never stretched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fit {
    /// Fill the tile, cropping what sticks out: cameras.
    Cover,
    /// Show all of it, with bars where it does not reach: shared screens.
    Contain,
}

/// What is in a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// The source's picture; until its first one, the placeholder.
    Picture,
    /// The placeholder: initials on the participant's own colour.
    Placeholder,
}

/// One source on the canvas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// What it shows.
    pub source: SourceId,
    /// Where, inside the canvas.
    pub rect: Rect,
    /// Drawn in ascending order.
    pub z: i32,
    /// How a picture fills it.
    pub fit: Fit,
    /// Picture or placeholder.
    pub content: Content,
    /// Whose it is: initials and colour of the placeholder come from it.
    pub name: String,
    /// Text of the name label.
    pub label: Option<String>,
    /// Wears the mark of a muted microphone.
    pub muted: bool,
    /// Wears the ring of who is heard.
    pub speaking: bool,
    /// Corner radius, pixels.
    pub radius: u32,
    /// 0 is not there, 255 is solid.
    pub opacity: u8,
}

/// What an overlay shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Mark {
    /// A text in a pill.
    Text(String),
    /// The picture of the composite's watermark; nothing where it has none.
    Watermark,
}

/// Something over everything: watermark, clock, page number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Overlay {
    /// What.
    pub mark: Mark,
    /// Where.
    pub corner: Corner,
}

impl Overlay {
    /// A text.
    #[must_use]
    pub fn text(text: impl Into<String>, corner: Corner) -> Self {
        Self { mark: Mark::Text(text.into()), corner }
    }

    /// The time since the recording began, as `h:mm:ss`.
    #[must_use]
    pub fn clock(t: Duration, corner: Corner) -> Self {
        let seconds = t.as_secs();
        Self::text(format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60), corner)
    }
}

/// Colours everything is drawn in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Theme {
    /// Near-black background.
    #[default]
    Dark,
    /// Near-white background.
    Light,
}

/// A whole picture, decided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arrangement {
    /// Background and placeholders follow it.
    pub theme: Theme,
    /// In ascending `z`.
    pub tiles: Vec<Tile>,
    /// Over the tiles. A layout adds the page number when it turns pages; watermark and clock are the caller's.
    pub overlays: Vec<Overlay>,
}

impl Arrangement {
    /// The tile that shows `source`, the largest if there are several: what a decoder and a simulcast layer are chosen for.
    #[must_use]
    pub fn tile_of(&self, source: &SourceId) -> Option<&Tile> {
        self.tiles.iter().filter(|tile| tile.source == *source).max_by_key(|tile| tile.rect.width * tile.rect.height)
    }
}
