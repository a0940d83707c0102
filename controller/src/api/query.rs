//! Which objects, in which order, and which part of them?
//!
//! The query of a list: filters (repeated values are alternatives), tag filters, `fields`, sort keys
//! with directions, pages by limit and marker with links both ways.

use crate::{
    api::{
        rights::{Sight, sight},
        scene::Scene,
    },
    refusal::Refusal,
    resource::{Field, Kind, Object, Spec, boolean},
    time::Seconds,
};
use serde_json::{Map, Value, json};
use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};
use uuid::Uuid;

#[cfg(test)]
const RESERVED: &[&str] = &[
    "fields",
    "limit",
    "marker",
    "page_reverse",
    "sort_key",
    "sort_dir",
];
const TAG_FILTERS: &[&str] = &["tags", "tags-any", "not-tags", "not-tags-any"];

/// A parsed query.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// As it came, for links.
    pairs: Vec<(String, String)>,
    filters: BTreeMap<String, Vec<String>>,
    tags: Vec<(String, Vec<String>)>,
    /// Only what was changed then or later.
    since: Option<Seconds>,
    /// The fields to show; all if empty.
    pub fields: Vec<String>,
    sort: Vec<(String, bool)>,
    limit: Option<usize>,
    marker: Option<String>,
    reverse: bool,
}

/// The objects of an answer, and the links of a page.
pub(crate) type Selection = (Vec<Arc<dyn Object>>, Vec<Value>);

fn bad(text: impl Into<String>) -> Refusal {
    Refusal::invalid("HTTPBadRequest", text)
}

/// The time of a `changed_since`, in UTC: with a `Z` at its end or without, as Neutron takes it.
fn changed_since(value: &str) -> Result<Seconds, Refusal> {
    Seconds::parse(value).ok_or_else(|| {
        let text = format!(
            "Invalid input for operation: The input {value} for changed_since must be in the following format: YYYY-MM-DDTHH:MM:SS[Z]."
        );
        Refusal::invalid("InvalidInput", text)
    })
}

impl Query {
    /// Parses the pairs of a query string.
    ///
    /// # Errors
    /// When limits, sort keys or directions are not valid.
    pub fn parse(spec: &Spec, pairs: Vec<(String, String)>) -> Result<Self, Refusal> {
        let mut query = Self::default();
        let (mut keys, mut directions) = (Vec::new(), Vec::new());
        for (name, value) in &pairs {
            match name.as_str() {
                "fields" => query.fields.push(value.clone()),
                "sort_key" => keys.push(value.clone()),
                "sort_dir" => directions.push(value.clone()),
                // Octavia's: `name:desc,id`.
                "sort" if spec.path.starts_with("lbaas/") => {
                    for (key, direction) in octavias_sort(value) {
                        keys.push(key.to_owned());
                        directions.push(direction.to_owned());
                    }
                }
                "marker" => query.marker = Some(value.clone()),
                "page_reverse" => query.reverse = value.eq_ignore_ascii_case("true"),
                "limit" => {
                    let limit = value.parse::<usize>().ok().ok_or_else(|| {
                        Refusal::invalid(
                            "BadRequest",
                            format!(
                                "Bad limit request: Limit must be an integer 0 or greater and not '{value}'."
                            ),
                        )
                    })?;
                    query.limit = (limit > 0).then_some(limit);
                }
                "changed_since" => query.since = Some(changed_since(value)?),
                name if TAG_FILTERS.contains(&name) => {
                    let tags = value.split(',').map(str::to_owned).collect();
                    query.tags.push((name.to_owned(), tags));
                }
                name => {
                    query
                        .filters
                        .entry(name.to_owned())
                        .or_default()
                        .push(value.clone());
                }
            }
        }
        let known = |name: &str| spec.field(name).is_some();
        query.sort = sort_keys(known, &keys, &directions)?;
        if query.sort.is_empty() && spec.path.starts_with("lbaas/") {
            // Octavia's order.
            query.sort = vec![("created_at".to_owned(), false)];
        }
        query.pairs = pairs;
        Ok(query)
    }

    /// The values of an exact filter.
    pub(crate) fn filter(&self, name: &str) -> Option<&[String]> {
        self.filters.get(name).map(Vec::as_slice)
    }

    /// Is a page of the natural order all that is wanted? Then nothing before it need be read.
    fn is_plain_page(&self) -> bool {
        self.sort.is_empty() && !self.reverse && self.limit.is_some()
    }

