//! Which connection does a packet belong to, and what becomes of it by that?

use hostconfig::group::Direction;
use net::{DropReason, FiveTuple, FlowKey};

use super::{
    Arrival, Conn, Host, Place, Receiver, Way,
    routers::{Trail, expires},
    words::{Begins, begins, has_ports, query, quote_kind},
};
use crate::plan::PortUuid;

impl Host {
    pub(super) fn unicast(
        &mut self,
        origin: Option<PortUuid>,
        a: &Arrival,
        seen: &[PortUuid],
        trail: &mut Trail,
    ) -> Receiver {
        let key = a.key;
        if !key.is_ip() {
            let walk = self.walk((origin, a.network), &key, None, seen, trail)?;
            return Ok((key, walk.network, walk.place));
        }
        let tuple = key.five_tuple().expect("ip has a tuple");
        if let Some((at, way)) = self.find(origin, a, tuple) {
            let conn = self.conns[at].clone();
            let original = way == Way::Original && a.quote.is_none();
            // A packet of the original side goes by its own Ethernet addresses.
            let mut first = conn.first;
            if original {
                (first.eth_src, first.eth_dst) = (key.eth_src, key.eth_dst);
            }
            let from = (conn.from, conn.network);
            let mut of_first = Trail::new();
            let walked = self.walk(from, &first, Some(conn.wire), seen, &mut of_first);
            if original {
                *trail = of_first;
            }
            // What only imitates a connection can't end it.
            let own = (first.eth_src, first.eth_dst) == (conn.first.eth_src, conn.first.eth_dst);
            let walk = walked.inspect_err(|_| {
                if own {
                    self.conns.remove(at);
                }
            })?;
            if original && walk.tracked {
                let to = match walk.place {
                    Place::Here(port) => Some(port),
                    _ => None,
                };
                if conn.to == to {
                    // An end that shows another Ethernet address between the same ports is known by that from now on.
                    let known = &mut self.conns[at].first;
                    (known.eth_src, known.eth_dst) = (first.eth_src, first.eth_dst);
                } else if expires(trail, key.ip_ttl).is_none() {
                    self.led_elsewhere(at, to, &key, (own, walk.received))?;
                }
            }
            let mut to = key;
            translate(&mut to, &conn, way, a.quote.is_some());
            self.stateless(origin, &key, Direction::Egress)?;
            let (network, place) = if original {
                (to.eth_src, to.eth_dst) = (walk.key.eth_src, walk.key.eth_dst);
                (walk.network, walk.place)
            } else {
                // The Ethernet addresses that the other end showed.
                let back = match way {
                    Way::Original => (walk.key.dst_mac(), walk.key.src_mac()),
                    Way::Reply => (conn.first.src_mac(), conn.first.dst_mac()),
                };
                if conn.seen != conn.wire {
                    let server = conn.to.and_then(|p| Some(self.port(p)?.network));
                    let of = match way {
                        Way::Original => server.unwrap_or(conn.network),
                        Way::Reply => conn.network,
                    };
                    self.turn_back((a.network, of), &mut to, back);
                }
                self.go_home((origin, a.network), &mut to, back.0.unmarked(), trail)?
            };
            if let Place::Here(receiver) = place {
                // A route leads back to its sender.
                if !original && origin == Some(receiver) && conn.seen == conn.wire {
                    return Err(DropReason::SplitHorizon);
                }
                // Whoever is a virtual address shows that address's own Ethernet address, however it was called.
                if !original && let Some(mac) = self.source_mac(origin, network, &to) {
                    to.eth_src = mac.octets();
                }
                let ends = [conn.from, conn.to];
                match self.port(receiver) {
                    // A route may lead a reply to somebody who is no end of the connection.
                    Some(port) if !ends.contains(&Some(receiver)) => {
                        self.group(port, &to, Direction::Ingress)?;
                    }
                    _ => self.stateless(Some(receiver), &to, Direction::Ingress)?,
                }
            }
            return Ok((to, network, place));
        }
        let walk = self.walk((origin, a.network), &key, None, seen, trail)?;
        // What ends at a router begins nothing.
        if expires(trail, key.ip_ttl).is_some() {
            return Err(DropReason::TtlExceeded);
        }
        let to = match walk.place {
            Place::Here(port) => Some(port),
            _ => None,
        };
        if walk.tracked && begins(&key) == Begins::Connection {
            let wire = walk.key.five_tuple().unwrap();
            distinct((origin, tuple), (to, wire))?;
            // The other end asks under the same identifier: a conversation of its own in place of the old one.
            self.conns
                .retain(|c| !(c.from == to && c.to == origin && c.wire.reversed() == wire));
            self.conns.push(Conn {
                network: a.network,
                from: origin,
                to,
                first: key,
                seen: tuple,
                wire,
            });
        } else if walk.tracked && begins(&key) == Begins::Nothing {
            return Err(DropReason::ConntrackInvalid);
        }
        Ok((walk.key, walk.network, walk.place))
    }

