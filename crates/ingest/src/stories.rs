//! What the fold makes of whole logs: stories with known ends, and properties over random ones.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use roomreel_shared::cluster::{Beginning, FoldSpec};
use roomreel_shared::event::{EventKind, EventRef, RoomEvent, StopReason};
use roomreel_shared::policy::{Policy, TrackKind};
use roomreel_shared::ports::LogEntry;
use roomreel_shared::subject::{Entry, Writer};
use roomreel_shared::window::{AcceptedReason, Missing};

use crate::config::FoldConfig;
use crate::fold::{Fold, FoldOutput};
use crate::room::DamagedReason;
use crate::story::*;

fn numbers(folded: &Folded) -> Vec<u64> {
    folded.batches().iter().map(|batch| batch.2).collect()
}

#[test]
fn a_quiet_room_becomes_a_chain() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..30, 100);
    log.sfu(closed(), 3100);
    let folded = fold(&spec(), &log.entries);
    assert!(folded.is_finished());
    assert_eq!(numbers(&folded), (0..30).collect::<Vec<_>>());
    assert_eq!(folded.gaps(), []);
    assert_eq!(folded.windows.len(), 4);
    for (before, after) in folded.windows.iter().zip(&folded.windows[1..]) {
        assert_eq!(after.header.previous, Some(before.hash()), "I2");
        assert_eq!(after.header.log_span.0, before.header.log_span.1);
    }
    let firsts_sampled = folded.windows.iter().map(|window| {
        let sequences = log.entries.iter().filter(|entry| entry.subject.contains(".media."));
        let (start, end) = window.header.log_span;
        let mut within = sequences.filter(|entry| entry.time >= start && entry.time < end);
        within.find(|entry| entry.sequence % 2 == 1).map(|entry| trace_parent(entry.sequence))
    });
    let traces: Vec<_> = folded.windows.iter().map(|window| window.header.trace_parent.clone()).collect();
    assert_eq!(traces, firsts_sampled.collect::<Vec<_>>());
    let last = &folded.windows[3].header;
    assert_eq!(last.room_start, room_time(0));
    let end = last.end.expect("the last window says so");
    assert_eq!((end.reason, end.room_end), (StopReason::RoomClosed, room_time(3100)));
    let events: usize = folded.windows.iter().map(|window| window.events.len()).sum();
    assert_eq!(events, 3);
    let keyframes: Vec<u64> =
        folded.windows.iter().flat_map(|w| &w.segments).flat_map(|s| &s.keyframes).map(|k| k.packet_no).collect();
    assert_eq!(keyframes, [0, 40, 80]);
    assert_eq!(folded.others.iter().filter(|o| matches!(o, FoldOutput::RequestKeyframe(_))).count(), 1);
}

#[test]
fn a_room_ends_no_earlier_than_its_newest_media() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..10, 100);
    // The SFU took the time before it told its last packets.
    let writer = Writer::Sfu(sfu());
    let event_no = log.event_no(&writer);
    let event = RoomEvent { room: room(), incarnation: incarnation(1), event_no, time: room_time(700), kind: closed() };
    log.push(&address(writer, Entry::Event), event.encode(), 1100);
    let folded = fold(&spec(), &log.entries);
    let newest = folded.windows.iter().flat_map(|window| &window.segments).map(|segment| segment.last_time).max();
    let end = folded.windows.last().and_then(|window| window.header.end).expect("it has ended");
    assert!(newest > Some(room_time(700)));
    assert_eq!(Some(end.room_end), newest);
}

#[test]
fn a_lost_batch_is_asked_for_then_declared_then_taken_late() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..5, 100);
    log.batches("cam", 7, 6..140, 700);
    log.batch("cam", 7, 5, 14_200);
    log.batch("cam", 7, 5, 14_300);
    log.sfu(closed(), 14_400);
    let folded = fold(&spec(), &log.entries);
    assert_eq!(folded.replays(), 4);
    assert_eq!(folded.gaps(), [("cam".to_owned(), AcceptedReason::Log, (5, 5))]);
    let late: Vec<_> = folded.batches().into_iter().filter(|batch| batch.3).map(|batch| batch.2).collect();
    assert_eq!(late, [5], "once, and marked");
    let lacks: Vec<_> = folded.windows.iter().map(|window| window.header.is_incomplete()).collect();
    assert!(lacks.iter().any(|lacks| *lacks) && lacks.last() == Some(&false), "until it came: {lacks:?}");
    let gap = folded.windows.iter().flat_map(|w| &w.header.gaps).next().expect("declared");
    assert!(matches!(gap.missing, Missing::Accepted { packets: (20, Some(23)), .. }));
    assert!(folded.windows.iter().all(|w| w.header.gaps.iter().all(|g| !matches!(g.missing, Missing::Network { .. }))));
}

#[test]
fn a_replay_in_time_leaves_no_trace() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..5, 100);
    log.batches("cam", 7, 6..20, 700);
    log.batch("cam", 7, 5, 2200);
    log.sfu(closed(), 2300);
    let folded = fold(&spec(), &log.entries);
    assert_eq!(numbers(&folded), (0..20).collect::<Vec<_>>());
    assert!(folded.gaps().is_empty() && folded.replays() > 0);
}

#[test]
fn the_lost_end_of_a_track_is_asked_for_and_declared() {
    let camera_closed = || EventKind::ProducerClosed { track: track("cam"), reason: String::new() };
    let mut log = Log::with_camera();
    log.sfu(producer("mic", TrackKind::Audio), 20);
    log.batches("cam", 7, 0..5, 100);
    log.closing(camera_closed(), &[("cam", 7, 8)], 1000);
    // Of the microphone nothing is left at all.
    log.closing(closed(), &[("cam", 7, 8), ("mic", 8, 3)], 3000);
    for second in 0..12 {
        log.control(EventKind::Tick, 3100 + second * 1000);
    }
    let folded = fold(&spec(), &log.entries);
    assert!(folded.is_finished() && folded.replays() > 1);
    let gap = |name: &str, batches| (name.to_owned(), AcceptedReason::Log, batches);
    assert_eq!(folded.gaps(), [gap("cam", (5, 7)), gap("mic", (0, 2))]);
    let missing = folded.windows.iter().flat_map(|w| &w.header.gaps).map(|gap| gap.missing.clone());
    assert!(missing.into_iter().any(|m| matches!(m, Missing::Accepted { packets: (20, Some(31)), .. })));
    for crashes in [0..1, 1..2, 0..3] {
        let again = fold_with_crashes(&spec(), &log.entries, &crashes.clone().collect());
        assert_eq!(again.objects(), folded.objects(), "I3, taken over after windows {crashes:?}");
    }

    let mut replayed = log.entries.clone();
    let mut answers = Log::default();
    answers.batches("cam", 7, 5..8, 4000);
    answers.batches("mic", 8, 0..3, 4300);
    let until = replayed.iter().position(|entry| entry.time > log_time(4000)).expect("it goes on");
    replayed.splice(until.., answers.entries);
    for (sequence, entry) in (1..).zip(&mut replayed) {
        entry.sequence = sequence;
    }
    let folded = fold(&spec(), &replayed);
    assert!(folded.is_finished(), "as soon as all is here");
    assert_eq!((folded.gaps(), numbers(&folded).len()), (Vec::new(), 11));
}

