//! JetStream as it was measured: replicas that disagree, acknowledged entries that go, retries that are swallowed.

use std::collections::BTreeMap;
use std::ops::{Range, RangeFrom};
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use roomreel_shared::batch::RtpBatch;
use roomreel_shared::event::RoomEvent;
use roomreel_shared::ports::{Appended, LogEntry, NewEntry};
use roomreel_shared::time::LogTime;

use crate::simulation::faults::{Fault, Plan};

/// Log time at the beginning of every run.
pub const LOG_EPOCH_US: i64 = 1_700_000_000_000_000;

/// An entry without its sequence: that is its place in a replica.
#[derive(Debug, Clone)]
struct Stored {
    time: LogTime,
    subject: String,
    payload: bytes::Bytes,
}

impl Stored {
    /// Incarnation and number of the batch or event that it is.
    fn id(&self) -> Option<(u64, u64)> {
        let batch = RtpBatch::decode(self.payload.clone()).ok().map(|batch| (batch.incarnation.get(), batch.batch_no));
        let event = || RoomEvent::decode(self.payload.clone()).ok();
        batch.or_else(|| event().map(|event| (event.incarnation.get(), event.event_no)))
    }
}

/// A copy of a batch or an event that every reader finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Its place.
    pub sequence: u64,
    /// Newest log time that any reader can have seen by then.
    pub newest: LogTime,
}

/// One stream of two replicas, one of which leads.
#[derive(Debug, Default)]
pub struct LogModel {
    replicas: [Vec<Stored>; 2],
    leader: usize,
    ids: BTreeMap<String, u64>,
    /// Counts what broke delivery: a reader of an earlier generation opens anew.
    generation: u64,
    full_until: Duration,
    away_until: Duration,
    skew_us: i64,
    /// Up to here sequences may stand for other entries than they did: who has read so far reads on behind them.
    reused_until: u64,
    /// Incarnation and number of batches and events that were acknowledged and that some reader may never have seen there, with
    /// the first time.
    lost: BTreeMap<(u64, u64), Duration>,
    /// The copies that stand, and have always stood where they do, of every batch and event.
    standing: BTreeMap<(u64, u64), Vec<Copied>>,
    /// Lowest log time under which each of them was ever stored.
    first: BTreeMap<(u64, u64), LogTime>,
    /// Log time of the last entry, and the newest that a reader can have come to.
    clock: LogTime,
    newest: LogTime,
    /// Entries acknowledged and then lost: what the broker itself would have cost.
    pub acknowledged_and_lost: u64,
}

/// What a reader gets.
#[derive(Debug)]
pub enum Delivery {
    /// The next entries.
    Entries(Vec<LogEntry>),
    /// Delivery broke; the stream's last sequence, for whoever opens it again.
    Broken(u64),
    /// It cannot be reached.
    Away,
}

/// What an appender gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Stored, says the broker.
    Stored(Appended),
    /// An error, or none at all.
    Failed,
}

impl LogModel {
    /// Time passes, and faults strike.
    pub fn step(&mut self, now: Duration, plan: &Plan, rng: &mut StdRng) -> Option<String> {
        if plan.strikes(Fault::LogIsFull, rng) {
            self.full_until = now + Duration::from_millis(rng.random_range(200..4000));
            return Some("the log is full".to_owned());
        }
        if plan.strikes(Fault::LogIsAway, rng) {
            self.away_until = now + Duration::from_millis(rng.random_range(200..5000));
            self.generation += 1;
            return Some("the log cannot be reached".to_owned());
        }
        if plan.strikes(Fault::LogClockJumps, rng) {
            self.skew_us += rng.random_range(-2_000_000..4_000_000);
            return Some(format!("the log's clock jumps to {} ms off", self.skew_us / 1000));
        }
        if plan.strikes(Fault::LogLosesSuffix, rng) {
            let replica = &mut self.replicas[self.leader];
            let count = rng.random_range(1..=40).min(replica.len());
            self.reused_until = self.reused_until.max(replica.len() as u64);
            let lost = replica.split_off(replica.len() - count);
            let end = self.replicas[self.leader].len() as u64;
            self.note_lost(now, &lost, end + 1..);
            // Half of the time the broker still knows the ids, and swallows retries of what it no longer has.
            if !plan.has(Fault::LogSwallowsRetries) || rng.random_bool(0.5) {
                self.ids.retain(|_, sequence| *sequence <= end);
            }
            self.replicas[1 - self.leader] = self.replicas[self.leader].clone();
            self.generation += 1;
            return Some(format!("the log loses its last {count} entries"));
        }
        if plan.strikes(Fault::LogDiverges, rng) {
            // The follower lacks a few recent entries, and leads from now on.
            let follower = 1 - self.leader;
            let mut replica = self.replicas[self.leader].clone();
            let mut lost = Vec::new();
            for _ in 0..rng.random_range(1..=5) {
                if !replica.is_empty() {
                    let at = rng.random_range(replica.len().saturating_sub(60)..replica.len());
                    lost.push(replica.remove(at));
                }
            }
            let moved = (self.last_sequence() + 1).saturating_sub(80);
            self.note_lost(now, &lost, moved..);
            // Readers go on by sequence, and these have moved: they may miss what is there.
            let tail: Vec<_> = replica[replica.len().saturating_sub(80)..].to_vec();
            self.note_skipped(now, &tail, moved..);
            // And what is appended from here on has sequences that they have read.
            self.reused_until = self.reused_until.max(self.last_sequence());
            self.replicas[follower] = replica;
            self.leader = follower;
            self.generation += 1;
            return Some(format!("another replica leads, which lacks {} entries", lost.len()));
        }
        None
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.full_until = Duration::ZERO;
        self.away_until = Duration::ZERO;
    }

