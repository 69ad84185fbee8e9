//! A recording of a minute, rendered as a whole, in pieces and after interruptions.

use bytes::Bytes;
use roomreel_backends::memory::MemoryStore;
use roomreel_shared::batch::{Incarnation, Packet, RtpBatch};
use roomreel_shared::event::{Codec, EventKind, Producer, RoomEvent, StopReason};
use roomreel_shared::id::{PeerId, SfuId, TrackId};
use roomreel_shared::late::{Cuts, Division, Piece};
use roomreel_shared::rtp::{RtpTimestamp, Ssrc};
use roomreel_shared::subject::Writer;
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::{self, Final, Hash, Header, Keyframe, SealedSegment, SegmentFrames, TrackKey, Window};
use roomreel_shared::wire;

use super::*;
use crate::mux::parse_fragment;
use crate::render::RenderCore;
use crate::render::tests::{fold as short_fold, luma_of, spec, vp8};
use crate::track::tests_support::{codec, producer, rtp};

const START_US: i64 = 1_700_000_000_000_000;
const WINDOW_S: i64 = 4;
const LENGTH_MS: u64 = 63_200;
/// Where media falls silent in [`objects_with_pause`], microseconds.
const PAUSE_US: i64 = 20_500_000;

fn fold() -> FoldSpec {
    FoldSpec { window_ms: WINDOW_S.unsigned_abs() * 1000, ..short_fold() }
}

fn key(track: &str) -> TrackKey {
    TrackKey { sfu: SfuId::new("sfu").expect("valid"), track: TrackId::new(track).expect("valid") }
}

/// The camera's brightness at a frame.
fn brightness(frame: usize) -> u8 {
    60 + (frame / 10 % 16 * 10) as u8
}

struct Media {
    key: TrackKey,
    packets: Vec<Packet>,
    keyframes: Vec<Keyframe>,
}

/// A camera with one key picture, at its beginning, and a microphone; from [`PAUSE_US`] on so many seconds later.
fn media(pause_s: i64) -> Vec<Media> {
    // As a sender's clocks show it that goes on counting.
    let paused = |at: i64, rate: u32| {
        let seconds = if at - START_US < PAUSE_US { 0 } else { pause_s };
        (at + seconds * 1_000_000, seconds as u32 * rate)
    };
    let pictures = vp8(620, |frame| [brightness(frame), 120, 130]);
    let mut camera = Media { key: key("cam"), packets: vec![], keyframes: vec![] };
    for (index, picture) in pictures.iter().enumerate() {
        let (at, later) = paused(START_US + 520_000 + index as i64 * 100_000, 90_000);
        let payload = [&[0x10], &picture[..]].concat();
        if picture[0] & 1 == 0 {
            camera.keyframes.push(Keyframe {
                incarnation: Incarnation::new(1).expect("not 0"),
                packet_no: index as u64,
                ssrc: Ssrc(1),
                timestamp: RtpTimestamp(index as u32 * 9000 + later),
                time: RoomTime::from_micros(at),
            });
        }
        camera.packets.push(rtp(1, 96, index as u16, index as u32 * 9000 + later, true, &payload, at));
    }
    assert_eq!(camera.keyframes.len(), 1);
    let tone: Vec<u8> = (0..160).map(|sample| if sample / 20 % 2 == 0 { 0xb5 } else { 0x35 }).collect();
    let packets = (0..3100).map(|index: i64| {
        let (at, later) = paused(START_US + 520_000 + index * 20_000 + index % 3 * 1000, 8000);
        rtp(2, 8, index as u16, index as u32 * 160 + later, index == 0, &tone, at)
    });
    vec![camera, Media { key: key("mic"), packets: packets.collect(), keyframes: vec![] }]
}

fn events() -> Vec<(i64, EventKind)> {
    let named = |track: &str, media: Producer| Producer { track: key(track).track, ..media };
    let camera = named("cam", producer(vec![codec(96, Codec::Vp8, 90_000)]));
    let microphone = named("mic", producer(vec![codec(8, Codec::Pcma, 8000)]));
    let joined = |peer: &PeerId| EventKind::PeerJoined {
        peer: peer.clone(),
        display_name: peer.to_string(),
        is_host: false,
        is_co_host: false,
        is_panelist: false,
    };
    let other = PeerId::new("bo").expect("valid");
    vec![
        (500_000, joined(&camera.peer)),
        (510_000, EventKind::ProducerCreated(camera)),
        (510_000, EventKind::ProducerCreated(microphone)),
        (50_000_000, joined(&other)),
        (57_000_000, EventKind::PeerLeft { peer: other, reason: String::new() }),
    ]
}

fn objects() -> Vec<Bytes> {
    objects_with_pause(0)
}

