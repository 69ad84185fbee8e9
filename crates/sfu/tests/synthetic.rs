//! The synthetic room keeps its promises: same seed, same packets; beeps and flashes when they were announced.

use std::collections::BTreeMap;
use std::time::Duration;

use ffmpeg_the_third as ffmpeg;
use ffmpeg_the_third::codec::decoder;
use ffmpeg_the_third::{Packet, frame};
use roomreel_sfu::source::{Source as _, SourceItem};
use roomreel_sfu::synthetic::{Network, Script, SyntheticRoom, SyntheticSpec, flash_area};
use roomreel_shared::batch::PacketData;
use roomreel_shared::event::EventKind;
use roomreel_shared::id::RoomId;
use roomreel_shared::rtcp::{NtpTimestamp, SenderReport, sender_reports};
use roomreel_shared::rtp::{PacketView, RtpTimestamp};
use roomreel_shared::time::RoomTime;
use rtp::codecs::vp8::Vp8Packet;
use rtp::packetizer::Depacketizer as _;

fn spec() -> SyntheticSpec {
    let room = RoomId::new("lab").expect("valid");
    let start = RoomTime::from_micros(1_795_220_000_000_000);
    SyntheticSpec {
        duration: Duration::from_secs(4),
        participants: 2,
        width: 320,
        height: 180,
        ..SyntheticSpec::new(room, start)
    }
}

fn items(spec: &SyntheticSpec) -> Vec<(RoomTime, SourceItem)> {
    let room = SyntheticRoom::new(spec.clone()).expect("the encoders are installed");
    assert_eq!(room.duration(), Some(spec.duration));
    room.map(|item| item.expect("it encodes")).collect()
}

#[test]
fn the_same_seed_gives_the_same_packets() {
    let network = Network { loss: 0.05, reorder: 0.02, duplicate: 0.02, jitter: Duration::from_millis(30) };
    let script = Script { screenshare: true, leave: true, ..Script::default() };
    let spec = SyntheticSpec { network, script, ..spec() };
    let items_of_seed = items(&spec);
    assert_eq!(items_of_seed, items(&spec));
    assert_ne!(items_of_seed, items(&SyntheticSpec { seed: 2, ..spec }));
}

#[test]
fn it_begins_with_the_room_and_ends_with_it_and_announces_before_it_sends() {
    let items = items(&spec());
    assert!(items.is_sorted_by_key(|(time, _)| *time));
    assert!(matches!(&items[0].1, SourceItem::Event(EventKind::RoomCreated { .. })));
    let (end, last) = items.last().expect("not empty");
    assert!(matches!(last, SourceItem::Event(EventKind::RoomClosed { .. })));
    assert_eq!(end.micros_since(items[0].0), 4_000_000);
    let mut announced = Vec::new();
    for (_, item) in &items {
        match item {
            SourceItem::Event(EventKind::ProducerCreated(producer)) => announced.push(producer.track.clone()),
            SourceItem::Packet { track, .. } => assert!(announced.contains(track)),
            SourceItem::Event(_) => {}
        }
    }
    assert_eq!(announced.len(), 4);
}

/// Every track's RTP packets, and its first sender report.
fn tracks(items: &[(RoomTime, SourceItem)]) -> BTreeMap<String, (Vec<PacketView>, SenderReport)> {
    let mut packets: BTreeMap<String, Vec<PacketView>> = BTreeMap::new();
    let mut reports = BTreeMap::new();
    for (_, item) in items {
        match item {
            SourceItem::Packet { track, data: PacketData::Rtp(bytes) } => {
                let packet = PacketView::parse(bytes.clone()).expect("valid RTP");
                assert!(bytes.len() <= 1200);
                packets.entry(track.to_string()).or_default().push(packet);
            }
            SourceItem::Packet { track, data: PacketData::Rtcp(bytes) } => {
                reports.entry(track.to_string()).or_insert_with(|| sender_reports(bytes).next().expect("a report"));
            }
            SourceItem::Event(_) => {}
        }
    }
    packets.into_iter().map(|(track, packets)| (track.clone(), (packets, reports[&track]))).collect()
}

