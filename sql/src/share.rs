//! What queries on one stream share: one reader, one decode of each record, one look at their filters.
//!
//! A stream that queries follow has a *hub* on this node: a task that follows all its shards, takes the fields that any of
//! these queries wants out of each payload once, and gives the columns to them by reference. A query whose plan keeps no
//! state and begins with a filter that the predicate index ([`index`]) takes gets only the rows that its filter may keep,
//! and is not even woken for the others: so ten thousand standing filters cost an event one look into a hash table.
//!
//! ```text
//! shards ─ Follower ─ decode once ─┬─ all rows ──────────────────────► task of a GROUP BY
//!                                  └─ index ─┬─ rows 3, 17 ─────────► task of WHERE device = 'd7'
//!                                            └─ (nothing) ─────────── 9 999 others sleep on
//! ```
//!
//! A task joins when it has caught up, and reads by itself before that, whenever it is too slow for its queue, and for good
//! where it cannot share: a plan with several sources, one that wants tombstones, or a source whose event time is another.
//! Where a hub begins is told to who joins; the task reads up to there, and drops the rows that it has had. So sharing shows
//! in nothing but the cost: cursors, steps and Batches are each query's own, and a query that fails or stands still does so
//! alone. What a hub cannot decode without an error it gives as records, so that each query tells of them as ever.

mod explain;
mod index;

pub(crate) use explain::explain;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headwater_store::{Follower, Offset, ReadError, Record, ShardId, Store, StoredBatch, StreamId};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::change::RecordId;
use crate::decode::{Decoded, Decoder};
use crate::function::Scope;
use crate::limits::{FOLLOW_BYTES, HUB_JOINS_WAITING, HUB_QUEUE_MAX, STEP_BYTES_MAX};
use crate::plan::physical::{ColumnId, Expr, Op, OperatorId, Plan, PlanError, Source, SourceColumn};
use crate::types::TimestampUs;
use index::{Index, is_indexable};

/// How often a hub looks for queries that have left.
const SWEEP: Duration = Duration::from_secs(2);

/// What a plan can share.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    source: Source,
    /// Over the source's columns; None: it wants all rows.
    filter: Option<Expr>,
}

impl Share {
    /// None: the query reads alone.
    pub fn of(plan: &Plan) -> Option<Share> {
        let mut sources = plan.sources();
        let (node, source) = sources.next()?;
        if plan.reads().count() > 1 || source.columns.contains(&SourceColumn::Gone) {
            return None;
        }
        Some(Share {
            source: source.clone(),
            filter: filter(plan, node).filter(|filter| is_indexable(filter)).cloned(),
        })
    }

    /// The stream it reads.
    pub fn stream(&self) -> StreamId {
        self.source.stream
    }

    /// Only the rows that its filter may keep are given to it.
    pub fn is_filtered(&self) -> bool {
        self.filter.is_some()
    }
}

/// The filter behind the source of a plan that keeps nothing and waits for nothing: to such a plan a row that the filter
/// does not keep is no row.
fn filter(plan: &Plan, source: OperatorId) -> Option<&Expr> {
    let stateless = |op: &Op| {
        matches!(
            op,
            Op::Source(_) | Op::Filter(_) | Op::Project(_) | Op::Exchange(_) | Op::Sink(_)
        )
    };
    if !plan.nodes.iter().all(|node| stateless(&node.op)) {
        return None;
    }
    let mut users = plan.nodes.iter().filter(|node| node.inputs.contains(&source));
    match (users.next().map(|node| &node.op), users.next()) {
        (Some(Op::Filter(filter)), None) => Some(filter),
        _ => None,
    }
}

/// The hubs of this node, by stream.
#[derive(Debug)]
pub(crate) struct Hubs {
    store: Store,
    step_records_max: usize,
    by_stream: Mutex<HashMap<StreamId, mpsc::Sender<Join>>>,
}

#[derive(Debug)]
struct Join {
    share: Share,
    cursors: Vec<(ShardId, Offset)>,
    reply: oneshot::Sender<Option<Subscription>>,
}

