//! Real taps, real UDP, real programs. Needs root; one at a time (.config/nextest.toml).

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::json;
use tests::netns::{
    Lab, allowed, api, lab_file, left_of, overweave, printed, put, request, run, run_lab, until,
};

/// Every lab of `configs`: each has a test of its own below.
const LABS: &[&str] = &[
    "chains/appliance",
    "chains/appliance-far",
    "chains/appliance-probed",
    "chains/classes",
    "chains/graph",
    "chains/inspector",
    "chains/mirror",
    "chains/nat",
    "chains/rate-limiter",
    "chains/web-edge",
    "gateway",
    "kernel-vtep",
    "metadata",
    "mixed-v4-v6",
    "quickstart",
    "routed",
    "shared-rate",
    "three-hosts-chain",
    "trunk",
    "twenty-hosts",
    "two-tenants",
];

#[test]
fn no_lab_file_is_without_a_test() {
    let mut found = vec![];
    for folder in ["labs", "chains"] {
        let path = tests::netns::repository().join("configs").join(folder);
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            found.push(if folder == "labs" {
                stem
            } else {
                format!("{folder}/{stem}")
            });
        }
    }
    found.sort();
    assert_eq!(found, LABS);
}

fn holds(stem: &str) {
    holds_with(stem, "udp");
}

fn holds_with(stem: &str, uplink: &str) {
    assert!(LABS.contains(&stem), "{stem} is listed");
    if allowed() {
        let answer = run_lab(stem, uplink);
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
fn routers_lead_outside_by_their_gateway() {
    holds("gateway");
}

#[test]
fn a_trunks_sub_ports_go_by_their_parents_device() {
    holds("trunk");
}

#[test]
fn routers_join_networks_and_tenants_stay_apart() {
    holds("routed");
}

#[test]
fn routers_join_networks_over_an_uplink_tap() {
    holds_with("routed", "tap");
}

#[test]
fn sources_begin_as_many_connections_as_they_may() {
    holds("chains/rate-limiter");
}

#[test]
fn a_chain_works_with_client_members_and_a_third_party_on_three_hosts() {
    holds("three-hosts-chain");
}

#[test]
fn workloads_hear_of_themselves_with_a_router_and_without() {
    holds("metadata");
}

#[test]
fn both_families_work_on_one_network() {
    holds("mixed-v4-v6");
}

#[test]
fn twenty_hosts_reach_each_other() {
    holds("twenty-hosts");
}

#[test]
fn the_quickstart_holds_over_an_uplink_tap() {
    holds_with("quickstart", "tap");
}

#[test]
fn a_chain_works_on_three_hosts_over_an_uplink_tap() {
    holds_with("three-hosts-chain", "tap");
}

#[test]
fn both_families_work_over_an_uplink_tap() {
    holds_with("mixed-v4-v6", "tap");
}

#[test]
fn the_chain_with_every_key_holds() {
    holds("chains/web-edge");
}

#[test]
fn the_classes_of_a_shaper_hold() {
    holds("chains/classes");
}

#[test]
fn a_graph_of_chains_holds() {
    holds("chains/graph");
}

#[test]
fn a_chain_with_mirrors_holds() {
    holds("chains/mirror");
}

/// A capture that ends by itself when it has seen so many packets with SYN or FIN.
fn ends_after(lab: &Lab, place: &str, packets: usize) -> std::process::Child {
    let count = packets.to_string();
    let filter = "(ip and tcp and ip[33] & 3 != 0) or (ip6 and tcp and ip6[53] & 3 != 0)";
    let dump = ["tcpdump", "--immediate-mode", "-nn", "-i", "eth0"];
    let mut command = lab.command(place, &[&dump[..], &["-c", &count, filter]].concat());
    let piped = std::process::Stdio::piped;
    let mut child = command.stdout(piped()).stderr(piped()).spawn().unwrap();
    let mut told = std::io::BufReader::new(child.stderr.as_mut().unwrap());
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        std::io::BufRead::read_line(&mut told, &mut line).unwrap();
    }
    child
}

#[test]
fn mirrors_show_real_taps_of_this_host_and_another_both_directions() {
    if !allowed() {
        return;
    }
    let lab = Lab::up("chains/mirror", "t-mirror");
    // Each connection has four, two of each end's.
    let mut captures = ["near", "there"].map(|place| (place, ends_after(&lab, place, 40)));
    for v6 in [false, true] {
        let to = lab.addr("server", v6);
        let to = if v6 { format!("[{to}]") } else { to };
        for _ in 0..5 {
            lab.ok("client", &["curl", "-sf", &format!("http://{to}/")]);
        }
    }
    for (place, capture) in &mut captures {
        until(place, Duration::from_secs(10), || {
            capture.try_wait().unwrap().is_some()
        });
        let mut seen = String::new();
        let mut out = capture.stdout.take().unwrap();
        std::io::Read::read_to_string(&mut out, &mut seen).unwrap();
        for v6 in [false, true] {
            let server = lab.addr("server", v6);
            let asked = seen
                .lines()
                .filter(|l| l.contains(&format!("> {server}.80:")));
            let answered = seen
                .lines()
                .filter(|l| l.contains(&format!("{server}.80 >")));
            assert_eq!(
                (asked.count(), answered.count()),
                (10, 10),
                "{place}: {seen}"
            );
        }
    }
}

#[test]
fn what_inspectors_let_pass_holds() {
    holds("chains/inspector");
}

/// What real clients and servers say is read, whatever their kernels make of it.
#[test]
fn an_inspector_reads_what_real_clients_say() {
    if !allowed() {
        return;
    }
    let lab = Lab::up("chains/inspector", "t-inspector");
    let curl = |v6: bool, path: &str, more: &[&str]| {
        let to = lab.addr("server", v6);
        let to = if v6 { format!("[{to}]") } else { to };
        let url = format!("http://{to}/{path}");
        let ask = ["curl", "-sf", "--max-time", "2", &url];
        lab.exec("client", &[&ask, more].concat()).status.code()
    };
    for v6 in [false, true] {
        assert_eq!(curl(v6, "", &[]), Some(0));
        // 56: the connection was reset.
        assert_eq!(curl(v6, "secret", &[]), Some(56));
        // Beyond the depth it is not looked for.
        let late = format!("{}/secret", "x".repeat(1024));
        assert_ne!(curl(v6, &late, &[]), Some(56));
        // It is no HTTP: nothing is heard, not even by who waits.
        assert_eq!(curl(v6, "", &["-X", "BREW", "--max-time", "1"]), Some(28));
        // And a transfer in super-frames is cleared, and fast.
        assert_eq!(
            curl(v6, "", &["-H", &format!("X-Long: {}", "x".repeat(7000))]),
            Some(0)
        );
    }
    for (name, least) in [
        (
            "vswitch_drops_total{stage=\"chain\",reason=\"inspector_pattern\"",
            2,
        ),
        (
            "vswitch_drops_total{stage=\"chain\",reason=\"inspector_protocol\"",
            2,
        ),
        ("nfv_inspector_alerts_total", 4),
    ] {
        let counted = lab.metric("h1", name);
        assert!(counted >= least, "{name} {counted}");
    }
}

#[test]
fn workloads_of_a_host_share_a_rate() {
    holds("shared-rate");
}

#[test]
fn two_who_share_a_rate_have_it_together() {
    if !allowed() {
        return;
    }
    let lab = Lab::up("shared-rate", "t-shared-one");
    // Each offers more than it may have, all the time: how TCP meets its losses on a busy machine says nothing of the shares.
    let (a, b) = std::thread::scope(|scope| {
        let a = scope.spawn(|| lab.iperf_udp("server", "a", false, 6, "30M"));
        let b = lab.iperf_udp("server", "b", true, 6, "30M");
        (a.join().unwrap(), b)
    });
    // Of 20 Mbit/s each may have ten, but the second no more than eight. Headers are some 5 % of it; who began first had all of it until the other came.
    let share = b / (a + b);
    assert!(
        a + b < 20.2e6 && b < 8.1e6 && (0.33..0.43).contains(&share),
        "{a} {b}"
    );
}

#[test]
fn a_chain_through_appliances_holds() {
    holds("chains/appliance");
}

#[test]
fn a_chain_through_appliances_of_other_hosts_holds() {
    holds("chains/appliance-far");
}

/// The packets that the counters of an appliance's bridge have seen.
fn carried<const N: usize>(lab: &Lab, place: &str, counters: [&str; N]) -> [u64; N] {
    let table = lab.ok(place, &["nft", "list", "table", "bridge", "seen"]);
    counters.map(|name| {
        let from = table.find(&format!("counter {name} ")).unwrap();
        let counted = table[from..].split("packets ").nth(1).unwrap();
        counted.split(' ').next().unwrap().parse().unwrap()
    })
}

const TCP: [&str; 4] = ["to4", "from4", "to6", "from6"];

/// What an appliance's bridge counts.
const SEEN: &str = "table bridge seen {
        counter to4 {
        }
        counter from4 {
        }
        counter to6 {
        }
        counter from6 {
        }
        counter datagrams {
        }
        counter labelled {
        }
        chain c {
            type filter hook forward priority 0
            ip protocol tcp tcp dport 80 counter name to4
            ip protocol tcp tcp sport 80 counter name from4
            ip6 nexthdr tcp tcp dport 80 counter name to6
            ip6 nexthdr tcp tcp sport 80 counter name from6
            ip protocol udp counter name datagrams
            ip6 nexthdr udp counter name datagrams
            ether type 0x8847 counter name labelled
        }
    }";

