//! How is a program for the kernel written down?
//!
//! Instructions by name, and [`Assembly`], which knows where jumps go. What a program may do is for the kernel to check when
//! it is loaded ([`super::sys`]).
//!
//! # References
//! RFC 9669 (BPF instruction set), its section 5.5 for the reads of packets.

use super::sys::Instruction;

/// Reads of a packet into register 0: a byte, two, four, in the network's order, at an offset.
pub(super) const LOAD_1: u8 = 0x30;
pub(super) const LOAD_2: u8 = 0x28;
pub(super) const LOAD_4: u8 = 0x20;
/// The same of two bytes, at an offset from what a register holds.
pub(super) const LOAD_2_FROM: u8 = 0x48;
/// A field of the kernel's description of the packet.
pub(super) const READ_FIELD: u8 = 0x61;
/// A number of 64 bits: takes the place of two instructions.
pub(super) const SET_WIDE: u8 = 0x18;
pub(super) const COPY: u8 = 0xbf;
pub(super) const SET: u8 = 0xb7;
/// The same in 32 bits, the upper half zero.
pub(super) const SET_32: u8 = 0xb4;
pub(super) const AND: u8 = 0x57;
pub(super) const SHIFT_LEFT: u8 = 0x67;
pub(super) const SHIFT_RIGHT: u8 = 0x77;
pub(super) const REST_OF: u8 = 0x97;
pub(super) const ADD_FROM: u8 = 0x0f;
pub(super) const XOR_FROM: u8 = 0xaf;
pub(super) const MULTIPLY_BY: u8 = 0x2f;
pub(super) const JUMP: u8 = 0x05;
pub(super) const JUMP_IF: u8 = 0x15;
pub(super) const JUMP_UNLESS: u8 = 0x55;
pub(super) const JUMP_UNLESS_SAME: u8 = 0x5d;
pub(super) const CALL: u8 = 0x85;
pub(super) const EXIT: u8 = 0x95;

/// An instruction.
pub(super) fn op(code: u8, to: u8, from: u8, offset: i16, number: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        number,
    }
}

/// A number of 32 bits, as an instruction holds it.
pub(super) fn bits(word: u32) -> i32 {
    i32::from_ne_bytes(word.to_ne_bytes())
}

/// A place to jump to, not known yet.
#[derive(Debug, Default)]
pub(super) struct Label(Vec<usize>);

/// A program that is being written.
#[derive(Debug, Default)]
pub(super) struct Assembly(Vec<Instruction>);

impl Assembly {
    /// Adds an instruction.
    pub(super) fn push(&mut self, instruction: Instruction) {
        self.0.push(instruction);
    }

    /// Adds a jump to a place that comes later.
    pub(super) fn jump(&mut self, to: &mut Label, code: u8, register: u8, number: i32) {
        to.0.push(self.0.len());
        self.push(op(code, register, 0, 0, number));
    }

    /// Adds a jump that is taken unless two registers hold the same.
    pub(super) fn jump_unless_same(&mut self, to: &mut Label, a: u8, b: u8) {
        to.0.push(self.0.len());
        self.push(op(JUMP_UNLESS_SAME, a, b, 0, 0));
    }

    /// Here is where those jumps go.
    pub(super) fn place(&mut self, label: Label) {
        let here = self.0.len();
        for at in label.0 {
            if let Some(jump) = self.0.get_mut(at) {
                // Some dozens of instructions: it fits.
                jump.offset = i16::try_from(here - at - 1).unwrap_or(i16::MAX);
            }
        }
    }

    /// Sets a register to a number of 64 bits.
    pub(super) fn set_wide(&mut self, register: u8, number: u64) {
        let [low, high] = [number, number >> 32]
            .map(|half| bits(u32::try_from(half & u64::from(u32::MAX)).unwrap_or_default()));
        self.push(op(SET_WIDE, register, 0, 0, low));
        self.push(op(0, 0, 0, 0, high));
    }

    /// The program.
    pub(super) fn finish(self) -> Vec<Instruction> {
        self.0
    }
}
