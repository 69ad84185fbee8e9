//! RTP headers with their extensions, and sender reports in compound RTCP.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use roomreel_shared::rtcp::sender_reports;
use roomreel_shared::rtp::{AudioLevel, ExtendedSequenceNumber, PacketView};

fuzz_target!(|input: &[u8]| {
    let mut extended: Option<ExtendedSequenceNumber> = None;
    for piece in roomreel_fuzz::pieces(input) {
        if let Ok(view) = PacketView::parse(Bytes::copy_from_slice(piece)) {
            assert!(view.payload().len() + 12 <= piece.len());
            assert_eq!(view.bytes(), piece);
            for id in 0..=255 {
                let _ = view.extension(id).map(AudioLevel::parse);
            }
            let number = view.sequence_number();
            let next = match extended {
                Some(before) => before.extend(number),
                None => ExtendedSequenceNumber::first(number),
            };
            assert_eq!(next.sequence(), number);
            extended = Some(next);
        }
    }
    for report in sender_reports(input) {
        let _ = report.ntp.as_micros();
    }
    assert!(sender_reports(input).count() <= input.len() / 28);
});
