//! GROUP BY without a window, and over tumbling ones: a row has one group.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::accumulator::GroupState;
use super::output::{Output, Row};
use super::{ChangedBy, Groups, Inputs, NOBODY, split_at};
use crate::change::Delta;
use crate::limits::GROUPS_CACHED_MAX;
use crate::operator::{Operator, Place, Port};
use crate::plan::physical::{Aggregate, Emit, Node, PlanError};
use crate::step::{Key, Step, Stop};
use crate::types::TimestampUs;
use crate::value::{Value, encode_key};

/// The table of accumulators.
const GROUPS: u8 = 0;

#[derive(Debug)]
pub(in crate::operator) struct GroupBy {
    shared: Groups,
    /// Groups seen lately, by key: decoded state.
    groups: HashMap<Bytes, Group, RandomState>,
    /// Keys changed in this step, in the order of their first change.
    dirty: Vec<Bytes>,
    out: Output,
}

#[derive(Debug)]
struct Group {
    key: Key,
    state: GroupState,
    /// It has a row in the store: as it is committed, or as this step will write it.
    stored: bool,
    /// In this step: the row it had at its begin, None if it had none. Outer None: not changed in this step.
    before: Option<Option<Vec<Value>>>,
    changed_by: ChangedBy,
}

impl Group {
    /// Notes that it changes in this step, and the row that it has until then.
    fn begin_step(&mut self, shared: &Groups) {
        let spoke = shared.emit == Emit::Changes && self.is_there(shared);
        self.before = Some(spoke.then(|| self.row(shared).0));
    }

    /// It has a row. The one group of a query without GROUP BY keeps it when nothing is left: COUNT of nothing is 0.
    fn is_there(&self, shared: &Groups) -> bool {
        self.state.rows > 0 || self.stored && shared.is_one()
    }

    /// Its row, as it is now.
    fn row(&self, shared: &Groups) -> Row {
        let start = || split_at(&self.key).map_or(i64::MAX, |(_, start)| start);
        let window = self.state.window_end_us.map(|end| (start(), end));
        shared.row(&self.key.bytes, window, &self.state.accumulators)
    }

    fn say_change(&self, before: Option<Vec<Value>>, shared: &Groups, out: &mut Output, step: &mut Step<'_>) {
        let after = self.is_there(shared).then(|| self.row(shared));
        out.change(before, after, self.changed_by, step);
    }

    /// Takes a row in, or back.
    fn take(&mut self, shared: &Groups, inputs: &Inputs, delta: &Delta, row: usize, step: &mut Step<'_>) {
        self.changed_by = (delta.time[row], delta.origin[row]);
        self.state.rows += i64::from(delta.weight(row));
        shared.add(&mut self.state.accumulators, inputs, delta, row, step);
    }
}

impl GroupBy {
    pub fn new(node: &Node, aggregate: &Aggregate, retracts: bool, place: &Place) -> Result<GroupBy, PlanError> {
        Ok(GroupBy {
            shared: Groups::new(node, aggregate, retracts, place)?,
            groups: HashMap::default(),
            dirty: Vec::new(),
            out: Output::default(),
        })
    }

    /// Takes a row into its group, which this step has not changed so far: it is brought into memory as it is, or new.
    fn touch(
        &mut self,
        inputs: &Inputs,
        (bytes, spread_by): (&[u8], usize),
        (delta, row): (&Delta, usize),
        step: &mut Step<'_>,
    ) -> Result<(), Stop> {
        let GroupBy { shared, groups, .. } = self;
        let key = match groups.get_mut(bytes) {
            Some(group) => {
                group.begin_step(shared);
                group.take(shared, inputs, delta, row, step);
                group.key.clone()
            }
            None => {
                shared.check_room(groups.len())?;
                let key = Key::new(bytes.to_vec(), spread_by);
                let mut group = self.find(key.clone(), delta, row, step)?;
                group.begin_step(&self.shared);
                group.take(&self.shared, inputs, delta, row, step);
                self.groups.insert(key.bytes.clone(), group);
                key
            }
        };
        if self.shared.emit != Emit::AtEnd {
            self.dirty.push(key.bytes);
        }
        Ok(())
    }

    /// A group that is not in memory: as it is stored, or new.
    fn find(&self, key: Key, delta: &Delta, row: usize, step: &mut Step<'_>) -> Result<Group, Stop> {
        let known = match self.may_be_stored(&key, delta, row, step) {
            true => self.load(&key, step)?,
            false => None,
        };
        Ok(Group {
            stored: known.is_some(),
            state: known.unwrap_or_else(|| self.begin(&key, delta, row, step)),
            key,
            before: None,
            changed_by: NOBODY,
        })
    }

    fn load(&self, key: &Key, step: &Step<'_>) -> Result<Option<GroupState>, Stop> {
        let Some(row) = step.get(GROUPS, key)? else {
            return Ok(None);
        };
        let state = GroupState::decode(&row, self.shared.calls.len());
        state.ok_or(Stop::State(self.shared.operator)).map(Some)
    }

    /// A window that is stored has its timer, and timers are in memory: looking there saves reading what is not there,
    /// for each group of each new window.
    fn may_be_stored(&self, key: &Key, delta: &Delta, row: usize, step: &Step<'_>) -> bool {
        match self.window_end(delta, row) {
            Some(end) => step.has_timer(end.plus_us(self.shared.grace_us), key),
            None => true,
        }
    }

