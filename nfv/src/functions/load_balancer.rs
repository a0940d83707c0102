//! Which member does a connection to a virtual address go to?
//!
//! `vip:port` of one protocol is translated to a member; everything else passes. The choice is made once: the connection's
//! record keeps it, and after a change of members the same member is chosen again as long as it is one, whatever its weight.
//! By a hash (`maglev`, `source_ip`), or in turn (`round_robin`): the first chooses alike again without a record, the second is even.
//!
//! # Invariants
//! - A member of weight 0 takes no new connection and keeps its old ones (drain).
//! - By a hash, removing a member moves no connection of the others; of new ones, at most 2 in 100 that would have gone to another member.
//!
//! # Attack
//! The hash over a flow's addresses is keyed, so that a client can't aim at one member.
//!
//! # References
//! D. Eisenbud and others, Maglev, NSDI 2016 (the table: `maglev.rs`).

use std::net::IpAddr;

use hostconfig::chain::Algorithm;
use net::{DropReason, FiveTuple, Id, Prefix, Probe, flow_key::proto, ids::kind};

use super::{maglev::Maglev, turns::Turns};
use crate::{
    function::{Context, Decision, NetworkFunction},
    keyed_hash::KeyedHash,
};

/// The most members of one load balancer: 16 places of the table for each.
pub const MAX_MEMBERS: usize = 4_096;
/// The largest weight of a member (Octavia's).
pub const MAX_WEIGHT: u16 = 256;

/// Why a load balancer can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadBalancerFault {
    /// Neither TCP nor UDP nor SCTP.
    #[error("protocol of a load balancer (6, 17 or 132): {0}")]
    Protocol(u8),
    /// There are too many members.
    #[error("too many members (0..={MAX_MEMBERS}): {0}")]
    TooMany(usize),
    /// A member of the other family.
    #[error("member is of another family than the virtual address: {0}")]
    Family(IpAddr),
    /// A weight beyond the bound.
    #[error("weight out of range (0..={MAX_WEIGHT}): {0}")]
    Weight(u16),
    /// One member twice.
    #[error("member stands twice: {0}")]
    Twice(Id<kind::Port>),
    /// A port that nothing can listen on.
    #[error("port out of range (1..=65535): {0}")]
    Port(u16),
}

/// A load balancer.
#[derive(Debug)]
pub struct LoadBalancer {
    vip: IpAddr,
    port: u16,
    protocol: u8,
    members: Vec<Member>,
    choice: Choice,
}

#[derive(Debug)]
enum Choice {
    /// By what is hashed.
    Hashed(Maglev, Over),
    InTurn(Turns),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Source,
    SourceAndPort,
}

#[derive(Debug)]
struct Member {
    id: Id<kind::Port>,
    to: (IpAddr, u16),
}

impl LoadBalancer {
    /// From its configuration.
    ///
    /// # Errors
    /// When that contradicts itself or exceeds a bound.
    pub fn new(config: &hostconfig::LoadBalancer) -> Result<Self, LoadBalancerFault> {
        use LoadBalancerFault as Fault;
        if ![proto::TCP, proto::UDP, proto::SCTP].contains(&config.protocol) {
            return Err(Fault::Protocol(config.protocol));
        }
        if config.members.len() > MAX_MEMBERS {
            return Err(Fault::TooMany(config.members.len()));
        }
        if config.port == 0 {
            return Err(Fault::Port(0));
        }
        let mut ids = std::collections::BTreeSet::new();
        for m in &config.members {
            if m.addr.is_ipv4() != config.vip.is_ipv4() {
                return Err(Fault::Family(m.addr));
            }
            if m.weight > MAX_WEIGHT {
                return Err(Fault::Weight(m.weight));
            }
            if m.port == 0 {
                return Err(Fault::Port(0));
            }
            if !ids.insert(m.id) {
                return Err(Fault::Twice(m.id));
            }
        }
        let hashed = || {
            let table = |m: &hostconfig::chain::Member| (m.id.uuid().as_u128(), m.weight);
            Maglev::new(&config.members.iter().map(table).collect::<Vec<_>>())
        };
        let choice = match config.algorithm {
            Algorithm::Maglev => Choice::Hashed(hashed(), Over::SourceAndPort),
            Algorithm::SourceIp => Choice::Hashed(hashed(), Over::Source),
            Algorithm::RoundRobin => {
                let weights: Vec<u16> = config.members.iter().map(|m| m.weight).collect();
                Choice::InTurn(Turns::new(&weights))
            }
        };
        Ok(Self {
            vip: config.vip,
            port: config.port,
            protocol: config.protocol,
            choice,
            members: config
                .members
                .iter()
                .map(|m| Member {
                    id: m.id,
                    to: (m.addr, m.port),
                })
                .collect(),
        })
    }

