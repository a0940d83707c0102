//! Who makes a VLAN device of a workload's?
//!
//! A workload that is a sub-port of a trunk has no device by the switch: inside a VM its owner would make a VLAN device on the parent's. A
//! kernel need not have those, so the lab does: a tap in the sub-port's own namespace, a packet socket on the parent's device, and a thread
//! between that puts the tag on and takes it off. Super-frames and open checksums cross whole, as they would by a VLAN device. So
//! whatever a lab tries from a workload, it tries from a sub-port as well.

use std::convert::Infallible;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::mpsc;

use anyhow::{Context, anyhow, bail};
use hostconfig::network::SERVICE_V4;
use net::{Batch, Mac, Mtu, PacketPool, Vlan};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vswitch::io::{
    PortIo, Refused, Rx,
    netns::Netns,
    tap::{Tap, TapPlace, TapRoute, TapSpec},
    wire::{self, Wire},
};

use super::netns;
use super::plan::Lab;
use super::provision::{Address, Inventory};
use super::state::{Process, State};

/// What it is told, as a file in the lab's state directory.
pub(crate) const ORDERS: &str = "tagger.json";
/// What it prints once all devices are there.
pub(crate) const READY: &str = "ready";
/// A workload's device, a sub-port's like any other's.
const DEVICE: &str = "eth0";
/// Packets of a sub-port on their way, of ordinary and of super-frames.
const PACKETS: (usize, usize) = (256, 32);

/// One sub-port.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SubPort {
    workload: String,
    namespace: String,
    parent_namespace: String,
    vlan: Vlan,
    mac: Mac,
    mtu: u32,
    addresses: Vec<Address>,
    /// Whom it reaches others by.
    gateways: Vec<IpAddr>,
}

/// The sub-ports of a lab.
pub(crate) fn orders(lab: &Lab, inventory: &Inventory) -> anyhow::Result<Vec<SubPort>> {
    let mut orders = Vec::new();
    for trunk in &lab.trunks {
        let parent = inventory.workloads.get(&trunk.parent);
        let parent = parent.context("find the trunk's parent")?;
        for sub in &trunk.sub_ports {
            let name = &sub.workload;
            let placed = inventory.workloads.get(name).context("find a sub-port")?;
            let network = lab.network(&placed.network).context("find its network")?;
            let made = inventory.networks.get(&placed.network);
            let subnets = [network.cidr, network.cidr6].into_iter().flatten();
            orders.push(SubPort {
                workload: name.clone(),
                namespace: placed.namespace.clone(),
                parent_namespace: parent.namespace.clone(),
                vlan: Vlan::try_from(sub.vlan).context("read its VLAN")?,
                mac: placed.mac.parse().context("read its MAC address")?,
                mtu: made.context("find its network's mtu")?.mtu,
                addresses: placed.addresses.clone(),
                gateways: subnets.filter_map(|cidr| network.gateway(cidr)).collect(),
            });
        }
    }
    Ok(orders)
}

