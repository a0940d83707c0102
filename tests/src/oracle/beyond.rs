//! Who must get what leaves the fabric, or comes to it?
//!
//! The other oracle knows hosts' configs; this one knows the plan, and ends: what a sender shows, and what a receiver must see of it. A
//! conversation that nothing has touched since its last packet goes on as it was. One that a change may have touched either goes on as it was,
//! or ends, or begins anew as the plan says now: nobody else ever gets it, and it never shows anything else.

use std::net::IpAddr;

use hostconfig::{FloatingIp, Router, router::Interface};
use net::{
    DropReason, FiveTuple, Headers, Mac,
    flow_key::{addr_bytes, proto},
};

use super::words::query;
use crate::plan::{NetId, Plan, PortUuid, vtep};

/// The lowest port that a gateway gives a hidden source.
const LOWEST: u16 = 1024;

/// What one end shows, or sees, of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Ethernet source and destination.
    pub macs: (Mac, Mac),
    /// Who speaks to whom.
    pub tuple: FiveTuple,
}

impl View {
    /// What a frame shows; `None`: it is no packet that belongs to a conversation.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let (_, key) = Headers::parse(frame).ok()?;
        let alone = matches!(key.ip_proto, proto::ICMP | proto::ICMP6) && query(&key).is_none();
        (!alone && !key.dst_mac().is_multicast()).then_some(())?;
        Some(Self {
            macs: (key.src_mac(), key.dst_mac()),
            tuple: key.five_tuple()?,
        })
    }

    /// What answers it.
    fn answer(self) -> Self {
        Self {
            macs: (self.macs.1, self.macs.0),
            tuple: self.tuple.reversed(),
        }
    }
}

/// A packet that somebody must get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gets {
    /// Who.
    pub port: PortUuid,
    /// What it sees.
    pub view: View,
    /// Its source's port (or identifier) is a choice of the gateway's.
    pub chosen: bool,
    /// How many routers sent it on, at least and at most.
    pub hops: (u8, u8),
}

impl Gets {
    /// Is this frame it?
    fn is(&self, frame: &[u8]) -> bool {
        let (Ok((_, key)), Some(seen)) = (Headers::parse(frame), View::of(frame)) else {
            return false;
        };
        let mut must = self.view.tuple;
        let ports = must.proto != proto::ICMP && must.proto != proto::ICMP6;
        if self.chosen && must.src_port != 0 && seen.tuple.src_port >= LOWEST {
            must.src_port = seen.tuple.src_port;
            if !ports {
                must.dst_port = seen.tuple.dst_port;
            }
        }
        let same = (seen.macs, seen.tuple) == (self.view.macs, must);
        let (least, most) = self.hops;
        same && (64 - most..=64 - least).contains(&key.ip_ttl)
    }
}

/// What may become of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum May {
    /// Somebody gets it, and it begins a conversation.
    Begin(Gets),
    /// Somebody gets it as a part of this conversation.
    GoOn(usize, Gets),
    /// Its sender gets the answer to a ping.
    Pong,
    /// Nobody gets it, for this reason; `None`: for any.
    End(Option<DropReason>),
}

/// Who hears an ICMP error, and which packet it then quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// It must arrive there.
    pub must: Option<(PortUuid, FiveTuple)>,
    /// If nothing must be, it arrives at one of these, or nowhere.
    pub may: Vec<(PortUuid, FiveTuple)>,
}

/// Who has an address of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Near {
    /// This port, by the router's interface with this address.
    Port(Mac, PortUuid),
    Nobody,
}

/// Two ends that spoke.
#[derive(Debug, Clone)]
struct Conversation {
    client: PortUuid,
    sent: View,
    server: PortUuid,
    seen: View,
    hops: u8,
    /// The server has said something.
    answered: bool,
    /// Something changed since its last packet.
    shaken: bool,
    /// Another has begun in its place.
    over: bool,
}

/// All that was said, and the network outside.
#[derive(Debug, Clone)]
pub struct Beyond {
    outside: NetId,
    /// The next hop of all gateways: everyone who is on no network of the plan is behind it.
    next: PortUuid,
    all: Vec<Conversation>,
    /// What was sent and ended on its way, and whether something changed since: the sender's host may have a record of it.
    ended: Vec<(PortUuid, View, bool)>,
    /// A host does not know any more at whom a source was taken.
    restarted: bool,
}

