//! A camera or a screen: which layer is decoded, and the picture at a moment.
//!
//! Coded pictures wait until their moment and are decoded only if the track is in a tile; from the newest key picture on they
//! are kept, so that a tile that comes back has its picture at once. After a loss the last good picture stands until the next
//! key picture.

use std::collections::{BTreeMap, VecDeque};

use roomreel_shared::batch::Packet;
use roomreel_shared::event::{Codec, Producer};
use roomreel_shared::rtp::{PayloadType, Ssrc};
use roomreel_shared::time::RoomTime;
use serde::{Deserialize, Serialize};

use super::assemble::{Assembler, Unusable};
use super::intake::{Intake, IntakeQuality};
use crate::decode::{Error, VideoDecoder};
use crate::depacketize::CodedPicture;
use crate::depacketize::orientation::Orientation;
use crate::depacketize::reorder::PicturePackets;
use crate::depacketize::spatial::SpatialLayers;
use crate::engine::witness;
use crate::frame::Picture;
use crate::timeline::clock::ParticipantClock;

/// Most coded pictures and bytes that wait to be seen.
const MAX_BACKLOG: usize = 300;
const MAX_BACKLOG_BYTES: usize = 16 << 20;
/// A layer without a picture for this long is off.
pub(crate) const LAYER_OFF_US: i64 = 1_500_000;
/// A layer must be the better one for this long: tiles change size while they move.
const LAYER_PATIENCE_US: i64 = 1_000_000;
/// A smaller layer is changed to at its next key picture: until then the old one is as good, and nothing is decoded to catch up.
/// Some senders make none unless they are asked: after this long it is caught up with.
const KEY_PATIENCE_US: i64 = 5_000_000;
/// So many key pictures tell how far apart they are.
const FREQUENT_KEYS: usize = 4;
/// So few pictures from the newest key picture on are no catching up.
const FRESH_PICTURES: usize = 4;
/// A camera without a new picture for this long is frozen, and after the second time its last picture says nothing any more.
const FROZEN_US: i64 = 1_000_000;
const STALE_US: i64 = 10_000_000;

/// How well a video track could be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VideoQuality {
    /// Packets.
    #[serde(flatten)]
    pub intake: IntakeQuality,
    /// Pictures that were decoded.
    pub decoded_pictures: u64,
    /// Pictures that could not be given to a decoder: a packet of them or of what they build on was missing, or they were malformed.
    pub lost_pictures: u64,
    /// Times a decoder refused a picture.
    pub decoder_errors: u64,
    /// Time in which an older picture stood for the one that should have been seen, milliseconds.
    pub frozen_ms: u64,
    /// Key pictures that were whole.
    pub key_pictures: u64,
    /// Of the lost pictures those whose payloads were damaged.
    pub malformed_pictures: u64,
    /// Of the lost pictures those that were whole, and came before any key picture.
    pub keyless_pictures: u64,
}

/// Pictures that reach no decoder, and why.
#[derive(Debug, Default)]
struct Blemishes {
    key_pictures: u64,
    lost: u64,
    malformed: u64,
    keyless: u64,
    /// Name of a codec that is not decoded here.
    unsupported: Option<String>,
}

impl Blemishes {
    fn count(&mut self, why: Unusable) {
        self.lost += u64::from(why != Unusable::Empty);
        match why {
            Unusable::Empty | Unusable::Lost => {}
            Unusable::Malformed => self.malformed += 1,
            Unusable::Keyless => self.keyless += 1,
            Unusable::Unsupported(name) => self.unsupported = Some(name),
        }
    }
}

#[derive(Clone)]
struct Waiting {
    time: RoomTime,
    payload_type: PayloadType,
    coded: CodedPicture,
    orientation: Orientation,
}

/// One simulcast layer, or the only stream there is; of a stream with spatial layers, the picture up to one of them.
#[derive(Default, Clone)]
struct Layer {
    assembler: Assembler,
    /// Begins with a key picture, unless the layer is the one being decoded.
    backlog: VecDeque<Waiting>,
    backlog_bytes: usize,
    /// Upright.
    size: Option<(u32, u32)>,
    orientation: Orientation,
    newest: RoomTime,
    /// It is not followed, and begins again with a key picture.
    is_let_go: bool,
    /// Its newest key pictures, oldest first.
    keys: VecDeque<RoomTime>,
}

impl Layer {
    fn clear(&mut self) {
        self.backlog.clear();
        self.backlog_bytes = 0;
    }

