//! A region in one process: simulated hosts, virtual time, streams that break.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use hostconfig::{
    Digest, Generation, HostConfig, Keyed, SectionHash, SectionKey,
    wire::{self, from_controller, from_host},
};
use net::Now;
use proptest::prelude::*;
use uuid::Uuid;

use super::{
    Placement,
    proxies::Seating,
    publish::{Conn, Effect, Event, Publisher, Reading},
    session::HangUp,
};
use crate::{
    compile::{
        intent::{Change, Host, HostName, Intent, Object, ObjectId},
        tests as kit,
    },
    resources::lbaas::health_monitor::Verdict,
    status::StatusBoard,
    time::Seconds,
};

mod appliances;
mod failover;
mod members;
mod proxies;

const INCARNATION: Uuid = Uuid::from_u128(1);

/// A host that does what hosts must do, and no more.
#[expect(clippy::struct_excessive_bools, reason = "what a test may break")]
struct SimHost {
    name: HostName,
    certificate: String,
    vtep: String,
    config: HostConfig,
    conn: Option<Conn>,
    down: VecDeque<wire::FromController>,
    up: VecDeque<wire::FromHost>,
    upserts: usize,
    updates: usize,
    answers: bool,
    /// The physical networks that it names; `None`: those of its record.
    wires: Option<Vec<String>>,
    /// The zone that it says, if not its record's.
    zone: Option<String>,
    /// When it last heard anything.
    heard: Now,
    /// How fast its clock goes, in thousandths.
    pace: u64,
    /// By its clock: the last moment of which it knows that the controller heard it.
    word: u64,
    /// Its version has no clock: it counts from when it reads.
    reader: bool,
    /// Nothing reaches it before this time, and nothing of it the controller before that.
    held: [Now; 2],
    /// What it is sent, or what it says, does not arrive.
    deaf: bool,
    mute: bool,
    /// Names nothing in its hello, though it holds something.
    distrusts: bool,
}

fn from_host(message: from_host::Message) -> wire::FromHost {
    wire::FromHost {
        message: Some(message),
    }
}

impl SimHost {
    fn new(n: u8) -> Self {
        Self {
            name: kit::host_name(n),
            certificate: format!("certificate of h{n}"),
            vtep: format!("192.0.2.{n}"),
            config: HostConfig::default(),
            conn: None,
            down: VecDeque::new(),
            up: VecDeque::new(),
            upserts: 0,
            updates: 0,
            answers: true,
            wires: None,
            zone: None,
            heard: Now::ZERO,
            pace: 1000,
            word: 0,
            reader: false,
            held: [Now::ZERO; 2],
            deaf: false,
            mute: false,
            distrusts: false,
        }
    }

    /// What its own clock shows.
    fn clock(&self, now: Now) -> u64 {
        now.nanos() / 1000 * self.pace
    }

    /// For how long, by its own clock, has it not heard from its controller?
    fn alone_for(&self, now: Now) -> Duration {
        let since = if self.reader {
            self.heard.nanos() / 1000 * self.pace
        } else {
            self.word
        };
        Duration::from_nanos(self.clock(now).saturating_sub(since))
    }

    fn hello(&mut self, wires: Vec<String>, (zone, proxies): (String, bool), now: Now) {
        let sections = self
            .config
            .sections
            .values()
            .map(|section| wire::SectionHash {
                key: section.key().to_string(),
                hash: section.hash().0.to_vec(),
            });
        let sections: Vec<_> = sections.collect();
        let hello = wire::Hello {
            incarnation: self.config.incarnation.to_string(),
            generation: self.config.generation.get(),
            sections: if self.distrusts { vec![] } else { sections },
            vtep: self.vtep.clone(),
            version: "sim".to_owned(),
            underlay_mtu: 1600,
            physical_networks: wires,
            clock: (!self.reader).then(|| self.clock(now)),
            availability_zone: zone,
            proxies,
        };
        self.up
            .push_back(from_host(from_host::Message::Hello(hello)));
        self.report(None);
    }

