//! What a composite wears whatever its layout: the ground behind the tiles and the watermark's picture.
//!
//! Owns reading the pictures that a look brings, which are anybody's bytes, and their scaling. Does not own where overlays stand.

use std::io::Cursor;
use std::time::Duration;

use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat, ImageReader, Limits, RgbImage};
use roomreel_shared::look::{ClockTime, EncodedPicture, Look, Watermark, parse_colour};
use roomreel_shared::time::RoomTime;

use super::colour::Rgb;
use super::stamp::{Sheet, Stamp};
use super::{scale, surface};
use crate::frame::{Canvas, Picture};
use crate::layout::{Arrangement, Fit, Mark as OverlayMark, Overlay, Rect};

/// Longest side of a look's picture.
const MAX_SIDE: u32 = 4096;
/// Most memory a look's picture may take while it is read.
const MAX_DECODED: u64 = 128 << 20;

/// Why a look cannot be worn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("composite {field}: {why}")]
pub struct Error {
    /// Its path in the composite.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

/// Puts on an arrangement what a look says, `offset` into the recording, which is at `now` on the room's clock.
pub fn wear(look: &Look, arrangement: &mut Arrangement, offset: Duration, now: RoomTime) {
    if !look.names {
        arrangement.tiles.iter_mut().for_each(|tile| tile.label = None);
    }
    if let Some(watermark) = &look.watermark {
        arrangement.overlays.push(match &watermark.text {
            Some(text) => Overlay::text(text, watermark.corner),
            None => Overlay { mark: OverlayMark::Watermark, corner: watermark.corner },
        });
    }
    if let Some(clock) = look.clock {
        arrangement.overlays.push(match clock.shows {
            ClockTime::Elapsed => Overlay::clock(offset, clock.corner),
            ClockTime::Utc => {
                let second = now.as_micros().div_euclid(1_000_000).rem_euclid(86_400);
                let text = format!("{:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60);
                Overlay::text(text, clock.corner)
            }
        });
    }
}

/// What is behind the tiles.
#[derive(Default)]
pub(super) enum Ground {
    /// The theme's colour.
    #[default]
    Theme,
    Colour(Rgb),
    /// As large as the canvas.
    Picture(Box<Canvas>),
}

impl Ground {
    /// Brings it back within `rect`.
    pub fn lay(&self, canvas: &mut Canvas, rect: Rect, theme: Rgb) {
        match self {
            Self::Theme => surface::fill(canvas, rect, theme.to_yuv()),
            Self::Colour(colour) => surface::fill(canvas, rect, colour.to_yuv()),
            Self::Picture(ground) => surface::copy(ground, canvas, rect),
        }
    }
}

/// The watermark's picture, ready to be pressed.
pub(super) struct Mark {
    pub stamp: Stamp,
    /// Pixels.
    pub width: u32,
    pub height: u32,
}

/// The ground for a canvas of this size.
pub(super) fn ground(look: &Look, canvas: Rect) -> Result<Ground, Error> {
    if let Some(backdrop) = &look.backdrop {
        let picture = read(backdrop).map_err(|why| Error { field: "look.backdrop", why })?;
        let picture = to_picture(&picture.to_rgb8());
        let mut ground = Canvas::new(canvas.width as usize, canvas.height as usize);
        let placement = scale::placement(picture.width(), picture.height(), canvas, Fit::Cover)
            .ok_or_else(|| Error { field: "look.backdrop", why: "the picture is too small".to_owned() })?;
        scale::draw(&mut ground, &picture, placement);
        return Ok(Ground::Picture(Box::new(ground)));
    }
    let Some(colour) = &look.background else { return Ok(Ground::Theme) };
    let [r, g, b] = parse_colour(colour).map_err(|why| Error { field: "look.background", why })?;
    Ok(Ground::Colour(Rgb(r, g, b)))
}

/// The watermark's picture for a canvas of this size, if it has one.
pub(super) fn mark(watermark: &Watermark, canvas: Rect) -> Result<Option<Mark>, Error> {
    let Some(picture) = &watermark.picture else { return Ok(None) };
    let picture = read(picture).map_err(|why| Error { field: "look.watermark.picture", why })?;
    let width = (canvas.width * watermark.width().min(100) / 100).max(2);
    // No taller than a quarter of the canvas, however upright it is.
    let scaled = picture.resize(width, (canvas.height / 4).max(2), FilterType::Triangle).to_rgba8();
    let mut sheet = Sheet::new(scaled.width() as usize, scaled.height() as usize);
    let opacity = watermark.opacity().min(100) as f32 / 100.0;
    for (x, y, image::Rgba([r, g, b, alpha])) in scaled.enumerate_pixels() {
        sheet.over(x as i32, y as i32, Rgb(*r, *g, *b), f32::from(*alpha) / 255.0 * opacity);
    }
    let (width, height) = (sheet.width() as u32, sheet.height() as u32);
    Ok(Some(Mark { stamp: sheet.into_stamp(), width, height }))
}

fn read(picture: &EncodedPicture) -> Result<DynamicImage, String> {
    let bytes = picture.bytes()?;
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| format!("the picture: {error}"))?;
    match reader.format() {
        Some(ImageFormat::Png | ImageFormat::Jpeg) => {}
        _ => return Err("the picture is neither PNG nor JPEG".to_owned()),
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    reader.limits(limits);
    reader.decode().map_err(|error| format!("the picture cannot be read: {error}"))
}

/// BT.601 in limited range, each chroma value the mean of its four pixels.
fn to_picture(image: &RgbImage) -> Picture {
    let (width, height) = image.dimensions();
    let yuv = |x: u32, y: u32| {
        let image::Rgb([r, g, b]) = *image.get_pixel(x.min(width - 1), y.min(height - 1));
        Rgb(r, g, b).to_yuv()
    };
    let luma = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| yuv(x, y)[0]).collect();
    let chroma = |index: usize| {
        (0..height.div_ceil(2))
            .flat_map(|y| (0..width.div_ceil(2)).map(move |x| (2 * x, 2 * y)))
            .map(|(x, y)| {
                let block = [yuv(x, y), yuv(x + 1, y), yuv(x, y + 1), yuv(x + 1, y + 1)];
                (block.iter().map(|pixel| u16::from(pixel[index])).sum::<u16>().div_ceil(4)) as u8
            })
            .collect()
    };
    Picture::from_planes(width as usize, height as usize, [luma, chroma(1), chroma(2)])
        .expect("the planes are made for the size")
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use roomreel_shared::look::{Clock, Corner};

    use super::*;
    use crate::paint::Painter;

    fn encoded(image: &DynamicImage, format: ImageFormat) -> EncodedPicture {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("an image is written");
        let kind = if format == ImageFormat::Png { "png" } else { "jpeg" };
        EncodedPicture(format!("data:image/{kind};base64,{}", STANDARD.encode(bytes.into_inner())))
    }

    fn flat(width: u32, height: u32, pixel: [u8; 4]) -> DynamicImage {
        image::RgbaImage::from_pixel(width, height, image::Rgba(pixel)).into()
    }

    fn painted(look: &Look, arrangement: &Arrangement) -> Canvas {
        let mut canvas = Canvas::new(320, 180);
        Painter::dressed(320, 180, look).expect("a look").paint(&mut canvas, arrangement, &|_| None);
        canvas
    }

    fn luma(canvas: &Canvas, x: usize, y: usize) -> u8 {
        canvas.plane(0)[y * canvas.stride(0) + x]
    }

    #[test]
    fn the_ground_is_the_colour_or_the_picture() {
        let white = Rgb::WHITE.to_yuv()[0];
        let look = Look { background: Some("#ffffff".to_owned()), ..Look::default() };
        assert_eq!(luma(&painted(&look, &Arrangement::default()), 7, 9), white);
        for (format, pixel) in [(ImageFormat::Png, [200, 40, 90, 255]), (ImageFormat::Jpeg, [90, 200, 40, 255])] {
            let picture = DynamicImage::from(flat(64, 64, pixel).to_rgb8());
            let look = Look { backdrop: Some(encoded(&picture, format)), ..Look::default() };
            let expected = Rgb(pixel[0], pixel[1], pixel[2]).to_yuv()[0];
            assert!(luma(&painted(&look, &Arrangement::default()), 160, 90).abs_diff(expected) <= 2, "{format:?}");
        }
    }

    #[test]
    fn a_watermark_stands_in_its_corner_and_is_as_solid_as_asked() {
        let watermark = Watermark {
            picture: Some(encoded(&flat(40, 20, [255, 255, 255, 255]), ImageFormat::Png)),
            corner: Corner::BottomRight,
            width_percent: Some(25),
            opacity_percent: Some(50),
            ..Watermark::default()
        };
        let look = Look {
            background: Some("#000000".to_owned()),
            watermark: Some(watermark),
            clock: Some(Clock::default()),
            ..Look::default()
        };
        let mut arrangement = Arrangement::default();
        wear(&look, &mut arrangement, Duration::from_secs(61), RoomTime::from_micros(0));
        let canvas = painted(&look, &arrangement);
        let at = |x, y| luma(&canvas, x, y);
        assert!(at(280, 155).abs_diff(126) <= 2, "{}", at(280, 155));
        assert_eq!((at(20, 155), at(150, 90)), (16, 16));
    }

    #[test]
    fn clocks_tell_the_time_and_names_can_go() {
        let texts = |shows, offset, micros| {
            let look = Look { clock: Some(Clock { shows, corner: Corner::TopLeft }), ..Look::default() };
            let mut arrangement = Arrangement::default();
            wear(&look, &mut arrangement, Duration::from_secs(offset), RoomTime::from_micros(micros));
            arrangement.overlays.remove(0)
        };
        assert_eq!(texts(ClockTime::Elapsed, 3725, 0), Overlay::text("1:02:05", Corner::TopLeft));
        let noon = (20_000 * 86_400 + 12 * 3600 + 61) * 1_000_000 + 999_999;
        assert_eq!(texts(ClockTime::Utc, 0, noon), Overlay::text("12:01:01 UTC", Corner::TopLeft));
    }

    /// Pictures come from whoever may start a recording.
    #[test]
    fn hostile_pictures_are_refused() {
        let refusal = |bytes: &[u8]| {
            let picture = EncodedPicture(format!("data:image/png;base64,{}", STANDARD.encode(bytes)));
            let look = Look { backdrop: Some(picture), ..Look::default() };
            Painter::dressed(320, 180, &look).err().expect("refused").to_string()
        };
        assert!(refusal(b"GIF89a").contains("neither PNG nor JPEG"), "{}", refusal(b"GIF89a"));
        let mut png = Cursor::new(Vec::new());
        flat(5000, 2, [0; 4]).write_to(&mut png, ImageFormat::Png).expect("an image is written");
        let png = png.into_inner();
        assert!(refusal(&png).contains("look.backdrop: the picture cannot be read"), "{}", refusal(&png));
        assert!(refusal(&png[..40]).contains("cannot be read"));
    }
}
