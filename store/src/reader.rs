//! Reads of stored records, all synchronous: callers run them on the read pool.
//!
//! A shard's records lie in spans, one for each slice it was written to. A read finds the span that holds its offset with
//! one seek, and goes on from span to span. What was trimmed, and what went with its slice, is not there.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::engine::{Engine, Family};
use crate::error::{EngineError, ReadError};
use crate::follow::AppliedEntry;
use crate::ids::{GroupId, LogIndex, Offset, ShardId, SliceId, TimestampMs};
use crate::keys::entry_row::{self, EntryRow};
use crate::keys::shard::{self, ShardRow};
use crate::keys::{record_batch, time_index};
use crate::limits::ENTRY_ROWS_PER_SCAN;
use crate::slices::{spans, spans_from};
use crate::stored::{StoredBatch, damaged};

/// Record batches that hold `from` and what follows, about `max_bytes`, at least one; none at the end.
pub fn read(
    engine: &dyn Engine,
    shard: ShardId,
    from: Offset,
    max_bytes: usize,
) -> Result<Vec<StoredBatch>, ReadError> {
    let Some(row) = shard_row(engine, shard)? else {
        return Ok(Vec::new());
    };
    let from = from.max(row.first);
    let mut found = Found {
        shard,
        first: row.first,
        max_bytes,
        batches: Vec::new(),
        bytes: 0,
    };
    let spans = spans_from(engine, shard, from)?;
    for (at, (base, span)) in spans.iter().enumerate() {
        // Behind it the shard may come back to the same slice.
        let until = spans.get(at + 1).map_or(row.end, |(base, _)| *base);
        found.scan(engine, span.slice, from.max(*base), until)?;
        if found.bytes >= max_bytes {
            break;
        }
    }
    Ok(found.batches)
}

/// What a read gathers.
struct Found {
    shard: ShardId,
    first: Offset,
    max_bytes: usize,
    batches: Vec<StoredBatch>,
    bytes: usize,
}

impl Found {
    /// Takes the batches of a slice from the one that holds `start`, which may begin before it, up to `until`.
    fn scan(&mut self, engine: &dyn Engine, slice: SliceId, start: Offset, until: Offset) -> Result<(), ReadError> {
        let prefix = record_batch::prefix(self.shard);
        let wanted = record_batch::key(self.shard, start);
        let begin = engine.last_at_or_before(Family::Slice(slice), &prefix, &wanted)?;
        let begin = begin.map_or(wanted, |(key, _)| key.to_vec());
        let mut broken = None;
        engine.scan(Family::Slice(slice), &prefix, &begin, &mut |key, value| {
            match StoredBatch::new(self.shard, Bytes::copy_from_slice(value)) {
                Ok(stored) if stored.base >= until => return false,
                Ok(stored) if stored.end() <= start => {}
                Ok(stored) => {
                    self.bytes += stored.size_bytes();
                    self.batches.push(stored.hide_before(self.first));
                }
                Err(error) => {
                    let base = record_batch::base_offset(key).unwrap_or(start);
                    broken = Some(damaged(self.shard, base, &error));
                }
            }
            self.bytes < self.max_bytes && broken.is_none()
        })?;
        broken.map_or(Ok(()), Err)
    }
}

/// (the first stored offset, the offset after the last).
pub fn bounds(engine: &dyn Engine, shard: ShardId) -> Result<(Offset, Offset), ReadError> {
    let Some(row) = shard_row(engine, shard)? else {
        return Ok((Offset(0), Offset(0)));
    };
    let first = spans(engine, shard)?.first().map_or(row.end, |(base, _)| *base);
    Ok((first.max(row.first), row.end))
}

/// The first offset whose record was appended at `time` or after; the end where there is none. Append times never
/// fall within a shard.
pub fn offset_at(engine: &dyn Engine, shard: ShardId, time: TimestampMs) -> Result<Offset, ReadError> {
    let (first, end) = bounds(engine, shard)?;
    let spans = spans(engine, shard)?;
    // The last span that begins before that time holds the record, or it is the first of the next span.
    let at = spans.partition_point(|(_, span)| span.time < time);
    let next = spans.get(at).map_or(end, |(base, _)| *base);
    let Some((base, span)) = at.checked_sub(1).map(|at| spans[at]) else {
        return Ok(next.max(first));
    };
    let before = TimestampMs(time.0.saturating_sub(1));
    let (prefix, wanted) = (time_index::prefix(shard), time_index::key(shard, before));
    let indexed = engine.last_at_or_before(Family::Slice(span.slice), &prefix, &wanted)?;
    let from = match indexed {
        Some((_, value)) => time_index::decode(value).map_err(|error| damaged(shard, base, &error))?,
        None => base,
    };
    let mut found = None;
    let prefix = record_batch::prefix(shard);
    let start = record_batch::key(shard, from);
    engine.scan(Family::Slice(span.slice), &prefix, &start, &mut |key, value| {
        found = match StoredBatch::new(shard, Bytes::copy_from_slice(value)) {
            Ok(stored) if stored.base >= next => Some(Ok(next)),
            Ok(stored) if stored.max_timestamp() < time => None,
            Ok(stored) => Some(Ok(stored.base)),
            Err(error) => {
                let base = record_batch::base_offset(key).unwrap_or(from);
                Some(Err(damaged(shard, base, &error)))
            }
        };
        found.is_none()
    })?;
    Ok(found.transpose()?.unwrap_or(next).max(first))
}

