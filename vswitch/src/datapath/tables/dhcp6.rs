//! What does the switch answer a DHCPv6 client?
//!
//! The addresses are the controller's, so nothing is leased here that could run out or be given back: whoever asks gets the addresses of
//! its own port, as often as it asks, from every switch the same. On subnets where hosts make their addresses themselves only what they
//! ask besides is told. Who answers is known by the network alone: a DUID and a link-local address from the network's MAC address for DHCP.
//!
//! A message to `All_DHCP_Relay_Agents_and_Servers` is the switch's ([`serves`]); the answer is written over it ([`answer`]). The client's
//! options are walked, not decoded: whatever is in those that nobody reads, it gets its answer.
//!
//! # Attack
//! Of one message at most `IAS` associations are answered and `ADDRESSES` addresses looked at: an answer fits the smallest MTU of IPv6.
//!
//! # References
//! RFC 8415 §16 (validation), §18.3 (servers), §21 (options); RFC 3646 (name servers, domain).

use std::net::{IpAddr, Ipv6Addr};

use hostconfig::network::Dhcp6;
use net::{
    DropReason, Fragment, Mac, Offload, Packet, Probe, checksum,
    flow_key::{ethertype, proto},
};
use smallvec::SmallVec;

use super::{Network, Port};

/// Whom clients ask: `All_DHCP_Relay_Agents_and_Servers`.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// The ports of clients and of servers.
const CLIENT: u16 = 546;
const SERVER: u16 = 547;
/// The most identity associations of one message that are answered, and the most addresses.
const IAS: usize = 4;
const ADDRESSES: usize = 8;
/// The most name servers that are told.
const NAME_SERVERS: usize = 8;
/// The longest client identifier (RFC 8415 §11.1), and the shortest.
const DUID: std::ops::RangeInclusive<usize> = 3..=130;
/// The largest message: what fits the smallest MTU of IPv6. A port's own options that would not are left out, the last first.
const LARGEST: usize = 1280 - 40 - 8;
/// For how many seconds what was told besides addresses is good, where no lease says it (`IRT_DEFAULT`).
const REFRESH_SECONDS: u32 = 86_400;

/// Option codes (RFC 8415 §21, RFC 3646).
mod code {
    pub(super) const CLIENT_ID: u16 = 1;
    pub(super) const SERVER_ID: u16 = 2;
    pub(super) const IA_NA: u16 = 3;
    pub(super) const IA_TA: u16 = 4;
    pub(super) const ADDRESS: u16 = 5;
    pub(super) const PREFERENCE: u16 = 7;
    pub(super) const STATUS: u16 = 13;
    pub(super) const RAPID_COMMIT: u16 = 14;
    pub(super) const NAME_SERVERS: u16 = 23;
    pub(super) const DOMAINS: u16 = 24;
    pub(super) const IA_PD: u16 = 25;
    pub(super) const REFRESH: u16 = 32;
}

/// Status codes (RFC 8415 §21.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Success = 0,
    NoAddresses = 2,
    NoBinding = 3,
    NotOnLink = 4,
    NoPrefix = 6,
}

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Solicit,
    Request,
    Confirm,
    Renew,
    Rebind,
    Release,
    Decline,
    Information,
}

impl Kind {
    /// `None`: it is none of a client's.
    fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Solicit,
            3 => Self::Request,
            4 => Self::Confirm,
            5 => Self::Renew,
            6 => Self::Rebind,
            8 => Self::Release,
            9 => Self::Decline,
            11 => Self::Information,
            _ => return None,
        })
    }

    /// Is it for the one server that it names (RFC 8415 §16)? `None`: it may be.
    fn names_server(self) -> Option<bool> {
        match self {
            Self::Solicit | Self::Confirm | Self::Rebind => Some(false),
            Self::Request | Self::Renew | Self::Release | Self::Decline => Some(true),
            Self::Information => None,
        }
    }
}

/// Is it a client's message that the switch answers for one of this port's subnets?
pub fn serves(network: &Network, port: &Port, probe: &mut Probe) -> bool {
    if probe.ethertype() != ethertype::IPV6
        || probe.ip_proto() != proto::UDP
        || probe.l4_dst() != SERVER
        || probe.l4_src() != CLIENT
        || probe.ip_frag() != Fragment::Whole as u8
    {
        return false;
    }
    probe.ip_dst() == IpAddr::V6(SERVERS) && Served::of(network, port).is_some()
}

/// What of a network's subnets a port is told.
struct Served<'n> {
    dhcp: &'n Dhcp6,
    /// Its addresses that DHCPv6 gives, and for how long.
    leased: SmallVec<[Ipv6Addr; 4]>,
    lease_seconds: u32,
    names: SmallVec<[Ipv6Addr; 4]>,
}