#[test]
fn the_end_of_a_whole_track_is_not_waited_for() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..5, 100);
    log.closing(closed(), &[("cam", 7, 5)], 700);
    let folded = fold(&spec(), &log.entries);
    assert!(folded.is_finished() && folded.gaps().is_empty() && folded.replays() == 0);
}

#[test]
fn a_lost_end_of_the_room_is_asked_for_and_waited_for() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..5, 100);
    // The coordinator saw the room close; the log has lost that, and the last batches with it.
    log.control(stopped(StopReason::RoomClosed), 900);
    for second in 1..5 {
        log.control(EventKind::Tick, second * 1000);
    }
    let mut returned = log;
    returned.closing(closed(), &[("cam", 7, 7)], 4500);
    returned.batch("cam", 7, 5, 5100);
    returned.batch("cam", 7, 6, 5100);
    let folded = fold(&spec(), &returned.entries);
    assert!(folded.is_finished() && folded.gaps().is_empty());
    assert_eq!((folded.windows.len(), numbers(&folded).len()), (1, 7), "nothing is sealed while it is waited for");
    assert_eq!(folded.replays(), 2, "of the room's end at once, of the batches after a while");
    let end = folded.windows[0].header.end.expect("the last");
    assert_eq!((end.reason, end.room_end), (StopReason::RoomClosed, room_time(4500)));

    let mut lost = Log::with_camera();
    lost.batches("cam", 7, 0..5, 100);
    lost.control(stopped(StopReason::RoomClosed), 900);
    for second in 1..25 {
        lost.control(EventKind::Tick, second * 1000);
    }
    let folded = fold(&spec(), &lost.entries);
    assert!(folded.is_finished());
    assert_eq!(
        folded.gaps(),
        [("cam".to_owned(), AcceptedReason::Publisher, (5, 5))],
        "nobody knows how many there were"
    );
}

#[test]
fn a_beginning_that_comes_late_ends_nothing_that_it_began() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..5, 100);
    let mut restarted = Log::default();
    restarted.sfu(created(), 0);
    restarted.sfu(producer("cam", TrackKind::Video), 3000);
    restarted.batches("cam", 9, 0..5, 3100);
    let created = restarted.entries.remove(0);
    restarted.entries.push(LogEntry { time: log_time(3800), ..created });
    restart(&mut log, restarted);
    for second in 4..6 {
        log.control(EventKind::Tick, second * 1000);
    }
    let folded = fold(&spec(), &log.entries);
    let gaps: Vec<_> = folded.windows.iter().flat_map(|w| &w.header.gaps).map(|gap| gap.incarnation.get()).collect();
    assert_eq!(gaps, [7], "the first start's end is not known, the second's goes on");
    assert_eq!(fold_with_crashes(&spec(), &log.entries, &(0..5).collect()).objects(), folded.objects(), "I3");
}

#[test]
fn a_log_that_is_read_again_from_its_beginning_brings_no_earlier_session_in() {
    let mut earlier = Log::with_camera();
    earlier.batches("cam", 5, 0..5, 100);
    earlier.sfu(closed(), 700);
    let mut log = Log::default();
    log.sfu(created(), 10_000);
    log.sfu(producer("cam", TrackKind::Video), 10_010);
    log.batches("cam", 7, 0..15, 10_100);
    let second = |entry: LogEntry| match RoomEvent::decode(entry.payload.clone()) {
        Ok(event) => {
            let event = RoomEvent { incarnation: incarnation(2), ..event };
            LogEntry { payload: event.encode(), ..entry }
        }
        Err(_) => entry,
    };
    let own: Vec<LogEntry> = log.entries.into_iter().map(second).collect();
    let from = Some(EventRef { incarnation: 2, event_no: 0 });
    let spec = FoldSpec { from, start_sequence: 9, ..spec() };
    for taken_over in [false, true] {
        let mut fold = Fold::new(spec.clone(), WRITER, FoldConfig::default());
        let mut folded = Folded::default();
        own.iter().for_each(|entry| folded.take(fold.on_entry(entry.clone())));
        if taken_over {
            let last = folded.windows.last().expect("15 batches are longer than a window");
            fold = Fold::resume(spec.clone(), WRITER, FoldConfig::default(), last).expect("an own window");
        }
        // The stream lost all of this session; its publisher writes it again behind the earlier one.
        let mut again = Log::default();
        again.entries.extend(earlier.entries.iter().cloned());
        fold.on_rewound(again.entries.len() as u64);
        again.batches("cam", 7, 0..16, 12_000);
        again.entries.iter().for_each(|entry| folded.take(fold.on_entry(entry.clone())));
        folded.take(fold.seal_now());
        assert_eq!(numbers(&folded), (0..16).collect::<Vec<_>>());
        assert!(folded.batches().iter().all(|batch| batch.1 == 7) && folded.gaps().is_empty(), "{:?}", folded.gaps());
    }
}

#[test]
fn lost_events_are_named() {
    let mut log = Log::with_camera();
    log.sfu(EventKind::ActiveSpeaker { peer: None, level: 3 }, 50);
    log.sfu(EventKind::ActiveSpeaker { peer: None, level: 4 }, 60);
    log.batches("cam", 7, 0..130, 100);
    log.entries.remove(2);
    log.sfu(closed(), 13_200);
    let folded = fold(&spec(), &log.entries);
    let missing = |window: &roomreel_shared::window::Window| {
        let streams = &window.header.carry_over.event_streams;
        streams.iter().flat_map(|stream| &stream.missing).map(|range| (range.first, range.last)).collect::<Vec<_>>()
    };
    assert_eq!(missing(&folded.windows[5]), [], "it is asked for");
    assert_eq!(folded.lost_events, 1, "it is counted once");
    let last = folded.windows.last().expect("there are windows");
    assert_eq!((missing(last), last.header.is_incomplete()), (vec![(2, 2)], true));
    let crashes = (0..12).collect();
    assert_eq!(fold_with_crashes(&spec(), &log.entries, &crashes).objects(), folded.objects(), "I3");
}

