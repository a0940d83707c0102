//! Classifiers, functions and chains, as a client sees them.

use std::collections::BTreeMap;

use super::*;
use crate::compile::{
    intent::{Object, Work},
    view,
};
use hostconfig::chain::{HealthProbe, Monitor};

#[tokio::test]
async fn chains_are_made_of_native_functions() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    cloud.subnet("a", &network, "10.0.0.0/24").await;
    let web = id(&cloud.port("a", json!({"network_id": network})).await);
    let groups = "/v2.0/sfc/port_pair_groups";
    let function = |function: Value| json!({"name": "f", "network_function": function});
    let firewall = json!({"firewall": {"rules": [{"action": "deny", "source": "10.0.0.66/32"}], "default": "allow"}});
    let firewall = id(&cloud
        .made("a", groups, "port_pair_group", function(firewall))
        .await);
    let balancer = json!({"load_balancer": {"vip": "10.0.0.100", "port": 80, "algorithm": "maglev", "members": [web]}});
    let balancer = cloud
        .made("a", groups, "port_pair_group", function(balancer))
        .await;
    let vip = balancer["vip_port_id"].as_str().unwrap();
    let (_, shown) = cloud.get("a", &format!("/v2.0/ports/{vip}")).await;
    assert_eq!(shown["port"]["device_owner"], "overweave:load_balancer");
    assert_eq!(shown["port"]["device_id"], balancer["id"]);
    assert_eq!(shown["port"]["fixed_ips"][0]["ip_address"], "10.0.0.100");
    assert_eq!(shown["port"]["status"], "ACTIVE");
    let path_of_vip = format!("/v2.0/ports/{vip}");
    cloud
        .refused(
            "a",
            "DELETE",
            &path_of_vip,
            Value::Null,
            409,
            "ServicePortInUse",
        )
        .await;
    let taken =
        json!({"port": {"network_id": network, "fixed_ips": [{"ip_address": "10.0.0.100"}]}});
    cloud
        .refused(
            "a",
            "POST",
            "/v2.0/ports",
            taken,
            409,
            "IpAddressAlreadyAllocated",
        )
        .await;
    let empty = id(&cloud
        .made("a", groups, "port_pair_group", json!({"name": "e"}))
        .await);
    for (body, status, kind) in [
        (json!({"port_pairs": [MISSING]}), 404, "PortPairNotFound"),
        (
            json!({"tap_enabled": true, "network_function": {"firewall": {}}}),
            400,
            "HTTPBadRequest",
        ),
        (json!({"tap_enabled": 7}), 400, "InvalidInput"),
        (
            json!({"network_function": {"nat": {}}}),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"network_function": {"shaper": {"rate": "1mbit", "queue": "sfq"}}}),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"network_function": {"load_balancer": {"vip": "10.9.0.1", "port": 80, "members": [web]}}}),
            400,
            "InvalidIpForNetwork",
        ),
        (
            json!({"network_function": {"load_balancer": {"vip": "10.0.0.101", "port": 80, "members": [MISSING]}}}),
            404,
            "PortNotFound",
        ),
        (
            json!({"network_function": {"load_balancer": {"vip": "10.0.0.100", "port": 81, "members": [web]}}}),
            409,
            "IpAddressAlreadyAllocated",
        ),
        (
            json!({"network_function": {"load_balancer": {"vip": "10.0.0.101", "port": 80}}}),
            400,
            "HTTPBadRequest",
        ),
    ] {
        let body = json!({"port_pair_group": body});
        cloud.refused("a", "POST", groups, body, status, kind).await;
    }
    let foreign = json!({"port_pair_group": function(json!({"load_balancer": {"vip": "10.0.0.9", "port": 80, "members": [web]}}))});
    cloud
        .refused("b", "POST", groups, foreign, 404, "PortNotFound")
        .await;

    let classifiers = "/v2.0/sfc/flow_classifiers";
    let on = |extra: Value| {
        with(
            json!({"logical_source_network": network, "protocol": "tcp"}),
            extra,
        )
    };
    let http = json!({"destination_port_range_min": 80, "destination_port_range_max": 80});
    let http = cloud
        .made("a", classifiers, "flow_classifier", on(http))
        .await;
    assert_eq!(http["ethertype"], "IPv4");
    assert_eq!(http["l7_parameters"], json!({}));
    for (body, status, kind) in [
        (json!({}), 400, "FlowClassifierInConflict"),
        (
            json!({"logical_source_port": web, "protocol": "tcp"}),
            400,
            "FlowClassifierInConflict",
        ),
        (
            json!({"protocol": "xyz"}),
            400,
            "FlowClassifierInvalidProtocol",
        ),
        (
            json!({"destination_port_range_min": 80}),
            400,
            "FlowClassifierProtocolRequiredWithPorts",
        ),
        (
            json!({"logical_source_port": MISSING}),
            404,
            "FlowClassifierPortNotFound",
        ),
        (
            on(json!({"destination_port_range_min": 90, "destination_port_range_max": 80})),
            400,
            "FlowClassifierInvalidPortRange",
        ),
        (
            json!({"ethertype": "IPX"}),
            400,
            "FlowClassifierInvalidEthertype",
        ),
        (
            json!({"ethertype": "IPv6", "source_ip_prefix": "10.0.0.0/8"}),
            400,
            "FlowClassifierIpPrefixFormatConflictWithEthertype",
        ),
        (
            on(json!({"logical_source_port": web})),
            400,
            "HTTPBadRequest",
        ),
    ] {
        let body = json!({"flow_classifier": body});
        cloud
            .refused("a", "POST", classifiers, body, status, kind)
            .await;
    }
    let foreign = json!({"flow_classifier": {"logical_source_network": network}});
    cloud
        .refused("b", "POST", classifiers, foreign, 404, "NetworkNotFound")
        .await;
    cloud
        .made(
            "a",
            classifiers,
            "flow_classifier",
            on(json!({"destination_port_range_min": 81})),
        )
        .await;
    cloud
        .made("b", classifiers, "flow_classifier", json!({}))
        .await;

    let chains = "/v2.0/sfc/port_chains";
    let balancer = id(&balancer);
    let body = json!({"name": "edge", "port_pair_groups": [firewall, balancer], "flow_classifiers": [http["id"]]});
    let chain = cloud.made("a", chains, "port_chain", body).await;
    assert_eq!(
        chain["chain_parameters"],
        json!({"correlation": "mpls", "symmetric": false})
    );
    assert_eq!(chain["chain_id"], 1);
    let body = json!({"port_pair_groups": [balancer], "chain_parameters": {"symmetric": "True"}});
    let second = cloud.made("a", chains, "port_chain", body).await;
    assert_eq!(
        second["chain_parameters"],
        json!({"correlation": "mpls", "symmetric": true})
    );
    let path = format!("{chains}/{}", id(&second));
    assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    for (body, status, kind) in [
        (json!({"flow_classifiers": []}), 400, "HTTPBadRequest"),
        (
            json!({"port_pair_groups": []}),
            400,
            "PortPairGroupNotSpecified",
        ),
        (json!({"port_pair_groups": [empty]}), 400, "HTTPBadRequest"),
        (
            json!({"port_pair_groups": [firewall], "flow_classifiers": [http["id"]]}),
            409,
            "FlowClassifierInUse",
        ),
        (
            json!({"port_pair_groups": [firewall, balancer]}),
            409,
            "InvalidPortPairGroups",
        ),
        (
            json!({"port_pair_groups": [MISSING]}),
            404,
            "PortPairGroupNotFound",
        ),
        (
            json!({"port_pair_groups": [firewall], "flow_classifiers": [MISSING]}),
            404,
            "FlowClassifierNotFound",
        ),
        (
            json!({"port_pair_groups": [firewall], "chain_parameters": {"correlation": "zz"}}),
            400,
            "HTTPBadRequest",
        ),
    ] {
        let body = json!({"port_chain": body});
        cloud.refused("a", "POST", chains, body, status, kind).await;
    }
    let path = format!("{chains}/{}", id(&chain));
    let put = json!({"port_chain": {"chain_parameters": {"symmetric": true}}});
    cloud
        .refused("a", "PUT", &path, put, 400, "HTTPBadRequest")
        .await;
    let put = json!({"port_chain": {"port_pair_groups": [balancer, firewall]}});
    assert_eq!(cloud.ask("a", "PUT", &path, put).await.0, 200);
    for (path, kind) in [
        (format!("{groups}/{firewall}"), "PortPairGroupInUse"),
        (
            format!("{classifiers}/{}", id(&http)),
            "FlowClassifierInUse",
        ),
        (format!("/v2.0/networks/{network}"), "NetworkInUse"),
    ] {
        cloud
            .refused("a", "DELETE", &path, Value::Null, 409, kind)
            .await;
    }
    // A member that goes leaves the balancer.
    assert_eq!(
        cloud
            .ask("a", "DELETE", &format!("/v2.0/ports/{web}"), Value::Null)
            .await
            .0,
        204
    );
    let (_, shown) = cloud.get("a", &format!("{groups}/{balancer}")).await;
    assert_eq!(
        shown["port_pair_group"]["network_function"]["load_balancer"]["members"],
        json!([])
    );
    // A new address is a new port; the old one is free.
    let moved = json!({"port_pair_group": {"network_function": {"load_balancer": {"vip": "10.0.0.120", "port": 80, "network_id": network}}}});
    let (status, body) = cloud
        .ask("a", "PUT", &format!("{groups}/{balancer}"), moved)
        .await;
    assert_eq!(status, 200, "{body}");
    assert_ne!(body["port_pair_group"]["vip_port_id"], json!(vip));
    cloud
        .refused("a", "GET", &path_of_vip, Value::Null, 404, "PortNotFound")
        .await;
    assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(
        cloud
            .ask("a", "DELETE", &format!("{groups}/{balancer}"), Value::Null)
            .await
            .0,
        204
    );
    let (_, list) = cloud.get("a", "/v2.0/ports").await;
    assert_eq!(list["ports"], json!([]), "the address went with the group");
}

