//! Committed entries become rows. Deterministic: it reads the entry and the group's rows, never a clock, a random
//! number or a configuration key, so every replica comes to the same state and the same outcomes.
//!
//! One entry is one atomic write: record batches, tables, shard ends, the entry row and how far the group is applied.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::{Condition, Put, TableId, tables};
use crate::engine::{Engine, Family, Writes};
use crate::entry::{self, Entry, Item};
use crate::error::EngineError;
use crate::follow::AppliedEntry;
use crate::ids::{GroupId, LogIndex, Offset, RouteRevision, ShardId, Term, TimestampMs};
use crate::keys::applied::{self, Applied};
use crate::keys::entry_row::{self, EntryRow};
use crate::keys::{record_batch, shard_end, table_row};
use crate::record_batch::{RecordBatchError, set_base_offset};
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
    /// Its route revision is below the group's fence, which is this.
    Stale(RouteRevision),
}

/// The base offset of each of an item's appends, or why there are none.
pub type Outcome = Result<Vec<Offset>, Refusal>;

/// The state of one group on this node.
pub struct Applier {
    engine: Arc<dyn Engine>,
    group: GroupId,
    applied: Applied,
    fence: RouteRevision,
    ends: HashMap<ShardId, Offset>,
}

/// What an entry has written so far; items see the ones before them.
#[derive(Default)]
struct Overlay {
    rows: HashMap<(TableId, Bytes), Option<Bytes>>,
    puts: Vec<Put>,
    appends: Vec<StoredBatch>,
    fence: Option<RouteRevision>,
}

