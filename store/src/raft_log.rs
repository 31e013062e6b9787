//! The Raft log of one group over raft-engine, as raft-rs wants to read it.
//!
//! raft-rs hands entries over before they are on disk (`advance_append_async`) and may read them back at once, so the
//! newest entries stay in memory until they are both persisted and applied; older ones are read from raft-engine. What
//! has to be written is collected as a [`LogWrite`], so that one write and one fsync serve all groups.
//!
//! ```text
//! region = group + 1, so that region 0 stays free
//!   entries   eraftpb::Entry by index
//!   "hard"    eraftpb::HardState
//!   "cut"     index u64 | term u64, little-endian: the last entry that was cut off
//! ```

mod ahead;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use raft_engine::{Command, LogBatch, MessageExt, ReadableSize, RecoveryMode};

use crate::ids::{GroupId, LogIndex, NodeId, Term};
use crate::kill_points::{Point, reached};
use crate::log_files;
use crate::wire::{Reader, Short};
use ahead::AheadFileSystem;

pub const HARD_STATE_KEY: &[u8] = b"hard";
pub const CUT_KEY: &[u8] = b"cut";

/// A log file's size; the log is cut in whole files.
const FILE_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 32 << 20 };
/// Above this the files whose entries are all cut off are used again, so that no space has to be found for what is
/// written. Files with live entries are rewritten. A start reads as much.
const PURGE_BYTES: u64 = FILE_BYTES * 6;

/// raft-engine's entry type for raft-rs.
#[derive(Clone)]
pub struct EntryMessage;

impl MessageExt for EntryMessage {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// What the log engine reaches its files through; in tests one that can be told to fail.
#[cfg(not(test))]
type LogFileSystem = AheadFileSystem<raft_engine::env::DefaultFileSystem>;
#[cfg(test)]
type LogFileSystem = AheadFileSystem<faults::FaultyFileSystem>;

/// The log engine all groups share.
pub type LogEngine = raft_engine::Engine<LogFileSystem>;

#[cfg(not(test))]
fn file_system(_: &Path) -> LogFileSystem {
    AheadFileSystem(raft_engine::env::DefaultFileSystem)
}
#[cfg(test)]
fn file_system(folder: &Path) -> LogFileSystem {
    AheadFileSystem(faults::file_system(folder))
}

/// Opens the log of all groups in `folder`. What a crash cut short is cut off; anything else that does not belong there
/// is refused, by us ([`log_files`]) or by the engine, which is told to tolerate nothing.
pub fn open(folder: &Path) -> Result<Arc<LogEngine>, String> {
    log_files::mend(folder).map_err(|error| error.to_string())?;
    open_mended(folder, FILE_BYTES, PURGE_BYTES)
}

fn open_mended(folder: &Path, file_bytes: u64, purge_bytes: u64) -> Result<Arc<LogEngine>, String> {
    let config = raft_engine::Config {
        dir: folder.to_string_lossy().into_owned(),
        recovery_mode: RecoveryMode::AbsoluteConsistency,
        // Record batches are compressed already.
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize(file_bytes),
        purge_threshold: ReadableSize(purge_bytes),
        ..raft_engine::Config::default()
    };
    let file_system = Arc::new(file_system(folder));
    // raft-engine panics on some kinds of damage. Nothing of it is shared yet, so nothing is left half changed.
    let opened = std::panic::catch_unwind(|| LogEngine::open_with_file_system(config, file_system));
    match opened {
        Ok(Ok(engine)) => {
            reached(Point::LogOpened);
            Ok(Arc::new(engine))
        }
        Ok(Err(error)) => Err(format!("{error}; `headwater store check` lists all damage")),
        Err(_) => {
            Err("the log engine panicked; its message is above; `headwater store check` lists all damage".to_owned())
        }
    }
}

/// The last entry that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cut {
    pub index: LogIndex,
    pub term: Term,
}

impl Cut {
    fn encode(self) -> Vec<u8> {
        [self.index.0.to_le_bytes(), self.term.0.to_le_bytes()].concat()
    }

    /// Where the log of `group` is cut.
    pub fn load(engine: &LogEngine, group: GroupId) -> Result<Cut, String> {
        match engine.get(region(group), CUT_KEY) {
            Some(value) => Cut::decode(value.into()).map_err(|Short| format!("group {group}: damaged cut row")),
            None => Ok(Cut::default()),
        }
    }

    /// Reads the value of [`CUT_KEY`].
    pub fn decode(value: Bytes) -> Result<Cut, Short> {
        let mut reader = Reader::new(value);
        let cut = Cut {
            index: LogIndex(reader.u64()?),
            term: Term(reader.u64()?),
        };
        if reader.is_empty() { Ok(cut) } else { Err(Short) }
    }
}

/// What one group adds to the next log write.
#[derive(Debug, Default)]
pub struct LogWrite {
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    /// Entries up to here may go; they are flushed in RocksDB.
    pub cut: Option<Cut>,
    /// Worth an fsync of its own. A commit index alone is not: it rides with the next entries.
    pub sync: bool,
}

impl LogWrite {
    /// About what it takes in the log.
    pub fn size_bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.data.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.hard_state.is_none() && self.cut.is_none()
    }

    /// Adds it to the batch that the log thread writes and syncs.
    pub fn encode(&self, group: GroupId, batch: &mut LogBatch) -> raft_engine::Result<()> {
        let region = region(group);
        batch.add_entries::<EntryMessage>(region, &self.entries)?;
        if let Some(hard_state) = &self.hard_state {
            batch.put_message(region, HARD_STATE_KEY.to_vec(), hard_state)?;
        }
        if let Some(cut) = self.cut {
            batch.put(region, CUT_KEY.to_vec(), cut.encode())?;
            let index = cut.index.next().0;
            batch.add_command(region, Command::Compact { index });
        }
        Ok(())
    }
}