    fn drop_until_key(&mut self) {
        self.clear();
        self.assembler.await_key();
    }

    /// The same by choice: what comes before that key picture is not lost.
    fn let_go(&mut self) {
        self.drop_until_key();
        self.is_let_go = true;
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.backlog.pop_front()?;
        self.backlog_bytes -= waiting.coded.data.len();
        Some(waiting)
    }

    fn is_full(&self) -> bool {
        self.backlog.len() > MAX_BACKLOG || self.backlog_bytes > MAX_BACKLOG_BYTES
    }

    /// Takes a picture's packets; `blemishes` where it is the one to be judged by.
    fn take(&mut self, packets: &PicturePackets, producer: &Producer, blemishes: Option<&mut Blemishes>) {
        self.orientation = packets.orientation.unwrap_or(self.orientation);
        let orientation = self.orientation;
        let taken = self.assembler.picture(packets, producer);
        if let Some(blemishes) = blemishes {
            match &taken {
                Ok(coded) => blemishes.key_pictures += u64::from(coded.is_key),
                Err(Unusable::Lost) if self.is_let_go => {}
                Err(why) => blemishes.count(why.clone()),
            }
        }
        let Ok(coded) = taken else { return };
        self.is_let_go = false;
        if coded.is_key {
            self.clear();
            self.size = coded.size.map(|(width, height)| orientation.upright(width, height)).or(self.size);
            self.keys.push_back(packets.time);
            if self.keys.len() > FREQUENT_KEYS {
                self.keys.pop_front();
            }
        }
        self.newest = packets.time;
        self.backlog_bytes += coded.data.len();
        let payload_type = packets.payload_type;
        self.backlog.push_back(Waiting { time: packets.time, payload_type, coded, orientation });
    }

    /// A key picture has never been far, and some time apart.
    fn has_frequent_keys(&self) -> bool {
        let between = self.keys.front().zip(self.keys.back()).map_or(0, |(first, last)| last.micros_since(*first));
        let distances = FREQUENT_KEYS as i64 - 1;
        self.keys.len() == FREQUENT_KEYS && (FROZEN_US * distances..=KEY_PATIENCE_US * distances).contains(&between)
    }

    /// Lets go of what was decoded as a part of larger pictures.
    fn drop_until(&mut self, time: RoomTime) {
        while self.backlog.front().is_some_and(|waiting| waiting.time <= time) {
            self.pop();
        }
    }
}

/// An RTP stream, and how many of its spatial layers are wanted above the lowest.
type LayerKey = (Ssrc, u8);

/// A video track.
pub struct VideoTrack {
    intake: Intake,
    producer: Producer,
    is_screen: bool,
    /// How many spatial layers streams have.
    spatial: BTreeMap<Ssrc, SpatialLayers>,
    layers: BTreeMap<LayerKey, Layer>,
    /// Which layer the decoder follows.
    current: Option<LayerKey>,
    /// Which layer would be better, and since when.
    better: Option<(LayerKey, RoomTime)>,
    decoder: Option<(Codec, VideoDecoder)>,
    shown: Option<(RoomTime, Picture)>,
    /// Pictures up to here are not to be seen.
    blank_until: Option<RoomTime>,
    last_look: Option<RoomTime>,
    blemishes: Blemishes,
    frozen_us: u64,
    quality: VideoQuality,
}

impl VideoTrack {
    /// Of a track as its SFU described it.
    #[must_use]
    pub fn new(producer: Producer) -> Self {
        Self {
            intake: Intake::new(producer.clone()),
            is_screen: producer.kind == roomreel_shared::policy::TrackKind::Screenshare,
            producer,
            spatial: BTreeMap::new(),
            layers: BTreeMap::new(),
            current: None,
            better: None,
            decoder: None,
            shown: None,
            blank_until: None,
            last_look: None,
            blemishes: Blemishes::default(),
            frozen_us: 0,
            quality: VideoQuality::default(),
        }
    }

    /// Takes a packet as the SFU received it; call [`Self::place`] when all tracks have theirs.
    pub fn receive(&mut self, packet: &Packet, participant: &mut ParticipantClock) {
        self.intake.receive(packet, participant);
    }

    /// Puts what was received on the room's clock.
    pub fn place(&mut self, participant: &ParticipantClock) {
        self.intake.place(participant);
    }

