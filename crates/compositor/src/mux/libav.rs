//! libavformat's muxers, writing to wherever the caller keeps bytes.
//!
//! Owns the call of the muxer and all of its memory. Does not own what is written when, nor files.

use std::ffi::{CString, c_int, c_void};
use std::io;

use ffmpeg::packet::Mut as _;
use ffmpeg::{Packet, ffi};
use ffmpeg_the_third as ffmpeg;

use super::turn::{self, Flat};
use crate::decode::silence_libav;

/// Bytes that libavformat gathers before it writes.
const BUFFER_BYTES: usize = 64 * 1024;
const SEEK_SET: c_int = 0;
const SEEK_CUR: c_int = 1;
const SEEK_END: c_int = 2;

/// Where the bytes of a file go. Muxers go back only to headers: to the first kilobytes.
pub trait ByteSink: Send {
    /// Writes `bytes` at `position`, which is not behind the end of what was written.
    ///
    /// # Errors
    /// They cannot be kept, or not there.
    fn write_at(&mut self, position: u64, bytes: &[u8]) -> io::Result<()>;

    /// The file is whole.
    ///
    /// # Errors
    /// It cannot be kept.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// What a container says about one stream. Zero means that it says nothing.
#[derive(Debug, Clone)]
pub(crate) struct StreamFormat {
    pub(crate) codec: ffi::AVCodecID,
    /// Pixels; zero for sound.
    pub(crate) size: (u32, u32),
    /// By how much pictures are to be turned before they are shown.
    pub(crate) degrees_clockwise: u16,
    /// Samples per second; zero for video.
    pub(crate) sample_rate: u32,
    /// Zero for video.
    pub(crate) channels: u8,
    /// Of sound that is not in frames.
    pub(crate) bits_per_sample: u8,
    /// Samples of sound before the first that counts.
    pub(crate) initial_padding: u32,
    /// Samples per frame of sound.
    pub(crate) frame_size: u32,
    /// Parameter sets, sequence header or identification header, as libavformat takes them.
    pub(crate) extradata: Vec<u8>,
    /// Units per second of the packets' time stamps.
    pub(crate) timescale: u32,
}

impl StreamFormat {
    pub(crate) fn video(codec: ffi::AVCodecID, size: (u32, u32), timescale: u32) -> Self {
        Self { size, ..Self::audio(codec, 0, 0, timescale) }
    }

