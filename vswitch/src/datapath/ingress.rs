//! 1: What came in, and may it be looked at?
//!
//! Each packet is parsed once. A fragment that is not its packet's first is lent the ports of the first one, so that every
//! later room treats the two alike.
//!
//! # Attack
//! Fragments in flight are bounded, and at the limit the oldest of the same port goes first: who sends first fragments without
//! end forgets its own.
//!
//! # References
//! RFC 791 §3.2, RFC 8200 §4.5; RFC 4291 §2.5.5.2 (mapped addresses do not belong on a wire).

use std::collections::VecDeque;

use hashbrown::HashMap;
use net::{DropReason, FlowKey, Fragment, Headers, L3, Now, Packet, flow_key::ethertype};

/// For how long a packet's fragments are waited for.
const LIFETIME_SECONDS: u32 = 30;

/// Parses a packet, and judges what no table needs to.
///
/// # Errors
/// The reason why it can't be looked at.
pub fn admit(packet: &mut Packet, fragments: &mut Fragments, now: Now) -> Result<(), DropReason> {
    packet.parse()?;
    let headers = *packet.headers();
    let key = packet.key();
    // An IPv6 packet with mapped addresses would look like an IPv4 connection.
    if headers.l3 == L3::Ipv6 && (is_mapped(key.ip_src) || is_mapped(key.ip_dst)) {
        return Err(DropReason::MalformedIpv6);
    }
    // RFC 4861 §7.1: a Neighbor Discovery message that was ever forwarded is none.
    if key.ethertype == ethertype::IPV6
        && key.ip_proto == net::flow_key::proto::ICMP6
        && (133..=137).contains(&key.l4_src)
        && key.ip_ttl != 255
    {
        return Err(DropReason::MalformedNd);
    }
    if key.ip_frag != Fragment::Whole as u8 {
        fragments.lend(packet, &headers, now)?;
    }
    Ok(())
}

fn is_mapped(addr: [u8; 16]) -> bool {
    let [head @ .., _, _, _, _] = addr;
    head == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
}

/// What the fragments of one packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Whole {
    origin: u32,
    src: [u8; 16],
    dst: [u8; 16],
    protocol: u8,
    id: u32,
}

#[derive(Debug, Clone, Copy)]
struct First {
    l4_src: u16,
    l4_dst: u16,
    icmp_id: u16,
    seen: u32,
}

/// The packets whose first fragment was seen.
#[derive(Debug)]
pub struct Fragments {
    firsts: HashMap<Whole, First, foldhash::fast::FixedState>,
    order: VecDeque<Whole>,
    capacity: usize,
}

impl Fragments {
    /// None yet, at most `capacity`.
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self {
            firsts: HashMap::with_capacity_and_hasher(
                capacity,
                foldhash::fast::FixedState::with_seed(seed),
            ),
            order: VecDeque::with_capacity(capacity),
            capacity,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.firsts.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.firsts.is_empty()
    }

    fn lend(&mut self, packet: &mut Packet, headers: &Headers, now: Now) -> Result<(), DropReason> {
        let key = packet.key();
        let whole = Whole {
            origin: key.origin,
            src: key.ip_src,
            dst: key.ip_dst,
            protocol: key.ip_proto,
            id: headers.fragment_id,
        };
        if key.ip_frag == Fragment::First as u8 {
            return self.remember(whole, key, now);
        }
        let first = self
            .firsts
            .get(&whole)
            .filter(|f| now.seconds().saturating_sub(f.seen) < LIFETIME_SECONDS)
            .ok_or(DropReason::FragmentUnmatched)?;
        let (l4_src, l4_dst, icmp_id) = (first.l4_src, first.l4_dst, first.icmp_id);
        let key = packet.key_mut();
        (key.l4_src, key.l4_dst, key.icmp_id) = (l4_src, l4_dst, icmp_id);
        Ok(())
    }

