//! What does HAProxy read?
//!
//! A configuration made from a section. Words of tenants stand in single quotes, where HAProxy takes every character as it is, and those in which it would look
//! for expressions have their `%` doubled. What could end a line or a word is refused, whoever let it in.
//!
//! # References
//! HAProxy 2.6 Configuration Manual, §2.2 (quoting), §8.2.6 (expressions in texts).

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    path::Path,
};

use hostconfig::{
    chain::{HealthProbe, Monitor},
    proxy::{
        Alpn, Compare, HttpAction, HttpAlgorithm, HttpListener, HttpPart, HttpPersistence,
        HttpPolicy, HttpPool, HttpRule, HttpTls, InsertHeader, Proxy, TlsVersion,
    },
};
use uuid::Uuid;

use super::certificates::Certificates;

/// Descriptors of a program, of which each connection takes two: as many as it may have by its limits, and no more than these.
const DESCRIPTORS: u32 = 40_100;
/// What is remembered of clients, in a pool whose clients stay with a member.
const STICKY: &str = "size 100k expire 1h";

/// What of a section cannot be written down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// A text has a character that could end it.
    #[error("{what}: {text:?} has a character that cannot be written down")]
    Text {
        /// Of what.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// A listener or policy names a pool that is not there.
    #[error("pool {0} is named, and not there")]
    NoPool(Uuid),
    /// A listener ends TLS, and has no certificate.
    #[error("listener {0} has no certificate")]
    NoCertificate(Uuid),
    /// A monitor asks what HAProxy cannot.
    #[error("pool {0}: its members can be asked by connections and HTTP alone")]
    Probe(Uuid),
}

/// Where the program finds what is its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// An empty directory: all of the file system that it sees.
    pub(super) root: &'a Path,
    /// Where it tells what it counted.
    pub(super) socket: &'a Path,
    /// By what it tells which configuration it has.
    pub(super) mark: u64,
    /// Where the certificates are.
    pub(super) certificates: &'a Certificates,
}

/// The configuration of a proxy.
///
/// # Errors
/// When a text of it cannot be written down, or a name leads nowhere.
pub(super) fn render(proxy: &Proxy, place: Place<'_>) -> Result<String, Unfit> {
    let mut out = String::new();
    global(&mut out, place)?;
    // A pool is asked for each listener that it serves, since timeouts are the listener's; its members are asked once.
    let mut asked = BTreeSet::new();
    for listener in &proxy.listeners {
        frontend(&mut out, listener, place.certificates)?;
        for id in served_by(listener) {
            let pool = proxy.pools.iter().find(|pool| pool.id == id);
            let pool = pool.ok_or(Unfit::NoPool(id))?;
            backend(&mut out, listener, pool, asked.insert(id), proxy)?;
        }
    }
    Ok(out)
}

/// A line of it; writing to a text cannot fail.
macro_rules! line {
    ($out:expr, $($format:tt)*) => {
        if writeln!($out, $($format)*).is_err() {
            unreachable!("a text takes all that is written")
        }
    };
}

fn global(out: &mut String, place: Place<'_>) -> Result<(), Unfit> {
    let path = |path: &Path| quoted("path", &path.to_string_lossy());
    line!(out, "global");
    line!(out, "    fd-hard-limit {DESCRIPTORS}");
    line!(out, "    nbthread 1");
    // Nobody's: no user of the host is asked by name.
    line!(out, "    uid 65534");
    line!(out, "    gid 65534");
    line!(out, "    chroot {}", path(place.root)?);
    line!(
        out,
        "    stats socket {} mode 600 level user",
        path(place.socket)?
    );
    line!(out, "    description {}", place.mark);
    line!(out, "    hard-stop-after 10m");
    line!(out, "defaults");
    line!(out, "    mode http");
    line!(out, "    option redispatch 1");
    line!(out, "    retries 3");
    line!(out, "    timeout queue 10s");
    Ok(())
}

