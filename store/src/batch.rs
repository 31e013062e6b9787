//! [`Batch`], the only write there is: appends, table puts and preconditions of one group, applied whole or not at all.

use bytes::Bytes;

use crate::encoded::EncodedRecords;
use crate::ids::{GroupId, LogIndex, Offset, RouteRevision, ShardId, Term, TimestampMs};
use crate::producer::Producer;
use crate::record::Record;

/// Names a table inside a group. The number is part of every row's key on disk, so it never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct TableId(pub u16);

/// The tables of this version, one line each.
pub mod tables {
    use super::TableId;

    /// Group 0: the catalog's revision and counters.
    pub const CATALOG_META: TableId = TableId(1);
    /// Group 0: stream name -> stream.
    pub const STREAMS: TableId = TableId(2);
    /// Group 0: query name -> query.
    pub const QUERIES: TableId = TableId(3);
    /// Group 0: connector name -> connector.
    pub const CONNECTORS: TableId = TableId(4);
    /// Data groups: the route revision below which appends are refused.
    pub const FENCE: TableId = TableId(16);
    /// Data groups: topic -> retained message.
    pub const RETAINED: TableId = TableId(17);
    /// Data groups: query and task -> progress.
    pub const QUERY_PROGRESS: TableId = TableId(18);
    /// Data groups: `query | slot | operator | table | key | time` -> state.
    pub const QUERY_STATE: TableId = TableId(19);
    /// Data groups: connector and shard -> cursor.
    pub const CONNECTOR_CURSOR: TableId = TableId(20);
    /// Data groups: producer id -> what was seen of it (producer.rs).
    pub const PRODUCERS: TableId = TableId(21);
    /// Data groups: `hour u32 | producer id`, to find those that are to be forgotten.
    pub const PRODUCER_HOURS: TableId = TableId(22);
    /// Data groups: client id -> who serves its MQTT session. The first of the session's rows, in the client id's group.
    pub const SESSION_OWNER: TableId = TableId(32);
    /// Data groups: client id -> the session's expiry and its end.
    pub const SESSION: TableId = TableId(33);
    /// Data groups: `client id length u16 | client id | topic filter` -> one subscription of a session.
    pub const SESSION_SUBSCRIPTION: TableId = TableId(34);
    /// Data groups: client id -> a session's cursors and what is in flight.
    pub const SESSION_PROGRESS: TableId = TableId(35);
    /// Data groups: client id -> the will of a connection.
    pub const SESSION_WILL: TableId = TableId(36);
    /// Data groups: client id -> the owner whose QoS 2 messages the group takes.
    pub const RECEIVED_BY: TableId = TableId(37);
    /// Data groups: `client id length u16 | client id | packet id u16` of a QoS 2 message that is stored in this group.
    pub const RECEIVED: TableId = TableId(38);
    /// Data groups: `client id length u16 | client id | epoch u64` of a will that is published in this group.
    pub const WILL_SENT: TableId = TableId(39);
    /// Data groups: `name/filter` of a shared subscription -> its cursors and what is in flight.
    pub const SHARE: TableId = TableId(40);
    /// Data groups: `name/filter length u16 | name/filter | client id` of a durable session that shares it.
    pub const SHARE_MEMBER: TableId = TableId(41);
    /// Data groups: `stream id u64` -> how far the queue of that stream is, and what is not acknowledged.
    pub const QUEUE: TableId = TableId(42);
    /// Data groups: `client id length u16 | client id | topic filter` -> how far a session has replayed a stream.
    pub const SESSION_STREAM: TableId = TableId(43);
}

/// Records for one shard, in order.
#[derive(Debug, Clone)]
pub struct Append {
    /// Where to.
    pub shard: ShardId,
    /// What. `timestamp` is ignored: the log gives it.
    pub records: Vec<Record>,
}

/// Sets (`Some`) or deletes (`None`) one row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The table.
    pub table: TableId,
    /// At most `TABLE_KEY_BYTES_MAX` bytes.
    pub key: Bytes,
    /// The row, or None to delete it.
    pub value: Option<Bytes>,
}

/// Hides the records of a shard before `first`, at once; disk follows. What is not written yet cannot be trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trim {
    /// The shard.
    pub shard: ShardId,
    /// The first offset that stays; [`Trim::ALL`] forgets the shard itself.
    pub first: Offset,
}

impl Trim {
    /// For shards of a stream that is gone.
    pub const ALL: Offset = Offset(u64::MAX);
}

