//! What is decided by a request's head?
//!
//! A policy of a listener of HTTP applies where all of its rules hold; of those that do the first by position decides. Rules are its parts. Both come to a
//! proxy with the rest of the load balancer: what could be read there as more than a value is refused.

use super::{
    Listener, Pool, invalid, list_shape, listener::fits, named, not_ones_own, of_project,
    operating, pool::is_token, provisioning, proxy, unsupported,
};
use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Field, Kind, Meta, OCTAVIAS_TAGS, Objects, Operations, Ops, Part, Policy,
        Resource, Spec, field,
    },
    rules::{Caller, Change, Judged, Rule, Write},
    store::{Read, View},
    time::Seconds,
};
use hostconfig::proxy::{Compare, HttpAction, HttpPart, HttpRule};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// Policies of a listener: a request may be compared with the rules of each.
const POLICIES: usize = 100;
/// Rules of a policy, as in Octavia.
const RULES: usize = 50;
/// Behind all others.
const LAST: i64 = i32::MAX as i64;
/// How a client is sent elsewhere, if nobody said it.
const FOUND: u16 = 302;
const LONGEST: usize = 255;

const TO_POOL: &str = "REDIRECT_TO_POOL";
const TO_URL: &str = "REDIRECT_TO_URL";
const TO_PREFIX: &str = "REDIRECT_PREFIX";
const REJECT: &str = "REJECT";

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct L7Rule {
    /// Identity.
    pub id: Uuid,
    /// What is looked at.
    #[serde(rename = "type")]
    pub kind: String,
    /// How it is compared.
    pub compare_type: String,
    /// Which header or cookie.
    #[serde(default)]
    pub key: Option<String>,
    /// With what.
    pub value: String,
    /// Must it not hold?
    #[serde(default)]
    pub invert: bool,
    /// Is it asked?
    pub admin_state_up: bool,
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// When it was made.
    #[serde(default)]
    pub created_at: Seconds,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Seconds,
}

/// A policy of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct L7Policy {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// Whose it is.
    pub listener_id: Uuid,
    /// What it does.
    pub action: String,
    /// Which pool serves then.
    #[serde(default)]
    pub redirect_pool_id: Option<Uuid>,
    /// Where the client is sent.
    #[serde(default)]
    pub redirect_url: Option<String>,
    /// Below what the client is sent.
    #[serde(default)]
    pub redirect_prefix: Option<String>,
    /// By which status.
    #[serde(default)]
    pub redirect_http_code: Option<u16>,
    /// Its place among its listener's, from 1.
    pub position: i64,
    /// Does it decide?
    pub admin_state_up: bool,
    /// When it applies: where all of them hold.
    #[serde(default)]
    pub rules: Vec<L7Rule>,
}

static OPS: Ops<L7Policy> = Ops::new();

const RULE_FIELDS: &[Field] = &[
    field(
        "type",
        Kind::OneOf(&[
            "HOST_NAME",
            "PATH",
            "FILE_TYPE",
            "HEADER",
            "COOKIE",
            "SSL_CONN_HAS_CERT",
            "SSL_VERIFY_RESULT",
            "SSL_DN_FIELD",
        ]),
        "What is looked at: HOST_NAME, PATH, FILE_TYPE, HEADER or COOKIE.",
    )
    .writable(Absent::Required),
    field(
        "compare_type",
        Kind::OneOf(&["REGEX", "STARTS_WITH", "ENDS_WITH", "CONTAINS", "EQUAL_TO"]),
        "How it is compared.",
    )
    .writable(Absent::Required),
    field(
        "key",
        Kind::Shape(line_shape),
        "The name of the header or cookie.",
    )
    .writable(Absent::Null)
    .or_null(),
    field(
        "value",
        Kind::Shape(line_shape),
        "With what: a text, or a regular expression.",
    )
    .writable(Absent::Required),
    field("invert", Kind::Bool, "Must it not hold?").writable(Absent::Bool(false)),
    field("admin_state_up", Kind::Bool, "Is it asked?").writable(Absent::Bool(true)),
    OCTAVIAS_TAGS,
];

