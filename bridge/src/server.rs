//! The listener and its connections: hyper over tokio, HTTP/1.1 with keep-alive and pipelining, HTTP/2 by prior
//! knowledge.
//!
//! One task per connection. hyper hands over the requests of an HTTP/1.1 connection one at a time, so pipelined
//! requests are answered in order by construction, each after its own commit. hyper's `pipeline_flush`, which joins
//! answers while more input waits, stays off: behind input that is no HTTP, the answer that says so would never leave.
//! A client that wants one commit for many records sends them in one request.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::error::BridgeError;
use crate::limits::{ACCEPT_PAUSE, HEAD_BYTES_MAX, HTTP2_STREAMS_MAX, KEEP_ALIVE_IDLE};
use crate::linger::Lingering;
use crate::metrics;
use crate::routes::{self, Shared};

/// Opens the listener.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, BridgeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BridgeError::Bind { address, source })
}

/// Accepts until the bridge stops. `tasks` counts the connections that are left then, `killed` ends them.
pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker, killed: CancellationToken) {
    let places = Arc::new(Semaphore::new(shared.config.connections_max));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stopping.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let conversation = connection(stream, peer, shared.clone());
                let counted = async move {
                    let _open = metrics::connection();
                    conversation.await;
                    drop(place);
                };
                tasks.spawn(killed.clone().run_until_cancelled_owned(counted));
            }
            Err(_) => refuse(stream, peer),
        }
    }
}

/// One connection more than `bridge.connections_max`: an answer that fits the socket's empty buffer, then the end. It
/// never waits.
fn refuse(stream: TcpStream, peer: SocketAddr) {
    let answer =
        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    if let Ok(mut stream) = stream.into_std() {
        stream.write_all(answer).ok();
    }
    metrics::connection_refused();
    tracing::debug!(%peer, "bridge.connections_max is reached");
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    stream.set_nodelay(true).ok();
    let stream = Lingering::new(stream, shared.stopping.clone());
    let activity = Activity::new(shared.config.header_timeout.duration());
    let service = service_fn(|request| {
        let (shared, busy) = (shared.clone(), activity.begin());
        async move {
            let response = routes::handle(shared, request).await;
            Ok::<_, Infallible>(response.map(|body| BusyBody { body, _busy: busy }.boxed_unsync()))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(HEAD_BYTES_MAX)
        .header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX);
    let mut conversation = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut stopping = false;
    loop {
        tokio::select! {
            // A port scan, a load balancer's probe and EMQX's "test connection" all end here: not worth a log line.
            ended = conversation.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "an HTTP connection broke");
                }
                return;
            }
            () = activity.idle_too_long() => {
                tracing::debug!(%peer, "an HTTP connection was silent for too long");
                return;
            }
            () = shared.stopping.cancelled(), if !stopping => {
                conversation.as_mut().graceful_shutdown();
                stopping = true;
            }
        }
    }
}

/// What a connection is doing, so that a silent one can be told from one that waits for a slow answer. hyper's own
/// head timeout would also end kept-alive connections that merely wait for their next request.
#[derive(Debug, Clone)]
struct Activity {
    state: Arc<Mutex<ActivityState>>,
}

#[derive(Debug)]
struct ActivityState {
    open_requests: usize,
    idle_since: Instant,
    /// The first request head must come quickly, later ones may take their time.
    patience: Duration,
}

impl Activity {
    fn new(first_head: Duration) -> Activity {
        let state = ActivityState {
            open_requests: 0,
            idle_since: Instant::now(),
            patience: first_head,
        };
        Activity {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut ActivityState) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&self) -> Busy {
        self.with(|state| {
            state.open_requests += 1;
            state.patience = KEEP_ALIVE_IDLE;
        });
        Busy(self.clone())
    }

    async fn idle_too_long(&self) {
        loop {
            let deadline = self.with(|state| match state.open_requests {
                0 => state.idle_since + state.patience,
                _ => Instant::now() + state.patience,
            });
            sleep_until(deadline).await;
            if self.with(|state| state.open_requests == 0 && state.idle_since + state.patience <= Instant::now()) {
                return;
            }
        }
    }
}

/// A request between its head and the last byte of its answer.
#[derive(Debug)]
struct Busy(Activity);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.with(|state| {
            state.open_requests -= 1;
            state.idle_since = Instant::now();
        });
    }
}

/// An answer that keeps its connection busy until it is written or given up.
struct BusyBody {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for BusyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
