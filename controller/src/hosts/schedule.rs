//! Which host has which router's gateway?
//!
//! One at a time: the choice is the gateway port's host in the store, written by compare and swap. It is made among the hosts that
//! are here, have the external network's wire and are in a zone that the router names (if it names any), evenly, and kept; a host that is gone for [`GONE`] loses its gateways to others.
//!
//! # Never two at once
//! A host has a gateway that it could lose, and was told so (`movable`), under a lease: for 1.2 s from the last moment, by its own clock, of which it
//! knows that this controller heard it (`vswitch::agent::fence`). Its messages carry its clock, pings carry back the last reading; so whatever is under way
//! for long, in either direction, makes the lease shorter, and [`GONE`] after it was last heard a host has none.
//! - A gateway is *taken* first: the store says that it is nowhere, and who had it (`left`). So a controller that starts anew knows.
//!   So is one that was taken off its router, whose next port says who had the last (`resources/router/gateway`).
//! - It is *given* to another once the host that had it has proved that it knows, or, if whatever it was told says that it could lose it (`may_move`, in the store:
//!   another could have it when it was placed, or the host proved to have heard it since), is gone at that moment.
//! - From what was taken on, a host is told no newer reading before it was told that: pings say nothing new while sections of routers wait.
//!
//! Who was not met since this process started may have been heard by the last one until then: it is gone [`RETURN`] after the start.
//!
//! # Hosts of another version
//! One whose messages carry no clock counts from when it reads, for 1.5 s: it is gone [`READER_GONE`] after it was last sent anything, and is sent nothing while it is silent.
//! What is under way to it for longer than the difference is not covered.
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

/// After this time without a word a host has lost its gateways: its lease is over after four fifths of it, and its clock may be that much slower.
pub(super) const GONE: Duration = Duration::from_millis(1500);
/// The same of a host that counts from when it reads.
pub(super) const READER_GONE: Duration = Duration::from_secs(2);
/// For so long it is remembered that a host without a record is gone.
const FORGET: Duration = Duration::from_mins(1);
/// After a start of the controller hosts have this long to come back to it.
const RETURN: Duration = Duration::from_secs(5);
/// A placement that was asked for is seen in the store by then, or asked for again.
pub(super) const ASKED: Duration = Duration::from_secs(1);
/// Beats that are so far apart say that this process stood still: nobody is gone by that.
const STALL: Duration = Duration::from_millis(500);

type Sessions = BTreeMap<HostName, Live>;

/// Where a gateway is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The gateway's port.
    pub port: Id<kind::Port>,
    /// Where it must be still.
    pub from: Seat,
    /// Where it is to be.
    pub to: Seat,
    /// Does the host that has it, or had it, know that another may have it?
    pub may_move: bool,
}

/// Where a gateway is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// At this host.
    pub host: Option<HostName>,
    /// Nowhere: it was taken from this one.
    pub left: Option<HostName>,
}

impl Seat {
    /// At a host.
    pub fn at(host: &HostName) -> Self {
        Self {
            host: Some(host.clone()),
            left: None,
        }
    }

    fn of(port: &Port) -> Self {
        Self {
            host: port.host.clone(),
            left: port.left.clone(),
        }
    }
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
    /// Hosts that were here in this process and are not any more, and when they have no lease any more.
    parted: BTreeMap<HostName, Now>,
    asked: BTreeMap<Id<kind::Port>, Asked>,
    /// Gateways that wait for a host to prove something: that it knows that one was taken from it, or may be.
    waiting: BTreeSet<Id<kind::Port>>,
}

