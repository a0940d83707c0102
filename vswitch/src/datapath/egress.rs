//! 6: Who gets what?
//!
//! Frames sorted by port, in order; frames for the tunnel; packets for other workers. The worker sends them on.

use net::{Batch, Packet, PortId};

use super::claims::WorkerId;
use crate::{effort::Meter, io::Tunnelled};

/// What a run hands out.
#[derive(Debug, Default)]
pub struct Out {
    queues: Vec<Vec<Packet>>,
    ready: Vec<PortId>,
    /// Frames for the underlay, in order.
    pub tunnelled: Vec<Tunnelled>,
    /// Packets for other workers, in order.
    pub handed: Vec<(WorkerId, Packet)>,
    /// Packets for the metadata service, in order; at most a batch. Whoever runs a datapath takes them, or gives them back as refused.
    pub metadata: Vec<Packet>,
    /// Where the time of this turn goes.
    pub meter: Meter,
}

impl Out {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Is there nothing to send?
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
            && self.tunnelled.is_empty()
            && self.handed.is_empty()
            && self.metadata.is_empty()
    }

    #[inline]
    pub(crate) fn port(&mut self, port: PortId, packet: Packet) {
        let at = port.index();
        if at >= self.queues.len() {
            self.queues.resize_with(at + 1, Vec::new);
        }
        if let Some(queue) = self.queues.get_mut(at) {
            if queue.is_empty() {
                self.ready.push(port);
            }
            queue.push(packet);
        }
    }

    /// Moves frames of one port, in order, into an empty batch; `None` when no port has any. Ask until `None`: a port may have more
    /// than a batch.
    pub fn next_port(&mut self, batch: &mut Batch) -> Option<PortId> {
        let port = *self.ready.last()?;
        let queue = self.queues.get_mut(port.index())?;
        let fits = queue.len().min(net::batch::BATCH - batch.len());
        for packet in queue.drain(..fits) {
            // There is room: it was counted.
            if batch.push(packet).is_err() {
                break;
            }
        }
        if queue.is_empty() {
            self.ready.pop();
        }
        Some(port)
    }
}
