//! Joins two network namespaces: a tap in each, and every frame of one goes to the other.
//!
//! `two_ports blue red`, as root, with both made by `ip netns add`. Then give the two `eth0` addresses and use them. Ends
//! with Ctrl-C; the taps stay, and are taken up again by the next run.

use std::num::NonZeroU16;

use net::{Batch, Packet, PacketPool};
use rustix::event::{PollFd, PollFlags, poll};
use vswitch::io::{
    PortIo, Rx,
    netns::Netns,
    tap::{Tap, TapPlace, TapQueue, TapSpec},
};

fn tap(netns: &str, last: u8) -> Result<TapQueue, Box<dyn std::error::Error>> {
    let place = TapPlace {
        netns: Netns::named(netns),
        ifname: "eth0".parse()?,
        owner: "overweave two_ports".to_owned(),
    };
    let spec = TapSpec {
        mac: net::Mac::new([2, 0, 0, 0, 0, last]),
        mtu: 1500.try_into()?,
        queues: NonZeroU16::MIN,
        addresses: vec![],
        routes: vec![],
    };
    let queue = Tap::create(&place, &spec)?.into_queues().pop();
    Ok(queue.ok_or("a tap without a queue")?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let [left, right] = names.as_slice() else {
        return Err("two_ports NETNS NETNS".into());
    };
    let mut ports = [tap(left, 1)?, tap(right, 2)?];
    let mut pool = PacketPool::new(1024, 128);
    let (mut batch, mut refused) = (Batch::new(), Vec::new());
    loop {
        let mut fds: Vec<_> = ports
            .iter()
            .filter_map(PortIo::poll_fd)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        poll(&mut fds, None)?;
        for _ in 0..2 {
            let [from, to] = &mut ports;
            if from.rx(&mut pool, &mut batch, &mut refused) == Rx::Gone {
                return Err("a tap went away".into());
            }
            batch.judge(Packet::parse, |p, _| pool.give(p));
            to.tx(&mut pool, &mut batch, &mut refused);
            refused.drain(..).for_each(|(p, _)| pool.give(p));
            ports.swap(0, 1);
        }
    }
}
