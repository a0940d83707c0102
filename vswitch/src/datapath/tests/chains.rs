//! Do chains do what they say, with their functions, translations and queues?

use std::time::Duration;

use hostconfig::{
    Firewall, FunctionKind, Location, Shaper,
    chain::{Action, FirewallRule, Side},
};
use net::{
    DropReason, Headers, PortRange,
    testkit::{FrameBuilder, mac, tcp},
};

use super::harness::*;

const CHAIN: u128 = 8000;
const VIP: u16 = 50;

fn firewall(deny: Option<u16>) -> FunctionKind {
    let rules = deny.map(|port| FirewallRule {
        id: id(7777),
        action: Action::Deny,
        family: None,
        protocol: Some(6),
        source: None,
        destination: None,
        source_ports: Some(PortRange::one(port)),
        destination_ports: None,
    });
    FunctionKind::Firewall(Firewall {
        rules: rules.into_iter().collect(),
        default: Action::Allow,
    })
}

fn balancer(v6: bool, members: &[u16]) -> FunctionKind {
    let members: Vec<_> = members.iter().map(|n| (*n, 8080)).collect();
    FunctionKind::LoadBalancer(balanced((VIP, v6), &members))
}

fn shaper(rate_bps: u64, queue_bytes: u64) -> FunctionKind {
    FunctionKind::Shaper(Shaper {
        rate_bps,
        burst_bytes: 1500,
        queue_bytes,
        queue: hostconfig::Discipline::Fifo,
        share: None,
        classes: Vec::new(),
    })
}

fn conf() -> Conf {
    let mut conf = Conf::new();
    conf.web(6, 8080).port(1, &[GROUP]).port(2, &[GROUP]).far(9);
    conf.endpoint(VIP, Location::Virtual);
    conf
}

/// Source, destination and Ethernet addresses of a frame.
fn ends(frame: &[u8]) -> (String, String, net::Mac, net::Mac) {
    let (_, key) = Headers::parse(frame).unwrap();
    let t = key.five_tuple().unwrap();
    let end = |a: std::net::IpAddr, p: u16| format!("{a} {p}");
    (
        end(t.src_addr(), t.src_port),
        end(t.dst_addr(), t.dst_port),
        key.src_mac(),
        key.dst_mac(),
    )
}

fn of(n: u16, v6: bool, port: u16) -> String {
    format!("{} {port}", ip(n, v6))
}

#[test]
fn a_balanced_connection_reaches_a_local_member_and_comes_back_as_the_virtual_address() {
    for v6 in [false, true] {
        let mut c = conf();
        c.chain(CHAIN, 80, vec![firewall(None), balancer(v6, &[2])]);
        let mut h = Host::new(&c);
        let got = h.from(1, &syn(v6, (1, 4000), (VIP, 80)));
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].0, At::Port(2));
        let member = (of(1, v6, 4000), of(2, v6, 8080), mac(1), mac(2));
        assert_eq!(ends(&got[0].1), member);
        let got = h.from(2, &syn_ack(v6, (2, 8080), (1, 4000)));
        assert_eq!(got[0].0, At::Port(1));
        let client = (of(VIP, v6, 80), of(1, v6, 4000), mac(VIP), mac(1));
        assert_eq!(ends(&got[0].1), client);
        let before = h.dp.counters().lookups;
        for _ in 0..3 {
            let got = h.from(1, &ack(v6, (1, 4000), (VIP, 80)));
            assert_eq!(ends(&got[0].1), member);
        }
        let after = h.dp.counters().lookups;
        assert_eq!(
            (after.upcall, after.exact),
            (before.upcall, before.exact + 3)
        );
        // Five packets passed both hops, the answer too.
        assert!(
            h.dp.counters()
                .hops
                .iter()
                .all(|hop| hop.packets == 5 && hop.drops == 0)
        );
        // Elsewhere at the virtual address there is nobody.
        assert_eq!(h.places(1, &syn(v6, (1, 4000), (VIP, 81))), []);
        assert_eq!(h.dropped(DropReason::NoListener), 1);
    }
}

