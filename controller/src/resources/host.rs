//! What is a host?
//!
//! A machine whose switch this controller decides for, known by its name; ports are bound to it by
//! that name. It joins once with a token, later with its certificate. A host with a `vtep` of its own
//! is a foreign tunnel endpoint without an agent. The API shows hosts twice: as overweave's own
//! `hosts` (an admin adds them and gets the token, once), and as Neutron's `agents`.

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Claim, Kind, Lookup, Meta, Objects, Operations, Ops, Policy, Resource, Shown,
        Spec, Verb, field,
    },
    resources::{
        Port,
        guarantee::{self, Amounts},
        port::{GATEWAY_OWNER, MAY_BE_AT},
        port_pair_group::lowest_number,
    },
    rules::{Caller, Change, Judged, Rule, Write},
    store::{Read, View},
    time::Seconds,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hostconfig::zone::USUAL_ZONE;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};
use uuid::Uuid;

/// How long a join token is good, in seconds.
pub const TOKEN_LIFE: u64 = 3600;

/// A join token that was not used yet, under the hash of its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The host that may join with it.
    pub host_id: Uuid,
    /// Until when.
    pub expires_at: Seconds,
}

/// The key of a join token by its secret.
pub fn join_token_key(secret: &[u8]) -> String {
    format!("jointoken/{:x}", Sha256::digest(secret))
}

/// The host that may join with the token of this key.
pub fn joining(read: &impl Read, key: &str, name: &str, now: Seconds) -> Option<Arc<Host>> {
    let token = read
        .get::<JoinToken>(key)
        .filter(|token| now < token.expires_at)?;
    let host = read.object::<Host>(token.host_id)?;
    let is_right = host.meta.name == name && host.token_key.as_deref() == Some(key);
    (is_right && !host.is_foreign()).then_some(host)
}

/// What a host says of where it stands, when it connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The physical networks that it has an interface on.
    pub physical_networks: BTreeSet<String>,
    /// The availability zone that it is in.
    pub availability_zone: String,
    /// Has it the program that balances HTTP?
    pub proxies: bool,
}

/// A host.
#[expect(clippy::struct_excessive_bools, reason = "each is a field of its own")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// What every object has; the name is the host's.
    #[serde(flatten)]
    pub meta: Meta,
    /// A small number for it, that no other host has: by it hosts share what is given out in parts. Foreign ones have none.
    #[serde(default)]
    pub number: Option<u16>,
    /// The tunnel endpoint: of a foreign host given, of another reported when it joined.
    #[serde(default)]
    pub vtep: Option<IpAddr>,
    /// The physical networks that it has an interface on, as it said when it connected.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub physical_networks: BTreeSet<String>,
    /// The availability zone that it is in, as it said when it connected.
    #[serde(default = "usual_zone")]
    pub availability_zone: String,
    /// Has it the program that balances HTTP, as it said when it connected?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxies: bool,
    /// A tunnel endpoint without an agent.
    #[serde(default)]
    pub foreign: bool,
    /// What it can guarantee its ports, as its admin says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Amounts>,
    /// May new ports be bound to it?
    #[serde(default = "yes")]
    pub admin_state_up: bool,
    /// The key of the join token that was given out last.
    #[serde(default)]
    pub token_key: Option<String>,
    /// The fingerprint of the certificate that it joined with.
    #[serde(default)]
    pub certificate: Option<String>,
    /// Since when it is gone, and appliances at it are down. Noted of hosts that have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<Seconds>,
    /// Write-only: a new token is wanted.
    #[serde(default, skip_serializing)]
    pub new_token: bool,
}

fn usual_zone() -> String {
    USUAL_ZONE.to_owned()
}

const fn yes() -> bool {
    true
}

impl Host {
    /// The key that holds a host's name.
    pub fn name_key(name: &str) -> String {
        format!("name/host/{name}")
    }

    /// The host of this name.
    pub fn by_name(read: &impl Read, name: &str) -> Option<Arc<Self>> {
        let claim = read.get::<Claim>(&Self::name_key(name))?;
        read.object(claim.holder)
    }

