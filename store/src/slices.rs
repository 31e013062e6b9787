//! The slices of this node: which one a class appends to, when it is closed, and how it goes.
//!
//! ```text
//! spare ──first append──► open ──bucket over, or large──► closed ──merged──► sealed ──expired──► dropped ──► gone
//!        (driver)                (driver)                        (maintenance)      (maintenance)
//! ```
//!
//! Only the driver opens and closes slices, because only it appends: what is closed gets nothing more. Only the
//! maintenance thread merges and drops. Families are made before they are needed (`spare`), since making one is a
//! synchronous write that the driver should not wait for.
//!
//! How a slice is dropped, step by step, so that a crash anywhere loses nothing else: (1) its row says `Dropped`, and the
//! spans that lead to it go, in one write; (2) that is flushed; (3) the family goes; (4) the row goes. Numbers are not used
//! again: a spare of a higher number is made before a slice goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::{Engine, Family, Writes};
use crate::error::EngineError;
use crate::garbage::{DROPPED, Garbage};
use crate::ids::{Offset, ShardId, SliceId, TimestampMs};
use crate::key_index;
use crate::keys::slice::{self, SliceRow, SliceState};
use crate::keys::{record_batch, shard, span};
use crate::kill_points::{Point, reached};
use crate::limits::{BUSY_BYTES, CLASS_SLICES, CLOSED_SLICES_MAX, SEALED_FILE_BYTES_MIN};
use crate::retention::RetentionClass;

/// A slice as this node knows it.
#[derive(Debug, Clone, Copy)]
struct Live {
    row: SliceRow,
    /// Appended while open; on disk since it is merged.
    bytes: u64,
}

#[derive(Debug)]
struct State {
    live: BTreeMap<SliceId, Live>,
    open: [Option<SliceId>; RetentionClass::COUNT],
    spare: Vec<SliceId>,
    /// Closed, but what the driver has put there may not be written yet.
    closing: Vec<SliceId>,
    /// Appended since the last round of maintenance.
    placed_bytes: u64,
    /// To be looked through for garbage.
    to_reclaim: Vec<SliceId>,
    /// Some of it cannot be read: it is neither indexed nor merged. Its other records are served until its time is over.
    damaged: BTreeSet<SliceId>,
    /// The number of the next slice.
    next: u32,
}

/// Shared by the driver, which appends, and the maintenance thread.
pub struct Slices {
    engine: Arc<dyn Engine>,
    size_bytes_max: u64,
    state: Mutex<State>,
    /// Something was trimmed or dropped since the last look.
    garbage_noted: AtomicBool,
}

impl Slices {
    /// Reads what slices there are, and finishes what a crash left half dropped.
    pub fn open(engine: Arc<dyn Engine>, size_bytes_max: u64) -> Result<Slices, EngineError> {
        let families = engine.slices();
        let mut live = BTreeMap::new();
        for (id, row) in rows(&*engine)? {
            if row.state == SliceState::Dropped {
                if families.contains(&id) {
                    engine.drop_slice(id)?;
                }
                let mut writes = Writes::default();
                writes.delete(Family::State, slice::key(id));
                engine.write(writes)?;
                continue;
            }
            if !families.contains(&id) {
                return Err(EngineError(format!("slice {id} is in use, but its files are gone")));
            }
            let bytes = engine.slice_bytes(id);
            live.insert(id, Live { row, bytes });
        }
        let mut open = [None; RetentionClass::COUNT];
        for (id, slice) in live.iter().filter(|(_, slice)| slice.row.state == SliceState::Open) {
            open[usize::from(slice.row.class.0)] = Some(*id);
        }
        let next = families.iter().chain(live.keys()).map(|id| id.0 + 1).max().unwrap_or(1);
        let mut spare = Vec::new();
        for id in engine.slices().into_iter().filter(|id| !live.contains_key(id)) {
            let mut rows = 0;
            engine.scan(Family::Slice(id), b"", b"", &mut |_, _| {
                rows += 1;
                false
            })?;
            if rows > 0 {
                return Err(EngineError(format!(
                    "slice {id} holds records, but no row says of which class"
                )));
            }
            spare.push(id);
        }
        let state = State {
            live,
            open,
            spare,
            closing: Vec::new(),
            placed_bytes: 0,
            to_reclaim: Vec::new(),
            damaged: BTreeSet::new(),
            next,
        };
        Ok(Slices {
            engine,
            size_bytes_max,
            state: Mutex::new(state),
            // What was dead when the last process ended is looked at once.
            garbage_noted: AtomicBool::new(true),
        })
    }