/// A packet on its way outside: with which source, and whether the gateway chooses its port.
#[derive(Debug, Clone, Copy)]
struct Shown {
    mac: Mac,
    addr: IpAddr,
    chosen: bool,
}

impl Beyond {
    /// Nobody has spoken.
    pub fn new(outside: NetId, next: PortUuid) -> Self {
        Self {
            outside,
            next,
            all: vec![],
            ended: vec![],
            restarted: false,
        }
    }

    /// Whatever was said may have been touched.
    pub fn shake(&mut self) {
        for conversation in &mut self.all {
            conversation.shaken = true;
        }
        for (.., shaken) in &mut self.ended {
            *shaken = true;
        }
    }

    /// A host's switch has restarted.
    pub fn restart(&mut self) {
        self.restarted = true;
    }

    /// Was the same client known at a workload by its port already, or asked by that? Then it is told apart there by another.
    fn told_apart(&self, gets: &Gets) -> Option<May> {
        let tuple = gets.view.tuple;
        let of = |port: PortUuid| port == gets.port || self.restarted;
        let known = self.all.iter().any(|c| {
            of(c.server) && c.seen.tuple == tuple
                || of(c.client) && c.sent.tuple == tuple.reversed()
        });
        let asked = |(from, sent, _): &(PortUuid, View, bool)| {
            *from == gets.port && sent.tuple == tuple.reversed()
        };
        let translated = gets.hops.0 > 0 && !gets.chosen;
        (translated && (known || self.ended.iter().any(asked))).then_some(May::Begin(Gets {
            chosen: true,
            ..*gets
        }))
    }

    /// An answer to a client that shows an address of a network of the server's own router, from behind a gateway that hides nothing: by that router the address
    /// is near, whoever has it there, or nobody.
    fn astray(&self, plan: &Plan, c: &Conversation, gets: &Gets) -> Option<May> {
        let (mac, port) = match self.near(plan, c)? {
            Near::Port(mac, port) => (mac, port),
            Near::Nobody => return Some(May::End(Some(DropReason::UnknownNeighbor))),
        };
        Some(May::Begin(Gets {
            port,
            view: View {
                macs: (mac, plan.get(port).mac.get()),
                ..gets.view
            },
            ..*gets
        }))
    }

    /// Who has the address that a client shows, where that is one of a network of the server's router (`None`: it is not), and the client's is another.
    fn near(&self, plan: &Plan, c: &Conversation) -> Option<Near> {
        let on = plan.get(c.server).network;
        let shown = c.seen.tuple.src_addr();
        if on == self.outside {
            return None;
        }
        let its = |i: &Interface| i.network == on && i.mac.get() == c.seen.macs.0;
        let router = plan.routers().find(|r| r.interfaces.iter().any(its))?;
        let mut onto = router.interfaces.iter();
        let onto = onto.find(|i| i.addrs.iter().any(|a| a.subnet.contains(shown)))?;
        if onto.network == plan.get(c.client).network {
            return None;
        }
        let mut ports = plan.ports().filter(|p| p.network == onto.network);
        let port = ports.find(|p| p.fixed_ips.iter().any(|ip| ip.addr == shown));
        Some(port.map_or(Near::Nobody, |port| Near::Port(onto.mac.get(), port.id)))
    }

