//! One client's messages on their way into the log: in order, many at once.
//!
//! All messages of one read become one [`Chunk`]: one Batch per group, so a busy client costs a few receipts a read
//! and not one a message. Chunks are submitted in order; their acknowledgements come out in order, when all Batches of
//! a chunk are committed. Waiting for admission is the backpressure: the connection reads nothing more meanwhile.
//!
//! When the routing changes while chunks are on the way, the store refuses those routed by the old one. They are then
//! routed again and written one by one, before anything newer: a chunk of a newer routing is only submitted when
//! all older ones are settled, so a refused message is never overtaken by a later one of the same topic.
//!
//! A QoS 1 message whose home stream says `ACK = 'memory'` is acknowledged as soon as its Batch is submitted, if all
//! messages before it are answered. Its chunk stays here until it is committed like any other: what fails then is
//! counted, because nobody can be told any more.
//!
//! In a session that outlives its connection, the packet id of a QoS 2 message is remembered in the message's own Batch
//! (`sessions`). Such a Batch is conditional; what else is in it shares its fate.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use headwater_store::{
    Ack as StreamAck, Batch, GroupId, Receipt, Record, RouteRevision, Store, Submission, WriteError,
};

use crate::error::PublishError;
use crate::limits::MATCHED_TOPICS_PER_CONNECTION_MAX;
use crate::packet::PacketId;
use crate::publish::{Message, Origin, Publisher, add_to_batch};
use crate::sessions::{Held, Receiver};
use crate::subscriptions::{Matcher, Subscriptions, Tally};

/// What became of one message.
pub type Outcome = Result<(), PublishError>;

/// What an outcome is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// PUBACK, for QoS 1.
    Ack(PacketId),
    /// PUBREC, for a QoS 2 message.
    Rec(PacketId),
    /// PUBCOMP, for its release.
    Comp(PacketId),
}

/// The messages of one client between its socket and the log.
pub struct Pipeline {
    publisher: Publisher,
    origin: Origin,
    /// Some in a session that outlives its connection.
    receiver: Option<Box<Receiver>>,
    matcher: Matcher,
    building: Chunk,
    /// Built and not submitted; all but the last end at a change of the routing.
    waiting: VecDeque<Chunk>,
    /// Submitting a chunk, or settling those that a change of the routing caught.
    work: Option<Pin<Box<dyn Future<Output = VecDeque<Chunk>> + Send>>>,
    /// In order. The first one's outcome is the next to report.
    submitted: VecDeque<Chunk>,
    /// Of the last chunk that was submitted.
    revision: RouteRevision,
    /// Of the last message that was added.
    newest: RouteRevision,
    /// So many chunks at the front of `submitted` have been answered in full, ahead of their commit.
    answered: usize,
    /// Messages that were acknowledged and whose Batches have not landed.
    promised: u64,
    lost: Option<Lost>,
}

/// Messages that were acknowledged and then not committed.
#[derive(Debug)]
pub struct Lost {
    /// How many.
    pub messages: u64,
    /// Why the last of them was not.
    pub error: PublishError,
}

#[derive(Default)]
struct Chunk {
    revision: RouteRevision,
    entries: Vec<Entry>,
    batches: Vec<Batch>,
    flights: Vec<Flight>,
    /// Some of its messages' packet ids are remembered.
    receives: bool,
    /// The first entry that may still have to be answered.
    next: usize,
}

/// One message of a chunk.
struct Entry {
    answer: Option<Answer>,
    due: Due,
    cargo: Cargo,
}

/// When an entry is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// With its whole chunk.
    Committed,
    /// Once its Batch is submitted.
    Accepted,
    /// It has been, with a yes that has yet to come true.
    Promised,
    /// It has been.
    Answered,
}

enum Cargo {
    /// On its way, by number of flight. The message is kept because it may have to be routed again.
    Flying { flight: usize, message: Message },
    /// The release of a QoS 2 message.
    Releasing { flight: usize, batch: Batch },
    /// Refused, or written outside the chunk's Batches.
    Settled(Outcome),
}

/// One Batch under way.
enum Flight {
    Pending {
        receipt: Receipt,
        /// In the memory of a leader, and it hangs on no condition.
        accepted: bool,
    },
    Landed(Result<(), WriteError>),
}

impl Pipeline {
    /// An empty pipeline for one client.
    pub fn new(publisher: Publisher, origin: Origin, subscriptions: Arc<Subscriptions>) -> Pipeline {
        Pipeline {
            publisher,
            origin,
            receiver: None,
            matcher: Matcher::new(subscriptions, MATCHED_TOPICS_PER_CONNECTION_MAX),
            building: Chunk::default(),
            waiting: VecDeque::new(),
            work: None,
            submitted: VecDeque::new(),
            revision: RouteRevision::default(),
            newest: RouteRevision::default(),
            answered: 0,
            promised: 0,
            lost: None,
        }
    }

