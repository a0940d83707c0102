//! What does the API look like to a machine?
//!
//! An `OpenAPI` 3.1 document made from the tables. It is served, and committed as `controller/openapi.json`.

use crate::{
    api::{
        schedules::SERVED,
        told::{LONGEST, TOLD},
    },
    resource::{
        Absent, Action, Field, How, Kind, PART_ID, Part, Policy, Reply, Resource, Shown, Spec, Verb,
    },
    resources::{
        Port, REGISTRY,
        port::bindings::{BINDING, SHOWN},
    },
};
use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use serde_json::{Map, Value, json};

fn schema(field: &Field) -> Value {
    let mut schema = match field.kind {
        Kind::Uuid | Kind::IdOf(_) => json!({"type": "string", "format": "uuid"}),
        Kind::Text(longest) => json!({"type": "string", "maxLength": longest}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Mac => json!({"type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"}),
        Kind::Address => json!({"type": "string", "description": "IPv4 or IPv6 address"}),
        Kind::Cidr => json!({"type": "string", "description": "address block"}),
        Kind::OneOfNumbers(numbers) => json!({"type": "integer", "enum": numbers}),
        Kind::OneOf(words) => json!({"type": "string", "enum": words}),
        Kind::Uuids | Kind::Words => json!({"type": "array"}),
        Kind::Shape(_) => json!({}),
    };
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".to_owned(), json!(field.doc));
        if field.nullable {
            or_null(object);
        }
    }
    schema
}

/// Null as well.
fn or_null(schema: &mut Map<String, Value>) {
    if let Some(Value::String(kind)) = schema.get("type").cloned() {
        schema.insert("type".to_owned(), json!([kind, "null"]));
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.push(Value::Null);
    }
}

/// What an answer has.
fn told_of(field: &Field) -> Value {
    let mut schema = match field.shown {
        Shown::AsTaken | Shown::OrNull => schema(field),
        Shown::Text => json!({"type": "string"}),
        Shown::Object | Shown::ObjectOrNull => json!({"type": "object"}),
    };
    if let Some(object) = schema.as_object_mut() {
        object.insert("description".to_owned(), json!(field.doc));
        let null = match field.shown {
            Shown::OrNull | Shown::ObjectOrNull => !field.nullable,
            Shown::Text => field.nullable,
            // The first has said so.
            Shown::AsTaken | Shown::Object => false,
        };
        if null {
            or_null(object);
        }
    }
    schema
}

/// What may be asked for: besides a value's own form those that mean the same.
fn asked(field: &Field) -> Value {
    let (more, also) = match field.kind {
        Kind::Bool => {
            let also = json!({"enum": [0, 1, "0", "1", "true", "false", "True", "False"]});
            (json!({}), Some(also))
        }
        Kind::Int(..) | Kind::OneOfNumbers(_) => {
            let also = json!({"type": "string", "pattern": "^[+-]?[0-9]+$"});
            (json!({}), Some(also))
        }
        // Any case, dashes as well.
        Kind::Mac => (json!({"pattern": "^[0-9A-Fa-f:.-]+$"}), None),
        Kind::Text(_) => (json!({"pattern": "^[^\\u0000]*$"}), None),
        Kind::Uuids => {
            let items = json!({"type": "string", "format": "uuid"});
            (json!({"items": items, "uniqueItems": true}), None)
        }
        Kind::Words => {
            let items = json!({"type": "string", "minLength": 1, "maxLength": 255});
            let more = json!({"items": items, "uniqueItems": true, "maxItems": 50});
            (more, None)
        }
        Kind::Address => {
            let forms = json!([{"format": "ipv4"}, {"format": "ipv6"}]);
            (json!({ "anyOf": forms }), None)
        }
        Kind::Uuid | Kind::IdOf(_) | Kind::Cidr | Kind::OneOf(_) | Kind::Shape(_) => {
            (json!({}), None)
        }
    };
    let mut own = schema(field);
    if let (Some(own), Value::Object(more)) = (own.as_object_mut(), more) {
        own.extend(more);
    }
    let Some(also) = also else {
        return own;
    };
    json!({"anyOf": [own, also], "description": field.doc})
}

