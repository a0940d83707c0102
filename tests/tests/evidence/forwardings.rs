//! What does each attribute of a port forwarding change?

use serde_json::{Value, json};
use tests::evidence::{Entry, Nic, Region, Seen, Sent, entry, id};

use crate::routers::gated;

/// A floating IP, a workload behind its router, another beside it, and one outside.
fn forwarded(r: &mut Region) -> (String, Nic, Nic, Nic) {
    let (_, a, outside, out) = gated(r);
    let b = r.show("port", &a.id);
    let net = b["network_id"].as_str().unwrap().to_owned();
    let b = r.plain(
        &net,
        &json!({"fixed_ips": [{"ip_address": "10.0.0.60"}, {"ip_address": "10.0.0.61"}]}),
    );
    let group = r.open();
    r.set("port", &b.id, &json!({"security_groups": [group]}));
    let ip = json!({"floating_network_id": outside.id, "floating_ip_address": "10.0.9.200"});
    let ip = r.make("floatingip", &ip);
    (
        format!("/v2.0/floatingips/{}/port_forwardings", id(&ip)),
        a,
        b,
        out,
    )
}

fn probed(r: &mut Region, out: &Nic) -> Seen {
    let to = "10.0.9.200".parse().unwrap();
    let sent = [
        Sent::Tcp(8080),
        Sent::Tcp(8081),
        Sent::Tcp(9000),
        Sent::Udp(8080),
    ];
    sent.iter()
        .flat_map(|what| r.talks(out, to, *what))
        .collect()
}

/// An attribute of a forwarding, changed and given at first; `base` says what is there before.
fn changes(r: &mut Region, base: impl Fn(&Nic, &Nic) -> Value, over: impl Fn(&Nic, &Nic) -> Value) {
    let (path, a, b, out) = forwarded(r);
    let (base, over) = (base(&a, &b), over(&a, &b));
    let whole = tests::evidence::with(&base, &over);
    let made = r.ok("POST", &path, &json!({"port_forwarding": base}));
    let one = format!("{path}/{}", id(&made["port_forwarding"]));
    r.differs(
        |r| {
            r.ok("PUT", &one, &json!({"port_forwarding": base}));
            probed(r, &out)
        },
        |r| {
            r.ok("PUT", &one, &json!({"port_forwarding": over}));
            probed(r, &out)
        },
    );
    r.ok("PUT", &one, &json!({"port_forwarding": over}));
    let later = probed(r, &out);
    r.ok("DELETE", &one, &Value::Null);
    let made = r.ok("POST", &path, &json!({"port_forwarding": whole}));
    assert_eq!(
        probed(r, &out),
        later,
        "to make it so is to change it later"
    );
    r.ok(
        "DELETE",
        &format!("{path}/{}", id(&made["port_forwarding"])),
        &Value::Null,
    );
}

/// What is forwarded at first.
fn one(a: &Nic, _: &Nic) -> Value {
    json!({
        "protocol": "tcp", "external_port": 8080, "internal_port": 80, "internal_port_id": a.id,
        "internal_ip_address": "10.0.0.11",
    })
}

/// The same by ranges.
fn run(a: &Nic, _: &Nic) -> Value {
    json!({
        "protocol": "tcp", "external_port_range": "8080:8080", "internal_port_range": "80:80",
        "internal_port_id": a.id, "internal_ip_address": "10.0.0.11",
    })
}

pub(crate) const TABLE: &[Entry] = &[
    entry("port_forwarding.external_port", |r| {
        changes(r, one, |_, _| json!({"external_port": 9000}));
    }),
    entry("port_forwarding.internal_port", |r| {
        changes(r, one, |_, _| json!({"internal_port": 443}));
    }),
    entry("port_forwarding.protocol", |r| {
        changes(r, one, |_, _| json!({"protocol": "udp"}));
    }),
    entry("port_forwarding.internal_port_id", |r| {
        changes(
            r,
            one,
            |_, b| json!({"internal_port_id": b.id, "internal_ip_address": "10.0.0.60"}),
        );
    }),
    entry("port_forwarding.internal_ip_address", |r| {
        let base = |_: &Nic, b: &Nic| {
            json!({
                "protocol": "tcp", "external_port": 8080, "internal_port": 80,
                "internal_port_id": b.id, "internal_ip_address": "10.0.0.60",
            })
        };
        changes(r, base, |_, _| json!({"internal_ip_address": "10.0.0.61"}));
    }),
    entry("port_forwarding.external_port_range", |r| {
        changes(
            r,
            run,
            |_, _| json!({"external_port_range": "8080:8081", "internal_port_range": "80:81"}),
        );
    }),
    entry("port_forwarding.internal_port_range", |r| {
        changes(r, run, |_, _| json!({"internal_port_range": "90:90"}));
    }),
    entry("port_forwarding.description", |r| {
        let (path, a, b, _) = forwarded(r);
        let made = r.ok("POST", &path, &json!({"port_forwarding": one(&a, &b)}));
        let one = format!("{path}/{}", id(&made["port_forwarding"]));
        let found = format!("{}?description=chosen", path.trim_start_matches("/v2.0/"));
        let look = |r: &mut Region, note: &str| {
            r.ok(
                "PUT",
                &one,
                &json!({"port_forwarding": {"description": note}}),
            );
            let found = r.read("admin", &found);
            vec![format!(
                "found {}",
                found["port_forwardings"].as_array().unwrap().len()
            )]
        };
        r.differs(|r| look(r, ""), |r| look(r, "chosen"));
    }),
];