    /// Of all ports, or of those that an update brought.
    fn report(&mut self, only: Option<&[SectionKey]>) {
        let ports = self.config.sections.keys().filter_map(|key| {
            let SectionKey::Port(id) = key else {
                return None;
            };
            only.is_none_or(|only| only.contains(key)).then_some(*id)
        });
        let states = ports.map(|id| wire::PortState {
            port: id.to_string(),
            attached: true,
            active: true,
            reason: String::new(),
        });
        let report = wire::Report {
            ports: states.collect(),
            meters: Vec::new(),
            verdicts: Vec::new(),
            balanced: Vec::new(),
        };
        if only.is_none() || !report.ports.is_empty() {
            self.up
                .push_back(from_host(from_host::Message::Report(report)));
        }
    }

    fn receive(&mut self, message: wire::FromController, now: Now) {
        self.heard = now;
        match message.message.unwrap() {
            from_controller::Message::Ping(ping) => {
                let word = ping.heard.unwrap();
                assert!(word <= self.clock(now), "it never showed that");
                self.word = self.word.max(word);
                let pong = wire::Pong {
                    nonce: ping.nonce,
                    clock: (!self.reader).then(|| self.clock(now)),
                };
                self.up.push_back(from_host(from_host::Message::Pong(pong)));
            }
            from_controller::Message::Update(update) => self.apply(update),
            from_controller::Message::Parts(_) => {}
        }
    }

    fn apply(&mut self, update: wire::Update) {
        let incarnation: Uuid = update.incarnation.parse().unwrap();
        let older = update.generation < self.config.generation.get();
        assert!(
            !(incarnation == self.config.incarnation && older),
            "an older generation was sent"
        );
        self.updates += 1;
        if update.whole {
            self.config.sections.clear();
        }
        let mut brought = Vec::new();
        for section in update.upserts {
            let hash = SectionHash(section.hash.try_into().unwrap());
            let keyed = Keyed::decode(section.key.parse().unwrap(), section.body, hash).unwrap();
            brought.push(keyed.key());
            self.config.insert(Arc::new(keyed));
            self.upserts += 1;
        }
        let mut left = Vec::new();
        for key in update.removals {
            let key: SectionKey = key.parse().unwrap();
            self.config.sections.remove(&key);
            if let SectionKey::Port(id) = key {
                left.push(id);
            }
        }
        self.config.incarnation = incarnation;
        self.config.generation = Generation(update.generation);
        let digest = self.config.digest();
        assert_eq!(hostconfig::check::check(&self.config), vec![]);
        if !self.answers {
            return;
        }
        self.up
            .push_back(from_host(from_host::Message::Ack(wire::Ack {
                generation: update.generation,
                digest: digest.0.to_vec(),
                complaints: Vec::new(),
            })));
        assert_eq!(Digest(update.digest.try_into().unwrap()), digest);
        self.report(Some(&brought));
        if left.is_empty() {
            return;
        }
        let gone = left.into_iter().map(|id| wire::PortState {
            port: id.to_string(),
            attached: false,
            active: false,
            reason: "no longer on this host".to_owned(),
        });
        let report = wire::Report {
            ports: gone.collect(),
            meters: Vec::new(),
            verdicts: Vec::new(),
            balanced: Vec::new(),
        };
        self.up
            .push_back(from_host(from_host::Message::Report(report)));
    }
}

struct Region {
    publisher: Publisher,
    board: Arc<StatusBoard>,
    /// What the store holds.
    store: Intent,
    generation: u64,
    hosts: BTreeMap<HostName, SimHost>,
    now: Now,
    conns: u64,
    hung_up: Vec<HangUp>,
    placed: Vec<Placement>,
    /// What was to be noted of members.
    judged: Vec<Verdict>,
    /// What was to be noted of proxies, as it is noted.
    seated: Vec<Seating>,
    /// Placements that the store has not written yet, where it is slow.
    writes: Option<Vec<Placement>>,
    /// Routers whose gateways one host at a time answers for.
    exact: u8,
}

