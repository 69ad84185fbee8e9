//! Every output of one small render, looked at with FFmpeg's tools.

use std::path::Path;
use std::process::Command;

use roomreel_backends::memory::MemoryStore;
use roomreel_backends::memory::faults::Operation;
use roomreel_shared::event::EventKind;
use roomreel_shared::id::PeerId;
use roomreel_shared::output::{Output, TrackFormat, WebmCodec};

use super::*;
use crate::decode::SAMPLE_RATE;
use crate::encode::Sample;
use crate::render::RenderCore;
use crate::render::tests::{fold, spec, windows};

const KINDS: [Kind; 9] = [
    Kind::Hls,
    Kind::Mp4,
    Kind::Webm,
    Kind::M4a,
    Kind::Mp3,
    Kind::Ogg,
    Kind::Thumbnails,
    Kind::Storyboard,
    Kind::Captions,
];
/// Length of the room that is told.
const LENGTH_S: f64 = 2.9;

fn everything() -> CompositeSpec {
    let outputs = KINDS.map(|kind| match kind {
        Kind::Thumbnails => Output { interval_s: Some(1), ..kind.into() },
        Kind::Storyboard => Output { interval_s: Some(1), width: Some(128), ..kind.into() },
        Kind::Mp3 => Output { name: Some("processed/{date}/audio-only.mp3".to_owned()), ..kind.into() },
        _ => kind.into(),
    });
    let tracks = vec![TrackFormat::Playable, TrackFormat::Rtpdump, TrackFormat::Mjr];
    CompositeSpec { outputs: outputs.into(), tracks, ..spec() }
}

/// Renders and stores everything, or takes over from a render of which `existing` slices stand in the bucket.
async fn render(store: &Arc<dyn ObjectStore>, spec: &CompositeSpec, existing: u64) -> Vec<String> {
    let keys = RecordingKeys::new(&fold().tenant, &fold().room, &fold().recording);
    let mut core = RenderCore::new(spec.clone(), fold()).expect("a layout and an encoder");
    let (video, audio) = (core.video_config().expect("one"), core.audio_config().expect("one"));
    core.skip_to(existing).expect("an encoder");
    let date = "2026-11-21".to_owned();
    let mut outputs = Outputs::new(store.clone(), spec, &fold(), date, (&video, &audio), Told::of(spec), None)
        .expect("names of files");
    let init = mux::init_segment(&video, &audio);
    store.put(&keys.init(&spec.id), init).await.expect("it is stored");
    outputs.resume(existing).await.expect("slices stand");
    let mut windows = windows();
    let begin = windows[0].header.room_start;
    let mut said = windows[0].events[0].clone();
    said.event.kind = EventKind::TranscriptCue {
        peer: PeerId::new("amara").expect("valid"),
        text: "welcome <everybody> & all".to_owned(),
        start: begin.offset_micros(600_000),
        end: begin.offset_micros(1_600_000),
        language: "en".to_owned(),
    };
    windows[0].events.push(said);
    for window in windows {
        let window = Arc::new(window);
        outputs.take_in_window(&window);
        outputs.take_in_window(&window);
        core.push_window(&window).expect("its recording");
        while let Some(slice) = core.next_slice().expect("the encoder works") {
            let mut slice = slice.encoded;
            keep_webm(&**store, &keys, spec, &mut slice).await.expect("it is stored");
            let key = keys.slice(&spec.id, slice.number);
            if store.create(&key, mux::fragment(&slice).expect("a small one")).await.is_err() {
                let stored = mux::parse_fragment(&store.get(&key).await.expect("it stands")).expect("a slice");
                slice = EncodedSlice { webm: slice.webm, ..stored };
            }
            outputs.take_in(&slice);
            outputs.take_in(&slice);
            catch_up(&mut outputs).await;
        }
        catch_up(&mut outputs).await;
    }
    assert!(outputs.finish_joined(None).await.expect("it is stored"));
    assert!(outputs.finish_made(None).await.expect("it is stored"));
    assert_eq!(outputs.notes().count(), 0);
    outputs.ready().map(|key| key.as_str().strip_prefix(keys.prefix()).expect("ours").to_owned()).collect()
}

