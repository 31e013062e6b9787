//! The keys of RocksDB. Each persisted kind has its file, with the layout, `key`, its inverse and a round-trip test.
//!
//! All integers in keys are big-endian, so that byte order is number order. Every key begins with a tag that says its
//! kind, then (but for slices, which are the node's) the group: what one group wrote is never mixed with another's.
//!
//! | tag | kind | family | value |
//! |---|---|---|---|
//! | `a` | [`applied`]: how far a group is applied | state | index, term, time |
//! | `o` | [`shard`]: where a shard stands | state | its end, its first offset, its last slice |
//! | `t` | [`table_row`]: a row of a table | state | the row |
//! | `l` | [`slice`]: a slice of this node | state | class, state, times |
//! | `s` | [`span`]: the part of a shard that lies in one slice | state | slice, time |
//! | `r` | [`record_batch`]: a record batch by its base offset | slice | the record batch, verbatim |
//! | `x` | [`time_index`]: the first record batch of a time | slice | base offset |
//! | `e` | [`entry_row`]: what one entry appended to this slice | slice | shards, base offsets, key hashes |
//! | `k` | [`key_index`]: the record batches that hold a key | sealed slice | base offsets |

pub mod applied;
pub mod entry_row;
pub mod key_index;
pub mod record_batch;
pub mod shard;
pub mod slice;
pub mod span;
pub mod table_row;
pub mod time_index;

#[cfg(test)]
pub(crate) mod testing {
    use crate::ids::{GroupId, ShardId, StreamId};
    use proptest::prelude::*;

    pub fn shard() -> impl Strategy<Value = ShardId> {
        any::<(u16, u64, u16)>().prop_map(|(group, stream, number)| ShardId {
            group: GroupId(group),
            stream: StreamId(stream),
            number,
        })
    }
}