impl Resource for L7Policy {
    const SPEC: &'static Spec = &Spec {
        singular: "l7policy",
        plural: "l7policies",
        path: "lbaas/l7policies",
        storage: "l7policy",
        title: "L7Policy",
        doc: "What is decided by a request's head.",
        verbs: ALL,
        policy: Policy::Anyone,
        quota: Some(("l7policy", 100)),
        tags: true,
        bare: false,
        fields: &[
            field(
                "listener_id",
                Kind::Uuid,
                "The listener of HTTP whose requests it decides.",
            )
            .create_only(Absent::Required),
            field(
                "action",
                Kind::OneOf(&[TO_POOL, TO_URL, TO_PREFIX, REJECT]),
                "What it does.",
            )
            .writable(Absent::Required),
            field("redirect_pool_id", Kind::Uuid, "The pool that serves then.")
                .writable(Absent::Null)
                .or_null(),
            field(
                "redirect_url",
                Kind::Text(LONGEST),
                "The URL that the client is sent to.",
            )
            .writable(Absent::Null)
            .or_null(),
            field(
                "redirect_prefix",
                Kind::Text(LONGEST),
                "The URL below which the client is sent to the same path.",
            )
            .writable(Absent::Null)
            .or_null(),
            field(
                "redirect_http_code",
                Kind::OneOfNumbers(&[301, 302, 303, 307, 308]),
                "The status by which the client is sent elsewhere.",
            )
            .writable(Absent::Null)
            .or_null(),
            field(
                "position",
                Kind::Int(1, LAST),
                "Its place among its listener's policies: the first that applies decides.",
            )
            .writable(Absent::Int(LAST)),
            field("admin_state_up", Kind::Bool, "Does it decide?").writable(Absent::Bool(true)),
            field(
                "provisioning_status",
                Kind::Text(16),
                "ACTIVE, or ERROR if a switch refused it.",
            )
            .computed(),
            field("operating_status", Kind::Text(16), "ONLINE or OFFLINE.").computed(),
            field("rules", Kind::Shape(list_shape), "Its rules.")
                .computed()
                .unfiltered(),
        ],
        actions: &[],
        parts: &[Part {
            singular: "rule",
            plural: "rules",
            title: "L7Rule",
            doc: "What must hold of a request.",
            policy: Policy::Anyone,
            alias: None,
            batch: &[],
            fields: RULE_FIELDS,
        }],
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[
        placed, consistent, served, sound, stamped, ordered, followed,
    ];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let mut index = vec![("listener_id", self.listener_id.to_string())];
        let pool = self.redirect_pool_id;
        index.extend(pool.map(|id| ("redirect_pool_id", id.to_string())));
        index
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "provisioning_status" => json!(provisioning(scene, [self.listener_id])),
            "operating_status" => json!(operating(self.admin_state_up)),
            "rules" => named(self.rules.iter().map(|rule| rule.id)),
            _ => Value::Null,
        }
    }

    fn parts(&self, _: &Part) -> Vec<Map<String, Value>> {
        let rules = self.rules.iter().map(|rule| {
            let Value::Object(mut fields) = json!(rule) else {
                unreachable!("a rule is a struct with text keys")
            };
            fields.insert("created_at".to_owned(), json!(rule.created_at.bare()));
            fields.insert("updated_at".to_owned(), json!(rule.updated_at.bare()));
            fields.insert("project_id".to_owned(), json!(self.meta.project_id));
            fields.insert("provisioning_status".to_owned(), json!("ACTIVE"));
            let status = operating(rule.admin_state_up);
            fields.insert("operating_status".to_owned(), json!(status));
            fields
        });
        rules.collect()
    }

    fn with_part(
        &self,
        kind: &Part,
        id: Uuid,
        fields: Option<Map<String, Value>>,
    ) -> Result<Self, Refusal> {
        let mut policy = self.clone();
        let at = policy.rules.iter().position(|rule| rule.id == id);
        let Some(mut fields) = fields else {
            policy.rules.retain(|rule| rule.id != id);
            return Ok(policy);
        };
        fields.insert("id".to_owned(), json!(id));
        // Its times are not a request's to say.
        fields.remove("created_at");
        fields.remove("updated_at");
        let mut rule: L7Rule = serde_json::from_value(Value::Object(fields))
            .map_err(|error| Refusal::input(format_args!("{}: {error}", kind.singular)))?;
        if !has_key(&rule.kind) {
            rule.key = None;
        }
        match at.and_then(|at| policy.rules.get_mut(at)) {
            Some(there) => {
                *there = L7Rule {
                    created_at: there.created_at,
                    updated_at: there.updated_at,
                    ..rule
                }
            }
            None => policy.rules.push(rule),
        }
        Ok(policy)
    }
}

