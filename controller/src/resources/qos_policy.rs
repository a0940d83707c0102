//! What is a QoS policy?
//!
//! Rules for the traffic of each port that has it, by itself or by its network: how many bits and packets a second, and with which
//! mark. An admin makes it, for one project or for all; whoever sees it may give it to networks and ports, and to floating IPs and the
//! gateways of routers, whose traffic it limits, as that of an external network does which have none of their own.

use crate::{
    api::Scene,
    refusal::Refusal,
    resource::{
        ALL, Absent, Claim, Field, Kind, Lookup, Meta, Objects, Operations, Ops, Part, Policy,
        Resource, Spec, field,
    },
    resources::{
        FloatingIp, Network, Port, Router, guarantee,
        rbac_policy::{self, Access, Sharable},
    },
    rules::{Caller, Change, Judged, Rule, Write, usable},
    store::{Read, View},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// The largest number of a rule.
const MOST: i64 = 2_147_483_647;
/// The marks that name a class (RFC 2474, RFC 2597, RFC 3246), as Neutron has them.
pub const MARKS: &[i64] = &[
    0, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 46, 48, 56,
];

/// Which way traffic goes, as the workload sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// What it gets.
    Ingress,
    /// What it sends.
    Egress,
}

/// Which way, or both ways together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    /// What it gets.
    Ingress,
    /// What it sends.
    Egress,
    /// Both, as one sum.
    Any,
}

/// What a rule says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Says {
    /// At most so much a second.
    BandwidthLimit {
        /// Kilobits a second; 0 is no limit.
        max_kbps: u32,
        /// Kilobits at once after a pause; 0 is a default.
        max_burst_kbps: u32,
        /// Which way.
        direction: Direction,
    },
    /// At most so many packets a second.
    PacketRateLimit {
        /// Thousands of packets a second; 0 is no limit.
        max_kpps: u32,
        /// Thousands at once after a pause; 0 is a default.
        max_burst_kpps: u32,
        /// Which way.
        direction: Direction,
    },
    /// So much a second is kept free for it at its host.
    MinimumBandwidth {
        /// Kilobits a second.
        min_kbps: u32,
        /// Which way.
        direction: Direction,
    },
    /// So many packets a second are kept free for it at its host.
    MinimumPacketRate {
        /// Thousands of packets a second.
        min_kpps: u32,
        /// Which way, or both together.
        direction: Span,
    },
    /// What is sent has this mark.
    DscpMarking {
        /// Six bits.
        dscp_mark: u8,
    },
}

impl Says {
    /// Its type's word, and the direction that it is about.
    fn about(&self) -> (&'static str, Span) {
        let of = |direction: &Direction| match direction {
            Direction::Ingress => Span::Ingress,
            Direction::Egress => Span::Egress,
        };
        match self {
            Self::BandwidthLimit { direction, .. } => ("bandwidth_limit", of(direction)),
            Self::PacketRateLimit { direction, .. } => ("packet_rate_limit", of(direction)),
            Self::MinimumBandwidth { direction, .. } => ("minimum_bandwidth", of(direction)),
            Self::MinimumPacketRate { direction, .. } => ("minimum_packet_rate", *direction),
            Self::DscpMarking { .. } => ("dscp_marking", Span::Any),
        }
    }

    /// Does it say the same as another, or a part of it?
    fn meets(&self, other: &Self) -> bool {
        let ((kind, one), (of, two)) = (self.about(), other.about());
        kind == of && (one == two || one == Span::Any || two == Span::Any)
    }
}

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosRule {
    /// Identity.
    pub id: Uuid,
    /// What it says.
    #[serde(flatten)]
    pub says: Says,
}

/// Over what those below a policy share its bandwidth limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// At each host they have all of them.
    #[default]
    Host,
    /// All hosts together have them once.
    Fabric,
}

/// A QoS policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosPolicy {
    /// What every object has.
    #[serde(flatten)]
    pub meta: Meta,
    /// May every project use it?
    #[serde(default)]
    pub shared: bool,
    /// Do new networks of its project get it?
    #[serde(default)]
    pub is_default: bool,
    /// The policy whose bandwidth limits its ports share.
    #[serde(default)]
    pub parent_id: Option<Uuid>,
    /// Over what those below it share its bandwidth limits.
    #[serde(default)]
    pub limit_scope: Scope,
    /// Its rules, in the order in which they were made.
    #[serde(default)]
    pub rules: Vec<QosRule>,
}

