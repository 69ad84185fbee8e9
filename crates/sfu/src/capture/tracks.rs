//! Which RTP stream of a capture belongs to which track.
//!
//! Owns the join of what the events announce with what the packets show: simulcast layers announced one by one become one
//! track; retransmission streams, layers and changed SSRCs that were never announced are found by payload type, MID and RID.

use std::collections::{BTreeMap, BTreeSet};

use roomreel_shared::event::{Codec, CodecParameters, Encoding, HeaderExtension, Producer, SCREENSHARE_PEER_PREFIX};
use roomreel_shared::id::{self, PeerId, TrackId};
use roomreel_shared::policy::TrackKind;
use roomreel_shared::rtp::{PacketView, PayloadType, Ssrc};
use roomreel_shared::time::RoomTime;

use super::events::{Announced, Kind, Line, Stamped};

/// Most RTP streams that are told apart.
const MAX_STREAMS: usize = 65_536;
/// Layers of one track are announced within this time.
const LAYERS_WITHIN_US: i64 = 1_000_000;
/// A stream may begin this long before its announcement.
const EARLY_US: i64 = 1_000_000;
const MID_URI: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
const RID_URI: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
const REPAIRED_RID_URI: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
/// Payload types that browsers use for retransmission of another one, where nothing announces them.
const RTX_OF: [(u8, u8); 4] = [(96, 97), (98, 99), (102, 103), (45, 46)];

/// An RTP stream of the capture: UDP source port (`None` where the capture has no ports) and SSRC.
pub type StreamKey = (Option<u16>, Ssrc);

/// What the packets of a stream show.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// RTP packets.
    pub packets: u64,
    /// Compound RTCP packets with a sender report of the stream.
    pub reports: u64,
    /// In the order of their numbers.
    pub payload_types: BTreeSet<u8>,
    first: RoomTime,
    mid: Option<Vec<u8>>,
    rid: Option<String>,
    repaired_rid: Option<String>,
}

/// Every RTP stream of a capture.
#[derive(Debug, Default)]
pub struct Streams {
    /// By port and SSRC.
    pub seen: BTreeMap<StreamKey, Seen>,
    /// Packets of streams past the limit.
    pub past_limit: u64,
    extensions: BTreeMap<u16, ExtensionIds>,
}

#[derive(Debug, Clone, Copy, Default)]
struct ExtensionIds {
    mid: Option<u8>,
    rid: Option<u8>,
    repaired_rid: Option<u8>,
}

impl Streams {
    /// Begins with what the events say about header extensions.
    #[must_use]
    pub fn new(events: &[Stamped]) -> Self {
        let mut streams = Self::default();
        for event in events {
            let Line::ProducerCreated(announced) = &event.line else { continue };
            let ids = streams.extensions.entry(announced.udp_source_port).or_default();
            for extension in extensions(announced) {
                match extension.uri.as_str() {
                    MID_URI => ids.mid = Some(extension.id),
                    RID_URI => ids.rid = Some(extension.id),
                    REPAIRED_RID_URI => ids.repaired_rid = Some(extension.id),
                    _ => {}
                }
            }
        }
        streams
    }

    /// Looks at an RTP packet.
    pub fn on_rtp(&mut self, port: Option<u16>, time: RoomTime, packet: &PacketView) {
        let ids = match port {
            Some(port) => self.extensions.get(&port),
            None => self.extensions.values().next(),
        };
        let ids = ids.copied().unwrap_or_default();
        let Some(seen) = self.entry((port, packet.ssrc()), time) else { return };
        seen.packets += 1;
        seen.payload_types.insert(packet.payload_type().0);
        let value = |id: Option<u8>| id.and_then(|id| packet.extension(id));
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).ok().filter(|text| !text.is_empty());
        if seen.mid.is_none() {
            seen.mid = value(ids.mid).map(<[u8]>::to_vec);
        }
        if seen.rid.is_none() {
            seen.rid = value(ids.rid).and_then(text);
        }
        if seen.repaired_rid.is_none() {
            seen.repaired_rid = value(ids.repaired_rid).and_then(text);
        }
    }

    /// Looks at a sender report.
    pub fn on_report(&mut self, key: StreamKey, time: RoomTime) {
        if let Some(seen) = self.entry(key, time) {
            seen.reports += 1;
        }
    }

    fn entry(&mut self, key: StreamKey, time: RoomTime) -> Option<&mut Seen> {
        if self.seen.len() >= MAX_STREAMS && !self.seen.contains_key(&key) {
            self.past_limit += 1;
            return None;
        }
        Some(self.seen.entry(key).or_insert_with(|| Seen { first: time, ..Seen::default() }))
    }
}

