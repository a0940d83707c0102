//! What are the ports of a network called?
//!
//! [`Names`] is part of a network's tables: the whole names of the ports that have one, and whose they are. The names of addresses
//! (`host-10-0-0-5`) are not kept: what they say is asked of the network's neighbours. All is in small letters, without a dot at the end.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use net::{Id, ids::kind};
use smallvec::SmallVec;

use crate::datapath::tables::Network;

/// The names of a network's ports.
#[derive(Debug, Clone, Default)]
pub struct Names {
    domain: String,
    addresses: HashMap<String, SmallVec<[IpAddr; 2]>, foldhash::fast::FixedState>,
    of_ports: HashMap<Id<kind::Port>, String, foldhash::fast::FixedState>,
    /// Of what is no port of the network; a port's own go before.
    outside: HashMap<String, SmallVec<[IpAddr; 2]>, foldhash::fast::FixedState>,
    of_outside: HashMap<IpAddr, String, foldhash::fast::FixedState>,
}

/// What a network knows of a name or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known<T> {
    /// This.
    Is(T),
    /// That there is none.
    Nobody,
    /// Nothing: it is for others to say.
    Elsewhere,
}

impl Names {
    /// Of a network with this domain.
    pub fn new(domain: &str, seed: u64) -> Self {
        Self {
            domain: domain.to_ascii_lowercase(),
            addresses: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            of_ports: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            outside: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            of_outside: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
        }
    }

    /// A port's name. Several ports may have one: it is that of all their addresses.
    pub fn put(&mut self, port: Id<kind::Port>, name: &str, addrs: impl Iterator<Item = IpAddr>) {
        let whole = whole(name, &self.domain);
        self.addresses
            .entry(whole.clone())
            .or_default()
            .extend(addrs);
        self.of_ports.insert(port, whole);
    }

    /// The whole name of an address that is no port's here. Several addresses may have one.
    pub fn put_outside(&mut self, name: &str, addr: IpAddr) {
        let name = name.to_ascii_lowercase();
        self.outside.entry(name.clone()).or_default().push(addr);
        self.of_outside.entry(addr).or_insert(name);
    }

    fn of(&self, name: &str) -> Option<&SmallVec<[IpAddr; 2]>> {
        self.addresses.get(name).or_else(|| self.outside.get(name))
    }

    /// The network's domain; empty: it has none.
    pub fn domain(&self) -> &str {
        &self.domain
    }
}

/// A name in its domain: one that ends with a dot is whole already.
fn whole(name: &str, domain: &str) -> String {
    let mut whole = name.to_ascii_lowercase();
    if whole.ends_with('.') {
        whole.pop();
    } else if !domain.is_empty() {
        whole.push('.');
        whole.push_str(domain);
    }
    whole
}

/// The name of an address, in its domain.
fn generated(addr: IpAddr) -> String {
    format!("host-{}", addr.to_string().replace(['.', ':'], "-"))
}

/// The address whose generated name this is.
fn of_generated(label: &str) -> Option<IpAddr> {
    let text = label.strip_prefix("host-")?;
    let v4 = || text.replace('-', ".").parse::<Ipv4Addr>().ok();
    let v6 = || text.replace('-', ":").parse::<Ipv6Addr>().ok();
    let addr = v4().map(IpAddr::V4).or_else(|| v6().map(IpAddr::V6))?;
    (generated(addr) == label).then_some(addr)
}

/// The name by which a port's host knows itself: the first label of its own, or its address's.
pub fn host_name(dns_name: Option<&str>, addr: IpAddr) -> String {
    let own = dns_name.and_then(|name| name.split('.').next());
    own.filter(|label| !label.is_empty())
        .map_or_else(|| generated(addr), str::to_owned)
}

/// The addresses that a name has on a network. A name without dots is never another's to say.
pub(super) fn addresses(network: &Network, name: &str) -> Known<SmallVec<[IpAddr; 2]>> {
    let names = &network.names;
    let name = name.to_ascii_lowercase();
    if let Some(known) = names.of(&name) {
        return Known::Is(known.clone());
    }
    let domain = names.domain.as_str();
    if !domain.is_empty() && name == domain {
        return Known::Is(SmallVec::new());
    }
    let inside = name
        .strip_suffix(domain)
        .filter(|_| !domain.is_empty())
        .and_then(|rest| rest.strip_suffix('.'));
    let bare = !name.contains('.');
    let label = match inside {
        Some(label) => label,
        None if bare => name.as_str(),
        None => return Known::Elsewhere,
    };
    if bare && let Some(known) = names.of(&whole(&name, domain)) {
        return Known::Is(known.clone());
    }
    let known = |addr: &IpAddr| network.neighbours.get(*addr).is_some();
    match of_generated(label).filter(known) {
        Some(addr) => Known::Is(SmallVec::from_slice(&[addr])),
        None => Known::Nobody,
    }
}

/// What an address is called on a network, by the name under which that is asked for (RFC 1035 §3.5, RFC 3596 §2.5).
pub(super) fn name(network: &Network, reverse: &str) -> Known<String> {
    let Some(addr) = of_reverse(&reverse.to_ascii_lowercase()) else {
        return Known::Elsewhere;
    };
    if !network.subnets.iter().any(|s| s.cidr.contains(addr)) {
        let outside = network.names.of_outside.get(&addr);
        return outside.map_or(Known::Elsewhere, |name| Known::Is(name.clone()));
    }
    let Some(neighbour) = network.neighbours.get(addr) else {
        return Known::Nobody;
    };
    let own = network.names.of_ports.get(&neighbour.port);
    Known::Is(own.map_or_else(
        || whole(&generated(addr), &network.names.domain),
        String::clone,
    ))
}

fn of_reverse(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<_> = octets.split('.').rev().collect();
        return octets.join(".").parse().ok().map(IpAddr::V4);
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let mut addr = 0u128;
    let mut count = 0;
    for nibble in nibbles.split('.').rev() {
        let one = (nibble.len() == 1).then(|| u128::from_str_radix(nibble, 16).ok())??;
        addr = addr << 4 | one;
        count += 1;
        (count <= 32).then_some(())?;
    }
    (count == 32).then_some(IpAddr::V6(addr.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn generated_names_are_of_one_address_each() {
        for (text, name) in [
            ("10.0.0.5", "host-10-0-0-5"),
            ("fd00::5", "host-fd00--5"),
            ("::1", "host---1"),
            ("fd00:1:2:3:4:5:6:7", "host-fd00-1-2-3-4-5-6-7"),
        ] {
            assert_eq!(generated(addr(text)), name);
            assert_eq!(of_generated(name), Some(addr(text)));
        }
        for other in [
            "host-10-0-0",
            "host-010-0-0-5",
            "host-FD00--5",
            "host-",
            "x-10-0-0-5",
        ] {
            assert_eq!(of_generated(other), None, "{other}");
        }
        assert_eq!(host_name(Some("web.example.org."), addr("10.0.0.5")), "web");
        assert_eq!(host_name(None, addr("10.0.0.5")), "host-10-0-0-5");
    }

    #[test]
    fn reverse_names_are_of_one_address_each() {
        assert_eq!(of_reverse("5.0.0.10.in-addr.arpa"), Some(addr("10.0.0.5")));
        let six = "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(of_reverse(six), Some(addr("fd00::5")));
        for other in [
            "0.0.10.in-addr.arpa",
            "x.0.0.10.in-addr.arpa",
            "d.f.ip6.arpa",
            "10.in-addr.arpa",
            "in-addr.arpa",
            &format!("0.{six}"),
        ] {
            assert_eq!(of_reverse(other), None, "{other}");
        }
    }
}
