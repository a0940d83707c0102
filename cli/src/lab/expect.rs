//! Did the lab show what its file expects?
//!
//! Each item is tried with real traffic, one after the other, and becomes a row: what was tried, what was expected,
//! what was seen, whether it held.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::Serialize;

use super::drops::{self, Refusals};
use super::fabric::Fabric;
use super::file::{Family, Reach};
use super::plan::{Expect, ServeKind, Target, Url, What};
use super::probe::connect::{self, Answer, Hope};
use super::probe::http::{self, Page};
use super::probe::{ping, side_by_side, throughput};
use crate::cancel::Cancel;
use crate::units::RateRange;

/// How long a ping may take: a first packet may wait for a neighbour and be sent again.
const PING: Duration = Duration::from_secs(5);
/// How long silence must last to be believed: a second ping fits in.
const SILENCE: Duration = Duration::from_millis(1500);
/// What is measured of a transfer, after its first second.
const TRANSFER: Duration = Duration::from_secs(3);
/// Sources that ping at a time.
const PINGERS: usize = 16;

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) expected: String,
    pub(crate) seen: String,
    pub(crate) held: bool,
}

/// What a trial showed, before `not` turns it round.
struct Outcome {
    seen: String,
    held: bool,
    /// Whether the opposite held everywhere, which is what `not` asks for.
    opposite: bool,
}

impl Outcome {
    fn of(held: bool, seen: impl Into<String>) -> Self {
        Self {
            seen: seen.into(),
            held,
            opposite: !held,
        }
    }
}

/// Tries one item.
///
/// # Errors
/// When the trial itself could not be made.
pub(crate) fn check(fabric: &Fabric, expect: &Expect, cancel: &Cancel) -> anyhow::Result<Row> {
    cancel.check()?;
    let (what, expected) = describe(expect);
    let outcome = match &expect.what {
        What::Ping { from, to, family } => {
            let v6 = *family == Family::Ipv6;
            let mut pairs = Vec::new();
            for source in from {
                let targets: Vec<(String, IpAddr)> = to
                    .iter()
                    .map(|target| Ok((target.to_string(), address(fabric, target, v6)?)))
                    .collect::<anyhow::Result<_>>()?;
                pairs.push((source.clone(), targets));
            }
            pings(fabric, &pairs, expect.not)?
        }
        What::AllPairs { family } => pings(fabric, &all_pairs(fabric, *family)?, expect.not)?,
        What::Http {
            from,
            url,
            spread_over,
            throughput,
        } => match throughput {
            Some(range) => download(fabric, from, url, *range)?,
            None => pages(fabric, from, url, spread_over)?,
        },
        What::Connect {
            from,
            transport,
            to,
            port,
            is,
        } => {
            let silent = (*is != Reach::Reachable) != expect.not;
            let hope = if silent { Hope::Silence } else { Hope::Answer };
            let attempt = |source: &str, to: IpAddr| {
                let to = SocketAddr::new(to, *port);
                connect::attempt(namespace(fabric, source)?, *transport, to, hope)
            };
            connects(fabric, from, to, *is, attempt)?
        }
        What::Throughput { from, to, range } => transfers(fabric, from, to, *range),
    };
    let held = if expect.not {
        outcome.opposite
    } else {
        outcome.held
    };
    Ok(Row {
        what,
        expected,
        seen: outcome.seen,
        held,
    })
}

/// The first two columns.
fn describe(expect: &Expect) -> (String, String) {
    let not = |text: &str| {
        if expect.not {
            format!("not {text}")
        } else {
            text.to_owned()
        }
    };
    let list = |names: &[String]| names.join(", ");
    match &expect.what {
        What::Ping { from, to, family } => {
            let to: Vec<String> = to.iter().map(ToString::to_string).collect();
            let six = if *family == Family::Ipv6 { "6" } else { "" };
            (
                format!("{}: ping{six} {}", list(from), to.join(", ")),
                not("answered"),
            )
        }
        What::AllPairs { family } => {
            let six = if *family == Family::Ipv6 { "6" } else { "" };
            (format!("all pairs: ping{six}"), not("answered"))
        }
        What::Http {
            from,
            url,
            spread_over,
            throughput,
        } => {
            let expected = match (throughput, spread_over.as_slice()) {
                (Some(range), _) => range.to_string(),
                (None, []) => "answered".to_owned(),
                (None, members) => format!("answered by {}", members.join(", ")),
            };
            (format!("{}: GET {}", list(from), url.text), not(&expected))
        }
        What::Connect {
            from,
            transport,
            to,
            port,
            is,
        } => (
            format!("{}: {} {to} port {port}", list(from), transport.name()),
            not(is.name()),
        ),
        What::Throughput { from, to, range } => (
            format!("{} → {}: TCP", list(from), list(to)),
            not(&range.to_string()),
        ),
    }
}

