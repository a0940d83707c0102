//! What is asked of a system, and what came of it?

use crate::wire::{
    place::Place,
    system::{PORT, Stand},
};
use anyhow::{Context as _, bail};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg, sockopt};
use serde_json::Value;
use std::{
    fmt,
    io::{BufRead as _, BufReader, IoSlice, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::Stdio,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use vswitch::io::netns::Netns;

/// A work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// TCP streams in one direction, by iperf3.
    Tcp {
        /// How many.
        streams: u16,
    },
    /// UDP datagrams of 64 bytes: the most received a second, at several offered rates.
    Udp,
    /// One byte there and back over one TCP connection.
    RequestResponse,
    /// Connect, one byte there and back, close.
    Connect,
}

impl FromStr for Work {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text {
            "udp" => Self::Udp,
            "rr" => Self::RequestResponse,
            "crr" => Self::Connect,
            _ => match text.strip_prefix("tcp") {
                Some("") => Self::Tcp { streams: 1 },
                Some(count) if matches!(count.parse::<u16>(), Ok(1..=64)) => Self::Tcp {
                    streams: count.parse()?,
                },
                _ => bail!("work must be tcp, tcpN (2 to 64 streams), udp, rr or crr: {text:?}"),
            },
        })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { streams: 1 } => f.write_str("tcp"),
            Self::Tcp { streams } => write!(f, "tcp{streams}"),
            Self::Udp => f.write_str("udp"),
            Self::RequestResponse => f.write_str("rr"),
            Self::Connect => f.write_str("crr"),
        }
    }
}

/// Which way is good?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

impl fmt::Display for Better {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Higher => "more",
            Self::Lower => "less",
        })
    }
}

/// One number of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Its name, with the unit.
    pub name: &'static str,
    /// The number.
    pub value: f64,
    /// Which way is good.
    pub better: Better,
}

/// What one run gave: the same figures in the same order for each run of a work.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The numbers.
    pub figures: Vec<Figure>,
}

impl Sample {
    /// Of one number.
    pub fn of(name: &'static str, value: f64, better: Better) -> Self {
        let figures = vec![Figure {
            name,
            value,
            better,
        }];
        Self { figures }
    }

    fn and(mut self, name: &'static str, value: f64, better: Better) -> Self {
        self.figures.push(Figure {
            name,
            value,
            better,
        });
        self
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, figure) in self.figures.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{} {:.4}", figure.name, figure.value)?;
        }
        Ok(())
    }
}

impl Work {
    /// Does it once.
    ///
    /// # Errors
    /// No figure came of it: with what was said.
    pub fn run(self, stand: &Stand, seconds: f64) -> anyhow::Result<Sample> {
        let busy = Busy::now()?;
        match self {
            Self::Tcp { streams } => tcp(stand, streams, seconds, &busy),
            Self::Udp => udp(stand, seconds),
            Self::RequestResponse => request_response(stand, seconds, &busy),
            Self::Connect => connect(stand, seconds, &busy),
        }
    }
}

/// Seconds that the machine's cores have worked: user, nice, system, interrupts.
struct Busy(f64);

impl Busy {
    fn now() -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<f64> = line
            .split_whitespace()
            .skip(1)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let ticks: f64 = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum();
        // USER_HZ is 100 on every architecture of Linux that matters here (proc(5)).
        Ok(Self(ticks / 100.0))
    }

    fn since(&self) -> anyhow::Result<f64> {
        Ok(Self::now()?.0 - self.0)
    }
}

fn tcp(stand: &Stand, streams: u16, seconds: f64, busy: &Busy) -> anyhow::Result<Sample> {
    let port = PORT.to_string();
    let words = ["iperf3", "-s", "-1", "-p", &port, "--forceflush"];
    let mut server = stand
        .place
        .inside("w2", &words)
        .stdout(Stdio::piped())
        .spawn()?;
    let out = server.stdout.take().context("iperf3 has no output")?;
    // Kept until the end: a server whose output is closed ends.
    let mut lines = BufReader::new(out).lines();
    let listens = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains("listening"));
    if !listens {
        bail!("iperf3 does not listen");
    }
    let (target, streams, time) = (
        stand.target.to_string(),
        streams.to_string(),
        seconds.ceil().to_string(),
    );
    let words = [
        "iperf3", "-J", "-c", &target, "-p", &port, "-P", &streams, "-t", &time, "-i", "0",
    ];
    let answer = stand.place.ask("w1", &words);
    if answer.is_err() {
        server.kill().unwrap_or_default();
    }
    server.wait()?;
    let answer: Value = serde_json::from_str(&answer?)?;
    let number = |pointer: &str| answer.pointer(pointer).and_then(Value::as_f64);
    let rate = number("/end/sum_received/bits_per_second").context("iperf3 counted nothing")?;
    let bytes = number("/end/sum_received/bytes").context("iperf3 counted nothing")?;
    let again = number("/end/sum_sent/retransmits").unwrap_or(0.0);
    Ok(Sample::of("Gb/s", rate / 1e9, Better::Higher)
        .and("CPU s/GB", busy.since()? / (bytes / 1e9), Better::Lower)
        .and("sent again", again, Better::Lower))
}

