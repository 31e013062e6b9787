//! Committed entries become rows. Deterministic: it reads the entry and the group's rows, never a clock, a random
//! number or a configuration key, so every replica comes to the same state and the same outcomes.
//!
//! One entry is one atomic write: record batches and what finds them, tables, where shards stand, the entry's rows and how
//! far the group is applied. Which slice a record batch lands in is this node's own business (`slices`), and changes
//! nothing that a reader sees.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::{Condition, Put, TableId, Trim, tables};
use crate::engine::{Engine, Family, Writes};
use crate::entry::{self, Entry, Item, ItemAppend};
use crate::error::EngineError;
use crate::follow::AppliedEntry;
use crate::ids::{GroupId, LogIndex, Offset, RouteRevision, ShardId, SliceId, Term, TimestampMs};
use crate::keys::applied::{self, Applied};
use crate::keys::entry_row::{self, Appended, EntryRow};
use crate::keys::shard::{self, ShardRow};
use crate::keys::span::{self, Span};
use crate::keys::{record_batch, table_row, time_index};
use crate::limits::{PRODUCERS_FORGOTTEN_AT_ONCE, TIME_INDEX_BYTES};
use crate::producer::{self, Producer, ProducerRow, Seen};
use crate::record_batch::{RecordBatchError, set_base_offset};
use crate::slices::{Slices, spans};
use crate::stored::StoredBatch;
use crate::wire::{Reader, Short};

/// Why the node must stop: another replica might have gone on with another state.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("group {group}, entry {index}: {reason}")]
    Entry {
        group: GroupId,
        index: LogIndex,
        reason: String,
    },
}

/// Why an item was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A condition did not hold.
    Conflict,
    /// Its producer has sent it before.
    Duplicate,
    /// Its producer has gone on.
    Behind,
    /// Its route revision is below the group's fence, which is this.
    Stale(RouteRevision),
}

/// The base offset of each of an item's appends, or why there are none.
pub type Outcome = Result<Vec<Offset>, Refusal>;

/// The state of one group on this node.
pub struct Applier {
    engine: Arc<dyn Engine>,
    slices: Arc<Slices>,
    group: GroupId,
    applied: Applied,
    fence: RouteRevision,
    shards: HashMap<ShardId, Shard>,
    /// No producer is listed under an hour before this one.
    producers_from: u32,
}

/// Where a shard stands, and how much of it the time index does not cover yet.
#[derive(Clone, Copy, Default)]
struct Shard {
    row: ShardRow,
    last_time: TimestampMs,
    unindexed_bytes: usize,
}

/// What an entry has written so far; items see the ones before them.
#[derive(Default)]
struct Overlay {
    rows: HashMap<(TableId, Bytes), Option<Bytes>>,
    puts: Vec<Put>,
    appends: Vec<StoredBatch>,
    /// What was appended to each slice.
    by_slice: BTreeMap<SliceId, Vec<Appended>>,
    spans: Vec<(ShardId, Offset)>,
    /// Shards that were dropped: nothing of them is known any more.
    dropped: Vec<ShardId>,
    fence: Option<RouteRevision>,
    writes: Writes,
}

impl Applier {
    /// Reads where the group stands.
    pub fn load(engine: Arc<dyn Engine>, slices: Arc<Slices>, group: GroupId) -> Result<Applier, ApplyError> {
        let damaged = |what: &str| ApplyError::Entry {
            group,
            index: LogIndex(0),
            reason: format!("damaged {what} row"),
        };
        let applied = match engine.get(Family::State, &applied::key(group))? {
            Some(value) => applied::decode(value).map_err(|Short| damaged("applied"))?,
            None => Applied::default(),
        };
        let fence = match engine.get(Family::State, &table_row::key(group, tables::FENCE, b""))? {
            Some(value) => RouteRevision(Reader::new(value).u64().map_err(|Short| damaged("fence"))?),
            None => RouteRevision(0),
        };
        Ok(Applier {
            engine,
            slices,
            group,
            applied,
            fence,
            shards: HashMap::new(),
            producers_from: 0,
        })
    }

