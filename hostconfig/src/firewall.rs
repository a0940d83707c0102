//! What may pass a port of a workload, or a router's interface, besides what its groups say?

use net::{Id, PortRange, Prefix, ids::kind};
use serde::{Deserialize, Serialize};

use crate::group::Family;

/// A firewall group: what holds at each port that it has. Whatever no rule of a direction allows begins nothing there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirewallGroup {
    /// Its id in the API.
    pub id: Id<kind::FirewallGroup>,
    /// Its name, for people.
    pub name: String,
    /// Is it on? One that is off lets nothing pass.
    pub admin_up: bool,
    /// For what goes towards the workload, or from the router into the interface's network.
    pub ingress: Policy,
    /// For what comes from there.
    pub egress: Policy,
}

/// The rules of one direction.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The policy's name, for people; empty where there is none.
    pub name: String,
    /// Its rules that are enabled: the first that matches decides.
    pub rules: Vec<Rule>,
}

/// What a rule says of what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
    /// It is dropped, and its sender hears so.
    Reject,
}

/// A rule; what is `None` matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its id in the API.
    pub id: Id<kind::Rule>,
    /// What it says.
    pub action: Action,
    /// Which family.
    pub family: Family,
    /// The IP protocol number.
    pub protocol: Option<u8>,
    /// Where it comes from.
    pub source: Option<Prefix>,
    /// Where it goes.
    pub destination: Option<Prefix>,
    /// From which ports, of a protocol that has them.
    pub source_ports: Option<PortRange>,
    /// To which ports.
    pub destination_ports: Option<PortRange>,
}
