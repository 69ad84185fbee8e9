//! Media that cannot be shown or heard: the room goes on, and `quality.json` says why.

use super::*;
use crate::documents::quality::TrackQuality;

/// What is said of a room of one track whose payloads are these, packet by packet (is it a picture's last?), ten pictures or fifty
/// sounds a second; and its slices.
fn told(codec_of_track: Codec, pictures: &[Vec<Vec<u8>>]) -> (Vec<String>, TrackQuality, Vec<Vec<u8>>) {
    let is_audio = matches!(codec_of_track, Codec::Opus) || codec_of_track == Codec::Other("iLBC".to_owned());
    let (rate, step_us) = if is_audio { (48_000, 20_000) } else { (90_000, 100_000) };
    let sfu = SfuId::new("sfu").expect("valid");
    let media = producer(vec![codec(96, codec_of_track, rate)]);
    let key = TrackKey { sfu, track: media.track.clone() };
    let events = vec![(100_000, EventKind::ProducerCreated(media))];
    let mut packets = Packets::new();
    let mut sequence = 0;
    for (index, payloads) in (0_i64..).zip(pictures) {
        let at = START_US + 120_000 + index * step_us;
        for (part, payload) in payloads.iter().enumerate() {
            let timestamp = (index * step_us * i64::from(rate) / 1_000_000) as u32;
            let is_last = part + 1 == payloads.len();
            let packet = rtp(1, 96, sequence, timestamp, is_last, payload, at + part as i64);
            sequence += 1;
            packets.entry(key.clone()).or_default().push(packet);
        }
    }
    let core = RenderCore::new(spec(), fold()).expect("a layout and an encoder");
    let video = core.video_config().expect("not at its end");
    let (slices, core) = rendered_of(core, &windows_of(&(events, packets)));
    assert!(core.is_finished(), "it does not stall");
    assert_eq!(slices.iter().map(|slice| slice.encoded.video.len()).sum::<usize>(), 29, "I5");
    let quality = core.quality();
    let middles = slices.iter().map(|slice| middles(&video, slice)).collect();
    (quality.notes.clone(), quality.tracks[&key], middles)
}

/// One of a hundred bytes behind the first is another.
fn flipped(payload: &[u8], random: &mut u32) -> Vec<u8> {
    let mut next = || {
        *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *random >> 8
    };
    let flip =
        |(index, byte): (usize, &u8)| if index > 2 && next() % 100 == 0 { byte ^ (next() as u8 | 1) } else { *byte };
    payload.iter().enumerate().map(flip).collect()
}

/// Nothing but the placeholder is seen.
fn is_placeholder(middles: &[Vec<u8>]) -> bool {
    middles.concat().iter().all(|luma| luma.abs_diff(BRIGHT[0]) > 12)
}

#[test]
fn without_a_key_frame_there_is_a_placeholder() {
    let pictures: Vec<_> =
        vp8(25, |_| BRIGHT)[1..].iter().map(|picture| vec![[&[0x10], &picture[..]].concat()]).collect();
    let (notes, quality, middles) = told(Codec::Vp8, &pictures);
    assert_eq!(
        notes,
        ["track track of sfu: no key frame ever arrived, and 24 pictures build on one; it stays a placeholder"]
    );
    let TrackQuality::Video(quality) = quality else { panic!("{quality:?}") };
    assert_eq!((quality.keyless_pictures, quality.lost_pictures, quality.key_pictures), (24, 24, 0));
    assert!(is_placeholder(&middles));
}

#[test]
fn codecs_that_are_not_known_are_named() {
    let (notes, _, middles) = told(Codec::Other("VVC".to_owned()), &vec![vec![vec![1, 2, 3]]; 25]);
    assert_eq!(notes, ["track track of sfu: codec vvc is not supported; it stays a placeholder"]);
    assert!(is_placeholder(&middles));
    let (notes, quality, _) = told(Codec::Other("iLBC".to_owned()), &vec![vec![vec![1, 2, 3]]; 100]);
    assert_eq!(notes, ["track track of sfu: codec ilbc is not supported; it stays silent"]);
    assert!(matches!(quality, TrackQuality::Audio(audio) if audio.intake.packets == 100 && audio.decoder_errors == 0));
}

#[test]
fn damaged_sound_is_counted() {
    // 20 ms of CELT each, of which every tenth is cut off inside its lengths.
    let sound = (0..100).map(|index| vec![if index % 10 == 0 { vec![0x7b, 0xff] } else { vec![0xf8, 0xff, 0xfe] }]);
    let (notes, quality, _) = told(Codec::Opus, &sound.collect::<Vec<_>>());
    assert_eq!(notes, ["track track of sfu: damaged, 10 of its packets could not be decoded"]);
    assert!(matches!(quality, TrackQuality::Audio(audio) if audio.decoder_errors == 10), "{quality:?}");
}

/// Each coded picture in one packet a unit, as RFC 7798 has it.
fn units(picture: &[u8]) -> Vec<Vec<u8>> {
    let starts: Vec<_> =
        (0..picture.len().saturating_sub(3)).filter(|at| picture[*at..*at + 3] == [0, 0, 1]).map(|at| at + 3).collect();
    let ends = starts.iter().skip(1).map(|next| next - 3).chain([picture.len()]);
    let trimmed = |unit: &[u8]| unit[..unit.len() - unit.iter().rev().take_while(|byte| **byte == 0).count()].to_vec();
    starts.iter().zip(ends).map(|(start, end)| trimmed(&picture[*start..end])).collect()
}

#[test]
fn a_damaged_h265_stream_goes_on() {
    let options =
        [("preset", "ultrafast"), ("tune", "zerolatency"), ("x265-params", "log-level=none:keyint=8:bframes=0:qp=20")];
    let pictures = coded("libx265", &options, (320, 180), 25, |canvas, index| {
        // Something that takes bytes: of a few of them none might be flipped.
        let luma = canvas.plane_mut(0).iter_mut().enumerate();
        luma.for_each(|(at, luma)| *luma = 40 + ((at / 5 * 37 + index * 11) % 151) as u8);
    });
    let whole: Vec<_> = pictures.iter().map(|picture| units(picture)).collect();
    let (notes, quality, _) = told(Codec::H265, &whole);
    let TrackQuality::Video(quality) = quality else { panic!("{quality:?}") };
    assert_eq!((notes.len(), quality.decoded_pictures, quality.lost_pictures), (0, 25, 0), "{notes:?}");
    let mut random = 7;
    let damaged: Vec<_> =
        whole.iter().map(|units| units.iter().map(|unit| flipped(unit, &mut random)).collect::<Vec<_>>()).collect();
    let (notes, quality, _) = told(Codec::H265, &damaged);
    assert!(notes.len() == 1 && notes[0].contains("of its pictures could not be decoded"), "{notes:?} {quality:?}");
}
