//! What is known of one connection?
//!
//! 192 bytes, three cache lines, without pointers: what packets of either direction show ([`SideEntry`], twice) and the
//! state of the protocol. The layout is that of the shared mapping that outlives the process, so it is part of the format:
//! whoever changes it gives the mapping a new name.
//!
//! # Invariants
//! - [`Stage::Free`] and all zero bytes: no connection.
//! - The two sides have one protocol; the seal agrees with what never changes.
//!
//! # Attack
//! The bytes may come from a process that died in the middle of a write, or from whoever can write the mapping: nothing in
//! them is used as an index, and an entry that contradicts itself is cleared when the table is opened.

use std::fmt;

use net::{FiveTuple, Mac, PortId, Zone};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::tcp::Window;
use crate::{function::Binding, inspect::Digest};

/// Which of the two directions: that of the first packet, or that of the replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Side {
    /// The direction of the connection's first packet.
    Original = 0,
    /// The direction of the replies.
    Reply = 1,
}

impl Side {
    /// Both, in order.
    pub const BOTH: [Self; 2] = [Self::Original, Self::Reply];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }

    pub(crate) fn of<T>(self, pair: &[T; 2]) -> &T {
        let [original, reply] = pair;
        match self {
            Self::Original => original,
            Self::Reply => reply,
        }
    }

    pub(super) fn of_mut<T>(self, pair: &mut [T; 2]) -> &mut T {
        let [original, reply] = pair;
        match self {
            Self::Original => original,
            Self::Reply => reply,
        }
    }
}

/// Where the packets of one side enter the switch: its Ethernet source alone does not say, since a port without port security may show
/// any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Entrance {
    /// It was not noted.
    #[default]
    Unknown = 0,
    /// At the port whose zone it has.
    Port = 1,
    /// From a tunnel.
    Tunnel = 2,
}

/// The bits of [`SideEntry::entrance`] that say where packets enter.
const ENTRANCE: u32 = 3;
/// The bit of the original side's that says that an inspector ended the connection.
const CONDEMNED: u32 = 4;
/// Where the digest of an inspector begins that cleared the connection: one in each side's.
const CLEARED: u32 = 32 - Digest::BITS;

/// What inspectors said of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inspected {
    /// One of them ended it.
    pub condemned: bool,
    /// Whose digests ([`Digest::number`]) need to see no more of it; 0: nobody's.
    pub cleared: [u32; 2],
}

impl Inspected {
    /// May it go on unread by these inspectors? 0 is nobody.
    pub fn passes(&self, by: [u32; 2]) -> bool {
        !self.condemned && by.iter().all(|one| self.is_cleared(*one))
    }

    /// Needs this inspector to see no more of it?
    pub fn is_cleared(&self, by: u32) -> bool {
        by == 0 || self.cleared.contains(&by)
    }

    /// This inspector needs to see no more of it; what others said who are not asked any more makes way.
    pub fn clear(&mut self, by: u32, asked: [u32; 2]) {
        if !self.is_cleared(by) {
            let mut slots = self.cleared.iter_mut();
            if let Some(slot) = slots.find(|slot| **slot == 0 || !asked.contains(slot)) {
                *slot = by;
            }
        }
    }
}

