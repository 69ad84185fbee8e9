//! What tiles wear: name labels, the muted mark, the ring of who is heard, initials, and the texts over everything.
//!
//! Owns their shapes and sizes, and a cache of those drawn lately.

use std::collections::HashMap;

use super::colour::{Palette, Rgb};
use super::stamp::{Sheet, Stamp, line, rounded};
use super::text::{Fonts, initials};

/// More stamps than this and those that were not used in the last frame go.
const MAX_CACHED: usize = 256;

/// What a stamp shows; everything its pixels depend on but the palette, which the cache is emptied for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Badge {
    /// A pill with a name, a muted microphone, or both.
    Label {
        text: Option<String>,
        muted: bool,
        /// Of the letters, pixels.
        size: u32,
        /// Of the whole pill, pixels.
        max_width: u32,
    },
    /// A line along the inside of a tile's edge.
    Ring { width: u32, height: u32, radius: u32, thickness: u32 },
    /// A disc with initials.
    Avatar { name: String, colour: Rgb, diameter: u32 },
}

/// Draws badges and remembers them.
pub(super) struct Badges {
    fonts: Fonts,
    palette: Palette,
    cache: HashMap<Badge, Cached>,
    frame: u64,
}

struct Cached {
    stamp: Stamp,
    width: u32,
    height: u32,
    used_in: u64,
}

/// A stamp and its size, pixels.
pub(super) struct Drawn<'a> {
    pub stamp: &'a Stamp,
    pub width: u32,
    pub height: u32,
}

impl Badges {
    pub fn new(palette: Palette) -> Self {
        Self { fonts: Fonts::new(), palette, cache: HashMap::new(), frame: 0 }
    }

    pub fn palette(&self) -> Palette {
        self.palette
    }

    /// Forgets everything drawn in other colours.
    pub fn set_palette(&mut self, palette: Palette) {
        self.palette = palette;
        self.cache.clear();
    }

    /// A new frame begins: what earlier ones did not need any more is forgotten when there is too much of it.
    pub fn next_frame(&mut self) {
        if self.cache.len() > MAX_CACHED {
            let last = self.frame;
            self.cache.retain(|_, cached| cached.used_in == last);
        }
        self.frame += 1;
    }

    pub fn get(&mut self, badge: Badge) -> Drawn<'_> {
        let frame = self.frame;
        let (fonts, palette) = (&mut self.fonts, &self.palette);
        let cached = self.cache.entry(badge).or_insert_with_key(|badge| {
            let sheet = draw(badge, fonts, palette);
            let (width, height) = (sheet.width() as u32, sheet.height() as u32);
            Cached { stamp: sheet.into_stamp(), width, height, used_in: frame }
        });
        cached.used_in = frame;
        Drawn { stamp: &cached.stamp, width: cached.width, height: cached.height }
    }
}

fn draw(badge: &Badge, fonts: &mut Fonts, palette: &Palette) -> Sheet {
    match badge {
        Badge::Label { text, muted, size, max_width } => {
            label(fonts, palette, text.as_deref(), *muted, *size as f32, *max_width as f32)
        }
        Badge::Ring { width, height, radius, thickness } => {
            let mut sheet = Sheet::new(*width as usize, *height as usize);
            let (width, height, radius) = (*width as f32, *height as f32, *radius as f32);
            sheet.shape(palette.accent, 1.0, rounded(width, height, radius, 0.0));
            sheet.cut(rounded(width, height, radius, *thickness as f32));
            sheet
        }
        Badge::Avatar { name, colour, diameter } => {
            let mut sheet = Sheet::new(*diameter as usize, *diameter as usize);
            let side = sheet.width() as f32;
            sheet.shape(*colour, 1.0, rounded(side, side, side / 2.0, 0.0));
            let size = side * 0.4;
            if let Some(line) = fonts.line(&initials(name), size, side * 0.8) {
                // Capitals are about 0.72 of the size tall.
                let (x, y) = ((side - line.width) / 2.0, side / 2.0 + size * 0.36);
                fonts.draw(&mut sheet, &line, x, y, Rgb::WHITE);
            }
            sheet
        }
    }
}

fn label(fonts: &mut Fonts, palette: &Palette, text: Option<&str>, muted: bool, size: f32, max_width: f32) -> Sheet {
    let height = (size * 1.75).round();
    let padding = (size * 0.62).round();
    let icon = if muted { (size * 0.95).round() } else { 0.0 };
    let space = if muted { (size * 0.4).round() } else { 0.0 };
    let room = max_width - 2.0 * padding - icon - space;
    let line = text.and_then(|text| fonts.line(text, size, room));
    let width = match (&line, muted) {
        (Some(line), _) => 2.0 * padding + icon + space + line.width.ceil(),
        // A microphone alone sits in a disc.
        (None, true) => height,
        (None, false) => return Sheet::new(0, 0),
    };
    let mut sheet = Sheet::new(width as usize, height as usize);
    let (width, height) = (sheet.width() as f32, sheet.height() as f32);
    let (pill, alpha) = palette.pill;
    sheet.shape(pill, alpha, rounded(width, height, height / 2.0, 0.0));
    if muted {
        let left = if line.is_some() { padding } else { (width - icon) / 2.0 };
        muted_microphone(&mut sheet, palette, left, (height - icon) / 2.0, icon);
    }
    if let Some(line) = &line {
        fonts.draw(&mut sheet, line, padding + icon + space, height / 2.0 + size * 0.35, Rgb::WHITE);
    }
    sheet
}

/// A crossed-out microphone in a square of `side` pixels at (`left`, `top`).
fn muted_microphone(sheet: &mut Sheet, palette: &Palette, left: f32, top: f32, side: f32) {
    let at = |x: f32, y: f32| (left + x * side, top + y * side);
    let stroke = (side * 0.11).max(1.0);
    let mut ink = Sheet::new(sheet.width(), sheet.height());
    ink.shape(palette.alert, 1.0, line(at(0.5, 0.2), at(0.5, 0.44), side * 0.34));
    // The holder: the lower half of a circle around the capsule's foot, then the stem.
    let (middle_x, middle_y) = at(0.5, 0.44);
    ink.shape(palette.alert, 1.0, move |x, y| {
        let ring = ((x - middle_x).hypot(y - middle_y) - side * 0.32).abs() - stroke / 2.0;
        ring.max(middle_y - y)
    });
    ink.shape(palette.alert, 1.0, line(at(0.5, 0.78), at(0.5, 0.97), stroke));
    ink.cut(line(at(0.1, 0.06), at(0.94, 0.94), stroke * 3.0));
    ink.shape(palette.alert, 1.0, line(at(0.08, 0.06), at(0.92, 0.94), stroke * 1.1));
    sheet.lay(&ink);
}
