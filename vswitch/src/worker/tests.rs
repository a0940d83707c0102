use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use net::{NetworkId, Vni, testkit::FrameBuilder};

use super::*;
use crate::datapath::WorkerId;
use crate::io::{
    memory::{Fabric, Frame, MemoryPort, Weather, Workload},
    underlay::{UdpUnderlay, UnderlaySpec},
};

const REMOTE: [u8; 4] = [127, 48, 0, 2];

/// What the test's corridor counts.
#[derive(Debug, Default)]
struct Seen {
    refused_rx: Vec<DropReason>,
    refused_tx: Vec<DropReason>,
    /// The last frame that was not sent to a port.
    unsent: Vec<u8>,
    refused_handed: usize,
    taken_over: usize,
    ticks: usize,
    refreshed: usize,
}

/// Port 5 has no device: its frames go by that of port 3, with this tag.
const TAG: u16 = 101;

/// Joins ports 0 and 1, 2 and 3 …; port 8 to the tunnel; hands what enters port 9 to worker 1.
#[derive(Debug, Default)]
struct Patch {
    seen: Seen,
    wake: Option<Now>,
    /// Ports of the batches in the order in which they were run.
    turns: Vec<PortId>,
    held: VecDeque<Packet>,
    hold: bool,
    gone: Vec<Packet>,
    /// What a packet of port 0 costs beyond itself.
    dear: u32,
    surcharge: u32,
    /// Are packets of port 0 dropped?
    drops: bool,
    dropped: u32,
}

fn vni() -> Vni {
    Vni::try_from(9).unwrap()
}

impl Patch {
    fn forward(&mut self, batch: &mut Batch, out: &mut Out) {
        let mut last = None;
        for mut packet in batch.drain() {
            packet.parse().unwrap();
            match packet.origin() {
                Origin::Port(PortId(8)) => out.tunnelled.push(Tunnelled {
                    packet,
                    vni: vni(),
                    vtep: REMOTE.into(),
                    nsh: None,
                }),
                Origin::Port(PortId(9)) => out.handed.push((WorkerId(1), packet)),
                Origin::Port(port) => {
                    if last != Some(port) {
                        self.turns.push(port);
                        last = Some(port);
                    }
                    if self.drops && port == PortId(0) {
                        self.dropped += 1;
                        self.gone.push(packet);
                    } else if self.hold {
                        self.held.push_back(packet);
                    } else {
                        out.port(PortId(port.0 ^ 1), packet);
                    }
                }
                Origin::Tunnel(_) => out.port(PortId(8), packet),
                Origin::Switch => unreachable!("origins are set"),
            }
        }
    }
}

impl Corridor for Patch {
    fn refresh(&mut self, _: Now) {
        self.seen.refreshed += 1;
    }

    fn admits(&self, outer_source: IpAddr) -> bool {
        outer_source == IpAddr::from(REMOTE)
    }

    fn run(&mut self, batch: &mut Batch, _: Now, _: &mut PacketPool, out: &mut Out) {
        let of_dear = batch
            .iter()
            .filter(|p| p.origin() == Origin::Port(PortId(0)));
        self.surcharge += u32::try_from(of_dear.count()).unwrap() * self.dear;
        self.forward(batch, out);
    }

    fn carrier(&self, port: PortId) -> Option<(PortId, Vlan)> {
        (port == PortId(5)).then(|| (PortId(3), Vlan::try_from(TAG).unwrap()))
    }

    fn surcharge(&mut self) -> u32 {
        std::mem::take(&mut self.surcharge)
    }

    fn dropped(&mut self) -> u32 {
        std::mem::take(&mut self.dropped)
    }

    fn take_over(&mut self, batch: &mut Batch, _: Now, pool: &mut PacketPool, _: &mut Out) {
        self.seen.taken_over += batch.len();
        batch.drain().for_each(|p| pool.give(p));
    }

    fn enter_tunnel(
        &mut self,
        mut frame: Tunnelled,
        batch: &mut Batch,
        _: Now,
        _: &mut PacketPool,
    ) -> Result<(), Tunnelled> {
        assert_eq!(frame.vni, vni());
        frame.packet.set_origin(Origin::Tunnel(NetworkId(0)));
        let (vni, vtep) = (frame.vni, frame.vtep);
        batch.push(frame.packet).map_err(|packet| Tunnelled {
            packet,
            vni,
            vtep,
            nsh: None,
        })
    }

    fn refuse_rx(&mut self, packet: Packet, reason: DropReason, _: Now, pool: &mut PacketPool) {
        self.seen.refused_rx.push(reason);
        pool.give(packet);
    }

