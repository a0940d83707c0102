//! Does a workload ask for a name, and whom?
//!
//! Part of the walk, before the groups: a question to the service address ends in the switch, or goes on to a name server of the
//! network; one to such a name server is looked into on its way.

use std::net::IpAddr;

use hostconfig::network::{SERVICE_V4, SERVICE_V6};
use net::{
    Consumed, DropReason, Fragment, Mac, Probe,
    flow_key::{addr_bytes, ethertype, proto},
};
use nfv::conntrack::Side;
use overlay::Place;

use crate::datapath::{
    chains::next_hop,
    flow::{Action, Refusal, Stage},
    tables::{Network, Port},
    walk::{Known, Walk, Witness},
};

/// Where the service addresses are on every network: a local address that ends as the IPv4 one does.
pub(in crate::datapath) const MAC: Mac = Mac::new([0x06, 0x00, 0xa9, 0xfe, 0xa9, 0xfe]);
/// The port of name servers.
const PORT: u16 = 53;
/// The port of the service address at which the switch itself, in a workload's name, reaches the network's name servers by TCP: that
/// workload's own questions end in the switch. What a workload sends here itself is answered to nobody.
pub(crate) const UPSTREAM: u16 = 54;

/// Is this the address at which the switch itself answers?
pub(in crate::datapath) fn is_service(addr: IpAddr) -> bool {
    addr == IpAddr::V4(SERVICE_V4) || addr == IpAddr::V6(SERVICE_V6)
}

/// Is the packet for the service address? Reads no more of the destination than tells it from that one, so that flows to others stay
/// wide.
fn is_for_service(probe: &mut Probe) -> bool {
    let own = match probe.ethertype() {
        ethertype::IPV4 => IpAddr::V4(SERVICE_V4),
        _ => IpAddr::V6(SERVICE_V6),
    };
    let own = u128::from_be_bytes(addr_bytes(own));
    let there = u128::from_be_bytes(probe.rewritten_key().ip_dst);
    // Whole bytes up to the first that differs: few masks, and whoever is equal in them differs there too.
    let bits = ((own ^ there).leading_zeros() / 8 + 1) * 8;
    let bits = u8::try_from(bits.min(128)).unwrap_or(128);
    let shift = 128 - u32::from(bits);
    probe.ip_dst_top(bits) >> shift == own >> shift
}

/// Has a network names? It has, where any of its subnets tells hosts who their name server is.
fn serves(network: &Network) -> bool {
    let mut subnets = network.subnets.iter();
    subnets.any(|s| s.dhcp.is_some() || s.dhcp6.is_some() || s.ra.is_some())
}

/// The name servers that a network's subnets name, the switch aside; or the operator's, where they name none.
fn servers(network: &Network) -> impl Iterator<Item = IpAddr> + Clone {
    let v4 = network.subnets.iter().filter_map(|s| s.dhcp.as_ref());
    let v4 = v4.flat_map(|dhcp| &dhcp.dns).map(|addr| IpAddr::V4(*addr));
    let v6 = network.subnets.iter().flat_map(|s| &s.dns6);
    let all = v4.chain(v6.map(|addr| IpAddr::V6(*addr)));
    let all = all.chain(network.resolvers.iter().copied());
    all.filter(|addr| !is_service(*addr))
}

/// Is there a name server of this family to ask?
pub(crate) fn has_server(network: &Network, v4: bool) -> bool {
    servers(network).any(|server| server.is_ipv4() == v4)
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::datapath) enum Asks {
    /// It is no question.
    Nothing,
    /// It goes on, and is answered on the way if the network knows.
    Onwards,
    /// It ends here.
    Here,
}

