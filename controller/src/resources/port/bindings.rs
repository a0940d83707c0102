//! Where else may a port be?
//!
//! A port is on one host, by its *active* binding: its own `binding:` attributes. It may have others beside it, *inactive*: hosts where it may be
//! next, which whoever moves a workload asks for before it moves. To activate one is to change places with the active one, in one transaction:
//! the port is never on two hosts, and never on none.
//!
//! # Invariants
//! - A host is in one binding of a port at most, and in each there is a host that could have it when it was made; inactive ones that were never
//!   active ask for nothing that no switch attaches.
//! - An inactive binding changes nothing of what any host holds.

use super::{NORMAL, Port, VNIC_TYPES, shapes::profile_shape};
use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{Absent, Kind, Objects, Part, Policy, field},
    resources::{Host, Network},
    rules::{Caller, Change, Judged, Write},
    store::View,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The most that a port has beside the active one.
const INACTIVE: usize = 16;
/// Whose ports have bindings of their own: those of compute services.
const COMPUTE: &str = "compute:";

/// A place where a port may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The name of the host; empty only where the port was bound nowhere when another became active.
    pub host: String,
    /// How it is attached there.
    pub vnic_type: String,
    /// What another service notes.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub profile: Map<String, Value>,
}

/// What a request may say of a binding.
pub const BINDING: Part = Part {
    singular: "binding",
    plural: "bindings",
    title: "PortBinding",
    doc: "A host where a port is, or may be next.",
    policy: Policy::AdminOrService,
    alias: None,
    batch: &[],
    fields: &[
        field("host", Kind::Text(255), "The host's name.").writable(Absent::Required),
        field(
            "vnic_type",
            Kind::OneOf(VNIC_TYPES),
            "How it is attached there.",
        )
        .writable(Absent::Text(NORMAL)),
        field(
            "profile",
            Kind::Shape(profile_shape),
            "What another service notes.",
        )
        .writable(Absent::Object)
        .or_null()
        .unfiltered(),
    ],
};

/// The fields of a binding as it is shown.
pub const SHOWN: &[&str] = &[
    "host",
    "vif_type",
    "vif_details",
    "vnic_type",
    "profile",
    "status",
];

/// What is to become of a port's bindings.
#[derive(Debug, Clone)]
pub enum Deed {
    /// One more.
    Add(Map<String, Value>),
    /// That of this host says something else.
    Change(String, Map<String, Value>),
    /// That of this host goes; if it is the active one, the port is nowhere.
    Remove(String),
    /// That of this host becomes the active one.
    Activate(String),
}

fn named(fields: &Map<String, Value>) -> Option<&str> {
    fields.get("host").and_then(Value::as_str)
}

fn missing(port: Uuid, host: &str) -> Refusal {
    Refusal::no_such(
        "PortBindingNotFound",
        format!("Binding for port {port} for host {host} could not be found."),
    )
}

fn twice(port: Uuid, host: &str) -> Refusal {
    Refusal::conflict(
        "PortBindingAlreadyExists",
        format!("Binding for port {port} on host {host} already exists."),
    )
}

/// Ports that others than compute services have are where those say.
///
/// # Errors
/// When it is such a port.
pub fn of_compute(port: &Port) -> Result<(), Refusal> {
    if port.device_owner.starts_with(COMPUTE) {
        return Ok(());
    }
    Err(Refusal::invalid(
        "BadRequest",
        format!(
            "Bad port request: Invalid port {}. Operation only valid on compute ports.",
            port.meta.id
        ),
    ))
}

impl Deed {
    /// The port as it is then.
    ///
    /// # Errors
    /// When it has no such binding, or has it already.
    pub fn of(&self, port: &Port) -> Result<Port, Refusal> {
        of_compute(port)?;
        match self {
            Self::Add(fields) => add(port, fields),
            Self::Change(host, fields) => change(port, host, fields),
            Self::Remove(host) => remove(port, host),
            Self::Activate(host) => activate(port, host),
        }
    }

    /// The host whose binding is shown after it.
    pub fn shown(&self) -> &str {
        match self {
            Self::Add(fields) => named(fields).unwrap_or(""),
            Self::Change(host, fields) => named(fields).unwrap_or(host),
            Self::Remove(host) | Self::Activate(host) => host,
        }
    }
}

fn add(port: &Port, fields: &Map<String, Value>) -> Result<Port, Refusal> {
    let unset = Binding {
        host: String::new(),
        vnic_type: NORMAL.to_owned(),
        profile: Map::new(),
    };
    let binding = unset.with(fields)?;
    if port.binding(&binding.host).is_some() {
        return Err(twice(port.meta.id, &binding.host));
    }
    let mut port = port.clone();
    port.inactive_bindings.push(binding);
    Ok(port)
}

fn change(port: &Port, host: &str, fields: &Map<String, Value>) -> Result<Port, Refusal> {
    let id = port.meta.id;
    let (binding, active) = port.binding(host).ok_or_else(|| missing(id, host))?;
    let binding = binding.with(fields)?;
    if binding.host != host && port.binding(&binding.host).is_some() {
        return Err(twice(id, &binding.host));
    }
    let mut port = port.clone();
    if active {
        port.take(binding);
    } else {
        let others = port.inactive_bindings.iter_mut();
        for own in others.filter(|own| own.host == host) {
            own.clone_from(&binding);
        }
    }
    Ok(port)
}

fn remove(port: &Port, host: &str) -> Result<Port, Refusal> {
    let (_, active) = port
        .binding(host)
        .ok_or_else(|| missing(port.meta.id, host))?;
    let mut port = port.clone();
    if active {
        port.take(Binding {
            host: String::new(),
            vnic_type: NORMAL.to_owned(),
            profile: Map::new(),
        });
    } else {
        port.inactive_bindings.retain(|other| other.host != host);
    }
    Ok(port)
}

