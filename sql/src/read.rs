//! SELECTs: queries without a name, whose rows go to whoever asked and whose state is in memory.
//!
//! A one-shot SELECT reads what is stored now, from the first shard's first record to the last of each shard as they
//! were when it began, merged by append time, and ends. A push SELECT follows; it writes nothing, so it loses nothing
//! when its reader goes.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use headwater_store::{
    Catalog, Follower, Offset, Position, ReadError, Record, RouteRevision, ShardId, Store, StoredBatch, StreamId,
    TimestampMs, TopicFilter,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::change::RecordId;
use crate::decode::BadRecord;
use crate::error::{SqlError, codes};
use crate::homes::{self, HomeStreams};
use crate::limits::{FOLLOW_BYTES, READ_AHEAD_BYTES, SORT_BYTES_MAX, TIMERS_PER_STEP_MAX};
use crate::operator::Place;
use crate::outcome::RowSender;
use crate::pipeline::Pipeline;
use crate::plan::physical::{OrderBy, Plan, Read, Source, Start};
use crate::query::side::SourceNames;
use crate::query::{QueryRules, of_no_stream, rules_of};
use crate::step::{Committed, SinkRow, State, Stop};
use crate::types::TimestampUs;
use crate::value::Value;
use crate::view::View;
use crate::watermark::Watermarks;

/// How often a push SELECT looks at the clock while windows wait for it.
const TICK: Duration = Duration::from_millis(500);

/// Of a read that ends, which has no watermarks.
const NO_RULES: QueryRules = QueryRules {
    idle_us: 0,
    future_skew_us: 0,
};

/// Where each shard of a source is read from.
pub(crate) async fn positions(
    store: &Store,
    catalog: &Catalog,
    source: &Source,
) -> Result<Vec<(ShardId, Offset)>, ReadError> {
    let Some(stream) = catalog.stream_by_id(source.stream) else {
        return Ok(Vec::new());
    };
    let shards: Vec<ShardId> = stream.shard_ids().collect();
    resolve(store, shards, &source.start).await
}

/// Where a start is in each shard, now.
pub(crate) async fn resolve(
    store: &Store,
    shards: Vec<ShardId>,
    start: &Start,
) -> Result<Vec<(ShardId, Offset)>, ReadError> {
    let position = match start {
        Start::Latest => Position::Latest,
        Start::Earliest => Position::Earliest,
        Start::Timestamp(ms) => Position::Timestamp(TimestampMs(*ms)),
        Start::Offset(offset) => Position::Offset(Offset(*offset)),
        Start::At(offsets) => return Ok(shards.into_iter().zip(offsets.iter().map(|at| Offset(*at))).collect()),
    };
    store.resolve(shards, position).await
}

/// Shared by both sorts of SELECT.
struct Reading {
    pipeline: Pipeline,
    inputs: SourceNames,
    rows: RowSender,
    order_by: Vec<OrderBy>,
    /// Rows that may still be sent.
    left: u64,
    /// ORDER BY: all rows, until the end.
    held: Vec<SinkRow>,
    held_bytes: usize,
    /// It tells of rows that are gone, as `{"_gone":{…}}`: a read that goes on.
    tells_gone: bool,
}

/// The reader is satisfied, or gone.
struct Done;

impl Reading {
    fn new(
        plan: &Plan,
        place: &Place,
        watermarks: Vec<Option<Watermarks>>,
        (homes, now): (HomeStreams, TimestampUs),
        rows: RowSender,
        tells_gone: bool,
    ) -> Result<Reading, SqlError> {
        let state = State::load(0, Committed::Memory(BTreeMap::new()), [])?;
        let mut pipeline =
            Pipeline::new(plan, place, state, watermarks).map_err(|error| SqlError::internal(error.to_string()))?;
        let left = plan.limit.unwrap_or(u64::MAX);
        let inputs = SourceNames::of(plan, homes.names());
        homes.put_into(&mut pipeline, now);
        Ok(Reading {
            pipeline,
            inputs,
            rows,
            order_by: plan.order_by.clone(),
            left,
            held: Vec::new(),
            held_bytes: 0,
            tells_gone,
        })
    }

    /// Takes in records; what comes of them is sent before all of it is worked out, and nothing more is worked out once
    /// the reader has enough.
    async fn apply(&mut self, records: &[(RecordId, Record)], now: TimestampUs) -> Result<Option<Done>, SqlError> {
        let mut more = self
            .pipeline
            .begin(records, now)
            .map_err(|stop| self.inputs.stopped(stop))?;
        while more {
            let rows = self.pipeline.take_rows();
            if self.rows.is_closed() {
                return Ok(Some(Done));
            }
            if let Some(done) = self.take(rows).await? {
                return Ok(Some(done));
            }
            // A long read is one task among many.
            tokio::task::yield_now().await;
            more = self.pipeline.go_on(now).map_err(|stop| self.inputs.stopped(stop))?;
        }
        Ok(None)
    }

