//! Which ports of appliances are on other hosts, and what may come by the chain transport?
//!
//! A port of a pair that is elsewhere has a number and a zone here, like a local one, so that records and parts are kept as for those; what
//! is sent to the number crosses the underlay. [`ADR 23`](../../../../docs/adr/0023-chain-transport.md).

use std::{collections::HashMap, net::IpAddr};

use hostconfig::chain::{Instance, Place};
use net::{DropReason, Id, Label, Mtu, PortId, Vni, VtepId, Zone, ids::kind};
use nfv::chain::Hop;
use overlay::{Nsh, PortKey};

use super::{Leg, Port, Tables, ZoneMap};

/// A port of an appliance on another host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Far {
    /// Its number here.
    pub dense: PortId,
    /// Its id in the API.
    pub id: Id<kind::Port>,
    /// Its pair's name, for people.
    pub name: String,
    /// The scope of what comes out of it.
    pub zone: Zone,
    /// Where it is.
    pub vtep: VtepId,
    /// Its network.
    pub vni: Vni,
    /// The largest IP packet that its pair takes.
    pub mtu: Mtu,
    /// Is its pair up?
    pub up: bool,
    /// A chain with the pair, and its hop there: for what the switch itself has to say to it.
    pub way: (u32, u8),
}

impl Far {
    /// What stands before a frame for it.
    pub fn nsh(&self, (path, hop): (u32, u8), reply: bool) -> Nsh {
        Nsh::to(self.vni, path, hop, self.id, reply)
    }
}

/// One end of a pair, wherever it is.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Its number here.
    pub dense: PortId,
    /// The scope of what comes out of it.
    pub zone: Zone,
    /// Its name, or its pair's, for people.
    pub name: &'a str,
}

impl<'a> From<&'a Port> for End<'a> {
    fn from(port: &'a Port) -> Self {
        Self {
            dense: port.dense,
            zone: port.zone,
            name: &port.name,
        }
    }
}

impl<'a> From<&'a Far> for End<'a> {
    fn from(far: &'a Far) -> Self {
        Self {
            dense: far.dense,
            zone: far.zone,
            name: &far.name,
        }
    }
}

/// A port that frames of the chain transport may name at one hop of one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reach {
    port: PortId,
    vni: Vni,
    ingress: bool,
    egress: bool,
    /// Where it is; `None`: here.
    vtep: Option<VtepId>,
    /// Under which label frames go out of it there; only the host that has it puts it on.
    label: Option<Label>,
    /// Is it shown copies, of which nothing comes back?
    shown: bool,
}

/// What a frame of the chain transport is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It was handed over to an appliance here, by this port, under this label if it asks for one.
    In(PortId, Option<Label>),
    /// It comes back, out of this port elsewhere.
    Out(PortId),
    /// A copy that this port here is shown.
    Show(PortId),
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Transport {
    pub(super) far: HashMap<PortId, Far, foldhash::fast::FixedState>,
    /// Who is shown copies there.
    shown: HashMap<PortId, Far, foldhash::fast::FixedState>,
    /// By path, hop and port; `None` where two ports have one name.
    reach: HashMap<(u32, u8, PortKey), Option<Reach>, foldhash::fast::FixedState>,
    /// The same at whichever hop of the path: what was under way while the chain got another order says the hop of the order before, or of the next one.
    moved: HashMap<(u32, PortKey), Option<Reach>, foldhash::fast::FixedState>,
}

/// The labels of the hops at which ports here are appliances'.
pub(super) type Labels = HashMap<PortId, Vec<Label>, foldhash::fast::FixedState>;

/// What of a pair's state flows depend on.
pub(super) type State = (
    Id<kind::PortPair>,
    [Option<(PortId, Zone, bool)>; 2],
    Option<[Far; 2]>,
    (u32, u8),
    Option<Label>,
);

/// What of a port that is shown copies flows depend on.
pub(super) type Shown = (Id<kind::Port>, Option<(PortId, bool)>, Option<Far>);

