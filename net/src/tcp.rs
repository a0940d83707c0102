//! What does a TCP segment say to someone who watches its connection?
//!
//! Sequence numbers, window and the one option that changes what a window means. Read only where a connection is tracked:
//! the flow key needs none of it.
//!
//! # References
//! RFC 9293 §3.1 (header), §3.2 (options), RFC 7323 §2.2 (window scale).

use crate::{Headers, L4, flow_key::Fragment};

/// Bits of [`TcpSegment::flags`].
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u16 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u16 = 0x02;
    /// Reset the connection.
    pub const RST: u16 = 0x04;
    /// Push.
    pub const PSH: u16 = 0x08;
    /// The acknowledgment field is significant.
    pub const ACK: u16 = 0x10;
    /// The urgent pointer is significant.
    pub const URG: u16 = 0x20;
}

/// The largest shift of a window (RFC 7323 §2.3: a larger one counts as this).
pub const MAX_WINDOW_SCALE: u8 = 14;

/// A segment, or a super-frame of many: then it is as long as all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpSegment {
    /// The low 9 bits of the flags field: see [`flag`].
    pub flags: u16,
    /// Sequence number of the first byte (or of SYN).
    pub seq: u32,
    /// The next sequence number that the sender expects, if [`flag::ACK`] is set.
    pub ack: u32,
    /// The window as it stands in the header, not scaled.
    pub window: u16,
    /// Bytes of payload.
    pub payload: u32,
    /// The shift that a SYN offers; `None` where there is no such option, and on any other segment.
    pub window_scale: Option<u8>,
}

impl TcpSegment {
    /// Reads the segment of a parsed frame; `None` when it is not TCP, or a later fragment.
    pub fn read(frame: &[u8], headers: &Headers) -> Option<Self> {
        if headers.l4 != L4::Tcp {
            return None;
        }
        let tcp = frame.get(usize::from(headers.l4_at)..usize::from(headers.payload_at))?;
        let (fixed, options) = tcp.split_first_chunk::<20>()?;
        let [
            _,
            _,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            a0,
            a1,
            a2,
            a3,
            off,
            flags,
            w0,
            w1,
            ..,
        ] = *fixed;
        let flags = (u16::from(off & 1) << 8) | u16::from(flags);
        Some(Self {
            flags,
            seq: u32::from_be_bytes([s0, s1, s2, s3]),
            ack: u32::from_be_bytes([a0, a1, a2, a3]),
            window: u16::from_be_bytes([w0, w1]),
            payload: headers.end.saturating_sub(u32::from(headers.payload_at)),
            window_scale: if flags & flag::SYN == 0 {
                None
            } else {
                window_scale(options)
            },
        })
    }

    /// The sequence number behind its last byte; SYN and FIN count one each (RFC 9293 §3.4).
    pub fn end(&self) -> u32 {
        let controls =
            u32::from(self.flags & flag::SYN != 0) + u32::from(self.flags & flag::FIN != 0);
        self.seq.wrapping_add(self.payload).wrapping_add(controls)
    }

    /// Are all of these flags set?
    pub fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}

fn window_scale(mut options: &[u8]) -> Option<u8> {
    // At most 40 bytes; each round takes at least one.
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            0 => return None,
            1 => options = rest,
            _ => {
                let &length = rest.first()?;
                if kind == 3 && length == 3 {
                    return rest.get(1).map(|s| (*s).min(MAX_WINDOW_SCALE));
                }
                // A length below 2 would not move on.
                options = options.get(usize::from(length).max(2)..)?;
            }
        }
    }
    None
}

/// Is the packet a later fragment, which has no transport header of its own?
pub fn is_later_fragment(key: &crate::FlowKey) -> bool {
    key.ip_frag == Fragment::Later as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let header = 20 + options.len();
        let total = 20 + header + payload.len();
        let mut f = vec![0u8; 14];
        f[12] = 8;
        let mut ip = vec![
            0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        ip[2..4].copy_from_slice(&u16::try_from(total).unwrap().to_be_bytes());
        let sum = !crate::checksum::sum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        f.extend(ip);
        let off = u8::try_from(header / 4).unwrap() << 4;
        f.extend([
            0x9c, 0x40, 0, 80, 0, 0, 0, 100, 0, 0, 0, 200, off, flags, 0x10, 0, 0, 0, 0, 0,
        ]);
        f.extend(options);
        f.extend(payload);
        f
    }

    #[test]
    fn a_syn_tells_its_scale_and_other_segments_do_not() {
        let options = [2, 4, 5, 180, 1, 3, 3, 7];
        let bytes = frame(0x02, &options, b"");
        let (h, _) = Headers::parse(&bytes).unwrap();
        let s = TcpSegment::read(&bytes, &h).unwrap();
        assert_eq!((s.seq, s.ack, s.window, s.payload), (100, 200, 0x1000, 0));
        assert_eq!((s.window_scale, s.end()), (Some(7), 101));
        let bytes = frame(0x11, &options, b"abc");
        let (h, _) = Headers::parse(&bytes).unwrap();
        let s = TcpSegment::read(&bytes, &h).unwrap();
        assert_eq!((s.window_scale, s.payload, s.end()), (None, 3, 104));
    }

    #[test]
    fn options_that_lie_about_their_length_end_the_search() {
        for options in [[3, 0, 0, 0], [3, 255, 7, 0], [8, 1, 3, 3], [1, 1, 1, 3]] {
            assert_eq!(window_scale(&options), None, "{options:?}");
        }
        assert_eq!(window_scale(&[3, 3, 200]), Some(MAX_WINDOW_SCALE));
    }
}
