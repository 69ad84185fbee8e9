//! How a camera was held: the header extension of 3GPP TS 26.114 section 7.4.5 (coordination of video orientation).

/// URI of the header extension.
pub const URI: &str = "urn:3gpp:video-orientation";

/// By how many quarters a picture is to be turned clockwise before it is shown.
///
/// Which camera it was, and whether its picture is to be mirrored, is not looked at, as browsers do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orientation(u8);

impl Orientation {
    /// Reads the extension's value.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        Some(Self(value.first()? & 3))
    }

    /// 0, 90, 180 or 270.
    #[must_use]
    pub fn degrees_clockwise(self) -> u16 {
        90 * u16::from(self.0)
    }

    /// Width and height when it has been turned.
    #[must_use]
    pub fn upright<T>(self, width: T, height: T) -> (T, T) {
        if self.0.is_multiple_of(2) { (width, height) } else { (height, width) }
    }
}
