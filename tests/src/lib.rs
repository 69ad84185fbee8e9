//! What the tests share: real servers, started and stopped by the test that needs them, and a cluster of them.
//!
//! A server that is not installed is an error that names the command to install it; no test is skipped for it.

pub mod audit;
pub mod cluster;
pub mod proxy;
pub mod room;
pub mod servers;
pub mod simulation;
pub mod watch;
