//! The log thread: one raft-engine write and one fsync per job, for all groups. When it cannot promise that, it says so
//! once and ends: after a failed fsync nobody knows what the disk holds.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use raft_engine::LogBatch;

use crate::ids::GroupId;
use crate::inbox::{Message, Outlet};
use crate::kill_points::{Point, reached};
use crate::raft_log::LogEngine;

/// One write.
pub struct LogJob {
    /// Everything of all groups, encoded.
    pub batch: LogBatch,
    /// The turns that are persisted with it.
    pub turns: Vec<(GroupId, u64)>,
}

/// The log, as the driver has it.
pub struct Log {
    pub engine: Arc<LogEngine>,
    /// To the log thread.
    pub jobs: Sender<LogJob>,
}

/// Serves jobs until their sender is gone, or a write fails.
pub fn run(engine: &Arc<LogEngine>, jobs: Receiver<LogJob>, driver: &Outlet) {
    for job in jobs {
        let message = serve(engine, job);
        let failed = matches!(message, Message::LogFailed(_));
        if driver.tell(message).is_err() || failed {
            break;
        }
    }
}

/// Writes and syncs one job; gives what the driver has to know of it.
pub fn serve(engine: &Arc<LogEngine>, job: LogJob) -> Message {
    let LogJob { mut batch, turns } = job;
    let began = Instant::now();
    reached(Point::LogBegins);
    let written = write(engine, &mut batch);
    reached(Point::LogSynced);
    metrics::histogram!("headwater_store_log_write_seconds").record(began.elapsed().as_secs_f64());
    match written {
        Ok(()) => Message::Persisted(turns),
        Err(reason) => Message::LogFailed(reason),
    }
}

/// Writes and syncs. After an error the engine is never dropped: it would cut and sync its files once more, and panic
/// if that failed too. They stay as they are for the next start to judge.
fn write(engine: &Arc<LogEngine>, batch: &mut LogBatch) -> Result<(), String> {
    // raft-engine panics when a sync fails.
    let reason = match catch_unwind(AssertUnwindSafe(|| engine.write(batch, true))) {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => told(&*panic),
    };
    std::mem::forget(engine.clone());
    Err(reason)
}

fn told(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the log engine panicked: {}", text.unwrap_or("its message is above"))
}

#[cfg(test)]
mod tests;
