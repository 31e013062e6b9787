//! `GET /connectors`: the connectors of the catalog, and what the running ones are doing.
//!
//! Options that may hold secrets (HEADERS, SECRET, the query of the URL) are left out, and so is the statement.

use headwater_sql::{ConnectorStatus, ConnectorWatch};
use headwater_store::{Catalog, ConnectorRow, ReadError};
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::body;
use crate::routes::{Answer, Shared};
use crate::webhook::{Snapshot, Statuses, WebhookOptions};

/// Paused, or answered with 410: the catalog says that it does not run.
const STOPPED: &str = "stopped";

/// `GET /connectors`
pub(crate) async fn list(shared: &Shared) -> Answer {
    let catalog = shared.store.catalog().borrow().clone();
    let mut connectors: Vec<_> = catalog.connectors.values().collect();
    connectors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut rows = Vec::with_capacity(connectors.len());
    for connector in connectors {
        rows.push(describe(shared, &catalog, connector).await?);
    }
    Ok(body::json(StatusCode::OK, &json!({ "connectors": rows })))
}

/// What a connector is doing, in one word: `GET /connectors` and SHOW CONNECTORS say the same.
fn state(connector: &ConnectorRow, status: &Snapshot) -> &'static str {
    match status.state() {
        _ if !connector.running => STOPPED,
        None => "starting",
        Some(state) => state.as_str(),
    }
}

/// For SHOW CONNECTORS.
pub(crate) fn watch(webhooks: Statuses) -> ConnectorWatch {
    Box::new(move |connector| {
        let status = webhooks.snapshot(connector.id).unwrap_or_default();
        ConnectorStatus {
            state: state(connector, &status),
            last_error: status.last_error.map(|(message, _)| message),
        }
    })
}

async fn describe(shared: &Shared, catalog: &Catalog, connector: &ConnectorRow) -> Result<Value, ReadError> {
    let stream = catalog.stream_by_id(connector.stream);
    let status = shared.webhooks.snapshot(connector.id).unwrap_or_default();
    let mut shards = Vec::new();
    let mut lag = 0;
    for shard in stream.iter().flat_map(|stream| stream.shard_ids()) {
        let Some((state, next)) = status.shards.get(&shard.number) else {
            continue;
        };
        let (_, end) = shared.store.bounds(shard).await?;
        lag += end.0.saturating_sub(next.0);
        let state = if connector.running { state.as_str() } else { STOPPED };
        shards.push(json!({ "shard": shard.number, "state": state, "next": next.0, "end": end.0 }));
    }
    let state = state(connector, &status);
    let last_error = status
        .last_error
        .map(|(message, at)| json!({ "message": message, "atMs": at.0 }));
    Ok(json!({
        "name": connector.name,
        "type": connector.kind.to_ascii_uppercase(),
        "stream": stream.map(|stream| stream.name.clone()),
        "url": WebhookOptions::parse(&connector.options).ok().map(|options| options.shown_url()),
        "state": state,
        "lag": lag,
        "delivered": status.delivered,
        "failedAttempts": status.failed_attempts,
        "deadLetters": status.dead,
        "lastError": last_error,
        "shards": shards,
        "createdAtMs": connector.created_at_ms,
    }))
}
