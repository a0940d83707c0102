//! Where does an appliance's traffic go in, and where does it come out?
//!
//! A port pair of networking-sfc: forward packets go in by its ingress port and come out by its egress port, replies of a symmetric chain
//! the other way round. What comes back is known by the port that it comes from, so a port is of one pair. Frames go in as they are, or under an
//! MPLS label that says which hop of which chain it is (`correlation`).

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Claim, Kind, Meta, Objects, Operations, Ops, Policy, Resource, Spec, field,
    },
    resources::{Port, PortPairGroup},
    rules::{Caller, Change, Judged, Rule, Write},
    store::{Read, View},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The largest weight.
const WEIGHT: u64 = 65_535;

/// How an appliance is told which chain a frame is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correlation {
    /// By an MPLS label.
    Mpls,
}

/// What an appliance is given, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceParameters {
    /// The header that it sees before its packets; `None`: they are bare.
    pub correlation: Option<Correlation>,
    /// Its share of new connections.
    pub weight: u16,
}

/// A port pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPair {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Where forward packets go in.
    pub ingress: Uuid,
    /// Where they come out.
    pub egress: Uuid,
    /// How it takes part.
    pub service_function_parameters: ServiceParameters,
}

static OPS: Ops<PortPair> = Ops::new();

impl Resource for PortPair {
    const SPEC: &'static Spec = &Spec {
        singular: "port_pair",
        plural: "port_pairs",
        path: "sfc/port_pairs",
        storage: "port_pair",
        title: "PortPair",
        doc: "An appliance between two ports.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("port_pair", 100)),
        tags: false,
        bare: false,
        fields: &[
            field("ingress", Kind::Uuid, "Where forward packets go in.")
                .create_only(Absent::Required),
            field("egress", Kind::Uuid, "Where they come out.").create_only(Absent::Required),
            field(
                "service_function_parameters",
                Kind::Shape(parameters_shape),
                "Its weight among the pairs of its group, which can be changed, and the header that frames bear: correlation mpls, or none.",
            )
            .writable(Absent::Object)
            .or_null()
            .unfiltered(),
            field(
                "operating_status",
                Kind::Text(16),
                "ONLINE or ERROR, where its group asks whether frames pass it and its host knows; else NO_MONITOR.",
            )
            .computed(),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[ends, group];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        if field != "operating_status" {
            return Value::Null;
        }
        let groups = scene
            .snapshot
            .related::<PortPairGroup>("port_pairs", self.meta.id);
        let mut instances = groups.iter().flat_map(|group| &group.instances);
        let instance = instances.find(|instance| instance.id == self.meta.id);
        json!(match instance.and_then(|instance| instance.serves) {
            Some(true) => "ONLINE",
            Some(false) => "ERROR",
            None => "NO_MONITOR",
        })
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        [("ingress", self.ingress), ("egress", self.egress)]
            .map(|(field, id)| (field, id.to_string()))
            .to_vec()
    }

    fn intake(fields: &mut Map<String, Value>) -> Result<(), Refusal> {
        let given = fields.get("service_function_parameters");
        let given = |name| given.and_then(|given| given.get(name)).cloned();
        let weight = given("weight").unwrap_or_else(|| json!(1));
        let full = json!({"correlation": given("correlation"), "weight": weight});
        fields.insert("service_function_parameters".to_owned(), full);
        Ok(())
    }
}

fn parameters_shape(value: &Value) -> Result<Value, String> {
    let Some(object) = value.as_object() else {
        return Err(format!("'{value}' is not a dictionary"));
    };
    let mut normal = object.clone();
    for (name, value) in object {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        match name.as_str() {
            "correlation" if value.is_null() => {}
            "correlation" if text == "mpls" => {}
            "correlation" if text == "nsh" => {
                return Err(
                    "correlation nsh is not supported: an appliance gets MPLS labels (mpls), or bare frames (without it)"
                        .to_owned(),
                );
            }
            "correlation" => return Err(format!("{text} is not in valid_values")),
            // The openstack client sends what stood on its command line.
            "weight" => {
                let weight = text.parse().ok().filter(|weight| *weight <= WEIGHT);
                let weight: u64 =
                    weight.ok_or_else(|| format!("'{text}' is not in the range 0 to {WEIGHT}"))?;
                normal.insert(name.clone(), json!(weight));
            }
            other => return Err(format!("Unknown keys in dictionary: {other}")),
        }
    }
    Ok(Value::Object(normal))
}

