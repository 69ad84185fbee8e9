//! A render core in this process, in threads that may block.

use std::sync::Arc;

use roomreel_shared::window::Window;
use tracing::Span;

use super::{Error, Work, slice_start};
use crate::documents::quality::RenderQuality;
use crate::encode::{AudioConfig, EncodedSlice, VideoConfig};
use crate::late::past::Past;
use crate::render::RenderCore;
use crate::workers::in_thread;

/// Renders in this process.
pub(super) struct Local {
    /// `None` while it works in another thread, and after it panicked there.
    core: Option<Box<RenderCore>>,
    pub(super) video: VideoConfig,
    pub(super) audio: AudioConfig,
    /// Number of the window that is to be pushed next, if it does not begin with the first.
    next_window: u64,
}

impl Local {
    pub(super) async fn open(work: Work, past: &mut Past) -> Result<Self, Error> {
        let before = match (work.first, &work.late) {
            (0, _) | (_, Some(_)) => Vec::new(),
            (first, None) => past.before(slice_start(&work, first)).await?,
        };
        let core = in_thread(Error::Crashed, move || work.begin()).await?.map(Box::new)?;
        let (Some(video), Some(audio)) = (core.video_config(), core.audio_config()) else { return Err(Error::Crashed) };
        let mut local = Self { core: Some(core), video, audio, next_window: before.len() as u64 };
        for (number, object) in (0..).zip(before) {
            let window = Window::parse(object).map_err(|source| Error::Window { number, source })?;
            local.push_window(Arc::new(window)).await?;
        }
        Ok(local)
    }

    pub(super) fn next_window(&self) -> u64 {
        self.next_window
    }

    pub(super) fn next_number(&self) -> Option<u64> {
        self.core.as_ref().and_then(|core| core.next_number())
    }

    pub(super) async fn push_window(&mut self, window: Arc<Window>) -> Result<(), Error> {
        Ok(self.with_core(move |core| core.push_window(&window)).await??)
    }

    pub(super) async fn next_slice(&mut self, span: Span) -> Result<Option<EncodedSlice>, Error> {
        let slice = self.with_core(move |core| span.in_scope(|| core.next_slice())).await??;
        Ok(slice.map(|slice| slice.encoded))
    }

    pub(super) fn quality(&self) -> Option<RenderQuality> {
        self.core.as_ref().map(|core| core.quality())
    }

    async fn with_core<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut RenderCore) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let mut core = self.core.take().ok_or(Error::Crashed)?;
        let (core, result) = in_thread(Error::Crashed, move || {
            let result = work(&mut core);
            (core, result)
        })
        .await?;
        self.core = Some(core);
        Ok(result)
    }
}
