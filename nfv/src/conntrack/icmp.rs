//! Which ICMP messages are a conversation?
//!
//! Queries with an identifier, and their replies. Errors belong to the connection that they quote; what remains (Neighbor
//! Discovery, multicast listeners, router discovery) has no connection and is judged packet by packet.
//!
//! # Attack
//! A reply that nobody asked for begins nothing. A query from the answering side is a conversation of its own: it is judged
//! anew, even if its identifier is the same (Windows uses 1 for every ping).
//!
//! # References
//! RFC 792, RFC 950, RFC 4443 §4, RFC 4861 §4, RFC 2710, RFC 3810.

use super::{Side, Stage, Track, entry::State, machine::Begin};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Query,
    Reply,
    Error,
    Lone,
}

fn role4(kind: u8) -> Role {
    match kind {
        // Echo, timestamp, information, address mask.
        8 | 13 | 15 | 17 => Role::Query,
        0 | 14 | 16 | 18 => Role::Reply,
        3 | 4 | 5 | 11 | 12 => Role::Error,
        _ => Role::Lone,
    }
}

fn role6(kind: u8) -> Role {
    match kind {
        128 => Role::Query,
        129 => Role::Reply,
        0..=127 => Role::Error,
        _ => Role::Lone,
    }
}

fn role(v6: bool, kind: u8) -> Role {
    if v6 { role6(kind) } else { role4(kind) }
}

pub(super) fn begins(v6: bool, kind: u8) -> Begin {
    match role(v6, kind) {
        Role::Query => Begin::Tracked,
        Role::Lone => Begin::Untracked,
        Role::Reply | Role::Error => Begin::Invalid,
    }
}

pub(super) fn advance(state: &mut State, side: Side, v6: bool, kind: u8) -> Track {
    match (role(v6, kind), side) {
        (Role::Query, Side::Original) => Track::Ok,
        (Role::Query, Side::Reply) => Track::Renew,
        (Role::Reply, Side::Reply) => {
            state.set_stage(Stage::Replied);
            Track::Ok
        }
        (Role::Reply, Side::Original) | (Role::Error | Role::Lone, _) => Track::Invalid,
    }
}