/// The same with so many seconds in which nothing comes, somewhere in its middle.
fn objects_with_pause(pause_s: i64) -> Vec<Bytes> {
    let (media, events) = (media(pause_s), events());
    let length_ms = LENGTH_MS as i64 + pause_s * 1000;
    let windows = (length_ms + WINDOW_S * 1000 - 1) / (WINDOW_S * 1000);
    let object = |k: i64| {
        let span = START_US + k * WINDOW_S * 1_000_000..START_US + (k + 1) * WINDOW_S * 1_000_000;
        let log = |us| LogTime::from_micros(us);
        let segments = media.iter().filter_map(|Media { key, packets, keyframes }| {
            let inside = |time: RoomTime| span.contains(&time.as_micros());
            let first_packet_no = packets.iter().take_while(|packet| packet.time.as_micros() < span.start).count();
            let packets: Vec<_> = packets.iter().filter(|packet| inside(packet.time)).cloned().collect();
            let (first, last) = (packets.first()?.time, packets.last()?.time);
            let count = packets.len() as u32;
            let batch = RtpBatch {
                room: fold().room,
                track: key.track.clone(),
                incarnation: Incarnation::new(1).expect("not 0"),
                batch_no: k as u64,
                first_packet_no: first_packet_no as u64,
                packets,
            };
            let mut frames = SegmentFrames::default();
            frames.push(&batch.encode(), log(last.as_micros()), false);
            Some(SealedSegment {
                key: key.clone(),
                frames: frames.seal(),
                packets: count,
                invalid_packets: 0,
                span: (first, last),
                keyframes: keyframes.iter().filter(|keyframe| inside(keyframe.time)).copied().collect(),
            })
        });
        let segments: Vec<_> = segments.collect();
        let events = events.iter().enumerate().filter(|(_, (at, _))| span.contains(&(START_US + at)));
        let events: Vec<_> = events
            .map(|(number, (at, kind))| {
                let event = RoomEvent {
                    room: fold().room,
                    incarnation: Incarnation::new(1).expect("not 0"),
                    event_no: number as u64,
                    time: RoomTime::from_micros(START_US + at),
                    kind: kind.clone(),
                };
                (Writer::Sfu(key("cam").sfu), log(START_US + at), event.encode())
            })
            .collect();
        let room_end = RoomTime::from_micros(START_US + length_ms * 1000);
        let header = Header {
            tenant: fold().tenant,
            room: fold().room,
            recording: fold().recording,
            window: k as u64,
            epoch: 1,
            nonce: 1,
            previous: (k > 0).then(|| Hash::of(b"the one before")),
            log_span: (log(span.start), log(span.end)),
            room_start: RoomTime::from_micros(START_US),
            room_seen: RoomTime::from_micros(span.end),
            window_duration_us: 4_000_000,
            gaps: vec![],
            carry_over: wire::CarryOver::default(),
            end: (k + 1 == windows).then_some(Final { reason: StopReason::RoomClosed, room_end }),
            trace_parent: None,
        };
        window::encode(&header, &segments, &events)
    };
    (0..windows).map(object).collect()
}

struct World {
    store: MemoryStore,
    keys: RecordingKeys,
    late: LateJob,
}

impl World {
    async fn new(objects: &[Bytes], from_ms: u64, to_ms: u64) -> Self {
        let store = MemoryStore::new();
        let keys = RecordingKeys::new(&fold().tenant, &fold().room, &fold().recording);
        for (number, object) in (0..).zip(objects) {
            store.create(&keys.window(number), object.clone()).await.expect("memory");
        }
        let stretch = Duration::from_millis(from_ms)..Duration::from_millis(to_ms);
        let division = Division {
            span: 4,
            ..Division::of(stretch.end - stretch.start, Duration::from_secs(WINDOW_S.unsigned_abs()))
        };
        let late = LateJob {
            from_us: from_ms * 1000,
            to_us: to_ms * 1000,
            cuts: Cuts::default(),
            hidden: None,
            division,
            piece: Piece::Join,
        };
        Self { store, keys, late }
    }

    /// The same without what is left out, in spans of so many slices.
    fn cut(mut self, cuts: &[(u32, u32)], span: u64) -> Self {
        self.late.cuts = Cuts::try_from(cuts.to_vec()).expect("in order");
        self.late.division = Division { span, ..Division::of(self.late.length(), Duration::from_secs(4)) };
        self
    }

    fn spans(&self, todo: Range<u64>) -> Spans {
        Spans::new(Arc::new(self.store.clone()), spec(), fold(), self.late.clone(), todo)
    }

