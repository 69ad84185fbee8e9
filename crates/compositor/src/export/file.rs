//! Where files are kept, and one that is being written.
//!
//! Owns files of a directory. Does not own those that are kept elsewhere: a [`FileMaker`] makes them.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use super::Error;
use crate::mux::libav::ByteSink;

/// Makes files.
pub trait FileMaker: Send + Sync {
    /// Begins the file `name`, which holds no directory.
    ///
    /// # Errors
    /// It cannot be begun.
    fn create(&self, name: &str) -> io::Result<Box<dyn ByteSink>>;
}

/// Files of a directory, which exists.
pub(super) struct Directory(pub(super) PathBuf);

impl FileMaker for Directory {
    fn create(&self, name: &str) -> io::Result<Box<dyn ByteSink>> {
        let file = BufWriter::new(File::create(self.0.join(name))?);
        Ok(Box::new(OnDisk { file, position: 0 }))
    }
}

struct OnDisk {
    file: BufWriter<File>,
    position: u64,
}

impl ByteSink for OnDisk {
    fn write_at(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
        if position != self.position {
            self.file.seek(SeekFrom::Start(position))?;
        }
        self.file.write_all(bytes)?;
        self.position = position + bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file that is being written.
pub(super) struct OpenFile {
    name: String,
    sink: Box<dyn ByteSink>,
    length: u64,
}

impl OpenFile {
    pub(super) fn create(maker: &dyn FileMaker, name: &str) -> Result<Self, Error> {
        match maker.create(name) {
            Ok(sink) => Ok(Self { name: name.to_owned(), sink, length: 0 }),
            Err(source) => Err(Error::File { name: name.to_owned(), source }),
        }
    }

    /// Its name, and where its bytes go.
    pub(super) fn into_sink(self) -> (String, Box<dyn ByteSink>) {
        (self.name, self.sink)
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.sink.write_at(self.length, bytes);
        written.map_err(|source| Error::File { name: self.name.clone(), source })?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        let name = self.name;
        self.sink.finish().map_err(|source| Error::File { name, source })
    }
}
