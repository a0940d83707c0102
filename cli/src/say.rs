//! How does the command speak?
//!
//! Results go to stdout, progress and errors to stderr. A reader that went away (`| head`) is no failure.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

/// Writes a result, with a line end if it has none.
///
/// # Errors
/// When stdout can't be written for another reason than that nobody reads.
pub(crate) fn out(text: &str) -> anyhow::Result<()> {
    let mut to = stdout().lock();
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    match write!(to, "{text}{end}").and_then(|()| to.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("write to stdout"),
    }
}

/// Writes a value as indented JSON.
///
/// # Errors
/// As [`out`].
pub(crate) fn json(value: &serde_json::Value) -> anyhow::Result<()> {
    out(&serde_json::to_string_pretty(value).context("render JSON")?)
}

/// Writes `error: …`, one line whatever the causes hold.
pub(crate) fn error(error: &anyhow::Error) {
    let text = format!("{error:#}");
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    note(&format!("error: {line}"));
}

/// Writes a line to stderr. There is nowhere to tell if that fails.
pub(crate) fn note(line: &str) {
    writeln!(stderr().lock(), "{line}").unwrap_or_default();
}

/// What is being done now, shown on a terminal only.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Nothing is shown yet.
    pub(crate) fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar }
    }

    /// Says something that is to stay, on stderr.
    pub(crate) fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(line)),
            None => note(line),
        }
    }

    /// Says what comes next.
    pub(crate) fn step(&self, what: impl Into<String>) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.into());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
