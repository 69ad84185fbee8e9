//! Streams and publishers that end and begin anew.

use roomreel_shared::event::{Codec, EventKind};
use roomreel_shared::window::AcceptedReason;

use super::{Kit, camera, expect_lost, expect_stream, microphone, plain, received};
use crate::rtp::Stream;
use crate::trace::{Missing, Published, Writing, track};

/// A participant renegotiates: another SSRC goes on, and stragglers of the first still come.
pub(super) fn ssrc_change(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let mut before = Stream::new(&mut kit.rng, 1, 96);
    let mut after = Stream::new(&mut kit.rng, 2, 96);
    let half = kit.size / 6 * 3;
    let mut packets = before.vp8(half, 100);
    let change = 100 + half as i64 * 10;
    packets.extend(after.vp8(half, change));
    let straggler = kit.up_to(half as u64 / 2) + half as u64 / 4;
    packets[straggler as usize].at = change + 20;
    let lost = half as u64 - 2;
    packets.retain(|sent| sent.ssrc == 2 || sent.index != lost);
    packets.sort_by_key(|sent| sent.at);
    writing.say(format!("after {half} packets the SSRC changes; packet {straggler} comes after that, {lost} never"));
    let published = plain(kit, &mut writing, "cam", &before, &packets);
    expect_lost(&mut writing, "cam", &before, 0, [lost]);
    expect_stream(&mut writing, &published, &after, &packets, |_| true);
    writing.close()
}

/// Two starts of a publisher; the second begins `pause` after the first ended, with `skipped` packets of the stream between.
fn two_starts(
    kit: &mut Kit,
    same_ssrc: bool,
    skipped: usize,
) -> ([Published; 2], [Stream; 2], [Vec<crate::rtp::Sent>; 2]) {
    let mut first = Stream::new(&mut kit.rng, 1, 111);
    let half = kit.size / 2;
    let sent = first.opus(half, 100);
    let mut second = if same_ssrc { first.clone() } else { Stream::new(&mut kit.rng, 2, 111) };
    let at = 100 + (half + skipped) as i64 * 20 + 200;
    second.opus(skipped, at);
    let again = second.opus(half, at);
    let published = [kit.publish("mic", 7, received(&sent)), kit.publish("mic", 8, received(&again))];
    (published, [first, second], [sent, again])
}

pub(super) fn clean_reconnect(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let ([first, second], streams, sent) = two_starts(kit, false, 0);
    writing.all(&first);
    let closed = writing.last_time() + 20;
    writing.sfu(EventKind::ProducerClosed { track: track("mic"), reason: "left".to_owned() }, closed);
    writing.producer("mic", &[(111, Codec::Opus, 48_000)], closed + 20);
    writing.say(format!("the track is closed at {closed} ms and begins anew"));
    writing.all(&second);
    expect_stream(&mut writing, &first, &streams[0], &sent[0], |_| true);
    expect_stream(&mut writing, &second, &streams[1], &sent[1], |_| true);
    writing.close()
}

/// What a publisher that stops without a word leaves open.
fn unknown_end(writing: &mut Writing, published: &Published, batches: u64) {
    let missing = Missing {
        incarnation: published.incarnation,
        batches: (batches, batches),
        packets: (published.batches[batches as usize - 1].end as u64, None),
        reason: AcceptedReason::Publisher,
    };
    writing.account(published.track).missing.insert(missing);
}

pub(super) fn crash_and_reconnect(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let ([first, second], streams, sent) = two_starts(kit, false, 0);
    let survive = (1 + kit.up_to(first.batches.len() as u64)).min(first.batches.len() as u64);
    for number in 0..survive {
        writing.batch(&first, number, first.time(number));
    }
    writing.stored(&first, 0..survive);
    unknown_end(&mut writing, &first, survive);
    writing.all(&second);
    writing.say(format!("the publisher dies with all but {survive} batches"));
    expect_stream(&mut writing, &first, &streams[0], &sent[0], |number| number < survive);
    expect_stream(&mut writing, &second, &streams[1], &sent[1], |_| true);
    writing.close()
}

/// The stream goes on under its SSRC: what the publisher took with it was not lost by the network.
pub(super) fn crash_with_the_same_ssrc(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let skipped = 1 + kit.up_to(30) as usize;
    let ([first, second], streams, sent) = two_starts(kit, true, skipped);
    let all = first.batches.len() as u64;
    writing.all(&first);
    unknown_end(&mut writing, &first, all);
    writing.all(&second);
    writing.say(format!("the publisher dies and misses {skipped} packets of the stream"));
    let newest = sent[1].last().expect("some were sent");
    let expected = (streams[0].extended(0, newest.index), newest.timestamp);
    writing.account("mic").newest.insert(1, expected);
    writing.close()
}

/// A publisher that was given up goes on beside its successor: both are stored, each by its own numbers.
pub(super) fn overlapping_incarnations(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let mut streams = [1, 2].map(|ssrc| Stream::new(&mut kit.rng, ssrc, 111));
    let overlap = kit.size as i64 * 10;
    let sent = [streams[0].opus(kit.size, 100), streams[1].opus(kit.size, 110 + overlap)];
    let [old, new] = [kit.publish("mic", 7, received(&sent[0])), kit.publish("mic", 8, received(&sent[1]))];
    writing.all(&old);
    writing.all(&new);
    let begins = new.time(0);
    let before = old.numbers().filter(|number| old.time(*number) <= begins).count() as u64;
    writing.say(format!("publisher 8 begins at {begins} ms, after {before} batches of publisher 7, which goes on"));
    unknown_end(&mut writing, &old, before);
    expect_stream(&mut writing, &old, &streams[0], &sent[0], |_| true);
    expect_stream(&mut writing, &new, &streams[1], &sent[1], |_| true);
    writing.close()
}
