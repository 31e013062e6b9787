//! From committed entries to outboxes: one task for each data group.
//!
//! Only home copies with a topic are delivered, so nobody gets a message twice however many streams capture it. What
//! this node already delivered live (QoS 0) carries its mark and is left out.

use std::sync::Arc;
use std::time::Duration;

use headwater_store::{AppliedEntry, BootId, GroupFollower, Header, NodeId, ReadError, Record, Store};

use crate::limits::{ACCEPT_PAUSE_MS, MATCHED_TOPICS_MAX};
use crate::metrics::Metrics;
use crate::subscriptions::{Matcher, Subscriptions, Tally};

/// Delivers what one group commits.
pub struct Dispatcher {
    follower: GroupFollower,
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
        subscriptions: Arc<Subscriptions>,
        metrics: Arc<Metrics>,
    ) -> Dispatcher {
        let matcher = Matcher::new(subscriptions, MATCHED_TOPICS_MAX);
        Dispatcher {
            follower,
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
        for batch in &entry.appends {
            if self.matcher.is_idle() {
                break;
            }
            match batch.records_from(batch.base) {
                Ok(records) => {
                    for (_, record) in records {
                        if self.is_for_subscribers(&record) {
                            sum += self.matcher.deliver(record, Some((entry.group, entry.index)));
                        }
                    }
                }
                Err(error) => tracing::error!(%error, "a committed record batch cannot be delivered"),
            }
        }
        self.metrics.tally(sum);
    }

    fn is_for_subscribers(&self, record: &Record) -> bool {
        let live = |header: &Header| *header == Header::DeliveredBy(self.node, self.boot);
        record.topic.is_some() && !record.copy && !record.headers.iter().any(live)
    }
}
