//! What would a chain say of a capture? `chain_over_pcap < trace.pcap` sends each connection's first packet through a firewall
//! and a load balancer, and tells what they decided.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use hostconfig::{
    Chain, Firewall, Function, FunctionKind, LoadBalancer,
    chain::{Action, Algorithm, FirewallRule, Member},
};
use net::{Headers, Id, Mac, PortRange, Probe, UnicastMac};
use nfv::Context;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn id<K>(n: u8) -> Fallible<Id<K>> {
    Ok(format!("00000000-0000-0000-0000-0000000000{n:02x}").parse()?)
}

/// Telnet is denied; TCP to port 80 of 10.0.0.100 goes to one of two members.
fn edge() -> Fallible<nfv::Chain> {
    let telnet = FirewallRule {
        id: id(1)?,
        action: Action::Deny,
        family: None,
        protocol: Some(6),
        source: None,
        destination: None,
        source_ports: None,
        destination_ports: Some(PortRange::one(23)),
    };
    let firewall = Firewall {
        rules: vec![telnet],
        default: Action::Allow,
    };
    let member = |n: u8| -> Fallible<Member> {
        Ok(Member {
            id: id(n)?,
            addr: [10, 0, 0, n].into(),
            port: 8080,
            weight: 1,
        })
    };
    let web = LoadBalancer {
        vip: [10, 0, 0, 100].into(),
        vip_port: id(2)?,
        network: id(3)?,
        mac: UnicastMac::try_from(Mac::new([2, 0, 0, 0, 0, 1]))?,
        protocol: 6,
        port: 80,
        algorithm: Algorithm::Maglev,
        members: vec![member(11)?, member(12)?],
        monitor: None,
    };
    let function = |n, name: &str, kind| -> Fallible<Function> {
        Ok(Function {
            id: id(n)?,
            name: name.into(),
            kind,
        })
    };
    let functions = vec![
        function(4, "no-telnet", FunctionKind::Firewall(firewall))?,
        function(5, "web", FunctionKind::LoadBalancer(web))?,
    ];
    let (id, project) = (id(6)?, id(7)?);
    Ok(nfv::Chain::build(&Chain {
        id,
        name: "edge".into(),
        project,
        path: 1,
        symmetric: true,
        graph: hostconfig::Graph::default(),
        classifiers: vec![],
        functions,
    })?)
}

fn main() -> Fallible<()> {
    let (chain, mut bytes, mut out) = (edge()?, Vec::new(), io::stdout().lock());
    io::stdin().read_to_end(&mut bytes)?;
    let cx = Context {
        seed: 1,
        ..Context::default()
    };
    let mut seen = BTreeMap::new();
    // Little-endian pcap: a header of 24 bytes, then records of 16 bytes and a frame.
    let mut rest = bytes.get(24..).ok_or("not a pcap file")?;
    while let Some((record, after)) = rest.split_first_chunk::<16>() {
        let [.., l0, l1, l2, l3, _, _, _, _] = *record;
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3]))?;
        let (frame, after) = after
            .split_at_checked(length)
            .ok_or("pcap file ends early")?;
        rest = after;
        let Ok((_, key)) = Headers::parse(frame) else {
            continue;
        };
        let Some(tuple) = key.five_tuple() else {
            continue;
        };
        if seen.contains_key(&tuple) || seen.contains_key(&tuple.reversed()) {
            continue;
        }
        let mut said = Vec::new();
        let outcome = chain.decide(&mut Probe::new(&key), &cx, &mut |hop, words| {
            said.push(format!("  {} {}: {words}\n", hop.kind(), hop.name()));
        });
        write!(out, "{tuple}\n{}", said.concat())?;
        seen.insert(tuple, outcome.passes());
    }
    let passed = seen.values().filter(|p| **p).count();
    writeln!(out, "{} connections, {passed} passed", seen.len())?;
    Ok(())
}