#[test]
fn a_remote_member_sees_the_client_and_its_answer_is_translated_at_the_clients() {
    for v6 in [false, true] {
        let mut c = conf();
        c.chain(CHAIN, 80, vec![balancer(v6, &[9])]);
        let mut h = Host::new(&c);
        let got = h.from(1, &syn(v6, (1, 4000), (VIP, 80)));
        assert_eq!(got[0].0, At::Vtep(REMOTE.into()));
        assert_eq!(
            ends(&got[0].1),
            (of(1, v6, 4000), of(9, v6, 8080), mac(1), mac(9))
        );
        let back = syn_ack(v6, (9, 8080), (1, 4000)).build();
        let got = h.enter(h.tunnel(), &[back]);
        assert_eq!(got[0].0, At::Port(1));
        assert_eq!(
            ends(&got[0].1),
            (of(VIP, v6, 80), of(1, v6, 4000), mac(VIP), mac(1))
        );
        // The member's host refuses the port: what it quotes is what the client sent.
        let sent = ack(v6, (1, 4000), (9, 8080)).build();
        let got = h.enter(h.tunnel(), &[FrameBuilder::icmp_error(&sent)]);
        assert_eq!(got.len(), 1);
        let (headers, key) = Headers::parse(&got[0].1).unwrap();
        assert_eq!(key.src_addr(), ip(VIP, v6));
        let quoted = headers.quoted(&got[0].1).unwrap().tuple;
        assert_eq!((quoted.dst_addr(), quoted.dst_port), (ip(VIP, v6), 80));
        assert_eq!(key.src_mac(), mac(VIP));
    }
}

#[test]
fn on_the_members_host_the_chain_is_not_run_again() {
    let mut c = conf();
    c.chain(CHAIN, 8080, vec![firewall(Some(4000))]);
    let mut h = Host::new(&c);
    assert_eq!(
        h.tunnelled(&syn(false, (9, 4000), (2, 8080))),
        [At::Port(2)]
    );
    assert!(h.dp.counters().hops.iter().all(|hop| hop.packets == 0));
    assert_eq!(h.places(1, &syn(false, (1, 4000), (2, 8080))), []);
    assert_eq!(h.dropped(DropReason::FirewallDenied), 1);
}

#[test]
fn a_client_that_is_its_own_member_talks_to_itself_through_the_virtual_address() {
    for v6 in [false, true] {
        let mut c = conf();
        c.chain(CHAIN, 80, vec![balancer(v6, &[1])]);
        let mut h = Host::new(&c);
        let got = h.from(1, &syn(v6, (1, 4000), (VIP, 80)));
        assert_eq!(
            got.len(),
            1,
            "{:?}",
            h.dp.drops().iter().collect::<Vec<_>>()
        );
        assert_eq!(got[0].0, At::Port(1));
        assert_eq!(
            ends(&got[0].1),
            (of(VIP, v6, 4000), of(1, v6, 8080), mac(VIP), mac(1))
        );
        let back = syn_ack(v6, (1, 8080), (VIP, 4000));
        let got = h.from(1, &back);
        assert_eq!(
            ends(&got[0].1),
            (of(VIP, v6, 80), of(1, v6, 4000), mac(VIP), mac(1))
        );
    }
}

#[test]
fn a_denied_connection_names_its_rule_and_counts_at_its_hop() {
    let mut c = conf();
    c.chain(CHAIN, 80, vec![firewall(Some(666)), balancer(false, &[2])]);
    let mut h = Host::new(&c);
    assert_eq!(h.places(1, &syn(false, (1, 666), (VIP, 80))), []);
    assert_eq!(h.places(1, &syn(false, (1, 666), (VIP, 80))), []);
    let record = h.dp.drops().iter().next().unwrap();
    assert_eq!(record.refusal.rule, Some(id(7777)));
    assert_eq!(record.packets, 2);
    let hops = &h.dp.counters().hops;
    assert_eq!((hops[0].packets, hops[0].drops), (2, 2));
    assert!(hops.get(1).is_none_or(|hop| hop.packets == 0));
    // The second was refused without a walk.
    assert_eq!(h.dp.counters().lookups.upcall, 1);
}

#[test]
fn a_chain_is_replaced_under_traffic_and_members_are_kept() {
    let mut c = conf();
    c.port(3, &[GROUP]);
    c.chain(CHAIN, 80, vec![firewall(None), balancer(false, &[2, 3])]);
    let mut h = Host::new(&c);
    let member = |at: &[(At, Vec<u8>)]| at.first().map(|(at, _)| at.clone());
    let mut chosen = vec![];
    for port in 4000..4032 {
        chosen.push(member(&h.from(1, &syn(false, (1, port), (VIP, 80)))).unwrap());
    }
    assert!(chosen.contains(&At::Port(2)) && chosen.contains(&At::Port(3)));
    for (port, at) in (4000..).zip(&chosen) {
        let At::Port(n) = at else { unreachable!() };
        h.from(*n, &syn_ack(false, (*n, 8080), (1, port)));
    }
    // A member more, another order of functions, a rule more: whoever is still allowed stays where it was.
    c.port(4, &[GROUP]);
    c.chain(
        CHAIN,
        80,
        vec![balancer(false, &[2, 3, 4]), firewall(Some(4007))],
    );
    h.apply(&c);
    for (port, at) in (4000..).zip(&chosen) {
        let got = member(&h.from(1, &ack(false, (1, port), (VIP, 80))));
        assert_eq!(got, (port != 4007).then(|| at.clone()), "{port}");
    }
    assert_eq!(h.dropped(DropReason::FirewallDenied), 1);
    assert_eq!(h.dp.conntrack().len(), 31);
}

