//! The task of a queue: reads the stream when a consumer has room, hands records out, takes back what is not answered,
//! buries what was handed out too often, and saves how far the queue is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_store::{
    CatalogError, Header, ReadError, Record, ShardId, Store, StoredBatch, StreamOptions, StreamRow, StreamSpec,
    WriteError,
};
use tokio::time::{Instant, sleep_until};

use super::{Given, Job, Queue, rows};
use crate::limits::{QUEUE_PAGE_BYTES, QUEUE_RETRY_MS, QUEUE_SAVE_MS, SHARE_PAUSE_MS};
use crate::listener::Shared;
use crate::replay::placed;
use crate::resend::read_record;

/// What dead letters say of themselves, in user properties.
const DEAD_ID: &str = "queue-id";
const DEAD_TRIES: &str = "queue-tries";
const DEAD_TOPIC: &str = "queue-topic";

/// Why dead letters are not written.
#[derive(Debug, thiserror::Error)]
enum BuryError {
    #[error("cannot make the dead letter stream: {0}")]
    Catalog(#[from] CatalogError),
    #[error("the dead letter stream has no shard in the queue's group")]
    NoShard,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// When each thing that waits for its time is due.
struct Times {
    saved: Instant,
    bury: Instant,
}

/// What to wait for.
struct Wants {
    records: bool,
    wake: Option<Instant>,
}

/// Serves a queue until its last consumer has left and that is saved, or its stream is gone.
pub async fn run(queue: Arc<Queue>, shared: Arc<Shared>) {
    let mut follower = shared.store.follow_from(queue.lock().cursors.clone());
    let mut catalog = shared.store.catalog();
    let mut read = VecDeque::new();
    let mut times = Times {
        saved: Instant::now(),
        bury: Instant::now(),
    };
    loop {
        let full = turn(&queue, &shared, &mut read, &mut times).await;
        let Some(wants) = wants(&queue, &read, &times, full) else {
            if close(&queue, &shared).await {
                return;
            }
            continue;
        };
        tokio::select! {
            () = queue.news.notified() => {}
            () = sleep_until(wants.wake.unwrap_or(times.saved)), if wants.wake.is_some() => {}
            changed = catalog.changed() => {
                let gone = catalog.borrow_and_update().stream_by_id(queue.stream.id).is_none();
                if changed.is_err() || gone {
                    return vanish(&queue, &shared).await;
                }
            }
            found = follower.next(QUEUE_PAGE_BYTES), if wants.records => match found {
                Ok(batches) => read.extend(jobs(&queue.stream.name, batches)),
                Err(ReadError::Stopped) => return,
                Err(error) => {
                    tracing::error!(stream = %queue.stream.name, %error, "a queue cannot read its stream");
                    tokio::time::sleep(Duration::from_millis(QUEUE_RETRY_MS)).await;
                }
            },
        }
    }
}

/// Does what can be done now. True when only full outboxes are in the way of more.
async fn turn(queue: &Arc<Queue>, shared: &Shared, read: &mut VecDeque<Job>, times: &mut Times) -> bool {
    let now = Instant::now();
    let again = queue.take_overdue(now);
    if again > 0 {
        shared.metrics.queue_redelivered.increment(again);
    }
    let full = hand_out(queue, read, now);
    let (dead, moved) = {
        let state = queue.lock();
        (!state.dead.is_empty(), state.moved)
    };
    if dead
        && times.bury <= now
        && let Err(error) = bury(queue, shared).await
    {
        tracing::warn!(stream = %queue.stream.name, %error, "dead letters of a queue cannot be written");
        times.bury = now + Duration::from_millis(QUEUE_RETRY_MS);
    }
    if moved && times.save() <= now {
        save(queue, &shared.store).await;
        times.saved = Instant::now();
    }
    full
}

/// None without consumers.
fn wants(queue: &Queue, read: &VecDeque<Job>, times: &Times, full: bool) -> Option<Wants> {
    let state = queue.lock();
    if state.consumers.is_empty() {
        return None;
    }
    let timers = [
        state.due.front().map(|(due, ..)| *due),
        state.moved.then(|| times.save()),
        (!state.dead.is_empty()).then_some(times.bury),
        full.then(|| Instant::now() + Duration::from_millis(SHARE_PAUSE_MS)),
    ];
    Some(Wants {
        records: read.is_empty() && state.returned.is_empty() && state.has_room(),
        wake: timers.into_iter().flatten().min(),
    })
}

impl Times {
    fn save(&self) -> Instant {
        self.saved + Duration::from_millis(QUEUE_SAVE_MS)
    }
}

type Batches = Vec<(StoredBatch, headwater_store::Offset)>;

/// Records as they are read. A damaged batch ends nothing.
fn jobs(name: &str, batches: Batches) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (batch, from) in batches {
        match batch.records_from(from) {
            Ok(records) => jobs.extend(records.into_iter().filter_map(|(offset, record)| {
                let message = placed(name, batch.shard, offset, record)?;
                Some(Job {
                    at: message.at?,
                    message: message.into(),
                    tries: 0,
                })
            })),
            Err(error) => tracing::error!(%error, "a record batch of a queue is left out"),
        }
    }
    jobs
}

/// Hands out what there is, first of all what was handed out before. True when only full outboxes are in the way.
fn hand_out(queue: &Arc<Queue>, read: &mut VecDeque<Job>, now: Instant) -> bool {
    loop {
        let again = queue.lock().returned.pop_front();
        let first = again.is_none();
        let Some(job) = again.or_else(|| read.pop_front()) else {
            return false;
        };
        let (job, full) = match queue.give(job, now) {
            Given::Taken => continue,
            Given::NoRoom(job) => (job, false),
            Given::OutboxesFull(job) => (job, true),
        };
        match first {
            true => read.push_front(job),
            false => queue.lock().returned.push_front(job),
        }
        return full;
    }
}

async fn save(queue: &Queue, store: &Store) {
    let row = queue.row();
    if let Err(error) = store.write(rows::put(store, &queue.stream, &row)).await {
        queue.lock().moved = true;
        tracing::warn!(stream = %queue.stream.name, %error, "how far a queue has come is not saved");
    }
}

/// The last consumer has left. False when another one came meanwhile.
async fn close(queue: &Arc<Queue>, shared: &Shared) -> bool {
    save(queue, &shared.store).await;
    let mut open = shared.queues.open.lock().await;
    if !queue.lock().consumers.is_empty() {
        return false;
    }
    open.retain(|_, other| !Arc::ptr_eq(other, queue));
    true
}

/// The stream was dropped.
async fn vanish(queue: &Arc<Queue>, shared: &Shared) {
    shared
        .queues
        .open
        .lock()
        .await
        .retain(|_, other| !Arc::ptr_eq(other, queue));
    // Else the next start does it.
    let _ = shared.store.write(rows::delete(&shared.store, &queue.stream)).await;
}

/// Writes dead letters, and the queue's row without them, in one Batch.
async fn bury(queue: &Queue, shared: &Shared) -> Result<(), BuryError> {
    let dead = std::mem::take(&mut queue.lock().dead);
    let count = dead.len() as u64;
    let written = write_dead(queue, &shared.store, &dead).await;
    match written {
        Ok(()) => {
            tracing::warn!(stream = %queue.stream.name, records = count, "given up: now in the dead letter stream");
            shared.metrics.queue_dead.increment(count);
        }
        Err(_) => {
            let mut state = queue.lock();
            state.dead.extend(dead);
            state.moved = true;
        }
    }
    written
}

async fn write_dead(queue: &Queue, store: &Store, dead: &[Job]) -> Result<(), BuryError> {
    let shard = dead_letters(store, &queue.stream).await?;
    let (reader, places) = (store.clone(), dead.iter().map(|job| job.at).collect::<Vec<_>>());
    let read = move || places.iter().map(|at| read_record(&reader, at)).collect();
    let records: Result<Vec<Option<Record>>, ReadError> = store.blocking(read).await;
    let letters = records?.into_iter().zip(dead);
    // One that is not in the stream any more has nobody to mourn it.
    let letters = letters.filter_map(|(record, job)| Some(letter(&queue.stream.name, record?, job)));
    let revision = store.catalog().borrow().route_revision;
    let batch = rows::put(store, &queue.stream, &queue.row())
        .routed(revision)
        .append(shard, letters.collect());
    store.write(batch).await?;
    Ok(())
}

fn letter(name: &str, record: Record, job: &Job) -> Record {
    let id = format!("{name}:{}:{}", job.at.shard.number, job.at.offset);
    let mut headers = record.headers;
    headers.push(Header::User(DEAD_ID.into(), id.into()));
    headers.push(Header::User(DEAD_TRIES.into(), job.tries.to_string().into()));
    if let Some(topic) = &record.topic {
        headers.push(Header::User(DEAD_TOPIC.into(), topic.as_str().into()));
    }
    // Without a topic: a dead letter is not published a second time. Its key still says what it was about.
    let topic_bytes = record
        .topic
        .as_ref()
        .map(|topic| Bytes::copy_from_slice(topic.as_str().as_bytes()));
    Record {
        key: record.key.or(topic_bytes),
        topic: None,
        copy: false,
        change: None,
        headers,
        ..record
    }
}

/// The shard of `<stream>$dead` in the queue's group; the stream is made when it is first needed.
async fn dead_letters(store: &Store, stream: &StreamRow) -> Result<ShardId, BuryError> {
    let name = format!("{}$dead", stream.name);
    let existing = store.catalog().borrow().stream(&name).cloned();
    let row = match existing {
        Some(row) => row,
        None => {
            let spec = StreamSpec {
                options: StreamOptions {
                    format: stream.options.format,
                    ..StreamOptions::default()
                },
                ..StreamSpec::new(name)
            };
            store.create_stream(spec).await?
        }
    };
    let group = rows::group_of(store, stream);
    row.shard_ids()
        .find(|shard| shard.group == group)
        .ok_or(BuryError::NoShard)
}
