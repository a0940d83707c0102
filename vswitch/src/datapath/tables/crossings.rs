//! Which appliances does this host send frames through, to see whether they come out?
//!
//! Those of groups that ask for it, whose two ports are both here. A probe is a datagram that any bridge forwards and no router does:
//! UDP from and to the discard port (RFC 863) between two addresses of its own, on the link alone ([`Crossed::ends`]). It goes in by one
//! port, as the other traffic, and is known by these addresses where it comes out.
//!
//! # Invariants
//! - A port's crossing is part of what its section's epoch says: a flow of it never outlives it.
//! - At most `probes::MOST`; those beyond are not asked, and count as up.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hostconfig::{FunctionKind, HostConfig, Section, SectionKey, chain::Crossing, group::Family};
use net::{Id, Label, Mac, Prefix, Probe, flow_key::proto, ids::kind};

use super::probes::MOST;

/// The port from and to which probes go.
pub const PORT: u16 = 9;
/// The end of a probe that is before an appliance, and the one behind it. RFC 3927 §2.1 keeps these of IPv4 from hosts.
const V4: [Ipv4Addr; 2] = [
    Ipv4Addr::new(169, 254, 255, 1),
    Ipv4Addr::new(169, 254, 255, 2),
];
const V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x6f77, 0, 0, 1),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x6f77, 0, 0, 2),
];

/// Where a probe comes from or goes to.
pub type End = (Mac, IpAddr);

/// An instance whose ports are here, and how frames are sent through it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossed {
    /// The group whose it is.
    pub group: Id<kind::Function>,
    /// Itself.
    pub pair: Id<kind::PortPair>,
    /// Its ingress and egress port.
    pub ports: [Id<kind::Port>; 2],
    /// Do replies pass it, too?
    pub both: bool,
    /// The label under which frames go in and come out; `None`: bare.
    pub label: Option<Label>,
    /// How.
    pub how: Crossing,
}

impl Crossed {
    /// The ends of a probe: before the appliance, and behind it.
    pub fn ends(&self) -> [End; 2] {
        let [.., a, b, c] = self.pair.uuid().into_bytes();
        // Locally administered, and no port's.
        let mac = |last: u8| Mac::new([0x02, 0x6f, 0x77, a, b, c & 0xfe | last]);
        let addrs = match self.how.family {
            Family::V4 => V4.map(IpAddr::from),
            Family::V6 => V6.map(IpAddr::from),
        };
        [(mac(0), addrs[0]), (mac(1), addrs[1])]
    }

    /// Can this packet of one of its ports be a probe? Reads as little as says so.
    fn is_probe(&self, packet: &mut Probe) -> bool {
        let [before, behind] = self.ends().map(|(_, addr)| Prefix::host(addr));
        packet.path() == self.label.map_or(0, Label::path)
            && packet.ip_proto() == proto::UDP
            && packet.l4_dst() == PORT
            && (packet.ip_dst_in(behind) && packet.ip_src_in(before)
                || packet.ip_dst_in(before) && packet.ip_src_in(behind))
    }
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Crossings {
    all: BTreeMap<Id<kind::PortPair>, Crossed>,
    of_port: HashMap<Id<kind::Port>, Id<kind::PortPair>, foldhash::fast::FixedState>,
    /// How many there would be beyond the limit.
    pub(super) beyond: usize,
}

impl Crossings {
    /// What this config asks of a host.
    pub(super) fn of(config: &HostConfig) -> Self {
        let mut crossings = Self::default();
        for keyed in config.sections.values() {
            let Section::Chain(chain) = keyed.body() else {
                continue;
            };
            for function in &chain.functions {
                let FunctionKind::Appliance(appliance) = &function.kind else {
                    continue;
                };
                let Some(how) = appliance.probe else {
                    continue;
                };
                for instance in &appliance.instances {
                    let ports = [instance.ingress, instance.egress];
                    let is_here = |id| config.sections.contains_key(&SectionKey::Port(id));
                    let label = appliance.label.filter(|_| instance.labelled);
                    // Without the label that it asks for it is down anyway.
                    if !ports.into_iter().all(is_here) || instance.labelled != label.is_some() {
                        continue;
                    }
                    let crossed = Crossed {
                        group: function.id,
                        pair: instance.id,
                        ports,
                        both: chain.symmetric && instance.ingress != instance.egress,
                        label,
                        how,
                    };
                    crossings.put(crossed);
                }
            }
        }
        crossings
    }

    /// One that several chains lead through is asked once, both ways if any has its replies pass.
    fn put(&mut self, crossed: Crossed) {
        if let Some(known) = self.all.get_mut(&crossed.pair) {
            known.both |= crossed.both;
            return;
        }
        if self.all.len() >= MOST {
            self.beyond += 1;
            return;
        }
        for port in crossed.ports {
            self.of_port.insert(port, crossed.pair);
        }
        self.all.insert(crossed.pair, crossed);
    }

    /// That of a port.
    pub fn at(&self, port: Id<kind::Port>) -> Option<&Crossed> {
        self.all.get(self.of_port.get(&port)?)
    }

    /// Is this packet of the port a probe that came through?
    pub(in crate::datapath) fn came_out(&self, port: Id<kind::Port>, packet: &mut Probe) -> bool {
        self.at(port)
            .is_some_and(|crossed| crossed.is_probe(packet))
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = &Crossed> {
        self.all.values()
    }
}
