//! Headwater's store: replicated, append-only streams and the tables beside them.
//!
//! # A record's life
//!
//! 1. A writer makes a [`Batch`]: records for shards of one group, table rows, preconditions. [`Store::submit`] waits
//!    until its bytes are admitted, encodes the records where the writer runs, and hands it to the driver (`proposal`).
//! 2. The driver, one thread for all groups, merges what has arrived into one entry per group (`driver`, `entry`); a
//!    record batch is compressed here, once, and stored verbatim from now on (`record_batch`).
//! 3. Raft puts the entry into its log (`replica`, `raft_log`): one write and one fsync for all groups of the node
//!    (`log_thread`). There is no linger; what arrives meanwhile is the next entry.
//! 4. Committed, the entry is applied: offsets are given, preconditions judged, rows written in one atomic write
//!    (`apply`, `keys`, `engine`). Only then does the writer's [`Receipt`] resolve.
//! 5. The entry goes into the group's tail, where every reader that keeps up takes it from memory; slower ones read
//!    the same record batches from disk (`tail`, `follow`, `reader`).
//! 6. When enough has been applied, rows are flushed and the Raft log is cut below what is flushed (`maintenance`).
//! 7. Records of one retention class lie together in slices (`retention`, `slices`). A slice takes appends until it is old or
//!    large enough, is merged once, and is dropped whole when its time is over. TRIM and DROP STREAM hide records at once.
//!
//! A start takes the lock (`folder`), judges what the log's files end with (`log_files`), and applies what the log holds
//! beyond the last flush. `check` looks at a folder that no server uses.
//!
//! The catalog (`catalog`, `ddl`) is rows of group 0, changed by conditional Batches like everything else. Where a
//! topic's messages go is `placement`. Control values are encoded in `control`, layouts by hand with `wire`.
//!
//! # Example
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use headwater_store::{Offset, Record, Store, SystemClock, TopicName};
//!
//! let folder = tempfile::tempdir()?;
//! let mut config = headwater_config::Config::embedded()?.store;
//! config.path = folder.path().join("data");
//! let store = Store::open(&config, Arc::new(SystemClock))?;
//! let runtime = tokio::runtime::Runtime::new()?;
//! runtime.block_on(async {
//!     let topic = TopicName::new("plant/7/temp")?;
//!     let route = store.route(&topic);
//!     let record = Record { topic: Some(topic), ..Record::new("21.5") };
//!     let committed = store.write(route.batch(record)).await?;
//!     assert_eq!(committed.offsets, [Offset(0)]);
//!     let stored = store.read(route.home, Offset(0), 1 << 20).await?;
//!     assert_eq!(stored[0].records_from(Offset(0))?[0].1.payload.as_deref(), Some(&b"21.5"[..]));
//!     store.stop().await;
//!     Ok(())
//! })
//! # }
//! ```
//!
//! # Limits
//!
//! They stand in [`limits`]; what an operator sets is in `config/default.toml`. Memory is bounded by
//! `store.admission`, `store.tail_cache` per group and RocksDB's buffers.
//!
//! # It is not
//!
//! - a cluster yet: every group has one voter, this node;
//! - a consensus algorithm, a log file format or an LSM tree: those are raft-rs, raft-engine and RocksDB.

mod apply;
mod batch;
mod captures;
mod catalog;
mod check;
mod clock;
mod control;
mod ddl;
mod driver;
mod encoded;
mod engine;
mod entry;
mod entry_keys;
mod error;
mod folder;
mod follow;
mod garbage;
mod ids;
mod inbox;
mod key_hashes;
mod key_index;
mod keys;
mod kill_points;
pub mod limits;
mod log_files;
mod log_thread;
mod maintenance;
mod manifest;
mod placement;
mod producer;
mod proposal;
mod raft_log;
mod reader;
mod record;
mod record_batch;
mod replica;
mod retained;
mod retention;
#[cfg(test)]
mod simulation;
mod slices;
mod store;
mod stored;
mod table;
mod tail;
mod topic;
mod wire;

pub use batch::{Append, Batch, Committed, Condition, Put, TableId, Trim, tables};
pub use catalog::{
    Ack, Catalog, ColumnRow, ConnectorRow, Format, OnError, Placement, QueryRow, QueryState, StreamForm, StreamOptions,
    StreamRow, StreamState,
};
pub use check::{DumpError, DumpFilter, DumpWhat, Dumped, DumpedItem, Offline, Problem, Summary};
pub use clock::{Clock, SystemClock};
pub use control::{ControlError, decode as decode_control, encode as encode_control};
pub use ddl::{ConnectorSpec, FeedSpec, QuerySpec, StreamSpec};
pub use encoded::EncodedRecords;
pub use entry_keys::EntryKeys;
pub use error::{CatalogError, EngineError, OpenError, ReadError, WriteError};
pub use follow::{AppliedEntry, Follower, GroupFollower, Position};
pub use ids::{
    BootId, CATALOG_GROUP, GroupId, LogIndex, NodeId, Offset, RouteRevision, ShardId, SliceId, StreamId, Term,
    TimestampMs,
};
pub use key_hashes::{filter_hashes, key_hash};
pub use placement::{DEFAULT_STREAM, Route, SLOTS, group_for_topic, shard_for, slot};
pub use producer::Producer;
pub use reader::KeyRead;
pub use record::{Change, Header, Qos, Record};
pub use retained::{RETAINED_ROW_VERSION, retained_put};
pub use retention::RetentionClass;
pub use store::{Leadership, Receipt, Store, Submission};
pub use stored::{StoredBatch, StoredRecords};
pub use table::Table;
pub use topic::{Level, TopicError, TopicFilter, TopicName};

/// For the fuzz targets `record_batch` and `raft_entry` alone.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::entry::{Entry, decode as decode_entry, encode as encode_entry};
    pub use crate::record_batch::{RecordBatchHeader, decode_records, open_body, parse_header};
}
