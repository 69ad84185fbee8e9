//! A track's coded media in containers: which stream is followed, and where a new file begins.
//!
//! A file holds one codec with one set of parameters. Where they change, a new file begins, at a key picture. A change of resolution
//! alone goes on in the same file if the codec has it in its key pictures (VP8, VP9). What was lost is a gap in time.

use std::collections::BTreeMap;

use roomreel_shared::event::{Codec, Producer};
use roomreel_shared::rtp::{PayloadType, Ssrc};
use roomreel_shared::time::RoomTime;

use super::container::{Container, MediaFormat};
use super::{Error, Files};
use crate::decode::{SAMPLE_RATE, VideoDecoder};
use crate::depacketize::audio::duration_samples;
use crate::depacketize::orientation::Orientation;
use crate::depacketize::reorder::Popped;
use crate::depacketize::{CodedPicture, parameters};
use crate::track::{Assembler, Intake, LAYER_OFF_US};

/// How far apart the layers of a simulcast begin.
const LAYERS_BEGIN_WITHIN_US: i64 = 200_000;
/// A picture's duration where the next one does not tell it.
const USUAL_PICTURE_US: i64 = 33_333;

/// The file that is being written, and what it is made of.
#[derive(Default)]
struct Current(Option<(MediaFormat, Container)>);

impl Current {
    /// Goes on with `format`, in a new file if need be; whether there is one.
    fn begin(&mut self, format: MediaFormat, files: &mut Files) -> Result<bool, Error> {
        if self.0.as_ref().is_some_and(|(begun, _)| format.continues(begun)) {
            return Ok(true);
        }
        self.finish()?;
        let Some(file) = files.next(format.container().0, format.codec.name())? else { return Ok(false) };
        let container = Container::create(file, &format)?;
        self.0 = Some((format, container));
        Ok(true)
    }

    /// How the camera was held when the file began.
    fn orientation(&self) -> Orientation {
        self.0.as_ref().map_or_else(Orientation::default, |(begun, _)| begun.orientation)
    }

    fn write(&mut self, data: &[u8], at_us: i64, duration_us: i64, key: bool, files: &mut Files) -> Result<(), Error> {
        let Some((_, container)) = &mut self.0 else { return Ok(()) };
        container.write(data, at_us, duration_us, key)?;
        files.note(files.newest(), at_us.max(0), duration_us);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.0.take().map_or(Ok(()), |(_, container)| container.finish())
    }
}

/// The layer that is written.
struct Followed {
    ssrc: Ssrc,
    pixels: u64,
    newest: RoomTime,
}

struct Picture {
    time: RoomTime,
    ssrc: Ssrc,
    payload_type: PayloadType,
    orientation: Orientation,
    coded: CodedPicture,
}

/// One simulcast layer, or the only stream there is.
#[derive(Default)]
struct Layer {
    assembler: Assembler,
    orientation: Orientation,
}

/// A camera or a screen.
pub(super) struct Video {
    producer: Producer,
    layers: BTreeMap<Ssrc, Layer>,
    followed: Option<Followed>,
    current: Current,
}

impl Video {
    pub(super) fn new(producer: Producer) -> Self {
        Self { producer, layers: BTreeMap::new(), followed: None, current: Current::default() }
    }

    pub(super) fn write_before(
        &mut self,
        end: RoomTime,
        start: RoomTime,
        intake: &mut Intake,
        files: &mut Files,
    ) -> Result<(), Error> {
        let mut pictures = Vec::new();
        for (ssrc, stream) in intake.streams() {
            let layer = self.layers.entry(ssrc).or_default();
            while let Some(packets) = stream.order.pop_picture_before(end) {
                layer.orientation = packets.orientation.unwrap_or(layer.orientation);
                let (time, payload_type, orientation) = (packets.time, packets.payload_type, layer.orientation);
                if let Ok(coded) = layer.assembler.picture(&packets, &self.producer) {
                    pictures.push(Picture { time, ssrc, payload_type, orientation, coded });
                }
            }
        }
        self.layers.retain(|ssrc, _| intake.has_stream(*ssrc));
        pictures.sort_by_key(|picture| picture.time);
        if self.followed.is_none() {
            begin_with_largest(&mut pictures);
        }
        pictures.iter().try_for_each(|picture| self.show(picture, start, files))
    }

