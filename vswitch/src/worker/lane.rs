//! Which tables does a worker's datapath run on?
//!
//! The ones that stood when the turn began: the agent swaps a pointer, each worker looks at it once a turn, and no packet
//! sees half a change.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use arc_swap::{ArcSwap, Cache};
use hostconfig::share::{OneWay, Use};
use net::{Batch, DropReason, Now, Origin, Packet, PacketPool, PortId, Vlan, batch::BATCH};
use nfv::conntrack::Entry;

use super::Corridor;
use crate::{
    datapath::{Datapath, Out, Tables},
    io::{Tunnelled, Unsent},
    metadata::{Hatch, Outward},
};

/// The tables that all workers of a switch read.
pub type SharedTables = Arc<ArcSwap<Tables>>;

/// One worker's [`Datapath`] on tables that are swapped. `M` lends the connection table's entries.
#[derive(Debug)]
pub struct Lane<M = Vec<Entry>> {
    datapath: Datapath<M>,
    shared: Cache<SharedTables, Arc<Tables>>,
    tables: Arc<Tables>,
    /// They are the twin of those that are shared.
    lapsed: Option<Arc<Tables>>,
    hatch: Option<Hatch>,
}

impl<M> Lane<M> {
    /// A datapath that follows these tables.
    pub fn new(datapath: Datapath<M>, tables: SharedTables) -> Self {
        let now = tables.load_full();
        Self {
            datapath,
            shared: Cache::new(tables),
            tables: now,
            lapsed: None,
            hatch: None,
        }
    }

    /// The same with a way to the metadata service.
    #[must_use]
    pub fn with_metadata(mut self, hatch: Hatch) -> Self {
        self.hatch = Some(hatch);
        self
    }

    /// The datapath, and the tables of this turn: what dumps and metrics are made of.
    pub fn view(&self) -> (&Datapath<M>, &Tables) {
        (&self.datapath, &self.tables)
    }
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Lane<M> {
    /// As [`Datapath::divide`].
    pub fn divide(&mut self, parts: &BTreeMap<OneWay, u64>, now: Now) -> BTreeMap<OneWay, Use> {
        self.datapath.divide(&self.tables, parts, now)
    }

    /// What the runs took out for the metadata service is handed in.
    fn hand_in(&mut self, now: Now, pool: &mut PacketPool, out: &mut Out) {
        for packet in out.metadata.drain(..) {
            let hatch = self.hatch.as_ref();
            if hatch.is_some_and(|hatch| hatch.hand(&packet, &self.tables)) {
                pool.give(packet);
            } else {
                self.datapath.refuse_metadata(packet, now, pool);
            }
        }
    }

    /// What the metadata service says goes out, a batch a turn; is there more?
    fn hand_out(&mut self, now: Now, pool: &mut PacketPool, out: &mut Out) -> bool {
        let Some(hatch) = &mut self.hatch else {
            return false;
        };
        for _ in 0..BATCH {
            let Some(Outward { port, frame, sent }) = hatch.pop() else {
                return false;
            };
            // What does not go is sent again: it is TCP.
            let of = (port, frame.as_slice());
            if sent {
                self.datapath.send_as(&self.tables, of, now, pool, out);
            } else {
                self.datapath
                    .answer_metadata(&self.tables, of, now, pool, out);
            }
        }
        true
    }
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]> + Send + 'static> Corridor for Lane<M> {
    fn refresh(&mut self, now: Now) {
        let shared = self.shared.load();
        let left = self.lapsed.as_ref();
        if left.is_some_and(|left| Arc::ptr_eq(shared, left)) {
            return;
        }
        let twin = shared.after_lease(now);
        self.lapsed = twin.map(|_| Arc::clone(shared));
        let tables = twin.unwrap_or(shared);
        if !Arc::ptr_eq(tables, &self.tables) {
            self.tables = Arc::clone(tables);
        }
    }

    fn admits(&self, outer_source: IpAddr) -> bool {
        self.tables.admits(outer_source)
    }

    fn run(&mut self, batch: &mut Batch, now: Now, pool: &mut PacketPool, out: &mut Out) {
        self.datapath.run(&self.tables, batch, now, pool, out);
        self.hand_in(now, pool, out);
    }

    fn origin(&self, port: PortId) -> Origin {
        let wired = self.tables.wired(port);
        wired.map_or(Origin::Port(port), Origin::Tunnel)
    }

    fn absent(&self, port: PortId) -> DropReason {
        match self.tables.wired(port) {
            Some(_) => DropReason::NoWire,
            None => DropReason::PortGone,
        }
    }

    fn carrier(&self, port: PortId) -> Option<(PortId, Vlan)> {
        self.tables.carrier(port)
    }

    fn device(&mut self, port: PortId, here: bool, now: Now) {
        self.datapath.device(&self.tables, port, here, now);
    }

    fn surcharge(&mut self) -> u32 {
        self.datapath.surcharge()
    }

    fn dropped(&mut self) -> u32 {
        self.datapath.dropped()
    }

    fn take_over(&mut self, batch: &mut Batch, now: Now, pool: &mut PacketPool, out: &mut Out) {
        self.datapath.take_over(&self.tables, batch, now, pool, out);
        self.hand_in(now, pool, out);
    }

    fn enter_tunnel(
        &mut self,
        frame: Tunnelled,
        batch: &mut Batch,
        now: Now,
        pool: &mut PacketPool,
    ) -> Result<(), Tunnelled> {
        self.datapath
            .enter_tunnel(&self.tables, frame, batch, now, pool)
    }

    fn refuse_rx(&mut self, packet: Packet, reason: DropReason, now: Now, pool: &mut PacketPool) {
        self.datapath.refuse_rx(packet, reason, now, pool);
    }

    fn refuse_tx(
        &mut self,
        packet: Packet,
        port: PortId,
        reason: DropReason,
        now: Now,
        pool: &mut PacketPool,
    ) {
        self.datapath.refuse_tx(packet, port, reason, now, pool);
    }

    fn refuse_tunnel(&mut self, unsent: Unsent, now: Now, pool: &mut PacketPool, out: &mut Out) {
        self.datapath
            .refuse_tunnel(&self.tables, unsent, now, pool, out);
    }

    fn refuse_handed(&mut self, packet: Packet, now: Now, pool: &mut PacketPool) {
        self.datapath.refuse_handed(packet, now, pool);
    }

    fn tick(&mut self, now: Now, pool: &mut PacketPool, out: &mut Out) -> Option<Now> {
        let more = self.hand_out(now, pool, out);
        let wake = self.datapath.tick(&self.tables, now, pool, out);
        self.hand_in(now, pool, out);
        if more { Some(now) } else { wake }
    }

    fn drain(&mut self, now: Now, pool: &mut PacketPool) {
        self.datapath.drain(now, pool);
    }
}
