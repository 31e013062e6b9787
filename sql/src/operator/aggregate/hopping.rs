//! GROUP BY over hopping windows, by panes.
//!
//! A window of an hour that begins each minute would take each row sixty times. Instead a row goes into one pane, as
//! long as the greatest common divisor of size and advance, and a window is its panes put together when it speaks.
//!
//! ```text
//! windows   0------------12             size 12, advance 8: panes of 4
//!                    8------------20
//! panes     0---|4---|8---|12--|16--
//! ```
//!
//! A row may come too late for the first of its windows and in time for the others. So that each window takes exactly
//! the rows that were in time for it, a pane has a part for each first window that its rows are for; nearly always
//! there is one. A part is a row of state:
//!
//! ```text
//! parts    group columns | start of the pane | first window that takes the part  ->  accumulators
//! timers   end of a window + grace           | group columns | start of the window
//! ```

use std::collections::{BTreeMap, HashMap};

use super::accumulator::{Accumulator, GroupState};
use super::output::{Output, Row};
use super::{ChangedBy, Groups, NOBODY, key_at, split_at};
use crate::change::Delta;
use crate::limits::GROUPS_CACHED_MAX;
use crate::operator::window::pane_us;
use crate::operator::{Operator, Place, Port};
use crate::plan::physical::{Aggregate, Emit, Node, PlanError};
use crate::step::{Key, Step, Stop};
use crate::types::TimestampUs;
use crate::value::Value;

/// The table of parts.
const PARTS: u8 = 0;

#[derive(Debug)]
pub(in crate::operator) struct HoppingGroupBy {
    shared: Groups,
    hop: Hop,
    /// Groups seen lately, whole.
    groups: HashMap<Vec<u8>, Group>,
    /// Parts of panes in memory.
    parts: usize,
    /// The windows that change in this step, in the order of their first change, with the rows they had at its begin.
    dirty: Vec<(Vec<u8>, i64)>,
    before: HashMap<(Vec<u8>, i64), Option<Vec<Value>>>,
    /// The parts that change in this step.
    unwritten: Vec<(Vec<u8>, PartId)>,
    out: Output,
}

/// The start of a pane, and of the first window that takes the part.
type PartId = (i64, i64);

/// How windows and panes lie.
#[derive(Debug, Clone, Copy)]
struct Hop {
    size_us: i64,
    advance_us: i64,
}

impl Hop {
    /// The windows that take a part, by their starts.
    fn windows(self, (pane, from): PartId) -> impl Iterator<Item = i64> {
        let last = self.last(pane);
        (0..)
            .map(move |hop: i64| from.saturating_add(hop.saturating_mul(self.advance_us)))
            .take_while(move |start| *start <= last)
    }

    /// The last window that a pane lies in.
    fn last(self, pane: i64) -> i64 {
        pane.saturating_sub(pane.rem_euclid(self.advance_us))
    }

    fn end(self, window: i64) -> i64 {
        window.saturating_add(self.size_us)
    }
}

/// All parts of one group, decoded.
#[derive(Debug, Default)]
struct Group {
    parts: BTreeMap<PartId, Part>,
    changed_by: Option<ChangedBy>,
}

#[derive(Debug)]
struct Part {
    state: GroupState,
    /// It changes in this step.
    dirty: bool,
}

impl HoppingGroupBy {
    pub fn new(
        node: &Node,
        aggregate: &Aggregate,
        (size_us, advance_us): (i64, i64),
        retracts: bool,
        place: &Place,
    ) -> Result<HoppingGroupBy, PlanError> {
        if size_us <= 0 || advance_us <= 0 || aggregate.window.is_none() {
            return Err(PlanError::Invalid("hopping windows without length".into()));
        }
        debug_assert_eq!(advance_us % pane_us(size_us, advance_us), 0);
        Ok(HoppingGroupBy {
            shared: Groups::new(node, aggregate, retracts, place)?,
            hop: Hop { size_us, advance_us },
            groups: HashMap::new(),
            parts: 0,
            dirty: Vec::new(),
            before: HashMap::new(),
            unwritten: Vec::new(),
            out: Output::default(),
        })
    }

