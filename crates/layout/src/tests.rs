use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn peer(index: usize) -> PeerId {
    PeerId::new(format!("peer-{index}")).expect("it can be spelled")
}

fn room(count: usize) -> Scene {
    let participants = (0..count).map(|index| Participant {
        peer: peer(index),
        display_name: format!("Name {index}"),
        camera: Camera::On,
        microphone: Microphone::On,
        speaking: false,
        audio_level: 0,
        hidden: false,
    });
    Scene { participants: participants.collect(), ..Scene::default() }
}

fn with_share(mut scene: Scene, owner: usize) -> Scene {
    scene.screenshares.push(Screenshare { source: SourceId::screenshare(peer(owner)), owner: peer(owner) });
    scene
}

fn named(name: &str) -> Layout {
    parse(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn arrange(name: &str, scene: &Scene, t: Duration) -> Arrangement {
    named(name).arrange(scene, 1280, 720, &mut LayoutMemory::default(), t)
}

fn shown(arrangement: &Arrangement) -> Vec<&str> {
    arrangement.tiles.iter().map(|tile| tile.source.peer.as_str()).collect()
}

fn document_error(text: &str) -> String {
    match parse(text) {
        Err(error @ Error::Document { .. }) => error.to_string(),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn names_and_aliases() {
    for (alias, name) in [
        ("bestFit", "grid"),
        ("Gallery View", "grid"),
        ("active-speaker", "speaker"),
        ("active_speaker", "speaker"),
        ("dominant", "speaker"),
        ("horizontalPresentation", "speaker"),
        ("verticalPresentation", "presentation"),
        ("shared_screen", "presentation"),
        ("single-participant", "single-speaker"),
        ("picture-in-picture", "pip"),
        (" GRID ", "grid"),
        ("grid-dark", "grid"),
        ("bestFit-light", "grid-light"),
    ] {
        assert_eq!(named(alias), named(name), "{alias}");
    }
    for name in NAMES {
        assert_eq!(named(name).theme(), Theme::Dark);
        assert_eq!(named(&format!("{name}-light")).theme(), Theme::Light);
    }
    for unknown in ["", "light", "mosaic", "grid-blue", "../grid", "grid\0", "grid-light-dark", "[]"] {
        assert!(matches!(parse(unknown), Err(Error::UnknownName { .. })), "{unknown:?}");
    }
    assert!(parse("mosaic").expect_err("unknown").to_string().contains("grid, speaker"));
}

#[test]
fn four_at_720_lines_are_near_enough_to_half_of_it_for_the_scaler() {
    let tiles = arrange("grid", &room(4), Duration::ZERO).tiles;
    assert!(tiles.iter().all(|tile| (tile.rect.width, tile.rect.height) == (618, 348)));
    let stage = arrange("speaker", &room(3), Duration::ZERO).tiles;
    assert_eq!((stage[0].rect.width, stage[0].rect.height), (960, 540));
}

#[test]
fn alone_fills_a_wide_canvas_and_keeps_its_shape_on_a_tall_one() {
    for name in ["grid", "speaker", "presentation"] {
        let layout = named(name);
        let tile = |width, height| {
            layout.arrange(&room(1), width, height, &mut LayoutMemory::default(), Duration::ZERO).tiles.remove(0)
        };
        assert_eq!((tile(1280, 720).rect, tile(1280, 720).radius), (Rect::new(0, 0, 1280, 720), 0), "{name}");
        assert_eq!((tile(720, 1280).rect.width, tile(720, 1280).rect.height), (704, 396), "{name}");
    }
    assert!(arrange("grid", &Scene::default(), Duration::ZERO).tiles.is_empty());
}

#[test]
fn a_shared_screen_takes_the_stage_whole_and_the_owner_stays() {
    for name in ["grid", "speaker", "presentation", "pip", "single-speaker"] {
        let arrangement = arrange(name, &with_share(room(3), 2), Duration::ZERO);
        let stage = &arrangement.tiles[0];
        assert_eq!((&stage.source, stage.fit), (&SourceId::screenshare(peer(2)), Fit::Contain), "{name}");
        let cameras = match name {
            "single-speaker" => 0,
            "pip" => 1,
            _ => 3,
        };
        assert_eq!(arrangement.tiles.iter().filter(|tile| tile.fit == Fit::Cover).count(), cameras, "{name}");
    }
    // Of two screens the newer one is on the stage and the older one is first beside it.
    let two = arrange("presentation", &with_share(with_share(room(2), 0), 1), Duration::ZERO);
    assert_eq!(shown(&two), ["peer-1", "peer-0", "peer-0", "peer-1"]);
}

#[test]
fn hidden_ones_are_nowhere() {
    let mut scene = with_share(room(4), 1);
    scene.participants[1].hidden = true;
    scene.active_speaker = Some(peer(1));
    for name in NAMES {
        assert!(!shown(&arrange(name, &scene, Duration::ZERO)).contains(&"peer-1"), "{name}");
    }
}

#[test]
fn everybody_has_a_turn_and_who_speaks_is_on_every_page() {
    for (name, count) in [("grid", 60), ("speaker", 23), ("presentation", 30), ("pip", 7)] {
        let mut scene = room(count);
        scene.active_speaker = Some(peer(count - 1));
        let mut seen = BTreeSet::new();
        let mut sizes = BTreeSet::new();
        for turn in 0..count as u32 {
            let arrangement = arrange(name, &scene, PAGE * turn);
            let page = shown(&arrangement);
            assert!(page.contains(&peer(count - 1).as_str()), "{name}");
            assert_eq!(page.len(), page.iter().collect::<BTreeSet<_>>().len(), "{name}: somebody is there twice");
            assert_eq!(arrangement.overlays.len(), 1, "{name}: the page's number");
            sizes.insert(arrangement.tiles.len());
            seen.extend(arrangement.tiles.into_iter().map(|tile| tile.source));
        }
        assert_eq!((seen.len(), sizes.len()), (count, 1), "{name}");
    }
}

#[test]
fn the_stage_does_not_flap() {
    let layout = named("speaker");
    let mut memory = LayoutMemory::default();
    let mut scene = room(3);
    let mut changes = Vec::new();
    let mut at = |ms: u64, speaker: Option<usize>, scene: &mut Scene| {
        scene.active_speaker = speaker.map(peer);
        let arrangement = layout.arrange(scene, 1280, 720, &mut memory, Duration::from_millis(ms));
        let stage = arrangement.tiles[0].source.peer.clone();
        if changes.last().is_none_or(|(_, last)| *last != stage) {
            changes.push((ms, stage));
        }
    };
    // Somebody begins; two argue, every 300 ms another; silence; then one speaks on.
    for ms in (0..20_000).step_by(100) {
        let speaker = match ms {
            0..3000 => Some(0),
            3000..10_000 => Some((ms / 300 % 2) as usize),
            10_000..12_000 => None,
            _ => Some(2),
        };
        at(ms, speaker, &mut scene);
    }
    assert_eq!(changes, [(0, peer(0)), (12_700, peer(2))]);
}

#[test]
fn who_leaves_gives_up_the_stage_at_once() {
    let layout = named("single-speaker");
    let mut memory = LayoutMemory::default();
    let mut scene = room(3);
    scene.active_speaker = Some(peer(2));
    let mut stage = |scene: &Scene, ms| {
        layout.arrange(scene, 640, 360, &mut memory, Duration::from_millis(ms)).tiles[0].source.peer.clone()
    };
    assert_eq!(stage(&scene, 0), peer(2));
    scene.participants.pop();
    assert_eq!(stage(&scene, 20), peer(0));
    // Without word from the SFU the loudest one who speaks is it.
    scene.active_speaker = None;
    scene.participants[1].speaking = true;
    scene.participants[1].audio_level = 90;
    assert_eq!(stage(&scene, 30), peer(1));
}

#[test]
fn a_move_starts_and_ends_where_it_should_and_is_monotonous() {
    let mut transition = Transition::default();
    let (four, five) = (arrange("grid", &room(4), Duration::ZERO), arrange("grid", &room(5), Duration::ZERO));
    let ms = Duration::from_millis;
    assert_eq!(transition.step(four.clone(), ms(0)), four);
    assert_eq!(transition.step(four.clone(), ms(1000)), four);
    let begun = transition.step(five.clone(), ms(1033));
    assert_eq!(begun.tiles[0].rect, four.tiles[0].rect);
    let mut widths = vec![four.tiles[0].rect.width];
    for at in (1066..1333).step_by(33) {
        let moving = transition.step(five.clone(), ms(at));
        widths.push(moving.tiles[0].rect.width);
        assert!(
            moving
                .tiles
                .iter()
                .all(|tile| tile.rect == Rect::new(tile.rect.x, tile.rect.y, tile.rect.width, tile.rect.height))
        );
    }
    assert!(widths.is_sorted_by(|a, b| a >= b) && widths.iter().collect::<BTreeSet<_>>().len() > 5, "{widths:?}");
    assert_eq!(transition.step(five.clone(), ms(1333)), five);
    // A label that changes is no move.
    let mut renamed = five.clone();
    renamed.tiles[0].label = Some("New".to_owned());
    assert_eq!(transition.step(renamed.clone(), ms(1400)), renamed);
}

#[test]
fn a_cross_fade_of_the_whole_picture_does_not_dip() {
    let mut transition = Transition::default();
    let mut scene = room(2);
    scene.active_speaker = Some(peer(0));
    let first = arrange("single-speaker", &scene, Duration::ZERO);
    scene.active_speaker = Some(peer(1));
    let second = arrange("single-speaker", &scene, Duration::ZERO);
    let _ = transition.step(first, Duration::ZERO);
    let _ = transition.step(second.clone(), Duration::from_millis(100));
    let halfway = transition.step(second, Duration::from_millis(250));
    assert_eq!(shown(&halfway), ["peer-0", "peer-1"]);
    assert_eq!(halfway.tiles[0].opacity, 255);
    assert!((100..156).contains(&halfway.tiles[1].opacity));
}

#[test]
fn regions_are_drawn_as_written() {
    let layout = named(
        r#"{"resolution": "640x480", "trim": true,
            "regions": {
              "main": {"width": 640, "height": 480, "max_columns": 1, "max_rows": 1, "video_sources": ["peer-0", "*-screen"], "reuse": "show_newest"},
              "row": {"x_pos": 10, "y_pos": 360, "width": 620, "height": 110, "z_pos": 2, "max_rows": 1, "max_columns": 4,
                      "cells_excluded": [1], "video_sources": ["*-video"], "video_sources_excluded": ["peer-0"]}},
            "audio_sources_excluded": ["peer-3-audio", "*-screen"]}"#,
    );
    let mut memory = LayoutMemory::default();
    let arrangement = layout.arrange(&room(6), 1280, 960, &mut memory, Duration::ZERO);
    // Four columns, one of them left free: three of five guests, the first.
    assert_eq!(shown(&arrangement), ["peer-0", "peer-1", "peer-2", "peer-3"]);
    assert_eq!(arrangement.tiles[0].rect, Rect::new(0, 0, 1280, 960));
    let row: Vec<_> = arrangement.tiles[1..].iter().map(|tile| (tile.rect.x, tile.rect.y, tile.z)).collect();
    assert_eq!((row[0].1, row[0].2), (720, 2));
    assert!(row[1].0 - row[0].0 > (row[2].0 - row[1].0) * 3 / 2, "the second cell is free: {row:?}");
    let shared = layout.arrange(&with_share(room(2), 1), 1280, 960, &mut memory, Duration::ZERO);
    assert_eq!(shared.tiles[0].source, SourceId::screenshare(peer(1)));
    assert!(layout.document().is_some_and(|document| document.trim() && document.resolution() == Some((640, 480))));
    assert!(layout.hears(&peer(1), TrackKind::Audio));
    assert!(!layout.hears(&peer(3), TrackKind::Audio));
    assert!(!layout.hears(&peer(1), TrackKind::Screenshare));
    // The value of Twilio's parameter alone, in pixels of the canvas.
    assert!(parse(r#"{"grid": {"max_rows": 3, "video_sources": ["*"]}}"#).is_ok());
}

#[test]
fn a_region_that_rotates_shows_everybody_in_turn() {
    let layout =
        named(r#"{"VideoLayout": {"row": {"max_columns": 3, "max_rows": 1, "reuse": "rotate"}}, "Trim": false}"#);
    let mut memory = LayoutMemory::default();
    let pages: Vec<BTreeSet<_>> = (0..4)
        .map(|turn| layout.arrange(&room(7), 640, 360, &mut memory, PAGE * turn + Duration::from_secs(1)))
        .map(|arrangement| shown(&arrangement).iter().map(|peer| (*peer).to_owned()).collect())
        .collect();
    assert!(pages.iter().all(|page| page.len() == 3), "{pages:?}");
    assert_eq!(pages[..3].iter().flatten().collect::<BTreeSet<_>>().len(), 7);
    assert_eq!(pages[3], pages[0]);
}

#[test]
fn a_cell_that_is_not_reused_stays_empty() {
    let layout = named(r#"{"regions": {"all": {"max_columns": 2, "max_rows": 2, "reuse": "none"}}}"#);
    let mut memory = LayoutMemory::default();
    let mut scene = room(3);
    let before = layout.arrange(&scene, 640, 360, &mut memory, Duration::ZERO);
    scene.participants.remove(0);
    scene.participants.push(room(4).participants.remove(3));
    let after = layout.arrange(&scene, 640, 360, &mut memory, Duration::ZERO);
    assert_eq!(shown(&after), ["peer-1", "peer-2", "peer-3"]);
    assert_eq!(before.tiles[1].rect, after.tiles[0].rect);
}

#[test]
fn what_cannot_be_drawn_is_refused_with_its_path() {
    let many: String = (0..101).map(|index| format!("\"r{index}\": {{}},")).collect();
    let many = format!("{{\"regions\": {{{}}}}}", many.trim_end_matches(','));
    for (text, start) in [
        ("{", "layout: this is not JSON"),
        ("{}", "regions: it is missing"),
        (r#"{"regions": {}}"#, "regions: 0 regions"),
        (many.as_str(), "regions: 101 regions"),
        (r#"{"regions": []}"#, "regions: it is not an object"),
        (r#"{"regions": {"main": {"width": 0}}}"#, "regions.main.width: 0 is not a whole number from 2"),
        (r#"{"regions": {"main": {"width": 1e9}}}"#, "regions.main.width: 1000000000.0 is not"),
        (r#"{"regions": {"main": {"x_pos": -1}}}"#, "regions.main.x_pos: -1 is not"),
        (r#"{"regions": {"main": {"z_pos": 100}}}"#, "regions.main.z_pos: 100 is not"),
        (r#"{"regions": {"main": {"z_post": 1}}}"#, "regions.main.z_post: no such field; there are x_pos"),
        (r#"{"main": {"colour": 1}}"#, "regions.main.colour: no such field"),
        (r#"{"regions": {"a": {}}, "sound": 1}"#, "sound: no such field"),
        (r#"{"regions": {"a": {"reuse": "last"}}}"#, "regions.a.reuse: \"last\" is not `none`"),
        (r#"{"regions": {"a": {"video_sources": "*"}}}"#, "regions.a.video_sources: \"*\" is not a list"),
        (
            r#"{"regions": {"a": {"video_sources": ["x", ""]}}}"#,
            "regions.a.video_sources[1]: \"\" is not a source's name",
        ),
        (r#"{"regions": {"a": {"cells_excluded": [1, -2]}}}"#, "regions.a.cells_excluded[1]: -2 is not"),
        (r#"{"regions": {"a": 5}}"#, "regions.a: it is not a region"),
        (r#"{"regions": {"a": {}}, "resolution": "1280*720"}"#, "resolution: \"1280*720\" is not"),
        (r#"{"regions": {"a": {}}, "trim": "yes"}"#, "trim: \"yes\" is not true or false"),
        (
            r#"{"resolution": "640x480", "regions": {"a": {"x_pos": 600, "width": 100}}}"#,
            "regions.a.width: 100 from x_pos 600 is beyond a canvas of 640x480; at most 40 fit",
        ),
        (r#"{"resolution": "640x480", "regions": {"a": {"y_pos": 480}}}"#, "regions.a.y_pos: 480 is not on a canvas"),
        (
            r#"{"resolution": "640x480", "regions": {"a": {}, "b": {"x_pos": 320}}}"#,
            "regions.b.z_pos: it overlaps region `a` and both are at 0",
        ),
    ] {
        let error = document_error(text);
        assert!(error.starts_with(start), "{text}\ngave {error}");
        assert!(error.len() < 400, "{error}");
    }
    assert!(document_error(&format!("{{{}", "x".repeat(70_000))).starts_with("layout: 70001 bytes are too many"));
    let in_pixels = named(r#"{"regions": {"a": {"width": 800}}}"#);
    assert!(in_pixels.check(1280, 720).is_ok());
    assert!(in_pixels.check(640, 360).is_err());
    // Drawn there all the same, it is left out.
    assert!(in_pixels.arrange(&room(2), 640, 360, &mut LayoutMemory::default(), Duration::ZERO).tiles.is_empty());
}

#[test]
fn names_that_are_nobodys_are_refused_with_their_path() {
    let recording = RecordingId::new("r-1").expect("valid");
    let peers =
        |names: &[&str]| -> BTreeSet<_> { names.iter().map(|name| PeerId::new(*name).expect("valid")).collect() };
    let three = peers(&["alice", "chidi", "会議"]);
    let refused = |text: &str, peers: &BTreeSet<PeerId>| {
        named(text).check_sources(&recording, peers).err().map(|error| error.to_string())
    };
    for text in [
        "grid",
        r#"{"regions": {"main": {}}}"#,
        r#"{"regions": {"main": {"video_sources": ["alice", "chidi-screen", "会議-video", "b*", "*-screen"]}}}"#,
        r#"{"regions": {"main": {"video_sources_excluded": ["alice-audio"]}}, "audio_sources": ["chidi-audio", "*"]}"#,
    ] {
        assert_eq!(refused(text, &three), None, "{text}");
    }
    for (text, expected) in [
        (
            r#"{"regions": {"back": {"z_pos": -1}, "main": {"video_sources": ["alice", "bob"]}}}"#,
            r#"regions.main.video_sources[1]: nobody in recording r-1 is or publishes "bob"; it has alice, chidi, 会議"#,
        ),
        (
            r#"{"regions": {"main": {"video_sources_excluded": ["alice-cam"]}}}"#,
            r#"regions.main.video_sources_excluded[0]: nobody in recording r-1 is or publishes "alice-cam"; it has"#,
        ),
        (r#"{"regions": {"main": {}}, "audio_sources": ["*", "-audio"]}"#, "audio_sources[1]: nobody in recording"),
        (
            r#"{"regions": {"main": {}}, "audio_sources_excluded": ["al\u001b[2Jice\""]}"#,
            r#"audio_sources_excluded[0]: nobody in recording r-1 is or publishes "al[2Jice\"…";"#,
        ),
    ] {
        let error = refused(text, &three).expect(text);
        assert!(error.starts_with(expected), "{text}\ngave {error}");
    }
    let bob = r#"{"regions": {"main": {"video_sources": ["bob"]}}}"#;
    assert!(refused(bob, &peers(&[])).expect("nobody").ends_with("; there was nobody"));
    let many: Vec<_> = (0..4000).map(|index| format!("{index:04}{}", "x".repeat(150))).collect();
    let error = refused(bob, &peers(&many.iter().map(String::as_str).collect::<Vec<_>>())).expect("nobody");
    assert!(error.ends_with(" and 3995 more") && error.len() < 600, "{error}");
}

/// Even rows of equal tiles: the gaps between neighbours, and the shape.
fn check_grid(arrangement: &Arrangement, canvas: Rect) -> Result<(), TestCaseError> {
    let tiles: Vec<_> = arrangement.tiles.iter().map(|tile| tile.rect).collect();
    let Some(first) = tiles.first() else { return Ok(()) };
    let mut gaps = BTreeSet::new();
    for (index, tile) in tiles.iter().enumerate() {
        prop_assert!(canvas.contains(tile), "{tile:?} is outside");
        prop_assert_eq!((tile.width, tile.height), (first.width, first.height));
        prop_assert!([tile.x, tile.y, tile.width, tile.height].iter().all(|side| side % 2 == 0));
        for other in &tiles[..index] {
            prop_assert!(!tile.overlaps(other), "{tile:?} and {other:?}");
            if other.y == tile.y && index > 0 && tiles[index - 1] == *other {
                gaps.insert(tile.x - other.right());
            }
        }
    }
    let rows: BTreeSet<_> = tiles.iter().map(|tile| tile.y).collect();
    gaps.extend(rows.iter().zip(rows.iter().skip(1)).map(|(above, below)| below - above - first.height));
    prop_assert!(gaps.len() <= 1, "gutters differ: {gaps:?}");
    // Rounding to even sides costs at most two pixels of height.
    if tiles.len() > 1 {
        prop_assert!((first.width * 9).abs_diff(first.height * 16) <= 32, "{first:?} is not 16:9");
    }
    for row in rows {
        let row: Vec<_> = tiles.iter().filter(|tile| tile.y == row).collect();
        let (left, right) = (row[0].x, canvas.width - row[row.len() - 1].right());
        prop_assert!(left.abs_diff(right) <= 2, "a row is not centred: {left} and {right}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn grids_are_even(count in 1_usize..=60, width in 90_u32..1920, height in 90_u32..1920, t in 0_u64..100) {
        let (width, height) = (width & !1, height & !1);
        let canvas = Rect::new(0, 0, width, height);
        let mut memory = LayoutMemory::default();
        let arrangement = named("grid").arrange(&room(count), width, height, &mut memory, Duration::from_secs(t));
        check_grid(&arrangement, canvas)?;
        prop_assert!(!arrangement.tiles.is_empty());
    }

    #[test]
    fn every_layout_stays_inside_any_canvas(
        name in proptest::sample::select(&NAMES[..]), count in 0_usize..40, shares in 0_usize..3,
        width in 0_u32..2000, height in 0_u32..2000,
    ) {
        let scene = (0..shares.min(count)).fold(room(count), with_share);
        let layout = named(name);
        let arrangement = layout.arrange(&scene, width, height, &mut LayoutMemory::default(), Duration::from_secs(33));
        let canvas = Rect::new(0, 0, width, height);
        for (index, tile) in arrangement.tiles.iter().enumerate() {
            prop_assert!(canvas.contains(&tile.rect) && !tile.rect.is_empty());
            for other in &arrangement.tiles[..index] {
                prop_assert!(other.z != tile.z || !other.rect.overlaps(&tile.rect), "{:?} {:?}", other.rect, tile.rect);
            }
        }
    }

    #[test]
    fn no_document_makes_it_panic(text in "\\{\"(regions|main)\":.{0,80}\\}|\\PC{0,60}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_region_that_is_accepted_can_be_drawn(
        x in 0_u32..700, y in 0_u32..400, width in 0_u32..700, height in 0_u32..400,
        columns in 0_u32..2000, rows in 0_u32..2000,
        excluded in proptest::collection::vec(0_u32..30, 0..30),
        reuse in proptest::sample::select(&["none", "show_oldest", "show_newest", "rotate"][..]), count in 0_usize..40,
    ) {
        let text = serde_json::json!({"regions": {"r": {
            "x_pos": x, "y_pos": y, "width": width, "height": height, "max_columns": columns, "max_rows": rows,
            "cells_excluded": excluded, "reuse": reuse,
        }}}).to_string();
        let Ok(layout) = parse(&text) else { return Ok(()) };
        let region = Rect::new(x, y, width, height);
        let arrangement = layout.arrange(&room(count), 640, 360, &mut LayoutMemory::default(), Duration::ZERO);
        for (index, tile) in arrangement.tiles.iter().enumerate() {
            prop_assert!(region.contains(&tile.rect) && !tile.rect.is_empty());
            prop_assert!(arrangement.tiles[..index].iter().all(|other| !other.rect.overlaps(&tile.rect)));
        }
    }
}
