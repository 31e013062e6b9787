//! The keys of RocksDB. Each persisted kind has its file, with the layout, `key`, its inverse and a round-trip test.
//!
//! All integers in keys are big-endian, so that byte order is number order. Every key begins with a tag that says its
//! kind, then the group: what one group wrote is never mixed with another's.
//!
//! | tag | kind | family | value |
//! |---|---|---|---|
//! | `a` | [`applied`]: how far a group is applied | state | index, term, time |
//! | `o` | [`shard_end`]: the next offset of a shard | state | u64 |
//! | `t` | [`table_row`]: a row of a table | state | the row |
//! | `r` | [`record_batch`]: a record batch by its base offset | slice | the record batch, verbatim |
//! | `e` | [`entry_row`]: what one entry appended | slice | shards and base offsets |

pub mod applied;
pub mod entry_row;
pub mod record_batch;
pub mod shard_end;
pub mod table_row;

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
