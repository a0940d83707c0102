//! What a field names that is not there, is another's, is something else, or belongs elsewhere.
//!
//! Generated from the registry: each field that holds ids has its row. Another project's object is answered as one that is not there, to
//! the letter; so is an object of another kind. What is there but belongs to another set of the same project's is taken, or contradicts the rest.

use super::{
    planted::{Planted, table},
    *,
};
use crate::resource::{Field, Kind, Spec};

/// A status, and the type of the error; 2xx without one.
type Answer = (u16, &'static str);

/// A field that holds ids.
struct Row {
    /// Of what.
    of: &'static str,
    /// What it names.
    to: &'static str,
    /// What does not go with it in a request.
    without: &'static [&'static str],
    /// What is not there.
    missing: Answer,
    /// What is another project's, where a real Neutron says that there is something.
    theirs: Option<Answer>,
    /// What belongs to another set, in a create.
    crossed: Answer,
    /// The same, in an update.
    moved: Answer,
}

const MADE: Answer = (201, "");
const DONE: Answer = (200, "");
/// There is no such update.
const NEVER: Answer = (0, "");

const fn row(
    of: &'static str,
    to: &'static str,
    missing: Answer,
    crossed: Answer,
    moved: Answer,
) -> Row {
    Row {
        of,
        to,
        without: &[],
        missing,
        theirs: None,
        crossed,
        moved,
    }
}

impl Row {
    const fn without(mut self, without: &'static [&'static str]) -> Self {
        self.without = without;
        self
    }

    const fn told(mut self, theirs: Answer) -> Self {
        self.theirs = Some(theirs);
        self
    }
}

