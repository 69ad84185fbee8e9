//! Capture files: pcap, pcapng and rtpdump, down to the UDP payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomreel_fuzz::capture::frames::Frames;
use roomreel_fuzz::capture::link::datagram;

fuzz_target!(|input: &[u8]| {
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
