//! Draws arrangements onto a canvas, and only what changed since the last one.
//!
//! Owns looks: themes, round tiles, labels, marks, placeholders, overlays, and the bookkeeping of what is on the canvas. Does not
//! own where things are (see [`crate::layout`]), nor pictures and canvases (see [`crate::frame`]).

mod badge;
mod colour;
mod dress;
mod scale;
mod shrink;
mod stamp;
mod surface;
mod text;

use crate::frame::{Canvas, Picture, PictureId};
use crate::layout::{Arrangement, Content, Corner, Mark, Overlay, Rect, SourceId, Theme, Tile};
use badge::{Badge, Badges, Drawn};
use colour::Palette;
use dress::Ground;
pub use dress::{Error as LookError, wear};
use roomreel_shared::look::Look;
pub(crate) use scale::fitted;
use surface::{Corners, Kept};
pub(crate) use text::load_fonts;

/// Draws one composite, frame after frame.
///
/// It relies on the canvas holding what it drew last: always give it the same one, or call [`Self::forget`].
pub struct Painter {
    canvas: Rect,
    theme: Theme,
    badges: Badges,
    ground: Ground,
    watermark: Option<dress::Mark>,
    corners: Corners,
    /// What a tile that is not solid covers.
    below: Kept,
    /// On the canvas now, in the order it was drawn. `None`: nothing is known about the canvas.
    drawn: Option<Vec<Item>>,
}

/// One thing on the canvas with everything its pixels depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Tile { tile: Tile, picture: Option<PictureId> },
    Overlay { overlay: Overlay, rect: Rect },
}

impl Item {
    fn rect(&self) -> Rect {
        match self {
            Self::Tile { tile, .. } => tile.rect,
            Self::Overlay { rect, .. } => *rect,
        }
    }

    /// Whether `self` in place of `old` leaves no pixel of `old` behind but in its corners.
    fn covers(&self, old: &Self) -> bool {
        matches!((self, old), (Self::Tile { tile, .. }, Self::Tile { .. }) if tile.opacity == u8::MAX)
            && self.rect() == old.rect()
    }
}

impl Painter {
    /// For canvases of `width` x `height` pixels.
    #[must_use]
    pub fn new(width: u32, height: u32) -> Self {
        let theme = Theme::default();
        Self {
            canvas: Rect::new(0, 0, width, height),
            theme,
            badges: Badges::new(Palette::of(theme)),
            ground: Ground::default(),
            watermark: None,
            corners: Corners::default(),
            below: Kept::default(),
            drawn: None,
        }
    }

    /// The same in a look's background and with its watermark's picture.
    ///
    /// # Errors
    /// If one of its pictures cannot be read.
    pub fn dressed(width: u32, height: u32, look: &Look) -> Result<Self, LookError> {
        let canvas = Rect::new(0, 0, width, height);
        let watermark = look.watermark.as_ref().map(|watermark| dress::mark(watermark, canvas)).transpose()?;
        Ok(Self { ground: dress::ground(look, canvas)?, watermark: watermark.flatten(), ..Self::new(width, height) })
    }

    /// The canvas may hold anything: the next frame is drawn whole.
    pub fn forget(&mut self) {
        self.drawn = None;
    }

    /// Draws the arrangement and returns how many tiles and overlays had to be drawn anew: 0 means that the canvas is as it was.
    ///
    /// A tile of [`Content::Picture`] for which `picture_of` knows none shows the placeholder.
    ///
    /// # Panics
    /// If the canvas has another size than the painter was made for.
    pub fn paint(
        &mut self,
        canvas: &mut Canvas,
        arrangement: &Arrangement,
        picture_of: &dyn Fn(&SourceId) -> Option<Picture>,
    ) -> usize {
        let size = (self.canvas.width as usize, self.canvas.height as usize);
        assert_eq!((canvas.width(), canvas.height()), size, "the canvas is the one the painter was made for");
        self.badges.next_frame();
        if arrangement.theme != self.theme {
            self.theme = arrangement.theme;
            self.badges.set_palette(Palette::of(self.theme));
            self.drawn = None;
        }
        let (items, pictures) = self.items(arrangement, picture_of);
        let is_dirty = self.clear(canvas, &items);
        for ((item, picture), _) in items.iter().zip(&pictures).zip(&is_dirty).filter(|(_, is_dirty)| **is_dirty) {
            match item {
                Item::Tile { tile, .. } => self.tile(canvas, tile, picture.as_ref()),
                Item::Overlay { overlay, rect } => {
                    if let Some(drawn) = self.overlay(overlay) {
                        drawn.stamp.press(canvas, rect.x, rect.y);
                    }
                }
            }
        }
        self.drawn = Some(items);
        is_dirty.into_iter().filter(|is_dirty| *is_dirty).count()
    }