impl Region {
    fn new(objects: Vec<Object>, hosts: impl IntoIterator<Item = u8>) -> Self {
        let mut store = Intent::default();
        for object in &objects {
            store.apply(&Change::Put(object.clone()));
        }
        let board = Arc::new(StatusBoard::default());
        let now = Now::from_nanos(1_000_000_000_000);
        let at = Reading {
            now,
            wall: Seconds::new(0),
        };
        let publisher = Publisher::new(INCARNATION, objects, Generation(1), Arc::clone(&board), at);
        let hosts = hosts.into_iter().map(SimHost::new);
        Self {
            publisher,
            board,
            store,
            generation: 1,
            hosts: hosts.map(|host| (host.name.clone(), host)).collect(),
            now,
            conns: 0,
            hung_up: Vec::new(),
            placed: Vec::new(),
            judged: Vec::new(),
            seated: Vec::new(),
            writes: None,
            exact: 0,
        }
    }

    /// The controller's process is another one now.
    fn restart(&mut self, incarnation: Uuid, generation: u64) {
        let objects = self
            .store
            .ids()
            .into_iter()
            .filter_map(|id| self.store.get(id));
        self.board = Arc::new(StatusBoard::default());
        self.generation = generation;
        self.publisher = Publisher::new(
            incarnation,
            objects.collect(),
            Generation(generation),
            Arc::clone(&self.board),
            Reading {
                now: self.now,
                wall: Seconds::new(0),
            },
        );
        for host in self.hosts.values_mut() {
            host.conn = None;
            host.down.clear();
            host.up.clear();
        }
    }

    fn on(&mut self, event: Event) {
        let at = Reading {
            now: self.now,
            wall: Seconds::new(self.now.nanos() / 1_000_000_000),
        };
        let (mut places, mut wired) = (Vec::new(), Vec::new());
        let (mut seats, mut lost) = (Vec::new(), Vec::new());
        for effect in self.publisher.on(event, at) {
            match effect {
                Effect::Send(conn, message) => {
                    if let Some(host) = self.hosts.values_mut().find(|h| h.conn == Some(conn)) {
                        host.down.push_back(message);
                    }
                }
                Effect::HangUp(conn, reason) => {
                    self.hung_up.push(reason);
                    if let Some(host) = self.hosts.values_mut().find(|h| h.conn == Some(conn)) {
                        host.conn = None;
                        host.down.clear();
                        host.up.clear();
                    }
                }
                Effect::Place(placement) => places.push(placement),
                Effect::Seat(seating) => seats.push(seating),
                Effect::Site(id, site) => wired.push((id, site)),
                Effect::Vtep(..) => panic!("the records have the hosts' addresses"),
                Effect::Judge(verdicts) => self.judged.extend(verdicts),
                Effect::Lost(news) => lost.push(news),
            }
        }
        for (id, site) in wired {
            let Some(Object::Host(host)) = self.store.get(ObjectId::Host(id)) else {
                panic!("a host that is connected is there");
            };
            let host = Host {
                wires: site.physical_networks,
                zone: site.availability_zone,
                proxies: site.proxies,
                ..Host::clone(&host)
            };
            self.commit(kit::put([Object::Host(Arc::new(host))]));
        }
        for news in lost {
            let Some(Object::Host(host)) = self.store.get(ObjectId::Host(news.host)) else {
                panic!("a host of appliances is there");
            };
            let host = Host {
                lost: news.lost,
                ..Host::clone(&host)
            };
            self.commit(kit::put([Object::Host(Arc::new(host))]));
        }
        for placement in places {
            match &mut self.writes {
                Some(writes) => writes.push(placement),
                None => self.place(placement),
            }
        }
        for seating in seats {
            self.seat(seating);
        }
        self.assert_exact();
    }

