//! Every fixed limit of the SQL crate. What an operator may set is in the configuration.

use std::time::Duration;

/// The text given at once. Large INSERTs fit; a file of data belongs into the publish API.
pub const SQL_BYTES_MAX: usize = 4 << 20;
/// Levels of an expression tree, whether by brackets or by a chain of operators: parser, binder and evaluator recurse.
pub const EXPRESSION_DEPTH_MAX: usize = 128;
/// The levels that a SELECT inside another one counts for.
pub const SUBQUERY_LEVELS: usize = 16;
/// Streams that one query reads, each as often as it is named.
pub const SOURCES_MAX: usize = 32;
/// Characters of a source line that an error draws.
pub const ERROR_LINE_CHARS_MAX: usize = 160;
/// Levels of objects and arrays in a payload: the scanner recurses.
pub const JSON_DEPTH_MAX: usize = 128;
/// Members of a payload whose names are guessed from the payload before; the others are read.
pub const SHAPE_MEMBERS_MAX: usize = 64;
/// Result rows that wait for a reader of a SELECT.
pub const ROWS_BUFFERED_MAX: usize = 1_024;
/// State rows read at once when a task starts.
pub const STATE_SCAN_ROWS: usize = 4_096;
/// State rows that SHOW QUERIES counts the bytes of, for each query and group.
pub const STATE_COUNT_ROWS_MAX: usize = 1_000_000;
/// Retained messages that SHOW TOPICS counts; where there are more it says nothing of them.
pub const RETAINED_COUNTED_MAX: usize = 100_000;
/// Those that it reads at once: each may be as large as a packet.
pub const RETAINED_PAGE_ROWS: usize = 32;
/// Groups that an aggregate keeps decoded between steps; past it, it reads them from the store again.
pub const GROUPS_CACHED_MAX: usize = 100_000;
/// Groups of a one-shot or push read, which has no store behind it.
pub const GROUPS_IN_MEMORY_MAX: usize = 1_000_000;
/// A text that a function makes longer than what it was given.
pub const TEXT_BYTES_MAX: usize = 4 << 20;
/// A compiled regular expression.
pub const REGEX_BYTES_MAX: usize = 1 << 20;
/// Compiled regular expressions that a thread keeps.
pub const REGEXES_KEPT: usize = 16;
/// Hopping windows that one row is in.
pub const WINDOWS_PER_ROW_MAX: i64 = 1_000;
/// The values that TOPK gives.
pub const TOP_MAX: u32 = 10_000;
/// Functions with OVER in one SELECT: each has a table of state, of which an operator has a byte's worth.
pub const OVER_CALLS_MAX: usize = 64;
/// How many rows LAG looks back.
pub const LAG_ROWS_MAX: u32 = 1_000;
/// Windows that close in one step; the others follow in the next ones.
pub const TIMERS_PER_STEP_MAX: usize = 8_192;
/// Stored bytes that a task takes from its follower at once.
pub const FOLLOW_BYTES: usize = 4 << 20;
/// Queries that wait to be let in by a hub.
pub const HUB_JOINS_WAITING: usize = 64;
/// Micro-batches that wait for a query at its hub; one that is slower reads by itself.
pub const HUB_QUEUE_MAX: usize = 16;
/// Queries at a hub that save their cursors as often as one: with more of them each saves less often.
pub const HUB_SAVES: usize = 100;
/// Payload bytes that one step takes in, and bytes of values that its closing windows bring, so that what it puts out
/// fits a Batch. Where it still does not, the task makes smaller steps.
pub const STEP_BYTES_MAX: usize = 8 << 20;
/// Records of a step that operators take in at once: so few that they stay in the processor's cache with all that is made
/// of them.
pub const PIECE_RECORDS: usize = 4_096;
/// Late rows, and errors, of one step that are written to the query's own streams; more are only counted. As many as a step
/// may have records.
pub const SIDE_ROWS_PER_STEP_MAX: usize = 65_536;
/// Bytes of each. Should a step with all of them not fit a Batch, it is made again with fewer records.
pub const SIDE_BYTES_PER_STEP_MAX: usize = 12 << 20;
/// How long they are kept.
pub const SIDE_DURATION: Duration = Duration::from_secs(7 * 86_400);
/// One result record, with its retained row where it has one: it must fit a Batch beside the progress and the keys.
pub const RESULT_BYTES_MAX: usize = headwater_store::limits::BATCH_BYTES_MAX - (1 << 20);
/// State rows that one Batch deletes when a query is dropped.
pub const FORGET_ROWS_PER_BATCH: usize = 1_024;
/// Bytes of the keys that such a Batch names, so that it is no burden to those who write meanwhile.
pub const FORGET_BYTES_PER_BATCH: usize = 1 << 20;
/// The pause after such a Batch was refused.
pub const FORGET_RETRY: Duration = Duration::from_secs(10);
/// Bytes of its rows after which a join passes them on before it goes on.
pub const JOIN_PIECE_BYTES: usize = 1 << 20;
/// Rows that a join looks at after which it passes on what it has.
pub const JOIN_PIECE_ROWS: usize = 1 << 16;
/// Bytes of rows that ORDER BY, or a join of tables in a read that ends, may hold.
pub const SORT_BYTES_MAX: usize = 256 << 20;

const _: () = assert!(STEP_BYTES_MAX * 4 <= headwater_store::limits::BATCH_BYTES_MAX);
const _: () = assert!(headwater_store::limits::TABLE_KEY_BYTES_MAX * 4 <= 1 << 20);
/// Stored bytes that a one-shot read takes from a shard at once.
pub const READ_AHEAD_BYTES: usize = 256 << 10;
/// How often an INSERT routes again when the routing changes under it.
pub const ROUTE_RETRIES_MAX: usize = 8;
/// The name that a client gives to what it appends, with room for the number of a record behind it.
pub const APPEND_NAME_BYTES_MAX: usize = 480;
/// Bytes of a view's rows that one read holds.
pub const VIEW_ROWS_BYTES_MAX: usize = 256 << 20;
