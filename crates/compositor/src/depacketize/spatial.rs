//! Pictures of several spatial layers (SVC), as pictures of fewer.
//!
//! A layer builds on those below it, never on those above: without its upper layers a picture is a smaller one. So a lost packet of an upper
//! layer need not cost the lower ones, and a small tile need not cost the upper ones. Pure; VP9 only (RFC 9628).

use roomreel_shared::event::Codec;

use super::reorder::PicturePackets;
use super::vp9;

/// Most spatial layers that are told apart: what SVC modes of WebRTC have.
const MAX_LEVELS: usize = 3;

/// How many spatial layers the pictures of one RTP stream have.
#[derive(Debug)]
pub struct SpatialLayers {
    levels: usize,
}

impl Default for SpatialLayers {
    fn default() -> Self {
        Self { levels: 1 }
    }
}

impl SpatialLayers {
    /// How many there are.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// The picture up to each of its layers, from the lowest alone to all of them. There are more of them where a layer begins; one
    /// that ends is a part that is empty. What is missing of upper layers is not missing in what is below them.
    pub fn split(&mut self, packets: PicturePackets, codec: Option<&Codec>) -> Vec<PicturePackets> {
        if codec != Some(&Codec::Vp9) {
            return vec![packets];
        }
        let layers: Option<Vec<_>> = packets.payloads.iter().map(|payload| vp9::layer(payload)).collect();
        let layers = layers.unwrap_or_default();
        let top = layers.last().map_or(0, |layer| layer.spatial);
        let begins = |layer: usize| layers.iter().find(|of| of.spatial == layer).is_some_and(|of| of.begins_anew);
        if packets.is_whole() && (self.levels..=top).all(begins) {
            self.levels = self.levels.max(top + 1).min(MAX_LEVELS);
        }
        let below = (0..self.levels - 1).map(|level| {
            let count = layers.iter().take_while(|layer| layer.spatial <= level).count();
            let is_broken = packets.hole_at.is_some_and(|hole| hole < count);
            PicturePackets {
                payloads: packets.payloads[..count].to_vec(),
                missing_within: u64::from(is_broken),
                is_ended: count > 0 && layers[count - 1].is_last,
                ..packets.clone()
            }
        });
        let mut pictures: Vec<_> = below.collect();
        pictures.push(packets);
        pictures
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use roomreel_shared::rtp::PayloadType;
    use roomreel_shared::time::RoomTime;

    use super::*;

    /// A payload of a layer: begins it (B), ends it (E), builds on earlier pictures (P).
    fn payload(layer: u8, begins: bool, ends: bool, inter: bool) -> Bytes {
        let flags = 0x20 | u8::from(inter) << 6 | u8::from(begins) << 3 | u8::from(ends) << 2;
        Bytes::copy_from_slice(&[flags, layer << 1, 0, 7])
    }

    fn packets(payloads: Vec<Bytes>, hole_at: Option<usize>, is_ended: bool) -> PicturePackets {
        PicturePackets {
            time: RoomTime::default(),
            payload_type: PayloadType(98),
            orientation: None,
            payloads,
            missing_before: 0,
            missing_within: u64::from(hole_at.is_some()),
            hole_at,
            is_ended,
            restarts: false,
        }
    }

    fn told(layers: &mut SpatialLayers, picture: PicturePackets) -> Vec<(usize, bool)> {
        let pictures = layers.split(picture, Some(&Codec::Vp9));
        pictures.iter().map(|picture| (picture.payloads.len(), picture.is_whole())).collect()
    }

    #[test]
    fn what_upper_layers_lack_is_not_missing_below() {
        let mut layers = SpatialLayers::default();
        let key =
            || vec![payload(0, true, true, false), payload(1, true, false, false), payload(1, false, true, false)];
        assert_eq!(told(&mut layers, packets(key(), None, true)), [(1, true), (3, true)]);
        let inter = || vec![payload(0, true, true, true), payload(1, true, false, true), payload(1, false, true, true)];
        assert_eq!(told(&mut layers, packets(inter(), None, true)), [(1, true), (3, true)]);
        // A hole in the upper layer, its end missing, and a hole behind the first packet of all.
        assert_eq!(told(&mut layers, packets(inter(), Some(2), true)), [(1, true), (3, false)]);
        assert_eq!(told(&mut layers, packets(inter()[..2].to_vec(), None, false)), [(1, true), (2, false)]);
        let first_layer_of_two = vec![payload(0, true, false, true), payload(0, false, true, true)];
        assert_eq!(told(&mut layers, packets(first_layer_of_two, Some(1), false)), [(2, false), (2, false)]);
        // The lowest one alone, by its sender's wish; and it alone missing.
        assert_eq!(told(&mut layers, packets(inter()[..1].to_vec(), None, true)), [(1, true), (1, true)]);
        assert_eq!(told(&mut layers, packets(inter()[1..].to_vec(), None, true)), [(0, false), (2, true)]);
    }

    #[test]
    fn a_layer_begins_where_it_builds_on_nothing_before() {
        let mut layers = SpatialLayers::default();
        let two = |inter| vec![payload(0, true, true, true), payload(1, true, true, inter)];
        assert_eq!(told(&mut layers, packets(two(true), None, true)), [(2, true)]);
        assert_eq!(told(&mut layers, packets(two(false), Some(1), true)), [(2, false)], "it is not whole");
        assert_eq!(told(&mut layers, packets(two(false), None, true)), [(1, true), (2, true)]);
        assert_eq!(layers.levels(), 2);
        assert_eq!(layers.split(packets(two(true), None, true), Some(&Codec::Vp8)).len(), 1);
    }
}
