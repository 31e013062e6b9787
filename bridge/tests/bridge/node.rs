//! A whole node but for its command line, and a client for it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use headwater_bridge::{Bridge, BridgeError, MetricsHandle, check_connector};
use headwater_broker::Broker;
use headwater_config::{BridgeConfig, Config};
use headwater_sql::Engine;
use headwater_store::{Batch, Store, SystemClock, tables};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long anything may take before a test gives up on it: a bound for hangs, not a promise.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running node.
pub struct Node {
    store: Store,
    broker: Broker,
    engine: Engine,
    bridge: Bridge,
    folder: TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: not JSON: {}", self.text))
    }

    /// The code of a problem; its form is checked on the way.
    pub fn code(&self) -> String {
        assert_eq!(
            self.headers["content-type"], "application/problem+json",
            "{}",
            self.text
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{}", self.text);
        problem["code"].as_str().expect("a code").to_owned()
    }
}

fn metrics() -> MetricsHandle {
    static HANDLE: OnceLock<MetricsHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| PrometheusBuilder::new().install_recorder().expect("the first recorder"))
        .clone()
}

impl Node {
    /// A node on a new folder.
    pub async fn start(settings: &[&str]) -> Node {
        Node::open(tempfile::tempdir().expect("a folder"), settings).await
    }

    async fn open(folder: TempDir, settings: &[&str]) -> Node {
        let config = config(&folder, settings);
        let store = {
            let config = config.store.clone();
            let opened = tokio::task::spawn_blocking(move || Store::open(&config, Arc::new(SystemClock))).await;
            opened.expect("no panic").expect("the store opens")
        };
        let broker = Broker::start(store.clone(), &config.broker)
            .await
            .expect("the broker starts");
        let check = Arc::new(check_connector(&config.bridge.webhook));
        let engine = Engine::start(store.clone(), &config.sql, check).expect("the engine starts");
        let bridge = Bridge::start(
            store.clone(),
            engine.clone(),
            broker.publisher(),
            &config.bridge,
            metrics(),
        )
        .await;
        Node {
            store,
            broker,
            engine,
            bridge: bridge.expect("the bridge starts"),
            folder,
        }
    }

    /// Stops everything; the folder stays as long as what is returned.
    pub async fn stop(self) -> TempDir {
        self.bridge.stop().await;
        self.broker.stop().await;
        self.engine.stop().await;
        self.store.stop().await;
        self.folder
    }

    /// Stops, and starts again on the same folder.
    pub async fn restart(self, settings: &[&str]) -> Node {
        Node::open(self.stop().await, settings).await
    }

    pub fn address(&self) -> SocketAddr {
        self.bridge.local_addr()
    }

    /// The ids of the connectors that have cursors.
    pub fn connectors_with_cursors(&self) -> BTreeSet<u64> {
        let in_group = |group| {
            let cursors = self.store.table(group, tables::CONNECTOR_CURSOR);
            cursors.scan(&[], &[], 10_000).expect("cursors")
        };
        let rows = self.store.data_groups().flat_map(in_group);
        let id = |key: &[u8]| u64::from_be_bytes(key[..8].try_into().expect("an id"));
        rows.map(|(key, _)| id(&key)).collect()
    }

    /// What a crash between the drop of a connector and the deletion of its cursors leaves behind.
    pub async fn leave_cursors(&self, connector: u64) {
        for group in self.store.data_groups() {
            let key = [&connector.to_be_bytes()[..], &[0; 10]].concat();
            let batch = Batch::new(group).put(tables::CONNECTOR_CURSOR, key, vec![1; 9]);
            self.store.write(batch).await.expect("a commit");
        }
    }

    /// A second listener over the same layers.
    pub async fn start_another_bridge(&self, config: &BridgeConfig) -> Result<Bridge, BridgeError> {
        let (store, engine, publisher) = (self.store.clone(), self.engine.clone(), self.broker.publisher());
        Bridge::start(store, engine, publisher, config, metrics()).await
    }

    /// Sends a request; the answer's body is still to be read.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response<Incoming> {
        let stream = TcpStream::connect(self.address()).await.expect("a connection");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP");
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "node");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .expect("a request");
        let answered = timeout(PATIENCE, sender.send_request(request)).await;
        answered
            .unwrap_or_else(|_| panic!("{method} {path} was not answered"))
            .expect("an answer")
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let (head, body) = self.send(method, path, headers, body).await.into_parts();
        let body = timeout(PATIENCE, body.collect())
            .await
            .expect("a body that ends")
            .expect("a whole body");
        let text = String::from_utf8(body.to_bytes().into()).expect("text");
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            text,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, &[("content-type", "application/json")], body)
            .await
    }

    /// Runs statements that must succeed; the rows of the last one.
    pub async fn sql(&self, statements: &str) -> Vec<Value> {
        let answer = self
            .ask("POST", "/v1/sql", &[("content-type", "application/sql")], statements)
            .await;
        assert_eq!(answer.status, 200, "{statements}\n{}", answer.text);
        let results = answer.json()["results"].as_array().cloned().unwrap_or_default();
        results
            .last()
            .and_then(|result| result["rows"].as_array().cloned())
            .unwrap_or_default()
    }

    /// The records of a stream.
    pub async fn records(&self, stream: &str) -> Vec<Value> {
        let answer = self
            .get(&format!(
                "/v1/streams/{}/records?limit=1000",
                stream.replace('$', "%24")
            ))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["records"].as_array().cloned().expect("records")
    }

    /// Sends bytes as they are and gives everything that comes back until the server closes.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        read_all(&mut self.write(bytes).await).await
    }

    /// As `raw`, but nothing more will be sent, and the server can see that.
    pub async fn cut_off(&self, bytes: &[u8]) -> String {
        let mut stream = self.write(bytes).await;
        let _ = stream.shutdown().await;
        read_all(&mut stream).await
    }

    async fn write(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address()).await.expect("a connection");
        // A server that has seen enough may close early.
        let _ = stream.write_all(bytes).await;
        stream
    }
}

/// Everything until the far side closes.
pub async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is an end as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .expect("the far side closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Polls until something is so.
pub async fn wait_for<T>(what: &str, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(value) = ready().await {
                return value;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Small, on free ports, in `folder`.
pub fn config(folder: &TempDir, settings: &[&str]) -> Config {
    let path = format!("store.path={}", folder.path().join("data").display());
    let fixed = [
        path.as_str(),
        "store.groups=2",
        "broker.mqtt_listen=127.0.0.1:0",
        "bridge.http_listen=127.0.0.1:0",
    ];
    let settings: Vec<_> = fixed
        .iter()
        .chain(settings)
        .map(|setting| (*setting).to_owned())
        .collect();
    Config::load(None, [], &settings).expect("a configuration")
}
