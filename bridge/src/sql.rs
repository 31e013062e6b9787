//! `POST /v1/sql`: statements in, results out in the form the client accepts.
//!
//! Several statements run in order. A mistake found before the first result is a problem with its own status; one found
//! later cannot change the status any more and ends the answer in the way its form has for that.

use headwater_sql::{Outcome, SqlError};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use serde::Deserialize;
use serde_json::json;

use crate::body::{self, RequestBody};
use crate::limits::SQL_ANSWER_BYTES_MAX;
use crate::problem::{Problem, codes};
use crate::push;
use crate::routes::{Answer, RawRequest, Shared};

/// Runs the statements of one request.
pub(crate) async fn run(shared: &Shared, request: RawRequest) -> Answer {
    let (head, body) = request.into_parts();
    let form = Form::accepted(&head.headers)?;
    let statements = statements(shared, &head.headers, body).await?;
    let outcomes = execute(shared, statements).await?;
    let pushes = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Changes(_)));
    match form {
        Form::Events => push::events(outcomes, shared.stopping.clone()).await,
        Form::Lines => push::lines(outcomes, shared.stopping.clone()).await,
        Form::Any if pushes => push::events(outcomes, shared.stopping.clone()).await,
        Form::Json if pushes => {
            let detail = "changes never end, so they cannot be one JSON document";
            let help = "send accept: text/event-stream, or application/x-ndjson";
            Err(Problem::new(codes::NOT_ACCEPTABLE, detail).help(help))
        }
        Form::Json | Form::Any => collect(outcomes).await,
    }
}

/// Carries statements out on a task of their own: a client that goes away in the middle of a CREATE must not leave half
/// of it behind.
pub(crate) async fn execute(shared: &Shared, statements: String) -> Result<Vec<Outcome>, SqlError> {
    let engine = shared.engine.clone();
    let carried_out = tokio::spawn(async move { engine.execute(&statements).await });
    carried_out
        .await
        .unwrap_or_else(|error| Err(SqlError::internal(format!("a statement was not finished: {error}"))))
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One JSON document.
    Json,
    /// One row a line.
    Lines,
    /// Server-sent events.
    Events,
    /// JSON, or events where the rows do not end.
    Any,
}

impl Form {
    /// The first form of the Accept header that there is; weights (`q=`) are not looked at.
    fn accepted(headers: &HeaderMap) -> Result<Form, Problem> {
        let mut asked = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .peekable();
        if asked.peek().is_none() {
            return Ok(Form::Any);
        }
        let known = |range: &str| match range
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
            .as_str()
        {
            "application/json" => Some(Form::Json),
            "application/x-ndjson" | "application/jsonl" => Some(Form::Lines),
            "text/event-stream" => Some(Form::Events),
            "*/*" | "application/*" => Some(Form::Any),
            _ => None,
        };
        asked.flat_map(|value| value.split(',')).find_map(known).ok_or_else(|| {
            let detail = "answers are application/json, application/x-ndjson or text/event-stream";
            Problem::new(codes::NOT_ACCEPTABLE, detail)
        })
    }
}

/// `{"sql": "…"}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Statements {
    sql: String,
}

async fn statements(shared: &Shared, headers: &HeaderMap, body: Incoming) -> Result<String, Problem> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("application/sql");
    let media_type = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let RequestBody { bytes, .. } = &shared.bodies.read(body).await?;
    match media_type.as_str() {
        "application/json" => {
            let parsed: Statements = serde_json::from_slice(bytes).map_err(|error| {
                Problem::new(codes::NOT_JSON, format!("the body is not {{\"sql\": \"…\"}}: {error}"))
            })?;
            Ok(parsed.sql)
        }
        // What `curl -d` says it sends when it is not told otherwise is text all the same.
        "application/sql" | "text/plain" | "application/x-www-form-urlencoded" | "application/octet-stream" => {
            let text = std::str::from_utf8(bytes);
            let text =
                text.map_err(|error| Problem::new(codes::BAD_FIELD, format!("the statements are not UTF-8: {error}")))?;
            Ok(text.to_owned())
        }
        other => {
            let detail = format!("`{other}` is not taken, send application/sql or application/json");
            Err(Problem::new(codes::UNSUPPORTED_MEDIA_TYPE, detail))
        }
    }
}

/// One JSON document: `{"results": [{"message": "…"}, {"rows": [{…}, …]}]}`.
async fn collect(outcomes: Vec<Outcome>) -> Answer {
    let mut results = Vec::with_capacity(outcomes.len());
    let mut bytes = 0;
    for outcome in outcomes {
        match outcome {
            Outcome::Done { message } => results.push(json!({ "message": message }).to_string()),
            Outcome::Rows(mut stream) | Outcome::Changes(mut stream) => {
                let mut rows = Vec::new();
                while let Some(row) = stream.next().await {
                    let row = row?;
                    bytes += row.len() + 1;
                    if bytes > SQL_ANSWER_BYTES_MAX {
                        let detail = format!("the rows have more than {SQL_ANSWER_BYTES_MAX} bytes");
                        let help = "send accept: application/x-ndjson and read them as they come, or use LIMIT";
                        return Err(Problem::new(codes::NOT_ACCEPTABLE, detail).help(help));
                    }
                    rows.push(row);
                }
                results.push(format!("{{\"rows\":[{}]}}", rows.join(",")));
            }
        }
    }
    let text = format!("{{\"results\":[{}]}}", results.join(","));
    Ok(body::typed(StatusCode::OK, "application/json", text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn the_first_known_form_is_taken() {
        let accepted = |value: Option<&'static str>| {
            let pairs = value.map(|value| (header::ACCEPT, HeaderValue::from_static(value)));
            Form::accepted(&HeaderMap::from_iter(pairs)).ok()
        };
        assert_eq!(accepted(None), Some(Form::Any));
        assert_eq!(accepted(Some("*/*")), Some(Form::Any));
        assert_eq!(
            accepted(Some("text/html, application/x-ndjson;q=0.5, */*")),
            Some(Form::Lines)
        );
        assert_eq!(accepted(Some("Text/Event-Stream")), Some(Form::Events));
        assert_eq!(accepted(Some("application/json; charset=utf-8")), Some(Form::Json));
        assert_eq!(accepted(Some("text/html")), None);
    }
}
