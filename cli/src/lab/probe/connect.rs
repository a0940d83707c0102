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

/// Two retransmissions of a SYN fit in.
const TCP_PATIENCE: Duration = Duration::from_millis(3500);
const UDP_TRIES: u32 = 4;
const UDP_PATIENCE: Duration = Duration::from_millis(700);

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
    to: IpAddr,
    port: u16,
) -> anyhow::Result<Answer> {
    let to = SocketAddr::new(to, port);
    netns::inside(namespace, || match transport {
        LbProtocol::Tcp => Ok(tcp(to)),
        LbProtocol::Udp => udp(to),
    })
}

fn tcp(to: SocketAddr) -> Answer {
    match TcpStream::connect_timeout(&to, TCP_PATIENCE) {
        Ok(_) => Answer::Open,
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Answer::Closed,
        Err(e) => Answer::Nothing(silence(&e)),
    }
}

fn udp(to: SocketAddr) -> anyhow::Result<Answer> {
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
    for _ in 0..UDP_TRIES {
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