/// An object of these fields and no others; those that it must have.
fn asked_of<'a>(fields: impl Iterator<Item = &'a Field>, must: impl Fn(&Field) -> bool) -> Value {
    let (mut all, mut required) = (Map::new(), Vec::new());
    for field in fields {
        all.insert(field.name.to_owned(), asked(field));
        if must(field) {
            required.push(field.name);
        }
    }
    let mut object = json!({"type": "object", "properties": all, "additionalProperties": false});
    if let Some(object) = object.as_object_mut().filter(|_| !required.is_empty()) {
        object.insert("required".to_owned(), json!(required));
    }
    object
}

/// A create says what has no default.
fn is_required(field: &Field) -> bool {
    matches!(field.absent, Absent::Required)
}

/// A body that must be there.
fn body(mut content: Value) -> Value {
    if let Some(body) = content.as_object_mut() {
        body.insert("required".to_owned(), json!(true));
    }
    content
}

/// One object under its name, or several under theirs.
fn one_or_many(spec: &Spec, one: &Value) -> Value {
    let form = |key: &str, inner: Value| json!({"type": "object", "properties": {key: inner}, "required": [key]});
    let many = json!({"type": "array", "items": one, "minItems": 1});
    let forms = [form(spec.singular, one.clone()), form(spec.plural, many)];
    content(&json!({ "anyOf": forms }))
}

/// What clients may ask and is refused in any case, with a reason.
fn always_refused(summary: &str) -> Value {
    json!({
        "summary": summary,
        "responses": {
            "401": unauthenticated(),
            "default": {"$ref": "#/components/responses/Refused"},
        },
    })
}

fn object(spec: &Spec, wanted: impl Fn(&Field) -> bool) -> Value {
    object_of(spec.fields().filter(|field| wanted(field)))
}

fn object_of<'a>(fields: impl Iterator<Item = &'a Field>) -> Value {
    let fields: Map<String, Value> = fields
        .map(|field| (field.name.to_owned(), told_of(field)))
        .collect();
    json!({"type": "object", "properties": fields})
}

fn content(schema: &Value) -> Value {
    json!({"content": {"application/json": {"schema": schema}}})
}

fn wrapped(key: &str, inner: &Value) -> Value {
    let schema = json!({"type": "object", "properties": {key: inner}, "required": [key]});
    content(&schema)
}

fn described(mut answer: Value) -> Value {
    if let Some(object) = answer.as_object_mut() {
        object.insert("description".to_owned(), json!("done"));
    }
    answer
}

