//! The coordination store as the planner sees it: full lists, decoded, with the revisions that writes are conditioned on.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use roomreel_shared::cluster::{self, Role};
use roomreel_shared::id::{CompositeId, RecordingId};
use roomreel_shared::late::ActiveRender;
use roomreel_shared::ports::{Coordination, CoordinationError, Record};
use serde::de::DeserializeOwned;

use crate::plan::{Alive, LateId, PieceId, RenderId};

/// Longest value that is read; longer ones are none of ours.
const MAX_VALUE_BYTES: usize = 1024 * 1024;

/// Of a record, as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revisions {
    /// When it came into being.
    pub created: u64,
    /// Its last change.
    pub changed: u64,
}

/// What is alive, and at which revision each record stood.
#[derive(Debug, Default)]
pub struct Observed {
    /// For the planner.
    pub alive: Alive,
    /// By key.
    pub revisions: BTreeMap<String, Revisions>,
    /// Keys whose value could not be read, with the reason.
    pub unreadable: Vec<(String, String)>,
}

impl Observed {
    /// Lists everything.
    ///
    /// # Errors
    /// As the store's. The lists are of slightly different revisions, which is harmless: a write is conditioned on the
    /// revision of the record that it changes, and on the being of the recording that it belongs to.
    pub async fn read(store: &dyn Coordination) -> Result<Self, CoordinationError> {
        let prefixes = [
            cluster::nodes_prefix(Role::Ingest),
            cluster::nodes_prefix(Role::Compositor),
            cluster::recordings_prefix(),
            cluster::assignments_prefix(),
            cluster::progress_prefix(),
            cluster::renders_prefix(),
            cluster::render_progress_prefix(),
            cluster::late_renders_prefix(),
            cluster::requests_prefix(),
        ];
        let lists: Vec<_> = prefixes.iter().map(|prefix| store.list(prefix)).collect();
        let lists = try_join_all(lists).await?;
        let mut observed = Self::default();
        for record in lists.into_iter().flat_map(|list| list.records) {
            if let Err(why) = observed.take(&record) {
                observed.unreadable.push((record.key.clone(), why));
            }
            let revisions = Revisions { created: record.create_revision, changed: record.mod_revision };
            observed.revisions.insert(record.key, revisions);
        }
        Ok(observed)
    }

    fn take(&mut self, record: &Record) -> Result<(), String> {
        let alive = &mut self.alive;
        let key = &record.key;
        let below = |prefix: String| key.strip_prefix(&prefix).map(str::to_owned);
        if let Some(token) = below(cluster::recordings_prefix()) {
            alive.recordings.insert(recording(&token)?, json(record)?);
        } else if let Some(token) = below(cluster::assignments_prefix()) {
            alive.assignments.insert(recording(&token)?, json(record)?);
        } else if let Some(token) = below(cluster::progress_prefix()) {
            alive.progress.insert(recording(&token)?, json(record)?);
        } else if let Some(tokens) = below(cluster::renders_prefix()) {
            match piece(&tokens)? {
                Some(id) => drop(alive.pieces.insert(id, json(record)?)),
                None => drop(alive.renders.insert(render(&tokens)?, json(record)?)),
            }
        } else if let Some(tokens) = below(cluster::render_progress_prefix()) {
            match piece(&tokens)? {
                Some(id) => drop(alive.piece_progress.insert(id, json(record)?)),
                None => drop(alive.render_progress.insert(render(&tokens)?, json(record)?)),
            }
        } else if let Some(tokens) = below(cluster::late_renders_prefix()) {
            let id = late_render(&tokens)?;
            let late: ActiveRender = json(record)?;
            // It names its own jobs' keys.
            if (&late.fold.recording, &late.render.spec.composite.id) != (&id.0, &id.1) {
                return Err("the late render names itself otherwise than its key".to_owned());
            }
            alive.late.insert(id, late);
        } else if let Some(id) = below(cluster::requests_prefix()) {
            alive.requests.insert(id, json(record)?);
        } else {
            let node: cluster::Node = json(record)?;
            if cluster::node_key(node.role, &node.id) != *key {
                return Err("the node names itself otherwise than its key".to_owned());
            }
            alive.nodes.insert((node.role, node.id.clone()), node);
        }
        Ok(())
    }
}

