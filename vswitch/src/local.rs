//! How do people and programs on this host ask the vswitch?
//!
//! Over `RUN-DIR/vswitch.sock`, a line of JSON each way: `{"verb":"explain","args":{…}}` is answered by
//! `{"ok":…,"text":"…"}` or `{"error":{"code":"…","message":"…"}}`. The socket is its owner's alone (mode 0600).
//!
//! # Limits
//! Requests of 64 KiB, 32 connections, 60 s for the next request of a connection; a caller over the limit waits to be
//! accepted.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use net::{Id, ids::kind};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::agent::Input;

const REQUEST_MAX: u64 = 64 << 10;
const CONNECTIONS_MAX: usize = 32;
/// For the next request, and for the caller to take an answer.
const PATIENCE: Duration = Duration::from_mins(1);
/// Longer than any verb takes; an attachment gives up after 10 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Rows of a dump, unless the caller says otherwise.
const ROWS: usize = 100_000;

/// Why the local socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Another vswitch answers there.
    #[error("another vswitch answers at {0}; stop it, or give this one a --run-dir of its own")]
    Live(PathBuf),
    /// Something else is in the way.
    #[error("{0} is no socket; move it away")]
    NoSocket(PathBuf),
    /// The system refuses.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Where a device is to be made for a port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attach {
    /// The port.
    pub(crate) port: Id<kind::Port>,
    /// A namespace's name or path.
    pub(crate) netns: String,
    /// The device's name.
    #[serde(default = "eth0")]
    pub(crate) ifname: String,
    /// Set addresses and routes at once.
    #[serde(default, rename = "static")]
    pub(crate) fixed: bool,
}

fn eth0() -> String {
    "eth0".to_owned()
}

/// Which port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Detach {
    /// The port.
    pub(crate) port: Id<kind::Port>,
}

/// Over the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tunnel {
    /// From which VTEP.
    pub(crate) vtep: IpAddr,
    /// On which network.
    pub(crate) vni: net::Vni,
}

/// Which packet, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Explain {
    /// A port's id or name …
    #[serde(default)]
    pub(crate) port: Option<String>,
    /// … or the tunnel …
    #[serde(default)]
    pub(crate) tunnel: Option<Tunnel>,
    /// … or the wire of the network of this id or name.
    #[serde(default)]
    pub(crate) wire: Option<String>,
    /// As people write it.
    pub(crate) packet: String,
}

/// Which rows of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rows {
    /// Only those that name this: a port's id or name, an address, a network.
    #[serde(rename = "match")]
    pub(crate) needle: Option<String>,
    /// At most so many.
    pub(crate) limit: usize,
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            needle: None,
            limit: ROWS,
        }
    }
}

/// What is asked of a vswitch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    Attach(Attach),
    Detach(Detach),
    Explain(Explain),
    Flows(Rows),
    Conntrack(Rows),
    Drops(Rows),
    Fdb(Rows),
    /// What each worker did since it began.
    Top,
    Status,
    /// In Prometheus' text format; over HTTP.
    Metrics,
    /// Is it joined and configured? Over HTTP.
    Health,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Answer {
    /// For programs.
    pub(crate) ok: Value,
    /// For people.
    pub(crate) text: String,
}

/// Why it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Refusal {
    /// A word for programs; see [`code`].
    pub(crate) code: &'static str,
    /// A line for people.
    pub(crate) message: String,
}

/// The codes of refusals.
pub(crate) mod code {
    /// Not a request.
    pub(crate) const BAD_REQUEST: &str = "bad_request";
    /// No such verb.
    pub(crate) const UNKNOWN_VERB: &str = "unknown_verb";
    /// The controller told of no such port.
    pub(crate) const UNKNOWN_PORT: &str = "unknown_port";
    /// The port is on another host.
    pub(crate) const BOUND_ELSEWHERE: &str = "bound_elsewhere";
    /// The name is another device's.
    pub(crate) const NAME_TAKEN: &str = "name_taken";
    /// The port's device is elsewhere on this host.
    pub(crate) const ATTACHED_ELSEWHERE: &str = "attached_elsewhere";
    /// It is a sub-port of a trunk, and has no device of its own.
    pub(crate) const SUB_PORT: &str = "sub_port";
    /// There is no such network namespace.
    pub(crate) const NO_NAMESPACE: &str = "no_such_namespace";
    /// There is nothing to detach.
    pub(crate) const NOT_ATTACHED: &str = "not_attached";
    /// The port did not become ACTIVE in time.
    pub(crate) const TIMEOUT: &str = "timeout";
    /// The system refused.
    pub(crate) const DEVICE: &str = "device";
    /// The vswitch is stopping, or too busy.
    pub(crate) const UNAVAILABLE: &str = "unavailable";
}

