//! A span, the part of a shard that lies in one slice:
//! `s | group u16 | stream u64 | shard u16 | base offset u64` -> `slice u32 | time i64`, values little-endian.
//!
//! The span that holds an offset is the last one whose key is not above it. The time is the append time of its first
//! record batch.

use bytes::Bytes;

use crate::ids::{Offset, ShardId, SliceId, TimestampMs};
use crate::keys::shard;
use crate::wire::{Reader, Short};

const TAG: u8 = b's';
const PREFIX_BYTES: usize = 1 + 12;

/// The value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where the records lie.
    pub slice: SliceId,
    /// The append time of the first of them.
    pub time: TimestampMs,
}

/// What all keys of one shard begin with.
pub fn prefix(shard: ShardId) -> Vec<u8> {
    [&[TAG][..], &shard::bytes(shard)].concat()
}

/// What the keys of all shards begin with.
pub fn all() -> Vec<u8> {
    vec![TAG]
}

pub fn key(shard: ShardId, base: Offset) -> Vec<u8> {
    [&[TAG][..], &shard::bytes(shard), &base.0.to_be_bytes()].concat()
}

/// The offset of a key.
pub fn base_offset(key: &[u8]) -> Result<Offset, Short> {
    let offset = key
        .get(PREFIX_BYTES..)
        .and_then(|rest| rest.try_into().ok())
        .ok_or(Short)?;
    Ok(Offset(u64::from_be_bytes(offset)))
}

pub fn encode(span: &Span) -> Vec<u8> {
    [&span.slice.0.to_le_bytes()[..], &span.time.0.to_le_bytes()].concat()
}

pub fn decode(value: Bytes) -> Result<Span, Short> {
    let mut reader = Reader::new(value);
    let span = Span {
        slice: SliceId(reader.u32()?),
        time: TimestampMs(reader.i64()?),
    };
    if reader.is_empty() { Ok(span) } else { Err(Short) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::testing::shard;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_is_offset_order_and_all_comes_back(shard in shard(), a: u64, b: u64, slice: u32, time: i64) {
            prop_assert_eq!(key(shard, Offset(a)).cmp(&key(shard, Offset(b))), a.cmp(&b));
            prop_assert!(key(shard, Offset(a)).starts_with(&prefix(shard)));
            prop_assert_eq!(base_offset(&key(shard, Offset(a))), Ok(Offset(a)));
            let span = Span { slice: SliceId(slice), time: TimestampMs(time) };
            prop_assert_eq!(decode(encode(&span).into()), Ok(span));
        }
    }
}