impl Transport {
    fn may_name(&mut self, (path, hop): (u32, u8), id: Id<kind::Port>, reach: Reach) {
        let at_hop = self.reach.entry((path, hop, id.into()));
        let on_path = self.moved.entry((path, id.into()));
        for known in [
            at_hop.or_insert(Some(reach)),
            on_path.or_insert(Some(reach)),
        ] {
            let same = |k: &Reach| (k.port, k.shown) == (reach.port, reach.shown);
            *known = known.filter(same).map(|k| Reach {
                ingress: k.ingress || reach.ingress,
                egress: k.egress || reach.egress,
                ..k
            });
        }
    }

    /// The port that is named so, at this hop if it is there, else wherever on the path.
    fn named(&self, path: u32, hop: u8, port: PortKey) -> Option<Reach> {
        let at_hop = self.reach.get(&(path, hop, port));
        *at_hop.or_else(|| self.moved.get(&(path, port)))?
    }
}

impl Tables {
    /// A port of an appliance on another host.
    pub fn far(&self, port: PortId) -> Option<&Far> {
        self.transport.far.get(&port)
    }

    /// Who is shown copies on another host, by its number here.
    pub fn shown_there(&self, port: PortId) -> Option<&Far> {
        self.transport.shown.get(&port)
    }

    /// The number of a port that is shown copies, here or elsewhere, if it is up.
    pub fn shown_port(&self, id: Id<kind::Port>) -> Option<PortId> {
        if let Some(port) = self.port_by_id(id) {
            return port.admin_up.then_some(port.dense);
        }
        let far = self.shown_there(PortId(self.ports.id(&id)?))?;
        far.up.then_some(far.dense)
    }

    /// The scope of what comes out of a port, here or elsewhere.
    #[inline]
    pub fn zone_at(&self, port: PortId) -> Option<Zone> {
        let here = self.port(port).map(|p| p.zone);
        here.or_else(|| Some(self.far(port)?.zone))
    }

    /// The port out of which comes what is known in this scope.
    pub fn port_of_zone(&self, zone: Zone) -> Option<PortId> {
        let here = self.ports().find(|p| p.zone == zone).map(|p| p.dense);
        let far = || self.transport.far.values().find(|f| f.zone == zone);
        here.or_else(|| Some(far()?.dense))
    }

    /// Both ends of an instance, if it is up, here or elsewhere.
    pub fn instance(&self, of: &Instance) -> Option<[End<'_>; 2]> {
        if of.silent {
            return None;
        }
        let ends = [of.ingress, of.egress];
        let here = |id| self.port_by_id(id).filter(|p| p.admin_up).map(End::from);
        if let [Some(ingress), Some(egress)] = ends.map(here) {
            return Some([ingress, egress]);
        }
        let far = |id| {
            let number = PortId(self.ports.id(&id)?);
            self.far(number).filter(|f| f.up).map(End::from)
        };
        let [ingress, egress] = ends.map(far);
        Some([ingress?, egress?])
    }

    /// The scope of a port of an appliance, here or elsewhere.
    pub fn zone_by_id(&self, port: Id<kind::Port>) -> Option<Zone> {
        self.zone_at(PortId(self.ports.id(&port)?))
    }

    /// The largest IP packet that an appliance elsewhere takes; on the way back the underlay says what fits.
    pub fn mtu_there(&self, nsh: &Nsh) -> Mtu {
        let at = self.transport.named(nsh.path, nsh.hop(), nsh.port);
        let far = at.and_then(|reach| self.far(reach.port));
        far.map_or(Mtu::MAX, |far| far.mtu)
    }

