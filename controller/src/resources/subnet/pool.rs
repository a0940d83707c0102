//! How does a subnet get its block out of a pool?
//!
//! By the length that it asks for, or the pool's default: the pool's next free block. By the block itself: if all of it is free. Either way
//! the block is the subnet's alone until it goes.

use super::Subnet;
use crate::{
    refusal::Refusal,
    resource::{Lookup, Objects},
    resources::{
        SubnetPool, address_scope,
        subnet_pool::{self, scope_affinity},
    },
    rules::{Caller, Change, Judged, Write, blocks},
    store::View,
};
use net::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What a create asks of a pool; of a subnet that is stored nothing is left of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The length of the block; the pool's default if neither it nor the block is given.
    #[serde(default)]
    prefixlen: Option<u8>,
    /// Was the block itself given?
    #[serde(default)]
    named: bool,
    /// Is it the family's default pool that is meant?
    #[serde(default)]
    by_default: bool,
}

fn bad(why: impl std::fmt::Display) -> Refusal {
    Refusal::invalid("BadRequest", format!("Bad subnets request: {why}."))
}

/// Takes out of a create's fields what is asked of a pool, and leaves a block in any case.
pub(super) fn intake(fields: &mut Map<String, Value>) -> Result<(), Refusal> {
    let mut take = |name: &str| fields.shift_remove(name).filter(|value| !value.is_null());
    let prefixlen = take("prefixlen");
    let by_default = take("use_default_subnetpool") == Some(json!(true));
    let has_pool = fields.get("subnetpool_id").is_some_and(Value::is_string);
    let has_cidr = fields.get("cidr").is_some_and(Value::is_string);
    if has_cidr && prefixlen.is_some() {
        return Err(bad("cidr and prefixlen must not be supplied together"));
    }
    if has_pool && by_default {
        return Err(bad(
            "subnetpool_id and use_default_subnetpool cannot both be specified",
        ));
    }
    if !has_pool && !by_default {
        return if has_cidr {
            Ok(())
        } else {
            Err(bad(
                "a subnetpool must be specified in the absence of a cidr",
            ))
        };
    }
    let wanted = json!({"prefixlen": prefixlen, "named": has_cidr, "by_default": by_default});
    // A stored subnet has its block, and asks for nothing any more.
    if !fields.contains_key("revision_number") {
        fields.insert("wanted".to_owned(), wanted);
    }
    if !has_cidr {
        fields.insert("cidr".to_owned(), json!(Prefix::ANY_V4));
    }
    Ok(())
}

/// The block of a new subnet, and back to the pool with that of one that goes.
pub(super) fn block(view: &View, change: &Change<'_, Subnet>, caller: &Caller) -> Judged {
    if let Some(before) = change.removed() {
        let pool = before.subnetpool_id;
        return Ok(pool
            .map(|pool| blocks::release(view, pool, before.cidr))
            .unwrap_or_default());
    }
    let Some(after) = change.made() else {
        return Ok(Vec::new());
    };
    let Some(wanted) = after.wanted else {
        affinity(view, after, None)?;
        return Ok(Vec::new());
    };
    let pool = pool_of(view, after, wanted, caller)?;
    let mut subnet = after.clone();
    subnet.wanted = None;
    subnet.subnetpool_id = Some(pool.meta.id);
    if subnet.ip_version != pool.ip_version {
        return Err(bad(format_args!(
            "Cannot allocate IPv{} subnet from IPv{} subnet pool",
            subnet.ip_version, pool.ip_version
        )));
    }
    if !wanted.named && change.names("allocation_pools") {
        return Err(bad(
            "allocation_pools allowed only for specific subnet requests",
        ));
    }
    if wanted.named && subnet.cidr.is_ipv4() != (pool.ip_version == 4) {
        return Err(Refusal::input(format_args!(
            "cidr '{}' does not match the ip_version '{}'",
            subnet.cidr, subnet.ip_version
        )));
    }
    let bits = if wanted.named {
        subnet.cidr.bits()
    } else {
        wanted.prefixlen.unwrap_or(pool.default_prefixlen)
    };
    within_bounds(&pool, bits)?;
    affinity(view, &subnet, Some(&pool))?;
    let block = if wanted.named {
        Some(subnet.cidr)
    } else {
        blocks::next(view, pool.meta.id, &pool.prefixes, bits)
    };
    let Some(block) = block else {
        return Err(unallocated(format_args!(
            "Insufficient prefix space to allocate subnet size /{bits}"
        )));
    };
    within_quota(view, &pool, &subnet, block)?;
    let Some(mut writes) = blocks::take(view, pool.meta.id, block) else {
        return Err(unallocated(
            "Cannot allocate requested subnet from the available set of prefixes",
        ));
    };
    subnet.cidr = block;
    writes.push(Write::amend(subnet));
    Ok(writes)
}

