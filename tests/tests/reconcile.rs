//! A controller and its hosts in one process: they agree, whatever becomes of the streams between them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail loudly, and say how to run the same again"
)]

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use controller::{
    hosts::session::HangUp,
    resource::{Objects, Resource},
    resources::{
        Host, Network, Port, Trunk,
        port::{AddressPair, bindings::Deed},
    },
    store::{MemoryDisk, Read as _},
};
use hostconfig::{Location, Section, SectionKey};
use net::Now;
use serde_json::{Value, json};
use tests::control::{
    Region, intent,
    storm::{order, populated, storm},
};
use uuid::Uuid;
use vswitch::datapath::explain::{Entrance, explain};

/// Longer than any pause before a host dials again.
const SOON: Duration = Duration::from_secs(40);

/// A region in which all is as it should be, and nobody remembers how it came to be.
fn settled(seed: u64, hosts: u8) -> Region {
    let mut region = populated(seed, hosts);
    region.start();
    region.advance(SOON);
    region.assert_converged();
    region.forget();
    region
}

/// Says how to run the same again, if the test fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let filter = "test(whatever_breaks)";
            let seed = self.0;
            eprintln!("OVERWEAVE_SEED={seed} cargo nextest run -p tests -E '{filter}'");
        }
    }
}

#[test]
fn whatever_breaks_every_host_ends_up_with_what_the_store_says() {
    let number = |name| std::env::var(name).ok().map(|n: String| n.parse().unwrap());
    let (given, seconds) = (number("OVERWEAVE_SEED"), number("OVERWEAVE_SECONDS"));
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(10));
    let first = given.unwrap_or(1);
    for seed in first.. {
        let _replay = Replay(seed);
        storm(seed, 4, 120);
        if given.is_some() || Instant::now() >= end {
            eprintln!("seeds {first} to {seed}");
            break;
        }
    }
}

#[test]
fn a_seed_replays() {
    let (one, again) = (storm(3, 3, 60), storm(3, 3, 60));
    assert_eq!(one.trace, again.trace);
    assert!(one.trace.len() > 200, "{}", one.trace.len());
    assert_ne!(one.trace, storm(4, 3, 60).trace);
}

#[test]
fn a_trunk_moves_whole_and_each_of_its_ports_is_proved() {
    let mut region = settled(5, 3);
    let (parent, sub_port) = (
        port_at(&region, "h1").meta.id,
        port_at(&region, "h2").meta.id,
    );
    let made = region.order(move |view, at| {
        let sub_ports =
            [json!({"port_id": sub_port, "segmentation_type": "vlan", "segmentation_id": 101})];
        intent::create::<Trunk>(
            view,
            at,
            &json!({"port_id": parent, "sub_ports": sub_ports}),
        )
    });
    let trunk = made.unwrap();
    let says = |region: &mut Region, host: &str, status: &str| {
        region.advance(SOON);
        region.assert_converged();
        let port = region.brain().snapshot().object::<Port>(sub_port).unwrap();
        assert_eq!(
            (port.host.as_str(), region.status(sub_port).as_str()),
            (host, status)
        );
    };
    says(&mut region, "h1", "ACTIVE");
    let whole = region.brain().shown::<Trunk>(trunk, "status");
    assert_eq!(whole, json!("ACTIVE"));
    for (host, body, status) in [
        ("h3", json!({"binding:host_id": "h3"}), "ACTIVE"),
        ("", json!({"binding:host_id": ""}), "DOWN"),
        ("h2", json!({"binding:host_id": "h2"}), "ACTIVE"),
    ] {
        region
            .order(move |view, at| intent::update::<Port>(view, at, parent, &body))
            .unwrap();
        says(&mut region, host, status);
    }
    // Also of a host that comes back.
    region.kill_host("h2");
    region.advance(SOON);
    region.start_host("h2");
    says(&mut region, "h2", "ACTIVE");
    region
        .order(move |view, at| intent::delete::<Trunk>(view, at, trunk))
        .unwrap();
    says(&mut region, "", "DOWN");
}

