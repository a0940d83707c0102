//! What do most packets need of their program?
//!
//! Most programs rewrite, then send to one place. A [`Gate`] is such a program together with what the tables say of its ends: how
//! large a packet may be, the network's VNI, the VTEP's address. It is worked out when a program is made or found current, so that
//! neither tables nor actions are read for a packet. What fits no gate (queues, ports whose traffic is limited, floods, answers, drops) goes by the program itself,
//! and so does what is too large: who is told, and why, is said there.
//!
//! # Invariants
//! What passes a gate gets what its program says, action by action.

use std::net::IpAddr;

use hostconfig::group::Direction;
use net::{Label, Mac, Mtu, Origin, PortId, Vni, VtepId};

use super::{
    flow::{Action, CompiledFlow, Verdict},
    inspect::NOBODY,
    tables::Tables,
    too_big::limit,
};

/// The short form of a program, on one version of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is asked by itself, for every packet"
)]
pub(super) struct Gate {
    /// Where its packets enter.
    pub(super) origin: Origin,
    /// The path of the label under which they came, else 0.
    pub(super) path: u16,
    /// Where they go.
    pub(super) exit: Exit,
    /// The largest IP packet that both ends take.
    pub(super) limit: u32,
    /// Is anything of them rewritten?
    pub(super) rewrites: bool,
    /// Do they get the addresses of the record's other side?
    pub(super) translates: bool,
    /// How many routers take one off their TTL.
    pub(super) forwards: u8,
    /// The DSCP that they get.
    pub(super) dscp: Option<u8>,
    /// Are they dropped?
    pub(super) drops: bool,
    /// Are they read, unless their connection is cleared?
    pub(super) reads: bool,
    /// The Ethernet addresses that they get.
    pub(super) src: Option<Mac>,
    pub(super) dst: Option<Mac>,
}

/// Where packets go that pass a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// Their program says it.
    Program,
    /// To a local port, or a wire.
    Port(PortId),
    /// To a local port under a label.
    Labelled { port: PortId, label: Label },
    /// To a VTEP.
    Tunnel {
        vtep: VtepId,
        vni: Vni,
        addr: IpAddr,
    },
    /// To a VTEP, with its place in a chain, which the program says.
    Chain { vtep: VtepId, addr: IpAddr },
}

impl Gate {
    /// One that says nothing.
    pub(super) const SHUT: Self = Self {
        origin: Origin::Switch,
        path: 0,
        exit: Exit::Program,
        limit: 0,
        rewrites: false,
        translates: false,
        forwards: 0,
        dscp: None,
        drops: false,
        reads: false,
        src: None,
        dst: None,
    };

    /// That of a program whose walk read nothing that is different in these tables.
    pub(super) fn of(flow: &CompiledFlow, tables: &Tables) -> Self {
        let mut gate = Self {
            origin: flow.origin,
            path: flow.path,
            translates: flow.translates(),
            forwards: flow.forwards(),
            drops: matches!(flow.verdict, Verdict::Drop(_)),
            reads: flow.asked() != NOBODY,
            ..Self::SHUT
        };
        let Some((last, before)) = flow.actions.split_last() else {
            return gate;
        };
        let mut label = None;
        for action in before {
            match action {
                Action::Label(under) => label = Some(*under),
                Action::Translate | Action::Inspect { .. } | Action::Route(_) => {}
                Action::SetEth { src, dst } => {
                    (gate.src, gate.dst) = (src.or(gate.src), dst.or(gate.dst));
                }
                Action::SetDscp(dscp) => gate.dscp = Some(*dscp),
                Action::Queue(_)
                | Action::Copy { .. }
                | Action::Resolve(_)
                | Action::Output(_)
                | Action::Tunnel { .. }
                | Action::Carry { .. }
                | Action::Wire(_)
                | Action::Refuse(_)
                | Action::AnswerArp(_)
                | Action::AnswerNd { .. }
                | Action::AnswerRs(_)
                | Action::Hear
                | Action::AnswerPing
                | Action::AnswerDhcp { .. }
                | Action::AnswerDhcp6(_)
                | Action::AnswerNames(_)
                | Action::Metadata
                | Action::HandBack(_) => return gate,
            }
        }
        let exit = exit(last, label, tables);
        if let (Some((exit, mtu)), Verdict::Deliver) = (exit, &flow.verdict) {
            let networks = flow.routers().filter_map(|hop| tables.network(hop.to?));
            let links = limit(tables, flow.origin).into_iter();
            let links = links.chain(networks.map(|network| network.mtu));
            let least = links.fold(mtu, Mtu::min);
            (gate.exit, gate.limit) = (exit, least.get().into());
        }
        gate.rewrites = gate.translates
            || gate.forwards > 0
            || gate.dscp.is_some()
            || gate.src.is_some()
            || gate.dst.is_some();
        gate
    }
}

/// Where the last action of a program sends, and what may go there; `None`: the program has to say it.
fn exit(last: &Action, label: Option<Label>, tables: &Tables) -> Option<(Exit, Mtu)> {
    match last {
        // What a port gets may have to wait.
        Action::Output(id) => tables
            .port(*id)
            .filter(|p| p.limit(Direction::Ingress).is_none())
            .map(|p| {
                let labelled = |label| Exit::Labelled { port: *id, label };
                (label.map_or(Exit::Port(*id), labelled), p.mtu)
            }),
        Action::Tunnel { network, vtep } => {
            let (network, to) = (tables.network(*network), tables.vtep(*vtep));
            network.zip(to).map(|(network, to)| {
                let exit = Exit::Tunnel {
                    vtep: *vtep,
                    vni: network.vni,
                    addr: to.addr,
                };
                (exit, network.mtu)
            })
        }
        Action::Carry { vtep, nsh, .. } => tables.vtep(*vtep).map(|to| {
            let exit = Exit::Chain {
                vtep: *vtep,
                addr: to.addr,
            };
            (exit, tables.mtu_there(nsh))
        }),
        Action::Wire(network) => tables.network(*network).and_then(|network| {
            let wire = network.wire.as_ref()?;
            Some((Exit::Port(wire.port), network.mtu))
        }),
        Action::Translate
        | Action::Resolve(_)
        | Action::SetEth { .. }
        | Action::SetDscp(_)
        | Action::Copy { .. }
        | Action::Inspect { .. }
        | Action::Route(_)
        | Action::Label(_)
        | Action::Queue(_)
        | Action::Refuse(_)
        | Action::AnswerArp(_)
        | Action::AnswerNd { .. }
        | Action::AnswerRs(_)
        | Action::Hear
        | Action::AnswerPing
        | Action::AnswerDhcp { .. }
        | Action::AnswerDhcp6(_)
        | Action::AnswerNames(_)
        | Action::Metadata
        | Action::HandBack(_) => None,
    }
}
