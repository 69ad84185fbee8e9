//! Rooms with synthetic pictures, drawn in every layout: what the golden pictures and the contact sheet show.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use roomreel_compositor::frame::{Canvas, Picture};
use roomreel_compositor::layout::{
    Camera, Corner, LayoutMemory, Microphone, Participant, Scene, Screenshare, SourceId, SourceKind, parse,
};
use roomreel_compositor::paint::{Painter, wear};
use roomreel_shared::id::PeerId;
use roomreel_shared::look::{Clock, EncodedPicture, Look, Watermark};
use roomreel_shared::time::RoomTime;

/// A room, a layout, a canvas and what it wears.
pub struct Case {
    pub name: &'static str,
    pub layout: String,
    pub scene: Scene,
    pub size: (u32, u32),
    pub look: Look,
}

const NAMES: [&str; 25] = [
    "Amara Okafor",
    "Jonas Lindqvist",
    "محمد العلي",
    "Priya Raman",
    "王小明",
    "किरण देशपांडे",
    "Maximiliane von Hohenstein-Bartenstein",
    "Zoë Brontë",
    "Иван Петров",
    "Sofia Almeida",
    "Ευγενία Παπαδοπούλου",
    "שרה כהן",
    "Tom",
    "สมชาย ใจดี",
    "김민준",
    "Léa Fournier",
    "Kwame Mensah",
    "Nguyễn Văn An",
    "Olga Nowak",
    "Diego Fernández",
    "Aylin Yılmaz",
    "Hana Novák",
    "Liam O'Connor",
    "Ingrid Berg",
    "Rui Tanaka",
];

/// The first `count` of a room in which one speaks, some are muted, and some have their camera off.
pub fn room(count: usize) -> Scene {
    let participants: Vec<_> = (0..count)
        .map(|index| Participant {
            peer: PeerId::new(format!("peer-{index}")).expect("it can be spelled"),
            display_name: NAMES[index % NAMES.len()].to_owned(),
            camera: if index % 5 == 3 { Camera::Off } else { Camera::On },
            microphone: if index % 3 == 2 { Microphone::Muted } else { Microphone::On },
            speaking: index == 1,
            audio_level: 60,
            hidden: false,
        })
        .collect();
    let active_speaker = participants.get(1).map(|participant| participant.peer.clone());
    Scene { participants, active_speaker, ..Scene::default() }
}

pub fn sharing(mut scene: Scene) -> Scene {
    let owner = scene.participants[0].peer.clone();
    scene.screenshares.push(Screenshare { source: SourceId::screenshare(owner.clone()), owner });
    scene
}

const REGIONS: &str = r#"{
    "resolution": "1280x720",
    "regions": {
        "stage": {"x_pos": 0, "y_pos": 0, "width": 1280, "height": 720, "max_columns": 1, "max_rows": 1, "video_sources": ["peer-0"]},
        "guests": {"x_pos": 860, "y_pos": 40, "width": 380, "height": 640, "z_pos": 1, "max_columns": 1, "max_rows": 3,
                   "video_sources": ["*-video"], "video_sources_excluded": ["peer-0"], "reuse": "show_newest"}
    }
}"#;

const UPRIGHT_REGIONS: &str = r#"{
    "resolution": "720x1280",
    "regions": {
        "stage": {"width": 720, "height": 800, "max_columns": 1, "max_rows": 1, "video_sources": ["peer-1"]},
        "guests": {"y_pos": 808, "width": 720, "height": 472, "max_columns": 2, "max_rows": 2, "cells_excluded": [1],
                   "video_sources_excluded": ["peer-1"]}
    }
}"#;