static OPS: Ops<QosPolicy> = Ops::new();

const DIRECTION: Field = field(
    "direction",
    Kind::OneOf(&["ingress", "egress"]),
    "Which way, as the workload sees it.",
)
.writable(Absent::Text("egress"));

const PARTS: &[Part] = &[
    Part {
        singular: "bandwidth_limit_rule",
        plural: "bandwidth_limit_rules",
        title: "QosRule",
        doc: "At most so many kilobits a second.",
        policy: Policy::Admin,
        alias: Some((
            "alias_bandwidth_limit_rule",
            &[
                "qos/alias_bandwidth_limit_rules",
                "qos/alias-bandwidth-limit-rules",
            ],
        )),
        batch: &[],
        fields: &[
            field("max_kbps", Kind::Int(0, MOST), "Kilobits a second.").writable(Absent::Required),
            field("max_burst_kbps", Kind::Int(0, MOST), "Kilobits at once.")
                .writable(Absent::Int(0)),
            DIRECTION,
        ],
    },
    Part {
        singular: "packet_rate_limit_rule",
        plural: "packet_rate_limit_rules",
        title: "QosRule",
        doc: "At most so many thousand packets a second.",
        policy: Policy::Admin,
        alias: Some((
            "alias_packet_rate_limit_rule",
            &[
                "qos/alias_packet_rate_limit_rules",
                "qos/alias-packet-rate-limit-rules",
            ],
        )),
        batch: &[],
        fields: &[
            field(
                "max_kpps",
                Kind::Int(0, MOST),
                "Thousands of packets a second.",
            )
            .writable(Absent::Required),
            field("max_burst_kpps", Kind::Int(0, MOST), "Thousands at once.")
                .writable(Absent::Int(0)),
            DIRECTION,
        ],
    },
    Part {
        singular: "minimum_bandwidth_rule",
        plural: "minimum_bandwidth_rules",
        title: "QosRule",
        doc: "So many kilobits a second are kept free at the port's host.",
        policy: Policy::Admin,
        alias: Some((
            "alias_minimum_bandwidth_rule",
            &[
                "qos/alias_minimum_bandwidth_rules",
                "qos/alias-minimum-bandwidth-rules",
            ],
        )),
        batch: &[],
        fields: &[
            field("min_kbps", Kind::Int(0, MOST), "Kilobits a second.").writable(Absent::Required),
            DIRECTION,
        ],
    },
    Part {
        singular: "minimum_packet_rate_rule",
        plural: "minimum_packet_rate_rules",
        title: "QosRule",
        doc: "So many thousand packets a second are kept free at the port's host.",
        policy: Policy::Admin,
        alias: Some((
            "alias_minimum_packet_rate_rule",
            &[
                "qos/alias_minimum_packet_rate_rules",
                "qos/alias-minimum-packet-rate-rules",
            ],
        )),
        batch: &[],
        fields: &[
            field(
                "min_kpps",
                Kind::Int(0, MOST),
                "Thousands of packets a second.",
            )
            .writable(Absent::Required),
            field(
                "direction",
                Kind::OneOf(&["ingress", "egress", "any"]),
                "Which way, as the workload sees it; any: both together.",
            )
            .writable(Absent::Text("egress")),
        ],
    },
    Part {
        singular: "dscp_marking_rule",
        plural: "dscp_marking_rules",
        title: "QosRule",
        doc: "What is sent has this mark.",
        policy: Policy::Admin,
        alias: Some((
            "alias_dscp_marking_rule",
            &[
                "qos/alias_dscp_marking_rules",
                "qos/alias-dscp-marking-rules",
            ],
        )),
        batch: &[],
        fields: &[
            field("dscp_mark", Kind::OneOfNumbers(MARKS), "Six bits.").writable(Absent::Required)
        ],
    },
];

