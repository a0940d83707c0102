//! What does each attribute of load balancers, listeners, pools and members change?

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::evidence::{ADMIN, Entry, Net, Nic, Region, Seen, Sent, entry, id, with};

/// Connections whose members are looked at together: by chance all of two members' meet one in eight million times.
const MANY: usize = 24;

/// A network of one family with a client on two hosts, and a server on two.
struct Farm {
    net: Net,
    v6: bool,
    clients: [Nic; 2],
    servers: [Nic; 2],
}

impl Farm {
    fn new(r: &mut Region, v6: bool) -> Self {
        let net = r.net(0);
        let clients = [r.nic(&net, 0, 11), r.nic(&net, 1, 14)];
        let servers = [r.nic(&net, 1, 12), r.nic(&net, 2, 13)];
        Self {
            net,
            v6,
            clients,
            servers,
        }
    }

    fn address(&self, at: u8) -> String {
        if self.v6 {
            format!("fd00::{at:x}")
        } else {
            format!("10.0.0.{at}")
        }
    }

    fn subnet(&self) -> &str {
        if self.v6 { &self.net.v6 } else { &self.net.v4 }
    }

    /// What makes a load balancer at this address.
    fn at(&self, at: u8) -> Value {
        json!({"vip_subnet_id": self.subnet(), "vip_address": self.address(at)})
    }

    /// A load balancer at this address; its id.
    fn balancer(&self, r: &mut Region, at: u8) -> String {
        let made = r.make("loadbalancer", &self.at(at));
        id(&made).to_owned()
    }

    /// What makes the first or the second server a member.
    fn server(&self, which: usize) -> Value {
        json!({"address": self.servers[which].addr(self.v6), "protocol_port": 8080 + which})
    }

    /// What both clients see who write to the load balancers' addresses.
    fn seen(&self, r: &mut Region, at: &[u8], what: &[Sent]) -> Seen {
        let mut seen = vec![];
        for client in &self.clients {
            for at in at {
                let to = self.address(*at).parse().unwrap();
                for sent in what {
                    seen.extend(r.talks(client, to, *sent));
                }
            }
        }
        seen
    }

    /// Who serves many connections of one client to the address `.100`, each once.
    fn spread(&self, r: &mut Region) -> Seen {
        let to = self.address(100).parse().unwrap();
        let mut met = BTreeSet::new();
        for _ in 0..MANY {
            met.extend(r.sees(&self.clients[0], to, Sent::Tcp(80)));
        }
        met.into_iter().collect()
    }
}

/// The same in each family.
fn each(r: &mut Region, prove: impl Fn(&mut Region, &Farm)) {
    for v6 in [false, true] {
        let farm = Farm::new(r, v6);
        prove(r, &farm);
        r.clear();
    }
}

fn members(pool: &str) -> String {
    format!("/v2.0/lbaas/pools/{pool}/members")
}

/// Makes somebody a member; its path.
fn join(r: &mut Region, pool: &str, member: &Value) -> String {
    let all = members(pool);
    let made = r.ok("POST", &all, &json!({"member": member}));
    format!("{all}/{}", id(&made["member"]))
}

/// What makes a listener of a load balancer, and a pool.
fn listens(balancer: &str) -> Value {
    json!({"loadbalancer_id": balancer, "protocol": "TCP", "protocol_port": 80})
}

fn pools(of: &str, whose: &str) -> Value {
    json!({of: whose, "protocol": "TCP", "lb_algorithm": "ROUND_ROBIN"})
}

/// Looks while a listener is served by the first server, over what it speaks.
fn served<T>(
    r: &mut Region,
    farm: &Farm,
    listener: &Value,
    look: impl FnOnce(&mut Region) -> T,
) -> T {
    let pool = with(
        &pools("listener_id", id(listener)),
        &json!({"protocol": listener["protocol"]}),
    );
    let pool = r.make("pool", &pool);
    join(r, id(&pool), &farm.server(0));
    let seen = look(r);
    r.remove("pool", id(&pool));
    seen
}

/// Looks while a load balancer has a listener, which is served.
fn listening<T>(
    r: &mut Region,
    farm: &Farm,
    balancer: &Value,
    look: impl FnOnce(&mut Region) -> T,
) -> T {
    let listener = r.make("listener", &listens(id(balancer)));
    let seen = served(r, farm, &listener, look);
    r.remove("listener", id(&listener));
    seen
}

