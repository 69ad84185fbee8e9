//! Synthetic webcams: what makes a camera's picture cost what it costs, drawn as raw I420.
//!
//! A textured room with hard edges, a textured head and shoulders that move by fractions of a pixel, a mouth and eyes, slow drift
//! of the exposure, and sensor noise. Of each five, three stand still, one is held in a hand, one walks.

use std::f32::consts::TAU;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// Pixels of a picture.
pub const WIDTH: usize = 1280;
pub const HEIGHT: usize = 720;
/// Pictures a second.
pub const FRAME_RATE: usize = 30;

/// The room is larger than the picture, so that a camera can move.
const MARGIN_X: usize = 160;
const MARGIN_Y: usize = 120;
const PERSON_WIDTH: usize = 760;
const PERSON_HEIGHT: usize = 700;
/// Where the face is on the person.
const FACE: (f32, f32) = (PERSON_WIDTH as f32 / 2.0, 250.0);
/// Deviation of the sensor's noise, steps of luma.
const NOISE: f32 = 1.8;
/// Noise fields that are drawn once and laid at a new place for every picture.
const FIELDS: usize = 6;
/// How far a field can be shifted.
const FIELD_SLACK: usize = 64;
/// Fractions of a pixel are of 1/256.
const ONE: i32 = 256;

/// Bytes in rows.
#[derive(Clone)]
struct Plane {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Plane {
    fn new(width: usize, height: usize, value: u8) -> Self {
        Self { width, height, pixels: vec![value; width * height] }
    }

    /// Averages of two by two pixels.
    fn halved(&self) -> Self {
        let mut half = Self::new(self.width / 2, self.height / 2, 0);
        for (y, row) in half.pixels.chunks_exact_mut(self.width / 2).enumerate() {
            let upper = &self.pixels[2 * y * self.width..][..self.width];
            let lower = &self.pixels[(2 * y + 1) * self.width..][..self.width];
            for (x, pixel) in row.iter_mut().enumerate() {
                let sum = [upper[2 * x], upper[2 * x + 1], lower[2 * x], lower[2 * x + 1]].map(u32::from);
                *pixel = ((sum.iter().sum::<u32>() + 2) / 4) as u8;
            }
        }
        half
    }

    /// A lens does not show edges of one pixel.
    fn blurred(&self) -> Self {
        let mut blurred = self.clone();
        for y in 1..self.height - 1 {
            for x in 1..self.width - 1 {
                let at = y * self.width + x;
                let rows = [at - self.width, at, at + self.width];
                let sum: u32 = rows
                    .iter()
                    .zip([1, 2, 1])
                    .map(|(at, weight)| {
                        weight
                            * (u32::from(self.pixels[at - 1])
                                + 2 * u32::from(self.pixels[*at])
                                + u32::from(self.pixels[at + 1]))
                    })
                    .sum();
                blurred.pixels[at] = ((sum + 8) / 16) as u8;
            }
        }
        blurred
    }
}

/// Luma and two of chroma at half size.
#[derive(Clone)]
struct Picture([Plane; 3]);

impl Picture {
    fn new(width: usize, height: usize) -> Self {
        Self([
            Plane::new(width, height, 16),
            Plane::new(width / 2, height / 2, 128),
            Plane::new(width / 2, height / 2, 128),
        ])
    }

    /// Paints where `inside` says so, with texture of this `depth`.
    fn paint(&mut self, colour: [u8; 3], depth: f32, texture: &[f32], inside: impl Fn(usize, usize) -> bool) {
        for (index, plane) in self.0.iter_mut().enumerate() {
            let step = if index == 0 { 1 } else { 2 };
            let width = plane.width;
            for (at, pixel) in plane.pixels.iter_mut().enumerate() {
                let (x, y) = (at % width * step, at / width * step);
                if inside(x, y) {
                    let grain = texture[y * width * step + x] * depth;
                    // Colours vary less than brightness.
                    let value = if index == 0 {
                        f32::from(colour[0]) * (1.0 + grain)
                    } else {
                        128.0 + (f32::from(colour[index]) - 128.0) * (1.0 + grain / 2.0)
                    };
                    *pixel = value.clamp(16.0, 235.0) as u8;
                }
            }
        }
    }
}

/// Noise with the spectrum of natural pictures, -1 to 1.
fn fractal(rng: &mut SmallRng, width: usize, height: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f32; width * height];
    let (mut amplitude, mut cells) = (1.0, 4);
    while cells < width {
        let rows = (cells * height / width).max(2);
        let grid: Vec<f32> = (0..(cells + 2) * (rows + 2)).map(|_| rng.random_range(-1.0..1.0)).collect();
        let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
        for y in 0..height {
            let down = y as f32 * rows as f32 / height as f32;
            let (row, v) = (down as usize, smooth(down.fract()));
            for x in 0..width {
                let across = x as f32 * cells as f32 / width as f32;
                let (column, u) = (across as usize, smooth(across.fract()));
                let at = row * (cells + 2) + column;
                let upper = grid[at] + (grid[at + 1] - grid[at]) * u;
                let below = at + cells + 2;
                let lower = grid[below] + (grid[below + 1] - grid[below]) * u;
                sum[y * width + x] += amplitude * (upper + (lower - upper) * v);
            }
        }
        amplitude *= 0.62;
        cells *= 2;
    }
    let most = sum.iter().fold(0.001_f32, |most, value| most.max(value.abs()));
    sum.iter_mut().for_each(|value| *value /= most);
    sum
}

