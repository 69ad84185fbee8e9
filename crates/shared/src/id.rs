//! Ids from outside and their safe spelling.
//!
//! An id is any Unicode text. A [`Token`] is its reversible spelling that can stand in a NATS subject, an object
//! key, a consumer name and a file name. No other code builds one: see [`crate::subject`] and [`crate::key`].

use std::fmt;

/// Longest token, in characters: a file name that carries one and a suffix stays below 255 bytes.
pub const MAX_TOKEN_CHARS: usize = 192;

/// Why a text is not an id, or a token not the spelling of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text has no characters.
    #[error("{kind} id is empty; give it at least one character")]
    Empty {
        /// What the id names.
        kind: &'static str,
    },
    /// The spelling would be longer than [`MAX_TOKEN_CHARS`].
    #[error(
        "{kind} id of {bytes} bytes is spelled with {chars} characters and at most {MAX_TOKEN_CHARS} are allowed; use a shorter id"
    )]
    TooLong {
        /// What the id names.
        kind: &'static str,
        /// Length of the id in UTF-8 bytes.
        bytes: usize,
        /// Length of its spelling.
        chars: usize,
    },
    /// The token is not the spelling of any id.
    #[error("{token:?} is not an encoded id: {why}")]
    NotAToken {
        /// The offending token.
        token: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The safe spelling of an id: `A-Z a-z 0-9 _ -` stand for themselves, every other UTF-8 byte is `=XX` in upper-case
/// hexadecimal. Nothing else occurs in it, so `.`, `*`, `>`, `/`, `..`, spaces and control characters cannot get through.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(String);

impl Token {
    /// Whether there is a spelling, which is not made: every message of the log names two ids.
    fn check(kind: &'static str, id: &str) -> Result<(), Error> {
        let chars = id.bytes().map(|byte| if is_literal(byte) { 1 } else { 3 }).sum();
        match chars {
            0 => Err(Error::Empty { kind }),
            1..=MAX_TOKEN_CHARS => Ok(()),
            _ => Err(Error::TooLong { kind, bytes: id.len(), chars }),
        }
    }

    fn encode(id: &str) -> Self {
        use fmt::Write as _;
        let mut token = String::with_capacity(id.len());
        for byte in id.bytes() {
            if is_literal(byte) {
                token.push(char::from(byte));
            } else {
                write!(token, "={byte:02X}").expect("writing to a String cannot fail");
            }
        }
        Self(token)
    }

    fn decode(kind: &'static str, token: &str) -> Result<String, Error> {
        let not = |why| Error::NotAToken { token: token.to_owned(), why };
        let mut bytes = Vec::with_capacity(token.len());
        let mut rest = token.as_bytes().iter();
        while let Some(&byte) = rest.next() {
            if byte == b'=' {
                let (Some(&high), Some(&low)) = (rest.next(), rest.next()) else {
                    return Err(not("`=` is not followed by two digits"));
                };
                let (Some(high), Some(low)) = (hex_digit(high), hex_digit(low)) else {
                    return Err(not("`=` is not followed by two upper-case hexadecimal digits"));
                };
                let value = high << 4 | low;
                if is_literal(value) {
                    return Err(not("a character that stands for itself is escaped"));
                }
                bytes.push(value);
            } else if is_literal(byte) {
                bytes.push(byte);
            } else {
                return Err(not("it holds a character that must be escaped"));
            }
        }
        let id = String::from_utf8(bytes).map_err(|_| not("the bytes are not UTF-8"))?;
        Self::check(kind, &id)?;
        Ok(id)
    }

    /// The spelling.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks that `id` can be spelled as a [`Token`].
            ///
            /// # Errors
            /// [`Error::Empty`] or [`Error::TooLong`].
            pub fn new(id: impl Into<String>) -> Result<Self, Error> {
                let id = id.into();
                Token::check($kind, &id)?;
                Ok(Self(id))
            }

            /// Reads the id back from its spelling.
            ///
            /// # Errors
            /// [`Error::NotAToken`], or what [`Self::new`] refuses.
            pub fn from_token(token: &str) -> Result<Self, Error> {
                Token::decode($kind, token).map(Self)
            }

            /// The safe spelling.
            #[must_use]
            pub fn token(&self) -> Token {
                Token::encode(&self.0)
            }

            /// The id as it came.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(id: String) -> Result<Self, Error> {
                Self::new(id)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(id: &str) -> Result<Self, Error> {
                Self::new(id)
            }
        }
    };
}

