//! Reads the events beside a capture: one JSON object a line.
//!
//! Owns the schema. A line that cannot be read is named and left out; the others count.

use std::collections::BTreeMap;
use std::io::{BufRead, Read as _};

use roomreel_shared::time::RoomTime;
use serde::Deserialize;

use super::Error;

/// Longest line.
const MAX_LINE_BYTES: u64 = 64 * 1024;
/// Most lines of a file.
const MAX_LINES: usize = 1_000_000;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Stamped {
    /// On the clock of the packets.
    pub time: RoomTime,
    /// What happened.
    pub line: Line,
}

#[derive(Debug, Deserialize)]
struct Wire {
    t_us: i64,
    #[serde(flatten)]
    line: Line,
}

/// What happened, as the file has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields are those of the file")]
pub enum Line {
    RoomCreated {
        room_id: String,
        #[serde(default)]
        room_name: String,
    },
    RoomClosed {
        #[serde(default)]
        reason: String,
    },
    PeerJoined {
        peer_id: String,
        #[serde(default)]
        display_name: String,
        #[serde(default)]
        is_host: bool,
    },
    PeerLeft {
        peer_id: String,
        #[serde(default)]
        reason: String,
    },
    ProducerCreated(Announced),
    ProducerPaused {
        peer_id: String,
        kind: Kind,
    },
    ProducerResumed {
        peer_id: String,
        kind: Kind,
    },
    Speaking {
        peer_id: String,
        #[serde(default = "silence")]
        level_dbov: f64,
    },
    StoppedSpeaking {
        peer_id: String,
    },
    TranscriptCue {
        peer_id: String,
        text: String,
        duration_ms: u32,
        #[serde(default)]
        language: String,
    },
    #[serde(other)]
    Unknown,
}

fn silence() -> f64 {
    -127.0
}

/// Audio or video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Audio,
    Video,
}

/// A producer as the file announces it: one RTP stream.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of the file")]
pub struct Announced {
    pub peer_id: String,
    pub producer_id: String,
    pub kind: Kind,
    pub udp_source_port: u16,
    pub ssrc: u32,
    #[serde(default)]
    pub rid: Option<String>,
    pub payload_type: u8,
    pub codec: String,
    pub clock_rate: u32,
    #[serde(default)]
    pub channels: u8,
    #[serde(default)]
    pub fmtp: String,
    #[serde(default)]
    pub is_screenshare: bool,
    #[serde(default)]
    pub header_extensions: BTreeMap<String, String>,
}

/// Reads all lines, in the order of time; what cannot be read is in the second list.
pub fn read(mut reader: impl BufRead, name: &str) -> (Vec<Stamped>, Vec<Error>) {
    let (mut events, mut problems) = (Vec::new(), Vec::new());
    for number in 1..=MAX_LINES {
        let problem = |why: String| Error::Event { path: name.to_owned(), line: number, why };
        let mut line = Vec::new();
        match reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(length) if length as u64 == MAX_LINE_BYTES => {
                problems.push(problem(format!("it is longer than {MAX_LINE_BYTES} bytes; nothing after it is read")));
                break;
            }
            Ok(_) => {}
            Err(source) => {
                problems.push(Error::Read { path: name.to_owned(), source });
                break;
            }
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice::<Wire>(line) {
            Ok(wire) => events.push(Stamped { time: RoomTime::from_micros(wire.t_us), line: wire.line }),
            // The parser counts lines of what it is given, which is one.
            Err(error) => problems.push(problem(error.to_string().replace("at line 1 column", "at column"))),
        }
    }
    events.sort_by_key(|event| event.time);
    (events, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_cannot_be_read_is_named_and_left_out() {
        let file = r#"{"t_us": 5, "type": "peer_left", "peer_id": "a"}

{"t_us": 4, "type": "dance_started"}
{"t_us": 6, "type": "producer_created", "peer_id": "a", "producer_id": "p", "kind": "video", "udp_source_port": 70000}
{"t_us": 3, "type": "room_created", "room_id": "r", "later_field": 1}
{"t_us": 7, "type": "room_clo"#;
        let (events, problems) = read(file.as_bytes(), "x.jsonl");
        let times: Vec<i64> = events.iter().map(|event| event.time.as_micros()).collect();
        assert_eq!(times, [3, 4, 5]);
        assert_eq!(events[1].line, Line::Unknown);
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("x.jsonl") && lines[0].contains("line 4"), "{}", lines[0]);
        assert!(lines[1].contains("line 6: EOF while parsing a string at column 29"), "{}", lines[1]);
    }
}
