//! Capture files: pcap, pcapng and rtpdump, down to the UDP payload; and the events beside them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomreel_fuzz::capture::events;
use roomreel_fuzz::capture::frames::Frames;
use roomreel_fuzz::capture::link::datagram;

fuzz_target!(|input: &[u8]| {
    let (stamped, problems) = events::read(input, "events");
    assert!(stamped.len() + problems.len() <= input.len(), "each line takes bytes");
    let Ok(frames) = Frames::new(input, "capture".to_owned()) else { return };
    let mut count = 0;
    for frame in frames {
        let Ok(frame) = frame else { break };
        count += 1;
        if let Ok(found) = datagram(frame.link, &frame.bytes) {
            assert!(found.payload.len() <= frame.bytes.len());
        }
    }
    assert!(count <= input.len(), "each frame takes bytes");
});
