//! Which rules are there, and what holds where no file says otherwise?
//!
//! Derived from the resources' tables, which judge by themselves as long as a rule is not changed; the texts here say the same in the language, and a
//! test holds the two together.

use crate::{
    resource::{Field, How, Part, Policy, Spec, Verb},
    resources::REGISTRY,
};

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// What holds by default.
    pub text: String,
    /// What it is about.
    pub doc: String,
    /// The requests that ask it.
    pub requests: Vec<String>,
}

const ADMIN: &str = "rule:admin_only";
const SERVICE: &str = "rule:service_api";
const ADMIN_OR_SERVICE: &str = "rule:admin_only or rule:service_api";
const READER: &str =
    "rule:admin_only or ((role:reader or rule:service_api) and project_id:%(project_id)s)";
const MEMBER: &str =
    "rule:admin_only or ((role:member or rule:service_api) and project_id:%(project_id)s)";
const MAKER: &str =
    "rule:admin_only or rule:service_api or (role:member and project_id:%(project_id)s)";
const PARENT_READER: &str =
    "rule:admin_only or ((role:reader or rule:service_api) and rule:ext_parent_owner)";
const PARENT_MEMBER: &str =
    "rule:admin_only or ((role:member or rule:service_api) and rule:ext_parent_owner)";
const NET_OWNER: &str =
    "rule:admin_only or rule:service_api or (role:member and rule:network_owner)";
const ANYBODY: &str = "";

/// Rules that others refer to.
const WORDS: &[(&str, &str, &str)] = &[
    (
        "context_is_admin",
        "role:admin",
        "Who may do everything, and sees all projects.",
    ),
    (
        "service_api",
        "role:service",
        "Another service of the cloud.",
    ),
    ("admin_only", "rule:context_is_admin", "An admin."),
    (
        "owner",
        "project_id:%(project_id)s",
        "The project that owns the object.",
    ),
    (
        "admin_or_owner",
        "rule:context_is_admin or rule:owner",
        "An admin or the owner.",
    ),
    (
        "network_owner",
        "project_id:%(network:project_id)s",
        "The project that owns the network of a port or subnet.",
    ),
    (
        "admin_or_network_owner",
        "rule:context_is_admin or rule:network_owner",
        "An admin or the network's owner.",
    ),
    (
        "admin_owner_or_network_owner",
        "rule:owner or rule:admin_or_network_owner",
        "An admin, the owner or the network's owner.",
    ),
    (
        "ext_parent_owner",
        "project_id:%(ext_parent:project_id)s",
        "The project that owns what the object is a part of.",
    ),
    (
        "admin_or_ext_parent_owner",
        "rule:context_is_admin or rule:ext_parent_owner",
        "An admin or the owner of what it is a part of.",
    ),
    (
        "sg_owner",
        "project_id:%(security_group:project_id)s",
        "The project that owns the security group of a rule.",
    ),
    ("regular_user", ANYBODY, "Whoever has a token."),
    ("default", "rule:admin_or_owner", "For rules that name it."),
    (
        "shared",
        "field:networks:shared=True",
        "A network that the project may use, or what is on one.",
    ),
    (
        "external",
        "field:networks:router:external=True",
        "A network that leads outside, or what is on one.",
    ),
    (
        "network_device",
        "field:port:device_owner=~^network:",
        "A port of the network's own.",
    ),
    (
        "shared_security_group",
        "field:security_groups:shared=True",
        "A security group that is shared.",
    ),
    (
        "shared_address_groups",
        "field:address_groups:shared=True",
        "An address group that is shared.",
    ),
    (
        "shared_address_scopes",
        "field:address_scopes:shared=True",
        "An address scope that is shared.",
    ),
    (
        "shared_subnetpools",
        "field:subnetpools:shared=True",
        "A pool of subnets that is shared.",
    ),
    (
        "shared_qos_policy",
        "field:policies:shared=True",
        "A QoS policy that is shared.",
    ),
    (
        "restrict_wildcard",
        "rule:admin_only or not field:rbac_policy:target_tenant=*",
        "Grants to everybody.",
    ),
];

