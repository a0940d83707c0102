//! Does the switch's connection tracking judge TCP as the kernel's does? Conversations of real stacks are recorded, spoilt here and there, and played through a
//! router of nftables (`ct state invalid drop`) and through a [`Conntrack`] side by side. Where the two differ, and why: docs/datapath.md. `SEGMENTS` says how many. Needs root.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use net::{
    FiveTuple, Headers, Mac, Now, PortId, TcpSegment, Zone, checksum, flow_key::proto, tcp::flag,
    testkit::FrameBuilder,
};
use nfv::conntrack::{
    Begin, Conntrack, Entrance, Entry, NewConn, Owner, Settings, Side, SideEntry, Stage, Track,
    TrackInput,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tests::{
    netns::{allowed, printed, until},
    openstack::Namespace,
    outside::Cable,
};
use vswitch::io::{netns::Netns, plain_tap};

/// What is compared at least, in segments.
const ASKED: usize = 100_000;
/// Of a hundred thousand segments, how many may be judged otherwise.
const MAY_DIFFER: usize = 100;
/// One segment in so many is spoilt.
const RARE: u32 = 100;
/// One zone: the kernel's router has one too.
const ZONE: Zone = Zone(1);

/// A segment of a conversation: from whom, and its TCP header with what it carries.
#[derive(Debug, Clone)]
struct Segment {
    from: Side,
    tcp: Vec<u8>,
    /// Not as it was recorded: what was done to it.
    spoilt: Option<&'static str>,
}

impl Segment {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.tcp[at..at + 4].try_into().unwrap())
    }

    fn add(&mut self, at: usize, by: u32) {
        let number = self.number(at).wrapping_add(by);
        self.tcp[at..at + 4].copy_from_slice(&number.to_be_bytes());
    }

    /// A bare segment beside this one, from the same end.
    fn bare(&self, flags: u8, seq_by: u32, what: &'static str) -> Self {
        let mut bare = self.clone();
        bare.tcp.truncate(20);
        bare.tcp[12] = 5 << 4;
        bare.tcp[13] = flags;
        bare.add(SEQ, seq_by);
        bare.spoilt = Some(what);
        bare
    }
}

/// Where a TCP header has its sequence number, its acknowledgment and its window (RFC 9293 §3.1).
const SEQ: usize = 4;
const ACK: usize = 8;
const WINDOW: usize = 14;

/// One conversation, in the order in which its segments passed.
type Talk = Vec<Segment>;

/// What two workloads have to say to one another.
#[derive(Debug, Clone, Copy)]
enum Habit {
    /// Questions and answers, and the client goes.
    Asks(u32),
    /// A stream to the server, which goes first when it has all.
    Sends(usize),
    /// A stream to the client after its half of the connection was closed.
    HearsHalfClosed(usize),
    /// The client resets in the middle.
    Resets,
    /// The server closes while it has not read what came, so that it resets.
    IsCutOff,
    /// Nobody listens.
    IsRefused,
}

const HABITS: [Habit; 10] = [
    Habit::Asks(1),
    Habit::Asks(20),
    Habit::Sends(3_000),
    Habit::Sends(120_000),
    Habit::HearsHalfClosed(2_000),
    Habit::HearsHalfClosed(80_000),
    Habit::Resets,
    Habit::IsCutOff,
    Habit::IsRefused,
    Habit::Asks(5),
];

