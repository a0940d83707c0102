//! Which chain follows which?
//!
//! A graph is stored for what the API shows of it; what the switches need stands in its chains ([`InGraph`]), and the graph's rules keep the two the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    refusal::Refusal,
    resource::{ALL, Absent, Kind, Meta, Objects, Operations, Ops, Policy, Resource, Spec, field},
    resources::{FlowClassifier, PortChain, flow_classifier, port_chain::InGraph},
    rules::{Caller, Change, Judged, Rule, Write},
    store::View,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// Chains of one graph.
const CHAINS: usize = 64;
/// Chains in a row.
const ROW: u8 = 16;

/// A service graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceGraph {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// What may follow each chain at whose end it branches.
    pub port_chains: BTreeMap<Uuid, Vec<Uuid>>,
}

static OPS: Ops<ServiceGraph> = Ops::new();

impl Resource for ServiceGraph {
    const SPEC: &'static Spec = &Spec {
        singular: "service_graph",
        plural: "service_graphs",
        path: "sfc/service_graphs",
        storage: "service_graph",
        title: "ServiceGraph",
        doc: "Which chain follows which.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("service_graph", 10)),
        tags: false,
        bare: false,
        fields: &[field(
            "port_chains",
            Kind::Shape(branches),
            "For each chain at whose end it branches, those that may follow: the first whose classifiers match.",
        )
        .create_only(Absent::Object)
        .or_null()
        .unfiltered()],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[places];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn intake(fields: &mut serde_json::Map<String, Value>) -> Result<(), Refusal> {
        if fields.get("port_chains").is_some_and(Value::is_null) {
            fields.insert("port_chains".to_owned(), json!({}));
        }
        Ok(())
    }
}

impl ServiceGraph {
    /// All of its chains.
    fn chains(&self) -> BTreeSet<Uuid> {
        let next = self.port_chains.values().flatten();
        self.port_chains.keys().chain(next).copied().collect()
    }

    /// How many chains lie before each at most.
    fn depths(&self) -> Result<BTreeMap<Uuid, u8>, Refusal> {
        let mut depths: BTreeMap<Uuid, u8> = self.chains().iter().map(|id| (*id, 0)).collect();
        // A way without a loop is no longer than there are chains.
        for _ in 0..=depths.len() {
            let mut settled = true;
            for (from, next) in &self.port_chains {
                let deeper = depths.get(from).map_or(1, |depth| depth + 1);
                for id in next {
                    let depth = depths.entry(*id).or_default();
                    if *depth < deeper {
                        (*depth, settled) = (deeper, false);
                    }
                }
            }
            if settled {
                let row = depths.values().max().map_or(0, |deepest| deepest + 1);
                return if row > ROW {
                    Err(Refusal::attribute(
                        "port_chains",
                        format_args!("more than {ROW} chains in a row"),
                    ))
                } else {
                    Ok(depths)
                };
            }
        }
        Err(Refusal::invalid(
            "ServiceGraphLoopDetected",
            "Service Graph defined contains at least one port chain loop.",
        ))
    }
}

fn branches(value: &Value) -> Result<Value, String> {
    let Some(object) = value.as_object() else {
        return Err(format!("'{value}' is not a dictionary"));
    };
    let uuid = |text: &str| -> Result<Uuid, String> {
        Uuid::parse_str(text).map_err(|why| format!("'{text}' is not a valid UUID: {why}"))
    };
    let mut normal: BTreeMap<Uuid, Vec<Uuid>> = BTreeMap::new();
    let mut count = 0;
    for (from, next) in object {
        let Some(next) = next.as_array() else {
            return Err(format!("'{next}' is not a list"));
        };
        let named = next.iter().map(|id| match id.as_str() {
            Some(id) => uuid(id),
            None => Err(format!("'{id}' is not a valid UUID")),
        });
        let named: Vec<Uuid> = named.collect::<Result<_, _>>()?;
        count += 1 + named.len();
        // One chain may be written in two ways.
        normal.entry(uuid(from)?).or_default().extend(named);
    }
    if count > 4 * CHAINS {
        return Err(format!("more than {} chains are named", 4 * CHAINS));
    }
    Ok(json!(normal))
}

/// What the graph says stands in its chains.
fn places(view: &View, change: &Change<'_, ServiceGraph>, caller: &Caller) -> Judged {
    let mut writes = Vec::new();
    if let Some(gone) = change.removed() {
        for id in gone.chains() {
            if let Some(chain) = view.object::<PortChain>(id) {
                let mut chain = PortChain::clone(&chain);
                chain.place = None;
                writes.push(Write::put(chain));
            }
        }
        return Ok(writes);
    }
    let Some(made) = change.made() else {
        return Ok(writes);
    };
    let all = made.chains();
    if all.len() > CHAINS {
        return Err(Refusal::attribute(
            "port_chains",
            format_args!("more than {CHAINS} chains"),
        ));
    }
    let mut chains = BTreeMap::new();
    for id in all {
        let chain = view.object::<PortChain>(id);
        let chain = chain.filter(|chain| caller.owns(&chain.meta.project_id));
        let chain = chain.ok_or_else(|| Refusal::missing("PortChain", id))?;
        if chain.place.is_some() {
            return Err(Refusal::conflict(
                "ServiceGraphInvalidPortChains",
                format!("Some of the Port Chain(s): {id}, are already in use by a Service Graph."),
            ));
        }
        chains.insert(id, chain);
    }
    let mut correlations = chains.values().map(|c| &c.chain_parameters.correlation);
    let first = correlations.next();
    if correlations.any(|correlation| Some(correlation) != first) {
        return Err(Refusal::invalid(
            "ServiceGraphInconsistentEncapsulation",
            "Service Graph may only connect port-chains sharing the same correlation.",
        ));
    }
    for next in made.port_chains.values() {
        let mut seen = BTreeSet::new();
        if let Some(twice) = next.iter().find(|id| !seen.insert(**id)) {
            return Err(Refusal::invalid(
                "ServiceGraphPortChainInConflict",
                format!(
                    "Port Chain {twice} is duplicated on one of the branching points being created."
                ),
            ));
        }
        let named = next.iter().filter_map(|id| chains.get(id));
        let classifiers: Vec<_> = named
            .flat_map(|chain| &chain.flow_classifiers)
            .filter_map(|id| view.object::<FlowClassifier>(*id))
            .collect();
        ambiguous(&classifiers)?;
    }
    let depths = made.depths()?;
    for (id, chain) in chains {
        let place = InGraph {
            graph: made.meta.id,
            depth: depths.get(&id).copied().unwrap_or_default(),
            next: made.port_chains.get(&id).cloned().unwrap_or_default(),
        };
        writes.push(Write::put(PortChain {
            place: Some(place),
            ..PortChain::clone(&chain)
        }));
    }
    Ok(writes)
}

/// Ends are not asked at a branch, so there they tell nothing apart.
fn ambiguous(classifiers: &[std::sync::Arc<FlowClassifier>]) -> Result<(), Refusal> {
    for (n, one) in classifiers.iter().enumerate() {
        let others = classifiers.iter().skip(n + 1);
        for other in others {
            if flow_classifier::fields_overlap(one, other) {
                return Err(Refusal::invalid(
                    "ServiceGraphFlowClassifierInConflict",
                    format!(
                        "Flow Classifier {} conflicts with Flow Classifier {} on one of the branching points being created.",
                        one.meta.id, other.meta.id
                    ),
                ));
            }
        }
    }
    Ok(())
}
