//! Large buffers that are used again.
//!
//! What the allocator takes back it returns to the system, and each page of it costs a fault when it is written again: of
//! megabytes that come and go with every window these are more than the copying. A buffer here is one that everybody has let
//! go of; nobody has to say so.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::BytesMut;

/// Spent buffers, the longest spent first.
#[derive(Debug)]
pub struct Pool {
    spent: Mutex<VecDeque<BytesMut>>,
    most: usize,
}

impl Pool {
    /// Keeps at most so many buffers that nobody uses, or that somebody still reads.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { spent: Mutex::new(VecDeque::new()), most }
    }

    /// An empty buffer for `bytes`.
    #[must_use]
    pub fn take(&self, bytes: usize) -> BytesMut {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let free = spent.iter_mut().position(|buffer| buffer.try_reclaim(bytes));
        free.and_then(|at| spent.remove(at)).unwrap_or_else(|| BytesMut::with_capacity(bytes))
    }

    /// What is left of a buffer after all that was written has been split off; it is free when that is dropped.
    pub fn give(&self, rest: BytesMut) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.len() == self.most {
            spent.pop_front();
        }
        spent.push_back(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_nobody_reads_it_any_more() {
        let pool = Pool::new(2);
        let write = |byte: u8| {
            let mut buffer = pool.take(1_000);
            buffer.resize(1_000, byte);
            let written = buffer.split().freeze();
            pool.give(buffer);
            written
        };
        let first = write(1);
        let place = first.as_ptr();
        let second = write(2);
        assert_ne!(second.as_ptr(), place, "the first is still read");
        assert!(first.iter().all(|byte| *byte == 1) && second.iter().all(|byte| *byte == 2));
        drop(first);
        assert_eq!(write(3).as_ptr(), place);
        assert!(pool.take(100_000).capacity() >= 100_000, "what is too small is left where it is");
    }

    #[test]
    fn it_keeps_no_more_than_it_may() {
        let pool = Pool::new(2);
        (0..5).for_each(|_| pool.give(BytesMut::with_capacity(10)));
        assert_eq!(pool.spent.lock().expect("no panic").len(), 2);
    }
}