    /// What may become of a packet, the likeliest first.
    pub fn judge(&self, plan: &Plan, from: PortUuid, sent: View) -> Vec<May> {
        let mut may = vec![];
        let forth = |c: &Conversation| c.client == from && c.sent == sent && !c.over;
        let back = |c: &Conversation| c.server == from && c.seen.answer() == sent;
        let steady = |c: &&Conversation| !c.shaken && !c.over;
        for (at, c) in self.all.iter().enumerate() {
            let (port, view, hops) = match (forth(c), back(c)) {
                (true, _) => (c.server, c.seen, (c.hops.min(1), c.hops)),
                // Between two addresses of one switch an answer is turned back by the router that it comes to: the other one is not met.
                (_, true) => (c.client, c.sent.answer(), (c.hops.min(1), c.hops)),
                _ => continue,
            };
            let chosen = false;
            let gets = Gets {
                port,
                view,
                chosen,
                hops,
            };
            let astray = back(c).then(|| self.astray(plan, c, &gets)).flatten();
            if steady(&c) && astray.is_none() {
                return vec![May::GoOn(at, gets)];
            }
            may.push(May::GoOn(at, gets));
            may.extend(astray);
        }
        let fresh = self.fresh(plan, from, sent);
        if may.is_empty() {
            may.push(fresh);
            // Without ports an address is one source alone.
            if let May::Begin(gets) = may[0]
                && gets.chosen
                && gets.view.tuple.src_port == 0
                && self.is_shown(&gets)
            {
                let tuple = gets.view.tuple;
                may[0] = May::End(Some(DropReason::NatExhausted));
                if self.all.iter().any(|c| c.shaken && c.seen.tuple == tuple) {
                    may.push(May::Begin(gets));
                }
            }
        } else {
            may.push(fresh);
            // Where sources are shown as they are, a record of the middle of it may lead it past a floating IP that came since.
            if plan.get(from).network != self.outside
                && let Ok(bare) = self.leave(plan, (from, sent), &[])
                && let May::Begin(Gets { chosen: false, .. }) = bare
            {
                may.push(bare);
            }
            may.push(May::End(None));
        }
        if let Some(May::Begin(gets)) = may.iter().find(|may| matches!(may, May::Begin(_)))
            && plan.get(gets.port).network != self.outside
        {
            may.extend(self.told_apart(gets));
        }
        // It may have had the one source that there is without ports.
        let same = |s: &View| (s.tuple.proto, s.tuple.dst) == (sent.tuple.proto, sent.tuple.dst);
        if sent.tuple.src_port == 0 && self.ended.iter().any(|(_, s, _)| same(s)) {
            may.push(May::End(Some(DropReason::NatExhausted)));
        }
        if self.ended.contains(&(from, sent, true)) {
            may.push(May::End(Some(DropReason::NatAddressGone)));
        }
        may.extend(self.like_an_answer(plan, from, &sent));
        may
    }

    /// Without ports nothing tells a question between two gateways from the answer to one that went the other way and found nobody: whoever asked
    /// that hears it, as behind any NAT.
    fn like_an_answer(&self, plan: &Plan, from: PortUuid, sent: &View) -> Option<May> {
        let tuple = sent.tuple;
        if tuple.src_port != 0 || matches!(tuple.proto, proto::ICMP | proto::ICMP6) {
            return None;
        }
        let hides_behind = |port: PortUuid, view: &View, addr: IpAddr| {
            let at = (plan.get(port).network, view.macs.1);
            let by = |r: &Router| r.interfaces.iter().any(|i| (i.network, i.mac.get()) == at);
            let gateways = plan.routers().filter(|r| by(r));
            let mut addrs = gateways
                .filter_map(|r| r.gateway.as_ref())
                .flat_map(|g| &g.addrs);
            addrs.any(|a| a.addr == addr)
        };
        let (port, asked, _) = self.ended.iter().find(|(port, asked, _)| {
            asked.tuple.proto == tuple.proto
                && hides_behind(from, sent, asked.tuple.dst_addr())
                && hides_behind(*port, asked, tuple.dst_addr())
        })?;
        Some(May::Begin(Gets {
            port: *port,
            view: asked.answer(),
            chosen: false,
            hops: (1, 2),
        }))
    }

    /// Is it shown by another conversation already?
    fn is_shown(&self, gets: &Gets) -> bool {
        let same = |c: &Conversation| c.server == gets.port && c.seen.tuple == gets.view.tuple;
        self.all.iter().any(same)
    }

