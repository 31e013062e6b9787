//! Every fixed limit of the load generator.

use std::time::Duration;

/// Free space that a read begins with.
pub const READ_BYTES: usize = 64 << 10;
/// Encoded packets that wait for the socket before no more are made.
pub const WRITE_BYTES_MAX: usize = 64 << 10;
/// The largest packet taken from a broker: the largest that MQTT has.
pub const PACKET_BYTES_MAX: usize = 268_435_460;
/// How often a connection looks at its clock: for a ping, and for patience that has run out.
pub const TICK: Duration = Duration::from_millis(100);
/// What CONNECT asks for. Some brokers refuse 0.
pub const KEEP_ALIVE_S: u16 = 60;
/// How long a connection may be silent before it pings.
pub const PING_AFTER: Duration = Duration::from_secs(20);
/// Connections that are opened at the same time.
pub const CONNECTS_AT_ONCE: usize = 32;
/// An hour: what takes longer counts as that.
pub const LATENCY_US_MAX: u64 = 3_600_000_000;
/// How many findings are told one by one; all of them are counted.
pub const EXAMPLES_MAX: usize = 5;
/// The smallest payload: what the fields before the filler need at their longest.
pub const PAYLOAD_BYTES_MIN: u32 = 96;
/// The largest payload: what one packet holds with the longest topic.
pub const PAYLOAD_BYTES_MAX: u32 = 268_000_000;
/// Incompressible text that fillers are cut from. Far more than the 64 KiB that LZ4 looks back over, so that two
/// messages close to each other seldom share a piece.
pub const FILLER_BYTES: usize = 4 << 20;
/// The shortest sleep of the pacer: below it, waking up costs more than it tells.
pub const PACE_MIN: Duration = Duration::from_micros(50);

const _: () = assert!(PING_AFTER.as_secs() * 2 < KEEP_ALIVE_S as u64);
const _: () = assert!((PAYLOAD_BYTES_MAX as usize) + (u16::MAX as usize) < PACKET_BYTES_MAX);