    /// What a frame of the chain transport is that comes from this VTEP.
    ///
    /// # Errors
    /// The reason why it is nothing that could come from there.
    pub fn arrival(&self, nsh: &Nsh, from: VtepId) -> Result<Arrival, DropReason> {
        let ours = |v: &super::Vtep| v.known && !v.foreign;
        if !self.vtep(from).is_some_and(ours) {
            return Err(DropReason::UnknownVtep);
        }
        let at = |hop| self.transport.named(nsh.path, hop, nsh.port);
        let here = at(nsh.hop()).filter(|r| r.vtep.is_none());
        let back = at(nsh.hop().saturating_sub(1)).filter(|r| r.vtep.is_some());
        // Replies go in where the others come out.
        let (reach, fits, arrival) = match (here, back) {
            (Some(r), _) if r.shown => (r, true, Arrival::Show(r.port)),
            (Some(r), _) => (
                r,
                if nsh.reply { r.egress } else { r.ingress },
                Arrival::In(r.port, r.label),
            ),
            (None, Some(r)) if r.vtep == Some(from) => (
                r,
                if nsh.reply { r.ingress } else { r.egress },
                Arrival::Out(r.port),
            ),
            (None, Some(_)) => return Err(DropReason::ChainPlaceUnknown),
            (None, None) => {
                let mut named = self.transport.reach.keys();
                return Err(if named.any(|(_, _, port)| *port == nsh.port) {
                    DropReason::ChainPathUnknown
                } else {
                    DropReason::ChainPlaceUnknown
                });
            }
        };
        if !fits {
            return Err(DropReason::ChainPlaceUnknown);
        }
        if reach.vni != nsh.vni {
            return Err(DropReason::UnknownVni);
        }
        Ok(arrival)
    }

    /// Is a place this host's?
    fn is_own(&self, vtep: IpAddr) -> bool {
        self.own == Some(vtep.to_canonical())
    }

