//! GROUP BY over sessions: rows of a key that follow each other within the gap.
//!
//! A row alone is a session from its time to its time + gap. Sessions of a key that meet are one, from the first to the
//! last; so a session's start, which is part of its row's key, may move back when a row comes out of order, and the row
//! under the old start goes.
//!
//! ```text
//! sessions   group columns | start                ->  end, timer, accumulators
//! timers     end of a session when it was set + grace + 1 µs | group columns | start
//! ```
//!
//! A row at a session's very end is of it, and rows may yet come that have the watermark's own time: so a session is over
//! when the watermark is beyond its end + grace. It has one timer. When it fires and the session has grown meanwhile, it is set again. A row does not join a
//! session that is over by the row's own frontier, even if that one still waits for its timer: so how input is cut into
//! steps never shows.
//!
//! A row whose own session would be over is late, unless it lies within one that is open. It does not move a session's start
//! back: there may have been one with that start that is over and forgotten, and the two would share a key.

use std::collections::{BTreeMap, HashMap};

use headwater_store::{decode_control, encode_control};

use super::accumulator::Accumulator;
use super::output::{Output, Row};
use super::{ChangedBy, Groups, Inputs, NOBODY, key_at, split_at};
use crate::change::Delta;
use crate::limits::GROUPS_CACHED_MAX;
use crate::operator::window::Late;
use crate::operator::{Operator, Place, Port};
use crate::plan::physical::{Aggregate, Emit, Node, PlanError};
use crate::step::{Key, Step, Stop};
use crate::types::TimestampUs;
use crate::value::Value;

/// The table of sessions.
const SESSIONS: u8 = 0;

#[derive(Debug)]
pub(in crate::operator) struct SessionGroupBy {
    shared: Groups,
    /// Groups seen lately, whole.
    groups: HashMap<Vec<u8>, Group>,
    /// Sessions in memory.
    held: usize,
    /// The sessions that came, changed or went in this step, in the order of that, with the rows they had at its begin.
    dirty: Vec<(Vec<u8>, i64)>,
    before: HashMap<(Vec<u8>, i64), Option<Vec<Value>>>,
    late: Late,
    out: Output,
}

/// All sessions of one key, by their starts.
#[derive(Debug, Default)]
struct Group {
    sessions: BTreeMap<i64, Session>,
    changed_by: Option<ChangedBy>,
}

#[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode)]
struct Session {
    /// The last row's time + gap.
    end: i64,
    /// A timer is set for then, or for an earlier time.
    timer: Option<TimestampUs>,
    accumulators: Vec<Accumulator>,
}

impl SessionGroupBy {
    /// `window` is the operator that says each row's own session.
    pub fn new(
        node: &Node,
        aggregate: &Aggregate,
        window: &Node,
        retracts: bool,
        place: &Place,
    ) -> Result<SessionGroupBy, PlanError> {
        if retracts {
            return Err(PlanError::Invalid("sessions of rows that go again".into()));
        }
        Ok(SessionGroupBy {
            shared: Groups::new(node, aggregate, retracts, place)?,
            groups: HashMap::new(),
            held: 0,
            dirty: Vec::new(),
            before: HashMap::new(),
            late: Late::of(window),
            out: Output::default(),
        })
    }

    /// Brings a key's sessions into memory.
    fn load(&mut self, bytes: &[u8], step: &Step<'_>) -> Result<(), Stop> {
        if self.groups.contains_key(bytes) {
            return Ok(());
        }
        self.shared.check_room(self.groups.len())?;
        let damaged = || Stop::State(self.shared.operator);
        let mut group = Group::default();
        let key = Key::new(bytes.to_vec(), bytes.len());
        for (row, value) in step.rows(SESSIONS, &key)? {
            let (_, start) = split_at(&row).ok_or_else(damaged)?;
            let session: Session = decode_control(&value).map_err(|_| damaged())?;
            if session.accumulators.len() != self.shared.calls.len() {
                return Err(damaged());
            }
            group.sessions.insert(start, session);
        }
        self.held += group.sessions.len();
        self.groups.insert(bytes.to_vec(), group);
        Ok(())
    }

    /// Notes that the session of that start comes, changes or goes in this step.
    fn touch(&mut self, bytes: &[u8], start: i64) {
        let place = (bytes.to_vec(), start);
        if self.shared.emit == Emit::AtEnd || self.before.contains_key(&place) {
            return;
        }
        let speaks = self.shared.emit == Emit::Changes;
        let row = speaks.then(|| self.row(bytes, start)).flatten();
        self.before.insert(place.clone(), row.map(|(row, _)| row));
        self.dirty.push(place);
    }

