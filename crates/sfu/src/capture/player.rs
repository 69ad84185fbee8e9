//! The second reading of a capture: packets and events as items of a source.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use roomreel_shared::batch::PacketData;
use roomreel_shared::event::EventKind;
use roomreel_shared::id::{self, PeerId, RoomId, TrackId};
use roomreel_shared::policy::Policy;
use roomreel_shared::rtcp::sender_reports;
use roomreel_shared::rtp::Ssrc;
use roomreel_shared::time::RoomTime;

use super::events::{self, Kind, Line, Stamped};
use super::frames::{Frame, Frames};
use super::speakers::Speakers;
use super::survey::{Media, frames, media, open, survey};
use super::tracks::Tracks;
use super::{CaptureOptions, Error, MAX_EARLY_BYTES, Summary};
use crate::source::{self, Source, SourceItem};

/// A capture as a source.
pub struct Capture {
    room: RoomId,
    policy: Policy,
    events_path: String,
    events: VecDeque<Stamped>,
    frames: Frames<BufReader<File>>,
    next_frame: Option<Frame>,
    tracks: Tracks,
    announced: Vec<TrackState>,
    early: BTreeMap<usize, Vec<(RoomTime, PacketData)>>,
    early_bytes: usize,
    speakers: Speakers,
    ready: VecDeque<Result<(RoomTime, SourceItem), source::Error>>,
    newest: RoomTime,
    room_closed: Option<(RoomTime, String)>,
    stage: Stage,
    duration: Duration,
    summary: Summary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrackState {
    Unannounced,
    Open,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Beginning,
    Playing,
    Ended,
}

impl Capture {
    /// Opens both files and surveys the packets.
    ///
    /// # Errors
    /// What makes the whole capture unusable. What makes a part of it unusable comes as an item while it plays.
    pub fn open(capture: &Path, events: &Path, options: CaptureOptions) -> Result<Self, Error> {
        let events_path = events.display().to_string();
        let (events, problems) = events::read(BufReader::new(open(events)?), &events_path);
        let id = |source| Error::Id { path: events_path.clone(), source };
        let survey = survey(frames(capture)?, &events);
        let tracks = Tracks::join(&events, &survey.streams).map_err(id)?;
        if tracks.all.is_empty() {
            return Err(Error::NoProducers { path: events_path });
        }
        let named = events.iter().find_map(|event| match &event.line {
            Line::RoomCreated { room_id, .. } => Some(room_id.clone()),
            _ => None,
        });
        let stem = || capture.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let room = match options.room {
            Some(room) => room,
            None => RoomId::new(named.unwrap_or_else(stem)).map_err(id)?,
        };
        let mut summary = survey.summary;
        summary.count(&tracks, &survey.streams);
        summary.unknown_events = events.iter().filter(|event| event.line == Line::Unknown).count() as u64;
        let packets = survey.span.map(|(first, last)| [first, last]);
        let times = events.iter().map(|event| event.time).chain(packets.into_iter().flatten());
        let (first, last) = (times.clone().min().unwrap_or_default(), times.max().unwrap_or_default());
        Ok(Self {
            room,
            policy: options.policy.unwrap_or(Policy { auto_record: true, ..Policy::default() }),
            events_path,
            events: events.into(),
            frames: frames(capture)?,
            next_frame: None,
            announced: vec![TrackState::Unannounced; tracks.all.len()],
            tracks,
            early: BTreeMap::new(),
            early_bytes: 0,
            speakers: Speakers::default(),
            ready: problems.into_iter().map(|error| Err(error.into())).collect(),
            newest: first,
            room_closed: None,
            stage: Stage::Beginning,
            duration: last.saturating_since(first),
            summary,
        })
    }

    /// What is in it.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    fn push(&mut self, time: RoomTime, event: EventKind) {
        self.ready.push_back(Ok((time, SourceItem::Event(event))));
    }

