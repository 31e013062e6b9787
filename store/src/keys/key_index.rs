//! The key index of a shard in one sealed slice: `k | group u16 | stream u64 | shard u16 | key hash u32 | base offset u64`
//! -> the base offsets of the record batches that hold the key, from that one on: the distance of each to the one before
//! it, as varints. A key may have several rows.

use bytes::Bytes;

use crate::ids::{Offset, ShardId};
use crate::keys::shard;
use crate::wire::{Reader, Short, put_varint};

const TAG: u8 = b'k';
const BASE_AT: usize = 1 + 12 + 4;

/// What all keys of one hash begin with.
pub fn prefix(shard: ShardId, hash: u32) -> Vec<u8> {
    [&[TAG][..], &shard::bytes(shard), &hash.to_be_bytes()].concat()
}

pub fn key(shard: ShardId, hash: u32, first: Offset) -> Vec<u8> {
    [&prefix(shard, hash)[..], &first.0.to_be_bytes()].concat()
}

/// `bases` in ascending order; the first of them is in the key.
pub fn encode(bases: &[Offset]) -> Vec<u8> {
    let mut value = Vec::with_capacity(bases.len() * 2);
    for pair in bases.windows(2) {
        put_varint(&mut value, pair[1].0.wrapping_sub(pair[0].0));
    }
    value
}

/// The bases of a row.
pub fn decode(key: &[u8], value: Bytes) -> Result<Vec<Offset>, Short> {
    let first = key.get(BASE_AT..).and_then(|rest| rest.try_into().ok()).ok_or(Short)?;
    let mut bases = vec![Offset(u64::from_be_bytes(first))];
    let mut reader = Reader::new(value);
    while !reader.is_empty() {
        let last = bases[bases.len() - 1];
        bases.push(Offset(last.0.checked_add(reader.varint()?).ok_or(Short)?));
    }
    Ok(bases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::testing::shard;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn bases_come_back(
            shard in shard(),
            hash: u32,
            bases in proptest::collection::btree_set(any::<u64>().prop_map(Offset), 1..20),
        ) {
            let bases: BTreeSet<Offset> = bases;
            let bases: Vec<Offset> = bases.into_iter().collect();
            let key = key(shard, hash, bases[0]);
            prop_assert!(key.starts_with(&prefix(shard, hash)));
            prop_assert_eq!(decode(&key, encode(&bases).into()), Ok(bases));
        }

        #[test]
        fn noise_never_panics(key: Vec<u8>, value: Vec<u8>) {
            let _ = decode(&key, value.into());
        }
    }
}
