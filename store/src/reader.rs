//! Reads of stored records, all synchronous: callers run them on the read pool.

use crate::engine::{Engine, Family};
use crate::error::ReadError;
use crate::follow::AppliedEntry;
use crate::ids::{GroupId, LogIndex, Offset, ShardId, TimestampMs};
use crate::keys::{entry_row, record_batch, shard_end};
use crate::stored::{StoredBatch, damaged};

/// Record batches that hold `from` and what follows, about `max_bytes`, at least one; none at the end.
pub fn read(
    engine: &dyn Engine,
    shard: ShardId,
    from: Offset,
    max_bytes: usize,
) -> Result<Vec<StoredBatch>, ReadError> {
    let prefix = record_batch::prefix(shard);
    let wanted = record_batch::key(shard, from);
    // The batch that holds `from` may begin before it.
    let start = match engine.last_at_or_before(Family::Slice, &prefix, &wanted)? {
        Some((key, _)) => key.to_vec(),
        None => wanted,
    };
    let mut batches = Vec::new();
    let mut bytes = 0;
    let mut broken = None;
    engine.scan(Family::Slice, &prefix, &start, &mut |key, value| {
        match StoredBatch::new(shard, bytes::Bytes::copy_from_slice(value)) {
            Ok(stored) if stored.end() <= from => {}
            Ok(stored) => {
                bytes += stored.size_bytes();
                batches.push(stored);
            }
            Err(error) => broken = Some(damaged(shard, record_batch::base_offset(key).unwrap_or(from), &error)),
        }
        bytes < max_bytes && broken.is_none()
    })?;
    broken.map_or(Ok(batches), Err)
}

/// (the first stored offset, the offset after the last).
pub fn bounds(engine: &dyn Engine, shard: ShardId) -> Result<(Offset, Offset), ReadError> {
    let end = match engine.get(Family::State, &shard_end::key(shard))? {
        Some(value) => shard_end::decode(value).map_err(|error| damaged(shard, Offset(0), &error))?,
        None => Offset(0),
    };
    let prefix = record_batch::prefix(shard);
    let mut first = end;
    engine.scan(Family::Slice, &prefix, &prefix, &mut |key, _| {
        first = record_batch::base_offset(key).unwrap_or(end);
        false
    })?;
    Ok((first, end))
}

/// The first offset whose record was appended at `time` or after; the end where there is none. Append times never
/// fall within a shard, so it is found by halving.
pub fn offset_at(engine: &dyn Engine, shard: ShardId, time: TimestampMs) -> Result<Offset, ReadError> {
    let (mut low, mut high) = bounds(engine, shard)?;
    while low < high {
        let middle = Offset(low.0 + (high.0 - low.0) / 2);
        match read(engine, shard, middle, 1)?.first() {
            Some(stored) if stored.max_timestamp() < time => low = stored.end(),
            Some(stored) => high = stored.base.max(low),
            None => break,
        }
    }
    Ok(low)
}

/// Entries of a group that appended something, from `from` and before `to`, from their rows on disk: about `max_bytes`,
/// at least one. Beside them the index to go on from, `to` when there are no more.
pub fn read_entries(
    engine: &dyn Engine,
    group: GroupId,
    from: LogIndex,
    to: LogIndex,
    max_bytes: usize,
) -> Result<(Vec<AppliedEntry>, LogIndex), ReadError> {
    let (mut entries, mut bytes, mut next) = (Vec::new(), 0, from);
    while bytes < max_bytes {
        let mut row = None;
        let start = entry_row::key(group, next);
        engine.scan(Family::Slice, &entry_row::prefix(group), &start, &mut |key, value| {
            row = entry_row::index(key)
                .ok()
                .map(|index| (index, bytes::Bytes::copy_from_slice(value)));
            false
        })?;
        let Some((index, value)) = row.filter(|(index, _)| *index < to) else {
            return Ok((entries, to));
        };
        let entry = read_entry(engine, group, index, value)?;
        bytes += entry.size_bytes();
        next = index.next();
        entries.push(entry);
    }
    Ok((entries, next))
}

