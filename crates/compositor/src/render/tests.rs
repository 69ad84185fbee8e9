//! A room of one told in packets, rendered.

use bytes::Bytes;
use ffmpeg_the_third::codec::{Context, encoder};
use ffmpeg_the_third::{Dictionary, Packet as Coded, Rational, format::Pixel};
use roomreel_shared::batch::{Incarnation, RtpBatch};
use roomreel_shared::event::{Codec, EventKind, RoomEvent, StopReason};
use roomreel_shared::id::{RoomId, TenantId, TrackId};
use roomreel_shared::policy::Policy;
use roomreel_shared::subject::Writer;
use roomreel_shared::time::LogTime;
use roomreel_shared::window::{self, Final, Hash, Header, SealedSegment, SegmentFrames};
use roomreel_shared::wire;

use super::*;
use crate::decode::VideoDecoder;
use crate::documents::Documents;
use crate::documents::timeline::What;
use crate::track::tests_support::{codec, producer, rtp};

const START_US: i64 = 1_700_000_000_000_000;
const WINDOW_US: i64 = 1_000_000;
const BRIGHT: [u8; 3] = [200, 90, 160];

pub(crate) fn fold() -> FoldSpec {
    FoldSpec {
        tenant: TenantId::new("acme").expect("valid"),
        room: RoomId::new("room").expect("valid"),
        recording: RecordingId::new("01r").expect("valid"),
        shards: 1,
        from: None,
        session: None,
        beginning: None,
        start_sequence: 0,
        window_ms: 1000,
        policy: Policy::default(),
        epoch_base: 0,
    }
}

pub(crate) fn spec() -> CompositeSpec {
    CompositeSpec { width: 320, height: 180, fps: 10, ..CompositeSpec::default() }
}

/// `count` VP8 frames, each of one colour, the first a key frame.
pub(crate) fn vp8(count: usize, colour: impl Fn(usize) -> [u8; 3]) -> Vec<Bytes> {
    vp8_of((320, 180), 9999, count, colour)
}

/// The same of another size, with a key frame every so many frames.
pub(crate) fn vp8_of(
    size: (u32, u32),
    key_distance: u32,
    count: usize,
    colour: impl Fn(usize) -> [u8; 3],
) -> Vec<Bytes> {
    let distance = key_distance.to_string();
    let options = [("deadline", "realtime"), ("lag-in-frames", "0"), ("cpu-used", "8"), ("g", &distance)];
    coded("libvpx", &options, size, count, |canvas, index| canvas.fill(colour(index)))
}

/// Painted frames by libavcodec's encoder `name`.
pub(crate) fn coded(
    name: &str,
    options: &[(&str, &str)],
    (width, height): (u32, u32),
    count: usize,
    paint: impl Fn(&mut Canvas, usize),
) -> Vec<Bytes> {
    let found = encoder::find_by_name(name).unwrap_or_else(|| panic!("libavcodec has no {name}"));
    let mut context = Context::new_with_codec(found).encoder().video().expect("a video encoder");
    context.set_width(width);
    context.set_height(height);
    context.set_format(Pixel::YUV420P);
    context.set_time_base(Rational::new(1, 10));
    let mut encoder = context.open_with(Dictionary::from_iter(options.iter().copied())).expect("it opens");
    let mut canvas = Canvas::new(width as usize, height as usize);
    let mut coded = Vec::new();
    let mut packet = Coded::empty();
    for index in 0..count {
        paint(&mut canvas, index);
        let mut frame = canvas.frame().clone();
        frame.set_pts(Some(index as i64));
        encoder.send_frame(&frame).expect("it takes a frame");
        while encoder.receive_packet(&mut packet).is_ok() {
            coded.push(Bytes::copy_from_slice(packet.data().expect("it has content")));
        }
    }
    coded
}

mod bad_media;

pub(super) type Events = Vec<(i64, EventKind)>;
pub(super) type Packets = BTreeMap<TrackKey, Vec<Packet>>;

