//! Can this lab be built?
//!
//! Turns a file as written ([`super::file`]) into a lab that can be built ([`super::plan`]), or says in
//! one line which file, which place and what to do. Pure: no namespace has been made when it refuses.

mod chains;
mod expectations;
mod intent;
mod outside;
mod qos;
mod trunks;

use std::collections::BTreeSet;

use super::file::{self, RawLab};
use super::plan::{Host, Impairment, Lab, Underlay};

/// How many hosts a lab may have: each is a process with its own switch.
const HOSTS_MAX: usize = 250;
/// An underlay that leaves overlay networks their customary 1500 bytes.
const UNDERLAY_MTU: u16 = 1600;

/// What is wrong with a lab file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {place}{}{what}", if place.is_empty() { "" } else { ": " })]
pub(crate) struct LabError {
    file: String,
    place: String,
    what: String,
}

/// A refusal inside one file: the place, and what to do.
struct Wrong {
    place: String,
    what: String,
}

fn wrong<T>(place: impl Into<String>, what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        place: place.into(),
        what: what.into(),
    })
}

/// Judges the text of the file called `file` as a lab called `name`.
///
/// # Errors
/// One line: the file, the place in it, what to do.
pub(crate) fn lab(file: &str, name: &str, text: &str) -> Result<Lab, LabError> {
    let raw = file::parse(text).map_err(|e| LabError {
        file: file.to_owned(),
        place: String::new(),
        what: one_line(&e.to_string()),
    })?;
    // A name of the file may have line breaks in it.
    checked(name, raw).map_err(|w| LabError {
        file: file.to_owned(),
        place: one_line(&w.place),
        what: one_line(&w.what),
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn checked(name: &str, raw: RawLab) -> Result<Lab, Wrong> {
    name_is_plain("--name", name, "lab")?;
    let hosts = hosts(&raw)?;
    let underlay = underlay(&raw)?;
    let networks = intent::networks(raw.networks, underlay.mtu)?;
    let groups = intent::groups(raw.security_groups)?;
    qos::policies(&raw.qos)?;
    let workloads = intent::workloads(raw.workloads, &hosts, &networks, &groups)?;
    let mut lab = Lab {
        name: name.to_owned(),
        hosts,
        underlay,
        networks,
        gateways: Vec::new(),
        floating_ips: Vec::new(),
        trunks: Vec::new(),
        workloads,
        groups,
        qos: raw.qos,
        chains: Vec::new(),
        serve: Vec::new(),
        expect: Vec::new(),
    };
    lab.gateways = outside::gateways(raw.gateways, &lab.networks)?;
    lab.floating_ips = outside::floating(raw.floating_ips, &lab)?;
    lab.trunks = trunks::trunks(raw.trunks, &lab)?;
    qos::users(&lab)?;
    unique("chains", raw.chains.iter().map(|c| c.name.as_str()))?;
    let entrances = chains::entrances(&lab, &raw.chains)?;
    let chains = raw.chains.into_iter().zip(entrances).enumerate();
    lab.chains = chains
        .map(|(i, (chain, entrance))| chains::chain(&lab, i, chain, entrance))
        .collect::<Result<_, _>>()?;
    chains::sides(&lab)?;
    lab.serve = expectations::serves(&lab, &raw.serve)?;
    lab.expect = raw
        .expect
        .into_iter()
        .enumerate()
        .map(|(i, e)| expectations::expect(&lab, i, e))
        .collect::<Result<_, _>>()?;
    Ok(lab)
}

/// A name becomes part of a namespace's file name and of the API's host name.
fn name_is_plain(place: &str, name: &str, kind: &str) -> Result<(), Wrong> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    // The path of a host's socket has both names in it and may have 107 bytes.
    let most = if matches!(kind, "lab" | "host") {
        30
    } else {
        60
    };
    if !starts || name.len() > most || !name.chars().all(plain) {
        return wrong(
            place,
            format!(
                "`{name}` is no {kind} name; use up to {most} letters, digits, `-`, `_` and `.`, a letter or digit first"
            ),
        );
    }
    Ok(())
}

fn unique<'a>(list: &str, names: impl Iterator<Item = &'a str>) -> Result<(), Wrong> {
    let mut seen = BTreeSet::new();
    for (i, name) in names.enumerate() {
        if !seen.insert(name) {
            return wrong(
                format!("{list}[{i}].name"),
                format!("`{name}` is there twice; give each its own name"),
            );
        }
    }
    Ok(())
}

fn hosts(raw: &RawLab) -> Result<Vec<Host>, Wrong> {
    if raw.hosts.is_empty() {
        return wrong("hosts", "there is none; name at least one host");
    }
    if raw.hosts.len() > HOSTS_MAX {
        return wrong(
            "hosts",
            format!(
                "{} are more than the {HOSTS_MAX} that one lab may have",
                raw.hosts.len()
            ),
        );
    }
    unique("hosts", raw.hosts.iter().map(|h| h.name.as_str()))?;
    let mut hosts = Vec::new();
    for (i, host) in raw.hosts.iter().enumerate() {
        let place = format!("hosts[{i}]");
        name_is_plain(&place, &host.name, "host")?;
        if host.name == "controller" {
            return wrong(
                place,
                "`controller` is the controller's own namespace; choose another name",
            );
        }
        hosts.push(Host {
            name: host.name.clone(),
            kernel_vtep: host.kernel_vtep,
        });
    }
    if hosts.iter().all(|h| h.kernel_vtep) {
        return wrong(
            "hosts",
            "all are kernel VTEPs; at least one host needs a vswitch of its own",
        );
    }
    Ok(hosts)
}

fn underlay(raw: &RawLab) -> Result<Underlay, Wrong> {
    let mtu = raw.underlay.mtu.unwrap_or(UNDERLAY_MTU);
    if !(1350..=65_000).contains(&mtu) {
        return wrong(
            "underlay.mtu",
            format!("{mtu} is out of range; use 1350 to 65000 (the default is {UNDERLAY_MTU})"),
        );
    }
    let file::RawUnderlay {
        loss,
        delay,
        reorder,
        rate,
        routed,
        uplink,
        mtu: _,
    } = raw.underlay;
    if reorder.is_some() && delay.is_none() {
        return wrong(
            "underlay.reorder",
            "reordering needs a delay to overtake; add `delay: 10ms`",
        );
    }
    Ok(Underlay {
        mtu,
        routed,
        uplink,
        impairment: Impairment {
            loss,
            delay,
            reorder,
            rate,
        },
    })
}

/// "unknown host `h9`; the file has: h1, h2".
fn unknown<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<&str> = known.map(String::as_str).take(12).collect();
    if known.is_empty() {
        format!("unknown {kind} `{name}`; the file has none")
    } else {
        format!(
            "unknown {kind} `{name}`; the file has: {}",
            known.join(", ")
        )
    }
}

#[cfg(test)]
mod tests;
