//! Text of any script, shaped and drawn onto a sheet.
//!
//! Owns the system's fonts and what is left of a name that is hostile or too long. A machine without any font shows
//! labels without text; one without a font for a script shows boxes.

use std::path::PathBuf;
use std::sync::OnceLock;

use cosmic_text::{Attrs, Buffer, Color, Family, FontSystem, Metrics, Shaping, SwashCache, Weight, Wrap, fontdb};

use super::colour::Rgb;
use super::stamp::Sheet;

/// Longest text that is shaped, characters; nothing longer fits anywhere.
const MAX_CHARS: usize = 96;
/// The first that is installed is used; every other font stands in for scripts it does not have.
const FAMILIES: [&str; 5] = ["Inter", "Noto Sans", "Open Sans", "Liberation Sans", "DejaVu Sans"];
/// Decides between Chinese, Japanese and Korean forms where the text does not: the same on every machine.
const LOCALE: &str = "en-US";

/// Fonts and the glyphs drawn so far.
pub(super) struct Fonts {
    system: FontSystem,
    glyphs: SwashCache,
    family: Option<&'static str>,
    has_fonts: bool,
}

/// A line of text that was measured.
pub(super) struct Line {
    buffer: Buffer,
    left: f32,
    /// Pixels.
    pub width: f32,
}

/// Looking through the system's fonts takes a while, and they do not change.
static INSTALLED: OnceLock<fontdb::Database> = OnceLock::new();

fn find_fonts() -> fontdb::Database {
    let mut found = fontdb::Database::new();
    found.load_system_fonts();
    let sans_serif = found.family_name(&Family::SansSerif).to_owned();
    // Typewriters stand in for a script as soon as they have a letter of it, and names look typewritten.
    let mut faces: Vec<_> = found.faces().filter(|face| !face.monospaced).cloned().collect();
    // Directories are read in any order, and of two fonts that would do the first is taken: the same on every machine.
    faces.sort_by_cached_key(|face| (path(&face.source), face.index));
    let mut fonts = fontdb::Database::new();
    fonts.set_sans_serif_family(sans_serif);
    for face in faces {
        fonts.push_face_info(face);
    }
    fonts
}

fn path(source: &fontdb::Source) -> PathBuf {
    match source {
        fontdb::Source::File(path) | fontdb::Source::SharedFile(path, _) => path.clone(),
        fontdb::Source::Binary(_) => PathBuf::new(),
    }
}

/// Has every font at hand, so that no file has to be opened later.
pub(crate) fn load_fonts() {
    INSTALLED.get_or_init(|| {
        let mut fonts = find_fonts();
        let faces: Vec<_> = fonts.faces().map(|face| face.id).collect();
        for face in faces {
            // SAFETY: fonts of the system are replaced, not written over. One that cannot be read is not used.
            let _ = unsafe { fonts.make_shared_face_data(face) };
        }
        fonts
    });
}

impl Fonts {
    pub fn new() -> Self {
        let fonts = INSTALLED.get_or_init(find_fonts);
        let is_installed =
            |family: &str| fonts.faces().any(|face| face.families.iter().any(|(name, _)| name == family));
        Self {
            has_fonts: !fonts.is_empty(),
            family: FAMILIES.into_iter().find(|family| is_installed(family)),
            system: FontSystem::new_with_locale_and_db(LOCALE.to_owned(), fonts.clone()),
            glyphs: SwashCache::new(),
        }
    }

    /// Shapes `text` at `size` pixels, shortened with an ellipsis to `max_width`. `None` if nothing of it can be shown.
    pub fn line(&mut self, text: &str, size: f32, max_width: f32) -> Option<Line> {
        let text = presentable(text);
        if !self.has_fonts || text.is_empty() {
            return None;
        }
        let whole = self.shape(&text, size);
        if whole.width <= max_width {
            return Some(whole);
        }
        let chars: Vec<char> = text.chars().collect();
        let shortened = |kept: usize| format!("{}…", chars[..kept].iter().collect::<String>().trim_end());
        // The longest beginning that fits; width grows with it closely enough.
        let (mut fits, mut too_long) = (0, chars.len());
        while fits + 1 < too_long {
            let middle = usize::midpoint(fits, too_long);
            if self.shape(&shortened(middle), size).width <= max_width {
                fits = middle;
            } else {
                too_long = middle;
            }
        }
        (fits > 0).then(|| self.shape(&shortened(fits), size))
    }

    fn shape(&mut self, text: &str, size: f32) -> Line {
        let family = self.family.map_or(Family::SansSerif, Family::Name);
        let attributes = Attrs::new().family(family).weight(Weight::BOLD);
        let mut buffer = Buffer::new(&mut self.system, Metrics::new(size, size));
        buffer.set_wrap(Wrap::None);
        buffer.set_text(text, &attributes, Shaping::Advanced, None);
        buffer.shape_until_scroll(&mut self.system, false);
        let glyphs = || buffer.layout_runs().take(1).flat_map(|run| run.glyphs.iter());
        let left = glyphs().map(|glyph| glyph.x).fold(f32::INFINITY, f32::min);
        let right = glyphs().map(|glyph| glyph.x + glyph.w).fold(0.0, f32::max);
        let left = if left.is_finite() { left } else { 0.0 };
        Line { left, width: (right - left).max(0.0), buffer }
    }

