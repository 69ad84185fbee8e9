//! What senders put into packets.

use roomreel_shared::batch::PacketData;
use roomreel_shared::event::EventKind;
use roomreel_shared::rtcp::{NtpTimestamp, SenderReport, write_sender_report};
use roomreel_shared::rtp::{RtpTimestamp, Ssrc};

use super::{Kit, camera, expect_lost, expect_stream, microphone, plain, received};
use crate::rtp::{Form, Header, Sent, Stream};
use crate::trace::{Received, Writing, track};

pub(super) fn timestamp_wrap(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let before = kit.up_to(kit.size as u64 * 900) as u32;
    let mut stream = Stream::new(&mut kit.rng, 1, 96);
    let sequence = stream.header().sequence;
    stream = stream.from(sequence, u32::MAX - before);
    let packets = stream.vp8(kit.size, 100);
    writing.say(format!("the timestamps wrap after {before} ticks"));
    plain(kit, &mut writing, "cam", &stream, &packets);
    writing.close()
}

/// Timestamps that jump by hours, forwards and backwards: nothing is lost and nothing gets longer.
pub(super) fn timestamp_jumps(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let mut stream = Stream::new(&mut kit.rng, 1, 96);
    let mut packets = Vec::new();
    for part in 0..4 {
        packets.extend(stream.vp8(kit.size / 12 * 3 + 3, 100 + part * (kit.size as i64 * 3 + 40)));
        let jump = kit.up_to(u64::from(u32::MAX));
        stream.units += jump;
        writing.say(format!("after {} packets the timestamps jump by {jump}", packets.len()));
    }
    plain(kit, &mut writing, "cam", &stream, &packets);
    writing.close()
}

/// One packet with timestamp 0 in the midst of others (Janus #2328: it made a file of 20 GB).
pub(super) fn timestamp_zero(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let first = 1 + kit.up_to(u64::from(u32::MAX / 2)) as u32;
    let mut stream = Stream::new(&mut kit.rng, 1, 111).from(5, first);
    let zero = 1 + kit.up_to(kit.size as u64 - 3);
    let mut packets = Vec::new();
    for index in 0..kit.size as u64 {
        let header = stream.header();
        let header = if index == zero { Header { timestamp: 0, ..header } } else { header };
        packets.push(stream.send(&header, &[0x78, 1, 2], 100 + 20 * index as i64));
        stream.units += 960;
    }
    writing.say(format!("packet {zero} has timestamp 0"));
    plain(kit, &mut writing, "mic", &stream, &packets);
    writing.close()
}

/// Receive times from tomorrow and yesterday: the recording is as long as it was.
pub(super) fn hostile_receive_times(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let mut stream = Stream::new(&mut kit.rng, 1, 111);
    let packets = stream.opus(kit.size, 100);
    let mut published = kit.publish("mic", 7, received(&packets));
    let times: Vec<i64> = published.numbers().map(|number| published.time(number)).collect();
    for packet in &mut published.packets {
        if kit.chance(10) {
            let hours = 1 + kit.up_to(200) as i64;
            packet.at += if kit.chance(50) { hours * 3_600_000 } else { -hours * 3_600_000 };
            writing.say(format!("a packet comes {} ms off", packet.at));
        }
    }
    for (number, time) in published.numbers().zip(times) {
        writing.batch(&published, number, time);
    }
    writing.stored(&published, published.numbers());
    expect_stream(&mut writing, &published, &stream, &packets, |_| true);
    writing.close()
}