/// Did the client get a page of this workload?
fn fetched(lab: &Lab, server: &str, v6: bool) -> bool {
    let to = lab.addr(server, v6);
    let url = if v6 {
        format!("http://[{to}]/")
    } else {
        format!("http://{to}/")
    };
    let args = ["curl", "-sf", "--max-time", "3", &url];
    lab.exec("client", &args).status.success()
}

/// Real TCP passes a real bridge between two taps, both ways; it fails as its group says, and comes back.
#[test]
fn connections_pass_an_appliance_and_it_fails_as_it_is_told() {
    if !allowed() {
        return;
    }
    let name = "t-appliance";
    let lab = Lab::up("chains/appliance", name);
    lab.ok("tagged", &["nft", SEEN]);
    lab.ok("probe", &["nft", SEEN]);
    let fetch = |v6: bool| fetched(&lab, "far", v6);
    assert!(fetch(false) && fetch(true));
    let first = carried(&lab, "probe", TCP);
    // A handshake, a page and an end, in both directions of both families.
    assert!(first.iter().all(|n| *n >= 3), "{first:?}");
    // The second one sees the same packets, each under its label.
    let [labelled] = carried(&lab, "tagged", ["labelled"]);
    assert!(labelled >= first.iter().sum(), "{labelled} of {first:?}");
    assert_eq!(carried(&lab, "tagged", TCP), [0; 4]);
    let port = |which: &str| {
        let found = api(name, &format!("ports?name={which}"));
        format!("ports/{}", found["id"].as_str().unwrap())
    };
    let up = |which: &str, is: bool| {
        put(
            name,
            "PUT",
            &port(which),
            &json!({"port": {"admin_state_up": is}}),
        );
    };
    let patience = Duration::from_secs(20);
    // The second one fails open: without it connections go on.
    up("tagged-out", false);
    let before = carried(&lab, "probe", TCP);
    assert!(fetch(false) && fetch(true));
    let after = carried(&lab, "probe", TCP);
    assert!(after.iter().zip(before).all(|(a, b)| *a > b), "{after:?}");
    up("tagged-out", true);
    // The first one fails closed.
    up("probe-out", false);
    until("nothing gets through", patience, || {
        !fetch(false) && !fetch(true)
    });
    let stopped = carried(&lab, "probe", TCP);
    assert!(!fetch(false) && !fetch(true));
    assert_eq!(carried(&lab, "probe", TCP), stopped);
    up("probe-out", true);
    until("it comes back", patience, || fetch(false) && fetch(true));
    let back = carried(&lab, "probe", TCP);
    assert!(back.iter().zip(stopped).all(|(a, b)| *a > b), "{back:?}");
}

#[test]
fn a_chain_through_probed_appliances_holds() {
    holds("chains/appliance-probed");
}

