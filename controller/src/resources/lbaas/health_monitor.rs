//! How is it found out whether a pool's members serve?
//!
//! A monitor of a pool is part of the plans of its listeners, so that every host asks the members behind its own ports. What a host finds comes
//! back with its reports and is kept with the member ([`note`]): from there it goes the way of every change, to all hosts, also after a restart.

use super::{
    LoadBalancer, Pool, invalid, list_shape, named, not_ones_own, of_project, operating,
    pool::{Member, Written},
    provisioning,
    proxy::HTTP,
    unsupported,
};
use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{ALL, Absent, Kind, Meta, Objects, Operations, Ops, Policy, Resource, Spec, field},
    resources::port_pair_group::note_hop,
    rules::{self, Caller, Change, Judged, Moment, Rule, Write},
    store::View,
};
use hostconfig::chain::{Elsewhere, HealthProbe, Monitor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use uuid::Uuid;

/// How long a monitor may wait: a day.
const LONGEST: i64 = 86_400;
/// Octavia lets a datagram be sent no more often than this, in seconds.
const DATAGRAMS_APART: u32 = 3;
const METHODS: &[&str] = &[
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

/// A health monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthMonitor {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Whose members it asks.
    pub pool_id: Uuid,
    /// What it asks.
    #[serde(rename = "type")]
    pub kind: String,
    /// Seconds from one probe to the next.
    pub delay: u32,
    /// Seconds that an answer may take.
    pub timeout: u32,
    /// Answers in a row that bring a member back.
    pub max_retries: u8,
    /// Failures in a row that take it out.
    pub max_retries_down: u8,
    /// By which method, of HTTP.
    #[serde(default)]
    pub http_method: Option<String>,
    /// For what.
    #[serde(default)]
    pub url_path: Option<String>,
    /// Which codes say that it serves.
    #[serde(default)]
    pub expected_codes: Option<String>,
    /// 1.0 or 1.1, in tenths.
    #[serde(default)]
    pub http_version: Option<Tenths>,
    /// Of whom it is asked.
    #[serde(default)]
    pub domain_name: Option<String>,
    /// Does it ask?
    pub admin_state_up: bool,
}

/// A version of HTTP, which clients write as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenths(u8);

impl Serialize for Tenths {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(f64::from(self.0) / 10.0)
    }
}

impl<'de> Deserialize<'de> for Tenths {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(d)?;
        tenths(&value).ok_or_else(|| serde::de::Error::custom("neither 1.0 nor 1.1"))
    }
}

fn tenths(value: &Value) -> Option<Tenths> {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    match text.as_str() {
        "1" | "1.0" => Some(Tenths(10)),
        "1.1" => Some(Tenths(11)),
        _ => None,
    }
}

static OPS: Ops<HealthMonitor> = Ops::new();

