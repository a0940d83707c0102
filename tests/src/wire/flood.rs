//! Does a neighbour's flood slow anybody but itself?
//!
//! One overweave fabric. `w1` asks `w2`, and holds connections with it; `w3`, beside `w1`, sends SYNs to `w4`, beside `w2`, from addresses that are not its own
//! (port security drops them) or from a block that it may send from (they fill its table). The control is the same sender into a tap that nobody
//! reads: so what it costs the machine is on both sides, and the ratio is the switch's.
//!
//! - Data: a [`Report`]: the victim's latencies, paired; who else lost anything.
//! - Owner: [`run`] owns the stand; a sender is a thread that ends with its measurement.
//! - Cost: three measurements a round.
//! - Failure: what did not hold is a line of [`Report::broken`]; a sender slower than half of what was asked is one too, for it shows little.

use super::{
    figures::{Middle, Series, ratios},
    place::{Place, ip},
    system::{PORT, Stand, Wanted},
    work::{Pace, Sample, Server, TRAIN, Work, accept, listener_at, send_train},
};
use anyhow::{Context as _, bail};
use net::testkit::{FrameBuilder, tcp};
use rustix::net::{AddressFamily, SocketType, ipproto};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};
use vswitch::io::{netns::Netns, plain_tap};

/// What is asked of a sitting.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Rounds of three measurements.
    pub pairs: usize,
    /// Seconds of one.
    pub seconds: f64,
    /// SYNs a second.
    pub rate: f64,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// The victim's request and response: beside each flood, and beside the control.
    pub series: Vec<Series>,
    /// What the switch of the flooder's host dropped, by reason and port.
    pub drops: BTreeSet<String>,
    /// What did not hold; empty if all did.
    pub broken: Vec<String>,
}

/// By how much the victim may be slower than beside the control.
const SLOWER: f64 = 1.2;
/// Connections that the victim holds.
const HELD: u16 = 50;
/// The block that the flooder may send from.
const BLOCK: &str = "10.88.0.0/16";
/// Behind the tap that nobody reads.
const VOID: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const FLOODER: &str = "w3";

/// Measures.
///
/// # Errors
/// The fabric does not come up.
pub fn run(wish: Wish, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Report> {
    let wanted: Wanted = "overweave".parse()?;
    let mut stand = Stand::up(0, &wanted).context("bring up overweave")?;
    stand.join(3, "h1", Some(BLOCK))?;
    stand.join(4, "h2", None)?;
    let flooder = stand.place.enter(FLOODER);
    let _void = void(&stand.place, &flooder)?;
    let _server = serve(&stand.place)?;
    let mut held = hold(&stand)?;
    tell(&format!("up, {} connections held", held.len()));
    let std::net::IpAddr::V4(target) = Place::address(4, false) else {
        bail!("the fourth workload has an IPv4 address");
    };
    let floods = [
        ("control", VOID, [198, 18]),
        ("spoofed flood", target, [198, 18]),
        ("flood of an allowed block", target, [10, 88]),
    ];
    let mut samples = [const { Vec::<Sample>::new() }; 3];
    let mut report = Report {
        series: vec![],
        drops: BTreeSet::new(),
        broken: vec![],
    };
    for round in 1..=wish.pairs {
        for ((name, to, sources), kept) in floods.iter().zip(&mut samples) {
            let sender = Sender::start(&flooder, *to, *sources, wish.rate)?;
            let sample = Work::RequestResponse.run(&stand, wish.seconds);
            let rate = sender.stop()?;
            let sample = sample.with_context(|| format!("beside the {name}"))?;
            if rate < wish.rate / 2.0 {
                report.broken.push(format!(
                    "round {round}: the sender of the {name} sent {rate:.0} a second of {:.0}: it shows little",
                    wish.rate
                ));
            }
            tell(&format!(
                "round {round} {name} at {:.0} k/s: {sample}",
                rate / 1e3
            ));
            kept.push(sample);
            let before = held.len();
            held.retain_mut(|stream| answers(stream).is_ok());
            if held.len() < before {
                let lost = before - held.len();
                report.broken.push(format!(
                    "round {round}: {lost} established connections lost beside the {name}"
                ));
            }
        }
        note_drops(&stand, &mut report)?;
    }
    let [control, spoofed, allowed] = samples;
    for ((name, _, _), flooded) in floods[1..].iter().zip([spoofed, allowed]) {
        let series = Series {
            work: format!("request/response beside a {name}"),
            systems: vec![
                ("beside the flood".into(), flooded),
                ("beside the control".into(), control.clone()),
            ],
        };
        for (figure, middle) in ratios(&series) {
            if figure.starts_with('p') && slower(middle) {
                report.broken.push(format!(
                    "{figure} beside the {name} is {:.2} times the control's",
                    middle.median
                ));
            }
        }
        report.series.push(series);
    }
    Ok(report)
}

/// Is it, for all that the runs say?
fn slower(ratio: Middle) -> bool {
    ratio.interval.map_or(ratio.median, |(low, _)| low) > SLOWER
}

/// Notes who was dropped, and by whose limit: nobody's but the flooder's may be reached.
fn note_drops(stand: &Stand, report: &mut Report) -> anyhow::Result<()> {
    for host in ["h1", "h2"] {
        let told = stand.drops(host)?;
        let rows = told["drops"].as_array().context("drops without rows")?;
        for row in rows {
            let [reason, port] = ["reason", "port"].map(|key| row[key].as_str().unwrap_or("-"));
            let line = format!("{host} {reason} {}", named(stand, port)?);
            if is_limit(reason) && !line.ends_with(FLOODER) && !report.drops.contains(&line) {
                report
                    .broken
                    .push(format!("another's limit is reached: {line}"));
            }
            report.drops.insert(line);
        }
    }
    Ok(())
}

/// Is it a limit of somebody's that a packet was dropped by?
fn is_limit(reason: &str) -> bool {
    ["budget", "limit", "full"]
        .iter()
        .any(|word| reason.contains(word))
}

/// A port's name, where the switch told its id.
fn named(stand: &Stand, port: &str) -> anyhow::Result<String> {
    let (rest, _) = stand.rest().context("overweave has an API")?;
    let ports: Value = rest.list("ports")?;
    let ports = ports["ports"].as_array().context("no ports")?;
    let own = ports
        .iter()
        .find(|p| p["id"] == port || p["name"] == port)
        .and_then(|p| p["name"].as_str());
    Ok(own.unwrap_or(port).to_owned())
}

/// A tap that nobody reads, with a neighbour behind it.
fn void(place: &Place, flooder: &Netns) -> anyhow::Result<OwnedFd> {
    let name = "void0".parse().context("a name of a device")?;
    let tap = flooder.enter(move || plain_tap::open(&name))??;
    let netns = place.netns(FLOODER);
    ip(&format!("-n {netns} addr add 10.99.0.1/24 dev void0"))?;
    ip(&format!("-n {netns} link set void0 up"))?;
    ip(&format!(
        "-n {netns} neigh add {VOID} lladdr 02:99:00:00:00:02 nud permanent dev void0"
    ))?;
    Ok(tap)
}

/// Echoes bytes of any number of connections.
fn serve(place: &Place) -> anyhow::Result<Server> {
    let open = || listener_at(PORT + 1);
    Server::start(&place.enter("w2"), open, |listener, stopped| {
        accept(&listener, stopped, |mut stream| {
            std::thread::spawn(move || {
                let mut byte = [0];
                while let Ok(1) = stream.read(&mut byte) {
                    if stream.write_all(&byte).is_err() {
                        break;
                    }
                }
            });
        });
    })
}

fn hold(stand: &Stand) -> anyhow::Result<Vec<TcpStream>> {
    let target = SocketAddr::new(stand.target, PORT + 1);
    let streams = stand.place.enter("w1").enter(move || {
        (0..HELD)
            .map(|_| {
                let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                answers(&mut stream)?;
                Ok(stream)
            })
            .collect::<std::io::Result<Vec<_>>>()
    })?;
    streams.context("hold connections")
}

fn answers(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut byte = [7];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)
}

