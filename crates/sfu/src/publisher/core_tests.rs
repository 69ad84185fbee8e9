//! The core by table and by story, and what must hold whatever happens.

use proptest::prelude::*;
use rand::SeedableRng as _;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn limits() -> Limits {
    Limits {
        batch_age: 100 * MS,
        batch_bytes: 1000,
        buffer_bytes: 1_000_000,
        in_flight: 4,
        unrecorded_grace: 10_000 * MS,
        retry_min: 250 * MS,
        retry_max: 5_000 * MS,
        trace_every: 2,
    }
}

fn core(limits: Limits) -> Core {
    let tenant = TenantId::new("acme").expect("valid");
    let sfu = SfuId::new("sfu-1").expect("valid");
    Core::new(limits, tenant, sfu, 4, StdRng::seed_from_u64(1))
}

fn room() -> RoomId {
    RoomId::new("standup").expect("valid")
}

fn recording() -> RecordingId {
    RecordingId::new("01r").expect("valid")
}

fn cam() -> TrackId {
    TrackId::new("cam").expect("valid")
}

fn packet(core: &mut Core, now: Duration, length: usize) {
    let data = PacketData::Rtp(vec![7; length].into());
    core.accept_packet(now, &room(), &cam(), RoomTime::from_micros(1), data).expect("short enough");
}

fn joined() -> EventKind {
    EventKind::PeerLeft { peer: roomreel_shared::id::PeerId::new("a").expect("valid"), reason: String::new() }
}

fn event(core: &mut Core, kind: EventKind) {
    core.accept_event(Duration::ZERO, &room(), RoomTime::from_micros(1), kind).expect("there is room");
}

fn sent(core: &mut Core, now: Duration) -> Vec<Send> {
    std::iter::from_fn(|| core.poll(now)).collect()
}

fn is_media(send: &Send) -> bool {
    send.entry.subject.as_str().contains(".media.")
}

fn batch(send: &Send) -> RtpBatch {
    RtpBatch::decode(send.entry.payload.clone()).expect("a batch")
}

fn stored(core: &mut Core, now: Duration, send: &Send) {
    core.on_appended(now, send.key, Appended { sequence: 1, duplicate: false });
}

fn closed() -> EventKind {
    EventKind::RoomClosed { reason: "ended".to_owned() }
}

#[test]
fn a_batch_closes_by_age_and_by_size_and_numbers_run_on() {
    let mut core = core(limits());
    packet(&mut core, Duration::ZERO, 100);
    packet(&mut core, 50 * MS, 100);
    core.on_time(99 * MS);
    assert_eq!(sent(&mut core, 99 * MS), []);
    assert_eq!(core.next_due(), Some(100 * MS));
    core.on_time(100 * MS);
    packet(&mut core, 100 * MS, 700);
    packet(&mut core, 101 * MS, 700);
    packet(&mut core, 102 * MS, 1200);
    let batches: Vec<RtpBatch> = sent(&mut core, 102 * MS).iter().map(batch).collect();
    let numbers: Vec<_> = batches.iter().map(|b| (b.batch_no, b.first_packet_no, b.packets.len())).collect();
    assert_eq!(numbers, [(0, 0, 2), (1, 2, 1), (2, 3, 1), (3, 4, 1)]);
    assert!(batches.iter().all(|b| b.incarnation == batches[0].incarnation && b.room == room() && b.track == cam()));
}

#[test]
fn messages_carry_subject_id_and_trace() {
    let mut core = core(limits());
    packet(&mut core, Duration::ZERO, 2000);
    packet(&mut core, Duration::ZERO, 2000);
    let sends = sent(&mut core, Duration::ZERO);
    let incarnation = batch(&sends[0]).incarnation;
    assert_eq!(sends[1].entry.message_id, batch::message_id(incarnation, 1));
    let subject = sends[0].entry.subject.as_str();
    assert!(subject.starts_with("roomreel.v1.s") && subject.ends_with(".acme.sfu-1.standup.media.cam"), "{subject}");
    let flags: Vec<_> =
        sends.iter().map(|send| send.entry.trace_parent.as_deref().expect("traced")[53..].to_owned()).collect();
    assert_eq!(flags, ["00", "01"], "one batch in two is sampled");
}