/// A thread in a namespace that serves until it is dropped.
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Runs `serve` on a thread that `open` opened its socket for, inside `netns`.
    pub(super) fn start<S: Send + 'static>(
        netns: &Netns,
        open: impl FnOnce() -> std::io::Result<S> + Send,
        serve: impl FnOnce(S, &AtomicBool) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let socket = netns.enter(open)??;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || serve(socket, &stopped));
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_default();
        }
    }
}

fn any() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, PORT).into()
}

fn listener() -> std::io::Result<TcpListener> {
    listener_at(PORT)
}

/// A listener of both families that does not block.
pub(super) fn listener_at(port: u16) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Accepts until told to stop; a short wait in the kernel between the questions.
pub(super) fn accept(
    listener: &TcpListener,
    stopped: &AtomicBool,
    mut each: impl FnMut(TcpStream),
) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let wait = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    while !stopped.load(Relaxed) {
        let mut watched = [PollFd::new(listener, PollFlags::IN)];
        poll(&mut watched, Some(&wait))
            .map(drop)
            .unwrap_or_default();
        while let Ok((stream, _)) = listener.accept() {
            if stream.set_nonblocking(false).is_ok() {
                each(stream);
            }
        }
    }
}

fn request_response(stand: &Stand, seconds: f64, busy: &Busy) -> anyhow::Result<Sample> {
    let _server = Server::start(&stand.place.enter("w2"), listener, |listener, stopped| {
        accept(&listener, stopped, |mut stream| {
            let mut byte = [0];
            stream.set_nodelay(true).unwrap_or_default();
            while let Ok(1) = stream.read(&mut byte) {
                if stream.write_all(&byte).is_err() {
                    break;
                }
            }
        });
    })?;
    let target = SocketAddr::new(stand.target, PORT);
    let times = stand.place.enter("w1").enter(move || {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut times = vec![];
        let mut byte = [0];
        let start = Instant::now();
        let mut last = start;
        while last.duration_since(start).as_secs_f64() < seconds {
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
            let now = Instant::now();
            times.push(now.duration_since(last).as_secs_f64() * 1e6);
            last = now;
        }
        Ok::<_, std::io::Error>(times)
    })?;
    let times = times.context("ask and answer")?;
    latencies(times, busy)
}

fn latencies(mut times: Vec<f64>, busy: &Busy) -> anyhow::Result<Sample> {
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(times.len() * part / 100).copied();
    let median = at(50).context("no answer came")?;
    #[expect(clippy::cast_precision_loss, reason = "a count of answers")]
    let each = busy.since()? * 1e6 / times.len() as f64;
    Ok(Sample::of("p50 us", median, Better::Lower)
        .and("p99 us", at(99).unwrap_or(median), Better::Lower)
        .and("CPU us each", each, Better::Lower))
}

fn connect(stand: &Stand, seconds: f64, busy: &Busy) -> anyhow::Result<Sample> {
    // The server closes first: what waits for late segments is at its side, and the client does not run out of ports.
    let _server = Server::start(&stand.place.enter("w2"), listener, |listener, stopped| {
        accept(&listener, stopped, |mut stream| {
            let mut byte = [0];
            stream
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap_or_default();
            if stream.read(&mut byte).is_ok_and(|bytes| bytes == 1) {
                stream.write_all(&byte).unwrap_or_default();
            }
        });
    })?;
    let target = SocketAddr::new(stand.target, PORT);
    let done = stand.place.enter("w1").enter(move || {
        let (mut done, mut failed) = (0u32, 0u32);
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < seconds {
            match once(target) {
                Ok(()) => done += 1,
                Err(_) => failed += 1,
            }
        }
        (done, failed, start.elapsed().as_secs_f64())
    })?;
    let (done, failed, took) = done;
    if done == 0 {
        bail!("no connection was made, {failed} failed");
    }
    let each = busy.since()? * 1e6 / f64::from(done);
    Ok(
        Sample::of("a second", f64::from(done) / took, Better::Higher)
            .and("failed", f64::from(failed), Better::Lower)
            .and("CPU us each", each, Better::Lower),
    )
}