impl Resource for QosPolicy {
    const SPEC: &'static Spec = &Spec {
        singular: "policy",
        plural: "policies",
        path: "qos/policies",
        storage: "qos_policy",
        title: "QosPolicy",
        doc: "Rules for the traffic of ports.",
        verbs: ALL,
        policy: Policy::Admin,
        quota: None,
        tags: true,
        bare: false,
        fields: &[
            field(
                "shared",
                Kind::Bool,
                "May every project use it, or the caller's by a grant?",
            )
            .writable(Absent::Bool(false))
            .computed(),
            field(
                "is_default",
                Kind::Bool,
                "Do new networks of its project get it?",
            )
            .writable(Absent::Bool(false)),
            field(
                "parent_id",
                Kind::Uuid,
                "The policy whose bandwidth limits its ports share.",
            )
            .writable(Absent::Null)
            .or_null(),
            field(
                "limit_scope",
                Kind::OneOf(&["host", "fabric"]),
                "Do those whose parent_id it is share its bandwidth limits at each host, or over all hosts together?",
            )
            .writable(Absent::Text("host")),
            field("rules", Kind::Words, "Its rules.")
                .computed()
                .unfiltered(),
        ],
        actions: &[],
        parts: PARTS,
        ops: &OPS as &dyn Operations,
    };
    const RULES: &'static [Rule<Self>] = &[
        default,
        conflicts,
        ancestry,
        guarantee::of_policy,
        sharing,
        removal,
    ];

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn shared(&self, _: &dyn Lookup) -> bool {
        self.shared
    }

    fn shared_with(&self, read: &dyn Lookup, project: &str) -> bool {
        self.shared || rbac_policy::may_use(read, self.meta.id, project)
    }

    fn granted(read: &dyn Lookup, project: &str) -> Vec<Uuid> {
        rbac_policy::granted::<Self>(read, project)
    }

    fn index(&self) -> Vec<(&'static str, String)> {
        let parent = self.parent_id.map(|id| ("parent_id", id.to_string()));
        let rules = self.rules.iter();
        let rules = rules.map(|rule| (kind_of(rule).plural, rule.id.to_string()));
        rules.chain(parent).collect()
    }

    fn derive(&self, field: &str, scene: &Scene<'_>) -> Value {
        match field {
            "shared" => json!(self.shared_with(scene.snapshot, &scene.caller.project_id)),
            "rules" => {
                let rules = PARTS.iter().flat_map(|kind| self.of_kind(kind));
                let shown = rules.map(|rule| {
                    let mut shown = fields_of(rule);
                    shown.insert("qos_policy_id".to_owned(), json!(self.meta.id));
                    Value::Object(shown)
                });
                shown.collect()
            }
            _ => Value::Null,
        }
    }

    fn parts(&self, kind: &Part) -> Vec<Map<String, Value>> {
        let rules = self.of_kind(kind).map(|rule| {
            let mut fields = fields_of(rule);
            fields.shift_remove("type");
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
        let word = kind.singular.strip_suffix("_rule");
        fields.insert("type".to_owned(), json!(word));
        fields.insert("id".to_owned(), json!(id));
        let rule: QosRule = serde_json::from_value(Value::Object(fields))
            .map_err(|error| Refusal::input(format_args!("{}: {error}", kind.singular)))?;
        match at.and_then(|at| policy.rules.get_mut(at)) {
            Some(there) => *there = rule,
            None => policy.rules.push(rule),
        }
        Ok(policy)
    }
}

/// A rule as its fields, its type among them.
fn fields_of(rule: &QosRule) -> Map<String, Value> {
    let Value::Object(fields) = json!(rule) else {
        unreachable!("a rule is a struct with text keys")
    };
    fields
}

/// The table of a rule.
fn kind_of(rule: &QosRule) -> &'static Part {
    let (word, _) = rule.says.about();
    let of = |kind: &&Part| kind.singular.strip_suffix("_rule") == Some(word);
    match PARTS.iter().find(of) {
        Some(kind) => kind,
        None => unreachable!("each kind of rule has its table: {word}"),
    }
}

impl QosPolicy {
    fn of_kind(&self, kind: &Part) -> impl Iterator<Item = &QosRule> {
        let plural = kind.plural;
        let rules = self.rules.iter();
        rules.filter(move |rule| kind_of(rule).plural == plural)
    }
}

/// The key of a project's default policy.
fn default_key(project: &str) -> String {
    format!("unique/qos_default/{project}")
}