    /// How far the group is applied.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// Applies one committed entry; `data` is empty for the entry that opens a leader's term.
    pub fn apply(
        &mut self,
        index: LogIndex,
        term: Term,
        data: Bytes,
    ) -> Result<(AppliedEntry, Vec<Outcome>), ApplyError> {
        assert_eq!(
            index,
            self.applied.index.next(),
            "entries are applied once and in order"
        );
        let entry = if data.is_empty() {
            Entry {
                time: self.applied.time,
                items: Vec::new(),
            }
        } else {
            entry::decode(self.group, data).map_err(|Short| ApplyError::Entry {
                group: self.group,
                index,
                reason: "it does not decode".to_owned(),
            })?
        };
        let time = entry.time.max(self.applied.time);
        let mut overlay = Overlay::default();
        let mut outcomes = Vec::with_capacity(entry.items.len());
        self.applied = Applied { index, term, time };
        for item in entry.items {
            outcomes.push(self.apply_item(item, &mut overlay)?);
        }
        let writes = self.writes(&mut overlay);
        self.engine.write(writes)?;
        self.slices.written();
        for shard in overlay.dropped {
            self.shards.remove(&shard);
        }
        let applied = AppliedEntry {
            group: self.group,
            index,
            time,
            appends: overlay.appends,
            puts: overlay.puts,
        };
        Ok((applied, outcomes))
    }

    fn apply_item(&mut self, item: Item, overlay: &mut Overlay) -> Result<Outcome, ApplyError> {
        let seen = match &item.producer {
            None => None,
            Some(producer) => match self.judge(producer, overlay)? {
                Seen::New(next) => Some((producer, next)),
                Seen::Before => return Ok(Err(Refusal::Duplicate)),
                Seen::Behind => return Ok(Err(Refusal::Behind)),
            },
        };
        if let Some(revision) = item.revision {
            if revision < self.fence {
                return Ok(Err(Refusal::Stale(self.fence)));
            }
            // A newer routing fences the older ones at once: a message routed the old way may not follow this one.
            if revision > self.fence {
                self.fence = revision;
                overlay.fence = Some(revision);
            }
        }
        for condition in &item.conditions {
            if !self.holds(condition, overlay)? {
                return Ok(Err(Refusal::Conflict));
            }
        }
        let mut bases = Vec::with_capacity(item.appends.len());
        for append in item.appends {
            bases.push(self.append(append, overlay)?);
        }
        for trim in item.trims {
            self.trim(trim, overlay)?;
        }
        let noted = match seen {
            Some((producer, next)) => self.note(producer, next, overlay)?,
            None => Vec::new(),
        };
        for put in item.puts.into_iter().chain(noted) {
            overlay.rows.insert((put.table, put.key.clone()), put.value.clone());
            overlay.puts.push(put);
        }
        Ok(Ok(bases))
    }

    /// Gives the records of one append their offsets and their place on disk.
    fn append(&mut self, append: ItemAppend, overlay: &mut Overlay) -> Result<Offset, ApplyError> {
        let id = append.shard;
        let known = self.shard(id)?;
        let mut shard = known.unwrap_or_default();
        let base = shard.row.end;
        let stored = place(id, append.batch, base).map_err(|error| self.broken(&error.to_string()))?;
        let (time, bytes) = (self.applied.time, stored.size_bytes());
        let slice = self.slices.place(append.class, time, bytes, &mut overlay.writes)?;
        if known.is_none() || shard.row.slice != slice {
            let span = span::encode(&Span { slice, time });
            overlay.writes.put(Family::State, span::key(id, base), span);
            overlay.spans.push((id, base));
            shard.unindexed_bytes = 0;
        } else if shard.unindexed_bytes >= TIME_INDEX_BYTES && time > shard.last_time {
            let row = time_index::encode(base);
            overlay.writes.put(Family::Slice(slice), time_index::key(id, time), row);
            shard.unindexed_bytes = 0;
        }
        shard.unindexed_bytes += bytes;
        shard.last_time = time;
        shard.row.end = stored.end();
        shard.row.slice = slice;
        self.shards.insert(id, shard);
        let (batch_key, shard_row) = (record_batch::key(id, base), shard::encode(&shard.row));
        overlay.writes.put(Family::Slice(slice), batch_key, stored.encoded());
        overlay.writes.put(Family::State, shard::key(id), shard_row);
        let appended = Appended {
            shard: id,
            base,
            keys: append.keys,
            prefixes: append.prefixes,
        };
        overlay.by_slice.entry(slice).or_default().push(appended);
        overlay.appends.push(stored);
        Ok(base)
    }

