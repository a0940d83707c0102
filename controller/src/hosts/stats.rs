//! What is counted of the hosts?
//!
//! The controller's table of metrics goes on here ([`METRICS`]); a host's series goes with its stream.

use std::{collections::BTreeSet, time::Duration};

use prometheus::{Histogram, HistogramOpts, IntGauge, IntGaugeVec, Opts, Registry};

use crate::{
    compile::intent::HostName,
    stats::{Metric, MetricKind},
};

const CONNECTED: Metric = Metric {
    name: "controller_hosts_connected",
    kind: MetricKind::Gauge,
    labels: &[],
    help: "Hosts that have a stream.",
};
const LAG: Metric = Metric {
    name: "controller_host_lag_generations",
    kind: MetricKind::Gauge,
    labels: &["host"],
    help: "By how many commits the last that a host proved is behind, while it has not proved all.",
};
const COMPILE: Metric = Metric {
    name: "controller_compile_seconds",
    kind: MetricKind::Histogram,
    labels: &[],
    help: "Time from hearing a commit to having the messages that it causes.",
};

/// The metrics of the hosts.
pub const METRICS: &[Metric] = &[CONNECTED, LAG, COMPILE];

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
        let connected = IntGauge::new(CONNECTED.name, CONNECTED.help)?;
        let lag = IntGaugeVec::new(Opts::new(LAG.name, LAG.help), LAG.labels)?;
        let buckets = vec![0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
        let options = HistogramOpts::new(COMPILE.name, COMPILE.help).buckets(buckets);
        let compile = Histogram::with_opts(options)?;
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
    use crate::stats;
    use axum::http::StatusCode;
    use prometheus::proto::MetricType;

    #[test]
    fn the_series_of_a_host_goes_with_it() {
        let registry = Registry::new();
        let mut stats = Stats::new(&registry).unwrap();
        let (one, two) = (HostName::from("one"), HostName::from("two"));
        stats.show_lags([(&one, 0), (&two, 3)].into_iter());
        stats.show_lags([(&two, 4)].into_iter());
        let families = registry.gather();
        let lag = families.iter().find(|f| f.name() == LAG.name).unwrap();
        let hosts: Vec<&str> = lag
            .get_metric()
            .iter()
            .map(|m| m.get_label()[0].value())
            .collect();
        assert_eq!(hosts, ["two"]);
        assert!(
            METRICS
                .iter()
                .all(|metric| families.iter().any(|f| f.name() == metric.name))
        );
    }

    #[test]
    fn what_is_told_is_what_is_declared() {
        let api = stats::Stats::new().unwrap();
        let mut of_hosts = Stats::new(api.registry()).unwrap();
        api.request("network", "list", StatusCode::OK, Duration::ZERO);
        of_hosts.show_lags([(&HostName::from("h1"), 0)].into_iter());
        let told: Vec<(String, MetricKind, usize, String)> = api
            .registry()
            .gather()
            .iter()
            .map(|family| {
                let kind = match family.get_field_type() {
                    MetricType::COUNTER => MetricKind::Counter,
                    MetricType::GAUGE => MetricKind::Gauge,
                    MetricType::HISTOGRAM => MetricKind::Histogram,
                    other @ (MetricType::SUMMARY | MetricType::UNTYPED) => panic!("{other:?}"),
                };
                let labels = family.get_metric()[0].get_label().len();
                (
                    family.name().to_owned(),
                    kind,
                    labels,
                    family.help().to_owned(),
                )
            })
            .collect();
        let mut declared: Vec<_> = stats::METRICS
            .iter()
            .chain(METRICS)
            .map(|metric| {
                (
                    metric.name.to_owned(),
                    metric.kind,
                    metric.labels.len(),
                    metric.help.to_owned(),
                )
            })
            .collect();
        declared.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(told, declared);
    }
}
