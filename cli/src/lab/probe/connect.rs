//! Does a connection come about?
//!
//! A reset or a port-unreachable proves that packets passed both ways, so a closed port counts as reached: what is
//! asked here is the network, not the application.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Context;

use crate::lab::file::LbProtocol;
use crate::lab::netns;

/// How long to wait for an answer to one datagram.
const UDP_PATIENCE: Duration = Duration::from_millis(700);

/// How long to try: long where an answer is hoped for, for wires may lose it; shorter where silence is, for each try adds little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hope {
    /// For an answer.
    Answer,
    /// For none.
    Silence,
}

impl Hope {
    /// Two retransmissions of a SYN fit in, or one (RFC 6298: after 1 s and 3 s).
    const fn tcp(self) -> Duration {
        match self {
            Self::Answer => Duration::from_millis(3500),
            Self::Silence => Duration::from_millis(1500),
        }
    }

    /// How many datagrams.
    const fn udp(self) -> u32 {
        match self {
            Self::Answer => 4,
            Self::Silence => 2,
        }
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The other side accepted or echoed.
    Open,
    /// The other side said that nobody listens there.
    Closed,
    /// Nothing, or the kernel's word for it.
    Nothing(String),
}

/// Tries to connect from inside a namespace.
///
/// # Errors
/// When the namespace or a socket can't be had.
pub(crate) fn attempt(
    namespace: &str,
    transport: LbProtocol,
    to: SocketAddr,
    hope: Hope,
) -> anyhow::Result<Answer> {
    netns::inside(namespace, || match transport {
        LbProtocol::Tcp => Ok(tcp(to, hope)),
        LbProtocol::Udp => udp(to, hope),
    })
}

fn tcp(to: SocketAddr, hope: Hope) -> Answer {
    match TcpStream::connect_timeout(&to, hope.tcp()) {
        Ok(_) => Answer::Open,
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Answer::Closed,
        Err(e) => Answer::Nothing(silence(&e)),
    }
}

fn udp(to: SocketAddr, hope: Hope) -> anyhow::Result<Answer> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).context("open a UDP socket")?;
    if let Err(e) = socket.connect(to) {
        return Ok(Answer::Nothing(silence(&e)));
    }
    socket
        .set_read_timeout(Some(UDP_PATIENCE))
        .context("set a timeout")?;
    let mut buffer = [0_u8; 64];
    let mut last = "no answer".to_owned();
    for _ in 0..hope.udp() {
        let asked = socket
            .send(b"overweave lab probe")
            .and_then(|_| socket.recv(&mut buffer));
        match asked {
            Ok(_) => return Ok(Answer::Open),
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Ok(Answer::Closed),
            Err(e) => last = silence(&e),
        }
    }
    Ok(Answer::Nothing(last))
}

/// The kernel's reason in two words.
fn silence(error: &std::io::Error) -> String {
    let kind = error.kind();
    if matches!(kind, ErrorKind::TimedOut | ErrorKind::WouldBlock) {
        "no answer".to_owned()
    } else {
        kind.to_string()
    }
}
