//! Each mistake in a lab file is one line that names the place and the remedy.

use super::expectations::authority_port;
use super::*;
use crate::lab::file::Family;
use crate::lab::plan::Function;

const GOOD: &str = r#"
hosts: [h1, h2, {name: k1, kernel_vtep: true}]
underlay: {mtu: 1600, rate: 1gbit}
networks:
  - {name: blue, cidr: 10.0.0.0/24, cidr6: "fd00::/64"}
  - {name: red, project: other, cidr: 10.0.0.0/24, mtu: 1400}
workloads:
  - {name: web-1, host: h1, network: blue, security_groups: [web]}
  - {name: web-2, host: k1, network: blue, ip: [10.0.0.7, "fd00::7"], mac: "02:00:00:00:00:07", security_groups: [web]}
  - {name: client, host: h2, network: blue, ip: 10.0.0.50}
security_groups:
  web: [{direction: ingress, protocol: tcp, ports: 80-90}, {direction: ingress, protocol: icmp, remote_group: web}]
chains:
  - name: edge
    classifier: {network: blue, protocol: tcp, destination_port: 80}
    functions:
      - firewall: {rules: [{action: deny, source: 10.0.0.66/32}], default: allow}
      - load_balancer: {vip: 10.0.0.100, port: 80, algorithm: maglev, members: [web-1, {workload: web-2, weight: 2}]}
      - shaper: {rate: 100mbit, burst: 64KiB, queue: fifo}
serve: [{workload: web-1, http: 80}, {workload: web-2, tcp: 22, udp: 53}]
expect:
  - {from: client, ping: web-1}
  - {from: [client], to: [web-1, 10.0.0.7], ping: true, not: true}
  - {from: client, ping6: "fd00::7"}
  - {all_pairs: ping}
  - {from: client, http: "http://10.0.0.100/", spread_over: [web-1, web-2]}
  - {from: client, http: "http://[fd00::7]:8080/x", throughput: "94..101 mbit"}
  - {from: client, tcp: "web-1:22", is: refused_by_policy}
  - {from: client, udp: "[fd00::7]:53"}
  - {from: client, to: web-1, throughput: "1..2 gbit"}
"#;

fn good() -> Lab {
    lab("good.yaml", "good", GOOD).unwrap()
}

/// The refusal of the good file with one text put for another.
fn refusal(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    let text = GOOD.replacen(from, to, 1);
    let message = lab("bad.yaml", "bad", &text).unwrap_err().to_string();
    assert!(
        message.starts_with("bad.yaml: ") && !message.contains('\n'),
        "{message}"
    );
    message
}

#[track_caller]
fn refused(from: &str, to: &str, place: &str, remedy: &str) {
    let message = refusal(from, to);
    assert!(message.contains(place), "{message} does not name {place}");
    assert!(message.contains(remedy), "{message} does not say {remedy}");
}

#[test]
fn a_good_file_is_read_whole() {
    let lab = good();
    assert_eq!(lab.hosts.len(), 3);
    assert!(lab.host("k1").unwrap().kernel_vtep);
    assert_eq!(lab.workload("web-2").unwrap().ips.len(), 2);
    assert_eq!(lab.expect.len(), 9);
    // One classifier a family of the network, as the API has it.
    assert_eq!(lab.chains[0].classifiers.len(), 2);
    assert_eq!(
        lab.chains[0]
            .functions
            .iter()
            .map(Function::kind)
            .collect::<Vec<_>>(),
        ["firewall", "load_balancer", "shaper"]
    );
    assert!(lab.chains[0].symmetric);
    assert_eq!(lab.networks[1].project.as_deref(), Some("other"));
}

#[test]
fn icmp_means_both_families() {
    let rules = &good().groups["web"];
    assert_eq!(rules[1].families, [Family::Ipv4, Family::Ipv6]);
}