#[tokio::test]
async fn service_graphs_join_chains_without_loops() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    cloud.subnet("a", &network, "10.0.0.0/24").await;
    let (groups, classifiers) = ("/v2.0/sfc/port_pair_groups", "/v2.0/sfc/flow_classifiers");
    let mut chains = Vec::new();
    let mut ports = Vec::new();
    // The last two classifiers' fields overlap; their ends do not.
    for port in [80, 81, 82, 82] {
        let end = id(&cloud.port("a", json!({"network_id": network})).await);
        let function = json!({"network_function": {"firewall": {"default": "allow"}}});
        let group = id(&cloud.made("a", groups, "port_pair_group", function).await);
        let led = json!({"logical_source_port": end, "protocol": "tcp",
            "destination_port_range_min": port, "destination_port_range_max": port});
        let led = id(&cloud.made("a", classifiers, "flow_classifier", led).await);
        let chain = json!({"port_pair_groups": [group], "flow_classifiers": [led]});
        chains.push(id(&cloud.made("a", CHAINS, "port_chain", chain).await));
        ports.push(end);
    }
    let [one, two, three, four] = [0, 1, 2, 3].map(|n| chains[n].clone());
    let path = "/v2.0/sfc/service_graphs";
    for (branches, status, kind) in [
        (json!({"x": [two]}), 400, "HTTPBadRequest"),
        (json!({one.clone(): two}), 400, "HTTPBadRequest"),
        (json!({one.clone(): [7]}), 400, "HTTPBadRequest"),
        (json!([one]), 400, "HTTPBadRequest"),
        (json!({one.clone(): [MISSING]}), 404, "PortChainNotFound"),
        (json!({one.clone(): [one]}), 400, "ServiceGraphLoopDetected"),
        (
            json!({one.clone(): [two], two.clone(): [three], three.clone(): [one]}),
            400,
            "ServiceGraphLoopDetected",
        ),
        (
            json!({one.clone(): [two, two]}),
            400,
            "ServiceGraphPortChainInConflict",
        ),
        (
            json!({one.clone(): [three, four]}),
            400,
            "ServiceGraphFlowClassifierInConflict",
        ),
    ] {
        let body = json!({"service_graph": {"port_chains": branches}});
        cloud.refused("a", "POST", path, body, status, kind).await;
    }
    let foreign = json!({"service_graph": {"port_chains": {one.clone(): [two]}}});
    cloud
        .refused("b", "POST", path, foreign, 404, "PortChainNotFound")
        .await;

    let branches = json!({one.clone(): [two, three], two.clone(): [four]});
    let graph = json!({"name": "g", "port_chains": branches});
    let graph = cloud.made("a", path, "service_graph", graph).await;
    assert_eq!(graph["port_chains"], branches);
    let shown = cloud.get("a", &format!("{CHAINS}/{one}")).await.1;
    assert!(shown["port_chain"].get("place").is_none(), "{shown}");
    let places = |cloud: &Cloud| {
        let stored = cloud.api.core.store.snapshot();
        let objects = view::objects(&stored, &Facts::default());
        let mut places = BTreeMap::new();
        for object in objects {
            if let Object::Chain(chain) = object {
                places.insert(chain.id.to_string(), chain.graph.clone());
            }
        }
        places
    };
    let place = places(&cloud);
    let depths = chains.iter().map(|chain| place[chain].depth);
    assert_eq!(depths.collect::<Vec<_>>(), [0, 1, 1, 2]);
    let next: Vec<String> = place[&one].next.iter().map(ToString::to_string).collect();
    assert_eq!(next, [two.clone(), three.clone()]);

    let again = json!({"service_graph": {"port_chains": {three.clone(): [four]}}});
    cloud
        .refused(
            "a",
            "POST",
            path,
            again,
            409,
            "ServiceGraphInvalidPortChains",
        )
        .await;
    let own = format!("{path}/{}", id(&graph));
    for body in [
        json!({"port_chain": {"flow_classifiers": []}}),
        json!({"port_chain": {"port_pair_groups": [id(&cloud.made("a", groups, "port_pair_group", json!({"network_function": {"firewall": {"default": "deny"}}})).await)]}}),
    ] {
        let chain = format!("{CHAINS}/{two}");
        let kind = "ServiceGraphPortChainInUse";
        cloud.refused("a", "PUT", &chain, body, 409, kind).await;
    }
    let chain = format!("{CHAINS}/{four}");
    let kind = "ServiceGraphPortChainInUse";
    cloud
        .refused("a", "DELETE", &chain, Value::Null, 409, kind)
        .await;
    let renamed = json!({"port_chain": {"name": "last"}});
    assert_eq!(cloud.ask("a", "PUT", &chain, renamed).await.0, 200);
    let body = json!({"service_graph": {"port_chains": {}}});
    cloud
        .refused("a", "PUT", &own, body, 400, "HTTPBadRequest")
        .await;
    let body = json!({"service_graph": {"name": "h", "description": "new"}});
    assert_eq!(cloud.ask("a", "PUT", &own, body).await.0, 200);
    assert_eq!(cloud.get("b", &own).await.0, 404);
    assert_eq!(cloud.ask("a", "DELETE", &own, Value::Null).await.0, 204);
    assert!(
        places(&cloud)
            .values()
            .all(|place| *place == hostconfig::Graph::default())
    );
    assert_eq!(cloud.ask("a", "DELETE", &chain, Value::Null).await.0, 204);
}