/// The pools that a listener can lead to, each once.
fn served_by(listener: &HttpListener) -> BTreeSet<Uuid> {
    let policies = listener.policies.iter();
    let named = policies.filter_map(|policy| match policy.action {
        HttpAction::Pool(id) => Some(id),
        HttpAction::Reject | HttpAction::Url { .. } | HttpAction::Prefix { .. } => None,
    });
    named.chain(listener.pool).collect()
}

/// The name of a pool's part that serves a listener.
fn backend_name(pool: Uuid, listener: Uuid) -> String {
    format!("{pool}:{listener}")
}

fn frontend(
    out: &mut String,
    listener: &HttpListener,
    certificates: &Certificates,
) -> Result<(), Unfit> {
    let (id, port) = (listener.id, listener.port);
    let tls = match &listener.tls {
        Some(how) => ends(id, how, certificates)?,
        None => String::new(),
    };
    line!(out, "frontend {id}");
    line!(out, "    bind *:{port}{tls}");
    line!(out, "    bind :::{port} v6only{tls}");
    if let Some(limit) = listener.connection_limit {
        line!(out, "    maxconn {}", limit.max(1));
    }
    line!(
        out,
        "    timeout client {}",
        millis(listener.client_timeout)
    );
    for header in &listener.insert {
        match header {
            InsertHeader::ForwardedFor => line!(out, "    option forwardfor"),
            InsertHeader::ForwardedPort => {
                line!(out, "    http-request set-header X-Forwarded-Port {port}");
            }
            InsertHeader::ForwardedProto => {
                let scheme = if listener.tls.is_some() {
                    "https"
                } else {
                    "http"
                };
                line!(
                    out,
                    "    http-request set-header X-Forwarded-Proto {scheme}"
                );
            }
        }
    }
    if let Some(hsts) = listener.tls.as_ref().and_then(|tls| tls.hsts) {
        let mut told = format!("max-age={}", hsts.max_age);
        for (is_said, word) in [
            (hsts.subdomains, "; includeSubDomains"),
            (hsts.preload, "; preload"),
        ] {
            if is_said {
                told.push_str(word);
            }
        }
        // After all else: of what the proxy answers itself too.
        line!(
            out,
            "    http-after-response set-header Strict-Transport-Security '{told}'"
        );
    }
    for (at, policy) in listener.policies.iter().enumerate() {
        for (of, rule) in policy.rules.iter().enumerate() {
            condition(out, &format!("p{at}r{of}"), rule)?;
        }
    }
    // Who is refused is so before anybody is sent elsewhere, and both before members serve: as Octavia has it.
    let rank = |policy: &HttpPolicy| match policy.action {
        HttpAction::Reject => 0,
        HttpAction::Url { .. } | HttpAction::Prefix { .. } => 1,
        HttpAction::Pool(_) => 2,
    };
    let mut policies: Vec<_> = listener.policies.iter().enumerate().collect();
    policies.sort_by_key(|(at, policy)| (rank(policy), *at));
    for (at, policy) in policies {
        let Some(when) = Condition::of(at, policy) else {
            continue;
        };
        match &policy.action {
            HttpAction::Reject => line!(out, "    http-request deny deny_status 403 if {when}"),
            HttpAction::Url { to, code } => {
                let to = expanded("redirect_url", to)?;
                line!(
                    out,
                    "    http-request redirect location {to} code {code} if {when}"
                );
            }
            HttpAction::Prefix { to, code } => {
                let to = expanded("redirect_prefix", to)?;
                line!(
                    out,
                    "    http-request redirect prefix {to} code {code} if {when}"
                );
            }
            HttpAction::Pool(pool) => {
                line!(out, "    use_backend {} if {when}", backend_name(*pool, id));
            }
        }
    }
    if let Some(pool) = listener.pool {
        line!(out, "    default_backend {}", backend_name(pool, id));
    }
    Ok(())
}

