//! Real streams with layers: what is lost of them, and what is seen all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use roomreel_shared::batch::{Packet, PacketData};
use roomreel_shared::event::{Codec, HeaderExtension};
use roomreel_shared::rtp::PacketView;
use roomreel_shared::time::RoomTime;

use super::assemble::Assembler;
use super::tests_support::{ORIENTATION_ID, codec, producer, rtp, with_orientation};
use super::{VideoQuality, VideoTrack};
use crate::decode::VideoDecoder;
use crate::depacketize::VideoDepacketizer;
use crate::depacketize::orientation;
use crate::depacketize::reorder::{MediaPacket, Reorder};
use crate::render::tests::{coded, vp8_of};
use crate::timeline::clock::ParticipantClock;

/// The packets of a file of rtptools, and when they were sent, milliseconds.
pub(super) fn stream(name: &str) -> Vec<(i64, PacketView)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streams").join(name);
    let file = Bytes::from(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    let mut rest = file.slice(file.iter().position(|byte| *byte == b'\n').expect("a first line") + 17..);
    let mut packets = Vec::new();
    while rest.len() > 8 {
        let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        let at = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]);
        packets.push((i64::from(at), PacketView::parse(rest.slice(8..length)).expect("RTP")));
        rest = rest.slice(length..);
    }
    packets
}

/// The luma of each picture that can be decoded, by its timestamp.
fn seen(of: &Codec, packets: &[(i64, PacketView)], lost: &BTreeSet<usize>) -> BTreeMap<i64, Vec<u8>> {
    let payload_type = packets[0].1.payload_type();
    let media = producer(vec![codec(payload_type.0, of.clone(), 90_000)]);
    let first = packets[0].1.timestamp();
    let mut order = Reorder::default();
    for (_, (at, view)) in packets.iter().enumerate().filter(|(index, _)| !lost.contains(index)) {
        let packet = MediaPacket {
            sequence: view.sequence_number(),
            timestamp: view.timestamp(),
            marker: view.marker(),
            payload_type,
            payload: view.payload(),
            time: RoomTime::from_micros(view.timestamp().since(first)),
            orientation: None,
        };
        order.push(packet, RoomTime::from_micros(at * 1000));
    }
    let mut assembler = Assembler::default();
    let mut decoder = VideoDecoder::new(of).expect("a decoder");
    let mut seen = BTreeMap::new();
    while let Some(packets) = order.pop_picture_before(RoomTime::from_micros(i64::MAX)) {
        let Ok(coded) = assembler.picture(&packets, &media) else { continue };
        for (at, picture) in
            decoder.decode(&coded.data, packets.time.as_micros()).expect("nothing that it builds on is missing")
        {
            let rows = picture.y().chunks(picture.stride(0)).map(|row| &row[..picture.width()]);
            seen.insert(at, rows.collect::<Vec<_>>().concat());
        }
    }
    seen
}

const STREAMS: [(&str, Codec); 5] = [
    ("vp8-l1t3.rtpdump", Codec::Vp8),
    ("vp9-l1t3.rtpdump", Codec::Vp9),
    ("vp9-l2t2.rtpdump", Codec::Vp9),
    ("vp9-l3t3-key.rtpdump", Codec::Vp9),
    ("h264-l1t3.rtpdump", Codec::H264),
];

#[test]
fn what_is_shown_after_a_loss_is_what_was_meant() {
    for (name, of) in STREAMS {
        let packets = stream(name);
        let whole = seen(&of, &packets, &BTreeSet::new());
        let pictures: BTreeSet<_> = packets.iter().map(|(_, view)| view.timestamp().0).collect();
        assert_eq!(whole.len(), pictures.len(), "{name}");
        let mut random = 1_u32;
        let mut shown = 0;
        for _ in 0..12 {
            // The key picture at the beginning is there; of the rest one in thirty is lost.
            let lost = (12..packets.len()).filter(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                random >> 8 & 0xff < 8
            });
            let damaged = seen(&of, &packets, &lost.collect());
            for (at, luma) in &damaged {
                assert!(whole[at] == *luma, "{name}: the picture at {at} shows something else");
            }
            shown += damaged.len();
        }
        eprintln!("{name}: {shown} of {} pictures", 12 * whole.len());
    }
}

