//! Which fields did the tables read?
//!
//! Tables never see a [`FlowKey`]; they see a [`Probe`], whose getters return a field *and* mark it in the [`FlowMask`].
//! What was not read may differ between two packets that share the answer. To forget to mark does not compile.
//!
//! A field that a table rewrites is shown rewritten to the tables after it, and reading it then marks nothing: its value
//! follows from the decision, not from the packet.
//!
//! # Invariants
//! For any key and tables, every other key that is equal under the mask gets the same actions.

use std::net::IpAddr;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::{
    FiveTuple, FlowKey, Mac, Origin, Prefix,
    flow_key::{addr_bytes, proto},
};

/// Which bits of a [`FlowKey`] were read.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowMask(FlowKey);

impl Default for FlowMask {
    fn default() -> Self {
        Self(FlowKey::new_zeroed())
    }
}

impl std::fmt::Debug for FlowMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowMask(")?;
        for b in self.0.as_bytes() {
            write!(f, "{b:02x}")?;
        }
        f.write_str(")")
    }
}

impl FlowMask {
    /// Every bit.
    pub fn exact() -> Self {
        let mut mask = FlowKey::new_zeroed();
        mask.as_mut_bytes().fill(0xff);
        Self(mask)
    }

    /// The key with all unread bits zero.
    #[must_use]
    pub fn apply(&self, key: &FlowKey) -> FlowKey {
        let mut bytes = [0u8; size_of::<FlowKey>()];
        for ((to, k), m) in bytes.iter_mut().zip(key.as_bytes()).zip(self.0.as_bytes()) {
            *to = k & m;
        }
        FlowKey::read_from_bytes(&bytes).unwrap_or_default()
    }

    /// The read bits, field by field.
    pub fn fields(&self) -> &FlowKey {
        &self.0
    }

    /// Does it read every bit that `other` reads?
    pub fn covers(&self, other: &Self) -> bool {
        self.0
            .as_bytes()
            .iter()
            .zip(other.0.as_bytes())
            .all(|(a, b)| a & b == *b)
    }
}

/// A packet's key as the tables see it.
#[derive(Debug, Clone)]
pub struct Probe {
    key: FlowKey,
    mask: FlowMask,
    rewritten: FlowMask,
    steps: u32,
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident: $field:ident -> $ty:ty = $convert:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(&mut self) -> $ty {
            self.read(|k| k.$field.as_mut_bytes());
            let convert: fn(&FlowKey) -> $ty = $convert;
            convert(&self.key)
        }
    )*};
}

impl Probe {
    /// A probe of this key, nothing read yet.
    pub fn new(key: &FlowKey) -> Self {
        Self {
            key: *key,
            mask: FlowMask::default(),
            rewritten: FlowMask::default(),
            steps: 0,
        }
    }

    /// Says that a table compared so many rules one by one.
    pub fn spend(&mut self, steps: u32) {
        self.steps = self.steps.saturating_add(steps);
    }

    /// How many rules were compared one by one: what a decision cost beyond its usual price.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// What was read.
    pub fn mask(&self) -> FlowMask {
        self.mask
    }

    /// The key as rewritten so far, without reading: for display, and for the record of a connection that a walk that
    /// already read the tuple makes. Deciding on it would be a lie about the mask.
    pub fn rewritten_key(&self) -> &FlowKey {
        &self.key
    }

    fn read(&mut self, field: impl Fn(&mut FlowKey) -> &mut [u8]) {
        let rewritten = field(&mut self.rewritten.0);
        for (m, r) in field(&mut self.mask.0).iter_mut().zip(rewritten) {
            *m |= !*r;
        }
    }

    fn read_bits(&mut self, field: impl Fn(&mut FlowKey) -> &mut [u8], mut bits: usize) {
        let rewritten = field(&mut self.rewritten.0);
        for (m, r) in field(&mut self.mask.0).iter_mut().zip(rewritten) {
            let take = bits.min(8);
            let byte = if take == 0 { 0 } else { 0xffu8 << (8 - take) };
            *m |= byte & !*r;
            bits -= take;
        }
    }

