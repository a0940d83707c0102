//! Which system calls does safe Rust not know?
//!
//! The only `unsafe` of the switch: tun ioctls, socket options of the UDP offloads, `sendmmsg` and `recvmmsg` with
//! control messages, packet sockets, the loading of BPF programs, and the shared mapping of the connection tables. Each has a safe signature here; whatever `rustix`
//! offers safely (epoll, eventfd, readv, writev, setns) is used directly where it is needed.
//!
//! # Invariants
//! - Every pointer handed to the kernel points into memory that the caller's borrow keeps alive until the call returns.
//! - The kernel writes only into buffers that were lent mutably.
//!
//! # References
//! Linux: tun(4), udp(7) `UDP_SEGMENT` and `UDP_GRO`, packet(7), cmsg(3), bpf(2), netdevice(7).
#![expect(
    unsafe_code,
    reason = "the edge: system calls that no safe wrapper offers"
)]

use std::{
    fmt,
    io::{self, IoSlice},
    mem::{MaybeUninit, size_of, zeroed},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::{self, NonNull},
};

fn check(result: libc::c_int) -> io::Result<usize> {
    match usize::try_from(result) {
        Ok(done) => Ok(done),
        // Negative: the reason is in errno.
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn length<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

// ---- tun ---------------------------------------------------------------------------------------------------------

/// A request about the interface `name` (at most 15 bytes).
fn interface(name: &[u8]) -> libc::ifreq {
    // SAFETY: an ifreq is plain integers and bytes, for which zero is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(15).zip(name) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request
}

/// Binds an open `/dev/net/tun` to the interface `name` (at most 15 bytes), making it unless it is there. Says its name: where
/// `%d` was in it, the kernel chose a number.
pub(super) fn tun_attach(
    fd: BorrowedFd<'_>,
    name: &[u8],
    flags: libc::c_int,
) -> io::Result<String> {
    let mut request = interface(name);
    // The flags are 16 bits wide in the kernel's structure.
    request.ifr_ifru.ifru_flags = i16::from_ne_bytes(
        u16::try_from(flags)
            .or(Err(io::ErrorKind::InvalidInput))?
            .to_ne_bytes(),
    );
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives in this frame.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let name = request.ifr_name.map(libc::c_char::to_ne_bytes).concat();
    let name = name.split(|b| *b == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The MAC address of the interface `name`, in the namespace of a socket.
pub(super) fn mac_address(socket: BorrowedFd<'_>, name: &[u8]) -> io::Result<[u8; 6]> {
    let mut request = interface(name);
    // SAFETY: SIOCGIFHWADDR reads and writes one ifreq, which lives in this frame.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) })?;
    // SAFETY: the kernel wrote this member of the union, and any bytes are a value of it.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    let mac = address.sa_data.first_chunk::<6>();
    let mac = mac.ok_or(io::ErrorKind::InvalidData)?;
    Ok(mac.map(|byte| u8::from_ne_bytes(byte.to_ne_bytes())))
}

/// A tun ioctl that takes its argument by value (offloads, persistence).
pub(super) fn tun_set(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    value: libc::c_uint,
) -> io::Result<()> {
    // SAFETY: these requests take an integer and touch no memory of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, libc::c_ulong::from(value)) })?;
    Ok(())
}

/// A tun ioctl that reads its argument from memory (header size, byte order, send buffer).
pub(super) fn tun_set_by_pointer(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: these requests read one int, which lives in this frame.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const value) })?;
    Ok(())
}

// ---- programs of the kernel --------------------------------------------------------------------------------------

/// One instruction of a BPF program, as the kernel lays it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    /// What to do.
    pub(super) code: u8,
    /// To which register (low half), from which (high half).
    pub(super) registers: u8,
    /// How far to jump, or where to read.
    pub(super) offset: i16,
    /// With which number.
    pub(super) number: i32,
}

/// What `BPF_PROG_LOAD` reads, up to the program's name.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// What `BPF_LINK_CREATE` reads.
#[repr(C)]
struct Attach {
    program: u32,
    device: u32,
    kind: u32,
    flags: u32,
    anchor: u32,
    _padding: u32,
    revision: u64,
}

/// A bpf(2) call that makes a descriptor.
///
/// # Safety
/// `attributes` must be what `command` reads, and its pointers must hold until the call returns.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a borrowed value; the caller answers for what is in it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match libc::c_int::try_from(fd) {
        // SAFETY: the kernel made this descriptor for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel check a classifier of a device's packets and take it; `name` is for whoever lists programs.