/// Must hold in the state just before the entry, or nothing of the Batch is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The row has exactly this value; None: there is no such row.
    Row {
        table: TableId,
        key: Bytes,
        value: Option<Bytes>,
    },
    /// The entry is committed in this term: the writer is still the leader it thought it was.
    Term(Term),
}

impl Condition {
    fn size_bytes(&self) -> usize {
        match self {
            Condition::Row { key, value, .. } => key.len() + value.as_ref().map_or(0, Bytes::len) + 16,
            Condition::Term(_) => 16,
        }
    }
}

/// One atomic write to one group.
#[derive(Debug, Clone)]
pub struct Batch {
    /// All shards and tables below belong to it.
    pub group: GroupId,
    /// The routing the appends were made with; older ones than the group's fence are refused as stale.
    pub revision: Option<RouteRevision>,
    /// Who sends it, so that it is applied once however often it is sent.
    pub producer: Option<Producer>,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// In order.
    pub appends: Vec<Append>,
    /// After those, in order.
    pub encoded: Vec<(ShardId, EncodedRecords)>,
    /// After the appends.
    pub trims: Vec<Trim>,
    /// In order; the last one of a key wins.
    pub puts: Vec<Put>,
}

impl Batch {
    /// An empty Batch for `group`.
    pub fn new(group: GroupId) -> Batch {
        Batch {
            group,
            revision: None,
            producer: None,
            conditions: Vec::new(),
            appends: Vec::new(),
            encoded: Vec::new(),
            trims: Vec::new(),
            puts: Vec::new(),
        }
    }

    /// Adds records for one shard of this group.
    pub fn append(mut self, shard: ShardId, records: Vec<Record>) -> Batch {
        debug_assert_eq!(shard.group, self.group);
        self.appends.push(Append { shard, records });
        self
    }

    /// Adds records for one shard of this group that are encoded already.
    pub fn append_encoded(mut self, shard: ShardId, records: EncodedRecords) -> Batch {
        debug_assert_eq!(shard.group, self.group);
        self.encoded.push((shard, records));
        self
    }

    /// Hides the records of a shard of this group before `first`.
    pub fn trim(mut self, shard: ShardId, first: Offset) -> Batch {
        debug_assert_eq!(shard.group, self.group);
        self.trims.push(Trim { shard, first });
        self
    }

    /// Adds a row.
    pub fn put(mut self, table: TableId, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Batch {
        self.puts.push(Put {
            table,
            key: key.into(),
            value: Some(value.into()),
        });
        self
    }

    /// Deletes a row.
    pub fn delete(mut self, table: TableId, key: impl Into<Bytes>) -> Batch {
        self.puts.push(Put {
            table,
            key: key.into(),
            value: None,
        });
        self
    }

    /// Adds a precondition.
    pub fn when(mut self, condition: Condition) -> Batch {
        self.conditions.push(condition);
        self
    }

    /// Says who sends it and which one of its own it is: sent again, it is refused as a [`crate::WriteError::Duplicate`].
    pub fn from_producer(mut self, producer: Producer) -> Batch {
        self.producer = Some(producer);
        self
    }

    /// Names the routing that the appends were made with.
    pub fn routed(mut self, revision: RouteRevision) -> Batch {
        self.revision = Some(revision);
        self
    }

    /// An upper bound of its encoded size in bytes.
    pub fn size_bytes(&self) -> usize {
        let appends: usize = self
            .appends
            .iter()
            .flat_map(|append| &append.records)
            .map(Record::size_bytes)
            .sum();
        let encoded: usize = self.encoded.iter().map(|(_, records)| records.size_bytes()).sum();
        let puts: usize = self
            .puts
            .iter()
            .map(|put| put.key.len() + put.value.as_ref().map_or(0, Bytes::len) + 16)
            .sum();
        let conditions: usize = self.conditions.iter().map(Condition::size_bytes).sum();
        let producer = self.producer.as_ref().map_or(0, |producer| producer.id.len());
        64 + producer + appends + encoded + puts + conditions + self.trims.len() * 32
    }
}

/// Where a committed Batch landed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The entry that holds it.
    pub index: LogIndex,
    /// The append time of its records.
    pub timestamp: TimestampMs,
    /// The offset of the first record of each append, in the order of [`Batch::appends`], then [`Batch::encoded`].
    pub offsets: Vec<Offset>,
}
