//! What becomes of a packet while its next hop is asked for?
//!
//! It waits, one for each next hop, and the newest (RFC 1122 §2.3.2.2, RFC 4861 §7.2.2); when there is an answer, or it is sure that there is
//! none, it goes its way again from the tables on. So a first ping through a gateway is late, not lost, and who sends to an
//! address that nobody has hears of it at once.
//!
//! # Limits
//! [`ROOM`] packets a worker, each for [`PATIENCE`] at most. What finds no room, and what a newer one takes the place of, is dropped as
//! `neighbour_unresolved`.
//!
//! # Cost
//! None where nothing waits; else a number read a turn for each that does. Another worker may hear the answer: that is looked for
//! every [`LOOK`].

use std::time::Duration;

use net::{DropReason, Now, Packet, PacketPool};
use nfv::conntrack::Entry;

use super::{
    Datapath, Job, Refusal, Stage, Start,
    execute::{Cx, Hands},
    flow::CompiledFlow,
    neighbours::Outside,
    port_of,
    tables::Dependency,
};

/// As many next hops as a router may ask for at a time.
const ROOM: usize = 64;
/// After this an answer has come or will not: the questions end after four seconds.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct Held {
    packet: Packet,
    /// On the neighbour's entry: it moves with the answer.
    on: Dependency,
    until: Now,
}

/// The packets of a worker that wait for a neighbour.
#[derive(Debug, Default)]
pub(super) struct Awaiting(Vec<Held>);

impl Awaiting {
    /// Takes a packet in; returns one that can't wait: its predecessor, or itself.
    fn hold(&mut self, packet: Packet, on: Dependency, now: Now) -> Option<Packet> {
        let until = now + PATIENCE;
        let held = Held { packet, on, until };
        if let Some(same) = self.0.iter_mut().find(|held| held.on.section == on.section) {
            return Some(std::mem::replace(same, held).packet);
        }
        if self.0.len() >= ROOM {
            return Some(held.packet);
        }
        self.0.push(held);
        None
    }

    /// One that may go on, or has waited for too long: then `false` is beside it.
    fn next(&mut self, outside: &Outside, now: Now) -> Option<(Packet, bool)> {
        let answered = |held: &Held| outside.epoch(held.on.section) != held.on.epoch;
        let due = |held: &Held| answered(held) || now >= held.until;
        let at = self.0.iter().position(due)?;
        let held = self.0.remove(at);
        let answered = answered(&held);
        Some((held.packet, answered))
    }
}

impl Hands {
    /// A packet whose next hop is asked for waits for the answer.
    pub(super) fn await_neighbour(
        &mut self,
        packet: Packet,
        flow: &CompiledFlow,
        refusal: &Refusal,
        cx: &mut Cx<'_>,
    ) {
        let mut on = flow.depends.iter();
        let unfit = match on.find(|on| Outside::has(on.section)) {
            Some(on) => {
                self.ledger.held += u64::from(packet.segments());
                self.awaiting.hold(packet, *on, cx.now)
            }
            None => return self.drop(packet, refusal, cx.now, cx.pool),
        };
        if let Some(packet) = unfit {
            self.let_go(&packet);
            let refusal = Refusal {
                port: port_of(&packet),
                ..*refusal
            };
            self.drop(packet, &refusal, cx.now, cx.pool);
        }
    }

    fn let_go(&mut self, packet: &Packet) {
        let segments = u64::from(packet.segments());
        self.ledger.held = self.ledger.held.saturating_sub(segments);
    }

    /// Drops what waits: the switch is shutting down.
    pub(super) fn await_no_more(&mut self, now: Now, pool: &mut PacketPool) {
        for held in std::mem::take(&mut self.awaiting.0) {
            self.let_go(&held.packet);
            let refusal = Refusal::new(DropReason::Shutdown, Stage::L3);
            self.drop(held.packet, &refusal, now, pool);
        }
    }
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Datapath<M> {
    /// What waited for a neighbour goes on. When to look again; `None`: nothing waits.
    pub(super) fn go_on_outside(&mut self, cx: &mut Cx<'_>) -> Option<Now> {
        if self.hands.awaiting.0.is_empty() {
            return None;
        }
        let outside = cx.tables.outside();
        while let Some((packet, answered)) = self.hands.awaiting.next(outside, cx.now) {
            self.hands.let_go(&packet);
            if answered {
                // At home here, or it would not have been judged here.
                self.jobs.push(Job {
                    packet,
                    start: Start::Open,
                    handed: true,
                });
            } else {
                let refusal = Refusal {
                    port: port_of(&packet),
                    ..Refusal::new(DropReason::NeighbourUnresolved, Stage::L3)
                };
                self.hands.drop(packet, &refusal, cx.now, cx.pool);
            }
        }
        self.forward(cx.tables, cx.now, cx.pool, cx.out);
        (!self.hands.awaiting.0.is_empty()).then(|| cx.now + LOOK)
    }
}
