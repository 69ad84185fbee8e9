//! Pictures that a camera took lying, set upright with libyuv.

use super::{Picture, plane_size};
use crate::depacketize::orientation::Orientation;

mod ffi {
    use std::ffi::c_int;

    #[link(name = "yuv")]
    unsafe extern "C" {
        /// `libyuv/rotate.h`; `mode` is degrees clockwise.
        pub fn RotatePlane(
            src: *const u8,
            src_stride: c_int,
            dst: *mut u8,
            dst_stride: c_int,
            width: c_int,
            height: c_int,
            mode: c_int,
        ) -> c_int;
    }
}

impl Picture {
    /// The picture as it is to be seen.
    #[must_use]
    pub(crate) fn turned(self, orientation: Orientation) -> Self {
        let degrees = orientation.degrees_clockwise();
        if degrees == 0 {
            return self;
        }
        let (width, height) = orientation.upright(self.width(), self.height());
        let planes = [0, 1, 2].map(|index| {
            let (columns, rows) = self.plane_size(index);
            let (to_columns, to_rows) = plane_size(width, height, index);
            debug_assert_eq!(columns * rows, to_columns * to_rows, "a plane has as many pixels upright");
            let mut turned = vec![0; to_columns * to_rows];
            let int = |value: usize| std::ffi::c_int::try_from(value).expect("sides and strides of a frame are small");
            let plane = self.plane(index);
            assert!(plane.len() >= self.stride(index) * (rows - 1) + columns, "a plane has all its rows");
            // SAFETY: the source is valid for `rows` rows of `columns` bytes `stride` apart, as checked; the target for as many
            // pixels, its rows without padding; libyuv reads and writes no more. They do not overlap: the target is new.
            let result = unsafe {
                ffi::RotatePlane(
                    plane.as_ptr(),
                    int(self.stride(index)),
                    turned.as_mut_ptr(),
                    int(to_columns),
                    int(columns),
                    int(rows),
                    i32::from(degrees),
                )
            };
            debug_assert_eq!(result, 0, "libyuv knows quarters of a turn");
            turned
        });
        Self::from_planes(width, height, planes).unwrap_or(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_of_a_turn() {
        // 4 x 2: 0 1 2 3 over 4 5 6 7, and chroma 10 20.
        let lying = Picture::from_planes(4, 2, [(0..8).collect(), vec![10, 20], vec![30, 40]]).expect("its planes fit");
        for (value, size, luma, chroma) in [
            (0, (4, 2), [0, 1, 2, 3, 4, 5, 6, 7], [10, 20]),
            (1, (2, 4), [4, 0, 5, 1, 6, 2, 7, 3], [10, 20]),
            (2, (4, 2), [7, 6, 5, 4, 3, 2, 1, 0], [20, 10]),
            (3, (2, 4), [3, 7, 2, 6, 1, 5, 0, 4], [20, 10]),
        ] {
            let upright = lying.clone().turned(Orientation::parse(&[value]).expect("a byte"));
            assert_eq!((upright.width(), upright.height()), size, "{value}");
            assert_eq!((upright.y(), upright.u()), (&luma[..], &chroma[..]), "{value}");
        }
        let odd = Picture::from_planes(3, 5, [vec![1; 15], vec![2; 6], vec![3; 6]]).expect("its planes fit");
        let upright = odd.turned(Orientation::parse(&[1]).expect("a byte"));
        assert_eq!((upright.width(), upright.height(), upright.plane_size(1)), (5, 3, (3, 2)));
    }
}
