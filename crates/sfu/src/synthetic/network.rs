//! The way from the participants to the SFU: delay, loss, overtaking and doubling, by seed.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// How bad the network is. The default is perfect but for a fixed delay.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Network {
    /// Share of packets that are lost, 0 to 1.
    pub loss: f64,
    /// Share of packets that are overtaken by those after them, 0 to 1.
    pub reorder: f64,
    /// Share of packets that come twice, 0 to 1.
    pub duplicate: f64,
    /// Largest additional delay.
    pub jitter: Duration,
}

/// Shortest way of any participant.
const MIN_DELAY: Duration = Duration::from_millis(15);

/// What is on its way, ordered by arrival.
pub(super) struct Paths<T> {
    network: Network,
    rng: StdRng,
    paths: Vec<Path>,
    /// By arrival and, at one time, by the order of sending.
    arriving: BTreeMap<(Duration, u64), T>,
    sent: u64,
}

#[derive(Clone, Copy)]
struct Path {
    delay: Duration,
    last_arrival: Duration,
}

impl<T: Clone> Paths<T> {
    pub(super) fn new(network: Network, paths: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let paths = (0..paths)
            .map(|_| Path {
                delay: MIN_DELAY + Duration::from_millis(rng.random_range(0..15)),
                last_arrival: Duration::ZERO,
            })
            .collect();
        Self { network, rng, paths, arriving: BTreeMap::new(), sent: 0 }
    }

    /// Sends on a path.
    pub(super) fn send(&mut self, path: usize, at: Duration, item: T) {
        let chance = |rng: &mut StdRng, share: f64| rng.random_bool(share.clamp(0.0, 1.0));
        // Every packet draws the same numbers, so that one rate can be changed without changing everything after it.
        let lost = chance(&mut self.rng, self.network.loss);
        let overtaken = chance(&mut self.rng, self.network.reorder);
        let doubled = chance(&mut self.rng, self.network.duplicate);
        let jitter = self.network.jitter.mul_f64(self.rng.random());
        let late = Duration::from_micros(self.rng.random_range(20_000..60_000));
        if lost {
            return;
        }
        let path = &mut self.paths[path];
        let mut arrival = (at + path.delay + jitter).max(path.last_arrival);
        if overtaken {
            arrival += late;
        } else {
            path.last_arrival = arrival;
        }
        if doubled {
            self.arrive(arrival + late / 4, item.clone());
        }
        self.arrive(arrival, item);
    }

    fn arrive(&mut self, at: Duration, item: T) {
        self.arriving.insert((at, self.sent), item);
        self.sent += 1;
    }

    /// Puts in what is not sent: it is there at once.
    pub(super) fn put(&mut self, at: Duration, item: T) {
        self.arrive(at, item);
    }

    /// The next that has arrived by `now`. Nothing sent later can arrive before it.
    pub(super) fn receive(&mut self, now: Duration) -> Option<(Duration, T)> {
        let entry = self.arriving.first_entry()?;
        let (at, _) = *entry.key();
        (at <= now).then(|| (at, entry.remove()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(network: Network) -> Vec<u32> {
        let mut paths = Paths::new(network, 1, 7);
        (0..1000).for_each(|number| paths.send(0, Duration::from_millis(u64::from(number)), number));
        let all: Vec<(Duration, u32)> = std::iter::from_fn(|| paths.receive(Duration::MAX / 2)).collect();
        assert!(all.is_sorted_by_key(|(at, _)| *at));
        all.into_iter().map(|(_, number)| number).collect()
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let clean = Network::default();
        assert!(arrivals(clean).into_iter().eq(0..1000));
        assert!(arrivals(Network { jitter: Duration::from_millis(40), ..clean }).into_iter().eq(0..1000));
        let lost = 1000 - arrivals(Network { loss: 0.1, ..clean }).len();
        assert!((60..140).contains(&lost), "{lost} lost");
        let doubled = arrivals(Network { duplicate: 0.1, ..clean }).len() - 1000;
        assert!((60..140).contains(&doubled), "{doubled} doubled");
        let mut overtaken = arrivals(Network { reorder: 0.1, ..clean });
        assert!(!overtaken.is_sorted());
        overtaken.sort_unstable();
        assert!(overtaken.into_iter().eq(0..1000));
    }
}
