//! What do a port's kind of device, its further bindings, and what it says of its workload change?

use serde_json::{Value, json};
use tests::evidence::{Entry, Nic, Region, Seen, entry, with};

/// A workload `a`, and the port of a compute service on the first host: its bindings' path, and its workload where it is and where it may be.
fn moving(r: &mut Region) -> (Nic, String, [Nic; 2]) {
    let (net, a, _) = r.pair();
    let computes = json!({"device_owner": "compute:nova"});
    let here = r.nic_with(&net, 0, 13, &computes);
    let there = Nic {
        host: 1,
        ..here.clone()
    };
    let path = format!("/v2.0/ports/{}/bindings", here.id);
    (a, path, [here, there])
}

/// What each of its devices can send.
fn sent(r: &mut Region, a: &Nic, devices: &[Nic]) -> Seen {
    let all = devices.iter();
    all.flat_map(|device| {
        let seen = r.pings(device, a).into_iter();
        seen.map(|line| format!("from h{}: {line}", device.host + 1))
            .collect::<Vec<_>>()
    })
    .collect()
}

fn activate(r: &mut Region, path: &str, host: &str) {
    r.ok("PUT", &format!("{path}/{host}/activate"), &Value::Null);
}

pub(crate) const TABLE: &[Entry] = &[
    entry("binding.host", |r| {
        let (a, path, devices) = moving(r);
        let mut away = false;
        r.differs(
            |r| {
                if std::mem::replace(&mut away, true) {
                    activate(r, &path, "h1");
                    r.ok("DELETE", &format!("{path}/h2"), &Value::Null);
                }
                sent(r, &a, &devices)
            },
            |r| {
                r.ok("POST", &path, &json!({"binding": {"host": "h2"}}));
                activate(r, &path, "h2");
                sent(r, &a, &devices)
            },
        );
        // Renamed it is another host's.
        r.ok("POST", &path, &json!({"binding": {"host": "h3"}}));
        let look = |r: &mut Region, name: &str| {
            let named = json!({"binding": {"host": name}});
            r.ok("PUT", &format!("{path}/h3"), &named);
            let second = format!("{path}/h2");
            let (status, _) = r.call("admin", "PUT", &format!("{second}/activate"), &Value::Null);
            let mut seen = vec![format!("{status}")];
            seen.extend(sent(r, &a, &devices));
            if status == 200 {
                activate(r, &path, "h1");
                r.ok("PUT", &second, &json!({"binding": {"host": "h3"}}));
            }
            seen
        };
        r.differs(|r| look(r, "h3"), |r| look(r, "h2"));
    }),
    entry("binding.vnic_type", |r| {
        let (a, path, devices) = moving(r);
        let here = format!("{path}/h1");
        let kind = |r: &mut Region, kind: &str| {
            let made = r.ok("PUT", &here, &json!({"binding": {"vnic_type": kind}}));
            let mut seen = vec![made["binding"]["vif_type"].to_string()];
            seen.extend(sent(r, &a, &devices));
            seen
        };
        r.differs(|r| kind(r, "normal"), |r| kind(r, "direct"));
        // What could not be attached there is no place to go.
        let ask = |r: &mut Region, kind: &str| {
            let body = json!({"binding": {"host": "h2", "vnic_type": kind}});
            let (status, _) = r.call("admin", "POST", &path, &body);
            if status == 201 {
                activate(r, &path, "h2");
            }
            let mut seen = vec![format!("{status}")];
            seen.extend(sent(r, &a, &devices));
            if status == 201 {
                activate(r, &path, "h1");
                r.ok("DELETE", &format!("{path}/h2"), &Value::Null);
            }
            seen
        };
        r.differs(|r| ask(r, "normal"), |r| ask(r, "direct"));
    }),
    entry("port.binding:vnic_type", |r| {
        let (net, a, _) = r.pair();
        let base = r.nic_body(&net, 2, 13);
        r.both(
            ("port", &base),
            ("binding:vnic_type", &json!("direct")),
            |r, made| {
                let c = r.workload(made, &net, 2, 13);
                let mut seen = vec![
                    r.shown("port", &c.id, "binding:vif_type"),
                    r.shown("port", &c.id, "status"),
                ];
                seen.extend(r.pings(&a, &c));
                seen
            },
        );
    }),
    entry("port.overweave:metadata", |r| {
        let net = r.net(0);
        let base = r.nic_body(&net, 0, 11);
        let base = with(&base, &json!({"device_id": "i-0"}));
        let told = json!({
            "instance_id": "i-1", "hostname": "web.example.org", "user_data": "I2Nsb3VkLWNvbmZpZwo=",
            "public_keys": {"me": "ssh-ed25519 AAAA me@home"},
        });
        r.both(("port", &base), ("overweave:metadata", &told), |r, made| {
            let a = r.workload(made, &net, 0, 11);
            let pages = [
                "/latest/meta-data/instance-id",
                "/latest/meta-data/hostname",
                "/latest/meta-data/public-keys/0/openssh-key",
                "/latest/user-data",
            ];
            let pages = pages.iter();
            pages.flat_map(|path| r.page(&a, path)).collect()
        });
    }),
];
