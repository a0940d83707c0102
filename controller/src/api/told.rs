//! What is told of networks that is no object of anybody's?
//!
//! How many addresses of each are used, and the one segment that each is. Both are an admin's to see, made for each answer, and changed with
//! their networks and subnets alone, but for a segment's name and note.

use crate::{
    api::{
        Api, ApiError,
        error::respond,
        finish,
        handlers::{Answer, Asked},
        query,
    },
    policy::Nothing,
    refusal::Refusal,
    resource::{Object, Objects, Resource},
    resources::{Network, Subnet, subnet::Pool},
    rules::{Given, Order, addresses::number, usable},
    store::{Read, Snapshot},
};
use axum::{
    body::Body,
    http::{Method, Request, Response, StatusCode},
};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;

/// The most characters of a segment's name and note.
pub(super) const LONGEST: usize = 255;

/// A collection that is made of networks.
#[derive(Debug)]
pub(super) struct Told {
    /// Below `/v2.0/`.
    pub(super) path: &'static str,
    pub(super) singular: &'static str,
    pub(super) plural: &'static str,
    title: &'static str,
    /// Its fields; the first is the one that it is found by.
    fields: &'static [&'static str],
    row: fn(&Snapshot, &Network, &Asked) -> Option<Row>,
    /// Why none is made, where clients might try.
    pub(super) fixed: Option<&'static str>,
    /// Which of its fields can be changed, and what they are called in the network.
    pub(super) set: &'static [(&'static str, &'static str)],
}

/// All of them.
pub(super) const TOLD: &[Told] = &[
    Told {
        path: "network-ip-availabilities",
        singular: "network_ip_availability",
        plural: "network_ip_availabilities",
        title: "NetworkIpAvailability",
        fields: &[
            "network_id",
            "network_name",
            "tenant_id",
            "project_id",
            "subnet_ip_availability",
            "used_ips",
            "total_ips",
        ],
        row: availability,
        fixed: None,
        set: &[],
    },
    Told {
        path: "segments",
        singular: "segment",
        plural: "segments",
        title: "Segment",
        fields: &[
            "id",
            "network_id",
            "name",
            "description",
            "physical_network",
            "network_type",
            "segmentation_id",
            "revision_number",
            "created_at",
            "updated_at",
        ],
        row: segment,
        fixed: Some("a network is one segment, which is made and changed with it"),
        set: &[("name", "segment_name"), ("description", "segment_note")],
    },
];

/// Numbers of addresses, which JSON's usual numbers are too small for.
#[derive(Debug, Default, Serialize)]
struct Count {
    used_ips: u128,
    total_ips: u128,
}

#[derive(Debug, Serialize)]
struct OfSubnet {
    subnet_id: Uuid,
    subnet_name: String,
    ip_version: u8,
    cidr: net::Prefix,
    #[serde(flatten)]
    count: Count,
}

/// What of a row is counted.
type Counted = Option<(Count, Vec<OfSubnet>)>;

/// What it is found and sorted by, and what of it is counted.
type Row = (Map<String, Value>, Counted);

/// A row with its numbers as they are.
struct Shown(Row);

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (fields, counted) = &self.0;
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        for (name, value) in fields {
            match (counted, name.as_str()) {
                (Some((count, _)), "used_ips") => map.serialize_entry(name, &count.used_ips)?,
                (Some((count, _)), "total_ips") => map.serialize_entry(name, &count.total_ips)?,
                (Some((_, subnets)), "subnet_ip_availability") => {
                    map.serialize_entry(name, subnets)?;
                }
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }
}

fn values<'a>(asked: &'a Asked, name: &str) -> Vec<&'a str> {
    let pairs = asked.pairs.iter().filter(|(key, _)| key == name);
    pairs.map(|(_, value)| value.as_str()).collect()
}

