//! Do packets pass appliances on other hosts as they pass those of their own?

use std::{collections::VecDeque, net::IpAddr};

use hostconfig::{
    FunctionKind, Location, Section, Vteps,
    chain::{Failure, Instance, Place, Side},
};
use net::{
    DropReason, Id, Label, Origin, Vni,
    testkit::{FrameBuilder, mac, tcp},
};
use overlay::Nsh;

use super::{super::Settings, harness::*, several::vtep};

const CHAIN: u128 = 8000;
const VIP: u16 = 50;
const CLIENT: u16 = 1;
const SERVER: u16 = 2;
const OTHER: u16 = 3;
/// Ingress and egress ports of instances.
const A: (u16, u16) = (11, 12);
const B: (u16, u16) = (13, 14);
/// One that has only one port.
const C: (u16, u16) = (15, 15);
/// Who gets what is dropped.
const NOWHERE: [u16; 0] = [];

/// Which port is where, and whether a pair is said to be up.
#[derive(Clone)]
struct World {
    at: Vec<(u16, usize)>,
    down: Vec<u16>,
    /// Hosts that are no more.
    gone: Vec<usize>,
    symmetric: bool,
    functions: Vec<Kind>,
    /// Of the receiver, not of the sender's network.
    of_receiver: bool,
}

#[derive(Clone)]
enum Kind {
    Pairs(Vec<(u16, u16)>, Failure),
    /// One that is told its place in the chain by a label.
    Labelled((u16, u16)),
    Balancer(bool),
    /// This port is shown what passes.
    Mirror(u16),
}

fn closed(pairs: &[(u16, u16)]) -> Kind {
    Kind::Pairs(pairs.to_vec(), Failure::Closed)
}

impl World {
    /// The client at host 0, A at 1, the server at 2, B and C at 3.
    fn new(functions: Vec<Kind>) -> Self {
        let at = [(CLIENT, 0), (OTHER, 2), (SERVER, 2)];
        let legs = [(A, 1), (B, 3), (C, 3)];
        let legs = legs.iter().flat_map(|(p, h)| [(p.0, *h), (p.1, *h)]);
        let mut at: Vec<_> = at.into_iter().chain(legs).collect();
        at.dedup();
        Self {
            at,
            down: vec![],
            gone: vec![],
            symmetric: true,
            functions,
            of_receiver: false,
        }
    }

    fn host(&self, n: u16) -> usize {
        self.at.iter().find(|(port, _)| *port == n).unwrap().1
    }

    fn place(&self, n: u16) -> Place {
        Place {
            vtep: vtep(self.host(n)),
            up: !self.down.contains(&n),
            vnis: [1.try_into().unwrap(); 2],
            mtu: net::Mtu::try_from(1450).unwrap(),
        }
    }

    fn function(&self, at: u8, kind: &Kind) -> FunctionKind {
        match kind {
            Kind::Labelled(pair) => {
                let FunctionKind::Appliance(mut appliance) = self.function(at, &closed(&[*pair]))
                else {
                    unreachable!("it is one")
                };
                appliance.label = Label::of_hop(1, at);
                appliance.instances[0].labelled = true;
                FunctionKind::Appliance(appliance)
            }
            Kind::Mirror(to) => FunctionKind::Plain(hostconfig::Plain {
                name: "mirror".into(),
                settings: serde_json::json!({"to": id::<()>(u128::from(*to)).to_string()}),
                places: [(id(u128::from(*to)), self.place(*to))].into(),
            }),
            Kind::Pairs(pairs, failure) => {
                let instance = |(ingress, egress): &(u16, u16)| Instance {
                    id: id(u128::from(*ingress)),
                    name: format!("pair-{ingress}"),
                    ingress: id(u128::from(*ingress)),
                    egress: id(u128::from(*egress)),
                    weight: 1,
                    labelled: false,
                    silent: false,
                    at: Some(self.place(*ingress)),
                };
                FunctionKind::Appliance(hostconfig::Appliance {
                    instances: pairs.iter().map(instance).collect(),
                    hash: vec![],
                    failure: *failure,
                    label: None,
                    probe: None,
                })
            }
            Kind::Balancer(v6) => FunctionKind::LoadBalancer(balanced((VIP, *v6), &[(SERVER, 80)])),
        }
    }