    fn commit(&mut self, changes: Vec<Change>) {
        for change in &changes {
            self.store.apply(change);
        }
        self.generation += 1;
        self.on(Event::Commit(changes, Generation(self.generation)));
    }

    fn connect(&mut self, name: &HostName) {
        self.conns += 1;
        let conn = Conn(self.conns);
        let now = self.now;
        let host = self.hosts.get_mut(name).unwrap();
        host.conn = Some(conn);
        host.down.clear();
        host.up.clear();
        let record = self.store.host(name);
        let wires = record
            .iter()
            .flat_map(|host| host.wires.iter().cloned())
            .collect();
        let zone = record.map(|host| host.zone.clone()).unwrap_or_default();
        let zone = host.zone.clone().unwrap_or(zone);
        let proxies = record.is_some_and(|host| host.proxies);
        host.hello(host.wires.clone().unwrap_or(wires), (zone, proxies), now);
        let (name, certificate) = (host.name.clone(), host.certificate.clone());
        self.on(Event::Connected(conn, name, certificate));
    }

    /// The stream breaks; what was on the way is lost.
    fn cut(&mut self, name: &HostName) {
        let host = self.hosts.get_mut(name).unwrap();
        host.down.clear();
        host.up.clear();
        if let Some(conn) = host.conn.take() {
            self.on(Event::Closed(conn));
        }
    }

    /// One message of one host, if there is any.
    fn deliver(&mut self, name: &HostName) -> bool {
        let now = self.now;
        let host = self.hosts.get_mut(name).unwrap();
        if !host.deaf
            && host.held[0] <= now
            && let Some(message) = host.down.pop_front()
        {
            host.receive(message, now);
            if host.conn.is_none() {
                host.up.clear();
            }
            self.assert_exact();
            return true;
        }
        if host.mute || host.held[1] > now {
            return false;
        }
        let (Some(conn), Some(message)) = (host.conn, host.up.pop_front()) else {
            return false;
        };
        self.on(Event::Heard(conn, message));
        true
    }

    fn deliver_all(&mut self) {
        let names: Vec<HostName> = self.hosts.keys().cloned().collect();
        loop {
            let moved = names.iter().filter(|name| self.deliver(name)).count();
            if moved == 0 {
                return;
            }
        }
    }

    fn connect_all(&mut self) {
        let names: Vec<HostName> = self.hosts.keys().cloned().collect();
        for name in names {
            if self.hosts[&name].conn.is_none() {
                self.connect(&name);
            }
        }
        self.deliver_all();
    }

    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_secs(1);
            self.on(Event::Tick);
            self.deliver_all();
        }
    }

    fn is_active(&self, n: u8, host: u8) -> bool {
        let port = kit::id::<net::ids::kind::Port>(n).uuid();
        self.board
            .is_port_realised(port, kit::id::<net::ids::kind::Host>(host).uuid())
    }

    fn assert_converged(&self) {
        for (name, host) in &self.hosts {
            let wanted = self.publisher.compiler().config(name).unwrap();
            assert_eq!(host.config.digest(), wanted.digest(), "{name}");
            for port in self.store.ports_at(name) {
                let id = self.store.host(name).unwrap().id;
                let realised = self
                    .board
                    .is_port_realised(port.section.id.uuid(), id.uuid());
                assert!(realised, "port {} on {name}", port.section.id);
            }
        }
    }
}