fn colour(rng: &mut SmallRng, luma: std::ops::Range<u8>) -> [u8; 3] {
    [rng.random_range(luma), rng.random_range(100..156), rng.random_range(100..156)]
}

/// How a camera moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Motion {
    Fixed,
    Handheld,
    Walking,
}

/// One camera.
pub struct Webcam {
    motion: Motion,
    room: Picture,
    person: Picture,
    /// Where the person is: whole and at half size.
    mask: [Plane; 2],
    noise: Vec<Plane>,
    rng: SmallRng,
    /// Pixels the person moves to either side.
    sway: f32,
    /// Where the person stands.
    place: (f32, f32),
    rates: [f32; 3],
    phases: [f32; 3],
    seed: u64,
    next: usize,
    frame: Picture,
}

impl Webcam {
    /// Whose content and motion `seed` decides.
    pub fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(1000 + seed);
        let motion = match seed % 5 {
            0..=2 => Motion::Fixed,
            3 => Motion::Handheld,
            _ => Motion::Walking,
        };
        let room = room(&mut rng, motion);
        let (person, mask) = person(&mut rng);
        let noise = (0..FIELDS).map(|_| noise(&mut rng)).collect();
        let sway = [14.0, 10.0, 18.0, 14.0, 34.0][(seed % 5) as usize];
        let left = (WIDTH - PERSON_WIDTH) as f32 / 2.0 + rng.random_range(-90.0..90.0);
        Self {
            motion,
            room,
            person,
            mask,
            noise,
            sway,
            place: (left, (HEIGHT - PERSON_HEIGHT) as f32 + 40.0),
            rates: [rng.random_range(0.12..0.3), rng.random_range(0.3..0.7), rng.random_range(2.5..4.5)],
            phases: [0.0; 3].map(|_: f32| rng.random_range(0.0..TAU)),
            rng,
            seed,
            next: 0,
            frame: Picture::new(WIDTH, HEIGHT),
        }
    }

    /// Appends the next picture: luma, then the two planes of chroma.
    pub fn draw(&mut self, bytes: &mut Vec<u8>) {
        let t = self.next as f32 / FRAME_RATE as f32;
        let wave = |rate: f32, phase: f32| (TAU * rate * t + phase).sin();
        let ([slow, medium, fast], [first, second, third]) = (self.rates, self.phases);
        let (x, y) = match self.motion {
            Motion::Fixed => (80.0, 60.0),
            Motion::Handheld => (
                40.0 + 22.0 * wave(0.35, first) + 5.0 * wave(1.7, 0.0),
                30.0 + 14.0 * wave(0.27, second) + 4.0 * wave(2.1, 0.0),
            ),
            Motion::Walking => (t * 75.0 % (WIDTH + MARGIN_X) as f32, 20.0),
        };
        self.background(x, y);

        let talk = wave(slow, third).max(0.0) * wave(fast, 0.0).abs();
        let blinks = (t * 10.0 + (self.seed * 7) as f32) % 37.0 < 1.5;
        let mut face = self.person.clone();
        ellipse(&mut face, (FACE.0, FACE.1 + 95.0), (42.0, 6.0 + 22.0 * talk), [62, 120, 160]);
        for side in [-55.0, 55.0] {
            let eye = (FACE.0 + side, FACE.1 - 25.0);
            ellipse(&mut face, eye, (22.0, if blinks { 3.0 } else { 11.0 }), [218, 128, 128]);
            if !blinks {
                ellipse(&mut face, (eye.0 + 6.0 * (0.9 * t + second).sin(), eye.1), (8.0, 8.0), [40, 132, 124]);
            }
        }
        let left = self.place.0 + self.sway * wave(slow, first) + 0.25 * self.sway * wave(medium, 0.0);
        let top = self.place.1 + 0.4 * self.sway * wave(medium, second);
        let angle = (2.2 * wave(slow, second)).to_radians();
        let scale = 1.0 + 0.015 * wave(slow, 0.0);
        self.stand(&face, (left, top), angle, scale);

        let gain = ((1.0 + 0.012 * wave(0.21, first)) * ONE as f32) as i32;
        let shift = [0; 2].map(|_: usize| self.rng.random_range(0..FIELD_SLACK));
        let field = &self.noise[self.next % FIELDS];
        for (y, row) in self.frame.0[0].pixels.chunks_exact_mut(WIDTH).enumerate() {
            let noise = &field.pixels[(y + shift[1]) * field.width + shift[0]..][..WIDTH];
            for (pixel, noise) in row.iter_mut().zip(noise) {
                let value = (i32::from(*pixel) * gain) / ONE + i32::from(*noise) - 128;
                *pixel = value.clamp(0, 255) as u8;
            }
        }
        self.next += 1;
        self.frame.0.iter().for_each(|plane| bytes.extend_from_slice(&plane.pixels));
    }

    /// The room as seen from (`x`, `y`).
    fn background(&mut self, x: f32, y: f32) {
        for (index, (to, from)) in self.frame.0.iter_mut().zip(&self.room.0).enumerate() {
            let (x, y) = if index == 0 { (x, y) } else { (x / 2.0, y / 2.0) };
            let (column, row) = (x as usize, y as usize);
            let (u, v) = ((x.fract() * ONE as f32) as i32, (y.fract() * ONE as f32) as i32);
            let width = to.width;
            for (line, to) in to.pixels.chunks_exact_mut(width).enumerate() {
                let at = (row + line) * from.width + column;
                let (upper, lower) = (&from.pixels[at..][..=width], &from.pixels[at + from.width..][..=width]);
                if (u, v) == (0, 0) {
                    to.copy_from_slice(&upper[..width]);
                    continue;
                }
                for (x, pixel) in to.iter_mut().enumerate() {
                    *pixel = between([upper[x], upper[x + 1], lower[x], lower[x + 1]], u, v) as u8;
                }
            }
        }
    }

    /// Puts the person over the room: turned by `angle` around the middle of the lower edge.
    fn stand(&mut self, person: &Picture, (left, top): (f32, f32), angle: f32, scale: f32) {
        let (sine, cosine) = (angle / scale).sin_cos();
        let pivot = (PERSON_WIDTH as f32 / 2.0, PERSON_HEIGHT as f32);
        for (index, to) in self.frame.0.iter_mut().enumerate() {
            let half = if index == 0 { 1.0 } else { 2.0 };
            let (from, mask) = (&person.0[index], &self.mask[index.min(1)]);
            let width = to.width;
            let fixed = |value: f32| (value * ONE as f32) as i32;
            let (across, down) = (fixed(cosine / scale), fixed(-sine / scale));
            for (y, row) in to.pixels.chunks_exact_mut(width).enumerate() {
                let (dx, dy) = (-left - pivot.0, y as f32 * half - top - pivot.1);
                let u = (pivot.0 + (dx * cosine + dy * sine) / scale) / half;
                let v = (pivot.1 + (dy * cosine - dx * sine) / scale) / half;
                let (mut u, mut v) = (fixed(u), fixed(v));
                for pixel in row {
                    let (column, line) = (u / ONE, v / ONE);
                    if u > 0 && v > 0 && column + 1 < from.width as i32 && line + 1 < from.height as i32 {
                        let at = line as usize * from.width + column as usize;
                        let corners = |plane: &Plane| {
                            let lower = at + plane.width;
                            [plane.pixels[at], plane.pixels[at + 1], plane.pixels[lower], plane.pixels[lower + 1]]
                        };
                        let coverage = between(corners(mask), u % ONE, v % ONE);
                        if coverage > 0 {
                            let value = between(corners(from), u % ONE, v % ONE);
                            *pixel = ((value * coverage + i32::from(*pixel) * (255 - coverage) + 127) / 255) as u8;
                        }
                    }
                    u += across;
                    v += down;
                }
            }
        }
    }
}

