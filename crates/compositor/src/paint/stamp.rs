//! Small drawings with soft edges: made once in RGB, kept as I420 with coverage, pressed onto the canvas each frame.
//!
//! Owns shapes, blending and their anti-aliasing in all three planes. Does not own what is drawn.

use super::colour::Rgb;
use crate::frame::Canvas;

/// Where a stamp is being drawn: colours premultiplied by coverage, all 0 to 1.
pub(super) struct Sheet {
    width: usize,
    height: usize,
    pixels: Vec<[f32; 4]>,
}

impl Sheet {
    /// An empty one; sides are rounded up to even.
    pub fn new(width: usize, height: usize) -> Self {
        let (width, height) = (width.next_multiple_of(2).max(2), height.next_multiple_of(2).max(2));
        Self { width, height, pixels: vec![[0.0; 4]; width * height] }
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    /// Puts `colour` over one pixel; outside of the sheet nothing happens.
    pub fn over(&mut self, x: i32, y: i32, colour: Rgb, alpha: f32) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x >= self.width || y >= self.height || alpha <= 0.0 {
            return;
        }
        let pixel = &mut self.pixels[y * self.width + x];
        let colour = [colour.0, colour.1, colour.2].map(|part| f32::from(part) / 255.0 * alpha);
        for (below, part) in pixel.iter_mut().zip(colour.into_iter().chain([alpha])) {
            *below = *below * (1.0 - alpha) + part;
        }
    }

    /// Fills where `distance` (pixels from the shape's edge, negative inside) says so.
    pub fn shape(&mut self, colour: Rgb, alpha: f32, distance: impl Fn(f32, f32) -> f32) {
        for y in 0..self.height {
            for x in 0..self.width {
                let coverage = (0.5 - distance(x as f32 + 0.5, y as f32 + 0.5)).clamp(0.0, 1.0);
                self.over(x as i32, y as i32, colour, coverage * alpha);
            }
        }
    }

    /// Takes away where `distance` says so.
    pub fn cut(&mut self, distance: impl Fn(f32, f32) -> f32) {
        for y in 0..self.height {
            for x in 0..self.width {
                let kept = (0.5 + distance(x as f32 + 0.5, y as f32 + 0.5)).clamp(0.0, 1.0);
                self.pixels[y * self.width + x].iter_mut().for_each(|part| *part *= kept);
            }
        }
    }

    /// Puts another sheet of the same size over this one.
    pub fn lay(&mut self, other: &Self) {
        for (below, pixel) in self.pixels.iter_mut().zip(&other.pixels) {
            for (below, part) in below.iter_mut().zip(pixel) {
                *below = *below * (1.0 - pixel[3]) + part;
            }
        }
    }

    /// The finished drawing.
    pub fn into_stamp(self) -> Stamp {
        let chroma_width = self.width / 2;
        let mut planes = [0, 1, 2].map(|_| Plane::default());
        for y in 0..self.height {
            planes[0].push_row((0..self.width).map(|x| {
                let pixel = self.pixels[y * self.width + x];
                (weighted(pixel, LUMA), pixel[3])
            }));
        }
        for (index, weights) in [(1, BLUE), (2, RED)] {
            for y in 0..self.height / 2 {
                planes[index].push_row((0..chroma_width).map(|x| {
                    let corner = 2 * y * self.width + 2 * x;
                    let block = [corner, corner + 1, corner + self.width, corner + self.width + 1];
                    let sum = block.iter().fold([0.0; 4], |sum: [f32; 4], at| {
                        std::array::from_fn(|part| sum[part] + self.pixels[*at][part])
                    });
                    let mean = sum.map(|part| part / 4.0);
                    (weighted(mean, weights), mean[3])
                }));
            }
        }
        Stamp { planes }
    }
}

/// Weights of red, green and blue, and the offset: BT.601 in limited range, on 0..255.
const LUMA: [f32; 4] = [65.481, 128.553, 24.966, 16.0];
const BLUE: [f32; 4] = [-37.797, -74.203, 112.0, 128.0];
const RED: [f32; 4] = [112.0, -93.786, -18.214, 128.0];

/// Premultiplied: the offset counts as much as the pixel does.
fn weighted(pixel: [f32; 4], weights: [f32; 4]) -> f32 {
    pixel.iter().zip(weights).map(|(part, weight)| part * weight).sum()
}

/// A drawing ready to be pressed onto a canvas at an even place.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    planes: [Plane; 3],
}

/// Runs of pixels that are not empty.
#[derive(Debug, Default)]
struct Plane {
    rows: usize,
    runs: Vec<Run>,
    /// Value times coverage, and what is left of the pixel below; both of 255 * 257, so that whole numbers are exact.
    pixels: Vec<(u16, u16)>,
}