    /// Brings a group into memory.
    fn load(&mut self, bytes: &[u8], step: &Step<'_>) -> Result<(), Stop> {
        if self.groups.contains_key(bytes) {
            return Ok(());
        }
        self.shared.check_room(self.groups.len())?;
        let mut group = Group::default();
        let key = Key::new(bytes.to_vec(), bytes.len());
        for (row, value) in step.rows(PARTS, &key)? {
            let id = part_id(&row, bytes.len()).ok_or(Stop::State(self.shared.operator))?;
            let state = GroupState::decode(&value, self.shared.calls.len());
            let state = state.ok_or(Stop::State(self.shared.operator))?;
            group.parts.insert(id, Part { state, dirty: false });
        }
        self.parts += group.parts.len();
        self.groups.insert(bytes.to_vec(), group);
        Ok(())
    }

    /// Notes that a part changes in this step, and makes it if it is new.
    fn touch(&mut self, bytes: &[u8], id: PartId, by: ChangedBy, step: &mut Step<'_>) {
        let Some(group) = self.groups.get_mut(bytes) else {
            return;
        };
        group.changed_by = Some(by);
        match group.parts.get_mut(&id) {
            Some(part) if part.dirty => return,
            Some(part) => part.dirty = true,
            None => {
                let state = GroupState {
                    rows: 0,
                    window_end_us: None,
                    accumulators: self.shared.empty(),
                };
                group.parts.insert(id, Part { state, dirty: true });
                self.parts += 1;
                if self.shared.emit != Emit::AtEnd {
                    for window in self.hop.windows(id) {
                        let due = TimestampUs(self.hop.end(window)).plus_us(self.shared.grace_us);
                        step.set_timer(due, &key_at(bytes, &[window]));
                    }
                }
            }
        }
        if self.shared.emit != Emit::AtEnd {
            self.unwritten.push((bytes.to_vec(), id));
        }
        if self.shared.emit == Emit::Changes {
            // The part is as it was when the step began, and so are all windows that are not noted yet.
            for window in self.hop.windows(id) {
                let place = (bytes.to_vec(), window);
                if !self.before.contains_key(&place) {
                    let row = self.window(bytes, window).map(|(row, _)| row);
                    self.before.insert(place.clone(), row);
                    self.dirty.push(place);
                }
            }
        }
    }

    /// A window's row: its panes, put together. None: it has no rows.
    fn window(&self, bytes: &[u8], window: i64) -> Option<Row> {
        let group = self.groups.get(bytes)?;
        let end = self.hop.end(window);
        let (mut rows, mut merged) = (0, None::<Vec<Accumulator>>);
        for ((_, from), part) in group.parts.range((window, i64::MIN)..(end, i64::MIN)) {
            if *from > window || part.state.rows == 0 {
                continue;
            }
            rows += part.state.rows;
            let merged = merged.get_or_insert_with(|| self.shared.empty());
            self.shared.merge(merged, &part.state.accumulators);
        }
        let merged = merged.filter(|_| rows > 0)?;
        Some(self.shared.row(bytes, Some((window, end)), &merged))
    }

    /// Writes the changed parts, and says what became of the windows' rows.
    fn speak(&mut self, step: &mut Step<'_>) {
        for (bytes, id) in std::mem::take(&mut self.unwritten) {
            let Some(group) = self.groups.get_mut(&bytes) else {
                continue;
            };
            // One whose last window closed in this step is gone.
            let Some(part) = group.parts.get_mut(&id) else { continue };
            part.dirty = false;
            let key = key_at(&bytes, &[id.0, id.1]);
            if part.state.rows > 0 {
                step.put(PARTS, &key, part.state.encode());
            } else {
                step.delete(PARTS, &key);
                group.parts.remove(&id);
                self.parts -= 1;
            }
        }
        for (bytes, window) in std::mem::take(&mut self.dirty) {
            if let Some(before) = self.before.remove(&(bytes.clone(), window)) {
                self.say_change(&bytes, window, before, step);
            }
        }
        if self.shared.groups_max.is_none() && self.parts > GROUPS_CACHED_MAX {
            self.groups.clear();
            self.parts = 0;
        }
    }

