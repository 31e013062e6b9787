//! Bodies both ways: bounded reading of requests, and the few sorts of answers.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::{ADMISSION_TIMEOUT, BODIES_BYTES_MAX, BODY_TIMEOUT, LINGER_TIMEOUT};
use crate::problem::{Problem, codes};

/// The body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A body that is there already.
pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    typed(status, "application/json", value.to_string())
}

/// An answer of another type.
pub(crate) fn typed(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The room for request bodies, shared by all connections: thousands of clients that each send their largest body at
/// once must not take more memory than this.
#[derive(Debug, Clone)]
pub(crate) struct BodyRoom {
    room: Arc<Semaphore>,
    body_max: usize,
}

/// A request body, and the room it takes until it is dropped.
#[derive(Debug)]
pub(crate) struct RequestBody {
    pub(crate) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl BodyRoom {
    /// Room for bodies of at most `body_max` bytes each.
    pub(crate) fn new(body_max: usize) -> BodyRoom {
        BodyRoom {
            room: Arc::new(Semaphore::new(BODIES_BYTES_MAX)),
            body_max,
        }
    }

    /// Reads a whole body.
    pub(crate) async fn read(&self, body: Incoming) -> Result<RequestBody, Problem> {
        timeout(BODY_TIMEOUT, self.read_untimed(body))
            .await
            .unwrap_or_else(|_| {
                let limit = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
                Err(Problem::new(codes::BODY_TIMEOUT, limit))
            })
    }

    async fn read_untimed(&self, mut body: Incoming) -> Result<RequestBody, Problem> {
        let announced = body.size_hint().lower();
        if announced > self.body_max as u64 {
            return Err(self.refuse(body).await);
        }
        let mut room: Option<OwnedSemaphorePermit> = None;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| Problem::new(codes::BODY_INCOMPLETE, format!("the body broke off: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > self.body_max {
                return Err(self.refuse(body).await);
            }
            let taken = self.take(data.len()).await?;
            match &mut room {
                Some(room) => room.merge(taken),
                None => room = Some(taken),
            }
            bytes.extend_from_slice(&data);
        }
        Ok(RequestBody {
            bytes: bytes.freeze(),
            _room: room,
        })
    }

    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        match timeout(ADMISSION_TIMEOUT, self.room.clone().acquire_many_owned(permits)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Problem::new(codes::OVERLOADED, "too many request bodies are waiting")),
        }
    }

    /// Reads on for a moment: a client that is still sending would see a reset connection and never the answer.
    async fn refuse(&self, mut body: Incoming) -> Problem {
        let drain = async { while let Some(Ok(_)) = body.frame().await {} };
        timeout(LINGER_TIMEOUT, drain).await.ok();
        Problem::new(
            codes::BODY_TOO_LARGE,
            format!("a body may have {} bytes", self.body_max),
        )
        .help("send several smaller requests, or raise bridge.body_max")
    }
}
