//! What does the controller count?
//!
//! One table of metrics ([`METRICS`]); labels come from the registry, never from requests.

use crate::Core;
use axum::http::StatusCode;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};
use std::time::Duration;

/// Name, labels, help.
pub const METRICS: &[(&str, &[&str], &str)] = &[
    (
        "controller_requests_total",
        &["resource", "verb", "code"],
        "Requests answered.",
    ),
    (
        "controller_request_seconds",
        &["resource", "verb"],
        "Time from request to answer.",
    ),
    ("controller_store_revision", &[], "The last durable commit."),
    ("controller_store_records", &[], "Records in the store."),
];

/// The counters.
#[derive(Debug)]
pub struct Stats {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    revision: IntGauge,
    records: IntGauge,
}

fn help(name: &str) -> (&'static [&'static str], &'static str) {
    let found = METRICS.iter().find(|metric| metric.0 == name);
    found.map_or((&[], ""), |(_, labels, help)| (*labels, *help))
}

impl Stats {
    /// Registers all metrics.
    ///
    /// # Errors
    /// When the table has a name twice.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let gauge = |name: &str| IntGauge::new(name, help(name).1);
        let (labels, text) = help("controller_requests_total");
        let requests = IntCounterVec::new(Opts::new("controller_requests_total", text), labels)?;
        let (labels, text) = help("controller_request_seconds");
        let buckets = vec![
            0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
        ];
        let options = HistogramOpts::new("controller_request_seconds", text).buckets(buckets);
        let seconds = HistogramVec::new(options, labels)?;
        let (revision, records) = (
            gauge("controller_store_revision")?,
            gauge("controller_store_records")?,
        );
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
