//! Who reads, runs and writes?
//!
//! One thread a core, with its own packets, its own queues of every port and its own [`Corridor`]: read a batch, run it, send
//! what came out, and sleep when there is nothing. What it must know from outside arrives as a [`Command`]; packets of
//! connections that live elsewhere go over bounded rings ([`crew`]).
//!
//! # Invariants
//! - A turn gives each port that has frames one batch, in turn. Who took more of the worker than a batch of known flows costs
//!   waits for as many turns as that was worth, while others have frames (deficit round robin): a flood slows only its own port.
//! - Idle, it blocks: no timer but what the corridor asked for.
//! - What can't be sent, or handed over, goes back to the corridor, which counts it.
//!
//! # Threads
//! A [`Worker`] belongs to its thread; [`Handle`] is how others speak to it. Tests and simulations call [`Worker::turn`]
//! themselves, under a clock of their own.

use std::{
    any::Any,
    io,
    mem::MaybeUninit,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::mpsc::{self, Receiver, SyncSender, TryRecvError},
    thread,
    time::Duration,
};

use net::{Batch, DropReason, Now, Origin, Packet, PacketPool, PortId, batch::BATCH};
use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll},
    time::{ClockId, clock_gettime},
};

use crate::{
    datapath::Out,
    effort::{Effort, Medium, Meter, Part},
    io::{PortIo, Refused, Rx, Tunnelled, Underlay, Unsent},
};

mod lane;
mod ring;

pub use lane::{Lane, SharedTables};
use ring::Bell;
pub use ring::{Seat, crew};

/// What a worker runs its packets through. The production one is [`Lane`].
pub trait Corridor: Send + 'static {
    /// Takes note of new tables; called once before each turn.
    fn refresh(&mut self);

    /// Is this outer source a known VTEP?
    fn admits(&self, outer_source: IpAddr) -> bool;

    /// Runs packets that were just read; their origin is set.
    fn run(&mut self, batch: &mut Batch, now: Now, pool: &mut PacketPool, out: &mut Out);

    /// Runs packets that another worker handed over.
    fn take_over(&mut self, batch: &mut Batch, now: Now, pool: &mut PacketPool, out: &mut Out);

    /// What the runs since it was last asked cost beyond their packets, in packets' worth.
    fn surcharge(&mut self) -> u32 {
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

/// What may be asked of a corridor between two turns.
pub type Question<C> = Box<dyn FnOnce(&mut C, Now) + Send>;

/// What a worker can be told.
pub enum Command<C> {
    /// Serve this queue of a port; one that it has already is replaced.
    AddPort(PortId, Box<dyn PortIo>),
    /// Let go of a port's queue.
    RemovePort(PortId),
    /// Serve this underlay, or none.
    SetUnderlay(Option<Box<dyn Underlay>>),
    /// Ask the corridor anything: it is between two turns. A reply travels by what the closure holds.
    Ask(Question<C>),
    /// Say what was done so far; there is room for the answer.
    Effort(SyncSender<Effort>),
    /// Send what is to be sent, and end.
    Shutdown,
}

impl<C> std::fmt::Debug for Command<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AddPort(..) => "AddPort",
            Self::RemovePort(_) => "RemovePort",
            Self::SetUnderlay(_) => "SetUnderlay",
            Self::Ask(_) => "Ask",
            Self::Effort(_) => "Effort",
            Self::Shutdown => "Shutdown",
        })
    }
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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            small_packets: 4096,
            large_packets: 256,
            commands: 256,
            spin: Duration::ZERO,
        }
    }
}

/// The worker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker has ended")]
pub struct WorkerGone;

/// Nanoseconds of the machine's monotonic clock: the same in every process, so that what was written down by the last one can
/// be compared.
pub fn monotonic() -> Now {
    let t = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    Now::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// A worker, as others see it.
#[derive(Debug)]
pub struct Handle<C> {
    commands: SyncSender<Command<C>>,
    bell: Bell,
    thread: Option<thread::JoinHandle<()>>,
}

impl<C: Corridor> Handle<C> {
    /// Tells it something; waits while its queue is full.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&self, command: Command<C>) -> Result<(), WorkerGone> {
        self.commands.send(command).or(Err(WorkerGone))?;
        self.bell.ring();
        Ok(())
    }

    /// Asks its corridor, between two turns, and waits for the answer. All that was told before is done by then, and the tables
    /// that stood when it was asked are the ones that it runs.
    ///
    /// # Errors
    /// When it has ended.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut C, Now) -> T + Send + 'static,
    ) -> Result<T, WorkerGone> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.tell(Command::Ask(Box::new(move |corridor, now| {
            // Whoever asked may have gone away.
            drop(reply.send(question(corridor, now)));
        })))?;
        answer.recv().or(Err(WorkerGone))
    }

    /// What it did so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn effort(&self) -> Result<Effort, WorkerGone> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.tell(Command::Effort(reply))?;
        answer.recv().or(Err(WorkerGone))
    }

    /// Ends it: what it holds goes out first.
    ///
    /// # Errors
    /// The panic that ended it before.
    pub fn stop(mut self) -> Result<(), Box<dyn Any + Send>> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), Box<dyn Any + Send>> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        if self.tell(Command::Shutdown) == Err(WorkerGone) {
            tracing::debug!("the worker had ended before");
        }
        thread.join()
    }
}

