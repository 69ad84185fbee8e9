//! What happens between a publisher and the fold.

use std::collections::BTreeSet;

use roomreel_shared::event::{EventKind, RoomEvent};
use roomreel_shared::id::RoomId;
use roomreel_shared::subject::{Address, Entry, Writer};
use roomreel_shared::window::AcceptedReason;

use super::{Kit, camera, expect_stream, microphone, received};
use crate::account::merged;
use crate::rtp::{Sent, Stream};
use crate::trace::{Published, Writing};

/// From noticing that a batch is missing until it is declared, and a little more.
const GIVEN_UP_MS: i64 = 10_300;

/// A camera whose network loses nothing.
fn video(kit: &mut Kit) -> (Writing, Published, Stream, Vec<Sent>) {
    let mut stream = Stream::new(&mut kit.rng, 1, 96);
    let sent = stream.vp8(kit.size, 100);
    let published = kit.publish("cam", 7, received(&sent));
    (camera(), published, stream, sent)
}

fn runs(numbers: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    merged(numbers.iter().map(|number| (*number, *number)).collect())
}

/// All but `absent` are stored; those are declared, and asked for.
fn lose(writing: &mut Writing, published: &Published, absent: &BTreeSet<u64>) {
    writing.stored(published, published.numbers().filter(|number| !absent.contains(number)));
    for run in runs(absent) {
        writing.missing(published, run, AcceptedReason::Log);
        writing.say(format!("batches {run:?} are lost"));
    }
    ask(writing, published, absent);
}

fn ask(writing: &mut Writing, published: &Published, numbers: &BTreeSet<u64>) {
    if !numbers.is_empty() {
        let key = (published.track.to_owned(), published.incarnation);
        writing.expected.asked.entry(key).or_default().extend(numbers);
    }
}

/// Batches overtake each other and come twice.
pub(super) fn reordered_batches(kit: &mut Kit) -> Writing {
    let (mut writing, published, stream, sent) = video(kit);
    for number in published.numbers() {
        let late = if kit.chance(40) { kit.up_to(350) as i64 } else { 0 };
        writing.batch(&published, number, published.time(number) + late);
        if kit.chance(20) {
            let again = kit.up_to(3000) as i64;
            writing.say(format!("batch {number} comes again after {again} ms"));
            writing.batch(&published, number, published.time(number) + late + again);
        }
    }
    writing.stored(&published, published.numbers());
    expect_stream(&mut writing, &published, &stream, &sent, |_| true);
    writing.close()
}

pub(super) fn lost_batches(kit: &mut Kit) -> Writing {
    let (mut writing, published, stream, sent) = video(kit);
    let absent: BTreeSet<u64> = kit.choose(&published, 15).into_iter().collect();
    for number in published.numbers().filter(|number| !absent.contains(number)) {
        writing.batch(&published, number, published.time(number));
    }
    lose(&mut writing, &published, &absent);
    expect_stream(&mut writing, &published, &stream, &sent, |number| !absent.contains(&number));
    writing.close()
}

/// Batches that come after their gap was declared: the gap stands, and they are stored.
pub(super) fn late_batches(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let mut stream = Stream::new(&mut kit.rng, 1, 111);
    let sent = stream.opus(kit.size, 100);
    let published = kit.publish("mic", 7, received(&sent));
    let late: BTreeSet<u64> = kit.choose(&published, 12).into_iter().filter(|number| *number > 0).collect();
    for number in published.numbers() {
        let delay = if late.contains(&number) { GIVEN_UP_MS * 2 + kit.up_to(3000) as i64 } else { 0 };
        writing.batch(&published, number, published.time(number) + delay);
    }
    lose(&mut writing, &published, &late);
    writing.account("mic").late.extend(late.iter().map(|number| (7, *number)));
    expect_stream(&mut writing, &published, &stream, &sent, |number| !late.contains(&number));
    // The room goes on in silence until they have come.
    let end = writing.last_time() + 500;
    writing.ticks(0, end);
    writing.close_at(end)
}

/// What is lost is published again as it is asked for: nothing is missing.
pub(super) fn replayed_batches(kit: &mut Kit) -> Writing {
    let (mut writing, published, stream, sent) = video(kit);
    let lost: BTreeSet<u64> = kit.choose(&published, 15).into_iter().collect();
    for number in published.numbers().filter(|number| !lost.contains(number)) {
        writing.batch(&published, number, published.time(number));
    }
    for number in &lost {
        // Noticed with the next batch there is, asked for half a second later.
        let next = (*number..).find(|next| !lost.contains(next)).expect("the last one is never lost");
        writing.batch(&published, *number, published.time(next) + 900 + kit.up_to(3000) as i64);
    }
    writing.say(format!("{lost:?} are lost at first"));
    writing.stored(&published, published.numbers());
    // One that is asked for with others before it may have come by then.
    writing.expected.askable.insert(("cam".to_owned(), 7), lost.clone());
    expect_stream(&mut writing, &published, &stream, &sent, |_| true);
    let end = writing.last_time() + 200;
    writing.ticks(0, end);
    writing.close_at(end)
}

