//! Does one member serve?
//!
//! A member is asked every `delay`; what it answers in `timeout`, or that it does not, is one result. The first answer ever says that it serves;
//! after that `fall` failures in a row take it out, and `rise` answers in a row bring it back. A connection is ended by a reset
//! as soon as it has said enough.

use std::time::Duration;

use hostconfig::chain::HealthProbe;
use net::{FlowKey, Now, Packet, TcpSegment, flow_key::proto, tcp::flag};

use super::frames::{Segment, datagram, echo, segment};
use crate::datapath::tables::probes::{PORTS, Target};

/// What was sent and not answered is sent again after this time.
const AGAIN: Duration = Duration::from_secs(1);
/// The start of an answer that says its code: `HTTP/1.1 200`.
const CODE: usize = 12;

/// A member that is asked.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) target: Target,
    /// Does it serve? `None`: it is not known yet.
    pub(super) verdict: Option<bool>,
    /// Results in a row that are against the verdict.
    against: u8,
    /// When it is asked next.
    due: Now,
    /// Which question it is; chooses ports and numbers.
    round: u32,
    /// What it is asked now.
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    until: Now,
    again: Now,
    port: u16,
    /// The sequence number behind all that was sent, and what comes next from there.
    seq: u32,
    next: Option<u32>,
    /// The start of the answer.
    said: Vec<u8>,
}

/// What an answer comes to.
enum Said {
    /// Nothing yet, or nothing of this question.
    Nothing,
    Serves(bool),
}

impl Watch {
    pub(super) fn new(target: Target, due: Now) -> Self {
        Self {
            target,
            verdict: None,
            against: 0,
            due,
            round: 0,
            asked: None,
        }
    }

    /// It is asked otherwise from now on; what is known of it stays.
    pub(super) fn follow(&mut self, target: Target, now: Now) {
        if self.target != target {
            self.target = target;
            self.asked = None;
            self.due = now;
        }
    }

    /// When something is to be done.
    pub(super) fn next(&self) -> Now {
        match &self.asked {
            Some(asked) => asked.until.min(asked.again),
            None => self.due,
        }
    }

    /// What time brings: the frame to send, and whether the verdict is another.
    pub(super) fn turn(&mut self, now: Now, secret: u64) -> (Option<Vec<u8>>, bool) {
        match &mut self.asked {
            None if now >= self.due => (Some(self.ask(now, secret)), false),
            Some(asked) if now >= asked.until => {
                let reset = self.reset();
                // Whoever takes a datagram need not answer it.
                let serves = matches!(self.target.monitor.probe, HealthProbe::Udp);
                (reset, self.result(serves))
            }
            Some(asked) if now >= asked.again => {
                asked.again = now + AGAIN;
                (self.question(), false)
            }
            Some(_) | None => (None, false),
        }
    }

    /// Asks anew.
    fn ask(&mut self, now: Now, secret: u64) -> Vec<u8> {
        use std::hash::BuildHasher as _;
        self.round = self.round.wrapping_add(1);
        let keyed = foldhash::quality::FixedState::with_seed(secret);
        let number = keyed.hash_one((self.target.key, self.round));
        let [a, b, c, d, ..] = number.to_be_bytes();
        // Another port each time: what comes late is of no question.
        let of = keyed
            .hash_one(self.target.key)
            .wrapping_add(u64::from(self.round));
        let ports = u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(of % ports).unwrap_or(0);
        let monitor = &self.target.monitor;
        let millis = |ms: u32| Duration::from_millis(ms.max(1).into());
        self.due = now + millis(monitor.delay_ms);
        self.asked = Some(Asked {
            until: now + millis(monitor.timeout_ms),
            again: now + AGAIN,
            port,
            seq: u32::from_be_bytes([a, b, c, d]),
            next: None,
            said: Vec::new(),
        });
        self.question().unwrap_or_default()
    }

    /// What it is asked now, as it is sent.
    fn question(&self) -> Option<Vec<u8>> {
        let asked = self.asked.as_ref()?;
        let to = &self.target;
        Some(match (&to.monitor.probe, asked.next) {
            (HealthProbe::Ping, _) => echo(to, asked.port, low(asked.seq)),
            (HealthProbe::Udp, _) => datagram(to, asked.port),
            (HealthProbe::Tcp, _) | (HealthProbe::Http { .. }, None) => {
                segment(to, &asked.segment(flag::SYN, asked.seq, &[]))
            }
            (HealthProbe::Http { request, .. }, Some(_)) => {
                let seq = asked.seq.wrapping_add(1);
                let flags = flag::ACK | flag::PSH;
                segment(to, &asked.segment(flags, seq, request.as_bytes()))
            }
        })
    }

    /// Ends the connection, if there is one.
    fn reset(&self) -> Option<Vec<u8>> {
        let asked = self.asked.as_ref()?;
        asked.next?;
        let sent = match &self.target.monitor.probe {
            HealthProbe::Http { request, .. } => u32::try_from(request.len()).unwrap_or(0),
            HealthProbe::Tcp | HealthProbe::Udp | HealthProbe::Ping => 0,
        };
        let seq = asked.seq.wrapping_add(1).wrapping_add(sent);
        let flags = flag::RST | flag::ACK;
        Some(segment(&self.target, &asked.segment(flags, seq, &[])))
    }

