//! How do the session's messages travel?
//!
//! gRPC over TLS to the address that the config names, to a controller of the fixed name. One task a stream; it only
//! carries: what to say and when is the session's.

use std::{io, sync::Arc, time::Duration};

use hostconfig::wire;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::{Channel, Endpoint};

use super::{
    Input,
    identity::{self, CONTROLLER_NAME, IdentityError},
    session::{Event, StreamId},
};
use crate::config::ControllerUrl;

#[expect(
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated from hostconfig/proto/overweave.proto"
)]
#[cfg_attr(
    test,
    expect(clippy::pedantic, clippy::clone_on_ref_ptr, reason = "generated")
)]
pub(crate) mod stub {
    tonic::include_proto!("overweave.v1");
}

use stub::hosts_client::HostsClient;

/// From the first packet to the end of the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One call of `Join`; the controller signs and flushes.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A dead controller or path is noticed after this and the next; an idle host wakes three times a minute for it.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A whole config of a large host: 100,000 endpoints of some 300 bytes each.
const MESSAGE_MAX: usize = 64 << 20;
/// Messages that wait to be sent: acks and reports, each the answer to something.
const OUTBOUND: usize = 64;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// TCP or TLS failed.
    #[error("could not connect")]
    Connect(#[source] tonic::transport::Error),
    /// The address is none.
    #[error("the address can't be used")]
    Address(#[source] tonic::transport::Error),
    /// The controller answered with a status.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(tonic::Status),
    /// No TLS without a name.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Connects.
///
/// # Errors
/// When nobody answers, or who answers is not believed.
pub(crate) async fn channel(
    controller: &ControllerUrl,
    tls: Arc<ClientConfig>,
) -> Result<Channel, LinkError> {
    let name = identity::controller_name()?;
    let target = (controller.host().to_owned(), controller.port());
    let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let (target, tls, name) = (target.clone(), Arc::clone(&tls), name.clone());
        async move {
            let connect = async {
                let tcp = TcpStream::connect((target.0.as_str(), target.1)).await?;
                tcp.set_nodelay(true)?;
                TlsConnector::from(tls).connect(name, tcp).await
            };
            let stream = timeout(CONNECT_TIMEOUT, connect)
                .await
                .or(Err(io::Error::from(io::ErrorKind::TimedOut)))??;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    // The scheme tells tonic to leave TLS to the connector; the authority is the name that is believed.
    Endpoint::from_shared(format!("http://{CONTROLLER_NAME}:{}", controller.port()))
        .map_err(LinkError::Address)?
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(LinkError::Connect)
}

/// Calls `Join`.
///
/// # Errors
/// The controller's status.
pub(crate) async fn join(
    channel: Channel,
    request: wire::JoinRequest,
) -> Result<wire::JoinReply, tonic::Status> {
    let mut client = HostsClient::new(channel);
    let call = client.join(request);
    match timeout(JOIN_TIMEOUT, call).await {
        Ok(reply) => Ok(reply?.into_inner()),
        Err(_) => Err(tonic::Status::deadline_exceeded(
            "no answer to the join within 10 s",
        )),
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub(crate) struct Stream {
    id: StreamId,
    outbound: mpsc::Sender<wire::FromHost>,
    task: tokio::task::AbortHandle,
}

impl Stream {
    /// Opens one on the runtime; what it hears goes to `inputs`.
    pub(crate) fn open(
        runtime: &tokio::runtime::Handle,
        id: StreamId,
        controller: ControllerUrl,
        tls: Arc<ClientConfig>,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let carried = async move {
            let why = match carry(id, &controller, tls, messages, &inputs).await {
                Ok(()) => "the controller ended the stream".to_owned(),
                Err(error) => super::chain(&error),
            };
            tell(&inputs, Event::Lost(id, why)).await;
        };
        Self {
            id,
            outbound,
            task: runtime.spawn(carried).abort_handle(),
        }
    }

    /// Which one it is.
    pub(crate) fn id(&self) -> StreamId {
        self.id
    }

    /// Sends; `false` when the controller does not take what is said, or is gone.
    pub(crate) fn send(&self, message: wire::FromHost) -> bool {
        self.outbound.try_send(message).is_ok()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    id: StreamId,
    controller: &ControllerUrl,
    tls: Arc<ClientConfig>,
    messages: mpsc::Receiver<wire::FromHost>,
    inputs: &mpsc::Sender<Input>,
) -> Result<(), LinkError> {
    let channel = channel(controller, tls).await?;
    let mut client = HostsClient::new(channel)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    // The controller may wait for the hello before it answers at all.
    tell(inputs, Event::Connected(id)).await;
    let reply = client.sync(ReceiverStream::new(messages)).await;
    let mut answers = reply.map_err(LinkError::Status)?.into_inner();
    while let Some(answer) = answers.next().await {
        let answer = answer.map_err(LinkError::Status)?;
        tell(inputs, Event::Received(id, answer)).await;
    }
    Ok(())
}

/// The agent that is gone at shutdown hears nothing more.
async fn tell(inputs: &mpsc::Sender<Input>, event: Event) {
    drop(inputs.send(Input::Session(event)).await);
}