/// A bridge that passes nothing, though its ports are up, is found silent: others take over, with none nothing passes, and it comes back.
#[test]
fn an_appliance_that_is_silent_is_down_until_frames_pass_it() {
    if !allowed() {
        return;
    }
    let name = "t-silent";
    let lab = Lab::up("chains/appliance-probed", name);
    let pairs = ["one", "two"];
    for pair in pairs {
        lab.ok(pair, &["nft", SEEN]);
    }
    let is = |pair: &str, status: &str| {
        let port = api(name, &format!("ports?name={pair}"));
        let of = format!("sfc/port_pairs?ingress={}", port["id"].as_str().unwrap());
        api(name, &of)["operating_status"] == status
    };
    let bridge = |pair: &str, state: &str| {
        lab.ok(pair, &["ip", "link", "set", "br0", state]);
    };
    let patience = Duration::from_secs(20);
    let fetches = || (0..8).filter(|n| fetched(&lab, "far", n % 2 == 1)).count();
    until("both serve", patience, || {
        pairs.iter().all(|pair| is(pair, "ONLINE"))
    });
    assert_eq!(fetches(), 8);
    bridge("one", "down");
    until("one is found silent", patience, || is("one", "ERROR"));
    assert!(is("two", "ONLINE"));
    let before = carried(&lab, "two", TCP);
    assert_eq!(fetches(), 8, "the other takes all");
    let after = carried(&lab, "two", TCP);
    assert!(
        after.iter().zip(before).all(|(a, b)| *a >= b + 4),
        "{after:?}"
    );
    bridge("two", "down");
    until("both are", patience, || is("two", "ERROR"));
    assert_eq!(fetches(), 0, "the group is closed");
    bridge("one", "up");
    until("one is back", patience, || is("one", "ONLINE"));
    let before = carried(&lab, "one", TCP);
    assert_eq!(fetches(), 8);
    let after = carried(&lab, "one", TCP);
    assert!(
        after.iter().zip(before).all(|(a, b)| *a >= b + 4),
        "{after:?}"
    );
    assert!(is("two", "ERROR"));
}

/// What real kernels send passes bridges on two other hosts, both ways, whoever it is for.
fn connections_pass_appliances_of_other_hosts(name: &str, uplink: &str) {
    if !allowed() {
        return;
    }
    let mut lab = Lab::up_with(&lab_file("chains/appliance-far"), name, uplink);
    lab.ok("tagged", &["nft", SEEN]);
    lab.ok("probe", &["nft", SEEN]);
    // Servers on the client's host, on the first appliance's, on the second one's.
    for server in ["near", "beside", "far"] {
        let before = carried(&lab, "probe", TCP);
        let [labelled] = carried(&lab, "tagged", ["labelled"]);
        assert!(fetched(&lab, server, false) && fetched(&lab, server, true));
        let after = carried(&lab, "probe", TCP);
        // A handshake, a page and an end, in both directions of both families.
        let more: Vec<_> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        assert!(more.iter().all(|n| *n >= 3), "{server}: {more:?}");
        let [now] = carried(&lab, "tagged", ["labelled"]);
        assert!(now - labelled >= more.iter().sum(), "{server}");
    }
    assert_eq!(carried(&lab, "tagged", TCP), [0; 4]);
    // Whole transfers and datagrams, without a wrong checksum at their ends.
    for v6 in [false, true] {
        let errors = lab.checksum_errors("far");
        let to = lab.addr("far", v6);
        for (what, of) in [
            (&["-n", "20M"][..], "TCP"),
            (&["-u", "-b", "8M", "-n", "1M"], "UDP"),
        ] {
            let [datagrams] = carried(&lab, "probe", ["datagrams"]);
            let mut server = lab.iperf_server("far");
            let text = lab.ok("client", &[&["iperf3", "-J", "-c", &to], what].concat());
            assert!(server.wait().unwrap().success());
            let told: serde_json::Value = serde_json::from_str(&text).unwrap();
            let end = &told["end"];
            if of == "TCP" {
                let received = end["sum_received"]["bytes"].as_u64().unwrap();
                // What was under way when the client said that it had sent all is not counted.
                assert!(received >= 16 << 20, "{received} bytes");
            } else {
                let sum = &end["sum"];
                let [all, lost] = ["packets", "lost_packets"].map(|key| sum[key].as_u64().unwrap());
                assert!(all > 700 && lost * 10 < all, "{lost} of {all} lost");
                let [now] = carried(&lab, "probe", ["datagrams"]);
                let passed = now - datagrams;
                // Those that come together go in together, as many as 64 KiB hold.
                assert!(passed * 45 >= all - lost, "{passed} for {all}, {lost} lost");
            }
        }
        assert_eq!(lab.checksum_errors("far"), errors);
    }
    let port = |which: &str| {
        let found = api(name, &format!("ports?name={which}"));
        format!("ports/{}", found["id"].as_str().unwrap())
    };
    let up = |which: &str, is: bool| {
        let body = json!({"port": {"admin_state_up": is}});
        put(name, "PUT", &port(which), &body);
    };
    let patience = Duration::from_secs(20);
    let both = |lab: &Lab| fetched(lab, "near", false) && fetched(lab, "near", true);
    // The second one fails open, the first one closed, as if they were here.
    up("tagged-out", false);
    until("it is passed by", patience, || both(&lab));
    up("tagged-out", true);
    up("probe-out", false);
    until("nothing gets through", patience, || {
        !fetched(&lab, "near", false) && !fetched(&lab, "near", true)
    });
    up("probe-out", true);
    until("it comes back", patience, || both(&lab));
    // With its host's switch nothing passes the first one, and with the next switch all does.
    let command = lab.kill("h2");
    assert!(!fetched(&lab, "near", false) && !fetched(&lab, "near", true));
    lab.restart("h2", &command);
    until("its host is back", patience, || both(&lab));
    let seen = carried(&lab, "probe", TCP);
    assert!(both(&lab));
    let after = carried(&lab, "probe", TCP);
    assert!(after.iter().zip(seen).all(|(a, b)| *a > b), "{after:?}");
    // The other one fails open with its host, and is met again behind the next switch.
    let command = lab.kill("h3");
    until("what is gone is passed by", patience, || both(&lab));
    let [before] = carried(&lab, "tagged", ["labelled"]);
    lab.restart("h3", &command);
    until("what is back is met", patience, || {
        let [now] = carried(&lab, "tagged", ["labelled"]);
        both(&lab) && now > before
    });
}

#[test]
fn connections_pass_appliances_of_other_hosts_by_sockets() {
    connections_pass_appliances_of_other_hosts("t-elsewhere", "udp");
}