    fn conf(&self, host: usize) -> Conf {
        let mut conf = Conf::new();
        conf.web(6, 80);
        let vteps = (0..4).filter(|h| *h != host && !self.gone.contains(h));
        let vteps = vteps.map(|h| {
            let entry = hostconfig::vtep::Vtep {
                host: format!("h{h}"),
                foreign: false,
            };
            (vtep(h), entry)
        });
        conf.put(Section::Vteps(Vteps {
            vteps: vteps.collect(),
        }));
        for (n, at) in &self.at {
            if *at == host {
                conf.port_with(*n, &[GROUP], |port| port.port_security = *n != OTHER);
            } else {
                conf.endpoint(*n, Location::Vtep(vtep(*at)));
            }
        }
        conf.endpoint(VIP, Location::Virtual);
        let functions = (0..).zip(&self.functions);
        let functions: Vec<_> = functions.map(|(at, k)| self.function(at, k)).collect();
        if self.of_receiver {
            let to = Some(Side::Port(id(u128::from(SERVER))));
            conf.chain_of(CHAIN, None, to, 80, functions);
        } else {
            conf.chain(CHAIN, 80, functions);
        }
        if !self.symmetric {
            conf.one_way(CHAIN);
        }
        conf
    }
}

/// The hosts of a world, and the wires between them.
struct Net {
    world: World,
    hosts: Vec<Host>,
}

impl Net {
    fn new(world: World) -> Self {
        let host = |h| Host::at(vtep(h), &world.conf(h), Settings::default());
        Self {
            hosts: (0..4).map(host).collect(),
            world,
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut World)) {
        change(&mut self.world);
        for (n, host) in self.hosts.iter_mut().enumerate() {
            host.apply(&self.world.conf(n));
        }
    }

    /// What comes out at ports anywhere when this one sends a frame.
    fn raw(&mut self, from: u16, frame: Vec<u8>) -> Vec<(u16, Vec<u8>)> {
        let mut came = vec![];
        let host = self.world.host(from);
        let origin = self.hosts[host].origin(from);
        let mut todo = VecDeque::from([(host, None, origin, frame)]);
        while let Some((at, nsh, origin, frame)) = todo.pop_front() {
            let host = &mut self.hosts[at];
            host.places.clear();
            let got = match nsh {
                Some((nsh, from)) => host.brought(nsh, vtep(from), &frame),
                None => host.enter(origin, &[frame]),
            };
            let mut places = host.places.clone().into_iter();
            for (place, frame) in got {
                match place {
                    At::Port(n) => came.push((n, frame)),
                    At::Wire(network) => panic!("{network} is on no wire"),
                    At::Vtep(addr) => {
                        let to = (0..4).find(|h| vtep(*h).to_string() == addr).unwrap();
                        let nsh = places.next().unwrap().map(|nsh| (nsh, at));
                        todo.push_back((to, nsh, self.hosts[to].tunnel(), frame));
                    }
                }
            }
        }
        came
    }

    fn places(&mut self, from: u16, frame: &FrameBuilder) -> Vec<u16> {
        let got = self.raw(from, frame.build());
        got.into_iter().map(|(n, _)| n).collect()
    }

    /// The frame goes by these ports, one after the other, unchanged.
    fn goes(&mut self, frame: &FrameBuilder, way: &[(u16, u16)]) {
        for (from, to) in way {
            let got = self.raw(*from, frame.build());
            let drops: Vec<_> = self.hosts.iter().map(|h| h.dp.drops()).collect();
            assert_eq!(got, [(*to, frame.build())], "from port {from}: {drops:#?}");
        }
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.hosts.iter().map(|h| h.dropped(reason)).sum()
    }

    fn hops(&self, host: usize) -> Vec<u64> {
        let hops = self.hosts[host].dp.counters().hops.iter();
        hops.map(|hop| hop.packets).collect()
    }

    fn records(&self) -> [usize; 4] {
        std::array::from_fn(|h| self.hosts[h].dp.conntrack().len())
    }

    fn lookups(&self) -> (u64, u64) {
        let all = self.hosts.iter().map(|h| h.dp.counters().lookups);
        all.fold((0, 0), |(u, e), l| (u + l.upcall, e + l.exact))
    }
}

