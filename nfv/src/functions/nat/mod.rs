//! Which addresses does a connection have outside?
//!
//! Three things, in this order. What comes to one of its addresses is forwarded: by port, or whole to the workload that has the
//! address for itself (a static one); a client that is known there by its port already, since it came to another port that leads
//! to the same, gets another one. What such a workload sends comes from its address, ports kept. What others send comes from one
//! of the addresses that hide them, with a port that no other connection to the same end has there.
//!
//! # Choosing
//! A client has one address as long as there is room at it (RFC 4787 REQ-2; rendezvous hashing, so that another address moves few).
//! Each host has its own part of the ports, so that two hosts never give out the same one; within it the client's own port is kept
//! where it is free, and otherwise looked for from a place that nobody foresees, first among those whose replies come to this very
//! worker. A port is free when no other connection to the same end has it: so each end's answers are as many as there are ports.
//!
//! # Invariants
//! - A connection that is judged again keeps its source as long as that is the NAT's, and has none if it began without.
//! - No two connections have the same source, destination and protocol outside.
//!
//! # Cost
//! On the first packet of a connection alone: at most [`LOOKS`] looks into the table of sources and [`STEPS`] hashes an address.
//!
//! # References
//! RFC 4787, RFC 5382 (mapping is by both ends; ports are never shared), RFC 5508 (identifiers of queries), RFC 6888.

mod build;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr};

use net::{
    DropReason, FiveTuple, Id, PortRange, Prefix, Probe,
    flow_key::{addr_bytes, proto},
    ids::kind,
};
use smallvec::SmallVec;

pub use build::{MAX_ADDRESSES, MAX_FORWARDS, MAX_HOSTS, NatFault};

use crate::{
    function::{Binding, Context, Decision, NetworkFunction},
    keyed_hash::KeyedHash,
};

/// The most looks into the table of sources for one connection at one address.
pub const LOOKS: u32 = 64;
/// The most ports considered for one connection at one address.
pub const STEPS: u32 = 1024;
/// The most addresses that are tried for one connection.
const TRIED: usize = 4;

/// A NAT.
#[derive(Debug)]
pub struct Nat {
    own: BTreeMap<IpAddr, Address>,
    sources: Vec<Prefix>,
    ports: PortRange,
    hosts: u16,
    client_limit: u32,
    forwards: BTreeMap<(IpAddr, u8, u16), Forward>,
    outside: BTreeMap<IpAddr, IpAddr>,
}

#[derive(Debug)]
struct Address {
    port: Id<kind::Port>,
    network: Id<kind::Network>,
    hides: bool,
    /// Whose it is alone.
    inside: Option<Target>,
}

#[derive(Debug, Clone, Copy)]
struct Target {
    addr: IpAddr,
    member: Id<kind::Port>,
}

/// By the last of its ports: ranges do not overlap.
#[derive(Debug, Clone, Copy)]
struct Forward {
    first: u16,
    to: Target,
    to_port: u16,
    /// Do all ports go to that one? Replies find their way back by the record.
    to_one: bool,
}

impl Forward {
    /// The server's port for one of the forwarded.
    const fn port(self, port: u16) -> u16 {
        if self.to_one {
            self.to_port
        } else {
            self.to_port + (port - self.first)
        }
    }
}

/// Which kind of source a protocol has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A port.
    Port,
    /// The identifier of an ICMP query.
    Query,
    /// An address alone.
    Address,
    /// Nothing that could be translated: an ICMP message that is no query stands alone, or belongs to what it quotes.
    None,
}

impl Kind {
    fn of(tuple: &FiveTuple) -> Self {
        match tuple.proto {
            proto::TCP | proto::UDP | proto::SCTP => Self::Port,
            proto::ICMP | proto::ICMP6 if tuple.role == 1 => Self::Query,
            proto::ICMP | proto::ICMP6 => Self::None,
            _ => Self::Address,
        }
    }
}

