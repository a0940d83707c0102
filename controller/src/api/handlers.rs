//! What do list, create, show, update, delete and the actions do?
//!
//! The five handlers, and the sixth for what a table declares besides, once for all resources, after the
//! caller is known. The order of the checks is Neutron's: shape of the body, then existence, then policy,
//! then the rules inside the transaction.

use crate::{
    api::{
        Api,
        body::{self, Admitted},
        error::{ApiError, respond, respond_empty, respond_text},
        octavia,
        query::Query,
        rights::{self, Subject, may_read},
        scene::Scene,
    },
    refusal::Refusal,
    resource::{Action, Field, Meta, Object, Reply, Resource as _, Spec, Verb, index_prefix},
    resources::{Listener, fwaas, security_group},
    rules::{self, Caller, Enacted, Given, Moment, Occasion, Order, enact, stored, usable},
    store::{Read, Snapshot, View, transact},
};
use axum::{
    body::Body,
    http::{HeaderMap, Response, StatusCode},
};
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, sync::Arc};
use uuid::Uuid;

/// A request after its caller is known.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Who asks.
    pub(crate) caller: Arc<Caller>,
    /// The query, in order.
    pub(crate) pairs: Vec<(String, String)>,
    /// The body.
    pub(crate) body: bytes::Bytes,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// `http://host:port`, as the caller wrote it.
    pub(crate) origin: String,
}

pub(crate) type Answer = Result<Response<Body>, ApiError>;

/// The object that the caller may see under this id.
pub(crate) fn visible(
    read: &impl Read,
    spec: &Spec,
    id: &str,
    caller: &Caller,
) -> Result<Arc<dyn Object>, Refusal> {
    let found = id
        .parse::<Uuid>()
        .ok()
        .and_then(|id| stored(read, spec, id));
    match found {
        Some(object) if usable(read, &*object, caller) => Ok(object),
        Some(_) => Err(Refusal::foreign(spec.title, id)),
        None => Err(Refusal::missing(spec.title, id)),
    }
}

/// The same, where no changed policy hides it.
pub(crate) fn seen(scene: &Scene<'_>, spec: &Spec, id: &str) -> Result<Arc<dyn Object>, Refusal> {
    let object = visible(scene.snapshot, spec, id, scene.caller)?;
    if scene.shows(object.as_ref()) {
        Ok(object)
    } else {
        Err(Refusal::foreign(spec.title, id))
    }
}

