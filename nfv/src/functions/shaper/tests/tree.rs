//! Queues that share rates, beside a fluid that fills them.

use std::time::Duration;

use hostconfig::{Discipline, share::Node};
use net::{Gso, Now, Offload, Packet, PacketPool, testkit::FrameBuilder};
use proptest::prelude::*;
use uuid::Uuid;

use crate::functions::shaper::{Loss, MAX_NODES, Pace, Tree, TreeFault};

const SECOND: u64 = 1_000_000_000;
const MBIT: u64 = 1_000_000;

fn node(id: u128, rate_bps: u64, ceil_bps: u64) -> Node {
    Node {
        id: Uuid::from_u128(id),
        rate_bps,
        ceil_bps,
        burst_bytes: 12_000,
        fabric: false,
    }
}

fn pace(ceil: u64, queue: Discipline) -> Pace {
    Pace {
        bits: Some((ceil, 12_000)),
        segments: None,
        queue_bytes: 1 << 20,
        queue,
    }
}

fn plain(pool: &mut PacketPool, len: usize) -> Packet {
    let mut packet = pool.take(len).unwrap();
    packet.set_len(len).unwrap();
    packet
}

/// A leaf of a simulation: what it has, and what comes to it.
#[derive(Debug, Clone)]
struct Source {
    above: Vec<Node>,
    rate: u64,
    ceil: u64,
    /// Bits a second; `None`: there is always more.
    demand: Option<u64>,
    size: usize,
    queue: Discipline,
}

fn source(above: &[Node], rate: u64, ceil: u64, demand: Option<u64>, size: usize) -> Source {
    Source {
        above: above.to_vec(),
        rate,
        ceil,
        demand,
        size,
        queue: Discipline::Fifo,
    }
}

/// Polls as the tree asks, up to 50 µs late; bits of each leaf in the seconds `from..to`.
fn run(sources: &[Source], from: u64, to: u64) -> Vec<u64> {
    let mut pool = PacketPool::new(4_096, 512);
    let root = sources[0].above.last().unwrap();
    let mut tree = Tree::new(root, 1, Now::ZERO);
    let mut leaves = Vec::new();
    for (at, s) in sources.iter().enumerate() {
        let put = (s.rate, pace(s.ceil, s.queue), 64);
        leaves.push(tree.put(at, put, &s.above, Now::ZERO).unwrap());
    }
    let mut due = vec![0u64; sources.len()];
    let (mut now, mut jitter) = (Now::ZERO, 1u64);
    let mut bits = vec![0; sources.len()];
    while now.nanos() < to {
        let mut next = u64::MAX;
        for (at, s) in sources.iter().enumerate() {
            while match s.demand {
                None => tree.queue(leaves[at]).unwrap().len() < 8,
                Some(_) => due[at] <= now.nanos(),
            } {
                let packet = plain(&mut pool, s.size);
                if let Err(full) = tree.enqueue(leaves[at], packet, now) {
                    pool.give(full);
                }
                if let Some(demand) = s.demand {
                    due[at] += s.size as u64 * 8 * SECOND / demand;
                }
            }
            if s.demand.is_some() {
                next = next.min(due[at]);
            }
        }
        let mut sent = 0;
        while sent < 4
            && let Some((at, packet)) = tree.dequeue(now)
        {
            if now.nanos() >= from {
                bits[at] += packet.wire_bytes() * 8;
            }
            pool.give(packet);
            sent += 1;
        }
        while let Some((_, packet, _)) = tree.lost() {
            pool.give(packet);
        }
        if sent == 4 {
            continue;
        }
        jitter = crate::keyed_hash::scramble(jitter);
        let wake = tree
            .next_wake(now)
            .map_or(next, |wake| wake.nanos().min(next));
        assert!(
            wake > now.nanos() || sent > 0,
            "nothing goes, and it says that something may"
        );
        now = Now::from_nanos(wake + jitter % 50_000);
    }
    bits
}

/// The fluid: what has a part for certain gets that, and the rest fills all by their weights until each has enough.
#[derive(Debug)]
struct Fluid {
    rate: f64,
    ceil: f64,
    demand: f64,
    children: Vec<Fluid>,
}

impl Fluid {
    fn want(&self) -> f64 {
        let below: f64 = self.children.iter().map(Self::want).sum();
        self.ceil.min(if self.children.is_empty() {
            self.demand
        } else {
            below
        })
    }

