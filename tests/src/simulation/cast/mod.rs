//! The processes, each a small shell around a product core: what the real shells do with tokio, these do step by step.

pub mod coordinator;
pub mod ingest;
pub mod room;
pub mod sfu;
