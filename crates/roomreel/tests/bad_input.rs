//! Input that is damaged, misspelt or not there, given to the binary: one line that names it and says what to do, no secret
//! in it, and what is whole is still used.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

const SECRET: &str = "hunter2";

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomreel"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROOMREEL_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(environment.iter().copied()).env("RUST_BACKTRACE", "1").output().expect("it runs")
}

/// The one line that the command ends with.
fn one_line_error(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = run(arguments, environment);
    let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    assert!(said.starts_with("roomreel: ") && !said.contains('\n') && said.len() < 400, "{arguments:?}: {said}");
    assert!(!said.contains("backtrace") && !said.contains("panicked"), "{arguments:?}: {said}");
    assert!(!said.contains(SECRET), "{arguments:?}: {said}");
    said
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("the folder can be written");
    path.to_str().expect("a plain path").to_owned()
}

const SECONDS: u32 = 2;
const PACKETS: u32 = SECONDS * 50;
const SSRC: u32 = 0x1234;
const PORT: u16 = 40_000;

/// A capture of raw IP: a participant who is silent in Opus for [`SECONDS`].
fn capture() -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 101_u32] {
        file.extend(word.to_le_bytes());
    }
    for number in 0..PACKETS {
        let mut rtp = vec![0x80, 111];
        rtp.extend((number as u16).to_be_bytes());
        rtp.extend((number * 960).to_be_bytes());
        rtp.extend(SSRC.to_be_bytes());
        rtp.extend([0xf8, 0xff, 0xfe]);
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend(PORT.to_be_bytes());
        packet.extend([0x13, 0x88]);
        packet.extend((rtp.len() as u16 + 8).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(rtp);
        let length = packet.len() as u32;
        for word in [1_700_000_000 + number / 50, number % 50 * 20_000, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(packet);
    }
    file
}

/// What happened in the captured room; `broken` stands as its second line.
fn events(broken: &str) -> String {
    let start = 1_700_000_000_000_000_u64;
    let mut text = String::new();
    for line in [
        format!(r#"{{"t_us": {start}, "type": "room_created", "room_id": "cut"}}"#),
        broken.to_owned(),
        format!(r#"{{"t_us": {start}, "type": "peer_joined", "peer_id": "a", "is_host": true}}"#),
        format!(
            r#"{{"t_us": {start}, "type": "producer_created", "peer_id": "a", "producer_id": "mic", "kind": "audio",
               "udp_source_port": {PORT}, "ssrc": {SSRC}, "payload_type": 111, "codec": "opus", "clock_rate": 48000}}"#
        )
        .replace('\n', ""),
        format!(r#"{{"t_us": {}, "type": "room_closed"}}"#, start + u64::from(SECONDS) * 1_000_000),
    ] {
        writeln!(text, "{line}").expect("writing to a String cannot fail");
    }
    text
}

#[test]
fn of_a_capture_that_is_cut_off_everything_before_is_recorded() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = capture();
    let cut = write(folder.path(), "cut.pcap", &whole[..whole.len() - 3]);
    let events = write(folder.path(), "cut.jsonl", events("{\"t_us\": 5, \"type\": \"peer_jo"));
    let out = folder.path().join("out").to_str().expect("a plain path").to_owned();
    let small = ["--width=320", "--height=180", "--fps=10", "--speed=4"];
    let arguments = [&["demo", "--out", &out, "--capture", &cut, "--events", &events][..], &small].concat();
    let output = run(&arguments, &[]);
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{said}");
    assert!(told.contains(&format!("{} packets", PACKETS - 1)) && told.contains("composite.mp4"), "{told}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    for (line, expected) in lines.iter().zip([
        ["WARN", "cut.jsonl, line 2: EOF while parsing", "the line is left out"],
        ["WARN", "cut.pcap is cut off at byte", "everything before it is used"],
    ]) {
        assert!(expected.iter().all(|part| line.contains(part)), "{expected:?} is not in {line}");
    }
}

#[test]
fn files_that_are_something_else_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let song = write(folder.path(), "song.mp3", b"ID3\x03 la la la");
    let empty = write(folder.path(), "empty.pcap", b"");
    let room = write(folder.path(), "room.pcap", capture());
    let events = write(folder.path(), "room.jsonl", events(""));
    let out = folder.path().join("out").to_str().expect("a plain path").to_owned();
    let demo = |out: &str, capture: &str, events: &str| {
        one_line_error(&["demo", "--out", out, "--capture", capture, "--events", events], &[])
    };
    for (capture, events, parts) in [
        (&song, &events, ["song.mp3 is not a pcap, pcapng or rtpdump file", "49 44 33"]),
        (&empty, &events, ["empty.pcap is not a pcap", "nothing"]),
        (&events, &room, ["room.jsonl is not a pcap", "7b"]),
        (&room, &song, ["song.mp3 announces no producer", "are these the events of this capture?"]),
    ] {
        let said = demo(&out, capture, events);
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} are not in {said}");
    }
    let said = demo(&song, &room, &events);
    assert!(said.contains("song.mp3 refuses") && said.contains("name a directory that can be written to"), "{said}");
    let said = one_line_error(&["inspect", &room], &[]);
    assert!(said.contains("room.pcap: not a window object"), "{said}");
}

#[test]
fn a_misspelt_setting_is_named_without_its_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |text: &str, parts: &[&str]| {
        let file = write(folder.path(), "roomreel.toml", text);
        let said = one_line_error(&["ingest", "--store=file:///tmp", "--config", &file], &[]);
        assert!(said.contains("roomreel.toml") && parts.iter().all(|part| said.contains(part)), "{said}");
    };
    refused("nats_pasword = 'hunter2'", &["unknown key \"nats_pasword\"", "\"nats_password\"?"]);
    refused("shards = 4\nnats_password = 'hunter2", &["is not TOML: line 2"]);
    refused("nats_password = 'hunter2'\nnats_password = 'hunter2'", &["is not TOML: line 2: duplicate key"]);
    refused("[nats]\npassword = 'hunter2'", &["unknown key \"nats\""]);
    let said = one_line_error(&["ingest", "--store=s3://b"], &[("ROOMREEL_S3_SECRET_KY", SECRET)]);
    assert!(said.contains("ROOMREEL_S3_SECRET_KY; did you mean \"ROOMREEL_S3_SECRET_KEY\"?"), "{said}");
    for store in ["s3://user:hunter2@bucket", "https://user:hunter2@host/bucket"] {
        let said = one_line_error(&["inspect", "x/", "--store", store], &[]);
        assert!(said.contains("bucket"), "{said}");
    }
}
