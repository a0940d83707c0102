//! Does the workload speak in its own name?
//!
//! What a port sends must bear its own addresses or those of its allowed pairs: Ethernet source, IP source, ARP sender, and
//! the addresses in Neighbor Discovery. What only routers and DHCP servers may say is refused from everyone else.
//!
//! # References
//! RFC 826; RFC 4861 §7.2; RFC 4862 §5.4 (duplicate address detection from `::`); RFC 3376 §4.2.13 and RFC 3590
//! (IGMP and MLD without an address); RFC 2131 §4.1 (DHCP from 0.0.0.0); RFC 7610, RFC 6105 (shields against foreign
//! servers and routers).

use std::net::{IpAddr, Ipv6Addr};

use net::{
    DropReason, Mac, Probe,
    flow_key::{ethertype, proto},
};

use super::Port;

/// Judges a packet that the port sent.
///
/// # Errors
/// The reason why it is not the port's to send.
pub fn judge(port: &Port, probe: &mut Probe) -> Result<&'static str, DropReason> {
    if !port.port_security {
        return Ok("port security is off");
    }
    let mac = probe.eth_src();
    if !port.macs.contains(&mac) {
        return Err(DropReason::PortSecurityMac);
    }
    match probe.ethertype() {
        ethertype::ARP => arp(port, probe, mac),
        ethertype::IPV4 => ipv4(port, probe, mac),
        ethertype::IPV6 => ipv6(port, probe, mac),
        _ => Err(DropReason::PortSecurityEthertype),
    }
}

fn arp(port: &Port, probe: &mut Probe, mac: Mac) -> Result<&'static str, DropReason> {
    if probe.link_addr() != mac {
        return Err(DropReason::PortSecurityArp);
    }
    // A probe for an address not yet taken has no sender (RFC 5227 §2.1.1).
    if owns_source(port, probe, mac) || probe.ip_src().is_unspecified() {
        Ok("arp sender allowed")
    } else {
        Err(DropReason::PortSecurityArp)
    }
}

fn ipv4(port: &Port, probe: &mut Probe, mac: Mac) -> Result<&'static str, DropReason> {
    if probe.ip_proto() == proto::UDP && probe.l4_src() == 67 && probe.l4_dst() == 68 {
        return Err(DropReason::PortSecurityDhcpServer);
    }
    if owns_source(port, probe, mac) {
        return Ok("source pair allowed");
    }
    if probe.ip_src().is_unspecified() {
        let passes = match probe.ip_proto() {
            proto::UDP => probe.l4_src() == 68 && probe.l4_dst() == 67,
            // IGMP
            2 => true,
            _ => false,
        };
        if passes {
            return Ok("no address yet");
        }
    }
    Err(DropReason::PortSecurityIp)
}

fn ipv6(port: &Port, probe: &mut Probe, mac: Mac) -> Result<&'static str, DropReason> {
    let kind = (probe.ip_proto() == proto::ICMP6).then(|| probe.l4_src());
    match kind {
        Some(134 | 137) => return Err(DropReason::PortSecurityRa),
        Some(135 | 136) => neighbor(port, probe, mac, kind == Some(136))?,
        Some(_) => {}
        None => {
            if probe.ip_proto() == proto::UDP && probe.l4_src() == 547 && probe.l4_dst() == 546 {
                return Err(DropReason::PortSecurityDhcpServer);
            }
        }
    }
    if owns_source(port, probe, mac) {
        return Ok("source pair allowed");
    }
    let src = probe.ip_src();
    if src == IpAddr::V6(mac.link_local()) {
        return Ok("own link-local source");
    }
    if src == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && matches!(kind, Some(130..=133 | 135 | 143)) {
        return Ok("no address yet");
    }
    Err(DropReason::PortSecurityIp)
}

