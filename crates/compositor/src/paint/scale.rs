//! Scaling a picture straight into a rectangle of the canvas, with libyuv and kernels of our own.
//!
//! Owns which part of the picture is shown and at what size: fitted or filled, never stretched. Measured against swscale and
//! `fast_image_resize`, libyuv is 2 to 40 times cheaper; at 1/1, 3/4, 1/2 and 1/4 it has kernels that cost next to nothing, at 2/3, 2/5,
//! 1/3 and 1/5 [`shrink`] has, so a crop a little tighter than needed is taken when it hits one of those. What is to be shrunk further
//! than by half is shrunk by a whole number first, each pixel the mean of those it covers: nothing flickers, and it is cheaper too.

use super::shrink::{covered, shrink};
use super::surface::in_plane;
use crate::frame::{Canvas, Picture};
use crate::layout::{Fit, Rect};

/// Pictures with a longer side are not drawn: beyond what any codec here decodes.
const MAX_SIDE: usize = 16_384;
/// Ratios of canvas to picture that have kernels of their own.
const EXACT: [(u32, u32); 8] = [(1, 1), (3, 4), (2, 3), (1, 2), (2, 5), (1, 3), (1, 4), (1, 5)];
/// Least part of either side that a crop made for an exact ratio keeps, percent.
const MIN_KEPT_PERCENT: u32 = 96;

mod ffi {
    use std::ffi::c_int;

    /// `kFilterBox`: averages when it shrinks by half or more, bilinear otherwise.
    pub const FILTER_BOX: c_int = 3;

    #[link(name = "yuv")]
    unsafe extern "C" {
        /// `libyuv/scale.h`.
        pub fn ScalePlane(
            src: *const u8,
            src_stride: c_int,
            src_width: c_int,
            src_height: c_int,
            dst: *mut u8,
            dst_stride: c_int,
            dst_width: c_int,
            dst_height: c_int,
            filtering: c_int,
        );
    }
}

/// A part of a picture and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placement {
    /// Of the picture; even.
    pub source: Rect,
    /// Of the canvas; even.
    pub target: Rect,
}

/// Which part of a picture of `width` x `height` goes where in `tile`; `None` if it has no whole block of pixels to show.
pub(super) fn placement(width: usize, height: usize, tile: Rect, fit: Fit) -> Option<Placement> {
    if width > MAX_SIDE || height > MAX_SIDE || tile.is_empty() {
        return None;
    }
    let whole = Rect::new(0, 0, width as u32, height as u32);
    if whole.is_empty() {
        return None;
    }
    Some(match fit {
        Fit::Cover => Placement { source: crop(whole, tile), target: tile },
        Fit::Contain => {
            let (width, height) = within(tile.width, tile.height, whole.width, whole.height);
            let (left, top) = ((tile.width - width) / 2, (tile.height - height) / 2);
            Placement { source: whole, target: Rect::new(tile.x + (left & !1), tile.y + (top & !1), width, height) }
        }
    })
}

/// The largest even size within `width` x `height` that has the aspect of `of_width` x `of_height`.
fn within(width: u32, height: u32, of_width: u32, of_height: u32) -> (u32, u32) {
    let scaled = |a: u32, b: u32, c: u32| u32::try_from(u64::from(a) * u64::from(b) / u64::from(c)).unwrap_or(u32::MAX);
    let by_height = scaled(height, of_width, of_height);
    let (width, height) =
        if by_height <= width { (by_height, height) } else { (width, scaled(width, of_height, of_width)) };
    ((width & !1).max(2), (height & !1).max(2))
}

fn crop(whole: Rect, tile: Rect) -> Rect {
    let (width, height) = within(whole.width, whole.height, tile.width, tile.height);
    let exact = EXACT.iter().find_map(|&(to, from)| {
        // libyuv's kernel for 3/4 takes whole groups only.
        let is_exact = to < 3 || [tile.width, tile.height].iter().all(|side| (side * from).is_multiple_of(2 * to));
        let exact = [tile.width, tile.height].map(|side| (side * from).div_ceil(to).next_multiple_of(2));
        let keeps = |exact: u32, side: u32, of: u32| exact <= of && exact * 100 >= side * MIN_KEPT_PERCENT;
        let is_near = keeps(exact[0], width, whole.width) && keeps(exact[1], height, whole.height);
        (is_exact && is_near).then_some((exact[0], exact[1]))
    });
    let (width, height) = exact.unwrap_or((width, height));
    // Heads are in the upper part of a picture that is much taller than its tile.
    // Where colour has a pixel of its own, or it would be shown half a pixel off.
    let (left, top) = ((whole.width - width) / 2, (whole.height - height) * 2 / 5);
    Rect::new(left & !1, top & !1, width, height)
}

/// Draws it. The target must be inside the canvas and the source inside the picture.
pub(super) fn draw(canvas: &mut Canvas, picture: &Picture, placement: Placement) {
    let Placement { source, target } = placement;
    for (index, (plane, stride)) in canvas.planes_mut().into_iter().enumerate() {
        let (from, to) = (in_plane(source, index), in_plane(target, index));
        scale_plane((picture.plane(index), picture.stride(index), from), (plane, stride, to));
    }
}

