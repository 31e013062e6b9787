//! [`Store`]: the handle everyone holds, and what it shares with the threads behind it. It is opened in [`open`], written to in
//! [`write`]; what is read stands here.

mod open;
mod write;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use crate::batch::{Batch, TableId, Trim};
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::error::{ReadError, WriteError};
use crate::follow::{AppliedEntry, Follower, GroupFollower, Position};
use crate::ids::{BootId, CATALOG_GROUP, GroupId, LogIndex, NodeId, Offset, ShardId, Term, TimestampMs};
use crate::inbox::{Message, Outlet};
use crate::placement::{Route, Router};
use crate::reader::{self, KeyRead, Marks};
use crate::slices::Slices;
use crate::stored::StoredBatch;
use crate::table::Table;
use crate::tail::{Tail, TailRead};
use crate::topic::TopicName;

pub use write::{Receipt, Submission};

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
