//! Video decoders.

use ffmpeg::codec::{Context, threading};
use ffmpeg::format::Pixel;
use ffmpeg::software::scaling;
use ffmpeg::{ffi, frame};
use ffmpeg_the_third as ffmpeg;
use roomreel_shared::event::Codec;

use super::{Error, silence_libav};
use crate::frame::Picture;

/// Pixels of the largest picture that is decoded: a hostile stream can ask for no more memory than that.
const MAX_PIXELS: i64 = 4096 * 4096;
/// Bytes of the largest coded frame.
const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// Decodes one RTP stream's video.
pub struct VideoDecoder {
    codec: Codec,
    decoder: ffmpeg::decoder::Opened,
    /// Brings what is not I420 into that form; kept while pictures keep their form.
    converter: Option<scaling::Context>,
}

// SAFETY: a swscale context has no thread of its own and is only reached through `&mut self`.
unsafe impl Send for VideoDecoder {}

impl VideoDecoder {
    /// A decoder that waits for a key frame.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what is no video codec or is not built into libavcodec.
    pub fn new(codec: &Codec) -> Result<Self, Error> {
        silence_libav();
        Ok(Self { codec: codec.clone(), decoder: open(codec)?, converter: None })
    }

    /// Decodes one coded frame: for H.264 and H.265 in Annex B form, for AV1 a temporal unit of OBUs in the low-overhead form.
    ///
    /// `pts` comes back with the frame's picture, in the caller's units. Of several pictures with one `pts` (spatial layers) the last is
    /// returned. A picture that libavcodec knows to be damaged is not.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the frame gave no picture because of its content. Decoding may go on with the next frame.
    pub fn decode(&mut self, frame: &[u8], pts: i64) -> Result<Vec<(i64, Picture)>, Error> {
        if frame.is_empty() || frame.len() > MAX_FRAME_BYTES {
            return Err(Error::damaged(&self.codec, format!("a frame of {} bytes", frame.len())));
        }
        let mut packet = ffmpeg::Packet::copy(frame);
        packet.set_pts(Some(pts));
        packet.set_dts(Some(pts));
        let mut pictures = Vec::new();
        let mut problem = match self.decoder.send_packet(&packet) {
            Ok(()) => None,
            // The decoder is full of frames it has not given out; libavcodec promises that it takes the packet after that.
            Err(error) if is_again(error) => {
                let problem = self.receive(pts, &mut pictures);
                self.decoder.send_packet(&packet).err().map(|error| error.to_string()).or(problem)
            }
            Err(error) => Some(error.to_string()),
        };
        problem = self.receive(pts, &mut pictures).or(problem);
        match problem {
            Some(why) if pictures.is_empty() => Err(Error::damaged(&self.codec, why)),
            _ => Ok(pictures),
        }
    }

    /// Forgets every reference picture: what comes next must be a key frame.
    pub fn reset(&mut self) {
        self.decoder.flush();
    }

    /// Takes what is ready; the answer is what went wrong.
    fn receive(&mut self, pts: i64, pictures: &mut Vec<(i64, Picture)>) -> Option<String> {
        let mut problem = None;
        loop {
            let mut frame = frame::Video::empty();
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => {}
                Err(error) if is_again(error) || error == ffmpeg::Error::Eof => return problem,
                Err(error) => return Some(error.to_string()),
            }
            if is_damaged(&frame) {
                problem = Some("references of a picture are missing".to_owned());
                continue;
            }
            let pts = frame.pts().unwrap_or(pts);
            match self.converted(frame) {
                Ok(picture) => match pictures.last_mut() {
                    Some(last) if last.0 == pts => last.1 = picture,
                    _ => pictures.push((pts, picture)),
                },
                Err(error) => problem = Some(error),
            }
        }
    }

    fn converted(&mut self, frame: frame::Video) -> Result<Picture, String> {
        let (format, width, height) = (frame.format(), frame.width(), frame.height());
        if format == Pixel::YUV420P {
            return Picture::from_frame(frame).ok_or_else(|| "a picture without planes".to_owned());
        }
        let fits = |converter: &scaling::Context| {
            let input = converter.input();
            (input.format, input.width, input.height) == (format, width, height)
        };
        if !self.converter.as_ref().is_some_and(fits) {
            let flags = scaling::Flags::BILINEAR | scaling::Flags::ACCURATE_RND;
            let converter = scaling::Context::get(format, width, height, Pixel::YUV420P, width, height, flags);
            self.converter = Some(converter.map_err(|error| format!("{format:?} pictures: {error}"))?);
        }
        let converter = self.converter.as_mut().expect("made above");
        let mut i420 = frame::Video::empty();
        converter.run(&frame, &mut i420).map_err(|error| error.to_string())?;
        Picture::from_frame(i420).ok_or_else(|| "a picture without planes".to_owned())
    }
}

impl std::fmt::Debug for VideoDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VideoDecoder of {}", self.codec.name())
    }
}

fn open(codec: &Codec) -> Result<ffmpeg::decoder::Opened, Error> {
    let name = match codec {
        Codec::Vp8 => "vp8",
        Codec::Vp9 => "vp9",
        Codec::H264 => "h264",
        Codec::H265 => "hevc",
        Codec::Av1 => "libdav1d",
        _ => return Err(Error::unsupported(codec, "it is not a video codec known here")),
    };
    let found = ffmpeg::decoder::find_by_name(name)
        .ok_or_else(|| Error::unsupported(codec, format!("this libavcodec has no decoder {name}")))?;
    let mut context = Context::new_with_codec(found);
    context.set_threading(threading::Config { kind: threading::Type::None, count: 1, ..Default::default() });
    // SAFETY: the context is allocated and not yet open; these are plain fields of it.
    unsafe {
        let context = context.as_mut_ptr();
        (*context).max_pixels = MAX_PIXELS;
        if *codec == Codec::H265 {
            // This decoder has no other way to say that a picture is damaged.
            (*context).err_recognition |= ffi::AV_EF_EXPLODE | ffi::AV_EF_CRCCHECK;
        }
        // What WebRTC sends is not reordered: give each picture out at once.
        (*context).flags |= ffi::AV_CODEC_FLAG_LOW_DELAY as i32;
        // Without it libavcodec takes the packet's time stamp for one of 90 kHz in its log lines only; ours are carried through.
        (*context).pkt_timebase = ffi::AVRational { num: 1, den: 1_000_000 };
    }
    context.decoder().open().map_err(|error| Error::unsupported(codec, error))
}

/// Whether libavcodec knows that references were missing.
fn is_damaged(frame: &frame::Video) -> bool {
    // SAFETY: the frame is allocated; these are plain fields of it.
    unsafe { (*frame.as_ptr()).flags & ffi::AV_FRAME_FLAG_CORRUPT != 0 || (*frame.as_ptr()).decode_error_flags != 0 }
}

/// Whether libavcodec asks for more input, or for its output to be taken first.
pub(crate) fn is_again(error: ffmpeg::Error) -> bool {
    matches!(error, ffmpeg::Error::Other { errno }
        if std::io::Error::from_raw_os_error(errno).kind() == std::io::ErrorKind::WouldBlock)
}