const THERE: (u16, u16) = (CLIENT, 4000);
const BACK: (u16, u16) = (SERVER, 80);
const BY_A: [(u16, u16); 2] = [(CLIENT, A.0), (A.1, SERVER)];
const FROM_A: [(u16, u16); 2] = [(SERVER, A.1), (A.0, CLIENT)];

fn later(v6: bool) -> FrameBuilder {
    syn_ack(v6, BACK, THERE).seq(501, 101).flags(tcp::ACK)
}

#[test]
fn a_connection_passes_an_appliance_of_another_host_both_ways() {
    for v6 in [false, true] {
        let mut net = Net::new(World::new(vec![closed(&[A])]));
        net.goes(&syn(v6, THERE, BACK), &BY_A);
        net.goes(&syn_ack(v6, BACK, THERE), &FROM_A);
        net.goes(&ack(v6, THERE, BACK), &BY_A);
        net.goes(&later(v6), &FROM_A);
        // Two at its home, one at the appliance's, one at the server's.
        assert_eq!(net.records(), [2, 1, 1, 0]);
        let before = net.lookups();
        for _ in 0..3 {
            net.goes(&ack(v6, THERE, BACK), &BY_A);
        }
        // Established packets are looked up at their home twice, at the appliance once, at the server once, and nowhere else.
        let after = net.lookups();
        assert_eq!((after.0, after.1), (before.0, before.1 + 12));
        assert_eq!(net.hops(0), [7]);
        assert!(net.hops(1).iter().all(|n| *n == 0), "its home counts");
    }
}

#[test]
fn replies_pass_by_where_the_chain_is_not_symmetric() {
    for v6 in [false, true] {
        let mut net = Net::new(World {
            symmetric: false,
            ..World::new(vec![closed(&[A]), closed(&[C])])
        });
        let way = [(CLIENT, A.0), (A.1, C.0), (C.1, SERVER)];
        net.goes(&syn(v6, THERE, BACK), &way);
        net.goes(&syn_ack(v6, BACK, THERE), &[(SERVER, CLIENT)]);
        for n in 0..3 {
            net.goes(&ack(v6, THERE, BACK).payload(&[n; 10]), &way);
        }
        assert_eq!(net.hops(0), [4, 4]);
    }
}

#[test]
fn appliances_of_two_hosts_with_a_translation_between_are_met_last_to_first_by_replies() {
    for v6 in [false, true] {
        let functions = vec![closed(&[A]), Kind::Balancer(v6), closed(&[C])];
        let mut net = Net::new(World::new(functions));
        let asks = syn(v6, THERE, (VIP, 80));
        net.goes(&asks, &[(CLIENT, A.0)]);
        // Behind the load balancer it shows the member.
        let asked = syn(v6, THERE, BACK);
        assert_eq!(net.raw(A.1, asks.build()), [(C.0, asked.build())]);
        net.goes(&asked, &[(C.1, SERVER)]);
        let answer = syn_ack(v6, BACK, THERE);
        net.goes(&answer, &[(SERVER, C.1)]);
        let answered = syn_ack(v6, (VIP, 80), THERE);
        assert_eq!(net.raw(C.0, answer.build()), [(A.1, answered.build())]);
        net.goes(&answered, &[(A.0, CLIENT)]);
        assert_eq!(net.hops(0), [2, 2, 2]);
    }
}

#[test]
fn a_chain_of_the_receiver_hands_over_from_the_receivers_host() {
    for v6 in [false, true] {
        let mut net = Net::new(World {
            of_receiver: true,
            ..World::new(vec![closed(&[A])])
        });
        net.goes(&syn(v6, THERE, BACK), &BY_A);
        net.goes(&syn_ack(v6, BACK, THERE), &FROM_A);
        net.goes(&ack(v6, THERE, BACK), &BY_A);
        assert_eq!(net.hops(2), [3]);
    }
}

