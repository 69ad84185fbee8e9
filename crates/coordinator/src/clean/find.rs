//! What is part of no recording: pure, from listings and documents.
//!
//! Only names that roomreel gives are judged, in directories that are its own: what an operator put beside a recording, or spelled as
//! no key of ours is, is foreign and stays. Where a recording did not end as it was to, everything that it has may be all there is of
//! it, and stays too.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use roomreel_shared::id::{CompositeId, RecordingId};
use roomreel_shared::key::{self, Key, RecordingKeys, RecordingName};
use roomreel_shared::ports::{Listed, OpenUpload};
use roomreel_shared::recording::{Recording, State};
use serde::{Deserialize, Serialize};

/// An upload that is younger may be under way: in a process that renders without a cluster, say.
const UPLOAD_AGE: Duration = Duration::from_secs(24 * 3600);

/// Where something lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Below a recording.
    Recording(RecordingName),
    /// Among the objects of the start-up check.
    Probes,
    /// Among uploads in parts.
    Uploads,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recording(name) => f.write_str(name.keys().prefix()),
            Self::Probes => f.write_str(key::PROBE_PREFIX),
            Self::Uploads => f.write_str("open uploads"),
        }
    }
}

/// What something was, that is of nothing now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Left {
    /// An `unfinished.json` beside the final `recording.json`.
    Unfinished,
    /// A slice behind the recording's end.
    Slice,
    /// A file of a composite, or of a track, that neither `recording.json` nor a late render knows.
    File,
    /// Of a recording that has no window and that nobody knows.
    Unknown,
    /// The start-up check of conditional writes.
    Probe,
    /// An upload in parts that was never completed.
    Upload,
}

/// Something that is of nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Where.
    pub place: Place,
    /// What it was.
    pub left: Left,
    /// Its key; of an upload, the key that it would have had.
    pub key: Key,
    /// The store's name for the upload, if it is one.
    pub upload: Option<String>,
    /// Bytes; 0 of an upload.
    pub size: u64,
    /// The store's word for its content.
    pub version: String,
}

/// What was found in one place.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What is of nothing.
    pub candidates: Vec<Candidate>,
    /// Objects with names that roomreel does not give.
    pub foreign: u64,
}

impl Found {
    fn object(&mut self, place: &Place, left: Left, object: &Listed) {
        let Listed { key, size, version } = object.clone();
        self.candidates.push(Candidate { place: place.clone(), left, key, upload: None, size, version });
    }
}

/// A recording that is not alive, as the bucket has it.
pub(super) struct Contents<'a> {
    pub(super) name: &'a RecordingName,
    /// Everything below its prefix.
    pub(super) objects: &'a [Listed],
    /// Its `recording.json`, if that is a final one of its own.
    pub(super) recording: Option<&'a Recording>,
    /// The index knows its final state.
    pub(super) is_indexed: bool,
    /// Slices from its beginning to its end, if it has one.
    pub(super) slices: Option<u64>,
}

/// What a name below a recording stands for.
enum Part {
    Window,
    Document,
    Unfinished,
    Composite(CompositeId),
    Track,
    Foreign,
}

const DOCUMENTS: [&str; 5] = ["recording.json", "policy.json", "timeline.json", "metadata.json", "quality.json"];

fn part(keys: &RecordingKeys, object: &Listed) -> Part {
    let name = below(keys, object);
    if name.starts_with("windows/") {
        return Part::Window;
    }
    if keys.user_file(name).is_err() {
        return Part::Foreign;
    }
    match name.split_once('/') {
        None if name == "unfinished.json" => Part::Unfinished,
        None if DOCUMENTS.contains(&name) => Part::Document,
        Some(("tracks", _)) => Part::Track,
        Some(("composites", rest)) => {
            let id = rest.split_once('/').and_then(|(token, _)| CompositeId::from_token(token).ok());
            // Slices have one spelling: `7.m4s` is none of ours.
            let is_ours = |id: &CompositeId| !name.ends_with(".m4s") || slice_number(keys, id, &object.key).is_some();
            id.filter(is_ours).map_or(Part::Foreign, Part::Composite)
        }
        _ => Part::Foreign,
    }
}

fn below<'a>(keys: &RecordingKeys, object: &'a Listed) -> &'a str {
    object.key.as_str().strip_prefix(keys.prefix()).unwrap_or_default()
}