#[test]
fn what_a_publisher_dropped_is_declared_at_once() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..5, 100);
    log.sfu(publisher_gap("cam", 7, (5, 9)), 600);
    log.batches("cam", 7, 10..12, 700);
    log.sfu(closed(), 1200);
    let folded = fold(&spec(), &log.entries);
    assert_eq!(folded.gaps(), [("cam".to_owned(), AcceptedReason::Publisher, (5, 9))]);
    assert_eq!(folded.replays(), 0);
    let spans: Vec<_> = folded.windows.iter().flat_map(|window| &window.header.gaps).map(|gap| gap.span).collect();
    assert_eq!(spans, [(room_time(500), room_time(600))], "until the publisher's word");
    assert!(
        folded.windows.last().is_some_and(|window| window.header.is_incomplete()),
        "and in every window from then on"
    );
    assert_eq!(fold_with_crashes(&spec(), &log.entries, &(0..4).collect()).objects(), folded.objects(), "I3");
}

#[test]
fn a_hole_that_stays_brings_a_key_frame_before_it_is_declared() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..5, 100);
    log.batches("cam", 7, 6..200, 700);
    log.sfu(closed(), 20_200);
    let folded = fold(&spec(), &log.entries);
    assert_eq!(folded.gaps(), [("cam".to_owned(), AcceptedReason::Log, (5, 5))]);
    let asked: Vec<_> = folded
        .others
        .iter()
        .filter_map(|output| match output {
            FoldOutput::RequestReplay(request) => Some(Some(request.attempt)),
            FoldOutput::RequestKeyframe(_) => Some(None),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [None, Some(1), Some(2), None, Some(3), Some(4)], "once at the beginning, once for the hole");
}

#[test]
fn a_pause_and_a_policy_store_nothing_and_account_for_it() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..3, 100);
    log.control(paused("p"), 350);
    log.control(paused("p"), 360);
    log.batches("cam", 7, 3..6, 400);
    log.control(resumed("r"), 750);
    log.batches("cam", 7, 6..8, 770);
    let policy = Policy { record_video: false, ..Policy::default() };
    log.sfu(EventKind::RoomPolicyUpdated { policy }, 890);
    log.batches("cam", 7, 8..10, 895);
    log.sfu(closed(), 1500);
    let folded = fold(&spec(), &log.entries);
    assert_eq!(numbers(&folded), [0, 1, 2, 6, 7]);
    let cam = || "cam".to_owned();
    assert_eq!(
        folded.gaps(),
        [(cam(), AcceptedReason::Pause, (3, 5)), (cam(), AcceptedReason::Policy, (8, 9))],
        "I8, one gap per run"
    );
}

#[test]
fn what_a_pause_had_missed_stays_out_when_it_comes_later() {
    let without = |lost: u64| {
        let mut log = Log::with_camera();
        log.batches("cam", 7, 0..3, 100);
        log.control(paused("p"), 350);
        (3..7).filter(|number| *number != lost).for_each(|number| log.batch("cam", 7, number, 400));
        log.control(EventKind::Tick, 11_000);
        log.control(resumed("r"), 11_100);
        log.batch("cam", 7, lost, 11_200);
        log.batches("cam", 7, 7..9, 11_300);
        log.sfu(closed(), 11_600);
        let folded = fold(&spec(), &log.entries);
        assert_eq!(numbers(&folded), [0, 1, 2, 7, 8]);
        let crashes = (0..12).collect();
        assert_eq!(fold_with_crashes(&spec(), &log.entries, &crashes).objects(), folded.objects(), "I3");
        let gaps: Vec<_> = folded.gaps().into_iter().map(|(_, reason, batches)| (reason, batches)).collect();
        (gaps, folded.windows.last().is_some_and(|window| window.header.is_incomplete()))
    };
    assert_eq!(without(5), (vec![(AcceptedReason::Pause, (3, 4)), (AcceptedReason::Pause, (5, 6))], false));
    let may_be_of_before = vec![(AcceptedReason::Log, (3, 3)), (AcceptedReason::Pause, (4, 6))];
    assert_eq!(without(3), (may_be_of_before, true));
}

#[test]
fn what_comes_late_in_a_pause_stays_out_for_whoever_reads_it_again_after_it() {
    let mut log = Log::with_camera();
    // Its missing batches are held up to the end, and with them the place from where an owner reads.
    log.batch("screen", 9, 0, 50);
    log.batches("cam", 7, 0..3, 100);
    log.batch("cam", 7, 6, 400);
    log.control(paused("p"), 450);
    log.batches("cam", 7, 3..6, 500);
    log.batch("screen", 9, 3, 1900);
    log.control(resumed("r"), 2000);
    log.batches("cam", 7, 7..20, 2100);
    log.sfu(closed(), 4000);
    let folded = fold(&spec(), &log.entries);
    let stored: Vec<_> = folded.batches().into_iter().filter(|of| of.0 == "cam").map(|of| of.2).collect();
    assert_eq!(stored, [vec![0, 1, 2, 6], (7..20).collect()].concat());
    let gaps: Vec<_> = folded.gaps().into_iter().filter(|gap| gap.0 == "cam").map(|gap| (gap.1, gap.2)).collect();
    assert_eq!(gaps, [(AcceptedReason::Log, (3, 5))]);
    assert_eq!(fold_with_crashes(&spec(), &log.entries, &(0..8).collect()).objects(), folded.objects(), "I3");
}

#[test]
fn what_is_lost_of_what_nobody_would_store_is_nobodys_loss() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..3, 100);
    log.control(paused("p"), 350);
    log.batches("cam", 7, 3..5, 400);
    let policy = Policy { record_video: false, ..Policy::default() };
    log.sfu(EventKind::RoomPolicyUpdated { policy }, 600);
    log.batches("cam", 7, 6..8, 700);
    log.control(EventKind::Tick, 11_000);
    log.sfu(closed(), 11_100);
    let folded = fold(&spec(), &log.entries);
    assert_eq!(numbers(&folded), [0, 1, 2]);
    assert!(folded.gaps().iter().all(|(_, reason, _)| reason.is_intentional()), "{:?}", folded.gaps());
    assert!(folded.windows.iter().all(|window| !window.header.is_incomplete()));
}

#[test]
fn what_waits_for_its_event_when_a_pause_begins_was_sent_before_it() {
    let mut log = Log::default();
    log.sfu(created(), 0);
    log.batches("cam", 7, 0..3, 100);
    log.control(paused("p"), 350);
    log.sfu(producer("cam", TrackKind::Video), 360);
    log.batches("cam", 7, 3..5, 400);
    log.sfu(closed(), 700);
    let folded = fold(&spec(), &log.entries);
    assert_eq!(numbers(&folded), [0, 1, 2]);
    assert_eq!(folded.gaps(), [("cam".to_owned(), AcceptedReason::Pause, (3, 4))]);
}