/// Between four neighbours, `u` and `v` of [`ONE`].
fn between([a, b, c, d]: [u8; 4], u: i32, v: i32) -> i32 {
    let upper = i32::from(a) * (ONE - u) + i32::from(b) * u;
    let lower = i32::from(c) * (ONE - u) + i32::from(d) * u;
    (upper * (ONE - v) + lower * v + ONE * ONE / 2) / (ONE * ONE)
}

/// One colour within an ellipse.
fn ellipse(picture: &mut Picture, centre: (f32, f32), radii: (f32, f32), colour: [u8; 3]) {
    for (index, plane) in picture.0.iter_mut().enumerate() {
        let step = if index == 0 { 1.0 } else { 2.0 };
        let span =
            |centre: f32, radius: f32| ((centre - radius) / step) as usize..((centre + radius) / step) as usize + 1;
        for y in span(centre.1, radii.1) {
            for x in span(centre.0, radii.0) {
                let (dx, dy) = ((x as f32 * step - centre.0) / radii.0, (y as f32 * step - centre.1) / radii.1);
                if dx * dx + dy * dy <= 1.0 {
                    plane.pixels[y * plane.width + x] = colour[index];
                }
            }
        }
    }
}

fn room(rng: &mut SmallRng, motion: Motion) -> Picture {
    let (width, height) = (WIDTH + MARGIN_X, HEIGHT + MARGIN_Y);
    let mut room = Picture::new(width, height);
    let wall = fractal(rng, width, height);
    room.paint(colour(rng, 90..200), 0.25, &wall, |_, _| true);
    let grain = fractal(rng, width, height);
    for _ in 0..14 {
        let (x, y) = (rng.random_range(0..width - 80), rng.random_range(0..height - 60));
        let (right, bottom) = (x + rng.random_range(40..320), y + rng.random_range(30..260));
        let [luma, blue, red] = colour(rng, 30..225);
        room.paint([luma / 2, blue, red], 0.1, &grain, |at_x, at_y| {
            (x..right).contains(&at_x) && (y..bottom).contains(&at_y)
        });
        room.paint([luma, blue, red], 0.3, &grain, |at_x, at_y| {
            (x + 3..right - 3).contains(&at_x) && (y + 3..bottom - 3).contains(&at_y)
        });
    }
    let planes = room.0.map(|plane| plane.blurred());
    if motion != Motion::Walking {
        return Picture(planes);
    }
    // Whoever walks passes the room and its mirror image.
    Picture(planes.map(|plane| {
        let mut wide = Plane::new(2 * plane.width, plane.height, 0);
        for (to, from) in wide.pixels.chunks_exact_mut(2 * plane.width).zip(plane.pixels.chunks_exact(plane.width)) {
            to[..plane.width].copy_from_slice(from);
            to[plane.width..].copy_from_slice(from);
            to[plane.width..].reverse();
        }
        wide
    }))
}

