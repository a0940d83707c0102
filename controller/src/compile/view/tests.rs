use std::fmt::Write as _;

use hostconfig::Generation;
use serde_json::{Value, json};

use super::*;
use crate::{
    compile::Compiler,
    rules::Facts,
    store::{Embedded, MemoryDisk, Store as _, View},
};

fn uuid(n: u8) -> String {
    format!("00000000-0000-4000-8000-0000000000{n:02x}")
}

/// A store's view with these records, as they are on the disk.
fn stored(records: &[(&str, u8, Value)]) -> View {
    let (store, _) = Embedded::open(Arc::new(MemoryDisk::new(Uuid::nil()))).unwrap();
    let mut view = View::of(&store.snapshot());
    for (kind, n, fields) in records {
        let mut record = fields.clone();
        record["id"] = json!(uuid(*n));
        let project = record.as_object_mut().unwrap().entry("project_id");
        project.or_insert_with(|| json!("a1b2c3d4e5f60718293a4b5c6d7e8f90"));
        let key = format!("{kind}/{}", uuid(*n));
        let record = resources::decode(&key, &serde_json::to_vec(&record).unwrap());
        view.put(
            key.as_str(),
            record.unwrap_or_else(|error| panic!("{kind}: {error}")),
        );
    }
    view
}

fn port(n: u8, host: &str, more: &Value) -> (&'static str, u8, Value) {
    let mut fields = json!({
        "name": format!("p{n}"), "network_id": uuid(1), "admin_state_up": true,
        "mac_address": format!("fa:16:3e:00:00:{n:02x}"), "port_security_enabled": true,
        "fixed_ips": [{"subnet_id": uuid(2), "ip_address": format!("10.0.0.{n}")}],
        "binding:host_id": host,
    });
    for (name, value) in more.as_object().unwrap() {
        fields[name] = value.clone();
    }
    ("port", n, fields)
}

/// The quickstart in small: two hosts, a group that follows itself, a chain of three functions.
fn records() -> Vec<(&'static str, u8, Value)> {
    let mut all = network_records();
    all.push(subnet6_record());
    all.extend(chain_records());
    all
}

fn qos_record() -> (&'static str, u8, Value) {
    (
        "qos_policy",
        17,
        json!({
            "name": "gold", "shared": true, "rules": [
                {"id": uuid(18), "type": "bandwidth_limit", "max_kbps": 8000,
                 "max_burst_kbps": 80, "direction": "egress"},
                {"id": uuid(19), "type": "bandwidth_limit", "max_kbps": 0,
                 "max_burst_kbps": 0, "direction": "ingress"},
                {"id": uuid(20), "type": "packet_rate_limit", "max_kpps": 2,
                 "max_burst_kpps": 0, "direction": "ingress"},
                {"id": uuid(21), "type": "dscp_marking", "dscp_mark": 46},
            ],
        }),
    )
}

fn network_records() -> Vec<(&'static str, u8, Value)> {
    let rule = |n: u8, more: Value| {
        let mut fields = json!({
            "security_group_id": uuid(5), "direction": "ingress", "ethertype": "IPv4",
            "protocol": null, "port_range_min": null, "port_range_max": null,
            "remote_ip_prefix": null, "remote_group_id": null,
        });
        for (name, value) in more.as_object().unwrap() {
            fields[name] = value.clone();
        }
        ("security_group_rule", n, fields)
    };
    vec![
        (
            "host",
            0xa,
            json!({"name": "h1", "vtep": "192.0.2.1", "certificate": "c1"}),
        ),
        (
            "host",
            0xb,
            json!({"name": "k1", "vtep": "192.0.2.2", "foreign": true}),
        ),
        (
            "network",
            1,
            json!({
                "name": "blue", "admin_state_up": true, "mtu": 1450, "shared": false,
                "port_security_enabled": true, "provider:segmentation_id": 77,
            }),
        ),
        (
            "subnet",
            2,
            json!({
                "network_id": uuid(1), "ip_version": 4, "cidr": "10.0.0.0/24",
                "gateway_ip": "10.0.0.1", "enable_dhcp": true,
                "dns_nameservers": ["9.9.9.9"],
                "host_routes": [{"destination": "10.9.0.0/16", "nexthop": "10.0.0.2"}],
                "ipv6_ra_mode": null, "ipv6_address_mode": null,
            }),
        ),
        (
            "security_group",
            5,
            json!({"name": "web", "stateful": true}),
        ),
        rule(
            6,
            json!({"protocol": "tcp", "port_range_min": 80, "port_range_max": 90}),
        ),
        rule(
            7,
            json!({"protocol": "icmp", "ethertype": "IPv6", "port_range_min": 128}),
        ),
        rule(8, json!({"remote_group_id": uuid(5)})),
        rule(
            9,
            json!({
                "direction": "egress", "remote_ip_prefix": "10.1.2.3/8",
                "normalized_cidr": "10.0.0.0/8",
            }),
        ),
        port(
            11,
            "h1",
            &json!({
                "security_groups": [uuid(5)],
                "qos_policy_id": uuid(17),
                "allowed_address_pairs": [{"ip_address": "10.0.0.99"}],
            }),
        ),
        port(12, "k1", &json!({"port_security_enabled": false})),
        port(13, "", &json!({"device_owner": "overweave:load_balancer"})),
        (
            "address_group",
            15,
            json!({"name": "ag", "addresses": ["10.4.0.0/16", "fd00::/8"]}),
        ),
        rule(
            16,
            json!({"protocol": "udp", "remote_address_group_id": uuid(15)}),
        ),
        qos_record(),
        (
            "router",
            14,
            json!({
                "name": "r", "admin_state_up": true,
                "routes": [{"destination": "10.8.0.0/16", "nexthop": "10.0.0.11"}],
            }),
        ),
        port(
            1,
            "",
            &json!({
                "device_owner": "network:router_interface", "device_id": uuid(14),
                "port_security_enabled": false,
            }),
        ),
    ]
}

