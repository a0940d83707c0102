//! What may a TCP receiver put together of what was let through?
//!
//! Only the next byte is inspected, and what comes again must be what was inspected: the first may have been lost behind
//! whoever asks here, and the receiver takes the second. What its receiver has acknowledged can't be replaced any more.
//!
//! # Invariants
//! - Of a direction's first `depth` bytes no byte passes that was not inspected in its place, nor one that stands behind such a one.
//! - The segment in which a pattern ends never passes, nor does one after it.
//! - A refused segment moves its own stream nowhere; what it acknowledges of the other's counts.
//! - At most `depth` bytes are kept for each direction.
//!
//! # Attack
//! A gap, a second copy, a second SYN with another number, data behind a FIN that was lost, urgent data: each is a way to show
//! another stream here than the receiver reads. Two ends that conspire are not caught: they could as well encrypt.
//!
//! # References
//! RFC 9293 §3.4, §3.8; T. Ptacek and T. Newsham, Insertion, Evasion, and Denial of Service, 1998.

use std::{collections::VecDeque, sync::Arc};

use net::tcp::{TcpSegment, flag};

use super::{Alerts, Condemned, Half, Inspector, Scan};
use crate::conntrack::Side;

/// Why a segment may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The connection has what it may not have. No segment of it passes from here on.
    Condemned(Condemned),
    /// Bytes before it are missing.
    Gap,
    /// It has other bytes than were inspected in the same place, or begins the stream at another number.
    Rewritten,
    /// It has urgent data, which the receiver may read or not.
    Urgent,
    /// Nobody saw the stream begin.
    Undecided,
    /// There is no room to keep its bytes; its sender sends it again.
    Full,
}

/// Both streams of a connection, judged by the inspector that it began with.
#[derive(Debug)]
pub struct Inspection {
    inspector: Arc<Inspector>,
    streams: [Option<Stream>; 2],
    condemned: Option<Condemned>,
}

/// One direction.
#[derive(Debug)]
struct Stream {
    /// The sequence number of the first byte.
    first: u32,
    /// And of the next to be inspected.
    next: u32,
    scan: Scan,
    /// The last bytes before `next`, which are not acknowledged.
    kept: VecDeque<u8>,
    /// A FIN was seen at `next`. Unless it is acknowledged, it may be lost, and bytes take its place.
    fin: bool,
    ended: bool,
}

impl Inspection {
    /// Of a connection whose first segment comes next.
    pub fn new(inspector: Arc<Inspector>) -> Self {
        Self {
            inspector,
            streams: [None, None],
            condemned: None,
        }
    }

    /// By whom it is judged.
    pub fn inspector(&self) -> &Arc<Inspector> {
        &self.inspector
    }

    /// Judges a segment that belongs to the connection (the protocol's machine has said so), with all of its payload.
    ///
    /// # Errors
    /// Why it may not pass.
    pub fn judge(
        &mut self,
        side: Side,
        segment: &TcpSegment,
        payload: &[u8],
    ) -> Result<Alerts, Refused> {
        if let Some(condemned) = self.condemned {
            return Err(Refused::Condemned(condemned));
        }
        let [original, reply] = &mut self.streams;
        let (stream, other) = match side {
            Side::Original => (original, reply),
            Side::Reply => (reply, original),
        };
        if segment.flags & flag::ACK != 0
            && let Some(other) = other
        {
            other.acknowledge(segment.ack);
        }
        let half = self.inspector.half(side);
        if half.is_idle() {
            return Ok(Alerts::default());
        }
        let mut at = segment.seq;
        if segment.flags & flag::SYN != 0 {
            at = at.wrapping_add(1);
            let begun = stream.get_or_insert_with(|| Stream::new(at, half));
            if begun.first != at {
                return Err(Refused::Rewritten);
            }
        }
        let fin = segment.flags & flag::FIN != 0;
        if payload.is_empty() && !fin {
            return Ok(Alerts::default());
        }
        let Some(stream) = stream else {
            return Err(Refused::Undecided);
        };
        let depth = self.inspector.depth;
        let gap = at.wrapping_sub(stream.next);
        if is_ahead(gap) {
            let beyond = u64::from(stream.scan.read) + u64::from(gap) >= u64::from(depth);
            return if beyond {
                Ok(Alerts::default())
            } else {
                Err(Refused::Gap)
            };
        }
        if segment.flags & flag::URG != 0 && stream.is_open(depth) {
            return Err(Refused::Urgent);
        }
        let judged = stream.take(half, depth, at, payload, fin);
        if let Err(Refused::Condemned(condemned)) = judged {
            self.condemned = Some(condemned);
            self.streams = [None, None];
        }
        judged
    }