#[test]
fn tenants_may_repeat_addresses_but_one_may_not() {
    refused(
        ", project: other",
        "",
        "networks[1].cidr",
        "overlaps 10.0.0.0/24 of network `blue`",
    );
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    refused(
        "network: blue, ip: 10.0.0.50",
        "network: blue, ipp: 10.0.0.50",
        "workloads[2]",
        "ipp",
    );
    refused("hosts:", "hots:", "hots", "expected one of");
    refused("rate: 1gbit}", "rat: 1gbit}", "underlay", "rat");
    refused("kernel_vtep", "kernal_vtep", "hosts[2]", "kernel_vtep");
}

#[test]
fn a_wrong_type_is_named_with_its_place() {
    refused("mtu: 1600", "mtu: big", "underlay.mtu", "big");
    refused("rate: 1gbit", "rate: fast", "underlay.rate", "100mbit");
    refused(
        "cidr: 10.0.0.0/24, cidr6",
        "cidr: 10.0.0.1/24, cidr6",
        "networks[0].cidr",
        "10.0.0.1/24",
    );
    refused(
        "02:00:00:00:00:07",
        "02:00:00:00:07",
        "workloads[1].mac",
        "02:00:00:00:07",
    );
    refused(
        "ip: 10.0.0.50",
        "ip: 10.0.0.500",
        "workloads[2].ip",
        "IP address",
    );
}

#[test]
fn an_address_lies_in_its_subnet() {
    refused(
        "ip: 10.0.0.50",
        "ip: 10.0.1.50",
        "workloads[2].ip",
        "10.0.1.50 is outside network `blue` (10.0.0.0/24",
    );
    refused(
        "ip: 10.0.0.50",
        "ip: 10.0.0.255",
        "workloads[2].ip",
        "choose another",
    );
    refused(
        "ip: 10.0.0.50",
        "ip: 10.0.0.7",
        "workloads[2].ip",
        "already `web-2`'s",
    );
    refused(
        "vip: 10.0.0.100",
        "vip: 10.9.0.100",
        "chains[0].functions[1].load_balancer.vip",
        "outside network",
    );
    refused(
        "vip: 10.0.0.100",
        "vip: 10.0.0.50",
        "load_balancer.vip",
        "already `client`'s",
    );
}

#[test]
fn names_must_exist() {
    refused(
        "host: h1",
        "host: h9",
        "workloads[0].host",
        "unknown host `h9`; the file has: h1, h2, k1",
    );
    refused(
        "network: blue, security",
        "network: green, security",
        "workloads[0].network",
        "unknown network `green`",
    );
    refused(
        "security_groups: [web]",
        "security_groups: [wib]",
        "workloads[0].security_groups[0]",
        "unknown group `wib`",
    );
    refused(
        "remote_group: web",
        "remote_group: wib",
        "security_groups.web[1].remote_group",
        "unknown group `wib`",
    );
    refused(
        "members: [web-1",
        "members: [web-9",
        "load_balancer.members[0]",
        "unknown workload `web-9`",
    );
    refused(
        "serve: [{workload: web-1",
        "serve: [{workload: web-9",
        "serve[0].workload",
        "unknown workload `web-9`",
    );
    refused(
        "classifier: {network: blue",
        "classifier: {network: green",
        "chains[0].classifier.network",
        "unknown network",
    );
    refused(
        "from: client, ping: web-1",
        "from: clint, ping: web-1",
        "expect[0].from",
        "unknown workload `clint`",
    );
    refused(
        "ping: web-1",
        "ping: web-9",
        "expect[0].ping",
        "it is no address",
    );
}

#[test]
fn a_missing_function_is_named_with_those_that_are_there() {
    refused(
        "- firewall:",
        "- firewal:",
        "chains[0].functions[0]",
        "no function is called `firewal`; name one of: firewall, load_balancer, shaper",
    );
}

#[test]
fn a_name_is_for_a_host_or_a_workload() {
    refused(
        "name: client",
        "name: h1",
        "workloads[2].name",
        "`h1` is also a host",
    );
    refused(
        "name: client",
        "name: web-1",
        "workloads[2].name",
        "there twice",
    );
    refused(
        "hosts: [h1, h2",
        "hosts: [h1, controller",
        "hosts[1]",
        "choose another name",
    );
    refused(
        "name: client",
        "name: ../client",
        "workloads[2].name",
        "letters, digits",
    );
    refused(
        "hosts: [h1, h2",
        "hosts: [h1, h1",
        "hosts[1].name",
        "there twice",
    );
}

