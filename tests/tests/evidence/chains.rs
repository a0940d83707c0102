//! What does each attribute of flow classifiers, chains and their groups change?

use std::time::Duration;

use net::testkit::FrameBuilder;
use serde_json::{Value, json};
use tests::evidence::{Entry, Nic, Region, Seen, Sent, entry, id, with};

/// Workloads `a`, `b`, `c` on one network and `d`, `e` on another.
struct Town {
    nics: [Nic; 5],
    net: String,
    other: String,
}

fn town(r: &mut Region) -> Town {
    let (net, other) = (r.net(0), r.net(1));
    let nics = [(0, 11), (1, 12), (2, 13), (0, 14), (1, 15)].map(|(host, at)| {
        let on = if at < 14 { &net } else { &other };
        r.nic(on, host, at)
    });
    Town {
        nics,
        net: net.id,
        other: other.id,
    }
}

impl Town {
    /// What gets through: two who write to one, back, and elsewhere.
    fn seen(&self, r: &mut Region) -> Seen {
        let mut seen = vec![];
        for (from, to) in [(0, 1), (2, 1), (1, 0), (3, 4)] {
            let (from, to) = (&self.nics[from], &self.nics[to]);
            for v6 in [false, true] {
                for what in [
                    Sent::Ping,
                    Sent::Tcp(80),
                    Sent::Tcp(100),
                    Sent::Tcp(443),
                    Sent::Udp(80),
                    Sent::TcpFrom(400),
                    Sent::TcpFrom(450),
                    Sent::TcpFrom(500),
                ] {
                    seen.extend(r.sees(from, to.addr(v6), what));
                }
            }
        }
        seen
    }
}

/// A group of one firewall that decides on all alike; its id.
fn firewall(r: &mut Region, verdict: &str) -> String {
    let made = r.make("port_pair_group", &decides(verdict));
    id(&made).to_owned()
}

fn decides(verdict: &str) -> Value {
    json!({"network_function": {"firewall": {"default": verdict}}})
}

/// What an attribute is given there, in a family.
type Given<'a> = &'a dyn Fn(&Town, bool) -> Value;

