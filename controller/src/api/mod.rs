//! How does a request walk?
//!
//! `identity → body → handler → rules → store`: who asks ([`crate::identity`]), is the body
//! what the table admits (`body`), one of the handlers (`handlers`), the rules inside the store's
//! transaction, and the answer as this caller may see it (`scene`). Routes come from the
//! [`REGISTRY`]; what is no resource (versions, extensions, quotas, tags, the identity API, metrics)
//! has a file each.

mod auto_allocated;
mod backup;
mod bindings;
mod body;
mod bundles;
mod error;
mod extensions;
mod handlers;
mod judge;
mod keys;
mod keystone;
mod metering_sums;
mod octavia;
mod openapi;
mod parts;
mod pools;
mod qos;
mod query;
mod quotas;
mod rights;
mod scene;
mod schedules;
mod serve;
mod service_providers;
mod tags;
#[cfg(test)]
mod tests;
mod told;
mod zones;

pub(crate) use auto_allocated::Topology;
pub(crate) use body::words;
pub use error::ApiError;
pub use judge::{Judge, JudgeError, NoAnswer};
pub use openapi::openapi;
pub use query::Query;
pub use scene::Scene;
#[cfg(test)]
pub(crate) use scene::permits;
pub(crate) use serve::acceptor;
pub use serve::{Limits, serve};

use crate::{
    Core, identity,
    refusal::Refusal,
    resource::{Action, How, Part, Spec, Verb},
    resources::REGISTRY,
    rules::Caller,
    stats::Stats,
};
use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, Path, Query as Pairs, State},
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header},
    middleware::{self, Next},
    routing::{any, get},
};
use error::{keystone_error, respond, respond_empty};
use handlers::{Answer, Asked};
use parts::Place;
use percent_encoding::percent_decode_str;
use schedules::SERVED;
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use told::TOLD;

/// Bytes that a body may have: a bulk create of several thousand ports.
const LARGEST_BODY: usize = 8 * 1024 * 1024;

/// Passwords that are hashed at once.
const LOGINS: usize = 4;
/// How long a body may take: a slow one must not hold a connection for ever.
const BODY_TIME: Duration = Duration::from_mins(1);

/// The API: what its handlers share.
#[derive(Debug, Clone)]
pub struct Api {
    /// The controller.
    pub core: Arc<Core>,
    /// Its counters.
    pub stats: Arc<Stats>,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Turns at the passwords: each hash takes 19 MiB and a core for a while.
    logins: Arc<Semaphore>,
    /// One backup at a time.
    backups: Arc<Semaphore>,
    /// One request at a time reads what its listeners name.
    bundles: Arc<Semaphore>,
    /// The Keystone that judges tokens, where it is not the embedded one.
    judge: Option<Arc<Judge>>,
}

impl Api {
    /// The API of a controller.
    pub fn new(core: Arc<Core>, stats: Arc<Stats>, scheme: &'static str) -> Self {
        Self {
            core,
            stats,
            scheme,
            logins: Arc::new(Semaphore::new(LOGINS)),
            backups: Arc::new(Semaphore::new(1)),
            bundles: Arc::new(Semaphore::new(1)),
            judge: None,
        }
    }

    /// The same, where another Keystone judges tokens: the embedded one is not served.
    #[must_use]
    pub fn judged_by(mut self, judge: Option<Judge>) -> Self {
        self.judge = judge.map(Arc::new);
        self
    }

