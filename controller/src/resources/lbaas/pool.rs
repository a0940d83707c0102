//! Who serves, and how are they chosen?
//!
//! A pool's members are its parts. A member is an address that the virtual address's network reaches, itself or by its routers: it is
//! the tenant's own space in which a switch looks for it, never another's and never the host's.

use super::{
    HealthMonitor, L7Policy, Listener, PROTOCOLS, again, carried,
    health_monitor::of_pool,
    ids_of, invalid, l7_policy, list_shape,
    listener::{fits, vip},
    named, not_ones_own, of_project, operating, own_balancer, provisioning,
    proxy::{self, HTTP},
    tls::TERMINATED,
    unsupported,
};
use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Field, Kind, Meta, OCTAVIAS_TAGS, Objects, Operations, Ops, Part, Policy,
        Resource, Spec, field,
    },
    resources::{Subnet, function::Algorithm},
    rules::{Caller, Change, Judged, Rule, Write},
    store::View,
    time::Seconds,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, net::IpAddr};
use uuid::Uuid;

/// Members of a pool: fewer than a hundredth of a Maglev table's entries.
const MEMBERS: usize = 500;

/// An address, shown in the form in which it was given, as Octavia does.
#[derive(Debug, Clone)]
pub struct Written {
    ip: IpAddr,
    text: String,
}

impl Written {
    /// The address.
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }
}

impl PartialEq for Written {
    fn eq(&self, other: &Self) -> bool {
        self.ip == other.ip
    }
}

impl Eq for Written {}

impl Serialize for Written {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let ip = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self { ip, text })
    }
}

fn written(value: &Value) -> Result<Value, String> {
    let text = value.as_str();
    let address = text.and_then(|text| text.parse::<IpAddr>().ok());
    match address {
        Some(_) => Ok(value.clone()),
        None => Err(format!("'{value}' is not a valid IP address")),
    }
}

/// A member of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Identity.
    pub id: Uuid,
    /// Human label.
    #[serde(default)]
    pub name: String,
    /// Its address.
    pub address: Written,
    /// The port that it listens on.
    pub protocol_port: u16,
    /// Its share; 0 takes no new connection.
    pub weight: u16,
    /// The subnet that it is on, for people.
    #[serde(default)]
    pub subnet_id: Option<Uuid>,
    /// Does it serve?
    pub admin_state_up: bool,
    /// Does it serve only while no other does?
    #[serde(default)]
    pub backup: bool,
    /// Where it is asked whether it serves, if elsewhere.
    #[serde(default)]
    pub monitor_address: Option<Written>,
    /// At which port, if another.
    #[serde(default)]
    pub monitor_port: Option<u16>,
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// When it was made.
    #[serde(default)]
    pub created_at: Seconds,
    /// When it was last changed by who has it.
    #[serde(default)]
    pub updated_at: Seconds,
    /// What a monitor found; `None`: nothing yet, or nobody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves: Option<bool>,
}

impl Member {
    const fn operating(&self) -> &'static str {
        match (self.admin_state_up, self.serves, self.weight) {
            (false, ..) => "OFFLINE",
            (true, Some(false), _) => "ERROR",
            (true, _, 0) => "DRAINING",
            (true, Some(true), _) => "ONLINE",
            (true, None, _) => "NO_MONITOR",
        }
    }

    /// May it be given a connection?
    pub(super) fn is_up(&self) -> bool {
        self.admin_state_up && self.serves != Some(false)
    }
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Whose it is.
    #[serde(default)]
    pub loadbalancer_id: Option<Uuid>,
    /// The listener that a create makes it the default of.
    #[serde(default)]
    pub listener_id: Option<Uuid>,
    /// What its members speak.
    pub protocol: String,
    /// How a member is chosen.
    pub lb_algorithm: String,
    /// Do connections of one source stay together?
    #[serde(default)]
    pub session_persistence: Option<Persistence>,
    /// Does it serve?
    pub admin_state_up: bool,
    /// Who serves.
    #[serde(default)]
    pub members: Vec<Member>,
}

/// What connections that stay together have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persistence {
    /// `SOURCE_IP`; of HTTP also `HTTP_COOKIE` and `APP_COOKIE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The cookie that members give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_name: Option<String>,
    /// What else was named, which is refused.
    #[serde(default, skip_serializing)]
    pub further: Vec<String>,
}

static OPS: Ops<Pool> = Ops::new();