/// Three seconds of a participant who joins after half a second: a picture ten times a second in two packets each, and a square
/// wave in G.711.
pub(super) fn media() -> (Events, Packets) {
    let sfu = SfuId::new("sfu").expect("valid");
    let key = |track: &str| TrackKey { sfu: sfu.clone(), track: TrackId::new(track).expect("valid") };
    let named = |track: &str, media: Producer| Producer { track: key(track).track, ..media };
    let camera = named("cam", producer(vec![codec(96, Codec::Vp8, 90_000)]));
    let microphone = named("mic", producer(vec![codec(8, Codec::Pcma, 8000)]));
    let joined = EventKind::PeerJoined {
        peer: camera.peer.clone(),
        display_name: "Amara".to_owned(),
        is_host: true,
        is_co_host: false,
        is_panelist: false,
    };
    let events = vec![
        (500_000, joined),
        (510_000, EventKind::ProducerCreated(camera)),
        (510_000, EventKind::ProducerCreated(microphone)),
        (2_000_000, EventKind::ProducerPaused { track: key("mic").track }),
    ];
    let mut packets = Packets::new();
    for (index, picture) in vp8(25, |_| BRIGHT).into_iter().enumerate() {
        let at = 520_000 + index as i64 * 100_000;
        let (first, second) = picture.split_at(picture.len() / 2);
        for (part, (descriptor, data)) in [(0x10, first), (0x00, second)].into_iter().enumerate() {
            let payload = [&[descriptor], data].concat();
            let sequence = (index * 2 + part) as u16;
            let packet = rtp(1, 96, sequence, index as u32 * 9000, part == 1, &payload, START_US + at + part as i64);
            packets.entry(key("cam")).or_default().push(packet);
        }
    }
    let tone: Vec<u8> = (0..160).map(|sample| if sample / 20 % 2 == 0 { 0xb5 } else { 0x35 }).collect();
    for index in 0..120 {
        let at = START_US + 520_000 + index * 20_000;
        packets.entry(key("mic")).or_default().push(rtp(2, 8, index as u16, index as u32 * 160, index == 0, &tone, at));
    }
    (events, packets)
}

pub(crate) fn windows() -> Vec<Window> {
    windows_of(&media())
}

/// Three windows of what happens and of what is sent, that end 2.9 s after the beginning.
pub(super) fn windows_of((events, packets): &(Events, Packets)) -> Vec<Window> {
    let incarnation = Incarnation::new(1).expect("not 0");
    let mut numbers: BTreeMap<TrackKey, u64> = BTreeMap::new();
    let window = |k: i64| {
        let span = START_US + k * WINDOW_US..START_US + (k + 1) * WINDOW_US;
        let is_last = k == 2;
        let segments: Vec<_> = packets
            .iter()
            .filter_map(|(key, packets)| {
                let inside = |packet: &&Packet| span.contains(&packet.time.as_micros());
                let packets: Vec<_> = packets.iter().filter(inside).cloned().collect();
                let (first, last) = (packets.first()?.time, packets.last()?.time);
                let first_packet_no = *numbers.entry(key.clone()).or_default();
                *numbers.entry(key.clone()).or_default() += packets.len() as u64;
                let count = packets.len() as u32;
                let batch = RtpBatch {
                    room: fold().room,
                    track: key.track.clone(),
                    incarnation,
                    batch_no: k as u64,
                    first_packet_no,
                    packets,
                };
                let mut frames = SegmentFrames::default();
                frames.push(&batch.encode(), LogTime::from_micros(last.as_micros()), false);
                Some(SealedSegment {
                    key: key.clone(),
                    frames: frames.seal(),
                    packets: count,
                    invalid_packets: 0,
                    span: (first, last),
                    keyframes: vec![],
                })
            })
            .collect();
        let events: Vec<_> = events
            .iter()
            .enumerate()
            .filter(|(_, (at, _))| span.contains(&(START_US + at)))
            .map(|(index, (at, kind))| {
                let event = RoomEvent {
                    room: fold().room,
                    incarnation,
                    event_no: index as u64,
                    time: RoomTime::from_micros(START_US + at),
                    kind: kind.clone(),
                };
                let writer = Writer::Sfu(SfuId::new("sfu").expect("valid"));
                (writer, LogTime::from_micros(START_US + at), event.encode())
            })
            .collect();
        let header = Header {
            tenant: fold().tenant,
            room: fold().room,
            recording: fold().recording,
            window: k as u64,
            epoch: 1,
            nonce: 1,
            previous: (k > 0).then(|| Hash::of(b"the one before")),
            log_span: (LogTime::from_micros(span.start), LogTime::from_micros(span.end)),
            room_start: RoomTime::from_micros(START_US),
            room_seen: RoomTime::from_micros(span.end),
            window_duration_us: WINDOW_US.unsigned_abs(),
            gaps: vec![],
            carry_over: wire::CarryOver::default(),
            end: is_last.then(|| Final {
                reason: StopReason::RoomClosed,
                room_end: RoomTime::from_micros(START_US + 2_900_000),
            }),
            trace_parent: None,
        };
        Window::parse(window::encode(&header, &segments, &events)).expect("whole")
    };
    [0, 1, 2].map(window).into()
}

fn rendered(core: RenderCore) -> (Vec<RenderedSlice>, RenderCore) {
    rendered_of(core, &windows())
}

fn rendered_of(mut core: RenderCore, windows: &[Window]) -> (Vec<RenderedSlice>, RenderCore) {
    let mut slices = Vec::new();
    for window in windows {
        core.push_window(window).expect("its recording");
        while let Some(slice) = core.next_slice().expect("the encoder works") {
            slices.push(slice);
        }
    }
    (slices, core)
}

