//! Is an address in a set, and by which bits is that seen?
//!
//! The union of prefixes as bounds in order: between an even one and the next lies the set, between an odd one and the next
//! what is not in it. A look-up is one binary search, whatever the lengths, and reads as many bits as keep the address between its
//! bounds: a set of neighbours is read like one block.

use net::{Prefix, Probe, flow_key::ethertype};

use super::{
    Block,
    address::{Address, within},
};

/// Which address of a packet is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// A set of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressSet {
    v4: Bounds<u32>,
    v6: Bounds<u128>,
}

impl AddressSet {
    /// The union of prefixes.
    pub fn new(members: impl IntoIterator<Item = Prefix>) -> Self {
        let (v4, v6): (Vec<_>, Vec<_>) = members.into_iter().partition(|p| p.is_ipv4());
        Self {
            v4: Bounds::new(v4),
            v6: Bounds::new(v6),
        }
    }

    /// Is this end of the packet in the set?
    pub fn has(&self, probe: &mut Probe, end: End) -> bool {
        match probe.ethertype() {
            ethertype::IPV4 => self.v4.has(probe, end),
            ethertype::IPV6 => self.v6.has(probe, end),
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Bounds<A>(Vec<A>);

impl<A: Address> Bounds<A> {
    fn new(prefixes: Vec<Prefix>) -> Self {
        let mut blocks: Vec<Block<A>> = prefixes.into_iter().map(|p| Block::new(Some(p))).collect();
        blocks.sort_unstable();
        let mut bounds: Vec<A> = Vec::new();
        for block in blocks {
            // An odd number of bounds: the last stretch reaches to the last address.
            if bounds.len() % 2 == 1 {
                break;
            }
            let behind = block.value.with_host_bits(block.bits).after();
            let end = bounds.last().copied().filter(|end| *end >= block.value);
            if let Some(end) = end {
                bounds.pop();
                bounds.extend(behind.map(|b| b.max(end)));
            } else {
                bounds.push(block.value);
                bounds.extend(behind);
            }
        }
        Self(bounds)
    }

    fn has(&self, probe: &mut Probe, end: End) -> bool {
        let key = probe.rewritten_key();
        let addr = A::of(match end {
            End::Source => key.ip_src,
            End::Destination => key.ip_dst,
        });
        let below = self.0.partition_point(|b| *b <= addr);
        let bound = |at: Option<usize>| at.and_then(|at| self.0.get(at).copied());
        let first = bound(below.checked_sub(1)).unwrap_or_default();
        let last = bound(Some(below)).and_then(A::before);
        let bits = within(addr, first, last.unwrap_or(A::mask(A::WIDTH)));
        match end {
            End::Source => probe.ip_src_top(A::BEFORE + bits),
            End::Destination => probe.ip_dst_top(A::BEFORE + bits),
        };
        below % 2 == 1
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use net::{FlowKey, flow_key::addr_bytes};
    use proptest::prelude::*;

    use super::*;

    fn key(src: IpAddr) -> FlowKey {
        FlowKey {
            ethertype: if src.is_ipv4() {
                ethertype::IPV4
            } else {
                ethertype::IPV6
            },
            ip_src: addr_bytes(src),
            ..FlowKey::default()
        }
    }

    fn asked(set: &AddressSet, src: &str) -> (bool, u32) {
        let mut probe = Probe::new(&key(src.parse().unwrap()));
        let is = set.has(&mut probe, End::Source);
        let read = probe.mask().fields().ip_src;
        (is, read.iter().map(|b| b.count_ones()).sum())
    }

    #[test]
    fn no_more_is_read_than_tells_an_address_from_the_bounds_around_it() {
        let set = AddressSet::new(
            ["10.0.0.0/8", "192.0.2.1/32", "fd00::/16"].map(|p| p.parse().unwrap()),
        );
        assert_eq!(asked(&set, "10.1.2.3"), (true, 96 + 8));
        assert_eq!(asked(&set, "11.0.0.1"), (false, 96 + 8));
        assert_eq!(asked(&set, "192.0.2.1"), (true, 128));
        assert_eq!(asked(&set, "192.0.2.9"), (false, 128));
        assert_eq!(asked(&set, "192.1.2.9"), (false, 96 + 16));
        assert_eq!(asked(&set, "fd00::1"), (true, 16));
        assert_eq!(asked(&set, "2001:db8::1"), (false, 16));
        let neighbours = (0..=255u8).map(|n| Prefix::host([10, 0, 0, n].into()));
        assert_eq!(
            asked(&AddressSet::new(neighbours), "10.0.0.7"),
            (true, 96 + 24)
        );
        let all = AddressSet::new([Prefix::ANY_V4, "255.0.0.0/8".parse().unwrap()]);
        assert_eq!(asked(&all, "10.0.0.7"), (true, 96));
        assert_eq!(asked(&all, "fd00::1"), (false, 0));
        assert_eq!(asked(&AddressSet::default(), "10.0.0.7"), (false, 96));
    }

    fn any_addr() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[bool; 4]>().prop_map(|b| b.map(|b| if b { 255 } else { 0 }).into()),
            [250u8..=255, 0u8..=3, 0u8..=3, 0u8..=3].prop_map(IpAddr::from),
            [
                0xfffeu16..=0xffff,
                0u16..=3,
                0u16..=3,
                0u16..=3,
                0u16..=3,
                0u16..=3,
                0u16..=3,
                0u16..=3
            ]
            .prop_map(IpAddr::from),
        ]
    }

    proptest! {
        #[test]
        fn who_is_in_the_set_is_in_a_prefix_and_so_is_who_shares_the_bits(
            prefixes in prop::collection::vec((any_addr(), 0u8..=128), 0..12),
            addr in any_addr(),
            others in prop::collection::vec(any_addr(), 20),
        ) {
            let prefixes: Vec<_> = prefixes.into_iter().map(|(a, len)| {
                Prefix::containing(a, len % if a.is_ipv4() { 33 } else { 129 }).unwrap()
            }).collect();
            let set = AddressSet::new(prefixes.iter().copied());
            let is = |a: IpAddr| prefixes.iter().any(|p| p.contains(a));
            let mut probe = Probe::new(&key(addr));
            prop_assert_eq!(set.has(&mut probe, End::Source), is(addr));
            for other in others {
                if probe.mask().apply(&key(other)) == probe.mask().apply(&key(addr)) {
                    prop_assert_eq!(is(other), is(addr), "{} and {}", addr, other);
                }
            }
        }
    }
}