    /// Lets go of the windows before the newest one, which are over but for a few packets.
    pub fn let_go(&mut self) {
        self.intake.let_go();
    }

    #[cfg(test)]
    pub(crate) fn waiting_packets(&mut self) -> usize {
        self.intake.waiting_packets()
    }

    /// What is to be said of it so far.
    #[must_use]
    pub fn quality(&self) -> VideoQuality {
        VideoQuality {
            intake: self.intake.quality(),
            lost_pictures: self.blemishes.lost,
            frozen_ms: self.frozen_us / 1000,
            key_pictures: self.blemishes.key_pictures,
            malformed_pictures: self.blemishes.malformed,
            keyless_pictures: self.blemishes.keyless,
            ..self.quality
        }
    }

    /// Moves to `t`, which never falls, without showing anything. Undecoded pictures pile up no further than from the newest
    /// key picture on.
    pub fn pass(&mut self, t: RoomTime) {
        let end = t.offset_micros(1);
        let mut missing = 0;
        for (ssrc, stream) in self.intake.streams() {
            let spatial = self.spatial.entry(ssrc).or_default();
            while let Some(packets) = stream.order.pop_picture_before(end) {
                missing += packets.missing_before + packets.missing_within;
                let codec = self.producer.codec(packets.payload_type).map(|parameters| &parameters.codec);
                let top_before = (ssrc, spatial.levels() as u8 - 1);
                let pictures = spatial.split(packets, codec);
                let top = pictures.len() - 1;
                for level in top_before.1 + 1..=top as u8 {
                    // Up to here its pictures were those of the layer below.
                    if let Some(same) = self.layers.get(&top_before).cloned() {
                        self.layers.insert((ssrc, level), same);
                    }
                    if self.current.is_some_and(|current| current.0 == ssrc) {
                        self.current = Some((ssrc, level));
                    }
                }
                for (level, picture) in pictures.iter().enumerate() {
                    let blemishes = (level == top).then_some(&mut self.blemishes);
                    self.layers.entry((ssrc, level as u8)).or_default().take(picture, &self.producer, blemishes);
                }
            }
        }
        for (key, layer) in &mut self.layers {
            // What is a part of the pictures that are decoded waits with them.
            let is_part = self.current.is_some_and(|current| is_part(*key, current));
            if layer.is_full() && self.current != Some(*key) && self.current.is_some() && !is_part {
                layer.let_go();
            }
        }
        self.intake.count_lost(missing);
        let intake = &self.intake;
        self.layers.retain(|(ssrc, _), _| intake.has_stream(*ssrc));
        self.spatial.retain(|ssrc, _| intake.has_stream(*ssrc));
        let overfull = self.layers.iter().find(|(_, layer)| layer.is_full()).map(|(key, _)| *key);
        if let Some(key) = overfull {
            self.follow(key);
            self.decode();
        }
    }

