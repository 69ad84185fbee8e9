//! What a render makes besides its slices, and under which names.
//!
//! Owns the kinds of output, what may be set on each, and the templates of their names. Does not own how any of them is made.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::composite::{CompositeSpec, Error};
use crate::id::{CompositeId, RecordingId, RoomId, TenantId};
use crate::key::{Key, NameError, RecordingKeys};

/// Longest template of a name.
const MAX_NAME_BYTES: usize = 200;
/// Longest name that is made of one: stores take keys of 1024 bytes, and the recording's prefix has its share.
const MAX_MADE_BYTES: usize = 400;
/// Longest part of it between slashes: the longest file name.
const MAX_MADE_PART_BYTES: usize = 255;
/// Directories of a recording that are ours.
const RESERVED: [&str; 3] = ["windows", "composites", "tracks"];
/// Where a composite's own files are, before a template says otherwise.
const OWN_DIRECTORY: &str = "composites/{composite}/";

/// A kind of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The playlist over the slices, growing while the room talks.
    Hls,
    /// H.264 and AAC in one file.
    Mp4,
    /// VP9 or VP8 and Opus in one file.
    Webm,
    /// The sound alone: AAC.
    M4a,
    /// The sound alone: MP3.
    Mp3,
    /// The sound alone: Opus in Ogg.
    Ogg,
    /// Pictures at 0, 25, 50, 75 and 100 %, and at an interval if one is set.
    Thumbnails,
    /// Sheets of small pictures with a WebVTT file that says which stands for what time.
    Storyboard,
    /// What was said, as WebVTT and SubRip.
    Captions,
}

impl Kind {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hls => "hls",
            Self::Mp4 => "mp4",
            Self::Webm => "webm",
            Self::M4a => "m4a",
            Self::Mp3 => "mp3",
            Self::Ogg => "ogg",
            Self::Thumbnails => "thumbnails",
            Self::Storyboard => "storyboard",
            Self::Captions => "captions",
        }
    }

    /// The template of its name where none is given, below [`OWN_DIRECTORY`].
    fn usual_name(self) -> &'static str {
        match self {
            Self::Hls => "live.m3u8",
            Self::Mp4 => "composite.mp4",
            Self::Webm => "composite.webm",
            Self::M4a => "audio.m4a",
            Self::Mp3 => "audio.mp3",
            Self::Ogg => "audio.ogg",
            Self::Thumbnails => "thumbnails",
            Self::Storyboard => "storyboard",
            Self::Captions => "captions",
        }
    }

    /// What its name must end with; `None` where the name is that of several files and says their beginning.
    fn extension(self) -> Option<&'static str> {
        match self {
            Self::Hls => Some(".m3u8"),
            Self::Mp4 => Some(".mp4"),
            Self::Webm => Some(".webm"),
            Self::M4a => Some(".m4a"),
            Self::Mp3 => Some(".mp3"),
            Self::Ogg => Some(".ogg"),
            Self::Thumbnails | Self::Storyboard | Self::Captions => None,
        }
    }
}

/// The picture's codec in a WebM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebmCodec {
    /// Cheaper to make.
    Vp8,
    /// Smaller.
    #[default]
    Vp9,
}

/// An output that is asked for: written as its kind alone, or as an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Output {
    /// What.
    pub kind: Kind,
    /// Template of its name below the recording; `None`: the usual one. Of thumbnails it is a directory, of storyboard and captions the
    /// name without its extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// WebM: the picture's codec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec: Option<WebmCodec>,
    /// WebM: the picture's quality, 0 (best) to 63.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crf: Option<u8>,
    /// WebM: the picture's bits per second; none: as `crf` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u32>,
    /// WebM, MP3, Ogg: the sound's bits per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_bitrate: Option<u32>,
    /// Thumbnails, storyboard: seconds from picture to picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<u32>,
    /// Thumbnails, storyboard: pixels of a picture's width, even; its height follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
}

impl From<Kind> for Output {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            name: None,
            codec: None,
            crf: None,
            bitrate: None,
            audio_bitrate: None,
            interval_s: None,
            width: None,
        }
    }
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindOrObject)
    }
}

struct KindOrObject;

impl<'de> Visitor<'de> for KindOrObject {
    type Value = Output;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the kind of an output, such as \"mp4\", or an object with a `kind`")
    }

    fn visit_str<E: serde::de::Error>(self, kind: &str) -> Result<Output, E> {
        Kind::deserialize(serde::de::value::StrDeserializer::new(kind)).map(Output::from)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Output, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Object {
            kind: Kind,
            name: Option<String>,
            codec: Option<WebmCodec>,
            crf: Option<u8>,
            bitrate: Option<u32>,
            audio_bitrate: Option<u32>,
            interval_s: Option<u32>,
            width: Option<u32>,
        }
        let Object { kind, name, codec, crf, bitrate, audio_bitrate, interval_s, width } =
            Object::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Output { kind, name, codec, crf, bitrate, audio_bitrate, interval_s, width })
    }
}

