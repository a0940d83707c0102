//! What does the operator want, and who must hear of it?

pub mod api;
pub mod compile;
pub mod hosts;
pub mod identity;
pub mod refusal;
pub mod resource;
pub mod resources;
pub mod rules;
pub mod status;
pub mod store;
pub mod time;
