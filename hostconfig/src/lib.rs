//! hostconfig.
