//! How does the store's form of an object become the compiler's?
//!
//! The one place where both are known. What the API's rules guarantee (a VNI in its range, a unicast
//! MAC address) is still looked at: an object that breaks it is not there for the compiler.

mod lbaas;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use hostconfig::{
    Classifier, DhcpOption, DhcpOptions, Discipline, Firewall, Graph, MeterRule, SecurityGroupRule,
    Shaper, SubPort,
    chain::{Action, Algorithm, Crossing, Failure, HashField, Instance, Side},
    floating_ip::Workload,
    group::{Direction, Family, L4Match, Remote},
    nat::Forward,
    network::{RaMode, Route, Wire},
    port::{AddressPair, FixedIp},
    qos::{Dscp, Limit, Rate},
    share::Class,
};
use net::{Id, Mtu, PortRange, UnicastMac, Vni, ids::kind};
use uuid::Uuid;

use super::intent::{
    self, Balancer, BalancerMember, Chain, Change, FloatingIp, Function, Group, Host, HostName,
    Label, LabelRule, Name, Nat, NatForward, Object, ObjectId, Policy, Router, Rule, Target, Work,
};
use crate::{
    resource::{Resource, Spec},
    resources::{
        self, AddressGroup, FirewallGroup, FirewallPolicy, FirewallRule, FlowClassifier, Listener,
        LoadBalancer, MeteringLabel, MeteringLabelRule, NetworkFunction, PortChain, PortPairGroup,
        QosPolicy, SecurityGroup, dns, function,
        fwaas::rule::{Action as Ruling, IpVersion},
        port::{
            GATEWAY_OWNER,
            dhcp_options::{Sent, encode},
        },
        port_pair_group::{FailurePolicy, LbField},
        protocol::{self, Ethertype},
        qos_policy::{Direction as Way, QosRule, Says, Scope},
        router::router_of,
        security_group_rule as rule,
        subnet::{HostRoute, Ipv6Mode},
        trunk::Trunking,
    },
    rules::Facts,
    store::{Entry, KeyChange, Read, Snapshot},
};

/// Tracked connections that one port may have: a sixteenth of a worker's table (`docs/datapath.md`),
/// so that one busy or hostile workload leaves room for the others.
const PORT_CONNECTIONS: u32 = 16_384;
/// How long a full queue takes to drain, in milliseconds: a TCP window over a continent.
const QUEUE_MILLIS: u64 = 100;
/// A queue holds a super-frame of a tap at least, and no more memory than this at most.
const QUEUE_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=64 * 1024 * 1024;
/// By flow each waits for its own alone: there is room for a super-frame of several.
const FAIR_QUEUE_BYTES: u64 = 256 * 1024;
/// What may go at once where a rule of a QoS policy leaves it open: what its rate carries in a hundredth of a second, and two full frames.
/// Since what is above waits and is not dropped, no more is needed for a connection to reach the rate.
const BURSTS_A_SECOND: u64 = 100;
const LEAST_BURST: u64 = 2 * 1514;
/// A full packet on an Ethernet link.
const FULL_PACKET_BITS: u64 = 1514 * 8;

/// What a change in the store means to the compiler; nothing for what it does not read.
pub fn changes(change: &KeyChange, facts: &Facts) -> Vec<Change> {
    if is_of(Listener::SPEC, &change.key) {
        return lbaas::changes(change);
    }
    self::change(change, facts).into_iter().collect()
}

fn is_of(spec: &Spec, key: &str) -> bool {
    key.split_once('/')
        .is_some_and(|(storage, _)| storage == spec.storage)
}

fn change(change: &KeyChange, facts: &Facts) -> Option<Change> {
    let id = object_id(&change.key)?;
    let object = change
        .after
        .as_ref()
        .and_then(|entry| object(id, entry, facts));
    Some(object.map_or(Change::Gone(id), Change::Put))
}

/// All objects of a snapshot.
pub fn objects(snapshot: &Snapshot, facts: &Facts) -> Vec<Object> {
    let mut objects = Vec::new();
    for (spec, _) in KINDS {
        let prefix = format!("{}/", spec.storage);
        let entries = snapshot.scan(&prefix);
        objects.extend(entries.filter_map(|(key, entry)| object(object_id(key)?, entry, facts)));
    }
    let listeners = format!("{}/", Listener::SPEC.storage);
    let listeners = snapshot.scan(&listeners);
    objects.extend(listeners.flat_map(|(_, entry)| lbaas::objects(entry)));
    objects
}

