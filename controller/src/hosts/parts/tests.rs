use super::*;
use proptest::prelude::*;
use uuid::Uuid;

const LIMIT: u64 = 20_000_000;
const WAY: OneWay = OneWay {
    node: Uuid::from_u128(7),
    direction: Direction::Egress,
};

fn wants() -> impl Strategy<Value = Vec<Want>> {
    let want = (0..=2 * LIMIT, any::<bool>());
    let want = want.prop_map(|(used_bps, waits)| Want { used_bps, waits });
    prop::collection::vec(want, 1..40)
}

proptest! {
    #[test]
    fn a_limit_is_divided_fairly_and_whole(wants in wants(), limit in 1..=LIMIT) {
        let parts = divide(limit, &wants);
        let count = wants.len() as u64;
        let sum: u64 = parts.iter().sum();
        prop_assert!(sum <= limit, "never above");
        prop_assert!(sum + 2 * count > limit, "but for what does not divide, all of it is given");
        for (want, part) in wants.iter().zip(&parts) {
            prop_assert!(!want.waits || *part >= limit / count, "who waits has an even part");
            prop_assert!(*part >= want.used_bps.min(limit / count), "and so has who uses it");
        }
        // What is not used while somebody waits is the room of those who do not.
        if wants.iter().any(|want| want.waits) {
            let used = wants.iter().zip(&parts).map(|(want, part)| {
                if want.waits { *part } else { want.used_bps.min(*part) }
            });
            prop_assert!(used.sum::<u64>() + limit / ROOM + 2 * count >= limit);
        }
    }
}

/// A host that follows what it is told, or does not.
struct Host {
    name: HostName,
    conn: Conn,
    demand: u64,
    part: u64,
    alone: u64,
    heard: Option<Now>,
    /// What it was told and does not follow yet.
    mail: Option<wire::Parts>,
    reaches: bool,
    gone: bool,
}

impl Host {
    fn new(n: u64, demand: u64) -> Self {
        Self {
            name: HostName::from(format!("h{n}").as_str()),
            conn: Conn(n),
            demand,
            part: untold_bps(LIMIT),
            alone: untold_bps(LIMIT),
            heard: None,
            mail: None,
            reaches: true,
            gone: false,
        }
    }

    fn has(&self, now: Now) -> u64 {
        let silent = self.heard.map_or(Duration::ZERO, |heard| now.since(heard));
        match silent.as_millis() {
            0..3000 => self.part,
            3000..6000 => self.part.min(self.alone),
            _ => self.alone,
        }
    }

    fn uses(&self, now: Now) -> u64 {
        if self.gone {
            0
        } else {
            self.demand.min(self.has(now))
        }
    }

    fn turn(&mut self, parts: &mut Parts, now: Now) {
        if let Some(mail) = self.mail.take() {
            self.heard = Some(Now::from_nanos(mail.clock));
            (self.part, self.alone) = (mail.parts[0].part_bps, mail.parts[0].alone_bps);
        }
        if self.gone || !self.reaches {
            return;
        }
        let used = wire::Use {
            node: WAY.node.to_string(),
            ingress: false,
            used_bps: self.uses(now),
            waits: self.demand > self.has(now),
            part_bps: self.has(now),
            alone_bps: self.alone,
        };
        let uses = wire::Uses {
            clock: now.nanos(),
            follows: self.heard.map_or(0, Now::nanos),
            uses: vec![used],
        };
        self.mail = parts.answer((&self.name, self.conn), &uses, now);
    }
}

struct Region {
    parts: Parts,
    hosts: Vec<Host>,
    millis: u64,
}

impl Region {
    fn new(demands: &[u64]) -> Self {
        let hosts: Vec<_> = (0..).zip(demands).map(|(n, d)| Host::new(n, *d)).collect();
        let mut parts = Parts::new(Now::ZERO);
        for host in &hosts {
            parts.follow(&host.name, &[(WAY, LIMIT)].into());
        }
        Self {
            parts,
            hosts,
            millis: 10_000,
        }
    }

    fn now(&self) -> Now {
        Now::from_nanos(self.millis * 1_000_000)
    }

    fn sum(&self) -> u64 {
        self.hosts.iter().map(|host| host.uses(self.now())).sum()
    }

