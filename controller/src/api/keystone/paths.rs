//! Which requests does the identity API take?
//!
//! One table, for who asks by a method that a path does not have, and for the document.
//!
//! # References
//! RFC 9110 §9.3.2, §10.2.1, §15.5.6.

use super::{Fault, finish};
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, Response, StatusCode, header},
    middleware::Next,
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::LazyLock};

/// What a body may name: longer is refused.
const LONGEST: usize = 255;

/// A request that is taken.
#[derive(Debug)]
pub(in crate::api) struct Operation {
    pub(in crate::api) path: String,
    /// In small letters.
    pub(in crate::api) method: &'static str,
    pub(in crate::api) summary: String,
    /// What its body is.
    pub(in crate::api) asked: Option<Value>,
    pub(in crate::api) success: u16,
    /// Under which key the answer is, and what; `None`: it has none.
    pub(in crate::api) answered: Option<(&'static str, Value)>,
    /// May anybody ask?
    pub(in crate::api) open: bool,
}

fn operation(
    method: &'static str,
    path: impl Into<String>,
    summary: impl Into<String>,
) -> Operation {
    Operation {
        path: path.into(),
        method,
        summary: summary.into(),
        asked: None,
        success: if method == "get" { 200 } else { 204 },
        answered: None,
        open: false,
    }
}

impl Operation {
    fn told(mut self, key: &'static str, what: Value) -> Self {
        self.answered = Some((key, what));
        self
    }

    fn asks(mut self, what: Value, success: u16) -> Self {
        (self.asked, self.success) = (Some(what), success);
        self
    }