impl Applier {
    /// Reads where the group stands.
    pub fn load(engine: Arc<dyn Engine>, group: GroupId) -> Result<Applier, ApplyError> {
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
            group,
            applied,
            fence,
            ends: HashMap::new(),
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
            entry::decode(self.group, data).map_err(|Short| self.broken(index, "it does not decode"))?
        };
        let time = entry.time.max(self.applied.time);
        let mut overlay = Overlay::default();
        let mut outcomes = Vec::with_capacity(entry.items.len());
        for item in entry.items {
            outcomes.push(self.apply_item(index, term, item, &mut overlay)?);
        }
        self.applied = Applied { index, term, time };
        self.engine.write(self.writes(&overlay))?;
        let applied = AppliedEntry {
            group: self.group,
            index,
            time,
            appends: overlay.appends,
            puts: overlay.puts,
        };
        Ok((applied, outcomes))
    }

    fn apply_item(
        &mut self,
        index: LogIndex,
        term: Term,
        item: Item,
        overlay: &mut Overlay,
    ) -> Result<Outcome, ApplyError> {
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
            if !self.holds(condition, term, overlay)? {
                return Ok(Err(Refusal::Conflict));
            }
        }
        let mut bases = Vec::with_capacity(item.appends.len());
        for (shard, batch) in item.appends {
            let base = self.end(shard)?;
            let stored = place(shard, batch, base).map_err(|error| self.broken(index, &error.to_string()))?;
            self.ends.insert(shard, stored.end());
            bases.push(base);
            overlay.appends.push(stored);
        }
        for put in item.puts {
            overlay.rows.insert((put.table, put.key.clone()), put.value.clone());
            overlay.puts.push(put);
        }
        Ok(Ok(bases))
    }

    fn holds(&self, condition: &Condition, entry_term: Term, overlay: &Overlay) -> Result<bool, EngineError> {
        match condition {
            Condition::Term(term) => Ok(*term == entry_term),
            Condition::Row { table, key, value } => match overlay.rows.get(&(*table, key.clone())) {
                Some(current) => Ok(current == value),
                None => {
                    let current = self
                        .engine
                        .get(Family::State, &table_row::key(self.group, *table, key))?;
                    Ok(current == *value)
                }
            },
        }
    }

    /// The next offset of a shard.
    fn end(&self, shard: ShardId) -> Result<Offset, ApplyError> {
        if let Some(end) = self.ends.get(&shard) {
            return Ok(*end);
        }
        match self.engine.get(Family::State, &shard_end::key(shard))? {
            Some(value) => {
                shard_end::decode(value).map_err(|Short| self.broken(self.applied.index, "damaged shard end row"))
            }
            None => Ok(Offset(0)),
        }
    }

    fn writes(&self, overlay: &Overlay) -> Writes {
        let mut writes = Writes::default();
        let mut row = EntryRow {
            time: self.applied.time,
            appends: Vec::with_capacity(overlay.appends.len()),
        };
        for stored in &overlay.appends {
            row.appends.push((stored.shard, stored.base));
            writes.put(
                Family::Slice,
                record_batch::key(stored.shard, stored.base),
                stored.encoded(),
            );
            writes.put(
                Family::State,
                shard_end::key(stored.shard),
                shard_end::encode(stored.end()),
            );
        }
        if !row.appends.is_empty() {
            writes.put(
                Family::Slice,
                entry_row::key(self.group, self.applied.index),
                entry_row::encode(&row),
            );
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

    fn broken(&self, index: LogIndex, reason: &str) -> ApplyError {
        ApplyError::Entry {
            group: self.group,
            index,
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
mod tests {
    use super::*;
    use crate::engine::memory::MemoryEngine;
    use crate::ids::StreamId;
    use crate::record::Record;
    use crate::record_batch::{encode_record, seal};

    const GROUP: GroupId = GroupId(1);
    const TABLE: TableId = TableId(1000);
    const SHARD: ShardId = ShardId {
        group: GROUP,
        stream: StreamId(9),
        number: 0,
    };

    fn appending(payloads: &[&str]) -> Item {
        let mut body = Vec::new();
        payloads
            .iter()
            .for_each(|payload| encode_record(&Record::new(payload.as_bytes().to_vec()), &mut body));
        let batch = seal(&body, payloads.len() as u32, TimestampMs(5));
        Item {
            appends: vec![(SHARD, batch.into())],
            ..Item::default()
        }
    }

    fn put(value: &'static str) -> Put {
        Put {
            table: TABLE,
            key: "k".into(),
            value: Some(value.into()),
        }
    }

    fn row(value: Option<&'static str>) -> Condition {
        Condition::Row {
            table: TABLE,
            key: "k".into(),
            value: value.map(Into::into),
        }
    }

    fn run(applier: &mut Applier, items: Vec<Item>) -> Vec<Outcome> {
        let index = applier.applied().index.next();
        let data = entry::encode(&Entry {
            time: TimestampMs(5),
            items,
        });
        applier.apply(index, Term(1), data.into()).unwrap().1
    }

    #[test]
    fn offsets_run_on_across_items_entries_and_a_reload() {
        let engine = Arc::new(MemoryEngine::default());
        let mut applier = Applier::load(engine.clone(), GROUP).unwrap();
        assert_eq!(
            run(&mut applier, vec![appending(&["a", "b"]), appending(&["c"])]),
            [Ok(vec![Offset(0)]), Ok(vec![Offset(2)])]
        );
        let mut applier = Applier::load(engine, GROUP).unwrap();
        assert_eq!(run(&mut applier, vec![appending(&["d"])]), [Ok(vec![Offset(3)])]);
        assert_eq!(applier.applied().index, LogIndex(2));
    }

    #[test]
    fn a_refused_item_changes_nothing_and_later_items_see_earlier_ones() {
        let mut applier = Applier::load(Arc::new(MemoryEngine::default()), GROUP).unwrap();
        let claim = |value| Item {
            conditions: vec![row(None)],
            puts: vec![put(value)],
            ..appending(&["x"])
        };
        assert_eq!(
            run(&mut applier, vec![claim("first"), claim("second")]),
            [Ok(vec![Offset(0)]), Err(Refusal::Conflict)]
        );
        let follow = Item {
            conditions: vec![row(Some("first")), Condition::Term(Term(1))],
            ..appending(&["y"])
        };
        assert_eq!(
            run(&mut applier, vec![follow]),
            [Ok(vec![Offset(1)])],
            "the refused append took no offset"
        );
        let old_term = Item {
            conditions: vec![Condition::Term(Term(0))],
            ..appending(&["z"])
        };
        assert_eq!(run(&mut applier, vec![old_term]), [Err(Refusal::Conflict)]);
    }

    #[test]
    fn a_newer_route_fences_the_older_ones() {
        let engine = Arc::new(MemoryEngine::default());
        let mut applier = Applier::load(engine.clone(), GROUP).unwrap();
        let routed = |revision| Item {
            revision: Some(RouteRevision(revision)),
            ..appending(&["x"])
        };
        assert_eq!(
            run(&mut applier, vec![routed(1), routed(2), routed(1)])[2],
            Err(Refusal::Stale(RouteRevision(2)))
        );
        let mut applier = Applier::load(engine, GROUP).unwrap();
        assert_eq!(
            run(&mut applier, vec![routed(1)]),
            [Err(Refusal::Stale(RouteRevision(2)))],
            "fences are kept"
        );
    }

    #[test]
    fn a_crash_goes_back_to_one_point_for_rows_and_applied_index() {
        let engine = Arc::new(MemoryEngine::default());
        let mut applier = Applier::load(engine.clone(), GROUP).unwrap();
        run(&mut applier, vec![appending(&["a"])]);
        engine.flush().unwrap();
        run(&mut applier, vec![appending(&["b"])]);
        engine.crash();
        let mut applier = Applier::load(engine, GROUP).unwrap();
        assert_eq!(applier.applied().index, LogIndex(1));
        assert_eq!(
            run(&mut applier, vec![appending(&["b"])]),
            [Ok(vec![Offset(1)])],
            "replayed to the same offset"
        );
    }
}
