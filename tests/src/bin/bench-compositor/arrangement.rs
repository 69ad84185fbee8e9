//! Where the tiles are: a square of equal ones, the same for everybody.

/// Pixels of the canvas.
pub const WIDTH: usize = 1280;
pub const HEIGHT: usize = 720;

/// A tile's place.
#[derive(Debug, Clone, Copy)]
pub struct Tile {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
}

/// Tiles for `count` participants, row by row.
pub fn tiles(count: usize) -> Vec<Tile> {
    let side = (1..).find(|side| side * side >= count).unwrap_or(1);
    let (width, height) = ((WIDTH / side) & !1, (HEIGHT / side) & !1);
    (0..count).map(|at| Tile { x: at % side * width, y: at / side * height, width, height }).collect()
}
