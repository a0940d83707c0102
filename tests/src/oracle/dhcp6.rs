//! What must a DHCPv6 client be told?
//!
//! Messages are read by another library than the switch's own reading. Who asks sends what is well-formed, or a Request without its server.

use std::net::{IpAddr, Ipv6Addr};

use dhcproto::{
    Decodable, Decoder,
    v6::{DhcpOption, DhcpOptions, Message, MessageType},
};
use hostconfig::Port;
use net::{
    DropReason, FlowKey, Fragment,
    flow_key::{ethertype, proto},
};

use super::{Host, What};

/// Is it a client's message to all servers?
pub(super) fn asks(key: &FlowKey) -> bool {
    let all: IpAddr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2).into();
    (key.ethertype, key.ip_proto) == (ethertype::IPV6, proto::UDP)
        && (key.l4_src, key.l4_dst) == (546, 547)
        && key.dst_addr() == all
        && key.ip_frag == Fragment::Whole as u8
}

fn leased(options: &DhcpOptions) -> Vec<Ipv6Addr> {
    let mut all = vec![];
    for option in options.iter() {
        match option {
            DhcpOption::IANA(ia) => all.extend(leased(&ia.opts)),
            DhcpOption::IAAddr(addr) if addr.valid_life > 0 => all.push(addr.addr),
            _ => {}
        }
    }
    all
}

/// The addresses that an answer leases, and the name servers that it tells.
pub(super) fn told(message: &[u8]) -> Option<(Vec<Ipv6Addr>, Vec<Ipv6Addr>)> {
    let message = Message::decode(&mut Decoder::new(message)).ok()?;
    let servers = message.opts().iter().find_map(|option| match option {
        DhcpOption::DomainNameServers(all) => Some(all.clone()),
        _ => None,
    });
    let answer = matches!(
        message.msg_type(),
        MessageType::Advertise | MessageType::Reply
    );
    answer.then(|| (leased(message.opts()), servers.unwrap_or_default()))
}

impl Host {
    /// The switch's answer; `None`: it is the network's to give.
    pub(super) fn dhcp6(
        &self,
        port: &Port,
        message: &[u8],
    ) -> Result<Option<Vec<What>>, DropReason> {
        let subnets = self.network(port.network).map(|n| n.subnets.clone());
        let (mut on, mut leases, mut servers) = (false, vec![], vec![]);
        for subnet in subnets.unwrap_or_default() {
            let own = port.fixed_ips.iter().map(|f| f.addr);
            let own: Vec<_> = own.filter(|a| subnet.cidr.contains(*a)).collect();
            let Some(dhcp6) = subnet.dhcp6.filter(|_| !own.is_empty()) else {
                continue;
            };
            on = true;
            servers.extend(subnet.dns6);
            for addr in own {
                if let (IpAddr::V6(addr), Some(_)) = (addr, dhcp6.lease_seconds) {
                    leases.push(addr);
                }
            }
        }
        if !on {
            return Ok(None);
        }
        let malformed = DropReason::MalformedDhcp;
        let message = Message::decode(&mut Decoder::new(message)).or(Err(malformed))?;
        Ok(Some(match message.msg_type() {
            MessageType::InformationRequest => vec![What::Dhcp6(vec![], servers)],
            MessageType::Solicit if leases.is_empty() => vec![],
            MessageType::Solicit => vec![What::Dhcp6(leases, servers)],
            _ => return Err(malformed),
        }))
    }
}