#[test]
fn what_was_not_handed_over_does_not_come_back_whatever_address_it_shows() {
    for v6 in [false, true] {
        let mut net = Net::new(World::new(vec![closed(&[A]), closed(&[B])]));
        let all = [
            (A.0, syn(v6, THERE, BACK)),
            (A.1, syn(v6, THERE, BACK)),
            (A.0, syn_ack(v6, BACK, THERE)),
            (A.1, syn_ack(v6, BACK, THERE)),
        ];
        for (from, frame) in &all {
            assert_eq!(net.places(*from, frame), NOWHERE);
        }
        assert_eq!(net.dropped(DropReason::ChainPlaceUnknown), 4);
        net.goes(&syn(v6, THERE, BACK), &BY_A[..1]);
        // Another instance, another tuple, another Ethernet address, or the wrong port of the pair.
        for (from, frame) in [
            (B.1, syn(v6, THERE, BACK)),
            (A.1, syn(v6, (CLIENT, 4001), BACK)),
            (A.1, syn(v6, THERE, BACK).macs(mac(OTHER), mac(SERVER))),
            (A.0, syn(v6, THERE, BACK)),
        ] {
            assert_eq!(net.places(from, &frame), NOWHERE, "from port {from}");
        }
        assert_eq!(net.dropped(DropReason::ChainPlaceUnknown), 8);
        net.goes(&syn(v6, THERE, BACK), &[(A.1, B.0), (B.1, SERVER)]);
        // The appliance's own traffic goes the ordinary way.
        assert_eq!(net.places(A.0, &syn(v6, (A.0, 5), (SERVER, 81))), NOWHERE);
        assert_eq!(net.dropped(DropReason::SecurityGroupIngress), 1);
    }
}

#[test]
fn connections_of_two_homes_that_could_not_be_told_apart_do_not_share_an_appliance() {
    for v6 in [false, true] {
        let mut net = Net::new(World::new(vec![closed(&[A])]));
        let frame = syn(v6, THERE, BACK);
        net.goes(&frame, &BY_A[..1]);
        // Another workload, on another host, may show the client's address.
        let twin = frame.clone().macs(mac(OTHER), mac(SERVER));
        assert_eq!(net.places(OTHER, &twin), NOWHERE);
        assert_eq!(net.dropped(DropReason::ChainPlaceAmbiguous), 1);
        net.goes(&frame, &BY_A[1..]);
        net.goes(&syn_ack(v6, BACK, THERE), &FROM_A);
    }
}

#[test]
fn when_an_instance_goes_connections_move_to_one_of_another_host_or_fail() {
    for v6 in [false, true] {
        for by_host in [false, true] {
            let mut net = Net::new(World::new(vec![closed(&[A])]));
            net.goes(&syn(v6, THERE, BACK), &BY_A);
            net.goes(&syn_ack(v6, BACK, THERE), &FROM_A);
            // Another instance comes: nobody moves.
            net.change(|world| world.functions = vec![closed(&[A, B])]);
            net.goes(&ack(v6, THERE, BACK), &BY_A);
            // The first goes: its connections go on by the other, in the middle.
            net.change(|world| {
                if by_host {
                    world.gone.push(1);
                } else {
                    world.down.push(A.0);
                }
            });
            let by_b = [(CLIENT, B.0), (B.1, SERVER)];
            net.goes(&ack(v6, THERE, BACK), &by_b);
            net.goes(&later(v6), &[(SERVER, B.1), (B.0, CLIENT)]);
            // None is left.
            net.change(|world| world.down.push(B.0));
            assert_eq!(net.places(CLIENT, &ack(v6, THERE, BACK)), NOWHERE);
            assert_eq!(net.places(CLIENT, &syn(v6, (CLIENT, 4001), BACK)), NOWHERE);
            assert_eq!(net.dropped(DropReason::ApplianceDown), 2);
        }
    }
}

#[test]
fn an_open_group_without_instances_is_passed_by_and_the_rest_of_the_chain_runs() {
    for v6 in [false, true] {
        let open = Kind::Pairs(vec![A], Failure::Open);
        let mut net = Net::new(World::new(vec![open, closed(&[C])]));
        let whole = [(CLIENT, A.0), (A.1, C.0), (C.1, SERVER)];
        net.goes(&syn(v6, THERE, BACK), &whole);
        let reply = [(SERVER, C.1), (C.0, A.1), (A.0, CLIENT)];
        net.goes(&syn_ack(v6, BACK, THERE), &reply);
        net.change(|world| world.gone.push(1));
        let rest = [(CLIENT, C.0), (C.1, SERVER)];
        net.goes(&ack(v6, THERE, BACK), &rest);
        net.goes(&syn(v6, (CLIENT, 4001), BACK), &rest);
        assert_eq!(net.dropped(DropReason::ApplianceDown), 0);
    }
}

