//! What a webhook is doing right now, as `GET /connectors` shows it. Kept in memory: it begins anew with each start.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use headwater_store::{Offset, TimestampMs};

use crate::limits::ERROR_CHARS_MAX;

/// The state of one shard's deliveries. In the order in which the worst one is shown for the whole connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// Delivering, or waiting for records.
    Running,
    /// An attempt failed, the next one follows.
    Retrying,
    /// The target may not be connected to; nothing is sent or thrown away.
    Refused,
    /// The store did not take or give what it was asked for; tried again.
    Interrupted,
}

impl State {
    /// The word in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Retrying => "retrying",
            State::Refused => "refused",
            State::Interrupted => "interrupted",
        }
    }
}

/// A copy of everything that is known about a connector.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// By shard number: what it does, and the first offset that is not delivered.
    pub(crate) shards: BTreeMap<u16, (State, Offset)>,
    /// Records that the far side took.
    pub(crate) delivered: u64,
    /// Attempts that it did not take.
    pub(crate) failed_attempts: u64,
    /// Records that went to the dead letter stream.
    pub(crate) dead: u64,
    /// What went wrong last, and when.
    pub(crate) last_error: Option<(String, TimestampMs)>,
}

impl Snapshot {
    /// The worst state of its shards.
    pub(crate) fn state(&self) -> Option<State> {
        self.shards.values().map(|(state, _)| *state).max()
    }
}

/// One connector's status, written by the tasks of its shards.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status(Arc<Mutex<Snapshot>>);

impl Status {
    /// A copy.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.with(|snapshot| snapshot.clone())
    }

    /// What a shard does and how far it is. Returns what it did before.
    pub(crate) fn set(&self, shard: u16, state: State, next: Offset) -> Option<State> {
        self.with(|snapshot| snapshot.shards.insert(shard, (state, next)).map(|(state, _)| state))
    }

    /// The far side took `records`.
    pub(crate) fn delivered(&self, records: u64) {
        self.with(|snapshot| snapshot.delivered += records);
    }

    /// An attempt failed.
    pub(crate) fn failed(&self, reason: &str, now: TimestampMs) {
        self.with(|snapshot| {
            snapshot.failed_attempts += 1;
            snapshot.last_error = Some((shorten(reason), now));
        });
    }

    /// Something else went wrong: nothing was attempted.
    pub(crate) fn error(&self, reason: &str, now: TimestampMs) {
        self.with(|snapshot| snapshot.last_error = Some((shorten(reason), now)));
    }

    /// `records` went to the dead letter stream.
    pub(crate) fn died(&self, records: u64) {
        self.with(|snapshot| snapshot.dead += records);
    }

    fn with<T>(&self, change: impl FnOnce(&mut Snapshot) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn shorten(reason: &str) -> String {
    reason.chars().take(ERROR_CHARS_MAX).collect()
}

/// The status of every connector that runs or ran since the start, by the connector's id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Statuses(Arc<Mutex<HashMap<u64, Status>>>);

impl Statuses {
    /// That connector's, made when there is none.
    pub(crate) fn of(&self, connector: u64) -> Status {
        self.with(|statuses| statuses.entry(connector).or_default().clone())
    }

    /// A copy of that connector's.
    pub(crate) fn snapshot(&self, connector: u64) -> Option<Snapshot> {
        self.with(|statuses| statuses.get(&connector).map(Status::snapshot))
    }

    /// The connector is dropped.
    pub(crate) fn forget(&self, connector: u64) {
        self.with(|statuses| statuses.remove(&connector));
    }

    fn with<T>(&self, change: impl FnOnce(&mut HashMap<u64, Status>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
