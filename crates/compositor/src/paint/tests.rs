use std::time::Duration;

use roomreel_shared::id::PeerId;

use super::*;
use crate::layout::{Camera, LayoutMemory, Microphone, Participant, Scene, Transition, parse};

const SIZE: (u32, u32) = (640, 360);

fn room(count: usize) -> Scene {
    let participants = (0..count).map(|index| Participant {
        peer: PeerId::new(format!("peer-{index}")).expect("it can be spelled"),
        display_name: format!("Name {index}"),
        camera: Camera::On,
        microphone: if index % 2 == 1 { Microphone::Muted } else { Microphone::On },
        speaking: index == 0,
        audio_level: 0,
        hidden: false,
    });
    Scene { participants: participants.collect(), ..Scene::default() }
}

fn arrange(layout: &str, scene: &Scene) -> Arrangement {
    let layout = parse(layout).expect("a layout");
    layout.arrange(scene, SIZE.0, SIZE.1, &mut LayoutMemory::default(), Duration::ZERO)
}

fn canvas() -> Canvas {
    Canvas::new(SIZE.0 as usize, SIZE.1 as usize)
}

fn pixels(canvas: &Canvas) -> Vec<Vec<u8>> {
    let rows = |index: usize| {
        let (columns, rows) = canvas.plane_size(index);
        (0..rows).flat_map(|row| canvas.plane(index)[row * canvas.stride(index)..][..columns].to_vec()).collect()
    };
    (0..3).map(rows).collect()
}

/// A stripe per participant, so that each tile is told from the others.
fn picture(of: &SourceId, shade: u8) -> Picture {
    let index: u8 = of.peer.as_str().trim_start_matches("peer-").parse().expect("a number");
    Picture::solid(320, 180, [60 + index * 12 + shade, 90 + index * 6, 160 - index * 5])
}

/// A painter that knows what is on the canvas leaves the same pixels as one that draws everything.
#[test]
fn drawing_what_changed_is_drawing_everything() {
    let mut painter = Painter::new(SIZE.0, SIZE.1);
    let mut kept = canvas();
    let mut transition = Transition::default();
    let mut muted = room(4);
    muted.participants[0].microphone = Microphone::Muted;
    let mut off = room(4);
    off.participants[2].camera = Camera::Off;
    let mut clock = arrange("grid", &room(4));
    clock.overlays.push(Overlay::clock(Duration::from_secs(7), Corner::TopRight));
    let mut later = clock.clone();
    later.overlays[0] = Overlay::clock(Duration::from_secs(11), Corner::TopRight);
    let story = [
        arrange("grid", &room(4)),
        arrange("grid", &muted),
        arrange("grid", &off),
        clock,
        later,
        arrange("pip", &room(3)),
        arrange("speaker", &room(5)),
        arrange("grid-light", &room(9)),
        arrange("single-speaker", &room(2)),
        arrange("grid", &Scene::default()),
        arrange("grid", &room(2)),
    ];
    for (step, target) in story.into_iter().enumerate() {
        for frame in 0..6_u64 {
            let shown = transition.step(target.clone(), Duration::from_millis(step as u64 * 500 + frame * 60));
            // Every other participant moves.
            let pictures: Vec<_> = shown
                .tiles
                .iter()
                .map(|tile| {
                    let moves = tile.source.peer.as_str().ends_with(['0', '2', '4']);
                    (tile.source.clone(), picture(&tile.source, if moves { frame as u8 } else { 0 }))
                })
                .collect();
            let picture_of = |source: &SourceId| pictures.iter().find(|(id, _)| id == source).map(|(_, p)| p.clone());
            painter.paint(&mut kept, &shown, &picture_of);
            let mut fresh = canvas();
            Painter::new(SIZE.0, SIZE.1).paint(&mut fresh, &shown, &picture_of);
            assert!(pixels(&kept) == pixels(&fresh), "step {step}, frame {frame}");
        }
    }
}

#[test]
fn only_what_changed_is_drawn() {
    let mut painter = Painter::new(SIZE.0, SIZE.1);
    let mut canvas = canvas();
    let mut arrangement = arrange("grid", &room(9));
    let mut pictures: Vec<_> =
        arrangement.tiles.iter().map(|tile| (tile.source.clone(), picture(&tile.source, 0))).collect();
    let paint =
        |painter: &mut Painter, canvas: &mut Canvas, arrangement: &Arrangement, pictures: &[(SourceId, Picture)]| {
            painter.paint(canvas, arrangement, &|source| {
                pictures.iter().find(|(id, _)| id == source).map(|(_, p)| p.clone())
            })
        };
    assert_eq!(paint(&mut painter, &mut canvas, &arrangement, &pictures), 9);
    assert_eq!(paint(&mut painter, &mut canvas, &arrangement, &pictures), 0);
    pictures[3].1 = picture(&pictures[3].0, 1);
    assert_eq!(paint(&mut painter, &mut canvas, &arrangement, &pictures), 1);
    arrangement.tiles[5].muted = !arrangement.tiles[5].muted;
    assert_eq!(paint(&mut painter, &mut canvas, &arrangement, &pictures), 1);
    painter.forget();
    assert_eq!(paint(&mut painter, &mut canvas, &arrangement, &pictures), 9);
}

