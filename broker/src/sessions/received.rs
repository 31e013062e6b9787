//! QoS 2 messages of clients, exactly once: a message and the row that remembers its packet id are one Batch of the
//! topic's group, and the row goes before PUBCOMP is sent.
//!
//! A connection that has lost its session may still have a message on the way. So each group knows whose messages it
//! takes (`RECEIVED_BY`), and every such Batch is conditional on it. A connection claims all groups before it looks which
//! packet ids they hold: what an older one had on the way is then either seen or refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::try_join_all;
use headwater_store::{
    Batch, Condition, GroupId, Put, ReadError, Store, Table, WriteError, decode_control, encode_control, tables,
};
use tokio::sync::OnceCell;

use super::rows::{Owner, client_key, client_prefix, received_key, received_packet_id};
use super::{Held, SessionError};
use crate::limits::{RACES_MAX, SESSION_PAGE_ROWS};
use crate::packet::PacketId;

/// Remembers, in the log, the packet ids of one client's QoS 2 messages.
#[derive(Debug)]
pub struct Receiver {
    store: Store,
    held: Held,
    /// The group that remembers each id.
    places: HashMap<PacketId, GroupId>,
    ready: Arc<OnceCell<()>>,
}

impl Receiver {
    /// For the session `held`, which remembers `received`.
    pub fn new(store: Store, held: Held, received: &[(PacketId, GroupId)]) -> Receiver {
        let ready = match held.receives.load(Ordering::SeqCst) {
            true => OnceCell::new_with(Some(())),
            false => OnceCell::new(),
        };
        Receiver {
            store,
            held,
            places: received.iter().copied().collect(),
            ready: Arc::new(ready),
        }
    }

    /// Must have succeeded before a Batch with packet ids is submitted. It does something once in a session's life.
    pub fn ready(&self) -> impl Future<Output = Result<(), WriteError>> + Send + use<> {
        let (store, held, ready) = (self.store.clone(), self.held.clone(), self.ready.clone());
        async move { ready.get_or_try_init(|| prepare(store, held)).await.map(drop) }
    }

    /// Remembers `id` with the message that is added to `batch`.
    pub fn remember(&mut self, batch: &mut Batch, id: PacketId) {
        self.places.insert(id, batch.group);
        remember(batch, &self.held.client_id, &self.held.owner, id);
    }

    /// What [`Receiver::remember`] adds, for a Batch that is made anew.
    pub fn remembered(mut batch: Batch, held: &Held, id: PacketId) -> Batch {
        remember(&mut batch, &held.client_id, &held.owner, id);
        batch
    }

    /// The session.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    /// The group that remembers `id`, and does so until [`Receiver::release`] is committed.
    pub fn place(&self, id: PacketId) -> Option<GroupId> {
        self.places.get(&id).copied()
    }

    /// Adds to a Batch of its group that `id` is released.
    pub fn release(&mut self, batch: &mut Batch, id: PacketId) {
        self.places.remove(&id);
        claimed(batch, &self.held.client_id, &self.held.owner);
        batch.puts.push(forgotten(&self.held.client_id, id));
    }
}

fn remember(batch: &mut Batch, client_id: &ByteString, owner: &Owner, id: PacketId) {
    let key = received_key(client_id, id);
    claimed(batch, client_id, owner);
    batch.conditions.push(Condition::Row {
        table: tables::RECEIVED,
        key: key.clone(),
        value: None,
    });
    batch.puts.push(Put {
        table: tables::RECEIVED,
        key,
        value: Some(Bytes::new()),
    });
}

fn forgotten(client_id: &ByteString, id: PacketId) -> Put {
    Put {
        table: tables::RECEIVED,
        key: received_key(client_id, id),
        value: None,
    }
}

/// Makes the Batch conditional on the claim, once: it is always the first condition.
fn claimed(batch: &mut Batch, client_id: &ByteString, owner: &Owner) {
    if batch.conditions.is_empty() {
        batch.conditions.push(Condition::Row {
            table: tables::RECEIVED_BY,
            key: client_key(client_id),
            value: Some(encode_control(owner)),
        });
    }
}

