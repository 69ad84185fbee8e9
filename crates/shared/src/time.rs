//! Points in time on the two clocks that are kept apart: the log's and the room's.

use std::ops::{Add, Sub};
use std::time::Duration;

macro_rules! instant {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(i64);

        impl $name {
            /// From microseconds since the Unix epoch.
            #[must_use]
            pub const fn from_micros(micros: i64) -> Self {
                Self(micros)
            }

            /// Microseconds since the Unix epoch.
            #[must_use]
            pub const fn as_micros(self) -> i64 {
                self.0
            }

            /// Time since `earlier`; zero if `earlier` is later.
            #[must_use]
            pub fn saturating_since(self, earlier: Self) -> Duration {
                Duration::from_micros(self.micros_since(earlier).max(0).unsigned_abs())
            }

            /// Microseconds from `other` to this, negative if `other` is later; saturates.
            #[must_use]
            pub const fn micros_since(self, other: Self) -> i64 {
                self.0.saturating_sub(other.0)
            }

            /// This moved by `micros`, saturating: a hostile clock cannot overflow it.
            #[must_use]
            pub const fn offset_micros(self, micros: i64) -> Self {
                Self(self.0.saturating_add(micros))
            }
        }

        impl Add<Duration> for $name {
            type Output = Self;
            fn add(self, duration: Duration) -> Self {
                self.offset_micros(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
            }
        }

        impl Sub<Duration> for $name {
            type Output = Self;
            fn sub(self, duration: Duration) -> Self {
                self.offset_micros(-i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
            }
        }
    };
}

instant!(
    /// A point on the log's clock: when the broker stored an entry. Windows are cut on it.
    LogTime
);
instant!(
    /// A point on the room's clock: when an SFU received a packet or saw an event. Media and slices live on it.
    RoomTime
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_times_saturate() {
        let end = RoomTime::from_micros(i64::MAX);
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(RoomTime::from_micros(i64::MIN).micros_since(end), i64::MIN);
        assert_eq!(RoomTime::from_micros(1).saturating_since(end), Duration::ZERO);
    }
}
