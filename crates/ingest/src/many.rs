//! Stories of rooms in which much happens: tracks by the thousand, tracks published again and again, clocks that are set back.

use std::collections::BTreeSet;

use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::event::EventKind;
use roomreel_shared::policy::{Policy, TrackKind};
use roomreel_shared::ports::LogEntry;
use roomreel_shared::window::AcceptedReason;

use crate::config::FoldConfig;
use crate::fold::{Fold, FoldOutput};
use crate::story::*;

fn producer_closed(name: &str) -> EventKind {
    EventKind::ProducerClosed { track: track(name), reason: String::new() }
}

/// A track with one batch that is closed at once.
fn short_track(log: &mut Log, number: u64, ms: i64) {
    let name = format!("cam{number}");
    log.sfu(producer(&name, TrackKind::Video), ms);
    log.batch(&name, 100 + number, 0, ms + 1);
    log.sfu(producer_closed(&name), ms + 2);
}

/// Folds a log, then the same log again, as if it had been rolled back.
fn fold_twice(log: &Log) -> Folded {
    let mut fold = Fold::new(spec(), WRITER, FoldConfig::default());
    let mut folded = Folded::default();
    log.entries.iter().for_each(|entry| folded.take(fold.on_entry(entry.clone())));
    fold.on_rewound(0);
    log.entries.iter().for_each(|entry| folded.take(fold.on_entry(entry.clone())));
    folded.take(fold.seal_now());
    folded
}

fn distinct(folded: &Folded) -> usize {
    folded
        .batches()
        .into_iter()
        .map(|(name, publisher, number, _)| (name, publisher, number))
        .collect::<BTreeSet<_>>()
        .len()
}

#[test]
fn tracks_that_are_over_make_room_for_others() {
    let mut log = Log::with_camera();
    for number in 0..4200 {
        short_track(&mut log, number, 100 + number as i64 * 10);
    }
    let folded = fold_twice(&log);
    assert_eq!((folded.batches().len(), distinct(&folded), folded.gaps().len()), (4200, 4200, 0));
    let most = folded.windows.iter().map(|window| window.header.carry_over.tracks.len()).max();
    assert!(most < Some(2400), "{most:?} tracks in one window");
    let last = &folded.windows.last().expect("there are windows").header;
    let people = last.people().expect("nobody was left out");
    assert_eq!(people.len(), 1, "who sent what was dropped is not forgotten: {people:?}");
}

#[test]
fn what_comes_of_a_dropped_track_is_stored_once() {
    let mut log = Log::with_camera();
    for number in 0..50 {
        short_track(&mut log, number, 100 + number as i64 * 1000);
    }
    // Its publisher has not heard that it is stored; and one more that it had not come to send.
    log.batch("cam0", 100, 0, 50_100);
    log.batch("cam1", 101, 1, 50_200);
    // Nobody says any more what kind of track that was: it is waited for.
    for second in 51..55 {
        log.control(EventKind::Tick, second * 1000 + 500);
    }
    log.sfu(closed(), 54_700);
    let folded = fold(&spec(), &log.entries);
    assert!(folded.is_finished() && folded.gaps().is_empty());
    assert_eq!((folded.batches().len(), distinct(&folded)), (51, 51));
    let carried = |window: usize, name: &str| {
        let tracks = &folded.windows[window].header.carry_over.tracks;
        tracks.iter().find(|state| state.track_id == name).map(|state| state.incarnations[0].next_batch_no)
    };
    assert_eq!([19, 20, 49, 50].map(|window| carried(window, "cam0")), [Some(1), None, None, Some(1)]);
    assert_eq!(carried(53, "cam1"), Some(2));
    for crashes in [(0..60).collect::<BTreeSet<_>>(), [10, 22, 49, 50].into(), [21, 51].into()] {
        let again = fold_with_crashes(&spec(), &log.entries, &crashes);
        assert_eq!(again.objects(), folded.objects(), "I3, taken over after windows {crashes:?}");
    }
}

