//! Where does a packet go on that comes out of an appliance?
//!
//! Part of the walk. A connection through appliances has a record for each part of its way: from its sender to the first one's ingress
//! port, from that one's egress port to the next, and so on to its receiver. Each is known by the zones of the ports at its ends, so what
//! comes out of an egress port is found by (egress port, tuple), and what answers comes out of the ingress port and is found there. The
//! record of the part before says where in which chain a new part goes on ([`Handed`]): no address alone places a packet.

use std::net::IpAddr;

use net::{DropReason, flow_key::ethertype};
use nfv::conntrack::Side;

use super::{
    flow::{Action, Half, Handed, Refusal, Stage},
    tables::{End, Network, Port},
    transport::toward,
    walk::{Known, Walk, Witness},
};

impl<'a, W: Witness> Walk<'a, W> {
    /// What an appliance's port sends: if it was handed over, it goes on. `false`: it is the appliance's own.
    /// `own`: the port itself, where it is here.
    pub(super) fn out_of_appliance(
        &mut self,
        port: End<'_>,
        own: Option<&Port>,
    ) -> Result<bool, Refusal> {
        self.depend(self.tables.appliances());
        let path = self.probe.path();
        self.flow.path = path;
        let before = self.lent.before.and_then(|flow| flow.handed);
        let before = before.filter(|handed| handed.egress == port.dense);
        let after = self
            .lent
            .after
            .filter(|handed| handed.ingress == port.dense);
        let (new, place) = match self.lent.known {
            Known::New | Known::Again(_) => (true, before),
            Known::Related {
                side: Side::Original,
                ..
            } => (false, before),
            Known::Reply { .. } | Known::Related { .. } => (false, after),
        };
        let Some(handed) = place else {
            if path == 0 && own.is_some_and(|own| self.is_own(own)) {
                return Ok(false);
            }
            let refusal = Refusal::new(DropReason::ChainPlaceUnknown, Stage::Chain);
            return Err(refusal.at(port.dense));
        };
        if handed.path() != path {
            let refusal = Refusal::new(DropReason::ChainLabelWrong, Stage::Chain);
            return Err(refusal.at(port.dense));
        }
        self.placed = true;
        self.zones[0] = Some(port.zone);
        self.owner = Some(handed.owner);
        self.back = Some(handed.back);
        let network = self.network(handed.network)?;
        self.says(Stage::Chain, || {
            format!("port {} of an appliance: placed", port.name)
        });
        if new {
            self.go_on(network, &handed)?;
        } else {
            self.known_connection(network);
            if !self.hand_on() {
                self.forward(network)?;
            }
        }
        Ok(true)
    }

    /// Behind the hop at which it was handed over.
    fn go_on(&mut self, network: &'a Network, handed: &Handed) -> Result<(), Refusal> {
        let tables = self.tables;
        let gone = Refusal::new(DropReason::PortGone, Stage::Chain);
        let chain = tables.chains().find(|c| c.section == handed.chain);
        let chain = chain.ok_or(gone)?;
        self.depend(chain.section);
        self.flow.tracked = true;
        let asked = self.probe.rewritten_key().dst_mac();
        self.pass_chain(network, chain, handed.at + 1, handed.half)?;
        if self.flow.handed.is_some() {
            return Ok(());
        }
        match handed.half {
            Half::Source => self.forward(network),
            Half::Destination(id) => {
                let port = tables.port(id).ok_or(gone.at(id))?;
                self.depend(port.section);
                if !port.admin_up {
                    return Err(Refusal::new(DropReason::AdminDown, Stage::Egress).at(id));
                }
                self.zones[1] = Some(port.zone);
                let sent = std::mem::take(&mut self.flow.tracked);
                self.deliver(port, true, sent)
            }
            Half::Virtual(_) if self.probe.rewritten_key().dst_mac() != asked => {
                self.forward(network)
            }
            Half::Virtual(vip) => self.at_virtual_address(network, vip),
        }
    }

    /// A packet of a known connection that goes to an appliance next: a reply by the egress port, an error about a reply by the ingress
    /// port.
    pub(super) fn hand_on(&mut self) -> bool {
        let (handed, reply) = match self.lent.known {
            Known::New | Known::Again(_) => (None, false),
            Known::Related {
                side: Side::Original,
                ..
            } => (self.lent.after, false),
            Known::Reply { .. } | Known::Related { .. } => {
                (self.lent.before.and_then(|flow| flow.handed), true)
            }
        };
        let Some(handed) = handed.filter(|h| h.symmetric) else {
            return false;
        };
        let port = if reply { handed.egress } else { handed.ingress };
        self.leave();
        let tables = self.tables;
        self.says(Stage::Chain, || {
            let name = match (tables.port(port), tables.far(port)) {
                (Some(port), _) => port.name.clone(),
                (None, Some(far)) => format!("{} elsewhere", far.name),
                (None, None) => "?".to_owned(),
            };
            format!("to an appliance, by port {name}")
        });
        self.flow.actions.extend(handed.label.map(Action::Label));
        let action = toward(tables, &handed, port, reply);
        self.flow.actions.push(action);
        true
    }

    /// Does an appliance's port speak for itself? By its own Ethernet address, and an own address or none.
    fn is_own(&mut self, port: &Port) -> bool {
        if self.probe.eth_src() != port.mac {
            return false;
        }
        if !matches!(
            self.probe.ethertype(),
            ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP
        ) {
            return true;
        }
        let src = self.probe.ip_src();
        src.is_unspecified()
            || port.addrs.contains(&src)
            || src == IpAddr::V6(port.mac.link_local())
    }
}
