//! Which kinds of network function are there?
//!
//! Every kind on one line: what a configuration calls it, what it does, and how it is built.
//!
//! A kind is *plain* if it needs nothing but its settings: no address but those that they name, and of ports the ids. The
//! settings of such a one are its own file's: the API and lab files ask here whether they are well formed, and nothing between
//! them and the switch knows them. The others have a form of their own in `hostconfig`, made by the controller.

use std::ops::RangeInclusive;

use hostconfig::FunctionKind;
use net::{Id, ids::kind};
use serde::{Deserialize as _, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    function::NetworkFunction,
    functions::{
        Appliance, Firewall, Inspector, LoadBalancer, Mirror, Nat, RateLimiter, Shaper,
        appliance::ApplianceFault, firewall::FirewallFault, load_balancer::LoadBalancerFault,
        nat::NatFault, shaper::ShaperFault,
    },
};

/// A kind of function.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What a configuration calls it.
    pub name: &'static str,
    /// What it does.
    pub doc: &'static str,
    make: Make,
}

#[derive(Debug, Clone, Copy)]
enum Make {
    Own(fn(&FunctionKind) -> Option<Built>),
    Plain {
        build: fn(&Value) -> Built,
        shape: fn(&Value) -> Result<Value, SettingFault>,
        ports: &'static [&'static str],
        most: usize,
    },
}

type Built = Result<Box<dyn NetworkFunction>, FunctionFault>;

/// All kinds.
pub const CATALOG: &[Kind] = &[
    own(
        "firewall",
        "Ordered, stateful rules: allow or deny.",
        firewall,
    ),
    own(
        "load_balancer",
        "A virtual address over members (Maglev).",
        load_balancer,
    ),
    own("shaper", "An exact rate with a bounded queue.", shaper),
    own("nat", "Addresses of its own in place of others'.", nat),
    own("appliance", "A third party's, behind ports.", appliance),
    plain::<Inspector>(
        "inspector",
        "Byte patterns and a protocol's first bytes, in what a connection begins with.",
    ),
    plain::<Mirror>("mirror", "Copies of a connection's packets to a port."),
    plain::<RateLimiter>(
        "rate_limiter",
        "So many new connections in a time, of each source or of all.",
    ),
];

const fn own(
    name: &'static str,
    doc: &'static str,
    build: fn(&FunctionKind) -> Option<Built>,
) -> Kind {
    let make = Make::Own(build);
    Kind { name, doc, make }
}

const fn plain<F: Plain>(name: &'static str, doc: &'static str) -> Kind {
    let make = Make::Plain {
        build: |settings| {
            boxed(
                read::<F>(settings).and_then(|s| F::new(&s)),
                FunctionFault::Plain,
            )
        },
        shape: |settings| {
            let settings = read::<F>(settings)?;
            F::new(&settings)?;
            serde_json::to_value(settings).map_err(|error| SettingFault::Form(error.to_string()))
        },
        ports: F::PORTS,
        most: F::MOST,
    };
    Kind { name, doc, make }
}

fn read<F: Plain>(settings: &Value) -> Result<F::Settings, SettingFault> {
    F::Settings::deserialize(settings).map_err(|error| SettingFault::Form(error.to_string()))
}

/// A function that needs nothing but its settings.
pub trait Plain: NetworkFunction + Sized + 'static {
    /// What a configuration says beside its name, in lab files as in the API.
    type Settings: Serialize + DeserializeOwned;
    /// Which of them are ids of ports: of the function's own project, says the API; a lab file names workloads there.
    const PORTS: &'static [&'static str] = &[];
    /// How many of them a chain may have.
    const MOST: usize = crate::chain::MAX_HOPS;

    /// From its settings.
    ///
    /// # Errors
    /// What is wrong with them, by the name of the setting.
    fn new(settings: &Self::Settings) -> Result<Self, SettingFault>;
}

/// What is wrong with the settings of a plain function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingFault {
    /// They are not of its form: what serde says.
    #[error("{0}")]
    Form(String),
    /// A number is beyond its bounds.
    #[error("{name} out of range ({min}..={max}): {value}")]
    Range {
        /// Which.
        name: &'static str,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
        /// What was wanted.
        value: u64,
    },
}

impl SettingFault {
    /// Is a number within its bounds?
    ///
    /// # Errors
    /// When it is not.
    pub fn within(name: &'static str, value: u64, bounds: RangeInclusive<u64>) -> Result<(), Self> {
        if bounds.contains(&value) {
            return Ok(());
        }
        let (min, max) = bounds.into_inner();
        Err(Self::Range {
            name,
            min,
            max,
            value,
        })
    }
}

