//! The loop around a [`QueryCore`]: follow, step, commit; forget and load again when something goes wrong.

mod step;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_store::{GroupId, Offset, QueryRow, ReadError, ShardId, Store, StreamRow, Term, tables};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::side::{self, SideStreams};
use super::size::StepSize;
use super::{Assignment, LoadError, Progress, QueryCore, QueryRules};
use crate::limits::{FOLLOW_BYTES, HUB_SAVES};
use crate::metrics;
use crate::share::{Hubs, Records, Share, Steps, Subscription, Watch};
use crate::step::Committed;
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
    pub hubs: Arc<Hubs>,
}

/// What a task is doing, for SHOW QUERIES.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskStatus {
    /// Running, waiting, or failed for good.
    pub phase: TaskPhase,
    /// Why it failed, or last had to begin again.
    pub last_error: Option<String>,
    /// Records read since the engine was started: as the three below, it goes on where a task of this query and group
    /// was before.
    pub records: u64,
    /// Rows put out.
    pub rows: u64,
    /// Values that could not be worked out.
    pub errors: u64,
    /// Rows that came too late.
    pub late: u64,
    /// How fast it reads. None: it has not begun.
    pub pace: Option<Pace>,
    /// How far it has come since it was started here. None: it has not begun.
    pub position: Option<TaskPosition>,
    /// Its place at the hub of its stream. None: it reads by itself.
    pub(crate) hub: Option<Watch>,
}

impl TaskStatus {
    /// What is left of it when its task has ended, and what the next one goes on from: what it has counted.
    pub fn counted(&self) -> TaskStatus {
        TaskStatus {
            records: self.records,
            rows: self.rows,
            errors: self.errors,
            late: self.late,
            ..TaskStatus::default()
        }
    }
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
    /// The streams of its topic filters are others now: as above.
    Homes,
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
            Ended::Homes => tracing::debug!(query, group = %context.group, "the homes of its topics are others now"),
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

async fn serve(context: &TaskContext, term: Term, size: &mut StepSize, stop: &CancellationToken) -> Ended {
    // Without them it runs as well; it only has nowhere to tell of what went wrong.
    if let Err(error) = side::ensure(&context.store, &context.query.name).await {
        tracing::warn!(query = %context.query.name, %error, "no streams for late rows and errors");
    }
    let mut core = match load(context).await {
        Ok(core) => core,
        Err(LoadError::Read(ReadError::Stopped)) => return Ended::Stopped,
        Err(LoadError::Read(error)) => return Ended::Again(error.to_string()),
        Err(error) => return Ended::Failed(error.to_string()),
    };
    core.give_up_at(stop.clone());
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
    match serving.follow(stop).await {
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
    let side = SideStreams::find(&catalog, &query.name, group);
    let assignment = Assignment {
        query,
        output,
        catalog,
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
        let mut records = Records::new();
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
            let mut steps = Steps::new(found, self.context.step_records_max);
            while steps.fill(&mut records).map_err(read_failed)? {
                self.core.still_reading(TimestampUs::from_ms(self.context.store.now()));
                self.step(&records).await?;
            }
        }
    }

    async fn follow(&mut self, stop: &CancellationToken) -> Result<(), Ended> {
        loop {
            let Some(subscription) = self.alone(stop).await? else {
                return Ok(());
            };
            self.context.tell(|status| status.hub = Some(subscription.watch()));
            let over = self.together(&subscription, stop).await?;
            self.context.tell(|status| status.hub = None);
            if over == Over::Stopped {
                return Ok(());
            }
        }
    }

    /// Reads by itself until it has come to where the stream's hub is. None: told to stop.
    async fn alone(&mut self, stop: &CancellationToken) -> Result<Option<Subscription>, Ended> {
        let mut catalog = self.context.store.catalog();
        catalog.mark_changed();
        let mut follower = self.context.store.follow_from(self.core.cursors().to_vec());
        let mut leadership = self.context.store.leadership(self.context.group);
        let mut joined: Option<Subscription> = None;
        let mut may_join = self.core.share().is_some();
        let mut at_end = may_join && self.is_at_end().await;
        let mut records = Records::new();
        loop {
            if may_join && at_end && joined.is_none() && self.size.is_full() {
                joined = self.join().await;
                may_join = joined.is_some();
            }
            // Not the follower: what it has taken may be still to come, and what the hub gives is believed to follow.
            if let Some(subscription) = &joined
                && has_come_to(self.core.cursors(), &subscription.begins)
            {
                return Ok(joined);
            }
            let deadline = self.deadline(1);
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.save().await.map(|()| None),
                changed = leadership.changed() => self.still_leads(changed.is_ok())?,
                Ok(()) = catalog.changed(), if self.core.reads_homes() => {
                    let now = catalog.borrow_and_update().clone();
                    if self.core.has_other_homes(&now) {
                        self.save().await?;
                        return Err(Ended::Homes);
                    }
                }
                found = follower.next(FOLLOW_BYTES) => {
                    let found = found.map_err(read_failed)?;
                    let mut steps = Steps::new(found, self.context.step_records_max);
                    let mut is_first = true;
                    while steps.fill(&mut records).map_err(read_failed)? {
                        if !follower.caught_up() || steps.has_more() || !is_first {
                            self.core.still_reading(TimestampUs::from_ms(self.context.store.now()));
                        }
                        self.step(&records).await?;
                        is_first = false;
                        // What the follower has given beyond this step is not passed: whoever goes on reads it again.
                        if stop.is_cancelled() {
                            return self.save().await.map(|()| None);
                        }
                    }
                    at_end = follower.caught_up();
                    if at_end {
                        // Who has caught up sleeps, and keeps no megabytes meanwhile.
                        records = Records::new();
                    }
                }
                () = sleep_until(deadline) => self.tick(follower.caught_up()).await?,
            }
            self.save_in_time(1).await?;
        }
    }