/// Hosts `0..hosts`, three networks, `ports` ports in two groups of which one follows the other.
fn world(hosts: u8, ports: u8) -> Vec<Object> {
    let mut objects: Vec<Object> = (0..hosts).map(|n| kit::host(n, true, false)).collect();
    objects.extend((0..3).map(|n| kit::network(n, "net")));
    objects.extend((0..2).map(|n| kit::group(n, true)));
    objects.push(kit::router(0, true, &[]));
    objects.push(kit::interface(100, 0, 0));
    objects.push(kit::rule(0, 0, hostconfig::group::Remote::Set(kit::id(1))));
    objects.extend((0..ports).map(|n| kit::port(n, n % 3, Some(n % hosts), &[n % 2], 200)));
    objects
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn byte(&mut self, below: u8) -> u8 {
        u8::try_from(self.roll(u64::from(below))).unwrap()
    }
}

fn storm(seed: u64, hosts: u8, ports: u8, steps: usize) {
    let mut dice = Dice(seed | 1);
    let mut region = Region::new(world(hosts, ports), 0..hosts);
    for _ in 0..steps {
        let name = kit::host_name(dice.byte(hosts));
        match dice.roll(16) {
            0 => region.cut(&name),
            1 if region.hosts[&name].conn.is_none() => region.connect(&name),
            2..=4 => {
                let n = dice.byte(ports);
                let host = (dice.roll(4) > 0).then(|| dice.byte(hosts));
                let change = if dice.roll(5) == 0 {
                    Change::Gone(ObjectId::Port(kit::id(n)))
                } else {
                    Change::Put(kit::port(n, dice.byte(3), host, &[dice.byte(2)], 200))
                };
                region.commit(vec![change]);
            }
            6 => {
                // A router that is attached here, or there, or not at all.
                let n = 100 + dice.byte(6);
                let change = match dice.roll(4) {
                    0 => Change::Gone(ObjectId::Port(kit::id(n))),
                    1 => Change::Gone(ObjectId::Router(kit::id(n % 2))),
                    2 => Change::Put(kit::router(n % 2, dice.roll(2) == 0, &[])),
                    _ => Change::Put(kit::interface(n, dice.byte(3), n % 2)),
                };
                region.commit(vec![change]);
            }
            5 => {
                region.now = region.now + Duration::from_secs(1);
                region.on(Event::Tick);
            }
            _ => {
                region.deliver(&name);
            }
        }
    }
    region.connect_all();
    region.deliver_all();
    region.assert_converged();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn broken_streams_and_changes_in_any_order_converge(seed in any::<u64>()) {
        storm(seed, 6, 20, 600);
    }
}

#[test]
fn a_hundred_hosts_converge() {
    storm(7, 100, 200, 6000);
}

#[test]
fn a_restarted_controller_sends_no_section_again() {
    let mut region = Region::new(world(5, 20), 0..5);
    region.connect_all();
    region.assert_converged();
    let generation = region.generation;
    region.restart(INCARNATION, generation);
    assert!(
        !region.is_active(0, 0),
        "nobody has proved it to this process"
    );
    for host in region.hosts.values_mut() {
        host.upserts = 0;
        host.updates = 0;
    }
    region.connect_all();
    region.assert_converged();
    for host in region.hosts.values() {
        assert_eq!((host.upserts, host.updates), (0, 1), "{}", host.name);
    }
}

#[test]
fn a_host_that_comes_back_hears_only_what_changed() {
    let mut region = Region::new(world(5, 20), 0..5);
    region.connect_all();
    let name = kit::host_name(0);
    region.cut(&name);
    region.commit(kit::put([kit::port(0, 0, Some(0), &[1], 200)]));
    region.hosts.get_mut(&name).unwrap().upserts = 0;
    region.connect_all();
    region.assert_converged();
    // The port and the set of the group that it joined, which nobody else there had.
    assert!(
        region.hosts[&name].upserts <= 3,
        "{}",
        region.hosts[&name].upserts
    );
}

