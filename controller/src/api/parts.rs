//! What is an object made of?
//!
//! The handlers of the collections below an object that its table declares as parts ([`Part`]). A part has an id, by which an alias may
//! find it without its object's, and no more: whose it is, who sees it and which revision it has is its object's, and to change
//! one is to change that.

use crate::{
    api::{
        Api, ApiError, body,
        error::{respond, respond_empty},
        handlers::{Answer, Asked, seen},
        query,
        rights::{self, Subject},
        scene::{Scene, permits},
    },
    refusal::Refusal,
    resource::{Lookup, Object, PART_ID, Part, Spec, Verb, index_prefix},
    rules::{Caller, Given, Order},
    store::Snapshot,
};
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use std::{net::IpAddr, sync::Arc};
use uuid::Uuid;

/// What Octavia shows of a part besides its table, and sorts by.
const OCTAVIAS: &[&str] = &[
    "created_at",
    "updated_at",
    "project_id",
    "provisioning_status",
    "operating_status",
];

/// Where a part was asked for: under which object, and what it is called there.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) spec: &'static Spec,
    pub(super) part: &'static Part,
    /// The object's id; `None` on the alias.
    pub(super) object: Option<String>,
}

impl Place {
    /// The key of a part in a body.
    fn name(&self) -> &'static str {
        match (&self.object, self.part.alias) {
            (None, Some((name, _))) => name,
            (Some(_), _) | (None, None) => self.part.singular,
        }
    }

    /// The name of a verb's policy.
    fn rule(&self, verb: Verb) -> String {
        let (object, part) = (self.spec.singular, self.name());
        match self.object {
            Some(_) => format!("{}_{object}_{part}", verb.word()),
            None => format!("{}_{part}", verb.word()),
        }
    }

    fn missing(&self, id: &str) -> Refusal {
        Refusal::missing(self.part.title, id)
    }

    /// May the caller do this with such a part of this object?
    fn may(
        &self,
        verb: Verb,
        scene: &Scene<'_>,
        object: &dyn Object,
        said: &Map<String, Value>,
    ) -> Result<(), Refusal> {
        let mut subject = Subject::of(scene, object);
        subject.said = Some(said);
        subject.part = true;
        let rule = self.rule(verb);
        rights::authorise_part(&subject, self.part, (verb, &rule), scene.caller)
    }

    /// May the caller ask at all?
    fn asks(&self, caller: &Caller) -> Result<(), Refusal> {
        if caller.roles.is_empty() {
            let rule = self.rule(Verb::Read);
            return Err(Refusal::denied(format!("rule:{rule}")));
        }
        Ok(())
    }

    /// The id of the object that has this part.
    fn object(&self, snapshot: &Snapshot, id: &str) -> Result<String, Refusal> {
        if let Some(object) = &self.object {
            return Ok(object.clone());
        }
        let prefix = index_prefix(self.spec.storage, self.part.plural, id);
        let found = snapshot.ids(&prefix).into_iter().next();
        found
            .map(|object| object.to_string())
            .ok_or_else(|| self.missing(id))
    }

    /// The object, and of it this part.
    fn find(&self, scene: &Scene<'_>, id: &str) -> Result<Found, Refusal> {
        let object = self.object(scene.snapshot, id)?;
        let object = seen(scene, self.spec, &object).map_err(|refusal| {
            // Who asks by the part's id alone hears of the part alone.
            match self.object {
                Some(_) => refusal,
                None => self.missing(id),
            }
        })?;
        let part = part_of(object.as_ref(), self.part, id);
        part.map(|part| (object, part))
            .ok_or_else(|| self.missing(id))
    }
}

/// An object, and the fields of a part of it.
type Found = (Arc<dyn Object>, Map<String, Value>);

fn part_of(object: &dyn Object, kind: &Part, id: &str) -> Option<Map<String, Value>> {
    let id = json!(id.parse::<Uuid>().ok()?);
    let mut parts = object.parts(kind).into_iter();
    parts.find(|part| part.get(PART_ID.name) == Some(&id))
}

/// What a batch names of each part: all fields, and the names of those that were given.
type Batch = Vec<(Map<String, Value>, Vec<String>)>;

fn batch(kind: &Part, bytes: &[u8]) -> Result<Batch, Refusal> {
    let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let many = body.get(kind.plural).and_then(Value::as_array);
    let many = many.ok_or_else(|| {
        Refusal::input(format_args!(
            "unable to find '{}' in request body",
            kind.plural
        ))
    })?;
    let admitted = many.iter().map(|one| {
        let given = one.as_object().into_iter().flat_map(Map::keys).cloned();
        let bytes = json!({kind.singular: one}).to_string();
        let fields = body::part(kind, Verb::Create, kind.singular, bytes.as_bytes())?;
        Ok((fields, given.collect()))
    });
    admitted.collect()
}

