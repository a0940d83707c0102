//! How many bits a second pass over one TCP connection?
//!
//! The receiver counts and tells every 100 ms; what lies in the sender's buffers is not mistaken for throughput.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::lab::keeper::SINK;
use crate::lab::netns;

const PATIENCE: Duration = Duration::from_secs(5);
/// Where a sink listens if the workload serves no TCP itself.
pub(crate) const PORT: u16 = 5201;

/// Bits a second.
pub(crate) fn rate(bytes: u64, over: Duration) -> u64 {
    let micros = over.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 8 * 1_000_000 / micros).unwrap_or(u64::MAX)
}

/// Sends from one namespace to a TCP sink for the length and a second before it that does not count.
///
/// # Errors
/// When the connection fails.
pub(crate) fn send(
    namespace: &str,
    to: IpAddr,
    port: u16,
    length: Duration,
) -> anyhow::Result<u64> {
    netns::inside(namespace, || {
        let to = SocketAddr::new(to, port);
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)
            .with_context(|| format!("connect to {to}"))?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .context("set a timeout")?;
        stream
            .set_write_timeout(Some(PATIENCE))
            .context("set a timeout")?;
        stream.write_all(SINK).context("open the sink")?;
        let counts = BufReader::new(stream.try_clone().context("share the connection")?);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let zeros = vec![0_u8; 256 * 1024];
                while !done.load(Ordering::Relaxed) {
                    if stream.write_all(&zeros).is_err() {
                        return;
                    }
                }
            });
            let measured = measure(counts, length);
            done.store(true, Ordering::Relaxed);
            measured
        })
    })
}

fn measure(counts: impl BufRead, length: Duration) -> anyhow::Result<u64> {
    let start = Instant::now();
    let mut from: Option<(Instant, u64)> = None;
    for line in counts.lines() {
        let line = line.context("wait for the sink's count")?;
        let count: u64 = line
            .trim()
            .parse()
            .context("read the sink's count; is it a lab's `tcp` server?")?;
        let now = Instant::now();
        match from {
            None if now - start >= Duration::from_secs(1) => from = Some((now, count)),
            Some((since, before)) if now - since >= length => {
                return Ok(rate(count.saturating_sub(before), now - since));
            }
            None | Some(_) => {}
        }
    }
    bail!("the sink hung up")
}

/// A sink for one measurement, in a workload that serves no TCP itself.
#[derive(Debug)]
pub(crate) struct Sink {
    listener: TcpListener,
}

impl Sink {
    /// Opens it inside the workload's namespace.
    ///
    /// # Errors
    /// When the port is taken.
    pub(crate) fn open(namespace: &str) -> anyhow::Result<Self> {
        let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, PORT));
        let listener = netns::inside(namespace, || {
            TcpListener::bind(any).with_context(|| format!("listen on port {PORT} of {namespace}"))
        })?;
        Ok(Self { listener })
    }

    /// Serves one connection to its end.
    ///
    /// # Errors
    /// When it breaks before it began.
    pub(crate) fn serve(&self) -> anyhow::Result<()> {
        use std::io::Read;
        let (mut stream, _) = self.listener.accept().context("wait for the sender")?;
        // A sender whose way breaks in mid-transfer can't say goodbye.
        stream
            .set_read_timeout(Some(PATIENCE))
            .context("set a timeout")?;
        let mut tell = stream.try_clone().context("share the connection")?;
        let mut buffer = vec![0_u8; 256 * 1024];
        let mut greeting = vec![0_u8; SINK.len()];
        stream
            .read_exact(&mut greeting)
            .context("read the sender's greeting")?;
        let (mut total, mut told) = (0_u64, Instant::now());
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(read) => total += u64::try_from(read).unwrap_or_default(),
            }
            if told.elapsed() >= Duration::from_millis(100) {
                told = Instant::now();
                if writeln!(tell, "{total}").is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Lets a waiting [`Sink::serve`] return although nobody came.
///
/// # Errors
/// When the namespace can't be entered.
pub(crate) fn wake(namespace: &str) -> anyhow::Result<()> {
    netns::inside(namespace, || {
        let here = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, PORT));
        // It may have been served meanwhile; then the connection waits in the queue and ends with the listener.
        drop(TcpStream::connect_timeout(&here, Duration::from_secs(1)));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_bits_over_time() {
        assert_eq!(rate(1_250_000, Duration::from_secs(1)), 10_000_000);
        assert_eq!(rate(1_250_000, Duration::from_millis(500)), 20_000_000);
    }

    #[test]
    fn a_sink_that_hangs_up_is_an_error() {
        let counts = std::io::Cursor::new(b"0\n10\n".to_vec());
        assert!(
            measure(counts, Duration::from_secs(1))
                .unwrap_err()
                .to_string()
                .contains("hung up")
        );
        let counts = std::io::Cursor::new(b"hello\n".to_vec());
        assert!(measure(counts, Duration::from_secs(1)).is_err());
    }
}