/// The link-layer address that a solicitation or advertisement teaches, and the address that an advertisement speaks for.
fn neighbor(port: &Port, probe: &mut Probe, mac: Mac, advertises: bool) -> Result<(), DropReason> {
    let taught = probe.link_addr();
    if taught != Mac::ZERO && taught != mac {
        return Err(DropReason::PortSecurityNd);
    }
    if advertises {
        let target = probe.nd_target();
        let own = target == IpAddr::V6(mac.link_local())
            || port
                .allowed
                .iter()
                .any(|(m, prefix)| *m == mac && prefix.contains(target));
        if !own {
            return Err(DropReason::PortSecurityNd);
        }
    }
    Ok(())
}

fn owns_source(port: &Port, probe: &mut Probe, mac: Mac) -> bool {
    port.allowed
        .iter()
        .any(|(m, prefix)| *m == mac && probe.ip_src_in(*prefix))
}

#[cfg(test)]
mod tests {
    use net::{
        FlowKey, Headers, Id, NetworkId, PortId, Prefix, Zone,
        testkit::{FrameBuilder, mac},
    };
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    use super::{super::SectionIndex, *};

    fn id<K>(n: u128) -> Id<K> {
        uuid::Uuid::from_u128(n).into()
    }

    fn port() -> Port {
        let own = mac(1);
        let allowed: Vec<(Mac, Prefix)> = vec![
            (own, "10.0.0.1/32".parse().unwrap()),
            (own, "fd00::1/128".parse().unwrap()),
            (own, "10.8.0.0/16".parse().unwrap()),
            (mac(9), "10.0.0.9/32".parse().unwrap()),
        ];
        Port {
            id: id(1),
            name: "p".into(),
            dense: PortId(0),
            network: NetworkId(0),
            network_id: id(2),
            project: id(3),
            mac: own,
            addrs: vec![],
            macs: vec![own, mac(9)],
            allowed,
            admin_up: true,
            port_security: true,
            group: None,
            zone: Zone(1),
            max_connections: 10,
            qos: None,
            host_number: None,
            dns_name: None,
            dhcp: hostconfig::DhcpOptions::default(),
            trunk: None,
            firewall: None,
            mtu: net::Mtu::try_from(1450).unwrap(),
            section: SectionIndex(0),
        }
    }

