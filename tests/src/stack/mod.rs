//! What does a workload's own stack make of it?
//!
//! A [`Site`] is a [`Fabric`] with stacks behind its ports: smoltcp's ARP and ND, TCP with windows and retransmissions, UDP, pings and
//! a DHCP client. All of it runs by the fabric's virtual clock. What workloads do with their sockets is a closure, asked each time
//! that nothing else moves.
//!
//! # Map
//! - [`nic`]: between a stack and its port
//! - [`transfer`]: a connection that carries bytes both ways, and says whether they are the right ones
//! - [`lease`]: what a DHCP client was told
//!
//! # Invariants
//! The same plan, seed and closure give the same run, to the nanosecond.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use net::Now;
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::ChecksumCapabilities,
    socket::{AnySocket, dhcpv4, icmp, tcp, udp},
    time::Instant,
    wire::{
        EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr,
        IpCidr,
    },
};
use vswitch::io::memory::Frame;

use crate::{
    fabric::{Build, Fabric},
    plan::{Plan, PortUuid},
};

pub mod lease;
pub mod nic;
pub mod transfer;

pub use lease::Lease;
pub use transfer::{Transfer, step_all};

use nic::Nic;

/// What a TCP socket holds in each direction, in bytes: the window that its peer may fill.
pub const WINDOW: usize = 65_535;
/// Datagrams that a UDP socket holds in each direction.
const DATAGRAMS: usize = 256;
/// More rounds at one moment than any correct fabric needs: windows end every burst.
const ROUNDS: usize = 10_000;

/// When a stack is asked again that wants to be at once: at first, and at the latest.
const SOON: Duration = Duration::from_nanos(500);
const LATE: Duration = Duration::from_secs(1);

/// A socket of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// The workload's port.
    pub port: PortUuid,
    handle: SocketHandle,
}

/// The stack behind a port.
pub struct Stack {
    interface: Interface,
    nic: Nic,
    sockets: SocketSet<'static>,
    client: Option<SocketHandle>,
    lease: Option<Lease>,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stack with {:?}", self.interface.ip_addrs())
    }
}

/// smoltcp counts microseconds.
fn instant(now: Now) -> Instant {
    Instant::from_micros(i64::try_from(now.nanos() / 1000).unwrap())
}

impl Stack {
    fn new(plan: &Plan, port: PortUuid, now: Now, seed: u64) -> Self {
        let mut nic = Nic::new(plan.mtu(port));
        let mac = EthernetAddress(plan.mac(port).octets());
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        let [.., last] = *port.uuid().as_bytes();
        config.random_seed = seed.wrapping_mul(257) + u64::from(last);
        Self {
            interface: Interface::new(config, &mut nic, instant(now)),
            nic,
            sockets: SocketSet::new(vec![]),
            client: None,
            lease: None,
        }
    }

    fn add_addr(&mut self, addr: IpAddr, bits: u8) {
        let cidr = IpCidr::new(addr.into(), bits);
        self.interface
            .update_ip_addrs(|all| all.push(cidr).unwrap());
    }

    /// Everything that the stack can do now. Returns whether it did anything.
    fn poll(&mut self, now: Now) -> bool {
        let any = !self.nic.inbox.is_empty();
        let Self {
            interface,
            nic,
            sockets,
            ..
        } = self;
        interface.poll(instant(now), nic, sockets);
        let leased = self.client.is_some_and(|client| self.follow_lease(client));
        any || leased || !self.nic.outbox.is_empty()
    }

    fn follow_lease(&mut self, client: SocketHandle) -> bool {
        let socket = self.sockets.get_mut::<dhcpv4::Socket>(client);
        let next = match socket.poll() {
            None => return false,
            Some(dhcpv4::Event::Deconfigured) => None,
            Some(dhcpv4::Event::Configured(config)) => {
                let answers = self.lease.as_ref().map_or(0, |l| l.answers);
                Some(Lease::of(&config, answers + 1))
            }
        };
        self.interface.update_ip_addrs(|all| {
            all.retain(|cidr| matches!(cidr, IpCidr::Ipv6(_)));
            if let Some(lease) = &next {
                all.push(IpCidr::Ipv4(lease.address)).unwrap();
            }
        });
        let routes = self.interface.routes_mut();
        routes.remove_default_ipv4_route();
        if let Some(router) = next.as_ref().and_then(|l| l.router) {
            routes.add_default_ipv4_route(router).unwrap();
        }
        self.lease = next;
        true
    }

    fn next(&mut self, now: Now) -> Option<Now> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        Some(Now::from_nanos(micros.saturating_mul(1000)))
    }
}