/// How tracks are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackFormat {
    /// The coded media in a container that players know.
    Playable,
    /// Every RTP and RTCP packet as the SFU received it, as rtpdump and Wireshark read it.
    Rtpdump,
    /// RTP as `janus-pp-rec` reads it: in order, retransmissions and redundancy resolved.
    Mjr,
}

/// What stands for the placeholders of a name's template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    keys: RecordingKeys,
    values: [(&'static str, String); 5],
    composite: CompositeId,
}

impl Names {
    /// Names of a composite's files; `date` is the day the recording began, `yyyy-mm-dd` in UTC.
    #[must_use]
    pub fn new(
        (tenant, room, recording): (&TenantId, &RoomId, &RecordingId),
        composite: &CompositeId,
        date: &str,
    ) -> Self {
        let values = [
            ("{tenant}", tenant.token().to_string()),
            ("{room}", room.token().to_string()),
            ("{recording}", recording.token().to_string()),
            ("{composite}", composite.token().to_string()),
            ("{date}", date.to_owned()),
        ];
        Self { keys: RecordingKeys::new(tenant, room, recording), values, composite: composite.clone() }
    }

    /// The key of an output, with `ending` behind the name where it is that of several files. A name that long ids make too long for
    /// a store gives way to the usual one.
    ///
    /// # Errors
    /// A template that does not make a file's name; [`Output::check`] refuses those.
    pub fn key(&self, output: &Output, ending: &str) -> Result<Key, NameError> {
        let usual = || {
            let name = format!("{}{ending}", output.kind.usual_name());
            Ok(self.keys.composite_file(&self.composite, &name))
        };
        let Some(template) = &output.name else { return usual() };
        let mut name = format!("{template}{ending}");
        for (placeholder, value) in &self.values {
            name = name.replace(placeholder, value);
        }
        if name.len() > MAX_MADE_BYTES || name.split('/').any(|part| part.len() > MAX_MADE_PART_BYTES) {
            return usual();
        }
        // An id at the beginning may be one of our directories: it is spelled as our keys spell what may not stand in them.
        let first = name.split('/').next().unwrap_or_default();
        if RESERVED.contains(&first) && !template.starts_with(OWN_DIRECTORY) {
            name = format!("={:02X}{}", name.as_bytes()[0], &name[1..]);
        }
        self.keys.user_file(&name)
    }
}

impl Output {
    fn refused(&self, field: &'static str, why: String) -> Error {
        Error { field, why: format!("{}: {why}", self.kind.name()) }
    }

    /// Checks what is set.
    ///
    /// # Errors
    /// The first field that is out of its range or means nothing for this kind.
    pub fn check(&self) -> Result<(), Error> {
        use Kind::{Hls, Mp3, Ogg, Storyboard, Thumbnails, Webm};
        for (field, is_set, kinds) in [
            ("outputs.codec", self.codec.is_some(), &[Webm][..]),
            ("outputs.crf", self.crf.is_some(), &[Webm]),
            ("outputs.bitrate", self.bitrate.is_some(), &[Webm]),
            ("outputs.audio_bitrate", self.audio_bitrate.is_some(), &[Webm, Mp3, Ogg]),
            ("outputs.interval_s", self.interval_s.is_some(), &[Thumbnails, Storyboard]),
            ("outputs.width", self.width.is_some(), &[Thumbnails, Storyboard]),
        ] {
            if is_set && !kinds.contains(&self.kind) {
                let kinds: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
                return Err(self.refused(field, format!("it has none; {} can have it", kinds.join(" and "))));
            }
        }
        if self.bitrate.is_some() && self.crf.is_some() {
            return Err(self.refused("outputs.crf", "either `crf` or `bitrate` can be set".to_owned()));
        }
        // Beyond 320 kbit/s there is no MP3, below 32 no stereo at 48 kHz.
        for (field, value, range) in [
            ("outputs.crf", self.crf.map(u32::from), 0..=63),
            ("outputs.bitrate", self.bitrate, 50_000..=50_000_000),
            ("outputs.audio_bitrate", self.audio_bitrate, 32_000..=320_000),
            ("outputs.interval_s", self.interval_s, 1..=3600),
            ("outputs.width", self.width, 64..=if self.kind == Storyboard { 480 } else { 1920 }),
        ] {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                let why = format!("{value} is not between {} and {}", range.start(), range.end());
                return Err(self.refused(field, why));
            }
        }
        if self.width.is_some_and(|width| !width.is_multiple_of(2)) {
            return Err(self.refused("outputs.width", "it is odd".to_owned()));
        }
        match &self.name {
            Some(_) if self.kind == Hls => {
                Err(self.refused("outputs.name", "the playlist stands beside its slices under its own name".to_owned()))
            }
            Some(template) => self.check_name(template).map_err(|why| self.refused("outputs.name", why)),
            None => Ok(()),
        }
    }

    fn check_name(&self, template: &str) -> Result<(), String> {
        if template.len() > MAX_NAME_BYTES {
            return Err(format!("it is longer than {MAX_NAME_BYTES} bytes"));
        }
        let extension = self.kind.extension().unwrap_or_default();
        if !template.ends_with(extension) {
            return Err(format!("{template:?} does not end with {extension}"));
        }
        let first = template.split('/').next().unwrap_or_default();
        if RESERVED.contains(&first) && !template.starts_with(OWN_DIRECTORY) {
            return Err(format!("{first}/ is reserved; of it, only {OWN_DIRECTORY} can be named"));
        }
        let name = sample_names("composite").key(self, "").map_err(|error| match template.contains(['{', '}']) {
            true => {
                format!("{error}; placeholders are {{tenant}}, {{room}}, {{recording}}, {{composite}} and {{date}}")
            }
            false => error.to_string(),
        })?;
        if name.file_name() == "init.mp4" {
            return Err("init.mp4 is the header of the slices".to_owned());
        }
        Ok(())
    }
}