impl<'n> Served<'n> {
    /// `None`: DHCPv6 is off on all subnets that the port has an address of.
    fn of(network: &'n Network, port: &Port) -> Option<Self> {
        let mut all: Option<Self> = None;
        for subnet in &network.subnets {
            let Some(dhcp) = &subnet.dhcp6 else {
                continue;
            };
            let mut own = port.addrs.iter().filter(|a| subnet.cidr.contains(**a));
            let Some(first) = own.next() else {
                continue;
            };
            let all = all.get_or_insert_with(|| Self {
                dhcp,
                leased: SmallVec::new(),
                lease_seconds: 0,
                names: SmallVec::new(),
            });
            if let Some(seconds) = dhcp.lease_seconds {
                all.lease_seconds = seconds;
                let own = std::iter::once(first).chain(own);
                all.leased.extend(own.filter_map(|addr| match addr {
                    IpAddr::V6(addr) => Some(*addr),
                    IpAddr::V4(_) => None,
                }));
            }
            for server in &subnet.dns6 {
                if all.names.len() < NAME_SERVERS && !all.names.contains(server) {
                    all.names.push(*server);
                }
            }
        }
        if let Some(all) = &mut all {
            all.leased.truncate(ADDRESSES);
        }
        all
    }
}

/// The addresses that a port is given, for people: none where it makes its own.
pub fn leased(network: &Network, port: &Port) -> Vec<Ipv6Addr> {
    Served::of(network, port).map_or_else(Vec::new, |served| served.leased.to_vec())
}

/// The DUID of a network's server: of its link-layer address (RFC 8415 §11.4).
fn duid(mac: Mac) -> [u8; 10] {
    let mut duid = [0, 3, 0, 1, 0, 0, 0, 0, 0, 0];
    if let Some(address) = duid.last_chunk_mut::<6>() {
        *address = mac.octets();
    }
    duid
}

/// Writes the answer over the client's message. `Ok(false)`: it needs none.
///
/// # Errors
/// When the message is none that a server could answer.
pub fn answer(packet: &mut Packet, network: &Network, port: &Port) -> Result<bool, DropReason> {
    let malformed = DropReason::MalformedDhcp;
    let headers = *packet.headers();
    let end = usize::try_from(headers.end).or(Err(malformed))?;
    let payload = packet.bytes().get(usize::from(headers.payload_at)..end);
    let asked = Asked::read(payload.ok_or(malformed)?).ok_or(malformed)?;
    let (client, to) = match (packet.key().src_mac(), packet.key().src_addr()) {
        (mac, IpAddr::V6(to)) if !to.is_unspecified() && !to.is_multicast() => (mac, to),
        _ => return Err(malformed),
    };
    let served = Served::of(network, port).ok_or(malformed)?;
    let server = served.dhcp.server_mac;
    // RFC 8415 §16: who names a server where it must not, or none where it must, is not answered; nor who means another one.
    match (asked.kind.names_server(), asked.server) {
        (Some(true), None) | (Some(false), Some(_)) => return Err(malformed),
        (_, Some(named)) if named != duid(server) => return Ok(false),
        _ => {}
    }
    // Who asks for information alone need not say who it is, and wants no addresses.
    let informed = asked.kind == Kind::Information;
    if (informed && asked.associates) || (!informed && asked.client.is_none()) {
        return Err(malformed);
    }
    if !informed && served.leased.is_empty() {
        return Ok(false);
    }
    let Some(message) = reply(&asked, &served, network, port) else {
        return Ok(false);
    };
    let frame = udp_frame((server, client), to, &message).ok_or(malformed)?;
    packet.fill(&frame).or(Err(DropReason::PoolExhausted))?;
    packet.set_offload(Offload::default());
    Ok(true)
}

/// One identity association of a client's message.
#[derive(Debug)]
struct Association {
    code: u16,
    id: [u8; 4],
    addrs: SmallVec<[Ipv6Addr; 2]>,
}

/// What is read of a client's message.
#[derive(Debug)]
struct Asked<'a> {
    kind: Kind,
    xid: [u8; 3],
    client: Option<&'a [u8]>,
    server: Option<&'a [u8]>,
    rapid: bool,
    /// Does it have any association, answered or not?
    associates: bool,
    associations: SmallVec<[Association; 2]>,
}

