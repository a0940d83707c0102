//! What is sent once, and does it come back?

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    process::Command,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketFlags, SocketType, ipproto},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(100);
/// In the middle of a request that halts, and before the answer of a late server: longer than what a test has a proxy wait.
const PAUSE: Duration = Duration::from_millis(200);

/// A network namespace that a test made.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    /// Makes it. Its kernel asks for neighbours by the first address that it has, not by one that a test tries.
    pub fn new(name: &str) -> Self {
        ip(&["netns", "add", name]);
        let made = Self(name.into());
        made.set("ipv4/conf/all/arp_announce", "2");
        made
    }

    /// Sets a sysctl of its network.
    pub fn set(&self, sysctl: &str, value: &'static str) {
        let (name, file) = (self.0.clone(), format!("/proc/sys/net/{sysctl}"));
        let set = thread::spawn(move || {
            enter(&name);
            fs::write(&file, value).unwrap_or_else(|e| panic!("{file}: {e}"));
        });
        set.join().expect("it is set");
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Runs `ip` in it.
    pub fn ip(&self, args: &str) {
        let words = ["-n", &self.0].into_iter().chain(args.split_whitespace());
        ip(&words.collect::<Vec<_>>());
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.0]);
    }
}

fn ip(args: &[&str]) -> String {
    let done = Command::new("ip").args(args).output().expect("ip starts");
    if thread::panicking() {
        return String::new();
    }
    crate::netns::printed(&format!("ip {}", args.join(" ")), &done)
}

/// Moves this thread into a namespace.
pub(super) fn enter(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).expect("the namespace is there");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("may enter");
}

/// What is tried again and again.
#[derive(Debug, Clone)]
pub enum Probe {
    /// An echo request to an address, from one if it is named; all of a watch are one ICMP query to whoever tracks it.
    Ping(IpAddr, Option<IpAddr>),
    /// A connection of its own each time, over which a few bytes come back.
    Tcp(SocketAddr),
    /// Datagrams of one socket, each of which comes back.
    Udp(SocketAddr),
    /// A request over HTTP/1.1: what comes back has this text, letters of either case.
    Http(SocketAddr, Request),
    /// The same over TLS, from who shows a certificate of this name that the config trusts.
    Https(SocketAddr, Arc<ClientConfig>, &'static str, Request),
    /// A DHCP client's first word, over `eth0`; the offer holds what is wanted of it.
    Dhcp(Offer),
}

/// What is asked over HTTP, and what the answer must have in its head or body.
#[derive(Debug, Clone)]
pub struct Request {
    /// The path.
    pub path: &'static str,
    /// Lines of the head besides `Host`, each with its end.
    pub head: String,
    /// What is to be seen.
    pub sees: &'static str,
    /// How it is asked.
    pub how: How,
}

/// How something is asked over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// At once, and the answer must be as quick.
    AtOnce,
    /// At once; the answer may take a while.
    Patiently,
    /// The head in two pieces with a pause between them, in which nothing may be answered.
    Halting,
    /// While another connection is open, over which nothing is asked.
    Beside,
}

/// What an offer must hold.
#[derive(Debug, Clone, Copy)]
pub enum Offer {
    /// Anything.
    Any,
    /// This DNS server.
    Dns(Ipv4Addr),
    /// This router.
    Router(Ipv4Addr),
}

/// A probe with its sockets.
pub(super) struct Prober {
    probe: Probe,
    socket: Option<UdpSocket>,
    mac: EthernetAddress,
    sequence: u32,
}

