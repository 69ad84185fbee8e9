//! Every object key of the bucket, built in one place (docs/formats.md shows the layout).

use std::fmt;

use crate::id::{CompositeId, RecordingId, RoomId, TenantId};
use crate::ports::Listed;

/// A key that was built by this module.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// The key as the object store knows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes a key that a store listed.
    #[must_use]
    pub fn listed(key: String) -> Self {
        Self(key)
    }

    /// The part after the last `/`.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name is not a file of a recording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a file of a recording: {why}")]
pub struct NameError {
    /// The name asked for.
    pub name: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Which recording a key belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordingName {
    /// Whose.
    pub tenant: TenantId,
    /// Of which room.
    pub room: RoomId,
    /// Which.
    pub recording: RecordingId,
}

impl RecordingName {
    /// From a key, or a prefix of keys, of the recording; `None` for what is not below one.
    #[must_use]
    pub fn of(key: &str) -> Option<Self> {
        let mut parts = key.split('/');
        let (tenant, rooms, room) = (parts.next()?, parts.next()?, parts.next()?);
        let (recordings, recording) = (parts.next()?, parts.next()?);
        if (rooms, recordings) != ("rooms", "recordings") {
            return None;
        }
        Some(Self {
            tenant: TenantId::from_token(tenant).ok()?,
            room: RoomId::from_token(room).ok()?,
            recording: RecordingId::from_token(recording).ok()?,
        })
    }

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> RecordingKeys {
        RecordingKeys::new(&self.tenant, &self.room, &self.recording)
    }
}

/// The keys of one recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingKeys {
    prefix: String,
}

impl RecordingKeys {
    /// The keys below `{tenant}/rooms/{room}/recordings/{recording}/`.
    #[must_use]
    pub fn new(tenant: &TenantId, room: &RoomId, recording: &RecordingId) -> Self {
        let (tenant, room, recording) = (tenant.token(), room.token(), recording.token());
        Self { prefix: format!("{tenant}/rooms/{room}/recordings/{recording}/") }
    }

    /// What every key of the recording begins with, a `/` at its end.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The object that holds window `k`.
    #[must_use]
    pub fn window(&self, k: u64) -> Key {
        Key(format!("{}windows/{k:08}.win", self.prefix))
    }

    /// What every window's key begins with.
    #[must_use]
    pub fn windows_prefix(&self) -> String {
        format!("{}windows/", self.prefix)
    }

    /// The number of a window from its key.
    #[must_use]
    pub fn window_number(&self, key: &Key) -> Option<u64> {
        let number = key.as_str().strip_prefix(&self.windows_prefix())?.strip_suffix(".win")?.parse().ok()?;
        // One spelling: `7.win` is not window 7.
        (self.window(number) == *key).then_some(number)
    }

    /// Number and length in bytes of the windows in a listing, in its order.
    pub fn windows_in<'a>(&'a self, listed: &'a [Listed]) -> impl Iterator<Item = (u64, u64)> + 'a {
        listed.iter().filter_map(|object| Some((self.window_number(&object.key)?, object.size)))
    }

    /// The recording in its final state.
    #[must_use]
    pub fn recording_json(&self) -> Key {
        self.file("recording.json")
    }

    /// The recording while its state is not final.
    #[must_use]
    pub fn unfinished_json(&self) -> Key {
        self.file("unfinished.json")
    }

    /// The policy in force when the recording began.
    #[must_use]
    pub fn policy_json(&self) -> Key {
        self.file("policy.json")
    }

    /// Everything that happened, on the recording's clock.
    #[must_use]
    pub fn timeline_json(&self) -> Key {
        self.file("timeline.json")
    }

    /// Room, policy, participants, tracks, timeline and recording in one document.
    #[must_use]
    pub fn metadata_json(&self) -> Key {
        self.file("metadata.json")
    }

    /// Loss, freezes and other blemishes by track.
    #[must_use]
    pub fn quality_json(&self) -> Key {
        self.file("quality.json")
    }

    /// An artefact of a composite. `name` is ours, not a user's.
    #[must_use]
    pub fn composite_file(&self, composite: &CompositeId, name: &str) -> Key {
        Key(format!("{}composites/{}/{name}", self.prefix, composite.token()))
    }

    /// What every key of a composite begins with.
    #[must_use]
    pub fn composite_prefix(&self, composite: &CompositeId) -> String {
        format!("{}composites/{}/", self.prefix, composite.token())
    }

