//! Which way does the first packet of a connection go?

use std::net::IpAddr;

use hostconfig::{
    Chain, Classifier, Function, FunctionKind,
    chain::{Action, Side},
    group::Direction,
};
use net::{DropReason, FiveTuple, FlowKey, Mac, flow_key::addr_bytes};

use super::{
    Host, Lent, Place, Walk, is_end, routers,
    routers::Trail,
    words::{family_is, has_ports, matches, side},
};
use crate::plan::{NetId, PortUuid};

impl Host {
    /// The way of a connection's first packet: egress group, chains of the source, L2, chains of the destination, ingress group.
    pub(super) fn walk(
        &self,
        (origin, network): (Option<PortUuid>, NetId),
        first: &FlowKey,
        bound: Option<FiveTuple>,
        seen: &[PortUuid],
        trail: &mut Trail,
    ) -> Result<Walk, DropReason> {
        let mut key = *first;
        let mut tracked = false;
        let lent = Lent {
            client: origin,
            first,
            at: origin.map(|_| network),
            bound,
            seen,
        };
        let sender = origin.and_then(|p| self.port(p));
        if origin.is_some() && sender.is_none() {
            return Err(DropReason::PortGone);
        }
        if let Some(port) = sender {
            tracked |= self.tracks(port, &key, Direction::Egress);
            self.group(port, &key, Direction::Egress)?;
            for chain in self.chains().filter(|chain| chain.graph.depth == 0) {
                let receiver = self.far_end(network, &key);
                let of = |c: &&Classifier| {
                    let named = |s| receiver.is_some_and(|end| is_end(s, end));
                    c.source.is_some_and(|s| side(s, port)) && c.destination.is_none_or(named)
                };
                if chain
                    .classifiers
                    .iter()
                    .filter(of)
                    .any(|c| matches(c, &key))
                {
                    tracked = true;
                    self.functions(network, chain, &mut key, lent)?;
                }
            }
        }
        let hidden = key.ip_src != first.ip_src;
        let shown = key.eth_src;
        let (network, place) = self.arrive((origin, network), &mut key, lent, trail)?;
        let same = key.five_tuple() == first.five_tuple();
        tracked |= !same;
        match place {
            Place::Here(port) if origin == Some(port) && same => Err(DropReason::SplitHorizon),
            Place::Here(id) => {
                let port = self.port(id).unwrap();
                if !port.admin_up {
                    return Err(DropReason::AdminDown);
                }
                let mut received = self.tracks(port, &key, Direction::Ingress);
                let of = |s| side(s, port);
                let lent = Lent {
                    client: origin.or(Some(id)),
                    at: Some(network),
                    ..lent
                };
                received |= self.destination_chains(network, of, &mut key, lent)?;
                if let Some(mac) = self.source_mac(origin, network, &key) {
                    received = true;
                    key.eth_src = mac.octets();
                }
                self.group(port, &key, Direction::Ingress)?;
                Ok(Walk {
                    key,
                    network,
                    place,
                    tracked: tracked | received,
                    received,
                })
            }
            Place::Host(_) | Place::Foreign if origin.is_none() => Err(DropReason::SplitHorizon),
            Place::Virtual | Place::Router => Ok(Walk {
                key,
                network,
                place,
                tracked: false,
                received: false,
            }),
            Place::Host(_) | Place::Foreign => {
                // By that the receiver's switch finds the home of what answers, also behind routers.
                if hidden && trail.iter().any(|r| r.onwards.is_some()) {
                    key.eth_src = shown;
                    key.eth_src[0] |= 1;
                }
                Ok(Walk {
                    key,
                    network,
                    place,
                    tracked,
                    received: false,
                })
            }
        }
    }

    /// Through routers, and the chains of virtual addresses, which are in every switch as these are, to where it stays.
    pub(super) fn arrive(
        &self,
        (origin, mut network): (Option<PortUuid>, NetId),
        key: &mut FlowKey,
        lent: Lent<'_>,
        trail: &mut Trail,
    ) -> Result<(NetId, Place), DropReason> {
        for _ in 0..routers::FORWARDS {
            let place;
            (network, place) = self.route(origin, network, key, trail)?;
            if place != Place::Virtual {
                return Ok((network, place));
            }
            let mac = key.dst_mac();
            let mut all = self.endpoints(network);
            let endpoint = all.find(|e| e.mac.get() == mac);
            let of = |s| match s {
                Side::Port(id) => endpoint.is_some_and(|e| e.id == id),
                Side::Network(id) => network == id,
                Side::Project(id) => endpoint.is_some_and(|e| e.project == Some(id)),
                Side::Branch => false,
            };
            self.destination_chains(network, of, key, lent)?;
            if key.dst_mac() != mac {
                continue;
            }
            if self.is_ping_to(network, key) && origin.is_some() {
                return Ok((network, place));
            }
            return Err(DropReason::NoListener);
        }
        Err(DropReason::HopLimit)
    }

