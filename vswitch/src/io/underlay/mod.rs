//! How do frames cross from host to host?
//!
//! As VXLAN over UDP 4789, through plain sockets: one that receives from everybody, one that does so on UDP 4790 for what comes from, or
//! back from, appliances (VXLAN-GPE with NSH), and a small pool that sends, whose
//! source ports spread flows over the underlay. A super-frame is one send that the kernel cuts (UDP GSO): headers from an
//! arena, payload where it lies. What arrives together (UDP GRO) is put together again (see [`super::coalesce`]).
//!
//! # Invariants
//! - Frames of one flow leave through one socket, in order.
//! - Nothing is fragmented: don't-fragment is set, TCP is cut at the path's MTU, what may not be cut is `MtuExceeded`.
//! - The receiving socket is never connected: kernel VTEPs hash their source ports.
//!
//! # Attack
//! A datagram from a stranger costs a copy of its first bytes at most, and no look-up but the one that refuses it.
//!
//! # Notes
//! RFC 7348 §4.3 would have the outer checksum zero; Linux refuses GSO on a socket without checksums, and a device that can
//! checksum makes it for nothing. So it is there where GSO is, and zero where GSO is not. Either is taken on receipt; for
//! IPv6 that is RFC 6935's exception for tunnels.
//!
//! # References
//! RFC 7348, RFC 6935 §5, RFC 8899 §3. Linux: udp(7), ip(7) `IP_MTU_DISCOVER`.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, IoSlice},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use net::{
    DropReason, Gso, Headers, Packet, PacketPool,
    batch::BATCH,
    packet::{LARGE, SMALL},
};
use overlay::{
    GPE_PORT, NSH_HEADER,
    vxlan::{self, VXLAN_HEADER, VXLAN_PORT},
};
use rustix::{
    event::epoll,
    net::{AddressFamily, SocketFlags, SocketType},
};
use smallvec::SmallVec;

use super::{
    Refused, Rx, Tag, Tunnelled, Underlay, Unsent,
    coalesce::Coalescer,
    offload::{self, Segments},
    open,
    steering::Steering,
    sys::{self, Datagram, Name, Received},
    tagged,
};

/// Datagrams that one call receives.
const RECEIVE: usize = 16;
/// Segments of one GSO send: what every kernel that knows GSO takes (`UDP_MAX_SEGMENTS`).
const SEGMENTS: usize = 64;
/// Bytes of one GSO send: the largest UDP payload of IPv4.
pub(super) const SEND: usize = 65_507;
/// How long a path's MTU is believed: long enough to cost nothing, short enough to see a route change.
const PATH_LIFE: Duration = Duration::from_secs(30);
/// Paths that are remembered; past it they are all forgotten.
const PATHS: usize = 4096;
const ETHERNET: usize = 14;
const UDP: usize = 8;

/// What an underlay is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderlaySpec {
    /// This host's VTEP address.
    pub local: IpAddr,
    /// How datagrams are dealt to the workers, if several share it (`SO_REUSEPORT`): the sockets are opened in their order.
    pub shared: Option<Steering>,
    /// Sockets to send from: their ports are the entropy of the underlay's paths.
    pub senders: u16,
    /// Bytes that may wait in the kernel, to be received.
    pub receive_buffer: u32,
}

impl UnderlaySpec {
    /// The usual one on this address.
    pub fn new(local: IpAddr) -> Self {
        Self {
            local,
            shared: None,
            senders: 8,
            // 8 ms of 40 Gb/s, in the kernel's accounting about half of that.
            receive_buffer: 32 << 20,
        }
    }
}