impl<'a> Asked<'a> {
    /// `None` when it is no client's message, or not whole.
    fn read(message: &'a [u8]) -> Option<Self> {
        let ([kind, xid @ ..], mut options) = message.split_first_chunk::<4>()?;
        let mut asked = Self {
            kind: Kind::of(*kind)?,
            xid: *xid,
            client: None,
            server: None,
            rapid: false,
            associates: false,
            associations: SmallVec::new(),
        };
        let mut addresses = ADDRESSES;
        while let Some((code, data)) = option(&mut options)? {
            match code {
                code::CLIENT_ID => {
                    let once = asked.client.replace(data).is_none();
                    (once && DUID.contains(&data.len())).then_some(())?;
                }
                code::SERVER_ID => asked.server.replace(data).is_none().then_some(())?,
                code::RAPID_COMMIT => asked.rapid = true,
                code::IA_NA | code::IA_TA | code::IA_PD => {
                    let association = Association::read(code, data, &mut addresses)?;
                    asked.associates = true;
                    if asked.associations.len() < IAS {
                        asked.associations.push(association);
                    }
                }
                _ => {}
            }
        }
        Some(asked)
    }
}

impl Association {
    /// At most as many addresses as are left are noted.
    fn read(code: u16, data: &[u8], left: &mut usize) -> Option<Self> {
        let (id, rest) = data.split_first_chunk::<4>()?;
        // That of temporary addresses has no times.
        let times = if code == code::IA_TA { 0 } else { 8 };
        let mut options = rest.get(times..)?;
        let mut addrs = SmallVec::new();
        while let Some((code, data)) = option(&mut options)? {
            if code != code::ADDRESS {
                continue;
            }
            let (addr, rest) = data.split_first_chunk::<16>()?;
            rest.get(..8)?;
            if *left > 0 {
                *left -= 1;
                addrs.push(Ipv6Addr::from(*addr));
            }
        }
        Some(Self {
            code,
            id: *id,
            addrs,
        })
    }
}

/// Takes one option off. `None`: what is left is none; `Some(None)`: nothing is left.
#[expect(clippy::option_option, reason = "an iterator that may fail")]
fn option<'a>(left: &mut &'a [u8]) -> Option<Option<(u16, &'a [u8])>> {
    if left.is_empty() {
        return Some(None);
    }
    let ([c0, c1, l0, l1], rest) = left.split_first_chunk::<4>()?;
    let (data, rest) = rest.split_at_checked(u16::from_be_bytes([*l0, *l1]).into())?;
    *left = rest;
    Some(Some((u16::from_be_bytes([*c0, *c1]), data)))
}

/// The answer; `None` where there is nothing to say.
fn reply(
    asked: &Asked<'_>,
    served: &Served<'_>,
    network: &Network,
    port: &Port,
) -> Option<Vec<u8>> {
    let rapid = asked.kind == Kind::Solicit && asked.rapid;
    let advertise = asked.kind == Kind::Solicit && !rapid;
    let mut answer = Message(vec![if advertise { 2 } else { 7 }]);
    answer.0.extend(asked.xid);
    if let Some(client) = asked.client {
        answer.put(code::CLIENT_ID, &[client]);
    }
    answer.put(code::SERVER_ID, &[&duid(served.dhcp.server_mac)]);
    match asked.kind {
        Kind::Solicit | Kind::Request | Kind::Renew | Kind::Rebind => {
            if advertise {
                // Nobody else answers here: no client need wait for more (RFC 8415 §21.8).
                answer.put(code::PREFERENCE, &[&[255]]);
            } else if rapid {
                answer.put(code::RAPID_COMMIT, &[]);
            }
            let mut given = false;
            for association in &asked.associations {
                answer.grant(asked.kind, association, served, network, given);
                given |= association.code == code::IA_NA;
            }
        }
        Kind::Confirm => {
            let mut all = asked.associations.iter().flat_map(|a| &a.addrs).peekable();
            all.peek()?;
            // The link of a port takes its own addresses alone.
            let own = all.all(|addr| served.leased.contains(addr));
            answer.status(if own {
                Status::Success
            } else {
                Status::NotOnLink
            });
            return Some(answer.0);
        }
        Kind::Release | Kind::Decline => {
            answer.status(Status::Success);
            for association in &asked.associations {
                let own = |addr| served.leased.contains(addr);
                let bound = association.code == code::IA_NA && association.addrs.iter().all(own);
                if !bound {
                    answer.associate(association, [0, 0], |into| into.status(Status::NoBinding));
                }
            }
            return Some(answer.0);
        }
        Kind::Information => {
            let own = |option: &hostconfig::DhcpOption| option.code == code::REFRESH;
            if !port.dhcp.v6.iter().any(own) {
                answer.put(code::REFRESH, &[&REFRESH_SECONDS.to_be_bytes()]);
            }
        }
    }
    let names: Vec<u8> = served.names.iter().flat_map(Ipv6Addr::octets).collect();
    let own = &port.dhcp.v6;
    let says = |code| own.iter().any(|option| option.code == code);
    if !names.is_empty() && !says(code::NAME_SERVERS) {
        answer.put(code::NAME_SERVERS, &[&names]);
    }
    if let Some(domain) = domain(&served.dhcp.domain).filter(|_| !says(code::DOMAINS)) {
        answer.put(code::DOMAINS, &[&domain]);
    }
    for option in own {
        let told = |code| asked.kind == Kind::Information || code != code::REFRESH;
        let data = option.data.as_deref().unwrap_or_default();
        if told(option.code) && answer.0.len() + 4 + data.len() <= LARGEST {
            answer.put(option.code, &[data]);
        }
    }
    Some(answer.0)
}

