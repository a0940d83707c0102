//! Two hosts on a wire, an uplink tap on each: does a super-frame cross whole, over either family? Needs root.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{
    net::IpAddr,
    num::NonZeroU16,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use net::{
    Checksum, Gso, Offload, Origin, PacketPool, PortId, Vni,
    checksum::{add, fold},
    testkit::{FrameBuilder, packet},
};
use tests::netns::allowed;
use vswitch::io::{
    Rx, Tunnelled, Underlay,
    netns::Netns,
    underlay::{UdpUnderlay, UnderlaySpec},
    uplink::{TapUnderlay, Uplink, UplinkCounters},
};

fn ip(words: &str) -> String {
    let done = Command::new("ip").args(words.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "ip {words}: {error}");
    String::from_utf8(done.stdout).unwrap()
}

/// Two namespaces and a wire between them.
struct Wire {
    name: String,
}

impl Wire {
    fn new(what: &str) -> Self {
        let name = format!("t-up{what}-{}", std::process::id());
        ip(&format!("netns add {name}-1"));
        let wire = Self { name };
        let name = &wire.name;
        ip(&format!("netns add {name}-2"));
        ip(&format!(
            "-n {name}-1 link add wire mtu 1500 type veth peer name wire netns {name}-2"
        ));
        for host in [1, 2] {
            ip(&format!(
                "-n {name}-{host} addr add 192.0.2.{host}/24 dev wire"
            ));
            ip(&format!(
                "-n {name}-{host} addr add 2001:db8::{host}/64 dev wire nodad"
            ));
            ip(&format!("-n {name}-{host} link set wire up"));
        }
        wire
    }

    fn inside<T: Send>(&self, host: u8, work: impl FnOnce() -> T + Send) -> T {
        let netns = Netns::named(&format!("{}-{host}", self.name));
        netns.enter(work).unwrap()
    }

    fn sockets(&self, host: u8, v6: bool) -> UdpUnderlay {
        let spec = UnderlaySpec::new(address(host, v6));
        self.inside(host, || UdpUnderlay::open(&spec)).unwrap()
    }

    fn tap(&self, host: u8, v6: bool) -> (TapUnderlay, Arc<UplinkCounters>) {
        let udp = self.sockets(host, v6);
        let counters = Arc::<UplinkCounters>::default();
        let counted = Arc::clone(&counters);
        let tap = self.inside(host, || {
            let mut uplink = Uplink::open(address(host, v6), NonZeroU16::MIN).unwrap();
            assert_eq!(uplink.link(), "wire");
            uplink.queue(udp, counted).unwrap()
        });
        (tap, counters)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for host in [1, 2] {
            let name = format!("{}-{host}", self.name);
            // Half made where a test failed early.
            let deleted = Command::new("ip").args(["netns", "del", &name]).status();
            assert!(deleted.is_ok());
        }
    }
}

fn address(host: u8, v6: bool) -> IpAddr {
    if v6 {
        format!("2001:db8::{host}").parse().unwrap()
    } else {
        [192, 0, 2, host].into()
    }
}

fn pool() -> PacketPool {
    PacketPool::new(1000, 100)
}

fn vni() -> Vni {
    Vni::try_from(5001).unwrap()
}

fn frame(pool: &mut PacketPool, bytes: &[u8], vtep: IpAddr) -> Tunnelled {
    Tunnelled {
        packet: packet(pool, bytes, Origin::Port(PortId(0))),
        vni: vni(),
        vtep,
        nsh: None,
    }
}

/// A super-frame with the checksum that a tap leaves in it.
fn super_frame(pool: &mut PacketPool, v6: bool, gso: Gso, vtep: IpAddr) -> Tunnelled {
    let udp = matches!(gso, Gso::Udp { .. });
    let data: Vec<u8> = (0..20_000u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    let built = if udp {
        FrameBuilder::udp(v6, 7, 80)
    } else {
        FrameBuilder::tcp(v6, 7, 80)
    };
    let mut frame = frame(pool, &built.payload(&data).build(), vtep);
    let headers = *frame.packet.headers();
    let (start, offset) = (headers.l4_at, if udp { 6 } else { 16 });
    let (l3, l4) = (usize::from(headers.l3_at), usize::from(start));
    let bytes = frame.packet.bytes_mut();
    let addresses = if v6 {
        l3 + 8..l3 + 40
    } else {
        l3 + 12..l3 + 20
    };
    let protocol = if udp { 17 } else { 6 };
    let sum = add(protocol + (bytes.len() - l4) as u64, &bytes[addresses]);
    let at = l4 + usize::from(offset);
    bytes[at..at + 2].copy_from_slice(&fold(sum).to_be_bytes());
    let checksum = Checksum::Partial { start, offset };
    frame.packet.set_offload(Offload { checksum, gso });
    frame
}

/// Sends what `make` makes until something arrives, and returns that; once the tap's way is known, over it.
fn cross(
    (from, to): (&mut dyn Underlay, &mut dyn Underlay),
    pool: &mut PacketPool,
    make: &mut dyn FnMut(&mut PacketPool) -> Vec<Tunnelled>,
    enough: &mut dyn FnMut(&[Tunnelled]) -> bool,
) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (mut out, mut refused, mut unsent) = (vec![], vec![], vec![]);
        let mut frames = make(pool);
        from.tx(pool, &mut frames, &mut unsent);
        assert!(unsent.is_empty(), "{unsent:?}");
        for _ in 0..50 {
            let end = to.rx(pool, &|_| true, &mut out, &mut refused);
            assert!(matches!(end, Rx::More | Rx::Drained), "{end:?}");
            std::thread::yield_now();
        }
        assert!(refused.is_empty(), "{refused:?}");
        let done = enough(&out);
        for frame in out {
            pool.give(frame.packet);
        }
        if done {
            return;
        }
        assert!(Instant::now() < deadline, "nothing of the kind came");
    }
}

