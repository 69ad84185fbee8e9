//! `roomreel verify`: reads everything of a recording in the bucket again and says what is wrong with it.
//!
//! Owns reading and telling. Does not own the rules ([`roomreel_shared::verify`]), nor repair.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use futures::{StreamExt as _, stream};
use roomreel_shared::key::{Key, RecordingKeys, RecordingName};
use roomreel_shared::ports::{Listed, ObjectStore};
use roomreel_shared::recording::Recording;
use roomreel_shared::verify::{Area, Checker, Composite, Verdict, box_header, media_bytes};
use serde::Serialize;

use crate::output::{self, Lines};
use crate::recording_files;
use crate::settings::StoreArgs;

/// Objects that are fetched ahead of the one being checked.
const FETCH_AHEAD: usize = 4;
/// Bytes that hold the header of any box.
const BOX_HEADER_BYTES: u64 = 16;
/// Most boxes of a file that are walked; ours has three.
const MAX_BOXES: usize = 64;

/// Arguments of `roomreel verify`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  roomreel verify out/demo/default/rooms/demo/recordings/01kaj0…
  roomreel verify acme/rooms/standup/recordings/01kaj0… --store s3://recordings
  roomreel verify 01kaj0v6zq3w8n5x2r7m4c9d1e --store s3://recordings --json    looks for it

Reads every object of the recording. Exits with 0 if it is sound, with 1 if something is wrong with it.")]
pub struct VerifyArgs {
    /// A directory of a recording; or (with --store) its prefix in the bucket, or its id.
    #[arg(value_name = "RECORDING")]
    target: String,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    tenant: &'a str,
    room: &'a str,
    recording: &'a str,
    state: Option<String>,
    sound: bool,
    #[serde(flatten)]
    verdict: &'a Verdict,
}

/// Runs the command; `false` if something is wrong with the recording.
///
/// # Errors
/// If there is no such recording, or the store does not answer.
pub async fn run(args: &VerifyArgs) -> anyhow::Result<bool> {
    let (store, name) = recording_files::find(&args.target, &args.store).await?;
    let (recording, verdict) = check(&*store, &name).await?;
    let report = Report {
        tenant: name.tenant.as_str(),
        room: name.room.as_str(),
        recording: name.recording.as_str(),
        state: recording.map(|recording| format!("{:?}", recording.state)),
        sound: verdict.is_sound(),
        verdict: &verdict,
    };
    output::print(if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { text(&report) })?;
    Ok(verdict.is_sound())
}

/// Reads and checks a recording; answers what its `recording.json`, or while it is not final its `unfinished.json`, says.
///
/// # Errors
/// If there is nothing of it, or its objects cannot be listed.
pub async fn check(store: &dyn ObjectStore, name: &RecordingName) -> anyhow::Result<(Option<Recording>, Verdict)> {
    let keys = name.keys();
    let listed = store.list(keys.prefix()).await.context("list the recording")?;
    if listed.is_empty() {
        bail!("there is nothing below {}", keys.prefix());
    }
    let mut checker = Checker::new(name.tenant.clone(), name.room.clone(), name.recording.clone());
    let windows = listed.iter().filter_map(|object| Some((keys.window_number(&object.key)?, &object.key)));
    let mut objects = read_all(store, windows);
    while let Some((number, object)) = objects.next().await {
        match object {
            Ok(object) => checker.window(number, object),
            Err(error) => checker.find(Area::Window, error),
        }
    }
    let names: BTreeMap<&str, &Listed> =
        listed.iter().filter_map(|object| Some((object.key.as_str().strip_prefix(keys.prefix())?, object))).collect();
    let recording = read_document(store, &keys, &names, &mut checker).await;
    for (prefix, composite) in composites(&names, recording.as_ref()) {
        let composite = read_composite(store, composite, &prefix, &names).await;
        checker.composite(&composite, recording.as_ref());
    }
    if let Some(recording) = &recording {
        checker.recording(recording, &names.keys().map(|name| (*name).to_owned()).collect());
    }
    for (file, object) in names.iter().filter(|(file, _)| !file.contains('/') && file.ends_with(".json")) {
        match store.get(&object.key).await {
            Ok(body) if serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok() => {}
            Ok(_) => checker.find(Area::Document, format!("{file} is not JSON")),
            Err(error) => checker.find(Area::Document, error.to_string()),
        }
    }
    Ok((recording, checker.finish()))
}

type Numbered<'a> = stream::BoxStream<'a, (u64, Result<Bytes, String>)>;