#[test]
fn a_load_balancers_members_are_asked_as_its_protocol_can_be() {
    let asked = GOOD.replace(
        "members: [web-1",
        "health: {type: tcp, interval: 500ms, attempts: 2}, members: [web-1",
    );
    let Function::LoadBalancer { health, .. } =
        &lab("good.yaml", "good", &asked).unwrap().chains[0].functions[1]
    else {
        panic!("it balances");
    };
    assert!(health.is_some());
    for (health, why) in [
        ("{type: udp-connect}", "of protocol udp or sctp"),
        ("{type: tcp, interval: 1ms}", "not a time"),
        ("{type: tcp, every: 1s}", "every"),
        ("{interval: 1s}", "type"),
    ] {
        refused(
            "members: [web-1",
            &format!("health: {health}, members: [web-1"),
            "load_balancer",
            why,
        );
    }
}

#[test]
fn a_shapers_queue_is_one_of_two() {
    refused("queue: fifo", "queue: sfq", "queue", "fq_codel");
}

#[test]
fn a_router_has_a_name_its_address_and_no_kernel_vtep() {
    refused(
        "mtu: 1400",
        "router: \"r 1\"",
        "networks[1].router",
        "letters, digits",
    );
    refused(
        "cidr6: \"fd00::/64\"",
        "router: r1",
        "workloads[1].host",
        "choose another host",
    );
    let routed = |ip: &str| {
        let text = GOOD.replace("mtu: 1400}", "router: r1}");
        let more = format!("workloads:\n  - {{name: w, host: h1, network: red, ip: {ip}}}\n");
        lab("f", "f", &text.replace("workloads:\n", &more))
    };
    let message = routed("10.0.0.1").unwrap_err().to_string();
    assert!(
        message.contains("workloads[0].ip: 10.0.0.1 is the router's"),
        "{message}"
    );
    let red = &routed("10.0.0.2").unwrap().networks[1];
    let gateway = |cidr: &str| red.gateway(cidr.parse().unwrap()).map(|ip| ip.to_string());
    assert_eq!(gateway("10.0.0.0/24").as_deref(), Some("10.0.0.1"));
    assert_eq!(gateway("10.0.0.8/31").as_deref(), Some("10.0.0.8"));
    assert_eq!(gateway("fd00::/64").as_deref(), Some("fd00::"));
    assert_eq!(
        good().networks[1].gateway("10.0.0.0/24".parse().unwrap()),
        None
    );
}

#[test]
fn rules_and_classifiers_are_consistent() {
    refused(
        "protocol: icmp,",
        "protocol: icmp, port: 8,",
        "security_groups.web[1]",
        "ports need",
    );
    refused(
        "ports: 80-90",
        "ports: 90-80",
        "security_groups.web[0].ports",
        "80-90",
    );
    refused(
        "ports: 80-90",
        "ports: 80-90, port: 80",
        "security_groups.web[0]",
        "keep one",
    );
    refused(
        "protocol: tcp, destination_port",
        "destination_port",
        "chains[0].classifier",
        "ports need",
    );
    refused(
        "network: blue, protocol: tcp, destination_port: 80",
        "protocol: tcp",
        "chains[0].classifier",
        "add `network`",
    );
    refused(
        "network: blue, protocol",
        "network: red, source: \"fd00::1/128\", protocol",
        "chains[0].classifier",
        "no packet of network `red`",
    );
}

#[test]
fn an_expectation_says_one_thing() {
    refused(
        "from: client, ping: web-1",
        "from: client, ping: web-1, tcp: \"web-1:1\"",
        "expect[0]",
        "make an item of each",
    );
    refused(
        "from: client, ping: web-1",
        "from: client",
        "expect[0]",
        "expects nothing",
    );
    refused(
        "from: client, ping: web-1",
        "ping: web-1",
        "expect[0]",
        "add `from",
    );
    refused(
        "tcp: \"web-1:22\"",
        "tcp: \"web-1\"",
        "expect[6].tcp",
        "has no port",
    );
    refused(
        "is: refused_by_policy",
        "is: refused",
        "expect[6].is",
        "refused_by_policy",
    );
    refused(
        "{all_pairs: ping}",
        "{all_pairs: ping, is: reachable}",
        "expect[3].is",
        "leave it out",
    );
    refused(
        "http://10.0.0.100/",
        "https://10.0.0.100/",
        "expect[4].http",
        "write http://",
    );
    refused(
        "94..101 mbit",
        "94 mbit",
        "expect[5].throughput",
        "94..101 mbit",
    );
    refused(
        "ping6: \"fd00::7\"",
        "ping6: 10.0.0.7",
        "expect[2]",
        "use `ping`",
    );
}

