//! Which members of load balancers does this host ask whether they serve?
//!
//! Those whose address one of its ports has: on the virtual address's network, or on one that a router joins with it. They are asked in the
//! virtual address's name, from where they would see it: with its own Ethernet address on its own network, with the router's elsewhere.
//!
//! # Invariants
//! - A port's targets are part of what its section's epoch says: a flow of it never outlives them.
//! - At most [`MOST`]; those beyond are not asked, and that is complained of.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use hostconfig::{
    FunctionKind, HostConfig, LoadBalancer, Port, Router, Section,
    chain::{HealthProbe, Monitor},
};
use net::{Id, Mac, Prefix, Probe, flow_key::proto, ids::kind};

/// The most members that a host asks.
pub const MOST: usize = 4096;
/// The source ports of probes: no client of a virtual address is itself one of its members and calls from these.
pub const PORTS: std::ops::Range<u16> = 256..512;

/// Whose verdict it is: a monitor's of a member.
pub type Key = (Id<kind::HealthMonitor>, Id<kind::Port>);

/// A member that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Whose verdict it is.
    pub key: Key,
    /// The port behind which it is.
    pub port: Id<kind::Port>,
    /// In whose name it is asked.
    pub from: (Mac, IpAddr),
    /// Where it is, and at which port it serves.
    pub to: (Mac, IpAddr, u16),
    /// How.
    pub monitor: Monitor,
}

impl Target {
    /// Can this packet of its port be an answer? Reads as little as says so.
    fn is_answered(&self, packet: &mut Probe) -> bool {
        let (proto, (_, vip), (_, member, port)) = (packet.ip_proto(), self.from, self.to);
        let ours = match self.monitor.probe {
            HealthProbe::Tcp | HealthProbe::Http { .. } => {
                proto == proto::TCP && packet.l4_src() == port && PORTS.contains(&packet.l4_dst())
            }
            HealthProbe::Udp => match proto {
                proto::UDP => packet.l4_src() == port && PORTS.contains(&packet.l4_dst()),
                // Unreachable.
                proto::ICMP => packet.l4_src() == 3,
                proto::ICMP6 => packet.l4_src() == 1,
                _ => false,
            },
            HealthProbe::Ping => match proto {
                proto::ICMP => packet.l4_src() == 0,
                proto::ICMP6 => packet.l4_src() == 129,
                _ => false,
            },
        };
        ours && packet.ip_dst_in(Prefix::host(vip)) && packet.ip_src_in(Prefix::host(member))
    }
}

/// All that this host asks, by port.
#[derive(Debug, Clone, Default)]
pub struct Targets {
    by_port: HashMap<Id<kind::Port>, Vec<Target>, foldhash::fast::FixedState>,
    /// How many there would be beyond the limit.
    pub(super) beyond: usize,
}

impl Targets {
    /// What this config asks of a host.
    pub(super) fn of(config: &HostConfig) -> Self {
        let mut targets = Self::default();
        let monitored = monitored(config);
        if monitored.is_empty() {
            return targets;
        }
        let mut here: HashMap<IpAddr, Vec<&Port>, foldhash::fast::FixedState> = HashMap::default();
        let mut routers = Vec::new();
        for keyed in config.sections.values() {
            if let Section::Port(port) = keyed.body() {
                for ip in &port.fixed_ips {
                    here.entry(ip.addr).or_default().push(port);
                }
            }
            if let Section::Router(router) = keyed.body() {
                routers.push(router);
            }
        }
        let mut all: BTreeMap<Key, Target> = BTreeMap::new();
        for (balancer, monitor) in monitored {
            for member in &balancer.members {
                let key = (monitor.id, member.id);
                let mut elsewhere = monitor.elsewhere.iter();
                let elsewhere = elsewhere.find(|elsewhere| elsewhere.member == member.id);
                let (addr, asked_port) =
                    elsewhere.map_or((member.addr, member.port), |e| (e.addr, e.port));
                let at = here.get(&addr).map(Vec::as_slice);
                let at = at.unwrap_or_default();
                let Some((port, mac)) = place(balancer, at, &routers) else {
                    continue;
                };
                // Several listeners of one pool ask once.
                if all.len() >= MOST && !all.contains_key(&key) {
                    targets.beyond += 1;
                    continue;
                }
                all.entry(key).or_insert_with(|| Target {
                    key,
                    port: port.id,
                    from: (mac, balancer.vip),
                    to: (port.mac.into(), addr, asked_port),
                    monitor: monitor.clone(),
                });
            }
        }
        for target in all.into_values() {
            targets.by_port.entry(target.port).or_default().push(target);
        }
        targets
    }

    /// Those behind a port.
    pub(super) fn behind(&self, port: Id<kind::Port>) -> &[Target] {
        self.by_port.get(&port).map_or(&[], Vec::as_slice)
    }

    /// Is this packet of the port an answer to a probe?
    pub(in crate::datapath) fn are_answered(
        &self,
        port: Id<kind::Port>,
        packet: &mut Probe,
    ) -> bool {
        self.behind(port)
            .iter()
            .any(|target| target.is_answered(packet))
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = &Target> {
        self.by_port.values().flatten()
    }
}

fn monitored(config: &HostConfig) -> Vec<(&LoadBalancer, &Monitor)> {
    let chains = config.sections.values().filter_map(|keyed| {
        let Section::Chain(chain) = keyed.body() else {
            return None;
        };
        Some(chain)
    });
    chains
        .flat_map(|chain| &chain.functions)
        .filter_map(|function| match &function.kind {
            FunctionKind::LoadBalancer(balancer) => Some((balancer, balancer.monitor.as_ref()?)),
            FunctionKind::Firewall(_)
            | FunctionKind::Shaper(_)
            | FunctionKind::Nat(_)
            | FunctionKind::Appliance(_)
            | FunctionKind::Plain(_) => None,
        })
        .collect()
}

/// The port that is meant, and the Ethernet address from which the virtual address's packets come to it.
fn place<'c>(
    balancer: &LoadBalancer,
    at: &[&'c Port],
    routers: &[&Router],
) -> Option<(&'c Port, Mac)> {
    let near = at.iter().find(|port| port.network == balancer.network);
    if let Some(port) = near {
        return Some((port, balancer.mac.into()));
    }
    at.iter().find_map(|port| {
        let joins = |router: &&&Router| {
            let on = |network| router.interfaces.iter().any(|i| i.network == network);
            router.admin_up && on(balancer.network) && on(port.network)
        };
        let router = routers.iter().find(joins)?;
        let mut interfaces = router.interfaces.iter();
        let interface = interfaces.find(|i| i.network == port.network && i.admin_up)?;
        Some((*port, interface.mac.into()))
    })
}
