//! One track's fold, input by input.

use super::*;
use crate::story;

fn open(admission: Admission) -> TrackFold {
    let key = TrackKey { sfu: story::sfu(), track: story::track("cam") };
    let state = wire::TrackState::default();
    TrackFold::new(&OpenTrack { key, state, admission, now: story::log_time(0) }, FoldConfig::default())
}

fn entry(batch: RtpBatch) -> Arc<TrackBatch> {
    let number = batch.batch_no;
    let time = story::log_time(100 * (number % 1000) as i64);
    Arc::new(TrackBatch { sequence: number + 1, time, message: batch.encode(), batch, from_zero: true })
}

fn batch(number: u64) -> Arc<TrackBatch> {
    entry(story::batch("cam", 7, number, 100 * number as i64))
}

/// Feeds and seals the last window; answers numbers stored and gaps.
fn end_of(mut fold: TrackFold, inputs: Vec<TrackInput>) -> (u64, Vec<Missing>) {
    let mut outputs = Vec::new();
    for input in inputs {
        fold.on_input(input, &mut outputs);
    }
    fold.on_input(TrackInput::Seal { last: true }, &mut outputs);
    match outputs.pop() {
        Some(TrackOutput::Sealed(sealed)) => {
            (sealed.counts.packets, sealed.gaps.into_iter().map(|gap| gap.missing).collect())
        }
        other => panic!("{other:?}"),
    }
}

fn damaged(batches: (u64, u64), packets: (u64, Option<u64>)) -> Missing {
    Missing::Accepted { reason: AcceptedReason::Damaged, batches, packets }
}

#[test]
fn a_poisoned_batch_costs_only_itself() {
    let inputs = vec![
        TrackInput::Batch(batch(0)),
        TrackInput::Batch(batch(3)),
        TrackInput::Poisoned(batch(2)),
        TrackInput::Batch(batch(1)),
    ];
    let (packets, gaps) = end_of(open(Admission::Store), inputs);
    assert_eq!(packets, 12);
    let log = Missing::Accepted { reason: AcceptedReason::Log, batches: (1, 1), packets: (4, Some(7)) };
    assert_eq!(gaps, [log, damaged((2, 2), (8, Some(11)))]);
}

#[test]
fn packet_numbers_that_others_have_are_not_believed() {
    let mut liar = story::batch("cam", 7, 1, 100);
    liar.first_packet_no = 2;
    let inputs = [batch(0), entry(liar), batch(2)].map(TrackInput::Batch).to_vec();
    let (packets, gaps) = end_of(open(Admission::Store), inputs);
    assert_eq!(packets, 8);
    let hole = Missing::Accepted { reason: AcceptedReason::Publisher, batches: (2, 2), packets: (4, Some(7)) };
    assert_eq!(gaps, [damaged((1, 1), (2, Some(5))), hole]);
}

#[test]
fn probes_retransmissions_and_noise_are_kept_and_counted_apart() {
    let mut mixed = story::batch("cam", 7, 0, 0);
    let packet = |ssrc: u8, sequence: u8| vec![0xa0, 97, 0, sequence, 0, 0, 0, 0, 0, 0, 0, ssrc, 0, 0, 0, 4];
    for bytes in [packet(50, 9), packet(50, 200), b"noise".to_vec(), packet(51, 1)] {
        let time = mixed.packets[0].time;
        mixed.packets.push(roomreel_shared::batch::Packet { time, data: PacketData::Rtp(bytes.into()) });
    }
    let mut fold = open(Admission::Store);
    let mut outputs = Vec::new();
    fold.on_input(TrackInput::Batch(entry(mixed)), &mut outputs);
    fold.on_input(TrackInput::Seal { last: true }, &mut outputs);
    let Some(TrackOutput::Sealed(sealed)) = outputs.pop() else { panic!("sealed") };
    assert_eq!((sealed.counts.packets, sealed.counts.invalid_packets), (8, 1));
    assert_eq!(
        sealed.invalid.map(|why| why.to_string()),
        Some("RTP packet of 5 bytes is too short: 12 are needed".into())
    );
    assert_eq!(sealed.state.streams.len(), 3);
    let gaps: Vec<_> = sealed.gaps.iter().map(|gap| &gap.missing).collect();
    assert!(matches!(gaps[..], [Missing::Network { ssrc: Ssrc(50), .. }]), "each SSRC counts alone: {gaps:?}");
}

