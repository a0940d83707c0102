//! What crosses the underlay, and what does not.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use net::{
    Checksum, Copied, DropReason, Gso, Mac, Offload,
    testkit::{self, FrameBuilder},
};
use tests::{
    fabric::{Build, Fabric, payloads},
    plan::{Plan, PortUuid, vtep},
    traffic::{Between, answer, dhcp_discover, who_has},
};
use vswitch::io::memory::{Frame, Weather};

/// A VXLAN datagram of any content, as a sender on the underlay would make it.
fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = vni.to_be_bytes();
    [&[8, 0, 0, 0, a, b, c, 0][..], frame].concat()
}

/// Two open ports on two hosts.
fn two() -> (Fabric, PortUuid, PortUuid) {
    let mut plan = Plan::new(2);
    let net = plan.network("net");
    let open = plan.open_group();
    let (a, b) = (plan.port(0, net, &[open]), plan.port(1, net, &[open]));
    (Fabric::new(plan), a, b)
}

fn drops_of(fabric: &mut Fabric, from: IpAddr, datagram: Vec<u8>) -> (usize, Vec<DropReason>) {
    let before = fabric.total();
    fabric.wires().inject(from, vtep(1), datagram);
    fabric.settle();
    let after = fabric.total();
    let made = |r: &&DropReason| after.dropped(**r) > before.dropped(**r);
    let drops = DropReason::ALL.iter().filter(made).copied().collect();
    (fabric.receive().len(), drops)
}

#[test]
fn vxlan_is_taken_from_known_vteps_alone() {
    for v6 in [false, true] {
        let (mut fabric, a, b) = two();
        let plan = fabric.plan.clone();
        let between = Between {
            plan: &plan,
            from: a,
            to: b,
            v6,
        };
        let frame = between.udp(1, 2).build();
        let stranger: IpAddr = if v6 { "2001:db8::9" } else { "198.51.100.9" }
            .parse()
            .unwrap();
        let good = vxlan(5000, &frame);
        assert_eq!(
            drops_of(&mut fabric, stranger, good.clone()),
            (0, vec![DropReason::UnknownVtep])
        );
        assert_eq!(drops_of(&mut fabric, vtep(0), good.clone()), (1, vec![]));
        let elsewhere = vxlan(4999, &frame);
        assert_eq!(
            drops_of(&mut fabric, vtep(0), elsewhere),
            (0, vec![DropReason::UnknownVni])
        );
        let mut flagless = good.clone();
        flagless[0] = 0;
        assert_eq!(
            drops_of(&mut fabric, vtep(0), flagless),
            (0, vec![DropReason::MalformedVxlan])
        );
        assert_eq!(
            drops_of(&mut fabric, vtep(0), vec![8, 0, 0]),
            (0, vec![DropReason::MalformedVxlan])
        );
        assert_eq!(
            drops_of(&mut fabric, vtep(0), vxlan(5000, &frame[..9])),
            (0, vec![DropReason::MalformedEthernet])
        );
        // A frame whose source is on this very host comes from a loop, or a liar.
        let mirrored = Between {
            plan: &plan,
            from: b,
            to: b,
            v6,
        };
        let forged = vxlan(5000, &mirrored.udp(1, 2).build());
        assert_eq!(
            drops_of(&mut fabric, vtep(0), forged),
            (0, vec![DropReason::TunnelSpoof])
        );
        // Declared, it is known.
        fabric.plan.foreign_vtep(stranger);
        fabric.apply();
        assert_eq!(drops_of(&mut fabric, stranger, good), (1, vec![]));
    }
}

#[test]
fn a_flooded_frame_reaches_everyone_once_and_never_returns() {
    let mut plan = Plan::new(4);
    let (red, blue) = (plan.network("red"), plan.network("blue"));
    let open = plan.open_group();
    let reds: Vec<_> = [0, 0, 0, 1, 1, 2]
        .map(|h| plan.port(h, red, &[open]))
        .into();
    for host in 0..4 {
        plan.port(host, blue, &[open]);
    }
    let mut fabric = Fabric::new(plan);
    for (n, sender) in reds.iter().enumerate() {
        for nobody in ["10.0.0.250", "fd00::250"] {
            let asked = who_has(&fabric.plan, *sender, nobody.parse().unwrap());
            let sent = fabric.wires().counts().sent;
            let received = fabric.send(*sender, &asked);
            let to: Vec<_> = received.iter().map(|r| r.port).collect();
            let mut others = reds.clone();
            others.remove(n);
            assert_eq!(to, others);
            assert!(received.iter().all(|r| r.frame.bytes == asked));
            // One copy a remote VTEP with a port of the network; host 3 has none.
            assert_eq!(fabric.wires().counts().sent - sent, 2);
        }
    }
    assert!(fabric.copied(Copied::Flood) > 0);
}

