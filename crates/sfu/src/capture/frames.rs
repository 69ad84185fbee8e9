//! Reads the records of classic pcap, pcapng and rtpdump files, one at a time.
//!
//! Owns the file formats and where in the file something is wrong. Does not own what is in a record: see [`super::link`].

use std::io::{self, Read};

use roomreel_shared::time::RoomTime;

use super::Error;

/// Longest record; what claims to be longer is damage.
const MAX_RECORD_BYTES: usize = 256 * 1024;
/// Longest pcapng block; it holds a record and options.
const MAX_BLOCK_BYTES: usize = 1024 * 1024;
/// Most interfaces of a pcapng section.
const MAX_INTERFACES: usize = 4096;

/// What the bytes of a record begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// A link-layer header type of the pcap registry.
    Pcap(u32),
    /// The UDP payload itself; which port it came from is not known.
    Payload,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When it was captured.
    pub time: RoomTime,
    /// What `bytes` begin with.
    pub link: Link,
    /// As far as it was captured.
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Endian {
    Little,
    Big,
}

impl Endian {
    fn u16(self, bytes: &[u8]) -> u16 {
        let bytes = [bytes[0], bytes[1]];
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: &[u8]) -> u32 {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// One interface of a pcapng section.
#[derive(Debug, Clone, Copy)]
struct Interface {
    link: u32,
    /// As in the option if_tsresol: a power of 10, or of 2 if the upper bit is set.
    resolution: u8,
    offset_seconds: i64,
}

impl Interface {
    fn time(&self, ticks: u64) -> RoomTime {
        let power = u32::from(self.resolution & 0x7f);
        let ticks = i128::from(ticks);
        let micros = match self.resolution & 0x80 {
            0 if power <= 6 => ticks * 10_i128.pow(6 - power),
            0 => ticks / 10_i128.pow((power - 6).min(38)),
            _ => (ticks * 1_000_000) >> power.min(127),
        };
        let micros = micros + i128::from(self.offset_seconds) * 1_000_000;
        RoomTime::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

enum Format {
    Pcap { endian: Endian, nanoseconds: bool, link: u32 },
    Pcapng { endian: Endian, interfaces: Vec<Interface> },
    Rtpdump { start_us: i64 },
}

/// The records of a file, in its order. After an error there are no more.
pub struct Frames<R> {
    input: Input<R>,
    format: Format,
    has_ended: bool,
}

struct Input<R> {
    reader: R,
    name: String,
    offset: u64,
}

impl<R: Read> Input<R> {
    /// Fills `buffer`; `false` at the end of the file before its first byte.
    fn fill(&mut self, buffer: &mut [u8], what: &'static str) -> Result<bool, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.cut_off(what)),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Read { path: self.name.clone(), source }),
            }
        }
        self.offset += filled as u64;
        Ok(true)
    }

    fn bytes(&mut self, length: usize, what: &'static str) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length];
        if length > 0 && !self.fill(&mut bytes, what)? {
            return Err(self.cut_off(what));
        }
        Ok(bytes)
    }

    fn cut_off(&self, what: &'static str) -> Error {
        Error::CutOff { path: self.name.clone(), offset: self.offset, what }
    }

    fn damaged(&self, why: String) -> Error {
        Error::Damaged { path: self.name.clone(), offset: self.offset, why }
    }
}

impl<R: Read> Frames<R> {
    /// Recognizes the format of what `reader` gives; `name` stands in errors.
    ///
    /// # Errors
    /// [`Error::Format`] if it is none of the three, and what reading can give.
    pub fn new(reader: R, name: String) -> Result<Self, Error> {
        let mut input = Input { reader, name, offset: 0 };
        let mut magic = [0; 4];
        if !input.fill(&mut magic, "file header")? {
            return Err(Error::Format { path: input.name, found: "nothing".to_owned() });
        }
        let pcap = |endian, nanoseconds| Format::Pcap { endian, nanoseconds, link: 0 };
        let mut format = match magic {
            [0xd4, 0xc3, 0xb2, 0xa1] => pcap(Endian::Little, false),
            [0xa1, 0xb2, 0xc3, 0xd4] => pcap(Endian::Big, false),
            [0x4d, 0x3c, 0xb2, 0xa1] => pcap(Endian::Little, true),
            [0xa1, 0xb2, 0x3c, 0x4d] => pcap(Endian::Big, true),
            [0x0a, 0x0d, 0x0d, 0x0a] => Format::Pcapng { endian: Endian::Little, interfaces: Vec::new() },
            [b'#', b'!', b'r', b't'] => Format::Rtpdump { start_us: 0 },
            other => {
                let found = other.iter().map(|byte| format!("{byte:02x} ")).collect::<String>();
                return Err(Error::Format { path: input.name, found: found.trim_end().to_owned() });
            }
        };
        match &mut format {
            Format::Pcap { endian, link, .. } => {
                let header = input.bytes(20, "file header")?;
                *link = endian.u32(&header[16..]) & 0x0fff_ffff;
            }
            Format::Pcapng { endian, .. } => *endian = section_header(&mut input)?,
            Format::Rtpdump { start_us } => *start_us = rtpdump_header(&mut input)?,
        }
        Ok(Self { input, format, has_ended: false })
    }

    fn read(&mut self) -> Result<Option<Frame>, Error> {
        let input = &mut self.input;
        match &mut self.format {
            Format::Pcap { endian, nanoseconds, link } => {
                let mut header = [0; 16];
                if !input.fill(&mut header, "record header")? {
                    return Ok(None);
                }
                let (seconds, fraction) = (endian.u32(&header), endian.u32(&header[4..]));
                let length = endian.u32(&header[8..]) as usize;
                if length > MAX_RECORD_BYTES {
                    return Err(input.damaged(format!("a record claims {length} bytes")));
                }
                let micros = i64::from(if *nanoseconds { fraction / 1000 } else { fraction });
                let time = RoomTime::from_micros(i64::from(seconds) * 1_000_000 + micros);
                Ok(Some(Frame { time, link: Link::Pcap(*link), bytes: input.bytes(length, "record")? }))
            }
            Format::Pcapng { endian, interfaces } => read_pcapng(input, endian, interfaces),
            Format::Rtpdump { start_us } => {
                let mut header = [0; 8];
                if !input.fill(&mut header, "record header")? {
                    return Ok(None);
                }
                let length = usize::from(Endian::Big.u16(&header));
                let offset_ms = Endian::Big.u32(&header[4..]);
                let Some(length) = length.checked_sub(8) else {
                    return Err(input.damaged(format!("a record claims {length} bytes, less than its header")));
                };
                let time = RoomTime::from_micros(*start_us + i64::from(offset_ms) * 1000);
                Ok(Some(Frame { time, link: Link::Payload, bytes: input.bytes(length, "record")? }))
            }
        }
    }
}

impl<R: Read> Iterator for Frames<R> {
    type Item = Result<Frame, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        let frame = self.read().transpose();
        self.has_ended = !matches!(frame, Some(Ok(_)));
        frame
    }
}

/// The rest of a section header block, after its type.
fn section_header<R: Read>(input: &mut Input<R>) -> Result<Endian, Error> {
    let head = input.bytes(8, "section header")?;
    let endian = match head[4..] {
        [0x4d, 0x3c, 0x2b, 0x1a] => Endian::Little,
        [0x1a, 0x2b, 0x3c, 0x4d] => Endian::Big,
        _ => return Err(input.damaged("a section header without its byte-order magic".to_owned())),
    };
    let length = endian.u32(&head) as usize;
    if !(28..=MAX_BLOCK_BYTES).contains(&length) || !length.is_multiple_of(4) {
        return Err(input.damaged(format!("a section header claims {length} bytes")));
    }
    input.bytes(length - 12, "section header")?;
    Ok(endian)
}

fn read_pcapng<R: Read>(
    input: &mut Input<R>,
    endian: &mut Endian,
    interfaces: &mut Vec<Interface>,
) -> Result<Option<Frame>, Error> {
    loop {
        let mut kind = [0; 4];
        if !input.fill(&mut kind, "block header")? {
            return Ok(None);
        }
        if kind == [0x0a, 0x0d, 0x0d, 0x0a] {
            *endian = section_header(input)?;
            interfaces.clear();
            continue;
        }
        let length = endian.u32(&input.bytes(4, "block header")?) as usize;
        if !(12..=MAX_BLOCK_BYTES).contains(&length) || !length.is_multiple_of(4) {
            return Err(input.damaged(format!("a block claims {length} bytes")));
        }
        let block = input.bytes(length - 8, "block")?;
        let body = &block[..block.len() - 4];
        match endian.u32(&kind) {
            1 if interfaces.len() < MAX_INTERFACES => match interface(*endian, body) {
                Some(interface) => interfaces.push(interface),
                None => return Err(input.damaged("an interface description is too short".to_owned())),
            },
            6 => {
                let Some(frame) = enhanced_packet(*endian, interfaces, body) else {
                    return Err(input.damaged("a packet block does not fit its lengths or its interface".to_owned()));
                };
                return Ok(Some(frame));
            }
            // Statistics, name resolution and the like; simple packet blocks have no time and are of no use.
            _ => {}
        }
    }
}

fn interface(endian: Endian, body: &[u8]) -> Option<Interface> {
    let link = u32::from(endian.u16(body.get(..2)?));
    let mut interface = Interface { link, resolution: 6, offset_seconds: 0 };
    let mut options = body.get(8..)?;
    while options.len() >= 4 {
        let (code, length) = (endian.u16(options), usize::from(endian.u16(&options[2..])));
        let Some(value) = options.get(4..4 + length) else { break };
        match (code, value) {
            (0, _) => break,
            (9, [resolution]) => interface.resolution = *resolution,
            (14, [_, _, _, _, _, _, _, _]) => {
                let (first, second) = (u64::from(endian.u32(value)), u64::from(endian.u32(&value[4..])));
                let seconds = match endian {
                    Endian::Little => second << 32 | first,
                    Endian::Big => first << 32 | second,
                };
                interface.offset_seconds = seconds.cast_signed();
            }
            _ => {}
        }
        options = options.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(interface)
}

fn enhanced_packet(endian: Endian, interfaces: &[Interface], body: &[u8]) -> Option<Frame> {
    let header = body.get(..20)?;
    let interface = interfaces.get(endian.u32(header) as usize)?;
    let ticks = u64::from(endian.u32(&header[4..])) << 32 | u64::from(endian.u32(&header[8..]));
    let bytes = body.get(20..)?.get(..endian.u32(&header[12..]) as usize)?.to_vec();
    Some(Frame { time: interface.time(ticks), link: Link::Pcap(interface.link), bytes })
}

/// The rest of `#!rtpplay1.0 address/port\n` and the binary header; gives the start in microseconds.
fn rtpdump_header<R: Read>(input: &mut Input<R>) -> Result<i64, Error> {
    let mut line = String::from("#!rt");
    while !line.ends_with('\n') {
        if line.len() > 256 {
            return Err(input.damaged("the first line of an rtpdump file does not end".to_owned()));
        }
        line.push(char::from(input.bytes(1, "file header")?[0]));
    }
    if !line.starts_with("#!rtpplay1.0 ") {
        return Err(input.damaged(format!("{:?} is not the first line of an rtpdump file", line.trim_end())));
    }
    let header = input.bytes(16, "file header")?;
    Ok(i64::from(Endian::Big.u32(&header)) * 1_000_000 + i64::from(Endian::Big.u32(&header[4..])))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A classic pcap file with these records of (microseconds, bytes).
    pub fn pcap(link: u32, records: &[(i64, &[u8])]) -> Vec<u8> {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
        file.extend(link.to_le_bytes());
        for (micros, bytes) in records {
            for word in [micros / 1_000_000, micros % 1_000_000, bytes.len() as i64, bytes.len() as i64] {
                file.extend((word as u32).to_le_bytes());
            }
            file.extend(*bytes);
        }
        file
    }

    fn read(file: &[u8]) -> (Vec<Frame>, Option<Error>) {
        let mut frames = Vec::new();
        let mut error = None;
        match Frames::new(file, "x".to_owned()) {
            Err(failure) => error = Some(failure),
            Ok(reader) => {
                for frame in reader {
                    match frame {
                        Ok(frame) => frames.push(frame),
                        Err(failure) => error = Some(failure),
                    }
                }
            }
        }
        (frames, error)
    }

    fn frame(micros: i64, bytes: &[u8]) -> Frame {
        Frame { time: RoomTime::from_micros(micros), link: Link::Pcap(1), bytes: bytes.to_vec() }
    }

    #[test]
    fn classic_pcap_of_either_end_and_resolution() {
        let (frames, error) = read(&pcap(1, &[(1_000_002, b"ab"), (1_000_003, b"")]));
        assert!(error.is_none());
        assert_eq!(frames, [frame(1_000_002, b"ab"), frame(1_000_003, b"")]);
        let mut big = vec![0xa1, 0xb2, 0x3c, 0x4d, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 1];
        big.extend([0, 0, 0, 1, 0, 0, 0x0b, 0xb8, 0, 0, 0, 1, 0, 0, 0, 9, b'z']);
        let (frames, error) = read(&big);
        assert!(error.is_none());
        assert_eq!(frames, [frame(1_000_003, b"z")]);
    }

    #[test]
    fn what_is_cut_off_gives_everything_before_it_and_says_where() {
        let whole = pcap(1, &[(1, b"first"), (2, b"second")]);
        let (frames, error) = read(&whole[..whole.len() - 1]);
        assert_eq!(frames, [frame(1, b"first")]);
        assert!(matches!(error, Some(Error::CutOff { offset: 61, .. })), "{error:?}");
        for length in 0..whole.len() {
            read(&whole[..length]);
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_memory_is_taken() {
        let mut file = pcap(1, &[(1, b"first")]);
        file.extend([0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]);
        assert!(matches!(read(&file), (frames, Some(Error::Damaged { .. })) if frames.len() == 1));
        assert!(matches!(read(b""), (_, Some(Error::Format { .. }))));
        assert!(matches!(read(b"ID3\x03 a song"), (_, Some(Error::Format { .. }))));
    }

    /// A pcapng file: one interface with nanosecond times, a block of an unknown kind, one packet.
    fn pcapng() -> Vec<u8> {
        let mut file = Vec::new();
        let mut block = |kind: u32, body: &[u8]| {
            file.extend(kind.to_le_bytes());
            file.extend((body.len() as u32 + 12).to_le_bytes());
            file.extend(body);
            file.extend((body.len() as u32 + 12).to_le_bytes());
        };
        block(0x0a0d_0d0a, &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
        block(1, &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        block(0x0bad, &[1, 2, 3, 4]);
        block(6, &[0, 0, 0, 0, 0, 0, 0, 0, 0xb8, 0x0b, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, b'a', b'b', b'c', 0]);
        file
    }

    #[test]
    fn pcapng_with_its_own_resolution() {
        let file = pcapng();
        let (frames, error) = read(&file);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(frames, [frame(3, b"abc")]);
        for length in 4..file.len() {
            let (frames, _) = read(&file[..length]);
            assert!(frames.is_empty());
        }
    }

    #[test]
    fn rtpdump_has_no_ports() {
        let mut file = b"#!rtpplay1.0 10.0.0.1/4000\n".to_vec();
        file.extend([0, 0, 0, 2, 0, 0, 0, 7, 10, 0, 0, 1, 0x0f, 0xa0, 0, 0]);
        file.extend([0, 10, 0, 2, 0, 0, 0, 5, 0x80, 96]);
        let (frames, error) = read(&file);
        assert!(error.is_none());
        let time = RoomTime::from_micros(2_005_007);
        assert_eq!(frames, [Frame { time, link: Link::Payload, bytes: vec![0x80, 96] }]);
        file.extend([0, 7, 0, 2, 0, 0, 0, 5]);
        assert!(matches!(read(&file), (frames, Some(Error::Damaged { .. })) if frames.len() == 1));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(choice in 0..3_usize, at in 0..200_usize, bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)) {
            let mut file = [pcap(1, &[(1, b"first"), (2, b"second")]), pcapng(), b"#!rtpplay1.0 x\n0123456789012345".to_vec()][choice].clone();
            let at = at.min(file.len());
            let end = (at + bytes.len()).min(file.len());
            file.splice(at..end, bytes);
            read(&file);
        }
    }
}