    /// From now on packet ids of QoS 2 messages are remembered.
    pub fn remember_with(&mut self, receiver: Receiver) {
        self.receiver = Some(Box::new(receiver));
    }

    /// Adds a message. QoS 0 goes to the subscribers of this node at once, besides being stored.
    pub fn push(&mut self, message: Message, answer: Option<Answer>) -> Tally {
        let mut tally = Tally::default();
        let store = self.publisher.store();
        let now = store.now();
        let record = message.record(&self.origin, self.publisher.delivered_live(&message));
        if message.is_live() && !self.matcher.is_idle() {
            tally = self.matcher.deliver(
                Record {
                    timestamp: now,
                    ..record.clone()
                },
                None,
            );
        }
        let route = store.route(&message.topic);
        if route.revision != self.building.revision && !self.building.batches.is_empty() {
            self.seal();
        }
        self.newest = route.revision;
        let chunk = &mut self.building;
        chunk.revision = route.revision;
        let flight = chunk.flight(route.group);
        // Also where only a release was in it so far.
        chunk.batches[flight].revision = Some(route.revision);
        add_to_batch(&mut chunk.batches[flight], &route, record, now);
        if let (Some(Answer::Rec(id)), Some(receiver)) = (answer, &mut self.receiver) {
            receiver.remember(&mut chunk.batches[flight], id);
            chunk.receives = true;
        }
        let due = match (route.ack, answer) {
            // A PUBREC that came early could be taken back: decision 15.
            (StreamAck::Memory, Some(Answer::Ack(_))) => Due::Accepted,
            _ => Due::Committed,
        };
        let cargo = Cargo::Flying { flight, message };
        chunk.entries.push(Entry { answer, due, cargo });
        tally
    }

    /// Adds the release of a QoS 2 message; its PUBCOMP comes when it is forgotten in the log too.
    pub fn release(&mut self, id: PacketId) {
        let answer = Some(Answer::Comp(id));
        let place = self.receiver.as_ref().and_then(|receiver| receiver.place(id));
        let (Some(group), Some(receiver)) = (place, &mut self.receiver) else {
            self.building.entries.push(Entry::settled(answer, Ok(())));
            return;
        };
        if self.building.batches.is_empty() {
            // It needs no routing, and should not look like a change of it.
            self.building.revision = self.newest;
        }
        let flight = self.building.flight(group);
        let mut batch = Batch::new(group);
        receiver.release(&mut batch, id);
        let shared = &mut self.building.batches[flight];
        // The claim is the first condition of both.
        if shared.conditions.is_empty() {
            shared.conditions.clone_from(&batch.conditions);
        }
        shared.puts.extend(batch.puts.iter().cloned());
        self.building.receives = true;
        self.building.entries.push(Entry {
            answer,
            due: Due::Committed,
            cargo: Cargo::Releasing { flight, batch },
        });
    }

    /// Adds a message that is not for the log; its answer waits for its turn.
    pub fn settle(&mut self, answer: Option<Answer>) {
        self.building.entries.push(Entry::settled(answer, Ok(())));
    }

    /// Adds a message that is refused; its answer waits for its turn.
    pub fn refuse(&mut self, answer: Option<Answer>, error: PublishError) {
        self.building.entries.push(Entry::settled(answer, Err(error)));
    }

    /// Ends the chunk that is being built. [`Pipeline::poll`] submits it.
    pub fn seal(&mut self) {
        if !self.building.entries.is_empty() {
            self.waiting.push_back(std::mem::take(&mut self.building));
        }
    }

    /// True while a chunk waits to be submitted: the store asks for patience.
    pub fn is_busy(&self) -> bool {
        self.work.is_some() || !self.waiting.is_empty()
    }

    /// True when every message has its outcome.
    pub fn is_empty(&self) -> bool {
        !self.is_busy() && self.submitted.is_empty() && self.building.entries.is_empty()
    }

    /// What was acknowledged and has failed since the last call.
    pub fn take_lost(&mut self) -> Option<Lost> {
        self.lost.take()
    }

    /// Messages that were acknowledged and may yet fail.
    pub fn promised(&self) -> u64 {
        self.promised
    }

    /// Moves everything on, and adds what became of messages to `outcomes`, in order. Returns whether anything moved;
    /// if not, the context's task is woken when something can.
    pub fn poll(&mut self, context: &mut Context<'_>, outcomes: &mut Vec<(Option<Answer>, Outcome)>) -> bool {
        let mut moved = false;
        loop {
            if let Some(work) = &mut self.work {
                let Poll::Ready(chunks) = work.as_mut().poll(context) else {
                    break;
                };
                self.work = None;
                self.submitted.extend(chunks);
            } else if !self.submit_next() {
                break;
            }
            moved = true;
        }
        while self.work.is_none() && self.poll_first(context, outcomes) {
            moved = true;
        }
        self.answer_accepted(outcomes) | moved
    }

