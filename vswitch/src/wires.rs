//! Which wires does this host have open?
//!
//! What is open is compared with what there is: an interface that was replaced by another of its name is opened anew, one that is gone is
//! let go of, and whatever keeps a network from its wire has a name.

use std::{collections::BTreeMap, num::NonZeroU16};

use hostconfig::{HostConfig, Network, network};
use net::{Id, PortId, ids::kind};

use crate::{
    agent::{apply::wired, chain},
    io::wire::{self, Interface, Wire, WireError},
    physical::PhysicalNetworks,
};

/// A wire that the workers have.
#[derive(Debug)]
struct Open {
    wire: network::Wire,
    /// Under this number.
    port: PortId,
    /// On the interface of this index.
    index: u32,
}

/// The wires of a host.
#[derive(Debug)]
pub(crate) struct Wires {
    physical: PhysicalNetworks,
    open: BTreeMap<Id<kind::Network>, Open>,
}

/// What is to be done about a network's wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing: it works.
    Stands,
    /// Nothing can be done, for this reason.
    Obstacle(String),
    /// It is to be taken from the workers: its interface is gone.
    Gone(PortId, String),
    /// It is to be opened on this interface, which may not work yet for that reason.
    Open(Interface, Option<String>),
}

impl Wires {
    /// None yet.
    pub(crate) fn new(physical: PhysicalNetworks) -> Self {
        Self {
            physical,
            open: BTreeMap::new(),
        }
    }

    /// Forgets those that are no longer of this config, or are others there; under which numbers the workers have them.
    pub(crate) fn leave(&mut self, config: &HostConfig) -> Vec<PortId> {
        let wanted: BTreeMap<_, _> = wired(config).map(|(n, wire)| (n.id, wire)).collect();
        let stays = |id: &Id<kind::Network>, open: &Open| wanted.get(id) == Some(&&open.wire);
        let gone = self.open.iter().filter(|(id, open)| !stays(id, open));
        let gone = gone.map(|(_, open)| open.port).collect();
        self.open.retain(|id, open| stays(id, open));
        gone
    }

    /// Looks after a network's wire.
    pub(crate) fn look(&mut self, network: &Network, wire: &network::Wire) -> Look {
        let physical = &wire.physical;
        let Some(name) = self.physical.interface(physical) else {
            return Look::Obstacle(format!(
                "this host has no interface on physical network {physical} (physical_networks in its configuration)"
            ));
        };
        let of = format!("interface {name} on physical network {physical}");
        let found = match wire::interface(name) {
            Ok(found) => found.ok_or_else(|| format!("{of} is not there")),
            Err(error) => Err(chain(&error)),
        };
        let interface = match found {
            Ok(interface) => interface,
            Err(why) => {
                return match self.open.remove(&network.id) {
                    Some(open) => Look::Gone(open.port, why),
                    None => Look::Obstacle(why),
                };
            }
        };
        let mtu = u32::from(network.mtu);
        let why = if !interface.up {
            Some(format!("{of} is down"))
        } else if !interface.carrier {
            Some(format!("{of} has no link"))
        } else if interface.mtu < mtu {
            let has = interface.mtu;
            Some(format!("{of} has an mtu of {has}, the network {mtu}"))
        } else {
            None
        };
        let open = self.open.get(&network.id);
        match (open.filter(|open| open.index == interface.index), why) {
            (None, why) => Look::Open(interface, why),
            (Some(_), Some(why)) => Look::Obstacle(why),
            (Some(_), None) => Look::Stands,
        }
    }

    /// Opens a network's wire under this number: a queue for each of so many workers, of which one reads.
    ///
    /// # Errors
    /// See [`WireError`].
    pub(crate) fn open(
        &mut self,
        network: Id<kind::Network>,
        wire: &network::Wire,
        (port, interface): (PortId, Interface),
        (workers, reader): (NonZeroU16, u16),
    ) -> Result<Wire, WireError> {
        self.open.remove(&network);
        let opened = Wire::open(&interface, wire.vlan, workers, reader)?;
        let open = Open {
            wire: wire.clone(),
            port,
            index: interface.index,
        };
        self.open.insert(network, open);
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use hostconfig::Section;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        agent::{
            Switch as _,
            state::Ports,
            testkit::{self, config},
        },
        config::{Config, Options},
        io::netns::Netns,
        switch::LocalSwitch,
        testing::Scratch,
    };

