//! A capture of a real room, four browsers with a codec each, through the binary to a composite that FFmpeg reads.

use std::path::{Path, PathBuf};
use std::process::Command;

fn media(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/media").join(name)
}

fn ffmpeg(arguments: &[&str]) -> String {
    let output = Command::new("ffmpeg").args(arguments).output().expect("ffmpeg runs (apt-get install ffmpeg)");
    assert!(output.status.success(), "ffmpeg {arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Edges in a quarter of a picture near the end: a placeholder is flat, a person in a room is not.
fn detail(file: &str, corner: &str) -> f64 {
    let filter = format!(
        "crop=iw/2-60:ih/2-60:{corner},edgedetect,signalstats,metadata=print:key=lavfi.signalstats.YAVG:file=-"
    );
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-ss", "12.5", "-i", file, "-frames:v", "1", "-an", "-vf", &filter, "-f", "null", "-"])
        .output()
        .expect("ffmpeg runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = text.lines().find_map(|line| line.split_once("YAVG=")).expect("one picture").1;
    value.parse().expect("a number")
}

#[test]
fn a_real_room_of_four_codecs_is_seen_and_heard() {
    let out = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomreel"));
    command.args(["demo", "--speed", "4", "--out"]).arg(out.path());
    command.arg("--capture").arg(media("four-codecs.pcap")).arg("--events").arg(media("four-codecs.events.jsonl"));
    let output = command.output().expect("it runs");
    let (told, logged) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{logged}");
    assert!(!logged.contains("WARN") && !logged.contains("ERROR"), "{logged}");
    let file = told.lines().last().expect("the path of the composite");

    assert_eq!(ffmpeg(&["-v", "warning", "-xerror", "-i", file, "-f", "null", "-"]).trim(), "");
    for corner in ["30:30", "iw/2+30:30", "30:ih/2+30", "iw/2+30:ih/2+30"] {
        let detail = detail(file, corner);
        assert!(detail > 1.2, "{corner} of the picture is flat: {detail}");
    }
    let volume = ffmpeg(&["-i", file, "-vn", "-af", "volumedetect", "-f", "null", "-"]);
    let loudest = volume.lines().find_map(|line| line.split_once("max_volume: ")).expect("there is sound").1;
    let decibels: f64 = loudest.trim_end_matches(" dB").parse().expect("a number");
    assert!(decibels > -20.0, "nobody is heard: {decibels} dB");
}
