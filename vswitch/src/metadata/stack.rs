//! How are the connections of many ports kept apart?
//!
//! Each port that speaks has an IP stack of its own (smoltcp), with the service's two addresses: what two tenants call by the same address is
//! never in one table. There is no listener: a packet that opens a connection is given a socket if its port may have one more, and every other
//! packet meets the sockets that are there, or is answered by a reset.
//!
//! # Limits
//! [`Limits`]. A port at its own loses its oldest half-open connection, else the new one is not answered. Where the host is at its own, the port
//! with the most connections loses its oldest, if it has more than the one that asks would have.
//!
//! # Threads
//! One owns all. No clock: time is an argument.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use net::{
    Id, Mac, Now, checksum,
    flow_key::{ethertype, proto},
    ids::kind,
};
use rtrb::Producer;
use smoltcp::{
    iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet},
    phy::{self, Checksum, Device, DeviceCapabilities, Medium},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant,
    wire::{HardwareAddress, IpCidr, IpListenEndpoint},
};
use tracing::error;

use super::{Counters, Inward, Outward};
use crate::datapath::tables::metadata as service;

/// A connection's name.
pub(super) type ConnId = u64;

/// How much may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections of a port.
    pub of_port: usize,
    /// Connections of the host.
    pub of_host: usize,
    /// Packets of a port that wait.
    pub waiting: usize,
    /// Bytes of a connection that were received and not read.
    pub receive: usize,
    /// Bytes of a connection that were written and not acknowledged.
    pub send: usize,
    /// How long a handshake or a close may take.
    pub patience: Duration,
    /// How long the other end may be silent: longer than any page takes.
    pub silence: Duration,
}

impl Default for Limits {
    /// Eight connections are more than a client opens at once; 256 take 8 MB with their buffers.
    fn default() -> Self {
        Self {
            of_port: 8,
            of_host: 256,
            waiting: 64,
            receive: 8 << 10,
            send: 16 << 10,
            patience: Duration::from_secs(10),
            silence: Duration::from_secs(30),
        }
    }
}

#[derive(Debug)]
struct Conn {
    id: ConnId,
    handle: SocketHandle,
    /// The other end, and this one: the service's; or the workload's own, where the service asks in its name.
    from: SocketAddr,
    to: SocketAddr,
    /// The other end's Ethernet address, and the one that it sends to.
    eth: (Mac, Mac),
    /// Since when it is as it is: half-open, or closing.
    since: Now,
    /// Was its task told?
    told: bool,
    closing: bool,
}

/// A port's device: what is read next, and what was written.
#[derive(Debug)]
struct Wire {
    rx: Option<Box<[u8]>>,
    tx: Vec<Vec<u8>>,
    room: usize,
    mtu: usize,
}

struct Rx(Box<[u8]>);
struct Tx<'a>(&'a mut Vec<Vec<u8>>);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let done = f(&mut packet);
        self.0.push(packet);
        done
    }
}

impl Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        if self.tx.len() >= self.room {
            return None;
        }
        Some((Rx(self.rx.take()?), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        (self.tx.len() < self.room).then_some(Tx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut all = DeviceCapabilities::default();
        all.medium = Medium::Ip;
        all.max_transmission_unit = self.mtu;
        // What a workload sends may have a checksum that is still to be made: it is looked at before.
        all.checksum.ipv4 = Checksum::Tx;
        all.checksum.tcp = Checksum::Tx;
        all
    }
}

struct PortStack {
    iface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    conns: Vec<Conn>,
    waiting: VecDeque<Inward>,
    /// By whom its last packet came, and with which Ethernet addresses.
    worker: usize,
    eth: (Mac, Mac),
}

impl std::fmt::Debug for PortStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortStack")
            .field("conns", &self.conns)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

/// A connection that is open now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) port: Id<kind::Port>,
    pub(super) id: ConnId,
    pub(super) from: SocketAddr,
    /// The end of the service that it is for.
    pub(super) to: SocketAddr,
}

/// What a turn came to.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// The workers that have something to send.
    pub(super) sent: Vec<usize>,
    /// Connections that are open now.
    pub(super) opened: Vec<Opened>,
    /// When to turn again at the latest.
    pub(super) next: Option<Now>,
}