const ROWS: &[Row] = &[
    // Whose a network or a group is, a real Neutron asks before it looks whether the caller sees it.
    row(
        "subnet.network_id",
        "network",
        (404, "NetworkNotFound"),
        MADE,
        NEVER,
    )
    .told((403, "PolicyNotAuthorized")),
    row(
        "subnet.subnetpool_id",
        "subnetpool",
        (404, "SubnetPoolNotFound"),
        (400, "NetworkAddressScopeAffinityError"),
        NEVER,
    )
    .without(&["cidr"]),
    row(
        "network.qos_policy_id",
        "policy",
        (404, "QosPolicyNotFound"),
        MADE,
        DONE,
    ),
    row(
        "policy.parent_id",
        "policy",
        (404, "QosPolicyNotFound"),
        MADE,
        DONE,
    ),
    row(
        "port.network_id",
        "network",
        (404, "NetworkNotFound"),
        MADE,
        NEVER,
    ),
    row(
        "port.security_groups",
        "security_group",
        (404, "SecurityGroupNotFound"),
        MADE,
        DONE,
    ),
    row(
        "port.qos_policy_id",
        "policy",
        (404, "QosPolicyNotFound"),
        MADE,
        DONE,
    ),
    row(
        "router.flavor_id",
        "network",
        (404, "FlavorNotFound"),
        (404, "FlavorNotFound"),
        NEVER,
    ),
    // An external network is everybody's.
    row(
        "floatingip.floating_network_id",
        "external",
        (404, "NetworkNotFound"),
        (400, "InvalidInput"),
        NEVER,
    )
    .told((400, "InvalidInput")),
    row(
        "floatingip.subnet_id",
        "outside",
        (404, "SubnetNotFound"),
        (400, "InvalidInput"),
        NEVER,
    )
    .told((400, "InvalidInput")),
    row(
        "floatingip.port_id",
        "port",
        (404, "PortNotFound"),
        (404, "ExternalGatewayForFloatingIPNotFound"),
        (404, "ExternalGatewayForFloatingIPNotFound"),
    ),
    row(
        "floatingip.qos_policy_id",
        "policy",
        (404, "QosPolicyNotFound"),
        MADE,
        DONE,
    )
    .without(&["port_id"]),
    row("trunk.port_id", "port", (404, "PortNotFound"), MADE, NEVER),
    row(
        "security_group_rule.security_group_id",
        "security_group",
        (404, "SecurityGroupNotFound"),
        MADE,
        NEVER,
    )
    .told((403, "PolicyNotAuthorized")),
    row(
        "security_group_rule.remote_group_id",
        "security_group",
        (404, "SecurityGroupNotFound"),
        MADE,
        NEVER,
    ),
    row(
        "security_group_rule.remote_address_group_id",
        "address_group",
        (404, "AddressGroupNotFound"),
        MADE,
        NEVER,
    )
    .without(&["remote_group_id"]),
    row(
        "subnetpool.address_scope_id",
        "address_scope",
        (404, "AddressScopeNotFound"),
        MADE,
        DONE,
    ),
    row(
        "rbac_policy.object_id",
        "network",
        (404, "NetworkNotFound"),
        MADE,
        NEVER,
    ),
    row(
        "metering_label_rule.metering_label_id",
        "metering_label",
        (404, "MeteringLabelNotFound"),
        MADE,
        NEVER,
    ),
    row(
        "flow_classifier.logical_source_port",
        "port",
        (404, "FlowClassifierPortNotFound"),
        MADE,
        NEVER,
    ),
    row(
        "flow_classifier.logical_destination_port",
        "port",
        (404, "FlowClassifierPortNotFound"),
        MADE,
        NEVER,
    ),
    row(
        "flow_classifier.logical_source_network",
        "network",
        (404, "NetworkNotFound"),
        MADE,
        NEVER,
    )
    .without(&["logical_source_port"]),
    row(
        "flow_classifier.logical_destination_network",
        "network",
        (404, "NetworkNotFound"),
        MADE,
        NEVER,
    )
    .without(&["logical_destination_port"]),
    row(
        "port_pair.ingress",
        "spare in",
        (404, "PortPairPortNotFound"),
        MADE,
        NEVER,
    ),
    row(
        "port_pair.egress",
        "spare out",
        (404, "PortPairPortNotFound"),
        MADE,
        NEVER,
    ),
    // Each is in its own group.
    row(
        "port_pair_group.port_pairs",
        "port_pair",
        (404, "PortPairNotFound"),
        (409, "PortPairInUse"),
        (409, "PortPairInUse"),
    )
    .without(&["network_function"]),
    row(
        "port_chain.port_pair_groups",
        "hop",
        (404, "PortPairGroupNotFound"),
        MADE,
        DONE,
    ),
    row(
        "port_chain.flow_classifiers",
        "flow_classifier",
        (404, "FlowClassifierNotFound"),
        MADE,
        DONE,
    ),
    row(
        "loadbalancer.vip_subnet_id",
        "subnet",
        (400, "ValidationException"),
        (400, "ValidationException"),
        NEVER,
    ),
    row(
        "loadbalancer.vip_network_id",
        "network",
        (400, "ValidationException"),
        (400, "ValidationException"),
        NEVER,
    ),
    row(
        "loadbalancer.vip_port_id",
        "spare",
        (400, "ValidationException"),
        MADE,
        NEVER,
    )
    .without(&["vip_subnet_id", "vip_network_id"]),
    row(
        "listener.loadbalancer_id",
        "loadbalancer",
        (404, "LoadBalancerNotFound"),
        MADE,
        NEVER,
    ),
    row(
        "listener.default_pool_id",
        "pool",
        (404, "PoolNotFound"),
        (404, "PoolNotFound"),
        (404, "PoolNotFound"),
    ),
    row(
        "pool.loadbalancer_id",
        "loadbalancer",
        (404, "LoadBalancerNotFound"),
        MADE,
        NEVER,
    ),
    row(
        "pool.listener_id",
        "listener",
        (404, "ListenerNotFound"),
        (400, "ValidationException"),
        NEVER,
    ),
    row(
        "firewall_policy.firewall_rules",
        "firewall_rule",
        (404, "FirewallRuleNotFound"),
        MADE,
        DONE,
    ),
    row(
        "firewall_group.ingress_firewall_policy_id",
        "firewall_policy",
        (404, "FirewallPolicyNotFound"),
        MADE,
        DONE,
    ),
    row(
        "firewall_group.egress_firewall_policy_id",
        "firewall_policy",
        (404, "FirewallPolicyNotFound"),
        MADE,
        DONE,
    ),
    row(
        "firewall_group.ports",
        "out",
        (404, "PortNotFound"),
        MADE,
        DONE,
    ),
    // A policy's pool is of its listener's load balancer.
    row(
        "l7policy.listener_id",
        "reader",
        (404, "ListenerNotFound"),
        (404, "PoolNotFound"),
        NEVER,
    ),
    row(
        "l7policy.redirect_pool_id",
        "read",
        (404, "PoolNotFound"),
        (404, "PoolNotFound"),
        (404, "PoolNotFound"),
    ),
    row(
        "healthmonitor.pool_id",
        "bare",
        (404, "PoolNotFound"),
        MADE,
        NEVER,
    ),
];