/// The part of the picture that `tile` shows, at the size it is shown at: drawing that is copying. `None` if the picture is such a
/// one already, or none can be made.
pub(crate) fn fitted(picture: &Picture, tile: Rect, fit: Fit) -> Option<Picture> {
    let Placement { source, target } = placement(picture.width(), picture.height(), tile, fit)?;
    let (width, height) = (target.width as usize, target.height as usize);
    if (source.width, source.height) == (target.width, target.height) {
        return None;
    }
    let whole = Rect::new(0, 0, target.width, target.height);
    // Drawn in its place, it must not be scaled again.
    if placement(width, height, tile, fit) != Some(Placement { source: whole, target }) {
        return None;
    }
    let planes = [0, 1, 2].map(|index| {
        let to = in_plane(whole, index);
        let mut plane = vec![0; to[2] * to[3]];
        scale_plane((picture.plane(index), picture.stride(index), in_plane(source, index)), (&mut plane, to[2], to));
        plane
    });
    Picture::from_planes(width, height, planes)
}

/// One plane; each side is its bytes, its stride, and x, y, width, height of the part.
fn scale_plane(from: (&[u8], usize, [usize; 4]), to: (&mut [u8], usize, [usize; 4])) {
    let (source, source_stride, [source_x, source_y, source_width, source_height]) = from;
    let (target, target_stride, [target_x, target_y, target_width, target_height]) = to;
    if [source_width, source_height, target_width, target_height].contains(&0) {
        return;
    }
    // Slicing from the first to the last byte that will be touched checks both sides, whatever the caller believes.
    let span = |x: usize, y: usize, width: usize, height: usize, stride: usize| {
        assert!(x + width <= stride, "a row of a plane is within its stride");
        let first = y * stride + x;
        first..first + (height - 1) * stride + width
    };
    let source = &source[span(source_x, source_y, source_width, source_height, source_stride)];
    let target = &mut target[span(target_x, target_y, target_width, target_height, target_stride)];
    let from = Plane { bytes: source, stride: source_stride, width: source_width, height: source_height };
    let to = Plane { bytes: target, stride: target_stride, width: target_width, height: target_height };
    from.scaled_into(to);
}

/// Pixels from the first to the last of a rectangle.
struct Plane<T> {
    bytes: T,
    /// Bytes from one row to the next.
    stride: usize,
    width: usize,
    height: usize,
}

impl Plane<&[u8]> {
    fn scaled_into(self, to: Plane<&mut [u8]>) {
        if self.covers::<2, 3>(&to) {
            return self.shrunk_into::<2, 3>(to);
        }
        if self.covers::<2, 5>(&to) {
            return self.shrunk_into::<2, 5>(to);
        }
        let times = (self.width / to.width).min(self.height / to.height).min(5);
        if times < 2 {
            return self.stretched_into(to);
        }
        let (width, height) = (self.width / times, self.height / times);
        // What does not make a whole pixel is left out at all edges alike.
        let (left, top) = ((self.width - width * times) / 2, (self.height - height * times) / 2);
        let whole = Self {
            bytes: &self.bytes[top * self.stride + left..],
            width: width * times,
            height: height * times,
            ..self
        };
        let shrink_into = |to: Plane<&mut [u8]>| match times {
            3 => whole.shrunk_into::<1, 3>(to),
            5 => whole.shrunk_into::<1, 5>(to),
            _ => whole.stretched_into(to),
        };
        if (width, height) == (to.width, to.height) {
            return shrink_into(to);
        }
        let mut between = vec![0; width * height];
        shrink_into(Plane { bytes: &mut between, stride: width, width, height });
        Plane { bytes: &between[..], stride: width, width, height }.scaled_into(to);
    }

    /// Whether it is what `to` is made of at this ratio; a pixel too much on either side, for the sake of even rectangles, is left out.
    fn covers<const TO: usize, const FROM: usize>(&self, to: &Plane<&mut [u8]>) -> bool {
        let is_it = |side: usize, to: usize| (0..=1).contains(&side.wrapping_sub(covered::<TO, FROM>(to)));
        is_it(self.width, to.width) && is_it(self.height, to.height)
    }

    fn shrunk_into<const TO: usize, const FROM: usize>(&self, to: Plane<&mut [u8]>) {
        shrink::<TO, FROM>((self.bytes, self.stride), (to.bytes, to.stride), to.width, to.height);
    }

