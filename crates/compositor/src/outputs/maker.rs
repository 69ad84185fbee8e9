//! Where files that need a decoder, an encoder or a muxer are made: in this process, or in one of its own that can do nothing else.
//!
//! Owns that they are asked for one thing at a time, and what is believed of the answers. Does not own which slice or window comes next, nor
//! the way of the pieces into the bucket. What it was given is lost with its process: whoever asks begins anew then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roomreel_shared::window::{TrackKey, Window};

use super::growing::{Piece, Pieces};
use super::pictures::Wanted;
use super::relay::{Allowed, Made, Order};
use super::works::Works;
use super::{Ending, Error};
use crate::encode::EncodedSlice;
use crate::engine::crashes::{Crashes, Verdict};
use crate::engine::process::{Buried, Death, MEMORY_BYTES, Process, START_LIMIT};
use crate::engine::wire::{self, Kind};
use crate::engine::{self, Isolation};
use crate::workers::in_thread;

/// How long an answer may take: a picture of a slice takes its decoding.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);

/// What is left of all files when they end is less than this.
const MAX_END_BYTES: usize = 2 << 30;

/// Makes files of slices and windows, in order from the first on.
pub(super) enum Maker {
    Here(Box<Here>),
    There(Box<There>),
}

impl Maker {
    pub(super) fn new(order: Order, isolation: Option<Arc<Isolation>>) -> Self {
        match isolation {
            Some(isolation) => Self::There(Box::new(There::new(order, isolation))),
            None => Self::Here(Box::new(Here { order, pieces: Pieces::default(), works: Alone(None) })),
        }
    }

    pub(super) async fn push_slice(&mut self, slice: &EncodedSlice) -> Result<Vec<Piece>, Error> {
        match self {
            Self::Here(here) => {
                let slice = slice.clone();
                here.pieces_of(move |works| works.push_slice(&slice)).await
            }
            Self::There(there) => there.pieces(Kind::Slice, &wire::encode_slice(slice), slice.number).await,
        }
    }

    pub(super) async fn push_window(&mut self, window: &Window) -> Result<Vec<Piece>, Error> {
        match self {
            Self::Here(here) => {
                let window = window.clone();
                here.pieces_of(move |works| works.push_window(&window)).await
            }
            Self::There(there) => {
                there.tracks.extend(window.segments.iter().map(|segment| segment.key.clone()));
                there.pieces(Kind::Window, window.object(), window.header.window).await
            }
        }
    }

    /// Pictures that can be chosen now that every slice has been taken in.
    pub(super) async fn wanted(&mut self) -> Result<Vec<Wanted>, Error> {
        match self {
            Self::Here(here) => here.work(|works| works.wanted_pictures()).await,
            Self::There(there) => Ok(there.ask(Kind::Wanted, &[], u64::MAX).await?.0.wanted),
        }
    }

    pub(super) async fn take_picture(&mut self, wanted: &Wanted, slice: &EncodedSlice) -> Result<Vec<Piece>, Error> {
        match self {
            Self::Here(here) => {
                let (wanted, slice) = (wanted.clone(), slice.clone());
                here.pieces_of(move |works| works.take_picture(&wanted, &slice)).await
            }
            Self::There(there) => {
                let content = wire::encode_with_text(wanted, &wire::encode_slice(slice));
                there.pieces(Kind::Picture, &content, wanted.slice).await
            }
        }
    }

    /// Ends every file; with what is to be said of the tracks.
    pub(super) async fn finish(&mut self, ending: Ending) -> Result<(Vec<Piece>, BTreeSet<String>), Error> {
        match self {
            Self::Here(here) => {
                let works = here.works.get().take().ok_or(Error::Crashed)?;
                let notes = in_thread(Error::Crashed, move || works.finish(ending)).await??;
                Ok((here.pieces.take(), notes))
            }
            Self::There(there) => {
                let (mut made, mut pieces) = there.ask(Kind::Finish, &wire::text(&ending), u64::MAX).await?;
                while made.goes_on {
                    let more = there.more(pieces.iter().map(Piece::bytes).sum(), u64::MAX).await?;
                    made = more.0;
                    pieces.extend(more.1);
                }
                Ok((pieces, made.notes))
            }
        }
    }
}

/// A value that is reached through `&mut` alone, so that threads may share the place it is in, whatever it is.
struct Alone<T>(T);

// SAFETY: a shared reference to it gives no access to the value.
unsafe impl<T: Send> Sync for Alone<T> {}

