//! Which ports of a floating IP are forwarded to whom?
//!
//! Port forwardings are parts of a floating IP that is nobody's as a whole: what comes to some of its ports goes to ports of a
//! workload's address. A run of ports goes to a run of as many, or to one port.

use super::{FloatingIp, association};
use crate::{
    refusal::Refusal,
    resource::{Absent, Kind, Objects, Part, Policy, field},
    resources::nat::Forwarded,
    rules::{Caller, Change, Judged, Write},
    store::View,
};
use net::PortRange;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use uuid::Uuid;

/// How many a floating IP has: all are in one section, and looked at for each new connection.
const MOST: usize = 500;

/// Ports that are forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForwarding {
    /// Identity.
    pub id: Uuid,
    /// Human note.
    pub description: String,
    /// Of which protocol.
    pub protocol: Forwarded,
    /// Whose the server is.
    pub internal_port_id: Uuid,
    /// The server's address.
    pub internal_ip_address: IpAddr,
    /// The server's ports.
    pub internal: PortRange,
    /// The floating IP's ports.
    pub external: PortRange,
}

/// The table of port forwardings.
pub(super) const PART: Part = Part {
    singular: "port_forwarding",
    plural: "port_forwardings",
    title: "PortForwarding",
    doc: "Ports of a floating IP that go to a workload.",
    policy: Policy::Anyone,
    alias: None,
    batch: &[],
    fields: &[
        field(
            "external_port",
            Kind::Int(1, 65_535),
            "The floating IP's port.",
        )
        .writable(Absent::Null)
        .or_null(),
        field(
            "external_port_range",
            Kind::Text(16),
            "Or ports: first:last.",
        )
        .writable(Absent::Null)
        .or_null(),
        field("protocol", Kind::Text(16), "tcp, udp or sctp.").writable(Absent::Required),
        field("internal_port_id", Kind::Uuid, "The workload's port.").writable(Absent::Required),
        field(
            "internal_ip_address",
            Kind::Address,
            "Which of its addresses.",
        )
        .writable(Absent::Required),
        field("internal_port", Kind::Int(1, 65_535), "The server's port.")
            .writable(Absent::Null)
            .or_null(),
        field(
            "internal_port_range",
            Kind::Text(16),
            "Or as many ports: first:last; one is for all of the floating IP's.",
        )
        .writable(Absent::Null)
        .or_null(),
        field("description", Kind::Text(255), "Human note.").writable(Absent::Text("")),
    ],
};

fn bad(text: impl std::fmt::Display) -> Refusal {
    Refusal::invalid(
        "BadRequest",
        format!("Bad port_forwarding request: {text}."),
    )
}

fn spelled(range: PortRange) -> String {
    format!("{}:{}", range.min(), range.max())
}

/// The number of a range of one port.
fn single(range: PortRange) -> Value {
    if range.min() == range.max() {
        json!(range.min())
    } else {
        Value::Null
    }
}

impl PortForwarding {
    /// As the fields of its table.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let fields = [
            ("id", json!(self.id)),
            ("external_port", single(self.external)),
            ("external_port_range", json!(spelled(self.external))),
            ("protocol", json!(self.protocol)),
            ("internal_port_id", json!(self.internal_port_id)),
            ("internal_ip_address", json!(self.internal_ip_address)),
            ("internal_port", single(self.internal)),
            ("internal_port_range", json!(spelled(self.internal))),
            ("description", json!(self.description)),
        ];
        let named = fields.into_iter();
        named
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// As its floating IP shows it.
    pub(super) fn shown(&self) -> Value {
        let mut fields = self.fields();
        fields.shift_remove("description");
        Value::Object(fields)
    }

    /// From checked fields, over what it was.
    pub(super) fn of(
        id: Uuid,
        fields: &Map<String, Value>,
        had: Option<&Self>,
    ) -> Result<Self, Refusal> {
        fn field<T: for<'de> Deserialize<'de>>(
            fields: &Map<String, Value>,
            name: &str,
        ) -> Result<T, Refusal> {
            let value = fields.get(name).cloned().unwrap_or_default();
            serde_json::from_value(value).map_err(|error| Refusal::attribute(name, error))
        }
        let said = fields.get("protocol").cloned().unwrap_or_default();
        let text = said.as_str().unwrap_or_default().to_ascii_lowercase();
        let numbers = [("6", "tcp"), ("17", "udp"), ("132", "sctp")];
        let number = numbers.iter().find(|(number, _)| *number == text);
        let name = number.map_or(text.as_str(), |(_, name)| name);
        let protocol = Forwarded::deserialize(json!(name)).ok().ok_or_else(|| {
            Refusal::input(format_args!(
                "IP protocol '{text}' is not supported: tcp, udp and sctp are forwarded"
            ))
        })?;
        let external = range(fields, "external", had.map(|had| had.external))?;
        let internal = range(fields, "internal", had.map(|had| had.internal))?;
        if count(external) != count(internal) && count(internal) != 1 {
            return Err(bad(format_args!(
                "external_port_range {} and internal_port_range {} are not as many, and the latter is not one port",
                spelled(external),
                spelled(internal)
            )));
        }
        Ok(Self {
            id,
            description: field(fields, "description")?,
            protocol,
            internal_port_id: field(fields, "internal_port_id")?,
            internal_ip_address: field(fields, "internal_ip_address")?,
            internal,
            external,
        })
    }
}

fn count(range: PortRange) -> u32 {
    u32::from(range.max() - range.min()) + 1
}

