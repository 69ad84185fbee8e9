//! Compound RTCP: whatever stands between them, the sender reports are found, and no other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomreel_fuzz::{Numbers, pieces};
use roomreel_shared::rtcp::{NtpTimestamp, SenderReport, sender_reports, write_sender_report};
use roomreel_shared::rtp::{RtpTimestamp, Ssrc};

fuzz_target!(|input: &[u8]| {
    assert!(sender_reports(input).count() <= input.len() / 28);
    for report in sender_reports(input) {
        assert!(report.ntp.as_micros() >= 0);
        let written = write_sender_report(report, 1, 2);
        assert_eq!(sender_reports(&written).collect::<Vec<_>>(), [report]);
    }
    // A compound of whole packets: reports, others, and what comes of a length that lies.
    let mut compound = Vec::new();
    let mut expected = Vec::new();
    let mut is_whole = true;
    for piece in pieces(input) {
        let mut numbers = Numbers(piece);
        match numbers.byte() % 4 {
            0 => {
                let report = SenderReport {
                    ssrc: Ssrc(numbers.number() as u32),
                    ntp: NtpTimestamp(numbers.number()),
                    rtp: RtpTimestamp(numbers.number() as u32),
                };
                compound.extend(write_sender_report(report, numbers.number() as u32, 0));
                if is_whole {
                    expected.push(report);
                }
            }
            1 | 2 => {
                let mut body = numbers.0.to_vec();
                body.resize(body.len().div_ceil(4) * 4, 0);
                let kind = if piece.first().is_some_and(|byte| byte & 4 != 0) { 201 } else { 205 };
                compound.extend([0x81, kind, 0, (body.len() / 4) as u8]);
                compound.extend(body);
            }
            _ => {
                compound.extend_from_slice(numbers.0);
                is_whole &= numbers.0.is_empty();
            }
        }
    }
    let found: Vec<_> = sender_reports(&compound).collect();
    assert!(found.starts_with(&expected), "{found:?} does not begin with {expected:?}");
});
