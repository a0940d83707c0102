//! What is a network function?
//!
//! Policy alone: it decides on the first packet of a connection, and asks for every packet only where it must. State that
//! survives a change of configuration (connections, bindings, token levels, queues) is lent through [`Context`]; so to
//! reconfigure a chain is to replace it whole.

use std::net::IpAddr;

use net::{DropReason, Id, Now, Probe, ids::kind};

/// What a function is lent while it decides.
#[derive(Debug)]
pub struct Context {
    /// The time.
    pub now: Now,
    /// Where the connection's first packet was sent on by this chain before, if it is being judged again: its translated destination and, for
    /// a hairpin, its translated source. A load balancer keeps the member as long as it is one.
    pub binding: Option<Binding>,
    /// Mixed into every choice that an outsider must not foresee.
    pub seed: u64,
}

/// What a connection's addresses were translated to.
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
    },
    /// Each of its packets waits in this function's queue.
    Queue,
}

/// A network function: immutable policy, built by its line in the catalogue from the section of the same name.
pub trait NetworkFunction: Send + Sync + std::fmt::Debug {
    /// The first packet of a connection: what happens to all of it, forward and reply. `note` takes the words of `explain` (which rule,
    /// which member) and is called only when somebody listens.
    fn decide(
        &self,
        first: &mut Probe,
        cx: &Context,
        note: &mut dyn FnMut(std::fmt::Arguments<'_>),
    ) -> Decision;
}