    fn trim(&mut self, trim: Trim, overlay: &mut Overlay) -> Result<(), ApplyError> {
        let Some(mut shard) = self.shard(trim.shard)? else {
            return Ok(());
        };
        self.slices.note_garbage();
        let id = trim.shard;
        let mut bases: Vec<Offset> = spans(&*self.engine, id)?.into_iter().map(|(base, _)| base).collect();
        bases.extend(overlay.spans.iter().filter(|(of, _)| *of == id).map(|(_, base)| *base));
        let gone = if trim.first == Trim::ALL {
            overlay.writes.delete(Family::State, shard::key(id));
            overlay.dropped.push(id);
            bases.len()
        } else {
            shard.row.first = shard.row.first.max(trim.first.min(shard.row.end));
            let row = shard::encode(&shard.row);
            overlay.writes.put(Family::State, shard::key(id), row);
            self.shards.insert(id, shard);
            // The span that holds the first offset stays, and all behind it.
            bases.partition_point(|base| *base <= shard.row.first).saturating_sub(1)
        };
        for base in &bases[..gone] {
            overlay.writes.delete(Family::State, span::key(id, *base));
        }
        Ok(())
    }

    fn judge(&self, producer: &Producer, overlay: &Overlay) -> Result<Seen, ApplyError> {
        let row = self.producer_row(&producer.id, overlay)?;
        Ok(producer::judge(row, producer, self.applied.time))
    }

    /// The rows of a producer whose Batch is applied; and producers that were silent for too long are forgotten.
    fn note(&mut self, producer: &Producer, next: ProducerRow, overlay: &Overlay) -> Result<Vec<Put>, ApplyError> {
        let put = |table, key, value| Put { table, key, value };
        let mut puts = self.forget_producers(overlay)?;
        let hour = self.producer_row(&producer.id, overlay)?.map(|row| row.hour());
        if hour != Some(next.hour()) {
            let listed = |hour| producer::hour_key(hour, &producer.id);
            puts.extend(hour.map(|hour| put(tables::PRODUCER_HOURS, listed(hour), None)));
            puts.push(put(tables::PRODUCER_HOURS, listed(next.hour()), Some(Bytes::new())));
        }
        puts.push(put(tables::PRODUCERS, producer.id.clone(), Some(next.encode().into())));
        Ok(puts)
    }

    fn producer_row(&self, id: &Bytes, overlay: &Overlay) -> Result<Option<ProducerRow>, ApplyError> {
        let row = self.row(tables::PRODUCERS, id, overlay)?.map(ProducerRow::decode);
        row.transpose()
            .map_err(|Short| self.broken("damaged row of a producer"))
    }