#[test]
fn tenants_with_the_same_addresses_never_meet() {
    let mut plan = Plan::new(2);
    let open = plan.open_group();
    let tenants: Vec<Vec<_>> = ["red", "blue", "green"]
        .map(|name| {
            let net = plan.network(name);
            [0, 0, 1, 1].map(|h| plan.port(h, net, &[open])).into()
        })
        .into();
    let mut fabric = Fabric::new(plan);
    let plan = fabric.plan.clone();
    for v6 in [false, true] {
        for tenant in &tenants {
            for from in tenant {
                for to in tenant.iter().filter(|to| *to != from) {
                    let between = Between {
                        plan: &plan,
                        from: *from,
                        to: *to,
                        v6,
                    };
                    let frames = [between.udp(1, 2), between.syn(1, 2), between.echo(3)];
                    for frame in frames {
                        let received = fabric.send(*from, &frame.build());
                        let ports: Vec<_> = received.iter().map(|r| r.port).collect();
                        assert_eq!(ports, [*to]);
                    }
                }
            }
        }
    }
}

#[test]
fn questions_are_answered_at_home() {
    let (mut fabric, a, b) = two();
    let plan = fabric.plan.clone();
    let sent = fabric.wires().counts().sent;
    for v6 in [false, true] {
        let between = Between {
            plan: &plan,
            from: a,
            to: b,
            v6,
        };
        let received = fabric.send(a, &between.who_has());
        assert_eq!(received.len(), 1);
        assert_eq!(received[0].port, a);
        let (_, key) = net::Headers::parse(&received[0].frame.bytes).unwrap();
        assert_eq!(Mac::new(key.link_addr), plan.mac(b));
        assert_eq!(key.dst_mac(), plan.mac(a));
        if v6 {
            assert!(testkit::checksums_hold(&received[0].frame.bytes));
        }
    }
    let received = fabric.send(a, &dhcp_discover(plan.mac(a)));
    assert_eq!(received.len(), 1);
    let offer = &received[0].frame.bytes;
    assert!(testkit::checksums_hold(offer));
    let message = &offer[42..];
    assert_eq!(message[16..20], [10, 0, 0, 10], "its own address");
    assert_eq!(message[4..8], [0, 0, 0, 7], "its own question");
    let options = &message[240..];
    let mtu = options.windows(4).any(|w| w == [26, 2, 5, 170]);
    assert!(mtu, "option 26 says 1450");
    assert_eq!(
        fabric.wires().counts().sent,
        sent,
        "nothing went over the wire"
    );
}

#[test]
fn a_port_that_moves_is_found_where_it_is_now() {
    for v6 in [false, true] {
        let mut plan = Plan::new(3);
        let net = plan.network("net");
        let open = plan.open_group();
        let (a, b) = (plan.port(0, net, &[open]), plan.port(1, net, &[open]));
        let mut fabric = Fabric::new(plan);
        for host in [1, 2, 0, 1] {
            fabric.plan.move_to(b, host);
            fabric.apply();
            let plan = fabric.plan.clone();
            let there = Between {
                plan: &plan,
                from: a,
                to: b,
                v6,
            };
            let received = fabric.send(a, &there.udp(4000, 53).build());
            assert_eq!(received.len(), 1, "b is on host {host}");
            assert_eq!(received[0].port, b);
            let back = answer(&received[0].frame.bytes, b"here").unwrap();
            let received = fabric.send(b, &back);
            assert_eq!(received.len(), 1, "b is on host {host}");
            assert_eq!(received[0].port, a);
        }
    }
}

