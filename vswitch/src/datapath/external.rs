//! How does a packet leave the fabric, and how does one come in?
//!
//! Part of the walk. A router's gateway is at one host. Elsewhere a packet whose longest route leads out goes to that host as it was sent; there it is
//! routed, and its source hidden where the gateway says so. What comes to the gateway's MAC address is routed in, or translated back before by its
//! connection's record.
//!
//! # Invariants
//! - Out of a tunnel a packet is routed only if it leaves by a gateway of this very host, comes in by one, or is for one of its addresses: whoever
//!   sent it has left all else to nobody.
//! - What hides sources lets nothing in but answers, and what is for the gateway's own addresses.
//!
//! # References
//! RFC 3022; RFC 4787; RFC 5508; RFC 1812 §5.2.

use hostconfig::{MeterRule, group::Direction};
use net::{DropReason, Id, Mac, NetworkId, Origin, RouterId, Zone, flow_key::ethertype, ids::kind};
use nfv::conntrack::Side;
use nfv::function::{AllFree, Context, Decision, NetworkFunction as _};

use super::{
    flow::{Action, Refusal, RouterHop, Stage},
    sources::Seen,
    tables::{
        Network,
        external::{Gateway, Where},
        l3::{Interface, Route, Router, Target},
    },
    walk::{Known, Walk, Witness},
};

/// The gateway that a packet has passed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crossed {
    /// Its router: of several the first one's, which the connection counts for.
    pub(super) router: RouterId,
    /// Ethernet source and destination with which it left, if it did: answers show them.
    pub(super) left: Option<(Mac, Mac)>,
}

impl<'a, W: Witness> Walk<'a, W> {
    /// It came out of a tunnel, and passed no gateway yet.
    pub(super) fn is_unrouted(&self) -> bool {
        !matches!(self.flow.origin, Origin::Port(_)) && self.crossed.is_none()
    }

    /// May this router have what came out of a tunnel, at this interface and with this route?
    pub(super) fn may_route(
        &mut self,
        router: &Router,
        came: &Interface,
        route: Option<&Route>,
    ) -> bool {
        let Some(gateway) = router.gateway.as_deref() else {
            return false;
        };
        if came.outside {
            return true;
        }
        match route.map(|r| r.target) {
            Some(Target::Outside(_)) => !matches!(gateway.at, Where::Vtep(_)),
            Some(Target::Own) => gateway.interface.is_some() && gateway.owns(self.probe.ip_dst()),
            Some(Target::Martian | Target::Link(_) | Target::Via(..)) | None => false,
        }
    }

    /// It passes a gateway of this host: by its zone the connection is known on the side that has no local port.
    pub(super) fn cross(&mut self, router: RouterId, zone: Zone, left: Option<(Mac, Mac)>) {
        self.zones[0].get_or_insert(zone);
        self.zones[1] = Some(zone);
        let router = self.crossed.map_or(router, |c| c.router);
        self.crossed = Some(Crossed { router, left });
    }

    /// It comes in by the gateway.
    pub(super) fn come_in(
        &mut self,
        router: &Router,
        gateway: &Gateway,
        route: Option<&Route>,
    ) -> Result<(), Refusal> {
        self.cross(router.dense, gateway.zone, None);
        let target = route.map(|r| r.target);
        let own = target == Some(Target::Own) && gateway.owns(self.probe.ip_dst());
        if own {
            return Ok(());
        }
        if let Some(Target::Outside(_)) = target {
            return Err(self.about_sender(DropReason::SplitHorizon, Stage::L3));
        }
        let fresh = matches!(self.lent.known, Known::New | Known::Again(_));
        let hides = gateway.nat.is_some() && self.probe.ethertype() == ethertype::IPV4;
        if fresh && hides && !self.translated {
            self.says(Stage::L3, || {
                format!(
                    "router {} ({}): from outside only answers come to hidden addresses",
                    router.name, router.id
                )
            });
            return Err(self.about_sender(DropReason::HiddenAddress, Stage::L3));
        }
        // Its answer must not show that: it is told by the record.
        if fresh && !self.translated && self.is_for_floating(router) {
            self.flow.tracked = true;
        }
        self.meter(router, Direction::Ingress);
        self.limit_outside(gateway.port, Direction::Ingress, "gateway ");
        Ok(())
    }