pub(super) fn load_classifier(name: &[u8], program: &[Instruction]) -> io::Result<OwnedFd> {
    const CLASSIFIER: u32 = 3;
    load(CLASSIFIER, name, program)
}

/// The same of a program that reads a packet and returns a number.
pub(super) fn load_socket_filter(name: &[u8], program: &[Instruction]) -> io::Result<OwnedFd> {
    const SOCKET_FILTER: u32 = 1;
    load(SOCKET_FILTER, name, program)
}

fn load(kind: u32, name: &[u8], program: &[Instruction]) -> io::Result<OwnedFd> {
    const LOAD: libc::c_long = 5;
    let mut load = Load {
        kind,
        count: u32::try_from(program.len()).or(Err(io::ErrorKind::InvalidInput))?,
        instructions: program.as_ptr().expose_provenance() as u64,
        license: c"Apache-2.0".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
    };
    for (to, from) in load.name.iter_mut().take(15).zip(name) {
        *to = *from;
    }
    // SAFETY: that is what BPF_PROG_LOAD reads; the program is borrowed, the license is static.
    unsafe { bpf(LOAD, &load) }
}

/// Runs a program on what a device receives, before what else is asked there, for as long as the descriptor that is returned
/// stays open.
pub(super) fn attach_ingress(program: BorrowedFd<'_>, device: u32) -> io::Result<OwnedFd> {
    const LINK: libc::c_long = 28;
    const TCX_INGRESS: u32 = 46;
    let attach = Attach {
        program: u32::try_from(program.as_raw_fd()).or(Err(io::ErrorKind::InvalidInput))?,
        device,
        kind: TCX_INGRESS,
        flags: 0,
        anchor: 0,
        _padding: 0,
        revision: 0,
    };
    // SAFETY: that is what BPF_LINK_CREATE reads; it holds no pointers.
    unsafe { bpf(LINK, &attach) }
}

// ---- socket options ----------------------------------------------------------------------------------------------

/// Sets an integer socket option.
pub(super) fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads `length` bytes of one int in this frame.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length::<libc::c_int>(),
        )
    })?;
    Ok(())
}

/// Reads an integer socket option.
pub(super) fn option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<libc::c_int> {
    let (mut value, mut len) = (0, length::<libc::c_int>());
    // SAFETY: the kernel writes at most `len` bytes into one int in this frame.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    })?;
    Ok(value)
}

// ---- datagrams ---------------------------------------------------------------------------------------------------

/// The most datagrams that one call moves.
pub(super) const CALL: usize = 32;

/// A socket address as the kernel lays it out (`sockaddr_in`, `sockaddr_in6`).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub(super) struct Name {
    bytes: [u8; 32],
    len: u32,
}

impl From<SocketAddr> for Name {
    fn from(address: SocketAddr) -> Self {
        let mut bytes = [0u8; 32];
        let family = match address {
            SocketAddr::V4(_) => libc::AF_INET,
            SocketAddr::V6(_) => libc::AF_INET6,
        };
        let family = u16::try_from(family).unwrap_or(0).to_ne_bytes();
        let port = address.port().to_be_bytes();
        let mut put = |at: usize, from: &[u8]| {
            for (to, from) in bytes.iter_mut().skip(at).zip(from) {
                *to = *from;
            }
        };
        put(0, &family);
        put(2, &port);
        let len = match address {
            SocketAddr::V4(v4) => {
                put(4, &v4.ip().octets());
                length::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                put(8, &v6.ip().octets());
                put(24, &v6.scope_id().to_ne_bytes());
                length::<libc::sockaddr_in6>()
            }
        };
        Self { bytes, len }
    }
}

impl Name {
    const EMPTY: Self = Self {
        bytes: [0; 32],
        len: 0,
    };

    /// The address in it; `None` for another family.
    fn ip(&self) -> Option<IpAddr> {
        let [f0, f1, _, _, a0, a1, a2, a3, v6 @ ..] = self.bytes;
        match libc::c_int::from(u16::from_ne_bytes([f0, f1])) {
            libc::AF_INET => Some(Ipv4Addr::new(a0, a1, a2, a3).into()),
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(*v6.first_chunk::<16>()?);
                Some(ip.to_ipv4_mapped().map_or(ip.into(), Into::into))
            }
            _ => None,
        }
    }
}

