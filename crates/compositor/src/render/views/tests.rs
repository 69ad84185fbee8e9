use roomreel_shared::event::EventKind;
use roomreel_shared::id::{PeerId, TrackId};
use roomreel_shared::policy::TrackKind;
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::Window;

use super::super::RenderCore;
use super::super::tests::{fold, media, spec, windows, windows_of};
use super::*;

/// A room whose only camera has sent since 0.52 s, and when the room began.
fn room() -> (RenderCore, RoomTime) {
    room_of(&windows())
}

fn room_of(windows: &[Window]) -> (RenderCore, RoomTime) {
    let mut core = RenderCore::new(spec(), fold()).expect("a layout and an encoder");
    windows.iter().for_each(|window| core.push_window(window).expect("its recording"));
    let start = core.start.expect("windows say where it begins");
    (core, start)
}

/// The frame at so many tenths of a second; covered: another tile lies over the camera's.
fn frame(core: &mut RenderCore, start: RoomTime, tenth: i64, is_covered: bool) -> Frame {
    let t = start.offset_micros(tenth * 100_000);
    core.room.advance(t);
    let mut frame = core.lay_out(start, t);
    let camera = frame.shown.tiles.first().expect("its tile").clone();
    if is_covered {
        let source = SourceId { peer: PeerId::new("other").expect("a name"), ..camera.source.clone() };
        let over = Tile { source, z: camera.z + 1, radius: 0, opacity: 255, content: Content::Placeholder, ..camera };
        frame.shown.tiles.push(over);
    }
    frame
}

/// How many sources have a picture in each frame, and how many pictures were decoded by then.
fn seen(core: &mut RenderCore, frames: &[Frame]) -> (Vec<usize>, u64) {
    let pictures = core.views.pictures(&mut core.tracks, core.room.state(), frames);
    let decoded = core.tracks.values().filter_map(|track| match &track.media {
        TrackMedia::Video(video) => Some(video.quality().decoded_pictures),
        TrackMedia::Audio(_) => None,
    });
    (pictures.iter().map(BTreeMap::len).collect(), decoded.sum())
}

#[test]
fn what_lies_under_another_tile_is_not_decoded_until_it_is_seen() {
    let (mut core, start) = room();
    let covered: Vec<_> = (10..15).map(|tenth| frame(&mut core, start, tenth, true)).collect();
    assert_eq!(seen(&mut core, &covered), (vec![0; 5], 0));
    // Again to be seen, the picture is there at once: everything from the key picture on is decoded.
    let open = [frame(&mut core, start, 15, false)];
    assert_eq!(seen(&mut core, &open), (vec![1], 10));
    let covered = [frame(&mut core, start, 16, true)];
    assert_eq!(seen(&mut core, &covered), (vec![0], 10));
}

#[test]
fn a_tile_that_can_be_seen_through_covers_nothing() {
    let (mut core, start) = room();
    for change in
        [|tile: &mut Tile| tile.opacity = 200, |tile: &mut Tile| tile.radius = 8, |tile: &mut Tile| tile.z -= 2]
    {
        let mut frame = frame(&mut core, start, 12, true);
        change(frame.shown.tiles.last_mut().expect("the tile above"));
        assert_eq!(seen(&mut core, &[frame]).0, [1]);
    }
}

#[test]
fn a_picture_that_stands_still_is_scaled_once() {
    let (mut core, start) = room();
    let camera = |core: &mut RenderCore, tenth| {
        let frames = [frame(core, start, tenth, false), frame(core, start, tenth, false)];
        let pictures = core.views.pictures(&mut core.tracks, core.room.state(), &frames);
        pictures.iter().flat_map(|of_frame| of_frame.values()).map(Picture::id).collect::<Vec<_>>()
    };
    let (early, late) = (camera(&mut core, 10), camera(&mut core, 11));
    assert_eq!((early.len(), early[0]), (2, early[1]));
    assert_eq!((late.len(), late[0]), (2, late[1]));
    assert_ne!(early[0], late[0]);
}

#[test]
fn a_tile_that_goes_shows_what_was_seen_in_it_last() {
    let (mut core, start) = room();
    let leaving = |core: &mut RenderCore, tenth| {
        let mut frame = frame(core, start, tenth, false);
        frame.wanted.tiles.clear();
        frame
    };
    let frames = [frame(&mut core, start, 12, false), leaving(&mut core, 13), leaving(&mut core, 14)];
    let pictures = core.views.pictures(&mut core.tracks, core.room.state(), &frames);
    let shown: Vec<_> = pictures.iter().flat_map(BTreeMap::values).map(Picture::id).collect();
    assert_eq!(shown, vec![shown[0]; 3], "the same picture, standing still");
    // A camera that was switched off shows nothing any more, wherever its tile goes.
    let mut off = frame(&mut core, start, 15, false);
    off.wanted.tiles.iter_mut().for_each(|tile| tile.content = Content::Placeholder);
    let frames = [off, leaving(&mut core, 16)];
    assert_eq!(seen(&mut core, &frames).0, [0, 0]);
}

#[test]
fn a_tile_that_goes_shows_nothing_of_before_it_was_covered_or_skipped() {
    for is_skipped in [false, true] {
        let (mut core, start) = room();
        let open = [frame(&mut core, start, 12, false)];
        assert_eq!(seen(&mut core, &open).0, [1]);
        if is_skipped {
            let skipped = [frame(&mut core, start, 13, false)];
            core.views.skip(&mut core.tracks, core.room.state(), &skipped);
        } else {
            let covered = [frame(&mut core, start, 13, true)];
            assert_eq!(seen(&mut core, &covered).0, [0]);
        }
        let mut leaving = frame(&mut core, start, 14, false);
        leaving.wanted.tiles.clear();
        assert_eq!(seen(&mut core, &[leaving]).0, [0], "skipped: {is_skipped}");
    }
}

#[test]
fn what_was_switched_off_in_skipped_frames_shows_nothing_of_before() {
    let track = TrackId::new("cam").expect("valid");
    // Until when it sends, tenths of a second, and whether it is off from 1.2 to 1.6 s.
    for (until, is_off, pictures) in [(11, false, 1), (11, true, 0), (14, true, 1)] {
        let (mut events, mut packets) = media();
        for (_, kind) in &mut events {
            if let EventKind::ProducerCreated(producer) = kind
                && producer.track == track
            {
                producer.kind = TrackKind::Screenshare;
            }
        }
        if is_off {
            events.push((1_200_000, EventKind::ProducerPaused { track: track.clone() }));
            events.push((1_600_000, EventKind::ProducerResumed { track: track.clone() }));
        }
        let begin = room().1;
        for packets in packets.values_mut() {
            packets.retain(|packet| packet.time < begin.offset_micros(until * 100_000));
        }
        let (mut core, start) = room_of(&windows_of(&(events, packets)));
        for tenth in 6..20 {
            let skipped = [frame(&mut core, start, tenth, false)];
            core.views.skip(&mut core.tracks, core.room.state(), &skipped);
        }
        let shown = [frame(&mut core, start, 20, false)];
        assert_eq!(seen(&mut core, &shown).0, [pictures], "sends until {until}, is off: {is_off}");
    }
}