#[test]
fn an_event_stands_behind_the_media_before_it_and_the_end_behind_everything() {
    let mut core = core(limits());
    packet(&mut core, Duration::ZERO, 10);
    event(&mut core, joined());
    packet(&mut core, Duration::ZERO, 10);
    event(&mut core, closed());
    let sends = sent(&mut core, Duration::ZERO);
    assert_eq!(sends.iter().map(is_media).collect::<Vec<_>>(), [true, false, true], "the end waits");
    stored(&mut core, MS, &sends[2]);
    stored(&mut core, MS, &sends[0]);
    assert_eq!(sent(&mut core, MS), []);
    core.on_failed(MS, sends[1].key);
    let again = sent(&mut core, 300 * MS);
    assert_eq!(again[0].entry, sends[1].entry, "the same message id");
    stored(&mut core, 300 * MS, &again[0]);
    let end = sent(&mut core, 300 * MS);
    assert_eq!(end.len(), 1);
    assert!(matches!(
        RoomEvent::decode(end[0].entry.payload.clone()),
        Ok(RoomEvent { kind: EventKind::RoomClosed { .. }, event_no: 1, .. })
    ));
    assert!(!core.is_flushed());
    stored(&mut core, 300 * MS, &end[0]);
    assert!(core.is_flushed());
    assert_eq!(core.rooms().count(), 0);
}

#[test]
fn a_session_that_is_over_is_not_kept_for_ever_when_the_last_word_is_lost() {
    for is_open_again in [false, true] {
        let mut core = core(limits());
        event(&mut core, joined());
        packet(&mut core, Duration::ZERO, 2000);
        event(&mut core, closed());
        core.on_recording_state(Duration::ZERO, &room(), &recording(), true);
        let mut sends = Vec::new();
        let mut run = |core: &mut Core, seconds: std::ops::Range<u32>| {
            let before = core.stats().replays;
            for second in seconds {
                let now = 1000 * MS * second;
                core.on_time(now);
                for send in std::iter::from_fn(|| core.poll(now)).collect::<Vec<_>>() {
                    stored(core, now, &send);
                    sends.push(send.key);
                }
                if is_open_again {
                    core.on_recording_state(now, &room(), &recording(), true);
                }
            }
            core.stats().replays - before
        };
        run(&mut core, 0..2);
        if is_open_again {
            let (room_name, host) = ("again".to_owned(), None);
            event(&mut core, EventKind::RoomCreated { room_name, host, meeting_type: String::new(), policy: None });
        }
        assert!(run(&mut core, 2..500) > 50, "somebody may miss them");
        run(&mut core, 500..650);
        let own = if is_open_again { 1 } else { 0 };
        assert_eq!(core.stats().held_messages, own, "nobody spoke of it for ten minutes");
        assert!(run(&mut core, 650..700) <= 5 * own);
    }
}

#[test]
fn nothing_overtakes_the_beginning_of_a_room() {
    let mut core = core(limits());
    let created =
        EventKind::RoomCreated { room_name: String::new(), host: None, meeting_type: String::new(), policy: None };
    event(&mut core, created);
    event(&mut core, joined());
    packet(&mut core, Duration::ZERO, 2000);
    let first = sent(&mut core, Duration::ZERO);
    assert_eq!(first.len(), 1, "the others wait");
    core.on_failed(MS, first[0].key);
    assert_eq!(sent(&mut core, 2 * MS), []);
    let again = sent(&mut core, 300 * MS);
    stored(&mut core, 300 * MS, &again[0]);
    assert_eq!(sent(&mut core, 300 * MS).iter().map(is_media).collect::<Vec<_>>(), [false, true]);
}

fn created_with(auto_record: bool) -> EventKind {
    let policy = roomreel_shared::policy::Policy { auto_record, ..Default::default() };
    EventKind::RoomCreated { room_name: String::new(), host: None, meeting_type: String::new(), policy: Some(policy) }
}