#[test]
fn commits_while_a_host_is_slow_become_one_update() {
    let mut region = Region::new(world(2, 6), 0..2);
    region.connect_all();
    let name = kit::host_name(0);
    region.hosts.get_mut(&name).unwrap().updates = 0;
    for n in 0..50u8 {
        region.commit(kit::put([kit::port(0, 0, Some(0), &[n % 2], 200)]));
    }
    region.deliver_all();
    region.assert_converged();
    assert!(
        region.hosts[&name].updates <= 6,
        "{}",
        region.hosts[&name].updates
    );
}

#[test]
fn a_port_that_leaves_and_comes_back_unnoticed_is_active_again() {
    let mut region = Region::new(world(2, 6), 0..2);
    region.connect_all();
    // Two updates are under way: what follows is coalesced to nothing.
    for n in 0..3 {
        region.commit(kit::put([kit::network(0, ["a", "b", "c"][n])]));
    }
    region.commit(kit::put([kit::port(0, 0, None, &[0], 200)]));
    assert!(!region.is_active(0, 0));
    region.commit(kit::put([kit::port(0, 0, Some(0), &[0], 200)]));
    region.deliver_all();
    region.assert_converged();
    // And noticed: it is not active on what was said before.
    region.commit(kit::put([kit::port(0, 0, None, &[0], 200)]));
    region.deliver_all();
    region.commit(kit::put([kit::port(0, 0, Some(0), &[0], 200)]));
    assert!(!region.is_active(0, 0));
    region.deliver_all();
    region.assert_converged();
}

/// Once in some hundred seeds of the storm.
#[test]
fn a_port_that_changes_and_changes_back_unnoticed_is_active_again() {
    let mut region = Region::new(world(2, 6), 0..2);
    region.connect_all();
    // Two updates are under way, and nothing besides the port waits behind them.
    for name in ["a", "b"] {
        region.commit(kit::put([kit::network(0, name)]));
    }
    for group in [1, 0] {
        region.commit(kit::put([kit::port(0, 0, Some(0), &[group], 200)]));
        assert!(!region.is_active(0, 0));
    }
    region.deliver_all();
    region.assert_converged();
}

/// The host told of it while it was to leave, and had not been told so.
#[test]
fn what_a_host_says_of_a_port_that_comes_back_is_believed() {
    for seed in [198_913_730_128_769_188, 1_786_352_656_437_619_006] {
        storm(seed, 6, 20, 600);
    }
}

#[test]
fn a_restored_store_is_another_incarnation_and_wins() {
    let mut region = Region::new(world(3, 9), 0..3);
    region.connect_all();
    for _ in 0..10 {
        region.commit(kit::put([kit::port(0, 1, Some(1), &[1], 200)]));
        region.commit(kit::put([kit::port(0, 0, Some(0), &[0], 200)]));
    }
    region.deliver_all();
    region.restart(Uuid::from_u128(2), 3);
    region.connect_all();
    region.assert_converged();
    assert_eq!(
        region.hosts[&kit::host_name(0)].config.generation,
        Generation(3)
    );
}

#[test]
fn a_controller_that_lags_behind_a_host_waits() {
    let mut region = Region::new(world(2, 4), 0..2);
    region.connect_all();
    region.commit(kit::put([kit::port(0, 1, Some(1), &[1], 200)]));
    region.deliver_all();
    let ahead = region.generation;
    region.restart(INCARNATION, ahead - 1);
    for host in region.hosts.values_mut() {
        host.updates = 0;
    }
    region.connect_all();
    assert!(region.hosts.values().all(|host| host.updates == 0));
    region.commit(kit::put([kit::port(3, 1, Some(1), &[1], 200)]));
    region.advance(Duration::from_secs(2));
    region.assert_converged();
}