/// The ports of a side: by number or by range, whichever is said or has changed.
fn range(
    fields: &Map<String, Value>,
    side: &str,
    had: Option<PortRange>,
) -> Result<PortRange, Refusal> {
    let (one, many) = (format!("{side}_port"), format!("{side}_port_range"));
    let said = |name: &str, was: Option<Value>| {
        let value = fields.get(name).filter(|value| !value.is_null());
        value.filter(|value| was.as_ref() != Some(*value)).cloned()
    };
    let number = said(&one, had.map(single));
    let text = said(&many, had.map(|had| json!(spelled(had))));
    let wrong = |value: &Value| {
        Refusal::attribute(
            &many,
            format_args!("{value} is no range of ports (1:65535)"),
        )
    };
    match (number, text, had) {
        (Some(_), Some(_), _) => Err(bad(format_args!(
            "{one} and {many} cannot be specified at the same time"
        ))),
        (Some(value), None, _) => {
            let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
            let range = port.and_then(|port| PortRange::new(port, port).ok());
            range.ok_or_else(|| wrong(&value))
        }
        (None, Some(value), _) => {
            let text = value.as_str().unwrap_or_default();
            let (first, last) = text.split_once(':').unwrap_or((text, text));
            let ends = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
            let range = ends.and_then(|(first, last)| PortRange::new(first, last).ok());
            let range = range.filter(|range| PortRange::min(*range) > 0);
            range.ok_or_else(|| wrong(&value))
        }
        (None, None, Some(had)) => Ok(had),
        (None, None, None) => Err(bad(format_args!("{one} or {many} is required"))),
    }
}

/// The refusal of what a floating IP with forwarded ports can't be.
pub(super) fn in_use(floating: Uuid) -> Refusal {
    Refusal::conflict(
        "FipInUseByPortForwarding",
        format!("Floating IP {floating} in use by Port Forwarding resources."),
    )
}

/// Are ports of a floating IP of this network forwarded to a port's address?
pub(super) fn leads_to(view: &View, port: Uuid, address: IpAddr, network: Uuid) -> bool {
    let floating = view.related::<FloatingIp>("forwarded_to", port);
    let of_network = floating
        .iter()
        .filter(|floating| floating.floating_network_id == network);
    let mut forwards = of_network.flat_map(|floating| &floating.forwards);
    forwards.any(|f| f.internal_port_id == port && f.internal_ip_address == address)
}

/// Whom ports are forwarded to is there and reached by one router; no port is forwarded twice.
pub(super) fn forwarded(view: &View, change: &Change<'_, FloatingIp>, caller: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let had = change.before.map_or(&[][..], |before| &before.forwards[..]);
    if had == after.forwards {
        return Ok(Vec::new());
    }
    if let (Some(port), Some(address)) = (after.port_id, after.fixed_ip_address) {
        return Err(Refusal::conflict(
            "FloatingIPPortAlreadyAssociated",
            format!(
                "Cannot forward ports of floating IP {}: it is associated with port {port} using fixed IP {address}.",
                after.meta.id
            ),
        ));
    }
    if after.forwards.len() > MOST {
        return Err(bad(format_args!(
            "a floating IP has at most {MOST} port forwardings"
        )));
    }
    let mut router = after.router_id.filter(|_| !had.is_empty());
    for (at, forward) in after.forwards.iter().enumerate() {
        if had.contains(forward) {
            continue;
        }
        let through = target(view, after, forward, caller)?;
        if router.is_some_and(|router| router != through) && after.forwards.len() > 1 {
            return Err(bad(format_args!(
                "the other port forwardings of the floating IP go through router {}, not {through}",
                router.unwrap_or_default()
            )));
        }
        router = Some(through);
        collide(&after.forwards, at, forward)?;
    }
    Ok(vec![Write::amend(FloatingIp {
        router_id: router.filter(|_| !after.forwards.is_empty()),
        ..after.clone()
    })])
}

/// The router to whom ports are forwarded.
fn target(
    view: &View,
    floating: &FloatingIp,
    forward: &PortForwarding,
    caller: &Caller,
) -> Result<Uuid, Refusal> {
    let port = association::own_port(view, forward.internal_port_id, caller)?;
    let (id, address) = (port.meta.id, forward.internal_ip_address);
    let has = port.fixed_ips.iter().any(|ip| ip.ip_address == address);
    if !has || !address.is_ipv4() {
        return Err(bad(format_args!(
            "Requested internal IP address {address} does not correspond to an IPv4 address on the internal port {id}"
        )));
    }
    let network = floating.floating_network_id;
    if let Some(other) = association::of(view, id, address, network) {
        return Err(Refusal::conflict(
            "PortHasBindingFloatingIP",
            format!(
                "Cannot create port forwarding to floating IP {} with port {id} using fixed IP {address}, as that port already has a binding floating IP: {other}.",
                floating.meta.id
            ),
        ));
    }
    association::router_for(view, &port, address, network)
        .map_err(|refusal| bad(refusal.to_string().trim_end_matches('.')))
}

/// Nothing is forwarded twice, and nothing is reached by two ways.
fn collide(all: &[PortForwarding], at: usize, forward: &PortForwarding) -> Result<(), Refusal> {
    let others = all.iter().enumerate().filter(|(other, _)| *other != at);
    for (_, other) in others.filter(|(_, other)| other.protocol == forward.protocol) {
        let same_server = other.internal_port_id == forward.internal_port_id
            && other.internal_ip_address == forward.internal_ip_address;
        let sides = [
            ("external", true, other.external, forward.external),
            ("internal", same_server, other.internal, forward.internal),
        ];
        for (side, is_same, theirs, own) in sides {
            if is_same && theirs.overlaps(own) {
                return Err(bad(format_args!(
                    "There is a port collision with the {side}_port_range. The following ranges collide: {} and {}",
                    spelled(theirs),
                    spelled(own)
                )));
            }
        }
    }
    Ok(())
}