#[test]
fn a_chain_for_a_destination_runs_at_its_receiver() {
    let mut c = conf();
    c.chain_of(
        CHAIN,
        None,
        Some(Side::Port(id(2))),
        8080,
        vec![firewall(Some(666))],
    );
    let mut h = Host::new(&c);
    assert_eq!(h.tunnelled(&syn(false, (9, 666), (2, 8080))), []);
    assert_eq!(h.tunnelled(&syn(false, (9, 667), (2, 8080))), [At::Port(2)]);
    assert_eq!(h.places(1, &syn(false, (1, 666), (2, 8080))), []);
    assert_eq!(h.tunnelled(&syn(false, (9, 666), (1, 8080))), [At::Port(1)]);
    assert_eq!(h.dropped(DropReason::FirewallDenied), 2);
}

#[test]
fn a_virtual_address_named_as_destination_is_balanced_at_the_clients() {
    let mut c = conf();
    c.chain_of(
        CHAIN,
        None,
        Some(Side::Port(id(u128::from(VIP)))),
        80,
        vec![balancer(false, &[2])],
    );
    let mut h = Host::new(&c);
    let got = h.from(1, &syn(false, (1, 4000), (VIP, 80)));
    assert_eq!(got[0].0, At::Port(2));
    let got = h.from(2, &syn_ack(false, (2, 8080), (1, 4000)));
    assert_eq!(ends(&got[0].1).0, of(VIP, false, 80));
}

#[test]
fn a_shaper_delays_before_it_drops_and_keeps_its_rate() {
    let mut c = conf();
    // 1 Mbit/s: 125 bytes a millisecond.
    c.chain(CHAIN, 8080, vec![shaper(1_000_000, 10_000)]);
    let mut h = Host::new(&c);
    let first = syn(false, (1, 4000), (9, 8080));
    assert_eq!(h.places(1, &first).len(), 1, "the bucket was full");
    assert_eq!(h.dp.ledger().held, 0);
    let answer = syn_ack(false, (9, 8080), (1, 4000)).payload(&[0; 946]);
    assert_eq!(h.tunnelled(&answer).len(), 1, "answers have their own");
    assert_eq!(h.tunnelled(&answer), [], "and wait too: it is symmetric");
    h.pass(Duration::from_millis(100));
    let (got, wake) = h.tick();
    assert_eq!((got.len(), wake.is_some()), (1, true));
    let data = ack(false, (1, 4000), (9, 8080)).payload(&[0; 946]);
    let at_once: usize = (0..31).map(|_| h.from(1, &data).len()).sum();
    // One frame was in the bucket's credit; ten thousand bytes wait, the rest was dropped.
    assert_eq!(at_once, 1);
    assert_eq!(h.dropped(DropReason::ShaperQueueFull), 20);
    assert_eq!(h.dp.ledger().held, 10);
    let mut bytes = 0;
    for _ in 0..80 {
        let (got, wake) = h.tick();
        bytes += got.iter().map(|(_, f)| f.len()).sum::<usize>();
        assert!(h.dp.ledger().held == 0 || wake.unwrap() > h.now);
        h.pass(Duration::from_millis(1));
    }
    assert_eq!((bytes, h.dp.ledger().held), (10_000, 0));
    let hop = &h.dp.counters().hops[0];
    assert_eq!(hop.drops, 20);
}

#[test]
fn what_waits_is_dropped_by_name_at_the_end_and_goes_on_when_its_chain_is_gone() {
    let mut c = conf();
    c.chain(CHAIN, 8080, vec![shaper(8_000, 10_000)]);
    let mut h = Host::new(&c);
    let open = |port| syn(false, (1, port), (9, 8080)).payload(&[0; 1000]);
    for port in 0..4 {
        h.from(1, &open(4000 + port));
    }
    h.tick();
    assert_eq!(h.dp.ledger().held, 3);
    c.0.sections
        .remove(&hostconfig::SectionKey::Chain(id(CHAIN)));
    h.apply(&c);
    h.tick();
    h.pass(Duration::from_millis(1));
    h.tick();
    assert_eq!((h.dp.ledger().held, h.sent.len()), (0, 4));
    let mut h = Host::new(conf().chain(CHAIN, 8080, vec![shaper(8_000, 10_000)]));
    for port in 0..4 {
        h.from(1, &open(4000 + port));
    }
    h.dp.drain(h.now, &mut h.pool);
    assert_eq!(h.dropped(DropReason::Shutdown), 3);
    h.dp.ledger().balanced().unwrap();
}

