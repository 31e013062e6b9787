//! Finding the record batches of a slice that hold a key.
//!
//! A slice that is sealed has an index ([`keys::key_index`](crate::keys::key_index)), made once, when nothing more comes:
//! one seek finds a key. Before that the rows of its entries tell, which are small and read one after the other. Making the
//! index from those rows costs no look at a record batch.

use bytes::Bytes;

use crate::engine::{Engine, Family, Writes};
use crate::error::EngineError;
use crate::ids::{Offset, ShardId, SliceId};
use crate::keys::slice::{self, SliceState};
use crate::keys::{entry_row, key_index};
use crate::limits::KEY_INDEX_RUN;
use crate::wire::Short;

/// Makes the index of a slice that is closed. Done again after a crash it writes what was missing.
pub fn build(engine: &dyn Engine, id: SliceId) -> Result<(), EngineError> {
    let mut from = entry_row::all();
    loop {
        let (mut run, mut next) = (Vec::new(), None);
        entry_rows(engine, id, &entry_row::all(), &from, &mut |key, row| {
            if run.len() >= KEY_INDEX_RUN {
                next = Some(key.to_vec());
                return false;
            }
            for appended in row.appends {
                let (shard, base) = (appended.shard, appended.base);
                run.extend(appended.keys.iter().map(|hash| (shard, hash, base)));
            }
            true
        })?;
        write(engine, id, run)?;
        match next {
            Some(key) => from = key,
            None => return Ok(()),
        }
    }
}

/// One row for each key of the run.
fn write(engine: &dyn Engine, id: SliceId, mut run: Vec<(ShardId, u32, Offset)>) -> Result<(), EngineError> {
    run.sort_unstable();
    let mut writes = Writes::default();
    for rows in run.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        let (shard, hash, first) = rows[0];
        let mut bases: Vec<Offset> = rows.iter().map(|(.., base)| *base).collect();
        bases.dedup();
        let key = key_index::key(shard, hash, first);
        writes.put(Family::Slice(id), key, key_index::encode(&bases));
        if writes.rows.len() >= KEY_INDEX_RUN / 64 {
            engine.write(std::mem::take(&mut writes))?;
        }
    }
    engine.write(writes)
}

/// The base offsets of record batches before `until` that hold a key of this hash, in order. A trim or a drop may have
/// taken some of them.
pub fn bases(
    engine: &dyn Engine,
    id: SliceId,
    shard: ShardId,
    hash: u32,
    until: Offset,
) -> Result<Vec<Offset>, EngineError> {
    let row = engine
        .get(Family::State, &slice::key(id))?
        .map(slice::decode)
        .transpose();
    let row = row.map_err(|error| wrong(id, "its own row", error))?;
    let mut bases = match row.map(|row| row.state) {
        Some(SliceState::Sealed) => indexed(engine, id, shard, hash)?,
        Some(_) => unindexed(engine, id, shard, hash)?,
        None => Vec::new(),
    };
    bases.retain(|base| *base < until);
    bases.sort_unstable();
    bases.dedup();
    Ok(bases)
}

fn indexed(engine: &dyn Engine, id: SliceId, shard: ShardId, hash: u32) -> Result<Vec<Offset>, EngineError> {
    let (mut bases, mut broken) = (Vec::new(), None);
    let prefix = key_index::prefix(shard, hash);
    engine.scan(Family::Slice(id), &prefix, &prefix, &mut |key, value| {
        match key_index::decode(key, Bytes::copy_from_slice(value)) {
            Ok(found) => bases.extend(found),
            Err(error) => broken = Some(wrong(id, "a row of the key index", error)),
        }
        broken.is_none()
    })?;
    broken.map_or(Ok(bases), Err)
}

fn unindexed(engine: &dyn Engine, id: SliceId, shard: ShardId, hash: u32) -> Result<Vec<Offset>, EngineError> {
    let mut bases = Vec::new();
    let prefix = entry_row::prefix(shard.group);
    entry_rows(engine, id, &prefix, &prefix, &mut |_, row| {
        let holds = |appended: &&entry_row::Appended| appended.shard == shard && appended.keys.contains(hash);
        bases.extend(row.appends.iter().filter(holds).map(|appended| appended.base));
        true
    })?;
    Ok(bases)
}

/// Visits the rows of entries in a slice, until `visit` returns false.
fn entry_rows(
    engine: &dyn Engine,
    id: SliceId,
    prefix: &[u8],
    from: &[u8],
    visit: &mut dyn FnMut(&[u8], entry_row::EntryRow) -> bool,
) -> Result<(), EngineError> {
    let mut broken = None;
    engine.scan(Family::Slice(id), prefix, from, &mut |key, value| {
        let value = Bytes::copy_from_slice(value);
        match entry_row::group(key).and_then(|group| entry_row::decode(group, value)) {
            Ok(row) => visit(key, row),
            Err(error) => {
                broken = Some(wrong(id, "the row of an entry", error));
                false
            }
        }
    })?;
    broken.map_or(Ok(()), Err)
}

fn wrong(id: SliceId, what: &str, error: Short) -> EngineError {
    EngineError(format!("slice {id}, {what}: {error}"))
}