fn client(habit: Habit, to: SocketAddr) {
    if let Habit::IsRefused = habit {
        let refused = TcpStream::connect(SocketAddr::new(to.ip(), 9)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        return;
    }
    let mut stream = TcpStream::connect(to).unwrap();
    let mut buffer = vec![0; 100];
    match habit {
        Habit::Asks(times) => {
            for _ in 0..times {
                stream.write_all(&[1; 100]).unwrap();
                stream.read_exact(&mut buffer).unwrap();
            }
        }
        Habit::Sends(bytes) => {
            stream.write_all(&vec![2; bytes]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream.read_to_end(&mut buffer).unwrap();
        }
        Habit::HearsHalfClosed(_) => {
            stream.shutdown(Shutdown::Write).unwrap();
            stream.read_to_end(&mut buffer).unwrap();
        }
        Habit::Resets => {
            stream.write_all(&[3; 100]).unwrap();
            stream.read_exact(&mut buffer).unwrap();
            let at_once = Some(Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(&stream, at_once).unwrap();
        }
        Habit::IsCutOff => {
            stream.write_all(&[4; 5_000]).unwrap();
            // An end or a reset: whichever comes first.
            drop(stream.read_to_end(&mut buffer));
        }
        Habit::IsRefused => {}
    }
}

fn server(habit: Habit, mut stream: TcpStream) {
    let mut buffer = vec![0; 100];
    match habit {
        Habit::Asks(times) => {
            for _ in 0..times {
                stream.read_exact(&mut buffer).unwrap();
                stream.write_all(&buffer).unwrap();
            }
            assert_eq!(stream.read(&mut buffer).unwrap(), 0);
        }
        Habit::Sends(bytes) => {
            let mut all = vec![0; bytes];
            stream.read_exact(&mut all).unwrap();
        }
        Habit::HearsHalfClosed(bytes) => {
            assert_eq!(stream.read(&mut buffer).unwrap(), 0);
            stream.write_all(&vec![5; bytes]).unwrap();
        }
        Habit::Resets => {
            stream.read_exact(&mut buffer).unwrap();
            stream.write_all(&buffer).unwrap();
            assert!(stream.read(&mut buffer).is_err());
        }
        Habit::IsCutOff => stream.read_exact(&mut buffer).unwrap(),
        Habit::IsRefused => {}
    }
}

/// Conversations between two kernels over a cable that keeps what crosses it.
fn recorded(name: &str) -> Vec<Talk> {
    let ends = [0u8, 1].map(|n| Namespace::new(&format!("{name}-{n}")));
    let names = ends.each_ref().map(|e| e.name().to_owned());
    let cable = Cable::plug(&[(&names[0], "wire"), (&names[1], "wire")]);
    for (n, end) in (1..).zip(&ends) {
        end.ip(&format!("addr add 10.0.0.{n}/24 dev wire"));
        end.ip(&format!("addr add fd00::{n}/64 dev wire nodad"));
    }
    let began = Instant::now();
    let mut port = 1_000;
    for v6 in [false, true] {
        for habit in HABITS {
            port += 1;
            let any: IpAddr = if v6 {
                "::".parse().unwrap()
            } else {
                [0; 4].into()
            };
            let to: IpAddr = if v6 {
                "fd00::2".parse().unwrap()
            } else {
                [10, 0, 0, 2].into()
            };
            let inside = Netns::named(&names[1]);
            let listener = inside
                .enter(|| TcpListener::bind((any, port)).unwrap())
                .unwrap();
            let serving = thread::spawn(move || {
                if !matches!(habit, Habit::IsRefused) {
                    server(habit, listener.accept().unwrap().0);
                }
            });
            let inside = Netns::named(&names[0]);
            inside
                .enter(|| client(habit, SocketAddr::new(to, port)))
                .unwrap();
            serving.join().unwrap();
        }
    }
    let talks = || {
        let mut talks = BTreeMap::<_, Talk>::new();
        for seen in cable.since(began) {
            let Ok((headers, key)) = Headers::parse(&seen.frame) else {
                continue;
            };
            if key.ip_proto != proto::TCP {
                continue;
            }
            let from = Side::BOTH[seen.port];
            let ports = if from == Side::Original {
                (key.l4_src, key.l4_dst)
            } else {
                (key.l4_dst, key.l4_src)
            };
            let tcp = seen.frame[usize::from(headers.l4_at)..].to_vec();
            let segment = Segment {
                from,
                tcp,
                spoilt: None,
            };
            talks
                .entry((key.ethertype, ports))
                .or_default()
                .push(segment);
        }
        talks
    };
    // The last acknowledgment of each is still on its way when its sockets are closed.
    until("all have ended", Duration::from_secs(10), || {
        let talks = talks();
        talks.len() == 2 * HABITS.len() && talks.values().all(|t| ended(t))
    });
    talks().into_values().collect()
}

/// Has it come to its end: a reset, or both FINs and an answer to the last?
fn ended(talk: &[Segment]) -> bool {
    let has = |s: &Segment, f: u16| u16::from(s.tcp[13]) & f != 0;
    let fin = |side| {
        talk.iter()
            .position(|s| s.from == side && has(s, flag::FIN))
    };
    let both = fin(Side::Original).zip(fin(Side::Reply));
    let answered = both.is_some_and(|(a, b)| {
        let last = a.max(b);
        talk[last + 1..].iter().any(|s| s.from != talk[last].from)
    });
    answered || talk.iter().any(|s| has(s, flag::RST))
}

fn below(random: &mut StdRng, n: u32) -> u32 {
    random.random_range(0..n)
}

/// One in `rare` of its segments is lost, comes twice, late, changed, or with company.
fn spoilt(talk: &Talk, random: &mut StdRng, rare: u32) -> Talk {
    let mut spoilt: Talk = Vec::with_capacity(talk.len());
    // What was lost is sent again, behind so many others.
    let mut late: Option<(Segment, u32)> = None;
    for segment in talk {
        late = match late.take() {
            Some((lost, 0)) => {
                spoilt.push(lost);
                None
            }
            Some((lost, n)) => Some((lost, n - 1)),
            None => None,
        };
        let mut s = segment.clone();
        if late.is_some() || below(random, rare) != 0 {
            spoilt.push(s);
            continue;
        }
        let far = 0x1000_0000 + below(random, 0x4000_0000);
        let near = 1 + below(random, 3_000);
        let (what, at, by) = match below(random, 16) {
            0 => {
                late = Some((s, 1 + below(random, 6)));
                continue;
            }
            1 => {
                spoilt.push(s.clone());
                s.spoilt = Some("again");
                spoilt.push(s);
                continue;
            }
            2 => {
                let before = spoilt.len().saturating_sub(1);
                spoilt.insert(before, s);
                continue;
            }
            3 => ("sequence far ahead", SEQ, far),
            4 => ("sequence far behind", SEQ, far.wrapping_neg()),
            5 => ("sequence ahead", SEQ, near),
            6 => ("sequence behind", SEQ, near.wrapping_neg()),
            7 => ("acknowledges far ahead", ACK, far),
            8 => ("acknowledges far behind", ACK, far.wrapping_neg()),
            9 => ("acknowledges ahead", ACK, near),
            10 => ("acknowledges behind", ACK, near.wrapping_neg()),
            11 => {
                s.tcp[13] = below(random, 64).to_le_bytes()[0];
                ("any flags", SEQ, 0)
            }
            12 => {
                s.tcp[WINDOW..WINDOW + 2].copy_from_slice(&[0; 2]);
                ("no window", SEQ, 0)
            }
            13 => {
                spoilt.push(s.bare(0x14, far, "far reset"));
                ("", SEQ, 0)
            }
            14 => {
                spoilt.push(s.bare(0x02, far, "SYN inside"));
                ("", SEQ, 0)
            }
            _ => {
                spoilt.push(s.bare(0x11, far, "far FIN"));
                ("", SEQ, 0)
            }
        };
        s.add(at, by);
        s.spoilt = Some(what).filter(|w| !w.is_empty());
        spoilt.push(s);
    }
    spoilt.extend(late.map(|(lost, _)| lost));
    spoilt
}

/// The ends of one playing, beside the router.
#[derive(Debug, Clone, Copy)]
struct Ends {
    client: SocketAddr,
    server: SocketAddr,
}

impl Ends {
    fn new(v6: bool, n: u32) -> Self {
        let host = n / 50_000;
        let port = 10_000 + u16::try_from(n % 50_000).unwrap();
        let [client, server]: [IpAddr; 2] = if v6 {
            [format!("fd00:a::{:x}", host + 2), "fd00:b::2".into()].map(|a| a.parse().unwrap())
        } else {
            [format!("10.1.0.{}", host + 2), "10.2.0.2".into()].map(|a| a.parse().unwrap())
        };
        Self {
            client: SocketAddr::new(client, port),
            server: SocketAddr::new(server, 80),
        }
    }

    /// The segment as a frame between these ends, with good checksums. `to` is the router's MAC address on that side.
    fn frame(&self, segment: &Segment, to: Mac) -> Vec<u8> {
        let (src, dst) = match segment.from {
            Side::Original => (self.client, self.server),
            Side::Reply => (self.server, self.client),
        };
        let mut tcp = segment.tcp.clone();
        tcp[0..2].copy_from_slice(&src.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&dst.port().to_be_bytes());
        tcp[16..18].copy_from_slice(&[0; 2]);
        let sum = checksum::transport(src.ip(), dst.ip(), proto::TCP, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        FrameBuilder::other(src.is_ipv6(), proto::TCP)
            .macs(NEIGHBOUR, to)
            .addrs(src.ip(), dst.ip())
            .payload(&tcp)
            .build()
    }
}

/// Who stands on both sides of the router.
const NEIGHBOUR: Mac = Mac::new([2, 0, 0, 0, 0, 9]);

/// A router that drops what the kernel's tracking calls invalid.
struct Router {
    taps: [OwnedFd; 2],
    macs: [Mac; 2],
    _namespace: Namespace,
}

const RULES: &str = "table inet t {
  chain f {
    type filter hook forward priority 0
    ct state invalid counter drop
    ct state new,established,related counter accept
    counter drop
  }
}";

impl Router {
    fn new(name: &str) -> Self {
        let namespace = Namespace::new(name);
        let inside = Netns::named(name);
        let taps = ["client", "server"].map(|tap| {
            let open = || plain_tap::open(&tap.parse().unwrap()).unwrap();
            inside.enter(open).unwrap()
        });
        for (tap, v4, v6) in [("client", "10.1", "fd00:a"), ("server", "10.2", "fd00:b")] {
            namespace.ip(&format!("link set {tap} mtu 2000 up"));
            namespace.ip(&format!("addr add {v4}.0.1/24 dev {tap}"));
            namespace.ip(&format!("addr add {v6}::1/64 dev {tap} nodad"));
            for n in 2..10 {
                for to in [format!("{v4}.0.{n}"), format!("{v6}::{n:x}")] {
                    namespace.ip(&format!(
                        "neigh add {to} lladdr {NEIGHBOUR} nud permanent dev {tap}"
                    ));
                }
            }
        }
        namespace.set("ipv4/ip_forward", "1");
        namespace.set("ipv6/conf/all/forwarding", "1");
        let load = ["netns", "exec", name, "nft", RULES];
        printed(
            "nft",
            &std::process::Command::new("ip")
                .args(load)
                .output()
                .unwrap(),
        );
        // As the switch has it: only a SYN begins a connection.
        namespace.set("netfilter/nf_conntrack_tcp_loose", "0");
        namespace.set("netfilter/nf_conntrack_tcp_be_liberal", "0");
        let mac = |tap: &str| {
            let show = ["-n", name, "-o", "link", "show", tap];
            let shown = std::process::Command::new("ip")
                .args(show)
                .output()
                .unwrap();
            let shown = printed("ip link", &shown);
            let mac = shown.split("link/ether ").nth(1).unwrap();
            mac.split(' ').next().unwrap().parse().unwrap()
        };
        Self {
            taps,
            macs: ["client", "server"].map(mac),
            _namespace: namespace,
        }
    }

    /// Does it let a frame through? A datagram that follows it tells when it is decided.
    fn passes(&self, from: Side, frame: &[u8], marker: &[u8]) -> bool {
        let (near, far) = match from {
            Side::Original => (&self.taps[0], &self.taps[1]),
            Side::Reply => (&self.taps[1], &self.taps[0]),
        };
        rustix::io::write(near, frame).unwrap();
        rustix::io::write(near, marker).unwrap();
        let mut passed = false;
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut buffer = [0; 4_000];
        loop {
            match rustix::io::read(far, &mut buffer) {
                Ok(n) => {
                    let came = &buffer[..n];
                    let Ok((_, key)) = Headers::parse(came) else {
                        continue;
                    };
                    // All that the router changes is in front of the transport's header.
                    let tail =
                        |f: &[u8]| f.len() >= 40 && f[f.len() - 20..] == frame[frame.len() - 20..];
                    match key.ip_proto {
                        proto::TCP if came.len() == frame.len() && tail(came) => passed = true,
                        proto::UDP if came[came.len() - 4..] == marker[marker.len() - 4..] => {
                            return passed;
                        }
                        _ => {}
                    }
                }
                Err(error) => {
                    assert_eq!(error, rustix::io::Errno::AGAIN);
                    assert!(Instant::now() < deadline, "the router is silent");
                    let mut ready = [PollFd::new(far, PollFlags::IN)];
                    let second = Timespec {
                        tv_sec: 1,
                        tv_nsec: 0,
                    };
                    poll(&mut ready, Some(&second)).unwrap();
                }
            }
        }
    }
}

/// The switch's judgement, as its groups and firewalls ask for it.
fn belongs(table: &mut Conntrack<Vec<Entry>>, frame: &[u8]) -> bool {
    let (headers, key) = Headers::parse(frame).unwrap();
    let input = TrackInput::read(frame, &headers, &key);
    let tuple = key.five_tuple().unwrap();
    if let Some(hit) = table.lookup(ZONE, &tuple) {
        match table.track(hit, &input, (1, 1), Now::ZERO) {
            Track::Ok => return true,
            Track::Invalid => return false,
            Track::Renew => drop(table.close(hit.conn)),
        }
    }
    input.begins() == Begin::Tracked && table.insert(&new(input, tuple), Now::ZERO, |_| ()).is_ok()
}

fn new(first: TrackInput, tuple: FiveTuple) -> NewConn {
    let side = |tuple, program| {
        SideEntry::new(
            (ZONE, tuple),
            (Mac::ZERO, Mac::ZERO),
            program,
            Entrance::Unknown,
        )
    };
    NewConn {
        sides: [side(tuple, 1), side(tuple.reversed(), 2)],
        owner: Owner {
            port: PortId(1),
            port_limit: u32::MAX,
            project: 1,
            project_limit: u32::MAX,
        },
        first,
        whole: true,
        segments: 1,
        bytes: 1,
    }
}

/// In which stage the switch sees the connection of a frame.
fn stage(table: &Conntrack<Vec<Entry>>, frame: &[u8]) -> Option<Stage> {
    let (_, key) = Headers::parse(frame).unwrap();
    let hit = table.lookup(ZONE, &key.five_tuple().unwrap())?;
    Some(table.entry(hit.conn)?.stage())
}

#[test]
fn tcp_is_judged_as_the_kernel_judges_it() {
    if !allowed() {
        return;
    }
    let name = format!("t-ct-{}", std::process::id());
    let talks = recorded(&name);
    let router = Router::new(&format!("{name}-r"));
    let mut table = Conntrack::new(vec![Entry::default(); 1 << 16], Settings::default());
    let mut random = StdRng::seed_from_u64(1);
    let asked = std::env::var("SEGMENTS").map_or(ASKED, |n| n.parse().unwrap());
    let (mut compared, mut honest, mut refused) = (0usize, 0usize, 0usize);
    let mut differ = BTreeMap::<String, usize>::new();
    let mut playing = 0;
    while compared < asked {
        for talk in &talks {
            let v6 = playing % 2 == 1;
            // The first time each is played as it was.
            let as_it_was = playing < 2 * talks.len();
            let played = if as_it_was {
                talk.clone()
            } else {
                spoilt(talk, &mut random, RARE)
            };
            let ends = Ends::new(v6, u32::try_from(playing).unwrap());
            playing += 1;
            for segment in &played {
                let to = router.macs[segment.from as usize];
                let frame = ends.frame(segment, to);
                let (src, dst) = if segment.from == Side::Original {
                    (ends.client, ends.server)
                } else {
                    (ends.server, ends.client)
                };
                let number = u32::try_from(compared).unwrap().to_be_bytes();
                let marker = FrameBuilder::udp(v6, 7, 7)
                    .macs(NEIGHBOUR, to)
                    .addrs(src.ip(), dst.ip())
                    .payload(&number)
                    .build();
                let before = stage(&table, &frame);
                let kernel = router.passes(segment.from, &frame, &marker);
                let ours = belongs(&mut table, &frame);
                compared += 1;
                refused += usize::from(!kernel);
                honest += usize::from(as_it_was);
                if kernel != ours {
                    let (headers, _) = Headers::parse(&frame).unwrap();
                    let tcp = TcpSegment::read(&frame, &headers).unwrap();
                    assert!(
                        !as_it_was,
                        "kernel {kernel}, switch {ours}: {tcp:?} of {:?} in {before:?}",
                        segment.from
                    );
                    let what = format!(
                        "switch {} flags {:#04x} of {:?} in {before:?}, {}",
                        if ours { "passes" } else { "refuses" },
                        tcp.flags,
                        segment.from,
                        segment.spoilt.unwrap_or("as it was"),
                    );
                    *differ.entry(what).or_default() += 1;
                    // What follows would be judged from two pasts.
                    break;
                }
            }
        }
    }
    let differing: usize = differ.values().sum();
    let mut kinds: Vec<_> = differ.into_iter().collect();
    kinds.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    println!(
        "{compared} segments, {honest} of them as they were, {refused} refused by the kernel, {differing} judged otherwise"
    );
    for (what, n) in &kinds {
        println!("{n:6} {what}");
    }
    assert!(
        refused * 200 > compared,
        "too few were refused for a comparison"
    );
    assert!(
        differing * 100_000 <= MAY_DIFFER * compared,
        "{differing} of {compared}"
    );
}
