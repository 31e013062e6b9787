//! One persistent query in one group: where exactly-once comes from.
//!
//! The cursor and the state live where the output goes. For each group that has shards of the output stream there is a
//! task, on that group's leader; it reads every input shard and keeps the rows whose output is its group's. One step
//! is one Batch of that group:
//!
//! ```text
//! when    QUERY_PROGRESS[query] == the progress this step began with,  and the term is this task's
//! append  the output records
//! put     the changed state rows and timers
//! put     QUERY_PROGRESS[query] = cursors and watermarks after the step
//! ```
//!
//! So however often a process dies, is fenced off, or does not learn the outcome of a write: a step has happened once
//! or not at all, and whoever goes on begins with the progress that was committed. On any error of a write the task
//! forgets all it has in memory and loads it again.
//!
//! [`QueryCore`] is this without I/O: records in, Batch out. [`task`] is the loop around it.

mod pace;
mod progress;
pub(crate) mod side;
mod size;
pub(crate) mod task;

pub use progress::{Progress, begins};
pub(crate) use progress::{of_no_stream, rules_of, start};

use std::sync::Arc;

use bytes::Bytes;
use headwater_store::{
    Batch, Catalog, Condition, ControlError, EncodedRecords, GroupId, Offset, Placement, Put, QueryRow, Record,
    RouteRevision, ShardId, StreamId, StreamRow, Term, TimestampMs, TopicFilter, retained_put, tables,
};
use tokio_util::sync::CancellationToken;

use crate::change::RecordId;
use crate::decode::Decoded;
use crate::homes::{self, HomeStreams};
use crate::limits::RESULT_BYTES_MAX;
use crate::operator::{Place, place_of};
use crate::pipeline::{Finished, Pipeline};
use crate::plan::physical::{PLAN_VERSION, Plan, PlanError};
use crate::share::{Item, Rows, Share};
use crate::step::{Committed, SinkRow, State, Stop};
use crate::types::TimestampUs;
use crate::value::Fault;
use progress::restore_watermarks;
use side::{Side, SideStreams, SourceNames};
use task::TaskPosition;

/// What of the configuration a query needs.
#[derive(Debug, Clone, Copy)]
pub struct QueryRules {
    /// `sql.idle`
    pub idle_us: i64,
    /// `sql.future_skew_max`
    pub future_skew_us: i64,
}

/// Why a query cannot begin. It would fail again: only a person can help.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// Its plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Its progress row.
    #[error("the progress of the query cannot be read: {0}")]
    Progress(#[from] ControlError),
    /// The store, for now.
    #[error(transparent)]
    Read(#[from] headwater_store::ReadError),
    /// A plan that nobody resolved the start of.
    #[error("the plan does not say where to begin")]
    NoStart,
    /// An input is gone.
    #[error("input stream {0} does not exist any more")]
    NoInput(headwater_store::StreamId),
}

/// A persistent query in one group, without I/O.
#[derive(Debug)]
pub struct QueryCore {
    query: u64,
    group: GroupId,
    output: Arc<StreamRow>,
    pipeline: Pipeline,
    side: Side,
    /// The streams of tables that its rows look into.
    tables: Vec<StreamId>,
    /// What it can share with other queries.
    share: Option<Share>,
    /// The topic filters that it reads, and the streams that are home to them as far as it knows.
    filters: Vec<TopicFilter>,
    homes: Vec<StreamId>,
    /// The routing that this is as of: without another one there are no others.
    routes: RouteRevision,
    /// As of the step that runs.
    progress: Progress,
    /// The row as it is committed.
    committed: Option<Bytes>,
}

/// A step that is ready to be committed.
#[derive(Debug)]
pub struct ReadyStep {
    /// Without the condition on the term.
    pub batch: Batch,
    /// It holds more than the progress: it must be written. Else that can wait.
    pub writes: bool,
    /// Event time has gone on: worth saving, but not at once.
    pub moved_time: bool,
    /// Timers that it has fired.
    pub timers: usize,
    /// More timers are due: make another step at once.
    pub more: bool,
    /// What could not be worked out.
    pub errors: Vec<(RecordId, Fault)>,
    /// Rows that came too late.
    pub late: usize,
    /// Records put out.
    pub rows: u64,
    /// The progress after it.
    progress_row: Bytes,
}

/// Which query is to run where.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The query.
    pub query: Arc<QueryRow>,
    /// The stream it writes.
    pub output: Arc<StreamRow>,
    /// As it is now: the streams it reads are in it.
    pub catalog: Arc<Catalog>,
    /// The group whose shards of the output it writes.
    pub group: GroupId,
    /// What of the configuration it needs.
    pub rules: QueryRules,
    /// Where it tells of late rows and errors.
    pub side: SideStreams,
}

