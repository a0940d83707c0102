//! Does every word of the API do something?

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail loudly, and tell how much has an entry"
)]
#![expect(
    clippy::redundant_closure_for_method_calls,
    clippy::semicolon_if_nothing_returned,
    reason = "entries of a table read alike"
)]

mod aliases;
mod appliances;
mod balancers;
mod bindings;
mod chains;
mod coverage;
mod firewalls;
mod forwardings;
mod groups;
mod hosts;
mod limits;
mod metering;
mod monitors;
mod names;
mod networks;
mod pools;
mod ports;
mod qos;
mod routers;
mod sharing;
mod subnets;
mod trunks;
mod zones;

use tests::evidence::{Entry, Region, kept, no_effect, prove};

const TABLES: &[&[Entry]] = &[
    balancers::TABLE,
    bindings::TABLE,
    chains::TABLE,
    appliances::TABLE,
    firewalls::TABLE,
    forwardings::TABLE,
    groups::TABLE,
    limits::TABLE,
    metering::TABLE,
    names::TABLE,
    hosts::TABLE,
    monitors::TABLE,
    networks::TABLE,
    pools::TABLE,
    ports::TABLE,
    qos::TABLE,
    routers::TABLE,
    sharing::TABLE,
    subnets::TABLE,
    trunks::TABLE,
    zones::TABLE,
];

#[test]
fn each_attribute_has_an_entry() {
    coverage::attributes(TABLES);
}

#[test]
fn each_alias_is_true() {
    coverage::aliases(TABLES);
}

#[test]
fn what_is_kept_is_found_by_it() {
    kept(&mut Region::new(), &no_effect());
}

#[test]
fn firewalls() {
    prove(firewalls::TABLE);
}

#[test]
fn ports() {
    prove(ports::TABLE);
}

#[test]
fn names() {
    prove(names::TABLE);
}

#[test]
fn appliances() {
    prove(appliances::TABLE);
}

#[test]
fn networks() {
    prove(networks::TABLE);
}

#[test]
fn subnets() {
    prove(subnets::TABLE);
}

#[test]
fn routers() {
    prove(routers::TABLE);
}

#[test]
fn monitors() {
    prove(monitors::TABLE);
}

#[test]
fn forwardings() {
    prove(forwardings::TABLE);
}

#[test]
fn groups() {
    prove(groups::TABLE);
}

#[test]
fn qos() {
    prove(qos::TABLE);
}

#[test]
fn trunks() {
    prove(trunks::TABLE);
}

#[test]
fn limits() {
    prove(limits::TABLE);
}

#[test]
fn metering() {
    prove(metering::TABLE);
}

#[test]
fn pools() {
    prove(pools::TABLE);
}

#[test]
fn sharing() {
    prove(sharing::TABLE);
}

#[test]
fn zones() {
    prove(zones::TABLE);
}

#[test]
fn balancers() {
    prove(balancers::TABLE);
}

#[test]
fn bindings() {
    prove(bindings::TABLE);
}

#[test]
fn chains() {
    prove(chains::TABLE);
}

#[test]
fn hosts() {
    prove(hosts::TABLE);
}
