//! The Raft log from its files: every checksum, every entry down to its record batches, and what is left of each group
//! when all is replayed as the log engine replays it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use bytes::Bytes;
use protobuf::Message;
use raft::eraftpb::{Entry as RaftEntry, HardState};

use super::Findings;
use super::slices::check_record_batch;
use crate::entry;
use crate::ids::{GroupId, LogIndex};
use crate::keys::applied::Applied;
use crate::log_files::{self, Batch, Event, Item, LogFile, Mark, Queue};
use crate::raft_log::{self, Cut};

/// Where an entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Its file's place in the list.
    pub file: usize,
    /// Its batch's offset.
    pub offset: u64,
    /// Its bytes among the batch's entries.
    pub begin: usize,
    pub end: usize,
}

/// One group's log.
#[derive(Debug, Default)]
pub struct GroupLog {
    /// The index of the first entry.
    pub first: u64,
    pub entries: VecDeque<At>,
    pub hard_state: HardState,
    pub cut: Cut,
}

impl GroupLog {
    pub fn last(&self) -> LogIndex {
        let last = (self.first + self.entries.len() as u64).saturating_sub(1);
        LogIndex(last).max(self.cut.index)
    }

    fn append(&mut self, first: u64, entries: impl Iterator<Item = At>) {
        let end = self.first + self.entries.len() as u64;
        if (self.first..=end).contains(&first) {
            self.entries.truncate((first - self.first) as usize);
        } else {
            // What lies before a hole was cut off, or else the log's begin does not fit its cut.
            self.entries.clear();
        }
        if self.entries.is_empty() {
            self.first = first;
        }
        self.entries.extend(entries);
    }

    fn compact(&mut self, index: u64) {
        while !self.entries.is_empty() && self.first < index {
            self.entries.pop_front();
            self.first += 1;
        }
    }
}

/// All groups' logs, by region, while files are replayed.
#[derive(Debug, Default)]
struct Replay {
    groups: BTreeMap<u64, GroupLog>,
    /// Batches of the rewrite queue that only count when their last one is there.
    pending: HashMap<u64, Vec<(usize, u64, Batch)>>,
    damaged: Vec<String>,
}

impl Replay {
    fn take(&mut self, queue: Queue, file: usize, offset: u64, batch: Batch) {
        let Some((id, mark)) = batch.mark().filter(|_| queue == Queue::Rewrite) else {
            return self.apply(file, offset, batch);
        };
        if mark == Mark::Begin {
            self.pending.remove(&id);
        }
        self.pending.entry(id).or_default().push((file, offset, batch));
        if mark == Mark::End {
            for (file, offset, batch) in self.pending.remove(&id).unwrap_or_default() {
                self.apply(file, offset, batch);
            }
        }
    }

    fn apply(&mut self, file: usize, offset: u64, batch: Batch) {
        for item in batch.items {
            match item {
                Item::Entries { region, first, ranges } => {
                    let at = |range: std::ops::Range<usize>| At {
                        file,
                        offset,
                        begin: range.start,
                        end: range.end,
                    };
                    self.groups
                        .entry(region)
                        .or_default()
                        .append(first, ranges.into_iter().map(at));
                }
                Item::Clean { region } => drop(self.groups.remove(&region)),
                Item::Compact { region, index } => self.groups.entry(region).or_default().compact(index),
                Item::Put { region, key, value } => self.put(region, &key, value),
                // Headwater never deletes one.
                Item::Delete { .. } => {}
            }
        }
    }

    fn put(&mut self, region: u64, key: &[u8], value: Bytes) {
        if key == log_files::MARK_KEY {
            return;
        }
        let group = self.groups.entry(region).or_default();
        let known = match key {
            raft_log::HARD_STATE_KEY => HardState::parse_from_bytes(&value)
                .map(|state| group.hard_state = state)
                .is_ok(),
            raft_log::CUT_KEY => Cut::decode(value).map(|cut| group.cut = cut).is_ok(),
            _ => false,
        };
        if !known {
            let name = String::from_utf8_lossy(key);
            self.damaged
                .push(format!("the value `{name}` of region {region} does not decode"));
        }
    }
}

/// The logs of all groups. Damage in the files is told, and read over.
pub fn check(folder: &Path, full: bool, findings: &mut Findings<'_>) -> BTreeMap<GroupId, GroupLog> {
    let files = match log_files::list(folder) {
        Ok(files) => files,
        Err(error) => {
            findings.problem(folder.display(), error);
            return BTreeMap::new();
        }
    };
    let mut replay = Replay::default();
    for (number, file) in files.iter().enumerate() {
        findings.summary.log_files += 1;
        let newest = log_files::is_newest(&files, number);
        let scanned = log_files::scan(file, &mut |event| {
            match event {
                Event::Batch(offset, batch) => {
                    check_entries(file, offset, &batch, full, findings);
                    replay.take(file.queue, number, offset, batch);
                }
                Event::Bad(spot) if newest && spot.may_be_torn() => {
                    findings.summary.torn_bytes += if spot.zeros { 0 } else { spot.bytes };
                }
                Event::Bad(spot) => {
                    let place = format!("{} byte {}", file.path.display(), spot.offset);
                    let behind = match spot.next {
                        Some(next) => format!("the next valid record is at byte {next}"),
                        None => "no valid record follows in this file".to_owned(),
                    };
                    findings.problem(place, format!("{}; {behind}", spot.reason));
                }
            }
            true
        });
        if let Err(error) = scanned {
            findings.problem(file.path.display(), error);
        }
    }
    for damage in replay.damaged {
        findings.problem(folder.display(), damage);
    }
    by_group(replay.groups)
}

