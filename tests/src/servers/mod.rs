//! Real servers on free loopback ports with data in temporary directories, stopped when dropped.

mod etcd;
mod nats;
mod process;
mod roomreel;
mod s3;
mod uploads;

pub use etcd::EtcdServer;
pub use nats::NatsServer;
pub use process::Server;
pub use roomreel::Roomreel;
pub use s3::{Mutation, S3Fault, S3Server, serve_directory};
