//! Members of hosts that are gone: down at once, and no longer spoken of once the host is back.

use super::*;
use crate::compile::intent::{Balancer, BalancerMember, Function, Target, Work};
use hostconfig::chain::{HealthProbe, Monitor};

const MONITOR: u8 = 90;

/// The same, for a chain's own load balancer: members are named by their port and by their address.
fn named_by_ports(port: u8, address: u8) -> Object {
    let Object::Function(plain) = monitored(&[]) else {
        unreachable!("it is a function");
    };
    let Some(Work::LoadBalancer(balancer)) = plain.work.clone() else {
        unreachable!("it balances");
    };
    let targets = [
        Target::Port(kit::id(port)),
        Target::Address(kit::addr(address)),
    ];
    let members = targets.map(|target| BalancerMember {
        target,
        port: 80,
        weight: 1,
    });
    let balancer = Balancer {
        members: members.into(),
        ..balancer
    };
    Object::Function(Arc::new(Function {
        work: Some(Work::LoadBalancer(balancer)),
        ..Function::clone(&plain)
    }))
}

/// A virtual address on network 0, and the members 70 + n at the addresses of these ports.
fn monitored(members: &[u8]) -> Object {
    let Object::Function(plain) = kit::balancer(60, 10, &[]) else {
        unreachable!("it is a function");
    };
    let Some(Work::LoadBalancer(balancer)) = plain.work.clone() else {
        unreachable!("it balances");
    };
    let members = members.iter().map(|n| BalancerMember {
        target: Target::Named(kit::id(70 + n), kit::addr(*n)),
        port: 80,
        weight: 1,
    });
    let monitor = Monitor {
        id: kit::id(MONITOR),
        probe: HealthProbe::Tcp,
        delay_ms: 5000,
        timeout_ms: 2000,
        rise: 1,
        fall: 1,
        elsewhere: Vec::new(),
    };
    let balancer = Balancer {
        members: members.collect(),
        monitor: Some(monitor),
        ..balancer
    };
    Object::Function(Arc::new(Function {
        work: Some(Work::LoadBalancer(balancer)),
        ..Function::clone(&plain)
    }))
}

/// Ports 1 and 2 on network 0, 3 behind a router and 4 on a network that none joins, all but the first on host 1.
fn region() -> Region {
    let mut objects: Vec<Object> = (0..2).map(|n| kit::host(n, true, false)).collect();
    objects.extend([
        kit::network(0, "near"),
        kit::network(1, "routed"),
        kit::network(2, "elsewhere"),
        kit::port(10, 0, None, &[], 200),
        kit::port(1, 0, Some(0), &[], 200),
        kit::port(2, 0, Some(1), &[], 200),
        kit::port(3, 1, Some(1), &[], 200),
        kit::port(4, 2, Some(1), &[], 200),
        kit::router(5, true, &[]),
        kit::interface(20, 0, 5),
        kit::interface(21, 1, 5),
        monitored(&[1, 2, 3, 4, 9]),
        kit::classifier(61, None, Some(hostconfig::chain::Side::Port(kit::id(10)))),
        kit::chain(62, &[61], &[60]),
    ]);
    let mut region = Region::new(objects, 0..2);
    region.connect_all();
    region.ticks(Duration::from_secs(6));
    region
}

impl Region {
    pub(super) fn ticks(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(100);
            self.on(Event::Beat);
            if self.now.nanos().is_multiple_of(1_000_000_000) {
                self.on(Event::Tick);
            }
            self.deliver_all();
        }
    }

    /// Who was said to be down meanwhile.
    fn down(&mut self) -> Vec<u8> {
        let judged = std::mem::take(&mut self.judged);
        let mut down: Vec<u8> = judged
            .iter()
            .map(|verdict| {
                assert!(!verdict.serves);
                assert_eq!(
                    verdict.monitor,
                    kit::id::<net::ids::kind::Port>(MONITOR).uuid()
                );
                let [.., n] = verdict.member.into_bytes();
                n - 70
            })
            .collect();
        down.sort_unstable();
        down
    }
}

#[test]
fn members_of_a_host_whose_stream_ended_are_down_within_two_seconds() {
    let mut region = region();
    assert!(region.down().is_empty());
    region.cut(&kit::host_name(1));
    region.ticks(Duration::from_secs(2));
    assert_eq!(
        region.down(),
        [2, 3],
        "and whom nothing reaches is not spoken of"
    );
    region.ticks(Duration::from_secs(5));
    assert!(region.down().is_empty(), "it was said");
    region.ticks(Duration::from_secs(5));
    assert_eq!(region.down(), [2, 3], "and is again, were it refused");
    region.connect_all();
    region.ticks(Duration::from_secs(20));
    assert!(region.down().is_empty(), "it is back: its own word holds");
    region.cut(&kit::host_name(1));
    region.ticks(Duration::from_secs(2));
    assert_eq!(region.down(), [2, 3]);
}

#[test]
fn members_named_by_ports_and_addresses_are_down_with_their_host() {
    let mut region = region();
    region.commit(kit::put([named_by_ports(2, 1)]));
    region.ticks(Duration::from_secs(2));
    region.cut(&kit::host_name(1));
    region.ticks(Duration::from_secs(2));
    let port = |n: u8| kit::id::<net::ids::kind::Port>(n).uuid();
    let down = |region: &mut Region| {
        let judged = std::mem::take(&mut region.judged);
        judged.iter().map(|v| v.member).collect::<Vec<_>>()
    };
    assert_eq!(down(&mut region), [port(2)]);
    region.cut(&kit::host_name(0));
    region.ticks(Duration::from_secs(2));
    let address = kit::addr(1).to_string();
    let named = uuid::Uuid::new_v5(&port(10), address.as_bytes());
    assert!(down(&mut region).contains(&named));
}

#[test]
fn members_of_a_silent_host_are_down_within_two_seconds() {
    let mut region = region();
    region.hosts.get_mut(&kit::host_name(0)).unwrap().mute = true;
    region.ticks(Duration::from_secs(2));
    assert_eq!(region.down(), [1]);
}

#[test]
fn what_is_new_behind_a_host_that_is_gone_is_down() {
    let mut region = region();
    region.cut(&kit::host_name(0));
    region.ticks(Duration::from_secs(2));
    assert_eq!(region.down(), [1]);
    let late = [kit::port(6, 0, Some(0), &[], 200), monitored(&[1, 6])];
    region.commit(kit::put(late));
    region.ticks(Duration::from_secs(2));
    assert_eq!(region.down(), [1, 6]);
    // One that moves to a host that is there is asked by that.
    region.commit(kit::put([kit::port(6, 0, Some(1), &[], 200)]));
    region.ticks(Duration::from_secs(12));
    assert!(!region.down().contains(&6));
}

#[test]
fn a_host_without_an_agent_and_one_that_may_still_come_back_are_not_gone() {
    let mut region = region();
    region.commit(kit::put([kit::host(1, true, true)]));
    region.ticks(Duration::from_secs(20));
    assert!(region.down().is_empty(), "foreign: nobody asks");
    region.commit(kit::put([kit::host(1, true, false)]));
    region.restart(INCARNATION, region.generation + 1);
    region.ticks(Duration::from_secs(4));
    assert!(region.down().is_empty(), "the controller has just started");
    region.ticks(Duration::from_secs(2));
    assert_eq!(region.down(), [1, 2, 3]);
}