fn subnet6_record() -> (&'static str, u8, Value) {
    let fields = json!({
        "network_id": uuid(1), "ip_version": 6, "cidr": "fd00::/64",
        "gateway_ip": "fd00::", "enable_dhcp": true,
        "dns_nameservers": ["2620:fe::9"], "host_routes": [],
        "ipv6_ra_mode": "dhcpv6-stateless", "ipv6_address_mode": "dhcpv6-stateless",
    });
    ("subnet", 3, fields)
}

fn chain_records() -> Vec<(&'static str, u8, Value)> {
    vec![
        (
            "flow_classifier",
            20,
            json!({
                "name": "to-web", "ethertype": "IPv4", "protocol": "tcp",
                "source_port_range_min": null, "source_port_range_max": null,
                "destination_port_range_min": 80, "destination_port_range_max": null,
                "source_ip_prefix": null, "destination_ip_prefix": "10.0.0.0/24",
                "logical_source_port": null, "logical_destination_port": null,
                "logical_source_network": uuid(1), "logical_destination_network": null,
            }),
        ),
        (
            "port_pair_group",
            21,
            json!({"name": "fw", "network_function": {"firewall": {
                "rules": [{"action": "deny", "source": "10.0.0.66/32"}], "default": "allow",
            }}}),
        ),
        (
            "port_pair_group",
            22,
            json!({"name": "lb", "vip_port_id": uuid(13), "network_function": {"load_balancer": {
                "vip": "10.0.0.13", "port": 80, "members": [uuid(11), {"address": "10.0.0.12", "port": 8080}],
            }}}),
        ),
        (
            "port_pair_group",
            23,
            json!({"name": "slow", "network_function": {"shaper": {"rate": "100mbit"}}}),
        ),
        (
            "port_chain",
            24,
            json!({
                "name": "edge", "port_pair_groups": [uuid(21), uuid(22), uuid(23)],
                "flow_classifiers": [uuid(20)],
                "chain_parameters": {"correlation": "mpls", "symmetric": true},
            }),
        ),
    ]
}

fn told(of: &KeyChange) -> Option<Change> {
    change(of, &Facts::default())
}

#[test]
fn what_the_api_stores_becomes_what_a_host_hears() {
    let view = stored(&records());
    let changes: Vec<Change> = view.writes().iter().filter_map(told).collect();
    assert_eq!(changes.len(), records().len());
    let mut compiler = Compiler::new(Uuid::nil());
    compiler.apply(&changes, Generation(1));
    let mut told = String::new();
    for (host, config) in compiler.hosts() {
        assert_eq!(hostconfig::check::check(config), vec![]);
        writeln!(told, "{host}").unwrap();
        for section in config.sections.values() {
            let body: Value = serde_json::from_slice(section.bytes()).unwrap();
            let body = serde_json::to_string_pretty(&body).unwrap();
            writeln!(told, "{} {body}", section.key()).unwrap();
        }
    }
    insta::assert_snapshot!(told);
}

#[test]
fn what_is_deleted_or_not_read_is_told_apart() {
    let mut view = stored(&records());
    view.put("vni/00004d", Arc::new(json!({})));
    view.delete(&format!("port/{}", uuid(11)));
    let changes: Vec<Option<Change>> = view.writes().iter().map(told).collect();
    let [.., claim, gone] = changes.as_slice() else {
        panic!("two writes more")
    };
    assert_eq!(*claim, None);
    let id: Uuid = uuid(11).parse().unwrap();
    assert_eq!(*gone, Some(Change::Gone(ObjectId::Port(id.into()))));
}

#[test]
fn a_rule_that_cannot_be_told_exactly_allows_nothing() {
    let mut broken = records();
    broken[7].2["remote_ip_prefix"] = json!("nonsense");
    broken[7].2["remote_group_id"] = Value::Null;
    broken[5].2["port_range_max"] = json!(70);
    let view = stored(&broken);
    let changes: Vec<Change> = view.writes().iter().filter_map(told).collect();
    for n in [6, 8] {
        let id: Uuid = uuid(n).parse().unwrap();
        assert!(
            changes.contains(&Change::Gone(ObjectId::Rule(id.into()))),
            "{n}"
        );
    }
}

#[test]
fn icmp_of_a_firewall_is_that_of_its_prefixes_family() {
    let said = json!({"rules": [
        {"action": "deny", "protocol": "icmp", "source": "fd00::/8"},
        {"action": "deny", "protocol": "icmp", "destination": "10.0.0.0/8"},
        {"action": "deny", "protocol": 1},
    ]});
    let firewall = super::firewall(Uuid::nil(), &serde_json::from_value(said).unwrap());
    let protocols: Vec<_> = firewall.rules.iter().map(|r| r.protocol).collect();
    assert_eq!(protocols, [Some(58), Some(1), Some(1)]);
}