    /// The ports of appliances elsewhere that chains name.
    pub(super) fn ports_elsewhere<'c>(
        &self,
        chains: impl Iterator<Item = &'c hostconfig::Chain>,
    ) -> Vec<Id<kind::Port>> {
        let mut all = Vec::new();
        for chain in chains {
            for instance in chain.instances() {
                if instance.at.is_some_and(|place| !self.is_own(place.vtep)) {
                    all.extend([instance.ingress, instance.egress]);
                }
            }
            for function in &chain.functions {
                if let hostconfig::FunctionKind::Plain(plain) = &function.kind {
                    let there = plain.places.iter();
                    let there = there.filter(|(_, place)| !self.is_own(place.vtep));
                    all.extend(there.map(|(id, _)| *id));
                }
            }
        }
        all
    }

    /// Notes what there is of the appliances of all chains, here and elsewhere. Returns what flows depend on.
    pub(super) fn put_pairs(&mut self, zones: &ZoneMap) -> (Vec<State>, Vec<Shown>) {
        let mut legs = HashMap::default();
        let mut labels: Labels = HashMap::default();
        let mut transport = Transport::default();
        let mut state = Vec::new();
        let mut shown = Vec::new();
        for chain in &self.chains {
            for (at, hop) in (0u8..).zip(chain.chain.hops()) {
                let way = (chain.path, at);
                shown.extend(self.put_shown(hop, way, &mut transport));
                let instances = hop.appliance().into_iter().flat_map(|appliance| {
                    let all = appliance.instances().iter();
                    all.map(move |i| (i, appliance.label(i).ok().flatten()))
                });
                for (instance, label) in instances {
                    let here = self.put_here((instance, label), way, &mut legs, &mut transport);
                    if let Some(label) = label {
                        for (port, ..) in here.iter().flatten() {
                            labels.entry(*port).or_default().push(label);
                        }
                    }
                    let far = if here == [None; 2] {
                        self.put_elsewhere((instance, hop), way, zones, &mut legs, &mut transport)
                    } else {
                        None
                    };
                    state.push((instance.id, here, far, way, label));
                }
            }
        }
        self.legs = legs;
        self.labels = labels;
        self.transport = transport;
        (state, shown)
    }

    /// Notes who is shown copies by a hop, here or elsewhere.
    fn put_shown(&self, hop: &Hop, way: (u32, u8), transport: &mut Transport) -> Vec<Shown> {
        let mut state = Vec::new();
        for id in hop.ports() {
            let here = self.port_by_id(*id);
            if let Some((port, network)) = here.and_then(|p| Some((p, self.network(p.network)?))) {
                let reach = Reach {
                    port: port.dense,
                    vni: network.vni,
                    ingress: false,
                    egress: false,
                    vtep: None,
                    label: None,
                    shown: true,
                };
                transport.may_name(way, *id, reach);
            }
            let far = match (here, hop.places().get(id)) {
                (None, Some(place)) => self.shown_elsewhere((*id, hop), place, way),
                (Some(_), _) | (None, None) => None,
            };
            if let Some(far) = &far {
                transport
                    .shown
                    .entry(far.dense)
                    .or_insert_with(|| far.clone());
            }
            state.push((*id, here.map(|p| (p.dense, p.admin_up)), far));
        }
        state
    }

    fn shown_elsewhere(
        &self,
        (id, hop): (Id<kind::Port>, &Hop),
        place: &Place,
        way: (u32, u8),
    ) -> Option<Far> {
        let vtep = self.vtep_id(place.vtep)?;
        let ours = self.vtep(vtep).is_some_and(|v| v.known && !v.foreign);
        Some(Far {
            dense: PortId(self.ports.id(&id)?),
            id,
            name: format!("the port of {}", hop.name()),
            // Nothing comes out of it.
            zone: Zone::default(),
            vtep,
            vni: place.vnis[0],
            mtu: place.mtu,
            up: place.up && ours,
            way,
        })
    }

    fn put_here(
        &self,
        (instance, label): (&Instance, Option<Label>),
        way: (u32, u8),
        legs: &mut HashMap<PortId, Leg, foldhash::fast::FixedState>,
        transport: &mut Transport,
    ) -> [Option<(PortId, Zone, bool)>; 2] {
        let ends = [instance.ingress, instance.egress].map(|id| self.port_by_id(id));
        if let [Some(ingress), Some(egress)] = ends.map(|p| p.or(ends[0]).or(ends[1])) {
            let leg = Leg {
                ingress: ingress.dense,
                egress: egress.dense,
                zone: ingress.zone,
            };
            for port in [ingress, egress] {
                legs.entry(port.dense).or_insert(leg);
            }
        }
        if let [Some(ingress), Some(egress)] = ends {
            for (port, is_ingress) in [(ingress, true), (egress, false)] {
                if let Some(network) = self.network(port.network) {
                    let reach = Reach {
                        port: port.dense,
                        vni: network.vni,
                        ingress: is_ingress,
                        egress: !is_ingress,
                        vtep: None,
                        label,
                        shown: false,
                    };
                    transport.may_name(way, port.id, reach);
                }
            }
        }
        ends.map(|p| p.map(|p| (p.dense, p.zone, p.admin_up && !instance.silent)))
    }

    fn put_elsewhere(
        &self,
        (instance, hop): (&Instance, &Hop),
        way: (u32, u8),
        zones: &ZoneMap,
        legs: &mut HashMap<PortId, Leg, foldhash::fast::FixedState>,
        transport: &mut Transport,
    ) -> Option<[Far; 2]> {
        let Place {
            vtep,
            up,
            vnis: [into, out],
            mtu,
        } = instance.at.filter(|place| !self.is_own(place.vtep))?;
        let vtep = self.vtep_id(vtep)?;
        let ours = self.vtep(vtep).is_some_and(|v| v.known && !v.foreign);
        let end = |id: Id<kind::Port>, vni| {
            Some(Far {
                dense: PortId(self.ports.id(&id)?),
                id,
                name: format!("{} of {}", instance.name, hop.name()),
                zone: *zones.get(&id)?,
                vtep,
                vni,
                mtu,
                up: up && ours && !instance.silent,
                way,
            })
        };
        let ends = [end(instance.ingress, into)?, end(instance.egress, out)?];
        let [ingress, egress] = &ends;
        let leg = Leg {
            ingress: ingress.dense,
            egress: egress.dense,
            zone: ingress.zone,
        };
        for (far, is_ingress) in [(ingress, true), (egress, false)] {
            legs.entry(far.dense).or_insert(leg);
            transport
                .far
                .entry(far.dense)
                .or_insert_with(|| far.clone());
            let reach = Reach {
                port: far.dense,
                vni: far.vni,
                ingress: is_ingress,
                egress: !is_ingress,
                vtep: Some(vtep),
                label: None,
                shown: false,
            };
            transport.may_name(way, far.id, reach);
        }
        Some(ends)
    }
}