impl Api {
    pub(super) fn scene<'a>(&'a self, snapshot: &'a Snapshot, caller: &'a Caller) -> Scene<'a> {
        Scene {
            snapshot,
            status: &self.core.status,
            facts: &self.core.facts,
            caller,
            now: self.core.clock.now(),
        }
    }

    /// Makes the project's default group of this kind, if this is the first touch.
    async fn touch(&self, spec: &Spec, caller: &Caller) -> Result<(), ApiError> {
        type Ensure = fn(&mut View, &str, &Moment) -> Result<(), Refusal>;
        let project = caller.project_id.clone();
        if project.is_empty() {
            return Ok(());
        }
        let snapshot = self.core.store.snapshot();
        let (known, ensure): (_, Ensure) = if spec.storage.starts_with("security_group") {
            let known = security_group::known_default(&snapshot, &project);
            (known, rules::ensure_default_group)
        } else if spec.storage.starts_with("firewall_") {
            let known = fwaas::known_default(&snapshot, &project);
            (known, rules::ensure_default_firewall)
        } else {
            return Ok(());
        };
        if known.is_some() {
            return Ok(());
        }
        let occasion = self.core.occasion();
        transact::<_, Refusal>(self.core.store.as_ref(), move |view| {
            ensure(view, &project, &occasion.moment())
        })
        .await?;
        Ok(())
    }

    /// GET on a collection.
    pub(crate) async fn list(&self, spec: &'static Spec, asked: &Asked) -> Answer {
        may_read(spec, &asked.caller)?;
        let query = Query::parse(spec, asked.pairs.clone())?;
        self.touch(spec, &asked.caller).await?;
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let candidates = candidates(spec, &scene, &query);
        let base = format!("{}{}{}", asked.origin, octavia::root(spec), spec.path);
        let (chosen, links) =
            query.select(spec, candidates.objects, candidates.passed, &scene, &base)?;
        let mut rows = scene.rows(spec, &query.fields);
        let mut body = format!("{{\"{}\":[", spec.plural).into_bytes();
        for (at, object) in chosen.iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            rows.write(object.as_ref(), &mut body);
        }
        body.push(b']');
        if !links.is_empty() {
            let links = Value::Array(links);
            let links = format!(",\"{}_links\":{links}", spec.plural);
            body.extend_from_slice(links.as_bytes());
        }
        body.push(b'}');
        Ok(respond_text(StatusCode::OK, body))
    }

    /// GET on an object.
    pub(crate) async fn show(&self, spec: &'static Spec, id: &str, asked: &Asked) -> Answer {
        may_read(spec, &asked.caller)?;
        let query = Query::parse(spec, asked.pairs.clone())?;
        self.touch(spec, &asked.caller).await?;
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let object = seen(&scene, spec, id)?;
        let shown = scene.render(spec.fields(), object.as_ref(), &query.fields);
        Ok(respond(StatusCode::OK, &json!({spec.singular: shown})))
    }

    /// POST on a collection: one, or many, of which all are made or none.
    pub(crate) async fn create(&self, spec: &'static Spec, asked: &Asked) -> Answer {
        let (bodies, bulk) = body::objects(spec, &asked.body, true)?;
        let caller = Arc::clone(&asked.caller);
        let admitted: Result<Vec<Admitted>, Refusal> = bodies
            .into_iter()
            .map(|body| body::admit(spec, Verb::Create, body, &caller))
            .collect();
        let admitted = admitted?;
        self.may_create(spec, &admitted, &caller)?;
        if bulk {
            let bodies: Vec<Map<String, Value>> =
                admitted.iter().map(|one| one.fields.clone()).collect();
            spec.ops.check_bulk(&bodies)?;
        }
        self.touch(spec, &caller).await?;
        let said = admitted.iter().map(|one| &one.fields);
        let occasion = if spec.storage == Listener::SPEC.storage {
            self.occasion_of(&caller, said, None).await
        } else {
            self.core.occasion()
        };
        let asking = Arc::clone(&caller);
        let made = transact(self.core.store.as_ref(), move |view| {
            let moment = occasion.moment();
            let mut made = Vec::with_capacity(admitted.len());
            for one in &admitted {
                let object = build(spec, one, moment.dice.uuid())?;
                let order = Order::Create(object, one.given.clone());
                made.push(enact(view, order, &asking, &moment)?);
            }
            Ok::<_, Refusal>(made)
        })
        .await;
        let ids: Vec<String> = match &made {
            Ok(made) => made.value.iter().filter_map(id_of).collect(),
            Err(_) => Vec::new(),
        };
        let made = self
            .audited(&caller, "create", spec.singular, &ids, made)
            .await?;
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &caller);
        let mut rows: Vec<Value> = made
            .value
            .iter()
            .filter_map(|one| rendered(&scene, spec, one))
            .collect();
        let body = match (bulk, rows.pop()) {
            (false, Some(row)) => json!({spec.singular: row}),
            (_, last) => {
                rows.extend(last);
                json!({spec.plural: rows})
            }
        };
        Ok(respond(StatusCode::CREATED, &body))
    }

    /// PUT on an object.
    pub(crate) async fn update(&self, spec: &'static Spec, id: &str, asked: &Asked) -> Answer {
        let (mut bodies, _) = body::objects(spec, &asked.body, false)?;
        let caller = Arc::clone(&asked.caller);
        let body = bodies.pop().unwrap_or_default();
        let admitted = body::admit(spec, Verb::Update, body, &caller)?;
        self.may_write(spec, Verb::Update, Some(&admitted), id, asked)?;
        let wanted = if_match(&asked.headers);
        let occasion = match id.parse() {
            Ok(id) if spec.storage == Listener::SPEC.storage => {
                let said = [&admitted.fields].into_iter();
                self.occasion_of(&caller, said, Some(id)).await
            }
            Ok(_) | Err(_) => self.core.occasion(),
        };
        let made = self.enact_on(occasion, (spec, "update", id), asked, move |before| {
            compare_revision(before.as_ref(), wanted)?;
            let mut fields = before.to_map();
            fields.extend(admitted.fields.clone());
            let after = spec.ops.build(fields)?;
            Ok(Order::Update(before, after, admitted.given.clone()))
        });
        let made = made.await?;
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &caller);
        let row = rendered(&scene, spec, &made).unwrap_or_default();
        Ok(respond(StatusCode::OK, &json!({spec.singular: row})))
    }

    /// DELETE on an object.
    pub(crate) async fn delete(&self, spec: &'static Spec, id: &str, asked: &Asked) -> Answer {
        self.may_write(spec, Verb::Delete, None, id, asked)?;
        let wanted = if_match(&asked.headers);
        let given = octavia::given(spec, &asked.pairs);
        let gone = self.enact(spec, "delete", id, asked, move |before| {
            compare_revision(before.as_ref(), wanted)?;
            Ok(Order::Delete(before, given.clone()))
        });
        gone.await?;
        Ok(respond_empty(StatusCode::NO_CONTENT))
    }

    /// PUT on an action of an object.
    pub(crate) async fn act(
        &self,
        spec: &'static Spec,
        action: &'static Action,
        id: &str,
        asked: &Asked,
    ) -> Answer {
        let arguments = body::arguments(spec, action, &asked.body)?;
        self.may_act(spec, action, &arguments, id, asked)?;
        let wanted = if_match(&asked.headers);
        let occasion = self.core.occasion();
        let (asking, key) = (Arc::clone(&asked.caller), id.to_owned());
        let acted = transact(self.core.store.as_ref(), move |view| {
            let before = visible(view, spec, &key, &asking)?;
            compare_revision(before.as_ref(), wanted)?;
            let moment = occasion.moment();
            rules::act(view, before, action.name, &arguments, &asking, &moment)
        });
        let acted = acted.await;
        let ids = [id.to_owned()];
        let acted = self.audited(&asked.caller, action.name, spec.singular, &ids, acted);
        let (enacted, mut reply) = acted.await?.value;
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let shown = match action.reply {
            Reply::Object => {
                json!({spec.singular: rendered(&scene, spec, &enacted).unwrap_or_default()})
            }
            Reply::Bare => rendered(&scene, spec, &enacted).unwrap_or_default(),
            Reply::Fields(fields) => {
                let value = |field: &Field| {
                    let value = reply.swap_remove(field.name).unwrap_or_default();
                    (field.name.to_owned(), value)
                };
                Value::Object(fields.iter().map(value).collect())
            }
        };
        let success = StatusCode::from_u16(action.success).unwrap_or(StatusCode::OK);
        Ok(respond(success, &shown))
    }

    /// GET on an action of an object.
    pub(crate) fn look(
        &self,
        spec: &'static Spec,
        action: &'static Action,
        id: &str,
        asked: &Asked,
    ) -> Answer {
        may_read(spec, &asked.caller)?;
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let object = seen(&scene, spec, id)?;
        let subject = Subject::of(&scene, object.as_ref());
        if !asked.caller.may(action.rule, &subject, true) {
            return Err(Refusal::denied(format!("rule:{}", action.rule)).into());
        }
        let shown = match action.reply {
            Reply::Fields(fields) => scene.render(fields.iter(), object.as_ref(), &[]),
            Reply::Object | Reply::Bare => scene.render_whole(object.as_ref()),
        };
        let success = StatusCode::from_u16(action.success).unwrap_or(StatusCode::OK);
        Ok(respond(success, &shown))
    }

    pub(super) fn may_create(
        &self,
        spec: &'static Spec,
        all: &[Admitted],
        caller: &Caller,
    ) -> Result<(), Refusal> {
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, caller);
        all.iter().try_for_each(|one| {
            let subject = Subject {
                scene: &scene,
                spec,
                object: None,
                said: Some(&one.fields),
                project: Some(&one.project_id),
                part: false,
            };
            rights::authorise(&subject, Verb::Create, &one.given, caller)
        })
    }

    /// May the caller do this? What is visible but not the caller's own is not the caller's to change.
    fn may_write(
        &self,
        spec: &'static Spec,
        verb: Verb,
        said: Option<&Admitted>,
        id: &str,
        asked: &Asked,
    ) -> Result<(), Refusal> {
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let object = seen(&scene, spec, id)?;
        let mut subject = Subject::of(&scene, object.as_ref());
        subject.said = said.map(|said| &said.fields);
        let none = Given::new();
        let given = said.map_or(&none, |said| &said.given);
        rights::authorise(&subject, verb, given, &asked.caller)
    }

    /// May the caller do this with the tags of an object? Who may change it may, where nothing else is said.
    pub(crate) fn may_tag(
        &self,
        spec: &'static Spec,
        verb: &str,
        id: &str,
        asked: &Asked,
    ) -> Result<(), Refusal> {
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let object = seen(&scene, spec, id)?;
        let subject = Subject::of(&scene, object.as_ref());
        let rule = format!("{verb}_{}:tags", spec.singular);
        match asked.caller.told(&rule, &subject) {
            Some(true) => Ok(()),
            Some(false) => Err(Refusal::denied(format!("rule:{rule}"))),
            None if verb == "get" => Ok(()),
            None => rights::authorise(&subject, Verb::Update, &Given::new(), &asked.caller),
        }
    }

    fn may_act(
        &self,
        spec: &'static Spec,
        action: &Action,
        arguments: &Map<String, Value>,
        id: &str,
        asked: &Asked,
    ) -> Result<(), Refusal> {
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let object = seen(&scene, spec, id)?;
        let mut subject = Subject::of(&scene, object.as_ref());
        subject.said = Some(arguments);
        rights::authorise_action(&subject, action, arguments, &asked.caller)
    }

    /// Enacts the order that is made of the object as the transaction finds it, and notes it.
    pub(crate) async fn enact(
        &self,
        spec: &'static Spec,
        verb: &'static str,
        id: &str,
        asked: &Asked,
        order: impl Fn(Arc<dyn Object>) -> Result<Order, Refusal> + Send + 'static,
    ) -> Result<Enacted, ApiError> {
        let occasion = self.core.occasion();
        self.enact_on(occasion, (spec, verb, id), asked, order)
            .await
    }

    /// The same on this occasion.
    async fn enact_on(
        &self,
        occasion: Occasion,
        (spec, verb, id): (&'static Spec, &'static str, &str),
        asked: &Asked,
        order: impl Fn(Arc<dyn Object>) -> Result<Order, Refusal> + Send + 'static,
    ) -> Result<Enacted, ApiError> {
        let (asking, key) = (Arc::clone(&asked.caller), id.to_owned());
        let enacted = transact(self.core.store.as_ref(), move |view| {
            let before = visible(view, spec, &key, &asking)?;
            enact(view, order(before)?, &asking, &occasion.moment())
        });
        let enacted = enacted.await;
        let ids = [id.to_owned()];
        let enacted = self.audited(&asked.caller, verb, spec.singular, &ids, enacted);
        Ok(enacted.await?.value)
    }

    /// Writes the audit's line, whatever came of it.
    pub(crate) async fn audited<T, E>(
        &self,
        caller: &Caller,
        verb: &'static str,
        kind: &'static str,
        ids: &[String],
        result: Result<T, E>,
    ) -> Result<T, ApiError>
    where
        ApiError: From<E>,
    {
        let result = result.map_err(ApiError::from);
        let outcome = match &result {
            Ok(_) => "done".to_owned(),
            Err(error) => error.name(),
        };
        self.core
            .audit
            .note(self.core.clock.now(), caller, verb, kind, ids, &outcome)
            .await;
        result
    }
}