    /// Reports what need not wait for its commit, as far as nothing before it has to.
    fn answer_accepted(&mut self, outcomes: &mut Vec<(Option<Answer>, Outcome)>) -> bool {
        let before = outcomes.len();
        while let Some(chunk) = self.submitted.get_mut(self.answered) {
            if !chunk.answer_accepted(outcomes, &mut self.promised) {
                break;
            }
            self.answered += 1;
        }
        outcomes.len() > before
    }

    /// Starts to submit the next chunk, if there is one and it may go.
    fn submit_next(&mut self) -> bool {
        let may_go =
            |chunk: &Chunk| chunk.batches.is_empty() || chunk.revision == self.revision || self.submitted.is_empty();
        let Some(mut chunk) = self
            .waiting
            .front()
            .is_some_and(may_go)
            .then(|| self.waiting.pop_front())
            .flatten()
        else {
            return false;
        };
        if chunk.batches.is_empty() {
            self.submitted.push_back(chunk);
            return true;
        }
        self.revision = chunk.revision;
        // Nearly always there is nothing to wait for.
        if !chunk.receives && chunk.submit_now(self.publisher.store()) {
            self.submitted.push_back(chunk);
            return true;
        }
        let store = self.publisher.store().clone();
        let ready = self
            .receiver
            .as_ref()
            .filter(|_| chunk.receives)
            .map(|receiver| receiver.ready());
        self.work = Some(Box::pin(async move {
            if let Some(ready) = ready
                && let Err(error) = ready.await
            {
                let failed = std::mem::take(&mut chunk.batches);
                chunk
                    .flights
                    .extend(failed.iter().map(|_| Flight::Landed(Err(error.clone()))));
            }
            for batch in std::mem::take(&mut chunk.batches) {
                let accepted = is_accepted(&store, &batch);
                chunk.flights.push(match store.submit(batch).await {
                    Ok(receipt) => Flight::Pending { receipt, accepted },
                    Err(error) => Flight::Landed(Err(error)),
                });
            }
            VecDeque::from([chunk])
        }));
        true
    }

    /// Reports the first submitted chunk, if all its Batches have landed.
    fn poll_first(&mut self, context: &mut Context<'_>, outcomes: &mut Vec<(Option<Answer>, Outcome)>) -> bool {
        let Some(chunk) = self.submitted.front_mut() else {
            return false;
        };
        if chunk.poll_flights(context).is_pending() {
            return false;
        }
        if chunk.flights.iter().any(Flight::is_stale) {
            let chunks = std::mem::take(&mut self.submitted);
            let held = self.receiver.as_ref().map(|receiver| receiver.held());
            self.work = Some(Box::pin(settle(
                self.publisher.clone(),
                self.origin.clone(),
                held,
                chunks,
            )));
            // The work has to be polled before it can wake anyone.
            context.waker().wake_by_ref();
            return true;
        }
        if let Some(chunk) = self.submitted.pop_front() {
            self.answered = self.answered.saturating_sub(1);
            let (promised, lost) = chunk.report(outcomes);
            self.promised -= promised;
            if let Some(lost) = lost {
                let messages = self.lost.take().map_or(0, |before| before.messages) + lost.messages;
                self.lost = Some(Lost { messages, ..lost });
            }
        }
        // Whoever waited for the older routing's chunks may go now.
        if !self.waiting.is_empty() {
            context.waker().wake_by_ref();
        }
        true
    }
}

impl Chunk {
    /// The number of the Batch of `group`.
    fn flight(&mut self, group: GroupId) -> usize {
        let position = self.batches.iter().position(|batch| batch.group == group);
        position.unwrap_or_else(|| {
            self.batches.push(Batch::new(group));
            self.batches.len() - 1
        })
    }

    /// Submits Batches until one has to wait; true when none had to.
    fn submit_now(&mut self, store: &Store) -> bool {
        let mut batches = std::mem::take(&mut self.batches).into_iter();
        while let Some(batch) = batches.next() {
            let accepted = is_accepted(store, &batch);
            match store.submit_now(batch) {
                Submission::Sent(receipt) => self.flights.push(Flight::Pending { receipt, accepted }),
                Submission::Refused(error) => self.flights.push(Flight::Landed(Err(error))),
                Submission::Waits(batch) => {
                    self.batches = std::iter::once(batch).chain(batches).collect();
                    return false;
                }
            }
        }
        true
    }

