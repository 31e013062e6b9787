//! The state of one task: committed rows, and the overlay of the step that runs.
//!
//! ```text
//! state   query u64 | slot u16 | operator u32 | table u8 | key
//! timer   query u64 | slot u16 | operator u32 | 0xFF     | time i64, ordered | key      by event time
//!                                               0xFE                                    by the clock of the steps
//! ```
//!
//! Keys hash to the store's fixed slots (XXH3-64 over 1 024), so that state can move between groups by slot one day.

mod timers;

use std::collections::BTreeMap;

use bytes::Bytes;
use headwater_store::{Put, ReadError, SLOTS, Table, slot, tables};

use crate::limits::STATE_SCAN_ROWS;
use crate::plan::physical::OperatorId;
use crate::types::TimestampUs;
use timers::Timers;

/// What a timer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    /// The watermark.
    Event,
    /// The step's time.
    Clock,
}

impl TimerKind {
    /// The number of their table.
    fn table(self) -> u8 {
        match self {
            TimerKind::Event => 0xFF,
            TimerKind::Clock => 0xFE,
        }
    }
}

const PREFIX_BYTES: usize = 8 + 2 + 4 + 1;

/// A key of an operator's table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Memcomparable.
    pub bytes: Bytes,
    /// From the part that rows are spread by.
    pub slot: u16,
}

impl Key {
    /// `bytes`, of which the first `spread_by` decide the slot.
    pub fn new(bytes: impl Into<Bytes>, spread_by: usize) -> Key {
        let bytes = bytes.into();
        let slot = slot(&bytes[..spread_by]);
        Key { bytes, slot }
    }
}

/// Where committed rows are.
#[derive(Debug)]
pub enum Committed {
    /// In the table of the task's group.
    Table(Table),
    /// Nowhere else: a one-shot or push read.
    Memory(BTreeMap<Bytes, Bytes>),
}

/// The state of one task.
#[derive(Debug)]
pub struct State {
    query: u64,
    committed: Committed,
    /// In the order of keys: so are the puts of a step, and a Batch with the same content is the same bytes.
    changed: BTreeMap<Bytes, Option<Bytes>>,
    timers: Timers,
}

impl State {
    /// For the query with this id; reads its timers. `operators` are those that may have some.
    pub fn load(
        query: u64,
        committed: Committed,
        operators: impl IntoIterator<Item = OperatorId>,
    ) -> Result<State, ReadError> {
        let mut state = State {
            query,
            committed,
            changed: BTreeMap::new(),
            timers: Timers::default(),
        };
        if let Committed::Table(table) = &state.committed {
            for operator in operators {
                for slot in 0..SLOTS as u16 {
                    for kind in [TimerKind::Event, TimerKind::Clock] {
                        let prefix = prefix(query, slot, operator, kind.table());
                        scan(table, &prefix, |key, _| {
                            if let Some(timer) = read_timer(operator, kind, slot, key) {
                                state.timers.restore(timer);
                            }
                        })?;
                    }
                }
            }
        }
        Ok(state)
    }

    pub(super) fn get(&self, operator: OperatorId, table: u8, key: &Key) -> Result<Option<Bytes>, ReadError> {
        let row = self.row(operator, table, key);
        match (self.changed.get(&row), &self.committed) {
            (Some(changed), _) => Ok(changed.clone()),
            (None, Committed::Table(table)) => table.get(&row),
            (None, Committed::Memory(rows)) => Ok(rows.get(&row).cloned()),
        }
    }

    pub(super) fn put(&mut self, operator: OperatorId, table: u8, key: &Key, value: Option<Bytes>) {
        let row = self.row(operator, table, key);
        self.changed.insert(row, value);
    }

    /// The rows of a table whose key begins with `key`'s, in the order of their keys.
    pub(super) fn rows(&self, operator: OperatorId, table: u8, key: &Key) -> Result<Vec<(Key, Bytes)>, ReadError> {
        let prefix = self.row(operator, table, key);
        let mut rows: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        match &self.committed {
            Committed::Table(table) => scan(table, &prefix, |row, value| {
                rows.insert(row.clone(), value.clone());
            })?,
            Committed::Memory(committed) => {
                let found = committed
                    .range(prefix.clone()..)
                    .take_while(|(row, _)| row.starts_with(&prefix));
                rows.extend(found.map(|(row, value)| (row.clone(), value.clone())));
            }
        }
        let changed = self
            .changed
            .range(prefix.clone()..)
            .take_while(|(row, _)| row.starts_with(&prefix));
        for (row, value) in changed {
            match value {
                Some(value) => rows.insert(row.clone(), value.clone()),
                None => rows.remove(row),
            };
        }
        let key_of = |row: Bytes| Key {
            bytes: row.slice(PREFIX_BYTES..),
            slot: key.slot,
        };
        Ok(rows.into_iter().map(|(row, value)| (key_of(row), value)).collect())
    }