/// VP8, VP9, H.264 and H.265 in one stream: each is followed, and its key pictures are known.
pub(super) fn payload_type_switch(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let mut stream = Stream::new(&mut kit.rng, 1, 96);
    let mut packets: Vec<Sent> = Vec::new();
    for picture in 0..kit.size as i64 / 3 {
        if picture > 0 && kit.chance(12) {
            stream.payload_type = [96, 98, 102, 104][kit.up_to(3) as usize];
            writing.say(format!("from picture {picture} on, payload type {}", stream.payload_type));
        }
        let is_key = picture == 0 || kit.chance(10);
        let payloads: [&[u8]; 3] = match (stream.payload_type, is_key) {
            (96, true) => [&[0x10, 0, 7], &[0, 0, 7], &[0, 1]],
            (96, false) => [&[0x10, 1, 7], &[0, 0], &[0, 1]],
            (98, true) => [&[0x08, 7], &[0x00, 7], &[0x04, 7]],
            (98, false) => [&[0x48, 7], &[0x40, 7], &[0x44, 7]],
            (102, true) => [&[0x7c, 0x85, 7], &[0x7c, 0x05, 7], &[0x7c, 0x45, 7]],
            (102, false) => [&[0x7c, 0x81, 7], &[0x7c, 0x01, 7], &[0x7c, 0x41, 7]],
            (_, true) => [&[0x62, 1, 0x93], &[0x62, 1, 0x13], &[0x62, 1, 0x53]],
            (_, false) => [&[0x62, 1, 0x81], &[0x62, 1, 0x01], &[0x62, 1, 0x41]],
        };
        for (i, payload) in (0..).zip(payloads) {
            let header = Header { marker: i == 2, ..stream.header() };
            let sent = stream.send(&header, payload, 100 + picture * 30 + i);
            packets.push(Sent { starts_picture: is_key && i == 0, ..sent });
        }
        stream.units += 2700;
    }
    plain(kit, &mut writing, "cam", &stream, &packets);
    writing.close()
}

/// Three layers that come and go: each counts alone.
pub(super) fn simulcast_switches(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let mut layers = [11, 12, 13].map(|ssrc| Stream::new(&mut kit.rng, ssrc, 96));
    let mut packets = Vec::new();
    let span = kit.size as i64 * 4;
    for part in 0..4 {
        for layer in &mut layers {
            if part == 0 || kit.chance(60) {
                writing.say(format!("layer {} sends in part {part}", layer.ssrc));
                packets.extend(layer.vp8(kit.size / 18 * 3 + 3, 100 + part * span));
                // Other senders' timestamps go on while a layer rests.
                layer.units += 90 * span as u64;
            }
        }
    }
    packets.sort_by_key(|sent| sent.at);
    let lost: Vec<(u32, u64)> =
        packets.iter().filter(|sent| sent.index % 11 == 7).map(|sent| (sent.ssrc, sent.index)).collect();
    packets.retain(|sent| sent.index % 11 != 7);
    let published = kit.publish("cam", 7, received(&packets));
    writing.all(&published);
    for layer in &layers {
        expect_stream(&mut writing, &published, layer, &packets, |_| true);
        let newest = packets.iter().filter(|sent| sent.ssrc == layer.ssrc).map(|sent| sent.index).max().unwrap_or(0);
        let of_layer = lost.iter().filter(|(ssrc, index)| *ssrc == layer.ssrc && *index < newest).map(|lost| lost.1);
        expect_lost(&mut writing, "cam", layer, 0, of_layer);
    }
    writing.close()
}

/// DTX: seconds without a packet are silence, not loss.
pub(super) fn silence(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let mut stream = Stream::new(&mut kit.rng, 1, 111);
    let mut packets = Vec::new();
    let mut at = 100;
    while packets.len() < kit.size {
        let header = Header { marker: true, ..stream.header() };
        packets.push(stream.send(&header, &[0x78, 0xff, 0xfe], at));
        let pause = if kit.chance(15) { 400 + 20 * kit.up_to(200) as i64 } else { 20 };
        stream.units += 48 * pause as u64;
        at += pause;
    }
    writing.say(format!("{} packets in {at} ms", packets.len()));
    plain(kit, &mut writing, "mic", &stream, &packets);
    writing.close()
}

