//! JSON from the coordination store and the bucket: what reads is written and read again as the same.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use roomreel_shared::cluster::{
    ActiveRecording, Assignment, FoldSpec, Node, Progress, RenderJob, RenderProgress, UnfinishedDocument,
};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::policy::Policy;
use roomreel_shared::recording::Recording;
use serde::{Serialize, de::DeserializeOwned};

fn settles<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(input).ok()?;
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(again, value);
    Some(value)
}

fuzz_target!(|input: &[u8]| {
    let Some((&kind, input)) = input.split_first() else { return };
    match kind % 10 {
        0 => drop(settles::<Node>(input)),
        1 => drop(settles::<ActiveRecording>(input)),
        2 => drop(settles::<Assignment>(input)),
        3 => drop(settles::<Progress>(input)),
        4 => drop(settles::<RenderJob>(input)),
        5 => drop(settles::<RenderProgress>(input)),
        6 => drop(settles::<UnfinishedDocument>(input)),
        7 => drop(settles::<Recording>(input)),
        8 => drop(settles::<Policy>(input)),
        _ => {
            if let Some(spec) = settles::<CompositeSpec>(input) {
                let _ = spec.check();
            }
            drop(settles::<FoldSpec>(input));
        }
    }
});