impl Resource for HealthMonitor {
    const SPEC: &'static Spec = &Spec {
        singular: "healthmonitor",
        plural: "healthmonitors",
        path: "lbaas/healthmonitors",
        storage: "healthmonitor",
        title: "HealthMonitor",
        doc: "How the members of a pool are asked whether they serve.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("healthmonitor", 100)),
        tags: true,
        bare: false,
        fields: &[
            field("pool_id", Kind::Uuid, "The pool whose members it asks.")
                .create_only(Absent::Required),
            field(
                "type",
                Kind::OneOf(&[
                    "TCP",
                    "UDP-CONNECT",
                    "HTTP",
                    "PING",
                    "HTTPS",
                    "TLS-HELLO",
                    "SCTP",
                ]),
                "What it asks: TCP, UDP-CONNECT, HTTP or PING.",
            )
            .create_only(Absent::Required),
            field(
                "delay",
                Kind::Int(1, LONGEST),
                "Seconds from one probe of a member to the next.",
            )
            .writable(Absent::Required),
            field(
                "timeout",
                Kind::Int(1, LONGEST),
                "Seconds that an answer may take.",
            )
            .writable(Absent::Required),
            field(
                "max_retries",
                Kind::Int(1, 10),
                "Answers in a row that bring a member back.",
            )
            .writable(Absent::Required),
            field(
                "max_retries_down",
                Kind::Int(1, 10),
                "Failures in a row that take a member out.",
            )
            .writable(Absent::Int(3)),
            field(
                "http_method",
                Kind::OneOf(METHODS),
                "Of HTTP: by which method.",
            )
            .writable(Absent::Null)
            .or_null(),
            field("url_path", Kind::Text(255), "Of HTTP: for what.")
                .writable(Absent::Null)
                .or_null(),
            field(
                "expected_codes",
                Kind::Text(64),
                "Of HTTP: a code, a list of codes or a range that says that a member serves.",
            )
            .writable(Absent::Null)
            .or_null(),
            field(
                "http_version",
                Kind::Shape(version_shape),
                "Of HTTP: 1.0 or 1.1.",
            )
            .writable(Absent::Null)
            .or_null()
            .unfiltered(),
            field(
                "domain_name",
                Kind::Text(255),
                "Of HTTP/1.1: of which host.",
            )
            .writable(Absent::Null)
            .or_null(),
            field("admin_state_up", Kind::Bool, "Does it ask?").writable(Absent::Bool(true)),
            field(
                "provisioning_status",
                Kind::Text(16),
                "ACTIVE, or ERROR if a switch refused it.",
            )
            .computed(),
            field("operating_status", Kind::Text(16), "ONLINE or OFFLINE.").computed(),
            field("pools", Kind::Shape(list_shape), "Its pool.")
                .computed()
                .unfiltered(),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[placed, possible, followed];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        vec![("pool_id", self.pool_id.to_string())]
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "provisioning_status" => {
                let listeners = super::ids_of(scene, "listener", "default_pool_id", self.pool_id);
                json!(provisioning(scene, listeners))
            }
            "operating_status" => json!(operating(self.admin_state_up)),
            "pools" => named([self.pool_id]),
            _ => Value::Null,
        }
    }
}

fn version_shape(value: &Value) -> Result<Value, String> {
    let version = tenths(value).ok_or_else(|| format!("'{value}' is neither 1.0 nor 1.1"))?;
    Ok(json!(version))
}

impl HealthMonitor {
    /// As a switch knows it.
    pub(super) fn plan(&self, members: &[Member]) -> Option<Monitor> {
        let elsewhere = members.iter().filter(|member| member.admin_state_up);
        let elsewhere = elsewhere.filter_map(|member| {
            let addr = member.monitor_address.as_ref().map(Written::ip);
            let port = member.monitor_port;
            (addr.is_some() || port.is_some()).then(|| Elsewhere {
                member: member.id.into(),
                addr: addr.unwrap_or(member.address.ip()),
                port: port.unwrap_or(member.protocol_port),
            })
        });
        let probe = match self.kind.as_str() {
            "TCP" => HealthProbe::Tcp,
            "UDP-CONNECT" => HealthProbe::Udp,
            "PING" => HealthProbe::Ping,
            "HTTP" => HealthProbe::Http {
                request: self.request(),
                codes: codes(self.expected_codes.as_deref()?)?,
            },
            _ => return None,
        };
        Some(Monitor {
            id: self.meta.id.into(),
            probe,
            delay_ms: self.delay.saturating_mul(1000),
            timeout_ms: self.timeout.saturating_mul(1000),
            rise: self.max_retries,
            fall: self.max_retries_down,
            elsewhere: elsewhere.collect(),
        })
    }

    fn request(&self) -> String {
        let method = self.http_method.as_deref().unwrap_or("GET");
        let path = self.url_path.as_deref().unwrap_or("/");
        if self.http_version == Some(Tenths(11)) {
            // Without a name the field is empty, and not left out (RFC 9112 §3.2).
            let host = self.domain_name.as_deref().unwrap_or_default();
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        } else {
            format!("{method} {path} HTTP/1.0\r\n\r\n")
        }
    }
}

/// The codes of Octavia's three forms: `200`, `200, 202` and `200-204`.
pub(crate) fn codes(text: &str) -> Option<Vec<(u16, u16)>> {
    let code = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    if let Some((first, last)) = text.split_once('-') {
        let range = (code(first)?, code(last)?);
        return (range.0 <= range.1).then(|| vec![range]);
    }
    let all = text.split(',').map(|one| code(one.trim()));
    all.map(|one| one.map(|one| (one, one))).collect()
}

