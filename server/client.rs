//! A client of `POST /v1/sql`: what `headwater sql` and `headwater demo` talk to a server with.
//!
//! Everything comes as server-sent events, so that rows are seen as they come and a mistake in the middle of an answer
//! is told from a row.

use std::collections::VecDeque;
use std::fmt;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// The longest single event that is read: far above any row.
const EVENT_BYTES_MAX: usize = 64 << 20;
/// The port of an URL without one: Headwater's own, because nobody serves this on port 80.
const DEFAULT_PORT: u16 = 6580;

/// Where a server is. A connection is made for each request.
#[derive(Debug, Clone)]
pub struct Client {
    url: String,
}

/// A statement that the server refused. Shown as the server draws it: with the line and a caret where it has them.
#[derive(Debug)]
pub struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Refused {
    /// From a problem object (RFC 9457): `text` is the drawing.
    fn from_problem(problem: &Value) -> Refused {
        let member = |name: &str| problem[name].as_str().unwrap_or_default();
        let mut text = member("text").to_owned();
        if text.is_empty() {
            text = format!("error[{}]: {}", member("code"), member("detail"));
            if !member("help").is_empty() {
                text = format!("{text}\n  = help: {}", member("help"));
            }
        }
        Refused(text)
    }
}

/// What comes back, piece by piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The statement whose result follows looks like a slip.
    Warning(String),
    /// A statement without rows is carried out.
    Done(String),
    /// Rows follow.
    Rows,
    /// Rows follow, and do not end.
    Changes,
    /// One row, as the server wrote it.
    Row(String),
}

impl Client {
    /// `url` is looked at when it is used.
    pub fn new(url: String) -> Client {
        Client { url }
    }

    /// Where it talks to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs statements and gives all their rows.
    pub async fn rows(&self, statements: &str) -> Result<Vec<Value>> {
        let mut results = self.run(statements).await?;
        let mut rows = Vec::new();
        while let Some(item) = results.next().await? {
            if let Item::Row(row) = item {
                rows.push(
                    serde_json::from_str(&row)
                        .with_context(|| format!("the server sent a row that is not JSON: {row}"))?,
                );
            }
        }
        Ok(rows)
    }

    /// Runs statements; their results come as they are ready. Dropping them ends what is still running.
    pub async fn run(&self, statements: &str) -> Result<Results> {
        let response = self.post("/v1/sql", statements).await?;
        if response.status() == StatusCode::OK {
            return Ok(Results {
                body: response.into_body(),
                buffer: BytesMut::new(),
                items: VecDeque::new(),
                ended: false,
            });
        }
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .context("the answer broke off")?
            .to_bytes();
        match serde_json::from_slice::<Value>(&body) {
            Ok(problem) if problem["code"].is_string() => Err(Refused::from_problem(&problem).into()),
            _ => bail!("{} answered {status}: is that a headwater server?", self.url),
        }
    }

    async fn post(&self, path: &str, statements: &str) -> Result<Response<Incoming>> {
        let base: Uri = self
            .url
            .parse()
            .with_context(|| format!("`{}` is not a URL, write http://127.0.0.1:6580", self.url))?;
        if base.scheme_str() != Some("http") {
            bail!("`{}` does not begin with http://", self.url);
        }
        let host = base.host().with_context(|| format!("`{}` names no host", self.url))?;
        let port = base.port_u16().unwrap_or(DEFAULT_PORT);
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port))
            .await
            .with_context(|| {
                format!(
                    "no server answers at {}; start one with `headwater serve`, or name another with --url",
                    self.url
                )
            })?;
        stream.set_nodelay(true).ok();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the body of the answer.
        tokio::spawn(connection);
        let request = Request::post(format!("{}{path}", base.path().trim_end_matches('/')))
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::CONTENT_TYPE, "application/sql")
            .header(header::ACCEPT, "text/event-stream")
            .body(Full::new(Bytes::copy_from_slice(statements.as_bytes())))?;
        sender
            .send_request(request)
            .await
            .with_context(|| format!("{} did not answer", self.url))
    }
}

/// The results of one request.
#[derive(Debug)]
pub struct Results {
    body: Incoming,
    buffer: BytesMut,
    items: VecDeque<Item>,
    ended: bool,
}

impl Results {
    /// The next piece; None at the end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Item>> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Some(item));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(frame) = self.body.frame().await else {
                bail!("the answer broke off: the server stopped, or the connection was lost");
            };
            if let Ok(data) = frame.context("the answer broke off")?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
            self.take_events()?;
        }
    }

    fn take_events(&mut self) -> Result<()> {
        while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
            let event = self.buffer.split_to(end);
            self.buffer.advance(2);
            let text = std::str::from_utf8(&event).context("the server sent an event that is not UTF-8")?;
            self.take_event(text)?;
        }
        if self.buffer.len() > EVENT_BYTES_MAX {
            bail!("the server sent an event of more than {EVENT_BYTES_MAX} bytes");
        }
        Ok(())
    }

    fn take_event(&mut self, text: &str) -> Result<()> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        // A comment, which keeps the connection open, has no data.
        let Some(data) = field("data: ") else { return Ok(()) };
        let object = || serde_json::from_str::<Value>(data).unwrap_or_default();
        let Some(event) = field("event: ") else {
            self.items.push_back(Item::Row(data.to_owned()));
            return Ok(());
        };
        if let Some(warnings) = object()["warnings"].as_array() {
            let texts = warnings.iter().filter_map(Value::as_str);
            self.items.extend(texts.map(|text| Item::Warning(text.to_owned())));
        }
        match event {
            "done" => self
                .items
                .push_back(Item::Done(object()["message"].as_str().unwrap_or_default().to_owned())),
            "rows" => self.items.push_back(Item::Rows),
            "changes" => self.items.push_back(Item::Changes),
            "error" => return Err(Refused::from_problem(&object()).into()),
            "end" => self.ended = true,
            // A later server may say more.
            _ => {}
        }
        Ok(())
    }
}