/// The hosts that have the port itself, and those to whom it is elsewhere, with where.
fn seen(region: &Region, port: Uuid) -> (Vec<String>, Vec<(String, Location)>) {
    let (mut has, mut sees) = (Vec::new(), Vec::new());
    for (name, host) in &region.hosts {
        let config = host.machine.running().unwrap();
        let own = config.sections.contains_key(&SectionKey::Port(port.into()));
        if own {
            has.push(name.clone());
        }
        let endpoint = config.sections.get(&SectionKey::Endpoint(port.into()));
        if let Some(Section::Endpoint(endpoint)) = endpoint.map(|section| section.body()) {
            sees.push((name.clone(), endpoint.at));
        }
    }
    (has, sees)
}

/// What a live migration asks for.
#[test]
fn a_port_that_is_activated_elsewhere_is_there_for_all_hosts_at_once() {
    let mut region = settled(6, 3);
    let [from, to] = pair(&mut region, "h1");
    region.advance(SOON);
    region.assert_converged();
    let rebind = |region: &mut Region, deed: Deed| {
        region
            .order(move |view, at| intent::rebind(view, at, to, &deed))
            .unwrap();
        region.advance(SOON);
        region.assert_converged();
    };
    let owner = json!({"device_owner": "compute:nova"});
    region
        .order(move |view, at| intent::update::<Port>(view, at, to, &owner))
        .unwrap();
    region.advance(SOON);
    let before = seen(&region, to);
    assert_eq!(before.0, ["h1"]);
    region.forget();
    let host = json!({"host": "h2"});
    rebind(&mut region, Deed::Add(host.as_object().unwrap().clone()));
    assert_eq!(seen(&region, to), before, "nothing moved");
    let heard = |region: &Region| {
        let hosts = region.hosts.values();
        hosts.map(|host| host.heard.upserts.len()).sum::<usize>()
    };
    assert_eq!(heard(&region), 0, "no host heard of it");

    rebind(&mut region, Deed::Activate("h2".to_owned()));
    let (has, sees) = seen(&region, to);
    assert_eq!(has, ["h2"], "and no other");
    let old = sees.iter().find(|(name, _)| name == "h1").unwrap();
    assert_ne!(before.1.first().map(|(_, at)| at), Some(&old.1));
    assert_eq!(region.status(to), "ACTIVE");
    assert_eq!(region.status(from), "ACTIVE");
    let Location::Vtep(vtep) = old.1 else {
        panic!("it is somewhere")
    };
    assert_eq!(walked(&region, "h1")["to"], json!([vtep.to_string()]));
    // And back.
    rebind(&mut region, Deed::Activate("h1".to_owned()));
    assert_eq!(seen(&region, to), before);
    assert_eq!(walked(&region, "h1")["to"], json!([to.to_string()]));
}

/// A port that is bound to this host, and its network.
fn port_at(region: &Region, host: &str) -> Arc<Port> {
    let ports = region.brain().snapshot().objects::<Port>();
    let mut ports = ports.into_iter();
    ports.find(|port| port.host == host).unwrap()
}

fn rename(region: &mut Region, port: Uuid, name: &str) {
    let body = json!({"name": name});
    region
        .order(move |view, at| intent::update::<Port>(view, at, port, &body))
        .unwrap();
}

#[test]
fn a_host_that_comes_back_hears_what_changed_and_no_more() {
    let mut region = settled(1, 3);
    let port = port_at(&region, "h1").meta.id;
    region.hosts.get_mut("h1").unwrap().away = true;
    region.cut_host("h1");
    region.advance(SOON);
    rename(&mut region, port, "renamed");
    region.advance(SOON);
    region.forget();
    region.hosts.get_mut("h1").unwrap().away = false;
    region.advance(SOON);
    region.assert_converged();
    let heard = &region.hosts["h1"].heard;
    assert_eq!(heard.upserts, [SectionKey::Port(port.into()).to_string()]);
    assert_eq!(
        (heard.updates, heard.wholes, heard.removals.len()),
        (1, 0, 0)
    );
}

#[test]
fn a_change_reaches_the_hosts_that_it_concerns_and_no_other() {
    let mut region = settled(2, 4);
    let port = port_at(&region, "h2").meta.id;
    rename(&mut region, port, "renamed");
    region.advance(SOON);
    region.assert_converged();
    for (name, host) in &region.hosts {
        let sections = usize::from(name == "h2");
        assert_eq!(host.heard.upserts.len(), sections, "{name}");
        assert_eq!(host.heard.acks, sections, "{name}");
    }
}

