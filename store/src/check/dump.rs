//! Rows as they are, for people and scripts to look at.

use std::path::Path;

use bytes::Bytes;
use protobuf::Message;
use raft::eraftpb::Entry as RaftEntry;

use super::raft::{GroupLog, load};
use super::state::group_of;
use crate::batch::TableId;
use crate::catalog::Catalog;
use crate::engine::{Engine, Family};
use crate::entry::{self, Entry};
use crate::error::{EngineError, ReadError};
use crate::ids::{CATALOG_GROUP, GroupId, LogIndex, Offset, ShardId, SliceId, StreamId, Term, TimestampMs};
use crate::keys::{entry_row, table_row};
use crate::log_files::{self, BatchReader, LogFilesError};
use crate::reader;
use crate::record::Record;
use crate::record_batch::parse_header;

/// What to dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpWhat {
    /// Records, shard by shard.
    Records,
    /// The rows that say what each entry appended.
    Entries,
    /// Rows of tables.
    Tables,
    /// The Raft log.
    Raft,
}

/// Which of it.
#[derive(Debug, Clone, Default)]
pub struct DumpFilter {
    pub group: Option<GroupId>,
    /// A name, or an id.
    pub stream: Option<String>,
    pub shard: Option<u16>,
    /// The first offset of each shard; the first index of entries and the Raft log.
    pub from: u64,
}

/// One row.
#[derive(Debug)]
pub enum Dumped {
    Record {
        shard: ShardId,
        /// The stream's name, where the catalog still has it.
        stream: Option<String>,
        offset: Offset,
        record: Record,
    },
    Entry {
        group: GroupId,
        index: LogIndex,
        slice: SliceId,
        time: TimestampMs,
        appends: Vec<(ShardId, Offset)>,
    },
    Table {
        group: GroupId,
        table: TableId,
        key: Bytes,
        value: Bytes,
    },
    /// Where a group's Raft log stands.
    RaftGroup {
        group: GroupId,
        term: Term,
        commit: LogIndex,
        cut: LogIndex,
        last: LogIndex,
    },
    RaftEntry {
        group: GroupId,
        index: LogIndex,
        term: Term,
        /// None: the entry that opens a leader's term.
        time: Option<TimestampMs>,
        items: Vec<DumpedItem>,
        /// Where it lies.
        file: String,
        offset: u64,
    },
}

/// One item of an entry.
#[derive(Debug)]
pub struct DumpedItem {
    pub conditions: usize,
    /// Shards and counts of records.
    pub appends: Vec<(ShardId, u64)>,
    /// Shards and first offsets that stay.
    pub trims: Vec<(ShardId, Offset)>,
    pub puts: Vec<(TableId, Bytes)>,
}

/// Why a dump ended early.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The catalog, as flushed, does not have it.
    #[error("there is no stream `{0}` in what is flushed of the catalog; its id will do as well")]
    Stream(String),
    /// Something could not be read.
    #[error("{0}; `headwater store check --full` lists all damage")]
    Damaged(String),
}

impl From<EngineError> for DumpError {
    fn from(error: EngineError) -> DumpError {
        DumpError::Damaged(error.to_string())
    }
}

impl From<ReadError> for DumpError {
    fn from(error: ReadError) -> DumpError {
        DumpError::Damaged(error.to_string())
    }
}

type Visit<'a> = &'a mut dyn FnMut(Dumped) -> bool;

/// Everything but the Raft log.
pub fn rows(engine: &dyn Engine, what: DumpWhat, filter: &DumpFilter, visit: Visit<'_>) -> Result<(), DumpError> {
    match what {
        DumpWhat::Records => records(engine, filter, visit),
        DumpWhat::Entries => entries(engine, filter, visit),
        DumpWhat::Tables => tables(engine, filter, visit),
        DumpWhat::Raft => Ok(()),
    }
}

/// Bytes of record batches that are read at once.
const READ_BYTES: usize = 1 << 20;

fn records(engine: &dyn Engine, filter: &DumpFilter, visit: Visit<'_>) -> Result<(), DumpError> {
    let catalog = Catalog::load(engine).map_err(|error| DumpError::Damaged(error.to_string()))?;
    let stream = wanted_stream(&catalog, filter)?;
    for shard in shards(engine)? {
        let wanted = filter.group.is_none_or(|group| group == shard.group)
            && stream.is_none_or(|stream| stream == shard.stream)
            && filter.shard.is_none_or(|number| number == shard.number);
        if !wanted {
            continue;
        }
        let name = catalog.stream_names.get(&shard.stream);
        let mut next = Offset(filter.from).max(reader::bounds(engine, shard)?.0);
        loop {
            let batches = reader::read(engine, shard, next, READ_BYTES)?;
            let Some(last) = batches.last() else { break };
            let end = last.end();
            for batch in batches {
                for (offset, record) in batch.records_from(next)? {
                    let stream = name.cloned();
                    let dumped = Dumped::Record {
                        shard,
                        stream,
                        offset,
                        record,
                    };
                    if !visit(dumped) {
                        return Ok(());
                    }
                }
            }
            next = end;
        }
    }
    Ok(())
}