#[test]
fn a_recording_that_begins_under_a_clock_that_was_set_back_is_the_same_to_whoever_folds_it() {
    let mut log = Log::default();
    log.sfu(created(), 0);
    log.batch("mic", 8, 0, 100);
    log.control(EventKind::Tick, 4900);
    log.control(started(None), 1000);
    log.batches("mic", 8, 1..3, 1050);
    log.batch("mic", 9, 0, 1200);
    log.control(EventKind::Tick, 6000);
    log.sfu(closed(), 6100);
    let spec = FoldSpec { from: None, ..spec() };
    let folded = fold(&spec, &log.entries);
    assert_eq!(folded.batches().len(), 3);
    assert_eq!(fold_with_crashes(&spec, &log.entries, &(0..8).collect()).objects(), folded.objects(), "I3");
}

#[test]
fn media_waits_for_the_event_that_says_what_it_is() {
    let mut log = Log::default();
    log.sfu(created(), 0);
    log.batches("cam", 7, 0..3, 100);
    log.sfu(producer("cam", TrackKind::Video), 350);
    log.batches("mystery", 8, 0..2, 400);
    log.control(EventKind::Tick, 5000);
    log.sfu(closed(), 5100);
    let policy = Policy { record_audio: false, ..Policy::default() };
    let folded = fold(&FoldSpec { policy, ..spec() }, &log.entries);
    assert_eq!(numbers(&folded), [0, 1, 2]);
    assert_eq!(folded.gaps(), [("mystery".to_owned(), AcceptedReason::Policy, (0, 1))], "I8: it may be audio");
    let keyframes: usize = folded.windows.iter().flat_map(|w| &w.segments).map(|s| s.keyframes.len()).sum();
    assert_eq!(keyframes, 1, "the first picture is indexed although it came before the event");
}

#[test]
fn what_waits_for_its_event_is_stored_in_the_logs_order_whoever_published_it() {
    for told in [true, false] {
        let mut log = Log::default();
        log.sfu(created(), 0);
        log.batches("cam", 8, 0..3, 100);
        log.batches("cam", 7, 0..3, 150);
        log.batches("cam", 8, 3..4, 500);
        if told {
            log.sfu(producer("cam", TrackKind::Video), 600);
        }
        log.control(EventKind::Tick, 5000);
        log.sfu(closed(), 5100);
        let stored: Vec<_> = fold(&spec(), &log.entries).batches().into_iter().map(|(_, by, no, _)| (by, no)).collect();
        assert_eq!(stored, [(8, 0), (8, 1), (8, 2), (7, 0), (7, 1), (7, 2), (8, 3)], "I3, told {told}");
    }
}

#[test]
fn a_recording_of_the_middle_begins_and_ends_where_it_was_asked_to() {
    let mut log = Log::with_camera();
    log.sfu(
        EventKind::PeerJoined {
            peer: roomreel_shared::id::PeerId::new("amara").expect("valid"),
            display_name: "Amara".to_owned(),
            is_host: true,
            is_co_host: false,
            is_panelist: false,
        },
        20,
    );
    log.batches("cam", 7, 0..10, 100);
    log.control(started(None), 1050);
    log.control(started(None), 1060);
    log.batches("cam", 7, 10..20, 1100);
    log.control(stopped(StopReason::Requested), 2050);
    log.batches("cam", 7, 20..25, 2100);
    let spec = FoldSpec { from: None, ..spec() };
    let folded = fold(&spec, &log.entries);
    assert_eq!(numbers(&folded), (10..20).collect::<Vec<_>>());
    assert!(folded.gaps().is_empty() && folded.is_finished());
    let first = &folded.windows[0];
    assert_eq!(first.header.room_start, room_time(1050));
    let kinds: Vec<bool> = first.events.iter().map(|e| e.event.kind.is_control()).collect();
    assert_eq!(kinds, [false, false, false, true], "room, camera and participant, then the command, once");
    let end = folded.windows.last().and_then(|w| w.header.end).expect("ended");
    assert_eq!((end.reason, end.room_end), (StopReason::Requested, room_time(2050)));
    let mut short = Fold::new(spec, WRITER, FoldConfig::default());
    let mut refolded = Folded::default();
    for entry in &log.entries {
        if entry.time < log_time(1050) {
            refolded.take(short.give_back(true));
        }
        refolded.take(short.on_entry(entry.clone()));
    }
    assert_eq!(refolded.objects(), folded.objects(), "I3: what was let go before it is none of it");
}

#[test]
fn what_the_log_lost_just_before_a_stop_is_asked_for_and_declared() {
    let lost = |came: &[u64]| {
        let mut log = Log::with_camera();
        log.batches("cam", 7, 0..5, 100);
        log.control(stopped(StopReason::Requested), 800);
        log.batches("cam", 7, 7..9, 850);
        for number in came {
            log.batch("cam", 7, *number, 2000);
        }
        (2..13).for_each(|second| log.control(EventKind::Tick, second * 1000));
        let folded = fold(&spec(), &log.entries);
        let last = folded.windows.last().expect("ended");
        assert_eq!(last.header.end.map(|end| end.room_end), Some(room_time(800)));
        assert!(folded.replays() > 0, "asked for");
        let crashes = (0..8).collect();
        assert_eq!(fold_with_crashes(&spec(), &log.entries, &crashes).objects(), folded.objects(), "I3");
        (numbers(&folded), folded.gaps(), last.header.is_incomplete())
    };
    assert_eq!(lost(&[6, 5, 7, 8]), ((0..7).collect(), vec![], false));
    let gap = |batches| vec![("cam".to_owned(), AcceptedReason::Log, batches)];
    assert_eq!(lost(&[5]), ((0..6).collect(), gap((6, 6)), true));
    assert_eq!(lost(&[]), ((0..5).collect(), gap((5, 6)), true));
}

#[test]
fn a_stop_waits_for_what_flows_and_no_longer_than_a_second() {
    let tenths_to_the_end = |silent_ms: i64, next: Option<u64>| {
        let mut log = Log::with_camera();
        log.batches("cam", 7, 0..5, 100);
        log.control(stopped(StopReason::Requested), 500 + silent_ms);
        if let Some(number) = next {
            log.batch("cam", 7, number, 600 + silent_ms);
        }
        (1..5).for_each(|second| log.control(EventKind::Tick, 500 + silent_ms + second * 1000));
        let folded = fold(&spec(), &log.entries);
        assert!(folded.gaps().is_empty() && folded.replays() == 0);
        let end = folded.windows.last().expect("ended").header.log_span.1;
        end.micros_since(log_time(500 + silent_ms)).div_euclid(100_000)
    };
    assert_eq!(tenths_to_the_end(0, Some(5)), 1, "the next one says that nothing is missing");
    assert_eq!(tenths_to_the_end(0, None), 10, "it never comes");
    assert_eq!(tenths_to_the_end(1500, None), 0, "nobody sent anything");
}

/// An event of another start of the writer.
fn of_start(log: &mut Log, writer: Writer, start: u64, event_no: u64, kind: EventKind, (room_ms, log_ms): (i64, i64)) {
    let time = room_time(room_ms);
    let event = RoomEvent { room: room(), incarnation: incarnation(start), event_no, time, kind };
    log.push(&address(writer, Entry::Event), event.encode(), log_ms);
}

