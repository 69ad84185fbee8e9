//! Moving from one arrangement to the next instead of jumping.
//!
//! Owns the interpolation. Pure: what is shown at `t` follows from the arrangements given so far and when.

use std::time::Duration;

use super::arrangement::{Arrangement, Rect, Tile};

/// Long enough to follow with the eye, short enough to cost little.
const DURATION: Duration = Duration::from_millis(300);
/// Steps of the way, so that the arithmetic is whole numbers and the same on every machine.
const STEPS: i64 = 1024;

/// Moves and cross-fades between arrangements; start from `default()`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transition {
    target: Option<Arrangement>,
    moving: Option<Moving>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Moving {
    from: Arrangement,
    since: Duration,
}

impl Transition {
    /// What to paint at `t` when the layout wants `target`. A new place for a tile starts a move of 300 ms from what
    /// is shown now; tiles that stay where they are change at once, and so does the first arrangement. Tiles of sources
    /// that left are shown until the move ends: their last pictures are needed until then.
    pub fn step(&mut self, target: Arrangement, t: Duration) -> Arrangement {
        if let Some(old) = &self.target
            && !same_places(old, &target)
        {
            let from = self.shown(t).unwrap_or_default();
            // From or to an empty picture there is nothing to follow.
            self.moving = (!from.tiles.is_empty() && !target.tiles.is_empty()).then_some(Moving { from, since: t });
        }
        self.target = Some(target);
        if self.moving.as_ref().is_some_and(|moving| t.saturating_sub(moving.since) >= DURATION) {
            self.moving = None;
        }
        self.shown(t).unwrap_or_default()
    }

    fn shown(&self, t: Duration) -> Option<Arrangement> {
        let target = self.target.as_ref()?;
        let Some(moving) = &self.moving else { return Some(target.clone()) };
        let elapsed = t.saturating_sub(moving.since).min(DURATION).as_micros() as i64;
        Some(between(&moving.from, target, ease(elapsed * STEPS / DURATION.as_micros() as i64)))
    }
}

/// Slow at both ends: 3x² - 2x³.
fn ease(step: i64) -> i64 {
    step * step * (3 * STEPS - 2 * step) / (STEPS * STEPS)
}

fn same_places(a: &Arrangement, b: &Arrangement) -> bool {
    a.theme == b.theme
        && a.tiles.len() == b.tiles.len()
        && a.tiles.iter().zip(&b.tiles).all(|(a, b)| a.source == b.source && a.rect == b.rect && a.z == b.z)
}

/// `done` of [`STEPS`] on the way: common tiles move, the others fade.
fn between(from: &Arrangement, to: &Arrangement, done: i64) -> Arrangement {
    let mut tiles = Vec::with_capacity(to.tiles.len() + from.tiles.len());
    // What leaves lies under what comes; where something new takes its whole place it stays solid below, or the
    // background would shine through both.
    tiles.extend(from.tiles.iter().filter(|tile| find(to, tile).is_none()).map(|tile| {
        let is_replaced = to.tiles.iter().any(|new| find(from, new).is_none() && new.rect.contains(&tile.rect));
        let opacity = if is_replaced { tile.opacity } else { mix(u32::from(tile.opacity), 0, done) as u8 };
        Tile { opacity, ..tile.clone() }
    }));
    tiles.extend(to.tiles.iter().map(|tile| match find(from, tile) {
        Some(old) => Tile {
            rect: Rect::new(
                mix(old.rect.x, tile.rect.x, done),
                mix(old.rect.y, tile.rect.y, done),
                mix(old.rect.width, tile.rect.width, done).max(2),
                mix(old.rect.height, tile.rect.height, done).max(2),
            ),
            radius: mix(old.radius, tile.radius, done),
            opacity: mix(u32::from(old.opacity), u32::from(tile.opacity), done) as u8,
            ..tile.clone()
        },
        None => Tile { opacity: mix(0, u32::from(tile.opacity), done) as u8, ..tile.clone() },
    }));
    tiles.retain(|tile| tile.opacity > 0);
    tiles.sort_by_key(|tile| tile.z);
    Arrangement { theme: to.theme, tiles, overlays: to.overlays.clone() }
}

fn find<'a>(arrangement: &'a Arrangement, tile: &Tile) -> Option<&'a Tile> {
    arrangement.tiles.iter().find(|other| other.source == tile.source)
}

fn mix(from: u32, to: u32, done: i64) -> u32 {
    let (from, to) = (i64::from(from), i64::from(to));
    u32::try_from(from + (to - from) * done / STEPS).unwrap_or(0)
}