/// A track of the capture.
#[derive(Debug, Clone)]
pub struct Track {
    /// As it is announced to the cluster.
    pub producer: Producer,
    /// Where its packets come from.
    pub port: u16,
    /// When it was announced.
    pub created: RoomTime,
    /// RIDs were announced: it has layers.
    is_simulcast: bool,
}

/// All tracks, and where each stream goes.
#[derive(Debug, Default)]
pub struct Tracks {
    /// In the order of their announcement.
    pub all: Vec<Track>,
    by_stream: BTreeMap<(u16, Ssrc), usize>,
    /// The same without ports.
    by_ssrc: BTreeMap<Ssrc, usize>,
}

impl Tracks {
    /// Joins events and streams.
    ///
    /// # Errors
    /// An id of the events that cannot be spelled.
    pub fn join(events: &[Stamped], streams: &Streams) -> Result<Self, id::Error> {
        let mut tracks = Self::default();
        for event in events {
            if let Line::ProducerCreated(announced) = &event.line {
                tracks.announce(event.time, announced)?;
            }
        }
        // What carries media first: retransmissions are then matched against every layer.
        let unknown = |tracks: &Self| -> Vec<StreamKey> {
            streams.seen.keys().filter(|(port, ssrc)| tracks.of_stream(*port, *ssrc).is_none()).copied().collect()
        };
        for key in unknown(&tracks) {
            tracks.find(key, streams, false);
        }
        for key in unknown(&tracks) {
            tracks.find(key, streams, true);
        }
        Ok(tracks)
    }

    /// The track of a stream, as an index into `all`.
    #[must_use]
    pub fn of_stream(&self, port: Option<u16>, ssrc: Ssrc) -> Option<usize> {
        match port {
            Some(port) => self.by_stream.get(&(port, ssrc)).copied(),
            None => self.by_ssrc.get(&ssrc).copied(),
        }
    }

    fn assign(&mut self, port: u16, ssrc: Ssrc, at: usize) {
        self.by_stream.entry((port, ssrc)).or_insert(at);
        self.by_ssrc.entry(ssrc).or_insert(at);
    }

    fn announce(&mut self, time: RoomTime, announced: &Announced) -> Result<(), id::Error> {
        let port = announced.udp_source_port;
        let peer = PeerId::new(announced.peer_id.clone())?;
        let is_screenshare = announced.is_screenshare || announced.peer_id.starts_with(SCREENSHARE_PEER_PREFIX);
        let is_audio = announced.kind == Kind::Audio;
        let kind = match (is_screenshare, is_audio) {
            (true, _) => TrackKind::Screenshare,
            (false, true) => TrackKind::Audio,
            (false, false) => TrackKind::Video,
        };
        let rid = announced.rid.clone().filter(|rid| !rid.is_empty());
        let encoding = Encoding { ssrc: Ssrc(announced.ssrc), rid: rid.clone(), rtx_ssrc: None };
        let is_layer_of = |track: &&mut Track| {
            track.is_simulcast
                && rid.is_some()
                && (track.port, &track.producer.peer) == (port, &peer)
                && (track.producer.kind, track.producer.is_audio) == (kind, is_audio)
                && time.micros_since(track.created) <= LAYERS_WITHIN_US
        };
        let at = match self.all.iter_mut().position(|track| is_layer_of(&track)) {
            Some(at) => {
                self.all[at].producer.encodings.push(encoding);
                at
            }
            None => {
                let name = match &rid {
                    Some(rid) => {
                        announced.producer_id.strip_suffix(&format!("-{rid}")).unwrap_or(&announced.producer_id)
                    }
                    None => &announced.producer_id,
                };
                let producer = Producer {
                    track: TrackId::new(name)?,
                    peer,
                    kind,
                    is_audio,
                    codecs: codecs(announced),
                    encodings: vec![encoding],
                    header_extensions: extensions(announced),
                };
                self.all.push(Track { producer, port, created: time, is_simulcast: rid.is_some() });
                self.all.len() - 1
            }
        };
        self.assign(port, Ssrc(announced.ssrc), at);
        Ok(())
    }

