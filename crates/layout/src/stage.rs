//! The built-in layouts: who is on the stage, who in the grid or strip, who on which page.
//!
//! Owns those choices. The geometry is [`super::grid`]'s, who speaks [`super::memory`]'s.

use std::time::Duration;

use roomreel_shared::look::Corner;

use super::PAGE;
use super::arrangement::{Arrangement, Content, Fit, Overlay, Rect, Tile};
use super::grid::{self, Metrics};
use super::memory::LayoutMemory;
use super::scene::{Camera, Microphone, Participant, Scene, Screenshare, SourceId};

/// Where those beside the stage are, on a canvas that is wider than tall; on a tall one they are below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strip {
    Side,
    Bottom,
}

/// What can be in a tile.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shown<'a> {
    Person(&'a Participant),
    Screen(&'a Screenshare),
}

/// How a tile is dressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dress {
    pub z: i32,
    pub radius: u32,
    /// Whether the ring of who is heard is shown; alone on the canvas it would say nothing.
    pub ring: bool,
}

impl<'a> Shown<'a> {
    pub fn source(self) -> SourceId {
        match self {
            Self::Person(person) => SourceId::camera(person.peer.clone()),
            Self::Screen(share) => share.source.clone(),
        }
    }

    pub fn tile(self, scene: &Scene, rect: Rect, dress: Dress) -> Tile {
        let owner = match self {
            Self::Person(person) => Some(person),
            Self::Screen(share) => scene.participant(&share.owner),
        };
        let name = match (owner, self) {
            (Some(owner), _) if !owner.display_name.trim().is_empty() => owner.display_name.trim().to_owned(),
            (_, Self::Person(person)) => person.peer.to_string(),
            (_, Self::Screen(share)) => share.owner.to_string(),
        };
        let person = match self {
            Self::Person(person) => Some(person),
            Self::Screen(_) => None,
        };
        let is_off = person.is_some_and(|person| person.camera == Camera::Off);
        Tile {
            source: self.source(),
            rect,
            z: dress.z,
            fit: if person.is_some() { Fit::Cover } else { Fit::Contain },
            content: if is_off { Content::Placeholder } else { Content::Picture },
            label: Some(name.clone()),
            name,
            muted: person.is_some_and(|person| person.microphone == Microphone::Muted),
            speaking: dress.ring && person.is_some_and(|person| person.speaking),
            radius: dress.radius,
            opacity: u8::MAX,
        }
    }
}

/// One arrangement in the making.
pub(super) struct Plan<'a> {
    scene: &'a Scene,
    /// On the stage, or first among equals.
    speaker: Option<&'a Participant>,
    people: Vec<&'a Participant>,
    shares: Vec<&'a Screenshare>,
    canvas: Rect,
    metrics: Metrics,
    t: Duration,
    out: &'a mut Arrangement,
}

impl<'a> Plan<'a> {
    pub fn new(
        scene: &'a Scene,
        width: u32,
        height: u32,
        memory: &mut LayoutMemory,
        t: Duration,
        out: &'a mut Arrangement,
    ) -> Self {
        Self {
            scene,
            speaker: memory.stage(scene, t),
            people: scene.visible().collect(),
            shares: scene.visible_screenshares().collect(),
            canvas: Rect::new(0, 0, width, height),
            metrics: Metrics::of(width, height),
            t,
            out,
        }
    }

    /// Everybody alike; a shared screen takes the stage and turns it into a presentation.
    pub fn grid(&mut self) {
        if !self.shares.is_empty() {
            return self.staged(Strip::Side);
        }
        match self.people[..] {
            [] => {}
            [only] if self.is_wide() => self.full(Shown::Person(only)),
            _ => {
                let people = self.people.iter().map(|person| Shown::Person(person)).collect();
                self.equal_tiles(self.canvas, people);
            }
        }
    }

    /// The newest shared screen or else the speaker on the stage, everybody else in a strip.
    pub fn staged(&mut self, strip: Strip) {
        let Some(on_stage) = self.on_stage() else { return };
        let others = self.all_but(on_stage);
        let Metrics { gutter, radius } = self.metrics;
        let inner = self.canvas.shrunk(gutter);
        if others.is_empty() {
            return match on_stage {
                // A camera would lose two thirds of its width.
                Shown::Person(_) if !self.is_wide() => {
                    self.put(on_stage, grid::stage(inner), Dress { z: 0, radius, ring: false });
                }
                _ => self.full(on_stage),
            };
        }
        // Three quarters of the canvas: 720 lines scaled by an exact ratio, and what remains is a strip of good height.
        let (stage, rest) = if !self.is_wide() {
            let height = inner.width * 9 / 16;
            (
                Rect::new(inner.x, inner.y, inner.width, height),
                // The grid keeps its own gutter all around.
                Rect::new(0, inner.y + height, self.canvas.width, self.canvas.height.saturating_sub(gutter + height)),
            )
        } else if strip == Strip::Side {
            let width = self.canvas.width * 3 / 4;
            let rest = inner.width.saturating_sub(width + gutter);
            (
                grid::stage(Rect::new(inner.x, inner.y, width, inner.height)),
                Rect::new(inner.x + width + gutter, inner.y, rest, inner.height),
            )
        } else {
            let height = self.canvas.height * 3 / 4;
            let rest = inner.height.saturating_sub(height + gutter);
            (
                grid::stage(Rect::new(inner.x, inner.y, inner.width, height)),
                Rect::new(inner.x, inner.y + height + gutter, inner.width, rest),
            )
        };
        self.put(on_stage, stage, Dress { z: 0, radius, ring: false });
        if self.is_wide() {
            self.in_strip(rest, others);
        } else {
            self.equal_tiles(rest, others);
        }
    }

