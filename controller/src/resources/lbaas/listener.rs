//! Which port of a virtual address is balanced, and over whom?

use super::{
    L7Policy, LoadBalancer, PROTOCOLS, Plan, Pool, Serving, carried,
    health_monitor::{of_pool, worst},
    invalid, l7_policy, list_shape, named, object_shape, of_project, operating, own_balancer,
    pool::Member,
    provisioning, proxy, stats, tls,
    tls::TERMINATED,
    unsupported,
};
use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Action, How, Kind, Meta, Objects, Operations, Ops, Policy, Reply, Resource,
        Spec, field,
    },
    resources::{Port, function::Algorithm, subnet::loose_prefix},
    rules::{Caller, Change, Judged, Rule, Write},
    store::View,
};
use net::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// Prefixes of a listener: each is a classifier, which a first packet walks one by one.
const CIDRS: usize = 100;

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Whose address it is on.
    pub loadbalancer_id: Uuid,
    /// What it takes.
    pub protocol: String,
    /// Its port.
    pub protocol_port: u16,
    /// Who serves it.
    #[serde(default)]
    pub default_pool_id: Option<Uuid>,
    /// Does it take connections?
    pub admin_state_up: bool,
    /// From whom alone; from anyone, if none.
    #[serde(default)]
    pub allowed_cidrs: Option<Vec<Prefix>>,
    /// Connections at once, of HTTP; else kept for who asks.
    #[serde(default = "no_limit")]
    pub connection_limit: i64,
    /// Kept for who asks, in milliseconds.
    #[serde(default = "a_while")]
    pub timeout_client_data: i64,
    /// Kept for who asks, in milliseconds.
    #[serde(default = "soon")]
    pub timeout_member_connect: i64,
    /// Kept for who asks, in milliseconds.
    #[serde(default = "a_while")]
    pub timeout_member_data: i64,
    /// Kept for who asks, in milliseconds.
    #[serde(default)]
    pub timeout_tcp_inspect: i64,
    /// What members are told of who asks, of HTTP.
    #[serde(default)]
    pub insert_headers: serde_json::Map<String, Value>,
    /// What it shows to who asks for no other name.
    #[serde(default)]
    pub default_tls_container_ref: Option<String>,
    /// What it shows by name.
    #[serde(default)]
    pub sni_container_refs: Vec<String>,
    /// The versions of TLS that it takes.
    #[serde(default)]
    pub tls_versions: Vec<String>,
    /// The ciphers that it takes.
    #[serde(default)]
    pub tls_ciphers: Option<String>,
    /// What may be spoken in it.
    #[serde(default)]
    pub alpn_protocols: Vec<String>,
    /// For how long clients are told to ask over TLS alone, in seconds; none: they are not.
    #[serde(default)]
    pub hsts_max_age: Option<u32>,
    /// Are they told so of hosts below this one?
    #[serde(default)]
    pub hsts_include_subdomains: bool,
    /// May browsers know it beforehand?
    #[serde(default)]
    pub hsts_preload: bool,
    /// What the references led to when they were named, the default first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<tls::Kept>,
    /// What a switch must know; none while it takes no connections.
    #[serde(default)]
    pub plan: Option<Plan>,
}

/// Octavia's defaults.
const NO_LIMIT: i64 = -1;
const A_WHILE: i64 = 50_000;
const SOON: i64 = 5_000;
/// A year, in milliseconds.
const LONGEST: i64 = 365 * 24 * 3600 * 1000;

const fn no_limit() -> i64 {
    NO_LIMIT
}

const fn a_while() -> i64 {
    A_WHILE
}

const fn soon() -> i64 {
    SOON
}

static OPS: Ops<Listener> = Ops::new();

