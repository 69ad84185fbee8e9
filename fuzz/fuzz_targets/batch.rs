//! A batch of the log: as it stands, and with a checksum that is right so that the fuzzer gets to the body.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use roomreel_shared::batch::{MAX_BATCH_BYTES, RtpBatch};
use roomreel_shared::wire;

fn read(message: Bytes) {
    if let Ok(batch) = RtpBatch::decode(message) {
        assert!(!batch.packets.is_empty());
        assert!(batch.next_packet_no() > batch.first_packet_no);
        let again = batch.encode();
        if again.len() <= MAX_BATCH_BYTES {
            let read = RtpBatch::decode(again.clone()).expect("what was written can be read");
            assert_eq!(read.encode(), again, "writing settles");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    read(Bytes::copy_from_slice(input));
    let body = Bytes::copy_from_slice(input);
    let envelope = wire::RtpBatch { body_crc32c: crc32c::crc32c(&body), body };
    read(envelope.encode_to_vec().into());
});
