//! Which worker's queue does the kernel put a packet into?
//!
//! That of the worker who is home to its connection. A small program reckons [`Spread`] of the packet where the kernel chooses
//! the queue of a tap, and the socket of those that share the VXLAN port: so both directions of a connection come to one
//! worker, nothing is handed over, and a light flow wakes one thread a packet. Where a kernel does not take the program,
//! packets come as they come, and are handed over as before.
//!
//! # Invariants
//! A wrong answer costs a hand-over and nothing else: fragments, translated connections and what a shaper owns have homes that no header tells.
//!
//! # Attack
//! The program reads what is there; a packet that is too short goes to the first worker.
//!
//! # References
//! Linux: `TUNSETSTEERINGEBPF`, `SO_ATTACH_REUSEPORT_EBPF` (socket(7)).

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use net::{
    Spread,
    flow_key::{ethertype, proto},
};
use overlay::vxlan::VXLAN_HEADER;

use super::{
    bpf::{
        ADD_FROM, AND, Assembly, COPY, EXIT, JUMP, JUMP_IF, JUMP_UNLESS, LOAD_1, LOAD_2,
        LOAD_2_FROM, LOAD_4, Label, MULTIPLY_BY, REST_OF, SET, SHIFT_LEFT, SHIFT_RIGHT, XOR_FROM,
        op,
    },
    sys::{self, Instruction},
};

/// How connections are dealt to workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steering {
    /// By which hash.
    pub spread: Spread,
    /// To how many workers.
    pub workers: u16,
}

const ETHERNET: usize = 14;
const UDP: usize = 8;
/// Bytes of an 802.1Q tag.
const TAG: i32 = 4;

/// What a register holds.
const READ: u8 = 0;
const TEMPORARY: u8 = 1;
/// Packets are read through it.
const PACKET: u8 = 6;
const SOURCE: u8 = 7;
const DESTINATION: u8 = 8;
const TRANSPORT: u8 = 9;

impl Steering {
    /// By a seed, to so many workers.
    pub fn new(seed: u64, workers: u16) -> Self {
        Self {
            spread: Spread::new(seed),
            workers: workers.max(1),
        }
    }

    /// The program for packets whose inner Ethernet header begins at `frame`.
    fn program(&self, frame: i32) -> Vec<Instruction> {
        let mut a = Assembly::default();
        a.push(op(COPY, PACKET, 1, 0, 0));
        self.deal(&mut a, frame);
        a.finish()
    }

    /// The same for a device that may be a trunk's parent: what is in a tagged frame is dealt as if it bore none.
    fn program_with_tags(&self) -> Vec<Instruction> {
        let mut a = Assembly::default();
        let mut tagged = Label::default();
        a.push(op(COPY, PACKET, 1, 0, 0));
        a.push(op(LOAD_2, READ, 0, 0, 12));
        a.jump(&mut tagged, JUMP_IF, READ, ethertype::VLAN.into());
        self.deal(&mut a, 0);
        a.place(tagged);
        self.deal(&mut a, TAG);
        a.finish()
    }

