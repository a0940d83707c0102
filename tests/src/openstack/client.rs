//! Who says the commands?

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::netns;

/// What came of a command.
#[derive(Debug)]
pub struct Answer {
    /// What `openstack` would have exited with.
    pub code: i64,
    /// What it printed.
    pub out: String,
    /// What it complained.
    pub err: String,
    /// When the API answered.
    pub at: Instant,
}

impl Answer {
    /// What it printed as JSON; null if it printed nothing.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or(Value::Null)
    }
}

/// An `openstack` that stays and reads many commands.
#[derive(Debug)]
pub struct Client {
    child: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// Is there root, and a client? `false`: the test is to be skipped, and that was said.
///
/// # Panics
/// Without either, if root is required here: then nothing may be skipped.
pub fn allowed() -> bool {
    netns::allowed()
        && (program().is_some() || netns::skip("needs the openstack client (docs/testing.md)"))
}

/// `OVERWEAVE_OPENSTACK`, or `openstack` in the path.
fn program() -> Option<PathBuf> {
    if let Some(given) = env::var_os("OVERWEAVE_OPENSTACK") {
        return Some(given.into());
    }
    let path = env::var_os("PATH")?;
    let mut places = env::split_paths(&path).map(|dir| dir.join("openstack"));
    places.find(|place| place.is_file())
}

/// The Python that the client's script names in its first line.
fn python(program: &Path) -> String {
    let text = fs::read_to_string(program)
        .unwrap_or_else(|e| panic!("{} is not the client's script: {e}", program.display()));
    let first = text.lines().next().and_then(|line| line.strip_prefix("#!"));
    let first = first.expect("the client's script names its Python");
    first.split_whitespace().next().unwrap().to_owned()
}

impl Client {
    /// Starts it, with the clouds of a file, as one of them.
    pub fn start(clouds: &Path, cloud: &str) -> Self {
        let program = program().expect("there is a client");
        let mut start = Command::new(python(&program));
        start.arg(netns::repository().join("tests/openstack/client.py"));
        start.args(["--os-cloud", cloud]);
        for (name, _) in
            env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OS_"))
        {
            start.env_remove(name);
        }
        start
            .env("OS_CLIENT_CONFIG_FILE", clouds)
            .env("PYTHONWARNINGS", "ignore");
        // Its complaints are in its answers too.
        start
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = start.spawn().expect("the client starts");
        let words = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            words,
            answers,
        }
    }

    /// Says a command.
    pub fn say(&mut self, words: &Value) -> Answer {
        writeln!(self.words, "{words}").expect("the client listens");
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .expect("the client answers");
        let now = Instant::now();
        let answer: Value = serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("the client ended at {words}: {e}"));
        let text = |key: &str| answer[key].as_str().unwrap().to_owned();
        let ago = Duration::from_secs_f64(answer["ago"].as_f64().unwrap());
        Answer {
            code: answer["code"].as_i64().unwrap_or(1),
            out: text("out"),
            err: text("err"),
            at: now.checked_sub(ago).unwrap(),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}