    /// The first chain that names only a destination, and this one. Was there one?
    pub(super) fn destination_chains(
        &self,
        network: NetId,
        of: impl Fn(Side) -> bool,
        key: &mut FlowKey,
        lent: Lent<'_>,
    ) -> Result<bool, DropReason> {
        let named = |c: &Classifier| {
            c.source.is_none() && c.destination.is_some_and(&of) && matches(c, key)
        };
        let chain = self
            .chains()
            .find(|chain| chain.graph.depth == 0 && chain.classifiers.iter().any(named));
        if let Some(chain) = chain {
            self.functions(network, chain, key, lent)?;
        }
        Ok(chain.is_some())
    }

    /// A chain's functions, and those of what follows it.
    pub(super) fn functions(
        &self,
        network: NetId,
        chain: &Chain,
        key: &mut FlowKey,
        lent: Lent<'_>,
    ) -> Result<(), DropReason> {
        self.own_functions(network, chain, key, lent)?;
        let next = chain.graph.next.iter();
        let mut next = next.filter_map(|id| self.chains().find(|chain| chain.id == *id));
        let follows = |next: &&Chain| {
            next.graph.depth > chain.graph.depth && next.classifiers.iter().any(|c| matches(c, key))
        };
        match next.find(follows) {
            Some(next) => self.functions(network, next, key, lent),
            None => Ok(()),
        }
    }

    fn own_functions(
        &self,
        network: NetId,
        chain: &Chain,
        key: &mut FlowKey,
        lent: Lent<'_>,
    ) -> Result<(), DropReason> {
        for Function { kind, .. } in &chain.functions {
            match kind {
                FunctionKind::Shaper(_) => {}
                // No plan has one.
                FunctionKind::Plain(_) => return Err(DropReason::FunctionFault),
                // No plan has any that is up.
                FunctionKind::Appliance(_) => return Err(DropReason::ApplianceDown),
                FunctionKind::Nat(nat) => self.nat(network, nat, key, lent)?,
                FunctionKind::Firewall(f) => {
                    let hit = f.rules.iter().find(|r| {
                        family_is(r.family, key)
                            && r.protocol.is_none_or(|p| p == key.ip_proto)
                            && r.source.is_none_or(|p| p.contains(key.src_addr()))
                            && r.destination.is_none_or(|p| p.contains(key.dst_addr()))
                            && r.source_ports
                                .is_none_or(|p| has_ports(key) && p.contains(key.l4_src))
                            && r.destination_ports
                                .is_none_or(|p| has_ports(key) && p.contains(key.l4_dst))
                    });
                    if hit.map_or(f.default, |r| r.action) == Action::Deny {
                        return Err(DropReason::FirewallDenied);
                    }
                }
                FunctionKind::LoadBalancer(lb) => {
                    let asked = (key.dst_addr(), key.l4_dst, key.ip_proto);
                    if asked != (lb.vip, lb.port, lb.protocol) {
                        continue;
                    }
                    let kept = lent.bound.and_then(|b| {
                        let is = |m: &&hostconfig::chain::Member| {
                            (m.addr, m.port) == (b.dst_addr(), b.dst_port)
                        };
                        lb.members.iter().find(is)
                    });
                    let chosen = kept.or_else(|| {
                        let mut open = lb.members.iter().filter(|m| m.weight > 0);
                        let taken = |m: &&hostconfig::chain::Member| lent.seen.contains(&m.id);
                        open.clone().find(taken).or_else(|| open.next())
                    });
                    let member = chosen.ok_or(DropReason::NoHealthyMember)?;
                    if member.addr == key.src_addr() {
                        key.ip_src = addr_bytes(lb.vip);
                        key.eth_src = lb.mac.get().octets();
                    }
                    key.ip_dst = addr_bytes(member.addr);
                    key.l4_dst = member.port;
                    key.eth_dst = self.mac_of(lb.network, member.addr).octets();
                }
            }
        }
        Ok(())
    }

    pub(super) fn mac_of(&self, network: NetId, addr: IpAddr) -> Mac {
        let here = self.ports().filter(|p| p.network == network);
        let mut here = here.filter(|p| p.fixed_ips.iter().any(|f| f.addr == addr));
        let there = || self.endpoints(network).find(|e| e.addrs.contains(&addr));
        let mac = here
            .next()
            .map(|p| p.mac)
            .or_else(|| there().map(|e| e.mac));
        mac.map_or(Mac::ZERO, net::UnicastMac::get)
    }
}
