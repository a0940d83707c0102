//! Is what ports are guaranteed really there?
//!
//! A host says how much it can carry (`capacity`), and the minimum rules of the policies of its ports take from that. What would take more than is left is
//! refused: a binding, another policy, another rule, a smaller capacity. So a guarantee that stands in the API is kept free. It is admission, as Neutron has it
//! with Placement: nobody without a guarantee is held back for it; limits are for that.
//!
//! # Invariants
//! What the ports bound to a host are guaranteed is at most its capacity, in each of [`Amounts`] apart. A host that says nothing of one has none of it.
//!
//! # Cost
//! Nothing for ports whose policy guarantees nothing. Else the ports of the host are looked at.

use super::{
    Host, Network, Port, QosPolicy,
    qos_policy::{Direction, Says, Span},
};
use crate::{
    refusal::Refusal,
    resource::Objects,
    rules::{Caller, Change, Judged},
    store::View,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use uuid::Uuid;

/// What is guaranteed, or can be, by its name in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Amounts {
    /// Kilobits a second that workloads send.
    #[serde(skip_serializing_if = "is_zero")]
    pub egress_kbps: u64,
    /// And get.
    #[serde(skip_serializing_if = "is_zero")]
    pub ingress_kbps: u64,
    /// Thousands of packets a second that they send.
    #[serde(skip_serializing_if = "is_zero")]
    pub egress_kpps: u64,
    /// And get.
    #[serde(skip_serializing_if = "is_zero")]
    pub ingress_kpps: u64,
    /// And both together.
    #[serde(skip_serializing_if = "is_zero")]
    pub any_kpps: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(amount: &u64) -> bool {
    *amount == 0
}

/// The most of one amount: 4 Tbit/s.
const MOST: u64 = u32::MAX as u64;

/// An object of amounts.
pub(super) fn shape(value: &Value) -> Result<Value, String> {
    if !value.is_object() {
        return Err(format!("'{value}' is not a dictionary"));
    }
    let amounts = Amounts::deserialize(value).map_err(|error| error.to_string())?;
    if let Some((name, _, _)) = amounts.zip(Amounts::default()).find(|(_, a, _)| *a > MOST) {
        return Err(format!("{name} is at most {MOST}"));
    }
    Ok(json!(amounts))
}

impl Amounts {
    /// Each with its name, beside another's.
    fn zip(self, other: Self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        [
            ("egress_kbps", self.egress_kbps, other.egress_kbps),
            ("ingress_kbps", self.ingress_kbps, other.ingress_kbps),
            ("egress_kpps", self.egress_kpps, other.egress_kpps),
            ("ingress_kpps", self.ingress_kpps, other.ingress_kpps),
            ("any_kpps", self.any_kpps, other.any_kpps),
        ]
        .into_iter()
    }

    fn add(&mut self, other: Self) {
        self.egress_kbps += other.egress_kbps;
        self.ingress_kbps += other.ingress_kbps;
        self.egress_kpps += other.egress_kpps;
        self.ingress_kpps += other.ingress_kpps;
        self.any_kpps += other.any_kpps;
    }

    /// What a policy guarantees each of its ports.
    fn of(policy: &QosPolicy) -> Self {
        let mut amounts = Self::default();
        for rule in &policy.rules {
            match rule.says {
                Says::MinimumBandwidth {
                    min_kbps,
                    direction,
                } => {
                    let of = match direction {
                        Direction::Ingress => &mut amounts.ingress_kbps,
                        Direction::Egress => &mut amounts.egress_kbps,
                    };
                    *of += u64::from(min_kbps);
                }
                Says::MinimumPacketRate {
                    min_kpps,
                    direction,
                } => {
                    let of = match direction {
                        Span::Ingress => &mut amounts.ingress_kpps,
                        Span::Egress => &mut amounts.egress_kpps,
                        Span::Any => &mut amounts.any_kpps,
                    };
                    *of += u64::from(min_kpps);
                }
                Says::BandwidthLimit { .. }
                | Says::PacketRateLimit { .. }
                | Says::DscpMarking { .. } => {}
            }
        }
        amounts
    }
}

/// What is about to be otherwise than in the store.
#[derive(Clone, Copy, Default)]
struct Soon<'a> {
    port: Option<&'a Port>,
    network: Option<&'a Network>,
    policy: Option<&'a QosPolicy>,
}