impl L7Policy {
    /// What it does, where its pool serves.
    pub(super) fn does(&self, pool: Option<Uuid>) -> Option<HttpAction> {
        let code = self.redirect_http_code.unwrap_or(FOUND);
        match self.action.as_str() {
            TO_POOL => Some(HttpAction::Pool(pool?)),
            TO_URL => Some(HttpAction::Url {
                to: self.redirect_url.clone()?,
                code,
            }),
            TO_PREFIX => Some(HttpAction::Prefix {
                to: self.redirect_prefix.clone()?,
                code,
            }),
            _ => Some(HttpAction::Reject),
        }
    }

    /// When it does it.
    pub(super) fn when(&self) -> Vec<HttpRule> {
        let rules = self.rules.iter().filter(|rule| rule.admin_state_up);
        rules.filter_map(asks).collect()
    }
}

fn asks(rule: &L7Rule) -> Option<HttpRule> {
    let key = || rule.key.clone();
    let compare = match rule.compare_type.as_str() {
        "STARTS_WITH" => Compare::StartsWith,
        "ENDS_WITH" => Compare::EndsWith,
        "CONTAINS" => Compare::Contains,
        "EQUAL_TO" => Compare::EqualTo,
        "REGEX" => Compare::Regex,
        _ => return None,
    };
    Some(HttpRule {
        of: match rule.kind.as_str() {
            "HOST_NAME" => HttpPart::HostName,
            "PATH" => HttpPart::Path,
            "FILE_TYPE" => HttpPart::FileType,
            "HEADER" => HttpPart::Header(key()?),
            "COOKIE" => HttpPart::Cookie(key()?),
            _ => return None,
        },
        // Quotes let a text have spaces; they are none of it.
        value: match unquoted(&rule.value).filter(|_| compare != Compare::Regex) {
            Some(text) => text.to_owned(),
            None => rule.value.clone(),
        },
        compare,
        invert: rule.invert,
    })
}

/// The policies of a listener, in order.
pub(super) fn of_listener<R: Read>(read: &R, listener: Uuid) -> Vec<Arc<L7Policy>> {
    let mut all = read.related::<L7Policy>("listener_id", listener);
    all.sort_by_key(|policy| (policy.position, policy.meta.id));
    all
}

fn has_key(kind: &str) -> bool {
    matches!(kind, "HEADER" | "COOKIE" | "SSL_DN_FIELD")
}

/// Text of one line.
fn line_shape(value: &Value) -> Result<Value, String> {
    let text = value
        .as_str()
        .ok_or_else(|| format!("'{value}' is not a valid string"))?;
    if text.chars().count() > LONGEST {
        return Err(format!("exceeds maximum length of {LONGEST}"));
    }
    if text.chars().any(char::is_control) {
        return Err("has control characters".to_owned());
    }
    Ok(value.clone())
}

/// An absolute URL of HTTP, of the characters that a URL has (RFC 3986): a client is told it as it is.
fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    known && is_authority(authority) && is_of_url(behind, b"/?#")
}

