//! Every fixed limit of the store. What an operator may set is in the configuration.

/// A topic's length in bytes of UTF-8: MQTT's two-byte length field.
pub const TOPIC_BYTES_MAX: usize = 65_535;
/// Levels of a topic: deep enough for any tree people draw, shallow enough for a trie to walk.
pub const TOPIC_LEVELS_MAX: usize = 128;
/// Levels by which a record batch is found as well: a filter with more literals reads what lies under so many of them.
pub const TOPIC_PREFIXES_MAX: usize = 8;
/// One Batch, encoded: it must fit a Raft message with room to spare.
pub const BATCH_BYTES_MAX: usize = 32 << 20;
/// The raw body of one record batch. A turn that gathers more makes several.
pub const RECORD_BATCH_BODY_BYTES_MAX: usize = 64 << 20;
/// Records of one record batch.
pub const RECORD_BATCH_RECORDS_MAX: usize = 65_536;
/// Bytes of appends that one turn merges into one entry.
pub const ENTRY_BYTES_TARGET: usize = 4 << 20;
/// Committed bytes that raft-rs hands over at once.
pub const COMMITTED_BYTES_PER_READY_MAX: u64 = 16 << 20;
/// Proposed and not yet committed bytes that raft-rs accepts per group, in parts of what admission lets in: admission
/// is the real bound, this one only has to be out of its way.
pub const UNCOMMITTED_PER_ADMITTED: u64 = 2;
/// A table key, so that RocksDB keys stay small.
pub const TABLE_KEY_BYTES_MAX: usize = 70_000;
/// A catalog name: a stream, a query, a connector.
pub const NAME_BYTES_MAX: usize = 255;
/// A payload up to here is copied out of its record batch when it has to wait; a larger one is most of a batch itself.
pub const DETACHED_PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// Routes remembered by topic before the memory of them is cleared.
pub const ROUTES_CACHED_MAX: usize = 65_536;
/// Shards of one stream.
pub const SHARDS_MAX: u16 = 1024;
/// A row of the time index for so many bytes of a shard: what a search by time has to scan at most.
pub const TIME_INDEX_BYTES: usize = 64 << 10;
/// A class's open slice may grow to this part of all that the class holds, so that the slices of much data are few.
pub const CLASS_SLICES: u64 = 8;
/// A log write up to here the driver syncs itself. A lone writer waits for it alone: without the two hand-overs
/// between threads its median went from 436 to 330 us on a quiet machine.
pub const OWN_SYNC_BYTES_MAX: usize = 4 << 10;
/// Zeros that a small write in new space of the log puts behind itself: the few hundred small writes after it find space
/// whose sync needs no journal.
pub const AHEAD_BYTES: usize = 128 << 10;
/// A log write up to here is small in this sense; the zeros would double what larger ones write.
pub const AHEAD_WRITE_BYTES_MAX: usize = 16 << 10;
/// Keys and record batches, paired, that are sorted at once when a slice's key index is made: some 24 MB.
pub const KEY_INDEX_RUN: usize = 1 << 20;
/// Files of a slice, on average: smaller ones are merged when it is sealed. Reads are served as well by a few large ones, and
/// a merge would write all records a third time.
pub const SEALED_FILE_BYTES_MIN: u64 = 16 << 20;
/// So much appended between two rounds of maintenance, a second apart, is load: merges wait for less of it.
pub const BUSY_BYTES: u64 = 16 << 20;
/// Closed slices that may wait for their merge while there is load.
pub const CLOSED_SLICES_MAX: usize = 4;
/// Rows of entries that a reader of a group looks at in one slice before it looks at the next one.
pub const ENTRY_ROWS_PER_SCAN: usize = 256;
/// A producer's id.
pub const PRODUCER_ID_BYTES_MAX: usize = 512;
/// Batches that a producer may have in flight in one group, and still send any of them again.
pub const PRODUCER_WINDOW: usize = 1024;
/// What was seen of a producer is kept so long after its last write, in milliseconds of entry time: a day.
pub const PRODUCER_KEPT_MS: i64 = 24 * 3_600_000;
/// Producers that are forgotten with one entry's item: more than one, so that the list gets shorter.
pub const PRODUCERS_FORGOTTEN_AT_ONCE: usize = 4;
/// A control value (catalog row, table row) decoded from disk.
pub const CONTROL_BYTES_MAX: usize = 16 << 20;

const _: () = assert!(ENTRY_BYTES_TARGET <= BATCH_BYTES_MAX);
const _: () = assert!(UNCOMMITTED_PER_ADMITTED > 1);
const _: () = assert!(TOPIC_BYTES_MAX < TABLE_KEY_BYTES_MAX);
