//! What can this API do?
//!
//! Versions, the resources of a version, and the extensions: an alias stands here only if all that it
//! promises is true.

use crate::{
    api::{Api, ApiError, error::respond, finish, handlers::Answer},
    resources::REGISTRY,
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Method, Request, Response, StatusCode},
};
use serde_json::{Map, Value, json};

/// Alias, name, what it promises.
pub(crate) const EXTENSIONS: &[(&str, &str, &str)] = &[
    (
        "address-scope",
        "Address scope",
        "Pools of subnets that do not overlap, and what they scope.",
    ),
    (
        "dhcp_agent_scheduler",
        "DHCP Agent Scheduler",
        "Which hosts answer DHCP on a network can be asked for: there is nothing to choose.",
    ),
    (
        "l3_agent_scheduler",
        "L3 Agent Scheduler",
        "Which hosts have a router can be asked for: there is nothing to choose.",
    ),
    (
        "dvr",
        "Distributed Virtual Router",
        "Routers are in every switch, whether they are asked to be or not.",
    ),
    (
        "l3-ha",
        "HA Router extension",
        "Routers may be asked to be highly available: none has a place that it could fail with, and gateways move.",
    ),
    (
        "default-subnetpools",
        "Default Subnetpools",
        "Subnets may ask for the default pool of their family.",
    ),
    (
        "subnet_allocation",
        "Subnet Allocation",
        "Subnets get their blocks from pools.",
    ),
    (
        "subnetpool-prefix-ops",
        "Subnet Pool Prefix Operations",
        "Prefixes are added to a pool's own and taken from them.",
    ),
    (
        "rbac-address-scope",
        "Add address_scope type to RBAC",
        "Address scopes are shared by grants.",
    ),
    (
        "rbac-subnetpool",
        "Add subnetpool type to RBAC",
        "Pools of subnets are shared by grants.",
    ),
    (
        "address-group",
        "Address group",
        "Addresses by a name, for rules.",
    ),
    ("agent", "agent", "Hosts are shown as agents."),
    (
        "availability_zone",
        "Availability Zone",
        "Hosts are in zones, as their configuration says.",
    ),
    (
        "availability_zone_filter",
        "Availability Zone Filter Extension",
        "Zones by name, resource and state.",
    ),
    (
        "network_availability_zone",
        "Network Availability Zone",
        "Networks say in which zones they are.",
    ),
    (
        "router_availability_zone",
        "Router Availability Zone",
        "Routers' gateways are in the zones that they name.",
    ),
    (
        "agent_sort_key",
        "Agents Sort Key",
        "Lists of agents can be sorted.",
    ),
    (
        "allowed-address-pairs",
        "Allowed Address Pairs",
        "A port may send from other addresses.",
    ),
    (
        "aap-reject-multicast",
        "Allowed address pairs reject multicast extension",
        "Multicast addresses are refused in pairs.",
    ),
    (
        "auto-allocated-topology",
        "Auto Allocated Topology Services",
        "A project gets a network that leads outside when it asks.",
    ),
    ("binding", "Port Binding", "A port is bound to a host."),
    (
        "binding-extended",
        "Port Bindings Extended",
        "A port may be bound to more hosts, of which one at a time has it.",
    ),
    (
        "empty-string-filtering",
        "Empty String Filtering Extension",
        "An empty filter means empty.",
    ),
    (
        "dns-domain-ports",
        "dns_domain for ports",
        "A port's name may be in a domain of its own.",
    ),
    (
        "dns-integration",
        "DNS Integration",
        "Ports, floating IPs and networks have names, which the switches resolve.",
    ),
    (
        "external-net",
        "Neutron external network",
        "Networks say whether they lead outside.",
    ),
    (
        "ext-gw-mode",
        "Neutron L3 Configurable external gateway mode",
        "Routers' gateways hide sources or do not.",
    ),
    (
        "fwaas_v2",
        "FWaaS v2",
        "Firewall groups judge what passes workloads' ports and routers' interfaces.",
    ),
    (
        "extraroute",
        "Neutron Extra Route",
        "Routers have routes besides those to their subnets.",
    ),
    (
        "extraroute-atomic",
        "Atomically add/remove extra routes",
        "Routes are added to a router's own and taken from them.",
    ),
    (
        "expose-port-forwarding-in-fip",
        "Expose Floating IP port forwardings",
        "Floating IPs show their port forwardings.",
    ),
    (
        "extra_dhcp_opt",
        "Neutron Extra DHCP options",
        "Ports have options for their DHCP client.",
    ),
    (
        "fip-port-details",
        "Floating IP Port Details Extension",
        "Floating IPs show whose they are.",
    ),
    (
        "floating-ip-port-forwarding",
        "Floating IP Port Forwarding",
        "Ports of a floating IP go to workloads.",
    ),
    (
        "floating-ip-port-forwarding-description",
        "Floating IP Port Forwarding new attribute description",
        "Port forwardings have a description.",
    ),
    (
        "floating-ip-port-forwarding-detail",
        "Floating IP port forwarding detail",
        "Floating IPs show ids and ports of their port forwardings.",
    ),
    (
        "floating-ip-port-forwarding-port-ranges",
        "Floating IP Port Forwarding support port ranges",
        "Runs of ports are forwarded to runs of as many.",
    ),
    (
        "floatingip-pools",
        "Floating IP Pools Extension",
        "The subnets that floating IPs can be had from.",
    ),
    (
        "flow_classifier",
        "Flow Classifier",
        "Which connections enter a chain.",
    ),
    (
        "ip-substring-filtering",
        "IP address substring filtering",
        "Ports by part of an address.",
    ),
    (
        "l3-port-ip-change-not-allowed",
        "Prevent L3 router ports IP address change extension",
        "A router's port keeps its addresses.",
    ),
    (
        "l2_adjacency",
        "L2 Adjacency",
        "Networks say that they are one broadcast domain.",
    ),
    (
        "metering",
        "Neutron Metering",
        "What crosses routers' gateways is counted under labels.",
    ),
    (
        "metering_source_and_destination_fields",
        "Neutron Metering with source and destination filtering",
        "It counts by where it comes from and where it goes.",
    ),
    (
        "network-ip-availability",
        "Network IP Availability",
        "How many addresses of networks and subnets are used.",
    ),
    ("net-mtu", "Network MTU", "Networks say their MTU."),
    (
        "networking-sfc-tap",
        "Networking SFC Passive Tap Service Function support",
        "Groups whose pair gets copies.",
    ),
    (
        "net-mtu-writable",
        "Network MTU (writable)",
        "Networks' MTU can be set.",
    ),
    (
        "overweave-hosts",
        "overweave hosts",
        "Hosts are added and get join tokens.",
    ),
    (
        "overweave-network-function",
        "overweave native functions",
        "A port pair group may name a native function by network_function.",
    ),
    ("pagination", "Pagination support", "Lists come in pages."),
    (
        "port-security",
        "Port Security",
        "What a port sends is checked unless told otherwise.",
    ),
    (
        "port-security-groups-filtering",
        "Port filtering on security groups",
        "Ports by security group.",
    ),
    (
        "project-id",
        "project_id field enabled",
        "project_id and tenant_id are one.",
    ),
    (
        "provider",
        "Provider Network",
        "An admin sees and chooses a network's VNI.",
    ),
    (
        "qos",
        "Quality of Service",
        "Networks and ports have policies for their traffic.",
    ),
    (
        "qos-bw-limit-direction",
        "Direction for QoS bandwidth limit rule",
        "What a workload sends and what it gets are limited apart.",
    ),
    (
        "qos-fip",
        "Floating IP QoS",
        "Floating IPs have policies that limit what passes by them.",
    ),
    (
        "qos-fip-network-policy",
        "QoS floating IP network policy ID",
        "Floating IPs say their network's policy, which holds for those without their own.",
    ),
    (
        "qos-gateway-ip",
        "Router gateway IP QoS",
        "Routers' gateways have policies that limit what passes by them.",
    ),
    (
        "qos-bw-minimum-ingress",
        "Ingress direction for QoS minimum bandwidth rule",
        "What a workload gets is kept free at its host too.",
    ),
    (
        "qos-pps-minimum",
        "QoS Packet Rate Minimum Rule",
        "Packets a second are kept free at the workload's host.",
    ),
    (
        "qos-pps-minimum-rule-alias",
        "QoS Packet Rate Minimum Rule Alias",
        "Such a rule is found by its own id.",
    ),
    (
        "qos-default",
        "QoS default policy",
        "New networks of a project get its default policy.",
    ),
    (
        "qos-port-network-policy",
        "QoS port network policy ID",
        "Ports say their network's policy.",
    ),
    (
        "qos-pps",
        "QoS Rule Type Packet per Second Extension",
        "Packets a second are limited.",
    ),
    (
        "qos-rule-type-details",
        "Details of QoS rule types",
        "Which values a rule may have.",
    ),
    (
        "qos-rule-type-filter",
        "Allow to filter the list of QoS rule types",
        "All rules that are known are supported.",
    ),
    (
        "qos-rules-alias",
        "Quality of Service rules alias API",
        "A rule is found by its own id.",
    ),
    (
        "quotas",
        "Quota management support",
        "How many of a kind a project may have.",
    ),
    (
        "quota-check-limit",
        "Quota engine limit check",
        "A limit below what is used is refused.",
    ),
    (
        "quota-check-limit-default",
        "Quota engine limit check by default",
        "So it is unless the request forces it.",
    ),
    (
        "quota_details",
        "Quota details management support",
        "How many of them are used.",
    ),
    (
        "rbac-address-group",
        "Add address_group type to RBAC",
        "Address groups are shared by grants.",
    ),
    (
        "rbac-policies",
        "RBAC Policies",
        "Networks are shared by grants to one project or to all.",
    ),
    (
        "rbac-security-groups",
        "Add security_group type to network RBAC",
        "Security groups are shared by grants.",
    ),
    (
        "revision-if-match",
        "If-Match constraints based on revision_number",
        "Changes by revision.",
    ),
    (
        "router",
        "Neutron L3 Router",
        "Routers join networks and leave the fabric; floating IPs lead in.",
    ),
    (
        "router-admin-state-down-before-update",
        "Enforce Router's Admin State Down Before Update Extension",
        "distributed and ha are changed while a router is down.",
    ),
    ("security-group", "security-group", "Rules that allow."),
    (
        "security-groups-normalized-cidr",
        "Normalized CIDR field for security group rules",
        "Rules show their prefix without host bits.",
    ),
    (
        "security-groups-rules-belongs-to-default-sg",
        "Security group rules belongs to the default SG",
        "Rules say whether their group is a default one.",
    ),
    (
        "security-groups-remote-address-group",
        "Remote address group id field for security group rules",
        "A rule may name an address group as the other end.",
    ),
    (
        "subnet-service-types",
        "Subnet service types",
        "Whose ports get addresses of a subnet unasked.",
    ),
    (
        "service-type",
        "Neutron Service Type Management",
        "Who provides services can be asked for: there is no choice.",
    ),
    (
        "service_graph",
        "Service Graph",
        "Chains that branch into chains.",
    ),
    ("sfc", "Service Function Chaining", "Chains of functions."),
    ("sorting", "Sorting support", "Lists can be sorted."),
    (
        "standard-attr-description",
        "standard-attr-description",
        "Objects have a description.",
    ),
    (
        "standard-attr-revisions",
        "Resource revision numbers",
        "Objects have a revision number.",
    ),
    (
        "standard-attr-tag",
        "Tag support for resources",
        "Objects have tags.",
    ),
    (
        "standard-attr-timestamp",
        "Resource timestamps",
        "Objects say when they were changed.",
    ),
    (
        "stateful-security-group",
        "Stateful security group",
        "Groups may be stateless.",
    ),
    (
        "subnet-external-network",
        "Subnet belongs to an external network",
        "Subnets say whether their network leads outside.",
    ),
    (
        "tag-creation",
        "Tag creation",
        "Tags can be given in a create.",
    ),
    (
        "tag-ports-during-bulk-creation",
        "Tag Ports During Bulk Creation",
        "Tags can be given in a bulk create.",
    ),
    (
        "trunk",
        "Trunk Extension",
        "Several ports by the device of one, by 802.1Q tags.",
    ),
    (
        "trunk-details",
        "Trunk port details",
        "A trunk's parent shows its sub-ports.",
    ),
];

