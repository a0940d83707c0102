//! Which addresses does a port get, keep and give back?

use super::{FixedIp, Port, WantedIp};
use crate::{
    refusal::Refusal,
    resource::{Claim, Objects, Verb, address_key},
    resources::{Subnet, router},
    rules::{
        Caller, Change, Write,
        addresses::{floor_key, holder, is_automatic, lowered_floor, lowest_free, slaac},
    },
    store::{Read, View},
};
use std::{net::IpAddr, sync::Arc};
use uuid::Uuid;

/// Turns what is wanted into addresses.
pub(super) fn allocate(
    view: &View,
    change: &Change<'_, Port>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let create = change.verb == Verb::Create;
    if after.wanted.is_none() && !create {
        return Ok(Vec::new());
    }
    let mut port = after.clone();
    let wanted = port.wanted.take();
    let mut subnets = view.related::<Subnet>("network_id", port.network_id);
    subnets.sort_by_key(|subnet| (subnet.meta.created_at, subnet.meta.id));
    let mut allocation = Allocation {
        view,
        port: &port,
        subnets: &subnets,
        had: change
            .before
            .map(|before| before.fixed_ips.clone())
            .unwrap_or_default(),
        chosen: Vec::new(),
        floors: Vec::new(),
    };
    match &wanted {
        Some(wanted) => {
            // Those with an address first: an automatic choice must not take what another names.
            for wanted in wanted.iter().filter(|wanted| wanted.ip_address.is_some()) {
                allocation.add(*wanted)?;
            }
            for wanted in wanted.iter().filter(|wanted| wanted.ip_address.is_none()) {
                allocation.add(*wanted)?;
            }
        }
        None => allocation.add_defaults()?,
    }
    allocation.add_automatic()?;
    let (chosen, floors) = (allocation.chosen, allocation.floors);
    port.fixed_ips = chosen;
    let mut writes: Vec<Write> = floors
        .into_iter()
        .map(|(subnet, floor)| Write::Record(floor_key(subnet), Arc::new(floor)))
        .collect();
    writes.push(Write::amend(port));
    Ok(writes)
}

/// The subnets that ports of an owner get addresses of unasked: those for it first, then those for all.
///
/// # Errors
/// That none of them is for it.
pub fn for_owner(
    subnets: &[Arc<Subnet>],
    owner: &str,
    network: Uuid,
) -> Result<Vec<Arc<Subnet>>, Refusal> {
    let (own, others): (Vec<_>, Vec<_>) = subnets
        .iter()
        .partition(|subnet| subnet.service_types.iter().any(|kind| kind == owner));
    let all = others.into_iter().filter(|s| s.service_types.is_empty());
    let fit: Vec<Arc<Subnet>> = own.into_iter().chain(all).cloned().collect();
    if fit.is_empty() && !subnets.is_empty() {
        return Err(Refusal::conflict(
            "IpAddressGenerationFailureNoMatchingSubnet",
            format!(
                "No valid service subnet for the given device owner: network {network}, owner '{owner}'."
            ),
        ));
    }
    Ok(fit)
}

struct Allocation<'a> {
    view: &'a View,
    port: &'a Port,
    subnets: &'a [Arc<Subnet>],
    had: Vec<FixedIp>,
    chosen: Vec<FixedIp>,
    floors: Vec<(Uuid, u128)>,
}

