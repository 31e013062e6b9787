//! A data folder looked at from outside, while no server uses it: what `headwater store check` and `dump` see.
//!
//! Nothing in the folder is changed, so the log engine is not opened (it would cut and recycle files): its files are
//! read by [`log_files`](crate::log_files). RocksDB is opened for reading alone. What is seen is what is durable: rows as
//! of the last flush, and in the Raft log everything behind it, which the next start applies.
//!
//! ```text
//! FORMAT ─► groups        raft/ ─► every record, entry, item: [`raft`]        state/ ─► rows: [`state`], slices: [`slices`]
//!                                        └──────── cut ≤ applied ≤ last ─────────────┘
//! ```

mod dump;
mod raft;
mod slices;
mod state;

use std::fmt;
use std::path::Path;

pub use dump::{DumpError, DumpFilter, DumpWhat, Dumped, DumpedItem};

use crate::engine::rocks::RocksEngine;
use crate::engine::{Engine, Family};
use crate::error::OpenError;
use crate::folder::Folder;
use crate::ids::GroupId;
use crate::keys::applied;
use crate::log_files::LogFilesError;
use crate::raft_log::{Cut, LogEngine};

/// A data folder that no server uses. The lock is held as long as it lives.
pub struct Offline {
    folder: Folder,
    /// None: the folder has no rows yet.
    engine: Result<Option<RocksEngine>, String>,
}

impl fmt::Debug for Offline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offline")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file and offset, or the kind of row and its key.
    pub place: String,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// The catalog's group and the data groups.
    pub groups: u64,
    /// Files of the Raft log.
    pub log_files: u64,
    /// Entries in them, those included that are cut off already.
    pub log_entries: u64,
    /// Entries behind what is flushed: the next start applies them.
    pub log_entries_unflushed: u64,
    /// Bytes behind the log's last record, of half a write or a recycled file's earlier life; the next start cuts them off.
    pub torn_bytes: u64,
    pub table_rows: u64,
    pub slices: u64,
    pub shards: u64,
    /// Record batches that were read.
    pub record_batches: u64,
    /// Records in them.
    pub records: u64,
    pub problems: u64,
}

/// Counts problems on their way to the caller.
struct Findings<'a> {
    summary: Summary,
    tell: &'a mut dyn FnMut(Problem),
}

impl Findings<'_> {
    fn problem(&mut self, place: impl fmt::Display, what: impl fmt::Display) {
        self.summary.problems += 1;
        (self.tell)(Problem {
            place: place.to_string(),
            what: what.to_string(),
        });
    }
}

impl Offline {
    /// Locks the folder and reads its FORMAT. A database that cannot be opened is left for [`Offline::check`] to tell.
    pub fn open(path: &Path) -> Result<Offline, OpenError> {
        let folder = Folder::open_existing(path)?;
        let engine = match folder.refuse_lost_state() {
            Err(error) => Err(error.to_string()),
            Ok(()) if !folder.state().join("CURRENT").exists() => Ok(None),
            Ok(()) => RocksEngine::open_read_only(&folder.state())
                .map(Some)
                .map_err(|error| error.to_string()),
        };
        Ok(Offline { folder, engine })
    }

    /// Looks at everything; `full` reads each record batch, else the first and last of each span of a shard are read.
    pub fn check(&self, full: bool, tell: &mut dyn FnMut(Problem)) -> Summary {
        let mut findings = Findings {
            summary: Summary::default(),
            tell,
        };
        findings.summary.groups = self.groups().count() as u64;
        let logs = raft::check(&self.folder.raft(), full, &mut findings);
        match &self.engine {
            Err(error) => findings.problem("state", error),
            Ok(None) => raft::compare(&logs, self.groups(), Some(&Default::default()), &mut findings),
            Ok(Some(engine)) => {
                let ledger = state::check(engine, &mut findings);
                let applied = ledger.as_ref().map(|ledger| &ledger.applied);
                raft::compare(&logs, self.groups(), applied, &mut findings);
                // Without it the slices' rows are still read, and nothing is missed in them.
                let ledger = ledger.unwrap_or_default();
                if full {
                    slices::check_all(engine, &ledger, &mut findings);
                } else {
                    slices::check_ends(engine, &ledger, &mut findings);
                }
                if engine.has_bad_blocks() {
                    let what = "a block of its files does not match its checksum; where no row is told of, it is one that \
                                reads do without, and are slower";
                    findings.problem("state", what);
                }
            }
        }
        findings.summary
    }

    /// Gives rows in key order, those that `filter` lets through, until `visit` returns false.
    pub fn dump(
        &self,
        what: DumpWhat,
        filter: &DumpFilter,
        visit: &mut dyn FnMut(Dumped) -> bool,
    ) -> Result<(), DumpError> {
        if what == DumpWhat::Raft {
            return Ok(dump::raft(&self.folder.raft(), filter, visit)?);
        }
        match &self.engine {
            Err(error) => Err(DumpError::Damaged(error.clone())),
            Ok(None) => Ok(()),
            Ok(Some(engine)) => dump::rows(engine, what, filter, visit),
        }
    }

    fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..=self.folder.groups()).map(GroupId)
    }
}

/// Refuses rows that end before the Raft log begins. RocksDB, once it is opened for writing, deletes the files that its
/// MANIFEST does not name; a MANIFEST that lost its end names too few, and RocksDB takes that for a crash.
pub(crate) fn refuse_lost_rows(folder: &Folder, log: &LogEngine) -> Result<(), OpenError> {
    let rows = match folder.state().join("CURRENT").exists() {
        true => Some(RocksEngine::open_read_only(&folder.state())?),
        false => None,
    };
    for group in (0..=folder.groups()).map(GroupId) {
        let cut = Cut::load(log, group).map_err(OpenError::RaftLog)?.index;
        let row = match &rows {
            Some(rows) => rows.get(Family::State, &applied::key(group))?,
            None => None,
        };
        let damaged = |error| OpenError::Damaged(format!("applied row of group {group}: {error}"));
        let applied = row
            .map(applied::decode)
            .transpose()
            .map_err(damaged)?
            .unwrap_or_default()
            .index;
        if applied < cut {
            return Err(OpenError::Damaged(format!(
                "the raft log of group {group} begins after entry {cut}, and the rows in {} end at entry {applied}",
                folder.state().display()
            )));
        }
    }
    Ok(())
}

impl From<LogFilesError> for DumpError {
    fn from(error: LogFilesError) -> DumpError {
        DumpError::Damaged(error.to_string())
    }
}

#[cfg(test)]
mod tests;
