//! Who reads, runs and writes?
//!
//! One thread a core, with its own packets, its own queues of every port and its own [`Corridor`]: read a batch, run it, send
//! what came out, and sleep when there is nothing. What it must know from outside arrives as a [`Command`]; packets of
//! connections that live elsewhere go over bounded rings ([`crew`]).
//!
//! # Invariants
//! - A turn gives each port that has frames one batch, in turn. Who took more of the worker than a batch of known flows costs
//!   waits for as many turns as that was worth, while others have frames (deficit round robin): a flood slows only its own port.
//!   Whose packets cost much has few of them read at a time, so that nobody waits for a batch of them.
//! - A port whose packets are dropped faster than [`Limits::port_drops`] rests: what would be lost is lost in its device's queue,
//!   where that costs its sender, not the worker.
//! - Idle, it blocks: no timer but what the corridor asked for.
//! - What can't be sent, or handed over, goes back to the corridor, which counts it.
//!
//! # Threads
//! A [`Worker`] belongs to its thread; [`Handle`] is how others speak to it. Tests and simulations call [`Worker::turn`]
//! themselves, under a clock of their own.

use std::{
    io,
    net::IpAddr,
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
    time::Duration,
};

use net::{Batch, DropReason, Now, Origin, Packet, PacketPool, PortId, Vlan, batch::BATCH};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    time::{ClockId, clock_gettime},
};

use crate::{
    datapath::Out,
    effort::{Medium, Meter, Part},
    io::{PortIo, Refused, Rx, Tunnelled, Underlay, Unsent},
};

mod handle;
mod lane;
mod patience;
mod ring;
mod sleep;

pub use handle::{Command, Handle, Question, Ringer, WorkerGone};
pub use lane::{Lane, SharedTables};
use patience::Patience;
pub use ring::{Seat, crew};
use sleep::{Sleep, Source};

/// What a worker runs its packets through. The production one is [`Lane`].
pub trait Corridor: Send + 'static {
    /// Takes note of new tables, and of the time; called once before each turn.
    fn refresh(&mut self, now: Now);

    /// Is this outer source a known VTEP?
    fn admits(&self, outer_source: IpAddr) -> bool;

    /// From where comes what is read under this number: a port, or what is outside of the switch.
    fn origin(&self, port: PortId) -> Origin {
        Origin::Port(port)
    }

    /// Why nothing can be sent under this number while no device is there.
    fn absent(&self, _port: PortId) -> DropReason {
        DropReason::PortGone
    }

    /// The port whose device this one shares, and the tag that its frames bear there; `None`: it has one of its own, or none.
    fn carrier(&self, _port: PortId) -> Option<(PortId, Vlan)> {
        None
    }

    /// A port's device came, or went.
    fn device(&mut self, _port: PortId, _here: bool, _now: Now) {}

    /// Runs packets that were just read; their origin is set.
    fn run(&mut self, batch: &mut Batch, now: Now, pool: &mut PacketPool, out: &mut Out);

    /// Runs packets that another worker handed over.
    fn take_over(&mut self, batch: &mut Batch, now: Now, pool: &mut PacketPool, out: &mut Out);

    /// What the runs since it was last asked cost beyond their packets, in packets' worth.
    fn surcharge(&mut self) -> u32 {
        0
    }

    /// How many packets were dropped since it was last asked.
    fn dropped(&mut self) -> u32 {
        0
    }

    /// Adds a frame from the tunnel to a batch, its origin set.
    ///
    /// # Errors
    /// Gives it back when the batch is full.
    fn enter_tunnel(
        &mut self,
        frame: Tunnelled,
        batch: &mut Batch,
        now: Now,
        pool: &mut PacketPool,
    ) -> Result<(), Tunnelled>;

    /// Counts a frame that was given up while it was read.
    fn refuse_rx(&mut self, packet: Packet, reason: DropReason, now: Now, pool: &mut PacketPool);

    /// Counts a frame that was handed out for a port and not sent.
    fn refuse_tx(
        &mut self,
        packet: Packet,
        port: PortId,
        reason: DropReason,
        now: Now,
        pool: &mut PacketPool,
    );

    /// Counts a frame that was handed out for the tunnel and not sent; its sender may be told why.
    fn refuse_tunnel(&mut self, unsent: Unsent, now: Now, pool: &mut PacketPool, out: &mut Out);

    /// Counts a packet whose ring to another worker is full.
    fn refuse_handed(&mut self, packet: Packet, now: Now, pool: &mut PacketPool);

    /// Does what time brings, and says when to be called again at the latest.
    fn tick(&mut self, now: Now, pool: &mut PacketPool, out: &mut Out) -> Option<Now>;

    /// Counts what it holds as dropped: the switch is shutting down.
    fn drain(&mut self, now: Now, pool: &mut PacketPool);
}

