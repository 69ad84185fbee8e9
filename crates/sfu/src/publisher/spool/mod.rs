//! The publisher's spool: files that keep what is not yet durable when memory does not, or when the process dies.
//!
//! Owns the files: what is in them, how many bytes they may take, when they go. They are appended to and never changed; one
//! that holds nothing any more is deleted. They are not synced: what is written survives the process, not a loss of power.
//! Does not own what is written and when (see [`super::core`]), nor the thread that does it (see `thread`).

mod record;
#[cfg(test)]
mod tests;
mod thread;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use roomreel_shared::id::{SfuId, TenantId};

pub use record::MessageId;
pub use thread::Job;
pub(super) use thread::{Done, start};

use record::{Read, Record};

/// Least and most bytes of one file.
const FILE_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=64 * 1024 * 1024;
/// Files that a full spool is made of, about.
const FILES: u64 = 16;
/// Nobody but the process's user reads it.
const FILE_MODE: u32 = 0o600;
/// A file of a spool is not much longer than this; what is longer is read no further.
const MAX_READ_BYTES: u64 = 128 * 1024 * 1024;

/// Where a publisher spools, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// A directory of its own; it is made. No two publishers may use one at a time.
    pub dir: PathBuf,
    /// Most bytes of all files.
    pub max_bytes: u64,
}

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system says no.
    #[error("spool {path}: {source}")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("spool {path} is in use by another process")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// It holds messages of another SFU, which may not be published as this one's.
    #[error("spool {path} belongs to SFU {sfu:?} of tenant {tenant:?}; give each SFU a directory of its own")]
    Foreign {
        /// Which file of it.
        path: PathBuf,
        /// Whose.
        tenant: String,
        /// Whose.
        sfu: String,
    },
}

/// Why a message is not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the spool is full")]
    Full,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    file: u64,
    offset: u64,
    length: u32,
}

/// A message that an earlier process left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// What it is.
    pub id: MessageId,
    /// Where it stands.
    pub place: Place,
    /// Its length.
    pub bytes: usize,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    path: PathBuf,
    bytes: u64,
    /// Messages in it that are still needed.
    live: u64,
}

/// The files.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    max_bytes: u64,
    owner: Vec<u8>,
    /// Oldest first; the last one is written if `open` is set.
    segments: VecDeque<Segment>,
    open: Option<File>,
    /// The file that was read last.
    reading: Option<(u64, File)>,
    next: u64,
    bytes: u64,
    _lock: File,
}

