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
