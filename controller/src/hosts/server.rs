//! Who may speak with the controller at port 9697, and how?
//!
//! gRPC over TLS. Whoever shows no certificate is answered one thing, `Join`; whoever shows one is the
//! host that it names, if the store still says so. Each stream of a host is a task that carries its
//! messages to the [`Publisher`](super::publish::Publisher)'s task and back.
//!
//! # Attack
//! Handshakes have a time limit and so has everything without a certificate; such connections are few, and
//! wait in the kernel's queue beyond their limit. A join token is looked for by the hash of its secret: how
//! long that takes says nothing about secrets. What is wrong with a token is not said.
//!
//! # Threads
//! A task a connection and a stream. Queues are bounded; a host that does not take what it is sent is
//! hung up.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hostconfig::wire;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::server::Connected};

use super::{
    pki::{Authority, fingerprint, host_of},
    publish::Conn,
    task::{Message, told},
};
use crate::{
    compile::intent::HostName,
    resource::Resource as _,
    resources::{
        Host,
        host::{join_token_key, joining},
    },
    store::{Store, TransactError, View, transact},
    time::Seconds,
};

#[expect(
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    clippy::clone_on_ref_ptr,
    unreachable_pub,
    reason = "generated from hostconfig/proto/overweave.proto"
)]
pub(crate) mod stub {
    tonic::include_proto!("overweave.v1");
}

use stub::hosts_server::Hosts;

/// From the accepted connection to the end of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long who has no certificate may stay: one `Join`.
const ANONYMOUS: Duration = Duration::from_secs(30);
/// A `Hello` of 100,000 sections is 7 MiB.
const MESSAGE_MAX: usize = 16 << 20;
/// Messages to a host that wait: a session's window and its pings fit.
const OUTGOING: usize = 16;
/// How long a stream's last word may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Calls at once on one connection: a host has one stream, and joins.
const CALLS: u32 = 4;

/// What the listener allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections of hosts at once; a host has one.
    pub hosts: usize,
    /// Connections that have not shown a certificate (yet) at once.
    pub strangers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A region has at most some 50,000 hosts; each costs a descriptor.
            hosts: 65_536,
            // Nobody can use up the descriptors without a certificate: below the usual limit of 1024.
            strangers: 64,
        }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// The name in the certificate that was shown, and its fingerprint.
    host: Option<(String, String)>,
}

/// A TLS connection, until its time is over.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// Who has no certificate has only so much time.
    deadline: Option<Pin<Box<Sleep>>>,
    _slot: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Takes connections until told to stop; those that stand go to `ready`.
pub(super) async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    limits: Limits,
    ready: mpsc::Sender<io::Result<Connection>>,
    mut stop: watch::Receiver<bool>,
) {
    let hosts = Arc::new(Semaphore::new(limits.hosts));
    let strangers = Arc::new(Semaphore::new(limits.strangers));
    loop {
        let next = async {
            let slot = Arc::clone(&strangers).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            () = told(&mut stop) => return,
        };
        let Ok(slot) = slot else { return };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: wait for one to come free.
                tracing::warn!(%error, "cannot accept a host's connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (tls, ready, hosts) = (tls.clone(), ready.clone(), Arc::clone(&hosts));
        tokio::spawn(async move {
            match timeout(HANDSHAKE, shake_hands(stream, tls, slot, hosts)).await {
                // Gone only when the server is.
                Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                Ok(Err(error)) => tracing::debug!(%error, "a host's handshake failed"),
                Err(_) => tracing::debug!("a host's handshake took too long"),
            }
        });
    }
}

async fn shake_hands(
    stream: TcpStream,
    tls: TlsAcceptor,
    stranger: OwnedSemaphorePermit,
    hosts: Arc<Semaphore>,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = tls.accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates();
    let (host, slot) = match shown.and_then(<[_]>::first) {
        Some(certificate) => {
            let name = host_of(certificate).ok_or(io::ErrorKind::InvalidData)?;
            let slot = hosts.try_acquire_owned();
            let slot = slot.or(Err(io::ErrorKind::QuotaExceeded))?;
            (Some((name, fingerprint(certificate))), slot)
        }
        None => (None, stranger),
    };
    let deadline = host
        .is_none()
        .then(|| Box::pin(tokio::time::sleep(ANONYMOUS)));
    Ok(Connection {
        stream,
        peer: Peer { host },
        deadline,
        _slot: slot,
    })
}

/// The calls that are answered.
#[derive(Debug)]
pub(super) struct Service {
    store: Arc<dyn Store>,
    authority: Arc<Authority>,
    inbox: mpsc::Sender<Message>,
    last_conn: AtomicU64,
}

impl Service {
    pub(super) fn new(
        store: Arc<dyn Store>,
        authority: Arc<Authority>,
        inbox: mpsc::Sender<Message>,
    ) -> Self {
        Self {
            store,
            authority,
            inbox,
            last_conn: AtomicU64::new(0),
        }
    }

    /// Serves the connections that come.
    pub(super) async fn serve(
        self,
        connections: mpsc::Receiver<io::Result<Connection>>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), tonic::transport::Error> {
        let service =
            stub::hosts_server::HostsServer::new(self).max_decoding_message_size(MESSAGE_MAX);
        tonic::transport::Server::builder()
            .max_concurrent_streams(CALLS)
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(connections), async move {
                told(&mut stop).await;
            })
            .await
    }
}