id!(
    /// Whose SFUs and recordings these are.
    TenantId,
    "tenant"
);
id!(
    /// One SFU instance.
    SfuId,
    "sfu"
);
id!(
    /// A room, as in the SFU.
    RoomId,
    "room"
);
id!(
    /// A participant, as in the SFU.
    PeerId,
    "peer"
);
id!(
    /// One RTP media source of one participant.
    TrackId,
    "track"
);
id!(
    /// One recording; made by the coordinator, time-ordered.
    RecordingId,
    "recording"
);
id!(
    /// One rendering of a recording.
    CompositeId,
    "composite"
);
id!(
    /// One roomreel process.
    NodeId,
    "node"
);

impl RecordingId {
    /// An id that sorts by `created_ms` (milliseconds since the Unix epoch) and is unique by `random`:
    /// 26 characters of Crockford's base 32, the form of a ULID, in lower case.
    #[must_use]
    pub fn generate(created_ms: u64, random: u128) -> Self {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let value = (u128::from(created_ms) << 80) | (random & ((1 << 80) - 1));
        let id = (0..26).rev().map(|place| char::from(DIGITS[(value >> (5 * place)) as usize & 31])).collect();
        Self(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_spellings() {
        for (id, token) in [
            ("standup", "standup"),
            ("sharescreen_amara", "sharescreen_amara"),
            ("a.b", "a=2Eb"),
            ("../etc/passwd", "=2E=2E=2Fetc=2Fpasswd"),
            ("*", "=2A"),
            (">", "=3E"),
            ("a b\r\n", "a=20b=0D=0A"),
            ("=2E", "=3D2E"),
            ("Zoë", "Zo=C3=AB"),
            ("会議", "=E4=BC=9A=E8=AD=B0"),
            ("\0", "=00"),
        ] {
            assert_eq!(RoomId::new(id).expect(id).token().as_str(), token);
            assert_eq!(RoomId::from_token(token).expect(token).as_str(), id);
        }
    }

    #[test]
    fn refuses_what_is_not_a_spelling() {
        for token in ["", "a.b", "=2", "=2e", "=41", "=C3", "=FF", "*", "a/b", "=control"] {
            assert!(RoomId::from_token(token).is_err(), "{token:?}");
        }
        assert!(matches!(RoomId::new(""), Err(Error::Empty { kind: "room" })));
        assert!(matches!(RoomId::new("é".repeat(33)), Err(Error::TooLong { bytes: 66, chars: 198, .. })));
        assert!(RoomId::new("a".repeat(MAX_TOKEN_CHARS)).is_ok());
    }

    #[test]
    fn generated_recording_ids_sort_by_time() {
        let early = RecordingId::generate(1_795_220_657_099, u128::MAX);
        let late = RecordingId::generate(1_795_220_657_100, 0);
        assert!(early < late);
        assert_eq!(early.as_str().len(), 26);
        assert_eq!(early.token().as_str(), early.as_str());
    }

    proptest! {
        #[test]
        fn any_id_comes_back_and_its_token_is_tame(id in "\\PC{1,16}|[.*>/ \\x00-\\x1f]{1,16}") {
            let room = RoomId::new(id.clone()).expect("short enough");
            let token = room.token();
            prop_assert!(token.as_str().bytes().all(|b| is_literal(b) || b == b'='));
            let back = RoomId::from_token(token.as_str());
            prop_assert_eq!(back.as_ref().map(RoomId::as_str), Ok(id.as_str()));
        }

        #[test]
        fn a_token_has_one_id(token in "[A-Za-z0-9_=-]{1,24}") {
            if let Ok(room) = RoomId::from_token(&token) {
                let again = room.token();
                prop_assert_eq!(again.as_str(), token.as_str());
            }
        }
    }
}
