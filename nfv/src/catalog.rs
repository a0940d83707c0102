//! Which kinds of network function are there?
//!
//! Every kind on one line: what a configuration calls it, what it does, and how it is built.

use hostconfig::FunctionKind;

use crate::{
    function::NetworkFunction,
    functions::{
        Appliance, Firewall, LoadBalancer, Nat, Shaper, appliance::ApplianceFault,
        firewall::FirewallFault, load_balancer::LoadBalancerFault, nat::NatFault,
        shaper::ShaperFault,
    },
};

/// A kind of function.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What a configuration calls it.
    pub name: &'static str,
    /// What it does.
    pub doc: &'static str,
    build: fn(&FunctionKind) -> Option<Built>,
}

type Built = Result<Box<dyn NetworkFunction>, FunctionFault>;

/// All kinds.
pub const CATALOG: &[Kind] = &[
    Kind {
        name: "firewall",
        doc: "Ordered, stateful rules: allow or deny.",
        build: firewall,
    },
    Kind {
        name: "load_balancer",
        doc: "A virtual address over members (Maglev).",
        build: load_balancer,
    },
    Kind {
        name: "shaper",
        doc: "An exact rate with a bounded queue.",
        build: shaper,
    },
    Kind {
        name: "nat",
        doc: "Addresses of its own in place of others'.",
        build: nat,
    },
    Kind {
        name: "appliance",
        doc: "A third party's, behind ports.",
        build: appliance,
    },
];

/// Why a function can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FunctionFault {
    /// A firewall.
    #[error("firewall can't be built")]
    Firewall(#[source] FirewallFault),
    /// A load balancer.
    #[error("load balancer can't be built")]
    LoadBalancer(#[source] LoadBalancerFault),
    /// A shaper.
    #[error("shaper can't be built")]
    Shaper(#[source] ShaperFault),
    /// A NAT.
    #[error("nat can't be built")]
    Nat(#[source] NatFault),
    /// An appliance.
    #[error("appliance can't be built")]
    Appliance(#[source] ApplianceFault),
    /// A kind that no line of the catalogue builds.
    #[error("no such kind of function")]
    Unknown,
}

fn boxed<F: NetworkFunction + 'static, E>(
    function: Result<F, E>,
    fault: impl FnOnce(E) -> FunctionFault,
) -> Built {
    function
        .map(|f| -> Box<dyn NetworkFunction> { Box::new(f) })
        .map_err(fault)
}

fn firewall(kind: &FunctionKind) -> Option<Built> {
    let FunctionKind::Firewall(config) = kind else {
        return None;
    };
    Some(boxed(Firewall::new(config), FunctionFault::Firewall))
}

fn load_balancer(kind: &FunctionKind) -> Option<Built> {
    let FunctionKind::LoadBalancer(config) = kind else {
        return None;
    };
    Some(boxed(
        LoadBalancer::new(config),
        FunctionFault::LoadBalancer,
    ))
}

fn shaper(kind: &FunctionKind) -> Option<Built> {
    let FunctionKind::Shaper(config) = kind else {
        return None;
    };
    Some(boxed(Shaper::new(config), FunctionFault::Shaper))
}

fn nat(kind: &FunctionKind) -> Option<Built> {
    let FunctionKind::Nat(config) = kind else {
        return None;
    };
    Some(boxed(Nat::new(config), FunctionFault::Nat))
}

fn appliance(kind: &FunctionKind) -> Option<Built> {
    let FunctionKind::Appliance(config) = kind else {
        return None;
    };
    Some(boxed(Appliance::new(config), FunctionFault::Appliance))
}

/// Builds a function and says which kind it is.
///
/// # Errors
/// When its configuration contradicts itself or exceeds a bound.
pub fn build(
    kind: &FunctionKind,
) -> Result<(&'static Kind, Box<dyn NetworkFunction>), FunctionFault> {
    let mut built = CATALOG.iter().filter_map(|k| Some((k, (k.build)(kind)?)));
    let (kind, function) = built.next().ok_or(FunctionFault::Unknown)?;
    Ok((kind, function?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_configuration() {
        let shaper = hostconfig::Shaper {
            rate_bps: 8_000,
            burst_bytes: 1,
            queue_bytes: 1,
            queue: hostconfig::Discipline::Fifo,
        };
        let firewall = hostconfig::Firewall {
            rules: vec![],
            default: hostconfig::chain::Action::Deny,
        };
        let nat = hostconfig::Nat {
            addresses: vec![],
            sources: vec![],
            ports: net::PortRange::one(1024),
            hosts: 1,
            client_limit: 1,
            forwards: vec![],
            statics: vec![],
        };
        for kind in [
            FunctionKind::Shaper(shaper),
            FunctionKind::Firewall(firewall),
            FunctionKind::Nat(nat),
        ] {
            let (line, _) = build(&kind).unwrap();
            let text = serde_json::to_value(&kind).unwrap();
            assert_eq!(
                text.as_object().unwrap().keys().collect::<Vec<_>>(),
                [line.name]
            );
        }
        let names: std::collections::BTreeSet<_> = CATALOG.iter().map(|k| k.name).collect();
        assert_eq!(names.len(), CATALOG.len());
    }
}