    /// The id from which on candidates matter.
    pub(crate) fn start(&self) -> Option<Uuid> {
        let marker = self.marker.as_ref().filter(|_| self.is_plain_page())?;
        marker.parse().ok()
    }

    /// The objects of the answer, and its links. Candidates come in the order of their ids, and pass the filter `passed` all.
    ///
    /// # Errors
    /// When a filter's value is not valid, or the marker is not known.
    pub(crate) fn select(
        &self,
        spec: &Spec,
        candidates: impl Iterator<Item = Arc<dyn Object>>,
        passed: Option<&str>,
        scene: &Scene<'_>,
        base: &str,
    ) -> Result<Selection, Refusal> {
        let mut filters = self.compiled(spec, scene)?;
        filters.retain(|(field, _)| Some(field.name) != passed);
        let mut chosen = candidates.filter(|object| {
            self.since
                .is_none_or(|since| object.meta().updated_at >= since)
                && self.tags_match(&object.meta().tags)
                && matches(&filters, object.as_ref(), scene)
        });
        if let Some(limit) = self.limit.filter(|_| self.is_plain_page()) {
            if let Some(marker) = &self.marker {
                let first = chosen.next().map(|object| object.meta().id.to_string());
                if first.as_ref() != Some(marker) {
                    return Err(Refusal::missing(spec.title, marker));
                }
            }
            let page: Vec<Arc<dyn Object>> = chosen.take(limit).collect();
            let links = self.links(&page, limit, base);
            return Ok((page, links));
        }
        let mut chosen: Vec<Arc<dyn Object>> = chosen.collect();
        self.sort(spec, &mut chosen, scene);
        let Some(limit) = self.limit else {
            return Ok((self.after_marker(spec, chosen)?, Vec::new()));
        };
        let page = self.page(spec, chosen, limit)?;
        let links = self.links(&page, limit, base);
        Ok((page, links))
    }

    fn compiled<'a>(
        &'a self,
        spec: &'a Spec,
        scene: &Scene<'_>,
    ) -> Result<Vec<(&'a Field, Vec<Wanted>)>, Refusal> {
        let mut filters = Vec::new();
        for (name, values) in &self.filters {
            // Unknown filters are ignored, as Neutron does without its validation extension.
            let Some(field) = spec.field(name).filter(|field| field.filter) else {
                continue;
            };
            if matches!(sight(spec, field, scene.caller), Sight::Never) {
                continue;
            }
            let wanted: Result<Vec<_>, _> = values.iter().map(|v| Wanted::of(field, v)).collect();
            filters.push((field, wanted?));
        }
        Ok(filters)
    }

    fn tags_match(&self, have: &[String]) -> bool {
        let mut filters = self.tags.iter();
        filters.all(|(kind, tags)| tags_match(kind, tags, |tag| have.iter().any(|t| t == tag)))
    }

    fn sort(&self, spec: &Spec, chosen: &mut [Arc<dyn Object>], scene: &Scene<'_>) {
        if self.sort.is_empty() {
            return; // candidates come in the order of their ids
        }
        let keys: Vec<(&Field, bool)> = self
            .sort
            .iter()
            .filter_map(|(name, descending)| Some((spec.field(name)?, *descending)))
            .collect();
        chosen.sort_by_cached_key(|object| {
            let mut stored = object.to_map();
            let values = keys.iter().map(|(field, descending)| SortKey {
                value: scene.value(field, object.as_ref(), &mut stored),
                descending: *descending,
            });
            (values.collect::<Vec<_>>(), object.meta().id)
        });
    }

    fn marker_index(
        &self,
        spec: &Spec,
        chosen: &[Arc<dyn Object>],
    ) -> Result<Option<usize>, Refusal> {
        let Some(marker) = &self.marker else {
            return Ok(None);
        };
        let id: Option<Uuid> = marker.parse().ok();
        let at = chosen
            .iter()
            .position(|object| Some(object.meta().id) == id);
        // Neutron's pages of policies begin anew at one that the caller does not see.
        if at.is_none() && spec.storage == "qos_policy" {
            return Ok(None);
        }
        at.map(Some)
            .ok_or_else(|| Refusal::missing(spec.title, marker))
    }

    fn after_marker(
        &self,
        spec: &Spec,
        chosen: Vec<Arc<dyn Object>>,
    ) -> Result<Vec<Arc<dyn Object>>, Refusal> {
        Ok(match self.marker_index(spec, &chosen)? {
            Some(at) if self.reverse => chosen.into_iter().take(at).collect(),
            Some(at) => chosen.into_iter().skip(at + 1).collect(),
            None => chosen,
        })
    }

    fn page(
        &self,
        spec: &Spec,
        chosen: Vec<Arc<dyn Object>>,
        limit: usize,
    ) -> Result<Vec<Arc<dyn Object>>, Refusal> {
        let mut rest = self.after_marker(spec, chosen)?;
        if self.reverse {
            rest.drain(..rest.len().saturating_sub(limit));
        } else {
            rest.truncate(limit);
        }
        Ok(rest)
    }

    fn links(&self, page: &[Arc<dyn Object>], limit: usize, base: &str) -> Vec<Value> {
        let full = page.len() >= limit;
        let mut links = Vec::new();
        if full || self.reverse {
            links.push(json!({"rel": "next", "href": self.link(base, page.last(), false)}));
        }
        if full || !self.reverse {
            links.push(json!({"rel": "previous", "href": self.link(base, page.first(), true)}));
        }
        links
    }

    fn link(&self, base: &str, marker: Option<&Arc<dyn Object>>, reverse: bool) -> String {
        let mut link = base.to_owned();
        let mut separator = '?';
        let mut pair = |name: &str, value: &str| {
            link.push(separator);
            separator = '&';
            encode(&mut link, name);
            link.push('=');
            encode(&mut link, value);
        };
        for (name, value) in &self.pairs {
            if name != "marker" && name != "page_reverse" {
                pair(name, value);
            }
        }
        if let Some(marker) = marker {
            pair("marker", &marker.meta().id.to_string());
        }
        if reverse {
            pair("page_reverse", "True");
        }
        link
    }
}

