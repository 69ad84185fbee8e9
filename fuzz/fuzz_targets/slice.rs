//! A slice read back: as it stands, and as it was written from the samples that the input describes.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use roomreel_fuzz::encode::{EncodedSlice, REORDER_TICKS, Sample, SliceTable};
use roomreel_fuzz::mux::{SampleTable, fragment, parse_fragment, parse_table};
use roomreel_fuzz::{Numbers, pieces};
use roomreel_shared::verify::{box_header, media_bytes};

fn read(object: &Bytes) {
    let _ = box_header(object);
    let _ = media_bytes(object);
    if let Ok(slice) = parse_fragment(object) {
        let samples = slice.video.iter().chain(&slice.audio);
        // A run may point at the same bytes again and again: what they share is one object's memory.
        assert!(samples.clone().all(|sample| sample.data.len() <= object.len()));
        let infos = SliceTable::from(&slice);
        assert_eq!(parse_table(object).expect("what is read whole can be tabled"), infos);
        let mut table = SampleTable::default();
        table.push_chunk(0, &infos.video);
        assert_eq!(table.samples(), slice.video.len());
    }
}

/// As an encoder gives it: samples of one length side by side in each track.
fn slice(durations: [u8; 2], input: &[u8]) -> EncodedSlice {
    let mut slice = EncodedSlice::default();
    for piece in pieces(input) {
        let mut numbers = Numbers(piece);
        let flags = numbers.byte();
        let is_audio = flags & 1 != 0;
        let (samples, duration) =
            if is_audio { (&mut slice.audio, durations[0]) } else { (&mut slice.video, durations[1]) };
        let dts = samples.len() as i64 * i64::from(duration);
        let ahead = if is_audio { 0 } else { i64::from(numbers.byte()) - i64::from(REORDER_TICKS).min(128) };
        let data = Bytes::copy_from_slice(numbers.0);
        samples.push(Sample {
            data,
            pts: dts + ahead,
            dts,
            duration: duration.into(),
            key: is_audio || flags & 2 != 0,
        });
    }
    slice
}

fuzz_target!(|input: &[u8]| {
    read(&Bytes::copy_from_slice(input));
    let [number, audio, video, ref input @ ..] = *input else { return };
    let slice = EncodedSlice { number: number.into(), ..slice([audio, video], input) };
    let object = fragment(&slice).expect("a small slice");
    let parsed = parse_fragment(&object).expect("what was written can be read");
    assert_eq!(parsed, slice, "what was written is what is read");
    for end in 0..object.len().min(600) {
        read(&object.slice(..end));
    }
});
