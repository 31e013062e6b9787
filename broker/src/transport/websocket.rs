//! MQTT in the binary frames of a WebSocket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::{Sink, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::limits::{WEBSOCKET_FRAME_BYTES_MAX, WRITE_BYTES_HIGH};

/// Where MQTT is found.
const PATH: &str = "/mqtt";
/// What clients call it [MQTT-6.0.0-3]; the second is what 3.1 clients say.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// A WebSocket over `S`.
#[derive(Debug)]
pub struct WebSocket<S> {
    socket: WebSocketStream<S>,
    /// Of the last frame, not yet taken.
    rest: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Answers the client's handshake.
    pub async fn accept(stream: S, packet_max: usize) -> io::Result<WebSocket<S>> {
        // A frame may hold several packets; more than one of the largest and a bit is nobody's need.
        let size = Some(packet_max.saturating_add(WEBSOCKET_FRAME_BYTES_MAX));
        let config = WebSocketConfig::default().max_message_size(size).max_frame_size(size);
        let socket = tokio_tungstenite::accept_hdr_async_with_config(stream, answer, Some(config));
        Ok(WebSocket {
            socket: socket.await.map_err(to_io)?,
            rest: Bytes::new(),
        })
    }

    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        input: &mut BytesMut,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            if !self.rest.is_empty() {
                let taken = self.rest.split_to(self.rest.len().min(room));
                input.extend_from_slice(&taken);
                return Poll::Ready(Ok(taken.len()));
            }
            match ready!(self.socket.poll_next_unpin(context)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(0)),
                // [MQTT-6.0.0-1]
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
            }
        }
    }

    pub fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(context)).map_err(to_io)?;
        let taken = &bytes[..bytes.len().min(WRITE_BYTES_HIGH)];
        let message = Message::Binary(Bytes::copy_from_slice(taken));
        Pin::new(&mut self.socket).start_send(message).map_err(to_io)?;
        Poll::Ready(Ok(taken.len()))
    }

    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context).map_err(to_io)
    }

    pub async fn close(&mut self) -> io::Result<()> {
        self.socket.close(None).await.map_err(to_io)
    }
}

/// Lets in whoever asks for MQTT at its path.
#[allow(clippy::result_large_err)]
fn answer(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let refuse = |status: StatusCode, why: &str| {
        let mut refusal = ErrorResponse::new(Some(why.to_owned()));
        *refusal.status_mut() = status;
        Err(refusal)
    };
    if request.uri().path() != PATH {
        return refuse(StatusCode::NOT_FOUND, "MQTT is at /mqtt");
    }
    let asked = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let asked: Vec<&str> = asked
        .filter_map(|header| header.to_str().ok())
        .flat_map(|names| names.split(','))
        .collect();
    let Some(protocol) = PROTOCOLS
        .iter()
        .find(|name| asked.iter().any(|asked| asked.trim() == **name))
    else {
        return refuse(StatusCode::BAD_REQUEST, "the WebSocket subprotocol has to be mqtt");
    };
    response
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Ok(response)
}

fn to_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}
