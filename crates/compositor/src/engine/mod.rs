//! Where a render's media is decoded, drawn and encoded: beside the decisions about it, or apart from them.
//!
//! Owns the one render core of a job and that it is asked for one thing at a time, away from the runtime's threads. Does not own what is
//! rendered ([`crate::render`]), nor what becomes of it ([`crate::render_job`]).

use std::sync::Arc;

use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::late::LateJob;
use roomreel_shared::window::Window;
use tracing::Span;

use crate::documents::quality::RenderQuality;
use crate::encode::{AudioConfig, EncodedSlice, VideoConfig};
use crate::render::{self, RenderCore};

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The render cannot go on.
    #[error(transparent)]
    Render(#[from] render::Error),
    /// The render panicked: a bug, or a bitstream that found one.
    #[error("the render crashed")]
    Crashed,
}

/// What is rendered.
#[derive(Debug, Clone)]
pub struct Work {
    /// The composite.
    pub spec: CompositeSpec,
    /// Of which recording.
    pub fold: FoldSpec,
    /// The first slice that is asked for; those before it exist.
    pub first: u64,
    /// Its share of a late render, if it is one; the slices from `first` on are then made behind a warm-up.
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

/// Renders in this process.
pub struct Engine {
    /// `None` while it works in another thread, and after it panicked there.
    core: Option<Box<RenderCore>>,
    video: VideoConfig,
    audio: AudioConfig,
}

impl Engine {
    /// Sets the render up.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn open(work: Work) -> Result<Self, Error> {
        let core = in_thread(move || work.begin()).await?.map(Box::new)?;
        let (Some(video), Some(audio)) = (core.video_config(), core.audio_config()) else { return Err(Error::Crashed) };
        Ok(Self { core: Some(core), video, audio })
    }

    /// What containers say about the video.
    #[must_use]
    pub fn video_config(&self) -> &VideoConfig {
        &self.video
    }

    /// What containers say about the audio.
    #[must_use]
    pub fn audio_config(&self) -> &AudioConfig {
        &self.audio
    }

    /// Number of the slice that [`Self::next_slice`] would give.
    #[must_use]
    pub fn next_number(&self) -> Option<u64> {
        self.core.as_ref().and_then(|core| core.next_number())
    }

    /// Takes the next window of the chain.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn push_window(&mut self, window: Arc<Window>) -> Result<(), Error> {
        Ok(self.with_core(move |core| core.push_window(&window)).await??)
    }

    /// Renders the next slice within `span`, if it is due.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn next_slice(&mut self, span: Span) -> Result<Option<EncodedSlice>, Error> {
        let slice = self.with_core(move |core| span.in_scope(|| core.next_slice())).await??;
        Ok(slice.map(|slice| slice.encoded))
    }

    /// What is to be said of this render, so far.
    #[must_use]
    pub fn quality(&self) -> Option<RenderQuality> {
        self.core.as_ref().map(|core| core.quality())
    }

    async fn with_core<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut RenderCore) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let mut core = self.core.take().ok_or(Error::Crashed)?;
        let (core, result) = in_thread(move || {
            let result = work(&mut core);
            (core, result)
        })
        .await?;
        self.core = Some(core);
        Ok(result)
    }
}

async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Crashed)
}
