//! Queues: `$queue/<stream>`. The consumers of a stream compete for its records: each record is acknowledged once, comes
//! again when its consumer does not answer in time, and goes to the stream `<stream>$dead` after so many tries.
//!
//! The stream is the queue; what a queue has of its own is a row (`rows`) with the next offset of each shard and the places
//! that are handed out and not acknowledged (decision 9). One task serves a queue while it has consumers ([`serve`]); it alone
//! writes the row. Consumers come and go, and acknowledge, under the lock of the queue's [`State`].

mod rows;
mod serve;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
use headwater_config::BrokerConfig;
use headwater_store::{Offset, Qos, ShardId, Store, StreamRow};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::clients::Client;
use crate::cursor::At;
use crate::giver::Giver;
use crate::limits::{QUEUE_REMINDERS_MIN, QUEUE_WINDOW_MAX, STOP_WAIT_MS};
use crate::listener::Shared;
use crate::outbox::{Delivery, Outgoing, Pushed};
use crate::replay::{Replay, Start, beginnings, placed};
use crate::resend::read_record;
use crate::session::Subscription;
use crate::sessions::SessionError;

use rows::{PendingRow, QueueRow};

pub use rows::recover;

/// The first level of a queue's filter.
pub const QUEUE_LEVEL: &str = "$queue/";

/// Reads `$queue/<stream>`, with a place to begin for a queue that is not there yet: its first record, unless told otherwise.
pub fn parse(text: &ByteString, starts: &[Start]) -> Option<Replay> {
    let queue = Replay::parse_below(QUEUE_LEVEL, Start::Earliest, text, starts, Qos::AtLeastOnce, None)?;
    // A filter would leave records to nobody.
    queue.filter.is_none().then_some(queue)
}

/// The queues that have consumers, by the name of their stream.
#[derive(Debug)]
pub struct Queues {
    open: tokio::sync::Mutex<HashMap<ByteString, Arc<Queue>>>,
    tasks: TaskTracker,
    timeout: Duration,
    tries_max: u32,
}

/// One queue.
#[derive(Debug)]
pub struct Queue {
    stream: Arc<StreamRow>,
    timeout: Duration,
    tries_max: u32,
    state: Mutex<State>,
    /// A consumer has room, came or went.
    news: Notify,
}

/// Orders records as they are in their shards.
type Place = (ShardId, Offset);

#[derive(Debug)]
struct State {
    consumers: Vec<Consumer>,
    /// The consumer that is asked first next time.
    turn: usize,
    /// What is before has been handed out once.
    cursors: Vec<(ShardId, Offset)>,
    /// Handed out and not acknowledged, with the connection that has it.
    out: BTreeMap<Place, (u64, Job)>,
    /// When what is out counts as unanswered; in the order of time, because all are given the same.
    due: VecDeque<(Instant, Place, u32)>,
    /// To be handed out again.
    returned: VecDeque<Job>,
    /// Handed out as often as may be.
    dead: Vec<Job>,
    moved: bool,
}

#[derive(Debug)]
struct Consumer {
    client: Arc<Client>,
    subscription: Subscription,
    /// What it was given and has not answered, also what another one has by now.
    held: BTreeSet<Place>,
}

/// A record and how often it was handed out.
#[derive(Debug, Clone)]
struct Job {
    message: Arc<Outgoing>,
    at: At,
    tries: u32,
}

/// What became of a job that was to be handed out.
enum Given {
    Taken,
    /// All consumers have as much as they may have.
    NoRoom(Job),
    /// Some may have more, but their outboxes are full.
    OutboxesFull(Job),
}

impl Queues {
    /// Without any queue yet.
    pub fn new(config: &BrokerConfig) -> Queues {
        Queues {
            open: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            timeout: config.queue_timeout.duration(),
            tries_max: config.queue_tries.max(1),
        }
    }

    /// Makes a client a consumer, from the moment this returns. Nothing where the stream is gone.
    pub async fn join(
        &self,
        shared: &Arc<Shared>,
        client: &Arc<Client>,
        subscription: &Subscription,
        starts: &[Start],
    ) -> Result<(), SessionError> {
        let Some(wanted) = parse(&subscription.text(), starts) else {
            return Ok(());
        };
        let mut open = self.open.lock().await;
        let Some(stream) = shared.store.catalog().borrow().stream(&wanted.stream).cloned() else {
            return Ok(());
        };
        let queue = match open.get(&wanted.stream).filter(|queue| queue.stream.id == stream.id) {
            Some(queue) => queue.clone(),
            None => {
                let queue = Arc::new(self.open_queue(&shared.store, stream, &wanted.starts).await?);
                open.insert(wanted.stream, queue.clone());
                self.tasks.spawn(serve::run(queue.clone(), shared.clone()));
                queue
            }
        };
        queue.add(client, subscription);
        Ok(())
    }

    /// A client is a consumer no longer: what it has not acknowledged goes to another one, now or later.
    pub async fn leave(&self, subscription: &Subscription, connection: u64) {
        let Some(left) = parse(&subscription.text(), &[]) else {
            return;
        };
        let queue = self.open.lock().await.get(&left.stream).cloned();
        if let Some(queue) = queue {
            queue.take_back(connection, subscription);
        }
    }

