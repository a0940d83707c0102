//! What is a port's tap made from, and what does it mean when it can't be?

use std::{
    collections::BTreeSet, net::IpAddr, num::NonZeroU16, os::unix::fs::MetadataExt as _, path::Path,
};

use hostconfig::{Network, Subnet};
use net::{Id, ids::kind};

use super::{DeviceError, Wanted, chain, state::Attachment};
use crate::{
    datapath::tables::metadata,
    io::{
        netns::{Netns, NetnsError},
        tap::{InvalidIfName, TapError, TapPlace, TapRoute, TapSpec},
    },
    local::code,
};

/// Which network namespace it is, whatever its name: device and inode of its file.
pub(crate) type NetnsId = (u64, u64);

/// The namespace that a path names now; `None`: none.
pub(crate) fn netns_at(path: &Path) -> Option<NetnsId> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Where a port's tap is.
///
/// # Errors
/// When the recorded name is none.
pub(crate) fn place(port: Id<kind::Port>, at: &Attachment) -> Result<TapPlace, InvalidIfName> {
    Ok(TapPlace {
        netns: Netns::Path(at.netns.clone()),
        ifname: at.ifname.parse()?,
        owner: format!("overweave {port}"),
    })
}

/// What it is to be.
pub(crate) fn spec(wanted: &Wanted<'_>, queues: NonZeroU16) -> TapSpec {
    let (addresses, routes) = if wanted.at.fixed {
        (addresses(wanted), routes(wanted))
    } else {
        (Vec::new(), Vec::new())
    };
    TapSpec {
        mac: wanted.port.mac.into(),
        mtu: wanted.mtu(),
        queues,
        addresses,
        routes,
    }
}

fn addresses(wanted: &Wanted<'_>) -> Vec<(IpAddr, u8)> {
    let fixed = wanted.port.fixed_ips.iter();
    fixed
        .map(|ip| {
            let subnet = subnet(wanted.network, ip.subnet);
            let host = if ip.addr.is_ipv4() { 32 } else { 128 };
            (ip.addr, subnet.map_or(host, |s| s.cidr.bits()))
        })
        .collect()
}

/// What DHCP would say: the subnets' routes, one default route a family, and the metadata service, which is on every link.
fn routes(wanted: &Wanted<'_>) -> Vec<TapRoute> {
    let mut routes = Vec::new();
    if wanted.port.fixed_ips.iter().any(|ip| ip.addr.is_ipv4()) {
        routes.push(TapRoute {
            destination: (metadata::V4.into(), 32),
            gateway: None,
        });
    }
    let (mut seen, mut defaults) = (BTreeSet::new(), BTreeSet::new());
    for ip in &wanted.port.fixed_ips {
        let Some(subnet) = subnet(wanted.network, ip.subnet).filter(|s| seen.insert(s.id)) else {
            continue;
        };
        for route in subnet.dhcp.iter().flat_map(|d| &d.routes) {
            routes.push(TapRoute {
                destination: (route.destination.addr(), route.destination.bits()),
                gateway: Some(route.nexthop),
            });
        }
        if let Some(gateway) = subnet.gateway
            && gateway != ip.addr
            && defaults.insert(gateway.is_ipv4())
        {
            let any: IpAddr = if gateway.is_ipv4() {
                std::net::Ipv4Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            };
            routes.push(TapRoute {
                destination: (any, 0),
                gateway: Some(gateway),
            });
        }
    }
    routes
}

fn subnet(network: &Network, id: Id<kind::Subnet>) -> Option<&Subnet> {
    network.subnets.iter().find(|s| s.id == id)
}

impl From<TapError> for DeviceError {
    fn from(error: TapError) -> Self {
        let code = match &error {
            TapError::Netns {
                source: NetnsError::Missing { .. },
                ..
            } => code::NO_NAMESPACE,
            TapError::NameTaken { .. } => code::NAME_TAKEN,
            TapError::Netns { .. }
            | TapError::Missing { .. }
            | TapError::Busy { .. }
            | TapError::Permission { .. }
            | TapError::NoDriver
            | TapError::Kernel { .. } => code::DEVICE,
        };
        Self {
            code,
            message: chain(&error),
        }
    }
}

