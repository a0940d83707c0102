//! What does the controller count?
//!
//! Each metric is declared once, in [`METRICS`]; labels come from the registry, never from requests.

use crate::Core;
use axum::http::StatusCode;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};
use std::time::Duration;

/// What kind of metric it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl MetricKind {
    /// Its word in Prometheus' text format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric as it is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

const REQUESTS: Metric = Metric {
    name: "controller_requests_total",
    kind: MetricKind::Counter,
    labels: &["resource", "verb", "code"],
    help: "Requests answered.",
};
const SECONDS: Metric = Metric {
    name: "controller_request_seconds",
    kind: MetricKind::Histogram,
    labels: &["resource", "verb"],
    help: "Time from request to answer.",
};
const REVISION: Metric = Metric {
    name: "controller_store_revision",
    kind: MetricKind::Gauge,
    labels: &[],
    help: "The last durable commit.",
};
const RECORDS: Metric = Metric {
    name: "controller_store_records",
    kind: MetricKind::Gauge,
    labels: &[],
    help: "Records in the store.",
};

/// The metrics of the API and the store; those of the hosts are in `hosts/stats.rs`.
pub const METRICS: &[Metric] = &[REQUESTS, SECONDS, REVISION, RECORDS];

/// The counters.
#[derive(Debug)]
pub struct Stats {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    revision: IntGauge,
    records: IntGauge,
}

impl Stats {
    /// Registers all metrics.
    ///
    /// # Errors
    /// When the table has a name twice.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let requests =
            IntCounterVec::new(Opts::new(REQUESTS.name, REQUESTS.help), REQUESTS.labels)?;
        let buckets = vec![
            0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
        ];
        let options = HistogramOpts::new(SECONDS.name, SECONDS.help).buckets(buckets);
        let seconds = HistogramVec::new(options, SECONDS.labels)?;
        let revision = IntGauge::new(REVISION.name, REVISION.help)?;
        let records = IntGauge::new(RECORDS.name, RECORDS.help)?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(revision.clone()))?;
        registry.register(Box::new(records.clone()))?;
        Ok(Self {
            registry,
            requests,
            seconds,
            revision,
            records,
        })
    }

    /// Counts a request.
    pub fn request(&self, resource: &str, verb: &str, code: StatusCode, took: Duration) {
        self.requests
            .with_label_values(&[resource, verb, code.as_str()])
            .inc();
        self.seconds
            .with_label_values(&[resource, verb])
            .observe(took.as_secs_f64());
    }

    /// Where other parts of the controller register theirs.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The text that Prometheus reads.
    pub fn render(&self, core: &Core) -> Vec<u8> {
        let snapshot = core.store.snapshot();
        self.revision
            .set(i64::try_from(snapshot.revision().get()).unwrap_or(i64::MAX));
        self.records
            .set(i64::try_from(snapshot.len()).unwrap_or(i64::MAX));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "cannot render the metrics");
        }
        text
    }
}