const MEMBER_FIELDS: &[Field] = &[
    field("name", Kind::Text(255), "Human label.").writable(Absent::Text("")),
    field("address", Kind::Shape(written), "Its address.").create_only(Absent::Required),
    field(
        "protocol_port",
        Kind::Int(1, 65_535),
        "The port that it listens on.",
    )
    .create_only(Absent::Required),
    field(
        "weight",
        Kind::Int(0, 256),
        "Its share; 0 takes no new connection.",
    )
    .writable(Absent::Int(1)),
    field("subnet_id", Kind::Uuid, "The subnet that it is on.")
        .create_only(Absent::Null)
        .or_null(),
    field("admin_state_up", Kind::Bool, "Does it serve?").writable(Absent::Bool(true)),
    field(
        "backup",
        Kind::Bool,
        "Does it serve only while no other does?",
    )
    .writable(Absent::Bool(false)),
    field(
        "monitor_address",
        Kind::Shape(written),
        "Where it is asked whether it serves, if not at its address.",
    )
    .writable(Absent::Null)
    .or_null(),
    field(
        "monitor_port",
        Kind::Int(1, 65_535),
        "At which port it is asked whether it serves, if not at its own.",
    )
    .writable(Absent::Null)
    .or_null(),
    OCTAVIAS_TAGS,
];

impl Resource for Pool {
    const SPEC: &'static Spec = &Spec {
        singular: "pool",
        plural: "pools",
        path: "lbaas/pools",
        storage: "pool",
        title: "Pool",
        doc: "Who serves the connections of listeners.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("pool", 100)),
        tags: true,
        bare: false,
        fields: &[
            field("loadbalancer_id", Kind::Uuid, "Whose it is.")
                .create_only(Absent::Null)
                .or_null(),
            field(
                "listener_id",
                Kind::Uuid,
                "The listener that it is to serve.",
            )
            .create_only(Absent::Null)
            .or_null()
            .computed()
            .if_any(),
            field("protocol", Kind::OneOf(PROTOCOLS), "TCP, UDP, SCTP, HTTP, or HTTPS, which ends at the member.").create_only(Absent::Required),
            field(
                "lb_algorithm",
                Kind::OneOf(&[
                    "ROUND_ROBIN",
                    "LEAST_CONNECTIONS",
                    "SOURCE_IP",
                    "SOURCE_IP_PORT",
                ]),
                "How a member is chosen; LEAST_CONNECTIONS of HTTP alone.",
            )
            .writable(Absent::Required),
            field(
                "session_persistence",
                Kind::Shape(persistence_shape),
                "Of type SOURCE_IP: all connections of one source go to one member. Of pools of HTTP also HTTP_COOKIE, and APP_COOKIE with a cookie_name.",
            )
            .writable(Absent::Null)
            .or_null()
            .unfiltered(),
            field("admin_state_up", Kind::Bool, "Does it serve?").writable(Absent::Bool(true)),
            field(
                "provisioning_status",
                Kind::Text(16),
                "ACTIVE, or ERROR if a switch refused it.",
            )
            .computed(),
            field(
                "operating_status",
                Kind::Text(16),
                "ONLINE or OFFLINE; DEGRADED while some members do not serve, ERROR while none does.",
            )
            .computed(),
            field("healthmonitor_id", Kind::Uuid, "Its monitor.")
                .or_null()
                .computed(),
            field("members", Kind::Shape(list_shape), "Its members.")
                .computed()
                .unfiltered(),
            field(
                "listeners",
                Kind::Shape(list_shape),
                "The listeners that it serves.",
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
        actions: &[],
        parts: &[Part {
            singular: "member",
            plural: "members",
            title: "Member",
            doc: "One who serves.",
            policy: Policy::Anyone,
            alias: None,
            batch: &["address", "protocol_port"],
            fields: MEMBER_FIELDS,
        }],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[possible, placed, members, stamped, followed];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let of = self.loadbalancer_id;
        of.map(|id| ("loadbalancer_id", id.to_string()))
            .into_iter()
            .collect()
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        let listeners = || self.listeners(scene);
        match field {
            "provisioning_status" => json!(provisioning(scene, listeners())),
            // Nobody asks anything of it.
            "operating_status" if listeners().is_empty() => json!("OFFLINE"),
            "operating_status" => json!(self.operating()),
            "healthmonitor_id" => {
                let monitors = ids_of(scene, "healthmonitor", "pool_id", self.meta.id);
                json!(monitors.first())
            }
            "members" => named(self.members.iter().map(|member| member.id)),
            "listeners" => named(listeners()),
            "loadbalancers" => named(self.loadbalancer_id),
            _ => Value::Null,
        }
    }

    fn parts(&self, _: &Part) -> Vec<Map<String, Value>> {
        let members = self.members.iter().map(|member| {
            let Value::Object(mut fields) = json!(member) else {
                unreachable!("a member is a struct with text keys")
            };
            fields.remove("serves");
            fields.insert("created_at".to_owned(), json!(member.created_at.bare()));
            fields.insert("updated_at".to_owned(), json!(member.updated_at.bare()));
            fields.insert("project_id".to_owned(), json!(self.meta.project_id));
            fields.insert("provisioning_status".to_owned(), json!("ACTIVE"));
            fields.insert("operating_status".to_owned(), json!(member.operating()));
            fields
        });
        members.collect()
    }

    fn with_part(
        &self,
        kind: &Part,
        id: Uuid,
        fields: Option<Map<String, Value>>,
    ) -> Result<Self, Refusal> {
        let mut pool = self.clone();
        let at = pool.members.iter().position(|member| member.id == id);
        let Some(mut fields) = fields else {
            pool.members.retain(|member| member.id != id);
            return Ok(pool);
        };
        fields.insert("id".to_owned(), json!(id));
        // Its times are not a request's to say.
        fields.remove("created_at");
        fields.remove("updated_at");
        let member: Member = serde_json::from_value(Value::Object(fields))
            .map_err(|error| Refusal::input(format_args!("{}: {error}", kind.singular)))?;
        match at.and_then(|at| pool.members.get_mut(at)) {
            Some(there)
                if (&there.address, there.protocol_port, there.subnet_id)
                    != (&member.address, member.protocol_port, member.subnet_id) =>
            {
                return Err(invalid(
                    "address, protocol_port and subnet_id cannot be changed",
                ));
            }
            Some(there) => {
                *there = Member {
                    serves: there.serves,
                    created_at: there.created_at,
                    updated_at: there.updated_at,
                    ..member
                }
            }
            None => pool.members.push(member),
        }
        Ok(pool)
    }
}

impl Pool {
    /// The listeners that it serves, by default or by a policy.
    fn listeners(&self, scene: &Scene<'_>) -> Vec<Uuid> {
        let mut ids = ids_of(scene, "listener", "default_pool_id", self.meta.id);
        let policies = scene
            .snapshot
            .related::<L7Policy>("redirect_pool_id", self.meta.id);
        for policy in &policies {
            if !ids.contains(&policy.listener_id) {
                ids.push(policy.listener_id);
            }
        }
        ids
    }

