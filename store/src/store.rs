//! [`Store`]: the handle everyone holds, and what it shares with the threads behind it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use headwater_config::StoreConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot, watch};

use crate::apply::Applier;
use crate::batch::{Batch, Committed, TableId, Trim};
use crate::catalog::Catalog;
use crate::check;
use crate::clock::Clock;
use crate::driver::Driver;
use crate::engine::Engine;
use crate::engine::rocks::RocksEngine;
use crate::error::{EngineError, OpenError, ReadError, WriteError};
use crate::folder::Folder;
use crate::follow::{AppliedEntry, Follower, GroupFollower, Position};
use crate::ids::{BootId, CATALOG_GROUP, GroupId, LogIndex, NodeId, Offset, ShardId, Term, TimestampMs};
use crate::inbox::{Ended, Message, Outlet, inbox};
use crate::limits::{BATCH_BYTES_MAX, PRODUCER_ID_BYTES_MAX, TABLE_KEY_BYTES_MAX};
use crate::log_thread::{self, Log};
use crate::maintenance::{self, Chore, free_bytes};
use crate::placement::{Route, Router};
use crate::proposal::Proposal;
use crate::raft_log;
use crate::reader::{self, KeyRead, Marks};
use crate::replica::Replica;
use crate::slices::Slices;
use crate::stored::StoredBatch;
use crate::table::Table;
use crate::tail::{Tail, TailRead};
use crate::topic::TopicName;

/// The only node there is until clusters come.
const THIS_NODE: NodeId = NodeId(1);
/// How often a start looks whether all groups are led.
const START_POLL: Duration = Duration::from_millis(2);

/// Who leads a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    /// This node leads, and has applied the first entry of its own term: it knows all that came before.
    pub leading: bool,
    /// The term this node knows of.
    pub term: Term,
    /// The leader, where known.
    pub leader: Option<NodeId>,
}

/// What the handle, the followers and the threads share.
pub(crate) struct Shared {
    pub engine: Arc<dyn Engine>,
    pub slices: Arc<Slices>,
    pub clock: Arc<dyn Clock>,
    pub node: NodeId,
    pub boot: BootId,
    groups: u16,
    tails: Vec<Tail>,
    leadership: Vec<watch::Sender<Leadership>>,
    catalog: watch::Sender<Arc<Catalog>>,
    router: RwLock<Arc<Router>>,
    reads: Arc<Semaphore>,
    stopped: watch::Sender<bool>,
    free_disk_bytes: AtomicU64,
    /// Bytes of Batches taken since the free disk was looked at.
    taken_bytes: AtomicU64,
    failed: watch::Sender<Option<String>>,
    stop_asked: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("node", &self.node)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub fn tail(&self, group: GroupId) -> &Tail {
        &self.tails[usize::from(group.0)]
    }

    /// The catalog's group and the data groups.
    pub fn all_groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..=self.groups).map(GroupId)
    }

    /// Runs a read that may touch the disk; a bounded number at once.
    pub async fn blocking<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        // The semaphore is never closed, so a permit always comes. The read keeps it, even when nobody waits any more.
        let permit = self.reads.clone().acquire_owned().await;
        let bounded = move || {
            let _permit = permit;
            read()
        };
        match tokio::task::spawn_blocking(bounded).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down; this task will not be polled again.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Makes a catalog the current one, before anyone learns that the change behind it is committed.
    pub fn publish_catalog(&self, catalog: Catalog) {
        let mut router = self.router.write().unwrap_or_else(PoisonError::into_inner);
        if router.revision() != catalog.route_revision {
            *router = Arc::new(Router::new(&catalog, self.groups));
        }
        drop(router);
        self.catalog.send_replace(Arc::new(catalog));
    }

    pub fn set_leadership(&self, group: GroupId, now: Leadership) {
        self.leadership[usize::from(group.0)].send_if_modified(|known| std::mem::replace(known, now) != now);
    }

    pub fn set_free_disk(&self, bytes: u64) {
        metrics::gauge!("headwater_store_free_disk_bytes").set(bytes as f64);
        self.taken_bytes.store(0, Ordering::Relaxed);
        self.free_disk_bytes.store(bytes, Ordering::Relaxed);
    }

    pub fn fail(&self, reason: String) {
        self.failed.send_replace(Some(reason));
    }

    /// Somebody asked for the stop and waits for it, and nothing has failed.
    pub fn ends_in_order(&self) -> bool {
        self.stop_asked.load(Ordering::Relaxed) && self.failed.borrow().is_none()
    }

    /// True once nothing more will be applied.
    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stopped.subscribe()
    }
}

