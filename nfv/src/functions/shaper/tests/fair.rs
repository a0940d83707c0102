//! FQ-CoDel beside the pseudocode of its RFCs, and in a simulation under a virtual clock.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use hostconfig::Discipline;
use net::{Gso, Now, Offload, Packet, PacketPool, testkit::FrameBuilder};
use proptest::prelude::*;

use crate::functions::shaper::{
    Loss, Pace, ShaperQueue,
    codel::Patience,
    fq_codel::{FqCodel, Left},
};

const MILLI: u64 = 1_000_000;
/// ECT(0), and CE.
const ECT: u8 = 2;
const CE: u8 = 3;

/// A packet of a flow, which is its source port, of so many bytes.
fn packet(pool: &mut PacketPool, flow: u16, len: usize, tos: u8) -> Packet {
    let frame = FrameBuilder::udp(false, flow, 53).tos(tos);
    let frame = frame.payload(&vec![0; len - 42]).build();
    let mut p = pool.take(frame.len()).unwrap();
    p.fill(&frame).unwrap();
    p.parse().unwrap();
    p
}

fn flow_of(packet: &Packet) -> u16 {
    packet.key().l4_src
}

fn after(nanos: u64) -> Now {
    Now::from_nanos(nanos)
}

/// What waits in the oracle: the number of the packet, its bytes, when it came, whether it hears marks.
type Item = (u32, i64, i64, bool);

const TARGET: i64 = 5_000_000;
const INTERVAL: i64 = 100_000_000;

/// A queue as RFC 8289 §5 writes it, in its names; marks as in §3 of RFC 8290's reference: instead of a drop.
#[derive(Default)]
struct NaiveFlow {
    queue: VecDeque<Item>,
    deficit: i64,
    first_above_time: i64,
    drop_next: i64,
    count: i64,
    lastcount: i64,
    dropping: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Goes(u32),
    Marked(u32),
    Dropped(u32),
}

impl NaiveFlow {
    fn bytes(&self) -> i64 {
        self.queue.iter().map(|item| item.1).sum()
    }

    fn control_law(&self, t: i64) -> i64 {
        t + i64::try_from((i128::from(INTERVAL).pow(2) / i128::from(self.count)).isqrt()).unwrap()
    }

    fn dodequeue(&mut self, now: i64) -> (Option<Item>, bool) {
        let Some(p) = self.queue.pop_front() else {
            self.first_above_time = 0;
            return (None, false);
        };
        if now - p.2 < TARGET || self.bytes() <= p.1.max(1514) {
            self.first_above_time = 0;
        } else if self.first_above_time == 0 {
            self.first_above_time = now + INTERVAL;
        } else if now >= self.first_above_time {
            return (Some(p), true);
        }
        (Some(p), false)
    }

    fn deque(&mut self, now: i64, told: &mut Vec<Event>) -> Option<Item> {
        let (mut p, mut ok_to_drop) = self.dodequeue(now);
        if self.dropping {
            if !ok_to_drop {
                self.dropping = false;
            }
            while self.dropping && now >= self.drop_next {
                self.count += 1;
                let item = p.unwrap();
                if item.3 {
                    self.drop_next = self.control_law(self.drop_next);
                    told.push(Event::Marked(item.0));
                    return p;
                }
                told.push(Event::Dropped(item.0));
                (p, ok_to_drop) = self.dodequeue(now);
                if ok_to_drop {
                    self.drop_next = self.control_law(self.drop_next);
                } else {
                    self.dropping = false;
                }
            }
        } else if ok_to_drop {
            let item = p.unwrap();
            if item.3 {
                told.push(Event::Marked(item.0));
            } else {
                told.push(Event::Dropped(item.0));
                (p, _) = self.dodequeue(now);
            }
            self.dropping = true;
            let delta = self.count - self.lastcount;
            self.count = 1;
            if delta > 1 && now - self.drop_next < 16 * INTERVAL {
                self.count = delta;
            }
            self.drop_next = self.control_law(now);
            self.lastcount = self.count;
            if item.3 {
                return p;
            }
        }
        told.extend(p.map(|p| Event::Goes(p.0)));
        p
    }
}

/// Flows as RFC 8290 §4 has them; a flow each source port.
#[derive(Default)]
struct Naive {
    flows: HashMap<u16, NaiveFlow>,
    new: VecDeque<u16>,
    old: VecDeque<u16>,
}

impl Naive {
    fn enqueue(&mut self, flow: u16, item: Item) {
        self.flows.entry(flow).or_default().queue.push_back(item);
        if !self.new.contains(&flow) && !self.old.contains(&flow) {
            self.flows.get_mut(&flow).unwrap().deficit = 1514;
            self.new.push_back(flow);
        }
    }

