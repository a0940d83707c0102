//! Do the rooms make a house?
//!
//! Two hosts with everything but the agent: taps, workers, the datapath on compiled tables, VXLAN between them; the kernel's TCP from
//! workload to workload. Needs root; says so when it is not, and fails instead where `OVERWEAVE_REQUIRE_ROOT=1`.

#![expect(clippy::unwrap_used, reason = "a test")]

mod world;

use std::{
    net::{IpAddr, TcpListener, TcpStream},
    num::NonZeroU16,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use hostconfig::{
    Endpoint, HostConfig, Keyed, Location, Network, Port, Section, SecurityGroup,
    SecurityGroupRule, Subnet, Vteps,
    group::{Direction, Family, L4Match, Remote},
    port::FixedIp,
    vtep::Vtep,
};
use net::{DropReason, Id, Mtu, PortRange, Vni, Zone, testkit::mac};
use nfv::conntrack::Entry;
use vswitch::{
    datapath::{Claims, Datapath, Ledger, Settings, Tables},
    effort::{Effort, Medium, Part},
    io::{
        steering::Steering,
        tap::{Tap, TapPlace, TapSpec},
        underlay::{UdpUnderlay, UnderlaySpec},
    },
    worker::{Command, Handle, Lane, Limits, crew, monotonic, spawn},
};
use world::{Space, ip, no_checksum_errors, root, transfer};

const NET: u128 = 1000;
const GROUP: u128 = 2000;

fn id<K>(n: u128) -> Id<K> {
    uuid::Uuid::from_u128(n).into()
}

fn address(n: u16, v6: bool) -> IpAddr {
    let text = if v6 {
        format!("fd00::{n:x}")
    } else {
        format!("10.0.0.{n}")
    };
    text.parse().unwrap()
}

fn vtep(host: u16) -> IpAddr {
    format!("192.0.2.{host}").parse().unwrap()
}

/// One network, port n on host n; everything out, TCP above 1023 in.
fn config(here: u16, hosts: u16) -> HostConfig {
    let mut config = HostConfig::default();
    let mut put = |section| config.insert(Arc::new(Keyed::new(section).unwrap()));
    let others = (1..=hosts).filter(|h| *h != here);
    let vteps = others.map(|h| {
        let host = format!("h{h}");
        let foreign = false;
        (vtep(h), Vtep { host, foreign })
    });
    put(Section::Vteps(Vteps {
        vteps: vteps.collect(),
    }));
    let subnet = |n: u128, cidr: &str| Subnet {
        id: id(n),
        cidr: cidr.parse().unwrap(),
        gateway: None,
        dhcp: None,
        dhcp6: None,
        ra: None,
        dns6: vec![],
    };
    put(Section::Network(Network {
        id: id(NET),
        name: "blue".into(),
        project: id(7),
        vni: Vni::try_from(5001).unwrap(),
        mtu: Mtu::try_from(1450).unwrap(),
        admin_up: true,
        subnets: vec![subnet(1, "10.0.0.0/24"), subnet(2, "fd00::/64")],
        wire: None,
        domain: String::new(),
        resolvers: Vec::new(),
        names: Vec::new(),
    }));
    let mut rules = vec![];
    for family in [Family::V4, Family::V6] {
        for direction in [Direction::Egress, Direction::Ingress] {
            let into = direction == Direction::Ingress;
            rules.push(SecurityGroupRule {
                id: id(4000 + rules.len() as u128),
                direction,
                family,
                protocol: into.then_some(6),
                l4: if into {
                    L4Match::Ports(PortRange::new(1024, 65_535).unwrap())
                } else {
                    L4Match::Any
                },
                remote: Remote::Any,
            });
        }
    }
    put(Section::Group(SecurityGroup {
        id: id(GROUP),
        name: "g".into(),
        stateful: true,
        rules,
    }));
    for n in 1..=hosts {
        if n != here {
            put(Section::Endpoint(Endpoint {
                id: id(n.into()),
                network: id(NET),
                project: None,
                mac: mac(n).try_into().unwrap(),
                addrs: vec![address(n, false), address(n, true)],
                dns_name: None,
                at: Location::Vtep(vtep(n)),
            }));
            continue;
        }
        let fixed = |v6| FixedIp {
            addr: address(n, v6),
            subnet: id(if v6 { 2 } else { 1 }),
        };
        put(Section::Port(Port {
            id: id(n.into()),
            name: format!("p{n}"),
            network: id(NET),
            project: id(7),
            mac: mac(n).try_into().unwrap(),
            fixed_ips: vec![fixed(false), fixed(true)],
            admin_up: true,
            port_security: true,
            allowed_address_pairs: vec![],
            security_groups: vec![id(GROUP)],
            max_connections: 1000,
            qos: None,
            host_number: Some(0),
            dns_name: None,
            dhcp: hostconfig::DhcpOptions::default(),
            trunk: None,
            firewall: None,
        }));
    }
    config
}

struct Host {
    /// Dropped first: workers end before their devices go.
    workers: Vec<Handle<Lane>>,
    workload: Space,
    space: Space,
}

impl Host {
    fn new(name: &str, n: u16) -> Self {
        Self {
            workers: vec![],
            workload: Space::new(&format!("{name}w{n}")),
            space: Space::new(&format!("{name}h{n}")),
        }
    }

    fn start(&mut self, n: u16, hosts: u16, workers: u16) {
        let config = config(n, hosts);
        let zones = [(id(n.into()), Zone(n.into()))].into_iter().collect();
        let tables = Tables::build(None, &config, &zones, 1);
        assert_eq!(tables.faults(), [] as [String; 0]);
        let port = tables.port_by_id(id(n.into())).unwrap().dense;
        let tables = Arc::new(ArcSwap::from_pointee(tables));
        let place = TapPlace {
            netns: self.workload.netns(),
            ifname: "eth0".parse().unwrap(),
            owner: "overweave test".into(),
        };
        let spec = TapSpec {
            mac: mac(n),
            mtu: Mtu::try_from(1450).unwrap(),
            queues: NonZeroU16::new(workers).unwrap(),
            addresses: vec![(address(n, false), 24), (address(n, true), 64)],
            routes: vec![],
        };
        let steering = Steering::new(1, workers);
        let tap = Tap::create(&place, &spec).unwrap();
        tap.steer(&steering);
        let queues = tap.into_queues();
        let claims = Arc::new(Claims::new(1000, 1));
        let lost = Arc::new(Mutex::new(vec![]));
        for (seat, queue) in crew(workers, 1024).unwrap().into_iter().zip(queues) {
            let settings = Settings {
                worker: seat.id(),
                workers,
                seed: 1,
                ..Settings::default()
            };
            let entries = vec![Entry::default(); 10_000];
            let datapath = Datapath::new(settings, entries, 0, Arc::clone(&claims), monotonic());
            let lane = Lane::new(datapath, Arc::clone(&tables));
            let lost = Arc::clone(&lost);
            let tell = Box::new(move |port| lost.lock().unwrap().push(port));
            let worker = spawn(seat, lane, Limits::default(), tell).unwrap();
            let underlay = UnderlaySpec {
                shared: (workers > 1).then_some(steering),
                ..UnderlaySpec::new(vtep(n))
            };
            let underlay = self.space.run(|| UdpUnderlay::open(&underlay)).unwrap();
            let underlay = Command::SetUnderlay(Some(Box::new(underlay)));
            worker.tell(underlay).unwrap();
            worker
                .tell(Command::AddPort(port, Box::new(queue)))
                .unwrap();
            self.workers.push(worker);
        }
    }

    /// The ledgers of all workers together, when what they handed each other has arrived.
    fn ledger(&self) -> Ledger {
        loop {
            let mut sum = Ledger::default();
            for worker in &self.workers {
                let ledger = worker.ask(|lane, _| lane.view().0.ledger().clone());
                sum.add(&ledger.unwrap());
            }
            if sum.handed_in == sum.handed_over {
                return sum;
            }
        }
    }
}

fn two_hosts(name: &str, workers: u16) -> [Host; 2] {
    let mut hosts = [Host::new(name, 1), Host::new(name, 2)];
    let [a, b] = &hosts;
    ip(&format!(
        "-n {} link add u0 mtu 1600 type veth peer name u0 mtu 1600 netns {}",
        a.space.0, b.space.0
    ));
    for (n, host) in (1..).zip(&mut hosts) {
        let space = &host.space.0;
        ip(&format!("-n {space} addr add {}/24 dev u0", vtep(n)));
        ip(&format!("-n {space} link set u0 up"));
        host.start(n, 2, workers);
    }
    hosts
}

#[test]
fn tcp_crosses_two_switches_in_super_frames_with_every_segment_accounted_for() {
    if !root() {
        return;
    }
    for workers in [1, 2] {
        let hosts = two_hosts(&format!("sw{workers}"), workers);
        let [a, b] = &hosts;
        for v6 in [false, true] {
            transfer(&a.workload, &b.workload, address(2, v6), 20 << 20);
            transfer(&b.workload, &a.workload, address(1, v6), 20 << 20);
        }
        no_checksum_errors(&[&a.workload, &b.workload]);
        for host in &hosts {
            let sent = host.workload.counter("Tcp:", "OutSegs");
            let repeated = host.workload.counter("Tcp:", "RetransSegs");
            assert!(repeated * 100 <= sent, "{repeated} of {sent} repeated");
            let ledger = host.ledger();
            ledger.balanced().unwrap();
            assert!(ledger.rx > 60_000, "{}", ledger.rx);
            assert!(ledger.dropped_total() * 100 < ledger.rx, "{ledger:?}");
            let efforts = host.workers.iter().map(|w| w.effort().unwrap());
            let efforts: Vec<_> = efforts.collect();
            let strayed: u64 = efforts.iter().map(|e| e.handed).sum();
            assert!(
                strayed < 100,
                "the kernel dealt {strayed} to another's queue"
            );
            for medium in [Medium::Port, Medium::Tunnel] {
                for way in [Effort::rx, Effort::tx] {
                    let carried = efforts.iter().map(|e| way(e, medium));
                    let (frames, segments) =
                        carried.fold((0, 0), |(f, s), c| (f + c.frames, s + c.segments));
                    assert!(segments > 2 * frames, "{segments} in {frames} frames");
                }
            }
            for part in [Part::Rx, Part::Lookup, Part::Tx, Part::Idle] {
                let time: Duration = efforts.iter().map(|e| e.time(part)).sum();
                assert!(!time.is_zero(), "{part:?}");
            }
        }
        for host in hosts {
            for worker in host.workers {
                worker.stop().unwrap();
            }
        }
    }
}

#[test]
fn what_no_rule_allows_is_refused_by_name() {
    if !root() {
        return;
    }
    let hosts = two_hosts("swr", 1);
    let [a, b] = &hosts;
    let target = (address(2, false), 22);
    let listener = b.workload.run(|| TcpListener::bind(target).unwrap());
    let tried = a
        .workload
        .run(|| TcpStream::connect_timeout(&target.into(), Duration::from_millis(700)));
    assert!(tried.is_err());
    drop(listener);
    let refused = DropReason::SecurityGroupIngress;
    assert!(b.ledger().dropped(refused) > 0, "{:?}", b.ledger());
    b.ledger().balanced().unwrap();
}
