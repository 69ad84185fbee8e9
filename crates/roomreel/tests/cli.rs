//! The binary as a user meets it: help, precedence of settings, and errors that name the thing and say what to do.

use std::path::Path;
use std::process::{Command, Output};

fn roomreel(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomreel"));
    command.args(arguments).env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").env("COLUMNS", "100");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROOMREEL_") {
            command.env_remove(name);
        }
    }
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

/// Runs to the end, which has to be an error told in one line, and gives that line.
fn one_line_error(command: &mut Command) -> String {
    let output = command.output().expect("the binary runs");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("roomreel: ") && !said.contains('\n') && !said.contains("backtrace"), "{said}");
    said
}

fn file(directory: &Path, text: &str) -> String {
    let path = directory.join("roomreel.toml");
    std::fs::write(&path, text).expect("the folder can be written");
    path.to_str().expect("a plain path").to_owned()
}

#[test]
fn help_names_every_command() {
    let output = roomreel(&["--help"]).output().expect("the binary runs");
    assert!(output.status.success());
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        commands,
        [
            "ingest",
            "coordinator",
            "compositor",
            "dev",
            "publish",
            "record",
            "stop",
            "status",
            "render",
            "token",
            "inspect",
            "export",
            "verify",
            "rebuild",
            "clean",
            "demo",
            "help"
        ]
    );
    for command in commands.iter().filter(|command| **command != "help") {
        let output = roomreel(&[command, "--help"]).output().expect("the binary runs");
        let help = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && help.contains("Example"), "{command}: {help}");
        assert!(help.contains("[env: ROOMREEL_"), "{command} says how a setting is named in the environment");
    }
}

#[test]
fn flag_wins_over_environment_over_file_over_default() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = file(folder.path(), "api_url = 'http://127.0.0.1:3'");
    let asked = |arguments: &[&str], variable: Option<&str>| {
        let mut command = roomreel(&["status"]);
        command.args(arguments);
        if let Some(value) = variable {
            command.env("ROOMREEL_API_URL", value);
        }
        one_line_error(&mut command)
    };
    let (flag, variable) = ("http://127.0.0.1:1", "http://127.0.0.1:2");
    assert!(asked(&["--api-url", flag, "--config", &file], Some(variable)).contains(":1;"));
    assert!(asked(&["--config", &file], Some(variable)).contains(":2;"));
    assert!(asked(&["--config", &file], None).contains(":3;"));
}

#[test]
fn unknown_settings_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let unknown = file(folder.path(), "nats_uri = 'nats://x'");
    let said = one_line_error(roomreel(&["ingest", "--config", &unknown]).arg("--store=file:///tmp"));
    assert!(said.contains("unknown key \"nats_uri\"; did you mean \"nats_url\"?"), "{said}");

    let said = one_line_error(roomreel(&["status"]).env("ROOMREEL_API_URI", "http://x"));
    assert!(said.contains("ROOMREEL_API_URI; did you mean \"ROOMREEL_API_URL\"?"), "{said}");

    let said = one_line_error(&mut roomreel(&["status", "--config", "/nonexistent/roomreel.toml"]));
    assert!(said.contains("/nonexistent/roomreel.toml"), "{said}");

    let output = roomreel(&["status", "--api-uri", "x"]).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--api-url"), "{}", stderr(&output));
}

#[test]
fn values_are_checked_by_name() {
    for (arguments, name, why) in [
        (&["ingest", "--shards", "0"][..], "--shards", "1..=1024"),
        (&["ingest", "--drain-limit", "5"], "--drain-limit", "it has no unit"),
        (&["demo", "--out", "x", "--speed", "0"], "--speed", "between 0.1 and 100"),
        (&["demo", "--out", "x", "--capture", "x.pcap"], "--events", "required"),
        (&["record", ""], "ROOM", "empty"),
        (&["status", "--date", "2026-02-30"], "--date", "yyyy-mm-dd"),
    ] {
        let output = roomreel(arguments).output().expect("the binary runs");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(name) && said.contains(why), "{said}");
    }
}

