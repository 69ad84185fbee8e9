//! Slices, the stream of them and the joined file.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use roomreel_compositor::encode::{EncodedSlice, Encoder};
use roomreel_compositor::frame::Canvas;
use roomreel_compositor::join::{Joiner, Remainder};
use roomreel_compositor::mux::{fragment, init_segment, parse_fragment};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::output::{Kind, Output, WebmCodec};

use crate::support::{decode_cleanly, encode, packets, paint, run, sound, tone};

const SLICE_MS: u64 = 1000;

/// What a player gets that fetches the header and then slice after slice.
fn stream(slices: &[EncodedSlice], header: &Bytes) -> Bytes {
    let mut bytes = BytesMut::from(&header[..]);
    slices.iter().for_each(|slice| bytes.extend_from_slice(&fragment(slice).expect("a small one")));
    bytes.freeze()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("the file");
    path
}

/// Twelve slices by one encoder, eight by another that starts in the middle; the last one is short.
fn twenty_slices() -> (Vec<EncodedSlice>, Bytes, Joiner) {
    let (mut slices, _) = encode(SLICE_MS, 0, 12, None);
    let (rest, encoder) = encode(SLICE_MS, 12, 20, Some(17));
    slices.extend(rest);
    let (video, audio) = (encoder.video_config(), encoder.audio_config());
    (slices, init_segment(&video, &audio), Joiner::new(Some(video), audio))
}

#[test]
fn slices_of_two_encoders_make_one_stream_and_one_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (slices, header, mut joiner) = twenty_slices();
    for slice in &slices {
        assert_eq!(joiner.push(slice), Ok(Vec::new()), "small recordings are uploaded at once");
    }
    let Remainder::Whole(file) = joiner.finish(None) else { panic!("it is small") };
    let stream = write(folder.path(), "stream.mp4", &stream(&slices, &header));
    let file = write(folder.path(), "file.mp4", &file);
    for path in [&stream, &file] {
        decode_cleanly(path);
        let video = packets(path, "v");
        assert_eq!(video.len(), 19 * 30 + 17, "I5: every frame once");
        assert!(video.is_sorted_by(|a, b| a.1 < b.1), "decode times grow");
        let mut shown: Vec<_> = video.iter().map(|packet| packet.0).collect();
        shown.sort_unstable();
        let steps: Vec<_> = shown.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            shown[0] == 0 && steps.iter().all(|&step| step == 1000),
            "I5: no hole, no overlap: {:?} {steps:?}",
            shown[0]
        );
        let audio = packets(path, "a");
        assert!(
            audio.iter().enumerate().all(|(index, packet)| packet.0 == index as i64 * 1024),
            "I5: frames lie on the grid"
        );
        assert_eq!(audio.len() as u64, ((19 * 30 + 17) * 1600_u64).div_ceil(1024));
    }
    assert_eq!(packets(&stream, "v"), packets(&file, "v"), "joined without encoding again");
    assert_eq!(packets(&stream, "a"), packets(&file, "a"));

    let entries = "stream=codec_name,profile,width,height,avg_frame_rate,sample_rate,channels,color_space,start_pts";
    let streams =
        run("ffprobe", &["-v", "warning", "-show_entries", entries, "-of", "default=nk=0:nw=1", "FILE"], &file);
    let expected = [
        "h264",
        "High",
        "width=320",
        "height=180",
        "avg_frame_rate=30/1",
        "smpte170m",
        "aac",
        "LC",
        "48000",
        "channels=2",
    ];
    assert!(expected.iter().all(|entry| streams.contains(entry)), "{streams}");
    assert_eq!(streams.matches("start_pts=0").count(), 2, "sound and picture begin together: {streams}");

    tone_is_whole(&sound(&file, &folder.path().join("sound")));
}