impl Schedule {
    pub(super) fn new(now: Now) -> Self {
        Self {
            started: now,
            beat: now,
            parted: BTreeMap::new(),
            asked: BTreeMap::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// A host's stream ended, and its lease will then.
    pub(super) fn parted(&mut self, host: &HostName, lapses: Now) {
        let known = self.parted.entry(host.clone()).or_insert(lapses);
        *known = lapses.max(*known);
    }

    /// A host said hello.
    pub(super) fn met(&mut self, host: &HostName) {
        self.parted.remove(host);
    }

    /// Did this process stand still since the last beat?
    pub(super) fn stalled(&mut self, now: Now) -> bool {
        let stalled = now.since(self.beat) > STALL;
        self.beat = now;
        if stalled {
            for lapses in self.parted.values_mut() {
                *lapses = (*lapses).max(now + GONE);
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
        self.waiting.retain(|port| ports.contains(port));
        let known = |host: &HostName| compiler.intent().host(host).is_some();
        self.parted
            .retain(|host, lapses| known(host) || now.since(*lapses) < FORGET);
        self.of(&ports, compiler, live, now)
    }

    /// Those of hosts that are gone, and those that wait for one to know.
    pub(super) fn of_gone(
        &mut self,
        compiler: &Compiler,
        live: &Sessions,
        now: Now,
    ) -> Vec<Placement> {
        let gateways = &compiler.intent().gateways_at;
        let mut ports = self.waiting.clone();
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
            let placement = match (&port.host, &port.left) {
                (Some(host), _) if self.is_to_move(gateway, host, port, compiler, live, now) => {
                    let other = self.choice(gateway, port, compiler, live);
                    other.map(|_| taken_from(host, port))
                }
                (Some(host), _) => {
                    if !port.may_move && intent.is_movable(gateway, port) {
                        self.waiting.insert(*id);
                    }
                    learnt(router, host, port, compiler, live)
                }
                (None, Some(had))
                    if !self.has_lost((had, port.may_move), router, (compiler, live), now) =>
                {
                    self.waiting.insert(*id);
                    None
                }
                (None, _) => self.choice(gateway, port, compiler, live),
            };
            if let Some(placement) = placement {
                self.waiting.remove(id);
                let to = placement.to.host.clone();
                self.asked.insert(*id, Asked { to, at: now });
                placements.push(placement);
            }
        }
        placements
    }

    /// Does a host that had a gateway know that it has it no more, or can't have it? One that is gone and did not know that another may have
    /// it goes on answering, unless it is no host any more.
    fn has_lost(
        &self,
        (had, may_move): (&HostName, bool),
        router: Id<kind::Router>,
        (compiler, live): (&Compiler, &Sessions),
        now: Now,
    ) -> bool {
        let session = live.get(had).map(|live| &live.session);
        let proved = session.is_some_and(|session| session.is_proved(SectionKey::Router(router)));
        let known = compiler.intent().host(had).is_some();
        proved || (may_move || !known) && self.is_gone(had, live, now)
    }

    /// What was asked for has happened, or something else.
    pub(super) fn seen(&mut self, ports: &BTreeSet<Id<kind::Port>>) {
        if !self.asked.is_empty() {
            self.asked.retain(|port, _| !ports.contains(port));
        }
    }

    /// Has the host been away for so long that another may answer in its place?
    pub(super) fn is_gone(&self, host: &HostName, live: &Sessions, now: Now) -> bool {
        if let Some(live) = live.get(host).filter(|live| live.session.is_met()) {
            return live.session.is_silent();
        }
        match self.parted.get(host) {
            Some(lapses) => now >= *lapses,
            None => now.since(self.started) >= RETURN,
        }
    }

    fn is_to_move(
        &self,
        gateway: Gateway,
        name: &HostName,
        port: &Port,
        compiler: &Compiler,
        live: &Sessions,
        now: Now,
    ) -> bool {
        let Some(host) = compiler.intent().host(name) else {
            return true;
        };
        let able = compiler
            .intent()
            .seats_of(gateway, port)
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
        let can = intent.seats_of(gateway, port).filter(|host| {
            host.in_service && port.host.as_ref() != Some(&host.name) && is_here(&host.name, live)
        });
        let best = can.min_by_key(|host| (load(host), host.name.clone()))?;
        let mut carriers = intent.seats_of(gateway, port);
        Some(Placement {
            port: port.section.id,
            from: Seat::of(port),
            to: Seat::at(&best.name),
            may_move: carriers.any(|host| host.name != best.name),
        })
    }
}

/// Is the host connected and heard?
pub(super) fn is_here(host: &HostName, live: &Sessions) -> bool {
    let session = live.get(host).map(|live| &live.session);
    session.is_some_and(|session| session.is_met() && !session.is_silent())
}

/// It is to be nowhere, until the host that has it has lost it.
fn taken_from(host: &HostName, port: &Port) -> Placement {
    Placement {
        port: port.section.id,
        from: Seat::of(port),
        to: Seat {
            host: None,
            left: Some(host.clone()),
        },
        may_move: port.may_move,
    }
}

/// Has the host proved that it knows that another may have the gateway?
fn learnt(
    router: Id<kind::Router>,
    host: &HostName,
    port: &Port,
    compiler: &Compiler,
    live: &Sessions,
) -> Option<Placement> {
    if port.may_move {
        return None;
    }
    let key = SectionKey::Router(router);
    let session = live.get(host).map(|live| &live.session);
    session.filter(|session| session.is_proved(key))?;
    let section = compiler.config(host)?.sections.get(&key)?;
    let Section::Router(told) = section.body() else {
        return None;
    };
    let vtep = compiler.intent().host(host)?.vtep;
    let gateway = told.gateway.as_ref()?;
    (gateway.movable && gateway.at.is_some() && gateway.at == vtep).then(|| Placement {
        port: port.section.id,
        from: Seat::at(host),
        to: Seat::at(host),
        may_move: true,
    })
}
