//! Webhooks: sink connectors of kind `webhook`, each a cursor in every shard of its stream.
//!
//! [`supervise`] watches the catalog and keeps one task per connector that should run; a connector's task has one
//! [`Delivery`] per shard, so that order is kept within a shard and one slow shard does not hold up the others.

mod address;
mod cursor;
mod delivery;
mod forget;
mod message;
mod options;
mod retry;
mod sender;
mod signature;
mod status;
mod target;
mod tls;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use headwater_config::WebhookConfig;
use headwater_sql::ConnectorError;
use headwater_store::{Catalog, ConnectorRow, Store, StreamRow};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use delivery::{Delivery, End};
use target::Allowed;

pub(crate) use options::WebhookOptions;
pub use options::check_connector;
pub(crate) use status::{Snapshot, Statuses};

/// Runs the webhooks of the catalog until `stopping`; then lets the attempts under way finish.
pub(crate) async fn supervise(store: Store, config: WebhookConfig, statuses: Statuses, stopping: CancellationToken) {
    let mut catalog = store.catalog();
    let supervisor = Supervisor {
        allowed: Allowed::new(&config.allow_private),
        store,
        config,
        statuses,
        stopping,
    };
    tokio::spawn(
        supervisor
            .stopping
            .clone()
            .run_until_cancelled_owned(forget::sweep(supervisor.store.clone())),
    );
    let mut connectors = Connectors::default();
    loop {
        let snapshot = catalog.borrow_and_update().clone();
        supervisor.reconcile(&snapshot, &mut connectors);
        tokio::select! {
            changed = catalog.changed() => if changed.is_err() { break },
            () = supervisor.stopping.cancelled() => break,
        }
    }
    for connector in connectors.running.into_values() {
        connector.stop.cancel();
        connector.task.await.ok();
    }
}

struct Supervisor {
    store: Store,
    config: WebhookConfig,
    allowed: Allowed,
    statuses: Statuses,
    stopping: CancellationToken,
}

/// The connectors of the last catalog.
#[derive(Default)]
struct Connectors {
    /// All of them, to see which are gone.
    known: HashSet<u64>,
    running: HashMap<u64, Running>,
}

/// A connector that runs, or did: its task is kept so that the next one begins after it.
struct Running {
    row: Arc<ConnectorRow>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Supervisor {
    fn reconcile(&self, catalog: &Catalog, connectors: &mut Connectors) {
        let wanted: HashMap<u64, _> = catalog
            .connectors
            .values()
            .filter(|row| row.sink && row.kind == "webhook")
            .map(|row| (row.id, row))
            .collect();
        let known = std::mem::replace(&mut connectors.known, wanted.keys().copied().collect());
        let connectors = &mut connectors.running;
        for id in known.into_iter().filter(|id| !wanted.contains_key(id)) {
            self.statuses.forget(id);
            let (store, ran) = (self.store.clone(), connectors.remove(&id));
            tokio::spawn(async move {
                if let Some(running) = ran {
                    running.stop.cancel();
                    running.task.await.ok();
                }
                forget::forget(&store, id).await;
            });
        }
        for (id, row) in wanted {
            let Some(stream) = catalog.stream_by_id(row.stream) else {
                continue;
            };
            let current = connectors.get(&id);
            if !row.running {
                current.inspect(|running| running.stop.cancel());
            } else if current.is_none_or(|running| running.stop.is_cancelled() || running.row != *row) {
                let before = connectors.remove(&id);
                connectors.insert(id, self.start(row.clone(), stream.clone(), before));
            }
        }
    }

    fn start(&self, row: Arc<ConnectorRow>, stream: Arc<StreamRow>, before: Option<Running>) -> Running {
        let stop = self.stopping.child_token();
        let deliveries = self.deliveries(&row, &stream, &stop);
        let store = self.store.clone();
        let (name, status) = (row.name.clone(), self.statuses.of(row.id));
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Some(before) = before {
                before.stop.cancel();
                before.task.await.ok();
            }
            match deliveries {
                Ok(deliveries) => {
                    tracing::info!(connector = name, stream = stream.name, "webhook started");
                    run(&store, &name, deliveries).await;
                }
                // It was checked when it was made, by this or by an older version.
                Err(error) => {
                    tracing::error!(connector = name, %error, "webhook cannot run");
                    status.error(&error.to_string(), store.now());
                }
            }
        }));
        Running { row, stop, task }
    }

    fn deliveries(
        &self,
        row: &Arc<ConnectorRow>,
        stream: &Arc<StreamRow>,
        stop: &CancellationToken,
    ) -> Result<Vec<Delivery>, ConnectorError> {
        let options = WebhookOptions::parse(&row.options)?;
        let delivery = |shard| Delivery {
            store: self.store.clone(),
            config: self.config.clone(),
            connector: row.clone(),
            stream: stream.clone(),
            shard,
            options: options.clone(),
            allowed: self.allowed.clone(),
            status: self.statuses.of(row.id),
            stop: stop.child_token(),
        };
        Ok(stream.shard_ids().map(delivery).collect())
    }
}

/// Runs the deliveries of all shards. When one finds the far side gone, all stop and the catalog says so.
async fn run(store: &Store, name: &str, deliveries: Vec<Delivery>) {
    let stops: Vec<_> = deliveries.iter().map(|delivery| delivery.stop.clone()).collect();
    let mut tasks: JoinSet<End> = deliveries.into_iter().map(Delivery::run).collect();
    while let Some(ended) = tasks.join_next().await {
        if !matches!(ended, Ok(End::Gone)) {
            continue;
        }
        stops.iter().for_each(CancellationToken::cancel);
        tracing::warn!(
            connector = name,
            "webhook stopped: the far side answered 410 Gone; RESUME CONNECTOR starts it again"
        );
        if let Err(error) = store.set_connector_running(name, false).await {
            tracing::error!(connector = name, %error, "cannot mark the webhook as stopped");
        }
    }
}