fn recording(token: &str) -> Result<RecordingId, String> {
    RecordingId::from_token(token).map_err(|e| e.to_string())
}

fn render(tokens: &str) -> Result<RenderId, String> {
    let (of, composite) = tokens.split_once('/').ok_or("it has no composite")?;
    let composite = match composite {
        "=documents" => None,
        token => Some(CompositeId::from_token(token).map_err(|e| e.to_string())?),
    };
    Ok(RenderId { recording: recording(of)?, composite })
}

fn late_render(tokens: &str) -> Result<LateId, String> {
    match render(tokens)? {
        RenderId { recording, composite: Some(composite) } => Ok((recording, composite)),
        RenderId { composite: None, .. } => Err("it has no composite".to_owned()),
    }
}

/// A job of a late render has one part more than another render.
fn piece(tokens: &str) -> Result<Option<PieceId>, String> {
    match tokens.rsplit_once('/') {
        Some((of, last)) if of.contains('/') => {
            let piece = cluster::piece_of_token(last).ok_or("its last part names no piece")?;
            Ok(Some((late_render(of)?, piece)))
        }
        _ => Ok(None),
    }
}

/// Reads a record's value.
///
/// # Errors
/// In words.
pub fn json<T: DeserializeOwned>(record: &Record) -> Result<T, String> {
    if record.value.len() > MAX_VALUE_BYTES {
        return Err(format!("its {} bytes are over the limit of {MAX_VALUE_BYTES}", record.value.len()));
    }
    serde_json::from_slice(&record.value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use roomreel_shared::cluster::Node;
    use roomreel_shared::id::NodeId;

    fn record(key: String, value: impl Into<Bytes>) -> Record {
        Record { key, value: value.into(), create_revision: 1, mod_revision: 2 }
    }

    #[test]
    fn hostile_records_are_named_and_passed_over() {
        let id = RecordingId::new("01abc").expect("valid");
        let node = Node {
            id: NodeId::new("a").expect("valid"),
            role: Role::Ingest,
            capacity: 1,
            load: 0,
            draining: false,
            version: "1".to_owned(),
        };
        let good = serde_json::to_vec(&node).expect("plain data");
        let mut observed = Observed::default();
        for (record, is_good) in [
            (record(cluster::node_key(Role::Ingest, &node.id), good.clone()), true),
            (record(cluster::node_key(Role::Compositor, &node.id), good), false),
            (record(cluster::recording_key(&id), "{}"), false),
            (record(cluster::recording_key(&id), vec![b' '; MAX_VALUE_BYTES + 1]), false),
            (record(format!("{}../x", cluster::assignments_prefix()), "{}"), false),
            (record(format!("{}01abc", cluster::renders_prefix()), "{}"), false),
            (record(format!("{}01abc/grid/+1-2", cluster::renders_prefix()), "{}"), false),
            (record(format!("{}01abc/=documents", cluster::late_renders_prefix()), "{}"), false),
            (record(cluster::progress_key(&id), vec![0xff, 0xfe]), false),
        ] {
            assert_eq!(observed.take(&record).is_ok(), is_good, "{}", record.key);
        }
        assert_eq!(observed.alive.nodes.len(), 1);
    }

    #[test]
    fn render_keys_are_read_as_they_are_written() {
        let recording = RecordingId::new("01.abc").expect("valid");
        for composite in [None, Some(CompositeId::new("pip/left").expect("valid"))] {
            let key = cluster::render_key(&recording, composite.as_ref());
            let tokens = key.strip_prefix(&cluster::renders_prefix()).expect("its prefix");
            assert_eq!(render(tokens), Ok(RenderId { recording: recording.clone(), composite }));
        }
    }
}
