//! Where does Octavia's API stand, and what are its errors like?
//!
//! Load balancers, listeners and pools are resources as any other, below `/v2.0/lbaas/`. Octavia's clients ask below `/load-balancer/v2.0/` or
//! `/load-balancer/v2/`: a request there goes the same way, and what refuses it is told in Octavia's words.

mod graph;
mod quotas;

use crate::{
    api::{
        Api, LARGEST_BODY,
        body::NOT_ITS_PROJECT,
        error::{OfOthers, respond},
        finish,
    },
    refusal::Refusal,
    resource::{Field, Resource as _, Spec},
    resources::{LoadBalancer, REGISTRY, lbaas::PROVIDER},
    rules::Given,
};
use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{Method, Request, Response, StatusCode, Uri, uri::PathAndQuery},
    routing::any,
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// Where the collections are.
const ROOTS: &[&str] = &["/load-balancer/v2.0", "/load-balancer/v2"];
/// The newest minor version whose requests are understood: with it go all before it, and what of them can't be had is refused as such.
const VERSION: u8 = 25;
/// When that was published.
const UPDATED: &str = "2021-10-02T00:00:00Z";
/// What a refusal may hold: its texts are of this program's making.
const LONGEST_REFUSAL: usize = 1024 * 1024;

/// The root of the collection of a resource, with the slash.
pub(super) fn root(spec: &Spec) -> &'static str {
    if spec.path.starts_with("lbaas/") {
        "/load-balancer/v2.0/"
    } else {
        "/v2.0/"
    }
}

/// In which way an object is to be deleted: a load balancer with all that hangs on it, if the query says so.
pub(super) fn given(spec: &Spec, pairs: &[(String, String)]) -> Given {
    let asked =
        |(name, value): &(String, String)| name == "cascade" && value.eq_ignore_ascii_case("true");
    if spec.storage == LoadBalancer::SPEC.storage && pairs.iter().any(asked) {
        Given::from(["cascade".to_owned()])
    } else {
        Given::new()
    }
}

/// The whole API with Octavia's paths before it.
pub(super) fn mount(api: &Api, whole: Router) -> Router {
    let mut router = Router::new();
    for path in ["/load-balancer", "/load-balancer/"] {
        let api = api.clone();
        router = router.route(
            path,
            any(move |request| async move { versions(&api, &request) }),
        );
    }
    for root in ROOTS {
        for told in TOLD {
            let api = api.clone();
            router = router.route(
                &format!("{root}/lbaas/{}", told.0),
                any(move |request: Request<Body>| async move {
                    let answer = api.get(request, |asked| {
                        if asked.caller.is_usual() {
                            return Ok(respond(StatusCode::OK, &told.1()));
                        }
                        Err(Refusal::denied(format!("rule:get_{}", told.0)).into())
                    });
                    in_its_words(answer.await).await
                }),
            );
        }
        let created = (api.clone(), whole.clone());
        router = router.route(
            &format!("{root}/lbaas/loadbalancers"),
            any(move |request: Request<Body>| async move {
                let (api, whole) = created;
                in_its_words(balancers(&api, whole, request, root).await).await
            }),
        );
        let limited = api.clone();
        router = router.route(
            &format!("{root}/lbaas/quotas"),
            any(move |request: Request<Body>| async move {
                let get = limited.get(request, |asked| quotas::list(&limited, asked));
                in_its_words(get.await).await
            }),
        );
        let limited = api.clone();
        router = router.route(
            &format!("{root}/lbaas/quotas/{{project}}"),
            any(
                move |Path(project): Path<String>, request: Request<Body>| async move {
                    let method = request.method().clone();
                    let answer = async {
                        let asked = limited.read(request).await?;
                        quotas::one(&limited, &project, &method, &asked).await
                    };
                    in_its_words(finish(answer.await)).await
                },
            ),
        );
        let whole = whole.clone();
        router = router.route(
            &format!("{root}/lbaas/{{*rest}}"),
            any(move |mut request: Request<Body>| async move {
                if request.method() == Method::PUT {
                    request = by_default(request, root).await;
                }
                let Ok(response) = whole.oneshot(moved(request, root)).await;
                in_its_words(response).await
            }),
        );
    }
    router.fallback_service(whole)
}

/// The same update, with the default of each field that it says is null and that can't be: so Octavia's clients take back what they said.
async fn by_default(request: Request<Body>, root: &str) -> Request<Body> {
    let path = request.uri().path();
    let path = path.strip_prefix(root).unwrap_or(path);
    let Some((key, fields)) = changed(path.trim_matches('/')) else {
        return request;
    };
    let (parts, body) = request.into_parts();
    // One that is too long is refused where it is read again: of it nothing is left.
    let bytes = axum::body::to_bytes(body, LARGEST_BODY).await;
    let bytes = bytes.unwrap_or_default();
    let mut whole: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut is_other = false;
    let object = whole.get_mut(key).and_then(Value::as_object_mut);
    for (name, value) in object.into_iter().flatten() {
        let field = fields.iter().find(|field| field.name == *name);
        if let Some(field) = field.filter(|field| value.is_null() && !field.nullable) {
            *value = field.absent.value();
            is_other = true;
        }
    }
    let bytes = if is_other {
        whole.to_string().into()
    } else {
        bytes
    };
    Request::from_parts(parts, Body::from(bytes))
}

