//! What waits for one client: bounded by bytes, filled by dispatchers, emptied by the client's connection.
//!
//! The outbox is also the way to tell a connection to end: whoever does so and whoever delivers wake the same task.
//! The lock is held for a push or a take, never across an await.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use headwater_store::{Header, Qos, Record, TimestampMs, TopicName};

use crate::error::End;
use crate::limits::DELIVERY_OVERHEAD_BYTES;
use crate::packet::Reason;
use crate::publish::to_property;

/// A message on its way out, shared by all who receive it.
#[derive(Debug)]
pub struct Outgoing {
    /// Where it was published.
    pub topic: TopicName,
    /// What.
    pub payload: Bytes,
    /// The publisher's QoS.
    pub qos: Qos,
    /// The publisher's RETAIN.
    pub retain: bool,
    /// Append time: message expiry counts from it.
    pub timestamp: TimestampMs,
    headers: Vec<Header>,
    properties: OnceLock<Bytes>,
    size_bytes: usize,
}

impl Outgoing {
    /// None for a record without a topic.
    pub fn new(record: Record) -> Option<Outgoing> {
        // It may wait long: it should not hold the record batch, or the read buffer, that it was cut from.
        let record = record.detached();
        Some(Outgoing {
            size_bytes: record.size_bytes() + DELIVERY_OVERHEAD_BYTES,
            topic: record.topic?,
            payload: record.payload.unwrap_or_default(),
            qos: record.qos,
            retain: record.retain,
            timestamp: record.timestamp,
            headers: record.headers,
            properties: OnceLock::new(),
        })
    }

    /// Who published it.
    pub fn client_id(&self) -> Option<&ByteString> {
        self.headers.iter().find_map(|header| match header {
            Header::ClientId(id) => Some(id),
            _ => None,
        })
    }

    /// What is left of the Message Expiry Interval, in seconds: None without one, zero when it is over.
    pub fn expires_in_s(&self, now: TimestampMs) -> Option<u32> {
        let interval_s = self.headers.iter().find_map(|header| match header {
            Header::MessageExpiry(interval_s) => Some(*interval_s),
            _ => None,
        })?;
        let waited_s = now.0.saturating_sub(self.timestamp.0).max(0) / 1000;
        Some(interval_s.saturating_sub(u32::try_from(waited_s).unwrap_or(u32::MAX)))
    }

    /// The 5.0 properties that are the same for everyone, encoded once: all but the message expiry, which counts down.
    pub fn properties(&self) -> &[u8] {
        self.properties.get_or_init(|| {
            let mut out = BytesMut::new();
            let shared = self
                .headers
                .iter()
                .filter(|header| !matches!(header, Header::MessageExpiry(_)));
            shared
                .filter_map(to_property)
                .for_each(|property| property.put(&mut out));
            out.freeze()
        })
    }

    fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

/// One message for one client.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message.
    pub message: Arc<Outgoing>,
    /// The lower of the publisher's and the subscription's.
    pub qos: Qos,
    /// RETAIN as this client sees it.
    pub retain: bool,
    /// The identifiers of the subscriptions that it matches.
    pub subscription_ids: Option<Arc<[u32]>>,
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits.
    Queued,
    /// A QoS 0 message found the outbox full.
    Dropped,
    /// A QoS 1 message found the outbox full: a clean session has no other place to wait, so the client is cut off.
    Overflowed,
    /// The connection is ending anyway.
    Ended,
}

/// The queue of one client.
#[derive(Debug)]
pub struct Outbox {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Delivery>,
    bytes: usize,
    end: Option<End>,
    waker: Option<Waker>,
}

impl Outbox {
    /// An outbox for about `bytes_max` bytes; one message fits whatever its size.
    pub fn new(bytes_max: usize) -> Outbox {
        Outbox {
            bytes_max,
            state: Mutex::default(),
        }
    }

    /// Adds a delivery. A full outbox drops QoS 0 and ends the connection on QoS 1.
    pub fn push(&self, delivery: Delivery) -> Pushed {
        let mut state = self.lock();
        if state.end.is_some() {
            return Pushed::Ended;
        }
        let bytes = delivery.message.size_bytes();
        if !state.queue.is_empty() && state.bytes + bytes > self.bytes_max {
            if delivery.qos == Qos::AtMostOnce {
                return Pushed::Dropped;
            }
            let detail = "the client does not keep up with its QoS 1 messages";
            state.finish(End::server(Reason::QUOTA_EXCEEDED, detail));
            return Pushed::Overflowed;
        }
        state.bytes += bytes;
        state.queue.push_back(delivery);
        state.wake();
        Pushed::Queued
    }