impl Soon<'_> {
    /// What a port is guaranteed, by its own policy or its network's.
    fn guaranteed(&self, read: &impl Objects, port: &Port) -> Amounts {
        let of_network = || {
            if port.device_owner.starts_with("network:") {
                return None;
            }
            match self.network.filter(|soon| soon.meta.id == port.network_id) {
                Some(soon) => soon.qos_policy_id,
                None => read.object::<Network>(port.network_id)?.qos_policy_id,
            }
        };
        let Some(id) = port.qos_policy_id.or_else(of_network) else {
            return Amounts::default();
        };
        match self.policy.filter(|soon| soon.meta.id == id) {
            Some(soon) => Amounts::of(soon),
            None => read
                .object::<QosPolicy>(id)
                .map_or_else(Amounts::default, |policy| Amounts::of(&policy)),
        }
    }

    /// What the ports of a host are guaranteed together.
    fn at(&self, read: &impl Objects, host: &str) -> Amounts {
        let mut sum = Amounts::default();
        for port in read.related::<Port>("binding:host_id", host) {
            if self.port.is_none_or(|soon| soon.meta.id != port.meta.id) {
                sum.add(self.guaranteed(read, &port));
            }
        }
        if let Some(soon) = self.port.filter(|soon| soon.host == host) {
            sum.add(self.guaranteed(read, soon));
        }
        sum
    }

    /// Has the host all of that?
    fn fits(&self, view: &View, host: &str) -> Result<(), Refusal> {
        let wanted = self.at(view, host);
        if wanted == Amounts::default() {
            return Ok(());
        }
        // A host that is not there carries nothing, and the port is told so.
        let Some(known) = Host::by_name(view, host) else {
            return Ok(());
        };
        enough(host, wanted, known.capacity.unwrap_or_default())
    }
}

fn enough(host: &str, wanted: Amounts, capacity: Amounts) -> Result<(), Refusal> {
    let short = wanted.zip(capacity).find(|(_, want, have)| want > have);
    let Some((name, want, have)) = short else {
        return Ok(());
    };
    Err(Refusal::conflict(
        "HostCapacityExceeded",
        if have == 0 {
            format!(
                "Host {host} declares no capacity of {name}, of which its ports would be guaranteed {want}."
            )
        } else {
            format!("Host {host} has {have} {name}, and its ports would be guaranteed {want}.")
        },
    ))
}

/// What the ports of a host are guaranteed, for people.
pub fn reserved(read: &impl Objects, host: &str) -> Value {
    json!(Soon::default().at(read, host))
}

/// A port that is bound, or gets another policy.
pub(super) fn of_port(view: &View, change: &Change<'_, Port>, _: &Caller) -> Judged {
    let Some(after) = change.after.filter(|after| !after.host.is_empty()) else {
        return Ok(Vec::new());
    };
    let same = change.before.is_some_and(|before| {
        before.host == after.host
            && before.qos_policy_id == after.qos_policy_id
            && before.device_owner == after.device_owner
    });
    let soon = Soon {
        port: Some(after),
        ..Soon::default()
    };
    if same || soon.guaranteed(view, after) == Amounts::default() {
        return Ok(Vec::new());
    }
    soon.fits(view, &after.host).map(|()| Vec::new())
}

/// A network that gets another policy.
pub(super) fn of_network(view: &View, change: &Change<'_, Network>, _: &Caller) -> Judged {
    let (Some(before), Some(after)) = (change.before, change.after) else {
        return Ok(Vec::new());
    };
    let guarantees = |id: Uuid| {
        view.object::<QosPolicy>(id)
            .is_some_and(|policy| Amounts::of(&policy) != Amounts::default())
    };
    let changed = before.qos_policy_id != after.qos_policy_id;
    if !changed || !after.qos_policy_id.is_some_and(guarantees) {
        return Ok(Vec::new());
    }
    let soon = Soon {
        network: Some(after),
        ..Soon::default()
    };
    all_fit(view, &soon, &hosts_on(view, after.meta.id))
}

/// A policy that guarantees something else.
pub(super) fn of_policy(view: &View, change: &Change<'_, QosPolicy>, _: &Caller) -> Judged {
    let (Some(before), Some(after)) = (change.before, change.after) else {
        return Ok(Vec::new());
    };
    let amounts = Amounts::of(after);
    if amounts == Amounts::of(before) || amounts == Amounts::default() {
        return Ok(Vec::new());
    }
    let id = after.meta.id;
    let mut hosts: BTreeSet<String> = BTreeSet::new();
    let ports = view.related::<Port>("qos_policy_id", id);
    hosts.extend(ports.iter().map(|port| port.host.clone()));
    for network in view.related::<Network>("qos_policy_id", id) {
        hosts.extend(hosts_on(view, network.meta.id));
    }
    let soon = Soon {
        policy: Some(after),
        ..Soon::default()
    };
    all_fit(view, &soon, &hosts)
}

/// A host that can carry less.
pub(super) fn of_host(view: &View, change: &Change<'_, Host>, _: &Caller) -> Judged {
    let (Some(before), Some(after)) = (change.before, change.after) else {
        return Ok(Vec::new());
    };
    if before.capacity == after.capacity {
        return Ok(Vec::new());
    }
    let name = &after.meta.name;
    let wanted = Soon::default().at(view, name);
    enough(name, wanted, after.capacity.unwrap_or_default())?;
    Ok(Vec::new())
}

fn hosts_on(view: &View, network: Uuid) -> BTreeSet<String> {
    let ports = view.related::<Port>("network_id", network);
    ports.iter().map(|port| port.host.clone()).collect()
}

fn all_fit(view: &View, soon: &Soon<'_>, hosts: &BTreeSet<String>) -> Judged {
    for host in hosts.iter().filter(|host| !host.is_empty()) {
        soon.fits(view, host)?;
    }
    Ok(Vec::new())
}
