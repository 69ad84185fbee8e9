//! RTP timestamps to room time, by sender reports where there are some and by receive times where there are none.
//!
//! A stream's media position is unwrapped from its timestamps. Sender reports (RFC 3550 section 6.4.1) tie it to the
//! participant's NTP clock, which all streams of a participant share; the least delay between that clock and the receive
//! times ties the NTP clock to the room's. So a participant's audio and video move together. Drift is followed because both
//! ties are renewed all the time. A timestamp that jumps starts a new mapping on the receive clock: silence and pictures
//! last as long as they really did, whatever the numbers say.

use std::collections::VecDeque;

use roomreel_shared::rtcp::SenderReport;
use roomreel_shared::rtp::RtpTimestamp;
use roomreel_shared::time::RoomTime;

/// How far timestamps and receive times may part between two packets before it is a jump.
const JUMP_US: i64 = 2_000_000;
/// How far a sender report may be off what earlier ones predict.
const REPORT_TOLERANCE_US: i64 = 100_000;
/// How far a report's NTP time may be off the participant's clock, and a report's timestamp off the newest packet.
const REPORT_PLAUSIBLE_US: i64 = 3_000_000;
/// A participant's clock without a packet for this long may be replaced by another.
const STALE_CLOCK_US: i64 = 5_000_000;
/// How long a least delay counts.
const DELAY_WINDOW_US: i64 = 30_000_000;
const DELAY_BUCKET_US: i64 = 1_000_000;
/// Weight of a new report once there are some: smooths their jitter and lags drift of 100 ppm by 2 ms.
const REPORT_WEIGHT: i64 = 4;
/// Mappings of a stream that stay valid for packets that still wait.
const MAX_MAPPINGS: usize = 4;

/// The least of what was observed in the last [`DELAY_WINDOW_US`].
#[derive(Debug, Default, Clone)]
struct MinimumDelay {
    /// Start of a bucket and its least delay, oldest first.
    buckets: VecDeque<(i64, i64)>,
}

impl MinimumDelay {
    fn observe(&mut self, at: RoomTime, delay_us: i64) {
        let bucket = at.as_micros().div_euclid(DELAY_BUCKET_US);
        match self.buckets.back_mut() {
            Some((newest, least)) if *newest >= bucket => *least = delay_us.min(*least),
            _ => self.buckets.push_back((bucket, delay_us)),
        }
        while self.buckets.front().is_some_and(|(start, _)| bucket - start > DELAY_WINDOW_US / DELAY_BUCKET_US) {
            self.buckets.pop_front();
        }
    }

    fn get(&self) -> Option<i64> {
        self.buckets.iter().map(|(_, least)| *least).min()
    }
}

/// A participant's NTP clock on one SFU.
#[derive(Debug, Default)]
pub struct ParticipantClock {
    delay: MinimumDelay,
    last_observed: RoomTime,
}

impl ParticipantClock {
    /// Whether a report received at `receive` that says `ntp_us` can be of this clock.
    fn is_plausible(&self, ntp_us: i64, receive: RoomTime) -> bool {
        self.delay.get().is_none_or(|delay| (receive.as_micros() - ntp_us - delay).abs() < REPORT_PLAUSIBLE_US)
    }
}

/// A packet's place in its stream's media.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaPosition {
    mapping: u64,
    media_us: i64,
    receive: RoomTime,
}

/// One unbroken run of timestamps.
#[derive(Debug)]
struct Mapping {
    id: u64,
    /// The newest timestamp and its distance from the first, in clock-rate units.
    newest: RtpTimestamp,
    newest_units: i64,
    newest_receive: RoomTime,
    /// Receive time minus media position.
    delay: MinimumDelay,
    /// NTP time minus media position, and how many reports it rests on.
    ntp_offset_us: Option<(i64, i64)>,
    /// The offset of a report that contradicted the ones before.
    contradiction_us: Option<i64>,
}

impl Mapping {
    fn start(id: u64, timestamp: RtpTimestamp, receive: RoomTime) -> Self {
        Self {
            id,
            newest: timestamp,
            newest_units: 0,
            newest_receive: receive,
            delay: MinimumDelay::default(),
            ntp_offset_us: None,
            contradiction_us: None,
        }
    }

    fn units(&self, timestamp: RtpTimestamp) -> i64 {
        self.newest_units + timestamp.since(self.newest)
    }

    fn continues(&self, timestamp: RtpTimestamp, receive: RoomTime, clock_rate: u32) -> bool {
        let media_us = micros(timestamp.since(self.newest), clock_rate);
        (media_us - receive.micros_since(self.newest_receive)).abs() <= JUMP_US
    }
}

