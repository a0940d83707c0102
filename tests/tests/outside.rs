//! Real hosts on a real wire to the internet: who answers for a gateway, and what the internet sees of tenants. Needs root; one at a time.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tests::{
    netns::{allowed, until},
    openstack::{Probe, Watch, serve},
    outside::{Rig, SERVER4, SERVER6, Seen, Spell, Tenant, Workload, longest_gap, spells},
};

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ping(to: &str) -> Probe {
    Probe::Ping(addr(to), None)
}

/// Who said something by the MAC address of a gateway, one after the other.
fn speakers(seen: &[Seen], gateway: &[IpAddr]) -> Vec<Spell> {
    let claims = seen.iter().filter_map(Seen::claims);
    let macs: Vec<_> = claims.filter(|(a, _)| gateway.contains(a)).collect();
    let mac = macs.first().unwrap().1;
    assert!(
        macs.iter().all(|(_, m)| *m == mac),
        "one MAC address: {macs:?}"
    );
    spells(seen, |one| one.frame.get(6..12) == Some(&mac.octets()[..]))
}

/// A gateway's host ends in each way; who has it then is another one, and never two at once.
fn ends(rig: &mut Rig, how: &str, host: &str) {
    match how {
        "killed" => rig.kill(host),
        "stopped" => rig.signal(host, "-STOP"),
        _ => rig.ip(host, "link set uplink down"),
    }
}

fn mends(rig: &mut Rig, how: &str, host: &str) {
    match how {
        "killed" => rig.start(host),
        "stopped" => rig.signal(host, "-CONT"),
        _ => rig.ip(host, "link set uplink up"),
    }
}

/// Lets a gateway's host end and come back; returns how long nobody could leave by it, and how long nobody answered for it.
fn fails_over(rig: &mut Rig, tenant: &Tenant, from: &Workload, how: &str) -> [Duration; 2] {
    let place = |host: &str| usize::from(host == "h2");
    let was = rig.gateway_at(tenant).unwrap();
    let watch = Watch::start(&from.namespace, ping(SERVER4));
    let far = Duration::from_secs(30);
    let begun = Instant::now();
    watch.settles(true, begun, far).unwrap();
    ends(rig, how, &was);
    let out = watch.settles(true, Instant::now(), far);
    let out = out.unwrap();
    rig.passes(&from.namespace, &ping(SERVER6));
    let now = rig.gateway_at(tenant).unwrap();
    assert_ne!(now, was);
    mends(rig, how, &was);
    // Until it is back for good, and longer than any lease: whoever is wrong about it would say so by now.
    until("the host is back", far, || {
        rig.api
            .get("agents")
            .as_array()
            .unwrap()
            .iter()
            .all(|a| a["alive"] == true)
    });
    let back = Instant::now();
    until("a while has passed", far, || {
        back.elapsed() > Duration::from_secs(3)
    });
    rig.passes(&from.namespace, &ping(SERVER4));
    let seen = rig.cable.since(begun);
    let all = speakers(&seen, &tenant.gateway);
    let ports: Vec<_> = all.iter().map(|spell| spell.port).collect();
    assert_eq!(
        ports,
        [place(&was), place(&now)],
        "{how}: one after the other, and neither again"
    );
    for (family, addr) in ["IPv4", "IPv6"].iter().zip(tenant.gateway) {
        let claimed = spells(&seen, |one| one.claims().is_some_and(|(a, _)| a == addr));
        let ports: Vec<_> = claimed.iter().map(|spell| spell.port).collect();
        assert_eq!(ports, [place(&was), place(&now)], "{family}");
    }
    [out, longest_gap(&all)]
}

#[test]
fn a_gateway_moves_when_its_host_ends_and_one_at_a_time_answers_for_it() {
    if !allowed() {
        return;
    }
    let mut rig = Rig::new("t-out");
    let tenant = rig.tenant(1);
    let a = rig.workload(&tenant, "a", 11, "h3");
    rig.cable.ask(&tenant.gateway);
    for probe in [ping(SERVER4), ping(SERVER6)] {
        rig.passes(&a.namespace, &probe);
    }
    let rounds = std::env::var("FAILOVERS").ok().and_then(|n| n.parse().ok());
    for _ in 0..rounds.unwrap_or(1) {
        for how in ["killed", "stopped", "cut off"] {
            let [out, silence] = fails_over(&mut rig, &tenant, &a, how);
            eprintln!("{how}: out again after {out:?}, nobody spoke for {silence:?}");
        }
    }
}

