//! What a hub gives a query, and where: a bounded queue between the two, and how far the hub has come.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use headwater_store::{Offset, Record, ShardId};
use tokio::sync::Notify;

use super::lock;
use crate::change::RecordId;
use crate::decode::Decoded;
use crate::limits::HUB_QUEUE_MAX;

/// How far a hub has come.
#[derive(Debug)]
pub(super) struct Seen {
    pub cursors: Mutex<Vec<(ShardId, Offset)>>,
    pub caught_up: AtomicBool,
    /// Queries that have joined.
    pub users: AtomicUsize,
}

impl Seen {
    pub fn new(cursors: Vec<(ShardId, Offset)>) -> Seen {
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

/// What waits for one query.
#[derive(Debug, Default)]
pub(super) struct Queue {
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
    pub fn push(&self, item: Item) -> bool {
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

    /// Nothing more comes.
    pub fn end(&self) {
        lock(&self.state).over = true;
        self.news.notify_one();
    }

    /// It needs nothing any more.
    pub fn is_over(&self) -> bool {
        let state = lock(&self.state);
        state.over || state.left
    }
}

impl Subscription {
    /// At a hub that has come to `begins`.
    pub(super) fn new(
        queue: Arc<Queue>,
        seen: Arc<Seen>,
        begins: Vec<(ShardId, Offset)>,
        columns: Arc<[usize]>,
    ) -> Subscription {
        Subscription {
            place: Watch { queue, seen },
            begins,
            columns,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_store::StreamId;

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
        let seen = Arc::new(Seen::new(Vec::new()));
        let subscription = Subscription::new(queue.clone(), seen, Vec::new(), Arc::new([]));
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
