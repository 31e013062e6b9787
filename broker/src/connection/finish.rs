//! A connection's end: goodbye to the client, outcomes for what it published, its will.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Connection;
use crate::error::End;
use crate::limits::{DRAIN_WAIT_MS, FLUSH_WAIT_MS, LINGER_BYTES_MAX};
use crate::packet::Reason;
use crate::publish::Origin;
use crate::will;

impl Connection {
    /// Leaves nothing behind: no subscription, no message that was read and not submitted, no will unsaid.
    pub(super) async fn finish(&mut self, end: &End) {
        for filter in self.session.subscriptions() {
            self.shared.subscriptions.unsubscribe(filter, self.client.connection);
        }
        let drain_wait = Duration::from_millis(DRAIN_WAIT_MS);
        // Stopping answers what was received first; in all other cases the client is not kept waiting for the log.
        if matches!(
            end,
            End::Server {
                reason: Reason::SERVER_SHUTTING_DOWN,
                ..
            }
        ) {
            let _ = timeout(drain_wait, self.acknowledge_rest()).await;
        }
        self.session.goodbye(end, &mut self.output);
        let _ = timeout(Duration::from_millis(FLUSH_WAIT_MS), async {
            self.stream.write_all(&self.output).await?;
            self.stream.shutdown().await
        })
        .await;
        let _ = timeout(drain_wait, self.acknowledge_rest()).await;
        if let Some(message) = self.session.will(end) {
            let origin = Origin {
                client_id: self.client.client_id.clone(),
                username: self.client.username.clone(),
            };
            let _ = timeout(drain_wait, will::publish(&self.shared.publisher, &message, &origin)).await;
        }
        // Last: a client that comes back meanwhile waits for this one's will, so its own messages come after it.
        self.shared.clients.unregister(&self.client);
    }

    /// Reads on for a moment, so that what was sent last is not lost: closing a socket with unread bytes resets it, and
    /// a reset takes back what the other side has not read yet.
    pub(super) async fn linger(&mut self) {
        linger(&mut self.stream).await;
    }

    /// Runs the pipeline dry. Outcomes are turned into acknowledgements, sent or not.
    async fn acknowledge_rest(&mut self) {
        poll_fn(|context| {
            loop {
                match self.poll_pipeline(context) {
                    Ok(true) => {}
                    Ok(false) if self.pipeline.is_empty() => return Poll::Ready(()),
                    Ok(false) => return Poll::Pending,
                    Err(_) => return Poll::Ready(()),
                }
            }
        })
        .await;
    }
}

/// Throws away what a client still sends, until it closes, for a bounded time and number of bytes.
pub(super) async fn linger(stream: &mut TcpStream) {
    let mut rest = stream.take(LINGER_BYTES_MAX);
    let mut nowhere = tokio::io::sink();
    let drained = tokio::io::copy(&mut rest, &mut nowhere);
    let _ = timeout(Duration::from_millis(FLUSH_WAIT_MS), drained).await;
}