fn operations(spec: &Spec, paths: &mut Map<String, Value>) {
    let shown = json!({"$ref": format!("#/components/schemas/{}", spec.singular)});
    let many = json!({"type": "array", "items": shown});
    let (one_key, many_key) = (spec.singular, spec.plural);
    let answer = |key: &str, inner: &Value| described(wrapped(key, inner));
    let (mut collection, mut item) = (Map::new(), Map::new());
    for verb in spec.verbs {
        match verb {
            Verb::Create => {
                // Whose it is is told by either name.
                let fields = spec.fields();
                let fields = fields.filter(|f| f.create != Policy::Nobody || f.name == "tenant_id");
                let one = asked_of(fields, is_required);
                collection.insert(
                    "post".to_owned(),
                    operation(
                        spec,
                        format!("Make a {one_key}, or several."),
                        json!({
                            "requestBody": body(one_or_many(spec, &one)),
                            "responses": {"201": described(one_or_many(spec, &shown))},
                        }),
                    ),
                );
            }
            Verb::Read => {
                collection.insert(
                    "get".to_owned(),
                    operation(
                        spec,
                        format!("List {many_key}."),
                        json!({"responses": {"200": answer(many_key, &many)}}),
                    ),
                );
                item.insert(
                    "get".to_owned(),
                    operation(
                        spec,
                        format!("Show a {one_key}."),
                        json!({"responses": {"200": answer(one_key, &shown)}}),
                    ),
                );
            }
            Verb::Update => {
                let fields = spec.fields().filter(|f| f.update != Policy::Nobody);
                let change = asked_of(fields, |_| false);
                item.insert(
                    "put".to_owned(),
                    operation(
                        spec,
                        format!("Change a {one_key}."),
                        json!({
                            "requestBody": body(wrapped(one_key, &change)),
                            "responses": {"200": answer(one_key, &shown)},
                        }),
                    ),
                );
            }
            Verb::Delete => {
                item.insert(
                    "delete".to_owned(),
                    operation(
                        spec,
                        format!("Delete a {one_key}."),
                        json!({"responses": {"204": {"description": "gone"}}}),
                    ),
                );
            }
        }
    }
    item.insert("parameters".to_owned(), parameters());
    paths.insert(format!("/v2.0/{}", spec.path), Value::Object(collection));
    let one = format!("/v2.0/{}/{{id}}", spec.path);
    for action in spec.actions {
        let path = format!("{one}/{}", action.name);
        let done = self::action(spec, action);
        let method = match action.how {
            How::Change => "put",
            How::Look => "get",
        };
        paths.insert(path, json!({method: done, "parameters": parameters()}));
    }
    for kind in spec.parts {
        part(spec, kind, &one, paths);
    }
    paths.insert(one, Value::Object(item));
}

/// The paths of the parts of an object, and of each by its own id alone.
fn part(spec: &Spec, part: &Part, object: &str, paths: &mut Map<String, Value>) {
    let shown = object_of([&PART_ID].into_iter().chain(part.fields));
    // Parts are their object's project's, whatever is said.
    let whose = json!({"type": "string", "maxLength": 255, "pattern": "^[^\\u0000]*$"});
    let with_project = |mut object: Value| {
        if let Some(Value::Object(properties)) = object.get_mut("properties") {
            for name in ["project_id", "tenant_id"] {
                properties.insert(name.to_owned(), whose.clone());
            }
        }
        object
    };
    let made = with_project(asked_of(part.fields.iter(), is_required));
    let changed = with_project(asked_of(part.fields.iter(), |_| false));
    let answer = |key: &str, inner: &Value| described(wrapped(key, inner));
    let put =
        |verb: &str, name: &str, body: Value| operation(spec, format!("{verb} a {name}."), body);
    let one = |name: &str| {
        json!({
            "get": put("Show", name, json!({"responses": {"200": answer(name, &shown)}})),
            "put": put("Change", name, json!({
                "requestBody": body(wrapped(name, &changed)),
                "responses": {"200": answer(name, &shown)},
            })),
            "delete": put("Delete", name, json!({"responses": {"204": {"description": "gone"}}})),
        })
    };
    let with = |mut item: Value, names: &[&str]| {
        let parameter = |name: &&str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
        if let Some(item) = item.as_object_mut() {
            item.insert(
                "parameters".to_owned(),
                names.iter().map(parameter).collect(),
            );
        }
        item
    };
    let name = part.singular;
    let rows = json!({"type": "array", "items": shown});
    let mut many = json!({
        "get": operation(spec, format!("List {}.", part.plural), json!({
            "responses": {"200": answer(part.plural, &rows)},
        })),
        "post": put("Make", name, json!({
            "requestBody": body(wrapped(name, &made)),
            "responses": {"201": answer(name, &shown)},
        })),
    });
    if !part.batch.is_empty() {
        let all = json!({"type": "array", "items": made});
        let replace = json!({
            "parameters": [{
                "name": "additive_only", "in": "query", "schema": {"type": "boolean"},
                "description": "What the body does not name stays.",
            }],
            "requestBody": body(wrapped(part.plural, &all)),
            "responses": {"202": {"description": "They are what the body says."}},
        });
        let replace = operation(spec, format!("Replace all {}.", part.plural), replace);
        if let Some(many) = many.as_object_mut() {
            many.insert("put".to_owned(), replace);
        }
    }
    let path = format!("{object}/{}", part.plural);
    paths.insert(format!("{path}/{{part}}"), with(one(name), &["id", "part"]));
    paths.insert(path, with(many, &["id"]));
    if let Some((name, aliases)) = part.alias {
        for path in aliases {
            let path = format!("/v2.0/{path}/{{part}}");
            paths.insert(path, with(one(name), &["part"]));
        }
    }
}

