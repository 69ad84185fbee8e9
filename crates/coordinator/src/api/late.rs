//! Late renders by request: bound to their composite's id, and put where the leader finds them.
//!
//! The recording is final and its policy with it, so any replica can decide who may ask. What was asked stands in the bucket before a
//! job stands in the coordination store: asked again after everything but the bucket was lost, a render goes on from its slices.

use roomreel_shared::cluster::{self, RenderProgress};
use roomreel_shared::id::{CompositeId, RecordingId};
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::late::{ActiveRender, LateRender, LateSpec, LateState, Piece};
use roomreel_shared::policy;
use roomreel_shared::ports::{Change, Compare, CoordinationError, Ports};
use roomreel_shared::recording::Recording;
use time::OffsetDateTime;

use super::auth::Principal;
use super::problem::Problem;
use super::service;
use crate::late::{self, Source, SourceError};
use crate::observed::json;
use crate::perform::to_json;

/// Most late renders under way in a cluster.
const MAX_ACTIVE: usize = 1000;

/// Takes up a late render, or finds that it was taken up before; and whether there is anything left to do for it.
///
/// # Errors
/// Whatever speaks against it.
pub async fn ask(
    ports: &Ports,
    principal: &Principal,
    id: &RecordingId,
    spec: LateSpec,
) -> Result<(LateRender, bool), Problem> {
    let found = service::find(ports, &principal.tenant, id).await?;
    let recording = found.recording;
    may_render(principal, &recording)?;
    if found.active {
        return Err(Problem::not_ended());
    }
    let composite = spec.composite.id.clone();
    let source = Source::asked(&*ports.store, &recording.name(), &spec).await.map_err(|error| match error {
        SourceError::Store(error) => error.into(),
        SourceError::NotRenderable(why) => Problem::not_renderable(why),
    })?;
    let requested_by = principal.peer.as_ref().map_or(principal.subject.as_str(), |peer| peer.as_str());
    let asked = source
        .render(spec, requested_by, OffsetDateTime::now_utc())
        .map_err(|error| Problem::malformed(error.to_string()))?;
    let keys = recording.name().keys();
    let known = late::document(&*ports.store, &keys, &composite).await?;
    // What is there may be in the way of a clean-up, and is none of this render's.
    if known.is_none()
        && (recording.composites.iter().any(|listed| listed.id == composite)
            || !ports.store.list(&keys.composite_prefix(&composite)).await?.is_empty())
    {
        return Err(Problem::composite_taken(&composite));
    }
    if known.is_none() && under_way(ports).await? >= MAX_ACTIVE {
        return Err(Problem::unavailable(format!("{MAX_ACTIVE} late renders are under way; try again later")));
    }
    let bound = late::bind(&*ports.store, &asked).await?;
    if bound.spec != asked.render.spec {
        return Err(Problem::composite_taken(&composite));
    }
    if bound.state == LateState::Complete {
        return Ok((bound, true));
    }
    // A failed one, or one whose job was lost, goes on from its slices.
    let key = cluster::late_render_key(id, &composite);
    let put = Change::Put(key.clone(), to_json(&asked), None);
    ports.coordination.transact(vec![Compare::Absent(key)], vec![put]).await?;
    let active = find_active(ports, id, &composite).await?;
    Ok((active.map_or(asked.render, |active| active.render), false))
}

/// How a late render stands.
///
/// # Errors
/// There is none, or the stores do not answer.
pub async fn show(
    ports: &Ports,
    principal: &Principal,
    id: &RecordingId,
    composite: &CompositeId,
) -> Result<LateRender, Problem> {
    let recording = service::find(ports, &principal.tenant, id).await?.recording;
    if !service::may_see(principal, &recording) {
        return Err(Problem::not_seen());
    }
    // The bucket last: a render that ends between the two is found in its final state.
    if let Some(active) = find_active(ports, id, composite).await? {
        return Ok(LateRender { rendered: rendered(ports, &active).await?, ..active.render });
    }
    let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
    let mut render = late::document(&*ports.store, &keys, composite).await?.ok_or_else(Problem::no_composite)?;
    if !render.state.is_final() {
        "its job was lost; ask for it again, and it goes on from its slices".clone_into(&mut render.reason);
    }
    Ok(render)
}

/// Whoever may record the room may render it again.
fn may_render(principal: &Principal, recording: &Recording) -> Result<(), Problem> {
    match principal.peer.as_ref().map_or(Ok(()), |peer| recording.policy.check_record(peer)) {
        Ok(()) | Err(policy::Refusal::Disabled) => Ok(()),
        Err(refusal) => Err(Problem::not_authorised(refusal.to_string())),
    }
}

async fn under_way(ports: &Ports) -> Result<usize, CoordinationError> {
    Ok(ports.coordination.list(&cluster::late_renders_prefix()).await?.records.len())
}

async fn find_active(
    ports: &Ports,
    id: &RecordingId,
    composite: &CompositeId,
) -> Result<Option<ActiveRender>, CoordinationError> {
    let record = ports.coordination.get(&cluster::late_render_key(id, composite)).await?;
    Ok(record.and_then(|record| json(&record).ok()))
}

/// Slices that exist: of the jobs that are done, and as far as the others have told.
async fn rendered(ports: &Ports, active: &ActiveRender) -> Result<u64, CoordinationError> {
    let composite = &active.render.spec.composite.id;
    let prefix = format!("{}/", cluster::render_progress_key(&active.fold.recording, Some(composite)));
    let mut rendered = active.render.rendered;
    for record in ports.coordination.list(&prefix).await?.records {
        let piece = record.key.strip_prefix(&prefix).and_then(cluster::piece_of_token);
        let counted = active.done.iter().any(|number| Some(active.piece(*number)) == piece);
        if matches!(piece, Some(Piece::Spans { .. })) && !counted {
            rendered += json::<RenderProgress>(&record).map_or(0, |progress| progress.slices);
        }
    }
    Ok(rendered.min(active.render.slices))
}
