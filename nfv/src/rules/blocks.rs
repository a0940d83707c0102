//! In blocks of which lengths is an address?
//!
//! Prefixes lie within one another or apart, so their bounds cut the numbers into stretches in which the answer is the same.

use super::{
    Block,
    address::{Address, within},
};

/// The stretches, each with the lengths of the blocks that hold it.
#[derive(Debug, Clone)]
pub(super) struct Blocks<A> {
    /// Where each begins; the first one at zero.
    starts: Vec<A>,
    /// Bit `n - 1`: a block of `n` bits.
    lengths: Vec<u128>,
}

/// What is known of an address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    lengths: u128,
    /// How many of its first bits tell it from all that has another answer.
    pub(super) bits: u8,
}

impl Held {
    /// Is it in a block of this length?
    pub(super) fn has(self, bits: u8) -> bool {
        self.lengths & bit(bits) != 0
    }
}

fn bit(bits: u8) -> u128 {
    1u128
        .checked_shl(u32::from(bits).wrapping_sub(1))
        .unwrap_or(0)
}

impl<A: Address> Blocks<A> {
    pub(super) fn new(blocks: impl Iterator<Item = Block<A>>) -> Self {
        let mut blocks: Vec<_> = blocks.filter(|b| b.bits > 0).collect();
        // What holds stands before what it holds.
        blocks.sort_unstable();
        blocks.dedup();
        let mut this = Self {
            starts: vec![A::default()],
            lengths: vec![0],
        };
        let mut open: Vec<(A, u128)> = Vec::new();
        for block in blocks {
            while let Some(&(last, _)) = open.last()
                && last < block.value
            {
                this.close(&mut open);
            }
            let around = open.last().map_or(0, |(_, lengths)| *lengths);
            let lengths = around | bit(block.bits);
            open.push((block.value.with_host_bits(block.bits), lengths));
            this.begin(block.value, lengths);
        }
        while !open.is_empty() {
            this.close(&mut open);
        }
        this
    }

    /// The innermost block ends: what is around it goes on behind it.
    fn close(&mut self, open: &mut Vec<(A, u128)>) {
        let ended = open.pop().and_then(|(last, _)| last.after());
        if let Some(start) = ended {
            let around = open.last().map_or(0, |(_, lengths)| *lengths);
            self.begin(start, around);
        }
    }

    fn begin(&mut self, start: A, lengths: u128) {
        if let (Some(last), Some(of_last)) = (self.starts.last(), self.lengths.last_mut())
            && *last == start
        {
            *of_last = lengths;
            return;
        }
        self.starts.push(start);
        self.lengths.push(lengths);
    }

    pub(super) fn find(&self, addr: A) -> Held {
        let behind = self.starts.partition_point(|s| *s <= addr);
        let at = behind.saturating_sub(1);
        let first = self.starts.get(at).copied().unwrap_or_default();
        let last = self.starts.get(behind).and_then(|s| s.before());
        Held {
            lengths: self.lengths.get(at).copied().unwrap_or(0),
            bits: within(addr, first, last.unwrap_or(A::default().with_host_bits(0))),
        }
    }
}
