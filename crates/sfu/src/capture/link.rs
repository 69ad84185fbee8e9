//! From a captured frame to the UDP payload in it.
//!
//! Owns the link and network layers a capture of an SFU has: Ethernet, Linux cooked, loopback and raw IP; IPv4 and IPv6.

use super::frames::Link;

/// A UDP payload and the port it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// `None` where the capture does not say.
    pub source_port: Option<u16>,
    /// After the UDP header.
    pub payload: &'a [u8],
}

/// Why a frame gives no datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// Something else than UDP over IP, or a fragment.
    NotUdp,
    /// The capture has not all of its bytes.
    CutShort,
    /// The link type is not one of those above.
    UnknownLink(u32),
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN_TAGS: [u16; 2] = [0x8100, 0x88a8];
const UDP: u8 = 17;

/// Finds the UDP payload.
///
/// # Errors
/// [`Skip`].
pub fn datagram(link: Link, frame: &[u8]) -> Result<Datagram<'_>, Skip> {
    let at = |offset: usize| frame.get(offset..).ok_or(Skip::CutShort);
    let ether_type = |offset: usize| frame.get(offset..offset + 2).map(be16).ok_or(Skip::CutShort);
    match link {
        Link::Payload => Ok(Datagram { source_port: None, payload: frame }),
        // Ethernet
        Link::Pcap(1) => {
            let mut offset = 12;
            while VLAN_TAGS.contains(&ether_type(offset)?) {
                offset += 4;
            }
            network(ether_type(offset)?, at(offset + 2)?)
        }
        // Linux cooked, version 1 and 2
        Link::Pcap(113) => network(ether_type(14)?, at(16)?),
        Link::Pcap(276) => network(ether_type(0)?, at(20)?),
        // Loopback with an address family of four bytes
        Link::Pcap(0 | 108) => ip(at(4)?),
        // Raw IP
        Link::Pcap(12 | 14 | 101 | 228 | 229) => ip(frame),
        Link::Pcap(other) => Err(Skip::UnknownLink(other)),
    }
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn network(ether_type: u16, packet: &[u8]) -> Result<Datagram<'_>, Skip> {
    if [IPV4, IPV6].contains(&ether_type) { ip(packet) } else { Err(Skip::NotUdp) }
}

fn ip(packet: &[u8]) -> Result<Datagram<'_>, Skip> {
    let first = *packet.first().ok_or(Skip::CutShort)?;
    match first >> 4 {
        4 => {
            let header = packet.get(..20).ok_or(Skip::CutShort)?;
            let is_fragment = be16(&header[6..]) & 0x3fff != 0;
            if header[9] != UDP || is_fragment {
                return Err(Skip::NotUdp);
            }
            udp(packet.get(4 * usize::from(first & 15).max(5)..).ok_or(Skip::CutShort)?)
        }
        6 => {
            let mut next = *packet.get(6).ok_or(Skip::CutShort)?;
            let mut rest = packet.get(40..).ok_or(Skip::CutShort)?;
            // Hop-by-hop, routing and destination options; a fragment header is not followed.
            while [0, 43, 60].contains(&next) {
                let [following, length, ..] = rest else { return Err(Skip::CutShort) };
                next = *following;
                rest = rest.get(8 + 8 * usize::from(*length)..).ok_or(Skip::CutShort)?;
            }
            if next == UDP { udp(rest) } else { Err(Skip::NotUdp) }
        }
        _ => Err(Skip::NotUdp),
    }
}

fn udp(packet: &[u8]) -> Result<Datagram<'_>, Skip> {
    let header = packet.get(..8).ok_or(Skip::CutShort)?;
    let length = usize::from(be16(&header[4..]));
    let payload = packet.get(8..length.max(8)).ok_or(Skip::CutShort)?;
    Ok(Datagram { source_port: Some(be16(header)), payload })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An IPv4 packet with a UDP datagram.
    pub fn ipv4(source_port: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend(source_port.to_be_bytes());
        packet.extend([0x13, 0x8c]);
        packet.extend((payload.len() as u16 + 8).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        packet
    }

    fn ipv6(payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 0, 64];
        packet.extend([0; 32]);
        packet.extend([UDP, 0, 1, 4, 0, 0, 0, 0]);
        packet.extend(&ipv4(40_000, payload)[20..]);
        packet
    }

    #[test]
    fn every_link_type_leads_to_the_payload() {
        let ethernet = [&[0; 12][..], &[8, 0], &ipv4(40_000, b"rtp"), &[0; 6]].concat();
        let tagged = [&[0; 12][..], &[0x81, 0, 0, 5, 0x86, 0xdd], &ipv6(b"rtp")].concat();
        let cooked = [&[0; 14][..], &[8, 0], &ipv4(40_000, b"rtp")].concat();
        let cooked2 = [&[8, 0][..], &[0; 18], &ipv4(40_000, b"rtp")].concat();
        let loopback = [&[2, 0, 0, 0][..], &ipv4(40_000, b"rtp")].concat();
        for (link, frame) in
            [(1, ethernet), (1, tagged), (113, cooked), (276, cooked2), (0, loopback), (101, ipv6(b"rtp"))]
        {
            let expected = Datagram { source_port: Some(40_000), payload: &b"rtp"[..] };
            assert_eq!(datagram(Link::Pcap(link), &frame), Ok(expected), "link type {link}");
            for length in 0..frame.len() - 6 {
                assert!(datagram(Link::Pcap(link), &frame[..length]).is_err());
            }
        }
    }

    #[test]
    fn what_is_not_udp_is_told_apart() {
        let mut tcp = ipv4(1, b"");
        tcp[9] = 6;
        assert_eq!(datagram(Link::Pcap(101), &tcp), Err(Skip::NotUdp));
        let mut fragment = ipv4(1, b"");
        fragment[6] = 0x20;
        assert_eq!(datagram(Link::Pcap(101), &fragment), Err(Skip::NotUdp));
        assert_eq!(datagram(Link::Pcap(105), &tcp), Err(Skip::UnknownLink(105)));
    }
}
