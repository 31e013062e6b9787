//! Followers: readers with a cursor. They read from the group's shared tail while they keep up, and from the engine
//! when they do not; which of the two is never visible in what they give.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::future::select_all;
use tokio::sync::watch;

use crate::batch::Put;
use crate::error::ReadError;
use crate::ids::{GroupId, LogIndex, Offset, ShardId, TimestampMs};
use crate::reader;
use crate::store::Shared;
use crate::stored::StoredBatch;
use crate::tail::TailRead;

/// About the bytes that a follower of a group reads from disk at once; at least one entry.
const READ_BYTES: usize = 4 << 20;

/// Where a reader starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The oldest record there is.
    Earliest,
    /// After the newest record there is now.
    Latest,
    /// That offset, in every shard.
    Offset(Offset),
    /// The first record appended at that time or after.
    Timestamp(TimestampMs),
}

/// Everything that one entry changed, as followers see it.
#[derive(Debug)]
pub struct AppliedEntry {
    /// The group.
    pub group: GroupId,
    /// Its place in the group's log.
    pub index: LogIndex,
    /// The append time of its records.
    pub time: TimestampMs,
    /// Its record batches, in order.
    pub appends: Vec<StoredBatch>,
    /// Its table rows, in order. Empty where the entry was read back from disk.
    pub puts: Vec<Put>,
}

impl AppliedEntry {
    pub(crate) fn size_bytes(&self) -> usize {
        let appends: usize = self.appends.iter().map(|stored| stored.memory_bytes() + 64).sum();
        let puts: usize = self
            .puts
            .iter()
            .map(|put| put.key.len() + put.value.as_ref().map_or(0, bytes::Bytes::len) + 48)
            .sum();
        64 + appends + puts
    }
}

/// Reads shards from a cursor each.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    cursors: Vec<(ShardId, Offset)>,
    groups: Vec<GroupCursor>,
    /// The group that is served first next time, so that none starves.
    turn: usize,
    /// Taken and not yet handed out: it stays here when a call is dropped at an await.
    found: Vec<(StoredBatch, Offset)>,
    found_bytes: usize,
    stopped: watch::Receiver<bool>,
}

#[derive(Debug)]
struct GroupCursor {
    group: GroupId,
    applied: watch::Receiver<LogIndex>,
    /// Some while the shards of this group are read from the tail: the next entry.
    live: Option<LogIndex>,
}

impl Follower {
    pub(crate) fn new(shared: Arc<Shared>, cursors: Vec<(ShardId, Offset)>) -> Follower {
        let mut ids: Vec<_> = cursors.iter().map(|(shard, _)| shard.group).collect();
        ids.sort_unstable();
        ids.dedup();
        let groups = ids
            .into_iter()
            .map(|group| GroupCursor {
                group,
                applied: shared.tail(group).applied(),
                live: None,
            })
            .collect();
        Follower {
            stopped: shared.stopped(),
            shared,
            cursors,
            groups,
            turn: 0,
            found: Vec::new(),
            found_bytes: 0,
        }
    }

    /// The next offset of each shard. What a call that was dropped had taken is in front of it, and still to be given: it
    /// says where another follower would go on behind that, not what its reader has seen.
    pub fn cursors(&self) -> &[(ShardId, Offset)] {
        &self.cursors
    }

    /// True when everything that is applied has been given: no record that is already there is still to come.
    pub fn caught_up(&self) -> bool {
        let read = |group: &GroupCursor| group.live.is_some_and(|next| next > *group.applied.borrow());
        self.found.is_empty() && self.groups.iter().all(read)
    }

    /// Waits for records and gives the next ones: about `max_bytes`, at least one record batch. The offset beside a
    /// batch is where to start in it: pass it to [`StoredBatch::records_from`]. Cancel-safe.
    pub async fn next(&mut self, max_bytes: usize) -> Result<Vec<(StoredBatch, Offset)>, ReadError> {
        loop {
            let found = self.poll(max_bytes).await?;
            if !found.is_empty() {
                return Ok(found);
            }
            if self.groups.is_empty() {
                std::future::pending::<()>().await;
            }
            let news = self.groups.iter_mut().map(|group| Box::pin(group.applied.changed()));
            tokio::select! {
                _ = select_all(news) => {}
                _ = self.stopped.wait_for(|stopped| *stopped) => return Err(ReadError::Stopped),
            }
        }
    }

