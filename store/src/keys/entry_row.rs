//! What one entry appended, so that a slow reader of a group finds it again without the Raft log:
//! `e | group u16 | index u64` -> `time i64`, then for each record batch `stream u64 | shard u16 | base offset u64`,
//! values little-endian. Entries that append nothing have no row.

use bytes::Bytes;

use crate::ids::{GroupId, LogIndex, Offset, ShardId, StreamId, TimestampMs};
use crate::wire::{Reader, Short};

const TAG: u8 = b'e';

/// The value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow {
    /// The entry's time.
    pub time: TimestampMs,
    /// Its record batches, in order.
    pub appends: Vec<(ShardId, Offset)>,
}

pub fn prefix(group: GroupId) -> Vec<u8> {
    [&[TAG][..], &group.0.to_be_bytes()].concat()
}

pub fn key(group: GroupId, index: LogIndex) -> Vec<u8> {
    [&[TAG][..], &group.0.to_be_bytes(), &index.0.to_be_bytes()].concat()
}

/// The index of a key.
pub fn index(key: &[u8]) -> Result<LogIndex, Short> {
    let index = key.get(3..).and_then(|rest| rest.try_into().ok()).ok_or(Short)?;
    Ok(LogIndex(u64::from_be_bytes(index)))
}

pub fn encode(row: &EntryRow) -> Vec<u8> {
    let mut value = row.time.0.to_le_bytes().to_vec();
    for (shard, base) in &row.appends {
        value.extend_from_slice(&shard.stream.0.to_le_bytes());
        value.extend_from_slice(&shard.number.to_le_bytes());
        value.extend_from_slice(&base.0.to_le_bytes());
    }
    value
}

pub fn decode(group: GroupId, value: Bytes) -> Result<EntryRow, Short> {
    let mut reader = Reader::new(value);
    let time = TimestampMs(reader.i64()?);
    let mut appends = Vec::with_capacity(reader.remaining() / 18);
    while !reader.is_empty() {
        let shard = ShardId {
            group,
            stream: StreamId(reader.u64()?),
            number: reader.u16()?,
        };
        appends.push((shard, Offset(reader.u64()?)));
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
        fn comes_back(time: i64, at: u64, appends in proptest::collection::vec((shard(), any::<u64>()), 0..5)) {
            let group = GroupId(3);
            let appends = appends.into_iter().map(|(shard, base)| (ShardId { group, ..shard }, Offset(base))).collect();
            let row = EntryRow { time: TimestampMs(time), appends };
            prop_assert_eq!(decode(group, encode(&row).into()), Ok(row));
            prop_assert_eq!(index(&key(group, LogIndex(at))), Ok(LogIndex(at)));
        }
    }
}
