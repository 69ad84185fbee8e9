//! A region document's text, read field by field so that an error can name the field.

use serde_json::{Map, Value};

use super::super::Error;
use super::pattern::Pattern;
use super::{Document, Region, Reuse};

/// Longest document, bytes.
const MAX_BYTES: usize = 64 * 1024;
/// Most regions.
const MAX_REGIONS: usize = 100;
/// Most entries of one list.
const MAX_LIST: usize = 200;
/// Longest name of a region and of a source, characters.
const MAX_NAME_CHARS: usize = 192;
/// Longest side of a canvas.
const MAX_SIDE: u32 = 4096;

const DOCUMENT_FIELDS: [&str; 6] =
    ["regions", "video_layout", "audio_sources", "audio_sources_excluded", "trim", "resolution"];
/// Names of a request's parameters, and the fields they are.
const PARAMETERS: [(&str, &str); 5] = [
    ("VideoLayout", "video_layout"),
    ("AudioSources", "audio_sources"),
    ("AudioSourcesExcluded", "audio_sources_excluded"),
    ("Trim", "trim"),
    ("Resolution", "resolution"),
];
const REGION_FIELDS: [&str; 11] = [
    "x_pos",
    "y_pos",
    "z_pos",
    "width",
    "height",
    "max_columns",
    "max_rows",
    "cells_excluded",
    "reuse",
    "video_sources",
    "video_sources_excluded",
];

pub(super) fn document(text: &str) -> Result<Document, Error> {
    if text.len() > MAX_BYTES {
        return refuse("layout", format!("{} bytes are too many; at most {MAX_BYTES}", text.len()));
    }
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => return refuse("layout", format!("this is not JSON: {error}")),
    };
    let Value::Object(mut fields) = value else {
        return refuse("layout", "a region document is a JSON object".to_owned());
    };
    // Who writes Twilio's requests by hand knows the fields by the names of their parameters.
    for (parameter, field) in PARAMETERS {
        if !fields.contains_key(field)
            && let Some(value) = fields.remove(parameter)
        {
            fields.insert(field.to_owned(), value);
        }
    }
    let fields = &fields;
    // The value of Twilio's `VideoLayout` is the regions alone.
    let is_bare = !fields.is_empty() && !fields.keys().any(|name| DOCUMENT_FIELDS.contains(&name.as_str()));
    let none = Map::new();
    let fields_of_document = Fields { path: String::new(), fields: if is_bare { &none } else { fields } };
    fields_of_document.known(&DOCUMENT_FIELDS)?;
    let regions = match (fields.get("regions"), fields.get("video_layout")) {
        _ if is_bare => fields,
        (Some(_), Some(_)) => {
            return refuse("video_layout", "it says the same as `regions`; give one of them".to_owned());
        }
        (Some(Value::Object(regions)), None) | (None, Some(Value::Object(regions))) => regions,
        (None, None) => return refuse("regions", "it is missing; give at least one region".to_owned()),
        _ => return refuse("regions", "it is not an object of regions by name".to_owned()),
    };
    if regions.is_empty() || regions.len() > MAX_REGIONS {
        return refuse("regions", format!("{} regions; give 1 to {MAX_REGIONS}", regions.len()));
    }
    let mut regions = regions.iter().map(|(name, value)| region(name, value)).collect::<Result<Vec<_>, _>>()?;
    regions.sort_by_key(|region| region.z);
    let document = Document {
        regions,
        audio_sources: fields_of_document.patterns("audio_sources")?.unwrap_or_else(|| vec![Pattern::new("*")]),
        audio_sources_excluded: fields_of_document.patterns("audio_sources_excluded")?.unwrap_or_default(),
        trim: fields_of_document.boolean("trim")?.unwrap_or(false),
        resolution: fields_of_document.resolution()?,
    };
    if let Some((width, height)) = document.resolution {
        document.check(width, height)?;
    }
    Ok(document)
}

fn region(name: &str, value: &Value) -> Result<Region, Error> {
    let path = format!("regions.{}", shortened(name));
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
        return refuse(&path, format!("a region's name has 1 to {MAX_NAME_CHARS} printable characters"));
    }
    let Value::Object(fields) = value else {
        return refuse(&path, "it is not a region: an object of x_pos, y_pos, width, height and so on".to_owned());
    };
    let fields = Fields { path, fields };
    fields.known(&REGION_FIELDS)?;
    let side = |name| fields.integer(name, 2, i64::from(MAX_SIDE));
    let limit = |name| fields.integer(name, 1, 1000);
    let place = |name| fields.integer(name, 0, i64::from(MAX_SIDE));
    let unsigned = |value: i64| u32::try_from(value).expect("its range was checked");
    Ok(Region {
        name: name.to_owned(),
        x: place("x_pos")?.map_or(0, unsigned),
        y: place("y_pos")?.map_or(0, unsigned),
        z: fields.integer("z_pos", -99, 99)?.map_or(0, |z| i32::try_from(z).expect("its range was checked")),
        width: side("width")?.map(unsigned),
        height: side("height")?.map(unsigned),
        max_columns: limit("max_columns")?.map_or(1000, unsigned),
        max_rows: limit("max_rows")?.map_or(1000, unsigned),
        cells_excluded: fields
            .list("cells_excluded", |path, value| integer(path, value, 0, 999_999).map(unsigned))?
            .unwrap_or_default(),
        reuse: fields.reuse()?,
        video_sources: fields.patterns("video_sources")?.unwrap_or_else(|| vec![Pattern::new("*")]),
        video_sources_excluded: fields.patterns("video_sources_excluded")?.unwrap_or_default(),
    })
}