/// Seconds on the sender's clock since an arbitrary point that both of a participant's tracks share.
fn sender_time(at: RtpTimestamp, clock_rate: f64, report: SenderReport, zero: NtpTimestamp) -> f64 {
    at.since(report.rtp) as f64 / clock_rate + report.ntp.micros_since(zero) as f64 / 1e6
}

fn onsets(levels: impl Iterator<Item = (f64, f64)>, threshold: f64) -> Vec<f64> {
    let mut onsets = Vec::new();
    let mut was_high = false;
    for (at, level) in levels {
        let is_high = level > threshold;
        if is_high && !was_high {
            onsets.push(at);
        }
        was_high = is_high;
    }
    onsets
}

#[test]
fn beeps_and_flashes_come_together_when_they_were_promised() {
    let spec = SyntheticSpec { script: Script { mute: false, ..Script::default() }, ..spec() };
    let tracks = tracks(&items(&spec));
    for participant in 0..2 {
        let (peer, _) = spec.name(participant);
        let (audio, audio_report) = &tracks[&format!("{peer}-audio")];
        let (video, video_report) = &tracks[&format!("{peer}-video")];
        let zero = audio_report.ntp;

        let setup = decoder::find(ffmpeg::codec::Id::OPUS).expect("Opus can be decoded");
        let mut opus = ffmpeg::codec::Context::new_with_codec(setup).decoder().audio().expect("it opens");
        let mut samples = Vec::new();
        for packet in audio {
            opus.send_packet(&Packet::copy(&packet.payload())).expect("it decodes");
            let mut decoded = frame::Audio::empty();
            opus.receive_frame(&mut decoded).expect("a frame a packet");
            let at = sender_time(packet.timestamp(), 48_000.0, *audio_report, zero);
            let plane = decoded.plane::<f32>(0);
            samples.extend(plane.iter().enumerate().map(|(n, value)| (at + n as f64 / 48_000.0, f64::from(*value))));
        }
        let envelope = samples.chunks(48).map(|chunk| {
            let peak = chunk.iter().map(|(_, value)| value.abs()).fold(0.0, f64::max);
            (chunk[0].0, peak)
        });
        let beeps = onsets(envelope, 0.1);

        let setup = decoder::find(ffmpeg::codec::Id::VP8).expect("VP8 can be decoded");
        let mut vp8 = ffmpeg::codec::Context::new_with_codec(setup).decoder().video().expect("it opens");
        let area = flash_area(spec.width, spec.height);
        let (mut flashes, mut encoded) = (Vec::new(), Vec::new());
        for packet in video {
            encoded.extend_from_slice(&Vp8Packet::default().depacketize(&packet.payload()).expect("VP8"));
            if packet.marker() {
                vp8.send_packet(&Packet::copy(&std::mem::take(&mut encoded))).expect("it decodes");
                let mut decoded = frame::Video::empty();
                vp8.receive_frame(&mut decoded).expect("a frame a packet");
                let middle = (area.y + area.height / 2) * decoded.stride(0) + area.x + area.width / 2;
                let at = sender_time(packet.timestamp(), 90_000.0, *video_report, zero);
                flashes.push((at, f64::from(decoded.data(0)[middle])));
            }
        }
        let flashes = onsets(flashes.into_iter(), 128.0);

        let promised = spec.beep_times(participant);
        assert!(promised.len() >= 3);
        // One that began before it could be heard or seen whole is not promised.
        let unpromised = beeps.len() - promised.len();
        assert!(unpromised <= 1, "{beeps:?}");
        let (beeps, flashes) = (beeps[unpromised..].to_vec(), flashes[flashes.len() - promised.len()..].to_vec());
        for (number, at) in promised.iter().enumerate() {
            let since_first = (*at - promised[0]).as_secs_f64();
            for (what, found) in [("beep", &beeps), ("flash", &flashes)] {
                let error = found[number] - found[0] - since_first;
                assert!(error.abs() < 0.003, "{peer}: {what} {number} is {error} s off");
            }
            let apart = beeps[number] - flashes[number];
            assert!(apart.abs() < 0.003, "{peer}: beep and flash {number} are {apart} s apart");
        }
    }
}