    fn give(&self, bits: f64, to: &mut Vec<f64>) {
        if self.children.is_empty() {
            to.push(bits);
            return;
        }
        let wants: Vec<f64> = self.children.iter().map(Self::want).collect();
        let least = (self.rate / 100.0).max(1.0);
        let weights: Vec<f64> = self.children.iter().map(|c| c.rate.max(least)).collect();
        let mut has: Vec<f64> = self
            .children
            .iter()
            .zip(&wants)
            .map(|(c, w)| c.rate.min(*w))
            .collect();
        let mut left = bits - has.iter().sum::<f64>();
        loop {
            let open: Vec<usize> = (0..has.len())
                .filter(|i| wants[*i] - has[*i] > 1.0)
                .collect();
            let weight: f64 = open.iter().map(|i| weights[*i]).sum();
            if open.is_empty() || left < 1.0 {
                break;
            }
            // As far as the first is full.
            let step = open.iter().map(|i| (wants[*i] - has[*i]) / weights[*i]);
            let step = step.fold(left / weight, f64::min);
            for i in open {
                has[i] += step * weights[i];
                left -= step * weights[i];
            }
        }
        for (child, bits) in self.children.iter().zip(has) {
            child.give(bits, to);
        }
    }
}

fn near(bits: u64, expected: f64, seconds: u64, size: usize) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (bits, seconds, size) = (bits as f64, seconds as f64, size as f64);
    let expected = expected * seconds;
    // At a slow rate a packet more or less is more than 2 %.
    (bits - expected).abs() <= expected * 0.02 + 3.0 * size * 8.0
}

