//! What is a network function?
//!
//! Policy alone: it decides on the first packet of a connection, and asks for every packet only where it must. State that
//! survives a change of configuration (connections, bindings, token levels, queues) is lent through [`Context`]; so to
//! reconfigure a chain is to replace it whole.

use std::{net::IpAddr, sync::Arc};

use crate::{buckets::Pace, inspect::Inspector};
use net::{DropReason, FiveTuple, Id, Now, Probe, ids::kind};

/// What a function is lent while it decides.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The time.
    pub now: Now,
    /// Is the connection judged again? Then it began under another chain, or another form of this one.
    pub again: bool,
    /// Where the connection's first packet was sent on by this chain before, if it is being judged again: its translated destination and
    /// its translated source. A load balancer keeps the member as long as it is one, a NAT the address and port.
    pub binding: Option<Binding>,
    /// Is it only asked what would be (`explain`)? Then nobody's turn is taken.
    pub question: bool,
    /// Mixed into every choice that an outsider must not foresee.
    pub seed: u64,
    /// The number of this host among all: which part of a NAT's ports is its own. `None`: none is.
    pub host: Option<u16>,
    /// The network on which answers find the connection's home: a NAT's address is to be on it. `None`: any.
    pub network: Option<Id<kind::Network>>,
    /// How often the connection was to begin before, and found another in its place: a NAT chooses anew.
    pub attempt: u8,
    /// Which translated sources are taken.
    pub sources: &'a dyn Sources,
}

impl Default for Context<'_> {
    /// Nothing is known and nothing taken.
    fn default() -> Self {
        Self {
            now: Now::ZERO,
            again: false,
            binding: None,
            question: false,
            seed: 0,
            host: Some(0),
            network: None,
            attempt: 0,
            sources: &AllFree,
        }
    }
}

/// Which translated sources do this host's connections have?
pub trait Sources: std::fmt::Debug {
    /// Would the connection whose replies show this tuple be the only one? `address`: the port of the API that holds the translated
    /// source, or has what is forwarded, since tenants repeat addresses.
    fn is_free(&self, address: Id<kind::Port>, reply: &FiveTuple) -> bool;
    /// Do these replies come to whoever decides, without being handed over?
    fn is_here(&self, reply: &FiveTuple) -> bool;
    /// How many translated sources the connection's client has already.
    fn held(&self) -> u32;
}

/// No connection has a translated source.
#[derive(Debug, Clone, Copy)]
pub struct AllFree;

impl Sources for AllFree {
    fn is_free(&self, _: Id<kind::Port>, _: &FiveTuple) -> bool {
        true
    }

    fn is_here(&self, _: &FiveTuple) -> bool {
        true
    }

    fn held(&self) -> u32 {
        0
    }
}

/// What a connection's addresses were translated to. Of ICMP, a port is the identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// Destination address and port behind the chain.
    pub dst: (IpAddr, u16),
    /// Source address and port behind the chain.
    pub src: (IpAddr, u16),
}

/// What happens to the whole connection, forward and reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It goes on to the next function.
    Pass,
    /// It ends here.
    Drop {
        /// Why.
        reason: DropReason,
        /// The rule that said so.
        rule: Option<Id<kind::Rule>>,
    },
    /// Its destination becomes another; replies are translated back.
    Dnat {
        /// To where.
        to: (IpAddr, u16),
        /// The member chosen, for dumps and `explain`.
        member: Id<kind::Port>,
        /// The source becomes this address (a hairpin: the member is the client itself).
        snat: Option<IpAddr>,
        /// The source's port there, by which no other connection is known at the member: it is the connection's alone from now on. `None`: it
        /// stays, whoever else has it.
        port: Option<u16>,
    },
    /// Its source becomes another; replies are translated back.
    Snat {
        /// From where.
        to: (IpAddr, u16),
        /// The port of the API that holds the address.
        address: Id<kind::Port>,
    },
    /// It goes on to the next function, and takes a token when it begins: without one it ends here.
    Spend(Spend),
    /// It goes on to the next function, and a port is shown its packets.
    Copy(Shown),
    /// It goes on to the next function, and its bytes are read as long as the function's inspector wants.
    Inspect,
    /// Each of its packets waits in this function's queue.
    Queue,
    /// Each of its packets leaves the chain here, and comes back from elsewhere to go on behind this function.
    HandOver,
}

/// A token of one of the function's buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spend {
    /// There is one for each source; `None`: one for all.
    pub source: Option<IpAddr>,
    /// How fast they come.
    pub pace: Pace,
}

/// A port is shown a connection's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Which.
    pub to: Id<kind::Port>,
    /// What its initiator sends?
    pub forward: bool,
    /// What is answered?
    pub reply: bool,
}

/// A network function: immutable policy, built by its line in the catalogue from the section of the same name.
pub trait NetworkFunction: Send + Sync + std::fmt::Debug {
    /// The first packet of a connection: what happens to all of it, forward and reply. `note` takes the words of `explain` (which rule,
    /// which member) and is called only when somebody listens.
    fn decide(
        &self,
        first: &mut Probe,
        cx: &Context<'_>,
        note: &mut dyn FnMut(std::fmt::Arguments<'_>),
    ) -> Decision;

    /// Who reads the bytes of what it lets be inspected; only inspectors have one.
    fn inspector(&self) -> Option<&Arc<Inspector>> {
        None
    }
}