fn wanted_stream(catalog: &Catalog, filter: &DumpFilter) -> Result<Option<StreamId>, DumpError> {
    let Some(name) = &filter.stream else { return Ok(None) };
    let by_name = catalog.streams.get(name).map(|row| row.id);
    let id = by_name.or_else(|| name.parse().ok().map(StreamId));
    id.map(Some).ok_or_else(|| DumpError::Stream(name.clone()))
}

fn shards(engine: &dyn Engine) -> Result<Vec<ShardId>, EngineError> {
    let mut shards = Vec::new();
    engine.scan(Family::State, b"o", b"o", &mut |key, _| {
        shards.extend(crate::keys::record_batch::shard(key));
        true
    })?;
    Ok(shards)
}

fn entries(engine: &dyn Engine, filter: &DumpFilter, visit: Visit<'_>) -> Result<(), DumpError> {
    for slice in engine.slices() {
        let (mut on, mut damaged) = (true, None);
        engine.scan(Family::Slice(slice), b"e", b"e", &mut |key, value| {
            let (Ok(group), Ok(index)) = (group_of(key), entry_row::index(key)) else {
                return true;
            };
            if filter.group.is_some_and(|wanted| wanted != group) || index.0 < filter.from {
                return true;
            }
            match entry_row::decode(group, Bytes::copy_from_slice(value)) {
                Ok(row) => {
                    on = visit(Dumped::Entry {
                        group,
                        index,
                        slice,
                        time: row.time,
                        appends: row
                            .appends
                            .iter()
                            .map(|appended| (appended.shard, appended.base))
                            .collect(),
                    });
                }
                Err(error) => damaged = Some(format!("slice {slice}, group {group}, entry {index}: {error}")),
            }
            on && damaged.is_none()
        })?;
        if let Some(damaged) = damaged {
            return Err(DumpError::Damaged(damaged));
        }
        if !on {
            break;
        }
    }
    Ok(())
}

fn tables(engine: &dyn Engine, filter: &DumpFilter, visit: Visit<'_>) -> Result<(), DumpError> {
    let prefix = match filter.group {
        Some(group) => table_row::key(group, TableId(0), b"")[..3].to_vec(),
        None => table_row::key(CATALOG_GROUP, TableId(0), b"")[..1].to_vec(),
    };
    engine.scan(Family::State, &prefix, &prefix, &mut |key, value| {
        let table = key
            .get(3..5)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u16::from_be_bytes);
        let (Ok(group), Some(table), Ok(row)) = (group_of(key), table, table_row::row(key)) else {
            return true;
        };
        visit(Dumped::Table {
            group,
            table: TableId(table),
            key: Bytes::copy_from_slice(row),
            value: Bytes::copy_from_slice(value),
        })
    })?;
    Ok(())
}

/// The Raft log, group by group.
pub fn raft(folder: &Path, filter: &DumpFilter, visit: Visit<'_>) -> Result<(), LogFilesError> {
    let at = |source| LogFilesError::Io {
        path: folder.into(),
        source,
    };
    let files = log_files::list(folder).map_err(at)?;
    for (group, log) in load(&files).map_err(at)? {
        if filter.group.is_none_or(|wanted| wanted == group)
            && !raft_group(group, &log, &files, filter, visit).map_err(at)?
        {
            break;
        }
    }
    Ok(())
}

fn raft_group(
    group: GroupId,
    log: &GroupLog,
    files: &[log_files::LogFile],
    filter: &DumpFilter,
    visit: Visit<'_>,
) -> std::io::Result<bool> {
    let head = Dumped::RaftGroup {
        group,
        term: Term(log.hard_state.term),
        commit: LogIndex(log.hard_state.commit),
        cut: log.cut.index,
        last: log.last(),
    };
    if !visit(head) {
        return Ok(false);
    }
    let mut open: Option<(usize, BatchReader)> = None;
    for (index, at) in (log.first..)
        .zip(&log.entries)
        .filter(|(index, _)| *index >= filter.from)
    {
        let reader = match &mut open {
            Some((file, reader)) if *file == at.file => reader,
            other => &mut other.insert((at.file, BatchReader::open(&files[at.file])?)).1,
        };
        let batch = reader.read(at.offset)?;
        let entry =
            RaftEntry::parse_from_bytes(&batch.entries.slice(at.begin..at.end)).map_err(std::io::Error::other)?;
        let decoded = match entry.data.is_empty() {
            true => None,
            false => Some(entry::decode(group, entry.data).map_err(std::io::Error::other)?),
        };
        let dumped = Dumped::RaftEntry {
            group,
            index: LogIndex(index),
            term: Term(entry.term),
            time: decoded.as_ref().map(|entry| entry.time),
            items: decoded.map(items).unwrap_or_default(),
            file: files[at.file].path.display().to_string(),
            offset: at.offset,
        };
        if !visit(dumped) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn items(entry: Entry) -> Vec<DumpedItem> {
    let items = entry.items.into_iter();
    items
        .map(|item| DumpedItem {
            conditions: item.conditions.len(),
            appends: item
                .appends
                .iter()
                .map(|append| {
                    let count = parse_header(&append.batch).map_or(0, |header| u64::from(header.count));
                    (append.shard, count)
                })
                .collect(),
            trims: item.trims.iter().map(|trim| (trim.shard, trim.first)).collect(),
            puts: item.puts.into_iter().map(|put| (put.table, put.key)).collect(),
        })
        .collect()
}
