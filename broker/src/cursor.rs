//! Where a session stands in the log: one small cursor for each group, however many streams its filters touch.
//!
//! A cursor names the first entry that is not taken whole and, for that entry, what was taken of each of its shards.
//! Offsets name records for ever, so it does not matter in which order an entry's record batches are read, or whether
//! retention has removed some of them since.

use headwater_store::{GroupId, LogIndex, Offset, ShardId};

/// The place of a committed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, bincode::Encode, bincode::Decode)]
pub struct At {
    /// The entry that committed it.
    pub index: LogIndex,
    /// Its home shard.
    pub shard: ShardId,
    /// Its offset there.
    pub offset: Offset,
}

/// How far a session has taken the messages of one group.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Cursor {
    /// The group.
    pub group: GroupId,
    /// The first entry that is not taken whole.
    pub next: LogIndex,
    /// The next offset of those shards of which something was taken in that entry.
    taken: Vec<(ShardId, Offset)>,
}

impl Cursor {
    /// At the beginning of an entry.
    pub fn new(group: GroupId, next: LogIndex) -> Cursor {
        Cursor {
            group,
            next,
            taken: Vec::new(),
        }
    }

    /// A message was taken. What lies before the cursor is a redelivery and moves nothing.
    pub fn take(&mut self, at: &At) {
        if at.index < self.next {
            return;
        }
        self.skip_to(at.index);
        let next = at.offset.plus(1);
        match self.taken.iter_mut().find(|(shard, _)| *shard == at.shard) {
            Some((_, known)) => *known = next.max(*known),
            None => self.taken.push((at.shard, next)),
        }
    }

    /// Everything before the entry `next` is taken, or nothing of it is wanted.
    pub fn skip_to(&mut self, next: LogIndex) {
        if next > self.next {
            self.next = next;
            self.taken.clear();
        }
    }

    /// Where to go on in a record batch of `shard` that begins at `base`, in the entry `index`.
    pub fn resume_at(&self, index: LogIndex, shard: ShardId, base: Offset) -> Offset {
        let taken = self.taken.iter().find(|(of, _)| index == self.next && *of == shard);
        taken.map_or(base, |(_, next)| base.max(*next))
    }
}

#[cfg(test)]
mod tests {
    use headwater_store::StreamId;

    use super::*;

    fn shard(stream: u64) -> ShardId {
        ShardId {
            group: GroupId(1),
            stream: StreamId(stream),
            number: 0,
        }
    }

    fn at(index: u64, stream: u64, offset: u64) -> At {
        At {
            index: LogIndex(index),
            shard: shard(stream),
            offset: Offset(offset),
        }
    }

    #[test]
    fn an_entry_is_gone_on_with_where_it_was_left_in_each_shard() {
        let mut cursor = Cursor::new(GroupId(1), LogIndex(5));
        cursor.take(&at(7, 2, 30));
        cursor.take(&at(7, 2, 31));
        cursor.take(&at(7, 1, 9));
        assert_eq!(cursor.next, LogIndex(7));
        let resume =
            |cursor: &Cursor, index, stream, base| cursor.resume_at(LogIndex(index), shard(stream), Offset(base)).0;
        assert_eq!(resume(&cursor, 7, 2, 30), 32);
        assert_eq!(resume(&cursor, 7, 1, 9), 10);
        assert_eq!(resume(&cursor, 7, 3, 4), 4, "nothing was taken of it");
        assert_eq!(resume(&cursor, 8, 2, 32), 32, "another entry");
        cursor.take(&at(6, 2, 99));
        assert_eq!(cursor.next, LogIndex(7), "a redelivery moves nothing");
        cursor.skip_to(LogIndex(7));
        assert_eq!(resume(&cursor, 7, 2, 30), 32, "to where it is already");
        cursor.skip_to(LogIndex(8));
        assert_eq!(resume(&cursor, 8, 2, 30), 30);
    }
}