impl<'a, W: Witness> Walk<'a, W> {
    /// Looks whether this is a question for a name.
    pub(in crate::datapath) fn asks_for_names(
        &mut self,
        network: &'a Network,
        port: &Port,
    ) -> Result<Asks, Refusal> {
        if !matches!(self.probe.ethertype(), ethertype::IPV4 | ethertype::IPV6)
            || self.probe.eth_dst().is_multicast()
        {
            return Ok(Asks::Nothing);
        }
        let udp = match self.probe.ip_proto() {
            proto::UDP => true,
            proto::TCP => false,
            _ => return Ok(Asks::Nothing),
        };
        // Flows of TCP stay wide: no port is read before it is known that they are for the service, and no address of those that are for
        // a workload.
        let place = network.fdb.get(self.probe.eth_dst()).map(|e| e.place);
        let workload = matches!(
            place,
            Some(Place::Local(_) | Place::Vtep(_) | Place::Virtual)
        );
        if (udp && self.probe.l4_dst() != PORT) || (!udp && workload) {
            return Ok(Asks::Nothing);
        }
        let service = is_for_service(self.probe);
        if !(udp || service) {
            return Ok(Asks::Nothing);
        }
        let to = self.probe.l4_dst();
        if !(to == PORT || (!udp && to == UPSTREAM))
            || !serves(network)
            || self.probe.ip_frag() != Fragment::Whole as u8
        {
            return Ok(Asks::Nothing);
        }
        if !service {
            let to = self.probe.ip_dst();
            if !servers(network).any(|server| server == to) {
                return Ok(Asks::Nothing);
            }
            self.flow.actions.push(Action::Resolve(network.dense));
            self.says(Stage::Service, || {
                format!(
                    "names of network {} are answered on the way to {to}",
                    network.name
                )
            });
            return Ok(Asks::Onwards);
        }
        if !udp && to == PORT {
            self.flow.tracked = false;
            self.answers(Action::Metadata, Consumed::Metadata);
            self.says(Stage::Service, || {
                format!("a name server of network {} is asked, by tcp", network.name)
            });
            return Ok(Asks::Here);
        }
        if self.send_to_server(network, port) {
            if udp {
                self.flow.actions.push(Action::Resolve(network.dense));
            }
            return Ok(Asks::Onwards);
        }
        if !udp {
            return Err(self.about_sender(DropReason::NoListener, Stage::Service));
        }
        self.answers(Action::AnswerNames(network.dense), Consumed::Dns);
        self.says(Stage::Service, || {
            format!("a name server of network {} is asked", network.name)
        });
        Ok(Asks::Here)
    }

    /// Does this answer what the switch asked in a workload's name?
    pub(in crate::datapath) fn answers_the_switch(&self) -> bool {
        let Known::Reply { entry, .. } = self.lent.known else {
            return false;
        };
        let began = entry.side(Side::Original).tuple();
        (began.proto, began.dst_port) == (proto::TCP, UPSTREAM) && is_service(began.dst_addr())
    }

    /// What the network does not know is asked of a name server of its subnets, in the workload's own name. Is there one that it can
    /// reach?
    fn send_to_server(&mut self, network: &'a Network, port: &Port) -> bool {
        let v4 = self.probe.ethertype() == ethertype::IPV4;
        // A name server that asks the switch is not to be asked in turn.
        let all = servers(network)
            .filter(|server| server.is_ipv4() == v4 && !port.addrs.contains(server));
        let count = all.clone().count();
        // Where there is none, no more is read of the question: all of a workload's are one flow.
        if count == 0 {
            return false;
        }
        let Some(tuple) = self.probe.five_tuple() else {
            return false;
        };
        // Which one follows the client's port: who asks again from another one may reach another.
        let at = usize::from(tuple.src_port).checked_rem(count);
        let Some(server) = at.and_then(|at| all.clone().nth(at)) else {
            return false;
        };
        let from = tuple.src_addr();
        // No router takes a link-local source on.
        let own = |addr: &&IpAddr| addr.is_ipv4() == v4;
        let link_local = matches!(from, IpAddr::V6(addr) if addr.is_unicast_link_local());
        let from = if link_local {
            match port.addrs.iter().find(own) {
                Some(own) => *own,
                None => return false,
            }
        } else {
            from
        };
        self.depend(network.members);
        let asked = self.probe.eth_dst();
        // A gateway that the controller does not know, outside on a wire, is where the workload sent it.
        let outside =
            || (network.wire.is_some() && network.fdb.get(asked).is_none()).then_some(asked);
        let known = next_hop(network, asked, server).map(|hop| hop.mac);
        let Some(mac) = known.or_else(outside) else {
            return false;
        };
        self.probe.set_src(from, tuple.src_port);
        self.probe.set_dst(server, PORT);
        self.set_eth(None, Some(mac));
        if !self.translated {
            self.flow.actions.push(Action::Translate);
            self.translated = true;
        }
        self.flow.tracked = true;
        self.says(Stage::Service, || {
            format!(
                "what network {} does not know is asked of {server} ({mac})",
                network.name
            )
        });
        true
    }
}