#[test]
fn a_numbering_with_a_gap_that_makes_room_leaves_the_recording_incomplete() {
    let mut log = Log::with_camera();
    log.batches("cam", 100, 0..1, 100);
    log.batches("cam", 100, 2..3, 200);
    for publication in 1..20 {
        log.batches("cam", 100 + publication, 0..1, 300 + publication as i64 * 500);
    }
    log.sfu(closed(), 12_000);
    let folded = fold(&spec(), &log.entries);
    assert!(folded.gaps().contains(&("cam".to_owned(), AcceptedReason::Log, (1, 1))));
    assert!(folded.windows.last().is_some_and(|window| window.header.is_incomplete()));
    assert_eq!(fold_with_crashes(&spec(), &log.entries, &(0..30).collect()).objects(), folded.objects(), "I3");
}

#[test]
fn tracks_beyond_the_bound_are_declared() {
    let mut log = Log::with_camera();
    for number in 0..4098 {
        log.batch(&format!("cam{number}"), 100 + number, 0, 100 + number as i64 / 10);
    }
    log.sfu(closed(), 4000);
    let folded = fold(&spec(), &log.entries);
    assert_eq!(folded.batches().len(), 4095, "the camera is one, too");
    let gap = |name: &str| (name.to_owned(), AcceptedReason::Damaged, (0, 0));
    assert_eq!(folded.gaps(), ["cam4095", "cam4096", "cam4097"].map(gap));
    assert!(folded.windows.iter().any(|window| window.header.is_incomplete()));
}

#[test]
fn a_track_that_is_published_again_and_again_is_stored_once() {
    let mut log = Log::with_camera();
    for publication in 0..40 {
        let ms = 100 + publication as i64 * 500;
        log.sfu(producer("screen", TrackKind::Screenshare), ms);
        log.batches("screen", 100 + publication, 0..3, ms + 10);
        log.sfu(producer_closed("screen"), ms + 400);
    }
    let folded = fold_twice(&log);
    assert_eq!((folded.batches().len(), distinct(&folded), folded.gaps().len()), (120, 120, 0));
    log.sfu(closed(), 21_000);
    let folded = fold(&spec(), &log.entries);
    assert_eq!(fold_with_crashes(&spec(), &log.entries, &(0..30).collect()).objects(), folded.objects(), "I3");
}

#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..50, 100);
    log.batches("cam", 7, 50..60, 5100);
    log.batches("cam", 7, 61..300, 6200);
    log.sfu(closed(), 30_200);
    let steady = fold(&spec(), &log.entries);
    let set_back = |entry: &LogEntry| match entry.time < log_time(5100) {
        true => entry.clone(),
        false => LogEntry { time: entry.time.offset_micros(-600_000_000), ..entry.clone() },
    };
    let entries: Vec<LogEntry> = log.entries.iter().map(set_back).collect();
    let folded = fold(&spec(), &entries);
    assert!(folded.is_finished());
    assert_eq!(folded.windows.len(), steady.windows.len());
    assert_eq!((folded.replays(), folded.gaps()), (steady.replays(), steady.gaps()));
    assert!(folded.replays() > 1);
    for crashes in [(0..40).collect::<BTreeSet<_>>(), [4].into(), [5, 9].into()] {
        let again = fold_with_crashes(&spec(), &entries, &crashes);
        assert_eq!(again.objects(), folded.objects(), "I3, taken over after windows {crashes:?}");
    }
}

/// A room whose camera closed after 20 batches, which is dropped 20 s later; the room goes on.
fn with_dropped_camera() -> Log {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..20, 100);
    log.closing(producer_closed("cam"), &[("cam", 7, 20)], 2200);
    for second in 3..30 {
        log.control(EventKind::Tick, second * 1000);
    }
    log
}

fn assert_taken_over_alike(log: &Log, folded: &Folded) {
    assert!(folded.is_finished());
    let dropped = folded.windows.iter().any(|window| window.header.carry_over.tracks.is_empty());
    assert!(dropped, "the track was dropped meanwhile");
    for crashes in [(0..60).collect::<BTreeSet<_>>(), (25..40).collect(), [28].into(), [29].into(), [30].into()] {
        let again = fold_with_crashes(&spec(), &log.entries, &crashes);
        assert_eq!(again.objects(), folded.objects(), "I3, taken over after windows {crashes:?}");
    }
}

