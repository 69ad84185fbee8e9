//! Numberings that are over: where they stood, so that what is read again of them is not stored again.
//!
//! Owns a bounded memory of them. Does not own when a numbering is over.

use std::collections::{BTreeMap, VecDeque};

use roomreel_shared::batch::Incarnation;
use roomreel_shared::wire;

/// Where a numbering stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stand {
    pub(crate) next_batch_no: u64,
    pub(crate) next_packet_no: u64,
}

/// Numberings that are over; the longest forgotten goes first.
#[derive(Debug)]
pub(crate) struct Past {
    most: usize,
    stands: BTreeMap<Incarnation, Stand>,
    order: VecDeque<Incarnation>,
}

impl Past {
    /// Remembers nothing yet, and at most `most` numberings.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, stands: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Adds a numbering that is over.
    pub(crate) fn push(&mut self, incarnation: Incarnation, stand: Stand) {
        if self.stands.insert(incarnation, stand).is_none() {
            self.order.push_back(incarnation);
        }
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.stands.remove(&oldest);
        }
    }

    /// Where it stood, if it is over.
    pub(crate) fn get(&self, incarnation: Incarnation) -> Option<Stand> {
        self.stands.get(&incarnation).copied()
    }

    /// Removes a numbering: it goes on.
    pub(crate) fn take(&mut self, incarnation: Incarnation) -> Option<Stand> {
        let stand = self.stands.remove(&incarnation)?;
        self.order.retain(|other| *other != incarnation);
        Some(stand)
    }

    /// Adds what [`Past::to_wire`] wrote.
    pub(crate) fn extend_from_wire(&mut self, wire: &[wire::PastNumbering]) {
        for numbering in wire {
            if let Some(incarnation) = Incarnation::new(numbering.incarnation) {
                let wire::PastNumbering { next_batch_no, next_packet_no, .. } = *numbering;
                self.push(incarnation, Stand { next_batch_no, next_packet_no });
            }
        }
    }

    /// The longest forgotten first.
    pub(crate) fn to_wire(&self) -> Vec<wire::PastNumbering> {
        let stands = self.order.iter().filter_map(|incarnation| Some((incarnation, self.stands.get(incarnation)?)));
        stands
            .map(|(incarnation, stand)| wire::PastNumbering {
                incarnation: incarnation.get(),
                next_batch_no: stand.next_batch_no,
                next_packet_no: stand.next_packet_no,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_forgotten_goes_first() {
        let incarnation = |number| Incarnation::new(number).expect("not 0");
        let stand = |number| Stand { next_batch_no: number, next_packet_no: number * 4 };
        let mut past = Past::new(3);
        for number in [9, 2, 7, 2, 5] {
            past.push(incarnation(number), stand(number));
        }
        assert_eq!((past.get(incarnation(9)), past.get(incarnation(2))), (None, Some(stand(2))));
        let mut again = Past::new(3);
        again.extend_from_wire(&past.to_wire());
        assert_eq!(again.to_wire().iter().map(|past| past.incarnation).collect::<Vec<_>>(), [2, 7, 5]);
        assert_eq!((again.take(incarnation(7)), again.take(incarnation(7))), (Some(stand(7)), None));
        again.push(incarnation(1), stand(1));
        assert_eq!(again.to_wire().iter().map(|past| past.incarnation).collect::<Vec<_>>(), [2, 5, 1]);
    }
}
