//! The shell: one supervised actor per room and per track, and the tasks that wait on the outside for them.
//!
//! Performs what the core decides. ractor's mailboxes are unbounded, so entries are paid for with bytes of a budget before they
//! are sent ([`reader`]), and the bytes come back when the window they went into is committed: the log is the buffer.

pub(crate) mod chain;
pub(crate) mod herald;
pub(crate) mod reader;
pub(crate) mod room;
mod shelf;
mod slot;
#[cfg(test)]
mod tests;
pub(crate) mod track;
