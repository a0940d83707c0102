//! What becomes of a packet from or to a floating IP that this host answers for?
//!
//! Part of the walk. What comes to the address goes to the workload's own address, through its router; what the workload sends outside shows the
//! floating IP, before the gateway is asked, and wherever that is. Between two floating IPs of one switch both ends are translated, by one record.
//!
//! # Invariants
//! - What was sent from behind one router to a floating IP of another is answered by the way that it came: both may have the same addresses
//!   inside.

use std::net::IpAddr;

use hostconfig::group::Direction;
use net::{
    Consumed, DropReason, FiveTuple, Id, NetworkId, Origin, Zone,
    flow_key::{addr_bytes, ethertype},
    ids::kind,
};
use nfv::function::{AllFree, Context, Decision, NetworkFunction as _};
use overlay::Place;

use super::{
    flow::{Action, Refusal, RouterHop, Stage},
    routing::interface_of,
    sources::Seen,
    tables::{
        Network,
        floating::Floating,
        l3::{Interface, Route, Router, Target},
    },
    upcall::origin_of,
    walk::{Known, Walk, Witness},
};
use nfv::{
    conntrack::Side,
    functions::{Nat, nat::told_apart},
};

impl<'a, W: Witness> Walk<'a, W> {
    fn is_fresh(&self) -> bool {
        matches!(self.lent.known, Known::New | Known::Again(_))
    }

