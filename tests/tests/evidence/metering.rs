//! What does each attribute of a metering label and of its rules count?
//!
//! What is seen are the sums that clients read (`metering-sums`), after packets crossed a router's gateway.

use std::time::Duration;

use serde_json::{Value, json};
use tests::evidence::{A, ADMIN, Entry, Nic, Region, Seen, Sent, entry, id};

use crate::routers::gated;

/// Longer than hosts take to look at what they counted, and to say it.
const A_WHILE: Duration = Duration::from_secs(6);

/// What is counted under a label by now: packets and bytes.
fn sums(r: &mut Region, label: &str) -> [u64; 2] {
    let path = format!("overweave/metering-sums?metering_label_id={label}");
    let answer = r.read(ADMIN.0, &path);
    let rows = answer["metering_sums"].as_array().unwrap();
    ["packets", "bytes"].map(|of| rows.iter().map(|row| row[of].as_u64().unwrap()).sum())
}

/// How much more is counted when a workload has spoken to those outside, who answered.
fn counted(r: &mut Region, label: &str, from: &Nic, to: &[&Nic]) -> Seen {
    let before = sums(r, label);
    for out in to {
        let got = r.talks(from, out.v4.into(), Sent::Udp(7));
        assert!(
            got.iter().any(|line| line.starts_with("answered, a: ")),
            "what does not cross can't be counted: {got:?}"
        );
        // Long ones only leave.
        r.sees(from, out.v4.into(), Sent::Long(500));
    }
    r.advance(A_WHILE);
    let [packets, bytes] = sums(r, label);
    vec![format!(
        "{} packets, {} bytes",
        packets - before[0],
        bytes - before[1]
    )]
}

/// A workload behind a gateway, and two outside; a label.
fn metered(r: &mut Region) -> (Nic, [Nic; 2], String) {
    let (_, a, outside, out) = gated(r);
    let other = r.nic_with(&outside, 1, 98, &json!({"name": "other"}));
    let label = r.make("metering_label", &json!({"name": "l"}));
    (a, [out, other], id(&label).to_owned())
}

/// An attribute of a rule, given when it is made; and changed later, where it can be.
fn rule(r: &mut Region, base: &Value, (attribute, value): (&str, Value), later: bool) {
    let (a, [out, other], label) = metered(r);
    let base = tests::evidence::with(&json!({"metering_label_id": label}), base);
    let probe = |r: &mut Region, _: &Value| counted(r, &label, &a, &[&out, &other]);
    let of = ("metering_label_rule", &base);
    if later {
        r.both(of, (attribute, &value), probe);
    } else {
        r.by_create(of, (attribute, &value), probe);
    }
}

pub(crate) const TABLE: &[Entry] = &[
    entry("metering_label.shared", |r| {
        let (_, a, _, out) = gated(r);
        // The router is the admin's.
        let base = json!({"name": "l", "project_id": A.1});
        let shared = json!(true);
        r.by_create(("metering_label", &base), ("shared", &shared), |r, made| {
            let all = json!({"metering_label_id": id(made), "remote_ip_prefix": "10.0.0.0/24"});
            r.make("metering_label_rule", &all);
            counted(r, id(made), &a, &[&out])
        });
    }),
    entry("metering_label_rule.metering_label_id", |r| {
        let (a, [out, other], label) = metered(r);
        let second = r.make("metering_label", &json!({"name": "second"}));
        let base = json!({"metering_label_id": label, "remote_ip_prefix": "10.0.0.0/24"});
        let over = json!(id(&second));
        r.by_create(
            ("metering_label_rule", &base),
            ("metering_label_id", &over),
            |r, _| {
                let mut seen = counted(r, &label, &a, &[&out, &other]);
                seen.extend(counted(r, id(&second), &a, &[&out]));
                seen
            },
        );
    }),
    entry("metering_label_rule.direction", |r| {
        let base = json!({"remote_ip_prefix": "10.0.0.0/24", "direction": "egress"});
        rule(r, &base, ("direction", json!("ingress")), false);
    }),
    entry("metering_label_rule.excluded", |r| {
        let base = json!({"remote_ip_prefix": "10.0.0.0/24", "direction": "egress"});
        rule(r, &base, ("excluded", json!(true)), false);
    }),
    entry("metering_label_rule.remote_ip_prefix", |r| {
        let base = json!({"remote_ip_prefix": "10.0.0.0/24"});
        rule(
            r,
            &base,
            ("remote_ip_prefix", json!("10.0.0.128/25")),
            false,
        );
    }),
    entry("metering_label_rule.source_ip_prefix", |r| {
        let base = json!({"destination_ip_prefix": "10.0.9.98/31", "direction": "egress"});
        rule(r, &base, ("source_ip_prefix", json!("10.0.0.128/25")), true);
    }),
    entry("metering_label_rule.destination_ip_prefix", |r| {
        let base = json!({"source_ip_prefix": "10.0.0.0/24", "direction": "egress"});
        rule(
            r,
            &base,
            ("destination_ip_prefix", json!("10.0.9.98/32")),
            true,
        );
    }),
];