#[test]
fn the_end_of_an_earlier_session_that_comes_again_ends_nothing() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..14, 100);
    // Nobody confirmed that it is durable.
    of_start(&mut log, Writer::Sfu(sfu()), 2, 9, closed(), (-100, 1510));
    log.batches("cam", 7, 14..150, 1520);
    log.sfu(closed(), 15_200);
    let folded = fold(&spec(), &log.entries);
    assert_eq!((folded.gaps(), folded.replays()), (Vec::new(), 0));
    assert_eq!(numbers(&folded), (0..150).collect::<Vec<_>>());
    let end = folded.windows.last().and_then(|window| window.header.end).expect("ended");
    assert_eq!(end.room_end, room_time(15_200));
}

#[test]
fn writers_that_start_again_and_again_are_heard() {
    let mut log = Log::with_camera();
    for start in 0..300 {
        let ms = 100 + start as i64;
        of_start(&mut log, Writer::Sfu(sfu()), 10 + start, 0, created(), (ms, ms));
        of_start(&mut log, Writer::Control, 10 + start, 0, EventKind::Tick, (ms, ms));
    }
    of_start(&mut log, Writer::Control, 1000, 0, stopped(StopReason::Requested), (500, 500));
    let folded = fold(&spec(), &log.entries);
    assert!(folded.is_finished());
    assert!(!folded.others.iter().any(|output| matches!(output, FoldOutput::Damaged(_))));
    assert_eq!(folded.windows[0].events.len(), 2 + 300 + 300 + 1);
}

#[test]
fn what_is_not_of_the_room_costs_only_itself() {
    let mut log = Log::with_camera();
    let own = address(Writer::Sfu(sfu()), Entry::Media(track("cam")));
    log.batch("cam", 7, 0, 100);
    let mut foreign = batch("cam", 7, 1, 150);
    foreign.room = roomreel_shared::id::RoomId::new("board").expect("valid");
    log.push(&own, foreign.encode(), 150);
    let mut other = own.clone();
    other.room = foreign.room.clone();
    log.push(&other, foreign.encode(), 160);
    let mut misplaced = batch("mic", 7, 1, 170);
    misplaced.track = track("mic");
    log.push(&own, misplaced.encode(), 170);
    log.push(&own, Bytes::from_static(b"noise"), 180);
    log.push(&address(Writer::Sfu(sfu()), Entry::Event), Bytes::from_static(b"\xff"), 190);
    log.sfu(started(None), 195);
    log.control(closed(), 196);
    log.push(&address(Writer::Control, Entry::Media(track("cam"))), batch("cam", 7, 1, 197).encode(), 197);
    log.batch("cam", 7, 1, 200);
    log.sfu(closed(), 300);
    let folded = fold(&spec(), &log.entries);
    let why: Vec<_> = folded
        .others
        .iter()
        .filter_map(|output| match output {
            FoldOutput::Damaged(damaged) => Some(&damaged.why),
            _ => None,
        })
        .collect();
    use DamagedReason as D;
    assert!(
        matches!(
            why[..],
            [
                D::WrongPlace { .. },
                D::WrongPlace { .. },
                D::WrongPlace { .. },
                D::Batch(_),
                D::Event(_),
                D::NotPermitted { .. },
                D::NotPermitted { .. },
                D::NotPermitted { .. }
            ]
        ),
        "{why:?}"
    );
    assert_eq!(numbers(&folded), [0, 1], "I4");
}

#[test]
fn a_room_that_closes_waits_for_what_is_missing_and_no_longer() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..3, 100);
    log.batch("cam", 7, 4, 400);
    log.sfu(closed(), 500);
    let answered = log.entries.len();
    log.control(EventKind::Tick, 1500);
    log.batch("cam", 7, 3, 1600);
    log.batch("cam", 7, 5, 1700);
    let folded = fold(&spec(), &log.entries);
    assert!(folded.is_finished() && folded.gaps().is_empty());
    assert_eq!(numbers(&folded), [0, 1, 2, 3, 4], "nothing that came after the end");
    log.entries.truncate(answered);
    for second in 1..13 {
        log.control(EventKind::Tick, second * 1000);
    }
    let folded = fold(&spec(), &log.entries);
    assert!(folded.is_finished());
    assert_eq!(folded.gaps(), [("cam".to_owned(), AcceptedReason::Log, (3, 3))]);
}

#[test]
fn a_publisher_that_began_anew_leaves_an_unknown_tail() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..3, 100);
    log.batches("cam", 8, 0..3, 500);
    log.sfu(EventKind::ProducerClosed { track: track("cam"), reason: String::new() }, 900);
    log.batches("cam", 9, 0..3, 1000);
    log.sfu(closed(), 1500);
    let folded = fold(&spec(), &log.entries);
    assert_eq!(folded.batches().len(), 9);
    assert_eq!(folded.gaps(), [("cam".to_owned(), AcceptedReason::Publisher, (3, 3))], "of 7; 8 was closed");
}

#[test]
fn what_a_stream_sent_between_two_publishers_was_not_lost_by_the_network() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..3, 100);
    // The same stream goes on under the next publisher; ten of its packets had none.
    let mut next = batch("cam", 7, 0, 500);
    next.incarnation = incarnation(8);
    for (packet, sequence) in next.packets.iter_mut().zip(22_u16..) {
        let mut bytes = packet.data.bytes().to_vec();
        bytes[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet.data = roomreel_shared::batch::PacketData::Rtp(bytes.into());
    }
    log.push(&address(Writer::Sfu(sfu()), Entry::Media(track("cam"))), next.encode(), 500);
    log.sfu(closed(), 900);
    let folded = fold(&spec(), &log.entries);
    let gaps: Vec<_> = folded.windows.iter().flat_map(|window| &window.header.gaps).map(|gap| &gap.missing).collect();
    assert_eq!(
        gaps,
        [&Missing::Accepted { reason: AcceptedReason::Publisher, batches: (3, 3), packets: (12, None) }],
        "what the first publisher held last is not known; nothing else is missing"
    );
}

#[test]
fn a_hostile_clock_does_not_make_a_long_recording() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..3, 100);
    let mut hostile = batch("cam", 7, 3, 400);
    hostile.packets[3].time = room_time(20 * 3_600_000);
    log.push(&address(Writer::Sfu(sfu()), Entry::Media(track("cam"))), hostile.encode(), 400);
    log.batches("cam", 7, 4..6, 500);
    log.control(stopped(StopReason::Requested), 800);
    log.control(EventKind::Tick, 2000);
    let folded = fold(&spec(), &log.entries);
    assert_eq!(folded.windows.last().and_then(|w| w.header.end).expect("ended").room_end, room_time(800));
}

