//! `/streams`, with the names of HStreamDB's gateway.

use headwater_sql::is_side_stream;
use headwater_store::{Format, StreamRow};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::body;
use crate::problem::{Problem, codes, unknown_stream};
use crate::routes::{Answer, RawRequest, Shared, parameter};
use crate::sql::Statements;

/// `GET /streams`
pub(crate) fn list(shared: &Shared) -> Answer {
    let catalog = shared.store.catalog().borrow().clone();
    let mut streams: Vec<_> = catalog
        .streams
        .values()
        // What belongs to a query is found by the query's name.
        .filter(|stream| !is_side_stream(&stream.name))
        .filter_map(|stream| catalog.stream(&stream.name))
        .collect();
    streams.sort_by(|a, b| a.name.cmp(&b.name));
    let streams: Vec<_> = streams.into_iter().map(|stream| describe_row(stream)).collect();
    Ok(body::json(StatusCode::OK, &json!({ "streams": streams })))
}

/// `GET /streams/{name}`
pub(crate) fn describe(shared: &Shared, name: &str) -> Answer {
    let catalog = shared.store.catalog().borrow().clone();
    let stream = catalog.stream(name).ok_or_else(|| unknown_stream(name))?;
    Ok(body::json(StatusCode::OK, &describe_row(stream)))
}

/// The body of `POST /streams`. HStreamDB's other fields (replication, backlog) have no meaning here and are skipped.
#[derive(Deserialize)]
struct NewStream {
    #[serde(alias = "streamName")]
    name: String,
}

/// `POST /streams`
pub(crate) async fn create(shared: &Shared, request: RawRequest) -> Answer {
    let body = shared.bodies.read(request.into_body()).await?;
    let stream: NewStream = serde_json::from_slice(&body.bytes)
        .map_err(|error| Problem::new(codes::NOT_JSON, format!("the body is not {{\"name\": \"…\"}}: {error}")))?;
    execute(shared, "CREATE STREAM", &stream.name).await?;
    let mut response = describe(shared, &stream.name)?;
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

/// `DELETE /streams/{name}`; `?ignoreNonExist=true` as in HStreamDB.
pub(crate) async fn delete(shared: &Shared, name: &str, request: &RawRequest) -> Answer {
    let missing_is_fine = parameter(request, "ignoreNonExist").is_some_and(|value| value == "true");
    let statement = if missing_is_fine {
        "DROP STREAM IF EXISTS"
    } else {
        "DROP STREAM"
    };
    execute(shared, statement, name).await?;
    Ok(body::json(StatusCode::OK, &json!({})))
}

/// By way of SQL, so that a stream made here is like one made there, and names obey the same rules.
async fn execute(shared: &Shared, statement: &str, name: &str) -> Result<(), Problem> {
    let quoted = format!("{statement} \"{}\";", name.replace('"', "\"\""));
    let carried_out = match Statements::new(shared, quoted) {
        Ok(mut statements) => statements.next().await.transpose(),
        Err(error) => Err(error),
    };
    // The place in a statement that the client never wrote says nothing.
    let problem = |error| Problem::from(error).without(&["location", "text", "statement"]);
    carried_out.map(drop).map_err(problem)
}

fn describe_row(stream: &StreamRow) -> Value {
    json!({
        "streamName": stream.name,
        "replicationFactor": 1,
        "shardCount": stream.shards.len(),
        "topics": stream.captures,
        "format": match stream.options.format {
            Format::Json => "JSON",
            Format::Text => "TEXT",
            Format::Raw => "RAW",
        },
        "query": stream.query,
        "createdAtMs": stream.created_at_ms,
    })
}
