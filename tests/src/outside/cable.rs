//! What is on the wire outside, and whose is it?
//!
//! A switch of Ethernet in this process: its ports are taps in namespaces, it learns MAC addresses as any switch does, and it keeps each frame with
//! the port that it came from and when: who answers for an address is what came out of whose interface.

use std::{
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    process::Command,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use net::{
    Headers, Mac,
    checksum::{add, fold},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vswitch::io::{netns::Netns, plain_tap};

use crate::netns::printed;

/// Frames that are kept; a test that sees more would forget the first.
const KEPT: usize = 400_000;
/// Questions are put this often.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// A frame that came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// From which port.
    pub port: usize,
    /// What.
    pub frame: Vec<u8>,
}

impl Seen {
    /// Who says by this frame that an address is at its own MAC address (an ARP answer or announcement, a neighbour advertisement).
    pub fn claims(&self) -> Option<(IpAddr, Mac)> {
        let (_, key) = Headers::parse(&self.frame).ok()?;
        let mac = key.src_mac();
        match (self.frame.get(12..14)?, self.frame.get(20..22)?) {
            ([0x08, 0x06], [0, op]) => {
                let [from, to] = [self.frame.get(28..32)?, self.frame.get(38..42)?]
                    .map(|a| IpAddr::from(<[u8; 4]>::try_from(a).unwrap_or_default()));
                (*op == 2 || from == to).then_some((from, mac))
            }
            _ if key.ip_proto == 58 && key.l4_src == 136 => {
                Some((IpAddr::V6(key.nd_target.into()), mac))
            }
            _ => None,
        }
    }

    /// From where to where it goes, and its protocol, if it is an IP packet.
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr, u8)> {
        let (_, key) = Headers::parse(&self.frame).ok()?;
        let ip = matches!(self.frame.get(12..14)?, [0x08, 0x00] | [0x86, 0xdd]);
        ip.then(|| (key.src_addr(), key.dst_addr(), key.ip_proto))
    }
}

/// A switch with what it saw.
#[derive(Debug)]
pub struct Cable {
    seen: Arc<Mutex<Vec<Seen>>>,
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Dropped, it ends the thread.
    going: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Cable {
    /// Makes a tap of this name in each of these namespaces, up, and carries frames between them.
    pub fn plug(ends: &[(&str, &str)]) -> Self {
        let taps: Vec<OwnedFd> = ends
            .iter()
            .map(|(netns, name)| {
                let open = || plain_tap::open(&name.parse().unwrap()).unwrap();
                let tap = Netns::named(netns).enter(open).unwrap();
                let up = ["-n", netns, "link", "set", name, "up"];
                let done = Command::new("ip").args(up).output().unwrap();
                printed("ip link set", &done);
                tap
            })
            .collect();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (going, goes) = mpsc::channel();
        let asked = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let (log, asks) = (Arc::clone(&seen), Arc::clone(&asked));
        let thread = thread::spawn(move || carry(&taps, (&log, &asks), &goes));
        Self {
            seen,
            asked,
            going: Some(going),
            thread: Some(thread),
        }
    }

    /// From now on everyone is asked all the time who has these addresses.
    pub fn ask(&self, addresses: &[IpAddr]) {
        let questions = addresses.iter().map(|addr| question(*addr)).collect();
        *self.asked.lock().unwrap() = questions;
    }

    /// What came since a moment.
    pub fn since(&self, moment: Instant) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        assert!(seen.len() < KEPT, "frames were forgotten");
        let first = seen.partition_point(|s| s.at < moment);
        seen[first..].to_vec()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.going = None;
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || thread::panicking());
        }
    }
}

/// Who asks: nobody who is there, so answers are seen and go to nobody.
const ASKER: Mac = Mac::new([2, 0x77, 0, 0, 0, 1]);