/// The stacks of all ports that speak.
#[derive(Debug)]
pub(super) struct Stacks {
    limits: Limits,
    seed: u64,
    counters: Arc<Counters>,
    ports: BTreeMap<Id<kind::Port>, PortStack>,
    last: ConnId,
}

fn instant(now: Now) -> Instant {
    Instant::from_micros(i64::try_from(now.nanos() / 1000).unwrap_or(i64::MAX))
}

impl Stacks {
    pub(super) fn new(limits: Limits, seed: u64, counters: Arc<Counters>) -> Self {
        Self {
            limits,
            seed,
            counters,
            ports: BTreeMap::new(),
            last: 0,
        }
    }

    /// Ports that are gone have no connections.
    pub(super) fn retain(&mut self, stays: impl Fn(Id<kind::Port>) -> bool) {
        self.ports.retain(|port, stack| {
            let stays = stays(*port);
            if !stays {
                stack.abort_all();
            }
            stays
        });
    }

    /// Takes a packet, which waits for its port's turn.
    pub(super) fn take(&mut self, inward: Inward) {
        if !is_sound(&inward) {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let (seed, waiting) = (self.seed ^ self.last, self.limits.waiting);
        let stack = self.ports.entry(inward.port);
        let stack = stack.or_insert_with(|| PortStack::new(&inward, seed));
        if stack.waiting.len() >= waiting {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        stack.waiting.push_back(inward);
    }

    /// What waits is read, what is to be sent is sent, what is over goes.
    pub(super) fn turn(&mut self, now: Now, outward: &mut [Producer<Outward>]) -> Turn {
        let mut turn = Turn::default();
        let ports: Vec<_> = self.ports.keys().copied().collect();
        for port in ports {
            let done = catch_unwind(AssertUnwindSafe(|| {
                self.turn_port(port, now, outward, &mut turn);
            }));
            if done.is_err() {
                error!(%port, "the metadata service's stack has a fault; the port's connections end");
                self.counters.faults.fetch_add(1, Ordering::Relaxed);
                self.ports.remove(&port);
            }
        }
        self.ports
            .retain(|_, stack| !(stack.conns.is_empty() && stack.waiting.is_empty()));
        let open = self.total() as u64;
        self.counters.open.store(open, Ordering::Relaxed);
        turn
    }

    fn total(&self) -> usize {
        self.ports.values().map(|stack| stack.conns.len()).sum()
    }

    fn turn_port(
        &mut self,
        port: Id<kind::Port>,
        now: Now,
        outward: &mut [Producer<Outward>],
        turn: &mut Turn,
    ) {
        loop {
            let Some(stack) = self.ports.get_mut(&port) else {
                return;
            };
            let Some(ring) = outward.get(stack.worker) else {
                return;
            };
            stack.wire.room = ring.slots();
            if stack.wire.tx.len() >= stack.wire.room {
                break;
            }
            let Some(inward) = stack.waiting.pop_front() else {
                break;
            };
            let known = stack.conns.iter().any(|conn| conn.is_of(&inward));
            if inward.opens && !known && is_own(inward.to.ip()) && !self.admit(port, &inward, now) {
                continue;
            }
            if let Some(stack) = self.ports.get_mut(&port) {
                stack.ingest(inward, now);
            }
        }
        let patience = self.limits.patience;
        let Some(stack) = self.ports.get_mut(&port) else {
            return;
        };
        stack.emit(now);
        stack.prune(now, patience);
        for conn in stack.conns.iter_mut().filter(|conn| !conn.told) {
            if stack.sockets.get::<Socket<'_>>(conn.handle).may_send() {
                conn.told = true;
                turn.opened.push(Opened {
                    port,
                    id: conn.id,
                    from: conn.from,
                    to: conn.to,
                });
            }
        }
        let worker = stack.worker;
        let frames = stack.wire.tx.len();
        if let Some(ring) = outward.get_mut(worker) {
            for packet in stack.wire.tx.drain(..) {
                let (frame, sent) = framed(&packet, &stack.conns, stack.eth);
                // There is room: it was counted, and nobody else fills it.
                if ring.push(Outward { port, frame, sent }).is_err() {
                    break;
                }
            }
        }
        if frames > 0 && !turn.sent.contains(&worker) {
            turn.sent.push(worker);
        }
        let wake = stack.wake(now, patience);
        turn.next = [turn.next, wake].into_iter().flatten().min();
    }

    /// May a port have one more connection?
    fn has_room(&mut self, port: Id<kind::Port>) -> bool {
        let Limits {
            of_port, of_host, ..
        } = self.limits;
        let Some(stack) = self.ports.get_mut(&port) else {
            return false;
        };
        if stack.conns.len() >= of_port && !stack.give_up_half_open() {
            self.counters.full_port.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let own = stack.conns.len();
        if self.total() >= of_host {
            let most = self.ports.values_mut().max_by_key(|s| s.conns.len());
            let Some(most) = most.filter(|s| s.conns.len() > own + 1) else {
                self.counters.full_host.fetch_add(1, Ordering::Relaxed);
                return false;
            };
            most.give_up_oldest();
        }
        true
    }

    fn new_socket(&self) -> Socket<'static> {
        let buffer = |bytes: usize| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(self.limits.receive), buffer(self.limits.send));
        socket.set_timeout(Some(self.limits.silence.into()));
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket
    }

