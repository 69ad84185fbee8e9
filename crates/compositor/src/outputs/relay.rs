//! What the process that makes files and its supervisor say to each other, beside what [`wire`](crate::engine::wire) says.
//!
//! Owns the order, the pieces on their way back, and which names are believed. Does not own when something is said.

use std::collections::BTreeSet;

use bytes::{BufMut as _, Bytes, BytesMut};
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::key::{Key, RecordingKeys};
use roomreel_shared::output::{Kind, Names};
use roomreel_shared::window::TrackKey;
use serde::{Deserialize, Serialize};

use super::growing::{Content, Piece};
use super::pictures::Wanted;
use crate::encode::{AudioConfig, VideoConfig};
use crate::engine::wire::{self, invalid};
use crate::join::{Part, Remainder};

/// Most parts that a store takes.
const MAX_PARTS: u32 = 10_000;
/// Most files of a render: more than thumbnails every second of a day have.
const MAX_FILES: usize = 100_000;

/// What is to be made of which slices.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) spec: CompositeSpec,
    pub(super) fold: FoldSpec,
    /// The day the recording began.
    pub(super) date: String,
    video: Video,
    audio: Audio,
    pub(super) banned: BTreeSet<TrackKey>,
    /// For tests: what goes wrong.
    #[cfg(debug_assertions)]
    #[serde(default)]
    pub(super) fault: Option<crate::engine::Fault>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Video {
    size: (u16, u16),
    timescale: u32,
    sps: Vec<u8>,
    pps: Vec<u8>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Audio {
    sample_rate: u32,
    channels: u8,
    bitrate: u32,
    specific: Vec<u8>,
}

impl Order {
    pub(super) fn new(
        spec: &CompositeSpec,
        fold: &FoldSpec,
        date: String,
        (video, audio): (&VideoConfig, &AudioConfig),
    ) -> Self {
        Self {
            spec: spec.clone(),
            fold: fold.clone(),
            date,
            video: Video {
                size: (video.width, video.height),
                timescale: video.timescale,
                sps: video.sps.to_vec(),
                pps: video.pps.to_vec(),
            },
            audio: Audio {
                sample_rate: audio.sample_rate,
                channels: audio.channels,
                bitrate: audio.bitrate,
                specific: audio.specific.to_vec(),
            },
            banned: BTreeSet::new(),
            #[cfg(debug_assertions)]
            fault: None,
        }
    }

    pub(super) fn without(self, banned: BTreeSet<TrackKey>) -> Self {
        Self { banned, ..self }
    }

    #[cfg(debug_assertions)]
    pub(super) fn with_fault(self, fault: Option<crate::engine::Fault>) -> Self {
        Self { fault, ..self }
    }

    pub(super) fn configs(&self) -> (VideoConfig, AudioConfig) {
        let Video { size: (width, height), timescale, sps, pps } = self.video.clone();
        let Audio { sample_rate, channels, bitrate, specific } = self.audio.clone();
        (
            VideoConfig { width, height, timescale, sps: sps.into(), pps: pps.into() },
            AudioConfig { sample_rate, channels, bitrate, specific: specific.into() },
        )
    }

    pub(super) fn keys(&self) -> RecordingKeys {
        RecordingKeys::new(&self.fold.tenant, &self.fold.room, &self.fold.recording)
    }

    pub(super) fn names(&self) -> Names {
        let FoldSpec { tenant, room, recording, .. } = &self.fold;
        Names::new((tenant, room, recording), &self.spec.id, &self.date)
    }
}

/// What is said with pieces.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) pieces: Vec<Listed>,
    /// Pictures that are to be taken of slices, before the end.
    pub(super) wanted: Vec<Wanted>,
    /// What is to be said of the tracks, at the end.
    pub(super) notes: BTreeSet<String>,
    /// More follows unasked: the end of many files is too long for one answer.
    #[serde(default)]
    pub(super) goes_on: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Listed {
    /// Below the recording.
    name: String,
    /// 0: the whole file.
    part: u32,
    bytes: usize,
    /// Nothing of the file follows.
    ends: bool,
}

/// Pieces, and what is said with them, as they go over the pipe.
pub(super) fn encode(mut made: Made, pieces: Vec<Piece>, keys: &RecordingKeys) -> Bytes {
    let mut media = BytesMut::new();
    let mut list = |key: &Key, part: u32, body: &[u8], ends: bool| {
        let name = key.as_str().strip_prefix(keys.prefix()).unwrap_or_default().to_owned();
        made.pieces.push(Listed { name, part, bytes: body.len(), ends });
        media.put_slice(body);
    };
    for Piece { key, content } in pieces {
        match content {
            Content::Part(part) => list(&key, part.number, &part.body, false),
            Content::End(Remainder::Whole(file)) => list(&key, 0, &file, true),
            Content::End(Remainder::Parts(parts)) => {
                let count = parts.len();
                (1..).zip(parts).for_each(|(place, part)| list(&key, part.number, &part.body, place == count));
            }
        }
    }
    wire::encode_with_text(&made, &media)
}

/// Which files may be made.
#[derive(Debug)]
pub(super) struct Allowed {
    keys: RecordingKeys,
    /// Names of files.
    files: BTreeSet<String>,
    /// What names begin and end with.
    families: Vec<(String, &'static str)>,
    made: BTreeSet<String>,
}

impl Allowed {
    pub(super) fn new(order: &Order) -> Self {
        let (keys, names) = (order.keys(), order.names());
        let (mut files, mut families) = (BTreeSet::new(), Vec::new());
        let below = |key: &Key| key.as_str().strip_prefix(keys.prefix()).map(ToOwned::to_owned);
        for output in &order.spec.outputs {
            let Some(name) = names.key(output, "").ok().as_ref().and_then(below) else { continue };
            match output.kind {
                Kind::Mp3 | Kind::Ogg | Kind::Webm => drop(files.insert(name)),
                Kind::Thumbnails => families.push((format!("{name}/"), ".jpg")),
                Kind::Storyboard => {
                    files.insert(format!("{name}.vtt"));
                    families.push((format!("{name}-"), ".jpg"));
                }
                Kind::Hls | Kind::Mp4 | Kind::M4a | Kind::Captions => {}
            }
        }
        if !order.spec.tracks.is_empty() {
            families.extend(below(&keys.track_file("")).map(|directory| (directory, "")));
        }
        Self { keys, files, families, made: BTreeSet::new() }
    }

    fn key(&mut self, name: &str) -> std::io::Result<Key> {
        let is_of = |(begins, ends): &(String, &str)| {
            name.strip_prefix(begins.as_str())
                .is_some_and(|rest| rest.len() > ends.len() && rest.ends_with(ends) && !rest.contains('/'))
        };
        if !self.files.contains(name) && !self.families.iter().any(is_of) {
            return Err(invalid(format!("it makes a file {name:?} that is not asked for")));
        }
        self.made.insert(name.to_owned());
        if self.made.len() > MAX_FILES {
            return Err(invalid("it makes too many files"));
        }
        self.keys.user_file(name).map_err(invalid)
    }

    /// Reads what [`encode`] wrote.
    pub(super) fn decode(&mut self, coded: Bytes) -> std::io::Result<(Made, Vec<Piece>)> {
        let (mut made, mut media): (Made, _) = wire::decode_with_text(coded)?;
        let mut pieces = Vec::new();
        for Listed { name, part, bytes, ends } in std::mem::take(&mut made.pieces) {
            if bytes > media.len() || part > MAX_PARTS || (part == 0 && !ends) {
                return Err(invalid("pieces that do not fit"));
            }
            let (key, body) = (self.key(&name)?, media.split_to(bytes));
            if part == 0 {
                pieces.push(Piece { key, content: Content::End(Remainder::Whole(body)) });
                continue;
            }
            pieces.push(Piece { key: key.clone(), content: Content::Part(Part { number: part, body }) });
            if ends {
                pieces.push(Piece { key, content: Content::End(Remainder::Parts(Vec::new())) });
            }
        }
        if media.is_empty() { Ok((made, pieces)) } else { Err(invalid("more than pieces")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::{fold, spec};

    fn order() -> Order {
        let outputs = vec![Kind::Mp3.into(), Kind::Thumbnails.into(), Kind::Storyboard.into(), Kind::Mp4.into()];
        let spec = CompositeSpec { outputs, tracks: vec![roomreel_shared::output::TrackFormat::Mjr], ..spec() };
        let nothing = Bytes::new;
        let video = VideoConfig { width: 320, height: 180, timescale: 10_000, sps: nothing(), pps: nothing() };
        let audio = AudioConfig { sample_rate: 48_000, channels: 2, bitrate: 1, specific: nothing() };
        Order::new(&spec, &fold(), "2026-11-21".to_owned(), (&video, &audio))
    }

    fn sent(name: &str, content: Content) -> std::io::Result<Vec<Piece>> {
        let order = order();
        let key = order.keys().user_file(name).map_err(invalid)?;
        let coded = encode(Made::default(), vec![Piece { key, content }], &order.keys());
        for length in 0..coded.len() {
            assert!(Allowed::new(&order).decode(coded.slice(..length)).is_err(), "{length}");
        }
        Allowed::new(&order).decode(coded).map(|(_, pieces)| pieces)
    }

    #[test]
    fn pieces_come_back() {
        let body = Bytes::from_static(b"media");
        let part = |number| Part { number, body: body.clone() };
        let whole = sent("composites/grid/audio.mp3", Content::End(Remainder::Whole(body.clone()))).expect("allowed");
        assert!(matches!(&whole[..], [Piece { content: Content::End(Remainder::Whole(of)), .. }] if *of == body));
        let rest = Content::End(Remainder::Parts(vec![part(1), part(7)]));
        let numbers: Vec<_> = sent("composites/grid/audio.mp3", rest)
            .expect("allowed")
            .iter()
            .map(|piece| match &piece.content {
                Content::Part(part) => part.number,
                Content::End(_) => 0,
            })
            .collect();
        assert_eq!(numbers, [1, 7, 0]);
    }

    #[test]
    fn files_that_nobody_asked_for_are_refused() {
        for (name, is_allowed) in [
            ("composites/grid/audio.mp3", true),
            ("composites/grid/thumbnails/percent-050.jpg", true),
            ("composites/grid/storyboard-000.jpg", true),
            ("composites/grid/storyboard.vtt", true),
            ("tracks/amara-video.mjr", true),
            ("composites/grid/composite.mp4", false),
            ("composites/grid/00000003.m4s", false),
            ("composites/grid/thumbnails/.jpg", false),
            ("composites/grid/thumbnails/a/b.jpg", false),
            ("tracks/a/b", false),
            ("windows/00000003.win", false),
            ("recording.json", false),
        ] {
            let made = sent(name, Content::End(Remainder::Whole(Bytes::from_static(b"x"))));
            assert_eq!(made.is_ok(), is_allowed, "{name}");
        }
    }
}
