//! How does the command ask the vswitch on this host?
//!
//! One line of JSON each way over `RUN-DIR/vswitch.sock`: `{"verb":…,"args":{…}}`, answered by `{"ok":…,"text":…}` or
//! `{"error":{"code":…,"message":…}}`.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::say;

/// Where a vswitch runs if nothing else is said.
pub(crate) const RUN_DIR: &str = "/run/overweave";
/// A dump of a full connection table is the largest answer.
const ANSWER_MAX: u64 = 1 << 30;
/// Over the 10 s that an attachment may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which vswitch a local verb speaks to.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LocalArgs {
    /// The directory of the vswitch's socket
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    pub(crate) run_dir: PathBuf,
}

/// How a local verb answers.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) local: LocalArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the vswitch answered.
#[derive(Debug, Deserialize)]
pub(crate) struct Reply {
    #[serde(default)]
    pub(crate) ok: Value,
    #[serde(default)]
    pub(crate) text: Option<String>,
    error: Option<ReplyError>,
}

#[derive(Debug, Deserialize)]
struct ReplyError {
    code: String,
    message: String,
}

/// What the vswitch refused.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refused {
    /// A word for programs.
    pub(crate) code: String,
    message: String,
}

/// Asks one thing.
///
/// # Errors
/// When no vswitch answers, or it refuses ([`Refused`]).
pub(crate) fn ask(run_dir: &Path, verb: &str, args: &Value) -> anyhow::Result<Reply> {
    let socket = run_dir.join("vswitch.sock");
    let mut stream = match UnixStream::connect(&socket) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => bail!(
            "no vswitch answers at {}; start `overweave vswitch` on this host, or name its directory with --run-dir",
            socket.display()
        ),
        Err(e) => return Err(e).with_context(|| format!("connect to {}", socket.display())),
    };
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("set a timeout")?;
    stream
        .set_write_timeout(Some(PATIENCE))
        .context("set a timeout")?;
    let mut line = json!({"verb": verb, "args": args}).to_string();
    line.push('\n');
    stream
        .write_all(line.as_bytes())
        .with_context(|| format!("ask the vswitch at {}", socket.display()))?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_MAX))
        .read_line(&mut answer)
        .with_context(|| format!("wait for the vswitch at {}", socket.display()))?;
    if answer.is_empty() {
        bail!(
            "the vswitch at {} closed the connection; see its log",
            socket.display()
        );
    }
    let reply: Reply = serde_json::from_str(&answer).context("read the vswitch's answer")?;
    match reply.error {
        Some(ReplyError { code, message }) => Err(Refused { code, message }.into()),
        None => Ok(reply),
    }
}

/// Asks one thing and prints the answer.
///
/// # Errors
/// As [`ask`].
pub(crate) fn show(args: &ShowArgs, verb: &str, with: &Value) -> anyhow::Result<()> {
    let reply = ask(&args.local.run_dir, verb, with)?;
    match reply.text {
        Some(text) if !args.json => say::out(&text),
        _ => say::json(&reply.ok),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A vswitch that gives one answer and tells what it was asked.
    fn answering(name: &str, answer: &'static str) -> (PathBuf, std::thread::JoinHandle<String>) {
        let dir =
            std::env::temp_dir().join(format!("overweave-local-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let listener = UnixListener::bind(dir.join("vswitch.sock")).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut asked)
                .unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            asked
        });
        (dir, server)
    }

    #[test]
    fn a_question_is_one_line_and_so_is_the_answer() {
        let (dir, server) = answering("ok", "{\"ok\":{\"flows\":[]},\"text\":\"none\"}\n");
        let reply = ask(&dir, "flows", &json!({})).unwrap();
        assert_eq!(
            (reply.ok, reply.text.as_deref()),
            (json!({"flows": []}), Some("none"))
        );
        let asked: Value = serde_json::from_str(&server.join().unwrap()).unwrap();
        assert_eq!(asked, json!({"verb": "flows", "args": {}}));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_refusal_keeps_its_code() {
        let (dir, server) = answering(
            "no",
            "{\"error\":{\"code\":\"unknown_port\",\"message\":\"no such port\"}}\n",
        );
        let error = ask(&dir, "attach", &json!({"port": "x"})).unwrap_err();
        assert_eq!(
            error.downcast_ref::<Refused>().unwrap().code,
            "unknown_port"
        );
        assert_eq!(error.to_string(), "no such port");
        server.join().unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn without_a_vswitch_the_remedy_is_said() {
        let message = ask(Path::new("/nowhere"), "flows", &json!({}))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("/nowhere/vswitch.sock") && message.contains("--run-dir"),
            "{message}"
        );
    }
}
