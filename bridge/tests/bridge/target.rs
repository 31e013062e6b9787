//! A webhook's far side that answers as it is told.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::node::PATIENCE;

/// One request that came.
#[derive(Debug)]
pub struct Delivery {
    pub at: Instant,
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Delivery {
    pub fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().expect("ASCII")
    }
}

/// A listener: 200 unless other answers are prepared. Ends when it is dropped.
pub struct Target {
    pub address: SocketAddr,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    answers: Arc<Mutex<VecDeque<Response<Full<Bytes>>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Target {
    pub async fn start() -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, deliveries) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(VecDeque::new()));
        let task = tokio::spawn(serve(listener, sender, answers.clone()));
        Target {
            address,
            deliveries,
            answers,
            task,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook?token=secret", self.address)
    }

    /// The answers to the next requests; after them it is 200 again.
    pub fn answer(&self, status: u16, headers: &[(&str, &str)], times: usize) {
        for _ in 0..times {
            let mut answer = Response::builder().status(status);
            for (name, value) in headers {
                answer = answer.header(*name, *value);
            }
            let answer = answer
                .body(Full::new(Bytes::from_static(b"no\nthanks")))
                .expect("an answer");
            self.answers.lock().expect("no panic").push_back(answer);
        }
    }

    pub async fn next(&mut self) -> Delivery {
        timeout(PATIENCE, self.deliveries.recv())
            .await
            .expect("a delivery comes")
            .expect("the listener runs")
    }

    /// What has come already.
    pub fn come(&mut self) -> Vec<Delivery> {
        std::iter::from_fn(|| self.deliveries.try_recv().ok()).collect()
    }
}

async fn serve(
    listener: TcpListener,
    sender: mpsc::UnboundedSender<Delivery>,
    answers: Arc<Mutex<VecDeque<Response<Full<Bytes>>>>>,
) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (sender, answers) = (sender.clone(), answers.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (sender, answers) = (sender.clone(), answers.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("a whole body").to_bytes();
                let delivery = Delivery {
                    at: Instant::now(),
                    method: head.method.to_string(),
                    path: head.uri.to_string(),
                    headers: head.headers,
                    body: String::from_utf8_lossy(&body).into_owned(),
                };
                // A test that has ended takes no more.
                let _ = sender.send(delivery);
                let prepared = answers.lock().expect("no panic").pop_front();
                Ok::<_, Infallible>(prepared.unwrap_or_default())
            }
        });
        connections.spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
