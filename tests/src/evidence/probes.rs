//! What is a workload asked by those who want to know whether it serves, and what follows from its answers?

use std::time::Duration;

use net::{
    Headers, Id, Now, TcpSegment,
    flow_key::{ethertype, proto},
    ids::kind,
    testkit::{FrameBuilder, tcp},
};

use super::{Nic, Region};

/// How a workload answers probes.
#[derive(Debug, Clone, Copy)]
pub enum Serves {
    /// Not at all.
    Silent,
    /// It refuses connections and datagrams.
    Refuses,
    /// It takes connections, answers pings, and requests with this status line.
    With(&'static str),
    /// As that, so much later.
    Late(&'static str, Duration),
}

impl Serves {
    fn answer(self, got: &[u8]) -> Option<Vec<u8>> {
        let (headers, key) = Headers::parse(got).ok()?;
        let v6 = key.ethertype == ethertype::IPV6;
        let (Self::With(line) | Self::Late(line, _)) = self else {
            if matches!(self, Self::Silent) {
                return None;
            }
            let refusal = match key.ip_proto {
                proto::UDP => return Some(FrameBuilder::icmp_error(got)),
                proto::TCP => {
                    let reset = FrameBuilder::tcp(v6, key.l4_dst, key.l4_src);
                    let asked = TcpSegment::read(got, &headers)?;
                    reset.flags(tcp::RST | tcp::ACK).seq(0, asked.end())
                }
                _ => return None,
            };
            let refusal = refusal.macs(key.dst_mac(), key.src_mac());
            return Some(refusal.addrs(key.dst_addr(), key.src_addr()).build());
        };
        let answer = match key.ip_proto {
            proto::ICMP | proto::ICMP6 => FrameBuilder::echo_reply(v6, key.icmp_id),
            proto::TCP => {
                let asked = TcpSegment::read(got, &headers)?;
                let answer = FrameBuilder::tcp(v6, key.l4_dst, key.l4_src);
                if asked.flags & 0x04 != 0 {
                    return None;
                }
                if asked.flags & 0x02 != 0 {
                    answer.flags(tcp::SYN | tcp::ACK).seq(7, asked.end())
                } else {
                    let answer = answer.flags(tcp::ACK).seq(8, asked.end());
                    answer.payload(line.as_bytes())
                }
            }
            _ => return None,
        };
        let answer = answer.macs(key.dst_mac(), key.src_mac());
        Some(answer.addrs(key.dst_addr(), key.src_addr()).build())
    }

    fn lag(self) -> Duration {
        match self {
            Self::Late(_, lag) => lag,
            Self::Silent | Self::Refuses | Self::With(_) => Duration::ZERO,
        }
    }
}

/// What a frame asks, in words: the kind, or the request.
fn question(frame: &[u8]) -> Option<String> {
    let (headers, key) = Headers::parse(frame).ok()?;
    match key.ip_proto {
        proto::ICMP if key.l4_src == 8 => Some("ping".to_owned()),
        proto::ICMP6 if key.l4_src == 128 => Some("ping".to_owned()),
        proto::UDP if key.l4_src < 512 => Some(format!("udp {}", key.l4_dst)),
        proto::TCP if key.l4_src < 512 => {
            let segment = TcpSegment::read(frame, &headers)?;
            let from = usize::from(headers.payload_at);
            let request = frame.get(from..).filter(|_| segment.payload > 0);
            match request {
                Some(request) => Some(String::from_utf8_lossy(request).into_owned()),
                None if segment.flags & 0x02 != 0 => Some(format!("tcp {}", key.l4_dst)),
                None => None,
            }
        }
        _ => None,
    }
}

impl Region {
    /// The ports into which frames go while nobody sends any, with each frame's EtherType.
    pub fn unasked(&mut self, time: Duration) -> Vec<(Id<kind::Port>, Vec<u8>)> {
        let end = self.now() + time;
        drop(self.received());
        let mut all = vec![];
        while self.now() < end {
            self.advance(Duration::from_millis(250));
            for (port, frame) in self.received() {
                all.push((port, frame.bytes.get(12..14).unwrap_or_default().to_vec()));
            }
        }
        all
    }

    /// Time passes, in which a workload answers what probes ask it; what it was asked.
    pub fn asked(&mut self, server: &Nic, time: Duration, serves: Serves) -> Vec<String> {
        let end = self.now() + time;
        let mut questions = vec![];
        let mut waiting: Vec<(Now, Vec<u8>)> = vec![];
        while self.now() < end {
            self.advance(Duration::from_millis(250));
            loop {
                let now = self.now();
                for (port, frame) in self.received() {
                    let asks = question(&frame.bytes).filter(|_| port == server.port);
                    questions.extend(asks);
                    if port == server.port
                        && let Some(answer) = serves.answer(&frame.bytes)
                    {
                        waiting.push((now + serves.lag(), answer));
                    }
                }
                let due = waiting.iter().position(|(at, _)| *at <= now);
                let Some(at) = due else {
                    break;
                };
                let (_, answer) = waiting.remove(at);
                self.inject(server.host, server.port, answer);
                self.settle();
            }
        }
        // What was found last is told with the next look at it.
        self.advance(Duration::from_secs(1));
        drop(self.received());
        questions
    }
}
