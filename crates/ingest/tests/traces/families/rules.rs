//! What is forbidden, paused, or not yet said.

use std::collections::BTreeSet;

use roomreel_shared::event::{Codec, EventKind};
use roomreel_shared::policy::Policy;
use roomreel_shared::window::AcceptedReason;

use super::{Kit, camera, expect_lost, expect_stream, microphone, received};
use crate::account::merged;
use crate::rtp::Stream;
use crate::trace::{DELAY_MS, Published, Writing, recording};

/// All batches are in the log; those that `refused` says are declared with `reason` and not stored.
fn refuse(writing: &mut Writing, published: &Published, reason: AcceptedReason, refused: impl Fn(i64) -> bool) {
    for number in published.numbers() {
        writing.batch(published, number, published.time(number));
    }
    let absent: BTreeSet<u64> = published.numbers().filter(|number| refused(published.time(*number))).collect();
    for run in merged(absent.iter().map(|number| (*number, *number)).collect()) {
        writing.missing(published, run, reason);
    }
    let stored: Vec<u64> = published.numbers().filter(|number| !absent.contains(number)).collect();
    if !stored.is_empty() {
        writing.stored(published, stored);
    }
}

/// A moment at which no batch is stored.
fn between(kit: &mut Kit, published: &[&Published], from: i64, until: i64) -> i64 {
    let times: BTreeSet<i64> =
        published.iter().flat_map(|published| published.numbers().map(|number| published.time(number))).collect();
    let first = from + kit.up_to((until - from).max(1).unsigned_abs()) as i64;
    (first..).find(|ms| !times.contains(ms)).expect("times end")
}

pub(super) fn pause_and_resume(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let mut stream = Stream::new(&mut kit.rng, 1, 96);
    let sent = stream.vp8(kit.size, 100);
    let published = kit.publish("cam", 7, received(&sent));
    let end = published.time(published.batches.len() as u64 - 1);
    let mut pauses = Vec::new();
    let mut at = 200;
    for number in 0..1 + kit.up_to(2) {
        let pause = between(kit, &[&published], at, at + 600);
        let resume = between(kit, &[&published], pause + 1, pause + 900);
        at = resume + 1;
        let command = |what: &str| (recording(), format!("{what}-{number}"), String::new());
        let (recording, id, requested_by) = command("pause");
        writing.control(EventKind::RecordingPaused { recording, command: id, requested_by }, pause);
        // The same command twice, by whomever, has one effect.
        let (recording, id, requested_by) = command("pause");
        writing.control(EventKind::RecordingPaused { recording, command: id, requested_by }, pause);
        let (recording, id, requested_by) = command("resume");
        writing.control(EventKind::RecordingResumed { recording, command: id, requested_by }, resume);
        let (recording, id, requested_by) = command("pause");
        writing.control(EventKind::RecordingPaused { recording, command: id, requested_by }, resume);
        writing.say(format!("paused from {pause} to {resume} ms"));
        pauses.push(pause..resume);
    }
    let is_paused = |ms: i64| pauses.iter().any(|pause| pause.contains(&ms));
    refuse(&mut writing, &published, AcceptedReason::Pause, is_paused);
    expect_stream(&mut writing, &published, &stream, &sent, |number| !is_paused(published.time(number)));
    writing.close_at(end.max(at) + 100)
}

/// Microphones are forbidden from the beginning (I8); the camera is not.
pub(super) fn forbidden_kind(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    writing.spec.policy = Policy { record_audio: false, ..Policy::default() };
    writing.producer("mic", &[(111, Codec::Opus, 48_000)], 12);
    let mut streams = [Stream::new(&mut kit.rng, 1, 96), Stream::new(&mut kit.rng, 2, 111)];
    let sent = [streams[0].vp8(kit.size, 100), streams[1].opus(kit.size / 2, 101)];
    let [cam, mic] = [kit.publish("cam", 7, received(&sent[0])), kit.publish("mic", 8, received(&sent[1]))];
    writing.all(&cam);
    refuse(&mut writing, &mic, AcceptedReason::Policy, |_| true);
    expect_stream(&mut writing, &cam, &streams[0], &sent[0], |_| true);
    writing.close()
}

/// The policy forbids video from a moment on, and allows it again.
pub(super) fn policy_changes(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    let mut stream = Stream::new(&mut kit.rng, 1, 96);
    let sent = stream.vp8(kit.size, 100);
    let published = kit.publish("cam", 7, received(&sent));
    let forbid = between(kit, &[&published], 150, 100 + kit.size as i64 * 5);
    let allow = between(kit, &[&published], forbid + 1, forbid + 1500);
    let policy = Policy { record_video: false, ..Policy::default() };
    writing.sfu(EventKind::RoomPolicyUpdated { policy }, forbid);
    writing.sfu(EventKind::RoomPolicyUpdated { policy: Policy::default() }, allow);
    writing.say(format!("video is forbidden from {forbid} to {allow} ms"));
    let is_forbidden = |ms: i64| (forbid..allow).contains(&ms);
    refuse(&mut writing, &published, AcceptedReason::Policy, is_forbidden);
    expect_stream(&mut writing, &published, &stream, &sent, |number| !is_forbidden(published.time(number)));
    let end = writing.last_time().max(allow) + 100;
    writing.close_at(end)
}

