//! Is an address in a set, and by which bits is that seen?
//!
//! A set of prefixes as one hash table for each prefix length in use, shortest first: a look-up costs a probe a length,
//! whatever the number of members, and marks no more bits than the length that decided.

use std::net::IpAddr;

use hashbrown::HashMap;
use net::{Prefix, Probe, flow_key::addr_bytes};

/// Which address of a packet is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// Values by prefix; the shortest prefix that holds an address wins.
#[derive(Debug, Clone)]
pub struct PrefixMap<V> {
    v4: Vec<Length<V>>,
    v6: Vec<Length<V>>,
}

/// A set of prefixes.
pub type PrefixSet = PrefixMap<()>;

#[derive(Debug, Clone)]
struct Length<V> {
    bits: u8,
    members: HashMap<u128, V, foldhash::fast::FixedState>,
}

impl<V: Copy> PrefixMap<V> {
    /// From prefixes with their values; of equal prefixes the first stays.
    pub fn new(seed: u64, members: impl IntoIterator<Item = (Prefix, V)>) -> Self {
        let mut map = Self {
            v4: Vec::new(),
            v6: Vec::new(),
        };
        for (prefix, value) in members {
            let family = if prefix.is_ipv4() {
                &mut map.v4
            } else {
                &mut map.v6
            };
            let at = match family.binary_search_by_key(&prefix.bits(), |l| l.bits) {
                Ok(at) => at,
                Err(at) => {
                    let length = Length {
                        bits: prefix.bits(),
                        members: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
                    };
                    family.insert(at, length);
                    at
                }
            };
            if let Some(length) = family.get_mut(at) {
                length.members.entry(number(prefix.addr())).or_insert(value);
            }
        }
        map
    }

    /// Is there no prefix in it?
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// How many prefixes it has.
    pub fn len(&self) -> usize {
        self.v4
            .iter()
            .chain(&self.v6)
            .map(|l| l.members.len())
            .sum()
    }

    /// The value of the shortest prefix that holds this end of the packet.
    pub fn find(&self, probe: &mut Probe, end: End) -> Option<V> {
        let key = probe.rewritten_key();
        let addr = match end {
            End::Source => key.src_addr(),
            End::Destination => key.dst_addr(),
        };
        let family = if addr.is_ipv4() { &self.v4 } else { &self.v6 };
        if family.is_empty() {
            // That the packet is of the other family is all that was asked of it.
            probe.ethertype();
            return None;
        }
        family.iter().find_map(|length| {
            let prefix = Prefix::containing(addr, length.bits).ok()?;
            // Marks the bits that the table of this length is asked by, whether they hit or not.
            match end {
                End::Source => probe.ip_src_in(prefix),
                End::Destination => probe.ip_dst_in(prefix),
            };
            length.members.get(&number(prefix.addr())).copied()
        })
    }

    /// The value of the shortest prefix that holds an address.
    pub fn get(&self, addr: IpAddr) -> Option<V> {
        let family = if addr.is_ipv4() { &self.v4 } else { &self.v6 };
        family.iter().find_map(|length| {
            let prefix = Prefix::containing(addr, length.bits).ok()?;
            length.members.get(&number(prefix.addr())).copied()
        })
    }
}

fn number(addr: IpAddr) -> u128 {
    u128::from_be_bytes(addr_bytes(addr))
}

#[cfg(test)]
mod tests {
    use net::{FlowKey, flow_key::ethertype};

    use super::*;

    fn key(src: &str) -> FlowKey {
        let addr: IpAddr = src.parse().unwrap();
        FlowKey {
            ethertype: if addr.is_ipv4() {
                ethertype::IPV4
            } else {
                ethertype::IPV6
            },
            ip_src: addr_bytes(addr),
            ..FlowKey::default()
        }
    }

    #[test]
    fn a_look_up_reads_no_more_bits_than_the_length_that_decides() {
        for (net, host, inside, outside, bits) in [
            ("10.0.0.0/8", "192.0.2.1/32", "10.1.2.3", "11.0.0.1", 96 + 8),
            ("fd00::/16", "2001:db8::1/128", "fd00::9", "fe00::1", 16),
        ] {
            let map = PrefixMap::new(
                1,
                [(net.parse().unwrap(), 'n'), (host.parse().unwrap(), 'h')],
            );
            assert_eq!(map.len(), 2);
            let mut probe = Probe::new(&key(inside));
            assert_eq!(map.find(&mut probe, End::Source), Some('n'));
            let read: u32 = probe
                .mask()
                .fields()
                .ip_src
                .iter()
                .map(|b| b.count_ones())
                .sum();
            assert_eq!(read, bits);
            let mut probe = Probe::new(&key(outside));
            assert_eq!(map.find(&mut probe, End::Source), None);
            assert_eq!(probe.mask().fields().ip_src, [0xff; 16]);
            assert_eq!(map.get(inside.parse().unwrap()), Some('n'));
        }
    }

    #[test]
    fn families_do_not_meet() {
        let map = PrefixMap::new(1, [(Prefix::ANY_V4, ())]);
        assert!(
            map.find(&mut Probe::new(&key("fd00::1")), End::Source)
                .is_none()
        );
        assert!(
            map.find(&mut Probe::new(&key("10.0.0.1")), End::Source)
                .is_some()
        );
    }
}