    /// Of a window that has a timer.
    fn window_end(&self, delta: &Delta, row: usize) -> Option<TimestampUs> {
        self.shared.window.filter(|_| self.shared.emit != Emit::AtEnd)?;
        Some(TimestampUs(self.shared.window_of(delta, row).1))
    }

    fn begin(&self, key: &Key, delta: &Delta, row: usize, step: &mut Step<'_>) -> GroupState {
        let window_end_us = self.shared.window.map(|_| self.shared.window_of(delta, row).1);
        if let Some(end) = self.window_end(delta, row) {
            step.set_timer(end.plus_us(self.shared.grace_us), key);
        }
        GroupState {
            rows: 0,
            window_end_us,
            accumulators: self.shared.empty(),
        }
    }

    /// Writes the changed groups, and says what became of their rows.
    fn speak(&mut self, step: &mut Step<'_>) {
        let GroupBy {
            shared,
            groups,
            dirty,
            out,
        } = self;
        for bytes in dirty.drain(..) {
            // A window that closed in this step has spoken already.
            let Some(group) = groups.get_mut(&bytes) else {
                continue;
            };
            let before = group.before.take();
            if group.state.rows > 0 || shared.is_one() {
                step.put(GROUPS, &group.key, group.state.encode());
            } else if group.stored {
                step.delete(GROUPS, &group.key);
            }
            group.stored = true;
            if shared.emit == Emit::Changes {
                group.say_change(before.flatten(), shared, out, step);
            }
            if group.state.rows <= 0 {
                groups.remove(&bytes);
            }
        }
        // All are written: forgetting them costs reading them again, keeping them all costs memory without bound.
        if shared.groups_max.is_none() && groups.len() > GROUPS_CACHED_MAX {
            groups.clear();
        }
    }

    fn speak_all(&mut self, step: &mut Step<'_>) {
        let mut groups: Vec<Group> = std::mem::take(&mut self.groups).into_values().collect();
        groups.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        // COUNT(*) of nothing is one row.
        if groups.is_empty() && self.shared.is_one() {
            let state = GroupState {
                rows: 1,
                window_end_us: None,
                accumulators: self.shared.empty(),
            };
            groups.push(Group {
                key: Key::new(Vec::new(), 0),
                state,
                stored: false,
                before: None,
                changed_by: NOBODY,
            });
        }
        // Rows that went again leave groups of none.
        let is_one = self.shared.is_one();
        for group in groups.iter().filter(|group| is_one || group.state.rows > 0) {
            self.out.once(group.row(&self.shared), group.changed_by, step);
        }
    }
}

impl Operator for GroupBy {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let inputs = self.shared.inputs(delta, step);
        let mut bytes = Vec::new();
        // Rows of one window come one after the other.
        let (mut window, mut window_bytes) = (None, Vec::new());
        for row in 0..delta.len() {
            bytes.clear();
            inputs.encode_group(row, &mut bytes);
            // The window is no part of what spreads.
            let spread_by = bytes.len();
            if self.shared.window.is_some() {
                let start = self.shared.window_of(delta, row).0;
                if window != Some(start) {
                    window = Some(start);
                    window_bytes.clear();
                    encode_key(&Value::Timestamp(start), &mut window_bytes);
                }
                bytes.extend_from_slice(&window_bytes);
            }
            // Nearly always it has changed in this step already: then one look is enough.
            let known = self.groups.get_mut(&bytes[..]);
            if let Some(group) = known.filter(|group| group.before.is_some()) {
                group.take(&self.shared, &inputs, delta, row, step);
                continue;
            }
            self.touch(&inputs, (&bytes, spread_by), (delta, row), step)?;
        }
        Ok(())
    }

    fn advance(&mut self, _: Port, watermark: TimestampUs, step: &mut Step<'_>) -> Result<(), Stop> {
        if self.shared.emit != Emit::AtEnd {
            self.speak(step);
        } else if watermark == TimestampUs::MAX {
            self.speak_all(step);
        }
        let said = self.out.take(&self.shared);
        step.emit(said);
        Ok(())
    }

    /// A window is over.
    fn timer(&mut self, _: TimestampUs, key: &Key, step: &mut Step<'_>) -> Result<(), Stop> {
        let group = match self.groups.remove(&key.bytes[..]) {
            Some(group) => group,
            None => {
                let Some(state) = self.load(key, step)? else {
                    return Ok(());
                };
                Group {
                    key: key.clone(),
                    state,
                    stored: true,
                    before: None,
                    changed_by: NOBODY,
                }
            }
        };
        // A window that began and ended within this step leaves nothing behind.
        if group.stored {
            step.delete(GROUPS, key);
        }
        let said = self.out.bytes;
        match (self.shared.emit, &group.before) {
            (Emit::Final, _) if group.state.rows > 0 => {
                self.out.once(group.row(&self.shared), group.changed_by, step);
            }
            // Its last change may be of this very step; the row it leaves behind stands for ever.
            (Emit::Changes, Some(before)) => {
                group.say_change(before.clone(), &self.shared, &mut self.out, step);
            }
            _ => {}
        }
        step.weigh_timer(self.out.bytes - said + key.bytes.len());
        Ok(())
    }
}