/// The policy that new networks of a project get.
pub fn default_of(view: &View, project: &str) -> Option<Uuid> {
    let claim = view.get::<Claim>(&default_key(project));
    claim.map(|claim| claim.holder)
}

/// The policy of this id, if the caller may use it.
///
/// # Errors
/// When there is none, or none that the caller sees.
pub fn visible(view: &View, id: Uuid, caller: &Caller) -> Result<Arc<QosPolicy>, Refusal> {
    view.object::<QosPolicy>(id)
        .filter(|policy| usable(view, &**policy, caller))
        .ok_or_else(|| Refusal::missing("QosPolicy", id))
}

/// May the caller give what had one policy another? What an admin gave that the project does not see, it can't take off.
///
/// # Errors
/// When the new one is not the caller's to use, or the old one not the caller's to take off.
pub fn exchange(
    view: &View,
    (before, after): (Option<Uuid>, Option<Uuid>),
    rule: &str,
    caller: &Caller,
) -> Result<(), Refusal> {
    if before == after {
        return Ok(());
    }
    if let Some(before) = before
        && view.object::<QosPolicy>(before).is_some()
        && visible(view, before, caller).is_err()
    {
        return Err(Refusal::denied(format!("rule:{rule}:qos_policy_id")));
    }
    after.map_or(Ok(()), |id| visible(view, id, caller).map(|_| ()))
}

/// One for each project at most.
fn default(view: &View, change: &Change<'_, QosPolicy>, _: &Caller) -> Judged {
    let project = |policy: &QosPolicy| policy.meta.project_id.clone();
    let held = change.before.filter(|before| before.is_default);
    let wanted = change.after.filter(|after| after.is_default);
    match (held, wanted) {
        (None, Some(after)) => {
            let project = project(after);
            if default_of(view, &project).is_some() {
                return Err(Refusal::conflict(
                    "QoSPolicyDefaultAlreadyExists",
                    format!("A default QoS policy exists for project {project}."),
                ));
            }
            Ok(vec![Write::Claim(default_key(&project), after.meta.id)])
        }
        (Some(before), None) => Ok(vec![Write::Release(default_key(&project(before)))]),
        (Some(_), Some(_)) | (None, None) => Ok(Vec::new()),
    }
}

/// How many policies may be above one.
pub const MOST_ABOVE: usize = 4;

/// What is above a policy is there for its project, and ends.
fn ancestry(view: &View, change: &Change<'_, QosPolicy>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let (Some(parent), false) = (
        after.parent_id,
        change
            .before
            .is_some_and(|before| before.parent_id == after.parent_id),
    ) else {
        return Ok(Vec::new());
    };
    let missing = || Refusal::missing("QosPolicy", parent);
    let above = view.object::<QosPolicy>(parent).ok_or_else(missing)?;
    let project = &after.meta.project_id;
    if above.meta.project_id != *project && !above.shared_with(view, project) {
        return Err(missing());
    }
    let mut levels = 1 + levels_below(view, after.meta.id, MOST_ABOVE);
    let mut next = Some(parent);
    while let Some(id) = next {
        if id == after.meta.id {
            let what = format!("QoS Policy {id} can't be above itself.");
            return Err(Refusal::conflict("QosPolicyParentConflict", what));
        }
        if levels > MOST_ABOVE {
            let what = format!("More than {MOST_ABOVE} QoS policies above one.");
            return Err(Refusal::conflict("QosPolicyParentConflict", what));
        }
        levels += 1;
        next = view
            .object::<QosPolicy>(id)
            .and_then(|policy| policy.parent_id);
    }
    Ok(Vec::new())
}

/// How many levels of policies are below one, `most` at most.
fn levels_below(view: &View, id: Uuid, most: usize) -> usize {
    if most == 0 {
        return 0;
    }
    let children = view.related::<QosPolicy>("parent_id", id);
    let levels = children
        .iter()
        .map(|child| 1 + levels_below(view, child.meta.id, most - 1));
    levels.max().unwrap_or(0)
}