#[test]
fn a_restarted_controller_finds_its_hosts_as_they_are() {
    let mut region = settled(3, 3);
    let before = region.brain().snapshot().revision();
    let port = port_at(&region, "h1").meta.id;
    let built = region.hosts["h1"].machine.tables().unwrap().version();
    region.kill_controller();
    region.advance(SOON);
    region.start_controller();
    assert_eq!(region.brain().snapshot().revision(), before);
    assert_eq!(
        region.status(port),
        "DOWN",
        "nobody has proved it to this process"
    );
    region.advance(SOON);
    region.assert_converged();
    for (name, host) in &region.hosts {
        assert!(host.heard.upserts.is_empty() && host.heard.removals.is_empty());
        assert_eq!(host.heard.wholes, 0, "{name}");
    }
    let now = region.hosts["h1"].machine.tables().unwrap().version();
    assert_eq!(now, built, "what ran before was not built again");
}

/// What becomes of a packet between two ports of one network and one host, by the host's own tables.
fn verdict(region: &Region, host: &str) -> Value {
    walked(region, host)["result"].clone()
}

/// How the first packet between a pair ends, as a host sees it.
fn walked(region: &Region, host: &str) -> Value {
    let tables = region.hosts[host]
        .machine
        .tables()
        .expect("it runs something");
    let packet = "icmp 10.0.1.250 > 10.0.1.251".parse().unwrap();
    let from = Entrance::Port("from".to_owned());
    let told = explain(&tables, &from, &packet, Now::ZERO).unwrap();
    serde_json::to_value(told).unwrap()["verdict"].clone()
}

/// Two ports on the first network at `host`, without port security.
fn pair(region: &mut Region, host: &str) -> [Uuid; 2] {
    let host = host.to_owned();
    let made = region.order(move |view, at| {
        let networks = view.objects::<Network>();
        let network = networks.iter().find(|n| n.meta.name == "n1").unwrap();
        let mut made = [Uuid::nil(); 2];
        for (port, (name, ip)) in made.iter_mut().zip([("from", 250), ("to", 251)]) {
            let body = json!({
                "name": name, "network_id": network.meta.id, "binding:host_id": host,
                "fixed_ips": [{"ip_address": format!("10.0.1.{ip}")}],
                "port_security_enabled": false,
            });
            *port = intent::create::<Port>(view, at, &body)?;
        }
        Ok(made)
    });
    made.unwrap()
}

#[test]
fn a_restarted_host_forwards_before_there_is_a_controller() {
    let mut region = settled(4, 2);
    let [from, _] = pair(&mut region, "h1");
    region.advance(SOON);
    region.assert_converged();
    assert_eq!(verdict(&region, "h1"), "delivered");
    region.kill_controller();
    region.kill_host("h1");
    region.start_host("h1");
    assert_eq!(verdict(&region, "h1"), "delivered");
    region.advance(SOON);
    assert!(region.hosts["h1"].machine.open().contains(&from.into()));
    // Both are new to each other, and nothing has to be said.
    region.forget();
    region.start_controller();
    region.advance(SOON);
    region.assert_converged();
    let heard = &region.hosts["h1"].heard;
    assert_eq!((heard.upserts.len(), heard.removals.len()), (0, 0));
}

#[test]
fn a_machine_that_lost_its_last_config_is_told_the_difference() {
    let mut region = settled(5, 2);
    let port = port_at(&region, "h1").meta.id;
    rename(&mut region, port, "flushed");
    region.advance(SOON);
    rename(&mut region, port, "lost");
    region.advance(Duration::from_millis(100));
    assert!(
        region.state_dir("h1").join("config.next").exists(),
        "not flushed yet"
    );
    region.crash("h1");
    region.forget();
    region.start_host("h1");
    region.advance(SOON);
    region.assert_converged();
    let heard = &region.hosts["h1"].heard;
    assert_eq!(heard.upserts, [SectionKey::Port(port.into()).to_string()]);
}

