//! The engine: runs every persistent query of the catalog where its output is led, and answers SELECTs.
//!
//! It has threads of its own (`sql.threads`), so that no step of a query ever delays an MQTT client. A supervisor
//! watches the catalog: it starts a task per running query and output group, stops those of terminated queries, and
//! deletes what dropped ones leave behind. What a statement means is `statement.rs`'s business; it calls what is here.

mod forget;
mod position;
mod supervisor;
mod views;

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use headwater_config::SqlConfig;
use headwater_store::{ConnectorRow, GroupId, QueryRow, QueryState, ReadError, Record, Store, StreamRow, TimestampMs};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::{Misfit, address};
use crate::append::{Appended, Outgoing, Patience, append};
use crate::connector::{ConnectorCheck, ConnectorError, ConnectorStatus, ConnectorWatch};
use crate::error::{SqlError, codes};
use crate::insert::{self, InsertRow};
use crate::node::NodeWatch;
use crate::operator::{Measures, Place};
use crate::outcome::RowStream;
use crate::plan::address_rules;
use crate::plan::physical::{Plan, Start, WriteRules};
use crate::query::QueryRules;
use crate::query::task::{TaskPhase, TaskPosition, TaskStatus};
use crate::read::{self, OneShot, Push};
use crate::share::Watch;
use crate::types::TimestampUs;

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system gives no threads.
    #[error("cannot start the threads of the SQL engine: {0}")]
    Threads(std::io::Error),
}

/// The handle everyone holds. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    check_connector: ConnectorCheck,
    /// Set by the bridge when it runs.
    watch_connectors: OnceLock<ConnectorWatch>,
    /// Set when the node is put together.
    watch_node: OnceLock<NodeWatch>,
    started_at: TimestampMs,
    rules: QueryRules,
    step_records_max: usize,
    stop: CancellationToken,
    /// All that runs on the engine's threads.
    tasks: TaskTracker,
    handle: Handle,
    /// Taken by `stop`. A runtime must not be dropped on a thread of another one.
    runtime: Mutex<Option<Runtime>>,
    statuses: Arc<Statuses>,
}

/// By query id and group; each status is its task's, or what is left of one that has ended.
type StatusMap = BTreeMap<(u64, GroupId), Shown>;

/// A task's status, and the row of its query that it was started with.
#[derive(Debug)]
struct Shown {
    query: Arc<QueryRow>,
    status: Arc<Mutex<TaskStatus>>,
}

/// What the tasks of this node are doing.
#[derive(Debug, Default)]
pub(crate) struct Statuses {
    by_task: Mutex<StatusMap>,
}

/// What a query is doing, for SHOW QUERIES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryStatus {
    /// `running`, `waiting` (for a leader, or to try again), `failed`, `paused` or `terminated`.
    pub state: &'static str,
    /// Why it failed, or last had to begin again.
    pub last_error: Option<String>,
    /// Since the engine was started: records read (by all tasks), rows put out, values that could not be worked
    /// out, rows that came too late.
    pub records: u64,
    pub rows: u64,
    pub errors: u64,
    pub late: u64,
    /// Records read a second, of late. None: nothing of it runs here.
    pub rate: Option<u64>,
}

impl Engine {
    /// Starts the threads and every running query of the catalog.
    pub fn start(store: Store, config: &SqlConfig, check_connector: ConnectorCheck) -> Result<Engine, StartError> {
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let mut builder = Builder::new_multi_thread();
        let runtime = builder
            .worker_threads(threads)
            .thread_name("headwater-sql")
            .enable_all()
            .build();
        let runtime = runtime.map_err(StartError::Threads)?;
        let us = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        let rules = QueryRules {
            idle_us: us(config.idle.duration()),
            future_skew_us: us(config.future_skew_max.duration()),
        };
        let statuses = Arc::new(Statuses::default());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let supervisor = supervisor::Supervisor::new(
            store.clone(),
            rules,
            config.step_records_max,
            config.cursor_save_every.duration(),
            statuses.clone(),
        );
        tasks.spawn_on(supervisor.run(stop.clone()), runtime.handle());
        let started_at = store.now();
        let inner = Inner {
            store,
            check_connector,
            watch_connectors: OnceLock::new(),
            watch_node: OnceLock::new(),
            started_at,
            rules,
            step_records_max: config.step_records_max,
            stop,
            tasks,
            handle: runtime.handle().clone(),
            runtime: Mutex::new(Some(runtime)),
            statuses,
        };
        Ok(Engine { inner: Arc::new(inner) })
    }