fn holds_ids(field: &Field) -> bool {
    let is_id = matches!(field.kind, Kind::Uuid | Kind::IdOf(_) | Kind::Uuids);
    is_id && (field.create != Policy::Nobody || field.update != Policy::Nobody)
}

#[test]
fn each_field_that_holds_ids_has_its_row() {
    let mut told: Vec<&str> = ROWS.iter().map(|row| row.of).collect();
    told.sort_unstable();
    let specs = REGISTRY.iter();
    let fields = specs.flat_map(|spec| {
        let fields = spec.fields().filter(|field| holds_ids(field));
        fields.map(|field| format!("{}.{}", spec.singular, field.name))
    });
    let mut there: Vec<String> = fields.collect();
    there.sort_unstable();
    assert_eq!(told, there);
}

/// The answer's status, its type, and all of it without these ids.
async fn answered(
    cloud: &Cloud,
    (who, method, path): (&str, &str, &str),
    body: Value,
    ids: &[&str],
) -> (u16, String, String) {
    let (status, answer) = cloud.ask(who, method, path, body).await;
    let kind = answer["NeutronError"]["type"].as_str().unwrap_or_default();
    let kind = kind.to_owned();
    let mut text = answer.to_string();
    for id in ids {
        text = text.replace(id, "ID");
    }
    if status == 201 {
        let object = answer.as_object().unwrap().values().next().unwrap();
        let one = format!("{path}/{}", id(object));
        // One that holds somewhere stays.
        if object.get("ingress_firewall_policy_id").is_some() {
            let nowhere = json!({"firewall_group": {"ports": []}});
            assert_eq!(cloud.ask("admin", "PUT", &one, nowhere).await.0, 200);
        }
        let (gone, answer) = cloud.ask("admin", "DELETE", &one, Value::Null).await;
        assert_eq!(gone, 204, "{one}: {answer}");
    }
    (status, kind, text)
}