impl QueryCore {
    /// From what is committed: `progress` is the row of QUERY_PROGRESS, `state` the table of the group, `now` the time
    /// of the start.
    pub fn load(
        assignment: Assignment,
        progress: Option<Bytes>,
        state: Committed,
        now: TimestampUs,
    ) -> Result<QueryCore, LoadError> {
        let Assignment {
            query,
            output,
            catalog,
            group,
            rules,
            side,
        } = assignment;
        let plan = Plan::decode(&query.plan)?;
        let mut loaded = match &progress {
            Some(row) => Progress::decode(row)?,
            None => Progress {
                plan: PLAN_VERSION,
                cursors: start(&plan, &catalog)?,
                ..Progress::default()
            },
        };
        let homes = HomeStreams::of(&plan, &catalog, rules)?;
        homes::bring_up(&plan, &catalog, &mut loaded.cursors);
        let watermarks = restore_watermarks(&plan, &homes, &loaded, rules, now.max(loaded.now));
        let with_timers = plan
            .nodes
            .iter()
            .filter(|node| node.op.has_timers())
            .map(|node| node.id);
        let state = State::load(query.id, state, with_timers)?;
        let place = Place::Group {
            output: output.clone(),
            group,
        };
        let mut pipeline = Pipeline::new(&plan, &place, state, watermarks)?;
        let names = homes.names();
        let home_ids = homes.ids();
        homes.put_into(&mut pipeline, now.max(loaded.now));
        Ok(QueryCore {
            query: query.id,
            group,
            output,
            pipeline,
            side: Side::new(side, &plan, names),
            filters: plan.filters().collect(),
            homes: home_ids,
            routes: catalog.route_revision,
            tables: plan.tables(),
            share: Share::of(&plan),
            progress: loaded,
            committed: progress,
        })
    }

    /// See [`Pipeline::give_up_at`].
    pub fn give_up_at(&mut self, stop: CancellationToken) {
        self.pipeline.give_up_at(stop);
    }

    /// Where each input shard is to be read on.
    pub fn cursors(&self) -> &[(ShardId, Offset)] {
        &self.progress.cursors
    }

    /// Where the shards of tables are to be read on that its rows look into.
    pub fn tables(&self) -> Vec<(ShardId, Offset)> {
        let cursors = self.progress.cursors.iter();
        cursors
            .filter(|(shard, _)| self.tables.contains(&shard.stream))
            .copied()
            .collect()
    }

    /// How far it has come.
    pub fn position(&self) -> TaskPosition {
        TaskPosition {
            cursors: self.progress.cursors.clone(),
            watermark: self.progress.watermark(),
            windows: self.pipeline.timers(),
        }
    }

    /// It reads FROM a topic filter.
    pub fn reads_homes(&self) -> bool {
        !self.filters.is_empty()
    }

    /// The streams that are home to its topic filters are others now than those that it reads.
    pub fn has_other_homes(&self, catalog: &Catalog) -> bool {
        let moved = catalog.route_revision != self.routes;
        moved && self.reads_homes() && homes::streams_of(catalog, &self.filters) != self.homes
    }

    /// The names of its inputs.
    pub fn inputs(&self) -> &SourceNames {
        self.side.inputs()
    }

    /// Time alone can bring output.
    pub fn waits_for_time(&self) -> bool {
        self.pipeline.has_timers()
    }

    /// More records are there already: until they are read, no shard counts as silent.
    pub fn still_reading(&mut self, now: TimestampUs) {
        self.pipeline.still_reading(now);
    }

    /// Makes a step of these records, each the next of its shard; of none, to let time pass. At most `timers_max` of the
    /// timers that are due are fired in it.
    pub fn step(
        &mut self,
        records: &[(RecordId, Record)],
        now: TimestampUs,
        timers_max: usize,
    ) -> Result<ReadyStep, Stop> {
        let now = now.max(self.progress.now);
        if !records.is_empty() {
            self.pipeline.apply(records, now)?;
        }
        let finished = self.pipeline.finish(now, false, timers_max)?;
        for (number, (id, _)) in records.iter().enumerate() {
            // Of a run of one shard the last one counts.
            if records.get(number + 1).is_none_or(|(next, _)| next.shard != id.shard) {
                self.move_past(*id);
            }
        }
        Ok(self.finish(finished, now))
    }