/// The decoded tone is where it was put, to the sample, and nowhere is a jump beyond the codec's own error.
fn tone_is_whole(decoded: &[f32]) {
    let expected: Vec<f32> = tone(0, decoded.len() as u64).chunks_exact(2).map(|pair| pair[0]).collect();
    // The first frame fades in and the last ends in silence.
    let inside = 2048..decoded.len() - 4096;
    let error = |shift: usize| {
        let pairs = inside.clone().map(|at| (decoded[at + shift], expected[at]));
        (pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / inside.len() as f64).sqrt()
    };
    let worst = inside.clone().map(|at| (decoded[at] - expected[at]).abs()).fold(0.0, f32::max);
    assert!(error(0) < 0.01 && error(1) > error(0) && worst < 0.05, "{} beside {}, worst {worst}", error(0), error(1));
}

/// A voice that is none: syllables of a pulse that rises and falls, through three resonances, with a hiss before each and pauses between words.
fn speech(samples: usize) -> Vec<f32> {
    const RATE: f64 = 48_000.0;
    let mut noise = 1_u32;
    let mut phase = 0.0;
    let mut resonances = [(700.0, [0.0; 2]), (1200.0, [0.0; 2]), (2600.0, [0.0; 2])];
    let at = |index: usize| {
        let seconds = index as f64 / RATE;
        let (syllable, within) = ((seconds * 3.7) as usize, (seconds * 3.7).fract());
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let hiss = f64::from(noise.cast_signed()) / f64::from(i32::MAX);
        phase += (120.0 + 40.0 * (seconds * 2.2).sin()) / RATE;
        let pulse = if phase >= 1.0 { 1.0 } else { 0.0 };
        phase = phase.fract();
        let loud = if syllable % 6 == 5 { 0.0 } else { 1.0 };
        let (voiced, hissed) = ((within > 0.3) as u8, (within < 0.2) as u8);
        let source = loud * (f64::from(voiced) * pulse * (1.0 - within) + f64::from(hissed) * hiss * 0.02);
        let sum: f64 = (resonances.iter_mut())
            .map(|(hertz, [one, two])| {
                let value = source + 1.96 * (std::f64::consts::TAU * *hertz / RATE).cos() * *one - 0.9604 * *two;
                (*two, *one) = (*one, value);
                value
            })
            .sum();
        (sum * 0.08) as f32
    };
    (0..samples).map(at).collect()
}

#[test]
fn nobody_hears_in_speech_where_one_encoder_follows_another() {
    const SLICE_MS: u64 = 500;
    const SLICES: u64 = 48;
    let spec = CompositeSpec { width: 64, height: 64, fps: 2, ..CompositeSpec::default() };
    let new = |slice| Encoder::new(&spec, SLICE_MS, slice).expect("an encoder");
    let (first, folder) = (new(0), tempfile::tempdir().expect("a folder"));
    let grid = first.grid();
    let given = speech(grid.first_sample(SLICES) as usize);
    let canvas = Canvas::new(64, 64);
    let slices: Vec<_> = (0..SLICES)
        .map(|slice| {
            let mut encoder = new(slice);
            let samples = &given[encoder.audio_from() as usize..grid.first_sample(slice + 1) as usize];
            encoder.push_video(&canvas).expect("a frame");
            encoder.push_audio(&samples.iter().flat_map(|sample| [*sample; 2]).collect::<Vec<_>>()).expect("sound");
            encoder.finish_slice().expect("a slice")
        })
        .collect();
    let header = init_segment(&first.video_config(), &first.audio_config());
    let file = write(folder.path(), "speech.mp4", &stream(&slices, &header));
    let heard = sound(&file, &folder.path().join("speech"));
    let joins: Vec<usize> = (1..SLICES).map(|slice| grid.audio_frames(slice).start as usize).collect();
    let frame = |frame: usize| frame * 1024..(frame + 1) * 1024;
    let mean = |frames: &[usize], of: &dyn Fn(usize) -> f32| {
        let squares = frames.iter().flat_map(|index| frame(*index)).map(|at| f64::from(of(at)).powi(2));
        (squares.sum::<f64>() / (frames.len() * 1024) as f64).sqrt()
    };
    let most = |frames: &[usize], of: &dyn Fn(usize) -> f32| {
        frames.iter().flat_map(|index| frame(*index)).map(|at| of(at).abs()).fold(0.0, f32::max)
    };
    let others: Vec<usize> =
        (4..heard.len() / 1024 - 4).filter(|index| joins.iter().all(|join| join.abs_diff(*index) > 1)).collect();
    let error = |at: usize| heard[at] - given[at];
    let bend = |at: usize| error(at - 1) - 2.0 * error(at) + error(at + 1);
    // What the codec does to it is as much where they meet as elsewhere, and no corner is sharper. Without their common start it is 1.36 times as much.
    for (what, of) in [("error", &error as &dyn Fn(usize) -> f32), ("its second difference", &bend)] {
        let (at_joins, elsewhere) = (mean(&joins, of), mean(&others, of));
        assert!(at_joins < 1.15 * elsewhere, "{what}: {at_joins} at joins, {elsewhere} elsewhere");
        let (at_joins, elsewhere) = (most(&joins, of), most(&others, of));
        assert!(at_joins <= elsewhere, "{what}: at most {at_joins} at joins, {elsewhere} elsewhere");
    }
    assert!(mean(&others, &error) < 0.1 * mean(&others, &|at| given[at]), "it is heard at all");
}

