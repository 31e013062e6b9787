//! The log thread: one raft-engine write and one fsync per job, for all groups. When it cannot promise that, it says so
//! once and ends: after a failed fsync nobody knows what the disk holds.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use raft_engine::LogBatch;

use crate::driver::Message;
use crate::ids::GroupId;
use crate::raft_log::LogEngine;

/// One write.
pub struct LogJob {
    /// Everything of all groups, encoded.
    pub batch: LogBatch,
    /// The turns that are persisted with it.
    pub turns: Vec<(GroupId, u64)>,
}

/// Tells the driver even when raft-engine panics, as it does when a sync fails.
struct Alarm(Sender<Message>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.send(Message::LogFailed(
                "the log engine panicked; its message is above".to_owned(),
            ));
        }
    }
}

/// Serves jobs until their sender is gone.
pub fn run(engine: &Arc<LogEngine>, jobs: Receiver<LogJob>, driver: Sender<Message>) {
    let alarm = Alarm(driver.clone());
    for LogJob { mut batch, turns } in jobs {
        let began = Instant::now();
        let message = match engine.write(&mut batch, true) {
            Ok(_) => Message::Persisted(turns),
            Err(error) => Message::LogFailed(error.to_string()),
        };
        metrics::histogram!("headwater_store_log_write_seconds").record(began.elapsed().as_secs_f64());
        if driver.send(message).is_err() {
            break;
        }
    }
    drop(alarm);
}
