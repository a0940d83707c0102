//! Where does a packet end on its way, and what does its sender hear?

use std::net::IpAddr;

use net::{DropReason, FiveTuple, Fragment};

use super::{
    Arrival, Conn, Host, Way, routers,
    routers::{Trail, expires},
    what::{About, Delivery, What},
    words::quote_kind,
};
use crate::plan::{NetId, PortUuid};

impl Host {
    /// What an error quotes behind this host: turned back as the connection is that it speaks of.
    pub(super) fn quoted_beyond(&self, origin: Option<PortUuid>, a: &Arrival) -> Option<FiveTuple> {
        let quote = a.quote?;
        let Some((at, _)) = self.find(origin, a, a.key.five_tuple()?) else {
            return Some(quote);
        };
        let Conn { seen, wire, .. } = &self.conns[at];
        Some(if quote == seen.reversed() {
            wire.reversed()
        } else if quote == *wire {
            *seen
        } else {
            quote
        })
    }

    /// An answer to what is refused by now ends its connection, before it is looked at itself.
    pub(super) fn refused_again(
        &mut self,
        origin: Option<PortUuid>,
        a: &Arrival,
        seen: &[PortUuid],
    ) -> Option<DropReason> {
        let tuple = a.key.five_tuple()?;
        if a.key.dst_mac().is_multicast() {
            return None;
        }
        let (at, way) = self.find(origin, a, tuple)?;
        if way == Way::Original && a.quote.is_none() {
            return None;
        }
        let conn = &self.conns[at];
        let (from, bound) = ((conn.from, conn.network), Some(conn.wire));
        let walked = self.walk(from, &conn.first, bound, seen, &mut Trail::new());
        let refused = walked.err()?;
        self.conns.remove(at);
        Some(refused)
    }

    /// Does a local port's packet end on its way, though the tables let it pass or at a router that refuses it? With which reason, what its
    /// sender is told, and by which router.
    pub(super) fn ended<'t>(
        &self,
        a: &Arrival,
        trail: &'t Trail,
        refused: Option<DropReason>,
    ) -> Option<(DropReason, About, Option<&'t routers::Passed>)> {
        if let Some(by) = expires(trail, a.key.ip_ttl) {
            return Some((DropReason::TtlExceeded, About::TimeExceeded, Some(by)));
        }
        // What a connection is refused for that is judged again was not this packet's way.
        match (refused, trail.last()) {
            (Some(reason @ DropReason::NoRoute), Some(by)) => {
                Some((reason, About::NoRoute, Some(by)))
            }
            (Some(reason @ DropReason::UnknownNeighbor), Some(by)) => {
                Some((reason, About::HostUnreachable, Some(by)))
            }
            (Some(_), _) => None,
            (None, _) => {
                let (mtu, by) = self.too_small(a, trail)?;
                Some((DropReason::MtuExceeded, About::TooBig(mtu), by))
            }
        }
    }

    /// The first network on its way for which a packet is too large, and the router before it.
    pub(super) fn too_small<'t>(
        &self,
        a: &Arrival,
        trail: &'t Trail,
    ) -> Option<(u16, Option<&'t routers::Passed>)> {
        let own = (self.mtu(a.network), trail.first());
        let routed = trail.iter().filter_map(|r| Some((r.onwards?, Some(r))));
        let mut all = std::iter::once(own).chain(routed);
        all.find(|(mtu, _)| a.len > usize::from(*mtu))
    }

    pub(super) fn mtu(&self, network: NetId) -> u16 {
        let network = self.network(network);
        network.map_or(0, |n| n.mtu.get())
    }

    /// What the sender of a packet hears that ended on its way.
    pub(super) fn told(
        &self,
        sender: PortUuid,
        a: &Arrival,
        about: About,
        by: Option<&routers::Passed>,
    ) -> Option<Delivery> {
        let (key, network) = (&a.key, self.network(a.network)?);
        let one = |addr: IpAddr| !addr.is_multicast() && !addr.is_unspecified();
        let quiet = quote_kind(key) || key.ip_frag == Fragment::Later as u8;
        let macs = !key.dst_mac().is_multicast() && !key.src_mac().is_multicast();
        if quiet || !macs || !one(key.src_addr()) || !one(key.dst_addr()) {
            return None;
        }
        let mut subnets = network.subnets.iter();
        let own = subnets.find(|s| s.cidr.contains(key.src_addr()));
        let gateway = own.and_then(|s| s.gateway);
        let from = gateway.filter(|g| *g != key.src_addr());
        let from = match by {
            Some(router) => router.name(key.src_addr())?,
            None => from.unwrap_or(key.dst_addr()),
        };
        let tuple = key.five_tuple()?.to_string();
        Some((sender, What::Error(from, about, tuple)))
    }
}
