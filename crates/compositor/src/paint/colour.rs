//! Colours, in the RGB designers speak and the YUV canvases are made of.
//!
//! Owns the two themes and every participant's own colour.

use roomreel_shared::id::PeerId;

use crate::layout::Theme;

/// sRGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Rgb(pub u8, pub u8, pub u8);

impl Rgb {
    pub const WHITE: Self = Self(255, 255, 255);
    pub const BLACK: Self = Self(0, 0, 0);

    /// Luma and chroma, BT.601 in limited range as every canvas is.
    pub fn to_yuv(self) -> [u8; 3] {
        let [r, g, b] = [i32::from(self.0), i32::from(self.1), i32::from(self.2)];
        let of = |weighted: i32, offset: i32| (((weighted + 128) >> 8) + offset).clamp(16, 240) as u8;
        [of(66 * r + 129 * g + 25 * b, 16), of(-38 * r - 74 * g + 112 * b, 128), of(112 * r - 94 * g - 18 * b, 128)]
    }
}

/// What a theme's parts are painted with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Palette {
    pub background: Rgb,
    /// The card behind initials.
    pub card: Rgb,
    /// The ring of who is heard.
    pub accent: Rgb,
    /// A muted microphone.
    pub alert: Rgb,
    /// Behind the text of labels, and how much of it: 0 to 1.
    pub pill: (Rgb, f32),
}

impl Palette {
    pub fn of(theme: Theme) -> Self {
        let pill = (Rgb::BLACK, 0.55);
        match theme {
            Theme::Dark => Self {
                background: Rgb(0x14, 0x16, 0x1a),
                card: Rgb(0x24, 0x28, 0x30),
                accent: Rgb(0x3d, 0xdc, 0x84),
                alert: Rgb(0xff, 0x6b, 0x61),
                pill,
            },
            Theme::Light => Self {
                background: Rgb(0xf3, 0xf4, 0xf6),
                card: Rgb(0xdf, 0xe3, 0xe9),
                accent: Rgb(0x12, 0xa1, 0x5e),
                alert: Rgb(0xff, 0x7a, 0x70),
                pill,
            },
        }
    }
}

/// The participant's own colour: the same in every recording, legible under white letters.
pub(super) fn of_peer(peer: &PeerId) -> Rgb {
    const COLOURS: [Rgb; 12] = [
        Rgb(0x4f, 0x6b, 0xed),
        Rgb(0x0e, 0x8f, 0x8b),
        Rgb(0xc2, 0x41, 0x6c),
        Rgb(0x8e, 0x56, 0xd6),
        Rgb(0xc7, 0x5b, 0x12),
        Rgb(0x2b, 0x8a, 0x3e),
        Rgb(0x1c, 0x7e, 0xd6),
        Rgb(0xa6, 0x3d, 0xa0),
        Rgb(0xb0, 0x3a, 0x3a),
        Rgb(0x5c, 0x7c, 0x1f),
        Rgb(0x8d, 0x6b, 0x2f),
        Rgb(0x49, 0x6a, 0x87),
    ];
    // FNV-1a, its high half: the low bits of ids that differ in the last character alone would go round in steps.
    let hash = peer
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    COLOURS[((hash >> 32) % COLOURS.len() as u64) as usize]
}
