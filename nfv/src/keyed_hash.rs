//! How is a choice spread that nobody should foresee?
//!
//! A hash keyed by secret words: each pair of input words is added to two of them before it is multiplied, so that no choice
//! of addresses cancels without knowing them. (foldhash's fixed state has public constants that an IPv6 address can be chosen
//! to cancel, and its shared seed must be `'static`.) It is part of no format.
//!
//! # Cost
//! One multiplication for two words, about 3 ns for a 5-tuple and its zone.
//!
//! # References
//! J. Black and others, UMAC, 1999 (NH); G. Steele and others, Fast Splittable Pseudorandom Number Generators, 2014.

use net::FiveTuple;

/// The secret.
#[derive(Clone)]
pub(crate) struct KeyedHash([u64; 8]);

impl std::fmt::Debug for KeyedHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyedHash(secret)")
    }
}

impl KeyedHash {
    pub(crate) fn new(seed: u64) -> Self {
        let mut word = seed;
        Self([(); 8].map(|()| {
            word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
            scramble(word)
        }))
    }

    /// Of a tuple and one number more.
    #[inline]
    pub(crate) fn tuple(&self, tuple: &FiveTuple, number: u32) -> u64 {
        let [k0, k1, k2, k3, k4, k5, k6, k7] = self.0;
        let [w0, w1, w2, w3, w4] = tuple.words();
        let sum = fold(w0.wrapping_add(k0), w1.wrapping_add(k1))
            .wrapping_add(fold(w2.wrapping_add(k2), w3.wrapping_add(k3)))
            .wrapping_add(fold(
                w4.wrapping_add(k4),
                u64::from(number).wrapping_add(k5),
            ));
        fold(sum ^ k6, k7 | 1)
    }
}

/// A bijection that spreads every bit (the finalizer of `SplitMix64`).
pub(crate) fn scramble(word: u64) -> u64 {
    let a = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are wanted")]
    let (low, high) = (wide as u64, (wide >> 64) as u64);
    low ^ high
}
