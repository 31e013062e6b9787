//! Webhooks: sink connectors of kind `webhook`, each a cursor in every shard of its stream.
//!
//! [`supervise`] watches the catalog and keeps one task per connector that should run; a connector's task has one
//! [`Delivery`] per shard, so that order is kept within a shard and one slow shard does not hold up the others.

mod address;
mod cursor;
mod delivery;
mod message;
mod options;
mod retry;
mod sender;
mod signature;
mod status;
mod target;
mod tls;

use std::collections::HashMap;
use std::sync::Arc;

use headwater_config::WebhookConfig;
use headwater_store::{Batch, Catalog, ConnectorRow, Store, StreamRow, tables};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use delivery::{Delivery, End};
use target::Allowed;

pub(crate) use options::WebhookOptions;
pub use options::check_connector;
pub(crate) use status::Statuses;

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
    let mut connectors = HashMap::new();
    loop {
        let snapshot = catalog.borrow_and_update().clone();
        supervisor.reconcile(&snapshot, &mut connectors);
        tokio::select! {
            changed = catalog.changed() => if changed.is_err() { break },
            () = supervisor.stopping.cancelled() => break,
        }
    }
    for connector in connectors.into_values() {
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

/// A connector that runs, or did: its task is kept so that the next one begins after it.
struct Running {
    row: Arc<ConnectorRow>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Supervisor {
    fn reconcile(&self, catalog: &Catalog, connectors: &mut HashMap<u64, Running>) {
        let wanted: HashMap<u64, _> = catalog
            .connectors
            .values()
            .filter(|row| row.sink && row.kind == "webhook")
            .map(|row| (row.id, row))
            .collect();
        let dropped: Vec<u64> = connectors
            .keys()
            .copied()
            .filter(|id| !wanted.contains_key(id))
            .collect();
        for gone in dropped.iter().filter_map(|id| connectors.remove(id)) {
            gone.stop.cancel();
            self.statuses.forget(gone.row.id);
            tokio::spawn(forget(self.store.clone(), gone));
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
                    status.error(&error, store.now());
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
    ) -> Result<Vec<Delivery>, String> {
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

/// Removes the cursors of a connector that was dropped.
async fn forget(store: Store, gone: Running) {
    gone.task.await.ok();
    let stream = store.catalog().borrow().stream_by_id(gone.row.stream).cloned();
    for shard in stream.iter().flat_map(|stream| stream.shard_ids()) {
        let batch = Batch::new(shard.group).delete(tables::CONNECTOR_CURSOR, cursor::key(gone.row.id, shard));
        if let Err(error) = store.write(batch).await {
            tracing::debug!(connector = gone.row.name, %error, "a cursor of a dropped connector stays behind");
        }
    }
}