/// Every picture worth looking at.
pub fn cases() -> Vec<Case> {
    const WIDE: (u32, u32) = (1280, 720);
    const TALL: (u32, u32) = (720, 1280);
    let dressed = |name, layout: &str, scene, size, look| Case { name, layout: layout.to_owned(), scene, size, look };
    let case = |name, layout, scene, size| dressed(name, layout, scene, size, Look::default());
    vec![
        case("grid-1", "grid", room(1), WIDE),
        case("grid-2", "grid", room(2), WIDE),
        case("grid-3", "grid", room(3), WIDE),
        case("grid-4", "grid", room(4), WIDE),
        case("grid-5-light", "grid-light", room(5), WIDE),
        case("grid-9", "grid", room(9), WIDE),
        case("grid-16", "grid", room(16), WIDE),
        case("grid-25", "grid", room(25), WIDE),
        case("grid-40-page", "grid-light", room(40), WIDE),
        case("grid-screenshare", "grid", sharing(room(4)), WIDE),
        case("speaker-2", "speaker", room(2), WIDE),
        case("speaker-5", "speaker", room(5), WIDE),
        case("speaker-9-light", "speaker-light", room(9), WIDE),
        case("single-speaker", "single-speaker", room(5), WIDE),
        case("single-speaker-screenshare-light", "single-speaker-light", sharing(room(3)), WIDE),
        case("pip-2", "pip", room(2), WIDE),
        case("pip-screenshare-light", "pip-light", sharing(room(3)), WIDE),
        case("presentation-5", "presentation", sharing(room(5)), WIDE),
        case("presentation-9-light", "presentation-light", sharing(room(9)), WIDE),
        case("regions", REGIONS, room(6), WIDE),
        case("portrait-grid-1", "grid", room(1), TALL),
        case("portrait-grid-2", "grid", room(2), TALL),
        case("portrait-grid-5", "grid", room(5), TALL),
        case("portrait-grid-9-light", "grid-light", room(9), TALL),
        case("portrait-speaker-1", "speaker", room(1), TALL),
        case("portrait-speaker-6", "speaker", room(6), TALL),
        case("portrait-presentation-5", "presentation", sharing(room(5)), TALL),
        case("portrait-pip-2", "pip", room(2), TALL),
        case("portrait-speaker-4-light", "speaker-light", room(4), TALL),
        case("portrait-single-speaker", "single-speaker", room(3), TALL),
        case("portrait-single-speaker-screenshare-light", "single-speaker-light", sharing(room(3)), TALL),
        case("portrait-presentation-3-light", "presentation-light", sharing(room(3)), TALL),
        case("portrait-pip-screenshare-light", "pip-light", sharing(room(3)), TALL),
        case("portrait-regions", UPRIGHT_REGIONS, room(6), TALL),
        dressed("grid-6-overlays", "grid", room(6), WIDE, overlays()),
        dressed("grid-3-backdrop", "grid", room(3), WIDE, backdrop()),
    ]
}

/// A clock and a watermark's text.
fn overlays() -> Look {
    Look {
        watermark: Some(Watermark {
            text: Some("Example Ltd · confidential".to_owned()),
            corner: Corner::BottomRight,
            ..Watermark::default()
        }),
        clock: Some(Clock::default()),
        ..Look::default()
    }
}

/// A picture behind everything, and a logo over it.
fn backdrop() -> Look {
    let dawn = |x: f32, y: f32| [0.16 + 0.7 * y * x, 0.2 + 0.28 * y, 0.42 - 0.1 * y, 1.0];
    let logo = |x: f32, y: f32| {
        let is_ink = ((x * 3.0 - 0.5).hypot(y - 0.5) - 0.36).abs() < 0.1 || (x > 0.4 && (y * 3.0).fract() < 0.5);
        [1.0, 1.0, 1.0, if is_ink { 1.0 } else { 0.0 }]
    };
    Look {
        backdrop: Some(encoded(64, 36, dawn)),
        watermark: Some(Watermark { picture: Some(encoded(180, 60, logo)), ..Watermark::default() }),
        names: false,
        ..Look::default()
    }
}

/// A picture from a function of place to colour and opacity (0 to 1 each), as looks bring them.
fn encoded(width: usize, height: usize, colour: impl Fn(f32, f32) -> [f32; 4]) -> EncodedPicture {
    let at = |i: usize| colour((i % width) as f32 / width as f32, (i / width) as f32 / height as f32);
    let pixels: Vec<u8> = (0..width * height).flat_map(at).map(|part| (part * 255.0).round() as u8).collect();
    let mut file = Vec::new();
    encode_png(&mut file, width, height, png::ColorType::Rgba, &pixels);
    EncodedPicture(format!("data:image/png;base64,{}", STANDARD.encode(file)))
}

/// Draws it.
pub fn render(case: &Case) -> Canvas {
    let (width, height) = case.size;
    let layout = parse(&case.layout).expect("a layout of the table");
    let mut arrangement = layout.arrange(&case.scene, width, height, &mut LayoutMemory::default(), Duration::ZERO);
    wear(&case.look, &mut arrangement, Duration::from_secs(3725), RoomTime::from_micros(0));
    let pictures: HashMap<SourceId, Picture> =
        arrangement.tiles.iter().map(|tile| (tile.source.clone(), picture(&tile.source))).collect();
    let mut canvas = Canvas::new(width as usize, height as usize);
    let mut painter = Painter::dressed(width, height, &case.look).expect("its pictures can be read");
    painter.paint(&mut canvas, &arrangement, &|source| pictures.get(source).cloned());
    canvas
}

/// What the source shows: a person before a coloured wall, or a page of text. Some cameras are 4:3, some upright.
pub fn picture(source: &SourceId) -> Picture {
    let index: usize = source.peer.as_str().trim_start_matches("peer-").parse().unwrap_or(0);
    match source.kind {
        SourceKind::Screenshare => draw_picture(1440, 900, page),
        SourceKind::Camera => {
            let (width, height) = match index % 6 {
                2 => (640, 480),
                4 => (360, 640),
                _ => (640, 360),
            };
            draw_picture(width, height, |x, y, aspect| person(index, x, y, aspect))
        }
    }
}

