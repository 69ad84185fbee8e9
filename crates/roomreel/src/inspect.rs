//! `roomreel inspect`: what is in a window object, or in all windows of a recording.
//!
//! Owns the summary and its two forms, text and JSON. Does not own repair, or the question whether slices are whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use futures::StreamExt as _;
use roomreel_shared::event::EventKind;
use roomreel_shared::verify::reason_name;
use roomreel_shared::window::{Gap, Hash, Missing, TrackKey, Window};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::output::{self, Lines};
use crate::recording_files::RecordingFiles;
use crate::settings::StoreArgs;

/// Arguments of `roomreel inspect`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  roomreel inspect 00000003.win
  roomreel inspect out/demo/default/rooms/demo/recordings/01kaj0…
  roomreel inspect acme/rooms/standup/recordings/01kaj0…/ --store s3://recordings --json

Exits with 1 if a window cannot be read or the chain of windows is broken.")]
pub struct InspectArgs {
    /// A window object, a directory of a recording, or (with --store) its prefix in the bucket, or its id.
    #[arg(value_name = "WINDOW|RECORDING")]
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

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    tenant: String,
    room: String,
    recording: String,
    /// Length on the room's clock so far, or in all once it has ended.
    duration_ms: u64,
    /// The last window says that it is the last.
    finished: bool,
    windows: Vec<WindowReport>,
    tracks: Vec<TrackReport>,
    gaps: Vec<GapReport>,
    /// What is wrong with the objects or their chain.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct WindowReport {
    window: u64,
    bytes: usize,
    epoch: u64,
    hash: String,
    log_start: String,
    log_end: String,
    segments: usize,
    packets: u64,
    events: Vec<String>,
    gaps: usize,
    end: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct TrackReport {
    sfu: String,
    track: String,
    peer: Option<String>,
    codec: Option<String>,
    segments: u64,
    batches: u64,
    packets: u64,
    invalid_packets: u64,
    late_batches: u64,
    bytes: u64,
    first_ms: i64,
    last_ms: i64,
    keyframes_ms: Vec<i64>,
    missing_packets: u64,
    lost_in_network: u64,
}

#[derive(Debug, Serialize)]
struct GapReport {
    window: u64,
    sfu: String,
    track: String,
    reason: &'static str,
    from_ms: i64,
    to_ms: i64,
    what: String,
}

/// Runs the command; `false` if something is wrong with the windows.
///
/// # Errors
/// If there is nothing to inspect, or it cannot be read at all.
pub async fn run(args: &InspectArgs) -> anyhow::Result<bool> {
    let mut summary = Summary::default();
    if args.store.is_given() || Path::new(&args.target).is_dir() {
        let mut windows = RecordingFiles::open(&args.target, &args.store).await?.windows().await?;
        while let Some((key, object)) = windows.next().await {
            summary.add(key.as_str(), object.with_context(|| format!("read {key}"))?);
        }
    } else {
        let object = std::fs::read(&args.target)
            .with_context(|| format!("read {}; for a recording in a bucket give --store as well", args.target))?;
        summary.add(&args.target, object.into());
    }
    let report = summary.finish()?;
    output::print(if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { text(&report) })?;
    Ok(report.problems.is_empty())
}

/// The report while windows are being read; keeps counts, not media.
#[derive(Debug, Default)]
struct Summary {
    report: Option<Report>,
    tracks: BTreeMap<TrackKey, TrackReport>,
    last: Option<(u64, Hash)>,
    problems: Vec<String>,
}

impl Summary {
    fn add(&mut self, name: &str, object: Bytes) {
        match Window::parse(object) {
            Ok(window) => self.add_window(name, &window),
            Err(error) => self.problems.push(format!("{name}: {error}")),
        }
    }

