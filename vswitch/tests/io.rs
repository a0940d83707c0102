//! Do real kernels and the switch's edge understand each other?
//!
//! Taps and VXLAN against the Linux kernel: its TCP with super-frames through two taps, its `vxlan` device as the far VTEP. Needs root;
//! says so when it is not, and fails instead where `OVERWEAVE_REQUIRE_ROOT=1`.

#![expect(clippy::unwrap_used, reason = "a test")]

mod world;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    num::NonZeroU16,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use net::{
    Batch, Gso, Mac, Mtu, Origin, Packet, PacketPool, PortId, Vni,
    testkit::{FrameBuilder, packet},
};
use vswitch::io::{
    PortIo, Rx, Tunnelled, Underlay,
    netns::{Netns, NetnsError},
    steering::Steering,
    tap::{Tap, TapError, TapPlace, TapQueue, TapRoute, TapSpec},
    underlay::{UdpUnderlay, UnderlaySpec, set_segment},
};
use world::{Space, ip, no_checksum_errors, root, transfer};

fn place(space: &Space, owner: &str) -> TapPlace {
    TapPlace {
        netns: space.netns(),
        ifname: "eth0".parse().unwrap(),
        owner: owner.to_owned(),
    }
}

fn spec(n: u8, mtu: u32) -> TapSpec {
    TapSpec {
        mac: Mac::new([2, 0, 0, 0, 0, n]),
        mtu: Mtu::try_from(mtu).unwrap(),
        queues: NonZeroU16::MIN,
        addresses: vec![
            (IpAddr::from([10, 9, 0, n]), 24),
            (format!("fd09::{n}").parse().unwrap(), 64),
        ],
        routes: vec![
            TapRoute {
                destination: (IpAddr::from([0, 0, 0, 0]), 0),
                gateway: Some(IpAddr::from([10, 9, 0, 254])),
            },
            TapRoute {
                destination: ("fd0a::".parse().unwrap(), 64),
                gateway: None,
            },
        ],
    }
}

fn queue(space: &Space, n: u8, mtu: u32) -> TapQueue {
    let tap = Tap::create(&place(space, "overweave test"), &spec(n, mtu)).unwrap();
    tap.into_queues().pop().unwrap()
}

/// What a patch moved.
#[derive(Default)]
struct Moved {
    packets: AtomicU64,
    segments: AtomicU64,
    super_frames: AtomicU64,
    uso_frames: AtomicU64,
    refused: AtomicU64,
}