fn parameters() -> Value {
    json!([{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}])
}

fn action(spec: &Spec, action: &Action) -> Value {
    let arguments = asked_of(action.arguments.iter(), is_required);
    let asked = if action.wrapped {
        body(wrapped(spec.singular, &arguments))
    } else if action.arguments.iter().any(is_required) {
        body(content(&arguments))
    } else {
        content(&arguments)
    };
    let answer = match action.reply {
        Reply::Bare => content(&json!({"$ref": format!("#/components/schemas/{}", spec.singular)})),
        Reply::Object => {
            let shown = json!({"$ref": format!("#/components/schemas/{}", spec.singular)});
            wrapped(spec.singular, &shown)
        }
        Reply::Fields(fields) => content(&object_of(fields.iter())),
    };
    let responses = Map::from_iter([(action.success.to_string(), described(answer))]);
    let whole = match action.how {
        How::Change => json!({"requestBody": asked, "responses": responses}),
        How::Look => json!({"responses": responses}),
    };
    operation(spec, action.doc.to_owned(), whole)
}

/// An operation of a resource: grouped with its others, and refused as all are.
fn operation(spec: &Spec, summary: String, mut operation: Value) -> Value {
    if let Some(object) = operation.as_object_mut() {
        object.insert("summary".to_owned(), Value::String(summary));
        object.insert("tags".to_owned(), json!([spec.plural]));
        if let Some(Value::Object(responses)) = object.get_mut("responses") {
            let refused = json!({"$ref": "#/components/responses/Refused"});
            responses.insert("default".to_owned(), refused);
            responses.insert("401".to_owned(), unauthenticated());
        }
    }
    operation
}

/// The answer to who shows no good token: of Keystone's form, not Neutron's.
fn unauthenticated() -> Value {
    json!({"$ref": "#/components/responses/Unauthenticated"})
}

/// What is no resource, but somebody's to ask for.
fn backup() -> Value {
    json!({"post": {
        "summary": "Take a backup of the running controller; an admin's.",
        "responses": {
            "200": {"description": "the backup, its checksum last", "content": {"application/octet-stream": {}}},
            "401": unauthenticated(),
            "default": {"$ref": "#/components/responses/Refused"},
        },
    }})
}

/// What can only be read.
fn get(summary: &str, key: &str, inner: &Value) -> Value {
    json!({
        "summary": summary,
        "responses": {
            "200": described(wrapped(key, inner)),
            "401": unauthenticated(),
            "default": {"$ref": "#/components/responses/Refused"},
        },
    })
}

