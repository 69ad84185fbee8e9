//! The thread that writes and reads the spool's files, so that media never waits for a disk.
//!
//! Owns the thread and its bounded queue. Does not own what is to be done (see [`super::super::core`]).

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Files, Place, Refusal};
use crate::publisher::core::MessageKey;

/// Jobs that wait: a second or so of what a busy SFU publishes.
const QUEUE: usize = 1024;

/// How long nothing is written after the disk refused something.
const PAUSE: Duration = Duration::from_secs(1);

/// What the thread is to do.
#[derive(Debug)]
pub enum Job {
    /// Write a message.
    Write {
        /// Which.
        key: MessageKey,
        /// Or an event.
        is_batch: bool,
        /// Its bytes.
        payload: Bytes,
    },
    /// Read one back.
    Read {
        /// Which.
        key: MessageKey,
        /// Where it stands.
        place: Place,
    },
    /// Messages are needed no more.
    Forget {
        /// By whose numbers.
        incarnation: u64,
        /// Inclusive.
        numbers: (u64, u64),
        /// Where they stand.
        places: Vec<Place>,
    },
}

/// What came of a job.
#[derive(Debug)]
pub(in super::super) enum Done {
    /// It is written.
    Written(MessageKey, Place),
    /// It is not, and stays in memory alone.
    NotWritten(MessageKey),
    /// It is read; `None` if that is not possible.
    Read(MessageKey, Option<Bytes>),
}

/// Starts the thread; it ends when nobody can give it jobs any more.
pub(in super::super) fn start(files: Files, done: impl Fn(Done) + Send + 'static) -> std::io::Result<SyncSender<Job>> {
    let (jobs, queue) = sync_channel(QUEUE);
    std::thread::Builder::new().name("roomreel-spool".to_owned()).spawn(move || run(files, &queue, done))?;
    Ok(jobs)
}

fn run(mut files: Files, queue: &Receiver<Job>, done: impl Fn(Done)) {
    let mut is_failing = false;
    let mut refused_at: Option<Instant> = None;
    while let Ok(job) = queue.recv() {
        match job {
            Job::Write { key, .. } if refused_at.is_some_and(|at| at.elapsed() < PAUSE) => done(Done::NotWritten(key)),
            Job::Write { key, is_batch, payload } => match files.append(is_batch, &payload) {
                Ok(place) => {
                    (is_failing, refused_at) = (false, None);
                    done(Done::Written(key, place));
                }
                Err(error) => {
                    refused_at = matches!(error, Refusal::Io(_)).then(Instant::now);
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "the spool takes nothing; memory alone holds what is not yet durable");
                    }
                    done(Done::NotWritten(key));
                }
            },
            Job::Read { key, place } => {
                let read = files.read(place);
                if let Err(error) = &read {
                    tracing::warn!(%error, "a message of the spool cannot be read; it is declared missing");
                }
                done(Done::Read(key, read.ok()));
            }
            Job::Forget { incarnation, numbers, places } => files.forget(incarnation, numbers, &places),
        }
    }
    files.close();
}