    fn refuse_tx(
        &mut self,
        packet: Packet,
        _: PortId,
        reason: DropReason,
        _: Now,
        pool: &mut PacketPool,
    ) {
        self.seen.refused_tx.push(reason);
        self.seen.unsent = packet.bytes().to_vec();
        pool.give(packet);
    }

    fn refuse_tunnel(&mut self, unsent: Unsent, _: Now, pool: &mut PacketPool, _: &mut Out) {
        self.seen.refused_tx.push(unsent.reason);
        pool.give(unsent.frame.packet);
    }

    fn refuse_handed(&mut self, packet: Packet, _: Now, pool: &mut PacketPool) {
        self.seen.refused_handed += 1;
        pool.give(packet);
    }

    fn tick(&mut self, _: Now, pool: &mut PacketPool, _: &mut Out) -> Option<Now> {
        self.seen.ticks += 1;
        self.gone.drain(..).for_each(|p| pool.give(p));
        if !self.hold {
            self.held.drain(..).for_each(|p| pool.give(p));
        }
        self.wake
    }

    fn drain(&mut self, _: Now, pool: &mut PacketPool) {
        self.held.drain(..).for_each(|p| pool.give(p));
    }
}

fn frame(n: u8) -> Frame {
    Frame {
        bytes: FrameBuilder::udp(true, n.into(), 7)
            .payload(&[n; 50])
            .build(),
        ..Frame::default()
    }
}

struct Bench {
    worker: Worker<Patch>,
    handle: Handle<Patch>,
    lost: Arc<Mutex<Vec<PortId>>>,
}

fn bench(seat: Seat, limits: Limits) -> Bench {
    let lost = Arc::<Mutex<Vec<PortId>>>::default();
    let told = Arc::clone(&lost);
    let (worker, handle) = Worker::new(
        seat,
        Patch::default(),
        limits,
        Box::new(move |id| told.lock().unwrap().push(id)),
    )
    .unwrap();
    Bench {
        worker,
        handle,
        lost,
    }
}

fn alone() -> Bench {
    bench(crew(1, 1).unwrap().pop().unwrap(), Limits::default())
}

impl Bench {
    fn port(&mut self, n: u32) -> Workload {
        let (port, workload) = MemoryPort::new(1000);
        let add = Command::AddPort(PortId(n), Box::new(port));
        self.handle.tell(add).unwrap();
        workload
    }

    fn turn(&mut self) -> Turn {
        self.worker.turn(Now::ZERO)
    }
}

fn drain(workload: &Workload) -> usize {
    std::iter::from_fn(|| workload.receive()).count()
}

#[test]
fn frames_go_from_port_to_port_and_idle_is_idle() {
    let mut b = alone();
    let (x, y) = (b.port(0), b.port(1));
    assert!(b.turn().busy, "it was told of ports");
    x.send(frame(1)).unwrap();
    y.send(frame(2)).unwrap();
    assert!(b.turn().busy);
    assert_eq!(y.receive(), Some(frame(1)));
    assert_eq!(x.receive(), Some(frame(2)));
    let idle = b.turn();
    assert!(!idle.busy && idle.next == Next::By(None));
    assert_eq!(b.worker.corridor.seen.refreshed, 3, "once a turn");
}

#[test]
fn what_is_for_a_sub_port_goes_by_its_parents_device_with_its_tag() {
    let mut b = alone();
    let (sender, parent) = (b.port(4), b.port(3));
    b.turn();
    let send = |n| sender.send(frame(n)).unwrap();
    send(1);
    b.turn();
    let tagged = FrameBuilder::udp(true, 1, 7).payload(&[1; 50]).vlan(TAG);
    assert_eq!(parent.receive().unwrap().bytes, tagged.build());
    // What the device does not take is given back as it was.
    for n in 0..2 {
        (0..1000).for_each(|_| drop(sender.send(frame(n))));
        while b.turn().busy {}
    }
    assert_eq!(drain(&parent), 1000);
    let seen = &b.worker.corridor.seen;
    assert_eq!(seen.refused_tx, [DropReason::PortQueueFull].repeat(1000));
    assert_eq!(seen.unsent, frame(1).bytes);
    // Without the device it is the port's own that is gone.
    b.handle.tell(Command::RemovePort(PortId(3))).unwrap();
    send(2);
    while b.turn().busy {}
    let last = b.worker.corridor.seen.refused_tx.last();
    assert_eq!(last, Some(&DropReason::PortGone));
}

