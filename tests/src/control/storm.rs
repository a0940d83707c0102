//! What happens to a region when anything may?
//!
//! Orders of an operator and faults of every kind in an order that a seed decides; then quiet, and everything must be as the
//! store says. Of an operator's orders those that the rules refuse are no orders.

use std::{sync::Arc, time::Duration};

use controller::{
    refusal::Refusal,
    resource::Objects,
    resources::{Network, Port, SecurityGroup, SecurityGroupRule, Subnet, Trunk},
    rules::Moment,
    store::{Disk, MemoryDisk, View},
};
use serde_json::json;
use uuid::Uuid;

use super::{CALM, Dice, ROUGH, Region, intent};

const NETWORKS: u8 = 3;
const GROUPS: usize = 2;
const PORTS: usize = 16;

/// Longer than the longest pause between two dials, and every time limit of a session.
const QUIET: Duration = Duration::from_secs(150);

/// A region with networks, groups and ports, of which each host has some.
pub fn populated(seed: u64, hosts: u8) -> Region {
    let mut region = Region::new(seed, hosts);
    region
        .order(move |view, at| {
            for n in 1..=NETWORKS {
                let network =
                    intent::create::<Network>(view, at, &json!({"name": format!("n{n}")}))?;
                let subnet = json!({
                    "network_id": network, "ip_version": 4, "cidr": format!("10.0.{n}.0/24"),
                });
                intent::create::<Subnet>(view, at, &subnet)?;
            }
            let mut groups = Vec::new();
            for n in 0..GROUPS {
                let body = json!({"name": format!("g{n}")});
                groups.push(intent::create::<SecurityGroup>(view, at, &body)?);
            }
            let rule = json!({
                "security_group_id": groups[0], "direction": "ingress", "ethertype": "IPv4",
                "remote_group_id": groups[1],
            });
            intent::create::<SecurityGroupRule>(view, at, &rule)?;
            Ok(())
        })
        .unwrap();
    for _ in 0..PORTS {
        let dice = Dice::new(region.dice.next());
        let names = region.names();
        region
            .order(move |view, at| make_port(view, at, &mut dice.clone(), &names))
            .unwrap();
    }
    region
}

fn pick<T>(dice: &mut Dice, of: &[T]) -> Option<usize> {
    (!of.is_empty()).then(|| dice.below(of.len()))
}

fn make_port(
    view: &mut View,
    at: &Moment,
    dice: &mut Dice,
    hosts: &[String],
) -> Result<(), Refusal> {
    let networks = view.objects::<Network>();
    let groups = named_groups(view);
    let Some(network) = pick(dice, &networks) else {
        return Ok(());
    };
    let body = json!({
        "network_id": networks[network].meta.id,
        "security_groups": [groups[dice.below(groups.len())]],
        "binding:host_id": hosts[dice.below(hosts.len())],
    });
    intent::create::<Port>(view, at, &body).map(drop)
}

/// Those that were made here; each project has one more.
fn named_groups(view: &View) -> Vec<Uuid> {
    let groups = view.objects::<SecurityGroup>();
    let made = groups.iter().filter(|group| !group.is_default);
    made.map(|group| group.meta.id).collect()
}

fn change_port(
    view: &mut View,
    at: &Moment,
    dice: &mut Dice,
    hosts: &[String],
) -> Result<(), Refusal> {
    let ports = view.objects::<Port>();
    let groups = named_groups(view);
    let Some(port) = pick(dice, &ports).map(|at| Arc::clone(&ports[at])) else {
        return Ok(());
    };
    let body = match dice.below(5) {
        0 => json!({"name": format!("p{}", dice.below(1000))}),
        1 => json!({"binding:host_id": ""}),
        2 => json!({"admin_state_up": !port.admin_state_up}),
        3 => json!({"security_groups": [groups[dice.below(groups.len())]]}),
        _ => json!({"binding:host_id": hosts[dice.below(hosts.len())]}),
    };
    intent::update::<Port>(view, at, port.meta.id, &body)
}

fn change_group(view: &mut View, at: &Moment, dice: &mut Dice) -> Result<(), Refusal> {
    let groups = named_groups(view);
    let rules = view.objects::<SecurityGroupRule>();
    let mine = |rule: &&Arc<SecurityGroupRule>| groups.contains(&rule.security_group_id);
    let mine: Vec<Uuid> = rules.iter().filter(mine).map(|rule| rule.meta.id).collect();
    if mine.len() > 6 {
        return intent::delete::<SecurityGroupRule>(view, at, mine[dice.below(mine.len())]);
    }
    let mut rule = json!({
        "security_group_id": groups[dice.below(groups.len())],
        "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp",
        "port_range_min": 1 + dice.below(60_000), "port_range_max": 65_535,
    });
    if dice.percent(50) {
        rule["remote_group_id"] = json!(groups[dice.below(groups.len())]);
    }
    intent::create::<SecurityGroupRule>(view, at, &rule).map(drop)
}

fn change_network(view: &mut View, at: &Moment, dice: &mut Dice) -> Result<(), Refusal> {
    let networks = view.objects::<Network>();
    let Some(network) = pick(dice, &networks).map(|at| Arc::clone(&networks[at])) else {
        return Ok(());
    };
    let body = if dice.percent(30) {
        json!({"admin_state_up": !network.admin_state_up})
    } else {
        json!({"name": format!("n{}", dice.below(1000))})
    };
    intent::update::<Network>(view, at, network.meta.id, &body)
}

