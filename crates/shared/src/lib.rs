//! The words of roomreel as types: ids, log entries, RTP, windows, recordings, and the ports to the outside.
//!
//! Owns what more than one service means the same thing by. Does not own clients, actors, clocks or tokio.

pub mod batch;
mod checksum;
pub mod cluster;
pub mod composite;
pub mod event;
pub mod id;
pub mod key;
pub mod late;
pub mod look;
pub mod output;
pub mod pieces;
pub mod policy;
pub mod ports;
pub mod recording;
pub mod rtcp;
pub mod rtp;
pub mod subject;
pub mod time;
pub mod verify;
pub mod window;
pub mod wire;
