//! Which block does a subnet get out of a pool?
//!
//! What of a pool is free is held by keys, `space/POOL/LENGTH/ADDRESS`: the fewest blocks that it can be said by. Who takes a block deletes
//! the key of the free one that holds it, and writes what is left of that one; two who take the same have deleted the same key.
//!
//! # Invariants
//! - No free block's buddy is free as well: the two would be one.
//! - A pool's prefixes are its free blocks and its subnets' blocks, and no two of these overlap.
//!
//! # Cost
//! An allocation looks at one key for each length of a prefix, however many subnets the pool has, and so does a release.

use crate::{
    rules::{Write, addresses::number},
    store::{Read, View},
};
use net::Prefix;
use std::{net::IpAddr, sync::Arc};
use uuid::Uuid;

/// The bits of an address of this family.
pub const fn width(ipv4: bool) -> u8 {
    if ipv4 { 32 } else { 128 }
}

/// Both halves of a block, unless it is one address.
fn halves(block: Prefix) -> Option<(Prefix, Prefix)> {
    let bits = block.bits() + 1;
    let low = Prefix::new(block.addr(), bits).ok()?;
    let high = Prefix::containing(block.last(), bits).ok()?;
    Some((low, high))
}

/// The block that this one is half of.
fn parent(block: Prefix) -> Option<Prefix> {
    Prefix::containing(block.addr(), block.bits().checked_sub(1)?).ok()
}

/// The other half of what this one is half of.
fn buddy(block: Prefix) -> Option<Prefix> {
    let (low, high) = halves(parent(block)?)?;
    Some(if low == block { high } else { low })
}

/// Is the second a part of the first?
pub fn holds(block: Prefix, part: Prefix) -> bool {
    block.bits() <= part.bits() && block.contains(part.addr())
}

/// The fewest blocks that hold the same addresses, in order.
pub fn merged(blocks: impl IntoIterator<Item = Prefix>) -> Vec<Prefix> {
    let mut blocks: Vec<Prefix> = blocks.into_iter().collect();
    blocks.sort_unstable();
    let mut all: Vec<Prefix> = Vec::new();
    for block in blocks {
        if all.last().is_some_and(|last| holds(*last, block)) {
            continue;
        }
        let mut block = block;
        while let Some(last) = all.pop_if(|last| buddy(block) == Some(*last)) {
            let Some(whole) = parent(last) else {
                unreachable!("a block with a buddy is half of another");
            };
            block = whole;
        }
        all.push(block);
    }
    all
}

/// What is left of blocks without others: the fewest blocks, in order.
pub fn without(blocks: &[Prefix], taken: &[Prefix]) -> Vec<Prefix> {
    fn cut(block: Prefix, taken: &[Prefix], left: &mut Vec<Prefix>) {
        let there: Vec<Prefix> = taken
            .iter()
            .copied()
            .filter(|taken| taken.overlaps(block))
            .collect();
        if there.is_empty() {
            left.push(block);
        } else if !there.iter().any(|taken| holds(*taken, block))
            && let Some((low, high)) = halves(block)
        {
            cut(low, &there, left);
            cut(high, &there, left);
        }
    }
    let mut left = Vec::new();
    for block in merged(blocks.iter().copied()) {
        cut(block, taken, &mut left);
    }
    left
}

/// Do two sets of blocks share an address?
pub fn meet(one: &[Prefix], other: &[Prefix]) -> bool {
    one.iter()
        .any(|block| other.iter().any(|other| block.overlaps(*other)))
}

fn space(pool: Uuid) -> String {
    format!("space/{pool}/")
}

fn of_length(pool: Uuid, bits: u8) -> String {
    format!("space/{pool}/{bits:03}/")
}

fn key(pool: Uuid, block: Prefix) -> String {
    let prefix = of_length(pool, block.bits());
    match block.addr() {
        IpAddr::V4(address) => format!("{prefix}{:08x}", u32::from(address)),
        IpAddr::V6(address) => format!("{prefix}{:032x}", u128::from(address)),
    }
}