/// Why the underlay could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// No device has that address.
    #[error("no interface of this host has the VTEP address {0}")]
    NoSuchAddress(IpAddr),
    /// Something else listens there.
    #[error(
        "UDP port {VXLAN_PORT} or {GPE_PORT} of {0} is taken (a kernel VXLAN device, or another switch)"
    )]
    PortTaken(IpAddr),
    /// The kernel refused something else.
    #[error("cannot open the underlay on {local}")]
    Kernel {
        /// The address.
        local: IpAddr,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

#[derive(Debug, Clone, Copy)]
struct Path {
    /// The largest IP packet, outer headers with it.
    mtu: usize,
    until: Instant,
}

/// A socket that receives from everybody.
#[derive(Debug)]
struct Inlet {
    socket: OwnedFd,
    buffers: Vec<Vec<u8>>,
    /// Received and not yet looked at: the buffer of each.
    waiting: VecDeque<(usize, Received)>,
}

impl Inlet {
    fn open(spec: &UnderlaySpec, chained: bool, gro: &mut bool) -> io::Result<Self> {
        let local = spec.local;
        let port = if chained { GPE_PORT } else { VXLAN_PORT };
        let socket = bind(SocketAddr::new(local, port), |socket| {
            if spec.shared.is_some() {
                sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
            }
            if local.is_ipv6() {
                prefer(socket, libc::SOL_UDP, libc::UDP_NO_CHECK6_RX, 1);
            }
            *gro &= prefer(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
            size_buffer(
                socket,
                libc::SO_RCVBUFFORCE,
                libc::SO_RCVBUF,
                spec.receive_buffer,
            );
            Ok(())
        })?;
        // Which worker is home to what is in NSH the kernel is not told: whoever reads it hands it over.
        if let Some(steering) = spec.shared.as_ref().filter(|_| !chained) {
            steering.of_sockets(socket.as_fd());
        }
        Ok(Self {
            socket,
            buffers: (0..RECEIVE).map(|_| vec![0; 1 << 16]).collect(),
            waiting: VecDeque::with_capacity(RECEIVE),
        })
    }

    /// Receives what there is, if nothing is left of the last time.
    fn fill(&mut self) -> Option<Rx> {
        if !self.waiting.is_empty() {
            return None;
        }
        let mut index = 0;
        let waiting = &mut self.waiting;
        let got = sys::receive_many(self.socket.as_fd(), &mut self.buffers, |received| {
            waiting.push_back((index, received));
            index += 1;
        });
        match got {
            Ok(_) => None,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Some(Rx::Drained),
            // Errors of single datagrams (a port unreachable) come this way; the socket itself does not break.
            Err(_) => Some(Rx::More),
        }
    }
}

/// VXLAN over UDP sockets of the kernel.
#[derive(Debug)]
pub struct UdpUnderlay {
    local: IpAddr,
    /// For VXLAN, and for the chain transport.
    inlets: [Inlet; 2],
    /// Both of their sockets, to wait for.
    epoll: OwnedFd,
    /// Whose turn it was to be read first.
    turn: bool,
    senders: Vec<OwnedFd>,
    /// The port of each.
    ports: Vec<u16>,
    /// Connected to one VTEP after the other, and never sent from: it tells the path's MTU.
    scout: OwnedFd,
    /// Does the kernel cut for us?
    gso: bool,
    coalescer: Coalescer<Tag>,
    paths: HashMap<IpAddr, Path>,
    plan: Plan,
}

fn bind(
    local: SocketAddr,
    prepare: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let family = if local.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    prepare(&socket)?;
    rustix::net::bind(&socket, &local)?;
    Ok(socket)
}

/// Sets an option that is an improvement, not a need: a kernel without it is said once.
fn prefer(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> bool {
    sys::set_option(socket.as_fd(), level, name, value).is_ok()
}

fn size_buffer(socket: &OwnedFd, forced: libc::c_int, name: libc::c_int, bytes: u32) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // Past the system's limit where we may, else up to it.
    if !prefer(socket, libc::SOL_SOCKET, forced, bytes) {
        prefer(socket, libc::SOL_SOCKET, name, bytes);
    }
}

impl UdpUnderlay {
    /// Opens the sockets in the calling thread's namespace.
    ///
    /// # Errors
    /// See [`UnderlayError`].
    pub fn open(spec: &UnderlaySpec) -> Result<Self, UnderlayError> {
        let local = spec.local;
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => UnderlayError::NoSuchAddress(local),
            Some(libc::EADDRINUSE) => UnderlayError::PortTaken(local),
            _ => UnderlayError::Kernel { local, source },
        };
        let mut gro = true;
        let inlets = [
            Inlet::open(spec, false, &mut gro).map_err(failed)?,
            Inlet::open(spec, true, &mut gro).map_err(failed)?,
        ];
        let epoll = wait_for(&inlets).map_err(failed)?;
        let mut gso = true;
        let senders = (0..spec.senders.max(1))
            .map(|_| sender(local, &mut gso))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        if !gso || !gro {
            tracing::warn!(
                gso,
                gro,
                "this kernel's UDP lacks offloads; datagrams go one by one"
            );
        }
        let ports = senders.iter().map(port).collect::<Result<Vec<_>, _>>();
        let ports = ports.map_err(failed)?;
        let scout = bind(SocketAddr::new(local, 0), |_| Ok(())).map_err(failed)?;
        let underlay = Self {
            local,
            scout,
            inlets,
            epoll,
            turn: false,
            senders,
            ports,
            gso,
            coalescer: Coalescer::default(),
            paths: HashMap::new(),
            plan: Plan::default(),
        };
        if !gso {
            underlay.without_checksums();
        }
        Ok(underlay)
    }

    /// Does the kernel cut super-frames (UDP GSO)?
    pub fn has_gso(&self) -> bool {
        self.gso
    }

    fn without_checksums(&self) {
        for socket in &self.senders {
            if self.local.is_ipv4() {
                prefer(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1);
            } else {
                prefer(socket, libc::SOL_UDP, libc::UDP_NO_CHECK6_TX, 1);
            }
        }
    }

    fn outer(&self) -> usize {
        UDP + if self.local.is_ipv4() { 20 } else { 40 }
    }

    /// The largest UDP payload that the path to a VTEP takes whole.
    pub(super) fn room(&mut self, vtep: IpAddr, now: Instant) -> usize {
        let path = match self.paths.get(&vtep) {
            Some(path) if path.until > now => *path,
            _ => self.learn(vtep, now),
        };
        self.room_of(path)
    }

    /// The same, asked of the kernel anew.
    pub(super) fn learn_room(&mut self, vtep: IpAddr, now: Instant) -> usize {
        let path = self.learn(vtep, now);
        self.room_of(path)
    }

    fn room_of(&self, path: Path) -> usize {
        path.mtu.saturating_sub(self.outer()).min(SEND)
    }

    /// How many ports there are to send from.
    pub(super) fn source_ports(&self) -> u16 {
        u16::try_from(self.senders.len()).unwrap_or(1)
    }

    /// The UDP port of a sending socket.
    pub(super) fn source_port(&self, slot: u16) -> Option<u16> {
        self.ports.get(usize::from(slot)).copied()
    }

    /// The receiving sockets.
    pub(super) fn receivers(&self) -> [BorrowedFd<'_>; 2] {
        self.inlets.each_ref().map(|inlet| inlet.socket.as_fd())
    }

    /// Asks the kernel for a path's MTU.
    fn learn(&mut self, vtep: IpAddr, now: Instant) -> Path {
        let path = Path {
            // Where it can't be told, sending will.
            mtu: path_mtu(&self.scout, vtep).unwrap_or(usize::from(u16::MAX)),
            until: now + PATH_LIFE,
        };
        if self.paths.len() >= PATHS {
            self.paths.clear();
        }
        self.paths.insert(vtep, path);
        path
    }
}

/// One descriptor for both sockets.
fn wait_for(inlets: &[Inlet; 2]) -> io::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for inlet in inlets {
        let none = epoll::EventData::new_u64(0);
        epoll::add(&epoll, &inlet.socket, none, epoll::EventFlags::IN)?;
    }
    Ok(epoll)
}