const PAIRS: &str = "/v2.0/sfc/port_pairs";
const GROUPS: &str = "/v2.0/sfc/port_pair_groups";
const CHAINS: &str = "/v2.0/sfc/port_chains";

/// Four ports of project a on one host, and one on none.
async fn appliance_ports(cloud: &Cloud) -> (Vec<String>, String) {
    let network = cloud.network("a").await;
    cloud.subnet("a", &network, "10.0.0.0/24").await;
    let mut ports = Vec::new();
    for host in ["h1", "h1", "h1", "h2", ""] {
        let body = json!({"network_id": network, "project_id": A, "binding:host_id": host});
        ports.push(id(&cloud.port("admin", body).await));
    }
    let unbound = ports.pop().unwrap();
    (ports, unbound)
}

#[tokio::test]
async fn a_port_pair_is_between_two_bound_ports_of_one_host() {
    let cloud = Cloud::new().await;
    let (ports, unbound) = appliance_ports(&cloud).await;
    let body = json!({"name": "pp", "ingress": ports[0], "egress": ports[1]});
    let pair = cloud.made("a", PAIRS, "port_pair", body).await;
    assert_eq!(
        pair["service_function_parameters"],
        json!({"correlation": null, "weight": 1})
    );
    let same = json!({"ingress": ports[2], "egress": ports[2], "service_function_parameters": {"weight": "2"}});
    let one_armed = cloud.made("a", PAIRS, "port_pair", same).await;
    assert_eq!(one_armed["service_function_parameters"]["weight"], 2);
    let path = format!("{PAIRS}/{}", id(&one_armed));
    for (parameters, status) in [
        (json!({"weight": 0}), 200),
        (json!({"weight": 1, "correlation": "mpls"}), 400),
        (json!({"weight": -1}), 400),
    ] {
        let body = json!({"port_pair": {"service_function_parameters": parameters}});
        assert_eq!(cloud.ask("a", "PUT", &path, body).await.0, status);
    }
    let with_parameters = |parameters: Value| json!({"ingress": ports[3], "egress": ports[3], "service_function_parameters": parameters});
    for (body, status, kind) in [
        (
            json!({"ingress": unbound, "egress": ports[3]}),
            400,
            "PortPairIngressNoHost",
        ),
        (
            json!({"ingress": ports[3], "egress": unbound}),
            400,
            "PortPairEgressNoHost",
        ),
        (
            json!({"ingress": ports[2], "egress": ports[3]}),
            400,
            "PortPairIngressEgressDifferentHost",
        ),
        (
            json!({"ingress": ports[0], "egress": ports[1]}),
            400,
            "PortPairIngressEgressInUse",
        ),
        (
            json!({"ingress": ports[1], "egress": ports[1]}),
            400,
            "PortPairIngressEgressInUse",
        ),
        (
            json!({"ingress": MISSING, "egress": ports[3]}),
            404,
            "PortPairPortNotFound",
        ),
        (json!({"ingress": ports[3]}), 400, "HTTPBadRequest"),
        (
            with_parameters(json!({"correlation": "zzz"})),
            400,
            "HTTPBadRequest",
        ),
        (
            with_parameters(json!({"correlation": "nsh"})),
            400,
            "HTTPBadRequest",
        ),
        (
            with_parameters(json!({"weight": -1})),
            400,
            "HTTPBadRequest",
        ),
        (with_parameters(json!({"x": 1})), 400, "HTTPBadRequest"),
    ] {
        let body = json!({"port_pair": body});
        cloud.refused("a", "POST", PAIRS, body, status, kind).await;
    }
    let foreign = json!({"port_pair": {"ingress": ports[3], "egress": ports[3]}});
    cloud
        .refused("b", "POST", PAIRS, foreign, 404, "PortPairPortNotFound")
        .await;
    let path = format!("{PAIRS}/{}", id(&pair));
    let moved = json!({"port_pair": {"ingress": ports[3]}});
    cloud
        .refused("a", "PUT", &path, moved, 400, "HTTPBadRequest")
        .await;
    let port = format!("/v2.0/ports/{}", ports[0]);
    cloud
        .refused("a", "DELETE", &port, Value::Null, 409, "PortInUse")
        .await;
    assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    assert_eq!(cloud.ask("a", "DELETE", &port, Value::Null).await.0, 204);
}

