//! Which functions does a connection pass, in which order?

use crate::{
    refusal::Refusal,
    resource::{
        ALL, Absent, Claim, Kind, Meta, Objects, Operations, Ops, Policy, Resource, Spec, Verb,
        boolean, field,
    },
    resources::{
        FlowClassifier, PortPairGroup,
        port_pair_group::{
            lowest_number, never_hidden, too_many_of_a_kind, unlabelled, untranslatable,
        },
    },
    rules::{Caller, Change, Judged, Rule, Write},
    store::{Read, View},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// Hops of a chain: each is walked by every first packet.
const HOPS: usize = 32;

/// How a chain is carried, and whether replies pass it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainParameters {
    /// `mpls` or `nsh`: how the switches of others tell each other where in a chain a packet is.
    pub correlation: String,
    /// Do replies pass it, last hop first?
    pub symmetric: bool,
}

/// A port chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortChain {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Its hops, first to last.
    pub port_pair_groups: Vec<Uuid>,
    /// What leads into it.
    pub flow_classifiers: Vec<Uuid>,
    /// How.
    pub chain_parameters: ChainParameters,
    /// A small number for it; 0 in a request stands for a free one.
    #[serde(default)]
    pub chain_id: u32,
    /// Where it is in a service graph, which writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<InGraph>,
}

/// A chain's place in a service graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InGraph {
    /// Which graph.
    pub graph: Uuid,
    /// How many chains lie before it at most; 0: its classifiers lead into it.
    pub depth: u8,
    /// What may follow it.
    pub next: Vec<Uuid>,
}

static OPS: Ops<PortChain> = Ops::new();

impl Resource for PortChain {
    const SPEC: &'static Spec = &Spec {
        singular: "port_chain",
        plural: "port_chains",
        path: "sfc/port_chains",
        storage: "port_chain",
        title: "PortChain",
        doc: "Functions in order, and what leads into them.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("port_chain", 10)),
        tags: false,
        bare: false,
        fields: &[
            field("port_pair_groups", Kind::Uuids, "Its hops, first to last.")
                .writable(Absent::Required),
            field("flow_classifiers", Kind::Uuids, "What leads into it.").writable(Absent::List),
            field(
                "chain_parameters",
                Kind::Shape(parameters_shape),
                "Correlation and symmetry.",
            )
            .create_only(Absent::Object)
            .or_null()
            .unfiltered(),
            field("chain_id", Kind::Int(0, 65_535), "A small number for it.")
                .create_only(Absent::Int(0)),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[grown, numbering, hops, entrances, hidden];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let groups = self
            .port_pair_groups
            .iter()
            .map(|id| ("port_pair_groups", id.to_string()));
        let classifiers = self.flow_classifiers.iter();
        groups
            .chain(classifiers.map(|id| ("flow_classifiers", id.to_string())))
            .collect()
    }

    fn intake(fields: &mut serde_json::Map<String, Value>) -> Result<(), Refusal> {
        let whole = fields.get("chain_parameters").is_some_and(|value| {
            value
                .as_object()
                .is_some_and(|parameters| parameters.len() == 2)
        });
        if !whole {
            let given = fields
                .get("chain_parameters")
                .cloned()
                .unwrap_or(Value::Null);
            let pick = |name: &str, absent: Value| given.get(name).cloned().unwrap_or(absent);
            let full = json!({
                "correlation": pick("correlation", json!("mpls")),
                "symmetric": pick("symmetric", json!(false)),
            });
            fields.insert("chain_parameters".to_owned(), full);
        }
        Ok(())
    }
}

