//! How does a plain Linux kernel take part?
//!
//! A bridge and a VXLAN device per network in the host's namespace, with static forwarding entries made from what the
//! lab knows, and a veth to each workload. The controller knows the host as a foreign VTEP; nothing of overweave runs
//! there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use anyhow::Context;
use net::Mac;

use super::netlink::{Kind, Netlink};
use super::netns;
use super::plan::{Host, Lab};
use super::provision::{Inventory, Placed};
use super::underlay::{self, namespace};

const NOBODY: Mac = Mac::new([0; 6]);

/// Builds the kernel's side of one such host.
///
/// # Errors
/// When the kernel refuses a device.
pub(crate) fn build(lab: &Lab, inventory: &Inventory, host: &Host) -> anyhow::Result<()> {
    let addresses: BTreeMap<&str, Ipv4Addr> = lab
        .hosts
        .iter()
        .enumerate()
        .map(|(i, h)| (h.name.as_str(), underlay::address(i, lab.underlay.routed)))
        .collect();
    let own = *addresses
        .get(host.name.as_str())
        .context("find the host's address")?;
    netns::inside(&namespace(&lab.name, &host.name), || {
        let mut netlink = Netlink::open()?;
        for (name, network) in &inventory.networks {
            let here: Vec<&Placed> = inventory
                .workloads
                .values()
                .filter(|p| p.network == *name && p.host == host.name)
                .collect();
            if here.is_empty() {
                continue;
            }
            let vni = network.vni.with_context(|| {
                format!("network {name} shows no VNI; is the login an admin's?")
            })?;
            let bridge = netlink.add_link(&format!("br{vni}"), Kind::Bridge, Some(network.mtu))?;
            let tunnel = netlink.add_link(
                &format!("vx{vni}"),
                Kind::Vxlan { vni, local: own },
                Some(network.mtu),
            )?;
            netlink.enslave(tunnel, bridge)?;
            far_ends(
                &mut netlink,
                tunnel,
                name,
                inventory,
                &addresses,
                &host.name,
            )?;
            netlink.up(tunnel)?;
            netlink.up(bridge)?;
            for (i, placed) in here.into_iter().enumerate() {
                plug(
                    &mut netlink,
                    bridge,
                    &format!("w{vni}-{i}"),
                    placed,
                    network.mtu,
                )?;
            }
        }
        Ok(())
    })
    .with_context(|| format!("build kernel VTEP {}", host.name))
}

/// Tells the tunnel where every MAC of the network is, and whom to flood to.
fn far_ends(
    netlink: &mut Netlink,
    tunnel: u32,
    network: &str,
    inventory: &Inventory,
    addresses: &BTreeMap<&str, Ipv4Addr>,
    own: &str,
) -> anyhow::Result<()> {
    let far = inventory
        .workloads
        .values()
        .filter(|p| p.network == network && p.host != own);
    let mut flooded = std::collections::BTreeSet::new();
    for placed in far {
        let vtep = *addresses
            .get(placed.host.as_str())
            .context("find a far host's address")?;
        if flooded.insert(vtep) {
            netlink.add_fdb(tunnel, NOBODY, vtep)?;
        }
        let mac: Mac = placed.mac.parse().context("read a port's MAC")?;
        netlink.add_fdb(tunnel, mac, vtep)?;
    }
    Ok(())
}

/// A veth from the bridge into the workload's namespace, addressed like an attached port.
fn plug(
    netlink: &mut Netlink,
    bridge: u32,
    name: &str,
    placed: &Placed,
    mtu: u32,
) -> anyhow::Result<()> {
    let inside = netns::open(&placed.namespace)?;
    let mac: Mac = placed.mac.parse().context("read a port's MAC")?;
    let kind = Kind::Veth {
        peer: "eth0",
        namespace: inside.as_fd(),
        peer_mac: Some(mac),
        peer_mtu: Some(mtu),
    };
    let link = netlink.add_link(name, kind, Some(mtu))?;
    netlink.enslave(link, bridge)?;
    netlink.up(link)?;
    netns::inside(&placed.namespace, || {
        let mut netlink = Netlink::open()?;
        let eth0 = netlink.index("eth0")?;
        for address in &placed.addresses {
            netlink.add_address(eth0, address.ip, address.bits)?;
        }
        netlink.up(eth0)
    })
}