    /// As [`Follower::next`], but gives nothing when all shards are read to their end. Cancel-safe.
    pub async fn poll(&mut self, max_bytes: usize) -> Result<Vec<(StoredBatch, Offset)>, ReadError> {
        for step in 0..self.groups.len() {
            let at = (self.turn + step) % self.groups.len();
            self.poll_group(at, max_bytes).await?;
            if self.found_bytes >= max_bytes {
                self.turn = at + 1;
                break;
            }
        }
        self.found_bytes = 0;
        Ok(std::mem::take(&mut self.found))
    }

    async fn poll_group(&mut self, at: usize, max_bytes: usize) -> Result<(), ReadError> {
        self.groups[at].applied.borrow_and_update();
        while self.found_bytes < max_bytes {
            match self.groups[at].live {
                Some(next) => match self.shared.tail(self.groups[at].group).get(next) {
                    TailRead::Entry(entry) => {
                        self.groups[at].live = Some(next.next());
                        entry.appends.iter().for_each(|stored| self.take(stored));
                    }
                    TailRead::NotYet => return Ok(()),
                    TailRead::Evicted { .. } => self.groups[at].live = None,
                },
                None => {
                    // Looked at before the read: what is applied later is either read or comes from the tail. Looked
                    // at before every read: the tail may have moved past an older one.
                    let applied = *self.groups[at].applied.borrow_and_update();
                    let before = self.found.len();
                    self.read_from_disk(at, max_bytes).await?;
                    if self.found.len() == before {
                        self.groups[at].live = Some(applied.next());
                    }
                }
            }
        }
        Ok(())
    }

    async fn read_from_disk(&mut self, at: usize, max_bytes: usize) -> Result<(), ReadError> {
        let group = self.groups[at].group;
        let wanted: Vec<_> = self
            .cursors
            .iter()
            .filter(|(shard, _)| shard.group == group)
            .copied()
            .collect();
        let share = (max_bytes - self.found_bytes).div_ceil(wanted.len().max(1));
        let engine = self.shared.engine.clone();
        let batches = self
            .shared
            .blocking(move || {
                let mut batches = Vec::new();
                for (shard, from) in wanted {
                    batches.extend(reader::read(&*engine, shard, from, share)?);
                }
                Ok::<_, ReadError>(batches)
            })
            .await?;
        batches.iter().for_each(|stored| self.take(stored));
        Ok(())
    }

    /// Keeps what is of our shards and not yet given. The same batch may come once from disk and once from the tail.
    fn take(&mut self, stored: &StoredBatch) {
        let cursor = self
            .cursors
            .iter_mut()
            .find(|(shard, cursor)| *shard == stored.shard && stored.end() > *cursor);
        if let Some((_, cursor)) = cursor {
            self.found_bytes += stored.size_bytes();
            self.found.push((stored.clone(), *cursor));
            *cursor = stored.end();
        }
    }
}

/// Reads all entries of one group that append or put something, in order.
#[derive(Debug)]
pub struct GroupFollower {
    shared: Arc<Shared>,
    group: GroupId,
    applied: watch::Receiver<LogIndex>,
    next: LogIndex,
    /// Read from disk and not yet given.
    pending: VecDeque<Arc<AppliedEntry>>,
    stopped: watch::Receiver<bool>,
}

impl GroupFollower {
    pub(crate) fn new(shared: Arc<Shared>, group: GroupId) -> GroupFollower {
        let mut applied = shared.tail(group).applied();
        let next = applied.borrow_and_update().next();
        GroupFollower {
            stopped: shared.stopped(),
            shared,
            group,
            applied,
            next,
            pending: VecDeque::new(),
        }
    }

    /// Waits for the next entry. A slow follower gets entries from disk, without their `puts`. Cancel-safe.
    pub async fn next(&mut self) -> Result<Arc<AppliedEntry>, ReadError> {
        loop {
            if let Some(entry) = self.pending.pop_front() {
                return Ok(entry);
            }
            match self.shared.tail(self.group).get(self.next) {
                TailRead::Entry(entry) => {
                    self.next = self.next.next();
                    return Ok(entry);
                }
                TailRead::NotYet => tokio::select! {
                    _ = self.applied.changed() => {}
                    _ = self.stopped.wait_for(|stopped| *stopped) => return Err(ReadError::Stopped),
                },
                TailRead::Evicted { first } => self.read_from_disk(first).await?,
            }
        }
    }

    async fn read_from_disk(&mut self, tail_first: LogIndex) -> Result<(), ReadError> {
        let (engine, group, from) = (self.shared.engine.clone(), self.group, self.next);
        let (entries, next) = self
            .shared
            .blocking(move || reader::read_entries(&*engine, group, from, tail_first, READ_BYTES))
            .await?;
        self.next = next;
        self.pending.extend(entries.into_iter().map(Arc::new));
        Ok(())
    }
}