    /// Ends all reads, lets each query save its cursor, and returns when all of it has ended. Idempotent.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        let runtime = self.inner.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            // Nothing runs on it any more; its threads end by themselves.
            runtime.shutdown_background();
        }
    }

    /// The store it works on.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// See [`ConnectorCheck`].
    pub(crate) fn check_connector(
        &self,
        kind: &str,
        sink: bool,
        options: &BTreeMap<String, String>,
    ) -> Result<(), ConnectorError> {
        (self.inner.check_connector)(kind, sink, options)
    }

    /// From now on `watch` tells what connectors are doing. Only the first one counts.
    pub fn watch_connectors(&self, watch: ConnectorWatch) {
        self.inner.watch_connectors.set(watch).ok();
    }

    /// From now on SHOW CLIENTS and SHOW NODES show what `watch` knows. Only the first one counts.
    pub fn watch_node(&self, watch: NodeWatch) {
        self.inner.watch_node.set(watch).ok();
    }

    pub(crate) fn node_watch(&self) -> Option<&NodeWatch> {
        self.inner.watch_node.get()
    }

    /// When the engine was started, which is when the node was.
    pub(crate) fn started_at(&self) -> TimestampMs {
        self.inner.started_at
    }

    /// What a connector is doing, as far as anybody here knows.
    pub(crate) fn connector_status(&self, connector: &ConnectorRow) -> ConnectorStatus {
        match self.inner.watch_connectors.get() {
            Some(watch) => watch(connector),
            None => ConnectorStatus {
                state: if connector.running { "running" } else { "stopped" },
                last_error: None,
            },
        }
    }

    /// Turns where the sources of a persistent query begin into offsets, once for all its tasks. To be called before
    /// the query is made.
    pub(crate) async fn resolve_start(&self, plan: &mut Plan) -> Result<(), ReadError> {
        read::resolve_start(&self.inner.store, plan).await
    }

    /// A one-shot SELECT over what is stored now.
    pub(crate) async fn read(&self, plan: &Plan) -> Result<RowStream, SqlError> {
        self.read_at(plan, &Place::Here).await
    }

    /// Runs a plan over what is stored now, and tells what each operator did; the rows go nowhere.
    pub(crate) async fn analyze(&self, plan: &Plan) -> Result<Arc<Measures>, SqlError> {
        let mut plan = plan.clone();
        for source in plan.sources_mut().filter(|source| source.start == Start::Latest) {
            source.start = Start::Earliest;
        }
        let measures = Arc::new(Measures::default());
        let mut rows = self.read_at(&plan, &Place::Measured(measures.clone())).await?;
        while let Some(row) = rows.next().await {
            row?;
        }
        Ok(measures)
    }

    async fn read_at(&self, plan: &Plan, place: &Place) -> Result<RowStream, SqlError> {
        let (sender, rows) = RowStream::channel();
        let read = OneShot::begin(
            self.inner.store.clone(),
            plan,
            place,
            sender,
            self.inner.step_records_max,
        )
        .await?;
        let stop = self.inner.stop.clone();
        let run = async move { stop.run_until_cancelled_owned(read.run()).await };
        self.inner.tasks.spawn_on(run, &self.inner.handle);
        Ok(rows)
    }

    /// A push SELECT; it listens when this returns.
    pub(crate) async fn push(&self, plan: &Plan) -> Result<RowStream, SqlError> {
        let (sender, rows) = RowStream::channel();
        let Inner {
            store,
            rules,
            step_records_max,
            stop,
            ..
        } = &*self.inner;
        let push = Push::begin(store.clone(), plan, sender, *rules, *step_records_max).await?;
        self.inner.tasks.spawn_on(push.run(stop.clone()), &self.inner.handle);
        Ok(rows)
    }

    /// INSERT: gives the number of rows, all committed.
    pub(crate) async fn insert(
        &self,
        stream: &StreamRow,
        rules: &WriteRules,
        rows: Vec<InsertRow>,
    ) -> Result<u64, SqlError> {
        insert::insert(&self.inner.store, stream, rules, rows).await
    }

    /// Gives records that are published to `stream` by name the key and topic of its KEY and TOPIC options, as INSERT
    /// does. Those that a record brings itself stay.
    pub fn address(&self, stream: &StreamRow, records: &mut [Record]) -> Result<(), SqlError> {
        let Some(rules) = address_rules(stream)? else {
            return Ok(());
        };
        let open = |record: &Record| {
            (record.key.is_none() && !rules.key.is_empty()) || (record.topic.is_none() && rules.topic.is_some())
        };
        let numbers: Vec<usize> = (0..records.len()).filter(|number| open(&records[*number])).collect();
        let mut addressed: Vec<Record> = numbers.iter().map(|number| records[*number].clone()).collect();
        let now = TimestampUs::from_ms(self.inner.store.now());
        address(stream, &rules, &mut addressed, now).map_err(|misfit| match misfit {
            Misfit::Payload(row, _) | Misfit::Record(row) | Misfit::Null(row, _) | Misfit::Address(row, _) => {
                let which = match records.len() {
                    1 => "the record".to_owned(),
                    _ => format!("record {}", numbers[row]),
                };
                let message = format!("the key or topic of {which} cannot be worked out: {misfit}");
                SqlError::new(codes::WRONG_TYPE, message)
            }
            Misfit::Rules(error) => SqlError::internal(error.to_string()),
        })?;
        for (number, record) in numbers.into_iter().zip(addressed) {
            records[number] = record;
        }
        Ok(())
    }

    /// Appends records to `stream` by name: those of one group in one Batch. Tells what became of each. `once` names the
    /// whole of them, at most `APPEND_NAME_BYTES_MAX` bytes: what was written under that name within a day is not written
    /// again.
    pub async fn append(
        &self,
        stream: &StreamRow,
        rows: &[Outgoing],
        patience: Patience,
        once: Option<&str>,
    ) -> Appended {
        append(&self.inner.store, stream, rows, Some(patience), once).await
    }

    /// What a query is doing on this node.
    pub fn query_status(&self, query: &QueryRow) -> QueryStatus {
        let mut all = QueryStatus {
            state: "running",
            last_error: None,
            records: 0,
            rows: 0,
            errors: 0,
            late: 0,
            rate: None,
        };
        let tasks = self.inner.statuses.of(query);
        let has = |phase| tasks.iter().any(|task| task.phase == phase);
        all.state = match query.state {
            QueryState::Terminated => "terminated",
            QueryState::Paused => "paused",
            QueryState::Running if has(TaskPhase::Failed) => "failed",
            QueryState::Running if has(TaskPhase::Waiting) || tasks.is_empty() => "waiting",
            QueryState::Running => "running",
        };
        let now = tokio::time::Instant::now();
        for task in tasks {
            all.last_error = all.last_error.or(task.last_error);
            all.records += task.records;
            all.rows += task.rows;
            all.errors += task.errors;
            all.late += task.late;
            let rate = task.pace.map(|pace| pace.rate(now));
            all.rate = all.rate.into_iter().chain(rate).reduce(|all, one| all + one);
        }
        all
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("statuses", &self.inner.statuses)
            .finish_non_exhaustive()
    }
}

