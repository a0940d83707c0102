//! Which functions are built in?
//!
//! Each is a file: policy made from its section of the configuration, one `decide`, and its tests.

pub mod appliance;
pub mod firewall;
pub mod inspector;
pub mod load_balancer;
mod maglev;
pub mod mirror;
pub mod nat;
pub mod rate_limiter;
pub mod shaper;
mod turns;

pub use appliance::Appliance;
pub use firewall::Firewall;
pub use inspector::Inspector;
pub use load_balancer::LoadBalancer;
pub use mirror::Mirror;
pub use nat::Nat;
pub use rate_limiter::RateLimiter;
pub use shaper::{Shaper, ShaperQueue};