/// One group's log.
pub struct RaftLog {
    engine: Arc<LogEngine>,
    group: GroupId,
    hard_state: HardState,
    voters: ConfState,
    cut: Cut,
    last: LogIndex,
    /// The newest entries, ending at `last`.
    tail: VecDeque<Entry>,
}

impl RaftLog {
    /// Reads what the engine has of `group`. `applied` is known to be committed, even where the hard state was written
    /// before the commit index got there.
    pub fn load(engine: Arc<LogEngine>, group: GroupId, node: NodeId, applied: LogIndex) -> Result<RaftLog, String> {
        let region = region(group);
        let hard_state: Option<HardState> = engine
            .get_message(region, HARD_STATE_KEY)
            .map_err(|error| error.to_string())?;
        let cut = Cut::load(&engine, group)?;
        // The engine keeps what lies before a cut in files of its own for a while, and forgets that it was cut off with the
        // file that said so.
        if engine.first_index(region).is_some_and(|first| first <= cut.index.0) {
            engine.compact_to(region, cut.index.0 + 1);
        }
        let last = engine
            .last_index(region)
            .map_or(cut.index, |last| LogIndex(last).max(cut.index));
        let known = hard_state.is_some();
        let mut hard_state = hard_state.unwrap_or_default();
        if let Some(first) = engine.first_index(region).filter(|first| *first != cut.index.0 + 1) {
            return Err(format!(
                "the raft log of group {group} was cut at entry {}, and its next entry is {first}: those between are gone",
                cut.index
            ));
        }
        if hard_state.commit > last.0 {
            return Err(format!(
                "group {group} had committed entry {}, and its raft log ends at {last}",
                hard_state.commit
            ));
        }
        if applied > last || (!known && applied > LogIndex(0)) {
            return Err(format!(
                "group {group} is applied to entry {applied}, but its raft log ends at {last}"
            ));
        }
        if applied < cut.index {
            return Err(format!(
                "group {group} is applied to entry {applied}, but its raft log begins after {}",
                cut.index
            ));
        }
        hard_state.commit = hard_state.commit.max(applied.0);
        let voters = ConfState {
            voters: vec![node.0],
            ..ConfState::default()
        };
        Ok(RaftLog {
            engine,
            group,
            hard_state,
            voters,
            cut,
            last,
            tail: VecDeque::new(),
        })
    }

    /// Takes entries that raft-rs wants persisted; they replace what stood at their indexes.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        while self.tail.back().is_some_and(|entry| entry.index >= first.index) {
            self.tail.pop_back();
        }
        self.tail.extend(entries.iter().cloned());
        self.last = LogIndex(entries[entries.len() - 1].index);
    }

    /// Forgets entries in memory that are persisted and applied.
    pub fn trim_tail(&mut self, through: LogIndex) {
        while self.tail.front().is_some_and(|entry| entry.index <= through.0) {
            self.tail.pop_front();
        }
    }

    /// Cuts the log after `through`, an entry of `term`; gives the cut to write, if it is news.
    pub fn cut(&mut self, through: LogIndex, term: Term) -> Option<Cut> {
        if through <= self.cut.index || through > self.last {
            return None;
        }
        self.cut = Cut { index: through, term };
        Some(self.cut)
    }

    fn in_tail(&self, index: u64) -> Option<&Entry> {
        let first = self.tail.front()?.index;
        self.tail.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }
}

fn region(group: GroupId) -> u64 {
    u64::from(group.0) + 1
}

/// The group of a region.
pub fn group_of(region: u64) -> Option<GroupId> {
    u16::try_from(region.checked_sub(1)?).ok().map(GroupId)
}

fn other(error: raft_engine::Error) -> raft::Error {
    raft::Error::Store(StorageError::Other(Box::new(error)))
}

impl Storage for RaftLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.voters.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.cut.index.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let tail_first = self.tail.front().map_or(self.last.0 + 1, |entry| entry.index);
        let max_size = max_size.into();
        let mut entries = Vec::new();
        let mut next = low;
        if low < tail_first {
            let end = high.min(tail_first);
            let max_bytes = max_size.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
            self.engine
                .fetch_entries_to::<EntryMessage>(region(self.group), low, end, max_bytes, &mut entries)
                .map_err(other)?;
            next = low + entries.len() as u64;
        }
        // Only where disk and tail meet: a size limit may have ended the read before.
        if next >= tail_first {
            entries.extend((next..high).filter_map(|index| self.in_tail(index).cloned()));
        }
        raft::util::limit_size(&mut entries, max_size);
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.cut.index.0 {
            return Ok(self.cut.term.0);
        }
        if index < self.cut.index.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if let Some(entry) = self.in_tail(index) {
            return Ok(entry.term);
        }
        match self
            .engine
            .get_entry::<EntryMessage>(region(self.group), index)
            .map_err(other)?
        {
            Some(entry) => Ok(entry.term),
            None => Err(raft::Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.cut.index.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.0)
    }

    fn snapshot(&self, _: u64, _: u64) -> raft::Result<Snapshot> {
        // A group of one has nobody to send a snapshot to.
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[cfg(test)]
pub mod faults;
#[cfg(test)]
pub mod testing;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_cut_and_regions_come_back(index: u64, term: u64, group: u16) {
            let cut = Cut { index: LogIndex(index), term: Term(term) };
            prop_assert_eq!(Cut::decode(cut.encode().into()), Ok(cut));
            prop_assert_eq!(Cut::decode(cut.encode()[1..].to_vec().into()), Err(Short));
            prop_assert_eq!(group_of(region(GroupId(group))), Some(GroupId(group)));
        }
    }
}