    /// Where the driver puts `bytes` of a class appended at `time`. Rows of slices that open and close join `writes`.
    pub fn place(
        &self,
        class: RetentionClass,
        time: TimestampMs,
        bytes: usize,
        writes: &mut Writes,
    ) -> Result<SliceId, EngineError> {
        let mut state = self.state();
        state.placed_bytes += bytes as u64;
        let at = usize::from(class.0);
        if let Some(id) = state.open[at]
            && state.is_full(id, time, self.size_bytes_max)
        {
            state.close(id, writes);
        }
        let id = match state.open[at] {
            Some(id) => id,
            None => self.open_one(&mut state, class, time, writes)?,
        };
        if let Some(slice) = state.live.get_mut(&id) {
            slice.bytes += bytes as u64;
            slice.row.last = slice.row.last.max(time);
        }
        Ok(id)
    }

    fn open_one(
        &self,
        state: &mut State,
        class: RetentionClass,
        time: TimestampMs,
        writes: &mut Writes,
    ) -> Result<SliceId, EngineError> {
        let id = match state.spare.pop() {
            Some(id) => id,
            None => self.make(state)?,
        };
        let row = SliceRow {
            class,
            state: SliceState::Open,
            first: time,
            last: time,
        };
        state.live.insert(id, Live { row, bytes: 0 });
        state.open[usize::from(class.0)] = Some(id);
        writes.put(Family::State, slice::key(id), slice::encode(&row));
        Ok(id)
    }

    fn make(&self, state: &mut State) -> Result<SliceId, EngineError> {
        let id = SliceId(state.next);
        self.engine.make_slice(id)?;
        reached(Point::SliceMade);
        state.next += 1;
        Ok(id)
    }

    /// What [`Slices::place`] gave `writes` for is written: slices that were closed with it are free to be merged.
    pub fn written(&self) {
        let mut state = self.state();
        for id in std::mem::take(&mut state.closing) {
            if let Some(slice) = state.live.get_mut(&id) {
                slice.row.state = SliceState::Closed;
            }
        }
    }

    /// Closes what has got old although nothing came to close it. The driver's, like every close.
    pub fn close_old(&self, now: TimestampMs) -> Result<(), EngineError> {
        let mut writes = Writes::default();
        let mut state = self.state();
        for id in state.open.into_iter().flatten() {
            if state
                .live
                .get(&id)
                .is_some_and(|slice| slice.row.class.bucket_is_over(slice.row.first, now))
            {
                state.close(id, &mut writes);
            }
        }
        drop(state);
        if !writes.rows.is_empty() {
            self.engine.write(writes)?;
            self.written();
        }
        Ok(())
    }

    /// Entries up to this time are applied: a slice that was open at the last stop may hold records of it.
    pub fn applied_to(&self, time: TimestampMs) {
        let mut state = self.state();
        for id in state.open.into_iter().flatten() {
            if let Some(slice) = state.live.get_mut(&id) {
                slice.row.last = slice.row.last.max(time);
            }
        }
    }

    /// A trim or a drop has left rows that nobody reads.
    pub fn note_garbage(&self) {
        self.garbage_noted.store(true, Ordering::Relaxed);
    }

    /// One round of the maintenance thread: a spare, merges, what is over its time or over `bytes_max` (0: no such
    /// limit). Gives how many slices were dropped.
    pub fn maintain(&self, now: TimestampMs, bytes_max: u64) -> Result<usize, EngineError> {
        self.refill()?;
        let expired = self.expired(now, bytes_max);
        for id in &expired {
            self.drop_slice(*id)?;
        }
        // Under load the disk belongs to those who wait for an acknowledgement: merges keep until there is a lull, some of
        // them at most.
        let busy = std::mem::take(&mut self.state().placed_bytes) > BUSY_BYTES;
        let waiting_max = if busy { CLOSED_SLICES_MAX } else { 0 };
        while let Some(id) = self.first_closed(waiting_max) {
            self.seal(id)?;
        }
        if self.garbage_noted.swap(false, Ordering::Relaxed) {
            self.engine.flush()?;
            let mut state = self.state();
            state.to_reclaim = state.live.keys().copied().collect();
        }
        // One a round: with many shards in it a look takes a while, and flushes wait for this thread.
        let next = self.state().to_reclaim.pop();
        if let Some(id) = next {
            self.reclaim(id)?;
        }
        self.report();
        Ok(expired.len())
    }

