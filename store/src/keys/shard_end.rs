//! The next offset of a shard: `o | group u16 | stream u64 | shard u16` -> `u64`, little-endian.

use bytes::Bytes;

use crate::ids::{Offset, ShardId};
use crate::wire::{Reader, Short};

const TAG: u8 = b'o';

pub fn key(shard: ShardId) -> Vec<u8> {
    let mut key = vec![TAG];
    key.extend_from_slice(&shard.group.0.to_be_bytes());
    key.extend_from_slice(&shard.stream.0.to_be_bytes());
    key.extend_from_slice(&shard.number.to_be_bytes());
    key
}

pub fn encode(end: Offset) -> Vec<u8> {
    end.0.to_le_bytes().to_vec()
}

pub fn decode(value: Bytes) -> Result<Offset, Short> {
    let mut reader = Reader::new(value);
    let end = Offset(reader.u64()?);
    if reader.is_empty() { Ok(end) } else { Err(Short) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::testing::shard;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_differ_and_values_come_back(a in shard(), b in shard(), end: u64) {
            prop_assert_eq!(key(a) == key(b), a == b);
            prop_assert_eq!(decode(encode(Offset(end)).into()), Ok(Offset(end)));
        }
    }
}