#[test]
fn what_is_not_there_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = format!("--store=file://{}", folder.path().display());
    let said = one_line_error(&mut roomreel(&["ingest", &store, "--nats-url", "nats://127.0.0.1:1"]));
    assert!(said.contains("nats_url") && said.contains("127.0.0.1:1"), "{said}");

    let said = one_line_error(&mut roomreel(&["publish", "--nats-url", "nats://user:hunter2@127.0.0.1:1"]));
    assert!(said.contains("127.0.0.1:1") && !said.contains("hunter2"), "{said}");

    let said = one_line_error(&mut roomreel(&["inspect", "x/", "--store", "gopher://x"]));
    assert!(said.contains("gopher://x") && said.contains("s3://BUCKET"), "{said}");

    let folder_name = folder.path().to_str().expect("a plain path");
    let said = one_line_error(&mut roomreel(&["demo", "--out", folder_name, "--layout", "no-such-layout"]));
    assert!(said.contains("no-such-layout") && said.contains("presentation"), "{said}");

    for command in ["verify", "render"] {
        let said = one_line_error(&mut roomreel(&[command, "/nonexistent"]));
        assert!(said.contains("no directory /nonexistent") && said.contains("--store"), "{said}");
        let said = one_line_error(&mut roomreel(&[command, folder_name]));
        assert!(said.contains(folder_name) && said.contains("TENANT/rooms/ROOM/recordings/RECORDING"), "{said}");
    }
    for arguments in [&["verify", "01r"][..], &["render", "01r"], &["inspect", "01r"], &["export", "01r", "--out=x"]] {
        let said = one_line_error(roomreel(arguments).arg(&store));
        assert!(said.contains("no recording 01r in the store"), "{said}");
    }
    for command in ["clean", "rebuild"] {
        let said = one_line_error(&mut roomreel(&[command]));
        assert!(said.contains("no store is named"), "what was left out is told before what does not answer: {said}");
    }
    let said = one_line_error(&mut roomreel(&["status", "--api-url", "recorder.example.com:8080"]));
    assert!(said.contains("recorder.example.com:8080") && said.contains("http://HOST:PORT"), "{said}");

    let said = one_line_error(&mut roomreel(&["inspect", "/nonexistent.win"]));
    assert!(said.contains("/nonexistent.win"), "{said}");

    let said =
        one_line_error(&mut roomreel(&["demo", "--out", "x", "--capture", "/nope.pcap", "--events", "/nope.jsonl"]));
    assert!(said.contains("/nope."), "{said}");
}

#[test]
fn a_bucket_that_does_not_exist_is_named() {
    use std::io::{Read as _, Write as _};
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", server.local_addr().expect("bound"));
    // Answers as S3 does to a request for a bucket that is not there; ends with the process.
    std::thread::spawn(move || {
        for connection in server.incoming() {
            let mut connection = connection.expect("a connection");
            let mut request = [0; 8192];
            let _ = connection.read(&mut request);
            let _ = connection.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let store =
        ["inspect", "x/", "--store", "s3://no-such-bucket", "--s3-access-key", "a", "--s3-secret-key", "hunter2"];
    let said = one_line_error(roomreel(&store).args(["--s3-endpoint", &endpoint]));
    assert!(said.contains("no-such-bucket") && !said.contains("hunter2"), "{said}");
    let said = one_line_error(roomreel(&store).args(["--s3-endpoint", "http://127.0.0.1:1"]));
    assert!(said.contains("127.0.0.1:1"), "{said}");
}

#[test]
fn inspect_tells_what_is_in_a_window() {
    let hex = include_str!("../../../proto/golden/window_v1.hex").trim();
    let object: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("00000001.win");
    std::fs::write(&path, &object).expect("the folder can be written");
    let path = path.to_str().expect("a plain path");

    let output = roomreel(&["inspect", path]).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    for expected in ["recording 01r of room standup (acme)", "ended", "tick", "batches 2 to 3, packets from 9 on (log)"]
    {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }

    let output = roomreel(&["inspect", path, "--json"]).output().expect("the binary runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["tracks"][0]["packets"], 2);
    assert_eq!(report["tracks"][0]["invalid_packets"], 1);
    assert_eq!(report["tracks"][0]["lost_in_network"], 2);
    assert_eq!(report["gaps"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["problems"], serde_json::json!([]));

    std::fs::write(path, &object[..object.len() - 1]).expect("the folder can be written");
    let said = one_line_error(&mut roomreel(&["inspect", path]));
    assert!(said.contains("it is cut off"), "{said}");
}