/// Objects in the order of their numbers.
fn read_all<'a>(store: &'a dyn ObjectStore, keys: impl Iterator<Item = (u64, &'a Key)>) -> Numbered<'a> {
    let keys: BTreeMap<u64, Key> = keys.map(|(number, key)| (number, key.clone())).collect();
    let read = move |(number, key): (u64, Key)| async move {
        (number, store.get(&key).await.map_err(|error| error.to_string()))
    };
    stream::iter(keys).map(read).buffered(FETCH_AHEAD).boxed()
}

async fn read_document(
    store: &dyn ObjectStore,
    keys: &RecordingKeys,
    names: &BTreeMap<&str, &Listed>,
    checker: &mut Checker,
) -> Option<Recording> {
    let key =
        [keys.recording_json(), keys.unfinished_json()].into_iter().find(|key| names.contains_key(key.file_name()));
    let Some(key) = key else {
        checker.find(Area::Document, "recording.json is missing, and so is unfinished.json");
        return None;
    };
    let read = store.get(&key).await.map_err(|error| error.to_string());
    let read = read.and_then(|body| serde_json::from_slice(&body).map_err(|e| format!("{}: {e}", key.file_name())));
    read.map_err(|why| checker.find(Area::Document, why)).ok()
}

/// Composites that were asked for or of which there is something: the prefix below the recording, and the spelled id.
fn composites(names: &BTreeMap<&str, &Listed>, recording: Option<&Recording>) -> BTreeMap<String, String> {
    let asked = recording.map(|recording| &recording.composites[..]).unwrap_or_default();
    let asked = asked.iter().map(|spec| spec.id.token().to_string());
    let there = names.keys().filter_map(|name| Some(name.strip_prefix("composites/")?.split_once('/')?.0.to_owned()));
    let all: BTreeSet<String> = asked.chain(there).collect();
    all.into_iter().map(|id| (format!("composites/{id}/"), id)).collect()
}

async fn read_composite(
    store: &dyn ObjectStore,
    name: String,
    prefix: &str,
    names: &BTreeMap<&str, &Listed>,
) -> Composite {
    let files: BTreeMap<&str, &Listed> =
        names.iter().filter_map(|(file, object)| Some((file.strip_prefix(prefix)?, *object))).collect();
    let number = |file: &str| file.strip_suffix(".m4s")?.parse().ok();
    let slices = files.iter().filter_map(|(file, object)| Some((number(file)?, &object.key)));
    let slices =
        read_all(store, slices).map(|(number, slice)| (number, slice.ok().and_then(|slice| media_bytes(&slice))));
    let playlist = match files.get("live.m3u8") {
        Some(object) => store.get(&object.key).await.ok().map(|text| String::from_utf8_lossy(&text).into_owned()),
        None => None,
    };
    let file = match files.get("composite.mp4") {
        Some(object) => Some(media_of_file(store, object).await),
        None => None,
    };
    Composite { name, slices: slices.collect().await, has_init: files.contains_key("init.mp4"), playlist, file }
}

/// Walks the outermost boxes of a file without reading what is in them.
async fn media_of_file(store: &dyn ObjectStore, object: &Listed) -> Result<u64, String> {
    let (mut at, mut media, mut has_index) = (0, 0, false);
    for _ in 0..MAX_BOXES {
        if at == object.size {
            return if has_index { Ok(media) } else { Err("it has no moov box".to_owned()) };
        }
        let start = store.get_range(&object.key, at..at + BOX_HEADER_BYTES).await.map_err(|error| error.to_string())?;
        let header = box_header(&start).ok_or_else(|| format!("at byte {at} there is no box"))?;
        let bytes = header.bytes.unwrap_or(object.size - at);
        if bytes > object.size - at {
            return Err(format!("the box at byte {at} is {bytes} bytes long and the file ends before; it is cut off"));
        }
        match &header.kind {
            b"mdat" => media += bytes - header.header_bytes,
            b"moov" => has_index = true,
            _ => {}
        }
        at += bytes;
    }
    Err(format!("it has more than {MAX_BOXES} boxes"))
}

fn text(report: &Report<'_>) -> String {
    let verdict = report.verdict;
    let mut out = Lines::default();
    let mut line = |text: String| out.push(text);
    line(format!("recording {} of room {} ({})", report.recording, report.room, report.tenant));
    let state = report.state.as_deref().unwrap_or("unknown");
    let end = if verdict.ended { "ended" } else { "not ended" };
    line(format!("{} window(s), {} packets, {end}, state {state}", verdict.windows, verdict.packets));
    for (reason, declared) in &verdict.declared {
        line(format!("declared missing ({reason}): {} packets in {} gap(s)", declared.packets, declared.gaps));
    }
    if verdict.missing_events > 0 {
        line(format!("lost by the log and not written again: {} event(s)", verdict.missing_events));
    }
    for finding in &verdict.findings {
        line(format!("  {}: {}", format!("{:?}", finding.area).to_lowercase(), finding.what));
    }
    if verdict.more_findings > 0 {
        line(format!("  and {} more", verdict.more_findings));
    }
    line(match verdict.findings.len() as u64 + verdict.more_findings {
        0 => "sound".to_owned(),
        count => format!("{count} finding(s)"),
    });
    out.into_text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use roomreel_backends::memory::MemoryStore;
    use roomreel_shared::id::CompositeId;

    #[tokio::test]
    async fn whatever_stands_in_the_bucket_is_told_in_words() {
        let store = MemoryStore::new();
        let name = RecordingName::of("acme/rooms/standup/recordings/01r/").expect("a prefix of ours");
        assert!(check(&store, &name).await.is_err(), "there is nothing");
        let keys = name.keys();
        let grid = CompositeId::new("grid").expect("valid");
        let cut_off = [&100_u32.to_be_bytes()[..], b"moov", b"..."].concat();
        for (key, body) in [
            (keys.window(1), b"torn".to_vec()),
            (keys.recording_json(), b"{}".to_vec()),
            (keys.timeline_json(), b"{".to_vec()),
            (keys.slice(&grid, 1), b"no boxes".to_vec()),
            (keys.playlist(&grid), b"#EXTM3U\n00000000.m4s\n".to_vec()),
            (keys.composite_mp4(&grid), cut_off),
        ] {
            store.create(&key, body.into()).await.expect("the store is up");
        }
        let (recording, verdict) = check(&store, &name).await.expect("it can be read");
        assert_eq!(recording, None);
        let told: Vec<&str> = verdict.findings.iter().map(|finding| finding.what.as_str()).collect();
        for words in [
            "window 0 missing",
            "window 1 cannot be read",
            "recording.json: missing field",
            "timeline.json is not JSON",
            "slices 0 to 0 are missing",
            "slice 1 is not a CMAF slice",
            "names slice 0, which is not in the bucket",
            "it is cut off",
        ] {
            assert!(told.iter().any(|what| what.contains(words)), "{words}: {told:#?}");
        }
    }
}