/// What a query is to choose from.
struct Candidates<'a> {
    objects: Box<dyn Iterator<Item = Arc<dyn Object>> + 'a>,
    /// The filter that all of them pass: they were found by its index.
    passed: Option<&'static str>,
}

/// All objects that the caller may see, or fewer if the query names an index, in the order of their
/// ids; from the query's start on, if that is all that it wants. Nothing is read before it is asked for.
fn candidates<'a>(spec: &'static Spec, scene: &'a Scene<'a>, query: &Query) -> Candidates<'a> {
    let (snapshot, caller) = (scene.snapshot, scene.caller);
    let changed = caller.policies.is_some();
    let seen = move |object: &Arc<dyn Object>| {
        usable(snapshot, &**object, caller) && (!changed || scene.shows(object.as_ref()))
    };
    let start = query.start();
    let load = move |sources: Vec<Ids<'a>>, passed| {
        let rest = Merged::new(sources).skip_while(move |id| start.is_some_and(|from| *id < from));
        let objects = rest.filter_map(move |id| stored(snapshot, spec, id));
        Candidates {
            objects: Box::new(objects.filter(seen)),
            passed,
        }
    };
    let indexed_ids = move |field: &str, value: &str| -> Ids<'a> {
        let prefix = index_prefix(spec.storage, field, value);
        let from = start.map(|id| id.to_string()).unwrap_or_default();
        let ids = snapshot.rest_of_keys(prefix, &from);
        Box::new(ids.filter_map(|id| id.parse().ok()))
    };
    if let Some(ids) = query.filter("id") {
        let ids: BTreeSet<Uuid> = ids.iter().filter_map(|id| id.parse().ok()).collect();
        return load(vec![Box::new(ids.into_iter())], None);
    }
    for field in indexed(spec) {
        if let Some(values) = query.filter(field)
            && values.iter().all(|value| !value.is_empty())
        {
            let ids = values.iter().map(|value| indexed_ids(field, value));
            return load(ids.collect(), Some(field));
        }
    }
    if caller.admin {
        let from = start.map_or_else(|| "/".to_owned(), |id| format!("/{id}"));
        let own = |(key, _): &(&str, _)| key.as_bytes().get(spec.storage.len()) == Some(&b'/');
        let all = snapshot.scan_from(spec.storage, &from).take_while(own);
        return Candidates {
            objects: Box::new(
                all.filter_map(|(_, entry)| spec.ops.object(entry))
                    .filter(move |object| !changed || scene.shows(object.as_ref())),
            ),
            passed: None,
        };
    }
    let mut granted = spec.ops.granted(snapshot, &caller.project_id);
    granted.sort_unstable();
    let own = indexed_ids("project_id", &caller.project_id);
    let shared = indexed_ids("shared", "true");
    load(vec![own, shared, Box::new(granted.into_iter())], None)
}