/// The block of a key; a key of another form is none.
fn block(key: &str) -> Option<Prefix> {
    let mut parts = key.rsplit('/');
    let (address, bits) = (parts.next()?, parts.next()?.parse().ok()?);
    let address = match address.len() {
        8 => IpAddr::V4(u32::from_str_radix(address, 16).ok()?.into()),
        _ => IpAddr::V6(u128::from_str_radix(address, 16).ok()?.into()),
    };
    Prefix::new(address, bits).ok()
}

/// What of a pool is free.
pub fn free(read: &impl Read, pool: Uuid) -> Vec<Prefix> {
    let prefix = space(pool);
    let mut free: Vec<Prefix> = read
        .scan(&prefix)
        .filter_map(|(key, _)| block(key))
        .collect();
    free.sort_unstable();
    free
}

fn put(pool: Uuid, block: Prefix) -> Write {
    Write::Record(key(pool, block), Arc::new(()))
}

/// Makes the free blocks of a pool these.
pub fn set(view: &View, pool: Uuid, wanted: &[Prefix]) -> Vec<Write> {
    let had = free(view, pool);
    let gone = had.iter().filter(|block| !wanted.contains(block));
    let gone = gone.map(|block| Write::Release(key(pool, *block)));
    let new = wanted.iter().filter(|block| !had.contains(block));
    gone.chain(new.map(|block| put(pool, *block))).collect()
}

/// The block of this length that a pool gives next: the first of its smallest free block that is large enough.
pub fn next(view: &View, pool: Uuid, prefixes: &[Prefix], bits: u8) -> Option<Prefix> {
    let shortest = prefixes.iter().map(|prefix| prefix.bits()).min()?;
    let mut lengths = (shortest..=bits).rev();
    let free = lengths.find_map(|bits| {
        let prefix = of_length(pool, bits);
        let (key, _) = view.scan(&prefix).next()?;
        block(key)
    })?;
    Prefix::new(free.addr(), bits).ok()
}

/// Takes a block out of a pool; `None` if not all of it is free.
pub fn take(view: &View, pool: Uuid, wanted: Prefix) -> Option<Vec<Write>> {
    let mut around = Some(wanted);
    let mut held = None;
    while let Some(block) = around {
        if view.entry(&key(pool, block)).is_some() {
            held = Some(block);
            break;
        }
        around = parent(block);
    }
    let mut rest = held?;
    let mut writes = vec![Write::Release(key(pool, rest))];
    while rest != wanted {
        let (low, high) = halves(rest)?;
        let (inner, outer) = if holds(low, wanted) {
            (low, high)
        } else {
            (high, low)
        };
        writes.push(put(pool, outer));
        rest = inner;
    }
    Some(writes)
}

/// Gives a block back.
pub fn release(view: &View, pool: Uuid, freed: Prefix) -> Vec<Write> {
    let mut whole = freed;
    let mut writes = Vec::new();
    while let Some((other, around)) = buddy(whole).zip(parent(whole)) {
        let key = key(pool, other);
        if view.entry(&key).is_none() {
            break;
        }
        writes.push(Write::Release(key));
        whole = around;
    }
    writes.push(put(pool, whole));
    writes
}

/// Do blocks and this one come to more than so many of a unit, of which each is a block of this length? Exact, also for blocks
/// that are smaller than the unit.
pub fn exceed(blocks: impl Iterator<Item = Prefix>, unit: u8, quota: u64) -> bool {
    // Counted in whole units and in addresses of the last one.
    let mut units: u128 = 0;
    let mut parts: u128 = 0;
    for block in blocks {
        if let Some(wide) = unit.checked_sub(block.bits()) {
            units = units.saturating_add(1_u128.checked_shl(wide.into()).unwrap_or(u128::MAX));
        } else {
            let first = number(block.addr());
            parts = parts.saturating_add(number(block.last()) - first + 1);
        }
    }
    let size = 1_u128
        .checked_shl(u32::from(width(unit == 32)) - u32::from(unit))
        .unwrap_or(1);
    units = units.saturating_add(parts / size);
    let quota = u128::from(quota);
    units > quota || (units == quota && !parts.is_multiple_of(size))
}

#[cfg(test)]
mod tests;
