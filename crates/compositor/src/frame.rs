//! Pictures: what decoders give, what the painter draws on, what the encoder takes.
//!
//! All of them are I420: 8 bits, chroma at half size in both directions, BT.601 in limited range, which is what browsers send.
//! Owns their memory. Does not own scaling or drawing.

mod turn;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ffmpeg_the_third::ffi;
use ffmpeg_the_third::format::Pixel;
use ffmpeg_the_third::frame::Video;

/// Identity of a decoded picture: equal ids mean equal pixels. Caches use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PictureId(u64);

impl PictureId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Rows and columns of plane `index` (0 luma, 1 and 2 chroma) of a picture.
fn plane_size(width: usize, height: usize, index: usize) -> (usize, usize) {
    if index == 0 { (width, height) } else { (width.div_ceil(2), height.div_ceil(2)) }
}

/// An immutable picture; a clone shares its pixels.
#[derive(Clone)]
pub struct Picture {
    id: PictureId,
    width: usize,
    height: usize,
    pixels: Arc<Pixels>,
}

enum Pixels {
    /// As a decoder left it; never written to.
    Frame(Video),
    Planes([Vec<u8>; 3]),
}

impl Picture {
    /// From planes without padding: luma of `width` × `height` bytes, then two of chroma, each direction halved and rounded up.
    /// `None` if a plane has another length.
    #[must_use]
    pub fn from_planes(width: usize, height: usize, planes: [Vec<u8>; 3]) -> Option<Self> {
        let fits = |(index, plane): (usize, &Vec<u8>)| {
            let (columns, rows) = plane_size(width, height, index);
            columns.checked_mul(rows) == Some(plane.len()) && !plane.is_empty()
        };
        let fits = planes.iter().enumerate().all(fits);
        fits.then(|| Self { id: PictureId::next(), width, height, pixels: Arc::new(Pixels::Planes(planes)) })
    }

    /// One colour all over: its luma and chroma.
    #[must_use]
    pub fn solid(width: usize, height: usize, colour: [u8; 3]) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let plane = |index: usize| {
            let (columns, rows) = plane_size(width, height, index);
            vec![colour[index]; columns * rows]
        };
        let planes = [plane(0), plane(1), plane(2)];
        Self { id: PictureId::next(), width, height, pixels: Arc::new(Pixels::Planes(planes)) }
    }

    /// Takes over a frame of libavcodec or swscale without copying; `None` unless it is I420 as this module means it.
    pub(crate) fn from_frame(frame: Video) -> Option<Self> {
        let (width, height) = (frame.width() as usize, frame.height() as usize);
        if frame.format() != Pixel::YUV420P || width == 0 || height == 0 {
            return None;
        }
        for index in 0..3 {
            // SAFETY: the frame is allocated as long as `frame` lives; its fields are plain values.
            let (data, stride) = unsafe { ((*frame.as_ptr()).data[index], (*frame.as_ptr()).linesize[index]) };
            if data.is_null()
                || usize::try_from(stride).map_or(true, |stride| stride < plane_size(width, height, index).0)
            {
                return None;
            }
        }
        Some(Self { id: PictureId::next(), width, height, pixels: Arc::new(Pixels::Frame(frame)) })
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> PictureId {
        self.id
    }

    /// Columns of luma.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows of luma.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns and rows of plane `index`: 0 luma, 1 and 2 chroma.
    #[must_use]
    pub fn plane_size(&self, index: usize) -> (usize, usize) {
        plane_size(self.width, self.height, index)
    }

    /// Bytes from one row of plane `index` to the next.
    #[must_use]
    pub fn stride(&self, index: usize) -> usize {
        match &*self.pixels {
            Pixels::Frame(frame) => frame.stride(index),
            Pixels::Planes(_) => self.plane_size(index).0,
        }
    }

    /// Plane `index` from its first to its last pixel; rows are [`Self::stride`] apart, the last one ends with its pixels.
    #[must_use]
    pub fn plane(&self, index: usize) -> &[u8] {
        match &*self.pixels {
            Pixels::Frame(frame) => {
                let (columns, rows) = self.plane_size(index);
                // SAFETY: checked in `from_frame`; libavcodec allocates whole rows, and nothing writes to a frame it has handed out.
                unsafe {
                    std::slice::from_raw_parts(plane_pointer(frame, index), frame.stride(index) * (rows - 1) + columns)
                }
            }
            Pixels::Planes(planes) => &planes[index],
        }
    }

    /// Luma.
    #[must_use]
    pub fn y(&self) -> &[u8] {
        self.plane(0)
    }

    /// The blue difference.
    #[must_use]
    pub fn u(&self) -> &[u8] {
        self.plane(1)
    }

    /// The red difference.
    #[must_use]
    pub fn v(&self) -> &[u8] {
        self.plane(2)
    }
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture {} of {}x{}", self.id.0, self.width, self.height)
    }
}

fn plane_pointer(frame: &Video, index: usize) -> *const u8 {
    // SAFETY: the frame is allocated as long as `frame` lives.
    unsafe { (*frame.as_ptr()).data[index] }
}

