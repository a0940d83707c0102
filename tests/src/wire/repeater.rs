//! What is the least that a switch over taps can do?
//!
//! One thread that waits for a plain tap and a UDP socket, and carries each frame across with eight bytes of VXLAN before it: one read and one write
//! a frame, nothing looked up, nothing kept. Its latency is the floor of every design that sleeps between packets.

use crate::wire::place::{Place, ip};
use anyhow::Context as _;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, read, write},
};
use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd as _, OwnedFd},
    thread::JoinHandle,
};
use vswitch::io::{plain_tap, tap::IfName};

/// The network that all peers carry.
pub const VNI: u32 = 100;
/// Frames read before the other side has its turn.
const TURN: usize = 64;

/// A running repeater; it ends when this is dropped.
#[derive(Debug)]
pub struct Repeater {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Repeater {
    /// Joins workload `number` with its host's underlay.
    ///
    /// # Errors
    /// What the kernel said of the tap or the socket.
    pub fn start(place: &Place, number: u8, outer6: bool) -> anyhow::Result<Self> {
        let host = place.host_of(number);
        let name: IfName = "tp0".parse()?;
        let tap = place.enter(host).enter(|| plain_tap::open(&name))??;
        ip(&format!(
            "-n {} link set tp0 netns {}",
            place.netns(host),
            place.netns(&format!("w{number}"))
        ))?;
        place.address_workload(number, "tp0")?;
        let mine = SocketAddr::new(Place::vtep(number, outer6), 4789);
        let peer = SocketAddr::new(Place::vtep(3 - number, outer6), 4789);
        let socket = place.enter(host).enter(|| {
            let socket = UdpSocket::bind(mine)?;
            socket.set_nonblocking(true)?;
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20)?;
            socket.connect(peer)?;
            Ok::<_, std::io::Error>(socket)
        })?;
        let socket = socket.context("open the repeater's socket")?;
        let (stopped, stop) = rustix::pipe::pipe()?;
        let thread = std::thread::Builder::new()
            .name("repeater".into())
            .spawn(move || carry(&tap, &socket, &stopped))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Repeater {
    fn drop(&mut self) {
        write(&self.stop, &[0]).map(drop).unwrap_or_default();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_default();
        }
    }
}

fn carry(tap: &OwnedFd, socket: &UdpSocket, stopped: &OwnedFd) {
    let vni = VNI.to_be_bytes();
    let mut out = [0u8; 16_384];
    out[..8].copy_from_slice(&[8, 0, 0, 0, vni[1], vni[2], vni[3], 0]);
    let mut back = [0u8; 16_384];
    loop {
        let mut watched = [
            PollFd::new(tap, PollFlags::IN),
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        match poll(&mut watched, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        if !watched[2].revents().is_empty() {
            return;
        }
        for _ in 0..TURN {
            let Ok(bytes) = read(tap.as_fd(), &mut out[8..]) else {
                break;
            };
            // A full socket loses the frame, as a wire does.
            write(socket, &out[..8 + bytes])
                .map(drop)
                .unwrap_or_default();
        }
        for _ in 0..TURN {
            let Ok(bytes) = read(socket.as_fd(), &mut back) else {
                break;
            };
            if bytes > 22 && back[4..7] == vni[1..] {
                write(tap, &back[8..bytes]).map(drop).unwrap_or_default();
            }
        }
    }
}
