//! Which addresses does a port get?
//!
//! An address is held by the key `ip/SUBNET/ADDRESS`; there is no other list of who has what.
//! Automatic addresses are the lowest free ones of the subnet's pools. So that this is quick also in
//! a full /16, `free/SUBNET` keeps a floor below which every pool address is known to be taken.
//!
//! # Invariants
//! - Every pool address below the floor has a holder.
//! - A port's fixed IPs and the keys that it holds are the same set.
//!
//! # Cost
//! An allocation in order: three look-ups. After a low address was freed, one scan over the taken run
//! above it.

use crate::{
    refusal::Refusal,
    resource::{Claim, address_key},
    resources::subnet::{Ipv6Mode, Pool, Subnet},
    store::{Read, View},
};
use net::Mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// An address as a number, with its family.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address of a number in the family of `like`.
pub fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// The key of the floor.
pub fn floor_key(subnet: Uuid) -> String {
    format!("free/{subnet}")
}

/// The address that a host with this MAC gives itself in a /64.
pub fn slaac(subnet: &Subnet, mac: Mac) -> IpAddr {
    let host = u64::from_be_bytes(mac.eui64());
    address(
        number(subnet.cidr.addr()) | u128::from(host),
        subnet.cidr.addr(),
    )
}

/// Does the subnet give every port its SLAAC address?
pub fn is_automatic(subnet: &Subnet) -> bool {
    // Stateless DHCPv6 gives no addresses either: hosts make their own. They do so too where only the router tells them to.
    let modes = [subnet.ipv6_address_mode, subnet.ipv6_ra_mode];
    let makes = |mode| matches!(mode, Ipv6Mode::Slaac | Ipv6Mode::DhcpStateless);
    modes.into_iter().flatten().any(makes)
}

/// Who holds an address of a subnet.
pub fn holder(view: &View, subnet: Uuid, address: IpAddr) -> Option<Uuid> {
    view.get::<Claim>(&address_key(subnet, address))
        .map(|claim| claim.holder)
}

/// The lowest free pool address that is not in `taken`, and the new floor.
///
/// # Errors
/// When all are held.
pub fn lowest_free(
    view: &View,
    subnet: &Subnet,
    taken: &[IpAddr],
) -> Result<(IpAddr, u128), Refusal> {
    let floor = view
        .get::<u128>(&floor_key(subnet.meta.id))
        .map_or(0, |floor| *floor);
    let prefix = format!("ip/{}/", subnet.meta.id);
    let mut pools = subnet.allocation_pools.clone();
    pools.sort_by_key(|pool| number(pool.start));
    for Pool { start, end } in pools {
        let mut candidate = number(start).max(floor);
        let last = number(end);
        if candidate > last {
            continue;
        }
        let from = address_key(subnet.meta.id, address(candidate, start));
        let from = from.get(prefix.len()..).unwrap_or_default();
        let mut held = view
            .scan_from(&prefix, from)
            .filter_map(|(key, _)| u128::from_str_radix(key.get(prefix.len()..)?, 16).ok())
            .peekable();
        while candidate <= last {
            let is_held = loop {
                match held.peek() {
                    Some(&next) if next < candidate => {
                        held.next();
                    }
                    other => break other == Some(&candidate),
                }
            };
            let free = address(candidate, start);
            if !is_held && !taken.contains(&free) {
                return Ok((free, candidate + 1));
            }
            candidate += 1;
        }
    }
    Err(Refusal::conflict(
        "IpAddressGenerationFailure",
        format!(
            "No more IP addresses available on network {}.",
            subnet.network_id
        ),
    ))
}

/// The floor after an address was freed: lower it if need be.
pub fn lowered_floor(view: &View, subnet: Uuid, freed: IpAddr) -> Option<u128> {
    let floor = view.get::<u128>(&floor_key(subnet))?;
    (number(freed) < *floor).then(|| number(freed))
}
