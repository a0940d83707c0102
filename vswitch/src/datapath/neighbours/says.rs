//! What do neighbours say, and how are they spoken to?
//!
//! ARP and Neighbor Discovery, read from frames and written as frames.
//!
//! # References
//! RFC 826; RFC 5227 §3 (announcements); RFC 4861 §4.3, §4.4, §7.1, §7.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net::{
    Checksum, L4, Mac, Packet, checksum,
    flow_key::{ethertype, proto},
};

use super::{Question, Speaker};

/// In which sense a neighbour speaks of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It was asked.
    Answers {
        /// It has the address now, whoever had it before.
        overrides: bool,
    },
    /// It was not.
    Announces {
        /// The same.
        overrides: bool,
    },
    /// It asks for another's address.
    Asks,
}

/// What a frame says of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The address that is spoken of.
    pub addr: IpAddr,
    /// Where it is; an advertisement may leave that out.
    pub mac: Option<Mac>,
    /// In which sense.
    pub said: Said,
    /// The address that is asked for, or to which it is answered.
    pub about: Option<IpAddr>,
}

impl Heard {
    /// Of a parsed frame; `None` where it says nothing of a neighbour, or nothing that can be true.
    pub fn of(packet: &Packet) -> Option<Self> {
        let heard = match packet.key().ethertype {
            ethertype::ARP => arp(packet),
            ethertype::IPV6 if packet.headers().l4 == L4::Icmp6 => discovery(packet),
            _ => None,
        }?;
        let addr = heard.addr;
        let usable = !addr.is_unspecified() && !addr.is_multicast() && !addr.is_loopback();
        let single = heard.mac.is_none_or(|mac| !mac.is_multicast());
        (usable && single).then_some(heard)
    }
}

fn arp(packet: &Packet) -> Option<Heard> {
    let at = usize::from(packet.headers().l3_at);
    let message = packet.bytes().get(at..)?.first_chunk::<28>()?;
    let [
        0,
        1,
        8,
        0,
        6,
        4,
        0,
        operation,
        m0,
        m1,
        m2,
        m3,
        m4,
        m5,
        s0,
        s1,
        s2,
        s3,
        _,
        _,
        _,
        _,
        _,
        _,
        t0,
        t1,
        t2,
        t3,
    ] = *message
    else {
        return None;
    };
    let sender = Ipv4Addr::new(s0, s1, s2, s3);
    let target = Ipv4Addr::new(t0, t1, t2, t3);
    let said = match operation {
        // A request for its own address, or an answer to all, announces it (RFC 5227 §3).
        1 | 2 if sender == target => Said::Announces { overrides: true },
        1 => Said::Asks,
        2 if packet.key().dst_mac().is_multicast() => Said::Announces { overrides: true },
        2 => Said::Answers { overrides: true },
        _ => return None,
    };
    Some(Heard {
        addr: sender.into(),
        mac: Some(Mac::new([m0, m1, m2, m3, m4, m5])),
        said,
        about: Some(target.into()),
    })
}

/// The type of a Neighbor Solicitation, and that of the advertisement.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// The options that name a MAC address, of the source and of the target.
const SOURCE: u8 = 1;
const TARGET: u8 = 2;

fn discovery(packet: &Packet) -> Option<Heard> {
    let (headers, key) = (packet.headers(), packet.key());
    let end = usize::try_from(headers.end).ok()?;
    let message = packet.bytes().get(usize::from(headers.l4_at)..end)?;
    let (fixed, options) = message.split_first_chunk::<24>()?;
    let [kind, code, _, _, flags, _, _, _, target @ ..] = *fixed;
    let target = Ipv6Addr::from(target);
    let (src, dst) = (Ipv6Addr::from(key.ip_src), Ipv6Addr::from(key.ip_dst));
    if code != 0 || key.ip_ttl != 255 || target.is_multicast() {
        return None;
    }
    let verify = packet.offload().checksum == Checksum::Unverified;
    if verify && checksum::transport(src.into(), dst.into(), proto::ICMP6, message) != 0 {
        return None;
    }
    match kind {
        SOLICITATION => Some(Heard {
            addr: src.into(),
            mac: Some(link_layer(options, SOURCE)?),
            said: Said::Asks,
            about: Some(target.into()),
        }),
        ADVERTISEMENT => {
            let overrides = flags & 0x20 != 0;
            let solicited = flags & 0x40 != 0 && !dst.is_multicast();
            Some(Heard {
                addr: target.into(),
                mac: link_layer(options, TARGET),
                said: if solicited {
                    Said::Answers { overrides }
                } else {
                    Said::Announces { overrides }
                },
                about: solicited.then_some(dst.into()),
            })
        }
        _ => None,
    }
}