/// The port that the kernel chose.
fn port(socket: &OwnedFd) -> io::Result<u16> {
    let address = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
    Ok(address.port())
}

fn sender(local: IpAddr, gso: &mut bool) -> io::Result<OwnedFd> {
    let prepare = |socket: &OwnedFd| {
        let (level, name) = if local.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
        };
        // Two is IP_PMTUDISC_DO and IPV6_PMTUDISC_DO: never fragment, refuse what is larger than the path.
        sys::set_option(socket.as_fd(), level, name, 2)?;
        size_buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, 8 << 20);
        // Nobody has business there: keep what is sent to this port from taking memory.
        prefer(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 0);
        // A per-socket segment size proves that the kernel knows the option; zero turns it off again.
        *gso &= set_segment(socket, 1000).is_ok() && set_segment(socket, 0).is_ok();
        Ok(())
    };
    bind(SocketAddr::new(local, 0), prepare)
}

/// What the kernel knows of the path's MTU to a VTEP: a connected socket tells.
fn path_mtu(scout: &OwnedFd, vtep: IpAddr) -> io::Result<usize> {
    rustix::net::connect(scout, &SocketAddr::new(vtep, VXLAN_PORT))?;
    let mtu = if vtep.is_ipv4() {
        sys::option(scout.as_fd(), libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        sys::option(scout.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU)
    }?;
    usize::try_from(mtu).or(Err(io::ErrorKind::InvalidData.into()))
}

/// The MTU of the route from a VTEP address to another: what agents report and check networks against.
///
/// # Errors
/// When there is no route, or the address is not this host's.
pub fn underlay_mtu(local: IpAddr, vtep: IpAddr) -> io::Result<u32> {
    let scout = bind(SocketAddr::new(local, 0), |_| Ok(()))?;
    path_mtu(&scout, vtep).map(|m| u32::try_from(m).unwrap_or(u32::MAX))
}

/// Has the kernel cut what a UDP socket sends into datagrams of `size` (0: no more).
///
/// # Errors
/// When the kernel does not know UDP GSO.
pub fn set_segment(socket: &impl AsFd, size: u16) -> io::Result<()> {
    sys::set_option(
        socket.as_fd(),
        libc::SOL_UDP,
        libc::UDP_SEGMENT,
        size.into(),
    )
}

// ---- receiving ---------------------------------------------------------------------------------------------------

impl UdpUnderlay {
    /// Takes one received datagram apart.
    fn take(
        &mut self,
        pool: &mut PacketPool,
        (chained, index, received): (bool, usize, Received),
        (admit, now): (&dyn Fn(IpAddr) -> bool, Instant),
        out: &mut Vec<Tunnelled>,
        refused: &mut Refused,
    ) {
        let from = received.from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let verdict = match (admit(from), received.truncated) {
            (false, _) => Err(DropReason::UnknownVtep),
            (true, true) if chained => Err(DropReason::MalformedNsh),
            (true, true) => Err(DropReason::MalformedVxlan),
            // A small one was never left uncut; for the others the path says what its sender could have cut.
            (true, false) if received.len <= SMALL => Ok(SEND),
            (true, false) => Ok(self.room(from, now)),
        };
        let [plain, chain] = &self.inlets;
        let inlet = if chained { chain } else { plain };
        let Some(bytes) = inlet.buffers.get(index).and_then(|b| b.get(..received.len)) else {
            return;
        };
        let room = match verdict {
            Ok(room) => room,
            Err(reason) => return refuse(pool, bytes, reason, refused),
        };
        let outer = if chained { NSH_HEADER } else { VXLAN_HEADER };
        let limit = room.saturating_sub(outer + ETHERNET);
        let size = match received.segment {
            Some(size) if chained || !is_one_frame(bytes, size) => size.into(),
            _ => LARGE + outer,
        };
        let hint = received.segment.filter(|_| size > LARGE);
        let mut emit = |packet: Packet, tag| out.push(tagged(packet, tag));
        for datagram in bytes.chunks(size.max(1)) {
            match open(datagram, from, chained) {
                Ok((tag, frame)) => {
                    let path = (limit, hint);
                    if self
                        .coalescer
                        .push(pool, frame, tag, path, &mut emit)
                        .is_err()
                    {
                        // `rx` made sure that there are packets: only a frame larger than any buffer ends here.
                        refuse(pool, frame, DropReason::MalformedEthernet, refused);
                    }
                }
                Err(reason) => refuse(pool, datagram, reason, refused),
            }
        }
    }

    /// Takes apart what one socket has.
    fn rx_by(
        &mut self,
        chained: bool,
        pool: &mut PacketPool,
        (admit, now): (&dyn Fn(IpAddr) -> bool, Instant),
        out: &mut Vec<Tunnelled>,
        refused: &mut Refused,
    ) -> Rx {
        let at = usize::from(chained);
        let Some(inlet) = self.inlets.get_mut(at) else {
            return Rx::Gone;
        };
        if let Some(end) = inlet.fill() {
            return end;
        }
        let full = inlet.waiting.len() == RECEIVE;
        let mut end = if full { Rx::More } else { Rx::Drained };
        while let Some(&(index, received)) =
            self.inlets.get(at).and_then(|inlet| inlet.waiting.front())
        {
            if out.len() >= BATCH {
                end = Rx::More;
                break;
            }
            let size = usize::from(received.segment.unwrap_or(u16::MAX)).max(1);
            let (small, large) = pool.available();
            if small <= received.len.div_ceil(size) || large < 2 {
                end = Rx::Starved;
                break;
            }
            if let Some(inlet) = self.inlets.get_mut(at) {
                inlet.waiting.pop_front();
            }
            self.take(pool, (chained, index, received), (admit, now), out, refused);
        }
        end
    }
}

/// A train's mark may also be that of an inner super-frame which a kernel VTEP on this machine never cut: then the frame
/// is as long as the whole datagram says.
fn is_one_frame(bytes: &[u8], size: u16) -> bool {
    bytes.len() > size.into()
        && vxlan::split(bytes).is_ok_and(|(_, frame)| {
            Headers::parse(frame)
                .is_ok_and(|(h, _)| h.l3 != net::L3::Other && h.end as usize == frame.len())
        })
}

/// Returns the first bytes of what is refused.
pub(super) fn refuse(
    pool: &mut PacketPool,
    bytes: &[u8],
    reason: DropReason,
    refused: &mut Refused,
) {
    if let Some(mut packet) = pool.take_small() {
        let head = bytes.get(..SMALL).unwrap_or(bytes);
        if packet.fill(head).is_ok() {
            refused.push((packet, reason));
        }
    }
}

// ---- sending -----------------------------------------------------------------------------------------------------

/// Frames up to this size are copied behind their headers: the kernel takes longer over two more parts of a message.
const COPIED: usize = 512;

/// One segment to send: its headers in the arena, its payload in its frame, or behind the headers if that is empty.
#[derive(Debug, Clone)]
struct Piece {
    head: Range<usize>,
    frame: usize,
    payload: Range<usize>,
}

/// One message for the kernel: pieces of one size, the last may be shorter.
#[derive(Debug, Clone)]
struct Message {
    pieces: Range<usize>,
    size: usize,
    bytes: usize,
    /// The last piece was shorter: nothing may follow.
    ended: bool,
    company: Company,
}

/// With whose segments one message may carry a segment.
///
/// The receiver deals a whole message to the worker of its first flow. What of it belongs elsewhere is handed over, and comes behind
/// later segments of its own flow that went to their worker at once. TCP takes that for loss, so only what may be passed by goes with
/// others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Company {
    /// Its own flow's.
    Flow(u32),
    /// Every flow's: an acknowledgement alone is as good as a later one.
    Acknowledgements,
}

