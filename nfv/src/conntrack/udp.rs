//! Was a datagram answered?
//!
//! UDP, SCTP and every protocol that is known by its addresses alone: a connection is new until a packet comes back. (SCTP's
//! own association machine has more stages; its heartbeats keep the record alive, RFC 9260 §8.3.)

use net::flow_key::proto;

use super::{Side, Stage, Track, entry::State, machine::Timeouts};

pub(super) fn begin(state: &mut State) {
    state.set_stage(Stage::New);
}

pub(super) fn advance(state: &mut State, side: Side) -> Track {
    if side == Side::Reply {
        state.set_stage(Stage::Replied);
    }
    Track::Ok
}

pub(super) fn timeout(protocol: u8, replied: bool, t: &Timeouts) -> u32 {
    match (protocol, replied) {
        (proto::UDP, false) => t.udp_new,
        (proto::UDP, true) => t.udp_replied,
        (proto::ICMP | proto::ICMP6, _) => t.icmp,
        (proto::SCTP, false) => t.sctp_new,
        (proto::SCTP, true) => t.sctp_replied,
        (_, false) => t.other_new,
        (_, true) => t.other_replied,
    }
}