/// How TLS ends where a listener is bound.
fn ends(id: Uuid, tls: &HttpTls, certificates: &Certificates) -> Result<String, Unfit> {
    let mut words = vec![" ssl".to_owned()];
    for path in certificates.paths(id) {
        words.push(format!("crt {}", quoted("path", &path.to_string_lossy())?));
    }
    if words.len() == 1 {
        return Err(Unfit::NoCertificate(id));
    }
    words.push("no-sslv3".to_owned());
    for (version, word) in [
        (TlsVersion::V10, "no-tlsv10"),
        (TlsVersion::V11, "no-tlsv11"),
        (TlsVersion::V12, "no-tlsv12"),
        (TlsVersion::V13, "no-tlsv13"),
    ] {
        if !tls.versions.contains(&version) {
            words.push(word.to_owned());
        }
    }
    let ciphers = tls.ciphers.iter().flat_map(|all| all.split(':'));
    // Those of TLS 1.3 have names of their own, and a word of their own.
    let (suites, ciphers): (Vec<&str>, Vec<&str>) = ciphers.partition(|c| c.starts_with("TLS_"));
    for (word, list) in [("ciphersuites", suites), ("ciphers", ciphers)] {
        if !list.is_empty() {
            words.push(format!(
                "{word} {}",
                quoted("tls_ciphers", &list.join(":"))?
            ));
        }
    }
    let alpn = tls.alpn.iter().map(|protocol| match protocol {
        Alpn::H2 => "h2",
        Alpn::Http11 => "http/1.1",
        Alpn::Http10 => "http/1.0",
    });
    let alpn: Vec<_> = alpn.collect();
    if !alpn.is_empty() {
        words.push(format!("alpn {}", alpn.join(",")));
    }
    Ok(words.join(" "))
}

/// All rules of a policy.
struct Condition<'a>(usize, &'a [HttpRule]);

impl<'a> Condition<'a> {
    /// One without rules never applies.
    fn of(at: usize, policy: &'a HttpPolicy) -> Option<Self> {
        (!policy.rules.is_empty()).then_some(Self(at, &policy.rules))
    }
}

impl fmt::Display for Condition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (of, rule) in self.1.iter().enumerate() {
            let space = if of == 0 { "" } else { " " };
            let not = if rule.invert { "!" } else { "" };
            write!(f, "{space}{not}p{}r{of}", self.0)?;
        }
        Ok(())
    }
}

fn condition(out: &mut String, name: &str, rule: &HttpRule) -> Result<(), Unfit> {
    let fetch = match &rule.of {
        HttpPart::HostName => "req.hdr(host) -i".to_owned(),
        HttpPart::Path => "path".to_owned(),
        HttpPart::FileType => "path,field(-1,.)".to_owned(),
        HttpPart::Header(key) => format!("req.hdr({})", token("a header's name", key)?),
        HttpPart::Cookie(key) => format!("req.cook({})", token("a cookie's name", key)?),
    };
    let how = match rule.compare {
        Compare::StartsWith => "beg",
        Compare::EndsWith => "end",
        Compare::Contains => "sub",
        Compare::EqualTo => "str",
        Compare::Regex => "reg",
    };
    let value = quoted("a rule's value", &rule.value)?;
    line!(out, "    acl {name} {fetch} -m {how} -- {value}");
    Ok(())
}