type OfKind = fn(Uuid) -> ObjectId;

const KINDS: &[(&Spec, OfKind)] = &[
    (resources::Host::SPEC, |id| ObjectId::Host(id.into())),
    (resources::Network::SPEC, |id| ObjectId::Network(id.into())),
    (resources::Subnet::SPEC, |id| ObjectId::Subnet(id.into())),
    (resources::Port::SPEC, |id| ObjectId::Port(id.into())),
    (resources::Router::SPEC, |id| ObjectId::Router(id.into())),
    (resources::FloatingIp::SPEC, |id| {
        ObjectId::FloatingIp(id.into())
    }),
    (SecurityGroup::SPEC, |id| ObjectId::Group(id.into())),
    (resources::SecurityGroupRule::SPEC, |id| {
        ObjectId::Rule(id.into())
    }),
    (AddressGroup::SPEC, |id| ObjectId::AddressGroup(id.into())),
    (FirewallRule::SPEC, |id| ObjectId::FirewallRule(id.into())),
    (FirewallPolicy::SPEC, |id| {
        ObjectId::FirewallPolicy(id.into())
    }),
    (FirewallGroup::SPEC, |id| ObjectId::Firewall(id.into())),
    (QosPolicy::SPEC, |id| ObjectId::Qos(id.into())),
    (FlowClassifier::SPEC, |id| ObjectId::Classifier(id.into())),
    (PortPairGroup::SPEC, |id| ObjectId::Function(id.into())),
    (PortChain::SPEC, |id| ObjectId::Chain(id.into())),
    (MeteringLabel::SPEC, |id| ObjectId::Label(id.into())),
    (MeteringLabelRule::SPEC, |id| ObjectId::LabelRule(id.into())),
    (LoadBalancer::SPEC, ObjectId::Proxy),
];

fn object_id(key: &str) -> Option<ObjectId> {
    let (storage, id) = key.split_once('/')?;
    let (_, of_kind) = KINDS.iter().find(|(spec, _)| spec.storage == storage)?;
    Some(of_kind(id.parse().ok()?))
}

fn object(id: ObjectId, entry: &Entry, facts: &Facts) -> Option<Object> {
    Some(match id {
        ObjectId::Host(_) => Object::Host(Arc::new(host(entry.peek()?))),
        ObjectId::Network(_) => Object::Network(Arc::new(network(entry.peek()?, facts)?)),
        ObjectId::Subnet(_) => Object::Subnet(Arc::new(subnet(entry.peek()?))),
        ObjectId::Port(_) => Object::Port(Arc::new(port(entry.peek()?)?)),
        ObjectId::Router(_) => Object::Router(Arc::new(router(entry.peek()?))),
        ObjectId::FloatingIp(_) => Object::FloatingIp(Arc::new(floating_ip(entry.peek()?))),
        ObjectId::Group(_) => Object::Group(Arc::new(group(entry.peek()?))),
        ObjectId::Rule(_) => Object::Rule(Arc::new(group_rule(entry.peek()?)?)),
        ObjectId::AddressGroup(_) => Object::AddressGroup(Arc::new(address_group(entry.peek()?))),
        ObjectId::FirewallRule(_) => Object::FirewallRule(Arc::new(firewall_rule(entry.peek()?)?)),
        ObjectId::FirewallPolicy(_) => {
            Object::FirewallPolicy(Arc::new(firewall_policy(entry.peek()?)))
        }
        ObjectId::Firewall(_) => Object::Firewall(Arc::new(firewall_group(entry.peek()?))),
        ObjectId::Qos(_) => Object::Qos(Arc::new(qos_policy(entry.peek()?))),
        ObjectId::Classifier(_) => Object::Classifier(Arc::new(classifier(entry.peek()?))),
        ObjectId::Function(_) => Object::Function(Arc::new(port_pair_group(entry.peek()?))),
        ObjectId::Chain(_) => Object::Chain(Arc::new(chain(entry.peek()?))),
        ObjectId::Label(_) => Object::Label(Arc::new(label(entry.peek()?))),
        ObjectId::LabelRule(_) => Object::LabelRule(Arc::new(label_rule(entry.peek()?))),
        ObjectId::Proxy(_) => Object::Proxy(Arc::new(lbaas::proxy(entry.peek()?, facts)?)),
    })
}

