//! Keeps the tasks that run in step with the catalog.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_store::{Catalog, GroupId, QueryRow, QueryState, Store, StreamRow};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::forget::Forgetting;
use super::{Shown, Statuses};
use crate::query::QueryRules;
use crate::query::task::{self, TaskContext, TaskPhase, TaskStatus};
use crate::share::Hubs;

/// A look at all queries takes one part in so many of the time, however many there are.
const LOOK_SHARE: u32 = 10;

/// A query in one group.
type TaskKey = (u64, GroupId);

/// Owns all tasks of persistent queries.
pub(super) struct Supervisor {
    store: Store,
    rules: QueryRules,
    step_records_max: usize,
    cursor_save_every: Duration,
    statuses: Arc<Statuses>,
    hubs: Arc<Hubs>,
    running: JoinSet<()>,
    by_id: HashMap<Id, TaskKey>,
    tasks: HashMap<TaskKey, Running>,
    /// Queries of the last catalog, to see which are gone.
    known: HashSet<u64>,
    forgetting: Forgetting,
}

struct Running {
    /// The catalog's row that it was started with.
    query: Arc<QueryRow>,
    stop: CancellationToken,
    /// It has failed for good and waits to be terminated.
    ended: bool,
    status: Arc<Mutex<TaskStatus>>,
}

impl Supervisor {
    pub fn new(
        store: Store,
        rules: QueryRules,
        step_records_max: usize,
        cursor_save_every: Duration,
        statuses: Arc<Statuses>,
    ) -> Supervisor {
        Supervisor {
            forgetting: Forgetting::new(store.clone()),
            hubs: Arc::new(Hubs::new(store.clone(), step_records_max)),
            store,
            rules,
            step_records_max,
            cursor_save_every,
            statuses,
            running: JoinSet::new(),
            by_id: HashMap::new(),
            tasks: HashMap::new(),
            known: HashSet::new(),
        }
    }

    pub async fn run(mut self, stop: CancellationToken) {
        let mut catalog = self.store.catalog();
        let first = catalog.borrow_and_update().clone();
        self.forgetting.find(&first).await;
        loop {
            let began = Instant::now();
            let now = catalog.borrow_and_update().clone();
            self.reconcile(&now);
            self.forget_dropped(&now);
            // Looking at ten thousand queries takes a while, and making them changes the catalog ten thousand times.
            let next_look = began + began.elapsed() * LOOK_SHARE;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = news(&mut catalog, &now, next_look) => if changed.is_err() { break },
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                () = self.forgetting.forgotten() => {}
            }
        }
        self.tasks.values().for_each(|task| task.stop.cancel());
        while self.running.join_next().await.is_some() {}
        self.forgetting.stop().await;
    }

    /// Starts what should run and stops what should not. A task that is still stopping is started again once it has.
    fn reconcile(&mut self, catalog: &Catalog) {
        let mut wanted: HashMap<TaskKey, (Arc<QueryRow>, Arc<StreamRow>)> = HashMap::new();
        for query in catalog
            .queries
            .values()
            .filter(|query| query.state == QueryState::Running)
        {
            if let Some(output) = catalog.stream_by_id(query.output) {
                for group in &output.shards {
                    wanted.insert((query.id, *group), (query.clone(), output.clone()));
                }
            }
        }
        let unwanted: Vec<TaskKey> = self
            .tasks
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for key in unwanted {
            let ended = self.tasks.get(&key).is_some_and(|task| {
                task.stop.cancel();
                task.ended
            });
            if ended {
                self.remove(key);
            }
        }
        for (key, (query, output)) in wanted {
            // RESUME writes the row again: a task that ended by itself gets another try.
            let resumed = |task: &Running| task.ended && !Arc::ptr_eq(&task.query, &query);
            if self.tasks.get(&key).is_none_or(resumed) {
                self.start(key, query, output);
            }
        }
    }

    fn start(&mut self, key: TaskKey, query: Arc<QueryRow>, output: Arc<StreamRow>) {
        let status = Arc::new(Mutex::new(self.statuses.counted(key)));
        let context = TaskContext {
            store: self.store.clone(),
            query,
            output,
            group: key.1,
            rules: self.rules,
            step_records_max: self.step_records_max,
            cursor_save_every: self.cursor_save_every,
            status: status.clone(),
            hubs: self.hubs.clone(),
        };
        let stop = CancellationToken::new();
        let query = context.query.clone();
        let id = self.running.spawn(task::run(context, stop.clone())).id();
        self.by_id.insert(id, key);
        let shown = Shown {
            query: query.clone(),
            status: status.clone(),
        };
        self.statuses.lock().insert(key, shown);
        self.tasks.insert(
            key,
            Running {
                query,
                stop,
                ended: false,
                status,
            },
        );
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let Some(key) = self.by_id.remove(&id) else { return };
        let Some(task) = self.tasks.get_mut(&key) else { return };
        let mut status = task.status.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = ended {
            // One query's defect is not the others' end.
            tracing::error!(query = key.0, group = %key.1, %error, "a query task ended by a defect");
            status.phase = TaskPhase::Failed;
            status.last_error = Some("the task ended by a defect of headwater; see the log".to_owned());
        }
        let failed = status.phase == TaskPhase::Failed;
        drop(status);
        task.ended = true;
        if !failed || task.stop.is_cancelled() {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: TaskKey) {
        self.tasks.remove(&key);
        self.statuses.ended(key);
    }

    /// Hands over the rows of queries that were dropped, once their tasks have ended.
    fn forget_dropped(&mut self, catalog: &Catalog) {
        let now: HashSet<u64> = catalog.queries.values().map(|query| query.id).collect();
        let gone: HashSet<u64> = self.known.difference(&now).copied().collect();
        self.known.extend(&now);
        if gone.is_empty() {
            return;
        }
        let alive: HashSet<u64> = self.tasks.keys().map(|(query, _)| *query).collect();
        for query in gone.difference(&alive) {
            self.known.remove(query);
            self.statuses.forget(*query);
            self.forgetting.add(*query);
        }
    }
}

/// Waits for a change of the queries, not before that time. Cancel-safe.
async fn news(
    catalog: &mut watch::Receiver<Arc<Catalog>>,
    seen: &Catalog,
    not_before: Instant,
) -> Result<(), watch::error::RecvError> {
    tokio::time::sleep_until(not_before).await;
    loop {
        catalog.changed().await?;
        if !catalog.borrow().queries.ptr_eq(&seen.queries) {
            return Ok(());
        }
    }
}
