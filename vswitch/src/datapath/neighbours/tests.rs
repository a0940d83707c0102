use net::PacketPool;
use uuid::Uuid;

use super::{Resolution::*, *};

const MAC: Mac = Mac::new([2, 0, 0, 0, 0, 0x31]);
const OTHER: Mac = Mac::new([2, 0, 0, 0, 0, 0x32]);

fn network() -> Id<kind::Network> {
    Uuid::from_u128(7).into()
}

fn speaker(of: &str) -> Speaker {
    Speaker {
        mac: Mac::new([2, 0, 0, 0, 0, 1]),
        addr: if of.contains(':') {
            "2001:db8::1".parse().unwrap()
        } else {
            "203.0.113.1".parse().unwrap()
        },
    }
}

/// A table under a clock of its own.
struct World {
    outside: Outside,
    now: Now,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            outside: Outside::new(limits, 1),
            now: Now::ZERO,
        }
    }

    fn resolve(&self, addr: &str) -> Answer {
        let to = addr.parse().unwrap();
        self.outside.resolve(network(), to, speaker(addr), self.now)
    }

    fn hear(&self, addr: &str, mac: Option<Mac>, said: Said) {
        let heard = Heard {
            addr: addr.parse().unwrap(),
            mac,
            said,
            about: None,
        };
        let (speaker, now) = (Some(speaker(addr)), self.now);
        self.outside.hear(network(), &heard, speaker, now);
    }

    fn answer(&self, addr: &str, mac: Mac) {
        self.hear(addr, Some(mac), Said::Answers { overrides: true });
    }

    /// What is asked while time passes, one second after the other.
    fn pass(&mut self, seconds: u64) -> Vec<Question> {
        let mut asked = Vec::new();
        self.outside.due(self.now, &mut asked);
        for _ in 0..seconds {
            self.now = self.now + Duration::from_secs(1);
            self.outside.due(self.now, &mut asked);
        }
        asked
    }

    fn state(&self) -> &'static str {
        self.outside.show().first().map_or("none", |s| s.state)
    }

    fn stands(&self, answer: Answer) -> bool {
        self.outside.epoch(answer.depends.section) == answer.depends.epoch
    }
}

#[test]
fn an_unknown_neighbour_is_asked_for_thrice_and_rests_then() {
    for addr in ["203.0.113.9", "2001:db8::9"] {
        let mut world = World::new(Limits::default());
        let first = world.resolve(addr);
        assert_eq!(first.found, Pending);
        let asked = world.pass(2);
        assert_eq!(asked.len(), 3, "{asked:?}");
        assert!(
            asked
                .iter()
                .all(|q| q.to.is_none() && q.target == addr.parse::<IpAddr>().unwrap())
        );
        assert!(world.stands(first));
        assert!(world.pass(1).is_empty());
        assert!(!world.stands(first), "its sender is to hear of it");
        let failed = world.resolve(addr);
        assert_eq!(failed.found, Unresolvable);
        assert!(world.pass(2).is_empty());
        assert!(world.stands(failed));
        world.pass(1);
        assert!(!world.stands(failed));
        assert_eq!(
            world.outside.due(world.now, &mut Vec::new()),
            None,
            "an idle table wakes nobody"
        );
        assert_eq!(world.resolve(addr).found, Pending, "asked for again");
    }
}

#[test]
fn an_answer_moves_what_waited_and_nothing_else() {
    let mut world = World::new(Limits::default());
    let (waits, other) = (world.resolve("203.0.113.9"), world.resolve("203.0.113.8"));
    let version = world.outside.version();
    world.answer("203.0.113.9", MAC);
    assert!(world.outside.version() > version);
    assert!(!world.stands(waits) && world.stands(other));
    let found = world.resolve("203.0.113.9");
    assert_eq!(found.found, Resolved(MAC));
    // Confirmed again and again by probes, it stands.
    for _ in 0..8 {
        let asked = world.pass(30);
        let probes = asked.iter().filter(|q| q.to == Some(MAC)).count();
        assert_eq!(probes, 1, "{asked:?}");
        world.answer("203.0.113.9", MAC);
    }
    assert!(world.stands(found));
    world.answer("203.0.113.9", OTHER);
    assert!(!world.stands(found));
    assert_eq!(world.resolve("203.0.113.9").found, Resolved(OTHER));
}

