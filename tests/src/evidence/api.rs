//! How is the API asked?
//!
//! Each request goes through the API's own routes; when the answer is there, all hosts have what follows from it. What a create made is
//! remembered, so that it can be taken away, and what a write named is, so that an entry can't claim what it did not ask for.

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, Request},
};
use controller::{resource::Spec, resources::REGISTRY};
use serde_json::{Map, Value, json};
use tower::ServiceExt as _;

use super::{people::ADMIN, region::Region};

/// The table of a resource, by its singular name.
pub fn spec(kind: &str) -> &'static Spec {
    let found = REGISTRY.iter().find(|spec| spec.singular == kind);
    found.unwrap_or_else(|| panic!("no resource is called {kind}"))
}

/// The id of an answer's object.
pub fn id(object: &Value) -> &str {
    object["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{object} has no id"))
}

/// The first object with the second's keys over it.
pub fn with(base: &Value, over: &Value) -> Value {
    let mut base = base.clone();
    let (Value::Object(into), Value::Object(over)) = (&mut base, over) else {
        panic!("{base} and {over} are no objects");
    };
    into.extend(over.clone());
    base
}

fn attributes(value: &Value) -> Vec<String> {
    let objects = match value {
        Value::Object(_) => std::slice::from_ref(value),
        Value::Array(all) => all,
        _ => &[],
    };
    let maps = objects.iter().filter_map(Value::as_object);
    maps.flat_map(Map::keys).cloned().collect()
}

impl Region {
    /// A request as whoever has this token, with headers besides; status, headers, body.
    pub fn request(
        &mut self,
        token: &str,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: &Value,
    ) -> (u16, HeaderMap, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "region.example:9696")
            .header("x-auth-token", token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let text = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        let request = request.body(text).unwrap();
        let api = self.api.clone();
        let (status, headers, bytes) = self.runtime.block_on(async {
            let (parts, body) = api.oneshot(request).await.unwrap().into_parts();
            let bytes = to_bytes(body, usize::MAX).await.unwrap();
            (parts.status.as_u16(), parts.headers, bytes)
        });
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        assert!(status < 500, "{method} {path} {body}: {status} {answer}");
        self.note((method, path, status), body, &answer);
        self.converge();
        (status, headers, answer)
    }

    /// Remembers what was made, and what was named.
    fn note(&mut self, (method, path, status): (&str, &str, u16), asked: &Value, answer: &Value) {
        let bare = path.split('?').next().unwrap_or_default();
        if status == 201 {
            let made = answer.as_object().and_then(|answer| answer.values().next());
            let all = match made {
                Some(Value::Array(all)) => all.clone(),
                Some(one) => vec![one.clone()],
                None => vec![],
            };
            for object in all.iter().filter_map(|object| object["id"].as_str()) {
                self.made.push(format!("{bare}/{object}"));
            }
        }
        let verb = match method {
            "POST" => "create",
            "PUT" => "update",
            _ => return,
        };
        let last = bare.rsplit('/').next().unwrap_or_default();
        let Some(asked) = asked.as_object().filter(|_| status < 300) else {
            return;
        };
        for (key, value) in asked {
            // An action's arguments belong to the action; some have no object around them.
            let acts = REGISTRY.iter().flat_map(|spec| spec.actions);
            let action = acts.filter(|action| action.name == last).count() > 0;
            let of = if action { last } else { key };
            let names = match value {
                Value::Object(_) => attributes(value),
                Value::Array(all) if all.iter().all(Value::is_object) && !action => {
                    attributes(value)
                }
                _ => vec![key.clone()],
            };
            let plural = REGISTRY.iter().find(|spec| spec.plural == of);
            let of = plural.map_or(of, |spec| spec.singular);
            for name in names {
                self.named.insert((of.to_owned(), name, verb));
            }
        }
    }