/// Who is asked: a name or address, perhaps at a port. Nobody's password.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((host, behind)) = rest.split_once(']') else {
                return false;
            };
            let port = behind.strip_prefix(':');
            if host.parse::<std::net::Ipv6Addr>().is_err() || port.is_none() && !behind.is_empty() {
                return false;
            }
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_number = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    let named = text.starts_with('[') || is_of_url(host, b"") && !host.contains('@');
    !host.is_empty() && named && port.is_none_or(is_number)
}

/// Are these the characters of a URL's part, percent signs with their two digits?
fn is_of_url(text: &str, more: &[u8]) -> bool {
    let marks = b"-._~!$&'()*+,;=:@";
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || marks.contains(&byte) || more.contains(&byte);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let holds = if byte == b'%' {
            let mut digits = bytes.by_ref().take(2).filter(u8::is_ascii_hexdigit);
            digits.next().is_some() && digits.next().is_some()
        } else {
            is_plain(byte)
        };
        if !holds {
            return false;
        }
    }
    true
}

/// It is of a listener of the caller's whose requests somebody reads.
fn placed(view: &View, change: &Change<'_, L7Policy>, caller: &Caller) -> Judged {
    let Some(made) = change.made() else {
        return Ok(Vec::new());
    };
    let listener = view.object::<Listener>(made.listener_id);
    let listener = listener.filter(|listener| caller.owns(&listener.meta.project_id));
    let listener = listener.ok_or_else(|| not_ones_own(view, Listener::SPEC, made.listener_id))?;
    if !proxy::serves_protocol(&listener.protocol) {
        return Err(unsupported(format_args!(
            "l7policy of a {} listener",
            listener.protocol
        )));
    }
    if of_listener(view, made.listener_id).len() >= POLICIES {
        return Err(Refusal::OverQuota { kind: "l7policy" });
    }
    Ok(vec![Write::amend(L7Policy {
        meta: of_project(&made.meta, &listener.meta.project_id),
        ..made.clone()
    })])
}

fn wrong(text: &str) -> Refusal {
    let text = format!("Invalid L7 Policy arguments: {text}");
    Refusal::invalid("InvalidL7PolicyArgs", text)
}

/// What it does has all that it needs, and nothing of what else it could do. Who says where to, says what is done.
fn consistent(_: &View, change: &Change<'_, L7Policy>, _: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let named = |name: &str, is_there: bool| change.names(name) && is_there;
    let pool = named("redirect_pool_id", after.redirect_pool_id.is_some());
    let url = named("redirect_url", after.redirect_url.is_some());
    let prefix = named("redirect_prefix", after.redirect_prefix.is_some());
    let mut policy = after.clone();
    let rejects = change.names("action") && after.action == REJECT;
    for (name, said) in [
        ("redirect_url", &after.redirect_url),
        ("redirect_prefix", &after.redirect_prefix),
    ] {
        let said = said.as_ref().filter(|_| change.names(name));
        if said.is_some_and(|text| !is_url(text)) {
            return Err(invalid(format_args!(
                "{name}: Value must be a valid URL string"
            )));
        }
    }
    if pool && (url || prefix) && !rejects {
        return Err(wrong(
            "Cannot specify redirect_pool_id and redirect_url or redirect_prefix at the same time",
        ));
    }
    if !rejects {
        let said = [(pool, TO_POOL), (url, TO_URL), (prefix, TO_PREFIX)];
        // With its own word there is no doubt.
        let is_own = said
            .iter()
            .any(|(there, action)| *there && *action == policy.action);
        if let Some((_, action)) = said.iter().find(|(there, _)| *there && !is_own) {
            (*action).clone_into(&mut policy.action);
        }
    }
    let action = policy.action.clone();
    if action != TO_POOL {
        policy.redirect_pool_id = None;
    }
    if action != TO_URL {
        policy.redirect_url = None;
    }
    if action != TO_PREFIX {
        policy.redirect_prefix = None;
    }
    let (lacks, name) = match action.as_str() {
        TO_POOL => (policy.redirect_pool_id.is_none(), "redirect_pool_id"),
        TO_URL => (policy.redirect_url.is_none(), "redirect_url"),
        TO_PREFIX => (policy.redirect_prefix.is_none(), "redirect_prefix"),
        _ => (false, ""),
    };
    if lacks {
        return Err(wrong(&format!("{name} must not be None")));
    }
    if matches!(action.as_str(), TO_URL | TO_PREFIX) {
        policy.redirect_http_code.get_or_insert(FOUND);
    } else {
        policy.redirect_http_code = None;
    }
    if policy == *after {
        return Ok(Vec::new());
    }
    Ok(vec![Write::amend(policy)])
}

