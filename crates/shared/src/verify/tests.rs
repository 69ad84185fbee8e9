use super::*;
use crate::batch::{Packet, PacketData, RtpBatch};
use crate::event::StopReason;
use crate::id::{SfuId, TrackId};
use crate::policy::Policy;
use crate::time::{LogTime, RoomTime};
use crate::window::{Header, SealedSegment, SegmentFrames, encode};
use crate::wire;
use time::OffsetDateTime;

fn id<T: TryFrom<String, Error = crate::id::Error>>(text: &str) -> T {
    T::try_from(text.to_owned()).expect("can be spelled")
}

fn key() -> TrackKey {
    TrackKey { sfu: id::<SfuId>("sfu"), track: id::<TrackId>("cam") }
}

fn incarnation() -> Incarnation {
    Incarnation::new(7).expect("not 0")
}

/// One packet per batch and number.
fn segment(packet_nos: &[u64], said_packets: u32) -> SealedSegment {
    let mut frames = SegmentFrames::default();
    for &packet_no in packet_nos {
        let data = PacketData::Rtp(Bytes::from_static(b"packet"));
        let batch = RtpBatch {
            room: id("standup"),
            track: key().track,
            incarnation: incarnation(),
            batch_no: packet_no,
            first_packet_no: packet_no,
            packets: vec![Packet { time: RoomTime::from_micros(50), data }],
        };
        frames.push(&batch.encode(), LogTime::from_micros(11), false);
    }
    SealedSegment {
        key: key(),
        frames: frames.seal(),
        packets: said_packets,
        invalid_packets: 0,
        span: Default::default(),
        keyframes: vec![],
    }
}

fn gap(reason: AcceptedReason, first: u64, last: Option<u64>) -> Gap {
    let missing = Missing::Accepted { reason, batches: (first, first), packets: (first, last) };
    Gap { key: key(), incarnation: incarnation(), missing, span: Default::default() }
}

struct Chain {
    objects: Vec<Bytes>,
}

impl Chain {
    /// Three windows with two packets each; the third is the last. `edit` may make a window wrong before it is written.
    fn new(mut edit: impl FnMut(u64, &mut Header, &mut SealedSegment)) -> Self {
        let mut objects: Vec<Bytes> = Vec::new();
        for window in 0..3 {
            let end = Final { reason: StopReason::RoomClosed, room_end: RoomTime::from_micros(9_000_000) };
            let mut header = Header {
                tenant: id("acme"),
                room: id("standup"),
                recording: id("01r"),
                window,
                epoch: 4,
                nonce: 5,
                previous: objects.last().map(|object| Hash::of(object)),
                log_span: (LogTime::from_micros(10), LogTime::from_micros(20)),
                room_start: RoomTime::from_micros(1_000_000),
                room_seen: RoomTime::from_micros(2_000_000),
                window_duration_us: 4_000_000,
                gaps: vec![],
                carry_over: wire::CarryOver::default(),
                end: (window == 2).then_some(end),
                trace_parent: None,
            };
            let mut segment = segment(&[window * 2, window * 2 + 1], 2);
            edit(window, &mut header, &mut segment);
            objects.push(encode(&header, &[segment], &[]));
        }
        Self { objects }
    }

    fn check(&self, edit: impl FnOnce(&mut Recording)) -> Verdict {
        self.check_objects((0..).zip(self.objects.clone()), edit)
    }

    fn check_objects(
        &self,
        objects: impl IntoIterator<Item = (u64, Bytes)>,
        edit: impl FnOnce(&mut Recording),
    ) -> Verdict {
        let mut checker = Checker::new(id("acme"), id("standup"), id("01r"));
        objects.into_iter().for_each(|(number, object)| checker.window(number, object));
        let mut recording = Recording {
            id: id("01r"),
            tenant: id("acme"),
            room: id("standup"),
            state: State::Complete,
            reason: String::new(),
            stop_reason: Some(StopReason::RoomClosed),
            requested_by: String::new(),
            created_at: OffsetDateTime::UNIX_EPOCH,
            finished_at: None,
            duration_ms: Some(8000),
            windows: Some(3),
            incomplete: false,
            composites: vec![],
            policy: Policy::default(),
            files: vec!["recording.json".to_owned()],
        };
        edit(&mut recording);
        checker.recording(&recording, &["recording.json".to_owned()].into());
        checker.finish()
    }
}

fn said(verdict: &Verdict) -> String {
    verdict.findings.iter().map(|finding| format!("{}; ", finding.what)).collect()
}

fn as_is(_: &mut Recording) {}

#[test]
fn a_sound_recording_has_no_findings() {
    let verdict = Chain::new(|_, _, _| {}).check(as_is);
    assert!(verdict.is_sound(), "{}", said(&verdict));
    assert_eq!((verdict.windows, verdict.packets, verdict.ended, verdict.incomplete), (3, 6, true, false));
}

