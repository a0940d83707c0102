//! Packets through a whole datapath, on tables built from configs.

mod attacks;
mod chains;
mod fairness;
mod forwarding;
mod gates;
mod harness;
mod properties;
mod services;
mod too_big;
mod tracking;
mod workers;
