//! Every layout against its golden picture in `golden/`; `ROOMREEL_BLESS=1` draws them anew.

mod scenes;

use std::path::Path;

/// Golden pictures are a quarter of the canvas: what a person sees, not what a font's hinting does.
const REDUCTION: usize = 4;
/// Mean difference of a whole picture, of 255.
const MAX_MEAN: f32 = 1.0;
/// Mean difference of a block of [`BLOCK`] pixels squared: a label in another font stays below, a tile that moved does not.
const MAX_BLOCK_MEAN: f32 = 40.0;
const BLOCK: usize = 20;

#[test]
fn every_layout_looks_as_it_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let is_blessing = std::env::var_os("ROOMREEL_BLESS").is_some();
    let mut wrong = Vec::new();
    for case in scenes::cases() {
        let path = folder.join(format!("{}.png", case.name));
        let (width, height, rgb) = scenes::to_rgb(&scenes::render(&case), REDUCTION);
        if is_blessing {
            scenes::write_png(&path, width, height, &rgb);
            continue;
        }
        let golden = read_png(&path);
        assert_eq!(golden.len(), rgb.len(), "{} has another size", case.name);
        let mean = mean_difference(&golden, &rgb, 0..width * height);
        let worst = (0..height / BLOCK * (width / BLOCK))
            .map(|block| {
                let (left, top) = (block % (width / BLOCK) * BLOCK, block / (width / BLOCK) * BLOCK);
                let pixels = (0..BLOCK * BLOCK).map(|at| (top + at / BLOCK) * width + left + at % BLOCK);
                mean_difference(&golden, &rgb, pixels)
            })
            .fold(0.0, f32::max);
        if mean > MAX_MEAN || worst > MAX_BLOCK_MEAN {
            let seen = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.png", case.name));
            scenes::write_png(&seen, width, height, &rgb);
            wrong.push(format!("{}: mean {mean:.2}, worst block {worst:.1}, see {}", case.name, seen.display()));
        }
    }
    assert!(wrong.is_empty(), "pictures differ from golden/:\n{}", wrong.join("\n"));
}

fn mean_difference(golden: &[u8], seen: &[u8], pixels: impl IntoIterator<Item = usize>) -> f32 {
    let (mut sum, mut count) = (0_u32, 0_u32);
    for at in pixels {
        let parts = golden[at * 3..at * 3 + 3].iter().zip(&seen[at * 3..at * 3 + 3]);
        sum += parts.map(|(golden, seen)| u32::from(golden.abs_diff(*seen))).sum::<u32>();
        count += 3;
    }
    sum as f32 / count.max(1) as f32
}

fn read_png(path: &Path) -> Vec<u8> {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a small picture")];
    let info = reader.next_frame(&mut pixels).expect("a whole PNG");
    pixels.truncate(info.buffer_size());
    pixels
}