    /// The newest shared screen or else the speaker, alone.
    pub fn single_speaker(&mut self) {
        if let Some(on_stage) = self.on_stage() {
            self.full(on_stage);
        }
    }

    /// The newest shared screen or else the speaker on all of the canvas, the others in turn in a corner of it; beside
    /// a shared screen the corner is the speaker's.
    pub fn picture_in_picture(&mut self) {
        let Some(on_stage) = self.on_stage() else { return };
        self.full(on_stage);
        let others = self.all_but(on_stage);
        let inset = match (on_stage, self.speaker) {
            (Shown::Screen(_), Some(speaker)) => Some(Shown::Person(speaker)),
            _ => self.page(&others, 1).first().copied(),
        };
        let Some(inset) = inset else { return };
        let Metrics { gutter, radius } = self.metrics;
        let margin = gutter * 2;
        let width = if self.is_wide() { self.canvas.width / 4 } else { self.canvas.width * 2 / 5 };
        let size = Rect::new(0, 0, width, width * 9 / 16);
        let corner = Rect::new(
            self.canvas.width.saturating_sub(size.width + margin),
            self.canvas.height.saturating_sub(size.height + margin),
            size.width,
            size.height,
        );
        self.put(inset, corner, Dress { z: 1, radius, ring: true });
    }

    fn is_wide(&self) -> bool {
        self.canvas.width >= self.canvas.height
    }

    fn on_stage(&self) -> Option<Shown<'a>> {
        let share = self.shares.last().map(|share| Shown::Screen(share));
        share.or_else(|| self.speaker.map(Shown::Person))
    }

    /// Everyone else: older screens first, then who speaks if a screen has the stage, then the order of joining.
    fn all_but(&self, on_stage: Shown<'a>) -> Vec<Shown<'a>> {
        let is_screen = matches!(on_stage, Shown::Screen(_));
        let speaker = self.speaker.filter(|_| is_screen).map(|speaker| &speaker.peer);
        let mut people: Vec<_> = self.people.clone();
        people.sort_by_key(|person| Some(&person.peer) != speaker);
        let screens = self.shares.iter().map(|share| Shown::Screen(share));
        let source = on_stage.source();
        screens.chain(people.into_iter().map(Shown::Person)).filter(|shown| shown.source() != source).collect()
    }

    /// One on all of the canvas.
    fn full(&mut self, shown: Shown<'a>) {
        self.put(shown, self.canvas, Dress { z: 0, radius: 0, ring: false });
    }

    fn equal_tiles(&mut self, area: Rect, all: Vec<Shown<'a>>) {
        let page = self.page(&all, grid::capacity(area, self.metrics));
        let places = grid::cells(area, page.len(), self.metrics);
        self.put_all(page, places);
    }

    fn in_strip(&mut self, area: Rect, all: Vec<Shown<'a>>) {
        let room = grid::strip(area, all.len(), self.metrics.gutter).len();
        let page = self.page(&all, room);
        let places = grid::strip(area, page.len(), self.metrics.gutter);
        self.put_all(page, places);
    }

    /// Those of `all` that have their turn. Every page is full (the last one begins again with the first), so tiles
    /// keep their size when it turns. If who speaks is among them it stands first on every page, and the others turn.
    fn page(&mut self, all: &[Shown<'a>], room: usize) -> Vec<Shown<'a>> {
        if all.len() <= room || room == 0 {
            return all[..all.len().min(room)].to_vec();
        }
        let speaker = self.speaker.map(|speaker| SourceId::camera(speaker.peer.clone()));
        // With room for one everybody has a turn.
        let pinned = all.iter().copied().find(|shown| room > 1 && Some(shown.source()) == speaker);
        let turning: Vec<_> =
            all.iter().filter(|shown| pinned.is_none_or(|pinned| pinned.source() != shown.source())).collect();
        let room = room - usize::from(pinned.is_some());
        let pages = turning.len().div_ceil(room);
        let turn = (self.t.as_micros() / PAGE.as_micros() % pages as u128) as usize;
        self.out.overlays.push(Overlay::text(format!("{}/{pages}", turn + 1), Corner::TopLeft));
        pinned.into_iter().chain(turning.into_iter().cycle().skip(turn * room).take(room).copied()).collect()
    }

    fn put_all(&mut self, shown: Vec<Shown<'a>>, places: Vec<Rect>) {
        let widest = places.iter().map(|place| place.width).max().unwrap_or(0);
        // Small tiles take smaller corners.
        let radius = self.metrics.radius.min(widest / 16);
        for (shown, place) in shown.into_iter().zip(places) {
            self.put(shown, place, Dress { z: 0, radius, ring: true });
        }
    }

    fn put(&mut self, shown: Shown<'a>, rect: Rect, dress: Dress) {
        // A canvas of a few pixels has no room for some of them.
        if !rect.is_empty() && self.canvas.contains(&rect) {
            self.out.tiles.push(shown.tile(self.scene, rect, dress));
        }
    }
}
