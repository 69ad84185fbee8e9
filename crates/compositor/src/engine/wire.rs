//! What a render's process and its supervisor say to each other, over pipes.
//!
//! A frame is a kind, a length and that many bytes. Requests are answered one by one, in order. Owns the frames, their bounds and what is in
//! them: either side takes the other for hostile. Does not own when something is said.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::id::CompositeId;
use roomreel_shared::late::LateJob;
use roomreel_shared::window::TrackKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Work;
use crate::documents::quality::{RenderQuality, TrackQuality};
use crate::encode::{EncodedSlice, Sample};

/// Bytes before a frame's content.
pub(crate) const HEADER_BYTES: usize = 5;
/// Longest content: a window, or a slice of a minute at the highest rate there is.
const MAX_BYTES: u32 = 512 << 20;
/// Longest content that is text.
const MAX_TEXT_BYTES: usize = 16 << 20;
/// Most frames of one stream in a slice.
const MAX_SAMPLES: usize = 1 << 16;
/// Bytes of a frame in a slice beside its content.
const SAMPLE_BYTES: usize = 25;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Request: [`Start`]. Answer: [`Ready`].
    Start = 1,
    /// Request: a window object. Answer: [`Due`].
    Window = 2,
    /// Request: the next slice. Answer: [`Rendered`], then a slice unless none was due.
    Next = 3,
    /// Request: which files are to be made. Answer, here and below: [`Kind::Pieces`].
    Order = 4,
    /// Request: pictures that are to be taken before the end.
    Wanted = 5,
    /// Request: a picture of a slice.
    Picture = 6,
    /// Request: the end of every file.
    Finish = 7,
    /// Unasked, first of all: [`Hello`].
    Hello = 64,
    Ready = 65,
    Due = 66,
    Rendered = 67,
    /// An answer, and a request where files are made.
    Slice = 68,
    /// Answer to anything: the render cannot go on, and why.
    Failed = 69,
    /// Pieces of files.
    Pieces = 70,
}

impl Kind {
    fn read(byte: u8) -> io::Result<Self> {
        let kinds = [
            Self::Start,
            Self::Window,
            Self::Next,
            Self::Order,
            Self::Wanted,
            Self::Picture,
            Self::Finish,
            Self::Hello,
            Self::Ready,
            Self::Due,
            Self::Rendered,
            Self::Slice,
            Self::Failed,
            Self::Pieces,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == byte).ok_or_else(|| invalid("a frame of no kind"))
    }
}

/// What a process says when it is up.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// What it could not shut itself off from, in words.
    pub(crate) lacks: Vec<String>,
}

/// What is to be rendered.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    spec: CompositeSpec,
    fold: FoldSpec,
    first: u64,
    late: Option<LateJob>,
    banned: BTreeSet<TrackKey>,
    /// For tests: what goes wrong.
    #[cfg(debug_assertions)]
    #[serde(default)]
    pub(crate) fault: Option<super::Fault>,
}

impl Start {
    pub(crate) fn new(work: &Work, banned: &BTreeSet<TrackKey>) -> Self {
        Self {
            spec: work.spec.clone(),
            fold: work.fold.clone(),
            first: work.first,
            late: work.late.clone(),
            banned: banned.clone(),
            #[cfg(debug_assertions)]
            fault: None,
        }
    }

    #[cfg(debug_assertions)]
    pub(crate) fn with_fault(self, fault: Option<super::Fault>) -> Self {
        Self { fault, ..self }
    }

    pub(crate) fn work(self) -> (Work, BTreeSet<TrackKey>) {
        (Work { spec: self.spec, fold: self.fold, first: self.first, late: self.late }, self.banned)
    }
}

/// What containers are told; the rest of it follows from the composite.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) sps: Vec<u8>,
    pub(crate) pps: Vec<u8>,
    pub(crate) specific: Vec<u8>,
}

/// Number of the slice that can be asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Due {
    pub(crate) next: Option<u64>,
}

/// What is said with a slice.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Rendered {
    /// A slice follows.
    pub(crate) is_due: bool,
    pub(crate) next: Option<u64>,
    quality: Quality,
}