#[tokio::test]
async fn a_group_of_pairs_is_a_hop() {
    let cloud = Cloud::new().await;
    let (ports, _) = appliance_ports(&cloud).await;
    let mut pairs = Vec::new();
    for ends in [[0, 1], [2, 2]] {
        let [ingress, egress] = ends.map(|at: usize| ports[at].clone());
        let body = json!({"name": "pp", "ingress": ingress, "egress": egress});
        pairs.push(id(&cloud.made("a", PAIRS, "port_pair", body).await));
    }
    let parameters = json!({"lb_fields": ["ip_src", "ip_dst"]});
    let body =
        json!({"name": "pg", "port_pairs": [pairs[0]], "port_pair_group_parameters": parameters});
    let group = cloud.made("a", GROUPS, "port_pair_group", body).await;
    assert_eq!(group["port_pairs"], json!([pairs[0]]));
    assert_eq!(group["failure_policy"], "closed");
    assert_eq!(
        group["port_pair_group_parameters"],
        json!({
            "lb_fields": ["ip_src", "ip_dst"],
            "ppg_n_tuple_mapping": {"ingress_n_tuple": {}, "egress_n_tuple": {}},
        })
    );
    let shaper = json!({"shaper": {"rate": "1mbit"}});
    let mapping =
        json!({"ppg_n_tuple_mapping": {"ingress_n_tuple": {"source_ip_prefix": "10.0.0.0/8"}}});
    for (body, status, kind) in [
        (json!({"port_pairs": [pairs[0]]}), 409, "PortPairInUse"),
        (json!({"port_pairs": [MISSING]}), 404, "PortPairNotFound"),
        (
            json!({"port_pairs": [pairs[1]], "network_function": shaper}),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"port_pair_group_parameters": {"lb_fields": ["bogus"]}}),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"port_pair_group_parameters": mapping}),
            400,
            "HTTPBadRequest",
        ),
        (json!({"failure_policy": "ajar"}), 400, "HTTPBadRequest"),
    ] {
        let body = json!({"port_pair_group": body});
        cloud.refused("a", "POST", GROUPS, body, status, kind).await;
    }
    let used = format!("{PAIRS}/{}", pairs[0]);
    cloud
        .refused("a", "DELETE", &used, Value::Null, 409, "PortPairInUse")
        .await;
    let balancer =
        json!({"load_balancer": {"vip": "10.0.0.100", "port": 80, "members": [ports[3]]}});
    let balancer = json!({"name": "lb", "network_function": balancer});
    let balancer = id(&cloud.made("a", GROUPS, "port_pair_group", balancer).await);
    let hops = |symmetric: bool| json!({"port_pair_groups": [balancer, id(&group)], "chain_parameters": {"symmetric": symmetric}});
    let one_way = json!({"port_chain": hops(false)});
    let refused = cloud
        .refused("a", "POST", CHAINS, one_way, 400, "HTTPBadRequest")
        .await;
    assert!(refused.to_string().contains("must be symmetric"));
    let chain = cloud.made("a", CHAINS, "port_chain", hops(true)).await;
    let path = format!("{GROUPS}/{}", id(&group));
    let emptied = json!({"port_pair_group": {"port_pairs": []}});
    cloud
        .refused("a", "PUT", &path, emptied, 409, "PortPairGroupInUse")
        .await;
    let both = json!({"port_pair_group": {"port_pairs": pairs}});
    assert_eq!(cloud.ask("a", "PUT", &path, both).await.0, 200);
    let renamed = json!({"port_pair": {"name": "new"}});
    assert_eq!(cloud.ask("a", "PUT", &used, renamed).await.0, 200);
    for path in [format!("{CHAINS}/{}", id(&chain)), path, used] {
        assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    }
}

