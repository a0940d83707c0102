//! Where is a port, and where may it be next?
//!
//! The handlers of a port's bindings, which are known by their hosts' names. They are an admin's or a service's; whoever sees the port
//! and is neither is told so.

use crate::{
    api::{
        Api, ApiError, body,
        error::{respond, respond_empty},
        finish,
        handlers::{Answer, Asked, seen},
        query,
        rights::Subject,
        scene::permits,
    },
    refusal::Refusal,
    resource::{Object, Resource, Verb},
    resources::{
        Port,
        port::bindings::{BINDING, Deed, SHOWN, of_compute},
    },
    rules::{Given, Order},
};
use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode},
};
use serde_json::json;
use std::sync::Arc;

fn port_of(object: &dyn Object) -> Result<&Port, Refusal> {
    let port = object.as_any().downcast_ref::<Port>();
    port.ok_or_else(|| Refusal::missing("Port", object.meta().id))
}

/// The port, if the caller sees it and may do this with its bindings.
fn may(verb: &str, id: &str, api: &Api, asked: &Asked) -> Result<Arc<dyn Object>, Refusal> {
    let (snapshot, caller) = (api.core.store.snapshot(), &asked.caller);
    let scene = api.scene(&snapshot, caller);
    let port = seen(&scene, Port::SPEC, id)?;
    let rule = format!("{verb}_port_binding");
    let built_in = permits(BINDING.policy, caller) && (caller.member || verb == "get");
    if caller.may(&rule, &Subject::of(&scene, port.as_ref()), built_in) {
        return Ok(port);
    }
    Err(Refusal::denied(format!("rule:{rule}")))
}

impl Api {
    /// /v2.0/ports/ID/bindings
    pub(super) async fn bindings(&self, id: &str, request: Request<Body>) -> Response<Body> {
        let method = request.method().clone();
        let answer: Answer = async {
            let asked = self.read(request).await?;
            match method {
                Method::GET => self.list_bindings(id, &asked),
                Method::POST => {
                    let fields = body::part(&BINDING, Verb::Create, "binding", &asked.body)?;
                    may("create", id, self, &asked)?;
                    let deed = Deed::Add(fields);
                    self.rebind(StatusCode::CREATED, id, &asked, deed).await
                }
                _ => Err(ApiError::no_method(&["GET", "POST"])),
            }
        }
        .await;
        finish(answer)
    }

    /// /v2.0/ports/ID/bindings/HOST
    pub(super) async fn binding(
        &self,
        id: &str,
        host: String,
        request: Request<Body>,
    ) -> Response<Body> {
        let method = request.method().clone();
        let answer: Answer = async {
            let asked = self.read(request).await?;
            match method {
                Method::GET => self.show_binding(id, &host, &asked),
                Method::PUT => {
                    let fields = body::part(&BINDING, Verb::Update, "binding", &asked.body)?;
                    may("update", id, self, &asked)?;
                    let deed = Deed::Change(host, fields);
                    self.rebind(StatusCode::OK, id, &asked, deed).await
                }
                Method::DELETE => {
                    may("delete", id, self, &asked)?;
                    let deed = Deed::Remove(host);
                    self.rebind(StatusCode::NO_CONTENT, id, &asked, deed).await
                }
                _ => Err(ApiError::no_method(&["GET", "PUT", "DELETE"])),
            }
        }
        .await;
        finish(answer)
    }

    /// /v2.0/ports/ID/bindings/HOST/activate
    pub(super) async fn activate_binding(
        &self,
        id: &str,
        host: String,
        request: Request<Body>,
    ) -> Response<Body> {
        let method = request.method().clone();
        let answer: Answer = async {
            let asked = self.read(request).await?;
            if method != Method::PUT {
                return Err(ApiError::no_method(&["PUT"]));
            }
            may("activate", id, self, &asked)?;
            let deed = Deed::Activate(host);
            self.rebind(StatusCode::OK, id, &asked, deed).await
        }
        .await;
        finish(answer)
    }

    fn list_bindings(&self, id: &str, asked: &Asked) -> Answer {
        let object = may("get", id, self, asked)?;
        let port = port_of(object.as_ref())?;
        of_compute(port)?;
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let known = |name: &str| SHOWN.contains(&name);
        let rows = query::rows(&asked.pairs, known, port.bindings(&scene))?;
        Ok(respond(StatusCode::OK, &json!({"bindings": rows})))
    }

    fn show_binding(&self, id: &str, host: &str, asked: &Asked) -> Answer {
        let object = may("get", id, self, asked)?;
        let port = port_of(object.as_ref())?;
        of_compute(port)?;
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let row = port.shown_binding(host, &scene)?;
        let fields = asked.pairs.iter().filter(|(name, _)| name == "fields");
        let fields: Vec<_> = fields.cloned().collect();
        let known = |name: &str| SHOWN.contains(&name);
        let row = query::rows(&fields, known, vec![row])?.pop();
        Ok(respond(StatusCode::OK, &json!({"binding": row})))
    }

    /// Does what is asked, and shows the binding as it is then: bare where it was activated, as Neutron does.
    async fn rebind(&self, status: StatusCode, id: &str, asked: &Asked, deed: Deed) -> Answer {
        let planned = deed.clone();
        let made = self.enact(Port::SPEC, "update", id, asked, move |before| {
            let after = planned.of(port_of(before.as_ref())?)?;
            Ok(Order::Update(before, Arc::new(after), Given::new()))
        });
        let made = made.await?.object;
        if status == StatusCode::NO_CONTENT {
            return Ok(respond_empty(status));
        }
        let made = made.ok_or_else(|| Refusal::missing("Port", id))?;
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let row = port_of(made.as_ref())?.shown_binding(deed.shown(), &scene)?;
        let bare = matches!(deed, Deed::Activate(_));
        let shown = if bare {
            json!(row)
        } else {
            json!({"binding": row})
        };
        Ok(respond(status, &shown))
    }
}