/// Ends with its thread: followers learn that nothing more comes, and a panic stops the node like any other failure.
struct LastWord {
    shared: Arc<Shared>,
    thread: &'static str,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared
                .fail(format!("the thread {} panicked; its message is above", self.thread));
        }
        self.shared.stopped.send_replace(true);
    }
}

/// The handle everyone holds. Cheap to clone; when the last one is dropped the threads end. Outside an async runtime the
/// drop waits for them, so that a process may end behind it; inside one, where nothing may block, [`Store::stop`] does.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub shared: Arc<Shared>,
    outlet: Outlet,
    admission: Arc<Semaphore>,
    admission_bytes: u32,
    free_disk_min: u64,
    /// One catalog change at a time on this node; others' are seen by the catalog's revision.
    pub catalog_changes: tokio::sync::Mutex<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.outlet.tell(Message::Stop);
        if tokio::runtime::Handle::try_current().is_err() {
            let threads = std::mem::take(self.threads.get_mut().unwrap_or_else(PoisonError::into_inner));
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }
}

impl Store {
    /// Opens or makes the data folder, replays the Raft log, and returns when this node leads every group. Blocks.
    pub fn open(config: &StoreConfig, clock: Arc<dyn Clock>) -> Result<Store, OpenError> {
        let folder = Folder::open(&config.path, config.groups)?;
        let log = raft_log::open(&folder.raft()).map_err(OpenError::RaftLog)?;
        check::refuse_lost_rows(&folder, &log)?;
        let engine: Arc<dyn Engine> = Arc::new(RocksEngine::open(&folder.state(), config.block_cache.as_usize())?);
        let catalog = Catalog::load(&*engine).map_err(|error| OpenError::Damaged(error.to_string()))?;

        let damaged = |error: EngineError| OpenError::Damaged(error.to_string());
        let slices = Arc::new(Slices::open(engine.clone(), config.slice_size.0).map_err(damaged)?);

        let mut groups = Vec::new();
        for id in (0..=config.groups).map(GroupId) {
            let applier = Applier::load(engine.clone(), slices.clone(), id)
                .map_err(|error| OpenError::Damaged(error.to_string()))?;
            let replica = Replica::open(log.clone(), id, THIS_NODE, applier.applied().index, config.admission.0)
                .map_err(OpenError::Damaged)?;
            slices.applied_to(applier.applied().time);
            groups.push((id, replica, applier));
        }
        let applied: Vec<LogIndex> = groups.iter().map(|(_, _, applier)| applier.applied().index).collect();
        let shared = Arc::new(Shared {
            engine,
            slices,
            node: THIS_NODE,
            boot: BootId(clock.now().0.unsigned_abs()),
            groups: config.groups,
            tails: applied
                .iter()
                .map(|applied| Tail::new(*applied, config.tail_cache.as_usize()))
                .collect(),
            leadership: applied
                .iter()
                .map(|_| {
                    watch::Sender::new(Leadership {
                        leading: false,
                        term: Term(0),
                        leader: None,
                    })
                })
                .collect(),
            router: RwLock::new(Arc::new(Router::new(&catalog, config.groups))),
            catalog: watch::Sender::new(Arc::new(catalog.clone())),
            reads: Arc::new(Semaphore::new(config.read_threads)),
            stopped: watch::Sender::new(false),
            free_disk_bytes: AtomicU64::new(free_bytes(folder.path())),
            taken_bytes: AtomicU64::new(0),
            failed: watch::Sender::new(None),
            stop_asked: AtomicBool::new(false),
            clock,
        });

        let (outlet, inbox) = inbox();
        let (jobs, log_jobs) = channel();
        let (chores, maintenance_chores) = channel();
        let driver = Driver::new(
            shared.clone(),
            inbox,
            Log {
                engine: log.clone(),
                jobs,
            },
            chores.clone(),
            groups,
            catalog,
            config.flush_every.0,
        );
        let threads = vec![
            spawn("hw-log", {
                let (log, outlet) = (log.clone(), outlet.clone());
                move || log_thread::run(&log, log_jobs, &outlet)
            })?,
            spawn("hw-maintenance", {
                let (shared, path, outlet) = (shared.clone(), folder.path().clone(), outlet.clone());
                let retention_bytes = config.retention_bytes.0;
                move || {
                    let last_word = LastWord {
                        shared: shared.clone(),
                        thread: "hw-maintenance",
                    };
                    maintenance::run(&shared, &log, &path, retention_bytes, maintenance_chores, &outlet);
                    drop(last_word);
                }
            })?,
            spawn("hw-driver", {
                let last_word = LastWord {
                    shared: shared.clone(),
                    thread: "hw-driver",
                };
                move || {
                    driver.run();
                    let _ = chores.send(Chore::Stop);
                    drop((last_word, folder));
                }
            })?,
        ];
        let admission_bytes = u32::try_from(config.admission.0).unwrap_or(u32::MAX);
        let inner = Inner {
            shared,
            outlet,
            admission: Arc::new(Semaphore::new(admission_bytes as usize)),
            admission_bytes,
            free_disk_min: config.free_disk_min.0,
            catalog_changes: tokio::sync::Mutex::new(()),
            threads: Mutex::new(threads),
        };
        let store = Store { inner: Arc::new(inner) };
        store.wait_until_led()?;
        store.make_default_stream()?;
        Ok(store)
    }

