//! Where a render's media is decoded, drawn and encoded: in this process, or in one of its own that can do nothing else.
//!
//! Owns the one render core of a job and that it is asked for one thing at a time; that a process of its own is shut off, watched and replaced.
//! Does not own what is rendered ([`crate::render`]), nor what becomes of it ([`crate::render_job`]), nor when what failed is asked again.

mod bans;
mod child;
pub(crate) mod crashes;
#[cfg_attr(not(target_os = "linux"), path = "jail_elsewhere.rs")]
mod jail;
mod local;
pub(crate) mod process;
mod serve;
pub(crate) mod wire;
pub(crate) mod witness;

use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::late::LateJob;
use roomreel_shared::ports::{ObjectStore, StoreError};
use roomreel_shared::window::{self, Window};
use tracing::Span;

pub use serve::serve;

use crate::documents::quality::RenderQuality;
use crate::encode::{AudioConfig, EncodedSlice, VideoConfig};
use crate::late::past::Past;
use crate::render::{self, RenderCore};
use child::Child;
use local::Local;

/// Counts a process that died.
pub(crate) fn count_crash() {
    opentelemetry::global::meter("roomreel")
        .u64_counter("roomreel.compositor.child_crashes")
        .with_unit("{crash}")
        .with_description("processes of renders that died or were killed because they did not answer")
        .build()
        .add(1, &[]);
}

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The render cannot go on.
    #[error(transparent)]
    Render(#[from] render::Error),
    /// The same, as its process said it.
    #[error("{0}")]
    Refused(String),
    /// The render panicked: a bug, or a bitstream that found one.
    #[error("the render crashed")]
    Crashed,
    /// Its process died; asked again, another one goes on.
    #[error("the render's process was lost on the way to slice {slice}: {how}")]
    Lost {
        /// The slice that was to come.
        slice: u64,
        /// How it ended.
        how: String,
    },
    /// Its process died again and again, and no track is to blame.
    #[error("the render's process dies on the way to slice {slice}: {how}")]
    GaveUp {
        /// The slice that was to come.
        slice: u64,
        /// How it ended the last time.
        how: String,
    },
    /// There is no process for it.
    #[error("the render's process does not start: {0}")]
    Spawn(#[from] io::Error),
    /// Its process is not shut off as it has to be.
    #[error("this system does not isolate a render's process as `sandbox = required` asks: it lacks {0}")]
    NotIsolated(String),
    /// A window that a new process needs could not be read again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Such a window is damaged.
    #[error("window {number}: {source}")]
    Window {
        /// Which.
        number: u64,
        /// How.
        source: window::Error,
    },
}

impl Error {
    /// Whether the same cannot succeed later.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Store(error) => error.is_permanent(),
            Self::Lost { .. } => false,
            // What a machine is short of may be there later; a program that is not, or may not be run, will not.
            Self::Spawn(error) => !is_shortage(error),
            _ => true,
        }
    }
}

