//! [`Broker`]: starts the parts and stops them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headwater_config::BrokerConfig;
use headwater_store::Store;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::clients::ClientInfo;
use crate::dispatch::Dispatcher;
use crate::error::{BrokerError, End};
use crate::limits::STOP_WAIT_MS;
use crate::listener::{self, Shared};
use crate::publish::Publisher;
use crate::sys;

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    /// The listener and all connections.
    connections: TaskTracker,
    /// The dispatchers, and whoever looks after sessions and figures.
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Broker {
    /// Opens the port and starts to serve. What is committed from now on is delivered.
    pub async fn start(store: Store, config: &BrokerConfig) -> Result<Broker, BrokerError> {
        let address = config.mqtt_listen;
        let listen = |source| BrokerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let local_addr = listener.local_addr().map_err(listen)?;
        let shared = Arc::new(Shared::new(store.clone(), config));
        let dispatchers = store.data_groups().map(|group| {
            let follower = store.follow_group(group);
            let dispatched = shared.dispatched(group).clone();
            // Looked at after the follower was made: what lies between is read from the log by whoever wants it.
            dispatched.start_after(store.applied(group));
            let (subscriptions, metrics) = (shared.subscriptions.clone(), shared.metrics.clone());
            Dispatcher::new(&store, follower, dispatched, subscriptions, metrics)
        });
        let mut tasks: Vec<_> = dispatchers.map(|dispatcher| tokio::spawn(dispatcher.run())).collect();
        shared.sessions.recover().await.map_err(BrokerError::Sessions)?;
        tasks.push(tokio::spawn(shared.sessions.clone().run()));
        tasks.push(tokio::spawn(sys::run(shared.clone())));
        let connections = TaskTracker::new();
        connections.spawn(listener::run(
            listener,
            shared.clone(),
            connections.clone(),
            config.connections_max,
        ));
        tracing::info!(address = %local_addr, "MQTT");
        Ok(Broker {
            shared,
            local_addr,
            connections,
            tasks,
        })
    }

    /// Where it listens, with the port that the system chose if it was asked to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// For publishing without a connection.
    pub fn publisher(&self) -> Publisher {
        self.shared.publisher.clone()
    }

    /// Who is connected, by client id.
    pub fn clients(&self) -> Vec<ClientInfo> {
        self.shared.clients.list()
    }

    /// Closes the port, acknowledges what was received, says goodbye (0x8B), publishes wills. The store must still run.
    pub async fn stop(self) {
        self.shared.stopping.cancel();
        self.shared.clients.end_all(&End::shutdown());
        self.connections.close();
        if tokio::time::timeout(Duration::from_millis(STOP_WAIT_MS), self.connections.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = self.connections.len(),
                "stopped without waiting for all connections"
            );
        }
        for task in &self.tasks {
            task.abort();
        }
    }
}