/// A picture to draw on. Width and height are even.
pub struct Canvas {
    frame: Video,
}

impl Canvas {
    /// A black canvas.
    ///
    /// # Panics
    /// If a side is zero, odd or beyond 16384, or there is no memory.
    #[must_use]
    pub fn new(width: usize, height: usize) -> Self {
        let side = |side: usize| side > 0 && side.is_multiple_of(2) && side <= 16_384;
        assert!(side(width) && side(height), "a canvas has even sides, not {width}x{height}");
        let frame = Video::new(Pixel::YUV420P, width as u32, height as u32);
        assert!(!plane_pointer(&frame, 0).is_null(), "out of memory for a canvas of {width}x{height}");
        let mut canvas = Self { frame };
        canvas.fill([16, 128, 128]);
        canvas
    }

    /// Columns of luma.
    #[must_use]
    pub fn width(&self) -> usize {
        self.frame.width() as usize
    }

    /// Rows of luma.
    #[must_use]
    pub fn height(&self) -> usize {
        self.frame.height() as usize
    }

    /// Columns and rows of plane `index`: 0 luma, 1 and 2 chroma.
    #[must_use]
    pub fn plane_size(&self, index: usize) -> (usize, usize) {
        plane_size(self.width(), self.height(), index)
    }

    /// Bytes from one row of plane `index` to the next.
    #[must_use]
    pub fn stride(&self, index: usize) -> usize {
        self.frame.stride(index)
    }

    /// Plane `index`, whole rows of [`Self::stride`] bytes.
    #[must_use]
    pub fn plane(&self, index: usize) -> &[u8] {
        self.frame.data(index)
    }

    /// Plane `index` to draw on.
    #[must_use]
    pub fn plane_mut(&mut self, index: usize) -> &mut [u8] {
        self.make_writable();
        self.frame.data_mut(index)
    }

    /// All three planes to draw on, with their strides.
    #[must_use]
    pub fn planes_mut(&mut self) -> [(&mut [u8], usize); 3] {
        self.make_writable();
        let frame: *mut Video = &mut self.frame;
        // SAFETY: the planes are three distinct pieces of memory, borrowed as long as the canvas is.
        [0, 1, 2].map(|index| unsafe { ((*frame).data_mut(index), (*frame).stride(index)) })
    }

    /// One colour all over: its luma and chroma.
    pub fn fill(&mut self, colour: [u8; 3]) {
        for (index, value) in colour.into_iter().enumerate() {
            self.plane_mut(index).fill(value);
        }
    }

    /// A picture of what is on the canvas now.
    #[must_use]
    pub fn to_picture(&self) -> Picture {
        Picture::from_frame(self.frame.clone()).expect("a canvas is I420")
    }

    /// The frame an encoder reads.
    #[cfg(test)]
    pub(crate) fn frame(&self) -> &Video {
        &self.frame
    }

    /// A reference to the pixels under a time stamp of its own; a canvas that is drawn on again leaves them as they are.
    pub(crate) fn frame_at(&self, pts: i64) -> Result<Video, ffmpeg_the_third::Error> {
        let mut frame = Video::empty();
        // SAFETY: both frames are allocated, `frame` is empty.
        let result = unsafe { ffi::av_frame_ref(frame.as_mut_ptr(), self.frame.as_ptr()) };
        if result < 0 {
            return Err(result.into());
        }
        frame.set_pts(Some(pts));
        Ok(frame)
    }

    /// An encoder that still holds the pixels keeps them; the canvas goes on with a copy.
    fn make_writable(&mut self) {
        // SAFETY: the frame is allocated and reference counted; only a failed allocation can fail.
        let result = unsafe { ffi::av_frame_make_writable(self.frame.as_mut_ptr()) };
        assert!(result >= 0, "out of memory for a canvas");
    }
}

impl fmt::Debug for Canvas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Canvas of {}x{}", self.width(), self.height())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_must_have_the_size_of_their_picture() {
        let planes = |y, u, v| [vec![1; y], vec![2; u], vec![3; v]];
        let odd = Picture::from_planes(3, 5, planes(15, 6, 6)).expect("odd sides round chroma up");
        assert_eq!((odd.plane_size(1), odd.stride(1), odd.v()), ((2, 3), 2, &[3; 6][..]));
        assert!(Picture::from_planes(3, 5, planes(15, 2, 6)).is_none());
        assert!(Picture::from_planes(0, 0, planes(0, 0, 0)).is_none());
    }

    #[test]
    fn a_picture_of_a_canvas_does_not_follow_it() {
        let mut canvas = Canvas::new(64, 36);
        canvas.fill([50, 60, 70]);
        let before = canvas.to_picture();
        canvas.plane_mut(0).fill(200);
        let after = canvas.to_picture();
        assert_eq!((before.y()[0], before.u()[0], before.v()[0], after.y()[0]), (50, 60, 70, 200));
        assert_ne!(before.id(), after.id());
        assert_eq!(before.clone().id(), before.id());
        assert_eq!(before.y().len(), before.stride(0) * 35 + 64);
    }
}