/// Sends SYNs until it is told to stop.
struct Sender {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<f64>>,
}

impl Sender {
    /// To an address, from addresses that begin with these two bytes.
    fn start(from: &Netns, to: Ipv4Addr, sources: [u8; 2], rate: f64) -> anyhow::Result<Self> {
        let socket = from.enter(move || {
            // With the IP header in the packet: its source is whatever it says (raw(7)).
            let raw =
                rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?;
            rustix::net::connect(&raw, &SocketAddrV4::new(to, 0))?;
            Ok::<_, std::io::Error>(raw)
        })??;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut pace = Pace::begin(Some(rate));
            let mut number = 0u32;
            while !stopped.load(Relaxed) {
                if !pace.is_due() {
                    continue;
                }
                let train: [Vec<u8>; TRAIN] = std::array::from_fn(|_| {
                    number = number.wrapping_add(1);
                    syn(sources, to, number)
                });
                pace.sent += send_train(&socket, &train)?;
            }
            Ok(pace.sent / pace.passed())
        });
        Ok(Self { stop, thread })
    }

    /// How many went a second.
    fn stop(self) -> anyhow::Result<f64> {
        self.stop.store(true, Relaxed);
        let sent = self.thread.join().ok().context("the sender panicked")?;
        sent.context("send SYNs")
    }
}

/// The n-th SYN, an IP packet.
fn syn(sources: [u8; 2], to: Ipv4Addr, number: u32) -> Vec<u8> {
    let [_, _, third, fourth] = number.wrapping_mul(2_654_435_761).to_be_bytes();
    let source = Ipv4Addr::new(sources[0], sources[1], third, fourth);
    // Each round of the addresses has other ports.
    let port = 1024 + u16::try_from(number / 65_536 % 60_000).unwrap_or(0);
    let frame = FrameBuilder::tcp(false, port, PORT)
        .addrs(source.into(), to.into())
        .flags(tcp::SYN)
        .seq(number, 0)
        .build();
    frame[ETHERNET..].to_vec()
}

const ETHERNET: usize = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_of_different_valid_syns_of_its_block() {
        let to = Ipv4Addr::new(10, 77, 0, 4);
        let all: BTreeSet<_> = (0..5000).map(|n| syn([10, 88], to, n)).collect();
        assert_eq!(all.len(), 5000);
        for packet in all {
            assert_eq!(packet[0], 0x45);
            assert_eq!(packet[12..14], [10, 88]);
            assert_eq!(packet[16..20], to.octets());
            assert_eq!(packet[33], tcp::SYN);
        }
    }

    #[test]
    fn a_limit_is_told_from_a_policy() {
        assert!(is_limit("connection_budget"));
        assert!(!is_limit("spoofed_ip"));
    }
}
