//! A window object: as it stands, and as body and footer with checksums that are right.
#![no_main]

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use roomreel_shared::window::Window;
use roomreel_shared::wire;

fn read(object: Bytes) {
    if let Ok(window) = Window::parse(object.clone()) {
        assert_eq!(window.object(), &object);
        for segment in &window.segments {
            assert!(segment.range.end <= object.len());
            if let Ok(batches) = window.batches(segment) {
                assert!(batches.count() <= segment.range.len());
            }
        }
    }
}

/// The input's first two bytes say how long the body is; the rest is the footer.
fn sealed(mut input: &[u8]) -> Option<Bytes> {
    if input.len() < 2 {
        return None;
    }
    let length = usize::from(input.get_u16_le()).min(input.len());
    let (body, footer) = input.split_at(length);
    let mut object = BytesMut::from(&b"RRWIN\x01\r\n"[..]);
    object.put_slice(body);
    let mut footer = wire::WindowFooter::decode(footer).ok()?;
    for segment in &mut footer.segments {
        let start = usize::try_from(segment.offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(segment.length).unwrap_or(usize::MAX));
        if let Some(bytes) = object.get(start..end) {
            segment.crc32c = crc32c::crc32c(bytes);
        }
    }
    let footer = footer.encode_to_vec();
    object.put_slice(&footer);
    object.put_u32_le(u32::try_from(footer.len()).ok()?);
    object.put_u32_le(crc32c::crc32c(&footer));
    object.put_slice(b"RRWE");
    Some(object.freeze())
}

fuzz_target!(|input: &[u8]| {
    read(Bytes::copy_from_slice(input));
    sealed(input).map(read);
});