#[test]
fn errors_pass_the_appliance_of_a_symmetric_chain_and_no_other() {
    for symmetric in [true, false] {
        let mut net = Net::new(World {
            symmetric,
            ..World::new(vec![closed(&[A])])
        });
        let asks = syn(false, THERE, BACK);
        net.goes(&asks, &BY_A);
        let error = FrameBuilder::icmp_error(&asks.build());
        let way: &[_] = if symmetric {
            &FROM_A
        } else {
            &[(SERVER, CLIENT)]
        };
        for (from, to) in way {
            assert_eq!(net.raw(*from, error.clone()), [(*to, error.clone())]);
        }
    }
}

#[test]
fn connections_go_on_when_processes_are_replaced_at_either_host() {
    for (v6, host) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
        let mut net = Net::new(World::new(vec![closed(&[A])]));
        net.goes(&syn(v6, THERE, BACK), &BY_A);
        net.goes(&syn_ack(v6, BACK, THERE), &FROM_A);
        net.hosts[host].restart();
        // At the appliance's host the record is made anew by what its home sends next, in either direction.
        net.goes(&later(v6), &FROM_A);
        net.hosts[host].restart();
        net.goes(&ack(v6, THERE, BACK), &BY_A);
    }
}

#[test]
fn what_is_inside_when_the_appliances_host_restarts_is_lost_and_nothing_else() {
    let mut net = Net::new(World::new(vec![closed(&[A])]));
    net.goes(&syn(false, THERE, BACK), &BY_A);
    net.goes(&syn_ack(false, BACK, THERE), &FROM_A[..1]);
    net.hosts[1].restart();
    assert_eq!(net.places(A.0, &syn_ack(false, BACK, THERE)), NOWHERE);
    assert_eq!(net.dropped(DropReason::ChainPlaceUnknown), 1);
    net.goes(&syn_ack(false, BACK, THERE), &FROM_A);
}

#[test]
fn a_client_uses_its_port_again_through_the_same_appliance() {
    let mut net = Net::new(World::new(vec![closed(&[A])]));
    for n in 0..3 {
        net.goes(&syn(false, THERE, BACK).seq(100 + n * 1000, 0), &BY_A);
        let reset = syn_ack(false, BACK, THERE).flags(tcp::RST | tcp::ACK);
        net.goes(&reset.seq(0, 101 + n * 1000), &FROM_A);
    }
}

/// A frame under the label of a hop, as it goes in.
fn under(at: u8, frame: &[u8]) -> Vec<u8> {
    let label = u32::from(Label::of_hop(1, at).unwrap());
    let entry = label << 12 | 0x100 | (label & 0xff);
    let head = [&frame[..12], &[0x88, 0x47], &entry.to_be_bytes()].concat();
    [&head, &frame[14..]].concat()
}

