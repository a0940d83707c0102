//! What does the switch answer a question for a name?
//!
//! Addresses and names of the network's ports, that there are none, or that others know. The parser is simple-dns, off the hot path; what
//! could make it work much is refused by the header before it reads.
//!
//! # Attack
//! One question, no answers, and at most two further records are read of a message of at most `LONGEST` bytes. An answer is at most
//! 1,232 bytes, and of one question at most `RECORDS` records: ten times the smallest question. It goes only to who asked, whose source
//! was proved, so that it floods nobody else.
//!
//! # References
//! RFC 1035 §4; RFC 2308 §2 (no data, no such name); RFC 3596; RFC 6891 (EDNS); RFC 8482 (ANY).

use std::net::IpAddr;

use net::{DropReason, L3, Offload, Packet, checksum, flow_key::proto};
use simple_dns::{
    CLASS, Name, Packet as Message, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord,
    TYPE,
    rdata::{A, AAAA, OPT, PTR, RData},
};
use smallvec::SmallVec;

use super::names::{self, Known};
use crate::datapath::tables::{Network, service};

/// The longest question that is read.
const LONGEST: usize = 1232;
/// The longest answer without EDNS (RFC 1035 §4.2.1), and with it.
const PLAIN: usize = 512;
const LARGE: u16 = 1232;
/// The most records of an answer.
const RECORDS: usize = 32;
/// The longest answer by TCP, and the most records of it: all that a name has in practice.
const LONG: usize = 16 << 10;
const MANY: usize = 512;
/// For how many seconds an answer may be kept: not at all, since names follow changes at once.
const TTL: u32 = 0;

/// Who answers?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The switch alone: what it does not know it refuses.
    Switch,
    /// Another: what the network does not know goes on.
    Another,
}

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Udp,
    Tcp,
}

/// What is said to a question by TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// This.
    Answer(Vec<u8>),
    /// What another says.
    Elsewhere,
    /// Nothing: it is no question.
    Nothing,
}

/// The answer to a question by TCP, without its length.
pub fn say(question: &[u8], network: &Network, by: Server) -> Said {
    let answer = match (read(question), by) {
        (Ok(asked), _) => reply(&asked, network, (by, By::Tcp)),
        (Err(Some(_)), Server::Another) => None,
        (Err(Some(code)), Server::Switch) => refusal(question, code),
        (Err(None), _) => return Said::Nothing,
    };
    match (answer, by) {
        (Some(answer), _) => Said::Answer(answer),
        (None, Server::Another) => Said::Elsewhere,
        (None, Server::Switch) => Said::Nothing,
    }
}

/// That another did not answer a question.
pub fn failed(question: &[u8]) -> Option<Vec<u8>> {
    refusal(question, RCODE::ServerFailure)
}

/// Writes the answer over the question. `Ok(false)`: another is to answer.
///
/// # Errors
/// When it is no question.
pub fn answer(packet: &mut Packet, network: &Network, by: Server) -> Result<bool, DropReason> {
    let headers = *packet.headers();
    let end = usize::try_from(headers.end).or(Err(DropReason::MalformedDns))?;
    let question = packet.bytes().get(usize::from(headers.payload_at)..end);
    let question = question.ok_or(DropReason::MalformedDns)?;
    let message = match (read(question), by) {
        (Ok(asked), _) => match reply(&asked, network, (by, By::Udp)) {
            Some(message) => message,
            None if by == Server::Another => return Ok(false),
            None => return Err(DropReason::MalformedDns),
        },
        (Err(_), Server::Another) => return Ok(false),
        (Err(Some(code)), Server::Switch) => {
            refusal(question, code).ok_or(DropReason::MalformedDns)?
        }
        (Err(None), Server::Switch) => return Err(DropReason::MalformedDns),
    };
    let frame = frame(packet, &message).ok_or(DropReason::MalformedDns)?;
    packet.fill(&frame).or(Err(DropReason::PoolExhausted))?;
    packet.set_offload(Offload::default());
    Ok(true)
}

/// Reads a question. `Err(Some)`: it is one that is refused so; `Err(None)`: it is none.
fn read(bytes: &[u8]) -> Result<Message<'_>, Option<RCODE>> {
    let header: &[u8; 12] = bytes.first_chunk().ok_or(None)?;
    let [_, _, flags, _, q0, q1, a0, a1, n0, n1, r0, r1] = *header;
    let counts = [[q0, q1], [a0, a1], [n0, n1], [r0, r1]].map(u16::from_be_bytes);
    // Who answers an answer makes a loop.
    if flags & 0x80 != 0 {
        return Err(None);
    }
    if flags & 0x78 != 0 {
        return Err(Some(RCODE::NotImplemented));
    }
    let [questions, answers, authorities, others] = counts;
    // As much room is made as is announced: so this is looked at first.
    if questions != 1 || answers != 0 || authorities != 0 || others > 2 || bytes.len() > LONGEST {
        return Err(Some(RCODE::FormatError));
    }
    Message::parse(bytes).or(Err(Some(RCODE::FormatError)))
}