/// Rights that no column of a table has: the resources' rules and the paths that are no resources judge them.
const OTHERS: &[(&str, &str, &str)] = &[
    (
        "create_port:device_owner",
        "not rule:network_device or rule:admin_only or rule:service_api or (role:member and rule:network_owner)",
        "Name device_owner in a create.",
    ),
    (
        "create_port:mac_address",
        NET_OWNER,
        "Name mac_address in a create.",
    ),
    (
        "create_port:fixed_ips",
        "rule:admin_only or rule:service_api or (role:member and rule:network_owner) or rule:shared",
        "Name fixed_ips in a create.",
    ),
    (
        "create_port:fixed_ips:ip_address",
        NET_OWNER,
        "Choose an address in a create.",
    ),
    (
        "create_port:fixed_ips:subnet_id",
        "rule:admin_only or rule:service_api or (role:member and rule:network_owner) or rule:shared",
        "Choose a subnet in a create.",
    ),
    (
        "create_port:port_security_enabled",
        NET_OWNER,
        "Name port_security_enabled in a create.",
    ),
    (
        "create_port:allowed_address_pairs",
        NET_OWNER,
        "Name allowed_address_pairs in a create.",
    ),
    (
        "create_port:allowed_address_pairs:mac_address",
        NET_OWNER,
        "Name the MAC address of a pair in a create.",
    ),
    (
        "create_port:allowed_address_pairs:ip_address",
        NET_OWNER,
        "Name the addresses of a pair in a create.",
    ),
    (
        "update_port:device_owner",
        "not rule:network_device or rule:admin_only or rule:service_api or (role:member and rule:network_owner)",
        "Name device_owner in an update.",
    ),
    (
        "update_port:fixed_ips",
        NET_OWNER,
        "Name fixed_ips in an update.",
    ),
    (
        "update_port:fixed_ips:ip_address",
        NET_OWNER,
        "Choose an address in an update.",
    ),
    (
        "update_port:fixed_ips:subnet_id",
        "rule:admin_only or rule:service_api or (role:member and rule:network_owner) or rule:shared",
        "Choose a subnet in an update.",
    ),
    (
        "update_port:port_security_enabled",
        NET_OWNER,
        "Name port_security_enabled in an update.",
    ),
    (
        "update_port:allowed_address_pairs",
        NET_OWNER,
        "Name allowed_address_pairs in an update.",
    ),
    (
        "update_port:allowed_address_pairs:mac_address",
        NET_OWNER,
        "Name the MAC address of a pair in an update.",
    ),
    (
        "update_port:allowed_address_pairs:ip_address",
        NET_OWNER,
        "Name the addresses of a pair in an update.",
    ),
    (
        "create_router:external_gateway_info:enable_snat",
        ADMIN,
        "Say whether a way out translates, in a create.",
    ),
    (
        "create_router:external_gateway_info:external_fixed_ips",
        ADMIN,
        "Choose the addresses of a way out in a create.",
    ),
    (
        "update_router:external_gateway_info:enable_snat",
        ADMIN,
        "Say whether a way out translates.",
    ),
    (
        "update_router:external_gateway_info:external_fixed_ips",
        ADMIN,
        "Choose the addresses of a way out.",
    ),
    (
        "create_rbac_policy:target_tenant",
        "rule:restrict_wildcard",
        "Name the target of a grant in a create.",
    ),
    (
        "update_rbac_policy:target_tenant",
        "rule:restrict_wildcard",
        "Name the target of a grant in an update.",
    ),
    (
        "get_quota",
        "rule:admin_or_owner",
        "See a project's quotas.",
    ),
    ("update_quota", ADMIN, "Set a project's quotas."),
    ("delete_quota", ADMIN, "Set a project's quotas back."),
    (
        "get_network_ip_availability",
        ADMIN,
        "See how many addresses are used.",
    ),
    ("get_segment", ADMIN, "See segments."),
    ("update_segment", ADMIN, "Name a segment."),
    (
        "get_rule_type",
        ADMIN,
        "See a QoS rule type with its drivers.",
    ),
    (
        "get_port_binding",
        ADMIN_OR_SERVICE,
        "See a port's bindings.",
    ),
    (
        "create_port_binding",
        ADMIN_OR_SERVICE,
        "Bind a port to one more host.",
    ),
    (
        "update_port_binding",
        ADMIN_OR_SERVICE,
        "Change a port's binding.",
    ),
    (
        "delete_port_binding",
        ADMIN_OR_SERVICE,
        "Unbind a port from a host.",
    ),
    (
        "activate_port_binding",
        ADMIN_OR_SERVICE,
        "Have a port at one of its bindings' hosts.",
    ),
    ("create_backup", ADMIN, "Take a backup of the store."),
];

