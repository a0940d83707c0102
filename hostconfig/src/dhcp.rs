//! What is one port told by DHCP besides what its subnets say?

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Options of one port, in the form in which they are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DhcpOptions {
    /// Of DHCPv4 (RFC 2132): at most one of a code.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub v4: Vec<DhcpOption>,
    /// Of DHCPv6 (RFC 8415): at most one of a code.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub v6: Vec<DhcpOption>,
    /// From where the client is to boot (RFC 2131 §2, `siaddr`); `None`: from who answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_server: Option<Ipv4Addr>,
}

impl DhcpOptions {
    /// Is nothing said?
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.next_server.is_none()
    }
}

/// One option: instead of what the subnet says under its code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DhcpOption {
    /// Its code; below 256 in DHCPv4.
    pub code: u16,
    /// Its content; `None`: it is not sent at all.
    pub data: Option<Vec<u8>>,
}