/// What an update on a path changes: its key in the body, and its fields.
fn changed(path: &str) -> Option<(&'static str, Vec<&'static Field>)> {
    REGISTRY.iter().find_map(|spec| {
        let spec: &'static Spec = spec;
        let below = path.strip_prefix(spec.path)?.strip_prefix('/')?;
        let mut below = below.split('/').skip(1);
        match (below.next(), below.next()) {
            (None, _) => Some((spec.singular, spec.fields().collect())),
            (Some(parts), Some(_)) => {
                let part = spec.parts.iter().find(|part| part.plural == parts)?;
                Some((part.singular, part.fields.iter().collect()))
            }
            (Some(_), None) => None,
        }
    })
}

/// The collection of load balancers: a create may nest what hangs on one.
async fn balancers(api: &Api, whole: Router, request: Request<Body>, root: &str) -> Response<Body> {
    if request.method() != Method::POST {
        let Ok(response) = whole.oneshot(moved(request, root)).await;
        return response;
    }
    let (parts, body) = request.into_parts();
    // One that is too long is refused where it is read again: of it nothing is left.
    let bytes = axum::body::to_bytes(body, LARGEST_BODY).await;
    let bytes = bytes.unwrap_or_default();
    let nested = graph::is_nested(&bytes);
    let request = Request::from_parts(parts, Body::from(bytes));
    if !nested {
        let Ok(response) = whole.oneshot(moved(request, root)).await;
        return response;
    }
    let answer = async {
        let asked = api.read(request).await?;
        graph::create(api, &asked).await
    };
    finish(answer.await)
}

type Tell = fn() -> Value;

/// What can be listed and is no resource.
const TOLD: &[(&str, Tell)] = &[
    ("providers", || {
        json!({"providers": [{
            "name": PROVIDER,
            "description": "Layer 4 in each client's own switch",
        }]})
    }),
    // There is one way to balance, and one place: nobody can choose.
    ("flavors", || json!({"flavors": []})),
    ("availability_zones", || json!({"availability_zones": []})),
];

fn versions(api: &Api, request: &Request<Body>) -> Response<Body> {
    let href = format!("{}/load-balancer/v2", api.origin(request.headers()));
    let links = json!([{"rel": "self", "href": href}]);
    let versions: Vec<Value> = (0..=VERSION)
        .map(|minor| {
            let status = if minor == VERSION {
                "CURRENT"
            } else {
                "SUPPORTED"
            };
            json!({
                "id": format!("v2.{minor}"), "status": status, "updated": UPDATED, "links": links,
            })
        })
        .collect();
    finish(Ok(respond(StatusCode::OK, &json!({"versions": versions}))))
}

/// The same request, where the collections are.
fn moved(mut request: Request<Body>, root: &str) -> Request<Body> {
    let uri = request.uri();
    let path = uri.path();
    let path = path.strip_prefix(root).unwrap_or(path);
    let text = match uri.query() {
        Some(query) => format!("/v2.0{path}?{query}"),
        None => format!("/v2.0{path}"),
    };
    if let Ok(path_and_query) = text.parse::<PathAndQuery>() {
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(path_and_query);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    // What this path's own match left there would be taken for a part of the next one's.
    request.extensions_mut().clear();
    request
}

/// A refusal as Octavia tells it: whose fault, and what. A token's is Keystone's to tell.
async fn in_its_words(response: Response<Body>) -> Response<Body> {
    let mut status = response.status();
    if status.as_u16() < 400 || status == StatusCode::UNAUTHORIZED {
        return response;
    }
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, LONGEST_REFUSAL).await;
    let bytes = bytes.unwrap_or_default();
    let told: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let said = |name: &str| told.get("NeutronError")?.get(name)?.as_str();
    let (Some(kind), Some(text)) = (said("type"), said("message")) else {
        return Response::from_parts(parts, Body::from(bytes));
    };
    let mut text = text.replace(" could not be found.", " not found.");
    // Octavia says of what is another's that it is.
    if parts.extensions.get::<OfOthers>().is_some() || text == NOT_ITS_PROJECT {
        status = StatusCode::FORBIDDEN;
        "Policy does not allow this request to be performed.".clone_into(&mut text);
    }
    if kind == "OverQuota" {
        status = StatusCode::FORBIDDEN;
        text = text.replace("Quota exceeded", "Quota has been met");
    }
    let code = if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
        "Server"
    } else {
        "Client"
    };
    let fault = json!({"faultcode": code, "faultstring": text, "debuginfo": null});
    let mut answer = respond(status, &fault);
    for name in ["x-openstack-request-id", "allow"] {
        if let Some(value) = parts.headers.get(name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    answer
}