    /// The CMAF header of a composite.
    #[must_use]
    pub fn init(&self, composite: &CompositeId) -> Key {
        self.composite_file(composite, "init.mp4")
    }

    /// The rendered media of slice `n`.
    #[must_use]
    pub fn slice(&self, composite: &CompositeId, n: u64) -> Key {
        self.composite_file(composite, &format!("{n:08}.m4s"))
    }

    /// The pictures of slice `n` as a WebM takes them.
    #[must_use]
    pub fn webm_slice(&self, composite: &CompositeId, n: u64) -> Key {
        self.composite_file(composite, &format!("{n:08}.webm.m4s"))
    }

    /// The number of a slice from its key.
    #[must_use]
    pub fn slice_number(&self, composite: &CompositeId, key: &Key) -> Option<u64> {
        let number =
            key.as_str().strip_prefix(&self.composite_prefix(composite))?.strip_suffix(".m4s")?.parse().ok()?;
        (self.slice(composite, number) == *key).then_some(number)
    }

    /// The number of a WebM's slice from its key.
    #[must_use]
    pub fn webm_slice_number(&self, composite: &CompositeId, key: &Key) -> Option<u64> {
        let name = key.as_str().strip_prefix(&self.composite_prefix(composite))?;
        let number = name.strip_suffix(".webm.m4s")?.parse().ok()?;
        (self.webm_slice(composite, number) == *key).then_some(number)
    }

    /// The HLS playlist, growing while the room talks.
    #[must_use]
    pub fn playlist(&self, composite: &CompositeId) -> Key {
        self.composite_file(composite, "live.m3u8")
    }

    /// The whole composite as one file.
    #[must_use]
    pub fn composite_mp4(&self, composite: &CompositeId) -> Key {
        self.composite_file(composite, "composite.mp4")
    }

    /// What was asked of a late render, and where it stands while it is not complete.
    #[must_use]
    pub fn render_json(&self, composite: &CompositeId) -> Key {
        self.composite_file(composite, "render.json")
    }

    /// A late render that is complete.
    #[must_use]
    pub fn rendered_json(&self, composite: &CompositeId) -> Key {
        self.composite_file(composite, "rendered.json")
    }

    /// A track's media as a playable file. `name` is `{peer token}-{audio|video|screen}.{extension}`.
    #[must_use]
    pub fn track_file(&self, name: &str) -> Key {
        Key(format!("{}tracks/{name}", self.prefix))
    }

    /// A file of the recording by the name a user gives, such as `composites/grid/composite.mp4`.
    ///
    /// # Errors
    /// Names that leave the recording or are not spelled like one of its files.
    pub fn user_file(&self, name: &str) -> Result<Key, NameError> {
        let refuse = |why| Err(NameError { name: name.to_owned(), why });
        if name.is_empty() || name.len() > 1024 {
            return refuse("its length is not between 1 and 1024");
        }
        for part in name.split('/') {
            if part.is_empty() || part.starts_with('.') {
                return refuse("a part of it is empty or begins with a dot");
            }
            if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-=.".contains(&b)) {
                return refuse("it holds a character that no file of a recording has");
            }
        }
        Ok(self.file(name))
    }

    fn file(&self, name: &str) -> Key {
        Key(format!("{}{name}", self.prefix))
    }
}

/// What a tenant's index of one day's recordings begins with; `date` is `yyyy/mm/dd` in UTC.
#[must_use]
pub fn index_prefix(tenant: &TenantId, date: &str) -> String {
    format!("index/{}/{date}/", tenant.token())
}

/// A tenant's index entry of a recording on the day it began; `date` is `yyyy/mm/dd` in UTC.
#[must_use]
pub fn index(tenant: &TenantId, date: &str, recording: &RecordingId) -> Key {
    Key(format!("{}{}.json", index_prefix(tenant, date), recording.token()))
}

/// What every key of [`probe`] begins with.
pub const PROBE_PREFIX: &str = "probe/";

/// Two creates of this key tell whether a store has conditional writes; `nonce` is new each time.
#[must_use]
pub fn probe(nonce: u64) -> Key {
    Key(format!("{PROBE_PREFIX}{nonce:016x}"))
}

/// Whether a key is one of [`probe`].
#[must_use]
pub fn is_probe(key: &Key) -> bool {
    let nonce = key.as_str().strip_prefix(PROBE_PREFIX).and_then(|nonce| u64::from_str_radix(nonce, 16).ok());
    nonce.is_some_and(|nonce| probe(nonce) == *key)
}

