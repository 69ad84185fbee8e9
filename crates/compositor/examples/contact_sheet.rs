//! Draws every layout side by side: `cargo run -p roomreel-compositor --example contact_sheet -- OUT.png [NAME]`.
//! With the name of a picture, that one at full size.

#[path = "../tests/scenes/mod.rs"]
mod scenes;

use std::path::PathBuf;

/// Pictures side by side.
const COLUMNS: usize = 4;
/// Of one thumbnail, pixels.
const CELL: (usize, usize) = (320, 180);
const GAP: usize = 12;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let out = PathBuf::from(arguments.next().expect("usage: contact_sheet OUT.png [NAME]"));
    let cases = scenes::cases();
    if let Some(name) = arguments.next() {
        let case = cases.iter().find(|case| case.name == name).expect("the name of a picture");
        let (width, height, rgb) = scenes::to_rgb(&scenes::render(case), 1);
        return scenes::write_png(&out, width, height, &rgb);
    }
    // Wide ones first in full rows, then the tall ones, two rows high.
    let (wide, tall): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case.size.0 >= case.size.1);
    let wide_rows = wide.len().div_ceil(COLUMNS);
    let tall_width = CELL.1;
    let width = (COLUMNS * (CELL.0 + GAP)).max(tall.len() * (tall_width + GAP)) + GAP;
    let top_of_tall = wide_rows * (CELL.1 + GAP) + GAP;
    let height = top_of_tall + CELL.0 + GAP;
    let mut sheet = vec![0x6b; width * height * 3];
    let places = (0..wide.len())
        .map(|index| (GAP + index % COLUMNS * (CELL.0 + GAP), GAP + index / COLUMNS * (CELL.1 + GAP)))
        .chain((0..tall.len()).map(|index| (GAP + index * (tall_width + GAP), top_of_tall)));
    for (case, (left, top)) in wide.iter().chain(&tall).zip(places) {
        let (columns, _, rgb) = scenes::to_rgb(&scenes::render(case), 4);
        for (row, pixels) in rgb.chunks_exact(columns * 3).enumerate() {
            let at = ((top + row) * width + left) * 3;
            sheet[at..at + pixels.len()].copy_from_slice(pixels);
        }
    }
    scenes::write_png(&out, width, height, &sheet);
}