    /// Makes a socket for a connection that is to open, if it may.
    fn admit(&mut self, port: Id<kind::Port>, inward: &Inward, now: Now) -> bool {
        if !self.has_room(port) {
            return false;
        }
        self.last += 1;
        let id = self.last;
        let mut socket = self.new_socket();
        let Some(stack) = self.ports.get_mut(&port) else {
            return false;
        };
        let endpoint = IpListenEndpoint {
            addr: Some(inward.to.ip().into()),
            port: inward.to.port(),
        };
        if socket.listen(endpoint).is_err() {
            return false;
        }
        let handle = stack.sockets.add(socket);
        stack.conns.push(Conn {
            id,
            handle,
            from: inward.from,
            to: inward.to,
            eth: inward.eth,
            since: now,
            told: false,
            closing: false,
        });
        true
    }

    /// Opens a connection in the name of the other end of one that is there, from that one's port, to another port of the service's. `None`: there
    /// is no room for it, or one like it already.
    pub(super) fn connect(
        &mut self,
        port: Id<kind::Port>,
        of: ConnId,
        to: u16,
        now: Now,
    ) -> Option<ConnId> {
        if !self.has_room(port) {
            return None;
        }
        self.last += 1;
        let id = self.last;
        let mut socket = self.new_socket();
        let stack = self.ports.get_mut(&port)?;
        let of = stack.conns.iter().find(|conn| conn.id == of)?;
        let (own, eth) = (of.from, of.eth);
        let from = SocketAddr::new(of.to.ip(), to);
        if stack.conns.iter().any(|c| (c.from, c.to) == (from, own)) {
            return None;
        }
        let (there, here) = ((from.ip(), from.port()), (own.ip(), own.port()));
        socket.connect(stack.iface.context(), there, here).ok()?;
        let handle = stack.sockets.add(socket);
        stack.conns.push(Conn {
            id,
            handle,
            from,
            to: own,
            eth,
            since: now,
            told: true,
            closing: false,
        });
        Some(id)
    }

    fn socket(&mut self, port: Id<kind::Port>, id: ConnId) -> Option<&mut Socket<'static>> {
        let stack = self.ports.get_mut(&port)?;
        let conn = stack.conns.iter().find(|conn| conn.id == id)?;
        Some(stack.sockets.get_mut(conn.handle))
    }

    /// Reads what a connection has received; 0 bytes are its end.
    pub(super) fn read(
        &mut self,
        port: Id<kind::Port>,
        id: ConnId,
        into: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(socket) = self.socket(port, id) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if socket.can_recv() {
            let read = socket.recv_slice(into);
            return Poll::Ready(read.or(Err(io::ErrorKind::ConnectionReset.into())));
        }
        if !socket.may_recv() {
            return Poll::Ready(Ok(0));
        }
        socket.register_recv_waker(cx.waker());
        Poll::Pending
    }

    /// Writes what a connection is to send, as far as there is room.
    pub(super) fn write(
        &mut self,
        port: Id<kind::Port>,
        id: ConnId,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let broken = || Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        let Some(socket) = self.socket(port, id) else {
            return broken();
        };
        let opens = socket.state() == State::SynSent;
        if !opens && !socket.may_send() {
            return broken();
        }
        if opens || !socket.can_send() {
            socket.register_send_waker(cx.waker());
            return Poll::Pending;
        }
        match socket.send_slice(bytes) {
            Ok(written) => Poll::Ready(Ok(written)),
            Err(_) => broken(),
        }
    }

    /// Ends a connection when all is sent that was written.
    pub(super) fn close(&mut self, port: Id<kind::Port>, id: ConnId) {
        if let Some(socket) = self.socket(port, id) {
            socket.close();
        }
    }
}