/// Two tenants with the same addresses inside.
struct Tenants {
    a: Tenant,
    b: Tenant,
    /// Workloads, how they look from outside by IPv4 and by IPv6.
    all: Vec<(Workload, IpAddr, IpAddr)>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a workload or the internet may try at an address, and its protocol on the wire.
fn each(to: &str, tcp: u16) -> [(Probe, u8); 3] {
    let to = addr(to);
    let icmp = if to.is_ipv6() { 58 } else { 1 };
    [
        (Probe::Ping(to, None), icmp),
        (Probe::Tcp((to, tcp).into()), TCP),
        (Probe::Udp((to, 53).into()), UDP),
    ]
}

impl Tenants {
    /// Workloads 0 to 2 are the first tenant's, 3 to 5 the second's. 1 and 4 have addresses outside at their own host, 2 at the gateway's. Nobody of the
    /// first tenant has the address of 5.
    fn new(rig: &Rig) -> Self {
        let (a, b) = (rig.tenant(1), rig.tenant(2));
        let places = [
            (&a, "a1", 11, "h3", None),
            (&a, "a2", 12, "h1", Some(50)),
            (&a, "a3", 14, "h3", Some(51)),
            (&b, "b1", 11, "h3", None),
            (&b, "b2", 12, "h2", Some(60)),
            (&b, "b3", 13, "h3", None),
        ];
        let all = places.map(|(tenant, name, n, host, floating)| {
            let workload = rig.workload(tenant, name, n, host);
            let shown = floating.map(|n| rig.floating(tenant, &workload, n));
            let own = format!(
                "2001:db8:{}::{n:x}",
                if name.starts_with('a') { 1 } else { 2 }
            );
            (workload, shown.unwrap_or(tenant.gateway[0]), addr(&own))
        });
        Self {
            a,
            b,
            all: all.into(),
        }
    }

    /// The internet sees each workload as it is to be seen, and as nobody else.
    fn leave(&self, rig: &Rig) {
        for (from, v4, v6) in &self.all {
            for (server, shown) in [(SERVER4, v4), (SERVER6, v6)] {
                for (probe, protocol) in each(server, 80) {
                    let since = Instant::now();
                    rig.passes(&from.namespace, &probe);
                    let sources = rig.sources(since, addr(server), protocol);
                    assert_eq!(
                        sources,
                        [*shown],
                        "{probe:?} from {}",
                        from.namespace.name()
                    );
                }
            }
        }
    }

    /// The internet reaches who has an address outside, each by its own, and nobody by another's.
    fn enter(&self, rig: &Rig) {
        let floating = [
            ("203.0.113.50", 81),
            ("203.0.113.51", 82),
            ("203.0.113.60", 84),
        ];
        for (to, own) in floating {
            for (probe, _) in each(to, own) {
                rig.passes(&rig.internet, &probe);
            }
            for (_, other) in floating.iter().filter(|(_, port)| *port != own) {
                rig.fails(&rig.internet, &Probe::Tcp((addr(to), *other).into()));
            }
        }
        // IPv6 is not hidden.
        for (n, (_, _, own)) in (80..).zip(&self.all) {
            for (probe, _) in each(&own.to_string(), n) {
                rig.passes(&rig.internet, &probe);
            }
        }
        for gateway in self.a.gateway.iter().chain(&self.b.gateway) {
            rig.passes(&rig.internet, &Probe::Ping(*gateway, None));
        }
        // Whoever knows where they are does not get in to what is hidden.
        rig.internet
            .ip(&format!("route add 10.0.0.0/24 via {}", self.b.gateway[0]));
        for (probe, _) in each("10.0.0.13", 85) {
            rig.fails(&rig.internet, &probe);
        }
        rig.internet.ip("route del 10.0.0.0/24");
    }

    /// The tenants do not meet: where the other one alone has an address, nobody answers; and where both have it, it is one's own.
    fn meet(&self, rig: &Rig) {
        let from = &self.all[0].0.namespace;
        for to in ["10.0.0.13", "fd00:1::d"] {
            for (probe, _) in each(to, 85) {
                rig.fails(from, &probe);
            }
        }
        for (who, own, other) in [(0, 81, 84), (3, 84, 81)] {
            for to in ["10.0.0.12", "fd00:1::c"] {
                let from = &self.all[who].0.namespace;
                rig.passes(from, &Probe::Tcp((addr(to), own).into()));
                rig.fails(from, &Probe::Tcp((addr(to), other).into()));
            }
        }
    }

    fn check(&self, rig: &Rig) {
        let begun = Instant::now();
        self.leave(rig);
        self.enter(rig);
        self.meet(rig);
        // What is inside is never on the wire: nobody is asked for it, and no packet is from it or to it.
        let inside = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => addr.octets()[0] == 10,
            IpAddr::V6(addr) => addr.octets()[0] == 0xfd,
        };
        let ours = rig.cable.since(begun).into_iter().filter(|s| s.port != 2);
        for seen in ours.collect::<Vec<_>>() {
            let ends = seen.addresses().map(|(from, to, _)| [from, to]);
            let ends = ends
                .into_iter()
                .flatten()
                .chain(seen.claims().map(|(a, _)| a));
            for end in ends {
                assert!(!inside(end), "{end}: {seen:?}");
            }
        }
    }
}

#[test]
fn the_internet_sees_tenants_as_they_are_and_apart() {
    if !allowed() {
        return;
    }
    let mut rig = Rig::new("t-door");
    let tenants = Tenants::new(&rig);
    let servers: Vec<_> = (80..)
        .zip(&tenants.all)
        .map(|(port, (workload, ..))| serve(&workload.namespace, &[port, 53]))
        .collect();
    tenants.check(&rig);
    // The gateway is elsewhere.
    let was = rig.gateway_at(&tenants.a).unwrap();
    rig.kill(&was);
    until("the gateway is elsewhere", Duration::from_secs(20), || {
        rig.gateway_at(&tenants.a).is_some_and(|now| now != was)
    });
    rig.start(&was);
    tenants.check(&rig);
    // The controller is another process.
    rig.kill("controller");
    rig.start("controller");
    tenants.check(&rig);
    drop(servers);
}
