//! Everything that a render can make, of a room that was recorded and again afterwards, looked at with FFmpeg's tools.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn roomreel(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_roomreel")).args(arguments).output().expect("the binary runs");
    let said = said(&output);
    assert!(output.status.success() && !said.contains("WARN") && !said.contains("ERROR"), "{said}");
    said
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// What a tool says on standard output; it has nothing to say on the other.
fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error} (apt-get install ffmpeg)"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    // The second is said of any black JPEG, FFmpeg's own too (seen with 5.1): nobody is there yet when the room begins.
    let known = |line: &&str| line.starts_with("Guessed Channel Layout") || line.ends_with("EOI missing, emulating");
    let complaints: Vec<_> = complaints.lines().filter(|line| !known(line)).collect();
    assert!(output.status.success() && complaints.is_empty(), "{tool} {arguments:?}: {complaints:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn probe(file: &Path, entry: &str) -> Vec<f64> {
    let path = file.to_str().expect("a plain path");
    let said = run("ffprobe", &["-v", "warning", "-show_entries", entry, "-of", "csv=p=0", path]);
    said.lines().flat_map(|line| line.split(',')).filter_map(|number| number.parse().ok()).collect()
}

fn files(below: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(below).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    found.sort();
    found
}

fn is_of(file: &Path, extensions: &[&str]) -> bool {
    file.extension().and_then(|extension| extension.to_str()).is_some_and(|of| extensions.contains(&of))
}

/// Decodes the whole file without a warning.
fn decodes(file: &Path) {
    let path = file.to_str().expect("a plain path");
    let muxer = if is_of(file, &["vtt", "srt"]) { "webvtt" } else { "null" };
    // Time stamps of cameras are uneven: without it FFmpeg complains of its own output.
    run("ffmpeg", &["-nostdin", "-v", "warning", "-xerror", "-i", path, "-enc_time_base", "-1", "-f", muxer, "-"]);
}

/// Seconds of sound that a player gives out.
fn heard_s(file: &Path) -> f64 {
    let path = file.to_str().expect("a plain path");
    let raw = ["-nostdin", "-v", "error", "-i", path, "-vn", "-ac", "1", "-ar", "48000", "-f", "s16le", "-"];
    Command::new("ffmpeg").args(raw).output().expect("ffmpeg").stdout.len() as f64 / 96_000.0
}

/// Opens and decodes every file; those that last are as long as what was rendered.
fn are_whole(files: &[PathBuf], length_s: f64) {
    for file in files {
        if is_of(file, &["mp4", "webm", "m4a", "mp3", "ogg", "mka", "jpg", "srt", "m3u8"]) {
            decodes(file);
        }
        if file.components().any(|part| part.as_os_str() == "tracks") || is_of(file, &["jpg", "srt", "vtt", "m3u8"]) {
            continue;
        }
        // A frame of the composite takes 100 ms, one of MP3 24; what decoders drop of MP3 and Opus is counted.
        let length = probe(file, "format=duration");
        assert!((length[0] - length_s).abs() < 0.101, "{}: {length:?} s, not {length_s}", file.display());
        if is_of(file, &["mp3", "ogg", "webm", "m4a"]) {
            // To the sample, as far as the length is told; FFmpeg plays the last frame of AAC to its end.
            let most = if is_of(file, &["m4a"]) { 0.0224 } else { 0.001 };
            let heard = heard_s(file);
            assert!((-0.001..most).contains(&(heard - length_s)), "{}: {heard} s, not {length_s}", file.display());
        }
        let starts = probe(file, "stream=start_time");
        assert!(starts.iter().all(|start| start.abs() < 0.033), "{}: begins at {starts:?}", file.display());
    }
}

/// Every cue of the storyboard shows a picture that is on its sheet; how many there are.
fn sprites(text: &Path) -> usize {
    let told = std::fs::read_to_string(text).expect("text");
    assert!(told.starts_with("WEBVTT\n"), "{told}");
    let shown = told.lines().filter_map(|line| line.split_once("#xywh="));
    let mut count = 0;
    for (sheet, place) in shown {
        let size = probe(&text.with_file_name(sheet), "stream=width,height");
        let place: Vec<f64> = place.split(',').map(|number| number.parse().expect("a number")).collect();
        let [x, y, width, height] = place[..] else { panic!("{place:?}") };
        assert!(x + width <= size[0] && y + height <= size[1] && width > 0.0 && height > 0.0, "{place:?} of {size:?}");
        count += 1;
    }
    count
}

/// A capture of which somebody has written down what is said.
fn captioned(folder: &Path) -> PathBuf {
    let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/media");
    let mut events = std::fs::read_to_string(media.join("four-codecs.events.jsonl")).expect("the events of a capture");
    let start: i64 = events[9..25].parse().expect("microseconds");
    let close = events.find("\"room_closed\"").and_then(|at| events[..at].rfind("{\"t_us\"")).expect("an end");
    let cues = [(2_000_000, "amara", "guten Morgen"), (4_000_000, "bjorn", "1 < 2 & so on")].map(|(at, peer, text)| {
        format!(
            "{{\"t_us\": {}, \"type\": \"transcript_cue\", \"peer_id\": \"{peer}\", \"text\": \"{text}\", \"duration_ms\": 1500}}\n",
            start + at
        )
    });
    let (told, end) = events.split_at(close);
    let mut lines: Vec<_> = told.lines().map(|line| format!("{line}\n")).chain(cues).collect();
    lines.sort_by_key(|line| line[9..25].parse::<i64>().expect("microseconds"));
    events = lines.concat() + end;
    let file = folder.join("events.jsonl");
    std::fs::write(&file, events).expect("room");
    file
}

