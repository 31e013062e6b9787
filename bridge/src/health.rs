//! `/health/live`, `/health/ready` and `/metrics`.

use headwater_store::CATALOG_GROUP;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::body;
use crate::problem::{Problem, codes};
use crate::routes::{Answer, Shared};

/// The process answers.
pub(crate) fn live() -> Answer {
    Ok(body::json(StatusCode::OK, &json!({ "status": "live" })))
}

/// Every group has a leader and the server is not stopping: writes are taken, unless the disk is nearly full. That is
/// told and is no reason to send clients elsewhere, because reads, and statements that make room, go on.
pub(crate) fn ready(shared: &Shared) -> Answer {
    if shared.stopping.is_cancelled() {
        return Err(Problem::new(codes::NOT_READY, "the server is stopping"));
    }
    let groups = std::iter::once(CATALOG_GROUP).chain(shared.store.data_groups());
    let waiting: Vec<_> = groups
        .filter(|group| shared.store.leadership(*group).borrow().leader.is_none())
        .map(|group| group.0)
        .collect();
    match waiting.as_slice() {
        [] => Ok(body::json(StatusCode::OK, &taking_writes(shared))),
        groups => Err(Problem::new(
            codes::NOT_READY,
            format!("groups without a leader: {groups:?}"),
        )),
    }
}

fn taking_writes(shared: &Shared) -> Value {
    match shared.store.check_disk() {
        Ok(()) => json!({ "status": "ready" }),
        Err(refused) => json!({ "status": "ready", "writes_refused": refused.to_string() }),
    }
}

/// Prometheus's text format.
pub(crate) fn metrics(shared: &Shared) -> Answer {
    Ok(body::typed(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        shared.metrics.render(),
    ))
}