fn sample_names(composite: &str) -> Names {
    let of = |id: Result<TenantId, _>| id.expect("a literal that can be spelled");
    let room = RoomId::new("room").expect("a literal that can be spelled");
    let recording = RecordingId::new("recording").expect("a literal that can be spelled");
    let composite = CompositeId::new(composite).expect("the caller's is an id");
    Names::new((&of(TenantId::new("tenant")), &room, &recording), &composite, "2026-01-31")
}

/// Checks that what is made together does not meet under one name.
///
/// # Errors
/// [`Error`] for the first composite or output that comes twice.
pub fn check_together(composites: &[CompositeSpec]) -> Result<(), Error> {
    let mut names = BTreeSet::new();
    for composite in composites {
        for output in &composite.outputs {
            let refused = |error: NameError| output.refused("outputs.name", error.to_string());
            let name = sample_names(composite.id.as_str()).key(output, "").map_err(refused)?;
            if !names.insert(name.clone()) {
                let why = format!("two outputs are named {}; put {{composite}} into the name", name.file_name());
                return Err(output.refused("outputs.name", why));
            }
        }
    }
    Ok(())
}

/// Checks the outputs of one composite.
pub(crate) fn check_outputs(spec: &CompositeSpec) -> Result<(), Error> {
    let mut kinds = BTreeSet::new();
    for output in &spec.outputs {
        output.check()?;
        if !kinds.insert(output.kind) {
            return Err(output.refused("outputs", "it is asked for twice".to_owned()));
        }
    }
    let formats: BTreeSet<_> = spec.tracks.iter().collect();
    if formats.len() < spec.tracks.len() {
        return Err(Error { field: "tracks", why: "a format is asked for twice".to_owned() });
    }
    check_together(std::slice::from_ref(spec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(room: &str) -> Names {
        let (tenant, room) = (TenantId::new("acme").expect("valid"), RoomId::new(room).expect("valid"));
        let recording = RecordingId::new("01abc").expect("valid");
        Names::new((&tenant, &room, &recording), &CompositeId::new("my grid").expect("valid"), "2026-11-21")
    }

    fn named(kind: Kind, name: &str) -> Output {
        Output { name: Some(name.to_owned()), ..kind.into() }
    }

    fn made(room: &str, output: &Output) -> String {
        let key = names(room).key(output, "").expect("a name");
        key.as_str().split_once("/recordings/01abc/").expect("below the recording").1.to_owned()
    }

    #[test]
    fn names_are_made_of_templates() {
        assert_eq!(made("r", &Kind::Mp3.into()), "composites/my=20grid/audio.mp3");
        assert_eq!(made("r", &named(Kind::Mp3, "processed/audio-only.mp3")), "processed/audio-only.mp3");
        let all = named(Kind::Webm, "{tenant}/{room}_{date}/{recording}-{composite}.webm");
        assert_eq!(made("../x", &all), "acme/=2E=2E=2Fx_2026-11-21/01abc-my=20grid.webm");
        let thumbnails = named(Kind::Thumbnails, "composites/{composite}/stills");
        let key = names("r").key(&thumbnails, "/percent-000.jpg").expect("a name");
        assert!(key.as_str().ends_with("/composites/my=20grid/stills/percent-000.jpg"), "{key}");
    }

    #[test]
    fn no_room_reaches_what_is_ours() {
        let output = named(Kind::Mp4, "{room}/a.mp4");
        assert_eq!(made("windows", &output), "=77indows/a.mp4");
        assert_eq!(made("{composite}", &output), "=7Bcomposite=7D/a.mp4");
        assert_eq!(made("indows", &named(Kind::Mp4, "w{room}/a.mp4")), "=77indows/a.mp4");
        assert_eq!(
            made("composites", &named(Kind::Mp4, "{room}/{composite}/init.mp4")),
            "=63omposites/my=20grid/init.mp4"
        );
    }

    #[test]
    fn hostile_templates_are_refused() {
        for name in [
            "",
            ".mp3",
            "/etc/a.mp3",
            "../a.mp3",
            "a/../b.mp3",
            "a//b.mp3",
            "a\\b.mp3",
            "a b.mp3",
            "ä.mp3",
            "a.mp3\n",
            "a.wav",
            "a.mp3/",
            "{peer}.mp3",
            "{room.mp3",
            "{{room}}.mp3",
            "windows/a.mp3",
            "tracks/a.mp3",
            "composites/grid/a.mp3",
            "composites/{room}/a.mp3",
            "a%2fb.mp3",
            &format!("{}.mp3", "a".repeat(MAX_NAME_BYTES)),
        ] {
            let refused = named(Kind::Mp3, name).check().expect_err(name);
            assert_eq!(refused.field, "outputs.name", "{name:?}");
        }
        assert!(named(Kind::Mp4, "composites/{composite}/init.mp4").check().is_err());
        assert!(named(Kind::Hls, "a.m3u8").check().is_err());
        let longest = "x".repeat(crate::id::MAX_TOKEN_CHARS);
        for too_long in ["{room}/{room}/{room}.mp3", "a/{room}-{room}.mp3"] {
            assert_eq!(made(&longest, &named(Kind::Mp3, too_long)), "composites/my=20grid/audio.mp3");
        }
        assert_eq!(made(&longest, &named(Kind::Mp3, "{room}/{room}.mp3")), format!("{longest}/{longest}.mp3"));
    }

    #[test]
    fn outputs_are_read_and_written() {
        let read = |json: &str| serde_json::from_str::<Output>(json);
        assert_eq!(read("\"mp3\"").expect("a kind"), Kind::Mp3.into());
        let webm = Output { codec: Some(WebmCodec::Vp8), audio_bitrate: Some(64_000), ..Kind::Webm.into() };
        assert_eq!(read(r#"{"kind":"webm","codec":"vp8","audio_bitrate":64000}"#).expect("an object"), webm);
        let written = serde_json::to_string(&webm).expect("it is written");
        assert_eq!((written.contains("null"), read(&written).expect("its own")), (false, webm));
        for (json, said) in [
            ("\"mp5\"", "unknown variant `mp5`, expected one of `hls`"),
            (r#"{"kind":"mp3","codek":1}"#, "unknown field `codek`"),
            (r#"{"name":"a"}"#, "missing field `kind`"),
            ("7", "the kind of an output"),
        ] {
            let error = read(json).expect_err(json).to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let set = |edit: &dyn Fn(&mut Output), kind: Kind| {
            let mut output = Output::from(kind);
            edit(&mut output);
            output.check().map_err(|error| error.field)
        };
        assert_eq!(set(&|output| output.width = Some(320), Kind::Storyboard), Ok(()));
        assert_eq!(set(&|output| output.width = Some(321), Kind::Storyboard), Err("outputs.width"));
        assert_eq!(set(&|output| output.width = Some(320), Kind::Mp4), Err("outputs.width"));
        assert_eq!(set(&|output| output.interval_s = Some(0), Kind::Thumbnails), Err("outputs.interval_s"));
        assert_eq!(set(&|output| output.audio_bitrate = Some(8), Kind::Mp3), Err("outputs.audio_bitrate"));
        assert_eq!(set(&|output| output.crf = Some(64), Kind::Webm), Err("outputs.crf"));
        assert_eq!(
            set(&|output| (output.crf, output.bitrate) = (Some(30), Some(900_000)), Kind::Webm),
            Err("outputs.crf")
        );
    }

    #[test]
    fn two_outputs_do_not_meet() {
        let spec = |id: &str, name: &str| CompositeSpec {
            id: CompositeId::new(id).expect("valid"),
            outputs: vec![named(Kind::Mp4, name)],
            ..CompositeSpec::default()
        };
        assert!(check_together(&[spec("a", "{composite}.mp4"), spec("b", "{composite}.mp4")]).is_ok());
        assert!(check_together(&[spec("a", "x.mp4"), spec("b", "x.mp4")]).is_err());
        let mut twice = spec("a", "x.mp4");
        twice.outputs.push(Kind::Mp4.into());
        assert!(twice.check().is_err());
        let tracks = vec![TrackFormat::Mjr, TrackFormat::Mjr];
        let refused = CompositeSpec { tracks, ..CompositeSpec::default() }.check().expect_err("twice");
        assert_eq!(refused.field, "tracks");
    }
}