impl Hubs {
    /// None yet.
    pub fn new(store: Store, step_records_max: usize) -> Hubs {
        Hubs {
            store,
            step_records_max,
            by_stream: Mutex::default(),
        }
    }

    /// Joins the hub of a stream. None: what the query reads cannot be shared.
    pub async fn join(&self, share: &Share, cursors: &[(ShardId, Offset)]) -> Option<Subscription> {
        loop {
            let (reply, joined) = oneshot::channel();
            let join = Join {
                share: share.clone(),
                cursors: cursors.to_vec(),
                reply,
            };
            let hub = self.hub(share, cursors);
            if hub.send(join).await.is_ok()
                && let Ok(subscription) = joined.await
            {
                return subscription;
            }
            // It has ended just now: the next look makes another one.
            lock(&self.by_stream).retain(|_, known| !known.is_closed());
        }
    }

    fn hub(&self, share: &Share, cursors: &[(ShardId, Offset)]) -> mpsc::Sender<Join> {
        let mut hubs = lock(&self.by_stream);
        if let Some(hub) = hubs.get(&share.stream()).filter(|hub| !hub.is_closed()) {
            return hub.clone();
        }
        let (sender, joins) = mpsc::channel(HUB_JOINS_WAITING);
        let hub = Hub {
            follower: self.store.follow_from(cursors.to_vec()),
            store: self.store.clone(),
            step_records_max: self.step_records_max,
            joins,
            columns: Columns::default(),
            users: HashMap::new(),
            whole: Vec::new(),
            index: Index::default(),
            next_user: 0,
            seen: Arc::new(Seen::new(cursors.to_vec())),
        };
        tokio::spawn(hub.run());
        hubs.insert(share.stream(), sender.clone());
        sender
    }
}

/// How far a hub has come.
#[derive(Debug)]
struct Seen {
    cursors: Mutex<Vec<(ShardId, Offset)>>,
    caught_up: AtomicBool,
    /// Queries that have joined.
    users: AtomicUsize,
}

impl Seen {
    fn new(cursors: Vec<(ShardId, Offset)>) -> Seen {
        Seen {
            cursors: Mutex::new(cursors),
            caught_up: AtomicBool::new(false),
            users: AtomicUsize::new(0),
        }
    }
}

/// A query's place at a hub. Dropped: it has left.
#[derive(Debug)]
pub(crate) struct Subscription {
    place: Watch,
    /// What is given begins here.
    pub begins: Vec<(ShardId, Offset)>,
    /// The numbers of the source's columns among those of the hub.
    pub columns: Arc<[usize]>,
}

/// What a hub gives at once, for one step or a part of one.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub rows: Rows,
    /// The next offset of each shard behind it.
    pub end: Arc<[(ShardId, Offset)]>,
}

/// Rows of an [`Item`].
#[derive(Debug, Clone)]
pub(crate) enum Rows {
    /// All of them.
    All(Arc<Decoded>),
    /// Those that the query's filter may keep.
    Some(Arc<Decoded>, Arc<[u32]>),
    /// Some could not be decoded without an error.
    Records(Arc<Vec<(RecordId, Record)>>),
}

impl Rows {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Rows::All(decoded) => decoded.origin.len(),
            Rows::Some(_, rows) => rows.len(),
            Rows::Records(records) => records.len(),
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<QueueState>,
    news: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    items: VecDeque<Item>,
    /// The hub gives it nothing more: it was too slow, or the hub has ended.
    over: bool,
    /// The query has left.
    left: bool,
}

impl QueueState {
    /// The first items, of so many rows together; the first of all whatever it holds.
    fn take(&mut self, rows_max: usize) -> Vec<Item> {
        let mut rows = 0;
        let mut fits = |item: &Item| {
            rows += item.rows.len();
            rows <= rows_max
        };
        let fit = self.items.iter().take_while(|item| fits(item)).count();
        self.items.drain(..fit.max(1).min(self.items.len())).collect()
    }
}

