//! Who serves in a lab while nobody looks?
//!
//! One process a lab, outside its namespaces: it holds the small servers of `serve:` (a socket stays in the namespace
//! where it was made, whoever reads it) and forwards a port of the caller's loopback to the controller's API.
//!
//! # Protocols
//! - HTTP answers each request with the workload's name; a request with the header `X-Overweave-Stream` gets zeros
//!   until it hangs up.
//! - TCP echoes; after the line `overweave-sink` it swallows all and tells every 100 ms how many bytes came.
//! - UDP echoes.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::netns;
use super::plan::ServeKind;
use super::state::{Process, State};

/// Connections at a time, all servers together; more wait in their listen queue.
const CONNECTIONS: usize = 2_048;
/// The first port tried for the API, and how many after it.
const API_PORTS: std::ops::Range<u16> = 9696..9796;
/// How long a client may think about its request.
const REQUEST: Duration = Duration::from_secs(10);
/// What one write of a stream holds.
const CHUNK: usize = 64 * 1024;
/// Says that a TCP client wants its bytes counted.
pub(crate) const SINK: &[u8] = b"overweave-sink\n";

/// What a keeper is told, as `keeper.json` in the lab's state directory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) controller_namespace: String,
    pub(crate) controller: SocketAddr,
    pub(crate) servers: Vec<Server>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Server {
    pub(crate) namespace: String,
    pub(crate) workload: String,
    pub(crate) kind: ServeKind,
    pub(crate) port: u16,
}

/// Runs until it is signalled. Prints the API's port once all sockets listen.
///
/// # Errors
/// When a socket can't be had.
pub(crate) fn run(dir: &Path) -> anyhow::Result<()> {
    let state = State::of_dir(dir)?;
    state.record(&Process::of("keeper", std::process::id())?)?;
    let orders: Orders = state.read_json("keeper.json")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the lab's servers")?;
    runtime.block_on(serve(orders))
}

async fn serve(orders: Orders) -> anyhow::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    for server in orders.servers {
        open(server, &room)?;
    }
    let (listener, port) = api_listener()?;
    let to = (orders.controller_namespace, orders.controller);
    tokio::spawn(forward(listener, Arc::new(to), Arc::clone(&room)));
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{port}")
        .and_then(|()| stdout.flush())
        .context("tell the API's port")?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("handle SIGTERM")?;
    terminate.recv().await;
    Ok(())
}

/// A loopback port of the caller for the API.
fn api_listener() -> anyhow::Result<(tokio::net::TcpListener, u16)> {
    for port in API_PORTS {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            listener
                .set_nonblocking(true)
                .context("prepare the API's port")?;
            return Ok((
                tokio::net::TcpListener::from_std(listener).context("watch the API's port")?,
                port,
            ));
        }
    }
    bail!(
        "no free port for the API from {} to {} on 127.0.0.1; end what uses them",
        API_PORTS.start,
        API_PORTS.end - 1
    )
}

async fn forward(
    listener: tokio::net::TcpListener,
    to: Arc<(String, SocketAddr)>,
    room: Arc<Semaphore>,
) {
    loop {
        let Ok((mut near, _)) = listener.accept().await else {
            continue;
        };
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let to = Arc::clone(&to);
        tokio::spawn(async move {
            let _room = permit;
            let far = tokio::task::spawn_blocking(move || {
                netns::inside(&to.0, || {
                    TcpStream::connect_timeout(&to.1, Duration::from_secs(5))
                        .context("reach the controller")
                })
            });
            let Ok(Ok(far)) = far.await else { return };
            if far.set_nonblocking(true).is_err() {
                return;
            }
            let Ok(mut far) = tokio::net::TcpStream::from_std(far) else {
                return;
            };
            near.set_nodelay(true).unwrap_or_default();
            far.set_nodelay(true).unwrap_or_default();
            // Either side may hang up at any time; that ends it.
            let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
    }
}

/// Opens a server's socket inside its namespace; the wildcard serves both families and addresses yet to come.
fn open(server: Server, room: &Arc<Semaphore>) -> anyhow::Result<()> {
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, server.port));
    let place = format!("serve on port {} of {}", server.port, server.workload);
    match server.kind {
        ServeKind::Udp => {
            let socket = netns::inside(&server.namespace, || UdpSocket::bind(any).context("bind"))
                .context(place)?;
            socket.set_nonblocking(true).context("prepare a socket")?;
            let socket = tokio::net::UdpSocket::from_std(socket).context("watch a socket")?;
            tokio::spawn(echo_datagrams(socket));
        }
        ServeKind::Http | ServeKind::Tcp => {
            let listener =
                netns::inside(&server.namespace, || TcpListener::bind(any).context("bind"))
                    .context(place)?;
            listener.set_nonblocking(true).context("prepare a socket")?;
            let listener = tokio::net::TcpListener::from_std(listener).context("watch a socket")?;
            tokio::spawn(accept(listener, Arc::new(server), Arc::clone(room)));
        }
    }
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, server: Arc<Server>, room: Arc<Semaphore>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let _room = permit;
            // A client that hangs up is no error of the server.
            let _ended = match server.kind {
                ServeKind::Http => http(stream, &server.workload).await,
                ServeKind::Tcp | ServeKind::Udp => echo(stream).await,
            };
        });
    }
}

async fn http(mut stream: tokio::net::TcpStream, workload: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = head.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if head.len() > 16 * 1024 {
                return stream
                    .write_all(b"HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n")
                    .await;
            }
            let read = timeout(REQUEST, stream.read_buf(&mut head))
                .await
                .map_err(std::io::Error::other)??;
            if read == 0 {
                return Ok(());
            }
        };
        let request: Vec<u8> = head.drain(..end).collect();
        let request = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if request.contains("\r\nx-overweave-stream:") {
            return stream_zeros(stream).await;
        }
        let close = request.contains("\r\nconnection: close");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nX-Workload: {workload}\r\nConnection: {}\r\n\r\n{workload}\n",
            workload.len() + 1,
            if close { "close" } else { "keep-alive" },
        );
        stream.write_all(answer.as_bytes()).await?;
        if close {
            return stream.shutdown().await;
        }
    }
}

async fn stream_zeros(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n").await?;
    let zeros = vec![0_u8; CHUNK];
    loop {
        stream.write_all(&zeros).await?;
    }
}

async fn echo(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0_u8; CHUNK];
    let mut first = true;
    loop {
        let read = stream.read(&mut buffer).await?;
        let got = buffer.get(..read).unwrap_or_default();
        if got.is_empty() {
            return Ok(());
        }
        if first && got.starts_with(SINK) {
            return sink(stream, got.len() - SINK.len()).await;
        }
        first = false;
        stream.write_all(got).await?;
    }
}

async fn sink(stream: tokio::net::TcpStream, already: usize) -> std::io::Result<()> {
    let (mut from, mut to) = stream.into_split();
    let mut total = u64::try_from(already).unwrap_or_default();
    let mut tell = tokio::time::interval(Duration::from_millis(100));
    let mut buffer = vec![0_u8; 4 * CHUNK];
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => match read? {
                0 => return Ok(()),
                read => total += u64::try_from(read).unwrap_or_default(),
            },
            _ = tell.tick() => to.write_all(format!("{total}\n").as_bytes()).await?,
        }
    }
}

async fn echo_datagrams(socket: tokio::net::UdpSocket) {
    let mut buffer = vec![0_u8; CHUNK];
    loop {
        // An ICMP error about an earlier echo shows up here and is nothing to us.
        let Ok((read, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let _sent = socket
            .send_to(buffer.get(..read).unwrap_or_default(), from)
            .await;
    }
}
