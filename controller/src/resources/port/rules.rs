//! What must hold of a port?

use super::{Port, SERVICE_OWNERS};
use crate::{
    refusal::Refusal,
    resource::{Objects, Resource, Verb},
    resources::{
        FlowClassifier, Network, PortPair, PortPairGroup, SecurityGroup, Subnet, floating_ip,
        function::Target,
        network,
        port::{FLOATING_OWNER, GATEWAY_OWNER, NAT_OWNER, PROXY_OWNER, VIP_OWNER},
        qos_policy, router, security_group,
    },
    rules::{
        Caller, Change, Write,
        addresses::{is_automatic, slaac},
        usable,
    },
    store::{Read, View},
};
use net::{Mac, UnicastMac};
use std::sync::Arc;
use uuid::Uuid;

/// How many groups: each is a section of every host that has the port.
const GROUPS: usize = 32;

pub(super) fn place(
    view: &View,
    change: &Change<'_, Port>,
    caller: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.made() else {
        return Ok(Vec::new());
    };
    let network = if change.is_asked() {
        network::open(view, after.network_id, caller, "create_port")?
    } else {
        let found = view.object::<Network>(after.network_id);
        found.ok_or_else(|| Refusal::missing("Network", after.network_id))?
    };
    if change.is_asked() && !change.names("port_security_enabled") {
        let port_security_enabled = network.port_security_enabled;
        return Ok(vec![Write::amend(Port {
            port_security_enabled,
            ..after.clone()
        })]);
    }
    Ok(Vec::new())
}

/// On a network of another project some of a port is for that project to say.
pub(super) fn foreign(
    view: &View,
    change: &Change<'_, Port>,
    caller: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let asked = change.after.filter(|_| change.is_asked());
    let Some(after) = asked.filter(|_| !caller.admin && !caller.service) else {
        return Ok(Vec::new());
    };
    let network = view.object::<Network>(after.network_id);
    let Some(network) = network.filter(|it| !caller.owns(&it.meta.project_id)) else {
        return Ok(Vec::new());
    };
    let rule = Port::SPEC.rule(change.verb);
    let denied = |name: &str| {
        if caller.is_told(&format!("{rule}:{name}")) {
            return Ok(());
        }
        Err(Refusal::denied(format!(
            "(rule:{rule} and rule:{rule}:{name})"
        )))
    };
    for name in [
        "mac_address",
        "port_security_enabled",
        "allowed_address_pairs",
    ] {
        if change.names(name) {
            denied(name)?;
        }
    }
    if change.names("device_owner") && after.device_owner.starts_with("network:") {
        denied("device_owner")?;
    }
    if change.names("fixed_ips") {
        let shared = change.verb == Verb::Create && network.is_open_to(view, &caller.project_id);
        if !shared {
            denied("fixed_ips")?;
        }
        let wanted = after.wanted.iter().flatten();
        if wanted.into_iter().any(|wanted| wanted.ip_address.is_some()) {
            denied("fixed_ips:ip_address")?;
        }
    }
    Ok(Vec::new())
}

pub(super) fn mac_key(network: Uuid, mac: Mac) -> String {
    format!("mac/{network}/{mac}")
}

pub(super) fn link_address(
    view: &View,
    change: &Change<'_, Port>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let mut writes = Vec::new();
    let key = |port: &Port| mac_key(port.network_id, port.mac_address);
    let Some(after) = change.after else {
        return Ok(change
            .before
            .map(|port| Write::Release(key(port)))
            .into_iter()
            .collect());
    };
    if change
        .before
        .is_some_and(|before| before.mac_address == after.mac_address)
    {
        return Ok(writes);
    }
    let mut port = after.clone();
    if port.mac_address == Mac::ZERO {
        if change.names("mac_address") {
            return Err(Refusal::attribute(
                "mac_address",
                "'00:00:00:00:00:00' is not a valid MAC address",
            ));
        }
        port.mac_address = change.moment.dice.mac();
        while view.entry(&key(&port)).is_some() {
            port.mac_address = change.moment.dice.mac();
        }
    }
    if UnicastMac::try_from(port.mac_address).is_err() {
        return Err(Refusal::attribute(
            "mac_address",
            format_args!("'{}' is not a valid MAC address", port.mac_address),
        ));
    }
    if view.entry(&key(&port)).is_some() {
        return Err(Refusal::conflict(
            "MacAddressInUse",
            format!(
                "Unable to complete operation for network {}. The mac address {} is in use.",
                port.network_id, port.mac_address
            ),
        ));
    }
    if let Some(before) = change.before {
        writes.push(Write::Release(key(before)));
        // Addresses that follow the MAC follow the new one.
        for fixed in &mut port.fixed_ips {
            let subnet = view.object::<Subnet>(fixed.subnet_id);
            if let Some(subnet) = subnet.filter(|subnet| is_automatic(subnet)) {
                fixed.ip_address = slaac(&subnet, port.mac_address);
            }
        }
    }
    writes.push(Write::Claim(key(&port), port.meta.id));
    writes.push(Write::amend(port));
    Ok(writes)
}

