//! How is a load balancer made with all that hangs on it?
//!
//! A create may nest listeners, pools, members, health monitors, and policies with their rules. Each is admitted as if it came by itself, and all are made by one transaction: with the
//! first that is refused there is nothing.

use crate::{
    api::{
        Api, body,
        body::Admitted,
        error::respond,
        handlers::{Answer, Asked, build, seen},
    },
    refusal::Refusal,
    resource::{Resource as _, Spec, Verb},
    resources::{HealthMonitor, L7Policy, Listener, LoadBalancer, Pool},
    rules::{Order, enact},
    store::transact,
};
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// Objects of one request, their parts apart.
const OBJECTS: usize = 200;

/// Does a create nest anything?
pub(super) fn is_nested(bytes: &[u8]) -> bool {
    let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let Some(balancer) = body.get(LoadBalancer::SPEC.singular) else {
        return false;
    };
    ["listeners", "pools"]
        .iter()
        .any(|list| balancer.get(*list).is_some_and(|list| !list.is_null()))
}

/// An object that is to be made.
struct Planned {
    spec: &'static Spec,
    id: Uuid,
    admitted: Admitted,
    parts: Vec<(Uuid, Map<String, Value>)>,
}

struct Plan<'a> {
    asked: &'a Asked,
    balancer: Uuid,
    /// Fresh ids.
    ids: &'a mut dyn FnMut() -> Uuid,
    all: Vec<Planned>,
    /// Pools by the names that listeners may call them by.
    named: BTreeMap<String, Uuid>,
}

fn bad(text: impl std::fmt::Display) -> Refusal {
    Refusal::invalid("ValidationException", format!("Validation failure: {text}"))
}

/// The objects of a list, taken out of the object that has it.
fn taken(of: &mut Map<String, Value>, name: &str) -> Result<Vec<Map<String, Value>>, Refusal> {
    let objects = match of.remove(name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(objects)) => objects,
        Some(_) => return Err(bad(format_args!("{name} is not a list"))),
    };
    let objects = objects.into_iter().map(|object| match object {
        Value::Object(object) => Ok(object),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(bad(format_args!("{name}: not an object")))
        }
    });
    objects.collect()
}

/// An object in an object, taken out of it.
fn inner(of: &mut Map<String, Value>, name: &str) -> Result<Option<Map<String, Value>>, Refusal> {
    match of.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(bad(format_args!("{name} is not an object"))),
    }
}

impl Plan<'_> {
    fn add(
        &mut self,
        spec: &'static Spec,
        id: Uuid,
        body: Map<String, Value>,
    ) -> Result<(), Refusal> {
        if self.all.len() >= OBJECTS {
            return Err(Refusal::TooLarge { limit: OBJECTS });
        }
        let caller = &self.asked.caller;
        let admitted = body::admit(spec, Verb::Create, Value::Object(body), caller)?;
        self.all.push(Planned {
            spec,
            id,
            admitted,
            parts: Vec::new(),
        });
        Ok(())
    }

    /// What the last object is made of.
    fn parts(&mut self, parts: Vec<Map<String, Value>>) -> Result<(), Refusal> {
        let Some(object) = self.all.last_mut() else {
            return Ok(());
        };
        let Some(kind) = object.spec.parts.first() else {
            return Ok(());
        };
        for part in parts {
            let bytes = json!({kind.singular: part}).to_string();
            let fields = body::part(kind, Verb::Create, kind.singular, bytes.as_bytes())?;
            object.parts.push(((self.ids)(), fields));
        }
        Ok(())
    }

    /// A pool that is only named is another of the request.
    fn called(&self, pool: &Map<String, Value>) -> Result<Option<Uuid>, Refusal> {
        let name = pool.get("name").filter(|_| pool.len() == 1);
        let Some(name) = name.and_then(Value::as_str) else {
            return Ok(None);
        };
        let pool = self.named.get(name).copied();
        pool.map(Some)
            .ok_or_else(|| bad(format_args!("no pool of this request is called {name}")))
    }

    /// A policy of a listener with its rules, and with its pool if that is nested.
    fn policy(&mut self, mut body: Map<String, Value>, listener: Uuid) -> Result<(), Refusal> {
        let rules = taken(&mut body, "rules")?;
        if let Some(pool) = inner(&mut body, "redirect_pool")? {
            let id = match self.called(&pool)? {
                Some(id) => id,
                None => self.pool(pool, None)?,
            };
            body.insert("redirect_pool_id".to_owned(), json!(id));
        }
        body.insert("listener_id".to_owned(), json!(listener));
        let id = (self.ids)();
        self.add(L7Policy::SPEC, id, body)?;
        self.parts(rules)
    }

    /// A pool with its members and monitor, of a listener if there is one.
    fn pool(
        &mut self,
        mut body: Map<String, Value>,
        listener: Option<Uuid>,
    ) -> Result<Uuid, Refusal> {
        let members = taken(&mut body, "members")?;
        let monitor = inner(&mut body, "healthmonitor")?;
        let id = (self.ids)();
        let name = body.get("name").and_then(Value::as_str).map(str::to_owned);
        body.insert("loadbalancer_id".to_owned(), json!(self.balancer));
        if let Some(listener) = listener {
            body.insert("listener_id".to_owned(), json!(listener));
        }
        self.add(Pool::SPEC, id, body)?;
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            self.named.insert(name, id);
        }
        self.parts(members)?;
        if let Some(mut monitor) = monitor {
            monitor.insert("pool_id".to_owned(), json!(id));
            let monitor_id = (self.ids)();
            self.add(HealthMonitor::SPEC, monitor_id, monitor)?;
        }
        Ok(id)
    }

    fn listener(&mut self, mut body: Map<String, Value>) -> Result<(), Refusal> {
        let policies = taken(&mut body, "l7policies")?;
        let pool = inner(&mut body, "default_pool")?;
        let id = (self.ids)();
        body.insert("loadbalancer_id".to_owned(), json!(self.balancer));
        let named = pool.as_ref().map(|pool| self.called(pool)).transpose()?;
        match (named.flatten(), pool) {
            (Some(named), _) => {
                body.insert("default_pool_id".to_owned(), json!(named));
                self.add(Listener::SPEC, id, body)?;
            }
            (None, Some(pool)) => {
                self.add(Listener::SPEC, id, body)?;
                self.pool(pool, Some(id))?;
            }
            (None, None) => self.add(Listener::SPEC, id, body)?,
        }
        for policy in policies {
            self.policy(policy, id)?;
        }
        Ok(())
    }
}