#[test]
fn a_lost_picture_of_an_upper_layer_freezes_nothing() {
    for (name, of) in STREAMS {
        let packets = stream(name);
        let depacketizer = VideoDepacketizer::new(&codec(96, of.clone(), 90_000)).expect("rendered");
        let upper: BTreeMap<_, _> = (packets.iter().enumerate())
            .filter(|(_, (_, view))| !view.payload().is_empty())
            .filter_map(|(index, (_, view))| Some((index, depacketizer.marks(&[view.payload()])?)))
            .filter(|(_, marks)| marks.temporal == 2 || marks.discardable)
            .collect();
        if name.contains("t3") {
            assert!(upper.len() > packets.len() / 20, "{name} has {} of {}", upper.len(), packets.len());
        }
        let whole = seen(&of, &packets, &BTreeSet::new()).len();
        for (index, _) in upper.iter().step_by(5) {
            let left = seen(&of, &packets, &BTreeSet::from([*index])).len();
            // The layer goes on at its next picture that builds on the base alone.
            assert!(whole - left <= 6, "{name}: packet {index} costs {} of {whole}", whole - left);
        }
    }
}

/// A stream of H.265 by libx265, in four slices a picture, of which every other is one that nothing builds on; with more `parameters`.
fn h265(parameters: &str) -> Vec<(i64, PacketView)> {
    let parameters =
        format!("log-level=none:bframes=3:b-adapt=0:scenecut=0:rc-lookahead=5:ref=2:slices=4:{parameters}");
    let options = [("preset", "ultrafast"), ("x265-params", &*parameters)];
    let pictures = coded("libx265", &options, (320, 180), 40, |canvas, index| {
        let stride = canvas.stride(0);
        for (row, line) in canvas.plane_mut(0).chunks_mut(stride).enumerate() {
            line.iter_mut().enumerate().for_each(|(column, luma)| *luma = ((row ^ (column + 5 * index)) * 3) as u8);
        }
    });
    let mut packets = Vec::new();
    for (index, picture) in (0_u32..).zip(&pictures) {
        let starts: Vec<_> = (0..picture.len()).filter(|at| picture[*at..].starts_with(&[0, 0, 1])).collect();
        let ends = starts.iter().skip(1).copied().chain([picture.len()]);
        let units: Vec<_> = starts.iter().zip(ends).map(|(start, end)| &picture[start + 3..end]).collect();
        for (place, unit) in (1..).zip(&units) {
            let at = i64::from(index) * 100_000;
            let packet = rtp(1, 96, packets.len() as u16, index * 9000, place == units.len(), unit, at);
            let PacketData::Rtp(bytes) = packet.data else { panic!("it is RTP") };
            packets.push((at / 1000, PacketView::parse(bytes).expect("RTP")));
        }
    }
    packets
}

#[test]
fn a_lost_picture_of_h265_costs_what_builds_on_it() {
    let packets = h265("keyint=999");
    let whole = seen(&Codec::H265, &packets, &BTreeSet::new());
    let first = packets[0].1.timestamp();
    let of_key = packets.iter().filter(|(_, view)| view.timestamp() == first).count();
    let mut costs = Vec::new();
    for lost in of_key..packets.len() {
        let left = seen(&Codec::H265, &packets, &BTreeSet::from([lost]));
        for (at, luma) in &left {
            assert!(whole[at] == *luma, "without packet {lost}, the picture at {at} shows something else");
        }
        costs.push(whole.len() - left.len());
    }
    let alone = costs.iter().filter(|cost| **cost == 1).count();
    // Of four packets the first and the last leave it open whether another picture is missing.
    assert!(alone * 8 > costs.len(), "nothing builds on every other picture: {costs:?}");
}

/// Type of the unit that a payload is.
fn unit_type(view: &PacketView) -> u8 {
    view.payload()[0] >> 1 & 0x3f
}

