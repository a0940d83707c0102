//! What do well-formed frames of each kind look like?
//!
//! Written byte by byte, independently of the code that they test: a builder shared with the parser
//! would share its mistakes.

const MACS: [u8; 12] = [0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1];

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;

/// One frame of each kind that the parser tells apart.
pub(crate) fn all() -> Vec<Vec<u8>> {
    let v4 = |protocol, payload: &[u8]| ethernet(0x0800, &ipv4(protocol, &[], 0, payload));
    let v6 = |next, payload: &[u8]| ethernet(0x86dd, &ipv6(next, payload));
    vec![
        ethernet(0x0806, &arp()),
        ipv4_udp(),
        v4(TCP, &tcp(&[])),
        v4(TCP, &tcp(&[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1])),
        v4(ICMP, &[8, 0, 0, 0, 0x12, 0x34, 0, 1, 1, 2, 3, 4]),
        v4(
            ICMP,
            &quoting(&[3, 1, 0, 0, 0, 0, 0, 0], &ipv4(UDP, &[], 0, &udp(&[0; 4]))),
        ),
        v4(
            ICMP,
            &quoting(&[3, 4, 0, 0, 0, 0, 5, 0xdc], &ipv4(TCP, &[], 0, &tcp(&[]))),
        ),
        v4(SCTP, &[0, 80, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 4]),
        v4(47, &[0, 0, 8, 0, 0x45]),
        ethernet(0x0800, &ipv4(UDP, &[0x94, 4, 0, 0], 0, &udp(&[9; 8]))),
        ethernet(0x0800, &ipv4(UDP, &[], 0x2000, &udp(&[9; 16]))),
        ethernet(0x0800, &ipv4(UDP, &[], 0x0003, &[9; 24])),
        tagged(0x0064, 0x0800, &ipv4(UDP, &[], 0, &udp(b"tagged"))),
        tagged(0x0fff, 0x86dd, &ipv6(UDP, &udp(b"tagged"))),
        v4(UDP, &dhcp()),
        v6(UDP, &udp(b"six")),
        v6(TCP, &tcp(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])),
        v6(ICMP6, &[128, 0, 0, 0, 0x12, 0x34, 0, 1]),
        v6(ICMP6, &neighbor(135, 1)),
        v6(ICMP6, &neighbor(136, 2)),
        v6(ICMP6, &router_advertisement()),
        v6(
            ICMP6,
            &quoting(&[1, 4, 0, 0, 0, 0, 0, 0], &ipv6(UDP, &udp(&[]))),
        ),
        v6(0, &chained(&[UDP, 0, 5, 2, 0, 0, 1, 0], &udp(&[7; 3]))),
        v6(44, &chained(&[TCP, 0, 0, 1, 0, 0, 0, 9], &tcp(&[]))),
        v6(
            43,
            &chained(
                &[60, 0, 0, 0, 0, 0, 0, 0],
                &chained(&[ICMP6, 0, 1, 4, 0, 0, 0, 0], &[129; 8]),
            ),
        ),
        ethernet(0x88cc, &[2, 7, 4, 0, 0, 0]),
    ]
}

/// The plainest frame: UDP over IPv4.
pub(crate) fn ipv4_udp() -> Vec<u8> {
    ethernet(0x0800, &ipv4(UDP, &[], 0, &udp(b"overweave")))
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&MACS[..], &ethertype.to_be_bytes(), payload].concat()
}

fn tagged(tag: u16, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    ethernet(
        0x8100,
        &[&tag.to_be_bytes()[..], &ethertype.to_be_bytes(), payload].concat(),
    )
}

fn arp() -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, 1];
    message.extend([0x02, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
    message.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    message
}

fn ipv4(protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header_length = 20 + options.len();
    let words = u8::try_from(header_length / 4).unwrap_or(15);
    let mut header = vec![0x40 | words, 0];
    header.extend(length16(header_length + payload.len()));
    header.extend([0x12, 0x34]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    header.extend(options);
    let sum = ones_complement(&header).to_be_bytes();
    for (byte, value) in header.iter_mut().skip(10).zip(sum) {
        *byte = value;
    }
    header.extend(payload);
    header
}

/// RFC 1071, the slow and obvious way.
fn ones_complement(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(u16::from_be_bytes([high, 0])),
        _ => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0)
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length16(payload.len()));
    packet.extend([next, 64]);
    for last in [1, 2] {
        packet.extend([
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last,
        ]);
    }
    packet.extend(payload);
    packet
}

fn chained(extension: &[u8], behind: &[u8]) -> Vec<u8> {
    [extension, behind].concat()
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x9c, 0x40, 0, 53];
    datagram.extend(length16(8 + payload.len()));
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

fn dhcp() -> Vec<u8> {
    let mut body = vec![1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef];
    body.resize(236, 0);
    body.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 55, 3, 1, 3, 26, 255]);
    let mut datagram = vec![0, 68, 0, 67];
    datagram.extend(length16(8 + body.len()));
    datagram.extend([0, 0]);
    datagram.extend(body);
    datagram
}

fn tcp(options: &[u8]) -> Vec<u8> {
    let words = u8::try_from((20 + options.len()) / 4).unwrap_or(15);
    let mut segment = vec![0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0];
    segment.extend([words << 4, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment
}

fn quoting(header: &[u8], quoted: &[u8]) -> Vec<u8> {
    [header, quoted].concat()
}

fn neighbor(kind: u8, option: u8) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0x60, 0, 0, 0];
    message.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    message.extend([option, 1, 0x02, 0, 0, 0, 0, 1]);
    message
}

fn router_advertisement() -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0x80, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([1, 1, 0x02, 0, 0, 0, 0, 1]);
    message.extend([5, 1, 0, 0, 0, 0, 5, 0xaa]);
    message.extend([
        3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0,
    ]);
    message.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    message
}

fn length16(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}
