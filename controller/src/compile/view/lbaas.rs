//! How does a listener become a chain?
//!
//! One of one function, the load balancer: a classifier for each prefix from which connections are allowed names the port of the virtual
//! address as its only end, so every client's own switch runs it, and what no classifier names finds no listener there. All carry the
//! listener's id, but for the classifiers of prefixes.

use hostconfig::chain::Side;
use net::{Id, PortRange, Prefix};
use uuid::Uuid;

use super::{
    Balancer, BalancerMember, Chain, Change, Classifier, Function, Object, ObjectId, Target, Work,
    algorithm, intent, project,
};
use crate::{
    resources::{
        Listener, LoadBalancer,
        lbaas::{Plan, tls},
    },
    rules::Facts,
    store::{Entry, KeyChange},
};
use std::sync::Arc;

/// What a change of a listener comes to: what it no longer is goes.
pub(super) fn changes(change: &KeyChange) -> Vec<Change> {
    let was = change.before.as_ref().map(objects).unwrap_or_default();
    let is = change.after.as_ref().map(objects).unwrap_or_default();
    let stays: Vec<ObjectId> = is.iter().map(Object::id).collect();
    let gone = was.iter().map(Object::id);
    let gone = gone.filter(|id| !stays.contains(id));
    gone.map(Change::Gone)
        .collect::<Vec<_>>()
        .into_iter()
        .chain(is.into_iter().map(Change::Put))
        .collect()
}

/// What a listener is to the compiler: nothing while it has no plan.
pub(super) fn objects(entry: &Entry) -> Vec<Object> {
    let listener: Option<&Listener> = entry.peek();
    let planned = listener.and_then(|listener| Some((listener, listener.plan.as_ref()?)));
    let Some((listener, plan)) = planned else {
        return Vec::new();
    };
    let id = listener.meta.id;
    let classifiers = classifiers(listener, plan);
    let chain = Chain {
        id: id.into(),
        name: listener.meta.name.clone(),
        project: project(&listener.meta.project_id),
        number: 0,
        symmetric: true,
        classifiers: classifiers.iter().map(|classifier| classifier.id).collect(),
        functions: vec![id.into()],
        graph: hostconfig::Graph::default(),
    };
    let function = Function {
        id: id.into(),
        name: listener.meta.name.clone(),
        work: Some(Work::LoadBalancer(balancer(listener, plan))),
    };
    let classifiers = classifiers.into_iter();
    let classifiers = classifiers.map(|classifier| Object::Classifier(Arc::new(classifier)));
    classifiers
        .chain([
            Object::Function(Arc::new(function)),
            Object::Chain(Arc::new(chain)),
        ])
        .collect()
}

/// What a load balancer's proxy does; nothing where it has none.
pub(super) fn proxy(balancer: &LoadBalancer, facts: &Facts) -> Option<intent::Proxy> {
    let mut section = balancer.proxy.clone()?;
    let id = balancer.meta.id;
    // A listener whose certificates do not open is not there: it must not speak in the clear.
    section.listeners.retain_mut(|listener| {
        let Some(how) = &mut listener.tls else {
            return true;
        };
        let sealed = balancer.certificates.get(&listener.id);
        let keyring = facts.keyring.as_ref();
        let opened = keyring.zip(sealed);
        let opened = opened.and_then(|(ring, sealed)| tls::opened(ring, listener.id, sealed));
        let opened = opened.filter(|opened| !opened.is_empty());
        how.certificates = opened.unwrap_or_default();
        !how.certificates.is_empty()
    });
    Some(intent::Proxy { id, section })
}

fn classifiers(listener: &Listener, plan: &Plan) -> Vec<Classifier> {
    let port = PortRange::new(listener.protocol_port, listener.protocol_port).ok();
    let classifier = |id: Uuid, source: Option<Prefix>| Classifier {
        id: Id::new(id),
        name: listener.meta.name.clone(),
        source: None,
        destination: Some(Side::Port(plan.vip_port_id.into())),
        family: None,
        protocol: Some(plan.protocol.number()),
        source_ports: None,
        destination_ports: port,
        source_prefix: source,
        destination_prefix: Some(Prefix::host(plan.vip)),
    };
    let id = listener.meta.id;
    match &listener.allowed_cidrs {
        None => vec![classifier(id, None)],
        Some(prefixes) => {
            let named = |prefix: &Prefix| Uuid::new_v5(&id, prefix.to_string().as_bytes());
            let prefixes = prefixes.iter();
            prefixes
                .map(|prefix| classifier(named(prefix), Some(*prefix)))
                .collect()
        }
    }
}

fn balancer(listener: &Listener, plan: &Plan) -> Balancer {
    let members = plan.members.iter().map(|member| BalancerMember {
        target: Target::Named(member.id.into(), member.address),
        port: member.port,
        weight: member.weight,
    });
    Balancer {
        vip_port: plan.vip_port_id.into(),
        vip: plan.vip,
        protocol: plan.protocol.number(),
        port: listener.protocol_port,
        algorithm: algorithm(plan.algorithm),
        members: members.collect(),
        monitor: plan.monitor.clone(),
    }
}
