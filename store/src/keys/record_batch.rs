//! A record batch: `r | group u16 | stream u64 | shard u16 | base offset u64` -> the record batch, verbatim.
//!
//! The batch that holds an offset is the last one whose key is not above it.

use crate::ids::{GroupId, Offset, ShardId, StreamId};
use crate::keys::shard;
use crate::wire::Short;

const TAG: u8 = b'r';
const PREFIX_BYTES: usize = 1 + 2 + 8 + 2;

/// What the keys of all shards begin with.
pub fn all() -> Vec<u8> {
    vec![TAG]
}

/// What all keys of one shard begin with.
pub fn prefix(shard: ShardId) -> Vec<u8> {
    [&[TAG][..], &shard::bytes(shard)].concat()
}

pub fn key(shard: ShardId, base: Offset) -> Vec<u8> {
    [&[TAG][..], &shard::bytes(shard), &base.0.to_be_bytes()].concat()
}

/// Where the keys of the next shard begin.
pub fn after(shard: ShardId) -> Vec<u8> {
    [&key(shard, Offset(u64::MAX))[..], &[0]].concat()
}

/// The shard of a key.
pub fn shard(key: &[u8]) -> Result<ShardId, Short> {
    let bytes: [u8; 12] = key
        .get(1..PREFIX_BYTES)
        .and_then(|rest| rest.try_into().ok())
        .ok_or(Short)?;
    let [g0, g1, stream @ .., n0, n1] = bytes;
    Ok(ShardId {
        group: GroupId(u16::from_be_bytes([g0, g1])),
        stream: StreamId(u64::from_be_bytes(stream)),
        number: u16::from_be_bytes([n0, n1]),
    })
}

/// The base offset of a key.
pub fn base_offset(key: &[u8]) -> Result<Offset, Short> {
    let offset = key
        .get(PREFIX_BYTES..)
        .and_then(|rest| rest.try_into().ok())
        .ok_or(Short)?;
    Ok(Offset(u64::from_be_bytes(offset)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::testing::shard;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_is_offset_order_and_offsets_come_back(shard in shard(), a: u64, b: u64) {
            prop_assert_eq!(key(shard, Offset(a)).cmp(&key(shard, Offset(b))), a.cmp(&b));
            prop_assert!(key(shard, Offset(a)).starts_with(&prefix(shard)));
            prop_assert_eq!(base_offset(&key(shard, Offset(a))), Ok(Offset(a)));
            prop_assert_eq!(super::shard(&key(shard, Offset(a))), Ok(shard));
        }
    }
}
