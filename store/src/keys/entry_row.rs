//! What one entry appended, so that a slow reader of a group finds it again without the Raft log:
//! `e | group u16 | index u64` -> `time i64`, then for each record batch
//! `stream u64 | shard u16 | base offset u64 | key hashes prefixed | prefix hashes prefixed`, values little-endian. Entries that append nothing have
//! no row.
//!
//! The hashes tell which batches hold a key while its slice is open; [`key_index`](super::key_index) is made of them.

use bytes::Bytes;

use crate::ids::{GroupId, LogIndex, Offset, ShardId, StreamId, TimestampMs};
use crate::key_hashes::KeyHashes;
use crate::wire::{Reader, Short, put_prefixed};

const TAG: u8 = b'e';
/// What a record batch takes at least.
const APPENDED_BYTES_MIN: usize = 8 + 2 + 8 + 1 + 1;

/// The value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow {
    /// The entry's time.
    pub time: TimestampMs,
    /// Its record batches, in order.
    pub appends: Vec<Appended>,
}

/// One record batch of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    pub shard: ShardId,
    pub base: Offset,
    /// Of the keys and topics in it.
    pub keys: KeyHashes,
    /// Of what the topics lie under.
    pub prefixes: KeyHashes,
}

impl Appended {
    /// All hashes it is found by.
    pub fn hashes(&self) -> impl Iterator<Item = u32> + '_ {
        self.keys.iter().chain(self.prefixes.iter())
    }
}

pub fn prefix(group: GroupId) -> Vec<u8> {
    [&[TAG][..], &group.0.to_be_bytes()].concat()
}

/// What the keys of all groups begin with.
pub fn all() -> Vec<u8> {
    vec![TAG]
}

pub fn key(group: GroupId, index: LogIndex) -> Vec<u8> {
    [&[TAG][..], &group.0.to_be_bytes(), &index.0.to_be_bytes()].concat()
}

/// The group of a key.
pub fn group(key: &[u8]) -> Result<GroupId, Short> {
    let group = key.get(1..3).and_then(|group| group.try_into().ok()).ok_or(Short)?;
    Ok(GroupId(u16::from_be_bytes(group)))
}

/// The index of a key.
pub fn index(key: &[u8]) -> Result<LogIndex, Short> {
    let index = key.get(3..).and_then(|rest| rest.try_into().ok()).ok_or(Short)?;
    Ok(LogIndex(u64::from_be_bytes(index)))
}

pub fn encode(row: &EntryRow) -> Vec<u8> {
    let mut value = row.time.0.to_le_bytes().to_vec();
    for Appended {
        shard,
        base,
        keys,
        prefixes,
    } in &row.appends
    {
        value.extend_from_slice(&shard.stream.0.to_le_bytes());
        value.extend_from_slice(&shard.number.to_le_bytes());
        value.extend_from_slice(&base.0.to_le_bytes());
        put_prefixed(&mut value, keys.as_bytes());
        put_prefixed(&mut value, prefixes.as_bytes());
    }
    value
}

pub fn decode(group: GroupId, value: Bytes) -> Result<EntryRow, Short> {
    let mut reader = Reader::new(value);
    let time = TimestampMs(reader.i64()?);
    let mut appends = Vec::with_capacity((reader.remaining() / APPENDED_BYTES_MIN).min(16));
    while !reader.is_empty() {
        let shard = ShardId {
            group,
            stream: StreamId(reader.u64()?),
            number: reader.u16()?,
        };
        appends.push(Appended {
            shard,
            base: Offset(reader.u64()?),
            keys: KeyHashes::decode(reader.prefixed()?)?,
            prefixes: KeyHashes::decode(reader.prefixed()?)?,
        });
    }
    Ok(EntryRow { time, appends })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::testing::shard;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn comes_back(
            time: i64,
            at: u64,
            appends in proptest::collection::vec((shard(), any::<u64>(), any::<[Vec<u32>; 2]>()), 0..5),
        ) {
            let id = GroupId(3);
            let appends = appends.into_iter().map(|(shard, base, [hashes, prefixes])| Appended {
                shard: ShardId { group: id, ..shard },
                base: Offset(base),
                keys: KeyHashes::collect(hashes),
                prefixes: KeyHashes::collect(prefixes),
            });
            let row = EntryRow { time: TimestampMs(time), appends: appends.collect() };
            prop_assert_eq!(decode(id, encode(&row).into()), Ok(row));
            prop_assert_eq!(index(&key(id, LogIndex(at))), Ok(LogIndex(at)));
            prop_assert_eq!(group(&key(id, LogIndex(at))), Ok(id));
        }
    }
}
