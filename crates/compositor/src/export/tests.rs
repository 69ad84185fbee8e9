//! Files of single tracks, looked at with FFmpeg's tools.

use std::path::Path;
use std::process::Command;

use ffmpeg_the_third as ffmpeg;

use bytes::Bytes;
use ffmpeg::codec::Context;
use ffmpeg::format::{Pixel, Sample, sample};
use ffmpeg::{ChannelLayout, Dictionary, frame};
use roomreel_shared::event::{Codec, HeaderExtension};

use super::container::Container;
use super::playable::{format_of, sound_format};
use super::*;
use crate::depacketize::CodedPicture;
use crate::depacketize::orientation::{self, Orientation};
use crate::frame::Canvas;
use crate::mux::libav::ByteSink;
use crate::render::tests::{coded, vp8, windows};
use crate::track::tests_support::{ORIENTATION_ID, codec, producer, rtp, with_orientation};

fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error} (apt-get install ffmpeg)"));
    let said = String::from_utf8_lossy(&output.stderr);
    // Matroska tells the number of channels and no layout; ffmpeg says what it makes of that.
    let said: Vec<_> = said.lines().filter(|line| !line.starts_with("Guessed Channel Layout")).collect();
    assert!(output.status.success() && said.is_empty(), "{tool} {arguments:?}: {said:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Decodes the file without a warning; where its media begins and how long it lasts, seconds.
fn look_at(file: &Path) -> (f64, f64) {
    let path = file.to_str().expect("a path in UTF-8");
    run("ffmpeg", &["-nostdin", "-v", "warning", "-xerror", "-i", path, "-f", "null", "-"]);
    let packets = ["-v", "warning", "-show_entries", "packet=pts_time", "-of", "csv=p=0", path];
    let times: Vec<f64> =
        run("ffprobe", &packets).lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect();
    let (first, last) = (times.first().expect("packets"), times.last().expect("packets"));
    (*first, last - first)
}

fn export(format: Format, directory: &Path) -> Vec<ExportedFile> {
    let mut exporter = Exporter::new(directory, format);
    for window in windows() {
        exporter.push_window(&window).expect("it is written");
    }
    let (files, notes) = exporter.finish().expect("it is written");
    assert_eq!(notes, [""; 0]);
    files
}

#[test]
fn tracks_stand_where_they_stood_in_the_room() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = export(Format::Playable, directory.path());
    let told: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.codec.as_str(), file.count)).collect();
    assert_eq!(told, [("amara-audio.mka", "PCMA", 120), ("amara-video.webm", "VP8", 25)]);
    for file in &files {
        let (start, duration) = look_at(&directory.path().join(&file.name));
        assert!((start - 0.52).abs() < 0.002 && (duration - 2.4).abs() < 0.05, "{start} {duration} {file:?}");
        assert!((file.span_us.0 - 520_000).abs() < 2_000, "{file:?}");
    }
}

#[test]
fn the_same_windows_give_the_same_files() {
    for format in [Format::Playable, Format::Rtpdump, Format::Mjr] {
        let (one, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let files = export(format, one.path());
        assert_eq!(files, export(format, other.path()));
        for file in files {
            let read = |directory: &Path| std::fs::read(directory.join(&file.name)).expect("it was written");
            assert!(read(one.path()) == read(other.path()), "{}", file.name);
        }
    }
}

#[test]
fn packets_are_written_one_by_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = export(Format::Mjr, directory.path());
    assert_eq!(
        files.iter().map(|file| (file.name.as_str(), file.count)).collect::<Vec<_>>(),
        [("amara-audio.mjr", 120), ("amara-video.mjr", 50)]
    );
    let files = export(Format::Rtpdump, directory.path());
    let dump = std::fs::read(directory.path().join("amara-audio.rtpdump")).expect("it was written");
    assert_eq!(dump.len(), 23 + 16 + 120 * (8 + 12 + 160));
    assert_eq!(files[0].count, 120);
}

#[test]
fn windows_of_another_recording_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut exporter = Exporter::new(directory.path(), Format::Rtpdump);
    let mut window = windows().remove(0);
    exporter.push_window(&window).expect("the first one");
    window.header.recording = RecordingId::new("other").expect("valid");
    assert!(matches!(exporter.push_window(&window), Err(Error::WrongRecording { .. })));
}

/// Refuses the files of one track.
struct Refusing(Directory);

impl FileMaker for Refusing {
    fn create(&self, name: &str) -> io::Result<Box<dyn ByteSink>> {
        if name.contains("video") { Err(io::Error::other("no room")) } else { self.0.create(name) }
    }
}

#[test]
fn a_track_that_cannot_be_written_costs_no_other() {
    let directory = tempfile::tempdir().expect("a directory");
    for format in [Format::Playable, Format::Mjr] {
        let files = Refusing(Directory(directory.path().to_owned()));
        let mut exporter = Exporter::with(Arc::new(files), format);
        windows().iter().for_each(|window| exporter.push_window(window).expect("the others are written"));
        let (files, notes) = exporter.finish().expect("the others are written");
        assert_eq!((files.len(), notes.len()), (1, 1), "{notes:?}");
        assert!(notes[0].contains("amara-video") && notes[0].contains("no room"), "{notes:?}");
    }
}