#[test]
fn equal_slices_have_equal_bytes_and_come_back_from_them() {
    let (slices, _) = encode(SLICE_MS, 0, 3, None);
    let (again, _) = encode(SLICE_MS, 0, 3, None);
    for (slice, again) in slices.iter().zip(&again) {
        let object = fragment(slice).expect("a small one");
        assert!(Ok(&object) == fragment(again).as_ref(), "slice {}", slice.number);
        assert_eq!(parse_fragment(&object).as_ref(), Ok(slice));
        assert!(slice.video[0].key, "a slice begins with an IDR picture");
        for cut in [0, 7, 20, object.len() / 2, object.len() - 1] {
            assert!(parse_fragment(&object.slice(..cut)).is_err(), "cut at {cut}");
        }
    }
    let (mid, _) = encode(SLICE_MS, 2, 3, None);
    assert_eq!(mid[0].video, slices[2].video, "whoever renders a slice");
    assert_eq!(mid[0].audio.len(), slices[2].audio.len());
}

#[test]
fn a_webm_has_the_same_bytes_however_busy_the_machine_is() {
    for codec in [WebmCodec::Vp8, WebmCodec::Vp9] {
        let output = Output { codec: Some(codec), ..Kind::Webm.into() };
        let spec = CompositeSpec { width: 640, height: 360, outputs: vec![output], ..CompositeSpec::default() };
        let encoded = || {
            let mut encoder = Encoder::new(&spec, SLICE_MS, 0).expect("an encoder");
            let mut canvas = Canvas::new(640, 360);
            for index in 0..20 {
                paint(&mut canvas, index);
                encoder.push_video(&canvas).expect("a frame");
            }
            encoder.finish_last().expect("the last slice").webm
        };
        let alone = encoded();
        assert_eq!(alone.len(), 20);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        std::hint::spin_loop()
                    }
                });
            }
            let busy = encoded();
            is_over.store(true, Ordering::Relaxed);
            assert!(busy == alone, "{codec:?}");
        });
    }
}

#[test]
fn what_no_fragment_can_hold_is_refused() {
    let (slices, _) = encode(SLICE_MS, 0, 1, None);
    for (pts, dts) in [(i64::MIN, 0), (i64::MAX, -1), (1 << 40, 0)] {
        let mut slice = slices[0].clone();
        (slice.video[1].pts, slice.video[1].dts) = (pts, dts);
        assert!(fragment(&slice).is_err(), "{pts} {dts}");
    }
}

