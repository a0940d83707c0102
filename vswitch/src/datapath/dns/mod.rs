//! What does the switch know of names?
//!
//! `names` has what ports are called.

mod names;

pub use names::host_name;
