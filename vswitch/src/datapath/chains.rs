//! Which chain does a connection enter, and what do its functions say?
//!
//! Part of the walk: a packet from a local port is classified with its sender, on the tuple as it was sent; one for a local port (or
//! for a virtual address, whose receiver is in every switch) by its receiver. What the functions decided becomes actions: a
//! translation with the member's Ethernet address, waiting in queues.

use std::net::IpAddr;

use net::{DropReason, Id, Mac, flow_key::proto, ids::kind};
use nfv::{
    chain::{ChainOutcome, Hop},
    classifier::{Party, Place},
    conntrack::Side,
    function::{AllFree, Binding, Context},
};
use overlay::{FdbEntry, Neighbour};

use super::{
    flow::{Action, Half, Handed, Lane, Refusal, Stage},
    sources::Seen,
    tables::{Chain, Network, Port, l2},
    transport::toward,
    walk::{Known, Token, Walk, Witness},
};

impl<'a, W: Witness> Walk<'a, W> {
    /// Chains whose classifier names the source. Is there one?
    pub(super) fn source_chains(
        &mut self,
        network: &'a Network,
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
        let way = (Place::Source, Half::Source);
        self.enter_chain(way, network, Some(&source), destination.as_ref())
    }

    /// Who is to get the packet, wherever it is: also behind routers.
    fn receiver(&mut self, network: &'a Network) -> Option<Party> {
        // Without chains nobody asks.
        self.tables.chains().next()?;
        let (network, entry) = self.far_end(network)?;
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
        half: Half,
    ) -> Result<bool, Refusal> {
        let destination = Party {
            port: Some(id),
            network: network.id,
            project,
        };
        let way = (Place::Destination, half);
        self.enter_chain(way, network, None, Some(&destination))
    }

