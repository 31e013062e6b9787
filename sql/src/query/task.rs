//! The loop around a [`QueryCore`]: follow, step, commit; forget and load again when something goes wrong.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_store::{
    Follower, GroupId, Offset, QueryRow, ReadError, Record, ShardId, Store, StoredBatch, StreamRow, Term, WriteError,
    tables,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::side::{self, SideStreams};
use super::size::{StepSize, TooLarge};
use super::{Assignment, LoadError, Progress, QueryCore, QueryRules, ReadyStep};
use crate::change::RecordId;
use crate::decode::BadRecord;
use crate::limits::{FOLLOW_BYTES, STEP_BYTES_MAX};
use crate::metrics;
use crate::step::{Committed, Stop};
use crate::types::TimestampUs;

/// The longest pause before a task tries again.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often a task looks at the clock while windows wait for it.
const TICK: Duration = Duration::from_millis(500);

/// What a task needs.
#[derive(Debug, Clone)]
pub(crate) struct TaskContext {
    pub store: Store,
    pub query: Arc<QueryRow>,
    pub output: Arc<StreamRow>,
    pub group: GroupId,
    pub rules: QueryRules,
    pub step_records_max: usize,
    pub cursor_save_every: Duration,
    pub status: Arc<Mutex<TaskStatus>>,
}

/// What a task is doing, for SHOW QUERIES.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskStatus {
    /// Running, waiting, or failed for good.
    pub phase: TaskPhase,
    /// Why it failed, or last had to begin again.
    pub last_error: Option<String>,
    /// Records read since it was started here.
    pub records: u64,
    /// Rows put out since it was started here.
    pub rows: u64,
    /// Values that could not be worked out.
    pub errors: u64,
    /// Rows that came too late.
    pub late: u64,
    /// How fast it reads. None: it has not begun.
    pub pace: Option<Pace>,
    /// How far it has come since it was started here. None: it has not begun.
    pub position: Option<TaskPosition>,
}

/// How far a task has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskPosition {
    /// The next offset of each input shard.
    pub cursors: Vec<(ShardId, Offset)>,
    /// Of all its sources.
    pub watermark: TimestampUs,
    /// Groups whose windows are open.
    pub windows: usize,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TaskPhase {
    /// Waiting for this node to lead the group, or for a pause to end.
    #[default]
    Waiting,
    /// Reading and writing.
    Running,
    /// It would fail again: RESUME tries.
    Failed,
}

/// Why a task stopped serving.
enum Ended {
    /// It was told to.
    Stopped,
    /// Memory is dropped and all is loaded again.
    Again(String),
    /// A step was too large: as above, and at once.
    Smaller,
    /// Only a person can help.
    Failed(String),
}

