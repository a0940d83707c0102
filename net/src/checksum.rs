//! Do the bytes add up?
//!
//! The Internet checksum: ones' complement sums over 16-bit words (RFC 1071), and its incremental update (RFC 1624).

/// The folded ones' complement sum of `bytes`, not complemented; 0xffff over a range that holds its own checksum.
pub fn sum(bytes: &[u8]) -> u16 {
    fold(add(0, bytes))
}

/// Adds `bytes` (taken as starting at an even offset) to an unfolded sum.
pub fn add(mut acc: u64, bytes: &[u8]) -> u64 {
    let (chunks, tail) = bytes.as_chunks::<4>();
    for chunk in chunks {
        acc += u64::from(u32::from_be_bytes(*chunk));
    }
    let mut last = [0u8; 4];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    acc + u64::from(u32::from_be_bytes(last))
}

/// Folds a sum to 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "three folds leave 16 bits")]
pub fn fold(mut acc: u64) -> u16 {
    acc = (acc & 0xffff_ffff) + (acc >> 32);
    acc = (acc & 0xffff) + (acc >> 16);
    acc = (acc & 0xffff) + (acc >> 16);
    acc = (acc & 0xffff) + (acc >> 16);
    acc as u16
}
