//! Stacks that ask for their addresses: leases, renewals, and servers that nobody asked for.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use dhcproto::{
    Decodable, Decoder, Encodable,
    v4::{DhcpOption, Message, MessageType, Opcode},
};
use hostconfig::network::{Dhcp, Route};
use net::{DropReason, Originated};
use tests::{
    fabric::Build,
    plan::{NetId, Plan, PortUuid},
    stack::{Lease, Site},
};

const SECOND: Duration = Duration::from_secs(1);
/// Where nobody routes, the metadata service is on the link.
const METADATA: (Ipv4Addr, u8, Ipv4Addr) =
    (Ipv4Addr::new(169, 254, 169, 254), 32, Ipv4Addr::UNSPECIFIED);

fn v4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n)
}

/// Ports on these hosts, everything allowed; none of them has been started.
fn ports<const N: usize>(hosts: [usize; N]) -> (Plan, NetId, [PortUuid; N]) {
    let mut plan = Plan::new(2);
    let net = plan.network("net");
    let open = plan.open_group();
    let ports = hosts.map(|host| plan.port(host, net, &[open]));
    (plan, net, ports)
}

fn dhcp_mut(plan: &mut Plan, net: NetId) -> &mut Dhcp {
    plan.network_mut(net).subnets[0].dhcp.as_mut().unwrap()
}

/// Starts a DHCP client behind each port.
fn site(plan: Plan, clients: &[PortUuid]) -> Site {
    let mut site = Site::new(plan, Build::default());
    for port in clients {
        site.boot_with_dhcp(*port);
    }
    site
}

fn leased(site: &mut Site, port: PortUuid) -> Lease {
    let got = site.run(30 * SECOND, |site| site.lease(port).is_some());
    assert!(got, "a lease within 30 s");
    site.lease(port).unwrap().clone()
}

#[test]
fn a_client_is_told_all_that_its_subnet_says() {
    let (mut plan, net, [a, b]) = ports([0, 1]);
    plan.network_mut(net).mtu = 1400u32.try_into().unwrap();
    plan.network_mut(net).subnets[0].gateway = Some(v4(1).into());
    let dhcp = dhcp_mut(&mut plan, net);
    dhcp.lease_seconds = 7200;
    dhcp.dns = vec![v4(3), v4(4)];
    dhcp.domain = "blue.example".into();
    dhcp.routes = vec![
        Route {
            destination: "172.16.0.0/12".parse().unwrap(),
            nexthop: v4(5).into(),
        },
        Route {
            destination: "192.0.2.7/32".parse().unwrap(),
            nexthop: v4(6).into(),
        },
    ];
    let mut site = site(plan, &[a]);
    let lease = leased(&mut site, a);
    let told = Lease {
        address: "10.0.0.10/24".parse().unwrap(),
        server: v4(2),
        router: Some(v4(1)),
        dns: vec![v4(3), v4(4)],
        domain: "blue.example".into(),
        mtu: Some(1400),
        // With the default route: a client that knows option 121 ignores option 3 (RFC 3442).
        routes: vec![
            (Ipv4Addr::new(172, 16, 0, 0), 12, v4(5)),
            (Ipv4Addr::new(192, 0, 2, 7), 32, v4(6)),
            METADATA,
            (Ipv4Addr::UNSPECIFIED, 0, v4(1)),
        ],
        seconds: 7200,
        answers: 1,
    };
    assert_eq!(lease, told);
    let to = site.fabric.plan.addr(b, false);
    assert!(site.ping(a, to, 1).is_some(), "the address works");
}

#[test]
fn what_a_subnet_does_not_say_is_not_told() {
    let (plan, _, [a]) = ports([0]);
    let mut site = site(plan, &[a]);
    let lease = leased(&mut site, a);
    assert_eq!((lease.router, lease.dns.len()), (None, 0));
    assert_eq!((lease.domain.as_str(), lease.routes), ("", vec![METADATA]));
}

#[test]
fn every_client_gets_its_own_address_and_renews_it_in_time() {
    // Two on one host, and the same addresses on another network of the same hosts.
    let (mut plan, _, [a, b, c]) = ports([0, 0, 1]);
    let other = plan.network("other");
    let open = plan.open_group();
    let twin = plan.port(0, other, &[open]);
    let clients = [a, b, c, twin];
    let mut site = site(plan, &clients);
    for port in clients {
        leased(&mut site, port);
    }
    for hour in 0..6u32 {
        for port in clients {
            let lease = site.lease(port).unwrap();
            let addr = IpAddr::V4(lease.address.address());
            assert_eq!(addr, site.fabric.plan.addr(port, false));
            // RFC 2131 §4.4.5: half an hour into a lease of one it asks the server that it knows, by unicast.
            assert!(lease.answers >= 2 * hour, "{lease:?} after {hour} h");
        }
        site.pass(Duration::from_hours(1));
    }
    assert_eq!(site.fabric.wires().counts().sent, 0, "all stays at home");
}