/// An object and where it is.
struct Fields<'a> {
    path: String,
    fields: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn path(&self, name: &str) -> String {
        let name = shortened(name);
        if self.path.is_empty() { name } else { format!("{}.{name}", self.path) }
    }

    fn known(&self, names: &[&str]) -> Result<(), Error> {
        match self.fields.keys().find(|name| !names.contains(&name.as_str())) {
            Some(name) => refuse(&self.path(name), format!("no such field; there are {}", names.join(", "))),
            None => Ok(()),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn integer(&self, name: &str, least: i64, most: i64) -> Result<Option<i64>, Error> {
        self.get(name).map(|value| integer(&self.path(name), value, least, most)).transpose()
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => refuse(&self.path(name), format!("{} is not true or false", shown(other))),
        }
    }

    fn list<T>(&self, name: &str, item: impl Fn(&str, &Value) -> Result<T, Error>) -> Result<Option<Vec<T>>, Error> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let path = self.path(name);
        let Value::Array(items) = value else {
            return refuse(&path, format!("{} is not a list", shown(value)));
        };
        if items.len() > MAX_LIST {
            return refuse(&path, format!("{} entries are too many; at most {MAX_LIST}", items.len()));
        }
        items
            .iter()
            .enumerate()
            .map(|(index, value)| item(&format!("{path}[{index}]"), value))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn patterns(&self, name: &str) -> Result<Option<Vec<Pattern>>, Error> {
        self.list(name, |path, value| match value {
            Value::String(text) if (1..=MAX_NAME_CHARS).contains(&text.chars().count()) => Ok(Pattern::new(text)),
            other => {
                refuse(path, format!("{} is not a source's name of 1 to {MAX_NAME_CHARS} characters", shown(other)))
            }
        })
    }

    fn reuse(&self) -> Result<Reuse, Error> {
        match self.get("reuse") {
            None => Ok(Reuse::ShowOldest),
            Some(Value::String(text)) if text == "none" => Ok(Reuse::None),
            Some(Value::String(text)) if text == "show_oldest" => Ok(Reuse::ShowOldest),
            Some(Value::String(text)) if text == "show_newest" => Ok(Reuse::ShowNewest),
            Some(Value::String(text)) if text == "rotate" => Ok(Reuse::Rotate),
            Some(other) => refuse(
                &self.path("reuse"),
                format!("{} is not `none`, `show_oldest`, `show_newest` or `rotate`", shown(other)),
            ),
        }
    }

    fn resolution(&self) -> Result<Option<(u32, u32)>, Error> {
        let Some(value) = self.get("resolution") else { return Ok(None) };
        let sides = value.as_str().and_then(|text| text.split_once('x'));
        let side = |text: &str| text.parse().ok().filter(|side| (16..=MAX_SIDE).contains(side));
        match sides.and_then(|(width, height)| side(width).zip(side(height))) {
            Some(resolution) => Ok(Some(resolution)),
            None => refuse(
                &self.path("resolution"),
                format!(
                    "{} is not `{{width}}x{{height}}` with sides from 16 to {MAX_SIDE}, as in \"1280x720\"",
                    shown(value)
                ),
            ),
        }
    }
}

fn integer(path: &str, value: &Value, least: i64, most: i64) -> Result<i64, Error> {
    match value.as_i64().filter(|number| (least..=most).contains(number)) {
        Some(number) => Ok(number),
        None => refuse(path, format!("{} is not a whole number from {least} to {most}", shown(value))),
    }
}

fn refuse<T>(path: &str, why: String) -> Result<T, Error> {
    Err(Error::Document { path: path.to_owned(), why })
}

/// The value as it was written, as far as an error needs it.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        plain => shortened(&plain.to_string()),
    }
}

/// As much of a text as an error repeats.
pub(super) fn shortened(text: &str) -> String {
    const MAX_ECHO: usize = 60;
    let mut short: String = text.chars().filter(|c| !c.is_control()).take(MAX_ECHO).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