#[test]
fn super_frames_cross_whole_over_both_families() {
    if !allowed() {
        return;
    }
    let wire = Wire::new("whole");
    for outer6 in [false, true] {
        let (mut a, sent) = wire.tap(1, outer6);
        let (mut b, got) = wire.tap(2, outer6);
        let mut pool = pool();
        let vtep = address(2, outer6);
        let tcp = Gso::Tcp {
            size: 1300,
            ecn: false,
        };
        let ecn = Gso::Tcp {
            size: 1300,
            ecn: true,
        };
        for (inner6, gso) in [
            (false, tcp),
            (true, tcp),
            (false, ecn),
            (false, Gso::Udp { size: 1000 }),
            (true, Gso::Udp { size: 1000 }),
        ] {
            let expected = super_frame(&mut pool, inner6, gso, vtep);
            let before = sent.read();
            cross(
                (&mut a, &mut b),
                &mut pool,
                &mut |pool| vec![super_frame(pool, inner6, gso, vtep)],
                &mut |out| {
                    let whole = |t: &&Tunnelled| t.packet.bytes() == expected.packet.bytes();
                    let found = out.iter().find(whole);
                    // The first ones may take the sockets, until the kernel knows its neighbour.
                    let by_tap = sent.read().tx_tap > before.tx_tap;
                    if let (Some(t), true) = (found, by_tap) {
                        assert_eq!((t.vni, t.vtep), (vni(), address(1, outer6)));
                        assert_eq!(t.packet.offload(), expected.packet.offload());
                        return true;
                    }
                    false
                },
            );
            pool.give(expected.packet);
        }
        assert!(got.read().rx_tap > 0);
    }
}

#[test]
fn taps_and_sockets_understand_each_other() {
    if !allowed() {
        return;
    }
    let wire = Wire::new("mixed");
    for v6 in [false, true] {
        let (mut tap, counted) = wire.tap(1, v6);
        let mut sockets = wire.sockets(2, v6);
        let mut pool = pool();
        let gso = Gso::Tcp {
            size: 1300,
            ecn: false,
        };
        let payload = |out: &[Tunnelled]| -> usize {
            let payload =
                |t: &Tunnelled| t.packet.len() - usize::from(t.packet.headers().payload_at);
            out.iter().map(payload).sum()
        };
        let mut to_sockets =
            |pool: &mut PacketPool| vec![super_frame(pool, false, gso, address(2, v6))];
        cross(
            (&mut tap, &mut sockets),
            &mut pool,
            &mut to_sockets,
            &mut |out| counted.read().tx_tap > 0 && payload(out) == 20_000,
        );
        let mut to_tap = |pool: &mut PacketPool| vec![super_frame(pool, true, gso, address(1, v6))];
        let before = counted.read();
        cross(
            (&mut sockets, &mut tap),
            &mut pool,
            &mut to_tap,
            &mut |out| out.len() == 1 && out[0].packet.segments() == 16 && payload(out) == 20_000,
        );
        let after = counted.read();
        assert!(after.rx_tap >= before.rx_tap + 16);
        assert_eq!(
            after.rx_socket, before.rx_socket,
            "nothing passed the tap by"
        );
        // A single frame arrives with its checksum made.
        let small = FrameBuilder::udp(false, 1, 2).payload(b"small").build();
        let mut single = |pool: &mut PacketPool| vec![frame(pool, &small, address(2, v6))];
        let before = counted.read().tx_tap;
        cross(
            (&mut tap, &mut sockets),
            &mut pool,
            &mut single,
            &mut |out| {
                let arrived = out.iter().any(|t| t.packet.bytes() == small);
                arrived && counted.read().tx_tap > before
            },
        );
    }
}

#[test]
fn nothing_is_left_when_the_uplink_goes() {
    if !allowed() {
        return;
    }
    let wire = Wire::new("gone");
    let name = &wire.name;
    let links = || ip(&format!("-n {name}-1 -o link"));
    let (tap, _) = wire.tap(1, false);
    assert!(links().contains("ow-up0"));
    // Another switch of the same host has its own.
    let (other, _) = wire.tap(1, true);
    assert!(links().contains("ow-up1"));
    drop(tap);
    drop(other);
    assert!(!links().contains("ow-up"));
    let lo = wire.inside(1, || Uplink::open([127, 0, 0, 1].into(), NonZeroU16::MIN));
    assert!(lo.is_err(), "loopback is no Ethernet");
    let stranger = wire.inside(1, || Uplink::open([192, 0, 2, 9].into(), NonZeroU16::MIN));
    assert!(stranger.is_err(), "nobody has that address");
    assert!(!links().contains("ow-up"));
}
