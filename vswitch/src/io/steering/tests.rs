use net::{Headers, testkit::FrameBuilder};

use super::*;
use crate::io::bpf::SET_WIDE;

/// What the kernel would reckon.
fn run(program: &[Instruction], packet: &[u8]) -> u64 {
    let mut registers = [0u64; 11];
    let mut at = 0usize;
    loop {
        let i = program[at];
        let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
        let number = i64::from(i.number).cast_unsigned();
        let read = |from: u64, len: usize| {
            let place = usize::try_from(from + number).unwrap();
            let bytes = packet.get(place..place + len)?;
            Some(bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b)))
        };
        let mut jump = false;
        let got = match i.code {
            LOAD_1 => read(0, 1),
            LOAD_2 => read(0, 2),
            LOAD_4 => read(0, 4),
            LOAD_2_FROM => read(registers[from], 2),
            code => {
                match code {
                    SET_WIDE => {
                        let high = i64::from(program[at + 1].number).cast_unsigned();
                        registers[to] = number & 0xffff_ffff | high << 32;
                        at += 1;
                    }
                    COPY => registers[to] = registers[from],
                    SET => registers[to] = number,
                    AND => registers[to] &= number,
                    SHIFT_LEFT => registers[to] <<= number,
                    SHIFT_RIGHT => registers[to] >>= number,
                    REST_OF => registers[to] %= number,
                    ADD_FROM => registers[to] = registers[to].wrapping_add(registers[from]),
                    XOR_FROM => registers[to] ^= registers[from],
                    MULTIPLY_BY => registers[to] = registers[to].wrapping_mul(registers[from]),
                    JUMP => jump = true,
                    JUMP_IF => jump = registers[to] == number,
                    JUMP_UNLESS => jump = registers[to] != number,
                    EXIT => return registers[0],
                    code => panic!("unknown instruction {code:#x}"),
                }
                Some(registers[0])
            }
        };
        match got {
            Some(read) => registers[0] = read,
            // A read beyond the packet ends the program.
            None => return 0,
        }
        at += 1;
        if jump {
            at += usize::try_from(i.offset).unwrap();
        }
    }
}

#[test]
fn the_kernel_reckons_what_the_switch_does() {
    for workers in [2, 3, 8] {
        let steering = Steering::new(0xfeed, workers);
        let program = steering.program(0);
        let mut seen = std::collections::BTreeSet::new();
        for v6 in [false, true] {
            for port in 1..100 {
                for frame in [
                    FrameBuilder::tcp(v6, port, 80),
                    FrameBuilder::udp(v6, 53, port),
                    FrameBuilder::sctp(v6, port, port),
                    FrameBuilder::echo(v6, port),
                    FrameBuilder::other(v6, 47),
                ] {
                    let frame = frame.payload(b"whatever").build();
                    let (_, key) = Headers::parse(&frame).unwrap();
                    let tuple = key.five_tuple().unwrap();
                    let home = tuple.symmetric_hash(0xfeed) % u64::from(workers);
                    assert_eq!(run(&program, &frame), home, "{tuple}");
                    seen.insert(home);
                }
            }
        }
        assert_eq!(seen.len(), usize::from(workers));
    }
}

#[test]
fn a_tagged_frame_goes_where_it_would_without_its_tag() {
    let steering = Steering::new(0xfeed, 5);
    let (plain, program) = (steering.program(0), steering.program_with_tags());
    let mut seen = std::collections::BTreeSet::new();
    for v6 in [false, true] {
        for port in 1..50 {
            let frame = FrameBuilder::udp(v6, port, 53).payload(b"whatever");
            let (bare, tagged) = (frame.clone().build(), frame.vlan(101).build());
            let home = run(&plain, &bare);
            assert_eq!([run(&program, &bare), run(&program, &tagged)], [home; 2]);
            seen.insert(home);
        }
    }
    assert_eq!(seen.len(), 5);
}

#[test]
fn an_inner_frame_is_found_behind_its_headers() {
    let steering = Steering::new(3, 7);
    let frame = FrameBuilder::tcp(true, 9, 80).build();
    let mut packet = vec![0xaa; 50];
    packet.extend(&frame);
    assert_eq!(
        run(&steering.program(50), &packet),
        run(&steering.program(0), &frame)
    );
}

#[test]
fn fragments_of_a_packet_go_one_way_and_what_is_cut_short_goes_to_the_first() {
    let steering = Steering::new(3, 7);
    let program = steering.program(0);
    let udp = || FrameBuilder::udp(false, 9, 80).payload(&[0; 64]);
    let first = udp().fragment(1, 0, true).build();
    let later = udp().fragment(1, 8, false).build();
    assert_eq!(run(&program, &first), run(&program, &later));
    let whole = udp().build();
    for len in [0, 13, 20, 36] {
        assert_eq!(run(&program, &whole[..len]), 0, "{len}");
    }
    let arp = [0xff; 60];
    assert_eq!(run(&program, &arp), 0);
}
