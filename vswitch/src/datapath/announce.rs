//! When does a switch tell a network outside that an address is here?
//!
//! When a gateway or a floating IP begins to be here, or has another MAC address: at once, and twice more within the first second, since a
//! broadcast may be lost and neighbours outside believe what they last heard. On a network with a wire it is told there, on one without to
//! everyone who is on it. One worker speaks for all.
//!
//! Likewise for a workload on a network with a wire, when its device comes to this host: switches outside learn that its MAC address moved
//! before it says anything itself. That is told on the wire alone: whoever is on the fabric knows.
//!
//! # Invariants
//! - What has gone is told of no more, and what did not change is not told anew.
//!
//! # Cost
//! For each new config one comparison of what is here; at most [`AT_ONCE`] addresses are told of in a turn.
//!
//! # References
//! RFC 5227 §3 (announcements by ARP); RFC 4861 §7.2.6 (unsolicited advertisements).

use std::{collections::HashSet, net::IpAddr, time::Duration};

use net::{Id, Now, Origin, Originated, PortId, ids::kind};
use nfv::conntrack::Entry;
use overlay::{Place, Receiver};

use super::{
    Datapath, Tables,
    execute::{Cx, Hands},
    neighbours::{self, Frame, Speaker},
    tables::{Network, Port, SectionIndex, l3::Interface},
};

/// How often, and how far apart.
const ANNOUNCEMENTS: u8 = 3;
const APART: Duration = Duration::from_millis(400);
/// How many are told of in one turn, and how soon after it the next are.
const AT_ONCE: usize = 64;
const PAUSE: Duration = Duration::from_millis(10);

/// Who answers for an address outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Answers {
    /// The address, and at which MAC address it is.
    pub(super) of: Speaker,
    /// Is it a router's own? A floating IP is its workload's.
    pub(super) router: bool,
}

/// Who answers for an address of this network outside, here, and the sections that say so.
pub(super) fn answers_for(
    tables: &Tables,
    network: &Network,
    addr: IpAddr,
) -> Option<(Answers, [SectionIndex; 2])> {
    let known = network.neighbours.get(addr)?;
    let Place::Router(router) = network.fdb.get(known.mac)?.place else {
        return None;
    };
    let router = tables.router(router).filter(|r| r.admin_up)?;
    let answers = |interface: &Interface, router| Answers {
        of: Speaker {
            mac: interface.mac,
            addr,
        },
        router,
    };
    if let Some(floating) = tables.floating().of_port(known.port) {
        let sections = [router.section, floating.section];
        return Some((answers(&floating.interface, false), sections));
    }
    let (_, interface) = router.interface(known.port)?;
    let up = interface.admin_up && interface.outside;
    up.then(|| (answers(interface, true), [router.section; 2]))
}

/// An address of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Here {
    network: Id<kind::Network>,
    answers: Answers,
    /// Is it told on the network's wire alone?
    wire: bool,
}

/// Tells what is here now.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    /// The ports whose devices are here.
    devices: HashSet<PortId>,
    here: HashSet<Here>,
    due: Vec<Announced>,
}

/// An address that is told of.
#[derive(Debug, Clone, Copy)]
struct Announced {
    here: Here,
    left: u8,
    at: Now,
}

impl Announcer {
    /// There are other tables: what begins here is to be told, what went is not told of any more.
    fn follow(&mut self, tables: &Tables, now: Now) {
        let mut here = here(tables);
        here.extend(workloads(tables, &self.devices));
        self.due.retain(|d| here.contains(&d.here));
        let mut new: Vec<_> = here.difference(&self.here).copied().collect();
        // In one order, whatever the hash has.
        new.sort_unstable_by_key(|here| (here.network, here.answers.of.addr));
        self.due.extend(new.into_iter().map(|here| Announced {
            here,
            left: ANNOUNCEMENTS,
            at: now,
        }));
        self.here = here;
    }

    /// What is to be told now; it counts as told.
    fn take_due(&mut self, now: Now) -> Vec<Here> {
        let due = self.due.iter_mut().filter(|told| told.at <= now);
        let due = due.take(AT_ONCE).map(|told| {
            told.left = told.left.saturating_sub(1);
            told.at = now + APART;
            told.here
        });
        let due = due.collect();
        self.due.retain(|told| told.left > 0);
        due
    }

    /// When there is something to be told next; `None` where all is told.
    fn next(&self, now: Now) -> Option<Now> {
        let next = self.due.iter().map(|told| told.at).min()?;
        Some(next.max(now + PAUSE))
    }
}

