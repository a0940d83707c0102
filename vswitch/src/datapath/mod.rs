//! How does a batch of packets get from where it entered to where it goes?
//!
//! The packet's corridor, in walking order: [`tables`] (what is known), [`flow`] (what was decided), [`drops`] and [`ledger`] (what
//! became of it).

pub mod drops;
pub mod flow;
pub mod ledger;
pub mod tables;

pub use drops::{DropRecord, Drops};
pub use flow::{Action, CompiledFlow, ProgramId, Programs, Refusal, Stage, Verdict};
pub use ledger::{Ledger, Unbalanced};
pub use tables::{HopId, Tables, ZoneMap};
