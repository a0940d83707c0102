//! What does each attribute of a router and of a floating IP change?

use serde_json::{Value, json};
use tests::evidence::{Entry, Net, Nic, Region, Seen, Sent, entry, id, with};

/// Two networks with a workload each: `a` on the first, `b` on the second.
pub(crate) fn apart(r: &mut Region) -> ([Net; 2], Nic, Nic) {
    let nets = [r.net(0), r.net(1)];
    let a = r.nic(&nets[0], 0, 11);
    let b = r.nic(&nets[1], 1, 12);
    (nets, a, b)
}

/// Joins a router to networks for as long as something is looked at.
fn joined(
    r: &mut Region,
    made: &Value,
    nets: &[Net],
    look: impl FnOnce(&mut Region) -> Seen,
) -> Seen {
    let subnets = nets.iter().flat_map(|net| [&net.v4, &net.v6]);
    for subnet in subnets.clone() {
        r.join(id(made), subnet);
    }
    let seen = look(r);
    for subnet in subnets {
        r.leave(id(made), subnet);
    }
    seen
}

/// Who answers `out` for the addresses of a subnet from .2 to .40, and what it gets when it is written to.
fn seen_outside(r: &mut Region, a: &Nic, out: &Nic) -> Seen {
    let got = r.talks(a, out.v4.into(), Sent::Udp(7));
    // The gateway's own address is as chance has it.
    got.iter()
        .map(|line| match line.split_once(" > ") {
            Some((head, tail)) if line.starts_with("out: ") => {
                let source = head.rsplit(' ').next().unwrap();
                let own = if source.starts_with("10.0.0.") {
                    "its own"
                } else {
                    "the gateway's"
                };
                format!("out: from {own} > {tail}")
            }
            _ => line.clone(),
        })
        .collect()
}

/// A router between a workload's network and an external one; with whom is outside.
pub(crate) fn gated(r: &mut Region) -> (String, Nic, Net, Nic) {
    let (net, a, outside, out) = half_gated(r);
    let router = r.router(&[&net]);
    r.gate(&router, &outside);
    (router, a, outside, out)
}

/// The same without its router.
pub(crate) fn half_gated(r: &mut Region) -> (Net, Nic, Net, Nic) {
    let net = r.net(0);
    let a = r.nic(&net, 0, 11);
    let (outside, out) = r.outside(9);
    (net, a, outside, out)
}

/// What arrives when somebody outside writes to an address.
pub(crate) fn from_outside(r: &mut Region, out: &Nic, addr: &str) -> Seen {
    let addr = addr.parse().unwrap();
    let mut seen = r.talks(out, addr, Sent::Ping);
    seen.extend(r.talks(out, addr, Sent::Tcp(80)));
    seen
}

/// A route by a workload on the second network to somewhere behind it.
fn route(r: &mut Region) -> (String, Nic, Value) {
    let (nets, a, b) = apart(r);
    let router = r.router(&[&nets[0], &nets[1]]);
    let routes = json!([{"destination": "172.16.5.0/24", "nexthop": b.v4.to_string()}]);
    (router, a, routes)
}

fn beyond(r: &mut Region, a: &Nic) -> Seen {
    r.sees(a, "172.16.5.7".parse().unwrap(), Sent::Ping)
}

/// Two networks, a router on the first, and whether the second is reached.
fn half(r: &mut Region) -> (String, Nic, Nic, [Net; 2]) {
    let (nets, a, b) = apart(r);
    let router = r.router(&[&nets[0]]);
    (router, a, b, nets)
}