#[test]
fn a_silent_host_is_hung_up_and_its_ports_fall_after_the_grace() {
    let mut region = Region::new(world(2, 4), 0..2);
    region.connect_all();
    assert!(region.is_active(0, 0) && region.is_active(1, 1));
    let name = kit::host_name(0);
    let conn = region.hosts.get_mut(&name).unwrap().conn.take();
    region.advance(Duration::from_secs(16));
    assert_eq!(region.hung_up, [HangUp::Silent]);
    assert!(
        conn.is_some() && region.is_active(0, 0),
        "the last proof stands for a while"
    );
    region.advance(Duration::from_secs(10));
    assert!(!region.is_active(0, 0) && region.is_active(1, 1));
    let id = kit::id::<net::ids::kind::Host>(0).uuid();
    assert!(!region.board.is_host_alive(id));
    region.connect_all();
    region.assert_converged();
    assert!(region.board.is_host_alive(id));
}

#[test]
fn a_wrong_digest_is_mended_by_the_whole() {
    let mut region = Region::new(world(2, 8), 0..2);
    region.connect_all();
    let name = kit::host_name(0);
    let host = region.hosts.get_mut(&name).unwrap();
    let lost = *host.config.sections.keys().next_back().unwrap();
    host.config.sections.remove(&lost);
    host.up
        .push_back(from_host(from_host::Message::Ack(wire::Ack {
            generation: host.config.generation.get(),
            digest: host.config.digest().0.to_vec(),
            complaints: Vec::new(),
        })));
    let conn = host.conn;
    region.deliver_all();
    region.assert_converged();
    assert_eq!(region.hosts[&name].conn, conn, "the stream goes on");
}

#[test]
fn a_host_that_distrusts_what_it_holds_gets_the_whole() {
    let mut region = Region::new(world(2, 8), 0..2);
    region.connect_all();
    let name = kit::host_name(0);
    region.cut(&name);
    let host = region.hosts.get_mut(&name).unwrap();
    host.distrusts = true;
    let stale = kit::network(9, "never told");
    let Object::Network(stale) = stale else {
        unreachable!()
    };
    let stale = hostconfig::Section::Network(stale.section.clone());
    host.config.insert(Arc::new(Keyed::new(stale).unwrap()));
    region.connect_all();
    region.assert_converged();
}

#[test]
fn an_acknowledgement_said_twice_is_no_news() {
    let mut region = Region::new(world(2, 8), 0..2);
    region.connect_all();
    let host = region.hosts.get_mut(&kit::host_name(0)).unwrap();
    host.updates = 0;
    host.up
        .push_back(from_host(from_host::Message::Ack(wire::Ack {
            generation: host.config.generation.get(),
            digest: host.config.digest().0.to_vec(),
            complaints: Vec::new(),
        })));
    region.deliver_all();
    assert_eq!(region.hosts[&kit::host_name(0)].updates, 0);
}

#[test]
fn an_unanswered_update_ends_the_stream() {
    let mut region = Region::new(world(1, 2), 0..1);
    let name = kit::host_name(0);
    region.hosts.get_mut(&name).unwrap().answers = false;
    region.connect_all();
    assert!(!region.is_active(0, 0), "not proved");
    region.advance(Duration::from_secs(32));
    assert_eq!(region.hung_up, [HangUp::NoAck]);
}

#[test]
fn a_deleted_host_is_hung_up_and_another_certificate_refused() {
    let mut region = Region::new(world(2, 4), 0..2);
    region
        .hosts
        .get_mut(&kit::host_name(1))
        .unwrap()
        .certificate = "another".to_owned();
    region.connect(&kit::host_name(1));
    assert_eq!(region.hung_up, [HangUp::Unknown]);
    region.connect(&kit::host_name(0));
    region.deliver_all();
    region.commit(vec![Change::Gone(ObjectId::Host(kit::id(0)))]);
    assert_eq!(region.hung_up, [HangUp::Unknown, HangUp::Unknown]);
    assert!(!region.is_active(0, 0));
}

#[test]
fn a_newer_stream_replaces_the_older() {
    let mut region = Region::new(world(1, 2), 0..1);
    let name = kit::host_name(0);
    region.connect(&name);
    region.deliver_all();
    region.hosts.get_mut(&name).unwrap().conn = None;
    region.connect(&name);
    region.deliver_all();
    assert_eq!(region.hung_up, [HangUp::Replaced]);
    region.assert_converged();
}