impl Queue {
    /// False: it takes nothing any more.
    fn push(&self, item: Item) -> bool {
        let mut state = lock(&self.state);
        if state.left || state.over {
            return false;
        }
        if state.items.len() >= HUB_QUEUE_MAX {
            state.over = true;
            state.items.clear();
        } else {
            state.items.push_back(item);
        }
        drop(state);
        self.news.notify_one();
        true
    }

    fn end(&self) {
        lock(&self.state).over = true;
        self.news.notify_one();
    }

    fn is_over(&self) -> bool {
        let state = lock(&self.state);
        state.over || state.left
    }
}

impl Subscription {
    /// Waits for the next items and gives those that one step of `rows_max` rows takes in, at least one. What comes after
    /// them stays in the queue, so that [`Watch::seen`] passes nothing that no step has taken in. None: the query has to
    /// read by itself from where it is. Cancel-safe.
    pub async fn next(&self, rows_max: usize) -> Option<Vec<Item>> {
        loop {
            let news = self.place.queue.news.notified();
            {
                let mut state = lock(&self.place.queue.state);
                if !state.items.is_empty() {
                    return Some(state.take(rows_max));
                }
                if state.over {
                    return None;
                }
            }
            news.await;
        }
    }

    /// No record that is already there is still to come.
    pub fn caught_up(&self) -> bool {
        self.place.seen.caught_up.load(Ordering::Acquire) && lock(&self.place.queue.state).items.is_empty()
    }

    /// For who wants to know how far it has come.
    pub fn watch(&self) -> Watch {
        self.place.clone()
    }
}

/// Tells how far a query has come that sleeps because nothing concerns it.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    queue: Arc<Queue>,
    seen: Arc<Seen>,
}

impl Watch {
    /// How far the hub has come, if all that it had for this query was taken. To be asked between steps: what was taken
    /// and has not been through a step would be passed.
    pub fn seen(&self) -> Option<Vec<(ShardId, Offset)>> {
        // Looked at first: what is given meanwhile is beyond it.
        let cursors = lock(&self.seen.cursors).clone();
        let state = lock(&self.queue.state);
        (state.items.is_empty() && !state.over && !state.left).then_some(cursors)
    }

    /// Queries at the hub.
    pub fn users(&self) -> usize {
        self.seen.users.load(Ordering::Relaxed)
    }
}

impl PartialEq for Watch {
    fn eq(&self, other: &Watch) -> bool {
        Arc::ptr_eq(&self.queue, &other.queue)
    }
}

impl Eq for Watch {}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = lock(&self.place.queue.state);
        state.left = true;
        state.items.clear();
    }
}

/// The reader of one stream.
struct Hub {
    store: Store,
    follower: Follower,
    step_records_max: usize,
    joins: mpsc::Receiver<Join>,
    columns: Columns,
    users: HashMap<u64, Arc<Queue>>,
    /// Those who want all rows.
    whole: Vec<u64>,
    index: Index,
    next_user: u64,
    seen: Arc<Seen>,
}

/// The columns that any query at a hub wants: they only become more, so that their numbers stay.
#[derive(Default)]
struct Columns {
    /// None: nobody has joined.
    source: Option<Source>,
    decoder: Option<Decoder>,
}

