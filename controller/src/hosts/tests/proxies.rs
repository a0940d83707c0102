//! Where load balancers' proxies run: spread over the hosts that have the program, kept, and elsewhere within two seconds when their host is gone.

use super::*;
use crate::compile::intent::{Port, Proxy};

impl Region {
    pub(super) fn seat(&mut self, seating: Seating) {
        let port = self.store.port(seating.port).unwrap();
        if port.host == seating.from {
            let mut port = Port::clone(port);
            port.host.clone_from(&seating.to);
            self.seated.push(seating);
            self.commit(kit::put([Object::Port(Arc::new(port))]));
        }
    }

    /// Where the proxy behind a port is, as the store has it, and who is told of it.
    fn proxy_of(&self, port: u8) -> (Option<HostName>, Vec<HostName>) {
        let key = hostconfig::SectionKey::Proxy(kit::id(port));
        let told = self.hosts.values();
        let told = told.filter(|host| host.config.sections.contains_key(&key));
        let told = told.map(|host| host.name.clone()).collect();
        (self.store.port(kit::id(port)).unwrap().host.clone(), told)
    }
}

fn host(n: u8, proxies: bool) -> Object {
    let Object::Host(plain) = kit::host(n, true, false) else {
        unreachable!("it is a host");
    };
    Object::Host(Arc::new(Host {
        proxies,
        ..Host::clone(&plain)
    }))
}

fn proxy(n: u8, port: u8) -> Object {
    Object::Proxy(Arc::new(Proxy {
        id: kit::id::<net::ids::kind::Port>(n).uuid(),
        section: hostconfig::Proxy {
            port: kit::id(port),
            listeners: vec![],
            pools: vec![],
        },
    }))
}

/// Three hosts, of which the first has no program, and four proxies.
fn region() -> Region {
    let mut objects: Vec<Object> = (0..3).map(|n| host(n, n > 0)).collect();
    objects.push(kit::network(0, "near"));
    for n in 1..5 {
        objects.extend([kit::port(n, 0, None, &[], 200), proxy(80 + n, n)]);
    }
    let mut region = Region::new(objects, 0..3);
    region.connect_all();
    region.ticks(Duration::from_secs(2));
    region
}

fn at(host: u8) -> (Option<HostName>, Vec<HostName>) {
    (Some(kit::host_name(host)), vec![kit::host_name(host)])
}

#[test]
fn they_are_spread_over_the_hosts_that_can_and_kept() {
    let mut region = region();
    let places: Vec<_> = (1..5).map(|n| region.proxy_of(n)).collect();
    assert_eq!(places.iter().filter(|place| **place == at(1)).count(), 2);
    assert_eq!(places.iter().filter(|place| **place == at(2)).count(), 2);
    region.seated.clear();
    region.ticks(Duration::from_secs(10));
    assert_eq!(region.seated, []);
}

#[test]
fn they_leave_a_host_that_is_gone_within_two_seconds_and_stay_where_they_are_then() {
    let mut region = region();
    region.cut(&kit::host_name(1));
    region.ticks(Duration::from_secs(2));
    for n in 1..5 {
        assert_eq!(region.proxy_of(n).0, Some(kit::host_name(2)));
    }
    region.seated.clear();
    region.connect_all();
    region.ticks(Duration::from_secs(10));
    assert_eq!(region.seated, [], "they are not evened out");
    // With nobody left they are where they were.
    region.cut(&kit::host_name(1));
    region.ticks(Duration::from_secs(5));
    region.cut(&kit::host_name(2));
    region.ticks(Duration::from_secs(5));
    assert_eq!(region.seated, []);
    assert_eq!(region.proxy_of(1).0, Some(kit::host_name(2)));
}

#[test]
fn they_leave_a_host_that_is_out_of_service_or_has_the_program_no_more() {
    let mut region = region();
    let Object::Host(plain) = host(1, true) else {
        unreachable!("it is a host");
    };
    let out = Host {
        in_service: false,
        ..Host::clone(&plain)
    };
    region.commit(kit::put([Object::Host(Arc::new(out))]));
    region.ticks(Duration::from_secs(2));
    for n in 1..5 {
        assert_eq!(region.proxy_of(n), at(2));
    }
    region.commit(kit::put([host(2, false)]));
    region.ticks(Duration::from_secs(2));
    for n in 1..5 {
        assert_eq!(region.proxy_of(n), (None, vec![]), "nobody has it");
    }
    region.commit(kit::put([host(1, true)]));
    region.ticks(Duration::from_secs(2));
    for n in 1..5 {
        assert_eq!(region.proxy_of(n), at(1));
    }
}

#[test]
fn a_proxy_that_goes_leaves_its_host() {
    let mut region = region();
    let gone = ObjectId::Proxy(kit::id::<net::ids::kind::Port>(81).uuid());
    region.commit(vec![Change::Gone(gone)]);
    region.ticks(Duration::from_secs(1));
    assert_eq!(region.proxy_of(1).1, []);
    assert_eq!(region.proxy_of(2).1.len(), 1);
}