/// A fabric with stacks behind its ports.
#[derive(Debug)]
pub struct Site {
    /// The switches and wires.
    pub fabric: Fabric,
    stacks: BTreeMap<PortUuid, Stack>,
    seed: u64,
    next_port: u16,
}

impl Site {
    /// All hosts of this plan, and a stack with its own addresses behind each port.
    pub fn new(plan: Plan, build: Build) -> Self {
        let ports: Vec<PortUuid> = plan.ports().map(|p| p.id).collect();
        let mut this = Self {
            fabric: Fabric::build(plan, build),
            stacks: BTreeMap::new(),
            seed: build.seed,
            next_port: 49_152,
        };
        for port in ports {
            this.boot(port);
        }
        this
    }

    /// Starts a port's workload anew, with static addresses.
    pub fn boot(&mut self, port: PortUuid) {
        let plan = &self.fabric.plan;
        let mut stack = Stack::new(plan, port, self.fabric.now(), self.seed);
        for fixed in &plan.get(port).fixed_ips {
            stack.add_addr(fixed.addr, if fixed.addr.is_ipv6() { 64 } else { 24 });
        }
        self.stacks.insert(port, stack);
    }

    /// Starts a port's workload anew, with its IPv6 addresses and a DHCP client.
    pub fn boot_with_dhcp(&mut self, port: PortUuid) {
        let plan = &self.fabric.plan;
        let mut stack = Stack::new(plan, port, self.fabric.now(), self.seed);
        for fixed in plan.get(port).fixed_ips.iter().filter(|f| f.addr.is_ipv6()) {
            stack.add_addr(fixed.addr, 64);
        }
        stack.client = Some(stack.sockets.add(lease::client()));
        self.stacks.insert(port, stack);
    }

    /// What a workload's DHCP client was told last; `None`: it has no lease.
    pub fn lease(&self, port: PortUuid) -> Option<&Lease> {
        self.stacks[&port].lease.as_ref()
    }

    /// When a workload received frames, and how long each was.
    pub fn arrivals(&self, port: PortUuid) -> &[(Now, u64)] {
        &self.stacks[&port].nic.arrivals
    }

    fn add(&mut self, port: PortUuid, socket: impl AnySocket<'static>) -> Socket {
        let handle = self.stacks.get_mut(&port).unwrap().sockets.add(socket);
        Socket { port, handle }
    }

    fn tcp_socket(&mut self, port: PortUuid) -> Socket {
        let buffer = || tcp::SocketBuffer::new(vec![0; WINDOW]);
        self.add(port, tcp::Socket::new(buffer(), buffer()))
    }