const HEADER: usize = size_of::<libc::cmsghdr>();

/// Room for the control messages of one datagram, aligned as the kernel asks.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

impl Control {
    /// One `UDP_SEGMENT` message; its length is [`Control::SEGMENT`].
    fn segment(size: u16) -> Self {
        let mut bytes = [0; 64];
        let parts = [
            &(HEADER + 2).to_ne_bytes()[..],
            &libc::SOL_UDP.to_ne_bytes(),
            &libc::UDP_SEGMENT.to_ne_bytes(),
            &size.to_ne_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(parts.iter().copied().flatten()) {
            *to = *from;
        }
        Self(bytes)
    }

    const SEGMENT: usize = HEADER + size_of::<usize>();

    /// The segment size of a `UDP_GRO` message, if there is one among the first `len` bytes.
    fn gro(&self, len: usize) -> Option<u16> {
        let value = self.find(len, libc::SOL_UDP, libc::UDP_GRO)?;
        u16::try_from(i32::from_ne_bytes(*value.first_chunk()?)).ok()
    }

    /// The VLAN tag of a `PACKET_AUXDATA` message: protocol and control information.
    fn vlan(&self, len: usize) -> Option<(u16, u16)> {
        const VALID: u32 = libc::TP_STATUS_VLAN_VALID;
        let value = self.find(len, libc::SOL_PACKET, libc::PACKET_AUXDATA)?;
        let [
            s0,
            s1,
            s2,
            s3,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            c0,
            c1,
            p0,
            p1,
        ] = *value.first_chunk::<20>()?;
        let status = u32::from_ne_bytes([s0, s1, s2, s3]);
        let known = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        let protocol = u16::from_ne_bytes([p0, p1]);
        // Kernels that did not tell the protocol knew one only.
        let protocol = if known { protocol } else { 0x8100 };
        (status & VALID != 0).then_some((protocol, u16::from_ne_bytes([c0, c1])))
    }

    /// What follows the header of a message of this kind, if there is one among the first `len` bytes.
    fn find(&self, len: usize, of: libc::c_int, wanted: libc::c_int) -> Option<&[u8]> {
        let mut rest = self.0.get(..len)?;
        while let Some((total, after)) = rest.split_first_chunk::<{ size_of::<usize>() }>() {
            let total = usize::from_ne_bytes(*total);
            let (level, after) = after.split_first_chunk::<4>()?;
            let (kind, after) = after.split_first_chunk::<4>()?;
            if i32::from_ne_bytes(*level) == of && i32::from_ne_bytes(*kind) == wanted {
                return Some(after);
            }
            if total < HEADER {
                return None;
            }
            rest = rest.get(total.next_multiple_of(size_of::<usize>())..)?;
        }
        None
    }
}

/// One datagram, or one train of equal datagrams, to send.
#[derive(Debug)]
pub(super) struct Datagram<'a> {
    /// To whom.
    pub(super) to: &'a Name,
    /// The size at which the kernel is to cut it (UDP GSO); 0 for a single datagram.
    pub(super) segment: u16,
    /// Its bytes.
    pub(super) parts: &'a [IoSlice<'a>],
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.ip())
    }
}

/// Sends up to [`CALL`] datagrams in one call and says how many went out; the error is that of the first.
pub(super) fn send_many(fd: BorrowedFd<'_>, datagrams: &[Datagram<'_>]) -> io::Result<usize> {
    // Most calls send few: what is not used is not written.
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; CALL];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; CALL];
    let mut count: libc::c_uint = 0;
    for ((message, control), datagram) in messages.iter_mut().zip(&mut controls).zip(datagrams) {
        // SAFETY: an mmsghdr is plain integers and pointers, for which zero is a value.
        let header = &mut message.write(unsafe { zeroed() }).msg_hdr;
        header.msg_name = ptr::from_ref(&datagram.to.bytes).cast_mut().cast();
        header.msg_namelen = datagram.to.len;
        // An IoSlice is an iovec (its documentation promises the layout).
        header.msg_iov = datagram.parts.as_ptr().cast_mut().cast();
        header.msg_iovlen = datagram.parts.len();
        if datagram.segment > 0 {
            let control = control.write(Control::segment(datagram.segment));
            header.msg_control = ptr::from_mut(&mut control.0).cast();
            header.msg_controllen = Control::SEGMENT;
        }
        count += 1;
    }
    // SAFETY: the first `count` messages are written; names and parts are borrowed by `datagrams`, controls live in this frame,
    // and sending only reads what they point to.
    check(unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr().cast(),
            count,
            libc::MSG_DONTWAIT,
        )
    })
}