/// The logs alone, for a dump. Damage is read over.
pub fn load(files: &[LogFile]) -> std::io::Result<BTreeMap<GroupId, GroupLog>> {
    let mut replay = Replay::default();
    for (number, file) in files.iter().enumerate() {
        log_files::scan(file, &mut |event| {
            if let Event::Batch(offset, batch) = event {
                replay.take(file.queue, number, offset, batch);
            }
            true
        })?;
    }
    Ok(by_group(replay.groups))
}

fn by_group(regions: BTreeMap<u64, GroupLog>) -> BTreeMap<GroupId, GroupLog> {
    let groups = regions.into_iter().filter_map(|(region, mut log)| {
        // Entries before the cut may come back when the file is gone that said that they are cut off.
        log.compact(log.cut.index.0 + 1);
        Some((raft_log::group_of(region)?, log))
    });
    groups.collect()
}

fn check_entries(file: &LogFile, offset: u64, batch: &Batch, full: bool, findings: &mut Findings<'_>) {
    for item in &batch.items {
        let Item::Entries { region, first, ranges } = item else {
            continue;
        };
        for (index, range) in (*first..).zip(ranges) {
            findings.summary.log_entries += 1;
            let bytes = batch.entries.slice(range.clone());
            if let Err(what) = check_entry(*region, index, bytes, full) {
                let place = format!("{} byte {offset}, region {region} entry {index}", file.path.display());
                findings.problem(place, what);
            }
        }
    }
}

fn check_entry(region: u64, index: u64, bytes: Bytes, full: bool) -> Result<(), String> {
    let group = raft_log::group_of(region).ok_or("there is no such group")?;
    let raft_entry = RaftEntry::parse_from_bytes(&bytes).map_err(|error| error.to_string())?;
    if raft_entry.index != index {
        return Err(format!("it says that it is entry {}", raft_entry.index));
    }
    if raft_entry.data.is_empty() {
        return Ok(());
    }
    let entry = entry::decode(group, raft_entry.data).map_err(|error| format!("its data: {error}"))?;
    for append in entry.items.iter().flat_map(|item| &item.appends) {
        check_record_batch(&append.batch, full).map_err(|error| format!("an append to {}: {error}", append.shard))?;
    }
    Ok(())
}

/// Compares the logs with how far each group is applied: cut, applied and last entry follow each other.
pub fn compare(
    logs: &BTreeMap<GroupId, GroupLog>,
    groups: impl Iterator<Item = GroupId>,
    applied: Option<&BTreeMap<GroupId, Applied>>,
    findings: &mut Findings<'_>,
) {
    let none = GroupLog::default();
    for group in groups {
        let log = logs.get(&group).unwrap_or(&none);
        let place = format!("raft log of group {group}");
        let (cut, last) = (log.cut.index, log.last());
        if !log.entries.is_empty() && log.first != cut.0 + 1 {
            findings.problem(
                &place,
                format!("it was cut at {cut}, and its next entry is {}", log.first),
            );
        }
        if log.hard_state.commit > last.0 {
            let commit = log.hard_state.commit;
            findings.problem(
                &place,
                format!("entry {commit} was committed, and the log ends at {last}"),
            );
        }
        let Some(applied) = applied else { continue };
        let applied = applied.get(&group).copied().unwrap_or_default();
        if applied.index < cut {
            let applied = applied.index;
            findings.problem(
                &place,
                format!("it was cut at {cut}, and rows are applied to {applied}"),
            );
        }
        if applied.index > last {
            let applied = applied.index;
            findings.problem(&place, format!("it ends at {last}, and rows are applied to {applied}"));
        }
        if applied.index == cut && applied.term != log.cut.term && cut > LogIndex(0) {
            let (ours, theirs) = (applied.term, log.cut.term);
            findings.problem(
                &place,
                format!("entry {cut} has term {theirs}, and was applied with term {ours}"),
            );
        }
        findings.summary.log_entries_unflushed += last.0.saturating_sub(applied.index.0);
    }
    let groups = findings.summary.groups;
    for group in logs.keys().filter(|group| u64::from(group.0) >= groups) {
        findings.problem(
            format!("raft log of group {group}"),
            "the folder was made with fewer groups",
        );
    }
}