/// Padding-only probes: no media, but their numbers count, and so does their loss.
pub(super) fn probes(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let mut stream = Stream::new(&mut kit.rng, 1, 96);
    let mut packets = Vec::new();
    let mut lost = Vec::new();
    for part in 0..kit.size as i64 / 6 {
        packets.extend(stream.vp8(3, 100 + part * 60));
        for probe in 0..kit.up_to(4) as i64 {
            let padding = 1 + kit.up_to(254) as u8;
            let header = Header { padding, ..stream.header() };
            let sent = stream.send(&header, &[], 110 + part * 60 + probe);
            if kit.chance(20) { lost.push(sent.index) } else { packets.push(sent) }
        }
    }
    let newest = packets.iter().map(|sent| sent.index).max().unwrap_or(0);
    lost.retain(|index| *index < newest);
    writing.say(format!("probes {lost:?} are lost"));
    plain(kit, &mut writing, "cam", &stream, &packets);
    expect_lost(&mut writing, "cam", &stream, 0, lost);
    writing.close()
}

/// Header extensions of one and two bytes, audio levels among them: packets stay as they are.
pub(super) fn header_extensions(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let mut stream = Stream::new(&mut kit.rng, 1, 96);
    let mut packets = Vec::new();
    for picture in 0..kit.size as i64 {
        let form = if kit.chance(50) { Form::OneByte } else { Form::TwoByte };
        let mut elements = vec![(1, vec![kit.up_to(255) as u8])];
        for id in 2..2 + kit.up_to(5) as u8 {
            elements.push((id, vec![id; 1 + kit.up_to(15) as usize]));
        }
        let extension = (!kit.chance(10)).then_some((form, elements));
        let is_key = picture % 10 == 0;
        let header = Header { marker: true, extension, ..stream.header() };
        let sent = stream.send(&header, &[0x10, u8::from(!is_key), 9], 100 + picture * 30);
        packets.push(Sent { starts_picture: is_key, ..sent });
        stream.units += 2700;
    }
    plain(kit, &mut writing, "cam", &stream, &packets);
    writing.close()
}

/// RTX on a stream of its own (RFC 4588): each stream is counted by its own numbers.
pub(super) fn retransmissions(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let mut media = Stream::new(&mut kit.rng, 1, 96);
    let mut repair = Stream::new(&mut kit.rng, 2, 97);
    let mut packets = Vec::new();
    let (mut lost, mut lost_repairs) = (Vec::new(), Vec::new());
    for sent in media.vp8(kit.size, 100) {
        if sent.index == 0 || sent.index + 1 == kit.size as u64 || !kit.chance(8) {
            packets.push(sent);
            continue;
        }
        lost.push(sent.index);
        let payload = [&sent.bytes[2..4], &sent.bytes[12..]].concat();
        let header = Header { timestamp: sent.timestamp, marker: sent.bytes[1] & 0x80 != 0, ..repair.header() };
        let again = repair.send(&header, &payload, sent.at + 60);
        if kit.chance(20) { lost_repairs.push(again.index) } else { packets.push(again) }
    }
    packets.sort_by_key(|sent| sent.at);
    writing.say(format!("{lost:?} are sent again, of which {lost_repairs:?} are lost"));
    let published = plain(kit, &mut writing, "cam", &media, &packets);
    expect_lost(&mut writing, "cam", &media, 0, lost);
    expect_stream(&mut writing, &published, &repair, &packets, |_| true);
    let arrived: Vec<u64> = packets.iter().filter(|sent| sent.ssrc == 2).map(|sent| sent.index).collect();
    if let (Some(&first), Some(&newest)) = (arrived.first(), arrived.last()) {
        lost_repairs.retain(|index| (first..newest).contains(index));
        expect_lost(&mut writing, "cam", &repair, first, lost_repairs);
    }
    writing.close()
}

