//! Which networks lead outside?
//!
//! Routers have gateways on an external network, and floating IPs are its addresses. Who has a grant of the way out
//! ([`Access::AccessAsExternal`]) sees the network with its subnets and has gateways and floating IPs there, but puts no ports on
//! it; a network that is made external is granted to all so.

use super::Network;
use crate::{
    refusal::Refusal,
    resource::{Claim, Objects},
    resources::{
        Port,
        port::{FLOATING_OWNER, GATEWAY_OWNER},
        rbac_policy::{self, Access, Sharable},
    },
    rules::{Caller, Change, Judged, Write},
    store::{Read, View},
};

/// Who holds it is the default external network.
pub const DEFAULT_EXTERNAL: &str = "unique/default_external_network";

pub(super) fn leading_out(view: &View, change: &Change<'_, Network>, _: &Caller) -> Judged {
    let was = change.before.is_some_and(|before| before.external);
    let held = change.before.is_some_and(|before| before.is_default);
    let release = || Write::Release(DEFAULT_EXTERNAL.to_owned());
    let Some(after) = change.after else {
        return Ok(held.then(release).into_iter().collect());
    };
    let mut writes = Vec::new();
    let object = (&after.meta, Sharable::Network, Access::AccessAsExternal);
    let dice = &change.moment.dice;
    if was && !after.external {
        unused(view, after)?;
        writes.extend(rbac_policy::remove_ways_out(view, after.meta.id));
    } else if !was && after.external && change.is_asked() {
        writes.extend(rbac_policy::with_everybody(view, object, true, dice));
    }
    let mut network = after.clone();
    if after.is_default && !after.external {
        if change.names("is_default") {
            return Err(Refusal::input(
                "is_default: only an external network can be the default one",
            ));
        }
        network.is_default = false;
    }
    if network.is_default && !held {
        let holder = view.get::<Claim>(DEFAULT_EXTERNAL);
        if let Some(claim) = holder.filter(|claim| claim.holder != after.meta.id) {
            return Err(Refusal::conflict(
                "DefaultExternalNetworkExists",
                format!(
                    "A default external network already exists: {}.",
                    claim.holder
                ),
            ));
        }
        writes.push(Write::Claim(DEFAULT_EXTERNAL.to_owned(), after.meta.id));
    } else if held && !network.is_default {
        writes.push(release());
    }
    if network != *after {
        writes.push(Write::amend(network));
    }
    Ok(writes)
}

/// Nobody's way out is cut off.
fn unused(view: &View, network: &Network) -> Result<(), Refusal> {
    let ports = view.related::<Port>("network_id", network.meta.id);
    let owners = [GATEWAY_OWNER, FLOATING_OWNER];
    if !ports
        .iter()
        .any(|port| owners.contains(&port.device_owner.as_str()))
    {
        return Ok(());
    }
    Err(Refusal::conflict(
        "ExternalNetworkInUse",
        format!(
            "External network {} cannot be updated to be made non-external, since it has existing gateway ports or floating IPs.",
            network.meta.id
        ),
    ))
}