    /// What is to be said of it in words: why there is no picture, or not every one.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let quality = self.quality();
        if let Some(codec) = &self.blemishes.unsupported {
            return Some(format!("codec {codec} is not supported; it stays a placeholder"));
        }
        if let Some(why) = quality.intake.complaint() {
            return Some(why);
        }
        let undecodable = quality.decoder_errors + quality.malformed_pictures;
        let placeholder = if quality.decoded_pictures == 0 { "; it stays a placeholder" } else { "" };
        if quality.key_pictures == 0 && quality.keyless_pictures > 0 {
            let pictures = quality.keyless_pictures;
            let whole = if quality.lost_pictures > pictures { " whole" } else { "" };
            return Some(format!(
                "no key frame ever arrived{whole}, and {pictures} pictures build on one{placeholder}"
            ));
        }
        (undecodable > 0).then(|| format!("damaged, {undecodable} of its pictures could not be decoded{placeholder}"))
    }

    /// The track shows nothing at `t`, by its owner's wish: what was seen before is not to be seen again. Nor is what a camera sends
    /// meanwhile, which browsers make black: when it is on again its first picture is the first one behind `t`. A screen
    /// may stand still, and shows the last one it has of the time since it was switched off, if that is known.
    pub fn blank(&mut self, t: RoomTime, since: Option<RoomTime>) {
        self.shown = None;
        self.blank_until = if self.is_screen { since } else { Some(t) };
        self.last_look = None;
    }

    /// The picture at `t`, which never falls, for a tile of `width` x `height` pixels. `None` before the first one.
    pub fn picture(&mut self, t: RoomTime, width: u32, height: u32) -> Option<Picture> {
        self.pass(t);
        if let Some(better) = self.better_layer(t, width, height) {
            self.follow(better);
        }
        self.decode();
        self.judge(t);
        let (_, picture) = self.shown.as_ref()?;
        Some(picture.clone())
    }

    /// The layer to change to at `t`.
    fn better_layer(&mut self, t: RoomTime, width: u32, height: u32) -> Option<LayerKey> {
        let best = self.best_layer(t, width, height)?;
        if Some(best) == self.current {
            self.better = None;
            return None;
        }
        let current = self.current.and_then(|key| self.layers.get(&key));
        let is_dead =
            current.is_none_or(|layer| t.micros_since(layer.newest) > LAYER_OFF_US || layer.assembler.awaits_key());
        match self.better {
            _ if is_dead || self.shown.is_none() => Some(best),
            Some((key, since)) if key == best => {
                let waited = t.micros_since(since);
                let is_fresh = self.layers.get(&best).is_some_and(|layer| {
                    layer.backlog.len() <= FRESH_PICTURES || current.is_some_and(|current| layer.size > current.size)
                });
                (waited >= if is_fresh { LAYER_PATIENCE_US } else { KEY_PATIENCE_US }).then_some(best)
            }
            _ => {
                self.better = Some((best, t));
                None
            }
        }
    }

    /// The smallest layer that has a picture and fills the tile, else the largest. Spatial layers are left out for a small tile only
    /// where the next key picture, to come back to them at, is not far.
    fn best_layer(&self, t: RoomTime, width: u32, height: u32) -> Option<LayerKey> {
        let can_show = |key: LayerKey, layer: &Layer| {
            let is_on = self.layers.len() == 1 || t.micros_since(layer.newest) <= LAYER_OFF_US;
            let goes_on = self.current.is_some_and(|current| key == current || is_part(key, current));
            is_on && (!layer.backlog.is_empty() || (goes_on && !layer.assembler.awaits_key()))
        };
        let size = |layer: &Layer| layer.size.unwrap_or_default();
        let candidates = || self.layers.iter().filter(|(key, layer)| can_show(**key, layer));
        let fills = |layer: &Layer| size(layer).0 >= width || size(layer).1 >= height;
        let is_whole = |key: &LayerKey| !candidates().any(|(other, _)| is_part(*key, *other));
        candidates()
            .filter(|(key, layer)| fills(layer) && (layer.has_frequent_keys() || is_whole(key)))
            .min_by_key(|(_, layer)| size(layer))
            .or_else(|| candidates().max_by_key(|(_, layer)| size(layer)))
            .map(|(key, _)| *key)
    }

    fn follow(&mut self, key: LayerKey) {
        self.better = None;
        if self.current == Some(key) {
            return;
        }
        let left = self.current.replace(key);
        // What the old layer has left builds on pictures that are not decoded any more, unless it is a part of those that are.
        if let Some(layer) = left.filter(|left| !is_part(*left, key)).and_then(|left| self.layers.get_mut(&left)) {
            layer.let_go();
        }
        // All that a part builds on has been decoded as such.
        if let Some((_, decoder)) = self.decoder.as_mut().filter(|_| !left.is_some_and(|left| is_part(key, left))) {
            decoder.reset();
        }
    }

    /// Decodes what the current layer has.
    fn decode(&mut self) {
        let Some(current) = self.current else { return };
        let mut decoded_to = None;
        let mut is_damaged = false;
        let Some(layer) = self.layers.get_mut(&current) else { return };
        while let Some(waiting) = layer.pop() {
            decoded_to = Some(waiting.time);
            // There may be hundreds of large ones to catch up with.
            witness::moved();
            let Some(codec) = self.producer.codec(waiting.payload_type).map(|parameters| &parameters.codec) else {
                continue;
            };
            if self.decoder.as_ref().is_none_or(|(of, _)| of != codec) {
                self.decoder = match VideoDecoder::new(codec) {
                    Ok(decoder) => Some((codec.clone(), decoder)),
                    Err(_) => None,
                };
            }
            let decoded = match &mut self.decoder {
                Some((_, decoder)) => decoder.decode(&waiting.coded.data, waiting.time.as_micros()),
                None => Err(Error::Unsupported { codec: codec.name().to_owned(), why: String::new() }),
            };
            match decoded {
                Ok(pictures) => {
                    self.quality.decoded_pictures += pictures.len() as u64;
                    if let Some((time_us, picture)) = pictures.into_iter().next_back() {
                        let time = RoomTime::from_micros(time_us);
                        if self.blank_until.is_none_or(|until| time > until) {
                            self.shown = Some((time, picture.turned(waiting.orientation)));
                        }
                    }
                }
                Err(_) => {
                    self.quality.decoder_errors += 1;
                    is_damaged = true;
                    layer.drop_until_key();
                    if let Some((_, decoder)) = &mut self.decoder {
                        decoder.reset();
                    }
                }
            }
        }
        for (_, layer) in self.layers.iter_mut().filter(|(key, _)| is_part(**key, current)) {
            match (is_damaged, decoded_to) {
                (true, _) => layer.drop_until_key(),
                (false, Some(time)) => layer.drop_until(time),
                (false, None) => {}
            }
        }
    }

    /// Counts frozen time up to `t`, and lets go of a camera's picture that is too old.
    fn judge(&mut self, t: RoomTime) {
        let since_last = self.last_look.replace(t).map_or(0, |last| t.micros_since(last).max(0));
        let Some((shown_at, _)) = &self.shown else { return };
        let age = t.micros_since(*shown_at);
        let awaits_key =
            self.current.and_then(|key| self.layers.get(&key)).is_some_and(|layer| layer.assembler.awaits_key());
        if awaits_key || (!self.is_screen && age > FROZEN_US) {
            self.frozen_us += since_last.unsigned_abs();
        }
        if !self.is_screen && age > STALE_US {
            self.shown = None;
        }
    }
}

