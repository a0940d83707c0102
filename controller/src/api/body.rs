//! Is the body what the table admits?
//!
//! A body is checked against the [`Spec`]: unknown names, read-only names, missing names, wrong types.
//! What comes out has every value in its normal form and the defaults of what a create left out.

use crate::{
    refusal::Refusal,
    resource::{Absent, Action, Field, Kind, PART_ID, Part, Policy, Spec, Verb, boolean},
    resources::subnet::loose_prefix,
    rules::{Caller, Given},
};
use net::Mac;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use uuid::Uuid;

/// Checked fields, and which of them the caller named.
#[derive(Debug, Clone)]
pub(super) struct Admitted {
    /// Every field with its value.
    pub(super) fields: Map<String, Value>,
    /// The names in the request.
    pub(super) given: Given,
    /// The project of a create.
    pub(super) project_id: String,
}

fn bad(text: impl Into<String>) -> Refusal {
    Refusal::invalid("HTTPBadRequest", text)
}

/// The objects of a body: one under the singular name, or many under the plural.
///
/// # Errors
/// When the body is no JSON object with one of the two names.
pub(super) fn objects(
    spec: &Spec,
    bytes: &[u8],
    bulk: bool,
) -> Result<(Vec<Value>, bool), Refusal> {
    let missing = || {
        bad(format!(
            "Unable to find '{}' in request body",
            spec.singular
        ))
    };
    if bytes.is_empty() {
        return Err(missing());
    }
    let mut body: Value = serde_json::from_slice(bytes)
        .ok()
        .ok_or_else(|| bad("Body contains invalid data"))?;
    let Some(root) = body.as_object_mut() else {
        return Err(missing());
    };
    if bulk && let Some(many) = root.remove(spec.plural) {
        let Value::Array(many) = many else {
            return Err(bad(format!("'{}' is not a list", spec.plural)));
        };
        if many.is_empty() {
            return Err(bad("Resources required"));
        }
        // Some clients name the resource once more in each.
        let bare = |mut one: Value| match one.as_object_mut() {
            Some(keys) if keys.len() == 1 && spec.field(spec.singular).is_none() => {
                keys.remove(spec.singular).unwrap_or(one)
            }
            _ => one,
        };
        return Ok((many.into_iter().map(bare).collect(), true));
    }
    match root.remove(spec.singular) {
        Some(one) => Ok((vec![one], false)),
        None => Err(missing()),
    }
}

/// Checks the body of one object.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn admit(
    spec: &Spec,
    verb: Verb,
    body: Value,
    caller: &Caller,
) -> Result<Admitted, Refusal> {
    let Value::Object(mut body) = body else {
        return Err(bad(format!(
            "Invalid format: {} is not a dictionary",
            spec.singular
        )));
    };
    let named = ["project_id", "tenant_id"].map(|name| body.contains_key(name).then_some(name));
    let project_id = project(&mut body, caller)?;
    // An object stays whose it is.
    if let Some(name) = named.into_iter().flatten().next()
        && verb == Verb::Update
    {
        return Err(bad(format!("Cannot update read-only attribute {name}")));
    }
    known(&body, |name| spec.field(name).is_some())?;
    let mut given = Given::new();
    let mut fields = Map::new();
    for field in spec.fields() {
        let Some(value) = body.remove(field.name) else {
            continue;
        };
        let policy = if verb == Verb::Create {
            field.create
        } else {
            field.update
        };
        if policy == Policy::Nobody {
            return Err(match verb {
                Verb::Create => bad(format!("Attribute '{}' not allowed in POST", field.name)),
                Verb::Read | Verb::Update | Verb::Delete => {
                    bad(format!("Cannot update read-only attribute {}", field.name))
                }
            });
        }
        let value = normal(field, value)?;
        given.insert(field.name.to_owned());
        let name = if spec.ops.asked_apart(field.name) {
            format!("asked:{}", field.name)
        } else {
            field.name.to_owned()
        };
        fields.insert(name, value);
    }
    if verb == Verb::Create {
        for field in spec.fields().filter(|field| !given.contains(field.name)) {
            match field.absent {
                Absent::Required => return Err(required(field)),
                Absent::Computed => {}
                default @ (Absent::Null
                | Absent::Text(_)
                | Absent::Bool(_)
                | Absent::Int(_)
                | Absent::List
                | Absent::Object) => {
                    fields.insert(field.name.to_owned(), default.value());
                }
            }
        }
    }
    Ok(Admitted {
        fields,
        given,
        project_id,
    })
}