/// Where ports are, and may be next.
fn bindings(paths: &mut Map<String, Value>) {
    let spec = Port::SPEC;
    let text = json!({"type": "string"});
    let shown = SHOWN.iter().map(|name| {
        let of = match *name {
            "profile" | "vif_details" => json!({"type": "object"}),
            _ => text.clone(),
        };
        ((*name).to_owned(), of)
    });
    let shown = json!({"type": "object", "properties": shown.collect::<Map<_, _>>()});
    let said = |must: fn(&Field) -> bool| {
        let said = asked_of(BINDING.fields.iter(), must);
        body(wrapped("binding", &said))
    };
    let (change, make) = (said(|_| false), said(|field| field.name == "host"));
    let answers = |code: &str, answer: Value| json!({"responses": {code: described(answer)}});
    let with = |body: Value, mut answers: Value| {
        if let Some(object) = answers.as_object_mut() {
            object.insert("requestBody".to_owned(), body);
        }
        answers
    };
    let told = |summary: &str, of: Value| {
        operation(spec, format!("{summary}; an admin's or a service's."), of)
    };
    let many = wrapped("bindings", &json!({"type": "array", "items": shown}));
    let one = wrapped("binding", &shown);
    let path = "/v2.0/ports/{id}/bindings";
    paths.insert(
        path.to_owned(),
        json!({
            "parameters": parameters(),
            "get": told("List the bindings of a port", answers("200", many)),
            "post": told("Bind a port to one more host", with(make, answers("201", one.clone()))),
        }),
    );
    let mut place = parameters();
    if let Some(place) = place.as_array_mut() {
        place.push(json!({"name": "host", "in": "path", "required": true, "schema": text}));
    }
    paths.insert(
        format!("{path}/{{host}}"),
        json!({
            "parameters": place,
            "get": told("Show the binding of a port to a host", answers("200", one.clone())),
            "put": told("Change the binding of a port to a host", with(change, answers("200", one))),
            "delete": told("Unbind a port from a host", answers("204", json!({}))),
        }),
    );
    let activated = told("Have a port on this host", answers("200", content(&shown)));
    paths.insert(
        format!("{path}/{{host}}/activate"),
        json!({"parameters": place, "put": activated}),
    );
}

/// Which hosts serve what.
fn served(paths: &mut Map<String, Value>) {
    for served in SERVED {
        let path = format!("/v2.0/{}/{{id}}/{}", served.of.path, served.path);
        let many = json!({"type": "array", "items": {"type": "object"}});
        let words = served.path.replace('-', " ");
        let of = served.of.singular;
        let list = get(
            &format!("List the {words} of a {of}; an admin's."),
            served.listed.plural,
            &many,
        );
        let mut whole = json!({"get": list, "parameters": parameters()});
        if served.is_chosen() {
            let refused = || always_refused("Refused: there is nothing to choose.");
            let mut place = parameters();
            if let (Some(whole), Some(place)) = (whole.as_object_mut(), place.as_array_mut()) {
                whole.insert("post".to_owned(), refused());
                let schema = json!({"type": "string"});
                place
                    .push(json!({"name": "one", "in": "path", "required": true, "schema": schema}));
            }
            let one = json!({"delete": refused(), "parameters": place});
            paths.insert(format!("{path}/{{one}}"), one);
        }
        paths.insert(path, whole);
    }
}

/// What is told of networks.
fn told(paths: &mut Map<String, Value>) {
    for told in TOLD {
        let path = format!("/v2.0/{}", told.path);
        let row = json!({"type": "object"});
        let many = json!({"type": "array", "items": row});
        let words = told.plural.replace('_', " ");
        let list = get(&format!("List {words}; an admin's."), told.plural, &many);
        let words = told.singular.replace('_', " ");
        let show = get(&format!("Show a {words}; an admin's."), told.singular, &row);
        let mut many = json!({"get": list});
        if let (Some(many), Some(why)) = (many.as_object_mut(), told.fixed) {
            let refused = always_refused(&format!("Refused: {why}."));
            many.insert("post".to_owned(), refused);
        }
        paths.insert(path.clone(), many);
        let mut one = json!({"get": show, "parameters": parameters()});
        if let Some(one) = one.as_object_mut().filter(|_| !told.set.is_empty()) {
            let text = json!({
                "type": ["string", "null"], "maxLength": LONGEST, "pattern": "^[^\\u0000]*$",
            });
            let fields = told.set.iter();
            let fields: Map<String, Value> = fields
                .map(|(name, _)| ((*name).to_owned(), text.clone()))
                .collect();
            let change = json!({
                "type": "object", "properties": fields, "additionalProperties": false,
            });
            let mut put = get(
                &format!("Change a {words}; an admin's."),
                told.singular,
                &row,
            );
            if let Some(put) = put.as_object_mut() {
                let asked = body(wrapped(told.singular, &change));
                put.insert("requestBody".to_owned(), asked);
            }
            one.insert("put".to_owned(), put);
        }
        paths.insert(format!("{path}/{{id}}"), one);
    }
}