fn micros(units: i64, clock_rate: u32) -> i64 {
    i64::try_from(i128::from(units) * 1_000_000 / i128::from(clock_rate)).unwrap_or(i64::MAX)
}

/// The clock of one RTP stream.
#[derive(Debug)]
pub struct StreamClock {
    clock_rate: u32,
    /// Newest last.
    mappings: VecDeque<Mapping>,
    /// Where one packet jumped to; a second one there makes it the mapping.
    candidate: Option<Mapping>,
    next_id: u64,
    rejected_reports: u64,
}

impl StreamClock {
    /// A stream whose timestamps count `clock_rate` units a second; not 0.
    #[must_use]
    pub fn new(clock_rate: u32) -> Self {
        Self {
            clock_rate: clock_rate.max(1),
            mappings: VecDeque::new(),
            candidate: None,
            next_id: 0,
            rejected_reports: 0,
        }
    }

    /// Sender reports that contradicted what others say.
    #[must_use]
    pub fn rejected_reports(&self) -> u64 {
        self.rejected_reports
    }

    /// Learns from a packet (not from a retransmission), and says where in the media it stands.
    pub fn observe(
        &mut self,
        timestamp: RtpTimestamp,
        receive: RoomTime,
        participant: &mut ParticipantClock,
    ) -> MediaPosition {
        let rate = self.clock_rate;
        if self.mappings.back().is_some_and(|mapping| mapping.continues(timestamp, receive, rate)) {
            self.candidate = None;
        } else {
            match self.candidate.take_if(|candidate| candidate.continues(timestamp, receive, rate)) {
                Some(candidate) => self.adopt(candidate),
                None => {
                    let mapping = Mapping::start(self.next_id, timestamp, receive);
                    self.next_id += 1;
                    if self.mappings.is_empty() {
                        self.adopt(mapping);
                    } else {
                        let id = mapping.id;
                        self.candidate = Some(mapping);
                        return MediaPosition { mapping: id, media_us: 0, receive };
                    }
                }
            }
        }
        let mapping = self.mappings.back_mut().expect("one was there or has been adopted");
        let units = mapping.units(timestamp);
        if units > mapping.newest_units {
            mapping.newest_units = units;
            mapping.newest = timestamp;
            mapping.newest_receive = receive;
        }
        let media_us = micros(units, rate);
        mapping.delay.observe(receive, receive.as_micros().saturating_sub(media_us));
        if let Some((offset_us, _)) = mapping.ntp_offset_us {
            participant.delay.observe(receive, receive.as_micros().saturating_sub(media_us.saturating_add(offset_us)));
            participant.last_observed = participant.last_observed.max(receive);
        }
        MediaPosition { mapping: mapping.id, media_us, receive }
    }

    fn adopt(&mut self, mapping: Mapping) {
        self.mappings.push_back(mapping);
        if self.mappings.len() > MAX_MAPPINGS {
            self.mappings.pop_front();
        }
    }

    /// Where media with `timestamp` stands that came by another way, such as a retransmission.
    #[must_use]
    pub fn position(&self, timestamp: RtpTimestamp, receive: RoomTime) -> Option<MediaPosition> {
        let mapping = self.mappings.back().filter(|mapping| mapping.continues(timestamp, receive, self.clock_rate))?;
        let media_us = micros(mapping.units(timestamp), self.clock_rate);
        Some(MediaPosition { mapping: mapping.id, media_us, receive })
    }

    /// Learns from a sender report of this stream.
    pub fn report(&mut self, report: SenderReport, receive: RoomTime, participant: &mut ParticipantClock) {
        let Some(mapping) = self.mappings.back_mut() else { return };
        let rate = self.clock_rate;
        let ntp_us = report.ntp.as_micros();
        let media_us = micros(mapping.units(report.rtp), rate);
        let from_newest = micros(report.rtp.since(mapping.newest), rate);
        let elapsed = receive.micros_since(mapping.newest_receive);
        if report.ntp.0 == 0 || (from_newest - elapsed).abs() > REPORT_PLAUSIBLE_US {
            self.rejected_reports += 1;
            return;
        }
        let offset_us = ntp_us - media_us;
        let agrees = |with: i64| (offset_us - with).abs() <= REPORT_TOLERANCE_US;
        match mapping.ntp_offset_us {
            Some((fitted, reports)) if agrees(fitted) => {
                let weight = (reports + 1).min(REPORT_WEIGHT);
                mapping.ntp_offset_us = Some((fitted + (offset_us - fitted) / weight, reports + 1));
                mapping.contradiction_us = None;
            }
            Some(_) if !mapping.contradiction_us.is_some_and(agrees) => {
                mapping.contradiction_us = Some(offset_us);
                self.rejected_reports += 1;
            }
            fitted => {
                // The first report, or the second in a row that says the clock was set.
                if !participant.is_plausible(ntp_us, receive) {
                    let unused = receive.micros_since(participant.last_observed) > STALE_CLOCK_US;
                    if !unused && fitted.is_none() {
                        self.rejected_reports += 1;
                        return;
                    }
                    *participant = ParticipantClock::default();
                }
                mapping.ntp_offset_us = Some((offset_us, 1));
                mapping.contradiction_us = None;
                // What was received so far says how late this clock's media is; its next packets will refine it.
                if let Some(delay) = mapping.delay.get() {
                    participant.delay.observe(receive, delay - offset_us);
                    participant.last_observed = participant.last_observed.max(receive);
                }
            }
        }
    }

