//! Which ports does a host vouch for?
//!
//! A port is ACTIVE when this host proved it: its device is open, the workers run its config, and nothing between keeps
//! it from forwarding. Whatever is missing is named.

use std::{collections::BTreeMap, net::IpAddr};

use hostconfig::{HostConfig, Section, SectionKey};
use net::{Id, ids::kind};

use super::session::PortState;

/// What VXLAN adds to an inner IP packet over IPv4: inner Ethernet, VXLAN, UDP and IP headers.
const OVERHEAD_V4: u32 = 14 + 8 + 8 + 20;
/// The same over IPv6.
const OVERHEAD_V6: u32 = 14 + 8 + 8 + 40;

/// What became of a port's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Device {
    /// The workers hold it.
    Open,
    /// They don't, and this is why.
    Broken(String),
}

/// The underlay as this host sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Underlay {
    /// The VTEP's address.
    pub(crate) vtep: IpAddr,
    /// The MTU of its link; 0 unknown.
    pub(crate) mtu: u32,
}

/// The networks on a wire that does not work here, and why not.
pub(crate) type Obstacles = BTreeMap<Id<kind::Network>, String>;

/// The state of every port that the controller told of: `told` is all of it, `run` what the workers run.
pub(crate) fn states(
    told: &HostConfig,
    run: &HostConfig,
    devices: &BTreeMap<Id<kind::Port>, Device>,
    outside: (Underlay, &Obstacles),
) -> BTreeMap<Id<kind::Port>, PortState> {
    let ports = told.sections.values().filter_map(|s| match s.body() {
        Section::Port(port) => Some(port),
        Section::Vteps(_)
        | Section::Network(_)
        | Section::AddressSet(_)
        | Section::Group(_)
        | Section::Firewall(_)
        | Section::Qos(_)
        | Section::Chain(_)
        | Section::Endpoint(_)
        | Section::Router(_)
        | Section::FloatingIp(_)
        | Section::Metadata(_)
        | Section::Proxy(_) => None,
    });
    ports
        .map(|port| {
            // A sub-port's frames go by its parent's device.
            let parent = port.trunk.map(|trunk| trunk.parent);
            let device = devices.get(&parent.unwrap_or(port.id));
            let reason = match device {
                None if parent.is_some() => {
                    Some("no device of its trunk's parent is attached".to_owned())
                }
                None => Some("no device is attached".to_owned()),
                Some(Device::Broken(why)) => Some(why.clone()),
                Some(Device::Open) => obstacle(port, run, outside),
            };
            let state = PortState {
                attached: device == Some(&Device::Open),
                active: reason.is_none(),
                reason: reason.unwrap_or_default(),
            };
            (port.id, state)
        })
        .collect()
}

