//! Layouts as text: names and region documents, and what is asked of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roomreel_fuzz::layout;
use roomreel_shared::id::PeerId;
use roomreel_shared::policy::TrackKind;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match layout::parse(text) {
        Ok(layout) => {
            let peer = PeerId::new("amara").expect("valid");
            let _ = layout.hears(&peer, TrackKind::Audio);
            if let Some((width, height)) = layout.document().and_then(|document| document.resolution()) {
                assert!(width > 0 && height > 0);
            }
            if layout.check(1280, 720).is_ok() {
                let mut memory = layout::LayoutMemory::default();
                let scene = layout::Scene::default();
                let _ = layout.arrange(&scene, 1280, 720, &mut memory, std::time::Duration::ZERO);
            }
        }
        Err(error) => assert!(error.to_string().len() < 4096, "an error is short"),
    }
});
