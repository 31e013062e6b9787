//! The bridge's metrics, each named once.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Says what each metric is.
pub(crate) fn describe() {
    describe_gauge!("headwater_bridge_http_connections", "open HTTP connections");
    describe_counter!(
        "headwater_bridge_http_connections_refused_total",
        "connections beyond bridge.connections_max"
    );
    describe_counter!(
        "headwater_bridge_http_requests_total",
        "answered requests by route and status"
    );
    describe_histogram!(
        "headwater_bridge_http_request_duration_seconds",
        "from the head of a request to that of its answer"
    );
    describe_counter!(
        "headwater_bridge_published_records_total",
        "records committed by way of :publish"
    );
    describe_counter!(
        "headwater_bridge_webhook_attempts_total",
        "webhook requests by connector and outcome"
    );
    describe_histogram!(
        "headwater_bridge_webhook_attempt_duration_seconds",
        "one webhook request"
    );
    describe_counter!("headwater_bridge_webhook_records_total", "records that webhooks took");
    describe_counter!(
        "headwater_bridge_webhook_dead_records_total",
        "records that went to a dead letter stream"
    );
}

/// An open connection; dropped when it closes.
pub(crate) struct OpenConnection;

/// Counts a connection in.
pub(crate) fn connection() -> OpenConnection {
    gauge!("headwater_bridge_http_connections").increment(1.0);
    OpenConnection
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        gauge!("headwater_bridge_http_connections").decrement(1.0);
    }
}

/// `bridge.connections_max` was reached.
pub(crate) fn connection_refused() {
    counter!("headwater_bridge_http_connections_refused_total").increment(1);
}

/// A request was answered (its head; a stream of events goes on after that).
pub(crate) fn request(route: &'static str, status: u16, took: Duration) {
    counter!("headwater_bridge_http_requests_total", "route" => route, "status" => status.to_string()).increment(1);
    histogram!("headwater_bridge_http_request_duration_seconds", "route" => route).record(took.as_secs_f64());
}

/// Records came in over HTTP and are committed.
pub(crate) fn published(records: usize) {
    counter!("headwater_bridge_published_records_total").increment(records as u64);
}

/// An attempt of a webhook ended: `delivered`, `failed` or `refused`.
pub(crate) fn webhook_attempt(connector: &str, outcome: &'static str, took: Duration) {
    counter!("headwater_bridge_webhook_attempts_total", "connector" => connector.to_owned(), "outcome" => outcome)
        .increment(1);
    histogram!("headwater_bridge_webhook_attempt_duration_seconds", "connector" => connector.to_owned())
        .record(took.as_secs_f64());
}

/// Records that a webhook took.
pub(crate) fn webhook_delivered(connector: &str, records: u64) {
    counter!("headwater_bridge_webhook_records_total", "connector" => connector.to_owned()).increment(records);
}

/// Records that went to a dead letter stream.
pub(crate) fn webhook_dead(connector: &str, records: u64) {
    counter!("headwater_bridge_webhook_dead_records_total", "connector" => connector.to_owned()).increment(records);
}
