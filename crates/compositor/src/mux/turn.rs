//! How a container says that its pictures are to be turned before they are shown.
//!
//! MP4 has a matrix in the track's header (ISO/IEC 14496-12 section 8.3.2), which libavformat writes. Matroska has the roll of a flat projection
//! (RFC 9559, ProjectionPoseRoll), which libavformat reads and does not write: it is told of a sphere, and the sphere is made flat on
//! its way to the file. Owns that. Does not own by how much which pictures are turned.

use std::io;

use ffmpeg::ffi;
use ffmpeg_the_third as ffmpeg;

use super::libav::ByteSink;

/// The projection that libavformat writes for an even sphere: its type, equirectangular, and 20 bytes of its own that are 0.
const SPHERE: [u8; 27] = projection(&[0x76, 0x71, 0x81, 1, 0x76, 0x72, 0x94]);
/// As long: the type is rectangular, and a void in place of what such a projection has not.
const FLAT: [u8; 27] = projection(&[0x76, 0x71, 0x81, 0, 0xec, 0x95]);
/// Headers are written, and written again, from a place before this.
const HEADERS_END: u64 = 4096;
/// Longest header before the projection that is looked for.
const HEADER_BYTES: usize = 64 * 1024;
/// `AVSphericalMapping`: projection (0 is equirectangular), yaw, pitch and roll in degrees of 16.16 bits, and what other projections need.
const MAPPING_INTS: usize = 9;
const ROLL: usize = 3;

const fn projection(start: &[u8]) -> [u8; 27] {
    let mut bytes = [0; 27];
    let mut index = 0;
    while index < start.len() {
        bytes[index] = start[index];
        index += 1;
    }
    bytes
}

pub(super) fn is_matroska(container: &str) -> bool {
    matches!(container, "matroska" | "webm")
}

/// Declares that the pictures of `stream` are to be turned clockwise by these degrees.
///
/// # Safety
/// `stream` is one of a context of this container whose header is not written yet.
pub(super) unsafe fn declare(stream: *mut ffi::AVStream, container: &str, degrees_clockwise: u16) -> io::Result<()> {
    let (kind, ints) = match is_matroska(container) {
        true => (ffi::AVPacketSideDataType::SPHERICAL, MAPPING_INTS),
        false => (ffi::AVPacketSideDataType::DISPLAYMATRIX, 9),
    };
    // SAFETY: the data is allocated by libavutil, zeroed, as long as is asked for, aligned for anything, and freed with the stream.
    unsafe {
        let data = ffi::av_stream_new_side_data(stream, kind, ints * size_of::<i32>()).cast::<i32>();
        if data.is_null() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        std::ptr::write_bytes(data, 0, ints);
        match is_matroska(container) {
            // Against the clock, from -180 to 180 degrees.
            true => *data.add(ROLL) = ((180 - i32::from(degrees_clockwise)).rem_euclid(360) - 180) << 16,
            false => ffi::av_display_rotation_set(data, degrees_clockwise.into()),
        }
    }
    Ok(())
}

/// Makes the sphere in the header of a Matroska file flat.
pub(super) struct Flat(pub(super) Box<dyn ByteSink>);

impl ByteSink for Flat {
    fn write_at(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        if position < HEADERS_END {
            let head = &bytes[..bytes.len().min(HEADER_BYTES)];
            if let Some(at) = head.windows(SPHERE.len()).position(|window| window == SPHERE) {
                let bytes = [&bytes[..at], &FLAT, &bytes[at + SPHERE.len()..]].concat();
                return self.0.write_at(position, &bytes);
            }
        }
        self.0.write_at(position, bytes)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.finish()
    }
}
