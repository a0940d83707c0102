//! Which fabrics are there, and what may happen in them?

use net::testkit::any_frame;
use proptest::prelude::*;

use super::{ChainSpec, Far, Kind, NETWORKS, Nat, Op, PortSpec, RouterSpec, Rule, Scenario};

fn kind() -> impl Strategy<Value = Kind> {
    use Kind::{
        Ack, Dhcp, Dhcp6, Echo, Fragments, Large, Multicast, Other, Solicit, Tcp, Udp, UnknownMac,
        WhoHas, WhoHasNobody,
    };
    prop_oneof![
        4 => Just(Udp),
        4 => Just(Tcp),
        1 => Just(Ack),
        3 => Just(Echo),
        1 => Just(Other),
        1 => Just(Fragments),
        1 => Just(WhoHas),
        1 => Just(WhoHasNobody),
        1 => Just(Dhcp),
        1 => Just(Dhcp6),
        1 => Just(Solicit),
        1 => Just(Multicast),
        1 => Just(UnknownMac),
        1 => Just(Large),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    (any::<bool>(), any::<bool>(), 0usize..10, 0usize..5).prop_map(|(egress, v6, what, remote)| {
        Rule {
            egress,
            v6,
            what,
            remote,
        }
    })
}

fn routers() -> impl Strategy<Value = Vec<RouterSpec>> {
    let router = (
        0usize..2,
        any::<[bool; NETWORKS]>(),
        prop::collection::vec((0usize..8, 0usize..12, any::<bool>()), 0..4),
        0usize..12,
    );
    let router = router.prop_map(|(tenant, on, routes, down)| RouterSpec {
        tenant,
        on,
        routes,
        down,
    });
    prop::collection::vec(router, 0..5)
}

fn far() -> impl Strategy<Value = Far> {
    prop_oneof![
        8 => any::<usize>().prop_map(Far::Port),
        3 => (0..NETWORKS, 238u16..246).prop_map(|(k, n)| Far::Host(k, n)),
        1 => Just(Far::Virtual),
        2 => (0usize..6).prop_map(Far::Beyond),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let ttl = prop_oneof![4 => Just(64u8), 2 => 0u8..5, 1 => Just(255)];
    let firewall = prop::collection::vec((any::<bool>(), 0usize..6), 0..4);
    prop_oneof![
        8 => (any::<usize>(), any::<usize>(), kind(), 0u16..4, any::<bool>())
            .prop_map(|(a, b, k, n, v6)| Op::Send(a, b, k, n, v6)),
        8 => any::<usize>().prop_map(Op::Answer),
        8 => (any::<usize>(), far(), kind(), 0u16..4, any::<bool>(), ttl)
            .prop_map(|(a, to, k, n, v6, ttl)| Op::Route(a, to, k, n, v6, ttl)),
        1 => routers().prop_map(Op::Routers),
        1 => any::<usize>().prop_map(Op::Error),
        3 => (any::<usize>(), kind(), 0u16..4, any::<bool>())
            .prop_map(|(a, k, n, v6)| Op::Virtual(a, k, n, v6)),
        1 => (any::<usize>(), any::<usize>(), 0usize..8, any::<bool>())
            .prop_map(|(a, b, how, v6)| Op::Spoof(a, b, how, v6)),
        1 => (any::<usize>(), any_frame(), any::<bool>()).prop_map(|(a, f, own)| Op::Any(a, f, own)),
        1 => (any::<usize>(), prop::collection::vec(rule(), 0..6)).prop_map(|(g, r)| Op::Rules(g, r)),
        1 => (firewall, any::<bool>()).prop_map(|(r, d)| Op::Firewall(r, d)),
        1 => any::<usize>().prop_map(Op::Restart),
        1 => (any::<usize>(), 0usize..4).prop_map(|(p, policy)| Op::Qos(p, policy)),
        1 => (0usize..2, prop::option::of(0u8..64), 0u64..8).prop_map(|(p, mark, pace)| Op::Policy(p, mark, pace)),
    ]
}

/// Any fabric of up to three hosts, two tenants with the same addresses, routers among their networks, and up to `steps` things that happen
/// in it.
pub fn scenario(steps: usize) -> impl Strategy<Value = Scenario> {
    let port = (
        0usize..3,
        prop_oneof![4 => 0usize..2, 3 => 2usize..2 * NETWORKS],
        prop::collection::vec(0usize..3, 0..3),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
        0usize..6,
        prop::bool::weighted(0.3),
    );
    let port = port.prop_map(
        |(host, network, groups, open, pair, qos, carried)| PortSpec {
            host,
            network,
            groups,
            open,
            pair,
            qos,
            carried,
        },
    );
    let chain = (
        prop::collection::vec((any::<bool>(), 0usize..6), 0..4),
        prop::bool::weighted(0.2),
        0usize..4,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.3),
        prop_oneof![Just(Nat::None), Just(Nat::First), Just(Nat::Last)],
        prop::option::of(0usize..4),
    );
    let chain = chain.prop_map(
        |(firewall, default_deny, members, v6, udp, shaper, destination, nat, split)| ChainSpec {
            firewall,
            default_deny,
            members,
            v6,
            udp,
            shaper,
            destination,
            nat,
            split,
        },
    );
    (
        1usize..=3,
        prop::collection::vec(prop::collection::vec(rule(), 0..6), 3),
        prop::collection::vec(port, 2..8),
        routers(),
        prop::option::of(chain),
        prop::collection::vec(op(), 1..steps),
    )
        .prop_map(|(hosts, rules, ports, routers, chain, ops)| Scenario {
            hosts,
            rules,
            ports,
            routers,
            chain,
            ops,
        })
}

/// The same where a NAT hides who sends, and most of it is answered.
pub fn hidden(steps: usize) -> impl Strategy<Value = Scenario> {
    (scenario(steps), any::<[bool; 2]>()).prop_map(|(mut scenario, [last, firewalled])| {
        scenario.hosts = scenario.hosts.max(2);
        scenario.routers.truncate(3);
        let joins_all = RouterSpec {
            tenant: 0,
            on: [true; NETWORKS],
            routes: vec![],
            down: usize::MAX,
        };
        scenario.routers.insert(0, joins_all);
        for v6 in [false, true] {
            let open = Rule {
                egress: false,
                v6,
                what: 0,
                remote: 0,
            };
            scenario.rules[0].extend([
                open.clone(),
                Rule {
                    egress: true,
                    ..open
                },
            ]);
        }
        for (n, port) in scenario.ports.iter_mut().enumerate() {
            if n % 3 < 2 {
                port.network = [0, 2][n % 3] + port.network / NETWORKS * 2 * (n % 3);
                port.groups.insert(0, 0);
            }
            port.groups.sort_unstable();
            port.host += n;
        }
        let chain = scenario.chain.get_or_insert(ChainSpec {
            firewall: vec![],
            default_deny: false,
            members: 1,
            v6: false,
            udp: true,
            shaper: false,
            destination: false,
            nat: Nat::None,
            split: None,
        });
        if chain.nat == Nat::None {
            chain.nat = if last { Nat::Last } else { Nat::First };
        }
        chain.default_deny = false;
        if !(last && firewalled) {
            // Not only for receivers of the client's own project.
            chain.members &= !1;
        }
        if !firewalled {
            chain.firewall.clear();
        }
        let ops = std::mem::take(&mut scenario.ops).into_iter();
        let answered = ops.flat_map(|op| match op {
            Op::Send(a, b, kind, n, v6) => {
                let op = Op::Route(a, Far::Port(b), kind, n, v6, 64);
                vec![op.clone(), Op::Answer(5), op]
            }
            Op::Route(..) | Op::Virtual(..) => vec![op.clone(), Op::Answer(5), op],
            _ => vec![op],
        });
        scenario.ops = answered.collect();
        scenario
    })
}
