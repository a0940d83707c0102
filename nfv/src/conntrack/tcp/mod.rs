//! Does this segment belong to its connection?
//!
//! A watcher's view of RFC 9293: the stages of both ends at once, and for each direction the highest sequence number sent
//! (`end`), the highest that the other end has made room for (`max_end`) and the largest window that it ever offered
//! (`room`, scaled). A segment belongs if it starts no higher than its receiver allows, ends no lower than a
//! retransmission could, and acknowledges nothing that was not sent.
//!
//! # Invariants
//! - Only a SYN alone begins a connection. Only a segment in its window moves it on.
//! - A segment that is refused changes nothing.
//!
//! # Attack
//! A blind reset must hit the receiver's next sequence number to end the connection (RFC 5961 §3.2); one that only falls
//! into the window passes, for the receiver to challenge, and puts the record in doubt until the ends go on. A SYN inside a
//! connection passes without effect, for the same reason (RFC 5961 §4.2).
//!
//! # References
//! RFC 9293 §3.4, §3.5, §3.10.7; RFC 7323 §2 (window scale); RFC 5961; G. van Rooij, Real Stateful TCP Packet Filtering in
//! IP Filter, 2000 (the four bounds).

use net::tcp::{TcpSegment, flag};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Side, Stage, Track, entry::State, machine::Timeouts};

/// What is known of one direction's sequence numbers.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Window {
    /// Behind the highest byte sent.
    end: u32,
    /// The highest sequence number that the receiver has allowed.
    max_end: u32,
    /// The largest window that this end has offered, rounded up to units of 16 KiB; 0: it has not spoken yet.
    room: u16,
    /// Half of the number that [`PENDING`] speaks of.
    pending: u16,
}

/// 65,535 of them are the largest window there is (RFC 7323 §2.3).
const ROOM_UNIT: u32 = 1 << 14;

impl Window {
    fn max_room(&self) -> u32 {
        u32::from(self.room) * ROOM_UNIT
    }

    fn offer(&mut self, window: u32) {
        let units = window.div_ceil(ROOM_UNIT).max(1);
        self.room = self.room.max(u16::try_from(units).unwrap_or(u16::MAX));
    }

    /// Where a segment may start at most. Once data has run over the window, what stands behind it (an ACK alone, say) starts
    /// there.
    fn highest_start(&self) -> u32 {
        if at_most(self.end, self.max_end) {
            self.max_end
        } else {
            self.end
        }
    }
}

/// An acknowledgment may lag this far behind what was sent, at least: an ACK that was delayed on its way is no attack.
const ACK_LAG: u32 = 66_000;

/// In `State::flags`, one bit for each side: its FIN was seen; its FIN was acknowledged; it sent what is not acknowledged.
const FIN: u8 = 0x01;
const FIN_ACKED: u8 = 0x04;
const UNACKED: u8 = 0x10;
/// A reset fell into the window, but not on its edge.
const DOUBT: u8 = 0x40;
/// The answer to the SYN was a bare ACK: its acknowledgment stands in the reply side's `end`.
const CHALLENGED: u8 = 0x80;
/// The same bit, once the connection is made: the initiator has sent a SYN inside it, and this number would answer that.
const PENDING: u8 = CHALLENGED;
/// In `State::scales`: this end offered no scaling.
const NO_SCALE: u8 = 15;

fn bit(of: u8, side: Side) -> u8 {
    of << side as u8
}

/// `a <= b` in sequence space (RFC 9293 §3.4).
fn at_most(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) < 1 << 31
}

fn scale(state: &State, side: Side) -> u8 {
    let nibble = match side {
        Side::Original => state.scales & 15,
        Side::Reply => state.scales >> 4,
    };
    if nibble == NO_SCALE { 0 } else { nibble }
}

fn set_scale(state: &mut State, side: Side, offered: Option<u8>) {
    let nibble = offered.map_or(NO_SCALE, |s| s.min(net::tcp::MAX_WINDOW_SCALE));
    state.scales = match side {
        Side::Original => state.scales & 0xf0 | nibble,
        Side::Reply => state.scales & 0x0f | nibble << 4,
    };
}