/// The address to call a target by.
fn address(fabric: &Fabric, target: &Target, v6: bool) -> anyhow::Result<IpAddr> {
    match target {
        Target::Address(address) => Ok(*address),
        Target::Workload(name) => fabric
            .inventory
            .workloads
            .get(name)
            .and_then(|placed| placed.address(v6))
            .ok_or_else(|| anyhow!("{name} has no {} address", if v6 { "IPv6" } else { "IPv4" })),
    }
}

/// The address to call a target by, IPv4 first.
fn any_address(fabric: &Fabric, target: &Target) -> anyhow::Result<IpAddr> {
    address(fabric, target, false).or_else(|_| address(fabric, target, true))
}

fn namespace<'a>(fabric: &'a Fabric, workload: &str) -> anyhow::Result<&'a str> {
    let placed = fabric
        .inventory
        .workloads
        .get(workload)
        .context("find a workload")?;
    Ok(&placed.namespace)
}

/// A source and the targets that it pings.
type Pings = (String, Vec<(String, IpAddr)>);

/// Every ordered pair of workloads that share a network and a family.
fn all_pairs(fabric: &Fabric, family: Family) -> anyhow::Result<Vec<Pings>> {
    let v6 = family == Family::Ipv6;
    let mut pairs = Vec::new();
    for (source, placed) in &fabric.inventory.workloads {
        if placed.address(v6).is_none() {
            continue;
        }
        let targets = fabric
            .inventory
            .workloads
            .iter()
            .filter(|(target, other)| *target != source && other.network == placed.network)
            .filter_map(|(target, other)| {
                other.address(v6).map(|address| (target.clone(), address))
            })
            .collect();
        pairs.push((source.clone(), targets));
    }
    if pairs.iter().all(|(_, targets): &Pings| targets.is_empty()) {
        return Err(anyhow!(
            "no two workloads share a network with such addresses"
        ));
    }
    Ok(pairs)
}

fn pings(fabric: &Fabric, pairs: &[Pings], not: bool) -> anyhow::Result<Outcome> {
    let patience = if not { SILENCE } else { PING };
    let answered = side_by_side(pairs, PINGERS, |(source, targets)| {
        let addresses: Vec<IpAddr> = targets.iter().map(|(_, address)| *address).collect();
        ping::ping(namespace(fabric, source)?, &addresses, patience)
    })?;
    let mut total = 0;
    let (mut yes, mut no) = (Vec::new(), Vec::new());
    for ((source, targets), answered) in pairs.iter().zip(&answered) {
        for ((target, _), answered) in targets.iter().zip(answered) {
            total += 1;
            let pair = format!("{source} → {target}");
            if *answered {
                yes.push(pair);
            } else {
                no.push(pair);
            }
        }
    }
    let mut seen = format!("{} of {total} answered", yes.len());
    let telling = if not { &yes } else { &no };
    if !telling.is_empty() && total > 1 {
        let shown: Vec<&str> = telling.iter().take(4).map(String::as_str).collect();
        let more = if telling.len() > shown.len() {
            ", …"
        } else {
            ""
        };
        write!(
            seen,
            " ({}: {}{more})",
            if not { "answered" } else { "silent" },
            shown.join(", ")
        )
        .context("format")?;
    }
    Ok(Outcome {
        seen,
        held: no.is_empty(),
        opposite: yes.is_empty(),
    })
}

fn page(fabric: &Fabric, url: &Url) -> anyhow::Result<Page> {
    Ok(Page {
        address: any_address(fabric, &url.host)?,
        port: url.port,
        path: url.path.clone(),
    })
}