fn read_entry(
    engine: &dyn Engine,
    group: GroupId,
    index: LogIndex,
    value: bytes::Bytes,
) -> Result<AppliedEntry, ReadError> {
    let row = entry_row::decode(group, value).map_err(|error| {
        ReadError::Engine(crate::EngineError(format!(
            "group {group}, row of entry {index}: {error}"
        )))
    })?;
    let mut appends = Vec::with_capacity(row.appends.len());
    for (shard, base) in row.appends {
        if let Some(encoded) = engine.get(Family::Slice, &record_batch::key(shard, base))? {
            // One damaged batch may not end the delivery of everything behind it.
            match StoredBatch::new(shard, encoded) {
                Ok(stored) => appends.push(stored),
                Err(error) => tracing::error!(%shard, offset = base.0, %error, "a damaged record batch is left out"),
            }
        }
    }
    Ok(AppliedEntry {
        group,
        index,
        time: row.time,
        appends,
        puts: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Applier;
    use crate::engine::memory::MemoryEngine;
    use crate::entry::{Entry, Item, encode};
    use crate::ids::{StreamId, Term};
    use crate::record::Record;
    use crate::record_batch::{encode_record, seal};
    use std::sync::Arc;

    const SHARD: ShardId = ShardId {
        group: GroupId(1),
        stream: StreamId(9),
        number: 0,
    };

    /// Entries of three records each, at times 10, 20, 30, …
    fn filled(entries: u64) -> Arc<MemoryEngine> {
        let engine = Arc::new(MemoryEngine::default());
        let mut applier = Applier::load(engine.clone(), SHARD.group).unwrap();
        for number in 1..=entries {
            let time = TimestampMs(number as i64 * 10);
            let mut body = Vec::new();
            (0..3).for_each(|n| encode_record(&Record::new(format!("{number}-{n}")), &mut body));
            let item = Item {
                appends: vec![(SHARD, seal(&body, 3, time).into())],
                ..Item::default()
            };
            let data = encode(&Entry {
                time,
                items: vec![item],
            });
            applier.apply(LogIndex(number), Term(1), data.into()).unwrap();
        }
        engine
    }

    #[test]
    fn a_read_begins_inside_a_batch_and_ends_at_the_limit() {
        let engine = filled(4);
        let bases = |from, max| -> Vec<u64> {
            read(&*engine, SHARD, Offset(from), max)
                .unwrap()
                .iter()
                .map(|stored| stored.base.0)
                .collect()
        };
        assert_eq!(bases(0, usize::MAX), [0, 3, 6, 9]);
        assert_eq!(bases(4, usize::MAX), [3, 6, 9]);
        assert_eq!(bases(4, 1), [3], "at least one");
        assert_eq!(bases(12, usize::MAX), [] as [u64; 0]);
        let inside = read(&*engine, SHARD, Offset(4), 1).unwrap()[0]
            .records_from(Offset(4))
            .unwrap();
        assert_eq!(inside[0].1.payload.as_deref(), Some(&b"2-1"[..]));
        assert_eq!(inside[0].1.timestamp, TimestampMs(20));
    }

    #[test]
    fn a_time_finds_its_first_offset() {
        let engine = filled(9);
        for (time, offset) in [(0, 0), (10, 0), (11, 3), (40, 9), (41, 12), (90, 24), (91, 27)] {
            assert_eq!(
                offset_at(&*engine, SHARD, TimestampMs(time)).unwrap(),
                Offset(offset),
                "at {time}"
            );
        }
        let other = ShardId { number: 1, ..SHARD };
        assert_eq!(offset_at(&*engine, other, TimestampMs(5)).unwrap(), Offset(0));
    }

    #[test]
    fn entries_are_found_again_by_index() {
        let engine = filled(5);
        let found = |from, to, max_bytes| {
            let (entries, next) = read_entries(&*engine, SHARD.group, LogIndex(from), LogIndex(to), max_bytes).unwrap();
            let found: Vec<_> = entries
                .iter()
                .map(|entry| (entry.index.0, entry.appends[0].base.0))
                .collect();
            (found, next.0)
        };
        assert_eq!(found(2, 5, usize::MAX), (vec![(2, 3), (3, 6), (4, 9)], 5));
        assert_eq!(found(2, 5, 1), (vec![(2, 3)], 3), "at least one, and where to go on");
        assert_eq!(found(6, 9, 1), (vec![], 9));
    }
}
