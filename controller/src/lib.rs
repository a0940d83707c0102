//! What does the operator want, and who must hear of it?
//!
//! The controller keeps intent (networks, ports, groups, chains) and turns it into what each host
//! should be.
//!
//! # The request's walk
//! A request comes in at [`api`]. *Who asks?* [`identity`] turns the token into a
//! [`Caller`](rules::Caller). *Is the body what the table admits?* The [`Spec`](resource::Spec) of the
//! resource refuses what is unknown, read-only, missing or of a wrong type, and fills in defaults. One
//! of five handlers then opens a transaction of the [`store`]. In it the resource's [`rules`] judge the
//! change: they refuse, complete the object, or return further writes, which are judged in their turn
//! until none is left. When the commit is on disk the answer is sent, as the caller may see it, and a
//! line goes to the [`audit`]. Whoever watches the store (the publisher to the hosts) hears of the
//! commit, and [`compile`] turns it into sections of host configs. What hosts prove comes back over the
//! [`status`] board and shows in the next answer.
//!
//! # Map
//! - the corridor: [`api`], [`identity`], [`rules`], [`store`], [`compile`], [`hosts`]
//! - words: [`resource`] (what a resource is), [`resources`] (all of them), [`refusal`], [`time`]
//! - who may: [`policy`]; what nobody else may read: [`keys`]
//! - edges: [`config`], [`audit`], [`mod@backup`], [`stats`], [`status`]

pub mod api;
pub mod audit;
pub mod backup;
pub mod compile;
pub mod config;
pub mod core;
pub mod hosts;
pub mod identity;
pub mod keys;
pub mod policy;
mod private;
pub mod refusal;
pub mod resource;
pub mod resources;
pub mod rules;
pub mod stats;
pub mod status;
pub mod store;
pub mod time;

pub use backup::{backup, restore};
pub use config::{Config, ConfigError};
pub use core::{Controller, Core, StartError, run, run_on};
