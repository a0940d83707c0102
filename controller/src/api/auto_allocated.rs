//! Has a project a network that leads outside?
//!
//! If it asks for one, it gets it: a network with subnets from the default pools, and a router between it and the default external network, all in one
//! transaction; asked again it gets the same. It is the project's like any other that it makes.

use crate::{
    api::{
        Api, ApiError, body,
        error::{respond, respond_empty},
        finish,
        handlers::{Answer, Asked, build},
    },
    refusal::Refusal,
    resource::{Claim, Object, Objects, Resource, Spec, Verb},
    resources::{Network, Router, Subnet, network::DEFAULT_EXTERNAL, router, subnet_pool},
    rules::{self, Caller, Given, Moment, Order, enact},
    store::{Read, View, transact},
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{Method, Request, Response, StatusCode},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// What was made for a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Topology {
    network_id: Uuid,
    router_id: Uuid,
}

fn key(project: &str) -> String {
    format!("autotopology/{project}")
}

fn unmet(reason: &str) -> Refusal {
    Refusal::conflict(
        "AutoAllocationFailure",
        format!("Deployment error: {reason}."),
    )
}

/// The default external network, and the default pools by family.
fn requirements(view: &View, caller: &Caller) -> Result<(Uuid, Vec<(u8, Uuid)>), Refusal> {
    let external = view.get::<Claim>(DEFAULT_EXTERNAL);
    let external = external.ok_or_else(|| unmet("No default router:external network"))?;
    let pools = [4, 6].into_iter().filter_map(|version| {
        let pool = subnet_pool::default_of(view, version, caller)?;
        Some((version, pool.meta.id))
    });
    let pools: Vec<_> = pools.collect();
    if pools.is_empty() {
        return Err(unmet("No default subnetpools defined"));
    }
    Ok((external.holder, pools))
}

fn make(
    view: &mut View,
    spec: &'static Spec,
    body: Value,
    caller: &Caller,
    moment: &Moment,
) -> Result<Arc<dyn Object>, Refusal> {
    let admitted = body::admit(spec, Verb::Create, body, caller)?;
    let object = build(spec, &admitted, moment.dice.uuid())?;
    let order = Order::Create(object, admitted.given.clone());
    let made = enact(view, order, caller, moment)?.object;
    made.ok_or_else(|| Refusal::missing(spec.title, ""))
}

fn arguments(subnet: Uuid) -> Map<String, Value> {
    Map::from_iter([("subnet_id".to_owned(), json!(subnet))])
}

/// The network of the project's topology, made if there is none.
fn provide(view: &mut View, project: &str, moment: &Moment) -> Result<Uuid, Refusal> {
    let known = view.get::<Topology>(&key(project));
    let known = known.filter(|known| view.object::<Network>(known.network_id).is_some());
    if let Some(known) = known {
        return Ok(known.network_id);
    }
    // It is made for the project, with what the operator has for all.
    let caller = Caller {
        project_id: project.to_owned(),
        ..Caller::system()
    };
    let (external, pools) = requirements(view, &caller)?;
    let of = |name: &str, more: Value| {
        let mut body = Map::from_iter([
            ("project_id".to_owned(), json!(project)),
            ("name".to_owned(), json!(format!("auto_allocated_{name}"))),
        ]);
        body.extend(more.as_object().cloned().unwrap_or_default());
        Value::Object(body)
    };
    let network = of("network", json!({}));
    let network = make(view, Network::SPEC, network, &caller, moment)?;
    let network_id = network.meta().id;
    let way_out = json!({"external_gateway_info": {"network_id": external}});
    let router = of("router", way_out);
    let router = make(view, Router::SPEC, router, &caller, moment)?;
    let router_id = router.meta().id;
    for (version, pool) in pools {
        let block = json!({
            "network_id": network_id, "ip_version": version, "subnetpool_id": pool,
        });
        let subnet = of(&format!("subnet_v{version}"), block);
        let subnet = make(view, Subnet::SPEC, subnet, &caller, moment)?;
        let router = rules::stored(view, Router::SPEC, router_id)
            .ok_or_else(|| Refusal::missing(Router::SPEC.title, router_id))?;
        let arguments = arguments(subnet.meta().id);
        rules::act(
            view,
            router,
            "add_router_interface",
            &arguments,
            &caller,
            moment,
        )?;
    }
    let topology = Topology {
        network_id,
        router_id,
    };
    view.put(key(project), Arc::new(topology));
    Ok(network_id)
}