/// A project's id as the datapath knows it; an external identity service may use other texts.
fn project(id: &str) -> Id<kind::Project> {
    let uuid = id
        .parse()
        .unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, id.as_bytes()));
    Id::new(uuid)
}

fn host(host: &resources::Host) -> Host {
    Host {
        id: host.meta.id.into(),
        name: HostName::from(host.meta.name.as_str()),
        vtep: host.vtep,
        wires: host.physical_networks.clone(),
        zone: host.availability_zone.clone(),
        foreign: host.foreign,
        in_service: host.admin_state_up,
        proxies: host.proxies,
        lost: host.lost_at.is_some(),
        number: host.number,
        certificate: host.certificate.clone(),
    }
}

fn network(network: &resources::Network, facts: &Facts) -> Option<intent::Network> {
    let domain = dns::domain_of(network, facts);
    Some(intent::Network {
        section: hostconfig::Network {
            id: network.meta.id.into(),
            name: network.meta.name.clone(),
            project: project(&network.meta.project_id),
            vni: Vni::try_from(network.vni()?).ok()?,
            mtu: Mtu::try_from(u32::from(network.mtu)).ok()?,
            admin_up: network.admin_state_up,
            subnets: Vec::new(),
            wire: wire(network),
            domain: domain.strip_suffix('.').unwrap_or(domain).to_owned(),
            resolvers: facts.dns_resolvers.clone(),
            names: Vec::new(),
        },
        qos: network.qos_policy_id.map(Id::new),
    })
}

fn wire(network: &resources::Network) -> Option<Wire> {
    let physical = network.physical_network.clone()?;
    let vlan = network.vlan();
    Some(Wire { physical, vlan })
}

/// A QoS policy. A rule of nothing a second limits nothing, as in Neutron's own switch.
fn qos_policy(policy: &QosPolicy) -> Policy {
    let mut promised = [0; 2];
    let mut told = hostconfig::QosPolicy {
        id: policy.meta.id.into(),
        name: policy.meta.name.clone(),
        egress: Limit::default(),
        ingress: Limit::default(),
        dscp: None,
    };
    for QosRule { id, says } in &policy.rules {
        let rule = (*id).into();
        match says {
            Says::BandwidthLimit {
                max_kbps,
                max_burst_kbps,
                direction,
            } => {
                let per_second = u64::from(*max_kbps) * 1000;
                let usual = (per_second / 8 / BURSTS_A_SECOND).max(LEAST_BURST);
                let rate = Rate {
                    rule,
                    per_second,
                    burst: burst(u64::from(*max_burst_kbps) * 125, usual),
                };
                limit(&mut told, *direction).bits = (per_second > 0).then_some(rate);
            }
            Says::PacketRateLimit {
                max_kpps,
                max_burst_kpps,
                direction,
            } => {
                let per_second = u64::from(*max_kpps) * 1000;
                let rate = Rate {
                    rule,
                    per_second,
                    burst: burst(
                        u64::from(*max_burst_kpps) * 1000,
                        per_second / BURSTS_A_SECOND,
                    ),
                };
                limit(&mut told, *direction).packets = (per_second > 0).then_some(rate);
            }
            // Kept free when the port is bound (`resources/guarantee.rs`); a switch has something to do for it where others share a limit.
            Says::MinimumBandwidth {
                min_kbps,
                direction,
            } => {
                let [egress, ingress] = &mut promised;
                let of = match direction {
                    Way::Egress => egress,
                    Way::Ingress => ingress,
                };
                *of = u64::from(*min_kbps) * 1000;
            }
            Says::MinimumPacketRate { .. } => {}
            Says::DscpMarking { dscp_mark } => {
                let mark = *dscp_mark;
                told.dscp = Some(Dscp { rule, mark });
            }
        }
    }
    for limit in [&mut told.egress, &mut told.ingress] {
        let bits = limit.bits.map(|rate| rate.per_second);
        // By packets alone: as if they were full ones.
        let packets = limit.packets.map(|rate| rate.per_second * FULL_PACKET_BITS);
        if let Some(rate) = bits.or(packets) {
            limit.queue = Discipline::FqCodel;
            limit.queue_bytes = queue_bytes(rate, limit.queue);
        }
    }
    Policy {
        section: told,
        parent: policy.parent_id.map(Id::new),
        promised,
        fabric: policy.limit_scope == Scope::Fabric,
    }
}