    fn add_window(&mut self, name: &str, window: &Window) {
        let header = &window.header;
        if let Some((last, hash)) = self.last {
            if header.window != last + 1 {
                self.problems.push(format!("{name}: window {} follows window {last}", header.window));
            } else if header.previous != Some(hash) {
                self.problems.push(format!("{name}: it names another object than window {last} as the one before it"));
            }
        }
        let hash = window.hash();
        self.last = Some((header.window, hash));
        let room_ms = |time: roomreel_shared::time::RoomTime| time.micros_since(header.room_start) / 1000;
        for segment in &window.segments {
            let track = self.tracks.entry(segment.key.clone()).or_default();
            match window.batches(segment) {
                Ok(batches) => {
                    self.problems.extend(batches.filter_map(Result::err).map(|error| format!("{name}: {error}")));
                }
                Err(error) => self.problems.push(format!("{name}: {error}")),
            }
            if track.segments == 0 {
                track.first_ms = room_ms(segment.first_time);
            }
            track.segments += 1;
            track.batches += u64::from(segment.batches);
            track.packets += u64::from(segment.packets);
            track.invalid_packets += u64::from(segment.invalid_packets);
            track.late_batches += u64::from(segment.late_batches);
            track.bytes += segment.range.len() as u64;
            track.last_ms = room_ms(segment.last_time);
            track.keyframes_ms.extend(segment.keyframes.iter().map(|keyframe| room_ms(keyframe.time)));
        }
        for state in &header.carry_over.tracks {
            let found = self
                .tracks
                .iter_mut()
                .find(|(key, _)| key.sfu.as_str() == state.sfu_id && key.track.as_str() == state.track_id);
            if let (Some((_, track)), Some(producer)) = (found, &state.producer) {
                track.peer = Some(producer.peer_id.clone());
                track.codec = producer.codecs.first().map(|codec| codec.name.clone());
            }
        }
        let report = self.report.get_or_insert_with(|| Report {
            tenant: header.tenant.to_string(),
            room: header.room.to_string(),
            recording: header.recording.to_string(),
            duration_ms: 0,
            finished: false,
            windows: Vec::new(),
            tracks: Vec::new(),
            gaps: Vec::new(),
            problems: Vec::new(),
        });
        if report.recording != header.recording.as_str() || report.room != header.room.as_str() {
            self.problems.push(format!("{name}: it is of recording {} of room {}", header.recording, header.room));
        }
        let until = header.end.map_or(header.room_seen, |end| end.room_end);
        report.duration_ms = until.saturating_since(header.room_start).as_millis().try_into().unwrap_or(u64::MAX);
        report.finished = header.end.is_some();
        for gap in &header.gaps {
            let track = self.tracks.entry(gap.key.clone()).or_default();
            let (reason, count, what) = describe(gap);
            match gap.missing {
                Missing::Network { .. } => track.lost_in_network += count,
                Missing::Accepted { .. } => track.missing_packets += count,
            }
            report.gaps.push(GapReport {
                window: header.window,
                sfu: gap.key.sfu.to_string(),
                track: gap.key.track.to_string(),
                reason,
                from_ms: room_ms(gap.span.0),
                to_ms: room_ms(gap.span.1),
                what,
            });
        }
        report.windows.push(WindowReport {
            window: header.window,
            bytes: window.object().len(),
            epoch: header.epoch,
            hash: hash.to_string(),
            log_start: timestamp(header.log_span.0.as_micros()),
            log_end: timestamp(header.log_span.1.as_micros()),
            segments: window.segments.len(),
            packets: window.segments.iter().map(|segment| u64::from(segment.packets)).sum(),
            events: window.events.iter().map(|stored| name_of(&stored.event.kind).to_owned()).collect(),
            gaps: header.gaps.len(),
            end: header.end.map(|end| format!("{:?}", end.reason)),
        });
    }