/// What a connection shows outside with this source.
fn hidden(tuple: &FiveTuple, addr: IpAddr, port: u16) -> FiveTuple {
    let dst_port = match Kind::of(tuple) {
        Kind::Query => port,
        Kind::Port | Kind::Address | Kind::None => tuple.dst_port,
    };
    FiveTuple {
        src: addr_bytes(addr),
        src_port: port,
        dst_port,
        ..*tuple
    }
}

/// Addresses that mean one link, or none at all.
fn is_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_link_local() || a.is_unspecified() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_unicast_link_local() || a.is_unspecified(),
    }
}

impl Address {
    /// Do answers to it find the home of a connection?
    fn is_reached(&self, cx: &Context<'_>) -> bool {
        cx.network.is_none_or(|network| network == self.network)
    }

    /// May it hide a source of this family?
    fn may_hide(&self, addr: IpAddr, client: IpAddr, cx: &Context<'_>) -> bool {
        self.hides && addr.is_ipv4() == client.is_ipv4() && self.is_reached(cx)
    }
}

impl Nat {
    /// Who has what comes to an address of the NAT, and at which port.
    fn target(&self, tuple: &FiveTuple) -> Option<(Target, u16)> {
        let addr = tuple.dst_addr();
        if let Some(to) = self.own.get(&addr).and_then(|a| a.inside) {
            return (Kind::of(tuple) != Kind::None).then_some((to, tuple.dst_port));
        }
        let port = tuple.dst_port;
        let from = (addr, tuple.proto, port);
        let ((there, protocol, _), forward) = self.forwards.range(from..).next()?;
        let is_for = (*there, *protocol) == (addr, tuple.proto) && forward.first <= port;
        is_for.then(|| (forward.to, forward.port(port)))
    }