/// How many addresses ports may get, and how many are in use: a router's or a gateway's too, though they are from no pool.
fn availability(snapshot: &Snapshot, network: &Network, asked: &Asked) -> Option<Row> {
    let versions = values(asked, "ip_version");
    let mut subnets = snapshot.related::<Subnet>("network_id", network.meta.id);
    subnets.sort_by_key(|subnet| (subnet.meta.created_at, subnet.meta.id));
    if !versions.is_empty() {
        subnets.retain(|subnet| versions.contains(&subnet.ip_version.to_string().as_str()));
        if subnets.is_empty() {
            return None;
        }
    }
    let mut sum = Count::default();
    let each = subnets.iter().map(|subnet| {
        let count = count(snapshot, subnet);
        sum.used_ips += count.used_ips;
        sum.total_ips = sum.total_ips.saturating_add(count.total_ips);
        OfSubnet {
            subnet_id: subnet.meta.id,
            subnet_name: subnet.meta.name.clone(),
            ip_version: subnet.ip_version,
            cidr: subnet.cidr,
            count,
        }
    });
    let each = each.collect();
    // Sorting and filtering by a number of addresses is by as much of it as JSON's numbers hold.
    let rough = |count: u128| json!(i64::try_from(count).unwrap_or(i64::MAX));
    let fields = [
        ("network_id", json!(network.meta.id)),
        ("network_name", json!(network.meta.name)),
        ("tenant_id", json!(network.meta.project_id)),
        ("project_id", json!(network.meta.project_id)),
        ("subnet_ip_availability", Value::Null),
        ("used_ips", rough(sum.used_ips)),
        ("total_ips", rough(sum.total_ips)),
    ];
    Some((named(fields), Some((sum, each))))
}

fn named<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    let fields = fields.into_iter();
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn count(snapshot: &Snapshot, subnet: &Subnet) -> Count {
    let size = |first, last| (number(last) - number(first)).saturating_add(1);
    let mut pools = 0_u128;
    for Pool { start, end } in &subnet.allocation_pools {
        pools = pools.saturating_add(size(*start, *end));
    }
    let total_ips = if subnet.allocation_pools.is_empty() {
        size(subnet.cidr.addr(), subnet.cidr.last())
    } else {
        pools
    };
    let held = snapshot.scan(&format!("ip/{}/", subnet.meta.id)).count();
    Count {
        used_ips: u128::try_from(held).unwrap_or(u128::MAX),
        total_ips,
    }
}

/// The segment has the id of its network: there is one for each.
#[expect(clippy::unnecessary_wraps, reason = "a row's signature")]
fn segment(_: &Snapshot, network: &Network, _: &Asked) -> Option<Row> {
    let meta = &network.meta;
    let fields = [
        ("id", json!(meta.id)),
        ("network_id", json!(meta.id)),
        ("name", json!(network.segment_name)),
        ("description", json!(network.segment_note)),
        ("physical_network", json!(network.physical_network)),
        ("network_type", json!(network.carrier)),
        ("segmentation_id", json!(network.segment)),
        ("revision_number", json!(meta.revision_number)),
        ("created_at", json!(meta.created_at.iso())),
        ("updated_at", json!(meta.updated_at.iso())),
    ];
    Some((named(fields), None))
}

/// The networks that a query may be about.
fn networks(snapshot: &Snapshot, asked: &Asked) -> Vec<Arc<Network>> {
    let ids = values(asked, "network_id");
    let mut networks: Vec<Arc<Network>> = if ids.is_empty() {
        snapshot.objects::<Network>()
    } else {
        let ids: BTreeSet<Uuid> = ids.iter().filter_map(|id| id.parse().ok()).collect();
        let found = ids.into_iter().filter_map(|id| snapshot.object(id));
        found.collect()
    };
    networks.retain(|network| usable(snapshot, &**network, &asked.caller));
    networks
}

fn shown(key: &str, rows: &impl Serialize) -> Response<Body> {
    respond(StatusCode::OK, &BTreeMap::from([(key, rows)]))
}

impl Told {
    fn may(&self, verb: &str, asked: &Asked) -> bool {
        let (rule, caller) = (format!("{verb}_{}", self.singular), &asked.caller);
        caller.may(&rule, &Nothing, caller.admin)
    }

    fn rows(
        &self,
        snapshot: &Snapshot,
        networks: &[Arc<Network>],
        asked: &Asked,
    ) -> Result<Vec<Shown>, Refusal> {
        let rows = networks.iter();
        let rows = rows.filter_map(|network| (self.row)(snapshot, network, asked));
        let known = |name: &str| self.fields.contains(&name);
        let rows = query::rows_with(&asked.pairs, known, rows.collect())?;
        Ok(rows.into_iter().map(Shown).collect())
    }