    /// Waits until all queues are saved; their consumers are gone.
    pub async fn stop(&self) {
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_millis(STOP_WAIT_MS), self.tasks.wait()).await;
    }

    async fn open_queue(&self, store: &Store, stream: Arc<StreamRow>, starts: &[Start]) -> Result<Queue, SessionError> {
        let row = match rows::load(store, &stream).await? {
            Some(row) => row,
            None => {
                let cursors = beginnings(store, stream.shard_ids().collect(), starts).await?;
                let row = QueueRow {
                    cursors,
                    pending: Vec::new(),
                };
                // From here on there is such a queue, also after a kill.
                store.write(rows::put(store, &stream, &row)).await?;
                row
            }
        };
        let (reader, name) = (store.clone(), stream.name.clone());
        let pending = row.pending;
        let read = move || pending.iter().map(|row| read_job(&reader, &name, row)).collect();
        let jobs: Result<Vec<Option<Job>>, SessionError> = store.blocking(read).await;
        let state = State {
            consumers: Vec::new(),
            turn: 0,
            cursors: row.cursors,
            out: BTreeMap::new(),
            due: VecDeque::new(),
            returned: VecDeque::new(),
            dead: Vec::new(),
            moved: false,
        };
        let queue = Queue {
            stream,
            timeout: self.timeout,
            tries_max: self.tries_max,
            state: Mutex::new(state),
            news: Notify::new(),
        };
        let mut state = queue.lock();
        jobs?
            .into_iter()
            .flatten()
            .for_each(|job| state.give_back(job, queue.tries_max));
        drop(state);
        Ok(queue)
    }
}

/// None when it is not there any more.
fn read_job(store: &Store, name: &str, row: &PendingRow) -> Result<Option<Job>, SessionError> {
    let record = read_record(store, &row.at)?;
    let message = record.and_then(|record| placed(name, row.at.shard, row.at.offset, record));
    Ok(message.map(|message| Job {
        message: message.into(),
        at: row.at,
        tries: row.tries,
    }))
}

impl Queue {
    fn add(&self, client: &Arc<Client>, subscription: &Subscription) {
        let mut state = self.lock();
        match state.consumer(client.connection, subscription) {
            Some(known) => known.subscription = subscription.clone(),
            None => state.consumers.push(Consumer {
                client: client.clone(),
                subscription: subscription.clone(),
                held: BTreeSet::new(),
            }),
        }
        drop(state);
        self.news.notify_one();
    }

    /// A consumer is done with a record. The first one counts, whoever has it by now.
    pub fn acknowledge(&self, at: &At, connection: u64) {
        let (mut state, place) = (self.lock(), (at.shard, at.offset));
        state.let_go(connection, place);
        if state.out.remove(&place).is_none() {
            let waits = |job: &Job| (job.at.shard, job.at.offset) != place;
            state.returned.retain(waits);
            state.dead.retain(waits);
        }
        state.moved = true;
        drop(state);
        self.news.notify_one();
    }

    /// A consumer does not want a record, or cannot take it: another one may.
    pub fn reject(&self, at: &At, connection: u64) {
        let (mut state, place) = (self.lock(), (at.shard, at.offset));
        state.let_go(connection, place);
        if let Some((_, job)) = state.out.remove(&place).filter(|(has_it, _)| *has_it == connection) {
            state.give_back(job, self.tries_max);
        }
        drop(state);
        self.news.notify_one();
    }

    fn take_back(&self, connection: u64, subscription: &Subscription) {
        let mut state = self.lock();
        let Some(held) = state
            .consumer(connection, subscription)
            .map(|left| std::mem::take(&mut left.held))
        else {
            return;
        };
        state.consumers.retain(|known| !known.is(connection, subscription));
        for place in held {
            if let Some((_, job)) = state.take_out(place, connection) {
                state.give_back(job, self.tries_max);
            }
        }
        drop(state);
        self.news.notify_one();
    }

    /// What was not answered in time is to be handed out again. How many that were.
    fn take_overdue(&self, now: Instant) -> u64 {
        let (mut state, mut count) = (self.lock(), 0);
        while let Some((_, place, tries)) = state.due.pop_front_if(|(due, ..)| *due <= now) {
            let unanswered = state.out.get(&place).is_some_and(|(_, job)| job.tries == tries);
            if let Some((_, job)) = unanswered.then(|| state.out.remove(&place)).flatten() {
                state.give_back(job, self.tries_max);
                count += 1;
            }
        }
        count
    }

