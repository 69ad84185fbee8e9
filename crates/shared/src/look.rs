//! How a composite is dressed beyond its layout: background, watermark, clock, names.
//!
//! Owns what may be asked for and its limits. Does not own drawing, nor reading pictures (the compositor does, where a hostile one
//! can do no harm).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Longest picture, bytes as encoded: a job is kept in etcd, whose values are small, and there may be eight composites.
const MAX_PICTURE_BYTES: usize = 64 * 1024;
/// Longest text of a watermark, characters.
const MAX_TEXT: usize = 80;

/// How a composite is dressed. The default is the layout's theme, with names and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Look {
    /// Behind the tiles, in place of the theme's colour: `#rrggbb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<String>,
    /// Behind the tiles: fills the canvas, cropped and never stretched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backdrop: Option<EncodedPicture>,
    /// Over the tiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
    /// Over the tiles: what time it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// Tiles wear their participant's name.
    pub names: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { background: None, backdrop: None, watermark: None, clock: None, names: true }
    }
}

/// A corner of the canvas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "they say it")]
pub enum Corner {
    TopLeft,
    #[default]
    TopRight,
    BottomLeft,
    BottomRight,
}

/// A text or a picture over the tiles, one of both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Watermark {
    /// What it says; at most 80 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What it shows, with the picture's transparency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<EncodedPicture>,
    /// Where.
    pub corner: Corner,
    /// Of a picture: its width in percent of the canvas's, 1 to 50. Nothing is 12.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width_percent: Option<u32>,
    /// Of a picture: 1 is hardly there, 100 is solid. Nothing is 80.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opacity_percent: Option<u32>,
}

impl Watermark {
    /// A picture's width in percent of the canvas's.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width_percent.unwrap_or(12)
    }

    /// How solid a picture is, percent.
    #[must_use]
    pub fn opacity(&self) -> u32 {
        self.opacity_percent.unwrap_or(80)
    }
}

/// A clock over the tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Clock {
    /// Which time.
    pub shows: ClockTime,
    /// Where.
    pub corner: Corner,
}

/// What a clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ClockTime {
    /// Since the recording began: `h:mm:ss`.
    #[default]
    Elapsed,
    /// Of the day, as the room had it, in UTC: `hh:mm:ss UTC`.
    Utc,
}

/// A PNG or JPEG picture as a data URI: `data:image/png;base64,…`. It travels with what needs it, so that the same job gives the same
/// pixels later, and nothing is fetched from an address that a caller chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EncodedPicture(pub String);

impl EncodedPicture {
    /// The picture's bytes.
    ///
    /// # Errors
    /// Why there are none.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        let encoded = ["data:image/png;base64,", "data:image/jpeg;base64,"]
            .iter()
            .find_map(|prefix| self.0.strip_prefix(prefix))
            .ok_or("a picture is written data:image/png;base64,… or data:image/jpeg;base64,…")?;
        if encoded.len() > MAX_PICTURE_BYTES.div_ceil(3) * 4 {
            return Err(format!("the picture is longer than {} KiB", MAX_PICTURE_BYTES / 1024));
        }
        STANDARD.decode(encoded).map_err(|error| format!("the picture is not base64: {error}"))
    }
}

/// Reads `#rrggbb`.
///
/// # Errors
/// Why it is no colour.
pub fn parse_colour(text: &str) -> Result<[u8; 3], String> {
    let refuse = || format!("{text:?} is not a colour as #rrggbb");
    let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.is_ascii()).ok_or_else(refuse)?;
    let part = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok().filter(|_| !digits.contains('+'));
    match (part(0), part(2), part(4)) {
        (Some(r), Some(g), Some(b)) => Ok([r, g, b]),
        _ => Err(refuse()),
    }
}

impl Look {
    /// Checks what can be told without decoding a picture.
    ///
    /// # Errors
    /// The first field that cannot be, by its path in a composite, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let at = |path: &'static str| move |why: String| (path, why);
        if let Some(colour) = &self.background {
            parse_colour(colour).map_err(at("look.background"))?;
        }
        if let Some(picture) = &self.backdrop {
            picture.bytes().map_err(at("look.backdrop"))?;
        }
        let Some(watermark) = &self.watermark else { return Ok(()) };
        match (&watermark.text, &watermark.picture) {
            (Some(text), None) => {
                if text.trim().is_empty() || text.chars().count() > MAX_TEXT {
                    let why = format!("{} characters are not between 1 and {MAX_TEXT}", text.chars().count());
                    return Err(("look.watermark.text", why));
                }
                for (path, value) in [
                    ("look.watermark.width_percent", watermark.width_percent),
                    ("look.watermark.opacity_percent", watermark.opacity_percent),
                ] {
                    if value.is_some() {
                        return Err((path, "it is for pictures, and this watermark is a text".to_owned()));
                    }
                }
            }
            (None, Some(picture)) => {
                picture.bytes().map_err(at("look.watermark.picture"))?;
                for (path, value, most) in [
                    ("look.watermark.width_percent", watermark.width(), 50),
                    ("look.watermark.opacity_percent", watermark.opacity(), 100),
                ] {
                    if !(1..=most).contains(&value) {
                        return Err((path, format!("{value} is not between 1 and {most}")));
                    }
                }
            }
            _ => return Err(("look.watermark", "it is either a text or a picture".to_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(look: &str) -> String {
        let look: Look = serde_json::from_str(look).expect("a look");
        let (path, why) = look.check().expect_err("refused");
        format!("{path}: {why}")
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_path() {
        for (look, said) in [
            (r##"{"background":"#12345"}"##, "look.background: \"#12345\" is not a colour"),
            (r##"{"background":"#+1+1+1"}"##, "look.background: "),
            (r#"{"background":"red"}"#, "look.background: "),
            (r#"{"backdrop":"https://example.com/a.png"}"#, "look.backdrop: a picture is written data:image/png"),
            (r#"{"backdrop":"data:image/png;base64,?"}"#, "look.backdrop: the picture is not base64"),
            (r#"{"watermark":{}}"#, "look.watermark: it is either a text or a picture"),
            (r#"{"watermark":{"text":" "}}"#, "look.watermark.text: 1 characters"),
            (
                r#"{"watermark":{"text":"a","opacity_percent":50}}"#,
                "look.watermark.opacity_percent: it is for pictures",
            ),
            (
                r#"{"watermark":{"picture":"data:image/png;base64,AAAA","width_percent":90}}"#,
                "look.watermark.width_percent: 90 is not between 1 and 50",
            ),
        ] {
            assert!(refusal(look).starts_with(said), "{look}: {}", refusal(look));
        }
        let long = format!(r#"{{"backdrop":"data:image/jpeg;base64,{}"}}"#, "A".repeat(300 * 1024));
        assert_eq!(refusal(&long), "look.backdrop: the picture is longer than 64 KiB");
    }

    #[test]
    fn what_can_be_is_read_and_the_default_says_nothing() {
        let text = r##"{"background":"#0a0B0c","watermark":{"text":"Draft","corner":"bottom_left"},"clock":{"shows":"utc"},"names":false}"##;
        let look: Look = serde_json::from_str(text).expect("a look");
        assert_eq!(look.check(), Ok(()));
        assert_eq!(parse_colour("#0a0B0c"), Ok([10, 11, 12]));
        assert_eq!(serde_json::to_string(&Look::default()).expect("a look"), r#"{"names":true}"#);
        assert!(serde_json::from_str::<Look>(r#"{"nmes":true}"#).is_err());
    }
}