#[test]
fn each_direction_has_the_shapers_whole_rate() {
    let mut c = conf();
    // 1 Mbit/s: a frame of 1,000 bytes takes 8 ms.
    c.chain(CHAIN, 8080, vec![shaper(1_000_000, 20_000)]);
    let mut h = Host::new(&c);
    h.places(1, &syn(false, (1, 4000), (9, 8080)));
    h.tick();
    h.tunnelled(&syn_ack(false, (9, 8080), (1, 4000)));
    h.pass(Duration::from_millis(100));
    h.tick();
    let there = ack(false, (1, 4000), (9, 8080)).payload(&[0; 946]);
    let back = ack(false, (9, 8080), (1, 4000)).payload(&[0; 946]);
    for _ in 0..10 {
        h.from(1, &there);
        h.tunnelled(&back);
    }
    let (mut sent, mut fetched) = (0, 0);
    for _ in 0..40 {
        for (at, frame) in h.tick().0 {
            match at {
                At::Port(_) => fetched += frame.len(),
                At::Vtep(_) | At::Wire(_) => sent += frame.len(),
            }
        }
        h.pass(Duration::from_millis(1));
    }
    // 40 ms, and at most what the bucket held and one frame of debt.
    for bytes in [sent, fetched] {
        assert!((5_000..=7_000).contains(&bytes), "{sent} {fetched}");
    }
}

#[test]
fn a_hop_knows_its_connections_and_which_bytes_are_replies() {
    let mut c = conf();
    c.chain(CHAIN, 80, vec![balancer(false, &[2])]);
    let mut h = Host::new(&c);
    for port in [4000, 4001] {
        h.from(1, &syn(false, (1, port), (VIP, 80)));
        h.from(2, &syn_ack(false, (2, 8080), (1, port)));
        h.from(1, &ack(false, (1, port), (VIP, 80)));
    }
    let hop = h.dp.counters().hops[0];
    assert_eq!((hop.connections, hop.packets, hop.reply_packets), (2, 6, 2));
    assert_eq!((hop.reply_bytes, hop.bytes), (108, 6 * 54));
    h.pass(Duration::from_secs(2));
    h.tick();
    assert_eq!(h.dp.counters().hops[0].active, 2);
    let reset = between(FrameBuilder::tcp(false, 4000, 80), false, 1, VIP);
    h.from(1, &reset.flags(tcp::RST | tcp::ACK).seq(101, 501));
    h.pass(Duration::from_secs(2));
    h.tick();
    assert_eq!(h.dp.counters().hops[0].active, 1, "what is over is none");
    h.pass(Duration::from_hours(720));
    h.tick();
    let hop = h.dp.counters().hops[0];
    assert_eq!((hop.active, hop.connections), (0, 2));
}

#[test]
fn each_hop_of_a_thousand_chains_counts_its_own() {
    const CHAINS: u16 = 1_000;
    let mut c = conf();
    for n in 0..CHAINS {
        // Each tenth refuses, at its second hop.
        let second = firewall((n % 10 == 0).then_some(4000));
        c.chain(
            CHAIN + u128::from(n),
            1_000 + n,
            vec![firewall(None), second],
        );
    }
    // Whom the receiver's group lets in.
    c.port(3, &[]);
    let mut h = Host::new(&c);
    for n in 0..CHAINS {
        for v6 in [false, true] {
            for _ in 0..=n % 3 {
                h.from(1, &syn(v6, (1, 4000), (3, 1_000 + n)));
            }
        }
    }
    // Not in any.
    h.from(1, &syn(false, (1, 4000), (3, 1_000 + CHAINS)));
    let mut counted = std::collections::BTreeMap::new();
    for (at, hop) in (0u32..).zip(&h.dp.counters().hops) {
        let of = h.tables.hop(crate::datapath::HopId(at)).unwrap();
        let key = (of.chain.uuid().as_u128(), of.function.uuid().as_u128());
        counted.insert(key, (hop.packets, hop.drops));
    }
    assert_eq!(counted.len(), 2 * usize::from(CHAINS));
    for n in 0..CHAINS {
        let chain = CHAIN + u128::from(n);
        let packets = u64::from(n % 3 + 1) * 2;
        let refused = if n % 10 == 0 { packets } else { 0 };
        assert_eq!(counted[&(chain, chain * 100)], (packets, 0), "{n}");
        assert_eq!(
            counted[&(chain, chain * 100 + 1)],
            (packets, refused),
            "{n}"
        );
    }
}