#[test]
fn who_is_silent_under_traffic_is_lost_within_33_seconds() {
    let mut world = World::new(Limits::default());
    world.resolve("2001:db8::9");
    world.answer("2001:db8::9", MAC);
    let found = world.resolve("2001:db8::9");
    let asked = world.pass(32);
    assert_eq!(asked.iter().filter(|q| q.to == Some(MAC)).count(), 3);
    assert!(world.stands(found));
    world.pass(1);
    assert!(!world.stands(found));
    assert_eq!(world.resolve("2001:db8::9").found, Pending);
}

#[test]
fn who_is_not_used_goes_and_who_is_used_again_is_probed() {
    let mut world = World::new(Limits::default());
    world.resolve("203.0.113.9");
    world.answer("203.0.113.9", MAC);
    let found = world.resolve("203.0.113.9");
    while world.now < Now::ZERO + USED + REACHABLE {
        world.pass(1);
        if world.state() == "probe" {
            world.answer("203.0.113.9", MAC);
        }
    }
    assert_eq!(world.state(), "stale");
    assert!(!world.stands(found), "who sends by it has to say so");
    assert_eq!(world.resolve("203.0.113.9").found, Resolved(MAC));
    assert_eq!(world.state(), "delay");
    let asked = world.pass(5);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].to, Some(MAC));
    world.answer("203.0.113.9", MAC);
    assert_eq!(world.state(), "reachable");
}

#[test]
fn advertisements_are_believed_as_rfc_4861_says() {
    let addr = "2001:db8::9";
    let answers = |overrides| Said::Answers { overrides };
    let announces = |overrides| Said::Announces { overrides };
    for (said, mac, then, at) in [
        // Another address without override: doubted, not believed.
        (answers(false), Some(OTHER), "delay", MAC),
        (announces(false), Some(OTHER), "delay", MAC),
        (answers(true), Some(OTHER), "reachable", OTHER),
        (announces(true), Some(OTHER), "delay", OTHER),
        (answers(false), None, "reachable", MAC),
        (announces(true), Some(MAC), "reachable", MAC),
        (Said::Asks, Some(OTHER), "delay", OTHER),
    ] {
        let world = World::new(Limits::default());
        world.resolve(addr);
        world.hear(addr, Some(MAC), answers(true));
        world.hear(addr, mac, said);
        assert_eq!(world.state(), then, "{said:?} {mac:?}");
        assert_eq!(world.resolve(addr).found, Resolved(at), "{said:?} {mac:?}");
    }
    // Without an address nothing is learned of who is not known.
    let world = World::new(Limits::default());
    world.resolve(addr);
    world.hear(addr, None, answers(true));
    assert_eq!(world.resolve(addr).found, Pending);
    // What nobody asked for makes no entry, but a question to a speaker does.
    world.hear("2001:db8::8", Some(MAC), announces(true));
    world.hear("2001:db8::8", Some(MAC), answers(true));
    assert_eq!(world.outside.show().len(), 1);
    world.hear("2001:db8::8", Some(MAC), Said::Asks);
    assert_eq!(world.resolve("2001:db8::8").found, Resolved(MAC));
}

