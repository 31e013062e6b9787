//! Real logs for tests: written through the log engine, copied while they are in use as a kill would leave them, read
//! back.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};
use raft::{GetEntriesContext, Storage};
use raft_engine::LogBatch;

use super::*;

pub const GROUP: GroupId = GroupId(1);

/// A log of files of about `file_bytes`.
pub fn open_small(folder: &Path, file_bytes: u64) -> Arc<LogEngine> {
    open_mended(folder, file_bytes, file_bytes * 3).unwrap()
}

/// Writes and syncs one entry, as the log thread does.
pub fn write(engine: &LogEngine, index: u64, payload: &[u8]) {
    write_of(engine, GROUP, index, payload);
}

/// The same for another group.
pub fn write_of(engine: &LogEngine, group: GroupId, index: u64, payload: &[u8]) {
    let entry = Entry {
        index,
        term: 1,
        data: Bytes::copy_from_slice(payload),
        ..Entry::default()
    };
    let hard_state = HardState {
        term: 1,
        commit: index - 1,
        ..HardState::default()
    };
    put(
        engine,
        group,
        &LogWrite {
            entries: vec![entry],
            hard_state: Some(hard_state),
            ..LogWrite::default()
        },
    );
}

/// Cuts the log after `index`, and lets files go that nobody needs any more.
pub fn cut(engine: &LogEngine, index: u64) {
    put(
        engine,
        GROUP,
        &LogWrite {
            cut: Some(Cut {
                index: LogIndex(index),
                term: Term(1),
            }),
            ..LogWrite::default()
        },
    );
    engine.purge_expired_files().unwrap();
}

fn put(engine: &LogEngine, group: GroupId, write: &LogWrite) {
    let mut batch = LogBatch::default();
    write.encode(group, &mut batch).unwrap();
    engine.write(&mut batch, true).unwrap();
}

/// The payloads that a start finds.
pub fn read(folder: &Path) -> Result<Vec<Vec<u8>>, String> {
    let engine = open(folder)?;
    // What was cut is applied.
    let cut = engine
        .get(region(GROUP), CUT_KEY)
        .map(|row| Cut::decode(row.into()).unwrap());
    let log = RaftLog::load(engine, GROUP, NodeId(1), cut.unwrap_or_default().index)?;
    let (first, last) = (log.first_index().unwrap(), log.last_index().unwrap());
    let entries = log.entries(first, last + 1, None, GetEntriesContext::empty(false));
    Ok(entries
        .map_err(|error| error.to_string())?
        .iter()
        .map(|entry| entry.data.to_vec())
        .collect())
}

/// The files of a folder as they are now, whoever has them open: what kill -9 leaves.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}