/// Of processes, files or memory.
fn is_shortage(error: &io::Error) -> bool {
    let codes = [libc::EAGAIN, libc::EMFILE, libc::ENFILE, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// What is rendered.
#[derive(Debug, Clone)]
pub struct Work {
    /// The composite.
    pub spec: CompositeSpec,
    /// Of which recording.
    pub fold: FoldSpec,
    /// The first slice that is asked for; those before it exist, and it is made behind a warm-up.
    pub first: u64,
    /// Its share of a late render, if it is one.
    pub late: Option<LateJob>,
}

impl Work {
    /// A render that has seen no window yet.
    ///
    /// # Errors
    /// Any [`render::Error`] but [`render::Error::WrongRecording`].
    pub fn begin(self) -> Result<RenderCore, render::Error> {
        if let Some(late) = &self.late {
            return RenderCore::late(self.spec, self.fold, late, self.first);
        }
        let mut core = RenderCore::new(self.spec, self.fold)?;
        if self.first > 0 {
            core.skip_to(self.first)?;
        }
        Ok(core)
    }
}

/// How renders have processes of their own.
#[derive(Debug, Clone)]
pub struct Isolation {
    /// What is run.
    pub program: PathBuf,
    /// With what; followed by what [`Jail`] says, as `--memory-bytes COUNT` and `--page NUMBER`.
    pub arguments: Vec<OsString>,
    /// Nothing is rendered where the system lacks a part of the isolation.
    pub is_required: bool,
    /// A process that has made no step for this long is killed.
    pub still_limit: Duration,
    /// One that has not answered after this long, and this many times a slice's length, is killed.
    pub answer_limit: (Duration, u32),
    /// For tests: what goes wrong in every process.
    #[cfg(debug_assertions)]
    pub fault: Option<Fault>,
}

impl Isolation {
    /// By this program, which serves a render ([`serve`]) when it is called with these arguments.
    #[must_use]
    pub fn new(program: PathBuf, arguments: Vec<OsString>, is_required: bool) -> Self {
        Self {
            program,
            arguments,
            is_required,
            still_limit: Duration::from_secs(20),
            answer_limit: (Duration::from_secs(60), 30),
            #[cfg(debug_assertions)]
            fault: None,
        }
    }

    /// What this system lacks of the isolation, in words, as a process finds it that is started for that.
    ///
    /// # Errors
    /// [`Error::Spawn`], [`Error::Lost`]; [`Error::NotIsolated`] where that is not enough.
    pub async fn probe(&self) -> Result<Vec<String>, Error> {
        process::probe(self).await
    }
}

/// What a process of a render's own is told on its command line.
#[derive(Debug, Clone, Copy)]
pub struct Jail {
    /// What it may use of the address space beyond libraries and fonts.
    pub memory_bytes: u64,
    /// The file that is its witness's page.
    pub page: Option<RawFd>,
    /// For tests: it renders nothing and tells what it may do, a line each.
    #[cfg(debug_assertions)]
    pub is_tried: bool,
}

/// For tests: what a process does when it comes to a track.
#[cfg(debug_assertions)]
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Fault {
    /// Id of the track.
    pub track: String,
    /// It hangs; otherwise it aborts.
    pub hangs: bool,
}

#[cfg(debug_assertions)]
impl Fault {
    fn strike(&self, track: &window::TrackKey) {
        if track.track.as_str() != self.track {
            return;
        }
        if self.hangs {
            loop {
                std::hint::spin_loop();
            }
        }
        std::process::abort();
    }
}

/// Where a slice begins on the clock of what is rendered.
fn slice_start(work: &Work, slice: u64) -> Duration {
    Duration::from_millis(work.fold.window_ms).saturating_mul(u32::try_from(slice).unwrap_or(u32::MAX))
}

/// Renders.
pub struct Engine(Kind);

enum Kind {
    Local(Local),
    Child(Box<Child>),
}

impl Engine {
    /// Sets the render up: in a process of its own, if there is to be isolation. What another process needs that has to take over is read
    /// again from `store`.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn open(
        work: Work,
        isolation: Option<&Arc<Isolation>>,
        store: &Arc<dyn ObjectStore>,
    ) -> Result<Self, Error> {
        let past = Past::of(store, &work.fold);
        Self::open_behind(work, isolation, store, past).await
    }

    /// The same, with what is known of the windows before the first slice.
    ///
    /// # Errors
    /// Any [`Error`].
    pub(crate) async fn open_behind(
        work: Work,
        isolation: Option<&Arc<Isolation>>,
        store: &Arc<dyn ObjectStore>,
        mut past: Past,
    ) -> Result<Self, Error> {
        Ok(Self(match isolation {
            Some(isolation) => Kind::Child(Box::new(Child::open(work, isolation.clone(), store.clone(), past).await?)),
            None => Kind::Local(Local::open(work, &mut past).await?),
        }))
    }

    /// Number of the window that is to be pushed first: a render that begins in mid-recording has read what it needs of those before.
    #[must_use]
    pub fn first_window(&self) -> u64 {
        match &self.0 {
            Kind::Local(local) => local.next_window(),
            Kind::Child(child) => child.next_window(),
        }
    }

    /// What containers say about the video.
    #[must_use]
    pub fn video_config(&self) -> &VideoConfig {
        match &self.0 {
            Kind::Local(local) => &local.video,
            Kind::Child(child) => &child.video,
        }
    }

    /// What containers say about the audio.
    #[must_use]
    pub fn audio_config(&self) -> &AudioConfig {
        match &self.0 {
            Kind::Local(local) => &local.audio,
            Kind::Child(child) => &child.audio,
        }
    }

    /// Number of the slice that [`Self::next_slice`] would give.
    #[must_use]
    pub fn next_number(&self) -> Option<u64> {
        match &self.0 {
            Kind::Local(local) => local.next_number(),
            Kind::Child(child) => child.next_number(),
        }
    }

    /// Process that renders, if it is not this one and lives.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        match &self.0 {
            Kind::Local(_) => None,
            Kind::Child(child) => child.process_id(),
        }
    }

    /// Takes the next window of the chain.
    ///
    /// # Errors
    /// Any [`Error`]; the window is not taken.
    pub async fn push_window(&mut self, window: Arc<Window>) -> Result<(), Error> {
        match &mut self.0 {
            Kind::Local(local) => local.push_window(window).await,
            Kind::Child(child) => child.push_window(&window).await,
        }
    }

    /// The same with a window that was made for this render: the bucket has another one of its number, which would not do instead.
    ///
    /// # Errors
    /// As [`Self::push_window`].
    pub(crate) async fn push_made(&mut self, window: Arc<Window>) -> Result<(), Error> {
        match &mut self.0 {
            Kind::Local(local) => local.push_window(window).await,
            Kind::Child(child) => child.push_made(&window).await,
        }
    }

    /// Renders the next slice within `span`, if it is due.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn next_slice(&mut self, span: Span) -> Result<Option<EncodedSlice>, Error> {
        match &mut self.0 {
            Kind::Local(local) => local.next_slice(span).await,
            Kind::Child(child) => child.next_slice().await,
        }
    }

    /// What is to be said of this render, so far.
    #[must_use]
    pub fn quality(&self) -> Option<RenderQuality> {
        match &self.0 {
            Kind::Local(local) => local.quality(),
            Kind::Child(child) => child.quality(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_passes_and_a_missing_program_does_not() {
        for (code, is_permanent) in [
            (libc::EAGAIN, false),
            (libc::EMFILE, false),
            (libc::ENOMEM, false),
            (libc::ENOENT, true),
            (libc::EACCES, true),
        ] {
            assert_eq!(Error::Spawn(io::Error::from_raw_os_error(code)).is_permanent(), is_permanent, "{code}");
        }
    }
}
