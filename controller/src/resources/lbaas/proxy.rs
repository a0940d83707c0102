//! What does a proxy do in a load balancer's name?
//!
//! Who reads requests must end connections: a proxy does, behind a port of its own that is the one member of listeners of HTTP. All that it must know is kept
//! with its load balancer, and follows from what is stored, whoever changes what.

use super::{
    Listener, LoadBalancer, Pool, Serving, again,
    health_monitor::of_pool,
    l7_policy,
    pool::{Member, Persistence},
    tls::{self, TERMINATED},
};
use crate::{
    api::Scene,
    keys::Sealed,
    refusal::Refusal,
    resource::{Meta, Objects as _, Resource as _},
    resources::{
        Port,
        port::{PROXY_OWNER, WantedIp},
    },
    rules::{Caller, Change, Judged, Write},
    store::{Read, View},
};
use hostconfig::{
    Proxy,
    proxy::{
        HttpAlgorithm, HttpListener, HttpMember, HttpPersistence, HttpPolicy, HttpPool,
        InsertHeader,
    },
};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// The protocol whose listeners a proxy serves.
pub(super) const HTTP: &str = "HTTP";

/// Does a proxy serve listeners of this protocol?
pub(super) fn serves_protocol(protocol: &str) -> bool {
    protocol == HTTP || protocol == TERMINATED
}

/// Headers that members may be told, by Octavia's names.
const HEADERS: &[(&str, InsertHeader)] = &[
    ("X-Forwarded-For", InsertHeader::ForwardedFor),
    ("X-Forwarded-Port", InsertHeader::ForwardedPort),
    ("X-Forwarded-Proto", InsertHeader::ForwardedProto),
];

/// What can be inserted is named, with a word that says whether it is.
pub(super) fn headers_are_known(listener: &Listener) -> Result<(), Refusal> {
    for (name, value) in &listener.insert_headers {
        let known = HEADERS.iter().any(|(known, _)| known == name);
        if !serves_protocol(&listener.protocol) || !known {
            return Err(super::invalid(format_args!(
                "insert_headers: {name} is not a valid option for a {} listener",
                listener.protocol
            )));
        }
        if !value
            .as_str()
            .is_some_and(|word| ["true", "false"].contains(&word))
        {
            return Err(super::invalid(format_args!(
                "insert_headers: {name} is neither \"true\" nor \"false\""
            )));
        }
    }
    Ok(())
}

/// Can nobody but a proxy do what the pool asks for?
pub(super) fn is_needed_by(pool: &Pool) -> Option<String> {
    if pool.lb_algorithm == "LEAST_CONNECTIONS" {
        return Some("lb_algorithm LEAST_CONNECTIONS".to_owned());
    }
    let persistence = pool.session_persistence.as_ref()?;
    let kind = &persistence.kind;
    (kind != "SOURCE_IP").then(|| format!("session_persistence of type {kind}"))
}

/// The load balancer, to be judged again.
pub(super) fn renewed<R: Read>(read: &R, balancer: Uuid) -> Vec<Write> {
    let balancer = read.object::<LoadBalancer>(balancer);
    balancer
        .map(|balancer| Write::put(LoadBalancer::clone(&balancer)))
        .into_iter()
        .collect()
}

/// What follows for a proxy, and that it has a port while there are listeners of HTTP; judged whoever changes what.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
pub(super) fn proxied(view: &View, change: &Change<'_, LoadBalancer>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let mut listeners = view.related::<Listener>("loadbalancer_id", after.meta.id);
    listeners.retain(|listener| serves_protocol(&listener.protocol));
    let mut balancer = after.clone();
    let mut writes = Vec::new();
    match (after.proxy_port_id, after.vip_network_id) {
        (None, Some(network)) if !listeners.is_empty() => {
            let port = proxy_port(after, network, change.moment.dice.uuid());
            balancer.proxy_port_id = Some(port.meta.id);
            writes.push(Write::put(port));
        }
        (Some(port), _) if listeners.is_empty() => {
            balancer.proxy_port_id = None;
            writes.push(Write::Remove(Port::SPEC, port));
        }
        _ => {}
    }
    balancer.certificates = certificates(&listeners);
    balancer.proxy = proxy(view, &balancer, listeners);
    if balancer == *after {
        return Ok(writes);
    }
    let has_port = after.proxy_port_id.is_none() && balancer.proxy_port_id.is_some();
    writes.insert(0, Write::amend(balancer));
    if has_port {
        // Their one member is there now.
        writes.extend(again(view, "loadbalancer_id", after.meta.id));
    }
    Ok(writes)
}

/// What listeners show, sealed for each.
fn certificates(listeners: &[Arc<Listener>]) -> BTreeMap<Uuid, Vec<Sealed>> {
    let listeners = listeners.iter();
    let listeners = listeners.filter(|listener| !listener.certificates.is_empty());
    let kept = listeners.map(|listener| {
        let sealed = listener.certificates.iter();
        let sealed = sealed.map(|(_, sealed)| sealed.clone());
        (listener.meta.id, sealed.collect())
    });
    kept.collect()
}

/// A port on the subnet of the virtual address, from which members are asked.
fn proxy_port(balancer: &LoadBalancer, network: Uuid, id: Uuid) -> Port {
    let of = balancer.meta.id;
    let wanted = WantedIp {
        subnet_id: balancer.vip_subnet_id,
        ip_address: None,
    };
    let name = format!("octavia-lb-proxy-{of}");
    let meta = Meta::new(id, &balancer.meta.project_id, name);
    let mut port = Port::new(meta, network, vec![wanted]);
    PROXY_OWNER.clone_into(&mut port.device_owner);
    port.device_id = format!("lb-{of}");
    port
}