#[derive(Debug)]
struct Run {
    row: usize,
    column: usize,
    /// In `pixels`.
    first: usize,
    length: usize,
}

impl Plane {
    fn push_row(&mut self, row: impl Iterator<Item = (f32, f32)>) {
        for (column, (value, alpha)) in row.enumerate() {
            if alpha < 1.0 / 512.0 {
                continue;
            }
            let pixel = ((value * 256.0).round().max(0.0) as u16, ((1.0 - alpha) * 256.0).round().max(0.0) as u16);
            let first = self.pixels.len();
            match self.runs.last_mut() {
                Some(run) if run.row == self.rows && run.column + run.length == column => run.length += 1,
                _ => self.runs.push(Run { row: self.rows, column, first, length: 1 }),
            }
            self.pixels.push(pixel);
        }
        self.rows += 1;
    }
}

impl Stamp {
    /// Presses it onto the canvas with its upper left corner at (`x`, `y`), which are even; what is outside is cut off.
    pub fn press(&self, canvas: &mut Canvas, x: u32, y: u32) {
        debug_assert!(x.is_multiple_of(2) && y.is_multiple_of(2), "chroma follows luma at even places only");
        for (index, stamp) in self.planes.iter().enumerate() {
            let (columns, rows) = canvas.plane_size(index);
            let stride = canvas.stride(index);
            let shift = u32::from(index > 0);
            let (x, y) = ((x >> shift) as usize, (y >> shift) as usize);
            let plane = canvas.plane_mut(index);
            for run in &stamp.runs {
                let (row, column) = (y + run.row, x + run.column);
                if row >= rows || column >= columns {
                    continue;
                }
                let length = run.length.min(columns - column);
                let below = &mut plane[row * stride + column..][..length];
                for (below, (value, left)) in below.iter_mut().zip(&stamp.pixels[run.first..][..length]) {
                    let mixed = u32::from(*value) + u32::from(*below) * u32::from(*left);
                    *below = ((mixed + 128) >> 8).min(255) as u8;
                }
            }
        }
    }
}

/// Distance to a rectangle with round corners that fills `width` x `height` less `inset` on each side.
pub(super) fn rounded(width: f32, height: f32, radius: f32, inset: f32) -> impl Fn(f32, f32) -> f32 {
    let radius = (radius - inset).max(0.0);
    let (half_width, half_height) = (width / 2.0 - inset, height / 2.0 - inset);
    move |x, y| {
        let (dx, dy) = ((x - width / 2.0).abs() - half_width + radius, (y - height / 2.0).abs() - half_height + radius);
        dx.max(dy).min(0.0) + dx.max(0.0).hypot(dy.max(0.0)) - radius
    }
}

/// Distance to a line of some thickness with round ends.
pub(super) fn line(from: (f32, f32), to: (f32, f32), thickness: f32) -> impl Fn(f32, f32) -> f32 {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length_squared = (dx * dx + dy * dy).max(f32::EPSILON);
    move |x, y| {
        let along = (((x - from.0) * dx + (y - from.1) * dy) / length_squared).clamp(0.0, 1.0);
        (x - from.0 - along * dx).hypot(y - from.1 - along * dy) - thickness / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solid_stamp_has_the_colour_it_was_drawn_in_and_an_empty_one_changes_nothing() {
        let mut canvas = Canvas::new(64, 64);
        canvas.fill([50, 60, 70]);
        Sheet::new(10, 10).into_stamp().press(&mut canvas, 0, 0);
        assert_eq!((canvas.plane(0)[0], canvas.plane(1)[0]), (50, 60));
        let colour = Rgb(0x3d, 0xdc, 0x84);
        let mut sheet = Sheet::new(10, 10);
        sheet.shape(colour, 1.0, |_, _| -1.0);
        // Half of it is cut off at the edge.
        sheet.into_stamp().press(&mut canvas, 60, 60);
        let at = |index: usize, x: usize, y: usize| canvas.plane(index)[y * canvas.stride(index) + x];
        let expected = colour.to_yuv();
        for (index, x) in [(0, 63), (1, 31), (2, 31)] {
            assert!(at(index, x, x).abs_diff(expected[index]) <= 1, "plane {index}");
        }
        assert_eq!(at(0, 59, 59), 50);
    }

    #[test]
    fn half_covered_is_half_mixed() {
        let mut canvas = Canvas::new(16, 16);
        canvas.fill([16, 128, 128]);
        let mut sheet = Sheet::new(4, 4);
        sheet.shape(Rgb::WHITE, 0.5, |_, _| -1.0);
        sheet.into_stamp().press(&mut canvas, 0, 0);
        assert!(canvas.plane(0)[0].abs_diff(126) <= 1);
        assert_eq!(canvas.plane(1)[0], 128);
    }
}
