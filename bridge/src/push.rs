//! Results while they come: server-sent events (the HTML standard, section 9.2) and NDJSON.
//!
//! Rows are pulled from the query only as fast as the client takes them. When the client goes, the body is dropped, and
//! with it the query.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{FutureExt, stream};
use headwater_sql::{Outcome, RowStream, SqlError};
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{self, HeaderValue};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::limits::{HEARTBEAT, PIECE_BYTES};
use crate::problem::{Problem, codes};
use crate::routes::Answer;
use crate::sql::{Statements, with_warnings};

/// Everything as server-sent events: `done` for a statement without rows, `rows` or `changes` before the rows of one,
/// the rows without an event name, `error` and `end`.
pub(crate) async fn events(statements: Statements, stopping: CancellationToken) -> Answer {
    respond("text/event-stream", Pieces::new(statements, stopping, Framing::Events)).await
}

/// The rows of all statements, one a line. An error is the last line, as a problem object.
pub(crate) async fn lines(statements: Statements, stopping: CancellationToken) -> Answer {
    respond(
        "application/x-ndjson",
        Pieces::new(statements, stopping, Framing::Lines),
    )
    .await
}

async fn respond(content_type: &'static str, mut pieces: Pieces) -> Answer {
    pieces.prime().await?;
    let frames = stream::unfold(pieces, async |mut pieces| {
        let piece = pieces.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(piece))), pieces))
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

/// The answer, piece by piece.
struct Pieces {
    statements: Statements,
    /// What was written before the status was sent.
    first: String,
    /// Those of the statement whose turn it is.
    rows: Option<RowStream>,
    stopping: CancellationToken,
    framing: Framing,
    ended: bool,
}

impl Pieces {
    fn new(statements: Statements, stopping: CancellationToken, framing: Framing) -> Pieces {
        Pieces {
            statements,
            first: String::new(),
            rows: None,
            stopping,
            framing,
            ended: false,
        }
    }

    /// Runs up to the first bytes of the answer: what fails before them can still be a proper refusal.
    async fn prime(&mut self) -> Result<(), Problem> {
        let mut out = String::new();
        while out.is_empty() && !self.ended {
            let mut outcome = self.statements.next().await.transpose()?;
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
    async fn next(&mut self) -> Option<String> {
        let mut out = std::mem::take(&mut self.first);
        while !self.ended && out.is_empty() {
            let news = tokio::select! {
                news = Pieces::news(&mut self.rows, &mut self.statements) => news,
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
            }
        }
        (!out.is_empty()).then_some(out)
    }

    /// The next row, or where no rows are left the next statement. Cancel-safe.
    async fn news(rows: &mut Option<RowStream>, statements: &mut Statements) -> News {
        match rows {
            Some(rows) => News::Row(rows.next().await),
            None => News::Outcome(statements.next().await.transpose()),
        }
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
                self.rows = Some(rows);
            }
            Some(Outcome::Changes(rows)) => {
                self.framing.event(out, "changes", &about(&rows));
                self.rows = Some(rows);
            }
            None => {
                self.framing.event(out, "end", &json!({}));
                self.ended = true;
            }
        }
    }

    fn take(&mut self, row: Option<Row>, out: &mut String) {
        match row {
            Some(Ok(row)) => self.framing.row(out, &row),
            Some(Err(error)) => self.fail(error, out),
            None => self.rows = None,
        }
    }

    fn fail(&mut self, error: SqlError, out: &mut String) {
        self.framing.error(out, &error.into());
        self.ended = true;
    }

    /// Rows that wait already go into the same piece.
    fn take_ready(&mut self, out: &mut String) {
        while !self.ended && out.len() < PIECE_BYTES {
            let Some(row) = self.rows.as_mut().and_then(|rows| rows.next().now_or_never()) else {
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