#[test]
fn a_room_that_is_created_again_has_numbers_of_its_own_and_waits_for_the_end_of_the_last() {
    let mut core = core(limits());
    event(&mut core, created_with(false));
    let send = sent(&mut core, Duration::ZERO).remove(0);
    stored(&mut core, Duration::ZERO, &send);
    packet(&mut core, Duration::ZERO, 2000);
    event(&mut core, closed());
    event(&mut core, created_with(false));
    packet(&mut core, Duration::ZERO, 2000);
    event(&mut core, closed());
    let kinds = |sends: &[Send]| -> Vec<&'static str> {
        let of = |send: &Send| match RoomEvent::decode(send.entry.payload.clone()).map(|event| event.kind) {
            Ok(EventKind::RoomCreated { .. }) => "created",
            Ok(EventKind::RoomClosed { .. }) => "closed",
            Ok(_) => "event",
            Err(_) => "media",
        };
        sends.iter().map(of).collect()
    };
    let mut batches = Vec::new();
    for expected in ["media", "closed", "created", "media", "closed"] {
        let sends = sent(&mut core, Duration::ZERO);
        assert_eq!(kinds(&sends), [expected], "one waits for the other");
        batches.extend(RtpBatch::decode(sends[0].entry.payload.clone()));
        core.on_failed(Duration::ZERO, sends[0].key);
        let again = sent(&mut core, 300 * MS);
        assert_eq!(kinds(&again), [expected], "a retry is overtaken by nothing");
        stored(&mut core, Duration::ZERO, &again[0]);
    }
    assert!(core.is_flushed());
    let numbers: Vec<_> = batches.iter().map(|batch| (batch.batch_no, batch.first_packet_no)).collect();
    assert_eq!(numbers, [(0, 0), (0, 0)]);
    assert_ne!(batches[0].incarnation, batches[1].incarnation);
    // What is asked for of the first session is still there, until a watermark covers it.
    core.on_recording_state(Duration::ZERO, &room(), &recording(), true);
    core.on_replay_request(&room(), Some(&cam()), batches[0].incarnation.get(), 0..=9, 1);
    let replayed = sent(&mut core, Duration::ZERO);
    assert_eq!(replayed.iter().map(batch).collect::<Vec<_>>(), batches[..1]);
}

/// The log takes everything that is sent at a time; answers the message ids.
fn flush(core: &mut Core, ms: u32) -> Vec<String> {
    core.on_time(ms * MS);
    let mut ids = Vec::new();
    while let Some(send) = core.poll(ms * MS) {
        stored(core, ms * MS, &send);
        ids.push(send.entry.message_id);
    }
    ids
}

fn incarnation_of(message_id: &str) -> u64 {
    u64::from_str_radix(&message_id[..16], 16).expect("hexadecimal")
}

#[test]
fn what_is_said_of_an_earlier_sessions_recording_is_not_said_of_this_one() {
    let mut core = core(limits());
    event(&mut core, created_with(true));
    flush(&mut core, 0);
    core.on_recording_state(Duration::ZERO, &room(), &recording(), true);
    event(&mut core, closed());
    flush(&mut core, 1_000);
    core.on_time(1_500 * MS);
    let again = |core: &mut Core, kind| {
        core.accept_event(1_500 * MS, &room(), RoomTime::from_micros(2), kind).expect("there is room");
    };
    again(&mut core, created_with(true));
    let begun = flush(&mut core, 1_500);
    again(&mut core, joined());
    packet(&mut core, 1_500 * MS, 2000);
    assert_eq!((begun.len(), flush(&mut core, 1_500).len()), (1, 2));
    // The first one is ending; its end is committed, and then it is over.
    core.on_recording_state(2_000 * MS, &room(), &recording(), true);
    core.on_recording_state(2_500 * MS, &room(), &recording(), false);
    let sent_again: Vec<String> = (1..=16).flat_map(|half| flush(&mut core, 2_500 * half)).collect();
    let beginning = |id: &&String| id.starts_with(&begun[0]);
    assert_eq!(sent_again.iter().filter(beginning).count(), 2, "its creation, after 10 and 30 s: {sent_again:?}");
    assert!(core.stats().held_messages >= 3, "40 s later all of it is there: {:?}", core.stats());
    // Its own recording says nothing else but that it is there, until it has the beginning.
    let own = RecordingId::new("02r").expect("valid");
    core.on_recording_state(41_000 * MS, &room(), &own, true);
    core.on_watermark(&room(), None, incarnation_of(&begun[0]), 2);
    core.on_recording_state(42_000 * MS, &room(), &own, false);
    flush(&mut core, 60_000);
    assert_eq!(core.stats().held_messages, 0, "it has ended");
}