/// RFC 2131 §4.4.5: who does not reach its server asks everybody when seven eighths of the lease are over.
#[test]
fn a_lease_holds_also_where_nobody_is_the_gateway() {
    let (mut plan, net, [a]) = ports([0]);
    plan.network_mut(net).subnets[0].gateway = Some(v4(2).into());
    dhcp_mut(&mut plan, net).lease_seconds = 600;
    let mut site = site(plan, &[a]);
    assert_eq!(leased(&mut site, a).router, Some(v4(2)));
    let lost = site.run(700 * SECOND, |site| site.lease(a).is_none());
    assert!(!lost, "the lease was lost");
    assert_eq!(site.lease(a).unwrap().answers, 2);
}

#[test]
fn a_port_without_ipv4_gets_no_answer() {
    let (mut plan, _, [a, b]) = ports([0, 0]);
    plan.get_mut(a).fixed_ips.retain(|f| f.addr.is_ipv6());
    let mut site = site(plan, &[a, b]);
    site.pass(60 * SECOND);
    assert_eq!(site.lease(a), None);
    assert!(site.lease(b).is_some());
    // Offer and acknowledgement for the other one.
    assert_eq!(site.fabric.made(Originated::Dhcp), 2);
}

/// What its port may no longer send from is refused, renewals too: the lease ends, and with the next one comes the new address.
#[test]
fn a_client_whose_address_changed_takes_the_new_one_when_its_lease_ends() {
    let (mut plan, net, [a, b]) = ports([0, 1]);
    dhcp_mut(&mut plan, net).lease_seconds = 600;
    let mut site = site(plan, &[a]);
    leased(&mut site, a);
    site.fabric.plan.get_mut(a).fixed_ips[0].addr = v4(99).into();
    site.fabric.apply();
    let changed = site.run(660 * SECOND, |site| {
        site.lease(a).is_some_and(|l| l.address.address() == v4(99))
    });
    assert!(changed, "{:?}", site.lease(a));
    assert!(site.fabric.total().dropped(DropReason::PortSecurityIp) > 0);
    let to = site.fabric.plan.addr(b, false);
    assert!(site.ping(a, to, 1).is_some(), "the address works");
}

/// A server's answer that gives 10.0.0.66 to whoever asks.
fn gift(asked: &[u8]) -> Vec<u8> {
    let asked = Message::decode(&mut Decoder::new(asked)).unwrap();
    let kind = if asked.opts().msg_type() == Some(MessageType::Discover) {
        MessageType::Offer
    } else {
        MessageType::Ack
    };
    let mut answer = Message::default();
    answer
        .set_opcode(Opcode::BootReply)
        .set_xid(asked.xid())
        .set_chaddr(asked.chaddr())
        .set_yiaddr(v4(66));
    for option in [
        DhcpOption::MessageType(kind),
        DhcpOption::ServerIdentifier(v4(11)),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::AddressLeaseTime(600),
    ] {
        answer.opts_mut().insert(option);
    }
    answer.to_vec().unwrap()
}

/// Where the switch answers no DHCP, clients are heard by all; only who is trusted may answer.
#[test]
fn a_foreign_server_is_refused_by_port_security() {
    for (host, trusted) in [(0, false), (1, false), (0, true), (1, true)] {
        let (mut plan, net, [a, b]) = ports([0, host]);
        plan.network_mut(net).subnets[0].dhcp = None;
        plan.get_mut(b).port_security = !trusted;
        let mut site = site(plan, &[a]);
        let server = site.bind(b, 67);
        let mut asked = 0;
        let leased = site.run(30 * SECOND, |site| {
            while let Ok((bytes, _)) = site.udp(server).recv() {
                let gift = gift(bytes);
                asked += 1;
                let to = (IpAddr::V4(Ipv4Addr::BROADCAST), 68);
                site.udp(server).send_slice(&gift, to).unwrap();
            }
            site.lease(a).is_some()
        });
        assert!(asked > 0, "it hears the client");
        assert_eq!(leased, trusted, "host {host}");
        let refused = site.fabric.total();
        let refused = refused.dropped(DropReason::PortSecurityDhcpServer);
        assert_eq!(refused, if trusted { 0 } else { asked });
    }
}
