//! Measures drawing: `cargo run --release -p roomreel-compositor --example paint_cost`.
//! Microseconds a frame at 1280x720 when every picture moves, and when nothing does.

use std::time::{Duration, Instant};

use roomreel_compositor::frame::{Canvas, Picture};
use roomreel_compositor::layout::{Camera, LayoutMemory, Microphone, Participant, Scene, parse};
use roomreel_compositor::paint::Painter;
use roomreel_shared::id::PeerId;

const FRAMES: usize = 300;

fn main() {
    for (count, width, height) in [
        (1, 1280, 720),
        (4, 640, 360),
        (9, 640, 360),
        (9, 1280, 720),
        (16, 320, 180),
        (16, 640, 360),
        (25, 320, 180),
        (25, 640, 360),
    ] {
        let participants = (0..count).map(|index| Participant {
            peer: PeerId::new(format!("peer-{index}")).expect("it can be spelled"),
            display_name: format!("Participant {index}"),
            camera: Camera::On,
            microphone: if index % 2 == 0 { Microphone::On } else { Microphone::Muted },
            speaking: index == 0,
            audio_level: 0,
            hidden: false,
        });
        let scene = Scene { participants: participants.collect(), ..Scene::default() };
        let layout = parse("grid").expect("a layout");
        let mut memory = LayoutMemory::default();
        let mut canvas = Canvas::new(1280, 720);
        let mut painter = Painter::new(1280, 720);
        // Two sets of pictures in turn, as different as any: equal pixels cost as much as others.
        let sets = [60, 90]
            .map(|luma| (0..count).map(|_| Picture::solid(width, height, [luma, 110, 140])).collect::<Vec<_>>());
        let mut costs = [Vec::new(), Vec::new()];
        for frame in 0..2 * FRAMES {
            let (is_still, set) = if frame < FRAMES { (false, &sets[frame % 2]) } else { (true, &sets[0]) };
            let begin = Instant::now();
            let arrangement = layout.arrange(&scene, 1280, 720, &mut memory, Duration::from_millis(33 * frame as u64));
            painter.paint(&mut canvas, &arrangement, &|source| {
                let index: usize = source.peer.as_str().trim_start_matches("peer-").parse().ok()?;
                set.get(index).cloned()
            });
            costs[usize::from(is_still)].push(begin.elapsed().as_micros());
        }
        let [moving, still] = costs.map(|mut costs| {
            costs.sort_unstable();
            costs[costs.len() / 2]
        });
        eprintln!("{count:2} tiles of {width}x{height}: {moving:5} us a frame moving, {still:4} us still");
    }
}
