//! What may the other end of the southbound stream say?
//!
//! Both ends check what they are told: a host must survive any controller, a controller any host.

use std::fmt::Debug;
use std::sync::Arc;

use hostconfig::wire::{FromController, FromHost, JoinReply, JoinRequest};
use hostconfig::{HostConfig, Keyed, SectionHash, SectionKey};
use prost::Message;
use sha2::{Digest as _, Sha256};

/// Decodes `bytes` as each message of the stream; what decodes encodes to something that decodes
/// to the same.
pub(crate) fn messages(bytes: &[u8]) {
    round_trip::<FromController>(bytes);
    round_trip::<FromHost>(bytes);
    round_trip::<JoinRequest>(bytes);
    round_trip::<JoinReply>(bytes);
}

fn round_trip<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let again = M::decode(message.encode_to_vec().as_slice());
        assert_eq!(again.as_ref(), Ok(&message), "a message changed on its way");
    }
}

/// Decodes a section: its key on the first line, its body behind. The announced hash is made right,
/// since a wrong one is refused before the body is read.
pub(crate) fn section(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (Some(key), Some(body)) = (parts.next(), parts.next()) else {
        return;
    };
    let Ok(key) = String::from_utf8_lossy(key).parse::<SectionKey>() else {
        return;
    };
    assert_eq!(
        key.to_string().parse(),
        Ok(key),
        "a key prints as it parses"
    );
    let Ok(decoded) = Keyed::decode(key, body.to_vec(), announced(key, body)) else {
        return;
    };
    let Ok(canonical) = Keyed::new(decoded.body().clone()) else {
        unreachable!("a body that was decoded encodes");
    };
    let again = Keyed::decode(key, canonical.bytes().to_vec(), canonical.hash());
    assert!(
        again.is_ok_and(|again| again == canonical),
        "the canonical form is not stable"
    );
    let mut config = HostConfig::default();
    config.insert(Arc::new(decoded));
    let digest = config.digest();
    assert_eq!(digest, config.clone().digest());
    let _faults = hostconfig::check::check(&config);
}

fn announced(key: SectionKey, body: &[u8]) -> SectionHash {
    let whole = Sha256::new()
        .chain_update(key.to_string())
        .chain_update([0])
        .chain_update(body);
    let mut half = [0; 16];
    half.iter_mut()
        .zip(whole.finalize())
        .for_each(|(to, from)| *to = from);
    SectionHash(half)
}

/// All that a host says first.
fn hello(key: &str) -> hostconfig::wire::Hello {
    hostconfig::wire::Hello {
        incarnation: ID.into(),
        generation: 300,
        sections: vec![hostconfig::wire::SectionHash {
            key: key.to_owned(),
            hash: vec![7; 16],
        }],
        vtep: "192.0.2.1".into(),
        version: "0.1.0".into(),
        underlay_mtu: 1600,
        physical_networks: vec!["physnet1".to_owned()],
        clock: Some(7),
        availability_zone: "west".to_owned(),
        proxies: true,
    }
}

/// What is said of a limit that several hosts share.
fn divided() -> (hostconfig::wire::Uses, hostconfig::wire::Parts) {
    use hostconfig::wire::{Part, Parts, Use, Uses};
    let uses = Uses {
        clock: u64::MAX,
        follows: 1,
        uses: vec![Use {
            node: ID.into(),
            ingress: true,
            used_bps: u64::MAX,
            waits: true,
            part_bps: u64::MAX,
            alone_bps: u64::MAX,
        }],
    };
    let parts = Parts {
        clock: u64::MAX,
        parts: vec![Part {
            node: ID.into(),
            ingress: true,
            part_bps: u64::MAX,
            alone_bps: u64::MAX,
        }],
    };
    (uses, parts)
}

pub(crate) fn message_seeds() -> Vec<Vec<u8>> {
    use hostconfig::wire::{
        Ack, Balanced, Complaint, Metered, Ping, Pong, PortState, Report, SectionBody, Update,
        Verdict, from_controller, from_host,
    };
    let key = format!("port/{ID}");
    let (uses, parts) = divided();
    let from_host = [
        from_host::Message::Hello(hello(&key)),
        from_host::Message::Ack(Ack {
            generation: 301,
            digest: vec![9; 32],
            complaints: vec![Complaint {
                key: key.clone(),
                text: "no such device".into(),
            }],
        }),
        from_host::Message::Report(Report {
            ports: vec![PortState {
                port: ID.into(),
                attached: true,
                active: false,
                reason: "down".into(),
            }],
            meters: vec![Metered {
                label: ID.into(),
                router: ID.into(),
                packets: 7,
                bytes: u64::MAX,
            }],
            verdicts: vec![Verdict {
                monitor: ID.into(),
                member: ID.into(),
                serves: true,
            }],
            balanced: vec![Balanced {
                listener: ID.into(),
                active: 1,
                connections: 2,
                bytes_in: 3,
                bytes_out: u64::MAX,
                refused: 5,
            }],
        }),
        from_host::Message::Pong(Pong {
            nonce: u64::MAX,
            clock: Some(u64::MAX),
        }),
        from_host::Message::Uses(uses),
    ];
    let from_controller = [
        from_controller::Message::Update(Update {
            incarnation: ID.into(),
            generation: 301,
            whole: true,
            upserts: vec![SectionBody {
                key: key.clone(),
                hash: vec![7; 16],
                body: b"{}".to_vec(),
            }],
            removals: vec![key],
            digest: vec![9; 32],
            replaced: vec![ID.into()],
        }),
        from_controller::Message::Ping(Ping {
            nonce: 1,
            heard: Some(u64::MAX),
        }),
        from_controller::Message::Parts(parts),
    ];
    let join = JoinRequest {
        host: "h1".into(),
        token: "secret".into(),
        csr_der: vec![0x30, 0x82, 1, 0],
    };
    let mut seeds = vec![join.encode_to_vec()];
    let host = |message| {
        FromHost {
            message: Some(message),
        }
        .encode_to_vec()
    };
    let controller = |message| {
        FromController {
            message: Some(message),
        }
        .encode_to_vec()
    };
    seeds.extend(from_host.map(host));
    seeds.extend(from_controller.map(controller));
    seeds
}