impl Allocation<'_> {
    /// Does the subnet give this port its address? A router's is the gateway.
    fn is_automatic(&self, subnet: &Subnet) -> bool {
        is_automatic(subnet) && router::router_of(self.port).is_none()
    }

    fn add(&mut self, wanted: WantedIp) -> Result<(), Refusal> {
        let subnet = match (wanted.subnet_id, wanted.ip_address) {
            (Some(id), _) => {
                let found = self.subnets.iter().find(|subnet| subnet.meta.id == id);
                let Some(found) = found else {
                    return Err(match self.view.object::<Subnet>(id) {
                        Some(_) => Refusal::input(format_args!(
                            "Failed to create port on network {}, because fixed_ips included invalid subnet {id}",
                            self.port.network_id
                        )),
                        None => Refusal::missing("Subnet", id),
                    });
                };
                found
            }
            (None, Some(address)) => {
                let holds = |subnet: &&Arc<Subnet>| subnet.cidr.contains(address);
                self.subnets.iter().find(holds).ok_or_else(|| {
                    Refusal::invalid(
                        "InvalidIpForNetwork",
                        format!(
                            "IP address {address} is not a valid IP for any of the subnets on the specified network."
                        ),
                    )
                })?
            }
            (None, None) => {
                return Err(Refusal::attribute(
                    "fixed_ips",
                    "neither subnet_id nor ip_address",
                ));
            }
        };
        let subnet = Arc::clone(subnet);
        let ip_address = match wanted.ip_address {
            Some(address) => self.named(&subnet, address)?,
            None if self.is_automatic(&subnet) => self.automatic(&subnet)?,
            None => match self.kept(&subnet) {
                Some(address) => address,
                None => self.lowest(&subnet)?,
            },
        };
        self.choose(&subnet, ip_address);
        Ok(())
    }

    /// An address that the port has already in this subnet stays when only the subnet is named.
    fn kept(&self, subnet: &Subnet) -> Option<IpAddr> {
        let had = self
            .had
            .iter()
            .filter(|had| had.subnet_id == subnet.meta.id);
        had.map(|had| had.ip_address).find(|address| {
            !self
                .chosen
                .iter()
                .any(|chosen| chosen.ip_address == *address)
        })
    }

    fn named(&self, subnet: &Subnet, address: IpAddr) -> Result<IpAddr, Refusal> {
        let cidr = subnet.cidr;
        let edge = cidr.is_ipv4()
            && cidr.bits() < 31
            && (address == cidr.addr() || address == cidr.last());
        if !cidr.contains(address) || edge {
            return Err(Refusal::invalid(
                "InvalidIpForSubnet",
                format!("IP address {address} is not a valid IP for the specified subnet."),
            ));
        }
        // Who updates a port names what it has, too.
        let had = |had: &FixedIp| had.subnet_id == subnet.meta.id && had.ip_address == address;
        let own = || address == slaac(subnet, self.port.mac_address) && self.had.iter().any(had);
        if self.is_automatic(subnet) && !own() {
            return Err(Refusal::invalid(
                "AllocationOnAutoAddressSubnet",
                format!(
                    "IPv6 address {address} cannot be directly assigned to a port on subnet {} as the subnet is configured for automatic addresses",
                    subnet.meta.id
                ),
            ));
        }
        self.free(subnet, address)
    }

    /// The address, if no other port has it.
    fn free(&self, subnet: &Subnet, address: IpAddr) -> Result<IpAddr, Refusal> {
        let taken = holder(self.view, subnet.meta.id, address);
        if taken.is_some_and(|holder| holder != self.port.meta.id) {
            return Err(Refusal::conflict(
                "IpAddressAlreadyAllocated",
                format!(
                    "IP address {address} already allocated in subnet {}",
                    subnet.meta.id
                ),
            ));
        }
        Ok(address)
    }

    /// The address that the port's host gives itself.
    fn automatic(&self, subnet: &Subnet) -> Result<IpAddr, Refusal> {
        self.free(subnet, slaac(subnet, self.port.mac_address))
    }

    fn lowest(&mut self, subnet: &Subnet) -> Result<IpAddr, Refusal> {
        let taken: Vec<IpAddr> = self.chosen.iter().map(|chosen| chosen.ip_address).collect();
        let (address, floor) = lowest_free(self.view, subnet, &taken)?;
        self.floors.retain(|(id, _)| *id != subnet.meta.id);
        self.floors.push((subnet.meta.id, floor));
        Ok(address)
    }

    fn choose(&mut self, subnet: &Subnet, ip_address: IpAddr) {
        let fixed = FixedIp {
            subnet_id: subnet.meta.id,
            ip_address,
        };
        if !self.chosen.contains(&fixed) {
            self.chosen.push(fixed);
        }
    }

    /// One address of each family, from the first subnet that has one left.
    fn add_defaults(&mut self) -> Result<(), Refusal> {
        let port = self.port;
        let fit = for_owner(self.subnets, &port.device_owner, port.network_id)?;
        for v4 in [true, false] {
            let of_family: Vec<Arc<Subnet>> = fit
                .iter()
                .filter(|subnet| subnet.cidr.is_ipv4() == v4 && !is_automatic(subnet))
                .cloned()
                .collect();
            let mut full = None;
            for subnet in of_family {
                match self.lowest(&subnet) {
                    Ok(address) => {
                        self.choose(&subnet, address);
                        full = None;
                        break;
                    }
                    Err(refusal) => full = Some(refusal),
                }
            }
            if let Some(refusal) = full {
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn add_automatic(&mut self) -> Result<(), Refusal> {
        let automatic: Vec<Arc<Subnet>> = self
            .subnets
            .iter()
            .filter(|subnet| self.is_automatic(subnet))
            .cloned()
            .collect();
        for subnet in automatic {
            let address = self.automatic(&subnet)?;
            self.choose(&subnet, address);
        }
        Ok(())
    }
}

/// Claims the addresses that came and frees those that went.
pub(super) fn hold(
    view: &View,
    change: &Change<'_, Port>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let of = |port: Option<&Port>| port.map(|port| port.fixed_ips.clone()).unwrap_or_default();
    let (old, new) = (of(change.before), of(change.after));
    let mut writes = Vec::new();
    let mut floors: Vec<(Uuid, u128)> = Vec::new();
    for fixed in old.iter().filter(|fixed| !new.contains(fixed)) {
        writes.push(Write::Release(address_key(
            fixed.subnet_id,
            fixed.ip_address,
        )));
        if let Some(floor) = lowered_floor(view, fixed.subnet_id, fixed.ip_address) {
            match floors
                .iter_mut()
                .find(|(subnet, _)| *subnet == fixed.subnet_id)
            {
                Some((_, lowest)) => *lowest = floor.min(*lowest),
                None => floors.push((fixed.subnet_id, floor)),
            }
        }
    }
    if let Some(port) = change.after {
        for fixed in new.iter().filter(|fixed| !old.contains(fixed)) {
            let key = address_key(fixed.subnet_id, fixed.ip_address);
            let taken = view.get::<Claim>(&key);
            if taken.is_some_and(|claim| claim.holder != port.meta.id) {
                return Err(Refusal::conflict(
                    "IpAddressAlreadyAllocated",
                    format!(
                        "IP address {} already allocated in subnet {}",
                        fixed.ip_address, fixed.subnet_id
                    ),
                ));
            }
            writes.push(Write::Claim(key, port.meta.id));
        }
    }
    for (subnet, floor) in floors {
        writes.push(Write::Record(floor_key(subnet), Arc::new(floor)));
    }
    Ok(writes)
}
