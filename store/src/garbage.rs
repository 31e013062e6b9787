//! Which rows of a slice nobody can read any more: those of dropped streams, and those before a trim.
//!
//! A merge leaves them out. What is garbage stays garbage, so a crash between the merge and the flush of the trim that
//! caused it does no harm: the trim is in the Raft log, and is applied again before anyone reads.

use std::collections::HashMap;

use bytes::Bytes;

use crate::ids::{GroupId, Offset, ShardId};
use crate::keys::entry_row::{self, Appended};
use crate::keys::shard;
use crate::record_batch::parse_header;

/// What all records of a dropped stream are below.
pub const DROPPED: Offset = Offset(u64::MAX);

/// The first offset of each shard that somebody may still read.
#[derive(Debug, Default)]
pub struct Garbage(HashMap<[u8; 12], Offset>);

impl Garbage {
    /// Records of `shard` before `first` are garbage.
    pub fn add(&mut self, shard: ShardId, first: Offset) {
        self.0.insert(shard::bytes(shard), first);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a merge leaves this row out. A row that it cannot read stays.
    pub fn holds(&self, key: &[u8], value: &[u8]) -> bool {
        match key.first() {
            Some(b'r') => self.holds_record_batch(key, value),
            Some(b'x' | b'k') => self.first(key).is_some_and(|first| first == DROPPED),
            Some(b'e') => self.holds_entry(key, value),
            _ => false,
        }
    }

    fn first(&self, key: &[u8]) -> Option<Offset> {
        self.0.get(key.get(1..13)?).copied()
    }

    fn holds_record_batch(&self, key: &[u8], value: &[u8]) -> bool {
        let Some(first) = self.first(key) else { return false };
        let end = parse_header(value).map(|header| header.base_offset.plus(u64::from(header.count)));
        first == DROPPED || end.is_ok_and(|end| end <= first)
    }

    /// An entry's row goes when all of what it appended does; its batches may still be needed by others.
    fn holds_entry(&self, key: &[u8], value: &[u8]) -> bool {
        let group = key
            .get(1..3)
            .and_then(|group| group.try_into().ok())
            .map(u16::from_be_bytes);
        let Some(group) = group.map(GroupId) else { return false };
        entry_row::decode(group, Bytes::copy_from_slice(value)).is_ok_and(|row| {
            let gone = |appended: &Appended| self.0.get(&shard::bytes(appended.shard)) == Some(&DROPPED);
            !row.appends.is_empty() && row.appends.iter().all(gone)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LogIndex, StreamId, TimestampMs};
    use crate::key_hashes::KeyHashes;
    use crate::keys::{key_index, record_batch, time_index};
    use crate::record::Record;
    use crate::record_batch::{encode_record, seal, set_base_offset};

    fn shard(stream: u64) -> ShardId {
        ShardId {
            group: GroupId(1),
            stream: StreamId(stream),
            number: 0,
        }
    }

    /// Two records from `base` on.
    fn batch(base: u64) -> Vec<u8> {
        let mut body = Vec::new();
        (0..2).for_each(|_| encode_record(&Record::new("x"), &mut body));
        let mut batch = seal(&body, 2, TimestampMs(1));
        set_base_offset(&mut batch, Offset(base)).unwrap();
        batch
    }

    #[test]
    fn a_trim_takes_whole_batches_and_a_drop_takes_all() {
        let mut garbage = Garbage::default();
        garbage.add(shard(1), Offset(4));
        garbage.add(shard(2), DROPPED);
        let gone = |stream, base| garbage.holds(&record_batch::key(shard(stream), Offset(base)), &batch(base));
        assert!(gone(1, 0) && gone(1, 2));
        assert!(!gone(1, 3), "its second record is still read");
        assert!(!gone(1, 4) && gone(2, 1 << 40) && !gone(3, 0));
        let time = |stream| time_index::key(shard(stream), TimestampMs(7));
        assert!(garbage.holds(&time(2), &[]) && !garbage.holds(&time(1), &[]));
        let key = |stream| key_index::key(shard(stream), 7, Offset(0));
        assert!(garbage.holds(&key(2), &[]) && !garbage.holds(&key(1), &[]));
    }

    #[test]
    fn an_entry_goes_when_all_it_appended_was_dropped() {
        let mut garbage = Garbage::default();
        garbage.add(shard(2), DROPPED);
        let key = entry_row::key(GroupId(1), LogIndex(5));
        let row = |streams: &[u64]| {
            let appends = streams.iter().map(|stream| Appended {
                shard: shard(*stream),
                base: Offset(0),
                keys: KeyHashes::collect(vec![7]),
                prefixes: KeyHashes::default(),
            });
            entry_row::encode(&entry_row::EntryRow {
                time: TimestampMs(1),
                appends: appends.collect(),
            })
        };
        assert!(garbage.holds(&key, &row(&[2, 2])));
        assert!(!garbage.holds(&key, &row(&[2, 1])) && !garbage.holds(&key, &row(&[])));
    }
}