    /// What will be on the canvas, in the order of drawing, and the pictures for it.
    fn items(
        &mut self,
        arrangement: &Arrangement,
        picture_of: &dyn Fn(&SourceId) -> Option<Picture>,
    ) -> (Vec<Item>, Vec<Option<Picture>>) {
        let mut items = Vec::with_capacity(arrangement.tiles.len() + arrangement.overlays.len());
        let mut pictures = Vec::with_capacity(arrangement.tiles.len());
        // A layout keeps tiles inside; a caller's own arrangement is held to it here.
        let is_there = |tile: &&Tile| !tile.rect.is_empty() && tile.opacity > 0 && self.canvas.contains(&tile.rect);
        let mut tiles: Vec<_> = arrangement.tiles.iter().filter(is_there).collect();
        tiles.sort_by_key(|tile| tile.z);
        for tile in tiles.iter().copied().filter(|tile| !is_covered(tile, tiles.iter().copied())) {
            let picture = match tile.content {
                Content::Picture => picture_of(&tile.source),
                Content::Placeholder => None,
            };
            items.push(Item::Tile { tile: tile.clone(), picture: picture.as_ref().map(Picture::id) });
            pictures.push(picture);
        }
        let mut taken = [0; 4];
        for overlay in &arrangement.overlays {
            let (canvas, margin) = (self.canvas, self.unit(12));
            let Some(drawn) = self.overlay(overlay) else { continue };
            let (width, height) = (drawn.width.min(canvas.width), drawn.height.min(canvas.height));
            // Several in one corner stack up, away from the edge.
            let offset = &mut taken[overlay.corner as usize];
            let far = |side: u32, length: u32, margin: u32| side.saturating_sub(length + margin);
            let x = match overlay.corner {
                Corner::TopLeft | Corner::BottomLeft => margin.min(self.canvas.width - width),
                Corner::TopRight | Corner::BottomRight => far(self.canvas.width, width, margin),
            };
            let y = match overlay.corner {
                Corner::TopLeft | Corner::TopRight => (margin + *offset).min(self.canvas.height - height),
                Corner::BottomLeft | Corner::BottomRight => far(self.canvas.height, height, margin + *offset),
            };
            *offset += height + margin / 2;
            items.push(Item::Overlay { overlay: overlay.clone(), rect: Rect::new(x, y, width, height) });
            pictures.push(None);
        }
        (items, pictures)
    }

    /// Brings the background back where something went or will be drawn anew with soft edges; says which items to draw.
    fn clear(&mut self, canvas: &mut Canvas, items: &[Item]) -> Vec<bool> {
        let background = self.badges.palette().background;
        let Some(drawn) = &self.drawn else {
            self.ground.lay(canvas, self.canvas, background);
            return vec![true; items.len()];
        };
        let mut is_dirty: Vec<_> = items.iter().map(|item| !drawn.contains(item)).collect();
        let mut damage: Vec<Rect> = drawn.iter().filter(|old| !items.contains(old)).map(Item::rect).collect();
        damage.extend(items.iter().zip(&is_dirty).filter(|(_, is_dirty)| **is_dirty).map(|(item, _)| item.rect()));
        // What touches a damaged place is drawn anew, which damages all of its own place.
        let mut seen = 0;
        while seen < damage.len() {
            let rect = damage[seen];
            for (item, is_dirty) in items.iter().zip(&mut is_dirty) {
                if !*is_dirty && item.rect().overlaps(&rect) {
                    *is_dirty = true;
                    damage.push(item.rect());
                }
            }
            seen += 1;
        }
        for rect in damage {
            let old = drawn.iter().find(|old| old.rect() == rect);
            let new = items.iter().find(|new| new.rect() == rect);
            match (old, new) {
                (Some(old), Some(new @ Item::Tile { tile, .. })) if new.covers(old) => {
                    let radius =
                        radius_of(tile).max(if let Item::Tile { tile, .. } = old { radius_of(tile) } else { 0 });
                    if radius > 0 {
                        for corner in surface::corners(rect, radius) {
                            self.ground.lay(canvas, corner, background);
                        }
                    }
                }
                _ => self.ground.lay(canvas, rect, background),
            }
        }
        is_dirty
    }

