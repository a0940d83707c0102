//! From which addresses may VXLAN come?

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

/// The VTEPs of the fabric: every host's, and those declared as foreign. VXLAN from any other address is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vteps {
    /// By address.
    pub vteps: BTreeMap<IpAddr, Vtep>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vtep {
    /// The host's name.
    pub host: String,
    /// Has it no overweave agent? Chains and their homes do not exist there, and BUM traffic is its own affair.
    pub foreign: bool,
}