/// The one object that the seeds speak of.
const ID: &str = "00000000-0000-4000-8000-000000000007";

pub(crate) fn section_seeds() -> Vec<Vec<u8>> {
    let id = format!("\"id\":\"{ID}\"");
    let named = format!("{id},\"name\":\"seven\"");
    let bodies = [
        (
            "vteps".to_owned(),
            r#"{"vteps":{"192.0.2.1":{"host":"h1","foreign":false}}}"#.to_owned(),
        ),
        (
            format!("network/{ID}"),
            format!(
                r#"{{{named},"project":"{ID}","vni":5001,"mtu":1450,"admin_up":true,"subnets":[{{{id},"cidr":"10.0.0.0/24","gateway":"10.0.0.1","dhcp":{{"server":"10.0.0.2","server_mac":"02:00:00:00:00:01","lease_seconds":3600,"dns":["10.0.0.2"],"domain":"example","routes":[{{"destination":"10.9.0.0/16","nexthop":"10.0.0.1"}}]}}}}]}}"#
            ),
        ),
        (
            format!("address_set/{ID}"),
            format!(r#"{{{id},"members":["10.0.0.0/24","2001:db8::/64"]}}"#),
        ),
        (
            format!("group/{ID}"),
            format!(
                r#"{{{named},"stateful":true,"rules":[{{{id},"direction":"ingress","family":"ipv4","protocol":6,"l4":{{"ports":"80-90"}},"remote":{{"set":"{ID}"}}}},{{{id},"direction":"egress","family":"ipv6","protocol":58,"l4":{{"icmp":{{"kind":128,"code":null}}}},"remote":{{"prefix":"::/0"}}}}]}}"#
            ),
        ),
        (
            format!("chain/{ID}"),
            format!(
                r#"{{{named},"project":"{ID}","symmetric":true,"classifiers":[{{{named},"source":{{"network":"{ID}"}},"destination":null,"family":"ipv4","protocol":6,"source_ports":null,"destination_ports":null,"source_prefix":null,"destination_prefix":"10.0.0.100/32"}}],"functions":[{{{named},"kind":{{"firewall":{{"rules":[],"default":"allow"}}}}}},{{{named},"kind":{{"load_balancer":{{"vip":"10.0.0.100","vip_port":"{ID}","network":"{ID}","mac":"02:00:00:00:00:09","protocol":6,"port":80,"algorithm":"maglev","members":[{{{id},"addr":"10.0.0.3","port":80,"weight":1}}]}}}}}},{{{named},"kind":{{"shaper":{{"rate_bps":100000000,"burst_bytes":65536,"queue_bytes":1048576}}}}}},{{{named},"kind":{{"nat":{{"addresses":[{{"addr":"10.0.0.200","port":"{ID}","network":"{ID}","hides":true}}],"sources":["10.0.0.0/24"],"ports":"1024-65535","hosts":16,"client_limit":100,"forwards":[{{"addr":"10.0.0.200","protocol":6,"ports":"8080","to":"10.0.0.3","to_port":80,"member":"{ID}"}}],"statics":[]}}}}}}]}}"#
            ),
        ),
        (
            format!("port/{ID}"),
            format!(
                r#"{{{named},"network":"{ID}","project":"{ID}","mac":"02:00:00:00:00:03","fixed_ips":[{{"addr":"10.0.0.3","subnet":"{ID}"}}],"admin_up":true,"port_security":true,"allowed_address_pairs":[{{"mac":"02:00:00:00:00:03","prefix":"10.0.0.200/32"}}],"security_groups":["{ID}"],"max_connections":1000}}"#
            ),
        ),
        (
            format!("endpoint/{ID}"),
            format!(
                r#"{{{id},"network":"{ID}","mac":"02:00:00:00:00:04","addrs":["10.0.0.4"],"at":{{"vtep":"192.0.2.2"}}}}"#
            ),
        ),
    ];
    bodies
        .into_iter()
        .map(|(key, body)| format!("{key}\n{body}").into_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_seed_decodes() {
        for seed in section_seeds() {
            let text = String::from_utf8(seed).unwrap();
            let (key, body) = text.split_once('\n').unwrap();
            let key = key.parse().unwrap();
            let decoded = Keyed::decode(key, body.into(), announced(key, body.as_bytes()));
            assert_eq!(
                decoded
                    .map(|section| section.key())
                    .map_err(|error| format!("{error:?}")),
                Ok(key),
                "{body}"
            );
        }
    }
}
