//! Under what is the traffic of routers counted?
//!
//! A label is a project's: its routers count what crosses their gateways and is meant by one of the label's rules. Under a shared one all
//! routers do. What was counted is the hosts' to say (`overweave/metering-sums`); nothing of it is stored here.

use crate::{
    refusal::Refusal,
    resource::{
        ALL, Absent, Kind, Lookup, Meta, Objects, Operations, Ops, Policy, Resource, Spec, field,
    },
    resources::MeteringLabelRule,
    rules::{Caller, Change, Judged, Rule, Write},
    store::View,
};
use serde::{Deserialize, Serialize};

/// How many a project has, and how many are shared: each of a router's is looked at for each connection that crosses its gateway.
const MOST: usize = 32;

/// A metering label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeteringLabel {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Do all routers count under it?
    #[serde(default)]
    pub shared: bool,
}

static OPS: Ops<MeteringLabel> = Ops::new();

impl Resource for MeteringLabel {
    const SPEC: &'static Spec = &Spec {
        singular: "metering_label",
        plural: "metering_labels",
        path: "metering/metering-labels",
        storage: "metering_label",
        title: "MeteringLabel",
        doc: "Under what the traffic of routers is counted.",
        verbs: ALL,
        policy: Policy::Admin,
        quota: None,
        tags: false,
        bare: true,
        fields: &[
            field("id", Kind::Uuid, "Identity."),
            field("name", Kind::Text(255), "Human label.").create_only(Absent::Text("")),
            field("description", Kind::Text(1024), "Human note.").create_only(Absent::Text("")),
            field(
                "tenant_id",
                Kind::Text(255),
                "The project, by its old name.",
            )
            .computed(),
            field(
                "project_id",
                Kind::Text(255),
                "The project whose routers count.",
            )
            .create_only(Absent::Computed),
            field("shared", Kind::Bool, "Do all routers count under it?")
                .create_only(Absent::Bool(false)),
        ],
        actions: &[],
        parts: &[],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[few, removal];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn shared(&self, _: &dyn Lookup) -> bool {
        self.shared
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let of = if self.shared {
            "*"
        } else {
            self.meta.project_id.as_str()
        };
        vec![("counted_by", of.to_owned())]
    }
}

/// Of each router a bounded number is looked at.
fn few(view: &View, change: &Change<'_, MeteringLabel>, _: &Caller) -> Judged {
    let Some(label) = change.made() else {
        return Ok(Vec::new());
    };
    for (field, of) in Resource::index(label) {
        let there = view.related::<MeteringLabel>(field, of);
        if there.len() >= MOST {
            return Err(Refusal::conflict(
                "MeteringLabelLimit",
                format!(
                    "There are {MOST} metering labels already under which the same routers count."
                ),
            ));
        }
    }
    Ok(Vec::new())
}

/// Its rules go with it.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn removal(view: &View, change: &Change<'_, MeteringLabel>, _: &Caller) -> Judged {
    let Some(label) = change.removed() else {
        return Ok(Vec::new());
    };
    let rules = view.related::<MeteringLabelRule>("metering_label_id", label.meta.id);
    let gone = rules.iter();
    Ok(gone
        .map(|rule| Write::Remove(MeteringLabelRule::SPEC, rule.meta.id))
        .collect())
}
