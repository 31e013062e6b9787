//! The Raft turn of one group, without IO: tick, propose, ready. raft-rs is used here and in `raft_log` only.

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::EntryType;
use raft::{Config, RawNode, StateRole};

use crate::ids::{GroupId, LogIndex, NodeId, Term};
use crate::limits::{COMMITTED_BYTES_PER_READY_MAX, UNCOMMITTED_PER_ADMITTED};
use crate::raft_log::{LogEngine, LogWrite, RaftLog};

/// Ticks without a leader before an election.
const ELECTION_TICKS: usize = 10;
/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 3;
/// Bytes of entries in one message to a peer.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Messages under way to one peer.
const MESSAGES_INFLIGHT_MAX: usize = 256;

/// An entry that raft-rs says is committed.
#[derive(Debug)]
pub struct CommittedEntry {
    pub index: LogIndex,
    pub term: Term,
    /// Empty for the entry that opens a leader's term.
    pub data: Bytes,
}

/// What one turn produced.
#[derive(Debug)]
pub struct Turn {
    /// Give it to [`Replica::persisted`] once `write` is on disk.
    pub number: u64,
    pub write: LogWrite,
    pub committed: Vec<CommittedEntry>,
}

/// One group's replica on this node.
pub struct Replica {
    node: RawNode<RaftLog>,
    persisted: LogIndex,
    last_of_turn: std::collections::VecDeque<(u64, LogIndex)>,
}

impl Replica {
    /// Starts from what the log holds, with everything up to `applied` already applied.
    pub fn open(
        engine: Arc<LogEngine>,
        group: GroupId,
        id: NodeId,
        applied: LogIndex,
        admission_bytes: u64,
    ) -> Result<Replica, String> {
        let log = RaftLog::load(engine, group, id, applied)?;
        let config = Config {
            id: id.0,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: applied.0,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            max_uncommitted_size: admission_bytes.saturating_mul(UNCOMMITTED_PER_ADMITTED),
            max_committed_size_per_ready: COMMITTED_BYTES_PER_READY_MAX,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, log, &logger).map_err(|error| format!("group {group}: {error}"))?;
        let persisted = LogIndex(node.raft.raft_log.persisted);
        Ok(Replica {
            node,
            persisted,
            last_of_turn: std::collections::VecDeque::new(),
        })
    }

    /// A group of one need not wait for a timeout.
    pub fn campaign_if_alone(&mut self) -> Result<(), raft::Error> {
        if self.node.raft.prs().conf().voters().ids().iter().count() == 1 {
            self.node.campaign()
        } else {
            Ok(())
        }
    }

    /// Moves Raft's time on by one tick.
    pub fn tick(&mut self) {
        self.node.tick();
    }

    /// The term, and whether this replica leads it.
    pub fn role(&self) -> (Term, bool) {
        (Term(self.node.raft.term), self.node.raft.state == StateRole::Leader)
    }

    /// Proposes an entry; gives the index and term at which it is committed, if it is.
    pub fn propose(&mut self, data: Vec<u8>) -> Result<(LogIndex, Term), raft::Error> {
        self.node.propose(Vec::new(), data)?;
        Ok((
            LogIndex(self.node.raft.raft_log.last_index()),
            Term(self.node.raft.term),
        ))
    }

    /// The next turn's work, if there is any. Entries must be written before [`Replica::persisted`]; committed entries
    /// are applied at once.
    pub fn turn(&mut self) -> Option<Turn> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let committed = ready
            .take_committed_entries()
            .into_iter()
            .map(|entry| {
                debug_assert_eq!(
                    entry.get_entry_type(),
                    EntryType::EntryNormal,
                    "groups do not change yet"
                );
                CommittedEntry {
                    index: LogIndex(entry.index),
                    term: Term(entry.term),
                    data: entry.data,
                }
            })
            .collect();
        let entries = ready.take_entries();
        if let Some(last) = entries.last() {
            self.last_of_turn.push_back((ready.number(), LogIndex(last.index)));
        }
        self.node.mut_store().append(&entries);
        let turn = Turn {
            number: ready.number(),
            write: LogWrite {
                entries,
                hard_state: ready.hs().cloned(),
                cut: None,
                sync: ready.must_sync(),
            },
            committed,
        };
        self.node.advance_append_async(ready);
        Some(turn)
    }

    /// Turn `number`, and every one before it, is on disk.
    pub fn persisted(&mut self, number: u64) {
        self.node.on_persist_ready(number);
        while let Some((_, last)) = self.last_of_turn.pop_front_if(|(turn, _)| *turn <= number) {
            self.persisted = last;
        }
    }

    /// Committed entries up to `index` are applied.
    pub fn applied(&mut self, index: LogIndex) {
        self.node.advance_apply_to(index.0);
        let through = index.min(self.persisted);
        self.node.mut_store().trim_tail(through);
    }

    /// The log up to `through` is no longer needed; gives the cut to write, if it is news.
    pub fn cut(&mut self, through: LogIndex, term: Term) -> LogWrite {
        LogWrite {
            cut: self.node.mut_store().cut(through, term),
            sync: true,
            ..LogWrite::default()
        }
    }
}
