//! Which packets cross between the underlay's link and the tap?
//!
//! Two programs of a few instructions, given to the kernel as they stand here. One takes from the link what the switch can
//! read: VXLAN to the VTEP's address, one datagram, no IP options. The other hands everything that the switch writes to the
//! link. What the first does not take goes on to whoever else asks on that link, and to the sockets.
//!
//! # Invariants
//! A program is attached for as long as its descriptor is open: when the process ends, however it ends, the link is as it
//! was before.
//!
//! # References
//! Linux: bpf(2), `BPF_TCX_INGRESS` (since 6.6). RFC 7348 §5.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use overlay::vxlan::VXLAN_PORT;

use crate::io::{
    bpf::{
        AND, Assembly, CALL, COPY, EXIT, JUMP_UNLESS, LOAD_1, LOAD_2, LOAD_4, Label, READ_FIELD,
        SET, SET_32, bits, op,
    },
    sys::{self, Instruction},
};

const REDIRECT: i32 = 23;
/// Ask the next one on this link.
const NEXT: i32 = -1;
/// Where the kernel tells of a packet: to whom its frame was sent (0: to this host), and whether it had a VLAN tag.
const PACKET_TYPE: i16 = 4;
const VLAN_PRESENT: i16 = 20;

/// Hands the packet to another device.
fn redirect(device: u32) -> [Instruction; 4] {
    [
        op(SET, 1, 0, 0, bits(device)),
        op(SET, 2, 0, 0, 0),
        op(CALL, 0, 0, 0, REDIRECT),
        op(EXIT, 0, 0, 0, 0),
    ]
}

/// A test of the packet: what is read into the first register must be this.
struct Test {
    read: Instruction,
    mask: Option<i32>,
    is: i32,
}

fn at(load: u8, offset: i32, is: u32) -> Test {
    Test {
        read: op(load, 0, 0, 0, offset),
        mask: None,
        is: bits(is),
    }
}

fn field(offset: i16, is: i32) -> Test {
    Test {
        read: op(READ_FIELD, 0, 6, offset, 0),
        mask: None,
        is,
    }
}

/// Hands VXLAN packets for `local` to `tap`, and nothing else.
pub(super) fn receive(local: IpAddr, tap: u32) -> Vec<Instruction> {
    let mut tests = vec![field(PACKET_TYPE, 0), field(VLAN_PRESENT, 0)];
    match local {
        IpAddr::V4(v4) => tests.extend([
            at(LOAD_2, 12, 0x0800),
            // Version 4, five words of header: no options.
            at(LOAD_1, 14, 0x45),
            // Neither an offset nor more fragments.
            Test {
                mask: Some(0x3fff),
                ..at(LOAD_2, 20, 0)
            },
            at(LOAD_1, 23, 17),
            at(LOAD_4, 30, v4.to_bits()),
            at(LOAD_2, 36, VXLAN_PORT.into()),
        ]),
        IpAddr::V6(v6) => {
            tests.extend([at(LOAD_2, 12, 0x86dd), at(LOAD_1, 20, 17)]);
            for (word, place) in v6.octets().chunks_exact(4).zip([38, 42, 46, 50]) {
                let word = word.first_chunk().map_or(0, |w| u32::from_be_bytes(*w));
                tests.push(at(LOAD_4, place, word));
            }
            tests.push(at(LOAD_2, 56, VXLAN_PORT.into()));
        }
    }
    // The packet is read through register 6.
    let mut program = Assembly::default();
    program.push(op(COPY, 6, 1, 0, 0));
    let mut end = Label::default();
    for test in tests {
        program.push(test.read);
        if let Some(mask) = test.mask {
            program.push(op(AND, 0, 0, 0, mask));
        }
        if test.is < 0 {
            // A number in a jump is extended by its sign; what was read is not.
            program.push(op(SET_32, 7, 0, 0, test.is));
            program.jump_unless_same(&mut end, 0, 7);
        } else {
            program.jump(&mut end, JUMP_UNLESS, 0, test.is);
        }
    }
    for instruction in redirect(tap) {
        program.push(instruction);
    }
    program.place(end);
    program.push(op(SET_32, 0, 0, 0, NEXT));
    program.push(op(EXIT, 0, 0, 0, 0));
    program.finish()
}

/// Hands every packet to `link`.
pub(super) fn transmit(link: u32) -> Vec<Instruction> {
    redirect(link).to_vec()
}