/// A background picture, a watermark and a clock.
fn look(folder: &Path) -> PathBuf {
    let picture = folder.join("back.png");
    let path = picture.to_str().expect("a plain path");
    let size = "color=0x203050:s=64x36,format=rgb24,drawbox=x=8:y=8:w=48:h=20:color=0x806020:t=fill";
    run("ffmpeg", &["-nostdin", "-v", "warning", "-f", "lavfi", "-i", size, "-frames:v", "1", "-update", "1", path]);
    let picture = base64(&std::fs::read(&picture).expect("a picture"));
    let look = format!(
        r#"{{"backdrop": "data:image/png;base64,{picture}", "watermark": {{"text": "roomreel", "corner": "bottom_right"}},
            "clock": {{"shows": "elapsed", "corner": "top_right"}}}}"#
    );
    let file = folder.join("look.json");
    std::fs::write(&file, look).expect("room");
    file
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let chunk = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..4)
            .map(|place| match place <= chunk.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * place)) as usize % 64]),
                false => '=',
            })
            .collect::<String>()
    };
    bytes.chunks(3).map(chunk).collect()
}

#[test]
fn everything_is_made_and_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/media");
    let (capture, events) = (path(&media.join("four-codecs.pcap")), path(&captioned(folder.path())));
    let (look, place) = (path(&look(folder.path())), path(&out));
    let small = ["--width", "320", "--height", "180", "--fps", "10", "--sandbox", "required", "--look", look.as_str()];
    let outputs = "hls,mp4,webm,m4a,mp3,ogg,thumbnails,storyboard,captions";
    let all = ["--outputs", outputs, "--tracks", "playable,mjr,rtpdump"];
    let demo = ["demo", "--speed", "4", "--out", &place, "--capture", &capture, "--events", &events];
    roomreel(&[&demo[..], &small, &all].concat());
    let recording = files(&out).into_iter().find(|file| file.ends_with("recording.json")).expect("a recording");
    let document = std::fs::read_to_string(&recording).expect("text");
    let length =
        document.split("\"duration_ms\":").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    let length: f64 = length.and_then(|ms| ms.parse().ok()).expect("a length");
    let recording = recording.parent().expect("a folder").to_owned();
    let composite = |name: &str| recording.join("composites").join(name);
    let made = files(&composite("grid"));
    let named = |files: &[PathBuf]| {
        let name = |file: &PathBuf| file.file_name().expect("a name").to_string_lossy().into_owned();
        files.iter().map(name).filter(|name| !name.ends_with(".m4s")).collect::<Vec<_>>()
    };
    let expected = [
        "audio.m4a",
        "audio.mp3",
        "audio.ogg",
        "captions.srt",
        "captions.vtt",
        "composite.mp4",
        "composite.webm",
        "init.mp4",
        "live.m3u8",
        "storyboard-000.jpg",
        "storyboard.vtt",
        "percent-000.jpg",
        "percent-025.jpg",
        "percent-050.jpg",
        "percent-075.jpg",
        "percent-100.jpg",
    ];
    assert_eq!(named(&made), expected);
    let rest = |files: &[PathBuf]| -> Vec<_> {
        files.iter().filter(|file| !is_of(file, &["m4s"]) && !file.ends_with("init.mp4")).cloned().collect()
    };
    are_whole(&rest(&made), length / 1000.0);
    let tracks = files(&recording.join("tracks"));
    assert!(tracks.iter().filter(|file| is_of(file, &["webm", "mp4", "mka"])).count() >= 8, "{tracks:?}");
    are_whole(&tracks, 0.0);
    assert_eq!(sprites(&composite("grid/storyboard.vtt")) as f64, (length / 10_000.0).ceil(), "one every 10 s");
    let captions = std::fs::read_to_string(composite("grid/captions.vtt")).expect("text");
    let said = "00:00:02.000 --> 00:00:03.500\n<v Amara>guten Morgen";
    assert!(captions.contains(said) && captions.contains("1 &lt; 2 &amp; so on"), "{captions}");

    // A stretch of it again, in another layout and shape.
    let target = path(&recording);
    let upright =
        ["--width", "180", "--height", "320", "--fps", "10", "--sandbox", "required", "--look", look.as_str()];
    let cut = ["render", &target, "--id", "cut", "--layout", "speaker-light", "--from", "3s", "--to", "6.3"];
    let late = ["--outputs", outputs, "--tracks", "playable"];
    let told = roomreel(&[&cut[..], &upright, &late].concat());
    assert!(told.contains("state      COMPLETE") && told.contains("composites/cut/composite.webm"), "{told}");
    let made: Vec<_> = files(&composite("cut")).into_iter().filter(|file| !is_of(file, &["json"])).collect();
    assert_eq!(named(&made), expected);
    let made = rest(&made);
    are_whole(&made, 3.3);
    let captions = std::fs::read_to_string(composite("cut/captions.vtt")).expect("text");
    assert!(captions.contains("00:00:00.000 --> 00:00:00.500\n<v Amara>"), "{captions}");
    assert!(captions.contains("00:00:01.000 --> 00:00:02.500\n<v Bj"), "{captions}");
}
