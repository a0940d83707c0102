//! Which of several appliances does a connection pass?
//!
//! The choice is made once, by a hash of the connection's addresses over the weights of the instances that are up; the caller keeps it
//! with the connection and says at each later choice which one it had. So a change of weights, or an instance that comes, moves nobody.

use hostconfig::chain::{Failure, HashField, Instance};
use net::{FiveTuple, Label, Probe, Spread, flow_key::proto};

use crate::function::{Context, Decision, NetworkFunction};

/// The most instances of one hop.
pub const MAX_INSTANCES: usize = 64;

/// Why an appliance can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplianceFault {
    /// There are too many instances.
    #[error("too many instances (0..={MAX_INSTANCES}): {0}")]
    TooMany(usize),
}

/// An instance asks for a label, and its hop has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hop has no label")]
pub struct NoLabel;

/// Instances that stand in for one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appliance {
    config: hostconfig::Appliance,
}

impl Appliance {
    /// From its section.
    ///
    /// # Errors
    /// When there are too many instances.
    pub fn new(config: &hostconfig::Appliance) -> Result<Self, ApplianceFault> {
        if config.instances.len() > MAX_INSTANCES {
            return Err(ApplianceFault::TooMany(config.instances.len()));
        }
        Ok(Self {
            config: config.clone(),
        })
    }

    /// Its instances.
    pub fn instances(&self) -> &[Instance] {
        &self.config.instances
    }

    /// The label under which packets go into an instance and come out of it, if they do. `Err`: it asks for one, and the hop has none.
    ///
    /// # Errors
    /// As said.
    pub fn label(&self, instance: &Instance) -> Result<Option<Label>, NoLabel> {
        if !instance.labelled {
            return Ok(None);
        }
        self.config.label.map(Some).ok_or(NoLabel)
    }

    /// Do connections go on behind it while none is up?
    pub fn fails_open(&self) -> bool {
        self.config.failure == Failure::Open
    }

    /// The instance of a connection: the one that it had, while that is up, or one among those that are. `None`: none is.
    pub fn choose<'a>(
        &'a self,
        tuple: &FiveTuple,
        seed: u64,
        had: impl Fn(&Instance) -> bool,
        is_up: impl Fn(&Instance) -> bool,
    ) -> Option<&'a Instance> {
        let mut up = self.config.instances.iter().filter(|i| is_up(i));
        if let Some(kept) = up.clone().find(|i| had(i)) {
            return Some(kept);
        }
        let total: u64 = up.clone().map(|i| u64::from(i.weight)).sum();
        let mut at = Spread::new(seed)
            .hash(&self.hashed(tuple))
            .checked_rem(total)?;
        up.find(|i| {
            let weight = u64::from(i.weight);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
    }

    /// The tuple with nothing in it but what is to be hashed.
    fn hashed(&self, tuple: &FiveTuple) -> FiveTuple {
        let fields = &self.config.hash;
        if fields.is_empty() {
            return *tuple;
        }
        let (tcp, udp) = (tuple.proto == proto::TCP, tuple.proto == proto::UDP);
        let mut only = FiveTuple {
            src: [0; 16],
            dst: [0; 16],
            src_port: 0,
            dst_port: 0,
            ..*tuple
        };
        for field in fields {
            match field {
                HashField::IpSrc => only.src = tuple.src,
                HashField::IpDst => only.dst = tuple.dst,
                HashField::TcpSrc if tcp => only.src_port = tuple.src_port,
                HashField::TcpDst if tcp => only.dst_port = tuple.dst_port,
                HashField::UdpSrc if udp => only.src_port = tuple.src_port,
                HashField::UdpDst if udp => only.dst_port = tuple.dst_port,
                HashField::TcpSrc | HashField::TcpDst | HashField::UdpSrc | HashField::UdpDst => {}
            }
        }
        only
    }
}

impl NetworkFunction for Appliance {
    fn decide(
        &self,
        _: &mut Probe,
        _: &Context<'_>,
        _: &mut dyn FnMut(std::fmt::Arguments<'_>),
    ) -> Decision {
        Decision::HandOver
    }
}

#[cfg(test)]
mod tests {
    use net::{Id, flow_key::addr_bytes};

    use super::*;

    fn id<K>(n: u128) -> Id<K> {
        format!("{n:032x}").parse().unwrap()
    }

    fn appliance(weights: &[u16], hash: &[HashField]) -> Appliance {
        let instance = |(n, weight): (u128, &u16)| Instance {
            id: id(n),
            name: format!("i{n}"),
            ingress: id(100 + n),
            egress: id(200 + n),
            weight: *weight,
            labelled: false,
            silent: false,
            at: None,
        };
        let instances = (0..).zip(weights).map(instance).collect();
        let config = hostconfig::Appliance {
            instances,
            hash: hash.to_vec(),
            failure: Failure::Closed,
            label: None,
            probe: None,
        };
        Appliance::new(&config).unwrap()
    }

    fn tuple(client: u8, port: u16) -> FiveTuple {
        FiveTuple {
            src: addr_bytes([10, 0, 0, client].into()),
            dst: addr_bytes([10, 0, 0, 2].into()),
            src_port: port,
            dst_port: 80,
            proto: proto::TCP,
            role: 0,
            reserved: [0; 2],
        }
    }

    fn new(
        appliance: &Appliance,
        tuple: &FiveTuple,
        down: Option<u128>,
    ) -> Option<Id<net::ids::kind::PortPair>> {
        let is_up = |i: &Instance| down.is_none_or(|n| i.id != id(n));
        appliance.choose(tuple, 7, |_| false, is_up).map(|i| i.id)
    }

    #[test]
    fn new_connections_are_shared_out_by_weight() {
        let shares = appliance(&[1, 3, 0], &[]);
        let mut counts = [0_u32; 3];
        for port in 0..8000 {
            let chosen = new(&shares, &tuple(1, port), None).unwrap();
            let at = (0..3).position(|n| chosen == id(n)).unwrap();
            counts[at] += 1;
        }
        assert!((1700..2300).contains(&counts[0]), "{counts:?}");
        assert_eq!((counts[0] + counts[1], counts[2]), (8000, 0));
    }

    #[test]
    fn a_connection_keeps_its_instance_while_that_is_up_whatever_its_weight() {
        let shares = appliance(&[1, 0], &[]);
        let t = tuple(1, 1);
        let had = |i: &Instance| i.id == id(1);
        assert_eq!(shares.choose(&t, 7, had, |_| true).unwrap().id, id(1));
        let up = |i: &Instance| i.id != id(1);
        assert_eq!(shares.choose(&t, 7, had, up).unwrap().id, id(0));
        assert_eq!(new(&shares, &t, Some(0)), None);
    }

    #[test]
    fn what_is_not_hashed_does_not_choose() {
        let shares = appliance(&[1, 1, 1, 1], &[HashField::IpSrc, HashField::UdpSrc]);
        for client in 1..20 {
            let first = new(&shares, &tuple(client, 0), None);
            assert!((1..50).all(|port| new(&shares, &tuple(client, port), None) == first));
        }
        let of = |client| new(&shares, &tuple(client, 0), None);
        assert!((2..20).any(|client| of(client) != of(1)));
    }
}
