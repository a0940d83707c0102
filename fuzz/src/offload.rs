//! What may a workload say of its frames, and are they cut and put together right?
//!
//! An input is a virtio-net header and a frame, as they are read from a tap.

use std::cell::RefCell;

use net::testkit::{FrameBuilder, checksums_hold, tcp};
use net::{DropReason, Gso, Headers, L3, L4, Offload, Packet, PacketPool};
use vswitch::io::coalesce::Coalescer;
use vswitch::io::offload::{Segments, finish};
use vswitch::io::tap::{self, VNET};

/// More pieces of one frame are as good as these.
const PIECES: usize = 64;

thread_local! {
    /// Buffers of the input before; a panic takes them with it.
    static POOL: RefCell<Option<PacketPool>> = const { RefCell::new(None) };
}

/// Reads a frame, cuts it at what its sender said and finer, and puts the pieces together again.
pub(crate) fn super_frame(bytes: &[u8]) {
    let Some((header, frame)) = bytes.split_first_chunk::<VNET>() else {
        return;
    };
    let kept = POOL.take();
    let mut pool = kept.unwrap_or_else(|| PacketPool::new(4 * PIECES, 2 * PIECES));
    let before = pool.available();
    let Some(mut packet) = pool.take(frame.len()) else {
        unreachable!("the pool is large enough");
    };
    let fits = packet.fill(frame).is_ok() && tap::admit(&mut packet, *header).is_ok();
    if fits && packet.parse().is_ok() {
        for limit in [usize::MAX, 1400, 536] {
            cut_and_join(&mut pool, &packet, limit);
        }
    }
    pool.give(packet);
    assert_eq!(pool.available(), before, "a packet is lost");
    POOL.set(Some(pool));
}

fn cut_and_join(pool: &mut PacketPool, packet: &Packet, limit: usize) {
    let pieces = match cut(
        packet.bytes(),
        packet.headers(),
        &packet.offload(),
        limit,
        PIECES,
    ) {
        Ok(pieces) => pieces,
        Err(reason) => {
            let known = [
                DropReason::MtuExceeded,
                DropReason::BadChecksum,
                DropReason::MalformedOffload,
            ];
            assert!(known.contains(&reason), "another reason: {reason:?}");
            return;
        }
    };
    // What the sender summed wrong stays wrong in every piece; what it summed right is right in each.
    let mut whole = packet.bytes().to_vec();
    finish(&mut whole, packet.headers(), &mut packet.offload());
    let sound = checksums_hold(&whole);
    for piece in &pieces {
        let Ok((headers, _)) = Headers::parse(piece) else {
            unreachable!("a piece of a frame that parses parses");
        };
        assert_eq!(
            headers.end as usize,
            piece.len(),
            "its length says what it is"
        );
        assert!(
            !sound || checksums_hold(piece),
            "a piece's checksum is wrong"
        );
    }
    join(pool, packet.bytes(), &pieces);
}

/// The pieces of a frame, the first `most` of them.
fn cut(
    frame: &[u8],
    headers: &Headers,
    offload: &Offload,
    limit: usize,
    most: usize,
) -> Result<Vec<Vec<u8>>, DropReason> {
    let mut segments = Segments::new(frame, headers, offload, limit)?;
    let (left, rest, size) = (segments.left(), segments.rest(), segments.size());
    assert_eq!(left, rest.div_ceil(size));
    let mut header = vec![0; segments.header_len()];
    let mut pieces = Vec::new();
    let mut bytes = 0;
    while pieces.len() < most
        && let Some(payload) = segments.next_into(&mut header)
    {
        bytes += payload.len();
        let is_last = bytes == rest;
        assert!(
            payload.len() == size || (is_last && payload.len() < size),
            "only the last piece may be shorter"
        );
        pieces.push([&header[..], payload].concat());
    }
    assert_eq!(pieces.len(), left.min(most), "it said how many there are");
    Ok(pieces)
}

/// Puts pieces together, with a stranger among them; what comes out cuts into what went in.
fn join(pool: &mut PacketPool, stranger: &[u8], pieces: &[Vec<u8>]) {
    let mut given: Vec<Vec<u8>> = Vec::new();
    let mut out = Vec::new();
    let mut coalescer = Coalescer::default();
    let mut emit = |packet: Packet, (): ()| out.push(packet);
    for (n, piece) in pieces.iter().enumerate() {
        let both = [Some(piece.as_slice()), (n == 1).then_some(stranger)];
        for frame in both.into_iter().flatten() {
            let limits = (usize::from(u16::MAX), None);
            if coalescer.push(pool, frame, (), limits, &mut emit).is_ok() {
                given.push(plain(frame.to_vec()));
            }
        }
    }
    coalescer.flush(&mut emit);
    let mut got = Vec::new();
    for packet in out {
        got.extend(uncut(&packet));
        pool.give(packet);
    }
    given.sort();
    got.sort();
    assert_eq!(got, given, "what was put together is not what there was");
}