/// Of ports that may be in one already: then it is refused.
fn make_trunk(view: &mut View, at: &Moment, dice: &mut Dice) -> Result<(), Refusal> {
    let ports = view.objects::<Port>();
    let mut chosen = std::collections::BTreeSet::new();
    for _ in 0..=dice.below(4) {
        chosen.extend(pick(dice, &ports).map(|at| ports[at].meta.id));
    }
    let Some(parent) = chosen.pop_first() else {
        return Ok(());
    };
    let sub_port = |(port, vlan): (Uuid, u32)| json!({"port_id": port, "segmentation_type": "vlan", "segmentation_id": vlan});
    let sub_ports: Vec<_> = chosen.into_iter().zip(100..).map(sub_port).collect();
    let body = json!({"port_id": parent, "sub_ports": sub_ports});
    intent::create::<Trunk>(view, at, &body).map(drop)
}

fn change_trunk(view: &mut View, at: &Moment, dice: &mut Dice) -> Result<(), Refusal> {
    let trunks = view.objects::<Trunk>();
    let Some(trunk) = pick(dice, &trunks).map(|at| Arc::clone(&trunks[at])) else {
        return Ok(());
    };
    if dice.percent(50) {
        return intent::delete::<Trunk>(view, at, trunk.meta.id);
    }
    let body = json!({"admin_state_up": !trunk.admin_state_up});
    intent::update::<Trunk>(view, at, trunk.meta.id, &body)
}

/// An operator's order that a seed decides. A transaction may run again, and must say the same.
pub fn order(region: &mut Region) {
    if region.brain.is_none() {
        return;
    }
    let dice = Dice::new(region.dice.next());
    let hosts = region.names();
    let done = region.order(move |view, at| {
        let mut dice = dice.clone();
        match dice.below(12) {
            10 => make_trunk(view, at, &mut dice),
            11 => change_trunk(view, at, &mut dice),
            0 => make_port(view, at, &mut dice, &hosts),
            1 => {
                let ports = view.objects::<Port>();
                let Some(port) = pick(&mut dice, &ports) else {
                    return Ok(());
                };
                intent::delete::<Port>(view, at, ports[port].meta.id)
            }
            2..=6 => change_port(view, at, &mut dice, &hosts),
            7 | 8 => change_group(view, at, &mut dice),
            _ => change_network(view, at, &mut dice),
        }
    });
    if let Err(refusal) = done {
        region.trace.push(format!("refused: {refusal:?}"));
    }
}

/// What else there is of controllers.
#[derive(Debug)]
struct History {
    /// Of the newest incarnation: what a restart finds.
    disk: Arc<dyn Disk>,
    /// Of an older one, if there was any.
    stale: Option<Arc<dyn Disk>>,
    /// The newest incarnation's number.
    incarnation: u128,
    backup: Option<controller::store::Snapshot>,
}

fn fault(region: &mut Region, history: &mut History) {
    let names = region.names();
    let host = names[region.dice.below(names.len())].clone();
    match region.dice.below(28) {
        0..=5 => region.cut_host(&host),
        6..=8 => region.kill_host(&host),
        9 => region.crash(&host),
        10..=14 => region.start_host(&host),
        15 => region.kill_controller(),
        16..=18 => region.start_controller(),
        19 | 20 => {
            let away = &mut region.hosts.get_mut(&host).unwrap().away;
            *away = !*away;
            if *away {
                region.cut_host(&host);
            }
        }
        21 | 22 => {
            if let Some(brain) = &region.brain {
                history.backup = Some(brain.snapshot());
            }
        }
        23..=25 => {
            let Some(backup) = history.backup.take() else {
                return;
            };
            history.incarnation += 1;
            let restored = MemoryDisk::restored(&backup, Uuid::from_u128(history.incarnation));
            history.stale = Some(std::mem::replace(&mut history.disk, Arc::new(restored)));
            region.change_controller(Arc::clone(&history.disk));
        }
        _ => {
            // The controller that was replaced is found again, for a while.
            let Some(stale) = history.stale.clone() else {
                return;
            };
            let newest = Uuid::from_u128(history.incarnation);
            // What the newest one said last may still be on its way: the generation may grow.
            let at = |region: &Region| -> Vec<_> {
                let running = region.hosts.values().map(|host| host.machine.running());
                running
                    .map(|config| config.filter(|config| config.incarnation == newest))
                    .map(|config| config.map(|config| config.generation))
                    .collect()
            };
            let before = at(region);
            region.change_controller(stale);
            let time = Duration::from_secs(1) * u32::try_from(region.dice.below(30)).unwrap();
            region.advance(time);
            for ((before, after), name) in before.iter().zip(at(region)).zip(&names) {
                assert!(
                    *before <= after,
                    "{name} was at {before:?}, is at {after:?} since a controller was found again that was replaced:\n{}",
                    region.tail()
                );
            }
            region.change_controller(Arc::clone(&history.disk));
        }
    }
}

/// A storm of so many steps, then quiet.
pub fn storm(seed: u64, hosts: u8, steps: usize) -> Region {
    let mut region = populated(seed, hosts);
    let mut history = History {
        disk: region.disk(),
        stale: None,
        incarnation: 1,
        backup: None,
    };
    region.start();
    region.weather = ROUGH;
    for _ in 0..steps {
        match region.dice.below(10) {
            0..=3 => order(&mut region),
            4 | 5 => fault(&mut region, &mut history),
            _ => {
                let millis = u64::try_from(region.dice.below(3000)).unwrap();
                region.advance(Duration::from_millis(millis));
            }
        }
    }
    region.weather = CALM;
    for host in region.hosts.values_mut() {
        host.away = false;
    }
    region.start();
    region.advance(QUIET);
    region.assert_converged();
    region
}
