//! What a camera sees: a person before a soft background, a name, a running timecode, and the flash.
//!
//! Drawn straight into the planes the encoder takes. The background is drawn once; a frame copies it and draws the rest over it.

use std::time::Duration;

use cosmic_text::Family;

use super::text::{ClockFace, Fonts, Mask};

/// A colour as the encoder has it (BT.601, limited range).
#[derive(Debug, Clone, Copy)]
pub(super) struct Yuv(u8, u8, u8);

impl Yuv {
    const WHITE: Self = Self(235, 128, 128);
    const BLACK: Self = Self(16, 128, 128);

    fn from_rgb(red: f32, green: f32, blue: f32) -> Self {
        let y = 16.0 + 65.5 * red + 128.6 * green + 25.0 * blue;
        let u = 128.0 - 37.8 * red - 74.2 * green + 112.0 * blue;
        let v = 128.0 + 112.0 * red - 93.8 * green - 18.2 * blue;
        Self(y as u8, u as u8, v as u8)
    }

    /// `hue` in turns; saturation and value 0 to 1.
    fn from_hsv(hue: f32, saturation: f32, value: f32) -> Self {
        let channel = |shift: f32| {
            let k = (shift + hue * 6.0) % 6.0;
            value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
        };
        Self::from_rgb(channel(5.0), channel(3.0), channel(1.0))
    }
}

/// A picture in planar YUV 4:2:0; width and height are even.
#[derive(Debug, Clone)]
pub(super) struct Canvas {
    width: usize,
    height: usize,
    planes: [Vec<u8>; 3],
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        let chroma = vec![128; width * height / 4];
        Self { width, height, planes: [vec![16; width * height], chroma.clone(), chroma] }
    }

    /// Each plane's samples and its width.
    pub(super) fn planes(&self) -> [(&[u8], usize); 3] {
        let [y, u, v] = &self.planes;
        [(y, self.width), (u, self.width / 2), (v, self.width / 2)]
    }

    /// Takes the picture of `other`, which has the same size.
    fn copy_from(&mut self, other: &Self) {
        for (plane, source) in self.planes.iter_mut().zip(&other.planes) {
            plane.copy_from_slice(source);
        }
    }

    /// Colours one row between `from` and `to`, in fractions of pixels; the ends are blended.
    fn span(&mut self, row: usize, from: f32, to: f32, color: Yuv) {
        let (from, to) = (from.max(0.0), to.min(self.width as f32));
        if row >= self.height || to <= from {
            return;
        }
        let (first, last) = (from.ceil() as usize, to.floor() as usize);
        let line = &mut self.planes[0][row * self.width..(row + 1) * self.width];
        if first < last {
            line[first..last].fill(color.0);
        }
        if first > 0 {
            line[first - 1] = blend(line[first - 1], color.0, ((first as f32 - from) * 255.0) as u8);
        }
        if last < line.len() {
            line[last] = blend(line[last], color.0, ((to - last as f32) * 255.0) as u8);
        }
        if row.is_multiple_of(2) && first < last {
            let width = self.width / 2;
            for (plane, value) in [(1, color.1), (2, color.2)] {
                self.planes[plane][row / 2 * width + first.div_ceil(2)..row / 2 * width + last.div_ceil(2)].fill(value);
            }
        }
    }

    fn rectangle(&mut self, area: Area, color: Yuv) {
        for row in area.y..area.y + area.height {
            self.span(row, area.x as f32, (area.x + area.width) as f32, color);
        }
    }

    fn ellipse(&mut self, (x, y): (f32, f32), (radius_x, radius_y): (f32, f32), color: Yuv) {
        let first = (y - radius_y).max(0.0) as usize;
        let last = ((y + radius_y).ceil().max(0.0) as usize).min(self.height);
        for row in first..last {
            let height = (row as f32 + 0.5 - y) / radius_y;
            if height.abs() < 1.0 {
                let half = radius_x * (1.0 - height * height).sqrt();
                self.span(row, x - half, x + half, color);
            }
        }
    }

    fn stamp(&mut self, mask: &Mask, (left, top): (usize, usize), color: Yuv) {
        for (row, coverage) in mask.coverage.chunks(mask.width).enumerate() {
            for (column, &alpha) in coverage.iter().enumerate() {
                let (x, y) = (left + column, top + row);
                if alpha == 0 || x >= self.width || y >= self.height {
                    continue;
                }
                let at = &mut self.planes[0][y * self.width + x];
                *at = blend(*at, color.0, alpha);
                if x.is_multiple_of(2) && y.is_multiple_of(2) {
                    let at = y / 2 * (self.width / 2) + x / 2;
                    self.planes[1][at] = blend(self.planes[1][at], color.1, alpha);
                    self.planes[2][at] = blend(self.planes[2][at], color.2, alpha);
                }
            }
        }
    }
}