    fn of(frame: &[u8]) -> Result<&'static str, DropReason> {
        let (_, key) = Headers::parse(frame).unwrap();
        judge(&port(), &mut Probe::new(&key))
    }

    fn udp(from: Mac, src: &str, dst: &str, ports: (u16, u16)) -> Result<&'static str, DropReason> {
        let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        of(&FrameBuilder::udp(src.is_ipv6(), ports.0, ports.1)
            .macs(from, mac(2))
            .addrs(src, dst)
            .build())
    }

    #[test]
    fn own_addresses_and_pairs_pass_and_no_others() {
        let own = mac(1);
        assert!(udp(own, "10.0.0.1", "10.0.0.2", (1, 2)).is_ok());
        assert!(udp(own, "10.8.3.4", "10.0.0.2", (1, 2)).is_ok());
        assert!(udp(own, "fd00::1", "fd00::2", (1, 2)).is_ok());
        assert!(udp(mac(9), "10.0.0.9", "10.0.0.2", (1, 2)).is_ok());
        let ip = Err(DropReason::PortSecurityIp);
        assert_eq!(udp(own, "10.0.0.9", "10.0.0.2", (1, 2)), ip);
        assert_eq!(udp(own, "10.0.0.2", "10.0.0.1", (1, 2)), ip);
        assert_eq!(udp(own, "fd00::2", "fd00::1", (1, 2)), ip);
        assert_eq!(
            udp(mac(3), "10.0.0.1", "10.0.0.2", (1, 2)),
            Err(DropReason::PortSecurityMac)
        );
        let link_local = own.link_local().to_string();
        assert!(udp(own, &link_local, "ff02::1", (1, 2)).is_ok());
        assert_eq!(udp(own, "fe80::1", "ff02::1", (1, 2)), ip);
    }

    #[test]
    fn dhcp_clients_pass_and_servers_do_not() {
        let own = mac(1);
        assert!(udp(own, "0.0.0.0", "255.255.255.255", (68, 67)).is_ok());
        assert_eq!(
            udp(own, "0.0.0.0", "255.255.255.255", (5000, 67)),
            Err(DropReason::PortSecurityIp)
        );
        let server = Err(DropReason::PortSecurityDhcpServer);
        assert_eq!(udp(own, "10.0.0.1", "10.0.0.2", (67, 68)), server);
        assert_eq!(udp(own, "fd00::1", "fd00::2", (547, 546)), server);
    }

    #[test]
    fn arp_speaks_for_itself_alone() {
        let arp = |hw, ip: &str, eth| {
            let mut f = FrameBuilder::arp(
                1,
                (hw, ip.parse().unwrap()),
                (Mac::ZERO, "10.0.0.2".parse().unwrap()),
            );
            f[6..12].copy_from_slice(&Mac::octets(eth));
            of(&f)
        };
        assert!(arp(mac(1), "10.0.0.1", mac(1)).is_ok());
        assert!(arp(mac(1), "0.0.0.0", mac(1)).is_ok());
        assert_eq!(
            arp(mac(1), "10.0.0.2", mac(1)),
            Err(DropReason::PortSecurityArp)
        );
        assert_eq!(
            arp(mac(2), "10.0.0.1", mac(1)),
            Err(DropReason::PortSecurityArp)
        );
        assert_eq!(
            arp(mac(1), "10.0.0.1", mac(2)),
            Err(DropReason::PortSecurityMac)
        );
    }

    #[test]
    fn neighbor_discovery_speaks_for_itself_alone() {
        let own = mac(1);
        let solicit = (own, own.link_local());
        let all = (mac(2), "ff02::1".parse().unwrap());
        assert!(
            of(&FrameBuilder::neighbor(
                135,
                solicit,
                all,
                "fd00::2".parse().unwrap()
            ))
            .is_ok()
        );
        let probe = (own, Ipv6Addr::UNSPECIFIED);
        assert!(
            of(&FrameBuilder::neighbor(
                135,
                probe,
                all,
                "fd00::1".parse().unwrap()
            ))
            .is_ok()
        );
        let advert = |target: &str| {
            of(&FrameBuilder::neighbor(
                136,
                solicit,
                all,
                target.parse().unwrap(),
            ))
        };
        assert!(advert("fd00::1").is_ok());
        assert_eq!(advert("fd00::2"), Err(DropReason::PortSecurityNd));
        for kind in [134u8, 137] {
            let (_, mut key) = Headers::parse(&FrameBuilder::neighbor(
                136,
                solicit,
                all,
                "fd00::1".parse().unwrap(),
            ))
            .unwrap();
            key.l4_src = u16::from(kind);
            assert_eq!(
                judge(&port(), &mut Probe::new(&key)),
                Err(DropReason::PortSecurityRa)
            );
        }
    }

    #[test]
    fn other_ethertypes_are_refused() {
        let key = FlowKey {
            ethertype: 0x88cc,
            eth_src: mac(1).octets(),
            ..FlowKey::default()
        };
        assert_eq!(
            judge(&port(), &mut Probe::new(&key)),
            Err(DropReason::PortSecurityEthertype)
        );
    }

    proptest! {
        /// Whoever is equal under the mask gets the same answer.
        #[test]
        fn the_mask_is_sound(frame in net::testkit::any_frame(), other in net::testkit::any_frame(), own: bool) {
            let (_, mut key) = Headers::parse(&frame).unwrap();
            if own { key.eth_src = mac(1).octets(); }
            let (_, other) = Headers::parse(&other).unwrap();
            let mut probe = Probe::new(&key);
            let answer = judge(&port(), &mut probe);
            let mask = probe.mask();
            // All that the mask does not name comes from another packet.
            let mut twin = other;
            for ((t, k), m) in twin.as_mut_bytes().iter_mut().zip(key.as_bytes()).zip(mask.fields().as_bytes()) {
                *t = (*t & !m) | (k & m);
            }
            prop_assert_eq!(judge(&port(), &mut Probe::new(&twin)), answer);
        }
    }
}
