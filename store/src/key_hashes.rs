//! Which keys and topics a record batch holds, as hashes: small enough to stand beside it in the Raft log and in the rows
//! of entries, and all that finding one key's records needs. A reader compares the keys themselves, so a collision costs a
//! look into one batch.
//!
//! A topic has a hash for each level that it lies under as well (`plant/7/temp`: `plant/` and `plant/7/`): so a reader
//! with the filter `plant/7/#` finds its batches as one with an exact filter does (decision 8).

use bytes::Bytes;
use twox_hash::XxHash3_64;

use crate::limits::TOPIC_PREFIXES_MAX;
use crate::topic::{Level, TopicFilter, TopicName};
use crate::wire::Short;

const HASH_BYTES: usize = size_of::<u32>();

/// The hash of a key, or of the topic where there is no key. On disk, so it never changes. Its bits are not those that
/// choose the slot: within one shard they would all be alike.
pub fn key_hash(key: &[u8]) -> u32 {
    (XxHash3_64::oneshot(key) >> 32) as u32
}

/// The hashes of what a topic lies under, each with its `/`: `plant/`, `plant/7/`; at most [`TOPIC_PREFIXES_MAX`].
pub(crate) fn prefix_hashes(topic: &TopicName) -> impl Iterator<Item = u32> {
    let topic = topic.as_str().as_bytes();
    let slashes = topic.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.take(TOPIC_PREFIXES_MAX).map(|(at, _)| key_hash(&topic[..=at]))
}

/// Hashes of which a record batch holds at least one if a topic in it is matched by the filter. None: the filter begins with
/// a wildcard, and any record batch may hold such a topic.
pub fn filter_hashes(filter: &TopicFilter) -> Option<Vec<u32>> {
    let text = filter.as_str().as_bytes();
    if filter.is_exact() {
        return Some(vec![key_hash(text)]);
    }
    let literals = filter
        .levels()
        .iter()
        .take_while(|level| matches!(level, Level::Literal(_)));
    let under = literals.count().min(TOPIC_PREFIXES_MAX);
    let slashes = text.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let (end, _) = slashes.take(under).last()?;
    // `plant/#` matches `plant`, which does not lie under `plant/`.
    let parent = (filter.levels().get(under) == Some(&Level::Multi)).then(|| key_hash(&text[..end]));
    Some([key_hash(&text[..=end])].into_iter().chain(parent).collect())
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

    #[test]
    fn a_filter_asks_for_no_more_than_what_lies_under_its_literals() {
        let hashes = |filter: &str| filter_hashes(&TopicFilter::new(filter.to_owned()).unwrap());
        let of = |texts: &[&str]| Some(texts.iter().map(|text| key_hash(text.as_bytes())).collect::<Vec<u32>>());
        assert_eq!(hashes("plant/7/temp"), of(&["plant/7/temp"]));
        assert_eq!(hashes("plant/7/#"), of(&["plant/7/", "plant/7"]));
        assert_eq!(hashes("plant/+/temp"), of(&["plant/"]));
        assert_eq!(hashes("/#"), of(&["/", ""]));
        assert_eq!((hashes("#"), hashes("+/7")), (None, None));
        assert_eq!(hashes("1/2/3/4/5/6/7/8/9/#"), of(&["1/2/3/4/5/6/7/8/"]));
        let topic = TopicName::new("plant/7/temp").unwrap();
        assert_eq!(Some(prefix_hashes(&topic).collect()), of(&["plant/", "plant/7/"]));
    }

    fn level() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just("")]
    }

    proptest! {
        #[test]
        fn what_a_filter_matches_is_found_by_its_hashes(
            topic in proptest::collection::vec(level(), 1..12),
            filter in proptest::collection::vec(prop_oneof![4 => level(), 1 => Just("+")], 1..12),
            follows in 0_usize..12,
            multi: bool,
        ) {
            // Half of the filters begin as the topic does.
            let begun = topic.iter().take(follows).chain(filter.iter().skip(follows));
            let mut filter: Vec<&str> = begun.copied().collect();
            filter.extend(multi.then_some("#"));
            let (Ok(topic), Ok(filter)) = (TopicName::new(topic.join("/")), TopicFilter::new(filter.join("/"))) else {
                return Ok(());
            };
            let hashes: Vec<u32> = prefix_hashes(&topic).chain([key_hash(topic.as_str().as_bytes())]).collect();
            let wanted = filter_hashes(&filter);
            prop_assert_eq!(wanted.is_none(), !matches!(filter.levels()[0], Level::Literal(_)));
            if filter.matches(&topic) && let Some(wanted) = wanted {
                prop_assert!(wanted.iter().any(|hash| hashes.contains(hash)), "{} {}", filter.as_str(), topic);
            }
        }

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
