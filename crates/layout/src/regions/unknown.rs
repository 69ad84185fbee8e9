//! Names of sources that are nobody's, in a room that nobody can join any more.

use std::collections::BTreeSet;

use roomreel_shared::id::{PeerId, RecordingId};

use super::super::Error;
use super::Document;
use super::parse::shortened;
use super::pattern::Pattern;

/// Most participants that an error names.
const MAX_NAMED: usize = 5;

impl Document {
    /// Whether everybody who is named without a wildcard was there; `peers` are all that ever were.
    pub(in super::super) fn check_sources(
        &self,
        recording: &RecordingId,
        peers: &BTreeSet<PeerId>,
    ) -> Result<(), Error> {
        for region in &self.regions {
            let path = |field: &str| format!("regions.{}.{field}", shortened(&region.name));
            check(&path("video_sources"), &region.video_sources, recording, peers)?;
            check(&path("video_sources_excluded"), &region.video_sources_excluded, recording, peers)?;
        }
        check("audio_sources", &self.audio_sources, recording, peers)?;
        check("audio_sources_excluded", &self.audio_sources_excluded, recording, peers)
    }
}

fn check(path: &str, patterns: &[Pattern], recording: &RecordingId, peers: &BTreeSet<PeerId>) -> Result<(), Error> {
    let unknown = patterns.iter().enumerate().find_map(|(index, pattern)| {
        let name = pattern.literal()?;
        (!is_of_any(name, peers)).then_some((index, name))
    });
    match unknown {
        None => Ok(()),
        Some((index, name)) => Err(Error::Document {
            path: format!("{path}[{index}]"),
            why: format!(
                "nobody in recording {} is or publishes {:?}; {}",
                shortened(recording.as_str()),
                shortened(name),
                told(peers)
            ),
        }),
    }
}

/// Whether it is somebody's id, or the name of one of their sources.
fn is_of_any(name: &str, peers: &BTreeSet<PeerId>) -> bool {
    let is_peer = |id: &str| PeerId::new(id).is_ok_and(|peer| peers.contains(&peer));
    is_peer(name) || ["-audio", "-video", "-screen"].iter().any(|suffix| name.strip_suffix(suffix).is_some_and(is_peer))
}

fn told(peers: &BTreeSet<PeerId>) -> String {
    let named: Vec<_> = peers.iter().take(MAX_NAMED).map(|peer| shortened(peer.as_str())).collect();
    match peers.len() - named.len() {
        _ if peers.is_empty() => "there was nobody".to_owned(),
        0 => format!("it has {}", named.join(", ")),
        more => format!("it has {} and {more} more", named.join(", ")),
    }
}
