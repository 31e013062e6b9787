//! A session that reads from the log: because it was away, or because its outbox was full.
//!
//! It reads the entries of each group that it is behind in, page by page, and keeps the messages that its subscriptions
//! match. Where it has read everything that is applied, it opens the group in its outbox (`outbox`): the dispatcher then
//! serves it from an exact entry on, and it reads the few entries before that one. So it misses nothing and gets nothing
//! twice. QoS 0 is not delivered this way: it promises nothing to those who are not there.

use std::collections::VecDeque;
use std::sync::Arc;

use headwater_store::{GroupId, LogIndex, Qos, ReadError, Record, Store};

use crate::cursor::{At, Cursor};
use crate::dispatch::Dispatched;
use crate::limits::{CATCH_UP_PAGE_BYTES, CATCH_UP_TOPICS_MAX};
use crate::outbox::{Delivery, Outbox};
use crate::subscriptions::{Matcher, Subscriptions};

/// The groups that one session is behind in, the next one to be read first.
#[derive(Debug)]
pub struct CatchUp {
    /// The subscriptions of this session alone.
    matcher: Matcher,
    behind: VecDeque<Behind>,
}

#[derive(Debug)]
struct Behind {
    /// What is read; what is delivered is the session's own cursor.
    cursor: Cursor,
    /// The group is open from this entry on.
    until: Option<LogIndex>,
}

/// What one read gave.
#[derive(Debug)]
pub struct Page {
    /// The group.
    pub group: GroupId,
    /// Everything before this entry is read.
    pub next: LogIndex,
    /// In order.
    pub deliveries: Vec<Delivery>,
}

impl CatchUp {
    /// With the subscriptions of one session, which may still change.
    pub fn new(own: Arc<Subscriptions>) -> CatchUp {
        CatchUp {
            matcher: Matcher::new(own, CATCH_UP_TOPICS_MAX),
            behind: VecDeque::new(),
        }
    }

    /// Reads a group from here on.
    pub fn add(&mut self, cursor: Cursor) {
        self.behind.push_back(Behind { cursor, until: None });
    }

    /// True while the outbox may hold messages that are newer than some that are still to be read.
    pub fn is_closing(&self) -> bool {
        self.behind.iter().any(|behind| behind.until.is_some())
    }

    /// Opens the groups that are read to their end, and forgets those that are done. False when there are none left.
    pub fn advance(&mut self, store: &Store, outbox: &Outbox, dispatched: &[Arc<Dispatched>]) -> bool {
        self.behind.retain_mut(|behind| {
            let (group, next) = (behind.cursor.group, behind.cursor.next);
            if behind.until.is_none() && next > store.applied(group) {
                let begun = dispatched[usize::from(group.0)].begun();
                behind.until = Some(outbox.open(group, begun, next));
            }
            behind.until.is_none_or(|until| next < until)
        });
        !self.behind.is_empty()
    }

    /// Reads the next page of the group that has waited longest. Blocks.
    pub fn next_page(&mut self, store: &Store) -> Result<Option<Page>, ReadError> {
        let Some(mut behind) = self.behind.pop_front() else {
            return Ok(None);
        };
        let cursor = &mut behind.cursor;
        let (group, until) = (cursor.group, behind.until.unwrap_or(LogIndex(u64::MAX)));
        let read = store.read_entries(group, cursor.next, CATCH_UP_PAGE_BYTES);
        let mut deliveries = Vec::new();
        if let Ok((entries, next)) = &read {
            for entry in entries.iter().take_while(|entry| entry.index < until) {
                for batch in &entry.appends {
                    let from = cursor.resume_at(entry.index, batch.shard, batch.base);
                    match batch.records_from(from) {
                        Ok(records) => records.into_iter().for_each(|(offset, record)| {
                            let (index, shard) = (entry.index, batch.shard);
                            take(&mut self.matcher, record, At { index, shard, offset }, &mut deliveries);
                        }),
                        Err(error) => tracing::error!(%error, "a committed record batch cannot be delivered"),
                    }
                }
            }
            cursor.skip_to(until.min(*next));
        }
        let next = cursor.next;
        self.behind.push_back(behind);
        read.map(|_| {
            Some(Page {
                group,
                next,
                deliveries,
            })
        })
    }
}

fn take(matcher: &mut Matcher, record: Record, at: At, deliveries: &mut Vec<Delivery>) {
    if record.topic.is_none() || record.copy || record.qos == Qos::AtMostOnce {
        return;
    }
    matcher.each(record, Some(at), |_, delivery| {
        if delivery.qos > Qos::AtMostOnce {
            deliveries.push(delivery);
        }
    });
}

/// Moves cursors over what the dispatchers have done, if all of it that was for this outbox has left it. Whether they
/// moved.
pub fn advance(cursors: &mut [Cursor], dispatched: &[Arc<Dispatched>], outbox: &Outbox) -> bool {
    // Looked at before the outbox: what is done by now is in it, or was.
    let done = |cursor: &Cursor| dispatched[usize::from(cursor.group.0)].done().next();
    let done: Vec<LogIndex> = cursors.iter().map(done).collect();
    if !outbox.is_drained() {
        return false;
    }
    let mut moved = false;
    for (cursor, next) in cursors.iter_mut().zip(done) {
        // A closed group is read from the log, whatever the dispatcher has done.
        if outbox.is_open(cursor.group) {
            moved |= next > cursor.next;
            cursor.skip_to(next);
        }
    }
    moved
}
