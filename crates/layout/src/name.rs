//! Names of layouts, and what users of other systems call them.

use super::stage::Strip;
use super::{Error, Kind, Layout, Theme};

/// Every layout's own name; each takes `-light` or `-dark`.
pub const NAMES: [&str; 5] = ["grid", "speaker", "single-speaker", "pip", "presentation"];

/// Longest part of an unknown name an error repeats, characters.
const MAX_ECHO: usize = 60;

pub(super) fn parse(text: &str) -> Result<Layout, Error> {
    // One spelling for `bestFit`, `best-fit`, `best_fit` and `Best Fit`.
    let letters = text.chars().take(MAX_ECHO).filter(|c| !matches!(c, '-' | '_' | ' '));
    let spelling: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    let (name, theme) = match (spelling.strip_suffix("light"), spelling.strip_suffix("dark")) {
        (Some(name), _) => (name, Theme::Light),
        (_, Some(name)) => (name, Theme::Dark),
        _ => (spelling.as_str(), Theme::Dark),
    };
    let kind = match name {
        "grid" | "bestfit" | "gallery" | "galleryview" | "gridview" | "default" | "tiled" | "tile" => Kind::Grid,
        "speaker"
        | "activespeaker"
        | "dominant"
        | "dominantspeaker"
        | "activeparticipant"
        | "focus"
        | "spotlight"
        | "horizontalpresentation"
        | "horizontal" => Kind::Staged(Strip::Bottom),
        "presentation"
        | "verticalpresentation"
        | "vertical"
        | "screenshare"
        | "sharedscreen"
        | "sidebar"
        | "contentshare" => Kind::Staged(Strip::Side),
        "singlespeaker" | "singleparticipant" | "single" | "activespeakeronly" | "presenteronly" | "fullscreen" => {
            Kind::SingleSpeaker
        }
        "pip" | "pictureinpicture" | "floating" | "overlay" => Kind::PictureInPicture,
        "custom" => {
            return Err(Error::Document {
                path: "layout".to_owned(),
                why: "`custom` is given by its region document: pass the JSON itself".to_owned(),
            });
        }
        _ => return Err(Error::UnknownName { given: text.chars().take(MAX_ECHO).collect() }),
    };
    Ok(Layout { kind, theme })
}