    /// Hosts speak one after the other, each five times a second; returns what the least was that all let through at any moment.
    fn run(&mut self, millis: u64) -> u64 {
        let mut least = u64::MAX;
        for _ in 0..millis / 10 {
            self.millis += 10;
            let now = self.now();
            for (n, host) in (0u64..).zip(&mut self.hosts) {
                if self.millis % 200 == n * 30 % 200 {
                    host.turn(&mut self.parts, now);
                }
            }
            let allowed: u64 = self
                .hosts
                .iter()
                .filter(|host| !host.gone)
                .map(|host| host.has(now))
                .sum();
            assert!(allowed <= LIMIT, "{allowed} at {}", self.millis);
            least = least.min(self.sum());
        }
        least
    }
}

#[test]
fn three_hosts_have_one_limit_whatever_they_want() {
    let mut region = Region::new(&[LIMIT, 0, 0]);
    for demands in [
        [LIMIT, 0, 0],
        [LIMIT, LIMIT, 0],
        [0, LIMIT, 3_000_000],
        [LIMIT, LIMIT, LIMIT],
        [1_000_000, 500_000, LIMIT],
        [9_000_000, 9_000_000, 9_000_000],
    ] {
        for (host, demand) in region.hosts.iter_mut().zip(demands) {
            host.demand = demand;
        }
        region.run(2000);
        let least = region.run(3000);
        assert!(least >= LIMIT * 95 / 100, "{demands:?}: {least}");
        let even = LIMIT / 3;
        for host in &region.hosts {
            assert!(
                host.uses(region.now()) >= host.demand.min(even) * 99 / 100,
                "{demands:?}"
            );
        }
    }
}

#[test]
fn without_a_controller_the_sum_holds_and_each_has_an_even_part_in_the_end() {
    let mut region = Region::new(&[LIMIT, 0, 0]);
    region.run(3000);
    for host in &mut region.hosts {
        (host.reaches, host.demand) = (false, LIMIT);
    }
    region.run(8000);
    for host in &region.hosts {
        assert_eq!(host.uses(region.now()), LIMIT / 3);
    }
    // Another controller, which knows nothing but what it hears, exceeds it no more.
    region.parts = Parts::new(region.now());
    for host in &region.hosts {
        region.parts.follow(&host.name, &[(WAY, LIMIT)].into());
    }
    for (n, host) in (0..).zip(&mut region.hosts) {
        (host.reaches, host.heard, host.conn) = (true, None, Conn(10 + n));
        host.part = host.alone;
    }
    let least = region.run(5000);
    assert!(least >= LIMIT * 95 / 100, "{least}");
}

#[test]
fn one_that_hears_nothing_is_left_its_even_part_and_the_rest_is_the_others() {
    let mut region = Region::new(&[LIMIT, LIMIT / 50, LIMIT / 50]);
    region.run(3000);
    // The one that had nearly all is cut off, and goes on sending.
    region.hosts[0].reaches = false;
    region.hosts[1].demand = LIMIT;
    region.run(8000);
    assert!(region.run(2000) >= LIMIT * 95 / 100);
    assert_eq!(region.hosts[0].uses(region.now()), LIMIT / 3);
    // It is gone, and its ports are made elsewhere: all of it is the others'.
    region.hosts[0].gone = true;
    let gone = region.hosts[0].name.clone();
    region.parts.follow(&gone, &BTreeMap::new());
    region.run(2000);
    assert!(region.run(2000) >= LIMIT * 95 / 100);
}

#[test]
fn who_follows_nothing_is_told_no_more_and_keeps_others_from_what_it_was_told() {
    let mut region = Region::new(&[LIMIT, LIMIT]);
    let name = region.hosts[0].name.clone();
    let mut told = 0;
    for n in 0..40u64 {
        let used = wire::Use {
            node: WAY.node.to_string(),
            ..wire::Use::default()
        };
        let uses = wire::Uses {
            clock: 1 + n,
            follows: 0,
            uses: vec![used],
        };
        let now = Now::from_nanos(10_000_000_000 + n);
        told += usize::from(region.parts.answer((&name, Conn(0)), &uses, now).is_some());
    }
    assert_eq!(told, UNFOLLOWED);
    // Of what is not of its config a host is not heard.
    let stranger = HostName::from("nobody");
    let uses = wire::Uses {
        clock: 1,
        follows: 0,
        uses: vec![wire::Use {
            node: WAY.node.to_string(),
            ..wire::Use::default()
        }],
    };
    let now = Now::from_nanos(11_000_000_000);
    assert_eq!(region.parts.answer((&stranger, Conn(9)), &uses, now), None);
}
