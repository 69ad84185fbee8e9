//! What the payloads of a picture say of the pictures it builds on.

/// A number that comes back to 0 after so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Below `modulus`.
    pub number: u32,
    /// How many there are.
    pub modulus: u32,
}

impl Count {
    /// A picture's number of 7 or 15 bits, as VP8 and VP9 write it (RFC 7741 section 4.2, RFC 9628 section 4.2).
    pub(super) fn of_picture(mut take: impl FnMut() -> Option<u8>) -> Option<Self> {
        let first = take()?;
        Some(match first & 0x80 {
            0 => Self { number: u32::from(first), modulus: 0x80 },
            _ => Self { number: u32::from(first & 0x7f) << 8 | u32::from(take()?), modulus: 0x8000 },
        })
    }

    /// Whether this one is directly behind `before`.
    #[must_use]
    pub fn follows(self, before: u32) -> bool {
        (before + 1) % self.modulus == self.number
    }

    /// The number that stands so many before this one.
    #[must_use]
    pub fn ago(self, age: u32) -> u32 {
        (self.number + self.modulus - age % self.modulus) % self.modulus
    }
}

/// Where a picture stands among those around it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks {
    /// Nothing builds on it.
    pub discardable: bool,
    /// Its temporal layer: it builds on no higher one. 0 is the base.
    pub temporal: u8,
    /// Number of the newest picture of the base layer, which may be itself.
    pub base: Option<Count>,
    /// Of an upper layer, it builds on the base layer alone.
    pub sync: bool,
    /// Pictures of higher layers behind it build on none of their layers before it.
    pub switches_up: bool,
    /// Its own number.
    pub picture: Option<Count>,
    /// How many pictures ago those were that it builds on, where it says so.
    pub references: Option<Vec<u32>>,
    /// The same of all those that it or a later one may build on, where it names them: no other is kept.
    pub keeps: Option<Vec<u32>>,
}
