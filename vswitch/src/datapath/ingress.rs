//! 1: What came in, and may it be looked at?
//!
//! Each packet is parsed once. What is a fragment meets the others of its packet next ([`fragments`](super::fragments)).
//!
//! # References
//! RFC 4291 §2.5.5.2 (mapped addresses do not belong on a wire); RFC 4861 §7.1.

use net::{DropReason, L3, Packet, flow_key::ethertype};

/// Parses a packet, and judges what no table needs to.
///
/// # Errors
/// The reason why it can't be looked at.
pub fn admit(packet: &mut Packet) -> Result<(), DropReason> {
    packet.parse()?;
    let headers = *packet.headers();
    let key = packet.key();
    // An IPv6 packet with mapped addresses would look like an IPv4 connection.
    if headers.l3 == L3::Ipv6 && (is_mapped(key.ip_src) || is_mapped(key.ip_dst)) {
        return Err(DropReason::MalformedIpv6);
    }
    // RFC 4861 §7.1: a Neighbor Discovery message that was ever forwarded is none.
    if key.ethertype == ethertype::IPV6
        && key.ip_proto == net::flow_key::proto::ICMP6
        && (133..=137).contains(&key.l4_src)
        && key.ip_ttl != 255
    {
        return Err(DropReason::MalformedNd);
    }
    Ok(())
}

fn is_mapped(addr: [u8; 16]) -> bool {
    let [head @ .., _, _, _, _] = addr;
    head == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
}
