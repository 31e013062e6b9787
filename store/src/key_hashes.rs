//! Which keys a record batch holds, as hashes: small enough to stand beside it in the Raft log and in the rows of
//! entries, and all that finding one key's records needs. A reader compares the keys themselves, so a collision costs a
//! look into one batch.

use bytes::Bytes;
use twox_hash::XxHash3_64;

use crate::wire::Short;

const HASH_BYTES: usize = size_of::<u32>();

/// The hash of a key, or of the topic where there is no key. On disk, so it never changes. Its bits are not those that
/// choose the slot: within one shard they would all be alike.
pub fn key_hash(key: &[u8]) -> u32 {
    (XxHash3_64::oneshot(key) >> 32) as u32
}

/// Distinct hashes in ascending order, each a little-endian u32.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyHashes(Bytes);

impl KeyHashes {
    /// Those of a record batch, in any order and any number of times.
    pub fn collect(mut hashes: Vec<u32>) -> KeyHashes {
        hashes.sort_unstable();
        hashes.dedup();
        KeyHashes(hashes.into_iter().flat_map(u32::to_le_bytes).collect())
    }

    /// Reads what [`KeyHashes::as_bytes`] gave.
    pub fn decode(bytes: Bytes) -> Result<KeyHashes, Short> {
        if bytes.len().is_multiple_of(HASH_BYTES) {
            Ok(KeyHashes(bytes))
        } else {
            Err(Short)
        }
    }

    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (hashes, _) = self.0.as_chunks::<HASH_BYTES>();
        hashes.iter().map(|hash| u32::from_le_bytes(*hash))
    }

    pub fn contains(&self, hash: u32) -> bool {
        let (hashes, _) = self.0.as_chunks::<HASH_BYTES>();
        hashes
            .binary_search_by_key(&hash, |other| u32::from_le_bytes(*other))
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_hash_is_pinned_for_ever() {
        assert_eq!([key_hash(b""), key_hash(b"device-1")], [0x2d06_8005, 0xf0a3_ba59]);
    }

    proptest! {
        #[test]
        fn a_set_of_hashes(hashes: Vec<u32>, other: u32) {
            let set: BTreeSet<u32> = hashes.iter().copied().collect();
            let keys = KeyHashes::collect(hashes);
            prop_assert_eq!(keys.iter().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            prop_assert!(set.iter().all(|hash| keys.contains(*hash)));
            prop_assert_eq!(keys.contains(other), set.contains(&other));
            prop_assert_eq!(KeyHashes::decode(keys.as_bytes().clone()), Ok(keys));
        }
    }
}
