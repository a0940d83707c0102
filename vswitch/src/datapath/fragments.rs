//! Which fragments are of one packet?
//!
//! A fragment that is not its packet's first has no ports: it is lent those of the first one, so that every later room treats the
//! two alike. With several workers all fragments of a packet meet at one, chosen by what they have in common ([`Fragments::home`]),
//! and go on from there as any packet does. One that comes before its first waits for it.
//!
//! # Attack
//! What is kept is bounded, and at the limit the oldest of the same origin goes first: who sends first fragments, or later ones
//! without a first, displaces its own. Early fragments hold packets of the pool, so nobody's take more than a quarter of their room,
//! and none waits for long: what was reordered on its way is there within milliseconds.
//!
//! # Cost
//! A packet that is no fragment never comes here.
//!
//! # References
//! RFC 791 §3.2, RFC 8200 §4.5.

use std::{collections::VecDeque, hash::BuildHasher, time::Duration};

use hashbrown::HashMap;
use net::{DropReason, FlowKey, Fragment, Now, Packet};

use super::WorkerId;

/// For how long a packet's later fragments are taken for its own.
const LIFETIME_SECONDS: u32 = 30;
/// For how long an early fragment waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// What part of the room for early fragments one origin may take.
const SHARE: usize = 4;
/// Bytes of early fragments for each that may wait.
const EARLY_BYTES: usize = 2048;

/// What the fragments of one packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Whole {
    origin: u32,
    src: [u8; 16],
    dst: [u8; 16],
    protocol: u8,
    id: u32,
}