#[test]
fn an_appliance_of_another_host_gets_its_label_from_that_host_and_gives_it_back_there() {
    for v6 in [false, true] {
        let mut net = Net::new(World::new(vec![
            closed(&[B]),
            Kind::Labelled(A),
            Kind::Labelled(C),
        ]));
        let (asks, answers) = (syn(v6, THERE, BACK), syn_ack(v6, BACK, THERE));
        let forward = |net: &mut Net, frame: &FrameBuilder| {
            let bare = frame.build();
            let [first, last] = [1, 2].map(|at| under(at, &bare));
            net.goes(frame, &[(CLIENT, B.0)]);
            assert_eq!(net.raw(B.1, bare.clone()), [(A.0, first.clone())]);
            assert_eq!(net.raw(A.1, first), [(C.0, last.clone())]);
            assert_eq!(net.raw(C.1, last), [(SERVER, bare)]);
        };
        forward(&mut net, &asks);
        let bare = answers.build();
        let [first, last] = [1, 2].map(|at| under(at, &bare));
        assert_eq!(net.raw(SERVER, bare.clone()), [(C.1, last.clone())]);
        assert_eq!(net.raw(C.0, last), [(A.1, first.clone())]);
        assert_eq!(net.raw(A.0, first.clone()), [(B.1, bare.clone())]);
        // Under no label, the next hop's, or another chain's it is not brought back, and ends nothing.
        let mut other = first.clone();
        other[13 + 2] ^= 1;
        let wrong = [bare.clone(), under(2, &bare), under(0, &bare), other];
        for frame in &wrong {
            let before = net.hosts[1].dropped(DropReason::ChainLabelWrong);
            assert_eq!(net.raw(A.0, frame.clone()), []);
            let after = net.hosts[1].dropped(DropReason::ChainLabelWrong);
            assert_eq!(after, before + 1);
        }
        assert_eq!(net.raw(A.0, first), [(B.1, bare)]);
        net.goes(&answers, &[(B.0, CLIENT)]);
        forward(&mut net, &ack(v6, THERE, BACK));
        let before = net.lookups();
        forward(&mut net, &ack(v6, THERE, BACK));
        // At the home before each hop and behind the last, at each appliance's on the way out, at the server's.
        let after = net.lookups();
        assert_eq!((after.0, after.1), (before.0, before.1 + 8));
        // The label came, then went: what goes in bears it, or none, from then on.
        net.change(|world| world.functions = vec![closed(&[B]), closed(&[A]), Kind::Labelled(C)]);
        let bare = ack(v6, THERE, BACK);
        net.goes(&bare, &[(CLIENT, B.0), (B.1, A.0)]);
        assert_eq!(net.raw(A.1, bare.build()), [(C.0, under(2, &bare.build()))]);
    }
}

/// Its server is at the client's own host, the appliances are elsewhere: what is between is no way of a gateway's, whoever speaks first after a change.
#[test]
fn a_server_of_the_home_is_met_behind_appliances_of_others() {
    let way = [(CLIENT, A.0), (A.1, C.0), (C.1, SERVER)];
    let back = [(SERVER, C.1), (C.0, A.1), (A.0, CLIENT)];
    for v6 in [false, true] {
        let mut world = World::new(vec![closed(&[A]), Kind::Labelled(C)]);
        world
            .at
            .iter_mut()
            .filter(|(n, _)| *n == SERVER)
            .for_each(|at| at.1 = 0);
        let mut net = Net::new(world);
        let goes = |net: &mut Net, frame: &FrameBuilder, way: &[(u16, u16)]| {
            let frame = frame.build();
            for (from, to) in way {
                let sent = if *from == C.0 {
                    under(1, &frame)
                } else {
                    frame.clone()
                };
                let came = if *to == C.0 {
                    under(1, &frame)
                } else {
                    frame.clone()
                };
                assert_eq!(net.raw(*from, sent), [(*to, came)], "from port {from}");
            }
        };
        goes(&mut net, &syn(v6, THERE, BACK), &way);
        goes(&mut net, &syn_ack(v6, BACK, THERE), &back);
        goes(&mut net, &ack(v6, THERE, BACK), &way);
        goes(&mut net, &later(v6), &back);
        // One for each part, all at the home: none was begun anew in its middle.
        assert_eq!(net.records(), [3, 1, 0, 1]);
        for first in [&way, &back] {
            net.change(|world| world.down.push(B.0));
            let (forth, answer) = (ack(v6, THERE, BACK), later(v6));
            let pair = [(&forth, &way), (&answer, &back)];
            let starts = usize::from(first == &back);
            for at in [starts, 1 - starts, starts] {
                goes(&mut net, pair[at].0, pair[at].1);
            }
        }
    }
}

/// The hosts hear of another order one after the other: whoever is first, what a sender's host hands over goes on.
#[test]
fn another_order_loses_nothing_on_its_way() {
    let before = [(CLIENT, A.0), (A.1, C.0), (C.1, SERVER)];
    let after = [(CLIENT, C.0), (C.1, A.0), (A.1, SERVER)];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0]] {
        for v6 in [false, true] {
            let mut net = Net::new(World::new(vec![closed(&[A]), closed(&[C])]));
            net.goes(&syn(v6, THERE, BACK), &before);
            net.goes(
                &syn_ack(v6, BACK, THERE),
                &[(SERVER, C.1), (C.0, A.1), (A.0, CLIENT)],
            );
            let moved = World::new(vec![closed(&[C]), closed(&[A])]);
            let mut way = before;
            for host in order {
                net.hosts[host].apply(&moved.conf(host));
                if host == 0 {
                    way = after;
                }
                net.goes(&ack(v6, THERE, BACK), &way);
            }
            net.goes(&later(v6), &[(SERVER, A.1), (A.0, C.1), (C.0, CLIENT)]);
        }
    }
}

