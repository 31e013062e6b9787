//! The numbers that name things. Each is its own type, so an offset cannot stand where a term belongs.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, bincode::Encode, bincode::Decode,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A Raft group. Group 0 is the catalog, 1.. are the data groups.
    GroupId(u16)
);
number!(
    /// A stream's number, given at creation and never used again for another stream.
    StreamId(u64)
);
number!(
    /// The position of a record in its shard, from 0.
    Offset(u64)
);
number!(
    /// A Raft term.
    Term(u64)
);
number!(
    /// A Raft log index. Entries of a group are numbered from 1.
    LogIndex(u64)
);
number!(
    /// A node of the cluster, from 1.
    NodeId(u64)
);
number!(
    /// One start of one node: two processes on the same data folder never share it.
    BootId(u64)
);
number!(
    /// Milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
    TimestampMs(i64)
);
number!(
    /// A slice of this node, never used again for another one.
    SliceId(u32)
);
number!(
    /// The version of the topic-to-stream routing that a Batch was made with.
    RouteRevision(u64)
);

/// Group 0: streams, captures, queries and connectors live here.
pub const CATALOG_GROUP: GroupId = GroupId(0);

impl Offset {
    /// The offset `count` records further.
    pub fn plus(self, count: u64) -> Offset {
        Offset(self.0 + count)
    }
}

impl LogIndex {
    /// The index of the next entry.
    pub fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }
}

/// A totally ordered log of records. It never leaves its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct ShardId {
    /// The group that orders this shard.
    pub group: GroupId,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Its number within the stream, from 0.
    pub number: u16,
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.stream, self.number)
    }
}
