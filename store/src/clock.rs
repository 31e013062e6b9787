//! Time, injected, so that a simulation can own it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::ids::TimestampMs;

/// The leader's wall clock. Apply never reads it: entry times travel in the log.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now(&self) -> TimestampMs;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> TimestampMs {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        TimestampMs(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
    }
}