    /// As its members are.
    pub(super) fn operating(&self) -> &'static str {
        if !self.admin_state_up {
            return "OFFLINE";
        }
        let members = || self.members.iter().filter(|member| member.admin_state_up);
        let down = members().filter(|member| !member.is_up()).count();
        match (down, members().count()) {
            (0, _) => "ONLINE",
            (down, all) if down == all => "ERROR",
            _ => "DEGRADED",
        }
    }

    /// How a switch chooses for it.
    pub(super) fn algorithm(&self) -> Algorithm {
        if self.session_persistence.is_some() || self.lb_algorithm == "SOURCE_IP" {
            Algorithm::SourceIp
        } else if self.lb_algorithm == "ROUND_ROBIN" {
            Algorithm::RoundRobin
        } else {
            Algorithm::Maglev
        }
    }

    pub(super) fn tree(&self, scene: &Scene<'_>) -> Value {
        let members = self.members.iter().map(|member| {
            json!({
                "id": member.id,
                "name": member.name,
                "address": member.address,
                "protocol_port": member.protocol_port,
                "provisioning_status": "ACTIVE",
                "operating_status": member.operating(),
            })
        });
        let mut tree = json!({
            "id": self.meta.id,
            "name": self.meta.name,
            "provisioning_status": self.derive("provisioning_status", scene),
            "operating_status": self.operating(),
            "members": members.collect::<Vec<_>>(),
        });
        if let (Some(tree), Some(monitor)) =
            (tree.as_object_mut(), of_pool(scene.snapshot, self.meta.id))
        {
            let monitor = json!({
                "id": monitor.meta.id,
                "name": monitor.meta.name,
                "type": monitor.kind,
                "provisioning_status": "ACTIVE",
                "operating_status": operating(monitor.admin_state_up),
            });
            tree.insert("health_monitor".to_owned(), monitor);
        }
        tree
    }
}

