//! Saving what a session has taken: with each step of QoS 2 and each change of a subscription, before the client is told;
//! for everything else once in a while, because a second delivery of QoS 1 is legal.
//!
//! One save is under way at a time. What comes meanwhile is in the next one, so a busy session shares its fsyncs too.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use headwater_store::{Put, Store, TableId, WriteError, encode_control, tables};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::cursor::{At, Cursor};
use crate::error::End;
use crate::limits::{PROGRESS_IDLE_MS, PROGRESS_SAVE_MS, WRITE_BYTES_HIGH};
use crate::packet::{PacketId, Reason};
use crate::session::{Flight, Session, Source, Subscribed};
use crate::sessions::{Held, PendingRow, ProgressRow, SourceRow, SubscriptionRow, subscription_key};

type Saved = Result<(), WriteError>;

/// How far a session is, and what of it is saved.
pub struct Progress {
    /// By group, from the first data group.
    cursors: Vec<Cursor>,
    /// Some if the session outlives its connection.
    durable: Option<Box<Durable>>,
}

struct Durable {
    held: Arc<Held>,
    store: Store,
    /// Ticks of all connections fall together, so that what they save does.
    started: Instant,
    /// Something moved that is not saved.
    moved: bool,
    /// Rows of subscriptions that are not saved.
    puts: Vec<Put>,
    puts_bytes: usize,
    timer: Pin<Box<Sleep>>,
    saving: Option<Saving>,
}

struct Saving {
    outcome: Pin<Box<dyn Future<Output = Saved> + Send>>,
    /// What the client is told then.
    release: BytesMut,
    /// The client, or a change of its subscriptions, waits for it.
    urgent: bool,
}

impl Progress {
    /// A session that is here.
    pub fn new(cursors: Vec<Cursor>) -> Progress {
        Progress { cursors, durable: None }
    }

    /// It outlives its connection, in the rows of `held`.
    pub fn save_to(&mut self, held: Arc<Held>, store: Store, started: Instant) {
        let timer = Box::pin(sleep_until(next_tick(started, PROGRESS_IDLE_MS)));
        self.durable = Some(Box::new(Durable {
            held,
            store,
            started,
            moved: false,
            puts: Vec::new(),
            puts_bytes: 0,
            timer,
            saving: None,
        }));
    }

    /// By group.
    pub fn cursors(&mut self) -> &mut [Cursor] {
        &mut self.cursors
    }

    /// A message was delivered, or there was a reason not to.
    pub fn take(&mut self, at: &At) {
        if let Some(cursor) = self.cursors.iter_mut().find(|cursor| cursor.group == at.shard.group) {
            cursor.take(at);
        }
        self.moved();
    }

    /// Something in flight was acknowledged, or a cursor moved.
    pub fn moved(&mut self) {
        if let Some(durable) = &mut self.durable
            && !durable.moved
        {
            durable.moved = true;
            let tick = next_tick(durable.started, PROGRESS_SAVE_MS);
            if durable.timer.deadline() > tick {
                durable.timer.as_mut().reset(tick);
            }
        }
    }

    /// A subscription is to be saved.
    pub fn subscribed(&mut self, subscribed: &Subscribed) {
        let row = SubscriptionRow::new(&subscribed.subscription, &subscribed.since);
        self.put(&subscribed.subscription.text(), Some(encode_control(&row)));
    }

    /// One is gone.
    pub fn unsubscribed(&mut self, filter: &str) {
        self.put(filter, None);
    }

    /// How far a stream is replayed is to be saved; None: it is replayed no longer.
    pub fn replayed(&mut self, filter: &str, row: Option<Bytes>) {
        self.put_row(tables::SESSION_STREAM, filter, row);
    }

    fn put(&mut self, filter: &str, value: Option<Bytes>) {
        self.put_row(tables::SESSION_SUBSCRIPTION, filter, value);
    }

    fn put_row(&mut self, table: TableId, filter: &str, value: Option<Bytes>) {
        if let Some(durable) = &mut self.durable {
            let key = subscription_key(&durable.held.client_id, filter);
            durable.puts_bytes += key.len() + 32;
            durable.puts.push(Put { table, key, value });
        }
    }

    /// False while so much waits for a save that nothing more should be taken from the client.
    pub fn has_room(&self) -> bool {
        let Some(durable) = &self.durable else { return true };
        let released = durable.saving.as_ref().map_or(0, |saving| saving.release.len());
        durable.puts_bytes + released < WRITE_BYTES_HIGH
    }

