//! A socket that closes so that the last answer arrives.
//!
//! A socket that is closed while bytes of the client wait unread sends a reset, and a reset makes the client's system
//! throw away an answer that it has already received. What is refused before it is read whole (a head that is too
//! large, a line that is no HTTP) is answered exactly then. So after the last byte out, what still comes in is thrown
//! away for a moment: until the client closes, [`LINGER_TIMEOUT`] is over, or [`LINGER_BYTES_MAX`] have come.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::limits::{LINGER_BYTES_MAX, LINGER_TIMEOUT};

/// A TCP connection whose shutdown lingers.
pub(crate) struct Lingering {
    stream: TcpStream,
    /// A server that stops waits for nobody.
    stopping: CancellationToken,
    /// From the shutdown on: when to give up.
    deadline: Option<Pin<Box<Sleep>>>,
    bytes_left: usize,
}

impl Lingering {
    /// Lingers unless `stopping`.
    pub(crate) fn new(stream: TcpStream, stopping: CancellationToken) -> Lingering {
        Lingering {
            stream,
            stopping,
            deadline: None,
            bytes_left: LINGER_BYTES_MAX,
        }
    }

    /// Ready when nothing more is worth waiting for.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(LINGER_TIMEOUT)));
        let mut scratch = [0; 4 << 10];
        while self.bytes_left > 0 && !self.stopping.is_cancelled() && deadline.as_mut().poll(cx).is_pending() {
            let mut thrown_away = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut thrown_away)) {
                Ok(()) if !thrown_away.filled().is_empty() => {
                    self.bytes_left = self.bytes_left.saturating_sub(thrown_away.filled().len());
                }
                // The client has closed, or is gone.
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deadline.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        self.poll_drained(cx).map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}