/// All that this host answers for outside.
fn here(tables: &Tables) -> HashSet<Here> {
    let gateways = tables.routers().filter(|r| r.admin_up).flat_map(|router| {
        let outside = router.interfaces.iter().filter(|i| i.outside && i.admin_up);
        outside.map(|i| (i, true))
    });
    let floating = tables.floating().iter().filter_map(|floating| {
        let up = tables.router(floating.router).is_some_and(|r| r.admin_up);
        up.then_some((&floating.interface, false))
    });
    let mut here = HashSet::new();
    for (interface, router) in gateways.chain(floating) {
        let network = tables.network(interface.network);
        let Some(network) = network.filter(|n| n.admin_up) else {
            continue;
        };
        let mac = interface.mac;
        // The link-local address is a router's to speak from; a floating IP is one address.
        let addrs = interface
            .answers_for()
            .filter(|addr| router || interface.addrs.iter().any(|(own, _)| own == addr));
        here.extend(addrs.map(|addr| {
            let of = Speaker { mac, addr };
            Here {
                network: network.id,
                answers: Answers { of, router },
                wire: false,
            }
        }));
    }
    here
}

/// The addresses of workloads that are here, on networks that have a wire here.
fn workloads<'a>(
    tables: &'a Tables,
    devices: &'a HashSet<PortId>,
) -> impl Iterator<Item = Here> + 'a {
    let wired = tables.networks().filter(|n| n.admin_up && n.wire.is_some());
    wired.flat_map(move |network| {
        let ports = network.flood.ports().iter();
        let ports = ports.filter_map(|port| tables.port(*port));
        // The device of a sub-port is its parent's.
        let is_here = |port: &&Port| {
            let device = tables
                .carrier(port.dense)
                .map_or(port.dense, |(own, _)| own);
            port.admin_up && devices.contains(&device)
        };
        let ports = ports.filter(is_here);
        ports.flat_map(move |port| {
            port.addrs.iter().map(move |addr| Here {
                network: network.id,
                answers: Answers {
                    of: Speaker {
                        mac: port.mac,
                        addr: *addr,
                    },
                    router: false,
                },
                wire: true,
            })
        })
    })
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Datapath<M> {
    /// There are other tables. One worker speaks for all.
    pub(super) fn follow_outside(&mut self, tables: &Tables, now: Now) {
        if self.settings.worker.0 == 0 {
            self.announcer.follow(tables, now);
        }
    }

    /// A port's device came, or went.
    pub(crate) fn device(&mut self, tables: &Tables, port: PortId, here: bool, now: Now) {
        let devices = &mut self.announcer.devices;
        let changed = if here {
            devices.insert(port)
        } else {
            devices.remove(&port)
        };
        if changed {
            self.follow_outside(tables, now);
        }
    }

    /// Tells networks outside what is here now. When next; `None` where all is told.
    pub(super) fn announce(&mut self, cx: &mut Cx<'_>) -> Option<Now> {
        for told in self.announcer.take_due(cx.now) {
            let frame = neighbours::announcement(told.answers.of, told.answers.router);
            let Some(network) = cx.tables.network_by_id(told.network) else {
                continue;
            };
            if told.wire {
                self.hands
                    .say_outside(network, &frame, Originated::Announcement, cx);
            } else {
                self.hands.announce(network, &frame, cx);
            }
        }
        self.announcer.next(cx.now)
    }
}

impl Hands {
    /// All who are on a network outside hear it. Who gets none, since no buffer is free, hears the next time.
    fn announce(&mut self, network: &Network, frame: &Frame, cx: &mut Cx<'_>) {
        let what = Originated::Announcement;
        if network.wire.is_some() {
            self.say_outside(network, frame, what, cx);
        }
        for receiver in network.flood.replicate(Origin::Switch) {
            match receiver {
                Receiver::Port(port) => {
                    let up = cx.tables.port(port).is_some_and(|p| p.admin_up);
                    if let Some(packet) = up.then(|| self.make(frame, what, cx)).flatten() {
                        self.deliver(port, packet, cx);
                    }
                }
                // What is elsewhere on a network with a wire hears it there.
                Receiver::Vtep(_) if network.wire.is_some() => {}
                Receiver::Vtep(vtep) => {
                    if let Some(packet) = self.make(frame, what, cx) {
                        self.tunnel(network.dense, vtep, packet, cx);
                    }
                }
            }
        }
    }
}