impl Files {
    /// Opens a spool, and tells what an earlier process left in it, in the order it was accepted.
    pub(super) fn open(config: &SpoolConfig, tenant: &TenantId, sfu: &SfuId) -> Result<(Self, Vec<Recovered>), Error> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        // It holds what people say.
        DirBuilder::new().recursive(true).mode(0o700).create(&config.dir).map_err(at(&config.dir))?;
        let lock_path = config.dir.join("lock");
        let lock =
            File::options().create(true).append(true).mode(FILE_MODE).open(&lock_path).map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: config.dir.clone() }),
            Err(TryLockError::Error(source)) => return Err(Error::Io { path: lock_path, source }),
        }
        let mut numbers = BTreeSet::new();
        for entry in std::fs::read_dir(&config.dir).map_err(at(&config.dir))? {
            let name = entry.map_err(at(&config.dir))?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".spool"));
            numbers.extend(stem.filter(|stem| stem.len() == 20).and_then(|stem| stem.parse::<u64>().ok()));
        }
        let mut files = Self {
            dir: config.dir.clone(),
            max_bytes: config.max_bytes,
            owner: record::owner(tenant, sfu),
            segments: VecDeque::new(),
            open: None,
            reading: None,
            next: numbers.last().map_or(0, |last| last.saturating_add(1)),
            bytes: 0,
            _lock: lock,
        };
        let mut recovered = Vec::new();
        let mut forgotten: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        for number in numbers {
            let path = files.path(number);
            let (contents, length) = contents(&path).map_err(at(&path))?;
            files.bytes += length;
            let mut offset = record::MAGIC.len();
            let mut damaged = 0_u64;
            while contents.starts_with(record::MAGIC) {
                let length = match record::read(&contents.slice(offset.min(contents.len())..)) {
                    Read::End => break,
                    Read::Damaged(length) => {
                        damaged += 1;
                        length
                    }
                    Read::Record(record, length) => {
                        match record {
                            Record::Owner { tenant: other, sfu: other_sfu } => {
                                if other != tenant.as_str() || other_sfu != sfu.as_str() {
                                    return Err(Error::Foreign { path, tenant: other, sfu: other_sfu });
                                }
                            }
                            Record::Forgotten { incarnation, numbers } => {
                                forgotten.entry(incarnation).or_default().push(numbers);
                            }
                            Record::Message(id) => {
                                let place = Place { file: number, offset: offset as u64, length: length as u32 };
                                let bytes = length - record::HEADER_BYTES - 1;
                                recovered.push(Recovered { id, place, bytes });
                            }
                        }
                        length
                    }
                };
                offset += length;
            }
            if damaged > 0 {
                tracing::warn!(path = %path.display(), damaged, "records of the spool are damaged and left out");
            }
            files.segments.push_back(Segment { number, path, bytes: length, live: 0 });
        }
        let is_forgotten = |id: &MessageId| {
            let ranges = forgotten.get(&id.incarnation.get());
            ranges.is_some_and(|ranges| ranges.iter().any(|(first, last)| (*first..=*last).contains(&id.number)))
        };
        let mut seen = BTreeSet::new();
        recovered.retain(|found| {
            let key = (found.id.incarnation, found.id.number);
            !is_forgotten(&found.id) && seen.insert(key)
        });
        for found in &recovered {
            files.segment(found.place.file).into_iter().for_each(|segment| segment.live += 1);
        }
        files.delete_what_is_over();
        Ok((files, recovered))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:020}.spool"))
    }

    fn segment(&mut self, number: u64) -> Option<&mut Segment> {
        let at = self.segments.binary_search_by_key(&number, |segment| segment.number).ok()?;
        self.segments.get_mut(at)
    }

    fn file_bytes(&self) -> u64 {
        (self.max_bytes / FILES).clamp(*FILE_BYTES.start(), *FILE_BYTES.end())
    }

    /// Writes a message.
    pub(super) fn append(&mut self, is_batch: bool, payload: &[u8]) -> Result<Place, Refusal> {
        let place = self.write(&record::message(is_batch, payload), self.max_bytes)?;
        self.segment(place.file).into_iter().for_each(|segment| segment.live += 1);
        Ok(place)
    }

    fn write(&mut self, record: &[u8], max_bytes: u64) -> Result<Place, Refusal> {
        let is_full = self.segments.back().is_some_and(|last| last.bytes + record.len() as u64 > self.file_bytes());
        if is_full {
            self.open = None;
        }
        let begins = if self.open.is_none() { record::MAGIC.len() + self.owner.len() } else { 0 };
        if self.bytes + (begins + record.len()) as u64 > max_bytes {
            return Err(Refusal::Full);
        }
        if self.open.is_none() {
            self.begin()?;
        }
        let (Some(file), Some(segment)) = (&mut self.open, self.segments.back_mut()) else { return Err(Refusal::Full) };
        let place = Place { file: segment.number, offset: segment.bytes, length: record.len() as u32 };
        if let Err(error) = file.write_all(record) {
            // What of it was written goes, or stays behind as a torn end; then the next message begins a file of its own.
            if file.set_len(segment.bytes).is_err() {
                self.open = None;
            }
            return Err(error.into());
        }
        segment.bytes += record.len() as u64;
        self.bytes += record.len() as u64;
        Ok(place)
    }

    fn begin(&mut self) -> Result<(), io::Error> {
        let number = self.next;
        let path = self.path(number);
        self.next += 1;
        let mut file = File::options().create_new(true).append(true).mode(FILE_MODE).open(&path)?;
        let start = [&record::MAGIC[..], &self.owner].concat();
        if let Err(error) = file.write_all(&start) {
            // On a full disk there would be one for every message. If it stays all the same it is found at the next start.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        self.bytes += start.len() as u64;
        self.segments.push_back(Segment { number, path, bytes: start.len() as u64, live: 0 });
        self.open = Some(file);
        Ok(())
    }

    /// Reads a message back.
    pub(super) fn read(&mut self, place: Place) -> Result<Bytes, io::Error> {
        if self.reading.as_ref().is_none_or(|(number, _)| *number != place.file) {
            self.reading = Some((place.file, File::open(self.path(place.file))?));
        }
        let (_, file) = self.reading.as_mut().expect("opened above");
        let mut record = vec![0; place.length as usize];
        file.seek(SeekFrom::Start(place.offset))?;
        file.read_exact(&mut record)?;
        record::payload(record.into()).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is damaged"))
    }

    /// Messages that stand at `places` are needed no more; they are `numbers` of `incarnation`.
    pub(super) fn forget(&mut self, incarnation: u64, numbers: (u64, u64), places: &[Place]) {
        for place in places {
            let segment = self.segment(place.file);
            segment.into_iter().for_each(|segment| segment.live = segment.live.saturating_sub(1));
        }
        // A note that is lost costs a message that is published again, which is dropped as one that has come before. So it
        // may use space of its own: without it nothing would ever be freed.
        let _ = self.write(&record::forgotten(incarnation, numbers), self.max_bytes + self.file_bytes());
        self.delete_what_is_over();
    }

    /// Deletes files from the oldest on of which nothing is needed: notes in later files are about messages in earlier ones.
    fn delete_what_is_over(&mut self) {
        let is_empty = self.segments.iter().all(|segment| segment.live == 0);
        if is_empty && self.bytes > self.file_bytes() {
            self.open = None;
        }
        while let Some(oldest) = self.segments.front()
            && oldest.live == 0
            && (self.segments.len() > 1 || self.open.is_none())
        {
            if let Err(error) = std::fs::remove_file(&oldest.path) {
                tracing::warn!(path = %oldest.path.display(), %error, "a file of the spool is not deleted");
            }
            self.bytes = self.bytes.saturating_sub(oldest.bytes);
            self.segments.pop_front();
        }
    }

    /// The process ends in order: what holds nothing leaves nothing behind.
    fn close(&mut self) {
        self.open = None;
        self.delete_what_is_over();
    }
}

/// A file and its length; no more of it than a spool writes.
fn contents(path: &Path) -> Result<(Bytes, u64), io::Error> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut contents = Vec::new();
    file.take(MAX_READ_BYTES).read_to_end(&mut contents)?;
    Ok((contents.into(), length))
}

/// What a spool in `dir` holds that is still to be published: for tools and tests; nobody may have it open.
///
/// # Errors
/// As for opening it.
pub fn inspect(dir: &Path, tenant: &TenantId, sfu: &SfuId) -> Result<Vec<Recovered>, Error> {
    let config = SpoolConfig { dir: dir.to_owned(), max_bytes: u64::MAX };
    Files::open(&config, tenant, sfu).map(|(_, recovered)| recovered)
}