#[test]
fn an_endpoint_behind_a_foreign_vtep_is_reached_and_heard() {
    let foreign: IpAddr = "192.0.2.200".parse().unwrap();
    let mut plan = Plan::new(2);
    let net = plan.network("net");
    let open = plan.open_group();
    let a = plan.port(0, net, &[open]);
    plan.port(1, net, &[open]);
    plan.foreign_vtep(foreign);
    let far = plan.endpoint(net, foreign);
    let mut fabric = Fabric::new(plan);
    let plan = fabric.plan.clone();
    for v6 in [false, true] {
        let there = Between {
            plan: &plan,
            from: a,
            to: far,
            v6,
        };
        let before = fabric.wires().counts();
        let (received, drops) = fabric.send_judged(a, &there.udp(1, 2).build());
        assert_eq!((received.len(), drops.len()), (0, 0));
        let after = fabric.wires().counts();
        assert_eq!(after.sent - before.sent, 1);
        let back = Between {
            plan: &plan,
            from: far,
            to: a,
            v6,
        };
        fabric
            .wires()
            .inject(foreign, vtep(0), vxlan(5000, &back.udp(2, 1).build()));
        fabric.settle();
        assert_eq!(fabric.receive_at(a).len(), 1);
    }
}

/// A TCP super-frame as a guest's kernel hands it over: checksum still to be made, to be cut at `size`.
fn super_frame(between: &Between<'_>, bytes: usize, size: u16) -> Frame {
    let payload: Vec<u8> = (0..bytes).map(|n| n.to_le_bytes()[0]).collect();
    let mut frame = between
        .ack(4000, 80)
        .seq(101, 1001)
        .payload(&payload)
        .build();
    let (headers, key) = net::Headers::parse(&frame).unwrap();
    let at = usize::from(headers.l4_at);
    // The field holds the pseudo-header's sum (virtio 1.2 §5.1.6.2).
    let mut pseudo = vec![];
    match (key.src_addr(), key.dst_addr()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            pseudo.extend(s.octets());
            pseudo.extend(d.octets());
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            pseudo.extend(s.octets());
            pseudo.extend(d.octets());
        }
        _ => unreachable!("addresses of one family"),
    }
    pseudo.extend([0, 6]);
    let length = u32::try_from(frame.len() - at).unwrap();
    pseudo.extend(length.to_be_bytes());
    let sum = net::checksum::sum(&pseudo);
    frame[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
    Frame {
        bytes: frame,
        offload: Offload {
            checksum: Checksum::Partial {
                start: headers.l4_at,
                offset: 16,
            },
            gso: Gso::Tcp { size, ecn: false },
        },
    }
}

#[test]
fn big_frames_stay_big_on_a_host_and_arrive_whole_over_the_tunnel() {
    for v6 in [false, true] {
        for host in [0, 1] {
            let mut plan = Plan::new(2);
            let net = plan.network("net");
            let open = plan.open_group();
            let (a, b) = (plan.port(0, net, &[open]), plan.port(host, net, &[open]));
            let mut fabric = Fabric::new(plan);
            let plan = fabric.plan.clone();
            let between = Between {
                plan: &plan,
                from: a,
                to: b,
                v6,
            };
            let open = fabric.send(a, &between.syn(4000, 80).build());
            let back = answer(&open[0].frame.bytes, b"").unwrap();
            let received = fabric.send(b, &back);
            let ack = answer(&received[0].frame.bytes, b"").unwrap();
            fabric.send(a, &ack);
            let bytes = 30_000;
            let big = super_frame(&between, bytes, 1300);
            let before = fabric.ledger(0).rx;
            fabric.inject(a, big.clone());
            fabric.settle();
            let segments = u64::try_from(bytes.div_ceil(1300)).unwrap();
            assert_eq!(
                fabric.ledger(0).rx - before,
                segments,
                "a super-frame counts its segments"
            );
            let frames = fabric.receive_at(b);
            if host == 0 {
                assert_eq!(frames, [big], "nothing was touched");
            }
            let mut got: Vec<u8> = vec![];
            for frame in &frames {
                let (headers, _) = net::Headers::parse(&frame.bytes).unwrap();
                got.extend(&frame.bytes[usize::from(headers.payload_at)..]);
                let whole = frame.offload == Offload::default();
                assert!(!whole || testkit::checksums_hold(&frame.bytes));
            }
            let sent: Vec<u8> = (0..bytes).map(|n| n.to_le_bytes()[0]).collect();
            assert_eq!(got, sent, "v6 {v6}, host {host}");
            assert!(
                frames.len() <= 2,
                "a train arrives coalesced: {} frames",
                frames.len()
            );
        }
    }
}