    /// Sends rows, or holds them to be sorted.
    async fn take(&mut self, rows: Vec<SinkRow>) -> Result<Option<Done>, SqlError> {
        if self.order_by.is_empty() {
            return Ok(self.send(rows).await);
        }
        self.held_bytes += rows
            .iter()
            .map(|row| row.payload.as_ref().map_or(0, |payload| payload.len()) + row.key.len() + 64)
            .sum::<usize>();
        if self.held_bytes > SORT_BYTES_MAX {
            let message = format!(
                "ORDER BY would have to hold more than {} MiB of rows",
                SORT_BYTES_MAX >> 20
            );
            return Err(SqlError::new(codes::TOO_LARGE, message).help("narrow it down with WHERE"));
        }
        self.held.extend(rows);
        Ok(None)
    }

    async fn send(&mut self, rows: Vec<SinkRow>) -> Option<Done> {
        for row in rows {
            let text = match (&row.payload, &row.old) {
                (Some(payload), _) => payload.to_string(),
                (None, Some(old)) if self.tells_gone => format!("{{\"_gone\":{old}}}"),
                (None, _) => continue,
            };
            if self.left == 0 || self.rows.send(Ok(text)).await.is_err() {
                return Some(Done);
            }
            // LIMIT counts rows.
            self.left -= u64::from(row.payload.is_some());
        }
        (self.left == 0).then_some(Done)
    }

    async fn send_sorted(&mut self) {
        let order_by = std::mem::take(&mut self.order_by);
        let mut rows = std::mem::take(&mut self.held);
        rows.sort_by(|a, b| compare(&a.order, &b.order, &order_by));
        self.send(rows).await;
    }
}