fn backend(
    out: &mut String,
    listener: &HttpListener,
    pool: &HttpPool,
    first: bool,
    proxy: &Proxy,
) -> Result<(), Unfit> {
    line!(out, "backend {}", backend_name(pool.id, listener.id));
    line!(
        out,
        "    timeout connect {}",
        millis(listener.connect_timeout)
    );
    line!(
        out,
        "    timeout server {}",
        millis(listener.member_timeout)
    );
    let balance = match pool.algorithm {
        HttpAlgorithm::RoundRobin => "roundrobin",
        HttpAlgorithm::LeastConnections => "leastconn",
        HttpAlgorithm::SourceIp => "source",
    };
    line!(out, "    balance {balance}");
    let mut cookie = false;
    match &pool.persistence {
        None => {}
        Some(HttpPersistence::SourceIp) => {
            // Has room for addresses of IPv4 as well.
            line!(out, "    stick-table type ipv6 {STICKY}");
            line!(out, "    stick on src");
        }
        Some(HttpPersistence::HttpCookie) => {
            cookie = true;
            line!(out, "    cookie SRV insert indirect nocache");
        }
        Some(HttpPersistence::AppCookie(name)) => {
            let name = token("cookie_name", name)?;
            line!(out, "    stick-table type string len 64 {STICKY}");
            line!(out, "    stick store-response res.cook({name})");
            line!(out, "    stick match req.cook({name})");
        }
    }
    let monitor = pool.monitor.as_ref();
    if let Some(monitor) = monitor.filter(|_| first) {
        check(out, pool.id, monitor)?;
    }
    for member in &pool.members {
        let id = member.id;
        let at = std::net::SocketAddr::new(member.address, member.port);
        let mut server = vec![format!(
            "    server {id} {at} weight {}",
            member.weight.min(256)
        )];
        if member.backup {
            server.push("backup".to_owned());
        }
        if cookie {
            server.push(format!("cookie {id}"));
        }
        match monitor {
            Some(monitor) if first => {
                server.push(format!(
                    "check inter {}ms fall {} rise {}",
                    monitor.delay_ms, monitor.fall, monitor.rise
                ));
                let mut elsewhere = monitor.elsewhere.iter();
                if let Some(other) = elsewhere.find(|other| other.member.uuid() == id) {
                    server.push(format!("addr {} port {}", other.addr, other.port));
                }
            }
            Some(_) => {
                let other = proxy
                    .listeners
                    .iter()
                    .find(|l| served_by(l).contains(&pool.id));
                if let Some(other) = other {
                    let name = backend_name(pool.id, other.id);
                    server.push(format!("track {name}/{id}"));
                }
            }
            None => {}
        }
        line!(out, "{}", server.join(" "));
    }
    Ok(())
}

fn check(out: &mut String, pool: Uuid, monitor: &Monitor) -> Result<(), Unfit> {
    line!(out, "    timeout check {}", millis(monitor.timeout_ms));
    match &monitor.probe {
        HealthProbe::Tcp => Ok(()),
        HealthProbe::Udp | HealthProbe::Ping => Err(Unfit::Probe(pool)),
        HealthProbe::Http { request, codes } => {
            let mut lines = request.split("\r\n");
            let mut head = lines.next().unwrap_or_default().splitn(3, ' ');
            let mut word = || quoted("a monitor's request", head.next().unwrap_or_default());
            let (method, path, version) = (word()?, word()?, word()?);
            line!(out, "    option httpchk");
            let mut send = vec![format!(
                "    http-check send meth {method} uri {path} ver {version}"
            )];
            // It closes by itself, and writes no field that is empty.
            let headers = lines.filter_map(|line| line.split_once(": "));
            for header in headers.filter(|(name, value)| *name != "Connection" && !value.is_empty())
            {
                let name = quoted("a monitor's header", header.0)?;
                let value = expanded("a monitor's header", header.1)?;
                send.push(format!("hdr {name} {value}"));
            }
            line!(out, "{}", send.join(" "));
            let codes = codes.iter().map(|(first, last)| {
                if first == last {
                    first.to_string()
                } else {
                    format!("{first}-{last}")
                }
            });
            let codes: Vec<_> = codes.collect();
            line!(out, "    http-check expect status {}", codes.join(","));
            Ok(())
        }
    }
}

/// A time; HAProxy counts no longer ones than 24 days, and takes none for no time at all.
fn millis(time: u32) -> String {
    format!("{}ms", time.clamp(1, i32::MAX.unsigned_abs()))
}

/// A text in single quotes: only a quote itself means something there, and stands outside.
fn quoted(what: &'static str, text: &str) -> Result<String, Unfit> {
    if text.chars().any(char::is_control) {
        let text = text.to_owned();
        return Err(Unfit::Text { what, text });
    }
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

/// The same where HAProxy looks for expressions in a text.
fn expanded(what: &'static str, text: &str) -> Result<String, Unfit> {
    quoted(what, &text.replace('%', "%%"))
}

/// A name that stands among parentheses (RFC 9110 §5.6.2, but for a quote).
fn token(what: &'static str, name: &str) -> Result<String, Unfit> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(fits) {
        let text = name.to_owned();
        return Err(Unfit::Text { what, text });
    }
    // `$` and `#` mean something outside of quotes.
    Ok(format!("'{name}'"))
}

#[cfg(test)]
mod tests;