/// A load balancer at `.100` whose listener has this pool, its members the servers.
fn whole(r: &mut Region, farm: &Farm) -> String {
    let balancer = farm.balancer(r, 100);
    let listener = r.make("listener", &listens(&balancer));
    id(&listener).to_owned()
}

/// An attribute of a pool that its two members' shares show.
fn of_pool(r: &mut Region, attribute: &str, value: &Value) {
    each(r, |r, farm| {
        let base = pools("listener_id", &whole(r, farm));
        r.both(("pool", &base), (attribute, value), |r, made| {
            let joined = [0, 1].map(|which| join(r, id(made), &farm.server(which)));
            let who = farm.spread(r);
            for member in joined {
                r.ok("DELETE", &member, &Value::Null);
            }
            // Which one it is, chance says.
            if who.len() == 1 && !who[0].starts_with("dropped") {
                return vec!["one serves all".to_owned()];
            }
            who
        });
    });
}

/// An attribute of a member beside another; `later`: it can be changed.
fn of_member(
    r: &mut Region,
    attribute: &str,
    (first, value): (&Value, &dyn Fn(&Farm) -> Value),
    later: bool,
) {
    each(r, |r, farm| {
        let listener = whole(r, farm);
        let pool = r.make("pool", &pools("listener_id", &listener));
        join(r, id(&pool), &farm.server(1));
        let mut base = farm.server(0);
        if !first.is_null() {
            base[attribute] = first.clone();
        }
        let value = value(farm);
        let made = |r: &mut Region, body: &Value| {
            let member = join(r, id(&pool), body);
            let seen = farm.spread(r);
            r.ok("DELETE", &member, &Value::Null);
            seen
        };
        let given = with(&base, &json!({attribute: value}));
        r.differs(|r| made(r, &base), |r| made(r, &given));
        if later {
            let member = join(r, id(&pool), &base);
            let changed = |r: &mut Region, to: &Value| {
                r.ok("PUT", &member, &json!({"member": {attribute: to}}));
                farm.spread(r)
            };
            r.differs(|r| changed(r, first), |r| changed(r, &value));
        }
    });
}

