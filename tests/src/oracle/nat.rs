//! What does a NAT do, told plainly?

use std::net::IpAddr;

use hostconfig::{Location, Nat};
use net::{
    DropReason, FlowKey, Mac,
    flow_key::{addr_bytes, proto},
};

use super::{Host, Lent, Shown, words::has_ports};
use crate::plan::NetId;

/// Neither a port nor an identifier: the address alone.
fn is_bare(key: &FlowKey) -> bool {
    !has_ports(key) && !matches!(key.ip_proto, proto::ICMP | proto::ICMP6)
}

fn set_source(key: &mut FlowKey, addr: IpAddr, port: u16) {
    key.ip_src = addr_bytes(addr);
    if has_ports(key) {
        key.l4_src = port;
    } else if key.is_query() {
        key.icmp_id = port;
    }
}

impl Host {
    /// The Ethernet address of a source that is virtual.
    pub(super) fn virtual_mac(&self, network: NetId, key: &FlowKey) -> Option<Mac> {
        let named = |e: &&hostconfig::Endpoint| {
            e.at == Location::Virtual && key.is_ip() && e.addrs.contains(&key.src_addr())
        };
        let found = self.endpoints(network).find(named);
        found.map(|e| e.mac.get())
    }

    pub(super) fn nat(
        &self,
        network: NetId,
        nat: &Nat,
        key: &mut FlowKey,
        lent: Lent<'_>,
    ) -> Result<(), DropReason> {
        let (Some(tuple), bound) = (key.five_tuple(), lent.bound) else {
            return Ok(());
        };
        let icmp = matches!(key.ip_proto, proto::ICMP | proto::ICMP6);
        if icmp && tuple.role != 1 {
            return Ok(());
        }
        let (src, dst) = (key.src_addr(), key.dst_addr());
        let own = |addr| nat.addresses.iter().find(|a| a.addr == addr);
        if own(dst).is_some() {
            let whole = nat.statics.iter().find(|s| s.outside == dst);
            let by_port = nat.forwards.iter().find(|f| {
                f.addr == dst && f.protocol == key.ip_proto && f.ports.contains(key.l4_dst)
            });
            let to = whole.map(|s| (s.inside, key.l4_dst));
            let to = to.or_else(|| by_port.map(|f| (f.to, f.to_port + key.l4_dst - f.ports.min())));
            let Some((to, port)) = to else {
                return Ok(());
            };
            if src == to {
                key.ip_src = addr_bytes(dst);
                key.eth_src = self.mac_of(network, dst).octets();
            }
            key.ip_dst = addr_bytes(to);
            if has_ports(key) {
                key.l4_dst = port;
            }
            key.eth_dst = self.mac_of(network, to).octets();
            return Ok(());
        }
        let local = |addr: IpAddr| match addr {
            IpAddr::V4(a) => a.is_link_local() || a.is_unspecified() || a.is_broadcast(),
            IpAddr::V6(a) => a.is_unicast_link_local() || a.is_unspecified(),
        };
        if local(src) || local(dst) || own(src).is_some() {
            return Ok(());
        }
        if bound.is_some_and(|b| (b.src, b.src_port) == (tuple.src, tuple.src_port)) {
            return Ok(());
        }
        let here = |a: &hostconfig::nat::NatAddress| lent.at.is_none_or(|at| at == a.network);
        let outside = nat.statics.iter().find(|s| s.inside == src);
        if let Some(s) = outside.filter(|s| own(s.outside).is_some_and(here)) {
            set_source(key, s.outside, tuple.src_port);
            return Ok(());
        }
        let wanted = nat.sources.is_empty() || nat.sources.iter().any(|p| p.contains(src));
        let hides = |a: &&hostconfig::nat::NatAddress| {
            a.hides && a.addr.is_ipv4() == src.is_ipv4() && here(a)
        };
        let hiding: Vec<IpAddr> = nat.addresses.iter().filter(hides).map(|a| a.addr).collect();
        if !wanted || hiding.is_empty() {
            return Ok(());
        }
        if let Some(bound) = bound {
            set_source(key, bound.src_addr(), bound.src_port);
            return Ok(());
        }
        let number = self.ports().find_map(|p| p.host_number);
        let number = number.expect("hosts of a plan have numbers");
        if is_bare(key) {
            let shows = |addr: &&IpAddr| {
                let mut there = self.conns.iter().map(|c| c.wire);
                !there.any(|w| (w.src_addr(), w.dst, w.proto) == (**addr, tuple.dst, tuple.proto))
            };
            let free = hiding.iter().find(shows).filter(|_| number == 0);
            set_source(key, *free.ok_or(DropReason::NatExhausted)?, 0);
            return Ok(());
        }
        // Which port is the switch's choice, as long as it is one of this host's part.
        let begun = |(of, inside, _): &&Shown| {
            (Some(*of), Some(*inside)) == (lent.client, lent.first.five_tuple())
        };
        let chosen = self.shown.iter().find(begun);
        let all = u32::from(nat.ports.max() - nat.ports.min()) + 1;
        let each = all / u32::from(nat.hosts);
        let first = u32::from(nat.ports.min()) + u32::from(number) * each;
        let part = first..first + each;
        let Some((_, _, outside)) = chosen else {
            // It did not come about, for another reason: what judges it sees a port of the part.
            let kept = Some(tuple.src_port).filter(|port| part.contains(&u32::from(*port)));
            let begin = u16::try_from(first).expect("a part lies in the range");
            set_source(key, hiding[0], kept.unwrap_or(begin));
            return Ok(());
        };
        assert!(
            hiding.contains(&outside.src_addr()),
            "an address of the nat"
        );
        assert!(
            part.contains(&u32::from(outside.src_port)),
            "a port of host {number}: {outside}"
        );
        set_source(key, outside.src_addr(), outside.src_port);
        Ok(())
    }
}