#[test]
fn a_flooder_takes_one_batch_a_turn_and_its_neighbour_is_served() {
    let mut b = alone();
    let (flooder, sink, victim, friend) = (b.port(0), b.port(1), b.port(2), b.port(3));
    b.turn();
    for _ in 0..1000 {
        flooder.send(frame(1)).unwrap();
    }
    victim.send(frame(2)).unwrap();
    let turn = b.turn();
    assert_eq!(turn.next, Next::AtOnce);
    assert_eq!(friend.receive(), Some(frame(2)));
    assert_eq!(drain(&sink), BATCH);
    while b.turn().next == Next::AtOnce {}
    assert_eq!(drain(&sink), 1000 - BATCH);
}

#[test]
fn whoever_costs_more_waits_for_as_long_while_others_have_frames() {
    let mut b = alone();
    let (dear, sink, cheap, friend) = (b.port(0), b.port(1), b.port(2), b.port(3));
    b.turn();
    b.worker.corridor.dear = 9;
    // What does not fit its queue is lost at the sender's own device.
    let fill = |workload: &Workload, n| (0..n).for_each(|_| drop(workload.send(frame(1))));
    let mut served = [0, 0];
    for turn in 0..100 {
        fill(&dear, BATCH);
        fill(&cheap, BATCH);
        b.turn();
        let now = [drain(&sink), drain(&friend)];
        assert!(
            turn < 50 || now[0] < 10,
            "a turn's worth at a time: {}",
            now[0]
        );
        served = [served[0] + now[0], served[1] + now[1]];
    }
    assert_eq!(served[1], 100 * BATCH);
    let tenth = 10 * BATCH;
    assert!(
        (tenth * 9 / 10..=tenth).contains(&served[0]),
        "{}",
        served[0]
    );
    // Alone it waits for nobody.
    b.handle.tell(Command::RemovePort(PortId(2))).unwrap();
    b.handle.tell(Command::RemovePort(PortId(3))).unwrap();
    b.handle.tell(Command::RemovePort(PortId(1))).unwrap();
    b.turn();
    let before = b.worker.corridor.turns.len();
    for _ in 0..5 {
        b.turn();
    }
    assert_eq!(b.worker.corridor.turns.len() - before, 5);
}

#[test]
fn whose_packets_are_dropped_all_the_time_rests_and_is_read_again() {
    let limits = Limits {
        port_drops: 10_000,
        ..Limits::default()
    };
    let mut b = bench(crew(1, 1).unwrap().pop().unwrap(), limits);
    let (flooder, _sink, victim, friend) = (b.port(0), b.port(1), b.port(2), b.port(3));
    b.turn();
    b.worker.corridor.drops = true;
    let (mut now, mut read) = (Now::from_nanos(1_000_000_000), 0);
    let end = now + Duration::from_secs(1);
    while now < end {
        while flooder.send(frame(1)).is_ok() {}
        victim.send(frame(2)).unwrap();
        let before = b.worker.corridor.turns.len();
        let turn = b.worker.turn(now);
        let turns = &b.worker.corridor.turns[before..];
        read += usize::from(turns.contains(&PortId(0)));
        assert_eq!(drain(&friend), 1, "nobody else waits");
        now = match turn.next {
            Next::By(Some(wake)) => {
                assert!(wake > now, "it does not spin while it rests");
                wake
            }
            Next::By(None) | Next::AtOnce | Next::WhenFreed | Next::Never => {
                now + Duration::from_micros(50)
            }
        };
    }
    // Ten thousand, and a hundredth of a second's that were saved; the last batch may be above.
    let dropped = read * BATCH;
    assert!((10_000..=10_300).contains(&dropped), "{dropped}");
    // It goes on at once when nothing is dropped any more.
    b.worker.corridor.drops = false;
    b.worker.turn(now + Duration::from_secs(1));
    assert_eq!(b.worker.corridor.turns.last(), Some(&PortId(0)));
}

#[test]
fn what_has_no_receiver_is_counted() {
    let mut b = alone();
    let (x, tunnel) = (b.port(0), b.port(8));
    b.turn();
    x.send(frame(1)).unwrap();
    tunnel.send(frame(1)).unwrap();
    b.turn();
    let seen = &b.worker.corridor.seen;
    assert_eq!(
        seen.refused_tx,
        [DropReason::PortGone, DropReason::UnderlaySend]
    );
}