    fn refill(&self) -> Result<(), EngineError> {
        let mut state = self.state();
        if state.spare.is_empty() {
            let id = SliceId(state.next);
            state.next += 1;
            drop(state);
            // Not under the lock: the driver takes it with every append.
            self.engine.make_slice(id)?;
            reached(Point::SliceMade);
            self.state().spare.push(id);
        }
        Ok(())
    }

    fn expired(&self, now: TimestampMs, bytes_max: u64) -> Vec<SliceId> {
        let state = self.state();
        let whole = state
            .live
            .iter()
            .filter(|(_, slice)| slice.row.state != SliceState::Open);
        let mut whole: Vec<_> = whole.map(|(id, slice)| (slice.row.last, *id, *slice)).collect();
        whole.sort_unstable_by_key(|(last, id, _)| (*last, *id));
        let mut bytes: u64 = state.live.values().map(|slice| slice.bytes).sum();
        let mut expired = Vec::new();
        for (last, id, slice) in whole {
            let too_many = bytes_max > 0 && bytes > bytes_max;
            if too_many || slice.row.class.is_expired(last, now) {
                bytes -= slice.bytes;
                expired.push(id);
            }
        }
        expired
    }

    /// The oldest closed slice, if there are more than `waiting_max`.
    fn first_closed(&self, waiting_max: usize) -> Option<SliceId> {
        let state = self.state();
        let closed = state
            .live
            .iter()
            .filter(|(id, slice)| slice.row.state == SliceState::Closed && !state.damaged.contains(id));
        let closed: Vec<SliceId> = closed.map(|(id, _)| *id).collect();
        closed.first().copied().filter(|_| closed.len() > waiting_max)
    }

    /// Indexes a closed slice by key and merges it, without what is dead by now. Once. Large files without anything dead stay
    /// as they are.
    fn seal(&self, id: SliceId) -> Result<(), EngineError> {
        let found = key_index::build(&*self.engine, id).and_then(|()| self.dead(id));
        let Some((_, garbage)) = self.unless_damaged(id, found) else {
            return Ok(());
        };
        reached(Point::SliceIndexed);
        self.engine.flush()?;
        reached(Point::MergeBegins);
        if !garbage.is_empty() || are_small(self.engine.slice_files(id), self.engine.slice_bytes(id)) {
            self.engine.merge_slice(id, garbage)?;
        }
        reached(Point::MergeEnds);
        metrics::counter!("headwater_store_slices_sealed_total").increment(1);
        let bytes = self.engine.slice_bytes(id);
        let mut state = self.state();
        let Some(slice) = state.live.get_mut(&id) else {
            return Ok(());
        };
        slice.row.state = SliceState::Sealed;
        slice.bytes = bytes;
        let row = slice.row;
        drop(state);
        let mut writes = Writes::default();
        writes.put(Family::State, slice::key(id), slice::encode(&row));
        self.engine.write(writes)
    }

    /// Merges a slice again when it is more than half dead.
    fn reclaim(&self, id: SliceId) -> Result<(), EngineError> {
        let Some((dead_bytes, garbage)) = self.unless_damaged(id, self.dead(id)) else {
            return Ok(());
        };
        let bytes = self.engine.slice_bytes(id);
        if garbage.is_empty() || dead_bytes * 2 <= bytes {
            return Ok(());
        }
        self.engine.merge_slice(id, garbage)?;
        let left = self.engine.slice_bytes(id);
        if let Some(slice) = self.state().live.get_mut(&id) {
            slice.bytes = left;
        }
        Ok(())
    }

    /// Notes a slice that cannot be read: that is no reason to take no more writes.
    fn unless_damaged<T>(&self, id: SliceId, found: Result<T, EngineError>) -> Option<T> {
        found
            .inspect_err(|error| {
                tracing::error!(
                    slice = id.0,
                    %error,
                    "records of a slice cannot be read; `headwater store check --full` lists all damage"
                );
                self.state().damaged.insert(id);
            })
            .ok()
    }

