//! One reading of the log for all sessions that catch up (decision 8).
//!
//! A session that reads from the log takes a seat in the scan of its group, with its cursor, and leaves it with a page. The
//! scan goes round by round. A round begins at the cursor of the seat whose turn it is, and serves every seat whose cursor
//! lies in what it reads; so sessions that come back together are read for once. Where the filters of all seats of a round
//! begin with literals, it looks at the rows of entries, and reads only what holds a topic under one of them; what it has
//! seen of those rows it remembers (`spans`), so that a session that comes alone passes over most of them.
//!
//! Messages are matched in one trie with the subscriptions of all sessions that catch up ([`Scans::behind`]). A session is
//! in there before it takes a seat, and a subscription that it makes meanwhile widens the seat before its SUBACK: what is
//! committed after that is not read before.

mod spans;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_store::{AppliedEntry, GroupId, LogIndex, Qos, ReadError, Record, Store, StoredBatch, TimestampMs};
use tokio::sync::oneshot;

use crate::catch_up::Page;
use crate::cursor::{At, Cursor};
use crate::limits::{CATCH_UP_PAGE_BYTES, CATCH_UP_TOPICS_MAX, SCAN_SPAN_ENTRIES};
use crate::metrics::Metrics;
use crate::outbox::Delivery;
use crate::subscriptions::{Matcher, Subscriptions};

use spans::Spans;

/// The scans of all groups.
#[derive(Debug)]
pub struct Scans {
    /// By group, the catalog's included.
    groups: Vec<Arc<Scan>>,
    behind: Arc<Subscriptions>,
}

/// The hashes of a session's filters; None if one of them begins with a wildcard, so that every message has to be looked at.
pub type Hashes = Option<Vec<u32>>;

/// What a session asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whose.
    pub connection: u64,
    /// From here.
    pub cursor: Cursor,
    /// Entries before this one.
    pub until: LogIndex,
    /// What was appended before is skipped and counted.
    pub wanted_from: TimestampMs,
    /// So is what limits leave out.
    pub left_out: Option<LeftOut>,
    /// What the session's filters are.
    pub hashes: Hashes,
}

/// Messages of a group that limits leave out: the oldest of those before an entry.
#[derive(Debug, Clone, Copy)]
pub struct LeftOut {
    /// The newest of them.
    pub last: Place,
    /// Entries from here on are not meant.
    pub before: LogIndex,
}

/// Where a message stands among those of all groups: by time, then by its place in the log.
pub type Place = (TimestampMs, At);

/// The scan of one group.
#[derive(Debug)]
struct Scan {
    group: GroupId,
    store: Store,
    metrics: Arc<Metrics>,
    /// Entries of one span.
    span_entries: u64,
    state: Mutex<State>,
    /// Of the one round that is under way.
    matcher: Mutex<Matcher>,
}

#[derive(Debug, Default)]
struct State {
    /// The first one has its turn.
    seats: VecDeque<Seat>,
    /// A task goes round.
    runs: bool,
    spans: Spans,
}

#[derive(Debug)]
struct Seat {
    request: Request,
    reply: oneshot::Sender<Result<Page, ReadError>>,
}

/// What a round is to read.
enum Plan {
    /// Everything from here on, as much as fits a page.
    All { from: LogIndex },
    /// What holds one of the hashes.
    Holding {
        from: LogIndex,
        to: LogIndex,
        hashes: HashSet<u32>,
    },
}

/// What a round gives to one seat.
#[derive(Debug)]
struct Portion {
    request: Request,
    deliveries: Vec<Delivery>,
    skipped: u64,
}

/// What a round has read: everything before `next`.
struct Read {
    entries: Vec<Arc<AppliedEntry>>,
    next: LogIndex,
}

impl Scans {
    /// For all groups, the catalog's included, where there is nothing to read.
    pub fn new(store: &Store, metrics: &Arc<Metrics>) -> Scans {
        Scans::with_spans(store, metrics, SCAN_SPAN_ENTRIES)
    }

    fn with_spans(store: &Store, metrics: &Arc<Metrics>, span_entries: u64) -> Scans {
        let behind: Arc<Subscriptions> = Arc::default();
        let scan = |group| {
            Arc::new(Scan {
                group: GroupId(group),
                store: store.clone(),
                metrics: metrics.clone(),
                span_entries,
                state: Mutex::default(),
                matcher: Mutex::new(Matcher::new(behind.clone(), CATCH_UP_TOPICS_MAX).of_results(store)),
            })
        };
        let groups = (0..=store.data_groups().count() as u16).map(scan).collect();
        Scans { groups, behind }
    }

    /// The subscriptions of all sessions that catch up.
    pub fn behind(&self) -> &Arc<Subscriptions> {
        &self.behind
    }