/// Whatever the wire does, what arrives was sent, and every packet has a name.
#[test]
fn bad_weather_loses_and_repeats_but_invents_nothing() {
    let weather = Weather {
        delay: Duration::from_millis(2),
        jitter: Duration::from_millis(5),
        reorder: 200_000,
        loss: 100_000,
        duplicate: 50_000,
        ..Weather::default()
    };
    for seed in 1..5 {
        let mut plan = Plan::new(2);
        let net = plan.network("net");
        let open = plan.open_group();
        let (a, b) = (plan.port(0, net, &[open]), plan.port(1, net, &[open]));
        let mut fabric = Fabric::build(
            plan,
            Build {
                weather,
                seed,
                workers: 2,
                ..Build::default()
            },
        );
        let plan = fabric.plan.clone();
        let (mut sent, mut arrived) = (BTreeSet::new(), vec![]);
        for n in 0..500u16 {
            let between = Between {
                plan: &plan,
                from: a,
                to: b,
                v6: n % 2 == 0,
            };
            let frame = between
                .udp(4000 + n % 7, 53)
                .payload(&n.to_be_bytes())
                .build();
            sent.insert(n.to_be_bytes().to_vec());
            arrived.extend(fabric.send(a, &frame));
            fabric.advance(Duration::from_micros(100));
        }
        fabric.advance(Duration::from_millis(50));
        arrived.extend(fabric.receive());
        let received: Vec<_> = arrived.iter().flat_map(|r| payloads(&r.frame)).collect();
        assert!(arrived.iter().all(|r| r.port == b));
        let counts = fabric.wires().counts();
        assert_eq!(counts.sent, 500);
        assert_eq!(counts.delivered, 500 - counts.lost + counts.duplicated);
        assert_eq!(u64::try_from(received.len()).unwrap(), counts.delivered);
        assert!(counts.lost > 10 && counts.duplicated > 5, "{counts:?}");
        assert!(received.iter().all(|payload| sent.contains(payload)));
    }
}

#[test]
fn what_is_down_neither_sends_nor_receives() {
    for host in [0, 1] {
        let mut plan = Plan::new(2);
        let net = plan.network("net");
        let open = plan.open_group();
        let (a, b) = (plan.port(0, net, &[open]), plan.port(host, net, &[open]));
        let mut fabric = Fabric::new(plan);
        let plan = fabric.plan.clone();
        let there = Between {
            plan: &plan,
            from: a,
            to: b,
            v6: false,
        }
        .udp(1, 2)
        .build();
        let back = Between {
            plan: &plan,
            from: b,
            to: a,
            v6: false,
        }
        .udp(2, 1)
        .build();
        assert_eq!(fabric.send(a, &there).len(), 1);
        fabric.plan.get_mut(b).admin_up = false;
        fabric.apply();
        let down = |f: &mut Fabric, port, frame: &[u8]| {
            let (received, drops) = f.send_judged(port, frame);
            assert_eq!(received, []);
            assert_eq!(drops, [DropReason::AdminDown]);
        };
        down(&mut fabric, a, &there);
        down(&mut fabric, b, &back);
        fabric.plan.get_mut(b).admin_up = true;
        fabric.plan.network_mut(net).admin_up = false;
        fabric.apply();
        down(&mut fabric, a, &there);
        fabric.plan.network_mut(net).admin_up = true;
        fabric.apply();
        assert_eq!(fabric.send(a, &there).len(), 1);
    }
}

/// RFC 826: the question of a port about its own address is an announcement, and goes to all.
#[test]
fn an_announcement_is_not_answered_but_told() {
    let (mut fabric, a, b) = two();
    let own = match fabric.plan.addr(a, false) {
        IpAddr::V4(own) => own,
        IpAddr::V6(_) => unreachable!("ipv4 was asked for"),
    };
    let mac = fabric.plan.mac(a);
    let announced = FrameBuilder::arp(1, (mac, own), (Mac::ZERO, own));
    let received = fabric.send(a, &announced);
    let ports: Vec<_> = received.iter().map(|r| r.port).collect();
    assert_eq!(ports, [b]);
}
