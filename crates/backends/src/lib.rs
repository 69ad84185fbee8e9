//! The ports of `roomreel_shared::ports`, implemented: over real servers, over a directory, and in memory.
//!
//! | port | real | on one machine |
//! |---|---|---|
//! | `RoomLog`, `Bus` | [`nats::Nats`] | [`memory::MemoryLog`] |
//! | `ObjectStore` | [`s3::S3Store`], [`objects::DirectoryStore`] and, by feature, GCS and Azure | [`memory::MemoryStore`], [`objects::DirectoryStore`] |
//! | `Coordination` | [`etcd::Etcd`] | [`memory::MemoryCoordination`] |
//!
//! Owns: clients, time limits, the translation of their errors into what a caller does next, and the check that a server
//! does what was asked of it. Does not own: retries (their one owner is above the port), subjects and keys
//! (`roomreel_shared`), any decision about rooms.

pub mod etcd;
pub mod memory;
pub mod nats;
pub mod objects;
pub mod probe;
pub mod s3;
pub mod secret;

/// A number nobody else has.
fn nonce() -> u64 {
    use rand::SeedableRng as _;
    rand::Rng::random(&mut rand::rngs::SmallRng::from_os_rng())
}