#[test]
fn a_device_that_went_is_let_go_and_told() {
    let mut b = alone();
    let (x, y) = (b.port(0), b.port(1));
    b.turn();
    y.unplug();
    b.turn();
    assert_eq!(*b.lost.lock().unwrap(), [PortId(1)]);
    x.send(frame(1)).unwrap();
    b.turn();
    assert_eq!(b.worker.corridor.seen.refused_tx, [DropReason::PortGone]);
    b.handle.tell(Command::RemovePort(PortId(0))).unwrap();
    b.turn();
    x.send(frame(1)).unwrap();
    assert!(!b.turn().busy, "nobody reads a removed port");
}

#[test]
fn a_worker_without_packets_says_so_and_goes_on_when_there_are_some() {
    let limits = Limits {
        small_packets: 10,
        large_packets: 1,
        ..Limits::default()
    };
    let mut b = bench(crew(1, 1).unwrap().pop().unwrap(), limits);
    b.worker.corridor.hold = true;
    let (x, _y) = (b.port(0), b.port(1));
    b.turn();
    for n in 0..20 {
        x.send(frame(n)).unwrap();
    }
    assert_eq!(b.turn().next, Next::WhenFreed);
    let stuck = b.turn();
    assert!(stuck.next == Next::WhenFreed && !stuck.busy);
    b.worker.corridor.hold = false;
    b.turn();
    assert!(b.turn().busy);
}

#[test]
fn frames_cross_a_fabric_and_strangers_are_refused() {
    let mut b = alone();
    let fabric = Fabric::new(Weather::default(), 1);
    let here: IpAddr = [127, 48, 0, 1].into();
    let underlay = Box::new(fabric.attach(here));
    let mut far = fabric.attach(REMOTE.into());
    b.handle.tell(Command::SetUnderlay(Some(underlay))).unwrap();
    let workload = b.port(8);
    b.turn();
    workload.send(frame(5)).unwrap();
    b.turn();
    let mut pool = PacketPool::new(100, 2);
    let (mut got, mut refused) = (vec![], vec![]);
    far.rx(&mut pool, &|ip| ip == here, &mut got, &mut refused);
    assert_eq!(got[0].packet.bytes(), frame(5).bytes);
    got[0].vtep = here;
    assert_eq!(far.tx(&mut pool, &mut got, &mut vec![]), 1);
    fabric.inject([192, 0, 2, 9].into(), here, vec![8; 50]);
    b.turn();
    assert_eq!(workload.receive().unwrap().bytes, frame(5).bytes);
    assert_eq!(b.worker.corridor.seen.refused_rx, [DropReason::UnknownVtep]);
}

#[test]
fn a_datagram_that_came_while_there_were_no_packets_is_not_forgotten() {
    let limits = Limits {
        small_packets: 10,
        large_packets: 4,
        ..Limits::default()
    };
    let mut b = bench(crew(1, 1).unwrap().pop().unwrap(), limits);
    b.worker.corridor.hold = true;
    let (x, _y, workload) = (b.port(0), b.port(1), b.port(8));
    let here: IpAddr = [127, 48, 2, 1].into();
    let underlay = Box::new(UdpUnderlay::open(&UnderlaySpec::new(here)).unwrap());
    b.handle.tell(Command::SetUnderlay(Some(underlay))).unwrap();
    for n in 0..20 {
        x.send(frame(n)).unwrap();
    }
    assert_eq!(b.turn().next, Next::WhenFreed);
    let far = std::net::UdpSocket::bind((IpAddr::from(REMOTE), 0)).unwrap();
    let datagram = [&overlay::vxlan::header(vni())[..], &frame(3).bytes].concat();
    far.send_to(&datagram, (here, overlay::vxlan::VXLAN_PORT))
        .unwrap();
    let deadline = monotonic() + Duration::from_secs(10);
    while !b.worker.underlay_ready {
        assert!(monotonic() < deadline, "the datagram was not heard");
        let now = monotonic();
        b.worker.sleep(now, Some(now + Duration::from_millis(50)));
    }
    assert_eq!(b.turn().next, Next::WhenFreed);
    b.worker.corridor.hold = false;
    for _ in 0..3 {
        b.turn();
    }
    assert_eq!(workload.receive().unwrap().bytes, frame(3).bytes);
}

#[test]
fn packets_go_to_another_worker_until_its_ring_is_full() {
    let mut seats = crew(2, 5).unwrap();
    let mut second = bench(seats.pop().unwrap(), Limits::default());
    let mut first = bench(seats.pop().unwrap(), Limits::default());
    let x = first.port(9);
    first.turn();
    for n in 0..8 {
        x.send(frame(n)).unwrap();
    }
    first.turn();
    assert_eq!(first.worker.corridor.seen.refused_handed, 3);
    assert!(second.turn().busy);
    assert_eq!(second.worker.corridor.seen.taken_over, 5);
}

