//! The first reading of a capture: what is in it, counted, and which stream belongs to which track.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use bytes::Bytes;
use roomreel_shared::event::Codec;
use roomreel_shared::id::{PeerId, TrackId};
use roomreel_shared::rtcp::sender_reports;
use roomreel_shared::rtp::{PacketView, Ssrc};
use roomreel_shared::time::RoomTime;

use super::Error;
use super::events::Stamped;
use super::frames::{Frame, Frames};
use super::link::{Skip, datagram};
use super::tracks::{Streams, Tracks};

/// One track of a capture, counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackSummary {
    /// The track.
    pub track: TrackId,
    /// Whose it is.
    pub peer: PeerId,
    /// Of its first payload type.
    pub codec: Codec,
    /// Its RTP streams, retransmissions included.
    pub streams: usize,
    /// RTP packets.
    pub packets: u64,
    /// Compound RTCP packets with a sender report.
    pub reports: u64,
}

/// An RTP stream that belongs to no track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownStream {
    /// UDP source port; `None` where the capture has no ports.
    pub port: Option<u16>,
    /// The stream.
    pub ssrc: Ssrc,
    /// The payload types seen.
    pub payload_types: Vec<u8>,
    /// Its packets; they are left out.
    pub packets: u64,
}

/// What is in a capture; every record is counted once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// In the order of their announcement.
    pub tracks: Vec<TrackSummary>,
    /// Left out: nobody announced them.
    pub unknown: Vec<UnknownStream>,
    /// RTCP without a sender report of any track; left out.
    pub other_rtcp: u64,
    /// UDP that is neither RTP nor RTCP, such as STUN and DTLS; left out.
    pub not_media: u64,
    /// Records that are not UDP over IP; left out.
    pub not_udp: u64,
    /// Records that the capture has not all of; left out.
    pub cut_short: u64,
    /// Events of kinds that are not known; left out.
    pub unknown_events: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for track in &self.tracks {
            let (id, codec) = (&track.track, track.codec.name());
            writeln!(
                f,
                "{id}: {codec}, {} streams, {} packets, {} reports",
                track.streams, track.packets, track.reports
            )?;
        }
        for stream in &self.unknown {
            let UnknownStream { port, ssrc: Ssrc(ssrc), payload_types, packets } = stream;
            let port = port.map(|port| format!(" from port {port}")).unwrap_or_default();
            writeln!(f, "left out: SSRC {ssrc}{port}, payload types {payload_types:?}, {packets} packets")?;
        }
        for (count, what) in [
            (self.other_rtcp, "RTCP packets without a sender report"),
            (self.not_media, "datagrams that are neither RTP nor RTCP"),
            (self.not_udp, "records that are not UDP"),
            (self.cut_short, "records that were not captured whole"),
            (self.unknown_events, "events of unknown kinds"),
        ] {
            if count > 0 {
                writeln!(f, "left out: {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// What a record of a capture is.
pub(super) enum Media {
    /// Told from RTCP by RFC 5761 section 4.
    Rtp(PacketView),
    /// Compound, not yet looked into.
    Rtcp(Bytes),
    /// UDP, and neither.
    Other,
}

/// The media in a record, and the port it came from.
pub(super) fn media(frame: &Frame) -> Result<(Option<u16>, Media), Skip> {
    let datagram = datagram(frame.link, &frame.bytes)?;
    let payload = datagram.payload;
    let media = match payload {
        [first, 192..=223, ..] if first >> 6 == 2 => Media::Rtcp(Bytes::copy_from_slice(payload)),
        [first, ..] if first >> 6 == 2 => {
            PacketView::parse(Bytes::copy_from_slice(payload)).map_or(Media::Other, Media::Rtp)
        }
        _ => Media::Other,
    };
    Ok((datagram.source_port, media))
}

/// Opens a capture from its beginning.
pub(super) fn frames(path: &Path) -> Result<Frames<BufReader<File>>, Error> {
    Frames::new(BufReader::new(open(path)?), path.display().to_string())
}

/// Opens a file.
pub(super) fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::Open { path: path.display().to_string(), source })
}

/// What a first reading gives.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) streams: Streams,
    /// Counted but for the tracks.
    pub(super) summary: Summary,
    /// Times of the first and the last record.
    pub(super) span: Option<(RoomTime, RoomTime)>,
}

/// Reads a capture once. Where it is damaged or cut off, the survey ends; the player will say so.
pub(super) fn survey(frames: impl Iterator<Item = Result<Frame, Error>>, events: &[Stamped]) -> Survey {
    let mut survey = Survey { streams: Streams::new(events), summary: Summary::default(), span: None };
    for frame in frames.map_while(Result::ok) {
        let (first, last) = survey.span.unwrap_or((frame.time, frame.time));
        survey.span = Some((first.min(frame.time), last.max(frame.time)));
        let summary = &mut survey.summary;
        match media(&frame) {
            Err(Skip::NotUdp | Skip::UnknownLink(_)) => summary.not_udp += 1,
            Err(Skip::CutShort) => summary.cut_short += 1,
            Ok((_, Media::Other)) => summary.not_media += 1,
            Ok((port, Media::Rtp(packet))) => survey.streams.on_rtp(port, frame.time, &packet),
            Ok((port, Media::Rtcp(compound))) => {
                let mut reports = sender_reports(&compound).peekable();
                summary.other_rtcp += u64::from(reports.peek().is_none());
                for report in reports {
                    survey.streams.on_report((port, report.ssrc), frame.time);
                }
            }
        }
    }
    survey
}

impl Summary {
    /// Adds what the streams hold, by track.
    pub(super) fn count(&mut self, tracks: &Tracks, streams: &Streams) {
        for track in &tracks.all {
            let producer = &track.producer;
            self.tracks.push(TrackSummary {
                track: producer.track.clone(),
                peer: producer.peer.clone(),
                codec: producer.codecs[0].codec.clone(),
                streams: 0,
                packets: 0,
                reports: 0,
            });
        }
        for (&(port, ssrc), seen) in &streams.seen {
            if let Some(at) = tracks.of_stream(port, ssrc) {
                let track = &mut self.tracks[at];
                track.streams += 1;
                track.packets += seen.packets;
                track.reports += seen.reports;
            } else {
                let payload_types = seen.payload_types.iter().copied().collect();
                self.other_rtcp += seen.reports;
                if seen.packets > 0 {
                    self.unknown.push(UnknownStream { port, ssrc, payload_types, packets: seen.packets });
                }
            }
        }
        self.not_media += streams.past_limit;
    }
}
