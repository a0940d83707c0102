//! overlay.

#![forbid(unsafe_code)]