/// The key by which a port is of one pair.
fn end_key(port: Uuid) -> String {
    format!("unique/port_pair_of/{port}")
}

/// Both ports are the caller's, on one host, and of no other pair.
fn ends(view: &View, change: &Change<'_, PortPair>, caller: &Caller) -> Judged {
    let ports = |pair: &PortPair| {
        let second = (pair.egress != pair.ingress).then_some(pair.egress);
        std::iter::once(pair.ingress).chain(second)
    };
    if let Some(gone) = change.removed() {
        return Ok(ports(gone).map(|id| Write::Release(end_key(id))).collect());
    }
    let Some(new) = change.made() else {
        return Ok(Vec::new());
    };
    let mut hosts = Vec::new();
    for (side, no_host, id) in [
        ("ingress", "PortPairIngressNoHost", new.ingress),
        ("egress", "PortPairEgressNoHost", new.egress),
    ] {
        let port = view.object::<Port>(id);
        let port = port.filter(|port| caller.owns(&port.meta.project_id));
        let port = port.ok_or_else(|| {
            Refusal::no_such(
                "PortPairPortNotFound",
                format!("Port Pair port {id} not found."),
            )
        })?;
        if port.host.is_empty() {
            return Err(Refusal::invalid(
                no_host,
                format!("Port Pair {side} port {id} does not belong to a host."),
            ));
        }
        hosts.push(port.host.clone());
    }
    let (ingress, egress) = (new.ingress, new.egress);
    if hosts.first() != hosts.last() {
        return Err(Refusal::invalid(
            "PortPairIngressEgressDifferentHost",
            format!("Port Pair ingress port {ingress} egress port {egress} not in the same host."),
        ));
    }
    let mut writes = Vec::new();
    for id in ports(new) {
        let Some(claim) = view.get::<Claim>(&end_key(id)) else {
            writes.push(Write::Claim(end_key(id), new.meta.id));
            continue;
        };
        let holder = claim.holder;
        let same = view
            .object::<PortPair>(holder)
            .is_some_and(|other| (other.ingress, other.egress) == (ingress, egress));
        let text = if same {
            format!(
                "Port Pair with ingress port {ingress} and egress port {egress} is already used by another Port Pair {holder}."
            )
        } else {
            format!("Port {id} is already used by another Port Pair {holder}.")
        };
        return Err(Refusal::invalid("PortPairIngressEgressInUse", text));
    }
    Ok(writes)
}

/// A pair in a group stays; its group's hosts know it by its name and its weight. Nothing else of it changes.
fn group(view: &View, change: &Change<'_, PortPair>, _: &Caller) -> Judged {
    if let Some(gone) = change.removed() {
        let id = gone.meta.id;
        if view.any_related::<PortPairGroup>("port_pairs", id) {
            return Err(Refusal::conflict(
                "PortPairInUse",
                format!("Port Pair {id} in use."),
            ));
        }
    }
    let (Some(before), Some(after)) = (change.before, change.after) else {
        return Ok(Vec::new());
    };
    let parameters = after.service_function_parameters;
    if before.service_function_parameters.correlation != parameters.correlation {
        return Err(Refusal::invalid(
            "BadRequest",
            "service_function_parameters: the correlation of a port pair stays as it was made; its weight can be changed.",
        ));
    }
    let same = (&before.meta.name, before.service_function_parameters.weight)
        == (&after.meta.name, parameters.weight);
    if same {
        return Ok(Vec::new());
    }
    let groups = view.related::<PortPairGroup>("port_pairs", after.meta.id);
    let renamed = groups.iter().map(|group| {
        let mut group = PortPairGroup::clone(group);
        for instance in &mut group.instances {
            if instance.id == after.meta.id {
                instance.name.clone_from(&after.meta.name);
                instance.weight = parameters.weight;
            }
        }
        Write::put(group)
    });
    Ok(renamed.collect())
}