/// A message, or the options of an association, being written.
struct Message(Vec<u8>);

impl Message {
    /// An option of these pieces.
    fn put(&mut self, code: u16, pieces: &[&[u8]]) {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let Ok(length) = u16::try_from(length) else {
            return;
        };
        self.0.extend(code.to_be_bytes());
        self.0.extend(length.to_be_bytes());
        for piece in pieces {
            self.0.extend(*piece);
        }
    }

    fn status(&mut self, status: Status) {
        self.put(code::STATUS, &[&(status as u16).to_be_bytes()]);
    }

    fn address(&mut self, addr: Ipv6Addr, seconds: u32) {
        let seconds = seconds.to_be_bytes();
        self.put(code::ADDRESS, &[&addr.octets(), &seconds, &seconds]);
    }

    /// An association with these times, T1 and T2, and what `fill` writes.
    fn associate(&mut self, of: &Association, times: [u32; 2], fill: impl FnOnce(&mut Self)) {
        let mut options = Self(Vec::new());
        fill(&mut options);
        let [t1, t2] = times.map(u32::to_be_bytes);
        if of.code == code::IA_TA {
            self.put(of.code, &[&of.id, &options.0]);
        } else {
            self.put(of.code, &[&of.id, &t1, &t2, &options.0]);
        }
    }

    /// What a client gets that wants, or holds, addresses. The port's are given to its first association, whatever that asks for;
    /// another one, temporary addresses and prefixes get none.
    fn grant(
        &mut self,
        kind: Kind,
        to: &Association,
        served: &Served<'_>,
        network: &Network,
        given: bool,
    ) {
        let none = match to.code {
            code::IA_PD => Some(Status::NoPrefix),
            code::IA_NA if !given => None,
            _ => Some(Status::NoAddresses),
        };
        let on_link = |addr: &&Ipv6Addr| {
            let addr = IpAddr::V6(**addr);
            network.subnets.iter().any(|s| s.cidr.contains(addr))
        };
        // RFC 8415 §18.3.2: a client that moved here is to begin anew.
        let moved = kind == Kind::Request && !to.addrs.iter().all(|addr| on_link(&addr));
        let refused = none.or(moved.then_some(Status::NotOnLink));
        if let Some(status) = refused {
            return self.associate(to, [0, 0], |into| into.status(status));
        }
        let seconds = served.lease_seconds;
        // RFC 8415 §21.4: half, and four fifths.
        let times = [seconds / 2, seconds / 5 * 4];
        self.associate(to, times, |into| {
            for addr in &served.leased {
                into.address(*addr, seconds);
            }
            // §18.3.4, §18.3.5: what it holds and may not is over now.
            if matches!(kind, Kind::Renew | Kind::Rebind) {
                for addr in to.addrs.iter().filter(|a| !served.leased.contains(a)) {
                    into.address(*addr, 0);
                }
            }
        });
    }
}

/// A name in labels (RFC 8415 §10); `None` when it is none.
pub(super) fn domain(name: &str) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut labels = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok()?;
        (1..=63).contains(&length).then_some(())?;
        labels.push(length);
        labels.extend(label.as_bytes());
    }
    labels.push(0);
    (labels.len() <= 255).then_some(labels)
}

/// From the server to the client, each by its link-layer address.
fn udp_frame((server, client): (Mac, Mac), to: Ipv6Addr, message: &[u8]) -> Option<Vec<u8>> {
    let from = server.link_local();
    let length = u16::try_from(8 + message.len()).ok()?;
    let mut udp = Vec::with_capacity(usize::from(length));
    udp.extend(SERVER.to_be_bytes());
    udp.extend(CLIENT.to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(message);
    let sum = match checksum::transport(from.into(), to.into(), proto::UDP, &udp) {
        0 => 0xffff,
        sum => sum,
    };
    udp.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::with_capacity(14 + 40 + udp.len());
    frame.extend(client.octets());
    frame.extend(server.octets());
    frame.extend(ethertype::IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([proto::UDP, 64]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    frame.extend(udp);
    Some(frame)
}