impl Whole {
    fn of(packet: &Packet) -> Self {
        let key = packet.key();
        Self {
            origin: key.origin,
            src: key.ip_src,
            dst: key.ip_dst,
            protocol: key.ip_proto,
            id: packet.headers().fragment_id,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct First {
    l4_src: u16,
    l4_dst: u16,
    icmp_id: u16,
    seen: u32,
}

impl First {
    fn lend(&self, packet: &mut Packet) {
        let key = packet.key_mut();
        (key.l4_src, key.l4_dst, key.icmp_id) = (self.l4_src, self.l4_dst, self.icmp_id);
    }
}

#[derive(Debug)]
struct Early {
    whole: Whole,
    since: Now,
    packet: Packet,
}

/// A fragment that need not wait, and whether it goes on.
pub type Met = (Packet, Result<(), DropReason>);

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Packets whose first fragment was seen.
    pub firsts: usize,
    /// Later fragments that wait for their first.
    pub early: usize,
}

/// The packets whose first fragment was seen, and the fragments that came before theirs.
#[derive(Debug)]
pub struct Fragments {
    firsts: HashMap<Whole, First, foldhash::fast::FixedState>,
    order: VecDeque<Whole>,
    early: VecDeque<Early>,
    early_bytes: usize,
    room: Room,
}

impl Fragments {
    /// None yet. The seed keeps outsiders from choosing who meets where.
    pub fn new(room: Room, seed: u64) -> Self {
        let hasher = foldhash::fast::FixedState::with_seed(seed);
        Self {
            firsts: HashMap::with_capacity_and_hasher(room.firsts, hasher),
            order: VecDeque::with_capacity(room.firsts),
            early: VecDeque::new(),
            early_bytes: 0,
            room,
        }
    }

    /// Is there nothing to forget?
    pub fn is_empty(&self) -> bool {
        self.firsts.is_empty() && self.early.is_empty()
    }

    /// How many packets there are whose first fragment was seen.
    pub fn len(&self) -> usize {
        self.firsts.len()
    }

    /// How many fragments wait.
    pub fn waiting(&self) -> usize {
        self.early.len()
    }

    /// At which of these workers the fragments of a packet meet. Translation changes addresses, so a packet meets anew on each host.
    pub fn home(&self, packet: &Packet, workers: u16) -> WorkerId {
        let whole = Whole {
            origin: 0,
            ..Whole::of(packet)
        };
        let at = self.firsts.hasher().hash_one(whole) % u64::from(workers.max(1));
        WorkerId(u16::try_from(at).unwrap_or(0))
    }

    /// A fragment meets the others of its packet. Adds to `met` what need not wait: in order, a first one before those that waited
    /// for it.
    pub fn meet(&mut self, mut packet: Packet, now: Now, met: &mut Vec<Met>) {
        let whole = Whole::of(&packet);
        if packet.key().ip_frag == Fragment::First as u8 {
            let known = self.remember(whole, *packet.key(), now);
            met.push((packet, known.map(|_| ())));
            if let Ok(first) = known {
                self.release(&whole, &first, met);
            }
            return;
        }
        let first = self.firsts.get(&whole);
        match first.filter(|f| now.seconds().saturating_sub(f.seen) < LIFETIME_SECONDS) {
            Some(first) => {
                first.lend(&mut packet);
                met.push((packet, Ok(())));
            }
            None => self.wait(
                Early {
                    whole,
                    since: now,
                    packet,
                },
                met,
            ),
        }
    }

    fn remember(&mut self, whole: Whole, key: FlowKey, now: Now) -> Result<First, DropReason> {
        let first = First {
            l4_src: key.l4_src,
            l4_dst: key.l4_dst,
            icmp_id: key.icmp_id,
            seen: now.seconds(),
        };
        if let Some(there) = self.firsts.get_mut(&whole) {
            *there = first;
            return Ok(first);
        }
        if self.firsts.len() >= self.room.firsts {
            self.forget(now);
        }
        if self.firsts.len() >= self.room.firsts {
            let own = self.order.iter().position(|w| w.origin == whole.origin);
            let gone = own.and_then(|at| self.order.remove(at));
            let gone = gone.ok_or(DropReason::FragmentTableFull)?;
            self.firsts.remove(&gone);
        }
        self.order.push_back(whole);
        self.firsts.insert(whole, first);
        Ok(first)
    }

    /// Those that waited for this first one go behind it.
    fn release(&mut self, whole: &Whole, first: &First, met: &mut Vec<Met>) {
        let mut at = 0;
        while let Some(early) = self.early.get(at) {
            if early.whole != *whole {
                at += 1;
            } else if let Some(mut packet) = self.take(at) {
                first.lend(&mut packet);
                met.push((packet, Ok(())));
            }
        }
    }

    fn take(&mut self, at: usize) -> Option<Packet> {
        let early = self.early.remove(at)?;
        self.early_bytes = self.early_bytes.saturating_sub(early.packet.len());
        Some(early.packet)
    }

    fn wait(&mut self, early: Early, met: &mut Vec<Met>) {
        let full = Err(DropReason::FragmentTableFull);
        let (origin, bytes) = (early.whole.origin, early.packet.len());
        let (most, most_bytes) = (self.room.early, self.room.early * EARLY_BYTES);
        loop {
            let own = || self.early.iter().filter(|e| e.whole.origin == origin);
            let own_bytes: usize = own().map(|e| e.packet.len()).sum();
            let fits = own().count() < most.div_ceil(SHARE)
                && own_bytes + bytes <= most_bytes.div_ceil(SHARE)
                && self.early.len() < most
                && self.early_bytes + bytes <= most_bytes;
            if fits {
                break;
            }
            let oldest = self.early.iter().position(|e| e.whole.origin == origin);
            match oldest.and_then(|at| self.take(at)) {
                Some(gone) => met.push((gone, full)),
                None => return met.push((early.packet, full)),
            }
        }
        self.early_bytes += bytes;
        self.early.push_back(early);
    }

    /// Forgets what was waited for in vain, and gives up what waited in vain.
    pub fn expire(&mut self, now: Now, met: &mut Vec<Met>) {
        self.forget(now);
        let is_late = |e: &Early| now.since(e.since) >= PATIENCE;
        while self.early.front().is_some_and(is_late)
            && let Some(packet) = self.take(0)
        {
            met.push((packet, Err(DropReason::FragmentUnmatched)));
        }
    }

    /// Takes out all that waits: the switch is shutting down.
    pub fn drain(&mut self) -> impl Iterator<Item = Packet> + '_ {
        self.early_bytes = 0;
        self.early.drain(..).map(|e| e.packet)
    }

    /// A packet is listed once, when its first fragment is first seen.
    fn forget(&mut self, now: Now) {
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

    struct Rig {
        pool: PacketPool,
        fragments: Fragments,
        met: Vec<Met>,
    }

    fn rig(firsts: usize, early: usize) -> Rig {
        Rig {
            pool: PacketPool::new(64, 1),
            fragments: Fragments::new(Room { firsts, early }, 1),
            met: vec![],
        }
    }

    fn piece(v6: bool, id: u32, offset: u16) -> Vec<u8> {
        let udp = FrameBuilder::udp(v6, 1000, 53).payload(&[7; 64]);
        udp.fragment(id, offset, offset == 0).build()
    }

    impl Rig {
        /// What came of it: of each the ports, or why it does not go.
        fn meets(
            &mut self,
            frame: &[u8],
            port: u32,
            second: u64,
        ) -> Vec<Result<(u16, u16), DropReason>> {
            let mut p = self.pool.take(frame.len()).unwrap();
            p.fill(frame).unwrap();
            p.set_origin(Origin::Port(PortId(port)));
            p.parse().unwrap();
            self.fragments.meet(p, at(second), &mut self.met);
            self.came()
        }

        fn came(&mut self) -> Vec<Result<(u16, u16), DropReason>> {
            let mut came = vec![];
            for (packet, goes) in self.met.drain(..) {
                came.push(goes.map(|()| (packet.key().l4_src, packet.key().l4_dst)));
                self.pool.give(packet);
            }
            came
        }
    }

    fn at(second: u64) -> Now {
        Now::from_nanos(second * 1_000_000_000)
    }

    const PORTS: Result<(u16, u16), DropReason> = Ok((1000, 53));
    const FULL: Result<(u16, u16), DropReason> = Err(DropReason::FragmentTableFull);
    const LATE: Result<(u16, u16), DropReason> = Err(DropReason::FragmentUnmatched);

    #[test]
    fn later_fragments_are_lent_the_ports_of_the_first_and_early_ones_wait_for_it() {
        for v6 in [false, true] {
            let mut r = rig(2, 8);
            assert_eq!(r.meets(&piece(v6, 9, 17), 1, 0), []);
            assert_eq!(r.meets(&piece(v6, 9, 9), 1, 0), []);
            // Another port's fragments are another packet's.
            assert_eq!(r.meets(&piece(v6, 9, 9), 2, 0), []);
            assert_eq!(r.meets(&piece(v6, 9, 0), 1, 0), [PORTS; 3]);
            assert_eq!(r.meets(&piece(v6, 9, 25), 1, 1), [PORTS]);
            assert_eq!(r.fragments.waiting(), 1);
            // What is old is forgotten: who comes then waits for another first.
            assert_eq!(r.meets(&piece(v6, 9, 9), 1, 60), []);
        }
    }

    #[test]
    fn who_waits_in_vain_is_given_up() {
        let mut r = rig(2, 8);
        assert_eq!(r.meets(&piece(false, 9, 9), 1, 5), []);
        r.fragments.expire(at(5), &mut r.met);
        assert_eq!(r.came(), []);
        assert!(!r.fragments.is_empty());
        r.fragments.expire(at(6), &mut r.met);
        assert_eq!(r.came(), [LATE]);
        assert!(r.fragments.is_empty());
    }

    #[test]
    fn a_flooder_displaces_its_own() {
        let mut r = rig(3, 8);
        assert_eq!(r.meets(&piece(false, 1, 0), 1, 0), [PORTS]);
        for id in 0..20 {
            assert_eq!(r.meets(&piece(false, id, 0), 2, 0), [PORTS]);
        }
        assert_eq!(r.fragments.len(), 3);
        assert_eq!(r.meets(&piece(false, 1, 9), 1, 0), [PORTS]);
        assert_eq!(r.meets(&piece(false, 1, 0), 3, 0), [FULL]);
        // A quarter of the room is what one origin's early ones have.
        let mut r = rig(8, 8);
        assert_eq!(r.meets(&piece(false, 1, 9), 1, 0), []);
        for id in 0..20 {
            let came = r.meets(&piece(false, id, 9), 2, 0);
            assert_eq!(came.len(), usize::from(id >= 2), "its oldest goes");
            assert!(came.iter().all(|c| *c == FULL));
        }
        assert_eq!(r.fragments.waiting(), 3);
        assert_eq!(r.meets(&piece(false, 1, 0), 1, 0), [PORTS; 2]);
        assert_eq!(r.meets(&piece(false, 19, 0), 2, 0), [PORTS; 2]);
        // Whoever has none to displace is refused when the others have all the room.
        let mut r = rig(8, 2);
        for port in 1..=2 {
            assert_eq!(r.meets(&piece(false, 1, 9), port, 0), []);
        }
        assert_eq!(r.meets(&piece(false, 1, 9), 3, 0), [FULL]);
        assert_eq!(r.fragments.drain().count(), 2);
    }

    #[test]
    fn all_fragments_of_a_packet_have_one_home_and_packets_have_many() {
        let mut homes = std::collections::HashSet::new();
        for id in 0..64 {
            let mut r = rig(8, 8);
            let mut home = |offset, port| {
                let frame = piece(id % 2 == 1, id, offset);
                let mut p = r.pool.take(frame.len()).unwrap();
                p.fill(&frame).unwrap();
                p.set_origin(Origin::Port(PortId(port)));
                p.parse().unwrap();
                r.fragments.home(&p, 4)
            };
            assert_eq!(home(0, 1), home(9, 1));
            homes.insert(home(17, 1));
        }
        assert_eq!(homes.len(), 4);
    }
}
