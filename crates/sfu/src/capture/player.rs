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
use super::{CaptureOptions, Error, MAX_EARLY_PACKETS, Summary};
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
    early_packets: usize,
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
            early_packets: 0,
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
                    self.early_packets -= early.len();
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
            TrackState::Unannounced if self.early_packets < MAX_EARLY_PACKETS => {
                self.early_packets += 1;
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
