//! What does the one parser promise for any frame?

use net::Headers;
use net::checksum;

/// Parses `frame` as it is, and once more with the IPv4 header checksum mended: a wrong checksum is
/// refused early, and would hide everything behind it from a mutator.
pub(crate) fn parse(frame: &[u8]) {
    judge(frame);
    if let Some(mended) = with_header_checksum(frame) {
        judge(&mended);
    }
}

fn judge(frame: &[u8]) {
    let Ok((headers, key)) = Headers::parse(frame) else {
        return;
    };
    let [l3, l4, payload] = [headers.l3_at, headers.l4_at, headers.payload_at].map(usize::from);
    let end = headers.end as usize;
    assert!(
        l3 <= l4 && l4 <= payload && payload <= end,
        "offsets out of order: {headers:?}"
    );
    assert!(
        end <= frame.len(),
        "the packet ends behind its frame: {headers:?}"
    );
    if let Some(tuple) = key.five_tuple() {
        assert_eq!(
            tuple.reversed().reversed(),
            tuple,
            "a tuple turned twice is itself"
        );
        let there = tuple.symmetric_hash(7);
        assert_eq!(
            tuple.reversed().symmetric_hash(7),
            there,
            "both directions share a worker"
        );
    }
    if let Some(quoted) = headers.quoted(frame) {
        assert!(
            l4 <= quoted.l3_at && quoted.l3_at <= quoted.l4_at,
            "{quoted:?}"
        );
        assert!(
            quoted.l4_at <= frame.len(),
            "a quotation ends behind its frame: {quoted:?}"
        );
    }
}

/// A copy of an IPv4 frame with the checksum that its header should have.
pub(crate) fn with_header_checksum(frame: &[u8]) -> Option<Vec<u8>> {
    let at = match frame.get(12..14)? {
        [0x08, 0x00] => 14,
        [0x81, 0x00] if frame.get(16..18)? == [0x08, 0x00] => 18,
        _ => return None,
    };
    let length = usize::from(frame.get(at)? & 0x0f) * 4;
    let mut mended = frame.to_vec();
    let header = mended.get_mut(at..at + length)?;
    header.get_mut(10..12)?.fill(0);
    let sum = !checksum::fold(checksum::add(0, header));
    header.get_mut(10..12)?.copy_from_slice(&sum.to_be_bytes());
    Some(mended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mended_frame_is_accepted_where_the_broken_one_was_not() {
        let mut frame = crate::frames::ipv4_udp();
        frame[24] ^= 0xff;
        assert!(Headers::parse(&frame).is_err());
        assert!(Headers::parse(&with_header_checksum(&frame).unwrap()).is_ok());
    }

    #[test]
    fn every_seed_is_well_formed() {
        for frame in crate::frames::all() {
            assert!(Headers::parse(&frame).is_ok(), "{frame:02x?}");
        }
    }
}