impl Moved {
    fn of(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// A thread that moves frames until it is dropped.
struct Patch {
    moved: Arc<Moved>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
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

fn wait(a: Option<std::os::fd::BorrowedFd<'_>>, b: Option<std::os::fd::BorrowedFd<'_>>) {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let (a, b) = (a.unwrap(), b.unwrap());
    let mut fds = [
        PollFd::new(&a, PollFlags::IN),
        PollFd::new(&b, PollFlags::IN),
    ];
    let most = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    rustix::event::poll(&mut fds, Some(&most)).unwrap();
}

impl Patch {
    fn start(mut step: impl FnMut(&Moved) + Send + 'static) -> Self {
        let (moved, stop) = (Arc::<Moved>::default(), Arc::<AtomicBool>::default());
        let (counts, stopped) = (Arc::clone(&moved), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                step(&counts);
            }
        });
        Self {
            moved,
            stop,
            thread: Some(thread),
        }
    }

    /// Two ports, joined.
    fn ports(mut a: impl PortIo + 'static, mut b: impl PortIo + 'static) -> Self {
        let mut pool = PacketPool::new(512, 64);
        let (mut batch, mut refused) = (Batch::new(), vec![]);
        Self::start(move |moved| {
            wait(a.poll_fd(), b.poll_fd());
            for turn in 0..2 {
                let (from, to): (&mut dyn PortIo, &mut dyn PortIo) = if turn == 0 {
                    (&mut a, &mut b)
                } else {
                    (&mut b, &mut a)
                };
                from.rx(&mut pool, &mut batch, &mut refused);
                count(moved, &mut batch);
                to.tx(&mut pool, &mut batch, &mut refused);
                moved
                    .refused
                    .fetch_add(refused.len() as u64, Ordering::Relaxed);
                refused.drain(..).for_each(|(p, _)| pool.give(p));
            }
        })
    }

    /// A port and the tunnel to one VTEP.
    fn tunnel(mut port: impl PortIo + 'static, mut underlay: UdpUnderlay, vtep: IpAddr) -> Self {
        let mut pool = PacketPool::new(4096, 256);
        let (mut batch, mut frames, mut refused) = (Batch::new(), vec![], vec![]);
        let mut unsent = vec![];
        let vni = Vni::try_from(100).unwrap();
        Self::start(move |moved| {
            wait(port.poll_fd(), underlay.poll_fd());
            port.rx(&mut pool, &mut batch, &mut refused);
            count(moved, &mut batch);
            frames.extend(batch.drain().map(|packet| Tunnelled {
                packet,
                vni,
                vtep,
                nsh: None,
            }));
            underlay.tx(&mut pool, &mut frames, &mut unsent);
            refused.extend(unsent.drain(..).map(|u| (u.frame.packet, u.reason)));
            underlay.rx(&mut pool, &|ip| ip == vtep, &mut frames, &mut refused);
            for frame in frames.drain(..) {
                assert_eq!((frame.vni, frame.vtep), (vni, vtep));
                batch.push(frame.packet).unwrap();
                if batch.is_full() {
                    count(moved, &mut batch);
                    port.tx(&mut pool, &mut batch, &mut refused);
                }
            }
            count(moved, &mut batch);
            port.tx(&mut pool, &mut batch, &mut refused);
            moved
                .refused
                .fetch_add(refused.len() as u64, Ordering::Relaxed);
            refused.drain(..).for_each(|(p, _)| pool.give(p));
        })
    }
}

fn count(moved: &Moved, batch: &mut Batch) {
    for packet in &mut *batch {
        packet.set_origin(Origin::Port(PortId(0)));
        packet.parse().unwrap();
        moved.packets.fetch_add(1, Ordering::Relaxed);
        moved
            .segments
            .fetch_add(packet.segments().into(), Ordering::Relaxed);
        match packet.offload().gso {
            Gso::Tcp { .. } => moved.super_frames.fetch_add(1, Ordering::Relaxed),
            Gso::Udp { .. } => moved.uso_frames.fetch_add(1, Ordering::Relaxed),
            Gso::None => 0,
        };
    }
}

fn v4(n: u8) -> IpAddr {
    [10, 9, 0, n].into()
}

fn v6(n: u8) -> IpAddr {
    format!("fd09::{n}").parse().unwrap()
}

#[test]
fn tcp_crosses_two_taps_in_super_frames() {
    if !root() {
        return;
    }
    let (a, b) = (Space::new("a"), Space::new("b"));
    let patch = Patch::ports(queue(&a, 1, 1500), queue(&b, 2, 1500));
    for (from, to, address) in [(&a, &b, v4(2)), (&b, &a, v6(1))] {
        transfer(from, to, address, 20 << 20);
    }
    no_checksum_errors(&[&a, &b]);
    let moved = &patch.moved;
    assert!(Moved::of(&moved.super_frames) > 100, "frames came whole");
    assert!(Moved::of(&moved.segments) > 5 * Moved::of(&moved.packets));
    assert_eq!(Moved::of(&moved.refused), 0);
}

#[test]
fn datagrams_sent_as_one_cross_two_taps_as_one() {
    if !root() {
        return;
    }
    let (a, b) = (Space::new("ua"), Space::new("ub"));
    let patch = Patch::ports(queue(&a, 1, 1500), queue(&b, 2, 1500));
    let receiver = b.run(|| UdpSocket::bind((v4(2), 0)).unwrap());
    receiver
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let sender = a.run(|| UdpSocket::bind((v4(1), 0)).unwrap());
    set_segment(&sender, 1000).unwrap();
    let data: Vec<u8> = (0..5500u32).map(|n| (n / 1000).to_le_bytes()[0]).collect();
    sender
        .send_to(&data, receiver.local_addr().unwrap())
        .unwrap();
    let mut buffer = [0; 2000];
    let lens: Vec<_> = (0..6)
        .map(|_| receiver.recv(&mut buffer).unwrap())
        .collect();
    assert_eq!(lens, [1000, 1000, 1000, 1000, 1000, 500]);
    assert_eq!(Moved::of(&patch.moved.uso_frames), 1);
    no_checksum_errors(&[&a, &b]);
}

/// Which worker is home to the connection of a packet; `None` for what has none.
fn home(steering: &Steering, packet: &Packet) -> Option<u16> {
    let tuple = packet.key().five_tuple()?;
    let at = steering.spread.hash(&tuple) % u64::from(steering.workers);
    Some(at.try_into().unwrap())
}

#[test]
fn a_tap_puts_packets_into_the_queue_of_their_worker() {
    if !root() {
        return;
    }
    let (space, steering) = (Space::new("st"), Steering::new(7, 3));
    let three = TapSpec {
        queues: NonZeroU16::new(3).unwrap(),
        ..spec(1, 1500)
    };
    let tap = Tap::create(&place(&space, "overweave test"), &three).unwrap();
    tap.steer(&steering);
    let name = &space.0;
    for to in [v4(2), v6(2)] {
        ip(&format!(
            "-n {name} neigh replace {to} lladdr 02:00:00:00:00:02 dev eth0"
        ));
    }
    space.run(|| {
        for (from, to) in [(v4(1), v4(2)), (v6(1), v6(2))] {
            for _ in 0..60 {
                let socket = UdpSocket::bind((from, 0)).unwrap();
                socket.send_to(b"one", (to, 9)).unwrap();
            }
        }
    });
    let (mut pool, mut batch) = (PacketPool::new(512, 64), Batch::new());
    let (mut counts, mut refused) = ([0; 3], vec![]);
    for (worker, mut queue) in (0u16..).zip(tap.into_queues()) {
        while queue.rx(&mut pool, &mut batch, &mut refused) == Rx::More || !batch.is_empty() {
            for mut packet in batch.drain() {
                packet.set_origin(Origin::Port(PortId(0)));
                packet.parse().unwrap();
                if packet.bytes().ends_with(b"one") {
                    assert_eq!(home(&steering, &packet), Some(worker));
                    counts[usize::from(worker)] += 1;
                }
                pool.give(packet);
            }
        }
    }
    assert_eq!(counts.iter().sum::<u32>(), 120);
    assert!(counts.iter().all(|c| *c > 15), "{counts:?}");
}

#[test]
fn datagrams_come_to_the_socket_of_their_worker() {
    if !root() {
        return;
    }
    let (space, steering) = (Space::new("ss"), Steering::new(7, 3));
    let [here, there] = [[127, 0, 0, 1], [127, 0, 0, 2]].map(IpAddr::from);
    let shared = UnderlaySpec {
        shared: Some(steering),
        ..UnderlaySpec::new(there)
    };
    let open = |spec: &UnderlaySpec| space.run(|| UdpUnderlay::open(spec).unwrap());
    let mut workers = [0; 3].map(|_| open(&shared));
    let mut sender = open(&UnderlaySpec::new(here));
    let mut pool = PacketPool::new(512, 64);
    let mut sent: Vec<_> = (0..60)
        .flat_map(|port| [false, true].map(|v6| FrameBuilder::tcp(v6, 1000 + port, 80).build()))
        .map(|frame| Tunnelled {
            packet: packet(&mut pool, &frame, Origin::Port(PortId(0))),
            vni: Vni::try_from(100).unwrap(),
            vtep: there,
            nsh: None,
        })
        .collect();
    // One at a time: frames that share a send come where the first of them belongs.
    let mut unsent = vec![];
    for frame in sent.drain(..) {
        assert_eq!(sender.tx(&mut pool, &mut vec![frame], &mut unsent), 1);
    }
    let mut counts = [0; 3];
    for (worker, underlay) in (0u16..).zip(&mut workers) {
        let (mut got, mut refused) = (vec![], vec![]);
        while underlay.rx(&mut pool, &|_| true, &mut got, &mut refused) == Rx::More {}
        for Tunnelled { packet, .. } in got {
            assert_eq!(home(&steering, &packet), Some(worker));
            counts[usize::from(worker)] += 1;
        }
    }
    assert_eq!(counts.iter().sum::<u32>(), 120);
    assert!(counts.iter().all(|c| *c > 15), "{counts:?}");
}

#[test]
fn a_tap_outlives_its_switch_with_addresses_untouched() {
    if !root() {
        return;
    }
    let (a, b) = (Space::new("pa"), Space::new("pb"));
    let at = place(&a, "overweave one");
    let first = Tap::create(&at, &spec(1, 1400)).unwrap();
    assert!(first.offloads().tso);
    let busy = Tap::open(&at, NonZeroU16::new(300).unwrap());
    assert!(matches!(busy, Err(TapError::Busy { .. })), "{busy:?}");
    drop(first);
    ip(&format!("-n {} addr add 10.77.0.1/32 dev eth0", a.0));
    let again = Tap::open(&at, NonZeroU16::MIN).unwrap();
    let patch = Patch::ports(again.into_queues().pop().unwrap(), queue(&b, 2, 1400));
    transfer(&b, &a, v4(1), 1 << 20);
    drop(patch);
    let shown = Command::new("ip")
        .args(["-n", &a.0, "-o", "addr", "show", "eth0"])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    for address in ["10.77.0.1/32", "10.9.0.1/24", "fd09::1/64"] {
        assert!(shown.contains(address), "{shown}");
    }
    let routes = Command::new("ip")
        .args(["-n", &a.0, "route"])
        .output()
        .unwrap();
    let routes = String::from_utf8(routes.stdout).unwrap();
    assert!(routes.contains("default via 10.9.0.254"), "{routes}");
    // Made again it is the same; for another owner the name is taken.
    drop(Tap::create(&at, &spec(1, 1300)).unwrap());
    let other = Tap::create(&place(&a, "overweave two"), &spec(1, 1400));
    assert!(
        matches!(other, Err(TapError::NameTaken { .. })),
        "{other:?}"
    );
    let other = Tap::delete(&place(&a, "overweave two"));
    assert!(
        matches!(other, Err(TapError::NameTaken { .. })),
        "{other:?}"
    );
    Tap::delete(&at).unwrap();
    Tap::delete(&at).unwrap();
    let gone = Tap::open(&at, NonZeroU16::MIN);
    assert!(matches!(gone, Err(TapError::Missing { .. })), "{gone:?}");
}

#[test]
fn a_taken_name_and_a_missing_namespace_are_told_apart_and_leave_nothing() {
    if !root() {
        return;
    }
    let a = Space::new("na");
    ip(&format!(
        "-n {} link add eth0 type veth peer name other",
        a.0
    ));
    let taken = Tap::create(&place(&a, "overweave"), &spec(1, 1500));
    assert!(
        matches!(taken, Err(TapError::NameTaken { .. })),
        "{taken:?}"
    );
    let mut nowhere = place(&a, "overweave");
    nowhere.netns = Netns::named("no-such-namespace");
    let missing = Tap::create(&nowhere, &spec(1, 1500));
    let Err(TapError::Netns { source, .. }) = missing else {
        panic!("{missing:?}")
    };
    assert!(matches!(source, NetnsError::Missing { .. }));
    Tap::delete(&nowhere).unwrap();
    // One that fails halfway is not left: an address that no device can have.
    let mut wrong = spec(1, 1500);
    wrong.addresses.push((v4(1), 77));
    let mut at = place(&a, "overweave");
    at.ifname = "half".parse().unwrap();
    assert!(matches!(
        Tap::create(&at, &wrong),
        Err(TapError::Kernel { .. })
    ));
    let shown = Command::new("ip")
        .args(["-n", &a.0, "link", "show", "half"])
        .output();
    assert!(!shown.unwrap().status.success());
}

#[test]
fn a_device_that_is_down_refuses_by_name_and_one_that_went_is_gone() {
    if !root() {
        return;
    }
    let a = Space::new("da");
    let mut tap = queue(&a, 1, 1500);
    let mut pool = PacketPool::new(64, 8);
    let (mut batch, mut refused) = (Batch::new(), vec![]);
    ip(&format!("-n {} link set eth0 down", a.0));
    let mut packet = pool.take_small().unwrap();
    packet.fill(&[2; 60]).unwrap();
    batch.push(packet).unwrap();
    assert_eq!(tap.tx(&mut pool, &mut batch, &mut refused), 0);
    let reasons: Vec<_> = refused.iter().map(|(_, r)| *r).collect();
    assert_eq!(reasons, [net::DropReason::PortSend]);
    ip(&format!("-n {} link del eth0", a.0));
    let deadline = Instant::now() + Duration::from_secs(10);
    while tap.rx(&mut pool, &mut batch, &mut refused) != vswitch::io::Rx::Gone {
        assert!(Instant::now() < deadline);
        batch.drain().for_each(|p| pool.give(p));
        std::thread::yield_now();
    }
}

/// A switch's host and a kernel VTEP, joined by a wire of this MTU; the kernel's workload has address 2.
fn kernel_peer(name: &str, underlay_v6: bool, underlay_mtu: u32) -> (Space, Space, IpAddr, IpAddr) {
    let (h, k) = (
        Space::new(&format!("{name}h")),
        Space::new(&format!("{name}k")),
    );
    let (local, remote) = if underlay_v6 {
        ("fd55::1", "fd55::2")
    } else {
        ("192.0.2.1", "192.0.2.2")
    };
    let length = if underlay_v6 { 64 } else { 24 };
    ip(&format!(
        "-n {} link add u0 mtu {underlay_mtu} type veth peer name u0 mtu {underlay_mtu} netns {}",
        h.0, k.0
    ));
    for (space, address) in [(&h, local), (&k, remote)] {
        let nodad = if underlay_v6 { "nodad" } else { "" };
        ip(&format!(
            "-n {} addr add {address}/{length} dev u0 {nodad}",
            space.0
        ));
        ip(&format!("-n {} link set u0 up", space.0));
    }
    ip(&format!(
        "-n {} link add vx0 address 02:00:00:00:00:02 mtu 1450 type vxlan id 100 \
         local {remote} remote {local} dstport 4789 udp6zerocsumrx",
        k.0
    ));
    ip(&format!("-n {} addr add 10.9.0.2/24 dev vx0", k.0));
    ip(&format!("-n {} addr add fd09::2/64 dev vx0 nodad", k.0));
    ip(&format!("-n {} link set vx0 up", k.0));
    (h, k, local.parse().unwrap(), remote.parse().unwrap())
}

fn talk_to_kernel(name: &str, underlay_v6: bool, underlay_mtu: u32, both: bool) -> Arc<Moved> {
    let (h, k, local, remote) = kernel_peer(name, underlay_v6, underlay_mtu);
    let w = Space::new(&format!("{name}w"));
    let underlay = h.run(|| UdpUnderlay::open(&UnderlaySpec::new(local)).unwrap());
    assert!(underlay.has_gso());
    let patch = Patch::tunnel(queue(&w, 1, 1450), underlay, remote);
    let len = if both { 20 << 20 } else { 1 << 20 };
    transfer(&w, &k, v4(2), len);
    transfer(&w, &k, v6(2), len);
    if both {
        transfer(&k, &w, v4(1), len);
        transfer(&k, &w, v6(1), len);
        let udp = w.run(|| UdpSocket::bind((v4(1), 0)).unwrap());
        udp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let echo = k.run(|| UdpSocket::bind((v4(2), 0)).unwrap());
        echo.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let to: SocketAddr = echo.local_addr().unwrap();
        let mut buffer = [0; 1500];
        for len in [0, 1, 64, 1400] {
            udp.send_to(&vec![7; len], to).unwrap();
            let (got, from) = echo.recv_from(&mut buffer).unwrap();
            echo.send_to(&vec![8; got], from).unwrap();
            assert_eq!(udp.recv(&mut buffer).unwrap(), len);
        }
    }
    no_checksum_errors(&[&w, &k, &h]);
    let sent = w.counter("Tcp:", "OutSegs") + k.counter("Tcp:", "OutSegs");
    let repeated = w.counter("Tcp:", "RetransSegs") + k.counter("Tcp:", "RetransSegs");
    assert!(
        repeated * 100 <= sent,
        "{repeated} of {sent} segments repeated"
    );
    Arc::clone(&patch.moved)
}

#[test]
fn a_kernel_vtep_understands_and_is_understood() {
    if !root() {
        return;
    }
    for v6 in [false, true] {
        let moved = talk_to_kernel(if v6 { "k6" } else { "k4" }, v6, 1600, true);
        assert!(Moved::of(&moved.super_frames) > 100);
        assert!(Moved::of(&moved.segments) > 3 * Moved::of(&moved.packets));
    }
}

#[test]
fn tcp_is_cut_at_the_path_where_the_underlay_is_too_small() {
    if !root() {
        return;
    }
    talk_to_kernel("s4", false, 1300, false);
}
