//! What happens between a participant and its SFU.

use std::collections::BTreeSet;

use super::{Kit, camera, expect_lost, expect_stream, microphone, plain, received};
use crate::rtp::{REORDER_ALLOWANCE, Sent, Stream};
use crate::trace::Writing;

/// Publishes what arrived of a stream: what never did is lost, but for what came before the first and after the newest.
fn publish(kit: &mut Kit, writing: &mut Writing, track: &'static str, stream: &Stream, arrived: &[Sent]) {
    let published = plain(kit, writing, track, stream, arrived);
    let here: BTreeSet<u64> = arrived.iter().map(|sent| sent.index).collect();
    let (first, newest) = (arrived[0].index, *here.last().expect("some arrived"));
    expect_lost(writing, published.track, stream, first, (first..newest).filter(|index| !here.contains(index)));
}

/// Puts packets in the order and at the times of their arrival.
fn arrange(packets: &mut [Sent], delay: impl FnMut(&Sent) -> i64) {
    let delays: Vec<i64> = packets.iter().map(delay).collect();
    packets.iter_mut().zip(delays).for_each(|(sent, delay)| sent.at += delay);
    packets.sort_by_key(|sent| sent.at);
}

/// The numbers wrap in the middle, with losses before, at and behind the wrap.
pub(super) fn sequence_wrap(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let before = kit.up_to(kit.size as u64 - 2) as u16;
    let mut stream = Stream::new(&mut kit.rng, 1, 96).from(u16::MAX - before, 0);
    let mut packets = stream.vp8(kit.size, 100);
    let share = kit.up_to(10) as u32;
    packets.retain(|sent| sent.index == 0 || !kit.chance(share));
    writing.say(format!("the numbers wrap after {before} packets; {share} % are lost"));
    publish(kit, &mut writing, "cam", &stream, &packets);
    writing.close()
}

pub(super) fn reorder(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let mut stream = Stream::new(&mut kit.rng, 1, 111);
    let mut packets = stream.opus(kit.size, 100);
    let most = 20 * kit.up_to(40) as i64;
    arrange(&mut packets, |sent| if sent.index > 0 && kit.chance(30) { kit.up_to(most as u64) as i64 } else { 0 });
    writing.say(format!("a third of the packets come up to {most} ms late"));
    publish(kit, &mut writing, "mic", &stream, &packets);
    writing.close()
}

pub(super) fn reorder_and_loss(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let mut stream = Stream::new(&mut kit.rng, 1, 111);
    let mut packets = stream.opus(kit.size, 100);
    arrange(&mut packets, |sent| if sent.index > 0 && kit.chance(30) { kit.up_to(300) as i64 } else { 0 });
    packets.retain(|sent| sent.index == 0 || !kit.chance(7));
    writing.say("a third comes up to 300 ms late, 7 % never");
    publish(kit, &mut writing, "mic", &stream, &packets);
    writing.close()
}

/// The SFU receives packets twice: both are kept, nothing is missing.
pub(super) fn duplicates(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let mut stream = Stream::new(&mut kit.rng, 1, 111);
    let mut packets = stream.opus(kit.size, 100);
    let again: Vec<Sent> = packets.iter().filter(|_| kit.chance(25)).cloned().collect();
    writing.say(format!("{} packets come twice", again.len()));
    for mut sent in again {
        sent.at += kit.up_to(400) as i64;
        packets.push(sent);
    }
    packets.sort_by_key(|sent| sent.at);
    packets.retain(|sent| sent.index % 17 != 5);
    publish(kit, &mut writing, "mic", &stream, &packets);
    writing.close()
}

/// Bursts, each with the times of the packets around it.
pub(super) fn loss_bursts(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let mut stream = Stream::new(&mut kit.rng, 9, 96);
    let mut packets = Vec::new();
    let mut at = 100;
    while packets.len() < kit.size {
        let good = 3 * (1 + kit.up_to(8) as usize);
        let kept = stream.vp8(good, at);
        at += good as i64 * 10;
        packets.extend(kept);
        let burst = 3 * (1 + kit.up_to(60) as usize);
        stream.vp8(burst, at);
        at += burst as i64 * 10;
    }
    for pair in packets.windows(2).filter(|pair| pair[0].index + 1 < pair[1].index) {
        let run = stream.extended(0, pair[0].index + 1);
        writing.account("cam").lost_spans.insert((9, run), (pair[0].at, pair[1].at));
        writing.say(format!("{} packets are lost after packet {}", pair[1].index - pair[0].index - 1, pair[0].index));
    }
    publish(kit, &mut writing, "cam", &stream, &packets);
    writing.close()
}

/// Packets that come so late that they have been declared lost: both is true of them.
pub(super) fn late_packets(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let mut stream = Stream::new(&mut kit.rng, 1, 111);
    let count = REORDER_ALLOWANCE + 50 + kit.size as u64;
    let mut packets = stream.opus(count as usize, 100);
    let index = 1 + kit.up_to(20);
    let behind = index + if kit.chance(50) { REORDER_ALLOWANCE + 2 } else { REORDER_ALLOWANCE - 2 };
    packets[index as usize].at = packets[behind as usize].at + 1;
    packets.sort_by_key(|sent| sent.at);
    writing.say(format!("packet {index} comes after packet {behind}"));
    publish(kit, &mut writing, "mic", &stream, &packets);
    if behind > index + REORDER_ALLOWANCE {
        expect_lost(&mut writing, "mic", &stream, 0, [index]);
    }
    writing.close()
}

/// The sender begins its numbers anew: no loss, and numbers that only rise.
pub(super) fn numbering_jumps(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    let mut packets = Vec::new();
    let first = Stream::new(&mut kit.rng, 1, 111);
    let mut stream = first.clone();
    let mut at = 100;
    let mut extended = 0;
    let mut newest = 0;
    for part in 0..2 + kit.up_to(3) {
        if part > 0 {
            let jump = 3500 + kit.up_to(20_000) as i64;
            let jump = if kit.chance(50) { jump } else { -jump };
            let next = stream.header();
            let sequence = next.sequence.wrapping_add(jump as u16);
            writing.say(format!("after {} packets the numbers jump by {jump}", packets.len()));
            stream = Stream::new(&mut kit.rng, 1, 111).from(sequence, next.timestamp);
            extended += jump + if jump < 0 { 0x1_0000 } else { 0 };
        }
        let count = 2 + kit.size / 4;
        let sent = stream.opus(count, at);
        at += count as i64 * 20;
        newest = extended + count as i64 - 1;
        extended += count as i64;
        packets.extend(sent);
    }
    let published = kit.publish("mic", 7, received(&packets));
    writing.all(&published);
    let last = packets.last().expect("some were sent").timestamp;
    let newest = first.extended(0, 0) + newest.unsigned_abs();
    writing.account("mic").newest.insert(1, (newest, last));
    expect_stream(&mut writing, &published, &Stream::new(&mut kit.rng, 99, 0), &packets, |_| true);
    writing.close()
}
