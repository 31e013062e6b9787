//! `/v1/sql`: statements in, results out in the form the client accepts.
//!
//! All statements are parsed first, then they run in order, each when the results before it are taken. A mistake found
//! before the first result is a problem with its own status; one found later cannot change the status any more and ends
//! the answer in the way its form has for that.

use std::hash::{DefaultHasher, Hash, Hasher};

use headwater_sql::{Engine, Outcome, Script, SqlError};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::body::{self, RequestBody};
use crate::limits::SQL_ANSWER_BYTES_MAX;
use crate::problem::{Problem, codes};
use crate::push;
use crate::routes::{Answer, RawRequest, Shared, form_parameter};

/// Runs the statements of one request. Whether the answer can be given is settled before the first one is carried out.
pub(crate) async fn run(shared: &Shared, request: RawRequest) -> Answer {
    let (head, body) = request.into_parts();
    if head.uri.query().is_some_and(|query| !query.is_empty()) {
        let detail = "the statements of a POST stand in its body";
        return Err(Problem::new(codes::BAD_PARAMETER, detail));
    }
    let form = Form::accepted(&head.headers)?;
    let text = statements(shared, &head.headers, body).await?;
    if let Some(id) = last_event_id(&head.headers, form)? {
        let asked = (!text.trim().is_empty()).then(|| hash(&text));
        return push::go_on(shared, id, asked).await;
    }
    answer(shared, form, Statements::new(shared, text)?).await
}

/// `GET /v1/sql?sql=SELECT … EMIT …`, as a browser's EventSource asks: it can send no body, and comes back with the id of the
/// last event that it has. A GET changes nothing, so it takes nothing else.
pub(crate) async fn listen(shared: &Shared, request: &RawRequest) -> Answer {
    let form = Form::accepted(request.headers())?;
    let text = form_parameter(request, "sql");
    if let Some(id) = last_event_id(request.headers(), form)? {
        return push::go_on(shared, id, text.as_deref().map(hash)).await;
    }
    let text = text.ok_or_else(|| Problem::new(codes::BAD_PARAMETER, "the parameter `sql` is missing"))?;
    let statements = Statements::new(shared, text)?;
    if !statements.only_listen {
        let detail = "GET takes one SELECT with EMIT, and SET before it";
        return Err(Problem::new(codes::BAD_PARAMETER, detail).help("send other statements as the body of a POST"));
    }
    answer(shared, form, statements).await
}

async fn answer(shared: &Shared, form: Form, statements: Statements) -> Answer {
    match form {
        Form::Events => push::events(shared, statements).await,
        Form::Lines => push::lines(shared, statements).await,
        Form::Any if statements.are_endless => push::events(shared, statements).await,
        Form::Json if statements.are_endless => {
            let detail = "changes never end, so they cannot be one JSON document";
            let help = "send accept: text/event-stream, or application/x-ndjson";
            Err(Problem::new(codes::NOT_ACCEPTABLE, detail).help(help))
        }
        Form::Json | Form::Any => collect(statements).await,
    }
}

/// What a client has that comes back. An empty one is none (the HTML standard, section 9.2).
fn last_event_id(headers: &HeaderMap, form: Form) -> Result<Option<&str>, Problem> {
    let Some(id) = headers.get("last-event-id").filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let id = id.to_str().map_err(|_| {
        let detail = "last-event-id is no id of an event of changes";
        Problem::new(codes::BAD_PARAMETER, detail)
    })?;
    match form {
        Form::Events | Form::Any => Ok(Some(id)),
        Form::Json | Form::Lines => {
            let detail = "what has ids is events, so it goes on as text/event-stream";
            Err(Problem::new(codes::NOT_ACCEPTABLE, detail))
        }
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The statements of one request, each carried out when the results before it are taken, on a task of its own: a client
/// that goes away in the middle of a CREATE must not leave half of it behind. The statements after it are not begun.
pub(crate) struct Statements {
    engine: Engine,
    state: State,
    /// Whether the rows of the last one do not end.
    pub(crate) are_endless: bool,
    /// They change nothing, and the rows of the last one do not end.
    only_listen: bool,
    /// A hash of the text.
    pub(crate) asked: u64,
}

enum State {
    /// Parsed, and waiting to be carried out.
    Waiting(Script),
    /// One of them is being carried out.
    Running(JoinHandle<Stepped>),
    /// There is nothing more to do.
    Over,
}

/// What became of a statement, and the statements after it.
type Stepped = (Script, Option<Result<Outcome, SqlError>>);

impl Statements {
    /// Parses all of them.
    pub(crate) fn new(shared: &Shared, text: String) -> Result<Statements, SqlError> {
        let asked = hash(&text);
        let script = Script::new(text)?;
        Ok(Statements {
            asked,
            only_listen: script.only_listens(),
            engine: shared.engine.clone(),
            are_endless: script.is_endless(),
            state: State::Waiting(script),
        })
    }

    /// The outcome of the next one; None when all are carried out. An error is the last. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Outcome, SqlError>> {
        if let State::Waiting(_) = &self.state
            && let State::Waiting(mut script) = std::mem::replace(&mut self.state, State::Over)
        {
            let engine = self.engine.clone();
            self.state = State::Running(tokio::spawn(async move {
                let outcome = engine.step(&mut script).await;
                (script, outcome)
            }));
        }
        let State::Running(task) = &mut self.state else {
            return None;
        };
        let stepped = task.await;
        self.state = State::Over;
        match stepped {
            Ok((script, Some(Ok(outcome)))) => {
                self.state = State::Waiting(script);
                Some(Ok(outcome))
            }
            Ok((_, last)) => last,
            Err(error) => Some(Err(SqlError::internal(format!(
                "a statement was not finished: {error}"
            )))),
        }
    }
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
struct JsonBody {
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
            let parsed: JsonBody = serde_json::from_slice(bytes).map_err(|error| {
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
async fn collect(mut statements: Statements) -> Answer {
    let mut results = Vec::new();
    let mut bytes = 0;
    while let Some(outcome) = statements.next().await {
        match outcome? {
            Outcome::Done { message, warnings } => {
                results.push(with_warnings(json!({ "message": message }), &warnings).to_string());
            }
            Outcome::Rows(mut stream) | Outcome::Changes(mut stream) => {
                let mut rows = Vec::new();
                while let Some(row) = stream.next().await {
                    let row = row?;
                    bytes += row.len() + 1;
                    if bytes > SQL_ANSWER_BYTES_MAX {
                        let number = results.len() + 1;
                        let detail = format!(
                            "the rows have more than {SQL_ANSWER_BYTES_MAX} bytes, counted up to statement {number}"
                        );
                        let help = "send accept: application/x-ndjson and read them as they come, or use LIMIT";
                        return Err(Problem::new(codes::NOT_ACCEPTABLE, detail).help(help));
                    }
                    rows.push(row);
                }
                let warnings = match stream.warnings() {
                    [] => String::new(),
                    some => format!(",\"warnings\":{}", json!(some)),
                };
                let as_of = match stream.as_of() {
                    [] => String::new(),
                    some => format!(",\"as_of\":{}", json!(some)),
                };
                results.push(format!("{{\"rows\":[{}]{as_of}{warnings}}}", rows.join(",")));
            }
        }
    }
    let text = format!("{{\"results\":[{}]}}", results.join(","));
    Ok(body::typed(StatusCode::OK, "application/json", text))
}

/// Adds the member `warnings` where there are some.
pub(crate) fn with_warnings(mut object: Value, warnings: &[String]) -> Value {
    if !warnings.is_empty() {
        object["warnings"] = json!(warnings);
    }
    object
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