fn pages(
    fabric: &Fabric,
    from: &[String],
    url: &Url,
    spread_over: &[String],
) -> anyhow::Result<Outcome> {
    // So many that a fair choice leaves no member out but once in millions of runs.
    let times = if spread_over.is_empty() {
        1
    } else {
        (16 * spread_over.len()).max(24)
    };
    let page = page(fabric, url)?;
    let each = side_by_side(from, PINGERS, |source| {
        http::ask(namespace(fabric, source)?, &page, times)
    })?;
    let mut by: BTreeMap<String, usize> = BTreeMap::new();
    let (mut failed, mut why) = (0, None);
    for answers in each {
        for (name, count) in answers.by {
            *by.entry(name).or_default() += count;
        }
        failed += answers.failed;
        why = why.or(answers.first_failure);
    }
    let mut seen = by
        .iter()
        .map(|(name, count)| format!("{name} {count}×"))
        .collect::<Vec<_>>();
    if failed > 0 {
        seen.push(format!("{failed} failed ({})", why.unwrap_or_default()));
    }
    let right = spread_over.is_empty()
        || spread_over.iter().all(|member| by.contains_key(member))
            && by.keys().all(|name| spread_over.contains(name));
    Ok(Outcome {
        seen: seen.join(", "),
        held: failed == 0 && right,
        opposite: by.is_empty() || failed == 0 && !right,
    })
}

fn measured(range: RateRange, rates: &[(String, anyhow::Result<u64>)]) -> Outcome {
    let mut seen = Vec::new();
    let mut held = true;
    for (who, rate) in rates {
        let text = match rate {
            Ok(bits) => {
                held &= range.contains(*bits);
                readable(*bits)
            }
            Err(error) => {
                held = false;
                format!("failed ({error:#})")
            }
        };
        seen.push(if rates.len() > 1 {
            format!("{who} {text}")
        } else {
            text
        });
    }
    Outcome::of(held, seen.join(", "))
}

/// `97.3 mbit`.
fn readable(bits: u64) -> String {
    let (unit, name) = match bits {
        0..1_000_000 => (1_000, "kbit"),
        1_000_000..1_000_000_000 => (1_000_000, "mbit"),
        _ => (1_000_000_000, "gbit"),
    };
    format!("{}.{} {name}", bits / unit, bits % unit * 10 / unit)
}

fn download(
    fabric: &Fabric,
    from: &[String],
    url: &Url,
    range: RateRange,
) -> anyhow::Result<Outcome> {
    let page = page(fabric, url)?;
    let mut rates = Vec::new();
    // One after the other: each shall have the way for itself.
    for source in from {
        rates.push((
            source.clone(),
            http::download(namespace(fabric, source)?, &page, TRANSFER),
        ));
    }
    Ok(measured(range, &rates))
}

fn transfers(fabric: &Fabric, from: &[String], to: &[String], range: RateRange) -> Outcome {
    let mut rates = Vec::new();
    for source in from {
        for target in to.iter().filter(|target| *target != source) {
            rates.push((
                format!("{source} → {target}"),
                transfer(fabric, source, target),
            ));
        }
    }
    measured(range, &rates)
}

fn transfer(fabric: &Fabric, source: &str, target: &str) -> anyhow::Result<u64> {
    let to = any_address(fabric, &Target::Workload(target.to_owned()))?;
    let from = namespace(fabric, source)?;
    let served = fabric
        .lab
        .serve
        .iter()
        .find(|s| s.workload == target && s.kind == ServeKind::Tcp)
        .map(|s| s.port);
    if let Some(port) = served {
        return throughput::send(from, to, port, TRANSFER);
    }
    let there = namespace(fabric, target)?;
    let sink = throughput::Sink::open(there)?;
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| sink.serve());
        let rate = throughput::send(from, to, throughput::PORT, TRANSFER);
        if rate.is_err() {
            throughput::wake(there)?;
        }
        let served = serving.join().map_err(|_panic| anyhow!("the sink died"))?;
        rate.and_then(|rate| served.map(|()| rate))
    })
}