#[test]
fn what_comes_by_the_transport_is_refused_unless_all_of_it_fits() {
    let mut world = World::new(vec![closed(&[A])]);
    world.at.push((OTHER + 1, 1));
    let mut net = Net::new(world);
    let frame = syn(false, THERE, BACK).build();
    let vni = |n: u32| Vni::try_from(n).unwrap();
    let port = |n: u16| -> Id<_> { id(u128::from(n)) };
    let good = Nsh::to(vni(1), 1, 0, port(A.0), false);
    let stranger: IpAddr = "198.51.100.1".parse().unwrap();
    // To the appliance's host.
    for (nsh, from, reason) in [
        (good, stranger, DropReason::UnknownVtep),
        (
            Nsh::to(vni(1), 2, 0, port(A.0), false),
            vtep(0),
            DropReason::ChainPathUnknown,
        ),
        (
            Nsh::to(vni(1), 1, 0, port(A.0), true),
            vtep(0),
            DropReason::ChainPlaceUnknown,
        ),
        (
            Nsh::to(vni(1), 1, 0, port(A.1), false),
            vtep(0),
            DropReason::ChainPlaceUnknown,
        ),
        (
            Nsh::to(vni(1), 1, 0, port(OTHER + 1), false),
            vtep(0),
            DropReason::ChainPlaceUnknown,
        ),
        (
            Nsh::to(vni(1), 1, 0, port(99), false),
            vtep(0),
            DropReason::ChainPlaceUnknown,
        ),
        (
            Nsh::to(vni(2), 1, 0, port(A.0), false),
            vtep(0),
            DropReason::UnknownVni,
        ),
    ] {
        let before = net.hosts[1].dropped(reason);
        assert_eq!(net.hosts[1].brought(nsh, from, &frame), []);
        assert_eq!(net.hosts[1].dropped(reason), before + 1, "{nsh:?}");
    }
    assert_eq!(net.hosts[1].brought(good, vtep(0), &frame).len(), 1);
    // Its hop is that of the chain's order at the sender, which may be another by now.
    let hop = Nsh::to(vni(1), 1, 1, port(A.0), false);
    assert_eq!(net.hosts[1].brought(hop, vtep(0), &frame).len(), 1);
    // To the home: only out of the right port, from its host, and not in.
    net.goes(&syn(false, THERE, BACK), &BY_A[..1]);
    let back = good.back(port(A.1), false);
    for (nsh, from, reason) in [
        (good, vtep(1), DropReason::ChainPlaceUnknown),
        (back, vtep(3), DropReason::ChainPlaceUnknown),
        (
            good.back(port(A.0), false),
            vtep(1),
            DropReason::ChainPlaceUnknown,
        ),
        (
            good.back(port(A.1), true),
            vtep(1),
            DropReason::ChainPlaceUnknown,
        ),
        (
            good.back(port(CLIENT), false),
            vtep(1),
            DropReason::ChainPlaceUnknown,
        ),
    ] {
        let before = net.hosts[0].dropped(reason);
        assert_eq!(net.hosts[0].brought(nsh, from, &frame), []);
        assert_eq!(net.hosts[0].dropped(reason), before + 1, "{nsh:?}");
    }
    let other = syn(false, (CLIENT, 4001), BACK).build();
    assert_eq!(net.hosts[0].brought(back, vtep(1), &other), []);
    assert_eq!(net.hosts[0].dropped(DropReason::ChainPlaceUnknown), 6);
    assert_eq!(net.hosts[0].brought(back, vtep(1), &frame).len(), 1);
    // What is no frame is no frame, however it comes.
    for bytes in [&frame[..13], &frame[..30], &[]] {
        assert_eq!(net.hosts[1].brought(good, vtep(0), bytes), []);
        assert_eq!(net.hosts[0].brought(back, vtep(1), bytes), []);
    }
}

