//! What does each attribute of an appliance change?

use std::time::Duration;

use net::testkit::FrameBuilder;
use serde_json::{Value, json};
use tests::evidence::{ADMIN, Entry, Nic, Region, Seen, entry, id, with};

/// A client `a`, a server `b` elsewhere, and on the client's host the ports of appliances.
struct Rack {
    client: Nic,
    server: Nic,
    ports: Vec<Nic>,
    /// The source port of the last connection: each is a new one.
    last: u16,
}

impl Rack {
    fn new(r: &mut Region) -> Self {
        let (net, client, server) = r.pair();
        let ports = (13..17).map(|at| r.nic(&net, 0, at)).collect();
        Self {
            client,
            server,
            ports,
            last: 5000,
        }
    }

    /// What a pair of the first two ports is made with.
    fn pair(&self, at: usize) -> Value {
        json!({"ingress": self.ports[at].id, "egress": self.ports[at + 1].id})
    }

    /// The first packet of the last connection.
    fn frame(&self) -> Vec<u8> {
        FrameBuilder::udp(false, self.last, 4001)
            .macs(self.client.mac, self.server.mac)
            .addrs(self.client.v4.into(), self.server.v4.into())
            .build()
    }

    /// Who gets a new connection's first packet that goes through this group, and who gets it when it comes out of the second port.
    fn through(&mut self, r: &mut Region, group: &str) -> Seen {
        self.last += 1;
        let from = json!({"logical_source_port": self.client.id});
        let classifier = r.make("flow_classifier", &from);
        let chain = json!({
            "port_pair_groups": [group], "flow_classifiers": [id(&classifier)],
        });
        let chain = r.make("port_chain", &chain);
        let frame = self.frame();
        let mut seen = vec![];
        for sender in [&self.client, &self.ports[1]] {
            let got = r.bytes(sender, frame.clone());
            let who = got.into_iter().map(|(label, _)| label).next();
            seen.push(who.unwrap_or_else(|| "nobody gets it".to_owned()));
        }
        r.remove("port_chain", id(&chain));
        r.remove("flow_classifier", id(&classifier));
        seen
    }

    /// Which frames go into the ports by themselves while a chain leads through this group, and what is said of its pair.
    fn probed(&mut self, r: &mut Region, group: &str, pair: &str) -> Seen {
        let from = json!({"logical_source_port": self.client.id});
        let classifier = r.make("flow_classifier", &from);
        let chain = json!({
            "port_pair_groups": [group], "flow_classifiers": [id(&classifier)],
        });
        let chain = r.make("port_chain", &chain);
        let mut seen = vec![];
        for (port, kind) in r.unasked(Duration::from_secs(5)) {
            let into = self.ports.iter().position(|nic| nic.port == port);
            seen.push(format!("{into:?} gets {kind:x?}"));
        }
        seen.sort();
        seen.dedup();
        let shown = r.read(ADMIN.0, &format!("sfc/port_pairs/{pair}"));
        seen.push(format!("{}", shown["port_pair"]["operating_status"]));
        seen.extend(self.first(r));
        r.remove("port_chain", id(&chain));
        r.remove("flow_classifier", id(&classifier));
        seen
    }

    /// Who gets a new connection's first packet.
    fn first(&mut self, r: &mut Region) -> Seen {
        self.last += 1;
        let frame = self.frame();
        let got = r.bytes(&self.client, frame);
        got.into_iter().map(|(label, _)| label).collect()
    }

    /// The same through a group of this pair.
    fn through_pair(&mut self, r: &mut Region, pair: &Value) -> Seen {
        let group = r.make("port_pair_group", &json!({"port_pairs": [id(pair)]}));
        let seen = self.through(r, id(&group));
        r.remove("port_pair_group", id(&group));
        seen
    }
}

