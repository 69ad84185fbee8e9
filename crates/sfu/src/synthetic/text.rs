//! Text as masks, drawn once and stamped often.

use std::collections::HashMap;

use cosmic_text::{Attrs, Buffer, Color, Family, FontSystem, Metrics, Shaping, SwashCache, Weight};

/// Coverage of each pixel, 0 to 255.
#[derive(Debug, Clone, Default)]
pub(super) struct Mask {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) coverage: Vec<u8>,
}

/// The fonts of the system; loading them is slow, so all participants share one.
pub(super) struct Fonts {
    system: FontSystem,
    cache: SwashCache,
}

impl Fonts {
    pub(super) fn load() -> Self {
        Self { system: FontSystem::new(), cache: SwashCache::new() }
    }

    /// `text` on one line; `size` in pixels.
    pub(super) fn draw(&mut self, text: &str, size: f32, family: Family<'_>) -> Mask {
        let mut buffer = Buffer::new(&mut self.system, Metrics::new(size, size * 1.3));
        let attrs = Attrs::new().family(family).weight(Weight::BOLD);
        buffer.set_text(text, &attrs, Shaping::Advanced, None);
        buffer.shape_until_scroll(&mut self.system, false);
        let width = buffer.layout_runs().map(|run| run.line_w.ceil() as usize).max().unwrap_or(0) + 2;
        let height = (size * 1.3).ceil() as usize + 2;
        let mut mask = Mask { width, height, coverage: vec![0; width * height] };
        buffer.draw(&mut self.system, &mut self.cache, Color::rgb(255, 255, 255), |x, y, w, h, color| {
            for y in y..y + h as i32 {
                for x in x..x + w as i32 {
                    let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { continue };
                    if x < width && y < height {
                        let at = &mut mask.coverage[y * width + x];
                        *at = (*at).max(color.a());
                    }
                }
            }
        });
        mask
    }
}

/// A clock's digits, all equally wide.
pub(super) struct ClockFace {
    glyphs: HashMap<char, Mask>,
    advance: usize,
}

impl ClockFace {
    pub(super) fn new(fonts: &mut Fonts, size: f32) -> Self {
        let draw = |glyph: char| (glyph, fonts.draw(&glyph.to_string(), size, Family::SansSerif));
        let glyphs: HashMap<char, Mask> = "0123456789:.".chars().map(draw).collect();
        let advance = glyphs.values().map(|mask| mask.width).max().unwrap_or(0).saturating_sub(1);
        Self { glyphs, advance }
    }

    /// The glyphs of `text` with the x at which each stands.
    pub(super) fn lay_out<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, &'a Mask)> + 'a {
        let glyphs = text.chars().filter_map(|glyph| self.glyphs.get(&glyph));
        glyphs
            .enumerate()
            .map(|(place, mask)| (place * self.advance + (self.advance.saturating_sub(mask.width)) / 2, mask))
    }
}
