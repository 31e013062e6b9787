//! The rows of shares that a durable session is a member of.

use bincode::{Decode, Encode};
use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use headwater_store::{
    Batch, Condition, GroupId, Store, WriteError, decode_control, encode_control, group_for_topic, tables,
};

use crate::cursor::{At, Cursor};
use crate::limits::RACES_MAX;
use crate::sessions::SessionError;

/// How far a share has come.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ShareRow {
    /// What is assigned.
    pub cursors: Vec<Cursor>,
    /// What of it is not acknowledged.
    pub pending: Vec<At>,
}

/// The row of a share, if it has one.
pub async fn load(store: &Store, key: &ByteString) -> Result<Option<ShareRow>, SessionError> {
    let row = get(store, key).await?;
    Ok(row.as_deref().map(decode_control).transpose()?)
}

/// Writes how far a share has come.
pub async fn save(store: &Store, key: &ByteString, row: &ShareRow) -> Result<(), WriteError> {
    let batch = Batch::new(group_of(store, key)).put(tables::SHARE, key.as_bytes().clone(), encode_control(row));
    store.write(batch).await.map(drop)
}

/// A durable session is a member from now on.
pub async fn save_member(store: &Store, key: &ByteString, client_id: &str, row: &ShareRow) -> Result<(), WriteError> {
    let batch = Batch::new(group_of(store, key))
        .put(tables::SHARE_MEMBER, member_key(key, client_id), Bytes::new())
        .put(tables::SHARE, key.as_bytes().clone(), encode_control(row));
    store.write(batch).await.map(drop)
}

/// A durable session is a member no longer; with the last one the share's row goes. Whether it did.
pub async fn forget_member(store: &Store, key: &ByteString, client_id: &str) -> Result<bool, SessionError> {
    let group = group_of(store, key);
    let gone = Batch::new(group).delete(tables::SHARE_MEMBER, member_key(key, client_id));
    store.write(gone).await?;
    for _ in 0..RACES_MAX {
        let row = get(store, key).await?;
        let (members, prefix) = (store.table(group, tables::SHARE_MEMBER), member_key(key, ""));
        let first = store.blocking(move || members.scan(&prefix, &[], 1)).await?;
        if row.is_none() || !first.is_empty() {
            return Ok(row.is_none());
        }
        // Whoever joins meanwhile writes the row too.
        let condition = Condition::Row {
            table: tables::SHARE,
            key: key.as_bytes().clone(),
            value: row,
        };
        let delete = Batch::new(group)
            .when(condition)
            .delete(tables::SHARE, key.as_bytes().clone());
        match store.write(delete).await {
            Ok(_) => return Ok(true),
            Err(WriteError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

async fn get(store: &Store, key: &ByteString) -> Result<Option<Bytes>, SessionError> {
    let (table, key) = (store.table(group_of(store, key), tables::SHARE), key.clone());
    Ok(store.blocking(move || table.get(key.as_bytes())).await?)
}

/// Shares are placed as topics are.
fn group_of(store: &Store, key: &str) -> GroupId {
    group_for_topic(key, store.data_groups().count() as u16)
}

/// A filter has at most 65 535 bytes, so its length fits; the name in front of it shares that bound.
fn member_key(key: &str, client_id: &str) -> Bytes {
    let mut row = BytesMut::with_capacity(key.len() + client_id.len() + 2);
    row.put_u16(key.len() as u16);
    row.put_slice(key.as_bytes());
    row.put_slice(client_id.as_bytes());
    row.freeze()
}