fn pool_of(
    view: &View,
    subnet: &Subnet,
    wanted: Wanted,
    caller: &Caller,
) -> Result<Arc<SubnetPool>, Refusal> {
    match subnet.subnetpool_id.filter(|_| !wanted.by_default) {
        Some(id) => subnet_pool::visible(view, id, caller),
        None => subnet_pool::default_of(view, subnet.ip_version, caller).ok_or_else(|| {
            bad(format_args!(
                "No default subnetpool found for IPv{}",
                subnet.ip_version
            ))
        }),
    }
}

fn unallocated(why: impl std::fmt::Display) -> Refusal {
    Refusal::conflict(
        "SubnetAllocationError",
        format!("Failed to allocate subnet: {why}."),
    )
}

fn within_bounds(pool: &SubnetPool, bits: u8) -> Result<(), Refusal> {
    let (name, word, bound) = if bits > pool.max_prefixlen {
        (
            "MaxPrefixSubnetAllocationError",
            "maximum",
            pool.max_prefixlen,
        )
    } else if bits < pool.min_prefixlen {
        (
            "MinPrefixSubnetAllocationError",
            "minimum",
            pool.min_prefixlen,
        )
    } else {
        return Ok(());
    };
    Err(Refusal::invalid(
        name,
        format!(
            "Unable to allocate subnet with prefix length {bits}, {word} allowed prefix is {bound}."
        ),
    ))
}

/// What the project has of the pool, this block with it, is within the pool's quota.
fn within_quota(
    view: &View,
    pool: &SubnetPool,
    subnet: &Subnet,
    block: Prefix,
) -> Result<(), Refusal> {
    let Some(quota) = pool.default_quota.filter(|quota| *quota > 0) else {
        return Ok(());
    };
    let share = Subnet::share(pool.meta.id, &subnet.meta.project_id);
    let had = view.related::<Subnet>("share", share);
    let blocks = had.iter().map(|subnet| subnet.cidr).chain([block]);
    if blocks::exceed(blocks, pool.unit(), quota) {
        return Err(Refusal::conflict(
            "SubnetPoolQuotaExceeded",
            "Per-tenant subnet pool prefix quota exceeded.",
        ));
    }
    Ok(())
}

/// The subnets of a family on a network are all of one scope; without a scope, of one pool or of none.
fn affinity(view: &View, subnet: &Subnet, pool: Option<&SubnetPool>) -> Result<(), Refusal> {
    let scope = pool.and_then(|pool| pool.address_scope_id);
    let read: &dyn Lookup = view;
    for other in view.related::<Subnet>("network_id", subnet.network_id) {
        if other.ip_version != subnet.ip_version {
            continue;
        }
        let its = address_scope::of_subnet(read, &other);
        if its != scope {
            return Err(scope_affinity());
        }
        if scope.is_none() && other.subnetpool_id != pool.map(|pool| pool.meta.id) {
            return Err(Refusal::invalid(
                "NetworkSubnetPoolAffinityError",
                "Subnets hosted on the same network must be allocated from the same subnet pool.",
            ));
        }
    }
    Ok(())
}
