//! Which of these prefixes is the longest that holds an address?
//!
//! Prefixes of one family nest or lie apart, so they cut its addresses into stretches of each of which one prefix is the longest.
//! An [`Lpm`] is the list of those stretches: the answer is one binary search, however many lengths there are.
//!
//! # Invariants
//! - The answer is that of comparing all prefixes one by one; of equal ones the first counts.
//! - Any other address that is equal in the bits that were read gets the same answer. As many bits are read as tell the address from the
//!   stretches beside its own, in whole bytes (IPv6: pairs), so that the variety of masks stays small.
//!
//! # Cost
//! At most two stretches a prefix, 24 bytes each. Building: a sort. Looking up: a binary search.

use net::{
    Prefix, Probe,
    flow_key::{addr_bytes, ethertype},
};

/// No prefix.
const NONE: u32 = u32::MAX;

/// Prefixes of both families, each with a number.
#[derive(Debug, Clone, Default)]
pub struct Lpm {
    v4: Stretches,
    v6: Stretches,
}

/// Where each stretch begins, and the number of its longest prefix. Addresses are as they stand in a key.
#[derive(Debug, Clone, Default)]
struct Stretches(Vec<(u128, u32)>);

impl Lpm {
    /// Of prefixes with their numbers; of equal ones the first counts.
    pub fn new(prefixes: impl IntoIterator<Item = (Prefix, u32)>) -> Self {
        let (v4, v6) = prefixes.into_iter().partition(|(p, _)| p.is_ipv4());
        Self {
            v4: Stretches::new(v4),
            v6: Stretches::new(v6),
        }
    }

    /// The number of the longest prefix that holds the packet's destination; `None` also for what is not IP.
    pub fn destination(&self, probe: &mut Probe) -> Option<u32> {
        let (stretches, grain) = self.of(probe)?;
        let (what, bits) = stretches.find(u128::from_be_bytes(probe.rewritten_key().ip_dst));
        probe.ip_dst_top(bits.next_multiple_of(grain));
        (what != NONE).then_some(what)
    }

    /// The same for its source.
    pub fn source(&self, probe: &mut Probe) -> Option<u32> {
        let (stretches, grain) = self.of(probe)?;
        let (what, bits) = stretches.find(u128::from_be_bytes(probe.rewritten_key().ip_src));
        probe.ip_src_top(bits.next_multiple_of(grain));
        (what != NONE).then_some(what)
    }

    fn of(&self, probe: &mut Probe) -> Option<(&Stretches, u8)> {
        match probe.ethertype() {
            ethertype::IPV4 => Some((&self.v4, 8)),
            ethertype::IPV6 => Some((&self.v6, 16)),
            _ => None,
        }
    }
}

impl Stretches {
    fn new(prefixes: Vec<(Prefix, u32)>) -> Self {
        let number = |addr| u128::from_be_bytes(addr_bytes(addr));
        let mut blocks: Vec<_> = prefixes
            .into_iter()
            .map(|(p, what)| (number(p.addr()), p.bits(), number(p.last()), what))
            .collect();
        // Whoever holds others comes before them; of equal ones the first stays.
        blocks.sort_by_key(|(first, bits, ..)| (*first, *bits));
        blocks.dedup_by_key(|(first, bits, ..)| (*first, *bits));
        let mut this = Self(Vec::new());
        let mut open: Vec<(u128, u32)> = Vec::new();
        for (first, _, last, what) in blocks {
            this.close(&mut open, first);
            this.begin(first, what);
            open.push((last, what));
        }
        while let Some((last, _)) = open.pop() {
            this.resume(last, &open);
        }
        this.0.dedup_by_key(|(_, what)| *what);
        this
    }

    /// Ends the blocks that end before this address.
    fn close(&mut self, open: &mut Vec<(u128, u32)>, before: u128) {
        while let Some((last, _)) = open.pop_if(|(last, _)| *last < before) {
            self.resume(last, open);
        }
    }

    /// Behind the end of a block goes on the one that holds it.
    fn resume(&mut self, behind: u128, open: &[(u128, u32)]) {
        if let Some(next) = behind.checked_add(1) {
            self.begin(next, open.last().map_or(NONE, |(_, what)| *what));
        }
    }

    /// A stretch begins; one that began at the same address was none.
    fn begin(&mut self, at: u128, what: u32) {
        self.0.pop_if(|(there, _)| *there == at);
        self.0.push((at, what));
    }