    /// Draws a line with its left end at `x` and its baseline at `y`.
    pub fn draw(&mut self, sheet: &mut Sheet, line: &Line, x: f32, y: f32, colour: Rgb) {
        let base = Color::rgb(colour.0, colour.1, colour.2);
        for run in line.buffer.layout_runs().take(1) {
            for glyph in run.glyphs {
                let placed = glyph.physical((x - line.left, y), 1.0);
                self.glyphs.with_pixels(&mut self.system, placed.cache_key, base, |dx, dy, colour| {
                    let alpha = f32::from(colour.a()) / 255.0;
                    sheet.over(placed.x + dx, placed.y + dy, Rgb(colour.r(), colour.g(), colour.b()), alpha);
                });
            }
        }
    }
}

/// The text on one line: no control characters, no characters that turn what follows around, no runs of blanks.
fn presentable(text: &str) -> String {
    let is_invisible =
        |c: char| matches!(c, '\u{200b}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let clean: String = text
        .chars()
        .take(MAX_CHARS * 4)
        .filter(|c| !is_invisible(*c))
        .map(|c| if c.is_control() || c == '\u{2028}' || c == '\u{2029}' { ' ' } else { c })
        .collect();
    let words: Vec<_> = clean.split_whitespace().collect();
    words.join(" ").chars().take(MAX_CHARS).collect()
}

/// One or two letters that stand for a name: of the first and the last word where letters stand alone, else the first.
pub(super) fn initials(name: &str) -> String {
    let name = presentable(name);
    let words: Vec<_> = name.split(' ').filter(|word| word.chars().any(char::is_alphanumeric)).collect();
    let first = words.first().and_then(|word| letter(word));
    let last = words.get(1..).and_then(<[_]>::last).and_then(|word| letter(word));
    match (first, last) {
        (Some(first), Some(last)) if stands_alone(&first) && stands_alone(&last) => first + &last,
        (Some(first), _) => first,
        (None, _) => "?".to_owned(),
    }
}

/// The first letter or digit with the marks that belong to it, as a capital.
fn letter(word: &str) -> Option<String> {
    let mut rest = word.chars().skip_while(|c| !c.is_alphanumeric());
    let first = rest.next()?;
    let marks = rest.take_while(|c| is_mark(*c)).take(3);
    Some(first.to_uppercase().chain(marks).collect())
}

/// Combining marks of the scripts in which they follow letters often.
fn is_mark(c: char) -> bool {
    matches!(c,
        '\u{0300}'..='\u{036f}' | '\u{0483}'..='\u{0487}' | '\u{0591}'..='\u{05bd}' | '\u{064b}'..='\u{065f}'
        | '\u{0900}'..='\u{0903}' | '\u{093a}'..='\u{094f}' | '\u{0981}'..='\u{0983}' | '\u{09bc}'..='\u{09cd}'
        | '\u{0b82}' | '\u{0bbe}'..='\u{0bcd}' | '\u{0e31}' | '\u{0e34}'..='\u{0e3a}' | '\u{0e47}'..='\u{0e4e}')
}

/// Latin, Greek, Cyrillic, Armenian, Georgian letters and digits: two side by side do not join into something else.
fn stands_alone(letter: &str) -> bool {
    letter.chars().next().is_some_and(|c| c < '\u{0590}' || ('\u{10a0}'..='\u{10ff}').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fonts_are_in_the_order_of_their_paths() {
        assert!(find_fonts().faces().map(|face| (path(&face.source), face.index)).is_sorted());
    }

    #[test]
    fn initials_of_any_script() {
        for (name, expected) in [
            ("Amara Okafor", "AO"),
            ("amara", "A"),
            ("  Jean-Luc  van der Berg ", "JB"),
            ("王小明", "王"),
            ("محمد علي", "م"),
            ("किरण राव", "कि"),
            ("Élodie Ängström", "ÉÄ"),
            ("Ивáн Петров", "ИП"),
            ("(guest) 7", "G7"),
            ("…", "?"),
            ("", "?"),
            ("\u{202e}\n", "?"),
        ] {
            assert_eq!(initials(name), expected, "{name:?}");
        }
    }

    #[test]
    fn a_hostile_name_is_one_tame_line() {
        assert_eq!(presentable("a\nb\u{202e}c\u{0}  d\u{2028}e"), "a bc d e");
        assert_eq!(presentable(&"x".repeat(10_000)).len(), MAX_CHARS);
        let mut fonts = Fonts::new();
        for text in [
            "a\u{0301}".repeat(400).as_str(),
            "\u{fdfd}\u{fdfd}",
            "🏳️‍🌈👨‍👩‍👧‍👦",
            "\u{0c1c}\u{0c4d}\u{0c1e}\u{200c}\u{0c3e}",
            "שלום abc עולם",
        ] {
            if let Some(line) = fonts.line(text, 15.0, 80.0) {
                assert!(line.width <= 80.0);
                fonts.draw(&mut Sheet::new(80, 20), &line, 0.0, 15.0, Rgb::WHITE);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_shortened() {
        let mut fonts = Fonts::new();
        if !fonts.has_fonts {
            return;
        }
        let long = fonts.line(&"Bartholomew ".repeat(5), 15.0, 120.0).expect("some of it fits");
        assert!(long.width <= 120.0 && long.width > 60.0);
        assert!(fonts.line("anything", 15.0, 1.0).is_none());
    }
}