fn person(rng: &mut SmallRng) -> (Picture, [Plane; 2]) {
    let mut person = Picture::new(PERSON_WIDTH, PERSON_HEIGHT);
    let mut mask = Plane::new(PERSON_WIDTH, PERSON_HEIGHT, 0);
    let skin = [rng.random_range(110..190), rng.random_range(105..120), rng.random_range(140..160)];
    let neck = [skin[0] - skin[0] / 7, skin[1], skin[2]];
    let parts = [
        ((FACE.0, 660.0), (330.0, 230.0), colour(rng, 30..210), 0.35),
        ((FACE.0, 430.0), (80.0, 110.0), neck, 0.12),
        ((FACE.0, FACE.1 - 30.0), (165.0, 200.0), colour(rng, 20..90), 0.5),
        ((FACE.0, FACE.1 + 10.0), (135.0, 180.0), skin, 0.12),
    ];
    for (centre, radii, colour, depth) in parts {
        let texture = fractal(rng, PERSON_WIDTH, PERSON_HEIGHT);
        let inside = |x: usize, y: usize| {
            let (dx, dy): (f32, f32) = ((x as f32 - centre.0) / radii.0, (y as f32 - centre.1) / radii.1);
            dx * dx + dy * dy <= 1.0
        };
        person.paint(colour, depth, &texture, inside);
        for (at, pixel) in mask.pixels.iter_mut().enumerate() {
            if inside(at % PERSON_WIDTH, at / PERSON_WIDTH) {
                *pixel = 255;
            }
        }
    }
    let mask = mask.blurred().blurred();
    let half = mask.halved();
    let [luma, blue, red] = person.0;
    (Picture([luma.blurred(), blue, red]), [mask, half])
}

/// Normal by the sum of uniform ones, around 128.
fn noise(rng: &mut SmallRng) -> Plane {
    let mut field = Plane::new(WIDTH + FIELD_SLACK, HEIGHT + FIELD_SLACK, 0);
    for pixel in &mut field.pixels {
        let sum: f32 = (0..4).map(|_| rng.random_range(-1.0..1.0_f32)).sum();
        // Four uniform ones on -1..1 deviate by the root of 4/3.
        *pixel = (128.0 + NOISE * sum / (4.0_f32 / 3.0).sqrt()).round() as u8;
    }
    field
}