    /// As [`QueryCore::step`], of what a hub gives; `columns` are the source's among those of the hub.
    pub fn step_shared(
        &mut self,
        items: &[Item],
        columns: &[usize],
        now: TimestampUs,
        timers_max: usize,
    ) -> Result<ReadyStep, Stop> {
        let now = now.max(self.progress.now);
        for item in items {
            match &item.rows {
                Rows::All(decoded) if decoded.origin.iter().all(|id| self.is_new(*id)) => {
                    self.pipeline.apply_decoded(decoded, columns, None, now)?;
                }
                Rows::All(decoded) => {
                    let rows = 0..decoded.origin.len() as u32;
                    self.apply_new(decoded, columns, rows, now)?;
                }
                Rows::Some(decoded, rows) => self.apply_new(decoded, columns, rows.iter().copied(), now)?,
                Rows::Records(records) => {
                    let new = records.iter().filter(|(id, _)| self.is_new(*id));
                    let new: Vec<_> = new.cloned().collect();
                    self.pipeline.apply(&new, now)?;
                }
            }
            self.pass_to(&item.end);
        }
        let finished = self.pipeline.finish(now, false, timers_max)?;
        Ok(self.finish(finished, now))
    }

    fn apply_new(
        &mut self,
        decoded: &Decoded,
        columns: &[usize],
        rows: impl Iterator<Item = u32>,
        now: TimestampUs,
    ) -> Result<(), Stop> {
        let new: Vec<u32> = rows.filter(|row| self.is_new(decoded.origin[*row as usize])).collect();
        self.pipeline.apply_decoded(decoded, columns, Some(&new), now)
    }

    /// It has not had this record yet.
    fn is_new(&self, record: RecordId) -> bool {
        let mut cursors = self.progress.cursors.iter();
        cursors.any(|(shard, next)| *shard == record.shard && *next <= record.offset)
    }

    /// Goes on to there: what is before it does not concern the query. Gives whether that is further than it was, and
    /// how many records this task counts among those.
    pub fn pass_to(&mut self, cursors: &[(ShardId, Offset)]) -> (bool, u64) {
        let (mut further, mut records) = (false, 0);
        let (shards, group) = (self.output.shards.clone(), self.group);
        for (shard, cursor) in &mut self.progress.cursors {
            let to = cursors.iter().find(|(known, _)| known == shard);
            let Some((_, to)) = to.filter(|(_, to)| to > cursor) else {
                continue;
            };
            further = true;
            if counts(&shards, group, *shard) {
                records += to.0 - cursor.0;
            }
            *cursor = *to;
        }
        (further, records)
    }

    /// Records that this task counts between those cursors and its own.
    pub fn counted_since(&self, cursors: &[(ShardId, Offset)]) -> u64 {
        let moved = self.progress.cursors.iter().zip(cursors);
        moved
            .filter(|((shard, _), _)| counts(&self.output.shards, self.group, *shard))
            .map(|((_, now), (_, before))| now.0.saturating_sub(before.0))
            .sum()
    }

    /// What it can share with other queries.
    pub fn share(&self) -> Option<&Share> {
        self.share.as_ref()
    }

    fn finish(&mut self, finished: Finished, now: TimestampUs) -> ReadyStep {
        self.progress.step += 1;
        self.progress.now = now;
        self.progress.watermarks = self.pipeline.shard_watermarks();
        let combined = self.pipeline.source_watermarks();
        let moved_time = combined != self.progress.combined;
        self.progress.combined = combined;
        ReadyStep {
            moved_time,
            ..self.ready(finished)
        }
    }

    /// Makes a step that leaves this record out: no write can hold what comes of it. Nothing else of the query changes.
    pub fn pass_over(&mut self, record: RecordId) -> ReadyStep {
        self.move_past(record);
        self.progress.step += 1;
        ReadyStep {
            writes: true,
            ..self.ready(Finished {
                errors: vec![(record, Fault::TooLarge)],
                ..Finished::default()
            })
        }
    }

    fn move_past(&mut self, record: RecordId) {
        let mut cursors = self.progress.cursors.iter_mut();
        if let Some((_, cursor)) = cursors.find(|(shard, _)| *shard == record.shard) {
            *cursor = record.offset.plus(1);
        }
    }

