//! A room that was recorded is rendered again, from the command line and without a cluster.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use roomreel_shared::time::RoomTime;
use roomreel_shared::window::{self, SealedSegment, Segment, SegmentFrames, Window};

fn roomreel(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_roomreel")).args(arguments).output().expect("the binary runs")
}

fn only_entry(directory: PathBuf) -> PathBuf {
    let mut entries = std::fs::read_dir(directory).expect("a directory");
    entries.next().expect("one entry").expect("readable").path()
}

fn probe(file: &Path, stream: &str, entry: &str) -> String {
    let select = ["-v", "error", "-select_streams", stream, "-count_frames", "-show_entries", entry, "-of", "csv=p=0"];
    let output = Command::new("ffprobe").args(select).arg(file).output().expect("ffprobe is installed");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_recording_is_rendered_again_in_another_layout_and_in_part() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let out = out.to_str().expect("a plain path");
    let small = ["--width", "320", "--height", "180", "--fps", "10"];
    let demo = ["demo", "--out", out, "--participants", "2", "--seconds", "8", "--speed", "4"];
    let output = roomreel(&[&demo[..], &small].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rooms = only_entry(folder.path().join("out/default/rooms"));
    let recording = only_entry(rooms.join("recordings"));
    let target = recording.to_str().expect("a plain path");
    let render = |more: &[&str]| {
        let output = roomreel(&[&["render", target], &small[..], more].concat());
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let cut = ["--layout", "speaker", "--from", "0:02.5", "--to", "6s", "--id", "cut"];
    let (code, said) = render(&cut);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("state      COMPLETE") && said.contains("composites/cut/composite.mp4"), "{said}");
    let file = recording.join("composites/cut/composite.mp4");
    assert_eq!(probe(&file, "v:0", "stream=nb_read_frames"), "35", "3.5 s at 10 frames/s");
    let document = std::fs::read_to_string(recording.join("composites/cut/rendered.json")).expect("a document");
    assert!(document.contains("composites/cut/composite.mp4") && document.contains("COMPLETE"), "{document}");

    // Asked again it is there; the same name does not stand for something else.
    assert_eq!(render(&cut).0, Some(0));
    let (code, said) = render(&["--layout", "pip", "--id", "cut"]);
    assert_eq!(
        (code, said.trim_end()),
        (Some(1), "roomreel: the recording has another composite cut; choose another name with --id")
    );
    for (more, named) in [
        (&["--layout", "mosaic"][..], "layout \"mosaic\" is not known"),
        (
            &["--layout", r#"{"regions": {"main": {"video_sources": ["*", "nobody"]}}}"#, "--id", "x"],
            "layout.regions.main.video_sources[1]: nobody in recording",
        ),
        (&["--from", "9m", "--id", "x"], "from_ms: 540000 is not before"),
        (&["--from", "1:99", "--id", "x"], "\"1:99\" is no time"),
    ] {
        let (code, said) = render(more);
        assert!(code != Some(0) && said.contains(named), "{said}");
    }
    // What was seen while the room talked is seen again, byte for byte.
    assert_eq!(render(&["--layout", "grid", "--id", "again"]).0, Some(0));
    let slice = |composite: &str| {
        std::fs::read(recording.join(format!("composites/{composite}/00000000.m4s"))).expect("a slice")
    };
    assert!(slice("grid") == slice("again"));
    assert!(roomreel(&["verify", target]).status.success());

    let frames = widened(&recording.join("windows"));
    let (code, said) = render(&["--layout", r#"{"trim": true, "regions": {"main": {}}}"#, "--id", "trimmed"]);
    assert_eq!(code, Some(0), "{said}");
    let file = recording.join("composites/trimmed/composite.mp4");
    assert_eq!(probe(&file, "v:0", "stream=nb_read_frames"), frames.to_string());
    let decoded = Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(&file).args(["-f", "null", "-"]).output();
    assert_eq!(String::from_utf8_lossy(&decoded.expect("ffmpeg is installed").stderr), "");
}

/// Lets a recording begin two seconds earlier and end three later; how many frames its media takes, at ten a second.
fn widened(windows: &Path) -> u128 {
    let mut files: Vec<_> =
        std::fs::read_dir(windows).expect("a directory").map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    let mut received = Vec::new();
    let mut start = None;
    for file in files {
        let mut window = Window::parse(std::fs::read(&file).expect("readable").into()).expect("a window");
        let segments: Vec<_> = window.segments.iter().map(|segment| sealed(&window, segment)).collect();
        received.extend(segments.iter().flat_map(|segment| [segment.span.0, segment.span.1]));
        let events: Vec<_> = window
            .events
            .iter()
            .map(|stored| (stored.writer.clone(), stored.log_time, stored.event.encode()))
            .collect();
        let header = &mut window.header;
        header.room_start = header.room_start.offset_micros(-2_000_000);
        start = Some(header.room_start);
        if let Some(end) = &mut header.end {
            end.room_end = end.room_end.offset_micros(3_000_000);
        }
        std::fs::write(&file, window::encode(header, &segments, &events)).expect("writable");
    }
    let offset_us = |time: &RoomTime| time.saturating_since(start.expect("a window")).as_micros();
    let first = received.iter().map(offset_us).min().expect("media") / 1000;
    let last = received.iter().map(offset_us).max().expect("media").div_ceil(1000);
    (last - first).div_ceil(100)
}

fn sealed(window: &Window, segment: &Segment) -> SealedSegment {
    let mut frames = SegmentFrames::default();
    for stored in window.batches(segment).expect("a whole segment") {
        let stored = stored.expect("a batch");
        frames.push(&stored.batch.encode(), stored.log_time, stored.late);
    }
    SealedSegment {
        key: segment.key.clone(),
        frames: frames.seal(),
        packets: segment.packets,
        invalid_packets: segment.invalid_packets,
        span: (segment.first_time, segment.last_time),
        keyframes: segment.keyframes.clone(),
    }
}
