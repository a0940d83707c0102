//! How is a request passed on to Nova?
//!
//! As Neutron's metadata agent does: who asks is named by headers of ours, and signed with the secret that both know. No header of the
//! workload's is passed on but what says which form of a page it wants.
//!
//! # Failure
//! Nova's own refusals are the workload's answers; who can't be reached within [`PATIENCE`] is 503, what is no answer 502.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    client::conn::http1,
    header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT},
    http::request::Parts,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tracing::warn;

use super::server::said;

/// For Nova to answer whole.
const PATIENCE: Duration = Duration::from_secs(20);
/// Requests to Nova at a time.
const AT_ONCE: usize = 32;
/// Bytes of an answer.
const ANSWER_MAX: usize = 1 << 20;
/// The longest secret.
const SECRET_MAX: usize = 4096;

/// Where Nova's metadata API is, and what is needed to ask it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NovaConfig {
    /// Its host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Does it speak TLS?
    pub tls: bool,
    /// The file with the secret.
    pub shared_secret_file: PathBuf,
    /// The certificates that may sign its own, in PEM; needed for TLS.
    pub ca_file: Option<PathBuf>,
}

/// Why Nova can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum NovaError {
    /// A file can't be read.
    #[error("nova_metadata: {file}: can't be read")]
    Read {
        /// Which one.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than the file's owner may read it.
    #[error("nova_metadata: {0}: others may read the secret; chmod 0600 it")]
    Mode(String),
    /// It holds no secret.
    #[error("nova_metadata: {0}: no secret, or more than {SECRET_MAX} bytes")]
    Empty(String),
    /// It holds no certificate.
    #[error("nova_metadata: {0}: no certificate in PEM form")]
    Certificates(String),
    /// The host's name is none.
    #[error("nova_metadata: host: not a host name: {0}")]
    Host(String),
    /// The TLS library refuses what it is told.
    #[error("nova_metadata: TLS can't be had")]
    Tls(#[source] rustls::Error),
}

/// What asks Nova.
pub(super) struct Nova {
    host: String,
    port: u16,
    secret: Vec<u8>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    room: Semaphore,
}

impl std::fmt::Debug for Nova {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nova")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// The secret of a file that only its owner may read, without the line's end.
fn secret(path: &Path) -> Result<Vec<u8>, NovaError> {
    use std::os::unix::fs::MetadataExt as _;
    let file = path.display().to_string();
    let read = |source| NovaError::Read {
        file: file.clone(),
        source,
    };
    let mode = fs::metadata(path).map_err(read)?.mode();
    if mode & 0o077 != 0 {
        return Err(NovaError::Mode(file));
    }
    let mut secret = fs::read(path).map_err(read)?;
    while secret.last().is_some_and(u8::is_ascii_whitespace) {
        secret.pop();
    }
    if secret.is_empty() || secret.len() > SECRET_MAX {
        return Err(NovaError::Empty(file));
    }
    Ok(secret)
}

fn connector(config: &NovaConfig) -> Result<(TlsConnector, ServerName<'static>), NovaError> {
    let path = config.ca_file.clone().unwrap_or_default();
    let file = path.display().to_string();
    let pem = fs::read(&path).map_err(|source| NovaError::Read {
        file: file.clone(),
        source,
    })?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.or(Err(NovaError::Certificates(file.clone())))?;
        roots.add(certificate).map_err(NovaError::Tls)?;
    }
    if roots.is_empty() {
        return Err(NovaError::Certificates(file));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(NovaError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(config.host.clone());
    let name = name.or(Err(NovaError::Host(config.host.clone())))?;
    Ok((TlsConnector::from(Arc::new(tls)), name))
}

/// HMAC-SHA256 (RFC 2104), in hexadecimal.
pub(super) fn signature(secret: &[u8], message: &[u8]) -> String {
    const BLOCK: usize = 64;
    let mut key = [0u8; BLOCK];
    let hashed;
    let given = if secret.len() > BLOCK {
        hashed = Sha256::digest(secret);
        hashed.as_slice()
    } else {
        secret
    };
    for (to, from) in key.iter_mut().zip(given) {
        *to = *from;
    }
    let inner = Sha256::new()
        .chain_update(key.map(|b| b ^ 0x36))
        .chain_update(message)
        .finalize();
    let outer = Sha256::new()
        .chain_update(key.map(|b| b ^ 0x5c))
        .chain_update(inner)
        .finalize();
    format!("{outer:x}")
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("can't be reached")]
    Connect(#[from] io::Error),
    #[error("does not speak HTTP")]
    Http(#[from] hyper::Error),
    #[error("its answer is too long, or ends early")]
    Body,
    #[error("a header can't be made")]
    Header(#[from] hyper::http::Error),
}

impl Nova {
    pub(super) fn open(config: &NovaConfig) -> Result<Self, NovaError> {
        Ok(Self {
            host: config.host.clone(),
            port: config.port,
            secret: secret(&config.shared_secret_file)?,
            tls: config.tls.then(|| connector(config)).transpose()?,
            room: Semaphore::new(AT_ONCE),
        })
    }

    /// Asks for the same page, in the name of this instance, which others know by this address.
    pub(super) async fn ask(
        &self,
        asked: &Parts,
        (device, project): (&str, &str),
        addr: IpAddr,
    ) -> Response<Full<Bytes>> {
        let target = asked
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let mut request = Request::builder()
            .method(&asked.method)
            .uri(target)
            .header(HOST, self.authority())
            .header("X-Instance-ID", device)
            .header("X-Tenant-ID", project)
            .header(
                "X-Instance-ID-Signature",
                signature(&self.secret, device.as_bytes()),
            )
            .header("X-Forwarded-For", addr.to_string());
        for kept in [ACCEPT, USER_AGENT] {
            if let Some(value) = asked.headers.get(&kept) {
                request = request.header(kept, value);
            }
        }
        let answer = async {
            let Ok(_seat) = self.room.acquire().await else {
                return Err(Failed::Body); // never: it is not closed
            };
            self.send(request.body(Empty::new())?).await
        };
        match timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => passed_on(answer),
            Ok(Err(Failed::Connect(error))) => {
                warn!(%error, "nova's metadata can't be reached");
                said(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the metadata server can't be reached",
                )
            }
            Ok(Err(error)) => {
                warn!(%error, "nova's metadata");
                said(
                    StatusCode::BAD_GATEWAY,
                    "the metadata server gave no answer",
                )
            }
            Err(_) => {
                warn!("nova's metadata did not answer in time");
                said(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the metadata server did not answer in time",
                )
            }
        }
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    async fn send(&self, request: Request<Empty<Bytes>>) -> Result<Response<Bytes>, Failed> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        match &self.tls {
            None => exchange(stream, request).await,
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), stream).await?;
                exchange(stream, request).await
            }
        }
    }
}

/// One request and its answer, on a connection of its own.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Bytes>, Failed> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.or(Err(Failed::Body))?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // A connection that ends has handed over what it read.
        _ended = connection => exchange.await,
    }
}

/// Nova's answer as the workload's: of what went well the page, else the status alone.
fn passed_on(answer: Response<Bytes>) -> Response<Full<Bytes>> {
    let (parts, body) = answer.into_parts();
    let what = match parts.status.as_u16() {
        200 => {
            let mut page = Response::new(Full::new(body));
            if let Some(kind) = parts.headers.get(CONTENT_TYPE) {
                page.headers_mut().insert(CONTENT_TYPE, kind.clone());
            }
            return page;
        }
        403 => {
            warn!("nova's metadata refuses the signature: is the secret the same at both ends?");
            "the metadata server refuses"
        }
        404 => "no such page",
        400 | 409 | 502..=504 => "the metadata server refuses",
        500 => "the metadata server failed",
        _ => {
            return said(
                StatusCode::INTERNAL_SERVER_ERROR,
                "an unexpected answer of the metadata server",
            );
        }
    };
    said(parts.status, what)
}