/// The names of the functions that a chain may name by themselves: all but those behind ports.
pub fn native() -> impl Iterator<Item = &'static str> {
    let names = CATALOG.iter().map(|kind| kind.name);
    names.filter(|name| *name != "appliance")
}

/// The ports that the settings of a plain function name.
pub fn ports(config: &FunctionKind) -> Vec<Id<kind::Port>> {
    let FunctionKind::Plain(plain) = config else {
        return Vec::new();
    };
    plain_ports(plain)
}

/// The same of a plain one.
pub fn plain_ports(plain: &hostconfig::Plain) -> Vec<Id<kind::Port>> {
    let named = plain_kind(&plain.name).map_or(&[][..], Kind::ports);
    let ids = named
        .iter()
        .filter_map(|key| plain.settings.get(key)?.as_str());
    ids.filter_map(|id| id.parse().ok()).collect()
}

/// The plain kind of this name.
pub fn plain_kind(name: &str) -> Option<&'static Kind> {
    let mut plain = CATALOG
        .iter()
        .filter(|kind| matches!(kind.make, Make::Plain { .. }));
    plain.find(|kind| kind.name == name)
}

impl Kind {
    /// Settings of this plain kind in their full form.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn shape(&self, settings: &Value) -> Result<Value, SettingFault> {
        match self.make {
            Make::Plain { shape, .. } => shape(settings),
            Make::Own(_) => Ok(settings.clone()),
        }
    }

    /// Which of its settings are ids of ports.
    pub fn ports(&self) -> &'static [&'static str] {
        match self.make {
            Make::Plain { ports, .. } => ports,
            Make::Own(_) => &[],
        }
    }

    /// How many of them a chain may have.
    pub const fn most(&self) -> usize {
        match self.make {
            Make::Plain { most, .. } => most,
            Make::Own(_) => crate::chain::MAX_HOPS,
        }
    }

    fn build(&self, config: &FunctionKind) -> Option<Built> {
        match (self.make, config) {
            (Make::Own(build), _) => build(config),
            (Make::Plain { build, .. }, FunctionKind::Plain(plain)) => {
                (plain.name == self.name).then(|| build(&plain.settings))
            }
            (Make::Plain { .. }, _) => None,
        }
    }
}

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
    /// A plain one.
    #[error("settings can't be")]
    Plain(#[source] SettingFault),
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
    let mut built = CATALOG.iter().filter_map(|k| Some((k, k.build(kind)?)));
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
            share: None,
            classes: Vec::new(),
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
        let plain = FunctionKind::Plain(hostconfig::Plain {
            name: "rate_limiter".into(),
            settings: serde_json::json!({"rate": "1/s"}),
            places: std::collections::BTreeMap::new(),
        });
        assert_eq!(build(&plain).unwrap().0.name, "rate_limiter");
        let names: std::collections::BTreeSet<_> = CATALOG.iter().map(|k| k.name).collect();
        assert_eq!(names.len(), CATALOG.len());
    }

    #[test]
    fn settings_that_cannot_be_are_refused_before_and_in_the_switch() {
        let kind = plain_kind("rate_limiter").unwrap();
        let bad = serde_json::json!({"rate": "1/s", "burst": 0});
        let fault = kind.shape(&bad).unwrap_err();
        assert_eq!(fault.to_string(), "burst out of range (1..=1000000): 0");
        let plain = |name: &str| {
            FunctionKind::Plain(hostconfig::Plain {
                name: name.into(),
                settings: bad.clone(),
                places: std::collections::BTreeMap::new(),
            })
        };
        assert_eq!(
            build(&plain("rate_limiter")).unwrap_err(),
            FunctionFault::Plain(fault)
        );
        assert_eq!(
            build(&plain("nobody's")).unwrap_err(),
            FunctionFault::Unknown
        );
        let shaped = kind
            .shape(&serde_json::json!({"rate": " 5 / min"}))
            .unwrap();
        assert_eq!(
            shaped,
            serde_json::json!({"rate": "5/min", "per": "source"})
        );
        assert_eq!(kind.shape(&shaped).unwrap(), shaped);
        assert!(plain_kind("firewall").is_none());
        assert!(native().any(|name| name == "rate_limiter"));
        assert!(native().all(|name| name != "appliance"));
    }
}
