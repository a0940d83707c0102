//! What do hosts hear about chains?
//!
//! A function that can't be had (its group is gone, its virtual address nobody's) is left out of the
//! chain and complained about; the others still run. Nothing gets by it: without its virtual address
//! a load balancer has no traffic.

use std::{collections::BTreeMap, net::IpAddr};

use crate::resources::port_pair_group::named_by_address;
use hostconfig::{
    Appliance, Chain, Function, FunctionKind, LoadBalancer, Nat, Plain,
    chain::{Member, Place},
    nat::{Forward, NatAddress, Static},
};
use net::{Id, Label, ids::kind};
use serde_json::json;

use super::{
    Complaint,
    intent::{self, Balancer, Intent, Target, Work},
};

/// A chain, and what of it can't be had.
pub(super) fn chain(intent: &Intent, id: Id<kind::PortChain>) -> Option<(Chain, Vec<Complaint>)> {
    let chain = intent.chains.get(&id)?;
    let mut complaints = Vec::new();
    let mut classifiers = Vec::with_capacity(chain.classifiers.len());
    for &id in &chain.classifiers {
        match intent.classifiers.get(&id) {
            Some(classifier) => classifiers.push(hostconfig::Classifier::clone(classifier)),
            None => complaints.push(Complaint::ClassifierMissing { classifier: id }),
        }
    }
    let mut functions = Vec::with_capacity(chain.functions.len());
    for &id in &chain.functions {
        let function = intent.functions.get(&id);
        let kind = match function.and_then(|function| function.work.as_ref()) {
            None => {
                complaints.push(Complaint::FunctionMissing { function: id });
                None
            }
            Some(Work::Firewall(firewall)) => Some(FunctionKind::Firewall(firewall.clone())),
            Some(Work::Appliance(appliance)) => {
                let at = u8::try_from(functions.len()).ok();
                let path = u16::try_from(chain.number).ok();
                let asked = appliance.instances.iter().any(|instance| instance.labelled);
                let label = path.zip(at).filter(|_| asked);
                Some(FunctionKind::Appliance(Appliance {
                    label: label.and_then(|(path, at)| Label::of_hop(path, at)),
                    ..placed(intent, appliance)
                }))
            }
            Some(Work::Plain(plain)) => Some(FunctionKind::Plain(with_places(intent, plain))),
            Some(Work::Tap(port)) => {
                let of = if chain.symmetric { "both" } else { "forward" };
                let mirror = Plain {
                    name: "mirror".to_owned(),
                    settings: json!({"to": port.to_string(), "of": of}),
                    places: BTreeMap::new(),
                };
                Some(FunctionKind::Plain(with_places(intent, &mirror)))
            }
            Some(Work::Shaper(shaper)) => Some(FunctionKind::Shaper(shaper.clone())),
            Some(Work::LoadBalancer(balancer)) => {
                load_balancer(intent, balancer, &mut complaints).map(FunctionKind::LoadBalancer)
            }
            Some(Work::Nat(nat)) => {
                Some(FunctionKind::Nat(self::nat(intent, nat, &mut complaints)))
            }
        };
        if let (Some(function), Some(kind)) = (function, kind) {
            let name = function.name.clone();
            functions.push(Function { id, name, kind });
        }
    }
    let chain = Chain {
        id,
        name: chain.name.clone(),
        project: chain.project,
        path: chain.number,
        symmetric: chain.symmetric,
        classifiers,
        functions,
        graph: chain.graph.clone(),
    };
    Some((chain, complaints))
}

/// With where the ports are that its settings name.
fn with_places(intent: &Intent, plain: &Plain) -> Plain {
    let mut plain = plain.clone();
    for port in nfv::catalog::plain_ports(&plain) {
        if let Some(place) = place(intent, [port, port]) {
            plain.places.insert(port, place);
        }
    }
    plain
}

/// With where each pair is.
fn placed(intent: &Intent, appliance: &Appliance) -> Appliance {
    let mut appliance = appliance.clone();
    for instance in &mut appliance.instances {
        instance.at = place(intent, [instance.ingress, instance.egress]);
    }
    appliance
}

/// Where both ports of a pair are; `None` where they are not on one host that others reach.
fn place(intent: &Intent, ends: [Id<kind::Port>; 2]) -> Option<Place> {
    let [ingress, egress] = ends.map(|id| {
        let port = intent.ports.get(&id)?;
        let network = intent.networks.get(&port.section.network)?;
        intent.has_device(port).then_some((port, &network.section))
    });
    let (ingress, egress) = (ingress?, egress?);
    let host = ingress.0.host.as_ref()?;
    if egress.0.host.as_ref() != Some(host) {
        return None;
    }
    let host = intent.host(host).filter(|host| !host.foreign)?;
    Some(Place {
        vtep: host.vtep?,
        up: !host.lost
            && [&ingress, &egress]
                .iter()
                .all(|(port, _)| port.section.admin_up),
        vnis: [ingress.1.vni, egress.1.vni],
        mtu: ingress.1.mtu.min(egress.1.mtu),
    })
}