    /// Assigns a stream that was not announced, if only one track can be meant.
    fn find(&mut self, key: StreamKey, streams: &Streams, is_rtx: bool) {
        let seen = &streams.seen[&key];
        if seen.packets == 0 {
            return;
        }
        let has_codec = |track: &Track| {
            let fits = |pt: &u8| {
                track.producer.codec(PayloadType(*pt)).is_some_and(|codec| (codec.codec == Codec::Rtx) == is_rtx)
            };
            seen.payload_types.iter().any(fits)
        };
        let mid_fits = |at: usize| {
            let is_of_track = |(port, ssrc): &StreamKey| self.of_stream(*port, *ssrc) == Some(at);
            let of_track = streams.seen.iter().filter(|(key, _)| is_of_track(key));
            let mut known = of_track.filter_map(|(_, seen)| seen.mid.as_ref()).peekable();
            seen.mid.is_none() || known.peek().is_none() || known.any(|mid| Some(mid) == seen.mid.as_ref())
        };
        let mut candidates: Vec<usize> = (0..self.all.len())
            .filter(|at| {
                key.0.is_none_or(|port| port == self.all[*at].port) && has_codec(&self.all[*at]) && mid_fits(*at)
            })
            .collect();
        if candidates.len() > 1 {
            // Of tracks that follow each other on a port, the newest that had been announced.
            let begun = |at: &usize| self.all[*at].created.micros_since(seen.first) <= EARLY_US;
            let newest = candidates.iter().copied().filter(begun).map(|at| self.all[at].created).max();
            candidates.retain(|at| Some(self.all[*at].created) == newest);
        }
        let [at] = candidates[..] else { return };
        self.assign(self.all[at].port, key.1, at);
        let encodings = &mut self.all[at].producer.encodings;
        if !is_rtx {
            encodings.push(Encoding { ssrc: key.1, rid: seen.rid.clone(), rtx_ssrc: None });
            return;
        }
        let is_only = encodings.len() == 1;
        let repaired =
            |encoding: &&mut Encoding| is_only || (seen.repaired_rid.is_some() && encoding.rid == seen.repaired_rid);
        if let Some(encoding) = encodings.iter_mut().find(repaired) {
            encoding.rtx_ssrc.get_or_insert(key.1);
        }
    }
}

fn extensions(announced: &Announced) -> Vec<HeaderExtension> {
    let parse = |(id, uri): (&String, &String)| Some(HeaderExtension { id: id.parse().ok()?, uri: uri.clone() });
    announced.header_extensions.iter().filter_map(parse).filter(|extension| extension.id != 0).collect()
}