#[test]
fn connections_pass_appliances_of_other_hosts_beside_an_uplink_tap() {
    connections_pass_appliances_of_other_hosts("t-elsetap", "tap");
}

#[test]
fn a_nat_with_every_key_holds() {
    holds("chains/nat");
}

#[test]
fn a_kernel_vxlan_device_joins_a_fabric() {
    holds("kernel-vtep");
}

/// Where checksum and segmentation mistakes show: partial checksums and whole super-frames come from a kernel's VXLAN device.
#[test]
fn a_kernel_vxlan_device_is_a_vtep_both_ways() {
    if !allowed() {
        return;
    }
    let lab = Lab::up("kernel-vtep", "t-kernel-one");
    all_sizes_cross(&lab);
}

/// The same on an underlay that has no more than Ethernet's own 1500 bytes, one host on taps and one on sockets.
#[test]
fn a_kernel_vtep_and_a_switch_on_sockets_are_reached_over_an_uplink_tap() {
    if !allowed() {
        return;
    }
    let text = std::fs::read_to_string(lab_file("kernel-vtep")).unwrap();
    let text = text.replace("networks:\n", "underlay: {mtu: 1500}\nnetworks:\n");
    let dir = std::env::temp_dir().join(format!("overweave-uplink-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("narrow.yaml");
    std::fs::write(&file, text).unwrap();
    let mut lab = Lab::up_with(&file.display().to_string(), "t-uptap", "tap");
    std::fs::remove_dir_all(&dir).unwrap();
    all_sizes_cross(&lab);
    for host in ["h1", "h2"] {
        let of = |direction, path| lab.crossed(host, direction, path);
        assert!(of("rx", "tap") > 10 * of("rx", "socket"), "{host} reads");
        // Acknowledgements in bursts go through the sockets.
        assert!(of("tx", "tap") > 0, "{host} writes");
    }
    let mut command = lab.kill("h2");
    command.retain(|arg| !arg.starts_with("--uplink"));
    command.push("--uplink=udp".to_owned());
    lab.restart("h2", &command);
    let to_b = lab.addr("b", false);
    let ping = ["ping", "-c", "1", "-W", "1", &to_b];
    until("the host is back", Duration::from_secs(15), || {
        lab.exec("a", &ping).status.success()
    });
    all_sizes_cross(&lab);
    assert_eq!(lab.crossed("h2", "rx", "tap"), 0);
}

/// A killed switch leaves neither tap nor rule, so the host's own kernel answers; the next one goes on.
#[test]
fn an_uplink_tap_goes_with_its_process_and_comes_back_with_the_next() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::up_with(&lab_file("kernel-vtep"), "t-upkill", "tap");
    let taps = |lab: &Lab| lab.ok("h1", &["ip", "-o", "link"]).matches("ow-up").count();
    assert_eq!(taps(&lab), 1);
    let refused = |lab: &Lab| {
        let snmp = lab.ok("h1", &["cat", "/proc/net/snmp"]);
        let mut lines = snmp.lines().rev();
        let counts = lines.find_map(|l| l.strip_prefix("Udp: ")).unwrap();
        let no_ports = counts.split_whitespace().nth(1).unwrap();
        no_ports.parse::<u64>().unwrap()
    };
    let to_a = lab.addr("a", false);
    let ping = ["ping", "-c", "1", "-W", "1", &to_a];
    until("a answers", Duration::from_secs(15), || {
        lab.exec("k", &ping).status.success()
    });
    let before = (lab.crossed("h1", "rx", "tap"), refused(&lab));
    lab.ok("k", &ping);
    assert!(lab.crossed("h1", "rx", "tap") > before.0);
    assert_eq!(refused(&lab), before.1);
    let command = lab.kill("h1");
    assert_eq!(taps(&lab), 0);
    assert!(!lab.exec("k", &ping).status.success(), "no switch, no ping");
    assert!(refused(&lab) > before.1, "the kernel has the port again");
    lab.restart("h1", &command);
    until("the ping passes again", Duration::from_secs(15), || {
        lab.exec("k", &ping).status.success()
    });
    assert_eq!(taps(&lab), 1);
    // Somebody deletes the tap: the sockets take over.
    let link = lab.ok("h1", &["ip", "-o", "link"]);
    let at = link.find("ow-up").unwrap();
    let tap: String = link[at..].chars().take_while(|c| *c != ':').collect();
    lab.ok("h1", &["ip", "link", "del", &tap]);
    until("the sockets take over", Duration::from_secs(15), || {
        lab.exec("k", &ping).status.success()
    });
    assert!(lab.crossed("h1", "rx", "socket") > 0);
}

/// Pings of all sizes and streams between the three workloads of `kernel-vtep`, with no wrong checksum anywhere.
fn all_sizes_cross(lab: &Lab) {
    let places = ["a", "b", "k"];
    let before = places.map(|p| lab.checksum_errors(p));
    for v6 in [false, true] {
        for (from, to) in [("a", "k"), ("k", "a"), ("a", "b")] {
            let addr = lab.addr(to, v6);
            lab.ok(from, &["ping", "-c", "3", "-i", "0.05", "-W", "2", &addr]);
            // The largest that fits the network's MTU, and one that is cut into fragments.
            for size in ["1350", "1400", "4000"] {
                lab.ok(
                    from,
                    &[
                        "ping", "-c", "2", "-i", "0.05", "-W", "2", "-s", size, &addr,
                    ],
                );
            }
            let (rate, _) = lab.iperf(from, to, v6, 1);
            assert!(rate > 50e6, "{from} to {to}, v6 {v6}: {rate} bit/s");
        }
    }
    assert_eq!(
        places.map(|p| lab.checksum_errors(p)),
        before,
        "wrong checksums arrived"
    );
}

/// A workload whose own MTU is wrong, and an underlay that carries less than it promised: either way its kernel learns what fits.
#[test]
fn who_sends_more_than_fits_is_told_how_much_does() {
    if !allowed() {
        return;
    }
    let lab = Lab::up("mixed-v4-v6", "t-toobig");
    let told = |from: &str, v6: bool, size: &str| {
        let addr = lab.addr("b", v6);
        let ping = [
            "ping", "-M", "do", "-c", "2", "-i", "0.3", "-W", "1", "-s", size, &addr,
        ];
        let output = lab.exec(from, &ping);
        assert!(!output.status.success(), "{size} bytes do not fit");
        let both = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&both).into_owned()
    };
    lab.ok("a", &["ip", "link", "set", "dev", "eth0", "mtu", "9000"]);
    for (v6, says) in [
        (false, "Frag needed and DF set (mtu = 1506)"),
        (true, "Packet too big: mtu=1506"),
    ] {
        let text = told("a", v6, "3000");
        assert!(text.contains(says), "{text}");
        // The first error was enough for the kernel.
        assert!(text.contains("message too long"), "{text}");
        let addr = lab.addr("b", v6);
        let whole = ["ping", "-c", "1", "-W", "2", "-s", "3000", &addr];
        lab.ok("a", &whole);
    }
    for host in ["h1", "h2"] {
        let less = ["ip", "link", "set", "dev", "uplink", "mtu", "1450"];
        lab.ok(host, &less);
    }
    until(
        "the path's mtu is asked anew",
        Duration::from_secs(20),
        || told("c", false, "1450").contains("(mtu = 1400)"),
    );
    // Both kernels cut by themselves once they know: the answer's way is no wider.
    let addr = lab.addr("b", false);
    let whole = ["ping", "-c", "1", "-W", "1", "-s", "1450", &addr];
    until("both ends know the path", Duration::from_secs(20), || {
        lab.exec("c", &whole).status.success()
    });
}