#[test]
fn time_without_entries_makes_no_empty_windows() {
    let mut log = Log::with_camera();
    log.batch("cam", 7, 0, 100);
    log.batch("cam", 7, 1, 3_600_500);
    log.sfu(closed(), 3_600_600);
    let folded = fold(&spec(), &log.entries);
    assert_eq!(folded.windows.len(), 2);
    assert_eq!(folded.windows[1].header.log_span.0, log_time(3_600_000));
}

#[test]
fn an_event_that_never_comes_holds_nothing_up_for_long() {
    let mut log = Log::with_camera();
    let skipped = log.event_no(&Writer::Sfu(sfu()));
    assert_eq!(skipped, 2);
    log.sfu(producer("mic", TrackKind::Audio), 100);
    for second in 1..12 {
        log.control(EventKind::Tick, second * 1000);
    }
    log.sfu(closed(), 12_000);
    let folded = fold(&spec(), &log.entries);
    assert!(folded.is_finished() && folded.replays() > 0);
    let events: usize = folded.windows.iter().map(|window| window.events.len()).sum();
    assert_eq!(events, 2 + 1 + 11 + 1);
}

#[test]
fn an_entry_that_ends_the_wait_for_an_event_before_the_rooms_end_is_folded() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..3, 100);
    assert_eq!(log.event_no(&Writer::Sfu(sfu())), 2, "the event that never comes");
    log.sfu(closed(), 500);
    for second in 1..10 {
        log.control(EventKind::Tick, second * 1000);
    }
    log.batch("cam", 7, 4, 9500);
    log.batch("cam", 7, 3, 10_700);
    for second in 11..14 {
        log.control(EventKind::Tick, second * 1000);
    }
    let folded = fold(&spec(), &log.entries);
    assert!(folded.is_finished() && folded.gaps().is_empty());
    assert_eq!(numbers(&folded), [0, 1, 2, 3, 4]);
    let crashes = (0..14).collect();
    assert_eq!(fold_with_crashes(&spec(), &log.entries, &crashes).objects(), folded.objects(), "I3");
}

/// What happens to one batch between publisher and log.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    Twice,
    Late(u8),
    Lost,
    LostForGood,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        12 => Just(Fate::Arrives),
        2 => Just(Fate::Twice),
        3 => (1_u8..30).prop_map(Fate::Late),
        1 => Just(Fate::Lost),
        1 => Just(Fate::LostForGood),
    ];
    proptest::collection::vec(fate, 20..200)
}

/// A room of two tracks whose batches fare as `fates` says; a lost one is replayed after 3 s.
fn random_log(fates: &[Fate], pauses: &[u16]) -> Log {
    let mut arrivals = Vec::new();
    for (i, fate) in fates.iter().enumerate() {
        let (name, number) = (if i % 2 == 0 { "cam" } else { "mic" }, i as u64 / 2);
        let at = 100 + i as i64 * 53;
        let mut arrive = |ms: i64| arrivals.push((ms, name, number));
        match fate {
            Fate::Arrives => arrive(at),
            Fate::Twice => {
                arrive(at);
                arrive(at + 731);
            }
            Fate::Late(steps) => arrive(at + i64::from(*steps) * 97),
            Fate::Lost => arrive(at + 3001),
            Fate::LostForGood => {}
        }
    }
    arrivals.sort();
    let mut log = Log::with_camera();
    log.sfu(producer("mic", TrackKind::Audio), 20);
    let mut is_paused = false;
    let mut pauses: Vec<i64> = pauses.iter().map(|ms| i64::from(*ms)).collect();
    pauses.sort_unstable();
    for (ms, name, number) in arrivals {
        while pauses.first().is_some_and(|at| *at < ms) {
            pauses.remove(0);
            is_paused = !is_paused;
            let command = pauses.len().to_string();
            log.control(if is_paused { paused(&command) } else { resumed(&command) }, ms);
        }
        log.batch(name, if name == "cam" { 7 } else { 8 }, number, ms);
    }
    let end = 100 + fates.len() as i64 * 53 + 4000;
    log.sfu(closed(), end);
    for second in 1..15 {
        log.control(EventKind::Tick, end + second * 1000);
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_accepted_packet_is_in_one_window_or_gap(
        fates in fates(),
        pauses in proptest::collection::vec(0_u16..10_000, 0..4),
    ) {
        let log = random_log(&fates, &pauses);
        let folded = fold(&spec(), &log.entries);
        prop_assert!(folded.is_finished(), "I6");
        let mut stored: BTreeMap<(String, u64), u32> = BTreeMap::new();
        for (name, _, number, late) in folded.batches() {
            prop_assert!(!late || folded.gaps().iter().any(|g| g.0 == name && (g.2.0..=g.2.1).contains(&number)));
            *stored.entry((name, number)).or_default() += 1;
        }
        prop_assert!(stored.values().all(|count| *count == 1), "I1: once");
        let last_number = |name: &str| log.entries.iter().filter(|e| e.subject.ends_with(name)).map(|entry| {
            roomreel_shared::batch::RtpBatch::decode(entry.payload.clone()).expect("valid").batch_no
        }).max();
        for name in ["cam", "mic"] {
            let Some(last) = last_number(name) else { continue };
            for number in 0..=last {
                let declared = folded.gaps().iter().filter(|g| g.0 == name && (g.2.0..=g.2.1).contains(&number)).count();
                let stored = stored.contains_key(&(name.to_owned(), number));
                prop_assert!(stored || declared > 0, "I1: {} {} is neither stored nor declared", name, number);
                prop_assert!(declared <= 1, "I1: {} {} is declared {} times", name, number, declared);
            }
        }
    }

    #[test]
    fn the_same_log_makes_the_same_windows_wherever_the_writer_crashes(
        fates in fates(),
        pauses in proptest::collection::vec(0_u16..10_000, 0..4),
        crashes in proptest::collection::btree_set(0_u64..14, 0..8),
    ) {
        let log = random_log(&fates, &pauses);
        let whole = fold(&spec(), &log.entries);
        prop_assert_eq!(fold(&spec(), &log.entries).objects(), whole.objects(), "I3");
        let crashed = fold_with_crashes(&spec(), &log.entries, &crashes);
        for (a, b) in crashed.windows.iter().zip(&whole.windows) {
            prop_assert_eq!(&a.header, &b.header, "I3");
        }
        prop_assert_eq!(crashed.objects(), whole.objects(), "I3, with crashes after {:?}", crashes);
    }

    #[test]
    fn no_bytes_in_the_log_make_it_panic(
        noise in proptest::collection::vec((0_usize..60, any::<u8>(), any::<usize>()), 1..40),
    ) {
        let mut log = Log::with_camera();
        log.batches("cam", 7, 0..30, 100);
        log.sfu(publisher_gap("cam", 7, (35, 40)), 3150);
        log.control(started(Some(EventRef { incarnation: 1, event_no: 0 })), 3160);
        log.batches("cam", 9, 2..20, 3200);
        log.sfu(closed(), 6000);
        let entries = log.entries.len();
        for (entry, byte, at) in noise {
            let entry = &mut log.entries[entry % entries];
            let mut bytes = entry.payload.to_vec();
            let at = at % bytes.len().max(1);
            // Past the checksum: what it protects is damaged before it is computed.
            bytes.get_mut(at).into_iter().for_each(|hit| *hit ^= byte);
            if entry.subject.contains("media")
                && let Ok(mut envelope) = <roomreel_shared::wire::RtpBatch as prost::Message>::decode(&bytes[..])
            {
                envelope.body_crc32c = crc32c::crc32c(&envelope.body);
                bytes = prost::Message::encode_to_vec(&envelope);
            }
            entry.payload = bytes.into();
        }
        let whole = fold(&spec(), &log.entries);
        let crashes: BTreeSet<u64> = (0..20).collect();
        prop_assert_eq!(fold_with_crashes(&spec(), &log.entries, &crashes).objects(), whole.objects(), "I3");
    }
}

#[test]
fn a_room_that_is_taken_over_is_not_idle_for_it() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..30, 100);
    let folded = fold(&spec(), &log.entries);
    let last = folded.windows.last().expect("committed");
    let resumed = Fold::resume(spec(), WRITER, FoldConfig::default(), last).expect("an own window can be gone on from");
    let (newest, of_sfus) = resumed.room().log_times();
    assert_eq!(newest, of_sfus, "nobody has been silent since");
}