/// Has a device's received packets run through a program, until the descriptor is closed.
pub(super) fn attach(name: &str, program: &[Instruction], device: u32) -> io::Result<OwnedFd> {
    let loaded = sys::load_classifier(name.as_bytes(), program)?;
    // The attachment holds the program.
    sys::attach_ingress(loaded.as_fd(), device)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::io::bpf::JUMP_UNLESS_SAME;

    const TAP: u32 = 9;

    /// What the kernel would do: the device that the packet is handed to, if any.
    fn run(program: &[Instruction], packet: &[u8], fields: [u32; 2]) -> Option<u64> {
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        loop {
            let i = program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let number = i64::from(i.number).cast_unsigned();
            let read = |len: usize| {
                let place = usize::try_from(i.number).unwrap();
                let bytes = packet.get(place..place + len)?;
                Some(bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b)))
            };
            let mut jump = false;
            match i.code {
                // A read beyond the packet ends the program: not taken.
                LOAD_1 => registers[0] = read(1)?,
                LOAD_2 => registers[0] = read(2)?,
                LOAD_4 => registers[0] = read(4)?,
                READ_FIELD if i.offset == PACKET_TYPE => registers[to] = fields[0].into(),
                READ_FIELD if i.offset == VLAN_PRESENT => registers[to] = fields[1].into(),
                COPY => registers[to] = registers[from],
                SET => registers[to] = number,
                SET_32 => registers[to] = number & 0xffff_ffff,
                AND => registers[to] &= number,
                JUMP_UNLESS => jump = registers[to] != number,
                JUMP_UNLESS_SAME => jump = registers[to] != registers[from],
                CALL => {
                    assert_eq!((i.number, registers[2]), (REDIRECT, 0));
                    return Some(registers[1]);
                }
                EXIT => {
                    assert_eq!(registers[0], 0xffff_ffff, "ask the next one");
                    return None;
                }
                code => panic!("unknown instruction {code:#x}"),
            }
            at += 1;
            if jump {
                at += usize::try_from(i.offset).unwrap();
            }
        }
    }

    fn datagram(local: IpAddr) -> Vec<u8> {
        let mut packet = vec![0; 12];
        match local {
            IpAddr::V4(v4) => {
                packet.extend([8, 0, 0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17, 0, 0]);
                packet.extend([192, 0, 2, 1]);
                packet.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 30, 17, 64]);
                packet.extend([0xfd; 16]);
                packet.extend(v6.octets());
            }
        }
        packet.extend([0xc0, 0, 0x12, 0xb5]);
        packet.extend([0; 30]);
        packet
    }

    #[test]
    fn vxlan_for_the_vtep_is_taken() {
        for local in ["192.0.2.2", "10.0.0.1", "2001:db8::2", "fd00:ffff::1"] {
            let local: IpAddr = local.parse().unwrap();
            let program = receive(local, TAP);
            let got = run(&program, &datagram(local), [0, 0]);
            assert_eq!(got, Some(TAP.into()), "{local}");
        }
    }

    /// Each byte that is changed here makes it somebody else's.
    #[test]
    fn what_is_for_others_or_not_plain_is_left() {
        let v4 = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
        let v6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
        let wrong4 = [
            (13, 6, "arp"),
            (14, 0x46, "options"),
            (20, 0x20, "first fragment"),
            (21, 1, "later fragment"),
            (23, 6, "tcp"),
            (33, 3, "another address"),
            (37, 0xb6, "another port"),
        ];
        let wrong6 = [
            (13, 0, "another protocol"),
            (20, 44, "fragment header"),
            (20, 0, "hop-by-hop options"),
            (38, 0xfe, "another address"),
            (53, 3, "another address"),
            (57, 0xb6, "another port"),
        ];
        let all = wrong4.map(|w| (v4, w)).into_iter();
        for (local, (place, byte, what)) in all.chain(wrong6.map(|w| (v6, w))) {
            let mut packet = datagram(local);
            packet[place] = byte;
            let got = run(&receive(local, TAP), &packet, [0, 0]);
            assert_eq!(got, None, "{what}");
        }
        for local in [v4, v6] {
            let program = receive(local, TAP);
            assert_eq!(run(&program, &datagram(local), [3, 0]), None, "other host");
            assert_eq!(run(&program, &datagram(local), [0, 1]), None, "tagged");
            assert_eq!(run(&program, &datagram(local)[..35], [0, 0]), None, "short");
        }
        // Don't-fragment is no fragment.
        let mut packet = datagram(v4);
        packet[20] = 0;
        assert!(run(&receive(v4, TAP), &packet, [0, 0]).is_some());
    }

    #[test]
    fn all_that_the_switch_writes_goes_to_the_link() {
        assert_eq!(run(&transmit(7), &[], [3, 1]), Some(7));
    }
}
