//! Opening: the folder, the log and the rows, then the threads behind the handle.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use headwater_config::StoreConfig;
use tokio::sync::{Semaphore, watch};

use super::{Inner, Leadership, Shared, Store};
use crate::apply::Applier;
use crate::catalog::Catalog;
use crate::check;
use crate::clock::Clock;
use crate::driver::Driver;
use crate::engine::Engine;
use crate::engine::rocks::RocksEngine;
use crate::error::{EngineError, OpenError};
use crate::folder::Folder;
use crate::ids::{BootId, GroupId, LogIndex, NodeId, Term};
use crate::inbox::{Outlet, inbox};
use crate::log_thread::{self, Log};
use crate::maintenance::{self, Chore, free_bytes};
use crate::placement::Router;
use crate::raft_log;
use crate::replica::Replica;
use crate::slices::Slices;
use crate::tail::Tail;

/// The only node there is until clusters come.
const THIS_NODE: NodeId = NodeId(1);
/// How often a start looks whether all groups are led.
const START_POLL: Duration = Duration::from_millis(2);

impl Store {
    /// Opens or makes the data folder, replays the Raft log, and returns when this node leads every group. Blocks.
    pub fn open(config: &StoreConfig, clock: Arc<dyn Clock>) -> Result<Store, OpenError> {
        let folder = Folder::open(&config.path, config.groups)?;
        let log = raft_log::open(&folder.raft()).map_err(OpenError::RaftLog)?;
        check::refuse_lost_rows(&folder, &log)?;
        let engine: Arc<dyn Engine> = Arc::new(RocksEngine::open(&folder.state(), config.block_cache.as_usize())?);
        let catalog = Catalog::load(&*engine).map_err(|error| OpenError::Damaged(error.to_string()))?;

        let damaged = |error: EngineError| OpenError::Damaged(error.to_string());
        let slices = Arc::new(Slices::open(engine.clone(), config.slice_size.0).map_err(damaged)?);

        let mut groups = Vec::new();
        for id in (0..=config.groups).map(GroupId) {
            let applier = Applier::load(engine.clone(), slices.clone(), id)
                .map_err(|error| OpenError::Damaged(error.to_string()))?;
            let replica = Replica::open(log.clone(), id, THIS_NODE, applier.applied().index, config.admission.0)
                .map_err(OpenError::Damaged)?;
            slices.applied_to(applier.applied().time);
            groups.push((id, replica, applier));
        }
        let applied = groups.iter().map(|(_, _, applier)| applier.applied().index).collect();
        let shared = Arc::new(Shared {
            free_disk_bytes: AtomicU64::new(free_bytes(folder.path())),
            ..Shared::new(config, clock, engine, slices, &catalog, applied)
        });
        let (outlet, threads) = start(config, folder, &shared, log, groups, catalog)?;
        let admission_bytes = u32::try_from(config.admission.0).unwrap_or(u32::MAX);
        let inner = Inner {
            shared,
            outlet,
            admission: Arc::new(Semaphore::new(admission_bytes as usize)),
            admission_bytes,
            free_disk_min: config.free_disk_min.0,
            catalog_changes: tokio::sync::Mutex::new(()),
            threads: Mutex::new(threads),
        };
        let store = Store { inner: Arc::new(inner) };
        store.wait_until_led()?;
        store.make_default_stream()?;
        Ok(store)
    }

    fn wait_until_led(&self) -> Result<(), OpenError> {
        let shared = &self.inner.shared;
        while !shared.leadership.iter().all(|group| group.borrow().leading) {
            if let Some(reason) = shared.failed.borrow().clone() {
                return Err(OpenError::Damaged(reason));
            }
            std::thread::sleep(START_POLL);
        }
        Ok(())
    }