#[test]
fn what_leads_an_open_group_shows_nothing_that_was_not_meant() {
    const CRA: u8 = 21;
    const LEADING: std::ops::RangeInclusive<u8> = 8..=9;
    let packets = h265("keyint=12:min-keyint=12:open-gop=1:repeat-headers=1");
    let (first, at) = (packets[0].1.timestamp(), |index: usize| packets[index].1.timestamp());
    let of_type = |wanted: &dyn Fn(u8) -> bool| -> Vec<usize> {
        (0..packets.len()).filter(|index| wanted(unit_type(&packets[*index].1))).collect()
    };
    let (open, leading) = (of_type(&|found| found == CRA), of_type(&|found| LEADING.contains(&found)));
    assert!(open.len() >= 8 && leading.len() >= 8, "{} slices of CRA, {} that lead", open.len(), leading.len());

    // As the decoder shows it by itself, nothing lost.
    let mut meant = BTreeMap::new();
    let mut decoder = VideoDecoder::new(&Codec::H265).expect("a decoder");
    for picture in packets.chunk_by(|(_, one), (_, other)| one.timestamp() == other.timestamp()) {
        let units: Vec<_> = picture.iter().map(|(_, view)| [&[0, 0, 0, 1], &view.payload()[..]].concat()).collect();
        let time = picture[0].1.timestamp().since(first);
        for (at, picture) in decoder.decode(&units.concat(), time).expect("a whole stream") {
            let rows = picture.y().chunks(picture.stride(0)).map(|row| &row[..picture.width()]);
            meant.insert(at, rows.collect::<Vec<_>>().concat());
        }
    }
    let check = |lost: &BTreeSet<usize>, why: &str| {
        let left = seen(&Codec::H265, &packets, lost);
        for (at, luma) in &left {
            assert!(meant[at] == *luma, "{why}, the picture at {at} shows something else");
        }
        left
    };
    // Of a whole stream all is seen but what leads a group.
    let whole = check(&BTreeSet::new(), "with nothing lost");
    let led: BTreeSet<_> = leading.iter().map(|index| at(*index).since(first)).collect();
    assert!(meant.keys().all(|at| whole.contains_key(at) != led.contains(at)), "{led:?} lead, seen {:?}", whole.keys());
    for lost in 0..packets.len() {
        check(&BTreeSet::from([lost]), &format!("without packet {lost}"));
    }
    // A key picture is lost as a whole; and the stream begins with one that an open group follows.
    let second = of_type(&|found| found == CRA).into_iter().filter(|index| at(*index) == at(open[0])).collect();
    check(&second, "without a key picture");
    // Its parameter sets stand before it.
    let before = (0..packets.len()).take_while(|index| at(*index) != at(open[4])).collect();
    let begun = check(&before, "from the second key picture on");
    assert_eq!(begun.keys().next(), Some(&at(open[4]).since(first)));
}

