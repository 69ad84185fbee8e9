//! Late renders by request: bound to their composite's id, and put where the leader finds them.
//!
//! The recording is final and its policy with it, so any replica can decide who may ask. What was asked stands in the bucket before a
//! job stands in the coordination store: asked again after everything but the bucket was lost, a render goes on from its slices.

use roomreel_shared::cluster::{self, RenderProgress};
use roomreel_shared::id::{CompositeId, RecordingId, TenantId};
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::late::{ActiveRender, LateRender, LateSpec, LateState, Piece};
use roomreel_shared::policy;
use roomreel_shared::ports::{Change, Compare, CoordinationError, Ports};
use roomreel_shared::recording::Recording;
use time::OffsetDateTime;

use super::auth::Principal;
use super::problem::Problem;
use super::service;
use crate::late::{self, FieldError, Source, SourceError};
use crate::observed::json;
use crate::perform::to_json;

/// Most late renders under way in a cluster: the leader lists them every second.
const MAX_ACTIVE: usize = 1000;
/// Most of them of one tenant.
const MAX_ACTIVE_OF_TENANT: usize = 250;

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
    let malformed = |error: FieldError| Problem::malformed(error.to_string());
    late::check_composite("composite", &spec.composite).map_err(malformed)?;
    let composite = spec.composite.id.clone();
    let keys = recording.name().keys();
    let known = late::document(&*ports.store, &keys, &composite).await?;
    if let Some(known) = known {
        if known.spec != spec {
            return Err(Problem::composite_taken(&composite));
        }
        if known.state == LateState::Complete {
            return Ok((known, true));
        }
        if let Some(active) = find_active(ports, id, &composite).await? {
            return Ok((active.render, false));
        }
    } else {
        // What is there may be in the way of a clean-up, and is none of this render's.
        if recording.composites.iter().any(|listed| listed.id == composite)
            || !ports.store.list(&keys.composite_prefix(&composite)).await?.is_empty()
        {
            return Err(Problem::composite_taken(&composite));
        }
        if let Some(full) = full(&under_way(ports).await?, &principal.tenant) {
            return Err(Problem::unavailable(full));
        }
    }
    // Behind everything that needs no look at the windows: of a long recording there are thousands.
    let source = Source::asked(&*ports.store, &recording.name(), &spec).await.map_err(|error| match error {
        SourceError::Store(error) => error.into(),
        SourceError::NotRenderable(why) => Problem::not_renderable(why),
    })?;
    let requested_by = principal.peer.as_ref().map_or(principal.subject.as_str(), |peer| peer.as_str());
    let asked = source.render(spec, requested_by, OffsetDateTime::now_utc()).map_err(malformed)?;
    let bound = late::bind(&*ports.store, &asked).await?;
    if bound.spec != asked.render.spec {
        return Err(Problem::composite_taken(&composite));
    }
    if bound.state == LateState::Complete {
        return Ok((bound, true));
    }
    if !is_divided_as(&bound, &asked) {
        return Err(Problem::composite_divided(&composite));
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

/// Whether the slices that there may be are those that are made of this now: what a layout leaves out is not said by its text alone.
fn is_divided_as(bound: &LateRender, asked: &ActiveRender) -> bool {
    // One of before it was said has no parts.
    let is_untold = bound.shown_ms.is_empty() && asked.cuts.is_empty();
    (bound.slices, bound.duration_ms) == (asked.render.slices, asked.render.duration_ms)
        && (is_untold || bound.shown_ms == asked.render.shown_ms)
}

/// Whoever may record the room may render it again.
fn may_render(principal: &Principal, recording: &Recording) -> Result<(), Problem> {
    match principal.peer.as_ref().map_or(Ok(()), |peer| recording.policy.check_record(peer)) {
        Ok(()) | Err(policy::Refusal::Disabled) => Ok(()),
        Err(refusal) => Err(Problem::not_authorised(refusal.to_string())),
    }
}

/// Whose the late renders are that are under way.
async fn under_way(ports: &Ports) -> Result<Vec<TenantId>, CoordinationError> {
    let records = ports.coordination.list(&cluster::late_renders_prefix()).await?.records;
    Ok(records.iter().filter_map(|record| Some(json::<ActiveRender>(record).ok()?.fold.tenant)).collect())
}

/// Why a tenant may have no other late render now, if these are under way.
fn full(under_way: &[TenantId], tenant: &TenantId) -> Option<String> {
    let of_tenant = under_way.iter().filter(|of| *of == tenant).count();
    if of_tenant >= MAX_ACTIVE_OF_TENANT {
        let why = format!("{of_tenant} late renders of this tenant are under way, of {MAX_ACTIVE_OF_TENANT} at most");
        return Some(format!("{why}; ask again when some have ended"));
    }
    let count = under_way.len();
    let is_full = count >= MAX_ACTIVE;
    is_full.then(|| {
        format!("{count} late renders are under way in this cluster, of {MAX_ACTIVE} at most; try again later")
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::id;

    #[test]
    fn one_tenant_cannot_use_up_what_there_is_for_all() {
        let (one, other): (TenantId, TenantId) = (id("one"), id("other"));
        let of = |tenant: &TenantId, count| vec![tenant.clone(); count];
        assert_eq!(full(&of(&one, MAX_ACTIVE_OF_TENANT - 1), &one), None);
        let told = full(&of(&one, MAX_ACTIVE_OF_TENANT), &one).expect("its share is used up");
        assert!(told.contains("of this tenant") && told.contains("250 at most"), "{told}");
        assert_eq!(full(&of(&one, MAX_ACTIVE_OF_TENANT), &other), None, "others have theirs");
        let all: Vec<_> = (0..MAX_ACTIVE).map(|n| id(&format!("t{}", n % 8))).collect();
        let told = full(&all, &other).expect("the cluster is full");
        assert!(told.contains("in this cluster") && told.contains("1000 at most"), "{told}");
    }
}
