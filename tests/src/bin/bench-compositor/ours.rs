//! Our part: from the windows in the bucket to slices and a file beside them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use roomreel_backends::objects::DirectoryStore;
use roomreel_compositor::join::{Joiner, Remainder};
use roomreel_compositor::mux::{fragment, init_segment};
use roomreel_compositor::render::RenderCore;
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::look::Look;
use roomreel_shared::ports::ObjectStore as _;
use roomreel_shared::window::Window;
use serde::{Deserialize, Serialize};

use crate::arrangement::{HEIGHT, WIDTH, tiles};
use crate::recording::{Recording, peer};
use crate::webcam::FRAME_RATE;

/// One render, for a process of its own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Render {
    bucket: PathBuf,
    output: PathBuf,
    fold: FoldSpec,
    composite: CompositeSpec,
}

impl Render {
    /// Of a recording into the directory `output`, with the tiles where the others put them.
    pub fn new(recording: &Recording, count: usize, output: &Path, crf: u8) -> Result<Self> {
        let composite = CompositeSpec {
            layout: layout(count)?,
            width: WIDTH as u32,
            height: HEIGHT as u32,
            fps: FRAME_RATE as u32,
            crf,
            look: Look { names: false, ..Look::default() },
            ..CompositeSpec::default()
        };
        Ok(Self {
            bucket: recording.directory.clone(),
            output: output.to_owned(),
            fold: recording.spec.clone(),
            composite,
        })
    }

    /// The command that makes it.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("render").arg(serde_json::to_string(self)?);
        Ok(command)
    }

    fn keys(&self) -> RecordingKeys {
        RecordingKeys::new(&self.fold.tenant, &self.fold.room, &self.fold.recording)
    }

    /// Where the file will be.
    pub fn file(&self) -> PathBuf {
        self.output.join(self.keys().composite_mp4(&self.composite.id).as_str())
    }

    /// In that process.
    pub async fn perform(self) -> Result<()> {
        let bucket = DirectoryStore::open(&self.bucket)?;
        let output = DirectoryStore::open(&self.output)?;
        let (keys, id) = (self.keys(), self.composite.id.clone());
        let mut core = RenderCore::new(self.composite, self.fold)?;
        let (video, audio) = (core.video_config().context("an encoder")?, core.audio_config().context("an encoder")?);
        output.put(&keys.init(&id), init_segment(&video, &audio)).await?;
        let mut joiner = Joiner::new(Some(video), audio);
        let mut parts = Vec::new();
        let mut number = 0;
        while !core.is_finished() {
            let window = Window::parse(bucket.get(&keys.window(number)).await?)?;
            number += 1;
            core.push_window(&window)?;
            while let Some(slice) = core.next_slice()? {
                output.put(&keys.slice(&id, slice.encoded.number), fragment(&slice.encoded)?).await?;
                parts.extend(joiner.push(&slice.encoded)?);
            }
        }
        let file = match joiner.finish(None) {
            Remainder::Whole(file) => file,
            Remainder::Parts(rest) => {
                parts.extend(rest);
                parts.sort_by_key(|part| part.number);
                parts.iter().flat_map(|part| part.body.iter().copied()).collect()
            }
        };
        output.put(&keys.composite_mp4(&id), file).await?;
        Ok(())
    }
}

/// A region for each participant.
fn layout(count: usize) -> Result<String> {
    let mut regions = serde_json::Map::new();
    for (number, tile) in tiles(count).into_iter().enumerate() {
        let region = serde_json::json!({
            "x_pos": tile.x, "y_pos": tile.y, "width": tile.width, "height": tile.height,
            "max_columns": 1, "max_rows": 1, "video_sources": [peer(number)?.as_str()],
        });
        regions.insert(format!("p{number:02}"), region);
    }
    Ok(serde_json::json!({ "video_layout": regions, "audio_sources": ["*"] }).to_string())
}