/// Runs until it is stopped or fails for good.
pub(crate) async fn run(context: TaskContext, stop: CancellationToken) {
    let mut pause = Duration::from_millis(50);
    let mut size = StepSize::new(context.step_records_max);
    loop {
        let Some(term) = lead(&context, &stop).await else {
            return;
        };
        let began = Instant::now();
        let ended = serve(&context, term, &mut size, &stop).await;
        let query = context.query.name.as_str();
        match ended {
            Ended::Stopped => return,
            Ended::Smaller => tracing::debug!(query, group = %context.group, ?size, "a step was too large"),
            Ended::Failed(reason) => {
                tracing::error!(query, group = %context.group, %reason, "the query failed");
                metrics::task_failed(query);
                context.tell(|status| {
                    status.phase = TaskPhase::Failed;
                    status.last_error = Some(reason);
                });
                return;
            }
            Ended::Again(reason) => {
                tracing::warn!(query, group = %context.group, %reason, "the query begins again from what is committed");
                metrics::task_restarted(query);
                context.tell(|status| {
                    status.phase = TaskPhase::Waiting;
                    status.last_error = Some(reason);
                });
                pause = if began.elapsed() > RETRY_MAX {
                    Duration::from_millis(50)
                } else {
                    (pause * 2).min(RETRY_MAX)
                };
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

/// Waits until this node leads the group; gives its term. None: told to stop.
async fn lead(context: &TaskContext, stop: &CancellationToken) -> Option<Term> {
    let mut leadership = context.store.leadership(context.group);
    loop {
        let now = *leadership.borrow_and_update();
        if now.leading {
            return Some(now.term);
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            changed = leadership.changed() => changed.ok()?,
        }
    }
}

/// The records of what a follower gave, cut into steps.
#[derive(Default)]
struct Inbox {
    steps: Vec<Vec<(RecordId, Record)>>,
}

impl Inbox {
    fn fill(&mut self, found: Vec<(StoredBatch, Offset)>, records_max: usize) -> Result<(), ReadError> {
        let mut bytes = 0;
        for (batch, from) in found {
            for (offset, record) in batch.records_from(from)? {
                let size = record.size_bytes();
                let room = |step: &Vec<_>| step.len() < records_max && bytes + size <= STEP_BYTES_MAX;
                if !self.steps.last().is_some_and(room) {
                    self.steps.push(Vec::new());
                    bytes = 0;
                }
                bytes += size;
                if let Some(step) = self.steps.last_mut() {
                    step.push((
                        RecordId {
                            shard: batch.shard,
                            offset,
                        },
                        record,
                    ));
                }
            }
        }
        Ok(())
    }
}

async fn serve(context: &TaskContext, term: Term, size: &mut StepSize, stop: &CancellationToken) -> Ended {
    // Without them it runs as well; it only has nowhere to tell of what went wrong.
    if let Err(error) = side::ensure(&context.store, &context.query.name).await {
        tracing::warn!(query = %context.query.name, %error, "no streams for late rows and errors");
    }
    let core = match load(context).await {
        Ok(core) => core,
        Err(LoadError::Read(ReadError::Stopped)) => return Ended::Stopped,
        Err(LoadError::Read(error)) => return Ended::Again(error.to_string()),
        Err(error) => return Ended::Failed(error.to_string()),
    };
    context.tell(|status| {
        status.phase = TaskPhase::Running;
        status.pace.get_or_insert_with(|| Pace::new(Instant::now()));
        status.position = Some(core.position());
    });
    let mut serving = Serving {
        context,
        term,
        core,
        size,
        unsaved: false,
        saved_at: Instant::now(),
    };
    if let Err(ended) = serving.learn(stop).await {
        return ended;
    }
    let follower = context.store.follow_from(serving.core.cursors().to_vec());
    match serving.follow(follower, stop).await {
        Ok(()) => Ended::Stopped,
        Err(ended) => ended,
    }
}

async fn load(context: &TaskContext) -> Result<QueryCore, LoadError> {
    let TaskContext {
        store,
        query,
        output,
        group,
        rules,
        ..
    } = context.clone();
    let catalog = store.catalog().borrow().clone();
    let inputs = query
        .inputs
        .iter()
        .filter_map(|id| catalog.stream_by_id(*id).cloned())
        .collect();
    let side = SideStreams::find(&catalog, &query.name, group);
    let assignment = Assignment {
        query,
        output,
        inputs,
        group,
        rules,
        side,
    };
    let now = TimestampUs::from_ms(store.now());
    let reader = store.clone();
    let read = move || {
        let progress = reader
            .table(group, tables::QUERY_PROGRESS)
            .get(&Progress::key(assignment.query.id))?;
        let state = Committed::Table(reader.table(group, tables::QUERY_STATE));
        QueryCore::load(assignment, progress, state, now)
    };
    store.blocking(read).await
}

/// One term's work.
struct Serving<'c> {
    context: &'c TaskContext,
    term: Term,
    core: QueryCore,
    size: &'c mut StepSize,
    /// Steps since the last commit have moved the cursor and written nothing.
    unsaved: bool,
    saved_at: Instant,
}

impl Serving<'_> {
    /// Reads the tables that rows look into as far as they go now, before any row does.
    async fn learn(&mut self, stop: &CancellationToken) -> Result<(), Ended> {
        let tables = self.core.tables();
        let mut bounds = Vec::with_capacity(tables.len());
        for (shard, _) in &tables {
            let (first, end) = self.context.store.bounds(*shard).await.map_err(read_failed)?;
            bounds.push((*shard, first, end));
        }
        let mut follower = self.context.store.follow_from(tables);
        loop {
            let cursors = self.core.tables();
            let next = |shard: &ShardId| cursors.iter().find(|(known, _)| known == shard).map(|(_, next)| *next);
            let is_behind = |(shard, first, end): &(ShardId, Offset, Offset)| {
                next(shard).is_some_and(|next| next.max(*first) < *end)
            };
            if !bounds.iter().any(is_behind) {
                return Ok(());
            }
            let found = tokio::select! {
                biased;
                () = stop.cancelled() => return self.save().await.and(Err(Ended::Stopped)),
                found = follower.next(FOLLOW_BYTES) => found.map_err(read_failed)?,
            };
            let mut inbox = Inbox::default();
            inbox.fill(found, self.context.step_records_max).map_err(read_failed)?;
            for records in inbox.steps {
                self.core.still_reading(TimestampUs::from_ms(self.context.store.now()));
                self.step(&records).await?;
            }
        }
    }

    async fn follow(&mut self, mut follower: Follower, stop: &CancellationToken) -> Result<(), Ended> {
        let mut leadership = self.context.store.leadership(self.context.group);
        loop {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.save().await,
                _ = leadership.changed() => {
                    let now = *leadership.borrow();
                    if !now.leading || now.term != self.term {
                        return Err(Ended::Again("the group has another leader".to_owned()));
                    }
                }
                found = follower.next(FOLLOW_BYTES) => {
                    let mut inbox = Inbox::default();
                    inbox.fill(found.map_err(read_failed)?, self.context.step_records_max).map_err(read_failed)?;
                    let behind = !follower.caught_up() || inbox.steps.len() > 1;
                    for records in inbox.steps {
                        if behind {
                            self.core.still_reading(TimestampUs::from_ms(self.context.store.now()));
                        }
                        self.step(&records).await?;
                        if stop.is_cancelled() {
                            break;
                        }
                    }
                }
                () = sleep_until(deadline) => {
                    if self.core.waits_for_time() {
                        if !follower.caught_up() {
                            self.core.still_reading(TimestampUs::from_ms(self.context.store.now()));
                        }
                        self.step(&[]).await?;
                    }
                }
            }
            if self.unsaved && self.saved_at.elapsed() >= self.context.cursor_save_every {
                self.save().await?;
            }
        }
    }

    /// When to look again though nothing came.
    fn deadline(&self) -> Option<Instant> {
        let save = self.unsaved.then(|| self.saved_at + self.context.cursor_save_every);
        let tick = self.core.waits_for_time().then(|| Instant::now() + TICK);
        save.into_iter().chain(tick).min()
    }

    /// Takes in these records, or lets time pass where there are none; in as many steps as it needs.
    async fn step(&mut self, mut records: &[(RecordId, Record)]) -> Result<(), Ended> {
        loop {
            let (now, later) = match (self.size.records_of(records), records) {
                (0, [(too_large, _), later @ ..]) => {
                    self.pass_over(*too_large).await?;
                    (&[][..], later)
                }
                (count, _) => records.split_at(count),
            };
            // Windows that are over close before anything else is read.
            let mut more = self.one_step(now).await?;
            while more {
                more = self.one_step(&[]).await?;
            }
            if later.is_empty() {
                return Ok(());
            }
            records = later;
        }
    }

    /// Gives whether timers are left that are due.
    async fn one_step(&mut self, records: &[(RecordId, Record)]) -> Result<bool, Ended> {
        let began = Instant::now();
        let now = TimestampUs::from_ms(self.context.store.now());
        let timers_max = self.size.timers_with(records.len());
        let step = self.core.step(records, now, timers_max).map_err(|stop| match stop {
            Stop::Read(error) => read_failed(error),
            Stop::BadRecord(BadRecord(record)) => Ended::Failed(format!(
                "record {} does not parse, and the stream's ON_ERROR is 'fail'",
                self.core.name_of(record)
            )),
            other => Ended::Failed(other.to_string()),
        })?;
        if step.writes {
            self.commit(&step, records).await?;
        } else if !records.is_empty() || step.moved_time {
            self.unsaved = true;
        }
        self.size.fitted(records.len(), step.timers, step.batch.size_bytes());
        let counted = records.iter().filter(|(id, _)| self.core.tells_of(*id)).count();
        self.tell(&step, counted, began);
        Ok(step.more)
    }

    /// Goes on behind a record that no step can hold.
    async fn pass_over(&mut self, record: RecordId) -> Result<(), Ended> {
        let began = Instant::now();
        let step = self.core.pass_over(record);
        self.commit(&step, &[]).await?;
        self.size.passed();
        let query = self.context.query.name.as_str();
        tracing::warn!(query, %record, "left out: what comes of this record is larger than a write may be");
        self.tell(&step, usize::from(self.core.tells_of(record)), began);
        Ok(())
    }

    async fn save(&mut self) -> Result<(), Ended> {
        if self.unsaved {
            self.commit(&self.core.save(), &[]).await
        } else {
            Ok(())
        }
    }

    async fn commit(&mut self, step: &ReadyStep, records: &[(RecordId, Record)]) -> Result<(), Ended> {
        match self.context.store.write(step.batch_in(self.term)).await {
            Ok(_) => {
                self.core.committed(step);
                self.unsaved = false;
                self.saved_at = Instant::now();
                Ok(())
            }
            Err(WriteError::Stopped) => Err(Ended::Stopped),
            Err(error @ WriteError::TooLarge { .. }) => Err(match self.size.too_large(records, step.timers) {
                TooLarge::Smaller => Ended::Smaller,
                TooLarge::Never => Ended::Failed(format!("a step cannot be written: {error}")),
            }),
            Err(error) => Err(Ended::Again(error.to_string())),
        }
    }

    fn tell(&self, step: &ReadyStep, records: usize, began: Instant) {
        metrics::step(&self.context.query.name, records, step, began.elapsed());
        for (record, fault) in &step.errors {
            tracing::debug!(query = %self.context.query.name, %record, %fault, "a value could not be worked out");
        }
        self.context.tell(|status| {
            status.records += records as u64;
            if let Some(pace) = &mut status.pace {
                pace.count(records as u64, Instant::now());
            }
            status.rows += step.rows;
            status.errors += step.errors.len() as u64;
            status.late += step.late as u64;
            status.position = Some(self.core.position());
        });
    }
}

impl TaskContext {
    fn tell(&self, change: impl FnOnce(&mut TaskStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn read_failed(error: ReadError) -> Ended {
    match error {
        ReadError::Stopped => Ended::Stopped,
        // It would be damaged or gone again.
        ReadError::Damaged { .. } | ReadError::Trimmed { .. } => Ended::Failed(error.to_string()),
        ReadError::Engine(_) => Ended::Again(error.to_string()),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