/// What a worker is given of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Packets of an ordinary frame.
    pub small_packets: usize,
    /// Packets of a super-frame.
    pub large_packets: usize,
    /// Commands that may wait.
    pub commands: usize,
    /// For how long to look again before sleeping: halves the latency under light load, costs a core for that long.
    pub spin: Duration,
    /// How many packets of a port may be dropped a second before it rests; 0: any number.
    pub port_drops: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            small_packets: 4096,
            large_packets: 256,
            commands: 256,
            spin: Duration::ZERO,
            port_drops: 0,
        }
    }
}

/// Nanoseconds of the machine's monotonic clock: the same in every process, so that what was written down by the last one can
/// be compared.
pub fn monotonic() -> Now {
    let t = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    Now::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Says which port's device went away.
pub type Lost = Box<dyn Fn(PortId) + Send>;

/// What a turn gives a port, in packets' worth: a batch.
const QUANTUM: i64 = 64;
/// The fewest packets that are read of a port at a time, however much they cost.
const FEWEST: i64 = 4;
/// For how long a port may have saved drops that it did not have.
const SAVED: Duration = Duration::from_millis(10);
/// Bytes that cost as much as a packet does besides them.
const PACKET_BYTES: u64 = 16_384;

#[derive(Debug)]
struct Slot {
    io: Box<dyn PortIo>,
    /// Is there something to read?
    ready: bool,
    /// Does the kernel tell when there is? A port in memory is always asked.
    told: bool,
    /// How much it may take: what it took too much it waits for.
    credit: i64,
    /// What a packet of its cost lately, in sixteenths of a packet's worth.
    dear: i64,
    /// When all of its drops so far would have been allowed (GCRA, ITU-T I.371).
    dropped: Now,
}

impl Slot {
    fn new(io: Box<dyn PortIo>, told: bool) -> Self {
        Self {
            io,
            ready: !told,
            told,
            credit: QUANTUM,
            dear: 16,
            dropped: Now::ZERO,
        }
    }

    /// Until when it rests, if it does.
    fn rests(&self, now: Now) -> Option<Now> {
        let ends = Now::from_nanos(self.dropped.nanos().saturating_sub(nanos(SAVED)));
        (ends > now).then_some(ends)
    }

    /// How many packets are worth a turn.
    fn room(&self) -> usize {
        let packets = (QUANTUM * 16)
            .checked_div(self.dear)
            .unwrap_or(QUANTUM)
            .max(FEWEST);
        usize::try_from(packets).unwrap_or(BATCH)
    }

    /// Takes note of what packets that were read have cost.
    fn pay(&mut self, packets: usize, cost: u64) {
        let of = |n| i64::try_from(n).unwrap_or(i64::MAX / 16);
        let (packets, cost) = (of(packets as u64).max(1), of(cost));
        self.credit = self.credit.saturating_sub(cost);
        self.dear = i64::midpoint(self.dear, cost.saturating_mul(16) / packets);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// One worker's loop. Made by [`spawn`], or by tests that turn it themselves.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is noted in one place and asked in another"
)]
pub struct Worker<C> {
    seat: Seat,
    corridor: C,
    limits: Limits,
    lost: Lost,
    commands: Receiver<Command<C>>,
    pool: PacketPool,
    ports: Vec<Option<Slot>>,
    ready: Vec<PortId>,
    underlay: Option<Box<dyn Underlay>>,
    underlay_ready: bool,
    /// Had the tunnel or another worker something in the last turn?
    others: bool,
    sleep: Sleep,
    rx: Batch,
    tx: Batch,
    tunnelled: Vec<Tunnelled>,
    refused: Refused,
    unsent: Vec<Unsent>,
    out: Out,
    starved: bool,
    /// When the first port that rests has rested.
    rested: Option<Now>,
    ending: bool,
}

impl<C> std::fmt::Debug for Worker<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("seat", &self.seat)
            .field("ports", &self.ports.iter().flatten().count())
            .finish_non_exhaustive()
    }
}

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Was there anything to do?
    pub busy: bool,
    /// When to turn again.
    pub next: Next,
}

