//! Joins a network namespace to a VTEP: a tap on one side, VXLAN on the other.
//!
//! `tunnel NETNS LOCAL REMOTE [VNI]`, as root, in the host's own namespace; LOCAL and REMOTE are underlay addresses. The far end
//! may be another `tunnel`, or a Linux `vxlan` device.

use std::{net::IpAddr, num::NonZeroU16};

use net::{Batch, Packet, PacketPool, Vni};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vswitch::io::{
    PortIo, Rx, Tunnelled, Underlay,
    netns::Netns,
    tap::{Tap, TapPlace, TapSpec},
    underlay::{UdpUnderlay, UnderlaySpec},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [netns, local, remote, rest @ ..] = args.as_slice() else {
        return Err("tunnel NETNS LOCAL REMOTE [VNI]".into());
    };
    let (local, vtep): (IpAddr, IpAddr) = (local.parse()?, remote.parse()?);
    let vni = Vni::try_from(rest.first().map_or(Ok(100), |v| v.parse::<u32>())?)?;
    let place = TapPlace {
        netns: Netns::named(netns),
        ifname: "eth0".parse()?,
        owner: "overweave tunnel".to_owned(),
    };
    // A MAC that two ends are unlikely to share.
    let [a, b] = u16::try_from(std::process::id() & 0xffff)?.to_be_bytes();
    let spec = TapSpec {
        mac: net::Mac::new([2, 0, 0, 0, a, b]),
        mtu: 1450.try_into()?,
        queues: NonZeroU16::MIN,
        addresses: vec![],
        routes: vec![],
    };
    let queue = Tap::create(&place, &spec)?.into_queues().pop();
    let mut port = queue.ok_or("a tap without a queue")?;
    let mut underlay = UdpUnderlay::open(&UnderlaySpec::new(local))?;
    let mut pool = PacketPool::new(4096, 256);
    let (mut batch, mut frames, mut refused) = (Batch::new(), Vec::new(), Vec::new());
    let mut unsent = Vec::new();
    let mut more = false;
    loop {
        let fds = [port.poll_fd(), underlay.poll_fd()].into_iter().flatten();
        let mut fds: Vec<_> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let at_once = Timespec::default();
        poll(&mut fds, more.then_some(&at_once))?;
        more = port.rx(&mut pool, &mut batch, &mut refused) == Rx::More;
        batch.judge(Packet::parse, |p, _| pool.give(p));
        frames.extend(batch.drain().map(|packet| Tunnelled {
            packet,
            vni,
            vtep,
            nsh: None,
        }));
        underlay.tx(&mut pool, &mut frames, &mut unsent);
        refused.extend(unsent.drain(..).map(|u| (u.frame.packet, u.reason)));
        more |= underlay.rx(&mut pool, &|from| from == vtep, &mut frames, &mut refused) == Rx::More;
        for frame in frames.drain(..) {
            if batch.is_full() {
                port.tx(&mut pool, &mut batch, &mut refused);
            }
            if let Err(packet) = batch.push(frame.packet) {
                pool.give(packet);
            }
        }
        port.tx(&mut pool, &mut batch, &mut refused);
        refused.drain(..).for_each(|(p, _)| pool.give(p));
    }
}