#[test]
fn a_graph_branches_by_what_the_chain_before_made_of_a_connection() {
    for v6 in [false, true] {
        let mut c = conf();
        // The first makes 8080 of port 80: so the second's classifier matches, and the third's does not.
        c.chain(CHAIN, 80, vec![balancer(v6, &[2])]);
        c.chain(CHAIN + 1, 8080, vec![firewall(Some(666))]);
        c.chain(CHAIN + 2, 80, vec![firewall(Some(4000))]);
        c.in_graph(CHAIN, 0, &[CHAIN + 2, CHAIN + 1]);
        c.in_graph(CHAIN + 1, 1, &[]).in_graph(CHAIN + 2, 1, &[]);
        let mut h = Host::new(&c);
        assert_eq!(
            h.places(1, &syn(v6, (1, 4000), (VIP, 80))),
            [At::Port(2)],
            "what it was is not asked"
        );
        assert_eq!(
            h.places(2, &syn_ack(v6, (2, 8080), (1, 4000))),
            [At::Port(1)]
        );
        assert_eq!(h.places(1, &syn(v6, (1, 666), (VIP, 80))), []);
        assert_eq!(h.dropped(DropReason::FirewallDenied), 1);
        let counted: Vec<u64> = h.dp.counters().hops.iter().map(|hop| hop.packets).collect();
        // Question, answer and the refused one; the third chain is met by none.
        assert_eq!(counted, [3, 3]);
        // What lies deeper has no entrance of its own.
        assert_eq!(
            h.places(1, &syn(v6, (1, 666), (2, 8080))),
            [At::Port(2)],
            "by no chain"
        );
    }
}

#[test]
fn a_branch_that_changes_judges_connections_again() {
    let mut c = conf();
    c.chain(CHAIN, 8080, vec![firewall(None)]);
    c.chain(CHAIN + 1, 8080, vec![firewall(Some(4000))]);
    c.in_graph(CHAIN, 0, &[]).in_graph(CHAIN + 1, 1, &[]);
    let mut h = Host::new(&c);
    let there = |h: &mut Host| h.places(1, &ack(false, (1, 4000), (2, 8080)));
    assert_eq!(
        h.places(1, &syn(false, (1, 4000), (2, 8080))),
        [At::Port(2)]
    );
    assert_eq!(
        h.places(2, &syn_ack(false, (2, 8080), (1, 4000))),
        [At::Port(1)]
    );
    assert_eq!(there(&mut h), [At::Port(2)]);
    // One that it names and that is not there matches nothing; once it comes, it does.
    c.in_graph(CHAIN, 0, &[CHAIN + 7, CHAIN + 1]);
    h.apply(&c);
    assert_eq!(there(&mut h), []);
    assert_eq!(h.dropped(DropReason::FirewallDenied), 1);
    c.in_graph(CHAIN, 0, &[CHAIN + 7]);
    h.apply(&c);
    assert_eq!(
        h.places(1, &syn(false, (1, 4001), (2, 8080))),
        [At::Port(2)]
    );
    c.chain(CHAIN + 7, 8080, vec![firewall(Some(4001))]);
    c.in_graph(CHAIN + 7, 1, &[]);
    h.apply(&c);
    assert_eq!(h.places(1, &ack(false, (1, 4001), (2, 8080))), []);
}

#[test]
fn sections_that_name_each_other_make_no_loop() {
    let mut c = conf();
    for n in 0..3 {
        c.chain(CHAIN + n, 8080, vec![firewall(None)]);
    }
    let all = [CHAIN, CHAIN + 1, CHAIN + 2];
    c.in_graph(CHAIN, 0, &all).in_graph(CHAIN + 1, 1, &all);
    c.in_graph(CHAIN + 2, 1, &all);
    let mut h = Host::new(&c);
    assert_eq!(
        h.places(1, &syn(false, (1, 4000), (2, 8080))),
        [At::Port(2)]
    );
    let counted: Vec<u64> = h.dp.counters().hops.iter().map(|hop| hop.packets).collect();
    assert_eq!(counted, [1, 1]);
}
