//! Results while they come: server-sent events (the HTML standard, section 9.2) and NDJSON.
//!
//! Rows are pulled from the query only as fast as the client takes them. When the client goes, the body is dropped, and
//! with it the query; but the changes of a SELECT as events wait a while for their client ([`resume`]).

mod resume;
mod sent;

pub(crate) use resume::Resumable;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, stream};
use headwater_sql::{Outcome, RowStream, SqlError};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::resume::Connection;
use crate::body::{self, Body};
use crate::limits::{HEARTBEAT, PIECE_BYTES};
use crate::problem::{Problem, codes};
use crate::routes::{Answer, Shared};
use crate::sql::{Statements, with_warnings};

/// Everything as server-sent events: `done` for a statement without rows, `rows` or `changes` before the rows of one,
/// the rows without an event name, `error` and `end`.
pub(crate) async fn events(shared: &Shared, statements: Statements) -> Answer {
    let source = Source::Statements(statements, None);
    respond("text/event-stream", Pieces::new(shared, source, Framing::Events)).await
}

/// The rows of all statements, one a line. An error is the last line, as a problem object.
pub(crate) async fn lines(shared: &Shared, statements: Statements) -> Answer {
    let source = Source::Statements(statements, None);
    respond("application/x-ndjson", Pieces::new(shared, source, Framing::Lines)).await
}

