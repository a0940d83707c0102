//! How do a monitor and a supervisor ask the vswitch?
//!
//! Over HTTP, on loopback unless told otherwise: `GET /metrics` in Prometheus' text format, and `GET /healthz`, which is
//! 200 once the host has joined and applied its first config, 503 with the reason before. Two fixed answers need no HTTP
//! library: a request's first line says all, and every answer closes its connection.
//!
//! # Limits
//! 8 KiB of request, 5 s to say it, 16 connections.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use crate::local::{Ask, Asker};

const REQUEST_MAX: usize = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECTIONS_MAX: usize = 16;
/// Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Why it can't be served.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {addr} for /metrics and /healthz; give another --metrics-listen")]
pub struct HttpError {
    /// Where.
    addr: SocketAddr,
    /// Why.
    #[source]
    source: io::Error,
}

/// Listens.
///
/// # Errors
/// When the address is taken, or not of this host.
pub(crate) async fn bind(addr: SocketAddr) -> Result<TcpListener, HttpError> {
    let bound = TcpListener::bind(addr).await;
    bound.map_err(|source| HttpError { addr, source })
}

/// Serves, until it is dropped.
pub(crate) async fn serve(listener: TcpListener, asker: Asker) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut callers = tokio::task::JoinSet::new();
    loop {
        while callers.try_join_next().is_some() {}
        let Ok(seat) = Arc::clone(&room).acquire_owned().await else {
            return; // never: it is not closed
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let asker = asker.clone();
                callers.spawn(async move {
                    drop(answer(stream, &asker).await); // a caller's own affair
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "metrics listener: accept");
                tokio::time::sleep(Duration::from_secs(1)).await; // out of descriptors: not in a hot loop
            }
        }
    }
}

async fn answer(mut stream: TcpStream, asker: &Asker) -> io::Result<()> {
    let head = timeout(PATIENCE, head(&mut stream)).await??;
    let (status, kind, body) = match head.as_deref().map(target) {
        None => (
            "431 Request Header Fields Too Large",
            TEXT,
            "a request is 8 KiB at most\n".to_owned(),
        ),
        Some(None) => ("400 Bad Request", TEXT, "not a request\n".to_owned()),
        Some(Some((method, _))) if method != "GET" && method != "HEAD" => {
            ("405 Method Not Allowed", TEXT, "GET only\n".to_owned())
        }
        Some(Some((_, "/metrics"))) => match asker.ask(Ask::Metrics).await {
            Ok(answer) => ("200 OK", METRICS_TYPE, answer.text),
            Err(refusal) => ("503 Service Unavailable", TEXT, refusal.message + "\n"),
        },
        Some(Some((_, "/healthz"))) => match asker.ask(Ask::Health).await {
            Ok(answer) => ("200 OK", TEXT, answer.text),
            Err(refusal) => ("503 Service Unavailable", TEXT, refusal.message + "\n"),
        },
        Some(Some(_)) => (
            "404 Not Found",
            TEXT,
            "/metrics and /healthz are here\n".to_owned(),
        ),
    };
    let bodyless = head
        .as_deref()
        .and_then(target)
        .is_some_and(|(method, _)| method == "HEAD");
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if !bodyless {
        text.push_str(&body);
    }
    timeout(PATIENCE, async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    })
    .await?
}

/// All up to the empty line; `None`: too long.
async fn head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(piece.get(..read).unwrap_or_default());
        if head.len() > REQUEST_MAX {
            return Ok(None);
        }
        if head.windows(4).any(|w| w == b"\r\n\r\n") {
            return Ok(Some(head));
        }
    }
}

/// Method and path of a request.
fn target(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|b| *b == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !version.starts_with("HTTP/1.") {
        return None;
    }
    Some((method, target.split('?').next().unwrap_or(target)))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        agent::Input,
        local::{Answer, Refusal, code},
    };

    async fn served() -> SocketAddr {
        let (inputs, mut asked) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(Input::Ask(ask, reply)) = asked.recv().await {
                let answer = if ask == Ask::Metrics {
                    Ok(Answer {
                        text: "vswitch_ports 1\n".to_owned(),
                        ..Answer::default()
                    })
                } else {
                    Err(Refusal::new(code::UNAVAILABLE, "not joined"))
                };
                drop(reply.send(answer));
            }
        });
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Asker::new(inputs)));
        addr
    }

    async fn get(addr: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_health_are_answered_and_nothing_else() {
        let addr = served().await;
        for (request, status, body) in [
            (
                "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                "200",
                "vswitch_ports 1\n",
            ),
            (
                "GET /metrics?x=1 HTTP/1.1\r\n\r\n",
                "200",
                "vswitch_ports 1\n",
            ),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "200", ""),
            ("GET /healthz HTTP/1.1\r\n\r\n", "503", "not joined\n"),
            (
                "GET / HTTP/1.1\r\n\r\n",
                "404",
                "/metrics and /healthz are here\n",
            ),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405", "GET only\n"),
            ("nonsense\r\n\r\n", "400", "not a request\n"),
        ] {
            let answer = get(addr, request).await;
            let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}: {head}"
            );
            assert_eq!(rest, body, "{request}");
        }
    }

    #[tokio::test]
    async fn a_request_without_an_end_is_refused() {
        let addr = served().await;
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(REQUEST_MAX));
        let answer = get(addr, &long).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}