fn limit(policy: &mut hostconfig::QosPolicy, way: Way) -> &mut Limit {
    match way {
        Way::Ingress => &mut policy.ingress,
        Way::Egress => &mut policy.egress,
    }
}

const fn burst(asked: u64, usual: u64) -> u64 {
    if asked == 0 { usual } else { asked }
}

fn routes(routes: &[HostRoute]) -> Vec<Route> {
    let routes = routes.iter().map(|route| Route {
        destination: route.destination,
        nexthop: route.nexthop,
    });
    routes.collect()
}

fn router(router: &resources::Router) -> Router {
    Router {
        id: router.meta.id.into(),
        name: router.meta.name.clone(),
        project: project(&router.meta.project_id),
        admin_up: router.admin_state_up,
        routes: routes(&router.routes),
        zones: router.zones.clone(),
        gateway: router.gateway.map(|gateway| intent::Gateway {
            port: gateway.port_id.into(),
            network: gateway.network_id.into(),
            snat: gateway.enable_snat,
            qos: gateway.qos_policy_id.map(Id::new),
        }),
    }
}

fn floating_ip(floating: &resources::FloatingIp) -> FloatingIp {
    let addr = floating.floating_ip_address;
    let addr = addr.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let forwards = floating.forwards.iter().map(|forward| Forward {
        addr,
        protocol: forward.protocol.number(),
        ports: forward.external,
        to: forward.internal_ip_address,
        to_port: forward.internal.min(),
        to_one: forward.internal.min() == forward.internal.max(),
        member: forward.internal_port_id.into(),
    });
    let to = floating.port_id.zip(floating.fixed_ip_address);
    FloatingIp {
        id: floating.meta.id.into(),
        project: project(&floating.meta.project_id),
        holder: floating.holder.unwrap_or_default().into(),
        network: floating.floating_network_id.into(),
        addr,
        router: floating.router_id.map(Id::new),
        to: to.map(|(port, addr)| Workload {
            port: port.into(),
            addr,
        }),
        forwards: forwards.collect(),
        qos: floating.qos_policy_id.map(Id::new),
        name: dns::floating(floating).map(|(domain, whole)| Name { domain, whole }),
    }
}

fn subnet(subnet: &resources::Subnet) -> intent::Subnet {
    let mode = |mode| match mode {
        Ipv6Mode::Slaac => RaMode::Slaac,
        Ipv6Mode::DhcpStateless => RaMode::Stateless,
        Ipv6Mode::DhcpStateful => RaMode::Stateful,
    };
    intent::Subnet {
        id: subnet.meta.id.into(),
        network: subnet.network_id.into(),
        cidr: subnet.cidr,
        gateway: subnet.gateway_ip,
        dhcp: subnet.enable_dhcp,
        address_mode: subnet.ipv6_address_mode.map(mode),
        ra: subnet.ipv6_ra_mode.map(mode),
        dns: subnet.dns_nameservers.clone(),
        routes: routes(&subnet.host_routes),
    }
}