/// A ping that goes on beside the test; its end says how many were lost.
/// So many seconds, twenty times a second. By their number: at a deadline ping calls lost what is still under way.
fn ping_beside(lab: &Lab, from: &str, to: &str, seconds: u32) -> std::process::Child {
    let addr = lab.addr(to, false);
    let count = (seconds * 20).to_string();
    lab.command(
        from,
        &["ping", "-i", "0.05", "-c", &count, "-W", "2", &addr],
    )
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

/// Does what a distribution's script does, and tells what it was told.
const UDHCPC_SCRIPT: &str = r#"#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface" && ip link set "$interface" mtu "$mtu" || exit 1
echo "told $ip $mask $mtu $serverid $router $staticroutes"
echo "named $hostname $domain $boot_file $bootfile $tftp $siaddr $ntpsrv"
"#;

#[test]
fn a_dhcp_client_is_told_what_the_api_says() {
    if !allowed() {
        return;
    }
    let name = "t-dhcp";
    let lab = Lab::up("mixed-v4-v6", name);
    let subnet = api(name, "subnets?cidr=10.30.0.0/24");
    let network = api(name, "networks?name=dual");
    let (addr, to) = (lab.addr("a", false), lab.addr("b", false));
    let ping = ["ping", "-c", "1", "-W", "1", &to];
    lab.ok("a", &ping);
    let port = || api(name, "ports?name=a");
    let id = port()["id"].as_str().unwrap().to_owned();
    let option = |name, value| json!({"opt_name": name, "opt_value": value});
    let options = [
        option("bootfile-name", "pxe.0"),
        option("tftp-server", "10.9.9.9"),
        option("server-ip-address", "10.9.9.8"),
        option("42", "10.9.9.7"),
    ];
    let body = json!({"port": {"dns_name": "web", "extra_dhcp_opts": options}});
    put(name, "PUT", &format!("ports/{id}"), &body);
    until(
        "the port is as it was asked for",
        Duration::from_secs(10),
        || port()["status"] == "ACTIVE",
    );
    lab.ok("a", &["ip", "-4", "addr", "flush", "dev", "eth0"]);
    lab.ok("a", &["ip", "link", "set", "eth0", "mtu", "1300"]);
    assert!(
        !lab.exec("a", &ping).status.success(),
        "no address, no ping"
    );

    let dir = std::env::temp_dir().join(format!("overweave-udhcpc-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let script = dir.join("told");
    std::fs::write(&script, UDHCPC_SCRIPT).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.display().to_string();
    // In the foreground, asks for the MTU too, ends with its lease or after eight seconds without.
    let udhcpc = [
        "udhcpc",
        "-f",
        "-q",
        "-n",
        "-t",
        "8",
        "-T",
        "1",
        "-O",
        "mtu",
        "-O",
        "staticroutes",
        "-O",
        "bootfile",
        "-O",
        "tftp",
        "-O",
        "ntpsrv",
        "-i",
        "eth0",
    ];
    let output = lab.exec("a", &[&udhcpc[..], &["-s", &script]].concat());
    std::fs::remove_dir_all(&dir).unwrap();
    let told = printed("udhcpc", &output);
    let named = told.lines().find_map(|l| l.strip_prefix("named "));
    let expected = "web openstacklocal pxe.0 pxe.0 10.9.9.9 10.9.9.8 10.9.9.7";
    assert_eq!(named, Some(expected));
    let told = told.lines().find_map(|l| l.strip_prefix("told "));
    let mtu = network["mtu"].as_u64().unwrap();
    // A lab's subnets have no router: so the server has an address of its own.
    assert!(subnet["gateway_ip"].is_null() && subnet["enable_dhcp"] == true);
    // And the metadata service is on the link.
    let all = format!("{addr} 24 {mtu} 169.254.169.254  169.254.169.254/32 0.0.0.0");
    assert_eq!(told.unwrap(), all);

    lab.ok("a", &ping);
    let link = lab.ok("a", &["ip", "-o", "link", "show", "eth0"]);
    assert!(link.contains(&format!("mtu {mtu} ")), "{link}");
}

/// Answers every question with one address, by UDP and by TCP.
const NAME_SERVER: &str = r#"
import socket, struct, threading
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 53))
tcp = socket.create_server(("", 53))
def answered(asked):
    end = asked.index(b"\0", 12) + 5
    of = struct.unpack("!H", asked[end - 4:end - 2])[0]
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\xc0\0\2\x4d" if of == 1 else b""
    head = asked[:2] + b"\x81\x80\0\1" + struct.pack("!H", int(of == 1)) + b"\0\0\0\0"
    return head + asked[12:end] + answer
def streams():
    while True:
        to, _ = tcp.accept()
        stream = to.makefile("rwb")
        answer = answered(stream.read(struct.unpack("!H", stream.read(2))[0]))
        stream.write(struct.pack("!H", len(answer)) + answer)
        stream.close()
        to.close()
threading.Thread(target=streams, daemon=True).start()
print("ready", flush=True)
while True:
    asked, whom = udp.recvfrom(4096)
    udp.sendto(answered(asked), whom)
"#;

/// What the C library makes of a name in a workload, by these name servers; empty: nothing.
fn resolved(workload: &str, kind: &str, name: &str) -> String {
    let output = Command::new("ip")
        .args([
            "netns", "exec", workload, "timeout", "8", "getent", kind, name,
        ])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What a test made outside of its lab; it goes with it, however that ends.
struct Left {
    dir: std::path::PathBuf,
    server: Option<std::process::Child>,
}

impl Drop for Left {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            drop(server.kill().and_then(|()| server.wait()));
        }
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// The workload of this port is a name server from now on: its subnet says so, and its group lets questions in.
fn name_server(name: &str, port: &serde_json::Value, v4: &str) {
    let group = port["security_groups"][0].clone();
    for protocol in ["udp", "tcp"] {
        let rule = json!({"security_group_rule": {
            "security_group_id": group, "direction": "ingress", "ethertype": "IPv4",
            "protocol": protocol, "port_range_min": 53, "port_range_max": 53,
            "project_id": port["project_id"],
        }});
        put(name, "POST", "security-group-rules", &rule);
    }
    let subnet = api(name, "subnets?cidr=10.30.0.0/24");
    let path = format!("subnets/{}", subnet["id"].as_str().unwrap());
    put(
        name,
        "PUT",
        &path,
        &json!({"subnet": {"dns_nameservers": [v4]}}),
    );
}

/// How many questions for names by TCP a workload's host answered so.
fn named(lab: &Lab, host: &str, by: &str) -> u64 {
    let metrics = lab.ok(host, &["curl", "-s", "http://127.0.0.1:9698/metrics"]);
    let name = format!("vswitch_metadata_names_total{{by=\"{by}\"}} ");
    let line = metrics.lines().find_map(|l| l.strip_prefix(&name));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn a_resolver_finds_ports_by_name_and_others_by_the_subnets_servers() {
    if !allowed() {
        return;
    }
    let name = "t-names";
    let lab = Lab::up("mixed-v4-v6", name);
    let workload = format!("{name}-a");
    let etc = std::path::Path::new("/etc/netns").join(&workload);
    let mut left = Left {
        dir: etc.clone(),
        server: None,
    };
    let by = |server: &str| {
        std::fs::create_dir_all(&etc).unwrap();
        let text =
            format!("nameserver {server}\nsearch openstacklocal\noptions timeout:2 attempts:2\n");
        std::fs::write(etc.join("resolv.conf"), text).unwrap();
    };
    let (v4, v6) = (lab.addr("b", false), lab.addr("b", true));
    let port = api(name, "ports?name=b");
    let path = format!("ports/{}", port["id"].as_str().unwrap());
    let called = |dns: &str| put(name, "PUT", &path, &json!({"port": {"dns_name": dns}}));
    called("db");
    for server in ["169.254.169.254", "fe80::a9fe:a9fe%eth0"] {
        by(server);
        let found = |of: &str| resolved(&workload, "ahosts", of);
        until("the name is known", Duration::from_secs(5), || {
            found("db").contains(&v4)
        });
        assert!(found("db").contains(&v6), "both families");
        for of in ["db.openstacklocal", "DB.OpenStackLocal."] {
            assert!(found(of).contains(&v4), "{of} by {server}");
        }
        let generated = format!("host-{}", v4.replace('.', "-"));
        assert!(found(&generated).contains(&v4), "{generated}");
        for addr in [&v4, &v6] {
            let back = resolved(&workload, "hosts", addr);
            assert!(back.contains("db.openstacklocal"), "{addr}: {back}");
        }
        assert_eq!(found("nobody"), "");
        assert_eq!(found("example.org"), "", "nobody is there to ask");
    }
    // Another name holds at once, and the old one no more.
    by("169.254.169.254");
    called("store");
    let since = std::time::Instant::now();
    until("the new name is known", Duration::from_secs(5), || {
        resolved(&workload, "ahosts", "store").contains(&v4)
    });
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(resolved(&workload, "ahosts", "db"), "");

    // A name server of the tenant's own.
    name_server(name, &port, &v4);
    let mut server = Command::new("ip")
        .args([
            "netns",
            "exec",
            &format!("{name}-b"),
            "python3",
            "-c",
            NAME_SERVER,
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 5];
    let mut says = server.stdout.take().unwrap();
    left.server = Some(server);
    std::io::Read::read_exact(&mut says, &mut word).unwrap();
    // By the switch, and by the server itself.
    let mut held = true;
    for by_whom in ["169.254.169.254", v4.as_str()] {
        by(by_whom);
        until("others are found", Duration::from_secs(10), || {
            resolved(&workload, "ahostsv4", "www.example.org").contains("192.0.2.77")
        });
        held &= resolved(&workload, "ahosts", "store").contains(&v4);
        held &= !resolved(&workload, "ahostsv4", "nobody.openstacklocal").contains("192.0.2.77");
    }
    assert!(held, "names hold whoever is asked");
    // IPv6 has no name server here: what the switch does not know it refuses.
    let asked = [
        ("169.254.169.254", "192.0.2.77", [1, 1, 1]),
        ("fe80::a9fe:a9fe%eth0", "5", [3, 1, 2]),
    ];
    for (server, other, counts) in asked {
        let heard = lab.exec("a", &["python3", "-c", ASK_BY_TCP, server]);
        let heard = printed(&format!("by TCP of {server}"), &heard);
        let heard: Vec<&str> = heard.lines().collect();
        assert_eq!(heard, [v4.as_str(), other], "{server}");
        let counted = || ["network", "server", "malformed"].map(|by| named(&lab, "h1", by));
        let is = || counted() == counts;
        until("each is counted", Duration::from_secs(5), is);
        assert_eq!(named(&lab, "h1", "failed"), 0);
    }
}

/// By one connection: a name that the switch knows, one that its name server knows if it has one, and what is no question, which ends it.
const ASK_BY_TCP: &str = r#"
import socket, struct, sys
to = socket.create_connection((sys.argv[1], 53), 3)
stream = to.makefile("rwb")
for name in ["store.openstacklocal", "www.example.org"]:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    asked = b"\0\7\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
    stream.write(struct.pack("!H", len(asked)) + asked)
    stream.flush()
    answer = stream.read(struct.unpack("!H", stream.read(2))[0])
    print(answer[3] & 15 or socket.inet_ntoa(answer[-4:]))
stream.write(b"\0\4none")
stream.flush()
assert stream.read() == b""
"#;

/// The kernel makes the address that the API gave its port, and believes in its router until that takes its leave.
#[test]
fn a_kernel_gets_its_address_and_its_router_by_advertisements() {
    if !allowed() {
        return;
    }
    let name = "t-ra";
    let lab = Lab::up("routed", name);
    let ip = |args: &[&str]| lab.ok("red-web", &[&["ip", "-6"], args].concat());
    let to_db = ["ping", "-c", "1", "-W", "1", "fd00:2::12"];
    lab.ok("red-web", &to_db);
    ip(&["addr", "flush", "dev", "eth0", "scope", "global"]);
    ip(&["route", "flush", "default"]);
    for conf in ["accept_ra", "autoconf"] {
        let path = format!("echo 1 > /proc/sys/net/ipv6/conf/eth0/{conf}");
        lab.ok("red-web", &["sh", "-c", &path]);
    }
    let port = |field: &str| api(name, "ports?name=red-web")[field].clone();
    let network = port("network_id");
    let of = port("project_id");
    let router = api(
        name,
        &format!("routers?project_id={}", of.as_str().unwrap()),
    );
    let router = router["id"].as_str().unwrap();
    let subnet = json!({"subnet": {
        "network_id": network, "project_id": of, "ip_version": 6, "cidr": "fd00:a::/64",
        "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac",
    }});
    let subnet = put(name, "POST", "subnets", &subnet)["id"].clone();
    let fixed = port("fixed_ips");
    let mut fixed = fixed.as_array().unwrap().iter();
    let own = fixed.find(|fixed| fixed["subnet_id"] == subnet).unwrap();
    let own = own["ip_address"].as_str().unwrap();
    let learnt = || ip(&["route", "show", "default", "proto", "ra"]);
    assert_eq!(learnt(), "", "no router speaks yet");
    let interface = |verb| {
        let path = format!("routers/{router}/{verb}_router_interface");
        put(name, "PUT", &path, &json!({"subnet_id": subnet}));
    };
    interface("add");
    until("the address is there", Duration::from_secs(10), || {
        let addrs = ip(&["-o", "addr", "show", "dev", "eth0", "dynamic"]);
        addrs.contains(&format!("{own}/64"))
    });
    let route = learnt();
    assert!(route.contains("default via fe80::"), "{route}");
    until(
        "what is beyond the router answers",
        Duration::from_secs(10),
        || lab.exec("red-web", &to_db).status.success(),
    );
    interface("remove");
    until("the router has gone", Duration::from_secs(5), || {
        learnt().is_empty()
    });
    let addrs = ip(&["-o", "addr", "show", "dev", "eth0", "dynamic"]);
    assert!(addrs.contains(own), "the address is its port's: {addrs}");
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

/// A lab of two hosts, a workload each, whose wires are this bad.
fn bad_wires(name: &str, underlay: &str, uplink: &str) -> Lab {
    let text = format!(
        "hosts: [h1, h2]
underlay: {underlay}
networks: [{{name: blue, cidr: 10.60.0.0/24}}]
workloads:
  - {{name: a, host: h1, network: blue, security_groups: [open]}}
  - {{name: b, host: h2, network: blue, security_groups: [open]}}
security_groups:
  open: [{{direction: ingress, protocol: tcp, port: 5201}}, {{direction: ingress, protocol: icmp}}]
"
    );
    let dir = std::env::temp_dir().join(format!("overweave-wires-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join(format!("{name}.yaml"));
    std::fs::write(&file, text).unwrap();
    let lab = Lab::up_with(&file.display().to_string(), name, uplink);
    std::fs::remove_dir_all(&dir).unwrap();
    lab
}

/// Pings b from a so often, a hundred a second; returns all that was printed, whether or not all answered.
fn pings(lab: &Lab, count: u32) -> String {
    let (count, to_b) = (count.to_string(), lab.addr("b", false));
    let ping = ["ping", "-i", "0.01", "-W", "2", "-c", &count, &to_b];
    String::from_utf8(lab.exec("a", &ping).stdout).unwrap()
}

/// The sequence numbers of the answers, in the order in which they came.
fn answers(printed: &str) -> Vec<u32> {
    let number = |line: &str| {
        let (_, rest) = line.split_once("icmp_seq=")?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let duplicate = |line: &&str| line.contains("DUP!");
    let lines = printed.lines().filter(|line| !duplicate(line));
    lines.filter_map(number).collect()
}

/// Whether the lab's own relay is at work: the kernel has no netem.
fn is_relayed(lab: &Lab) -> bool {
    let status = lab.status();
    let by = status["underlay"]["impaired_by"].as_str().unwrap();
    assert!(["kernel", "relay"].contains(&by), "{by}");
    by == "relay"
}

/// A tenth each way: 0.9 * 0.9 of 400 come back, 324, with a deviation of 7.8; the bounds are more than six of those.
#[test]
fn a_wire_that_loses_a_tenth_loses_about_a_tenth_and_tcp_gets_through() {
    if !allowed() {
        return;
    }
    let lab = bad_wires("t-loss", "{loss: 10%}", "udp");
    let came = answers(&pings(&lab, 400)).len();
    assert!((274..=374).contains(&came), "{came} of 400 came back");
    if is_relayed(&lab) {
        let mut share = 0.0;
        until("the relay tells", Duration::from_secs(10), || {
            let status = lab.status();
            let rows = status["relayed"].as_array().unwrap();
            let sum = |key: &str| {
                let of = rows.iter().map(|row| row[key].as_f64().unwrap());
                of.sum::<f64>()
            };
            share = sum("lost") / sum("entered");
            sum("entered") >= 700.0
        });
        assert!((0.04..0.16).contains(&share), "{share} of all frames");
    }
    let (rate, _) = lab.iperf("a", "b", false, 2);
    assert!(rate > 0.0);
}

/// Each host's way out takes 20 ms: there and back 40, also on a routed underlay and from an uplink tap.
#[test]
fn a_delay_is_met_once_each_way() {
    if !allowed() {
        return;
    }
    for (name, more, uplink) in [
        ("t-delay", "", "udp"),
        ("t-delayr", ", routed: true", "tap"),
    ] {
        let lab = bad_wires(name, &format!("{{delay: 20ms{more}}}"), uplink);
        let printed = pings(&lab, 20);
        assert_eq!(answers(&printed).len(), 20, "{printed}");
        let (_, times) = printed.split_once("rtt min/avg/max/mdev = ").unwrap();
        let (least, _) = times.split_once('/').unwrap();
        let least: f64 = least.parse().unwrap();
        assert!((40.0..60.0).contains(&least), "{name}: {least} ms");
    }
}

#[test]
fn a_wire_that_reorders_lets_some_overtake_and_loses_none() {
    if !allowed() {
        return;
    }
    let lab = bad_wires("t-reorder", "{delay: 50ms, reorder: 25%}", "udp");
    let mut came = answers(&pings(&lab, 200));
    assert!(!came.is_sorted(), "some overtook: {came:?}");
    came.sort_unstable();
    assert_eq!(came, (1..=200).collect::<Vec<u32>>());
}

/// By tbf alone, and by what also delays.
#[test]
fn a_rate_bounds_what_crosses() {
    if !allowed() {
        return;
    }
    for (name, underlay) in [
        ("t-rate", "{rate: 50mbit}"),
        ("t-rated", "{rate: 50mbit, delay: 2ms}"),
    ] {
        let lab = bad_wires(name, underlay, "udp");
        let (rate, _) = lab.iperf("a", "b", false, 4);
        assert!((35e6..51e6).contains(&rate), "{underlay}: {rate} bit/s");
    }
}

/// From a switch and from a kernel's VXLAN device: super-frames and unfinished checksums meet a bad wire packet by packet.
#[test]
fn super_frames_cross_a_bad_wire_in_packets_with_good_checksums() {
    if !allowed() {
        return;
    }
    let text = std::fs::read_to_string(lab_file("kernel-vtep")).unwrap();
    let text = text.replace("networks:\n", "underlay: {delay: 1ms}\nnetworks:\n");
    let dir = std::env::temp_dir().join(format!("overweave-super-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("super.yaml");
    std::fs::write(&file, text).unwrap();
    let lab = Lab::up_with(&file.display().to_string(), "t-super", "tap");
    std::fs::remove_dir_all(&dir).unwrap();
    let before = ["a", "k"].map(|place| lab.checksum_errors(place));
    for (from, to, host) in [("a", "k", "h1"), ("k", "a", "k1")] {
        let addr = lab.addr(to, false);
        lab.ok(from, &["ping", "-c", "2", "-W", "2", "-s", "4000", &addr]);
        let (rate, _) = lab.iperf(from, to, false, 1);
        assert!(rate > 5e6, "{from} to {to}: {rate} bit/s");
        if is_relayed(&lab) {
            let link = lab.ok(host, &["ip", "-j", "-s", "link", "show", "uplink"]);
            let link: serde_json::Value = serde_json::from_str(&link).unwrap();
            let sent = |what: &str| link[0]["stats64"]["tx"][what].as_u64().unwrap();
            let mean = sent("bytes") / sent("packets");
            assert!((700..=1614).contains(&mean), "{host}: {mean} bytes a frame");
        }
    }
    let after = ["a", "k"].map(|place| lab.checksum_errors(place));
    assert_eq!(after, before, "wrong checksums arrived");
}

/// Its taps go with it, `lab status` says that it is gone, and `lab down` finds nothing that it left.
#[test]
fn down_after_a_relay_that_was_killed_leaves_nothing() {
    if !allowed() {
        return;
    }
    let name = "t-relay";
    let lab = bad_wires(name, "{delay: 1ms}", "udp");
    if !is_relayed(&lab) {
        // The kernel does it all: there is no relay that could be killed.
        return;
    }
    let links = |place: &str| lab.ok(place, &["ip", "-o", "link"]);
    assert!(links("h1").contains(" uplink:") && links("controller").contains(" to1:"));
    lab.kill("relay");
    assert!(!links("h1").contains(" uplink:") && !links("controller").contains(" to1:"));
    let status = lab.status();
    let rows = status["processes"].as_array().unwrap();
    let relay = rows.iter().find(|row| row["process"] == "relay").unwrap();
    assert_eq!(relay["alive"], false);
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

/// A router counts what crosses its gateway, by the host that has it, also over that one's sudden end.
#[test]
fn what_leaves_by_a_gateway_is_counted_under_its_label() {
    if !allowed() {
        return;
    }
    let name = "t-meter";
    let mut lab = Lab::up("gateway", name);
    let gateway = api(name, "ports?device_owner=network:router_gateway");
    let host = gateway["binding:host_id"].as_str().unwrap().to_owned();
    let project = api(name, "routers")["project_id"].clone();
    let label = json!({"metering_label": {"name": "all", "project_id": project}});
    let label = put(name, "POST", "metering/metering-labels", &label)["id"].clone();
    for direction in ["ingress", "egress"] {
        let rule = json!({"metering_label_rule": {
            "metering_label_id": label, "direction": direction, "remote_ip_prefix": "10.0.0.0/24",
        }});
        put(name, "POST", "metering/metering-label-rules", &rule);
    }
    let metric = format!("vswitch_meter_packets_total{{label={label},");
    until("the host knows the label", Duration::from_secs(10), || {
        let metrics = lab.ok(&host, &["curl", "-s", "http://127.0.0.1:9698/metrics"]);
        metrics.contains(&metric)
    });
    let sum = || {
        let sums = request(name, "overweave/metering-sums", &[]);
        let sums = sums.as_array().unwrap().clone();
        let of = |field: &str| sums.iter().filter_map(|s| s[field].as_u64()).sum::<u64>();
        (of("packets"), of("bytes"))
    };
    let server = lab.addr("server", false);
    lab.ok("a", &["ping", "-c", "5", "-i", "0.2", &server]);
    // Five there and five back, of 84 bytes each.
    until("the API tells it", Duration::from_secs(20), || {
        sum() == (10, 840)
    });
    let command = lab.kill(&host);
    lab.restart(&host, &command);
    until("it goes on", Duration::from_secs(20), || {
        lab.exec("a", &["ping", "-c", "1", "-W", "1", &server])
            .status
            .success()
    });
    let (before, _) = sum();
    lab.ok("a", &["ping", "-c", "5", "-i", "0.2", &server]);
    until(
        "what it counted before is still there",
        Duration::from_secs(20),
        || {
            let (packets, bytes) = sum();
            packets >= 22.max(before) && bytes == packets * 84 && packets % 2 == 0
        },
    );
}
