//! The driver: one thread that moves all replicas of this node.
//!
//! ```text
//! writers -> inbox -> [ merge -> propose -> turn ] -> log thread: one write, one fsync for all groups
//!                          ^                              |
//!                          +------- persisted ------------+
//!                          |
//!                          +-> apply committed entries -> tail, catalog, leadership -> writers' replies
//! ```
//!
//! There is no linger: what arrives during an fsync is merged when it ends, and the log thread has its next work before
//! the driver applies what the last one committed. The driver does not wait for an fsync, but for a write so small that
//! handing it to another thread and back would take longer, and only when it has nothing else to do; that one it syncs itself. A
//! condition may make it read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use raft_engine::LogBatch;

use crate::apply::{Applier, entry_time};
use crate::catalog::Catalog;
use crate::entry;
use crate::error::WriteError;
use crate::ids::{CATALOG_GROUP, GroupId, LogIndex, RouteRevision, Term, TimestampMs};
use crate::inbox::{Inbox, Message};
use crate::kill_points::{Point, reached};
use crate::limits::OWN_SYNC_BYTES_MAX;
use crate::log_thread::{self, Log, LogJob};
use crate::maintenance::Chore;
use crate::proposal::{Merged, Proposal, Waiter, merge};
use crate::raft_log::LogWrite;
use crate::replica::{CommittedEntry, Replica};
use crate::store::{Leadership, Shared};

/// Raft's unit of time.
const TICK: Duration = Duration::from_millis(100);

struct Pending {
    index: LogIndex,
    term: Term,
    revisions: Vec<Option<RouteRevision>>,
    waiters: Vec<Waiter>,
}

struct Group {
    id: GroupId,
    replica: Replica,
    applier: Applier,
    queue: VecDeque<Proposal>,
    pending: VecDeque<Pending>,
    proposed_time: TimestampMs,
    /// An entry of this term has been applied.
    applied_term: Term,
}

/// The driver's state; [`Driver::run`] is its thread.
pub struct Driver {
    shared: Arc<Shared>,
    inbox: Inbox,
    log: Log,
    chores: Sender<Chore>,
    groups: Vec<Group>,
    catalog: Catalog,
    /// Collected while the log thread is busy.
    writes: Vec<(GroupId, u64, LogWrite)>,
    log_busy: bool,
    flush_every_bytes: u64,
    unflushed_bytes: u64,
    stopping: bool,
}

/// Why the driver ended by itself.
struct Fatal(String);

impl Driver {
    pub fn new(
        shared: Arc<Shared>,
        inbox: Inbox,
        log: Log,
        chores: Sender<Chore>,
        groups: Vec<(GroupId, Replica, Applier)>,
        catalog: Catalog,
        flush_every_bytes: u64,
    ) -> Driver {
        let groups = groups
            .into_iter()
            .map(|(id, replica, applier)| Group {
                id,
                replica,
                queue: VecDeque::new(),
                pending: VecDeque::new(),
                proposed_time: applier.applied().time,
                applied_term: Term(0),
                applier,
            })
            .collect();
        Driver {
            shared,
            inbox,
            log,
            chores,
            groups,
            catalog,
            writes: Vec::new(),
            log_busy: false,
            flush_every_bytes,
            unflushed_bytes: 0,
            stopping: false,
        }
    }

    /// Runs until [`Message::Stop`] or a fatal error, which it publishes.
    pub fn run(mut self) {
        let ended = self.turns();
        let indefinite =
            |waiter: Waiter| waiter.fail(WriteError::Indefinite("the node stopped before it was committed"));
        for group in &mut self.groups {
            group
                .pending
                .drain(..)
                .flat_map(|pending| pending.waiters)
                .for_each(indefinite);
            for proposal in group.queue.drain(..) {
                let _ = proposal.reply.send(Err(WriteError::Stopped));
            }
        }
        if let Err(Fatal(reason)) = ended {
            tracing::error!(%reason, "the store stops: it can no longer promise what it acknowledges");
            self.shared.fail(reason);
        }
    }