    /// Moves saves on: gives to `ready` what the client may be told, and starts the next save if there is a reason.
    /// `advance` moves cursors over what was not for this session, and says whether it did; `streams` gives the rows of streams
    /// that moved.
    pub fn poll(
        &mut self,
        context: &mut Context<'_>,
        session: &Session,
        waiting: &mut BytesMut,
        ready: &mut BytesMut,
        advance: impl FnOnce(&mut [Cursor]) -> bool,
        streams: impl FnOnce() -> Vec<Put>,
    ) -> Result<bool, End> {
        let Some(durable) = &mut self.durable else {
            return Ok(false);
        };
        let mut moved = durable.poll_saving(context, ready)?;
        if durable.saving.is_some() {
            return Ok(moved);
        }
        let urgent = !waiting.is_empty() || !durable.puts.is_empty();
        let ticked = durable.timer.as_mut().poll(context).is_ready();
        if ticked {
            durable
                .timer
                .as_mut()
                .reset(next_tick(durable.started, PROGRESS_IDLE_MS));
            // The timer was polled to its end; the new deadline has to be polled to wake anyone.
            context.waker().wake_by_ref();
        }
        if !urgent && !ticked {
            return Ok(moved);
        }
        if advance(&mut self.cursors) || durable.moved || urgent {
            let row = progress_row(&self.cursors, session);
            durable.puts.extend(streams());
            durable.start(row, waiting.split(), urgent);
            moved = true;
        }
        Ok(moved)
    }

    /// What to leave behind at the connection's end.
    pub fn row(&self, session: &Session) -> ProgressRow {
        progress_row(&self.cursors, session)
    }

    /// Waits for the save that is under way. Then the rest of the rows, in the Batch that ends the connection.
    pub async fn settle(&mut self) -> Vec<Put> {
        let Some(durable) = &mut self.durable else {
            return Vec::new();
        };
        if let Some(saving) = durable.saving.take() {
            let _ = saving.outcome.await;
        }
        std::mem::take(&mut durable.puts)
    }
}

impl Durable {
    fn poll_saving(&mut self, context: &mut Context<'_>, ready: &mut BytesMut) -> Result<bool, End> {
        let Some(saving) = &mut self.saving else {
            return Ok(false);
        };
        let Poll::Ready(outcome) = saving.outcome.as_mut().poll(context) else {
            return Ok(false);
        };
        let saving = self.saving.take();
        let (release, urgent) = saving.map_or_else(Default::default, |saving| (saving.release, saving.urgent));
        match outcome {
            Ok(()) => ready.unsplit(release),
            Err(WriteError::Conflict) => return Err(End::taken_over()),
            // A tick that could not be saved comes again.
            Err(WriteError::DiskFull { .. }) if !urgent => self.moved = true,
            Err(error) => {
                let reason = match error {
                    WriteError::DiskFull { .. } | WriteError::TooLarge { .. } => Reason::QUOTA_EXCEEDED,
                    _ => Reason::IMPLEMENTATION_SPECIFIC_ERROR,
                };
                return Err(End::server(reason, format!("the session cannot be saved: {error}")));
            }
        }
        Ok(true)
    }

    fn start(&mut self, row: ProgressRow, release: BytesMut, urgent: bool) {
        let key = Bytes::copy_from_slice(self.held.client_id.as_bytes());
        let mut batch = self
            .held
            .batch()
            .put(tables::SESSION_PROGRESS, key, encode_control(&row));
        batch.puts.append(&mut self.puts);
        self.puts_bytes = 0;
        self.moved = false;
        let store = self.store.clone();
        self.saving = Some(Saving {
            outcome: Box::pin(async move { store.write(batch).await.map(drop) }),
            release,
            urgent,
        });
    }
}

fn progress_row(cursors: &[Cursor], session: &Session) -> ProgressRow {
    ProgressRow {
        cursors: cursors.to_vec(),
        pending: session.flights().into_iter().map(pending_row).collect(),
    }
}

fn pending_row((id, flight): (PacketId, &Flight)) -> PendingRow {
    PendingRow {
        packet_id: id.get(),
        source: match &flight.source {
            Source::Log(at) => SourceRow::Log(*at),
            Source::Retained(topic) => SourceRow::Retained(topic.as_str().to_owned()),
        },
        qos: flight.qos,
        retain: flight.retain,
        ids: flight.ids.iter().flat_map(|ids| ids.iter().copied()).collect(),
        released: flight.released,
    }
}

/// The next moment that is a whole number of periods after `started`.
fn next_tick(started: Instant, period_ms: u64) -> Instant {
    let period = Duration::from_millis(period_ms);
    let periods = started.elapsed().as_millis() as u64 / period_ms + 1;
    started + period * u32::try_from(periods).unwrap_or(u32::MAX)
}