/// What a column means in the language.
fn policy_text(policy: Policy) -> &'static str {
    match policy {
        Policy::Anyone => ANYBODY,
        Policy::Admin => ADMIN,
        Policy::AdminOrService => ADMIN_OR_SERVICE,
        Policy::Service => SERVICE,
        Policy::Nobody => "!",
    }
}

fn write_text(policy: Policy, own: &'static str) -> &'static str {
    match policy {
        Policy::Anyone => own,
        Policy::Admin | Policy::AdminOrService | Policy::Service | Policy::Nobody => {
            policy_text(policy)
        }
    }
}

fn verb_text(spec: &Spec, verb: Verb) -> String {
    let text = match (spec.storage, verb) {
        ("subnet", Verb::Create) => {
            "rule:admin_only or ((role:member or rule:service_api) and rule:network_owner)"
        }
        ("security_group_rule", Verb::Create) => {
            "rule:admin_only or ((role:member or rule:service_api) and rule:sg_owner)"
        }
        ("port", Verb::Delete) => {
            "rule:admin_only or (project_id:%(project_id)s and (rule:service_api or (role:member and not field:port:device_owner=~^compute:)))"
        }
        (_, Verb::Create) => write_text(spec.policy, MAKER),
        (_, Verb::Update | Verb::Delete) => write_text(spec.policy, MEMBER),
        (_, Verb::Read) => {
            let shared = match spec.storage {
                "network" | "subnet" => " or rule:shared or rule:external",
                "security_group" => " or rule:shared_security_group",
                "address_group" => " or rule:shared_address_groups",
                "address_scope" => " or rule:shared_address_scopes",
                "subnetpool" => " or rule:shared_subnetpools",
                "qos_policy" => " or rule:shared_qos_policy",
                _ if spec.field("shared").is_some() => {
                    return format!("{READER} or field:{}:shared=True", spec.plural);
                }
                _ => "",
            };
            return format!("{READER}{shared}");
        }
    };
    text.to_owned()
}

fn request(verb: Verb, path: &str) -> Vec<String> {
    let one = format!("{path}/{{id}}");
    match verb {
        Verb::Create => vec![format!("POST  {path}")],
        Verb::Read => vec![format!("GET  {path}"), format!("GET  {one}")],
        Verb::Update => vec![format!("PUT  {one}")],
        Verb::Delete => vec![format!("DELETE  {one}")],
    }
}

fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Create => "Make",
        Verb::Read => "See",
        Verb::Update => "Change",
        Verb::Delete => "Delete",
    }
}

/// The column of a field for a verb.
pub fn column(field: &Field, verb: Verb) -> Policy {
    match verb {
        Verb::Create => field.create,
        Verb::Read => field.read,
        Verb::Update => field.update,
        Verb::Delete => Policy::Nobody,
    }
}