#[test]
fn an_mtu_fits_the_underlay() {
    refused(
        "mtu: 1400",
        "mtu: 1550",
        "networks[1].mtu",
        "raise `underlay.mtu`",
    );
    refused("mtu: 1600", "mtu: 900", "underlay.mtu", "1350 to 65000");
}

#[test]
fn a_target_with_a_port_may_be_ipv6() {
    assert_eq!(authority_port("[fd00::1]:22"), Some(("[fd00::1]", 22)));
    assert_eq!(authority_port("web-1:22"), Some(("web-1", 22)));
    assert_eq!(authority_port("fd00::1"), None);
    assert_eq!(authority_port("web-1:0"), None);
    assert_eq!(authority_port("web-1:70000"), None);
}

/// The example labs of the repository; an example chain is a lab that shows it.
fn examples() -> Vec<std::path::PathBuf> {
    let configs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    ["labs", "chains"]
        .into_iter()
        .flat_map(|dir| std::fs::read_dir(configs.join(dir)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn every_example_lab_is_a_good_one() {
    let examples = examples();
    assert!(examples.len() >= 8);
    for path in examples {
        let text = std::fs::read_to_string(&path).unwrap();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let lab = lab(&path.display().to_string(), stem, &text).unwrap();
        assert!(!lab.expect.is_empty(), "{stem} expects nothing");
    }
}

#[test]
fn the_wide_example_is_twenty_by_five() {
    let text = include_str!("../../../../configs/labs/twenty-hosts.yaml");
    let lab = lab("twenty-hosts.yaml", "twenty-hosts", text).unwrap();
    assert_eq!((lab.hosts.len(), lab.workloads.len()), (20, 100));
}

#[test]
fn a_refused_name_with_a_line_break_stays_on_its_line() {
    refused(
        "serve: [{workload: web-1",
        "serve: [{workload: \"web\\n1\"",
        "serve[0].workload",
        "unknown workload `web 1`",
    );
}

/// A fuzz target that lives here, since no library has the parser: a lab, or one line with the file's name.
fn any_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match lab("any.yaml", "any", &text) {
        Ok(lab) => assert!(!lab.hosts.is_empty(), "a lab without hosts"),
        Err(refused) => {
            let message = refused.to_string();
            assert!(message.starts_with("any.yaml: "), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }
}

/// The good file, and those that are shipped.
fn files() -> Vec<Vec<u8>> {
    let shipped = [
        GOOD,
        include_str!("../../../../configs/labs/gateway.yaml"),
        include_str!("../../../../configs/labs/kernel-vtep.yaml"),
        include_str!("../../../../configs/labs/mixed-v4-v6.yaml"),
        include_str!("../../../../configs/labs/quickstart.yaml"),
        include_str!("../../../../configs/labs/routed.yaml"),
        include_str!("../../../../configs/labs/three-hosts-chain.yaml"),
        include_str!("../../../../configs/labs/two-tenants.yaml"),
    ];
    shipped.map(|text| text.as_bytes().to_vec()).into()
}

/// `OVERWEAVE_FUZZ_RUNS` and `OVERWEAVE_SEED` ask for more and other files.
#[test]
fn whatever_a_file_says_it_is_a_lab_or_a_line() {
    let asked = |name| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let target = fuzz::Target {
        name: "lab_file",
        function: any_text,
        seeds: files,
        one_in: 1,
    };
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let saved = fuzz::drive::regression::of_target(&root, target.name).unwrap();
    let runs = asked("OVERWEAVE_FUZZ_RUNS").unwrap_or(2_000);
    let held = fuzz::drive::drive(&target, &saved, asked("OVERWEAVE_SEED").unwrap_or(1), runs);
    if let Err(failure) = held {
        let path = fuzz::drive::regression::save(&root, target.name, &failure.input).unwrap();
        let input = String::from_utf8_lossy(&failure.input).into_owned();
        panic!("{}\n{input}\nsaved: {path}", failure.panic);
    }
}

#[test]
fn policies_are_such_as_the_api_takes_and_are_named_by_those_that_are_there() {
    let with = |policy: &str, user: &str| {
        let network = format!("blue, qos: {user}, cidr: 10.0.0.0/24");
        let text = GOOD.replacen("blue, cidr: 10.0.0.0/24", &network, 1);
        lab("f", "f", &format!("{text}qos: {{slow: {policy}}}\n"))
    };
    let good = "{egress: 10mbit, ingress: 8kbit, egress_kpps: 5, dscp: 46}";
    let made = with(good, "slow").unwrap();
    assert_eq!(made.networks[0].qos.as_deref(), Some("slow"));
    assert_eq!(made.qos["slow"].dscp, Some(46));
    for (policy, user, message) in [
        (good, "fast", "networks.blue.qos: unknown QoS policy `fast`"),
        (
            "{egress: 8500bit}",
            "slow",
            "qos.slow.egress: a rate is in whole kilobits",
        ),
        (
            "{ingress_kpps: 0}",
            "slow",
            "qos.slow.ingress_kpps: use 1 to",
        ),
        ("{dscp: 45}", "slow", "qos.slow.dscp: 45 is no mark"),
        ("{burst: 1}", "slow", "unknown field"),
        (
            "{within: fast}",
            "slow",
            "qos.slow.within: unknown QoS policy `fast`",
        ),
        (
            "{within: slow}",
            "slow",
            "qos.slow.within: goes in a circle",
        ),
    ] {
        let refused = with(policy, user).unwrap_err().to_string();
        assert!(refused.contains(message), "{refused}");
    }
}

const APPLIANCE: &str = "
hosts: [h1, h2, {name: k1, kernel_vtep: true}]
networks: [{name: blue, cidr: 10.0.0.0/24}]
workloads:
  - {name: c, host: h1, network: blue}
  - {name: in, host: h1, network: blue}
  - {name: out, host: h1, network: blue}
  - {name: far, host: h2, network: blue}
  - {name: sub, host: h1, network: blue}
  - {name: old, host: k1, network: blue}
trunks: [{parent: c, sub_ports: [{workload: sub, vlan: 101}]}]
chains:
  - name: e
    classifier: {network: blue}
    functions: [appliance: {pairs: [{ingress: in, egress: out, weight: 2, correlation: mpls}], failure: open}]
";

#[test]
fn an_appliance_has_two_workloads_of_one_host_to_itself() {
    let lab = super::lab("f", "f", APPLIANCE).unwrap();
    assert_eq!(lab.legs().count(), 1);
    let pairs = "chains[0].functions[0].appliance.pairs";
    for (was, is, place) in [
        (
            "egress: out",
            "egress: nobody",
            format!("{pairs}[0].egress"),
        ),
        ("egress: out", "egress: far", format!("{pairs}[0].egress")),
        ("ingress: in", "ingress: old", format!("{pairs}[0].ingress")),
        ("egress: out", "egress: in", "chains".to_owned()),
        ("egress: out", "egress: sub", "chains".to_owned()),
        (
            "[{ingress: in, egress: out, weight: 2, correlation: mpls}]",
            "[]",
            pairs.to_owned(),
        ),
    ] {
        let text = APPLIANCE.replace(was, is);
        let said = super::lab("f", "f", &text).unwrap_err().to_string();
        assert!(said.contains(&format!("{place}: ")), "{is}: {said}");
    }
    for (was, is) in [
        ("correlation: mpls", "correlation: nsh"),
        ("failure: open", "failure: ajar"),
    ] {
        assert!(
            super::lab("f", "f", &APPLIANCE.replace(was, is)).is_err(),
            "{is}"
        );
    }
}
