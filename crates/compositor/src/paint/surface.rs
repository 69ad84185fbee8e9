//! Rectangles of the canvas: filled, kept aside, and brought back in part.
//!
//! Owns how a tile gets its round corners and its opacity: what was below is kept, the tile is drawn whole, and then what was
//! below is mixed back in where the tile is not.

use std::collections::HashMap;

use crate::frame::Canvas;
use crate::layout::Rect;

/// Fills a rectangle with one colour.
pub(super) fn fill(canvas: &mut Canvas, rect: Rect, colour: [u8; 3]) {
    for (index, value) in colour.into_iter().enumerate() {
        each_row(canvas, rect, index, |row| row.fill(value));
    }
}

/// Copies a rectangle of a canvas to the same place of another one of the same size.
pub(super) fn copy(from: &Canvas, to: &mut Canvas, rect: Rect) {
    for index in 0..3 {
        let [x, y, width, _] = in_plane(rect, index);
        let (plane, stride) = (from.plane(index), from.stride(index));
        let mut source = plane[y * stride..].chunks(stride);
        each_row(to, rect, index, |row| {
            if let Some(source) = source.next() {
                row.copy_from_slice(&source[x..x + width]);
            }
        });
    }
}

/// What a rectangle of the canvas held.
#[derive(Debug, Default)]
pub(super) struct Kept {
    rect: Rect,
    planes: [Vec<u8>; 3],
}

impl Kept {
    /// Keeps `rect` as it is now, in the memory of what was kept before.
    pub fn keep(&mut self, canvas: &Canvas, rect: Rect) {
        self.rect = rect;
        for (index, kept) in self.planes.iter_mut().enumerate() {
            kept.clear();
            let [x, y, width, height] = in_plane(rect, index);
            let (plane, stride) = (canvas.plane(index), canvas.stride(index));
            for row in y..y + height {
                kept.extend_from_slice(&plane[row * stride + x..][..width]);
            }
        }
    }

    /// Mixes it back: `opacity` of 255 leaves what was drawn since.
    pub fn mix_back(&self, canvas: &mut Canvas, opacity: u8) {
        let (drawn, kept) = (u32::from(opacity), 255 - u32::from(opacity));
        self.each_row(canvas, |row, below, _| {
            for (pixel, below) in row.iter_mut().zip(below) {
                *pixel = mix(*pixel, drawn, *below, kept);
            }
        });
    }

    /// Mixes it back where `mask` says; the mask is of the rectangle's size.
    fn mix_back_by(&self, canvas: &mut Canvas, mask: &CornerMask, mirror: (bool, bool)) {
        let rows = [self.rect.height, self.rect.height / 2, self.rect.height / 2];
        self.each_row(canvas, |row, below, (index, line)| {
            let line = if mirror.1 { rows[index] as usize - 1 - line } else { line };
            let width = row.len();
            let coverage = &mask.planes[usize::from(index > 0)][line * width..][..width];
            for (column, (pixel, below)) in row.iter_mut().zip(below).enumerate() {
                let drawn = u32::from(coverage[if mirror.0 { width - 1 - column } else { column }]);
                *pixel = mix(*pixel, drawn, *below, 255 - drawn);
            }
        });
    }

    /// Rows of the canvas with what was kept of them, and which plane and row of the rectangle they are.
    fn each_row(&self, canvas: &mut Canvas, mut change: impl FnMut(&mut [u8], &[u8], (usize, usize))) {
        for (index, kept) in self.planes.iter().enumerate() {
            let width = in_plane(self.rect, index)[2].max(1);
            let mut lines = kept.chunks_exact(width).enumerate();
            each_row(canvas, self.rect, index, |row| {
                if let Some((line, below)) = lines.next() {
                    change(row, below, (index, line));
                }
            });
        }
    }
}

/// The four corners of a tile before it was drawn.
#[derive(Debug, Default)]
pub(super) struct Corners {
    kept: [Kept; 4],
    masks: HashMap<u32, CornerMask>,
}

impl Corners {
    /// Keeps what is below the corners of a tile that is about to be drawn.
    pub fn keep(&mut self, canvas: &Canvas, tile: Rect, radius: u32) {
        for (kept, corner) in self.kept.iter_mut().zip(corners(tile, radius)) {
            kept.keep(canvas, corner);
        }
    }

    /// Rounds the corners of the tile drawn since.
    pub fn round(&mut self, canvas: &mut Canvas, radius: u32) {
        let mask = self.masks.entry(radius).or_insert_with(|| CornerMask::new(radius));
        for (kept, mirror) in self.kept.iter().zip([(false, false), (true, false), (false, true), (true, true)]) {
            kept.mix_back_by(canvas, mask, mirror);
        }
    }
}

/// Squares in the corners of a tile, large enough for its radius.
pub(super) fn corners(tile: Rect, radius: u32) -> [Rect; 4] {
    let side = radius.next_multiple_of(2);
    let (right, bottom) = (tile.right() - side, tile.bottom() - side);
    [(tile.x, tile.y), (right, tile.y), (tile.x, bottom), (right, bottom)].map(|(x, y)| Rect::new(x, y, side, side))
}

/// How much of each pixel of an upper left corner is inside; luma, then chroma.
#[derive(Debug)]
struct CornerMask {
    planes: [Vec<u8>; 2],
}

impl CornerMask {
    fn new(radius: u32) -> Self {
        let side = radius.next_multiple_of(2) as usize;
        let centre = radius as f32;
        let inside = |x: usize, y: usize| {
            let (dx, dy) = ((centre - x as f32 - 0.5).max(0.0), (centre - y as f32 - 0.5).max(0.0));
            (255.0 * (centre + 0.5 - dx.hypot(dy)).clamp(0.0, 1.0)).round() as u8
        };
        let luma: Vec<_> = (0..side * side).map(|at| inside(at % side, at / side)).collect();
        let half = side / 2;
        let chroma = (0..half * half).map(|at| {
            let corner = at / half * 2 * side + at % half * 2;
            let block = [corner, corner + 1, corner + side, corner + side + 1];
            (block.iter().map(|at| u32::from(luma[*at])).sum::<u32>() / 4) as u8
        });
        let chroma = chroma.collect();
        Self { planes: [luma, chroma] }
    }
}

fn mix(drawn: u8, drawn_part: u32, below: u8, below_part: u32) -> u8 {
    ((u32::from(drawn) * drawn_part + u32::from(below) * below_part + 127) / 255) as u8
}

/// x, y, width and height of `rect` in a plane.
pub(super) fn in_plane(rect: Rect, index: usize) -> [usize; 4] {
    [rect.x, rect.y, rect.width, rect.height].map(|value| (value >> u32::from(index > 0)) as usize)
}

fn each_row(canvas: &mut Canvas, rect: Rect, index: usize, mut change: impl FnMut(&mut [u8])) {
    let [x, y, width, height] = in_plane(rect, index);
    let stride = canvas.stride(index);
    let plane = canvas.plane_mut(index);
    for row in y..y + height {
        change(&mut plane[row * stride + x..][..width]);
    }
}
