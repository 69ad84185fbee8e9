//! The process in which files are made of slices and windows: reads requests, answers them with pieces.

use std::fs::File;
use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes};
use roomreel_shared::window::Window;

use super::growing::Pieces;
use super::pictures::Wanted;
use super::relay::{self, Made, Order};
use super::works::Works;
use super::{Ending, Error};
use crate::engine::wire::{self, Kind, invalid};
use crate::engine::witness::Witness;

/// Serves one order until there are no requests any more.
pub(crate) fn serve(from: &mut impl Read, to: &mut impl Write, order: &Bytes, page: Option<File>) -> io::Result<()> {
    let order: Order = wire::read_text(order)?;
    if let Some(page) = page {
        let witness = Witness::new(page);
        #[cfg(debug_assertions)]
        let witness = witness.with_fault(order.fault.clone());
        witness.take_the_stand();
    }
    let (keys, pieces) = (order.keys(), Pieces::default());
    let mut works = match Works::new(&order, pieces.clone()) {
        Ok(works) => works,
        Err(error) => return failed(to, &error),
    };
    let mut answer = |made: Result<Made, Error>| match made {
        Ok(made) => wire::write(to, Kind::Pieces, &relay::encode(made, pieces.take(), &keys)),
        Err(error) => failed(to, &error),
    };
    answer(Ok(Made::default()))?;
    while let Some((kind, content)) = wire::read(from)? {
        let done = match kind {
            Kind::Slice => works.push_slice(&wire::decode_slice(content)?),
            Kind::Window => works.push_window(&Window::parse(content).map_err(invalid)?),
            Kind::Picture => {
                let (wanted, slice) = picture(content)?;
                works.take_picture(&wanted, &wire::decode_slice(slice)?)
            }
            Kind::Wanted => {
                answer(Ok(Made { wanted: works.wanted_pictures(), ..Made::default() }))?;
                continue;
            }
            Kind::Finish => {
                let ending: Ending = wire::read_text(&content)?;
                return answer(works.finish(ending).map(|notes| Made { notes, ..Made::default() }));
            }
            _ => return Err(invalid("an answer in place of a request")),
        };
        answer(done.map(|()| Made::default()))?;
    }
    Ok(())
}

/// A picture that is wanted, and its slice.
pub(super) fn picture(mut content: Bytes) -> io::Result<(Wanted, Bytes)> {
    let length = content.try_get_u32_le().map_err(invalid)? as usize;
    if length > content.len() {
        return Err(invalid("a wish is cut off"));
    }
    Ok((wire::read_text(&content.split_to(length))?, content))
}

fn failed(to: &mut impl Write, why: &impl ToString) -> io::Result<()> {
    wire::write(to, Kind::Failed, why.to_string().as_bytes())
}