    fn for_all(mut self) -> Self {
        self.open = true;
        self
    }
}

fn within(key: &str, inner: &Value) -> Value {
    json!({"type": "object", "properties": {key: inner}, "required": [key]})
}

fn row() -> Value {
    json!({
        "type": "object",
        "properties": {"id": {"type": "string"}, "links": {"type": "object"}},
        "required": ["id"],
    })
}

fn rows(of: &Value) -> Value {
    json!({"type": "array", "items": of})
}

/// What a body says of a named record; one that is made has a name.
fn record(new: bool, moves: bool) -> Value {
    let text =
        json!({"type": ["string", "null"], "maxLength": LONGEST, "pattern": "^[^\\u0000]*$"});
    let mut fields = Map::new();
    for name in ["description", "email", "default_project_id", "password"] {
        fields.insert(name.to_owned(), text.clone());
    }
    if moves {
        fields.insert("domain_id".to_owned(), text);
    }
    let kind = if new {
        json!("string")
    } else {
        json!(["string", "null"])
    };
    let name = json!({
        "type": kind, "minLength": 1, "maxLength": LONGEST, "pattern": "^[^\\u0000]*[^\\u0000\\s][^\\u0000]*$",
    });
    fields.insert("name".to_owned(), name);
    let also = json!({"enum": [0, 1, "0", "1", "true", "false", "True", "False"]});
    fields.insert(
        "enabled".to_owned(),
        json!({"anyOf": [{"type": "boolean"}, also]}),
    );
    let mut whole = json!({"type": "object", "properties": fields});
    if let Some(whole) = whole.as_object_mut().filter(|_| new) {
        whole.insert("required".to_owned(), json!(["name"]));
    }
    whole
}

/// Logging in, and what is known of who did.
fn tokens(all: &mut Vec<Operation>) {
    let (text, object) = (json!({"type": "string"}), json!({"type": "object"}));
    let methods = json!({"type": "array", "items": text, "minItems": 1});
    let auth = within("identity", &within("methods", &methods));
    let path = "/identity/v3/auth/tokens";
    let issued = operation(
        "post",
        path,
        "Log in: the token is in the header X-Subject-Token.",
    );
    let issued = issued
        .asks(within("auth", &auth), 201)
        .told("token", object.clone());
    all.push(issued.for_all());
    let shown = operation("get", path, "Show the token of the header X-Subject-Token.");
    all.push(shown.told("token", object.clone()));
    all.push(operation(
        "delete",
        path,
        "Revoke the token of the header X-Subject-Token.",
    ));
    for (what, words) in [
        ("catalog", "the services and where they are"),
        ("projects", "the projects in which the caller has a role"),
        ("domains", "the domains in which the caller has a role"),
        ("system", "the roles over all: none"),
    ] {
        let path = format!("/identity/v3/auth/{what}");
        let list = operation("get", path, format!("List {words}."));
        all.push(list.told(what, rows(&object)));
    }
}

/// What is kept under a name, and what it is made of.
fn records(all: &mut Vec<Operation>) {
    for (many, one) in [
        ("projects", "project"),
        ("users", "user"),
        ("groups", "group"),
        ("domains", "domain"),
        ("roles", "role"),
    ] {
        let path = format!("/identity/v3/{many}");
        let item = format!("{path}/{{id}}");
        let moves = !matches!(one, "domain" | "role");
        let [new, changed] = [true, false].map(|new| within(one, &record(new, moves)));
        let list = operation("get", path.as_str(), format!("List {many}."));
        all.push(list.told(many, rows(&row())));
        let make = operation("post", path, format!("Make a {one}."));
        all.push(make.asks(new, 201).told(one, row()));
        let show = operation("get", item.as_str(), format!("Show a {one}."));
        all.push(show.told(one, row()));
        let change = operation("patch", item.as_str(), format!("Change a {one}."));
        all.push(change.asks(changed, 200).told(one, row()));
        all.push(operation("delete", item, format!("Delete a {one}.")));
    }
    for (many, one) in [
        ("services", "service"),
        ("endpoints", "endpoint"),
        ("regions", "region"),
    ] {
        let path = format!("/identity/v3/{many}");
        let list = operation("get", path.as_str(), format!("List {many}; an admin's."));
        all.push(list.told(many, rows(&row())));
        let show = operation(
            "get",
            format!("{path}/{{id}}"),
            format!("Show a {one}; an admin's."),
        );
        all.push(show.told(one, row()));
    }
}

/// Who is in what, and has which role where.
fn relations(all: &mut Vec<Operation>) {
    let list = |path: &str, many: &'static str, words: &str| {
        operation("get", path, format!("List {words}."))
            .told(many, rows(&json!({"type": "object"})))
    };
    let of_user = "/identity/v3/users/{user}";
    all.push(list(
        &format!("{of_user}/projects"),
        "projects",
        "the projects in which a user has a role",
    ));
    all.push(list(
        &format!("{of_user}/groups"),
        "groups",
        "the groups that a user is in",
    ));
    let members = "/identity/v3/groups/{group}/users";
    all.push(list(members, "users", "the users of a group"));
    all.push(list(
        "/identity/v3/role_assignments",
        "role_assignments",
        "who has which role where",
    ));
    let mut held = vec![(
        format!("{members}/{{user}}"),
        "a user in a group".to_owned(),
    )];
    for place in ["project", "domain"] {
        for actor in ["user", "group"] {
            let path = format!("/identity/v3/{place}s/{{place}}/{actor}s/{{actor}}/roles");
            all.push(list(
                &path,
                "roles",
                &format!("the roles of a {actor} in a {place}"),
            ));
            held.push((
                format!("{path}/{{role}}"),
                format!("a role of a {actor} in a {place}"),
            ));
        }
    }
    for (path, words) in held {
        let is = operation("get", path.as_str(), format!("Is there {words}?"));
        all.push(Operation { success: 204, ..is });
        all.push(operation(
            "put",
            path.as_str(),
            format!("Let there be {words}."),
        ));
        all.push(operation(
            "delete",
            path,
            format!("Let there not be {words}."),
        ));
    }
    let text = json!({"type": "string"});
    let words = json!({
        "type": "object",
        "properties": {"original_password": text, "password": text},
        "required": ["original_password", "password"],
    });
    let password = operation(
        "post",
        format!("{of_user}/password"),
        "Change the own password.",
    );
    all.push(password.asks(within("user", &words), 204).for_all());
    let (one, many) = ("application_credential", "application_credentials");
    let path = format!("{of_user}/{many}");
    let name = json!({"type": "string", "minLength": 1, "maxLength": LONGEST});
    all.push(list(&path, many, "a user's application credentials"));
    let make = operation("post", path.as_str(), "Make one for oneself.");
    all.push(
        make.asks(within(one, &within("name", &name)), 201)
            .told(one, row()),
    );
    let path = format!("{path}/{{id}}");
    all.push(operation("get", path.as_str(), "Show an application credential.").told(one, row()));
    all.push(operation(
        "delete",
        path,
        "Delete an application credential.",
    ));
}

