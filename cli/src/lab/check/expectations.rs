//! Who serves, and what must be seen?

use std::collections::BTreeSet;

use super::{Wrong, unknown, wrong};
use crate::lab::file::{
    Family, LbProtocol, OneOrMany, PairKind, PingTarget, RawExpect, RawServe, Reach,
};
use crate::lab::plan::{Expect, Lab, Serve, ServeKind, Target, Url, What};

pub(super) fn serves(lab: &Lab, raw: &[RawServe]) -> Result<Vec<Serve>, Wrong> {
    let mut serves = Vec::new();
    let mut taken = BTreeSet::new();
    for (i, one) in raw.iter().enumerate() {
        let place = format!("serve[{i}]");
        if lab.workload(&one.workload).is_none() {
            return wrong(
                format!("{place}.workload"),
                unknown(
                    "workload",
                    &one.workload,
                    lab.workloads.iter().map(|w| &w.name),
                ),
            );
        }
        let before = serves.len();
        for (kind, port) in [
            (ServeKind::Http, one.http),
            (ServeKind::Tcp, one.tcp),
            (ServeKind::Udp, one.udp),
        ] {
            let Some(port) = port else { continue };
            if port == 0 {
                return wrong(place, "0 is no port; use 1 to 65535");
            }
            if !taken.insert((one.workload.clone(), kind == ServeKind::Udp, port)) {
                return wrong(
                    place,
                    format!(
                        "port {port} of `{}` is served twice; choose another",
                        one.workload
                    ),
                );
            }
            serves.push(Serve {
                workload: one.workload.clone(),
                kind,
                port,
            });
        }
        if serves.len() == before {
            return wrong(
                place,
                "says not what to serve; add `http: 80`, `tcp: PORT` or `udp: PORT`",
            );
        }
    }
    Ok(serves)
}

pub(super) fn expect(lab: &Lab, index: usize, raw: RawExpect) -> Result<Expect, Wrong> {
    let place = format!("expect[{index}]");
    let not = raw.not;
    let kinds = [
        ("ping", raw.ping.is_some()),
        ("ping6", raw.ping6.is_some()),
        ("all_pairs", raw.all_pairs.is_some()),
        ("http", raw.http.is_some()),
        ("tcp", raw.tcp.is_some()),
        ("udp", raw.udp.is_some()),
    ];
    let named: Vec<&str> = kinds
        .iter()
        .filter(|(_, there)| *there)
        .map(|(name, _)| *name)
        .collect();
    if named.len() > 1 {
        return wrong(
            place,
            format!("has {} at once; make an item of each", named.join(" and ")),
        );
    }
    let what = match named.first().copied() {
        Some("all_pairs") => all_pairs(&place, &raw)?,
        Some("ping" | "ping6") => ping(lab, &place, raw)?,
        Some("http") => http(lab, &place, raw)?,
        Some(_) => connect(lab, &place, raw)?,
        None => throughput(lab, &place, raw)?,
    };
    Ok(Expect { what, not })
}

fn senders(lab: &Lab, place: &str, from: Option<OneOrMany<String>>) -> Result<Vec<String>, Wrong> {
    let names = from.map(|OneOrMany(names)| names).unwrap_or_default();
    if names.is_empty() {
        return wrong(place, "says not who; add `from: WORKLOAD`");
    }
    workload_names(lab, &format!("{place}.from"), names)
}

fn workload_names(lab: &Lab, place: &str, names: Vec<String>) -> Result<Vec<String>, Wrong> {
    for name in &names {
        if lab.workload(name).is_none() {
            return wrong(
                place,
                unknown("workload", name, lab.workloads.iter().map(|w| &w.name)),
            );
        }
    }
    Ok(names)
}

fn target(lab: &Lab, place: &str, text: &str) -> Result<Target, Wrong> {
    if lab.workload(text).is_some() {
        return Ok(Target::Workload(text.to_owned()));
    }
    match text.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(address) => Ok(Target::Address(address)),
        Err(_) => wrong(
            place,
            format!(
                "{}, and it is no address",
                unknown("workload", text, lab.workloads.iter().map(|w| &w.name))
            ),
        ),
    }
}

/// Only the keys of that kind of expectation may be there.
fn only(place: &str, kind: &str, rest: &[(&str, bool)]) -> Result<(), Wrong> {
    match rest.iter().find(|(_, there)| *there) {
        Some((key, _)) => wrong(
            format!("{place}.{key}"),
            format!("does not go with `{kind}`; leave it out"),
        ),
        None => Ok(()),
    }
}

fn all_pairs(place: &str, raw: &RawExpect) -> Result<What, Wrong> {
    only(
        place,
        "all_pairs",
        &[
            ("from", raw.from.is_some()),
            ("to", raw.to.is_some()),
            ("is", raw.is.is_some()),
            ("spread_over", raw.spread_over.is_some()),
            ("throughput", raw.throughput.is_some()),
        ],
    )?;
    let family = match raw.all_pairs {
        Some(PairKind::Ping6) => Family::Ipv6,
        Some(PairKind::Ping) | None => Family::Ipv4,
    };
    Ok(What::AllPairs { family })
}