#[test]
fn a_restored_store_is_followed_though_its_generation_is_older() {
    let mut region = settled(6, 3);
    let port = port_at(&region, "h1").meta.id;
    let backup = region.brain().snapshot();
    for n in 0..5 {
        rename(&mut region, port, &format!("after the backup {n}"));
        region.advance(Duration::from_secs(1));
    }
    region.assert_converged();
    let restored = MemoryDisk::restored(&backup, Uuid::from_u128(2));
    region.forget();
    region.change_controller(Arc::new(restored));
    region.advance(SOON);
    region.assert_converged();
    let running = region.hosts["h1"].machine.running().unwrap();
    assert_eq!(running.incarnation, Uuid::from_u128(2));
    assert_eq!(running.generation.get(), backup.revision().get());
    // And by delta: the incarnations differ, most sections don't.
    assert_eq!(region.hosts["h1"].heard.upserts.len(), 1);
    assert!(region.hosts["h2"].heard.upserts.is_empty());
}

#[test]
fn a_controller_that_was_replaced_is_refused() {
    let mut region = settled(7, 2);
    let port = port_at(&region, "h1").meta.id;
    let (stale, backup) = (region.disk(), region.brain().snapshot());
    let restored = Arc::new(MemoryDisk::restored(&backup, Uuid::from_u128(2)));
    region.change_controller(Arc::<MemoryDisk>::clone(&restored));
    region.advance(SOON);
    region.assert_converged();
    // Somebody starts the old one again, and orders something there.
    region.change_controller(stale);
    rename(&mut region, port, "by the wrong one");
    let before = region.hosts["h1"].machine.running();
    // Also a host that was restarted meanwhile knows better.
    region.kill_host("h2");
    region.start_host("h2");
    region.advance(SOON);
    assert!(region.hosts["h1"].machine.running() == before);
    for host in region.hosts.values() {
        let running = host.machine.running().unwrap();
        assert_eq!(running.incarnation, Uuid::from_u128(2));
    }
    assert_eq!(region.status(port), "DOWN");
    region.change_controller(restored);
    region.advance(SOON);
    region.assert_converged();
}

#[test]
fn a_controller_that_lags_behind_its_hosts_tells_them_nothing_until_it_caught_up() {
    let mut region = settled(8, 2);
    let port = port_at(&region, "h1").meta.id;
    let old = region.brain().snapshot();
    rename(&mut region, port, "first");
    rename(&mut region, port, "second");
    region.advance(SOON);
    region.assert_converged();
    let before = region.hosts["h1"].machine.running().unwrap();
    // The same incarnation at an older revision: a disk that was put back.
    region.change_controller(Arc::new(MemoryDisk::restored(&old, old.incarnation())));
    region.forget();
    region.advance(SOON);
    assert!(region.hosts["h1"].machine.running().unwrap() == before);
    assert_eq!(region.hosts["h1"].heard.updates, 0);
    for n in 0..3 {
        rename(&mut region, port, &format!("again {n}"));
    }
    region.advance(SOON);
    region.assert_converged();
}

fn host_complaint(region: &Region, host: &str) -> Value {
    let id = region.hosts[host].id;
    region.brain().shown::<Host>(id, "complaint")
}

#[test]
fn a_section_that_a_host_refuses_keeps_its_port_down_and_is_told_of() {
    let mut region = settled(9, 2);
    let port = port_at(&region, "h1").meta.id;
    let key = SectionKey::Port(port.into());
    let machine = region.hosts["h1"].machine.clone();
    assert_eq!(host_complaint(&region, "h1"), Value::Null);
    machine.refuse(key, Some("no room in the table"));
    rename(&mut region, port, "refused");
    region.advance(SOON);
    assert_eq!(region.status(port), "DOWN");
    assert_eq!(
        host_complaint(&region, "h1"),
        json!(format!("{key}: no room in the table"))
    );
    assert_eq!(host_complaint(&region, "h2"), Value::Null);
    machine.refuse(key, None);
    rename(&mut region, port, "taken");
    region.advance(SOON);
    region.assert_converged();
    assert_eq!(host_complaint(&region, "h1"), Value::Null);
}

#[test]
fn a_host_that_cannot_keep_its_config_says_so() {
    let mut region = settled(10, 2);
    let port = port_at(&region, "h1").meta.id;
    // Where it would write first there is a directory: the disk does not take the config.
    let taken = region.state_dir("h1").join("config.next.new");
    std::fs::create_dir(&taken).unwrap();
    rename(&mut region, port, "not kept");
    region.advance(SOON);
    let complaint = host_complaint(&region, "h1");
    let text = complaint.as_str().unwrap_or_default();
    assert!(text.starts_with("not on this host's disk: "), "{complaint}");
    assert_eq!(region.status(port), "ACTIVE", "it forwards all the same");
    std::fs::remove_dir(&taken).unwrap();
    rename(&mut region, port, "kept");
    region.advance(SOON);
    region.assert_converged();
    assert_eq!(host_complaint(&region, "h1"), Value::Null);
}