    /// All routes.
    pub fn router(self) -> Router {
        let mut router = Router::new()
            .route("/", any(extensions::versions))
            .route("/healthz", get(healthz))
            .route("/metrics", get(metrics))
            .route("/openapi.json", get(openapi::document))
            .route("/v2.0", any(extensions::root))
            .route("/v2.0/", any(extensions::root))
            .route("/v2.0/extensions", any(extensions::list))
            .route("/v2.0/extensions/{alias}", any(extensions::show))
            .route("/v2.0/overweave/backup", any(backup::take))
            .route("/v2.0/overweave/metering-sums", any(metering_sums::list))
            .route(
                "/v2.0/auto-allocated-topology/{project}",
                any(auto_allocated::one),
            )
            .route("/v2.0/availability_zones", any(zones::list))
            .route("/v2.0/floatingip_pools", any(pools::list))
            .route("/v2.0/floatingip-pools", any(pools::list))
            .route("/v2.0/qos/rule-types", any(qos::list))
            .route("/v2.0/qos/rule-types/{name}", any(qos::show))
            .route("/v2.0/service-providers", any(service_providers::list))
            .route("/v2.0/quotas", any(quotas::list))
            .route("/v2.0/quotas/{project}", any(quotas::one))
            .route("/v2.0/quotas/{project}/{part}", any(quotas::part));
        router = with_views(router);
        for spec in REGISTRY {
            let spec: &'static Spec = spec;
            let many = format!("/v2.0/{}", spec.path);
            let one = format!("/v2.0/{}/{{id}}", spec.path);
            router = router
                .route(
                    &many,
                    any(move |State(api): State<Api>, request| async move {
                        api.collection(spec, request).await
                    }),
                )
                .route(
                    &one,
                    any(
                        move |State(api): State<Api>, Path(id): Path<String>, request| async move {
                            api.item(spec, &id, request).await
                        },
                    ),
                );
            for action in spec.actions {
                let path = format!("{one}/{}", action.name);
                router = router.route(
                    &path,
                    any(
                        move |State(api): State<Api>, Path(id): Path<String>, request| async move {
                            api.action(spec, action, &id, request).await
                        },
                    ),
                );
            }
            for part in spec.parts {
                router = with_part(router, spec, part);
            }
            if spec.tags {
                let tags = format!("{one}/tags");
                let tag = format!("{one}/tags/{{tag}}");
                router = router
                    .route(&tags, any(move |State(api): State<Api>, Path(id): Path<String>, request| async move {
                        tags::all(&api, spec, &id, request).await
                    }))
                    .route(&tag, any(move |State(api): State<Api>, Path((id, tag)): Path<(String, String)>, request| async move {
                        tags::one(&api, spec, &id, &tag, request).await
                    }));
            }
        }
        router = router.merge(keys::routes());
        if self.judge.is_none() {
            router = router.merge(keystone::routes());
        }
        let whole = router
            .fallback(no_path)
            .layer(middleware::from_fn(readable_path))
            .with_state(self.clone());
        octavia::mount(&self, whole)
    }

    async fn collection(&self, spec: &'static Spec, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let method = request.method().clone();
        let answer = async {
            let asked = self.read(request).await?;
            match method {
                Method::GET | Method::OPTIONS if spec.allows(Verb::Read) => {
                    self.list(spec, &asked).await
                }
                Method::POST if spec.allows(Verb::Create) => self.create(spec, &asked).await,
                _ => {
                    let own = [("GET", Verb::Read), ("POST", Verb::Create)];
                    Err(ApiError::no_method(&allowed(spec, &own)))
                }
            }
        };
        let response = finish(answer.await);
        let verb = if method == Method::POST {
            "create"
        } else {
            "list"
        };
        self.stats
            .request(spec.plural, verb, response.status(), started.elapsed());
        response
    }

    async fn item(&self, spec: &'static Spec, id: &str, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let method = request.method().clone();
        let answer = async {
            let asked = self.read(request).await?;
            match method {
                Method::GET if spec.allows(Verb::Read) => self.show(spec, id, &asked).await,
                Method::PUT if spec.allows(Verb::Update) => self.update(spec, id, &asked).await,
                Method::DELETE if spec.allows(Verb::Delete) => self.delete(spec, id, &asked).await,
                _ => {
                    let own = [
                        ("GET", Verb::Read),
                        ("PUT", Verb::Update),
                        ("DELETE", Verb::Delete),
                    ];
                    Err(ApiError::no_method(&allowed(spec, &own)))
                }
            }
        };
        let response = finish(answer.await);
        let verb = match method {
            Method::PUT => "update",
            Method::DELETE => "delete",
            _ => "show",
        };
        self.stats
            .request(spec.plural, verb, response.status(), started.elapsed());
        response
    }

