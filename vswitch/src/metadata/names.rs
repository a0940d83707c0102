//! How are questions for names by TCP answered?
//!
//! One after the other, as the switch answers those by UDP. What the network does not know is asked of its name server by a connection in the
//! workload's own name, as what it sends to the service by UDP goes there: with one such connection as long as the workload's own stands.
//!
//! # Limits
//! The stack's, in which both connections count; 10 s of silence, a minute for a connection, 5 s for a name server to answer (then SERVFAIL), 64
//! questions of at most 4 KiB. An answer is passed on piece by piece, whatever its length.
//!
//! # References
//! RFC 7766; RFC 1035 §4.2.2.

use std::{io, net::SocketAddr, time::Duration};

use net::{Id, ids::kind};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use super::{Named, server::Context, stream::Stream};
use crate::datapath::dns::{
    UPSTREAM,
    answer::{self, Said, Server},
    has_server,
};

/// Nobody says anything.
const SILENCE: Duration = Duration::from_secs(10);
/// For a connection.
const LIFE: Duration = Duration::from_mins(1);
/// For a name server to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions of a connection.
const QUESTIONS: usize = 64;
/// The longest question.
const LONGEST: u16 = 4096;
/// What is passed on at a time.
const PIECE: usize = 1024;

/// Serves a connection to its end.
pub(super) async fn serve(
    stream: Stream,
    (port, from): (Id<kind::Port>, SocketAddr),
    context: &Context,
) {
    // How it ends is the workload's own affair: what it did not get it asks for again.
    drop(timeout(LIFE, converse(stream, (port, from), context)).await);
}

async fn converse(
    mut stream: Stream,
    (port, from): (Id<kind::Port>, SocketAddr),
    context: &Context,
) -> io::Result<()> {
    let mut upstream = None;
    for _ in 0..QUESTIONS {
        let Some(question) = timeout(SILENCE, read(&mut stream)).await?? else {
            break;
        };
        match say(&question, (port, from), context) {
            Said::Answer(said) => {
                context.counters.named(Named::Network);
                write(&mut stream, &said).await?;
            }
            Said::Nothing => {
                context.counters.named(Named::Malformed);
                break;
            }
            Said::Elsewhere => {
                if upstream.is_none() {
                    upstream = stream.connect(UPSTREAM, (context.clock)());
                }
                let asked = match &mut upstream {
                    Some(server) => ask(server, &question).await,
                    None => None,
                };
                if let (Some(length), Some(server)) = (asked, &mut upstream) {
                    let passed = pass(server, &mut stream, length).await;
                    let whole = passed.is_ok();
                    let how = if whole { Named::Server } else { Named::Failed };
                    context.counters.named(how);
                    passed?;
                } else {
                    context.counters.named(Named::Failed);
                    upstream = None;
                    let Some(said) = answer::failed(&question) else {
                        break;
                    };
                    write(&mut stream, &said).await?;
                }
            }
        }
    }
    stream.shutdown().await
}

/// What the switch says.
fn say(question: &[u8], (port, from): (Id<kind::Port>, SocketAddr), context: &Context) -> Said {
    let tables = context.tables.load();
    let network = tables
        .port_by_id(port)
        .and_then(|port| tables.network(port.network));
    let Some(network) = network else {
        return Said::Nothing;
    };
    let by = if has_server(network, from.is_ipv4()) {
        Server::Another
    } else {
        Server::Switch
    };
    answer::say(question, network, by)
}

/// The next message behind its length; `None`: there is none, or it is too long.
async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match from.read_u16().await {
        Ok(length) if length <= LONGEST => length,
        Ok(_) => return Ok(None),
        Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    from.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).or(Err(io::ErrorKind::InvalidData))?;
    to.write_all(&[&length.to_be_bytes(), message].concat())
        .await?;
    to.flush().await
}

/// Asks a name server; the length of what it answers.
async fn ask(server: &mut Stream, question: &[u8]) -> Option<u16> {
    let answers = async {
        write(server, question).await?;
        server.read_u16().await
    };
    timeout(PATIENCE, answers).await.ok()?.ok()
}

/// Passes an answer on.
async fn pass(server: &mut Stream, to: &mut Stream, length: u16) -> io::Result<()> {
    to.write_u16(length).await?;
    let mut left = usize::from(length);
    let mut piece = [0; PIECE];
    while left > 0 {
        let room = piece.len().min(left);
        let into = piece.get_mut(..room).unwrap_or_default();
        let read = timeout(PATIENCE, server.read(into)).await??;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(piece.get(..read).unwrap_or_default()).await?;
        left -= read;
    }
    to.flush().await
}
