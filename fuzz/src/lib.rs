//! Which functions take bytes from a network, and what do they look like when they are well formed?
//!
//! A target is a `fn(&[u8])` that must return for every input: it may refuse, it never panics. What
//! must hold of an accepted input is asserted in the target. `cargo xtask fuzz` drives them, and its
//! tests demand that each target has seeds.
//!
//! A new parser is a file here with a function and its seeds, one line in [`TARGETS`] and one in
//! [`seeds`].

mod frames;
mod headers;
mod rewrite;
mod southbound;
mod vxlan;

/// A fuzz target: its name, and the function that must survive any input.
pub type Target = (&'static str, fn(&[u8]));

/// Every parser of bytes from a network.
pub const TARGETS: &[Target] = &[
    ("headers", headers::parse),
    ("rewrite", rewrite::translate),
    ("vxlan", vxlan::decap),
    ("messages", southbound::messages),
    ("section", southbound::section),
];

/// Well-formed inputs of a target, from which a mutator starts; none for an unknown name.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "headers" | "rewrite" => frames::all(),
        "vxlan" => vxlan::seeds(),
        "messages" => southbound::message_seeds(),
        "section" => southbound::section_seeds(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_takes_its_own_seeds() {
        for (name, function) in TARGETS {
            let seeds = seeds(name);
            assert!(!seeds.is_empty(), "{name} has no seeds");
            for seed in &seeds {
                function(seed);
            }
        }
        assert!(seeds("no such target").is_empty());
    }
}