    /// What is dead in a slice, and about how many bytes that is.
    fn dead(&self, id: SliceId) -> Result<(u64, Garbage), EngineError> {
        let (mut bytes, mut garbage) = (0, Garbage::default());
        for (shard, base) in shards_in(&*self.engine, id)? {
            let row = self.engine.get(Family::State, &shard::key(shard))?;
            let first = match row.map(shard::decode) {
                None => DROPPED,
                Some(Ok(row)) => row.first,
                // A damaged row is reported by who reads the shard; nothing is dead because of it.
                Some(Err(_)) => continue,
            };
            if base < first {
                let (from, to) = (record_batch::key(shard, Offset(0)), record_batch::key(shard, first));
                bytes += self.engine.bytes_between(id, &from, &to);
                garbage.add(shard, first);
            }
        }
        Ok((bytes, garbage))
    }

    /// See the module's page for the steps.
    fn drop_slice(&self, id: SliceId) -> Result<(), EngineError> {
        self.hide(id)?;
        reached(Point::SliceHidden);
        self.engine.flush()?;
        self.refill()?;
        reached(Point::DropBegins);
        self.engine.drop_slice(id)?;
        reached(Point::DropEnds);
        let mut writes = Writes::default();
        writes.delete(Family::State, slice::key(id));
        self.engine.write(writes)
    }

    /// The keys of the spans that lead to a slice.
    fn spans_into(&self, id: SliceId) -> Result<Vec<Vec<u8>>, EngineError> {
        let mut keys = Vec::new();
        let Some(shards) = self.unless_damaged(id, shards_in(&*self.engine, id)) else {
            // Which shards it holds cannot be read any more, so all spans are looked at.
            self.engine
                .scan(Family::State, &span::all(), &span::all(), &mut |key, value| {
                    let found = span::decode(bytes::Bytes::copy_from_slice(value));
                    keys.extend(found.ok().filter(|span| span.slice == id).map(|_| key.to_vec()));
                    true
                })?;
            return Ok(keys);
        };
        for (shard, _) in shards {
            let spans = spans(&*self.engine, shard)?.into_iter();
            keys.extend(
                spans
                    .filter(|(_, span)| span.slice == id)
                    .map(|(base, _)| span::key(shard, base)),
            );
        }
        Ok(keys)
    }

    /// Step 1: nobody finds the slice any more.
    fn hide(&self, id: SliceId) -> Result<(), EngineError> {
        let Some(slice) = self.state().live.get(&id).copied() else {
            return Ok(());
        };
        let mut writes = Writes::default();
        for key in self.spans_into(id)? {
            writes.delete(Family::State, key);
        }
        let row = SliceRow {
            state: SliceState::Dropped,
            ..slice.row
        };
        writes.put(Family::State, slice::key(id), slice::encode(&row));
        self.engine.write(writes)?;
        self.state().live.remove(&id);
        tracing::info!(
            slice = id.0,
            bytes = slice.bytes,
            "a slice whose records are past their time is dropped"
        );
        metrics::counter!("headwater_store_slices_dropped_total").increment(1);
        Ok(())
    }

    fn report(&self) {
        let state = self.state();
        let bytes: u64 = state.live.values().map(|slice| slice.bytes).sum();
        metrics::gauge!("headwater_store_slices").set(state.live.len() as f64);
        metrics::gauge!("headwater_store_slices_damaged").set(state.damaged.len() as f64);
        metrics::gauge!("headwater_store_slices_bytes").set(bytes as f64);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_full(&self, id: SliceId, now: TimestampMs, size_bytes_max: u64) -> bool {
        let Some(slice) = self.live.get(&id) else { return false };
        if slice.row.class.bucket_is_over(slice.row.first, now) {
            return true;
        }
        if slice.bytes < size_bytes_max {
            return false;
        }
        let class = self.live.values().filter(|other| other.row.class == slice.row.class);
        let class_bytes: u64 = class.map(|other| other.bytes).sum();
        slice.bytes >= class_bytes / CLASS_SLICES
    }

    fn close(&mut self, id: SliceId, writes: &mut Writes) {
        let Some(slice) = self.live.get(&id) else { return };
        let row = SliceRow {
            state: SliceState::Closed,
            ..slice.row
        };
        self.open[usize::from(row.class.0)] = None;
        self.closing.push(id);
        writes.put(Family::State, slice::key(id), slice::encode(&row));
    }
}

/// Of so many bytes together.
fn are_small(files: usize, bytes: u64) -> bool {
    files > 1 && bytes / (files as u64) < SEALED_FILE_BYTES_MIN
}

fn rows(engine: &dyn Engine) -> Result<Vec<(SliceId, SliceRow)>, EngineError> {
    let mut rows = Vec::new();
    let prefix = slice::prefix();
    engine.scan(Family::State, &prefix, &prefix, &mut |key, value| {
        let value = bytes::Bytes::copy_from_slice(value);
        rows.push(slice::slice(key).and_then(|id| Ok((id, slice::decode(value)?))));
        true
    })?;
    rows.into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| EngineError(format!("the row of a slice: {error}")))
}