    getters! {
        /// Where the packet entered.
        origin: origin -> Origin = FlowKey::origin;
        /// EtherType behind any tag.
        ethertype: ethertype -> u16 = |k| k.ethertype;
        /// 0x1000 | VLAN id when tagged, else 0.
        vlan: vlan -> u16 = |k| k.vlan;
        /// The path of the label that it bore, else 0.
        path: path -> u16 = |k| k.path;
        /// Ethernet source.
        eth_src: eth_src -> Mac = FlowKey::src_mac;
        /// Ethernet destination.
        eth_dst: eth_dst -> Mac = FlowKey::dst_mac;
        /// IP protocol, or ARP operation.
        ip_proto: ip_proto -> u8 = |k| k.ip_proto;
        /// DSCP and ECN.
        ip_tos: ip_tos -> u8 = |k| k.ip_tos;
        /// TTL or hop limit.
        ip_ttl: ip_ttl -> u8 = |k| k.ip_ttl;
        /// [`crate::Fragment`] as a number.
        ip_frag: ip_frag -> u8 = |k| k.ip_frag;
        /// Source address, all bits.
        ip_src: ip_src -> IpAddr = FlowKey::src_addr;
        /// Destination address, all bits.
        ip_dst: ip_dst -> IpAddr = FlowKey::dst_addr;
        /// Source port or ICMP type.
        l4_src: l4_src -> u16 = |k| k.l4_src;
        /// Destination port or ICMP code.
        l4_dst: l4_dst -> u16 = |k| k.l4_dst;
        /// TCP flags.
        tcp_flags: tcp_flags -> u16 = |k| k.tcp_flags;
        /// Identifier of an ICMP query.
        icmp_id: icmp_id -> u16 = |k| k.icmp_id;
        /// Target of a Neighbor Discovery message.
        nd_target: nd_target -> IpAddr = |k| crate::flow_key::addr_of(k.nd_target);
        /// ARP sender hardware address, or ND link-layer address.
        link_addr: link_addr -> Mac = |k| Mac::new(k.link_addr);
    }

    /// Is the source in `prefix`? Reads only the prefix's bits (and that the family is what it is).
    pub fn ip_src_in(&mut self, prefix: Prefix) -> bool {
        self.ethertype();
        let bits = mapped_bits(prefix);
        self.read_bits(|k| &mut k.ip_src, bits);
        prefix.contains(self.key.src_addr())
    }

    /// Is the destination in `prefix`? Reads only the prefix's bits (and that the family is what it is).
    pub fn ip_dst_in(&mut self, prefix: Prefix) -> bool {
        self.ethertype();
        let bits = mapped_bits(prefix);
        self.read_bits(|k| &mut k.ip_dst, bits);
        prefix.contains(self.key.dst_addr())
    }

    /// The first bits of the source address as it stands in the key (96 more for IPv4), the others zero. For who knows the family.
    pub fn ip_src_top(&mut self, bits: u8) -> u128 {
        self.read_bits(|k| &mut k.ip_src, usize::from(bits));
        u128::from_be_bytes(self.key.ip_src) & top(bits)
    }

    /// The first bits of the destination address as it stands in the key, the others zero.
    pub fn ip_dst_top(&mut self, bits: u8) -> u128 {
        self.read_bits(|k| &mut k.ip_dst, usize::from(bits));
        u128::from_be_bytes(self.key.ip_dst) & top(bits)
    }

    /// The first bits of the source port or ICMP type, the others zero.
    pub fn l4_src_top(&mut self, bits: u8) -> u16 {
        let wanted = top_of_port(bits);
        self.mask.0.l4_src |= wanted & !self.rewritten.0.l4_src;
        self.key.l4_src & wanted
    }

    /// The first bits of the destination port or ICMP code, the others zero.
    pub fn l4_dst_top(&mut self, bits: u8) -> u16 {
        let wanted = top_of_port(bits);
        self.mask.0.l4_dst |= wanted & !self.rewritten.0.l4_dst;
        self.key.l4_dst & wanted
    }

    /// The whole 5-tuple; `None` for what is not IP.
    pub fn five_tuple(&mut self) -> Option<FiveTuple> {
        self.ethertype();
        let tuple = self.key.five_tuple()?;
        self.ip_src();
        self.ip_dst();
        match self.ip_proto() {
            proto::ICMP | proto::ICMP6 => {
                self.icmp_id();
                self.l4_src();
            }
            _ => {
                self.l4_src();
                self.l4_dst();
            }
        }
        Some(tuple)
    }

    /// Rewrites the Ethernet source for the tables to come.
    pub fn set_eth_src(&mut self, mac: Mac) {
        self.key.eth_src = mac.octets();
        self.rewritten.0.eth_src = [0xff; 6];
    }

    /// Rewrites the Ethernet destination for the tables to come.
    pub fn set_eth_dst(&mut self, mac: Mac) {
        self.key.eth_dst = mac.octets();
        self.rewritten.0.eth_dst = [0xff; 6];
    }

