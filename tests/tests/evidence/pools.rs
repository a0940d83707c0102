//! What does each attribute of a pool of subnets and of an address scope change?
//!
//! What is seen is the address that a workload is offered on a subnet of the pool, or that there is no such subnet.

use serde_json::{Value, json};
use tests::evidence::{A, ADMIN, Entry, Region, Seen, entry, id, with};

/// What a workload is offered on a subnet that is asked for so.
fn offered(r: &mut Region, token: &str, ask: &Value) -> Seen {
    let network = r.make_as(token, "network", &json!({"name": "n"}));
    let ask = with(&json!({"network_id": id(&network), "ip_version": 4}), ask);
    let (status, answer) = r.call(token, "POST", "/v2.0/subnets", &json!({"subnet": ask}));
    let seen = if status == 201 {
        r.plainly(id(&network), |r, nic| r.dhcp(nic))
    } else {
        let why = &answer["NeutronError"]["type"];
        vec![format!("no subnet: {status} {why}")]
    };
    r.remove("network", id(&network));
    seen
}

/// The same of a pool.
fn of_pool(r: &mut Region, pool: &str) -> Seen {
    offered(r, ADMIN.0, &json!({"subnetpool_id": pool}))
}

/// An attribute of a pool that one subnet is asked of so, given when it is made and later.
fn one(r: &mut Region, base: &Value, (attribute, value): (&str, Value), ask: &Value) {
    let base = with(
        &json!({"name": "p", "prefixes": ["10.60.0.0/16"], "default_prefixlen": 24}),
        base,
    );
    r.both(("subnetpool", &base), (attribute, &value), |r, made| {
        let ask = with(&json!({"subnetpool_id": id(made)}), ask);
        offered(r, ADMIN.0, &ask)
    });
}

/// A pool of one block.
fn small() -> Value {
    json!({"name": "p", "prefixes": ["10.60.0.0/24"], "default_prefixlen": 24})
}

/// What is offered of a pool while its first block is another's.
fn second(r: &mut Region, pool: &str) -> Seen {
    let network = r.make("network", &json!({"name": "first"}));
    let ask = json!({"network_id": id(&network), "ip_version": 4, "subnetpool_id": pool});
    r.make("subnet", &ask);
    let seen = of_pool(r, pool);
    r.remove("network", id(&network));
    seen
}

/// Does a router take a ping from a subnet of one pool to a subnet of another?
fn routed(r: &mut Region, pools: [&str; 2]) -> Seen {
    let nets = pools.map(|pool| {
        let network = r.make("network", &json!({"name": "n"}));
        let ask = json!({"network_id": id(&network), "ip_version": 4, "subnetpool_id": pool});
        let subnet = r.make("subnet", &ask);
        (id(&network).to_owned(), id(&subnet).to_owned())
    });
    let open = r.open();
    let ends = [0, 1].map(|at| {
        let mac = format!("02:00:00:00:60:0{at}");
        let more = json!({"mac_address": mac, "security_groups": [open]});
        r.plain(&nets[at].0, &more)
    });
    let router = r.router(&[]);
    let mut joined = vec![];
    let mut seen = vec![];
    for (_, subnet) in &nets {
        let path = format!("/v2.0/routers/{router}/add_router_interface");
        let (status, _) = r.call(ADMIN.0, "PUT", &path, &json!({"subnet_id": subnet}));
        seen.push(format!("joined: {status}"));
        joined.extend((status == 200).then_some(subnet));
    }
    seen.extend(r.sees(&ends[0], ends[1].v4.into(), tests::evidence::Sent::Ping));
    for subnet in joined {
        r.leave(&router, subnet);
    }
    r.remove("router", &router);
    for (at, (network, _)) in nets.iter().enumerate() {
        r.remove("port", &ends[at].id);
        r.remove("network", network);
    }
    seen
}

/// A pool that a project makes in a scope, and what is offered of it.
fn in_scope(r: &mut Region, token: &str, scope: &Value) -> Seen {
    let ask = json!({"subnetpool": with(&small(), &json!({"address_scope_id": id(scope)}))});
    let (status, answer) = r.call(token, "POST", "/v2.0/subnetpools", &ask);
    if status != 201 {
        let why = &answer["NeutronError"]["type"];
        return vec![format!("no pool: {status} {why}")];
    }
    let pool = id(&answer["subnetpool"]).to_owned();
    let seen = offered(r, token, &json!({"subnetpool_id": pool}));
    r.remove("subnetpool", &pool);
    seen
}