#[test]
fn hostile_publisher_gaps_do_no_harm() {
    for (batches, packets) in
        [((0, u64::MAX), (0, u64::MAX)), ((1, 3), (0, 0)), ((2, u64::MAX), (5, 6)), ((1, 1), (9, 900))]
    {
        let gap = PublisherGap {
            track: story::track("cam"),
            incarnation: story::incarnation(7),
            packets,
            batches,
            reason: String::new(),
        };
        let mut inputs = vec![TrackInput::Batch(batch(0))];
        let input = |gap| TrackInput::PublisherGap { gap, time: RoomTime::default() };
        inputs.extend([gap.clone(), gap.clone()].map(input));
        inputs.extend([5, 1, 4, 6].map(batch).map(TrackInput::Batch));
        inputs.push(input(gap));
        end_of(open(Admission::Store), inputs);
    }
}

#[test]
fn numbers_may_reach_the_end_of_their_range() {
    let mut last = story::batch("cam", 7, 0, 0);
    last.batch_no = u64::MAX - 1;
    last.first_packet_no = u64::MAX - last.packets.len() as u64;
    let mut fold = open(Admission::Store);
    let mut outputs = Vec::new();
    let entry = TrackBatch { from_zero: false, ..Arc::unwrap_or_clone(entry(last)) };
    fold.on_input(TrackInput::Batch(Arc::new(entry)), &mut outputs);
    let (packets, gaps) = end_of(fold, Vec::new());
    assert_eq!((packets, gaps), (4, Vec::new()));
}

#[test]
fn what_waits_is_bounded() {
    let mut fold = open(Admission::Store);
    let mut outputs = Vec::new();
    for number in 1..5000 {
        fold.on_input(TrackInput::Batch(batch(number)), &mut outputs);
        assert!(fold.held().len() <= FoldConfig::default().held_batches);
    }
}

/// `cargo test -p roomreel-ingest --release -- --ignored --nocapture packets_per_second`
#[test]
#[ignore = "a measurement, not a check"]
fn packets_per_second() {
    let batches: Vec<_> = (0..20_000_u64)
        .map(|number| {
            let mut batch = story::batch("cam", 7, number, number as i64);
            batch.first_packet_no = number * 14;
            let packet = batch.packets[1].data.bytes().to_vec();
            batch.packets = (0..14)
                .map(|i| {
                    let mut bytes = packet.clone();
                    bytes[2..4].copy_from_slice(&((number * 14 + i) as u16).to_be_bytes());
                    bytes.resize(1100, 7);
                    let time = batch.packets[0].time;
                    roomreel_shared::batch::Packet { time, data: PacketData::Rtp(bytes.into()) }
                })
                .collect();
            batch.encode()
        })
        .collect();
    let mut fold = open(Admission::Store);
    let mut outputs = Vec::new();
    let begun = std::time::Instant::now();
    for (sequence, message) in (1..).zip(&batches) {
        let batch = RtpBatch::decode(message.clone()).expect("valid");
        let time = story::log_time(sequence as i64);
        let message = message.clone();
        let batch = TrackBatch { sequence, time, message, batch, from_zero: true };
        fold.on_input(TrackInput::Batch(Arc::new(batch)), &mut outputs);
        if sequence % 400 == 0 {
            fold.on_input(TrackInput::Seal { last: false }, &mut outputs);
            outputs.clear();
        }
    }
    let rate = (batches.len() * 14) as f64 / begun.elapsed().as_secs_f64();
    eprintln!("{rate:.0} packets/s, decoded, folded and sealed on one core");
}
