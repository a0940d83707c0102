//! Is what `explain` tells what the datapath does?

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::path::Path;

use hostconfig::{
    Firewall, FunctionKind, SecurityGroupRule,
    chain::{Action, Classifier, FirewallRule},
    group::{Direction, Family, L4Match},
};
use net::{PortRange, Prefix, flow_key::proto};
use proptest::prelude::*;
use tests::{
    fabric::Fabric,
    plan::{Plan, allow, allow_all, firewall_rule, from_network},
    random::{explained, scenario},
    transcript,
};
use vswitch::datapath::explain::{Described, Entrance, explain};

fn quickstart() -> Plan {
    let mut plan = Plan::new(2);
    let net = plan.network("blue");
    let mut rules = allow_all(Direction::Egress);
    rules.push(SecurityGroupRule {
        protocol: Some(proto::TCP),
        l4: L4Match::Ports(PortRange::one(80)),
        ..allow(Direction::Ingress, Family::V4)
    });
    rules.push(SecurityGroupRule {
        protocol: Some(proto::ICMP),
        ..allow(Direction::Ingress, Family::V4)
    });
    let group = plan.group(rules);
    plan.group_mut(group).name = "web".into();
    let names = [(0, "web-1"), (1, "web-2"), (1, "client"), (0, "outsider")];
    let ports = names.map(|(host, name)| {
        let port = plan.port(host, net, &[group]);
        plan.get_mut(port).name = name.into();
        port
    });
    let [web1, web2, _, outsider] = ports;
    let banned = "10.0.0.66".parse().unwrap();
    plan.get_mut(outsider).fixed_ips.first_mut().unwrap().addr = banned;
    let (_, mut balancer) = plan.load_balancer(net, false, (proto::TCP, 80), &[web1, web2]);
    for member in &mut balancer.members {
        member.port = 80;
    }
    let classifier = Classifier {
        name: "http".into(),
        protocol: Some(proto::TCP),
        destination_ports: Some(PortRange::one(80)),
        ..from_network(net)
    };
    let deny = FirewallRule {
        source: Some(Prefix::host(banned)),
        ..firewall_rule(Action::Deny)
    };
    let firewall = Firewall {
        rules: vec![deny],
        default: Action::Allow,
    };
    let functions = vec![
        FunctionKind::Firewall(firewall),
        FunctionKind::LoadBalancer(balancer),
    ];
    plan.chain(vec![classifier], functions);
    plan
}

#[test]
fn the_transcript_still_holds() {
    let fabric = Fabric::new(quickstart());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts/explain.lab");
    transcript::play(&file, |command| {
        let (host, rest) = command.split_once(' ').unwrap();
        let (entrance, packet) = rest.split_once(' ').unwrap();
        let tables = fabric.tables(usize::from(host != "h1"));
        let entrance = match entrance.parse::<u32>() {
            Ok(vni) => Entrance::Tunnel(vni.try_into().unwrap()),
            Err(_) => Entrance::Port(entrance.into()),
        };
        let told = packet
            .parse::<Described>()
            .and_then(|packet| explain(tables, &entrance, &packet, fabric.now()));
        match told {
            Ok(told) => told.to_string(),
            Err(error) => format!("error: {error}"),
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_told_of_a_first_packet_is_what_happens_to_it(scenario in scenario(20)) {
        explained(&scenario);
    }
}