    /// On a thread of its own: `open` may be called where a runtime already runs.
    fn make_default_stream(&self) -> Result<(), OpenError> {
        let store = self.clone();
        let made = spawn("hw-bootstrap", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let outcome = runtime.map(|runtime| runtime.block_on(store.ensure_default_stream()));
            if let Err(error) | Ok(Err(error)) = outcome.map(|made| made.map_err(std::io::Error::other)) {
                store
                    .inner
                    .shared
                    .fail(format!("cannot make the default stream: {error}"));
            }
        })?;
        let _ = made.join();
        match self.inner.shared.failed.borrow().clone() {
            Some(reason) => Err(OpenError::Damaged(reason)),
            None => Ok(()),
        }
    }
}

impl Shared {
    /// Of a node that has applied each group's log so far, the catalog's first, and leads none.
    fn new(
        config: &StoreConfig,
        clock: Arc<dyn Clock>,
        engine: Arc<dyn Engine>,
        slices: Arc<Slices>,
        catalog: &Catalog,
        applied: Vec<LogIndex>,
    ) -> Shared {
        Shared {
            engine,
            slices,
            node: THIS_NODE,
            boot: BootId(clock.now().0.unsigned_abs()),
            groups: config.groups,
            tails: applied
                .iter()
                .map(|applied| Tail::new(*applied, config.tail_cache.as_usize()))
                .collect(),
            leadership: applied
                .iter()
                .map(|_| {
                    watch::Sender::new(Leadership {
                        leading: false,
                        term: Term(0),
                        leader: None,
                    })
                })
                .collect(),
            router: RwLock::new(Arc::new(Router::new(catalog, config.groups))),
            catalog: watch::Sender::new(Arc::new(catalog.clone())),
            reads: Arc::new(Semaphore::new(config.read_threads)),
            stopped: watch::Sender::new(false),
            free_disk_bytes: AtomicU64::new(u64::MAX),
            taken_bytes: AtomicU64::new(0),
            failed: watch::Sender::new(None),
            stop_asked: AtomicBool::new(false),
            clock,
        }
    }
}

/// Starts the threads behind the handle, and gives what leads to the driver.
fn start(
    config: &StoreConfig,
    folder: Folder,
    shared: &Arc<Shared>,
    log: Arc<raft_log::LogEngine>,
    groups: Vec<(GroupId, Replica, Applier)>,
    catalog: Catalog,
) -> Result<(Outlet, Vec<JoinHandle<()>>), OpenError> {
    let (outlet, inbox) = inbox();
    let (jobs, log_jobs) = channel();
    let (chores, maintenance_chores) = channel();
    let driver = Driver::new(
        shared.clone(),
        inbox,
        Log {
            engine: log.clone(),
            jobs,
        },
        chores.clone(),
        groups,
        catalog,
        config.flush_every.0,
    );
    let threads = vec![
        spawn("hw-log", {
            let (log, outlet) = (log.clone(), outlet.clone());
            move || log_thread::run(&log, log_jobs, &outlet)
        })?,
        spawn("hw-maintenance", {
            let (shared, path, outlet) = (shared.clone(), folder.path().clone(), outlet.clone());
            let retention_bytes = config.retention_bytes.0;
            move || {
                let last_word = LastWord {
                    shared: shared.clone(),
                    thread: "hw-maintenance",
                };
                maintenance::run(&shared, &log, &path, retention_bytes, maintenance_chores, &outlet);
                drop(last_word);
            }
        })?,
        spawn("hw-driver", {
            let last_word = LastWord {
                shared: shared.clone(),
                thread: "hw-driver",
            };
            move || {
                driver.run();
                let _ = chores.send(Chore::Stop);
                drop((last_word, folder));
            }
        })?,
    ];
    Ok((outlet, threads))
}

/// Ends with its thread: followers learn that nothing more comes, and a panic stops the node like any other failure.
struct LastWord {
    shared: Arc<Shared>,
    thread: &'static str,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared
                .fail(format!("the thread {} panicked; its message is above", self.thread));
        }
        self.shared.stopped.send_replace(true);
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    let io = |source| OpenError::Io {
        path: name.into(),
        source,
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(io)
}