/// Whatever is wrong with a token, this is all that is said.
fn bad_token() -> Status {
    Status::unauthenticated("the join token is unknown, spent, expired or another host's")
}

/// Spends a token: the host is from now on whoever has this certificate.
fn spend(
    view: &mut View,
    key: &str,
    name: &str,
    certificate: &str,
    now: Seconds,
) -> Result<(), ()> {
    let host = joining(view, key, name, now).ok_or(())?;
    let mut host = Host::clone(&host);
    host.token_key = None;
    host.certificate = Some(certificate.to_owned());
    host.meta.revision_number += 1;
    host.meta.updated_at = now;
    view.delete(key);
    view.put(Host::SPEC.key(host.meta.id), Arc::new(host));
    Ok(())
}

#[tonic::async_trait]
impl Hosts for Service {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinReply>, Status> {
        let request = request.into_inner();
        let secret = URL_SAFE_NO_PAD
            .decode(&request.token)
            .or(Err(bad_token()))?;
        let key = join_token_key(&secret);
        let now = Seconds::of(SystemTime::now());
        // Looked at first, so that nobody without a token makes the controller sign.
        joining(&self.store.snapshot(), &key, &request.host, now).ok_or_else(bad_token)?;
        let certificate = self
            .authority
            .sign_host(&request.host, &request.csr_der)
            .or(Err(Status::invalid_argument(
                "the certificate request is not one",
            )))?;
        let print = fingerprint(&certificate);
        let name = request.host.clone();
        let spent = transact(self.store.as_ref(), move |view| {
            spend(view, &key, &name, &print, now)
        });
        match spent.await {
            Ok(_) => tracing::info!(host = %request.host, "a host joined"),
            Err(TransactError::Refused(())) => return Err(bad_token()),
            Err(TransactError::Unavailable(error)) => {
                return Err(Status::unavailable(error.to_string()));
            }
        }
        Ok(Response::new(wire::JoinReply {
            certificate_der: certificate.to_vec(),
            ca_der: self.authority.certificate().to_vec(),
        }))
    }

    type SyncStream = ReceiverStream<Result<wire::FromController, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<wire::FromHost>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .and_then(|peer| peer.host.clone());
        let Some((name, certificate)) = peer else {
            return Err(Status::unauthenticated(
                "a host certificate is needed: join first",
            ));
        };
        let snapshot = self.store.snapshot();
        let host = Host::by_name(&snapshot, &name);
        let known = host.is_some_and(|host| {
            !host.is_foreign() && host.certificate.as_deref() == Some(certificate.as_str())
        });
        if !known {
            return Err(Status::unauthenticated(
                "this certificate is no host's, or no longer: join anew with a token",
            ));
        }
        let conn = Conn(self.last_conn.fetch_add(1, Ordering::Relaxed));
        let (outgoing, answers) = mpsc::channel(OUTGOING);
        let (hang_up, hung_up) = oneshot::channel();
        let connected = Message::Connected {
            conn,
            host: HostName::from(name.as_str()),
            certificate,
            revision: snapshot.revision(),
            outgoing: outgoing.clone(),
            hang_up,
        };
        let stopping = || Status::unavailable("the controller is stopping");
        self.inbox.send(connected).await.or(Err(stopping()))?;
        let stream = request.into_inner();
        tokio::spawn(carry(conn, stream, self.inbox.clone(), outgoing, hung_up));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// Carries what a host says until either end has had enough.
async fn carry(
    conn: Conn,
    mut stream: Streaming<wire::FromHost>,
    inbox: mpsc::Sender<Message>,
    outgoing: mpsc::Sender<Result<wire::FromController, Status>>,
    mut hung_up: oneshot::Receiver<Status>,
) {
    loop {
        tokio::select! {
            heard = stream.message() => match heard {
                Ok(Some(message)) => {
                    if inbox.send(Message::Heard(conn, message)).await.is_err() {
                        return;
                    }
                }
                Ok(None) | Err(_) => break,
            },
            reason = &mut hung_up => {
                if let Ok(status) = reason {
                    // A host that takes nothing any more is not waited for.
                    drop(timeout(FAREWELL, outgoing.send(Err(status))).await);
                }
                return;
            }
        }
    }
    // Gone only when the controller stops.
    drop(inbox.send(Message::Closed(conn)).await);
}