/// The same for rows of a few fields that are no objects: filters, sort keys and `fields`. They are few: there are no pages.
///
/// # Errors
/// When sort keys or directions are not valid.
pub(super) fn rows(
    pairs: &[(String, String)],
    known: impl Fn(&str) -> bool,
    rows: Vec<Map<String, Value>>,
) -> Result<Vec<Map<String, Value>>, Refusal> {
    let rows = rows.into_iter().map(|row| (row, ())).collect();
    let rows = rows_with(pairs, known, rows)?;
    Ok(rows.into_iter().map(|(row, ())| row).collect())
}

/// Does what has these tags pass a filter of a kind of [`TAG_FILTERS`]?
fn tags_match(kind: &str, wanted: &[String], has: impl Fn(&str) -> bool) -> bool {
    let (any, all) = (
        wanted.iter().any(|tag| has(tag)),
        wanted.iter().all(|tag| has(tag)),
    );
    match kind {
        "tags" => all,
        "tags-any" => any,
        "not-tags" => !all,
        _ => !any,
    }
}

/// Rows, each with what belongs to it.
type Rows<T> = Vec<(Map<String, Value>, T)>;

/// The same, each row with what belongs to it.
///
/// # Errors
/// When sort keys or directions are not valid.
pub(super) fn rows_with<T>(
    pairs: &[(String, String)],
    known: impl Fn(&str) -> bool,
    mut rows: Rows<T>,
) -> Result<Rows<T>, Refusal> {
    let values = |name: &str| -> Vec<String> {
        let of = pairs.iter().filter(|(key, _)| key == name);
        of.map(|(_, value)| value.clone()).collect()
    };
    let keys = sort_keys(&known, &values("sort_key"), &values("sort_dir"))?;
    let text = |value: &Value| {
        let text = value.as_str().map(str::to_owned);
        text.unwrap_or_else(|| value.to_string())
    };
    let tagged = |row: &Map<String, Value>| {
        let Some(have) = row.get("tags").and_then(Value::as_array) else {
            return true;
        };
        let mut asked = pairs
            .iter()
            .filter(|(name, _)| TAG_FILTERS.contains(&name.as_str()));
        asked.all(|(kind, tags)| {
            let wanted: Vec<String> = tags.split(',').map(str::to_owned).collect();
            tags_match(kind, &wanted, |tag| have.iter().any(|t| t == tag))
        })
    };
    rows.retain(|(row, _)| {
        let mut exact = row
            .iter()
            .filter(|(name, value)| !(name.as_str() == "tags" && value.is_array()));
        tagged(row)
            && exact.all(|(name, value)| {
                let wanted = values(name);
                wanted.is_empty() || wanted.contains(&text(value))
            })
    });
    rows.sort_by_cached_key(|(row, _)| {
        let values = keys.iter().map(|(name, descending)| SortKey {
            value: row.get(name).cloned().unwrap_or_default(),
            descending: *descending,
        });
        values.collect::<Vec<_>>()
    });
    let only = values("fields");
    if !only.is_empty() {
        for (row, _) in &mut rows {
            row.retain(|name, _| only.contains(name));
        }
    }
    Ok(rows)
}