    /// Makes the next items ready, or ends.
    fn step(&mut self) {
        if self.next_frame.is_none() {
            match self.frames.next() {
                Some(Ok(frame)) => self.next_frame = Some(frame),
                Some(Err(error)) => self.ready.push_back(Err(error.into())),
                None => {}
            }
        }
        let is_event_next = match (self.events.front(), &self.next_frame) {
            (Some(event), Some(frame)) => event.time <= frame.time,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if self.stage == Stage::Beginning {
            self.stage = Stage::Playing;
            self.begin();
        } else if is_event_next {
            let event = self.events.pop_front().expect("looked at above");
            self.newest = self.newest.max(event.time);
            if let Err(source) = self.on_event(event) {
                self.ready.push_back(Err(Error::Id { path: self.events_path.clone(), source }.into()));
            }
        } else if let Some(frame) = self.next_frame.take() {
            self.newest = self.newest.max(frame.time);
            self.on_frame(&frame);
        } else {
            self.stage = Stage::Ended;
            let ended = || (self.newest, "the capture ended".to_owned());
            let (time, reason) = self.room_closed.take().unwrap_or_else(ended);
            self.push(time.max(self.newest), EventKind::RoomClosed { reason });
        }
    }

    fn begin(&mut self) {
        let is_creation = |event: &Stamped| matches!(event.line, Line::RoomCreated { .. });
        let created = if self.events.front().is_some_and(is_creation) { self.events.pop_front() } else { None };
        let frame_time = self.next_frame.as_ref().map(|frame| frame.time);
        let earliest = self.events.front().map(|event| event.time).into_iter().chain(frame_time).min();
        let time = created.as_ref().map(|event| event.time).or(earliest).unwrap_or_default();
        let name = match created.map(|event| event.line) {
            Some(Line::RoomCreated { room_name, room_id }) => {
                Some(room_name).filter(|name| !name.is_empty()).unwrap_or(room_id)
            }
            _ => self.room.to_string(),
        };
        let is_host = |event: &Stamped| match &event.line {
            Line::PeerJoined { peer_id, is_host: true, .. } => PeerId::new(peer_id.clone()).ok(),
            _ => None,
        };
        let host = self.policy.host_id.clone().or_else(|| self.events.iter().find_map(is_host));
        let policy = Policy { host_id: host.clone(), ..self.policy.clone() };
        let created =
            EventKind::RoomCreated { room_name: name, host, meeting_type: String::new(), policy: Some(policy) };
        self.push(time, created);
    }

    fn on_event(&mut self, event: Stamped) -> Result<(), id::Error> {
        let time = event.time;
        match event.line {
            Line::PeerJoined { peer_id, display_name, is_host } => {
                let peer = PeerId::new(peer_id)?;
                self.speakers.joined(peer.clone());
                let (is_co_host, is_panelist) = (false, false);
                self.push(time, EventKind::PeerJoined { peer, display_name, is_host, is_co_host, is_panelist });
            }
            Line::PeerLeft { peer_id, reason } => {
                let peer = PeerId::new(peer_id)?;
                for at in 0..self.tracks.all.len() {
                    let producer = &self.tracks.all[at].producer;
                    if producer.peer == peer && self.announced[at] == TrackState::Open {
                        let track = producer.track.clone();
                        self.announced[at] = TrackState::Closed;
                        self.push(time, EventKind::ProducerClosed { track, reason: reason.clone() });
                    }
                }
                self.push(time, EventKind::PeerLeft { peer: peer.clone(), reason });
                if let Some(speaker) = self.speakers.left(&peer) {
                    self.push(time, speaker);
                }
            }
            Line::ProducerCreated(announced) => {
                let at = self.tracks.of_stream(Some(announced.udp_source_port), Ssrc(announced.ssrc));
                let at = at.filter(|at| self.announced[*at] == TrackState::Unannounced);
                if let Some(at) = at {
                    self.announced[at] = TrackState::Open;
                    let producer = self.tracks.all[at].producer.clone();
                    let track = producer.track.clone();
                    self.push(time, EventKind::ProducerCreated(producer));
                    let early = self.early.remove(&at).unwrap_or_default();
                    self.early_bytes -= early.iter().map(|(_, data)| data.bytes().len()).sum::<usize>();
                    for (time, data) in early {
                        self.ready.push_back(Ok((time, SourceItem::Packet { track: track.clone(), data })));
                    }
                }
            }
            Line::ProducerPaused { peer_id, kind } => {
                self.for_tracks(time, peer_id, kind, |track| EventKind::ProducerPaused { track })?;
            }
            Line::ProducerResumed { peer_id, kind } => {
                self.for_tracks(time, peer_id, kind, |track| EventKind::ProducerResumed { track })?;
            }
            Line::Speaking { peer_id, level_dbov } => {
                if let Some(speaker) = self.speakers.speaking(PeerId::new(peer_id)?, level_dbov) {
                    self.push(time, speaker);
                }
            }
            Line::StoppedSpeaking { peer_id } => {
                if let Some(speaker) = self.speakers.stopped(&PeerId::new(peer_id)?) {
                    self.push(time, speaker);
                }
            }
            Line::TranscriptCue { peer_id, text, duration_ms, language } => {
                let (peer, end) = (PeerId::new(peer_id)?, time + Duration::from_millis(duration_ms.into()));
                self.push(time, EventKind::TranscriptCue { peer, text, start: time, end, language });
            }
            // Whatever packets the file still has belong to the room.
            Line::RoomClosed { reason } => self.room_closed = Some((time, reason)),
            Line::RoomCreated { .. } | Line::Unknown => {}
        }
        Ok(())
    }

    /// What happens to the open camera or microphone tracks of a peer.
    fn for_tracks(
        &mut self,
        time: RoomTime,
        peer_id: String,
        kind: Kind,
        event: impl Fn(TrackId) -> EventKind,
    ) -> Result<(), id::Error> {
        let peer = PeerId::new(peer_id)?;
        for at in 0..self.tracks.all.len() {
            let producer = &self.tracks.all[at].producer;
            let is_meant = producer.peer == peer && producer.is_audio == (kind == Kind::Audio);
            if is_meant && self.announced[at] == TrackState::Open {
                let track = producer.track.clone();
                self.push(time, event(track));
            }
        }
        Ok(())
    }

    fn on_frame(&mut self, frame: &Frame) {
        // What is left out is in the summary.
        let Ok((port, media)) = media(frame) else { return };
        match media {
            Media::Rtp(packet) => {
                if let Some(at) = self.tracks.of_stream(port, packet.ssrc()) {
                    self.packet(at, frame.time, PacketData::Rtp(packet.bytes().clone()));
                }
            }
            Media::Rtcp(compound) => {
                let of = |ssrc| self.tracks.of_stream(port, ssrc);
                let mut tracks: Vec<usize> = sender_reports(&compound).filter_map(|report| of(report.ssrc)).collect();
                tracks.dedup();
                for at in tracks {
                    self.packet(at, frame.time, PacketData::Rtcp(compound.clone()));
                }
            }
            Media::Other => {}
        }
    }

    fn packet(&mut self, at: usize, time: RoomTime, data: PacketData) {
        let track = self.tracks.all[at].producer.track.clone();
        let item = match self.announced[at] {
            TrackState::Open | TrackState::Closed => Ok((time, SourceItem::Packet { track, data })),
            TrackState::Unannounced if self.early_bytes < MAX_EARLY_BYTES => {
                self.early_bytes += data.bytes().len();
                self.early.entry(at).or_default().push((time, data));
                return;
            }
            TrackState::Unannounced => Err(Error::TooEarly { track }.into()),
        };
        self.ready.push_back(item);
    }
}

impl Iterator for Capture {
    type Item = Result<(RoomTime, SourceItem), source::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && self.stage != Stage::Ended {
            self.step();
        }
        self.ready.pop_front()
    }
}