#[test]
fn a_recording_that_nobody_speaks_of_any_more_lapses_but_not_while_the_broker_is_away() {
    for is_away in [false, true] {
        let mut core = core(Limits { buffer_bytes: 4_000_000, ..limits() });
        event(&mut core, joined());
        flush(&mut core, 0);
        // A node that slept through the recording's end says once that it goes on.
        core.on_recording_state(Duration::ZERO, &room(), &recording(), true);
        let mut unanswered = Vec::new();
        for second in 1..700 {
            packet(&mut core, 1_000 * MS * second, 2000);
            if is_away && second > 60 {
                core.on_time(1_000 * MS * second);
                unanswered.extend(sent(&mut core, 1_000 * MS * second));
            } else {
                flush(&mut core, 1_000 * second);
            }
            assert!(second > 600 || core.stats().held_messages > u64::from(second));
        }
        let held = core.stats().held_messages;
        if is_away {
            assert_eq!((held, unanswered.len()), (700, 4), "the log may have lost what it had acknowledged");
        } else {
            assert!(held <= 11, "{held} messages are kept for the grace");
        }
    }
}

#[test]
fn recordings_of_a_room_are_bounded() {
    let mut core = core(limits());
    event(&mut core, joined());
    for number in 0..1000_u32 {
        let id = RecordingId::new(format!("r{number}")).expect("valid");
        core.on_recording_state(MS * number, &room(), &id, true);
    }
    let known = &core.rooms[&room()].recordings;
    assert!(known.len() == 16 && known.values().all(|heard_at| *heard_at >= MS * 984), "{known:?}");
}

#[test]
fn a_room_whose_policy_has_it_recorded_is_kept_and_its_beginning_sent_again_until_somebody_says_that_it_is() {
    let mut core = core(limits());
    event(&mut core, created_with(true));
    let begun = flush(&mut core, 0);
    packet(&mut core, Duration::ZERO, 2000);
    event(&mut core, joined());
    flush(&mut core, 0);
    let again: Vec<Vec<String>> =
        [5_000, 10_000, 20_000, 27_500, 30_000].map(|ms| flush(&mut core, ms)).into_iter().collect();
    let suffixes: Vec<Vec<&str>> = again.iter().map(|ids| ids.iter().map(|id| &id[id.len() - 4..]).collect()).collect();
    assert_eq!(suffixes, [vec![], vec!["0:r1"], vec![], vec![], vec!["0:r2"]], "its creation alone, ever more rarely");
    assert_eq!(core.stats().held_messages, 3, "longer than the grace");
    core.on_recording_state(40_000 * MS, &room(), &recording(), true);
    assert!(flush(&mut core, 42_500).iter().all(|id| !id.ends_with(":0:r3")), "now the ends are what is sent again");
    core.on_watermark(&room(), None, incarnation_of(&begun[0]), 1);
    core.on_recording_state(43_000 * MS, &room(), &recording(), false);
    flush(&mut core, 53_000);
    assert_eq!(core.stats().held_messages, 0);

    // Where nobody ever records it, it is not kept for ever; nor where the policy changes.
    for changes in [false, true] {
        let mut core = self::core(limits());
        event(&mut core, created_with(true));
        flush(&mut core, 0);
        if changes {
            event(&mut core, EventKind::RoomPolicyUpdated { policy: roomreel_shared::policy::Policy::default() });
        }
        for seconds in 0..if changes { 13 } else { 615 } {
            flush(&mut core, seconds * 1000);
            assert!(seconds > 9 || core.stats().held_messages > 0);
        }
        assert_eq!(core.stats().held_messages, 0);
    }
}