/// When a worker is to turn again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once: there is more.
    AtOnce,
    /// When packets were freed: there are frames, but nothing to read them into.
    WhenFreed,
    /// When something comes, and at this time at the latest.
    By(Option<Now>),
    /// Never: it was told to end.
    Never,
}

/// Starts a worker on a thread of its own.
///
/// # Errors
/// When the kernel has no thread or epoll instance for it.
pub fn spawn<C: Corridor>(
    seat: Seat,
    corridor: C,
    limits: Limits,
    lost: Lost,
) -> io::Result<Handle<C>> {
    let name = format!("worker-{}", seat.id().0);
    let (worker, mut handle) = Worker::new(seat, corridor, limits, lost)?;
    let thread = thread::Builder::new()
        .name(name)
        .spawn(move || worker.run())?;
    handle.runs(thread);
    Ok(handle)
}

impl<C: Corridor> Worker<C> {
    /// A worker that nobody turns yet, and its handle.
    ///
    /// # Errors
    /// When the kernel has no epoll instance or timer for it.
    pub fn new(
        seat: Seat,
        corridor: C,
        limits: Limits,
        lost: Lost,
    ) -> io::Result<(Self, Handle<C>)> {
        let (commands, received) = mpsc::sync_channel(limits.commands);
        let bell = seat.bell().clone();
        let sleep = Sleep::new(&bell)?;
        let worker = Self {
            seat,
            corridor,
            limits,
            lost,
            commands: received,
            pool: PacketPool::new(limits.small_packets, limits.large_packets),
            ports: Vec::new(),
            ready: Vec::new(),
            underlay: None,
            underlay_ready: false,
            others: false,
            sleep,
            rx: Batch::new(),
            tx: Batch::new(),
            tunnelled: Vec::with_capacity(BATCH),
            refused: Vec::new(),
            unsent: Vec::new(),
            out: Out::new(),
            starved: false,
            rested: None,
            ending: false,
        };
        Ok((worker, Handle::new(commands, bell)))
    }

    /// What it runs its packets through.
    pub fn corridor(&self) -> &C {
        &self.corridor
    }

    fn run(mut self) {
        self.out.meter = Meter::with_clock(monotonic);
        let mut now = monotonic();
        let mut patience = Patience::new(self.limits.spin, now);
        loop {
            let saved = self.out.meter.effort.saved();
            let turn = self.turn(now);
            let ended = monotonic();
            self.out.meter.end(now, ended, turn.busy);
            if turn.busy {
                let bulk = self.out.meter.effort.saved() > saved;
                patience.busy((now, ended), bulk);
            }
            let asleep = match turn.next {
                Next::Never => return,
                Next::WhenFreed if !turn.busy => {
                    self.wait_for_packets();
                    true
                }
                Next::AtOnce | Next::WhenFreed => {
                    self.look();
                    false
                }
                Next::By(_) if patience.lasts(ended) => {
                    // Whoever is to answer may want this core: without this, connect/request/close on two cores is half as fast, with it
                    // faster than asleep.
                    thread::yield_now();
                    self.look();
                    patience.gave_way(ended, monotonic());
                    false
                }
                Next::By(at) => {
                    self.sleep(ended, at);
                    true
                }
            };
            now = monotonic();
            self.out.meter.waited(ended, now, asleep);
        }
    }

    /// One turn: commands, then each port that has frames, the underlay, other workers, and what time brings. Never waits.
    pub fn turn(&mut self, now: Now) -> Turn {
        self.out.meter.begin(now);
        self.starved = false;
        self.seat.collect(&mut self.pool);
        let mut busy = self.obey(now);
        self.corridor.refresh(now);
        let mut more = self.read_ports(now, &mut busy);
        let mut others = false;
        more |= self.read_underlay(now, &mut others);
        more |= self.read_peers(now, &mut others);
        self.others = others;
        busy |= others;
        let wake = self.corridor.tick(now, &mut self.pool, &mut self.out);
        self.out.meter.lap(Part::Other);
        self.flush(now);
        if self.ending {
            self.corridor.drain(now, &mut self.pool);
        }
        let next = match (self.ending, more, self.starved) {
            (true, ..) => Next::Never,
            (false, true, _) => Next::AtOnce,
            (false, false, true) => Next::WhenFreed,
            (false, false, false) => Next::By([wake, self.rested].into_iter().flatten().min()),
        };
        Turn { busy, next }
    }

