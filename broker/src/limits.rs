//! Every fixed limit of the broker. What an operator may set is in the configuration, section `[broker]`.

/// Free space that a read begins with; an idle connection holds no read buffer at all.
pub const READ_BYTES_MIN: usize = 4 << 10;
/// Free space that a busy connection's reads grow to. All messages of one read travel in one Batch per group, so this
/// also bounds how much one connection adds to one turn.
pub const READ_BYTES_MAX: usize = 64 << 10;
/// Bytes that wait for a socket before no more packets are made for it, and none are read from it.
pub const WRITE_BYTES_HIGH: usize = 128 << 10;
/// Deliveries that a connection takes from its outbox at once.
pub const DELIVERIES_PER_TURN_MAX: usize = 256;
/// Room for so many deliveries an idle client keeps: a first one then costs no allocation.
pub const DELIVERIES_KEPT: usize = 4;
/// What a waiting delivery costs besides its payload: the queue's slot and its share of the message.
pub const DELIVERY_OVERHEAD_BYTES: usize = 96;
/// Topics whose subscribers a dispatcher remembers.
pub const MATCHED_TOPICS_MAX: usize = 65_536;
/// Topics whose subscribers a publishing connection remembers for its QoS 0 messages.
pub const MATCHED_TOPICS_PER_CONNECTION_MAX: usize = 16;
/// Retained messages read at once for one subscription.
pub const RETAINED_PAGE_ROWS: usize = 32;
/// Subscriptions of one client that may wait for their retained messages; it is cut off for more.
pub const RETAINED_SCANS_MAX: usize = 4096;
/// Topic aliases that the broker assigns towards one client, however many the client offers.
pub const OUTBOUND_ALIASES_MAX: u16 = 32;
/// A client id. It is part of every key of the session's rows.
pub const CLIENT_ID_BYTES_MAX: usize = 4096;
/// The topic filters of one client, all together: they are rows that come and go in one Batch.
pub const FILTERS_BYTES_MAX: usize = 1 << 20;
/// One message of a SCRAM exchange.
pub const SCRAM_MESSAGE_BYTES_MAX: usize = 4096;
/// RFC 7677 asks for so many iterations.
pub const SCRAM_ITERATIONS_MIN: u32 = 4096;
/// More would keep a client busy for seconds.
pub const SCRAM_ITERATIONS_MAX: u32 = 1_000_000;
/// The salt of a verifier.
pub const SCRAM_SALT_BYTES_MAX: usize = 64;
/// The file of verifiers.
pub const SCRAM_FILE_BYTES_MAX: u64 = 64 << 20;
/// How often a change that lost a race is tried again.
pub const RACES_MAX: u32 = 16;
/// Rows of sessions read at once.
pub const SESSION_PAGE_ROWS: usize = 256;
/// When a will that could not be published is tried again, in seconds.
pub const WILL_RETRY_S: u32 = 10;
/// Sessions whose expiry or will is looked after at once.
pub const SESSION_VISITS_MAX: usize = 32;
/// How often the progress of a session that moved is saved, in milliseconds. All that are due are saved together.
pub const PROGRESS_SAVE_MS: u64 = 1_000;
/// How often the progress of a session without messages of its own is saved, so that a resume does not read again what
/// was for others, in milliseconds.
pub const PROGRESS_IDLE_MS: u64 = 30_000;
/// What a session reads from the log at once: whole entries, at least one.
pub const CATCH_UP_PAGE_BYTES: usize = 256 << 10;
/// Stored bytes that the replay of a stream reads at once.
pub const REPLAY_PAGE_BYTES: usize = 64 << 10;
/// Entries whose topics a scan of the log remembers together.
pub const SCAN_SPAN_ENTRIES: u64 = 8192;
/// Hashes of topics that the scan of one group remembers: 8 MiB.
pub const SCAN_HASHES_MAX: usize = 2 << 20;
/// Topics that a scan, or a session that reads for itself, remembers the receivers of.
pub const CATCH_UP_TOPICS_MAX: usize = 4096;
/// Unacknowledged messages of an earlier connection that are read at once, to be sent again.
pub const RESEND_PAGE_MESSAGES: usize = 8;
/// Shares that one client may be joining or leaving before it is read from again.
pub const JOINS_MAX: usize = 64;
/// Messages that one member of a share may have unacknowledged: few, so that a slow member hoards none.
pub const SHARE_WINDOW_MAX: usize = 32;
/// Records of a queue that one consumer may have unanswered, for the same reason.
pub const QUEUE_WINDOW_MAX: usize = 32;
/// Reminders of what a queue handed out before those of answered records are looked for.
pub const QUEUE_REMINDERS_MIN: usize = 256;
/// Stored bytes that a queue reads at once.
pub const QUEUE_PAGE_BYTES: usize = 64 << 10;
/// How often a queue that moves is saved, in milliseconds: records acknowledged within that time may come again after a kill.
pub const QUEUE_SAVE_MS: u64 = 100;
/// When a queue tries again what the store refused, in milliseconds.
pub const QUEUE_RETRY_MS: u64 = 1_000;
/// When a share asks members without room again, in milliseconds.
pub const SHARE_PAUSE_MS: u64 = 50;
/// Events of clients that wait to be written; beyond it they are counted and lost.
pub const EVENTS_WAITING_MAX: usize = 16_384;
/// Events that are written together.
pub const EVENTS_PER_TURN_MAX: usize = 1024;
/// How long events are kept, in milliseconds: 30 days.
pub const EVENTS_DURATION_MS: u64 = 30 * 24 * 3_600_000;
/// Questions to views that one client may be waiting for before it is read from again.
pub const QUESTIONS_MAX: usize = 16;
/// How often `$SYS` looks for figures that changed, in milliseconds.
pub const SYS_PERIOD_MS: u64 = 10_000;
/// Clients turned away that the log names one by one, in so many seconds; the others are a number.
pub const REFUSALS_TOLD_MAX: u32 = 30;
/// As above, in seconds.
pub const REFUSALS_TOLD_S: u64 = 60;
/// What a WebSocket frame may hold besides one packet of the largest size.
pub const WEBSOCKET_FRAME_BYTES_MAX: usize = 64 << 10;
/// How often a message is routed again because the routing moved under it, before it is refused.
pub const ROUTE_ATTEMPTS_MAX: u32 = 100;
/// The pause before such an attempt, in milliseconds.
pub const ROUTE_PAUSE_MS: u64 = 2;
/// How long a new connection waits for the one it takes over: its will comes before the successor's messages.
pub const TAKEOVER_WAIT_MS: u64 = 2_000;
/// How often a connection that is taken over reads on before it ends: what has come by then.
pub const TAKEOVER_READS_MAX: usize = 64;
/// How long the last bytes (a DISCONNECT, acknowledgements) may take to leave.
pub const FLUSH_WAIT_MS: u64 = 1_000;
/// What a client may still send after the broker ended its connection, before the socket is reset.
pub const LINGER_BYTES_MAX: usize = 1 << 20;
/// How long a connection that ends waits for the outcome of what its client published.
pub const DRAIN_WAIT_MS: u64 = 5_000;
/// How long stopping waits for all connections.
pub const STOP_WAIT_MS: u64 = 10_000;
/// The pause after an accept that failed for want of file descriptors or memory.
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// A reason string: enough to say what was wrong, small enough for any Maximum Packet Size.
pub const REASON_STRING_BYTES_MAX: usize = 200;

const _: () = assert!(READ_BYTES_MIN <= READ_BYTES_MAX);
const _: () = assert!(FLUSH_WAIT_MS < DRAIN_WAIT_MS && DRAIN_WAIT_MS < STOP_WAIT_MS);
const _: () = assert!(PROGRESS_SAVE_MS <= PROGRESS_IDLE_MS);
const _: () = assert!(
    CLIENT_ID_BYTES_MAX + 2 + headwater_store::limits::TOPIC_BYTES_MAX <= headwater_store::limits::TABLE_KEY_BYTES_MAX
);
const _: () = assert!(FILTERS_BYTES_MAX >= headwater_store::limits::TOPIC_BYTES_MAX);
const _: () = assert!(MATCHED_TOPICS_PER_CONNECTION_MAX <= MATCHED_TOPICS_MAX);
