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
mod hub;
mod index;
mod queue;
mod steps;

pub(crate) use explain::explain;
pub(crate) use queue::{Item, Rows, Subscription, Watch};
pub(crate) use steps::{Records, Steps};

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use headwater_store::{Offset, ShardId, Store, StreamId};
use tokio::sync::{mpsc, oneshot};

use crate::limits::HUB_JOINS_WAITING;
use crate::plan::physical::{Expr, Op, OperatorId, Plan, Source, SourceColumn};
use hub::Hub;
use index::is_indexable;

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
        let hub = Hub::new(self.store.clone(), self.step_records_max, cursors, joins);
        tokio::spawn(hub.run());
        hubs.insert(share.stream(), sender.clone());
        sender
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