/// It is of a pool of the caller's, which has no other.
fn placed(view: &View, change: &Change<'_, HealthMonitor>, caller: &Caller) -> Judged {
    let Some(made) = change.made() else {
        return Ok(Vec::new());
    };
    let pool = view.object::<Pool>(made.pool_id);
    let pool = pool.filter(|pool| caller.owns(&pool.meta.project_id));
    let pool = pool.ok_or_else(|| not_ones_own(view, Pool::SPEC, made.pool_id))?;
    let others = view.related::<HealthMonitor>("pool_id", made.pool_id);
    if others.iter().any(|other| other.meta.id != made.meta.id) {
        return Err(Refusal::conflict(
            "DuplicateHealthMonitor",
            "This pool already has a health monitor",
        ));
    }
    fits(made, &pool)?;
    Ok(vec![Write::amend(HealthMonitor {
        meta: of_project(&made.meta, &pool.meta.project_id),
        ..made.clone()
    })])
}

/// What a pool's members speak bounds what they can be asked.
fn fits(monitor: &HealthMonitor, pool: &Pool) -> Result<(), Refusal> {
    let kind = monitor.kind.as_str();
    let protocol = pool.protocol.as_str();
    let datagrams = matches!(protocol, "UDP" | "SCTP");
    if datagrams && !matches!(kind, "HTTP" | "TCP" | "UDP-CONNECT" | "SCTP") {
        return Err(invalid(format_args!(
            "The associated pool protocol is {protocol}, so only a HTTP, SCTP, TCP or UDP-CONNECT health monitor is supported.",
        )));
    }
    if protocol == HTTP && kind == "PING" {
        return Err(unsupported("health monitor type PING of a pool of HTTP"));
    }
    if !datagrams && matches!(kind, "UDP-CONNECT" | "SCTP") {
        return Err(invalid(format_args!(
            "The {kind} type is only supported for pools of type UDP or SCTP.",
        )));
    }
    Ok(())
}

/// A switch can ask it, and what HTTP leaves open is said.
fn possible(_: &View, change: &Change<'_, HealthMonitor>, _: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let kind = after.kind.as_str();
    if matches!(kind, "HTTPS" | "TLS-HELLO" | "SCTP") {
        return Err(unsupported(format_args!("health monitor type {kind}")));
    }
    if kind == "UDP-CONNECT" && after.delay < DATAGRAMS_APART {
        return Err(invalid(format_args!(
            "The request delay value {} should be larger than {DATAGRAMS_APART} for UDP-CONNECT health monitor type.",
            after.delay
        )));
    }
    if kind != "HTTP" {
        let given = [
            ("http_method", after.http_method.is_some()),
            ("url_path", after.url_path.is_some()),
            ("expected_codes", after.expected_codes.is_some()),
            ("http_version", after.http_version.is_some()),
            ("domain_name", after.domain_name.is_some()),
        ];
        return match given.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(invalid(format_args!(
                "{name} is not a valid option for health monitors of type {kind}"
            ))),
            None => Ok(Vec::new()),
        };
    }
    let mut whole = after.clone();
    whole.http_method.get_or_insert_with(|| "GET".to_owned());
    whole.url_path.get_or_insert_with(|| "/".to_owned());
    whole.expected_codes.get_or_insert_with(|| "200".to_owned());
    request_is_sound(&whole)?;
    if whole == *after {
        return Ok(Vec::new());
    }
    Ok(vec![Write::amend(whole)])
}