    fn wait_until_led(&self) -> Result<(), OpenError> {
        let shared = &self.inner.shared;
        while !shared.leadership.iter().all(|group| group.borrow().leading) {
            if let Some(reason) = shared.failed.borrow().clone() {
                return Err(OpenError::Damaged(reason));
            }
            std::thread::sleep(START_POLL);
        }
        Ok(())
    }

    /// On a thread of its own: `open` may be called where a runtime already runs.
    fn make_default_stream(&self) -> Result<(), OpenError> {
        let store = self.clone();
        let made = spawn("hw-bootstrap", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let outcome = runtime.map(|runtime| runtime.block_on(store.ensure_default_stream()));
            if let Err(error) | Ok(Err(error)) = outcome.map(|made| made.map_err(std::io::Error::other)) {
                store
                    .inner
                    .shared
                    .fail(format!("cannot make the default stream: {error}"));
            }
        })?;
        let _ = made.join();
        match self.inner.shared.failed.borrow().clone() {
            Some(reason) => Err(OpenError::Damaged(reason)),
            None => Ok(()),
        }
    }

    /// Waits for admission and commit. A [`WriteError::StaleRoute`] is the caller's to retry with a new route.
    pub async fn write(&self, batch: Batch) -> Result<Committed, WriteError> {
        self.submit(batch).await?.await
    }

    /// Waits for admission only: this is the backpressure. Batches of one caller to one group commit in the order of
    /// submission. Appends without records are left out.
    pub async fn submit(&self, batch: Batch) -> Result<Receipt, WriteError> {
        let batch = match self.submit_now(batch) {
            Submission::Sent(receipt) => return Ok(receipt),
            Submission::Refused(error) => return Err(error),
            Submission::Waits(batch) => batch,
        };
        let permits = self.permits(&batch);
        let admission = self.inner.admission.clone().acquire_many_owned(permits).await;
        self.propose(batch, admission.map_err(|_| WriteError::Stopped)?)
    }

    /// [`Store::submit`] without the waiting: gives the Batch back if it would have to.
    pub fn submit_now(&self, mut batch: Batch) -> Submission {
        batch.appends.retain(|append| !append.records.is_empty());
        batch.encoded.retain(|(_, records)| !records.is_empty());
        if let Err(error) = self.check(&batch) {
            return Submission::Refused(error);
        }
        let proposed = match self
            .inner
            .admission
            .clone()
            .try_acquire_many_owned(self.permits(&batch))
        {
            Ok(admission) => self.propose(batch, admission),
            Err(TryAcquireError::NoPermits) => return Submission::Waits(batch),
            Err(TryAcquireError::Closed) => Err(WriteError::Stopped),
        };
        proposed.map_or_else(Submission::Refused, Submission::Sent)
    }

    /// Whether `batch` may be written at all, now.
    fn check(&self, batch: &Batch) -> Result<(), WriteError> {
        let within = |bytes: usize, limit: usize| match bytes > limit {
            true => Err(WriteError::TooLarge { bytes, limit }),
            false => Ok(()),
        };
        within(batch.size_bytes(), BATCH_BYTES_MAX)?;
        let key_bytes = batch.puts.iter().map(|put| put.key.len()).max();
        within(key_bytes.unwrap_or(0), TABLE_KEY_BYTES_MAX)?;
        let id_bytes = batch.producer.as_ref().map_or(0, |producer| producer.id.len());
        within(id_bytes, PRODUCER_ID_BYTES_MAX)?;
        assert!(
            batch.group.0 <= self.inner.shared.groups,
            "a Batch is for a group that exists"
        );
        // The catalog, fences and trims stay writable: that is how a stream is dropped to make room.
        let small = batch.group == CATALOG_GROUP
            || (batch.appends.is_empty() && batch.encoded.is_empty() && batch.puts.is_empty());
        if small {
            return Ok(());
        }
        self.check_disk()?;
        let bytes = batch.size_bytes() as u64;
        self.inner.shared.taken_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// [`WriteError::DiskFull`] while records are refused for want of disk.
    pub fn check_disk(&self) -> Result<(), WriteError> {
        let shared = &self.inner.shared;
        // The disk is looked at now and then. What was taken since then is written twice: to the log, and as rows.
        let taken = shared.taken_bytes.load(Ordering::Relaxed);
        let free = shared
            .free_disk_bytes
            .load(Ordering::Relaxed)
            .saturating_sub(taken.saturating_mul(2));
        let mark = self.inner.free_disk_min;
        match free < mark {
            true => Err(WriteError::DiskFull { free, mark }),
            false => Ok(()),
        }
    }

    /// A byte each; a Batch larger than all there are takes all.
    fn permits(&self, batch: &Batch) -> u32 {
        u32::try_from(batch.size_bytes())
            .unwrap_or(u32::MAX)
            .min(self.inner.admission_bytes)
    }

    fn propose(&self, batch: Batch, admission: OwnedSemaphorePermit) -> Result<Receipt, WriteError> {
        let (reply, receiver) = oneshot::channel();
        let catalog = self.inner.shared.catalog.borrow().clone();
        let proposal = Proposal::new(batch, |stream| catalog.retention(stream), reply, admission);
        drop(catalog);
        let outlet = &self.inner.outlet;
        outlet.propose(proposal).map_err(|Ended| WriteError::Stopped)?;
        Ok(Receipt(receiver))
    }

    /// Stored records from `from`, about `max_bytes`, at least one batch; empty at the end. The first batch may begin
    /// before `from`.
    pub async fn read(&self, shard: ShardId, from: Offset, max_bytes: usize) -> Result<Vec<StoredBatch>, ReadError> {
        let engine = self.inner.shared.engine.clone();
        self.blocking(move || reader::read(&*engine, shard, from, max_bytes))
            .await
    }

    /// Records from `from` on whose key, or topic where they have no key, is `key`, of record batches of about `max_bytes`.
    /// Costs a seek for each sealed slice, and in
    /// the open one a look at the rows of its entries.
    pub async fn read_key(
        &self,
        shard: ShardId,
        key: Bytes,
        from: Offset,
        max_bytes: usize,
    ) -> Result<KeyRead, ReadError> {
        let engine = self.inner.shared.engine.clone();
        self.blocking(move || reader::read_key(&*engine, shard, &key, from, max_bytes))
            .await
    }

    /// (the first stored offset, the offset after the last).
    pub async fn bounds(&self, shard: ShardId) -> Result<(Offset, Offset), ReadError> {
        let engine = self.inner.shared.engine.clone();
        self.blocking(move || reader::bounds(&*engine, shard)).await
    }

    /// Where a position is in each shard, now.
    pub async fn resolve(&self, shards: Vec<ShardId>, from: Position) -> Result<Vec<(ShardId, Offset)>, ReadError> {
        let engine = self.inner.shared.engine.clone();
        self.blocking(move || {
            shards
                .into_iter()
                .map(|shard| {
                    let offset = match from {
                        Position::Earliest => reader::bounds(&*engine, shard)?.0,
                        Position::Latest => reader::bounds(&*engine, shard)?.1,
                        Position::Offset(offset) => offset,
                        Position::Timestamp(time) => reader::offset_at(&*engine, shard, time)?,
                    };
                    Ok((shard, offset))
                })
                .collect()
        })
        .await
    }

    /// Hides the records of each shard before its offset, at once; an offset after the end means the end. Disk follows.
    pub async fn trim(&self, first: &[(ShardId, Offset)]) -> Result<(), WriteError> {
        for (shard, first) in first {
            // The largest offset means the shard itself, and that is not for a trim.
            let first = Offset(first.0.min(Trim::ALL.0 - 1));
            self.write(Batch::new(shard.group).trim(*shard, first)).await?;
        }
        Ok(())
    }

    /// Follows shards from a position.
    pub async fn follow(&self, shards: Vec<ShardId>, from: Position) -> Result<Follower, ReadError> {
        Ok(self.follow_from(self.resolve(shards, from).await?))
    }

    /// Follows shards from saved cursors.
    pub fn follow_from(&self, cursors: Vec<(ShardId, Offset)>) -> Follower {
        Follower::new(self.inner.shared.clone(), cursors)
    }

    /// How far a group is applied: everything that was acknowledged is at this index or before it.
    pub fn applied(&self, group: GroupId) -> LogIndex {
        *self.inner.shared.tail(group).applied().borrow()
    }

    /// Follows all entries of a group that are applied after now.
    pub fn follow_group(&self, group: GroupId) -> GroupFollower {
        GroupFollower::new(self.inner.shared.clone(), group)
    }

    /// As [`Store::read`], on the caller's thread. Blocks.
    pub fn read_now(&self, shard: ShardId, from: Offset, max_bytes: usize) -> Result<Vec<StoredBatch>, ReadError> {
        reader::read(&*self.inner.shared.engine, shard, from, max_bytes)
    }

    /// Entries of a group from `from` on that are applied: about `max_bytes`, at least one where there is one, and the
    /// index to go on from. From memory while they are there, else from disk, where entries that append nothing are
    /// passed over. Without records that are trimmed. Blocks.
    pub fn read_entries(
        &self,
        group: GroupId,
        from: LogIndex,
        max_bytes: usize,
    ) -> Result<(Vec<Arc<AppliedEntry>>, LogIndex), ReadError> {
        let shared = &self.inner.shared;
        let mut marks = Marks::new(&*shared.engine);
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, from);
        while bytes < max_bytes {
            match shared.tail(group).get(next) {
                TailRead::Entry(entry) => {
                    bytes += entry.size_bytes();
                    next = next.next();
                    entries.push(marks.entry(entry)?);
                }
                TailRead::NotYet => break,
                TailRead::Evicted { first } => {
                    let (read, to) = reader::read_entries(&*shared.engine, group, next, first, max_bytes - bytes)?;
                    bytes += read.iter().map(AppliedEntry::size_bytes).sum::<usize>();
                    for entry in read {
                        entries.push(marks.entry(Arc::new(entry))?);
                    }
                    next = to;
                }
            }
        }
        Ok((entries, next))
    }

    /// A table of a group: synchronous reads of committed rows.
    pub fn table(&self, group: GroupId, table: TableId) -> Table {
        Table {
            engine: self.inner.shared.engine.clone(),
            group,
            table,
        }
    }

    /// The catalog, as a snapshot that changes.
    pub fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.inner.shared.catalog.subscribe()
    }

    /// Where a topic goes under the routing of now; remembered by topic.
    pub fn route(&self, topic: &TopicName) -> Arc<Route> {
        let router = self
            .inner
            .shared
            .router
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        router
            .route(topic)
            .unwrap_or_else(|| unreachable!("`open` makes the default stream, and it cannot be dropped"))
    }

    /// Who leads a group.
    pub fn leadership(&self, group: GroupId) -> watch::Receiver<Leadership> {
        self.inner.shared.leadership[usize::from(group.0)].subscribe()
    }

    /// Whether this node leads a group now: it takes Batches of that group.
    pub fn leads(&self, group: GroupId) -> bool {
        self.inner.shared.leadership[usize::from(group.0)].borrow().leading
    }

    /// The data groups.
    pub fn data_groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        self.inner.shared.all_groups().filter(|group| *group != CATALOG_GROUP)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.shared.node
    }

    /// This start of this node.
    pub fn boot(&self) -> BootId {
        self.inner.shared.boot
    }

    /// The clock's time.
    pub fn now(&self) -> TimestampMs {
        self.inner.shared.clock.now()
    }

    /// Runs a read that may touch the disk on the store's bounded pool.
    pub async fn blocking<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        self.inner.shared.blocking(read).await
    }

    /// Resolves, with the reason, when the store had to stop by itself, as after a failed fsync.
    pub async fn failed(&self) -> String {
        let mut failed = self.inner.shared.failed.subscribe();
        match failed.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(Some(reason)) => reason,
            _ => std::future::pending().await,
        }
    }

    /// Refuses new writes, commits what was admitted, and returns when the threads have ended. Idempotent.
    pub async fn stop(&self) {
        self.inner.admission.close();
        self.inner.shared.stop_asked.store(true, Ordering::Relaxed);
        let _ = self.inner.outlet.tell(Message::Stop);
        let threads = std::mem::take(&mut *self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        self.blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())))
            .await;
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    let io = |source| OpenError::Io {
        path: name.into(),
        source,
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(io)
}

/// What came of [`Store::submit_now`].
#[derive(Debug)]
pub enum Submission {
    /// On its way.
    Sent(Receipt),
    /// It will not be written.
    Refused(WriteError),
    /// It has to wait for admission.
    Waits(Batch),
}

/// Resolves when a submitted Batch is committed or refused.
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Result<Committed, WriteError>>);

impl Future for Receipt {
    type Output = Result<Committed, WriteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|reply| reply.unwrap_or(Err(WriteError::Indefinite("the node stopped before it answered"))))
    }
}