    /// Reckons whose a packet is whose EtherType stands 12 bytes behind `frame`, and ends.
    fn deal(&self, a: &mut Assembly, frame: i32) {
        let (mut v6, mut other, mut ports, mut take, mut done) =
            <(Label, Label, Label, Label, Label)>::default();
        let load = |a: &mut Assembly, code, at: i32| a.push(op(code, READ, 0, 0, frame + at));
        let is = |number: u16| i32::from(number);

        a.set_wide(SOURCE, self.spread.key);
        a.set_wide(DESTINATION, self.spread.key);
        load(a, LOAD_2, 12);
        a.jump(&mut v6, JUMP_IF, READ, is(ethertype::IPV6));
        a.jump(&mut other, JUMP_UNLESS, READ, is(ethertype::IPV4));

        load(a, LOAD_4, 26);
        self.step(a, SOURCE);
        load(a, LOAD_4, 30);
        self.step(a, DESTINATION);
        // Fragments have no ports, and meet elsewhere anyway.
        load(a, LOAD_2, 20);
        a.push(op(AND, READ, 0, 0, 0x3fff));
        a.jump(&mut done, JUMP_UNLESS, READ, 0);
        load(a, LOAD_1, 14);
        a.push(op(AND, READ, 0, 0, 15));
        a.push(op(SHIFT_LEFT, READ, 0, 0, 2));
        a.push(op(COPY, TRANSPORT, READ, 0, 0));
        load(a, LOAD_1, 23);
        a.jump(&mut ports, JUMP, 0, 0);

        a.place(v6);
        for (register, first) in [(SOURCE, 22), (DESTINATION, 38)] {
            for word in 0..4 {
                load(a, LOAD_4, first + 4 * word);
                self.step(a, register);
            }
        }
        a.push(op(SET, TRANSPORT, 0, 0, 40));
        load(a, LOAD_1, 20);

        a.place(ports);
        a.jump(&mut take, JUMP_IF, READ, is(proto::TCP.into()));
        a.jump(&mut take, JUMP_IF, READ, is(proto::UDP.into()));
        a.jump(&mut done, JUMP_UNLESS, READ, is(proto::SCTP.into()));
        a.place(take);
        for (register, at) in [(SOURCE, 14), (DESTINATION, 16)] {
            a.push(op(LOAD_2_FROM, READ, TRANSPORT, 0, frame + at));
            self.step(a, register);
        }

        a.place(done);
        a.push(op(ADD_FROM, SOURCE, DESTINATION, 0, 0));
        a.push(op(SET, READ, 0, 0, 0));
        self.step(a, SOURCE);
        a.push(op(REST_OF, SOURCE, 0, 0, i32::from(self.workers)));
        a.push(op(COPY, READ, SOURCE, 0, 0));
        a.push(op(EXIT, 0, 0, 0, 0));

        a.place(other);
        a.push(op(SET, READ, 0, 0, 0));
        a.push(op(EXIT, 0, 0, 0, 0));
    }

    /// [`Spread::step`] of a register, with what was read.
    fn step(&self, a: &mut Assembly, register: u8) {
        a.push(op(XOR_FROM, register, READ, 0, 0));
        a.set_wide(TEMPORARY, self.spread.factor);
        a.push(op(MULTIPLY_BY, register, TEMPORARY, 0, 0));
        a.push(op(COPY, TEMPORARY, register, 0, 0));
        a.push(op(SHIFT_RIGHT, TEMPORARY, 0, 0, 32));
        a.push(op(XOR_FROM, register, TEMPORARY, 0, 0));
    }

    fn load(&self, frame: usize) -> io::Result<OwnedFd> {
        let frame = i32::try_from(frame).or(Err(io::ErrorKind::InvalidInput))?;
        sys::load_socket_filter(b"ow_steering", &self.program(frame))
    }

    fn load_with_tags(&self) -> io::Result<OwnedFd> {
        sys::load_socket_filter(b"ow_steering", &self.program_with_tags())
    }

    /// Has a tap put packets that its device sends into the queue of their worker: the queues are the workers', in order.
    pub(super) fn of_tap(&self, queue: BorrowedFd<'_>) {
        of_queues(queue, self.load_with_tags());
    }

    /// The same of a tap that carries VXLAN by IPv4 or IPv6.
    pub(super) fn of_uplink(&self, queue: BorrowedFd<'_>, v4: bool) {
        let ip = if v4 { 20 } else { 40 };
        let frame = ETHERNET + ip + UDP + VXLAN_HEADER;
        of_queues(queue, self.load(frame));
    }

    /// Has the kernel give datagrams to the socket of their worker: those that share the port are the workers', in the order in
    /// which they were bound.
    pub(super) fn of_sockets(&self, one: BorrowedFd<'_>) {
        let option = libc::SO_ATTACH_REUSEPORT_EBPF;
        let steered = self
            .load(VXLAN_HEADER)
            .and_then(|p| sys::set_option(one, libc::SOL_SOCKET, option, p.as_raw_fd()));
        if let Err(error) = steered {
            say_once(&error);
        }
    }
}

fn of_queues(queue: BorrowedFd<'_>, program: io::Result<OwnedFd>) {
    let set = |fd| sys::tun_set_by_pointer(queue, libc::TUNSETSTEERINGEBPF, fd);
    let steered = program.and_then(|p| set(p.as_raw_fd()));
    if let Err(error) = steered {
        say_once(&error);
        // What an earlier owner of the tap set deals by another seed.
        if let Err(error) = set(-1) {
            tracing::debug!(%error, "a tap's queues were never steered");
        }
    }
}

fn say_once(error: &io::Error) {
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| {
        tracing::warn!(%error, "the kernel does not deal packets by connection; workers hand them over");
    });
}

#[cfg(test)]
mod tests;
