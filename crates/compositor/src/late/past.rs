//! What a render that begins in mid-recording has to be told of the windows before: a span's, a successor's, or that of a process in the place
//! of one that died.
//!
//! Footers are read once, or learned as windows pass by, and kept without what nobody asks for any more; packets only where a picture builds
//! on them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::ports::{ObjectStore, StoreError};
use roomreel_shared::rtp::Ssrc;
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::{FetchError, Footer, TrackKey, Window};

use crate::engine::Error;
use crate::render::WARM_UP;

/// Reads under way at once.
const CONCURRENCY: usize = 16;
/// A key picture that is older at the beginning of a span than this is not sought: the track shows nothing until the next one.
const LOOK_BACK: Duration = Duration::from_secs(600);

/// A window whose footer was read.
struct Known {
    /// An object with its events alone; of window 0, with what it carries over too.
    object: Bytes,
    /// The newest room time seen.
    seen: RoomTime,
}

/// Windows of a recording, from the first on, as far as they were needed or have passed by.
pub(crate) struct Past {
    store: Arc<dyn ObjectStore>,
    keys: RecordingKeys,
    /// Lengths of the window objects; empty before they were listed.
    sizes: Vec<u64>,
    known: Vec<Known>,
    room_start: RoomTime,
    /// Those of which there is media.
    tracks: BTreeSet<TrackKey>,
    /// Of each stream, its key pictures: in which window, and when.
    keyframes: BTreeMap<(TrackKey, Ssrc), Vec<(u64, RoomTime)>>,
}

impl Past {
    /// Of the recording that is folded so.
    pub(crate) fn of(store: &Arc<dyn ObjectStore>, fold: &FoldSpec) -> Self {
        Self::new(store.clone(), RecordingKeys::new(&fold.tenant, &fold.room, &fold.recording))
    }

    pub(crate) fn new(store: Arc<dyn ObjectStore>, keys: RecordingKeys) -> Self {
        Self {
            store,
            keys,
            sizes: Vec::new(),
            known: Vec::new(),
            room_start: RoomTime::default(),
            tracks: BTreeSet::new(),
            keyframes: BTreeMap::new(),
        }
    }

    /// The windows, from the first on, of which a span that begins at `at` on the recording's clock needs no more than is given
    /// here. The one behind them is the first that it has to read.
    pub(crate) async fn before(&mut self, at: Duration) -> Result<Vec<Bytes>, Error> {
        self.read_until(at, |_| {}).await?;
        let begins = self.room_start + at;
        let warm_up = begins.offset_micros(-(WARM_UP.as_micros() as i64));
        let count = self.known.partition_point(|known| known.seen < warm_up);
        let mut windows: Vec<_> = self.known[..count].iter().map(|known| known.object.clone()).collect();
        // No further than is read whatever was read before: what is found must not depend on that.
        let reach = self.known.partition_point(|known| known.seen < begins) + 1;
        for (number, tracks) in self.build_upon(count as u64..reach as u64, warm_up, begins) {
            windows[number as usize] = self.with_packets(number, &tracks).await?;
        }
        Ok(windows)
    }

    /// Takes a window that passes by; one that is known is nothing new, one behind others that are not is left to be read.
    pub(crate) fn see(&mut self, window: &Window) {
        let (object, number) = (window.object(), window.header.window);
        if number != self.known.len() as u64 {
            return;
        }
        // A window that was parsed has a footer.
        if let Ok(footer) = Footer::parse(object, object.len() as u64) {
            if self.sizes.len() as u64 == number {
                self.sizes.push(object.len() as u64);
            }
            self.learn(&footer);
        }
    }

    /// Whether there is media of it in what was read or passed by.
    pub(crate) fn has(&self, track: &TrackKey) -> bool {
        self.tracks.contains(track)
    }

