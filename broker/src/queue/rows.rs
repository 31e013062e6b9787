//! The rows of queues: one for each stream that is or was consumed, in the group of the stream's name.
//!
//! ```text
//! QUEUE   stream id u64   ->  the next offset of each shard, what is out and its tries
//! ```

use bincode::{Decode, Encode};
use bytes::Bytes;
use headwater_store::{
    Batch, GroupId, Offset, ShardId, Store, StreamId, StreamRow, decode_control, encode_control, group_for_topic,
    tables,
};

use crate::cursor::At;
use crate::limits::SESSION_PAGE_ROWS;
use crate::sessions::SessionError;

/// How far a queue has come.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct QueueRow {
    /// What is before has been handed out once.
    pub cursors: Vec<(ShardId, Offset)>,
    /// What of it is not acknowledged.
    pub pending: Vec<PendingRow>,
}

/// A record that is not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PendingRow {
    pub at: At,
    /// How often it was handed out.
    pub tries: u32,
}

/// The row of a stream's queue, if there is one.
pub async fn load(store: &Store, stream: &StreamRow) -> Result<Option<QueueRow>, SessionError> {
    let (table, key) = (store.table(group_of(store, stream), tables::QUEUE), key(stream.id));
    let row = store.blocking(move || table.get(&key)).await?;
    Ok(row.as_deref().map(decode_control).transpose()?)
}

/// Writes it.
pub fn put(store: &Store, stream: &StreamRow, row: &QueueRow) -> Batch {
    Batch::new(group_of(store, stream)).put(tables::QUEUE, key(stream.id), encode_control(row))
}

/// Takes it away.
pub fn delete(store: &Store, stream: &StreamRow) -> Batch {
    Batch::new(group_of(store, stream)).delete(tables::QUEUE, key(stream.id))
}

/// Takes away the queues of streams that were dropped while nobody consumed them.
pub async fn recover(store: &Store) -> Result<(), SessionError> {
    for group in store.data_groups() {
        let mut from = Vec::new();
        loop {
            let table = store.table(group, tables::QUEUE);
            let page = store
                .blocking(move || table.scan(&[], &from, SESSION_PAGE_ROWS))
                .await?;
            let mut batch = Batch::new(group);
            for (key, _) in &page {
                let id = key.first_chunk::<8>().map(|id| StreamId(u64::from_be_bytes(*id)));
                if id.is_none_or(|id| store.catalog().borrow().stream_by_id(id).is_none()) {
                    batch = batch.delete(tables::QUEUE, key.clone());
                }
            }
            if !batch.puts.is_empty() {
                store.write(batch).await?;
            }
            match page.last() {
                Some((key, _)) if page.len() == SESSION_PAGE_ROWS => from = key.iter().copied().chain([0]).collect(),
                _ => break,
            }
        }
    }
    Ok(())
}

/// Queues are placed as a topic of their stream's name is. A dead letter stream has a shard in each group.
pub fn group_of(store: &Store, stream: &StreamRow) -> GroupId {
    group_for_topic(&stream.name, store.data_groups().count() as u16)
}

fn key(id: StreamId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}
