//! Logs and metrics. Results go to standard output; everything here goes to standard error or to `/metrics`.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use headwater_bridge::MetricsHandle;
use metrics_exporter_prometheus::PrometheusBuilder;
use tracing_subscriber::EnvFilter;

/// The log engine tells of every file it puts away, which under load is each second.
const DEFAULT_FILTER: &str = "info,raft_engine=warn";

/// Logs to standard error, at `info` unless RUST_LOG says otherwise. In colours only on a terminal, and not where
/// NO_COLOR is set (<https://no-color.org>).
pub fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && !plain)
        .with_writer(std::io::stderr)
        .init();
}

/// Makes the metrics of this process readable through the handle.
pub fn install_metrics() -> Result<MetricsHandle> {
    PrometheusBuilder::new()
        .install_recorder()
        .context("cannot install the metrics recorder")
}