    /// Notes what became of a packet; `false`: that may not be.
    pub fn learn(
        &mut self,
        (from, sent): (PortUuid, View),
        may: &May,
        received: &[(PortUuid, Vec<u8>)],
        drops: &[DropReason],
    ) -> bool {
        let told = |(port, frame): &(PortUuid, Vec<u8>)| {
            let (_, key) = Headers::parse(frame).expect("what the switch sends can be read");
            let error = match key.ip_proto {
                proto::ICMP => matches!(key.l4_src, 3 | 11),
                proto::ICMP6 => matches!(key.l4_src, 1 | 3),
                _ => false,
            };
            *port == from && error
        };
        match may {
            May::End(reason) => {
                let silent = received.len() <= 1 && received.iter().all(told);
                let ended = silent && !drops.is_empty() && reason.is_none_or(|r| drops == [r]);
                if ended && !self.ended.contains(&(from, sent, false)) {
                    self.ended.push((from, sent, false));
                }
                ended
            }
            May::Pong => {
                let [(port, frame)] = received else {
                    return false;
                };
                let answers = View::of(frame).is_some_and(|v| v == sent.answer());
                *port == from && answers && drops.is_empty()
            }
            May::Begin(gets) | May::GoOn(_, gets) => {
                let [(port, frame)] = received else {
                    return false;
                };
                if *port != gets.port || !gets.is(frame) || !drops.is_empty() {
                    return false;
                }
                let seen = View::of(frame).expect("it is what was to be got");
                if let May::GoOn(at, _) = may {
                    let c = &mut self.all[*at];
                    c.shaken &= c.client != from;
                    c.answered |= c.server == from;
                    return true;
                }
                let twice = |c: &&Conversation| {
                    let steady = !c.shaken && !c.over && c.sent != sent;
                    steady && (c.server, c.seen) == (gets.port, seen)
                };
                assert!(
                    !self.all.iter().any(|c| twice(&c)),
                    "two conversations show {}",
                    seen.tuple
                );
                for c in &mut self.all {
                    c.over |= c.client == from && c.sent == sent;
                }
                self.all.push(Conversation {
                    client: from,
                    sent,
                    server: gets.port,
                    seen,
                    hops: gets.hops.1,
                    answered: false,
                    shaken: false,
                    over: false,
                });
                true
            }
        }
    }

    /// Who hears what a receiver's ICMP error about this frame tells, and which packet it then quotes; `None`: nobody sent such a frame.
    pub fn told(&self, plan: &Plan, by: PortUuid, seen: View) -> Option<Told> {
        let mut told = Told {
            must: None,
            may: vec![],
        };
        for c in &self.all {
            let (to, said) = if (c.server, c.seen) == (by, seen) {
                ((c.client, c.sent.tuple), true)
            } else if (c.client, c.sent.answer()) == (by, seen) {
                ((c.server, c.seen.answer().tuple), c.answered)
            } else {
                continue;
            };
            told.may.push(to);
            let astray = (to.0 == c.client).then(|| self.near(plan, c)).flatten();
            if let Some(Near::Port(_, port)) = astray {
                told.may.push((port, to.1));
            }
            // It may be about what another said who had the server's address before: whoever has said nothing need not hear.
            if said && astray.is_none() && !c.shaken && !c.over {
                told.must.get_or_insert(to);
            }
        }
        // Where sources are shown as they are, an error that no record knows is a packet like any other.
        if plan.get(by).network != self.outside
            && let Ok(bare) = self.leave(plan, (by, seen.answer()), &[])
            && let May::Begin(gets) = bare
            && !gets.chosen
            && !told.may.is_empty()
        {
            told.may.push((gets.port, seen.tuple));
        }
        (!told.may.is_empty()).then_some(told)
    }

    /// What becomes of a packet that begins something.
    fn fresh(&self, plan: &Plan, from: PortUuid, sent: View) -> May {
        let way = if plan.get(from).network == self.outside {
            self.come_in(plan, from, sent)
        } else {
            let floating: Vec<_> = plan.floating_ips().collect();
            self.leave(plan, (from, sent), &floating)
        };
        let way = way.and_then(|may| match may {
            // To its own floating IP, without ports: nothing would tell an answer from a question.
            May::Begin(gets) if gets.port == from && gets.view.tuple.reversed() == sent.tuple => {
                Err(DropReason::ConntrackInvalid)
            }
            May::Begin(_) | May::GoOn(..) | May::Pong | May::End(_) => Ok(may),
        });
        way.unwrap_or_else(|reason| May::End(Some(reason)))
    }