    fn remember(&mut self, whole: Whole, key: &FlowKey, now: Now) -> Result<(), DropReason> {
        let first = First {
            l4_src: key.l4_src,
            l4_dst: key.l4_dst,
            icmp_id: key.icmp_id,
            seen: now.seconds(),
        };
        if let Some(there) = self.firsts.get_mut(&whole) {
            *there = first;
            return Ok(());
        }
        if self.firsts.len() >= self.capacity {
            self.expire(now);
        }
        if self.firsts.len() >= self.capacity {
            let own = self.order.iter().position(|w| w.origin == whole.origin);
            let gone = own.and_then(|at| self.order.remove(at));
            let gone = gone.ok_or(DropReason::FragmentTableFull)?;
            self.firsts.remove(&gone);
        }
        self.order.push_back(whole);
        self.firsts.insert(whole, first);
        Ok(())
    }

    /// Forgets what was waited for in vain. A packet is listed once, when its first fragment is first seen.
    pub fn expire(&mut self, now: Now) {
        while let Some(whole) = self.order.front() {
            let old = self
                .firsts
                .get(whole)
                .is_none_or(|f| now.seconds().saturating_sub(f.seen) >= LIFETIME_SECONDS);
            if !old {
                break;
            }
            self.firsts.remove(whole);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use net::{Origin, PacketPool, PortId, testkit::FrameBuilder};

    use super::*;

    fn admitted(
        pool: &mut PacketPool,
        fragments: &mut Fragments,
        frame: &[u8],
        port: u32,
        second: u64,
    ) -> Result<Packet, DropReason> {
        let mut p = pool.take(frame.len()).unwrap();
        p.fill(frame).unwrap();
        p.set_origin(Origin::Port(PortId(port)));
        let now = Now::from_nanos(second * 1_000_000_000);
        admit(&mut p, fragments, now).map(|()| p)
    }

    #[test]
    fn later_fragments_are_lent_the_ports_of_the_first() {
        for v6 in [false, true] {
            let mut pool = PacketPool::new(64, 1);
            let mut f = Fragments::new(2, 1);
            let udp = FrameBuilder::udp(v6, 1000, 53).payload(&[7; 64]);
            let first = udp.clone().fragment(9, 0, true).build();
            let later = udp.clone().fragment(9, 9, false).build();
            let unmatched = Err(DropReason::FragmentUnmatched);
            assert_eq!(
                admitted(&mut pool, &mut f, &later, 1, 0).map(|_| ()),
                unmatched
            );
            admitted(&mut pool, &mut f, &first, 1, 0).unwrap();
            let p = admitted(&mut pool, &mut f, &later, 1, 1).unwrap();
            assert_eq!((p.key().l4_src, p.key().l4_dst), (1000, 53));
            // Another port's fragments are another packet's, and what is old is forgotten.
            assert_eq!(
                admitted(&mut pool, &mut f, &later, 2, 1).map(|_| ()),
                unmatched
            );
            assert_eq!(
                admitted(&mut pool, &mut f, &later, 1, 60).map(|_| ()),
                unmatched
            );
        }
    }

    #[test]
    fn a_flooder_forgets_its_own_fragments_first() {
        let mut pool = PacketPool::new(64, 1);
        let mut f = Fragments::new(3, 1);
        let first = |id| {
            FrameBuilder::udp(false, 1000, 53)
                .payload(&[7; 64])
                .fragment(id, 0, true)
                .build()
        };
        let later = |id| {
            FrameBuilder::udp(false, 1000, 53)
                .payload(&[7; 64])
                .fragment(id, 9, false)
                .build()
        };
        admitted(&mut pool, &mut f, &first(1), 1, 0).unwrap();
        for id in 0..20 {
            admitted(&mut pool, &mut f, &first(id), 2, 0).unwrap();
        }
        assert_eq!(f.len(), 3);
        assert!(admitted(&mut pool, &mut f, &later(1), 1, 0).is_ok());
        let full = Err(DropReason::FragmentTableFull);
        assert_eq!(
            admitted(&mut pool, &mut f, &first(1), 3, 0).map(|_| ()),
            full
        );
    }
}