fn codecs(announced: &Announced) -> Vec<CodecParameters> {
    let media = CodecParameters {
        payload_type: PayloadType(announced.payload_type & 0x7f),
        codec: Codec::from_name(&announced.codec),
        clock_rate: announced.clock_rate.max(1),
        channels: announced.channels,
        fmtp: announced.fmtp.clone(),
    };
    let rtx = RTX_OF.iter().find(|(of, _)| announced.kind == Kind::Video && *of == announced.payload_type);
    let rtx = rtx.map(|(of, rtx)| CodecParameters {
        payload_type: PayloadType(*rtx),
        codec: Codec::Rtx,
        clock_rate: announced.clock_rate.max(1),
        channels: 0,
        fmtp: format!("apt={of}"),
    });
    [media].into_iter().chain(rtx).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(id: &str, ssrc: u32, rid: Option<&str>, payload_type: u8) -> Stamped {
        let line = format!(
            r#"{{"peer_id": "amara", "producer_id": "{id}", "kind": "video", "udp_source_port": 7, "ssrc": {ssrc}, "payload_type": {payload_type},
                "codec": "vp8", "clock_rate": 90000, "header_extensions": {{"4": "{MID_URI}", "10": "{RID_URI}", "11": "{REPAIRED_RID_URI}"}}}}"#
        );
        let mut announced: Announced = serde_json::from_str(&line).expect("valid");
        announced.rid = rid.map(str::to_owned);
        Stamped { time: RoomTime::from_micros(1_000_000), line: Line::ProducerCreated(announced) }
    }

    /// One-byte header extensions from (id, value of one character).
    fn packet(ssrc: u32, payload_type: u8, extensions: &[(u8, u8)]) -> PacketView {
        let mut bytes = vec![0x90, payload_type, 0, 1, 0, 0, 0, 0];
        bytes.extend(ssrc.to_be_bytes());
        let mut block: Vec<u8> = extensions.iter().flat_map(|(id, value)| [id << 4, *value]).collect();
        block.resize(block.len().next_multiple_of(4), 0);
        bytes.extend([0xbe, 0xde, 0, (block.len() / 4) as u8]);
        bytes.extend(block);
        PacketView::parse(bytes.into()).expect("valid")
    }

    fn join(events: &[Stamped], packets: &[PacketView]) -> Tracks {
        let mut streams = Streams::new(events);
        for packet in packets {
            streams.on_rtp(Some(7), RoomTime::from_micros(900_000), packet);
        }
        Tracks::join(events, &streams).expect("ids are valid")
    }

    #[test]
    fn layers_announced_one_by_one_are_one_track() {
        let events = [announced("cam-l", 1, Some("l"), 96), announced("cam-m", 2, Some("m"), 96)];
        let packets = [
            packet(1, 96, &[(4, b'1'), (10, b'l')]),
            packet(22, 97, &[(4, b'1'), (11, b'm')]),
            packet(3, 96, &[(10, b'h')]),
        ];
        let tracks = join(&events, &packets);
        assert_eq!(tracks.all.len(), 1);
        let producer = &tracks.all[0].producer;
        assert_eq!(producer.track.as_str(), "cam");
        let layers: Vec<_> = producer.encodings.iter().map(|e| (e.ssrc.0, e.rid.as_deref(), e.rtx_ssrc)).collect();
        assert_eq!(layers, [(1, Some("l"), None), (2, Some("m"), Some(Ssrc(22))), (3, Some("h"), None)]);
        assert_eq!(producer.codecs[1].format_parameter("apt"), Some("96"));
        assert!([1, 2, 3, 22].into_iter().all(|ssrc| tracks.of_stream(Some(7), Ssrc(ssrc)).is_some()));
    }

    #[test]
    fn the_mid_tells_two_tracks_on_a_port_apart() {
        let events = [announced("cam", 1, None, 96), announced("lens", 2, None, 96)];
        let packets = [
            packet(1, 96, &[(4, b'1')]),
            packet(2, 96, &[(4, b'2')]),
            packet(9, 97, &[(4, b'2')]),
            packet(8, 97, &[]),
            packet(5, 120, &[(4, b'1')]),
        ];
        let tracks = join(&events, &packets);
        assert_eq!(tracks.of_stream(Some(7), Ssrc(9)), Some(1));
        assert_eq!(tracks.of_stream(Some(7), Ssrc(8)), None, "it could be either's");
        assert_eq!(tracks.of_stream(Some(7), Ssrc(5)), None, "nobody has this payload type");
    }
}