/// A project's network that leads outside.
fn auto_allocated() -> Value {
    let text = json!({"type": "string"});
    let fields = json!({"id": text, "tenant_id": text, "project_id": text});
    let one = json!({"type": "object", "properties": fields});
    let show = get(
        "Make a project a network that leads outside, if it has none, and show it.",
        "auto_allocated_topology",
        &one,
    );
    let project = json!({
        "name": "project", "in": "path", "required": true, "schema": {"type": "string"},
    });
    json!({
        "get": show,
        "delete": {
            "summary": "Delete it, if nothing uses it.",
            "responses": {
                "204": {"description": "Deleted."},
                "401": unauthenticated(),
                "default": {"$ref": "#/components/responses/Refused"},
            },
        },
        "parameters": [project],
    })
}

/// Where floating IPs can be had from.
fn floating_ip_pools() -> Value {
    let text = json!({"type": "string"});
    let fields = super::pools::FIELDS.iter();
    let fields: Map<String, Value> = fields.map(|f| ((*f).to_owned(), text.clone())).collect();
    let many = json!({"type": "array", "items": {"type": "object", "properties": fields}});
    let list = get(
        "List the subnets that floating IPs can be had from.",
        "floatingip_pools",
        &many,
    );
    json!({"get": list})
}

/// The zones that hosts are in.
fn availability_zones() -> Value {
    let text = json!({"type": "string"});
    let fields = super::zones::FIELDS.iter();
    let fields: Map<String, Value> = fields.map(|f| ((*f).to_owned(), text.clone())).collect();
    let many = json!({"type": "array", "items": {"type": "object", "properties": fields}});
    let list = get(
        "List the zones that hosts are in.",
        "availability_zones",
        &many,
    );
    json!({"get": list})
}

/// What routers counted under their labels.
fn metering_sums() -> Value {
    let fields = super::metering_sums::FIELDS.iter().map(|name| {
        let kind = match *name {
            "packets" | "bytes" => "integer",
            _ => "string",
        };
        ((*name).to_owned(), json!({"type": kind}))
    });
    let fields: Map<String, Value> = fields.collect();
    let many = json!({"type": "array", "items": {"type": "object", "properties": fields}});
    let list = get(
        "List what the caller's routers counted under metering labels.",
        "metering_sums",
        &many,
    );
    json!({"get": list})
}

/// The kinds of rules of a QoS policy: no objects, but to be asked for.
fn rule_types(paths: &mut Map<String, Value>) {
    let text = json!({"type": "string"});
    let kind = json!({"type": "object", "properties": {"type": text}, "required": ["type"]});
    let drivers = json!({"type": "array", "items": {"type": "object"}});
    let detail = json!({"type": "object", "properties": {"type": text, "drivers": drivers}});
    let many = json!({"type": "array", "items": kind});
    let list = get(
        "List the kinds of rules that a QoS policy may have.",
        "rule_types",
        &many,
    );
    let show = get(
        "Show which values they may have; an admin's.",
        "rule_type",
        &detail,
    );
    paths.insert("/v2.0/qos/rule-types".to_owned(), json!({"get": list}));
    let one = json!({"get": show, "parameters": parameters()});
    paths.insert("/v2.0/qos/rule-types/{id}".to_owned(), one);
}

