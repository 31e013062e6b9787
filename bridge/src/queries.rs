//! `GET /queries`: the persistent queries of the catalog.

use headwater_store::{QueryRow, QueryState};
use hyper::StatusCode;
use serde_json::json;

use crate::body;
use crate::routes::{Answer, Shared};

/// `GET /queries`
pub(crate) fn list(shared: &Shared) -> Answer {
    let catalog = shared.store.catalog().borrow().clone();
    let mut queries: Vec<_> = catalog.queries.values().collect();
    queries.sort_by(|a, b| a.name.cmp(&b.name));
    let name = |id| catalog.stream_by_id(id).map(|stream| stream.name.clone());
    let rows: Vec<_> = queries
        .into_iter()
        .map(|query| {
            json!({
                "id": query.name,
                "status": status(shared, query),
                "queryText": query.sql,
                "sources": query.inputs.iter().filter_map(|id| name(*id)).collect::<Vec<_>>(),
                "sink": name(query.output),
                "createdAtMs": query.created_at_ms,
            })
        })
        .collect();
    Ok(body::json(StatusCode::OK, &json!({ "queries": rows })))
}

/// HStreamDB's words, and one for what it has none for.
fn status(shared: &Shared, query: &QueryRow) -> &'static str {
    match query.state {
        QueryState::Running if shared.engine.query_status(query).state == "failed" => "FAILED",
        QueryState::Running => "RUNNING",
        QueryState::Paused => "PAUSED",
        QueryState::Terminated => "TERMINATED",
    }
}
