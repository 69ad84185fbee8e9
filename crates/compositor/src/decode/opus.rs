//! libopus itself. libavcodec's wrapper of it can neither be told of a loss nor asked what a packet says of the one before it.
//!
//! Owns the only calls of libopus. Does not own when sound is missing.

use std::ptr::{self, NonNull};

use super::SAMPLE_RATE;
use crate::depacketize::audio::{self, GRAIN};

/// Longest packet, and longest stretch that can be asked for at once.
const MAX_SAMPLES: usize = audio::MAX_SAMPLES as usize;

mod ffi {
    use std::ffi::{c_int, c_uchar};

    /// `OpusDecoder`.
    #[repr(C)]
    pub struct Decoder {
        opaque: [u8; 0],
    }

    // By the name that programs load it under, which has been one since 2012: it comes with libavcodec, its development package does not.
    #[link(name = "libopus.so.0", kind = "dylib", modifiers = "+verbatim")]
    unsafe extern "C" {
        pub fn opus_decoder_create(rate: i32, channels: c_int, error: *mut c_int) -> *mut Decoder;
        pub fn opus_decoder_destroy(decoder: *mut Decoder);
        pub fn opus_decode_float(
            decoder: *mut Decoder,
            data: *const c_uchar,
            length: i32,
            samples: *mut f32,
            frame_size: c_int,
            decode_fec: c_int,
        ) -> c_int;
    }
}

/// A decoder that gives 48 kHz interleaved stereo. It decodes one channel until a packet has two.
pub(super) struct Opus {
    state: NonNull<ffi::Decoder>,
    channels: usize,
}

// SAFETY: the state is plain memory that is only reached through `&mut self`.
unsafe impl Send for Opus {}

impl Opus {
    /// `None` if there is no memory, or `channels` is neither 1 nor 2.
    pub(super) fn new(channels: u8) -> Option<Self> {
        // SAFETY: a null pointer for the error is allowed; the answer is null where there is no decoder.
        let state = unsafe { ffi::opus_decoder_create(SAMPLE_RATE as i32, i32::from(channels), ptr::null_mut()) };
        Some(Self { state: NonNull::new(state)?, channels: usize::from(channels) })
    }

    /// Turns to two channels if this packet holds two and none before it did (RFC 6716 section 3.1).
    pub(super) fn make_room_for(&mut self, packet: &[u8]) {
        if self.channels == 1
            && packet.first().is_some_and(|first| first & 0b100 != 0)
            && let Some(stereo) = Self::new(2)
        {
            *self = stereo;
        }
    }

    /// The sound of a packet; `None` if it is damaged.
    pub(super) fn decode(&mut self, packet: &[u8]) -> Option<Vec<f32>> {
        self.run(Some(packet), MAX_SAMPLES, false)
    }

    /// Goes on with what was heard last, for `samples` per channel, rounded up to whole steps and at most 120 ms.
    pub(super) fn conceal(&mut self, samples: usize) -> Option<Vec<f32>> {
        self.run(None, samples.next_multiple_of(GRAIN).min(MAX_SAMPLES), false)
    }

    /// The `samples` per channel before `packet`: their end as it says, and what lies before that as in [`Self::conceal`].
    pub(super) fn before(&mut self, packet: &[u8], samples: usize) -> Option<Vec<f32>> {
        self.run(Some(packet), samples.next_multiple_of(GRAIN).min(MAX_SAMPLES), true)
    }

    fn run(&mut self, packet: Option<&[u8]>, samples: usize, before: bool) -> Option<Vec<f32>> {
        let (data, length) = match packet {
            // No data at all would mean a loss.
            Some([]) => return None,
            Some(packet) => (packet.as_ptr(), i32::try_from(packet.len()).ok()?),
            None => (ptr::null(), 0),
        };
        let mut sound = vec![0.0; samples * self.channels];
        // SAFETY: `data` is null or valid for `length` bytes, and `sound` for `samples` times the channels that the state was made
        // for: libopus writes no more than that.
        let decoded = unsafe {
            ffi::opus_decode_float(
                self.state.as_ptr(),
                data,
                length,
                sound.as_mut_ptr(),
                i32::try_from(samples).ok()?,
                i32::from(before),
            )
        };
        sound.truncate(usize::try_from(decoded).ok()? * self.channels);
        Some(if self.channels == 1 { sound.into_iter().flat_map(|sample| [sample; 2]).collect() } else { sound })
    }
}

impl Drop for Opus {
    fn drop(&mut self) {
        // SAFETY: it was made by `opus_decoder_create` and is not used after this.
        unsafe { ffi::opus_decoder_destroy(self.state.as_ptr()) }
    }
}