/// Checks the arguments of an action.
///
/// # Errors
/// The first thing that is wrong with them.
pub(super) fn arguments(
    spec: &Spec,
    action: &Action,
    bytes: &[u8],
) -> Result<Map<String, Value>, Refusal> {
    let body = if action.wrapped {
        let (mut bodies, _) = objects(spec, bytes, false)?;
        bodies.pop().unwrap_or_default()
    } else if bytes.is_empty() {
        json!({})
    } else {
        let body = serde_json::from_slice(bytes).ok();
        body.ok_or_else(|| bad("Body contains invalid data"))?
    };
    let Value::Object(mut body) = body else {
        return Err(bad(format!(
            "Invalid format: the arguments of {} are not a dictionary",
            action.name
        )));
    };
    known(&body, |name| action.argument(name).is_some())?;
    let mut arguments = Map::new();
    for field in action.arguments {
        let value = match body.remove(field.name) {
            Some(value) => normal(field, value)?,
            None => match field.absent {
                Absent::Required => return Err(required(field)),
                Absent::Computed => continue,
                default @ (Absent::Null
                | Absent::Text(_)
                | Absent::Bool(_)
                | Absent::Int(_)
                | Absent::List
                | Absent::Object) => default.value(),
            },
        };
        arguments.insert(field.name.to_owned(), value);
    }
    Ok(arguments)
}

/// The one object of a body, under this name.
///
/// # Errors
/// When the body is no JSON object with that name and an object in it.
fn one(name: &str, bytes: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let missing = || bad(format!("Unable to find '{name}' in request body"));
    if bytes.is_empty() {
        return Err(missing());
    }
    let body: Option<Value> = serde_json::from_slice(bytes).ok();
    let mut body = body.ok_or_else(|| bad("Body contains invalid data"))?;
    match body.get_mut(name).map(Value::take) {
        Some(Value::Object(one)) => Ok(one),
        Some(_) => Err(bad(format!("Invalid format: {name} is not a dictionary"))),
        None => Err(missing()),
    }
}

/// Checks the body of a part, under this name. A create has every field, an update those that it names.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn part(
    kind: &Part,
    verb: Verb,
    name: &str,
    bytes: &[u8],
) -> Result<Map<String, Value>, Refusal> {
    let mut body = one(name, bytes)?;
    // Parts are their object's project's, whatever is said; some clients say it.
    for name in ["project_id", "tenant_id"] {
        project_text(&mut body, name)?;
    }
    if body.contains_key(PART_ID.name) {
        return Err(match verb {
            Verb::Create => bad("Attribute 'id' not allowed in POST"),
            Verb::Read | Verb::Update | Verb::Delete => bad("Cannot update read-only attribute id"),
        });
    }
    known(&body, |name| kind.field(name).is_some())?;
    let mut fields = Map::new();
    for field in kind.fields {
        let value = match (body.remove(field.name), field.absent) {
            (Some(value), _) => normal(field, value)?,
            (None, _) if verb != Verb::Create => continue,
            (None, Absent::Required) => return Err(required(field)),
            (None, default) => default.value(),
        };
        fields.insert(field.name.to_owned(), value);
    }
    Ok(fields)
}

/// Refuses names that a table does not know.
fn known(body: &Map<String, Value>, knows: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    let unknown: Vec<String> = body
        .keys()
        .filter(|name| !knows(name))
        .map(|name| format!("'{name}'"))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(bad(format!(
        "Unrecognized attribute(s) {}",
        unknown.join(", ")
    )))
}

fn required(field: &Field) -> Refusal {
    bad(format!(
        "Failed to parse request. Required attribute '{}' not specified",
        field.name
    ))
}

/// Takes out the project by one of its names.
fn project_text(body: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    match body.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= 255 && !text.contains('\0') => Ok(Some(text)),
        Some(other) => Err(Refusal::attribute(
            name,
            format_args!("'{other}' is not a valid string"),
        )),
    }
}

/// Who names another project, and may not.
pub(super) const NOT_ITS_PROJECT: &str = "Specifying 'project_id' other than the authenticated project in request is not allowed for the current user.";