    async fn action(
        &self,
        spec: &'static Spec,
        action: &'static Action,
        id: &str,
        request: Request<Body>,
    ) -> Response<Body> {
        let started = Instant::now();
        let method = request.method().clone();
        let answer = async {
            let asked = self.read(request).await?;
            match (method, action.how) {
                (Method::PUT, How::Change) => self.act(spec, action, id, &asked).await,
                (Method::GET, How::Look) => self.look(spec, action, id, &asked),
                (_, How::Change) => Err(ApiError::no_method(&["PUT"])),
                (_, How::Look) => Err(ApiError::no_method(&["GET"])),
            }
        };
        let response = finish(answer.await);
        let (code, took) = (response.status(), started.elapsed());
        self.stats.request(spec.plural, action.name, code, took);
        response
    }

    async fn parts(&self, place: Place, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let method = request.method().clone();
        let answer = async {
            let asked = self.read(request).await?;
            match method {
                Method::GET => self.list_parts(&place, &asked),
                Method::POST => self.create_part(&place, &asked).await,
                Method::PUT => self.replace_parts(&place, &asked).await,
                _ if place.part.batch.is_empty() => Err(ApiError::no_method(&["GET", "POST"])),
                _ => Err(ApiError::no_method(&["GET", "POST", "PUT"])),
            }
        };
        let response = finish(answer.await);
        let verb = match method {
            Method::POST => "create",
            Method::PUT => "update",
            _ => "list",
        };
        let (code, took) = (response.status(), started.elapsed());
        self.stats.request(place.part.plural, verb, code, took);
        response
    }

    async fn part(&self, place: Place, id: &str, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let method = request.method().clone();
        let answer = async {
            let asked = self.read(request).await?;
            match method {
                Method::GET => self.show_part(&place, id, &asked),
                Method::PUT => self.update_part(&place, id, &asked).await,
                Method::DELETE => self.delete_part(&place, id, &asked).await,
                _ => Err(ApiError::no_method(&["GET", "PUT", "DELETE"])),
            }
        };
        let response = finish(answer.await);
        let verb = match method {
            Method::PUT => "update",
            Method::DELETE => "delete",
            _ => "show",
        };
        let (code, took) = (response.status(), started.elapsed());
        self.stats.request(place.part.plural, verb, code, took);
        response
    }

    /// Answers a GET by what is made of the request; what is told so has no other method.
    async fn get(
        &self,
        request: Request<Body>,
        answer: impl FnOnce(&Asked) -> Answer,
    ) -> Response<Body> {
        self.get_among(request, &["GET"], answer).await
    }

