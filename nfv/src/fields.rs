//! Does a packet have these fields?
//!
//! What rules and classifiers ask, compiled: addresses are compared as masked numbers, and of the packet only what the answer
//! depends on is read.
//!
//! # Invariants
//! A [`Reader`] looks at the key only behind a read of its [`Probe`]: first time through the getter, which marks the bits,
//! then in its own copy. So a thousand rules mark each bit once, and comparing costs a few instructions.

use hostconfig::group::Family;
use net::{
    FlowKey, PortRange, Prefix, Probe,
    flow_key::{addr_bytes, ethertype, proto},
};

/// Why fields contradict one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldsFault {
    /// An address is of another family than the rest.
    #[error("address is of another family: {0}")]
    Family(Prefix),
    /// Ports are asked of a protocol that has none.
    #[error("protocol has no ports: {0}")]
    Ports(u8),
}

#[derive(Debug, Clone, Copy)]
struct Block {
    prefix: Prefix,
    mask: u128,
    value: u128,
}

impl From<Prefix> for Block {
    fn from(prefix: Prefix) -> Self {
        let bits = u32::from(prefix.bits()) + if prefix.is_ipv4() { 96 } else { 0 };
        Self {
            prefix,
            mask: u128::MAX.checked_shl(128 - bits).unwrap_or(0),
            value: u128::from_be_bytes(addr_bytes(prefix.addr())),
        }
    }
}

/// Fields of the first packet of a connection; what is absent matches anything that is IP.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    ethertype: Option<u16>,
    protocol: Option<u8>,
    src: Option<Block>,
    dst: Option<Block>,
    src_ports: Option<PortRange>,
    dst_ports: Option<PortRange>,
}

/// As a configuration has them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub(crate) family: Option<Family>,
    pub(crate) protocol: Option<u8>,
    pub(crate) src: Option<Prefix>,
    pub(crate) dst: Option<Prefix>,
    pub(crate) src_ports: Option<PortRange>,
    pub(crate) dst_ports: Option<PortRange>,
}

fn family_of(prefix: Prefix) -> Family {
    if prefix.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP | proto::SCTP)
}

impl Fields {
    pub(crate) fn new(wanted: Wanted) -> Result<Self, FieldsFault> {
        let prefixes = [wanted.src, wanted.dst];
        let mut family = wanted.family;
        for prefix in prefixes.into_iter().flatten() {
            if *family.get_or_insert(family_of(prefix)) != family_of(prefix) {
                return Err(FieldsFault::Family(prefix));
            }
        }
        let ports = wanted.src_ports.is_some() || wanted.dst_ports.is_some();
        if let Some(protocol) = wanted.protocol.filter(|p| ports && !has_ports(*p)) {
            return Err(FieldsFault::Ports(protocol));
        }
        // What holds every address or port needs no look at one.
        let block = |p: Option<Prefix>| p.filter(|p| p.bits() > 0).map(Block::from);
        let range = |r: Option<PortRange>| r;
        Ok(Self {
            ethertype: family.map(|f| match f {
                Family::V4 => ethertype::IPV4,
                Family::V6 => ethertype::IPV6,
            }),
            protocol: wanted.protocol,
            src: block(wanted.src),
            dst: block(wanted.dst),
            src_ports: range(wanted.src_ports),
            dst_ports: range(wanted.dst_ports),
        })
    }

    /// Does the packet have them? Reads no further than the first that differs.
    pub(crate) fn matches(&self, packet: &mut Reader<'_>) -> bool {
        let ports = self.src_ports.is_some() || self.dst_ports.is_some();
        let found = packet.ethertype();
        self.ethertype
            .map_or(matches!(found, ethertype::IPV4 | ethertype::IPV6), |e| {
                e == found
            })
            && self.protocol.is_none_or(|p| p == packet.protocol())
            && (!ports || has_ports(packet.protocol()))
            && self.dst_ports.is_none_or(|r| r.contains(packet.dst_port()))
            && self.dst.is_none_or(|b| packet.dst(&b))
            && self.src.is_none_or(|b| packet.src(&b))
            && self.src_ports.is_none_or(|r| r.contains(packet.src_port()))
    }
}

/// A packet's fields, read through its probe.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    probe: &'a mut Probe,
    key: FlowKey,
    src: u128,
    dst: u128,
    src_bits: u8,
    dst_bits: u8,
    seen: [bool; 4],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(probe: &'a mut Probe) -> Self {
        let key = *probe.rewritten_key();
        Self {
            src: u128::from_be_bytes(key.ip_src),
            dst: u128::from_be_bytes(key.ip_dst),
            key,
            probe,
            src_bits: 0,
            dst_bits: 0,
            seen: [false; 4],
        }
    }

    fn ethertype(&mut self) -> u16 {
        let [seen, ..] = &mut self.seen;
        if !std::mem::replace(seen, true) {
            self.probe.ethertype();
        }
        self.key.ethertype
    }

    fn protocol(&mut self) -> u8 {
        let [_, seen, ..] = &mut self.seen;
        if !std::mem::replace(seen, true) {
            self.probe.ip_proto();
        }
        self.key.ip_proto
    }

    fn src_port(&mut self) -> u16 {
        let [.., seen, _] = &mut self.seen;
        if !std::mem::replace(seen, true) {
            self.probe.l4_src();
        }
        self.key.l4_src
    }

    fn dst_port(&mut self) -> u16 {
        let [.., seen] = &mut self.seen;
        if !std::mem::replace(seen, true) {
            self.probe.l4_dst();
        }
        self.key.l4_dst
    }

    /// Only for packets of the block's family: so the numbers of bits compare.
    fn src(&mut self, block: &Block) -> bool {
        if block.prefix.bits() > self.src_bits {
            self.probe.ip_src_in(block.prefix);
            self.src_bits = block.prefix.bits();
        }
        self.src & block.mask == block.value
    }

    fn dst(&mut self, block: &Block) -> bool {
        if block.prefix.bits() > self.dst_bits {
            self.probe.ip_dst_in(block.prefix);
            self.dst_bits = block.prefix.bits();
        }
        self.dst & block.mask == block.value
    }
}
