//! What does the caller see of an object?
//!
//! A [`Scene`] is all that an answer is made of: the snapshot, the status board, the caller and the
//! time. Fields that the caller may not read are absent, derived fields are computed here.

use crate::{
    api::rights::{Sight, sight},
    policy::Check,
    resource::{Field, Object, Policy, Spec},
    rules::{Caller, Facts},
    status::StatusBoard,
    store::Snapshot,
    time::Seconds,
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value, json, value::RawValue};
use std::fmt;

/// What an answer is made of.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The state.
    pub snapshot: &'a Snapshot,
    /// What the hosts proved.
    pub status: &'a StatusBoard,
    /// What the controller knows besides.
    pub facts: &'a Facts,
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

/// Writes the rows of a list: what [`Scene::render`] makes of each object, but as text at once. A list of thousands would else spend its time
/// on trees of values.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    scene: &'a Scene<'a>,
    /// With the changed rule of those that have one.
    fields: Vec<(&'static Field, Option<&'a Check>)>,
    /// The text of one object after the other.
    encoded: Vec<u8>,
}

/// The members of an object's text, in their order.
struct Members<'a>(Vec<(&'a str, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(32);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

impl Rows<'_> {
    /// Adds an object's row.
    pub(crate) fn write(&mut self, object: &dyn Object, out: &mut Vec<u8>) {
        self.encoded.clear();
        let done = object.encode_into(&mut self.encoded);
        let (Ok(()), Ok(Members(stored))) = (done, serde_json::from_slice(&self.encoded)) else {
            unreachable!("a resource is a struct with text keys");
        };
        let mut next = 0;
        out.push(b'{');
        let mut first = true;
        for (field, seen) in &self.fields {
            if seen.is_some_and(|check| !self.scene.holds(check, object)) {
                continue;
            }
            let told = is_told(field, object);
            let told = told.then(|| self.scene.value(field, object, &mut Map::new()));
            if field.optional && told.as_ref().is_some_and(Value::is_null) {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(b"\":");
            if let Some(value) = told {
                if serde_json::to_writer(&mut *out, &value).is_err() {
                    unreachable!("a value is written to memory");
                }
                continue;
            }
            // Mostly in the same order as the table.
            let named = |(name, _): &&(&str, &RawValue)| *name == field.name;
            let later = stored.iter().skip(next).position(|member| named(&member));
            let found = later.map(|at| at + next);
            let found = found.or_else(|| stored.iter().position(|member| named(&member)));
            let member = found.and_then(|at| stored.get(at));
            next = found.map_or(next, |at| at + 1);
            out.extend_from_slice(member.map_or("null", |(_, value)| value.get()).as_bytes());
        }
        out.push(b'}');
    }
}

/// Is it made for each answer, rather than stored?
fn is_told(field: &Field, object: &dyn Object) -> bool {
    match field.name {
        "tenant_id" | "updated_at" => true,
        "created_at" if object.spec().path != "agents" => true,
        _ => field.derived,
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
            if !wanted || !self.sees(field, object) {
                continue;
            }
            let value = self.value(field, object, &mut stored);
            if !(field.optional && value.is_null()) {
                shown.insert(field.name.to_owned(), value);
            }
        }
        shown
    }

    /// A writer of rows of this table, with these fields alone or all.
    pub(crate) fn rows(&self, spec: &'static Spec, only: &[String]) -> Rows<'_> {
        let named = |field: &&Field| only.is_empty() || only.iter().any(|name| name == field.name);
        let seen = |field: &'static Field| match sight(spec, field, self.caller) {
            Sight::Never => None,
            Sight::Always => Some((field, None)),
            Sight::Where(check) => Some((field, Some(check))),
        };
        Rows {
            scene: self,
            fields: spec.fields().filter(named).filter_map(seen).collect(),
            encoded: Vec::with_capacity(2048),
        }
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
            "created_at" if object.spec().path.starts_with("lbaas/") => {
                json!(meta.created_at.bare())
            }
            "updated_at" if object.spec().path.starts_with("lbaas/") => {
                json!(meta.updated_at.bare())
            }
            "created_at" if object.spec().path != "agents" => json!(meta.created_at.iso()),
            "updated_at" => json!(meta.updated_at.iso()),
            name if field.derived => object.derive(name, self),
            name => stored.swap_remove(name).unwrap_or(Value::Null),
        }
    }
}
