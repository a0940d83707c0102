//! What do security groups say?

use hostconfig::{
    Port, Section, SectionKey, SecurityGroupRule,
    group::{Direction, L4Match, Remote},
};
use net::{DropReason, FlowKey};

use super::{
    Host,
    words::{always, family_is, has_ports},
};
use crate::plan::PortUuid;

impl Host {
    /// Ports without state judge each packet by itself, both ways.
    pub(super) fn stateless(
        &self,
        port: Option<PortUuid>,
        key: &FlowKey,
        direction: Direction,
    ) -> Result<(), DropReason> {
        match port.and_then(|p| self.port(p)) {
            Some(port) if !self.stateful(port) => self.group(port, key, direction),
            _ => Ok(()),
        }
    }

    pub(super) fn rules(&self, port: &Port) -> Vec<&SecurityGroupRule> {
        let groups = port.security_groups.iter().filter_map(|g| {
            match self.config.sections.get(&SectionKey::Group(*g))?.body() {
                Section::Group(g) => Some(g),
                _ => None,
            }
        });
        groups.flat_map(|g| &g.rules).collect()
    }

    pub(super) fn stateful(&self, port: &Port) -> bool {
        let mut groups = self.bodies().filter_map(|s| match s {
            Section::Group(g) if port.security_groups.contains(&g.id) => Some(g),
            _ => None,
        });
        port.port_security && (port.security_groups.is_empty() || groups.any(|g| g.stateful))
    }

    /// Does the port remember what it lets pass? What is always allowed needs no memory.
    pub(super) fn tracks(&self, port: &Port, key: &FlowKey, direction: Direction) -> bool {
        key.is_ip() && self.stateful(port) && !always(key, direction)
    }

    pub(super) fn group(
        &self,
        port: &Port,
        key: &FlowKey,
        direction: Direction,
    ) -> Result<(), DropReason> {
        let (remote, reason) = match direction {
            Direction::Ingress => (key.src_addr(), DropReason::SecurityGroupIngress),
            Direction::Egress => (key.dst_addr(), DropReason::SecurityGroupEgress),
        };
        if !port.port_security || !key.is_ip() || always(key, direction) {
            return Ok(());
        }
        let allowed = self.rules(port).iter().any(|r| {
            let remote = match r.remote {
                Remote::Any => true,
                Remote::Prefix(p) => p.contains(remote),
                Remote::Set(id) => self.config.sections.values().any(|s| match s.body() {
                    Section::AddressSet(s) => {
                        s.id == id && s.members.iter().any(|p| p.contains(remote))
                    }
                    _ => false,
                }),
            };
            let l4 = match r.l4 {
                L4Match::Any => true,
                L4Match::Ports(range) => has_ports(key) && range.contains(key.l4_dst),
                L4Match::Icmp { kind, code } => {
                    key.l4_src == u16::from(kind) && code.is_none_or(|c| key.l4_dst == u16::from(c))
                }
            };
            r.direction == direction
                && family_is(Some(r.family), key)
                && r.protocol.is_none_or(|p| p == key.ip_proto)
                && l4
                && remote
        });
        if allowed { Ok(()) } else { Err(reason) }
    }
}