    pub(super) fn set_timer(&mut self, operator: OperatorId, kind: TimerKind, at: TimestampUs, key: &Key) {
        self.timers.set((operator, kind, at), key);
    }

    /// The operator waits for that time with this key.
    pub(super) fn has_timer(&self, operator: OperatorId, kind: TimerKind, at: TimestampUs, key: &Key) -> bool {
        self.timers.has((operator, kind, at), key)
    }

    /// Takes the operator's first timer of a kind that is due.
    pub fn next_timer(
        &mut self,
        operator: OperatorId,
        kind: TimerKind,
        time: TimestampUs,
    ) -> Option<(TimestampUs, Key)> {
        let (at, key, stored) = self.timers.take_due(operator, kind, time)?;
        if stored {
            let row = self.timer_row(operator, kind, at, &key);
            self.changed.insert(row, None);
        }
        Some((at, key))
    }

    /// The operator has a timer of a kind that is due.
    pub fn is_due(&self, operator: OperatorId, kind: TimerKind, time: TimestampUs) -> bool {
        self.timers.due(operator, kind, time).is_some()
    }

    /// Something is waiting for its time.
    pub fn has_timers(&self) -> bool {
        self.timers.count() > 0
    }

    /// How many timers wait.
    pub fn timers(&self) -> usize {
        self.timers.count()
    }

    /// Ends the step: its changes as puts of QUERY_STATE. In memory they are committed by this.
    pub fn take_puts(&mut self) -> Vec<Put> {
        for ((operator, kind, at), key) in self.timers.take_fresh() {
            let row = self.timer_row(operator, kind, at, &key);
            self.changed.insert(row, Some(Bytes::new()));
        }
        let changed = std::mem::take(&mut self.changed);
        match &mut self.committed {
            Committed::Table(_) => {
                let put = |(key, value)| Put {
                    table: tables::QUERY_STATE,
                    key,
                    value,
                };
                changed.into_iter().map(put).collect()
            }
            Committed::Memory(rows) => {
                for (key, value) in changed {
                    match value {
                        Some(value) => rows.insert(key, value),
                        None => rows.remove(&key),
                    };
                }
                Vec::new()
            }
        }
    }

    fn row(&self, operator: OperatorId, table: u8, key: &Key) -> Bytes {
        let mut row = Vec::with_capacity(PREFIX_BYTES + key.bytes.len());
        row.extend(prefix(self.query, key.slot, operator, table));
        row.extend_from_slice(&key.bytes);
        row.into()
    }

    fn timer_row(&self, operator: OperatorId, kind: TimerKind, at: TimestampUs, key: &Key) -> Bytes {
        let mut row = Vec::with_capacity(PREFIX_BYTES + 8 + key.bytes.len());
        row.extend(prefix(self.query, key.slot, operator, kind.table()));
        row.extend((at.0 as u64 ^ 1 << 63).to_be_bytes());
        row.extend_from_slice(&key.bytes);
        row.into()
    }
}

fn prefix(query: u64, slot: u16, operator: OperatorId, table: u8) -> [u8; PREFIX_BYTES] {
    let mut bytes = [0; PREFIX_BYTES];
    bytes[..8].copy_from_slice(&query.to_be_bytes());
    bytes[8..10].copy_from_slice(&slot.to_be_bytes());
    bytes[10..14].copy_from_slice(&operator.0.to_be_bytes());
    bytes[14] = table;
    bytes
}

fn read_timer(
    operator: OperatorId,
    kind: TimerKind,
    slot: u16,
    row: &[u8],
) -> Option<(OperatorId, TimerKind, TimestampUs, Key)> {
    let (at, key) = row.get(PREFIX_BYTES..)?.split_first_chunk::<8>()?;
    let at = TimestampUs((u64::from_be_bytes(*at) ^ 1 << 63) as i64);
    Some((
        operator,
        kind,
        at,
        Key {
            bytes: Bytes::copy_from_slice(key),
            slot,
        },
    ))
}