impl Refusal {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// How the answer comes back.
pub(crate) type Reply = oneshot::Sender<Result<Answer, Refusal>>;

/// Asks the agent.
#[derive(Debug, Clone)]
pub(crate) struct Asker(mpsc::Sender<Input>);

impl Asker {
    pub(crate) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self(inputs)
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        let stopping = || Refusal::new(code::UNAVAILABLE, "the vswitch is stopping");
        let asked = async {
            self.0
                .send(Input::Ask(ask, reply))
                .await
                .or(Err(stopping()))?;
            answer.await.or(Err(stopping()))?
        };
        let late = || Refusal::new(code::UNAVAILABLE, "the vswitch gave no answer within 30 s");
        timeout(ANSWER_TIMEOUT, asked).await.or(Err(late()))?
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    verb: String,
    #[serde(default)]
    args: Option<Value>,
}

/// Understands a request.
pub(crate) fn parse(line: &[u8]) -> Result<Ask, Refusal> {
    fn args<T: DeserializeOwned>(verb: &str, args: Value) -> Result<T, Refusal> {
        serde_json::from_value(args)
            .map_err(|e| Refusal::new(code::BAD_REQUEST, format!("{verb}: {e}")))
    }
    let request: Request = serde_json::from_slice(line)
        .map_err(|e| Refusal::new(code::BAD_REQUEST, format!("not a request: {e}")))?;
    let verb = request.verb.as_str();
    let given = request.args.unwrap_or_else(|| json!({}));
    Ok(match verb {
        "attach" => Ask::Attach(args(verb, given)?),
        "detach" => Ask::Detach(args(verb, given)?),
        "explain" => Ask::Explain(args(verb, given)?),
        "flows" => Ask::Flows(args(verb, given)?),
        "conntrack" => Ask::Conntrack(args(verb, given)?),
        "drops" => Ask::Drops(args(verb, given)?),
        "fdb" => Ask::Fdb(args(verb, given)?),
        "top" => Ask::Top,
        "status" => Ask::Status,
        _ => {
            return Err(Refusal::new(
                code::UNKNOWN_VERB,
                format!("no such verb: {verb:?}"),
            ));
        }
    })
}

/// The line that answers.
pub(crate) fn render(answer: Result<Answer, Refusal>) -> Vec<u8> {
    let value = match answer {
        Ok(Answer { ok, text }) => json!({"ok": ok, "text": text}),
        Err(refusal) => json!({"error": refusal}),
    };
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Makes the socket. One that a dead vswitch left behind is taken over; a live one is not.
///
/// # Errors
/// When a vswitch answers there, something else is in the way, or the system refuses.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, LocalError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| LocalError::Io { what, path, source }
    };
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(failed("make", dir))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(LocalError::NoSocket(path.to_owned()));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(LocalError::Live(path.to_owned())),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed("remove the stale", path))?;
            }
            Err(e) => return Err(failed("try", path)(e)),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed("look at", path)(e)),
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on", path))?;
    let owner_only = fs::Permissions::from_mode(0o600);
    fs::set_permissions(path, owner_only).map_err(failed("protect", path))?;
    Ok(listener)
}

/// Serves the socket, until it is dropped.
pub(crate) async fn serve(listener: UnixListener, asker: Asker) {
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
                    // A caller that hangs up, is late, or speaks gibberish ends its own connection only.
                    drop(converse(stream, &asker).await);
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "local socket: accept");
                tokio::time::sleep(Duration::from_secs(1)).await; // out of descriptors: not in a hot loop
            }
        }
    }
}