    /// The number at an address, and how many of its first bits all say the same.
    fn find(&self, addr: u128) -> (u32, u8) {
        let next = self.0.partition_point(|(begin, _)| *begin <= addr);
        let own = next.checked_sub(1).and_then(|at| self.0.get(at));
        let before = own.and_then(|(begin, _)| begin.checked_sub(1));
        let behind = self.0.get(next).map(|(begin, _)| *begin);
        let apart = |other: u128| u8::try_from((addr ^ other).leading_zeros() + 1).unwrap_or(128);
        let bits = before.into_iter().chain(behind).map(apart).max();
        (own.map_or(NONE, |(_, what)| *what), bits.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use net::FlowKey;
    use proptest::prelude::*;

    use super::*;

    fn key(dst: IpAddr) -> FlowKey {
        FlowKey {
            ethertype: if dst.is_ipv4() {
                ethertype::IPV4
            } else {
                ethertype::IPV6
            },
            ip_src: addr_bytes(dst),
            ip_dst: addr_bytes(dst),
            ..FlowKey::default()
        }
    }

    fn asked(lpm: &Lpm, dst: &str) -> (Option<u32>, u32) {
        let mut probe = Probe::new(&key(dst.parse().unwrap()));
        let found = lpm.destination(&mut probe);
        let read = probe.mask().fields().ip_dst;
        (found, read.iter().map(|b| b.count_ones()).sum())
    }

    #[test]
    fn the_longest_wins_and_no_more_is_read_than_tells_it_from_those_beside_it() {
        let prefixes = [
            "0.0.0.0/0",
            "10.0.0.0/24",
            "10.0.0.7/32",
            "10.0.0.0/24",
            "255.255.255.255/32",
            "fd00::/64",
        ];
        let lpm = Lpm::new((0..).zip(prefixes).map(|(n, p)| (p.parse().unwrap(), n)));
        assert_eq!(asked(&lpm, "10.0.0.7"), (Some(2), 128));
        assert_eq!(asked(&lpm, "10.0.0.6"), (Some(1), 128));
        assert_eq!(asked(&lpm, "10.0.0.200"), (Some(1), 128 - 24 + 24));
        assert_eq!(asked(&lpm, "10.0.1.1"), (Some(0), 120));
        assert_eq!(asked(&lpm, "192.0.2.1"), (Some(0), 104));
        assert_eq!(asked(&lpm, "255.255.255.255"), (Some(4), 128));
        assert_eq!(asked(&lpm, "fd00::1"), (Some(5), 64));
        assert_eq!(asked(&lpm, "2001:db8::1"), (None, 16));
        assert_eq!(asked(&Lpm::default(), "10.0.0.1"), (None, 0));
        let mut arp = Probe::new(&FlowKey {
            ethertype: ethertype::ARP,
            ..key("10.0.0.1".parse().unwrap())
        });
        assert_eq!(lpm.destination(&mut arp), None);
    }

    fn any_addr() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[bool; 4]>().prop_map(|b| b.map(|b| if b { 255 } else { 0 }).into()),
            [250u8..=255, 0u8..=3, 0u8..=3, 0u8..=3].prop_map(IpAddr::from),
            any::<[bool; 8]>().prop_map(|b| b.map(|b| if b { 0xffff } else { 0 }).into()),
            any::<u16>().prop_map(|n| IpAddr::from([0xfd00, 0, 0, n & 3, 0, 0, 0, n >> 12])),
        ]
    }

    proptest! {
        #[test]
        fn it_is_the_list_read_one_by_one(
            prefixes in prop::collection::vec((any_addr(), 0u8..=128), 0..16),
            addr in any_addr(),
            others in prop::collection::vec(any_addr(), 20),
        ) {
            let prefixes: Vec<_> = prefixes.into_iter().map(|(a, len)| {
                Prefix::containing(a, len % if a.is_ipv4() { 33 } else { 129 }).unwrap()
            }).collect();
            let lpm = Lpm::new(prefixes.iter().copied().zip(0..));
            let linear = |a: IpAddr| {
                let held = prefixes.iter().zip(0u32..).filter(|(p, _)| p.contains(a));
                held.max_by_key(|(p, n)| (p.bits(), std::cmp::Reverse(*n))).map(|(_, n)| n)
            };
            let mut probe = Probe::new(&key(addr));
            prop_assert_eq!(lpm.destination(&mut probe), linear(addr));
            let mut of_source = Probe::new(&key(addr));
            prop_assert_eq!(lpm.source(&mut of_source), linear(addr));
            for other in others.into_iter().chain(prefixes.iter().flat_map(|p| [p.addr(), p.last()])) {
                if probe.mask().apply(&key(other)) == probe.mask().apply(&key(addr)) {
                    prop_assert_eq!(linear(other), linear(addr), "{} and {}", addr, other);
                }
            }
        }
    }
}
