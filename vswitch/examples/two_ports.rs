//! Two workloads on one switch, no device anywhere: a ping, its answer, and why a connection is refused.
//!
//! ```sh
//! cargo run -p vswitch --example two_ports
//! ```
#![expect(clippy::print_stdout, reason = "an example speaks")]

use std::{error::Error, sync::Arc};

use hostconfig::{HostConfig, Keyed, Network, Port, Section, port::FixedIp};
use net::{Now, Vni, Zone};
use vswitch::datapath::{Described, Tables, ZoneMap, explain, explain::Entrance};

fn main() -> Result<(), Box<dyn Error>> {
    let uuid = |n: u32| format!("{n:032x}");
    let mut config = HostConfig::default();
    let mut put = |section| -> Result<(), Box<dyn Error>> {
        config.insert(Arc::new(Keyed::new(section)?));
        Ok(())
    };
    put(Section::Network(Network {
        id: uuid(100).parse()?,
        name: "blue".into(),
        project: uuid(7).parse()?,
        vni: Vni::try_from(5001)?,
        mtu: 1450.try_into()?,
        admin_up: true,
        subnets: vec![],
        wire: None,
        domain: String::new(),
        resolvers: Vec::new(),
        names: Vec::new(),
    }))?;
    let mut zones = ZoneMap::new();
    for (n, security) in [(1, false), (2, true)] {
        put(Section::Port(Port {
            id: uuid(n).parse()?,
            name: format!("web-{n}"),
            network: uuid(100).parse()?,
            project: uuid(7).parse()?,
            mac: format!("02:00:00:00:00:{n:02x}")
                .parse::<net::Mac>()?
                .try_into()?,
            fixed_ips: vec![FixedIp {
                addr: format!("10.0.0.{n}").parse()?,
                subnet: uuid(9).parse()?,
            }],
            admin_up: true,
            port_security: security,
            allowed_address_pairs: vec![],
            security_groups: vec![],
            max_connections: 1000,
            qos: None,
            host_number: Some(0),
            dns_name: None,
            dhcp: hostconfig::DhcpOptions::default(),
            trunk: None,
            firewall: None,
        }))?;
        zones.insert(uuid(n).parse()?, Zone(n));
    }
    let tables = Tables::build(None, &config, &zones, 1);
    for packet in [
        "arp 10.0.0.1 > 10.0.0.2",
        "tcp 10.0.0.1:40000 > 10.0.0.2:443",
    ] {
        let described: Described = packet.parse()?;
        let entrance = Entrance::Port("web-1".into());
        println!("# {packet}");
        println!("{}\n", explain(&tables, &entrance, &described, Now::ZERO)?);
    }
    Ok(())
}
