//! What may workloads do to the metadata service's TCP?
//!
//! An input is a list of segments of eight bytes: from which of a few connections, flags, where its sequence number and acknowledgement are
//! from where they should be, how much it carries, and how long after the one before. So what comes is nearly right, which is where mistakes are.

use std::net::IpAddr;
use std::time::Duration;

use net::testkit::{FrameBuilder, mac, tcp};
use net::{Headers, Now, flow_key::addr_of};
use vswitch::datapath::tables::metadata::{MAC, PORT, V4, V6};
use vswitch::metadata::{Inward, Limits, Outward, exchange::Exchange};

use crate::host;

const STEP: usize = 8;
/// More would only be slow.
const STEPS: usize = 64;
/// The clients' first sequence number.
const FIRST: u32 = u32::MAX - 40;

/// What a client knows of its connection.
#[derive(Clone, Copy)]
struct Client {
    next: u32,
    theirs: u32,
}

/// Sends the segments, and looks at all that comes back.
pub(crate) fn converse(input: &[u8]) {
    let limits = Limits {
        of_port: 2,
        of_host: 3,
        waiting: 4,
        ..Limits::default()
    };
    let mut service = Exchange::new(limits, 7);
    let none = Client {
        next: FIRST,
        theirs: 0,
    };
    let mut clients = [none; 8];
    let mut now = Now::from_nanos(1_000_000_000);
    for step in input.as_chunks::<STEP>().0.iter().take(STEPS) {
        let [which, flags, seq, ack, length, how, pause, _] = *step;
        let at = usize::from(which & 7);
        let Some(client) = clients.get_mut(at) else {
            unreachable!("there are eight");
        };
        let near = |n: u32, by: u8| n.wrapping_add_signed(i32::from(by.cast_signed()) * 16);
        let flags = flags & 0x3f;
        let v6 = which & 8 != 0;
        let payload = vec![b'x'; usize::from(length) * usize::from(how & 7)];
        let frame = FrameBuilder::tcp(v6, 4000 + u16::from(which & 3), PORT)
            .macs(mac(1), MAC)
            .addrs(own(v6), service_addr(v6))
            .flags(flags)
            .seq(near(client.next, seq), near(client.theirs, ack))
            .payload(&payload)
            .build();
        if seq == 0 {
            let counts = u32::from(flags & (tcp::SYN | tcp::FIN) != 0);
            let sent = u32::try_from(payload.len()).unwrap_or(0);
            client.next = client.next.wrapping_add(sent).wrapping_add(counts);
        }
        now = now + Duration::from_millis(u64::from(pause) * 50);
        let inward = inward(&frame, 1 + u128::from(which >> 4 & 3), flags);
        for Outward { frame, .. } in service.turn([inward], now) {
            heard(&frame, client);
        }
        assert_eq!(service.counts().faults, 0, "the stack has a fault");
        assert!(
            service.counts().open <= 3,
            "more connections than there may be"
        );
    }
    // Nothing is left for ever.
    for _ in 0..20 {
        now = now + Duration::from_secs(30);
        service.turn([], now);
    }
    let counts = service.counts();
    assert_eq!(counts.faults, 0, "the stack has a fault");
}

fn own(v6: bool) -> IpAddr {
    let text = if v6 { "fe80::1" } else { "10.0.0.1" };
    match text.parse() {
        Ok(addr) => addr,
        Err(_) => unreachable!("it is an address"),
    }
}

fn service_addr(v6: bool) -> IpAddr {
    if v6 { V6.into() } else { V4.into() }
}

fn inward(frame: &[u8], port: u128, flags: u8) -> Inward {
    let Ok((headers, key)) = Headers::parse(frame) else {
        unreachable!("what was built parses");
    };
    let at = usize::from(headers.l3_at);
    Inward {
        worker: 0,
        port: host::id(port),
        eth: (mac(1), MAC),
        mtu: 1450,
        from: (addr_of(key.ip_src), key.l4_src).into(),
        to: (addr_of(key.ip_dst), key.l4_dst).into(),
        opens: flags & (tcp::SYN | tcp::RST | tcp::ACK) == tcp::SYN,
        verified: false,
        l4: usize::from(headers.l4_at) - at,
        ip: frame.get(at..).unwrap_or_default().into(),
    }
}

/// Every frame is whole, its checksums right, and it is from where the client spoke to.
fn heard(frame: &[u8], client: &mut Client) {
    let Ok((headers, key)) = Headers::parse(frame) else {
        unreachable!("an answer parses");
    };
    assert!(net::testkit::checksums_hold(frame), "a checksum is wrong");
    assert_eq!((key.src_mac(), key.l4_src), (MAC, PORT));
    assert!(key.src_addr() == V4 || key.src_addr() == V6);
    assert!(frame.len() <= 1450 + 14, "it is larger than its network");
    let l4 = usize::from(headers.l4_at);
    let seq = frame.get(l4 + 4..l4 + 8).unwrap_or_default();
    let seq = <[u8; 4]>::try_from(seq).map_or(0, u32::from_be_bytes);
    let carried = frame.len() - usize::from(headers.payload_at);
    let counts = u32::from(key.tcp_flags & u16::from(tcp::SYN | tcp::FIN) != 0);
    let carried = u32::try_from(carried).unwrap_or(0);
    client.theirs = seq.wrapping_add(carried).wrapping_add(counts);
}

/// A connection from its beginning to its end, of each family; a reset; a flood of beginnings.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (syn, ack, fin, rst) = (2, 16, 17, 4);
    let of = |which: u8| -> Vec<u8> {
        let steps: [[u8; STEP]; 6] = [
            [which, syn, 0, 0, 0, 0, 0, 0],
            [which, ack, 0, 0, 0, 0, 0, 0],
            [which, ack | 8, 0, 0, 100, 1, 0, 0],
            [which, ack, 0, 0, 0, 0, 1, 0],
            [which, fin, 0, 0, 0, 0, 1, 0],
            [which, ack, 0, 0, 0, 0, 1, 0],
        ];
        steps.concat()
    };
    let flood = (0..16u8).flat_map(|n| [n * 17, syn, 0, 0, 0, 0, 9, 0]);
    let begun = of(0).into_iter().take(3 * STEP);
    let cut = begun.chain([0, rst, 0, 0, 0, 0, 0, 0]).collect();
    vec![of(0), of(8), of(0x19), cut, flood.collect()]
}
