//! What might an attacker send next?
//!
//! A seed is copied and changed a few times: bits flipped, bytes inserted and deleted, two seeds
//! spliced, numbers at the edge of their width written, and fields that look like a length (one
//! that counts the bytes behind it) moved by a little. Headers are full of such fields, and most
//! parser mistakes live where a length and the truth disagree.

use super::random::Random;

/// The longest input that is made: a jumbo frame with encapsulations. Longer seeds are cut.
const LONGEST: usize = 9_216;

/// Numbers at the edge of something, big-endian as networks write them.
const INTERESTING: &[u16] = &[
    0, 1, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xfffe, 0xffff, // edges of widths
    0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, // ethertypes
    0x4500, 0x4600, 0x4f00, 0x6000, // first bytes of IPv4 and IPv6
    4789, 4790, 67, 68, 546, 547, 53, // ports that parsers look at
];

/// One-byte numbers that select a parser's branch.
const INTERESTING_BYTES: &[u8] = &[
    0, 1, 2, 4, 5, 6, 8, 17, 41, 43, 44, 50, 51, 58, 59, 60, 132, 0x45, 0x60, 0x7f, 0x80, 0xff,
];

/// Makes inputs from a corpus.
#[derive(Debug)]
pub(super) struct Mutator {
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    /// An empty corpus is as good as one empty seed.
    pub(super) fn new(mut corpus: Vec<Vec<u8>>) -> Self {
        for seed in &mut corpus {
            seed.truncate(LONGEST);
        }
        if corpus.is_empty() {
            corpus.push(Vec::new());
        }
        Self { corpus }
    }

    /// Replaces `input` by the next one; its allocation is kept.
    pub(super) fn next_into(&mut self, random: &mut Random, input: &mut Vec<u8>) {
        input.clear();
        if let Some(seed) = random.pick(&self.corpus) {
            input.extend_from_slice(seed);
        }
        // One change mostly, sometimes a dozen: depth needs valid surroundings.
        let depth = random.below(5);
        let changes = 1 + random.below(1 << depth);
        for _ in 0..changes {
            self.change(random, input);
        }
        input.truncate(LONGEST);
    }

    fn change(&self, random: &mut Random, input: &mut Vec<u8>) {
        match random.below(10) {
            0 | 1 => flip_bit(random, input),
            2 => insert(random, input),
            3 => delete(random, input),
            4 => self.splice(random, input),
            5 => write_word(random, input),
            6 => write_byte(random, input),
            7 => move_length(random, input),
            8 => input.truncate(random.below(input.len() + 1)),
            _ => repeat(random, input),
        }
    }

    /// The head of this input and the tail of another.
    fn splice(&self, random: &mut Random, input: &mut Vec<u8>) {
        let Some(other) = random.pick(&self.corpus) else {
            return;
        };
        input.truncate(random.below(input.len() + 1));
        let from = random.below(other.len() + 1);
        input.extend_from_slice(other.get(from..).unwrap_or_default());
    }
}

fn flip_bit(random: &mut Random, input: &mut [u8]) {
    let at = random.below(input.len());
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

fn insert(random: &mut Random, input: &mut Vec<u8>) {
    let at = random.below(input.len() + 1);
    let length = 1 + random.below(8);
    let byte = random.byte();
    input.splice(at..at, std::iter::repeat_n(byte, length));
}

fn delete(random: &mut Random, input: &mut Vec<u8>) {
    let from = random.below(input.len() + 1);
    let to = (from + 1 + random.below(8)).min(input.len());
    input.drain(from..to);
}

fn write_word(random: &mut Random, input: &mut [u8]) {
    let at = random.below(input.len());
    if let (Some(word), Some(value)) = (input.get_mut(at..at + 2), random.pick(INTERESTING)) {
        word.copy_from_slice(&value.to_be_bytes());
    }
}

fn write_byte(random: &mut Random, input: &mut [u8]) {
    let at = random.below(input.len());
    let value = random.pick(INTERESTING_BYTES).copied().unwrap_or_default();
    if let Some(byte) = input.get_mut(at) {
        *byte = value;
    }
}

/// Finds, from a random place on, a 16-bit number that could count the bytes behind it, and moves
/// it by a little; without one, any 16-bit number.
fn move_length(random: &mut Random, input: &mut [u8]) {
    let start = random.below(input.len());
    let length = input.len();
    let looks_like_length = |at: usize| {
        let word = input.get(at..at + 2).and_then(|word| word.try_into().ok());
        let value = usize::from(word.map(u16::from_be_bytes)?);
        let behind = length - at;
        (value > 0 && value <= behind + 4 && value + 24 >= behind).then_some(at)
    };
    let at = (start..length)
        .chain(0..start)
        .find_map(looks_like_length)
        .unwrap_or(start);
    let step = [1, 2, 4, 8, 20].get(random.below(5)).copied().unwrap_or(1);
    let more = random.below(2) == 0;
    if let Some(word) = input.get_mut(at..at + 2)
        && let Ok(bytes) = <[u8; 2]>::try_from(&*word)
    {
        let value = u16::from_be_bytes(bytes);
        let moved = if more {
            value.wrapping_add(step)
        } else {
            value.wrapping_sub(step)
        };
        word.copy_from_slice(&moved.to_be_bytes());
    }
}

/// Copies a piece behind itself: options and extension headers that repeat.
fn repeat(random: &mut Random, input: &mut Vec<u8>) {
    let from = random.below(input.len() + 1);
    let to = (from + 1 + random.below(16)).min(input.len());
    let piece: Vec<u8> = input.get(from..to).unwrap_or_default().to_vec();
    for _ in 0..=random.below(4) {
        input.splice(to..to, piece.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(corpus: &[Vec<u8>], runs: u64) -> Vec<Vec<u8>> {
        let mut mutator = Mutator::new(corpus.to_vec());
        let mut input = Vec::new();
        (0..runs)
            .map(|run| {
                mutator.next_into(&mut Random::for_run(3, run), &mut input);
                input.clone()
            })
            .collect()
    }

    #[test]
    fn inputs_stay_within_the_longest() {
        let inputs = made(&[vec![7; LONGEST * 2], Vec::new()], 2_000);
        assert!(inputs.iter().all(|input| input.len() <= LONGEST));
    }

    #[test]
    fn an_empty_corpus_still_makes_inputs() {
        assert!(made(&[], 200).iter().any(|input| !input.is_empty()));
    }

    #[test]
    fn most_inputs_differ_from_their_seed_and_from_each_other() {
        let seed: Vec<u8> = (0..64).collect();
        let mut inputs = made(std::slice::from_ref(&seed), 1_000);
        inputs.sort();
        inputs.dedup();
        assert!(inputs.len() > 700, "{}", inputs.len());
    }

    #[test]
    fn a_field_that_counts_what_is_behind_it_is_found() {
        // Ten bytes, the second word says how many there are from it on.
        let seed = [9, 9, 0, 8, 1, 1, 1, 1, 1, 1];
        let moved = (0..200).filter(|run| {
            let mut input = seed;
            move_length(&mut Random::for_run(5, *run), &mut input);
            input[2..4] != seed[2..4]
        });
        assert!(moved.count() > 100);
    }

    #[test]
    fn splicing_takes_from_both() {
        let mutator = Mutator::new(vec![vec![1; 20], vec![2; 20]]);
        let mixed = (0..200).any(|run| {
            let mut input = vec![1; 20];
            mutator.splice(&mut Random::for_run(9, run), &mut input);
            input.contains(&1) && input.contains(&2)
        });
        assert!(mixed);
    }
}