/// What one received datagram is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    /// Its bytes in the buffer of the same place.
    pub(super) len: usize,
    /// Who sent it.
    pub(super) from: Option<IpAddr>,
    /// It is a train of datagrams of this size (UDP GRO).
    pub(super) segment: Option<u16>,
    /// The buffer was too small for it.
    pub(super) truncated: bool,
}

/// Receives up to [`CALL`] datagrams, one into each buffer, without waiting, and tells `each` of them in order.
pub(super) fn receive_many<B: AsMut<[u8]>>(
    fd: BorrowedFd<'_>,
    buffers: &mut [B],
    mut each: impl FnMut(Received),
) -> io::Result<usize> {
    // SAFETY: an mmsghdr is plain integers and pointers, for which zero is a value.
    let mut messages: [libc::mmsghdr; CALL] = unsafe { zeroed() };
    // SAFETY: an iovec is a pointer and a length, for which zero is a value.
    let mut parts: [libc::iovec; CALL] = unsafe { zeroed() };
    let mut controls = [const { Control([0; 64]) }; CALL];
    let mut names = [Name::EMPTY; CALL];
    let mut count: libc::c_uint = 0;
    let slots = messages
        .iter_mut()
        .zip(&mut parts)
        .zip(&mut controls)
        .zip(&mut names);
    for ((((message, part), control), name), buffer) in slots.zip(buffers.iter_mut()) {
        let room = buffer.as_mut();
        part.iov_base = room.as_mut_ptr().cast();
        part.iov_len = room.len();
        let header = &mut message.msg_hdr;
        header.msg_name = ptr::from_mut(&mut name.bytes).cast();
        header.msg_namelen = length::<[u8; 32]>();
        header.msg_iov = part;
        header.msg_iovlen = 1;
        header.msg_control = ptr::from_mut(&mut control.0).cast();
        header.msg_controllen = control.0.len();
        count += 1;
    }
    // SAFETY: `count` messages are filled in; each points to its own name, control and buffer, all alive and not
    // otherwise borrowed until the call returns.
    let got = check(unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    })?;
    for ((message, control), name) in messages.iter().zip(&controls).zip(&names).take(got) {
        each(Received {
            len: message.msg_len as usize,
            from: name.ip(),
            segment: control.gro(message.msg_hdr.msg_controllen),
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        });
    }
    Ok(got)
}

// ---- packet sockets ----------------------------------------------------------------------------------------------

/// An instruction of a classic BPF program: what, where to if so, where to if not, with which number.
pub(super) type Filter = (u16, u8, u8, u32);

/// Has a socket be given only those frames that a classic BPF program takes.
pub(super) fn attach_filter(fd: BorrowedFd<'_>, program: &[Filter]) -> io::Result<()> {
    let mut instructions: Vec<_> = program
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    let program = libc::sock_fprog {
        len: libc::c_ushort::try_from(instructions.len()).or(Err(io::ErrorKind::InvalidInput))?,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the kernel reads one sock_fprog in this frame, and the instructions that it points to, which live as long.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length::<libc::sock_fprog>(),
        )
    })?;
    Ok(())
}

/// Binds a packet socket to a device: what it sends goes out there; with `receives`, it is given what the device receives.
pub(super) fn packet_bind(fd: BorrowedFd<'_>, device: u32, receives: bool) -> io::Result<()> {
    // SAFETY: a sockaddr_ll is plain integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    let number = |n: libc::c_int| u16::try_from(n).or(Err(io::ErrorKind::InvalidInput));
    address.sll_family = number(libc::AF_PACKET)?;
    if receives {
        address.sll_protocol = number(libc::ETH_P_ALL)?.to_be();
    }
    address.sll_ifindex = i32::try_from(device).or(Err(io::ErrorKind::InvalidInput))?;
    // SAFETY: the kernel reads one sockaddr_ll in this frame.
    check(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            length::<libc::sockaddr_ll>(),
        )
    })?;
    Ok(())
}