/// An address whose port is gone is none of the NAT's, and nothing comes through it.
fn nat(intent: &Intent, nat: &intent::Nat, complaints: &mut Vec<Complaint>) -> Nat {
    let mut addresses = Vec::with_capacity(nat.addresses.len());
    for &(addr, port, hides) in &nat.addresses {
        let holder = intent.ports.get(&port);
        let holder = holder.filter(|p| p.section.fixed_ips.iter().any(|ip| ip.addr == addr));
        match holder.map(|holder| holder.section.network) {
            Some(network) => addresses.push(NatAddress {
                addr,
                port,
                network,
                hides,
            }),
            None => complaints.push(Complaint::VipMissing { vip: addr }),
        }
    }
    addresses.sort_by_key(|address| address.port);
    let mut forwards = Vec::with_capacity(nat.forwards.len());
    let mut statics = Vec::with_capacity(nat.statics.len());
    let holder = |addr: IpAddr| addresses.iter().find(|a| a.addr == addr).map(|a| a.port);
    for forward in &nat.forwards {
        let Some(holder) = holder(forward.addr) else {
            continue;
        };
        if let Some((member, to)) = target(intent, forward.to, forward.addr, holder, complaints) {
            forwards.push(Forward {
                addr: forward.addr,
                protocol: forward.protocol,
                ports: forward.ports,
                to,
                to_port: forward.to_port,
                to_one: false,
                member,
            });
        }
    }
    for &(outside, to) in &nat.statics {
        let Some(holder) = holder(outside) else {
            continue;
        };
        if let Some((member, inside)) = target(intent, to, outside, holder, complaints) {
            // Two ports that share an address are one workload's: the first has the static address.
            if statics.iter().all(|s: &Static| s.inside != inside) {
                statics.push(Static {
                    outside,
                    inside,
                    member,
                });
            }
        }
    }
    Nat {
        addresses,
        sources: nat.sources.clone(),
        ports: nat.ports,
        hosts: nat.hosts,
        client_limit: nat.client_limit,
        forwards,
        statics,
    }
}

/// Who is meant, and at which address of the family of `like`. One named by its address alone has a name of its own under `holder`.
pub(crate) fn target(
    intent: &Intent,
    target: Target,
    like: IpAddr,
    holder: Id<kind::Port>,
    complaints: &mut Vec<Complaint>,
) -> Option<(Id<kind::Port>, IpAddr)> {
    match target {
        Target::Port(id) => {
            let port = intent.ports.get(&id);
            let mut addrs = port.into_iter().flat_map(|p| &p.section.fixed_ips);
            let addr = addrs.find(|ip| ip.addr.is_ipv4() == like.is_ipv4());
            if addr.is_none() {
                complaints.push(Complaint::MemberMissing { port: id });
            }
            Some((id, addr?.addr))
        }
        Target::Named(id, addr) => Some((id, addr)),
        Target::Address(addr) => Some((named_by_address(holder.uuid(), addr).into(), addr)),
    }
}

fn load_balancer(
    intent: &Intent,
    balancer: &Balancer,
    complaints: &mut Vec<Complaint>,
) -> Option<LoadBalancer> {
    let vip = balancer.vip;
    let holder = intent.ports.get(&balancer.vip_port);
    let holder = holder.filter(|port| port.section.fixed_ips.iter().any(|ip| ip.addr == vip));
    let Some(holder) = holder else {
        complaints.push(Complaint::VipMissing { vip });
        return None;
    };
    let mut members = Vec::with_capacity(balancer.members.len());
    for member in &balancer.members {
        // One named by its address alone is hashed alike wherever it stands in the list.
        let found = target(intent, member.target, vip, balancer.vip_port, complaints);
        let Some((id, addr)) = found else {
            continue;
        };
        members.push(Member {
            id,
            addr,
            port: member.port,
            weight: member.weight,
        });
    }
    members.sort_by_key(|member| (member.id, member.port));
    Some(LoadBalancer {
        vip,
        vip_port: balancer.vip_port,
        network: holder.section.network,
        mac: holder.section.mac,
        protocol: balancer.protocol,
        port: balancer.port,
        algorithm: balancer.algorithm,
        members,
        monitor: balancer.monitor.clone(),
    })
}