    /// Its physical networks in the form of Neutron's agents, which name a bridge for each: here it is the host's own affair.
    fn bridge_mappings(&self) -> Value {
        let names = self.physical_networks.iter();
        names.map(|name| (name.clone(), json!(name))).collect()
    }

    /// Is it a tunnel endpoint without an agent?
    pub const fn is_foreign(&self) -> bool {
        self.foreign
    }
}

static OPS: Ops<Host> = Ops::new();

impl Resource for Host {
    const SPEC: &'static Spec = &Spec {
        singular: "host",
        plural: "hosts",
        path: "overweave/hosts",
        storage: "host",
        title: "Host",
        doc: "A machine with a switch. The answer to its creation holds a join token, once.",
        verbs: ALL,
        policy: Policy::Admin,
        quota: None,
        tags: false,
        bare: true,
        fields: &[
            field("id", Kind::Uuid, "Identity."),
            field(
                "name",
                Kind::Text(255),
                "Its name, as ports' bindings call it.",
            )
            .create_only(Absent::Required),
            field("description", Kind::Text(255), "Human note.").writable(Absent::Text("")),
            field(
                "vtep",
                Kind::Address,
                "Its tunnel endpoint; given: a foreign one.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field("foreign", Kind::Bool, "A tunnel endpoint without an agent."),
            field(
                "physical_networks",
                Kind::Words,
                "The physical networks that it has an interface on.",
            )
            .computed()
            .unfiltered(),
            field(
                "availability_zone",
                Kind::Text(255),
                "The zone that it is in, as its own configuration says.",
            )
            .computed(),
            field(
                "proxies",
                Kind::Bool,
                "Has it the program that balances HTTP?",
            )
            .computed(),
            field("admin_state_up", Kind::Bool, "Is it in service?").writable(Absent::Bool(true)),
            field(
                "new_token",
                Kind::Bool,
                "Write true for another join token.",
            )
            .writable(Absent::Bool(false))
            .read_by(Policy::Nobody),
            field(
                "capacity",
                Kind::Shape(guarantee::shape),
                "What it can guarantee its ports; what is not said is none.",
            )
            .writable(Absent::Null)
            .or_null()
            .unfiltered(),
            field(
                "reserved",
                Kind::Text(255),
                "What its ports are guaranteed.",
            )
            .shown(Shown::Object)
            .computed()
            .unfiltered(),
            field("alive", Kind::Bool, "Is it connected?").computed(),
            field("complaint", Kind::Text(255), "What it could not do.")
                .or_null()
                .computed(),
            field(
                "revision_number",
                Kind::Int(0, i64::MAX),
                "Grows with each change.",
            ),
            field("created_at", Kind::Text(32), "When it was added.").computed(),
            field("updated_at", Kind::Text(32), "When it was last changed.").computed(),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] =
        &[naming, kind, numbering, token, guarantee::of_host, removal];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        let alive = || self.foreign || scene.status.is_host_alive(self.meta.id);
        match field {
            "alive" => json!(alive()),
            "complaint" => scene
                .status
                .complaint(self.meta.id)
                .map_or(Value::Null, |complaint| json!(complaint)),
            "physical_networks" => json!(self.physical_networks),
            "availability_zone" => json!(self.availability_zone),
            "proxies" => json!(self.proxies),
            "reserved" => guarantee::reserved(scene.snapshot, &self.meta.name),
            "agent_type" => json!("overweave vswitch"),
            "binary" => json!("overweave-vswitch"),
            "topic" => json!("N/A"),
            "host" => json!(self.meta.name),
            "started_at" => json!(self.meta.created_at.spaced()),
            "heartbeat_timestamp" => {
                let seen = scene
                    .status
                    .last_seen(self.meta.id)
                    .unwrap_or(self.meta.created_at);
                json!(if alive() { scene.now } else { seen }.spaced())
            }
            "configurations" => json!({
                "tunnel_types": ["vxlan"],
                "tunneling_ip": self.vtep,
                "foreign": self.foreign,
                "bridge_mappings": self.bridge_mappings(),
                "ports": scene
                    .snapshot
                    .ids(&crate::resource::index_prefix("port", "binding:host_id", &self.meta.name))
                    .len(),
            }),
            _ => Value::Null,
        }
    }