impl<T> Alone<T> {
    fn get(&mut self) -> &mut T {
        &mut self.0
    }
}

/// In this process, in threads that may block.
pub(super) struct Here {
    order: Order,
    pieces: Pieces,
    /// `None` before the first request, while they work in another thread, and when they are done.
    works: Alone<Option<Box<Works>>>,
}

impl Here {
    async fn pieces_of(
        &mut self,
        work: impl FnOnce(&mut Works) -> Result<(), Error> + Send + 'static,
    ) -> Result<Vec<Piece>, Error> {
        self.work(work).await??;
        Ok(self.pieces.take())
    }

    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Works) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let mut works = match self.works.get().take() {
            Some(works) => works,
            None => Box::new(Works::new(&self.order, self.pieces.clone())?),
        };
        let (works, done) = in_thread(Error::Crashed, move || {
            let done = work(&mut works);
            (works, done)
        })
        .await?;
        *self.works.get() = Some(works);
        Ok(done)
    }
}

/// In a process of its own.
pub(super) struct There {
    order: Order,
    isolation: Arc<Isolation>,
    allowed: Allowed,
    process: Option<Process>,
    /// Those of which a window that it was given holds media.
    tracks: BTreeSet<TrackKey>,
    crashes: Crashes,
}

impl There {
    fn new(order: Order, isolation: Arc<Isolation>) -> Self {
        Self {
            allowed: Allowed::new(&order),
            order,
            isolation,
            process: None,
            tracks: BTreeSet::new(),
            crashes: Crashes::default(),
        }
    }

    async fn pieces(&mut self, kind: Kind, content: &[u8], at: u64) -> Result<Vec<Piece>, Error> {
        Ok(self.ask(kind, content, at).await?.1)
    }

    /// Asks for what is at this place.
    async fn ask(&mut self, kind: Kind, content: &[u8], at: u64) -> Result<(Made, Vec<Piece>), Error> {
        if self.process.is_none() {
            self.begin(at).await?;
        }
        let asked = self.process.as_mut().ok_or(Error::Crashed)?.ask(kind, content, Kind::Pieces, ANSWER_LIMIT).await;
        self.believed(asked, at).await
    }

    /// The answer goes on, behind so many bytes of it.
    async fn more(&mut self, bytes: usize, at: u64) -> Result<(Made, Vec<Piece>), Error> {
        let process = self.process.as_mut().ok_or(Error::Crashed)?;
        let said = if bytes > MAX_END_BYTES {
            Err(Death("its files have no end".to_owned()))
        } else {
            process.promised(Kind::Pieces, ANSWER_LIMIT).await.map(Ok)
        };
        self.believed(said, at).await
    }

    async fn begin(&mut self, at: u64) -> Result<(), Error> {
        let recording = self.order.fold.recording.to_string();
        let mut process = Process::start(&self.isolation, MEMORY_BYTES, recording)?;
        let greeted = process.greeting(&self.isolation).await;
        let process = self.process.insert(process);
        match greeted {
            Ok(greeted) => drop(greeted?),
            Err(death) => return Err(self.lost(death, at).await),
        }
        let order = self.order.clone().without(self.crashes.banned().clone());
        #[cfg(debug_assertions)]
        let order = order.with_fault(self.isolation.fault.clone());
        let asked = process.ask(Kind::Order, &wire::text(&order), Kind::Pieces, START_LIMIT).await;
        self.believed(asked, at).await.map(drop)
    }

    async fn believed(
        &mut self,
        asked: Result<Result<Bytes, engine::Error>, Death>,
        at: u64,
    ) -> Result<(Made, Vec<Piece>), Error> {
        let death = match asked {
            Ok(answer) => match self.allowed.decode(answer?) {
                Ok(made) => return Ok(made),
                Err(error) => error.into(),
            },
            Err(death) => death,
        };
        Err(self.lost(death, at).await)
    }

    /// Buries the process and decides what follows.
    async fn lost(&mut self, death: Death, at: u64) -> Error {
        let Some(process) = self.process.take() else { return Error::Crashed };
        let Buried { how, cause, place } = process.bury(death).await;
        // A process that was taken over may name any.
        let place = place.filter(|place| self.tracks.contains(&place.track));
        engine::count_crash();
        match self.crashes.on_death(at, cause, place) {
            Verdict::Again => Error::Lost { how, banned: None },
            Verdict::Ban(track) => Error::Lost { how, banned: Some(track) },
            Verdict::GiveUp => Error::Process { how },
        }
    }
}
