//! Memory of one room's own for what it reads.
//!
//! A payload as it comes is a piece of the connection's read buffer, which holds other rooms' entries too and stays as long as
//! the last of them: a window's worth of pieces keeps several times its length. Copied together, entries take what they are
//! long, and the connection reads into the same few buffers again, which are in the processor's caches already.

use bytes::{Bytes, BytesMut};

/// How much is taken at a time, and given back when nothing of it is held any more.
const SHELF_BYTES: usize = 256 * 1024;

/// Where the next payload goes.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    rest: BytesMut,
}

impl Shelf {
    /// The same bytes, in memory that holds this room's only.
    pub(super) fn put(&mut self, payload: &[u8]) -> Bytes {
        if payload.len() > self.rest.capacity() {
            self.rest = BytesMut::with_capacity(SHELF_BYTES.max(payload.len()));
        }
        self.rest.extend_from_slice(payload);
        self.rest.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_stand_side_by_side_and_are_as_they_came() {
        let mut shelf = Shelf::default();
        let payloads: Vec<Vec<u8>> = (0..40_u8).map(|n| vec![n; 1_000 * usize::from(n)]).collect();
        let put: Vec<Bytes> = payloads.iter().map(|payload| shelf.put(payload)).collect();
        assert_eq!(put, payloads);
        let beside = put.windows(2).filter(|pair| pair[0].as_ptr_range().end == pair[1].as_ptr()).count();
        assert!(beside > 30, "{beside} of {} follow their predecessor", put.len());
        assert_eq!(shelf.put(&vec![1; 2 * SHELF_BYTES]).len(), 2 * SHELF_BYTES);
    }
}