/// FEC on a stream of its own, and of the media's own numbers.
pub(super) fn error_correction(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let mut media = Stream::new(&mut kit.rng, 1, 96);
    let mut correction = Stream::new(&mut kit.rng, 3, 49);
    let mut packets = Vec::new();
    let mut lost = Vec::new();
    for picture in 0..kit.size as i64 / 4 {
        let at = 100 + picture * 30;
        packets.extend(media.vp8(3, at));
        if kit.chance(30) {
            // ULPFEC counts among the media.
            let header = Header { payload_type: 49, ..media.header() };
            packets.push(media.send(&header, &[0x10, 0, 1, 2], at + 4));
        }
        let header = correction.header();
        let sent = correction.send(&header, &[0x10, 0, 7, 7], at + 5);
        correction.units += 2700;
        if sent.index > 0 && kit.chance(10) { lost.push(sent.index) } else { packets.push(sent) }
    }
    let published = plain(kit, &mut writing, "cam", &media, &packets);
    expect_stream(&mut writing, &published, &correction, &packets, |_| true);
    let newest = packets.iter().filter(|sent| sent.ssrc == 3).map(|sent| sent.index).max().unwrap_or(0);
    lost.retain(|index| *index < newest);
    expect_lost(&mut writing, "cam", &correction, 0, lost);
    writing.close()
}

/// Bytes that are no RTP among the packets: kept, counted, and without effect.
pub(super) fn noise(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let mut stream = Stream::new(&mut kit.rng, 1, 96);
    let packets = stream.vp8(kit.size, 100);
    let mut mixed = Vec::new();
    let mut arrived = Vec::new();
    for sent in &packets {
        if kit.chance(15) {
            let mut bytes = sent.bytes.to_vec();
            match kit.up_to(3) {
                0 => bytes.truncate(kit.up_to(11) as usize),
                1 => bytes[0] = 0x40,
                2 => bytes = [&[0xbf][..], &bytes[1..12]].concat(),
                _ => bytes = b"\x16\xfe\xfd DTLS".to_vec(),
            }
            writing.account("cam").invalid += 1;
            mixed.push(Received { at: sent.at, data: PacketData::Rtp(bytes.into()) });
            // It has a number, but is no packet of the stream.
            arrived.push(Sent { ssrc: 0, ..sent.clone() });
        }
        mixed.push(Received { at: sent.at, data: PacketData::Rtp(sent.bytes.clone()) });
        arrived.push(sent.clone());
    }
    let published = kit.publish("cam", 7, mixed);
    writing.all(&published);
    expect_stream(&mut writing, &published, &stream, &arrived, |_| true);
    writing.close()
}

/// Sender reports in compounds, of streams that are there and of others.
pub(super) fn sender_reports(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let mut stream = Stream::new(&mut kit.rng, 1, 111);
    let packets = stream.opus(kit.size, 100);
    let mut mixed = Vec::new();
    let mut arrived = Vec::new();
    for sent in &packets {
        mixed.push(Received { at: sent.at, data: PacketData::Rtp(sent.bytes.clone()) });
        arrived.push(sent.clone());
        if kit.chance(10) {
            let ntp = NtpTimestamp((3_900_000_000 << 32) + (sent.at as u64) * 4_294_967);
            let of = if kit.chance(70) { 1 } else { 77 };
            let report = SenderReport { ssrc: Ssrc(of), ntp, rtp: RtpTimestamp(sent.timestamp) };
            let mut compound = write_sender_report(report, 1, 2);
            match kit.up_to(2) {
                0 => compound.extend([0x81, 202, 0, 1, 0, 0, 0, 1]),
                1 => compound = [&[0x80, 201, 0, 1, 0, 0, 0, 9][..], &compound, &[0x80, 200, 0, 99]].concat(),
                _ => {}
            }
            if of == 1 {
                writing.account("mic").reports.insert(1, sent.timestamp);
            }
            mixed.push(Received { at: sent.at, data: PacketData::Rtcp(compound.into()) });
            arrived.push(Sent { ssrc: 0, ..sent.clone() });
        }
        if kit.chance(3) {
            writing.sfu(EventKind::ProducerPaused { track: track("mic") }, sent.at + 60);
        }
    }
    let published = kit.publish("mic", 7, mixed);
    writing.all(&published);
    expect_stream(&mut writing, &published, &stream, &arrived, |_| true);
    writing.close()
}