    fn finish(self) -> anyhow::Result<Report> {
        let Some(mut report) = self.report else {
            bail!("{}", self.problems.join("; "));
        };
        report.tracks = self
            .tracks
            .into_iter()
            .map(|(key, track)| TrackReport { sfu: key.sfu.to_string(), track: key.track.to_string(), ..track })
            .collect();
        report.problems = self.problems;
        Ok(report)
    }
}

/// A gap's reason, how many packets it is known to span, and what is missing in words.
fn describe(gap: &Gap) -> (&'static str, u64, String) {
    let count = |first: u64, last: u64| last.saturating_sub(first).saturating_add(1);
    match &gap.missing {
        Missing::Network { ssrc, sequences: (first, last) } => {
            ("network", count(*first, *last), format!("RTP sequence {first} to {last} of SSRC {}", ssrc.0))
        }
        Missing::Accepted { reason, batches: (first_batch, last_batch), packets: (first, last) } => {
            let packets = match last {
                Some(last) => format!("packets {first} to {last}"),
                None => format!("packets from {first} on"),
            };
            let known = last.map_or(0, |last| count(*first, last));
            (reason_name(*reason), known, format!("batches {first_batch} to {last_batch}, {packets}"))
        }
    }
}

fn name_of(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::RoomCreated { .. } => "room_created",
        EventKind::RoomClosed { .. } => "room_closed",
        EventKind::RoomPolicyUpdated { .. } => "room_policy_updated",
        EventKind::PeerJoined { .. } => "peer_joined",
        EventKind::PeerLeft { .. } => "peer_left",
        EventKind::ProducerCreated(_) => "producer_created",
        EventKind::ProducerClosed { .. } => "producer_closed",
        EventKind::ProducerPaused { .. } => "producer_paused",
        EventKind::ProducerResumed { .. } => "producer_resumed",
        EventKind::ActiveSpeaker { .. } => "active_speaker",
        EventKind::TranscriptCue { .. } => "transcript_cue",
        EventKind::PublisherGap(_) => "publisher_gap",
        EventKind::RecordingStarted { .. } => "recording_started",
        EventKind::RecordingStopped { .. } => "recording_stopped",
        EventKind::RecordingPaused { .. } => "recording_paused",
        EventKind::RecordingResumed { .. } => "recording_resumed",
        EventKind::LayoutChanged { .. } => "layout_changed",
        EventKind::Tick => "tick",
    }
}

fn timestamp(micros: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{micros} µs"))
}

fn seconds(ms: i64) -> String {
    format!("{:.1}", ms as f64 / 1000.0)
}

fn text(report: &Report) -> String {
    let mut out = Lines::default();
    let mut line = |text: String| out.push(text);
    line(format!("recording {} of room {} ({})", report.recording, report.room, report.tenant));
    let state = if report.finished { "ended" } else { "not ended" };
    let windows = report.windows.len();
    line(format!("{windows} window(s), {} s on the room's clock, {state}", seconds(report.duration_ms.cast_signed())));
    line(String::new());
    line("window       bytes  epoch  segments  packets  gaps  events".to_owned());
    for w in &report.windows {
        let mut events: BTreeMap<&str, usize> = BTreeMap::new();
        for event in &w.events {
            *events.entry(event).or_default() += 1;
        }
        let events: Vec<_> = events
            .into_iter()
            .map(|(name, count)| if count == 1 { name.to_owned() } else { format!("{name}×{count}") })
            .collect();
        line(format!(
            "{:>6} {:>11} {:>6} {:>9} {:>8} {:>5}  {}",
            w.window,
            w.bytes,
            w.epoch,
            w.segments,
            w.packets,
            w.gaps,
            events.join(" ")
        ));
    }
    line(String::new());
    line("track                            peer              codec   packets     bytes  from s    to s  keyframes  missing  lost".to_owned());
    for t in &report.tracks {
        line(format!(
            "{:<32} {:<17} {:<6} {:>8} {:>9} {:>7} {:>7} {:>10} {:>8} {:>5}",
            format!("{}/{}", t.sfu, t.track),
            t.peer.as_deref().unwrap_or("-"),
            t.codec.as_deref().unwrap_or("-"),
            t.packets,
            t.bytes,
            seconds(t.first_ms),
            seconds(t.last_ms),
            t.keyframes_ms.len(),
            t.missing_packets,
            t.lost_in_network,
        ));
    }
    if !report.gaps.is_empty() {
        line(String::new());
        line("gaps".to_owned());
    }
    for g in &report.gaps {
        let (from, to) = (seconds(g.from_ms), seconds(g.to_ms));
        line(format!("  window {} {}/{}: {} ({}), {from} s to {to} s", g.window, g.sfu, g.track, g.what, g.reason));
    }
    if !report.problems.is_empty() {
        line(String::new());
        line("problems".to_owned());
    }
    for problem in &report.problems {
        line(format!("  {problem}"));
    }
    out.into_text()
}