#[test]
fn a_network_is_realised_when_all_its_hosts_hold_it_and_its_virtual_addresses() {
    let mut region = Region::new(world(2, 6), 0..2);
    let network = kit::id::<net::ids::kind::Network>(0).uuid();
    assert!(!region.board.is_network_realised(network));
    region.connect(&kit::host_name(0));
    region.deliver_all();
    assert!(
        !region.board.is_network_realised(network),
        "one host has not spoken"
    );
    region.connect_all();
    assert!(region.board.is_network_realised(network));
    region.commit(kit::put([
        kit::port(9, 0, None, &[], 200),
        kit::classifier(0, Some(hostconfig::chain::Side::Network(kit::id(0))), None),
        kit::balancer(0, 9, &[0, 3]),
        kit::chain(0, &[0], &[0]),
    ]));
    assert!(
        !region.board.is_network_realised(network),
        "the virtual address is not there yet"
    );
    region.deliver_all();
    assert!(region.board.is_network_realised(network));
    // A host that is away holds nothing up.
    region.cut(&kit::host_name(1));
    region.commit(kit::put([kit::network(0, "renamed")]));
    region.advance(Duration::from_secs(11));
    assert!(region.board.is_network_realised(network));
}

#[test]
fn a_network_is_realised_when_all_hosts_that_need_it_hold_its_routers() {
    let mut region = Region::new(world(2, 4), 0..2);
    region.connect_all();
    // Network 1 has a port on h1 alone; a router makes h0 need it as well.
    let network = kit::id::<net::ids::kind::Network>(1).uuid();
    assert!(region.board.is_network_realised(network));
    region.hosts.get_mut(&kit::host_name(0)).unwrap().answers = false;
    region.commit(kit::put([kit::interface(101, 1, 0)]));
    assert!(!region.board.is_network_realised(network));
    region.deliver(&kit::host_name(1));
    region.deliver_all();
    assert!(!region.board.is_network_realised(network), "h0 is silent");
    // Detached, it is h1's affair alone again.
    region.commit(vec![Change::Gone(ObjectId::Port(kit::id(101)))]);
    region.deliver_all();
    assert!(region.board.is_network_realised(network));
}

#[test]
fn a_complaint_keeps_a_port_down_and_is_shown() {
    let mut region = Region::new(world(1, 1), 0..1);
    region.connect_all();
    let port = kit::id::<net::ids::kind::Port>(0);
    let host = region.hosts.get_mut(&kit::host_name(0)).unwrap();
    host.up
        .push_back(from_host(from_host::Message::Report(wire::Report {
            ports: vec![wire::PortState {
                port: port.to_string(),
                attached: false,
                active: false,
                reason: "tap is gone".to_owned(),
            }],
            meters: Vec::new(),
            verdicts: Vec::new(),
            balanced: Vec::new(),
        })));
    region.deliver_all();
    assert!(!region.is_active(0, 0));
    assert_eq!(
        region.board.complaint(port.uuid()).as_deref(),
        Some("tap is gone")
    );
}

#[test]
fn an_underlay_that_is_too_small_keeps_ports_down_with_that_reason() {
    let mut region = Region::new(world(1, 1), 0..1);
    region.connect(&kit::host_name(0));
    let host = region.hosts.get_mut(&kit::host_name(0)).unwrap();
    if let Some(from_host::Message::Hello(hello)) = &mut host.up[0].message {
        hello.underlay_mtu = 1499;
    }
    region.deliver_all();
    assert!(!region.is_active(0, 0));
    let complaint = region
        .board
        .complaint(kit::id::<net::ids::kind::Port>(0).uuid())
        .unwrap();
    assert!(complaint.contains("needs 1500"), "{complaint}");
}