/// Carries frames until it is signalled. Prints [`READY`] once all devices are there.
///
/// # Errors
/// When a device can't be had, or is taken away.
pub(crate) fn run(dir: &Path) -> anyhow::Result<()> {
    let state = State::of_dir(dir)?;
    state.record(&Process::of("tagger", std::process::id())?)?;
    let orders: Vec<SubPort> = state.read_json(ORDERS)?;
    let (end, ends) = mpsc::channel();
    for order in orders {
        let name = order.workload.clone();
        let mut pair = Pair::open(&order).with_context(|| format!("sub-port {name}"))?;
        let end = end.clone();
        let carry = move || {
            let Err(error) = pair.run();
            // Nobody listens only when the process ends.
            end.send((name, error)).unwrap_or_default();
        };
        std::thread::Builder::new()
            .name(format!("tag-{}", order.vlan))
            .spawn(carry)
            .context("start a sub-port's thread")?;
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{READY}")
        .and_then(|()| stdout.flush())
        .context("tell that the sub-ports are there")?;
    match ends.recv() {
        Ok((name, error)) => Err(error).with_context(|| format!("sub-port {name}")),
        Err(_) => bail!("the sub-ports' threads are gone"),
    }
}

/// Both ends of a sub-port: its own device, and its tag on the parent's.
struct Pair {
    ends: [Box<dyn PortIo>; 2],
    pool: PacketPool,
}

impl Pair {
    fn open(order: &SubPort) -> anyhow::Result<Self> {
        let own = netns::path(&order.namespace);
        let place = TapPlace {
            netns: Netns::Path(own),
            ifname: DEVICE.parse().context("name its device")?,
            owner: format!("overweave lab {}", order.workload),
        };
        let route = |gateway: &IpAddr| {
            let any: IpAddr = match gateway {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            TapRoute {
                destination: (any, 0),
                gateway: Some(*gateway),
            }
        };
        // As the switch says of the devices that it makes: the metadata service is on every link.
        let v4 = order.addresses.iter().any(|a| a.ip.is_ipv4());
        let service = v4.then_some(TapRoute {
            destination: (SERVICE_V4.into(), 32),
            gateway: None,
        });
        let spec = TapSpec {
            mac: order.mac,
            mtu: Mtu::try_from(order.mtu).context("read its mtu")?,
            queues: NonZeroU16::MIN,
            addresses: order.addresses.iter().map(|a| (a.ip, a.bits)).collect(),
            routes: order.gateways.iter().map(route).chain(service).collect(),
        };
        let tap = Tap::create(&place, &spec).context("make its device")?;
        let wire = netns::inside(&order.parent_namespace, || {
            let name = DEVICE.parse().context("name its parent's device")?;
            let device = wire::interface(&name)?.context("find its parent's device")?;
            let vlan = Some(order.vlan.into());
            Ok(Wire::open(&device, vlan, NonZeroU16::MIN, 0)?)
        })?;
        let tap = tap.into_queues().pop().context("open its device")?;
        let wire = wire.into_queues().pop().context("open its parent's")?;
        Ok(Self {
            ends: [Box::new(tap), Box::new(wire)],
            pool: PacketPool::new(PACKETS.0, PACKETS.1),
        })
    }

    /// Moves frames until a device is gone.
    fn run(&mut self) -> anyhow::Result<Infallible> {
        loop {
            self.wait()?;
            let [own, parents] = &mut self.ends;
            carry(own.as_mut(), parents.as_mut(), &mut self.pool)?;
            carry(parents.as_mut(), own.as_mut(), &mut self.pool)?;
        }
    }

    fn wait(&self) -> anyhow::Result<()> {
        let fds: Vec<_> = self.ends.iter().filter_map(|end| end.poll_fd()).collect();
        let mut fds: Vec<_> = fds
            .iter()
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect();
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e).context("wait for frames"),
        }
    }
}

/// What one end has goes to the other; what that one refuses is lost, as on any wire.
fn carry(from: &mut dyn PortIo, to: &mut dyn PortIo, pool: &mut PacketPool) -> anyhow::Result<()> {
    let (mut batch, mut lost) = (Batch::new(), Refused::new());
    loop {
        let end = from.rx(pool, &mut batch, &mut lost);
        batch.judge(net::Packet::parse, |packet, _| pool.give(packet));
        to.tx(pool, &mut batch, &mut lost);
        lost.drain(..).for_each(|(packet, _)| pool.give(packet));
        match end {
            Rx::More => {}
            Rx::Drained | Rx::Starved => return Ok(()),
            Rx::Gone => return Err(anyhow!("its device is gone")),
        }
    }
}

/// Has a workload its device by another's?
pub(crate) fn is_sub_port(lab: &Lab, workload: &str) -> bool {
    let mut all = lab.trunks.iter().flat_map(|trunk| &trunk.sub_ports);
    all.any(|sub| sub.workload == workload)
}
