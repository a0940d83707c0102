//! Packets through a whole datapath, on tables built from configs.

mod advertising;
mod attacks;
mod chains;
mod dhcp6;
mod errors;
mod fairness;
mod fenced;
mod floating;
mod forwarding;
mod gates;
mod gateways;
mod harness;
mod metadata;
mod metering;
mod names;
mod nat;
mod properties;
mod qos;
mod routed_nat;
mod routing;
mod services;
mod several;
mod tracking;
mod trunks;
mod wires;
mod workers;