fn blend(under: u8, over: u8, alpha: u8) -> u8 {
    let (under, over, alpha) = (u32::from(under), u32::from(over), u32::from(alpha));
    ((under * (255 - alpha) + over * alpha + 127) / 255) as u8
}

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// From the left.
    pub x: usize,
    /// From the top.
    pub y: usize,
    /// To the right.
    pub width: usize,
    /// Downwards.
    pub height: usize,
}

/// What part of a picture's height stays free at its border: a compositor may crop a little.
const MARGIN: usize = 14;

/// Where the flash is in a camera's picture: a square in its upper right.
#[must_use]
pub fn flash_area(width: u32, height: u32) -> Area {
    let (width, height) = (width as usize, height as usize);
    let (side, margin) = (height / 5, height / MARGIN);
    Area { x: width - side - margin, y: margin, width: side, height: side }
}

/// What there is to see.
pub(super) enum Subject<'a> {
    /// A person with this name; each number has its own colours.
    Person { number: usize, name: &'a str },
    /// Slides on a shared screen.
    Slides { title: &'a str },
}

/// One camera or screen.
pub(super) struct Scene {
    background: Canvas,
    canvas: Canvas,
    clock: ClockFace,
    name: Mask,
    person: Option<Person>,
    flash: Area,
}

struct Person {
    shirt: Yuv,
    skin: Yuv,
    hair: Yuv,
    phase: f32,
}

impl Scene {
    pub(super) fn new(fonts: &mut Fonts, width: u32, height: u32, subject: &Subject<'_>) -> Self {
        let flash = flash_area(width, height);
        let (width, height) = (width as usize, height as usize);
        let mut background = Canvas::new(width, height);
        let (name, person) = match subject {
            Subject::Person { number, name } => {
                // The golden ratio keeps any number of hues apart.
                let hue = (*number as f32 * 0.618_034 + 0.55) % 1.0;
                for row in 0..height {
                    let depth = row as f32 / height as f32;
                    background.span(row, 0.0, width as f32, Yuv::from_hsv(hue, 0.45, 0.75 - 0.4 * depth));
                }
                let tone = [0.45, 0.85, 0.35, 0.7, 0.6, 0.55][number % 6];
                let person = Person {
                    shirt: Yuv::from_hsv((hue + 0.5) % 1.0, 0.55, 0.6),
                    skin: Yuv::from_rgb(tone, tone * 0.76, tone * 0.62),
                    hair: Yuv::from_hsv(0.08, 0.6, [0.12, 0.55, 0.08, 0.3][number % 4]),
                    phase: *number as f32 * 1.7,
                };
                (fonts.draw(name, height as f32 * 0.11, Family::SansSerif), Some(person))
            }
            Subject::Slides { title } => {
                background.rectangle(Area { x: 0, y: 0, width, height }, Yuv::from_rgb(0.95, 0.95, 0.93));
                let line = Area { x: width / 12, y: height * 5 / 16, width: width / 2, height: height / 28 };
                for number in 0..5 {
                    let y = line.y + number * height / 10;
                    let width = line.width * (9 - (number * 5) % 7) / 9;
                    background.rectangle(Area { y, width, ..line }, Yuv::from_rgb(0.7, 0.72, 0.78));
                }
                (fonts.draw(title, height as f32 * 0.1, Family::SansSerif), None)
            }
        };
        let clock = ClockFace::new(fonts, height as f32 * 0.09);
        Self { canvas: background.clone(), background, clock, name, person, flash }
    }

    /// The picture at `time`.
    pub(super) fn draw(&mut self, time: Duration, is_flash: bool) -> &Canvas {
        let canvas = &mut self.canvas;
        canvas.copy_from(&self.background);
        let (width, height) = (canvas.width, canvas.height);
        let h = height as f32;
        let seconds = time.as_secs_f32();
        let ink = match &self.person {
            Some(person) => {
                person.draw(canvas, seconds);
                Yuv::WHITE
            }
            None => {
                // A bar chart that breathes.
                for bar in 0..5_usize {
                    let level = 0.5 + 0.4 * (seconds * 0.8 + bar as f32 * 1.1).sin();
                    let bar_height = (level * h * 0.5) as usize;
                    let area = Area {
                        x: width * (66 + bar * 6) / 100,
                        y: height * 85 / 100 - bar_height,
                        width: width / 25,
                        height: bar_height,
                    };
                    canvas.rectangle(area, Yuv::from_hsv(0.55 + bar as f32 * 0.03, 0.6, 0.8));
                }
                Yuv::from_rgb(0.1, 0.12, 0.2)
            }
        };
        let margin = height / MARGIN;
        if self.person.is_some() {
            // At the right: a compositor puts its own label at the left.
            let x = width.saturating_sub(margin + self.name.width);
            let y = height.saturating_sub(margin + self.name.height);
            canvas.stamp(&self.name, (x + 2, y + 2), Yuv::BLACK);
            canvas.stamp(&self.name, (x, y), ink);
        } else {
            canvas.stamp(&self.name, (width / 12, height / 9), ink);
        }
        let hundredths = time.subsec_millis() / 10;
        let text = format!("{:02}:{:02}.{hundredths:02}", time.as_secs() / 60, time.as_secs() % 60);
        for (x, glyph) in self.clock.lay_out(&text) {
            if self.person.is_some() {
                canvas.stamp(glyph, (margin + x + 1, margin + 1), Yuv::BLACK);
                canvas.stamp(glyph, (margin + x, margin), ink);
            } else {
                canvas.stamp(glyph, (width / 12 + x, height - margin - glyph.height), ink);
            }
        }
        if is_flash {
            canvas.rectangle(self.flash, Yuv::WHITE);
        } else if self.person.is_some() {
            canvas.rectangle(self.flash, Yuv::from_rgb(0.12, 0.13, 0.16));
        }
        canvas
    }
}

impl Person {
    fn draw(&self, canvas: &mut Canvas, seconds: f32) {
        let (w, h) = (canvas.width as f32, canvas.height as f32);
        let sway = (seconds * 0.9 + self.phase).sin();
        let nod = (seconds * 1.7 + self.phase).sin();
        let x = w * (0.5 + 0.03 * sway);
        let y = h * (0.42 + 0.012 * nod);
        canvas.ellipse((w * (0.5 + 0.015 * sway), h * 1.05), (h * 0.46, h * 0.4), self.shirt);
        canvas.rectangle(
            Area {
                x: (x - h * 0.06) as usize,
                y: (y + h * 0.1) as usize,
                width: (h * 0.12) as usize,
                height: (h * 0.16) as usize,
            },
            self.skin,
        );
        canvas.ellipse((x, y - h * 0.04), (h * 0.185, h * 0.21), self.hair);
        canvas.ellipse((x, y + h * 0.02), (h * 0.155, h * 0.19), self.skin);
        let blink = (seconds * 0.31 + self.phase).fract() > 0.04;
        for side in [-1.0, 1.0] {
            let eye = (x + side * h * 0.06 + sway * h * 0.012, y - h * 0.01);
            canvas.ellipse(eye, (h * 0.018, if blink { h * 0.018 } else { h * 0.004 }), Yuv::BLACK);
        }
        let speak = (0.5 + 0.5 * (seconds * 9.0 + self.phase).sin()) * h * 0.02;
        canvas.ellipse(
            (x + sway * h * 0.008, y + h * 0.11),
            (h * 0.05, h * 0.008 + speak),
            Yuv::from_rgb(0.45, 0.12, 0.15),
        );
    }
}
