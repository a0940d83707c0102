//! Which host has which router's gateway?
//!
//! One at a time: the choice is the gateway port's host in the store, written by compare and swap. It is made among the hosts that
//! are here and have the external network's wire, evenly, and kept; a host that is gone for [`GONE`] loses its gateways to others.
//!
//! # Never two at once
//! A host that could lose a gateway stops answering for it when it has not heard from its controller for a second and a half, and was told
//! so (`movable`). So a gateway is taken from a silent host only if whatever that host was told says so (`may_move`, in the store: another
//! could have it when it was placed, or the host proved to have heard it since), and [`GONE`] after the last that it was sent: from
//! then on a session sends a silent host nothing more. From a host that is here (it is out of service, or lost its wire) a gateway is taken
//! first, and given to another when it has proved that it knows that.
//!
//! # Cost
//! A beat looks at the hosts that have gateways, and at the gateways of those that are gone; each second all gateways are looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hostconfig::{Section, SectionKey};
use net::{Id, Now, ids::kind};

use super::publish::Live;
use crate::compile::{
    Compiler,
    intent::{Gateway, Host, HostName, Port},
};

/// After this time without a word a host has lost its gateways: half a second after it stopped answering for them.
pub(super) const GONE: Duration = Duration::from_secs(2);
/// After a start of the controller hosts have this long to come back to it.
const RETURN: Duration = Duration::from_secs(5);
/// A placement that was asked for is seen in the store by then, or asked for again.
const ASKED: Duration = Duration::from_secs(1);
/// Beats that are so far apart say that this process stood still: nobody is gone by that.
const STALL: Duration = Duration::from_millis(750);

type Sessions = BTreeMap<HostName, Live>;

/// Where a gateway is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The gateway's port.
    pub port: Id<kind::Port>,
    /// Where it must be still.
    pub from: Option<HostName>,
    /// Where it is to be; nowhere until the host that has it has heard so.
    pub to: Option<HostName>,
    /// Does the host that has it know that another may have it?
    pub may_move: bool,
}

#[derive(Debug)]
struct Asked {
    to: Option<HostName>,
    at: Now,
}

/// What was asked for, and who is away.
#[derive(Debug)]
pub(super) struct Schedule {
    started: Now,
    beat: Now,
    /// Hosts that were here in this process and are not any more, since when.
    parted: BTreeMap<HostName, Now>,
    asked: BTreeMap<Id<kind::Port>, Asked>,
    /// Gateways that were taken from a host that is here, until it proved that it heard it.
    given_up: BTreeMap<Id<kind::Port>, GivenUp>,
}

/// Who had a gateway, and did that one know that another may have it?
#[derive(Debug)]
struct GivenUp {
    host: HostName,
    may_move: bool,
}

impl Schedule {
    pub(super) fn new(now: Now) -> Self {
        Self {
            started: now,
            beat: now,
            parted: BTreeMap::new(),
            asked: BTreeMap::new(),
            given_up: BTreeMap::new(),
        }
    }

    /// A host's stream ended.
    pub(super) fn parted(&mut self, host: &HostName, now: Now) {
        self.parted.entry(host.clone()).or_insert(now);
    }

    /// A host said hello.
    pub(super) fn met(&mut self, host: &HostName) {
        self.parted.remove(host);
    }

    /// A host's record is gone.
    pub(super) fn forget(&mut self, host: &HostName) {
        self.parted.remove(host);
    }

    /// Did this process stand still since the last beat?
    pub(super) fn stalled(&mut self, now: Now) -> bool {
        let stalled = now.since(self.beat) > STALL;
        self.beat = now;
        if stalled {
            for since in self.parted.values_mut() {
                *since = (*since).max(now);
            }
        }
        stalled
    }

    /// The placements of all gateways that are to be elsewhere, or whose hosts came to know that they may be.
    pub(super) fn all(&mut self, compiler: &Compiler, live: &Sessions, now: Now) -> Vec<Placement> {
        let ports: BTreeSet<_> = {
            let intent = compiler.intent();
            let routers = intent.leaving();
            let gateways = routers.filter_map(|router| intent.gateway(router));
            gateways.map(|(gateway, _)| gateway.port).collect()
        };
        self.asked.retain(|port, _| ports.contains(port));
        self.given_up.retain(|port, _| ports.contains(port));
        self.of(&ports, compiler, live, now)
    }

    /// Those of hosts that are gone.
    pub(super) fn of_gone(
        &mut self,
        compiler: &Compiler,
        live: &Sessions,
        now: Now,
    ) -> Vec<Placement> {
        let gateways = &compiler.intent().gateways_at;
        let mut ports = BTreeSet::new();
        for host in gateways.keys() {
            if self.is_gone(host, live, now) {
                ports.extend(gateways.of(host));
            }
        }
        self.of(&ports, compiler, live, now)
    }

