//! Who changed what, when, and what came of it?
//!
//! One JSON line for every write that was asked for, refused ones too, in `audit.jsonl` of the data
//! dir. Each line holds the hash of the line before it, so that a line that was changed or taken out
//! shows.
//!
//! # Threads
//! One task owns the file; callers wait when its queue is full.

use crate::{rules::Caller, time::Seconds};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    io,
    path::{Path, PathBuf},
};
use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt,
    sync::{mpsc, oneshot},
};

const QUEUE: usize = 1024;

/// The handle that callers hold.
#[derive(Debug, Clone)]
pub struct Audit {
    lines: Option<mpsc::Sender<Noted>>,
}

/// An entry, and who waits until it is written.
#[derive(Debug)]
struct Noted {
    entry: Entry,
    written: oneshot::Sender<()>,
}

#[derive(Debug, Serialize)]
struct Entry {
    at: String,
    user: String,
    project: String,
    verb: &'static str,
    kind: &'static str,
    ids: Vec<String>,
    outcome: String,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    previous: &'a str,
}

fn digest(line: &str) -> String {
    format!("{:x}", Sha256::digest(line.as_bytes()))
}

impl Audit {
    /// An audit that keeps nothing, for simulated regions.
    pub const fn none() -> Self {
        Self { lines: None }
    }

    /// Opens the log of a data dir; the returned task writes it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(data_dir: &Path) -> io::Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        let path = data_dir.join("audit.jsonl");
        let last = last_line(&path)?;
        let file = {
            use std::os::unix::fs::OpenOptionsExt;
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&path)?
        };
        let (lines, queue) = mpsc::channel(QUEUE);
        Ok((
            Self { lines: Some(lines) },
            write(path, file, digest(&last), queue),
        ))
    }

    /// Notes a write; returns when the line is in the file.
    pub async fn note(
        &self,
        at: Seconds,
        caller: &Caller,
        verb: &'static str,
        kind: &'static str,
        ids: &[String],
        outcome: &str,
    ) {
        let Some(lines) = &self.lines else { return };
        let entry = Entry {
            at: at.iso(),
            user: caller.user_name.clone(),
            project: caller.project_id.clone(),
            verb,
            kind,
            ids: ids.to_vec(),
            outcome: outcome.to_owned(),
        };
        let (written, done) = oneshot::channel();
        if lines.send(Noted { entry, written }).await.is_err() || done.await.is_err() {
            tracing::error!("the audit's task has ended");
        }
    }
}

/// The last whole line of a log, empty if there is none. What a crash cut off is closed by a line end.
fn last_line(path: &Path) -> io::Result<String> {
    use std::io::{Read, Seek, SeekFrom, Write};
    let mut file = match std::fs::OpenOptions::new()
        .read(true)
        .append(true)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(65_536)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    if tail.last().is_some_and(|byte| *byte != b'\n') {
        file.write_all(b"\n")?;
    }
    let tail = String::from_utf8_lossy(&tail);
    Ok(tail.lines().last().unwrap_or_default().to_owned())
}

async fn write(
    path: PathBuf,
    file: std::fs::File,
    mut previous: String,
    mut queue: mpsc::Receiver<Noted>,
) {
    let mut file = File::from_std(file);
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, QUEUE).await > 0 {
        let mut text = String::new();
        for Noted { entry, .. } in &batch {
            let Ok(line) = serde_json::to_string(&Line {
                entry,
                previous: &previous,
            }) else {
                continue;
            };
            previous = digest(&line);
            text.push_str(&line);
            text.push('\n');
        }
        let written = async {
            file.write_all(text.as_bytes()).await?;
            file.flush().await
        };
        if let Err(error) = written.await {
            tracing::error!(%error, path = %path.display(), "cannot write the audit log");
            // A log that was moved away is begun anew.
            if let Ok(again) = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .await
            {
                file = again;
            }
        }
        for noted in batch.drain(..) {
            // A caller that hung up does not wait.
            let heard = noted.written.send(()).is_ok();
            tracing::trace!(heard, "audited");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_chained_across_restarts() {
        let dir = std::env::temp_dir().join(format!("ow-audit-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).unwrap();
        for _ in 0..2 {
            let (audit, writer) = Audit::open(&dir).unwrap();
            let writer = tokio::spawn(writer);
            for outcome in ["done", "NetworkInUse"] {
                let caller = Caller::system();
                let at = Seconds::new(0);
                audit
                    .note(at, &caller, "delete", "network", &["x".to_owned()], outcome)
                    .await;
            }
            drop(audit);
            writer.await.unwrap();
        }
        let text = std::fs::read_to_string(dir.join("audit.jsonl")).unwrap();
        let mut previous = digest("");
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["previous"], previous);
            assert_eq!(value["user"], "system");
            previous = digest(line);
        }
        assert_eq!(text.lines().count(), 4);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