    /// Tells the connection to end. The first reason stands.
    pub fn end(&self, end: End) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.finish(end);
        }
    }

    /// Moves up to `count_max` deliveries to `into`, or gives the reason to end. Pending when there is neither.
    pub fn poll_take(
        &self,
        context: &mut Context<'_>,
        into: &mut VecDeque<Delivery>,
        count_max: usize,
    ) -> Poll<Result<(), End>> {
        let mut state = self.lock();
        if let Some(end) = &state.end {
            return Poll::Ready(Err(end.clone()));
        }
        if state.queue.is_empty() || count_max == 0 {
            if !state
                .waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(context.waker()))
            {
                state.waker = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        let count = state.queue.len().min(count_max);
        for delivery in state.queue.drain(..count) {
            into.push_back(delivery);
        }
        let taken: usize = into
            .iter()
            .rev()
            .take(count)
            .map(|delivery| delivery.message.size_bytes())
            .sum();
        state.bytes -= taken;
        if state.queue.is_empty() && state.queue.capacity() > 1024 {
            state.queue = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    // A panic while the lock was held leaves nothing half done that matters: every field is valid on its own.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn finish(&mut self, end: End) {
        self.queue = VecDeque::new();
        self.bytes = 0;
        self.end = Some(end);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(qos: Qos, payload: usize) -> Delivery {
        let record = Record {
            topic: TopicName::new("a").ok(),
            ..Record::new(vec![0; payload])
        };
        let message = Outgoing::new(record).map(Arc::new).unwrap();
        Delivery {
            message,
            qos,
            retain: false,
            subscription_ids: None,
        }
    }

    fn take(outbox: &Outbox, count: usize) -> Poll<Result<usize, End>> {
        let mut into = VecDeque::new();
        let taken = outbox.poll_take(&mut Context::from_waker(Waker::noop()), &mut into, count);
        taken.map_ok(|()| into.len())
    }

    #[test]
    fn a_full_outbox_drops_qos_0_and_ends_on_qos_1() {
        let outbox = Outbox::new(1000);
        assert_eq!(
            outbox.push(delivery(Qos::AtMostOnce, 5000)),
            Pushed::Queued,
            "one message fits, whatever its size"
        );
        assert_eq!(outbox.push(delivery(Qos::AtMostOnce, 1)), Pushed::Dropped);
        assert_eq!(take(&outbox, 9), Poll::Ready(Ok(1)));
        assert_eq!(outbox.bytes(), 0);
        for _ in 0..2 {
            assert_eq!(outbox.push(delivery(Qos::AtLeastOnce, 300)), Pushed::Queued);
        }
        assert_eq!(outbox.push(delivery(Qos::AtLeastOnce, 300)), Pushed::Overflowed);
        assert_eq!(outbox.push(delivery(Qos::AtLeastOnce, 300)), Pushed::Ended);
        assert!(matches!(
            take(&outbox, 9),
            Poll::Ready(Err(End::Server {
                reason: Reason::QUOTA_EXCEEDED,
                ..
            }))
        ));
        assert_eq!(outbox.bytes(), 0, "what nobody will get is not kept");
    }

    #[test]
    fn deliveries_come_in_order_and_in_portions() {
        let outbox = Outbox::new(1 << 20);
        assert_eq!(take(&outbox, 9), Poll::Pending);
        for size in 0..5 {
            outbox.push(delivery(Qos::AtMostOnce, size));
        }
        let mut into = VecDeque::new();
        let mut context = Context::from_waker(Waker::noop());
        assert!(outbox.poll_take(&mut context, &mut into, 3).is_ready());
        assert!(outbox.poll_take(&mut context, &mut into, 3).is_ready());
        assert_eq!(
            into.iter().map(|d| d.message.payload.len()).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4]
        );
        assert_eq!(outbox.bytes(), 0);
        outbox.end(End::shutdown());
        outbox.end(End::taken_over());
        assert_eq!(
            take(&outbox, 9),
            Poll::Ready(Err(End::shutdown())),
            "the first reason stands"
        );
    }
}