fn once(target: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut byte = [0];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    let end = stream.read(&mut byte)?;
    if end == 0 {
        Ok(())
    } else {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}

/// Offered rates go up by a third from what an unbounded sender got through, while that helps.
fn udp(stand: &Stand, seconds: f64) -> anyhow::Result<Sample> {
    let each = seconds / 5.0;
    let mut best = blast(stand, None, each)?;
    for share in [1.0, 1.33, 1.77, 0.75] {
        let offered = best.received * share;
        let run = blast(stand, Some(offered), each)?;
        if run.received > best.received {
            best = run;
        }
    }
    Ok(
        Sample::of("k/s received", best.received / 1e3, Better::Higher)
            .and("k/s sent", best.sent / 1e3, Better::Higher)
            .and("CPU us each", best.cpu, Better::Lower),
    )
}

struct Blast {
    sent: f64,
    received: f64,
    cpu: f64,
}

fn blast(stand: &Stand, rate: Option<f64>, seconds: f64) -> anyhow::Result<Blast> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let server = Server::start(
        &stand.place.enter("w2"),
        || {
            let socket = UdpSocket::bind(any())?;
            sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20)?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            Ok(socket)
        },
        move |socket, stopped| {
            let mut buffer = [0; 2048];
            loop {
                match socket.recv(&mut buffer) {
                    Ok(_) => counted.fetch_add(1, Relaxed),
                    Err(_) if stopped.load(Relaxed) => return,
                    Err(_) => continue,
                };
            }
        },
    )?;
    let target = SocketAddr::new(Place::address(2, stand.wanted.v6), PORT);
    let busy = Busy::now()?;
    let sent = stand
        .place
        .enter("w1")
        .enter(move || send(target, rate, seconds))?;
    let (sent, took) = sent.context("send datagrams")?;
    let cpu = busy.since()?;
    // What is on its way arrives before the server has been idle for its time-out.
    drop(server);
    #[expect(clippy::cast_precision_loss, reason = "a count of datagrams")]
    let received = count.load(Relaxed) as f64;
    if received < 1.0 {
        bail!("no datagram arrived of {sent}");
    }
    Ok(Blast {
        sent: sent / took,
        received: received / took,
        cpu: cpu * 1e6 / received,
    })
}

/// Sends datagrams of 64 bytes, a train a call, at most `rate` a second.
fn send(target: SocketAddr, rate: Option<f64>, seconds: f64) -> std::io::Result<(f64, f64)> {
    let local: IpAddr = if target.is_ipv4() {
        [0, 0, 0, 0].into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((local, 0))?;
    socket.connect(target)?;
    let payload = [0u8; 64];
    let payloads = [&payload[..]; TRAIN];
    let mut pace = Pace::begin(rate);
    loop {
        let passed = pace.passed();
        if passed >= seconds {
            return Ok((pace.sent, passed));
        }
        if pace.is_due() {
            pace.sent += send_train(&socket, &payloads)?;
        }
    }
}

/// Packets that one call sends.
pub(super) const TRAIN: usize = 32;

/// Sends one train to whom the socket is connected; how many of it went.
pub(super) fn send_train(
    socket: impl AsFd,
    payloads: &[impl AsRef<[u8]>; TRAIN],
) -> std::io::Result<f64> {
    let slices = payloads.each_ref().map(|p| [IoSlice::new(p.as_ref())]);
    let mut controls: [SendAncillaryBuffer<'_, '_, '_>; TRAIN] = Default::default();
    let mut messages: Vec<MMsgHdr<'_>> = controls
        .iter_mut()
        .zip(&slices)
        .map(|(control, slices)| MMsgHdr::new(slices, control))
        .collect();
    match sendmmsg(socket, &mut messages, SendFlags::empty()) {
        Ok(count) => Ok(f64::from(u32::try_from(count).unwrap_or(0))),
        // A full queue of the device, or an error that an earlier datagram met.
        Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::CONNREFUSED) => Ok(0.0),
        Err(error) => Err(error.into()),
    }
}

/// Trains at a rate.
pub(super) struct Pace {
    start: Instant,
    rate: Option<f64>,
    /// How many packets went.
    pub(super) sent: f64,
}

impl Pace {
    /// So many packets a second, or as many as can be.
    pub(super) fn begin(rate: Option<f64>) -> Self {
        Self {
            start: Instant::now(),
            rate,
            sent: 0.0,
        }
    }

    /// Seconds since it began.
    pub(super) fn passed(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Is it time for another train? If not, a little time was spent.
    pub(super) fn is_due(&self) -> bool {
        let Some(rate) = self.rate else {
            return true;
        };
        let passed = self.passed();
        if self.sent <= passed * rate {
            return true;
        }
        let ahead = (self.sent + 1.0) / rate - passed;
        // Under the timer's slack it is quicker to ask the clock again.
        if ahead > 60e-6 {
            std::thread::sleep(Duration::from_secs_f64((ahead - 55e-6).min(1e-3)));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_is_said_and_read_the_same() {
        for text in ["tcp", "tcp8", "udp", "rr", "crr"] {
            assert_eq!(text.parse::<Work>().unwrap().to_string(), text);
        }
        for text in ["", "tcp0", "tcp65", "tcpx", "sctp"] {
            assert!(text.parse::<Work>().is_err(), "{text:?}");
        }
    }
}
