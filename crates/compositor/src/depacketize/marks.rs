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
    /// Whether this one is directly behind `before`.
    #[must_use]
    pub fn follows(self, before: u32) -> bool {
        (before + 1) % self.modulus == self.number
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
}
