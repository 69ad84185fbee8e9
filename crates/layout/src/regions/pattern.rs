//! Names of sources, with `*` for any run of characters.

use roomreel_shared::id::PeerId;

/// A source's name or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(String);

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The one name that it stands for.
    pub fn literal(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&self.0)
    }

    /// Whether it is the peer's id, or the id and `-audio`, `-video` or `-screen`: the names of tracks in the bucket.
    pub fn names(&self, peer: &PeerId, suffix: &str) -> bool {
        matches(&self.0, peer.as_str()) || matches(&self.0, &format!("{peer}-{suffix}"))
    }
}

/// Greedy with one place to go back to: linear in the text for each `*`, whatever the pattern.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((after_star, from)) = retry {
            retry = Some((after_star, from + 1));
            (p, t) = (after_star, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_run() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anyone", true),
            ("alice", "alice", true),
            ("alice", "alice2", false),
            ("a*e", "alice", true),
            ("*-screen", "bob-screen", true),
            ("*-screen", "bob-video", false),
            ("a*b*c", "aXbXbc", true),
            ("a*b*c", "aXcXb", false),
            ("会*", "会議", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} {text:?}");
        }
        assert!(!matches(&"*a".repeat(120), &"a".repeat(100)));
    }
}