/// Shows all rows under a prefix, a page at a time.
fn scan(table: &Table, prefix: &[u8], mut show: impl FnMut(&Bytes, &Bytes)) -> Result<(), ReadError> {
    let mut from: Vec<u8> = Vec::new();
    loop {
        let rows = table.scan(prefix, &from, STATE_SCAN_ROWS)?;
        rows.iter().for_each(|(key, value)| show(key, value));
        match rows.last() {
            Some((last, _)) if rows.len() == STATE_SCAN_ROWS => {
                from = [&last[..], &[0]].concat();
            }
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory() -> State {
        State::load(7, Committed::Memory(BTreeMap::new()), []).unwrap()
    }

    #[test]
    fn timers_come_by_time_then_key_and_only_when_due() {
        let mut state = memory();
        let (a, b) = (Key::new("a", 1), Key::new("b", 1));
        let op = OperatorId(3);
        for (at, key) in [(20, &a), (10, &b), (10, &a), (10, &a)] {
            state.set_timer(op, TimerKind::Event, TimestampUs(at), key);
        }
        state.set_timer(OperatorId(4), TimerKind::Event, TimestampUs(5), &a);
        state.set_timer(op, TimerKind::Clock, TimestampUs(1), &a);
        let mut next = |kind, time| state.next_timer(op, kind, TimestampUs(time));
        assert_eq!(next(TimerKind::Event, 9), None);
        assert_eq!(next(TimerKind::Event, 15), Some((TimestampUs(10), a.clone())));
        assert_eq!(next(TimerKind::Event, 15), Some((TimestampUs(10), b)));
        assert_eq!(next(TimerKind::Event, 15), None);
        assert_eq!(next(TimerKind::Clock, 0), None);
        assert_eq!(next(TimerKind::Clock, 1), Some((TimestampUs(1), a)));
        assert!(state.has_timers());
    }

    #[test]
    fn rows_under_a_key_are_those_that_the_step_would_read_one_by_one() {
        let mut state = memory();
        let (op, group) = (OperatorId(1), Key::new("g", 1));
        let of_group = |rest: &str| Key::new(format!("g{rest}"), 1);
        for rest in ["1", "2", "3"] {
            state.put(op, 0, &of_group(rest), Some(rest.to_owned().into()));
        }
        state.take_puts();
        state.put(op, 0, &of_group("2"), None);
        state.put(op, 0, &of_group("0"), Some("0".into()));
        state.put(op, 1, &of_group("1"), Some("another table".into()));
        let rows = state.rows(op, 0, &group).unwrap();
        let found: Vec<_> = rows.iter().map(|(key, value)| (&key.bytes[..], &value[..])).collect();
        assert_eq!(found, [(&b"g0"[..], &b"0"[..]), (b"g1", b"1"), (b"g3", b"3")]);
        assert!(rows.iter().all(|(key, _)| key.slot == group.slot));
    }

    #[test]
    fn a_step_reads_through_its_own_changes() {
        let mut state = memory();
        let (op, key) = (OperatorId(1), Key::new("k", 1));
        state.put(op, 0, &key, Some("1".into()));
        state.take_puts();
        state.put(op, 0, &key, None);
        assert_eq!(state.get(op, 0, &key).unwrap(), None);
        assert_eq!(state.get(op, 1, &key).unwrap(), None);
        state.changed.clear();
        assert_eq!(state.get(op, 0, &key).unwrap(), Some("1".into()), "given up");
    }

    proptest! {
        #[test]
        fn timer_rows_read_back_and_order_by_time(at: i64, other: i64, key: Vec<u8>) {
            let state = memory();
            let key = Key::new(key, 0);
            let row = state.timer_row(OperatorId(9), TimerKind::Event, TimestampUs(at), &key);
            let read = read_timer(OperatorId(9), TimerKind::Event, key.slot, &row);
            prop_assert_eq!(read, Some((OperatorId(9), TimerKind::Event, TimestampUs(at), key.clone())));
            let later = state.timer_row(OperatorId(9), TimerKind::Event, TimestampUs(other), &key);
            prop_assert_eq!(row.cmp(&later), at.cmp(&other));
        }
    }
}
