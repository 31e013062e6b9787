//! The deliveries of one shard: read from the cursor, send in order, move the cursor.
//!
//! At least once: the cursor moves after the far side has answered, and it is saved a moment later
//! ([`WEBHOOK_CURSOR_SAVE`]) or as soon as nothing more waits, so a crash repeats at most that moment. A record that
//! cannot be delivered goes to the dead letter stream and the cursor passes it in ONE Batch: never lost, never twice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_config::WebhookConfig;
use headwater_store::{
    Batch, CatalogError, Condition, ConnectorRow, Follower, Header, Offset, Position, ReadError, Record, ShardId,
    Store, StreamOptions, StreamRow, StreamSpec, TimestampMs, WriteError, tables,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits::{WEBHOOK_CURSOR_SAVE, WEBHOOK_READ_BYTES};
use crate::metrics;
use crate::webhook::cursor;
use crate::webhook::message::Message;
use crate::webhook::options::WebhookOptions;
use crate::webhook::retry::pause;
use crate::webhook::sender::{Outcome, Sender};
use crate::webhook::status::{State, Status};
use crate::webhook::target::Allowed;

/// Everything the deliveries of one shard need.
pub(crate) struct Delivery {
    pub(crate) store: Store,
    pub(crate) config: WebhookConfig,
    pub(crate) connector: Arc<ConnectorRow>,
    pub(crate) stream: Arc<StreamRow>,
    pub(crate) shard: ShardId,
    pub(crate) options: WebhookOptions,
    pub(crate) allowed: Allowed,
    pub(crate) status: Status,
    pub(crate) stop: CancellationToken,
}

/// The last error of a connector that a 410 has stopped.
const GONE: &str = "the far side answered 410 Gone; RESUME CONNECTOR starts it again";

/// Why deliveries ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Asked to.
    Stopped,
    /// The far side answered 410.
    Gone,
}

/// Why deliveries were interrupted; they begin again from the saved cursor.
#[derive(Debug, thiserror::Error)]
enum Interruption {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("cannot make the dead letter stream: {0}")]
    DeadLetters(#[from] CatalogError),
    #[error("the cursor was written by another version, or is damaged")]
    Cursor,
}

/// What became of one message.
enum Fate {
    Delivered,
    Dead { reason: String, attempts: u32 },
    Ended(End),
}

