//! Every fixed limit of the bridge. What an operator may set is in the configuration.

use std::time::Duration;

/// Bytes of request bodies held at once, over all connections; a request that finds no room waits, then gets 503.
pub const BODIES_BYTES_MAX: usize = 64 << 20;
/// How long a request body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request waits for room for its body, or for the store to admit its write, before it gets 503.
pub const ADMISSION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an admitted write may take to commit before the answer is 503 with an unknown outcome.
pub const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);
/// An oversize body, and whatever else comes after the last answer of a connection, is read and thrown away for this
/// long, so that the client gets to see the answer.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Of what comes after the last answer, this much is thrown away.
pub const LINGER_BYTES_MAX: usize = 1 << 20;
/// A connection that waits for its next request is closed after this; above EMQX's and most proxies' own limits.
pub const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(75);
/// Open requests get this long to finish when the server stops.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a failed accept (no file descriptors left), so that the loop does not spin.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A request's head.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Requests of one HTTP/2 connection at once.
pub const HTTP2_STREAMS_MAX: u32 = 128;
/// Records of one publish.
pub const PUBLISH_RECORDS_MAX: usize = 10_000;
/// Seconds a client should wait after a 503 that passes by itself.
pub const RETRY_AFTER_SECONDS: u32 = 1;
/// Seconds a client should wait when the disk is full: somebody has to free space first.
pub const RETRY_AFTER_DISK_FULL_SECONDS: u32 = 30;
/// Rows of one JSON answer to `POST /v1/sql`, which is built in memory; the other forms are not.
pub const SQL_ANSWER_BYTES_MAX: usize = 16 << 20;
/// Rows that are ready are joined into pieces of about this size.
pub const PIECE_BYTES: usize = 32 << 10;
/// A comment is sent on a silent event stream this often, so that proxies keep it and a dead client is noticed.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long the changes of a SELECT wait for a client whose connection broke.
pub const RESUME_TIME: Duration = Duration::from_secs(60);
/// How long such a client should pause before it comes back.
pub const RESUME_PAUSE: Duration = Duration::from_secs(1);
/// How often those that nobody came back to are ended.
pub const RESUME_CHECK: Duration = Duration::from_secs(1);
/// Bytes of events that are kept after they were sent, of all SELECTs together.
pub const RESUME_BYTES_MAX: usize = 64 << 20;
/// Into at least so many shares they are divided.
pub const RESUME_SHARES_MIN: usize = 16;
/// SELECTs that wait for their clients; of more, the one that waits longest ends.
pub const AWAY_MAX: usize = 256;
/// Histograms of the metrics are folded this often.
pub const METRICS_UPKEEP: Duration = Duration::from_secs(5);
/// Records of one `GET /v1/streams/{name}/records`, and the number when none is asked for.
pub const READ_RECORDS_MAX: usize = 10_000;
/// As above, the default.
pub const READ_RECORDS_DEFAULT: usize = 100;
/// Bytes of record batches that are looked at before what was found of a key is counted.
pub const KEY_READ_BYTES: usize = 4 << 20;
/// Bytes of payloads of one `GET /v1/streams/{name}/records`.
pub const READ_BYTES_MAX: usize = 8 << 20;
/// The longest `wait` of such a read.
pub const READ_WAIT_MAX: Duration = Duration::from_secs(60);

/// Rows of one webhook request (`BATCH`).
pub const WEBHOOK_BATCH_MAX: usize = 1_000;
/// Bytes of rows gathered for the next webhook requests of one shard.
pub const WEBHOOK_READ_BYTES: usize = 1 << 20;
/// Connecting, TLS included.
pub const WEBHOOK_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of a webhook's answer this much is read, to keep the connection usable; a longer one closes it.
pub const WEBHOOK_ANSWER_BYTES_MAX: usize = 64 << 10;
/// The longest `Retry-After` that is honoured.
pub const WEBHOOK_RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// While deliveries go on, their cursor is saved this often: what a crash repeats.
pub const WEBHOOK_CURSOR_SAVE: Duration = Duration::from_millis(250);
/// The longest `TIMEOUT` of a webhook.
pub const WEBHOOK_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Cursors that one Batch deletes when a connector is dropped.
pub const CURSORS_PER_BATCH: usize = 1_024;
/// Characters of an error that are kept and shown.
pub const ERROR_CHARS_MAX: usize = 500;

const _: () = assert!(RESUME_BYTES_MAX / RESUME_SHARES_MIN >= 2 * PIECE_BYTES);
const _: () = assert!(READ_RECORDS_DEFAULT <= READ_RECORDS_MAX);
// `bridge.body_max` is at most 32 MiB: one body always fits.
const _: () = assert!(BODIES_BYTES_MAX >= 32 << 20);
