//! What do the firewall groups of ports and of routers' interfaces say?
//!
//! Part of the walk. A port's group is asked beside its security groups, with the packet as its workload sees it. That of a router's
//! interface is asked where the packet is routed: egress for what comes to the router there, ingress for what it sends there. See ADR 22.
//!
//! # Invariants
//! - A connection passes a firewall as its original side does. What answers is let through by that: where the original side was
//!   routed in this switch, by its program, which is current; elsewhere the rules are asked about the original side's tuple, since no
//!   verdict comes by a tunnel.

use hostconfig::{firewall::Action, group::Direction};
use net::{DropReason, Id, Origin, Probe, RouterId, flow_key::ethertype, ids::kind};
use nfv::conntrack::{Entry, Side};

use super::{
    flow::{Refusal, Stage},
    tables::{
        Port,
        firewall::{Firewall, Ruling},
        l3::{Interface, Router},
        security_group,
    },
    upcall::original_key,
    walk::{Known, Walk, Witness},
};

const fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

const fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Ingress => Direction::Egress,
        Direction::Egress => Direction::Ingress,
    }
}

impl<'a, W: Witness> Walk<'a, W> {
    /// What the firewall group of a local port says, if it has one.
    pub(super) fn port_firewall(
        &mut self,
        port: &Port,
        direction: Direction,
    ) -> Result<(), Refusal> {
        let Some(firewall) = self.firewall(port.firewall) else {
            return Ok(());
        };
        let v6 = match self.probe.ethertype() {
            ethertype::IPV4 => false,
            ethertype::IPV6 => true,
            // Port security judged it.
            _ => return Ok(()),
        };
        let way = word(direction);
        if let Some(why) = security_group::always(self.probe, direction, v6) {
            self.says(Stage::Firewall, || format!("{way}: always allowed ({why})"));
            return Ok(());
        }
        if self.is_established(port) {
            self.flow.tracked = true;
            self.says(Stage::Firewall, || format!("{way}: established"));
            return Ok(());
        }
        let ruling = firewall.judge(self.probe, direction);
        self.ruled(firewall, ruling, way)
            .map_err(|refusal| refusal.at(port.dense))
    }

    /// What the firewall group of a router's interface says, if it has one: egress of what comes to the router there, ingress of what it
    /// sends there.
    pub(super) fn fence(
        &mut self,
        router: &Router,
        interface: &Interface,
        direction: Direction,
    ) -> Result<(), Refusal> {
        let Some(firewall) = self.firewall(interface.firewall) else {
            return Ok(());
        };
        let way = word(direction);
        let name = || format!("router {} ({}), {way}", router.name, router.id);
        let ruling = match self.original_side(router.dense) {
            Original::Begins => firewall.judge(self.probe, direction),
            Original::Passed => {
                self.flow.tracked = true;
                self.says(Stage::Firewall, || format!("{}: established", name()));
                return Ok(());
            }
            Original::Elsewhere(entry, turned) => {
                let mut probe = Probe::new(&original_key(entry, Origin::Switch));
                let as_sent = if turned {
                    opposite(direction)
                } else {
                    direction
                };
                firewall.judge(&mut probe, as_sent)
            }
        };
        let text = if W::LISTENS { name() } else { String::new() };
        let refused = self.ruled(firewall, ruling, &text);
        refused.map_err(|refusal| Refusal {
            port: self.owner,
            ..refusal
        })
    }

    fn firewall(&mut self, id: Option<Id<kind::FirewallGroup>>) -> Option<&'a Firewall> {
        let firewall = self.tables.firewall(id?)?;
        self.depend(firewall.section);
        Some(firewall)
    }

    /// What is known of the side that began the packet's connection.
    fn original_side(&self, router: RouterId) -> Original<'a> {
        let (entry, forward, turned) = match self.lent.known {
            Known::New | Known::Again(_) => return Original::Begins,
            Known::Reply { entry, forward } => (entry, forward, true),
            Known::Related {
                entry,
                side,
                forward,
            } => (entry, forward, side == Side::Reply),
        };
        if forward.routers().any(|hop| hop.router == router) {
            return Original::Passed;
        }
        Original::Elsewhere(entry, turned)
    }

    /// Does as the firewall says: what passes is tracked.
    fn ruled(&mut self, firewall: &Firewall, ruling: Ruling<'_>, way: &str) -> Result<(), Refusal> {
        let denied = Refusal::new(DropReason::FirewallDenied, Stage::Firewall);
        let Firewall { id, name, .. } = firewall;
        match ruling {
            Ruling::Beyond => Ok(()),
            Ruling::Rule(rule, action, policy) => {
                self.says(Stage::Firewall, || {
                    let says = match action {
                        Action::Allow => "allow: new -> commit",
                        Action::Deny => "deny",
                        Action::Reject => "reject",
                    };
                    format!("{way} rule {rule} of policy {policy}, group {name} ({id}): {says}")
                });
                let reason = match action {
                    Action::Allow => {
                        self.flow.tracked = true;
                        return Ok(());
                    }
                    Action::Deny => DropReason::FirewallDenied,
                    Action::Reject => DropReason::FirewallRejected,
                };
                Err(Refusal {
                    reason,
                    rule: Some(rule),
                    ..denied
                })
            }
            Ruling::NoRule(policy) => {
                self.says(Stage::Firewall, || match policy {
                    "" => format!("{way}: group {name} ({id}) has no policy for it"),
                    policy => format!("{way}: no rule of policy {policy}, group {name} ({id})"),
                });
                Err(denied)
            }
            Ruling::Off => {
                self.says(Stage::Firewall, || {
                    format!("{way}: group {name} ({id}) is down")
                });
                Err(denied)
            }
        }
    }
}

/// What a firewall of a router knows of the original side of a connection.
enum Original<'a> {
    /// It is this packet that begins it, or stands for the one that did.
    Begins,
    /// It was routed here, past the same firewall.
    Passed,
    /// It was routed elsewhere: its record here, and whether the packet at hand goes the other way.
    Elsewhere(&'a Entry, bool),
}