/// The same value, an address in whatever form.
fn is_same(one: Option<&Value>, other: Option<&Value>) -> bool {
    let address = |value: Option<&Value>| value?.as_str()?.parse::<IpAddr>().ok();
    one == other || address(one).is_some() && address(one) == address(other)
}

/// An object with these parts: those that are there are changed in what was given, the others are new.
fn replaced(
    before: &Arc<dyn Object>,
    kind: &Part,
    wanted: &[(Uuid, Map<String, Value>, Vec<String>)],
    additive: bool,
) -> Result<Arc<dyn Object>, Refusal> {
    let there = before.parts(kind);
    let is_meant = |part: &Map<String, Value>, fields: &Map<String, Value>| {
        let mut names = kind.batch.iter();
        names.all(|name| is_same(part.get(*name), fields.get(*name)))
    };
    let id_of = |part: &Map<String, Value>| {
        let id = part.get(PART_ID.name).and_then(Value::as_str);
        id.and_then(|id| id.parse::<Uuid>().ok())
    };
    let mut after = Arc::clone(before);
    for part in there.iter().filter(|_| !additive) {
        let stays = wanted.iter().any(|(_, fields, _)| is_meant(part, fields));
        if let Some(id) = id_of(part).filter(|_| !stays) {
            after = after.with_part(kind, id, None)?;
        }
    }
    for (fresh, fields, given) in wanted {
        let old = there.iter().find(|part| is_meant(part, fields));
        let (id, whole) = match old.and_then(|old| Some((id_of(old)?, old))) {
            Some((id, old)) => {
                let mut whole = old.clone();
                let named = fields.iter().filter(|(name, _)| given.contains(name));
                whole.extend(named.map(|(name, value)| (name.clone(), value.clone())));
                (id, whole)
            }
            None => (*fresh, fields.clone()),
        };
        after = after.with_part(kind, id, Some(whole))?;
    }
    Ok(after)
}

impl Api {
    /// GET on a collection of parts.
    pub(super) fn list_parts(&self, place: &Place, asked: &Asked) -> Answer {
        place.asks(&asked.caller)?;
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let id = place.object.as_deref().unwrap_or_default();
        let object = seen(&scene, place.spec, id)?;
        let of_octavia = place.spec.path.starts_with("lbaas/");
        let known = |name: &str| {
            let own = name == PART_ID.name || place.part.field(name).is_some();
            own || of_octavia && OCTAVIAS.contains(&name)
        };
        let mut rows = object.parts(place.part);
        rows.retain(|row| place.may(Verb::Read, &scene, object.as_ref(), row).is_ok());
        let rows = if of_octavia {
            query::rows(&query::of_octavia(&asked.pairs), known, rows)?
        } else {
            query::rows(&asked.pairs, known, rows)?
        };
        Ok(respond(StatusCode::OK, &json!({place.part.plural: rows})))
    }

    /// GET on a part.
    pub(super) fn show_part(&self, place: &Place, id: &str, asked: &Asked) -> Answer {
        place.asks(&asked.caller)?;
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let (object, part) = place.find(&scene, id)?;
        if place
            .may(Verb::Read, &scene, object.as_ref(), &part)
            .is_err()
        {
            return Err(place.missing(id).into());
        }
        let known = |name: &str| name == PART_ID.name || place.part.field(name).is_some();
        let only: Vec<_> = asked
            .pairs
            .iter()
            .filter(|(name, _)| name == "fields")
            .cloned()
            .collect();
        let shown = query::rows(&only, known, vec![part])?.pop();
        Ok(respond(StatusCode::OK, &json!({place.name(): shown})))
    }

    /// POST on a collection of parts.
    pub(super) async fn create_part(&self, place: &Place, asked: &Asked) -> Answer {
        let (spec, kind) = (place.spec, place.part);
        let fields = body::part(kind, Verb::Create, place.name(), &asked.body)?;
        let object = place.object.clone().unwrap_or_default();
        self.may_make_part(place, &object, &fields, asked)?;
        let part = self.core.occasion().moment().dice.uuid();
        let made = self.enact(spec, "update", &object, asked, move |before| {
            let after = before.with_part(kind, part, Some(fields.clone()))?;
            Ok(Order::Update(before, after, Given::new()))
        });
        let made = made.await?.object;
        let id = part.to_string();
        let shown = made.and_then(|object| part_of(object.as_ref(), kind, &id));
        Ok(respond(StatusCode::CREATED, &json!({place.name(): shown})))
    }

