//! How does a packet come to the metadata service, and what does it answer?
//!
//! The walk takes what is for the service out of the fast path, behind port security and the egress security group, before chains and
//! forwarding: no record, no chain. A worker hands it in ([`Out::metadata`]) and sends what comes back; the service itself is elsewhere and may take
//! its time ([`crate::metadata`]).

use net::{
    Batch, Consumed, DropReason, Id, Now, Origin, Originated, Packet, PacketPool, ids::kind,
};
use nfv::conntrack::Entry;

use super::{
    Datapath, Out, Refusal, Stage, Tables,
    execute::{self, Hands},
    flow::Action,
    port_of,
    tables::metadata::{self, Wants},
    walk::{Walk, Witness},
};

impl<W: Witness> Walk<'_, W> {
    /// Is it for the metadata service?
    pub(super) fn metadata(&mut self) -> bool {
        let Some(wants) = metadata::wanted(self.probe) else {
            return false;
        };
        // Its connections are the service's own; nothing is to be known of them here.
        self.flow.tracked = false;
        match wants {
            Wants::Page => {
                self.answers(Action::Metadata, Consumed::Metadata);
                self.says(Stage::Service, || {
                    "to the metadata service of this switch".to_owned()
                });
            }
            Wants::Echo => {
                self.answers(Action::AnswerPing, Consumed::Icmp);
                self.says(Stage::Service, || {
                    "ping of the metadata service answered".to_owned()
                });
            }
        }
        true
    }
}

impl Hands {
    /// Takes a packet out for the metadata service, if its port may send it more in this second.
    pub(super) fn hand_in(&mut self, mut packet: Packet, origin: Origin, cx: &mut execute::Cx<'_>) {
        let limit = self.metadata_per_second;
        let room = self.answers_of(origin, cx.now).is_some_and(|answers| {
            answers.metadata = answers.metadata.saturating_add(1);
            answers.metadata <= limit
        });
        if !room || cx.out.metadata.len() >= net::batch::BATCH {
            return self.refuse_metadata(packet, cx.now, cx.pool);
        }
        let segments = u64::from(packet.segments());
        self.ledger.consume(Consumed::Metadata, segments);
        packet.set_origin(origin);
        cx.out.metadata.push(packet);
    }

    fn refuse_metadata(&mut self, packet: Packet, now: Now, pool: &mut PacketPool) {
        let refusal = Refusal {
            port: port_of(&packet),
            ..Refusal::new(DropReason::MetadataRefused, Stage::Service)
        };
        self.drop(packet, &refusal, now, pool);
    }
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Datapath<M> {
    /// Counts a packet that was taken out for the metadata service, which did not take it.
    pub fn refuse_metadata(&mut self, packet: Packet, now: Now, pool: &mut PacketPool) {
        let segments = u64::from(packet.segments());
        self.hands.ledger.take_back(Consumed::Metadata, segments);
        self.hands.refuse_metadata(packet, now, pool);
    }

    /// Takes a frame of the service's in as if a port had sent it; `false` where no buffer is free, or the port is gone.
    pub fn send_as(
        &mut self,
        tables: &Tables,
        (port, frame): (Id<kind::Port>, &[u8]),
        now: Now,
        pool: &mut PacketPool,
        out: &mut Out,
    ) -> bool {
        let Some(port) = tables.port_by_id(port) else {
            return false;
        };
        let Some(mut packet) = pool.take(frame.len()) else {
            return false;
        };
        let mut batch = Batch::new();
        packet.set_origin(Origin::Port(port.dense));
        if packet.fill(frame).is_err() {
            pool.give(packet);
            return false;
        }
        if let Err(packet) = batch.push(packet) {
            pool.give(packet);
            return false;
        }
        self.run(tables, &mut batch, now, pool, out);
        true
    }

    /// Sends a frame of the metadata service to a port; `false` where no buffer is free, or the port is gone.
    pub fn answer_metadata(
        &mut self,
        tables: &Tables,
        (port, frame): (Id<kind::Port>, &[u8]),
        now: Now,
        pool: &mut PacketPool,
        out: &mut Out,
    ) -> bool {
        let Some(port) = tables.port_by_id(port).filter(|port| port.admin_up) else {
            return false;
        };
        let Some(mut packet) = pool.take(frame.len()) else {
            return false;
        };
        packet.set_origin(Origin::Switch);
        if packet.fill(frame).is_err() || packet.parse().is_err() {
            pool.give(packet);
            return false;
        }
        let segments = u64::from(packet.segments());
        self.hands.ledger.originate(Originated::Metadata, segments);
        let mut cx = execute::Cx {
            tables,
            now,
            pool,
            out,
        };
        self.hands.deliver(port.dense, packet, &mut cx);
        true
    }
}