/// Pictures that are bright at the top left.
fn marked(name: &str, options: &[(&str, &str)]) -> Vec<Bytes> {
    coded(name, options, (320, 180), 10, |canvas, _| {
        canvas.fill([40, 128, 128]);
        let stride = canvas.stride(0);
        canvas.plane_mut(0).chunks_mut(stride).take(90).for_each(|row| row[..160].fill(200));
    })
}

/// How a player shows its first picture: whether that is upright, and where it is bright: at the right, at the bottom.
fn shown(file: &Path) -> (bool, (bool, bool)) {
    let path = file.to_str().expect("a path in UTF-8");
    let turned = ["-v", "warning", "-show_entries", "stream_side_data=rotation", "-of", "csv=p=0", path];
    let is_upright = ["90", "-90"].contains(&run("ffprobe", &turned).trim());
    let raw = ["-nostdin", "-v", "warning", "-i", path, "-frames:v", "1", "-pix_fmt", "gray", "-f", "rawvideo", "-"];
    let luma = Command::new("ffmpeg").args(raw).output().expect("ffmpeg").stdout;
    let (width, height) = if is_upright { (180, 320) } else { (320, 180) };
    assert_eq!(luma.len(), width * height, "{path}");
    let quarter = |is_right: bool, is_bottom: bool| {
        luma[(height / 4 + usize::from(is_bottom) * height / 2) * width + width / 4 + usize::from(is_right) * width / 2]
    };
    let quarters = [(false, false), (true, false), (false, true), (true, true)];
    let bright: Vec<_> = quarters.into_iter().filter(|(right, bottom)| quarter(*right, *bottom) > 150).collect();
    assert_eq!(bright.len(), 1, "{path}: {bright:?}");
    (is_upright, bright[0])
}

#[test]
fn players_show_upright_how_the_camera_was_held() {
    let directory = tempfile::tempdir().expect("a directory");
    let of = [
        (Codec::Vp8, marked("libvpx", &[("deadline", "realtime"), ("cpu-used", "8"), ("lag-in-frames", "0")])),
        (Codec::H264, marked("libx264", &[("preset", "veryfast"), ("tune", "zerolatency")])),
    ];
    for (codec, media) in of {
        for (value, expected) in [
            (0, (false, (false, false))),
            (1, (true, (true, false))),
            (2, (false, (true, true))),
            (3, (true, (false, true))),
        ] {
            let name = format!("{}-{value}", codec.name());
            let file = OpenFile::create(&Directory(directory.path().to_owned()), &name).expect("it is begun");
            let key = CodedPicture { data: media[0].clone(), is_key: true, size: None };
            let held = Orientation::parse(&[value]).expect("a byte");
            let format = format_of(codec.clone(), &key, held).expect("it has a size");
            let mut container = Container::create(file, &format).expect("libavformat knows it");
            for (index, data) in (0..).zip(&media) {
                container.write(data, index * 100_000, 100_000, index == 0).expect("it is written");
            }
            container.finish().expect("it ends");
            assert_eq!(shown(&directory.path().join(&name)), expected, "{name}");
        }
    }
}

#[test]
fn a_file_says_how_the_camera_was_held_when_it_began() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut producer = producer(vec![codec(96, Codec::Vp8, 90_000)]);
    producer.header_extensions = vec![HeaderExtension { id: ORIENTATION_ID, uri: orientation::URI.to_owned() }];
    for (held, turned, is_turned) in [(1, 1, false), (1, 0, true)] {
        let (mut intake, mut video) = (Intake::new(producer.clone()), Video::new(producer.clone()));
        let mut clock = ParticipantClock::default();
        for (index, picture) in (0_u16..).zip(vp8(10, |_| [100, 128, 128])) {
            let at = i64::from(index) * 100_000;
            let packet = rtp(1, 96, index, u32::from(index) * 9000, true, &[&[0x10], &picture[..]].concat(), at);
            let packet = match index {
                0 => with_orientation(&packet, held),
                6 => with_orientation(&packet, turned),
                _ => packet,
            };
            intake.receive(&packet, &mut clock);
        }
        intake.place(&clock);
        let maker = Arc::new(Directory(directory.path().to_owned()));
        let mut files = Files { maker, stem: format!("to-{turned}"), peer: producer.peer.clone(), written: Vec::new() };
        let start = RoomTime::from_micros(0);
        video.write_before(RoomTime::from_micros(i64::MAX), start, &mut intake, &mut files).expect("it is written");
        video.finish().expect("it ends");
        let [file] = &files.written[..] else { panic!("one file: {:?}", files.written) };
        assert_eq!((file.count, file.is_turned), (10, is_turned));
        let turned = ["-v", "warning", "-show_entries", "stream_side_data=rotation", "-of", "csv=p=0"];
        let path = directory.path().join(&file.name);
        assert_eq!(run("ffprobe", &[&turned[..], &[path.to_str().expect("UTF-8")]].concat()).trim(), "-90");
    }
}