fn of_spec(spec: &'static Spec, rules: &mut Vec<Named>) {
    let path = format!("/{}", spec.path);
    for &verb in spec.verbs {
        let name = spec.rule(verb);
        rules.push(Named {
            text: verb_text(spec, verb),
            doc: format!("{} a {}.", word(verb), spec.singular),
            requests: request(verb, &path),
            name: name.clone(),
        });
        for field in spec.fields() {
            let policy = column(field, verb);
            if !matches!(policy, Policy::Anyone | Policy::Nobody) {
                rules.push(Named {
                    name: format!("{name}:{}", field.name),
                    text: policy_text(policy).to_owned(),
                    doc: format!("{} a {} with {}.", word(verb), spec.singular, field.name),
                    requests: request(verb, &path),
                });
            }
        }
    }
    for action in spec.actions {
        let method = match action.how {
            How::Change => "PUT",
            How::Look => "GET",
        };
        let text = match action.how {
            How::Change => write_text(action.policy, MEMBER),
            How::Look => READER,
        };
        // Several may ask one rule, which may be a verb's too.
        if !rules.iter().any(|rule| rule.name == action.rule) {
            rules.push(Named {
                name: action.rule.to_owned(),
                text: text.to_owned(),
                doc: action.doc.to_owned(),
                requests: vec![format!("{method}  {path}/{{id}}/{}", action.name)],
            });
        }
    }
    for part in spec.parts {
        of_part(spec, part, rules);
    }
    if spec.tags {
        for (verb, text) in [
            ("get", format!("rule:get_{}", spec.singular)),
            ("create", format!("rule:update_{}", spec.singular)),
            ("update", format!("rule:update_{}", spec.singular)),
            ("delete", format!("rule:update_{}", spec.singular)),
        ] {
            rules.push(Named {
                name: format!("{verb}_{}:tags", spec.singular),
                text,
                doc: format!("The tags of a {}.", spec.singular),
                requests: vec![format!("{path}/{{id}}/tags")],
            });
        }
    }
}

fn of_part(spec: &Spec, part: &Part, rules: &mut Vec<Named>) {
    let path = format!("/{}/{{id}}/{}", spec.path, part.plural);
    let aliases = part.alias.iter();
    let aliases = aliases.flat_map(|(name, paths)| paths.iter().map(move |path| (*name, *path)));
    let mut places = vec![(format!("{}_{}", spec.singular, part.singular), path)];
    places.extend(aliases.map(|(name, path)| (name.to_owned(), format!("/{path}"))));
    for (name, path) in places {
        for verb in [Verb::Create, Verb::Read, Verb::Update, Verb::Delete] {
            let rule = format!("{}_{name}", verb.word());
            if rules.iter().any(|known| known.name == rule) {
                continue;
            }
            rules.push(Named {
                name: rule,
                text: match verb {
                    Verb::Read if spec.storage == "qos_policy" => {
                        format!("{PARENT_READER} or field:policies:shared=True")
                    }
                    Verb::Read => PARENT_READER.to_owned(),
                    Verb::Create | Verb::Update | Verb::Delete => {
                        write_text(part.policy, PARENT_MEMBER).to_owned()
                    }
                },
                doc: format!("{} a {} of a {}.", word(verb), part.singular, spec.singular),
                requests: request(verb, &path),
            });
        }
    }
}

/// Every rule, in an order for people.
pub fn all() -> Vec<Named> {
    let plain = |(name, text, doc): &(&str, &str, &str)| Named {
        name: (*name).to_owned(),
        text: (*text).to_owned(),
        doc: (*doc).to_owned(),
        requests: Vec::new(),
    };
    let mut rules: Vec<Named> = WORDS.iter().map(plain).collect();
    for spec in REGISTRY {
        of_spec(spec, &mut rules);
    }
    rules.extend(OTHERS.iter().map(plain));
    rules
}

/// May a file give this name, though it is not listed? Every attribute may have a rule of its own, and those that are lists or objects for each key.
pub fn is_attribute(name: &str) -> bool {
    REGISTRY.iter().any(|spec| {
        [Verb::Create, Verb::Read, Verb::Update]
            .iter()
            .any(|&verb| {
                let rule = spec.rule(verb);
                let rest = name
                    .strip_prefix(&rule)
                    .and_then(|rest| rest.strip_prefix(':'));
                rest.filter(|_| spec.allows(verb)).is_some_and(|rest| {
                    let named = |field: &Field| {
                        let can = column(field, verb) != Policy::Nobody;
                        let key = rest.strip_prefix(field.name);
                        let key = key.map(|key| key.is_empty() || key.starts_with(':'));
                        can && key.unwrap_or(false)
                    };
                    spec.fields().any(named)
                })
            })
    })
}

/// Does a resource, by either of its words, have such a field?
pub fn has_field(resource: &str, name: &str) -> bool {
    let spec = REGISTRY
        .iter()
        .find(|spec| spec.singular == resource || spec.plural == resource);
    spec.is_some_and(|spec| spec.field(name).is_some())
}
