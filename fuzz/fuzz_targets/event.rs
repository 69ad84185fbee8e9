//! A room event of the log.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use roomreel_shared::event::RoomEvent;

fuzz_target!(|input: &[u8]| {
    if let Ok(event) = RoomEvent::decode(Bytes::copy_from_slice(input)) {
        let again = event.encode();
        let read = RoomEvent::decode(again.clone()).expect("what was written can be read");
        assert_eq!(read.encode(), again, "writing settles");
        assert_eq!(read.kind.is_control(), event.kind.is_control());
    }
});
