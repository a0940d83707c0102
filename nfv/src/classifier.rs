//! Does this connection enter the chain?
//!
//! A flow classifier, on the first packet of a connection in the forward direction: whose it is (told by the caller, who
//! knows the ports) and what it looks like (read through the probe).
//!
//! # References
//! networking-sfc's API, flow classifier.

use hostconfig::chain::Side;
use net::{Id, Probe, ids::kind};

use crate::fields::{Fields, FieldsFault, Reader, Wanted};

/// One end of a connection, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    /// Its port; `None` for what is no port of the API (a foreign VTEP's workload).
    pub port: Option<Id<kind::Port>>,
    /// The port's network.
    pub network: Id<kind::Network>,
    /// The port's project; `None` where that is not known.
    pub project: Option<Id<kind::Project>>,
}

/// Where a classifier is matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// On the sender's host, on the tuple as the workload sent it.
    Source,
    /// On the receiver's host, on the tuple as it is delivered.
    Destination,
}

/// A compiled flow classifier.
#[derive(Debug)]
pub struct Classifier {
    id: Id<kind::FlowClassifier>,
    name: String,
    source: Option<Side>,
    destination: Option<Side>,
    fields: Fields,
}

fn is_of(side: Side, party: &Party) -> bool {
    match side {
        Side::Port(id) => party.port == Some(id),
        Side::Network(id) => party.network == id,
        Side::Project(id) => party.project == Some(id),
        Side::Branch => false,
    }
}

impl Classifier {
    /// From its configuration.
    ///
    /// # Errors
    /// When its fields contradict one another.
    pub fn new(config: &hostconfig::Classifier) -> Result<Self, FieldsFault> {
        let fields = Fields::new(Wanted {
            family: config.family,
            protocol: config.protocol,
            src: config.source_prefix,
            dst: config.destination_prefix,
            src_ports: config.source_ports,
            dst_ports: config.destination_ports,
        })?;
        Ok(Self {
            id: config.id,
            name: config.name.clone(),
            source: config.source,
            destination: config.destination,
            fields,
        })
    }

    /// Its id in the API.
    pub fn id(&self) -> Id<kind::FlowClassifier> {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is matched: on the receiver's host only if it names no source.
    pub fn place(&self) -> Place {
        match (self.source, self.destination) {
            (None, Some(_)) => Place::Destination,
            (Some(_), _) | (None, None) => Place::Source,
        }
    }

    /// Do the header fields match, whoever its ends are?
    pub fn matches_fields(&self, first: &mut Probe) -> bool {
        self.fields.matches(&mut Reader::new(first))
    }

    /// Does the connection match that this packet begins? An end that is not known matches no side that is named. What is not
    /// IP matches nothing.
    pub fn matches(
        &self,
        first: &mut Probe,
        source: Option<&Party>,
        destination: Option<&Party>,
    ) -> bool {
        let named = |side: Option<Side>, party: Option<&Party>| {
            side.is_none_or(|s| party.is_some_and(|p| is_of(s, p)))
        };
        named(self.source, source)
            && named(self.destination, destination)
            && self.matches_fields(first)
    }
}

#[cfg(test)]
mod tests {
    use hostconfig::group::Family;
    use net::{FlowKey, PortRange, flow_key::addr_bytes};

    use super::*;

    fn id<K>(n: u128) -> Id<K> {
        format!("{n:032x}").parse().unwrap()
    }

    fn party(port: u128, network: u128, project: u128) -> Party {
        Party {
            port: Some(id(port)),
            network: id(network),
            project: Some(id(project)),
        }
    }

    fn config() -> hostconfig::Classifier {
        hostconfig::Classifier {
            id: id(1),
            name: "web".into(),
            source: None,
            destination: None,
            family: None,
            protocol: None,
            source_ports: None,
            destination_ports: None,
            source_prefix: None,
            destination_prefix: None,
        }
    }

    fn key() -> FlowKey {
        FlowKey {
            ethertype: 0x0800,
            ip_proto: 6,
            ip_src: addr_bytes([10, 0, 0, 1].into()),
            ip_dst: addr_bytes([10, 0, 1, 1].into()),
            l4_src: 40_000,
            l4_dst: 443,
            ..FlowKey::default()
        }
    }

    #[test]
    fn sides_are_ports_networks_or_projects() {
        let (a, b) = (party(1, 2, 3), party(4, 2, 5));
        let cases = [
            (Some(Side::Port(id(1))), None, true),
            (Some(Side::Port(id(4))), None, false),
            (Some(Side::Network(id(2))), Some(Side::Port(id(4))), true),
            (Some(Side::Network(id(9))), None, false),
            (None, Some(Side::Project(id(5))), true),
            (
                Some(Side::Project(id(3))),
                Some(Side::Project(id(3))),
                false,
            ),
            (None, None, true),
        ];
        for (source, destination, expected) in cases {
            let c = Classifier::new(&hostconfig::Classifier {
                source,
                destination,
                ..config()
            })
            .unwrap();
            assert_eq!(
                c.matches(&mut Probe::new(&key()), Some(&a), Some(&b)),
                expected,
                "{c:?}"
            );
            let unknown = c.matches(&mut Probe::new(&key()), Some(&a), None);
            assert_eq!(unknown, expected && destination.is_none(), "{c:?}");
        }
    }

    #[test]
    fn the_place_is_the_source_unless_only_a_destination_is_named() {
        let port = Some(Side::Port(id(1)));
        for (source, destination, place) in [
            (port, None, Place::Source),
            (port, port, Place::Source),
            (None, port, Place::Destination),
            (None, None, Place::Source),
        ] {
            let c = Classifier::new(&hostconfig::Classifier {
                source,
                destination,
                ..config()
            })
            .unwrap();
            assert_eq!(c.place(), place);
        }
    }

    #[test]
    fn fields_are_read_only_where_they_are_named() {
        let c = Classifier::new(&hostconfig::Classifier {
            family: Some(Family::V4),
            protocol: Some(6),
            destination_ports: Some(PortRange::new(440, 450).unwrap()),
            source_prefix: Some("10.0.0.0/24".parse().unwrap()),
            ..config()
        })
        .unwrap();
        let mut probe = Probe::new(&key());
        assert!(c.matches(&mut probe, None, None));
        let mask = probe.mask();
        assert_eq!((mask.fields().ip_dst, mask.fields().l4_src), ([0; 16], 0));
        assert_eq!(mask.fields().ip_src[12..], [0xff, 0xff, 0xff, 0]);
        for other in [
            FlowKey {
                l4_dst: 80,
                ..key()
            },
            FlowKey {
                ip_proto: 17,
                ..key()
            },
            FlowKey {
                ip_src: addr_bytes([10, 0, 9, 1].into()),
                ..key()
            },
            FlowKey {
                ethertype: 0x86dd,
                ..key()
            },
        ] {
            assert!(!c.matches(&mut Probe::new(&other), None, None), "{other:?}");
        }
        let any = Classifier::new(&config()).unwrap();
        let arp = FlowKey {
            ethertype: 0x0806,
            ..key()
        };
        assert!(!any.matches(&mut Probe::new(&arp), None, None));
    }
}