/// An attribute of a classifier: what it leads into a chain does not come through.
fn classified(r: &mut Region, base: &Value, (attribute, value): (&str, Given<'_>)) {
    for v6 in [false, true] {
        let town = town(r);
        let group = firewall(r, "deny");
        let family = if v6 { "IPv6" } else { "IPv4" };
        let base = with(&json!({"ethertype": family}), base);
        let value = value(&town, v6);
        r.by_create(
            ("flow_classifier", &base),
            (attribute, &value),
            |r, made| {
                let chain = json!({"port_pair_groups": [group], "flow_classifiers": [id(made)]});
                let chain = r.make("port_chain", &chain);
                let seen = town.seen(r);
                r.remove("port_chain", id(&chain));
                seen
            },
        );
        r.clear();
    }
}

/// The prefix of one workload.
fn prefix(nic: &Nic, v6: bool) -> Value {
    json!(format!("{}/{}", nic.addr(v6), if v6 { 128 } else { 32 }))
}

/// A classifier of all that the first workload sends, in a family.
fn of_a(r: &mut Region, town: &Town, family: &str) -> String {
    let body = json!({"ethertype": family, "logical_source_port": town.nics[0].id});
    let made = r.make("flow_classifier", &body);
    id(&made).to_owned()
}

/// How many of a hundred datagrams that answer one get back at once.
fn answered(r: &mut Region, town: &Town, v6: bool, turn: u16) -> Seen {
    let [a, b, ..] = &town.nics;
    let datagram = |from: &Nic, to: &Nic, ports: (u16, u16)| {
        FrameBuilder::udp(v6, ports.0, ports.1)
            .macs(from.mac, to.mac)
            .addrs(from.addr(v6), to.addr(v6))
            .payload(&[0; 1000])
            .build()
    };
    // Each time another connection: it is of the chain that its first packet found.
    let ports = (4000 + turn, 5000);
    let asked = r.burst(a, &datagram(a, b, ports), 1);
    let back = r.burst(b, &datagram(b, a, (ports.1, ports.0)), 100);
    r.advance(Duration::from_secs(5));
    let later = back + r.arrived();
    vec![format!(
        "{asked} there, {back} back at once, {later} at last"
    )]
}

pub(crate) const TABLE: &[Entry] = &[
    entry("flow_classifier.ethertype", |r| {
        classified(
            r,
            &json!({"protocol": "tcp"}),
            ("ethertype", &|_, v6| {
                json!(if v6 { "IPv4" } else { "IPv6" })
            }),
        );
    }),
    entry("flow_classifier.protocol", |r| {
        for protocol in ["tcp", "udp", "icmp"] {
            classified(r, &json!({}), ("protocol", &|_, _| json!(protocol)));
        }
    }),
    entry("flow_classifier.source_port_range_min", |r| {
        classified(
            r,
            &json!({"protocol": "tcp", "source_port_range_max": 500}),
            ("source_port_range_min", &|_, _| json!(450)),
        );
    }),
    entry("flow_classifier.source_port_range_max", |r| {
        classified(
            r,
            &json!({"protocol": "tcp", "source_port_range_min": 400}),
            ("source_port_range_max", &|_, _| json!(450)),
        );
    }),
    entry("flow_classifier.destination_port_range_min", |r| {
        classified(
            r,
            &json!({"protocol": "tcp", "destination_port_range_max": 443}),
            ("destination_port_range_min", &|_, _| json!(100)),
        );
    }),
    entry("flow_classifier.destination_port_range_max", |r| {
        classified(
            r,
            &json!({"protocol": "tcp", "destination_port_range_min": 80}),
            ("destination_port_range_max", &|_, _| json!(100)),
        );
    }),
    entry("flow_classifier.source_ip_prefix", |r| {
        classified(
            r,
            &json!({}),
            ("source_ip_prefix", &|town, v6| prefix(&town.nics[0], v6)),
        );
    }),
    entry("flow_classifier.destination_ip_prefix", |r| {
        classified(
            r,
            &json!({}),
            ("destination_ip_prefix", &|town, v6| {
                prefix(&town.nics[1], v6)
            }),
        );
    }),
    entry("flow_classifier.logical_source_port", |r| {
        classified(
            r,
            &json!({}),
            ("logical_source_port", &|town, _| json!(town.nics[0].id)),
        );
    }),
    entry("flow_classifier.logical_destination_port", |r| {
        classified(
            r,
            &json!({}),
            ("logical_destination_port", &|town, _| {
                json!(town.nics[1].id)
            }),
        );
    }),
    entry("flow_classifier.logical_source_network", |r| {
        classified(
            r,
            &json!({}),
            ("logical_source_network", &|town, _| json!(town.net)),
        );
    }),
    entry("flow_classifier.logical_destination_network", |r| {
        classified(
            r,
            &json!({}),
            ("logical_destination_network", &|town, _| json!(town.other)),
        );
    }),
    entry("flow_classifier.at_branch", |r| {
        classified(
            r,
            &json!({"protocol": "tcp"}),
            ("at_branch", &|_, _| json!(true)),
        );
    }),
    entry("port_chain.port_pair_groups", |r| {
        let town = town(r);
        let [allow, deny] = ["allow", "deny"].map(|verdict| firewall(r, verdict));
        let led = ["IPv4", "IPv6"].map(|family| of_a(r, &town, family));
        let base = json!({"port_pair_groups": [allow], "flow_classifiers": led});
        r.both(
            ("port_chain", &base),
            ("port_pair_groups", &json!([deny])),
            |r, _| town.seen(r),
        );
    }),
    entry("port_chain.flow_classifiers", |r| {
        let town = town(r);
        let deny = firewall(r, "deny");
        let led = ["IPv4", "IPv6"].map(|family| of_a(r, &town, family));
        r.both(
            ("port_chain", &json!({"port_pair_groups": [deny]})),
            ("flow_classifiers", &json!(led)),
            |r, _| town.seen(r),
        );
    }),
    entry("port_chain.chain_parameters", |r| {
        for v6 in [false, true] {
            let town = town(r);
            let shaper =
                json!({"network_function": {"shaper": {"rate": "1mbit", "burst": "10kB"}}});
            let group = r.make("port_pair_group", &shaper);
            let led = of_a(r, &town, if v6 { "IPv6" } else { "IPv4" });
            let base = json!({"port_pair_groups": [id(&group)], "flow_classifiers": [led]});
            // Answers pass the shaper as well.
            let both_ways = json!({"symmetric": true});
            let mut turn = 0;
            r.by_create(
                ("port_chain", &base),
                ("chain_parameters", &both_ways),
                |r, _| {
                    turn += 1;
                    answered(r, &town, v6, turn)
                },
            );
            r.clear();
        }
    }),
    entry("service_graph.port_chains", |r| {
        for v6 in [false, true] {
            let town = town(r);
            let [allow, deny] = ["allow", "deny"].map(|verdict| firewall(r, verdict));
            let family = if v6 { "IPv6" } else { "IPv4" };
            let led = of_a(r, &town, family);
            // Of the third workload's: at a branch that is not asked.
            let branch = json!({"ethertype": family, "protocol": "tcp", "destination_port_range_min": 100,
                "destination_port_range_max": 100, "logical_source_port": town.nics[2].id});
            let branch = r.make("flow_classifier", &branch);
            let [first, then] = [(allow, led.as_str()), (deny, id(&branch))].map(|(group, led)| {
                let chain = json!({"port_pair_groups": [group], "flow_classifiers": [led]});
                id(&r.make("port_chain", &chain)).to_owned()
            });
            let branches = json!({first: [then]});
            r.by_create(
                ("service_graph", &json!({})),
                ("port_chains", &branches),
                |r, _| town.seen(r),
            );
            r.clear();
        }
    }),
    entry("port_pair_group.network_function", |r| {
        let town = town(r);
        let led = ["IPv4", "IPv6"].map(|family| of_a(r, &town, family));
        let deny = decides("deny")["network_function"].clone();
        r.both(
            ("port_pair_group", &decides("allow")),
            ("network_function", &deny),
            |r, made| {
                let chain = json!({"port_pair_groups": [id(made)], "flow_classifiers": led});
                let chain = r.make("port_chain", &chain);
                let seen = town.seen(r);
                r.remove("port_chain", id(&chain));
                seen
            },
        );
    }),
];