/// That a question is refused, without what could not be read.
fn refusal(bytes: &[u8], code: RCODE) -> Option<Vec<u8>> {
    let [i0, i1, ..] = *bytes else {
        return None;
    };
    let mut reply = Message::new_reply(u16::from_be_bytes([i0, i1]));
    *reply.rcode_mut() = code;
    reply.build_bytes_vec().ok()
}

/// What is found.
struct Found<'a> {
    code: RCODE,
    records: SmallVec<[RData<'a>; 2]>,
}

impl Found<'_> {
    fn none(code: RCODE) -> Self {
        Self {
            code,
            records: SmallVec::new(),
        }
    }
}

/// The answer; `None`: another is to give it.
fn reply(asked: &Message<'_>, network: &Network, (by, over): (Server, By)) -> Option<Vec<u8>> {
    let question = asked.questions.first()?;
    let known = asked.opt().is_none_or(|opt| opt.version == 0);
    // What is found may be named by what it is called.
    let mut pointed = None;
    let most = match over {
        By::Udp => RECORDS,
        By::Tcp => MANY,
    };
    let found = match find((question, most), network, &mut pointed) {
        _ if !known => Some(Found::none(RCODE::BADVERS)),
        Some(found) => Some(found),
        None if by == Server::Switch => Some(Found::none(RCODE::Refused)),
        None => None,
    }?;
    let mut reply = Message::new_reply(asked.id());
    *reply.rcode_mut() = found.code;
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if asked.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    if matches!(found.code, RCODE::NoError | RCODE::NameError) {
        reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    }
    reply.questions.push(question.clone());
    let record = |data| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data);
    reply.answers.extend(found.records.into_iter().map(record));
    if asked.opt().is_some() {
        *reply.opt_mut() = Some(OPT {
            opt_codes: Vec::new(),
            udp_packet_size: LARGE,
            version: 0,
        });
    }
    let takes = asked.opt().map_or(PLAIN, |opt| {
        usize::from(opt.udp_packet_size.min(LARGE)).max(PLAIN)
    });
    let room = match over {
        // What is around it: an IPv6 header is the longest.
        By::Udp => takes.min(usize::from(network.mtu.get()).saturating_sub(48)),
        By::Tcp => LONG,
    };
    let bytes = reply.build_bytes_vec_compressed().ok()?;
    if bytes.len() <= room {
        return Some(bytes);
    }
    reply.answers.clear();
    reply.set_flags(PacketFlag::TRUNCATION);
    reply.build_bytes_vec_compressed().ok()
}

/// What the network says; `None`: nothing.
fn find<'a>(
    (question, most): (&Question<'_>, usize),
    network: &Network,
    pointed: &'a mut Option<String>,
) -> Option<Found<'a>> {
    if !matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY) {
        return None;
    }
    let name = question.qname.to_string();
    let any = question.qtype == QTYPE::ANY;
    let wants = |of: TYPE| any || question.qtype == QTYPE::TYPE(of);
    match names::name(network, &name) {
        Known::Is(called) => {
            let called = pointed.insert(called);
            let mut found = Found::none(RCODE::NoError);
            if wants(TYPE::PTR) {
                let name = Name::new(called).ok()?;
                found.records.push(RData::PTR(PTR(name)));
            }
            return Some(found);
        }
        Known::Nobody => return Some(Found::none(RCODE::NameError)),
        Known::Elsewhere => {}
    }
    match names::addresses(network, &name) {
        Known::Is(addrs) => {
            let record = |addr: &IpAddr| match addr {
                IpAddr::V4(addr) => wants(TYPE::A).then(|| RData::A(A::from(*addr))),
                IpAddr::V6(addr) => wants(TYPE::AAAA).then(|| RData::AAAA(AAAA::from(*addr))),
            };
            let records = addrs.iter().filter_map(record).take(most);
            Some(Found {
                code: RCODE::NoError,
                records: records.collect(),
            })
        }
        Known::Nobody => Some(Found::none(RCODE::NameError)),
        Known::Elsewhere => None,
    }
}

/// From whom it was asked, back to who asked.
fn frame(packet: &Packet, message: &[u8]) -> Option<Vec<u8>> {
    let (key, headers) = (packet.key(), packet.headers());
    let (from, to) = (key.dst_addr(), key.src_addr());
    let length = u16::try_from(8 + message.len()).ok()?;
    let mut udp = Vec::with_capacity(usize::from(length));
    udp.extend(key.l4_dst.to_be_bytes());
    udp.extend(key.l4_src.to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(message);
    let sum = match checksum::transport(from, to, proto::UDP, &udp) {
        0 => 0xffff,
        sum => sum,
    };
    udp.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::with_capacity(14 + 40 + udp.len());
    frame.extend(key.src_mac().octets());
    frame.extend(key.dst_mac().octets());
    match (headers.l3, from, to) {
        (L3::Ipv4, IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend(length.checked_add(20)?.to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, proto::UDP, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
            service::checksum_ipv4(&mut frame, 14);
        }
        (L3::Ipv6, IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([proto::UDP, 64]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        _ => return None,
    }
    frame.extend(udp);
    Some(frame)
}
