//! What do this host's own probes change here?
//!
//! A member that this host found dead, or an appliance that it found silent, takes no new connection of this host at once, whether its controller is there to say so to all or not.
//! That one serves again is the controller's to say, since it knows who takes part.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hostconfig::{Chain, FunctionKind, HostConfig, Keyed, Section, SectionHash, SectionKey, wire};

use crate::datapath::probes::Verdict;

/// How often it is looked at what members answered.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The chains that have members asked, as they are.
pub(crate) type Asks = BTreeMap<SectionKey, SectionHash>;

/// The members that this host asks.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// What has them asked. When it changes, all is told anew: what the controller knew of them may be gone.
    pub(crate) asks: Asks,
    /// What became of them.
    pub(crate) found: Vec<Verdict>,
    /// Was that told?
    pub(crate) told: bool,
}

/// Those of a config.
pub(crate) fn asks(config: &HostConfig) -> Asks {
    let chains = config.sections.iter().filter_map(|(key, keyed)| {
        let Section::Chain(chain) = keyed.body() else {
            return None;
        };
        monitored(chain).then(|| (*key, keyed.hash()))
    });
    chains.collect()
}

fn monitored(chain: &Chain) -> bool {
    chain.functions.iter().any(|function| match &function.kind {
        FunctionKind::LoadBalancer(balancer) => balancer.monitor.is_some(),
        FunctionKind::Appliance(appliance) => appliance.probe.is_some(),
        FunctionKind::Firewall(_)
        | FunctionKind::Shaper(_)
        | FunctionKind::Nat(_)
        | FunctionKind::Plain(_) => false,
    })
}

/// As the controller hears it.
pub(crate) fn told(verdict: &Verdict) -> wire::Verdict {
    wire::Verdict {
        monitor: verdict.monitor.to_string(),
        member: verdict.member.to_string(),
        serves: verdict.serves,
    }
}

/// The same config, in which members that were found dead take no new connection, and appliances that were found silent are down.
pub(crate) fn applied<'c>(config: &'c HostConfig, verdicts: &[Verdict]) -> Cow<'c, HostConfig> {
    let dead = verdicts.iter().filter(|verdict| !verdict.serves);
    let dead: BTreeSet<_> = dead.map(|v| (v.monitor, v.member)).collect();
    let mut applied = Cow::Borrowed(config);
    if dead.is_empty() {
        return applied;
    }
    for keyed in config.sections.values() {
        let Section::Chain(chain) = keyed.body() else {
            continue;
        };
        if !monitored(chain) {
            continue;
        }
        let mut without = chain.clone();
        for function in &mut without.functions {
            let group = function.id.uuid();
            if let FunctionKind::Appliance(appliance) = &mut function.kind
                && appliance.probe.is_some()
            {
                for instance in &mut appliance.instances {
                    let pair = instance.id.uuid();
                    instance.silent |= dead.contains(&(group.into(), pair.into()));
                }
            }
            let FunctionKind::LoadBalancer(balancer) = &mut function.kind else {
                continue;
            };
            let Some(monitor) = balancer.monitor.as_ref().map(|monitor| monitor.id) else {
                continue;
            };
            for member in &mut balancer.members {
                if dead.contains(&(monitor, member.id)) {
                    member.weight = 0;
                }
            }
        }
        if without != *chain
            && let Ok(keyed) = Keyed::new(Section::Chain(without))
        {
            applied.to_mut().insert(Arc::new(keyed));
        }
    }
    applied
}