    /// Room time of a position, by all that is known now.
    #[must_use]
    pub fn room_time(&self, position: MediaPosition, participant: &ParticipantClock) -> RoomTime {
        let Some(mapping) = self.mappings.iter().rev().find(|mapping| mapping.id == position.mapping) else {
            return position.receive;
        };
        let offset = match (mapping.ntp_offset_us, participant.delay.get()) {
            (Some((offset_us, _)), Some(delay)) => Some(offset_us.saturating_add(delay)),
            _ => mapping.delay.get(),
        };
        let time = RoomTime::from_micros(position.media_us.saturating_add(offset.unwrap_or_default()));
        // A mapping that is off by seconds is wrong, whatever led to it; the receive clock never is.
        let off = time.micros_since(position.receive).saturating_abs();
        if offset.is_none() || off > REPORT_PLAUSIBLE_US { position.receive } else { time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use roomreel_shared::rtcp::NtpTimestamp;
    use roomreel_shared::rtp::Ssrc;

    const START_US: i64 = 1_700_000_000_000_000;

    /// Deterministic noise in `0..below`.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self, below: u64) -> i64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) % below) as i64
        }
    }

    /// A source whose RTP clock runs `ppm` fast against the participant's NTP clock.
    struct Source {
        clock: StreamClock,
        rate: u32,
        first: u32,
        ppm: i64,
    }

    impl Source {
        fn new(rate: u32, first: u32, ppm: i64) -> Self {
            Self { clock: StreamClock::new(rate), rate, first, ppm }
        }

        fn timestamp(&self, capture_us: i64) -> RtpTimestamp {
            let units = i128::from(capture_us) * i128::from(self.rate) * (1_000_000 + i128::from(self.ppm));
            RtpTimestamp(self.first.wrapping_add((units / 1_000_000_000_000) as u32))
        }

        fn report(&self, capture_us: i64, ntp_us: i64) -> SenderReport {
            let ntp = NtpTimestamp(((i128::from(ntp_us) << 32) / 1_000_000) as u64);
            SenderReport { ssrc: Ssrc(1), ntp, rtp: self.timestamp(capture_us) }
        }
    }

    #[test]
    fn two_hours_of_loss_drift_and_a_reconnect_stay_in_sync() {
        let mut noise = Noise(7);
        let mut participant = ParticipantClock::default();
        let reconnect_us = 3_600_000_000;
        // The audio clock is 100 ppm off, and the participant's wall clock 50 ppm off the SFU's, three days away.
        let new_sources = |first| (Source::new(48_000, first, 100), Source::new(90_000, first ^ 0x55, -30));
        let (mut audio, mut video) = new_sources(0xffff_0000);
        let mut worst = 0;
        let mut capture = 0;
        while capture < 7_200_000_000 {
            if capture == reconnect_us {
                (audio, video) = new_sources(12_345);
            }
            let ntp = |capture: i64| capture + capture / 20_000 + 259_200_000_000;
            let receive = |capture: i64, delay: i64| RoomTime::from_micros(START_US + capture + delay);
            // Audio of 20 ms leaves when it is complete; video is encoded for longer. Both see jitter.
            let audio_receive = receive(capture, 40_000 + noise.next(30_000));
            let video_receive = receive(capture, 55_000 + noise.next(60_000));
            if capture % 4_000_000 == 2_000_000 {
                let jitter = noise.next(2_000);
                audio.clock.report(audio.report(capture, ntp(capture) + jitter), audio_receive, &mut participant);
                video.clock.report(video.report(capture, ntp(capture) - jitter), video_receive, &mut participant);
            }
            let lost = noise.next(100) < 2;
            if !lost {
                let heard = audio.clock.observe(audio.timestamp(capture), audio_receive, &mut participant);
                let seen = video.clock.observe(video.timestamp(capture), video_receive, &mut participant);
                let heard = audio.clock.room_time(heard, &participant);
                let seen = video.clock.room_time(seen, &participant);
                let settled = capture % reconnect_us > 6_000_000;
                if settled {
                    worst = worst.max(heard.micros_since(seen).abs());
                    let lag = heard.micros_since(RoomTime::from_micros(START_US + capture));
                    assert!((30_000..60_000).contains(&lag), "{lag} us at {capture}");
                }
            }
            capture += 20_000;
        }
        assert!(worst < 20_000, "audio and video are {worst} us apart");
    }