/// The events behind `id`, whose connection broke. `statements` is a hash of what is asked for, if anything is. 204 tells an
/// EventSource that there are no more and will be none.
pub(crate) async fn go_on(shared: &Shared, id: &str, statements: Option<u64>) -> Answer {
    let Some(connection) = shared.resumable.resume(id, statements, Instant::now())? else {
        return Ok(no_content());
    };
    let pieces = Pieces::new(shared, Source::Changes(connection), Framing::Events);
    respond("text/event-stream", pieces).await
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(body::full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

async fn respond(content_type: &'static str, mut pieces: Pieces) -> Answer {
    pieces.prime().await?;
    let frames = stream::unfold(pieces, async |mut pieces| {
        let piece = pieces.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), pieces))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx holds events back unless it is told not to.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// One line of JSON.
type Row = Result<String, SqlError>;

/// What an answer waits for.
enum News {
    /// A row, or the end of a statement's rows.
    Row(Option<Row>),
    /// What became of the next statement; None: all are carried out.
    Outcome(Result<Option<Outcome>, SqlError>),
    /// Events as they are sent, or the end of them.
    Events(Option<Bytes>),
}

/// How rows and the rest are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Events,
    Lines,
}

impl Framing {
    fn row(self, out: &mut String, row: &str) {
        match self {
            // A row is one line: the engine writes JSON without line ends.
            Framing::Events => out.extend(["data: ", row, "\n\n"]),
            Framing::Lines => out.extend([row, "\n"]),
        }
    }

    fn event(self, out: &mut String, event: &str, data: &Value) {
        if self == Framing::Events {
            out.extend(["event: ", event, "\ndata: ", &data.to_string(), "\n\n"]);
        }
    }

    fn error(self, out: &mut String, problem: &Problem) {
        match self {
            Framing::Events => self.event(out, "error", &problem.to_json()),
            Framing::Lines => out.extend([problem.to_json().to_string().as_str(), "\n"]),
        }
    }
}

/// Where an answer comes from.
enum Source {
    /// What is carried out one after the other, and the rows of the one whose turn it is.
    Statements(Statements, Option<RowStream>),
    /// Changes with ids, which are the last there is.
    Changes(Connection),
}

impl Source {
    /// The next row, or where no rows are left the next statement. Cancel-safe.
    async fn news(&mut self) -> News {
        match self {
            Source::Statements(_, Some(rows)) => News::Row(rows.next().await),
            Source::Statements(statements, None) => News::Outcome(statements.next().await.transpose()),
            Source::Changes(connection) => News::Events(connection.next().await),
        }
    }

    fn rows(&mut self) -> Option<&mut Option<RowStream>> {
        match self {
            Source::Statements(_, rows) => Some(rows),
            Source::Changes(_) => None,
        }
    }
}

/// The answer, piece by piece.
struct Pieces {
    source: Source,
    /// What was written before the status was sent.
    first: String,
    resumable: Arc<Resumable>,
    stopping: CancellationToken,
    framing: Framing,
    ended: bool,
}

impl Pieces {
    fn new(shared: &Shared, source: Source, framing: Framing) -> Pieces {
        Pieces {
            source,
            first: String::new(),
            resumable: shared.resumable.clone(),
            stopping: shared.stopping.clone(),
            framing,
            ended: false,
        }
    }

    /// Runs up to the first bytes of the answer: what fails before them can still be a proper refusal.
    async fn prime(&mut self) -> Result<(), Problem> {
        let mut out = String::new();
        while out.is_empty() && !self.ended {
            let Source::Statements(statements, _) = &mut self.source else {
                break;
            };
            let mut outcome = statements.next().await.transpose()?;
            // The events of a SELECT begin with its first row, or without one where it ends or waits for changes.
            let first = match &mut outcome {
                Some(Outcome::Rows(rows)) => Some(rows.next().await.transpose()?),
                // Sent at once: it tells the client that the query listens from now on.
                Some(Outcome::Changes(_)) if self.framing == Framing::Lines => {
                    self.begin(outcome, &mut out);
                    break;
                }
                _ => None,
            };
            self.begin(outcome, &mut out);
            if let Some(row) = first {
                self.take(row.map(Ok), &mut out);
            }
        }
        self.first = out;
        Ok(())
    }

    /// The next bytes to send; None at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = std::mem::take(&mut self.first);
        while !self.ended && out.is_empty() {
            let news = tokio::select! {
                news = self.source.news() => news,
                () = tokio::time::sleep(HEARTBEAT) => {
                    self.heartbeat(&mut out);
                    continue;
                }
                () = self.stopping.cancelled() => {
                    self.stop(&mut out);
                    continue;
                }
            };
            match news {
                News::Row(row) => {
                    self.take(row, &mut out);
                    self.take_ready(&mut out);
                }
                News::Outcome(Ok(outcome)) => self.begin(outcome, &mut out),
                News::Outcome(Err(error)) => self.fail(error, &mut out),
                News::Events(piece) => return piece,
            }
        }
        (!out.is_empty()).then(|| out.into())
    }

    /// A statement's outcome, or the end.
    fn begin(&mut self, outcome: Option<Outcome>, out: &mut String) {
        let about = |rows: &RowStream| {
            let as_of = match rows.as_of() {
                [] => json!({}),
                some => json!({ "as_of": some }),
            };
            with_warnings(as_of, rows.warnings())
        };
        match outcome {
            Some(Outcome::Done { message, warnings }) => {
                let data = with_warnings(json!({ "message": message }), &warnings);
                self.framing.event(out, "done", &data);
            }
            Some(Outcome::Rows(rows)) => {
                self.framing.event(out, "rows", &about(&rows));
                self.follow(rows);
            }
            Some(Outcome::Changes(rows)) if self.framing == Framing::Lines => self.follow(rows),
            Some(Outcome::Changes(rows)) => {
                let about = about(&rows);
                if let Source::Statements(statements, _) = &self.source {
                    match self.resumable.begin(rows, &about, statements.asked) {
                        Ok(connection) => self.source = Source::Changes(connection),
                        Err(error) => self.fail(error, out),
                    }
                }
            }
            None => {
                self.framing.event(out, "end", &json!({}));
                self.ended = true;
            }
        }
    }

    fn follow(&mut self, next: RowStream) {
        if let Some(rows) = self.source.rows() {
            *rows = Some(next);
        }
    }

    fn take(&mut self, row: Option<Row>, out: &mut String) {
        match row {
            Some(Ok(row)) => self.framing.row(out, &row),
            Some(Err(error)) => self.fail(error, out),
            None => {
                if let Some(rows) = self.source.rows() {
                    *rows = None;
                }
            }
        }
    }

    fn fail(&mut self, error: SqlError, out: &mut String) {
        self.framing.error(out, &error.into());
        self.ended = true;
    }

    /// Rows that wait already go into the same piece.
    fn take_ready(&mut self, out: &mut String) {
        while !self.ended && out.len() < PIECE_BYTES {
            let rows = self.source.rows().and_then(Option::as_mut);
            let Some(row) = rows.and_then(|rows| rows.next().now_or_never()) else {
                return;
            };
            self.take(row, out);
        }
    }

    /// An empty line is nothing in NDJSON, as a comment is nothing among events.
    fn heartbeat(&self, out: &mut String) {
        out.push_str(match self.framing {
            Framing::Events => ": \n\n",
            Framing::Lines => "\n",
        });
    }

    fn stop(&mut self, out: &mut String) {
        self.framing
            .error(out, &Problem::new(codes::NOT_READY, "the server is stopping"));
        self.ended = true;
    }
}