/// Its pool is of the same load balancer, and speaks what the listener does.
fn served(view: &View, change: &Change<'_, L7Policy>, _: &Caller) -> Judged {
    let after = change.after.filter(|_| change.names("redirect_pool_id"));
    let Some((after, id)) = after.and_then(|after| Some((after, after.redirect_pool_id?))) else {
        return Ok(Vec::new());
    };
    let Some(listener) = view.object::<Listener>(after.listener_id) else {
        return Ok(Vec::new());
    };
    let pool = view.object::<Pool>(id);
    let pool = pool.filter(|pool| pool.loadbalancer_id == Some(listener.loadbalancer_id));
    fits(
        &listener,
        &*pool.ok_or_else(|| Refusal::missing("Pool", id))?,
    )?;
    Ok(Vec::new())
}

/// Its rules can be asked, and are what they seem.
fn sound(_: &View, change: &Change<'_, L7Policy>, _: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    if after.rules.len() > RULES {
        return Err(Refusal::conflict(
            "TooManyL7RulesOnL7Policy",
            format!("Too many rules on L7 policy {}", after.meta.id),
        ));
    }
    let old = change.before.map(|before| before.rules.as_slice());
    let old = old.unwrap_or_default();
    for rule in after.rules.iter().filter(|rule| !old.contains(rule)) {
        if rule.kind.starts_with("SSL_") {
            return Err(unsupported(format_args!("l7rule of type {}", rule.kind)));
        }
        can_be_asked(rule).map_err(|why| {
            Refusal::invalid("L7RuleValidation", format!("Error parsing L7Rule: {why}"))
        })?;
    }
    Ok(Vec::new())
}

fn can_be_asked(rule: &L7Rule) -> Result<(), String> {
    let (kind, compare) = (rule.kind.as_str(), rule.compare_type.as_str());
    if rule.value.is_empty() {
        return Err("Invalid L7 Rule: L7 rule type requires a value".to_owned());
    }
    if has_key(kind) {
        let key = rule.key.as_deref().unwrap_or_default();
        if key.is_empty() {
            return Err("Invalid L7 Rule: L7 rule type requires a key".to_owned());
        }
        if !is_token(key) {
            return Err("Invalid characters in key".to_owned());
        }
    }
    if kind == "FILE_TYPE" && !matches!(compare, "REGEX" | "EQUAL_TO") {
        return Err(
            "Invalid L7 Rule: invalid comparison type for rule type: compare_type of FILE_TYPE is REGEX or EQUAL_TO"
                .to_owned(),
        );
    }
    if compare == "REGEX" {
        return is_expression(&rule.value)
            .map_err(|why| format!("Unable to parse regular expression: value: {why}"));
    }
    let what = match kind {
        "HEADER" => "header value",
        "COOKIE" => "cookie value",
        _ => "comparison value",
    };
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let is_of_cookie = |text: &str| !text.contains(['"', ';', '\\']);
    let spaced = |text: &str| plain(&text.replace(' ', ""));
    let holds = if kind == "COOKIE" {
        plain(&rule.value) && is_of_cookie(&rule.value)
    } else {
        match unquoted(&rule.value) {
            Some(text) => spaced(text) && !text.contains('"'),
            // Other headers than a request's line and host have spaces.
            None if kind == "HEADER" => spaced(&rule.value),
            None => plain(&rule.value),
        }
    };
    if holds {
        Ok(())
    } else {
        Err(format!("Invalid characters in {what}"))
    }
}

/// What stands in quotes.
fn unquoted(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.strip_suffix('"')
}