#[test]
fn an_end_without_a_watermark_is_sent_again_and_the_rooms_end_last() {
    let mut core = core(limits());
    packet(&mut core, Duration::ZERO, 2000);
    packet(&mut core, Duration::ZERO, 2000);
    event(&mut core, closed());
    core.on_recording_state(Duration::ZERO, &room(), &recording(), true);
    for _ in 0..2 {
        sent(&mut core, Duration::ZERO).iter().for_each(|send| stored(&mut core, Duration::ZERO, send));
    }
    let ids = |core: &mut Core, ms: u32| -> Vec<String> {
        core.on_time(ms * MS);
        let sends = sent(core, ms * MS);
        sends.iter().for_each(|send| stored(core, ms * MS, send));
        sends.into_iter().map(|send| send.entry.message_id).collect()
    };
    assert_eq!(ids(&mut core, 9_000), [""; 0], "a watermark may still come");
    let media = ids(&mut core, 10_000);
    assert!(media.len() == 1 && media[0].ends_with(":1:r1"), "the newest batch alone: {media:?}");
    let end = ids(&mut core, 12_500);
    assert!(end.len() == 1 && end[0].ends_with(":0:r1"), "then the end: {end:?}");
    assert_eq!(ids(&mut core, 15_000), [""; 0]);
    assert!(ids(&mut core, 20_000)[0].ends_with(":1:r2"), "under a new id each time");
}