fn slice_number(keys: &RecordingKeys, composite: &CompositeId, key: &Key) -> Option<u64> {
    keys.slice_number(composite, key).or_else(|| keys.webm_slice_number(composite, key))
}

/// What of a recording that is not alive is of nothing.
pub(super) fn of_recording(contents: &Contents<'_>) -> Found {
    let keys = contents.name.keys();
    let place = Place::Recording(contents.name.clone());
    let parts: Vec<_> = contents.objects.iter().map(|object| (part(&keys, object), object)).collect();
    let has_document = parts.iter().any(|(_, object)| object.key == keys.recording_json());
    let has_window = parts.iter().any(|(part, _)| matches!(part, Part::Window));
    let is_unknown = !contents.is_indexed && !has_document && !has_window;
    let ended = contents.recording.map(|recording| Ended::new(recording, &parts, contents.slices));
    let mut found = Found::default();
    for (part, object) in &parts {
        let name = below(&keys, object);
        let left = match (&ended, part) {
            (Some(ended), part) => ended.left(&keys, part, object),
            (None, Part::Foreign) => None,
            (None, _) => is_unknown.then_some(Left::Unknown),
        };
        if let Some(left) = left {
            found.object(&place, left, object);
        }
        // An output may have a name of the user's, which the recording lists.
        let is_listed = ended.as_ref().is_some_and(|ended| ended.files.contains(name));
        found.foreign += u64::from(matches!(part, Part::Foreign) && !is_listed);
    }
    found
}

/// A recording in its final state, and what speaks for its objects.
struct Ended<'a> {
    recording: &'a Recording,
    /// Everything that it lists.
    files: BTreeSet<&'a str>,
    /// Composites that were asked for late.
    late: BTreeSet<&'a CompositeId>,
    slices: Option<u64>,
}

impl<'a> Ended<'a> {
    fn new(recording: &'a Recording, parts: &'a [(Part, &Listed)], slices: Option<u64>) -> Self {
        let files = recording.files.iter().map(String::as_str).collect();
        // Whatever stands in it: somebody has asked for this composite.
        let late = parts.iter().filter_map(|(part, object)| match part {
            Part::Composite(id) if ["render.json", "rendered.json"].contains(&object.key.file_name()) => Some(id),
            _ => None,
        });
        Self { recording, files, late: late.collect(), slices }
    }

    fn left(&self, keys: &RecordingKeys, part: &Part, object: &Listed) -> Option<Left> {
        let is_whole = matches!(self.recording.state, State::Complete | State::LimitReached);
        match part {
            Part::Unfinished => Some(Left::Unfinished),
            _ if !is_whole || self.files.contains(below(keys, object)) => None,
            Part::Window | Part::Document | Part::Foreign => None,
            // A late render may still be making it.
            Part::Track => self.late.is_empty().then_some(Left::File),
            Part::Composite(id) if self.late.contains(id) => None,
            Part::Composite(id) if !self.recording.composites.iter().any(|spec| spec.id == *id) => Some(Left::File),
            Part::Composite(id) => match slice_number(keys, id, &object.key) {
                Some(number) => self.slices.is_some_and(|end| number >= end).then_some(Left::Slice),
                None if ["init.mp4", "live.m3u8"].contains(&object.key.file_name()) => None,
                None => Some(Left::File),
            },
        }
    }
}

/// What start-up checks have left.
pub(super) fn of_probes(objects: &[Listed]) -> Found {
    let mut found = Found::default();
    for object in objects {
        match key::is_probe(&object.key) {
            true => found.object(&Place::Probes, Left::Probe, object),
            false => found.foreign += 1,
        }
    }
    found
}

/// Uploads that nobody will complete: of recordings that are not in `alive`.
pub(super) fn of_uploads(open: &[OpenUpload], alive: &BTreeSet<RecordingId>) -> Found {
    let mut found = Found::default();
    for OpenUpload { upload, age } in open {
        match RecordingName::of(upload.key.as_str()) {
            Some(name) if alive.contains(&name.recording) || *age < UPLOAD_AGE => {}
            Some(_) => found.candidates.push(Candidate {
                place: Place::Uploads,
                left: Left::Upload,
                key: upload.key.clone(),
                upload: Some(upload.id.clone()),
                size: 0,
                version: String::new(),
            }),
            None => found.foreign += 1,
        }
    }
    found
}