/// A regular expression that means the same to whoever may read it: of ASCII, without what only some know.
fn is_expression(text: &str) -> Result<(), String> {
    if !text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() || byte == b' ')
    {
        return Err("only printable ASCII can be compared".to_owned());
    }
    let known = ["(?:", "(?i)", "(?i:"];
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '(']) {
        let (_, from) = rest.split_at(at);
        if from.starts_with("(?") && !known.iter().any(|known| from.starts_with(known)) {
            return Err("of groups with (? only (?: and (?i are known".to_owned());
        }
        let mut chars = from.chars();
        if chars.next() == Some('\\') {
            let next = chars.next().unwrap_or('\\');
            let is_known = "dDwWsSbBntr".contains(next)
                || next.is_ascii_punctuation() && !matches!(next, '<' | '>');
            if !is_known {
                return Err(format!("\\{next} is not known"));
            }
        }
        rest = chars.as_str();
    }
    // What it may come to is bounded: a comparison must not wait for it.
    let built = regex::RegexBuilder::new(text).size_limit(1 << 20).build();
    built
        .map(drop)
        .map_err(|error| one_line(&error.to_string()))
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// Who makes or changes a rule does it now.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn stamped(_: &View, change: &Change<'_, L7Policy>, _: &Caller) -> Judged {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let old = change.before.map(|before| before.rules.as_slice());
    let old = old.unwrap_or_default();
    let (mut policy, now) = (after.clone(), change.moment.now);
    for rule in &mut policy.rules {
        match old.iter().find(|other| other.id == rule.id) {
            None => (rule.created_at, rule.updated_at) = (now, now),
            Some(other) if other != rule => rule.updated_at = now,
            Some(_) => {}
        }
    }
    if policy == *after {
        return Ok(Vec::new());
    }
    Ok(vec![Write::amend(policy)])
}

/// Positions are 1, 2, 3 …: one that is put somewhere moves those behind it, and one that goes leaves no gap.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn ordered(view: &View, change: &Change<'_, L7Policy>, _: &Caller) -> Judged {
    let moves = change.after.is_none() || change.made().is_some() || change.names("position");
    let Some(subject) = change.subject().filter(|_| change.is_asked() && moves) else {
        return Ok(Vec::new());
    };
    let mut others = of_listener(view, subject.listener_id);
    others.retain(|other| other.meta.id != subject.meta.id);
    let own = change.after.map(|after| {
        let wanted = usize::try_from(after.position).unwrap_or(usize::MAX);
        wanted.clamp(1, others.len() + 1)
    });
    let mut writes = Vec::new();
    let places = (1..).filter(|place| Some(*place) != own);
    for (place, other) in places.zip(&others) {
        let position = i64::try_from(place).unwrap_or(LAST);
        if other.position != position {
            writes.push(Write::put(L7Policy {
                position,
                ..L7Policy::clone(other)
            }));
        }
    }
    if let (Some(after), Some(own)) = (change.after, own) {
        writes.push(Write::amend(L7Policy {
            position: i64::try_from(own).unwrap_or(LAST),
            ..after.clone()
        }));
    }
    Ok(writes)
}

/// What it does is its load balancer's proxy's to do.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
fn followed(view: &View, change: &Change<'_, L7Policy>, _: &Caller) -> Judged {
    let listener = change.subject().map(|policy| policy.listener_id);
    let listener = listener.and_then(|id| view.object::<Listener>(id));
    Ok(listener.map_or_else(Vec::new, |listener| {
        proxy::renewed(view, listener.loadbalancer_id)
    }))
}

/// A pool that policies name stays.
pub(super) fn leave(view: &View, pool: Uuid) -> Result<(), Refusal> {
    let policies = view.related::<L7Policy>("redirect_pool_id", pool);
    match policies.first() {
        Some(policy) => Err(Refusal::conflict(
            "PoolInUseByL7Policy",
            format!("Pool {pool} is in use by L7 policy {}", policy.meta.id),
        )),
        None => Ok(()),
    }
}