/// Bytes of batches flip in the log: each costs itself, and only itself.
pub(super) fn checksum_damage(kit: &mut Kit) -> Writing {
    let (mut writing, published, stream, sent) = video(kit);
    let damaged: BTreeSet<u64> = kit.choose(&published, 15).into_iter().collect();
    for number in published.numbers() {
        if !damaged.contains(&number) {
            writing.batch(&published, number, published.time(number));
            continue;
        }
        let mut bytes = published.batch(number).encode().to_vec();
        // Within the last packet's bytes.
        let at = bytes.len() - 1 - kit.up_to(3) as usize;
        bytes[at] ^= 1 << kit.up_to(7);
        let subject = writing.media_subject("cam");
        writing.raw(subject, bytes.into(), published.time(number));
        writing.damaged("batch");
    }
    lose(&mut writing, &published, &damaged);
    expect_stream(&mut writing, &published, &stream, &sent, |number| !damaged.contains(&number));
    writing.close()
}

/// The log serves entries again: whole runs of them, much later.
pub(super) fn log_repeats(kit: &mut Kit) -> Writing {
    let (mut writing, published, stream, sent) = video(kit);
    for number in published.numbers() {
        writing.batch(&published, number, published.time(number));
    }
    let end = writing.last_time();
    for _ in 0..1 + kit.up_to(3) {
        let first = kit.up_to(published.batches.len() as u64 - 1);
        let last = (first + kit.up_to(30)).min(published.batches.len() as u64 - 1);
        let at = published.time(last) + kit.up_to(5000) as i64;
        writing.say(format!("batches {first} to {last} come again at {at} ms"));
        for number in first..=last {
            writing.batch(&published, number, at + (number - first) as i64);
        }
    }
    writing.stored(&published, published.numbers());
    expect_stream(&mut writing, &published, &stream, &sent, |_| true);
    let end = writing.last_time().max(end) + 100;
    writing.close_at(end)
}

/// Batches and events of other rooms and tracks, under this room's subjects and under theirs (I4).
pub(super) fn wrong_room(kit: &mut Kit) -> Writing {
    let (mut writing, published, stream, sent) = video(kit);
    for number in published.numbers() {
        let at = published.time(number);
        let mut foreign = published.batch(number);
        let subject = writing.media_subject("cam");
        match kit.up_to(5) {
            0 => {
                foreign.room = RoomId::new("board").expect("valid");
                writing.raw(subject, foreign.encode(), at);
                writing.damaged("wrong_place");
            }
            1 => {
                foreign.track = crate::trace::track("mic");
                writing.raw(subject, foreign.encode(), at);
                writing.damaged("wrong_place");
            }
            2 => {
                let room = RoomId::new("board").expect("valid");
                foreign.room = room.clone();
                let entry = Entry::Media(foreign.track.clone());
                let own = Address { room, ..crate::trace::address(Writer::Control, entry) };
                writing.raw(own.subject().to_string(), foreign.encode(), at);
                writing.damaged("wrong_place");
            }
            3 => {
                let event = RoomEvent {
                    room: RoomId::new("board").expect("valid"),
                    incarnation: foreign.incarnation,
                    event_no: 0,
                    time: foreign.packets[0].time,
                    kind: EventKind::RoomClosed { reason: String::new() },
                };
                let own = crate::trace::address(Writer::Control, Entry::Event);
                writing.raw(own.subject().to_string(), event.encode(), at);
                writing.damaged("wrong_place");
            }
            _ => {}
        }
        writing.batch(&published, number, at);
    }
    writing.stored(&published, published.numbers());
    expect_stream(&mut writing, &published, &stream, &sent, |_| true);
    writing.close()
}

/// The publisher's buffer was full: it says what it dropped, before or after the batch behind it.
pub(super) fn publisher_drops(kit: &mut Kit) -> Writing {
    let (mut writing, published, stream, sent) = video(kit);
    let dropped: BTreeSet<u64> = kit.choose(&published, 20).into_iter().collect();
    for number in published.numbers().filter(|number| !dropped.contains(number)) {
        writing.batch(&published, number, published.time(number));
    }
    for run in runs(&dropped) {
        let behind = published.time(run.1 + 1);
        let at = if kit.chance(50) { behind - 1 } else { behind + kit.up_to(300) as i64 };
        writing.gap_event(&published, run, at);
        writing.missing(&published, run, AcceptedReason::Publisher);
        writing.say(format!("batches {run:?} are dropped, said so at {at} ms"));
    }
    writing.stored(&published, published.numbers().filter(|number| !dropped.contains(number)));
    expect_stream(&mut writing, &published, &stream, &sent, |number| !dropped.contains(&number));
    let end = writing.last_time() + 500;
    writing.close_at(end)
}
