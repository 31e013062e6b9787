//! A session that reads from the log: because it was away, or because its outbox was full.
//!
//! It takes the entries of each group that it is behind in page by page, from a reading that it shares with others (`scan`).
//! Where it has read everything that is applied, it opens the group in its outbox (`outbox`): the dispatcher then
//! serves it from an exact entry on, and it reads the few entries before that one. So it misses nothing and gets nothing
//! twice. QoS 0 is not delivered this way: it promises nothing to those who are not there.
//!
//! What a session that was away gets may be limited: by age, or to the newest so many messages or bytes. Those limits need
//! to know what there is, so the log is then read twice: once, by the session for itself, to find the message after which
//! everything is wanted.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use headwater_store::{GroupId, LogIndex, Qos, ReadError, Record, Store, TimestampMs, TopicFilter, filter_hashes};

use crate::cursor::{At, Cursor};
use crate::dispatch::Dispatched;
use crate::limits::{CATCH_UP_PAGE_BYTES, CATCH_UP_TOPICS_MAX};
use crate::outbox::{Delivery, Outbox};
use crate::scan::{self, Hashes, LeftOut, Place, Request, Scans};
use crate::subscriptions::{Matcher, Subscriber, Subscriptions};

/// How much of what it missed a session gets: the newest of it. 0 is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages.
    pub messages_max: usize,
    /// Bytes of messages.
    pub bytes_max: usize,
    /// What is older is not wanted.
    pub age_max_ms: u64,
}

/// The subscriptions of one session while it reads from the log: for itself, and among those of all that do.
#[derive(Debug)]
pub struct Own {
    connection: u64,
    subscriptions: Arc<Subscriptions>,
    hashes: Hashes,
    filters: Vec<TopicFilter>,
    scans: Arc<Scans>,
}

impl Own {
    /// None yet.
    pub fn new(scans: &Arc<Scans>, connection: u64) -> Own {
        Own {
            connection,
            subscriptions: Arc::default(),
            hashes: Some(Vec::new()),
            filters: Vec::new(),
            scans: scans.clone(),
        }
    }

    /// One more, from now on.
    pub fn subscribe(&mut self, filter: &TopicFilter, subscriber: Subscriber) {
        self.subscriptions.subscribe(filter, subscriber.clone());
        self.scans.behind().subscribe(filter, subscriber);
        let hashes = filter_hashes(filter);
        scan::widen(&mut self.hashes, hashes.as_deref());
        self.scans.widen(self.connection, hashes.as_deref());
        self.filters.push(filter.clone());
    }

    /// One less.
    pub fn unsubscribe(&mut self, filter: &TopicFilter) {
        self.subscriptions.unsubscribe(filter, self.connection);
        self.scans.behind().unsubscribe(filter, self.connection);
        self.filters.retain(|known| known != filter);
    }

    /// What it asks a scan for.
    pub fn request(&self) -> Wanted {
        Wanted {
            connection: self.connection,
            hashes: self.hashes.clone(),
            scans: self.scans.clone(),
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        for filter in &self.filters {
            self.scans.behind().unsubscribe(filter, self.connection);
        }
    }
}

/// What one read is for.
#[derive(Debug)]
pub struct Wanted {
    connection: u64,
    hashes: Hashes,
    scans: Arc<Scans>,
}

/// The groups that one session is behind in, the next one to be read first.
#[derive(Debug)]
pub struct CatchUp {
    /// The subscriptions of this session alone.
    matcher: Matcher,
    behind: VecDeque<Behind>,
    /// Under way until it is known what is wanted.
    survey: Option<Survey>,
    /// What was appended before is skipped.
    wanted_from: TimestampMs,
    /// The newest message that limits leave out.
    left_out: Option<Place>,
}

/// Finds the newest messages that limits allow.
#[derive(Debug)]
struct Survey {
    /// Groups that are not looked through, and where their look ends.
    left: Vec<(Cursor, LogIndex)>,
    limits: Backlog,
    /// Places and sizes of the newest so far, the oldest of them on top.
    newest: BinaryHeap<Reverse<(Place, usize)>>,
    bytes: usize,
}

#[derive(Debug)]
struct Behind {
    /// What is read; what is delivered is the session's own cursor.
    cursor: Cursor,
    /// The group is open from this entry on.
    until: Option<LogIndex>,
    /// Limits concern what is before this entry.
    limited: LogIndex,
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
    /// Messages that limits left out.
    pub skipped: u64,
}

impl CatchUp {
    /// With the subscriptions of one session, which may still change.
    pub fn new(own: &Own) -> CatchUp {
        CatchUp {
            matcher: Matcher::new(own.subscriptions.clone(), CATCH_UP_TOPICS_MAX),
            behind: VecDeque::new(),
            survey: None,
            wanted_from: TimestampMs(i64::MIN),
            left_out: None,
        }
    }