fn connects(
    fabric: &Fabric,
    from: &[String],
    to: &Target,
    is: Reach,
    attempt: impl Fn(&str, IpAddr) -> anyhow::Result<Answer>,
) -> anyhow::Result<Outcome> {
    let (mut held, mut opposite) = (true, true);
    let mut seen = Vec::new();
    for source in from {
        let address = match fabric.inventory.workloads.get(source) {
            // A target with both families is called by the one that the source has too.
            Some(placed) if placed.address(false).is_none() => address(fabric, to, true)?,
            _ => any_address(fabric, to)?,
        };
        let before = readings(fabric)?;
        let (reach, text) = match attempt(source, address)? {
            Answer::Open => (Reach::Reachable, "reachable".to_owned()),
            Answer::Closed => (Reach::Reachable, "reachable (nobody listens)".to_owned()),
            Answer::Nothing(why) => match refused_by(&before, &readings(fabric)?) {
                Some(rule) => (
                    Reach::RefusedByPolicy,
                    format!("refused_by_policy ({rule})"),
                ),
                None => (Reach::Unreachable, format!("unreachable ({why})")),
            },
        };
        held &= reach == is;
        opposite &= reach != is;
        seen.push(if from.len() > 1 {
            format!("{source}: {text}")
        } else {
            text
        });
    }
    Ok(Outcome {
        seen: seen.join(", "),
        held,
        opposite,
    })
}

/// The drop records of every vswitch, by host. The refusing one is the source's, the target's or a chain's home; a
/// reading takes a millisecond.
fn readings(fabric: &Fabric) -> anyhow::Result<BTreeMap<String, Refusals>> {
    let hosts: Vec<&str> = fabric
        .lab
        .hosts
        .iter()
        .filter(|h| !h.kernel_vtep)
        .map(|h| h.name.as_str())
        .collect();
    let each = side_by_side(&hosts, 8, |host| {
        drops::read(&fabric.run_dir(host)).with_context(|| format!("read the drops of {host}"))
    })?;
    Ok(hosts.into_iter().map(str::to_owned).zip(each).collect())
}

fn refused_by(
    before: &BTreeMap<String, Refusals>,
    after: &BTreeMap<String, Refusals>,
) -> Option<String> {
    after.iter().find_map(|(host, refusals)| {
        let old = before.get(host)?;
        let refusal = drops::since(old, refusals).into_iter().next()?;
        let rule = match refusal.rule.as_str() {
            "" => "no rule allows it".to_owned(),
            rule => format!("rule {rule}"),
        };
        Some(format!("{host}: {}, {rule}", refusal.reason))
    })
}

/// The table for people.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["what", "expected", "seen", "held"]);
    for row in rows {
        let held = if row.held { "yes" } else { "NO" };
        table.add_row([
            row.what.as_str(),
            row.expected.as_str(),
            row.seen.as_str(),
            held,
        ]);
    }
    let held = rows.iter().filter(|row| row.held).count();
    format!("{table}\n{held} of {} held", rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_readable() {
        assert_eq!(readable(97_340_000), "97.3 mbit");
        assert_eq!(readable(1_234_000_000), "1.2 gbit");
        assert_eq!(readable(9_900), "9.9 kbit");
    }

    #[test]
    fn a_rate_that_could_not_be_measured_does_not_hold() {
        let range: RateRange = "1..2 mbit".parse().unwrap();
        let outcome = measured(
            range,
            &[
                ("a".into(), Ok(1_500_000)),
                ("b".into(), Err(anyhow!("refused"))),
            ],
        );
        assert!(!outcome.held);
        assert_eq!(outcome.seen, "a 1.5 mbit, b failed (refused)");
        assert!(measured(range, &[("a".into(), Ok(1_500_000))]).held);
        assert!(!measured(range, &[("a".into(), Ok(2_500_000))]).held);
    }

    #[test]
    fn the_table_counts_what_held() {
        let row = |held| Row {
            what: "w".into(),
            expected: "e".into(),
            seen: "s".into(),
            held,
        };
        let text = table(&[row(true), row(false)]);
        assert!(
            text.contains("NO") && text.ends_with("1 of 2 held"),
            "{text}"
        );
    }

    #[test]
    fn a_refusal_is_told_with_its_host_and_rule() {
        let with = |rule: &str| {
            let refusal = drops::Refusal {
                reason: "firewall_denied".into(),
                rule: rule.into(),
                port: String::new(),
            };
            BTreeMap::from([("h1".to_owned(), Refusals::from([(refusal, 2)]))])
        };
        let none = BTreeMap::from([("h1".to_owned(), Refusals::new())]);
        let told = refused_by(&none, &with("r1"));
        assert_eq!(told.as_deref(), Some("h1: firewall_denied, rule r1"));
        let told = refused_by(&none, &with(""));
        assert_eq!(
            told.as_deref(),
            Some("h1: firewall_denied, no rule allows it")
        );
        assert_eq!(refused_by(&with("r1"), &with("r1")), None);
    }
}