/// All that a body asks for, in the order in which it is to be made; the load balancer first.
fn planned(api: &Api, asked: &Asked) -> Result<Vec<Planned>, Refusal> {
    let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
    let balancer = body.get(LoadBalancer::SPEC.singular);
    let balancer = balancer.and_then(Value::as_object).cloned();
    let mut balancer = balancer.unwrap_or_default();
    let pools = taken(&mut balancer, "pools")?;
    let listeners = taken(&mut balancer, "listeners")?;
    // Other dice than the transaction's: what its rules make has ids of its own.
    let fresh = api.core.occasion();
    let moment = fresh.moment();
    let mut ids = || moment.dice.uuid();
    let id = ids();
    let mut plan = Plan {
        asked,
        balancer: id,
        ids: &mut ids,
        all: Vec::new(),
        named: BTreeMap::new(),
    };
    plan.add(LoadBalancer::SPEC, id, balancer)?;
    for pool in pools {
        plan.pool(pool, None)?;
    }
    for listener in listeners {
        plan.listener(listener)?;
    }
    Ok(plan.all)
}

/// POST on load balancers, with anything nested.
pub(super) async fn create(api: &Api, asked: &Asked) -> Answer {
    let all = planned(api, asked)?;
    for one in &all {
        api.may_create(one.spec, std::slice::from_ref(&one.admitted), &asked.caller)?;
    }
    let listeners = all
        .iter()
        .filter(|one| one.spec.storage == Listener::SPEC.storage);
    let said = listeners.map(|one| &one.admitted.fields);
    let occasion = api.occasion_of(&asked.caller, said, None).await;
    let asking = Arc::clone(&asked.caller);
    let made = transact(api.core.store.as_ref(), move |view| {
        let moment = occasion.moment();
        let mut made = Vec::with_capacity(all.len());
        for one in &all {
            let mut object = build(one.spec, &one.admitted, one.id)?;
            if let Some(part) = one.spec.parts.first() {
                for (id, fields) in &one.parts {
                    object = object.with_part(part, *id, Some(fields.clone()))?;
                }
            }
            let order = Order::Create(object, one.admitted.given.clone());
            enact(view, order, &asking, &moment)?;
            made.push((one.spec, one.id));
        }
        Ok::<_, Refusal>(made)
    })
    .await;
    let ids: Vec<String> = match &made {
        Ok(made) => made.value.iter().map(|(_, id)| id.to_string()).collect(),
        Err(_) => Vec::new(),
    };
    let spec = LoadBalancer::SPEC;
    let made = api.audited(&asked.caller, "create", spec.singular, &ids, made);
    let made = made.await?.value;
    let snapshot = api.core.store.snapshot();
    let scene = api.scene(&snapshot, &asked.caller);
    // As they are now: what came later changed what came before.
    let shown = |wanted: &Spec| -> Result<Vec<Map<String, Value>>, Refusal> {
        let of = made
            .iter()
            .filter(|(spec, _)| spec.storage == wanted.storage);
        of.map(|(spec, id)| {
            let object = seen(&scene, spec, &id.to_string())?;
            let mut row = scene.render_whole(object.as_ref());
            if let Some(part) = spec.parts.first() {
                row.insert(part.plural.to_owned(), json!(object.parts(part)));
            }
            Ok(row)
        })
        .collect()
    };
    let mut whole = shown(spec)?.pop().unwrap_or_default();
    let policies = shown(L7Policy::SPEC)?;
    let mut listeners = shown(Listener::SPEC)?;
    for listener in &mut listeners {
        let of = |policy: &&Map<String, Value>| policy.get("listener_id") == listener.get("id");
        let own: Vec<_> = policies.iter().filter(of).collect();
        let own = json!(own);
        listener.insert("l7policies".to_owned(), own);
    }
    whole.insert("listeners".to_owned(), json!(listeners));
    whole.insert("pools".to_owned(), json!(shown(Pool::SPEC)?));
    Ok(respond(StatusCode::CREATED, &json!({spec.singular: whole})))
}
