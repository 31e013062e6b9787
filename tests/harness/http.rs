//! HTTP through curl: a client that nobody here wrote.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use serde_json::Value;

use super::{Server, wait_for};

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body as lines of JSON.
    pub fn rows(&self) -> Vec<Value> {
        let row = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: not a row of JSON: {line}"));
        self.body
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(row)
            .collect()
    }

    /// The body as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: not JSON: {}", self.body))
    }
}

/// GET; an error when nothing answers.
pub fn get(url: &str) -> Result<Answer, String> {
    curl(&[url], b"")
}

/// Runs statements with `POST /v1/sql`, rows as lines.
pub fn sql(server: &Server, statements: &str) -> Answer {
    let headers = ["Content-Type: application/sql", "Accept: application/x-ndjson"];
    post(&server.url("/v1/sql"), &headers, statements.as_bytes())
}

/// POST of JSON.
pub fn post_json(url: &str, body: &str) -> Answer {
    post(url, &["Content-Type: application/json"], body.as_bytes())
}

/// POST with headers; something must answer.
pub fn post(url: &str, headers: &[&str], body: &[u8]) -> Answer {
    // Without `Expect:` curl asks for leave first when a body is large, and what is tested is the body.
    let mut args = vec!["--data-binary", "@-", "-H", "Expect:"];
    for header in headers {
        args.extend(["-H", header]);
    }
    args.push(url);
    curl(&args, body).unwrap_or_else(|error| panic!("POST {url}: {error}"))
}

fn curl(args: &[&str], body: &[u8]) -> Result<Answer, String> {
    let mut child = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--write-out",
            "\n%{http_code}",
        ])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl can be started");
    // A server that answers before it has read everything closes the pipe: that is its right.
    let _ = child.stdin.take().expect("stdin is piped").write_all(body);
    let output = child.wait_with_output().expect("curl ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
    match status.trim().parse() {
        Ok(status) if status > 0 => Ok(Answer {
            status,
            body: body.to_owned(),
        }),
        _ => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// One request that a [`Hook`] took.
#[derive(Debug)]
pub struct Delivery {
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Delivery {
    /// A header's value, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A small HTTP listener for webhooks: answers every request with 200 and hands it on, while it is up.
pub struct Hook {
    pub address: SocketAddr,
    pub deliveries: Receiver<Delivery>,
    up: Arc<AtomicBool>,
    unanswered: Arc<AtomicU64>,
}

impl Hook {
    /// Listens until the test ends.
    pub fn listen() -> Hook {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, deliveries) = mpsc::channel();
        let hook = Hook {
            address,
            deliveries,
            up: Arc::new(AtomicBool::new(true)),
            unanswered: Arc::default(),
        };
        let (up, unanswered) = (hook.up.clone(), hook.unanswered.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (sender, up, unanswered) = (sender.clone(), up.clone(), unanswered.clone());
                std::thread::spawn(move || serve(&stream, &sender, &up, &unanswered));
            }
        });
        hook
    }

    /// From now on it takes requests and hangs up without an answer.
    pub fn go_down(&self) {
        self.up.store(false, Ordering::SeqCst);
    }

    /// Returns when it has hung up on a request at least once.
    pub fn wait_for_unanswered(&self) {
        wait_for("a request to a webhook that is down", || {
            match self.unanswered.swap(0, Ordering::SeqCst) {
                0 => Err("none came".into()),
                _ => Ok(()),
            }
        });
    }

    /// From now on it answers again.
    pub fn come_up(&self) {
        self.up.store(true, Ordering::SeqCst);
    }
}

fn serve(stream: &TcpStream, sender: &Sender<Delivery>, up: &AtomicBool, unanswered: &AtomicU64) {
    while let Some(delivery) = take(stream) {
        if !up.load(Ordering::SeqCst) {
            unanswered.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if sender.send(delivery).is_err() || answer(stream).is_none() {
            return;
        }
    }
}

fn answer(mut stream: &TcpStream) -> Option<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()
}

/// Reads one request with a Content-Length; nothing at the end of the connection.
fn take(stream: &TcpStream) -> Option<Delivery> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .and_then(|(_, value)| value.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Delivery { headers, body })
}