impl Resource for Listener {
    const SPEC: &'static Spec = &Spec {
        singular: "listener",
        plural: "listeners",
        path: "lbaas/listeners",
        storage: "listener",
        title: "Listener",
        doc: "A port of a load balancer's address.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("listener", 100)),
        tags: true,
        bare: false,
        fields: &[
            field("loadbalancer_id", Kind::Uuid, "Whose address it is on.")
                .create_only(Absent::Required),
            field("protocol", Kind::OneOf(PROTOCOLS), "TCP, UDP, SCTP, HTTP, HTTPS, which ends at the member, or TERMINATED_HTTPS, which ends here.").create_only(Absent::Required),
            field("protocol_port", Kind::Int(1, 65_535), "Its port.").create_only(Absent::Required),
            field("default_pool_id", Kind::Uuid, "The pool that serves it.")
                .writable(Absent::Null)
                .or_null(),
            field("admin_state_up", Kind::Bool, "Does it take connections?")
                .writable(Absent::Bool(true)),
            field(
                "allowed_cidrs",
                Kind::Shape(cidrs_shape),
                "The sources that it takes connections from; any, if none.",
            )
            .writable(Absent::Null)
            .or_null()
            .unfiltered(),
            field(
                "connection_limit",
                Kind::Int(NO_LIMIT, i32::MAX as i64),
                "Of HTTP: connections at once at most, -1 for any. Else kept and shown: nobody stands between clients and members.",
            )
            .writable(Absent::Int(NO_LIMIT)),
            field(
                "timeout_client_data",
                Kind::Int(0, LONGEST),
                "Of HTTP: milliseconds that a client may be silent. Else kept and shown: no connection ends here.",
            )
            .writable(Absent::Int(A_WHILE)),
            field(
                "timeout_member_connect",
                Kind::Int(0, LONGEST),
                "Of HTTP: milliseconds that a member may take to accept. Else kept and shown: the client itself connects.",
            )
            .writable(Absent::Int(SOON)),
            field(
                "timeout_member_data",
                Kind::Int(0, LONGEST),
                "Of HTTP: milliseconds that a member may be silent. Else kept and shown: no connection ends here.",
            )
            .writable(Absent::Int(A_WHILE)),
            field(
                "timeout_tcp_inspect",
                Kind::Int(0, LONGEST),
                "Kept and shown, in milliseconds: nothing looks into payloads.",
            )
            .writable(Absent::Int(0)),
            field(
                "insert_headers",
                Kind::Shape(object_shape),
                "Of HTTP: X-Forwarded-For, X-Forwarded-Port and X-Forwarded-Proto, which are put into requests where they are \"true\".",
            )
            .writable(Absent::Object)
            .unfiltered(),
            field(
                "default_tls_container_ref",
                Kind::Shape(tls::reference_shape),
                "Of TERMINATED_HTTPS: the secret (PKCS #12) or container of the certificate that is shown to who asks for no other.",
            )
            .writable(Absent::Null)
            .or_null()
            .unfiltered(),
            field(
                "sni_container_refs",
                Kind::Shape(tls::references_shape),
                "Of TERMINATED_HTTPS: those of the certificates that are shown to who asks for their names.",
            )
            .writable(Absent::List)
            .unfiltered(),
            field(
                "tls_versions",
                Kind::Shape(tls::versions_shape),
                "Of TERMINATED_HTTPS: the versions of TLS that are taken; TLSv1.2 and TLSv1.3 if it is empty.",
            )
            .writable(Absent::List)
            .unfiltered(),
            field(
                "tls_ciphers",
                Kind::Shape(tls::ciphers_shape),
                "Of TERMINATED_HTTPS: the ciphers that are taken, by OpenSSL's names with colons between; what HAProxy takes, if null.",
            )
            .writable(Absent::Null)
            .or_null()
            .unfiltered(),
            field(
                "alpn_protocols",
                Kind::Shape(tls::protocols_shape),
                "Of TERMINATED_HTTPS: h2, http/1.1, http/1.0: what may be spoken, the best first; all three, if nothing is said.",
            )
            .writable(Absent::List)
            .unfiltered(),
            field(
                "hsts_max_age",
                Kind::Int(0, i32::MAX as i64),
                "Of TERMINATED_HTTPS: seconds for which clients are told to ask over TLS alone.",
            )
            .writable(Absent::Null)
            .or_null(),
            field(
                "hsts_include_subdomains",
                Kind::Bool,
                "Are they told so of hosts below this one?",
            )
            .writable(Absent::Bool(false)),
            field("hsts_preload", Kind::Bool, "May browsers know it beforehand?")
                .writable(Absent::Bool(false)),
            field(
                "provisioning_status",
                Kind::Text(16),
                "ACTIVE, or ERROR if a switch refused it.",
            )
            .computed(),
            field(
                "operating_status",
                Kind::Text(16),
                "ONLINE or OFFLINE; DEGRADED or ERROR as its pool is.",
            )
            .computed(),
            field(
                "l7policies",
                Kind::Shape(list_shape),
                "What is decided by a request's head, in order.",
            )
            .computed()
            .unfiltered(),
            field(
                "loadbalancers",
                Kind::Shape(list_shape),
                "Its load balancer.",
            )
            .computed()
            .unfiltered(),
        ],
        actions: &[Action {
            name: "stats",
            doc: "Show what passed it.",
            rule: "get_listener_stats",
            policy: Policy::Anyone,
            how: How::Look,
            wrapped: false,
            arguments: &[],
            reply: Reply::Fields(&[field(
                "stats",
                Kind::Shape(object_shape),
                "Connections and bytes, as the hosts said last.",
            )
            .computed()]),
            success: 200,
        }],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] =
        &[placed, distinct, served, tls::secured, planned, followed];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let mut index = vec![("loadbalancer_id", self.loadbalancer_id.to_string())];
        index.extend(
            self.default_pool_id
                .map(|id| ("default_pool_id", id.to_string())),
        );
        index
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "provisioning_status" => json!(provisioning(scene, [self.meta.id])),
            "operating_status" => json!(self.operating(scene)),
            "l7policies" => {
                let policies = l7_policy::of_listener(scene.snapshot, self.meta.id);
                named(policies.iter().map(|policy| policy.meta.id))
            }
            "loadbalancers" => named([self.loadbalancer_id]),
            "stats" => stats(scene, [self.meta.id]),
            _ => Value::Null,
        }
    }
}