impl Hub {
    /// Until nobody is left, or the stream cannot be read: then each query finds out by itself.
    async fn run(mut self) {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweep.tick().await;
        loop {
            tokio::select! {
                biased;
                join = self.joins.recv() => match join {
                    Some(join) => self.join(join),
                    None => break,
                },
                found = news(&mut self.follower, &self.seen) => {
                    self.seen.caught_up.store(false, Ordering::Release);
                    let given = found.and_then(|found| {
                        let steps = records(found, self.step_records_max)?;
                        steps.into_iter().for_each(|records| self.give(records));
                        Ok::<_, ReadError>(())
                    });
                    if let Err(error) = given {
                        tracing::debug!(%error, "a stream is not read for its queries together any more");
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                _ = sweep.tick() => {
                    self.forget_those_who_left();
                    if self.users.is_empty() && self.joins.is_empty() {
                        break;
                    }
                }
            }
        }
        self.joins.close();
        self.users.values().for_each(|queue| queue.end());
    }

    fn join(&mut self, join: Join) {
        let Join {
            share, cursors, reply, ..
        } = join;
        let same_shards = self
            .follower
            .cursors()
            .iter()
            .all(|(shard, _)| cursors.iter().any(|(own, _)| own == shard));
        let columns = match same_shards {
            true => self.columns.add(&share.source),
            false => Ok(None),
        };
        let columns = match columns {
            Ok(Some(columns)) => columns,
            // It reads alone, and where its plan is wrong it finds out by itself.
            Ok(None) | Err(_) => {
                reply.send(None).ok();
                return;
            }
        };
        let user = self.next_user;
        self.next_user += 1;
        match share.filter.as_ref().map(|filter| mapped(filter, &columns)) {
            Some(filter) => self.index.add(&filter, user),
            None => self.whole.push(user),
        }
        let queue = Arc::new(Queue::default());
        self.users.insert(user, queue.clone());
        self.seen.users.store(self.users.len(), Ordering::Relaxed);
        let subscription = Subscription {
            place: Watch {
                queue,
                seen: self.seen.clone(),
            },
            begins: self.follower.cursors().to_vec(),
            columns: columns.into(),
        };
        // A query that was stopped meanwhile drops it, and has left by that.
        reply.send(Some(subscription)).ok();
    }

    /// Gives the records, which are the next of their shards, to those whom they concern.
    fn give(&mut self, records: Vec<(RecordId, Record)>) {
        let end = self.end(&records);
        let now = TimestampUs::from_ms(self.store.now());
        let decoded = self
            .columns
            .decoder
            .as_ref()
            .map(|decoder| decoder.decode(&records, &Scope { now }));
        match decoded {
            Some(Ok(decoded)) if decoded.errors.is_empty() => {
                let decoded = Arc::new(decoded);
                self.give_all(&Rows::All(decoded.clone()), &end);
                let Hub { index, users, .. } = self;
                index.find(&decoded.rows, |found, rows| {
                    let rows: Arc<[u32]> = rows.into();
                    for user in found {
                        if let Some(queue) = users.get(user) {
                            queue.push(Item {
                                rows: Rows::Some(decoded.clone(), rows.clone()),
                                end: end.clone(),
                            });
                        }
                    }
                });
            }
            _ => {
                let rows = Rows::Records(Arc::new(records));
                for queue in self.users.values() {
                    queue.push(Item {
                        rows: rows.clone(),
                        end: end.clone(),
                    });
                }
            }
        }
        // After the items: who sees this and has no item has missed nothing.
        *lock(&self.seen.cursors) = end.to_vec();
    }

    fn give_all(&self, rows: &Rows, end: &Arc<[(ShardId, Offset)]>) {
        for queue in self.whole.iter().filter_map(|user| self.users.get(user)) {
            queue.push(Item {
                rows: rows.clone(),
                end: end.clone(),
            });
        }
    }

    fn end(&self, records: &[(RecordId, Record)]) -> Arc<[(ShardId, Offset)]> {
        let mut end = lock(&self.seen.cursors).clone();
        for (id, _) in records {
            if let Some((_, next)) = end.iter_mut().find(|(shard, _)| *shard == id.shard) {
                *next = id.offset.plus(1);
            }
        }
        end.into()
    }

    fn forget_those_who_left(&mut self) {
        let before = self.users.len();
        self.users.retain(|_, queue| !queue.is_over());
        if self.users.len() < before {
            let users = &self.users;
            self.whole.retain(|user| users.contains_key(user));
            self.index.retain(|user| users.contains_key(&user));
            self.seen.users.store(self.users.len(), Ordering::Relaxed);
        }
    }
}

/// The next records; tells when there are none to be had now. Cancel-safe.
async fn news(follower: &mut Follower, seen: &Seen) -> Result<Vec<(StoredBatch, Offset)>, ReadError> {
    let found = follower.poll(FOLLOW_BYTES).await?;
    if !found.is_empty() {
        return Ok(found);
    }
    seen.caught_up.store(true, Ordering::Release);
    follower.next(FOLLOW_BYTES).await
}

impl Columns {
    /// The numbers of a source's columns. None: its rows or their times are not those of the others.
    fn add(&mut self, source: &Source) -> Result<Option<Vec<usize>>, PlanError> {
        let mut all = self.source.clone().unwrap_or_else(|| Source {
            columns: Vec::new(),
            timestamp: None,
            ..source.clone()
        });
        let mut number = |column: &SourceColumn| {
            let known = all.columns.iter().position(|known| known == column);
            known.unwrap_or_else(|| {
                all.columns.push(column.clone());
                all.columns.len() - 1
            })
        };
        let columns: Vec<usize> = source.columns.iter().map(&mut number).collect();
        let timestamp = source.timestamp.as_ref().map(|timestamp| mapped(timestamp, &columns));
        let same = all.format == source.format && all.on_error == source.on_error && all.captures == source.captures;
        let same_time = self.source.is_none() || all.timestamp == timestamp;
        if !same || !same_time {
            return Ok(None);
        }
        all.timestamp = timestamp;
        if self
            .source
            .as_ref()
            .is_none_or(|before| before.columns.len() < all.columns.len())
        {
            self.decoder = Some(Decoder::new(&all)?);
            self.source = Some(all);
        }
        Ok(Some(columns))
    }
}

/// The expression over other columns.
fn mapped(expr: &Expr, columns: &[usize]) -> Expr {
    let mut expr = expr.clone();
    expr.change_columns(&mut |column| {
        // A plan that names a column which its source has not is refused when the task loads it.
        let number = columns.get(column.index()).copied().unwrap_or_default();
        *column = ColumnId(number as u32);
    });
    expr
}

/// Cut into what one step takes in.
pub(crate) fn records(
    found: Vec<(StoredBatch, Offset)>,
    records_max: usize,
) -> Result<Vec<Vec<(RecordId, Record)>>, ReadError> {
    let mut steps: Vec<Vec<(RecordId, Record)>> = Vec::new();
    let mut bytes = 0;
    for (batch, from) in found {
        let mut left = batch.end().0.saturating_sub(from.0) as usize;
        for record in batch.each_from(from) {
            let (offset, record) = record?;
            let size = record.size_bytes();
            let room = |step: &Vec<_>| step.len() < records_max && bytes + size <= STEP_BYTES_MAX;
            if !steps.last().is_some_and(room) {
                steps.push(Vec::with_capacity(left.min(records_max)));
                bytes = 0;
            }
            bytes += size;
            left = left.saturating_sub(1);
            let id = RecordId {
                shard: batch.shard,
                offset,
            };
            if let Some(step) = steps.last_mut() {
                step.push((id, record));
            }
        }
    }
    Ok(steps)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(rows: usize) -> Item {
        let record = |offset| {
            let id = RecordId {
                shard: ShardId {
                    group: headwater_store::GroupId(1),
                    stream: StreamId(1),
                    number: 0,
                },
                offset: Offset(offset as u64),
            };
            (id, Record::new("{}"))
        };
        Item {
            rows: Rows::Records(Arc::new((0..rows).map(record).collect())),
            end: Arc::new([]),
        }
    }

    /// A query that is told to stop between two steps must not pass what the second one would have taken in.
    #[tokio::test]
    async fn nothing_is_passed_before_a_step_has_taken_it() {
        let queue = Arc::new(Queue::default());
        let subscription = Subscription {
            place: Watch {
                queue: queue.clone(),
                seen: Arc::new(Seen::new(Vec::new())),
            },
            begins: Vec::new(),
            columns: Arc::new([]),
        };
        for rows in [2, 3, 4, 9, 1] {
            queue.push(item(rows));
        }
        let mut taken = Vec::new();
        for _ in 0..4 {
            assert!(subscription.watch().seen().is_none(), "behind {taken:?} there is more");
            let items = subscription.next(5).await.unwrap();
            taken.push(items.iter().map(|item| item.rows.len()).collect::<Vec<_>>());
        }
        assert_eq!(taken, [vec![2, 3], vec![4], vec![9], vec![1]]);
        assert!(subscription.watch().seen().is_some());
        queue.end();
        assert!(subscription.next(5).await.is_none());
    }
}
