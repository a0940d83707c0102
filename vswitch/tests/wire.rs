//! Do workloads meet who is on a physical network?
//!
//! One switch with taps and workers, its interface a veth whose other end is the outside: untagged, and on VLANs. Those are the kernel's
//! VLAN devices where it has them; else a second wire on the other end stands for them, and what a tag looks like is read from a tap.
//! Needs root; says so when it is not, and fails instead where `OVERWEAVE_REQUIRE_ROOT=1`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

mod world;

use std::{
    net::IpAddr,
    num::NonZeroU16,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use arc_swap::ArcSwap;
use hostconfig::{HostConfig, Keyed, Network, Port, Section, Subnet, network, port::FixedIp};
use net::{
    Batch, Checksum, DropReason, Gso, Id, Mtu, Offload, Origin, PacketPool, PortId, Vni, Zone,
    checksum,
    testkit::{FrameBuilder, checksums_hold, mac, packet},
};
use nfv::conntrack::Entry;
use vswitch::{
    datapath::{Claims, Datapath, Ledger, Settings, Tables},
    effort::Medium,
    io::{
        PortIo, Rx, plain_tap,
        steering::Steering,
        tap::{Tap, TapPlace, TapSpec},
        wire::{Interface, Wire, interface},
    },
    worker::{Command, Handle, Lane, Limits, crew, monotonic, spawn},
};
use world::{Space, ip, no_checksum_errors, root, transfer};

fn id<K>(n: u128) -> Id<K> {
    uuid::Uuid::from_u128(n).into()
}

/// The n-th host's address; all networks have the same.
fn address(n: u16, v6: bool) -> IpAddr {
    let text = if v6 {
        format!("fd00::{n:x}")
    } else {
        format!("10.0.0.{n}")
    };
    text.parse().unwrap()
}

/// Networks on one interface: untagged, VLAN 100, VLAN 200.
const VLANS: [Option<u16>; 3] = [None, Some(100), Some(200)];

/// A workload on each network.
fn config() -> HostConfig {
    let mut config = HostConfig::default();
    let mut put = |section| config.insert(Arc::new(Keyed::new(section).unwrap()));
    for (n, vlan) in (1..).zip(VLANS) {
        let subnet = |k: u128, cidr: &str| Subnet {
            id: id(100 * u128::from(n) + k),
            cidr: cidr.parse().unwrap(),
            gateway: None,
            dhcp: None,
            dhcp6: None,
            ra: None,
            dns6: vec![],
        };
        put(Section::Network(Network {
            id: id(1000 + u128::from(n)),
            name: format!("net{n}"),
            project: id(7),
            vni: Vni::try_from(5000 + u32::from(n)).unwrap(),
            mtu: Mtu::try_from(1500).unwrap(),
            admin_up: true,
            subnets: vec![subnet(1, "10.0.0.0/24"), subnet(2, "fd00::/64")],
            wire: Some(network::Wire {
                physical: "physnet1".to_owned(),
                vlan,
            }),
            domain: String::new(),
            resolvers: Vec::new(),
            names: Vec::new(),
        }));
        let fixed = |v6| FixedIp {
            addr: address(n, v6),
            subnet: id(100 * u128::from(n) + if v6 { 2 } else { 1 }),
        };
        put(Section::Port(Port {
            id: id(n.into()),
            name: format!("p{n}"),
            network: id(1000 + u128::from(n)),
            project: id(7),
            mac: mac(n).try_into().unwrap(),
            fixed_ips: vec![fixed(false), fixed(true)],
            admin_up: true,
            port_security: true,
            allowed_address_pairs: vec![],
            security_groups: vec![id(2000)],
            max_connections: 1000,
            qos: None,
            host_number: Some(0),
            dns_name: None,
            dhcp: hostconfig::DhcpOptions::default(),
            trunk: None,
            firewall: None,
        }));
    }
    put(Section::Group(open_group()));
    config
}

/// Everything out and in, tracked.
fn open_group() -> hostconfig::SecurityGroup {
    use hostconfig::group::{Direction, Family, L4Match, Remote};
    let mut rules = vec![];
    for family in [Family::V4, Family::V6] {
        for direction in [Direction::Egress, Direction::Ingress] {
            rules.push(hostconfig::SecurityGroupRule {
                id: id(4000 + rules.len() as u128),
                direction,
                family,
                protocol: None,
                l4: L4Match::Any,
                remote: Remote::Any,
            });
        }
    }
    hostconfig::SecurityGroup {
        id: id(2000),
        name: "open".into(),
        stateful: true,
        rules,
    }
}

/// A kernel without VLAN devices: a wire at the far end, and a tap behind it.
struct Patch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Patch {
    fn start(mut wire: impl PortIo + 'static, mut tap: impl PortIo + 'static) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut pool = PacketPool::new(512, 64);
            let (mut batch, mut refused) = (Batch::new(), vec![]);
            while !stopped.load(Ordering::Relaxed) {
                wait(&wire, &tap);
                for turn in 0..2 {
                    let (from, to): (&mut dyn PortIo, &mut dyn PortIo) = if turn == 0 {
                        (&mut wire, &mut tap)
                    } else {
                        (&mut tap, &mut wire)
                    };
                    from.rx(&mut pool, &mut batch, &mut refused);
                    batch.iter_mut().for_each(|p| p.parse().unwrap());
                    to.tx(&mut pool, &mut batch, &mut refused);
                    refused.drain(..).for_each(|(p, _)| pool.give(p));
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Patch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(
            ended.is_ok() || std::thread::panicking(),
            "the patch panicked"
        );
    }
}

fn wait(a: &dyn PortIo, b: &dyn PortIo) {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let fds = [a, b].map(|port| port.poll_fd().unwrap());
    let mut fds = fds.each_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
    let most = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    rustix::event::poll(&mut fds, Some(&most)).unwrap();
}

fn device(space: &Space, name: &str) -> Interface {
    space.run(|| interface(&name.parse().unwrap()).unwrap().unwrap())
}

fn tap(space: &Space, n: u16, queues: NonZeroU16) -> Tap {
    let place = TapPlace {
        netns: space.netns(),
        ifname: "eth0".parse().unwrap(),
        owner: "overweave test".into(),
    };
    let spec = TapSpec {
        mac: mac(n),
        mtu: Mtu::try_from(1500).unwrap(),
        queues,
        addresses: vec![(address(n, false), 24), (address(n, true), 64)],
        routes: vec![],
    };
    Tap::create(&place, &spec).unwrap()
}

/// Whoever has the n-th address outside, on a VLAN of the interface of `there`; the patch that stands for the kernel's device, if it
/// has none.
fn outsider(there: &Space, of: &Space, n: u16, vlan: u16) -> Option<Patch> {
    let name = format!("v{vlan}");
    let id = vlan.to_string();
    let words = ["-n", &there.0, "link", "add", "link", "eth1", "name", &name];
    let kind = ["type", "vlan", "id", &id];
    let made = process::Command::new("ip").args(words).args(kind).output();
    if made.unwrap().status.success() {
        ip(&format!("-n {} link set {name} netns {}", there.0, of.0));
        ip(&format!("-n {} link set {name} up", of.0));
        addresses(of, n, &name);
        return None;
    }
    let eth1 = device(there, "eth1");
    let one = NonZeroU16::MIN;
    let wire = there.run(|| Wire::open(&eth1, Some(vlan), one, 0).unwrap());
    let tap = tap(of, n, one);
    let (wire, tap) = (wire.into_queues().pop(), tap.into_queues().pop());
    Some(Patch::start(wire.unwrap(), tap.unwrap()))
}

fn addresses(of: &Space, n: u16, device: &str) {
    for (v6, bits) in [(false, 24), (true, 64)] {
        let nodad = if v6 { "nodad" } else { "" };
        let addr = address(n, v6);
        ip(&format!(
            "-n {} addr add {addr}/{bits} dev {device} {nodad}",
            of.0
        ));
    }
}

struct Host {
    /// Dropped first: workers end before their devices go.
    workers: Vec<Handle<Lane>>,
    patches: Vec<Patch>,
    workloads: Vec<Space>,
    /// Who is outside, on each network: address n + 100.
    outside: Vec<Space>,
    space: Space,
}

impl Host {
    fn start(name: &str, workers: u16) -> Self {
        let space = Space::new(&format!("{name}h"));
        let spaces = |kind: &str| {
            let names = (1..=VLANS.len()).map(|n| Space::new(&format!("{name}{kind}{n}")));
            names.collect::<Vec<_>>()
        };
        let (workloads, outside) = (spaces("w"), spaces("o"));
        let (here, there) = (&space.0, &outside[0].0);
        ip(&format!(
            "-n {here} link add eth1 type veth peer name eth1 netns {there}"
        ));
        ip(&format!("-n {here} link set eth1 up"));
        ip(&format!("-n {there} link set eth1 up"));
        let mut patches = vec![];
        for (n, (vlan, of)) in (101..).zip(VLANS.iter().zip(&outside)) {
            match vlan {
                None => addresses(of, n, "eth1"),
                Some(vlan) => patches.extend(outsider(&outside[0], of, n, *vlan)),
            }
        }
        let mut host = Self {
            workers: vec![],
            patches,
            workloads,
            outside,
            space,
        };
        host.run(workers);
        host
    }

    fn run(&mut self, workers: u16) {
        let zones = (1..=3u16).map(|n| (id(n.into()), Zone(n.into()))).collect();
        let tables = Tables::build(None, &config(), &zones, 1);
        assert_eq!(tables.faults(), [] as [String; 0]);
        let mut devices: Vec<(net::PortId, Vec<Box<dyn PortIo>>)> = vec![];
        let count = NonZeroU16::new(workers).unwrap();
        for (n, space) in (1u16..).zip(&self.workloads) {
            let tap = tap(space, n, count);
            tap.steer(&Steering::new(1, workers));
            let dense = tables.port_by_id(id(n.into())).unwrap().dense;
            let queues = tap.into_queues().into_iter();
            devices.push((dense, queues.map(|q| Box::new(q) as _).collect()));
        }
        let eth1 = device(&self.space, "eth1");
        assert!(eth1.up && eth1.carrier && eth1.mtu == 1500);
        for (network, end) in tables.wires() {
            let dense = tables.wire_of(network.dense).unwrap();
            let reader = u16::try_from(dense.index()).unwrap() % workers;
            let wire = self
                .space
                .run(|| Wire::open(&eth1, end.wire.vlan, count, reader).unwrap());
            let queues = wire.into_queues().into_iter();
            devices.push((dense, queues.map(|q| Box::new(q) as _).collect()));
        }
        let tables = Arc::new(ArcSwap::from_pointee(tables));
        let claims = Arc::new(Claims::new(10_000, 1));
        for seat in crew(workers, 1024).unwrap() {
            let settings = Settings {
                worker: seat.id(),
                workers,
                seed: 1,
                ..Settings::default()
            };
            let entries = vec![Entry::default(); 10_000];
            let datapath = Datapath::new(settings, entries, 0, Arc::clone(&claims), monotonic());
            let lane = Lane::new(datapath, Arc::clone(&tables));
            let lost = Box::new(|port| panic!("{port:?} is lost"));
            let worker = spawn(seat, lane, Limits::default(), lost).unwrap();
            for (dense, queues) in &mut devices {
                let add = Command::AddPort(*dense, queues.remove(0));
                worker.tell(add).unwrap();
            }
            worker.ask(|_, _| ()).unwrap();
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

fn pings(from: &Space, to: IpAddr, size: u16) -> bool {
    pings_within("2", from, to, size)
}

fn pings_within(seconds: &str, from: &Space, to: IpAddr, size: u16) -> bool {
    let to = to.to_string();
    let size = size.to_string();
    let ping = [
        "netns", "exec", &from.0, "ping", "-c1", "-W", seconds, "-s", &size, &to,
    ];
    let done = process::Command::new("ip").args(ping).output().unwrap();
    done.status.success()
}

#[test]
fn workloads_meet_who_is_outside_on_their_own_vlan_and_nobody_else() {
    if !root() {
        return;
    }
    for workers in [1, 2] {
        let host = Host::start(&format!("wi{workers}"), workers);
        for (n, (workload, outside)) in (1..).zip(host.workloads.iter().zip(&host.outside)) {
            for v6 in [false, true] {
                let largest = if v6 { 1452 } else { 1472 };
                assert!(pings(workload, address(n + 100, v6), 56), "{n} {v6}");
                assert!(pings(outside, address(n, v6), largest), "{n} {v6}");
                for other in (1..=3).filter(|other| *other != n) {
                    let there = address(other + 100, v6);
                    assert!(!pings_within("0.3", workload, there, 56), "{n} {other}");
                    let here = address(other, v6);
                    assert!(!pings_within("0.3", outside, here, 56), "{n} {other}");
                }
            }
        }
        host.ledger().balanced().unwrap();
        drop(host.patches);
        for worker in host.workers {
            worker.stop().unwrap();
        }
    }
}

#[test]
fn tcp_crosses_a_wire_in_super_frames_tagged_or_not() {
    if !root() {
        return;
    }
    for workers in [1, 2] {
        let host = Host::start(&format!("wt{workers}"), workers);
        for (n, (workload, outside)) in (1..).zip(host.workloads.iter().zip(&host.outside)) {
            for v6 in [false, true] {
                transfer(workload, outside, address(n + 100, v6), 20 << 20);
                transfer(outside, workload, address(n, v6), 20 << 20);
            }
            no_checksum_errors(&[workload, outside]);
        }
        let ledger = host.ledger();
        ledger.balanced().unwrap();
        assert_eq!(ledger.dropped(DropReason::PortSend), 0, "{ledger:?}");
        assert_eq!(
            ledger.dropped(DropReason::MalformedOffload),
            0,
            "{ledger:?}"
        );
        assert!(ledger.dropped_total() * 100 < ledger.rx, "{ledger:?}");
        let efforts = host.workers.iter().map(|w| w.effort().unwrap());
        let efforts: Vec<_> = efforts.collect();
        for way in [vswitch::effort::Effort::rx, vswitch::effort::Effort::tx] {
            let carried = efforts.iter().map(|e| way(e, Medium::Port));
            let (frames, segments) =
                carried.fold((0, 0), |(f, s), c| (f + c.frames, s + c.segments));
            assert!(segments > 2 * frames, "{segments} in {frames} frames");
        }
        drop(host.patches);
        for worker in host.workers {
            worker.stop().unwrap();
        }
    }
}

/// A wire's socket on a tap, whose descriptor is the cable: what is read there is what would be on it.
#[test]
fn a_tag_is_put_on_and_taken_off_as_802_1q_says() {
    if !root() {
        return;
    }
    let space = Space::new("tag");
    let cable = space.run(|| plain_tap::open(&"eth1".parse().unwrap()).unwrap());
    // The kernel has nothing to say there.
    ip(&format!("-n {} link set eth1 addrgenmode none", space.0));
    ip(&format!("-n {} link set eth1 up", space.0));
    let eth1 = device(&space, "eth1");
    let open = |vlan| {
        let wire = space.run(|| Wire::open(&eth1, vlan, NonZeroU16::MIN, 0).unwrap());
        wire.into_queues().pop().unwrap()
    };
    let mut wires = VLANS.map(open);
    let (mut pool, mut batch, mut refused) = (PacketPool::new(64, 8), Batch::new(), vec![]);
    let origin = Origin::Port(PortId(0));
    for v6 in [false, true] {
        let plain = FrameBuilder::udp(v6, 1000, 53).payload(b"one");
        let small = plain.build();
        for (wire, vlan) in wires.iter_mut().zip(VLANS) {
            // Out: a frame, and a super-frame that is cut behind its tag.
            batch.push(packet(&mut pool, &small, origin)).unwrap();
            let large = FrameBuilder::tcp(v6, 1000, 80).payload(&[7; 3000]).build();
            let mut large = packet(&mut pool, &large, origin);
            let headers = *large.headers();
            let offload = Offload {
                checksum: Checksum::Partial {
                    start: headers.l4_at,
                    offset: 16,
                },
                gso: Gso::Tcp {
                    size: 1000,
                    ecn: false,
                },
            };
            let (src, dst) = (large.key().src_addr(), large.key().dst_addr());
            let sum = checksum::fold(checksum::pseudo(src, dst, 6, 20 + 3000));
            let at = usize::from(headers.l4_at) + 16;
            large.bytes_mut()[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            large.set_offload(offload);
            batch.push(large).unwrap();
            assert_eq!(wire.tx(&mut pool, &mut batch, &mut refused), 4);
            assert_eq!(refused.len(), 0);
            for n in 0..4 {
                let mut frame = read(&cable);
                if let Some(vlan) = vlan {
                    let [c0, c1] = vlan.to_be_bytes();
                    let tag: Vec<u8> = frame.drain(12..16).collect();
                    assert_eq!(tag, [0x81, 0, c0, c1]);
                }
                if n == 0 {
                    assert_eq!(frame, small);
                } else {
                    assert!(frame.len() < 1100 && frame.len() > 1000);
                }
                assert!(checksums_hold(&frame), "{vlan:?} {v6} {n}");
            }
        }
        // In: each wire has its own, without the tag, whatever its priority; and nobody what is on no VLAN of theirs.
        for tag in [None, Some(0), Some(0xe064), Some(200), Some(300)] {
            let mut frame = small.clone();
            if let Some(tag) = tag {
                let [c0, c1] = u16::to_be_bytes(tag);
                frame.splice(12..12, [0x81, 0, c0, c1]);
            }
            rustix::io::write(&cable, &frame).unwrap();
            let of = tag.map(|tag| tag & 0xfff).filter(|vlan| *vlan != 0);
            for (wire, vlan) in wires.iter_mut().zip(VLANS) {
                assert_eq!(wire.rx(&mut pool, &mut batch, &mut refused), Rx::Drained);
                let got: Vec<_> = batch.drain().map(|p| p.bytes().to_vec()).collect();
                let expected = if of == vlan {
                    vec![small.clone()]
                } else {
                    vec![]
                };
                assert_eq!(got, expected, "{tag:?} on {vlan:?}");
                assert_eq!(refused.len(), 0);
            }
        }
        // What is larger than the interface takes has a name.
        let huge = FrameBuilder::udp(v6, 1000, 53).payload(&[0; 1600]).build();
        batch.push(packet(&mut pool, &huge, origin)).unwrap();
        assert_eq!(wires[1].tx(&mut pool, &mut batch, &mut refused), 0);
        let (large, reason) = refused.pop().unwrap();
        assert_eq!(reason, DropReason::MtuExceeded);
        pool.give(large);
    }
    drop(cable);
    // The interface is gone: that is no end of the wire's port, only of what it sends.
    assert_eq!(
        wires[0].rx(&mut pool, &mut batch, &mut refused),
        Rx::Drained
    );
    let frame = FrameBuilder::udp(false, 1, 2).build();
    batch.push(packet(&mut pool, &frame, origin)).unwrap();
    assert_eq!(wires[0].tx(&mut pool, &mut batch, &mut refused), 0);
    assert_eq!(refused.pop().unwrap().1, DropReason::PortSend);
    let gone = space.run(|| interface(&"eth1".parse().unwrap()).unwrap());
    assert_eq!(gone, None);
}

/// A frame from a descriptor that does not wait.
fn read(fd: &std::os::fd::OwnedFd) -> Vec<u8> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let most = Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    assert!(rustix::event::poll(&mut fds, Some(&most)).unwrap() > 0);
    let mut buffer = vec![0; 2000];
    let len = rustix::io::read(fd, &mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}