impl Entrance {
    const fn of(word: u32) -> Self {
        match word & ENTRANCE {
            1 => Self::Port,
            2 => Self::Tunnel,
            _ => Self::Unknown,
        }
    }
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stage {
    /// No connection.
    Free = 0,
    /// TCP: a SYN was seen.
    SynSent = 1,
    /// TCP: the SYN was answered by another.
    SynReceived = 2,
    /// TCP: the handshake is complete.
    Established = 3,
    /// TCP: one end has sent its FIN.
    FinWait = 4,
    /// TCP: the first FIN was acknowledged; the other end still sends.
    CloseWait = 5,
    /// TCP: both ends have sent their FIN.
    LastAck = 6,
    /// TCP: both FINs were acknowledged.
    TimeWait = 7,
    /// TCP: reset.
    Closed = 8,
    /// Any other protocol: no reply yet. TCP in part: nothing but a SYN yet, or a FIN or reset was seen.
    New = 16,
    /// Any other protocol: there were packets both ways. TCP in part: it goes on.
    Replied = 17,
}

impl Stage {
    const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Free,
            1 => Self::SynSent,
            2 => Self::SynReceived,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Closed,
            16 => Self::New,
            17 => Self::Replied,
            _ => return None,
        })
    }

    /// The name in dumps.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::FinWait => "fin_wait",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::TimeWait => "time_wait",
            Self::Closed => "closed",
            Self::New => "new",
            Self::Replied => "replied",
        }
    }

    /// Half open or over: the first to go when there is no room.
    pub const fn is_expendable(self) -> bool {
        matches!(
            self,
            Self::SynSent | Self::SynReceived | Self::TimeWait | Self::Closed | Self::New
        )
    }

    /// Over: it only waits for stray packets.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Closed)
    }

    /// Is it a stage of TCP's machine?
    pub const fn is_tcp(self) -> bool {
        !matches!(self, Self::Free | Self::New | Self::Replied)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What packets of one direction show when they enter, and what is done with them.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct SideEntry {
    pub(super) tuple: FiveTuple,
    pub(super) zone: u32,
    eth_src: [u8; 6],
    eth_dst: [u8; 6],
    pub(super) program: u32,
    entrance: u32,
}

impl SideEntry {
    /// `program` is the number of the compiled flow for this direction.
    pub fn new(
        (zone, tuple): (Zone, FiveTuple),
        (eth_src, eth_dst): (Mac, Mac),
        program: u32,
        entrance: Entrance,
    ) -> Self {
        Self {
            tuple,
            zone: zone.0,
            eth_src: eth_src.octets(),
            eth_dst: eth_dst.octets(),
            program,
            entrance: entrance as u32,
        }
    }

    /// Is this its key?
    pub(super) fn is(&self, zone: Zone, tuple: &FiveTuple) -> bool {
        self.zone == zone.0 && self.tuple == *tuple
    }

    /// The zone in which the tuple is looked up.
    pub fn zone(&self) -> Zone {
        Zone(self.zone)
    }

    /// The tuple as packets of this direction show it when they enter.
    pub fn tuple(&self) -> &FiveTuple {
        &self.tuple
    }

    /// The Ethernet source of its packets.
    pub fn eth_src(&self) -> Mac {
        Mac::new(self.eth_src)
    }

    /// The Ethernet destination of its packets.
    pub fn eth_dst(&self) -> Mac {
        Mac::new(self.eth_dst)
    }

    pub(super) fn set_ethernet(&mut self, src: Mac, dst: Mac) {
        (self.eth_src, self.eth_dst) = (src.octets(), dst.octets());
    }

    pub(super) fn set_entrance(&mut self, entrance: Entrance) {
        self.entrance = self.entrance & !ENTRANCE | entrance as u32;
    }

    /// The number of its compiled flow.
    pub fn program(&self) -> u32 {
        self.program
    }

    /// Where its packets enter.
    pub fn entrance(&self) -> Entrance {
        Entrance::of(self.entrance)
    }
}

impl fmt::Debug for SideEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "zone {} {} program {}",
            self.zone, self.tuple, self.program
        )
    }
}

const BYTES_BITS: u32 = 52;
const BYTES_MAX: u64 = (1 << BYTES_BITS) - 1;
const PACKETS_MAX: u64 = (1 << 44) - 1;

/// The state that both directions share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct State {
    stage: u8,
    pub(super) flags: u8,
    pub(super) scales: u8,
    pub(super) seal: u8,
    pub(super) seen: u32,
    port: u32,
    project: u32,
    // A direction's bytes in the low 52 bits (4.5 PB), the high 12 bits of its packets above.
    bytes: [u64; 2],
    // The low 32 bits of its packets (44 in all).
    packets: [u32; 2],
    pub(super) windows: [Window; 2],
}