    /// Takes a row into its session: those that it joins become one.
    fn join(&mut self, bytes: &[u8], inputs: &Inputs, delta: &Delta, row: usize, step: &mut Step<'_>) {
        let (from, to) = self.shared.window_of(delta, row);
        let frontier = delta.frontier[row].0;
        let open = |end: i64| due(end, self.shared.grace_us).0 > frontier;
        let Some(group) = self.groups.get(bytes) else { return };
        let meets = |(start, session): &(&i64, &Session)| **start <= to && session.end >= from && open(session.end);
        let met: Vec<i64> = group.sessions.iter().filter(meets).map(|(start, _)| *start).collect();
        if !open(to) && met.first().is_none_or(|first| *first > from) {
            if group.sessions.is_empty() {
                self.groups.remove(bytes);
            }
            self.late.tell(delta, row, step);
            return;
        }
        let start = met.first().copied().unwrap_or(from).min(from);
        met.iter().chain([&start]).for_each(|start| self.touch(bytes, *start));

        let Some(group) = self.groups.get_mut(bytes) else {
            return;
        };
        let mut joined: Option<Session> = None;
        for at in met {
            let Some(session) = group.sessions.remove(&at) else {
                continue;
            };
            self.held -= 1;
            if at != start {
                // At once: should the key's last session end in this step, what is stored is all that is known of it.
                step.delete(SESSIONS, &key_at(bytes, &[at]));
            }
            match &mut joined {
                None => {
                    // A timer is of one start: that of a later one finds nothing.
                    let timer = session.timer.filter(|_| at == start);
                    joined = Some(Session { timer, ..session });
                }
                Some(joined) => {
                    joined.end = joined.end.max(session.end);
                    self.shared.merge(&mut joined.accumulators, &session.accumulators);
                }
            }
        }
        let mut joined = joined.unwrap_or_else(|| Session {
            end: to,
            timer: None,
            accumulators: self.shared.empty(),
        });
        joined.end = joined.end.max(to);
        self.shared.add(&mut joined.accumulators, inputs, delta, row, step);
        if joined.timer.is_none() && self.shared.emit != Emit::AtEnd {
            let due = due(joined.end, self.shared.grace_us);
            joined.timer = Some(due);
            step.set_timer(due, &key_at(bytes, &[start]));
        }
        group.changed_by = Some((delta.time[row], delta.origin[row]));
        group.sessions.insert(start, joined);
        self.held += 1;
    }

    fn row(&self, bytes: &[u8], start: i64) -> Option<Row> {
        let session = self.groups.get(bytes)?.sessions.get(&start)?;
        Some(
            self.shared
                .row(bytes, Some((start, session.end)), &session.accumulators),
        )
    }

    /// Writes the changed sessions, and says what became of their rows.
    fn speak(&mut self, step: &mut Step<'_>) {
        for (bytes, start) in std::mem::take(&mut self.dirty) {
            // One that ended in this step has spoken already.
            let Some(before) = self.before.remove(&(bytes.clone(), start)) else {
                continue;
            };
            let key = key_at(&bytes, &[start]);
            match self.groups.get(&bytes).and_then(|group| group.sessions.get(&start)) {
                Some(session) => step.put(SESSIONS, &key, encode_control(session)),
                None => step.delete(SESSIONS, &key),
            }
            if self.shared.emit == Emit::Changes {
                let after = self.row(&bytes, start);
                self.out.change(before, after, self.changed_by(&bytes), step);
            }
        }
        if self.shared.groups_max.is_none() && self.held > GROUPS_CACHED_MAX {
            self.groups.clear();
            self.held = 0;
        }
    }

    fn changed_by(&self, bytes: &[u8]) -> ChangedBy {
        self.groups
            .get(bytes)
            .and_then(|group| group.changed_by)
            .unwrap_or(NOBODY)
    }

    fn speak_all(&mut self, step: &mut Step<'_>) {
        let starts = |(bytes, group): (&Vec<u8>, &Group)| -> Vec<(Vec<u8>, i64)> {
            group.sessions.keys().map(|start| (bytes.clone(), *start)).collect()
        };
        let mut all: Vec<_> = self.groups.iter().flat_map(starts).collect();
        all.sort_unstable();
        for (bytes, start) in all {
            if let Some(row) = self.row(&bytes, start) {
                self.out.once(row, self.changed_by(&bytes), step);
            }
        }
    }

    /// A session is over: it speaks for the last time and is forgotten.
    fn end(&mut self, bytes: &[u8], start: i64, step: &mut Step<'_>) {
        let by = self.changed_by(bytes);
        let (last, before) = (self.row(bytes, start), self.before.remove(&(bytes.to_vec(), start)));
        match (self.shared.emit, last, before) {
            (Emit::Final, Some(row), _) => self.out.once(row, by, step),
            // Its last change is of this very step; the row it leaves behind stands for ever.
            (Emit::Changes, last, Some(before)) => self.out.change(before, last, by, step),
            _ => {}
        }
        if let Some(group) = self.groups.get_mut(bytes) {
            self.held -= usize::from(group.sessions.remove(&start).is_some());
            if group.sessions.is_empty() {
                self.groups.remove(bytes);
            }
        }
        step.delete(SESSIONS, &key_at(bytes, &[start]));
    }
}

/// The watermark at which a session of that end is over.
fn due(end: i64, grace_us: i64) -> TimestampUs {
    TimestampUs(end).plus_us(grace_us).plus_us(1)
}

impl Operator for SessionGroupBy {
    fn apply(&mut self, _: Port, delta: &Delta, step: &mut Step<'_>) -> Result<(), Stop> {
        let inputs = self.shared.inputs(delta, step);
        let mut bytes = Vec::new();
        for row in 0..delta.len() {
            bytes.clear();
            inputs.encode_group(row, &mut bytes);
            self.load(&bytes, step)?;
            self.join(&bytes, &inputs, delta, row, step);
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

    fn timer(&mut self, at: TimestampUs, key: &Key, step: &mut Step<'_>) -> Result<(), Stop> {
        let (bytes, start) = split_at(key).ok_or(Stop::State(self.shared.operator))?;
        self.load(bytes, step)?;
        let said = self.out.bytes;
        let group = self.groups.get_mut(bytes);
        let Some(session) = group.and_then(|group| group.sessions.get_mut(&start)) else {
            // It has become a part of another one.
            let empty = |group: &Group| group.sessions.is_empty();
            if self.groups.get(bytes).is_some_and(empty) {
                self.groups.remove(bytes);
            }
            return Ok(());
        };
        let due = due(session.end, self.shared.grace_us);
        if due > at {
            session.timer = Some(due);
            step.set_timer(due, key);
            step.put(SESSIONS, key, encode_control(session));
        } else {
            self.end(bytes, start, step);
        }
        step.weigh_timer(self.out.bytes - said + key.bytes.len());
        Ok(())
    }
}