fn port(port: &resources::Port) -> Option<intent::Port> {
    let own = UnicastMac::try_from(port.mac_address).ok()?;
    let fixed_ips = port.fixed_ips.iter().map(|fixed| FixedIp {
        addr: fixed.ip_address,
        subnet: fixed.subnet_id.into(),
    });
    let pairs = port.allowed_address_pairs.iter().filter_map(|pair| {
        let mac = pair.mac_address.map_or(Ok(own), UnicastMac::try_from);
        Some(AddressPair {
            mac: mac.ok()?,
            prefix: pair.ip_address,
        })
    });
    Some(intent::Port {
        section: hostconfig::Port {
            id: port.meta.id.into(),
            name: port.meta.name.clone(),
            network: port.network_id.into(),
            project: project(&port.meta.project_id),
            mac: own,
            fixed_ips: fixed_ips.collect(),
            admin_up: port.admin_state_up && is_carried(port),
            port_security: port.port_security_enabled,
            allowed_address_pairs: pairs.collect(),
            security_groups: port.security_groups.iter().map(|id| Id::new(*id)).collect(),
            max_connections: PORT_CONNECTIONS,
            qos: port.qos_policy_id.map(Id::new),
            host_number: None,
            dns_name: dns::told(port),
            dhcp: dhcp_options(port),
            trunk: sub_port(port),
            firewall: None,
        },
        host: port.place().map(HostName::from),
        router: router_of(port).map(Id::new),
        gateway_of: (port.device_owner == GATEWAY_OWNER)
            .then(|| port.device_id.parse().ok().map(Id::new))
            .flatten(),
        may_move: port.may_move,
        left: (!port.left.is_empty()).then(|| HostName::from(port.left.as_str())),
        inherits_qos: !port.device_owner.starts_with("network:"),
        metadata: port.told().map(Arc::new),
    })
}

fn dhcp_options(port: &resources::Port) -> DhcpOptions {
    let mut told = DhcpOptions::default();
    for option in &port.extra_dhcp_opts {
        let value = option.opt_value.as_deref().unwrap_or_default();
        let (code, data) = match encode(option.ip_version, &option.opt_name, value) {
            Ok(Sent::Option(code, data)) => (code, Some(data)),
            Ok(Sent::Omit(code)) => (code, None),
            Ok(Sent::NextServer(addr)) => {
                told.next_server = Some(addr);
                continue;
            }
            Ok(Sent::Nowhere) | Err(_) => continue,
        };
        let all = if option.ip_version == 4 {
            &mut told.v4
        } else {
            &mut told.v6
        };
        // One code may be said by its name and by its number: the later holds.
        all.retain(|known: &DhcpOption| known.code != code);
        all.push(DhcpOption { code, data });
    }
    told
}

/// Whose device it shares, if it is a trunk's.
fn sub_port(port: &resources::Port) -> Option<SubPort> {
    match port.trunk? {
        Trunking::Parent { .. } => None,
        Trunking::SubPort { parent, vlan, .. } => Some(SubPort {
            parent: parent.into(),
            vlan,
        }),
    }
}

/// Is it no sub-port of a trunk that is down?
const fn is_carried(port: &resources::Port) -> bool {
    !matches!(port.trunk, Some(Trunking::SubPort { up: false, .. }))
}

fn group(group: &SecurityGroup) -> Group {
    Group {
        id: group.meta.id.into(),
        name: group.meta.name.clone(),
        stateful: group.stateful,
    }
}

fn address_group(group: &AddressGroup) -> intent::AddressGroup {
    intent::AddressGroup {
        id: group.meta.id.into(),
        addresses: group.addresses.clone(),
    }
}

const fn family(ethertype: Ethertype) -> Family {
    match ethertype {
        Ethertype::V4 => Family::V4,
        Ethertype::V6 => Family::V6,
    }
}

/// A rule that can't be told exactly is none: a group only allows.
fn group_rule(rule: &resources::SecurityGroupRule) -> Option<Rule> {
    let bounds = (rule.port_range_min, rule.port_range_max);
    let l4 = match bounds {
        (None, _) => L4Match::Any,
        (Some(kind), code) if rule.is_icmp() => L4Match::Icmp {
            kind: u8::try_from(kind).ok()?,
            code: code.map(u8::try_from).transpose().ok()?,
        },
        (Some(min), max) => {
            let (min, max) = (
                u16::try_from(min).ok()?,
                u16::try_from(max.unwrap_or(min)).ok()?,
            );
            L4Match::Ports(PortRange::new(min, max).ok()?)
        }
    };
    let set = rule.remote_group_id.or(rule.remote_address_group_id);
    let remote = match (set, rule.normalized_cidr) {
        (Some(group), _) => Remote::Set(group.into()),
        (None, Some(cidr)) => Remote::Prefix(cidr),
        (None, None) if rule.remote_ip_prefix.is_some() => return None,
        (None, None) => Remote::Any,
    };
    Some(Rule {
        group: rule.security_group_id.into(),
        section: SecurityGroupRule {
            id: rule.meta.id.into(),
            direction: match rule.direction {
                rule::Direction::Ingress => Direction::Ingress,
                rule::Direction::Egress => Direction::Egress,
            },
            family: family(rule.ethertype),
            protocol: rule.protocol_number(),
            l4,
            remote,
        },
    })
}