    /// Waits for the next page of a session: at least one message, or all that is applied is read. The session's
    /// subscriptions are in [`Scans::behind`], and it has one request at a time.
    pub async fn page(&self, request: Request) -> Result<Page, ReadError> {
        let scan = self.groups[usize::from(request.cursor.group.0)].clone();
        let (reply, page) = oneshot::channel();
        let starts = {
            let mut state = scan.lock();
            state.seats.push_back(Seat { request, reply });
            !std::mem::replace(&mut state.runs, true)
        };
        if starts {
            tokio::spawn(scan.run());
        }
        page.await.unwrap_or(Err(ReadError::Stopped))
    }

    /// A session that may have a seat has another subscription. None: one that begins with a wildcard.
    pub fn widen(&self, connection: u64, filter: Option<&[u32]>) {
        for scan in &self.groups {
            let mut state = scan.lock();
            if let Some(seat) = state
                .seats
                .iter_mut()
                .find(|seat| seat.request.connection == connection)
            {
                widen(&mut seat.request.hashes, filter);
            }
        }
    }
}

/// Another filter of the same session.
pub fn widen(hashes: &mut Hashes, filter: Option<&[u32]>) {
    match (hashes.as_mut(), filter) {
        (Some(known), Some(filter)) => known.extend_from_slice(filter),
        _ => *hashes = None,
    }
}

impl Scan {
    /// Goes round until all seats are empty. A round at a time is on the read pool, so that others have their turn there.
    async fn run(self: Arc<Scan>) {
        loop {
            let scan = self.clone();
            if !self.store.blocking(move || scan.round()).await {
                return;
            }
        }
    }

    /// False when nobody waits any more.
    fn round(&self) -> bool {
        let Some(plan) = self.plan() else { return false };
        let read = match &plan {
            Plan::All { from } => self.read_all(*from),
            Plan::Holding { from, to, hashes } => self.read_holding(*from, *to, hashes),
        };
        match read {
            Ok(read) => {
                let mut portions = self.portions(&plan, read.next);
                self.share_out(&read.entries, &mut portions);
                self.settle(portions, read.next);
            }
            Err(error) => self.fail(&error),
        }
        true
    }

    /// Whose turn it is. Passes over spans that hold nothing for anybody.
    fn plan(&self) -> Option<Plan> {
        let applied = self.store.applied(self.group);
        let mut state = self.lock();
        state.seats.retain(|seat| !seat.reply.is_closed());
        loop {
            state.runs = !state.seats.is_empty();
            let seat = state.seats.pop_front()?;
            let from = seat.request.cursor.next;
            if from > applied || from >= seat.request.until {
                seat.give(Vec::new(), 0);
                continue;
            }
            let by_rows = seat.request.hashes.is_some();
            state.seats.push_back(seat);
            if !by_rows {
                return Some(Plan::All { from });
            }
            let span = from.0 / self.span_entries;
            let to = applied.next().min(LogIndex((span + 1) * self.span_entries));
            let within = |seat: &&Seat| (from..to).contains(&seat.request.cursor.next);
            let wanted = state
                .seats
                .iter()
                .filter(within)
                .filter_map(|seat| seat.request.hashes.as_ref());
            let hashes: HashSet<u32> = wanted.flatten().copied().collect();
            if !hashes.is_empty() && state.spans.may_hold(span, &hashes) {
                return Some(Plan::Holding { from, to, hashes });
            }
            for seat in &mut state.seats {
                if seat.request.hashes.is_some() && (from..to).contains(&seat.request.cursor.next) {
                    seat.request.cursor.skip_to(to.min(seat.request.until));
                }
            }
        }
    }

    fn read_all(&self, from: LogIndex) -> Result<Read, ReadError> {
        let (entries, next) = self.store.read_entries(self.group, from, CATCH_UP_PAGE_BYTES)?;
        self.metrics.scanned_entries.increment(entries.len() as u64);
        Ok(Read { entries, next })
    }

    /// Looks at rows, the whole span's if all of it is there, and reads what is wanted, a page at most.
    fn read_holding(&self, from: LogIndex, to: LogIndex, hashes: &HashSet<u32>) -> Result<Read, ReadError> {
        let span = from.0 / self.span_entries;
        let whole = to.0.is_multiple_of(self.span_entries) && !self.lock().spans.knows(span);
        let (mut entries, mut bytes, mut seen) = (Vec::new(), 0, Vec::new());
        let mut at = if whole {
            LogIndex(span * self.span_entries)
        } else {
            from
        };
        while at < to {
            let (rows, next) = self.store.entry_keys(self.group, at, to)?;
            self.metrics.scanned_entries.increment(rows.len() as u64);
            for keys in rows {
                if whole {
                    seen.extend(keys.hashes());
                }
                if keys.index < from || !keys.hashes().any(|hash| hashes.contains(&hash)) {
                    continue;
                }
                let next = keys.index.next();
                let entry = self.store.read_wanted(&keys, |hash| hashes.contains(&hash))?;
                bytes += entry.appends.iter().map(StoredBatch::size_bytes).sum::<usize>();
                entries.push(Arc::new(entry));
                if bytes >= CATCH_UP_PAGE_BYTES {
                    return Ok(Read { entries, next });
                }
            }
            at = next;
        }
        if whole {
            self.lock().spans.remember(span, seen);
        }
        Ok(Read { entries, next: to })
    }