    fn once(&self, change: &Change<'_, Self>) -> Option<(&'static str, Value)> {
        self.token_key.as_ref()?;
        // Whoever says that none is wanted gets none: it would open nothing.
        let old = change.before.and_then(|host| host.token_key.as_ref());
        (old != self.token_key.as_ref()).then(|| {
            let secret = secret(change, self.meta.id);
            let pin = &change.moment.facts.ca_pin;
            (
                "token",
                json!(format!("ow1.{pin}.{}", URL_SAFE_NO_PAD.encode(secret))),
            )
        })
    }
}

/// The hosts as Neutron's agents.
pub const AGENT: Spec = Spec {
    singular: "agent",
    plural: "agents",
    path: "agents",
    storage: "host",
    title: "Agent",
    doc: "A host, as Neutron calls it.",
    verbs: &[Verb::Read, Verb::Update, Verb::Delete],
    policy: Policy::Admin,
    quota: None,
    tags: false,
    bare: true,
    fields: &[
        field("id", Kind::Uuid, "Identity."),
        field("agent_type", Kind::Text(255), "What it is.").computed(),
        field("binary", Kind::Text(255), "The program.").computed(),
        field("topic", Kind::Text(255), "None.").computed(),
        field("host", Kind::Text(255), "The host's name.").computed(),
        field("admin_state_up", Kind::Bool, "Is it in service?").writable(Absent::Bool(true)),
        field("created_at", Kind::Text(32), "When it was added.").computed(),
        field("started_at", Kind::Text(32), "When it was added.").computed(),
        field(
            "heartbeat_timestamp",
            Kind::Text(32),
            "When it was last heard of.",
        )
        .computed(),
        field("description", Kind::Text(255), "Human note.").writable(Absent::Text("")),
        field("resources_synced", Kind::Bool, "Nothing.")
            .or_null()
            .computed(),
        field(
            "availability_zone",
            Kind::Text(255),
            "The zone that it is in.",
        )
        .computed(),
        field("alive", Kind::Bool, "Is it connected?").computed(),
        field(
            "configurations",
            Kind::Shape(told),
            "Its tunnel endpoint and how many ports.",
        )
        .computed()
        .unfiltered(),
    ],
    actions: &[],
    parts: &[],
    ops: &OPS,
};

fn naming(view: &View, change: &Change<'_, Host>, _: &Caller) -> Judged {
    match (change.verb, change.before, change.after) {
        (Verb::Create, _, Some(host)) => {
            let name = &host.meta.name;
            let label = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if name.is_empty() || !name.bytes().all(label) {
                return Err(Refusal::attribute(
                    "name",
                    format_args!("'{name}' is not a host name (letters, digits, '-', '_', '.')"),
                ));
            }
            let key = Host::name_key(name);
            if view.entry(&key).is_some() {
                return Err(Refusal::conflict(
                    "HostExists",
                    format!("A host named {name} exists; ask it for a new token by new_token."),
                ));
            }
            Ok(vec![Write::Claim(key, host.meta.id)])
        }
        (Verb::Delete, Some(host), _) => Ok(vec![Write::Release(Host::name_key(&host.meta.name))]),
        _ => Ok(Vec::new()),
    }
}