#[test]
fn a_phone_that_is_held_upright_is_shown_upright() {
    let mut media = producer(vec![codec(96, Codec::Vp8, 90_000)]);
    media.header_extensions = vec![HeaderExtension { id: ORIENTATION_ID, uri: orientation::URI.to_owned() }];
    let mut track = VideoTrack::new(media);
    let mut participant = ParticipantClock::default();
    for (index, picture) in (0_u16..).zip(vp8_of((320, 180), 9999, 10, |index| [index as u8, 128, 128])) {
        let at = i64::from(index) * 100_000;
        let packet = rtp(1, 96, index, u32::from(index) * 9000, true, &[&[0x10], &picture[..]].concat(), at);
        // Said with the key picture, then when the phone is turned.
        let packet = match index {
            0 => with_orientation(&packet, 1),
            6 => with_orientation(&packet, 0),
            _ => packet,
        };
        track.receive(&packet, &mut participant);
    }
    track.place(&participant);
    let sizes = (0..10).map(|index| {
        let picture = track.picture(RoomTime::from_micros(index * 100_000), 320, 320).expect("there is one");
        (picture.width(), picture.height())
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [vec![(180, 320); 6], vec![(320, 180); 4]].concat());
}

/// Sizes of what a track of this stream shows, picture by picture as they were sent, in a tile of this width; and its quality.
fn sizes(name: &str, tile: u32, is_lost: impl Fn(usize, &PacketView) -> bool) -> (Vec<usize>, VideoQuality) {
    let packets = stream(name);
    let mut track = VideoTrack::new(producer(vec![codec(98, Codec::Vp9, 90_000)]));
    let mut participant = ParticipantClock::default();
    for (index, (at, view)) in packets.iter().enumerate() {
        if !is_lost(index, view) {
            let packet = Packet { time: RoomTime::from_micros(at * 1000), data: PacketData::Rtp(view.bytes().clone()) };
            track.receive(&packet, &mut participant);
        }
    }
    track.place(&participant);
    let last = packets.last().map_or(0, |(at, _)| *at) * 1000;
    let widths = (0..last / 50_000).map(|tick| {
        let t = RoomTime::from_micros(tick * 50_000 + 200_000);
        track.picture(t, tile, tile * 9 / 16).map_or(0, |picture| picture.width())
    });
    (widths.collect(), track.quality())
}

#[test]
fn spatial_layers_are_decoded_whole() {
    for name in ["vp9-l3t3-key.rtpdump", "vp9-l2t2.rtpdump"] {
        for tile in [160, 640] {
            let (shown, quality) = sizes(name, tile, |_, _| false);
            assert_eq!((quality.lost_pictures, quality.decoder_errors), (0, 0), "{name}");
            // Without frequent key pictures to come back at, a small tile leaves out nothing.
            assert!(shown.iter().all(|width| *width == 640), "{name}: {shown:?}");
        }
    }
}

#[test]
fn a_lost_upper_spatial_layer_makes_the_picture_smaller_and_not_still() {
    for name in ["vp9-l3t3-key.rtpdump", "vp9-l2t2.rtpdump"] {
        let packets = stream(name);
        // In the middle, the end of the upper layer of a picture that others build on.
        let depacketizer = VideoDepacketizer::new(&codec(98, Codec::Vp9, 90_000)).expect("rendered");
        let is_base =
            |view: &PacketView| depacketizer.marks(&[view.payload()]).is_some_and(|marks| marks.temporal == 0);
        let lost = (packets.len() / 2..packets.len()).find(|index| {
            let view = &packets[*index].1;
            view.marker() && !view.payload().is_empty() && is_base(view)
        });
        let (shown, quality) = sizes(name, 640, |index, _| Some(index) == lost);
        let whole = sizes(name, 640, |_, _| false);
        assert!(quality.intake.lost > 0 && quality.frozen_ms == 0, "{name}: {quality:?}");
        let changes: Vec<_> = shown
            .iter()
            .scan(0, |last, width| Some((std::mem::replace(last, *width), *width)))
            .filter(|(a, b)| a != b)
            .collect();
        assert_eq!(changes, [(0, 640), (640, 320)], "{name}: smaller from there on, up to a key picture");
        let decoded = whole.1.decoded_pictures - quality.decoded_pictures;
        assert!(decoded <= 2, "{name}: {decoded} of {} pictures are not decoded", whole.1.decoded_pictures);
        assert_eq!(quality.decoder_errors, 0, "{name}");
    }
}

#[test]
fn a_small_tile_leaves_out_spatial_layers_where_key_pictures_are_frequent() {
    // From the key picture that begins both layers, over and over again.
    let packets = &stream("vp9-l3t3-key.rtpdump")[18..];
    let first = (packets[0].0, packets[0].1.timestamp());
    let span_ms = packets[packets.len() - 1].0 - first.0 + 66;
    let mut track = VideoTrack::new(producer(vec![codec(98, Codec::Vp9, 90_000)]));
    let mut participant = ParticipantClock::default();
    for turn in 0..10_u32 {
        for (index, (at, view)) in (0_u16..).zip(packets) {
            let sequence = turn as u16 * packets.len() as u16 + index;
            let timestamp = turn * span_ms as u32 * 90 + view.timestamp().since(first.1) as u32;
            let at_us = (at - first.0 + i64::from(turn) * span_ms) * 1000;
            let packet = rtp(7, 98, sequence, timestamp, view.marker(), &view.payload(), at_us);
            track.receive(&packet, &mut participant);
        }
    }
    track.place(&participant);
    let mut changes = Vec::new();
    for tick in 0..10 * span_ms / 50 {
        // The tile is small but for five seconds from the twelfth on.
        let tile = if (240..340).contains(&tick) { 640 } else { 160 };
        let picture = track.picture(RoomTime::from_micros(tick * 50_000 + 100_000), tile, tile * 9 / 16);
        let width = picture.expect("there is one at any time").width();
        if changes.last().is_none_or(|(_, last)| *last != width) {
            changes.push((tick, width));
        }
    }
    let widths: Vec<_> = changes.iter().map(|(_, width)| *width).collect();
    assert_eq!(widths, [640, 320, 640, 320], "{changes:?}");
    assert!((240..320).contains(&changes[2].0), "it is large again within four seconds: {changes:?}");
    assert_eq!((track.quality().decoder_errors, track.quality().lost_pictures), (0, 0));
}