#[tokio::test]
async fn a_chain_has_no_more_inspectors_than_a_connections_record_has_room_for() {
    let cloud = Cloud::new().await;
    let tls = json!({"inspector": {"protocol": "tls"}});
    let mut groups = vec![];
    for n in 0..3 {
        let body = json!({"name": format!("{n}"), "network_function": tls});
        groups.push(id(&cloud.made("a", GROUPS, "port_pair_group", body).await));
    }
    let why = "3 functions of kind inspector, a chain has at most 2";
    let all = json!({"port_chain": {"port_pair_groups": groups}});
    let refused = cloud
        .refused("a", "POST", CHAINS, all, 400, "HTTPBadRequest")
        .await;
    assert!(refused.to_string().contains(why), "{refused}");
    // Nor does another function of a chain become the third.
    let limiter = json!({"network_function": {"rate_limiter": {"rate": "1/s"}}});
    let third = format!("{GROUPS}/{}", groups[2]);
    let body = json!({"port_pair_group": limiter});
    assert_eq!(cloud.ask("a", "PUT", &third, body).await.0, 200);
    cloud
        .made(
            "a",
            CHAINS,
            "port_chain",
            json!({"port_pair_groups": groups}),
        )
        .await;
    let back = json!({"port_pair_group": {"network_function": tls}});
    let refused = cloud
        .refused("a", "PUT", &third, back, 400, "HTTPBadRequest")
        .await;
    assert!(refused.to_string().contains(why), "{refused}");
    for (settings, field) in [
        (json!({}), "patterns"),
        (json!({"patterns": [{"text": "x"}], "depth": 15}), "depth"),
        (json!({"patterns": [{"hex": "0"}]}), "hex"),
        (
            json!({"patterns": [{"text": "x"}], "undecided": "ajar"}),
            "ajar",
        ),
    ] {
        let body = json!({"port_pair_group": {"network_function": {"inspector": settings}}});
        let refused = cloud
            .refused("a", "POST", GROUPS, body, 400, "HTTPBadRequest")
            .await;
        assert!(refused.to_string().contains(field), "{refused}");
    }
}