/// The frames that a packet stands for.
fn uncut(packet: &Packet) -> Vec<Vec<u8>> {
    let offload = packet.offload();
    if offload.gso == Gso::None {
        return vec![plain(packet.bytes().to_vec())];
    }
    let pieces = cut(
        packet.bytes(),
        packet.headers(),
        &offload,
        usize::MAX,
        usize::MAX,
    );
    match pieces {
        Ok(pieces) => pieces.into_iter().map(plain).collect(),
        Err(reason) => unreachable!("a train is cut again: {reason:?}"),
    }
}

/// The frame without what means nothing: the IPv4 identification of one that forbids fragments (RFC 6864 §4.1), and the sum
/// over it.
fn plain(mut frame: Vec<u8>) -> Vec<u8> {
    let Ok((headers, _)) = Headers::parse(&frame) else {
        return frame;
    };
    let l3 = usize::from(headers.l3_at);
    if headers.l3 == L3::Ipv4
        && frame.get(l3 + 6).is_some_and(|byte| byte & 0x40 != 0)
        && let Some([a, b]) = frame
            .get_disjoint_mut([l3 + 4..l3 + 6, l3 + 10..l3 + 12])
            .ok()
    {
        a.fill(0);
        b.fill(0);
    }
    frame
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![[&[0; VNET][..], &crate::frames::ipv4_udp()].concat()];
    for v6 in [false, true] {
        let payload: Vec<u8> = (0..4000u32).map(|n| n.to_le_bytes()[0]).collect();
        let tcp = FrameBuilder::tcp(v6, 40_000, 80)
            .flags(tcp::ACK | tcp::PSH)
            .seq(u32::MAX - 1000, 7)
            .payload(&payload);
        let udp = FrameBuilder::udp(v6, 40_000, 53).payload(&payload);
        seeds.push([&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &tcp.build()].concat());
        let kind = if v6 { 4 } else { 1 };
        seeds.push(opened(tcp.build(), kind, 1400));
        seeds.push(opened(tcp.build(), kind | 0x80, 536));
        seeds.push(opened(udp.build(), 5, 1000));
        seeds.push(opened(udp.build(), 0, 0));
    }
    seeds
}

/// A whole frame as a workload's kernel hands it over: the field holds the pseudo-header's sum.
fn opened(mut frame: Vec<u8>, kind: u8, size: u16) -> Vec<u8> {
    let Ok((headers, key)) = Headers::parse(&frame) else {
        unreachable!("a well-formed frame");
    };
    let (protocol, offset) = if headers.l4 == L4::Tcp {
        (6, 16u16)
    } else {
        (17, 6)
    };
    let start = headers.l4_at;
    let at = usize::from(start);
    let len = frame.len() - at;
    // A sum over zeros is the pseudo-header's, with the length in it.
    let zeros = vec![0; len];
    let sum = !net::checksum::transport(key.src_addr(), key.dst_addr(), protocol, &zeros);
    if let Some(field) = frame
        .get_mut(at + usize::from(offset)..)
        .and_then(|f| f.first_chunk_mut())
    {
        *field = sum.to_be_bytes();
    }
    let mut seed = vec![1, kind, 0, 0];
    for field in [size, start, offset] {
        seed.extend(field.to_le_bytes());
    }
    seed.extend(frame);
    seed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_admitted_and_most_are_cut() {
        let mut pool = PacketPool::new(1, 1);
        let mut pieces = vec![];
        for seed in seeds() {
            let (header, frame) = seed.split_first_chunk().unwrap();
            let mut packet = pool.take(frame.len()).unwrap();
            packet.fill(frame).unwrap();
            tap::admit(&mut packet, *header).unwrap();
            packet.parse().unwrap();
            let offload = packet.offload();
            let cut = cut(frame, packet.headers(), &offload, usize::MAX, usize::MAX);
            pieces.push(cut.map_or(0, |c| c.len()));
            pool.give(packet);
        }
        assert_eq!(pieces, [0, 1, 3, 8, 4, 0, 1, 3, 8, 4, 0]);
    }
}