pub(crate) const TABLE: &[Entry] = &[
    entry("loadbalancer.admin_state_up", |r| {
        each(r, |r, farm| {
            let base = farm.at(100);
            r.both(
                ("loadbalancer", &base),
                ("admin_state_up", &json!(false)),
                |r, made| listening(r, farm, made, |r| farm.seen(r, &[100], &[Sent::Tcp(80)])),
            );
        });
    }),
    entry("loadbalancer.vip_address", |r| {
        each(r, |r, farm| {
            let base = json!({"vip_subnet_id": farm.subnet()});
            let there = json!(farm.address(200));
            r.by_create(
                ("loadbalancer", &base),
                ("vip_address", &there),
                |r, made| listening(r, farm, made, |r| farm.seen(r, &[200], &[Sent::Tcp(80)])),
            );
        });
    }),
    entry("loadbalancer.vip_network_id", |r| {
        each(r, |r, farm| {
            let other = r.net(0);
            let base = json!({"vip_network_id": farm.net.id, "vip_address": farm.address(100)});
            r.by_create(
                ("loadbalancer", &base),
                ("vip_network_id", &json!(other.id)),
                |r, made| listening(r, farm, made, |r| farm.seen(r, &[100], &[Sent::Tcp(80)])),
            );
        });
    }),
    entry("loadbalancer.vip_subnet_id", |r| {
        // Without it the address is of the family that comes first.
        let farms = Farm::new(r, false);
        let base = json!({"vip_network_id": farms.net.id});
        let other = json!(farms.net.v6);
        r.by_create(
            ("loadbalancer", &base),
            ("vip_subnet_id", &other),
            |r, made| {
                let vip = made["vip_address"].as_str().unwrap();
                let farm = Farm {
                    v6: vip.contains(':'),
                    net: farms.net.clone(),
                    clients: farms.clients.clone(),
                    servers: farms.servers.clone(),
                };
                let to = vip.parse().unwrap();
                let seen = listening(r, &farm, made, |r| {
                    r.talks(&farm.clients[0], to, Sent::Tcp(80))
                });
                // Which one it is, chance says.
                let seen = seen.iter();
                seen.map(|line| line.replace(vip, "its address")).collect()
            },
        );
    }),
    entry("loadbalancer.vip_port_id", |r| {
        each(r, |r, farm| {
            let port = json!({
                "network_id": farm.net.id, "fixed_ips": [{"ip_address": farm.address(150)}],
            });
            let port = r.make("port", &port);
            let base = json!({"vip_subnet_id": farm.subnet()});
            r.by_create(
                ("loadbalancer", &base),
                ("vip_port_id", &json!(id(&port))),
                |r, made| listening(r, farm, made, |r| farm.seen(r, &[150], &[Sent::Tcp(80)])),
            );
        });
    }),
    entry("listener.loadbalancer_id", |r| {
        each(r, |r, farm| {
            let [one, other] = [100, 101].map(|at| farm.balancer(r, at));
            r.by_create(
                ("listener", &listens(&one)),
                ("loadbalancer_id", &json!(other)),
                |r, made| {
                    served(r, farm, made, |r| {
                        farm.seen(r, &[100, 101], &[Sent::Tcp(80)])
                    })
                },
            );
        });
    }),
    entry("listener.protocol", |r| {
        each(r, |r, farm| {
            let base = listens(&farm.balancer(r, 100));
            for protocol in ["UDP", "SCTP"] {
                r.by_create(
                    ("listener", &base),
                    ("protocol", &json!(protocol)),
                    |r, made| {
                        served(r, farm, made, |r| {
                            let all = [Sent::Tcp(80), Sent::Udp(80), Sent::Sctp(80)];
                            farm.seen(r, &[100], &all)
                        })
                    },
                );
            }
        });
    }),
    entry("listener.protocol_port", |r| {
        each(r, |r, farm| {
            let base = listens(&farm.balancer(r, 100));
            r.by_create(
                ("listener", &base),
                ("protocol_port", &json!(81)),
                |r, made| {
                    served(r, farm, made, |r| {
                        farm.seen(r, &[100], &[Sent::Tcp(80), Sent::Tcp(81)])
                    })
                },
            );
        });
    }),
    entry("listener.default_pool_id", |r| {
        each(r, |r, farm| {
            let balancer = farm.balancer(r, 100);
            let pool = r.make("pool", &pools("loadbalancer_id", &balancer));
            join(r, id(&pool), &farm.server(0));
            r.both(
                ("listener", &listens(&balancer)),
                ("default_pool_id", &json!(id(&pool))),
                |r, _| farm.seen(r, &[100], &[Sent::Tcp(80)]),
            );
        });
    }),
    entry("listener.admin_state_up", |r| {
        each(r, |r, farm| {
            let balancer = farm.balancer(r, 100);
            let pool = r.make("pool", &pools("loadbalancer_id", &balancer));
            join(r, id(&pool), &farm.server(0));
            let base = with(&listens(&balancer), &json!({"default_pool_id": id(&pool)}));
            r.both(
                ("listener", &base),
                ("admin_state_up", &json!(false)),
                |r, _| farm.seen(r, &[100], &[Sent::Tcp(80)]),
            );
        });
    }),
    entry("listener.allowed_cidrs", |r| {
        each(r, |r, farm| {
            let balancer = farm.balancer(r, 100);
            let pool = r.make("pool", &pools("loadbalancer_id", &balancer));
            join(r, id(&pool), &farm.server(0));
            let base = with(&listens(&balancer), &json!({"default_pool_id": id(&pool)}));
            // The first client is of it, the second is not.
            let own = json!([if farm.v6 {
                "fd00::b/128"
            } else {
                "10.0.0.11/32"
            }]);
            r.both(("listener", &base), ("allowed_cidrs", &own), |r, _| {
                farm.seen(r, &[100], &[Sent::Tcp(80)])
            });
        });
    }),
    entry("pool.listener_id", |r| {
        each(r, |r, farm| {
            let balancer = farm.balancer(r, 100);
            let listener = r.make("listener", &listens(&balancer));
            r.by_create(
                ("pool", &pools("loadbalancer_id", &balancer)),
                ("listener_id", &json!(id(&listener))),
                |r, made| {
                    join(r, id(made), &farm.server(0));
                    farm.seen(r, &[100], &[Sent::Tcp(80)])
                },
            );
        });
    }),
    entry("pool.loadbalancer_id", |r| {
        each(r, |r, farm| {
            let balancers = [100, 101].map(|at| farm.balancer(r, at));
            let listeners = balancers
                .clone()
                .map(|of| r.make("listener", &listens(&of)));
            r.by_create(
                ("pool", &pools("loadbalancer_id", &balancers[0])),
                ("loadbalancer_id", &json!(balancers[1])),
                |r, made| {
                    join(r, id(made), &farm.server(0));
                    offered(r, made, &listeners);
                    farm.seen(r, &[100, 101], &[Sent::Tcp(80)])
                },
            );
        });
    }),
    entry("pool.protocol", |r| {
        each(r, |r, farm| {
            let balancer = farm.balancer(r, 100);
            let listeners = ["TCP", "UDP"].map(|protocol| {
                let body = with(&listens(&balancer), &json!({"protocol": protocol}));
                r.make("listener", &body)
            });
            r.by_create(
                ("pool", &pools("loadbalancer_id", &balancer)),
                ("protocol", &json!("UDP")),
                |r, made| {
                    join(r, id(made), &farm.server(0));
                    offered(r, made, &listeners);
                    farm.seen(r, &[100], &[Sent::Tcp(80), Sent::Udp(80)])
                },
            );
        });
    }),
    entry("pool.admin_state_up", |r| {
        of_pool(r, "admin_state_up", &json!(false));
    }),
    entry("pool.lb_algorithm", |r| {
        of_pool(r, "lb_algorithm", &json!("SOURCE_IP"));
    }),
    entry("pool.session_persistence", |r| {
        of_pool(r, "session_persistence", &json!({"type": "SOURCE_IP"}));
    }),
    entry("member.address", |r| {
        let other = |farm: &Farm| json!(farm.servers[1].addr(farm.v6));
        of_member(r, "address", (&Value::Null, &other), false);
    }),
    entry("member.protocol_port", |r| {
        of_member(r, "protocol_port", (&Value::Null, &|_| json!(9090)), false);
    }),
    entry("member.weight", |r| {
        of_member(r, "weight", (&json!(1), &|_| json!(0)), true);
    }),
    entry("member.admin_state_up", |r| {
        of_member(r, "admin_state_up", (&json!(true), &|_| json!(false)), true);
    }),
    entry("member.backup", |r| {
        of_member(r, "backup", (&json!(false), &|_| json!(true)), true);
    }),
    entry("member.tags", |r| {
        let farm = Farm::new(r, false);
        let balancer = farm.balancer(r, 100);
        let pool = r.make("pool", &pools("loadbalancer_id", &balancer));
        let given = with(&farm.server(0), &json!({"tags": ["red"]}));
        let shown = |r: &mut Region, member: &str| {
            let shown = r.read(ADMIN.0, &member.replace("/v2.0/", ""));
            vec![format!("{}", shown["member"]["tags"])]
        };
        let made = |r: &mut Region, body: &Value| {
            let member = join(r, id(&pool), body);
            let seen = shown(r, &member);
            r.ok("DELETE", &member, &Value::Null);
            seen
        };
        r.differs(|r| made(r, &farm.server(0)), |r| made(r, &given));
        let member = join(r, id(&pool), &farm.server(0));
        let look = |r: &mut Region, tags: &Value| {
            r.ok("PUT", &member, &json!({"member": {"tags": tags}}));
            shown(r, &member)
        };
        r.differs(|r| look(r, &json!([])), |r| look(r, &json!(["blue"])));
    }),
    entry("member.name", |r| {
        let farm = Farm::new(r, false);
        let balancer = farm.balancer(r, 100);
        let pool = r.make("pool", &pools("loadbalancer_id", &balancer));
        let member = join(r, id(&pool), &farm.server(0));
        let found = members(id(&pool)).replace("/v2.0/", "") + "?name=chosen";
        let look = |r: &mut Region, name: &str| {
            r.ok("PUT", &member, &json!({"member": {"name": name}}));
            let found = r.read(ADMIN.0, &found);
            let rows = found["members"].as_array().unwrap().len();
            vec![format!("found {rows}")]
        };
        r.differs(|r| look(r, ""), |r| look(r, "chosen"));
    }),
];

/// A pool is offered to listeners, of which those that it does not fit refuse it.
fn offered(r: &mut Region, pool: &Value, listeners: &[Value]) {
    let taken = listeners.iter().filter(|listener| {
        let path = format!("/v2.0/lbaas/listeners/{}", id(listener));
        let body = json!({"listener": {"default_pool_id": id(pool)}});
        r.call(ADMIN.0, "PUT", &path, &body).0 == 200
    });
    assert_eq!(taken.count(), 1, "it fits one of them");
}