    /// From a workload, by its router, where these floating IPs are asked for its own.
    fn leave(
        &self,
        plan: &Plan,
        (from, sent): (PortUuid, View),
        floating: &[&FloatingIp],
    ) -> Result<May, DropReason> {
        let network = plan.get(from).network;
        let mut routers = plan.routers();
        let by = |r: &&Router| {
            let is = |i: &hostconfig::router::Interface| {
                (i.network, i.mac.get()) == (network, sent.macs.1)
            };
            r.interfaces.iter().any(is)
        };
        let router = routers.find(by).ok_or(DropReason::UnknownUnicast)?;
        if !router.admin_up {
            return Err(DropReason::AdminDown);
        }
        // What is near the router does not leave by it.
        let near = router.interfaces.iter().find_map(|i| {
            let mut ports = plan.ports().filter(|p| p.network == i.network);
            let has = |p: &&hostconfig::Port| {
                let dst = sent.tuple.dst_addr();
                p.fixed_ips.iter().any(|ip| ip.addr == dst)
            };
            Some((i.mac.get(), ports.find(has)?))
        });
        if let Some((mac, port)) = near {
            return Ok(May::Begin(Gets {
                port: port.id,
                view: View {
                    macs: (mac, port.mac.get()),
                    tuple: sent.tuple,
                },
                chosen: false,
                hops: (1, 1),
            }));
        }
        let gateway = router.gateway.as_ref().expect("each router has one");
        let (src, here) = (sent.tuple.src_addr(), Some(vtep(plan.host_of(from))));
        let own = |f: &&&FloatingIp| {
            f.router == router.id && f.to.is_some_and(|to| to.addr == src) && f.at.is_some()
        };
        let floating = floating.iter().find(own);
        let floating = floating.filter(|f| f.at == here || f.at == gateway.at);
        let as_it_is = src.is_ipv6() || !gateway.snat;
        let shown = match (floating, gateway.at) {
            (Some(f), _) => Shown {
                mac: f.mac.get(),
                addr: f.addr,
                chosen: false,
            },
            (None, None) => return Err(DropReason::NoGateway),
            (None, Some(_)) => Shown {
                mac: gateway.mac.get(),
                addr: if as_it_is { src } else { gateway.addrs[0].addr },
                chosen: !as_it_is,
            },
        };
        self.on_outside(plan, shown, sent.tuple)
    }

    /// From a gateway or a floating IP to whoever has an address outside.
    fn on_outside(&self, plan: &Plan, shown: Shown, tuple: FiveTuple) -> Result<May, DropReason> {
        let dst = tuple.dst_addr();
        let mut tuple = tuple;
        tuple.src = addr_bytes(shown.addr);
        let near = plan.is_on(self.outside, dst);
        let hop = if near {
            dst
        } else {
            plan.addr(self.next, dst.is_ipv6())
        };
        let mut ports = plan.ports().filter(|p| p.network == self.outside);
        if let Some(port) = ports.find(|p| p.fixed_ips.iter().any(|ip| ip.addr == hop)) {
            return Ok(May::Begin(Gets {
                port: port.id,
                view: View {
                    macs: (shown.mac, port.mac.get()),
                    tuple,
                },
                chosen: shown.chosen,
                hops: (1, 1),
            }));
        }
        let here = |f: &&FloatingIp| f.addr == dst && f.at.is_some();
        if let Some(floating) = plan.floating_ips().find(here) {
            return Self::into(plan, floating, tuple, (shown.chosen, 1));
        }
        let owns = |r: &&Router| {
            let gateway = r.gateway.as_ref().filter(|g| g.at.is_some());
            gateway.is_some_and(|g| g.addrs.iter().any(|a| a.addr == dst))
        };
        if let Some(router) = plan.routers().find(owns) {
            return if router.admin_up {
                ping(tuple)
            } else {
                Err(DropReason::AdminDown)
            };
        }
        Err(DropReason::UnknownNeighbor)
    }

