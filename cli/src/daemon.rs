//! How does a part run until it is told to stop?
//!
//! SIGINT and SIGTERM ask it to; it drains and comes back. Logs go to stderr, as `RUST_LOG` says.

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Completes when the part shall stop.
pub(crate) type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs a part to its end.
///
/// # Errors
/// What it ended with.
pub(crate) fn run<R, E>(start: impl FnOnce(Shutdown) -> R) -> anyhow::Result<ExitCode>
where
    R: Future<Output = Result<(), E>>,
    anyhow::Error: From<E>,
{
    // Set twice only in tests; the first stays.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(
                EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
            )
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
        let shutdown = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        start(Box::pin(shutdown)).await?;
        Ok(ExitCode::SUCCESS)
    })
}
