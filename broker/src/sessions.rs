//! Sessions that outlive their connections: who owns one, what is kept of it, and how it ends.
//!
//! A session is a few small rows (`rows`) and no queue: its messages are in the log, and its cursors say how far it has
//! taken them (`cursor`, `catch_up`). A connection owns the rows by a compare-and-set of the owner row; all it writes is
//! conditional on that row, so whoever loses the session writes nothing more. A client with a will has rows too, even if
//! its session ends with the connection: the will of a client that was connected when the node was killed is published
//! when the node is back.
//!
//! Sessions that are away end, and wills that wait fire, by timers (`timers`); what they do is written like everything
//! else, and conditional on the owner, so a client that comes back at that moment either finds its session or a new one.

mod received;
mod rows;
mod timers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use bytestring::ByteString;
use headwater_store::{
    Batch, Condition, ControlError, GroupId, LogIndex, Put, ReadError, Store, TimestampMs, WriteError, decode_control,
    encode_control, group_for_topic, tables,
};
use metrics::{Gauge, gauge};

use crate::cursor::Cursor;
use crate::error::PublishError;
use crate::limits::{RACES_MAX, SESSION_PAGE_ROWS, WILL_RETRY_S};
use crate::packet::PacketId;
use crate::publish::{Message, Origin, Publisher};
use crate::session::Subscription;
use crate::share::{Shares, share_key};

use timers::Timers;

pub use received::Receiver;
pub use rows::{Owner, PendingRow, ProgressRow, SourceRow, StreamRow, SubscriptionRow, subscription_key};
use rows::{SessionRow, WillRow, client_key, client_prefix, will_sent_key};

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Another connection owns it.
    #[error("another connection took the session")]
    Lost,
    /// The store refused a write.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store could not read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A row that this version cannot read.
    #[error("a row of the session cannot be read: {0}")]
    Damaged(#[from] ControlError),
}

/// What a CONNECT wants of its session.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Not the session that there may be.
    pub clean_start: bool,
    /// How long it is kept after the connection; 0 is not at all.
    pub expiry_s: u32,
    /// The will, and how long it waits.
    pub will: Option<(Message, u32)>,
    /// Who asks.
    pub username: Option<ByteString>,
}

impl Wish {
    fn keeps_rows(&self) -> bool {
        self.expiry_s > 0 || self.will.is_some()
    }
}

/// The rows of a session, owned by a connection.
#[derive(Debug, Clone)]
pub struct Held {
    /// Whose.
    pub client_id: ByteString,
    /// The group of the rows.
    pub group: GroupId,
    /// Which connection owns them.
    pub owner: Owner,
    expiry_s: u32,
    username: Option<ByteString>,
    will_delay_s: Option<u32>,
    /// Shared with what stores QoS 2 messages: see [`SessionRow::receives`].
    receives: Arc<AtomicBool>,
}

impl Held {
    /// A Batch of this session, void when another connection owns it.
    pub fn batch(&self) -> Batch {
        Batch::new(self.group).when(owned_by(&self.client_id, Some(&self.owner)))
    }

    /// Whether it outlives its connection.
    pub fn is_durable(&self) -> bool {
        self.expiry_s > 0
    }

    fn row(&self, ended_at: Option<TimestampMs>) -> Bytes {
        encode_control(&SessionRow {
            expiry_s: self.expiry_s,
            ended_at,
            receives: self.receives.load(Ordering::SeqCst),
            username: self.username.as_ref().map(ToString::to_string),
        })
    }
}

/// What an earlier connection left.
#[derive(Debug)]
pub struct Restored {
    /// With how far each group was applied when they were made.
    pub subscriptions: Vec<(Subscription, Vec<LogIndex>)>,
    /// By filter.
    pub streams: Vec<(ByteString, StreamRow)>,
    /// Cursors and what is in flight.
    pub progress: ProgressRow,
    /// Packet ids of QoS 2 messages that are stored and not released, and their groups.
    pub received: Vec<(PacketId, GroupId)>,
}

/// A session that was opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// Its rows; None if nothing of it outlives the connection.
    pub held: Option<Held>,
    /// Some if there was one: Session Present.
    pub restored: Option<Restored>,
}

/// How a connection leaves its session.
#[derive(Debug)]
pub struct Ending {
    /// As it was agreed, or changed by DISCONNECT.
    pub expiry_s: u32,
    /// To be saved if the session stays.
    pub progress: ProgressRow,
    /// Rows of subscriptions that are not saved yet.
    pub subscriptions: Vec<Put>,
    /// Whether the will is to be published.
    pub with_will: bool,
}