pub(super) fn security(
    view: &View,
    change: &Change<'_, Port>,
    caller: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    if !change.is_asked() {
        return Ok(Vec::new());
    }
    let (mut port, mut writes) = (after.clone(), Vec::new());
    for pair in &mut port.allowed_address_pairs {
        pair.mac_address.get_or_insert(port.mac_address);
    }
    if !port.port_security_enabled {
        if !port.allowed_address_pairs.is_empty() {
            return Err(Refusal::conflict(
                "AddressPairAndPortSecurityRequired",
                "Port Security must be enabled in order to have allowed address pairs on a port.",
            ));
        }
        if !port.security_groups.is_empty() {
            if change.names("security_groups") {
                return Err(Refusal::invalid(
                    "PortSecurityAndIPRequiredForSecurityGroups",
                    "Port security must be enabled and port must have an IP address in order to use security groups.",
                ));
            }
            return Err(Refusal::conflict(
                "PortSecurityPortHasSecurityGroup",
                "Port has security group associated. Cannot disable port security or IP address until security group is removed.",
            ));
        }
    }
    let service = port.device_owner.starts_with("network:");
    if change.verb == Verb::Create
        && port.port_security_enabled
        && !service
        && !change.names("security_groups")
    {
        let (group, made) =
            security_group::default_of(view, &port.meta.project_id, &change.moment.dice);
        writes.extend(made);
        port.security_groups = vec![group];
    } else if change.names("security_groups") {
        if port.security_groups.len() > GROUPS {
            return Err(Refusal::attribute(
                "security_groups",
                format_args!("more than {GROUPS} groups"),
            ));
        }
        for id in &port.security_groups {
            let group = view.object::<SecurityGroup>(*id);
            // An admin may give a port of one project the group of another, as in Neutron.
            let usable = group.is_some_and(|group| usable(view, &*group, caller));
            if !usable {
                return Err(Refusal::missing("SecurityGroup", id));
            }
        }
    }
    writes.push(Write::amend(port));
    Ok(writes)
}

pub(super) fn quality(
    view: &View,
    change: &Change<'_, Port>,
    caller: &Caller,
) -> Result<Vec<Write>, Refusal> {
    if let Some(after) = change.after.filter(|_| change.is_asked()) {
        let before = change.before.and_then(|before| before.qos_policy_id);
        let ids = (before, after.qos_policy_id);
        qos_policy::exchange(view, ids, "update_port", caller)?;
    }
    Ok(Vec::new())
}

/// What names a port must not lose it, nor its address, unawares; and nobody makes a port that says it is
/// such a one.
pub(super) fn users(
    view: &View,
    change: &Change<'_, Port>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    if !change.is_asked() {
        return Ok(Vec::new());
    }
    let owner = change
        .before
        .map_or("", |before| before.device_owner.as_str());
    if let Some(after) = change.after
        && after.device_owner != owner
        && SERVICE_OWNERS.contains(&after.device_owner.as_str())
    {
        return Err(Refusal::attribute(
            "device_owner",
            format_args!("'{}' is made by overweave alone", after.device_owner),
        ));
    }
    let Some(before) = change.before else {
        return Ok(Vec::new());
    };
    let interface = router::is_interface(view, before) || before.device_owner == GATEWAY_OWNER;
    let others = [VIP_OWNER, PROXY_OWNER, NAT_OWNER, FLOATING_OWNER];
    if !interface && !others.contains(&before.device_owner.as_str()) {
        return Ok(Vec::new());
    }
    let moved = change
        .after
        .is_some_and(|after| after.fixed_ips != before.fixed_ips);
    if interface && moved {
        return Err(Refusal::invalid(
            "BadRequest",
            format!(
                "Bad ports request: IP updates for port {} are not allowed.",
                before.meta.id
            ),
        ));
    }
    let bound = change.after.is_some_and(|after| after.host != before.host);
    if change.verb == Verb::Delete
        || moved
        || bound
        || change.names("device_owner")
        || change.names("device_id")
        || change.names("mac_address")
    {
        return Err(Refusal::conflict(
            "ServicePortInUse",
            format!(
                "Port {} cannot be deleted directly via the port API: has device owner {}.",
                before.meta.id, before.device_owner
            ),
        ));
    }
    Ok(Vec::new())
}

/// Floating IPs lead to addresses that a port has.
#[expect(clippy::unnecessary_wraps, reason = "a rule's signature")]
pub(super) fn floating(
    view: &View,
    change: &Change<'_, Port>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let before = change.before;
    Ok(before.map_or_else(Vec::new, |before| {
        floating_ip::follow(view, before, change.after)
    }))
}

pub(super) fn removal(
    view: &View,
    change: &Change<'_, Port>,
    caller: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(before) = change.removed() else {
        return Ok(Vec::new());
    };
    let compute = before.device_owner.starts_with("compute:");
    let open = caller.admin || caller.service || caller.is_told("delete_port");
    if change.is_asked() && compute && !open {
        return Err(Refusal::denied("rule:delete_port"));
    }
    let id = before.meta.id;
    for side in ["logical_source_port", "logical_destination_port"] {
        if let Some(classifier) = view.related::<FlowClassifier>(side, id).first() {
            return Err(Refusal::conflict(
                "PortInUse",
                format!(
                    "Unable to complete operation on port {id}. Flow classifier {} names it.",
                    classifier.meta.id
                ),
            ));
        }
    }
    for side in ["ingress", "egress"] {
        if let Some(pair) = view.related::<PortPair>(side, id).first() {
            return Err(Refusal::conflict(
                "PortInUse",
                format!(
                    "Unable to complete operation on port {id}. Port pair {} names it.",
                    pair.meta.id
                ),
            ));
        }
    }
    // A member that is gone leaves its load balancers, which spread over the others; nothing is forwarded to it any more.
    let groups = view.related::<PortPairGroup>("member", id);
    let without = |group: &Arc<PortPairGroup>| {
        let mut group = PortPairGroup::clone(group);
        if let Some(balancer) = group.load_balancer_mut() {
            balancer
                .members
                .retain(|member| member.target != Target::Port(id));
        }
        if let Some(nat) = group.nat_mut() {
            nat.forget(id);
        }
        Write::put(group)
    };
    Ok(groups.iter().map(without).collect())
}
