//! Leader election: one key, created if absent, bound to a lease.
//!
//! [`Tenure`] is the part that decides: a leader acts only while its lease cannot have expired, measured on its own
//! monotonic clock from before the renewal was sent. The fencing number is the key's create revision, which every write of the
//! leader compares: a leader that was paused past its lease and does not know is refused by the store.

use std::time::Duration;

use bytes::Bytes;
use roomreel_shared::cluster::leader_key;
use roomreel_shared::id::NodeId;
use roomreel_shared::ports::{Change, Compare, Coordination, CoordinationError, LeaseId, Outcome};

/// How long a lease can be relied upon. Times are since a fixed point on a monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    ttl: Duration,
    until: Duration,
}

impl Tenure {
    /// A lease that was asked for at `sent`.
    #[must_use]
    pub fn granted(sent: Duration, ttl: Duration) -> Self {
        Self { ttl, until: Self::end(sent, ttl) }
    }

    /// A renewal, asked for at `sent`, was answered with `left`. An answer that comes late cannot shorten it.
    pub fn renewed(&mut self, sent: Duration, left: Duration) {
        self.until = self.until.max(Self::end(sent, left.min(self.ttl)));
    }

    /// Whether the holder may act at `now`.
    #[must_use]
    pub fn holds(&self, now: Duration) -> bool {
        now < self.until
    }

    /// When it ends unless it is renewed.
    #[must_use]
    pub fn until(&self) -> Duration {
        self.until
    }

    /// How often it is to be renewed: two renewals may fail before it ends.
    #[must_use]
    pub fn renew_every(&self) -> Duration {
        self.ttl / 4
    }

    /// The margin is for clocks that do not run equally fast, and for the last write to arrive.
    fn end(sent: Duration, ttl: Duration) -> Duration {
        sent + ttl - ttl / 8
    }
}

/// Tries to become leader; answers the fencing number if it is won.
///
/// # Errors
/// As the store's; the caller tries again.
pub async fn campaign(
    store: &dyn Coordination,
    node: &NodeId,
    lease: LeaseId,
) -> Result<Option<u64>, CoordinationError> {
    let value = Bytes::from(format!("{node} {:x}", lease.0));
    let conditions = vec![Compare::Absent(leader_key())];
    let changes = vec![Change::Put(leader_key(), value.clone(), Some(lease))];
    match store.transact(conditions, changes).await {
        Ok(Outcome::Committed(revision)) => Ok(Some(revision)),
        // The answer to an earlier try may have been lost: a key with our lease in it is ours.
        Ok(Outcome::Conflict) => {
            let record = store.get(&leader_key()).await?;
            Ok(record.filter(|record| record.value == value).map(|record| record.create_revision))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_stops_before_its_lease_can_have_expired() {
        let ms = Duration::from_millis;
        // The answer may arrive at any time: what counts is when the request was sent.
        let mut tenure = Tenure::granted(ms(1000), ms(4000));
        assert!(tenure.holds(ms(4499)) && !tenure.holds(ms(4500)));
        tenure.renewed(ms(2000), ms(4000));
        assert!(tenure.holds(ms(5499)) && !tenure.holds(ms(5500)));
        // An older renewal whose answer came late changes nothing.
        tenure.renewed(ms(1500), ms(4000));
        assert_eq!(tenure.until(), ms(5500));
        // A store that says less than was granted is believed, one that says more is not.
        tenure.renewed(ms(5400), ms(800));
        assert_eq!(tenure.until(), ms(6100));
        tenure.renewed(ms(5400), ms(60_000));
        assert_eq!(tenure.until(), ms(8900));
    }
}