async fn converse(mut stream: UnixStream, asker: &Asker) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut read).take(REQUEST_MAX);
        let next = limited.read_until(b'\n', &mut line);
        if timeout(PATIENCE, next).await?? == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n") || (line.len() as u64) < REQUEST_MAX;
        let answer = if whole {
            match parse(&line) {
                Ok(ask) => asker.ask(ask).await,
                Err(refusal) => Err(refusal),
            }
        } else {
            let most = format!("a request is {REQUEST_MAX} bytes at most");
            Err(Refusal::new(code::BAD_REQUEST, most))
        };
        timeout(PATIENCE, write.write_all(&render(answer))).await??;
        if !whole {
            return Ok(()); // where the next request begins is not known
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    /// An agent that answers with what it was asked.
    fn echo() -> Asker {
        let (inputs, mut asked) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(Input::Ask(ask, reply)) = asked.recv().await {
                let answer = if matches!(ask, Ask::Detach(_)) {
                    Err(Refusal::new(code::NOT_ATTACHED, "not\nattached"))
                } else {
                    Ok(Answer {
                        ok: json!(format!("{ask:?}")),
                        text: "a\nb".to_owned(),
                    })
                };
                drop(reply.send(answer));
            }
        });
        Asker::new(inputs)
    }

    async fn say(stream: &mut BufReader<UnixStream>, line: &str) -> Value {
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).await.unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    #[tokio::test]
    async fn a_connection_asks_one_thing_after_another() {
        let dir = Scratch::new("local-ask");
        let path = dir.path().join("s");
        let served = tokio::spawn(serve(bind(&path).unwrap(), echo()));
        let mut stream = BufReader::new(UnixStream::connect(&path).await.unwrap());
        let answer = say(&mut stream, "{\"verb\":\"status\"}\n").await;
        assert_eq!(answer, json!({"ok": "Status", "text": "a\nb"}));
        let answer = say(&mut stream, "{\"verb\":\"fly\",\"args\":{}}\n").await;
        assert_eq!(answer["error"]["code"], code::UNKNOWN_VERB);
        let answer = say(&mut stream, "gibberish\n").await;
        assert_eq!(answer["error"]["code"], code::BAD_REQUEST);
        let detach =
            "{\"verb\":\"detach\",\"args\":{\"port\":\"00000000-0000-0000-0000-000000000001\"}}\n";
        let answer = say(&mut stream, detach).await;
        assert_eq!(
            answer["error"],
            json!({"code": "not_attached", "message": "not\nattached"})
        );
        served.abort();
    }

    #[tokio::test]
    async fn a_request_without_an_end_is_refused() {
        let dir = Scratch::new("local-long");
        let path = dir.path().join("s");
        let served = tokio::spawn(serve(bind(&path).unwrap(), echo()));
        let mut stream = BufReader::new(UnixStream::connect(&path).await.unwrap());
        let long = "x".repeat(usize::try_from(REQUEST_MAX).unwrap());
        let answer = say(&mut stream, &long).await;
        assert!(
            answer["error"]["message"]
                .as_str()
                .unwrap()
                .contains("65536")
        );
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).await.unwrap(), 0, "closed");
        served.abort();
    }

    #[tokio::test]
    async fn a_stale_socket_is_taken_over_and_a_live_one_is_not() {
        let dir = Scratch::new("local-stale");
        let path = dir.path().join("run/s");
        let live = bind(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(matches!(bind(&path), Err(LocalError::Live(_))));
        drop(live);
        let again = bind(&path).unwrap();
        drop(again);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&path), Err(LocalError::NoSocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn requests_are_understood_and_unknown_keys_are_not() {
        let id = "00000000-0000-0000-0000-000000000001";
        let line = format!(
            "{{\"verb\":\"attach\",\"args\":{{\"port\":\"{id}\",\"netns\":\"/run/netns/a\",\"ifname\":\"eth1\",\"static\":true}}}}"
        );
        let Ok(Ask::Attach(attach)) = parse(line.as_bytes()) else {
            panic!("not understood");
        };
        assert_eq!((attach.ifname.as_str(), attach.fixed), ("eth1", true));
        let ask = parse(br#"{"verb":"flows","args":{"limit":5}}"#).unwrap();
        assert_eq!(
            ask,
            Ask::Flows(Rows {
                needle: None,
                limit: 5
            })
        );
        let ask = parse(
            br#"{"verb":"explain","args":{"tunnel":{"vtep":"192.0.2.1","vni":7},"packet":"icmp"}}"#,
        );
        assert!(matches!(
            ask,
            Ok(Ask::Explain(Explain {
                tunnel: Some(_),
                ..
            }))
        ));
        for bad in [
            &br#"{"verb":"flows","args":{"limits":5}}"#[..],
            br#"{"verb":"flows","args":{"limit":-1}}"#,
            br#"{"verb":"attach","args":{"port":"x","netns":"a"}}"#,
            br#"{"verb":"attach","args":{"netns":"a"}}"#,
            br#"{"verb":"explain","args":{"tunnel":{"vtep":"192.0.2.1","vni":0},"packet":"x"}}"#,
            br#"{"verb":1}"#,
            br#"{"verb":"flows","more":1}"#,
            b"[]",
            b"",
        ] {
            assert_eq!(
                parse(bad).unwrap_err().code,
                code::BAD_REQUEST,
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
    }
}