impl From<InvalidIfName> for DeviceError {
    fn from(error: InvalidIfName) -> Self {
        Self {
            code: code::BAD_REQUEST,
            message: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use hostconfig::{
        Section,
        network::{Dhcp, Route},
        port::FixedIp,
    };
    use net::Mac;
    use uuid::Uuid;

    use super::*;
    use crate::agent::testkit::{network, port};

    fn at(fixed: bool) -> Attachment {
        Attachment {
            netns: "/run/netns/w".into(),
            ifname: "eth0".to_owned(),
            fixed,
        }
    }

    #[test]
    fn addresses_and_routes_are_set_only_when_asked_for() {
        let (Section::Port(mut port), Section::Network(mut network)) = (port(5, 1), network(1, 7))
        else {
            panic!("not what was asked for");
        };
        network.subnets[0].dhcp = Some(Dhcp {
            server: "10.0.0.2".parse().unwrap(),
            server_mac: Mac::new([2, 0, 0, 0, 0, 9]),
            lease_seconds: 600,
            dns: Vec::new(),
            domain: String::new(),
            routes: vec![Route {
                destination: "198.51.100.0/24".parse().unwrap(),
                nexthop: "10.0.0.7".parse().unwrap(),
            }],
        });
        network.subnets.push(Subnet {
            id: Uuid::from_u128(6).into(),
            cidr: "fd00::/64".parse().unwrap(),
            gateway: Some("fd00::1".parse().unwrap()),
            dhcp: None,
            dhcp6: None,
            ra: None,
            dns6: vec![],
        });
        port.fixed_ips.push(FixedIp {
            addr: "fd00::5".parse().unwrap(),
            subnet: Uuid::from_u128(6).into(),
        });
        // A second address of the same subnet brings no second route.
        port.fixed_ips.push(FixedIp {
            addr: "fd00::6".parse().unwrap(),
            subnet: Uuid::from_u128(6).into(),
        });
        let queues = NonZeroU16::MIN;
        let of = |fixed| {
            let at = at(fixed);
            let wanted = Wanted {
                port: &port,
                network: &network,
                at: &at,
                labelled: false,
            };
            spec(&wanted, queues)
        };
        let plain = of(false);
        assert!(plain.addresses.is_empty() && plain.routes.is_empty());
        let fixed = of(true);
        let said: Vec<_> = fixed
            .addresses
            .iter()
            .map(|(ip, bits)| format!("{ip}/{bits}"))
            .collect();
        assert_eq!(said, ["10.0.0.5/24", "fd00::5/64", "fd00::6/64"]);
        let said: Vec<_> = fixed
            .routes
            .iter()
            .map(|r| {
                let (to, bits) = r.destination;
                match r.gateway {
                    Some(gateway) => format!("{to}/{bits} via {gateway}"),
                    None => format!("{to}/{bits} on the link"),
                }
            })
            .collect();
        let expected = [
            "169.254.169.254/32 on the link",
            "198.51.100.0/24 via 10.0.0.7",
            "0.0.0.0/0 via 10.0.0.1",
            "::/0 via fd00::1",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_tap_is_known_by_its_port() {
        let id = Uuid::from_u128(5).into();
        let place = place(id, &at(false)).unwrap();
        assert_eq!(place.owner, format!("overweave {id}"));
        let bad = Attachment {
            ifname: "a/b".to_owned(),
            ..at(false)
        };
        assert!(super::place(id, &bad).is_err());
    }

    #[test]
    fn refusals_keep_their_reason_apart() {
        let ifname = || "eth0".parse().unwrap();
        let missing = TapError::Netns {
            ifname: ifname(),
            source: NetnsError::Missing {
                path: "/run/netns/w".into(),
            },
        };
        for (error, code) in [
            (missing, code::NO_NAMESPACE),
            (TapError::NameTaken { ifname: ifname() }, code::NAME_TAKEN),
            (TapError::Busy { ifname: ifname() }, code::DEVICE),
            (TapError::NoDriver, code::DEVICE),
        ] {
            assert_eq!(DeviceError::from(error).code, code);
        }
    }
}
