//! Which connections enter a chain?
//!
//! A classifier describes the first packet of a connection; source is its initiator. Where it looks
//! is a port or a network on either side, or with neither all ports of its project.

use crate::{
    refusal::Refusal,
    resource::{ALL, Absent, Kind, Meta, Objects, Operations, Ops, Policy, Resource, Spec, field},
    resources::{Port, PortChain, network, protocol::Ethertype, subnet::loose_prefix},
    rules::{Caller, Change, Judged, Rule, Write},
    store::View,
};
use net::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// A flow classifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowClassifier {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Which family.
    pub ethertype: Ethertype,
    /// `tcp`, `udp` or `icmp`; none for any.
    pub protocol: Option<String>,
    /// The first source port.
    pub source_port_range_min: Option<u16>,
    /// The last source port.
    pub source_port_range_max: Option<u16>,
    /// The first destination port.
    pub destination_port_range_min: Option<u16>,
    /// The last destination port.
    pub destination_port_range_max: Option<u16>,
    /// Source addresses.
    pub source_ip_prefix: Option<Prefix>,
    /// Destination addresses.
    pub destination_ip_prefix: Option<Prefix>,
    /// The initiator's port.
    pub logical_source_port: Option<Uuid>,
    /// The responder's port.
    pub logical_destination_port: Option<Uuid>,
    /// The initiator's network.
    pub logical_source_network: Option<Uuid>,
    /// The responder's network.
    pub logical_destination_network: Option<Uuid>,
    /// Does it lead into its chain from another chain of a service graph alone?
    #[serde(default)]
    pub at_branch: bool,
}

impl FlowClassifier {
    /// The IP protocol number; `icmp` of IPv6 is ICMPv6.
    pub fn protocol_number(&self) -> Option<u8> {
        self.ethertype.protocol_number(self.protocol.as_deref()?)
    }
}

const PORT: Kind = Kind::Int(0, 65_535);
static OPS: Ops<FlowClassifier> = Ops::new();