impl State {
    pub(super) fn stage(&self) -> Stage {
        Stage::of(self.stage).unwrap_or(Stage::Free)
    }

    pub(super) fn set_stage(&mut self, stage: Stage) {
        self.stage = stage as u8;
    }

    /// Counts; a counter that is full stays at its end.
    pub(super) fn count(&mut self, side: Side, segments: u32, bytes: u64) {
        let packets = (self.packets(side) + u64::from(segments)).min(PACKETS_MAX);
        let bytes = self.bytes(side).saturating_add(bytes).min(BYTES_MAX);
        *side.of_mut(&mut self.bytes) = bytes | ((packets >> 32) << BYTES_BITS);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low half; the high bits went above"
        )]
        let low = packets as u32;
        *side.of_mut(&mut self.packets) = low;
    }

    fn packets(&self, side: Side) -> u64 {
        (*side.of(&self.bytes) >> BYTES_BITS << 32) | u64::from(*side.of(&self.packets))
    }

    fn bytes(&self, side: Side) -> u64 {
        *side.of(&self.bytes) & BYTES_MAX
    }
}

/// A connection: two sides and a state.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Entry {
    pub(super) sides: [SideEntry; 2],
    pub(super) state: State,
}

const _: () = assert!(size_of::<Entry>() == 192 && size_of::<SideEntry>() == 64);

impl Default for Entry {
    fn default() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

impl Entry {
    pub(super) fn new(sides: [SideEntry; 2], port: PortId, project: u32) -> Self {
        let mut entry = Self {
            sides,
            ..Self::default()
        };
        entry.state.port = port.0;
        entry.state.project = project;
        entry.state.seal = entry.seal();
        entry
    }

    /// Agrees with what never changes while the entry lives: a write that was cut short is found with 255 chances in 256.
    pub(super) fn seal(&self) -> u8 {
        let mut sum = 0x9e37_79b9_7f4a_7c15_u64;
        let mut mix = |word: u64| {
            sum = (sum ^ word)
                .wrapping_mul(0xff51_afd7_ed55_8ccd)
                .rotate_left(29);
        };
        for side in &self.sides {
            let tuple = side.tuple.as_bytes().chunks_exact(8);
            for word in tuple.filter_map(|c| c.first_chunk::<8>()) {
                mix(u64::from_le_bytes(*word));
            }
            mix(u64::from(side.zone));
        }
        mix(u64::from(self.state.port) << 32 | u64::from(self.state.project));
        sum.to_le_bytes().iter().fold(0, |a, b| a ^ b)
    }

    /// Is there a connection, and does it not contradict itself?
    pub(super) fn is_sound(&self) -> bool {
        let [a, b] = &self.sides;
        let tcp = a.tuple.proto == net::flow_key::proto::TCP;
        Stage::of(self.state.stage).is_some_and(|s| s != Stage::Free && (tcp || !s.is_tcp()))
            && a.tuple.proto == b.tuple.proto
            && [a, b].iter().all(|s| s.tuple.reserved == [0; 2])
            && self.state.seal == self.seal()
    }

    /// Is there no connection?
    pub fn is_free(&self) -> bool {
        self.state.stage == Stage::Free as u8
    }

    /// One of its sides.
    pub fn side(&self, side: Side) -> &SideEntry {
        side.of(&self.sides)
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        self.state.stage()
    }

    /// Its IP protocol.
    pub fn protocol(&self) -> u8 {
        self.side(Side::Original).tuple.proto
    }

    /// The tuple that packets of this side have when they leave: the reverse of what the other side shows.
    pub fn translated(&self, side: Side) -> FiveTuple {
        self.side(side.other()).tuple.reversed()
    }

    /// Where its original direction was translated to; `None` where nothing is.
    pub fn binding(&self) -> Option<Binding> {
        let to = self.translated(Side::Original);
        (to != self.side(Side::Original).tuple).then(|| Binding {
            dst: (to.dst_addr(), to.dst_port),
            src: (to.src_addr(), to.src_port),
        })
    }

