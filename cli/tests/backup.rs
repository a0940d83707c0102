//! Is a backup the same, whether the controller runs or not?
//!
//! A real controller on loopback, with a data dir of the test's own.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops where it can't go on"
)]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A directory of this test's own, gone when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("overweave-backup-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A controller that ends with the test.
struct Running(Child);

impl Running {
    /// One that answers.
    fn on(data: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_overweave"))
            .args(["controller", "--listen", "127.0.0.1:0"])
            .args(["--hosts-listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let running = Self(child);
        let deadline = Instant::now() + Duration::from_mins(1);
        while !answers(&data.join("clouds.yaml")) {
            assert!(Instant::now() < deadline, "the controller does not start");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        running
    }
}

/// Does somebody listen where this file says? A restored one names where its last controller did.
fn answers(clouds: &Path) -> bool {
    let text = fs::read_to_string(clouds).unwrap_or_default();
    let url = text.split_once("auth_url: http://").map(|(_, rest)| rest);
    let addr = url.and_then(|rest| rest.split('/').next()?.parse::<SocketAddr>().ok());
    addr.is_some_and(|addr| TcpStream::connect(addr).is_ok())
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn overweave(verb: &str, file: &Path, data: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_overweave"))
        .args(["controller", verb])
        .arg(file)
        .arg("--data-dir")
        .arg(data)
        .env("OS_CLIENT_CONFIG_FILE", "/nowhere/clouds.yaml")
        .output()
        .unwrap()
}

#[track_caller]
fn done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("error: ") && said.trim_end().lines().count() == 1,
        "{said}"
    );
    for word in words {
        assert!(said.contains(word), "{said} does not say {word}");
    }
}

/// The records of a backup: all lines but the header, which names the incarnation, and the sum.
fn records(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let records = lines.get(1..lines.len() - 1).expect("three lines or more");
    records.iter().map(|line| (*line).to_owned()).collect()
}

#[test]
fn a_running_controller_is_backed_up_as_a_stopped_one_is() {
    let dir = Scratch::new();
    let data = dir.path("data");
    let (online, offline) = (dir.path("online"), dir.path("offline"));
    {
        let _running = Running::on(&data);
        let said = done(&overweave("backup", &online, &data));
        assert!(said.contains("the running controller"), "{said}");
        let mode = fs::metadata(&online).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        refused(
            &overweave("restore", &online, &data),
            &["a controller runs on", "stop it", "--data-dir"],
        );
        refused(
            &overweave("backup", &dir.path("no/such/dir"), &data),
            &["no/such/dir"],
        );
        fs::rename(data.join("clouds.yaml"), dir.path("away")).unwrap();
        refused(
            &overweave("backup", &dir.path("none"), &data),
            &["a controller runs on", "clouds.yaml"],
        );
        fs::rename(dir.path("away"), data.join("clouds.yaml")).unwrap();
        assert!(!dir.path("none").exists());
    }
    let said = done(&overweave("backup", &offline, &data));
    assert!(said.contains("of the store"), "{said}");
    let mut restored = Vec::new();
    for file in [&online, &offline] {
        let (to, again) = (file.with_extension("data"), file.with_extension("again"));
        done(&overweave("restore", file, &to));
        refused(&overweave("restore", file, &to), &["move it away first"]);
        for name in ["ca.key", "ca.pem", "clouds.yaml"] {
            let same = fs::read(to.join(name)).unwrap() == fs::read(data.join(name)).unwrap();
            assert!(same, "{name}");
        }
        // What was restored runs, and its admin is who it was.
        let _running = Running::on(&to);
        done(&overweave("backup", &again, &to));
        restored.push(records(&again));
    }
    let tokens = |lines: &[String]| -> Vec<String> {
        // The admin's own login is in one of them, and moves the revision at which the other notes whose place it took.
        let other =
            |line: &&String| !line.starts_with("[\"token/") && !line.starts_with("[\"replaced/");
        lines.iter().filter(other).cloned().collect()
    };
    let all: Vec<Vec<String>> = restored.iter().map(|lines| tokens(lines)).collect();
    assert!(all.first().is_some_and(|lines| lines.len() > 5));
    assert_eq!(all.first(), all.last());
}