impl Company {
    fn of(flow: u32, packet: &Packet) -> Self {
        let headers = packet.headers();
        let bare = headers.l4 == net::L4::Tcp && u32::from(headers.payload_at) == headers.end;
        let flags = packet.key().tcp_flags & (TCP_ACK | TCP_MARKS);
        if bare && flags == TCP_ACK {
            Self::Acknowledgements
        } else {
            Self::Flow(flow)
        }
    }
}

/// The flag of an acknowledgement (RFC 9293 §3.1).
const TCP_ACK: u16 = 0x10;
/// The flags that say more: FIN, SYN, RST and URG.
const TCP_MARKS: u16 = 0x27;

/// What became of a frame.
#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    segments: u32,
    sent: u32,
    refused: Option<DropReason>,
}

/// When a frame is sent: as the fields say, first to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    vtep: IpAddr,
    /// To which UDP port.
    port: u16,
    sender: u16,
    flow: u32,
    /// Its place in the call: frames of one flow stay in order.
    frame: usize,
}

/// What is to be sent from one call, kept for its memory.
#[derive(Debug, Default)]
struct Plan {
    /// Frames in the order of their lanes, each flow's together.
    order: Vec<Turn>,
    arena: Vec<u8>,
    pieces: Vec<Piece>,
    messages: Vec<Message>,
    fates: Vec<Fate>,
}