impl Prober {
    /// In the namespace of the calling thread.
    pub(super) fn new(probe: Probe) -> Self {
        let socket = match &probe {
            Probe::Ping(to, from) => Some(echo_socket(*to, *from)),
            Probe::Udp(to) => {
                let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(any).unwrap();
                socket.connect(to).unwrap();
                Some(socket)
            }
            Probe::Dhcp(..) => {
                let socket = UdpSocket::bind("0.0.0.0:68").unwrap();
                socket.set_broadcast(true).unwrap();
                Some(socket)
            }
            Probe::Tcp(_) | Probe::Http(..) | Probe::Https(..) => None,
        };
        if let Some(socket) = &socket {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mac = hardware_address();
        Self {
            probe,
            socket,
            mac,
            sequence: 0,
        }
    }

    /// Tries once: did the answer come?
    pub(super) fn try_once(&mut self) -> bool {
        self.sequence += 1;
        let mark = self.sequence.to_be_bytes();
        match (&self.probe, &self.socket) {
            (Probe::Tcp(to), _) => over_tcp(*to, mark).is_ok(),
            (Probe::Http(to, request), _) => over_http(*to, request).unwrap_or(false),
            (Probe::Https(to, config, name, request), _) => {
                over_tls(*to, (config, name), request).unwrap_or(false)
            }
            (Probe::Dhcp(wanted), Some(socket)) => {
                offered(socket, self.mac, self.sequence, *wanted)
            }
            (Probe::Ping(to, _), Some(socket)) => {
                let kind = if to.is_ipv6() { 128 } else { 8 };
                let header = [kind, 0, 0, 0, 0, 0, mark[2], mark[3]];
                exchange(socket, &[&header[..], &mark].concat(), mark)
            }
            (_, Some(socket)) => exchange(socket, &mark, mark),
            (_, None) => unreachable!("only TCP has no socket of its own"),
        }
    }
}

/// Tries a probe once, in a namespace: did the answer come?
pub fn answers(namespace: &Namespace, probe: &Probe) -> bool {
    let (name, probe) = (namespace.name().to_owned(), probe.clone());
    let once = thread::spawn(move || {
        enter(&name);
        Prober::new(probe).try_once()
    });
    once.join().expect("it is tried")
}

/// Tries a probe once, in a namespace: as what does its kernel take the refusal? `None`: an answer came, or nothing did.
pub fn refusal(namespace: &Namespace, probe: &Probe) -> Option<ErrorKind> {
    let (name, probe) = (namespace.name().to_owned(), probe.clone());
    let once = thread::spawn(move || {
        enter(&name);
        let tried = match (&probe, Prober::new(probe.clone()).socket) {
            (Probe::Tcp(to), _) => over_tcp(*to, [0; 4]),
            (_, Some(socket)) => socket
                .send(&[0; 8])
                .and_then(|_| socket.recv(&mut [0; 64]))
                .map(drop),
            (_, None) => unreachable!("only TCP has no socket of its own"),
        };
        let kind = tried.err().map(|error| error.kind());
        kind.filter(|kind| !matches!(kind, ErrorKind::TimedOut | ErrorKind::WouldBlock))
    });
    once.join().expect("it is tried")
}

/// The kernel's own echo socket: it chooses the identifier and knows its replies.
fn echo_socket(to: IpAddr, from: Option<IpAddr>) -> UdpSocket {
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd =
        rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(protocol)).unwrap();
    if let Some(from) = from {
        rustix::net::bind(&socket, &SocketAddr::new(from, 0)).unwrap();
    }
    let socket = UdpSocket::from(socket);
    socket.connect((to, 0)).unwrap();
    socket
}