/// All sessions of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sessions {
    store: Store,
    publisher: Publisher,
    shares: Arc<Shares>,
    timers: Arc<Timers>,
    count: Gauge,
}

/// The rows that belong together.
#[derive(Debug, Default)]
struct Rows {
    session: Option<SessionRow>,
    will: Option<WillRow>,
    progress: Option<ProgressRow>,
    subscriptions: Vec<(Bytes, Bytes)>,
    streams: Vec<(Bytes, Bytes)>,
}

impl Sessions {
    /// The sessions that `publisher`'s store keeps.
    pub fn new(publisher: Publisher, shares: Arc<Shares>) -> Sessions {
        Sessions {
            store: publisher.store().clone(),
            publisher,
            shares,
            timers: Arc::default(),
            count: gauge!("headwater_mqtt_sessions"),
        }
    }

    /// Opens the session of a client for its connection number `connection`: the one there is, or a new one.
    pub async fn open(&self, client_id: &ByteString, connection: u64, wish: &Wish) -> Result<Opened, SessionError> {
        let group = self.group_of(client_id);
        for _ in 0..RACES_MAX {
            let before: Option<Owner> = self.row(group, tables::SESSION_OWNER, client_id).await?;
            if before.is_none() && !wish.keeps_rows() {
                return Ok(Opened::default());
            }
            let held = Held {
                client_id: client_id.clone(),
                group,
                owner: self.next_owner(before, connection),
                expiry_s: wish.expiry_s,
                username: wish.username.clone(),
                will_delay_s: wish.will.as_ref().map(|(_, delay_s)| *delay_s),
                receives: Arc::default(),
            };
            let owner = encode_control(&held.owner);
            let take = Batch::new(group).when(owned_by(client_id, before.as_ref())).put(
                tables::SESSION_OWNER,
                client_key(client_id),
                owner,
            );
            let begin = match before {
                Some(_) => take,
                None => self.add_new(take, &held, wish),
            };
            match self.store.write(begin).await {
                Ok(_) if before.is_some() => return self.take_over(held, wish).await,
                Ok(_) => {
                    self.count.increment(1.0);
                    return Ok(Opened {
                        held: Some(held),
                        restored: None,
                    });
                }
                Err(WriteError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(SessionError::Lost)
    }

    /// Goes on with the rows of an earlier connection, which nobody else writes any more.
    async fn take_over(&self, held: Held, wish: &Wish) -> Result<Opened, SessionError> {
        let rows = self.rows(held.group, &held.client_id).await?;
        let now = self.store.now();
        let row = rows.session.clone().unwrap_or(SessionRow {
            expiry_s: 0,
            ended_at: None,
            receives: false,
            username: None,
        });
        let alive = row.expiry_s > 0 && row.ends_at().is_none_or(|end| end > now);
        let resumed = alive && !wish.clean_start;
        let mut sent = None;
        if let Some(will) = &rows.will {
            // A client that is back before its will's delay is over was not lost [MQTT-3.1.3-9].
            let ended_at = row.ended_at.unwrap_or(now);
            if !resumed || will_is_due(will, ended_at, now) {
                sent = self.publish_will(&held.client_id, row.username.as_deref(), will).await;
            }
        }
        held.receives.store(row.receives && resumed, Ordering::SeqCst);
        let (mut opened, client_id) = (Opened::default(), held.client_id.clone());
        if resumed {
            let mut batch = held
                .batch()
                .put(tables::SESSION, client_key(&held.client_id), held.row(None));
            batch = put_will(batch, &held, wish);
            self.write_owned(batch).await?;
            let received = match row.receives {
                true => received::claim(&self.store, &held.client_id, held.owner).await?,
                false => Vec::new(),
            };
            opened.restored = Some(Restored {
                subscriptions: read_subscriptions(&held.client_id, &rows.subscriptions)?,
                streams: read_streams(&held.client_id, &rows.streams)?,
                progress: rows.progress.unwrap_or_else(|| self.fresh_progress()),
                received,
            });
            opened.held = Some(held);
        } else {
            if row.receives {
                received::forget(&self.store, &held.client_id).await?;
            }
            let batch = delete_rows(held.batch(), &held.client_id, &rows);
            if wish.keeps_rows() {
                self.write_owned(self.add_new(batch, &held, wish)).await?;
                opened.held = Some(held);
            } else {
                self.write_owned(batch.delete(tables::SESSION_OWNER, client_key(&held.client_id)))
                    .await?;
                self.count.decrement(1.0);
            }
            self.leave_shares(&client_id, &rows).await?;
        }
        self.forget_sent(sent).await;
        Ok(opened)
    }

    /// The end of a connection: its session goes, or waits for the client.
    pub async fn close(&self, mut held: Held, ending: Ending) -> Result<(), SessionError> {
        held.expiry_s = ending.expiry_s;
        if !held.is_durable() {
            return self.end(&held, ending.with_will).await;
        }
        let now = self.store.now();
        let key = client_key(&held.client_id);
        let mut batch = held.batch().put(tables::SESSION, key.clone(), held.row(Some(now))).put(
            tables::SESSION_PROGRESS,
            key.clone(),
            encode_control(&ending.progress),
        );
        batch.puts.extend(ending.subscriptions);
        if !ending.with_will && held.will_delay_s.is_some() {
            batch = batch.delete(tables::SESSION_WILL, key);
        }
        self.write_owned(batch).await?;
        // At once where nothing is to be waited for: a successor waits for this.
        if ending.with_will && held.will_delay_s == Some(0) {
            return self.visit(&held.client_id).await;
        }
        let will_at = held
            .will_delay_s
            .filter(|_| ending.with_will)
            .map(|delay_s| later(now, delay_s));
        let ends_at = (held.expiry_s != u32::MAX).then(|| later(now, held.expiry_s));
        for due in will_at.into_iter().chain(ends_at) {
            self.timers.add(due, &held.client_id);
        }
        Ok(())
    }

    /// Ends a session: its will is said if it is to be, and nothing is left.
    async fn end(&self, held: &Held, with_will: bool) -> Result<(), SessionError> {
        let rows = self.rows(held.group, &held.client_id).await?;
        let mut sent = None;
        if let Some(will) = rows.will.as_ref().filter(|_| with_will) {
            let username = rows.session.as_ref().and_then(|row| row.username.as_deref());
            sent = self.publish_will(&held.client_id, username, will).await;
        }
        if rows.session.as_ref().is_some_and(|row| row.receives) {
            received::forget(&self.store, &held.client_id).await?;
        }
        let batch = delete_rows(held.batch(), &held.client_id, &rows);
        let batch = batch.delete(tables::SESSION_OWNER, client_key(&held.client_id));
        self.write_owned(batch).await?;
        self.count.decrement(1.0);
        self.forget_sent(sent).await;
        self.leave_shares(&held.client_id, &rows).await
    }

    /// A session that is gone is a member of nothing.
    async fn leave_shares(&self, client_id: &ByteString, rows: &Rows) -> Result<(), SessionError> {
        for (subscription, _) in read_subscriptions(client_id, &rows.subscriptions)? {
            if subscription.share.is_some() {
                self.shares
                    .forget(&self.store, &share_key(&subscription), client_id)
                    .await?;
            }
        }
        Ok(())
    }

    /// Looks after a session that is away: publishes its will, or ends it, if it is time.
    async fn visit(&self, client_id: &ByteString) -> Result<(), SessionError> {
        let group = self.group_of(client_id);
        let owner: Option<Owner> = self.row(group, tables::SESSION_OWNER, client_id).await?;
        let rows = self.rows(group, client_id).await?;
        let (Some(owner), Some(row)) = (owner, &rows.session) else {
            return Ok(());
        };
        let Some(ended_at) = row.ended_at else { return Ok(()) };
        let now = self.store.now();
        let mut held = Held {
            client_id: client_id.clone(),
            group,
            owner,
            expiry_s: row.expiry_s,
            username: row.username.as_deref().map(ByteString::from),
            will_delay_s: None,
            receives: Arc::new(AtomicBool::new(row.receives)),
        };
        if row.ends_at().is_some_and(|end| end <= now) {
            let before = held.owner;
            held.owner = self.next_owner(Some(before), 0);
            let owner = encode_control(&held.owner);
            let take = Batch::new(group).when(owned_by(client_id, Some(&before))).put(
                tables::SESSION_OWNER,
                client_key(client_id),
                owner,
            );
            self.write_owned(take).await?;
            return self.end(&held, true).await;
        }
        if let Some(will) = rows.will.as_ref().filter(|will| will_is_due(will, ended_at, now)) {
            let sent = self.publish_will(client_id, row.username.as_deref(), will).await;
            match sent {
                Some(_) => {
                    self.write_owned(held.batch().delete(tables::SESSION_WILL, client_key(client_id)))
                        .await?;
                }
                None => self.timers.add(later(now, WILL_RETRY_S), client_id),
            }
            self.forget_sent(sent).await;
        } else if let Some(will) = &rows.will {
            self.timers.add(later(ended_at, will.delay_s), client_id);
        }
        if let Some(end) = row.ends_at() {
            self.timers.add(end, client_id);
        }
        Ok(())
    }

    /// Publishes a will, once however often it is tried: the row that says so is in the message's Batch. Gives where it
    /// is, to be forgotten when the will itself is. None when it could not be published.
    async fn publish_will(
        &self,
        client_id: &ByteString,
        username: Option<&str>,
        will: &WillRow,
    ) -> Option<(GroupId, Bytes)> {
        let key = will_sent_key(client_id, will.epoch);
        let Some(message) = will.message() else {
            tracing::warn!(%client_id, "a will that this version cannot read goes unsaid");
            return Some((self.group_of(client_id), key));
        };
        let sent = (self.group_of(message.topic.as_str()), key.clone());
        let origin = Origin {
            client_id: client_id.clone(),
            username: username.map(ByteString::from),
        };
        let once = |batch: Batch| {
            let condition = Condition::Row {
                table: tables::WILL_SENT,
                key: key.clone(),
                value: None,
            };
            batch.when(condition).put(tables::WILL_SENT, key.clone(), Bytes::new())
        };
        // Not delivered live: subscribers get it from the log like any other, whatever its QoS.
        match self.publisher.publish_with(message.record(&origin, None), once).await {
            Ok(_) | Err(PublishError::Write(WriteError::Conflict)) => Some(sent),
            Err(error) => {
                tracing::warn!(%client_id, topic = %message.topic, %error, "a will was not published");
                None
            }
        }
    }

    async fn forget_sent(&self, sent: Option<(GroupId, Bytes)>) {
        let Some((group, key)) = sent else { return };
        if let Err(error) = self.store.write(Batch::new(group).delete(tables::WILL_SENT, key)).await {
            tracing::debug!(%error, "the mark of a published will stays");
        }
    }

    /// A session that is written for the first time.
    fn add_new(&self, batch: Batch, held: &Held, wish: &Wish) -> Batch {
        let key = client_key(&held.client_id);
        let mut batch = batch.put(tables::SESSION, key.clone(), held.row(None));
        if held.is_durable() {
            let progress = encode_control(&self.fresh_progress());
            batch = batch.put(tables::SESSION_PROGRESS, key, progress);
        }
        put_will(batch, held, wish)
    }

    /// Nothing that is in the log by now.
    fn fresh_progress(&self) -> ProgressRow {
        let cursor = |group| Cursor::new(group, self.store.applied(group).next());
        ProgressRow {
            cursors: self.store.data_groups().map(cursor).collect(),
            pending: Vec::new(),
        }
    }

    async fn write_owned(&self, batch: Batch) -> Result<(), SessionError> {
        match self.store.write(batch).await {
            Ok(_) => Ok(()),
            Err(WriteError::Conflict) => Err(SessionError::Lost),
            Err(error) => Err(error.into()),
        }
    }

    /// Higher than any before it, also than those of a session that is gone without a trace: the boot is in it.
    fn next_owner(&self, before: Option<Owner>, connection: u64) -> Owner {
        let fresh = (self.store.boot().0 << 20).saturating_add(connection);
        Owner {
            epoch: fresh.max(before.map_or(0, |before| before.epoch + 1)),
            node: self.store.node(),
        }
    }

    /// Client ids are placed as topics are.
    fn group_of(&self, text: &str) -> GroupId {
        group_for_topic(text, self.store.data_groups().count() as u16)
    }

    async fn row<T: bincode::Decode<()>>(
        &self,
        group: GroupId,
        table: headwater_store::TableId,
        client_id: &ByteString,
    ) -> Result<Option<T>, SessionError> {
        let (table, key) = (self.store.table(group, table), client_key(client_id));
        let row = self.store.blocking(move || table.get(&key)).await?;
        Ok(row.map(|row| decode_control(&row)).transpose()?)
    }

    async fn rows(&self, group: GroupId, client_id: &ByteString) -> Result<Rows, SessionError> {
        let (store, client_id) = (self.store.clone(), client_id.clone());
        self.store.blocking(move || read_rows(&store, group, &client_id)).await
    }
}

fn read_rows(store: &Store, group: GroupId, client_id: &ByteString) -> Result<Rows, SessionError> {
    fn get<T: bincode::Decode<()>>(table: &headwater_store::Table, key: &[u8]) -> Result<Option<T>, SessionError> {
        Ok(table.get(key)?.map(|row| decode_control(&row)).transpose()?)
    }
    let key = client_key(client_id);
    let all = |table| all_rows(&store.table(group, table), &client_prefix(client_id));
    Ok(Rows {
        session: get(&store.table(group, tables::SESSION), &key)?,
        will: get(&store.table(group, tables::SESSION_WILL), &key)?,
        progress: get(&store.table(group, tables::SESSION_PROGRESS), &key)?,
        subscriptions: all(tables::SESSION_SUBSCRIPTION)?,
        streams: all(tables::SESSION_STREAM)?,
    })
}

/// All rows of one client.
fn all_rows(table: &headwater_store::Table, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, SessionError> {
    let (mut rows, mut from) = (Vec::new(), Vec::new());
    loop {
        let page = table.scan(prefix, &from, SESSION_PAGE_ROWS)?;
        let (count, last) = (page.len(), page.last().map(|(key, _)| key.clone()));
        rows.extend(page);
        match last {
            Some(last) if count == SESSION_PAGE_ROWS => from = last.iter().copied().chain([0]).collect(),
            _ => return Ok(rows),
        }
    }
}

fn read_streams(client_id: &str, rows: &[(Bytes, Bytes)]) -> Result<Vec<(ByteString, StreamRow)>, SessionError> {
    let skip = client_prefix(client_id).len();
    let read = |(key, row): &(Bytes, Bytes)| {
        let filter = std::str::from_utf8(key.get(skip..).unwrap_or_default()).unwrap_or_default();
        Ok((filter.into(), decode_control(row)?))
    };
    rows.iter().map(read).collect()
}

fn read_subscriptions(
    client_id: &str,
    rows: &[(Bytes, Bytes)],
) -> Result<Vec<(Subscription, Vec<LogIndex>)>, SessionError> {
    let skip = client_prefix(client_id).len();
    let read = |(key, row): &(Bytes, Bytes)| {
        let row: SubscriptionRow = decode_control(row)?;
        let filter = std::str::from_utf8(key.get(skip..).unwrap_or_default()).unwrap_or_default();
        let unknown = || ControlError::Damaged(format!("the subscription to `{filter}`"));
        Ok(row.read(filter).ok_or_else(unknown)?)
    };
    rows.iter().map(read).collect()
}

/// Everything but the owner.
fn delete_rows(mut batch: Batch, client_id: &ByteString, rows: &Rows) -> Batch {
    for (key, _) in &rows.subscriptions {
        batch = batch.delete(tables::SESSION_SUBSCRIPTION, key.clone());
    }
    for (key, _) in &rows.streams {
        batch = batch.delete(tables::SESSION_STREAM, key.clone());
    }
    for table in [tables::SESSION, tables::SESSION_PROGRESS, tables::SESSION_WILL] {
        batch = batch.delete(table, client_key(client_id));
    }
    batch
}

fn put_will(batch: Batch, held: &Held, wish: &Wish) -> Batch {
    let key = client_key(&held.client_id);
    match &wish.will {
        Some((will, delay_s)) => {
            let row = encode_control(&WillRow::new(will, *delay_s, held.owner.epoch));
            batch.put(tables::SESSION_WILL, key, row)
        }
        None => batch.delete(tables::SESSION_WILL, key),
    }
}

fn owned_by(client_id: &ByteString, owner: Option<&Owner>) -> Condition {
    Condition::Row {
        table: tables::SESSION_OWNER,
        key: client_key(client_id),
        value: owner.map(encode_control),
    }
}

fn will_is_due(will: &WillRow, ended_at: TimestampMs, now: TimestampMs) -> bool {
    later(ended_at, will.delay_s) <= now
}

fn later(time: TimestampMs, seconds: u32) -> TimestampMs {
    TimestampMs(time.0.saturating_add(i64::from(seconds) * 1000))
}
