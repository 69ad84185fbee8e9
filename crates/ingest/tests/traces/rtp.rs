//! The sender's side: RTP packets of which is known what they are and where they stand.

use bytes::Bytes;
use rand::Rng as _;
use rand::rngs::StdRng;

/// Packets later than this are lost although they came: the allowance of `docs/formats.md`.
pub(crate) const REORDER_ALLOWANCE: u64 = 300;

/// What an RTP packet is made of.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) payload_type: u8,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    pub(crate) ssrc: u32,
    pub(crate) marker: bool,
    /// RFC 8285 form and elements.
    pub(crate) extension: Option<(Form, Vec<Element>)>,
    /// Bytes of padding; 0: none.
    pub(crate) padding: u8,
}

/// Id and value of a header extension.
pub(crate) type Element = (u8, Vec<u8>);

/// The form of header extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    OneByte,
    TwoByte,
}

impl Header {
    pub(crate) fn packet(&self, payload: &[u8]) -> Bytes {
        let mut bytes = vec![0x80, self.payload_type | u8::from(self.marker) << 7];
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.timestamp.to_be_bytes());
        bytes.extend(self.ssrc.to_be_bytes());
        if let Some((form, elements)) = &self.extension {
            bytes[0] |= 0x10;
            let mut block = Vec::new();
            for (id, value) in elements {
                match form {
                    Form::OneByte => block.push(id << 4 | (value.len() as u8 - 1)),
                    Form::TwoByte => block.extend([*id, value.len() as u8]),
                }
                block.extend(value);
            }
            block.resize(block.len().div_ceil(4) * 4, 0);
            bytes.extend(if *form == Form::OneByte { [0xbe, 0xde] } else { [0x10, 0x00] });
            bytes.extend(((block.len() / 4) as u16).to_be_bytes());
            bytes.extend(block);
        }
        bytes.extend(payload);
        if self.padding > 0 {
            bytes[0] |= 0x20;
            bytes.resize(bytes.len() + usize::from(self.padding) - 1, 0);
            bytes.push(self.padding);
        }
        bytes.into()
    }
}

/// One RTP stream as its sender counts it.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) ssrc: u32,
    pub(crate) payload_type: u8,
    first_sequence: u16,
    first_timestamp: u32,
    /// Packets sent.
    pub(crate) sent: u64,
    /// Clock-rate units since the first packet.
    pub(crate) units: u64,
}

/// A packet on its way: the how-manieth of its stream it is, and what it looks like.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) ssrc: u32,
    pub(crate) index: u64,
    pub(crate) timestamp: u32,
    pub(crate) bytes: Bytes,
    pub(crate) starts_picture: bool,
    /// Room milliseconds at which it is sent.
    pub(crate) at: i64,
}

impl Stream {
    pub(crate) fn new(rng: &mut StdRng, ssrc: u32, payload_type: u8) -> Self {
        let (first_sequence, first_timestamp) = (rng.random(), rng.random());
        Self { ssrc, payload_type, first_sequence, first_timestamp, sent: 0, units: 0 }
    }

    pub(crate) fn from(mut self, sequence: u16, timestamp: u32) -> Self {
        (self.first_sequence, self.first_timestamp) = (sequence, timestamp);
        self
    }

    /// What the extended number of packet `index` is, if packet `first` is the first that is seen.
    pub(crate) fn extended(&self, first: u64, index: u64) -> u64 {
        let first_seen = self.first_sequence.wrapping_add(first as u16);
        0x1_0000 + u64::from(first_seen) + index - first
    }

    pub(crate) fn header(&self) -> Header {
        Header {
            payload_type: self.payload_type,
            sequence: self.first_sequence.wrapping_add(self.sent as u16),
            timestamp: self.first_timestamp.wrapping_add(self.units as u32),
            ssrc: self.ssrc,
            marker: false,
            extension: None,
            padding: 0,
        }
    }

    /// Sends the next packet.
    pub(crate) fn send(&mut self, header: &Header, payload: &[u8], at: i64) -> Sent {
        let sent = Sent {
            ssrc: self.ssrc,
            index: self.sent,
            timestamp: header.timestamp,
            bytes: header.packet(payload),
            starts_picture: false,
            at,
        };
        self.sent += 1;
        sent
    }

    /// `count` packets of VP8, three to a picture, a picture each 30 ms; every twelfth picture is a key picture.
    pub(crate) fn vp8(&mut self, count: usize, from: i64) -> Vec<Sent> {
        let mut packets = Vec::new();
        for i in 0..count as u64 {
            let at = from + (i / 3 * 30 + i % 3) as i64;
            let is_key = i % 36 == 0;
            let header = Header { marker: i % 3 == 2, ..self.header() };
            let payload = [if i % 3 == 0 { 0x10 } else { 0 }, u8::from(!is_key), 7, 7];
            packets.push(Sent { starts_picture: is_key, ..self.send(&header, &payload, at) });
            self.units += if i % 3 == 2 { 2700 } else { 0 };
        }
        packets
    }

    /// `count` packets of Opus, one each 20 ms.
    pub(crate) fn opus(&mut self, count: usize, from: i64) -> Vec<Sent> {
        let mut packets = Vec::new();
        for i in 0..count as i64 {
            let header = self.header();
            packets.push(self.send(&header, &[0x78, i as u8, 1, 2, 3], from + i * 20));
            self.units += 960;
        }
        packets
    }
}

#[test]
fn header_extensions_are_read_as_they_were_written() {
    use rand::SeedableRng as _;
    use roomreel_shared::rtp::{AudioLevel, PacketView};

    let mut rng = StdRng::seed_from_u64(1);
    for form in [Form::OneByte, Form::TwoByte] {
        for level in 0..=255 {
            let count = rng.random_range(0..6);
            let mut elements: Vec<Element> = (2..2 + count).map(|id| (id, vec![id; usize::from(id)])).collect();
            elements.insert(rng.random_range(0..elements.len() + 1), (1, vec![level]));
            let stream = Stream::new(&mut rng, 7, 111);
            let header = Header { extension: Some((form, elements.clone())), padding: level, ..stream.header() };
            let view = PacketView::parse(header.packet(b"sound")).expect("valid");
            assert_eq!(view.payload(), &b"sound"[..]);
            for (id, value) in &elements {
                assert_eq!(view.extension(*id), Some(&value[..]), "{form:?}");
            }
            let expected = AudioLevel { level: level & 0x7f, voice: level >= 0x80 };
            assert_eq!(view.extension(1).and_then(AudioLevel::parse), Some(expected), "RFC 6464");
        }
    }
}