impl Source for Capture {
    fn room(&self) -> &RoomId {
        &self.room
    }

    fn duration(&self) -> Option<Duration> {
        Some(self.duration)
    }
}

#[cfg(test)]
mod tests {
    use roomreel_shared::rtcp::{NtpTimestamp, SenderReport, write_sender_report};
    use roomreel_shared::rtp::RtpTimestamp;

    use super::super::frames::tests::pcap;
    use super::super::link::tests::ipv4;
    use super::*;

    const EVENTS: &str = r#"{"t_us": 1000000, "type": "room_created", "room_id": "tiny"}
{"t_us": 1100000, "type": "peer_joined", "peer_id": "amara", "display_name": "Amara", "is_host": true}
{"t_us": 1300000, "type": "producer_created", "peer_id": "amara", "producer_id": "cam", "kind": "video", "udp_source_port": 7, "ssrc": 5, "payload_type": 96, "codec": "vp8", "clock_rate": 90000}
{"t_us": 1400000, "type": "speaking", "peer_id": "amara", "level_dbov": -20.4}
{"t_us": 1500000, "type": "peer_left", "peer_id": "amara", "reason": "leave"}
{"t_us": 1550000, "type": "room_closed", "reason": "ended"}
"#;

    fn rtp(ssrc: u8, payload_type: u8) -> Vec<u8> {
        ipv4(7, &[0x80, payload_type, 0, 1, 0, 0, 0, 0, 0, 0, 0, ssrc, 9])
    }

