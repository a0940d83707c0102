//! What do the machines of the protocols have in common?
//!
//! What they are told of a packet ([`TrackInput`]), what they answer ([`Track`]), and how long a connection may be silent in
//! each stage ([`Timeouts`]).

use net::{L4, Packet, TcpSegment, tcp};

use super::{Side, Stage, entry::Entry, icmp, partial, tcp as machine_tcp, udp};

/// What a machine is told of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackInput {
    /// A TCP segment.
    Tcp(TcpSegment),
    /// An ICMP message of this type.
    Icmp(u8),
    /// An ICMPv6 message of this type.
    Icmp6(u8),
    /// A packet of a protocol that is known by its tuple alone (UDP, SCTP, any other).
    Datagram,
    /// A later fragment: it shows no transport header, and belongs if its tuple does.
    Fragment,
}

impl TrackInput {
    /// Reads it from a parsed packet.
    pub fn of(packet: &Packet) -> Self {
        Self::read(packet.bytes(), packet.headers(), packet.key())
    }

    /// Reads it from a frame and what its parser found.
    pub fn read(frame: &[u8], headers: &net::Headers, key: &net::FlowKey) -> Self {
        let kind = key.l4_src.to_le_bytes()[0];
        match headers.l4 {
            _ if tcp::is_later_fragment(key) => Self::Fragment,
            L4::Tcp => TcpSegment::read(frame, headers).map_or(Self::Fragment, Self::Tcp),
            L4::Icmp => Self::Icmp(kind),
            L4::Icmp6 => Self::Icmp6(kind),
            L4::Udp | L4::Sctp | L4::Other => Self::Datagram,
        }
    }

    /// Can it begin a connection?
    pub fn begins(&self) -> Begin {
        match self {
            Self::Tcp(s) if machine_tcp::begins(s) => Begin::Tracked,
            Self::Tcp(_) | Self::Fragment => Begin::Invalid,
            Self::Icmp(kind) => icmp::begins(false, *kind),
            Self::Icmp6(kind) => icmp::begins(true, *kind),
            Self::Datagram => Begin::Tracked,
        }
    }
}

/// Can a packet begin a connection?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// It can, and is then tracked.
    Tracked,
    /// It is a message that stands alone (Neighbor Discovery, multicast listeners): judged, but not tracked.
    Untracked,
    /// It can't: it speaks of a connection that is not there.
    Invalid,
}

/// What a machine says of a packet of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Track {
    /// It belongs, and was counted.
    Ok,
    /// It does not belong; nothing was changed or counted.
    Invalid,
    /// It belongs to another connection in place of this one, which is over (or, with ICMP, was asked from the other end): close
    /// the record, and judge the packet as a first one. Nothing was changed or counted.
    Renew,
}

/// Seconds that a connection may be silent. The defaults are what Linux's tracking uses, but where a reason is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "protocol and stage are the names")]
pub struct Timeouts {
    pub tcp_syn_sent: u32,
    pub tcp_syn_received: u32,
    pub tcp_established: u32,
    pub tcp_unacknowledged: u32,
    pub tcp_fin_wait: u32,
    pub tcp_close_wait: u32,
    pub tcp_last_ack: u32,
    pub tcp_time_wait: u32,
    pub tcp_closed: u32,
    pub udp_new: u32,
    pub udp_replied: u32,
    pub icmp: u32,
    pub sctp_new: u32,
    pub sctp_replied: u32,
    pub other_new: u32,
    pub other_replied: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_sent: 120,
            tcp_syn_received: 60,
            // Not five days: what died without a word would fill a port's limit for a week. Twelve hours are six of the keepalives
            // that RFC 9293 §3.8.4 proposes, and a night.
            tcp_established: 12 * 3600,
            // Longer than the pause between two retransmissions (RFC 6298 §2.5 lets it be bounded at 60 s; Linux has 120 s).
            tcp_unacknowledged: 300,
            tcp_fin_wait: 120,
            // Not one minute: RFC 5382 REQ-5 asks for four, for ends that still send after the other's FIN.
            tcp_close_wait: 240,
            tcp_last_ack: 30,
            tcp_time_wait: 120,
            tcp_closed: 10,
            udp_new: 30,
            udp_replied: 180,
            icmp: 30,
            sctp_new: 30,
            // Seven heartbeats (RFC 9260 §15).
            sctp_replied: 210,
            other_new: 60,
            other_replied: 600,
        }
    }
}

impl Timeouts {
    /// The seconds that this connection may be silent.
    pub fn of(&self, entry: &Entry) -> u32 {
        let stage = entry.stage();
        if stage.is_tcp() {
            machine_tcp::timeout(&entry.state, self)
        } else if entry.protocol() == net::flow_key::proto::TCP {
            partial::timeout(&entry.state, self)
        } else {
            udp::timeout(entry.protocol(), stage == Stage::Replied, self)
        }
    }
}

/// Begins the connection in `entry`; `false` when the packet can't. `whole`: are all packets of TCP seen here?
pub(super) fn begin(entry: &mut Entry, input: &TrackInput, whole: bool) -> bool {
    let tracked = input.begins() == Begin::Tracked;
    match input {
        TrackInput::Tcp(s) if !whole => {
            partial::begin(&mut entry.state, s);
            return true;
        }
        _ if !tracked => {}
        TrackInput::Tcp(s) => machine_tcp::begin(&mut entry.state, s),
        TrackInput::Icmp(_)
        | TrackInput::Icmp6(_)
        | TrackInput::Datagram
        | TrackInput::Fragment => udp::begin(&mut entry.state),
    }
    tracked
}

/// Judges a packet of `side`, and moves the connection on.
pub(super) fn advance(entry: &mut Entry, side: Side, input: &TrackInput) -> Track {
    let tcp = entry.stage().is_tcp();
    match input {
        TrackInput::Tcp(s) if tcp => machine_tcp::advance(&mut entry.state, side, s),
        TrackInput::Icmp(kind) => icmp::advance(&mut entry.state, side, false, *kind),
        TrackInput::Icmp6(kind) => icmp::advance(&mut entry.state, side, true, *kind),
        TrackInput::Datagram if !tcp => udp::advance(&mut entry.state, side),
        TrackInput::Fragment => Track::Ok,
        TrackInput::Tcp(s) if entry.protocol() == net::flow_key::proto::TCP => {
            partial::advance(&mut entry.state, s)
        }
        // The tuple's protocol and what was read of the packet differ: the caller mixed two packets up.
        TrackInput::Tcp(_) | TrackInput::Datagram => Track::Invalid,
    }
}
