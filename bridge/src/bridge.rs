//! [`Bridge`]: starts the listener and the webhooks, and stops them.

use std::net::SocketAddr;
use std::sync::Arc;

use headwater_broker::Publisher;
use headwater_config::BridgeConfig;
use headwater_sql::Engine;
use headwater_store::Store;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::BodyRoom;
use crate::error::BridgeError;
use crate::limits::{METRICS_UPKEEP, RESUME_CHECK, STOP_TIMEOUT};
use crate::push::Resumable;
use crate::routes::Shared;
use crate::webhook::Statuses;
use crate::{connectors, metrics, server, webhook};

/// The running HTTP face and the running webhooks.
#[derive(Debug)]
pub struct Bridge {
    local_addr: SocketAddr,
    /// Asks everyone to finish.
    stopping: CancellationToken,
    /// Ends those who did not.
    killed: CancellationToken,
    tasks: TaskTracker,
    resumable: Arc<Resumable>,
}

impl Bridge {
    /// Listens on `config.http_listen` and starts the webhooks of the catalog. `handle` renders what `/metrics` shows.
    pub async fn start(
        store: Store,
        engine: Engine,
        publisher: Publisher,
        config: &BridgeConfig,
        handle: PrometheusHandle,
    ) -> Result<Bridge, BridgeError> {
        metrics::describe();
        let listener = server::bind(config.http_listen).await?;
        let local_addr = listener.local_addr().map_err(BridgeError::Listener)?;
        let (stopping, killed, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let webhooks = Statuses::default();
        engine.watch_connectors(connectors::watch(webhooks.clone()));
        let supervise = webhook::supervise(
            store.clone(),
            config.webhook.clone(),
            webhooks.clone(),
            stopping.clone(),
        );
        tasks.spawn(killed.clone().run_until_cancelled_owned(supervise));
        tasks.spawn(stopping.clone().run_until_cancelled_owned(keep_up(handle.clone())));
        let resumable = Resumable::new();
        tasks.spawn(stopping.clone().run_until_cancelled_owned(end_late(resumable.clone())));
        let shared = Arc::new(Shared {
            store,
            engine,
            publisher,
            config: config.clone(),
            metrics: handle,
            bodies: BodyRoom::new(config.body_max.as_usize()),
            webhooks,
            resumable: resumable.clone(),
            stopping: stopping.clone(),
        });
        tasks.spawn(server::accept(listener, shared, tasks.clone(), killed.clone()));
        tracing::info!(address = %local_addr, "listening for HTTP");
        Ok(Bridge {
            local_addr,
            stopping,
            killed,
            tasks,
            resumable,
        })
    }

    /// Where it listens: the port that was given, or the one that port 0 became.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Takes no new requests, lets the open ones and the webhooks' attempts finish for a moment, ends event streams.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        if timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                left = self.tasks.len(),
                "some HTTP requests or webhook attempts did not finish in time"
            );
            self.killed.cancel();
            self.tasks.wait().await;
        }
        self.resumable.end_all();
    }
}

async fn end_late(resumable: Arc<Resumable>) {
    loop {
        tokio::time::sleep(RESUME_CHECK).await;
        resumable.end_late(Instant::now());
    }
}

async fn keep_up(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(METRICS_UPKEEP).await;
        handle.run_upkeep();
    }
}
