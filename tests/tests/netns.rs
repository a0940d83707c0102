//! Real taps, real UDP, real programs. Needs root; one at a time (.config/nextest.toml).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use tests::netns::{Lab, allowed, lab_file, left_of, overweave, printed, run, run_lab, until};

fn holds(stem: &str) {
    if allowed() {
        let answer = run_lab(stem);
        assert_eq!(answer["held"], true);
        assert!(!answer["expectations"].as_array().unwrap().is_empty());
    }
}

#[test]
fn the_quickstart_holds() {
    holds("quickstart");
}

#[test]
fn tenants_with_the_same_addresses_do_not_meet() {
    holds("two-tenants");
}

#[test]
fn a_chain_works_with_client_members_and_a_third_party_on_three_hosts() {
    holds("three-hosts-chain");
}

#[test]
fn both_families_work_on_one_network() {
    holds("mixed-v4-v6");
}

#[test]
fn twenty_hosts_reach_each_other() {
    holds("twenty-hosts");
}

/// Where checksum and segmentation mistakes show: partial checksums and whole super-frames come from a kernel's VXLAN device.
#[test]
fn a_kernel_vxlan_device_is_a_vtep_both_ways() {
    if !allowed() {
        return;
    }
    let lab = Lab::up("kernel-vtep", "t-kernel");
    let places = ["a", "b", "k"];
    let before = places.map(|p| lab.checksum_errors(p));
    for v6 in [false, true] {
        for (from, to) in [("a", "k"), ("k", "a"), ("a", "b")] {
            let addr = lab.addr(to, v6);
            lab.ok(from, &["ping", "-c", "3", "-i", "0.2", "-W", "2", &addr]);
            // The largest that fits the network's MTU, and one that is cut into fragments.
            for size in ["1400", "4000"] {
                lab.ok(
                    from,
                    &["ping", "-c", "2", "-i", "0.2", "-W", "2", "-s", size, &addr],
                );
            }
            let (rate, _) = lab.iperf(from, to, v6, 2);
            assert!(rate > 50e6, "{from} to {to}, v6 {v6}: {rate} bit/s");
        }
    }
    assert_eq!(
        places.map(|p| lab.checksum_errors(p)),
        before,
        "wrong checksums arrived"
    );
}

/// A ping that goes on beside the test; its end says how many were lost.
fn ping_beside(lab: &Lab, from: &str, to: &str, seconds: u32) -> std::process::Child {
    let addr = lab.addr(to, false);
    let wait = seconds.to_string();
    lab.command(from, &["ping", "-i", "0.05", "-w", &wait, &addr])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn lost_and_sent(child: std::process::Child) -> (u32, u32) {
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text
        .lines()
        .find(|l| l.contains("packets transmitted"))
        .unwrap();
    let number = |at: usize| {
        line.split_whitespace()
            .nth(at)
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    let (sent, received) = (number(0), number(3));
    (sent - received, sent)
}

#[test]
fn a_controller_that_dies_costs_no_packet_and_comes_back() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::up("mixed-v4-v6", "t-ctl");
    let ping = ping_beside(&lab, "a", "b", 8);
    let command = lab.kill("controller");
    lab.restart("controller", &command);
    let up = "the controller answers again, and every port is ACTIVE";
    until(up, Duration::from_secs(30), || {
        let status = lab.status();
        let rows = status["workloads"].as_array().unwrap().clone();
        rows.iter().all(|w| w["status"] == "ACTIVE")
    });
    let (lost, sent) = lost_and_sent(ping);
    assert!(sent > 100);
    assert_eq!(lost, 0, "of {sent}");
}

#[test]
fn a_vswitch_that_dies_comes_back_with_its_ports_and_connections() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::up("kernel-vtep", "t-vsw");
    let before = lab.ok("a", &["ip", "-o", "addr", "show"]);
    // A connection that lives through it: iperf's own timeouts are longer than the gap.
    let mut server = lab.iperf_server("k");
    let addr = lab.addr("k", false);
    let stream = lab
        .command("a", &["iperf3", "-J", "-c", &addr, "-t", "10"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let to_b = lab.addr("b", false);
    let ping = ["ping", "-c", "1", "-W", "1", &to_b];
    lab.ok("a", &ping);
    let command = lab.kill("h1");
    assert!(!lab.exec("a", &ping).status.success(), "no switch, no ping");
    lab.restart("h1", &command);
    until("the ping passes again", Duration::from_secs(15), || {
        lab.exec("a", &ping).status.success()
    });
    let done = stream.wait_with_output().unwrap();
    let text = printed("the stream over the restart", &done);
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let intervals = answer["intervals"].as_array().unwrap();
    let last = intervals.last().unwrap()["sum"]["bits_per_second"]
        .as_f64()
        .unwrap();
    assert!(last > 0.0, "the connection goes on after the restart");
    assert!(server.wait().unwrap().success());
    let strip = |t: &str| {
        t.replace("valid_lft", "\n")
            .lines()
            .next()
            .unwrap_or("")
            .to_owned()
    };
    let after = lab.ok("a", &["ip", "-o", "addr", "show"]);
    assert_eq!(strip(&before), strip(&after), "addresses untouched");
}

#[test]
fn down_after_everything_was_killed_leaves_nothing() {
    if !allowed() {
        return;
    }
    let name = "t-crash";
    let lab = Lab::up("quickstart", name);
    for (_, pid) in lab.processes() {
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
        assert!(killed.unwrap().success());
    }
    printed("lab down", &run(&["lab", "down", "--name", name]));
    assert_eq!(left_of(name), Vec::<String>::new());
    std::mem::forget(lab);
}

/// The command that brings a lab up is killed in the middle of it.
#[test]
fn down_after_a_lab_that_was_killed_while_it_came_up_leaves_nothing() {
    if !allowed() {
        return;
    }
    let name = "t-half";
    let file = lab_file("quickstart");
    let mut up = Command::new(overweave())
        .args(["lab", "up", &file, "--name", name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let first = format!("/run/netns/{name}-client");
    until("its namespaces are there", Duration::from_secs(20), || {
        std::path::Path::new(&first).exists()
    });
    up.kill().unwrap();
    up.wait().unwrap();
    assert!(!left_of(name).is_empty(), "it was killed before it ended");
    printed("lab down", &run(&["lab", "down", "--name", name]));
    assert_eq!(left_of(name), Vec::<String>::new());
}

/// A bad file is refused with one line, and nothing is half made.
#[test]
fn a_bad_lab_file_leaves_nothing() {
    if !allowed() {
        return;
    }
    let text = std::fs::read_to_string(lab_file("quickstart")).unwrap();
    let broken = [
        ("unknown-key", text.replace("hosts:", "hots:")),
        ("no-function", text.replace("- shaper:", "- sharper:")),
        ("outside", text.replace("10.0.0.50", "10.9.0.50")),
    ];
    for (what, text) in broken {
        let dir = std::env::temp_dir().join(format!("overweave-bad-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("bad.yaml");
        std::fs::write(&file, text).unwrap();
        let name = format!("t-{what}");
        let output = run(&["lab", "run", &file.display().to_string(), "--name", &name]);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(!output.status.success(), "{what}");
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        assert_eq!(error.lines().count(), 1, "one line for {what}: {error}");
        assert_eq!(left_of(&name), Vec::<String>::new());
    }
}
