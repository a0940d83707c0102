//! Is a token of another Keystone good, and whose is it?
//!
//! With `keystone` in its config the controller issues no tokens of its own. It asks that Keystone about each, in the name of the token itself,
//! which every Keystone lets a token do, and believes the answer for a minute.
//!
//! # Invariants
//! - Who is not answered for is not let in: without an answer the request ends with 503, never as somebody.
//!
//! # Attack
//! Tokens that are not good are remembered too, for some seconds. At most [`OPEN`] questions are open at once, each for [`PATIENCE`]; whoever
//! comes beyond that waits for a turn, and hears 503 when it does not come in that time.
//!
//! # Cost
//! One connection for each token and minute.
//!
//! # References
//! Keystone's Identity API v3, "Validate and show information for token"; service tokens as keystonemiddleware has them (`allow_expired`).

use crate::{identity, rules::Caller, time::Seconds};
use axum::{
    body::Body,
    http::{HeaderValue, Request, StatusCode, Uri, header},
};
use dashmap::DashMap;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{fmt, io, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore},
};

/// Questions at once, and how long one may take, its turn included.
const OPEN: usize = 64;
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer is believed, in seconds: what is revoked there is refused here by then.
const GOOD_FOR: u64 = 60;
const BAD_FOR: u64 = 5;
/// Answers that are remembered; the ones beyond are asked for each time.
const REMEMBERED: usize = 10_000;
/// A longer token is none.
const LONGEST: usize = 8192;
/// The largest answer that is read: a catalogue of hundreds of endpoints.
const LARGEST: usize = 1 << 20;
/// Whom the system trusts, where the config names no file.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why a Keystone can't be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The address is none.
    #[error("not http://HOST:PORT/v3 or https://HOST:PORT/v3: {0}")]
    Url(String),
    /// The file of certificates cannot be read.
    #[error("cannot read the certificates in {path}")]
    Certificates {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// No certificate can be trusted.
    #[error("cannot use the certificates")]
    Tls(#[source] tokio_rustls::rustls::Error),
}

/// Why it has no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// It took too long.
    #[error("keystone did not answer within {} s", PATIENCE.as_secs())]
    Slow,
    /// No connection.
    #[error("keystone cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    /// It does not speak HTTP.
    #[error("keystone broke off: {0}")]
    Http(#[from] hyper::Error),
    /// It says something else.
    #[error("keystone answered with status {0}")]
    Status(StatusCode),
    /// It says nothing of a user.
    #[error("keystone's answer is not a token")]
    Shape,
}

struct Known {
    until: Seconds,
    who: Option<Arc<Caller>>,
}

/// Another Keystone.
pub struct Judge {
    host: String,
    port: u16,
    path: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    known: DashMap<[u8; 32], Known>,
    turns: Semaphore,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host, port, path, ..
        } = self;
        write!(f, "Judge({host}:{port}{path})")
    }
}

