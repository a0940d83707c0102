//! What does an operator ask for, without HTTP?
//!
//! Orders as the API's handlers give them to the rules: the table's defaults filled in, judged in a transaction. Ids and
//! addresses come from the seed, so that a run repeats.

use std::sync::Arc;

use controller::{
    refusal::Refusal,
    resource::{Absent, Object, Resource},
    resources::{Port, port::bindings::Deed},
    rules::{Caller, Given, Moment, Order, enact, stored},
    store::View,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The project of all that is made here.
pub const PROJECT: &str = "pppppppppppppppppppppppppppppppp";

fn caller() -> Caller {
    Caller {
        project_id: PROJECT.to_owned(),
        ..Caller::system()
    }
}

fn put(into: &mut Map<String, Value>, asked_apart: impl Fn(&str) -> bool, body: &Value) -> Given {
    let body = body.as_object().unwrap();
    for (name, value) in body {
        let apart = asked_apart(name).then(|| format!("asked:{name}"));
        into.insert(apart.unwrap_or_else(|| name.clone()), value.clone());
    }
    body.keys().cloned().collect()
}

/// Makes an object; its id.
///
/// # Errors
/// What the rules refuse.
pub fn create<T: Resource>(view: &mut View, at: &Moment, body: &Value) -> Result<Uuid, Refusal> {
    let mut fields = Map::new();
    for field in T::SPEC.fields() {
        let value = match field.absent {
            Absent::Bool(value) => json!(value),
            Absent::Int(value) => json!(value),
            Absent::Text(value) => json!(value),
            Absent::List => json!([]),
            Absent::Object => json!({}),
            Absent::Null => Value::Null,
            Absent::Required | Absent::Computed => continue,
        };
        fields.insert(field.name.to_owned(), value);
    }
    let given = put(&mut fields, T::asked_apart, body);
    let id = at.dice.uuid();
    fields.insert("id".to_owned(), json!(id));
    let project = if T::SPEC.path.starts_with("overweave/") {
        ""
    } else {
        PROJECT
    };
    fields.insert("project_id".to_owned(), json!(project));
    let object = T::SPEC.ops.build(fields)?;
    enact(view, Order::Create(object, given), &caller(), at)?;
    Ok(id)
}

fn there<T: Resource>(view: &View, id: Uuid) -> Result<Arc<dyn Object>, Refusal> {
    stored(view, T::SPEC, id).ok_or_else(|| Refusal::missing(T::SPEC.title, id))
}

/// Changes an object.
///
/// # Errors
/// What the rules refuse.
pub fn update<T: Resource>(
    view: &mut View,
    at: &Moment,
    id: Uuid,
    body: &Value,
) -> Result<(), Refusal> {
    let before = there::<T>(view, id)?;
    let mut fields = before.to_map();
    let given = put(&mut fields, T::asked_apart, body);
    let after = T::SPEC.ops.build(fields)?;
    enact(view, Order::Update(before, after, given), &caller(), at)?;
    Ok(())
}

/// Changes a port's bindings.
///
/// # Errors
/// What the rules refuse.
pub fn rebind(view: &mut View, at: &Moment, id: Uuid, deed: &Deed) -> Result<(), Refusal> {
    let before = there::<Port>(view, id)?;
    let port = before.as_any().downcast_ref::<Port>().unwrap();
    let after = Arc::new(deed.of(port)?);
    let order = Order::Update(before, after, Given::new());
    enact(view, order, &caller(), at)?;
    Ok(())
}

/// Deletes an object.
///
/// # Errors
/// What the rules refuse.
pub fn delete<T: Resource>(view: &mut View, at: &Moment, id: Uuid) -> Result<(), Refusal> {
    let before = there::<T>(view, id)?;
    enact(view, Order::Delete(before, Given::new()), &caller(), at)?;
    Ok(())
}