/// Luma at the middle of each picture of a slice.
fn middles(core_config: &VideoConfig, slice: &RenderedSlice) -> Vec<u8> {
    luma_of(core_config, &slice.encoded)
}

/// The same of an encoded slice.
pub(crate) fn luma_of(core_config: &VideoConfig, slice: &EncodedSlice) -> Vec<u8> {
    let mut decoder = VideoDecoder::new(&Codec::H264).expect("there is one");
    let annex_b = |unit: &[u8]| [&[0, 0, 0, 1], unit].concat();
    let sets = [annex_b(&core_config.sps), annex_b(&core_config.pps)].concat();
    let mut middles = BTreeMap::new();
    let mut samples: Vec<_> = slice.video.iter().map(|sample| (sample.pts, sample.data.to_vec())).collect();
    // Pictures come out one late or more: the last ones are pushed out by the first again.
    samples.extend(samples.clone());
    for (index, (pts, mut data)) in samples.into_iter().enumerate() {
        let mut at = 0;
        while at + 4 <= data.len() {
            let length = u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]) as usize;
            data[at..at + 4].copy_from_slice(&[0, 0, 0, 1]);
            at += 4 + length;
        }
        let first = if index % slice.video.len() == 0 { sets.clone() } else { Vec::new() };
        for (pts, picture) in decoder.decode(&[first, data].concat(), pts).expect("our own bitstream") {
            middles.entry(pts).or_insert(picture.y()[picture.stride(0) * 60 + 160]);
        }
    }
    middles.into_values().collect()
}

#[test]
fn a_room_is_seen_and_heard() {
    let core = RenderCore::new(spec(), fold()).expect("a layout and an encoder");
    let video = core.video_config().expect("not at its end");
    let (slices, core) = rendered(core);
    assert!(core.is_finished());
    let told: Vec<_> =
        slices.iter().map(|slice| (slice.due.number, slice.encoded.video.len(), slice.due.last)).collect();
    assert_eq!(told, [(0, 10, false), (1, 10, false), (2, 9, true)]);

    let bright = |luma: &u8| luma.abs_diff(BRIGHT[0]) < 12;
    let first = middles(&video, &slices[0]);
    assert!(first[..4].iter().all(|luma| !bright(luma)), "nobody is here yet: {first:?}");
    assert!(first[6..].iter().all(bright), "the camera is on: {first:?}");
    assert!(middles(&video, &slices[1]).iter().all(bright));

    let quality = core.quality();
    assert_eq!(quality.slices, 3);
    for track in quality.tracks.values() {
        match track {
            TrackQuality::Video(video) => {
                // From 520 ms on every 100 ms, until the last frame at 2.8 s.
                assert_eq!((video.decoded_pictures, video.lost_pictures, video.frozen_ms), (23, 0, 0));
            }
            TrackQuality::Audio(audio) => assert_eq!((audio.intake.lost, audio.concealed_ms), (0, 0)),
        }
    }
}

#[test]
fn a_render_that_takes_over_goes_on_with_equal_pictures() {
    let (whole, _) = rendered(RenderCore::new(spec(), fold()).expect("a layout and an encoder"));
    let mut successor = RenderCore::new(spec(), fold()).expect("a layout and an encoder");
    successor.skip_to(1).expect("an encoder");
    let (rest, _) = rendered(successor);
    assert_eq!(rest.iter().map(|slice| slice.due.number).collect::<Vec<_>>(), [1, 2]);
    for (first, second) in whole[1..].iter().zip(&rest) {
        assert!(first.encoded.video == second.encoded.video, "slice {} has other pictures", first.due.number);
        let times = |slice: &RenderedSlice| slice.encoded.audio.iter().map(|sample| sample.pts).collect::<Vec<_>>();
        assert_eq!(times(first), times(second), "I5");
    }
}

#[test]
fn a_warm_up_does_not_wait_for_the_slice() {
    let mut core = RenderCore::new(spec(), fold()).expect("a layout and an encoder");
    core.skip_to(2).expect("an encoder");
    let mut left = Vec::new();
    for window in &windows()[..2] {
        core.push_window(window).expect("its recording");
        left.push(core.warm_up.clone());
    }
    // Up to the reorder allowance before the newest packets of either track, and by log time where there are none yet.
    assert_eq!(left, [Some(4..20), Some(14..20)]);
    let waiting = |track: &mut Track| match &mut track.media {
        TrackMedia::Video(video) => video.waiting_packets(),
        TrackMedia::Audio(audio) => audio.waiting_packets(),
    };
    // Of the camera seven pictures in two packets each, from 1.32 s on; of the microphone half a second in fiftieths.
    let waiting: Vec<_> = core.tracks.values_mut().map(waiting).collect();
    assert!(waiting[0] <= 14 && waiting[1] <= 25, "{waiting:?}");
}