/// The session's first QoS 2 message: from now on whoever opens it looks for packet ids.
async fn prepare(store: Store, held: Held) -> Result<(), WriteError> {
    held.receives.store(true, Ordering::SeqCst);
    let batch = held
        .batch()
        .put(tables::SESSION, client_key(&held.client_id), held.row(None));
    store.write(batch).await?;
    let left_over = match claim(&store, &held.client_id, held.owner).await {
        Ok(found) => found,
        Err(SessionError::Write(error)) => return Err(error),
        Err(SessionError::Lost) => return Err(WriteError::Conflict),
        Err(SessionError::Read(_) | SessionError::Damaged(_)) => {
            return Err(WriteError::Indefinite("the rows of received messages cannot be read"));
        }
    };
    // Of a session before this one, whose end was cut short.
    for (id, group) in left_over {
        let mut batch = Batch::new(group);
        claimed(&mut batch, &held.client_id, &held.owner);
        batch.puts.push(forgotten(&held.client_id, id));
        store.write(batch).await?;
    }
    Ok(())
}

/// Makes `owner` the one whose messages all groups take, and gives the packet ids that they hold, with their groups.
pub async fn claim(
    store: &Store,
    client_id: &ByteString,
    owner: Owner,
) -> Result<Vec<(PacketId, GroupId)>, SessionError> {
    let claims = store
        .data_groups()
        .map(|group| claim_group(store, group, client_id, owner));
    Ok(try_join_all(claims).await?.into_iter().flatten().collect())
}

async fn claim_group(
    store: &Store,
    group: GroupId,
    client_id: &ByteString,
    owner: Owner,
) -> Result<Vec<(PacketId, GroupId)>, SessionError> {
    let key = client_key(client_id);
    for _ in 0..RACES_MAX {
        let (table, wanted) = (store.table(group, tables::RECEIVED_BY), key.clone());
        let row = store.blocking(move || table.get(&wanted)).await?;
        let before: Option<Owner> = row.as_deref().map(decode_control).transpose()?;
        // Never back to an older one: that is how a late claim could let a late message in.
        if before.is_some_and(|before| before > owner) {
            return Err(SessionError::Lost);
        }
        let condition = Condition::Row {
            table: tables::RECEIVED_BY,
            key: key.clone(),
            value: row,
        };
        let batch = Batch::new(group).when(condition);
        match store
            .write(batch.put(tables::RECEIVED_BY, key.clone(), encode_control(&owner)))
            .await
        {
            Ok(_) => {
                let table = store.table(group, tables::RECEIVED);
                let keys = keys(store, table, client_id).await?;
                let ids = keys.iter().filter_map(|key| received_packet_id(key));
                return Ok(ids.map(|id| (id, group)).collect());
            }
            Err(WriteError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(SessionError::Lost)
}

/// Nothing of the client's messages is remembered any more, in any group.
pub async fn forget(store: &Store, client_id: &ByteString) -> Result<(), SessionError> {
    for group in store.data_groups() {
        let mut batch = Batch::new(group).delete(tables::RECEIVED_BY, client_key(client_id));
        for key in keys(store, store.table(group, tables::RECEIVED), client_id).await? {
            batch = batch.delete(tables::RECEIVED, key);
        }
        store.write(batch).await?;
    }
    Ok(())
}

/// At most one for each packet id.
async fn keys(store: &Store, table: Table, client_id: &str) -> Result<Vec<Bytes>, ReadError> {
    let prefix = client_prefix(client_id);
    let read = move || {
        let (mut keys, mut from) = (Vec::<Bytes>::new(), Vec::new());
        loop {
            let page = table.scan(&prefix, &from, SESSION_PAGE_ROWS)?;
            let count = page.len();
            keys.extend(page.into_iter().map(|(key, _)| key));
            match keys.last() {
                Some(last) if count == SESSION_PAGE_ROWS => from = last.iter().copied().chain([0]).collect(),
                _ => return Ok(keys),
            }
        }
    };
    store.blocking(read).await
}