fn video(name: &str, options: &[(&str, &str)]) -> Vec<Vec<u8>> {
    let codec = ffmpeg::encoder::find_by_name(name).unwrap_or_else(|| panic!("libavcodec has no {name}"));
    let mut video = Context::new_with_codec(codec).encoder().video().expect("a video encoder");
    video.set_width(320);
    video.set_height(180);
    video.set_format(Pixel::YUV420P);
    video.set_max_b_frames(0);
    video.set_time_base(ffmpeg::Rational::new(1, 10));
    let mut encoder = video.open_with(Dictionary::from_iter(options.iter().copied())).expect(name);
    let mut coded = Vec::new();
    for index in 0..10 {
        let mut canvas = Canvas::new(320, 180);
        canvas.fill([100 + index as u8, 128, 128]);
        let mut frame = canvas.frame().clone();
        frame.set_pts(Some(index));
        encoder.send_frame(&frame).expect("it takes a frame");
        if index == 9 {
            encoder.send_eof().expect("it ends");
        }
        let mut packet = ffmpeg::Packet::empty();
        while encoder.receive_packet(&mut packet).is_ok() {
            coded.push(packet.data().expect("it has content").to_vec());
        }
    }
    coded
}

fn sound(name: &str, format: Sample, rate: u32, samples: usize) -> Vec<Vec<u8>> {
    let codec = ffmpeg::encoder::find_by_name(name).unwrap_or_else(|| panic!("libavcodec has no {name}"));
    let mut audio = Context::new_with_codec(codec).encoder().audio().expect("an audio encoder");
    audio.set_rate(rate as i32);
    audio.set_format(format);
    audio.set_ch_layout(ChannelLayout::MONO);
    let mut encoder = audio.open().expect(name);
    let mut coded = Vec::new();
    for index in 0..10 {
        let mut frame = frame::Audio::new(format, samples, ffmpeg::ChannelLayoutMask::MONO);
        frame.data_mut(0).fill(index);
        frame.set_rate(rate);
        encoder.send_frame(&frame).expect("it takes a frame");
        let mut packet = ffmpeg::Packet::empty();
        while encoder.receive_packet(&mut packet).is_ok() {
            coded.push(packet.data().expect("it has content").to_vec());
        }
    }
    coded
}

#[test]
fn every_codec_has_a_container() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |format: container::MediaFormat, media: &[Vec<u8>], step_us: i64| {
        let name = format!("{}.{}", format.codec.name(), format.container().0);
        let path = directory.path().join(&name);
        let file = OpenFile::create(&Directory(directory.path().to_owned()), &name).expect("it is begun");
        let mut container = Container::create(file, &format).expect("libavformat knows it");
        // A hole in the middle, and a beginning in mid-recording.
        for (index, data) in media.iter().enumerate() {
            let at = 7_000_000 + index as i64 * step_us + i64::from(index >= 5) * 3_000_000;
            container.write(data, at, step_us, index == 0 || format.channels > 0).expect("it is written");
        }
        container.finish().expect("it ends");
        let (start, duration) = look_at(&path);
        let expected = (media.len() - 1) as f64 * step_us as f64 / 1e6 + 3.0;
        assert!((start - 7.0).abs() < 0.002, "{}: {start}", path.display());
        assert!((duration - expected).abs() < 0.01, "{}: {duration}, not {expected}", path.display());
    };
    let quick: &[(&str, &str)] = &[("deadline", "realtime"), ("cpu-used", "8"), ("lag-in-frames", "0")];
    for (codec, name, options) in [
        (Codec::Vp8, "libvpx", quick),
        (Codec::Vp9, "libvpx-vp9", quick),
        (Codec::H264, "libx264", &[("preset", "veryfast"), ("tune", "zerolatency")]),
        (
            Codec::H265,
            "libx265",
            &[("preset", "ultrafast"), ("tune", "zerolatency"), ("x265-params", "log-level=none:bframes=0")],
        ),
        (Codec::Av1, "libaom-av1", &[("usage", "realtime"), ("cpu-used", "8"), ("lag-in-frames", "0")]),
    ] {
        let media = video(name, options);
        let key = CodedPicture { data: media[0].clone().into(), is_key: true, size: None };
        let format = format_of(codec, &key, Orientation::default()).expect("it has a size");
        assert_eq!(format.size, (320, 180));
        write(format, &media, 100_000);
    }
    let packed = Sample::I16(sample::Type::Packed);
    for (codec, name, rate, samples) in [
        (Codec::Opus, "libopus", 48_000, 960),
        (Codec::Pcmu, "pcm_mulaw", 8000, 160),
        (Codec::Pcma, "pcm_alaw", 8000, 160),
        (Codec::G722, "g722", 16_000, 320),
    ] {
        write(sound_format(&codec, 1), &sound(name, packed, rate, samples), 20_000);
    }
}