fn shown(extension: &(&str, &str, &str)) -> Value {
    let (alias, name, description) = extension;
    json!({
        "alias": alias,
        "name": name,
        "description": description,
        "updated": "2026-11-01T00:00:00-00:00",
        "links": [],
    })
}

/// GET /
pub(super) async fn versions(State(api): State<Api>, request: Request<Body>) -> Response<Body> {
    let href = format!("{}/v2.0/", api.origin(request.headers()));
    let links = json!([{"rel": "self", "href": href}]);
    let body = json!({"versions": [{"id": "v2.0", "status": "CURRENT", "links": links}]});
    finish(match *request.method() {
        Method::GET | Method::HEAD => Ok(respond(StatusCode::OK, &body)),
        _ => Err(ApiError::no_method(&["GET", "HEAD"])),
    })
}

async fn reading(
    api: &Api,
    method: &Method,
    headers: &HeaderMap,
    body: impl FnOnce() -> Answer,
) -> Answer {
    api.caller(headers).await?;
    if method == Method::GET {
        body()
    } else {
        Err(ApiError::no_method(&["GET"]))
    }
}

/// GET /v2.0/
pub(super) async fn root(
    State(api): State<Api>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    let origin = api.origin(&headers);
    finish(
        reading(&api, &method, &headers, || {
            let resources: Vec<Value> = REGISTRY
                .iter()
                .map(|spec| {
                    let href = format!("{origin}/v2.0/{}", spec.path);
                    let links = json!([{"rel": "self", "href": href}]);
                    json!({"name": spec.singular, "collection": spec.plural, "links": links})
                })
                .collect();
            Ok(respond(StatusCode::OK, &json!({"resources": resources})))
        })
        .await,
    )
}

/// GET /v2.0/extensions
pub(super) async fn list(
    State(api): State<Api>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    finish(
        reading(&api, &method, &headers, || {
            let all: Vec<Value> = EXTENSIONS.iter().map(shown).collect();
            Ok(respond(StatusCode::OK, &json!({"extensions": all})))
        })
        .await,
    )
}

/// GET /v2.0/extensions/ALIAS
pub(super) async fn show(
    State(api): State<Api>,
    Path(alias): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response<Body> {
    finish(
        reading(&api, &method, &headers, || {
            match EXTENSIONS.iter().find(|extension| extension.0 == alias) {
                Some(extension) => {
                    let mut body = Map::new();
                    body.insert("extension".to_owned(), shown(extension));
                    Ok(respond(StatusCode::OK, &Value::Object(body)))
                }
                None => Ok(respond(
                    StatusCode::NOT_FOUND,
                    &json!({
                        "message": format!("Extension with alias {alias} does not exist"),
                        "code": "404 Not Found",
                        "title": "Not Found",
                    }),
                )),
            }
        })
        .await,
    )
}
