//! Does it stay well for long?
//!
//! One overweave fabric, mixed traffic with and without a chain, while rules and chains come and go beside it.
//!
//! - Data: a [`Report`]; the anonymous memory of each process after each round.
//! - Owner: [`run`] owns the stand; the churn is a thread that ends with it.
//! - Cost: the time that it is given.
//! - Failure: what did not hold is a line of [`Report::broken`]; a system that does not come up ends it at once.

use super::{
    place::Place,
    rest::Rest,
    system::{Stand, Wanted},
    work::Work,
};
use anyhow::Context as _;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// What a run of each work takes, in seconds.
const RUN: f64 = 2.0;
/// A switch's metrics, in its namespace.
const METRICS: &str = "http://127.0.0.1:9698/metrics";
/// How much a process may grow from the second third to the last: what pages and allocators round.
const GROWTH: f64 = 1.02;

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Rounds of all works.
    pub rounds: usize,
    /// Rules that came and went.
    pub rules: usize,
    /// Chains that came and went.
    pub chains: usize,
    /// KiB that each process has for itself, after each round.
    pub memory: BTreeMap<String, Vec<u64>>,
    /// What each switch dropped: its metric's lines.
    pub drops: Vec<String>,
    /// What did not hold; empty if all did.
    pub broken: Vec<String>,
}

/// Runs for so long.
///
/// # Errors
/// The fabric does not come up.
pub fn run(time: Duration, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Report> {
    let wanted: Wanted = "overweave+chain".parse()?;
    let mut stand = Stand::up(0, &wanted).context("bring up overweave")?;
    let targets = [stand.target, Place::address(2, false)];
    let begun: Vec<String> = stand
        .processes()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let mut report = Report::default();
    let start = Instant::now();
    while start.elapsed() < time {
        for target in targets {
            stand.target = target;
            let stop = AtomicBool::new(false);
            let (rest, group) = stand.rest().context("overweave has an API")?;
            let (samples, churned) = std::thread::scope(|scope| {
                let churn = scope.spawn(|| churn(&rest, group, &stop));
                let samples = works(&stand);
                stop.store(true, Relaxed);
                (samples, churn.join())
            });
            let churned = churned.ok().context("the churn panicked")?;
            report.broken.extend(samples);
            match churned {
                Ok((rules, chains)) => {
                    report.rules += rules;
                    report.chains += chains;
                }
                Err(error) => report.broken.push(format!("churn: {error:#}")),
            }
        }
        report.rounds += 1;
        for (name, id) in stand.processes() {
            let kib = resident(id).unwrap_or(0);
            report.memory.entry(name).or_default().push(kib);
        }
        tell(&format!(
            "round {} at {:.0} s: {} rules, {} chains, {} broken",
            report.rounds,
            start.elapsed().as_secs_f64(),
            report.rules,
            report.chains,
            report.broken.len()
        ));
    }
    let still: Vec<String> = stand
        .processes()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    if still != begun {
        report
            .broken
            .push(format!("of {begun:?} there are {still:?}"));
    }
    for host in ["h1", "h2"] {
        let metrics = stand.place.ask(host, &["curl", "-sf", METRICS])?;
        let drops = metrics
            .lines()
            .filter(|line| line.starts_with("vswitch_drops_total"));
        let drops = drops.filter(|line| !line.ends_with(" 0"));
        report
            .drops
            .extend(drops.map(|line| format!("{host} {line}")));
        let missing = metric(&metrics, "vswitch_unaccounted_segments")?;
        if missing != 0 {
            report
                .broken
                .push(format!("{host}: {missing} segments are not accounted for"));
        }
    }
    for (name, kib) in &report.memory {
        if grows(kib) {
            report.broken.push(format!("{name} grows: {kib:?} KiB"));
        }
    }
    Ok(report)
}

/// One run of each work; what went wrong.
fn works(stand: &Stand) -> Vec<String> {
    let works = [
        Work::Tcp { streams: 1 },
        Work::Tcp { streams: 8 },
        Work::RequestResponse,
        Work::Connect,
    ];
    let mut broken = vec![];
    for work in works {
        match work.run(stand, RUN) {
            Ok(sample) => {
                let failed = sample
                    .figures
                    .iter()
                    .filter(|f| f.name == "failed" && f.value > 0.0);
                broken.extend(
                    failed.map(|f| format!("{work} to {}: {} failed", stand.target, f.value)),
                );
            }
            Err(error) => broken.push(format!("{work} to {}: {error:#}", stand.target)),
        }
    }
    broken
}

/// Rules and chains come and go until it is told to stop: how many of each.
fn churn(rest: &Rest<'_>, group: &str, stop: &AtomicBool) -> anyhow::Result<(usize, usize)> {
    let (mut rules, mut chains) = (0, 0);
    while !stop.load(Relaxed) {
        let port = 20_000 + rules % 1000;
        let rule = json!({
            "security_group_id": group, "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp",
            "port_range_min": port, "port_range_max": port,
        });
        let rule = rest.id("security-group-rules", "security_group_rule", rule)?;
        rest.delete("security-group-rules", &rule)?;
        rules += 1;
        if rules % 5 == 0 {
            let function = json!({"network_function": {"firewall": {
                "rules": (1..50).map(|n| json!({"action": "deny", "source": format!("10.78.{n}.0/24")})).collect::<Vec<_>>(),
                "default": "allow",
            }}});
            let function = rest.id("sfc/port_pair_groups", "port_pair_group", function)?;
            let classifier = json!({"protocol": "udp", "destination_port_range_min": port, "destination_port_range_max": port});
            let classifier = rest.id("sfc/flow_classifiers", "flow_classifier", classifier)?;
            let chain = json!({"port_pair_groups": [function], "flow_classifiers": [classifier]});
            let chain = rest.id("sfc/port_chains", "port_chain", chain)?;
            rest.delete("sfc/port_chains", &chain)?;
            rest.delete("sfc/flow_classifiers", &classifier)?;
            rest.delete("sfc/port_pair_groups", &function)?;
            chains += 1;
        }
    }
    Ok((rules, chains))
}

fn metric(metrics: &str, name: &str) -> anyhow::Result<u64> {
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value
        .with_context(|| format!("no metric {name}"))?
        .trim()
        .parse()?)
}

/// KiB that a process has for itself. The table of connections is shared memory of a fixed size, whose pages come as they are used.
fn resident(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Is the last third larger than the second?
fn grows(kib: &[u64]) -> bool {
    let third = kib.len() / 3;
    let largest = |part: Option<&[u64]>| part.and_then(|p| p.iter().max()).copied();
    let second = largest(kib.get(third..2 * third));
    let last = largest(kib.get(2 * third..));
    #[expect(clippy::cast_precision_loss, reason = "KiB of one process")]
    let larger = |a: u64, b: u64| b as f64 > a as f64 * GROWTH;
    second
        .zip(last)
        .is_some_and(|(second, last)| larger(second, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        assert_eq!(metric("# HELP a b\nab 7\na 3\n", "a").unwrap(), 3);
        assert!(metric("ab 7\n", "a").is_err());
    }

    #[test]
    fn memory_that_levels_off_does_not_grow() {
        assert!(!grows(&[10, 900, 1000, 1010, 1000, 1015]));
        assert!(!grows(&[]));
        assert!(grows(&[1000, 1100, 1200, 1300, 1400, 1500]));
    }
}