impl Delivery {
    /// Delivers until it is stopped or the far side is gone.
    pub(crate) async fn run(self) -> End {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let interruption = match self.deliver_all().await {
                Ok(end) => return end,
                Err(interruption) => interruption,
            };
            if begun.elapsed() > self.config.retry_max.duration() {
                failures = 0;
            }
            failures += 1;
            tracing::warn!(connector = self.connector.name, shard = %self.shard, error = %interruption, "webhook interrupted");
            self.status.error(&interruption.to_string(), self.store.now());
            let next = self
                .status
                .snapshot()
                .shards
                .get(&self.shard.number)
                .map_or(Offset(0), |(_, next)| *next);
            self.status.set(self.shard.number, State::Interrupted, next);
            if self.sleep(failures, None).await {
                return End::Stopped;
            }
        }
    }

    async fn deliver_all(&self) -> Result<End, Interruption> {
        let mut leadership = self.store.leadership(self.shard.group);
        tokio::select! {
            led = leadership.wait_for(|now| now.leading) => drop(led.map_err(|_| ReadError::Stopped)?),
            () = self.stop.cancelled() => return Ok(End::Stopped),
        }
        let mut cursor = self.load().await?;
        let mut sender = Sender::new(
            self.options.clone(),
            self.allowed.clone(),
            self.config.timeout.duration(),
        );
        let mut follower = self.store.follow_from(vec![(self.shard, cursor.next)]);
        self.status.set(self.shard.number, State::Running, cursor.next);
        loop {
            let Some(mut records) = self.records(&mut follower, &mut cursor).await? else {
                return Ok(End::Stopped);
            };
            let read_to = records.last().map_or(cursor.next, |(last, _)| last.plus(1));
            // ADVANCE WATERMARK speaks to queries.
            records.retain(|(_, record)| record.watermark_us().is_none());
            for chunk in records.chunks(self.options.batch.unwrap_or(1)) {
                match self.deliver(&mut sender, chunk, cursor.next).await {
                    Fate::Delivered => cursor.next = after(chunk),
                    Fate::Dead { reason, attempts } => self.bury(chunk, &reason, attempts, &mut cursor).await?,
                    Fate::Ended(end) => {
                        self.save(&mut cursor).await?;
                        return Ok(end);
                    }
                }
                self.status.set(self.shard.number, State::Running, cursor.next);
                if cursor.saved_at.elapsed() >= WEBHOOK_CURSOR_SAVE {
                    self.save(&mut cursor).await?;
                }
            }
            cursor.next = cursor.next.max(read_to);
            self.status.set(self.shard.number, State::Running, cursor.next);
        }
    }

    /// The next records; waits for some, with the cursor saved. None: stopped.
    async fn records(
        &self,
        follower: &mut Follower,
        cursor: &mut Cursor,
    ) -> Result<Option<Vec<(Offset, Record)>>, Interruption> {
        let read = match follower.poll(WEBHOOK_READ_BYTES).await {
            Ok(found) if found.is_empty() => {
                self.save(cursor).await?;
                tokio::select! {
                    found = follower.next(WEBHOOK_READ_BYTES) => found,
                    () = self.stop.cancelled() => return Ok(None),
                }
            }
            read => read,
        };
        let batches = match read {
            Ok(batches) => batches,
            // Retention was faster than the far side. What is gone is gone; the status says so.
            Err(ReadError::Trimmed { first, asked, .. }) => {
                let lost = format!("records {asked} to {first} were trimmed before they could be delivered");
                tracing::warn!(connector = self.connector.name, shard = %self.shard, "{lost}");
                self.status.error(&lost, self.store.now());
                cursor.next = first;
                *follower = self.store.follow_from(vec![(self.shard, first)]);
                return Ok(Some(Vec::new()));
            }
            Err(error) => return Err(error.into()),
        };
        let mut records = Vec::new();
        for (batch, from) in batches {
            records.extend(batch.records_from(from)?);
        }
        Ok(Some(records))
    }

    /// Sends one message until the far side takes it, or attempts run out.
    async fn deliver(&self, sender: &mut Sender, chunk: &[(Offset, Record)], next: Offset) -> Fate {
        let message = match (self.options.batch, chunk) {
            (None, [(offset, record), ..]) => Message::single(&self.stream.name, self.shard, *offset, record),
            _ => Message::batch(&self.stream.name, self.shard, chunk),
        };
        let name = self.connector.name.as_str();
        let mut failures = 0;
        loop {
            if self.stop.is_cancelled() {
                return Fate::Ended(End::Stopped);
            }
            let begun = Instant::now();
            let outcome = sender.attempt(&message).await;
            let (reason, asked) = match outcome {
                Outcome::Delivered => {
                    metrics::webhook_attempt(name, "delivered", begun.elapsed());
                    metrics::webhook_delivered(name, chunk.len() as u64);
                    self.status.delivered(chunk.len() as u64);
                    return Fate::Delivered;
                }
                Outcome::Gone => {
                    metrics::webhook_attempt(name, "gone", begun.elapsed());
                    self.status.failed(GONE, self.store.now());
                    return Fate::Ended(End::Gone);
                }
                Outcome::Refused(reason) => {
                    metrics::webhook_attempt(name, "refused", begun.elapsed());
                    self.status.error(&reason, self.store.now());
                    self.note(State::Refused, next, &message.id, &reason);
                    // Not the far side's fault: the record waits for the configuration, however long that takes.
                    if self.rest(self.config.retry_max.duration()).await {
                        return Fate::Ended(End::Stopped);
                    }
                    continue;
                }
                Outcome::Failed { reason, retry_after } => (reason, retry_after),
            };
            metrics::webhook_attempt(name, "failed", begun.elapsed());
            failures += 1;
            self.status.failed(&reason, self.store.now());
            self.note(State::Retrying, next, &message.id, &reason);
            if failures >= self.config.attempts_max {
                return Fate::Dead {
                    reason,
                    attempts: failures,
                };
            }
            if self.sleep(failures, asked).await {
                return Fate::Ended(End::Stopped);
            }
        }
    }

    /// Sets the state; the first failure after a success is worth a line, the ones after it are not.
    fn note(&self, state: State, next: Offset, id: &str, reason: &str) {
        if self.status.set(self.shard.number, state, next) == Some(state) {
            tracing::debug!(
                connector = self.connector.name,
                id,
                reason,
                "webhook attempt failed again"
            );
        } else {
            tracing::warn!(
                connector = self.connector.name,
                id,
                reason,
                "webhook attempt failed, will try again"
            );
        }
    }

    /// Pauses; true when it was stopped meanwhile.
    async fn sleep(&self, failures: u32, asked: Option<Duration>) -> bool {
        let (min, max) = (self.config.retry_min.duration(), self.config.retry_max.duration());
        self.rest(pause(failures, min, max, asked, fastrand::f64())).await
    }

    async fn rest(&self, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => false,
            () = self.stop.cancelled() => true,
        }
    }

    /// Moves records to the dead letter stream, and the cursor past them, at once.
    async fn bury(
        &self,
        chunk: &[(Offset, Record)],
        reason: &str,
        attempts: u32,
        cursor: &mut Cursor,
    ) -> Result<(), Interruption> {
        let stream = self.dead_letters().await?;
        // A stream placed by topic has a shard in every group, so this one is in the cursor's own.
        let Some(shard) = stream.shard_ids().find(|shard| shard.group == self.shard.group) else {
            let reason = format!("stream `{}` has no shard in group {}", stream.name, self.shard.group);
            return Err(CatalogError::NotAllowed(reason).into());
        };
        let records = chunk
            .iter()
            .map(|(offset, record)| self.dead(*offset, record, reason, attempts))
            .collect();
        let revision = self.store.catalog().borrow().route_revision;
        let batch = Batch::new(self.shard.group).routed(revision).append(shard, records);
        self.move_cursor(cursor, after(chunk), batch).await?;
        tracing::warn!(connector = self.connector.name, shard = %self.shard, records = chunk.len(), reason, "webhook gave up");
        metrics::webhook_dead(&self.connector.name, chunk.len() as u64);
        self.status.died(chunk.len() as u64);
        Ok(())
    }

    fn dead(&self, offset: Offset, record: &Record, reason: &str, attempts: u32) -> Record {
        let id = format!("{}:{}:{offset}", self.stream.name, self.shard.number);
        let mut headers = record.headers.clone();
        headers.push(Header::User("webhook-id".into(), id.into()));
        headers.push(Header::User("webhook-error".into(), reason.into()));
        headers.push(Header::User("webhook-attempts".into(), attempts.to_string().into()));
        // Without a topic: a dead letter is not published a second time.
        Record {
            topic: None,
            copy: false,
            headers,
            ..record.clone()
        }
    }

    async fn dead_letters(&self) -> Result<Arc<StreamRow>, Interruption> {
        let name = format!("{}$dead", self.connector.name);
        let existing = self.store.catalog().borrow().stream(&name).cloned();
        if let Some(stream) = existing {
            return Ok(stream);
        }
        let spec = StreamSpec {
            options: StreamOptions {
                format: self.stream.options.format,
                ..StreamOptions::default()
            },
            ..StreamSpec::new(name)
        };
        Ok(self.store.create_stream(spec).await?)
    }

    /// The saved cursor; on the very first start, the records appended since the connector was made.
    async fn load(&self) -> Result<Cursor, Interruption> {
        let key = cursor::key(self.connector.id, self.shard);
        let table = self.store.table(self.shard.group, tables::CONNECTOR_CURSOR);
        let row = self
            .store
            .blocking({
                let key = key.clone();
                move || table.get(&key)
            })
            .await?;
        if let Some(row) = row {
            let next = cursor::decode(&row).ok_or(Interruption::Cursor)?;
            return Ok(Cursor {
                key,
                row: Some(row),
                next,
                saved_at: Instant::now(),
            });
        }
        // LATEST, as of CREATE: what is appended between that and this moment must not be missed.
        let from = Position::Timestamp(TimestampMs(self.connector.created_at_ms));
        let resolved = self.store.resolve(vec![self.shard], from).await?;
        let next = resolved.first().map_or(Offset(0), |(_, next)| *next);
        let mut cursor = Cursor {
            key,
            row: None,
            next,
            saved_at: Instant::now(),
        };
        self.move_cursor(&mut cursor, next, Batch::new(self.shard.group))
            .await?;
        Ok(cursor)
    }

    /// Saves the cursor if it has moved.
    async fn save(&self, cursor: &mut Cursor) -> Result<(), Interruption> {
        cursor.saved_at = Instant::now();
        if cursor.row.as_deref() == Some(&cursor::encode(cursor.next)) {
            return Ok(());
        }
        self.move_cursor(cursor, cursor.next, Batch::new(self.shard.group))
            .await
    }

    /// Commits `batch` and the new cursor, provided that nobody else has moved it.
    async fn move_cursor(&self, cursor: &mut Cursor, next: Offset, batch: Batch) -> Result<(), Interruption> {
        let (table, row) = (tables::CONNECTOR_CURSOR, cursor::encode(next));
        let expected = Condition::Row {
            table,
            key: cursor.key.clone(),
            value: cursor.row.clone(),
        };
        self.store
            .write(batch.when(expected).put(table, cursor.key.clone(), row.clone()))
            .await?;
        cursor.row = Some(row);
        cursor.next = next;
        Ok(())
    }
}

/// How far the deliveries of a shard are.
struct Cursor {
    key: Bytes,
    /// As it is stored.
    row: Option<Bytes>,
    /// As it is by now.
    next: Offset,
    saved_at: Instant,
}

fn after(chunk: &[(Offset, Record)]) -> Offset {
    chunk.last().map_or(Offset(0), |(last, _)| last.plus(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_stands_after_the_last_record() {
        assert_eq!(
            after(&[(Offset(4), Record::default()), (Offset(9), Record::default())]),
            Offset(10)
        );
    }
}
