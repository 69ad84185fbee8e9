//! What is seen in the tiles of a few frames.
//!
//! Owns the order of decoding: track by track, several frames in a row, and each picture brought to its tile's size while it is
//! still in the processor's caches; the tiles of pictures that stand still; and that nothing is decoded that is not seen. Does not
//! own what is where (layout), nor which layer is decoded (the track).

use std::collections::{BTreeMap, BTreeSet};

use roomreel_shared::time::RoomTime;
use roomreel_shared::window::TrackKey;

use super::{Track, TrackMedia};
use crate::engine::witness;
use crate::frame::{Picture, PictureId};
use crate::layout::{Arrangement, Content, Fit, Rect, SourceId, Tile};
use crate::paint;
use crate::timeline::room::RoomState;

/// A frame whose tiles have their places.
pub(super) struct Frame {
    pub t: RoomTime,
    /// As the layout wants it: whose picture is needed, and how large.
    pub wanted: Arrangement,
    /// On the way there.
    pub shown: Arrangement,
}

/// The newest tile of each source.
#[derive(Default)]
pub(super) struct Views {
    tiles: BTreeMap<SourceId, View>,
    /// What was seen in it last: a tile that goes is shown with that until it is gone.
    last: BTreeMap<SourceId, Picture>,
}

/// A picture at its tile's size.
struct View {
    of: PictureId,
    rect: Rect,
    fit: Fit,
    picture: Picture,
}

impl Views {
    /// For each frame the pictures of all sources that have a tile, at the size of that tile; tracks that are not seen go on unseen,
    /// and a source whose tile is on its way out stands still. `state` holds for all frames.
    pub(super) fn pictures(
        &mut self,
        tracks: &mut BTreeMap<TrackKey, Track>,
        state: &RoomState,
        frames: &[Frame],
    ) -> Vec<BTreeMap<SourceId, Picture>> {
        let mut pictures = vec![BTreeMap::new(); frames.len()];
        let tiles = frames.iter().flat_map(|frame| frame.wanted.tiles.iter().chain(&frame.shown.tiles));
        let sources: BTreeSet<_> =
            tiles.filter(|tile| tile.content == Content::Picture).map(|tile| &tile.source).collect();
        for source in &sources {
            let keys: Vec<_> = state.tracks_of(source).collect();
            for (frame, pictures) in frames.iter().zip(&mut pictures) {
                let Some(tile) = frame.wanted.tile_of(source) else {
                    pictures.extend(self.last.get(source).map(|last| ((*source).clone(), last.clone())));
                    continue;
                };
                let is_seen = tile.content == Content::Picture && !is_covered(source, &frame.shown);
                let picture = keys.iter().filter(|_| is_seen).find_map(|key| match &mut tracks.get_mut(key)?.media {
                    TrackMedia::Video(video) => {
                        witness::at(key, frame.t);
                        video.picture(frame.t, tile.rect.width, tile.rect.height)
                    }
                    TrackMedia::Audio(_) => None,
                });
                // What was seen before something else was is not to be seen again.
                let Some(picture) = picture else {
                    self.last.remove(source);
                    continue;
                };
                let fitted = self.fitted(source, picture, &frame.shown);
                self.last.insert((*source).clone(), fitted.clone());
                pictures.insert((*source).clone(), fitted);
            }
        }
        self.tiles.retain(|source, _| sources.contains(source));
        self.last.retain(|source, _| sources.contains(source));
        go_on(tracks, state, frames);
        pictures
    }

    /// Frames that nobody sees: tracks go on, and nothing of what was seen before stands still behind them.
    pub(super) fn skip(&mut self, tracks: &mut BTreeMap<TrackKey, Track>, state: &RoomState, frames: &[Frame]) {
        self.last.clear();
        go_on(tracks, state, frames);
    }

    /// The picture at the size it is shown at, if it has one place only.
    fn fitted(&mut self, source: &SourceId, picture: Picture, shown: &Arrangement) -> Picture {
        let mut places = shown.tiles.iter().filter(|tile| tile.source == *source);
        let (Some(Tile { rect, fit, .. }), None) = (places.next(), places.next()) else { return picture };
        let known = self.tiles.get(source);
        let is_it = |view: &View| (view.of, view.fit) == (picture.id(), *fit) && same_size(view.rect, *rect);
        if let Some(view) = known.filter(|view| is_it(view)) {
            return view.picture.clone();
        }
        let Some(fitted) = paint::fitted(&picture, *rect, *fit) else { return picture };
        let view = View { of: picture.id(), rect: *rect, fit: *fit, picture: fitted.clone() };
        self.tiles.insert(source.clone(), view);
        fitted
    }
}

/// Brings all tracks to the last of the frames: what is not seen goes on unseen, and what its owner has switched off is blank.
fn go_on(tracks: &mut BTreeMap<TrackKey, Track>, state: &RoomState, frames: &[Frame]) {
    let Some(last) = frames.last() else { return };
    for (key, track) in tracks {
        if let TrackMedia::Video(video) = &mut track.media {
            witness::at(key, last.t);
            video.pass(last.t);
            let known = state.track(key);
            if !known.is_some_and(|track| track.is_live()) {
                video.blank(last.t, known.and_then(|track| track.paused_at));
            }
        }
    }
    witness::done();
}

/// Whether nothing of the source can be seen.
fn is_covered(source: &SourceId, shown: &Arrangement) -> bool {
    let mut tiles = shown.tiles.iter().filter(|tile| tile.source == *source);
    tiles.all(|tile| paint::is_covered(tile, shown.tiles.iter()))
}

fn same_size(a: Rect, b: Rect) -> bool {
    (a.width, a.height) == (b.width, b.height)
}

#[cfg(test)]
mod tests;