fn kind(view: &View, change: &Change<'_, Host>, _: &Caller) -> Judged {
    let Some(host) = change.made() else {
        return Ok(Vec::new());
    };
    let Some(vtep) = host.vtep else {
        return Ok(Vec::new());
    };
    if vtep.is_unspecified() || vtep.is_multicast() {
        return Err(Refusal::attribute(
            "vtep",
            format_args!("{vtep} is no tunnel endpoint"),
        ));
    }
    let twin = view
        .objects::<Host>()
        .into_iter()
        .find(|other| other.vtep == Some(vtep));
    if let Some(twin) = twin {
        return Err(Refusal::conflict(
            "VtepInUse",
            format!("The tunnel endpoint {vtep} is host {}.", twin.meta.name),
        ));
    }
    Ok(vec![Write::amend(Host {
        foreign: true,
        ..host.clone()
    })])
}

/// The lowest number that is free; kept while the host is there, whatever others come and go.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn numbering(view: &View, change: &Change<'_, Host>, _: &Caller) -> Judged {
    const PREFIX: &str = "unique/host/";
    // Counted from 1 in the store, as other numbers are, and from 0 where parts are.
    let key = |number: u16| format!("{PREFIX}{:04x}", u32::from(number) + 1);
    let Some(host) = change.after else {
        let gone = change.before.and_then(|host| host.number);
        let release = gone.map(|n| Write::Release(key(n)));
        return Ok(release.into_iter().collect());
    };
    if host.number.is_some() || host.foreign || host.vtep.is_some() && change.made().is_some() {
        return Ok(Vec::new());
    }
    let free =
        lowest_number(view, PREFIX, u32::from(u16::MAX)).and_then(|n| u16::try_from(n - 1).ok());
    // Numbers are for what is shared out; a host without one is a host all the same.
    let Some(number) = free else {
        return Ok(Vec::new());
    };
    Ok(vec![
        Write::Claim(key(number), host.meta.id),
        Write::amend(Host {
            number: Some(number),
            ..host.clone()
        }),
    ])
}

fn secret(change: &Change<'_, Host>, id: Uuid) -> [u8; 32] {
    change.moment.dice.named(&format!("join/{id}"))
}

#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn token(_: &View, change: &Change<'_, Host>, _: &Caller) -> Judged {
    let spent = change.before.and_then(|host| host.token_key.clone());
    let Some(host) = change.after else {
        return Ok(spent.map(Write::Release).into_iter().collect());
    };
    let wanted = change.verb == Verb::Create || host.new_token;
    if !wanted || !change.is_asked() {
        return Ok(Vec::new());
    }
    if host.foreign {
        return Ok(vec![Write::amend(Host {
            new_token: false,
            ..host.clone()
        })]);
    }
    let mut writes: Vec<Write> = spent.map(Write::Release).into_iter().collect();
    let key = join_token_key(&secret(change, host.meta.id));
    let expires_at = change.moment.now.plus(TOKEN_LIFE);
    let token = JoinToken {
        host_id: host.meta.id,
        expires_at,
    };
    writes.push(Write::Record(key.clone(), Arc::new(token)));
    writes.push(Write::amend(Host {
        token_key: Some(key),
        new_token: false,
        ..host.clone()
    }));
    Ok(writes)
}

/// Of what is only told.
#[expect(clippy::unnecessary_wraps, reason = "a shape's signature")]
fn told(value: &Value) -> Result<Value, String> {
    Ok(value.clone())
}

fn removal(view: &View, change: &Change<'_, Host>, _: &Caller) -> Judged {
    let Some(host) = change.removed() else {
        return Ok(Vec::new());
    };
    let ports = view.related::<Port>("binding:host_id", &host.meta.name);
    // Where a workload is about to go is in use as well.
    let coming = view.any_related::<Port>(MAY_BE_AT, &host.meta.name);
    // A router's gateway is only put there by the controller, which finds it another place.
    if coming || ports.iter().any(|port| port.device_owner != GATEWAY_OWNER) {
        return Err(Refusal::conflict(
            "HostInUse",
            format!(
                "Host {} has ports bound to it: unbind or delete them first.",
                host.meta.name
            ),
        ));
    }
    let unbound = ports.iter().map(|port| {
        let mut port = Port::clone(port);
        // It may answer for a while yet.
        port.left = std::mem::take(&mut port.host);
        Write::put(port)
    });
    Ok(unbound.collect())
}