    /// It leaves the fabric by this route, from the network on which it came. `None`: it goes to the host that has the gateway.
    pub(super) fn go_out(
        &mut self,
        router: &'a Router,
        hop: RouterHop,
        route: &Route,
        came_on: NetworkId,
    ) -> Result<Option<&'a Network>, Refusal> {
        if let Some(floating) = self.floating_source(router) {
            return self.leave_as(router, floating, hop, route).map(Some);
        }
        let gateway = router.gateway.as_deref();
        let out = gateway.and_then(|g| router.interfaces.get(usize::from(g.interface?)));
        match (gateway, out) {
            (Some(gateway), Some(out)) => {
                let next = self.send_by(router, hop, route, out)?;
                let key = self.probe.rewritten_key();
                let left = (key.src_mac(), key.dst_mac());
                self.cross(router.dense, gateway.zone, Some(left));
                self.meter(router, Direction::Egress);
                self.limit_outside(gateway.port, Direction::Egress, "gateway ");
                self.hide(router, gateway)?;
                Ok(Some(next))
            }
            (Some(gateway), None) if let Where::Vtep(vtep) = gateway.at => {
                self.send_to_gateway(router, gateway.port, vtep, came_on);
                Ok(None)
            }
            _ => {
                self.flow.actions.push(Action::Route(hop));
                self.says(Stage::L3, || {
                    format!(
                        "router {} ({}): no host has its gateway",
                        router.name, router.id
                    )
                });
                Err(self.about_sender(DropReason::NoGateway, Stage::L3))
            }
        }
    }

    /// It crosses a router's gateway, and counts under those of the router's labels whose rules mean it: by the addresses that it has inside.
    pub(super) fn meter(&mut self, router: &Router, direction: Direction) {
        if router.meters.is_empty() {
            return;
        }
        // What answers shows already what it is known by outside.
        let inside = match (direction, self.lent.known) {
            (Direction::Egress, Known::Reply { entry, .. }) => {
                Some(entry.side(Side::Reply).tuple().src_addr())
            }
            _ => None,
        };
        for meter in &router.meters {
            let rules = meter.rules.iter().filter(|r| r.direction == direction);
            let meant = |this: &mut Self, rule: &MeterRule| {
                let source = rule.source.is_none_or(|prefix| match inside {
                    Some(inside) => prefix.contains(inside),
                    None => this.probe.ip_src_in(prefix),
                });
                source
                    && rule
                        .destination
                        .is_none_or(|prefix| this.probe.ip_dst_in(prefix))
            };
            let mut first = None;
            for rule in rules {
                if meant(self, rule) {
                    first = Some(rule);
                    break;
                }
            }
            if first.is_none_or(|rule| rule.excluded) || self.flow.meters.contains(&meter.id) {
                continue;
            }
            self.flow.meters.push(meter.id);
            self.says(Stage::L3, || {
                format!(
                    "router {} ({}): counts for label {}",
                    router.name, router.id, meter.label
                )
            });
        }
    }

    /// As it was sent, to the host that has the gateway: that one routes it.
    fn send_to_gateway(
        &mut self,
        router: &Router,
        port: Id<kind::Port>,
        vtep: net::VtepId,
        network: NetworkId,
    ) {
        self.leave();
        let tables = self.tables;
        self.says(Stage::L3, || {
            let addr = tables.vtep(vtep).map(|v| v.addr.to_string());
            let addr = addr.unwrap_or_else(|| "gone".to_owned());
            format!(
                "router {} ({}): to its gateway {port}, which is at vtep {addr}",
                router.name, router.id
            )
        });
        // On a network with a wire that host hears it there.
        self.flow.actions.push(match tables.wire_of(network) {
            Some(_) => Action::Wire(network),
            None => Action::Tunnel { network, vtep },
        });
    }

    /// Where sources are shown, what answers may have one of outside by its record: a floating IP that it had at this host, and is another's.
    fn shows_its_own(&mut self, router: &Router, gateway: &Gateway) -> Result<(), Refusal> {
        let answers = matches!(self.lent.known, Known::Reply { .. } | Known::Related { .. });
        if !answers || !self.translated {
            return Ok(());
        }
        let src = self.probe.ip_src();
        let outside = router.route_to(src).map(|r| r.target);
        if matches!(outside, Some(Target::Outside(_))) && !gateway.owns(src) {
            return Err(self.about_sender(DropReason::NatAddressGone, Stage::L3));
        }
        Ok(())
    }

    /// Its source becomes the gateway's, where that hides those of its family.
    fn hide(&mut self, router: &Router, gateway: &Gateway) -> Result<(), Refusal> {
        let Some(nat) = &gateway.nat else {
            return self.shows_its_own(router, gateway);
        };
        if self.probe.ethertype() != ethertype::IPV4 {
            return self.shows_its_own(router, gateway);
        }
        let binding = match self.lent.known {
            Known::New => None,
            Known::Again(binding) => binding,
            // What it shows is the gateway's; a floating IP that was its, and is another's, is shown by nobody here.
            Known::Reply { .. } | Known::Related { .. }
                if self.translated && gateway.owns(self.probe.ip_src()) =>
            {
                return Ok(());
            }
            // It was translated at another host, which had the gateway or a floating IP. Outside nobody may see its address inside.
            Known::Reply { .. } | Known::Related { .. } => {
                return Err(self.about_sender(DropReason::NatAddressGone, Stage::L3));
            }
        };
        // One that began while sources were shown begins anew: its record is not the one that answers find.
        let binding = binding.filter(|b| gateway.owns(b.src.0));
        let seen = self.lent.sources.map(|lender| Seen {
            lender,
            client: self.zones[0].unwrap_or_default(),
        });
        let context = Context {
            now: self.lent.now,
            again: binding.is_some(),
            binding,
            question: self.lent.sources.is_none(),
            seed: self.tables.seed(),
            host: Some(0),
            network: None,
            attempt: self.lent.attempt,
            sources: match &seen {
                Some(seen) => seen,
                None => &AllFree,
            },
        };
        let witness = &mut *self.witness;
        let decided = nat.decide(self.probe, &context, &mut |words| {
            if W::LISTENS {
                witness.says(
                    Stage::L3,
                    format_args!(
                        "router {} ({}): gateway {}: {words}",
                        router.name, router.id, gateway.port
                    ),
                );
            }
        });
        match decided {
            Decision::Snat { to, address } => {
                self.probe.set_src(to.0, to.1);
                self.flow.tracked = true;
                self.source = Some(address);
                if !self.translated {
                    self.flow.actions.push(Action::Translate);
                    self.translated = true;
                }
                Ok(())
            }
            Decision::Drop { reason, .. } => Err(self.about_sender(reason, Stage::L3)),
            // What has no source that could be hidden stays inside.
            Decision::Pass
            | Decision::Dnat { .. }
            | Decision::Spend(_)
            | Decision::Copy(_)
            | Decision::Inspect
            | Decision::Queue
            | Decision::HandOver => Err(self.about_sender(DropReason::ConntrackInvalid, Stage::L3)),
        }
    }
}