#[test]
fn a_frame_for_a_port_here_is_not_taken_for_one_out_of_it() {
    let net = Net::new(World::new(vec![closed(&[A])]));
    let tables = &net.hosts[1].tables;
    let dense = net.hosts[1].dense(A.0);
    assert_eq!(tables.far(dense), None);
    let far = net.hosts[0].tables.zone_by_id(id(u128::from(A.0)));
    assert_eq!(far, Some(net::Zone(u32::from(A.0))));
    assert!(matches!(net.hosts[1].origin(A.0), Origin::Port(p) if p == dense));
}

/// Who gets a frame, unchanged; copies go first.
fn shown(net: &mut Net, from: u16, frame: &FrameBuilder) -> Vec<u16> {
    let got = net.raw(from, frame.build());
    assert!(got.iter().all(|(_, bytes)| *bytes == frame.build()));
    let mut all: Vec<u16> = got.into_iter().map(|(n, _)| n).collect();
    all.sort_unstable();
    all
}

#[test]
fn a_mirror_shows_a_port_of_another_host_both_directions_and_leaves_no_record_there() {
    for v6 in [false, true] {
        let mut net = Net::new(World::new(vec![Kind::Mirror(A.0)]));
        let with = |to: u16| {
            let mut all = vec![A.0, to];
            all.sort_unstable();
            all
        };
        assert_eq!(shown(&mut net, CLIENT, &syn(v6, THERE, BACK)), with(SERVER));
        let answer = syn_ack(v6, BACK, THERE);
        assert_eq!(shown(&mut net, SERVER, &answer), with(CLIENT));
        for _ in 0..3 {
            let more = ack(v6, THERE, BACK);
            assert_eq!(shown(&mut net, CLIENT, &more), with(SERVER));
        }
        assert_eq!(net.records(), [1, 0, 1, 0]);
        // What it sends itself is its own, and nobody's copy.
        let own = syn(v6, (A.0, 4000), (SERVER, 81));
        assert_eq!(shown(&mut net, A.0, &own), NOWHERE);
        // It moves to another host, and to the sender's own.
        for host in [3, 0] {
            net.change(|world| {
                for (n, at) in &mut world.at {
                    if *n == A.0 {
                        *at = host;
                    }
                }
            });
            let more = ack(v6, THERE, BACK);
            assert_eq!(shown(&mut net, CLIENT, &more), with(SERVER), "host {host}");
        }
    }
}

#[test]
fn a_mirror_whose_port_is_down_or_whose_host_is_gone_costs_no_packet() {
    let mut net = Net::new(World::new(vec![Kind::Mirror(A.0)]));
    let send = |net: &mut Net| shown(net, CLIENT, &ack(false, THERE, BACK));
    assert_eq!(shown(&mut net, CLIENT, &syn(false, THERE, BACK)).len(), 2);
    let answer = syn_ack(false, BACK, THERE);
    assert_eq!(shown(&mut net, SERVER, &answer).len(), 2);
    net.change(|world| world.down = vec![A.0]);
    assert_eq!(send(&mut net), [SERVER]);
    net.change(|world| world.down = vec![]);
    assert_eq!(send(&mut net).len(), 2);
    net.change(|world| world.gone = vec![1]);
    assert_eq!(send(&mut net), [SERVER]);
}

#[test]
fn a_mirror_behind_an_appliance_shows_what_comes_out_of_it() {
    let mut net = Net::new(World::new(vec![closed(&[A]), Kind::Mirror(C.0)]));
    let asks = syn(false, THERE, BACK);
    net.goes(&asks, &[(CLIENT, A.0)]);
    let mut both = vec![C.0, SERVER];
    both.sort_unstable();
    assert_eq!(shown(&mut net, A.1, &asks), both);
}

#[test]
fn a_copy_by_a_path_that_does_not_show_the_port_is_dropped() {
    let mut net = Net::new(World::new(vec![Kind::Mirror(A.0)]));
    assert_eq!(shown(&mut net, CLIENT, &syn(false, THERE, BACK)).len(), 2);
    let stranger = net.hosts[1].brought(
        Nsh::to(1.try_into().unwrap(), 9, 0, id(u128::from(A.0)), false),
        vtep(0),
        &syn(false, THERE, BACK).build(),
    );
    assert_eq!(stranger.len(), 0);
    assert_eq!(net.dropped(DropReason::ChainPathUnknown), 1);
}