pub(crate) const TABLE: &[Entry] = &[
    entry("subnetpool.prefixes", |r| {
        let over = json!(["10.61.0.0/24"]);
        let probe = |r: &mut Region, made: &Value| of_pool(r, id(made));
        r.by_create(("subnetpool", &small()), ("prefixes", &over), probe);
        // What was there stays: more of them is all that can be asked for later, and is not taken back.
        let wide = json!(["10.60.0.0/24", "10.61.0.0/24"]);
        let probe = |r: &mut Region, made: &Value| second(r, id(made));
        r.by_create(("subnetpool", &small()), ("prefixes", &wide), probe);
        let later = r.make("subnetpool", &small());
        let before = second(r, id(&later));
        r.set("subnetpool", id(&later), &json!({"prefixes": wide}));
        assert_ne!(second(r, id(&later)), before);
    }),
    entry("add_prefixes.prefixes", |r| {
        let pool = r.make("subnetpool", &small());
        let more = json!({"prefixes": ["10.61.0.0/24"]});
        r.differs(
            |r| second(r, id(&pool)),
            |r| {
                r.act("subnetpool", id(&pool), "add_prefixes", &more);
                let seen = second(r, id(&pool));
                r.act("subnetpool", id(&pool), "remove_prefixes", &more);
                seen
            },
        );
    }),
    entry("remove_prefixes.prefixes", |r| {
        let both = json!({"prefixes": ["10.60.0.0/24", "10.61.0.0/24"]});
        let pool = r.make("subnetpool", &with(&small(), &both));
        let first = json!({"prefixes": ["10.60.0.0/24"]});
        r.differs(
            |r| of_pool(r, id(&pool)),
            |r| {
                r.act("subnetpool", id(&pool), "remove_prefixes", &first);
                let seen = of_pool(r, id(&pool));
                r.act("subnetpool", id(&pool), "add_prefixes", &first);
                seen
            },
        );
    }),
    entry("subnetpool.default_prefixlen", |r| {
        one(r, &json!({}), ("default_prefixlen", json!(27)), &json!({}));
    }),
    entry("subnetpool.min_prefixlen", |r| {
        let larger = json!({"prefixlen": 22});
        one(r, &json!({}), ("min_prefixlen", json!(24)), &larger);
    }),
    entry("subnetpool.max_prefixlen", |r| {
        let smaller = json!({"prefixlen": 28});
        one(r, &json!({}), ("max_prefixlen", json!(26)), &smaller);
    }),
    entry("subnetpool.default_quota", |r| {
        one(r, &json!({}), ("default_quota", json!(255)), &json!({}));
        one(
            r,
            &json!({"default_quota": 255}),
            ("default_quota", json!(256)),
            &json!({}),
        );
    }),
    entry("subnetpool.is_default", |r| {
        let base = small();
        r.both(
            ("subnetpool", &base),
            ("is_default", &json!(true)),
            |r, _| offered(r, ADMIN.0, &json!({"use_default_subnetpool": true})),
        );
    }),
    entry("subnetpool.shared", |r| {
        let base = small();
        r.by_create(
            ("subnetpool", &base),
            ("shared", &json!(true)),
            |r, made| offered(r, A.0, &json!({"subnetpool_id": id(made)})),
        );
    }),
    entry("subnetpool.address_scope_id", |r| {
        let scope = r.make("address_scope", &json!({"name": "s", "ip_version": 4}));
        let other = json!({
            "name": "o", "prefixes": ["10.61.0.0/24"], "default_prefixlen": 24,
            "address_scope_id": id(&scope),
        });
        let other = r.make("subnetpool", &other);
        let of = json!(id(&scope));
        // Routers join what is of one scope.
        r.both(
            ("subnetpool", &small()),
            ("address_scope_id", &of),
            |r, made| routed(r, [id(made), id(&other)]),
        );
    }),
    entry("address_scope.ip_version", |r| {
        let base = json!({"name": "s", "ip_version": 4});
        r.by_create(
            ("address_scope", &base),
            ("ip_version", &json!(6)),
            |r, made| in_scope(r, ADMIN.0, made),
        );
    }),
    entry("address_scope.shared", |r| {
        let base = json!({"name": "s", "ip_version": 4});
        let of_another = |r: &mut Region, made: &Value| in_scope(r, A.0, made);
        r.by_create(
            ("address_scope", &base),
            ("shared", &json!(true)),
            of_another,
        );
        // Later too, but what was shared stays so.
        let later = r.make("address_scope", &base);
        let before = in_scope(r, A.0, &later);
        r.set("address_scope", id(&later), &json!({"shared": true}));
        assert_ne!(in_scope(r, A.0, &later), before);
        let path = format!("/v2.0/address-scopes/{}", id(&later));
        let back = json!({"address_scope": {"shared": false}});
        let (status, answer) = r.call(ADMIN.0, "PUT", &path, &back);
        assert_eq!(status, 400, "{answer}");
    }),
];