impl Judge {
    /// The Keystone at `url` (its `auth_url`); `ca`: the certificates that may have signed its own, the system's if not given.
    ///
    /// # Errors
    /// What is wrong with the address or the certificates.
    pub fn new(url: &str, ca: Option<&Path>) -> Result<Self, JudgeError> {
        let bad = || JudgeError::Url(url.to_owned());
        let uri: Uri = url.parse().ok().ok_or_else(bad)?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        if uri.query().is_some() {
            return Err(bad());
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let path = uri.path().trim_end_matches('/');
        let path = if path.ends_with("/v3") {
            path.to_owned()
        } else {
            format!("{path}/v3")
        };
        let tls = if secure {
            let name = ServerName::try_from(host.to_owned()).ok();
            Some((connector(ca)?, name.ok_or_else(bad)?))
        } else {
            None
        };
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            path,
            tls,
            known: DashMap::new(),
            turns: Semaphore::new(OPEN),
        })
    }

    /// Who asks with this token; `None`: it is not good. With the token of a service one that expired is good for a while longer, as long as
    /// that Keystone has it.
    ///
    /// # Errors
    /// When Keystone has no answer.
    pub async fn caller(
        &self,
        token: &str,
        service: Option<&str>,
        now: Seconds,
    ) -> Result<Option<Arc<Caller>>, NoAnswer> {
        if let Some(caller) = self.judged(token, None, now).await? {
            return Ok(Some(caller));
        }
        let Some(service) = service else {
            return Ok(None);
        };
        match self.judged(service, None, now).await? {
            Some(known) if known.service => self.judged(token, Some(service), now).await,
            _ => Ok(None),
        }
    }

    async fn judged(
        &self,
        token: &str,
        service: Option<&str>,
        now: Seconds,
    ) -> Result<Option<Arc<Caller>>, NoAnswer> {
        if token.is_empty() || token.len() > LONGEST {
            return Ok(None);
        }
        let mut digest = Sha256::new_with_prefix(token);
        if service.is_some() {
            // What it is beside a service's is another question.
            digest.update([0]);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let known = self.known.get(&digest).filter(|known| known.until > now);
        if let Some(who) = known.map(|known| known.who.clone()) {
            return Ok(who);
        }
        let asked = async {
            // The semaphore is never closed.
            let _turn = self.turns.acquire().await;
            self.ask(token, service).await
        };
        let told = tokio::time::timeout(PATIENCE, asked).await;
        let told = told.unwrap_or(Err(NoAnswer::Slow))?;
        let (who, until) = match told {
            Some(token) => {
                let (caller, expires) = read(&token).ok_or(NoAnswer::Shape)?;
                let until = now.plus(GOOD_FOR);
                let until = if service.is_some() {
                    until
                } else {
                    until.min(expires)
                };
                (Some(Arc::new(caller)), until)
            }
            None => (None, now.plus(BAD_FOR)),
        };
        self.remember(digest, until, who.clone(), now);
        Ok(who)
    }

    fn remember(&self, digest: [u8; 32], until: Seconds, who: Option<Arc<Caller>>, now: Seconds) {
        if self.known.len() >= REMEMBERED {
            self.known.retain(|_, known| known.until > now);
        }
        if self.known.len() < REMEMBERED {
            self.known.insert(digest, Known { until, who });
        }
    }

    /// What it says of a token; `None`: that it is not good.
    async fn ask(&self, token: &str, service: Option<&str>) -> Result<Option<Value>, NoAnswer> {
        let (Ok(subject), Ok(by)) = (
            HeaderValue::from_str(token),
            HeaderValue::from_str(service.unwrap_or(token)),
        ) else {
            return Ok(None);
        };
        let query = if service.is_some() {
            "?allow_expired=1"
        } else {
            ""
        };
        let host = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let request = Request::get(format!("{}/auth/tokens{query}", self.path))
            .header(header::HOST, host)
            .header("x-auth-token", by)
            .header("x-subject-token", subject)
            .body(Body::empty());
        let request = request.ok().ok_or(NoAnswer::Shape)?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let (status, body) = match &self.tls {
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                exchange(stream, request).await?
            }
            None => exchange(stream, request).await?,
        };
        match status {
            StatusCode::OK => {
                let body = serde_json::from_slice::<Value>(&body);
                Ok(Some(body.ok().ok_or(NoAnswer::Shape)?))
            }
            StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND => Ok(None),
            other => Err(NoAnswer::Status(other)),
        }
    }
}

fn connector(ca: Option<&Path>) -> Result<TlsConnector, JudgeError> {
    let path = ca.unwrap_or(Path::new(SYSTEM_CA));
    let unread = |source| JudgeError::Certificates {
        path: path.display().to_string(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unread)? {
        // One of the system's that this library does not take is no reason to trust none.
        let added = roots.add(certificate.map_err(unread)?);
        if let (Err(error), Some(_)) = (added, ca) {
            return Err(JudgeError::Tls(error));
        }
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(JudgeError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Body>,
) -> Result<(StatusCode, bytes::Bytes), NoAnswer> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = axum::body::to_bytes(Body::new(response.into_body()), LARGEST).await;
        body.ok().map(|body| (status, body)).ok_or(NoAnswer::Shape)
    };
    tokio::pin!(exchange);
    tokio::select! {
        done = &mut exchange => return done,
        ended = connection => ended?,
    }
    // The connection has ended, and with it all that will come.
    exchange.await
}

/// Who a token is of, and until when.
fn read(body: &Value) -> Option<(Caller, Seconds)> {
    let token = body.get("token")?;
    let text = |pointer: &str| token.pointer(pointer).and_then(Value::as_str);
    let user_id = text("/user/id").filter(|id| is_id(id))?;
    let project_id = text("/project/id").unwrap_or_default();
    if !project_id.is_empty() && !is_id(project_id) {
        return None;
    }
    let roles = token.get("roles").and_then(Value::as_array);
    let names = roles.into_iter().flatten();
    let roles: Vec<String> = names
        .filter_map(|role| role.get("name")?.as_str())
        .map(str::to_owned)
        .collect();
    // Without a project there is nothing that the roles are for.
    let roles = if project_id.is_empty() {
        Vec::new()
    } else {
        roles
    };
    let expires = Seconds::parse(text("/expires_at")?)?;
    let user_name = text("/user/name").unwrap_or(user_id);
    let caller = identity::with_roles(user_id, user_name, project_id, roles);
    Some((caller, expires))
}

/// Ids become parts of keys.
fn is_id(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@".contains(&b);
    !id.is_empty() && id.len() <= 255 && id.bytes().all(plain)
}

#[cfg(test)]
mod tests;
