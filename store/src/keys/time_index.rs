//! The sparse time index of a shard in one slice: `x | group u16 | stream u64 | shard u16 | time u64` -> `base offset u64`,
//! little-endian. The time is milliseconds since 1970 with the sign bit turned over, so that byte order is time order.
//!
//! A row says: the first record batch of that append time has that base offset. There is one every
//! [`TIME_INDEX_BYTES`](crate::limits::TIME_INDEX_BYTES) of record batches.

use bytes::Bytes;

use crate::ids::{Offset, ShardId, TimestampMs};
use crate::keys::shard;
use crate::wire::{Reader, Short};

const TAG: u8 = b'x';

/// What all keys of one shard begin with.
pub fn prefix(shard: ShardId) -> Vec<u8> {
    [&[TAG][..], &shard::bytes(shard)].concat()
}

pub fn key(shard: ShardId, time: TimestampMs) -> Vec<u8> {
    let time = (time.0 as u64) ^ (1 << 63);
    [&[TAG][..], &shard::bytes(shard), &time.to_be_bytes()].concat()
}

pub fn encode(base: Offset) -> Vec<u8> {
    base.0.to_le_bytes().to_vec()
}

pub fn decode(value: Bytes) -> Result<Offset, Short> {
    let mut reader = Reader::new(value);
    let base = Offset(reader.u64()?);
    if reader.is_empty() { Ok(base) } else { Err(Short) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::testing::shard;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_is_time_order_and_offsets_come_back(shard in shard(), a: i64, b: i64, base: u64) {
            prop_assert_eq!(key(shard, TimestampMs(a)).cmp(&key(shard, TimestampMs(b))), a.cmp(&b));
            prop_assert!(key(shard, TimestampMs(a)).starts_with(&prefix(shard)));
            prop_assert_eq!(decode(encode(Offset(base)).into()), Ok(Offset(base)));
        }
    }
}
