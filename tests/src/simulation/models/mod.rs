//! The servers, modelled with what real ones were seen to do wrong.

pub mod bus;
pub mod coordination;
pub mod log;
pub mod store;