impl Plan {
    /// Adds the segments of a frame; TCP finer than asked where `room` demands it.
    fn add(&mut self, turn: Turn, tunnelled: &mut Tunnelled, room: usize, most: usize) {
        let frame = turn.frame;
        let company = Company::of(turn.flow, &tunnelled.packet);
        let refuse = |plan: &mut Self, reason| {
            if let Some(fate) = plan.fates.get_mut(frame) {
                fate.refused = Some(reason);
            }
        };
        let header = tunnelled.outer();
        let before = header.len();
        let packet = &mut tunnelled.packet;
        let mut open = packet.offload();
        let whole = before + packet.len();
        if open.gso == Gso::None && whole <= room {
            let headers = *packet.headers();
            offload::finish(packet.bytes_mut(), &headers, &mut open);
            packet.set_offload(open);
            let from = self.arena.len();
            self.arena.extend_from_slice(&header);
            let mut payload = 0..packet.len();
            if packet.len() <= COPIED {
                self.arena.extend_from_slice(packet.bytes());
                payload.end = 0;
            }
            self.piece(from..self.arena.len(), frame, payload, (most, company));
            return;
        }
        let headers = *packet.headers();
        let limit = room.saturating_sub(before + usize::from(headers.payload_at));
        let mut segments = match Segments::new(packet.bytes(), &headers, &open, limit) {
            Ok(segments) => segments,
            Err(reason) => return refuse(self, reason),
        };
        let mut at = usize::from(headers.payload_at);
        loop {
            let head = self.arena.len()..self.arena.len() + before + segments.header_len();
            self.arena.resize(head.end, 0);
            let Some((outer, inner)) = self
                .arena
                .get_mut(head.clone())
                .and_then(|h| h.split_at_mut_checked(before))
            else {
                return;
            };
            outer.copy_from_slice(&header);
            let Some(payload) = segments.next_into(inner) else {
                self.arena.truncate(head.start);
                return;
            };
            let len = payload.len();
            self.piece(head, frame, at..at + len, (most, company));
            at += len;
        }
    }

