//! Which functions take bytes from a network, and what do they look like when they are well formed?
//!
//! A target is a `fn(&[u8])` that must return for every input: it may refuse, it never panics. A new
//! parser is one line in [`TARGETS`] and one arm in [`seeds`]; `cargo xtask fuzz` drives them, and
//! its tests demand that each target has seeds.

/// A fuzz target: its name, and the function that must survive any input.
pub type Target = (&'static str, fn(&[u8]));

/// Every parser of bytes from a network.
pub const TARGETS: &[Target] = &[];

/// Well-formed inputs of a target, from which a mutator starts; none for an unknown name.
pub fn seeds(_target: &str) -> Vec<Vec<u8>> {
    Vec::new()
}
