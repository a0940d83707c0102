//! What does a proxy for HTTP do in a load balancer's name?
//!
//! All that the host of a virtual address's port needs to run one: its listeners, what they decide by a request's head, and who serves. It is data,
//! never a program's configuration: whoever renders it for one writes nothing of it unquoted.

use std::{fmt, net::IpAddr};

use net::{Id, ids::kind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::chain::Monitor;

/// The proxy of a load balancer: the one member of its listeners of HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// The port on whose device it listens.
    pub port: Id<kind::Port>,
    /// Where it listens.
    pub listeners: Vec<HttpListener>,
    /// Who serves, each named by listeners or policies at least once.
    pub pools: Vec<HttpPool>,
}

/// A port that HTTP is spoken on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpListener {
    /// Its id in the API.
    pub id: Uuid,
    /// The TCP port, 1 to 65535.
    pub port: u16,
    /// Connections at once at most; `None`: as many as there can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<u32>,
    /// How long a client may be silent, in milliseconds.
    pub client_timeout: u32,
    /// How long a member may take to accept, in milliseconds.
    pub connect_timeout: u32,
    /// How long a member may be silent, in milliseconds.
    pub member_timeout: u32,
    /// What members are told of who asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub insert: Vec<InsertHeader>,
    /// What is decided by a request's head; the first that applies does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<HttpPolicy>,
    /// Who serves what no policy decides; without one it is answered by 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Uuid>,
    /// How TLS ends here; `None`: it is spoken in the clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<HttpTls>,
}

/// How TLS ends at a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTls {
    /// Each is shown to who asks for a name of its own, the first to whoever else; at least one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Pem>,
    /// What is taken, no other.
    pub versions: Vec<TlsVersion>,
    /// The ciphers that are taken, by OpenSSL's names, the best first; `None`: what the program takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphers: Option<String>,
    /// What may be spoken in it, the best first; empty: nothing is agreed on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<Alpn>,
    /// What clients are told of asking over TLS alone; `None`: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Hsts>,
}

/// That clients ask over TLS alone from now on (RFC 6797).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hsts {
    /// For so many seconds.
    pub max_age: u32,
    /// Hosts below this one too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub subdomains: bool,
    /// Browsers may know it beforehand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preload: bool,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.0.
    #[serde(rename = "TLSv1")]
    V10,
    /// TLS 1.1.
    #[serde(rename = "TLSv1.1")]
    V11,
    /// TLS 1.2.
    #[serde(rename = "TLSv1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "TLSv1.3")]
    V13,
}

/// What is spoken in TLS (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Alpn {
    /// HTTP/2.
    #[serde(rename = "h2")]
    H2,
    /// HTTP/1.1.
    #[serde(rename = "http/1.1")]
    Http11,
    /// HTTP/1.0.
    #[serde(rename = "http/1.0")]
    Http10,
}

/// A certificate, those that it follows from, and its key, in PEM. It is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pem(String);

impl Pem {
    /// That of this text.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// Its text, for who needs the key.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem")
    }
}

/// A header that is put into a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InsertHeader {
    /// `X-Forwarded-For`: the client's address.
    ForwardedFor,
    /// `X-Forwarded-Port`: the listener's port.
    ForwardedPort,
    /// `X-Forwarded-Proto`: how it was asked.
    ForwardedProto,
}

/// A decision by a request's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpPolicy {
    /// Its id in the API.
    pub id: Uuid,
    /// It applies where all of these hold; at least one.
    pub rules: Vec<HttpRule>,
    /// What is done then.
    pub action: HttpAction,
}

/// What a policy does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HttpAction {
    /// 403.
    Reject,
    /// Another pool serves it.
    Pool(Uuid),
    /// The client is sent to this URL.
    Url {
        /// Where to.
        to: String,
        /// 301, 302, 303, 307 or 308.
        code: u16,
    },
    /// The client is sent to the same path below this URL.
    Prefix {
        /// Below what.
        to: String,
        /// As of a URL.
        code: u16,
    },
}

/// What must hold of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpRule {
    /// What is looked at.
    pub of: HttpPart,
    /// How it is compared.
    pub compare: Compare,
    /// With what: a text, or a regular expression.
    pub value: String,
    /// It must not hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invert: bool,
}

/// A part of a request's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HttpPart {
    /// The host that is asked for.
    HostName,
    /// The path, without the query.
    Path,
    /// What stands behind the path's last dot.
    FileType,
    /// The header of this name.
    Header(String),
    /// The cookie of this name.
    Cookie(String),
}

/// How a part is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// It begins with it.
    StartsWith,
    /// It ends with it.
    EndsWith,
    /// It has it somewhere.
    Contains,
    /// It is it.
    EqualTo,
    /// The regular expression matches somewhere in it.
    Regex,
}

/// Who serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpPool {
    /// Its id in the API.
    pub id: Uuid,
    /// How a member is chosen.
    pub algorithm: HttpAlgorithm,
    /// Which requests stay with one member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<HttpPersistence>,
    /// Those who take requests or have some still.
    pub members: Vec<HttpMember>,
    /// How they are asked whether they serve: by connections or by HTTP. `None`: nobody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Monitor>,
}

/// How a member is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpAlgorithm {
    /// In turn, by weight.
    RoundRobin,
    /// Who has fewest.
    LeastConnections,
    /// By the client's address.
    SourceIp,
}

/// Which requests stay with one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HttpPersistence {
    /// Those of one address.
    SourceIp,
    /// Those with a cookie that the proxy gives.
    HttpCookie,
    /// Those with this cookie, which members give.
    AppCookie(String),
}

/// One who serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpMember {
    /// Its id in the API.
    pub id: Uuid,
    /// Its address.
    pub address: IpAddr,
    /// Its TCP port.
    pub port: u16,
    /// Its share; 0 takes no new client.
    pub weight: u16,
    /// It serves while no other does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
}