#[test]
fn a_host_that_is_away_holds_nobody_up() {
    let mut region = settled(11, 3);
    let away = port_at(&region, "h3").meta.id;
    let here = port_at(&region, "h1");
    region.hosts.get_mut("h3").unwrap().away = true;
    region.cut_host("h3");
    let id = here.meta.id;
    rename(&mut region, id, "while it was away");
    region.advance(Duration::from_secs(2));
    region.assert_converged();
    assert_eq!(region.status(id), "ACTIVE");
    region.advance(SOON);
    assert_eq!(region.status(away), "DOWN", "nobody vouches for it");
    assert_eq!(region.status(id), "ACTIVE");
    let alive =
        |region: &Region, host: &str| region.brain().shown::<Host>(region.hosts[host].id, "alive");
    assert_eq!(
        (alive(&region, "h1"), alive(&region, "h3")),
        (json!(true), json!(false))
    );
}

/// Ports of h1 whose sections do not fit one message.
fn enlarge(region: &mut Region) {
    let ports = region.order(|view, _| {
        let ports = view.objects::<Port>();
        let ports: Vec<_> = ports.into_iter().filter(|p| p.host == "h1").collect();
        let pairs = 50_000 / u32::try_from(ports.len()).unwrap();
        for port in &ports {
            let mut port = Port::clone(port);
            let pairs = (0..pairs).map(|n| AddressPair {
                ip_address: net::Prefix::host(std::net::Ipv4Addr::from(0x0a00_0000 + n).into()),
                mac_address: Some(port.mac_address),
            });
            port.allowed_address_pairs = pairs.collect();
            view.put(Port::SPEC.key(port.meta.id), Arc::new(port));
        }
        Ok(ports.len())
    });
    assert!(ports.unwrap() > 2);
}

#[test]
fn of_a_config_in_parts_each_is_acknowledged_when_it_is_what_runs() {
    let mut region = settled(12, 2);
    enlarge(&mut region);
    region.advance(SOON);
    region.assert_converged();
    let heard = &region.hosts["h1"].heard;
    assert!(
        heard.updates >= 2,
        "one message was enough: {}",
        heard.updates
    );
    let distinct: BTreeSet<_> = heard.upserts.iter().collect();
    assert_eq!(
        distinct.len(),
        heard.upserts.len(),
        "each section was sent once"
    );
}

#[test]
fn of_a_config_that_was_cut_between_its_parts_the_rest_is_told() {
    let mut region = settled(12, 2);
    enlarge(&mut region);
    while region.hosts["h1"].heard.acks == 0 {
        region.advance(Duration::from_micros(100));
    }
    region.cut_host("h1");
    region.advance(SOON);
    region.assert_converged();
    assert_eq!(region.hosts["h1"].heard.wholes, 0);
}

#[test]
fn a_deleted_host_is_let_go_and_what_it_had_is_no_longer_told() {
    let mut region = settled(13, 3);
    let id = region.hosts["h3"].id;
    region
        .order(move |view, at| {
            for port in view.objects::<Port>() {
                if port.host == "h3" {
                    let unbound = json!({"binding:host_id": ""});
                    intent::update::<Port>(view, at, port.meta.id, &unbound)?;
                }
            }
            intent::delete::<Host>(view, at, id)
        })
        .unwrap();
    region.advance(SOON);
    assert!(
        region
            .hang_ups
            .iter()
            .all(|(host, why)| host == "h3" && *why == HangUp::Unknown)
    );
    assert!(!region.hang_ups.is_empty());
    region.kill_host("h3");
    region.hosts.get_mut("h3").unwrap().away = true;
    region.assert_converged();
    assert!(
        region
            .brain()
            .snapshot()
            .entry(&Host::SPEC.key(id))
            .is_none()
    );
}

#[test]
fn many_orders_at_once_are_few_updates() {
    let mut region = settled(14, 3);
    for _ in 0..60 {
        order(&mut region);
    }
    region.advance(SOON);
    region.assert_converged();
    for (name, host) in &region.hosts {
        assert!(host.heard.updates <= 30, "{name}: {}", host.heard.updates);
    }
}
