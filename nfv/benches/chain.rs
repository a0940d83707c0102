//! What does a first packet cost, and does a longer chain cost an established one anything? (It does not: its functions are
//! not asked.)

#![expect(clippy::unwrap_used, reason = "a bench may fail loudly")]

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hostconfig::{
    Function, FunctionKind,
    chain::{Action, Algorithm, FirewallRule, Member},
};
use net::{FlowKey, Id, PortRange, Prefix, Probe, flow_key::addr_bytes};
use nfv::{Chain, Context};

fn id<K>(n: u128) -> Id<K> {
    format!(
        "{:032x}",
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    )
    .parse()
    .unwrap()
}

fn firewall(n: u128, rules: u32) -> Function {
    let rule = |i: u32| FirewallRule {
        id: id(u128::from(i)),
        action: Action::Deny,
        family: None,
        protocol: Some(6),
        source: None,
        destination: Some(Prefix::host((0x0b00_0000 + i).to_be_bytes().into())),
        source_ports: None,
        destination_ports: Some(PortRange::one(80)),
    };
    let config = hostconfig::Firewall {
        rules: (0..rules).map(rule).collect(),
        default: Action::Allow,
    };
    Function {
        id: id(n),
        name: "fw".into(),
        kind: FunctionKind::Firewall(config),
    }
}

fn load_balancer(n: u128, members: u8) -> Function {
    let member = |i: u8| Member {
        id: id(u128::from(i) + 500),
        addr: [10, 0, 1, i].into(),
        port: 8080,
        weight: 1,
    };
    let config = hostconfig::LoadBalancer {
        vip: [10, 0, 0, 100].into(),
        vip_port: id(1),
        network: id(2),
        mac: net::UnicastMac::try_from(net::testkit::mac(1)).unwrap(),
        protocol: 6,
        port: 80,
        algorithm: Algorithm::Maglev,
        members: (0..members).map(member).collect(),
        monitor: None,
    };
    Function {
        id: id(n),
        name: "lb".into(),
        kind: FunctionKind::LoadBalancer(config),
    }
}

fn config(functions: Vec<Function>) -> hostconfig::Chain {
    hostconfig::Chain {
        id: id(1),
        name: "bench".into(),
        project: id(2),
        path: 1,
        symmetric: true,
        graph: hostconfig::Graph::default(),
        classifiers: vec![],
        functions,
    }
}

fn key() -> FlowKey {
    FlowKey {
        ethertype: 0x0800,
        ip_proto: 6,
        ip_src: addr_bytes([10, 0, 0, 7].into()),
        ip_dst: addr_bytes([10, 0, 0, 100].into()),
        l4_src: 40_000,
        l4_dst: 80,
        ..FlowKey::default()
    }
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("chain_decide");
    let cx = Context {
        seed: 7,
        ..Context::default()
    };
    let chains = [
        ("firewall_10", vec![firewall(10, 10)]),
        ("firewall_1000", vec![firewall(10, 1000)]),
        ("firewall_10000", vec![firewall(10, 10_000)]),
        ("load_balancer", vec![load_balancer(11, 10)]),
        (
            "five_functions",
            vec![
                firewall(10, 10),
                load_balancer(11, 10),
                firewall(12, 10),
                firewall(13, 10),
                firewall(14, 10),
            ],
        ),
    ];
    for (name, functions) in chains {
        let chain = Chain::build(&config(functions)).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| chain.decide(&mut Probe::new(black_box(&key())), &cx, &mut |_, _| {}));
        });
    }
    group.finish();
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("chain_build");
    group.measurement_time(Duration::from_secs(3));
    for members in [10, 200] {
        let config = config(vec![load_balancer(11, members)]);
        group.bench_with_input(BenchmarkId::new("maglev", members), &config, |b, config| {
            b.iter(|| Chain::build(config).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, decide, build);
criterion_main!(benches);