fn request_is_sound(monitor: &HealthMonitor) -> Result<(), Refusal> {
    let path = monitor.url_path.as_deref().unwrap_or_default();
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !path.starts_with('/') || !plain(path) {
        return Err(invalid(format_args!("url_path '{path}' is not a URL path")));
    }
    let expected = monitor.expected_codes.as_deref().unwrap_or_default();
    if codes(expected).is_none() {
        return Err(invalid(format_args!(
            "expected_codes '{expected}' is no code, list of codes or range"
        )));
    }
    let Some(domain) = &monitor.domain_name else {
        return Ok(());
    };
    if monitor.http_version != Some(Tenths(11)) {
        return Err(invalid(
            "http_version 1.1 is required when domain_name is specified.",
        ));
    }
    let named = |label: &str| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && label.bytes().all(word)
    };
    if domain.split('.').all(named) {
        Ok(())
    } else {
        Err(invalid(format_args!("domain_name '{domain}' is no name")))
    }
}

/// The pool's listeners do what it says. Without it, or while it does not ask, nothing is known of the members.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn followed(view: &View, change: &Change<'_, HealthMonitor>, _: &Caller) -> Judged {
    let Some(monitor) = change.after.or(change.before) else {
        return Ok(Vec::new());
    };
    let Some(pool) = view.object::<Pool>(monitor.pool_id) else {
        return Ok(Vec::new());
    };
    let mut pool = Pool::clone(&pool);
    if change.after.is_none_or(|after| !after.admin_state_up) {
        for member in &mut pool.members {
            member.serves = None;
        }
    }
    Ok(vec![Write::put(pool)])
}

/// The monitor of a pool.
pub(super) fn of_pool<R: crate::store::Read>(read: &R, pool: Uuid) -> Option<HealthMonitor> {
    let monitors = read.related::<HealthMonitor>("pool_id", pool);
    monitors
        .first()
        .map(|monitor| HealthMonitor::clone(monitor))
}

/// What a host found of a member, or of what a group of a chain asks: a member of its load balancer, or a port pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// By which monitor.
    pub monitor: Uuid,
    /// Of which member.
    pub member: Uuid,
    /// Does it serve?
    pub serves: bool,
}

/// Notes what a host found, where it is news: what a monitor that does not ask any more found is none.
///
/// # Errors
/// What a rule of pools or listeners refuses.
pub fn note(view: &mut View, verdicts: &[Verdict], moment: &Moment) -> Result<(), Refusal> {
    let mut pools: BTreeMap<Uuid, Pool> = BTreeMap::new();
    let mut groups = BTreeMap::new();
    for verdict in verdicts {
        let key = (verdict.monitor, verdict.member);
        note_hop(view, &mut groups, key, verdict.serves);
        let monitor = view.object::<HealthMonitor>(verdict.monitor);
        let Some(monitor) = monitor.filter(|monitor| monitor.admin_state_up) else {
            continue;
        };
        let Some(pool) = view.object::<Pool>(monitor.pool_id) else {
            continue;
        };
        let pool = pools.get(&monitor.pool_id).unwrap_or(&pool);
        let news =
            |member: &&Member| member.id == verdict.member && member.serves != Some(verdict.serves);
        if pool.members.iter().find(news).is_none() {
            continue;
        }
        let mut pool = pool.clone();
        for member in &mut pool.members {
            if member.id == verdict.member {
                member.serves = Some(verdict.serves);
            }
        }
        pools.insert(monitor.pool_id, pool);
    }
    let groups = groups.into_values().map(Write::put);
    let writes: Vec<Write> = pools.into_values().map(Write::put).chain(groups).collect();
    if writes.is_empty() {
        return Ok(());
    }
    rules::follow_up(view, writes, moment)
}

/// The load balancer's pools, worst first.
pub(super) fn worst(statuses: impl IntoIterator<Item = &'static str>) -> &'static str {
    let order = ["ERROR", "DEGRADED"];
    let worst = statuses
        .into_iter()
        .min_by_key(|status| order.iter().position(|word| word == status).unwrap_or(2));
    match worst {
        Some(status) if order.contains(&status) => status,
        Some(_) | None => "ONLINE",
    }
}

/// What a load balancer's operating status is, while it is up: as its pools'.
pub(super) fn of_balancer(scene: &Scene<'_>, balancer: &LoadBalancer) -> &'static str {
    if !balancer.admin_state_up {
        return "OFFLINE";
    }
    let pools = scene
        .snapshot
        .related::<Pool>("loadbalancer_id", balancer.meta.id);
    worst(pools.iter().map(|pool| pool.operating()))
}