#[test]
fn a_log_without_a_word_of_the_sfu_is_silent_from_its_beginning() {
    let mut log = Log::default();
    log.control(started(spec().from), 1000);
    log.control(EventKind::Tick, 3000);
    let mut fold = Fold::new(spec(), WRITER, FoldConfig::default());
    for entry in log.entries {
        fold.on_entry(entry);
    }
    assert_eq!(fold.room().log_times(), (log_time(3000), log_time(1000)));
}

#[test]
fn a_recording_whose_first_event_the_log_lost_begins_with_the_next() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..30, 100);
    log.sfu(closed(), 3100);
    let first = log.entries.remove(0);
    assert!(fold(&spec(), &log.entries).replays() > 0, "the event is asked for");
    // It comes back.
    log.entries.insert(16, LogEntry { time: log_time(1500), ..first });
    let folded = fold(&spec(), &log.entries);
    assert_eq!(numbers(&folded), (0..30).collect::<Vec<_>>());
    let events: usize = folded.windows.iter().map(|window| window.events.len()).sum();
    assert_eq!(events, 3);
}

/// Appends the entries of another start of the SFU, under event numbers of their own.
fn restart(log: &mut Log, started: Log) {
    for entry in started.entries {
        let payload = match RoomEvent::decode(entry.payload.clone()) {
            Ok(event) => RoomEvent { incarnation: incarnation(2), ..event }.encode(),
            Err(_) => entry.payload,
        };
        log.entries.push(LogEntry { sequence: log.entries.len() as u64 + 1, payload, ..entry });
    }
}

#[test]
fn a_start_whose_first_event_is_lost_ends_the_one_before() {
    let mut log = Log::with_camera();
    log.sfu(producer("screen", TrackKind::Screenshare), 20);
    log.batches("cam", 7, 0..5, 100);
    log.batches("screen", 8, 0..5, 100);
    let mut started = Log::default();
    started.sfu(created(), 3000);
    started.sfu(producer("cam", TrackKind::Video), 3010);
    started.batches("cam", 9, 0..5, 3100);
    // The log lost the creation, nobody publishes it again, and the screen is not there any more to tell by itself.
    started.entries.remove(0);
    restart(&mut log, started);
    for second in 4..20 {
        log.control(EventKind::Tick, second * 1000);
    }
    let folded = fold(&spec(), &log.entries);
    let gaps: BTreeSet<_> =
        folded.windows.iter().flat_map(|w| &w.header.gaps).map(|gap| gap.incarnation.get()).collect();
    assert_eq!(gaps, BTreeSet::from([7, 8]), "both tracks of the first start have an end that is not known");
    assert_eq!(fold_with_crashes(&spec(), &log.entries, &(0..12).collect()).objects(), folded.objects(), "I3");
}

#[test]
fn an_end_of_before_the_sfu_created_the_room_again_ends_tracks_alone() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..20, 100);
    let mut ending = Log::with_camera();
    ending.closing(closed(), &[("cam", 7, 22)], 2200);
    let mut started = Log::default();
    started.sfu(created(), 4000);
    started.sfu(producer("cam", TrackKind::Video), 4010);
    started.batches("cam", 9, 0..80, 4100);
    restart(&mut log, started);
    // The log lost the end of the first start, whose publisher sends it again.
    let late = ending.entries.pop().expect("written");
    let mut rest = Log::default();
    rest.event_no(&Writer::Sfu(sfu()));
    rest.event_no(&Writer::Sfu(sfu()));
    rest.batches("cam", 9, 80..200, 12_200);
    rest.sfu(closed(), 25_000);
    log.entries.push(LogEntry { time: log_time(12_150), ..late });
    restart(&mut log, rest);
    (1..).zip(&mut log.entries).for_each(|(sequence, entry)| entry.sequence = sequence);
    let folded = fold(&spec(), &log.entries);
    assert!(folded.is_finished());
    let of = |publisher: u64| folded.batches().iter().filter(|batch| batch.1 == publisher).count();
    assert_eq!((of(7), of(9)), (20, 200));
    let gaps: Vec<_> = folded.gaps().into_iter().filter(|gap| gap.1 == AcceptedReason::Log).collect();
    assert_eq!(gaps, [("cam".to_owned(), AcceptedReason::Log, (20, 21))], "where the first numbering ended is known");
    assert_eq!(fold_with_crashes(&spec(), &log.entries, &(0..12).collect()).objects(), folded.objects(), "I3");
}

#[test]
fn an_end_that_is_waited_for_ends_although_the_sfu_created_the_room_again() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..20, 100);
    log.closing(EventKind::ProducerClosed { track: track("cam"), reason: String::new() }, &[("cam", 7, 20)], 2200);
    // The coordinator saw the end of the first start; the log lost it and has the second start's beginning.
    let mut started = Log::default();
    started.sfu(created(), 2500);
    restart(&mut log, started);
    log.control(stopped(StopReason::RoomClosed), 2600);
    log.sfu(closed(), 3200);
    for second in 4..8 {
        log.control(EventKind::Tick, second * 1000);
    }
    let folded = fold(&spec(), &log.entries);
    assert!(folded.is_finished() && folded.gaps().is_empty(), "{:?}", folded.gaps());
    let last = &folded.windows.last().expect("there are windows").header;
    assert!(last.log_span.1 < log_time(4000) && !last.is_incomplete());
    assert_eq!(fold_with_crashes(&spec(), &log.entries, &(0..12).collect()).objects(), folded.objects(), "I3");
}