    /// PUT on a collection of parts: they are what the body says, and those that it does not mean go, or stay with `additive_only`.
    pub(super) async fn replace_parts(&self, place: &Place, asked: &Asked) -> Answer {
        let (spec, kind) = (place.spec, place.part);
        if kind.batch.is_empty() {
            return Err(ApiError::no_method(&["GET", "POST"]));
        }
        let additive = asked
            .pairs
            .iter()
            .any(|(name, value)| name == "additive_only" && value.eq_ignore_ascii_case("true"));
        let wanted = batch(kind, &asked.body)?;
        let object = place.object.clone().unwrap_or_default();
        for (fields, _) in &wanted {
            self.may_make_part(place, &object, fields, asked)?;
        }
        let wanted: Vec<_> = {
            let fresh = self.core.occasion();
            let moment = fresh.moment();
            let wanted = wanted.into_iter();
            wanted
                .map(|(fields, given)| (moment.dice.uuid(), fields, given))
                .collect()
        };
        let made = self.enact(spec, "update", &object, asked, move |before| {
            let after = replaced(&before, kind, &wanted, additive)?;
            Ok(Order::Update(before, after, Given::new()))
        });
        made.await?;
        Ok(respond_empty(StatusCode::ACCEPTED))
    }

    /// PUT on a part.
    pub(super) async fn update_part(&self, place: &Place, id: &str, asked: &Asked) -> Answer {
        let (spec, kind) = (place.spec, place.part);
        let fields = body::part(kind, Verb::Update, place.name(), &asked.body)?;
        let (object, part) = self.found(place, id, Verb::Update, asked)?;
        let (at, missing) = (id.to_owned(), place.missing(id));
        let made = self.enact(spec, "update", &object, asked, move |before| {
            let had = part_of(before.as_ref(), kind, &at);
            let mut all = had.ok_or_else(|| missing.clone())?;
            all.extend(fields.clone());
            let after = before.with_part(kind, part, Some(all))?;
            Ok(Order::Update(before, after, Given::new()))
        });
        let made = made.await?.object;
        let shown = made.and_then(|object| part_of(object.as_ref(), kind, id));
        Ok(respond(StatusCode::OK, &json!({place.name(): shown})))
    }

    /// DELETE on a part.
    pub(super) async fn delete_part(&self, place: &Place, id: &str, asked: &Asked) -> Answer {
        let (spec, kind) = (place.spec, place.part);
        let (object, part) = self.found(place, id, Verb::Delete, asked)?;
        let (at, missing) = (id.to_owned(), place.missing(id));
        let gone = self.enact(spec, "update", &object, asked, move |before| {
            part_of(before.as_ref(), kind, &at).ok_or_else(|| missing.clone())?;
            let after = before.with_part(kind, part, None)?;
            Ok(Order::Update(before, after, Given::new()))
        });
        gone.await?;
        Ok(respond_empty(StatusCode::NO_CONTENT))
    }

    /// The ids of a part that the caller sees and may do this with, and of its object.
    fn found(
        &self,
        place: &Place,
        id: &str,
        verb: Verb,
        asked: &Asked,
    ) -> Result<(String, Uuid), Refusal> {
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, &asked.caller);
        let (object, fields) = place.find(&scene, id)?;
        let part = id.parse().ok().ok_or_else(|| place.missing(id))?;
        place.may(verb, &scene, object.as_ref(), &fields)?;
        Ok((object.meta().id.to_string(), part))
    }

    /// May the caller make such a part? Who may not hears so before it hears that there is no such object.
    fn may_make_part(
        &self,
        place: &Place,
        object: &str,
        fields: &Map<String, Value>,
        asked: &Asked,
    ) -> Result<(), Refusal> {
        let rule = place.rule(Verb::Create);
        let caller = &asked.caller;
        let built_in = caller.member && permits(place.part.policy, caller);
        if !(caller.is_told(&rule) || built_in) {
            return Err(Refusal::denied(format!("rule:{rule}")));
        }
        let snapshot = self.core.store.snapshot();
        let scene = self.scene(&snapshot, caller);
        let object = seen(&scene, place.spec, object)?;
        place.may(Verb::Create, &scene, object.as_ref(), fields)
    }
}