    /// A TCP socket.
    pub fn tcp(&mut self, socket: Socket) -> &mut tcp::Socket<'static> {
        let stack = self.stacks.get_mut(&socket.port).unwrap();
        stack.sockets.get_mut(socket.handle)
    }

    /// A UDP socket.
    pub fn udp(&mut self, socket: Socket) -> &mut udp::Socket<'static> {
        let stack = self.stacks.get_mut(&socket.port).unwrap();
        stack.sockets.get_mut(socket.handle)
    }

    /// A workload listens for one TCP connection.
    pub fn listen(&mut self, port: PortUuid, number: u16) -> Socket {
        let socket = self.tcp_socket(port);
        self.tcp(socket).listen(number).unwrap();
        socket
    }

    /// The socket of a workload that is connected with this port of a peer.
    pub fn accepted(&self, port: PortUuid, peer: u16) -> Option<Socket> {
        let sockets = self.stacks[&port].sockets.iter();
        let of_peer = |socket: &smoltcp::socket::Socket<'_>| match socket {
            smoltcp::socket::Socket::Tcp(tcp) => tcp.remote_endpoint().map(|r| r.port),
            _ => None,
        };
        let mut found = sockets.filter(|(_, socket)| of_peer(socket) == Some(peer));
        found.next().map(|(handle, _)| Socket { port, handle })
    }

    /// A workload begins a TCP connection.
    pub fn connect(&mut self, port: PortUuid, to: (IpAddr, u16)) -> Socket {
        let socket = self.tcp_socket(port);
        self.next_port += 1;
        let stack = self.stacks.get_mut(&port).unwrap();
        let tcp = stack.sockets.get_mut::<tcp::Socket>(socket.handle);
        tcp.connect(stack.interface.context(), to, self.next_port)
            .unwrap();
        socket
    }

    /// A workload opens a UDP socket.
    pub fn bind(&mut self, port: PortUuid, number: u16) -> Socket {
        let buffer = || {
            udp::PacketBuffer::new(
                vec![udp::PacketMetadata::EMPTY; DATAGRAMS],
                vec![0; 1 << 19],
            )
        };
        let socket = self.add(port, udp::Socket::new(buffer(), buffer()));
        self.udp(socket).bind(number).unwrap();
        socket
    }

    /// A workload pings an address up to four times, a second apart; how long the first answer took. smoltcp asks for one address a
    /// second, and forgets an echo reply whose receiver it has to ask for.
    pub fn ping(&mut self, port: PortUuid, to: IpAddr, ident: u16) -> Option<Duration> {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(ident)).unwrap();
        let socket = self.add(port, socket);
        let took = (0..4).find_map(|_| self.ping_once(socket, to, ident));
        let stack = self.stacks.get_mut(&port).unwrap();
        stack.sockets.remove(socket.handle);
        took
    }

    fn ping_once(&mut self, at: Socket, to: IpAddr, ident: u16) -> Option<Duration> {
        let begun = self.fabric.now();
        let stack = self.stacks.get_mut(&at.port).unwrap();
        let own = stack.interface.get_source_address(&to.into())?;
        let message = echo(own.into(), to, ident);
        self.icmp(at).send_slice(&message, to.into()).unwrap();
        let answered = self.run(Duration::from_secs(1), |site| site.icmp(at).can_recv());
        let took = self.fabric.now() - begun;
        answered.then(|| {
            let (reply, from) = self.icmp(at).recv().unwrap();
            assert_eq!(IpAddr::from(from), to, "who was asked answers");
            assert_eq!(reply[4..], message[4..], "the answer is the question");
            took
        })
    }

    fn icmp(&mut self, socket: Socket) -> &mut icmp::Socket<'static> {
        let stack = self.stacks.get_mut(&socket.port).unwrap();
        stack.sockets.get_mut(socket.handle)
    }

    /// Lets stacks, switches and wires do what they can at this moment. Returns whether anything was done.
    fn exchange(&mut self) -> bool {
        let Self { fabric, stacks, .. } = self;
        fabric.settle();
        for round in 0..ROUNDS {
            let mut any = false;
            for (&port, stack) in stacks.iter_mut() {
                for frame in fabric.receive_at(port) {
                    stack.nic.receive(frame, fabric.now());
                }
                any |= stack.poll(fabric.now());
                for bytes in stack.nic.outbox.drain(..) {
                    let frame = Frame {
                        bytes,
                        ..Frame::default()
                    };
                    fabric.inject(port, frame);
                }
            }
            if !any {
                return round > 0;
            }
            fabric.settle();
        }
        unreachable!("stacks talk for ever at one moment");
    }

    /// Runs until the closure says that it is done, asked each time that nothing else moves. `false`: the time was up before.
    pub fn run(&mut self, time: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.fabric.now() + time;
        let mut patience = SOON;
        loop {
            let moved = self.exchange();
            if done(self) {
                self.exchange();
                return true;
            }
            if moved {
                patience = SOON;
                continue;
            }
            let now = self.fabric.now();
            if now >= end {
                return false;
            }
            let stacks = self.stacks.values_mut().filter_map(|s| s.next(now)).min();
            let stacks = match stacks {
                // It wants this very moment, and did nothing with it. smoltcp also says so for ever when the one that it asked for
                // never answered: so each time it waits twice as long.
                Some(at) if at <= now => {
                    patience = (patience * 2).min(LATE);
                    Some(now + patience)
                }
                at => at,
            };
            let due = stacks.into_iter().chain(self.fabric.next_event());
            let next = due.min().unwrap_or(end).min(end);
            self.fabric.advance(next - now);
        }
    }

    /// Time passes.
    pub fn pass(&mut self, time: Duration) {
        self.run(time, |_| false);
    }
}

/// An echo request of 64 bytes.
fn echo(from: IpAddr, to: IpAddr, ident: u16) -> Vec<u8> {
    let data = [0x5a; 56];
    let mut bytes = vec![0; 64];
    let sums = ChecksumCapabilities::default();
    if let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) {
        let repr = Icmpv6Repr::EchoRequest {
            ident,
            seq_no: 1,
            data: &data,
        };
        let mut packet = Icmpv6Packet::new_unchecked(&mut bytes);
        repr.emit(&from, &to, &mut packet, &sums);
    } else {
        let repr = Icmpv4Repr::EchoRequest {
            ident,
            seq_no: 1,
            data: &data,
        };
        repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &sums);
    }
    bytes
}