    /// Takes what the hub gives.
    async fn together(&mut self, subscription: &Subscription, stop: &CancellationToken) -> Result<Over, Ended> {
        let mut leadership = self.context.store.leadership(self.context.group);
        let watch = subscription.watch();
        // It sleeps while nothing concerns it, and has to save how far that is.
        let sleeps = self.core.share().is_some_and(Share::is_filtered);
        loop {
            let rarely = (watch.users() / HUB_SAVES).max(1) as u32;
            let mut deadline = self.deadline(rarely);
            if sleeps {
                let save = self.saved_at + self.context.cursor_save_every * rarely;
                deadline = deadline.into_iter().chain([save]).min();
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.pass_to_hub(&watch);
                    return self.save().await.map(|()| Over::Stopped);
                }
                changed = leadership.changed() => self.still_leads(changed.is_ok())?,
                items = subscription.next(self.context.step_records_max) => {
                    let Some(items) = items else { return Ok(Over::TooSlow) };
                    if !subscription.caught_up() {
                        self.core.still_reading(TimestampUs::from_ms(self.context.store.now()));
                    }
                    self.step_shared(&items, subscription).await?;
                }
                () = sleep_until(deadline) => {
                    self.tick(subscription.caught_up()).await?;
                    if sleeps {
                        self.pass_to_hub(&watch);
                        if !self.unsaved {
                            self.saved_at = Instant::now();
                        }
                    }
                }
            }
            self.save_in_time(rarely).await?;
        }
    }

    async fn join(&mut self) -> Option<Subscription> {
        let (share, cursors) = (self.core.share()?.clone(), self.core.cursors().to_vec());
        self.context.hubs.join(&share, &cursors).await
    }

    /// There is nothing to be read now.
    async fn is_at_end(&mut self) -> bool {
        for (shard, next) in self.core.cursors().to_vec() {
            match self.context.store.bounds(shard).await {
                Ok((_, end)) if end <= next => {}
                _ => return false,
            }
        }
        true
    }

    /// What the hub has passed without giving it does not concern the query.
    fn pass_to_hub(&mut self, watch: &Watch) {
        let Some(seen) = watch.seen() else { return };
        let (further, records) = self.core.pass_to(&seen);
        if further {
            self.unsaved = true;
            self.tell_of_records(records);
        }
    }

    fn still_leads(&self, known: bool) -> Result<(), Ended> {
        let now = *self.context.store.leadership(self.context.group).borrow();
        match known && now.leading && now.term == self.term {
            true => Ok(()),
            false => Err(Ended::Again("the group has another leader".to_owned())),
        }
    }

    /// Time has passed.
    async fn tick(&mut self, caught_up: bool) -> Result<(), Ended> {
        if !self.core.waits_for_time() {
            return Ok(());
        }
        if !caught_up {
            self.core.still_reading(TimestampUs::from_ms(self.context.store.now()));
        }
        self.step(&[]).await
    }
}

/// How taking what a hub gives came to its end.
#[derive(Debug, PartialEq, Eq)]
enum Over {
    /// Told to.
    Stopped,
    /// The hub went on without it, or has ended.
    TooSlow,
}

/// All that a hub gives from there on is new, or has been through a step.
fn has_come_to(cursors: &[(ShardId, Offset)], begins: &[(ShardId, Offset)]) -> bool {
    let reached = |(shard, begin): &(ShardId, Offset)| cursors.iter().any(|(own, next)| own == shard && next >= begin);
    begins.iter().all(reached)
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