#[test]
fn damaged_slices_are_refused_not_believed() {
    use proptest::prelude::*;
    let (slices, _) = encode(SLICE_MS, 0, 1, None);
    let object = fragment(&slices[0]).expect("a small one");
    proptest!(|(flips in proptest::collection::vec((0..2000_usize, any::<u8>()), 1..8))| {
        let mut bytes = object.to_vec();
        for (at, value) in flips {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        let _ = parse_fragment(&Bytes::from(bytes));
    });
}

#[test]
fn large_files_are_uploaded_while_they_grow() {
    let (slices, encoder) = encode(SLICE_MS, 0, 1, None);
    let (video, audio) = (encoder.video_config(), encoder.audio_config());
    let mut joiner = Joiner::new(Some(video), audio);
    let mut part_bytes = Vec::new();
    for number in 0..30 {
        let mut slice = slices[0].clone();
        slice.number = number;
        // A megabyte a slice: filler data behind the picture (H.264 §7.3.2.7).
        let mut data = slice.video[0].data.to_vec();
        let filler = 1_000_000 - data.len();
        data.extend_from_slice(&(filler as u32 - 4).to_be_bytes());
        data.push(12);
        data.resize(999_999, 0xff);
        data.push(0x80);
        slice.video[0].data = Bytes::from(data);
        for part in joiner.push(&slice).expect("in order") {
            assert_eq!(part.number as usize, part_bytes.len() + 2);
            part_bytes.push(part.body);
        }
    }
    assert!(part_bytes.len() >= 2 && part_bytes.iter().all(|body| body.len() >= 5 << 20));
    let Remainder::Parts(rest) = joiner.finish(None) else { panic!("it is large") };
    assert_eq!(rest.iter().map(|part| part.number).collect::<Vec<_>>(), [1, part_bytes.len() as u32 + 2]);
    assert!(rest[0].body.len() >= 5 << 20, "every store takes it");
    let mut file = rest[0].body.to_vec();
    part_bytes.iter().chain([&rest[1].body]).for_each(|body| file.extend_from_slice(body));
    let folder = tempfile::tempdir().expect("a folder");
    let path = write(folder.path(), "file.mp4", &file);
    let packets = packets(&path, "v");
    assert_eq!(packets.len(), 30 * 30);
    assert_eq!(packets.iter().filter(|packet| packet.2 == 1_000_000).count(), 30);
}

#[tokio::test]
async fn an_upload_survives_lost_answers_and_gives_way_to_a_file_that_stands() {
    use roomreel_backends::memory::MemoryStore;
    use roomreel_backends::memory::faults::{Fault, Operation, Script};
    use roomreel_compositor::outputs::FileUpload;
    use roomreel_shared::key::Key;
    use roomreel_shared::ports::{ObjectStore, StoreError};
    use std::sync::Arc;

    let (slices, encoder) = encode(SLICE_MS, 0, 1, None);
    let script = Script::new();
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new().with_faults(Arc::new(script.clone())));
    let key = Key::listed("composite.mp4".to_owned());
    let mut files = Vec::new();
    for round in 0..2 {
        for (operation, fault) in [
            (Operation::BeginUpload, Fault::FailBefore),
            (Operation::UploadPart, Fault::LoseAnswer),
            (Operation::CompleteUpload, Fault::LoseAnswer),
        ] {
            if round == 0 {
                script.push(operation, fault);
            }
        }
        let mut joiner = Joiner::new(Some(encoder.video_config()), encoder.audio_config());
        let mut upload = FileUpload::new(store.clone(), key.clone());
        for number in 0..20 {
            let mut slice = slices[0].clone();
            slice.number = number;
            slice.video[0].data = Bytes::from(vec![round; 1_000_000]);
            joiner.push(&slice).expect("in order").into_iter().for_each(|part| upload.push(part));
            while let Err(error) = upload.flush().await {
                assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            }
        }
        upload.end(joiner.finish(None));
        while let Err(error) = upload.finish().await {
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        }
        assert_eq!(script.remaining(), 0);
        files.push(store.get(&key).await.expect("the file"));
    }
    assert!(files[0].len() > 20_000_000 && files[0] == files[1], "the first file stays");
}