fn activate(port: &Port, host: &str) -> Result<Port, Refusal> {
    let id = port.meta.id;
    match port.binding(host) {
        None => Err(missing(id, host)),
        Some((_, true)) => Err(Refusal::conflict(
            "PortBindingAlreadyActive",
            format!("Binding for port {id} on host {host} is already active."),
        )),
        Some((next, false)) => {
            let mut port = port.clone();
            let before = port.active_binding();
            let others = port.inactive_bindings.iter_mut();
            for own in others.filter(|own| own.host == host) {
                own.clone_from(&before);
            }
            port.take(next);
            Ok(port)
        }
    }
}

impl Binding {
    /// The same with what is said.
    fn with(&self, fields: &Map<String, Value>) -> Result<Self, Refusal> {
        let mut binding = self.clone();
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        if let Some(host) = text("host") {
            if host.is_empty() {
                return Err(Refusal::attribute("host", "'' is no host"));
            }
            host.clone_into(&mut binding.host);
        }
        if let Some(kind) = text("vnic_type") {
            kind.clone_into(&mut binding.vnic_type);
        }
        match fields.get("profile") {
            Some(Value::Object(profile)) => binding.profile.clone_from(profile),
            Some(_) => binding.profile.clear(),
            None => {}
        }
        Ok(binding)
    }

    fn row(&self, port: &Port, active: bool, scene: &Scene<'_>) -> Map<String, Value> {
        let (kind, details) = port.vif((&self.host, &self.vnic_type), scene);
        let values = [
            json!(self.host),
            json!(kind),
            details,
            json!(self.vnic_type),
            json!(self.profile),
            json!(if active { "ACTIVE" } else { "INACTIVE" }),
        ];
        let names = SHOWN.iter().map(|name| (*name).to_owned());
        names.zip(values).collect()
    }
}

impl Port {
    /// What its own attributes say.
    fn active_binding(&self) -> Binding {
        Binding {
            host: self.host.clone(),
            vnic_type: self.vnic_type.clone(),
            profile: self.profile.clone(),
        }
    }

    /// This is the active one.
    fn take(&mut self, binding: Binding) {
        self.host = binding.host;
        self.vnic_type = binding.vnic_type;
        self.profile = binding.profile;
    }

    /// The binding of a host, and whether it is the active one. A port that is nowhere has an active one all the same, which nobody can name.
    fn binding(&self, host: &str) -> Option<(Binding, bool)> {
        if host.is_empty() {
            return None;
        }
        if self.host == host {
            return Some((self.active_binding(), true));
        }
        let mut others = self.inactive_bindings.iter();
        let found = others.find(|other| other.host == host)?;
        Some((found.clone(), false))
    }

    /// All, the active one first, as they are shown.
    pub fn bindings(&self, scene: &Scene<'_>) -> Vec<Map<String, Value>> {
        let active = self.active_binding().row(self, true, scene);
        let others = self.inactive_bindings.iter();
        let others = others.map(|other| other.row(self, false, scene));
        std::iter::once(active).chain(others).collect()
    }

    /// That of a host, as it is shown.
    ///
    /// # Errors
    /// When there is none.
    pub fn shown_binding(
        &self,
        host: &str,
        scene: &Scene<'_>,
    ) -> Result<Map<String, Value>, Refusal> {
        let (binding, active) = self
            .binding(host)
            .ok_or_else(|| missing(self.meta.id, host))?;
        Ok(binding.row(self, active, scene))
    }
}

/// A host has one binding, and new ones are of hosts that could have the port.
pub(super) fn kept(view: &View, change: &Change<'_, Port>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let before = change.before;
    let known = before.map_or(&[][..], |port| &port.inactive_bindings);
    let failed = |one: &Binding, why: String| {
        let (id, host) = (after.meta.id, &one.host);
        Refusal::conflict(
            "PortBindingError",
            format!("Binding for port {id} on host {host} could not be created or updated: {why}."),
        )
    };
    // What was the active one until now is as it was.
    let others = after.inactive_bindings.iter();
    let others = others
        .filter(|one| !one.host.is_empty() && before.is_none_or(|port| port.host != one.host));
    for one in others {
        let old = known.iter().find(|other| other.host == one.host);
        let same_kind = old.is_some_and(|old| old.vnic_type == one.vnic_type);
        if !same_kind && !after.attaches(&one.vnic_type) {
            let kind = &one.vnic_type;
            return Err(failed(
                one,
                format!("no switch attaches a port as '{kind}'"),
            ));
        }
        if old.is_some() {
            continue;
        }
        if !could_have(view, after, &one.host) {
            let why = "there is no such host, or it is not on the network's physical network";
            return Err(failed(one, why.to_owned()));
        }
        if after.inactive_bindings.len() > INACTIVE {
            return Err(failed(
                one,
                format!("it has {INACTIVE} inactive ones already"),
            ));
        }
    }
    // A port that was bound by its own attributes to where it could have gone is there.
    if after.inactive_bindings.iter().any(|o| o.host == after.host) {
        let mut port = after.clone();
        port.inactive_bindings.retain(|o| o.host != after.host);
        return Ok(vec![Write::amend(port)]);
    }
    Ok(Vec::new())
}

fn could_have(view: &View, port: &Port, host: &str) -> bool {
    let network = view.object::<Network>(port.network_id);
    let wire = network.and_then(|network| network.physical_network.clone());
    let host = Host::by_name(view, host);
    host.is_some_and(|host| wire.is_none_or(|wire| host.physical_networks.contains(&wire)))
}