    /// Leaves out what is beyond the limits, of what is applied by now.
    pub fn limit(&mut self, limits: Backlog, store: &Store) {
        if limits.age_max_ms > 0 {
            let age_ms = i64::try_from(limits.age_max_ms).unwrap_or(i64::MAX);
            self.wanted_from = TimestampMs(store.now().0.saturating_sub(age_ms));
        }
        if limits.messages_max > 0 || limits.bytes_max > 0 {
            let left = self.behind.iter_mut().map(|behind| {
                behind.limited = store.applied(behind.cursor.group).next();
                (behind.cursor.clone(), behind.limited)
            });
            self.survey = Some(Survey {
                left: left.collect(),
                limits,
                newest: BinaryHeap::new(),
                bytes: 0,
            });
        }
    }

    /// Reads a group from here on.
    pub fn add(&mut self, cursor: Cursor) {
        self.behind.push_back(Behind {
            cursor,
            until: None,
            limited: LogIndex(0),
        });
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

    /// The next page of the group that has waited longest. Nothing while limits are looked after.
    pub async fn next_page(mut self: Box<Self>, store: Store, wanted: Wanted) -> Read {
        if let Some(mut survey) = self.survey.take() {
            let reader = store.clone();
            let look = move || {
                let found = survey.look(&reader, &mut self.matcher);
                self.survey = Some(survey).filter(|survey| !survey.left.is_empty());
                let found = found.map(|last| self.left_out = last.max(self.left_out));
                (self, found.map(|()| None))
            };
            return store.blocking(look).await;
        }
        let Some(mut behind) = self.behind.pop_front() else {
            return (self, Ok(None));
        };
        let request = Request {
            connection: wanted.connection,
            cursor: behind.cursor.clone(),
            until: behind.until.unwrap_or(LogIndex(u64::MAX)),
            wanted_from: self.wanted_from,
            left_out: self.left_out.map(|last| LeftOut {
                last,
                before: behind.limited,
            }),
            hashes: wanted.hashes,
        };
        let page = wanted.scans.page(request).await;
        if let Ok(page) = &page {
            behind.cursor.skip_to(page.next);
        }
        self.behind.push_back(behind);
        (self, page.map(Some))
    }
}

/// A page, and what goes on after it.
pub type Read = (Box<CatchUp>, Result<Option<Page>, ReadError>);

impl Survey {
    /// Looks through the next page; gives the newest message that is left out, as far as is known by now.
    fn look(&mut self, store: &Store, matcher: &mut Matcher) -> Result<Option<Place>, ReadError> {
        let mut left_out = None;
        let Some((cursor, until)) = self.left.last_mut() else {
            return Ok(left_out);
        };
        let until = *until;
        let (newest, bytes) = (&mut self.newest, &mut self.bytes);
        read(store, cursor, until, matcher, |at, delivery| {
            let size = delivery.message.size_bytes();
            *bytes += size;
            newest.push(Reverse(((delivery.message.timestamp, at), size)));
        })?;
        if cursor.next >= until {
            self.left.pop();
        }
        let Backlog {
            messages_max,
            bytes_max,
            ..
        } = self.limits;
        let over = |count: usize, bytes: usize| {
            (messages_max > 0 && count > messages_max) || (bytes_max > 0 && bytes > bytes_max)
        };
        while over(self.newest.len(), self.bytes) {
            let Some(Reverse((place, size))) = self.newest.pop() else {
                break;
            };
            self.bytes -= size;
            left_out = Some(place);
        }
        Ok(left_out)
    }
}

/// Reads a page of a group, and gives what its messages become for the matcher's one session. Moves the cursor behind it,
/// to `until` at most.
fn read(
    store: &Store,
    cursor: &mut Cursor,
    until: LogIndex,
    matcher: &mut Matcher,
    mut give: impl FnMut(At, Delivery),
) -> Result<(), ReadError> {
    let (entries, next) = store.read_entries(cursor.group, cursor.next, CATCH_UP_PAGE_BYTES)?;
    for entry in entries.iter().take_while(|entry| entry.index < until) {
        for batch in &entry.appends {
            let from = cursor.resume_at(entry.index, batch.shard, batch.base);
            match batch.records_from(from) {
                Ok(records) => records.into_iter().for_each(|(offset, record)| {
                    let (index, shard) = (entry.index, batch.shard);
                    take(matcher, record, At { index, shard, offset }, &mut give);
                }),
                Err(error) => tracing::error!(%error, "a committed record batch cannot be delivered"),
            }
        }
    }
    cursor.skip_to(until.min(next));
    Ok(())
}

fn take(matcher: &mut Matcher, record: Record, at: At, give: &mut impl FnMut(At, Delivery)) {
    if record.topic.is_none() || record.copy || record.qos == Qos::AtMostOnce {
        return;
    }
    matcher.each(record, Some(at), |_, delivery| {
        if delivery.qos > Qos::AtMostOnce {
            give(at, delivery);
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