    /// The floating IP of the packet's source, or, of what answers, that which it shows already.
    pub(super) fn floating_source(&mut self, router: &Router) -> Option<&'a Floating> {
        let all = self.tables.floating().of_router(router.dense)?;
        // That a source has none is read too.
        if let Some(section) = all.section {
            self.depend(section);
        }
        if all.is_empty() {
            return None;
        }
        let src = self.probe.ip_src();
        if self.is_fresh() {
            all.of(src)
        } else {
            all.shown(src)
        }
    }

    /// Does it come from outside to the own address of a workload whose floating IP is here, by its router's gateway or another floating IP? Its answer
    /// must not show this one: it is told by the record.
    pub(super) fn comes_past_floating(&mut self, network: &Network) -> bool {
        if self.translated {
            return false;
        }
        let came = network.fdb.get(self.probe.eth_src());
        let Some(Place::Router(router)) = came.map(|e| e.place) else {
            return false;
        };
        let Some(router) = self.tables.router(router) else {
            return false;
        };
        if !self.is_for_floating(router) {
            return false;
        }
        self.depend(router.section);
        let from = router.route_to(self.probe.ip_src()).map(|r| r.target);
        matches!(from, Some(Target::Outside(_)))
    }

    /// Is it for the own address of a workload whose floating IP is here?
    pub(super) fn is_for_floating(&mut self, router: &Router) -> bool {
        let Some(all) = self.tables.floating().of_router(router.dense) else {
            return false;
        };
        if let Some(section) = all.section {
            self.depend(section);
        }
        !all.is_empty() && all.of(self.probe.ip_dst()).is_some()
    }

    /// It leaves the fabric, and shows a floating IP.
    pub(super) fn leave_as(
        &mut self,
        router: &Router,
        floating: &Floating,
        hop: RouterHop,
        route: &Route,
    ) -> Result<&'a Network, Refusal> {
        self.depend(floating.section);
        let next = self.send_by(router, hop, route, &floating.interface)?;
        let key = self.probe.rewritten_key();
        let left = (key.src_mac(), key.dst_mac());
        self.cross(router.dense, floating.zone, Some(left));
        self.meter(router, Direction::Egress);
        self.limit_outside(floating.interface.port, Direction::Egress, "floating ip ");
        if self.is_fresh() {
            let port = self.probe.five_tuple().map_or(0, |tuple| tuple.src_port);
            self.probe.set_src(floating.addr, port);
            self.becomes_translated();
            self.says(Stage::L3, || {
                let Floating { id, addr, .. } = floating;
                format!("its source becomes floating ip {addr} ({id})")
            });
        }
        Ok(next)
    }

    fn becomes_translated(&mut self) {
        self.flow.tracked = true;
        if !self.translated {
            self.flow.actions.push(Action::Translate);
            self.translated = true;
        }
    }

    /// It came to a floating IP, or answers what that one's workload sent.
    pub(super) fn come_to_floating(
        &mut self,
        router: &Router,
        floating: &Floating,
    ) -> Result<Option<&'a Network>, Refusal> {
        self.depend(router.section);
        self.depend(floating.section);
        if !router.admin_up {
            return Err(self.about_sender(DropReason::AdminDown, Stage::L3));
        }
        if !matches!(self.probe.ethertype(), ethertype::IPV4 | ethertype::IPV6) {
            return Err(self.about_sender(DropReason::NoListener, Stage::L3));
        }
        self.cross(router.dense, floating.zone, None);
        if self.is_fresh() && !self.forward_inside(floating)? {
            return Ok(None);
        }
        let route = router.route(self.probe);
        let hop = RouterHop {
            router: router.dense,
            interface: RouterHop::ITSELF,
            to: None,
        };
        if router.is_martian(self.probe) {
            return Err(self.about_sender(DropReason::Martian, Stage::L3));
        }
        let out = route.and_then(|route| Some((route, interface_of(router, &route)?)));
        let Some((route, out)) = out else {
            self.flow.actions.push(Action::Route(hop));
            return Err(self.about_sender(DropReason::NoRoute, Stage::L3));
        };
        self.meter(router, Direction::Ingress);
        self.limit_outside(floating.interface.port, Direction::Ingress, "floating ip ");
        self.send_by(router, hop, &route, out).map(Some)
    }

    /// Its destination becomes the workload's own. `false`: it is answered.
    fn forward_inside(&mut self, floating: &Floating) -> Result<bool, Refusal> {
        let Floating { id, addr, .. } = floating;
        let nobody = |this: &Self| this.about_sender(DropReason::NoListener, Stage::L3);
        if self.probe.ip_dst() != *addr {
            return Err(nobody(self));
        }
        let Some(tuple) = self.probe.five_tuple() else {
            return Err(nobody(self));
        };
        let to = match (floating.inside, &floating.forwards) {
            (Some(to), _) => {
                let sent = FiveTuple {
                    dst: addr_bytes(to.addr),
                    ..tuple
                };
                let apart = self.with_sources(|_, cx| told_apart(&sent, to.port, cx));
                let Ok(port) = apart else {
                    return Err(self.about_sender(DropReason::NatExhausted, Stage::L3));
                };
                if let Some(port) = port.filter(|port| *port != tuple.src_port) {
                    self.says(Stage::L3, || {
                        format!(
                            "floating ip {addr} ({id}): source port {} becomes {port}: another connection of its client's has it there",
                            tuple.src_port
                        )
                    });
                }
                self.is_known_by(port, to.port, &tuple);
                (to.addr, tuple.dst_port)
            }
            (None, Some(_)) if self.is_ping() => {
                self.flow.tracked = false;
                self.answers(Action::AnswerPing, Consumed::Icmp);
                self.says(Stage::L3, || {
                    format!("ping of floating ip {addr} ({id}) answered")
                });
                return Ok(false);
            }
            (None, Some(forwards)) => {
                let (to, member, port) = match self.forwarded_by(forwards, floating) {
                    Decision::Dnat {
                        to, member, port, ..
                    } => (to, member, port),
                    Decision::Drop { reason, .. } => {
                        return Err(self.about_sender(reason, Stage::L3));
                    }
                    Decision::Pass
                    | Decision::Snat { .. }
                    | Decision::Spend(_)
                    | Decision::Copy(_)
                    | Decision::Inspect
                    | Decision::Queue
                    | Decision::HandOver => {
                        return Err(nobody(self));
                    }
                };
                self.is_known_by(port, member, &tuple);
                to
            }
            (None, None) => return Err(nobody(self)),
        };
        self.probe.set_dst(to.0, to.1);
        self.becomes_translated();
        self.says(Stage::L3, || {
            format!(
                "floating ip {addr} ({id}): its destination becomes {}",
                to.0
            )
        });
        Ok(true)
    }

    /// The client's port is this one at the workload, and no other connection's there.
    fn is_known_by(&mut self, port: Option<u16>, at: Id<kind::Port>, tuple: &FiveTuple) {
        // A source that a gateway chose is nobody else's already.
        let Some(port) = port.filter(|_| self.source.is_none()) else {
            return;
        };
        self.forwarded = Some(at);
        if port != tuple.src_port {
            self.probe.set_src(tuple.src_addr(), port);
        }
    }

    /// Which of the ports of a floating IP it came to, and as what it goes on.
    fn forwarded_by(&mut self, forwards: &Nat, floating: &Floating) -> Decision {
        let Floating { id, addr, .. } = floating;
        self.with_sources(|this, context| {
            let Self { probe, witness, .. } = this;
            forwards.decide(probe, context, &mut |words| {
                if W::LISTENS {
                    witness.says(
                        Stage::L3,
                        format_args!("floating ip {addr} ({id}): {words}"),
                    );
                }
            })
        })
    }

    /// What asks which sources are taken.
    fn with_sources<T>(&mut self, ask: impl FnOnce(&mut Self, &Context<'_>) -> T) -> T {
        let binding = match self.lent.known {
            Known::Again(binding) => Some(binding),
            Known::New | Known::Reply { .. } | Known::Related { .. } => None,
        };
        let seen = self.lent.sources.map(|lender| Seen {
            lender,
            client: self.zones[0].unwrap_or_default(),
        });
        let chosen = self.source.is_some();
        let context = Context {
            now: self.lent.now,
            // What a gateway chose is kept.
            again: binding.is_some() || chosen,
            binding: binding.flatten().filter(|_| !chosen),
            seed: self.tables.seed(),
            attempt: self.lent.attempt,
            sources: match &seen {
                Some(seen) => seen,
                None => &AllFree,
            },
            ..Context::default()
        };
        ask(self, &context)
    }

    /// The network on which an answer goes on to who asked from behind a gateway, or a floating IP, of this switch: its other side's, by
    /// that one's Ethernet addresses. So it is for an error of who asked about an answer.
    pub(super) fn way_back(&mut self, router: &Router, came: &Interface) -> Option<&'a Network> {
        let (entry, side) = match self.lent.known {
            Known::Reply { entry, .. } => (entry, Side::Reply),
            // Of the asker's errors too: they are translated before they are routed, as answers are.
            Known::Related { entry, side, .. } => (entry, side),
            Known::New | Known::Again(_) => return None,
        };
        let [there, here] = [side.other(), side].map(|side| entry.side(side));
        let shown = here.tuple().dst_addr();
        let hidden = shown != there.tuple().src_addr();
        if !hidden || came.outside {
            return None;
        }
        let target = router.route_to(shown).map(|r| r.target);
        let outside = matches!(target, Some(Target::Outside(_)))
            || router.gateway.as_deref().is_some_and(|g| g.owns(shown));
        if !outside {
            return None;
        }
        let network = match origin_of(self.tables, there)? {
            Origin::Port(port) => self.tables.port(port)?.network,
            Origin::Tunnel(network) => network,
            Origin::Switch => return None,
        };
        let network = self.tables.network(network)?;
        self.depend(network.section);
        self.flow.actions.push(Action::Route(RouterHop {
            router: router.dense,
            interface: router.interface(came.port)?.0,
            to: Some(network.dense),
        }));
        self.says(Stage::L3, || {
            format!(
                "router {} ({}): back by the way that it came, on network {}",
                router.name, router.id, network.name
            )
        });
        self.meter(router, Direction::Egress);
        self.limit_between(router, network.dense, there.zone(), shown);
        self.zones[0].get_or_insert(here.zone());
        self.cross(router.dense, there.zone(), None);
        self.set_eth(Some(there.eth_dst()), Some(there.eth_src()));
        Some(network)
    }

    /// An answer from one address outside of this switch to another: it passes by both, of which the second is shown by who asked, on this network
    /// and in this zone.
    fn limit_between(&mut self, router: &Router, asker: NetworkId, zone: Zone, shown: IpAddr) {
        match self.floating_source(router) {
            Some(from) => {
                self.limit_outside(from.interface.port, Direction::Egress, "floating ip ");
            }
            None => {
                if let Some(gateway) = router.gateway_here() {
                    self.limit_outside(gateway.port, Direction::Egress, "gateway ");
                }
            }
        }
        let tables = self.tables;
        let mut floating = tables.floating().iter();
        if let Some(to) = floating.find(|f| f.zone == zone && f.addr == shown) {
            self.depend(to.section);
            self.limit_outside(to.interface.port, Direction::Ingress, "floating ip ");
            return;
        }
        let by = |r: &&Router| {
            let there = r.interfaces.iter().any(|i| i.network == asker);
            there && r.gateway_here().is_some_and(|g| g.owns(shown))
        };
        if let Some(of) = tables.routers().find(by)
            && let Some(gateway) = of.gateway_here()
        {
            self.depend(of.section);
            self.limit_outside(gateway.port, Direction::Ingress, "gateway ");
        }
    }
}