#[test]
fn a_thread_serves_sockets_answers_and_ends() {
    let seat = crew(1, 1).unwrap().pop().unwrap();
    let handle = spawn(seat, Patch::default(), Limits::default(), Box::new(|_| {})).unwrap();
    let (port, workload) = MemoryPort::new(10);
    let here: IpAddr = [127, 48, 1, 1].into();
    let underlay = UdpUnderlay::open(&UnderlaySpec::new(here)).unwrap();
    let underlay = Command::SetUnderlay(Some(Box::new(underlay)));
    handle.tell(underlay).unwrap();
    handle
        .tell(Command::AddPort(PortId(8), Box::new(port)))
        .unwrap();
    // Told in order: when this is answered the underlay is open.
    handle.ask(|_, now| assert!(now > Now::ZERO)).unwrap();
    let far = std::net::UdpSocket::bind((IpAddr::from(REMOTE), 0)).unwrap();
    let datagram = [&overlay::vxlan::header(vni())[..], &frame(3).bytes].concat();
    far.send_to(&datagram, (here, overlay::vxlan::VXLAN_PORT))
        .unwrap();
    let deadline = monotonic() + Duration::from_secs(10);
    let got = loop {
        if let Some(got) = workload.receive() {
            break got;
        }
        assert!(monotonic() < deadline, "the datagram was not heard");
        thread::yield_now();
    };
    assert_eq!(got.bytes, frame(3).bytes);
    assert_eq!(handle.ask(|p, _| p.seen.refused_rx.len()), Ok(0));
    handle.stop().unwrap();
}

#[test]
fn an_idle_thread_sleeps_until_its_corridor_wants_it() {
    let seat = crew(1, 1).unwrap().pop().unwrap();
    let handle = spawn(seat, Patch::default(), Limits::default(), Box::new(|_| {})).unwrap();
    let at = handle
        .ask(|p, now| {
            let at = now + Duration::from_millis(30);
            p.wake = Some(at);
            at
        })
        .unwrap();
    let before = handle.ask(|p, _| p.seen.ticks).unwrap();
    while monotonic() < at + Duration::from_millis(5) {
        thread::yield_now();
    }
    let ticks = handle
        .ask(|p, _| {
            p.wake = None;
            p.seen.ticks
        })
        .unwrap();
    // One for the question itself, one at the time; from then on it is due and turns without pause, as the test asked.
    assert!(ticks > before + 1);
    let idle = handle.ask(|p, _| p.seen.ticks).unwrap();
    let until = monotonic() + Duration::from_millis(50);
    while monotonic() < until {
        thread::yield_now();
    }
    let after = handle.ask(|p, _| p.seen.ticks).unwrap();
    assert!(
        after <= idle + 2,
        "it turned {} times while idle",
        after - idle
    );
    drop(handle);
}

#[test]
fn the_production_corridor_names_what_it_does_not_know_and_balances() {
    use crate::datapath::{Claims, Datapath, Settings, Tables};

    let shared: SharedTables = Arc::new(arc_swap::ArcSwap::from_pointee(Tables::empty(7)));
    let claims = Arc::new(Claims::new(16, 7));
    let settings = Settings::default();
    let entries = vec![nfv::conntrack::Entry::default(); 1024];
    let datapath = Datapath::new(settings, entries, 0, claims, Now::ZERO);
    let seat = crew(1, 1).unwrap().pop().unwrap();
    let lane = Lane::new(datapath, Arc::clone(&shared));
    let limits = Limits::default();
    let (mut worker, handle) = Worker::new(seat, lane, limits, Box::new(|_| {})).unwrap();
    let (port, workload) = MemoryPort::new(10);
    handle
        .tell(Command::AddPort(PortId(3), Box::new(port)))
        .unwrap();
    worker.turn(Now::ZERO);
    workload.send(frame(1)).unwrap();
    let next = Tables::empty(8);
    shared.store(Arc::new(next));
    worker.turn(Now::from_nanos(1));
    let (datapath, tables) = worker.corridor.view();
    assert_eq!(tables.seed(), 8, "swapped tables are seen");
    assert_eq!(datapath.ledger().rx, 1);
    assert_eq!(datapath.ledger().dropped_total(), 1);
    datapath.ledger().balanced().unwrap();
}