/// Who has this address? By ARP (RFC 826) or a neighbour solicitation (RFC 4861 §4.3), of everyone.
fn question(addr: IpAddr) -> Vec<u8> {
    let own = ASKER.octets();
    match addr {
        IpAddr::V4(addr) => [
            &[0xff; 6][..],
            &own,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &own,
            &[203, 0, 113, 250],
            &[0; 6],
            &addr.octets(),
        ]
        .concat(),
        IpAddr::V6(addr) => {
            let target = addr.octets();
            let from = [0x20, 1, 0xd, 0xb8, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfa];
            let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
            group[13..].copy_from_slice(&target[13..]);
            let said = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target, &[1, 1], &own].concat();
            let mut said = said;
            let sum = add(58 + said.len() as u64, &[&from[..], &group, &said].concat());
            said[2..4].copy_from_slice(&(!fold(sum)).to_be_bytes());
            [
                &[0x33, 0x33, 0xff, target[13], target[14], target[15]][..],
                &own,
                &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255],
                &from,
                &group,
                &said,
            ]
            .concat()
        }
    }
}

/// A tap that is down takes nothing, as a port without a cable.
fn put(tap: &OwnedFd, frame: &[u8]) {
    rustix::io::write(tap, frame).unwrap_or_default();
}

fn carry(
    taps: &[OwnedFd],
    (log, asks): (&Mutex<Vec<Seen>>, &Mutex<Vec<Vec<u8>>>),
    goes: &mpsc::Receiver<()>,
) {
    let mut asked = Instant::now();
    let mut known: Vec<(Mac, usize)> = vec![];
    let mut frame = [0; 2048];
    let turn = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    while goes.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
        let fds = taps.iter().map(|tap| PollFd::new(tap, PollFlags::IN));
        let mut fds: Vec<_> = fds.collect();
        poll(&mut fds, Some(&turn)).unwrap();
        if asked.elapsed() >= ASK_EVERY {
            asked = Instant::now();
            for question in asks.lock().unwrap().iter() {
                for tap in taps {
                    put(tap, question);
                }
            }
        }
        for (port, tap) in taps.iter().enumerate() {
            while let Ok(length) = rustix::io::read(tap.as_fd(), &mut frame) {
                let frame = &frame[..length];
                let at = Instant::now();
                let seen = Seen {
                    at,
                    port,
                    frame: frame.to_vec(),
                };
                let mut log = log.lock().unwrap();
                if log.len() < KEPT {
                    log.push(seen);
                }
                drop(log);
                let Ok((_, key)) = Headers::parse(frame) else {
                    continue;
                };
                known.retain(|(mac, _)| *mac != key.src_mac());
                known.push((key.src_mac(), port));
                let to = known.iter().find(|(mac, _)| *mac == key.dst_mac());
                for (other, tap) in taps.iter().enumerate() {
                    if other != port && to.is_none_or(|(_, to)| *to == other) {
                        put(tap, frame);
                    }
                }
            }
        }
    }
}

/// For how long a port claimed something: from the first to the last frame by which it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spell {
    /// Whose.
    pub port: usize,
    /// From when.
    pub from: Instant,
    /// Until when.
    pub to: Instant,
}

/// The spells in which ports claimed what `of` picks, one after the other. Two that take turns are as many spells.
pub fn spells(seen: &[Seen], of: impl Fn(&Seen) -> bool) -> Vec<Spell> {
    let mut spells: Vec<Spell> = vec![];
    for one in seen.iter().filter(|one| of(one)) {
        match spells.last_mut() {
            Some(last) if last.port == one.port => last.to = one.at,
            Some(_) | None => spells.push(Spell {
                port: one.port,
                from: one.at,
                to: one.at,
            }),
        }
    }
    spells
}

/// How long nobody claimed it, at the longest, in between.
pub fn longest_gap(spells: &[Spell]) -> Duration {
    let pairs = spells.windows(2);
    let gaps = pairs.map(|pair| pair[1].from.duration_since(pair[0].to));
    gaps.max().unwrap_or_default()
}