fn parameters_shape(value: &Value) -> Result<Value, String> {
    let Some(object) = value.as_object() else {
        return Err(format!("'{value}' is not a dictionary"));
    };
    let mut normal = object.clone();
    for (name, value) in object {
        let text = || {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        match name.as_str() {
            "correlation" if ["mpls", "nsh"].contains(&text().as_str()) => {}
            "correlation" => return Err(format!("{} is not in valid_values", text())),
            // The openstack client sends what stood on its command line.
            "symmetric" => {
                let symmetric = boolean(value)
                    .ok_or_else(|| format!("'{}' cannot be converted to boolean", text()))?;
                normal.insert(name.clone(), json!(symmetric));
            }
            other => return Err(format!("Unknown keys in dictionary: {other}")),
        }
    }
    Ok(Value::Object(normal))
}

/// What stands in a service graph stays as the graph was judged with it.
fn grown(_: &View, change: &Change<'_, PortChain>, _: &Caller) -> Judged {
    let Some(before) = change.before.filter(|before| before.place.is_some()) else {
        return Ok(Vec::new());
    };
    let same = change.after.is_some_and(|after| {
        after.flow_classifiers == before.flow_classifiers
            && after.port_pair_groups == before.port_pair_groups
    });
    if same {
        return Ok(Vec::new());
    }
    Err(Refusal::conflict(
        "ServiceGraphPortChainInUse",
        format!("Port Chain {} in use.", before.meta.id),
    ))
}

fn numbering(view: &View, change: &Change<'_, PortChain>, _: &Caller) -> Judged {
    const PREFIX: &str = "unique/port_chain/";
    let key = |number: u32| format!("{PREFIX}{number:04x}");
    match (change.verb, change.before, change.after) {
        (Verb::Create, _, Some(new)) => {
            let taken = |number: u32| {
                Refusal::conflict(
                    "PortChainChainIdInUse",
                    format!("Chain id {number} in use."),
                )
            };
            let chain_id = match new.chain_id {
                0 => lowest_number(view, PREFIX, 65_535).ok_or_else(|| taken(65_535))?,
                given if view.entry(&key(given)).is_some() => return Err(taken(given)),
                given => given,
            };
            Ok(vec![
                Write::Claim(key(chain_id), new.meta.id),
                Write::amend(PortChain {
                    chain_id,
                    ..new.clone()
                }),
            ])
        }
        (Verb::Delete, Some(gone), _) => Ok(vec![Write::Release(key(gone.chain_id))]),
        _ => Ok(Vec::new()),
    }
}

/// The same ordered list of groups is one chain's.
fn groups_key(chain: &PortChain) -> String {
    let said: Vec<String> = chain.port_pair_groups.iter().map(Uuid::to_string).collect();
    let name = Uuid::new_v5(&Uuid::NAMESPACE_OID, said.join(",").as_bytes());
    format!("unique/port_chain_groups/{name}")
}

fn hops(view: &View, change: &Change<'_, PortChain>, caller: &Caller) -> Judged {
    let mut writes = Vec::new();
    let unchanged = match (change.before, change.after) {
        (Some(before), Some(after)) => before.port_pair_groups == after.port_pair_groups,
        _ => false,
    };
    if unchanged {
        return Ok(writes);
    }
    if let Some(before) = change.before {
        writes.push(Write::Release(groups_key(before)));
    }
    let Some(after) = change.after else {
        return Ok(writes);
    };
    if after.port_pair_groups.is_empty() {
        return Err(Refusal::invalid(
            "PortPairGroupNotSpecified",
            "Port Pair Group is not specified in Port Chain.",
        ));
    }
    if after.port_pair_groups.len() > HOPS {
        return Err(Refusal::attribute(
            "port_pair_groups",
            format_args!("more than {HOPS} hops"),
        ));
    }
    for id in &after.port_pair_groups {
        let group = view.object::<PortPairGroup>(*id);
        let group = group.filter(|group| caller.owns(&group.meta.project_id));
        let group = group.ok_or_else(|| Refusal::missing("PortPairGroup", id))?;
        if group.is_empty() {
            return Err(Refusal::attribute(
                "port_pair_groups",
                format_args!("group {id} is empty: set its network_function or port_pairs first"),
            ));
        }
        if let Some(why) = unlabelled(after, &group) {
            return Err(Refusal::attribute("chain_id", why));
        }
    }
    let why = untranslatable(view, after, None).or_else(|| too_many_of_a_kind(view, after, None));
    if let Some(why) = why {
        return Err(Refusal::attribute("port_pair_groups", why));
    }
    let key = groups_key(after);
    if let Some(claim) = view.get::<Claim>(&key)
        && claim.holder != after.meta.id
    {
        let groups: Vec<String> = after
            .port_pair_groups
            .iter()
            .map(|id| format!("'{id}'"))
            .collect();
        return Err(Refusal::conflict(
            "InvalidPortPairGroups",
            format!(
                "Port Pair Group(s) [{}] in use by Port Chain {}.",
                groups.join(", "),
                claim.holder
            ),
        ));
    }
    writes.push(Write::Claim(key, after.meta.id));
    Ok(writes)
}

fn entrances(view: &View, change: &Change<'_, PortChain>, caller: &Caller) -> Judged {
    let key = |id: &Uuid| format!("unique/chain_of_classifier/{id}");
    let of = |chain: Option<&PortChain>| {
        chain
            .map(|chain| chain.flow_classifiers.clone())
            .unwrap_or_default()
    };
    let (old, new) = (of(change.before), of(change.after));
    let mut writes = Vec::new();
    for id in old.iter().filter(|id| !new.contains(id)) {
        writes.push(Write::Release(key(id)));
    }
    let Some(after) = change.after else {
        return Ok(writes);
    };
    for id in new.iter().filter(|id| !old.contains(id)) {
        let classifier = view.object::<FlowClassifier>(*id);
        if classifier.is_none_or(|classifier| !caller.owns(&classifier.meta.project_id)) {
            return Err(Refusal::missing("FlowClassifier", id));
        }
        if view.entry(&key(id)).is_some() {
            return Err(Refusal::conflict(
                "FlowClassifierInUse",
                format!("Flow Classifier {id} in use."),
            ));
        }
        writes.push(Write::Claim(key(id), after.meta.id));
    }
    Ok(writes)
}

/// A NAT in it can hide who comes by each of its classifiers.
fn hidden(view: &View, change: &Change<'_, PortChain>, _: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    for id in &after.port_pair_groups {
        let group = view.object::<PortPairGroup>(*id);
        let nat = group.as_ref().and_then(|group| group.nat());
        let never = nat.and_then(|nat| never_hidden(view, nat, nat.network_id?, after));
        if let Some(why) = never {
            let why = format_args!("nat {id}: {why}");
            return Err(Refusal::attribute("flow_classifiers", why));
        }
    }
    Ok(Vec::new())
}
