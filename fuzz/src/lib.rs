//! Which functions take bytes from others, and what do they look like when they are well formed?
//!
//! A target is a `fn(&[u8])` that must return for every input: it may refuse, it never panics. What
//! must hold of an accepted input is asserted in the target. [`mod@drive`] drives them, for
//! `cargo xtask fuzz` and for tests.
//!
//! A new parser is a file here with a function and its seeds, and one line in [`TARGETS`].

pub mod drive;

mod api_body;
mod connections;
mod dhcp;
mod dhcp6;
mod dns;
mod fragments;
mod frames;
mod headers;
mod host;
mod metadata;
mod nsh;
mod offload;
mod rewrite;
mod run_dir;
mod southbound;
mod uplink;
mod verdicts;
mod vxlan;

/// What must survive any input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Returns for every input.
    pub function: fn(&[u8]),
    /// Well-formed inputs, from which a mutator starts.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// It gets one in so many of the runs that were asked for: more than 1 where an input costs more than a parse.
    pub one_in: u32,
}

const fn target(name: &'static str, function: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target {
        name,
        function,
        seeds,
        one_in: 1,
    }
}

const fn slow(target: Target, one_in: u32) -> Target {
    Target { one_in, ..target }
}

/// Everything that takes bytes from others, as far as a library has it.
pub const TARGETS: &[Target] = &[
    target("headers", headers::parse, frames::all),
    target("rewrite", rewrite::translate, frames::all),
    target("vxlan", vxlan::decap, vxlan::seeds),
    target("nsh", nsh::decap, nsh::seeds),
    target("messages", southbound::messages, southbound::message_seeds),
    target("section", southbound::section, southbound::section_seeds),
    slow(
        target("connections", connections::inherited, connections::seeds),
        4,
    ),
    slow(target("offload", offload::super_frame, offload::seeds), 10),
    target("uplink", uplink::receive, uplink::seeds),
    target("dhcp", dhcp::request, dhcp::seeds),
    target("dhcp6", dhcp6::request, dhcp6::seeds),
    target("dns", dns::request, dns::seeds),
    slow(target("metadata", metadata::converse, metadata::seeds), 10),
    slow(target("fragments", fragments::arrive, fragments::seeds), 10),
    slow(target("api_body", api_body::requests, api_body::seeds), 100),
    // Each may hash two passwords.
    slow(
        target(
            "identity_body",
            api_body::identities,
            api_body::identity_seeds,
        ),
        400,
    ),
    target("run_dir", run_dir::request, run_dir::seeds),
    // A run is one (rules, packet) pair, an input has many.
    slow(
        target("verdicts", verdicts::agree, verdicts::seeds),
        verdicts::PAIRS,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_takes_its_own_seeds() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has no seeds", target.name);
            for seed in &seeds {
                (target.function)(seed);
            }
        }
    }
}
