//! Which chain does a connection enter, and what do its functions say?
//!
//! Part of the walk: a packet from a local port is classified with its sender, on the tuple as it was sent; one for a local port (or
//! for a virtual address, whose receiver is in every switch) by its receiver. What the functions decided becomes actions: a
//! translation with the member's Ethernet address, waiting in queues.

use net::{DropReason, Id, ids::kind};
use nfv::{
    chain::{ChainOutcome, Hop},
    classifier::{Party, Place},
    conntrack::Side,
    function::Context,
};

use super::{
    flow::{Action, Lane, Refusal, Stage},
    tables::{Chain, Network, Port, l2},
    walk::{Known, Walk, Witness},
};

impl<W: Witness> Walk<'_, W> {
    /// Chains whose classifier names the source. Is there one?
    pub(super) fn source_chains(
        &mut self,
        network: &Network,
        port: &Port,
    ) -> Result<bool, Refusal> {
        if self.probe.eth_dst().is_multicast() {
            return Ok(false);
        }
        let source = Party {
            port: Some(port.id),
            network: network.id,
            project: Some(port.project),
        };
        let destination = self.receiver(network);
        self.enter_chain(Place::Source, network, Some(&source), destination.as_ref())
    }

    /// Who is to get the packet, wherever it is. Whose it is may change without its forwarding, so its section is read.
    fn receiver(&mut self, network: &Network) -> Option<Party> {
        // Without chains nobody asks.
        self.tables.chains().next()?;
        let entry = network.fdb.get(self.probe.eth_dst());
        let section = entry.map_or(network.members, |e| l2::section(self.tables, network, &e));
        self.depend(section);
        let entry = entry?;
        Some(Party {
            port: Some(entry.port),
            network: network.id,
            project: l2::project(self.tables, network, &entry),
        })
    }

    /// Chains whose classifier names only the destination: this port of this project. Is there one?
    pub(super) fn destination_chains(
        &mut self,
        network: &Network,
        id: Id<kind::Port>,
        project: Option<Id<kind::Project>>,
    ) -> Result<bool, Refusal> {
        let destination = Party {
            port: Some(id),
            network: network.id,
            project,
        };
        self.enter_chain(Place::Destination, network, None, Some(&destination))
    }

    fn enter_chain(
        &mut self,
        place: Place,
        network: &Network,
        source: Option<&Party>,
        destination: Option<&Party>,
    ) -> Result<bool, Refusal> {
        // That no chain matched is read too.
        self.depend(self.tables.chains_section());
        let tables = self.tables;
        for entry in tables.chains() {
            let chain = &*entry.chain;
            if let Some(found) = chain.classify(place, self.probe, source, destination) {
                self.depend(entry.section);
                self.says(Stage::Chain, || {
                    let functions: Vec<_> = chain.hops().iter().map(Hop::name).collect();
                    let (classifier, id, name) = (found.name(), found.id(), chain.name());
                    let functions = functions.join(", ");
                    format!("classifier {classifier} ({id}): chain {name} ({functions})")
                });
                self.pass_chain(network, entry)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn pass_chain(&mut self, network: &Network, entry: &Chain) -> Result<(), Refusal> {
        // What a chain decided for the first packet holds for the connection: so it is tracked.
        self.flow.tracked = true;
        let context = Context {
            now: self.lent.now,
            binding: match self.lent.known {
                Known::Again(binding) => binding,
                Known::New | Known::Reply { .. } | Known::Related { .. } => None,
            },
            seed: self.tables.seed(),
        };
        let witness = &mut *self.witness;
        let outcome = entry.chain.decide(self.probe, &context, &mut |hop, words| {
            if W::LISTENS {
                witness.says(
                    Stage::Chain,
                    format_args!("{} {} ({}): {words}", hop.kind(), hop.name(), hop.id()),
                );
            }
        });
        let reached = usize::from(outcome.reached);
        let hops = entry.hops.get(..reached).unwrap_or(&entry.hops);
        self.flow.hops.extend(hops.iter().copied());
        if let Some(drop) = outcome.drop {
            return Err(Refusal {
                reason: drop.reason,
                stage: Stage::Chain,
                rule: drop.rule,
                port: self.owner,
                hop: entry.hops.get(usize::from(drop.hop)).copied(),
            });
        }
        self.redirect(network, &outcome)?;
        for at in &outcome.queues {
            if let Some(hop) = entry.hops.get(usize::from(*at)) {
                self.flow.actions.push(Action::Queue(Lane {
                    hop: *hop,
                    side: Side::Original,
                }));
            }
        }
        Ok(())
    }

    /// Where the destination became another, so do the Ethernet addresses: the member's, and for a hairpin the virtual address's.
    fn redirect(&mut self, network: &Network, outcome: &ChainOutcome) -> Result<(), Refusal> {
        let Some(binding) = outcome.binding else {
            return Ok(());
        };
        // The member must be known; that it is not may change with the network's members.
        self.depend(network.members);
        let Some(member) = network.neighbours.get(binding.dst.0) else {
            return Err(self.about_sender(DropReason::UnknownUnicast, Stage::Chain));
        };
        let asked = self.probe.eth_dst();
        // The client is the member itself: what comes back to it comes from the virtual address.
        let hairpin = binding.src.0 != self.sent_from;
        self.set_eth(hairpin.then_some(asked), Some(member.mac));
        if !self.translated {
            self.flow.actions.push(Action::Translate);
            self.translated = true;
        }
        self.says(Stage::Chain, || {
            format!(
                "to member {} at {} ({})",
                member.port, binding.dst.0, member.mac
            )
        });
        Ok(())
    }
}