    fn is_for(&self, first: &mut Probe) -> bool {
        // The narrowest first: what is not for this listener does not become exact in its addresses.
        first.ip_proto() == self.protocol
            && first.l4_dst() == self.port
            && first.ip_dst_in(Prefix::host(self.vip))
    }

    fn choose(&self, first: &mut Probe, cx: &Context<'_>) -> Option<&Member> {
        // Read also where turns are taken: a flow that is known by less would take all its connections to one member.
        let (src, src_port) = match self.choice {
            Choice::Hashed(_, Over::Source) => (first.ip_src(), 0),
            Choice::Hashed(_, Over::SourceAndPort) | Choice::InTurn(_) => {
                (first.ip_src(), first.l4_src())
            }
        };
        // The virtual address is in, so that a client's choices at several load balancers differ.
        let flow = FiveTuple::new(self.protocol, (src, src_port), (self.vip, self.port));
        let hash = KeyedHash::new(cx.seed).tuple(&flow, 0);
        let member = match &self.choice {
            Choice::Hashed(table, _) => table.member(hash),
            Choice::InTurn(turns) => turns.member(hash, !cx.question),
        };
        self.members.get(member?)
    }
}

impl NetworkFunction for LoadBalancer {
    fn decide(
        &self,
        first: &mut Probe,
        cx: &Context<'_>,
        note: &mut dyn FnMut(std::fmt::Arguments<'_>),
    ) -> Decision {
        if !self.is_for(first) {
            note(format_args!("not for the virtual address"));
            return Decision::Pass;
        }
        let bound = cx
            .binding
            .and_then(|b| self.members.iter().find(|m| m.to == b.dst));
        let how = if bound.is_some() { "kept" } else { "chosen" };
        let Some(member) = bound.or_else(|| self.choose(first, cx)) else {
            note(format_args!("no healthy member"));
            return Decision::Drop {
                reason: DropReason::NoHealthyMember,
                rule: None,
            };
        };
        let hairpin = first.ip_src() == member.to.0;
        note(format_args!(
            "{how} member {} at {}{}",
            member.id,
            std::net::SocketAddr::from(member.to),
            if hairpin {
                ", from the virtual address: it is the client itself"
            } else {
                ""
            }
        ));
        Decision::Dnat {
            to: member.to,
            member: member.id,
            snat: hairpin.then_some(self.vip),
            port: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use net::{FlowKey, flow_key::addr_bytes};

    use super::*;
    use crate::function::Binding;

    fn id(n: u128) -> Id<kind::Port> {
        // Spread as random UUIDs are.
        let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        Id::new(format!("{n:032x}").parse().unwrap())
    }

    fn config(weights: &[u16]) -> hostconfig::LoadBalancer {
        let member = |(i, w): (usize, &u16)| hostconfig::chain::Member {
            id: id(i as u128 + 1),
            addr: [10, 0, 1, u8::try_from(i).unwrap()].into(),
            port: 8080,
            weight: *w,
        };
        hostconfig::LoadBalancer {
            vip: [10, 0, 0, 100].into(),
            vip_port: id(1000),
            network: format!("{:032x}", 5).parse().unwrap(),
            mac: net::UnicastMac::try_from(net::testkit::mac(1)).unwrap(),
            protocol: 6,
            port: 80,
            algorithm: Algorithm::Maglev,
            members: weights.iter().enumerate().map(member).collect(),
            monitor: None,
        }
    }

    fn key(src: [u8; 4], src_port: u16, dst_port: u16) -> FlowKey {
        FlowKey {
            ethertype: 0x0800,
            ip_proto: 6,
            ip_src: addr_bytes(src.into()),
            ip_dst: addr_bytes([10, 0, 0, 100].into()),
            l4_src: src_port,
            l4_dst: dst_port,
            ..FlowKey::default()
        }
    }

    fn decide(lb: &LoadBalancer, key: &FlowKey, bound: Option<(IpAddr, u16)>) -> (Decision, Probe) {
        let binding = bound.map(|dst| Binding {
            dst,
            src: (key.src_addr(), key.l4_src),
        });
        let cx = Context {
            binding,
            seed: 99,
            ..Context::default()
        };
        let mut probe = Probe::new(key);
        (lb.decide(&mut probe, &cx, &mut |_| {}), probe)
    }

    fn chosen(lb: &LoadBalancer, n: u32) -> Id<kind::Port> {
        let [_, a, b, c] = n.to_be_bytes();
        let port = 1024 + u16::try_from(n % 50_000).unwrap();
        let (decision, _) = decide(lb, &key([10, a, b, c], port, 80), None);
        let Decision::Dnat { member, .. } = decision else {
            panic!("{decision:?}");
        };
        member
    }

    #[test]
    fn only_its_listener_is_translated() {
        let lb = LoadBalancer::new(&config(&[1, 1])).unwrap();
        assert_eq!(
            decide(&lb, &key([10, 0, 0, 1], 5000, 81), None).0,
            Decision::Pass
        );
        let udp = FlowKey {
            ip_proto: 17,
            ..key([10, 0, 0, 1], 5000, 80)
        };
        let (decision, probe) = decide(&lb, &udp, None);
        assert_eq!(decision, Decision::Pass);
        assert_eq!(
            probe.mask().fields().ip_dst,
            [0; 16],
            "nothing but the protocol was read"
        );
        let elsewhere = FlowKey {
            ip_dst: addr_bytes([10, 0, 0, 101].into()),
            ..key([10, 0, 0, 1], 5000, 80)
        };
        assert_eq!(decide(&lb, &elsewhere, None).0, Decision::Pass);
        assert!(matches!(
            decide(&lb, &key([10, 0, 0, 1], 5000, 80), None).0,
            Decision::Dnat { snat: None, .. }
        ));
    }

    #[test]
    fn new_connections_spread_by_weight() {
        let lb = LoadBalancer::new(&config(&[1, 2, 3, 0])).unwrap();
        let mut counts: HashMap<_, u32> = HashMap::new();
        (0..60_000).for_each(|n| *counts.entry(chosen(&lb, n)).or_default() += 1);
        for (m, share) in [(1, 10_000), (2, 20_000), (3, 30_000)] {
            let count = counts.get(&id(m)).copied().unwrap_or(0);
            assert!(
                count.abs_diff(share) < share / 20,
                "member {m}: {count} of {share}"
            );
        }
        assert_eq!(counts.get(&id(4)), None, "drained");
    }

    #[test]
    fn a_member_that_goes_takes_only_its_own_with_it() {
        let ten = config(&[1; 10]);
        let before = LoadBalancer::new(&ten).unwrap();
        for gone in 0..10 {
            let mut nine = ten.clone();
            let gone = nine.members.remove(gone).id;
            let after = LoadBalancer::new(&nine).unwrap();
            let (mut others, mut moved) = (0, 0);
            for n in 0..10_000 {
                let member = chosen(&before, n);
                if member != gone {
                    others += 1;
                    moved += u32::from(chosen(&after, n) != member);
                }
            }
            assert!(moved * 100 <= others * 2, "{moved} of {others}");
        }
    }

    #[test]
    fn a_bound_connection_keeps_its_member_even_when_drained() {
        let lb = LoadBalancer::new(&config(&[1, 0, 1])).unwrap();
        let k = key([10, 0, 0, 1], 5000, 80);
        let bound = |addr| decide(&lb, &k, Some((addr, 8080))).0;
        assert!(
            matches!(bound([10, 0, 1, 1].into()), Decision::Dnat { member, .. } if member == id(2))
        );
        assert!(
            matches!(bound([10, 0, 1, 9].into()), Decision::Dnat { member, .. } if member != id(2))
        );
    }

    #[test]
    fn a_member_that_calls_its_own_address_comes_from_the_virtual_one() {
        let lb = LoadBalancer::new(&config(&[1])).unwrap();
        let decision = decide(&lb, &key([10, 0, 1, 0], 5000, 80), None).0;
        let vip: IpAddr = [10, 0, 0, 100].into();
        assert!(
            matches!(decision, Decision::Dnat { snat: Some(s), .. } if s == vip),
            "{decision:?}"
        );
    }

    #[test]
    fn without_a_member_it_is_closed() {
        for weights in [&[][..], &[0, 0]] {
            let lb = LoadBalancer::new(&config(weights)).unwrap();
            let dropped = Decision::Drop {
                reason: DropReason::NoHealthyMember,
                rule: None,
            };
            assert_eq!(decide(&lb, &key([10, 0, 0, 1], 5000, 80), None).0, dropped);
        }
    }

    #[test]
    fn by_source_address_all_connections_of_a_client_agree() {
        let by_source = hostconfig::LoadBalancer {
            algorithm: Algorithm::SourceIp,
            ..config(&[1; 10])
        };
        let lb = LoadBalancer::new(&by_source).unwrap();
        let mut seen = std::collections::HashSet::new();
        for client in 0..50 {
            let of = |port| decide(&lb, &key([10, 7, 0, client], port, 80), None).0;
            assert!((1..20).all(|p| of(p) == of(5000)));
            seen.insert(format!("{:?}", of(1)));
        }
        assert!(seen.len() > 5, "{seen:?}");
    }

    #[test]
    fn in_turn_the_spread_is_that_of_the_weights_whoever_comes() {
        let in_turn = hostconfig::LoadBalancer {
            algorithm: Algorithm::RoundRobin,
            ..config(&[1, 2, 0, 2])
        };
        let lb = LoadBalancer::new(&in_turn).unwrap();
        let mut counts: HashMap<_, u32> = HashMap::new();
        (0..1_000).for_each(|n| *counts.entry(chosen(&lb, n)).or_default() += 1);
        assert_eq!(
            [1, 2, 3, 4].map(|m| counts.get(&id(m)).copied()),
            [Some(200), Some(400), None, Some(400)]
        );
        // Each connection is a flow of its own, and one that is bound takes no turn.
        let k = key([10, 0, 0, 1], 5000, 80);
        let (_, probe) = decide(&lb, &k, None);
        assert_eq!(probe.mask().fields().l4_src, u16::MAX);
        let bound = Some(([10, 0, 1, 2].into(), 8080));
        for _ in 0..3 {
            let kept = decide(&lb, &k, bound).0;
            assert!(matches!(kept, Decision::Dnat { member, .. } if member == id(3)));
        }
    }

    #[test]
    fn a_question_takes_nobodys_turn() {
        let in_turn = hostconfig::LoadBalancer {
            algorithm: Algorithm::RoundRobin,
            ..config(&[1, 1])
        };
        let lb = LoadBalancer::new(&in_turn).unwrap();
        let cx = Context {
            question: true,
            ..Context::default()
        };
        let k = key([10, 0, 0, 1], 5000, 80);
        let asked = || lb.decide(&mut Probe::new(&k), &cx, &mut |_| {});
        let told = asked();
        assert_eq!(asked(), told);
        let real = Context::default();
        let first = lb.decide(&mut Probe::new(&k), &real, &mut |_| {});
        assert_eq!(first, told);
        assert_ne!(asked(), told);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        use LoadBalancerFault as Fault;
        let mut cases: Vec<(hostconfig::LoadBalancer, Fault)> = Vec::new();
        let good = config(&[1, 1]);
        cases.push((
            hostconfig::LoadBalancer {
                protocol: 1,
                ..good.clone()
            },
            Fault::Protocol(1),
        ));
        cases.push((
            hostconfig::LoadBalancer {
                port: 0,
                ..good.clone()
            },
            Fault::Port(0),
        ));
        let mut c = good.clone();
        c.members[1].addr = "fd00::1".parse().unwrap();
        cases.push((c, Fault::Family("fd00::1".parse().unwrap())));
        let mut c = good.clone();
        c.members[1].weight = 257;
        cases.push((c, Fault::Weight(257)));
        let mut c = good.clone();
        c.members[1].id = c.members[0].id;
        let twice = c.members[0].id;
        cases.push((c, Fault::Twice(twice)));
        for (config, fault) in cases {
            assert_eq!(LoadBalancer::new(&config).unwrap_err(), fault);
        }
    }
}