    /// Was all inspected that is to be, and can none of it be replaced?
    pub fn is_cleared(&self) -> bool {
        Side::BOTH.into_iter().all(|side| {
            let stream = side.of(&self.streams).as_ref();
            self.inspector.half(side).is_idle()
                || stream.is_some_and(|stream| !stream.is_open(self.inspector.depth))
        })
    }

    /// How many bytes it keeps.
    pub fn kept(&self) -> usize {
        let streams = self.streams.iter().flatten();
        streams.map(|stream| stream.kept.len()).sum()
    }
}

impl Inspection {
    /// How much memory its bytes take.
    pub(super) fn allocated(&self) -> usize {
        let streams = self.streams.iter().flatten();
        streams.map(|stream| stream.kept.capacity()).sum()
    }

    /// How much more that may be after a segment: what is full at least doubles. What comes again takes no room, else a
    /// lack of it would last: who waits for an acknowledgment could not send again what was lost.
    pub(super) fn growth(&self, side: Side, segment: &TcpSegment, payload: usize) -> usize {
        let syn = segment.flags & flag::SYN != 0;
        let (left, kept, capacity, behind) = match side.of(&self.streams) {
            Some(stream) => {
                let at = segment.seq.wrapping_add(u32::from(syn));
                if is_ahead(at.wrapping_sub(stream.next)) {
                    return 0;
                }
                let left = self.inspector.depth - stream.scan.read;
                let behind = stream.next.wrapping_sub(at) as usize;
                (left, stream.kept.len(), stream.kept.capacity(), behind)
            }
            None if syn && !self.inspector.half(side).is_idle() => (self.inspector.depth, 0, 0, 0),
            None => return 0,
        };
        let fresh = payload.saturating_sub(behind).min(left as usize);
        if kept + fresh <= capacity {
            return 0;
        }
        capacity.max(fresh) + LEAST
    }
}

/// The least that is allocated at all.
const LEAST: usize = 8;

/// Is a sequence number this far before another, or behind it (RFC 9293 §3.4)?
fn is_ahead(distance: u32) -> bool {
    distance != 0 && distance < 1 << 31
}

impl Stream {
    fn new(first: u32, half: &Half) -> Self {
        Self {
            first,
            next: first,
            scan: half.begin(),
            kept: VecDeque::new(),
            fin: false,
            ended: false,
        }
    }

    fn is_open(&self, depth: u32) -> bool {
        !self.kept.is_empty() || self.scan.read < depth && !self.ended
    }

    /// What is acknowledged beyond what was inspected did not come by here: it counts for nothing.
    fn acknowledge(&mut self, ack: u32) {
        let left = self.next.wrapping_sub(ack);
        if !is_ahead(left) {
            self.kept = VecDeque::new();
            self.ended |= self.fin && ack == self.next.wrapping_add(1);
        } else if let Some(old) = self.kept.len().checked_sub(left as usize) {
            self.kept.drain(..old);
        }
    }

    /// A segment that begins at `next` or before it.
    fn take(
        &mut self,
        half: &Half,
        depth: u32,
        at: u32,
        payload: &[u8],
        fin: bool,
    ) -> Result<Alerts, Refused> {
        let behind = self.next.wrapping_sub(at) as usize;
        let (old, fresh) = payload.split_at_checked(behind).unwrap_or((payload, &[]));
        let acknowledged = behind.saturating_sub(self.kept.len());
        let from = self.kept.len().saturating_sub(behind);
        let again = old.iter().skip(acknowledged);
        if again.zip(self.kept.iter().skip(from)).any(|(a, b)| a != b) {
            return Err(Refused::Rewritten);
        }
        let room = (depth - self.scan.read) as usize;
        let within = fresh.get(..room).unwrap_or(fresh);
        let mut scan = self.scan;
        let alerts = half.read(&mut scan, within).map_err(Refused::Condemned)?;
        if !within.is_empty() {
            self.next = self.next.wrapping_add(scan.read - self.scan.read);
            self.scan = scan;
            self.kept.extend(within);
            self.fin = false;
        }
        self.fin |= fin && payload.len() >= behind && within.len() == fresh.len();
        Ok(alerts)
    }
}
