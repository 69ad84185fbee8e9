//! The geometry of equal tiles: how many columns, how large, where.
//!
//! Owns the arithmetic. Does not own who gets which cell.

use super::arrangement::Rect;

/// Most tiles on one page: more are too small to recognise anybody in.
pub(super) const MAX_TILES: usize = 25;
/// A tile narrower than this shows nothing; smaller canvases get fewer tiles a page.
const MIN_TILE_WIDTH: u32 = 64;
/// Side lengths of a tile.
const ASPECT: (u32, u32) = (16, 9);

/// Distances that grow with the canvas; what looks right at 720 lines looks right at any size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Metrics {
    /// Pixels between tiles, and between tiles and the edge.
    pub gutter: u32,
    /// Corner radius, pixels.
    pub radius: u32,
}

impl Metrics {
    pub fn of(width: u32, height: u32) -> Self {
        let short = width.min(height);
        Self { gutter: even(short * 8 / 720).max(2), radius: short * 12 / 720 }
    }

    /// Gutter of a grid whose longer side has `cells` cells: small tiles stand closer.
    fn gutter_for(self, cells: u32) -> u32 {
        match cells {
            0..=3 => self.gutter,
            4 => even(self.gutter * 2 / 3).max(2),
            _ => even(self.gutter / 2).max(2),
        }
    }
}

/// Places for `count` tiles in `area`, all of one size at 16:9, evenly spaced by `gutter` inside and out, rows centred,
/// as large as they can be. Empty if they cannot have a pixel.
pub(super) fn cells(area: Rect, count: usize, metrics: Metrics) -> Vec<Rect> {
    let count = u32::try_from(count.min(MAX_TILES)).unwrap_or(0);
    let best = (1..=count).map(|columns| Grid::new(area, columns, count.div_ceil(columns), metrics));
    // `rev`: of equally large ones the one with fewer columns has fewer holes.
    best.rev().max_by_key(|grid| grid.width).map(|grid| grid.places(area, count)).unwrap_or_default()
}

/// Places for `columns` x `rows` cells that share `area` evenly, whatever their aspect: the grid of a region.
pub(super) fn sharing(area: Rect, columns: u32, rows: u32, gutter: u32) -> Vec<Rect> {
    let width = even(area.width.saturating_sub(gutter * (columns - 1)) / columns);
    let height = even(area.height.saturating_sub(gutter * (rows - 1)) / rows);
    Grid { columns, rows, width, height, gutter }.places(area, columns * rows)
}

/// Columns and rows for `count` tiles in `area`, within limits: those of the largest 16:9 tiles.
pub(super) fn columns_and_rows(area: Rect, count: usize, max_columns: u32, max_rows: u32) -> (u32, u32) {
    let count = u32::try_from(count).unwrap_or(u32::MAX).clamp(1, max_columns.saturating_mul(max_rows));
    let none = Metrics { gutter: 0, radius: 0 };
    let least = count.div_ceil(max_rows).max(1);
    (least..=max_columns.min(count))
        .rev()
        .map(|columns| Grid::new(area, columns, count.div_ceil(columns), none))
        .max_by_key(|grid| grid.width)
        .map_or((1, 1), |grid| (grid.columns, grid.rows))
}

/// How many tiles a page of `area` has room for.
pub(super) fn capacity(area: Rect, metrics: Metrics) -> usize {
    (1..=MAX_TILES)
        .rev()
        .find(|count| cells(area, *count, metrics).first().is_some_and(|cell| cell.width >= MIN_TILE_WIDTH))
        .unwrap_or(1)
}

/// Places for at most `count` tiles in one row or column along `area`, as thick as it is, centred; fewer if they do
/// not fit.
pub(super) fn strip(area: Rect, count: usize, gutter: u32) -> Vec<Rect> {
    let along_y = area.height > area.width;
    let tile = fit_aspect(area.width, area.height);
    if tile.0 == 0 || tile.1 == 0 {
        return Vec::new();
    }
    let room =
        if along_y { (area.height + gutter) / (tile.1 + gutter) } else { (area.width + gutter) / (tile.0 + gutter) };
    let count = u32::try_from(count).unwrap_or(u32::MAX).min(room.max(1));
    let (columns, rows) = if along_y { (1, count) } else { (count, 1) };
    Grid { columns, rows, width: tile.0, height: tile.1, gutter }.places(area, count)
}

/// The largest 16:9 rectangle in `area`, centred.
pub(super) fn stage(area: Rect) -> Rect {
    let (width, height) = fit_aspect(area.width, area.height);
    Rect::new(area.x + (area.width - width) / 2, area.y + (area.height - height) / 2, width, height)
}

#[derive(Debug, Clone, Copy)]
struct Grid {
    columns: u32,
    rows: u32,
    width: u32,
    height: u32,
    gutter: u32,
}

impl Grid {
    fn new(area: Rect, columns: u32, rows: u32, metrics: Metrics) -> Self {
        let gutter = metrics.gutter_for(columns.max(rows));
        let width = area.width.saturating_sub(gutter * (columns + 1)) / columns;
        let height = area.height.saturating_sub(gutter * (rows + 1)) / rows;
        let (width, height) = fit_aspect(width, height);
        Self { columns, rows, width, height, gutter }
    }

    fn places(self, area: Rect, count: u32) -> Vec<Rect> {
        if self.width == 0 || self.height == 0 {
            return Vec::new();
        }
        let (step_x, step_y) = (self.width + self.gutter, self.height + self.gutter);
        let top = area.y + area.height.saturating_sub(step_y * self.rows - self.gutter) / 2;
        (0..count)
            .map(|index| {
                let (row, column) = (index / self.columns, index % self.columns);
                let in_row = (count - row * self.columns).min(self.columns);
                let left = area.x + area.width.saturating_sub(step_x * in_row - self.gutter) / 2;
                Rect::new(even(left) + column * step_x, even(top) + row * step_y, self.width, self.height)
            })
            .collect()
    }
}

/// The largest 16:9 size within `width` x `height`, even.
fn fit_aspect(width: u32, height: u32) -> (u32, u32) {
    let width = even(width.min(height * ASPECT.0 / ASPECT.1));
    // To the nearest even height: rounding down twice would show as a flat tile at small sizes.
    let tall = (width * ASPECT.1 / ASPECT.0).next_multiple_of(2);
    (width, tall.min(even(height)))
}

fn even(value: u32) -> u32 {
    value & !1
}
