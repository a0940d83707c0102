//! When did traffic begin to pass, or cease to?

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use super::probe::{Namespace, Probe, Prober, enter};

/// Between two tries of a probe.
const INTERVAL: Duration = Duration::from_millis(20);
/// As many tries in a row end alike before it is believed.
const ALIKE: usize = 3;

struct Try {
    began: Instant,
    ended: Instant,
    passed: bool,
}

/// A probe that is tried all the time beside the test.
#[derive(Debug)]
pub struct Watch {
    tries: Receiver<Try>,
    /// Dropped, it ends the thread.
    _going: Sender<()>,
}

impl Watch {
    /// Begins, in a namespace.
    pub fn start(namespace: &Namespace, probe: Probe) -> Self {
        let (going, goes) = channel::<()>();
        let (report, tries) = channel();
        let name = namespace.name().to_owned();
        thread::spawn(move || {
            enter(&name);
            let mut prober = Prober::new(probe);
            while goes.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let began = Instant::now();
                let passed = prober.try_once();
                let ended = Instant::now();
                if report
                    .send(Try {
                        began,
                        ended,
                        passed,
                    })
                    .is_err()
                {
                    return;
                }
            }
        });
        Self {
            tries,
            _going: going,
        }
    }

    /// How long after a moment did traffic pass, or not pass, for good? Only what began after it counts. `None`: not within
    /// a limit.
    pub fn settles(&self, passes: bool, since: Instant, limit: Duration) -> Option<Duration> {
        let mut first = None;
        let mut alike = 0;
        while alike < ALIKE {
            let one = self.tries.recv().expect("the probe goes on");
            if one.began < since {
                continue;
            }
            if one.passed != passes {
                (first, alike) = (None, 0);
                if one.ended > since + limit {
                    return None;
                }
                continue;
            }
            // Traffic passes once an answer is there, and is stopped once a request gets none.
            let seen = if passes { one.ended } else { one.began };
            first.get_or_insert(seen);
            alike += 1;
        }
        first
            .map(|seen| seen - since)
            .filter(|delay| *delay < limit)
    }
}