#[test]
fn a_wrong_chain_is_told() {
    let sound = Chain::new(|_, _, _| {});
    let numbered: Vec<_> = (0..).zip(sound.objects.clone()).collect();
    let without = |number| numbered.iter().filter(move |(n, _)| *n != number).cloned().collect::<Vec<_>>();
    assert!(said(&sound.check_objects(without(1), as_is)).contains("window 1 missing, and window 2 is there"));
    assert!(said(&sound.check_objects(without(0), as_is)).contains("window 0 missing"));
    assert!(said(&sound.check_objects(without(2), as_is)).contains("no window says that it is the last"));
    let mut torn = numbered.clone();
    torn[1].1 = torn[1].1.slice(..20);
    assert!(said(&sound.check_objects(torn, as_is)).contains("window 1 cannot be read"));
    let moved = [numbered[0].clone(), (1, numbered[2].1.clone())];
    assert!(said(&sound.check_objects(moved, as_is)).contains("window 1 says that it is window 2"));
    for (wrong, words) in [
        (Chain::new(|n, header, _| header.previous = (n > 0).then(|| Hash::of(b"another"))), "names another object"),
        (Chain::new(|n, header, _| header.epoch = 9 - n), "has epoch 8 and window 0 has 9"),
        (Chain::new(|n, header, _| header.end = header.end.or((n == 0).then_some(END))), "follows window 0"),
        (Chain::new(|n, header, _| header.recording = id(if n == 1 { "other" } else { "01r" })), "recording other"),
        (Chain::new(|n, header, _| header.room_start = RoomTime::from_micros(n as i64)), "another start"),
        (
            Chain::new(|n, _, seg| {
                if n == 1 {
                    *seg = segment(&[2, 3], 7)
                }
            }),
            "2 packets, and the footer says 2 (0 late) and 7",
        ),
        (
            Chain::new(|n, _, seg| {
                if n == 1 {
                    *seg = segment(&[1, 2, 3], 3)
                }
            }),
            "packets 1 to 1 of incarnation 7 are stored twice",
        ),
    ] {
        let told = said(&wrong.check(as_is));
        assert!(told.contains(words), "{words}: {told}");
    }
}

const END: Final = Final { reason: StopReason::Idle, room_end: RoomTime::from_micros(1) };

#[test]
fn a_damaged_segment_is_told_and_the_rest_is_read() {
    let sound = Chain::new(|_, _, _| {});
    let mut objects = sound.objects.clone();
    let mut bytes = objects[2].to_vec();
    bytes[30] ^= 1;
    objects[2] = bytes.into();
    let verdict = sound.check_objects((0..).zip(objects), as_is);
    assert!(said(&verdict).contains("window 2, track sfu/cam: segment of track cam has CRC32C"), "{}", said(&verdict));
    assert_eq!(verdict.packets, 4);
}

#[test]
fn packets_are_stored_or_declared() {
    let hole = |n: u64, seg: &mut SealedSegment| {
        if n == 1 {
            *seg = segment(&[3], 1)
        }
    };
    let silent = Chain::new(|n, _, seg| hole(n, seg)).check(as_is);
    assert!(
        said(&silent).contains("packets 2 to 2 of incarnation 7 are neither stored nor declared"),
        "{}",
        said(&silent)
    );
    for last in [Some(2), None] {
        let declared = Chain::new(|n, header, seg| {
            hole(n, seg);
            header.gaps = if n == 1 { vec![gap(AcceptedReason::Log, 2, last)] } else { vec![] };
            header.carry_over.has_lost = n > 0;
        });
        let verdict = declared.check(as_is);
        assert_eq!(said(&verdict).matches("; ").count(), 1, "{}", said(&verdict));
        assert!(said(&verdict).contains("recording.json does not say incomplete"));
        let verdict = declared.check(|recording| recording.incomplete = true);
        assert!(verdict.is_sound() && verdict.incomplete, "{}", said(&verdict));
        assert_eq!(verdict.declared["log"].gaps, 1);
    }
    let paused = Chain::new(|n, header, seg| {
        hole(n, seg);
        header.gaps = if n == 1 { vec![gap(AcceptedReason::Pause, 2, Some(2))] } else { vec![] };
    });
    assert!(paused.check(as_is).is_sound());
}

#[test]
fn lost_events_make_a_recording_incomplete_and_are_counted_once() {
    let missing = vec![wire::NumberRange { first: 3, last: 4 }];
    let lost = Chain::new(|n, header, _| {
        let stream = wire::EventStreamState { incarnation: 7, missing: missing.clone(), ..Default::default() };
        header.carry_over.event_streams = if n > 0 { vec![stream] } else { vec![] };
    });
    assert!(said(&lost.check(as_is)).contains("recording.json does not say incomplete"));
    let verdict = lost.check(|recording| recording.incomplete = true);
    assert!(verdict.is_sound(), "{}", said(&verdict));
    assert_eq!(verdict.missing_events, 2);
}

#[test]
fn the_document_must_fit_the_windows() {
    let sound = Chain::new(|_, _, _| {});
    for (edit, words) in [
        (&|recording: &mut Recording| recording.windows = Some(4), "counts 4 windows and 3"),
        (&|recording: &mut Recording| recording.duration_ms = Some(9000), "says 9000 ms and the windows span 8000 ms"),
        (&|recording: &mut Recording| recording.incomplete = true, "says incomplete, and no window"),
        (&|recording: &mut Recording| recording.files.push("timeline.json".to_owned()), "lists timeline.json"),
        (&|recording: &mut Recording| recording.id = id("other"), "recording.json is of recording other"),
    ] as [(&dyn Fn(&mut Recording), &str); 5]
    {
        let told = said(&sound.check(edit));
        assert!(told.contains(words), "{words}: {told}");
    }
    let active = |recording: &mut Recording| recording.state = State::Active;
    assert!(said(&sound.check_objects([], active)).contains("there is no window"));
    let open = (0..).zip(sound.objects[..2].to_vec());
    assert!(
        sound
            .check_objects(open, |recording| *recording =
                Recording { state: State::Active, windows: None, ..recording.clone() })
            .is_sound()
    );
}