/// Who provides services: there is no choice.
fn service_providers() -> Value {
    let many = json!({"type": "array", "items": {"type": "object"}});
    json!({"get": {
        "summary": "List who provides services: always empty.",
        "responses": {
            "200": described(wrapped("service_providers", &many)),
            "401": unauthenticated(),
            "default": {"$ref": "#/components/responses/Refused"},
        },
    }})
}

fn components() -> Value {
    let text = json!({"type": "string"});
    let inner = json!({
        "type": "object",
        "properties": {"type": text, "message": text, "detail": text},
        "required": ["type", "message", "detail"],
    });
    let mut refused = wrapped("NeutronError", &inner);
    if let Some(object) = refused.as_object_mut() {
        object.insert("description".to_owned(), json!("refused"));
    }
    let told = json!({
        "type": "object",
        "properties": {"code": {"type": "integer"}, "title": text, "message": text},
        "required": ["code", "title", "message"],
    });
    let mut unauthenticated = wrapped("error", &told);
    if let Some(object) = unauthenticated.as_object_mut() {
        object.insert(
            "description".to_owned(),
            json!("no token, or none that is good"),
        );
    }
    let shown = |spec: &&Spec| {
        let schema = object(spec, |field| field.read != Policy::Nobody);
        (spec.singular.to_owned(), schema)
    };
    json!({
        "schemas": REGISTRY.iter().map(shown).collect::<Map<String, Value>>(),
        "responses": {"Refused": refused, "Unauthenticated": unauthenticated},
        "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}},
    })
}

/// Who is who, and may do what.
fn identity(paths: &mut Map<String, Value>) {
    for operation in super::keystone::operations() {
        let answer = match &operation.answered {
            Some((key, inner)) => described(wrapped(key, inner)),
            None => json!({"description": "done"}),
        };
        let mut told = json!({
            "summary": operation.summary,
            "tags": ["identity"],
            "responses": {
                operation.success.to_string(): answer,
                "default": {"$ref": "#/components/responses/Unauthenticated"},
            },
        });
        if let Some(told) = told.as_object_mut() {
            if let Some(asked) = &operation.asked {
                told.insert("requestBody".to_owned(), body(content(asked)));
            }
            if operation.open {
                told.insert("security".to_owned(), json!([]));
            }
        }
        let mut item = Map::from_iter([(operation.method.to_owned(), told)]);
        let names = operation.path.split('/');
        let names = names.filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameter = |name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
        let parameters: Vec<Value> = names.map(parameter).collect();
        if !parameters.is_empty() {
            item.insert("parameters".to_owned(), Value::Array(parameters));
        }
        let there = paths
            .entry(operation.path)
            .or_insert_with(|| Value::Object(Map::new()));
        if let Some(there) = there.as_object_mut() {
            there.extend(item);
        }
    }
}

/// What the key manager takes.
fn keys(paths: &mut Map<String, Value>) {
    let text = json!({"type": "string"});
    let fault = json!({
        "type": "object",
        "properties": {"code": {"type": "integer"}, "title": text, "description": text},
        "required": ["code", "title", "description"],
    });
    let mut refused = content(&fault);
    if let Some(refused) = refused.as_object_mut() {
        refused.insert("description".to_owned(), json!("refused"));
    }
    for (path, method, summary, asked, success) in super::keys::operations() {
        let mut told = json!({
            "summary": summary,
            "tags": ["keys"],
            "responses": {
                success.to_string(): {"description": "done"},
                "401": unauthenticated(),
                "default": refused,
            },
        });
        if let (Some(told), Some(asked)) = (told.as_object_mut(), &asked) {
            told.insert("requestBody".to_owned(), body(content(asked)));
        }
        let has_id = path.contains("{id}");
        let there = paths
            .entry(path)
            .or_insert_with(|| Value::Object(Map::new()));
        if let Some(there) = there.as_object_mut() {
            there.insert(method.to_owned(), told);
            if has_id {
                there.insert("parameters".to_owned(), parameters());
            }
        }
    }
}