#[test]
fn a_dropped_track_that_is_opened_again_goes_on_under_its_numbers() {
    let mut log = with_dropped_camera();
    log.sfu(producer("cam", TrackKind::Video), 30_000);
    // The second comes before the first, and one that had come before.
    log.batch("cam", 7, 21, 30_100);
    log.batch("cam", 7, 19, 30_200);
    log.batch("cam", 7, 20, 31_200);
    log.batches("cam", 7, 22..50, 31_300);
    log.closing(closed(), &[("cam", 7, 50)], 34_500);
    let folded = fold(&spec(), &log.entries);
    assert_eq!((folded.batches().len(), distinct(&folded), folded.gaps()), (50, 50, Vec::new()));
    let damaged = folded.others.iter().any(|output| matches!(output, FoldOutput::Damaged(_)));
    assert!(!damaged && folded.windows.iter().all(|window| !window.header.is_incomplete()));
    assert_taken_over_alike(&log, &folded);
}

#[test]
fn an_earlier_numbering_of_a_track_that_is_published_again_is_missed_from_where_it_stood() {
    for lost_by_the_publisher in [false, true] {
        let mut log = with_dropped_camera();
        log.sfu(producer("cam", TrackKind::Video), 30_000);
        log.batches("cam", 9, 0..20, 30_100);
        let reason = match lost_by_the_publisher {
            false => {
                log.closing(producer_closed("other"), &[("cam", 7, 22)], 32_200);
                AcceptedReason::Log
            }
            true => {
                log.sfu(publisher_gap("cam", 7, (20, 21)), 32_200);
                AcceptedReason::Publisher
            }
        };
        log.batches("cam", 9, 20..150, 32_300);
        log.closing(closed(), &[("cam", 9, 150)], 46_000);
        let folded = fold(&spec(), &log.entries);
        assert_eq!((folded.batches().len(), distinct(&folded)), (170, 170));
        assert_eq!(folded.gaps(), [("cam".to_owned(), reason, (20, 21))]);
        assert_taken_over_alike(&log, &folded);
    }
}

#[test]
fn the_numberings_of_a_track_that_was_dropped_all_go_on() {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..5, 100);
    log.batches("cam", 8, 0..5, 700);
    log.closing(producer_closed("cam"), &[("cam", 7, 5), ("cam", 8, 5)], 2200);
    for second in 3..30 {
        log.control(EventKind::Tick, second * 1000);
    }
    log.batch("cam", 7, 5, 30_100);
    log.batch("cam", 8, 5, 30_200);
    log.batch("cam", 8, 0, 30_300);
    for second in 31..34 {
        log.control(EventKind::Tick, second * 1000);
    }
    log.sfu(closed(), 34_000);
    let folded = fold(&spec(), &log.entries);
    let of = |publisher: u64| folded.batches().iter().filter(|batch| batch.1 == publisher).count();
    assert_eq!((of(7), of(8), distinct(&folded)), (6, 6, 12));
    assert!(folded.gaps().iter().all(|gap| gap.1 == AcceptedReason::Publisher), "{:?}", folded.gaps());
    assert_taken_over_alike(&log, &folded);
}

#[test]
fn what_comes_of_a_dropped_track_of_which_nobody_says_what_it_was_is_no_matter_of_policy() {
    let mut log = Log::default();
    log.sfu(created(), 0);
    log.sfu(producer("mic", TrackKind::Audio), 10);
    log.batches("mic", 7, 0..20, 100);
    log.closing(producer_closed("mic"), &[("mic", 7, 20)], 2200);
    for second in 3..30 {
        log.control(EventKind::Tick, second * 1000);
    }
    log.batch("mic", 7, 20, 30_100);
    for second in 31..40 {
        log.control(EventKind::Tick, second * 1000);
    }
    log.sfu(closed(), 40_000);
    let spec =
        FoldSpec { policy: Policy { record_video: false, record_screenshare: false, ..Policy::default() }, ..spec() };
    let folded = fold(&spec, &log.entries);
    assert_eq!(folded.gaps(), [("mic".to_owned(), AcceptedReason::Damaged, (20, 20))]);
    assert_eq!(fold_with_crashes(&spec, &log.entries, &(0..60).collect()).objects(), folded.objects(), "I3");
}