/// NULLs last, or first when descending.
fn compare(a: &[Value], b: &[Value], order_by: &[OrderBy]) -> Ordering {
    for ((a, b), item) in a.iter().zip(b).zip(order_by) {
        let order = a.order_nulls_last(b);
        let order = if item.descending { order.reverse() } else { order };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// A one-shot SELECT, ready to run.
pub(crate) struct OneShot {
    reading: Reading,
    shards: Vec<ShardReader>,
    store: Store,
    step_records_max: usize,
}

/// Reads one shard to where it ended at the begin.
struct ShardReader {
    shard: ShardId,
    next: Offset,
    end: Offset,
    ahead: VecDeque<(RecordId, Record)>,
    /// The rows of a view, which were there before any record.
    of_view: bool,
}

impl OneShot {
    /// Fixes what is read: what is appended later is not in it.
    pub async fn begin(
        store: Store,
        plan: &Plan,
        place: &Place,
        rows: RowSender,
        step_records_max: usize,
    ) -> Result<OneShot, SqlError> {
        let catalog = store.catalog().borrow().clone();
        let mut shards = Vec::new();
        for (_, source) in plan.sources() {
            if let Some(view) = View::of(&catalog, source) {
                shards.push(ShardReader::of_rows(view.shard(), view.rows(&store, plan).await?));
                continue;
            }
            for (shard, next) in positions(&store, &catalog, source).await? {
                // A stream that is joined with itself is read once.
                if shards.iter().any(|known: &ShardReader| known.shard == shard) {
                    continue;
                }
                shards.push(ShardReader::begin(&store, shard, next).await?);
            }
        }
        for read in plan.reads() {
            let Read::Homes(homes) = read else { continue };
            for (shard, next) in homes::positions(&store, &catalog, homes)
                .await?
                .into_iter()
                .flat_map(|(_, at)| at)
            {
                if shards.iter().any(|known: &ShardReader| known.shard == shard) {
                    continue;
                }
                shards.push(ShardReader::begin(&store, shard, next).await?);
            }
        }
        let homes = HomeStreams::of(plan, &catalog, NO_RULES).map_err(|error| SqlError::internal(error.to_string()))?;
        let now = TimestampUs::from_ms(store.now());
        let watermarks = plan.reads().map(|_| None).collect();
        Ok(OneShot {
            reading: Reading::new(plan, place, watermarks, (homes, now), rows, false)?,
            shards,
            store,
            step_records_max,
        })
    }

    /// Reads to the end; an error is the last thing the reader gets.
    pub async fn run(mut self) {
        if let Err(error) = self.read().await {
            // Nobody is there to be told when the reader is gone.
            let _ = self.reading.rows.send(Err(error)).await;
        }
    }

    async fn read(&mut self) -> Result<(), SqlError> {
        let now = TimestampUs::from_ms(self.store.now());
        loop {
            if self.reading.rows.is_closed() {
                return Ok(());
            }
            let records = self.next_records().await?;
            if self.reading.apply(&records, now).await?.is_some() {
                return Ok(());
            }
            let ended = records.is_empty();
            let finished = self
                .reading
                .pipeline
                .finish(now, ended, TIMERS_PER_STEP_MAX)
                .map_err(|stop| self.reading.inputs.stopped(stop))?;
            if self.reading.take(finished.rows).await?.is_some() {
                return Ok(());
            }
            if ended {
                self.reading.send_sorted().await;
                return Ok(());
            }
            // A long read is one task among many.
            tokio::task::yield_now().await;
        }
    }

    /// The next records of all shards by append time.
    async fn next_records(&mut self) -> Result<Vec<(RecordId, Record)>, SqlError> {
        let mut records = Vec::new();
        while records.len() < self.step_records_max {
            for shard in &mut self.shards {
                shard.fill(&self.store).await?;
            }
            let head = |shard: &ShardReader| {
                let (id, record) = shard.ahead.front()?;
                Some((!shard.of_view, record.timestamp, id.shard))
            };
            let Some((_, at)) = self
                .shards
                .iter()
                .enumerate()
                .filter_map(|(at, shard)| head(shard).map(|head| (head, at)))
                .min()
            else {
                break;
            };
            records.extend(self.shards[at].ahead.pop_front());
        }
        Ok(records)
    }
}

impl ShardReader {
    /// From there to its end as it is now.
    async fn begin(store: &Store, shard: ShardId, next: Offset) -> Result<ShardReader, ReadError> {
        let (first, end) = store.bounds(shard).await?;
        Ok(ShardReader {
            shard,
            next: next.max(first),
            end,
            ahead: VecDeque::new(),
            of_view: false,
        })
    }

    /// The rows of a view: they are there already.
    fn of_rows(shard: ShardId, rows: Vec<(RecordId, Record)>) -> ShardReader {
        ShardReader {
            shard,
            next: Offset(0),
            end: Offset(0),
            ahead: rows.into(),
            of_view: true,
        }
    }

    async fn fill(&mut self, store: &Store) -> Result<(), ReadError> {
        while self.ahead.is_empty() && self.next < self.end {
            let batches = store.read(self.shard, self.next, READ_AHEAD_BYTES).await?;
            if batches.is_empty() {
                // Trimmed while it was read: there is nothing left of what it was to read.
                self.next = self.end;
            }
            for batch in batches {
                for (offset, record) in batch.records_from(self.next)? {
                    if offset < self.end {
                        self.ahead.push_back((
                            RecordId {
                                shard: self.shard,
                                offset,
                            },
                            record,
                        ));
                    }
                }
                self.next = self.next.max(batch.end());
            }
        }
        Ok(())
    }
}

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

impl SourceNames {
    /// Why a SELECT ended, in the words of its error.
    fn stopped(&self, stop: Stop) -> SqlError {
        match stop {
            Stop::BadRecord(BadRecord(record)) => SqlError::new(codes::BAD_RECORD, self.does_not_parse(record)),
            Stop::Read(error) => error.into(),
            Stop::TooManyGroups(_) | Stop::TooLarge | Stop::TooManyPairs => {
                SqlError::new(codes::TOO_LARGE, stop.to_string())
            }
            Stop::State(_) => SqlError::internal(stop.to_string()),
        }
    }
}

/// Resolves where a persistent query begins, for all its tasks at once.
pub(crate) async fn resolve_start(store: &Store, plan: &mut Plan) -> Result<(), ReadError> {
    let catalog: Arc<Catalog> = store.catalog().borrow().clone();
    for source in plan.sources_mut() {
        let offsets = positions(store, &catalog, source).await?;
        source.start = Start::At(offsets.into_iter().map(|(_, offset)| offset.0).collect());
    }
    for homes in plan.homes_mut() {
        let positions = homes::positions(store, &catalog, homes).await?;
        let offsets = |shards: Vec<(ShardId, Offset)>| shards.into_iter().map(|(_, offset)| offset.0).collect();
        homes.begins = positions
            .into_iter()
            .map(|(id, shards)| (id, offsets(shards)))
            .collect();
    }
    Ok(())
}
