//! Reads of stored records, all synchronous: callers run them on the read pool.
//!
//! A shard's records lie in spans, one for each slice it was written to. A read finds the span that holds its offset with
//! one seek, and goes on from span to span. What was trimmed, and what went with its slice, is not there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{Engine, Family};
use crate::error::{EngineError, ReadError};
use crate::follow::AppliedEntry;
use crate::ids::{GroupId, LogIndex, Offset, ShardId, SliceId, TimestampMs};
use crate::key_hashes::key_hash;
use crate::key_index;
use crate::keys::entry_row::{self, Appended, EntryRow};
use crate::keys::shard::{self, ShardRow};
use crate::keys::{record_batch, time_index};
use crate::limits::ENTRY_ROWS_PER_SCAN;
use crate::record::Record;
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

/// Records of one key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeyRead {
    /// In order. There may be none although more follow, because those that were looked at are trimmed.
    pub records: Vec<(Offset, Record)>,
    /// Where to go on; None: there are no more.
    pub next: Option<Offset>,
}

/// Records of one key from `from` on, of record batches of about `max_bytes`.
pub fn read_key(
    engine: &dyn Engine,
    shard: ShardId,
    key: &[u8],
    from: Offset,
    max_bytes: usize,
) -> Result<KeyRead, ReadError> {
    let Some(row) = shard_row(engine, shard)? else {
        return Ok(KeyRead::default());
    };
    let from = from.max(row.first);
    let (mut records, mut bytes) = (Vec::new(), 0);
    let spans = spans_from(engine, shard, from)?;
    for (at, (_, span)) in spans.iter().enumerate() {
        let until = spans.get(at + 1).map_or(row.end, |(base, _)| *base);
        let family = Family::Slice(span.slice);
        for base in key_index::bases(engine, span.slice, shard, key_hash(key), until)? {
            let Some(encoded) = engine.get(family, &record_batch::key(shard, base))? else {
                continue;
            };
            let stored = StoredBatch::new(shard, encoded).map_err(|error| damaged(shard, base, &error))?;
            if stored.end() <= from {
                continue;
            }
            bytes += stored.size_bytes();
            let end = stored.end();
            let found = stored.hide_before(row.first).records_from(from)?;
            records.extend(
                found
                    .into_iter()
                    .filter(|(_, record)| record.key_or_topic() == Some(key)),
            );
            if bytes >= max_bytes {
                let next = Some(end);
                return Ok(KeyRead { records, next });
            }
        }
    }
    Ok(KeyRead { records, next: None })
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

/// What is trimmed of the shards that one reading meets: their entries still name it, and so does the tail.
pub struct Marks<'a> {
    engine: &'a dyn Engine,
    /// None: the shard is gone.
    firsts: HashMap<ShardId, Option<Offset>>,
}

impl<'a> Marks<'a> {
    pub fn new(engine: &'a dyn Engine) -> Marks<'a> {
        let firsts = HashMap::new();
        Marks { engine, firsts }
    }

    /// The batch without its trimmed records; None if that is all of them.
    pub fn shown(&mut self, batch: StoredBatch) -> Result<Option<StoredBatch>, ReadError> {
        let first = match self.firsts.get(&batch.shard) {
            Some(first) => *first,
            None => {
                let first = shard_row(self.engine, batch.shard)?.map(|row| row.first);
                *self.firsts.entry(batch.shard).or_insert(first)
            }
        };
        let visible = first.filter(|first| *first < batch.end());
        Ok(visible.map(|first| batch.hide_before(first)))
    }

    /// The entry without what is trimmed.
    pub fn entry(&mut self, entry: Arc<AppliedEntry>) -> Result<Arc<AppliedEntry>, ReadError> {
        let (mut shown, mut changed) = (Vec::with_capacity(entry.appends.len()), false);
        for batch in &entry.appends {
            let kept = self.shown(batch.clone())?;
            changed |= kept.as_ref().is_none_or(|kept| kept.first() != batch.first());
            shown.extend(kept);
        }
        if !changed {
            return Ok(entry);
        }
        Ok(Arc::new(AppliedEntry {
            appends: shown,
            puts: entry.puts.clone(),
            ..*entry
        }))
    }
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
pub(crate) type SliceRows = Vec<(SliceId, EntryRow)>;

/// The rows of entries from `from` on, of all slices, and the index before which there are no others.
pub(crate) fn entry_rows(
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
        for Appended { shard, base, .. } in row.appends {
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
    use crate::key_hashes::KeyHashes;
    use crate::keys::slice::SliceState;
    use crate::record_batch::{encode_record, seal};
    use crate::retention::RetentionClass;
    use crate::slices::Slices;

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
            let (mut body, mut hashes) = (Vec::new(), Vec::new());
            for n in 0..3 {
                let key = format!("{}", (number * 3 + n) % 5);
                hashes.push(key_hash(key.as_bytes()));
                let record = Record {
                    key: Some(key.into()),
                    ..Record::new(format!("{number}-{n}"))
                };
                encode_record(&record, &mut body);
            }
            let item = Item {
                appends: vec![ItemAppend {
                    shard: SHARD,
                    class: RetentionClass::FOREVER,
                    batch: seal(&body, 3, time).into(),
                    keys: KeyHashes::collect(hashes),
                    prefixes: KeyHashes::default(),
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
    fn a_key_is_found_in_open_and_in_sealed_slices() {
        let engine = filled(20);
        let slices = Slices::open(engine.clone(), 100).unwrap();
        let offsets_of = |key: u64, from: u64, max_bytes| {
            let key = key.to_string();
            let KeyRead { records, next } = read_key(&*engine, SHARD, key.as_bytes(), Offset(from), max_bytes).unwrap();
            let offsets: Vec<_> = records.iter().map(|(offset, _)| offset.0).collect();
            (offsets, next)
        };
        for sealed in [false, true] {
            if sealed {
                // All but the open one.
                slices.maintain(TimestampMs(300), 0).unwrap();
                assert!(matches!(
                    slice_states(&*engine)[..],
                    [.., SliceState::Sealed, SliceState::Open]
                ));
            }
            for key in 0..5 {
                // Record `offset` has the key (offset + 3) % 5.
                let expected: Vec<u64> = (10..60).filter(|offset| (offset + 3) % 5 == key).collect();
                assert_eq!(
                    offsets_of(key, 10, usize::MAX),
                    (expected, None),
                    "key {key}, sealed {sealed}"
                );
            }
            assert_eq!(
                offsets_of(3, 0, 1),
                (vec![0], Some(Offset(3))),
                "at least one batch, and where to go on"
            );
            assert_eq!(offsets_of(7, 0, 1), (vec![], None));
        }
    }

    fn slice_states(engine: &dyn Engine) -> Vec<SliceState> {
        let (mut states, prefix) = (Vec::new(), crate::keys::slice::prefix());
        let mut visit = |_: &[u8], value: &[u8]| {
            let row = crate::keys::slice::decode(Bytes::copy_from_slice(value)).unwrap();
            states.push(row.state);
            true
        };
        engine.scan(Family::State, &prefix, &prefix, &mut visit).unwrap();
        states
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
