//! How are connections taken?
//!
//! An accept loop of its own, since `axum::serve` has no header timeout: a bounded number of
//! connections, a time within which a request's head must be there, TLS if it is configured. On
//! shutdown it takes no more, lets open requests end, and then closes.
//!
//! # Attack
//! Slow headers are cut off after [`Limits::header`]; more connections than [`Limits::connections`]
//! wait in the kernel's queue.

use axum::{
    Router,
    body::Body,
    http::{Request, Uri, uri::PathAndQuery},
};
use hyper::server::conn::http1::Builder;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// What one listener allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Time for a request's head.
    pub header: Duration,
    /// Time that open requests get after a shutdown.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Two file descriptors of the usual 1024-descriptor limit's worth stay for the rest.
            connections: 900,
            header: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut shutdown => break,
        };
        let (Ok(slot), stream) = (slot, accepted) else {
            break;
        };
        let stream = match stream {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: wait for one to come free.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (router, tls, watcher) = (router.clone(), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            if let Err(error) = converse(stream, router, tls, limits, watcher).await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("open requests were cut off by the shutdown");
    }
}

async fn converse(
    stream: TcpStream,
    router: Router,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    watcher: Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let service = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
        router
            .clone()
            .oneshot(without_suffix(request.map(Body::new)))
    });
    let service = TowerToHyperService::new(service);
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header);
    match tls {
        Some(tls) => {
            let stream = tokio::time::timeout(limits.header, tls.accept(stream)).await??;
            watcher
                .watch(builder.serve_connection(TokioIo::new(stream), service))
                .await?;
        }
        None => {
            watcher
                .watch(builder.serve_connection(TokioIo::new(stream), service))
                .await?;
        }
    }
    Ok(())
}

/// `/v2.0/networks.json` is `/v2.0/networks`, as old clients write it.
fn without_suffix(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri();
    if uri.path().starts_with("/v2.0/")
        && let Some(path) = uri.path().strip_suffix(".json")
    {
        let text = uri
            .query()
            .map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        if let Ok(path_and_query) = text.parse::<PathAndQuery>() {
            let mut parts = uri.clone().into_parts();
            parts.path_and_query = Some(path_and_query);
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
    }
    request
}

/// A TLS acceptor from PEM files.
///
/// # Errors
/// When a file cannot be read or the two do not fit.
pub(crate) fn acceptor(
    certificate: &std::path::Path,
    key: &std::path::Path,
) -> io::Result<TlsAcceptor> {
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let named = |path: &std::path::Path, error: &dyn std::fmt::Display| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: {error}", path.display()),
        )
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .map_err(|error| named(certificate, &error))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| named(certificate, &error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| named(certificate, &error))?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| named(key, &error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