/// Takes out the project by both of its names.
fn project(body: &mut Map<String, Value>, caller: &Caller) -> Result<String, Refusal> {
    let mut take = |name: &str| project_text(body, name);
    let (project, tenant) = (take("project_id")?, take("tenant_id")?);
    if let (Some(project), Some(tenant)) = (&project, &tenant)
        && project != tenant
    {
        return Err(bad("'project_id' and 'tenant_id' do not match"));
    }
    match project.or(tenant) {
        Some(other) if other != caller.project_id && !caller.admin && !caller.service => {
            Err(bad(NOT_ITS_PROJECT))
        }
        Some(project) => Ok(project),
        None => Ok(caller.project_id.clone()),
    }
}

impl Absent {
    pub(super) fn value(self) -> Value {
        match self {
            Self::Required | Self::Null | Self::Computed => Value::Null,
            Self::Text(text) => json!(text),
            Self::Bool(value) => json!(value),
            Self::Int(value) => json!(value),
            Self::List => json!([]),
            Self::Object => json!({}),
        }
    }
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Checks a value and brings it to its normal form.
fn normal(field: &Field, value: Value) -> Result<Value, Refusal> {
    if value.is_null() && field.nullable {
        return Ok(value);
    }
    let name = field.name;
    let wrong = |reason: String| Refusal::attribute(name, reason);
    let text = || {
        value
            .as_str()
            .ok_or_else(|| wrong(format!("'{}' is not a valid string", shown(&value))))
    };
    match field.kind {
        Kind::Uuid | Kind::IdOf(_) => {
            let id = value.as_str().and_then(|text| text.parse::<Uuid>().ok());
            let unknown = || {
                if let Kind::IdOf(title) = field.kind
                    && value.is_string()
                {
                    return Refusal::missing(title, shown(&value));
                }
                wrong(format!("'{}' is not a valid UUID", shown(&value)))
            };
            id.map(|id| json!(id)).ok_or_else(unknown)
        }
        Kind::Text(longest) => {
            let text = text()?;
            if text.chars().count() > longest {
                return Err(wrong(format!(
                    "'{text}' exceeds maximum length of {longest}"
                )));
            }
            if text.contains('\0') {
                return Err(wrong("a NUL character is not allowed".to_owned()));
            }
            Ok(value)
        }
        Kind::Bool => boolean(&value).map(|value| json!(value)).ok_or_else(|| {
            Refusal::input(format_args!(
                "'{}' cannot be converted to boolean",
                shown(&value)
            ))
        }),
        Kind::Int(least, most) => {
            let number = value
                .as_i64()
                .or_else(|| value.as_str().and_then(|text| text.parse().ok()));
            let number =
                number.ok_or_else(|| wrong(format!("'{}' is not an integer", shown(&value))))?;
            if number < least {
                return Err(wrong(format!(
                    "'{number}' is too small - must be at least '{least}'"
                )));
            }
            if number > most {
                return Err(wrong(format!(
                    "'{number}' is too large - must be no larger than '{most}'"
                )));
            }
            Ok(json!(number))
        }
        Kind::Mac => {
            let mac = value.as_str().and_then(|text| text.parse::<Mac>().ok());
            mac.map(|mac| json!(mac))
                .ok_or_else(|| wrong(format!("'{}' is not a valid MAC address", shown(&value))))
        }
        Kind::Address => {
            let address = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
            address
                .map(|address| json!(address))
                .ok_or_else(|| wrong(format!("'{}' is not a valid IP address", shown(&value))))
        }
        Kind::Cidr => {
            let prefix = value.as_str().and_then(loose_prefix);
            prefix
                .map(|prefix| json!(prefix))
                .ok_or_else(|| wrong(format!("'{}' is not a valid IP subnet", shown(&value))))
        }
        Kind::OneOfNumbers(numbers) => {
            let number = value
                .as_i64()
                .or_else(|| value.as_str().and_then(|text| text.parse().ok()));
            match number.filter(|number| numbers.contains(number)) {
                Some(number) => Ok(json!(number)),
                None => Err(wrong(format!("{} is not in valid_values", shown(&value)))),
            }
        }
        Kind::OneOf(words) => match value.as_str() {
            Some(word) if words.contains(&word) => Ok(value),
            _ => Err(wrong(format!("{} is not in valid_values", shown(&value)))),
        },
        Kind::Uuids => uuids(&value).map_err(wrong),
        Kind::Words => words(&value, 50).map_err(wrong),
        Kind::Shape(check) => check(&value).map_err(|reason| match reason.split_once('|') {
            // A shape whose mistakes have words of their own says `word|text`.
            Some((word, text)) => named(word, text),
            None => wrong(reason),
        }),
    }
}

/// The refusals that shapes may name.
fn named(word: &str, text: &str) -> Refusal {
    const WORDS: &[&str] = &[
        "AllowedAddressPairExhausted",
        "AllowedAddressPairsMissingIP",
        "DuplicateAddressPairInRequest",
        "InvalidInput",
    ];
    let name = WORDS
        .iter()
        .find(|known| **known == word)
        .unwrap_or(&"HTTPBadRequest");
    Refusal::invalid(name, text)
}

fn uuids(value: &Value) -> Result<Value, String> {
    let items = value
        .as_array()
        .ok_or_else(|| format!("'{}' is not a list", shown(value)))?;
    let mut ids = Vec::with_capacity(items.len());
    for item in items {
        let id = item.as_str().and_then(|text| text.parse::<Uuid>().ok());
        let id = id.ok_or_else(|| format!("'{}' is not a valid UUID", shown(item)))?;
        if ids.contains(&id) {
            return Err(format!("Duplicate items in the list: '{id}'"));
        }
        ids.push(id);
    }
    Ok(json!(ids))
}

/// Checks a list of tags.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn words(value: &Value, most: usize) -> Result<Value, String> {
    let items = value
        .as_array()
        .ok_or_else(|| format!("'{}' is not a list", shown(value)))?;
    if items.len() > most {
        return Err(format!("more than {most} tags"));
    }
    let mut words: Vec<&str> = Vec::with_capacity(items.len());
    for item in items {
        let word = item
            .as_str()
            .ok_or_else(|| format!("'{item}' is not a valid string"))?;
        if word.is_empty() || word.chars().count() > 255 || word.contains('\0') {
            return Err(format!("'{word}' exceeds maximum length of 255"));
        }
        if words.contains(&word) {
            return Err(format!("Duplicate items in the list: '{word}'"));
        }
        words.push(word);
    }
    Ok(json!(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{resource::Resource, resources::Network};

    fn member() -> Caller {
        Caller {
            project_id: "p".to_owned(),
            member: true,
            ..Caller::default()
        }
    }

    fn create(body: Value) -> Result<Admitted, Refusal> {
        admit(Network::SPEC, Verb::Create, body, &member())
    }

    #[test]
    fn a_create_gets_its_defaults_and_normal_forms() {
        let admitted = create(json!({"name": "n", "admin_state_up": "False"})).unwrap();
        assert_eq!(admitted.fields["admin_state_up"], false);
        assert_eq!(admitted.fields["description"], "");
        assert_eq!(admitted.project_id, "p");
        assert!(admitted.given.contains("name") && !admitted.given.contains("description"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, part) in [
            (json!({"bogus": 1}), "Unrecognized attribute(s) 'bogus'"),
            (json!({"id": Uuid::nil()}), "'id' not allowed in POST"),
            (json!({"name": 5}), "'5' is not a valid string"),
            (
                json!({"name": "x".repeat(256)}),
                "exceeds maximum length of 255",
            ),
            (json!({"name": "a\u{0}b"}), "NUL"),
            (json!({"name": null}), "is not a valid string"),
            (json!({"mtu": 3_000_000_000_u64}), "too large"),
            (
                json!({"admin_state_up": "maybe"}),
                "cannot be converted to boolean",
            ),
            (json!({"tenant_id": "a", "project_id": "b"}), "do not match"),
            (
                json!({"tenant_id": "other"}),
                "not allowed for the current user",
            ),
            (json!([]), "not a dictionary"),
        ] {
            let refusal = create(body.clone()).unwrap_err();
            assert!(refusal.to_string().contains(part), "{body}: {refusal}");
        }
        let update = admit(
            Network::SPEC,
            Verb::Update,
            json!({"status": "DOWN"}),
            &member(),
        );
        assert!(
            update
                .unwrap_err()
                .to_string()
                .contains("read-only attribute status")
        );
    }

    #[test]
    fn bodies_are_one_or_many() {
        let one = objects(Network::SPEC, br#"{"network": {}}"#, true).unwrap();
        assert_eq!(one, (vec![json!({})], false));
        let many = objects(Network::SPEC, br#"{"networks": [{}, {}]}"#, true).unwrap();
        assert_eq!(many.0.len(), 2);
        for bad in [
            &b""[..],
            b"{",
            b"[]",
            b"{\"net\": {}}",
            b"{\"networks\": []}",
        ] {
            assert!(objects(Network::SPEC, bad, true).is_err());
        }
        assert!(objects(Network::SPEC, br#"{"networks": [{}]}"#, false).is_err());
    }
}