    fn say_change(&mut self, bytes: &[u8], window: i64, before: Option<Vec<Value>>, step: &mut Step<'_>) {
        let after = self.window(bytes, window);
        self.out.change(before, after, self.changed_by(bytes), step);
    }

    fn say_once(&mut self, bytes: &[u8], window: i64, step: &mut Step<'_>) {
        if let Some(row) = self.window(bytes, window) {
            self.out.once(row, self.changed_by(bytes), step);
        }
    }

    fn changed_by(&self, bytes: &[u8]) -> ChangedBy {
        self.groups
            .get(bytes)
            .and_then(|group| group.changed_by)
            .unwrap_or(NOBODY)
    }

    fn speak_all(&mut self, step: &mut Step<'_>) {
        let mut windows: Vec<(Vec<u8>, i64)> = Vec::new();
        for (bytes, group) in &self.groups {
            let starts = group.parts.keys().flat_map(|id| self.hop.windows(*id));
            windows.extend(starts.map(|start| (bytes.clone(), start)));
        }
        windows.sort_unstable();
        windows.dedup();
        for (bytes, window) in windows {
            self.say_once(&bytes, window, step);
        }
    }

    /// Drops the parts that no window after this one takes.
    fn drop_parts(&mut self, bytes: &[u8], window: i64, step: &mut Step<'_>) {
        let Some(group) = self.groups.get_mut(bytes) else {
            return;
        };
        let over: Vec<PartId> = group
            .parts
            .keys()
            .copied()
            .filter(|(pane, _)| self.hop.last(*pane) <= window)
            .collect();
        for id in over {
            step.delete(PARTS, &key_at(bytes, &[id.0, id.1]));
            group.parts.remove(&id);
            self.parts -= 1;
        }
        if group.parts.is_empty() {
            self.groups.remove(bytes);
        }
    }
}

fn part_id(key: &Key, group_bytes: usize) -> Option<PartId> {
    let (rest, from) = split_at(key)?;
    let pane = Key {
        bytes: key.bytes.slice(..rest.len()),
        slot: key.slot,
    };
    let (group, pane) = split_at(&pane)?;
    (group.len() == group_bytes).then_some((pane, from))
}

impl Operator for HoppingGroupBy {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let inputs = self.shared.inputs(delta, step);
        let mut bytes = Vec::new();
        for row in 0..delta.len() {
            bytes.clear();
            inputs.encode_group(row, &mut bytes);
            let id = self.shared.window_of(delta, row);
            self.load(&bytes, step)?;
            self.touch(&bytes, id, (delta.time[row], delta.origin[row]), step);
            let part = self.groups.get_mut(&bytes).and_then(|group| group.parts.get_mut(&id));
            if let Some(part) = part {
                part.state.rows += i64::from(delta.weight(row));
                self.shared.add(&mut part.state.accumulators, &inputs, delta, row, step);
            }
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
        let (group, window) = split_at(key).ok_or(Stop::State(self.shared.operator))?;
        self.load(group, step)?;
        let said = self.out.bytes;
        match self.shared.emit {
            Emit::Final => self.say_once(group, window, step),
            _ => {
                if let Some(before) = self.before.remove(&(group.to_vec(), window)) {
                    self.say_change(group, window, before, step);
                }
            }
        }
        self.drop_parts(group, window, step);
        step.weigh_timer(self.out.bytes - said + key.bytes.len());
        Ok(())
    }
}