    /// What inspectors said of it.
    pub fn inspected(&self) -> Inspected {
        let [original, reply] = &self.sides;
        Inspected {
            condemned: original.entrance & CONDEMNED != 0,
            cleared: [original.entrance >> CLEARED, reply.entrance >> CLEARED],
        }
    }

    pub(super) fn set_inspected(&mut self, said: Inspected) {
        for (side, cleared) in self.sides.iter_mut().zip(said.cleared) {
            side.entrance = side.entrance & ENTRANCE | cleared << CLEARED;
        }
        let [original, _] = &mut self.sides;
        if said.condemned {
            original.entrance |= CONDEMNED;
        }
    }

    /// The port that it counts for.
    pub fn port(&self) -> PortId {
        PortId(self.state.port)
    }

    /// The project that it counts for: the agent's number of it.
    pub fn project(&self) -> u32 {
        self.state.project
    }

    /// Packets of one direction, each segment of a super-frame its own.
    pub fn packets(&self, side: Side) -> u64 {
        self.state.packets(side)
    }

    /// Bytes of one direction.
    pub fn bytes(&self, side: Side) -> u64 {
        self.state.bytes(side)
    }

    /// The second ([`net::Now::seconds`]) in which a packet of it was last seen.
    pub fn seen_second(&self) -> u32 {
        self.state.seen
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = &self.sides;
        write!(
            f,
            "{} [{a:?}] [{b:?}] port {}",
            self.stage(),
            self.state.port
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_carry_over_their_halves_and_stop_at_their_end() {
        let mut e = Entry::default();
        e.state.count(Side::Reply, u32::MAX, BYTES_MAX - 5);
        e.state.count(Side::Reply, 2, 3);
        assert_eq!(e.packets(Side::Reply), u64::from(u32::MAX) + 2);
        assert_eq!(e.bytes(Side::Reply), BYTES_MAX - 2);
        e.state.count(Side::Reply, 1, 100);
        assert_eq!(e.bytes(Side::Reply), BYTES_MAX);
        assert_eq!(e.packets(Side::Reply), u64::from(u32::MAX) + 3);
        assert_eq!((e.packets(Side::Original), e.bytes(Side::Original)), (0, 0));
    }

    #[test]
    fn what_inspectors_said_and_where_packets_enter_do_not_meet() {
        let mut e = Entry::default();
        let [a, b, c] = [1, (1 << Digest::BITS) - 1, 0x0abc_def0];
        let mut said = Inspected::default();
        assert!(said.passes([0, 0]) && !said.passes([a, 0]));
        said.clear(a, [a, b]);
        assert!(said.passes([a, 0]) && !said.passes([a, b]));
        said.clear(b, [a, b]);
        assert!(said.passes([b, a]));
        for condemned in [false, true] {
            said.condemned = condemned;
            e.sides[0].set_entrance(Entrance::Port);
            e.set_inspected(said);
            e.sides[0].set_entrance(Entrance::Tunnel);
            e.sides[1].set_entrance(Entrance::Port);
            assert_eq!(e.inspected(), said);
            assert_eq!(
                e.sides.map(|side| side.entrance()),
                [Entrance::Tunnel, Entrance::Port]
            );
            assert_eq!(said.passes([b, a]), !condemned);
        }
        // Where nobody asks the first any more, another has its place; and while both are asked a third has none.
        said = Inspected {
            condemned: false,
            ..said
        };
        said.clear(c, [a, b]);
        assert!(!said.is_cleared(c));
        said.clear(c, [b, c]);
        assert!(said.passes([c, b]) && !said.is_cleared(a));
    }

    #[test]
    fn zero_bytes_are_no_connection_and_no_sound_one() {
        let e = Entry::default();
        assert!(e.is_free() && !e.is_sound());
        assert!(e.as_bytes().iter().all(|b| *b == 0));
    }
}