/// Of a kind and direction one rule.
fn conflicts(_: &View, change: &Change<'_, QosPolicy>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    for (at, rule) in after.rules.iter().enumerate() {
        let mut others = after.rules.iter().take(at);
        if let Some(other) = others.find(|other| other.says.meets(&rule.says)) {
            let (kind, policy) = (rule.says.about().0, after.meta.id);
            return Err(Refusal::conflict(
                "QoSRulesConflict",
                format!(
                    "Rule {kind} conflicts with rule {} which already exists in QoS Policy {policy}.",
                    other.id
                ),
            ));
        }
    }
    if let Some((least, most)) = above_limit(after) {
        let had = |rule: &QosRule| change.before.is_some_and(|b| b.rules.contains(rule));
        // Of the two the one that is new is refused.
        let (new, old) = if had(least.0) {
            (most, least)
        } else {
            (least, most)
        };
        return Err(Refusal::conflict(
            "QoSRuleParameterConflict",
            format!(
                "Unable to add the rule with value {} to the policy {} as the existing rule of type {} has value {}.",
                new.1,
                after.meta.id,
                old.0.says.about().0,
                old.1
            ),
        ));
    }
    Ok(Vec::new())
}

/// A rule with its number.
type Numbered<'a> = (&'a QosRule, u32);

/// A guarantee that is above the limit of the same direction, and that limit.
fn above_limit(policy: &QosPolicy) -> Option<(Numbered<'_>, Numbered<'_>)> {
    policy.rules.iter().find_map(|rule| {
        let Says::MinimumBandwidth {
            min_kbps,
            direction,
        } = rule.says
        else {
            return None;
        };
        policy.rules.iter().find_map(|limit| {
            let Says::BandwidthLimit {
                max_kbps,
                direction: way,
                ..
            } = limit.says
            else {
                return None;
            };
            let above = way == direction && max_kbps > 0 && min_kbps > max_kbps;
            above.then_some(((rule, min_kbps), (limit, max_kbps)))
        })
    })
}

/// What has a policy.
struct User {
    project: String,
    kind: &'static str,
    id: Uuid,
}

fn users(view: &View, id: Uuid) -> Vec<User> {
    let user = |kind, meta: &Meta| User {
        project: meta.project_id.clone(),
        kind,
        id: meta.id,
    };
    let ports = view.related::<Port>("qos_policy_id", id);
    let networks = view.related::<Network>("qos_policy_id", id);
    let ports = ports.iter().map(|port| user("port", &port.meta));
    let networks = networks
        .iter()
        .map(|network| user("network", &network.meta));
    let floating = view.related::<FloatingIp>("qos_policy_id", id);
    let floating = floating.iter().map(|ip| user("floatingip", &ip.meta));
    let routers = view.related::<Router>("qos_policy_id", id);
    let routers = routers.iter().map(|router| user("router", &router.meta));
    let below = view.related::<QosPolicy>("parent_id", id);
    let below = below.iter().map(|policy| user("policy", &policy.meta));
    ports
        .chain(networks)
        .chain(floating)
        .chain(routers)
        .chain(below)
        .collect()
}

fn in_use(id: Uuid, users: impl IntoIterator<Item = User>) -> Result<(), Refusal> {
    match users.into_iter().next() {
        Some(user) => Err(Refusal::conflict(
            "QosPolicyInUse",
            format!("QoS Policy {id} is used by {} {}.", user.kind, user.id),
        )),
        None => Ok(()),
    }
}

/// What is used stays shared but with those that have a grant of their own: its users would not see it any more. Its grant to all follows,
/// and where that one went first it was judged.
fn sharing(view: &View, change: &Change<'_, QosPolicy>, _: &Caller) -> Judged {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let id = after.meta.id;
    let lost = change.before.is_some_and(|before| before.shared) && !after.shared;
    if lost && change.is_asked() {
        let users = users(view, id).into_iter();
        in_use(
            id,
            users.filter(|user| !rbac_policy::is_granted(view, id, &user.project)),
        )?;
    }
    let object = (&after.meta, Sharable::QosPolicy, Access::AccessAsShared);
    let dice = &change.moment.dice;
    Ok(rbac_policy::with_everybody(
        view,
        object,
        after.shared,
        dice,
    ))
}

fn removal(view: &View, change: &Change<'_, QosPolicy>, _: &Caller) -> Judged {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    let id = before.meta.id;
    in_use(id, users(view, id))?;
    Ok(rbac_policy::remove_all(view, id).collect())
}