/// What keeps a port with an open device from forwarding.
fn obstacle(
    port: &hostconfig::Port,
    run: &HostConfig,
    (underlay, obstacles): (Underlay, &Obstacles),
) -> Option<String> {
    if !run.sections.contains_key(&SectionKey::Port(port.id)) {
        return Some("its configuration contradicts another's".to_owned());
    }
    if !port.admin_up {
        return Some("the port is administratively down".to_owned());
    }
    let network = run.sections.get(&SectionKey::Network(port.network))?;
    let Section::Network(network) = network.body() else {
        return None;
    };
    if !network.admin_up {
        return Some("the network is administratively down".to_owned());
    }
    if network.wire.is_some() {
        // It does not cross the underlay.
        return obstacles.get(&network.id).cloned();
    }
    let overhead = if underlay.vtep.is_ipv4() {
        OVERHEAD_V4
    } else {
        OVERHEAD_V6
    };
    let needed = u32::from(network.mtu) + overhead;
    if underlay.mtu != 0 && underlay.mtu < needed {
        return Some(format!(
            "the network's mtu of {} needs an underlay mtu of {needed}, the link of {} has {}",
            network.mtu, underlay.vtep, underlay.mtu
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testkit::{config, network, port};

    const UNDERLAY: Underlay = Underlay {
        vtep: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
        mtu: 1500,
    };

    fn id(n: u128) -> Id<kind::Port> {
        uuid::Uuid::from_u128(n).into()
    }

    fn with(change: impl FnOnce(&mut hostconfig::Port, &mut hostconfig::Network)) -> HostConfig {
        let (Section::Port(mut p), Section::Network(mut n)) = (port(1, 1), network(1, 5001)) else {
            panic!("not what was asked for");
        };
        change(&mut p, &mut n);
        config([Section::Port(p), Section::Network(n)])
    }

    fn state(config: &HostConfig, device: Option<Device>, underlay: Underlay) -> PortState {
        let devices = device.map(|d| (id(1), d)).into_iter().collect();
        states(config, config, &devices, (underlay, &Obstacles::new()))[&id(1)].clone()
    }

    #[test]
    fn a_port_is_active_when_nothing_is_missing() {
        let sound = with(|_, _| {});
        let open = Some(Device::Open);
        let up = state(&sound, open.clone(), UNDERLAY);
        assert_eq!(
            (up.attached, up.active, up.reason.as_str()),
            (true, true, "")
        );
        for (config, device, underlay, attached, reason) in [
            (sound.clone(), None, UNDERLAY, false, "no device"),
            (
                sound.clone(),
                Some(Device::Broken("gone".into())),
                UNDERLAY,
                false,
                "gone",
            ),
            (
                with(|p, _| p.admin_up = false),
                open.clone(),
                UNDERLAY,
                true,
                "the port is admin",
            ),
            (
                with(|_, n| n.admin_up = false),
                open.clone(),
                UNDERLAY,
                true,
                "the network is admin",
            ),
            (
                sound.clone(),
                open.clone(),
                Underlay {
                    mtu: 1499,
                    ..UNDERLAY
                },
                true,
                "the network's mtu of 1450 needs an underlay mtu of 1500",
            ),
            (
                sound.clone(),
                open.clone(),
                Underlay {
                    mtu: 1500,
                    vtep: "2001:db8::1".parse().unwrap(),
                },
                true,
                "the network's mtu of 1450 needs an underlay mtu of 1520",
            ),
        ] {
            let down = state(&config, device, underlay);
            assert!(!down.active && down.reason.starts_with(reason), "{down:?}");
            assert_eq!(down.attached, attached);
        }
        assert!(
            state(&sound, open, Underlay { mtu: 0, ..UNDERLAY }).active,
            "unknown is no reason"
        );
    }

    #[test]
    fn a_sub_port_is_where_its_parent_has_a_device() {
        let (parent, Section::Port(mut sub_port)) = (port(2, 1), port(1, 1)) else {
            panic!("not what was asked for");
        };
        sub_port.trunk = Some(hostconfig::SubPort {
            parent: id(2),
            vlan: net::Vlan::try_from(101).unwrap(),
        });
        let sound = config([parent, Section::Port(sub_port), network(1, 5001)]);
        let of = |devices: &[(u128, Device)]| {
            let devices = devices.iter().map(|(n, d)| (id(*n), d.clone())).collect();
            states(&sound, &sound, &devices, (UNDERLAY, &Obstacles::new()))[&id(1)].clone()
        };
        let up = of(&[(2, Device::Open)]);
        assert!(up.active && up.attached);
        let down = of(&[(1, Device::Open)]);
        assert!(!down.active && down.reason.contains("parent"), "{down:?}");
        assert!(!of(&[(2, Device::Broken("gone".into()))]).active);
    }

    #[test]
    fn a_port_that_was_left_out_is_told_of_all_the_same() {
        let told = with(|_, _| {});
        let devices = [(id(1), Device::Open)].into();
        let outside = (UNDERLAY, &Obstacles::new());
        let states = states(&told, &HostConfig::default(), &devices, outside);
        assert!(!states[&id(1)].active);
    }

    #[test]
    fn a_network_on_a_wire_needs_its_interface_and_no_underlay() {
        let wired = with(|_, n| {
            n.mtu = net::Mtu::try_from(9000).unwrap();
            n.wire = Some(hostconfig::network::Wire {
                physical: "physnet1".to_owned(),
                vlan: None,
            });
        });
        let devices = [(id(1), Device::Open)].into();
        let of = |obstacles: &Obstacles| {
            states(&wired, &wired, &devices, (UNDERLAY, obstacles))[&id(1)].clone()
        };
        assert!(of(&Obstacles::new()).active);
        let network = uuid::Uuid::from_u128(1).into();
        let down = of(&[(network, "eth1 is down".to_owned())].into());
        assert_eq!((down.attached, down.active), (true, false));
        assert_eq!(down.reason, "eth1 is down");
    }
}