/// Octavia's word for an order, `name:desc,id`: keys and directions.
fn octavias_sort(value: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = value.split(',');
    parts.map(|part| part.split_once(':').unwrap_or((part, "asc")))
}

/// A query in Octavia's words, in Neutron's.
pub(super) fn of_octavia(pairs: &[(String, String)]) -> Vec<(String, String)> {
    let mut worded = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        if name != "sort" {
            worded.push((name.clone(), value.clone()));
            continue;
        }
        for (key, direction) in octavias_sort(value) {
            worded.push(("sort_key".to_owned(), key.to_owned()));
            worded.push(("sort_dir".to_owned(), direction.to_owned()));
        }
    }
    worded
}

/// Sort keys, and whether each goes downwards.
fn sort_keys(
    known: impl Fn(&str) -> bool,
    keys: &[String],
    directions: &[String],
) -> Result<Vec<(String, bool)>, Refusal> {
    if keys.len() != directions.len() {
        return Err(bad("The number of sort_keys and sort_dirs must be same"));
    }
    let listed = |words: Vec<&String>| {
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        words.join(", ")
    };
    let unknown: Vec<&String> = keys.iter().filter(|key| !known(key)).collect();
    if !unknown.is_empty() {
        return Err(bad(format!(
            "[{}] is invalid attribute for sort_keys",
            listed(unknown)
        )));
    }
    let wrong: Vec<&String> = directions
        .iter()
        .filter(|word| *word != "asc" && *word != "desc")
        .collect();
    if !wrong.is_empty() {
        return Err(bad(format!(
            "[{}] is invalid value for sort_dirs, valid value is 'asc' and 'desc'",
            listed(wrong)
        )));
    }
    Ok(keys
        .iter()
        .cloned()
        .zip(directions.iter().map(|word| word == "desc"))
        .collect())
}

/// One acceptable value of a filter.
#[derive(Debug)]
enum Wanted {
    Bool(bool),
    Text(String),
    Nothing,
    /// Of a list of objects: this key has this value.
    Part(String, String),
    /// Of a list of objects: this key holds this text.
    PartOf(String, String),
}

impl Wanted {
    fn of(field: &Field, value: &str) -> Result<Self, Refusal> {
        match field.kind {
            Kind::Bool => boolean(&json!(value)).map(Self::Bool).ok_or_else(|| {
                Refusal::input(format_args!("'{value}' cannot be converted to boolean"))
            }),
            Kind::Mac => Ok(Self::Text(value.to_ascii_lowercase())),
            Kind::Shape(_) if value.contains('=') => {
                let (key, value) = value.split_once('=').unwrap_or((value, ""));
                Ok(match key.strip_suffix("_substr") {
                    Some(key) => Self::PartOf(key.to_owned(), value.to_owned()),
                    None => Self::Part(key.to_owned(), value.to_owned()),
                })
            }
            _ if value.is_empty() => Ok(Self::Nothing),
            Kind::Uuid
            | Kind::IdOf(_)
            | Kind::Text(_)
            | Kind::Int(..)
            | Kind::Address
            | Kind::Cidr
            | Kind::OneOf(_)
            | Kind::OneOfNumbers(_)
            | Kind::Uuids
            | Kind::Words
            | Kind::Shape(_) => Ok(Self::Text(value.to_owned())),
        }
    }

    fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Bool(wanted), Value::Bool(value)) => wanted == value,
            (Self::Nothing, Value::Null) => true,
            (Self::Nothing, Value::String(text)) => text.is_empty(),
            (Self::Nothing, Value::Array(items)) => items.is_empty(),
            (Self::Text(wanted), Value::String(text)) => wanted == text,
            (Self::Text(wanted), Value::Number(number)) => *wanted == number.to_string(),
            (_, Value::Array(items)) => items.iter().any(|item| self.holds(item)),
            (Self::Part(key, wanted), Value::Object(object)) => {
                object.get(key).and_then(Value::as_str) == Some(wanted)
            }
            (Self::PartOf(key, wanted), Value::Object(object)) => object
                .get(key)
                .and_then(Value::as_str)
                .is_some_and(|text| text.contains(wanted)),
            _ => false,
        }
    }
}

fn matches(filters: &[(&Field, Vec<Wanted>)], object: &dyn Object, scene: &Scene<'_>) -> bool {
    let mut stored: Option<Map<String, Value>> = None;
    filters.iter().all(|(field, wanted)| {
        // What is not seen of an object is not found by it either.
        if scene.caller.policies.is_some() && !scene.sees(field, object) {
            return false;
        }
        let meta = object.meta();
        // The most common filters need no JSON of the object.
        let value = match field.name {
            "id" => json!(meta.id),
            "name" => json!(meta.name),
            "project_id" | "tenant_id" => json!(meta.project_id),
            _ => {
                let stored = stored.get_or_insert_with(|| object.to_map());
                if field.derived {
                    scene.value(field, object, stored)
                } else {
                    stored.get(field.name).cloned().unwrap_or(Value::Null)
                }
            }
        };
        wanted.iter().any(|wanted| wanted.holds(&value))
    })
}

#[derive(Debug, PartialEq, Eq)]
struct SortKey {
    value: Value,
    descending: bool,
}

impl Ord for SortKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = compare(&self.value, &other.value);
        if self.descending {
            order.reverse()
        } else {
            order
        }
    }
}

impl PartialOrd for SortKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn compare(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => a.as_i64().cmp(&b.as_i64()),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        (a, b) => a.to_string().cmp(&b.to_string()),
    }
}

/// Percent-encodes all but what RFC 3986 calls unreserved.
pub(crate) fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 0xf] {
                let digit = char::from_digit(u32::from(nibble), 16).unwrap_or('0');
                out.push(digit.to_ascii_uppercase());
            }
        }
    }
}

/// Is the name one that pages and sorts, not a filter?
#[cfg(test)]
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || TAG_FILTERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{resource::Resource, resources::Network, resources::REGISTRY};

    fn pairs(text: &str) -> Vec<(String, String)> {
        text.split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn no_field_has_the_name_of_a_query_word() {
        for spec in REGISTRY {
            for field in spec.fields().filter(|field| field.name != "tags") {
                assert!(!is_reserved(field.name), "{}.{}", spec.singular, field.name);
            }
        }
    }

    #[test]
    fn bad_limits_and_sorts_are_refused() {
        for query in [
            "limit=-1",
            "limit=abc",
            "sort_key=name",
            "sort_dir=asc",
            "sort_key=bogus&sort_dir=asc",
            "sort_key=name&sort_dir=sideways",
        ] {
            assert!(
                Query::parse(Network::SPEC, pairs(query)).is_err(),
                "{query}"
            );
        }
        assert!(Query::parse(Network::SPEC, pairs("sort_key=name&sort_dir=desc")).is_ok());
        assert_eq!(
            Query::parse(Network::SPEC, pairs("limit=0")).unwrap().limit,
            None
        );
    }

    #[test]
    fn values_are_compared_by_kind() {
        let field = Network::SPEC.field("admin_state_up").unwrap();
        assert!(Wanted::of(field, "True").unwrap().holds(&json!(true)));
        assert!(Wanted::of(field, "maybe").is_err());
        let mtu = Network::SPEC.field("mtu").unwrap();
        assert!(Wanted::of(mtu, "1450").unwrap().holds(&json!(1450)));
        let ips = crate::resources::Port::SPEC.field("fixed_ips").unwrap();
        let have = json!([{"ip_address": "10.0.0.50", "subnet_id": "s"}]);
        assert!(
            Wanted::of(ips, "ip_address=10.0.0.50")
                .unwrap()
                .holds(&have)
        );
        assert!(
            Wanted::of(ips, "ip_address_substr=0.5")
                .unwrap()
                .holds(&have)
        );
        assert!(!Wanted::of(ips, "ip_address=10.0.0.5").unwrap().holds(&have));
        assert!(Wanted::Nothing.holds(&json!("")) && Wanted::Nothing.holds(&Value::Null));
    }
}