    /// Adds a piece to the last message where it fits it, else to one of its own.
    fn piece(
        &mut self,
        head: Range<usize>,
        frame: usize,
        payload: Range<usize>,
        (most, company): (usize, Company),
    ) {
        let len = head.len() + payload.len();
        let index = self.pieces.len();
        self.pieces.push(Piece {
            head,
            frame,
            payload,
        });
        match self.messages.last_mut() {
            Some(last)
                if !last.ended
                    && last.company == company
                    && len <= last.size
                    && last.pieces.len() < most
                    && last.bytes + len <= SEND =>
            {
                last.pieces.end = index + 1;
                last.bytes += len;
                last.ended = len < last.size;
            }
            _ => self.messages.push(Message {
                pieces: index..index + 1,
                size: len,
                bytes: len,
                ended: false,
                company,
            }),
        }
    }

    fn clear(&mut self) {
        self.arena.clear();
        self.pieces.clear();
        self.messages.clear();
    }

    /// Sends messages from `done` on, as many as one call takes. Says how many went out, and whether the first was for the kernel to cut.
    fn send(
        &self,
        frames: &[Tunnelled],
        to: &Name,
        socket: BorrowedFd<'_>,
        done: usize,
    ) -> (io::Result<usize>, bool) {
        let mut parts: SmallVec<[IoSlice<'_>; 2 * SEGMENTS]> = SmallVec::new();
        let mut ranges: SmallVec<[Range<usize>; sys::CALL]> = SmallVec::new();
        let batch = self.messages.get(done..).unwrap_or_default();
        let batch = batch.get(..sys::CALL).unwrap_or(batch);
        for message in batch {
            let begin = parts.len();
            // What lies in the arena without a gap is one part.
            let mut run = 0..0;
            for piece in self.pieces.get(message.pieces.clone()).unwrap_or_default() {
                if run.end == piece.head.start {
                    run.end = piece.head.end;
                } else {
                    push(&mut parts, self.arena.get(run));
                    run = piece.head.clone();
                }
                if !piece.payload.is_empty() {
                    push(&mut parts, self.arena.get(run));
                    let body = frames.get(piece.frame).map(|f| f.packet.bytes());
                    push(&mut parts, body.and_then(|b| b.get(piece.payload.clone())));
                    run = 0..0;
                }
            }
            push(&mut parts, self.arena.get(run));
            ranges.push(begin..parts.len());
        }
        let datagrams: SmallVec<[Datagram<'_>; sys::CALL]> = batch
            .iter()
            .zip(&ranges)
            .map(|(message, range)| Datagram {
                to,
                segment: if message.pieces.len() > 1 {
                    offload::field(message.size)
                } else {
                    0
                },
                parts: parts.get(range.clone()).unwrap_or_default(),
            })
            .collect();
        let gso = datagrams.first().is_some_and(|d| d.segment > 0);
        (sys::send_many(socket, &datagrams), gso)
    }

    /// From which place of `lane` to plan anew when sending stopped at a message: the first frame of it. One that went out in part
    /// is passed over, since cut again it would begin anew.
    fn resume(&mut self, lane: Range<usize>, message: usize) -> Option<usize> {
        let piece = self.pieces.get(self.messages.get(message)?.pieces.start)?;
        let frame = piece.frame;
        let mut places = lane.clone();
        let mut place = places.find(|at| self.order.get(*at).is_some_and(|o| o.frame == frame))?;
        let fate = self.fates.get_mut(frame)?;
        if fate.sent > 0 {
            fate.refused = Some(DropReason::UnderlaySend);
            place += 1;
        }
        for at in place..lane.end {
            let index = self.order.get(at).map(|o| o.frame);
            if let Some(fate) = index.and_then(|i| self.fates.get_mut(i)) {
                fate.refused = None;
            }
        }
        Some(place)
    }

    /// Says of a message's frames that they went out, or why not.
    fn settle(&mut self, message: usize, result: Result<(), DropReason>) {
        let Some(message) = self.messages.get(message) else {
            return;
        };
        for piece in self.pieces.get(message.pieces.clone()).unwrap_or_default() {
            if let Some(fate) = self.fates.get_mut(piece.frame) {
                match result {
                    Ok(()) => fate.sent += 1,
                    Err(reason) => fate.refused = Some(reason),
                }
            }
        }
    }
}

/// Adds a part of a message, unless it is empty.
fn push<'a>(parts: &mut SmallVec<[IoSlice<'a>; 2 * SEGMENTS]>, part: Option<&'a [u8]>) {
    if let Some(part) = part.filter(|p| !p.is_empty()) {
        parts.push(IoSlice::new(part));
    }
}