#[tokio::test]
async fn what_is_named_is_there_ones_own_and_of_its_kind() {
    let cloud = Cloud::new().await;
    let own = Planted::new(&cloud, "a", 11).await;
    let second = Planted::new(&cloud, "a", 12).await;
    let theirs = Planted::new(&cloud, "b", 13).await;
    let mut wrong = Vec::new();
    for row in ROWS {
        let (kind, name) = row.of.split_once('.').unwrap();
        let spec = table(kind);
        let field = spec.field(name).unwrap();
        let many = format!("/v2.0/{}", spec.path);
        let one = format!("{many}/{}", own.id(kind));
        let is_list = matches!(field.kind, Kind::Uuids);
        let value = |id: &str| if is_list { json!([id]) } else { json!(id) };
        let other = if row.to == "router" {
            "network"
        } else {
            "router"
        };
        let (maker, mut base) = own.wanted(kind, 99);
        for name in row.without {
            base.as_object_mut().unwrap().remove(*name);
        }
        let create = |id: &str| {
            let mut body = base.clone();
            body[name] = value(id);
            json!({ spec.singular: body })
        };
        let update = |id: &str| json!({spec.singular: {name: value(id)}});
        let ids = [MISSING, theirs.id(row.to), own.id(other), second.id(row.to)];
        let mut judge = |case: &str, have: (u16, String, String), wanted: Answer| {
            if (have.0, have.1.as_str()) != wanted {
                wrong.push(format!("{} {case}: {have:?}, not {wanted:?}", row.of));
            }
        };
        // An admin sees what is another's.
        let hidden = maker != "admin";
        let mut asked: Vec<(&str, &str, &str, Answer)> = Vec::new();
        if field.create != Policy::Nobody {
            asked.push(("POST", &many, maker, row.crossed));
        }
        if field.update != Policy::Nobody && spec.allows(Verb::Update) {
            let changer = if spec.policy == Policy::Admin {
                maker
            } else {
                own.who
            };
            asked.push(("PUT", &one, changer, row.moved));
        }
        for (method, path, who, crossed) in asked {
            let body = |id: &str| {
                if method == "POST" {
                    create(id)
                } else {
                    update(id)
                }
            };
            let (_, before) = cloud.get("admin", &one).await;
            let missing = answered(&cloud, (who, method, path), body(MISSING), &ids).await;
            judge(method, missing.clone(), row.missing);
            for (case, id) in [("another's", ids[1]), ("another kind", ids[2])] {
                let is_theirs = case == "another's";
                if is_theirs && !hidden {
                    continue;
                }
                let have = answered(&cloud, (who, method, path), body(id), &ids).await;
                match row.theirs.filter(|_| is_theirs) {
                    Some(wanted) => judge(&format!("{method} {case}"), have, wanted),
                    None if have != missing => {
                        judge(&format!("{method} {case}"), have, row.missing);
                    }
                    None => {}
                }
            }
            assert_eq!(cloud.get("admin", &one).await.1, before, "{one}");
            let have = answered(&cloud, (who, method, path), body(ids[3]), &ids).await;
            let changed = have.0 == 200;
            judge(&format!("{method} crossed"), have, crossed);
            if changed {
                let back = before[spec.singular][name].clone();
                let back = json!({spec.singular: {name: back}});
                let (status, answer) = cloud.ask("admin", "PUT", path, back).await;
                assert_eq!(status, 200, "{path}: {answer}");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An argument of an action, or a field of a part, that holds ids: by what it is found, what it names, and the answers.
struct Inner {
    of: &'static str,
    to: &'static str,
    /// What else the request has.
    beside: fn() -> Value,
    missing: Answer,
    crossed: Answer,
}

const fn inner(of: &'static str, to: &'static str, missing: Answer, crossed: Answer) -> Inner {
    Inner {
        of,
        to,
        beside: || json!({}),
        missing,
        crossed,
    }
}

const INNER: &[Inner] = &[
    inner(
        "insert_rule.firewall_rule_id",
        "firewall_rule",
        (404, "FirewallRuleNotFound"),
        DONE,
    ),
    // What was put there before.
    inner(
        "remove_rule.firewall_rule_id",
        "firewall_rule",
        (404, "FirewallRuleNotFound"),
        DONE,
    ),
    inner(
        "remove_router_interface.subnet_id",
        "subnet",
        (404, "SubnetNotFound"),
        (404, "RouterInterfaceNotFoundForSubnet"),
    ),
    inner(
        "remove_router_interface.port_id",
        "port",
        (404, "RouterInterfaceNotFound"),
        (404, "RouterInterfaceNotFound"),
    ),
    // The second router has the subnet's gateway.
    inner(
        "add_router_interface.subnet_id",
        "subnet",
        (404, "SubnetNotFound"),
        (409, "IpAddressAlreadyAllocated"),
    ),
    inner(
        "add_router_interface.port_id",
        "port",
        (404, "PortNotFound"),
        DONE,
    ),
    Inner {
        beside: || {
            json!({
                "protocol": "tcp", "external_port": 80, "internal_port": 80,
                "internal_ip_address": "10.11.0.4",
            })
        },
        ..inner(
            "port_forwarding.internal_port_id",
            "spare",
            (404, "PortNotFound"),
            (400, "BadRequest"),
        )
    },
    Inner {
        beside: || json!({"address": "10.11.0.4", "protocol_port": 80}),
        ..inner(
            "member.subnet_id",
            "subnet",
            (400, "ValidationException"),
            MADE,
        )
    },
];

#[test]
fn each_argument_and_field_of_a_part_that_holds_ids_has_its_row() {
    let mut told: Vec<&str> = INNER.iter().map(|row| row.of).collect();
    told.sort_unstable();
    let mut there = Vec::new();
    for spec in REGISTRY {
        let actions = spec.actions.iter().map(|act| (act.name, act.arguments));
        let parts = spec.parts.iter().map(|part| (part.singular, part.fields));
        for (name, fields) in actions.chain(parts) {
            let fields = fields.iter().filter(|field| holds_ids(field));
            there.extend(fields.map(|field| format!("{name}.{}", field.name)));
        }
    }
    there.sort_unstable();
    assert_eq!(told, there);
}

#[tokio::test]
async fn what_actions_and_parts_name_is_there_ones_own_and_of_its_kind() {
    let cloud = Cloud::new().await;
    let own = Planted::new(&cloud, "a", 11).await;
    let second = Planted::new(&cloud, "a", 12).await;
    let theirs = Planted::new(&cloud, "b", 13).await;
    let nobodys = json!({"floating_network_id": own.id("external")});
    let nobodys = cloud
        .made("a", "/v2.0/floatingips", "floatingip", nobodys)
        .await;
    let mut wrong = Vec::new();
    for row in INNER {
        let (name, field) = row.of.split_once('.').unwrap();
        let part = REGISTRY.iter().find_map(|spec| {
            let part = spec.parts.iter().find(|part| part.singular == name)?;
            Some((spec, part))
        });
        let (method, path) = if let Some((spec, part)) = part {
            let of = if spec.singular == "floatingip" {
                id(&nobodys)
            } else {
                own.id(spec.singular).to_owned()
            };
            ("POST", format!("/v2.0/{}/{of}/{}", spec.path, part.plural))
        } else {
            let has = |spec: &&&Spec| spec.actions.iter().any(|act| act.name == name);
            let spec = REGISTRY.iter().find(has).unwrap();
            let of = own.id(spec.singular);
            ("PUT", format!("/v2.0/{}/{of}/{name}", spec.path))
        };
        let ids = [
            MISSING,
            theirs.id(row.to),
            own.id("network"),
            second.id(row.to),
        ];
        let body = |id: &str| {
            let mut body = (row.beside)();
            body[field] = json!(id);
            if part.is_some() {
                json!({ name: body })
            } else {
                body
            }
        };
        let asked = (own.who, method, path.as_str());
        let missing = answered(&cloud, asked, body(MISSING), &[MISSING]).await;
        let judge = |case: &str, have: &(u16, String, String), wanted: Answer| {
            ((have.0, have.1.as_str()) != wanted)
                .then(|| format!("{} {case}: {have:?}, not {wanted:?}", row.of))
        };
        wrong.extend(judge("missing", &missing, row.missing));
        for (case, other) in [("another's", ids[1]), ("another kind", ids[2])] {
            let have = answered(&cloud, asked, body(other), &[other]).await;
            if have != missing {
                wrong.push(format!("{} {case}: {have:?}, not {missing:?}", row.of));
            }
        }
        let crossed = answered(&cloud, asked, body(ids[3]), &ids).await;
        wrong.extend(judge("crossed", &crossed, row.crossed));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