    /// Routes lead a connection to another port than before. What can begin there does, with what it shows; the middle of one is nothing
    /// that the other port knows of, if it keeps an eye on that. The client's end stays.
    fn led_elsewhere(
        &mut self,
        at: usize,
        to: Option<PortUuid>,
        key: &FlowKey,
        (own, received): (bool, bool),
    ) -> Result<(), DropReason> {
        match begins(key) {
            Begins::Connection if own => {
                self.conns[at].to = to;
                let Conn { from, wire, .. } = self.conns[at];
                let turned = |c: &Conn| c.from == to && c.to == from && c.wire.reversed() == wire;
                self.conns.retain(|c| !turned(c));
            }
            Begins::Nothing if received => return Err(DropReason::ConntrackInvalid),
            Begins::Connection | Begins::Nothing | Begins::Alone => {}
        }
        Ok(())
    }

    /// The connection that a packet belongs to, and its direction (an error's is that of what it tells about, turned).
    pub(super) fn find(
        &self,
        origin: Option<PortUuid>,
        a: &Arrival,
        tuple: FiveTuple,
    ) -> Option<(usize, Way)> {
        let local = match self.place(a.network, a.key.dst_mac()) {
            Some(Place::Here(port)) => Some(port),
            _ => None,
        };
        // What is about a packet is looked for as that packet's answer.
        let error = quote_kind(&a.key);
        let tuple = match (error, a.quote) {
            (true, quote) => quote?.reversed(),
            (false, _) => tuple,
        };
        let asks = query(&a.key);
        self.conns.iter().enumerate().find_map(|(at, c)| {
            let (original, reply) = match origin {
                Some(port) => (
                    c.from == Some(port) && c.seen == tuple,
                    c.to == Some(port) && c.wire.reversed() == tuple,
                ),
                None => (
                    c.from.is_none() && c.to == local && c.seen == tuple,
                    c.to.is_none() && c.from == local && c.wire.reversed() == tuple,
                ),
            };
            match asks {
                _ if error && original => Some((at, Way::Original)),
                _ if error && reply => Some((at, Way::Reply)),
                Some(true) => original.then_some((at, Way::Original)),
                None if original => Some((at, Way::Original)),
                Some(false) | None => reply.then_some((at, Way::Reply)),
            }
        })
    }
}

pub(super) fn translate(key: &mut FlowKey, conn: &Conn, way: Way, error: bool) {
    if conn.seen == conn.wire {
        return;
    }
    // An error comes from whoever met the packet: only the connection's own addresses are turned back.
    let shown = match way {
        Way::Original => conn.wire,
        Way::Reply => conn.seen.reversed(),
    };
    (key.ip_src, key.ip_dst) = (shown.src, shown.dst);
    if error {
        return;
    }
    if has_ports(key) {
        (key.l4_src, key.l4_dst) = (shown.src_port, shown.dst_port);
    } else if key.is_query() {
        // An echo's identifier is both ports of its tuple; type and code stay.
        key.icmp_id = shown.src_port;
    }
}

/// From a port to its own address, by a router that sends it elsewhere: nothing would tell an answer from a question.
pub(super) fn distinct(
    (from, seen): (Option<PortUuid>, FiveTuple),
    (to, wire): (Option<PortUuid>, FiveTuple),
) -> Result<(), DropReason> {
    let one_zone = to.is_none() || from.is_none() || from == to;
    if one_zone && wire.reversed() == seen {
        return Err(DropReason::ConntrackInvalid);
    }
    Ok(())
}