/// A picture from a function of place (0 to 1 each, and the aspect) to sRGB (0 to 1).
fn draw_picture(width: usize, height: usize, colour: impl Fn(f32, f32, f32) -> [f32; 3]) -> Picture {
    let aspect = width as f32 / height as f32;
    let at = |x: usize, y: usize| colour((x as f32 + 0.5) / width as f32, (y as f32 + 0.5) / height as f32, aspect);
    let luma = (0..width * height).map(|i| {
        let [r, g, b] = at(i % width, i / width);
        (16.0 + 65.5 * r + 128.6 * g + 25.0 * b).round() as u8
    });
    let chroma = |weights: [f32; 3]| {
        (0..width * height / 4)
            .map(|i| {
                let [r, g, b] = at(i % (width / 2) * 2, i / (width / 2) * 2);
                (128.0 + weights[0] * r + weights[1] * g + weights[2] * b).round() as u8
            })
            .collect()
    };
    let planes = [luma.collect(), chroma([-37.8, -74.2, 112.0]), chroma([112.0, -93.8, -18.2])];
    Picture::from_planes(width, height, planes).expect("the planes have the picture's size")
}

fn person(index: usize, x: f32, y: f32, aspect: f32) -> [f32; 3] {
    let hue = index as f32 * 0.37;
    let wall = |phase: f32| 0.5 + 0.22 * ((hue + phase) * std::f32::consts::TAU).cos();
    let light = 1.15 - 0.5 * y - 0.25 * (x - 0.35).abs();
    let wall = [0.0, 0.33, 0.67].map(|phase| (wall(phase) * light).clamp(0.0, 1.0));
    let unit = aspect.min(1.0);
    let (dx, dy) = ((x - 0.5) * aspect / unit, y - 0.42);
    let (head, shoulders) = (dx.hypot(dy / 1.25) < 0.14, (dx / 0.34).hypot((y - 1.05) / 0.42) < 1.0);
    let skin = [[0.93, 0.76, 0.65], [0.55, 0.38, 0.28], [0.78, 0.58, 0.44], [0.36, 0.24, 0.18]][index % 4];
    let shirt = [0.33, 0.67, 0.0].map(|phase| 0.35 + 0.25 * ((hue * 1.7 + phase) * std::f32::consts::TAU).cos());
    let hair = dx.hypot((dy + 0.03) / 1.25) < 0.15 && dy < -0.06;
    match (hair, head, shoulders) {
        (true, ..) => [0.16, 0.12, 0.1],
        (_, true, _) => skin,
        (_, _, true) => shirt,
        _ => wall,
    }
}

fn page(x: f32, y: f32, aspect: f32) -> [f32; 3] {
    if y < 0.08 {
        return if (x * aspect - 0.06).hypot(y - 0.04) < 0.018 { [0.95, 0.35, 0.3] } else { [0.2, 0.25, 0.35] };
    }
    if x < 0.2 {
        return [0.93, 0.94, 0.96];
    }
    let (row, in_row) = ((y * 26.0) as usize, (y * 26.0).fract());
    let line_end = [0.9, 0.86, 0.92, 0.6, 0.0, 0.88, 0.93, 0.84, 0.45, 0.0][row % 10];
    let is_word = ((x * 60.0 + row as f32 * 3.7).sin() + (x * 23.0).sin()).abs() > 0.25;
    if (0.3..0.62).contains(&in_row) && (0.26..line_end).contains(&x) && is_word {
        [0.25, 0.28, 0.33]
    } else {
        [1.0; 3]
    }
}

/// The canvas in sRGB, `1 / by` of its size: each pixel the mean of a block.
pub fn to_rgb(canvas: &Canvas, by: usize) -> (usize, usize, Vec<u8>) {
    let (width, height) = (canvas.width() / by, canvas.height() / by);
    let sample = |index: usize, x: usize, y: usize| f32::from(canvas.plane(index)[y * canvas.stride(index) + x]);
    let pixel = |x: usize, y: usize| {
        let (luma, blue, red) =
            (sample(0, x, y) - 16.0, sample(1, x / 2, y / 2) - 128.0, sample(2, x / 2, y / 2) - 128.0);
        let luma = luma * 255.0 / 219.0;
        [luma + 1.596 * red, luma - 0.392 * blue - 0.813 * red, luma + 2.017 * blue].map(|part| part.clamp(0.0, 255.0))
    };
    let mut rgb = Vec::with_capacity(width * height * 3);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let mut sum = [0.0; 3];
        for at in 0..by * by {
            let block = pixel(x * by + at % by, y * by + at / by);
            sum.iter_mut().zip(block).for_each(|(sum, part)| *sum += part);
        }
        rgb.extend(sum.map(|part| (part / (by * by) as f32).round() as u8));
    }
    (width, height, rgb)
}

/// Writes sRGB as a PNG.
pub fn write_png(path: &std::path::Path, width: usize, height: usize, rgb: &[u8]) {
    let file = std::fs::File::create(path).expect("the folder can be written to");
    encode_png(file, width, height, png::ColorType::Rgb, rgb);
}

fn encode_png(to: impl std::io::Write, width: usize, height: usize, colour: png::ColorType, pixels: &[u8]) {
    let mut encoder = png::Encoder::new(to, width as u32, height as u32);
    encoder.set_color(colour);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header().expect("a file takes a header");
    writer.write_image_data(pixels).expect("as many pixels as the header says");
}