    /// All packets are held somewhere: the devices' frames stay where they are until time, or a command, frees some.
    fn wait_for_packets(&mut self) {
        let most = Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        let mut fds = [PollFd::new(self.seat.bell(), PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&most)).is_ok_and(|n| n > 0) {
            self.seat.bell().silence();
        }
    }

    /// Sleeps until there are frames, a command, another worker's packets, or it is time; notes who has something.
    fn sleep(&mut self, now: Now, until: Option<Now>) {
        if self.seat.may_sleep() {
            self.wait(|sleep, each| sleep.sleep(now, until, each));
            self.seat.woke();
        }
    }

    /// Notes who has something, and does not wait.
    fn look(&mut self) {
        self.wait(Sleep::look);
    }

    fn wait(&mut self, wait: impl FnOnce(&mut Sleep, &mut dyn FnMut(Source))) {
        let Self {
            sleep,
            seat,
            ports,
            ready,
            underlay_ready,
            ..
        } = self;
        wait(sleep, &mut |source| match source {
            Source::Bell => seat.bell().silence(),
            Source::Underlay => *underlay_ready = true,
            Source::Port(id) => {
                if let Some(Some(slot)) = ports.get_mut(id.index())
                    && !slot.ready
                {
                    slot.ready = true;
                    ready.push(id);
                }
            }
        });
    }

    fn obey(&mut self, now: Now) -> bool {
        let mut busy = false;
        // Bounded: whoever tells more than fits the queue must not keep packets waiting.
        for _ in 0..self.limits.commands.max(1) {
            match self.commands.try_recv() {
                Ok(Command::AddPort(id, io)) => {
                    self.add_port(id, io);
                    self.corridor.device(id, true, now);
                }
                Ok(Command::RemovePort(id)) => {
                    self.remove_port(id);
                    self.corridor.device(id, false, now);
                }
                Ok(Command::SetUnderlay(underlay)) => self.set_underlay(underlay),
                Ok(Command::Ask(question)) => {
                    self.corridor.refresh(now);
                    question(&mut self.corridor, now);
                }
                Ok(Command::Effort(reply)) => {
                    // Whoever asked may have gone away.
                    if reply.try_send(self.out.meter.effort).is_err() {
                        tracing::debug!("nobody waits for the answer any more");
                    }
                }
                Ok(Command::Shutdown) | Err(TryRecvError::Disconnected) => {
                    self.ending = true;
                    return true;
                }
                Err(TryRecvError::Empty) => break,
            }
            busy = true;
        }
        busy
    }

    fn add_port(&mut self, id: PortId, io: Box<dyn PortIo>) {
        self.remove_port(id);
        let told = match io.poll_fd() {
            Some(fd) => match self.sleep.add(fd, Source::Port(id)) {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!(port = id.0, %error, "cannot wait for a port's device");
                    (self.lost)(id);
                    return;
                }
            },
            None => false,
        };
        let index = id.index();
        if index >= self.ports.len() {
            self.ports.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.ports.get_mut(index) {
            *slot = Some(Slot::new(io, told));
        }
        if !told {
            self.ready.push(id);
        }
    }

    fn remove_port(&mut self, id: PortId) {
        let Some(slot) = self.ports.get_mut(id.index()).and_then(Option::take) else {
            return;
        };
        self.ready.retain(|r| *r != id);
        if let Some(fd) = slot.io.poll_fd()
            && let Err(error) = self.sleep.remove(fd)
        {
            // Closing the descriptor, which comes next, takes it out all the same.
            tracing::debug!(port = id.0, %error, "a port's device was not waited for");
        }
    }

    fn set_underlay(&mut self, underlay: Option<Box<dyn Underlay>>) {
        self.underlay_ready = false;
        if let Some(old) = self.underlay.take()
            && let Some(fd) = old.poll_fd()
            && let Err(error) = self.sleep.remove(fd)
        {
            tracing::debug!(%error, "the underlay was not waited for");
        }
        if let Some(new) = underlay {
            match new.poll_fd() {
                Some(fd) => {
                    if let Err(error) = self.sleep.add(fd, Source::Underlay) {
                        tracing::error!(%error, "cannot wait for the underlay");
                        return;
                    }
                }
                None => self.underlay_ready = true,
            }
            self.underlay = Some(new);
        }
    }