#[derive(Debug, Serialize, Deserialize)]
struct Quality {
    composite: CompositeId,
    first_slice: u64,
    slices: u64,
    tracks: Vec<(TrackKey, TrackQuality)>,
    notes: Vec<String>,
}

impl Rendered {
    pub(crate) fn new(is_due: bool, next: Option<u64>, quality: RenderQuality) -> Self {
        let RenderQuality { composite, first_slice, slices, tracks, notes } = quality;
        let tracks = tracks.into_iter().collect();
        Self { is_due, next, quality: Quality { composite, first_slice, slices, tracks, notes } }
    }

    pub(crate) fn quality(self) -> RenderQuality {
        let Quality { composite, first_slice, slices, tracks, notes } = self.quality;
        let tracks = tracks.into_iter().collect();
        RenderQuality { composite, first_slice, slices, tracks, notes }
    }
}

pub(crate) fn invalid(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

/// The bytes before a frame's content.
pub(crate) fn header(kind: Kind, bytes: usize) -> io::Result<[u8; HEADER_BYTES]> {
    let length = u32::try_from(bytes).ok().filter(|length| *length <= MAX_BYTES).ok_or_else(|| invalid("too long"))?;
    let [a, b, c, d] = length.to_le_bytes();
    Ok([kind as u8, a, b, c, d])
}

/// Kind and length of the content that follows.
pub(crate) fn read_header([kind, length @ ..]: [u8; HEADER_BYTES]) -> io::Result<(Kind, u64)> {
    let length = u32::from_le_bytes(length);
    if length > MAX_BYTES { Err(invalid("a frame that is too long")) } else { Ok((Kind::read(kind)?, length.into())) }
}

/// Writes a frame.
pub(crate) fn write(to: &mut impl Write, kind: Kind, content: &[u8]) -> io::Result<()> {
    to.write_all(&header(kind, content.len())?)?;
    to.write_all(content)?;
    to.flush()
}

/// Writes a frame of text.
pub(crate) fn write_text(to: &mut impl Write, kind: Kind, content: &impl Serialize) -> io::Result<()> {
    write(to, kind, &text(content))
}

/// Answers that the render cannot go on.
pub(crate) fn write_failure(to: &mut impl Write, why: &impl ToString) -> io::Result<()> {
    write(to, Kind::Failed, why.to_string().as_bytes())
}

/// Reads a frame; `None` at the end of all.
pub(crate) fn read(from: &mut impl Read) -> io::Result<Option<(Kind, Bytes)>> {
    let mut start = [0; HEADER_BYTES];
    match from.read_exact(&mut start) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let (kind, length) = read_header(start)?;
    let mut content = Vec::new();
    // Grows with what comes, not with what is announced.
    from.take(length).read_to_end(&mut content)?;
    if content.len() as u64 == length { Ok(Some((kind, content.into()))) } else { Err(invalid("a frame is cut off")) }
}

pub(crate) fn text(content: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(content).expect("messages are made of what JSON can say")
}

pub(crate) fn read_text<T: DeserializeOwned>(content: &[u8]) -> io::Result<T> {
    if content.len() > MAX_TEXT_BYTES {
        return Err(invalid("a text that is too long"));
    }
    serde_json::from_slice(content).map_err(invalid)
}

/// A text, and bytes behind it, in one content.
pub(crate) fn encode_with_text(content: &impl Serialize, bytes: &[u8]) -> Bytes {
    let text = text(content);
    let mut coded = BytesMut::with_capacity(4 + text.len() + bytes.len());
    coded.put_u32_le(u32::try_from(text.len()).unwrap_or(u32::MAX));
    coded.put_slice(&text);
    coded.put_slice(bytes);
    coded.freeze()
}

/// Reads what [`encode_with_text`] wrote; the bytes share the memory of `coded`.
pub(crate) fn decode_with_text<T: DeserializeOwned>(mut coded: Bytes) -> io::Result<(T, Bytes)> {
    let length = coded.try_get_u32_le().map_err(invalid)? as usize;
    if length > coded.len() {
        return Err(invalid("a text is cut off"));
    }
    Ok((read_text(&coded.split_to(length))?, coded))
}

/// A slice as it goes over the pipe.
pub(crate) fn encode_slice(slice: &EncodedSlice) -> Bytes {
    let streams = [&slice.video, &slice.audio, &slice.webm];
    let bytes: usize = streams.iter().flat_map(|samples| samples.iter()).map(|of| SAMPLE_BYTES + of.data.len()).sum();
    let mut coded = BytesMut::with_capacity(bytes + 20);
    coded.put_u64_le(slice.number);
    for samples in streams {
        coded.put_u32_le(u32::try_from(samples.len()).unwrap_or(u32::MAX));
        for sample in samples {
            coded.put_u32_le(u32::try_from(sample.data.len()).unwrap_or(u32::MAX));
            coded.put_i64_le(sample.pts);
            coded.put_i64_le(sample.dts);
            coded.put_u32_le(sample.duration);
            coded.put_u8(sample.key.into());
            coded.put_slice(&sample.data);
        }
    }
    coded.freeze()
}

/// Reads a slice; its samples share the memory of `coded`.
pub(crate) fn decode_slice(mut coded: Bytes) -> io::Result<EncodedSlice> {
    let cut_off = |_| invalid("a slice is cut off");
    let mut slice = EncodedSlice { number: coded.try_get_u64_le().map_err(cut_off)?, ..EncodedSlice::default() };
    for samples in [&mut slice.video, &mut slice.audio, &mut slice.webm] {
        let count = coded.try_get_u32_le().map_err(cut_off)? as usize;
        if count > MAX_SAMPLES {
            return Err(invalid("a slice of too many frames"));
        }
        for _ in 0..count {
            let length = coded.try_get_u32_le().map_err(cut_off)? as usize;
            let pts = coded.try_get_i64_le().map_err(cut_off)?;
            let dts = coded.try_get_i64_le().map_err(cut_off)?;
            let duration = coded.try_get_u32_le().map_err(cut_off)?;
            let key = coded.try_get_u8().map_err(cut_off)? != 0;
            if length > coded.len() {
                return Err(invalid("a slice is cut off"));
            }
            samples.push(Sample { data: coded.split_to(length), pts, dts, duration, key });
        }
    }
    if coded.is_empty() { Ok(slice) } else { Err(invalid("more than a slice")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice() -> EncodedSlice {
        let sample = |pts: i64, data: &'static [u8]| Sample {
            data: Bytes::from_static(data),
            pts,
            dts: pts - 1,
            duration: 7,
            key: pts == 0,
        };
        EncodedSlice {
            number: 9,
            video: vec![sample(0, b"first"), sample(-5, b"")],
            audio: vec![sample(3, b"sound")],
            webm: vec![],
        }
    }

    #[test]
    fn frames_and_slices_come_back() {
        let mut pipe = Vec::new();
        write(&mut pipe, Kind::Next, &[]).expect("it has room");
        write(&mut pipe, Kind::Slice, &encode_slice(&slice())).expect("it has room");
        let mut rest = &pipe[..];
        assert_eq!(read(&mut rest).expect("whole"), Some((Kind::Next, Bytes::new())));
        let (kind, content) = read(&mut rest).expect("whole").expect("another one");
        assert_eq!((kind, decode_slice(content).expect("whole")), (Kind::Slice, slice()));
        assert_eq!(read(&mut rest).expect("nothing left"), None);
    }

    #[test]
    fn what_is_no_frame_or_slice_is_refused() {
        for nonsense in [&[Kind::Slice as u8, 0xff, 0xff, 0xff, 0xff][..], &[0, 0, 0, 0, 0], &[3, 2, 0, 0, 0, 1]] {
            assert!(read(&mut &*nonsense).is_err(), "{nonsense:?}");
        }
        let whole = encode_slice(&slice());
        for length in 0..whole.len() {
            assert!(decode_slice(whole.slice(..length)).is_err(), "{length}");
        }
        let mut many = BytesMut::from(&whole[..8]);
        many.put_u32_le(u32::MAX);
        assert!(decode_slice(many.freeze()).is_err());
    }
}