pub(crate) const TABLE: &[Entry] = &[
    entry("router.admin_state_up", |r| {
        let (nets, a, b) = apart(r);
        let base = json!({"name": "r"});
        r.both(
            ("router", &base),
            ("admin_state_up", &json!(false)),
            |r, made| joined(r, made, &nets, |r| r.pings(&a, &b)),
        );
    }),
    entry("router.external_gateway_info", |r| {
        let net = r.net(0);
        let a = r.nic(&net, 0, 11);
        let (outside, out) = r.outside(9);
        let base = json!({"name": "r"});
        let way = json!({"network_id": outside.id});
        r.both(
            ("router", &base),
            ("external_gateway_info", &way),
            |r, made| {
                joined(r, made, std::slice::from_ref(&net), |r| {
                    seen_outside(r, &a, &out)
                })
            },
        );
    }),
    entry("router.routes", |r| {
        let (router, a, routes) = route(r);
        r.by_update(("router", &router), ("routes", &routes), |r| beyond(r, &a));
    }),
    entry("add_extraroutes.routes", |r| {
        let (router, a, routes) = route(r);
        let body = json!({"router": {"routes": routes}});
        r.differs(
            |r| {
                r.set("router", &router, &json!({"routes": []}));
                beyond(r, &a)
            },
            |r| {
                r.act("router", &router, "add_extraroutes", &body);
                beyond(r, &a)
            },
        );
    }),
    entry("remove_extraroutes.routes", |r| {
        let (router, a, routes) = route(r);
        let body = json!({"router": {"routes": routes}});
        r.differs(
            |r| {
                r.set("router", &router, &json!({"routes": routes}));
                beyond(r, &a)
            },
            |r| {
                r.act("router", &router, "remove_extraroutes", &body);
                beyond(r, &a)
            },
        );
    }),
    entry("add_router_interface.subnet_id", |r| {
        let (router, a, b, nets) = half(r);
        r.differs(
            |r| r.pings(&a, &b),
            |r| {
                r.join(&router, &nets[1].v4);
                let seen = r.pings(&a, &b);
                r.leave(&router, &nets[1].v4);
                seen
            },
        );
    }),
    entry("add_router_interface.port_id", |r| {
        let (router, a, b, nets) = half(r);
        r.differs(
            |r| r.pings(&a, &b),
            |r| {
                let fixed = json!([{"subnet_id": nets[1].v4, "ip_address": "10.0.1.1"}]);
                let port = r.make(
                    "port",
                    &json!({"network_id": nets[1].id, "fixed_ips": fixed}),
                );
                let by = json!({"port_id": id(&port)});
                r.act("router", &router, "add_router_interface", &by);
                let seen = r.pings(&a, &b);
                r.act("router", &router, "remove_router_interface", &by);
                seen
            },
        );
    }),
    entry("remove_router_interface.subnet_id", |r| {
        let (router, a, b, nets) = half(r);
        r.join(&router, &nets[1].v4);
        let mut there = true;
        r.differs(
            |r| {
                if !std::mem::replace(&mut there, true) {
                    r.join(&router, &nets[1].v4);
                }
                let seen = r.pings(&a, &b);
                there = false;
                seen
            },
            |r| {
                r.leave(&router, &nets[1].v4);
                r.pings(&a, &b)
            },
        );
    }),
    entry("remove_router_interface.port_id", |r| {
        let (router, a, b, nets) = half(r);
        r.differs(
            |r| {
                let (path, by) = (
                    format!("/v2.0/routers/{router}/add_router_interface"),
                    json!({"subnet_id": nets[1].v4}),
                );
                r.call("admin", "PUT", &path, &by);
                r.pings(&a, &b)
            },
            |r| {
                let found = format!("ports?device_id={router}&fixed_ips=ip_address%3D10.0.1.1");
                let found = r.read("admin", &found);
                let by = json!({"port_id": found["ports"][0]["id"]});
                r.act("router", &router, "remove_router_interface", &by);
                r.pings(&a, &b)
            },
        );
    }),
    entry("floatingip.floating_network_id", |r| {
        let (_, a, outside, out) = gated(r);
        let (other, _) = r.outside(8);
        let base = json!({"floating_network_id": outside.id});
        r.by_create(
            ("floatingip", &base),
            ("floating_network_id", &json!(other.id)),
            |r, made| {
                let path = format!("/v2.0/floatingips/{}", id(made));
                let body = json!({"floatingip": {"port_id": a.id}});
                let (status, _) = r.call("admin", "PUT", &path, &body);
                let mut seen = vec![format!("for the workload: {status}")];
                seen.extend(seen_outside(r, &a, &out));
                seen
            },
        );
    }),
    entry("floatingip.floating_ip_address", |r| {
        let (_, a, outside, out) = gated(r);
        let base = json!({"floating_network_id": outside.id, "port_id": a.id});
        r.by_create(
            ("floatingip", &base),
            ("floating_ip_address", &json!("10.0.9.200")),
            |r, _| from_outside(r, &out, "10.0.9.200"),
        );
    }),
    entry("floatingip.subnet_id", |r| {
        let (_, a, outside, out) = gated(r);
        // Nobody gets an address of it unasked.
        let second = json!({"cidr": "10.0.7.0/24", "service_types": ["compute:x"]});
        let second = r.subnet_of(&outside.id, 7, 4, &second);
        let base = json!({"floating_network_id": outside.id, "port_id": a.id});
        r.by_create(
            ("floatingip", &base),
            ("subnet_id", &json!(second)),
            |r, made| {
                let addr = made["floating_ip_address"].as_str().unwrap().to_owned();
                let (prefix, _) = addr.rsplit_once('.').unwrap();
                let mut seen = vec![format!("of {prefix}")];
                let got = r.sees(&a, out.v4.into(), Sent::Ping);
                seen.push(format!(
                    "arrives from it: {}",
                    got.iter().any(|line| line.contains(&addr))
                ));
                seen
            },
        );
    }),
    entry("floatingip.port_id", |r| {
        let (_, a, outside, out) = gated(r);
        let base = json!({"floating_network_id": outside.id, "floating_ip_address": "10.0.9.200"});
        r.both(("floatingip", &base), ("port_id", &json!(a.id)), |r, _| {
            from_outside(r, &out, "10.0.9.200")
        });
    }),
    entry("floatingip.fixed_ip_address", |r| {
        let (_, a, outside, out) = gated(r);
        let two = json!([{"ip_address": "10.0.0.11"}, {"ip_address": "10.0.0.111"}]);
        r.set("port", &a.id, &json!({"fixed_ips": two}));
        let base = json!({"floating_network_id": outside.id, "floating_ip_address": "10.0.9.200"});
        let to = |addr: &str| json!({"port_id": a.id, "fixed_ip_address": addr});
        let made = r.make("floatingip", &with(&base, &to("10.0.0.11")));
        r.differs(
            |r| {
                r.set("floatingip", id(&made), &to("10.0.0.11"));
                from_outside(r, &out, "10.0.9.200")
            },
            |r| {
                r.set("floatingip", id(&made), &to("10.0.0.111"));
                from_outside(r, &out, "10.0.9.200")
            },
        );
        r.remove("floatingip", id(&made));
        let made = r.make("floatingip", &with(&base, &to("10.0.0.111")));
        let seen = from_outside(r, &out, "10.0.9.200");
        assert!(
            seen.iter().any(|line| line.contains("10.0.0.111")),
            "{seen:?}"
        );
        r.remove("floatingip", id(&made));
    }),
];
