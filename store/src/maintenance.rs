//! The maintenance thread: flushes rows, says how far they are durable so that the Raft log can be cut, deletes log
//! files that nobody needs, merges and drops slices, and watches the free disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::engine::Family;
use crate::ids::{GroupId, LogIndex, Term};
use crate::inbox::{Message, Outlet};
use crate::keys::applied;
use crate::kill_points::{Point, reached};
use crate::raft_log::LogEngine;
use crate::store::Shared;

/// How often the free disk and the slices are looked at. Tests have no time to lose.
const LOOK_EVERY: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });

/// What there is to do.
#[derive(Debug)]
pub enum Chore {
    /// Flush, cut, delete.
    Flush,
    /// End; after an orderly stop flush first, so that the next start has nothing to apply.
    Stop,
}

/// Serves chores until told to stop.
pub fn run(
    shared: &Arc<Shared>,
    log: &Arc<LogEngine>,
    folder: &PathBuf,
    retention_bytes: u64,
    chores: Receiver<Chore>,
    driver: &Outlet,
) {
    let mut looked = Instant::now();
    loop {
        match chores.recv_timeout(LOOK_EVERY) {
            Ok(Chore::Flush) => {
                let message = match flush(shared) {
                    Ok(durable) => Message::Flushed(durable),
                    Err(reason) => {
                        never_close(shared);
                        Message::FlushFailed(reason)
                    }
                };
                let _ = driver.tell(message);
                reached(Point::LogPurge);
                if let Err(error) = log.purge_expired_files() {
                    tracing::warn!(%error, "old raft log files stay for now");
                }
                reached(Point::LogPurged);
            }
            Ok(Chore::Stop) | Err(RecvTimeoutError::Disconnected) => {
                // Nobody waits for this thread when the last handle was merely dropped.
                if shared.ends_in_order()
                    && let Err(reason) = flush(shared)
                {
                    never_close(shared);
                    tracing::warn!(%reason, "the last flush failed; the next start applies the raft log again");
                }
                break;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if looked.elapsed() < LOOK_EVERY {
            continue;
        }
        looked = Instant::now();
        shared.set_free_disk(free_bytes(folder));
        if let Err(error) = shared.slices.maintain(shared.clock.now(), retention_bytes) {
            never_close(shared);
            let _ = driver.tell(Message::FlushFailed(error.to_string()));
        }
    }
}

/// RocksDB flushes once more when it is closed, and waits as long as the disk refuses. An engine that could not flush
/// therefore stays open until the process ends; the Raft log has all that it holds.
fn never_close(shared: &Shared) {
    std::mem::forget(shared.engine.clone());
}

/// Flushes, and gives how far each group's rows are durable.
fn flush(shared: &Shared) -> Result<Vec<(GroupId, LogIndex, Term)>, String> {
    reached(Point::FlushBegins);
    shared.engine.flush().map_err(|error| error.to_string())?;
    reached(Point::FlushEnds);
    let mut durable = Vec::new();
    for group in shared.all_groups() {
        let value = shared
            .engine
            .get_durable(Family::State, &applied::key(group))
            .map_err(|error| error.to_string())?;
        if let Some(value) = value {
            let row = applied::decode(value).map_err(|error| format!("applied row of group {group}: {error}"))?;
            durable.push((group, row.index, row.term));
        }
    }
    Ok(durable)
}

/// Bytes that an unprivileged process may still write; the most there can be where the system does not say.
pub fn free_bytes(folder: &PathBuf) -> u64 {
    rustix::fs::statvfs(folder).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}