    /// One batch of each port that has frames. Says whether any has more.
    fn read_ports(&mut self, now: Now, busy: &mut bool) -> bool {
        let mut more = false;
        let mut ready = std::mem::take(&mut self.ready);
        let alone = ready.len() <= 1 && !self.others;
        self.rested = None;
        self.corridor.surcharge();
        self.corridor.dropped();
        self.out.meter.lap(Part::Other);
        ready.retain(|&id| {
            let Some(Some(slot)) = self.ports.get_mut(id.index()) else {
                return false;
            };
            if let Some(until) = slot.rests(now) {
                self.rested = Some(self.rested.map_or(until, |first| first.min(until)));
                return true;
            }
            // Nobody waits for whom nobody else is there.
            slot.credit = if alone {
                QUANTUM
            } else {
                (slot.credit + QUANTUM).min(QUANTUM)
            };
            if slot.credit <= 0 {
                more = true;
                return true;
            }
            self.rx.set_room(slot.room());
            let end = slot.io.rx(&mut self.pool, &mut self.rx, &mut self.refused);
            self.rx.set_room(BATCH);
            slot.ready = end == Rx::More || !slot.told;
            let keep = slot.ready;
            *busy |= !self.rx.is_empty() || !self.refused.is_empty();
            let mut segments = 0;
            let origin = self.corridor.origin(id);
            for packet in &mut self.rx {
                packet.set_origin(origin);
                segments += u64::from(packet.segments());
            }
            let meter = &mut self.out.meter;
            meter.effort.count_rx(Medium::Port, self.rx.len(), segments);
            meter.lap(Part::Rx);
            for (mut packet, reason) in self.refused.drain(..) {
                packet.set_origin(origin);
                self.corridor.refuse_rx(packet, reason, now, &mut self.pool);
            }
            if !self.rx.is_empty() {
                let bytes: u64 = self.rx.iter().map(Packet::wire_bytes).sum();
                let packets = self.rx.len();
                self.corridor
                    .run(&mut self.rx, now, &mut self.pool, &mut self.out);
                let cost =
                    packets as u64 + bytes / PACKET_BYTES + u64::from(self.corridor.surcharge());
                if let Some(Some(slot)) = self.ports.get_mut(id.index()) {
                    slot.pay(packets, cost);
                }
                self.flush(now);
            }
            self.note_drops(id, now);
            match end {
                Rx::More => more = true,
                Rx::Drained => {}
                Rx::Starved => self.starved = true,
                Rx::Gone => {
                    self.remove_port(id);
                    (self.lost)(id);
                    return false;
                }
            }
            keep
        });
        // Ports that were added or woken meanwhile come behind.
        ready.append(&mut self.ready);
        self.ready = ready;
        more
    }

    /// Whose packets are dropped all the time rests for as long as they are too many.
    fn note_drops(&mut self, id: PortId, now: Now) {
        let dropped = u64::from(self.corridor.dropped());
        let share = u64::from(self.limits.port_drops);
        let Some(price) = 1_000_000_000u64.checked_div(share) else {
            return;
        };
        if let Some(Some(slot)) = self.ports.get_mut(id.index()) {
            let since = slot.dropped.max(now).nanos();
            slot.dropped = Now::from_nanos(since.saturating_add(price.saturating_mul(dropped)));
        }
    }

    fn read_underlay(&mut self, now: Now, busy: &mut bool) -> bool {
        if !self.underlay_ready {
            return false;
        }
        let Some(underlay) = &mut self.underlay else {
            return false;
        };
        let corridor = &self.corridor;
        let end = underlay.rx(
            &mut self.pool,
            &|from| corridor.admits(from),
            &mut self.tunnelled,
            &mut self.refused,
        );
        let told = underlay.poll_fd().is_some();
        self.starved |= end == Rx::Starved;
        // Where packets lacked, datagrams may wait in the underlay itself: no event will tell of those.
        self.underlay_ready = matches!(end, Rx::More | Rx::Starved) || !told;
        *busy |= !self.tunnelled.is_empty() || !self.refused.is_empty();
        for (packet, reason) in self.refused.drain(..) {
            self.corridor.refuse_rx(packet, reason, now, &mut self.pool);
        }
        let mut frames = std::mem::take(&mut self.tunnelled);
        let segments = frames.iter().map(|f| u64::from(f.packet.segments())).sum();
        let meter = &mut self.out.meter;
        meter
            .effort
            .count_rx(Medium::Tunnel, frames.len(), segments);
        meter.lap(Part::Rx);
        for frame in frames.drain(..) {
            let (corridor, pool) = (&mut self.corridor, &mut self.pool);
            if let Err(frame) = corridor.enter_tunnel(frame, &mut self.rx, now, pool) {
                corridor.run(&mut self.rx, now, pool, &mut self.out);
                if let Err(frame) = corridor.enter_tunnel(frame, &mut self.rx, now, pool) {
                    corridor.refuse_rx(frame.packet, DropReason::PoolExhausted, now, pool);
                }
            }
        }
        self.tunnelled = frames;
        if !self.rx.is_empty() {
            self.corridor
                .run(&mut self.rx, now, &mut self.pool, &mut self.out);
        }
        self.flush(now);
        end == Rx::More
    }