    fn enter_chain(
        &mut self,
        (place, half): (Place, Half),
        network: &Network,
        source: Option<&Party>,
        destination: Option<&Party>,
    ) -> Result<bool, Refusal> {
        // That no chain matched is read too.
        self.depend(self.tables.chains_section());
        let tables = self.tables;
        for entry in tables.chains() {
            let chain = &*entry.chain;
            if chain.graph().depth > 0 {
                continue;
            }
            if let Some(found) = chain.classify(place, self.probe, source, destination) {
                self.depend(entry.section);
                self.says(Stage::Chain, || {
                    let functions: Vec<_> = chain.hops().iter().map(Hop::name).collect();
                    let (classifier, id, name) = (found.name(), found.id(), chain.name());
                    let functions = functions.join(", ");
                    format!("classifier {classifier} ({id}): chain {name} ({functions})")
                });
                self.pass_chain(network, entry, 0, half)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The functions from this index on, and those of the chains that follow, up to an appliance to which the packet is handed over.
    pub(super) fn pass_chain(
        &mut self,
        network: &Network,
        mut entry: &'a Chain,
        mut from: u8,
        half: Half,
    ) -> Result<(), Refusal> {
        loop {
            while let Some(at) = self.pass_functions(network, entry, from)? {
                if self.hand_over(network, entry, at, half)? {
                    return Ok(());
                }
                from = at + 1;
            }
            let Some(next) = self.branch(entry) else {
                return Ok(());
            };
            (entry, from) = (next, 0);
        }
    }

    /// The chain of a service graph that follows this one: the first that lies deeper and whose classifiers match the packet as it is now.
    fn branch(&mut self, entry: &Chain) -> Option<&'a Chain> {
        let graph = entry.chain.graph();
        if graph.next.is_empty() {
            return None;
        }
        let tables = self.tables;
        // One that is not here may come.
        self.depend(tables.chains_section());
        let here = graph.next.iter().filter_map(|id| tables.chain(*id));
        for next in here.filter(|next| next.chain.graph().depth > graph.depth) {
            self.depend(next.section);
            if let Some(found) = next.chain.follows(self.probe) {
                self.says(Stage::Chain, || {
                    let (classifier, id, name) = (found.name(), found.id(), next.chain.name());
                    let functions: Vec<_> = next.chain.hops().iter().map(Hop::name).collect();
                    let functions = functions.join(", ");
                    format!("branch by classifier {classifier} ({id}): chain {name} ({functions})")
                });
                return Some(next);
            }
        }
        self.says(Stage::Chain, || {
            let name = entry.chain.name();
            format!("no chain that may follow {name} matches: it leaves the graph")
        });
        None
    }

    /// The same up to the first appliance, whose index is given back.
    fn pass_functions(
        &mut self,
        network: &Network,
        entry: &Chain,
        from: u8,
    ) -> Result<Option<u8>, Refusal> {
        // What a chain decided for the first packet holds for the connection: so it is tracked.
        self.flow.tracked = true;
        let (again, binding) = match self.lent.known {
            Known::Again(binding) => (true, binding),
            Known::New | Known::Reply { .. } | Known::Related { .. } => (false, None),
        };
        let [client, _] = self.zones;
        let seen = self.lent.sources.map(|lender| Seen {
            lender,
            client: client.unwrap_or_default(),
        });
        let home = self.owner.and_then(|port| self.tables.port(port));
        // Where answers find the home: on its client's network; at the receiver's host, which is the home then, on that one's.
        let at = match self.zones {
            [_, Some(_)] => Some(network),
            [_, None] => home.and_then(|port| self.tables.network(port.network)),
        };
        let context = Context {
            now: self.lent.now,
            again,
            binding,
            question: self.lent.sources.is_none(),
            seed: self.tables.seed(),
            host: home.and_then(|port| port.host_number),
            network: at.map(|network| network.id),
            attempt: self.lent.attempt,
            sources: match &seen {
                Some(seen) => seen,
                None => &AllFree,
            },
        };
        let witness = &mut *self.witness;
        let outcome = entry
            .chain
            .decide_from(from, self.probe, &context, &mut |hop, words| {
                if W::LISTENS {
                    witness.says(
                        Stage::Chain,
                        format_args!("{} {} ({}): {words}", hop.kind(), hop.name(), hop.id()),
                    );
                }
            });
        let reached = usize::from(outcome.reached);
        let hops = entry
            .hops
            .get(usize::from(from)..reached)
            .unwrap_or_default();
        // One chain may be met twice in a switch: at a virtual address, and at the member. It counts once, and there is one wait.
        for hop in hops {
            if !self.flow.hops.contains(hop) {
                self.flow.hops.push(*hop);
            }
        }
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
        for (at, shown) in &outcome.copies {
            // Whether the port is here, and up.
            self.depend(self.tables.appliances());
            if let Some(port) = self.tables.shown_port(shown.to) {
                self.show(port, shown.forward, shown.reply);
            } else {
                let hop = entry.chain.hops().get(usize::from(*at));
                let name = hop.map_or("?", Hop::name);
                self.says(Stage::Chain, || {
                    format!(
                        "{name}: its port is on no host that is known, or down: nothing is copied"
                    )
                });
            }
        }
        for at in &outcome.inspects {
            self.inspect_at(entry, usize::from(*at))?;
        }
        for (at, spend) in &outcome.spends {
            let at = usize::from(*at);
            if let Some(hop) = entry.chain.hops().get(at) {
                self.tokens.push(Token {
                    function: hop.id(),
                    hop: entry.hops.get(at).copied(),
                    spend: *spend,
                });
            }
        }
        for at in &outcome.queues {
            let Some(hop) = entry.hops.get(usize::from(*at)).copied() else {
                continue;
            };
            let side = Side::Original;
            let queue = Action::Queue(Lane::Function { hop, side });
            if !self.flow.actions.contains(&queue) {
                self.flow.actions.push(queue);
            }
        }
        Ok(outcome.handed)
    }

    /// The inspector of this hop reads its bytes.
    fn inspect_at(&mut self, entry: &Chain, at: usize) -> Result<(), Refusal> {
        let hop = entry.hops.get(at).copied();
        let inspector = entry.chain.hops().get(at).and_then(Hop::inspector);
        let refusal = |this: &Self, reason| Refusal {
            hop,
            ..this.about_sender(reason, Stage::Chain)
        };
        let Some((hop, inspector)) = hop.zip(inspector) else {
            return Err(refusal(self, DropReason::FunctionFault));
        };
        let digest = inspector.digest().number();
        let inspect = Action::Inspect { hop, digest };
        if self.flow.actions.contains(&inspect) {
            return Ok(());
        }
        // Of several chains on its way together.
        if self.flow.asked().iter().all(|asked| *asked != 0) {
            return Err(refusal(self, DropReason::InspectorFull));
        }
        self.flow.actions.push(inspect);
        Ok(())
    }

    /// To an instance of the appliance at this hop: the one that the connection has, or one that is chosen now. `false`: none is up, and
    /// the hop is passed by.
    fn hand_over(
        &mut self,
        network: &Network,
        entry: &Chain,
        at: u8,
        half: Half,
    ) -> Result<bool, Refusal> {
        let (tables, had) = (self.tables, self.lent.had);
        self.depend(tables.appliances());
        let index = usize::from(at);
        let hop = entry.chain.hops().get(index);
        let found = hop.and_then(|hop| Some((hop, hop.appliance()?)));
        let refusal = |this: &Self, reason| Refusal {
            hop: entry.hops.get(index).copied(),
            ..this.about_sender(reason, Stage::Chain)
        };
        let Some((hop, appliance)) = found else {
            return Err(refusal(self, DropReason::FunctionFault));
        };
        // Who is a neighbour of whom is the link's own business.
        let neighbours = self.probe.ip_proto() == proto::ICMP6;
        if neighbours && (133..=137).contains(&self.probe.l4_src()) {
            return Ok(false);
        }
        let Some(tuple) = self.probe.five_tuple() else {
            return Err(refusal(self, DropReason::ChainPlaceAmbiguous));
        };
        let chosen = appliance.choose(
            &tuple,
            tables.seed(),
            |i| had.is_some() && tables.zone_by_id(i.ingress) == had,
            |i| tables.instance(i).is_some() && appliance.label(i).is_ok(),
        );
        let chosen = chosen.and_then(|i| Some((i, tables.instance(i)?, appliance.label(i).ok()?)));
        let Some((instance, [ingress, egress], label)) = chosen else {
            let open = appliance.fails_open();
            self.says(Stage::Chain, || {
                let then = if open { ": passed by" } else { "" };
                format!(
                    "appliance {} ({}): no instance is up{then}",
                    hop.name(),
                    hop.id()
                )
            });
            return if open {
                Ok(false)
            } else {
                Err(refusal(self, DropReason::ApplianceDown))
            };
        };
        let before = self.lent.before.and_then(|flow| flow.handed);
        let ends = self.owner.zip(self.back.or(self.zones[0]));
        let Some((owner, back)) = ends else {
            return Err(refusal(self, DropReason::FunctionFault));
        };
        // What was translated before is translated back on the same way.
        let needed = self.translated || self.crossed.is_some();
        let symmetric =
            entry.chain.symmetric() || needed || before.is_some_and(|before| before.symmetric);
        if !matches!(half, Half::Destination(_)) {
            self.leave();
        }
        let far = tables.far(ingress.dense);
        // On another host its own switch puts it on, and looks for it.
        let here = label.filter(|_| far.is_none());
        self.says(Stage::Chain, || {
            let (name, id) = (hop.name(), hop.id());
            let (pair, pair_id) = (&instance.name, instance.id);
            let (to, from) = (ingress.name, egress.name);
            let under = label.map_or_else(String::new, |label| format!(" under label {label}"));
            match far.and_then(|far| tables.vtep(far.vtep)) {
                Some(vtep) => format!("appliance {name} ({id}): to instance {pair} ({pair_id}) at vtep {}{under}", vtep.addr),
                None => format!("appliance {name} ({id}): to instance {pair} ({pair_id}), by port {to}{under}; goes on from port {from}"),
            }
        });
        self.zones[1] = Some(ingress.zone);
        let handed = Handed {
            chain: entry.section,
            at,
            ingress: ingress.dense,
            egress: egress.dense,
            network: network.dense,
            half,
            owner,
            back,
            symmetric,
            label: here,
        };
        let action = toward(tables, &handed, ingress.dense, false);
        self.flow.handed = Some(handed);
        self.flow.actions.extend(here.map(Action::Label));
        self.flow.actions.push(action);
        Ok(true)
    }

    /// Where the destination became another, so do the Ethernet addresses: the member's, and for a hairpin the virtual address's.
    fn redirect(&mut self, network: &Network, outcome: &ChainOutcome) -> Result<(), Refusal> {
        let Some(binding) = outcome.binding else {
            return Ok(());
        };
        self.source = outcome.source.or(self.source);
        self.forwarded = outcome.forwarded.or(self.forwarded);
        if outcome.member.is_some() {
            self.redirect_to_member(network, &binding, outcome.hairpin)?;
        }
        if !self.translated {
            self.flow.actions.push(Action::Translate);
            self.translated = true;
        }
        Ok(())
    }

    /// To the workload that was chosen, by its Ethernet address or a router's.
    fn redirect_to_member(
        &mut self,
        network: &Network,
        binding: &Binding,
        hairpin: bool,
    ) -> Result<(), Refusal> {
        // The member must be known; that it is not may change with the network's members.
        self.depend(network.members);
        let asked = self.probe.eth_dst();
        let addr = binding.dst.0;
        let Some(member) = next_hop(network, asked, addr) else {
            return Err(self.about_sender(DropReason::UnknownUnicast, Stage::Chain));
        };
        // The client is the member itself: what comes back to it comes from the virtual address.
        let hairpin = hairpin.then(|| {
            let vip = network.neighbours.get(binding.src.0);
            vip.map_or(asked, |vip| vip.mac)
        });
        self.set_eth(hairpin, Some(member.mac));
        let itself = network.neighbours.get(addr) == Some(member);
        self.says(Stage::Chain, || {
            let Neighbour { mac, port } = member;
            if itself {
                format!("to member {port} at {addr} ({mac})")
            } else {
                format!("to the member at {addr}, by router interface {port} ({mac})")
            }
        });
        Ok(())
    }
}

/// By whom a member is reached: itself where it is on the network; else the router to which the packet was sent, or the gateway of a
/// subnet of the network.
pub(super) fn next_hop(network: &Network, asked: Mac, member: IpAddr) -> Option<Neighbour> {
    let router = |mac| match network.fdb.get(mac) {
        Some(FdbEntry {
            place: overlay::Place::Router(_),
            port,
        }) => Some(Neighbour { mac, port }),
        Some(_) | None => None,
    };
    let subnets = || {
        let of_family = |s: &&hostconfig::Subnet| s.cidr.is_ipv4() == member.is_ipv4();
        let gateways = network.subnets.iter().filter(of_family);
        let mut known = gateways.filter_map(|s| network.neighbours.get(s.gateway?));
        known.find_map(|gateway| router(gateway.mac))
    };
    let itself = network.neighbours.get(member);
    itself.or_else(|| router(asked)).or_else(subnets)
}