    /// Rewrites the source for the tables to come: its address, and its port or the identifier of an ICMP query.
    pub fn set_src(&mut self, addr: IpAddr, port: u16) {
        self.key.ip_src = addr_bytes(addr);
        self.rewritten.0.ip_src = [0xff; 16];
        if !self.is_icmp() {
            self.key.l4_src = port;
            self.rewritten.0.l4_src = u16::MAX;
        } else if self.key.is_query() {
            self.key.icmp_id = port;
            self.rewritten.0.icmp_id = u16::MAX;
        }
    }

    /// Rewrites the destination for the tables to come: its address, and its port where the protocol has one.
    pub fn set_dst(&mut self, addr: IpAddr, port: u16) {
        self.key.ip_dst = addr_bytes(addr);
        self.rewritten.0.ip_dst = [0xff; 16];
        if !self.is_icmp() {
            self.key.l4_dst = port;
            self.rewritten.0.l4_dst = u16::MAX;
        }
    }

    /// Where ICMP has its type and code, others have ports: which is rewritten is read.
    fn is_icmp(&mut self) -> bool {
        let icmp = matches!(self.ip_proto(), proto::ICMP | proto::ICMP6);
        if icmp {
            self.l4_src();
        }
        icmp
    }
}

fn top(bits: u8) -> u128 {
    !u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
}

fn top_of_port(bits: u8) -> u16 {
    !u16::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
}

fn mapped_bits(prefix: Prefix) -> usize {
    usize::from(prefix.bits()) + if prefix.is_ipv4() { 96 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bits_of_a_field_are_read_alone() {
        let mut key = FlowKey {
            ethertype: 0x0800,
            l4_src: 0x1234,
            l4_dst: 0xabcd,
            ..FlowKey::default()
        };
        key.ip_src = addr_bytes("10.1.2.3".parse().unwrap());
        let mut probe = Probe::new(&key);
        assert_eq!(probe.ip_src_top(104), 0xffff_0a00_0000);
        assert_eq!((probe.l4_src_top(0), probe.l4_dst_top(5)), (0, 0xa800));
        let mask = probe.mask();
        assert_eq!(mask.fields().ip_src[12..], [0xff, 0, 0, 0]);
        assert_eq!(mask.fields().ip_dst, [0; 16]);
        assert_eq!((mask.fields().l4_src, mask.fields().l4_dst), (0, 0xf800));
        probe.set_dst("10.9.9.9".parse().unwrap(), 0x8080);
        assert_eq!(probe.l4_dst_top(16), 0x8080);
        assert_eq!(probe.mask().fields().l4_dst, 0xf800);
        assert_eq!(probe.ip_dst_top(128), 0xffff_0a09_0909);
        assert_eq!(probe.mask().fields().ip_dst, [0; 16]);
    }

    #[test]
    fn reading_marks_and_rewriting_hides() {
        let mut key = FlowKey {
            ethertype: 0x0800,
            l4_dst: 80,
            ..FlowKey::default()
        };
        key.ip_dst = addr_bytes("10.1.2.3".parse().unwrap());
        let mut probe = Probe::new(&key);
        assert!(probe.ip_dst_in("10.0.0.0/8".parse().unwrap()));
        assert_eq!(probe.mask().fields().ip_dst[12..], [0xff, 0, 0, 0]);
        probe.set_dst("10.9.9.9".parse().unwrap(), 8080);
        assert_eq!(probe.l4_dst(), 8080);
        assert_eq!(probe.mask().fields().l4_dst, 0);
        assert_eq!(probe.ip_dst(), "10.9.9.9".parse::<IpAddr>().unwrap());
        assert_eq!(probe.mask().fields().ip_dst[12..], [0xff, 0, 0, 0]);
    }

    #[test]
    fn the_source_of_an_icmp_query_is_its_identifier_and_its_type_stays() {
        let to: IpAddr = "10.9.9.9".parse().unwrap();
        for (kind, id) in [(8, 77), (3, 5)] {
            let key = FlowKey {
                ethertype: 0x0800,
                ip_proto: proto::ICMP,
                l4_src: kind,
                icmp_id: 5,
                ..FlowKey::default()
            };
            let mut probe = Probe::new(&key);
            probe.set_src(to, 77);
            probe.set_dst(to, 99);
            let seen = (probe.l4_src(), probe.l4_dst(), probe.icmp_id());
            assert_eq!(seen, (kind, 0, id), "an error has no identifier");
        }
    }
}
