//! Where a shard stands: `o | group u16 | stream u64 | shard u16` -> `end u64 | first u64 | slice u32`, values
//! little-endian. A shard without a row has no records; one whose stream was dropped has none any more.

use bytes::Bytes;

use crate::ids::{Offset, ShardId, SliceId};
use crate::wire::{Reader, Short};

const TAG: u8 = b'o';

/// The value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardRow {
    /// The offset after the last record.
    pub end: Offset,
    /// What was trimmed lies before it.
    pub first: Offset,
    /// The slice of its last record batch.
    pub slice: SliceId,
}

/// `group | stream | shard`, big-endian: how every key of a shard goes on after its tag.
pub fn bytes(shard: ShardId) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..2].copy_from_slice(&shard.group.0.to_be_bytes());
    bytes[2..10].copy_from_slice(&shard.stream.0.to_be_bytes());
    bytes[10..].copy_from_slice(&shard.number.to_be_bytes());
    bytes
}

pub fn key(shard: ShardId) -> Vec<u8> {
    [&[TAG][..], &bytes(shard)].concat()
}

pub fn encode(row: &ShardRow) -> Vec<u8> {
    let mut value = Vec::with_capacity(20);
    value.extend_from_slice(&row.end.0.to_le_bytes());
    value.extend_from_slice(&row.first.0.to_le_bytes());
    value.extend_from_slice(&row.slice.0.to_le_bytes());
    value
}

pub fn decode(value: Bytes) -> Result<ShardRow, Short> {
    let mut reader = Reader::new(value);
    let row = ShardRow {
        end: Offset(reader.u64()?),
        first: Offset(reader.u64()?),
        slice: SliceId(reader.u32()?),
    };
    if reader.is_empty() { Ok(row) } else { Err(Short) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::testing::shard;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_differ_and_values_come_back(a in shard(), b in shard(), end: u64, first: u64, slice: u32) {
            prop_assert_eq!(key(a) == key(b), a == b);
            let row = ShardRow { end: Offset(end), first: Offset(first), slice: SliceId(slice) };
            prop_assert_eq!(decode(encode(&row).into()), Ok(row));
            prop_assert_eq!(decode(encode(&row)[1..].to_vec().into()), Err(Short));
        }
    }
}
