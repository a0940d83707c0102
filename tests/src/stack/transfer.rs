//! Do the right bytes arrive?
//!
//! A [`Transfer`] is one TCP connection whose two ends each send a stream; the client, when it has all, ends it. Every byte that arrives is compared with what was
//! sent, so that an early, late, lost or foreign byte fails the test that sees it.

use std::net::IpAddr;

use smoltcp::socket::tcp::{RecvError, State};

use super::{Site, Socket};
use crate::plan::PortUuid;

/// One direction.
#[derive(Debug, Clone, Copy)]
struct Stream {
    /// So that a direction is not mistaken for the other, or for another connection's.
    salt: usize,
    total: usize,
    sent: usize,
    received: usize,
    ended: bool,
}

impl Stream {
    fn new(salt: usize, total: usize) -> Self {
        Self {
            salt,
            total,
            sent: 0,
            received: 0,
            ended: false,
        }
    }

    fn byte(&self, at: usize) -> u8 {
        // Knuth's multiplicative hash: neighbours differ, and no segment repeats another.
        (at + self.salt).wrapping_mul(2_654_435_761).to_le_bytes()[3]
    }

    fn push(&mut self, site: &mut Site, from: Socket) {
        let tcp = site.tcp(from);
        while tcp.can_send() && self.sent < self.total {
            let end = self.total.min(self.sent + 4096);
            let bytes: Vec<u8> = (self.sent..end).map(|n| self.byte(n)).collect();
            self.sent += tcp.send_slice(&bytes).unwrap();
        }
    }

    fn pull(&mut self, site: &mut Site, at: Socket) {
        let mut bytes = [0; 4096];
        loop {
            match site.tcp(at).recv_slice(&mut bytes) {
                Ok(0) | Err(RecvError::InvalidState) => return,
                Err(RecvError::Finished) => {
                    self.ended = true;
                    return;
                }
                Ok(count) => {
                    for (n, byte) in (self.received..).zip(&bytes[..count]) {
                        assert_eq!(*byte, self.byte(n), "byte {n} of {}", self.total);
                    }
                    self.received += count;
                    assert!(self.received <= self.total, "more arrived than was sent");
                }
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.received == self.total
    }
}

/// Lets several transfers do what they can. Returns whether all of them are whole.
pub fn step_all(transfers: &mut [Transfer], site: &mut Site) -> bool {
    let mut whole = true;
    for transfer in transfers {
        whole &= transfer.step(site);
    }
    whole
}

/// One connection with a stream each way.
#[derive(Debug)]
pub struct Transfer {
    client: Socket,
    servers: Vec<PortUuid>,
    server: Option<Socket>,
    at_once: bool,
    up: Stream,
    down: Stream,
}

impl Transfer {
    /// `client` connects to an address; one of `servers`, who listen at a port, is to get the connection. The client sends `up` bytes,
    /// the server answers with `down`.
    pub fn new(
        site: &mut Site,
        client: PortUuid,
        to: (IpAddr, u16),
        servers: &[(PortUuid, u16)],
        (up, down): (usize, usize),
    ) -> Self {
        for (port, number) in servers {
            site.listen(*port, *number);
        }
        let salt = usize::from(site.next_port) << 20;
        Self {
            client: site.connect(client, to),
            servers: servers.iter().map(|(port, _)| *port).collect(),
            server: None,
            at_once: false,
            up: Stream::new(salt, up),
            down: Stream::new(salt + (1 << 19) + 7, down),
        }
    }

    /// The server does not wait until it was asked. Only for wires that lose nothing: smoltcp 0.12 ignores the acknowledgement in a
    /// segment that comes again, so that two ends who both lost their last segments never hear each other.
    #[must_use]
    pub fn at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// Both ends send and receive what they can. Returns whether all of it arrived, and the server knows it.
    pub fn step(&mut self, site: &mut Site) -> bool {
        self.up.push(site, self.client);
        self.down.pull(site, self.client);
        if self.server.is_none() {
            self.server = self.find_server(site);
        }
        if let Some(server) = self.server {
            self.up.pull(site, server);
            if self.at_once || self.up.is_whole() {
                self.down.push(site, server);
            }
            if self.up.ended {
                site.tcp(server).close();
            }
        }
        // Not before: smoltcp 0.12 sends lost data again only while nobody has ended, and a lost FIN only to who has not.
        let alone = self.up.sent == self.up.total && self.down.is_whole();
        if alone && site.tcp(self.client).send_queue() == 0 {
            site.tcp(self.client).close();
        }
        self.up.ended && self.up.is_whole()
    }

    /// Does the client know too that it got all?
    pub fn has_ended(&self) -> bool {
        self.up.ended && self.down.ended
    }

    /// Which listener got it: the one whose peer has the client's port.
    fn find_server(&self, site: &mut Site) -> Option<Socket> {
        let own = site.tcp(self.client).local_endpoint()?.port;
        let mut servers = self.servers.iter();
        servers.find_map(|port| site.accepted(*port, own))
    }

    /// The client's end.
    pub fn client(&self) -> Socket {
        self.client
    }

    /// Whose server got the connection.
    pub fn server(&self) -> Option<PortUuid> {
        self.server.map(|s| s.port)
    }

    /// Bytes that arrived so far: at the server, at the client.
    pub fn received(&self) -> (usize, usize) {
        (self.up.received, self.down.received)
    }

    /// Where it stands, for a test that fails.
    pub fn told(&self, site: &mut Site) -> String {
        let client = site.tcp(self.client).state();
        let server = self.server.map(|s| site.tcp(s).state());
        let (up, down) = self.received();
        format!("{up} bytes up, {down} down, client {client}, server {server:?}")
    }

    /// Did the client's end give up?
    pub fn is_closed(&self, site: &mut Site) -> bool {
        site.tcp(self.client).state() == State::Closed
    }
}