    /// Gives a job to the next consumer that has room.
    fn give(self: &Arc<Queue>, mut job: Job, now: Instant) -> Given {
        let (mut state, place) = (self.lock(), (job.at.shard, job.at.offset));
        let (mut full, count) = (false, state.consumers.len());
        // Those that have it already, and did not answer, only where nobody else has room.
        for step in 0..2 * count {
            let turn = (state.turn + step) % count;
            let consumer = &mut state.consumers[turn];
            let has_it = consumer.held.contains(&place);
            if consumer.held.len() >= QUEUE_WINDOW_MAX || has_it != (step >= count) {
                continue;
            }
            let options = &consumer.subscription.options;
            let delivery = Delivery {
                qos: options.qos.min(Qos::AtLeastOnce),
                resend: None,
                retain: false,
                subscription_ids: consumer.subscription.id.map(|id| Arc::from([id])),
                giver: Some(Giver::Queue(self.clone())),
                message: job.message.clone(),
            };
            if consumer.client.outbox.push(delivery) != Pushed::Queued {
                full = true;
                continue;
            }
            consumer.held.insert(place);
            let connection = consumer.client.connection;
            if job.tries == 0 {
                state.hand_out_first(place);
            }
            job.tries = job.tries.saturating_add(1);
            state.turn = turn + 1;
            state.moved = true;
            state.due.push_back((now + self.timeout, place, job.tries));
            state.out.insert(place, (connection, job));
            state.forget_answered();
            return Given::Taken;
        }
        match full {
            true => Given::OutboxesFull(job),
            false => Given::NoRoom(job),
        }
    }

    /// What is saved of it.
    fn row(&self) -> QueueRow {
        let mut state = self.lock();
        state.moved = false;
        let out = state.out.values().map(|(_, job)| job);
        QueueRow {
            cursors: state.cursors.clone(),
            pending: out
                .chain(&state.returned)
                .chain(&state.dead)
                .map(|job| PendingRow {
                    at: job.at,
                    tries: job.tries,
                })
                .collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn consumer(&mut self, connection: u64, subscription: &Subscription) -> Option<&mut Consumer> {
        self.consumers
            .iter_mut()
            .find(|known| known.is(connection, subscription))
    }

    /// A consumer answered; a connection may be several consumers.
    fn let_go(&mut self, connection: u64, place: Place) {
        for consumer in self.consumers.iter_mut() {
            if consumer.client.connection == connection {
                consumer.held.remove(&place);
            }
        }
    }

    /// What is out and this connection has.
    fn take_out(&mut self, place: Place, connection: u64) -> Option<(u64, Job)> {
        let has_it = self.out.get(&place).is_some_and(|(has_it, _)| *has_it == connection);
        has_it.then(|| self.out.remove(&place)).flatten()
    }

    fn give_back(&mut self, job: Job, tries_max: u32) {
        self.moved = true;
        match job.tries >= tries_max {
            true => self.dead.push(job),
            false => self.returned.push_back(job),
        }
    }

    /// Reminders of what was answered long before its time are not kept until then: there would be as many as records in
    /// a whole timeout.
    fn forget_answered(&mut self) {
        if self.due.len() > QUEUE_REMINDERS_MIN.max(2 * self.out.len()) {
            let out = &self.out;
            self.due
                .retain(|(_, place, tries)| out.get(place).is_some_and(|(_, job)| job.tries == *tries));
        }
    }

    fn hand_out_first(&mut self, (shard, offset): Place) {
        if let Some((_, next)) = self.cursors.iter_mut().find(|(of, _)| *of == shard) {
            *next = offset.plus(1).max(*next);
        }
    }

    fn has_room(&self) -> bool {
        self.consumers
            .iter()
            .any(|consumer| consumer.held.len() < QUEUE_WINDOW_MAX)
    }
}

impl Consumer {
    /// A client may consume a queue under several filters.
    fn is(&self, connection: u64, subscription: &Subscription) -> bool {
        self.client.connection == connection && self.subscription.filter == subscription.filter
    }
}

#[cfg(test)]
mod tests {
    use headwater_store::{GroupId, LogIndex, Record, StreamId, TopicName};

    use super::*;

    fn state() -> State {
        State {
            consumers: Vec::new(),
            turn: 0,
            cursors: Vec::new(),
            out: BTreeMap::new(),
            due: VecDeque::new(),
            returned: VecDeque::new(),
            dead: Vec::new(),
            moved: false,
        }
    }

    #[test]
    fn reminders_of_what_is_answered_do_not_pile_up_and_the_others_stay() {
        let (mut state, now) = (state(), Instant::now());
        let shard = ShardId {
            group: GroupId(1),
            stream: StreamId(1),
            number: 0,
        };
        let record = Record {
            topic: TopicName::new("a").ok(),
            ..Record::new("x")
        };
        let message = Arc::new(Outgoing::new(record, None).unwrap());
        for number in 0..10 * QUEUE_REMINDERS_MIN as u64 {
            let (offset, place) = (Offset(number), (shard, Offset(number)));
            let index = LogIndex(1);
            let job = Job {
                message: message.clone(),
                at: At { index, shard, offset },
                tries: 1,
            };
            state.due.push_back((now, place, 1));
            state.out.insert(place, (7, job));
            state.forget_answered();
            // The first one is never answered, all others are at once.
            if number > 0 {
                state.out.remove(&place);
            }
            assert!(state.due.len() <= QUEUE_REMINDERS_MIN + 1);
        }
        assert_eq!(state.due.front(), Some(&(now, (shard, Offset(0)), 1)));
    }
}
