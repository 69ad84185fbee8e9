//! The generated protobuf types of `proto/roomreel/v1`.
//!
//! They stop here and in the modules beside: what is past a conversion cannot be wrong.
#![allow(missing_docs, clippy::doc_markdown, clippy::large_enum_variant)]

include!(concat!(env!("OUT_DIR"), "/roomreel.v1.rs"));