    /// The seats that a round serves, by connection. In one that reads everything that may be any; in another one those that
    /// it read rows for.
    fn portions(&self, plan: &Plan, next: LogIndex) -> HashMap<u64, Portion> {
        let from = match plan {
            Plan::All { from } | Plan::Holding { from, .. } => *from,
        };
        let served = |request: &&Request| {
            let hashes = match (plan, &request.hashes) {
                (Plan::All { .. }, _) => true,
                (Plan::Holding { hashes, .. }, Some(own)) => own.iter().all(|hash| hashes.contains(hash)),
                (Plan::Holding { .. }, None) => false,
            };
            hashes && (from..next).contains(&request.cursor.next)
        };
        let state = self.lock();
        let requests = state.seats.iter().map(|seat| &seat.request).filter(served);
        let portion = |request: &Request| Portion {
            request: request.clone(),
            deliveries: Vec::new(),
            skipped: 0,
        };
        requests.map(|request| (request.connection, portion(request))).collect()
    }

    fn share_out(&self, entries: &[Arc<AppliedEntry>], portions: &mut HashMap<u64, Portion>) {
        let mut matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scanned = 0;
        for entry in entries {
            for batch in &entry.appends {
                match batch.records_from(batch.base) {
                    Ok(records) => {
                        scanned += records.len() as u64;
                        for (offset, record) in records {
                            let (index, shard) = (entry.index, batch.shard);
                            let at = At { index, shard, offset };
                            give(&mut matcher, record, at, batch.base, portions);
                        }
                    }
                    Err(error) => tracing::error!(%error, "a committed record batch cannot be delivered"),
                }
            }
        }
        self.metrics.scanned_records.increment(scanned);
    }

    /// Moves the seats that were served, and lets those go that have something, or have read all there is.
    fn settle(&self, mut portions: HashMap<u64, Portion>, next: LogIndex) {
        let applied = self.store.applied(self.group);
        let mut state = self.lock();
        for _ in 0..state.seats.len() {
            let Some(mut seat) = state.seats.pop_front() else { break };
            let Some(portion) = portions.remove(&seat.request.connection) else {
                state.seats.push_back(seat);
                continue;
            };
            let request = &mut seat.request;
            request.cursor.skip_to(next.min(request.until));
            let at_end = request.cursor.next > applied || request.cursor.next >= request.until;
            if at_end || !portion.deliveries.is_empty() || portion.skipped > 0 {
                seat.give(portion.deliveries, portion.skipped);
            } else {
                state.seats.push_back(seat);
            }
        }
    }

    /// All that wait are told: each may try again.
    fn fail(&self, error: &ReadError) {
        for seat in self.lock().seats.drain(..) {
            let _ = seat.reply.send(Err(error.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Matches one record, and gives it to those of its receivers who sit here and have not taken it.
fn give(
    matcher: &mut Matcher,
    record: Record,
    at: At,
    base: headwater_store::Offset,
    portions: &mut HashMap<u64, Portion>,
) {
    if record.topic.is_none() || record.copy || record.qos == Qos::AtMostOnce {
        return;
    }
    matcher.each(record, Some(at), |client, delivery| {
        let Some(portion) = portions.get_mut(&client.connection) else {
            return;
        };
        let Request { cursor, until, .. } = &portion.request;
        let taken = at.index < cursor.next || at.offset < cursor.resume_at(at.index, at.shard, base);
        if taken || at.index >= *until || delivery.qos == Qos::AtMostOnce {
            return;
        }
        match portion.request.skips((delivery.message.timestamp, at)) {
            true => portion.skipped += 1,
            false => portion.deliveries.push(delivery),
        }
    });
}

impl Request {
    fn skips(&self, place: Place) -> bool {
        let left_out = |limit: LeftOut| place <= limit.last && place.1.index < limit.before;
        place.0 < self.wanted_from || self.left_out.is_some_and(left_out)
    }
}

impl Seat {
    fn give(self, deliveries: Vec<Delivery>, skipped: u64) {
        let Cursor { group, next, .. } = self.request.cursor;
        // Nobody may be there any more.
        let _ = self.reply.send(Ok(Page {
            group,
            next,
            deliveries,
            skipped,
        }));
    }
}

#[cfg(test)]
mod tests;