    fn show(&mut self, picture: &Picture, start: RoomTime, files: &mut Files) -> Result<(), Error> {
        let Some(codec) = self.producer.codec(picture.payload_type).map(|parameters| parameters.codec.clone()) else {
            return Ok(());
        };
        let coded = &picture.coded;
        let is_followed = self.followed.as_ref().is_some_and(|followed| followed.ssrc == picture.ssrc);
        if coded.is_key {
            let Some(format) = format_of(codec, coded, picture.orientation) else { return Ok(()) };
            let pixels = u64::from(format.size.0) * u64::from(format.size.1);
            let is_better = self.followed.as_ref().is_none_or(|followed| {
                pixels > followed.pixels || picture.time.micros_since(followed.newest) > LAYER_OFF_US
            });
            if !is_followed && !is_better {
                return Ok(());
            }
            if !self.current.begin(format, files)? {
                return Ok(());
            }
            self.followed = Some(Followed { ssrc: picture.ssrc, pixels, newest: picture.time });
        } else if !is_followed {
            return Ok(());
        }
        let Some(followed) = &mut self.followed else { return Ok(()) };
        followed.newest = picture.time;
        let at_us = picture.time.micros_since(start);
        self.current.write(&coded.data, at_us, USUAL_PICTURE_US, coded.is_key, files)?;
        if picture.orientation != self.current.orientation() {
            files.turn();
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.current.finish()
    }
}

/// Layers of simulcast begin one after another: leaves out what lies before the first key picture of the largest one.
fn begin_with_largest(pictures: &mut Vec<Picture>) {
    let keys = || pictures.iter().filter(|picture| picture.coded.is_key);
    let Some(first) = keys().next() else { return };
    let begins_together = |picture: &&Picture| picture.time.micros_since(first.time) <= LAYERS_BEGIN_WITHIN_US;
    let largest = keys().filter(begins_together).rev().max_by_key(|picture| picture.coded.size);
    let Some((ssrc, time)) = largest.map(|picture| (picture.ssrc, picture.time)) else { return };
    pictures.retain(|picture| picture.time > time || (picture.ssrc == ssrc && picture.time == time));
}

/// What a container is to say of the pictures that begin with this key picture; `None` if it has no size.
pub(super) fn format_of(codec: Codec, key: &CodedPicture, orientation: Orientation) -> Option<MediaFormat> {
    let size = key.size.or_else(|| {
        // The payload formats of H.265 and AV1 do not tell; the decoder does.
        let (_, picture) = VideoDecoder::new(&codec).ok()?.decode(&key.data, 0).ok()?.pop()?;
        Some((picture.width() as u32, picture.height() as u32))
    })?;
    let extradata = parameters(&codec, &key.data);
    Some(MediaFormat { codec, size, orientation, sample_rate: 0, channels: 0, extradata })
}

/// A microphone, or the sound of a screen.
#[derive(Default)]
pub(super) struct Sound {
    current: Current,
    /// Whose packet was written last, and where it ended, microseconds.
    last: Option<(Ssrc, i64)>,
}

impl Sound {
    pub(super) fn write_before(
        &mut self,
        end: RoomTime,
        start: RoomTime,
        intake: &mut Intake,
        files: &mut Files,
    ) -> Result<(), Error> {
        let mut popped = intake.pop_before(end);
        popped.sort_by_key(|(_, popped)| popped.packet.time);
        for (ssrc, Popped { packet, .. }) in popped {
            let Some(parameters) = intake.codec(packet.payload_type) else { continue };
            let Some(samples) = duration_samples(&parameters.codec, &packet.payload) else { continue };
            let at_us = packet.time.micros_since(start);
            let is_second_voice = self.last.is_some_and(|(of, end_us)| of != ssrc && at_us < end_us);
            if is_second_voice {
                continue;
            }
            let duration_us = i64::from(samples) * 1_000_000 / i64::from(SAMPLE_RATE);
            let format = sound_format(&parameters.codec, parameters.channels);
            if self.current.begin(format, files)? {
                self.current.write(&packet.payload, at_us, duration_us, true, files)?;
                self.last = Some((ssrc, at_us + duration_us));
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.current.finish()
    }
}

pub(super) fn sound_format(codec: &Codec, channels: u8) -> MediaFormat {
    let channels = channels.clamp(1, 2);
    let (sample_rate, extradata) = match codec {
        Codec::Opus => (SAMPLE_RATE, opus_head(channels)),
        // The clock of RTP says 8000 for G.722, by a mistake of long ago (RFC 3551 section 4.5.2).
        Codec::G722 => (16_000, Vec::new()),
        _ => (8000, Vec::new()),
    };
    let orientation = Orientation::default();
    MediaFormat { codec: codec.clone(), size: (0, 0), orientation, sample_rate, channels, extradata }
}

/// The identification header (RFC 7845 section 5.1); no samples are skipped, so that the first one keeps its time.
fn opus_head(channels: u8) -> Vec<u8> {
    let mut head = b"OpusHead\x01".to_vec();
    head.push(channels);
    head.extend(0_u16.to_le_bytes());
    head.extend(SAMPLE_RATE.to_le_bytes());
    head.extend([0, 0, 0]);
    head
}