/// Sends, and reads until what ends with the mark comes, or nothing does.
fn exchange(socket: &UdpSocket, bytes: &[u8], mark: [u8; 4]) -> bool {
    if socket.send(bytes).is_err() {
        return false;
    }
    let mut answer = [0; 64];
    loop {
        match socket.recv(&mut answer) {
            Ok(length) if answer[..length].ends_with(&mark) => return true,
            // An answer to an earlier try, which came too late.
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

fn over_tcp(to: SocketAddr, mark: [u8; 4]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&mark)?;
    stream.read_exact(&mut [0; 4])
}

fn connected(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn over_http(to: SocketAddr, request: &Request) -> std::io::Result<bool> {
    let _beside = (request.how == How::Beside)
        .then(|| connected(to))
        .transpose()?;
    let mut stream = connected(to)?;
    let mut asked = head("a.example", request);
    if request.how == How::Halting {
        let rest = asked.split_off(asked.len() / 2);
        stream.write_all(asked.as_bytes())?;
        stream.set_read_timeout(Some(PAUSE))?;
        match stream.read(&mut [0; 1]) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            // It was given up.
            Ok(_) => return Ok(false),
            Err(e) => return Err(e),
        }
        asked = rest;
    }
    let patient = request.how == How::Patiently;
    stream.set_read_timeout(Some(if patient { 4 * PATIENCE } else { PATIENCE }))?;
    Ok(sees(&answer(&mut stream, &asked)?, request))
}

fn over_tls(
    to: SocketAddr,
    (config, name): (&Arc<ClientConfig>, &'static str),
    request: &Request,
) -> std::io::Result<bool> {
    let server = name.try_into().map_err(std::io::Error::other)?;
    let session = ClientConnection::new(Arc::clone(config), server);
    let session = session.map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(session, connected(to)?);
    let mut answer = answer(&mut stream, &head(name, request))?;
    if let Some(alpn) = stream.conn.alpn_protocol() {
        answer.push_str("\nalpn: ");
        answer.push_str(&String::from_utf8_lossy(alpn));
    }
    Ok(sees(&answer, request))
}

fn head(host: &str, request: &Request) -> String {
    let (path, head) = (request.path, &request.head);
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{head}\r\n")
}

fn answer(stream: &mut (impl Read + Write), asked: &str) -> std::io::Result<String> {
    stream.write_all(asked.as_bytes())?;
    stream.flush()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn sees(answer: &str, request: &Request) -> bool {
    answer.to_lowercase().contains(&request.sees.to_lowercase())
}

fn offered(socket: &UdpSocket, mac: EthernetAddress, xid: u32, wanted: Offer) -> bool {
    let unknown = Ipv4Addr::UNSPECIFIED;
    let discover = DhcpRepr {
        message_type: DhcpMessageType::Discover,
        transaction_id: xid,
        secs: 0,
        client_hardware_address: mac,
        client_ip: unknown,
        your_ip: unknown,
        server_ip: unknown,
        router: None,
        subnet_mask: None,
        relay_agent_ip: unknown,
        broadcast: false,
        requested_ip: None,
        client_identifier: None,
        server_identifier: None,
        parameter_request_list: Some(&[1, 3, 6, 26]),
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut bytes = vec![0; discover.buffer_len()];
    discover
        .emit(&mut DhcpPacket::new_unchecked(&mut bytes[..]))
        .unwrap();
    if socket.send_to(&bytes, "255.255.255.255:67").is_err() {
        return false;
    }
    let mut answer = [0; 1500];
    while let Ok(length) = socket.recv(&mut answer) {
        let packet = DhcpPacket::new_checked(&answer[..length]).unwrap();
        let offer = DhcpRepr::parse(&packet).unwrap();
        if offer.transaction_id == xid {
            let holds = match wanted {
                Offer::Any => true,
                Offer::Dns(dns) => offer.dns_servers.is_some_and(|all| all.contains(&dns)),
                Offer::Router(router) => offer.router == Some(router),
            };
            return holds && offer.message_type == DhcpMessageType::Offer;
        }
    }
    false
}

/// That of `eth0` in the namespace of the calling thread.
fn hardware_address() -> EthernetAddress {
    let shown = ip(&["-o", "link", "show", "dev", "eth0"]);
    let mac = shown
        .split_whitespace()
        .skip_while(|word| *word != "link/ether")
        .nth(1);
    let mac: net::Mac = mac.expect("it has one").parse().unwrap();
    EthernetAddress(mac.octets())
}

/// Echoes what comes to TCP and UDP ports of a namespace, both families, until the returned end is dropped.
pub fn serve(namespace: &Namespace, ports: &[u16]) -> Sender<()> {
    let (end, ended) = channel();
    let (name, ports) = (namespace.name().to_owned(), ports.to_vec());
    let (ready, is_ready) = channel();
    thread::spawn(move || {
        enter(&name);
        let at = |port: &u16| format!("[::]:{port}");
        let tcp: Vec<_> = ports
            .iter()
            .map(|p| TcpListener::bind(at(p)).unwrap())
            .collect();
        let udp: Vec<_> = ports
            .iter()
            .map(|p| UdpSocket::bind(at(p)).unwrap())
            .collect();
        for socket in &tcp {
            socket.set_nonblocking(true).unwrap();
        }
        for socket in &udp {
            socket.set_nonblocking(true).unwrap();
        }
        ready.send(()).unwrap();
        echo(&tcp, &udp, &ended);
    });
    is_ready.recv().expect("the servers listen");
    end
}

/// Answers requests over HTTP at a port of a namespace, both families, until the returned end is dropped: with its name, and with what it was asked.
pub fn serve_http(namespace: &Namespace, name: &'static str, port: u16) -> Sender<()> {
    serve_later(namespace, name, port, Duration::ZERO)
}

/// As [`serve_http`]; each answer comes a while after its question, or not at all if the client has gone by then.
pub fn serve_late(namespace: &Namespace, name: &'static str, port: u16) -> Sender<()> {
    serve_later(namespace, name, port, PAUSE)
}

fn serve_later(
    namespace: &Namespace,
    name: &'static str,
    port: u16,
    after: Duration,
) -> Sender<()> {
    let (end, ended) = channel::<()>();
    let inside = namespace.name().to_owned();
    let (ready, is_ready) = channel();
    thread::spawn(move || {
        enter(&inside);
        let listener = TcpListener::bind(format!("[::]:{port}")).unwrap();
        listener.set_nonblocking(true).unwrap();
        ready.send(()).unwrap();
        while ended.try_recv() != Err(TryRecvError::Disconnected) {
            let turn = Timespec {
                tv_sec: 0,
                tv_nsec: 50_000_000,
            };
            let mut fds = [PollFd::new(&listener, PollFlags::IN)];
            poll(&mut fds, Some(&turn)).unwrap();
            while let Ok((stream, _)) = listener.accept() {
                // One that goes in the middle says nothing any more.
                answer_http(stream, name, after).unwrap_or_default();
            }
        }
    });
    is_ready.recv().expect("the server listens");
    end
}

fn answer_http(mut stream: TcpStream, name: &str, after: Duration) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut asked, mut bytes) = (Vec::new(), [0; 2048]);
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            length => asked.extend_from_slice(&bytes[..length]),
        }
    }
    if !after.is_zero() {
        stream.set_read_timeout(Some(after))?;
        if stream.read(&mut bytes).is_ok() {
            return Ok(());
        }
    }
    let asked = String::from_utf8_lossy(&asked);
    let body = format!("I am {name}\n{asked}");
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nSet-Cookie: mine=";
    write!(
        stream,
        "{head}{name}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn echo(tcp: &[TcpListener], udp: &[UdpSocket], ended: &Receiver<()>) {
    let turn = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    let mut bytes = [0; 64];
    while ended.try_recv() != Err(TryRecvError::Disconnected) {
        let fds = tcp
            .iter()
            .map(AsFd::as_fd)
            .chain(udp.iter().map(AsFd::as_fd));
        let mut fds: Vec<_> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        poll(&mut fds, Some(&turn)).unwrap();
        for listener in tcp {
            while let Ok((mut stream, _)) = listener.accept() {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                // A client that is cut off in the middle says nothing any more.
                if stream.read_exact(&mut bytes[..4]).is_ok() {
                    stream.write_all(&bytes[..4]).unwrap_or_default();
                }
            }
        }
        for socket in udp {
            loop {
                match socket.recv_from(&mut bytes) {
                    Ok((length, from)) => {
                        socket
                            .send_to(&bytes[..length], from)
                            .map(drop)
                            .unwrap_or_default();
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => {}
                }
            }
        }
    }
}