    /// By libyuv: exactly where it has a kernel, between the two nearest pixels elsewhere.
    fn stretched_into(&self, to: Plane<&mut [u8]>) {
        let needed = |stride: usize, width: usize, height: usize| (height - 1) * stride + width;
        assert!(self.bytes.len() >= needed(self.stride, self.width, self.height), "the plane has all of its pixels");
        assert!(to.bytes.len() >= needed(to.stride, to.width, to.height), "the plane has all of its pixels");
        let int = |value: usize| std::ffi::c_int::try_from(value).expect("sides and strides of a frame are small");
        // SAFETY: both pointers are valid for `height` rows of `width` bytes `stride` apart, as asserted above; the two do not
        // overlap, one being borrowed mutably. libyuv neither reads nor writes outside of those rows.
        unsafe {
            ffi::ScalePlane(
                self.bytes.as_ptr(),
                int(self.stride),
                int(self.width),
                int(self.height),
                to.bytes.as_mut_ptr(),
                int(to.stride),
                int(to.width),
                int(to.height),
                ffi::FILTER_BOX,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_crop_meets_an_exact_ratio_when_it_is_near() {
        for (picture, tile, expected) in [
            ((640, 360), (618, 348), (618, 348)),
            ((1280, 720), (618, 348), (1236, 696)),
            ((1280, 720), (314, 176), (1256, 704)),
            ((1280, 720), (426, 240), (1278, 720)),
            ((640, 360), (426, 240), (640, 360)),
            ((640, 360), (414, 232), (622, 348)),
            // 3/8 has no kernel, and 1/2 and 2/5 would crop too much.
            ((640, 360), (240, 134), (640, 356)),
            // 4:3 fills 16:9 by losing rows.
            ((640, 480), (640, 360), (640, 360)),
            ((360, 640), (398, 224), (360, 202)),
        ] {
            let whole = Rect::new(0, 0, picture.0, picture.1);
            let crop = crop(whole, Rect::new(0, 0, tile.0, tile.1));
            assert_eq!((crop.width, crop.height), expected, "{picture:?} into {tile:?}");
        }
    }

    #[test]
    fn a_screen_is_shown_whole() {
        let tile = Rect::new(10, 20, 960, 540);
        let placed = placement(1024, 768, tile, Fit::Contain).expect("it has pixels");
        assert_eq!(placed.source, Rect::new(0, 0, 1024, 768));
        assert_eq!(placed.target, Rect::new(10 + 120, 20, 720, 540));
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        let mut canvas = Canvas::new(320, 180);
        canvas.fill([16, 128, 128]);
        let picture = Picture::solid(641, 359, [90, 100, 150]);
        let tile = Rect::new(20, 10, 200, 100);
        draw(&mut canvas, &picture, placement(641, 359, tile, Fit::Cover).expect("it has pixels"));
        let at = |x: usize, y: usize| canvas.plane(0)[y * canvas.stride(0) + x];
        // libyuv's bilinear kernels may lose the last bit.
        assert!([at(20, 10), at(219, 109)].iter().all(|inside| inside.abs_diff(90) <= 1));
        assert_eq!([at(19, 10), at(220, 109), at(20, 9), at(20, 110)], [16; 4]);
        assert!(canvas.plane(2)[5 * canvas.stride(2) + 10].abs_diff(150) <= 1);
    }

    #[test]
    fn a_fitted_picture_is_drawn_as_the_original_would_be() {
        let texture = |columns: usize, rows: usize| (0..columns * rows).map(|at| (at * at / 7 % 199) as u8).collect();
        let planes = [texture(640, 360), texture(320, 180), texture(320, 180)];
        let original = Picture::from_planes(640, 360, planes).expect("planes of that size");
        for (tile, fit) in [
            (Rect::new(10, 20, 256, 144), Fit::Cover),
            (Rect::new(10, 20, 100, 200), Fit::Cover),
            (Rect::new(10, 20, 300, 200), Fit::Contain),
        ] {
            let fitted = fitted(&original, tile, fit).expect("it has another size");
            let [direct, copied] = [&original, &fitted].map(|picture| {
                let mut canvas = Canvas::new(400, 300);
                draw(&mut canvas, picture, placement(picture.width(), picture.height(), tile, fit).expect("pixels"));
                [0, 1, 2].map(|index| canvas.plane(index).to_vec())
            });
            assert!(direct == copied, "{tile:?} {fit:?}");
        }
        assert!(fitted(&original, Rect::new(0, 0, 640, 360), Fit::Cover).is_none(), "it fits as it is");
    }

    proptest! {
        #[test]
        fn any_picture_goes_into_any_tile(
            width in 1_usize..2000, height in 1_usize..2000,
            x in 0_u32..100, y in 0_u32..100, tile_width in 2_u32..300, tile_height in 2_u32..300,
            fit in prop_oneof![Just(Fit::Cover), Just(Fit::Contain)],
        ) {
            let tile = Rect::new(x, y, tile_width, tile_height);
            let Some(placed) = placement(width, height, tile, fit) else {
                prop_assert!(width < 2 || height < 2);
                return Ok(());
            };
            prop_assert!(Rect::new(0, 0, width as u32, height as u32).contains(&placed.source));
            prop_assert!(tile.contains(&placed.target));
            prop_assert!(!placed.source.is_empty() && !placed.target.is_empty());
            let mut canvas = Canvas::new(400, 400);
            draw(&mut canvas, &Picture::solid(width, height, [77, 90, 91]), placed);
            let at = placed.target.y as usize * canvas.stride(0) + placed.target.x as usize;
            // libyuv's averages of thousands of pixels lose bits; nobody sees tiles that small.
            if placed.target.width.min(placed.target.height) >= 64 {
                prop_assert!(canvas.plane(0)[at].abs_diff(77) <= 1);
            }
        }
    }
}