/// Ids in ascending order.
type Ids<'a> = Box<dyn Iterator<Item = Uuid> + 'a>;

/// Ids of several sources as one, in order, each once.
struct Merged<'a> {
    /// Each with what comes next of it; those that are at their end are left out.
    sources: Vec<(Uuid, Ids<'a>)>,
    last: Option<Uuid>,
}

impl<'a> Merged<'a> {
    fn new(sources: Vec<Ids<'a>>) -> Self {
        Self {
            sources: sources
                .into_iter()
                .filter_map(|mut ids| Some((ids.next()?, ids)))
                .collect(),
            last: None,
        }
    }
}

impl Iterator for Merged<'_> {
    type Item = Uuid;

    fn next(&mut self) -> Option<Uuid> {
        loop {
            let places = self.sources.iter_mut().enumerate();
            let (at, (next, ids)) = places.min_by_key(|(_, (next, _))| *next)?;
            let id = *next;
            match ids.next() {
                Some(after) => *next = after,
                None => drop(self.sources.swap_remove(at)),
            }
            if self.last.replace(id) != Some(id) {
                return Some(id);
            }
        }
    }
}

/// The filters that have an index, the most selective first.
fn indexed(spec: &Spec) -> &'static [&'static str] {
    match spec.storage {
        "port" => &["device_id", "network_id", "security_groups"],
        "floatingip" => &["port_id", "router_id", "floating_network_id"],
        "subnet" => &["network_id", "subnetpool_id"],
        "security_group_rule" => &["security_group_id"],
        _ => &[],
    }
}

