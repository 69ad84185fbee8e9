//! Draws every layout side by side: `cargo run -p roomreel-compositor --example contact_sheet -- OUT.png [NAME]`.
//! With the name of a picture, that one at full size.

#[path = "../tests/scenes/mod.rs"]
mod scenes;

use std::path::PathBuf;

use roomreel_compositor::frame::Canvas;
use roomreel_compositor::layout::{Arrangement, Corner, Overlay, parse};
use roomreel_compositor::paint::Painter;
use roomreel_shared::look::Look;
use scenes::Case;

/// Of the sheet, pixels: seven tall thumbnails, or four wide ones.
const WIDTH: usize = 7 * (180 + GAP) + GAP;
/// Pixels between a thumbnail and the next.
const GAP: usize = 12;
/// Side of the canvas on which a caption is drawn; it decides how large its letters are.
const CAPTION_CANVAS: usize = 620;
/// Where the caption begins on its canvas, and how tall it is, pixels.
const CAPTION_TOP: usize = 8;
const CAPTION_HEIGHT: usize = 54;
const GREY: u8 = 0x6b;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let out = PathBuf::from(arguments.next().expect("usage: contact_sheet OUT.png [NAME]"));
    let cases = scenes::cases();
    if let Some(name) = arguments.next() {
        let case = cases.iter().find(|case| case.name == name).expect("the name of a picture");
        let (width, height, rgb) = scenes::to_rgb(&scenes::render(case), 1);
        return scenes::write_png(&out, width, height, &rgb);
    }
    // Wide ones first, then the tall ones, each a quarter of its size and below its caption.
    let (wide, tall): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case.size.0 >= case.size.1);
    let mut sheet = Sheet::default();
    for case in wide {
        sheet.add(case, WIDTH / (320 + GAP));
    }
    sheet.end_row();
    for case in tall {
        sheet.add(case, WIDTH / (180 + GAP));
    }
    sheet.end_row();
    scenes::write_png(&out, WIDTH, sheet.rgb.len() / 3 / WIDTH, &sheet.rgb);
}

/// Rows of thumbnails, one below the other.
#[derive(Default)]
struct Sheet {
    rgb: Vec<u8>,
    in_row: usize,
    top: usize,
}

impl Sheet {
    fn add(&mut self, case: &Case, columns: usize) {
        let (width, _, picture) = scenes::to_rgb(&scenes::render(case), 4);
        if self.in_row == columns {
            self.end_row();
        }
        let left = GAP + self.in_row * (width + GAP);
        self.lay(&caption(case), CAPTION_CANVAS, left, self.top, width);
        self.lay(&picture, width, left, self.top + CAPTION_HEIGHT, width);
        self.in_row += 1;
    }

    fn end_row(&mut self) {
        self.rgb.resize(self.rgb.len() + GAP * WIDTH * 3, GREY);
        self.top = self.rgb.len() / 3 / WIDTH;
        self.in_row = 0;
    }

    /// Puts `columns` columns of a picture at a place.
    fn lay(&mut self, rgb: &[u8], picture_width: usize, left: usize, top: usize, columns: usize) {
        let bottom = top + rgb.len() / 3 / picture_width;
        self.rgb.resize(self.rgb.len().max(bottom * WIDTH * 3), GREY);
        for (row, pixels) in rgb.chunks_exact(picture_width * 3).enumerate() {
            let at = ((top + row) * WIDTH + left) * 3;
            self.rgb[at..at + columns * 3].copy_from_slice(&pixels[..columns * 3]);
        }
    }
}

/// What a picture shows in two lines, in the letters of the pictures themselves: [`CAPTION_CANVAS`] columns of sRGB.
fn caption(case: &Case) -> Vec<u8> {
    let is_named = parse(&case.layout).expect("a layout of the table").document().is_none();
    let name = if is_named { case.layout.as_str() } else { "region document" };
    let mut parts = vec![match case.scene.participants.len() {
        1 => "1 person".to_owned(),
        count => format!("{count} people"),
    }];
    parts.extend(case.scene.screenshares.iter().map(|_| "a shared screen".to_owned()));
    parts.extend(case.look.clock.map(|_| "a clock".to_owned()));
    parts.extend(case.look.backdrop.as_ref().map(|_| "a backdrop".to_owned()));
    parts.extend(case.look.watermark.as_ref().map(|_| "a watermark".to_owned()));
    let lines = [name.to_owned(), parts.join(", ")].map(|line| Overlay::text(line, Corner::TopLeft));
    let arrangement = Arrangement { overlays: lines.to_vec(), ..Arrangement::default() };
    let background = Some(format!("#{GREY:02x}{GREY:02x}{GREY:02x}"));
    let mut canvas = Canvas::new(CAPTION_CANVAS, CAPTION_CANVAS);
    Painter::dressed(CAPTION_CANVAS as u32, CAPTION_CANVAS as u32, &Look { background, ..Look::default() })
        .expect("a colour")
        .paint(&mut canvas, &arrangement, &|_| None);
    let (width, _, rgb) = scenes::to_rgb(&canvas, 1);
    rgb[CAPTION_TOP * width * 3..(CAPTION_TOP + CAPTION_HEIGHT) * width * 3].to_vec()
}