fn ping(lab: &Lab, place: &str, raw: RawExpect) -> Result<What, Wrong> {
    let six = raw.ping6.is_some();
    let kind = if six { "ping6" } else { "ping" };
    only(
        place,
        kind,
        &[
            ("is", raw.is.is_some()),
            ("spread_over", raw.spread_over.is_some()),
            ("throughput", raw.throughput.is_some()),
        ],
    )?;
    let from = senders(lab, place, raw.from)?;
    let to = match (raw.ping.or(raw.ping6), raw.to) {
        (Some(PingTarget::One(_)), Some(_)) => {
            return wrong(
                place,
                format!("has both `to` and a target in `{kind}`; write `{kind}: true`"),
            );
        }
        (Some(PingTarget::One(name)), None) => {
            vec![target(lab, &format!("{place}.{kind}"), &name)?]
        }
        (_, Some(OneOrMany(names))) if !names.is_empty() => names
            .iter()
            .map(|name| target(lab, &format!("{place}.to"), name))
            .collect::<Result<_, _>>()?,
        _ => {
            return wrong(
                place,
                format!("says not whom; write `{kind}: WORKLOAD`, or add `to: [..]`"),
            );
        }
    };
    for one in &to {
        if let Target::Address(address) = one
            && address.is_ipv6() != six
        {
            let right = if six { "ping" } else { "ping6" };
            return wrong(
                place,
                format!("{address} is of the other family; use `{right}`"),
            );
        }
    }
    let family = if six { Family::Ipv6 } else { Family::Ipv4 };
    Ok(What::Ping { from, to, family })
}

fn http(lab: &Lab, place: &str, raw: RawExpect) -> Result<What, Wrong> {
    only(
        place,
        "http",
        &[("to", raw.to.is_some()), ("is", raw.is.is_some())],
    )?;
    let from = senders(lab, place, raw.from)?;
    let url = url(
        lab,
        &format!("{place}.http"),
        raw.http.as_deref().unwrap_or_default(),
    )?;
    let spread_over = match raw.spread_over {
        None => Vec::new(),
        Some(names) if names.is_empty() => {
            return wrong(
                format!("{place}.spread_over"),
                "is empty; name the workloads that must answer",
            );
        }
        Some(names) => workload_names(lab, &format!("{place}.spread_over"), names)?,
    };
    Ok(What::Http {
        from,
        url,
        spread_over,
        throughput: raw.throughput,
    })
}

fn url(lab: &Lab, place: &str, text: &str) -> Result<Url, Wrong> {
    let Some(rest) = text.strip_prefix("http://") else {
        return wrong(
            place,
            format!("`{text}` is no plain http address; write http://ADDRESS[:PORT]/"),
        );
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority_port(authority) {
        Some((host, port)) => (host, port),
        None if !authority.is_empty() => (authority, 80),
        None => {
            return wrong(
                place,
                format!("`{text}` names no address; write http://ADDRESS[:PORT]/"),
            );
        }
    };
    if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return wrong(
            place,
            "its path has a space or a control character; write it percent-encoded",
        );
    }
    Ok(Url {
        host: target(lab, place, host)?,
        port,
        path: if path.is_empty() {
            "/".to_owned()
        } else {
            path.to_owned()
        },
        text: text.to_owned(),
    })
}

/// `web-1:22` and `[fd00::1]:22`, not `fd00::1`.
pub(super) fn authority_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return None;
    }
    port.parse()
        .ok()
        .filter(|port| *port > 0)
        .map(|port| (host, port))
}

fn connect(lab: &Lab, place: &str, raw: RawExpect) -> Result<What, Wrong> {
    let (kind, transport, text) = match (&raw.tcp, &raw.udp) {
        (Some(text), _) => ("tcp", LbProtocol::Tcp, text.clone()),
        (None, text) => ("udp", LbProtocol::Udp, text.clone().unwrap_or_default()),
    };
    only(
        place,
        kind,
        &[
            ("to", raw.to.is_some()),
            ("spread_over", raw.spread_over.is_some()),
            ("throughput", raw.throughput.is_some()),
        ],
    )?;
    let from = senders(lab, place, raw.from)?;
    let place = format!("{place}.{kind}");
    let Some((host, port)) = authority_port(&text) else {
        return wrong(
            place,
            format!("`{text}` has no port; write `{kind}: \"WORKLOAD:22\"`"),
        );
    };
    Ok(What::Connect {
        from,
        transport,
        to: target(lab, &place, host)?,
        port,
        is: raw.is.unwrap_or(Reach::Reachable),
    })
}

fn throughput(lab: &Lab, place: &str, raw: RawExpect) -> Result<What, Wrong> {
    let Some(range) = raw.throughput else {
        return wrong(
            place,
            "expects nothing; add `ping`, `ping6`, `all_pairs`, `http`, `tcp`, `udp` or `throughput`",
        );
    };
    only(
        place,
        "throughput",
        &[
            ("is", raw.is.is_some()),
            ("spread_over", raw.spread_over.is_some()),
        ],
    )?;
    let from = senders(lab, place, raw.from)?;
    let to = raw.to.map(|OneOrMany(names)| names).unwrap_or_default();
    if to.is_empty() {
        return wrong(
            place,
            "says not whom; add `to: WORKLOAD`, or an `http` address to download from",
        );
    }
    Ok(What::Throughput {
        from,
        to: workload_names(lab, &format!("{place}.to"), to)?,
        range,
    })
}