/// The shards that have record batches in a slice, each with the first base offset there. One seek for each.
fn shards_in(engine: &dyn Engine, id: SliceId) -> Result<Vec<(ShardId, Offset)>, EngineError> {
    let mut shards = Vec::new();
    let mut from = record_batch::all();
    loop {
        let mut found = None;
        engine.scan(Family::Slice(id), &record_batch::all(), &from, &mut |key, _| {
            found = Some(record_batch::shard(key).and_then(|shard| Ok((shard, record_batch::base_offset(key)?))));
            false
        })?;
        let Some(row) = found else { return Ok(shards) };
        let (shard, base) = row.map_err(|error| EngineError(format!("a key of slice {id}: {error}")))?;
        shards.push((shard, base));
        from = record_batch::after(shard);
    }
}

/// The spans of a shard, in order of their base offsets.
pub fn spans(engine: &dyn Engine, shard: ShardId) -> Result<Vec<(Offset, span::Span)>, EngineError> {
    spans_from(engine, shard, Offset(0))
}

/// The span that holds `from`, where there is one, and those behind it.
pub fn spans_from(engine: &dyn Engine, shard: ShardId, from: Offset) -> Result<Vec<(Offset, span::Span)>, EngineError> {
    let prefix = span::prefix(shard);
    let wanted = span::key(shard, from);
    let start = engine
        .last_at_or_before(Family::State, &prefix, &wanted)?
        .map_or(wanted, |(key, _)| key.to_vec());
    let mut spans = Vec::new();
    engine.scan(Family::State, &prefix, &start, &mut |key, value| {
        let value = bytes::Bytes::copy_from_slice(value);
        spans.push(span::base_offset(key).and_then(|base| Ok((base, span::decode(value)?))));
        true
    })?;
    spans
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| EngineError(format!("a span of shard {shard}: {error}")))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::engine::rocks::RocksEngine;
    use crate::ids::{GroupId, StreamId};
    use crate::keys::shard::ShardRow;

    const SHARD: ShardId = ShardId {
        group: GroupId(1),
        stream: StreamId(7),
        number: 0,
    };

    /// The files of a slice, sealed, that got two flushes of so many bytes.
    fn sealed_files(value_bytes: usize) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let engine: Arc<dyn Engine> = Arc::new(RocksEngine::open(folder.path(), 1 << 20).unwrap());
        let slices = Slices::open(engine.clone(), 1).unwrap();
        let class = RetentionClass::FOREVER;
        let mut slice = SliceId(0);
        for offset in 0..2 {
            let mut writes = Writes::default();
            slice = slices.place(class, TimestampMs(0), 0, &mut writes).unwrap();
            let row = ShardRow {
                slice,
                ..ShardRow::default()
            };
            writes.put(Family::State, shard::key(SHARD), shard::encode(&row));
            let value = Bytes::from(vec![0; value_bytes]);
            writes.put(Family::Slice(slice), record_batch::key(SHARD, Offset(offset)), value);
            engine.write(writes).unwrap();
            engine.flush().unwrap();
        }
        assert_eq!(engine.slice_files(slice), 2);
        // It is full, so that what comes next closes it.
        let mut writes = Writes::default();
        slices.place(class, TimestampMs(0), 2, &mut writes).unwrap();
        slices.place(class, TimestampMs(0), 0, &mut writes).unwrap();
        engine.write(writes).unwrap();
        slices.written();
        slices.maintain(TimestampMs(0), 0).unwrap();
        assert_eq!(slices.state().live[&slice].row.state, SliceState::Sealed);
        engine.slice_files(slice)
    }

    #[test]
    fn small_files_are_merged_and_large_ones_are_not_written_again() {
        assert_eq!(sealed_files(1_000), 1);
        assert_eq!(sealed_files(SEALED_FILE_BYTES_MIN as usize + 1_000), 2);
    }
}