    fn turns(&mut self) -> Result<(), Fatal> {
        for group in &mut self.groups {
            group
                .replica
                .campaign_if_alone()
                .map_err(|error| Fatal(format!("group {}: {error}", group.id)))?;
        }
        let mut next_tick = Instant::now() + TICK;
        loop {
            self.step()?;
            if self.stopping && self.is_idle() {
                return Ok(());
            }
            match self.inbox.wait(next_tick, !self.log_busy) {
                Ok(message) => self.take(message)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            while let Some(message) = self.inbox.message() {
                self.take(message)?;
            }
            self.take_proposals();
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                let closed = self.shared.slices.close_old(self.shared.clock.now());
                closed.map_err(|error| Fatal(error.to_string()))?;
                self.groups.iter_mut().for_each(|group| group.replica.tick());
            }
        }
    }

    fn is_idle(&self) -> bool {
        !self.log_busy
            && self
                .groups
                .iter()
                .all(|group| group.queue.is_empty() && group.pending.is_empty())
    }

    fn take(&mut self, message: Message) -> Result<(), Fatal> {
        match message {
            Message::Proposals => {}
            Message::Persisted(turns) => {
                self.log_busy = false;
                for (group, number) in turns {
                    self.groups[usize::from(group.0)].replica.persisted(number);
                }
            }
            Message::LogFailed(reason) => return Err(Fatal(format!("the raft log cannot be written: {reason}"))),
            Message::FlushFailed(reason) => return Err(Fatal(format!("rows cannot be written: {reason}"))),
            Message::Flushed(durable) => {
                reached(Point::LogCut);
                for (group, through, term) in durable {
                    let write = self.groups[usize::from(group.0)].replica.cut(through, term);
                    if !write.is_empty() {
                        self.writes.push((group, 0, write));
                    }
                }
            }
            Message::Stop => {
                self.take_proposals();
                self.stopping = true;
            }
        }
        Ok(())
    }

    /// Lines up the Batches that are there.
    fn take_proposals(&mut self) {
        while let Some(proposal) = self.inbox.proposal() {
            if self.stopping {
                let _ = proposal.reply.send(Err(WriteError::Stopped));
                continue;
            }
            let group = usize::from(proposal.group.0);
            self.groups[group].queue.push_back(proposal);
        }
    }

    /// Proposes what waits, applies what is committed, hands the log thread what is to be written.
    fn step(&mut self) -> Result<(), Fatal> {
        if !self.log_busy {
            for at in 0..self.groups.len() {
                self.propose(at);
            }
        }
        loop {
            let (any, committed) = self.collect();
            // The log thread gets its work first: it syncs while this thread applies.
            if !self.log_busy && self.writes.iter().any(|(_, _, write)| write.sync) {
                self.sync(committed.is_empty())?;
            }
            for (at, entry) in committed {
                self.apply(at, entry)?;
            }
            if !any {
                break;
            }
        }
        (0..self.groups.len()).for_each(|at| self.announce_leadership(at));
        if self.unflushed_bytes >= self.flush_every_bytes {
            self.unflushed_bytes = 0;
            let _ = self.chores.send(Chore::Flush);
        }
        Ok(())
    }

    /// One turn of each group: its writes join `writes`, its committed entries are given back. Whether there was any.
    fn collect(&mut self) -> (bool, Vec<(usize, CommittedEntry)>) {
        let (mut any, mut committed) = (false, Vec::new());
        for (at, group) in self.groups.iter_mut().enumerate() {
            let Some(turn) = group.replica.turn() else { continue };
            any = true;
            if !turn.write.is_empty() {
                self.writes.push((group.id, turn.number, turn.write));
            }
            committed.extend(turn.committed.into_iter().map(|entry| (at, entry)));
        }
        (any, committed)
    }

