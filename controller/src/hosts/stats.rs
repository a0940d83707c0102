//! What is counted of the hosts?
//!
//! The controller's table of metrics goes on here ([`METRICS`]); a host's series goes with its stream.

use std::{collections::BTreeSet, time::Duration};

use prometheus::{Histogram, HistogramOpts, IntGauge, IntGaugeVec, Opts, Registry};

use crate::compile::intent::HostName;

/// Name, labels, help.
pub const METRICS: &[(&str, &[&str], &str)] = &[
    (
        "controller_hosts_connected",
        &[],
        "Hosts that have a stream.",
    ),
    (
        "controller_host_lag_generations",
        &["host"],
        "By how many commits the last that a host proved is behind, while it has not proved all.",
    ),
    (
        "controller_compile_seconds",
        &[],
        "Time from hearing a commit to having the messages that it causes.",
    ),
];

/// The counters.
#[derive(Debug)]
pub struct Stats {
    connected: IntGauge,
    lag: IntGaugeVec,
    compile: Histogram,
    /// Whose series there are.
    shown: BTreeSet<HostName>,
}

impl Stats {
    /// Registers all metrics.
    ///
    /// # Errors
    /// When the registry has one of the names already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = |name: &str| {
            let found = METRICS.iter().find(|metric| metric.0 == name);
            found.map_or("", |metric| metric.2)
        };
        let name = "controller_hosts_connected";
        let connected = IntGauge::new(name, help(name))?;
        let name = "controller_host_lag_generations";
        let lag = IntGaugeVec::new(Opts::new(name, help(name)), &["host"])?;
        let name = "controller_compile_seconds";
        let buckets = vec![0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
        let compile = Histogram::with_opts(HistogramOpts::new(name, help(name)).buckets(buckets))?;
        registry.register(Box::new(connected.clone()))?;
        registry.register(Box::new(lag.clone()))?;
        registry.register(Box::new(compile.clone()))?;
        Ok(Self {
            connected,
            lag,
            compile,
            shown: BTreeSet::new(),
        })
    }

    /// A commit was followed.
    pub(super) fn followed(&self, took: Duration) {
        self.compile.observe(took.as_secs_f64());
    }

    /// The lag of every connected host; of any other the series goes.
    pub(super) fn show_lags<'a>(&mut self, lags: impl Iterator<Item = (&'a HostName, u64)>) {
        let mut shown = BTreeSet::new();
        for (host, lag) in lags {
            self.lag
                .with_label_values(&[host.as_str()])
                .set(i64::try_from(lag).unwrap_or(i64::MAX));
            shown.insert(host.clone());
        }
        for gone in self.shown.difference(&shown) {
            // There is one: it was set above, the last time.
            drop(self.lag.remove_label_values(&[gone.as_str()]));
        }
        self.connected
            .set(i64::try_from(shown.len()).unwrap_or(i64::MAX));
        self.shown = shown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_host_goes_with_it() {
        let registry = Registry::new();
        let mut stats = Stats::new(&registry).unwrap();
        let (one, two) = (HostName::from("one"), HostName::from("two"));
        stats.show_lags([(&one, 0), (&two, 3)].into_iter());
        stats.show_lags([(&two, 4)].into_iter());
        let families = registry.gather();
        let lag = families.iter().find(|f| f.name() == METRICS[1].0).unwrap();
        let hosts: Vec<&str> = lag
            .get_metric()
            .iter()
            .map(|m| m.get_label()[0].value())
            .collect();
        assert_eq!(hosts, ["two"]);
        assert!(
            METRICS
                .iter()
                .all(|(name, ..)| families.iter().any(|f| f.name() == *name))
        );
    }
}
