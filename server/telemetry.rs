//! Logs and metrics. Results go to standard output; everything here goes to standard error or to `/metrics`.

use anyhow::{Context, Result};
use headwater_bridge::MetricsHandle;
use metrics_exporter_prometheus::PrometheusBuilder;
use tracing_subscriber::EnvFilter;

/// Logs to standard error, at `info` unless RUST_LOG says otherwise.
pub fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

/// Makes the metrics of this process readable through the handle.
pub fn install_metrics() -> Result<MetricsHandle> {
    PrometheusBuilder::new()
        .install_recorder()
        .context("cannot install the metrics recorder")
}