/// Both SYNs are known. Each names the room that the other end has (never scaled), and unless both offer scaling, neither
/// scales (RFC 7323 §2.2).
fn both_spoke(state: &mut State) {
    let [original, reply] = &mut state.windows;
    original.max_end = original.end.wrapping_add(reply.max_room());
    reply.max_end = reply.end.wrapping_add(original.max_room());
    if state.scales & 15 == NO_SCALE || state.scales >> 4 == NO_SCALE {
        state.scales = 0;
    }
}

/// A direction as its SYN shows it.
fn synchronize(state: &mut State, side: Side, syn: &TcpSegment) {
    let window = side.of_mut(&mut state.windows);
    *window = Window {
        end: syn.end(),
        // Until there is an answer the receiver allows the SYN alone; this is also what an answer must acknowledge at least.
        max_end: syn.seq.wrapping_add(1),
        ..Window::default()
    };
    window.offer(u32::from(syn.window));
    set_scale(state, side, syn.window_scale);
}

/// Begins a connection with a segment that [`begins`].
pub(super) fn begin(state: &mut State, segment: &TcpSegment) {
    synchronize(state, Side::Original, segment);
    state.set_stage(Stage::SynSent);
}

/// Only a SYN alone may begin a connection (RFC 9293 §3.5).
pub(super) fn begins(segment: &TcpSegment) -> bool {
    segment.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN
}

/// Judges a segment of `side`, and moves the connection on if it belongs.
pub(super) fn advance(state: &mut State, side: Side, segment: &TcpSegment) -> Track {
    let flags = segment.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN);
    // No stack marks as urgent what answers a SYN or resets: it is a probe.
    if segment.has(flag::URG) && (flags == flag::SYN | flag::ACK || flags & flag::RST != 0) {
        return Track::Invalid;
    }
    let belongs = match flags {
        flag::SYN if state.stage().is_over() => return Track::Renew,
        flag::SYN => on_syn(state, side, segment),
        // Both ends agree on a connection that is not this one: its end was not seen here. The SYN will come again.
        f if f == flag::SYN | flag::ACK && answers_pending(state, side, segment) => {
            return Track::Renew;
        }
        f if f == flag::SYN | flag::ACK => on_syn_ack(state, side, segment),
        f if f == flag::RST || f == flag::RST | flag::ACK => on_reset(state, side, segment),
        f if f == flag::ACK || f == flag::ACK | flag::FIN => on_ack(state, side, segment),
        // Anything else is dropped by every receiver in every state (RFC 9293 §3.10.7.4), or is a probe for weak ones.
        _ => false,
    };
    if belongs { Track::Ok } else { Track::Invalid }
}

/// Is it the SYN that is known already? It may come again with less data than the first time (RFC 7413 §4.2.2), or while data
/// has followed it.
fn is_known(syn: &TcpSegment, sent: &Window) -> bool {
    at_most(syn.end(), sent.end) && at_most(sent.end.wrapping_sub(ACK_LAG), syn.end())
}

fn on_syn(state: &mut State, side: Side, syn: &TcpSegment) -> bool {
    let sent = side.of(&state.windows);
    match (state.stage(), side) {
        // It gave up, and begins anew.
        (Stage::SynSent, Side::Original) if sent.max_end != syn.seq.wrapping_add(1) => {
            state.flags &= !CHALLENGED;
            synchronize(state, side, syn);
        }
        (Stage::SynReceived, _) if is_known(syn, sent) => {}
        // Both at once (RFC 9293 figure 7).
        (Stage::SynSent | Stage::SynReceived, Side::Reply) => {
            state.flags &= !CHALLENGED;
            synchronize(state, side, syn);
            both_spoke(state);
            state.set_stage(Stage::SynReceived);
        }
        // The same again.
        (Stage::SynSent, Side::Original) => {}
        // Whoever answers has nothing to begin.
        (_, Side::Reply) => return false,
        // Behind an answer, or inside a connection, its receiver answers with a challenge, and the record stays as it is, for the SYN may be
        // anybody's; or it has forgotten the connection, and answers with a SYN of its own.
        (_, Side::Original) => {
            state.flags |= PENDING;
            let [a, b, c, d] = syn.seq.wrapping_add(1).to_le_bytes();
            let [original, reply] = &mut state.windows;
            original.pending = u16::from_le_bytes([a, b]);
            reply.pending = u16::from_le_bytes([c, d]);
        }
    }
    true
}

