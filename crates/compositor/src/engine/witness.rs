//! A page of memory on which a render says which track it is working on, so that whoever outlives it knows.
//!
//! Owns what stands on the page. It is written and read with plain calls: a reader that mapped it could be made to fault by a writer
//! that means harm. Does not own what follows from it ([`super::crashes`]).

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use roomreel_shared::id::{SfuId, TrackId};
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::TrackKey;

use super::crashes::Place;

/// Bytes of the page: a count of writes, a time and two ids.
pub(crate) const PAGE_BYTES: usize = 1024;

/// The page of a process that renders one composite and nothing else; other processes have none.
static WITNESS: OnceLock<Witness> = OnceLock::new();

/// The writer's side.
#[derive(Debug)]
pub(crate) struct Witness {
    page: File,
    writes: AtomicU32,
    #[cfg(debug_assertions)]
    fault: OnceLock<super::Fault>,
}

/// From now on this track is worked on, at this moment of the room's clock.
pub(crate) fn at(track: &TrackKey, time: RoomTime) {
    if let Some(witness) = WITNESS.get() {
        witness.at(Some((track, time)));
    }
}

/// What is worked on is the same, and it moves.
pub(crate) fn moved() {
    if let Some(witness) = WITNESS.get() {
        witness.moved();
    }
}

/// From now on no track is.
pub(crate) fn done() {
    if let Some(witness) = WITNESS.get() {
        witness.at(None);
    }
}

/// For tests: what goes wrong in this process, if it has a page.
#[cfg(debug_assertions)]
pub(crate) fn strike_at(fault: Option<super::Fault>) {
    if let (Some(witness), Some(fault)) = (WITNESS.get(), fault) {
        // There is one order.
        let _ = witness.fault.set(fault);
    }
}

impl Witness {
    pub(crate) fn new(page: File) -> Self {
        Self {
            page,
            writes: AtomicU32::new(0),
            #[cfg(debug_assertions)]
            fault: OnceLock::new(),
        }
    }

    /// From now on this process has a page.
    pub(crate) fn take_the_stand(self) {
        // A second one would be a bug, and the first goes on.
        let _ = WITNESS.set(self);
    }

    fn count(&self) -> u32 {
        self.writes.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    fn moved(&self) {
        // Where it cannot be written, it seems to stand still.
        let _ = self.page.write_at(&self.count().to_le_bytes(), 0);
    }

    fn at(&self, place: Option<(&TrackKey, RoomTime)>) {
        let count = self.count();
        // Where it cannot be written, an older place stands there: somebody else may be blamed, and hardly twice.
        let _ = self.page.write_at(&encode(count, place), 0);
        #[cfg(debug_assertions)]
        if let (Some(fault), Some((track, _))) = (self.fault.get(), place) {
            fault.strike(track);
        }
    }
}

fn encode(count: u32, place: Option<(&TrackKey, RoomTime)>) -> Vec<u8> {
    let mut text = count.to_le_bytes().to_vec();
    if let Some((track, time)) = place {
        text.extend(time.as_micros().to_le_bytes());
        for id in [track.sfu.as_str(), track.track.as_str()] {
            // Ids are far shorter.
            text.extend(u16::try_from(id.len()).unwrap_or(u16::MAX).to_le_bytes());
            text.extend(id.as_bytes());
        }
    } else {
        text.extend([0; 12]);
    }
    text.truncate(PAGE_BYTES);
    text
}

/// What stands on the page: what changes with every write, and the place. Whatever makes no sense names no place.
pub(crate) fn read(page: &File) -> (u32, Option<Place>) {
    let mut text = [0; PAGE_BYTES];
    let read = page.read_at(&mut text, 0).unwrap_or(0);
    let mut rest = &text[..read];
    let count = take(&mut rest).map_or(0, u32::from_le_bytes);
    (count, place(rest))
}

fn place(mut rest: &[u8]) -> Option<Place> {
    let time = RoomTime::from_micros(i64::from_le_bytes(take(&mut rest)?));
    let mut id = || {
        let length = usize::from(u16::from_le_bytes(take(&mut rest)?));
        let (id, left) = rest.split_at_checked(length)?;
        rest = left;
        String::from_utf8(id.to_vec()).ok().filter(|id| !id.is_empty())
    };
    let (sfu, track) = (SfuId::new(id()?).ok()?, TrackId::new(id()?).ok()?);
    Some(Place { track: TrackKey { sfu, track }, time })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let key = TrackKey { sfu: SfuId::new("sfu").expect("valid"), track: TrackId::new("kamera").expect("valid") };
        let page = tempfile::tempfile().expect("a file");
        assert_eq!(read(&page), (0, None), "nothing yet");
        let witness = Witness::new(page.try_clone().expect("another handle"));
        let time = RoomTime::from_micros(1_700_000_000_123_456);
        witness.at(Some((&key, time)));
        assert_eq!(read(&page), (1, Some(Place { track: key.clone(), time })));
        witness.moved();
        assert_eq!(read(&page), (2, Some(Place { track: key, time })));
        witness.at(None);
        assert_eq!(read(&page), (3, None));
        witness.moved();
        assert_eq!(read(&page), (4, None));
        for nonsense in [&[0xff; PAGE_BYTES][..], &[1; 5], &[0; 40]] {
            page.write_at(nonsense, 0).expect("it can be written");
            assert_eq!(read(&page).1, None);
        }
    }
}