/// Whether the pictures of one layer are parts of those of the other.
fn is_part(lower: LayerKey, upper: LayerKey) -> bool {
    lower.0 == upper.0 && lower.1 < upper.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::vp8_of;
    use crate::track::tests_support::{codec, producer, rtp};

    #[test]
    fn a_layer_is_changed_where_nothing_has_to_be_caught_up_with() {
        let mut track = VideoTrack::new(producer(vec![codec(96, Codec::Vp8, 90_000)]));
        let mut participant = ParticipantClock::default();
        for (ssrc, size, key_distance) in [(1, (320, 180), 25), (2, (160, 90), 40)] {
            let pictures = vp8_of(size, key_distance, 120, |index| [index as u8, 128, 128]);
            for (index, picture) in pictures.iter().enumerate() {
                let payload = [&[0x10], &picture[..]].concat();
                let at = index as i64 * 100_000;
                let packet = rtp(ssrc, 96, index as u16, index as u32 * 9000, true, &payload, at);
                track.receive(&packet, &mut participant);
            }
        }
        track.place(&participant);
        let mut changes = Vec::new();
        let mut width = 0;
        for tick in 0..100 {
            // The tile becomes small after a second and a half, and large again after seven.
            let (tile, t) = (if (15..70).contains(&tick) { 160 } else { 320 }, RoomTime::from_micros(tick * 100_000));
            let picture = track.picture(t, tile, tile * 9 / 16).expect("there is one at any time");
            if picture.width() != width {
                width = picture.width();
                changes.push((tick, width));
            }
        }
        assert_eq!(changes[..2], [(0, 320), (40, 160)], "at the small layer's key picture: {changes:?}");
        assert_eq!((changes[2], changes.len()), ((80, 320), 3), "what is better is changed to soon: {changes:?}");
    }

    #[test]
    fn a_camera_that_is_on_again_shows_nothing_of_the_time_it_was_off() {
        let mut track = VideoTrack::new(producer(vec![codec(96, Codec::Vp8, 90_000)]));
        let mut participant = ParticipantClock::default();
        for (index, picture) in vp8_of((160, 90), 25, 60, |index| [index as u8, 128, 128]).iter().enumerate() {
            let payload = [&[0x10], &picture[..]].concat();
            let packet = rtp(1, 96, index as u16, index as u32 * 9000, true, &payload, index as i64 * 100_000);
            track.receive(&packet, &mut participant);
        }
        track.place(&participant);
        let at = |millis: i64| RoomTime::from_micros(millis * 1000);
        assert!(track.picture(at(1000), 160, 90).is_some());
        track.pass(at(3050));
        track.blank(at(3050), None);
        assert!(track.picture(at(3080), 160, 90).is_none(), "the picture of 3.0 s is one of the time it was off");
        assert!(track.picture(at(3110), 160, 90).is_some());
    }
}
