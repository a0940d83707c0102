//! What do hosts hear about chains?
//!
//! A function that can't be had (its group is gone, its virtual address nobody's) is left out of the
//! chain and complained about; the others still run. Nothing gets by it: without its virtual address
//! a load balancer has no traffic.

use hostconfig::{Chain, Function, FunctionKind, LoadBalancer, chain::Member};
use net::{Id, ids::kind};
use uuid::Uuid;

use super::{
    Complaint,
    intent::{Balancer, Intent, Port, Target, Work},
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
            Some(Work::Shaper(shaper)) => Some(FunctionKind::Shaper(shaper.clone())),
            Some(Work::LoadBalancer(balancer)) => {
                load_balancer(intent, balancer, &mut complaints).map(FunctionKind::LoadBalancer)
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
        symmetric: chain.symmetric,
        classifiers,
        functions,
    };
    Some((chain, complaints))
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
    let address = |port: &Port| {
        let mut addrs = port.section.fixed_ips.iter().map(|fixed| fixed.addr);
        addrs.find(|addr| addr.is_ipv4() == vip.is_ipv4())
    };
    let mut members = Vec::with_capacity(balancer.members.len());
    for member in &balancer.members {
        let (id, addr) = match member.target {
            Target::Port(id) => {
                let Some(addr) = intent.ports.get(&id).and_then(|port| address(port)) else {
                    complaints.push(Complaint::MemberMissing { port: id });
                    continue;
                };
                (id, addr)
            }
            // Named by the address alone, so that it is hashed alike wherever it stands in the list.
            Target::Address(addr) => {
                let name = addr.to_string();
                (
                    Uuid::new_v5(&balancer.vip_port.uuid(), name.as_bytes()).into(),
                    addr,
                )
            }
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
    })
}
