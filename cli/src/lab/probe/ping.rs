//! Who answers an echo request?
//!
//! Many targets at once over one raw socket: each gets a request at once and another each second until it has
//! answered or the time is over. Raw sockets need no `ping_group_range`; the lab runs as root anyway.
//!
//! # References
//! RFC 792, RFC 4443 §4.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};

use crate::lab::netns;

/// Between two requests to one target.
const AGAIN: Duration = Duration::from_secs(1);
/// Requests sent before looking for answers: a burst that fits every queue on the way.
const BURST: usize = 16;

/// Pings all targets, of one family, from inside a namespace. The answer says of each whether it replied.
///
/// # Errors
/// When the namespace or a socket can't be had.
pub(crate) fn ping(
    namespace: &str,
    targets: &[IpAddr],
    patience: Duration,
) -> anyhow::Result<Vec<bool>> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    netns::inside(namespace, || Pinger::open(targets)?.run(patience))
}

/// Tells the pingers of this process apart.
static NEXT: AtomicU16 = AtomicU16::new(0);

struct Pinger<'a> {
    socket: OwnedFd,
    targets: &'a [IpAddr],
    v6: bool,
    id: u16,
    answered: Vec<bool>,
}

impl<'a> Pinger<'a> {
    fn open(targets: &'a [IpAddr]) -> anyhow::Result<Self> {
        let v6 = targets.first().is_some_and(IpAddr::is_ipv6);
        let (family, protocol) = if v6 {
            (AddressFamily::INET6, ipproto::ICMPV6)
        } else {
            (AddressFamily::INET, ipproto::ICMP)
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::RAW, flags, Some(protocol))
            .context("open an ICMP socket")?;
        // Raw sockets hear every ICMP packet of the namespace, others' requests too; a short buffer would lose replies.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20))
            .context("size a socket's buffer")?;
        // Each pinger has its own identifier, as each process that pings has: two that ping each other at once with the
        // same one are hard to tell apart for whoever tracks them.
        let id = u16::try_from(std::process::id() & 0xffff).unwrap_or(1);
        let id = id.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Self {
            socket,
            targets,
            v6,
            id,
            answered: vec![false; targets.len()],
        })
    }

    fn run(mut self, patience: Duration) -> anyhow::Result<Vec<bool>> {
        let start = Instant::now();
        let end = start + patience;
        let mut round = start;
        while round < end {
            self.send_round()?;
            round += AGAIN;
            while self.waiting() && Instant::now() < round.min(end) {
                self.receive(round.min(end).saturating_duration_since(Instant::now()))?;
            }
            if !self.waiting() {
                break;
            }
        }
        Ok(self.answered)
    }

    fn waiting(&self) -> bool {
        self.answered.iter().any(|answered| !answered)
    }

    fn send_round(&mut self) -> anyhow::Result<()> {
        let silent: Vec<(usize, IpAddr)> = self
            .targets
            .iter()
            .zip(&self.answered)
            .enumerate()
            .filter(|(_, (_, answered))| !**answered)
            .map(|(index, (target, _))| (index, *target))
            .collect();
        for burst in silent.chunks(BURST) {
            for (index, target) in burst {
                let request = request(self.v6, self.id, u16::try_from(*index).unwrap_or(u16::MAX));
                match rustix::net::sendto(
                    &self.socket,
                    &request,
                    SendFlags::empty(),
                    &SocketAddr::new(*target, 0),
                ) {
                    // No route, a neighbour that does not answer, a full queue: no reply will come, and that is told.
                    Ok(_)
                    | Err(
                        Errno::NETUNREACH
                        | Errno::HOSTUNREACH
                        | Errno::NOBUFS
                        | Errno::AGAIN
                        | Errno::ACCESS
                        | Errno::ADDRNOTAVAIL
                        | Errno::INVAL
                        | Errno::NETDOWN,
                    ) => {}
                    Err(e) => return Err(e).with_context(|| format!("ping {target}")),
                }
            }
            self.receive(Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Takes in what comes, waiting at most that long for the first.
    fn receive(&mut self, at_most: Duration) -> anyhow::Result<()> {
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        match rustix::event::poll(&mut ready, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(e) => return Err(e).context("wait for echo replies"),
        }
        let mut buffer = [0_u8; 2048];
        loop {
            match rustix::net::recvfrom(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((_, length, from)) => {
                    let from = from
                        .and_then(|from| SocketAddr::try_from(from).ok())
                        .map(|from| from.ip());
                    let bytes = buffer.get(..length).unwrap_or_default();
                    if let Some(index) = reply(self.v6, bytes, self.id)
                        && self.targets.get(index).copied() == from
                        && let Some(slot) = self.answered.get_mut(index)
                    {
                        *slot = true;
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                // An ICMP error about an earlier request; the silence is what counts.
                Err(Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::CONNREFUSED | Errno::INTR) => {}
                Err(e) => return Err(e).context("read echo replies"),
            }
        }
    }
}

/// An echo request. The kernel fills in the checksum of ICMPv6.
fn request(v6: bool, id: u16, sequence: u16) -> Vec<u8> {
    let mut bytes = vec![if v6 { 128 } else { 8 }, 0, 0, 0];
    bytes.extend(id.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(b"overweave lab echo");
    if !v6 {
        let sum = checksum(&bytes);
        for (slot, byte) in bytes.iter_mut().skip(2).zip(sum.to_be_bytes()) {
            *slot = byte;
        }
    }
    bytes
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(u16::from_be_bytes([high, 0])),
            _ => 0,
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// The sequence number of a reply to us. IPv4 raw sockets hand over the IP header too.
fn reply(v6: bool, bytes: &[u8], id: u16) -> Option<usize> {
    let icmp = if v6 {
        bytes
    } else {
        bytes.get(usize::from(bytes.first()? & 0x0f) * 4..)?
    };
    let [kind, 0, _, _, id_high, id_low, high, low] = *icmp.first_chunk::<8>()? else {
        return None;
    };
    let ours = u16::from_be_bytes([id_high, id_low]) == id;
    (ours && kind == if v6 { 129 } else { 0 }).then(|| usize::from(u16::from_be_bytes([high, low])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_to_zero() {
        let bytes = request(false, 0x1234, 7);
        assert_eq!(checksum(&bytes), 0);
    }

    #[test]
    fn a_reply_is_found_behind_its_ip_header() {
        let mut icmp = request(false, 77, 5);
        icmp[0] = 0;
        let mut packet = vec![0x46; 1];
        packet.extend([0; 23]);
        packet.extend(&icmp);
        assert_eq!(reply(false, &packet, 77), Some(5));
        assert_eq!(reply(false, &packet, 78), None);
        packet.truncate(26);
        assert_eq!(reply(false, &packet, 77), None);
        assert_eq!(reply(false, &[], 77), None);
    }

    #[test]
    fn a_request_of_our_own_is_no_reply() {
        assert_eq!(reply(true, &request(true, 77, 5), 77), None);
        let mut answer = request(true, 77, 5);
        answer[0] = 129;
        assert_eq!(reply(true, &answer, 77), Some(5));
    }
}