    #[test]
    fn without_reports_the_least_delay_counts() {
        let mut participant = ParticipantClock::default();
        let mut source = Source::new(48_000, 1, 0);
        let mut noise = Noise(3);
        let mut last = RoomTime::default();
        for capture in (0..20_000_000).step_by(20_000) {
            let receive = RoomTime::from_micros(START_US + capture + 20_000 + noise.next(80_000));
            let position = source.clock.observe(source.timestamp(capture), receive, &mut participant);
            last = source.clock.room_time(position, &participant);
        }
        assert!((last.as_micros() - START_US - 19_980_000 - 20_000).abs() < 2_000);
    }

    #[test]
    fn a_bad_report_is_ignored_and_a_clock_that_was_set_is_followed() {
        let mut participant = ParticipantClock::default();
        let mut source = Source::new(48_000, 1, 0);
        let mut at = |capture: i64, ntp: Option<i64>| {
            let receive = RoomTime::from_micros(START_US + capture + 10_000);
            let position = source.clock.observe(source.timestamp(capture), receive, &mut participant);
            if let Some(ntp) = ntp {
                source.clock.report(source.report(capture, ntp + 100_000_000), receive, &mut participant);
            }
            let off = source.clock.room_time(position, &participant).as_micros() - START_US - capture;
            (off, source.clock.rejected_reports())
        };
        at(0, Some(0));
        assert_eq!(at(1_000_000, Some(1_000_000)), (10_000, 0));
        assert_eq!(at(2_000_000, Some(2_500_000)), (10_000, 1), "one report that contradicts");
        assert_eq!(at(3_000_000, Some(3_000_000)), (10_000, 1));
        assert_eq!(at(4_000_000, Some(0)), (10_000, 2));
        assert_eq!(at(5_000_000, Some(1_000_000)), (10_000, 2), "two that agree: the clock was set back");
        assert_eq!(at(6_000_000, None), (10_000, 2));
    }

    #[test]
    fn timestamps_that_jump_do_not_move_media() {
        for (name, jump) in [
            ("back", 0_u32.wrapping_sub(4_000_000)),
            ("hours ahead", 1_500_000_000),
            ("to 0", 0_u32.wrapping_sub(2_000_192_000)),
        ] {
            let mut participant = ParticipantClock::default();
            let mut clock = StreamClock::new(48_000);
            let base = 2_000_000_000_u32;
            for step in 0..400_u32 {
                let jumped = if step >= 200 { jump } else { 0 };
                // One packet in the middle carries a timestamp of its own.
                let timestamp = if step == 100 { 0 } else { base.wrapping_add(step * 960).wrapping_add(jumped) };
                let receive = RoomTime::from_micros(START_US + i64::from(step) * 20_000);
                let position = clock.observe(RtpTimestamp(timestamp), receive, &mut participant);
                let off = clock.room_time(position, &participant).micros_since(receive).abs();
                assert!(off <= 20_000, "{name}: {off} us at {step}");
            }
        }
    }

    #[test]
    fn a_mute_that_stops_the_timestamps_is_as_long_as_it_was() {
        let mut participant = ParticipantClock::default();
        let mut clock = StreamClock::new(48_000);
        for (timestamp, at_ms) in [(0, 0), (960, 20), (1920, 60_040), (2880, 60_060)] {
            let receive = RoomTime::from_micros(START_US + at_ms * 1000);
            let position = clock.observe(RtpTimestamp(timestamp), receive, &mut participant);
            assert_eq!(clock.room_time(position, &participant), receive);
        }
    }

    proptest! {
        #[test]
        fn nothing_takes_media_far_from_its_receive_time(
            rate in any::<u32>(),
            steps in proptest::collection::vec((any::<u32>(), any::<i64>(), any::<u64>(), any::<bool>()), 1..60),
        ) {
            let mut participant = ParticipantClock::default();
            let mut clock = StreamClock::new(rate);
            for (timestamp, receive, ntp, is_report) in steps {
                let receive = RoomTime::from_micros(receive / 4);
                let rtp = RtpTimestamp(timestamp);
                if is_report {
                    clock.report(SenderReport { ssrc: Ssrc(1), ntp: NtpTimestamp(ntp), rtp }, receive, &mut participant);
                }
                let position = clock.observe(rtp, receive, &mut participant);
                let off = clock.room_time(position, &participant).micros_since(receive).saturating_abs();
                prop_assert!(off <= REPORT_PLAUSIBLE_US);
            }
        }
    }
}
