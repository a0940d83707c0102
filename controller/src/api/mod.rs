//! How does a request walk?
mod scene;
pub use scene::Scene;
