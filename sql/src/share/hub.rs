//! The hub of one stream: it reads, decodes once, and gives each query what concerns it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headwater_store::{Follower, Offset, ReadError, ShardId, Store, StoredBatch};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::index::Index;
use super::queue::{Item, Queue, Rows, Seen, Subscription};
use super::{Join, Records, Steps, lock};
use crate::decode::Decoder;
use crate::function::Scope;
use crate::limits::FOLLOW_BYTES;
use crate::plan::physical::{ColumnId, Expr, PlanError, Source, SourceColumn};
use crate::types::TimestampUs;

/// How often a hub looks for queries that have left.
const SWEEP: Duration = Duration::from_secs(2);

/// The reader of one stream.
pub(super) struct Hub {
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
    /// From there on, for those who will join.
    pub fn new(
        store: Store,
        step_records_max: usize,
        cursors: &[(ShardId, Offset)],
        joins: mpsc::Receiver<Join>,
    ) -> Hub {
        Hub {
            follower: store.follow_from(cursors.to_vec()),
            store,
            step_records_max,
            joins,
            columns: Columns::default(),
            users: HashMap::new(),
            whole: Vec::new(),
            index: Index::default(),
            next_user: 0,
            seen: Arc::new(Seen::new(cursors.to_vec())),
        }
    }

    /// Until nobody is left, or the stream cannot be read: then each query finds out by itself.
    pub async fn run(mut self) {
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
                        let mut steps = Steps::new(found, self.step_records_max);
                        let mut records = Records::new();
                        while steps.fill(&mut records)? {
                            self.give(std::mem::take(&mut records));
                        }
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
        let begins = self.follower.cursors().to_vec();
        let subscription = Subscription::new(queue, self.seen.clone(), begins, columns.into());
        // A query that was stopped meanwhile drops it, and has left by that.
        reply.send(Some(subscription)).ok();
    }

    /// Gives the records, which are the next of their shards, to those whom they concern.
    fn give(&mut self, records: Records) {
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

    fn end(&self, records: &Records) -> Arc<[(ShardId, Offset)]> {
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
pub(super) fn mapped(expr: &Expr, columns: &[usize]) -> Expr {
    let mut expr = expr.clone();
    expr.change_columns(&mut |column| {
        // A plan that names a column which its source has not is refused when the task loads it.
        let number = columns.get(column.index()).copied().unwrap_or_default();
        *column = ColumnId(number as u32);
    });
    expr
}