#[test]
fn retries_back_off_and_hold_the_window() {
    let mut core = core(limits());
    (0..10).for_each(|_| packet(&mut core, Duration::ZERO, 2000));
    let sends = sent(&mut core, Duration::ZERO);
    assert_eq!(sends.len(), 4);
    let waits: Vec<Duration> = (0..7).map(|_| core.on_failed(Duration::ZERO, sends[0].key)).collect();
    assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000].map(|ms| ms * MS));
    let mut other = self::core(limits());
    (0..10).for_each(|_| packet(&mut other, Duration::ZERO, 2000));
    for send in sent(&mut other, Duration::ZERO) {
        other.on_failed(Duration::ZERO, send.key);
    }
    assert_eq!(sent(&mut other, 249 * MS), [], "an outage does not draw the queue in");
    let again = sent(&mut other, 250 * MS);
    assert_eq!(again.iter().map(|send| batch(send).batch_no).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn a_recorded_room_keeps_what_no_watermark_covers_and_replays_it_under_new_ids() {
    let mut core = core(limits());
    packet(&mut core, Duration::ZERO, 2000);
    packet(&mut core, Duration::ZERO, 2000);
    core.on_recording_state(Duration::ZERO, &room(), &recording(), true);
    let sends = sent(&mut core, Duration::ZERO);
    sends.iter().for_each(|send| stored(&mut core, MS, send));
    core.on_time(9_000 * MS);
    assert_eq!(core.stats().held_messages, 2);
    let incarnation = batch(&sends[0]).incarnation;
    core.on_replay_request(&room(), Some(&cam()), incarnation.get(), 0..=u64::MAX, 2);
    core.on_replay_request(&room(), Some(&cam()), 99, 0..=9, 1);
    core.on_replay_request(&room(), None, incarnation.get(), 0..=9, 1);
    let replays = sent(&mut core, MS);
    let ids: Vec<&str> = replays.iter().map(|send| send.entry.message_id.as_str()).collect();
    assert_eq!(ids, [batch::replay_message_id(incarnation, 0, 2), batch::replay_message_id(incarnation, 1, 2)]);
    assert_eq!(replays[0].entry.payload, sends[0].entry.payload);
    assert!(core.is_flushed(), "the broker has had it");
    core.on_watermark(&room(), Some(&cam()), incarnation.get(), 1);
    assert_eq!(core.stats().held_messages, 2, "it is on its way, and may have been given up");
    stored(&mut core, MS, &replays[0]);
    assert_eq!(core.stats().held_messages, 1);
    stored(&mut core, MS, &replays[1]);
    core.on_watermark(&room(), Some(&cam()), incarnation.get(), u64::MAX);
    let stats = core.stats();
    assert_eq!((stats.held_messages, stats.held_bytes, stats.durable), (0, 0, 2));
}

#[test]
fn a_watermark_above_what_was_given_up_lets_go_of_nothing_that_is_still_being_sent() {
    let mut core = core(limits());
    core.on_recording_state(Duration::ZERO, &room(), &recording(), true);
    (0..3).for_each(|_| packet(&mut core, Duration::ZERO, 2000));
    event(&mut core, joined());
    let sends = sent(&mut core, Duration::ZERO);
    let incarnation = batch(&sends[0]).incarnation.get();
    let events = RoomEvent::decode(sends[3].entry.payload.clone()).expect("an event").incarnation.get();
    // Batch 1 and the event are refused; the fold waits for them, gives them up and goes on.
    core.on_failed(MS, sends[1].key);
    core.on_failed(MS, sends[3].key);
    stored(&mut core, MS, &sends[2]);
    core.on_watermark(&room(), Some(&cam()), incarnation, 3);
    core.on_watermark(&room(), None, events, 1);
    let stats = core.stats();
    assert_eq!((stats.held_messages, stats.durable), (3, 1), "0 is in flight, 1 and the event wait for their retry");
    assert!(!core.is_flushed());
    let again = sent(&mut core, 300 * MS);
    assert_eq!(again.iter().map(|send| &send.entry).collect::<Vec<_>>(), [&sends[1].entry, &sends[3].entry]);
    for send in [&sends[0], &again[0], &again[1]] {
        stored(&mut core, 300 * MS, send);
    }
    let stats = core.stats();
    assert_eq!((stats.held_messages, stats.held_bytes, stats.durable, stats.retries), (0, 0, 4, 2));
    assert!(core.is_settled() && core.window == 0);
}

#[test]
fn a_room_that_is_not_recorded_is_kept_for_the_grace_only() {
    let mut core = core(limits());
    packet(&mut core, Duration::ZERO, 2000);
    let sends = sent(&mut core, Duration::ZERO);
    stored(&mut core, MS, &sends[0]);
    core.on_time(10_000 * MS);
    assert_eq!(core.stats().held_messages, 1);
    core.on_time(10_001 * MS);
    assert_eq!(core.stats().held_messages, 0);
    // A recording that ends gives the grace anew.
    core.on_recording_state(20_000 * MS, &room(), &recording(), true);
    packet(&mut core, 20_000 * MS, 2000);
    let sends = sent(&mut core, 20_000 * MS);
    stored(&mut core, 20_000 * MS, &sends[0]);
    core.on_time(25_000 * MS);
    core.on_recording_state(25_000 * MS, &room(), &recording(), false);
    core.on_time(34_999 * MS);
    assert_eq!(core.stats().held_messages, 1);
    core.on_time(35_000 * MS);
    assert_eq!(core.stats().held_messages, 0);
}

#[test]
fn when_full_what_is_acknowledged_goes_first_then_the_newest_batch_with_a_gap() {
    let mut core = core(Limits { buffer_bytes: 11_500, ..limits() });
    core.on_recording_state(Duration::ZERO, &room(), &recording(), true);
    (0..3).for_each(|_| packet(&mut core, Duration::ZERO, 2000));
    let sends = sent(&mut core, Duration::ZERO);
    stored(&mut core, MS, &sends[0]);
    packet(&mut core, MS, 3000);
    assert_eq!((core.stats().evicted, core.stats().dropped_packets), (0, 0));
    packet(&mut core, MS, 1500);
    assert_eq!((core.stats().evicted, core.stats().dropped_packets), (1, 0));
    packet(&mut core, MS, 3000);
    packet(&mut core, MS, 3000);
    assert_eq!((core.stats().evicted, core.stats().dropped_packets, core.stats().gaps), (1, 2, 0));
    assert!(!core.is_flushed(), "an undeclared gap is open");
    stored(&mut core, MS, &sends[1]);
    packet(&mut core, MS, 2000);
    stored(&mut core, MS, &sends[2]);
    loop {
        let sends = sent(&mut core, MS);
        if sends.is_empty() {
            break;
        }
        sends.iter().for_each(|send| stored(&mut core, MS, send));
    }
    assert_eq!(core.stats().gaps, 1);
    assert!(core.is_flushed());
}

#[test]
fn what_an_sfu_may_not_say_is_refused() {
    let mut core = core(limits());
    let time = RoomTime::default();
    assert_eq!(core.accept_event(Duration::ZERO, &room(), time, EventKind::Tick), Err(Error::NotForSfu));
    let long = EventKind::RoomClosed { reason: "x".repeat(MAX_EVENT_BYTES) };
    assert!(matches!(core.accept_event(Duration::ZERO, &room(), time, long), Err(Error::EventTooLarge { .. })));
    let data = PacketData::Rtp(vec![0; MAX_PACKET_BYTES + 1].into());
    assert!(matches!(
        core.accept_packet(Duration::ZERO, &room(), &cam(), time, data),
        Err(Error::PacketTooLarge { .. })
    ));
    assert_eq!(core.stats().rejected, 3);
    event(&mut core, joined());
    assert_eq!(
        sent(&mut core, Duration::ZERO)[0].entry.message_id.split(':').next_back(),
        Some("0"),
        "no number was used"
    );
}

#[test]
fn events_are_bounded_too() {
    let mut core = core(Limits { buffer_bytes: 10_000, ..limits() });
    let long = || EventKind::PeerLeft {
        peer: roomreel_shared::id::PeerId::new("a").expect("valid"),
        reason: "x".repeat(MAX_EVENT_BYTES / 2),
    };
    let refused = (0..100).find(|_| {
        let outcome = core.accept_event(Duration::ZERO, &room(), RoomTime::default(), long());
        matches!(outcome, Err(Error::BufferFull { .. }))
    });
    assert!(refused.is_some_and(|count| count < 8), "{refused:?}");
}

/// What the world may do to the core.
#[derive(Debug, Clone)]
enum Action {
    Packet { track: u8, length: usize },
    Event,
    Time(u64),
    Answer { which: usize, is_stored: bool },
    Recording(bool),
    Watermark { track: u8, next: u64 },
    Replay { track: u8, first: u64, attempt: u32 },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (0..3_u8, 1..3000_usize).prop_map(|(track, length)| Action::Packet { track, length }),
        1 => Just(Action::Event),
        4 => (0..400_u64).prop_map(Action::Time),
        6 => (any::<usize>(), prop::bool::weighted(0.7)).prop_map(|(which, is_stored)| Action::Answer { which, is_stored }),
        1 => any::<bool>().prop_map(Action::Recording),
        1 => (0..3_u8, 0..40_u64).prop_map(|(track, next)| Action::Watermark { track, next }),
        1 => (0..3_u8, 0..40_u64, 0..9_u32).prop_map(|(track, first, attempt)| Action::Replay { track, first, attempt }),
    ]
}

