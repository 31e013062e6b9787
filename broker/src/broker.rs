//! [`Broker`]: starts the parts and stops them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headwater_config::BrokerConfig;
use headwater_store::Store;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::clients::ClientInfo;
use crate::dispatch::Dispatcher;
use crate::error::{BrokerError, End};
use crate::events;
use crate::limits::STOP_WAIT_MS;
use crate::listener::{self, Shared};
use crate::publish::Publisher;
use crate::queue;
use crate::scram;
use crate::sys;
use crate::transport::{Transport, doors};
use crate::views::ViewRows;

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    local_addrs: Vec<(Transport, SocketAddr)>,
    /// The listener and all connections.
    connections: TaskTracker,
    /// The dispatchers, and whoever looks after sessions and figures.
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// Of events.
    writer: tokio::task::JoinHandle<()>,
}

impl Broker {
    /// Opens the port and starts to serve. What is committed from now on is delivered.
    pub async fn start(store: Store, config: &BrokerConfig) -> Result<Broker, BrokerError> {
        let verifiers = match config.scram_users.as_os_str().is_empty() {
            true => None,
            false => Some(Arc::new(scram::load(&config.scram_users)?)),
        };
        let doors = doors(config).await?;
        let local_addrs: Vec<_> = doors
            .iter()
            .filter_map(|door| Some((door.transport, door.local_addr()?)))
            .collect();
        let (events, writer) = events::events(&store);
        let shared = Arc::new(Shared::new(store.clone(), config, events, verifiers));
        let writer = tokio::spawn(writer.run());
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
        queue::recover(&shared.store).await.map_err(BrokerError::Sessions)?;
        tasks.push(tokio::spawn(shared.sessions.clone().run()));
        tasks.push(tokio::spawn(sys::run(shared.clone())));
        let connections = TaskTracker::new();
        let free = Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS)));
        for door in doors {
            tracing::info!(transport = ?door.transport, address = ?door.local_addr(), "MQTT");
            connections.spawn(listener::run(door, shared.clone(), connections.clone(), free.clone()));
        }
        Ok(Broker {
            shared,
            local_addrs,
            connections,
            tasks,
            writer,
        })
    }

    /// Where it listens for plain MQTT, with the port that the system chose if it was asked to.
    pub fn local_addr(&self) -> SocketAddr {
        // The configuration has no way to leave that listener out.
        self.local_addr_of(Transport::Tcp).unwrap_or(([0, 0, 0, 0], 0).into())
    }

    /// The same for another transport, if it is configured.
    pub fn local_addr_of(&self, transport: Transport) -> Option<SocketAddr> {
        let found = self.local_addrs.iter().find(|(of, _)| *of == transport);
        found.map(|(_, address)| *address)
    }

    /// For publishing without a connection.
    pub fn publisher(&self) -> Publisher {
        self.shared.publisher.clone()
    }

    /// From now on clients may subscribe to views (`$view/…`), and ask them.
    pub fn serve_views(&self, rows: ViewRows) {
        self.shared.names.set_views(rows);
    }

    /// Who is connected, by client id.
    pub fn clients(&self) -> Vec<ClientInfo> {
        self.shared.clients.list()
    }

    /// What tells who is connected, for those who outlive the broker.
    pub fn watch_clients(&self) -> impl Fn() -> Vec<ClientInfo> + Send + Sync + use<> {
        let clients = self.shared.clients.clone();
        move || clients.list()
    }

    /// Where it listens, but for Unix sockets: scheme and address.
    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> + '_ {
        self.local_addrs
            .iter()
            .map(|(transport, address)| (transport.scheme(), *address))
    }

    /// Closes the port, acknowledges what was received, says goodbye (0x8B), publishes wills. The store must still run.
    pub async fn stop(mut self) {
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
        self.shared.queues.stop().await;
        self.shared.events.close();
        events::finish(&mut self.writer).await;
        for task in &self.tasks {
            task.abort();
        }
    }
}
