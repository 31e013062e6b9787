//! What waits for one client: bounded by bytes, filled by dispatchers, emptied by the client's connection.
//!
//! A message that does not fit closes its group: the rest of the group's messages is read from the log, where they all
//! are, and the group is opened again when the client has caught up (`catch_up`). A resumed session begins closed. The
//! cut is exact, because the dispatcher says which entry it is at before it looks for receivers, and both the push and
//! the opening happen under the outbox's lock.
//!
//! The outbox is also the way to tell a connection to end: whoever does so and whoever delivers wake the same task.
//! The lock is held for a push or a take, never across an await.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use headwater_store::{GroupId, Header, LogIndex, Qos, Record, TimestampMs, TopicName};

use crate::cursor::At;
use crate::error::End;
use crate::giver::Giver;
use crate::limits::{DELIVERIES_KEPT, DELIVERY_OVERHEAD_BYTES};
use crate::packet::PacketId;
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
    /// Where it is in the log; None for one that is delivered before it is committed, and for a retained one.
    pub at: Option<At>,
    headers: Vec<Header>,
    properties: OnceLock<Bytes>,
    size_bytes: usize,
}

impl Outgoing {
    /// None for a record without a topic.
    pub fn new(record: Record, at: Option<At>) -> Option<Outgoing> {
        // It may wait long: it should not hold the record batch, or the read buffer, that it was cut from.
        let record = record.detached();
        Some(Outgoing {
            size_bytes: record.size_bytes() + DELIVERY_OVERHEAD_BYTES,
            topic: record.topic?,
            payload: record.payload.unwrap_or_default(),
            qos: record.qos,
            retain: record.retain,
            timestamp: record.timestamp,
            at,
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

    /// What it costs to keep it waiting.
    pub fn size_bytes(&self) -> usize {
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
    /// It was sent by an earlier connection of the session under this packet id, and not acknowledged.
    pub resend: Option<PacketId>,
    /// RETAIN as this client sees it.
    pub retain: bool,
    /// The identifiers of the subscriptions that it matches.
    pub subscription_ids: Option<Arc<[u32]>>,
    /// The share or queue that assigned it to this client.
    pub giver: Option<Giver>,
}

impl Delivery {
    /// A message as it is, for `qos` at most.
    pub fn of(message: Arc<Outgoing>, qos: Qos) -> Delivery {
        Delivery {
            qos: message.qos.min(qos),
            resend: None,
            retain: message.retain,
            subscription_ids: None,
            giver: None,
            message,
        }
    }
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits.
    Queued,
    /// A QoS 0 message, or one that a share or queue assigned, found the outbox full.
    Dropped,
    /// A QoS 1 or 2 message found the outbox full: the client gets it, and what follows it in its group, from the log.
    FellBehind,
    /// The client reads this group from the log, this message too. QoS 0 is not read from there.
    Behind,
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
    /// By group: entries before it are not for this outbox.
    open_from: Box<[LogIndex]>,
    /// QoS 0 deliveries that found no room since someone asked.
    dropped: u64,
    /// Groups that closed because the outbox was full, and the entry that did not fit.
    fallen: Vec<(GroupId, LogIndex)>,
}

const CLOSED: LogIndex = LogIndex(u64::MAX);

impl Outbox {
    /// An outbox for about `bytes_max` bytes; one message fits whatever its size. All `groups`, numbered from 0, are open.
    pub fn new(bytes_max: usize, groups: usize) -> Outbox {
        let state = State {
            open_from: vec![LogIndex(0); groups].into(),
            ..State::default()
        };
        Outbox {
            bytes_max,
            state: Mutex::new(state),
        }
    }

    /// Closes all groups: a resumed session reads what it has missed from the log first.
    pub fn close(&self) {
        self.lock().open_from.fill(CLOSED);
    }

    /// Adds a delivery. A full outbox drops QoS 0; QoS 1 and 2 close their group.
    pub fn push(&self, delivery: Delivery) -> Pushed {
        let mut state = self.lock();
        if state.end.is_some() {
            return Pushed::Ended;
        }
        // What a share or a queue assigns is not what this outbox is open or closed for.
        let at = delivery.message.at.filter(|_| delivery.giver.is_none());
        if at.is_some_and(|at| at.index < state.open_from[group_slot(at.shard.group)]) {
            state.dropped += u64::from(delivery.qos == Qos::AtMostOnce);
            return Pushed::Behind;
        }
        let bytes = delivery.message.size_bytes();
        if !state.queue.is_empty() && state.bytes + bytes > self.bytes_max {
            let Some(at) = at.filter(|_| delivery.qos > Qos::AtMostOnce) else {
                state.dropped += u64::from(delivery.giver.is_none());
                return Pushed::Dropped;
            };
            state.open_from[group_slot(at.shard.group)] = CLOSED;
            state.fallen.push((at.shard.group, at.index));
            return Pushed::FellBehind;
        }
        state.bytes += bytes;
        state.queue.push_back(delivery);
        state.wake();
        Pushed::Queued
    }

    /// Groups that closed since the last call, each with the entry to go on with; none while messages from before wait.
    pub fn take_fallen(&self) -> Vec<(GroupId, LogIndex)> {
        let mut state = self.lock();
        match state.queue.is_empty() {
            true => std::mem::take(&mut state.fallen),
            false => Vec::new(),
        }
    }

    /// Opens a group for entries that its dispatcher has not `begun` yet, but not for any before `next`, which are read
    /// already. Gives the first entry that it is open for.
    pub fn open(&self, group: GroupId, begun: &AtomicU64, next: LogIndex) -> LogIndex {
        let mut state = self.lock();
        let from = LogIndex(begun.load(Ordering::SeqCst)).next().max(next);
        state.open_from[group_slot(group)] = from;
        from
    }

    /// Whether a group is delivered live.
    pub fn is_open(&self, group: GroupId) -> bool {
        self.lock().open_from[group_slot(group)] != CLOSED
    }

    /// Whether nothing waits and no group has fallen behind.
    pub fn is_drained(&self) -> bool {
        let state = self.lock();
        state.queue.is_empty() && state.fallen.is_empty()
    }

    /// QoS 0 deliveries that found no room since the last call.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
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
            if state.queue.is_empty() && state.queue.capacity() > DELIVERIES_KEPT {
                // Most clients have nothing to wait for most of the time.
                state.queue = VecDeque::new();
            }
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

fn group_slot(group: GroupId) -> usize {
    usize::from(group.0)
}

#[cfg(test)]
mod tests {
    use headwater_store::{Offset, ShardId, StreamId};

    use super::*;

    fn delivery(qos: Qos, payload: usize) -> Delivery {
        committed(qos, payload, 1, 1)
    }

    fn committed(qos: Qos, payload: usize, group: u16, index: u64) -> Delivery {
        let record = Record {
            topic: TopicName::new("a").ok(),
            ..Record::new(vec![0; payload])
        };
        let shard = ShardId {
            group: GroupId(group),
            stream: StreamId(1),
            number: 0,
        };
        let at = At {
            index: LogIndex(index),
            shard,
            offset: Offset(index),
        };
        let message = Outgoing::new(record, Some(at)).map(Arc::new).unwrap();
        Delivery {
            message,
            qos,
            resend: None,
            retain: false,
            subscription_ids: None,
            giver: None,
        }
    }

    fn take(outbox: &Outbox, count: usize) -> Poll<Result<usize, End>> {
        let mut into = VecDeque::new();
        let taken = outbox.poll_take(&mut Context::from_waker(Waker::noop()), &mut into, count);
        taken.map_ok(|()| into.len())
    }

    #[test]
    fn a_full_outbox_drops_qos_0_and_sends_qos_1_to_the_log() {
        let outbox = Outbox::new(1200, 3);
        assert_eq!(
            outbox.push(delivery(Qos::AtMostOnce, 5000)),
            Pushed::Queued,
            "one message fits, whatever its size"
        );
        assert_eq!(outbox.push(delivery(Qos::AtMostOnce, 1)), Pushed::Dropped);
        assert_eq!(take(&outbox, 9), Poll::Ready(Ok(1)));
        assert_eq!(outbox.bytes(), 0);
        for index in [1, 2] {
            assert_eq!(outbox.push(committed(Qos::AtLeastOnce, 300, 1, index)), Pushed::Queued);
        }
        assert_eq!(outbox.push(committed(Qos::AtLeastOnce, 300, 1, 3)), Pushed::FellBehind);
        assert_eq!(
            outbox.push(committed(Qos::ExactlyOnce, 1, 1, 4)),
            Pushed::Behind,
            "order"
        );
        assert_eq!(
            outbox.push(committed(Qos::ExactlyOnce, 1, 2, 9)),
            Pushed::Queued,
            "of a group alone"
        );
        assert_eq!(outbox.take_fallen(), [], "what came before is taken first");
        assert_eq!(take(&outbox, 9), Poll::Ready(Ok(3)));
        assert!(!outbox.is_drained());
        assert_eq!(outbox.take_fallen(), [(GroupId(1), LogIndex(3))]);
        assert!(outbox.is_drained());
        assert_eq!(outbox.push(committed(Qos::AtLeastOnce, 300, 1, 5)), Pushed::Behind);
    }

    #[test]
    fn a_group_opens_behind_what_its_dispatcher_has_begun_and_the_client_has_read() {
        let outbox = Outbox::new(1000, 3);
        outbox.close();
        assert_eq!(outbox.push(committed(Qos::AtLeastOnce, 1, 1, 7)), Pushed::Behind);
        let begun = AtomicU64::new(7);
        assert_eq!(outbox.open(GroupId(1), &begun, LogIndex(3)), LogIndex(8));
        assert_eq!(outbox.push(committed(Qos::AtLeastOnce, 1, 1, 7)), Pushed::Behind);
        assert_eq!(outbox.push(committed(Qos::AtLeastOnce, 1, 1, 8)), Pushed::Queued);
        assert_eq!(outbox.push(committed(Qos::AtLeastOnce, 1, 2, 8)), Pushed::Behind);
        // The client may have read further than the dispatcher has come.
        assert_eq!(outbox.open(GroupId(2), &begun, LogIndex(10)), LogIndex(10));
        assert_eq!(outbox.push(committed(Qos::AtLeastOnce, 1, 2, 9)), Pushed::Behind);
    }

    #[test]
    fn deliveries_come_in_order_and_in_portions() {
        let outbox = Outbox::new(1 << 20, 2);
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