    pub(crate) fn audio(codec: ffi::AVCodecID, sample_rate: u32, channels: u8, timescale: u32) -> Self {
        Self {
            codec,
            size: (0, 0),
            degrees_clockwise: 0,
            sample_rate,
            channels,
            bits_per_sample: 0,
            initial_padding: 0,
            frame_size: 0,
            extradata: Vec::new(),
            timescale,
        }
    }
}

/// What the callbacks work on; its address stays the same as long as the muxer lives.
struct Io {
    sink: Option<Box<dyn ByteSink>>,
    position: u64,
    length: u64,
    error: Option<io::Error>,
}

/// A file that is being written.
pub(crate) struct Muxer {
    context: *mut ffi::AVFormatContext,
    io: Box<Io>,
    timescales: Vec<u32>,
}

// SAFETY: the context and its buffers belong to this value alone, and libavformat has no thread of its own here.
unsafe impl Send for Muxer {}

impl Muxer {
    /// Begins a file in libavformat's `container`.
    pub(crate) fn create(container: &str, streams: &[StreamFormat], sink: Box<dyn ByteSink>) -> io::Result<Self> {
        silence_libav();
        let name = CString::new(container).map_err(io::Error::other)?;
        let is_turned = streams.iter().any(|format| format.degrees_clockwise > 0);
        let sink = if is_turned && turn::is_matroska(container) { Box::new(Flat(sink)) } else { sink };
        let io = Box::new(Io { sink: Some(sink), position: 0, length: 0, error: None });
        let timescales = streams.iter().map(|stream| stream.timescale).collect();
        let mut muxer = Self { context: std::ptr::null_mut(), io, timescales };
        // SAFETY: the context is written by libavformat and owned by `muxer`, which frees it with whatever has been hung onto it so far.
        // `io` lives on the heap as long as `muxer`, which outlives the context that points to it.
        unsafe {
            let (no_format, no_file) = (std::ptr::null(), std::ptr::null());
            let result = ffi::avformat_alloc_output_context2(&mut muxer.context, no_format, name.as_ptr(), no_file);
            muxer.check(result)?;
            (*muxer.context).flags |= ffi::AVFMT_FLAG_BITEXACT | ffi::AVFMT_FLAG_CUSTOM_IO;
            // Sound that begins with an encoder's delay has times before 0; moving everything behind them would part it from the pictures.
            (*muxer.context).avoid_negative_ts = 0;
            let buffer = ffi::av_malloc(BUFFER_BYTES).cast::<u8>();
            let opaque = std::ptr::from_mut(&mut *muxer.io).cast::<c_void>();
            // libavformat's versions differ in whether the bytes are `const`; the call is the same.
            let write: unsafe extern "C" fn(*mut c_void, *const u8, c_int) -> c_int = write;
            #[expect(clippy::missing_transmute_annotations, reason = "the target type differs between versions")]
            let write = Some(std::mem::transmute(write));
            let pb = ffi::avio_alloc_context(buffer, BUFFER_BYTES as c_int, 1, opaque, None, write, Some(seek));
            if buffer.is_null() || pb.is_null() {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            (*muxer.context).pb = pb;
            for format in streams {
                let stream = ffi::avformat_new_stream(muxer.context, std::ptr::null());
                if stream.is_null() {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                (*stream).time_base = ffi::AVRational { num: 1, den: format.timescale as c_int };
                describe((*stream).codecpar, format)?;
                if format.degrees_clockwise > 0 {
                    turn::declare(stream, container, format.degrees_clockwise)?;
                }
            }
            let result = ffi::avformat_write_header(muxer.context, std::ptr::null_mut());
            muxer.check(result)?;
        }
        Ok(muxer)
    }

    /// Writes a packet whose time stamps are in its stream's timescale; libavformat brings those of several streams in order.
    pub(crate) fn write(&mut self, mut packet: Packet, stream: usize) -> io::Result<()> {
        packet.set_stream(stream);
        let Some(&timescale) = self.timescales.get(stream) else { return Err(io::ErrorKind::InvalidInput.into()) };
        // SAFETY: the header is written and `stream` is one of the context's; the packet is given to libavformat, which leaves it empty.
        let result = unsafe {
            let from = ffi::AVRational { num: 1, den: timescale as c_int };
            let to = (**(*self.context).streams.add(stream)).time_base;
            ffi::av_packet_rescale_ts(packet.as_mut_ptr(), from, to);
            ffi::av_interleaved_write_frame(self.context, packet.as_mut_ptr())
        };
        self.check(result)
    }

    /// Writes a packet of the only stream, with time stamps in units of [`Self::resolution`].
    pub(crate) fn write_in_its_units(&mut self, mut packet: Packet) -> io::Result<()> {
        packet.set_stream(0);
        // SAFETY: as in `write`.
        let result = unsafe { ffi::av_interleaved_write_frame(self.context, packet.as_mut_ptr()) };
        self.check(result)
    }

    /// Units per second of the file's own clock: time stamps are rounded to them.
    pub(crate) fn resolution(&self) -> (i64, i64) {
        // SAFETY: the header is written and the context has streams.
        let base = unsafe { (**(*self.context).streams).time_base };
        (i64::from(base.num), i64::from(base.den))
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        // SAFETY: the header is written; the buffer is flushed before the context is freed.
        let result = unsafe {
            let result = ffi::av_write_trailer(self.context);
            ffi::avio_flush((*self.context).pb);
            result
        };
        self.check(result)?;
        self.io.sink.take().map_or(Ok(()), ByteSink::finish)
    }

    /// The sink's error says more than libavformat's.
    fn check(&mut self, result: c_int) -> io::Result<()> {
        match self.io.error.take() {
            Some(error) => Err(error),
            None if result < 0 => Err(io::Error::other(ffmpeg::Error::from(result).to_string())),
            None => Ok(()),
        }
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        if self.context.is_null() {
            return;
        }
        // SAFETY: context, AVIO context and its buffer, which libavformat may have replaced, were allocated in `create` and are not used again.
        unsafe {
            let mut pb = (*self.context).pb;
            if !pb.is_null() {
                ffi::av_freep(std::ptr::from_mut(&mut (*pb).buffer).cast());
                ffi::avio_context_free(&mut pb);
            }
            ffi::avformat_free_context(self.context);
        }
    }
}

/// # Safety
/// `parameters` are a stream's, empty as they were allocated.
unsafe fn describe(parameters: *mut ffi::AVCodecParameters, format: &StreamFormat) -> io::Result<()> {
    // SAFETY: plain fields. The extradata is allocated by libavutil with the padding it asks for, and freed with the parameters.
    unsafe {
        (*parameters).codec_id = format.codec;
        if format.channels == 0 {
            (*parameters).codec_type = ffi::AVMediaType::VIDEO;
            (*parameters).width = format.size.0 as c_int;
            (*parameters).height = format.size.1 as c_int;
        } else {
            (*parameters).codec_type = ffi::AVMediaType::AUDIO;
            (*parameters).sample_rate = format.sample_rate as c_int;
            ffi::av_channel_layout_default(&mut (*parameters).ch_layout, c_int::from(format.channels));
            (*parameters).bits_per_coded_sample = c_int::from(format.bits_per_sample);
            (*parameters).block_align = c_int::from(format.bits_per_sample > 0) * c_int::from(format.channels);
            (*parameters).initial_padding = format.initial_padding as c_int;
            (*parameters).frame_size = format.frame_size as c_int;
        }
        if !format.extradata.is_empty() {
            let length = format.extradata.len();
            let memory = ffi::av_mallocz(length + ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize).cast::<u8>();
            if memory.is_null() {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            std::ptr::copy_nonoverlapping(format.extradata.as_ptr(), memory, length);
            (*parameters).extradata = memory;
            (*parameters).extradata_size = length as c_int;
        }
    }
    Ok(())
}

/// # Safety
/// Called by libavformat with the `Io` given to it and `length` bytes.
unsafe extern "C" fn write(opaque: *mut c_void, bytes: *const u8, length: c_int) -> c_int {
    // SAFETY: `opaque` is the muxer's `Io`, which nobody else uses during a call of libavformat; the bytes are its buffer's.
    let (io, bytes) = unsafe { (&mut *opaque.cast::<Io>(), std::slice::from_raw_parts(bytes, length.max(0) as usize)) };
    let written = match &mut io.sink {
        Some(sink) => sink.write_at(io.position, bytes),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    };
    match written {
        Ok(()) => {
            io.position += bytes.len() as u64;
            io.length = io.length.max(io.position);
            length
        }
        Err(error) => {
            io.error.get_or_insert(error);
            c_int::from(ffmpeg::Error::External)
        }
    }
}

/// # Safety
/// Called by libavformat with the `Io` given to it.
unsafe extern "C" fn seek(opaque: *mut c_void, offset: i64, whence: c_int) -> i64 {
    // SAFETY: as in `write`.
    let io = unsafe { &mut *opaque.cast::<Io>() };
    let from = match whence & !(ffi::AVSEEK_FORCE as c_int) {
        whence if whence == ffi::AVSEEK_SIZE as c_int => return io.length as i64,
        SEEK_SET => 0,
        SEEK_CUR => io.position,
        SEEK_END => io.length,
        _ => return -1,
    };
    match from.checked_add_signed(offset).filter(|&position| position <= io.length) {
        Some(position) => {
            io.position = position;
            position as i64
        }
        None => -1,
    }
}