pub(crate) const TABLE: &[Entry] = &[
    entry("port_pair.ingress", |r| {
        let mut rack = Rack::new(r);
        let (base, other) = (rack.pair(0), json!(rack.ports[2].id));
        r.by_create(("port_pair", &base), ("ingress", &other), |r, made| {
            rack.through_pair(r, made)
        });
    }),
    entry("port_pair.egress", |r| {
        let mut rack = Rack::new(r);
        let (base, other) = (rack.pair(0), json!(rack.ports[2].id));
        r.by_create(("port_pair", &base), ("egress", &other), |r, made| {
            rack.through_pair(r, made)
        });
    }),
    entry("port_pair.service_function_parameters", |r| {
        let mut rack = Rack::new(r);
        let base = rack.pair(0);
        let parameters = "service_function_parameters";
        let given = with(&base, &json!({parameters: {"weight": 1}}));
        r.both(
            ("port_pair", &given),
            (parameters, &json!({"weight": 0})),
            |r, made| rack.through_pair(r, made),
        );
        // Without its label what comes out goes nowhere.
        let of = (parameters, &json!({"correlation": "mpls"}));
        r.by_create(("port_pair", &base), of, |r, made| {
            rack.through_pair(r, made)
        });
    }),
    entry("port_chain.chain_id", |r| {
        let mut rack = Rack::new(r);
        let mut pair = rack.pair(0);
        pair["service_function_parameters"] = json!({"correlation": "mpls"});
        let pair = r.make("port_pair", &pair);
        let group = r.make("port_pair_group", &json!({"port_pairs": [id(&pair)]}));
        let from = json!({"logical_source_port": rack.client.id});
        let classifier = r.make("flow_classifier", &from);
        let base = json!({
            "port_pair_groups": [id(&group)], "flow_classifiers": [id(&classifier)],
        });
        let of = ("chain_id", &json!(7));
        r.by_create(("port_chain", &base), of, |r, _| {
            rack.last += 1;
            let frame = rack.frame();
            let got = r.bytes(&rack.client, frame);
            let told =
                |(who, bytes): (String, Vec<u8>)| format!("{who} gets {:x?}", &bytes[12..18]);
            got.into_iter().map(told).collect()
        });
    }),
    entry("port_pair_group.port_pairs", |r| {
        let mut rack = Rack::new(r);
        let pairs = [0, 2].map(|at| r.make("port_pair", &rack.pair(at)));
        let [base, other] = pairs.each_ref().map(|pair| json!([id(pair)]));
        let base = json!({"name": "g", "port_pairs": base});
        let of = ("port_pairs", &other);
        r.both(("port_pair_group", &base), of, |r, made| {
            rack.through(r, id(made))
        });
    }),
    entry("port_pair_group.tap_enabled", |r| {
        let mut rack = Rack::new(r);
        let pair = r.make("port_pair", &rack.pair(0));
        let base = json!({"name": "g", "port_pairs": [id(&pair)]});
        let of = ("tap_enabled", &json!(true));
        r.by_create(("port_pair_group", &base), of, |r, made| {
            rack.through(r, id(made))
        });
    }),
    entry("port_pair_group.failure_policy", |r| {
        let mut rack = Rack::new(r);
        let mut drained = rack.pair(0);
        drained["service_function_parameters"] = json!({"weight": 0});
        let pair = r.make("port_pair", &drained);
        let base = json!({"name": "g", "port_pairs": [id(&pair)]});
        let of = ("failure_policy", &json!("open"));
        r.both(("port_pair_group", &base), of, |r, made| {
            rack.through(r, id(made))
        });
    }),
    entry("port_pair_group.health_probe", |r| {
        let mut rack = Rack::new(r);
        let pair = r.make("port_pair", &rack.pair(0));
        let base = json!({"name": "g", "port_pairs": [id(&pair)]});
        for other in [
            json!({"misses": 1}),
            json!({"misses": 9}),
            json!({"ip_version": 6}),
            json!({"interval": 2, "misses": 1}),
        ] {
            let of = ("health_probe", &other);
            r.both(("port_pair_group", &base), of, |r, made| {
                rack.probed(r, id(made), id(&pair))
            });
        }
    }),
    entry("port_pair_group.port_pair_group_parameters", |r| {
        let mut rack = Rack::new(r);
        let pairs = [0, 2].map(|at| r.make("port_pair", &rack.pair(at)));
        let base = json!({"name": "g", "port_pairs": pairs.each_ref().map(id)});
        let by_source = json!({"lb_fields": ["ip_src", "ip_dst"]});
        let of = ("port_pair_group_parameters", &by_source);
        r.by_create(("port_pair_group", &base), of, |r, made| {
            let firsts = (0..24).map(|_| rack.through(r, id(made)).swap_remove(0));
            let mut firsts: Vec<_> = firsts.collect();
            firsts.sort();
            firsts.dedup();
            vec![format!("by {} appliances", firsts.len())]
        });
    }),
];