    /// Makes up to `steps` of them; how many windows' packets it read.
    async fn make(&self, todo: Range<u64>, steps: usize) -> u64 {
        let mut spans = self.spans(todo);
        for _ in 0..steps {
            if spans.step().await.expect("it renders") == Step::Finished {
                break;
            }
        }
        spans.windows_read()
    }

    async fn slices(&self) -> Vec<Bytes> {
        let mut slices = Vec::new();
        for number in 0..self.late.division.slices {
            slices.push(self.store.get(&self.keys.slice(&spec().id, number)).await.expect("a slice"));
        }
        slices
    }

    /// The brightness of every frame, and the first channel of the sound as a player gives it.
    async fn seen_and_heard(&self) -> (Vec<u8>, Vec<f32>) {
        let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::default());
        let work = Work { spec: spec(), fold: fold(), first: 0, late: None };
        let engine = Engine::open(work, None, &store).await.expect("an engine");
        let slices = self.slices().await;
        let frames =
            slices.iter().flat_map(|slice| luma_of(engine.video_config(), &parse_fragment(slice).expect("ours")));
        let init = self.store.get(&self.keys.init(&spec().id)).await.expect("a header");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("late.mp4");
        std::fs::write(&file, [init].iter().chain(&slices).flatten().copied().collect::<Vec<_>>()).expect("written");
        let mut player = std::process::Command::new("ffmpeg");
        player.args(["-nostdin", "-v", "warning", "-xerror", "-i"]).arg(&file);
        let played = player.args(["-map", "0:a", "-ac", "1", "-f", "f32le", "-"]).output().expect("ffmpeg");
        assert_eq!(String::from_utf8_lossy(&played.stderr), "");
        let sound = played.stdout.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four")));
        (frames.collect(), sound.collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_are_equal_whoever_makes_them() {
    let objects = objects();
    let whole = World::new(&objects, 0, LENGTH_MS).await;
    assert_eq!((whole.late.division.slices, whole.late.division.spans()), (16, 4));
    whole.make(0..4, usize::MAX).await;
    let expected = whole.slices().await;
    let shared = World::new(&objects, 0, LENGTH_MS).await;
    let last = shared.make(3..4, usize::MAX).await;
    shared.make(1..3, usize::MAX).await;
    shared.make(0..1, usize::MAX).await;
    assert!(shared.slices().await == expected, "made by three");
    // The span's own four windows and the warm-up's eight, of sixteen.
    assert!(last <= 4 + 8 + 1, "{last} windows for 4 slices");
    let killed = World::new(&objects, 0, LENGTH_MS).await;
    killed.make(0..4, 60).await;
    assert!(killed.store.size(&killed.keys.slice(&spec().id, 15)).await.is_err());
    killed.make(0..4, 100).await;
    killed.make(0..4, usize::MAX).await;
    assert!(killed.slices().await == expected, "made by one that was killed twice");

    // And as the room saw them while it talked: pictures that build on a key picture of a minute ago included.
    let mut live = RenderCore::new(spec(), fold()).expect("a layout and an encoder");
    let mut seen = Vec::new();
    for object in &objects {
        live.push_window(&Window::parse(object.clone()).expect("whole")).expect("its recording");
        while let Some(slice) = live.next_slice().expect("it renders") {
            seen.push(slice.encoded);
        }
    }
    for (live, late) in seen.iter().zip(&expected) {
        let late = parse_fragment(late).expect("ours");
        assert!(live.video == late.video, "slice {} has other pictures", live.number);
        let times = |slice: &EncodedSlice| slice.audio.iter().map(|sample| sample.pts).collect::<Vec<_>>();
        assert_eq!(times(live), times(&late), "I5");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stretch_begins_and_ends_at_its_frame() {
    let world = World::new(&objects(), 45_300, 54_750).await;
    world.make(0..1, usize::MAX).await;
    let slices: Vec<_> = world.slices().await.iter().map(|slice| parse_fragment(slice).expect("ours")).collect();
    let frames: Vec<_> = slices.iter().map(|slice| slice.video.len()).collect();
    assert_eq!(frames, [40, 40, 15], "9.45 s at 10 frames/s: one frame shows the last half");
    let first = &slices[0].video[0];
    assert_eq!((first.dts, slices[0].number), (0, 0));
    // 45.3 s after the beginning the frame of 45.22 s stands, the 447th.
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::default());
    let work = Work { spec: spec(), fold: fold(), first: 0, late: None };
    let engine = Engine::open(work, None, &store).await.expect("an engine");
    for (slice, frame) in [(0, 447), (1, 487)] {
        let luma = luma_of(engine.video_config(), &slices[slice])[0];
        assert!(luma.abs_diff(brightness(frame)) < 6, "{luma} at frame {frame}, not {}", brightness(frame));
    }
    let samples: u64 = slices.iter().flat_map(|slice| &slice.audio).map(|sample| u64::from(sample.duration)).sum();
    assert!(samples.abs_diff(9_450 * 48) < 1024, "{samples} samples");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_hidden_is_not_seen() {
    let objects = objects();
    let shown = World::new(&objects, 20_000, 24_000).await;
    let mut hidden = World::new(&objects, 20_000, 24_000).await;
    hidden.late.hidden = Some([PeerId::new("amara").expect("valid")].into());
    shown.make(0..1, usize::MAX).await;
    hidden.make(0..1, usize::MAX).await;
    let video = |slices: Vec<Bytes>| parse_fragment(&slices[0]).expect("ours").video;
    assert!(video(shown.slices().await) != video(hidden.slices().await));
}

/// The root of the mean of the squares of what two sounds differ by.
fn difference(one: &[f32], other: &[f32]) -> f64 {
    let squares = one.iter().zip(other).map(|(one, other)| f64::from(one - other).powi(2));
    (squares.sum::<f64>() / one.len() as f64).sqrt()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_left_out_and_nothing_else() {
    let objects = objects_with_pause(20);
    let length_ms = LENGTH_MS + 20_000;
    let whole = World::new(&objects, 0, length_ms).await;
    whole.make(0..whole.late.division.spans(), usize::MAX).await;
    let (whole_frames, whole_sound) = whole.seen_and_heard().await;

    // In the middle of a slice.
    let world = World::new(&objects, 0, length_ms).await.cut(&[(22, 40)], 4);
    assert_eq!((world.late.length().as_millis(), world.late.division.slices), (65_200, 17));
    world.make(0..world.late.division.spans(), usize::MAX).await;
    let (frames, sound) = world.seen_and_heard().await;
    assert_eq!(frames.len(), 652);
    for (shown, luma) in frames.iter().enumerate() {
        let source = world.late.cuts.source(shown as u64, 10) as usize;
        assert!(luma.abs_diff(whole_frames[source]) < 4, "frame {shown}: {luma}, not {}", whole_frames[source]);
    }
    assert!(frames.iter().skip(10).all(|luma| *luma > 40), "nothing is black");
    assert!(sound.len().abs_diff(65_200 * 48) < 2048, "{} samples", sound.len());
    let meant: Vec<_> = (0..sound.len() - 48_000)
        .map(|shown| whole_sound[world.late.cuts.source(shown as u64, 48_000) as usize])
        .collect();
    let loudest = |range: Range<usize>| sound[range].iter().copied().map(f32::abs).fold(0.0, f32::max);
    let cut = 22 * 48_000;
    assert!(loudest(20 * 48_000..cut - 80_000) > 0.05 && loudest(cut + 25_000..cut + 48_000) > 0.05);
    assert!(loudest(cut - 48_000..cut + 20_000) < 0.001, "no click: {}", loudest(cut - 48_000..cut + 20_000));
    // As far as the codec gives it back, and at its sample, behind the cut too.
    for part in [48_000..cut, cut + 48_000..meant.len()] {
        let beside = |shift: usize| difference(&sound[part.start + shift..part.end + shift], &meant[part.clone()]);
        assert!(beside(0) < 0.025 && beside(0) < 0.6 * beside(1), "{} beside {}", beside(0), beside(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_that_begins_with_a_cut_goes_on_from_what_is_before_it() {
    let objects = objects_with_pause(20);
    let length_ms = LENGTH_MS + 20_000;
    // Spans of 16 s: the second one begins where the pause is left out.
    let cut = |world: World, span| world.cut(&[(16, 34)], span);
    let world = cut(World::new(&objects, 6000, length_ms).await, 4);
    assert_eq!(world.late.division.spans(), 4);
    world.make(0..4, usize::MAX).await;
    let apart = cut(World::new(&objects, 6000, length_ms).await, 4);
    apart.make(1..4, usize::MAX).await;
    apart.make(0..1, 30).await;
    apart.make(0..1, usize::MAX).await;
    assert!(apart.slices().await == world.slices().await, "byte for byte");

    let at_once = cut(World::new(&objects, 6000, length_ms).await, 100);
    at_once.make(0..1, usize::MAX).await;
    let ((frames, sound), (expected, heard)) = (world.seen_and_heard().await, at_once.seen_and_heard().await);
    assert!(frames == expected, "whoever shows it");
    let unlike = difference(&sound, &heard);
    assert!(unlike < 0.01 && sound.len() == heard.len(), "{unlike}");
    let join = 16 * 48_000;
    let loudest = sound[join - 14_400..join + 14_400].iter().copied().map(f32::abs).fold(0.0, f32::max);
    assert!(loudest < 0.001, "no click: {loudest}");
}