    /// The same, without headers; status and body.
    pub fn call(&mut self, token: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, answer) = self.request(token, (method, path), &[], body);
        (status, answer)
    }

    /// A request of the admin's that succeeds; the body.
    pub fn ok(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(ADMIN.0, method, path, body);
        assert!(status < 300, "{method} {path} {body}: {status} {answer}");
        answer
    }

    /// What a member or the admin reads below `/v2.0/`.
    pub fn read(&mut self, token: &str, path: &str) -> Value {
        let (status, answer) = self.call(token, "GET", &format!("/v2.0/{path}"), &Value::Null);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// The names in a list that is found below `/v2.0/`, sorted.
    pub fn names(&mut self, token: &str, path: &str) -> Vec<String> {
        let mut names = self.listed(token, path);
        names.sort();
        names
    }

    /// The names in a list that is found below `/v2.0/`, in its order.
    pub fn listed(&mut self, token: &str, path: &str) -> Vec<String> {
        let answer = self.read(token, path);
        let mut lists = answer.as_object().unwrap().values();
        let list = lists.find_map(Value::as_array).unwrap();
        let name = |row: &Value| row["name"].as_str().unwrap_or_default().to_owned();
        list.iter().map(name).collect()
    }

    /// Makes an object as the admin.
    pub fn make(&mut self, kind: &str, body: &Value) -> Value {
        self.make_as(ADMIN.0, kind, body)
    }

    /// Makes an object.
    pub fn make_as(&mut self, token: &str, kind: &str, body: &Value) -> Value {
        let path = format!("/v2.0/{}", spec(kind).path);
        let (status, answer) = self.call(token, "POST", &path, &json!({kind: body}));
        assert_eq!(status, 201, "POST {path} {body}: {answer}");
        answer[kind].clone()
    }

    /// Changes an object as the admin.
    pub fn set(&mut self, kind: &str, id: &str, body: &Value) -> Value {
        let path = format!("/v2.0/{}/{id}", spec(kind).path);
        let answer = self.ok("PUT", &path, &json!({kind: body}));
        answer[kind].clone()
    }

    /// Does something with an object as the admin.
    pub fn act(&mut self, kind: &str, id: &str, action: &str, body: &Value) -> Value {
        let path = format!("/v2.0/{}/{id}/{action}", spec(kind).path);
        self.ok("PUT", &path, body)
    }

    /// An object as the admin sees it.
    pub fn show(&mut self, kind: &str, id: &str) -> Value {
        let answer = self.read(ADMIN.0, &format!("{}/{id}", spec(kind).path));
        answer[kind].clone()
    }

    /// One attribute of an object as text, as the admin sees it.
    pub fn shown(&mut self, kind: &str, id: &str, attribute: &str) -> String {
        self.show(kind, id)[attribute].to_string()
    }

    /// Takes an object away as the admin.
    pub fn remove(&mut self, kind: &str, id: &str) {
        self.ok(
            "DELETE",
            &format!("/v2.0/{}/{id}", spec(kind).path),
            &Value::Null,
        );
    }

    /// Takes away whatever was made since this was last called; it must be possible.
    pub fn clear(&mut self) {
        let made = std::mem::take(&mut self.made);
        let mut left: Vec<String> = made.into_iter().rev().collect();
        // What is used goes after who uses it; ports of routers go with their interfaces.
        for _ in 0..4 {
            self.detach();
            left.retain(|path| {
                let (status, _) = self.call(ADMIN.0, "DELETE", path, &Value::Null);
                !matches!(status, 200..=204 | 404)
            });
            if left.is_empty() {
                self.made.clear();
                return;
            }
        }
        let why = left
            .iter()
            .map(|path| self.call(ADMIN.0, "DELETE", path, &Value::Null));
        panic!("what an entry made stays: {:?}", why.collect::<Vec<_>>());
    }

    /// Takes routers' interfaces and routes away.
    fn detach(&mut self) {
        let ports = self.read(ADMIN.0, "ports?device_owner=network:router_interface");
        for port in ports["ports"].as_array().unwrap() {
            let router = port["device_id"].as_str().unwrap();
            let path = format!("/v2.0/routers/{router}");
            self.call(ADMIN.0, "PUT", &path, &json!({"router": {"routes": []}}));
            let by = json!({"port_id": port["id"]});
            let path = format!("{path}/remove_router_interface");
            self.call(ADMIN.0, "PUT", &path, &by);
        }
    }
}