fn port_of<R: Read>(read: &R, listener: &Listener) -> Option<Arc<Port>> {
    let balancer = read.object::<LoadBalancer>(listener.loadbalancer_id)?;
    read.object::<Port>(balancer.proxy_port_id?)
}

/// The one member of a listener of HTTP; nobody takes connections while the proxy is nowhere.
pub(super) fn front(view: &View, listener: &Listener) -> Option<Serving> {
    let port = port_of(view, listener)?;
    Some(Serving {
        id: port.meta.id,
        address: port.fixed_ips.first()?.ip_address,
        port: listener.protocol_port,
        weight: u16::from(!port.host.is_empty()),
    })
}

/// Does the proxy of a listener run, as its host says?
pub(super) fn runs(scene: &Scene<'_>, listener: &Listener) -> bool {
    let balancer = scene
        .snapshot
        .object::<LoadBalancer>(listener.loadbalancer_id);
    let port = balancer.and_then(|balancer| balancer.proxy_port_id);
    let port = port.and_then(|id| scene.snapshot.object::<Port>(id));
    port.is_some_and(|port| !port.host.is_empty() && port.is_active(scene))
}

fn proxy(view: &View, balancer: &LoadBalancer, mut listeners: Vec<Arc<Listener>>) -> Option<Proxy> {
    listeners.retain(|listener| listener.admin_state_up);
    listeners.sort_by_key(|listener| listener.protocol_port);
    if listeners.is_empty() || !balancer.admin_state_up {
        return None;
    }
    let port = balancer.proxy_port_id?;
    let mut pools = Pools {
        view,
        named: BTreeMap::new(),
    };
    let listeners = listeners
        .iter()
        .map(|listener| listens(&mut pools, listener))
        .collect();
    let pools = pools.named.into_values();
    Some(Proxy {
        port: port.into(),
        listeners,
        pools: pools.map(|pool| served(view, &pool)).collect(),
    })
}

/// The pools that listeners and policies name.
struct Pools<'a> {
    view: &'a View,
    named: BTreeMap<Uuid, Arc<Pool>>,
}

impl Pools<'_> {
    /// The pool, if it serves at all.
    fn name(&mut self, id: Option<Uuid>) -> Option<Uuid> {
        let pool = self.view.object::<Pool>(id?);
        let pool = pool.filter(|pool| pool.admin_state_up)?;
        let id = pool.meta.id;
        self.named.insert(id, pool);
        Some(id)
    }
}

fn listens(pools: &mut Pools<'_>, listener: &Listener) -> HttpListener {
    // A year is more than the proxy counts: it is given the longest time that it does.
    let millis = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    let is_asked =
        |name: &str| listener.insert_headers.get(name).and_then(|v| v.as_str()) == Some("true");
    let insert = HEADERS.iter().filter(|(name, _)| is_asked(name));
    HttpListener {
        id: listener.meta.id,
        port: listener.protocol_port,
        // Less than none is no limit.
        connection_limit: u32::try_from(listener.connection_limit).ok(),
        client_timeout: millis(listener.timeout_client_data),
        connect_timeout: millis(listener.timeout_member_connect),
        member_timeout: millis(listener.timeout_member_data),
        insert: insert.map(|(_, header)| *header).collect(),
        policies: decides(pools, listener.meta.id),
        pool: pools.name(listener.default_pool_id),
        tls: tls::ends(listener),
    }
}

/// The policies that decide, in order. One without a rule never applies, nor does one whose pool does not serve.
fn decides(pools: &mut Pools<'_>, listener: Uuid) -> Vec<HttpPolicy> {
    let policies = l7_policy::of_listener(pools.view, listener);
    let policies = policies.iter().filter(|policy| policy.admin_state_up);
    let mut decide = Vec::new();
    for policy in policies {
        let rules = policy.when();
        if rules.is_empty() {
            continue;
        }
        let pool = pools.name(policy.redirect_pool_id);
        decide.extend(policy.does(pool).map(|action| HttpPolicy {
            id: policy.meta.id,
            rules,
            action,
        }));
    }
    decide
}

fn served(view: &View, pool: &Pool) -> HttpPool {
    let monitor = of_pool(view, pool.meta.id).filter(|monitor| monitor.admin_state_up);
    let monitor = monitor.and_then(|monitor| monitor.plan(&pool.members));
    let members = pool.members.iter().filter(|member| member.admin_state_up);
    HttpPool {
        id: pool.meta.id,
        algorithm: match pool.lb_algorithm.as_str() {
            "LEAST_CONNECTIONS" => HttpAlgorithm::LeastConnections,
            "SOURCE_IP" => HttpAlgorithm::SourceIp,
            // The rest of the words that the table admits.
            _ => HttpAlgorithm::RoundRobin,
        },
        persistence: pool.session_persistence.as_ref().and_then(persists),
        members: members.map(serves).collect(),
        monitor,
    }
}

fn persists(persistence: &Persistence) -> Option<HttpPersistence> {
    match (persistence.kind.as_str(), &persistence.cookie_name) {
        ("SOURCE_IP", _) => Some(HttpPersistence::SourceIp),
        ("HTTP_COOKIE", _) => Some(HttpPersistence::HttpCookie),
        ("APP_COOKIE", Some(name)) => Some(HttpPersistence::AppCookie(name.clone())),
        _ => None,
    }
}

fn serves(member: &Member) -> HttpMember {
    HttpMember {
        id: member.id,
        address: member.address.ip(),
        port: member.protocol_port,
        weight: member.weight,
        backup: member.backup,
    }
}
