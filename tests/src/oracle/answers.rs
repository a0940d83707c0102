//! What may come in, and what does the switch answer itself?

use std::net::IpAddr;

use hostconfig::{Location, Port};
use net::{
    DropReason, FlowKey, Fragment,
    flow_key::{ethertype, proto},
};

use super::{
    Arrival, Host, advertised, dhcp6,
    what::{Delivery, What},
    words::{macs_of, port_security, query},
};
use crate::plan::{NetId, PortUuid};

impl Host {
    /// May it come in at all? Perhaps the switch answers it.
    pub(super) fn admit(
        &mut self,
        origin: Option<PortUuid>,
        a: &mut Arrival,
    ) -> Result<Option<Vec<Delivery>>, DropReason> {
        if let Some(origin) = origin
            && a.key.vlan != 0
        {
            // Tags that are somebody's are off by now.
            let of_trunk = |p: &Port| p.trunk.is_some_and(|t| t.parent == origin);
            return Err(if self.ports().any(of_trunk) {
                DropReason::TrunkVlanUnknown
            } else {
                DropReason::VlanNotAllowed
            });
        }
        let port = origin.and_then(|p| self.port(p)).cloned();
        let up = self.network(a.network).is_some_and(|n| n.admin_up);
        if !up || port.as_ref().is_some_and(|p| !p.admin_up) {
            return Err(DropReason::AdminDown);
        }
        let Some(port) = port else {
            let mut ours = self.ports().filter(|p| p.network == a.network);
            let forged = ours.any(|p| macs_of(p).contains(&a.key.src_mac()));
            return if forged {
                Err(DropReason::TunnelSpoof)
            } else {
                Ok(None)
            };
        };
        port_security(&port, &a.key)?;
        let answers = self.answers(&port, a)?;
        Ok(answers.map(|all| all.into_iter().map(|answer| (port.id, answer)).collect()))
    }

    /// A later fragment gets the ports of its first, or waits for it (`None`). With a first one come those that waited for it.
    pub(super) fn defragment(
        &mut self,
        origin: Option<PortUuid>,
        a: &mut Arrival,
    ) -> Option<Vec<Arrival>> {
        let key = &mut a.key;
        let (src, dst) = (key.ip_src, key.ip_dst);
        let id = (origin, a.network, src, dst, key.ip_proto, a.fragment_id);
        if key.ip_frag == Fragment::First as u8 {
            let ports = (key.l4_src, key.l4_dst);
            self.fragments.insert(id, ports);
            let early = std::mem::take(&mut self.early);
            let (mut waited, early): (Vec<_>, _) = early.into_iter().partition(|(of, _)| *of == id);
            self.early = early;
            for (_, later) in &mut waited {
                (later.key.l4_src, later.key.l4_dst) = ports;
            }
            return Some(waited.into_iter().map(|(_, later)| later).collect());
        }
        if key.ip_frag == Fragment::Later as u8 {
            let Some(ports) = self.fragments.get(&id) else {
                self.early.push((id, a.clone()));
                return None;
            };
            (key.l4_src, key.l4_dst) = *ports;
        }
        Some(vec![])
    }

    /// What the switch answers itself, which may be nothing; `None`: it is the network's to answer.
    pub(super) fn answers(
        &self,
        port: &Port,
        a: &Arrival,
    ) -> Result<Option<Vec<What>>, DropReason> {
        let key = &a.key;
        if dhcp6::asks(key) {
            return self.dhcp6(port, &a.message);
        }
        if (key.ethertype, key.ip_proto, key.l4_src) == (ethertype::IPV6, proto::ICMP6, 133) {
            let said = self.advertised(port.network, advertised::asker(key));
            let said: Vec<_> = said.into_iter().map(What::Advertisement).collect();
            return Ok(Some(said).filter(|said| !said.is_empty()));
        }
        Ok(self.answer(port, a).map(|answer| vec![answer]))
    }

    /// The same, where there is one answer at most.
    pub(super) fn answer(&self, port: &Port, a: &Arrival) -> Option<What> {
        let key = &a.key;
        let known = |addr: IpAddr| {
            if let Some((_, mac)) = self.router_at(port.network, addr) {
                return Some(What::Neighbor(addr, mac));
            }
            let here = self.ports().filter(|p| p.network == port.network);
            let here = here.map(|p| (p.id, p.mac, p.fixed_ips.iter().map(|f| f.addr).collect()));
            let there = self.endpoints(port.network);
            let there = there.map(|e| (e.id, e.mac, e.addrs.clone()));
            let mut all = here.chain(there);
            let found = all.find(|(_, _, addrs): &(_, _, Vec<IpAddr>)| addrs.contains(&addr))?;
            (found.0 != port.id).then(|| What::Neighbor(addr, found.1.get()))
        };
        // As a DHCP server the switch has an address itself, where nobody else has it.
        let server = |addr: IpAddr| {
            let subnets = &self.network(port.network)?.subnets;
            let others = self.ports().filter(|p| p.network == port.network);
            let mut others = others.flat_map(|p| p.fixed_ips.iter().map(|f| f.addr));
            let mut far = self.endpoints(port.network).flat_map(|e| &e.addrs);
            let routed = self.router_at(port.network, addr).is_some();
            if routed || others.any(|a| a == addr) || far.any(|a| *a == addr) {
                return None;
            }
            let mut own = subnets.iter().filter(|s| s.gateway != Some(addr));
            own.find_map(|s| {
                let dhcp = s.dhcp.as_ref()?;
                (addr == IpAddr::V4(dhcp.server)).then_some(What::Neighbor(addr, dhcp.server_mac))
            })
        };
        match (key.ethertype, key.ip_proto) {
            (ethertype::ARP, 1) => known(key.dst_addr()).or_else(|| server(key.dst_addr())),
            (ethertype::IPV6, proto::ICMP6) if key.l4_src == 135 => {
                known(IpAddr::V6(key.nd_target.into()))
            }
            (ethertype::IPV4, proto::UDP) if (key.l4_src, key.l4_dst) == (68, 67) => {
                let subnets = &self.network(port.network)?.subnets;
                let mut leased = port.fixed_ips.iter().map(|f| f.addr).filter(|a| {
                    let of = |s: &&hostconfig::Subnet| s.dhcp.is_some() && s.cidr.contains(*a);
                    a.is_ipv4() && subnets.iter().any(|s| of(&s))
                });
                Some(What::Dhcp(leased.next()?))
            }
            _ => None,
        }
    }

    /// Is it a ping to a virtual address? That is the switch's to answer.
    pub(super) fn is_ping_to(&self, network: NetId, key: &FlowKey) -> bool {
        let asks = query(key) == Some(true) && matches!(key.l4_src, 8 | 128);
        let named = |e: &hostconfig::Endpoint| {
            let there = e.at == Location::Virtual && e.mac.get() == key.dst_mac();
            there && e.addrs.contains(&key.dst_addr())
        };
        let whole = key.ip_frag == Fragment::Whole as u8;
        asks && whole && self.endpoints(network).any(named)
    }
}
