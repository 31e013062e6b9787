//! When to look after sessions that are away. A timer is only a reminder: whoever is reminded reads the rows, decides by
//! them, and asks to be reminded again of what is left. So a client needs one reminder, the earliest, however often it
//! comes and goes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::StreamExt;
use futures_util::stream;
use headwater_store::{Batch, GroupId, TimestampMs, decode_control, encode_control, tables};
use tokio::sync::Notify;

use super::rows::{Owner, SessionRow};
use super::{SessionError, Sessions, owned_by};
use crate::limits::{SESSION_PAGE_ROWS, SESSION_VISITS_MAX};

/// One reminder for each client that is away.
#[derive(Debug, Default)]
pub struct Timers {
    due: Mutex<Due>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Due {
    by_time: BTreeSet<(TimestampMs, ByteString)>,
    by_client: HashMap<ByteString, TimestampMs>,
}

impl Timers {
    /// Reminds of a client's session at a time, unless that happens earlier anyway.
    pub fn add(&self, at: TimestampMs, client_id: &ByteString) {
        let mut due = self.lock();
        if let Some(known) = due.by_client.get(client_id).copied() {
            if known <= at {
                return;
            }
            due.by_time.remove(&(known, client_id.clone()));
        }
        due.by_client.insert(client_id.clone(), at);
        due.by_time.insert((at, client_id.clone()));
        drop(due);
        self.added.notify_one();
    }

    /// Those whose time has come.
    fn take_due(&self, now: TimestampMs) -> Vec<ByteString> {
        let mut due = self.lock();
        let mut come = Vec::new();
        while due.by_time.first().is_some_and(|(at, _)| *at <= now) {
            come.extend(due.by_time.pop_first().map(|(_, client_id)| client_id));
        }
        for client_id in &come {
            due.by_client.remove(client_id);
        }
        come
    }

    fn next(&self) -> Option<TimestampMs> {
        self.lock().by_time.first().map(|(at, _)| *at)
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// Looks after sessions when their time comes, for as long as the broker runs.
    pub async fn run(self) {
        loop {
            let due = self.timers.take_due(self.store.now());
            stream::iter(due)
                .for_each_concurrent(SESSION_VISITS_MAX, |client_id| self.remind(client_id))
                .await;
            let now = self.store.now();
            let wait = self
                .timers
                .next()
                .map(|at| Duration::from_millis(at.0.saturating_sub(now.0).max(0) as u64));
            match wait {
                Some(wait) => tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.timers.added.notified() => {}
                },
                None => self.timers.added.notified().await,
            }
        }
    }

    async fn remind(&self, client_id: ByteString) {
        match self.visit(&client_id).await {
            // A client that is back takes its session: then there is nothing to look after.
            Ok(()) | Err(SessionError::Lost) => {}
            Err(error) => tracing::warn!(%client_id, %error, "a session that is away cannot be looked after"),
        }
    }

    /// A node that was killed could not say that its connections ended: they did so at its next start. Sets the timers of
    /// all sessions. Before the first connection.
    pub async fn recover(&self) -> Result<(), SessionError> {
        let mut count = 0;
        for group in self.store.data_groups() {
            let mut from = Vec::new();
            loop {
                let table = self.store.table(group, tables::SESSION);
                let begin = std::mem::take(&mut from);
                let read = move || table.scan(b"", &begin, SESSION_PAGE_ROWS);
                let page = self.store.blocking(read).await?;
                count += page.len();
                if let Some((last, _)) = page.last().filter(|_| page.len() == SESSION_PAGE_ROWS) {
                    from = last.iter().copied().chain([0]).collect();
                }
                stream::iter(page)
                    .for_each_concurrent(SESSION_PAGE_ROWS, |(key, row)| self.recover_one(group, key, row))
                    .await;
                if from.is_empty() {
                    break;
                }
            }
        }
        self.count.set(count as f64);
        Ok(())
    }

    async fn recover_one(&self, group: GroupId, key: Bytes, row: Bytes) {
        let Ok(client_id) = ByteString::try_from(key.clone()) else {
            return;
        };
        let recovered = async {
            let mut row: SessionRow = decode_control(&row)?;
            let now = self.store.now();
            if row.ended_at.is_none() {
                let owner: Option<Owner> = self.row(group, tables::SESSION_OWNER, &client_id).await?;
                row.ended_at = Some(now);
                let batch = Batch::new(group).when(owned_by(&client_id, owner.as_ref()));
                self.write_owned(batch.put(tables::SESSION, key, encode_control(&row)))
                    .await?;
            }
            Ok::<_, SessionError>(())
        };
        if let Err(error) = recovered.await {
            tracing::warn!(%client_id, %error, "a session cannot be looked after");
        }
        // The first visit finds out what there is to wait for.
        self.timers.add(self.store.now(), &client_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reminders_come_in_time_and_only_then() {
        let timers = Timers::default();
        for (at, client_id) in [(5, "b"), (3, "a"), (9, "c")] {
            timers.add(TimestampMs(at), &client_id.into());
        }
        assert_eq!(timers.take_due(TimestampMs(2)), Vec::<ByteString>::new());
        assert_eq!(timers.next(), Some(TimestampMs(3)));
        assert_eq!(timers.take_due(TimestampMs(5)), ["a", "b"]);
        assert_eq!(timers.next(), Some(TimestampMs(9)));
    }

    #[test]
    fn a_client_that_comes_and_goes_has_one_reminder_the_earliest() {
        let timers = Timers::default();
        for at in [7, 5, 9, 6] {
            timers.add(TimestampMs(at), &"a".into());
        }
        assert_eq!(timers.take_due(TimestampMs(5)), ["a"]);
        assert_eq!(timers.next(), None);
        timers.add(TimestampMs(9), &"a".into());
        assert_eq!(timers.next(), Some(TimestampMs(9)), "it can be asked for again");
    }
}
