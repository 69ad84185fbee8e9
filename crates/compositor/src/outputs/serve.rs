//! The process in which files are made of slices and windows: reads requests, answers them with pieces.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use bytes::Bytes;
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::window::Window;

use super::growing::{Piece, Pieces};
use super::pictures::Wanted;
use super::relay::{self, Made, Order};
use super::works::Works;
use super::{Ending, Error};
use crate::engine::wire::{self, Kind, invalid};

/// An answer of several files is hardly longer.
const ANSWER_BYTES: usize = 64 << 20;

/// Serves one order until there are no requests any more.
pub(crate) fn serve(from: &mut impl Read, to: &mut impl Write, order: &Bytes) -> io::Result<()> {
    let order: Order = wire::read_text(order)?;
    #[cfg(debug_assertions)]
    crate::engine::witness::strike_at(order.fault.clone());
    let (keys, pieces) = (order.keys(), Pieces::default());
    let mut works = match Works::new(&order, pieces.clone()) {
        Ok(works) => works,
        Err(error) => return wire::write_failure(to, &error),
    };
    let answer = |to: &mut _, made: Result<Made, Error>| match made {
        Ok(made) => wire::write(to, Kind::Pieces, &relay::encode(made, pieces.take(), &keys)),
        Err(error) => wire::write_failure(to, &error),
    };
    answer(to, Ok(Made::default()))?;
    while let Some((kind, content)) = wire::read(from)? {
        let done = match kind {
            Kind::Slice => works.push_slice(&wire::decode_slice(content)?),
            Kind::Window => works.push_window(&Window::parse(content).map_err(invalid)?),
            Kind::Picture => {
                let (wanted, slice): (Wanted, _) = wire::decode_with_text(content)?;
                works.take_picture(&wanted, &wire::decode_slice(slice)?)
            }
            Kind::Wanted => {
                answer(to, Ok(Made { wanted: works.wanted_pictures(), ..Made::default() }))?;
                continue;
            }
            Kind::Finish => {
                let ending: Ending = wire::read_text(&content)?;
                return match works.finish(ending) {
                    Ok(notes) => end(to, notes, pieces.take(), &keys),
                    Err(error) => wire::write_failure(to, &error),
                };
            }
            _ => return Err(invalid("an answer in place of a request")),
        };
        answer(to, done.map(|()| Made::default()))?;
    }
    Ok(())
}

/// Says how every file ends, a few of them at a time.
fn end(to: &mut impl Write, notes: BTreeSet<String>, pieces: Vec<Piece>, keys: &RecordingKeys) -> io::Result<()> {
    let mut pieces = pieces.into_iter().peekable();
    loop {
        let (mut some, mut bytes) = (Vec::new(), 0);
        while let Some(piece) = pieces.next_if(|piece| some.is_empty() || bytes + piece.bytes() <= ANSWER_BYTES) {
            bytes += piece.bytes();
            some.push(piece);
        }
        if pieces.peek().is_none() {
            return wire::write(to, Kind::Pieces, &relay::encode(Made { notes, ..Made::default() }, some, keys));
        }
        wire::write(to, Kind::Pieces, &relay::encode(Made { goes_on: true, ..Made::default() }, some, keys))?;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::join::{Part, Remainder};
    use crate::outputs::growing::Content;
    use crate::render::tests::fold;

    #[test]
    fn the_end_of_many_files_comes_in_several_answers() {
        let fold = fold();
        let keys = RecordingKeys::new(&fold.tenant, &fold.room, &fold.recording);
        let body = Bytes::from(vec![7; 40 << 20]);
        let rest = || Content::End(Remainder::Parts(vec![Part { number: 1, body: body.clone() }]));
        let files = ["a", "b", "c"].map(|name| Piece { key: keys.track_file(name), content: rest() });
        let mut pipe = Vec::new();
        end(&mut pipe, BTreeSet::from(["a note".to_owned()]), files.into(), &keys).expect("it has room");
        let mut rest = &pipe[..];
        let mut seen = Vec::new();
        while let Some((kind, content)) = wire::read(&mut rest).expect("whole frames") {
            assert!(kind == Kind::Pieces && content.len() <= ANSWER_BYTES + (1 << 20));
            let (made, _): (Made, _) = wire::decode_with_text(content).expect("a text");
            seen.push((made.pieces.len(), made.goes_on, made.notes.len()));
        }
        assert_eq!(seen, [(1, true, 0), (1, true, 0), (1, false, 1)]);
    }
}