/// All that is taken.
pub(in crate::api) fn operations() -> Vec<Operation> {
    let object = json!({"type": "object"});
    let versions = operation("get", "/identity", "Which versions are there?");
    let versions = Operation {
        success: 300,
        ..versions.told("versions", object.clone())
    };
    let version = operation("get", "/identity/v3", "Which version is it?").told("version", object);
    let mut all = vec![versions.for_all(), version.for_all()];
    tokens(&mut all);
    records(&mut all);
    relations(&mut all);
    all
}

/// The methods of each path.
static METHODS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let mut methods: BTreeMap<String, String> = BTreeMap::new();
    for Operation { path, method, .. } in operations() {
        let own = methods.entry(path).or_default();
        let method = method.to_ascii_uppercase();
        let head = if method == "GET" { ", HEAD" } else { "" };
        let comma = if own.is_empty() { "" } else { ", " };
        own.extend([comma, &method, head]);
    }
    methods
});

/// Is this path one of that form?
fn fits(form: &str, path: &str) -> bool {
    let mut path = path.split('/');
    let all = form.split('/').all(|wanted| {
        let here = path.next();
        here.is_some_and(|here| here == wanted || wanted.starts_with('{') && !here.is_empty())
    });
    all && path.next().is_none()
}

/// The methods of a path, if it is one of those.
fn allowed(path: &str) -> Option<&'static str> {
    let path = path.trim_end_matches('/');
    let found = METHODS.get(path);
    let found = found.or_else(|| {
        METHODS
            .iter()
            .find(|(form, _)| fits(form, path))
            .map(|f| f.1)
    });
    found.map(String::as_str)
}

/// Refuses a method that the path does not have, and says which it has. HEAD is GET without the body.
pub(super) async fn by_method(mut request: Request<Body>, next: Next) -> Response<Body> {
    if let Some(methods) = allowed(request.uri().path())
        && !methods
            .split(", ")
            .any(|method| method == request.method().as_str())
    {
        let mut response = finish(Err(Fault(
            StatusCode::METHOD_NOT_ALLOWED,
            "the method is not allowed here".to_owned(),
        )));
        let methods = HeaderValue::from_static(methods);
        response.headers_mut().insert(header::ALLOW, methods);
        return response;
    }
    let bare = request.method() == Method::HEAD;
    if bare {
        *request.method_mut() = Method::GET;
    }
    let mut response = next.run(request).await;
    if bare {
        *response.body_mut() = Body::empty();
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_by_its_form() {
        for (path, methods) in [
            ("/identity/v3/projects", Some("GET, HEAD, POST")),
            ("/identity/v3/", Some("GET, HEAD")),
            ("/identity/v3/projects/x", Some("GET, HEAD, PATCH, DELETE")),
            ("/identity/v3/services/x", Some("GET, HEAD")),
            ("/identity/v3/users/x/password", Some("POST")),
            (
                "/identity/v3/groups/x/users/y",
                Some("GET, HEAD, PUT, DELETE"),
            ),
            ("/identity/v3/groups//users/y", None),
            ("/identity/v3/projects/x/y", None),
            ("/identity/v3/nothing", None),
        ] {
            assert_eq!(allowed(path), methods, "{path}");
        }
    }
}