#[test]
fn names_in_a_layout_that_were_nobodys_are_noted() {
    let layout = r#"{"regions": {"main": {"video_sources": ["*", "bob"]}}}"#.to_owned();
    let (_, core) = rendered(RenderCore::new(CompositeSpec { layout, ..spec() }, fold()).expect("a layout"));
    let note =
        r#"layout: regions.main.video_sources[1]: nobody in recording 01r is or publishes "bob"; there was nobody"#;
    assert_eq!(core.quality().notes, [note]);
}

#[test]
fn windows_are_let_go_of_when_their_time_is_over() {
    let core = RenderCore::new(spec(), fold()).expect("a layout and an encoder");
    assert_eq!(held(core), [1, 1, 1], "the newest one alone");
    // Before a warm-up too.
    let mut core = RenderCore::new(spec(), fold()).expect("a layout and an encoder");
    core.skip_to(60).expect("an encoder");
    assert_eq!(held(core)[..2], [1, 1], "the newest one alone");
}

/// How many windows a render holds after each.
fn held(mut core: RenderCore) -> Vec<usize> {
    let mut objects = Vec::new();
    let mut held = Vec::new();
    for window in windows() {
        core.push_window(&window).expect("its recording");
        objects.push(window.object().clone());
        drop(window);
        while core.next_slice().expect("the encoder works").is_some() {}
        held.push(objects.iter().filter(|object| !object.is_unique()).count());
    }
    held
}

#[test]
fn another_recordings_window_is_refused() {
    let other = FoldSpec { recording: RecordingId::new("other").expect("valid"), ..fold() };
    let mut core = RenderCore::new(spec(), other).expect("a layout and an encoder");
    assert!(matches!(core.push_window(&windows()[0]), Err(Error::WrongRecording { .. })));
}

#[test]
fn documents_tell_the_same_story() {
    let mut documents = Documents::new(&fold());
    windows().iter().for_each(|window| documents.push_window(window));
    let timeline = documents.timeline();
    assert_eq!(timeline.duration_ms, 2900);
    let offsets: Vec<_> = timeline.entries.iter().map(|entry| entry.offset_ms).collect();
    assert_eq!(offsets, [500, 510, 510, 2000, 2900]);
    assert!(matches!(&timeline.entries[3].what, What::TrackMuted { peer_id: Some(peer), .. } if peer == "amara"));
    let metadata = documents.metadata();
    let amara = &metadata.participants[0];
    assert_eq!(
        (amara.display_name.as_str(), amara.is_host, amara.joined_ms, amara.left_ms),
        ("Amara", true, 500, None)
    );
    assert_eq!(amara.tracks.iter().map(|track| track.packets).collect::<Vec<_>>(), [50, 120]);
    assert_eq!(metadata.recording.stop_reason, Some(StopReason::RoomClosed));
    let json = serde_json::to_string(&metadata).expect("serializable");
    assert_eq!(serde_json::from_str::<crate::documents::metadata::Metadata>(&json).expect("readable"), metadata);
    assert_eq!(documents.quality(&[]).tracks.len(), 2);
}

#[test]
fn sound_is_mixed_until_it_is_muted() {
    let mut core = RenderCore::new(spec(), fold()).expect("a layout and an encoder");
    for window in windows() {
        core.push_window(&window).expect("its recording");
        while core.next_slice().expect("the encoder works").is_some() {}
        let level = core.meters.values().next().map(SpeechMeter::activity);
        match window.header.window {
            1 => assert!(level.is_some_and(|activity| activity.speaking), "{level:?}"),
            2 => assert!(level.is_some_and(|activity| !activity.speaking && activity.level == 0), "{level:?}"),
            _ => {}
        }
    }
}

#[test]
fn a_slice_whose_first_frame_lies_behind_a_cut_has_the_sound_before_it() {
    // The fourth slice begins at 0.999 s, its first frame would be that of 1 s.
    let fold = FoldSpec { window_ms: 333, ..fold() };
    let late = LateJob {
        from_us: 0,
        to_us: 60_000_000,
        cuts: Cuts::try_from(vec![(1, 40)]).expect("in order"),
        hidden: None,
        division: roomreel_shared::late::Division { slices: 64, span: 3 },
        piece: roomreel_shared::late::Piece::Join,
    };
    let core = RenderCore::late(spec(), fold, &late, 3).expect("a layout and an encoder");
    assert_eq!(core.warm_up, Some(0..400));
    assert!(core.samples <= core.sound_from, "{} samples, wanted from {}", core.samples, core.sound_from);
}
