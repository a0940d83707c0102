//! Appliances of hosts that are gone: down at once, and up again once the host is back.

use super::*;

/// A pair on host 1, through which the network's connections lead; host 2 has none.
fn region() -> Region {
    let mut objects: Vec<Object> = (0..3).map(|n| kit::host(n, true, false)).collect();
    objects.extend([
        kit::network(0, "near"),
        kit::port(1, 0, Some(0), &[], 200),
        kit::port(2, 0, Some(1), &[], 200),
        kit::port(3, 0, Some(1), &[], 200),
        kit::classifier(61, Some(hostconfig::chain::Side::Network(kit::id(0))), None),
        kit::appliances(62, &[(2, 3)]),
        kit::chain(63, &[61], &[62]),
    ]);
    let mut region = Region::new(objects, 0..3);
    region.connect_all();
    region.ticks(Duration::from_secs(6));
    region
}

impl Region {
    fn lost(&self) -> [bool; 3] {
        [0, 1, 2].map(|n| self.store.host(&kit::host_name(n)).unwrap().lost)
    }
}

const NONE: [bool; 3] = [false; 3];
const FIRST: [bool; 3] = [false, true, false];

#[test]
fn a_host_of_appliances_is_lost_within_two_seconds_and_found_when_it_is_back() {
    for mute in [false, true] {
        let mut region = region();
        assert_eq!(region.lost(), NONE);
        let one = kit::host_name(1);
        if mute {
            region.hosts.get_mut(&one).unwrap().mute = true;
        } else {
            region.cut(&one);
        }
        region.ticks(Duration::from_secs(2));
        assert_eq!(region.lost(), FIRST, "mute: {mute}");
        region.ticks(Duration::from_secs(20));
        assert_eq!(region.lost(), FIRST);
        region.hosts.get_mut(&one).unwrap().mute = false;
        region.connect_all();
        region.ticks(Duration::from_secs(2));
        assert_eq!(region.lost(), NONE);
    }
}

#[test]
fn hosts_without_appliances_are_not_spoken_of_and_what_was_said_is_taken_back() {
    let mut region = region();
    region.cut(&kit::host_name(0));
    region.cut(&kit::host_name(1));
    region.cut(&kit::host_name(2));
    region.ticks(Duration::from_secs(5));
    assert_eq!(region.lost(), FIRST);
    // Its appliance is taken away while it is gone.
    let gone = crate::compile::intent::ObjectId::Chain(kit::id(63));
    region.commit(vec![Change::Gone(gone)]);
    region.commit(kit::put([kit::appliances(62, &[(1, 1)])]));
    region.ticks(Duration::from_secs(2));
    assert_eq!(region.lost(), [true, true, false]);
    region.connect_all();
    region.ticks(Duration::from_secs(3));
    assert_eq!(region.lost(), NONE);
}

#[test]
fn a_host_that_may_still_come_back_to_a_new_controller_is_not_lost() {
    let mut region = region();
    let generation = region.generation + 1;
    region.restart(INCARNATION, generation);
    region.ticks(Duration::from_secs(4));
    assert_eq!(region.lost(), NONE);
    region.ticks(Duration::from_secs(3));
    assert_eq!(region.lost(), FIRST);
}

#[test]
fn only_the_host_of_a_pair_is_believed_about_it() {
    let mut region = region();
    let uuid = |n| kit::id::<net::ids::kind::Port>(n).uuid();
    let said = |region: &mut Region, host, pair, serves| {
        let host = region.hosts.get_mut(&kit::host_name(host)).unwrap();
        let report = wire::Report {
            ports: Vec::new(),
            meters: Vec::new(),
            verdicts: vec![wire::Verdict {
                monitor: uuid(62).to_string(),
                member: uuid(pair).to_string(),
                serves,
            }],
            balanced: Vec::new(),
        };
        host.up
            .push_back(from_host(from_host::Message::Report(report)));
        region.deliver_all();
        let judged = std::mem::take(&mut region.judged);
        judged
            .iter()
            .map(|v| (v.member, v.serves))
            .collect::<Vec<_>>()
    };
    for serves in [false, true] {
        assert_eq!(said(&mut region, 0, 0, serves), []);
        assert_eq!(said(&mut region, 2, 0, serves), []);
        assert_eq!(said(&mut region, 1, 0, serves), [(uuid(0), serves)]);
        assert_eq!(
            said(&mut region, 1, 9, serves),
            [],
            "a pair that it has not"
        );
    }
    // It is asked where it is.
    let moved = [2, 3].map(|n| kit::port(n, 0, Some(2), &[], 200));
    region.commit(kit::put(moved));
    region.ticks(Duration::from_secs(1));
    assert_eq!(said(&mut region, 1, 0, false), []);
    assert_eq!(said(&mut region, 2, 0, false), [(uuid(0), false)]);
}
