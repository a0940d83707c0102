//! DHCPv6, judged by a client that others wrote: `dhclient`. Needs root; one at a time (.config/nextest.toml).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tests::netns::{Lab, allowed, api, printed, put, until};

/// What a distribution's script does with a lease, less its resolver's file, and what it was told.
const SCRIPT: &str = r#"#!/bin/sh
case "$reason" in
BOUND6|RENEW6|REBIND6)
    ip -6 addr replace "$new_ip6_address/${new_ip6_prefixlen:-128}" dev "$interface" || exit 1
    echo "told $new_ip6_address $new_dhcp6_name_servers $new_dhcp6_domain_search" ;;
RELEASE6|EXPIRE6|STOP6)
    ip -6 addr del "$old_ip6_address/${old_ip6_prefixlen:-128}" dev "$interface"
    echo "left $old_ip6_address" ;;
PREINIT6)
    echo "asks" ;;
*)
    echo "$reason $new_dhcp6_name_servers $new_dhcp6_domain_search" ;;
esac
exit 0
"#;

/// A client of a workload; what it keeps is gone with it.
struct Client<'a> {
    lab: &'a Lab,
    workload: &'a str,
    dir: PathBuf,
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        // The client that waits for its next renewal.
        let pid = self.dir.join("pid").display().to_string();
        let end = ["dhclient", "-6", "-x", "-pf", &pid, "eth0"];
        drop(self.lab.exec(self.workload, &end));
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

impl<'a> Client<'a> {
    fn new(lab: &'a Lab, workload: &'a str) -> Self {
        let dir = std::env::temp_dir().join(format!("overweave-dhclient-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let script = dir.join("script");
        std::fs::write(&script, SCRIPT).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.join("conf"), "timeout 15;\n").unwrap();
        Self { lab, workload, dir }
    }

    /// Runs it once, and what its script said.
    fn asks(&self, more: &[&str]) -> String {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let (script, conf, leases, pid) =
            (file("script"), file("conf"), file("leases"), file("pid"));
        let fixed = [
            "timeout", "30", "dhclient", "-6", "-1", "-v", "-sf", &script, "-cf", &conf, "-lf",
            &leases, "-pf", &pid,
        ];
        let output = self
            .lab
            .exec(self.workload, &[&fixed[..], more, &["eth0"]].concat());
        printed("dhclient", &output)
    }
}

/// A subnet of the workload's network, with these modes and an address of its port there, and the router that tells of it.
fn subnet(lab: &str, cidr: &str, mode: &str) -> String {
    let port = || api(lab, "ports?name=red-web");
    let (network, project) = (port()["network_id"].clone(), port()["project_id"].clone());
    let router = api(
        lab,
        &format!("routers?project_id={}", project.as_str().unwrap()),
    );
    let body = json!({"subnet": {
        "network_id": network, "project_id": project, "ip_version": 6, "cidr": cidr,
        "ipv6_ra_mode": mode, "ipv6_address_mode": mode, "dns_nameservers": ["fd00:53::53"],
    }});
    let subnet = put(lab, "POST", "subnets", &body)["id"].clone();
    let own = |fixed: &Value| fixed["subnet_id"] == subnet;
    let mut fixed = port()["fixed_ips"].as_array().unwrap().clone();
    if !fixed.iter().any(own) {
        fixed.push(json!({"subnet_id": subnet}));
        let path = format!("ports/{}", port()["id"].as_str().unwrap());
        put(lab, "PUT", &path, &json!({"port": {"fixed_ips": fixed}}));
    }
    let path = format!(
        "routers/{}/add_router_interface",
        router["id"].as_str().unwrap()
    );
    put(lab, "PUT", &path, &json!({"subnet_id": subnet}));
    let fixed = port()["fixed_ips"].as_array().unwrap().clone();
    let address = fixed.iter().find(|fixed| own(fixed)).unwrap()["ip_address"].clone();
    address.as_str().unwrap().to_owned()
}

#[test]
fn a_client_gets_its_ports_address_keeps_it_and_gives_it_back() {
    if !allowed() {
        return;
    }
    let name = "t-dhcp6";
    let lab = Lab::up("routed", name);
    let to_db = ["ping", "-c", "1", "-W", "1", "fd00:2::12"];
    lab.ok(
        "red-web",
        &[
            "ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global",
        ],
    );
    lab.ok("red-web", &["ip", "-6", "route", "flush", "default"]);
    assert!(!lab.exec("red-web", &to_db).status.success());
    for conf in ["accept_ra", "autoconf"] {
        let path = format!("echo 1 > /proc/sys/net/ipv6/conf/eth0/{conf}");
        lab.ok("red-web", &["sh", "-c", &path]);
    }
    let address = subnet(name, "fd00:a::/64", "dhcpv6-stateful");
    until("a router speaks", Duration::from_secs(10), || {
        let route = ["ip", "-6", "route", "show", "default", "proto", "ra"];
        lab.ok("red-web", &route).contains("default via fe80::")
    });
    // The client speaks from it, once the kernel knows that nobody else has it.
    until(
        "the link's own address is sure",
        Duration::from_secs(10),
        || {
            let sure = [
                "ip",
                "-6",
                "-o",
                "addr",
                "show",
                "dev",
                "eth0",
                "scope",
                "link",
                "-tentative",
            ];
            lab.ok("red-web", &sure).contains("fe80::")
        },
    );
    let client = Client::new(&lab, "red-web");
    let told = client.asks(&[]);
    let expected = format!("told {address} fd00:53::53");
    assert!(told.contains(&expected), "{told}");
    until("what is beyond answers", Duration::from_secs(10), || {
        lab.exec("red-web", &to_db).status.success()
    });
    let left = client.asks(&["-r"]);
    assert!(left.contains(&format!("left {address}")), "{left}");
    let told = client.asks(&[]);
    assert!(told.contains(&expected), "it is its port's again: {told}");
}