impl<C> Drop for Handle<C> {
    fn drop(&mut self) {
        if self.thread.is_some() && self.commands.send(Command::Shutdown).is_ok() {
            self.bell.ring();
        }
    }
}

/// Says which port's device went away.
pub type Lost = Box<dyn Fn(PortId) + Send>;

/// What a turn gives a port, in packets' worth: a batch.
const QUANTUM: i64 = 64;
/// Bytes that cost as much as a packet does besides them.
const PACKET_BYTES: u64 = 16_384;

const BELL: u64 = u64::MAX;
const UNDERLAY: u64 = u64::MAX - 1;

#[derive(Debug)]
struct Slot {
    io: Box<dyn PortIo>,
    /// Is there something to read?
    ready: bool,
    /// Does the kernel tell when there is? A port in memory is always asked.
    told: bool,
    /// How much it may take: what it took too much it waits for.
    credit: i64,
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
    epoll: OwnedFd,
    rx: Batch,
    tx: Batch,
    tunnelled: Vec<Tunnelled>,
    refused: Refused,
    unsent: Vec<Unsent>,
    out: Out,
    starved: bool,
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
    handle.thread = Some(thread);
    Ok(handle)
}

impl<C: Corridor> Worker<C> {
    /// A worker that nobody turns yet, and its handle.
    ///
    /// # Errors
    /// When the kernel has no epoll instance for it.
    pub fn new(
        seat: Seat,
        corridor: C,
        limits: Limits,
        lost: Lost,
    ) -> io::Result<(Self, Handle<C>)> {
        let (commands, received) = mpsc::sync_channel(limits.commands);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = seat.bell().clone();
        epoll::add(
            &epoll,
            bell.as_fd(),
            epoll::EventData::new_u64(BELL),
            epoll::EventFlags::IN,
        )?;
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
            epoll,
            rx: Batch::new(),
            tx: Batch::new(),
            tunnelled: Vec::with_capacity(BATCH),
            refused: Vec::new(),
            unsent: Vec::new(),
            out: Out::new(),
            starved: false,
            ending: false,
        };
        let handle = Handle {
            commands,
            bell,
            thread: None,
        };
        Ok((worker, handle))
    }

    /// What it runs its packets through.
    pub fn corridor(&self) -> &C {
        &self.corridor
    }

    fn run(mut self) {
        self.out.meter = Meter::with_clock(monotonic);
        let mut now = monotonic();
        let mut busy_at = now;
        loop {
            let turn = self.turn(now);
            let ended = monotonic();
            self.out.meter.end(now, ended, turn.busy);
            if turn.busy {
                busy_at = ended;
            }
            let spinning = ended.since(busy_at) < self.limits.spin;
            let asleep = match turn.next {
                Next::Never => return,
                Next::WhenFreed if !turn.busy => {
                    self.wait_for_packets();
                    true
                }
                Next::AtOnce | Next::WhenFreed => self.look(),
                Next::By(_) if spinning => self.look(),
                Next::By(at) => {
                    self.wait(at.map(|at| at.since(ended)));
                    true
                }
            };
            now = monotonic();
            self.out.meter.waited(ended, now, asleep);
        }
    }

    /// Notes who has something, and does not wait.
    fn look(&mut self) -> bool {
        self.wait(Some(Duration::ZERO));
        false
    }

    /// One turn: commands, then each port that has frames, the underlay, other workers, and what time brings. Never waits.
    pub fn turn(&mut self, now: Now) -> Turn {
        self.out.meter.begin(now);
        self.starved = false;
        self.seat.collect(&mut self.pool);
        let mut busy = self.obey(now);
        self.corridor.refresh();
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
            (false, false, false) => Next::By(wake),
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

    /// Waits for frames, a command, another worker or the time; notes who has something.
    fn wait(&mut self, most: Option<Duration>) {
        let quick = most == Some(Duration::ZERO);
        if !quick && !self.seat.may_sleep() {
            return;
        }
        // The kernel counts epoll's patience in milliseconds: a shorter one needs ppoll in front.
        let short = most.filter(|d| !quick && *d < Duration::from_millis(20));
        if let Some(short) = short {
            let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
            if rustix::event::poll(&mut fds, Some(&timespec(short))) == Ok(0) {
                self.seat.woke();
                return;
            }
        }
        let patience = most.map(|d| timespec(short.map_or(d, |_| Duration::ZERO)));
        let mut room = [const { MaybeUninit::<epoll::Event>::uninit() }; 64];
        let waited = epoll::wait(&self.epoll, &mut room, patience.as_ref());
        self.seat.woke();
        // Interrupted is as good as woken.
        let Ok((events, _)) = waited else {
            return;
        };
        for event in events {
            match event.data.u64() {
                BELL => self.seat.bell().silence(),
                UNDERLAY => self.underlay_ready = true,
                token => {
                    let Ok(index) = usize::try_from(token) else {
                        continue;
                    };
                    if let Some(Some(slot)) = self.ports.get_mut(index)
                        && !slot.ready
                    {
                        slot.ready = true;
                        self.ready
                            .push(PortId(u32::try_from(token).unwrap_or(u32::MAX)));
                    }
                }
            }
        }
    }

    fn obey(&mut self, now: Now) -> bool {
        let mut busy = false;
        // Bounded: whoever tells more than fits the queue must not keep packets waiting.
        for _ in 0..self.limits.commands.max(1) {
            match self.commands.try_recv() {
                Ok(Command::AddPort(id, io)) => self.add_port(id, io),
                Ok(Command::RemovePort(id)) => self.remove_port(id),
                Ok(Command::SetUnderlay(underlay)) => self.set_underlay(underlay),
                Ok(Command::Ask(question)) => {
                    self.corridor.refresh();
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
        let token = epoll::EventData::new_u64(id.0.into());
        let told = match io.poll_fd() {
            Some(fd) => match epoll::add(&self.epoll, fd, token, epoll::EventFlags::IN) {
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
            *slot = Some(Slot {
                io,
                ready: !told,
                told,
                credit: QUANTUM,
            });
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
            && let Err(error) = epoll::delete(&self.epoll, fd)
        {
            // Closing the descriptor, which comes next, takes it out all the same.
            tracing::debug!(port = id.0, %error, "a port's device was not waited for");
        }
    }

    fn set_underlay(&mut self, underlay: Option<Box<dyn Underlay>>) {
        self.underlay_ready = false;
        if let Some(old) = self.underlay.take()
            && let Some(fd) = old.poll_fd()
            && let Err(error) = epoll::delete(&self.epoll, fd)
        {
            tracing::debug!(%error, "the underlay was not waited for");
        }
        if let Some(new) = underlay {
            match new.poll_fd() {
                Some(fd) => {
                    let token = epoll::EventData::new_u64(UNDERLAY);
                    if let Err(error) = epoll::add(&self.epoll, fd, token, epoll::EventFlags::IN) {
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
        self.corridor.surcharge();
        self.out.meter.lap(Part::Other);
        ready.retain(|&id| {
            let Some(Some(slot)) = self.ports.get_mut(id.index()) else {
                return false;
            };
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
            let end = slot.io.rx(&mut self.pool, &mut self.rx, &mut self.refused);
            slot.ready = end == Rx::More || !slot.told;
            let keep = slot.ready;
            *busy |= !self.rx.is_empty() || !self.refused.is_empty();
            let mut segments = 0;
            for packet in &mut self.rx {
                packet.set_origin(Origin::Port(id));
                segments += u64::from(packet.segments());
            }
            let meter = &mut self.out.meter;
            meter.effort.count_rx(Medium::Port, self.rx.len(), segments);
            meter.lap(Part::Rx);
            for (mut packet, reason) in self.refused.drain(..) {
                packet.set_origin(Origin::Port(id));
                self.corridor.refuse_rx(packet, reason, now, &mut self.pool);
            }
            if !self.rx.is_empty() {
                let bytes: u64 = self.rx.iter().map(Packet::wire_bytes).sum();
                let packets = self.rx.len() as u64 + bytes / PACKET_BYTES;
                self.corridor
                    .run(&mut self.rx, now, &mut self.pool, &mut self.out);
                let cost = packets + u64::from(self.corridor.surcharge());
                if let Some(Some(slot)) = self.ports.get_mut(id.index()) {
                    slot.credit -= i64::try_from(cost).unwrap_or(i64::MAX);
                }
                self.flush(now);
            }
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
            match self.ports.get_mut(id.index()) {
                Some(Some(slot)) => {
                    let frames = self.tx.len();
                    let segments = slot.io.tx(&mut self.pool, &mut self.tx, &mut self.refused);
                    let frames = frames.saturating_sub(self.refused.len());
                    let effort = &mut self.out.meter.effort;
                    effort.count_tx(Medium::Port, frames, segments);
                }
                _ => self
                    .refused
                    .extend(self.tx.drain().map(|p| (p, DropReason::PortGone))),
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

fn timespec(d: Duration) -> Timespec {
    Timespec {
        tv_sec: d.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: d.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests;