    fn dequeue(&mut self, now: i64) -> Vec<Event> {
        let mut told = vec![];
        loop {
            let from_new = !self.new.is_empty();
            let list = if from_new {
                &mut self.new
            } else {
                &mut self.old
            };
            let Some(&id) = list.front() else {
                return told;
            };
            let flow = self.flows.get_mut(&id).unwrap();
            if flow.deficit <= 0 {
                flow.deficit += 1514;
                list.pop_front();
                self.old.push_back(id);
                continue;
            }
            if let Some(item) = flow.deque(now, &mut told) {
                flow.deficit -= item.1;
                return told;
            }
            list.pop_front();
            if from_new {
                self.old.push_back(id);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn packets_leave_as_the_pseudocode_of_rfc_8289_and_8290_says(
        steps in proptest::collection::vec((0u64..40, 0u16..5, 60usize..1515, any::<bool>(), 0u8..12), 1..1500),
        most in 2u8..4,
        hears in any::<[bool; 5]>(),
    ) {
        let mut pool = PacketPool::new(4096, 0);
        let mut queue = FqCodel::new(7, Patience::at(Duration::ZERO));
        let mut naive = Naive::default();
        let (mut now, mut numbers) = (MILLI, HashMap::new());
        for (number, (pause, flow, len, faster, leaves)) in (0u32..).zip(steps) {
            now += pause * MILLI / if faster { 20 } else { 2 };
            let ect = hears[usize::from(flow)];
            let mut p = packet(&mut pool, flow, len, if ect { ECT } else { 0 });
            p.set_tag(number);
            numbers.insert(number, flow);
            queue.push(p, after(now)).unwrap();
            let (bytes, at) = (i64::try_from(len).unwrap(), i64::try_from(now).unwrap());
            naive.enqueue(flow, (number, bytes, at, ect));
            for _ in 0..leaves % most {
                let mut told = vec![];
                while let Some(id) = queue.select(|_| true).map(|(id, _)| id) {
                    match queue.leave(id, after(now)).unwrap() {
                        Left::Goes { packet: p, marked } => {
                            prop_assert_eq!(p.key().ip_tos == CE, marked);
                            told.push(if marked { Event::Marked(p.tag()) } else { Event::Goes(p.tag()) });
                            pool.give(p);
                            break;
                        }
                        Left::Signal(p) => {
                            told.push(Event::Dropped(p.tag()));
                            pool.give(p);
                        }
                    }
                }
                prop_assert_eq!(told, naive.dequeue(at), "at {} us", now / 1000);
            }
            let waiting: usize = naive.flows.values().map(|f| f.queue.len()).sum();
            prop_assert_eq!(queue.len(), waiting);
            let bytes: i64 = naive.flows.values().map(NaiveFlow::bytes).sum();
            prop_assert_eq!(queue.bytes(), u64::try_from(bytes).unwrap());
        }
    }
}

fn pace(rate: u64, burst: u64, queue_bytes: u64) -> Pace {
    Pace {
        bits: Some((rate, burst)),
        segments: None,
        queue_bytes,
        queue: Discipline::FqCodel,
    }
}

/// What became of a flow.
#[derive(Debug, Default, Clone)]
struct Fate {
    bytes: u64,
    longest: Duration,
    marked: u64,
    codel: u64,
    full: u64,
}

/// A queue, who sends into it, and a clock.
struct Scene {
    queue: ShaperQueue,
    pool: PacketPool,
    sent: HashMap<u32, Now>,
    fates: HashMap<u16, Fate>,
    number: u32,
}

impl Scene {
    fn new(pace: Pace) -> Self {
        Self {
            queue: ShaperQueue::new(pace, 1024, 11, Now::ZERO),
            pool: PacketPool::new(2048, 512),
            sent: HashMap::new(),
            fates: HashMap::new(),
            number: 0,
        }
    }

    fn send(&mut self, flow: u16, len: usize, tos: u8, gso: Option<u16>, now: Now) {
        let mut p = packet(&mut self.pool, flow, len, tos);
        if let Some(size) = gso {
            p.set_offload(Offload {
                gso: Gso::Udp { size },
                ..Offload::default()
            });
        }
        self.number += 1;
        p.set_tag(self.number);
        self.sent.insert(self.number, now);
        if self.queue.pass(&p, now) {
            self.arrived(p, now);
        } else {
            self.queue.enqueue(p, now).unwrap();
        }
        self.lose();
    }

    fn arrived(&mut self, p: Packet, now: Now) {
        let fate = self.fates.entry(flow_of(&p)).or_default();
        fate.bytes += p.wire_bytes();
        fate.longest = fate.longest.max(now - self.sent.remove(&p.tag()).unwrap());
        fate.marked += u64::from(p.key().ip_tos == CE);
        self.pool.give(p);
    }

    fn lose(&mut self) {
        while let Some((p, loss)) = self.queue.lost() {
            let fate = self.fates.entry(flow_of(&p)).or_default();
            match loss {
                Loss::CoDel => fate.codel += 1,
                Loss::Full => fate.full += 1,
            }
            self.sent.remove(&p.tag());
            self.pool.give(p);
        }
    }

    /// Lets go what may go up to a time, when it may.
    fn run(&mut self, from: Now, to: Now) {
        let mut now = from;
        while let Some(wake) = self.queue.next_wake(now).filter(|wake| *wake <= to) {
            now = wake;
            if let Some(p) = self.queue.dequeue(now) {
                self.arrived(p, now);
            }
            self.lose();
        }
    }
}

#[test]
fn beside_a_saturating_flow_a_sparse_one_waits_for_less_than_ten_milliseconds_at_20_mbit() {
    // Frames, super-frames of 60,000 bytes, and super-frames that are larger than the burst.
    for (len, gso, burst) in [
        (1514, None, 25_000),
        (60_000, Some(1400), 65_536),
        (60_000, Some(1400), 25_000),
    ] {
        for sparse_every in [1, 7, 20, 100] {
            let mut scene = Scene::new(pace(20_000_000, burst, 256 << 10));
            let (mut now, mut next_bulk) = (Now::ZERO, 0);
            for milli in 0..3_000u64 {
                let to = after(milli * MILLI);
                scene.run(now, to);
                now = to;
                // 40 Mbit/s.
                while next_bulk <= milli * 5_000 {
                    scene.send(1, len, 0, gso, now);
                    next_bulk += len as u64;
                }
                if milli.is_multiple_of(sparse_every) {
                    scene.send(2, 100, 0, None, now);
                }
            }
            let (bulk, sparse) = (&scene.fates[&1], &scene.fates[&2]);
            assert!(
                sparse.longest < Duration::from_millis(10),
                "{len} {burst} each {sparse_every} ms: {:?}",
                sparse.longest
            );
            assert_eq!(
                (sparse.codel, sparse.full),
                (0, 0),
                "{len} {burst} {sparse_every}"
            );
            // The limit holds, and nothing of it is lost.
            let bits = (bulk.bytes + sparse.bytes) * 8;
            let slack = (burst + 63_000) * 8;
            assert!(bits.abs_diff(60_000_000) <= slack, "{len} {burst}: {bits}");
        }
    }
}

#[test]
fn sixteen_flows_of_any_sizes_get_the_same_by_jains_index() {
    for late in [0, 3] {
        let mut scene = Scene::new(pace(20_000_000, 25_000, 256 << 10));
        let mut now = Now::ZERO;
        for tick in 0..4_000u64 {
            let to = after(tick * MILLI);
            if tick.is_multiple_of(late + 1) {
                scene.run(to, to);
            }
            if late == 0 {
                scene.run(now, to);
            }
            now = to;
            // Each sends some 5 Mbit/s or more, in its own way: small, large, in trains, in bursts.
            for flow in 0..16u16 {
                let (len, gso) = match flow % 4 {
                    0 => (200, None),
                    1 => (1514, None),
                    2 => (12_000, Some(1400)),
                    _ => (700, None),
                };
                let count = (650 * (1 + u64::from(flow) / 4) * 3 / len as u64).max(1);
                if len < 10_000 || tick % 6 == 0 {
                    for _ in 0..count {
                        scene.send(flow + 1, len, 0, gso, now);
                    }
                }
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let shares: Vec<f64> = (1..=16).map(|f| scene.fates[&f].bytes as f64).collect();
        let sum: f64 = shares.iter().sum();
        let squares: f64 = shares.iter().map(|x| x * x).sum();
        let index = sum * sum / (16.0 * squares);
        assert!(index > 0.95, "{index}: {shares:?}");
        assert!((sum * 8.0 - 80e6).abs() < 1.6e6, "{sum}");
    }
}

#[test]
fn who_hears_marks_is_marked_who_does_not_is_dropped() {
    for (tos, marks) in [(0, false), (ECT, true), (1, true), (46 << 2 | ECT, true)] {
        let mut scene = Scene::new(pace(8_000_000, 2_000, 256 << 10));
        let mut now = Now::ZERO;
        // 8.8 Mbit/s for two seconds, no more than the queue has room for.
        for n in 0..2_200u64 {
            let to = after(n * 909_000);
            scene.run(now, to);
            now = to;
            scene.send(1, 1_000, tos, None, now);
        }
        scene.run(now, after(20_000 * MILLI));
        let fate = &scene.fates[&1];
        assert_eq!(fate.full, 0);
        assert_eq!(fate.codel > 0, !marks, "{tos}: {fate:?}");
        let marked = scene.queue.marked();
        if tos & 3 == ECT || tos == 1 {
            assert!(marked > 5, "{marked}");
            assert_eq!(fate.bytes, 2_200_000, "nothing is lost");
        } else {
            assert_eq!(marked, 0);
        }
    }
}

#[test]
fn a_super_frame_is_marked_whole_and_counts_its_segments() {
    let mut scene = Scene::new(pace(8_000_000, 65_536, 1 << 20));
    for _ in 0..12 {
        scene.send(1, 42 + 28_000, ECT, Some(1400), Now::ZERO);
    }
    scene.run(Now::ZERO, after(1_000 * MILLI));
    let marked = scene.queue.marked();
    assert!(marked > 0 && marked.is_multiple_of(20), "{marked} segments");
    assert_eq!(scene.fates[&1].marked * 20, marked);
    assert_eq!(scene.fates[&1].bytes, 12 * (28_000 + 20 * 42));
}

#[test]
fn without_room_the_fattest_flow_loses_its_first_packet() {
    let mut scene = Scene::new(pace(8_000, 100, 10_000));
    for _ in 0..20 {
        scene.send(1, 1_000, ECT, None, Now::ZERO);
    }
    assert_eq!(
        (scene.queue.len(), scene.queue.queued_bytes()),
        (10, 10_000)
    );
    assert_eq!(scene.fates[&1].full, 10);
    for flow in 2..6 {
        scene.send(flow, 500, 0, None, Now::ZERO);
    }
    // Two halves found room by one whole.
    assert_eq!(
        (scene.queue.len(), scene.queue.queued_bytes()),
        (12, 10_000)
    );
    assert!((2..6).all(|flow| !scene.fates.contains_key(&flow)));
    // One alone may be larger than all the room.
    let mut scene = Scene::new(pace(8_000, 100, 10_000));
    scene.send(1, 60_000, 0, Some(1400), Now::ZERO);
    assert_eq!(scene.queue.len(), 1);
}

#[test]
fn a_change_of_the_order_keeps_what_waits() {
    let fair = pace(8_000_000, 1_000, 1 << 20);
    let fifo = Pace {
        queue: Discipline::Fifo,
        ..fair
    };
    let mut scene = Scene::new(fair);
    for n in 0..40 {
        scene.send(1 + n % 4, 1_000, 0, None, Now::ZERO);
    }
    assert_eq!(scene.queue.len(), 39, "one was the burst");
    for next in [fifo, fair, fifo, fair] {
        scene.queue.reshape(next, Now::ZERO);
        assert_eq!((scene.queue.len(), scene.queue.held_segments()), (39, 39));
        assert_eq!(scene.queue.queued_bytes(), 39_000);
    }
    scene.run(Now::ZERO, after(39 * MILLI));
    assert!(scene.queue.is_empty());
    assert!((1..=4).all(|flow| scene.fates[&flow].bytes == 10_000));
}

#[test]
fn an_evicted_packet_is_such_a_one_as_was_asked_for() {
    let mut scene = Scene::new(pace(8_000, 100, 1 << 20));
    scene.send(1, 60_000, 0, Some(1400), Now::ZERO);
    scene.send(2, 500, 0, None, Now::ZERO);
    assert!(!scene.queue.evict(|p| !p.is_large()), "the fattest is not");
    assert!(scene.queue.evict(Packet::is_large));
    scene.lose();
    assert_eq!((scene.queue.len(), scene.fates[&1].full), (1, 1));
}

#[test]
fn at_a_slow_rate_a_frames_own_time_is_not_too_long() {
    let patience = pace(1_000_000, 2_000, 1 << 20).patience();
    assert_eq!(patience.target, Duration::from_micros(18_168));
    assert_eq!(patience.interval, Duration::from_micros(113_168));
    let patience = pace(20_000_000, 2_000, 1 << 20).patience();
    assert_eq!(patience.target, Duration::from_millis(5));
    assert_eq!(patience.interval, Duration::from_millis(100));
}
