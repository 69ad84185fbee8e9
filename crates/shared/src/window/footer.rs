//! A window without its media: read from the end of its object, and made an object again that holds some tracks or none.
//!
//! What begins to render in mid-recording needs the events of every window before, and media of few. The objects made here are
//! read by [`Window::parse`] like any other; they are never stored.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;

use super::{Error, MAGIC, TRAILER_BYTES, TRAILER_MAGIC, Window};
use crate::checksum;
use crate::key::Key;
use crate::ports::{ObjectStore, StoreError};
use crate::wire;

/// How much of an object's end is read at first: the footers of most windows are shorter.
const TAIL_BYTES: u64 = 64 * 1024;

/// Why a footer was not read from a store.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The store did not give it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object is damaged.
    #[error(transparent)]
    Window(#[from] Error),
}

/// The footer of a window object.
#[derive(Debug, Clone)]
pub struct Footer {
    wire: wire::WindowFooter,
    window: Window,
    ranges: Vec<Range<u64>>,
}

impl Footer {
    /// Reads it from the end of an object that is `size` bytes long.
    ///
    /// # Errors
    /// Either [`FetchError`].
    pub async fn fetch(store: &dyn ObjectStore, key: &Key, size: u64) -> Result<Self, FetchError> {
        let mut tail = store.get_range(key, size.saturating_sub(TAIL_BYTES)..size).await?;
        let length = Self::length(&tail)?;
        if length > tail.len() as u64 && length <= size {
            tail = store.get_range(key, size - length..size).await?;
        }
        Ok(Self::parse(&tail, size)?)
    }

    /// How many bytes of the object's end hold the footer, from its last bytes.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn length(tail: &[u8]) -> Result<u64, Error> {
        let mut trailer = trailer(tail)?;
        Ok(u64::from(trailer.get_u32_le()) + TRAILER_BYTES as u64)
    }

    /// Reads it from the last bytes of an object that is `object_bytes` long; at least [`Self::length`] of them.
    ///
    /// # Errors
    /// As [`Window::parse`].
    pub fn parse(tail: &Bytes, object_bytes: u64) -> Result<Self, Error> {
        let (wire, length) = read(tail)?;
        let Some(body_end) = object_bytes.checked_sub(length as u64) else {
            return Err(Error::Shape("the footer is longer than the object"));
        };
        let body = MAGIC.len() as u64..body_end;
        let range = |segment: &wire::Segment| {
            let range = segment.offset..segment.offset.checked_add(segment.length)?;
            (range.start >= body.start && range.end <= body.end).then_some(range)
        };
        let ranges = wire.segments.iter().map(range).collect::<Option<_>>();
        let ranges = ranges.ok_or(super::field("segments.offset", "the range is not within the body"))?;
        let window = Window::parse(object(wire.clone(), &BTreeMap::new()))?;
        Ok(Self { wire, window, ranges })
    }

    /// The window, whose segments are there without their packets.
    #[must_use]
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Where the packets of segment `index` are in the object.
    #[must_use]
    pub fn range(&self, index: usize) -> Option<Range<u64>> {
        self.ranges.get(index).cloned()
    }

    /// An object of the same window that holds the packets of these segments, by their index, and of no others.
    #[must_use]
    pub fn with_media(&self, segments: &BTreeMap<usize, Bytes>) -> Bytes {
        object(self.wire.clone(), segments)
    }

    /// An object of the same window without packets, and without the participants and tracks it carries over: for windows behind
    /// others that told of them.
    #[must_use]
    pub fn events_only(&self) -> Bytes {
        let mut wire = self.wire.clone();
        if let Some(carry_over) = &mut wire.carry_over {
            *carry_over = wire::CarryOver {
                room_clock_us: carry_over.room_clock_us,
                room_clock_log_us: carry_over.room_clock_log_us,
                ..wire::CarryOver::default()
            };
        }
        wire.gaps.clear();
        wire.segments.iter_mut().for_each(|segment| segment.keyframes.clear());
        object(wire, &BTreeMap::new())
    }
}

/// The last bytes of what ends like a window object.
fn trailer(tail: &[u8]) -> Result<&[u8], Error> {
    let Some(at) = tail.len().checked_sub(TRAILER_BYTES) else {
        return Err(Error::Shape("it is too short to have a trailer"));
    };
    if !tail.ends_with(TRAILER_MAGIC) {
        return Err(Error::Shape("it does not end with a trailer: it is cut off"));
    }
    Ok(&tail[at..])
}

/// The footer at the end of `tail`, and its length with the trailer.
pub(super) fn read(tail: &Bytes) -> Result<(wire::WindowFooter, usize), Error> {
    let mut trailer = trailer(tail)?;
    let footer_length = trailer.get_u32_le() as usize;
    let expected = trailer.get_u32_le();
    let length = footer_length.saturating_add(TRAILER_BYTES);
    let Some(at) = tail.len().checked_sub(length) else {
        return Err(Error::Shape("the footer is longer than the object"));
    };
    let footer = tail.slice(at..at + footer_length);
    let actual = checksum::crc32c(&footer);
    if actual != expected {
        return Err(Error::FooterChecksum { expected, actual });
    }
    Ok((wire::WindowFooter::decode(footer).map_err(|e| Error::Decode(e.to_string()))?, length))
}

fn object(mut wire: wire::WindowFooter, media: &BTreeMap<usize, Bytes>) -> Bytes {
    let mut object = BytesMut::from(&MAGIC[..]);
    for (index, segment) in wire.segments.iter_mut().enumerate() {
        let packets = media.get(&index);
        segment.offset = object.len() as u64;
        segment.length = packets.map_or(0, |packets| packets.len() as u64);
        match packets {
            Some(packets) => object.put_slice(packets),
            None => segment.crc32c = checksum::crc32c(&[]),
        }
    }
    object.put_slice(&super::end_of_object(&wire));
    object.freeze()
}