#[test]
fn a_creation_that_comes_while_the_end_is_waited_for_ends_it_and_is_stored() {
    for followed in [false, true] {
        let mut log = Log::with_camera();
        log.batches("cam", 7, 0..5, 100);
        // The coordinator saw the room close, which the log lost; then the SFU came back.
        log.control(stopped(StopReason::RoomClosed), 900);
        let mut started = Log::default();
        started.sfu(created(), 1500);
        started.sfu(producer("cam", TrackKind::Video), 1510);
        if followed {
            // More of it has come before its creation: it belongs to what is being recorded.
            started.entries.swap(0, 1);
        }
        restart(&mut log, started);
        for second in 2..30 {
            log.control(EventKind::Tick, second * 1000);
        }
        let folded = fold(&spec(), &log.entries);
        assert!(folded.is_finished());
        let events = folded.windows.iter().flat_map(|window| &window.events);
        let of_second: Vec<u64> = events
            .filter(|stored| stored.event.incarnation == incarnation(2) && stored.writer.sfu().is_some())
            .map(|stored| stored.event.event_no)
            .collect();
        assert_eq!(of_second, if followed { vec![0, 1] } else { vec![0] });
    }
}

#[test]
fn a_recording_whose_beginning_the_log_lost_misses_what_came_before_it() {
    let beginning = Some(Beginning { time: room_time(0), log_time: log_time(0) });
    let spec = FoldSpec { beginning, ..spec() };
    let mut whole = Log::with_camera();
    whole.batches("cam", 7, 0..20, 100);
    for (kept, replayed, what) in [
        (8..22, 0..8, "media is the first that is left"),
        (4..22, 0..4, "media of before the command is part of it, too"),
    ] {
        let mut log = Log::default();
        log.entries.extend(whole.entries[kept].iter().cloned());
        log.control(started(spec.from), 650);
        log.entries.sort_by_key(|entry| entry.time);
        // Its publisher is asked for the rest, when the numbers show that something is missing, and has it.
        let mut again: Vec<LogEntry> = whole.entries[replayed].to_vec();
        again.iter_mut().for_each(|entry| entry.time = log_time(2700));
        log.entries.extend(again);
        (1..).zip(&mut log.entries).for_each(|(sequence, entry)| entry.sequence = sequence);
        let folded = fold(&spec, &log.entries);
        let mut stored = numbers(&folded);
        stored.sort_unstable();
        let first = &folded.windows[0].header;
        assert_eq!(first.room_start, room_time(0), "{what}");
        let mut log_end = log;
        log_end.sfu(closed(), 4000);
        for second in 5..20 {
            log_end.control(EventKind::Tick, second * 1000);
        }
        let folded = fold(&spec, &log_end.entries);
        let mut stored_at_end = numbers(&folded);
        stored_at_end.sort_unstable();
        assert_eq!(stored_at_end, (0..20).collect::<Vec<_>>(), "{what}: {stored:?}");
        assert!(folded.gaps().is_empty(), "{what}: {:?}", folded.gaps());
    }
    // Where nobody has it any more, it is declared.
    let mut log = Log::default();
    log.control(started(spec.from), 650);
    log.entries.extend(whole.entries[8..22].iter().cloned());
    log.entries.sort_by_key(|entry| entry.time);
    for second in 3..20 {
        log.control(EventKind::Tick, second * 1000);
    }
    (1..).zip(&mut log.entries).for_each(|(sequence, entry)| entry.sequence = sequence);
    let folded = fold(&spec, &log.entries);
    assert_eq!(folded.gaps(), [("cam".to_owned(), AcceptedReason::Log, (0, 5))]);
}

#[test]
fn what_is_written_behind_a_log_that_was_rolled_back_is_of_the_recording_whatever_its_clock_says() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..12, 100);
    let mut fold = Fold::new(spec(), WRITER, FoldConfig::default());
    let mut folded = Folded::default();
    log.entries.iter().for_each(|entry| folded.take(fold.on_entry(entry.clone())));
    // Rolled back to its first entry, under a clock that is 2 s behind.
    log.entries.truncate(1);
    fold.on_rewound(1);
    log.batches("cam", 7, 0..14, -1900);
    log.entries.iter().for_each(|entry| folded.take(fold.on_entry(entry.clone())));
    folded.take(fold.seal_now());
    assert_eq!((numbers(&folded), folded.gaps()), ((0..14).collect(), vec![]));
}

#[test]
fn a_log_that_is_read_again_shows_a_recording_without_its_beginning_no_earlier_session() {
    let mut log = Log::with_camera();
    log.batches("cam", 5, 0..5, 100);
    log.sfu(closed(), 700);
    log.batches("cam", 7, 2..10, 20_200);
    let beginning = Some(Beginning { time: room_time(20_000), log_time: log_time(20_000) });
    let from = Some(EventRef { incarnation: 2, event_no: 0 });
    let spec = FoldSpec { from, beginning, start_sequence: 100, ..spec() };
    let mut fold = Fold::new(spec, WRITER, FoldConfig::default());
    let mut folded = Folded::default();
    fold.on_rewound(0);
    log.entries.iter().for_each(|entry| folded.take(fold.on_entry(entry.clone())));
    for ms in (21_000..40_000).step_by(1000) {
        let mut ticks = Log::default();
        ticks.control(EventKind::Tick, ms);
        let sequence = 100 + ms as u64;
        folded.take(fold.on_entry(LogEntry { sequence, ..ticks.entries.remove(0) }));
    }
    assert!(folded.batches().iter().all(|batch| batch.1 == 7), "{:?}", folded.batches());
    assert_eq!(numbers(&folded), (2..10).collect::<Vec<_>>());
    assert_eq!(folded.gaps(), [("cam".to_owned(), AcceptedReason::Log, (0, 1))]);
}

#[test]
fn a_publisher_that_vanished_leaves_an_end_that_is_not_known() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..10, 100);
    log.batches("cam", 7, 11..13, 1200);
    log.control(stopped(StopReason::Idle), 9000);
    log.control(EventKind::Tick, 30_000);
    let folded = fold(&spec(), &log.entries);
    assert!(folded.is_finished());
    let gaps: Vec<_> = folded.windows.iter().flat_map(|window| &window.header.gaps).map(|gap| &gap.missing).collect();
    let expected = [
        Missing::Accepted { reason: AcceptedReason::Publisher, batches: (10, 10), packets: (40, None) },
        Missing::Accepted { reason: AcceptedReason::Log, batches: (10, 10), packets: (40, Some(43)) },
    ];
    assert_eq!(gaps, expected.iter().collect::<Vec<_>>());
}
