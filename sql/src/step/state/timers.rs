//! What waits for its time: by operator and time the keys, which are many where a window closes for all of them at once.
//!
//! A timer that is set and fires within one step was never there: no row is made for it.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;

use super::{Key, TimerKind};
use crate::plan::physical::OperatorId;
use crate::types::TimestampUs;

/// Which operator waits for what, and until when.
pub(super) type When = (OperatorId, TimerKind, TimestampUs);

#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeMap<When, Waiting>,
    /// Set in this step. Some may have fired since.
    fresh: Vec<(When, Key)>,
    count: usize,
}

/// The keys that wait for one time.
#[derive(Debug, Default)]
struct Waiting {
    /// True: it has a row in the store.
    keys: HashMap<Key, bool, RandomState>,
    /// While they fire: those that are left, the next one last. Made anew when another one comes.
    order: Vec<Key>,
}

impl Timers {
    /// One that has a row.
    pub fn restore(&mut self, (operator, kind, at, key): (OperatorId, TimerKind, TimestampUs, Key)) {
        let waiting = self.by_time.entry((operator, kind, at)).or_default();
        waiting.keys.insert(key, true);
        self.count += 1;
    }

    /// Setting one again changes nothing.
    pub fn set(&mut self, when: When, key: &Key) {
        let waiting = self.by_time.entry(when).or_default();
        if waiting.keys.contains_key(key) {
            return;
        }
        waiting.keys.insert(key.clone(), false);
        waiting.order.clear();
        self.fresh.push((when, key.clone()));
        self.count += 1;
    }

    pub fn has(&self, when: When, key: &Key) -> bool {
        let waiting = self.by_time.get(&when);
        waiting.is_some_and(|waiting| waiting.keys.contains_key(key))
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The first time for which the operator has a timer that is due.
    pub fn due(&self, operator: OperatorId, kind: TimerKind, time: TimestampUs) -> Option<TimestampUs> {
        let from = (operator, kind, TimestampUs::MIN);
        let ((found, of_kind, at), _) = self.by_time.range(from..).next()?;
        (*found == operator && *of_kind == kind && *at <= time).then_some(*at)
    }

    /// Takes the first one that is due, by time and then by key. Beside it whether it has a row.
    pub fn take_due(
        &mut self,
        operator: OperatorId,
        kind: TimerKind,
        time: TimestampUs,
    ) -> Option<(TimestampUs, Key, bool)> {
        let at = self.due(operator, kind, time)?;
        let waiting = self.by_time.get_mut(&(operator, kind, at))?;
        if waiting.order.is_empty() {
            waiting.order.extend(waiting.keys.keys().cloned());
            waiting.order.sort_unstable_by(|a, b| b.cmp(a));
        }
        let key = waiting.order.pop()?;
        let stored = waiting.keys.remove(&key)?;
        if waiting.keys.is_empty() {
            self.by_time.remove(&(operator, kind, at));
        }
        self.count -= 1;
        Some((at, key, stored))
    }

    /// Ends the step: those that were set in it and still wait. From now on they have a row.
    pub fn take_fresh(&mut self) -> impl Iterator<Item = (When, Key)> + use<> {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.retain(|(when, key)| {
            let waiting = self.by_time.get_mut(when);
            let stored = waiting.and_then(|waiting| waiting.keys.get_mut(key));
            stored.is_some_and(|stored| !std::mem::replace(stored, true))
        });
        fresh.into_iter()
    }
}