/// The whole document.
pub fn openapi() -> Value {
    let mut paths = Map::new();
    let mut tags = Vec::new();
    for spec in REGISTRY {
        operations(spec, &mut paths);
        tags.push(json!({"name": spec.plural, "description": spec.doc}));
    }
    tags.push(json!({"name": "identity", "description": "Who is who, and may do what."}));
    identity(&mut paths);
    tags.push(json!({"name": "keys", "description": "Secrets, and what is made of them."}));
    keys(&mut paths);
    paths.insert("/v2.0/overweave/backup".to_owned(), backup());
    rule_types(&mut paths);
    told(&mut paths);
    bindings(&mut paths);
    served(&mut paths);
    paths.insert("/v2.0/service-providers".to_owned(), service_providers());
    paths.insert(
        "/v2.0/auto-allocated-topology/{project}".to_owned(),
        auto_allocated(),
    );
    for path in ["/v2.0/floatingip_pools", "/v2.0/floatingip-pools"] {
        paths.insert(path.to_owned(), floating_ip_pools());
    }
    paths.insert("/v2.0/availability_zones".to_owned(), availability_zones());
    paths.insert("/v2.0/overweave/metering-sums".to_owned(), metering_sums());
    json!({
        "openapi": "3.1.0",
        "info": {"title": "overweave", "version": env!("CARGO_PKG_VERSION")},
        "security": [{"token": []}],
        "tags": tags,
        "paths": paths,
        "components": components(),
    })
}

/// GET /openapi.json
pub(super) async fn document() -> Response<Body> {
    super::error::respond(StatusCode::OK, &openapi())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|inner| references(inner, found));
            }
            Value::Array(list) => list.iter().for_each(|inner| references(inner, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn the_document_has_what_the_tables_allow_and_refers_to_what_is_there() {
        let document = openapi();
        for spec in REGISTRY {
            let many = format!("/v2.0/{}", spec.path);
            for (verb, path, method) in [
                (Verb::Read, many.clone(), "get"),
                (Verb::Create, many.clone(), "post"),
                (Verb::Read, format!("{many}/{{id}}"), "get"),
                (Verb::Update, format!("{many}/{{id}}"), "put"),
                (Verb::Delete, format!("{many}/{{id}}"), "delete"),
            ] {
                let operation = document["paths"][&path].get(method);
                assert_eq!(operation.is_some(), spec.allows(verb), "{method} {path}");
                if let Some(operation) = operation {
                    let responses = operation["responses"].as_object().unwrap();
                    assert!(responses.keys().any(|status| status.starts_with('2')));
                }
            }
        }
        for spec in REGISTRY {
            for action in spec.actions {
                let path = format!("/v2.0/{}/{{id}}/{}", spec.path, action.name);
                let method = match action.how {
                    How::Change => "put",
                    How::Look => "get",
                };
                let operation = &document["paths"][&path][method];
                let success = action.success.to_string();
                assert!(operation["responses"].get(&success).is_some(), "{path}");
            }
        }
        for (spec, part) in REGISTRY
            .iter()
            .flat_map(|s| s.parts.iter().map(move |p| (s, p)))
        {
            let many = format!("/v2.0/{}/{{id}}/{}", spec.path, part.plural);
            let one = format!("{many}/{{part}}");
            let aliases = part.alias.map_or(&[][..], |(_, paths)| paths);
            let aliases = aliases.iter().map(|path| format!("/v2.0/{path}/{{part}}"));
            for one in aliases.chain([one]) {
                for method in ["get", "put", "delete"] {
                    assert!(document["paths"][&one].get(method).is_some(), "{one}");
                }
            }
            assert!(document["paths"][&many].get("post").is_some(), "{many}");
        }
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > REGISTRY.len());
        for reference in found {
            let there = document.pointer(reference.trim_start_matches('#'));
            assert!(there.is_some(), "{reference}");
        }
    }
}