/// Only what a switch sees of a connection, its source, or what a proxy sees of a request.
fn persistence_shape(value: &Value) -> Result<Value, String> {
    let object = value
        .as_object()
        .ok_or_else(|| format!("'{value}' is not an object"))?;
    let text = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= 255 => Ok(Some(text)),
        Some(other) => Err(format!("{name}: '{other}' is not a valid string")),
    };
    let kind = text("type")?.ok_or("a session persistence has a type")?;
    if !["SOURCE_IP", "HTTP_COOKIE", "APP_COOKIE"].contains(&kind.as_str()) {
        return Err(format!("'{kind}' is no type of a session persistence"));
    }
    let cookie = text("cookie_name")?.filter(|name| !name.is_empty());
    if cookie.is_some_and(|name| !is_token(name)) {
        return Err("Supplied \"cookie_name\" is invalid.".to_owned());
    }
    match (kind.as_str(), cookie) {
        ("APP_COOKIE", None) => {
            return Err("Field \"cookie_name\" must be specified when using the \"APP_COOKIE\" session persistence type.".to_owned());
        }
        ("SOURCE_IP" | "HTTP_COOKIE", Some(_)) => {
            return Err("Field \"cookie_name\" can only be specified with session persistence of type \"APP_COOKIE\".".to_owned());
        }
        _ => {}
    }
    let further = ["persistence_timeout", "persistence_granularity"];
    let known = ["type", "cookie_name"].into_iter().chain(further);
    let known: Vec<&str> = known.collect();
    if let Some(name) = object.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("'{name}' is not of a session persistence"));
    }
    let is_set = |name: &&&str| object.get(**name).is_some_and(|value| !value.is_null());
    let further: Vec<&str> = further.iter().filter(is_set).copied().collect();
    let mut shaped = json!({"type": kind});
    if let Some(shaped) = shaped.as_object_mut() {
        if let Some(name) = cookie {
            shaped.insert("cookie_name".to_owned(), json!(name));
        }
        if !further.is_empty() {
            shaped.insert("further".to_owned(), json!(further));
        }
    }
    Ok(shaped)
}

/// A name as HTTP has them (RFC 9110, section 5.6.2).
pub(super) fn is_token(name: &str) -> bool {
    let marks = b"!#$%&'*+-.^_`|~";
    let is_of = |byte: u8| byte.is_ascii_alphanumeric() || marks.contains(&byte);
    !name.is_empty() && name.bytes().all(is_of)
}

/// It is of a load balancer of the caller's, by its own id or a listener's.
fn placed(view: &View, change: &Change<'_, Pool>, caller: &Caller) -> Judged {
    let Some(made) = change.made() else {
        return Ok(Vec::new());
    };
    let listener = match made.listener_id {
        Some(id) => {
            let listener = view.object::<Listener>(id);
            let listener = listener.filter(|found| caller.owns(&found.meta.project_id));
            Some(listener.ok_or_else(|| not_ones_own(view, Listener::SPEC, id))?)
        }
        None => None,
    };
    let of = made.loadbalancer_id;
    let of = of.or_else(|| listener.as_ref().map(|listener| listener.loadbalancer_id));
    let of =
        of.ok_or_else(|| invalid("Must provide at least one of: loadbalancer_id, listener_id"))?;
    let balancer = own_balancer(view, of, caller)?;
    let pool = Pool {
        meta: of_project(&made.meta, &balancer.meta.project_id),
        loadbalancer_id: Some(of),
        listener_id: None,
        ..made.clone()
    };
    let mut writes = Vec::new();
    if let Some(listener) = listener {
        if listener.loadbalancer_id != of {
            return Err(invalid("the listener is of another load balancer"));
        }
        if let Some(other) = listener.default_pool_id {
            return Err(Refusal::conflict(
                "DuplicatePoolEntry",
                format!(
                    "Listener {} already has a default pool: {other}",
                    listener.meta.id
                ),
            ));
        }
        fits(&listener, &pool)?;
        writes.push(Write::put(Listener {
            default_pool_id: Some(made.meta.id),
            ..Listener::clone(&listener)
        }));
    }
    writes.push(Write::amend(pool));
    Ok(writes)
}