fn track(number: u8) -> TrackId {
    TrackId::new(format!("t{number}")).expect("valid")
}

proptest! {
    /// I1 at its source: what was accepted is sent under contiguous numbers, or declared missing; memory stays in bounds.
    #[test]
    fn every_accepted_packet_is_sent_once_or_declared_missing(actions in prop::collection::vec(action(), 1..400), buffer_bytes in 8_000..60_000_usize) {
        let limits = Limits { buffer_bytes, ..limits() };
        let mut core = core(limits.clone());
        let mut now = Duration::ZERO;
        let mut in_flight: Vec<Send> = Vec::new();
        let mut accepted: BTreeMap<u8, u64> = BTreeMap::new();
        let mut log: Vec<Send> = Vec::new();
        let mut incarnations: BTreeMap<u8, u64> = BTreeMap::new();
        let mut rejected_events = 0;

        let mut step = |core: &mut Core, now: Duration, in_flight: &mut Vec<Send>, action: Option<Action>| -> Result<(), TestCaseError> {
            match action {
                Some(Action::Packet { track: number, length }) => {
                    let data = PacketData::Rtp(vec![number; length].into());
                    core.accept_packet(now, &room(), &track(number), RoomTime::from_micros(1), data).expect("short");
                    *accepted.entry(number).or_default() += 1;
                }
                Some(Action::Event) => {
                    rejected_events += u64::from(core.accept_event(now, &room(), RoomTime::from_micros(1), joined()).is_err());
                }
                Some(Action::Answer { which, is_stored }) if !in_flight.is_empty() => {
                    let send = in_flight.swap_remove(which % in_flight.len());
                    if is_stored {
                        core.on_appended(now, send.key, Appended { sequence: 1, duplicate: false });
                        log.push(send);
                    } else {
                        core.on_failed(now, send.key);
                    }
                }
                Some(Action::Recording(active)) => core.on_recording_state(now, &room(), &recording(), active),
                Some(Action::Watermark { track: number, next }) => {
                    // It may cover what the log does not have: a hole that was given up.
                    let incarnation = incarnations.get(&number).copied().unwrap_or(1);
                    core.on_watermark(&room(), Some(&track(number)), incarnation, next);
                }
                Some(Action::Replay { track: number, first, attempt }) => {
                    let incarnation = incarnations.get(&number).copied().unwrap_or(1);
                    core.on_replay_request(&room(), Some(&track(number)), incarnation, first..=first + 5, attempt);
                }
                Some(Action::Answer { .. } | Action::Time(_)) | None => {}
            }
            core.on_time(now);
            while let Some(send) = core.poll(now) {
                if is_media(&send) {
                    let batch = batch(&send);
                    let number = batch.track.as_str().as_bytes()[1] - b'0';
                    incarnations.insert(number, batch.incarnation.get());
                }
                in_flight.push(send);
            }
            prop_assert!(in_flight.len() <= limits.in_flight);
            let held = core.stats().held_bytes as usize;
            // Media keeps to the buffer; open batches and events have their own bounds beside it.
            let bound = limits.buffer_bytes + 3 * (limits.batch_bytes + 4000) + core.event_buffer_bytes();
            prop_assert!(held <= bound, "{held} bytes held");
            Ok(())
        };
        for action in actions {
            if let Action::Time(ms) = action {
                now += Duration::from_millis(ms);
            }
            step(&mut core, now, &mut in_flight, Some(action))?;
        }
        core.close_batches();
        // No longer recorded: ends without a watermark are not sent again and again.
        core.on_recording_state(now, &room(), &recording(), false);
        for _ in 0..2000 {
            if core.is_flushed() && in_flight.is_empty() {
                break;
            }
            now += Duration::from_secs(6);
            core.close_batches();
            let action = (!in_flight.is_empty()).then_some(Action::Answer { which: 0, is_stored: true });
            step(&mut core, now, &mut in_flight, action)?;
        }
        prop_assert!(core.is_flushed(), "{:?}", core.stats());
        prop_assert_eq!(core.window, 0);

        let mut packets: BTreeMap<u8, BTreeSet<u64>> = BTreeMap::new();
        let mut events = BTreeSet::new();
        let mut gaps = 0;
        for send in &log {
            if is_media(send) {
                let batch = batch(send);
                let number = batch.track.as_str().as_bytes()[1] - b'0';
                packets.entry(number).or_default().extend(batch.first_packet_no..batch.next_packet_no());
            } else {
                let event = RoomEvent::decode(send.entry.payload.clone()).expect("an event");
                if events.insert(event.event_no) && let EventKind::PublisherGap(gap) = event.kind {
                    let number = gap.track.as_str().as_bytes()[1] - b'0';
                    let missing = packets.entry(number).or_default();
                    for packet in gap.packets.0..=gap.packets.1 {
                        prop_assert!(missing.insert(packet), "packet {packet} is declared missing and there");
                    }
                    gaps += 1;
                }
            }
        }
        for (number, count) in accepted {
            let have = packets.remove(&number).unwrap_or_default();
            prop_assert!(have.into_iter().eq(0..count), "track {number}");
        }
        prop_assert_eq!(events.len() as u64, core.stats().events, "events are contiguous");
        prop_assert_eq!(gaps, core.stats().gaps);
    }
}
