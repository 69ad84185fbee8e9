//! Bytes that follow one another and lie apart in memory: what is written once need not be copied together first.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// The pieces, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces {
    pieces: Vec<Bytes>,
    length: usize,
}

impl Pieces {
    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.length += piece.len();
            self.pieces.push(piece);
        }
    }

    /// How many bytes they are together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether they are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// `range` of the bytes, cut at their end.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let mut slice = Self::default();
        let mut start = 0;
        for piece in &self.pieces {
            let end = start + piece.len();
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                slice.push(piece.slice(from - start..to - start));
            }
            start = end;
        }
        slice
    }

    /// The bytes in one piece: copied, if they are in several.
    #[must_use]
    pub fn joined(&self) -> Bytes {
        match &self.pieces[..] {
            [] => Bytes::new(),
            [piece] => piece.clone(),
            pieces => {
                let mut joined = BytesMut::with_capacity(self.length);
                pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
                joined.freeze()
            }
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(bytes);
        pieces
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = std::vec::IntoIter<Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.pieces.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_bytes_they_were_cut_from() {
        let whole: Vec<u8> = (0..50).collect();
        let mut pieces = Pieces::default();
        for range in [0..7, 7..7, 7..8, 8..50] {
            pieces.push(Bytes::copy_from_slice(&whole[range]));
        }
        assert_eq!((pieces.len(), pieces.joined()), (50, whole.clone().into()));
        for start in 0..=50 {
            for end in start..60 {
                assert_eq!(pieces.slice(start..end).joined(), whole[start..end.min(50)]);
            }
        }
        assert!(Pieces::from(Bytes::new()).is_empty() && Pieces::default().joined().is_empty());
        assert_eq!(pieces.into_iter().count(), 3, "empty pieces are none");
    }
}