    /// One batch of each other worker.
    fn read_peers(&mut self, now: Now, busy: &mut bool) -> bool {
        let mut more = false;
        self.seat.repay(&mut self.pool);
        for peer in 0..self.seat.peers() {
            more |= self.seat.receive(peer, &mut self.rx);
            if !self.rx.is_empty() {
                *busy = true;
                self.out.meter.lap(Part::Rx);
                self.corridor
                    .take_over(&mut self.rx, now, &mut self.pool, &mut self.out);
                self.flush(now);
            }
        }
        more
    }

    /// Sends what came out.
    fn flush(&mut self, now: Now) {
        // First the tunnel: whose frame is too large for it is told at a port.
        self.flush_tunnel(now);
        while let Some(id) = self.out.next_port(&mut self.tx) {
            if let Some(Some(slot)) = self.ports.get_mut(id.index()) {
                let frames = self.tx.len();
                let segments = slot.io.tx(&mut self.pool, &mut self.tx, &mut self.refused);
                let frames = frames.saturating_sub(self.refused.len());
                let effort = &mut self.out.meter.effort;
                effort.count_tx(Medium::Port, frames, segments);
            } else {
                self.send_tagged(id);
            }
            for (packet, reason) in self.refused.drain(..) {
                self.corridor
                    .refuse_tx(packet, id, reason, now, &mut self.pool);
            }
        }
        self.out.meter.effort.handed += self.out.handed.len() as u64;
        for (to, packet) in self.out.handed.drain(..) {
            if let Err(packet) = self.seat.hand(to, packet) {
                self.corridor.refuse_handed(packet, now, &mut self.pool);
            }
        }
        self.seat.ring_bells();
        self.out.meter.lap(Part::Tx);
    }

    /// Sends what is in the batch for a port without a device: by the one that it shares, if it does.
    fn send_tagged(&mut self, id: PortId) {
        let carrier = self.corridor.carrier(id);
        let device = carrier.and_then(|(parent, vlan)| {
            let slot = self.ports.get_mut(parent.index())?.as_mut()?;
            Some((slot, vlan))
        });
        let Some((slot, vlan)) = device else {
            let reason = self.corridor.absent(id);
            self.refused.extend(self.tx.drain().map(|p| (p, reason)));
            return;
        };
        let refused = &mut self.refused;
        let tag = |packet: &mut Packet| packet.push_vlan(vlan).then_some(());
        self.tx.judge(
            |packet| tag(packet).ok_or(DropReason::PortSend),
            |packet, reason| refused.push((packet, reason)),
        );
        let (frames, before) = (self.tx.len(), self.refused.len());
        let segments = slot.io.tx(&mut self.pool, &mut self.tx, &mut self.refused);
        let not_sent = self.refused.get_mut(before..).unwrap_or_default();
        for (packet, _) in &mut *not_sent {
            // It is counted as what it was.
            let bore_the_tag = packet.pop_vlan();
            debug_assert!(bore_the_tag, "it was put on above");
        }
        let frames = frames.saturating_sub(not_sent.len());
        let effort = &mut self.out.meter.effort;
        effort.count_tx(Medium::Port, frames, segments);
    }

    fn flush_tunnel(&mut self, now: Now) {
        if self.out.tunnelled.is_empty() {
            return;
        }
        let lost = |frame| Unsent::new(frame, DropReason::UnderlaySend);
        match &mut self.underlay {
            Some(underlay) => {
                let frames = self.out.tunnelled.len();
                let sent = underlay.tx(&mut self.pool, &mut self.out.tunnelled, &mut self.unsent);
                let frames = frames.saturating_sub(self.unsent.len());
                let effort = &mut self.out.meter.effort;
                effort.count_tx(Medium::Tunnel, frames, sent);
            }
            None => self.unsent.extend(self.out.tunnelled.drain(..).map(lost)),
        }
        for unsent in self.unsent.drain(..) {
            self.corridor
                .refuse_tunnel(unsent, now, &mut self.pool, &mut self.out);
        }
    }
}

#[cfg(test)]
mod tests;