    /// The collection.
    pub(super) async fn list(&self, api: &Api, request: Request<Body>) -> Response<Body> {
        if let Some(fixed) = self.fixed.filter(|_| request.method() == Method::POST) {
            let read = api.read(request).await;
            let refused = Refusal::invalid("HTTPBadRequest", fixed);
            return finish(read.and_then(|_| Err(refused.into())));
        }
        let allow: &[_] = if self.fixed.is_some() {
            &["GET", "POST"]
        } else {
            &["GET"]
        };
        let get = api.get_among(request, allow, |asked| {
            let snapshot = api.core.store.snapshot();
            let networks = if self.may("get", asked) {
                networks(&snapshot, asked)
            } else {
                Vec::new()
            };
            let rows = self.rows(&snapshot, &networks, asked)?;
            Ok(shown(self.plural, &rows))
        });
        get.await
    }

    /// One of it.
    pub(super) async fn show(&self, api: &Api, id: &str, request: Request<Body>) -> Response<Body> {
        if request.method() == Method::PUT && !self.set.is_empty() {
            return finish(self.update(api, id, request).await);
        }
        let allow: &[_] = if self.set.is_empty() {
            &["GET"]
        } else {
            &["GET", "PUT"]
        };
        let get = api.get_among(request, allow, |asked| {
            let snapshot = api.core.store.snapshot();
            let network = id.parse().ok().filter(|_| self.may("get", asked));
            let network = network.and_then(|id| snapshot.object::<Network>(id));
            let network = network.filter(|it| usable(&snapshot, &**it, &asked.caller));
            let row = self.rows(&snapshot, network.as_slice(), asked)?.pop();
            let row = row.ok_or_else(|| Refusal::missing(self.title, id))?;
            Ok(shown(self.singular, &row))
        });
        get.await
    }

    /// Changes of it what is its own; the network has another revision then.
    async fn update(&self, api: &Api, id: &str, request: Request<Body>) -> Answer {
        let asked = api.read(request).await?;
        let wanted = self.wanted(&asked.body)?;
        let missing = Refusal::missing(self.title, id);
        if !self.may("update", &asked) {
            return Err(missing.into());
        }
        let given: Given = wanted.keys().cloned().collect();
        let order = move |before: Arc<dyn Object>| {
            let mut fields = before.to_map();
            fields.extend(wanted.clone());
            let after = Network::SPEC.ops.build(fields)?;
            Ok(Order::Update(before, after, given.clone()))
        };
        let enacted = api.enact(Network::SPEC, "update", id, &asked, order);
        enacted.await.map_err(|error| {
            // A network that is not there is a segment that is not.
            if matches!(
                error,
                ApiError::Refused(Refusal::Missing { .. } | Refusal::Foreign { .. })
            ) {
                missing.into()
            } else {
                error
            }
        })?;
        let snapshot = api.core.store.snapshot();
        let network = id
            .parse()
            .ok()
            .and_then(|id| snapshot.object::<Network>(id));
        let row = self.rows(&snapshot, network.as_slice(), &asked)?.pop();
        let row = row.ok_or_else(|| Refusal::missing(self.title, id))?;
        Ok(shown(self.singular, &row))
    }

    /// What a body changes, by the network's names for it.
    fn wanted(&self, bytes: &[u8]) -> Result<Map<String, Value>, Refusal> {
        let bad = |text: String| Refusal::invalid("HTTPBadRequest", text);
        let body: Value = serde_json::from_slice(bytes)
            .ok()
            .ok_or_else(|| bad("Body contains invalid data".to_owned()))?;
        let named = body.get(self.singular).and_then(Value::as_object);
        let named = named.ok_or_else(|| {
            bad(format!(
                "Unable to find '{}' in request body",
                self.singular
            ))
        })?;
        let mut wanted = Map::new();
        for (name, value) in named {
            let Some((_, own)) = self.set.iter().find(|(field, _)| field == name) else {
                return Err(bad(if self.fields.contains(&name.as_str()) {
                    format!("Cannot update read-only attribute {name}")
                } else {
                    format!("Unrecognized attribute(s) '{name}'")
                }));
            };
            let fits = match value {
                Value::Null => true,
                Value::String(text) => text.chars().count() <= LONGEST && !text.contains('\0'),
                Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => false,
            };
            if !fits {
                return Err(Refusal::attribute(
                    name,
                    format_args!("{value} is no text of at most {LONGEST} characters"),
                ));
            }
            wanted.insert((*own).to_owned(), value.clone());
        }
        Ok(wanted)
    }
}