/// A rule that is off is none. What can't be told exactly allows nothing, and denies more than it says.
fn firewall_rule(rule: &FirewallRule) -> Option<hostconfig::firewall::Rule> {
    let [source, destination] = rule.ends();
    let [source_ports, destination_ports] = rule.ports();
    let told = |given: &Option<String>, known: bool| given.is_none() || known;
    let whole = told(&rule.source_ip_address, source.is_some())
        && told(&rule.destination_ip_address, destination.is_some())
        && told(&rule.source_port, source_ports.is_some())
        && told(&rule.destination_port, destination_ports.is_some());
    let action = match rule.action {
        Ruling::Allow if !whole => return None,
        Ruling::Allow => hostconfig::firewall::Action::Allow,
        Ruling::Deny => hostconfig::firewall::Action::Deny,
        Ruling::Reject => hostconfig::firewall::Action::Reject,
    };
    rule.enabled.then(|| hostconfig::firewall::Rule {
        id: rule.meta.id.into(),
        action,
        family: match rule.ip_version {
            IpVersion::V4 => Family::V4,
            IpVersion::V6 => Family::V6,
        },
        protocol: rule.protocol_number(),
        source,
        destination,
        source_ports,
        destination_ports,
    })
}

fn firewall_policy(policy: &FirewallPolicy) -> intent::FirewallPolicy {
    intent::FirewallPolicy {
        id: policy.meta.id.into(),
        name: policy.meta.name.clone(),
        rules: policy
            .firewall_rules
            .iter()
            .map(|id| Id::new(*id))
            .collect(),
    }
}

fn firewall_group(group: &FirewallGroup) -> intent::FirewallGroup {
    intent::FirewallGroup {
        id: group.meta.id.into(),
        name: group.meta.name.clone(),
        admin_up: group.admin_state_up,
        ingress: group.ingress_firewall_policy_id.map(Id::new),
        egress: group.egress_firewall_policy_id.map(Id::new),
        ports: group.ports.iter().map(|id| Id::new(*id)).collect(),
    }
}

fn label(label: &MeteringLabel) -> Label {
    Label {
        id: label.meta.id.into(),
        project: project(&label.meta.project_id),
        shared: label.shared,
    }
}

fn label_rule(rule: &MeteringLabelRule) -> LabelRule {
    let direction = match rule.direction {
        rule::Direction::Ingress => Direction::Ingress,
        rule::Direction::Egress => Direction::Egress,
    };
    let (source, destination) = rule.ends();
    LabelRule {
        id: rule.meta.id.into(),
        label: rule.metering_label_id.into(),
        section: MeterRule {
            direction,
            excluded: rule.excluded,
            source,
            destination,
        },
    }
}

/// With neither side named it means the sources of its project (SEMANTICS: never another's).
fn classifier(classifier: &FlowClassifier) -> Classifier {
    let side = |port: Option<Uuid>, network: Option<Uuid>| match (port, network) {
        (Some(port), _) => Some(Side::Port(port.into())),
        (None, Some(network)) => Some(Side::Network(network.into())),
        (None, None) => None,
    };
    let range = |min: Option<u16>, max: Option<u16>| {
        let (min, max) = (min.or(max)?, max.or(min)?);
        PortRange::new(min, max).ok()
    };
    let destination = side(
        classifier.logical_destination_port,
        classifier.logical_destination_network,
    );
    let source = side(
        classifier.logical_source_port,
        classifier.logical_source_network,
    );
    let everyone = Side::Project(project(&classifier.meta.project_id));
    Classifier {
        id: classifier.meta.id.into(),
        name: classifier.meta.name.clone(),
        source: if classifier.at_branch {
            Some(Side::Branch)
        } else {
            source.or_else(|| destination.is_none().then_some(everyone))
        },
        destination,
        family: Some(family(classifier.ethertype)),
        protocol: classifier.protocol_number(),
        source_ports: range(
            classifier.source_port_range_min,
            classifier.source_port_range_max,
        ),
        destination_ports: range(
            classifier.destination_port_range_min,
            classifier.destination_port_range_max,
        ),
        source_prefix: classifier.source_ip_prefix,
        destination_prefix: classifier.destination_ip_prefix,
    }
}