pub(super) fn build(
    spec: &Spec,
    admitted: &Admitted,
    id: Uuid,
) -> Result<Arc<dyn Object>, Refusal> {
    let mut fields = admitted.fields.clone();
    let text = |name: &str| match admitted.fields.get(name) {
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    let mut meta = Meta::new(id, admitted.project_id.clone(), text("name"));
    meta.description = text("description");
    if spec.path.starts_with("overweave/") {
        meta.project_id.clear();
    }
    fields.insert("id".to_owned(), json!(meta.id));
    fields.insert("project_id".to_owned(), json!(meta.project_id));
    fields.entry("name").or_insert_with(|| json!(meta.name));
    fields
        .entry("description")
        .or_insert_with(|| json!(meta.description));
    spec.ops.build(fields)
}

fn id_of(enacted: &Enacted) -> Option<String> {
    enacted
        .object
        .as_ref()
        .map(|object| object.meta().id.to_string())
}

fn rendered(scene: &Scene<'_>, spec: &Spec, enacted: &Enacted) -> Option<Value> {
    let object = enacted.object.as_ref()?;
    let mut row = scene.render(spec.fields(), object.as_ref(), &[]);
    if let Some((name, value)) = &enacted.once {
        row.insert((*name).to_owned(), value.clone());
    }
    Some(Value::Object(row))
}

/// The revision that If-Match asks for; a header in any other form is ignored, as Neutron does.
fn if_match(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get("if-match")?.to_str().ok()?;
    text.trim().strip_prefix("revision_number=")?.parse().ok()
}

fn compare_revision(object: &dyn Object, wanted: Option<u64>) -> Result<(), Refusal> {
    let current = object.meta().revision_number;
    match wanted {
        Some(wanted) if wanted != current => Err(Refusal::Stale { wanted, current }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_several_sources_come_in_order_and_once() {
        let ids = |numbers: &[u128]| -> Ids<'static> {
            let ids: Vec<Uuid> = numbers.iter().copied().map(Uuid::from_u128).collect();
            Box::new(ids.into_iter())
        };
        let merged = Merged::new(vec![ids(&[1, 4, 9]), ids(&[]), ids(&[2, 4, 4, 5])]);
        let merged: Vec<u128> = merged.map(|id| id.as_u128()).collect();
        assert_eq!(merged, [1, 2, 4, 5, 9]);
        assert_eq!(Merged::new(Vec::new()).next(), None);
        // And are read only as they are asked for: a page costs what it shows.
        let read = std::cell::Cell::new(0);
        let endless = (0..).map(|number| {
            read.set(read.get() + 1);
            Uuid::from_u128(number)
        });
        let page = Merged::new(vec![Box::new(endless)]).take(3).count();
        assert_eq!((page, read.get()), (3, 4));
    }
}