    fn poll_flights(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for flight in &mut self.flights {
            if let Flight::Pending { receipt, .. } = flight {
                match Pin::new(receipt).poll(context) {
                    Poll::Ready(outcome) => *flight = Flight::Landed(outcome.map(drop)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        }
        Poll::Ready(())
    }

    /// Answers entries that may be answered before the chunk has landed, up to the first that may not. Whether that was
    /// all of them.
    fn answer_accepted(&mut self, outcomes: &mut Vec<(Option<Answer>, Outcome)>, promised: &mut u64) -> bool {
        while let Some(entry) = self.entries.get_mut(self.next) {
            // What nobody waits for is reported with the chunk.
            if entry.answer.is_some() {
                let Some((due, outcome)) = entry.early(&self.flights) else {
                    return false;
                };
                *promised += u64::from(due == Due::Promised);
                entry.due = due;
                outcomes.push((entry.answer, outcome));
            }
            self.next += 1;
        }
        true
    }

    /// Reports what was not answered before. Gives how many yeses of those have come true or not, and the last that has
    /// not.
    fn report(self, outcomes: &mut Vec<(Option<Answer>, Outcome)>) -> (u64, Option<Lost>) {
        let (mut promised, mut lost) = (0, None);
        for entry in self.entries {
            let outcome = match entry.cargo {
                Cargo::Settled(outcome) => outcome,
                Cargo::Flying { flight, .. } | Cargo::Releasing { flight, .. } => match &self.flights[flight] {
                    Flight::Landed(outcome) => outcome.clone().map_err(PublishError::from),
                    Flight::Pending { .. } => unreachable!("a chunk is reported when all its flights have landed"),
                },
            };
            match (entry.due, outcome) {
                (Due::Committed | Due::Accepted, outcome) => outcomes.push((entry.answer, outcome)),
                (Due::Answered, _) => {}
                (Due::Promised, outcome) => {
                    promised += 1;
                    if let Err(error) = outcome {
                        let messages = lost.map_or(0, |lost: Lost| lost.messages) + 1;
                        lost = Some(Lost { messages, error });
                    }
                }
            }
        }
        (promised, lost)
    }
}

impl Entry {
    /// What needs no Batch.
    fn settled(answer: Option<Answer>, outcome: Outcome) -> Entry {
        let (due, cargo) = (Due::Committed, Cargo::Settled(outcome));
        Entry { answer, due, cargo }
    }

    /// What it can be answered with before its chunk has landed.
    fn early(&self, flights: &[Flight]) -> Option<(Due, Outcome)> {
        match (&self.cargo, self.due) {
            (Cargo::Settled(outcome), _) => Some((Due::Answered, outcome.clone())),
            (Cargo::Flying { flight, .. }, Due::Accepted) => match &flights[*flight] {
                Flight::Pending { accepted, .. } => accepted.then_some((Due::Promised, Ok(()))),
                // It is written again.
                flight if flight.is_stale() => None,
                Flight::Landed(outcome) => Some((Due::Answered, outcome.clone().map_err(PublishError::from))),
            },
            _ => None,
        }
    }
}

impl Flight {
    fn is_stale(&self) -> bool {
        matches!(self, Flight::Landed(Err(WriteError::StaleRoute { .. })))
    }
}

/// Whether a Batch that is submitted now is in the memory of a leader, and will be committed unless something breaks.
fn is_accepted(store: &Store, batch: &Batch) -> bool {
    batch.conditions.is_empty() && store.leads(batch.group)
}

/// Waits for everything that is under way, then writes what was refused for its routing again, in order.
async fn settle(
    publisher: Publisher,
    origin: Origin,
    held: Option<Held>,
    mut chunks: VecDeque<Chunk>,
) -> VecDeque<Chunk> {
    for chunk in &mut chunks {
        std::future::poll_fn(|context| chunk.poll_flights(context)).await;
    }
    for chunk in &mut chunks {
        for entry in &mut chunk.entries {
            let outcome = match &entry.cargo {
                Cargo::Flying { flight, message } if chunk.flights[*flight].is_stale() => {
                    let record = message.record(&origin, publisher.delivered_live(message));
                    let remembered = match (entry.answer, &held) {
                        (Some(Answer::Rec(id)), Some(held)) => Some((held, id)),
                        _ => None,
                    };
                    let complete = |batch| match remembered {
                        Some((held, id)) => Receiver::remembered(batch, held, id),
                        None => batch,
                    };
                    publisher.publish_with(record, complete).await.map(drop)
                }
                Cargo::Releasing { flight, batch } if chunk.flights[*flight].is_stale() => publisher
                    .store()
                    .write(batch.clone())
                    .await
                    .map(drop)
                    .map_err(PublishError::from),
                _ => continue,
            };
            entry.cargo = Cargo::Settled(outcome);
        }
        // What was stale is settled, message by message.
        chunk
            .flights
            .iter_mut()
            .filter(|flight| flight.is_stale())
            .for_each(|flight| *flight = Flight::Landed(Ok(())));
    }
    chunks
}

#[cfg(test)]
mod tests;