    fn tile(&mut self, canvas: &mut Canvas, tile: &Tile, picture: Option<&Picture>) {
        let is_solid = tile.opacity == u8::MAX;
        if !is_solid {
            self.below.keep(canvas, tile.rect);
        }
        let placement = picture.and_then(|picture| {
            let placement = scale::placement(picture.width(), picture.height(), tile.rect, tile.fit)?;
            Some((picture, placement))
        });
        // A picture that does not fill its tile wears the corners and marks itself.
        let rect = placement.map_or(tile.rect, |(_, placement)| placement.target);
        if rect != tile.rect {
            self.ground.lay(canvas, tile.rect, self.badges.palette().background);
        }
        let radius = radius_of(tile).min(rect.width / 2).min(rect.height / 2) & !1;
        if radius > 0 {
            self.corners.keep(canvas, rect, radius);
        }
        match placement {
            Some((picture, placement)) => scale::draw(canvas, picture, placement),
            None => self.placeholder(canvas, tile),
        }
        if radius > 0 {
            self.corners.round(canvas, radius);
        }
        self.marks(canvas, tile, rect, radius);
        if !is_solid {
            self.below.mix_back(canvas, tile.opacity);
        }
    }

    fn placeholder(&mut self, canvas: &mut Canvas, tile: &Tile) {
        surface::fill(canvas, tile.rect, self.badges.palette().card.to_yuv());
        let diameter = (tile.rect.width.min(tile.rect.height) * 9 / 20).min(self.unit(220)) & !1;
        if diameter < 8 {
            return;
        }
        let colour = colour::of_peer(&tile.source.peer);
        let drawn = self.badges.get(Badge::Avatar { name: tile.name.clone(), colour, diameter });
        let (x, y) = ((tile.rect.width - drawn.width) / 2, (tile.rect.height - drawn.height) / 2);
        drawn.stamp.press(canvas, tile.rect.x + (x & !1), tile.rect.y + (y & !1));
    }

    fn marks(&mut self, canvas: &mut Canvas, tile: &Tile, rect: Rect, radius: u32) {
        let Rect { x, y, width, height } = rect;
        if tile.speaking {
            let thickness = self.unit(3).max(2);
            let drawn = self.badges.get(Badge::Ring { width, height, radius, thickness });
            drawn.stamp.press(canvas, x, y);
        }
        // A twentieth of the tile, within what can be read and what would shout.
        let size = (height / 20).clamp(self.unit(12).max(9), self.unit(17).max(9));
        let margin = (size * 2 / 3) & !1;
        let max_width = width.saturating_sub(2 * margin);
        if max_width < size * 3 || height < size * 3 || (tile.label.is_none() && !tile.muted) {
            return;
        }
        let badge = Badge::Label { text: tile.label.clone(), muted: tile.muted, size, max_width };
        let drawn = self.badges.get(badge);
        drawn.stamp.press(canvas, x + margin, (y + height).saturating_sub(drawn.height + margin));
    }

    fn overlay(&mut self, overlay: &Overlay) -> Option<Drawn<'_>> {
        match &overlay.mark {
            Mark::Text(text) => {
                let (size, max_width) = (self.unit(15).max(9), self.canvas.width.saturating_sub(2 * self.unit(12)));
                Some(self.badges.get(Badge::Label { text: Some(text.clone()), muted: false, size, max_width }))
            }
            Mark::Watermark => {
                let dress::Mark { stamp, width, height } = self.watermark.as_ref()?;
                Some(Drawn { stamp, width: *width, height: *height })
            }
        }
    }

    /// Pixels for what is `at_720` on 720 lines; even.
    fn unit(&self, at_720: u32) -> u32 {
        let scaled = self.canvas.width.min(self.canvas.height) * at_720 / 720;
        if at_720 > 4 { scaled & !1 } else { scaled }
    }
}

/// Whether nothing of a tile can be seen because a solid one is above all of it.
pub(crate) fn is_covered<'a>(tile: &Tile, mut by: impl Iterator<Item = &'a Tile>) -> bool {
    by.any(|above| above.z > tile.z && above.opacity == u8::MAX && above.radius == 0 && above.rect.contains(&tile.rect))
}

/// As round as asked, but no rounder than a circle.
fn radius_of(tile: &Tile) -> u32 {
    tile.radius.min(tile.rect.width / 2).min(tile.rect.height / 2) & !1
}

#[cfg(test)]
mod tests;