/// Can the stack read it? Its TCP header stands right behind the IP header's, and its checksum holds where there is one.
fn is_sound(inward: &Inward) -> bool {
    let (ip, l4) = (&inward.ip, inward.l4);
    if inward.from.is_ipv6() && l4 != 40 {
        return false;
    }
    match ip.get(l4..) {
        None => false,
        Some(_) if inward.verified => true,
        Some(l4) => checksum::transport(inward.from.ip(), inward.to.ip(), proto::TCP, l4) == 0,
    }
}

/// Is it an address of the service's?
fn is_own(addr: IpAddr) -> bool {
    addr == IpAddr::V4(service::V4) || addr == IpAddr::V6(service::V6)
}

impl Conn {
    fn is_of(&self, inward: &Inward) -> bool {
        (self.from, self.to) == (inward.from, inward.to)
    }
}

impl PortStack {
    fn new(first: &Inward, seed: u64) -> Self {
        let mut wire = Wire {
            rx: None,
            tx: Vec::new(),
            room: 0,
            mtu: first.mtu,
        };
        let mut config = Config::new(HardwareAddress::Ip);
        let (high, low) = first.port.uuid().as_u64_pair();
        config.random_seed = seed ^ low ^ high.rotate_left(32);
        let mut iface = Interface::new(config, &mut wire, Instant::ZERO);
        iface.update_ip_addrs(|own| {
            let both = [
                IpCidr::new(IpAddr::V4(service::V4).into(), 32),
                IpCidr::new(IpAddr::V6(service::V6).into(), 128),
            ];
            let full = both.into_iter().any(|addr| own.push(addr).is_err());
            debug_assert!(!full, "smoltcp holds two addresses");
        });
        // It speaks as its workload too.
        iface.set_any_ip(true);
        // Everybody is reached over the wire; a route's next hop is asked for, and not used on such a medium.
        let routes = iface.routes_mut();
        let v4 = routes.add_default_ipv4_route(service::V4);
        let v6 = routes.add_default_ipv6_route(service::V6);
        debug_assert!(v4.is_ok() && v6.is_ok(), "smoltcp holds two routes");
        Self {
            iface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            conns: Vec::new(),
            waiting: VecDeque::new(),
            worker: first.worker,
            eth: first.eth,
        }
    }

    fn ingest(&mut self, inward: Inward, now: Now) {
        self.worker = inward.worker;
        // What answers the service shows no address of the workload's choice.
        if is_own(inward.to.ip()) {
            self.eth = inward.eth;
            if let Some(conn) = self.conns.iter_mut().find(|c| c.is_of(&inward)) {
                conn.eth = inward.eth;
            }
        }
        self.wire.rx = Some(inward.ip);
        let now = instant(now);
        let read = self
            .iface
            .poll_ingress_single(now, &mut self.wire, &mut self.sockets);
        if read == PollIngressSingleResult::None {
            self.wire.rx = None;
        }
    }

    /// Sends what is to be sent, as far as there is room.
    fn emit(&mut self, now: Now) {
        let now = instant(now);
        while self.wire.tx.len() < self.wire.room {
            let sent = self
                .iface
                .poll_egress(now, &mut self.wire, &mut self.sockets);
            if sent == PollResult::None {
                break;
            }
        }
    }

