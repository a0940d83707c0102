//! Do the bytes add up?
//!
//! The Internet checksum: ones' complement sums over 16-bit words (RFC 1071), and its incremental update (RFC 1624).

/// The folded ones' complement sum of `bytes`, not complemented; 0xffff over a range that holds its own checksum.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    fold(add(0, bytes))
}

/// Adds `bytes` (taken as starting at an even offset) to an unfolded sum.
#[inline]
pub fn add(acc: u64, bytes: &[u8]) -> u64 {
    // Headers and addresses, most of all that is summed, are not worth a call.
    if bytes.len() < BLOCK {
        add_few(acc, bytes)
    } else {
        add_many(acc, bytes)
    }
}

const BLOCK: usize = 32;

fn add_many(acc: u64, bytes: &[u8]) -> u64 {
    let (blocks, tail) = bytes.as_chunks::<BLOCK>();
    // Eight independent lanes in the machine's own byte order become vector additions; the sum's bytes are swapped once, at the
    // end (RFC 1071 §2(B)). 2^32 blocks would overflow a lane.
    let mut lanes = [0u64; 8];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let sum = lanes.iter().sum::<u64>();
    add_few(acc + u64::from(u16::from_be(fold(sum))), tail)
}

/// The unfolded sum of an IPv4 header or its options: whole words, few of them.
#[inline]
pub(crate) fn few(bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks::<4>().0.iter();
    words.map(|w| u64::from(u32::from_be_bytes(*w))).sum()
}

#[inline]
fn add_few(mut acc: u64, bytes: &[u8]) -> u64 {
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
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "three folds leave 16 bits")]
pub fn fold(mut acc: u64) -> u16 {
    acc = (acc & 0xffff_ffff) + (acc >> 32);
    acc = (acc & 0xffff) + (acc >> 16);
    acc = (acc & 0xffff) + (acc >> 16);
    acc = (acc & 0xffff) + (acc >> 16);
    acc as u16
}

/// The pseudo-header's unfolded sum for a transport of `len` bytes (RFC 9293 §3.1, RFC 8200 §8.1).
pub fn pseudo(src: std::net::IpAddr, dst: std::net::IpAddr, proto: u8, len: usize) -> u64 {
    let address = |acc, a| match a {
        std::net::IpAddr::V4(a) => add(acc, &a.octets()),
        std::net::IpAddr::V6(a) => add(acc, &a.octets()),
    };
    address(address(0, src), dst) + u64::from(proto) + len as u64
}

/// The Internet checksum of a transport message whose own field is zero or stands in `bytes` as it is: 0 when it holds.
pub fn transport(src: std::net::IpAddr, dst: std::net::IpAddr, proto: u8, bytes: &[u8]) -> u16 {
    !fold(add(pseudo(src, dst, proto, bytes.len()), bytes))
}

/// The Castagnoli CRC over the parts together, as SCTP uses it (RFC 9260 appendix A).
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in parts.iter().copied().flatten() {
        let at = (crc ^ u32::from(byte)) & 0xff;
        crc = (crc >> 8) ^ CRC32C.get(at as usize).copied().unwrap_or_default();
    }
    !crc
}

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time: out of range would not compile"
)]
const CRC32C: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut n = 0u32;
    while n < 256 {
        let mut crc = n;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[n as usize] = crc;
        n += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc1071_example() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
    }

    #[test]
    fn an_odd_tail_counts_as_the_high_byte() {
        for len in 0..9 {
            let bytes: Vec<u8> = (1..=len).collect();
            let naive = bytes.chunks(2).fold(0u64, |acc, c| {
                acc + (u64::from(c[0]) << 8) + u64::from(c.get(1).copied().unwrap_or(0))
            });
            assert_eq!(sum(&bytes), fold(naive), "{len}");
        }
    }

    #[test]
    fn crc32c_check_value() {
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283);
    }
}