fn shard_row(engine: &dyn Engine, shard: ShardId) -> Result<Option<ShardRow>, ReadError> {
    let row = engine.get(Family::State, &shard::key(shard))?.map(shard::decode);
    row.transpose().map_err(|error| damaged(shard, Offset(0), &error))
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
    while next < to {
        let (rows, known_to) = entry_rows(engine, group, next, to)?;
        for (index, rows) in rows {
            let entry = read_entry(engine, group, index, rows)?;
            bytes += entry.size_bytes();
            entries.push(entry);
            if bytes >= max_bytes {
                return Ok((entries, index.next()));
            }
        }
        next = known_to;
    }
    Ok((entries, to))
}

/// What one slice knows of an entry.
type SliceRows = Vec<(SliceId, EntryRow)>;

/// The rows of entries from `from` on, of all slices, and the index before which there are no others.
fn entry_rows(
    engine: &dyn Engine,
    group: GroupId,
    from: LogIndex,
    to: LogIndex,
) -> Result<(BTreeMap<LogIndex, SliceRows>, LogIndex), ReadError> {
    let mut rows: BTreeMap<LogIndex, SliceRows> = BTreeMap::new();
    let mut known_to = to;
    let wrong = |what: &str, error| ReadError::Engine(EngineError(format!("group {group}, {what}: {error}")));
    for slice in engine.slices() {
        let (mut found, mut broken) = (Vec::new(), None);
        let start = entry_row::key(group, from);
        engine.scan(
            Family::Slice(slice),
            &entry_row::prefix(group),
            &start,
            &mut |key, value| {
                match entry_row::index(key) {
                    Ok(index) if index >= to => return false,
                    Ok(index) => found.push((index, Bytes::copy_from_slice(value))),
                    Err(error) => broken = Some(wrong("the key of an entry's row", error)),
                }
                found.len() < ENTRY_ROWS_PER_SCAN && broken.is_none()
            },
        )?;
        if let Some(error) = broken {
            return Err(error);
        }
        if found.len() == ENTRY_ROWS_PER_SCAN
            && let Some((last, _)) = found.last()
        {
            known_to = known_to.min(last.next());
        }
        for (index, value) in found {
            let row =
                entry_row::decode(group, value).map_err(|error| wrong(&format!("row of entry {index}"), error))?;
            rows.entry(index).or_default().push((slice, row));
        }
    }
    rows.split_off(&known_to);
    Ok((rows, known_to))
}

fn read_entry(
    engine: &dyn Engine,
    group: GroupId,
    index: LogIndex,
    rows: SliceRows,
) -> Result<AppliedEntry, ReadError> {
    let time = rows.iter().map(|(_, row)| row.time).max().unwrap_or_default();
    let mut appends = Vec::new();
    for (slice, row) in rows {
        for (shard, base) in row.appends {
            let Some(encoded) = engine.get(Family::Slice(slice), &record_batch::key(shard, base))? else {
                continue;
            };
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
        time,
        appends,
        puts: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Applier;
    use crate::engine::memory::MemoryEngine;
    use crate::entry::{Entry, Item, ItemAppend, encode};
    use crate::ids::{StreamId, Term};
    use crate::record::Record;
    use crate::record_batch::{encode_record, seal};
    use crate::retention::RetentionClass;
    use crate::slices::Slices;
    use std::sync::Arc;

    const SHARD: ShardId = ShardId {
        group: GroupId(1),
        stream: StreamId(9),
        number: 0,
    };

    /// Entries of three records each, at times 10, 20, 30, …
    fn filled(entries: u64) -> Arc<MemoryEngine> {
        let engine = Arc::new(MemoryEngine::default());
        // Small slices: every read here crosses from one to the next.
        let slices = Arc::new(Slices::open(engine.clone(), 100).unwrap());
        let mut applier = Applier::load(engine.clone(), slices, SHARD.group).unwrap();
        for number in 1..=entries {
            let time = TimestampMs(number as i64 * 10);
            let mut body = Vec::new();
            (0..3).for_each(|n| encode_record(&Record::new(format!("{number}-{n}")), &mut body));
            let item = Item {
                appends: vec![ItemAppend {
                    shard: SHARD,
                    class: RetentionClass::FOREVER,
                    batch: seal(&body, 3, time).into(),
                }],
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
