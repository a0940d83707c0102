//! What is asked of an address as a number?

use std::{
    fmt::Debug,
    hash::Hash,
    ops::{BitAnd, BitXor},
};

/// The addresses of a family, as numbers.
pub(super) trait Address:
    Copy + Ord + Hash + Default + Debug + BitAnd<Output = Self> + BitXor<Output = Self>
{
    /// How many bits it has.
    const WIDTH: u8;
    /// How many bits stand before it in a key.
    const BEFORE: u8;
    /// Lengths that are read are multiples of this one, and so are those of tuples when there are too many.
    const ROUND: u8;
    /// From the bytes of a key.
    fn of(bytes: [u8; 16]) -> Self;
    /// The first bits set.
    fn mask(bits: u8) -> Self;
    /// All but the first bits set.
    fn with_host_bits(self, bits: u8) -> Self;
    /// The one before it.
    fn before(self) -> Option<Self>;
    /// The one behind it.
    fn after(self) -> Option<Self>;
    /// How many of its first bits are zero.
    fn zeros(self) -> u8;
}

macro_rules! address {
    ($int:ty, $width:literal, $round:literal, $of:expr) => {
        impl Address for $int {
            const WIDTH: u8 = $width;
            const BEFORE: u8 = 128 - Self::WIDTH;
            const ROUND: u8 = $round;
            fn of(bytes: [u8; 16]) -> Self {
                let of: fn([u8; 16]) -> Self = $of;
                of(bytes)
            }
            fn mask(bits: u8) -> Self {
                !Self::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
            }
            fn with_host_bits(self, bits: u8) -> Self {
                self | !Self::mask(bits)
            }
            fn before(self) -> Option<Self> {
                self.checked_sub(1)
            }
            fn after(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn zeros(self) -> u8 {
                // At most 128.
                u8::try_from(self.leading_zeros()).unwrap_or(Self::WIDTH)
            }
        }
    };
}

// The last four bytes of an IPv4 address in a key are the address.
address!(u32, 32, 8, |[.., a, b, c, d]| u32::from_be_bytes([
    a, b, c, d
]));
address!(u128, 128, 16, u128::from_be_bytes);

/// How many of an address's first bits show whether it is in a block.
pub(super) fn told_apart<A: Address>(addr: A, value: A, bits: u8) -> u8 {
    let same = (addr ^ value).zeros();
    if same >= bits {
        bits
    } else {
        rounded::<A>(same + 1).min(bits)
    }
}

/// How many of an address's first bits keep it within these bounds.
pub(super) fn within<A: Address>(addr: A, first: A, last: A) -> u8 {
    let beyond = |other: Option<A>| other.map_or(0, |o| (addr ^ o).zeros() + 1);
    rounded::<A>(beyond(first.before()).max(beyond(last.after())))
}

fn rounded<A: Address>(bits: u8) -> u8 {
    bits.next_multiple_of(A::ROUND).min(A::WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_bounds_hold_at_both_ends() {
        assert_eq!((u32::mask(0), u32::mask(32)), (0, u32::MAX));
        assert_eq!((u128::mask(0), u128::mask(128)), (0, u128::MAX));
        assert_eq!(u32::mask(8), 0xff00_0000);
        assert_eq!(within(5u32, 0, u32::MAX), 0);
        assert_eq!(within(5u32, 5, 5), 32);
        assert_eq!(within(0x0a01_0203u32, 0x0a00_0000, 0x0aff_ffff), 8);
        assert_eq!(told_apart(0x0a01_0203u32, 0x0a00_0000, 8), 8);
        assert_eq!(told_apart(0x0b01_0203u32, 0x0a00_0000, 32), 8);
        assert_eq!(told_apart(0x0a01_0203u32, 0x0a01_0204, 32), 32);
        assert_eq!(told_apart(7u128, 7, 0), 0);
        assert_eq!(<u128 as Address>::BEFORE, 0);
        assert_eq!(<u32 as Address>::BEFORE, 96);
    }
}