#[test]
fn a_scan_by_one_speaker_leaves_room_for_others() {
    let limits = Limits {
        entries: 64,
        of_network: 48,
        unknown: 16,
    };
    let mut world = World::new(limits);
    let scan = |world: &World, n: u8| world.resolve(&format!("203.0.113.{n}"));
    for n in 1..=16 {
        assert_eq!(scan(&world, n).found, Pending);
    }
    let refused = scan(&world, 17);
    assert_eq!(refused.found, Unresolvable);
    assert!(world.stands(refused));
    let other = Speaker {
        mac: OTHER,
        addr: "203.0.113.2".parse().unwrap(),
    };
    let addr = "203.0.113.99".parse().unwrap();
    let of_other = world.outside.resolve(network(), addr, other, world.now);
    assert_eq!(of_other.found, Pending);
    // Strangers fill half of the network's room, and no more.
    for n in 100..200 {
        world.hear(&format!("203.0.113.{n}"), Some(MAC), Said::Asks);
    }
    assert_eq!(world.outside.show().len(), 24);
    world.pass(6);
    assert!(!world.stands(refused), "there is room again");
    assert_eq!(scan(&world, 17).found, Pending);
    // All that nobody uses goes in time.
    world.pass(120);
    assert!(world.outside.show().is_empty());
    assert!(world.outside.known().unknown.is_empty());
    assert!(world.outside.known().of_network.is_empty());
    assert_eq!(world.outside.due(world.now, &mut Vec::new()), None);
}

#[test]
fn a_network_that_goes_takes_its_neighbours_along() {
    let world = World::new(Limits::default());
    world.resolve("203.0.113.9");
    world.answer("203.0.113.9", MAC);
    let found = world.resolve("203.0.113.9");
    world.outside.keep(|_| true);
    assert!(world.stands(found));
    world.outside.keep(|id| id != network());
    assert!(!world.stands(found));
    assert!(world.outside.show().is_empty());
}

fn heard(bytes: &[u8]) -> Option<Heard> {
    let mut pool = PacketPool::new(1, 0);
    let mut packet = pool.take_small().unwrap();
    packet.fill(bytes).unwrap();
    packet.parse().unwrap();
    Heard::of(&packet)
}

#[test]
fn questions_and_announcements_are_read_as_they_were_meant() {
    for (addr, target) in [
        ("203.0.113.1", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::9"),
    ] {
        let from = speaker(addr);
        for to in [None, Some(OTHER)] {
            let question = Question {
                network: network(),
                from,
                target: target.parse().unwrap(),
                to,
            };
            let frame = question.frame().unwrap();
            let read = heard(frame.bytes()).unwrap();
            assert_eq!(
                (read.addr, read.mac, read.said, read.about),
                (from.addr, Some(from.mac), Said::Asks, Some(question.target))
            );
            let dst = Mac::new(*frame.bytes().first_chunk().unwrap());
            assert_eq!(to.unwrap_or(dst), dst);
            assert_eq!(to.is_none(), dst.is_multicast());
        }
        let read = heard(announcement(from, true).bytes()).unwrap();
        assert_eq!(
            (read.addr, read.mac, read.said),
            (
                from.addr,
                Some(from.mac),
                Said::Announces { overrides: true }
            )
        );
    }
    let mixed = Question {
        network: network(),
        from: speaker("203.0.113.1"),
        target: "2001:db8::9".parse().unwrap(),
        to: None,
    };
    assert_eq!(mixed.frame(), None);
}

#[test]
fn what_can_not_be_true_is_not_heard() {
    let good = announcement(speaker("2001:db8::1"), false);
    let spoiled = |at: usize| {
        let mut bytes = good.bytes().to_vec();
        bytes[at] ^= 1;
        bytes
    };
    // The checksum, a field that it covers, the hop limit.
    for at in [14 + 40 + 2, 14 + 40 + 20, 14 + 7] {
        assert_eq!(heard(&spoiled(at)), None, "{at}");
    }
    let mut arp = announcement(speaker("203.0.113.1"), false).bytes().to_vec();
    // A MAC address that many have.
    arp[14 + 8] |= 1;
    assert_eq!(heard(&arp), None);
    let mut bytes = announcement(speaker("203.0.113.1"), false).bytes().to_vec();
    bytes[14 + 7] = 2;
    bytes[0..6].copy_from_slice(&MAC.octets());
    bytes[14 + 27] = 9;
    let read = heard(&bytes).unwrap();
    assert_eq!(read.said, Said::Answers { overrides: true });
    assert_eq!(read.about, Some("203.0.113.9".parse().unwrap()));
}