fn answers_pending(state: &State, side: Side, segment: &TcpSegment) -> bool {
    let [original, reply] = &state.windows;
    let pending = u32::from(original.pending) | u32::from(reply.pending) << 16;
    side == Side::Reply
        && state.stage() >= Stage::SynReceived
        && state.flags & PENDING != 0
        && segment.ack == pending
}

fn on_syn_ack(state: &mut State, side: Side, segment: &TcpSegment) -> bool {
    let sent = *side.other().of(&state.windows);
    let stage = state.stage();
    // Sent again with another sequence number: a server that kept no state for the first (SYN cookies).
    let anew = stage == Stage::SynReceived
        && side == Side::Reply
        && !is_known(segment, side.of(&state.windows));
    let belongs = match (stage, side) {
        (Stage::SynSent, Side::Reply) => acknowledges_syn(&sent, segment.ack),
        (Stage::SynSent, Side::Original) => false,
        // Once the connection is made, its initiator has no SYN to answer.
        (_, Side::Original) if stage > Stage::SynReceived => false,
        _ if anew => {
            at_most(segment.ack, sent.end) && at_most(sent.end.wrapping_sub(ACK_LAG), segment.ack)
        }
        _ => return on_ack(state, side, segment),
    };
    if !belongs {
        return false;
    }
    state.flags &= !CHALLENGED;
    synchronize(state, side, segment);
    both_spoke(state);
    let sent = side.other().of_mut(&mut state.windows);
    sent.max_end = segment.ack.wrapping_add(u32::from(segment.window).max(1));
    state.set_stage(Stage::SynReceived);
    true
}

/// The answer may leave data in the SYN unacknowledged (RFC 7413 §3), never the SYN itself.
fn acknowledges_syn(sent: &Window, ack: u32) -> bool {
    at_most(sent.max_end, ack) && at_most(ack, sent.end)
}

fn on_reset(state: &mut State, side: Side, segment: &TcpSegment) -> bool {
    let sent = *side.of(&state.windows);
    if state.stage() == Stage::SynSent {
        let challenged = state.flags & CHALLENGED != 0;
        return match side {
            // It must acknowledge the SYN (RFC 9293 §3.10.7.3).
            Side::Reply => {
                let other = side.other().of(&state.windows);
                let valid = segment.has(flag::ACK) && acknowledges_syn(other, segment.ack);
                if valid {
                    state.set_stage(Stage::Closed);
                }
                valid
            }
            // The answer to a challenge ends the peer's old connection, not this one (RFC 9293 §3.5.1, figure 9).
            Side::Original if challenged && segment.seq == side.other().of(&state.windows).end => {
                true
            }
            Side::Original => {
                let valid = at_most(sent.max_end, segment.seq) && at_most(segment.seq, sent.end);
                if valid {
                    state.set_stage(Stage::Closed);
                }
                valid
            }
        };
    }
    let lowest = sent
        .end
        .wrapping_sub(side.other().of(&state.windows).max_room());
    if !at_most(lowest, segment.seq) || !at_most(segment.seq, sent.highest_start()) {
        return false;
    }
    // An end that has closed and gone resets what still comes, at the number that those acknowledge: its FIN's own, which its
    // receiver takes.
    let at_fin = state.flags & bit(FIN, side) != 0 && segment.seq == sent.end.wrapping_sub(1);
    if segment.seq == sent.end || at_fin {
        if !state.stage().is_over() {
            state.set_stage(Stage::Closed);
        }
    } else {
        state.flags |= DOUBT;
    }
    true
}

fn on_ack(state: &mut State, side: Side, segment: &TcpSegment) -> bool {
    if state.stage() == Stage::SynSent {
        // A peer that still has an old connection answers a SYN with a bare ACK (RFC 5961 §4.2).
        if side == Side::Original || segment.payload > 0 || segment.has(flag::FIN) {
            return false;
        }
        state.flags |= CHALLENGED;
        side.of_mut(&mut state.windows).end = segment.ack;
        return true;
    }
    match place(state, side, segment) {
        Place::Ahead => return false,
        Place::Behind => {}
        Place::Inside => {
            learn(state, side, segment);
            move_on(state, side, segment);
        }
    }
    true
}

/// Where a segment lies by the four bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Inside,
    /// What was sent or acknowledged long ago: its receiver answers it, or does nothing.
    Behind,
    /// What nobody has made room for, or acknowledges what was not sent.
    Ahead,
}