/// A switch can do what it asks for, or a proxy where there is one.
fn possible(view: &View, change: &Change<'_, Pool>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    carried(&after.protocol)?;
    if after.protocol == TERMINATED {
        return Err(unsupported(format_args!("protocol {TERMINATED} of a pool")));
    }
    if let Some(what) = proxy::is_needed_by(after) {
        let listeners = view.related::<Listener>("default_pool_id", after.meta.id);
        if after.protocol != HTTP
            || !listeners
                .iter()
                .all(|one| proxy::serves_protocol(&one.protocol))
        {
            return Err(unsupported(what));
        }
    }
    if after.protocol == HTTP && after.lb_algorithm == "SOURCE_IP_PORT" {
        return Err(unsupported("lb_algorithm SOURCE_IP_PORT of HTTP"));
    }
    let persistence = after.session_persistence.as_ref();
    if let Some(name) = persistence.and_then(|persistence| persistence.further.first()) {
        return Err(unsupported(format_args!("session_persistence: {name}")));
    }
    Ok(Vec::new())
}

/// Members are addresses of the virtual address's family at which somebody may be, each port of one once.
fn members(view: &View, change: &Change<'_, Pool>, caller: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    if after.members.len() > MEMBERS {
        return Err(Refusal::OverQuota { kind: "member" });
    }
    let vip = after.loadbalancer_id.and_then(|id| vip(view, id));
    let vip = vip.map(|(_, address)| address);
    let old = change.before.map(|before| before.members.as_slice());
    let old = old.unwrap_or_default();
    let mut met = BTreeSet::new();
    for member in &after.members {
        let address = member.address.ip();
        if !met.insert((address, member.protocol_port)) {
            return Err(Refusal::conflict(
                "DuplicateMemberEntry",
                format!(
                    "Another member on this pool is already using ip {address} on protocol_port {}",
                    member.protocol_port
                ),
            ));
        }
        let asked = member.monitor_address.as_ref().map(Written::ip);
        let of_family = |asked: IpAddr| asked.is_ipv4() == address.is_ipv4();
        if asked.is_some_and(|asked| !is_somebody(asked) || !of_family(asked)) {
            return Err(invalid(
                "monitor_address is no address of the member's family at which somebody can be asked",
            ));
        }
        if old.iter().any(|other| other.id == member.id) {
            continue;
        }
        if !is_somebody(address) || vip == Some(address) {
            return Err(invalid(format_args!(
                "{address} cannot be a member's address"
            )));
        }
        if vip.is_some_and(|vip| vip.is_ipv4() != address.is_ipv4()) {
            return Err(unsupported(format_args!(
                "member {address} is of another family than the virtual address"
            )));
        }
        if let Some(id) = member.subnet_id {
            let subnet = view.object::<Subnet>(id);
            let subnet = subnet.filter(|subnet| {
                crate::resources::network::open(view, subnet.network_id, caller, "create_member")
                    .is_ok()
            });
            subnet.ok_or_else(|| invalid(format_args!("Subnet {id} not found.")))?;
        }
    }
    Ok(Vec::new())
}

/// Who makes or changes a member does it now.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn stamped(_: &View, change: &Change<'_, Pool>, _: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let old = change.before.map(|before| before.members.as_slice());
    let old = old.unwrap_or_default();
    let (mut pool, now) = (after.clone(), change.moment.now);
    for member in &mut pool.members {
        match old.iter().find(|other| other.id == member.id) {
            None => (member.created_at, member.updated_at) = (now, now),
            Some(other) if other != member => member.updated_at = now,
            Some(_) => {}
        }
    }
    if pool == *after {
        return Ok(Vec::new());
    }
    Ok(vec![Write::amend(pool)])
}

/// Can a workload have this address?
const fn is_somebody(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_link_local()
                || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}

/// What changes here changes what its listeners do; without it they serve nobody.
fn followed(view: &View, change: &Change<'_, Pool>, _: &Caller) -> Judged {
    let Some(before) = change.before else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    if change.after.is_none() && change.is_asked() {
        l7_policy::leave(view, id)?;
    }
    let mut proxied = Vec::new();
    if before.protocol == HTTP {
        let of = before.loadbalancer_id;
        proxied = of.map_or_else(Vec::new, |of| proxy::renewed(view, of));
    }
    if change.after.is_some() {
        let mut writes = again(view, "default_pool_id", id);
        writes.extend(proxied);
        return Ok(writes);
    }
    let listeners = view.related::<Listener>("default_pool_id", id);
    let listeners = listeners.iter();
    let monitors = view.related::<HealthMonitor>("pool_id", id);
    let monitors = monitors.iter();
    let gone = monitors.map(|monitor| Write::Remove(HealthMonitor::SPEC, monitor.meta.id));
    Ok(listeners
        .map(|listener| {
            Write::put(Listener {
                default_pool_id: None,
                ..Listener::clone(listener)
            })
        })
        .chain(gone)
        .chain(proxied)
        .collect())
}