    fn propose(&mut self, at: usize) {
        let now = self.shared.clock.now();
        let group = &mut self.groups[at];
        // Only a leader that knows its whole log may give times and take proposals.
        let (term, leads) = group.replica.role();
        if !leads || group.applied_term != term {
            return;
        }
        while !group.queue.is_empty() {
            let time = entry_time(now, group.proposed_time.max(group.applier.applied().time));
            let Merged { entry, waiters } = merge(&mut group.queue, time);
            let revisions = entry.items.iter().map(|item| item.revision).collect();
            match group.replica.propose(entry::encode(&entry)) {
                Ok((index, term)) => {
                    group.proposed_time = time;
                    group.pending.push_back(Pending {
                        index,
                        term,
                        revisions,
                        waiters,
                    });
                }
                Err(error) => {
                    tracing::debug!(group = group.id.0, %error, "proposal refused");
                    let refused = || WriteError::NotLeader {
                        group: group.id,
                        leader: None,
                    };
                    waiters.into_iter().for_each(|waiter| waiter.fail(refused()));
                }
            }
        }
    }

    fn apply(&mut self, at: usize, committed: CommittedEntry) -> Result<(), Fatal> {
        let CommittedEntry { index, term, data } = committed;
        let group = &mut self.groups[at];
        self.unflushed_bytes += data.len() as u64;
        let (entry, outcomes) = group
            .applier
            .apply(index, term, data)
            .map_err(|error| Fatal(error.to_string()))?;
        reached(Point::EntryApplied);
        group.replica.applied(index);
        group.applied_term = term;
        if group.id == CATALOG_GROUP {
            let changed = self
                .catalog
                .apply(&entry.puts)
                .map_err(|error| Fatal(error.to_string()))?;
            if changed {
                self.shared.publish_catalog(self.catalog.clone());
            }
        }
        let time = entry.time;
        let records: u64 = entry.appends.iter().map(|stored| stored.count()).sum();
        metrics::counter!("headwater_store_applied_records_total").increment(records);
        metrics::counter!("headwater_store_applied_entries_total").increment(1);
        self.shared.tail(group.id).push(Arc::new(entry));
        while let Some(pending) = group.pending.pop_front_if(|pending| pending.index <= index) {
            if pending.index == index && pending.term == term {
                for waiter in pending.waiters {
                    let sent = Merged::revision_of(&pending.revisions, &waiter);
                    waiter.resolve(index, time, &outcomes, sent);
                }
            } else {
                // Another leader's entry stands where ours would have stood.
                let lost = || WriteError::NotLeader {
                    group: group.id,
                    leader: None,
                };
                pending.waiters.into_iter().for_each(|waiter| waiter.fail(lost()));
            }
        }
        Ok(())
    }

    fn announce_leadership(&mut self, at: usize) {
        let group = &self.groups[at];
        let (term, leads) = group.replica.role();
        let leading = leads && group.applied_term == term;
        let leader = leading.then_some(self.shared.node);
        self.shared
            .set_leadership(group.id, Leadership { leading, term, leader });
    }

    /// Everything collected, in one write and one fsync: the log thread's, or, where little is to be written and nobody waits
    /// for what this thread would do meanwhile (`idle`), this thread's own.
    fn sync(&mut self, idle: bool) -> Result<(), Fatal> {
        let mut batch = LogBatch::with_capacity(self.writes.len() * 2);
        let mut turns = Vec::with_capacity(self.writes.len());
        let bytes: usize = self.writes.iter().map(|(_, _, write)| write.size_bytes()).sum();
        for (group, number, write) in self.writes.drain(..) {
            write
                .encode(group, &mut batch)
                .map_err(|error| Fatal(format!("the raft log refuses an entry: {error}")))?;
            if number > 0 {
                turns.push((group, number));
            }
        }
        let job = LogJob { batch, turns };
        if idle && bytes <= OWN_SYNC_BYTES_MAX {
            let written = log_thread::serve(&self.log.engine, job);
            return self.take(written);
        }
        self.log_busy = true;
        self.log
            .jobs
            .send(job)
            .map_err(|_| Fatal("the log thread has ended".to_owned()))
    }
}
