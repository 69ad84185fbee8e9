//! Faults on real servers and real processes: what is killed, paused, cut off or rolled back while a room is recorded, and what
//! the recording says of it afterwards.
//!
//! Every scenario prints one line of figures. `docs/chaos.md` says what each does. Those that take longer are ignored unless asked
//! for (`make chaos`).
#![allow(missing_docs)]

mod coordination;
mod ingest;
mod log;
mod outcome;
mod outputs;
mod publisher;
mod renders;
mod stage;
mod store;