impl Listener {
    /// As its pool is.
    pub(super) fn operating(&self, scene: &Scene<'_>) -> &'static str {
        if !self.admin_state_up
            || proxy::serves_protocol(&self.protocol) && !proxy::runs(scene, self)
        {
            return operating(false);
        }
        let pools = self.pools(scene);
        worst(pools.iter().map(|pool| pool.operating()))
    }

    /// Those that serve it, its own first.
    pub(super) fn pools(&self, scene: &Scene<'_>) -> Vec<std::sync::Arc<Pool>> {
        let policies = l7_policy::of_listener(scene.snapshot, self.meta.id);
        let others = policies.iter().map(|policy| policy.redirect_pool_id);
        let mut ids: Vec<_> = Vec::new();
        for id in std::iter::once(self.default_pool_id)
            .chain(others)
            .flatten()
        {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let pools = ids.into_iter().map(|id| scene.snapshot.object::<Pool>(id));
        pools.flatten().collect()
    }
}

/// Prefixes, host bits cut off; an empty list says nothing.
fn cidrs_shape(value: &Value) -> Result<Value, String> {
    let list = value
        .as_array()
        .ok_or_else(|| format!("'{value}' is not a list"))?;
    if list.len() > CIDRS {
        return Err(format!("more than {CIDRS} prefixes"));
    }
    let mut prefixes: Vec<Prefix> = Vec::with_capacity(list.len());
    for item in list {
        let prefix = item.as_str().and_then(loose_prefix);
        let prefix = prefix.ok_or_else(|| format!("'{item}' is not an IP prefix"))?;
        if !prefixes.contains(&prefix) {
            prefixes.push(prefix);
        }
    }
    Ok(if prefixes.is_empty() {
        Value::Null
    } else {
        json!(prefixes)
    })
}

/// It is of a load balancer of the caller's, and speaks what a switch can balance.
fn placed(view: &View, change: &Change<'_, Listener>, caller: &Caller) -> Judged {
    let Some(made) = change.made() else {
        return Ok(Vec::new());
    };
    carried(&made.protocol)?;
    let balancer = own_balancer(view, made.loadbalancer_id, caller)?;
    Ok(vec![Write::amend(Listener {
        meta: of_project(&made.meta, &balancer.meta.project_id),
        ..made.clone()
    })])
}

/// One listener a port and protocol, and prefixes of the address's family.
fn distinct(view: &View, change: &Change<'_, Listener>, _: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    proxy::headers_are_known(after)?;
    let others = view.related::<Listener>("loadbalancer_id", after.loadbalancer_id);
    let same = |other: &&std::sync::Arc<Listener>| {
        other.meta.id != after.meta.id
            && carried(&other.protocol) == carried(&after.protocol)
            && other.protocol_port == after.protocol_port
    };
    if others.iter().find(same).is_some() {
        return Err(Refusal::conflict(
            "DuplicateListenerEntry",
            format!(
                "Another Listener on this Load Balancer is already using protocol {} and protocol_port {}",
                after.protocol, after.protocol_port
            ),
        ));
    }
    let vip = vip(view, after.loadbalancer_id).map(|(_, address)| address);
    for prefix in after.allowed_cidrs.iter().flatten() {
        if vip.is_some_and(|vip| vip.is_ipv4() != prefix.is_ipv4()) {
            return Err(invalid(format_args!(
                "allowed_cidrs: IP version of {prefix} does not match the virtual address"
            )));
        }
    }
    Ok(Vec::new())
}

/// Its pool is of the same load balancer and protocol.
fn served(view: &View, change: &Change<'_, Listener>, _: &Caller) -> Judged {
    let after = change.after.filter(|_| change.names("default_pool_id"));
    let Some((after, id)) = after.and_then(|after| Some((after, after.default_pool_id?))) else {
        return Ok(Vec::new());
    };
    let pool = view.object::<Pool>(id);
    let pool = pool.filter(|pool| pool.loadbalancer_id == Some(after.loadbalancer_id));
    let pool = pool.ok_or_else(|| Refusal::missing("Pool", id))?;
    fits(after, &pool)?;
    Ok(Vec::new())
}

/// Can the pool serve the listener?
pub(super) fn fits(listener: &Listener, pool: &Pool) -> Result<(), Refusal> {
    let (of, by) = (listener.protocol.as_str(), pool.protocol.as_str());
    if of == by
        || matches!(
            (of, by),
            ("TCP", "HTTP" | "HTTPS") | ("HTTPS", "TCP") | (TERMINATED, "HTTP")
        )
    {
        return match proxy::is_needed_by(pool).filter(|_| !proxy::serves_protocol(of)) {
            Some(what) => Err(unsupported(format_args!("{what} of a {of} listener"))),
            None => Ok(()),
        };
    }
    Err(invalid(format_args!(
        "The pool protocol '{}' is invalid while the listener protocol is '{}'.",
        pool.protocol, listener.protocol
    )))
}

/// The port of a load balancer's address, and the address.
pub(super) fn vip(view: &View, balancer: Uuid) -> Option<(Uuid, std::net::IpAddr)> {
    vip_of(view, &*view.object::<LoadBalancer>(balancer)?)
}

/// The same of one that may not be stored yet.
pub(super) fn vip_of(view: &View, balancer: &LoadBalancer) -> Option<(Uuid, std::net::IpAddr)> {
    let port = view.object::<Port>(balancer.vip_port_id?)?;
    Some((port.meta.id, balancer.vip(&port)?))
}

/// What follows for the switches; judged whoever changes what.
fn planned(view: &View, change: &Change<'_, Listener>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let plan = plan(view, after)?;
    if plan == after.plan {
        return Ok(Vec::new());
    }
    Ok(vec![Write::amend(Listener {
        plan,
        ..after.clone()
    })])
}

/// What changes of a listener of HTTP changes what its proxy does. Its policies go with it.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn followed(view: &View, change: &Change<'_, Listener>, _: &Caller) -> Judged {
    let listener = change.subject();
    let Some(listener) = listener.filter(|listener| proxy::serves_protocol(&listener.protocol))
    else {
        return Ok(Vec::new());
    };
    let mut writes = proxy::renewed(view, listener.loadbalancer_id);
    if change.removed().is_some() {
        let policies = l7_policy::of_listener(view, listener.meta.id);
        let gone = policies.iter();
        writes.extend(gone.map(|policy| Write::Remove(L7Policy::SPEC, policy.meta.id)));
    }
    Ok(writes)
}

fn plan(view: &View, listener: &Listener) -> Result<Option<Plan>, Refusal> {
    let protocol = carried(&listener.protocol)?;
    let up = view
        .object::<LoadBalancer>(listener.loadbalancer_id)
        .is_some_and(|balancer| balancer.admin_state_up && listener.admin_state_up);
    let Some((vip_port_id, vip)) = vip(view, listener.loadbalancer_id).filter(|_| up) else {
        return Ok(None);
    };
    if proxy::serves_protocol(&listener.protocol) {
        let front = proxy::front(view, listener);
        return Ok(front.map(|proxy| Plan {
            vip,
            vip_port_id,
            protocol,
            algorithm: Algorithm::Maglev,
            members: vec![proxy],
            monitor: None,
        }));
    }
    let pool = listener.default_pool_id;
    let pool = pool.and_then(|id| view.object::<Pool>(id));
    let pool = pool.filter(|pool| pool.admin_state_up);
    let algorithm = pool
        .as_ref()
        .map_or(Algorithm::Maglev, |pool| pool.algorithm());
    let monitor = pool.as_ref().and_then(|pool| of_pool(view, pool.meta.id));
    let monitor = monitor.filter(|monitor| monitor.admin_state_up);
    let members = pool.as_ref().map(|pool| pool.members.as_slice());
    let members = members.unwrap_or_default();
    let monitor = monitor.and_then(|monitor| monitor.plan(members));
    let members = serving(members);
    Ok(Some(Plan {
        vip,
        vip_port_id,
        protocol,
        algorithm,
        members,
        monitor,
    }))
}

/// Who does not answer takes no new connection, and backups take them only while nobody else does; what they have they keep.
fn serving(members: &[Member]) -> Vec<Serving> {
    let takes = |member: &Member| member.is_up() && member.weight > 0;
    let primaries = members.iter().any(|member| !member.backup && takes(member));
    let known = members.iter().filter(|member| member.admin_state_up);
    let members = known.map(|member| Serving {
        id: member.id,
        address: member.address.ip(),
        port: member.protocol_port,
        weight: if member.backup && primaries || !member.is_up() {
            0
        } else {
            member.weight
        },
    });
    members.collect()
}