    /// To a floating IP, and so to its workload.
    fn into(
        plan: &Plan,
        floating: &FloatingIp,
        mut tuple: FiveTuple,
        (chosen, hops): (bool, u8),
    ) -> Result<May, DropReason> {
        let router = plan
            .routers()
            .find(|r| r.id == floating.router)
            .expect("its router");
        if !router.admin_up {
            return Err(DropReason::AdminDown);
        }
        let member = if let Some(to) = floating.to {
            tuple.dst = addr_bytes(to.addr);
            to.port
        } else {
            let is = |f: &&hostconfig::nat::Forward| {
                f.protocol == tuple.proto && f.ports.contains(tuple.dst_port)
            };
            let Some(forward) = floating.forwards.iter().find(is) else {
                return ping(tuple);
            };
            tuple.dst = addr_bytes(forward.to);
            tuple.dst_port = forward.to_port + tuple.dst_port - forward.ports.min();
            forward.member
        };
        Ok(Self::inside(
            plan,
            router,
            member,
            tuple,
            (chosen, hops + 1),
        ))
    }

    /// By a router's interface to a workload.
    fn inside(
        plan: &Plan,
        router: &Router,
        to: PortUuid,
        tuple: FiveTuple,
        (chosen, hops): (bool, u8),
    ) -> May {
        let port = plan.get(to);
        let mut interfaces = router.interfaces.iter();
        let by = interfaces
            .find(|i| i.network == port.network)
            .expect("its interface");
        May::Begin(Gets {
            port: to,
            view: View {
                macs: (by.mac.get(), port.mac.get()),
                tuple,
            },
            chosen,
            hops: (hops, hops),
        })
    }

    /// From somebody outside.
    fn come_in(&self, plan: &Plan, from: PortUuid, sent: View) -> Result<May, DropReason> {
        let (mac, dst) = (sent.macs.1, sent.tuple.dst_addr());
        let here = |f: &&FloatingIp| f.mac.get() == mac && f.at.is_some();
        if let Some(floating) = plan.floating_ips().find(here) {
            let is_up = |r: &Router| r.id == floating.router && r.admin_up;
            if !plan.routers().any(is_up) {
                return Err(DropReason::AdminDown);
            }
            if floating.addr != dst {
                return Err(DropReason::NoListener);
            }
            return Self::into(plan, floating, sent.tuple, (false, 0));
        }
        let has = |r: &&Router| {
            let gateway = r.gateway.as_ref();
            gateway.is_some_and(|g| g.mac.get() == mac && g.at.is_some())
        };
        let Some(router) = plan.routers().find(has) else {
            let mut near = plan
                .ports()
                .filter(|p| p.network == self.outside && p.id != from);
            let near = near
                .find(|p| p.mac.get() == mac)
                .ok_or(DropReason::UnknownUnicast)?;
            return Ok(May::Begin(Gets {
                port: near.id,
                view: sent,
                chosen: false,
                hops: (0, 0),
            }));
        };
        let gateway = router.gateway.as_ref().expect("it has one");
        if !router.admin_up {
            return Err(DropReason::AdminDown);
        }
        if gateway.addrs.iter().any(|a| a.addr == dst) {
            return ping(sent.tuple);
        }
        // It would leave by the gateway by which it came.
        if !router.interfaces.iter().any(|i| plan.is_on(i.network, dst)) {
            return Err(DropReason::SplitHorizon);
        }
        if gateway.snat && dst.is_ipv4() {
            return Err(DropReason::HiddenAddress);
        }
        let mut inner = plan
            .ports()
            .filter(|p| router.interfaces.iter().any(|i| i.network == p.network));
        let to = inner.find(|p| p.fixed_ips.iter().any(|ip| ip.addr == dst));
        let to = to.ok_or(DropReason::UnknownNeighbor)?;
        Ok(Self::inside(plan, router, to.id, sent.tuple, (false, 1)))
    }
}

/// An address that is nobody's but the switch's own.
fn ping(tuple: FiveTuple) -> Result<May, DropReason> {
    let asks = matches!(tuple.proto, proto::ICMP | proto::ICMP6) && tuple.role == 1;
    if asks {
        Ok(May::Pong)
    } else {
        Err(DropReason::NoListener)
    }
}
