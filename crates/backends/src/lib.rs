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

use roomreel_shared::ports::{BusMessage, LogError};

/// A number nobody else has.
fn nonce() -> u64 {
    use rand::SeedableRng as _;
    rand::Rng::random(&mut rand::rngs::SmallRng::from_os_rng())
}

/// Where the answer to `message` goes.
fn inbox(message: &BusMessage) -> Result<&str, LogError> {
    let none = || LogError::Refused { reason: format!("the message on {} expects no reply", message.subject) };
    message.reply.as_deref().ok_or_else(none)
}