    /// The same where others answer the path's other methods.
    async fn get_among(
        &self,
        request: Request<Body>,
        allow: &[&'static str],
        answer: impl FnOnce(&Asked) -> Answer,
    ) -> Response<Body> {
        let method = request.method().clone();
        let asked = self.read(request).await;
        finish(asked.and_then(|asked| {
            if method == Method::GET {
                answer(&asked)
            } else {
                Err(ApiError::no_method(allow))
            }
        }))
    }

    /// Who asks, and all that the request holds.
    async fn read(&self, request: Request<Body>) -> Result<Asked, ApiError> {
        let asked = self.read_any(request).await?;
        accepts_json(&asked.headers)?;
        Ok(asked)
    }

    /// The same, whatever form the caller takes.
    async fn read_any(&self, request: Request<Body>) -> Result<Asked, ApiError> {
        let (mut parts, body) = request.into_parts();
        let caller = self.caller(&parts.headers).await?;
        let caller = self.core.policies.meet(caller);
        let pairs = Pairs::<Vec<(String, String)>>::from_request_parts(&mut parts, &()).await;
        let Ok(Pairs(pairs)) = pairs else {
            let text = "the query string cannot be read";
            return Err(Refusal::invalid("HTTPBadRequest", text).into());
        };
        let body = whole_body(body).await?;
        let origin = self.origin(&parts.headers);
        Ok(Asked {
            caller,
            pairs,
            body,
            headers: parts.headers,
            origin,
        })
    }

    async fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, ApiError> {
        let text = |name: &str| headers.get(name).and_then(|token| token.to_str().ok());
        let token = text("x-auth-token").ok_or(ApiError::Unauthenticated)?;
        let (service, now) = (text("x-service-token"), self.core.clock.now());
        let known = if let Some(judge) = &self.judge {
            let judged = judge.caller(token, service, now).await;
            judged.map_err(|error| ApiError::Unavailable {
                reason: error.to_string(),
            })?
        } else {
            let snapshot = self.core.store.snapshot();
            let known = identity::caller_for(&snapshot, token, service, now);
            // What is a domain's leads to nothing here, as with Neutron's scopes.
            let known = known.map(|mut caller| {
                if caller.domain.is_some() {
                    caller.roles.clear();
                }
                caller
            });
            known.map(Arc::new)
        };
        known.ok_or(ApiError::Unauthenticated)
    }

    /// How the caller calls this server: links lead where it came from.
    fn origin(&self, headers: &HeaderMap) -> String {
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        // A Host header is echoed into links only if it could be a host and port.
        let plain = |host: &&str| {
            !host.is_empty()
                && host.len() <= 255
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))
        };
        let fallback = self.core.api_addr().to_string();
        format!(
            "{}://{}",
            self.scheme,
            host.filter(plain).unwrap_or(&fallback)
        )
    }
}