fn place(state: &State, side: Side, segment: &TcpSegment) -> Place {
    let sender = side.of(&state.windows);
    let receiver = side.other().of(&state.windows);
    let lag = sender.max_room().max(ACK_LAG);
    if !at_most(segment.seq, sender.highest_start()) || !at_most(segment.ack, receiver.end) {
        return Place::Ahead;
    }
    let inside = at_most(sender.end.wrapping_sub(receiver.max_room()), segment.end())
        && at_most(receiver.end.wrapping_sub(lag), segment.ack);
    if inside { Place::Inside } else { Place::Behind }
}

fn learn(state: &mut State, side: Side, segment: &TcpSegment) {
    let shift = if segment.has(flag::SYN) {
        0
    } else {
        scale(state, side)
    };
    let window = u32::from(segment.window) << shift;
    let end = segment.end();
    let mut flags = state.flags & !DOUBT;
    if side == Side::Reply {
        flags &= !PENDING;
    }
    let sender = side.of_mut(&mut state.windows);
    sender.offer(window);
    let allowed = sender.max_end;
    if !at_most(end, sender.end) {
        sender.end = end;
        flags |= bit(UNACKED, side);
    }
    let receiver = side.other().of_mut(&mut state.windows);
    if !at_most(end, allowed) {
        // It started inside and ran over: the receiver may take it, and its retransmission must not be refused.
        receiver.offer(
            receiver
                .max_room()
                .saturating_add(end.wrapping_sub(allowed)),
        );
    }
    // A closed window still takes a probe of one byte (RFC 9293 §3.8.6.1).
    let top = segment.ack.wrapping_add(window.max(1));
    if !at_most(top, receiver.max_end) {
        receiver.max_end = top;
    }
    if segment.ack == receiver.end {
        flags &= !bit(UNACKED, side.other());
    }
    state.flags = flags;
}

fn move_on(state: &mut State, side: Side, segment: &TcpSegment) {
    let stage = state.stage();
    if stage.is_over() {
        return;
    }
    if segment.has(flag::FIN) {
        state.flags |= bit(FIN, side);
    }
    let other = side.other();
    if state.flags & bit(FIN, other) != 0 && segment.ack == other.of(&state.windows).end {
        state.flags |= bit(FIN_ACKED, other);
    }
    let fins = state.flags & (bit(FIN, Side::Original) | bit(FIN, Side::Reply));
    let acked = state.flags & (bit(FIN_ACKED, Side::Original) | bit(FIN_ACKED, Side::Reply));
    let next = match (fins.count_ones(), acked.count_ones()) {
        // The third step of the handshake is the initiator's.
        (0, _) if stage == Stage::SynReceived && side == Side::Reply => stage,
        (0, _) => Stage::Established,
        (1, 0) => Stage::FinWait,
        (1, _) => Stage::CloseWait,
        (_, 2) => Stage::TimeWait,
        _ => Stage::LastAck,
    };
    state.set_stage(next);
}

/// Can `seq` be that of a packet which this side has sent, and which an ICMP error now quotes (RFC 5927 §4.1)?
pub(super) fn has_sent(state: &State, side: Side, seq: u32) -> bool {
    let sent = side.of(&state.windows);
    let back = side.other().of(&state.windows).max_room().max(ACK_LAG);
    at_most(sent.end.wrapping_sub(back), seq) && at_most(seq, sent.end)
}

pub(super) fn timeout(state: &State, t: &Timeouts) -> u32 {
    let waits =
        state.flags & (bit(UNACKED, Side::Original) | bit(UNACKED, Side::Reply) | DOUBT) != 0;
    match state.stage() {
        Stage::SynSent => t.tcp_syn_sent,
        Stage::SynReceived => t.tcp_syn_received,
        Stage::Established if waits => t.tcp_unacknowledged.min(t.tcp_established),
        Stage::Established => t.tcp_established,
        Stage::FinWait => t.tcp_fin_wait,
        Stage::CloseWait => t.tcp_close_wait,
        Stage::LastAck => t.tcp_last_ack,
        Stage::TimeWait => t.tcp_time_wait,
        Stage::Closed | Stage::Free | Stage::New | Stage::Replied => t.tcp_closed,
    }
}

#[cfg(test)]
mod honest;
#[cfg(test)]
mod tests;