    /// Reads footers until one has seen the room at `at`; `tell` sees those that were not known.
    pub(crate) async fn read_until(&mut self, at: Duration, mut tell: impl FnMut(&Window)) -> Result<(), Error> {
        if self.sizes.is_empty() {
            let listed = self.store.list(&self.keys.windows_prefix()).await?;
            let in_order =
                (0..).zip(self.keys.windows_in(&listed)).take_while(|(expected, (number, _))| expected == number);
            self.sizes = in_order.map(|(_, (_, size))| size).collect();
            if self.sizes.is_empty() {
                return Err(StoreError::NotFound { key: self.keys.window(0).to_string() }.into());
            }
        }
        while self.known.last().is_none_or(|last| last.seen < self.room_start + at) {
            let next = self.known.len() as u64;
            let end = (next + CONCURRENCY as u64).min(self.sizes.len() as u64);
            if next == end {
                break;
            }
            let footers: Vec<_> =
                stream::iter(next..end).map(|number| self.footer(number)).buffered(CONCURRENCY).try_collect().await?;
            for footer in footers {
                tell(footer.window());
                self.learn(&footer);
            }
        }
        Ok(())
    }

    fn learn(&mut self, footer: &Footer) {
        let window = footer.window();
        let number = self.known.len() as u64;
        if number == 0 {
            self.room_start = window.header.room_start;
        }
        for segment in &window.segments {
            self.tracks.insert(segment.key.clone());
            for keyframe in &segment.keyframes {
                self.keyframes.entry((segment.key.clone(), keyframe.ssrc)).or_default().push((number, keyframe.time));
            }
        }
        let object = if number == 0 { window.object().clone() } else { footer.events_only() };
        let seen = self.known.last().map_or(window.header.room_seen, |last| last.seen.max(window.header.room_seen));
        self.known.push(Known { object, seen });
    }

    /// Which tracks' packets are needed of the windows before `followed`: those of streams without a key picture in the warm-up, from
    /// their newest one on.
    fn build_upon(&self, followed: Range<u64>, warm_up: RoomTime, begins: RoomTime) -> BTreeMap<u64, Vec<TrackKey>> {
        let oldest = warm_up.offset_micros(-(LOOK_BACK.as_micros() as i64));
        let mut from: BTreeMap<&TrackKey, u64> = BTreeMap::new();
        for ((key, _), keyframes) in &self.keyframes {
            let is_fresh = keyframes.iter().any(|(window, time)| followed.contains(window) && *time <= begins);
            let newest = keyframes.iter().rev().find(|(window, _)| *window < followed.start);
            let newest = newest.filter(|(_, time)| *time >= oldest);
            if let Some((window, _)) = newest.filter(|_| !is_fresh) {
                from.entry(key).and_modify(|from| *from = (*from).min(*window)).or_insert(*window);
            }
        }
        let mut needed: BTreeMap<u64, Vec<TrackKey>> = BTreeMap::new();
        for (key, from) in from {
            for window in from..followed.start {
                needed.entry(window).or_default().push(key.clone());
            }
        }
        needed
    }

    /// A window with the packets of these tracks.
    async fn with_packets(&self, number: u64, tracks: &[TrackKey]) -> Result<Bytes, Error> {
        let footer = self.footer(number).await?;
        let mut packets = BTreeMap::new();
        for (index, segment) in footer.window().segments.iter().enumerate() {
            if let Some(range) = footer.range(index).filter(|_| tracks.contains(&segment.key)) {
                packets.insert(index, self.store.get_range(&self.keys.window(number), range).await?);
            }
        }
        Ok(footer.with_media(&packets))
    }

    async fn footer(&self, number: u64) -> Result<Footer, Error> {
        let key = self.keys.window(number);
        let size = self.sizes.get(number as usize).copied().unwrap_or_default();
        Footer::fetch(&*self.store, &key, size).await.map_err(|error| match error {
            FetchError::Store(error) => error.into(),
            FetchError::Window(source) => Error::Window { number, source },
        })
    }
}
