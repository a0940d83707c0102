//! The `overweave` command.
fn main() {}