impl Resource for FlowClassifier {
    const SPEC: &'static Spec = &Spec {
        singular: "flow_classifier",
        plural: "flow_classifiers",
        path: "sfc/flow_classifiers",
        storage: "flow_classifier",
        title: "FlowClassifier",
        doc: "Which connections enter a chain.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("flow_classifier", 100)),
        tags: false,
        bare: false,
        fields: &[
            field("ethertype", Kind::Shape(word_shape), "IPv4 or IPv6.")
                .create_only(Absent::Text("IPv4"))
                .or_null(),
            field(
                "protocol",
                Kind::Shape(word_shape),
                "tcp, udp or icmp; null for any.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field("source_port_range_min", PORT, "First source port.")
                .create_only(Absent::Null)
                .or_null(),
            field("source_port_range_max", PORT, "Last source port.")
                .create_only(Absent::Null)
                .or_null(),
            field(
                "destination_port_range_min",
                PORT,
                "First destination port.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field("destination_port_range_max", PORT, "Last destination port.")
                .create_only(Absent::Null)
                .or_null(),
            field(
                "source_ip_prefix",
                Kind::Shape(prefix_shape),
                "Source addresses.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "destination_ip_prefix",
                Kind::Shape(prefix_shape),
                "Destination addresses.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field("logical_source_port", Kind::Uuid, "The initiator's port.")
                .create_only(Absent::Null)
                .or_null(),
            field(
                "logical_destination_port",
                Kind::Uuid,
                "The responder's port.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "logical_source_network",
                Kind::Uuid,
                "The initiator's network.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "logical_destination_network",
                Kind::Uuid,
                "The responder's network.",
            )
            .create_only(Absent::Null)
            .or_null(),
            field(
                "at_branch",
                Kind::Bool,
                "Does it lead into its chain from another chain of a service graph alone? Then it names no port and no network, and overlaps with none.",
            )
            .create_only(Absent::Bool(false)),
            field("l7_parameters", Kind::Shape(empty_shape), "Nothing yet.")
                .create_only(Absent::Object)
                .or_null()
                .unfiltered()
                .computed(),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[shape, ends, overlap, removal];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        [
            ("logical_source_port", self.logical_source_port),
            ("logical_destination_port", self.logical_destination_port),
            ("logical_source_network", self.logical_source_network),
            (
                "logical_destination_network",
                self.logical_destination_network,
            ),
        ]
        .into_iter()
        .filter_map(|(field, id)| Some((field, id?.to_string())))
        .collect()
    }

    fn derive(&self, field: &str, _: &crate::api::Scene<'_>) -> Value {
        if field == "l7_parameters" {
            json!({})
        } else {
            Value::Null
        }
    }

    fn intake(fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        Ethertype::intake(fields, |given| {
            Refusal::invalid(
                "FlowClassifierInvalidEthertype",
                format!(
                    "Flow Classifier does not support ethertype {given}. Supported ethertype values are ['IPv4', 'IPv6']."
                ),
            )
        })?;
        let given = fields.get("protocol").and_then(Value::as_str);
        let protocol = match given.map(str::to_ascii_lowercase) {
            None => Value::Null,
            Some(given) if ["tcp", "udp", "icmp"].contains(&given.as_str()) => json!(given),
            Some(given) => {
                return Err(Refusal::invalid(
                    "FlowClassifierInvalidProtocol",
                    format!(
                        "Flow Classifier does not support protocol {given}. Supported protocol values are ['tcp', 'udp', 'icmp']."
                    ),
                ));
            }
        };
        fields.insert("protocol".to_owned(), protocol);
        Ok(())
    }
}

fn word_shape(value: &Value) -> Result<Value, String> {
    let text = value.as_str().filter(|text| text.len() <= 40);
    text.map(|_| value.clone())
        .ok_or_else(|| format!("'{value}' is not a valid string"))
}

fn prefix_shape(value: &Value) -> Result<Value, String> {
    let text = value.as_str().unwrap_or_default();
    let prefix = loose_prefix(text).ok_or_else(|| format!("'{text}' is not a valid IP subnet"))?;
    Ok(json!(prefix))
}

fn empty_shape(value: &Value) -> Result<Value, String> {
    match value.as_object() {
        Some(object) if object.is_empty() => Ok(value.clone()),
        _ => Err("l7_parameters are not supported: leave them empty".to_owned()),
    }
}

fn shape(_: &View, change: &Change<'_, FlowClassifier>, _: &Caller) -> Judged {
    let Some(new) = change.made() else {
        return Ok(Vec::new());
    };
    let mut full = new.clone();
    for (min, max) in [
        (
            &mut full.source_port_range_min,
            &mut full.source_port_range_max,
        ),
        (
            &mut full.destination_port_range_min,
            &mut full.destination_port_range_max,
        ),
    ] {
        // One end alone means that port.
        if min.is_none() {
            *min = *max;
        }
        if max.is_none() {
            *max = *min;
        }
        let (Some(min), Some(max)) = (*min, *max) else {
            continue;
        };
        if !matches!(new.protocol.as_deref(), Some("tcp" | "udp")) {
            return Err(Refusal::invalid(
                "FlowClassifierProtocolRequiredWithPorts",
                "IP protocol must be TCP or UDP, if port range is given.",
            ));
        }
        if min > max {
            return Err(Refusal::invalid(
                "FlowClassifierInvalidPortRange",
                format!(
                    "Invalid IP protocol port range. min_port_range={min} must be lesser or equal to max_port_range={max}."
                ),
            ));
        }
    }
    for prefix in [new.source_ip_prefix, new.destination_ip_prefix]
        .into_iter()
        .flatten()
    {
        if !new.ethertype.holds(prefix) {
            return Err(Refusal::invalid(
                "FlowClassifierIpPrefixFormatConflictWithEthertype",
                format!(
                    "IP prefix {prefix} format conflicts with ethertype {}.",
                    new.ethertype
                ),
            ));
        }
    }
    Ok(vec![Write::amend(full)])
}

fn ends(view: &View, change: &Change<'_, FlowClassifier>, caller: &Caller) -> Judged {
    let Some(new) = change.made() else {
        return Ok(Vec::new());
    };
    for (side, port, network) in [
        (
            "source",
            new.logical_source_port,
            new.logical_source_network,
        ),
        (
            "destination",
            new.logical_destination_port,
            new.logical_destination_network,
        ),
    ] {
        if new.at_branch && (port.is_some() || network.is_some()) {
            return Err(Refusal::attribute(
                "at_branch",
                format_args!(
                    "at a branch no logical_{side}_port or _network is asked, leave it out"
                ),
            ));
        }
        if port.is_some() && network.is_some() {
            return Err(Refusal::attribute(
                &format!("logical_{side}_network"),
                format_args!("logical_{side}_port is given already, name one of them"),
            ));
        }
        if let Some(id) = port {
            let known = view.object::<Port>(id);
            if known.is_none_or(|port| !caller.owns(&port.meta.project_id)) {
                return Err(Refusal::missing("FlowClassifierPort", id));
            }
        }
        if let Some(id) = network {
            network::open(view, id, caller, "create_flow_classifier")?;
        }
    }
    Ok(Vec::new())
}

/// Overlap within a project is refused: which chain would take the connection?
fn overlap(view: &View, change: &Change<'_, FlowClassifier>, _: &Caller) -> Judged {
    let Some(new) = change.made() else {
        return Ok(Vec::new());
    };
    // Which of them follows is the graph's to say.
    if new.at_branch {
        return Ok(Vec::new());
    }
    let others = view.related::<FlowClassifier>("project_id", &new.meta.project_id);
    let network_of =
        |port: Uuid| -> Option<Uuid> { view.object::<Port>(port).map(|port| port.network_id) };
    match others
        .iter()
        .find(|other| !other.at_branch && overlaps(new, other, &network_of))
    {
        Some(other) => Err(Refusal::invalid(
            "FlowClassifierInConflict",
            format!(
                "Flow Classifier conflicts with another Flow Classifier {}.",
                other.meta.id
            ),
        )),
        None => Ok(Vec::new()),
    }
}

/// Can the header of one packet match both, whoever its ends are?
pub fn fields_overlap(one: &FlowClassifier, other: &FlowClassifier) -> bool {
    let same = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
    let prefixes = |a: Option<Prefix>, b: Option<Prefix>| match (a, b) {
        (Some(a), Some(b)) => a.overlaps(b),
        _ => true,
    };
    let ports = |a: (Option<u16>, Option<u16>), b: (Option<u16>, Option<u16>)| match (a, b) {
        ((Some(a0), Some(a1)), (Some(b0), Some(b1))) => a0 <= b1 && b0 <= a1,
        _ => true,
    };
    one.ethertype == other.ethertype
        && same(&one.protocol, &other.protocol)
        && prefixes(one.source_ip_prefix, other.source_ip_prefix)
        && prefixes(one.destination_ip_prefix, other.destination_ip_prefix)
        && ports(
            (one.source_port_range_min, one.source_port_range_max),
            (other.source_port_range_min, other.source_port_range_max),
        )
        && ports(
            (
                one.destination_port_range_min,
                one.destination_port_range_max,
            ),
            (
                other.destination_port_range_min,
                other.destination_port_range_max,
            ),
        )
}

/// Can one connection match both?
fn overlaps(
    one: &FlowClassifier,
    other: &FlowClassifier,
    network_of: &dyn Fn(Uuid) -> Option<Uuid>,
) -> bool {
    let side = |a: (Option<Uuid>, Option<Uuid>), b: (Option<Uuid>, Option<Uuid>)| match (a, b) {
        ((Some(a), _), (Some(b), _)) | ((_, Some(a)), (_, Some(b))) => a == b,
        ((Some(port), _), (_, Some(network))) | ((_, Some(network)), (Some(port), _)) => {
            network_of(port) == Some(network)
        }
        ((None, None), _) | (_, (None, None)) => true,
    };
    fields_overlap(one, other)
        && side(
            (one.logical_source_port, one.logical_source_network),
            (other.logical_source_port, other.logical_source_network),
        )
        && side(
            (
                one.logical_destination_port,
                one.logical_destination_network,
            ),
            (
                other.logical_destination_port,
                other.logical_destination_network,
            ),
        )
}

fn removal(view: &View, change: &Change<'_, FlowClassifier>, _: &Caller) -> Judged {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    if view.any_related::<PortChain>("flow_classifiers", before.meta.id) {
        return Err(Refusal::conflict(
            "FlowClassifierInUse",
            format!("Flow Classifier {} in use.", before.meta.id),
        ));
    }
    Ok(Vec::new())
}
