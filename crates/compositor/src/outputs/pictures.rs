//! Thumbnails, and the storyboard: which picture stands for what time, in which file.
//!
//! Pictures at an interval are taken while slices land. Those at parts of the recording's length can only be chosen when it is known: their
//! slices are read back then.

use std::fmt::Write as _;

use roomreel_shared::output::{Names, Output};
use serde::{Deserialize, Serialize};

use super::Error;
use super::growing::Pieces;
use super::stills::{Camera, Still};
use crate::captions::timestamp;
use crate::encode::{EncodedSlice, VideoConfig};

/// Pictures in a row of a sheet, and rows.
const COLUMNS: u64 = 10;
const ROWS: u64 = 10;
/// Pixels of a small picture's width, unless it is said.
const USUAL_WIDTH: u32 = 160;
/// Seconds from one small picture to the next, unless it is said.
const USUAL_INTERVAL_S: u32 = 10;
/// Most sheets: what a day has with a picture a second.
const MAX_SHEETS: u64 = 900;
const PERCENTS: [u64; 5] = [0, 25, 50, 75, 100];

/// Times at an interval, as far as slices have come.
struct Interval {
    every: i64,
    next: i64,
}

impl Interval {
    fn new(interval_s: u32, video: &VideoConfig) -> Self {
        Self { every: i64::from(interval_s) * i64::from(video.timescale), next: 0 }
    }

    /// The next time that a slice shows.
    fn due(&mut self, slice: &EncodedSlice) -> Option<i64> {
        let end = slice.video.iter().map(|sample| sample.pts + i64::from(sample.duration)).max()?;
        let due = (self.next < end).then_some(self.next)?;
        self.next += self.every;
        Some(due)
    }
}

/// A picture that is wanted of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) slice: u64,
    pts: i64,
    percent: u64,
}

/// Single pictures.
pub(super) struct Thumbnails {
    output: Output,
    camera: Camera,
    interval: Option<Interval>,
    timescale: u32,
    /// Where each slice ends.
    ends: Vec<i64>,
}

impl Thumbnails {
    pub(super) fn new(output: &Output, video: &VideoConfig) -> Self {
        Self {
            output: output.clone(),
            camera: Camera::new(video, output.width),
            interval: output.interval_s.map(|interval_s| Interval::new(interval_s, video)),
            timescale: video.timescale,
            ends: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, slice: &EncodedSlice, names: &Names, pieces: &Pieces) -> Result<(), Error> {
        self.ends.extend(slice.video.iter().map(|sample| sample.pts + i64::from(sample.duration)).max());
        let Some(interval) = &mut self.interval else { return Ok(()) };
        while let Some(pts) = interval.due(slice) {
            let second = pts / i64::from(self.timescale.max(1));
            let key = names.key(&self.output, &format!("/second-{second:06}.jpg"))?;
            pieces.whole(key, self.camera.take(slice, pts)?.jpeg()?);
        }
        Ok(())
    }

    /// The pictures that can only be chosen now.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        let Some(&end) = self.ends.last() else { return Vec::new() };
        let at = |percent: u64| {
            let pts = (i128::from(end) * i128::from(percent) / 100) as i64;
            let slice = self.ends.iter().position(|end| pts < *end).unwrap_or(self.ends.len() - 1);
            Wanted { slice: slice as u64, pts, percent }
        };
        PERCENTS.map(at).into()
    }

    pub(super) fn take(
        &mut self,
        wanted: &Wanted,
        slice: &EncodedSlice,
        names: &Names,
        pieces: &Pieces,
    ) -> Result<(), Error> {
        let key = names.key(&self.output, &format!("/percent-{:03}.jpg", wanted.percent))?;
        pieces.whole(key, self.camera.take(slice, wanted.pts)?.jpeg()?);
        Ok(())
    }
}

/// Sheets of small pictures, with a WebVTT file that says where each one is.
pub(super) struct Storyboard {
    output: Output,
    camera: Camera,
    interval: Interval,
    timescale: u32,
    sheet: Still,
    count: u64,
}

impl Storyboard {
    pub(super) fn new(output: &Output, video: &VideoConfig) -> Self {
        let camera = Camera::new(video, Some(output.width.unwrap_or(USUAL_WIDTH)));
        Self {
            output: output.clone(),
            sheet: empty_sheet(&camera),
            camera,
            interval: Interval::new(output.interval_s.unwrap_or(USUAL_INTERVAL_S), video),
            timescale: video.timescale,
            count: 0,
        }
    }

    pub(super) fn push(&mut self, slice: &EncodedSlice, names: &Names, pieces: &Pieces) -> Result<(), Error> {
        while let Some(pts) = self.interval.due(slice) {
            if self.count >= MAX_SHEETS * COLUMNS * ROWS {
                return Ok(());
            }
            let still = self.camera.take(slice, pts)?;
            let (_, x, y) = self.place(self.count);
            self.sheet.draw(&still, x as usize, y as usize);
            self.count += 1;
            if self.count.is_multiple_of(COLUMNS * ROWS) {
                self.put_sheet(ROWS, names, pieces)?;
            }
        }
        Ok(())
    }

    /// Sheet, and corner on it, of a picture.
    fn place(&self, number: u64) -> (u64, u64, u64) {
        let (width, height) = self.camera.size();
        let on_sheet = number % (COLUMNS * ROWS);
        let (column, row) = (on_sheet % COLUMNS, on_sheet / COLUMNS);
        (number / (COLUMNS * ROWS), column * u64::from(width), row * u64::from(height))
    }

    fn put_sheet(&mut self, rows: u64, names: &Names, pieces: &Pieces) -> Result<(), Error> {
        let (sheet, _, _) = self.place(self.count - 1);
        let mut full = std::mem::replace(&mut self.sheet, empty_sheet(&self.camera));
        full.cut_to(rows as u32 * self.camera.size().1);
        pieces.whole(names.key(&self.output, &format!("-{sheet:03}.jpg"))?, full.jpeg()?);
        Ok(())
    }

    /// The last sheet and the text, for a recording that is `duration_us` long.
    pub(super) fn finish(mut self, duration_us: i64, names: &Names, pieces: &Pieces) -> Result<(), Error> {
        let left = self.count % (COLUMNS * ROWS);
        if left > 0 {
            self.put_sheet(left.div_ceil(COLUMNS), names, pieces)?;
        }
        let (width, height) = self.camera.size();
        let step_us = i128::from(self.interval.every) * 1_000_000 / i128::from(self.timescale.max(1));
        let mut text = "WEBVTT\n".to_owned();
        for number in 0..self.count {
            let (sheet, x, y) = self.place(number);
            let from = (i128::from(number) * step_us) as i64;
            let to = match number + 1 == self.count {
                true => duration_us.max(from + 1000),
                false => (i128::from(number + 1) * step_us) as i64,
            };
            let key = names.key(&self.output, &format!("-{sheet:03}.jpg"))?;
            let (from, to) = (timestamp(from, '.'), timestamp(to, '.'));
            writeln!(text, "\n{from} --> {to}\n{}#xywh={x},{y},{width},{height}", key.file_name())
                .expect("writing to a String cannot fail");
        }
        pieces.whole(names.key(&self.output, ".vtt")?, text.into());
        Ok(())
    }
}

fn empty_sheet(camera: &Camera) -> Still {
    let (width, height) = camera.size();
    Still::black(width * COLUMNS as u32, height * ROWS as u32)
}