/// The methods of a path whose verbs a resource has.
fn allowed(spec: &Spec, own: &[(&'static str, Verb)]) -> Vec<&'static str> {
    let own = own.iter().filter(|(_, verb)| spec.allows(*verb));
    own.map(|(method, _)| *method).collect()
}

/// The paths of what is told of objects and is none.
fn with_views(mut router: Router<Api>) -> Router<Api> {
    for served in SERVED {
        let many = format!("/v2.0/{}/{{id}}/{}", served.of.path, served.path);
        let one = format!("{many}/{{one}}");
        router = router
            .route(
                &many,
                any(
                    move |State(api): State<Api>, Path(id): Path<String>, request| async move {
                        served.answer(&api, &id, false, request).await
                    },
                ),
            )
            .route(
                &one,
                any(
                    move |State(api): State<Api>,
                          Path((id, _)): Path<(String, String)>,
                          request| async move {
                        served.answer(&api, &id, true, request).await
                    },
                ),
            );
    }
    let bindings = "/v2.0/ports/{id}/bindings";
    router = router
        .route(
            bindings,
            any(
                |State(api): State<Api>, Path(id): Path<String>, request| async move {
                    api.bindings(&id, request).await
                },
            ),
        )
        .route(
            &format!("{bindings}/{{host}}"),
            any(
                |State(api): State<Api>, Path((id, host)): Path<(String, String)>, request| async move {
                    api.binding(&id, host, request).await
                },
            ),
        )
        .route(
            &format!("{bindings}/{{host}}/activate"),
            any(
                |State(api): State<Api>, Path((id, host)): Path<(String, String)>, request| async move {
                    api.activate_binding(&id, host, request).await
                },
            ),
        );
    for told in TOLD {
        let many = format!("/v2.0/{}", told.path);
        router = router
            .route(
                &many,
                any(move |State(api): State<Api>, request| async move {
                    told.list(&api, request).await
                }),
            )
            .route(
                &format!("{many}/{{id}}"),
                any(
                    move |State(api): State<Api>, Path(id): Path<String>, request| async move {
                        told.show(&api, &id, request).await
                    },
                ),
            );
    }
    router
}

/// The paths of an object's parts, and those that need only a part's own id.
fn with_part(router: Router<Api>, spec: &'static Spec, part: &'static Part) -> Router<Api> {
    let many = format!("/v2.0/{}/{{id}}/{}", spec.path, part.plural);
    let one = format!("{many}/{{part}}");
    let place = move |object: Option<String>| Place { spec, part, object };
    let mut router =
        router
            .route(
                &many,
                any(
                    move |State(api): State<Api>, Path(id): Path<String>, request| async move {
                        api.parts(place(Some(id)), request).await
                    },
                ),
            )
            .route(
                &one,
                any(
                    move |State(api): State<Api>,
                          Path((id, one)): Path<(String, String)>,
                          request| async move {
                        api.part(place(Some(id)), &one, request).await
                    },
                ),
            );
    for path in part.alias.iter().flat_map(|(_, paths)| *paths) {
        router = router.route(
            &format!("/v2.0/{path}/{{part}}"),
            any(
                move |State(api): State<Api>, Path(one): Path<String>, request| async move {
                    api.part(place(None), &one, request).await
                },
            ),
        );
    }
    router
}

/// The body, if it is not too large.
async fn whole_body(body: Body) -> Result<bytes::Bytes, ApiError> {
    let whole = axum::body::to_bytes(body, LARGEST_BODY);
    match tokio::time::timeout(BODY_TIME, whole).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(ApiError::BodyTooLarge {
            limit: LARGEST_BODY,
        }),
        Err(_) => Err(ApiError::Slow),
    }
}

fn accepts_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(accept) = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
    else {
        return Ok(());
    };
    let json = ["application/json", "application/*", "*/*"];
    let fits = accept
        .split(',')
        .map(|kind| kind.split(';').next().unwrap_or_default().trim());
    if accept.trim().is_empty() || fits.into_iter().any(|kind| json.contains(&kind)) {
        Ok(())
    } else {
        Err(ApiError::NotAcceptable)
    }
}

fn finish(answer: Answer) -> Response<Body> {
    let mut response = answer.unwrap_or_else(|error| error.respond());
    let id = format!("req-{}", uuid::Uuid::new_v4());
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-openstack-request-id", id);
    }
    response
}

/// Refuses a path that is no UTF-8 once decoded (RFC 3986, section 2.5), in the API's own words: the
/// framework would refuse its parameters in plain text.
async fn readable_path(request: Request<Body>, next: Next) -> Response<Body> {
    let path = request.uri().path();
    if percent_decode_str(path).decode_utf8().is_ok() {
        return next.run(request).await;
    }
    let text = "the path is not UTF-8 once its percent-encoding is decoded";
    if path.starts_with("/identity") {
        return keystone_error(StatusCode::BAD_REQUEST, text);
    }
    finish(Err(Refusal::invalid("HTTPBadRequest", text).into()))
}

async fn no_path(State(api): State<Api>, uri: Uri, headers: HeaderMap) -> Response<Body> {
    if uri.path().starts_with("/v2.0")
        && let Err(error) = api.caller(&headers).await
    {
        return finish(Err(error));
    }
    finish(Err(ApiError::NoPath))
}

async fn healthz(State(api): State<Api>) -> Response<Body> {
    let revision = api.core.store.snapshot().revision();
    if api.core.is_healthy() {
        respond(
            StatusCode::OK,
            &json!({"status": "ok", "revision": revision.get()}),
        )
    } else {
        respond(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({"status": "the store cannot write"}),
        )
    }
}

async fn metrics(State(api): State<Api>) -> Response<Body> {
    let mut response = respond_empty(StatusCode::OK);
    *response.body_mut() = Body::from(api.stats.render(&api.core));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
