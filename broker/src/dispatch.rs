//! From committed entries to outboxes: one task for each data group.
//!
//! Only home copies with a topic are delivered, so nobody gets a message twice however many streams capture it. What
//! this node already delivered live (QoS 0) carries its mark and is left out.
//!
//! Each dispatcher says how far it is ([`Dispatched`]), so that a session which reads from the log knows from which entry
//! on it can be served here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_store::{AppliedEntry, BootId, GroupFollower, Header, LogIndex, NodeId, ReadError, Record, Store};

use crate::cursor::At;
use crate::limits::{ACCEPT_PAUSE_MS, MATCHED_TOPICS_MAX};
use crate::metrics::Metrics;
use crate::subscriptions::{Matcher, Subscriptions, Tally};

/// How far the dispatcher of one group is.
#[derive(Debug, Default)]
pub struct Dispatched {
    /// The entry that it looks for receivers of, or has.
    begun: AtomicU64,
    /// The last entry of which every delivery is in its outbox.
    done: AtomicU64,
}

impl Dispatched {
    /// Nothing up to this entry is dispatched any more.
    pub fn start_after(&self, index: LogIndex) {
        self.begun.store(index.0, Ordering::SeqCst);
        self.done.store(index.0, Ordering::SeqCst);
    }

    /// The entry that it has begun, for [`crate::outbox::Outbox::open`].
    pub fn begun(&self) -> &AtomicU64 {
        &self.begun
    }

    /// The last entry of which every delivery is in its outbox.
    pub fn done(&self) -> LogIndex {
        LogIndex(self.done.load(Ordering::SeqCst))
    }
}

/// Delivers what one group commits.
pub struct Dispatcher {
    follower: GroupFollower,
    dispatched: Arc<Dispatched>,
    matcher: Matcher,
    metrics: Arc<Metrics>,
    node: NodeId,
    boot: BootId,
}

impl Dispatcher {
    /// A dispatcher of what `follower` gives.
    pub fn new(
        store: &Store,
        follower: GroupFollower,
        dispatched: Arc<Dispatched>,
        subscriptions: Arc<Subscriptions>,
        metrics: Arc<Metrics>,
    ) -> Dispatcher {
        let matcher = Matcher::new(subscriptions, MATCHED_TOPICS_MAX).of_results(store);
        Dispatcher {
            follower,
            dispatched,
            matcher,
            metrics,
            node: store.node(),
            boot: store.boot(),
        }
    }

    /// Runs until the store stops.
    pub async fn run(mut self) {
        loop {
            match self.follower.next().await {
                Ok(entry) => self.dispatch(&entry),
                Err(ReadError::Stopped) => return,
                Err(error) => {
                    tracing::error!(%error, "a committed entry cannot be delivered");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            }
        }
    }

    fn dispatch(&mut self, entry: &AppliedEntry) {
        let mut sum = Tally::default();
        self.dispatched.begun.store(entry.index.0, Ordering::SeqCst);
        for batch in &entry.appends {
            if self.matcher.is_idle() {
                break;
            }
            match batch.records_from(batch.base) {
                Ok(records) => {
                    for (offset, record) in records {
                        if self.is_for_subscribers(&record) {
                            let (index, shard) = (entry.index, batch.shard);
                            sum += self.matcher.deliver(record, Some(At { index, shard, offset }));
                        }
                    }
                }
                Err(error) => tracing::error!(%error, "a committed record batch cannot be delivered"),
            }
        }
        self.dispatched.done.store(entry.index.0, Ordering::SeqCst);
        self.metrics.tally(sum);
    }

    fn is_for_subscribers(&self, record: &Record) -> bool {
        let live = |header: &Header| *header == Header::DeliveredBy(self.node, self.boot);
        record.topic.is_some() && !record.copy && !record.headers.iter().any(live)
    }
}
