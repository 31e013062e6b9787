//! A SELECT that goes on.

use std::sync::Arc;
use std::time::Duration;

use headwater_store::{
    Catalog, Follower, Offset, Record, RouteRevision, ShardId, Store, StoredBatch, StreamId, TopicFilter,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Done, Reading, positions, resolve};
use crate::change::RecordId;
use crate::error::SqlError;
use crate::homes::{self, HomeStreams};
use crate::limits::{FOLLOW_BYTES, TIMERS_PER_STEP_MAX};
use crate::operator::Place;
use crate::outcome::RowSender;
use crate::plan::physical::{Plan, Read, Start};
use crate::query::side::SourceNames;
use crate::query::{QueryRules, of_no_stream, rules_of};
use crate::types::TimestampUs;
use crate::view::View;
use crate::watermark::Watermarks;
/// How often a push SELECT looks at the clock while windows wait for it.
const TICK: Duration = Duration::from_millis(500);

/// The streams of the topic filters of a push SELECT.
struct Homes {
    plan: Plan,
    rules: QueryRules,
    filters: Vec<TopicFilter>,
    known: Vec<StreamId>,
    /// The routing that they are as of: without another one there are no others.
    routes: RouteRevision,
}

impl Homes {
    fn of(plan: &Plan, catalog: &Catalog, rules: QueryRules) -> Homes {
        let filters: Vec<TopicFilter> = plan.filters().collect();
        Homes {
            plan: plan.clone(),
            rules,
            known: homes::streams_of(catalog, &filters),
            routes: catalog.route_revision,
            filters,
        }
    }

    /// There are topic filters.
    fn any(&self) -> bool {
        !self.filters.is_empty()
    }

    /// The streams are others now than they were.
    fn are_others(&mut self, catalog: &Catalog) -> bool {
        if std::mem::replace(&mut self.routes, catalog.route_revision) == catalog.route_revision {
            return false;
        }
        let now = homes::streams_of(catalog, &self.filters);
        std::mem::replace(&mut self.known, now) != self.known
    }

    fn streams(&self, catalog: &Catalog) -> Result<HomeStreams, SqlError> {
        let streams = HomeStreams::of(&self.plan, catalog, self.rules);
        streams.map_err(|error| SqlError::internal(error.to_string()))
    }
}

/// Each shard is read once.
fn add_cursors(cursors: &mut Vec<(ShardId, Offset)>, more: impl IntoIterator<Item = (ShardId, Offset)>) {
    for (shard, offset) in more {
        if !cursors.iter().any(|(known, _)| *known == shard) {
            cursors.push((shard, offset));
        }
    }
}

/// A push SELECT, already listening.
pub(crate) struct Push {
    reading: Reading,
    follower: Follower,
    /// The streams of its topic filters, and what tells of others.
    homes: Homes,
    changes: watch::Receiver<Arc<Catalog>>,
    store: Store,
    step_records_max: usize,
    /// The rows of a view, which come before its changes.
    rows: Vec<(RecordId, Record)>,
}

impl Push {
    /// Begins to listen: what is appended after this returns will be seen.
    pub async fn begin(
        store: Store,
        plan: &Plan,
        sender: RowSender,
        rules: QueryRules,
        step_records_max: usize,
    ) -> Result<Push, SqlError> {
        let mut changes = store.catalog();
        let catalog = changes.borrow_and_update().clone();
        let now = TimestampUs::from_ms(store.now());
        let (mut cursors, mut watermarks, mut rows) = (Vec::<(ShardId, Offset)>::new(), Vec::new(), Vec::new());
        for read in plan.reads() {
            let source = match read {
                Read::Stream(source) => source,
                Read::Homes(homes) => {
                    let positions = homes::positions(&store, &catalog, homes).await?;
                    let shards = positions.into_iter().flat_map(|(_, shards)| shards);
                    add_cursors(&mut cursors, shards);
                    let rules = of_no_stream(plan, rules);
                    watermarks.push(Some(Watermarks::new(rules, [], TimestampUs::MIN, now)));
                    continue;
                }
            };
            let mut positions = positions(&store, &catalog, source).await?;
            if let Some(view) = View::of(&catalog, source) {
                // Where the changes end before the rows are read: one of them may come twice, none is lost.
                let shards = positions.iter().map(|(shard, _)| *shard).collect();
                positions = resolve(&store, shards, &Start::Latest).await?;
                rows.extend(view.rows(&store, plan).await?);
            }
            let shards = positions.iter().map(|(shard, _)| (*shard, TimestampUs::MIN));
            watermarks.push(Some(Watermarks::new(
                rules_of(plan, source, rules),
                shards,
                TimestampUs::MIN,
                now,
            )));
            add_cursors(&mut cursors, positions);
        }
        let follower = store.follow_from(cursors);
        let homes = Homes::of(plan, &catalog, rules);
        let streams = homes.streams(&catalog)?;
        Ok(Push {
            reading: Reading::new(plan, &Place::Here, watermarks, (streams, now), sender, true)?,
            homes,
            changes,
            follower,
            store,
            step_records_max,
            rows,
        })
    }

