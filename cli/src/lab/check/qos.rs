//! Are QoS policies such as the API takes, and does everything that names one name one of them?

use std::collections::BTreeMap;

use controller::resources::qos_policy::{MARKS, MOST_ABOVE};

use super::{Wrong, name_is_plain, unknown, wrong};
use crate::lab::file::RawQos;
use crate::lab::plan::Lab;

/// The API counts in thousands.
const UNIT: u64 = 1000;
/// The largest number of a rule.
const MOST: u64 = 2_147_483_647;

pub(super) fn policies(all: &BTreeMap<String, RawQos>) -> Result<(), Wrong> {
    for (name, one) in all {
        let place = format!("qos.{name}");
        name_is_plain(&place, name, "policy")?;
        for (key, rate) in [("egress", one.egress), ("ingress", one.ingress)] {
            let bits = rate.map_or(0, crate::units::Rate::bits_per_second);
            if bits % UNIT != 0 || bits / UNIT > MOST {
                return wrong(
                    format!("{place}.{key}"),
                    "a rate is in whole kilobits a second; use for example `10mbit`",
                );
            }
        }
        let mut above = one.within.as_ref();
        for _ in 0..=MOST_ABOVE {
            let Some(next) = above else {
                break;
            };
            let Some(policy) = all.get(next) else {
                let what = unknown("QoS policy", next, all.keys());
                return wrong(format!("{place}.within"), what);
            };
            above = policy.within.as_ref();
        }
        if above.is_some() {
            let what = format!("goes in a circle, or has more than {MOST_ABOVE} above it");
            return wrong(format!("{place}.within"), what);
        }
        for (key, kpps) in [
            ("egress_kpps", one.egress_kpps),
            ("ingress_kpps", one.ingress_kpps),
        ] {
            if kpps.is_some_and(|kpps| kpps == 0 || u64::from(kpps) > MOST) {
                return wrong(
                    format!("{place}.{key}"),
                    format!("use 1 to {MOST} thousand packets a second"),
                );
            }
        }
        if let Some(dscp) = one.dscp.filter(|dscp| !MARKS.contains(&i64::from(*dscp))) {
            let marks: Vec<String> = MARKS.iter().map(ToString::to_string).collect();
            return wrong(
                format!("{place}.dscp"),
                format!("{dscp} is no mark; use one of {}", marks.join(", ")),
            );
        }
    }
    Ok(())
}

/// Every policy that is named is there.
pub(super) fn users(lab: &Lab) -> Result<(), Wrong> {
    let networks = lab.networks.iter().map(|n| ("networks", &n.name, &n.qos));
    let workloads = lab.workloads.iter().map(|w| ("workloads", &w.name, &w.qos));
    for (list, owner, qos) in networks.chain(workloads) {
        if let Some(qos) = qos.as_ref().filter(|qos| !lab.qos.contains_key(*qos)) {
            let what = unknown("QoS policy", qos, lab.qos.keys());
            return wrong(format!("{list}.{owner}.qos"), what);
        }
    }
    Ok(())
}