    /// A packet of its port that may be an answer: the frame to send, and whether the verdict is another.
    pub(super) fn hear(&mut self, packet: &Packet, now: Now) -> (Option<Vec<u8>>, bool) {
        let key = packet.key();
        let quoted = packet.headers().quoted(packet.bytes());
        let of = match (&quoted, key.five_tuple()) {
            (Some(quoted), _) => quoted.tuple.reversed(),
            (None, Some(tuple)) => tuple,
            (None, None) => return (None, false),
        };
        let (_, vip) = self.target.from;
        let (_, member, port) = self.target.to;
        let Some(asked) = &mut self.asked else {
            return (None, false);
        };
        let pings = matches!(self.target.monitor.probe, HealthProbe::Ping);
        let ports = if pings {
            (asked.port, asked.port)
        } else {
            (port, asked.port)
        };
        if (of.src_addr(), of.dst_addr(), (of.src_port, of.dst_port)) != (member, vip, ports) {
            return (None, false);
        }
        let said = match &self.target.monitor.probe {
            HealthProbe::Ping if quoted.is_none() && is_echo(key) => Said::Serves(true),
            HealthProbe::Udp if of.proto == proto::UDP => Said::Serves(quoted.is_none()),
            HealthProbe::Tcp | HealthProbe::Http { .. } => {
                let Some(heard) = TcpSegment::read(packet.bytes(), packet.headers()) else {
                    return (None, false);
                };
                let opened = asked.next.is_some();
                let said = asked.hear(&heard, payload(packet), &self.target.monitor.probe);
                if !opened && asked.next.is_some() && matches!(said, Said::Nothing) {
                    asked.again = now + AGAIN;
                    return (self.question(), false);
                }
                said
            }
            HealthProbe::Ping | HealthProbe::Udp => Said::Nothing,
        };
        match said {
            Said::Nothing => (None, false),
            Said::Serves(serves) => {
                let reset = self.reset();
                (reset, self.result(serves))
            }
        }
    }

    /// One question is answered, or was not. Is the verdict another?
    fn result(&mut self, serves: bool) -> bool {
        self.asked = None;
        if self.verdict == Some(serves) {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        let needed = match (serves, self.verdict) {
            (true, None) => 1,
            (true, Some(_)) => self.target.monitor.rise,
            (false, _) => self.target.monitor.fall,
        };
        if self.against < needed {
            return false;
        }
        self.against = 0;
        self.verdict = Some(serves);
        true
    }
}

impl Asked {
    fn segment<'a>(&self, flags: u16, seq: u32, payload: &'a [u8]) -> Segment<'a> {
        Segment {
            port: self.port,
            flags,
            seq,
            ack: self.next.unwrap_or(0),
            payload,
        }
    }

    /// A segment of the member's.
    fn hear(&mut self, heard: &TcpSegment, payload: &[u8], probe: &HealthProbe) -> Said {
        let Some(next) = self.next else {
            // Only what answers this very question (RFC 9293 §3.10.7.3).
            let acknowledges = heard.has(flag::ACK) && heard.ack == self.seq.wrapping_add(1);
            if !acknowledges {
                return Said::Nothing;
            }
            if heard.has(flag::RST) {
                return Said::Serves(false);
            }
            if !heard.has(flag::SYN) {
                return Said::Nothing;
            }
            self.next = Some(heard.seq.wrapping_add(1));
            return match probe {
                HealthProbe::Http { .. } => Said::Nothing,
                HealthProbe::Tcp | HealthProbe::Udp | HealthProbe::Ping => Said::Serves(true),
            };
        };
        // What is out of order comes again.
        if heard.seq != next || heard.has(flag::SYN) {
            return Said::Nothing;
        }
        if heard.has(flag::RST) {
            return Said::Serves(false);
        }
        let room = CODE.saturating_sub(self.said.len());
        let taken = payload.get(..room.min(payload.len())).unwrap_or_default();
        self.said.extend(taken);
        self.next = Some(heard.end());
        let HealthProbe::Http { codes, .. } = probe else {
            return Said::Nothing;
        };
        match code(&self.said) {
            Some(code) => Said::Serves(codes.iter().any(|(a, b)| (*a..=*b).contains(&code))),
            None if self.said.len() >= CODE || heard.has(flag::FIN) => Said::Serves(false),
            None => Said::Nothing,
        }
    }
}

/// The code of an answer of HTTP/1 (RFC 9112 §4).
fn code(said: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(said.get(..CODE)?).ok()?;
    let (version, code) = line.split_once(' ')?;
    version.strip_prefix("HTTP/1.")?;
    code.parse().ok()
}

fn is_echo(key: &FlowKey) -> bool {
    matches!(
        (key.ip_proto, key.l4_src),
        (proto::ICMP, 0) | (proto::ICMP6, 129)
    )
}

pub(super) fn payload(packet: &Packet) -> &[u8] {
    let headers = packet.headers();
    let end = usize::try_from(headers.end).unwrap_or(usize::MAX);
    let bytes = packet.bytes();
    let start = usize::from(headers.payload_at);
    bytes.get(start..end.min(bytes.len())).unwrap_or_default()
}

fn low(number: u32) -> u16 {
    let [_, _, a, b] = number.to_be_bytes();
    u16::from_be_bytes([a, b])
}