#[test]
fn before_the_first_picture_there_is_a_placeholder_not_black() {
    let mut painter = Painter::new(SIZE.0, SIZE.1);
    let mut canvas = canvas();
    painter.paint(&mut canvas, &arrange("grid", &room(1)), &|_| None);
    let luma = |x: usize, y: usize| canvas.plane(0)[y * canvas.stride(0) + x];
    let card = Palette::of(Theme::Dark).card.to_yuv()[0];
    assert_eq!(luma(10, 10), card);
    // Within the disc, beside the letter.
    assert!(luma(320, 180 - 45) > card + 10);
}

#[test]
fn corners_show_the_background_and_edges_are_clean() {
    let mut painter = Painter::new(SIZE.0, SIZE.1);
    let mut canvas = canvas();
    let mut arrangement = arrange("grid", &room(4));
    for tile in &mut arrangement.tiles {
        (tile.label, tile.muted, tile.speaking) = (None, false, false);
    }
    painter.paint(&mut canvas, &arrangement, &|_| Some(Picture::solid(640, 360, [200, 100, 170])));
    let background = Palette::of(Theme::Dark).background.to_yuv();
    let rect = arrangement.tiles[3].rect;
    for index in 0..3 {
        let shift = usize::from(index > 0);
        let at =
            |x: u32, y: u32| canvas.plane(index)[(y as usize >> shift) * canvas.stride(index) + (x as usize >> shift)];
        // The blocks of chroma in the corners have a little of the picture in them.
        assert!(at(rect.x, rect.y).abs_diff(background[index]) <= 2, "plane {index}");
        assert!(at(rect.right() - 1, rect.bottom() - 1).abs_diff(background[index]) <= 2, "plane {index}");
        assert_eq!(at(rect.x + rect.width / 2, rect.y), [200, 100, 170][index], "plane {index}");
        assert_eq!(at(rect.x - 2, rect.y + 40), background[index], "plane {index}");
    }
}

/// Nothing a caller puts into an arrangement makes the painter write outside.
#[test]
fn hostile_arrangements_are_drawn_as_far_as_they_can_be() {
    let mut painter = Painter::new(SIZE.0, SIZE.1);
    let mut canvas = canvas();
    let mut arrangement = arrange("grid", &room(6));
    arrangement.tiles[0].rect = Rect::new(600, 300, 400, 400);
    arrangement.tiles[1].rect = Rect::new(4_000_000, 0, 2, 2);
    arrangement.tiles[2].rect = Rect::new(638, 358, 2, 2);
    arrangement.tiles[3].radius = u32::MAX;
    arrangement.tiles[4].rect = Rect::default();
    arrangement.tiles[5].name = "\u{0}\u{202e}".repeat(1000);
    arrangement.tiles[5].content = Content::Placeholder;
    for corner in [Corner::TopLeft, Corner::TopRight, Corner::BottomLeft, Corner::BottomRight] {
        arrangement.overlays.extend((0..30).map(|_| Overlay::text("W".repeat(5000), corner)));
    }
    let drawn = painter.paint(&mut canvas, &arrangement, &|_| Some(Picture::solid(1, 1, [0, 0, 0])));
    assert_eq!(drawn, 3 + 120);
}

#[test]
fn what_lies_under_a_solid_tile_is_not_drawn() {
    let mut arrangement = arrange("grid", &room(2));
    let over = Tile { rect: Rect::new(0, 0, SIZE.0, SIZE.1), z: 9, radius: 0, ..arrangement.tiles[0].clone() };
    arrangement.tiles.push(over);
    let drawn_with = |shade: u8, painter: &mut Painter, canvas: &mut Canvas, arrangement: &Arrangement| {
        painter.paint(canvas, arrangement, &|source| Some(picture(source, shade)))
    };
    let (mut painter, mut canvas) = (Painter::new(SIZE.0, SIZE.1), canvas());
    assert_eq!(drawn_with(0, &mut painter, &mut canvas, &arrangement), 1);
    assert_eq!(drawn_with(1, &mut painter, &mut canvas, &arrangement), 1, "nor is it when the one above changes");
    arrangement.tiles[2].opacity = 254;
    assert_eq!(drawn_with(1, &mut painter, &mut canvas, &arrangement), 3);
}