/// A random tree of two levels below the root, told both ways.
fn any_tree() -> impl Strategy<Value = (Fluid, Vec<Source>)> {
    let leaf = (
        1u64..10,
        0u64..=4,
        prop::option::weighted(0.4, 1u64..120),
        0usize..3,
        any::<bool>(),
    );
    let group = (
        1u64..10,
        1u64..=4,
        prop::collection::vec(leaf, 1..4),
        any::<bool>(),
    );
    (prop::collection::vec(group, 1..4), 1u64..8).prop_map(|(groups, spare)| {
        let all = 40 * MBIT;
        let root = node(1, all, all);
        let part = |of: u64, n: u64, sum: u64| of * n / sum.max(1);
        let between = |rate: u64, above: u64, quarters: u64| {
            (rate + (above - rate) * quarters / 4).max(MBIT / 2)
        };
        let sum = groups.iter().map(|g| g.0).sum::<u64>() + spare;
        let (mut children, mut sources) = (Vec::new(), Vec::new());
        for (id, (share, quarters, leaves, alone)) in (2u128..).zip(groups) {
            let rate = part(all, share, sum);
            let ceil = between(rate, all, quarters);
            let sum = leaves.iter().map(|l| l.0).sum::<u64>() + spare;
            let mut below = Vec::new();
            for (share, quarters, demand, size, by_flow) in leaves {
                let has = if alone {
                    rate.min(part(all, share, sum))
                } else {
                    part(rate, share, sum)
                };
                let most = if alone { all } else { ceil };
                let leaf_ceil = between(has, most, quarters);
                let demand = demand.map(|d| all * d / 100);
                let size = [300, 1_514, 4_000][size];
                let above = if alone {
                    vec![root]
                } else {
                    vec![node(id, rate, ceil), root]
                };
                let mut one = source(&above, has, leaf_ceil, demand, size);
                if by_flow {
                    one.queue = Discipline::FqCodel;
                }
                sources.push(one);
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                below.push(Fluid {
                    rate: has as f64,
                    ceil: leaf_ceil as f64,
                    demand: demand.map_or(f64::INFINITY, |d| d as f64),
                    children: vec![],
                });
                if alone {
                    // One leaf that stands beside the groups.
                    break;
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            if alone {
                children.append(&mut below);
            } else {
                children.push(Fluid {
                    rate: rate as f64,
                    ceil: ceil as f64,
                    demand: 0.0,
                    children: below,
                });
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let fluid = Fluid {
            rate: all as f64,
            ceil: all as f64,
            demand: 0.0,
            children,
        };
        (fluid, sources)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn each_gets_what_a_fluid_would_within_two_percent((fluid, sources) in any_tree()) {
        let mut expected = Vec::new();
        fluid.give(fluid.want(), &mut expected);
        let bits = run(&sources, SECOND / 2, 5 * SECOND / 2);
        for ((bits, expected), source) in bits.iter().zip(expected).zip(&sources) {
            prop_assert!(
                near(*bits, expected, 2, source.size),
                "{} of {} ({source:?})", *bits / 2, expected,
            );
        }
    }
}

#[test]
fn who_wants_more_borrows_what_others_leave() {
    let root = node(1, 0, 10 * MBIT);
    let sources = |demand| {
        [
            source(&[root], 6 * MBIT, 10 * MBIT, demand, 1_514),
            source(&[root], 2 * MBIT, 10 * MBIT, None, 1_514),
            source(&[root], MBIT, 4 * MBIT, None, 1_514),
        ]
    };
    // All want all: nine are promised, and the tenth is lent as 6 to 2 to 1.
    let bits = run(&sources(None), SECOND, 3 * SECOND);
    for (bits, expected) in bits
        .iter()
        .zip([6.0 + 6.0 / 9.0, 2.0 + 2.0 / 9.0, 1.0 + 1.0 / 9.0])
    {
        assert!(
            near(*bits, expected * 1e6, 2, 1_514),
            "{bits} of {expected}"
        );
    }
    // The first sends one: of the six left, the others have as 2 to 1, and the last is at its ceiling before that.
    let bits = run(&sources(Some(MBIT)), SECOND, 3 * SECOND);
    for (bits, expected) in bits.iter().zip([1.0, 6.0, 3.0]) {
        assert!(
            near(*bits, expected * 1e6, 2, 1_514),
            "{bits} of {expected}"
        );
    }
}

#[test]
fn who_has_nothing_for_certain_is_not_starved() {
    let root = node(1, 0, 10 * MBIT);
    let sources = [
        source(&[root], 5 * MBIT, 10 * MBIT, None, 1_514),
        source(&[root], 0, 10 * MBIT, None, 1_514),
    ];
    // A hundredth of what the root has is its weight: 5 are left, as 5 to 0.1.
    let bits = run(&sources, SECOND, 11 * SECOND);
    let least = 5.0 * 0.1 / 5.1;
    for (bits, expected) in bits.iter().zip([10.0 - least, least]) {
        assert!(
            near(*bits, expected * 1e6, 10, 1_514),
            "{bits} of {expected}"
        );
    }
}

#[test]
fn a_shared_ceiling_bounds_all_below_from_the_first_packet() {
    let (root, group) = (node(1, 0, 100 * MBIT), node(2, 10 * MBIT, 20 * MBIT));
    let sources: Vec<Source> = (0..4)
        .map(|_| source(&[group, root], 2 * MBIT, 100 * MBIT, None, 1_514))
        .collect();
    let all: u64 = run(&sources, 0, 2 * SECOND).iter().sum();
    // Bursts: the group's, and those of four rates; or 10 ms of each rate.
    let most = 2 * 20 * MBIT + 20 * MBIT / 100 + 4 * 12_000 * 8 + 1_514 * 8;
    assert!(all <= most, "{all} of {most}");
    assert!(all >= 2 * 20 * MBIT * 98 / 100, "{all}");
}

#[test]
fn a_super_frame_that_was_borrowed_for_keeps_no_guarantee_waiting() {
    let mut pool = PacketPool::new(64, 64);
    let root = node(1, 0, 20 * MBIT);
    let mut tree = Tree::new(&root, 1, Now::ZERO);
    let put = |tree: &mut Tree<u8>, key, rate| {
        let put = (rate, pace(1_000 * MBIT, Discipline::Fifo), 64);
        tree.put(key, put, &[root], Now::ZERO).unwrap()
    };
    let (bulk, calm) = (put(&mut tree, 0, 0), put(&mut tree, 1, 2 * MBIT));
    for _ in 0..8 {
        let p = plain(&mut pool, 60_000);
        tree.enqueue(bulk, p, Now::ZERO).unwrap();
    }
    let (key, p) = tree.dequeue(Now::ZERO).unwrap();
    pool.give(p);
    assert_eq!(key, 0);
    assert!(
        tree.dequeue(Now::ZERO).is_none(),
        "24 ms of the root's rate are owed"
    );
    let now = Now::from_nanos(1_000_000);
    let p = plain(&mut pool, 200);
    tree.enqueue(calm, p, now).unwrap();
    assert_eq!(tree.next_wake(now), Some(now));
    assert_eq!(tree.dequeue(now).map(|(key, _)| key), Some(1));
    // 60,200 bytes less the burst, at 2.5 bytes a µs.
    let wake = tree.next_wake(now).unwrap().nanos();
    let owed = (60_200 - 12_000) * 8 * SECOND / (20 * MBIT);
    assert!(wake.abs_diff(owed) < 1_000, "{wake} {owed}");
}

#[test]
fn a_super_frame_costs_its_segments_headers() {
    let mut pool = PacketPool::new(8, 64);
    let root = node(1, 0, 8 * MBIT);
    let mut tree = Tree::new(&root, 1, Now::ZERO);
    let put = (0, pace(1_000 * MBIT, Discipline::Fifo), 64);
    let leaf = tree.put(0u8, put, &[root], Now::ZERO).unwrap();
    let frame = FrameBuilder::tcp(false, 1, 2)
        .payload(&vec![0; 30_000])
        .build();
    let mut p = pool.take(frame.len()).unwrap();
    p.fill(&frame).unwrap();
    p.parse().unwrap();
    p.set_offload(Offload {
        gso: Gso::Tcp {
            size: 1_000,
            ecn: false,
        },
        ..Offload::default()
    });
    let wire = 30_000 + 30 * 54;
    assert_eq!(p.wire_bytes(), wire);
    assert!(tree.pass(leaf, &p, Now::ZERO), "nothing is owed yet");
    assert!(!tree.pass(leaf, &p, Now::ZERO));
    tree.enqueue(leaf, p, Now::ZERO).unwrap();
    // A byte a microsecond.
    let owed = (wire - 12_000) * 1_000;
    let wake = tree.next_wake(Now::ZERO).unwrap().nanos();
    assert!((owed..owed + 1_000).contains(&wake), "{wake} {owed}");
    assert!(tree.dequeue(Now::from_nanos(owed - 1_000)).is_none());
    assert!(tree.dequeue(Now::from_nanos(wake)).is_some());
}

#[test]
fn no_more_is_promised_than_there_is() {
    let (root, group) = (node(1, 0, 10 * MBIT), node(2, 6 * MBIT, 8 * MBIT));
    let mut tree = Tree::new(&root, 1, Now::ZERO);
    let mut put = |key: u8, rate, above: &[Node]| {
        let put = (rate, pace(10 * MBIT, Discipline::Fifo), 64);
        tree.put(key, put, above, Now::ZERO).map(|_| ())
    };
    put(0, 4 * MBIT, &[group, root]).unwrap();
    put(1, 2 * MBIT, &[group, root]).unwrap();
    let refused = |of: u128, left, asked| Err(TreeFault::Rates { of, left, asked });
    assert_eq!(put(2, 1, &[group, root]), refused(2, 0, 1));
    assert_eq!(put(2, 5 * MBIT, &[root]), refused(1, 4 * MBIT, 5 * MBIT));
    put(2, 4 * MBIT, &[root]).unwrap();
    // A node that was not there, for which nothing is left, is not made.
    assert_eq!(put(3, 1, &[node(3, 1, MBIT), root]), refused(1, 0, 1));
    put(1, MBIT, &[group, root]).unwrap();
    put(3, MBIT, &[group, root]).unwrap();
    let elsewhere = node(9, 0, MBIT);
    assert_eq!(put(4, 0, &[elsewhere]), Err(TreeFault::Root(1)));
    assert_eq!(put(4, 0, &[]), Err(TreeFault::Depth(0)));
    assert_eq!(put(4, 0, &[root; 7]), Err(TreeFault::Depth(7)));
    let words = put(4, 1, &[root]).unwrap_err().to_string();
    assert!(
        words.ends_with("are together above its own (0 left): 1"),
        "{words}"
    );
}

#[test]
fn a_tree_has_so_many_nodes_and_gives_their_places_back() {
    let root = node(1, 0, 10 * MBIT);
    let mut tree = Tree::new(&root, 1, Now::ZERO);
    let put = |tree: &mut Tree<u128>, key: u128| {
        let put = (0, pace(MBIT, Discipline::Fifo), 4);
        tree.put(key, put, &[node(key + 2, 0, MBIT), root], Now::ZERO)
    };
    // The root, and twice 511; a place is left, where only the node would fit.
    for key in 0..511 {
        put(&mut tree, key).unwrap();
    }
    assert_eq!(MAX_NODES, 1024);
    assert_eq!(put(&mut tree, 511).unwrap_err(), TreeFault::Full);
    assert_eq!(
        put(&mut tree, 511).unwrap_err(),
        TreeFault::Full,
        "nothing of it is left"
    );
    assert!(tree.remove(5).is_empty());
    put(&mut tree, 511).unwrap();
    assert!(!tree.is_bare());
    for key in 0..512 {
        assert_eq!(tree.find(key).is_some(), key != 5);
        tree.remove(key);
    }
    assert!(tree.is_bare());
    put(&mut tree, 5).unwrap();
}

#[test]
fn what_waits_moves_with_its_leaf() {
    let mut pool = PacketPool::new(64, 0);
    let (root, group) = (node(1, 0, MBIT), node(2, 0, MBIT / 2));
    let mut tree = Tree::new(&root, 1, Now::ZERO);
    let put = (0, pace(10 * MBIT, Discipline::Fifo), 64);
    let leaf = tree.put(0u8, put, &[group, root], Now::ZERO).unwrap();
    for len in [100, 200, 300] {
        let p = plain(&mut pool, len);
        tree.enqueue(leaf, p, Now::ZERO).unwrap();
    }
    let leaf = tree.put(0, put, &[root], Now::ZERO).unwrap();
    assert_eq!(tree.queue(leaf).unwrap().len(), 3);
    let mut lens = Vec::new();
    let mut now = Now::ZERO;
    while let Some(wake) = tree.next_wake(now) {
        now = wake.max(now + Duration::from_nanos(1));
        while let Some((_, p)) = tree.dequeue(now) {
            lens.push(p.len());
        }
    }
    assert_eq!(lens, [100, 200, 300]);
    assert!(tree.is_empty());
    let p = plain(&mut pool, 100);
    tree.enqueue(leaf, p, now).unwrap();
    assert_eq!(tree.remove(0).len(), 1);
    assert_eq!((tree.next_wake(now), tree.find(0)), (None, None));
}

#[test]
fn a_rate_that_shrinks_makes_room_for_another_that_grows() {
    let root = node(1, 0, 10 * MBIT);
    let mut tree = Tree::new(&root, 1, Now::ZERO);
    let put = |tree: &mut Tree<u8>, key, rate| {
        let put = (rate, pace(10 * MBIT, Discipline::Fifo), 64);
        tree.put(key, put, &[root], Now::ZERO).map(|_| ())
    };
    put(&mut tree, 0, 6 * MBIT).unwrap();
    put(&mut tree, 1, 4 * MBIT).unwrap();
    assert!(put(&mut tree, 1, 6 * MBIT).is_err());
    tree.unpromise();
    put(&mut tree, 1, 6 * MBIT).unwrap();
    assert!(put(&mut tree, 0, 6 * MBIT).is_err());
    put(&mut tree, 0, 4 * MBIT).unwrap();
}

#[test]
fn marks_and_losses_of_a_leaf_are_told_with_its_name() {
    let mut pool = PacketPool::new(256, 0);
    let root = node(1, 0, MBIT);
    let mut tree = Tree::new(&root, 1, Now::ZERO);
    let put = (0, pace(10 * MBIT, Discipline::FqCodel), 64);
    let leaves = [7u8, 8].map(|key| tree.put(key, put, &[root], Now::ZERO).unwrap());
    let (mut now, mut marked, mut lost) = (Now::ZERO, 0, 0);
    while now.nanos() < 2 * SECOND {
        // ECT(0) in the first leaf alone.
        for (leaf, tos) in leaves.into_iter().zip([2, 0]) {
            while tree.queue(leaf).unwrap().len() < 32 {
                let frame = FrameBuilder::udp(false, 1, 2)
                    .tos(tos)
                    .payload(&[0; 958])
                    .build();
                let mut p = pool.take(frame.len()).unwrap();
                p.fill(&frame).unwrap();
                p.parse().unwrap();
                tree.enqueue(leaf, p, now).unwrap();
            }
        }
        while let Some((_, p)) = tree.dequeue(now) {
            pool.give(p);
        }
        while let Some((key, segments)) = tree.marked() {
            assert_eq!(key, 7);
            marked += segments;
        }
        while let Some((key, p, loss)) = tree.lost() {
            assert_eq!((key, loss), (8, Loss::CoDel));
            pool.give(p);
            lost += 1;
        }
        now = tree.next_wake(now).unwrap_or(now) + Duration::from_nanos(1);
    }
    assert!(marked > 3 && lost > 3, "{marked} {lost}");
}