fn port_pair_group(group: &PortPairGroup) -> Function {
    let work = group.network_function.as_ref().and_then(|function| {
        Some(match function {
            NetworkFunction::Firewall(f) => Work::Firewall(firewall(group.meta.id, f)),
            NetworkFunction::LoadBalancer(f) => Work::LoadBalancer(balancer(group, f)?),
            NetworkFunction::Shaper(f) => Work::Shaper(shaper(f)),
            NetworkFunction::Nat(f) => Work::Nat(nat(group, f)),
            NetworkFunction::Plain(f) => Work::Plain(f.clone()),
        })
    });
    let tap = group.instances.first().filter(|_| group.tap_enabled);
    let work = work
        .or_else(|| tap.map(|pair| Work::Tap(pair.ingress.into())))
        .or_else(|| (!group.instances.is_empty()).then(|| Work::Appliance(appliance(group))));
    Function {
        id: group.meta.id.into(),
        name: group.meta.name.clone(),
        work,
    }
}

fn appliance(group: &PortPairGroup) -> hostconfig::Appliance {
    let instances = group.instances.iter().map(|instance| Instance {
        id: instance.id.into(),
        name: instance.name.clone(),
        ingress: instance.ingress.into(),
        egress: instance.egress.into(),
        weight: instance.weight,
        labelled: instance.labelled,
        silent: instance.serves == Some(false),
        at: None,
    });
    let fields = &group.port_pair_group_parameters.lb_fields;
    let hash = fields.iter().map(|field| match field {
        LbField::IpSrc => HashField::IpSrc,
        LbField::IpDst => HashField::IpDst,
        LbField::TcpSrc => HashField::TcpSrc,
        LbField::TcpDst => HashField::TcpDst,
        LbField::UdpSrc => HashField::UdpSrc,
        LbField::UdpDst => HashField::UdpDst,
    });
    hostconfig::Appliance {
        instances: instances.collect(),
        hash: hash.collect(),
        failure: match group.failure_policy {
            FailurePolicy::Closed => Failure::Closed,
            FailurePolicy::Open => Failure::Open,
        },
        label: None,
        probe: group.health_probe.map(|probe| Crossing {
            interval_ms: u32::from(probe.interval) * 1000,
            misses: probe.misses,
            family: if probe.ip_version == 6 {
                Family::V6
            } else {
                Family::V4
            },
        }),
    }
}

fn firewall(group: Uuid, firewall: &function::Firewall) -> Firewall {
    let action = |action: function::Action| match action {
        function::Action::Allow => Action::Allow,
        function::Action::Deny => Action::Deny,
    };
    let rules = firewall.rules.iter().enumerate().map(|(place, rule)| {
        let said = serde_json::to_string(rule).unwrap_or_default();
        let of_prefix = rule.source.or(rule.destination);
        let family = of_prefix.map(|p| if p.is_ipv4() { Family::V4 } else { Family::V6 });
        let protocol = rule.protocol.as_ref().map(function::Protocol::number);
        hostconfig::chain::FirewallRule {
            id: Uuid::new_v5(&group, format!("{place}/{said}").as_bytes()).into(),
            action: action(rule.action),
            family,
            // As in a group's rule of IPv6.
            protocol: match (protocol, family) {
                (Some(protocol::ICMP), Some(Family::V6)) => Some(protocol::ICMPV6),
                (protocol, _) => protocol,
            },
            source: rule.source,
            destination: rule.destination,
            source_ports: rule.source_port,
            destination_ports: rule.destination_port,
        }
    });
    Firewall {
        rules: rules.collect(),
        default: action(firewall.default),
    }
}