/// Why a message did not go out, and what to do about it.
enum Refusal {
    /// The path takes less than was believed.
    TooLarge,
    /// The kernel does not cut on this path.
    NoGso,
    /// The socket's buffer is full.
    Full,
    /// Nothing helps.
    Lost,
}

fn refusal(error: &io::Error, gso: bool) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => Refusal::TooLarge,
        Some(libc::EINVAL | libc::EIO | libc::EOPNOTSUPP) if gso => Refusal::NoGso,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR) => Refusal::Full,
        _ => Refusal::Lost,
    }
}

impl UdpUnderlay {
    /// Sends the frames of one lane (one VTEP, one socket), from `order`.
    fn send_lane(&mut self, frames: &mut [Tunnelled], lane: Range<usize>, now: Instant) {
        let Some(&Turn {
            vtep, port, sender, ..
        }) = self.plan.order.get(lane.start)
        else {
            return;
        };
        let mut room = self.room(vtep, now);
        let mut first = lane.start;
        // Each refusal that may be mended is mended once a call: the path is asked anew, or GSO given up.
        for _ in 0..3 {
            self.plan.clear();
            let most = if self.gso { SEGMENTS } else { 1 };
            for at in first..lane.end {
                let Some(&turn) = self.plan.order.get(at) else {
                    continue;
                };
                if let Some(frame) = frames.get_mut(turn.frame) {
                    self.plan.add(turn, frame, room, most);
                }
            }
            let Some((stopped, refusal)) = self.send_plan(frames, (vtep, port), sender) else {
                return;
            };
            let mended = match refusal {
                Refusal::TooLarge => {
                    let was = room;
                    self.paths.remove(&vtep);
                    room = self.room(vtep, now);
                    room < was
                }
                Refusal::NoGso => {
                    tracing::warn!(%vtep, "the underlay refuses UDP GSO; datagrams go one by one");
                    self.gso = false;
                    self.without_checksums();
                    true
                }
                Refusal::Full | Refusal::Lost => false,
            };
            match self.plan.resume(first..lane.end, stopped) {
                Some(place) if mended => first = place,
                _ => {
                    let reason = match refusal {
                        Refusal::TooLarge => DropReason::MtuExceeded,
                        Refusal::NoGso | Refusal::Full | Refusal::Lost => DropReason::UnderlaySend,
                    };
                    for message in stopped..self.plan.messages.len() {
                        self.plan.settle(message, Err(reason));
                    }
                    return;
                }
            }
        }
        for at in first..lane.end {
            let index = self.plan.order.get(at).map(|o| o.frame);
            if let Some(fate) = index.and_then(|i| self.plan.fates.get_mut(i)) {
                fate.refused = Some(DropReason::UnderlaySend);
            }
        }
    }

    /// Sends what is planned; says at which message it stopped for good, and why.
    fn send_plan(
        &mut self,
        frames: &[Tunnelled],
        (vtep, port): (IpAddr, u16),
        sender: u16,
    ) -> Option<(usize, Refusal)> {
        let to = Name::from(SocketAddr::new(vtep, port));
        let socket = self.senders.get(usize::from(sender))?.as_fd();
        let plan = &mut self.plan;
        let mut done = 0;
        let mut waited = false;
        while done < plan.messages.len() {
            let (result, gso) = plan.send(frames, &to, socket, done);
            match result {
                Ok(sent) => {
                    for message in done..done + sent {
                        plan.settle(message, Ok(()));
                    }
                    done += sent;
                    waited = false;
                }
                Err(error) => match refusal(&error, gso) {
                    Refusal::Full if !waited => {
                        waited = true;
                        wait_for_room(socket);
                    }
                    Refusal::Lost | Refusal::Full => {
                        plan.settle(done, Err(DropReason::UnderlaySend));
                        done += 1;
                    }
                    mendable @ (Refusal::TooLarge | Refusal::NoGso) => {
                        return Some((done, mendable));
                    }
                },
            }
        }
        None
    }
}