async fn catch_up(outputs: &mut Outputs) {
    while outputs.join().await.expect("it is joined") || outputs.make().await.expect("it is made") {}
}

fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error} (apt-get install ffmpeg)"));
    let said = String::from_utf8_lossy(&output.stderr);
    // FFmpeg says the second of any black JPEG, its own too (seen with 5.1): nobody is there yet when the room begins.
    let known = |line: &&str| line.starts_with("Guessed Channel Layout") || line.ends_with("EOI missing, emulating");
    let said: Vec<_> = said.lines().filter(|line| !known(line)).collect();
    assert!(output.status.success() && said.is_empty(), "{tool} {arguments:?}: {said:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Decodes the whole file without a warning; its length in seconds.
fn look_at(path: &str) -> f64 {
    let muxer = if [".vtt", ".srt"].iter().any(|extension| path.ends_with(extension)) { "webvtt" } else { "null" };
    run("ffmpeg", &["-nostdin", "-v", "warning", "-xerror", "-i", path, "-enc_time_base", "-1", "-f", muxer, "-"]);
    let about = run("ffprobe", &["-v", "warning", "-show_entries", "format=duration", "-of", "csv=p=0", path]);
    about.trim().parse().unwrap_or(0.0)
}

/// Samples of sound that a player hears.
fn samples(path: &str) -> u64 {
    let arguments = ["-nostdin", "-v", "error", "-i", path, "-vn", "-f", "s16le", "-ac", "1", "-ar", "48000", "-"];
    let output = Command::new("ffmpeg").args(arguments).output().expect("ffmpeg runs");
    output.stdout.len() as u64 / 2
}

async fn everything_in(directory: &Path, store: &Arc<dyn ObjectStore>) {
    for object in store.list("").await.expect("a listing") {
        let path = directory.join(object.key.as_str());
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("a directory");
        std::fs::write(path, store.get(&object.key).await.expect("listed")).expect("it is written");
    }
}

#[tokio::test]
async fn every_output_is_whole_and_as_long_as_the_recording() {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let files = render(&store, &everything(), 0).await;
    let own = |names: &[&str]| names.iter().map(|name| format!("composites/grid/{name}")).collect::<Vec<_>>();
    let mut expected = own(&[
        "audio.m4a",
        "audio.ogg",
        "captions.srt",
        "captions.vtt",
        "composite.mp4",
        "composite.webm",
        "storyboard-000.jpg",
        "storyboard.vtt",
        "thumbnails/percent-000.jpg",
        "thumbnails/percent-025.jpg",
        "thumbnails/percent-050.jpg",
        "thumbnails/percent-075.jpg",
        "thumbnails/percent-100.jpg",
        "thumbnails/second-000000.jpg",
        "thumbnails/second-000001.jpg",
        "thumbnails/second-000002.jpg",
    ]);
    expected.push("processed/2026-11-21/audio-only.mp3".to_owned());
    for track in ["audio.mjr", "audio.mka", "audio.rtpdump", "video.mjr", "video.rtpdump", "video.webm"] {
        expected.push(format!("tracks/amara-{track}"));
    }
    assert_eq!(files, expected);

    let directory = tempfile::tempdir().expect("a directory");
    everything_in(directory.path(), &store).await;
    let root = directory.path().join(RecordingKeys::new(&fold().tenant, &fold().room, &fold().recording).prefix());
    let path = |name: &str| root.join(name).to_str().expect("UTF-8").to_owned();
    for file in files.iter().filter(|file| !file.starts_with("tracks/")) {
        let length = if file.ends_with("storyboard.vtt") { LENGTH_S } else { look_at(&path(file)) };
        let has_length = [".mp4", ".webm", ".m4a", ".mp3", ".ogg"].iter().any(|extension| file.ends_with(extension));
        if file.ends_with(".mp4") || file.ends_with(".webm") {
            let first = ["-v", "warning", "-select_streams", "v", "-show_entries", "packet=pts_time", "-of", "csv=p=0"];
            let first = run("ffprobe", &[&first[..], &["-read_intervals", "%+#1", &path(file)]].concat());
            assert_eq!(first.trim().trim_end_matches(',').parse(), Ok(0.0), "{file}");
            // What an Opus decoder drops, 6.5 ms, lies before the beginning; AAC has nothing to drop.
            let sound =
                ["-v", "warning", "-select_streams", "a", "-show_entries", "stream=start_time", "-of", "csv=p=0"];
            let begins = run("ffprobe", &[&sound[..], &[&path(file)]].concat());
            let expected = if file.ends_with(".webm") { "-0.007000" } else { "0.000000" };
            assert_eq!(begins.trim(), expected, "{file}");
        }
        if has_length {
            // A frame of the composite takes 100 ms, the last one of sound 21.
            assert!((length - LENGTH_S).abs() < 0.03, "{file}: {length}");
        }
    }
    let heard = (LENGTH_S * f64::from(SAMPLE_RATE)) as u64;
    for file in ["composites/grid/audio.ogg", "processed/2026-11-21/audio-only.mp3", "composites/grid/composite.webm"] {
        assert_eq!(samples(&path(file)), heard, "{file}");
    }
    assert!(samples(&path("composites/grid/audio.m4a")).abs_diff(heard) < 1024);
    let size = |file: &str| {
        let arguments = ["-v", "warning", "-show_entries", "stream=width,height", "-of", "csv=p=0", &path(file)];
        run("ffprobe", &arguments).trim().to_owned()
    };
    assert_eq!(size("composites/grid/thumbnails/percent-050.jpg"), "320,180");
    assert_eq!(size("composites/grid/storyboard-000.jpg"), "1280,72");
    let board = std::fs::read_to_string(path("composites/grid/storyboard.vtt")).expect("it is text");
    assert!(board.ends_with("\n00:00:02.000 --> 00:00:02.900\nstoryboard-000.jpg#xywh=256,0,128,72\n"), "{board}");
}

#[tokio::test]
async fn a_successor_makes_the_same_files() {
    let vp8 = |spec: CompositeSpec| {
        let webm = Output { codec: Some(WebmCodec::Vp8), ..Kind::Webm.into() };
        let others = spec.outputs.iter().filter(|output| output.kind != Kind::Webm).cloned();
        CompositeSpec { outputs: others.chain([webm]).collect(), ..spec }
    };
    let spec = vp8(everything());
    let whole: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let files = render(&whole, &spec, 0).await;
    let keys = RecordingKeys::new(&fold().tenant, &fold().room, &fold().recording);
    // What the slices are made of stands in the bucket; the files do not.
    let taken_over: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    for number in 0..3 {
        for key in [keys.slice(&spec.id, number), keys.webm_slice(&spec.id, number)] {
            taken_over.put(&key, whole.get(&key).await.expect("stored")).await.expect("it is stored");
        }
    }
    assert_eq!(render(&taken_over, &spec, 2).await, files);
    for file in &files {
        let key = keys.user_file(file).expect("a file's name");
        let (one, other) = (whole.get(&key).await.expect("stored"), taken_over.get(&key).await.expect("stored"));
        assert!(one == other, "{file} differs");
    }
}

#[tokio::test]
async fn what_is_left_out_is_not_made() {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let spec = CompositeSpec { outputs: vec![Kind::Mp3.into()], ..spec() };
    assert_eq!(render(&store, &spec, 0).await, ["composites/grid/audio.mp3"]);
    let listed = store.list("").await.expect("a listing");
    assert!(listed.iter().all(|object| !object.key.as_str().contains("webm")), "{listed:?}");
}

#[tokio::test]
async fn bitrate_and_key_frames_are_as_asked() {
    let spec = CompositeSpec { bitrate: Some(60_000), keyframe_ms: Some(500), ..everything() };
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    render(&store, &spec, 0).await;
    let keys = RecordingKeys::new(&fold().tenant, &fold().room, &fold().recording);
    let object = store.get(&keys.slice(&spec.id, 1)).await.expect("stored");
    let mut slice = mux::parse_fragment(&object).expect("a slice");
    read_webm(&*store, &keys, &spec, &mut slice).await.expect("stored");
    let keys = |samples: &[Sample]| -> Vec<_> {
        samples.iter().filter(|sample| sample.key).map(|sample| sample.pts).collect()
    };
    assert_eq!((keys(&slice.video), keys(&slice.webm)), (vec![10_000, 15_000], vec![10_000, 15_000]));
}

/// A slice as `bytes` of no picture in particular make it.
fn heavy(number: u64, bytes: usize) -> EncodedSlice {
    let sample = |at: u64, duration: u32, bytes: usize| Sample {
        data: (0..bytes).map(|place| (place as u64 * 31 + number * 7) as u8).collect::<Vec<_>>().into(),
        pts: at as i64,
        dts: at as i64,
        duration,
        key: true,
    };
    let video = (0..10).map(|frame| sample(number * 10_000 + frame * 1000, 1000, bytes / 10)).collect();
    let audio = (0..40).map(|frame| sample((number * 40 + frame) * 1024, 1024, 300)).collect();
    EncodedSlice { number, video, audio, webm: Vec::new() }
}

/// How many whole objects a store gave.
type Gets = Arc<std::sync::atomic::AtomicU64>;

fn counted(store: &MemoryStore) -> (Arc<dyn ObjectStore>, Gets) {
    let gets = Gets::default();
    let count = gets.clone();
    let hook = move |operation: Operation, _: &str| {
        count.fetch_add(u64::from(operation == Operation::Get), std::sync::atomic::Ordering::Relaxed);
        None
    };
    (Arc::new(store.clone().with_faults(Arc::new(hook))), gets)
}

#[tokio::test]
async fn who_takes_over_goes_on_with_the_upload() {
    const BEFORE: u64 = 60;
    let spec = CompositeSpec { outputs: vec![Kind::Mp4.into()], ..spec() };
    let keys = RecordingKeys::new(&fold().tenant, &fold().room, &fold().recording);
    let core = RenderCore::new(spec.clone(), fold()).expect("a layout and an encoder");
    let (video, audio) = (core.video_config().expect("one"), core.audio_config().expect("one"));
    let outputs = |store: &Arc<dyn ObjectStore>| {
        let date = "2026-11-21".to_owned();
        Outputs::new(store.clone(), &spec, &fold(), date, (&video, &audio), Told::of(&spec), None).expect("names")
    };
    let bucket = MemoryStore::new();
    let (store, _) = counted(&bucket);
    let mut first = outputs(&store);
    for number in 0..BEFORE {
        let slice = heavy(number, 1 << 20);
        store.create(&keys.slice(&spec.id, number), mux::fragment(&slice).expect("small")).await.expect("room");
        first.take_in(&slice);
        catch_up(&mut first).await;
        first.save().await.expect("room");
    }
    assert!(!first.is_unsaved());
    // The node is gone. What it has written down stands; of what another one did, nothing may be lost.
    let is_aborted = [false, true];
    let mut made = Vec::new();
    for is_aborted in is_aborted {
        if is_aborted {
            bucket.delete(&keys.composite_mp4(&spec.id)).await.expect("it is there");
            let id = r#"{"files":{"KEY":{"id":"nobody's","parts":[["tag",5300000]]}}}"#;
            let text = id.replace("KEY", keys.composite_mp4(&spec.id).as_str());
            bucket.put(&keys.composite_file(&spec.id, "uploads.json"), text.into()).await.expect("room");
        }
        let (store, gets) = counted(&bucket);
        let mut second = outputs(&store);
        second.resume(BEFORE).await.expect("it is listed");
        catch_up(&mut second).await;
        let whole = gets.load(std::sync::atomic::Ordering::Relaxed);
        // The first 5 MiB, and at most as much that was not uploaded yet.
        let expected = if is_aborted { BEFORE..=BEFORE + 10 } else { 6..=14 };
        assert!(expected.contains(&whole), "{whole} slices were read");
        while !second.finish_joined(None).await.expect("room") {
            catch_up(&mut second).await;
        }
        assert_eq!(bucket.open_uploads(), 0);
        assert!(bucket.get(&keys.composite_file(&spec.id, "uploads.json")).await.is_err(), "nothing is left");
        made.push(bucket.get(&keys.composite_mp4(&spec.id)).await.expect("it stands"));
    }
    assert!(made[0].len() > BEFORE as usize * (1 << 20) && made[0] == made[1], "the same file");
}
