//! Files that grow in memory and leave it part by part.
//!
//! Owns the way from a muxer, which writes where it likes, to the uploads, which take parts in order. What is ready waits in a queue until
//! the caller takes it, which it does after each slice and each window.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use roomreel_shared::key::{Key, RecordingKeys};

use crate::export::FileMaker;
use crate::join::{Part, Parts, Remainder};
use crate::mux::libav::ByteSink;

/// What is ready of a file.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) key: Key,
    pub(super) content: Content,
}

/// A part of a file, or its end.
#[derive(Debug)]
pub(super) enum Content {
    Part(Part),
    End(Remainder),
}

/// Where pieces wait: those of one slice or window, then they are taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces {
    waiting: Arc<Mutex<Vec<Piece>>>,
    /// Bytes that files hold back.
    held: Arc<AtomicUsize>,
}

impl Pieces {
    /// Those that wait, in order.
    pub(super) fn take(&self) -> Vec<Piece> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a small file there whole.
    pub(super) fn whole(&self, key: Key, file: Bytes) {
        self.put(key, Content::End(Remainder::Whole(file)));
    }

    pub(super) fn part(&self, key: Key, part: Part) {
        self.put(key, Content::Part(part));
    }

    pub(super) fn end(&self, key: Key, rest: Remainder) {
        self.put(key, Content::End(rest));
    }

    fn put(&self, key: Key, content: Content) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Piece { key, content });
    }

    /// Bytes that growing files hold back.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// A file that grows.
    pub(super) fn file(&self, key: Key) -> Box<GrowingFile> {
        Box::new(GrowingFile { key, pieces: self.clone(), parts: Parts::default() })
    }
}

impl Piece {
    /// Bytes of media.
    pub(super) fn bytes(&self) -> usize {
        match &self.content {
            Content::Part(part) => part.body.len(),
            Content::End(Remainder::Whole(file)) => file.len(),
            Content::End(Remainder::Parts(parts)) => parts.iter().map(|part| part.body.len()).sum(),
        }
    }
}

/// A file that grows.
pub(super) struct GrowingFile {
    key: Key,
    pieces: Pieces,
    parts: Parts,
}

impl Drop for GrowingFile {
    fn drop(&mut self) {
        self.pieces.held.fetch_sub(self.parts.held(), Ordering::Relaxed);
    }
}

impl ByteSink for GrowingFile {
    fn write_at(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let before = self.parts.held();
        // A header that is written again may end with the file.
        let known = self.parts.length().saturating_sub(position).min(bytes.len() as u64) as usize;
        if !self.parts.change(position, &bytes[..known]) {
            return Err(io::Error::other(format!("byte {position} has been uploaded and is written again")));
        }
        self.parts.append(&bytes[known..]);
        while let Some(part) = self.parts.pop() {
            self.pieces.part(self.key.clone(), part);
        }
        self.pieces.held.fetch_add(self.parts.held(), Ordering::Relaxed);
        self.pieces.held.fetch_sub(before, Ordering::Relaxed);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.pieces.held.fetch_sub(self.parts.held(), Ordering::Relaxed);
        let rest = std::mem::take(&mut self.parts).finish(Bytes::new());
        self.pieces.end(self.key.clone(), rest);
        Ok(())
    }
}

/// Files of tracks that grow.
pub(super) struct TrackFiles {
    pub(super) keys: RecordingKeys,
    pub(super) pieces: Pieces,
}

impl FileMaker for TrackFiles {
    fn create(&self, name: &str) -> io::Result<Box<dyn ByteSink>> {
        Ok(self.pieces.file(self.keys.track_file(name)))
    }
}
