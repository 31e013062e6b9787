//! `GET /v1/clients`: the MQTT clients of this node, as SHOW CLIENTS tells them.

use hyper::StatusCode;
use serde_json::json;

use crate::body;
use crate::routes::{Answer, Shared};

/// `GET /v1/clients`
pub(crate) fn list(shared: &Shared) -> Answer {
    Ok(body::json(
        StatusCode::OK,
        &json!({ "clients": shared.engine.clients() }),
    ))
}