    /// What is over goes; what took too long is over.
    fn prune(&mut self, now: Now, patience: Duration) {
        for conn in &mut self.conns {
            let socket = self.sockets.get_mut::<Socket<'_>>(conn.handle);
            let closing = !matches!(
                socket.state(),
                State::Listen
                    | State::SynSent
                    | State::SynReceived
                    | State::Established
                    | State::CloseWait
            );
            if closing && !conn.closing {
                (conn.closing, conn.since) = (true, now);
            }
            let waits = closing || matches!(socket.state(), State::SynSent | State::SynReceived);
            if waits && conn.since + patience <= now {
                socket.abort();
            }
        }
        self.emit(now);
        let sockets = &mut self.sockets;
        self.conns.retain(|conn| {
            let state = sockets.get::<Socket<'_>>(conn.handle).state();
            // One that listens was opened by what the stack did not take.
            let over = matches!(state, State::Closed | State::TimeWait | State::Listen);
            if over {
                sockets.remove(conn.handle);
            }
            !over
        });
    }

    fn give_up(&mut self, at: usize) {
        let conn = self.conns.remove(at);
        // Whoever reads or writes it is woken.
        self.sockets.get_mut::<Socket<'_>>(conn.handle).abort();
        self.sockets.remove(conn.handle);
    }

    /// Gives up the oldest connection that is not open yet; is there one?
    fn give_up_half_open(&mut self) -> bool {
        let half = |conn: &Conn| {
            let socket = self.sockets.get::<Socket<'_>>(conn.handle);
            !conn.told && !socket.may_send()
        };
        let Some(at) = self.conns.iter().position(half) else {
            return false;
        };
        self.give_up(at);
        true
    }

    fn give_up_oldest(&mut self) {
        if !self.conns.is_empty() {
            self.give_up(0);
        }
    }

    fn abort_all(&mut self) {
        while !self.conns.is_empty() {
            self.give_up(0);
        }
    }

    /// When it has something to do again.
    fn wake(&mut self, now: Now, patience: Duration) -> Option<Now> {
        let timer = self.iface.poll_at(instant(now), &self.sockets);
        let timer = timer.map(|at| {
            let micros = u64::try_from(at.total_micros()).unwrap_or(0);
            Now::from_nanos(micros.saturating_mul(1000))
        });
        let waits = self.conns.iter().filter(|conn| !conn.told || conn.closing);
        let limit = waits.map(|conn| conn.since + patience).min();
        let blocked = (!self.waiting.is_empty()).then_some(now);
        [timer, limit, blocked].into_iter().flatten().min()
    }
}

/// The frame of a packet of the stack's: back to where its connection's packets come from. Or, of what is sent in the workload's name (`true`), as
/// the workload sends.
fn framed(packet: &[u8], conns: &[Conn], last: (Mac, Mac)) -> (Vec<u8>, bool) {
    let v6 = packet.first().is_some_and(|b| b >> 4 == 6);
    let end = |addr: std::ops::Range<usize>, port: usize| {
        let at = |range: std::ops::Range<usize>| packet.get(range).unwrap_or_default();
        let ip: IpAddr = match <[u8; 16]>::try_from(at(addr.clone())) {
            Ok(octets) => octets.into(),
            Err(_) => <[u8; 4]>::try_from(at(addr)).unwrap_or_default().into(),
        };
        let port = <[u8; 2]>::try_from(at(port..port + 2)).unwrap_or_default();
        SocketAddr::new(ip, u16::from_be_bytes(port))
    };
    let (own, to) = if v6 {
        (end(8..24, 40), end(24..40, 42))
    } else {
        (end(12..16, 20), end(16..20, 22))
    };
    let known = conns.iter().find(|conn| (conn.from, conn.to) == (to, own));
    let (theirs, ours) = known.map_or(last, |conn| conn.eth);
    let sent = is_own(to.ip());
    let (dst, src) = if sent { (ours, theirs) } else { (theirs, ours) };
    let kind = if v6 { ethertype::IPV6 } else { ethertype::IPV4 };
    let mut frame = Vec::with_capacity(14 + packet.len());
    frame.extend(dst.octets());
    frame.extend(src.octets());
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    (frame, sent)
}
