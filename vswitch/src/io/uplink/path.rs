//! To which MAC address, and how large?
//!
//! The kernel owns the underlay: addresses, routes, neighbours. What it would do with a packet to a VTEP is asked of it and
//! believed for a second. Where it does not know, or would not use our link, the frame is for the sockets: sending there makes
//! the kernel find out.
//!
//! # Invariants
//! - No answer is older than a second: a route, a MAC address or an MTU that changes is followed within that time.
//! - A neighbour that the kernel has not heard of lately gets something through the sockets, so that the kernel asks for it.
//!
//! # Cost
//! One look-up of a hash map a frame; four questions to the kernel a second and VTEP that is sent to.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::header::{Hop, Template};
use crate::io::netlink::Netlink;

/// How long an answer is believed.
const LIFE: Duration = Duration::from_secs(1);
/// How long it is believed that there is no way: finding one takes an ARP exchange.
const NONE_LIFE: Duration = Duration::from_millis(50);
/// Ways that are remembered; past it they are all forgotten.
const WAYS: usize = 4096;

/// The link that has the VTEP's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UplinkDevice {
    /// Its index.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
}

/// A way over the tap.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// The headers.
    pub(super) template: Template,
    /// The largest UDP payload.
    pub(super) room: usize,
}

#[derive(Debug)]
struct Known {
    way: Option<Way>,
    until: Instant,
    /// The kernel wants to be reminded of this neighbour.
    remind: bool,
}

/// The ways to all VTEPs.
#[derive(Debug)]
pub(super) struct Ways {
    netlink: Netlink,
    device: UplinkDevice,
    local: IpAddr,
    known: HashMap<IpAddr, Known>,
}

impl Ways {
    pub(super) fn new(netlink: Netlink, device: UplinkDevice, local: IpAddr) -> Self {
        Self {
            netlink,
            device,
            local,
            known: HashMap::new(),
        }
    }

    /// The way to a VTEP over the tap; `None`: take the sockets. `room` asks for the path's MTU.
    pub(super) fn to(
        &mut self,
        vtep: IpAddr,
        now: Instant,
        room: impl FnOnce() -> usize,
    ) -> Option<&Way> {
        let current = self.known.get(&vtep).is_some_and(|k| k.until > now);
        if !current {
            let asked = self.ask(vtep, room);
            let (way, remind) = asked
                .ok()
                .flatten()
                .map_or((None, false), |(way, confirmed)| (Some(way), !confirmed));
            let life = if way.is_some() { LIFE } else { NONE_LIFE };
            if self.known.len() >= WAYS {
                self.known.clear();
            }
            let known = Known {
                way,
                until: now + life,
                remind,
            };
            self.known.insert(vtep, known);
        }
        let known = self.known.get_mut(&vtep)?;
        if std::mem::take(&mut known.remind) {
            return None;
        }
        known.way.as_ref()
    }

    /// Asks the kernel: the way, and whether its neighbour was heard of lately.
    fn ask(
        &mut self,
        vtep: IpAddr,
        room: impl FnOnce() -> usize,
    ) -> io::Result<Option<(Way, bool)>> {
        let Some(route) = self.netlink.route(vtep, self.local)? else {
            return Ok(None);
        };
        if route.link != self.device.index {
            return Ok(None);
        }
        let next = route.gateway.unwrap_or(vtep);
        let Some(neighbour) = self.netlink.neighbour(route.link, next)? else {
            return Ok(None);
        };
        let hop = Hop {
            from: self.netlink.mac_of(&self.device.name)?,
            to: neighbour.mac,
        };
        let template = Template::new(hop, self.local, vtep);
        Ok(template.map(|template| {
            let way = Way {
                template,
                room: room(),
            };
            (way, neighbour.confirmed)
        }))
    }
}