fn balancer(group: &PortPairGroup, balancer: &function::LoadBalancer) -> Option<Balancer> {
    let members = balancer.members.iter().map(|member| BalancerMember {
        target: target(member.target),
        port: member.port.unwrap_or(balancer.port),
        // One that does not serve keeps what it has.
        weight: if group.serves(member.target) == Some(false) {
            0
        } else {
            member.weight
        },
    });
    let health = balancer.health.as_ref();
    Some(Balancer {
        vip_port: group.vip_port_id?.into(),
        vip: balancer.vip,
        protocol: balancer.protocol.number(),
        port: balancer.port,
        algorithm: algorithm(balancer.algorithm),
        members: members.collect(),
        monitor: health.and_then(|health| health.monitor(group.meta.id)),
    })
}

const fn algorithm(chosen: function::Algorithm) -> Algorithm {
    match chosen {
        function::Algorithm::Maglev => Algorithm::Maglev,
        function::Algorithm::SourceIp => Algorithm::SourceIp,
        function::Algorithm::RoundRobin => Algorithm::RoundRobin,
    }
}

const fn target(target: function::Target) -> Target {
    match target {
        function::Target::Port(id) => Target::Port(Id::new(id)),
        function::Target::Address(addr) => Target::Address(addr),
    }
}

fn nat(group: &PortPairGroup, nat: &resources::nat::Nat) -> Nat {
    let held = group.nat_ports.iter();
    let addresses = held.map(|(addr, port)| (*addr, Id::new(*port), nat.addresses.contains(addr)));
    let forwards = nat.forwards.iter().map(|f| NatForward {
        addr: f.address,
        protocol: f.protocol.number(),
        ports: f.port,
        to: target(f.to),
        to_port: f.to_port.unwrap_or(f.port.min()),
    });
    Nat {
        addresses: addresses.collect(),
        sources: nat.sources.clone(),
        ports: nat.ports,
        hosts: nat.hosts,
        client_limit: nat.connections_per_client,
        forwards: forwards.collect(),
        statics: nat
            .statics
            .iter()
            .map(|s| (s.address, target(s.to)))
            .collect(),
    }
}

fn shaper(shaper: &function::Shaper) -> Shaper {
    let rate_bps = shaper.rate.bits_per_second();
    let burst_bytes = shaper.burst.bytes();
    let queue = match shaper.queue.unwrap_or_default() {
        function::Queue::FqCodel => Discipline::FqCodel,
        function::Queue::Fifo => Discipline::Fifo,
    };
    Shaper {
        rate_bps,
        burst_bytes,
        queue_bytes: queue_bytes(rate_bps, queue),
        queue,
        share: None,
        classes: shaper
            .classes
            .iter()
            .map(|class| Class {
                dscp: class.dscp.clone(),
                rate_bps: class.rate.bits_per_second(),
                ceil_bps: class.ceil.unwrap_or(shaper.rate).bits_per_second(),
            })
            .collect(),
    }
}

/// How much may wait for so many bits a second.
pub(super) fn queue_bytes(rate_bps: u64, queue: Discipline) -> u64 {
    let least = match queue {
        Discipline::Fifo => *QUEUE_BYTES.start(),
        Discipline::FqCodel => FAIR_QUEUE_BYTES,
    };
    let bytes = rate_bps / 8 / 1000 * QUEUE_MILLIS;
    bytes.clamp(least, *QUEUE_BYTES.end())
}

fn chain(chain: &PortChain) -> Chain {
    Chain {
        id: chain.meta.id.into(),
        name: chain.meta.name.clone(),
        project: project(&chain.meta.project_id),
        number: chain.chain_id,
        symmetric: chain.chain_parameters.symmetric,
        classifiers: chain
            .flow_classifiers
            .iter()
            .map(|id| Id::new(*id))
            .collect(),
        functions: chain
            .port_pair_groups
            .iter()
            .map(|id| Id::new(*id))
            .collect(),
        graph: chain
            .place
            .as_ref()
            .map_or_else(Graph::default, |place| Graph {
                depth: place.depth,
                next: place.next.iter().map(|id| Id::new(*id)).collect(),
            }),
    }
}

#[cfg(test)]
mod tests;