    fn wired_network(id: u128, vlan: Option<u16>, mtu: u32) -> Section {
        let Section::Network(mut network) = testkit::network(id, 5000 + u32::try_from(id).unwrap())
        else {
            unreachable!("it is a network")
        };
        network.mtu = net::Mtu::try_from(mtu).unwrap();
        network.wire = Some(network::Wire {
            physical: "physnet1".to_owned(),
            vlan,
        });
        Section::Network(network)
    }

    fn ip(args: &str) {
        let done = Command::new("ip").args(args.split_whitespace()).output();
        let done = done.unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "ip {args}: {said}");
    }

    /// A namespace that goes with the test.
    struct Space(String);

    impl Drop for Space {
        fn drop(&mut self) {
            drop(Command::new("ip").args(["netns", "del", &self.0]).output());
        }
    }

    /// Packet sockets of this thread's namespace.
    fn sockets() -> usize {
        let text = fs::read_to_string("/proc/thread-self/net/packet").unwrap();
        text.lines().count() - 1
    }

    #[test]
    fn wires_come_and_go_with_networks_and_interfaces() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("OVERWEAVE_REQUIRE_ROOT").is_none_or(|v| v != "1"));
            return;
        }
        let space = Space(format!("owwires{}", std::process::id()));
        let name = space.0.clone();
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        let dir = Scratch::new("wires");
        let options = Options {
            host: Some("h1".to_owned()),
            controller: Some("https://127.0.0.1:9697".to_owned()),
            vtep_ip: Some([127, 0, 0, 1].into()),
            run_dir: Some(dir.path().to_owned()),
            workers: Some(2),
            conntrack_entries: Some(1024),
            physical_networks: Some([("physnet1".to_owned(), "eth1".to_owned())].into()),
            ..Options::default()
        };
        let host = Config::load(None, options).unwrap();
        let test = || {
            let (inputs, _heard) = mpsc::channel(8);
            let vtep = [127, 0, 0, 1].into();
            let mut switch = LocalSwitch::start(&host, vtep, 1, &inputs).unwrap();
            let mut run = |sections: Vec<Section>| {
                let config = config(sections);
                assert_eq!(switch.run(&config, &Ports::default()), []);
                let why: Vec<_> = switch.wires(&config).into_values().collect();
                (why, sockets())
            };
            let flat = || wired_network(1, None, 1500);
            let tagged = |vlan| wired_network(2, Some(vlan), 1500);
            let says = |(why, open): (Vec<String>, usize), what: &[&str], sockets| {
                assert_eq!((why.len(), open), (what.len(), sockets), "{why:?}");
                for (why, what) in why.iter().zip(what) {
                    assert!(why.contains(what), "{why}");
                }
            };
            says(
                run(vec![flat()]),
                &["eth1 on physical network physnet1 is not there"],
                0,
            );
            let veth = format!("-n {name} link add eth1 type veth peer name far");
            ip(&veth);
            says(run(vec![flat()]), &["is down"], 2);
            ip(&format!("-n {name} link set eth1 up"));
            says(run(vec![flat()]), &["has no link"], 2);
            ip(&format!("-n {name} link set far up"));
            says(run(vec![flat(), tagged(100)]), &[], 4);
            let wide = wired_network(3, Some(7), 9000);
            says(
                run(vec![flat(), tagged(100), wide]),
                &["an mtu of 1500, the network 9000"],
                6,
            );
            // Another VLAN is another wire; what is no network any more has none.
            says(run(vec![tagged(200)]), &[], 2);
            // Replaced by another of its name, it is opened anew.
            ip(&format!("-n {name} link del eth1"));
            says(run(vec![tagged(200)]), &["is not there"], 0);
            ip(&veth);
            ip(&format!("-n {name} link set eth1 up"));
            ip(&format!("-n {name} link set far up"));
            says(run(vec![tagged(200)]), &[], 2);
            says(run(vec![]), &[], 0);
            let Section::Network(mut elsewhere) = flat() else {
                unreachable!("it is a network")
            };
            elsewhere.wire = Some(network::Wire {
                physical: "physnet2".to_owned(),
                vlan: None,
            });
            let no = "no interface on physical network physnet2";
            says(run(vec![Section::Network(elsewhere)]), &[no], 0);
            says(run(vec![flat()]), &[], 2);
            switch.stop();
            assert_eq!(sockets(), 0);
        };
        Netns::named(&space.0).enter(test).unwrap();
    }
}
