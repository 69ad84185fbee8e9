//! How near pictures are to others, and what they cost in bits.

use std::io::{BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use ffmpeg_the_third as ffmpeg;

use crate::arrangement::{HEIGHT, Tile, WIDTH};

/// Side of the blocks in which structure is compared.
const BLOCK: usize = 8;
/// Corners of tiles may be round, and their borders marked: that much is left out on each side.
const BORDER: usize = 16;

/// Luma of one file beside luma of another.
#[derive(Debug, Clone, Copy)]
pub struct Likeness {
    /// Peak signal to noise, over all pixels of all frames.
    pub psnr: f64,
    /// Structural similarity (Wang 2004), mean of blocks.
    pub ssim: f64,
}

/// Compares the inner parts of the tiles of two files, frame by frame.
pub fn compare(left: &Path, right: &Path, tiles: &[Tile]) -> Result<Likeness> {
    let (mut left, mut right) = (Luma::open(left)?, Luma::open(right)?);
    let (mut a, mut b) = (vec![0; WIDTH * HEIGHT], vec![0; WIDTH * HEIGHT]);
    let (mut squares, mut pixels, mut likeness, mut blocks) = (0_u64, 0_u64, 0.0, 0_u64);
    while left.read(&mut a)? && right.read(&mut b)? {
        for tile in tiles {
            for y in (tile.y + BORDER..tile.y + tile.height - BORDER).step_by(BLOCK) {
                for x in (tile.x + BORDER..tile.x + tile.width - BORDER).step_by(BLOCK) {
                    let block = Block::of(&a, &b, x, y);
                    squares += block.squared_error();
                    likeness += block.ssim();
                    pixels += (BLOCK * BLOCK) as u64;
                    blocks += 1;
                }
            }
        }
    }
    ensure!(blocks > 0, "nothing to compare");
    let error = squares as f64 / pixels as f64;
    Ok(Likeness { psnr: 10.0 * (255.0 * 255.0 / error.max(1e-9)).log10(), ssim: likeness / blocks as f64 })
}

/// Sums over a block's pixels.
#[derive(Default)]
struct Block {
    a: u64,
    b: u64,
    aa: u64,
    bb: u64,
    ab: u64,
}

impl Block {
    fn of(left: &[u8], right: &[u8], x: usize, y: usize) -> Self {
        let mut sums = Self::default();
        for row in (y..y + BLOCK).filter(|row| *row < HEIGHT) {
            let end = (x + BLOCK).min(WIDTH);
            for (a, b) in left[row * WIDTH + x..row * WIDTH + end].iter().zip(&right[row * WIDTH + x..]) {
                let (a, b) = (u64::from(*a), u64::from(*b));
                sums.a += a;
                sums.b += b;
                sums.aa += a * a;
                sums.bb += b * b;
                sums.ab += a * b;
            }
        }
        sums
    }

    fn squared_error(&self) -> u64 {
        self.aa + self.bb - 2 * self.ab
    }

    fn ssim(&self) -> f64 {
        let (c1, c2) = ((0.01 * 255.0_f64).powi(2), (0.03 * 255.0_f64).powi(2));
        let mean = |sum: u64| sum as f64 / (BLOCK * BLOCK) as f64;
        let (a, b) = (mean(self.a), mean(self.b));
        let (vary_a, vary_b, together) = (mean(self.aa) - a * a, mean(self.bb) - b * b, mean(self.ab) - a * b);
        (2.0 * a * b + c1) * (2.0 * together + c2) / ((a * a + b * b + c1) * (vary_a + vary_b + c2))
    }
}

/// A file's luma, as it was coded.
struct Luma {
    decoder: Child,
    frames: BufReader<ChildStdout>,
}

impl Luma {
    fn open(path: &Path) -> Result<Self> {
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-i"]).arg(path);
        command.args(["-map", "0:v", "-vf", "extractplanes=y", "-f", "rawvideo", "-"]);
        let mut decoder = command.stdout(Stdio::piped()).spawn().context("ffmpeg")?;
        let frames = BufReader::with_capacity(1 << 20, decoder.stdout.take().context("its standard output")?);
        Ok(Self { decoder, frames })
    }

    /// Whether there is another frame.
    fn read(&mut self, frame: &mut [u8]) -> Result<bool> {
        match self.frames.read_exact(frame) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Luma {
    fn drop(&mut self) {
        // It may have more to say than the other one.
        let _ = self.decoder.kill();
        let _ = self.decoder.wait();
    }
}

/// Bytes of the coded pictures, without container and sound.
pub fn video_bytes(path: &Path) -> Result<u64> {
    let mut input = ffmpeg::format::input(path).with_context(|| path.display().to_string())?;
    let mut bytes = 0;
    for packet in input.packets() {
        let (stream, packet) = packet?;
        if stream.parameters().medium() == ffmpeg::media::Type::Video {
            bytes += packet.size() as u64;
        }
    }
    Ok(bytes)
}