/// The MAC address that an option of this type names.
fn link_layer(mut options: &[u8], wanted: u8) -> Option<Mac> {
    while let [kind, eights, ..] = *options {
        let len = usize::from(eights) * 8;
        // An option of no length would never end (RFC 4861 §4.6).
        let (option, rest) = options.split_at_checked(len).filter(|_| len > 0)?;
        if kind == wanted && eights == 1 {
            let mac = option.get(2..)?.first_chunk::<6>()?;
            return Some(Mac::new(*mac));
        }
        options = rest;
    }
    None
}

/// A frame that the switch sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    bytes: [u8; 86],
    len: usize,
}

impl Frame {
    const fn new() -> Self {
        Self {
            bytes: [0; 86],
            len: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        let at = self.len..self.len + bytes.len();
        if let Some(room) = self.bytes.get_mut(at) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Question {
    /// The ARP request or Neighbor Solicitation; `None` where who asks has no address of the family.
    pub fn frame(&self) -> Option<Frame> {
        let Speaker { mac, addr } = self.from;
        match (addr, self.target) {
            (IpAddr::V4(addr), IpAddr::V4(target)) => {
                let to = self.to.unwrap_or(Mac::new([0xff; 6]));
                let sender = (mac, addr);
                Some(arp_frame((to, 1), sender, (Mac::new([0; 6]), target)))
            }
            (IpAddr::V6(addr), IpAddr::V6(target)) => {
                let [.., a, b, c] = target.octets();
                let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
                let (to, dst) = match self.to {
                    Some(to) => (to, target),
                    None => (Mac::new([0x33, 0x33, 0xff, a, b, c]), group),
                };
                let message = discovery_message((SOLICITATION, 0), target, (SOURCE, mac));
                Some(discovery_frame((mac, to), (addr, dst), message))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }
}

/// Tells all on a network that this address is here now: an ARP announcement (RFC 5227 §3), or an unsolicited advertisement that overrides
/// (RFC 4861 §7.2.6), of a router where it is one's.
pub fn announcement(of: Speaker, router: bool) -> Frame {
    let Speaker { mac, addr } = of;
    match addr {
        IpAddr::V4(addr) => {
            let all = Mac::new([0xff; 6]);
            arp_frame((all, 1), (mac, addr), (Mac::new([0; 6]), addr))
        }
        IpAddr::V6(addr) => {
            let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let flags = if router { 0xa0 } else { 0x20 };
            let message = discovery_message((ADVERTISEMENT, flags), addr, (TARGET, mac));
            let to = Mac::new([0x33, 0x33, 0, 0, 0, 1]);
            discovery_frame((mac, to), (addr, all), message)
        }
    }
}

fn arp_frame(
    (to, operation): (Mac, u8),
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
) -> Frame {
    let mut frame = Frame::new();
    frame.put(&to.octets());
    frame.put(&sender.0.octets());
    frame.put(&ethertype::ARP.to_be_bytes());
    frame.put(&[0, 1, 8, 0, 6, 4, 0, operation]);
    for (mac, addr) in [sender, target] {
        frame.put(&mac.octets());
        frame.put(&addr.octets());
    }
    frame
}

fn discovery_message((kind, flags): (u8, u8), target: Ipv6Addr, option: (u8, Mac)) -> [u8; 32] {
    let mut message = [0; 32];
    let [t, c, s0, s1, f, r0, r1, r2, rest @ ..] = &mut message;
    (*t, *c, *f) = (kind, 0, flags);
    (*s0, *s1, *r0, *r1, *r2) = (0, 0, 0, 0, 0);
    let (addr, link) = rest.split_at_mut(16);
    addr.copy_from_slice(&target.octets());
    if let [kind, eights, mac @ ..] = link {
        (*kind, *eights) = (option.0, 1);
        mac.copy_from_slice(&option.1.octets());
    }
    message
}

fn discovery_frame(
    (from, to): (Mac, Mac),
    (src, dst): (Ipv6Addr, Ipv6Addr),
    mut message: [u8; 32],
) -> Frame {
    let sum = checksum::transport(src.into(), dst.into(), proto::ICMP6, &message);
    let [_, _, s0, s1, ..] = &mut message;
    [*s0, *s1] = sum.to_be_bytes();
    let mut frame = Frame::new();
    frame.put(&to.octets());
    frame.put(&from.octets());
    frame.put(&ethertype::IPV6.to_be_bytes());
    frame.put(&[0x60, 0, 0, 0, 0, 32, proto::ICMP6, 255]);
    frame.put(&src.octets());
    frame.put(&dst.octets());
    frame.put(&message);
    frame
}