impl Shown {
    fn read(&self) -> TaskStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Statuses {
    fn lock(&self) -> MutexGuard<'_, StatusMap> {
        self.by_task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last task of a query and group has counted.
    fn counted(&self, task: (u64, GroupId)) -> TaskStatus {
        self.lock()
            .get(&task)
            .map_or_else(TaskStatus::default, |shown| shown.read().counted())
    }

    /// The task has ended, and the query may be resumed.
    fn ended(&self, task: (u64, GroupId)) {
        if let Some(shown) = self.lock().get(&task) {
            let mut status = shown.status.lock().unwrap_or_else(PoisonError::into_inner);
            *status = status.counted();
        }
    }

    /// The query is dropped.
    fn forget(&self, query: u64) {
        let mut tasks = self.lock();
        let own: Vec<_> = tasks.range(Self::tasks_of(query)).map(|(task, _)| *task).collect();
        own.iter().for_each(|task| {
            tasks.remove(task);
        });
    }

    /// Where the tasks of a query are, by group.
    fn positions(&self, query: u64) -> HashMap<GroupId, TaskPosition> {
        let position = |(group, status): (GroupId, TaskStatus)| {
            let mut position = status.position?;
            // A query that sleeps at a hub has come as far as the hub.
            for (shard, seen) in status.hub.as_ref().and_then(Watch::seen).unwrap_or_default() {
                let own = position.cursors.iter_mut().find(|(own, _)| *own == shard);
                own.into_iter().for_each(|(_, next)| *next = seen.max(*next));
            }
            Some((group, position))
        };
        self.by_group(query).into_iter().filter_map(position).collect()
    }

    /// A task that failed under an earlier row than this one is about to try again: RESUME writes the row anew.
    fn of(&self, query: &QueryRow) -> Vec<TaskStatus> {
        let tasks = self.lock();
        let own = tasks.range(Self::tasks_of(query.id)).map(|(_, shown)| {
            let mut status = shown.read();
            if status.phase == TaskPhase::Failed && !std::ptr::eq(&*shown.query, query) {
                status.phase = TaskPhase::Waiting;
            }
            status
        });
        own.collect()
    }

    fn by_group(&self, query: u64) -> Vec<(GroupId, TaskStatus)> {
        let tasks = self.lock();
        let own = tasks.range(Self::tasks_of(query));
        own.map(|((_, group), shown)| (*group, shown.read())).collect()
    }

    fn tasks_of(query: u64) -> RangeInclusive<(u64, GroupId)> {
        (query, GroupId(0))..=(query, GroupId(u16::MAX))
    }
}

#[cfg(test)]
mod tests;