/// All of it goes, if nothing else uses it.
fn remove(view: &mut View, project: &str, moment: &Moment) -> Result<(), Refusal> {
    let Some(known) = view.get::<Topology>(&key(project)) else {
        return Ok(());
    };
    let caller = Caller::system();
    for subnet in router::subnets(view, known.router_id) {
        let Some(object) = rules::stored(view, Router::SPEC, known.router_id) else {
            break;
        };
        let arguments = arguments(subnet.meta.id);
        rules::act(
            view,
            object,
            "remove_router_interface",
            &arguments,
            &caller,
            moment,
        )?;
    }
    for (spec, id) in [
        (Router::SPEC, known.router_id),
        (Network::SPEC, known.network_id),
    ] {
        if let Some(object) = rules::stored(view, spec, id) {
            enact(view, Order::Delete(object, Given::new()), &caller, moment)?;
        }
    }
    view.delete(&key(project));
    Ok(())
}

/// /v2.0/auto-allocated-topology/PROJECT
pub(super) async fn one(
    State(api): State<Api>,
    Path(project): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let method = request.method().clone();
    let answer: Answer = async {
        let asked = api.read(request).await?;
        // What a client without a project of its own in mind says.
        let project = match project.as_str() {
            "None" => asked.caller.project_id.clone(),
            _ => project,
        };
        match method {
            Method::GET => get(&api, &project, &asked).await,
            Method::DELETE => delete(&api, &project, &asked).await,
            _ => Err(ApiError::no_method(&["GET", "DELETE"])),
        }
    }
    .await;
    finish(answer)
}

fn denied(verb: &str) -> Refusal {
    Refusal::denied(format!("rule:{verb}_auto_allocated_topology"))
}

fn shown(id: impl Serialize, project: &str) -> Response<Body> {
    let topology = json!({"id": id, "tenant_id": project, "project_id": project});
    respond(
        StatusCode::OK,
        &json!({"auto_allocated_topology": topology}),
    )
}

async fn get(api: &Api, project: &str, asked: &Asked) -> Answer {
    let caller = &asked.caller;
    if caller.roles.is_empty() || !caller.owns(project) {
        return Err(denied("get").into());
    }
    let fields = asked.pairs.iter().filter(|(name, _)| name == "fields");
    let fields: Vec<&str> = fields.map(|(_, value)| value.as_str()).collect();
    let dry = fields.contains(&"dry-run");
    if !dry && !fields.is_empty() {
        return Err(Refusal::invalid(
            "BadRequest",
            "Bad auto_allocate request: Unrecognized field.",
        )
        .into());
    }
    let (of, asking) = (project.to_owned(), Arc::clone(caller));
    if dry {
        let checked = transact(api.core.store.as_ref(), move |view| {
            let asking = Caller {
                project_id: of.clone(),
                ..Caller::clone(&asking)
            };
            requirements(view, &asking).map(|_| ())
        });
        checked.await?;
        return Ok(shown("dry-run=pass", project));
    }
    let snapshot = api.core.store.snapshot();
    let known = snapshot.get::<Topology>(&key(project));
    let known = known.filter(|known| snapshot.object::<Network>(known.network_id).is_some());
    if let Some(known) = known {
        return Ok(shown(known.network_id, project));
    }
    if !(caller.admin || caller.member) {
        return Err(denied("get").into());
    }
    let occasion = api.core.occasion();
    let made = transact(api.core.store.as_ref(), move |view| {
        provide(view, &of, &occasion.moment())
    });
    let made = made.await;
    let ids = [project.to_owned()];
    let made = api.audited(caller, "create", "auto_allocated_topology", &ids, made);
    Ok(shown(made.await?.value, project))
}

async fn delete(api: &Api, project: &str, asked: &Asked) -> Answer {
    let caller = &asked.caller;
    if !caller.owns(project) || !(caller.admin || caller.member) {
        return Err(denied("delete").into());
    }
    let (of, occasion) = (project.to_owned(), api.core.occasion());
    let gone = transact(api.core.store.as_ref(), move |view| {
        remove(view, &of, &occasion.moment())
    });
    let gone = gone.await;
    let ids = [project.to_owned()];
    let gone = api.audited(caller, "delete", "auto_allocated_topology", &ids, gone);
    gone.await?;
    Ok(respond_empty(StatusCode::NO_CONTENT))
}