    /// Goes on until the reader is gone, LIMIT is reached, or `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        if let Err(error) = self.follow(&stop).await {
            let _ = self.reading.rows.send(Err(error)).await;
        }
    }

    async fn follow(&mut self, stop: &CancellationToken) -> Result<(), SqlError> {
        let gone = self.reading.rows.clone();
        for rows in std::mem::take(&mut self.rows).chunks(self.step_records_max) {
            if self.step(rows).await?.is_some() {
                return Ok(());
            }
        }
        loop {
            let waits = self.reading.pipeline.has_timers();
            let found = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = gone.closed() => return Ok(()),
                found = self.follower.next(FOLLOW_BYTES) => found?,
                Ok(()) = self.changes.changed(), if self.homes.any() => self.follow_homes().await?,
                () = tokio::time::sleep(TICK), if waits => Vec::new(),
            };
            let mut records = Vec::new();
            for (batch, from) in found {
                let id = |offset| RecordId {
                    shard: batch.shard,
                    offset,
                };
                records.extend(
                    batch
                        .records_from(from)?
                        .into_iter()
                        .map(|(offset, record)| (id(offset), record)),
                );
            }
            // Nothing: time passes.
            let nothing: &[(RecordId, Record)] = &[];
            let steps = records
                .chunks(self.step_records_max)
                .chain(records.is_empty().then_some(nothing));
            let behind = !self.follower.caught_up();
            for step in steps {
                if behind || step.len() == self.step_records_max {
                    let now = TimestampUs::from_ms(self.store.now());
                    self.reading.pipeline.still_reading(now);
                }
                if self.step(step).await?.is_some() {
                    return Ok(());
                }
            }
        }
    }

    /// Reads the streams too that were made meanwhile, from their first record on, and those no longer that are gone.
    /// Gives what the follower had taken and not given yet: the one in its place goes on behind that.
    async fn follow_homes(&mut self) -> Result<Vec<(StoredBatch, Offset)>, SqlError> {
        let catalog = self.changes.borrow_and_update().clone();
        if !self.homes.are_others(&catalog) {
            return Ok(Vec::new());
        }
        let taken = self.follower.poll(0).await?;
        let streams = self.homes.streams(&catalog)?;
        let mut cursors = self.follower.cursors().to_vec();
        homes::bring_up(&self.homes.plan, &catalog, &mut cursors);
        self.follower = self.store.follow_from(cursors);
        self.reading.inputs = SourceNames::of(&self.homes.plan, streams.names());
        let now = TimestampUs::from_ms(self.store.now());
        streams.put_into(&mut self.reading.pipeline, now);
        Ok(taken)
    }

    async fn step(&mut self, records: &[(RecordId, Record)]) -> Result<Option<Done>, SqlError> {
        let now = TimestampUs::from_ms(self.store.now());
        if let Some(done) = self.reading.apply(records, now).await? {
            return Ok(Some(done));
        }
        loop {
            let finished = self
                .reading
                .pipeline
                .finish(now, false, TIMERS_PER_STEP_MAX)
                .map_err(|stop| self.reading.inputs.stopped(stop))?;
            let more = finished.more;
            if let Some(done) = self.reading.take(finished.rows).await? {
                return Ok(Some(done));
            }
            if !more {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests;