    /// A capture whose last record is cut off.
    fn capture() -> Vec<u8> {
        let report = SenderReport { ssrc: Ssrc(5), ntp: NtpTimestamp(1), rtp: RtpTimestamp(2) };
        let report = ipv4(7, &write_sender_report(report, 1, 1));
        let records = [
            (1_200_000, rtp(5, 96)),
            (1_250_000, rtp(6, 97)),
            (1_350_000, report),
            (1_360_000, ipv4(7, &[0x80, 201, 0, 1, 0, 0, 0, 5])),
            (1_370_000, rtp(9, 120)),
            (1_380_000, ipv4(7, &[0, 1, 0, 0])),
            (1_600_000, rtp(5, 96)),
            (1_700_000, rtp(5, 96)),
        ];
        let records: Vec<(i64, &[u8])> = records.iter().map(|(time, bytes)| (*time, bytes.as_slice())).collect();
        let mut file = pcap(101, &records);
        file.truncate(file.len() - 3);
        file
    }

    fn in_words(item: Result<(RoomTime, SourceItem), source::Error>) -> String {
        match item {
            Err(error) => error.to_string(),
            Ok((time, SourceItem::Packet { track, data })) => {
                let kind = if matches!(data, PacketData::Rtp(_)) { "RTP" } else { "RTCP" };
                format!("{} {kind} of {track}", time.as_micros())
            }
            Ok((time, SourceItem::Event(event))) => {
                let event = format!("{event:?}");
                let name = event.split([' ', '(']).next().unwrap_or_default();
                format!("{} {name}", time.as_micros())
            }
        }
    }

    #[test]
    fn a_capture_is_merged_in_order_counted_and_named_where_it_is_cut_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let (capture_path, events_path) = (folder.path().join("tiny.pcap"), folder.path().join("tiny.jsonl"));
        std::fs::write(&capture_path, capture()).expect("written");
        std::fs::write(&events_path, EVENTS).expect("written");
        let capture = Capture::open(&capture_path, &events_path, CaptureOptions::default()).expect("it opens");
        assert_eq!((capture.room().as_str(), capture.duration()), ("tiny", Some(Duration::from_millis(600))));
        let summary = capture.summary().clone();
        assert_eq!(
            (summary.tracks[0].streams, summary.tracks[0].packets, summary.tracks[0].reports),
            (2, 3, 1),
            "{summary}"
        );
        assert_eq!((summary.other_rtcp, summary.not_media, summary.unknown.len()), (1, 1, 1), "{summary}");
        let items: Vec<String> = capture.map(in_words).collect();
        let cut_off = format!(
            "{} is cut off at byte 440, inside a record; everything before it is used. If it should be longer, copy it again",
            capture_path.display()
        );
        let expected = [
            "1000000 RoomCreated",
            "1100000 PeerJoined",
            "1300000 ProducerCreated",
            "1200000 RTP of cam",
            "1250000 RTP of cam",
            "1350000 RTCP of cam",
            "1400000 ActiveSpeaker",
            "1500000 ProducerClosed",
            "1500000 PeerLeft",
            "1500000 ActiveSpeaker",
            "1600000 RTP of cam",
            &cut_off,
            "1600000 RoomClosed",
        ];
        assert_eq!(items, expected);
    }

    #[test]
    fn files_that_do_not_fit_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let (capture_path, events_path) = (folder.path().join("tiny.pcap"), folder.path().join("tiny.jsonl"));
        let open =
            || Capture::open(&capture_path, &events_path, CaptureOptions::default()).err().map(|e| e.to_string());
        assert!(open().is_some_and(|error| error.contains("tiny.jsonl cannot be opened")));
        std::fs::write(&events_path, "").expect("written");
        std::fs::write(&capture_path, "GIF89a").expect("written");
        assert!(open().is_some_and(|error| error.contains("begins with 47 49 46 38")));
        std::fs::write(&capture_path, capture()).expect("written");
        assert!(open().is_some_and(|error| error.contains("announces no producer")));
    }
}