    fn ready(&self, finished: Finished) -> ReadyStep {
        let progress_row = self.progress.encode();
        let key = Progress::key(self.query);
        let expected = Condition::Row {
            table: tables::QUERY_PROGRESS,
            key: key.clone(),
            value: self.committed.clone(),
        };
        let mut batch = Batch::new(self.group).when(expected);
        let mut late = finished.late;
        late.extend(
            finished
                .shared_late
                .into_iter()
                .filter(|late| self.tells_of(late.origin)),
        );
        let mut errors = finished.errors;
        errors.extend(
            finished
                .shared_errors
                .into_iter()
                .filter(|(record, _)| self.tells_of(*record)),
        );
        let (appends, retained) = self.encode(finished.rows, &mut errors);
        let rows = appends.iter().map(|(_, records)| records.len() as u64).sum();
        batch.encoded = appends;
        batch.puts = retained;
        for (shard, records) in self.side.records(&late, &errors) {
            batch = batch.append(shard, records);
        }
        batch.puts.extend(finished.puts);
        let writes = !(batch.appends.is_empty() && batch.encoded.is_empty() && batch.puts.is_empty());
        let batch = batch.put(tables::QUERY_PROGRESS, key, progress_row.clone());
        ReadyStep {
            batch,
            writes,
            moved_time: false,
            timers: finished.timers,
            more: finished.more,
            errors,
            late: late.len(),
            rows,
            progress_row,
        }
    }

    /// The output records by shard, in order, and the rows of those that are retained.
    fn encode(
        &self,
        rows: Vec<SinkRow>,
        errors: &mut Vec<(RecordId, Fault)>,
    ) -> (Vec<(ShardId, EncodedRecords)>, Vec<Put>) {
        let mut shards: Vec<(ShardId, EncodedRecords)> = Vec::new();
        let mut retained = Vec::new();
        // Mostly all of it goes to one shard.
        let mut bytes: usize = rows.iter().map(SinkRow::size_bytes).sum();
        let options = &self.output.options;
        let now = TimestampMs(self.progress.now.0 / 1_000);
        let copies = if self.retains() { 2 } else { 1 };
        for row in rows {
            let shard = place_of(
                &self.output,
                row.topic.as_ref(),
                row.placement.as_ref().unwrap_or(&row.key),
            );
            // The Exchange let only this group's rows in. Should a plan's two routings disagree, no other group's
            // task has the row either: it is told, not lost silently.
            if shard.group != self.group {
                errors.push((row.origin, Fault::BadTopic));
                continue;
            }
            if row.size_bytes() * copies > RESULT_BYTES_MAX {
                errors.push((row.origin, Fault::TooLarge));
                continue;
            }
            let payload = row.payload.as_ref().map(|payload| payload.as_bytes());
            let records = match shards
                .iter_mut()
                .rposition(|(there, records)| *there == shard && !records.is_full())
            {
                Some(at) => &mut shards[at].1,
                None => {
                    shards.push((shard, EncodedRecords::with_capacity(bytes)));
                    bytes = 0;
                    let last = shards.len() - 1;
                    &mut shards[last].1
                }
            };
            let of_mqtt = (options.qos, options.retain);
            records.push(
                &row.key,
                row.topic.as_ref(),
                payload.map(|payload| &payload[..]),
                of_mqtt,
                row.change,
            );
            // Retained rows are of the topic's group, which is the shard's where records are placed by topic.
            if self.retains() {
                let record = Record {
                    topic: row.topic,
                    payload: payload.cloned(),
                    qos: options.qos,
                    retain: options.retain,
                    ..Record::default()
                };
                retained.extend(retained_put(&record, &[], now));
            }
        }
        (shards, retained)
    }

    /// Its records become retained messages as well.
    fn retains(&self) -> bool {
        self.output.options.retain && self.output.placement == Placement::Topic
    }

    /// Every task of a query reads every record; this is whether this one counts it, and tells of what is wrong with it.
    pub fn tells_of(&self, record: RecordId) -> bool {
        counts(&self.output.shards, self.group, record.shard)
    }

    /// How many of these records this task counts.
    pub fn counted(&self, records: &[(RecordId, Record)]) -> usize {
        match self.output.shards.len() {
            1 => records.len(),
            _ => records.iter().filter(|(id, _)| self.tells_of(*id)).count(),
        }
    }

    /// A step's Batch is committed: the next one builds on it.
    pub fn committed(&mut self, step: &ReadyStep) {
        self.committed = Some(step.progress_row.clone());
    }

    /// The progress alone, for when steps have written nothing for a while.
    pub fn save(&self) -> ReadyStep {
        self.ready(Finished::default())
    }
}

impl ReadyStep {
    /// The Batch, fenced by the task's term. To be taken once.
    pub fn take_batch(&mut self, term: Term) -> Batch {
        let empty = Batch::new(self.batch.group);
        std::mem::replace(&mut self.batch, empty).when(Condition::Term(term))
    }
}

/// The task of the group counts the records of that shard.
fn counts(output: &[GroupId], group: GroupId, input: ShardId) -> bool {
    output[usize::from(input.number) % output.len()] == group
}