/// What every key of [`clean_marks`] begins with.
pub const CLEAN_PREFIX: &str = "clean/";

/// What a clean-up has found, written once by each run; `nonce` is new each time.
#[must_use]
pub fn clean_marks(unix_ms: u64, nonce: u64) -> Key {
    Key(format!("{CLEAN_PREFIX}{unix_ms:013}-{nonce:016x}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> RecordingKeys {
        RecordingKeys::new(
            &TenantId::new("acme").expect("valid"),
            &RoomId::new("../up").expect("valid"),
            &RecordingId::new("01abc").expect("valid"),
        )
    }

    #[test]
    fn keys_stay_below_the_recording() {
        let keys = keys();
        assert_eq!(keys.window(7).as_str(), "acme/rooms/=2E=2E=2Fup/recordings/01abc/windows/00000007.win");
        assert_eq!(keys.window_number(&keys.window(7)), Some(7));
        let grid = CompositeId::new("grid").expect("valid");
        assert_eq!(keys.slice_number(&grid, &keys.slice(&grid, 12)), Some(12));
        assert_eq!(keys.slice_number(&grid, &keys.init(&grid)), None);
        assert_eq!(keys.webm_slice_number(&grid, &keys.webm_slice(&grid, 12)), Some(12));
        assert_eq!(keys.webm_slice_number(&grid, &keys.slice(&grid, 12)), None);
        assert!(is_probe(&probe(7)) && is_probe(&probe(u64::MAX)));
        for other in ["probe/7", "probe/", "probe/+000000000000007", "probe/000000000000000A", "clean/0000000000000007"]
        {
            assert!(!is_probe(&Key(other.to_owned())), "{other}");
        }
        for other in ["7", "+0000007", "000000007"] {
            assert_eq!(keys.window_number(&Key(format!("{}{other}.win", keys.windows_prefix()))), None, "{other}");
            assert_eq!(keys.slice_number(&grid, &keys.composite_file(&grid, &format!("{other}.m4s"))), None, "{other}");
        }
        assert_eq!(keys.window_number(&keys.window(u64::MAX)), Some(u64::MAX));
        let name = RecordingName::of(keys.prefix()).expect("ours");
        assert_eq!((name.keys(), RecordingName::of(keys.window(7).as_str())), (keys.clone(), Some(name)));
        for other in
            ["", "index/acme/2026/11/21/01abc.json", "acme/rooms/a/recordings", "acme/rooms/../recordings/01abc/"]
        {
            assert_eq!(RecordingName::of(other), None, "{other}");
        }
    }

    /// S3 takes keys of 1024 bytes, and file systems names of 255.
    #[test]
    fn the_longest_ids_make_keys_that_stores_take() {
        use crate::id::{MAX_TOKEN_CHARS, PeerId};
        // Spelled with three characters a byte, and with one.
        for longest in ["会".repeat(MAX_TOKEN_CHARS / 9), "x".repeat(MAX_TOKEN_CHARS)] {
            let (tenant, room) = (TenantId::new(&longest).expect("valid"), RoomId::new(&longest).expect("valid"));
            // Ours have 26 characters; whatever else stands there is as long as an id.
            let recording = RecordingId::new(&longest).expect("valid");
            let composite = CompositeId::new(&longest).expect("valid");
            let peer = PeerId::new(&longest).expect("valid").token();
            let keys = RecordingKeys::new(&tenant, &room, &recording);
            for key in [
                keys.window(u64::MAX),
                keys.recording_json(),
                keys.unfinished_json(),
                keys.webm_slice(&composite, u64::MAX),
                keys.composite_file(&composite, "storyboard/percent-000.jpg"),
                keys.rendered_json(&composite),
                keys.track_file(&format!("{peer}-screen-4294967295-4294967295.rtpdump.json")),
                index(&tenant, "9999/12/31", &recording),
                clean_marks(u64::MAX, u64::MAX),
            ] {
                assert!(key.as_str().len() <= 1024, "{} bytes: {key}", key.as_str().len());
                assert!(key.as_str().split('/').all(|part| part.len() <= 255), "{key}");
            }
        }
    }

    #[test]
    fn user_names_cannot_leave() {
        let keys = keys();
        assert!(keys.user_file("composites/grid/composite.mp4").is_ok());
        for name in ["", "..", "../x", "a//b", "/etc/passwd", "a/../b", "a/.b", "a b", "a\\b", "a%2fb", "ä"] {
            assert!(keys.user_file(name).is_err(), "{name:?}");
        }
    }
}
