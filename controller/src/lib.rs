//! What does the operator want, and who must hear of it?
pub mod store;