/// Has a device give up every frame that passes, for as long as the socket is open.
pub(super) fn packet_promiscuous(fd: BorrowedFd<'_>, device: u32) -> io::Result<()> {
    // SAFETY: a packet_mreq is plain integers, for which zero is a value.
    let mut request: libc::packet_mreq = unsafe { zeroed() };
    request.mr_ifindex = i32::try_from(device).or(Err(io::ErrorKind::InvalidInput))?;
    request.mr_type = u16::try_from(libc::PACKET_MR_PROMISC).unwrap_or_default();
    // SAFETY: the kernel reads one packet_mreq in this frame.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            length::<libc::packet_mreq>(),
        )
    })?;
    Ok(())
}

/// A frame that a packet socket gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketFrame {
    /// Its bytes, the virtio-net header with them.
    pub(super) len: usize,
    /// The VLAN tag that the kernel took from it: protocol and control information.
    pub(super) vlan: Option<(u16, u16)>,
    /// There was no room for all of it.
    pub(super) truncated: bool,
}

/// Receives a frame without waiting.
pub(super) fn packet_receive(
    fd: BorrowedFd<'_>,
    parts: &mut [io::IoSliceMut<'_>],
) -> io::Result<PacketFrame> {
    let mut control = Control([0; 64]);
    // SAFETY: a msghdr is plain integers and pointers, for which zero is a value.
    let mut header: libc::msghdr = unsafe { zeroed() };
    // An IoSliceMut is an iovec (its documentation promises the layout).
    header.msg_iov = parts.as_mut_ptr().cast();
    header.msg_iovlen = parts.len();
    header.msg_control = ptr::from_mut(&mut control.0).cast();
    header.msg_controllen = control.0.len();
    // SAFETY: the message points to the lent buffers and to a control of this frame, all alive and not otherwise borrowed
    // until the call returns.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let Ok(len) = usize::try_from(got) else {
        // Negative: the reason is in errno.
        return Err(io::Error::last_os_error());
    };
    Ok(PacketFrame {
        len,
        vlan: control.vlan(header.msg_controllen),
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
    })
}

// ---- shared memory -----------------------------------------------------------------------------------------------

/// A file mapped into memory, shared with the file, until dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone; nothing in it is tied to a thread.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference it is only read.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `fd`, which must be a regular file of at least that size that nobody shrinks.
    pub(super) fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        if len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes are mapped readable for as long as self lives, and this borrow excludes writers.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to change.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes are mapped writable for as long as self lives, and this borrow is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped, and no borrow of it outlives self.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::UdpSocket, os::fd::AsFd};

    #[test]
    fn a_name_is_read_back_as_it_was_written() {
        for ip in ["192.0.2.7", "2001:db8::7", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(Name::from(SocketAddr::new(ip, 4789)).ip(), Some(ip));
        }
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        let v4: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(Name::from(SocketAddr::new(mapped, 1)).ip(), Some(v4));
        assert_eq!(Name::EMPTY.ip(), None);
    }

    #[test]
    fn control_messages_that_lie_about_their_length_end_the_search() {
        let mut control = Control::segment(1400);
        assert_eq!(control.gro(Control::SEGMENT), None);
        control.0[..8].copy_from_slice(&3usize.to_ne_bytes());
        assert_eq!(control.gro(64), None);
        control.0[..8].copy_from_slice(&usize::MAX.to_ne_bytes()[..]);
        assert_eq!(control.gro(200), None);
    }

    #[test]
    fn a_train_goes_out_in_one_call_and_comes_back_whole() {
        let (sender, receiver) = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        set_option(receiver.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).unwrap();
        let to = Name::from(receiver.local_addr().unwrap());
        let (first, rest) = ([1u8; 100], [2u8; 250]);
        let parts = [IoSlice::new(&first), IoSlice::new(&rest)];
        let single = [IoSlice::new(b"alone")];
        let sent = send_many(
            sender.as_fd(),
            &[
                Datagram {
                    to: &to,
                    segment: 100,
                    parts: &parts,
                },
                Datagram {
                    to: &to,
                    segment: 0,
                    parts: &single,
                },
            ],
        )
        .unwrap();
        assert_eq!(sent, 2);
        let mut buffers = vec![vec![0u8; 65_535]; 4];
        let mut got = vec![];
        while got.iter().map(|r: &Received| r.len).sum::<usize>() < 355 {
            match receive_many(receiver.as_fd(), &mut buffers, |r| got.push(r)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                other => assert!(other.unwrap() > 0),
            }
        }
        assert_eq!((got[0].len, got[0].segment), (350, Some(100)));
        assert_eq!((got[1].len, got[1].segment), (5, None));
        assert!(got.iter().all(|r| !r.truncated && r.from.is_some()));
    }
}