    fn arriving(
        &self,
        tuple: &FiveTuple,
        cx: &Context<'_>,
        note: &mut dyn FnMut(std::fmt::Arguments<'_>),
    ) -> Decision {
        let addr = tuple.dst_addr();
        let Some((to, port)) = self.target(tuple) else {
            note(format_args!("nothing is forwarded from {addr} for it"));
            return Decision::Pass;
        };
        let hairpin = tuple.src_addr() == to.addr;
        let sent = FiveTuple {
            src: if hairpin { tuple.dst } else { tuple.src },
            dst: addr_bytes(to.addr),
            dst_port: port,
            ..*tuple
        };
        note(format_args!(
            "destination {} becomes {}{}",
            End(tuple, addr, tuple.dst_port),
            End(tuple, to.addr, port),
            if hairpin {
                ", from the NAT's address: it is the client itself"
            } else {
                ""
            }
        ));
        let Ok(own) = told_apart(&sent, to.member, cx) else {
            note(format_args!(
                "no port is free by which it could be known there"
            ));
            return refused(DropReason::NatExhausted);
        };
        match own {
            Some(own) if own != tuple.src_port => note(format_args!(
                "source port {} becomes {own}: another connection of its client's has it there",
                tuple.src_port
            )),
            Some(own) => note(format_args!(
                "source port {own} is kept, as long as no connection of its client's has it there"
            )),
            None => {}
        }
        Decision::Dnat {
            to: (to.addr, port),
            member: to.member,
            snat: hairpin.then_some(addr),
            port: own,
        }
    }

    fn leaving(
        &self,
        tuple: &FiveTuple,
        cx: &Context<'_>,
        note: &mut dyn FnMut(std::fmt::Arguments<'_>),
    ) -> Decision {
        let src = tuple.src_addr();
        let kind = Kind::of(tuple);
        let untouched = if kind == Kind::None {
            Some("it is no query")
        } else if is_local(src) || is_local(tuple.dst_addr()) {
            Some("it stays on its link")
        } else if self.own.contains_key(&src) {
            Some("its source is an address of the NAT already")
        } else if cx.again && !moved(tuple, cx.binding) {
            Some("its connection began without")
        } else {
            None
        };
        if let Some(why) = untouched {
            note(format_args!("source stays: {why}"));
            return Decision::Pass;
        }
        if let Some(outside) = self.outside.get(&src)
            && let Some(address) = self.own.get(outside).filter(|a| a.is_reached(cx))
        {
            return shown_as(tuple, (*outside, tuple.src_port), address, "its own", note);
        }
        let wanted = |p: &Prefix| p.contains(src);
        if !self.sources.is_empty() && !self.sources.iter().any(wanted) {
            note(format_args!("source stays: it is none of the NAT's"));
            return Decision::Pass;
        }
        self.hide(tuple, cx, note)
    }

    fn hide(
        &self,
        tuple: &FiveTuple,
        cx: &Context<'_>,
        note: &mut dyn FnMut(std::fmt::Arguments<'_>),
    ) -> Decision {
        let ranked = self.ranked(tuple.src_addr(), cx);
        if ranked.is_empty() {
            note(format_args!(
                "source stays: no address of its family on its network"
            ));
            return Decision::Pass;
        }
        if let Some(bound) = cx.binding.filter(|_| cx.again)
            && let Some(address) = self.own.get(&bound.src.0)
            && ranked.contains(&bound.src.0)
            && (Kind::of(tuple) == Kind::Address || self.ports.contains(bound.src.1))
        {
            return shown_as(tuple, bound.src, address, "kept", note);
        }
        if cx.sources.held() >= self.client_limit {
            note(format_args!(
                "the client has its {} connections",
                self.client_limit
            ));
            return refused(DropReason::NatClientLimit);
        }
        for addr in ranked.into_iter().take(TRIED) {
            let Some(address) = self.own.get(&addr) else {
                continue;
            };
            if let Some((port, how)) = self.free_port(tuple, (addr, address), cx) {
                return shown_as(tuple, (addr, port), address, how, note);
            }
        }
        note(format_args!("no port is free for it"));
        refused(DropReason::NatExhausted)
    }

    /// The addresses that hide a client of its family and network, its own first.
    fn ranked(&self, client: IpAddr, cx: &Context<'_>) -> SmallVec<[IpAddr; 8]> {
        let hash = KeyedHash::new(cx.seed);
        let score = |addr: &IpAddr| {
            let pair = FiveTuple::new(0, (client, 0), (*addr, 0));
            std::cmp::Reverse(hash.tuple(&pair, 0))
        };
        let own = self.own.iter();
        let hides = own.filter(|(addr, a)| a.may_hide(**addr, client, cx));
        let mut all: SmallVec<[IpAddr; 8]> = hides.map(|(addr, _)| *addr).collect();
        all.sort_by_cached_key(score);
        all
    }

    /// This host's part of the ports: the first, and how many.
    fn part(&self, host: Option<u16>) -> Option<(u16, u16)> {
        let all = u32::from(self.ports.max() - self.ports.min()) + 1;
        let each = all / u32::from(self.hosts);
        let host = host.filter(|h| *h < self.hosts)?;
        let first = u32::from(self.ports.min()) + u32::from(host) * each;
        Some((u16::try_from(first).ok()?, u16::try_from(each).ok()?))
    }

    fn free_port(
        &self,
        tuple: &FiveTuple,
        (addr, address): (IpAddr, &Address),
        cx: &Context<'_>,
    ) -> Option<(u16, &'static str)> {
        let reply = |port| hidden(tuple, addr, port).reversed();
        let free = |port: u16| cx.sources.is_free(address.port, &reply(port));
        let (first, count) = self.part(cx.host)?;
        if Kind::of(tuple) == Kind::Address {
            // There is nothing to share out: one host has it for all.
            return (cx.host == Some(0) && free(0)).then_some((0, "by its address alone"));
        }
        let forwarded = |port: u16| {
            let there = FiveTuple {
                dst: addr_bytes(addr),
                dst_port: port,
                ..*tuple
            };
            self.target(&there).is_some()
        };
        let own = tuple.src_port;
        if cx.attempt == 0
            && own.checked_sub(first).is_some_and(|n| n < count)
            && !forwarded(own)
            && free(own)
        {
            return Some((own, "port kept"));
        }
        let may = |port| (!forwarded(port)).then(|| reply(port));
        let found = look((first, count), (tuple, address.port), may, cx)?;
        Some((found, "port chosen"))
    }
}

/// A port that is free, among `count` from `first`, looked for from a place that nobody foresees. `reply`: what answers show with a port, if
/// that may be had.
fn look(
    (first, count): (u16, u16),
    (tuple, holder): (&FiveTuple, Id<kind::Port>),
    reply: impl Fn(u16) -> Option<FiveTuple>,
    cx: &Context<'_>,
) -> Option<u16> {
    let hash = KeyedHash::new(cx.seed).tuple(tuple, u32::from(cx.attempt) + 1);
    let begin = hash % u64::from(count);
    let mut looks = 0;
    let places = (0..u64::from(count)).take(STEPS as usize);
    for here in [true, false] {
        for n in places.clone() {
            let at = u16::try_from((begin + n) % u64::from(count)).ok()?;
            let port = first + at;
            let Some(reply) = reply(port).filter(|reply| cx.sources.is_here(reply) == here) else {
                continue;
            };
            if cx.sources.is_free(holder, &reply) {
                return Some(port);
            }
            looks += 1;
            if looks >= LOOKS {
                return None;
            }
        }
    }
    None
}

/// Whoever is forwarded may get any of these in place of its own port: none is a service's.
const TOLD_APART: (u16, u16) = (1024, u16::MAX - 1023);

/// There is no port by which a connection could be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoneFree;

/// The source port by which a connection that is sent on so is known at the server: its own, where no other is known by it. `None`: its protocol
/// has none.
///
/// # Errors
/// Where none was found free.
pub fn told_apart(
    sent: &FiveTuple,
    server: Id<kind::Port>,
    cx: &Context<'_>,
) -> Result<Option<u16>, NoneFree> {
    if Kind::of(sent) != Kind::Port {
        return Ok(None);
    }
    let own = sent.src_port;
    if cx.again {
        let kept = cx.binding.filter(|bound| bound.src.0 == sent.src_addr());
        return Ok(Some(kept.map_or(own, |bound| bound.src.1)));
    }
    let reply = |port| {
        FiveTuple {
            src_port: port,
            ..*sent
        }
        .reversed()
    };
    if cx.attempt == 0 && cx.sources.is_free(server, &reply(own)) {
        return Ok(Some(own));
    }
    let found = look(TOLD_APART, (sent, server), |port| Some(reply(port)), cx);
    found.map(Some).ok_or(NoneFree)
}

/// Was the connection's source another one outside, as far as this function is concerned?
fn moved(tuple: &FiveTuple, binding: Option<Binding>) -> bool {
    binding.is_some_and(|b| b.src != (tuple.src_addr(), tuple.src_port))
}

const fn refused(reason: DropReason) -> Decision {
    Decision::Drop { reason, rule: None }
}

fn shown_as(
    tuple: &FiveTuple,
    to: (IpAddr, u16),
    address: &Address,
    how: &str,
    note: &mut dyn FnMut(std::fmt::Arguments<'_>),
) -> Decision {
    note(format_args!(
        "source {} becomes {}, {how}",
        End(tuple, tuple.src_addr(), tuple.src_port),
        End(tuple, to.0, to.1)
    ));
    Decision::Snat {
        to,
        address: address.port,
    }
}

/// One end in words.
struct End<'a>(&'a FiveTuple, IpAddr, u16);

impl std::fmt::Display for End<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(tuple, addr, port) = self;
        match Kind::of(tuple) {
            Kind::Port => write!(f, "{}", std::net::SocketAddr::from((*addr, *port))),
            Kind::Query => write!(f, "{addr} id {port}"),
            Kind::Address | Kind::None => write!(f, "{addr}"),
        }
    }
}

impl NetworkFunction for Nat {
    fn decide(
        &self,
        first: &mut Probe,
        cx: &Context<'_>,
        note: &mut dyn FnMut(std::fmt::Arguments<'_>),
    ) -> Decision {
        // A translated connection is known by its whole tuple: all of it is read.
        let Some(tuple) = first.five_tuple() else {
            note(format_args!("not IP"));
            return Decision::Pass;
        };
        if self.own.contains_key(&tuple.dst_addr()) {
            self.arriving(&tuple, cx, note)
        } else {
            self.leaving(&tuple, cx, note)
        }
    }
}
