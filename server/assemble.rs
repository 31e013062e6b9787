//! Builds the layers from the bottom up, and stops them from the top down.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use headwater_bridge::{Bridge, MetricsHandle, check_connector};
use headwater_broker::{Broker, ClientInfo};
use headwater_config::Config;
use headwater_sql::{ClientStatus, Engine, NodeWatch};
use headwater_store::{Store, SystemClock};

/// A running node.
pub struct Server {
    store: Store,
    broker: Broker,
    engine: Engine,
    bridge: Bridge,
}

impl Server {
    /// Opens the store, then starts the broker and the SQL engine, which meet only in it, then the bridge over all.
    pub async fn start(config: &Config, metrics: MetricsHandle) -> Result<Server> {
        let store = {
            let config = config.store.clone();
            tokio::task::spawn_blocking(move || Store::open(&config, Arc::new(SystemClock))).await??
        };
        let broker = match Broker::start(store.clone(), &config.broker).await {
            Ok(broker) => broker,
            Err(error) => {
                store.stop().await;
                return Err(error.into());
            }
        };
        let engine = Engine::start(
            store.clone(),
            &config.sql,
            Arc::new(check_connector(&config.bridge.webhook)),
        )?;
        let views = engine.clone();
        broker.serve_views(Arc::new(move |view, key| {
            let rows = views.view_records(view, key)?;
            Some(Box::pin(async move { rows.await.map_err(|error| error.to_string()) }))
        }));
        let bridge = Bridge::start(
            store.clone(),
            engine.clone(),
            broker.publisher(),
            &config.bridge,
            metrics,
        )
        .await;
        match bridge {
            Ok(bridge) => {
                engine.watch_node(watch(&broker, &bridge));
                Ok(Server {
                    store,
                    broker,
                    engine,
                    bridge,
                })
            }
            Err(error) => {
                broker.stop().await;
                engine.stop().await;
                store.stop().await;
                Err(error.into())
            }
        }
    }

    pub fn mqtt_address(&self) -> SocketAddr {
        self.broker.local_addr()
    }

    pub fn http_address(&self) -> SocketAddr {
        self.bridge.local_addr()
    }

    /// Resolves when the store can no longer keep its promises.
    pub async fn store_failed(&self) -> String {
        self.store.failed().await
    }

    /// Takes no more requests, finishes those under way, commits, closes.
    pub async fn stop(self) {
        self.bridge.stop().await;
        self.broker.stop().await;
        self.engine.stop().await;
        self.store.stop().await;
    }
}

/// What SHOW CLIENTS and SHOW NODES show: the broker and the SQL engine never see each other.
fn watch(broker: &Broker, bridge: &Bridge) -> NodeWatch {
    let clients = broker.watch_clients();
    let status = |client: ClientInfo| ClientStatus {
        client_id: client.client_id.to_string(),
        username: client.username.map(|name| name.to_string()),
        peer: client.peer.to_string(),
        protocol: client.version,
        connected_at_ms: client.connected_at.0,
        subscriptions: client.subscriptions,
        outbox_bytes: client.waiting_bytes,
    };
    NodeWatch {
        addresses: broker.addresses().chain([("http", bridge.local_addr())]).collect(),
        clients: Box::new(move || clients().into_iter().map(status).collect()),
    }
}
