//! What does the caller see of an object?
//!
//! A [`Scene`] is all that an answer is made of: the snapshot, the status board, the caller and the
//! time. Fields that the caller may not read are absent, derived fields are computed here.

use crate::{
    resource::{Field, Object, Policy},
    rules::Caller,
    status::StatusBoard,
    store::Snapshot,
    time::Seconds,
};
use serde_json::{Map, Value, json};

/// What an answer is made of.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The state.
    pub snapshot: &'a Snapshot,
    /// What the hosts proved.
    pub status: &'a StatusBoard,
    /// Who asked.
    pub caller: &'a Caller,
    /// The time.
    pub now: Seconds,
}

/// May the caller do what this policy guards?
pub(crate) fn permits(policy: Policy, caller: &Caller) -> bool {
    match policy {
        Policy::Anyone => true,
        Policy::Admin => caller.admin,
        Policy::AdminOrService => caller.admin || caller.service,
        Policy::Service => caller.service,
        Policy::Nobody => false,
    }
}

impl Scene<'_> {
    /// The whole object, as the caller may see it.
    pub fn render_whole(&self, object: &dyn Object) -> Map<String, Value> {
        self.render(object.spec().fields(), object, &[])
    }

    /// These fields of the object; all if `only` is empty.
    pub fn render<'f>(
        &self,
        fields: impl Iterator<Item = &'f Field>,
        object: &dyn Object,
        only: &[String],
    ) -> Map<String, Value> {
        let mut stored = object.to_map();
        let mut shown = Map::with_capacity(stored.len() + 8);
        for field in fields {
            let wanted = only.is_empty() || only.iter().any(|name| name == field.name);
            if !wanted || !permits(field.read, self.caller) {
                continue;
            }
            let value = self.value(field, object, &mut stored);
            shown.insert(field.name.to_owned(), value);
        }
        shown
    }

    /// The value of one field.
    pub(crate) fn value(
        &self,
        field: &Field,
        object: &dyn Object,
        stored: &mut Map<String, Value>,
    ) -> Value {
        let meta = object.meta();
        match field.name {
            "tenant_id" => json!(meta.project_id),
            "created_at" if object.spec().path != "agents" => json!(meta.created_at.iso()),
            "updated_at" => json!(meta.updated_at.iso()),
            name if field.derived => object.derive(name, self),
            name => stored.swap_remove(name).unwrap_or(Value::Null),
        }
    }
}
