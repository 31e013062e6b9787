//! A connection's end: goodbye to the client, outcomes for what it published, its will.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use super::Connection;
use super::shares::Joins;
use crate::error::End;
use crate::limits::{DRAIN_WAIT_MS, FLUSH_WAIT_MS, LINGER_BYTES_MAX, READ_BYTES_MIN};
use crate::packet::Reason;
use crate::sessions::{Ending, SessionError};
use crate::transport::Stream;

impl Connection {
    /// Leaves nothing behind: no subscription in memory, no message that was read and not submitted, no will unsaid, no
    /// session unsaved.
    pub(super) async fn finish(&mut self, end: &End) {
        self.joins = Joins::default();
        for subscribed in self.session.subscriptions() {
            let (subscription, connection) = (&subscribed.subscription, self.client.connection);
            match subscription.share {
                _ if subscription.is_queue() => self.shared.queues.leave(subscription, connection).await,
                Some(_) => self.shared.shares.leave(&self.shared, subscription, connection).await,
                None => self.shared.subscriptions.unsubscribe(&subscription.filter, connection),
            }
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
        self.session.goodbye(end, &mut self.output.ready);
        let last = self.stream.finish(&self.output.ready);
        let _ = timeout(Duration::from_millis(FLUSH_WAIT_MS), last).await;
        let _ = timeout(drain_wait, self.acknowledge_rest()).await;
        if self.pipeline.promised() > 0 {
            let (client_id, messages) = (&self.client.client_id, self.pipeline.promised());
            tracing::warn!(%client_id, messages, "acknowledged from memory, and not known to be committed: the log is slow");
        }
        let _ = timeout(drain_wait, self.leave_session(end)).await;
        // Last: a client that comes back meanwhile waits for this one's will, so its own messages come after it.
        self.shared.clients.unregister(&self.client);
    }

    /// Saves the session for the client's return, or ends it; publishes the will if this end does.
    async fn leave_session(&mut self, end: &End) {
        let Some(held) = self.held.take() else { return };
        let mut puts = self.progress.settle().await;
        puts.extend(self.streams.moved_rows(&self.client.client_id));
        let ending = Ending {
            expiry_s: self.session.expiry_s(),
            progress: self.progress.row(&self.session),
            subscriptions: puts,
            with_will: end.publishes_will(),
        };
        match self.shared.sessions.close(Arc::unwrap_or_clone(held), ending).await {
            Ok(()) => {}
            Err(SessionError::Lost) => {
                tracing::debug!(client_id = %self.client.client_id, "the session has another connection");
            }
            Err(error) => {
                tracing::warn!(client_id = %self.client.client_id, %error, "a session's end cannot be saved");
            }
        }
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
pub(super) async fn linger(stream: &mut Stream) {
    let drained = async {
        let (mut nowhere, mut total) = (BytesMut::new(), 0);
        while total < LINGER_BYTES_MAX {
            match stream.read(&mut nowhere, READ_BYTES_MIN).await {
                Ok(0) | Err(_) => return,
                Ok(read) => total += read,
            }
            nowhere.clear();
        }
    };
    let _ = timeout(Duration::from_millis(FLUSH_WAIT_MS), drained).await;
}