    /// Those of these ports, as far as they are gateways.
    pub(super) fn of(
        &mut self,
        ports: &BTreeSet<Id<kind::Port>>,
        compiler: &Compiler,
        live: &Sessions,
        now: Now,
    ) -> Vec<Placement> {
        let intent = compiler.intent();
        let mut placements = Vec::new();
        for id in ports {
            let Some(router) = intent.port(*id).and_then(|port| port.gateway_of) else {
                continue;
            };
            let Some((gateway, port)) = intent.gateway(router).filter(|(g, _)| g.port == *id)
            else {
                continue;
            };
            if self
                .asked
                .get(id)
                .is_some_and(|asked| now.since(asked.at) < ASKED)
            {
                continue;
            }
            let had = self.given_up.get(id).filter(|_| port.host.is_none());
            if had.is_some_and(|had| !self.has_heard(had, router, (compiler, live), now)) {
                continue;
            }
            let placement = if self.is_to_move(gateway, port, compiler, live, now) {
                self.choice(gateway, port, compiler, live)
            } else {
                learnt(router, port, compiler, live)
            };
            let here = port.host.as_ref().filter(|host| is_here(host, live));
            let placement = placement.map(|placement| match here {
                Some(host) if placement.to.as_ref() != Some(host) => {
                    let (host, may_move) = (host.clone(), port.may_move);
                    self.given_up.insert(*id, GivenUp { host, may_move });
                    Placement {
                        to: None,
                        may_move: false,
                        ..placement
                    }
                }
                Some(_) | None => placement,
            });
            if let Some(placement) = placement {
                let to = placement.to.clone();
                self.asked.insert(*id, Asked { to, at: now });
                placements.push(placement);
            }
        }
        placements
    }

    /// Does a host that had a gateway hold the router as it is now, or answer for it no more? One that is gone and did not know that another may have
    /// it goes on answering, unless it is no host any more.
    fn has_heard(
        &self,
        had: &GivenUp,
        router: Id<kind::Router>,
        (compiler, live): (&Compiler, &Sessions),
        now: Now,
    ) -> bool {
        let session = live.get(&had.host).map(|live| &live.session);
        let proved = session.is_some_and(|session| session.is_proved(SectionKey::Router(router)));
        let known = compiler.intent().host(&had.host).is_some();
        proved || !known || had.may_move && self.is_gone(&had.host, live, now)
    }

    /// What was asked for has happened, or something else.
    pub(super) fn seen(&mut self, ports: &BTreeSet<Id<kind::Port>>) {
        if !self.asked.is_empty() {
            self.asked.retain(|port, _| !ports.contains(port));
        }
    }

    /// Has the host been away for so long that another may answer in its place?
    fn is_gone(&self, host: &HostName, live: &Sessions, now: Now) -> bool {
        if let Some(live) = live.get(host).filter(|live| live.session.is_met()) {
            return live.session.is_silent();
        }
        match self.parted.get(host) {
            Some(since) => now.since(*since) >= GONE,
            None => now.since(self.started) >= RETURN,
        }
    }

    fn is_to_move(
        &self,
        gateway: Gateway,
        port: &Port,
        compiler: &Compiler,
        live: &Sessions,
        now: Now,
    ) -> bool {
        let Some(name) = &port.host else { return true };
        let Some(host) = compiler.intent().host(name) else {
            return true;
        };
        let able = compiler
            .intent()
            .carriers_of(gateway.network)
            .any(|carrier| carrier.name == *name);
        if is_here(name, live) {
            !able || !host.in_service
        } else {
            port.may_move && self.is_gone(name, live, now)
        }
    }

    /// The host with the fewest gateways of those that can have it; none if there is none but the one that has it.
    fn choice(
        &self,
        gateway: Gateway,
        port: &Port,
        compiler: &Compiler,
        live: &Sessions,
    ) -> Option<Placement> {
        let intent = compiler.intent();
        let load = |host: &Host| {
            let asked = self
                .asked
                .values()
                .filter(|asked| asked.to.as_ref() == Some(&host.name));
            intent.gateways_at.count(&host.name) + asked.count()
        };
        let can = intent.carriers_of(gateway.network).filter(|host| {
            host.in_service && port.host.as_ref() != Some(&host.name) && is_here(&host.name, live)
        });
        let best = can.min_by_key(|host| (load(host), host.name.clone()))?;
        let mut carriers = intent.carriers_of(gateway.network);
        Some(Placement {
            port: port.section.id,
            from: port.host.clone(),
            to: Some(best.name.clone()),
            may_move: carriers.any(|host| host.name != best.name),
        })
    }
}

/// Is the host connected and heard?
fn is_here(host: &HostName, live: &Sessions) -> bool {
    let session = live.get(host).map(|live| &live.session);
    session.is_some_and(|session| session.is_met() && !session.is_silent())
}

/// Has the host proved that it knows that another may have the gateway?
fn learnt(
    router: Id<kind::Router>,
    port: &Port,
    compiler: &Compiler,
    live: &Sessions,
) -> Option<Placement> {
    if port.may_move {
        return None;
    }
    let host = port.host.clone()?;
    let key = SectionKey::Router(router);
    let session = live.get(&host).map(|live| &live.session);
    session.filter(|session| session.is_proved(key))?;
    let section = compiler.config(&host)?.sections.get(&key)?;
    let Section::Router(told) = section.body() else {
        return None;
    };
    let vtep = compiler.intent().host(&host)?.vtep;
    let gateway = told.gateway.as_ref()?;
    (gateway.movable && gateway.at.is_some() && gateway.at == vtep).then(|| Placement {
        port: port.section.id,
        from: Some(host.clone()),
        to: Some(host),
        may_move: true,
    })
}