    /// A few at a time. Only an item that is applied may move `producers_from`, or replicas would differ.
    fn forget_producers(&mut self, overlay: &Overlay) -> Result<Vec<Put>, ApplyError> {
        let until = producer::first_kept_hour(self.applied.time);
        if self.producers_from >= until {
            return Ok(Vec::new());
        }
        let key = |row: &[u8]| table_row::key(self.group, tables::PRODUCER_HOURS, row);
        let (mut found, mut next) = (Vec::new(), until);
        let from = key(&self.producers_from.to_be_bytes());
        self.engine.scan(Family::State, &key(b""), &from, &mut |key, _| {
            let listed = table_row::row(key).map(Bytes::copy_from_slice);
            let hour = listed
                .as_ref()
                .ok()
                .and_then(|row| producer::listed(row).ok())
                .map_or(until, |(hour, _)| hour);
            next = hour.min(until);
            found.extend(listed.ok().filter(|_| hour < until));
            hour < until && found.len() < PRODUCERS_FORGOTTEN_AT_ONCE
        })?;
        self.producers_from = if found.len() < PRODUCERS_FORGOTTEN_AT_ONCE {
            until
        } else {
            next
        };
        let mut puts = Vec::new();
        for listed in found {
            let Ok((hour, id)) = producer::listed(&listed) else {
                continue;
            };
            let id = listed.slice_ref(id);
            // One that has written since is listed again under its new hour.
            if self.producer_row(&id, overlay)?.is_some_and(|row| row.hour() == hour) {
                puts.push(Put {
                    table: tables::PRODUCERS,
                    key: id,
                    value: None,
                });
            }
            puts.push(Put {
                table: tables::PRODUCER_HOURS,
                key: listed,
                value: None,
            });
        }
        Ok(puts)
    }

    /// A row of a table as the items before this one have left it.
    fn row(&self, table: TableId, key: &Bytes, overlay: &Overlay) -> Result<Option<Bytes>, EngineError> {
        match overlay.rows.get(&(table, key.clone())) {
            Some(current) => Ok(current.clone()),
            None => self.engine.get(Family::State, &table_row::key(self.group, table, key)),
        }
    }

    fn holds(&self, condition: &Condition, overlay: &Overlay) -> Result<bool, EngineError> {
        match condition {
            Condition::Term(term) => Ok(*term == self.applied.term),
            Condition::Row { table, key, value } => Ok(self.row(*table, key, overlay)? == *value),
        }
    }

    /// Where a shard stands; None: nothing was ever appended to it, or it was dropped.
    fn shard(&self, shard: ShardId) -> Result<Option<Shard>, ApplyError> {
        if let Some(shard) = self.shards.get(&shard) {
            return Ok(Some(*shard));
        }
        let Some(value) = self.engine.get(Family::State, &shard::key(shard))? else {
            return Ok(None);
        };
        let row = shard::decode(value).map_err(|Short| self.broken("damaged shard row"))?;
        Ok(Some(Shard {
            row,
            ..Shard::default()
        }))
    }

    fn writes(&self, overlay: &mut Overlay) -> Writes {
        let mut writes = std::mem::take(&mut overlay.writes);
        let (index, time) = (self.applied.index, self.applied.time);
        for (slice, appends) in std::mem::take(&mut overlay.by_slice) {
            let row = entry_row::encode(&EntryRow { time, appends });
            writes.put(Family::Slice(slice), entry_row::key(self.group, index), row);
        }
        for put in &overlay.puts {
            let key = table_row::key(self.group, put.table, &put.key);
            match &put.value {
                Some(value) => writes.put(Family::State, key, value.clone()),
                None => writes.delete(Family::State, key),
            }
        }
        if let Some(fence) = overlay.fence {
            let key = table_row::key(self.group, tables::FENCE, b"");
            writes.put(Family::State, key, fence.0.to_le_bytes().to_vec());
        }
        writes.put(Family::State, applied::key(self.group), applied::encode(&self.applied));
        writes
    }

    fn broken(&self, reason: &str) -> ApplyError {
        ApplyError::Entry {
            group: self.group,
            index: self.applied.index,
            reason: reason.to_owned(),
        }
    }
}

fn place(shard: ShardId, batch: Bytes, base: Offset) -> Result<StoredBatch, RecordBatchError> {
    let mut placed = batch.to_vec();
    set_base_offset(&mut placed, base)?;
    StoredBatch::new(shard, placed.into())
}

/// The leader's time for a new entry.
pub fn entry_time(clock_now: TimestampMs, previous: TimestampMs) -> TimestampMs {
    clock_now.max(previous)
}

#[cfg(test)]
mod tests;
