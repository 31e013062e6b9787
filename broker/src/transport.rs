//! Sockets of all kinds as one stream of bytes: TCP, Unix, TLS, and WebSocket over TCP or TLS.
//!
//! All speak the same MQTT, in all versions. Over WebSocket (section 6 of MQTT 5.0) packets come in binary frames, cut
//! anywhere.

mod door;
mod proxy;
mod websocket;

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

pub use door::{Door, Guest, Transport, doors};
use websocket::WebSocket;

/// One client's socket.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    WebSocket(Box<WebSocket<TcpStream>>),
    SecureWebSocket(Box<WebSocket<TlsStream<TcpStream>>>),
}

impl Stream {
    /// Appends what there is to `input`, which gets about `room` free bytes if it has fewer. 0: the client has closed.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        input: &mut BytesMut,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => {
                // An idle client holds no buffer: one is made when there is something to read.
                ready!(stream.poll_read_ready(context))?;
                poll_read_buf(stream, context, input, room)
            }
            Stream::Unix(stream) => poll_read_buf(stream, context, input, room),
            Stream::Tls(stream) => poll_read_buf(&mut **stream, context, input, room),
            Stream::WebSocket(stream) => stream.poll_read(context, input, room),
            Stream::SecureWebSocket(stream) => stream.poll_read(context, input, room),
        }
    }

    /// Takes some of `bytes`. They may wait in here until [`Stream::poll_flush`].
    pub fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::WebSocket(stream) => stream.poll_write(context, bytes),
            Stream::SecureWebSocket(stream) => stream.poll_write(context, bytes),
        }
    }

    /// Sends what was taken.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
            Stream::WebSocket(stream) => stream.poll_flush(context),
            Stream::SecureWebSocket(stream) => stream.poll_flush(context),
        }
    }

    /// As [`Stream::poll_read`].
    pub async fn read(&mut self, input: &mut BytesMut, room: usize) -> io::Result<usize> {
        std::future::poll_fn(|context| self.poll_read(context, input, room)).await
    }

    /// Sends all of `bytes`.
    pub async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = std::future::poll_fn(|context| self.poll_write(context, bytes)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes.advance(written);
        }
        std::future::poll_fn(|context| self.poll_flush(context)).await
    }

    /// Sends all of `bytes`, and the other side the end.
    pub async fn finish(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes).await?;
        match self {
            Stream::Tcp(stream) => stream.shutdown().await,
            Stream::Unix(stream) => stream.shutdown().await,
            Stream::Tls(stream) => stream.shutdown().await,
            Stream::WebSocket(stream) => stream.close().await,
            Stream::SecureWebSocket(stream) => stream.close().await,
        }
    }
}

fn poll_read_buf(
    stream: &mut (impl AsyncRead + Unpin),
    context: &mut Context<'_>,
    input: &mut BytesMut,
    room: usize,
) -> Poll<io::Result<usize>> {
    make_room(input, room);
    pin!(stream.read_buf(input)).poll(context)
}

fn make_room(input: &mut BytesMut, room: usize) {
    if input.capacity() - input.len() < room / 2 {
        input.reserve(room);
    }
}