/// Media that comes before it is said what it is, or of which it is never said.
pub(super) fn media_before_its_event(kit: &mut Kit) -> Writing {
    let mut writing = Writing::new();
    let mut streams = [Stream::new(&mut kit.rng, 1, 96), Stream::new(&mut kit.rng, 2, 111)];
    let sent = [streams[0].vp8(kit.size, 100), streams[1].opus(kit.size, 103)];
    let [cam, mystery] = [kit.publish("cam", 7, received(&sent[0])), kit.publish("mystery", 8, received(&sent[1]))];
    let said = cam.time(0) + kit.up_to(2500) as i64;
    writing.producer("cam", &[(96, Codec::Vp8, 90_000)], said);
    writing.all(&cam);
    writing.all(&mystery);
    writing.say(format!("the camera is announced at {said} ms"));
    expect_stream(&mut writing, &cam, &streams[0], &sent[0], |_| true);
    expect_stream(&mut writing, &mystery, &streams[1], &sent[1], |_| true);
    let end = writing.last_time().max(said) + 100;
    writing.ticks(0, end);
    writing.close_at(end)
}

/// The API begins and ends the recording in the middle of a call: what is outside is neither stored nor missed.
pub(super) fn recording_of_the_middle(kit: &mut Kit) -> Writing {
    let mut writing = microphone();
    writing.spec.from = None;
    let mut stream = Stream::new(&mut kit.rng, 1, 111);
    let sent = stream.opus(kit.size, 100);
    let published = kit.publish("mic", 7, received(&sent));
    let span = kit.size as i64 * 20;
    let begin = between(kit, &[&published], published.time(0) + 1, 150 + span / 3);
    let end = between(kit, &[&published], begin + 1, begin + span / 2);
    for number in published.numbers() {
        writing.batch(&published, number, published.time(number));
    }
    let started = |command: &str| EventKind::RecordingStarted {
        recording: recording(),
        command: command.to_owned(),
        requested_by: "amara".to_owned(),
        from: None,
    };
    writing.control(started("start"), begin);
    let is_inside = |number: u64| (begin..end).contains(&published.time(number));
    let inside: Vec<u64> = published.numbers().filter(|number| is_inside(*number)).collect();
    if !inside.is_empty() {
        writing.stored(&published, inside);
    }
    writing.say(format!("recorded from {begin} to {end} ms"));
    expect_stream(&mut writing, &published, &stream, &sent, is_inside);
    // What the log says of the room's clock is as old as a batch is on its way.
    writing.expected.span = (begin - DELAY_MS, end - DELAY_MS);
    writing.stop_at(end)
}

/// Two tracks with a network that loses, a log that loses, a publisher that drops and a pause.
pub(super) fn everything_at_once(kit: &mut Kit) -> Writing {
    let mut writing = camera();
    writing.producer("mic", &[(111, Codec::Opus, 48_000)], 12);
    let mut streams = [Stream::new(&mut kit.rng, 1, 96), Stream::new(&mut kit.rng, 2, 111)];
    let video = streams[0].vp8(kit.size, 100);
    let mut audio = streams[1].opus(kit.size, 3000 + kit.size as i64 * 10);
    let lost: Vec<u64> = (1..audio.len() as u64 - 1).filter(|_| kit.chance(8)).collect();
    audio.retain(|sent| !lost.contains(&sent.index));
    let [cam, mic] = [kit.publish("cam", 7, received(&video)), kit.publish("mic", 8, received(&audio))];
    let absent: BTreeSet<u64> = kit.choose(&cam, 12).into_iter().collect();
    for number in cam.numbers().filter(|number| !absent.contains(number)) {
        writing.batch(&cam, number, cam.time(number));
    }
    for run in merged(absent.iter().map(|number| (*number, *number)).collect()) {
        if kit.chance(50) {
            writing.gap_event(&cam, run, cam.time(run.1 + 1) - 1);
            writing.missing(&cam, run, AcceptedReason::Publisher);
            writing.expected.askable.entry(("cam".to_owned(), 7)).or_default().extend(run.0..=run.1);
        } else {
            writing.missing(&cam, run, AcceptedReason::Log);
            let key = ("cam".to_owned(), 7);
            writing.expected.asked.entry(key).or_default().extend(run.0..=run.1);
        }
    }
    writing.stored(&cam, cam.numbers().filter(|number| !absent.contains(number)));
    expect_stream(&mut writing, &cam, &streams[0], &video, |number| !absent.contains(&number));
    writing.all(&mic);
    expect_stream(&mut writing, &mic, &streams[1], &audio, |_| true);
    expect_lost(&mut writing, "mic", &streams[1], 0, lost);
    writing.say(format!("batches {absent:?} of the camera are missing"));
    writing.close()
}