    /// Appends one entry.
    pub fn append(&mut self, now: Duration, entry: &NewEntry, plan: &Plan, rng: &mut StdRng) -> Answer {
        if now < self.full_until || now < self.away_until {
            return Answer::Failed;
        }
        let answer_lost = plan.strikes(Fault::LogLosesAnswers, rng);
        if answer_lost && rng.random_bool(0.5) {
            if plan.strikes(Fault::LogSwallowsRetries, rng) {
                // The id is remembered of a message that was never stored (nats-server#6415).
                self.ids.insert(entry.message_id.clone(), self.last_sequence());
                let swallowed = Stored {
                    time: LogTime::default(),
                    subject: entry.subject.as_str().to_owned(),
                    payload: entry.payload.clone(),
                };
                if let Some(id) = swallowed.id() {
                    self.lost.entry(id).or_insert(now);
                }
            }
            return Answer::Failed;
        }
        if let Some(sequence) = self.ids.get(&entry.message_id) {
            let appended = Appended { sequence: *sequence, duplicate: true };
            return if answer_lost { Answer::Failed } else { Answer::Stored(appended) };
        }
        self.store(now, entry.subject.as_str().to_owned(), entry.payload.clone());
        let sequence = self.last_sequence();
        self.ids.insert(entry.message_id.clone(), sequence);
        if answer_lost { Answer::Failed } else { Answer::Stored(Appended { sequence, duplicate: false }) }
    }

    /// Stores without asking: what a hostile publisher puts there.
    pub fn store(&mut self, now: Duration, subject: String, payload: bytes::Bytes) {
        let time = LogTime::from_micros(LOG_EPOCH_US + self.skew_us).max(LogTime::default()) + now;
        // Whoever goes on where the clock is set back is ahead of it by all its steps, at most.
        self.newest = self.newest.offset_micros(time.micros_since(self.clock).max(0));
        self.clock = time;
        let stored = Stored { time, subject, payload };
        self.replicas.iter_mut().for_each(|replica| replica.push(stored.clone()));
        let Some(id) = stored.id() else { return };
        let first = self.first.entry(id).or_insert(time);
        *first = time.min(*first);
        if self.last_sequence() <= self.reused_until {
            self.note_skipped(now, &[stored], self.last_sequence()..);
        } else {
            let copied = Copied { sequence: self.last_sequence(), newest: self.newest };
            self.standing.entry(id).or_default().push(copied);
        }
    }

    /// Sequence of the newest entry.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.replicas[self.leader].len() as u64
    }

    /// Whether a batch stands among these sequences: who has read them has seen it.
    #[must_use]
    pub fn has_shown(&self, batch: (u64, u64), sequences: Range<u64>) -> bool {
        self.standing(batch).iter().any(|copied| sequences.contains(&copied.sequence))
    }

    /// The copies of a batch or an event that every reader finds.
    #[must_use]
    pub fn standing(&self, id: (u64, u64)) -> &[Copied] {
        self.standing.get(&id).map_or(&[], Vec::as_slice)
    }

    /// When a batch or an event was lost first of which the publisher was told that it is stored, or was perhaps shown to nobody.
    #[must_use]
    pub fn lost(&self, id: (u64, u64)) -> Option<Duration> {
        self.lost.get(&id).copied()
    }

    /// Lowest log time of anything with one of these numbers, whether or not it stands.
    #[must_use]
    pub fn first_of(&self, (incarnation, numbers): (u64, RangeFrom<u64>)) -> Option<LogTime> {
        let ids = (incarnation, numbers.start)..=(incarnation, u64::MAX);
        self.first.range(ids).map(|(_, time)| *time).min()
    }

    /// The copies that every reader finds of anything with one of these numbers.
    pub fn standing_from(&self, (incarnation, numbers): (u64, RangeFrom<u64>)) -> impl Iterator<Item = &Copied> {
        let ids = (incarnation, numbers.start)..=(incarnation, u64::MAX);
        self.standing.range(ids).flat_map(|(_, copies)| copies)
    }

    /// What a reader gets of this copy is damaged.
    pub fn on_damaged(&mut self, now: Duration, id: (u64, u64), sequence: u64) {
        self.lost.entry(id).or_insert(now);
        if let Some(copies) = self.standing.get_mut(&id) {
            copies.retain(|copied| copied.sequence != sequence);
        }
    }

    /// The next entries for a reader of `generation` at `position`.
    pub fn read(&self, now: Duration, generation: &mut u64, position: u64, most: usize) -> Delivery {
        if now < self.away_until {
            return Delivery::Away;
        }
        if *generation != self.generation {
            *generation = self.generation;
            return Delivery::Broken(self.last_sequence());
        }
        let replica = &self.replicas[self.leader];
        let from = usize::try_from(position.saturating_sub(1)).unwrap_or(usize::MAX).min(replica.len());
        let entries = replica[from..].iter().take(most).zip(from as u64 + 1..).map(|(stored, sequence)| LogEntry {
            sequence,
            time: stored.time,
            subject: stored.subject.clone(),
            trace_parent: None,
            payload: stored.payload.clone(),
        });
        Delivery::Entries(entries.collect())
    }

    fn note_lost(&mut self, now: Duration, lost: &[Stored], places: RangeFrom<u64>) {
        self.acknowledged_and_lost += lost.len() as u64;
        self.note_skipped(now, lost, places);
    }

    /// No copy of these counts any more that is among `places`.
    fn note_skipped(&mut self, now: Duration, skipped: &[Stored], places: RangeFrom<u64>) {
        for id in skipped.iter().filter_map(Stored::id) {
            self.lost.entry(id).or_insert(now);
            if let Some(copies) = self.standing.get_mut(&id) {
                copies.retain(|copied| !places.contains(&copied.sequence));
            }
        }
    }
}
