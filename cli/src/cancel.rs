//! Did the user want it to end?
//!
//! SIGINT, SIGTERM and SIGHUP set a flag; long work looks at it between its steps and unwinds, so that a lab is torn
//! down in order; further signals change nothing then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

/// The flag.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Starts to listen for signals.
    ///
    /// # Errors
    /// When the handlers can't be set.
    pub(crate) fn on_signals() -> anyhow::Result<Self> {
        let flag = Self::default();
        let set = flag.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the signal handler")?;
        let guard = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
        let mut hangup = signal(SignalKind::hangup()).context("handle SIGHUP")?;
        drop(guard);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    set.0.store(true, Ordering::Relaxed);
                });
            })
            .context("start the signal handler's thread")?;
        Ok(flag)
    }

    /// Whether a signal came.
    pub(crate) fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// When a signal came.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.requested() {
            bail!("interrupted")
        }
        Ok(())
    }

    /// Asks again and again until there is an answer, the time is over (`None`) or a signal came.
    ///
    /// # Errors
    /// What asking fails with, or a signal.
    pub(crate) fn wait<T>(
        &self,
        at_most: Duration,
        mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<Option<T>> {
        let until = Instant::now() + at_most;
        let mut pause = Duration::from_millis(10);
        loop {
            self.check()?;
            if let Some(answer) = ask()? {
                return Ok(Some(answer));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            std::thread::sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_millis(150));
        }
    }
}