/// Gives the device a millisecond to take what is queued: less is lost in a burst, and nobody waits long behind a dead one.
pub(super) fn wait_for_room(socket: BorrowedFd<'_>) {
    let mut fds = [rustix::event::PollFd::new(
        &socket,
        rustix::event::PollFlags::OUT,
    )];
    let most = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    if rustix::event::poll(&mut fds, Some(&most)).is_err() {
        // The next send tells.
    }
}

impl Underlay for UdpUnderlay {
    fn rx(
        &mut self,
        pool: &mut PacketPool,
        admit: &dyn Fn(IpAddr) -> bool,
        out: &mut Vec<Tunnelled>,
        refused: &mut Refused,
    ) -> Rx {
        let now = Instant::now();
        let by = (admit, now);
        // Each goes first in turn: a flood on one port leaves the other its share.
        self.turn = !self.turn;
        let first = self.rx_by(self.turn, pool, by, out, refused);
        let second = self.rx_by(!self.turn, pool, by, out, refused);
        self.coalescer
            .flush(&mut |packet, tag| out.push(tagged(packet, tag)));
        match (first, second) {
            (Rx::Starved, _) | (_, Rx::Starved) => Rx::Starved,
            (Rx::Drained, Rx::Drained) => Rx::Drained,
            (Rx::Gone, _) | (_, Rx::Gone) => Rx::Gone,
            (Rx::More, _) | (_, Rx::More) => Rx::More,
        }
    }

    fn tx(
        &mut self,
        pool: &mut PacketPool,
        frames: &mut Vec<Tunnelled>,
        refused: &mut Vec<Unsent>,
    ) -> u64 {
        let (now, outer) = (Instant::now(), self.outer());
        let senders = self.source_ports();
        self.plan.order.clear();
        self.plan.fates.clear();
        for (index, frame) in frames.iter().enumerate() {
            let flow = overlay::entropy::flow(frame.packet.key());
            self.plan.order.push(Turn {
                vtep: frame.vtep,
                port: frame.port(),
                sender: overlay::entropy::slot_of(flow, senders),
                flow,
                frame: index,
            });
            self.plan.fates.push(Fate {
                segments: frame.packet.segments(),
                ..Fate::default()
            });
        }
        self.plan.order.sort_unstable();
        let mut begin = 0;
        while let Some(&Turn {
            vtep, port, sender, ..
        }) = self.plan.order.get(begin)
        {
            let rest = self.plan.order.get(begin..).unwrap_or_default();
            let len = rest
                .iter()
                .take_while(|turn| (turn.vtep, turn.port, turn.sender) == (vtep, port, sender))
                .count();
            self.send_lane(frames, begin..begin + len, now);
            begin += len;
        }
        let mut sent = 0;
        for (mut frame, fate) in frames.drain(..).zip(&self.plan.fates) {
            match fate.refused {
                None => {
                    sent += u64::from(fate.segments);
                    pool.give(frame.packet);
                }
                Some(reason) => {
                    // What is left of it counts as refused: shorten it by what went out.
                    let went = fate.sent.min(fate.segments.saturating_sub(1));
                    if went > 0 {
                        let left = shorten(&frame.packet, went);
                        if frame.packet.set_len(left).is_ok() {
                            sent += u64::from(went);
                        }
                    }
                    let large = reason == DropReason::MtuExceeded;
                    let room = large.then(|| self.paths.get(&frame.vtep)).flatten();
                    let before = frame.outer().len();
                    let room =
                        room.and_then(|p| super::inner_room(p.mtu.saturating_sub(outer), before));
                    refused.push(Unsent {
                        frame,
                        reason,
                        room,
                    });
                }
            }
        }
        sent
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }
}

/// The length of a frame without `segments` of its segments.
fn shorten(packet: &Packet, segments: u32) -> usize {
    let size = match packet.offload().gso {
        Gso::None => 0,
        Gso::Tcp { size, .. } | Gso::Udp { size } => usize::from(size),
    };
    packet.len().saturating_sub(size * segments as usize)
}

#[cfg(test)]
mod tests;
