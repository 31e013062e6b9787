//! A record batch: `r | group u16 | stream u64 | shard u16 | base offset u64` -> the record batch, verbatim.
//!
//! The batch that holds an offset is the last one whose key is not above it.

use crate::ids::{Offset, ShardId};
use crate::wire::Short;

const TAG: u8 = b'r';
const PREFIX_BYTES: usize = 1 + 2 + 8 + 2;

/// What all keys of one shard begin with.
pub fn prefix(shard: ShardId) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_BYTES + 8);
    key.push(TAG);
    key.extend_from_slice(&shard.group.0.to_be_bytes());
    key.extend_from_slice(&shard.stream.0.to_be_bytes());
    key.extend_from_slice(&shard.number.to_be_bytes());
    key
}

pub fn key(shard: ShardId, base: Offset) -> Vec<u8> {
    let mut key = prefix(shard);
    key.extend_from_slice(&base.0.to_be_bytes());
    key
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
        }
    }
}