#[tokio::test]
async fn a_nat_has_a_port_for_each_address() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    cloud.subnet("a", &network, "10.0.0.0/24").await;
    let web = id(&cloud.port("a", json!({"network_id": network})).await);
    let groups = "/v2.0/sfc/port_pair_groups";
    let nat = json!({"nat": {
        "addresses": ["10.0.0.200", "10.0.0.201"], "hosts": 4,
        "forwards": [{"address": "10.0.0.200", "port": 8080, "to": web, "to_port": 80}],
        "static": [{"address": "10.0.0.202", "to": "10.0.0.77"}],
    }});
    let body = json!({"name": "edge", "network_function": nat});
    let made = cloud.made("a", groups, "port_pair_group", body).await;
    let path = format!("{groups}/{}", id(&made));
    let ports: Vec<String> = serde_json::from_value(made["nat_port_ids"].clone()).unwrap();
    assert_eq!(ports.len(), 3);
    assert_eq!(
        made["network_function"]["nat"]["network_id"],
        json!(network)
    );
    let mut held = BTreeMap::new();
    for port in &ports {
        let (_, shown) = cloud.get("a", &format!("/v2.0/ports/{port}")).await;
        let port_shown = &shown["port"];
        assert_eq!(port_shown["device_owner"], "overweave:nat");
        assert_eq!(port_shown["device_id"], made["id"]);
        let addr = port_shown["fixed_ips"][0]["ip_address"].as_str().unwrap();
        held.insert(addr.to_owned(), port.clone());
        let own = format!("/v2.0/ports/{port}");
        cloud
            .refused("a", "DELETE", &own, Value::Null, 409, "ServicePortInUse")
            .await;
    }
    assert_eq!(
        held.keys().collect::<Vec<_>>(),
        ["10.0.0.200", "10.0.0.201", "10.0.0.202"]
    );
    for (nat, status, kind) in [
        (
            json!({"addresses": ["10.0.0.200"], "network_id": network}),
            409,
            "IpAddressAlreadyAllocated",
        ),
        (
            json!({"addresses": ["10.9.0.1"], "network_id": network}),
            400,
            "InvalidIpForNetwork",
        ),
        (json!({"addresses": ["10.0.0.210"]}), 400, "HTTPBadRequest"),
        (
            json!({"addresses": ["10.0.0.210"], "network_id": MISSING}),
            404,
            "NetworkNotFound",
        ),
        (
            json!({"addresses": ["10.0.0.210"], "forwards": [{"address": "10.0.0.210", "port": 80, "to": MISSING}]}),
            404,
            "PortNotFound",
        ),
        (
            json!({"addresses": ["10.0.0.210"], "network_id": network,
                "forwards": [{"address": "10.0.0.210", "port": 80, "to": "10.0.0.210"}]}),
            400,
            "HTTPBadRequest",
        ),
        (
            json!({"addresses": ["10.0.0.210"], "network_id": network,
                "static": [{"address": "10.0.0.211", "to": "fd00::7"}]}),
            400,
            "HTTPBadRequest",
        ),
    ] {
        let body = json!({"port_pair_group": {"network_function": {"nat": nat}}});
        cloud.refused("a", "POST", groups, body, status, kind).await;
    }
    // Another tenant can't forward to it.
    let foreign = json!({"port_pair_group": {"network_function": {"nat": {
        "addresses": ["10.0.0.210"], "forwards": [{"address": "10.0.0.210", "port": 80, "to": web}]}}}});
    cloud
        .refused("b", "POST", groups, foreign, 404, "PortNotFound")
        .await;
    // An address that stays keeps its port; the others' go.
    let changed = json!({"port_pair_group": {"network_function": {"nat": {
        "addresses": ["10.0.0.201", "10.0.0.203"], "network_id": network}}}});
    let (status, body) = cloud.ask("a", "PUT", &path, changed).await;
    assert_eq!(status, 200, "{body}");
    let now: Vec<String> =
        serde_json::from_value(body["port_pair_group"]["nat_port_ids"].clone()).unwrap();
    assert_eq!(now.len(), 2);
    assert!(now.contains(&held["10.0.0.201"]) && !now.contains(&held["10.0.0.200"]));
    let gone = format!("/v2.0/ports/{}", held["10.0.0.200"]);
    cloud
        .refused("a", "GET", &gone, Value::Null, 404, "PortNotFound")
        .await;
    assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
    let (_, list) = cloud.get("a", "/v2.0/ports").await;
    assert_eq!(list["ports"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_nat_is_refused_where_it_could_hide_nobody() {
    let cloud = Cloud::new().await;
    let mut made = vec![];
    for n in 0..2 {
        let network = cloud.network("a").await;
        let cidr = format!("10.0.{n}.0/24");
        cloud.subnet("a", &network, &cidr).await;
        let port = id(&cloud.port("a", json!({"network_id": network})).await);
        let classifier = json!({"logical_source_port": port, "protocol": "tcp"});
        let path = "/v2.0/sfc/flow_classifiers";
        let classifier = cloud.made("a", path, "flow_classifier", classifier).await;
        made.push((network, id(&classifier)));
    }
    let groups = "/v2.0/sfc/port_pair_groups";
    let hiding = json!({"nat": {"addresses": ["10.0.0.200"], "network_id": made[0].0}});
    let group = json!({"network_function": hiding});
    let group = id(&cloud.made("a", groups, "port_pair_group", group).await);
    let path = format!("{groups}/{group}");
    let chains = "/v2.0/sfc/port_chains";
    let by = |n: usize| json!({"port_pair_groups": [group], "flow_classifiers": [made[n].1]});
    let refused = |verb, path, body| cloud.refused("a", verb, path, body, 400, "HTTPBadRequest");
    refused("POST", chains, json!({"port_chain": by(1)})).await;
    let chain = id(&cloud.made("a", chains, "port_chain", by(0)).await);
    let other = json!({"port_chain": {"flow_classifiers": [made[1].1]}});
    let own = format!("{chains}/{chain}");
    refused("PUT", &own, other.clone()).await;
    // What only forwards is for whoever comes.
    let body = |nat: Value| json!({"port_pair_group": {"network_function": {"nat": nat}}});
    let forwards = json!([{"address": "10.0.0.200", "port": 80, "to": "10.0.0.7"}]);
    let forwarding = body(json!({"forwards": forwards, "network_id": made[0].0}));
    assert_eq!(cloud.ask("a", "PUT", &path, forwarding).await.0, 200);
    assert_eq!(cloud.ask("a", "PUT", &own, other).await.0, 200);
    let hiding = json!({"port_pair_group": {"network_function": hiding}});
    refused("PUT", &path, hiding).await;
}

#[tokio::test]
async fn nothing_is_forwarded_to_a_port_that_is_gone() {
    let cloud = Cloud::new().await;
    let network = cloud.network("a").await;
    cloud.subnet("a", &network, "10.0.0.0/24").await;
    let web = id(&cloud.port("a", json!({"network_id": network})).await);
    let groups = "/v2.0/sfc/port_pair_groups";
    let nat = json!({"nat": {"addresses": ["10.0.0.200"],
        "forwards": [{"address": "10.0.0.201", "port": 80, "to": web}]}});
    let made = cloud
        .made(
            "a",
            groups,
            "port_pair_group",
            json!({"network_function": nat}),
        )
        .await;
    let port = format!("/v2.0/ports/{web}");
    assert_eq!(cloud.ask("a", "DELETE", &port, Value::Null).await.0, 204);
    let (_, shown) = cloud.get("a", &format!("{groups}/{}", id(&made))).await;
    let group = &shown["port_pair_group"];
    assert_eq!(group["network_function"]["nat"]["forwards"], json!([]));
    assert_eq!(group["nat_port_ids"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_group_says_how_its_appliances_are_probed_and_what_its_host_found_is_shown() {
    let cloud = Cloud::new().await;
    let (ports, _) = appliance_ports(&cloud).await;
    let ends = json!({"ingress": ports[0], "egress": ports[1]});
    let pair = id(&cloud.made("a", PAIRS, "port_pair", ends).await);
    let groups = "/v2.0/sfc/port_pair_groups";
    let with = |probe: Value| json!({"port_pairs": [pair], "health_probe": probe});
    for bad in [
        json!({"interval": 0}),
        json!({"interval": 61}),
        json!({"misses": 0}),
        json!({"misses": "11"}),
        json!({"misses": -1}),
        json!({"ip_version": 5}),
        json!({"delay": 1}),
        json!([1]),
        json!(true),
    ] {
        let body = json!({"port_pair_group": with(bad)});
        cloud
            .refused("a", "POST", groups, body, 400, "HTTPBadRequest")
            .await;
    }
    let native = json!({"network_function": {"firewall": {}}, "health_probe": {}});
    let body = json!({"port_pair_group": native});
    cloud
        .refused("a", "POST", groups, body, 400, "HTTPBadRequest")
        .await;
    let group = cloud
        .made("a", groups, "port_pair_group", with(json!({"misses": "2"})))
        .await;
    let probe = json!({"interval": 1, "misses": 2, "ip_version": 4});
    assert_eq!(group["health_probe"], probe);
    let path = format!("{groups}/{}", id(&group));
    let shown = async || {
        let (_, shown) = cloud.get("a", &format!("{PAIRS}/{pair}")).await;
        shown["port_pair"]["operating_status"].clone()
    };
    assert_eq!(shown().await, "NO_MONITOR");
    let found = async |serves| {
        cloud
            .found(&id(&group), pair.parse().unwrap(), serves)
            .await;
    };
    for (serves, status) in [(false, "ERROR"), (true, "ONLINE"), (false, "ERROR")] {
        found(serves).await;
        assert_eq!(shown().await, status);
    }
    // Asked otherwise it is the same appliance; asked by nobody, nothing is known of it.
    let put = async |probe: Value| {
        let body = json!({"port_pair_group": {"health_probe": probe}});
        assert_eq!(cloud.ask("a", "PUT", &path, body).await.0, 200);
    };
    put(json!({})).await;
    assert_eq!(shown().await, "ERROR");
    put(Value::Null).await;
    assert_eq!(shown().await, "NO_MONITOR");
    found(false).await;
    assert_eq!(shown().await, "NO_MONITOR");
}

#[tokio::test]
async fn what_hosts_found_of_a_load_balancers_members_is_shown_and_told_to_switches() {
    let cloud = Cloud::new().await;
    let (ports, _) = appliance_ports(&cloud).await;
    let members = json!([ports[0], {"address": "10.0.0.77", "weight": 2}]);
    let function = |health: Value| {
        let mut balancer = json!({"vip": "10.0.0.100", "port": 80, "members": members});
        if !health.is_null() {
            balancer["health"] = health;
        }
        json!({"port_pair_group": {"network_function": {"load_balancer": balancer}}})
    };
    let bad = function(json!({"type": "tcp", "interval": "1s", "timeout": "2s"}));
    cloud
        .refused("a", "POST", GROUPS, bad, 400, "HTTPBadRequest")
        .await;
    let asked = function(json!({"type": "http", "interval": "500ms", "attempts": 2}));
    let (status, made) = cloud.ask("a", "POST", GROUPS, asked.clone()).await;
    assert_eq!(status, 201, "{made}");
    let group = &made["port_pair_group"];
    let path = format!("{GROUPS}/{}", id(group));
    let compiled = || {
        let stored = cloud.api.core.store.snapshot();
        let objects = view::objects(&stored, &Facts::default());
        let mut balancers = objects.into_iter().filter_map(|object| {
            let Object::Function(function) = object else {
                return None;
            };
            let Some(Work::LoadBalancer(balancer)) = &function.work else {
                return None;
            };
            Some(balancer.clone())
        });
        balancers.next().unwrap()
    };
    let weights = || {
        let members = compiled().members;
        members.iter().map(|m| m.weight).collect::<Vec<_>>()
    };
    assert_eq!(
        compiled().monitor,
        Some(Monitor {
            id: id(group).parse().unwrap(),
            probe: HealthProbe::Http {
                request: "GET / HTTP/1.0\r\n\r\n".to_owned(),
                codes: vec![(200, 200)],
            },
            delay_ms: 500,
            timeout_ms: 500,
            rise: 2,
            fall: 2,
            elsewhere: Vec::new(),
        })
    );
    let statuses = async || {
        let (_, shown) = cloud.get("a", &path).await;
        let told = shown["port_pair_group"]["member_statuses"].clone();
        let told = told.as_array().unwrap().clone();
        assert_eq!(told[0]["port_id"], ports[0]);
        assert_eq!(told[1]["address"], "10.0.0.77");
        let told = told.iter().map(|one| one["operating_status"].clone());
        told.map(|one| one.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(statuses().await, ["NO_MONITOR"; 2]);
    // One named by its address has the id under which the compiler tells it to switches.
    let vip: uuid::Uuid = group["vip_port_id"].as_str().unwrap().parse().unwrap();
    let by_address = uuid::Uuid::new_v5(&vip, b"10.0.0.77");
    let found = async |member, serves| cloud.found(&id(group), member, serves).await;
    let port: uuid::Uuid = ports[0].parse().unwrap();
    found(port, false).await;
    found(uuid::Uuid::nil(), false).await;
    assert_eq!(statuses().await, ["ERROR", "NO_MONITOR"]);
    assert_eq!(weights(), [0, 2]);
    found(by_address, false).await;
    assert_eq!(weights(), [0, 0]);
    found(port, true).await;
    assert_eq!(statuses().await, ["ONLINE", "ERROR"]);
    assert_eq!(weights(), [1, 0]);
    // Asked otherwise they are the same; asked by nobody, nothing is known of them, and who asks anew begins anew.
    let put = async |health: Value| {
        assert_eq!(cloud.ask("a", "PUT", &path, function(health)).await.0, 200);
    };
    put(json!({"type": "ping"})).await;
    assert_eq!(statuses().await, ["ONLINE", "ERROR"]);
    put(Value::Null).await;
    assert_eq!(compiled().monitor, None);
    assert_eq!(weights(), [1, 2]);
    found(port, false).await;
    put(json!({"type": "ping"})).await;
    assert_eq!(statuses().await, ["NO_MONITOR"; 2]);
}

#[tokio::test]
async fn a_labelled_pair_is_in_chains_whose_number_fits_a_label() {
    let cloud = Cloud::new().await;
    let (ports, _) = appliance_ports(&cloud).await;
    let parameters = json!({"correlation": "mpls", "weight": "3"});
    let body =
        json!({"ingress": ports[0], "egress": ports[1], "service_function_parameters": parameters});
    let labelled = cloud.made("a", PAIRS, "port_pair", body).await;
    assert_eq!(
        labelled["service_function_parameters"],
        json!({"correlation": "mpls", "weight": 3})
    );
    let bare = json!({"ingress": ports[2], "egress": ports[2]});
    let bare = id(&cloud.made("a", PAIRS, "port_pair", bare).await);
    let mut groups = Vec::new();
    for pair in [id(&labelled), bare] {
        let body = json!({"port_pairs": [pair]});
        groups.push(id(&cloud.made("a", GROUPS, "port_pair_group", body).await));
    }
    let chain = |group: &str, number: u32| json!({"port_pair_groups": [group], "chain_id": number});
    let large = json!({"port_chain": chain(&groups[0], 4096)});
    cloud
        .refused("a", "POST", CHAINS, large, 400, "HTTPBadRequest")
        .await;
    cloud
        .made("a", CHAINS, "port_chain", chain(&groups[0], 4095))
        .await;
    let large = cloud
        .made("a", CHAINS, "port_chain", chain(&groups[1], 4096))
        .await;
    // Nor does such a pair come into one later.
    let both = json!({"port_chain": {"port_pair_groups": groups}});
    let path = format!("{CHAINS}/{}", id(&large));
    cloud
        .refused("a", "PUT", &path, both, 400, "HTTPBadRequest")
        .await;
    let none = json!({"port_pair_group": {"port_pairs": []}});
    let first = format!("{GROUPS}/{}", groups[0]);
    cloud
        .refused("a", "PUT", &first, none, 409, "PortPairGroupInUse")
        .await;
}

#[tokio::test]
async fn a_tap_group_has_one_pair_and_copies_to_it() {
    let cloud = Cloud::new().await;
    let (ports, _) = appliance_ports(&cloud).await;
    let pair = async |at: usize, parameters: Value| {
        let body = json!({"ingress": ports[at], "egress": ports[at], "service_function_parameters": parameters});
        id(&cloud.made("a", PAIRS, "port_pair", body).await)
    };
    let one = pair(0, json!({})).await;
    let two = pair(1, json!({})).await;
    let labelled = pair(2, json!({"correlation": "mpls"})).await;
    for (more, kind) in [
        (
            json!({"port_pairs": [one, two]}),
            "MultiplePortPairsInTapPPGNotSupported",
        ),
        (json!({"port_pairs": [labelled]}), "HTTPBadRequest"),
        (
            json!({"port_pairs": [one], "health_probe": {}}),
            "HTTPBadRequest",
        ),
    ] {
        let group = with(json!({"name": "t", "tap_enabled": true}), more);
        let body = json!({"port_pair_group": group});
        cloud.refused("a", "POST", GROUPS, body, 400, kind).await;
    }
    let group = json!({"name": "t", "tap_enabled": "true", "port_pairs": [one]});
    let group = cloud.made("a", GROUPS, "port_pair_group", group).await;
    assert_eq!(group["tap_enabled"], true);
    let path = format!("{GROUPS}/{}", id(&group));
    for (body, kind) in [
        (
            json!({"port_pairs": [one, two]}),
            "MultiplePortPairsInTapPPGNotSupported",
        ),
        (json!({"tap_enabled": false}), "HTTPBadRequest"),
    ] {
        let body = json!({"port_pair_group": body});
        cloud.refused("a", "PUT", &path, body, 400, kind).await;
    }
    let heard = |cloud: &Cloud| {
        let stored = cloud.api.core.store.snapshot();
        let objects = view::objects(&stored, &Facts::default());
        let mut works = Vec::new();
        for object in objects {
            if let Object::Function(function) = object {
                works.extend(function.work.clone());
            }
        }
        works.pop()
    };
    let ingress: uuid::Uuid = ports[0].parse().unwrap();
    assert_eq!(heard(&cloud), Some(Work::Tap(ingress.into())));
    let body = json!({"port_pair_group": {"port_pairs": []}});
    assert_eq!(cloud.ask("a", "PUT", &path, body).await.0, 200);
    assert_eq!(heard(&cloud), None);
}

#[tokio::test]
async fn a_mirror_shows_packets_to_a_port_of_its_own_project_alone() {
    let cloud = Cloud::new().await;
    let mut ports = vec![];
    for who in ["a", "b"] {
        let network = cloud.network(who).await;
        cloud.subnet(who, &network, "10.0.0.0/24").await;
        ports.push(id(&cloud.port(who, json!({"network_id": network})).await));
    }
    let groups = "/v2.0/sfc/port_pair_groups";
    let body = |to: &str| json!({"network_function": {"mirror": {"to": to}}});
    let made = cloud
        .made("a", groups, "port_pair_group", body(&ports[0]))
        .await;
    let full = json!({"mirror": {"to": ports[0], "of": "both"}});
    assert_eq!(made["network_function"], full);
    let path = format!("{groups}/{}", id(&made));
    let nobodys = uuid::Uuid::new_v4().to_string();
    for other in [&ports[1], &nobodys] {
        let body = json!({"port_pair_group": body(other)});
        cloud
            .refused("a", "POST", groups, body.clone(), 404, "PortNotFound")
            .await;
        cloud
            .refused("a", "PUT", &path, body, 404, "PortNotFound")
            .await;
    }
    let no_port = json!({"port_pair_group": body("web-1")});
    cloud
        .refused("a", "POST", groups, no_port, 400, "HTTPBadRequest")
        .await;
}
