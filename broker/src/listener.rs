//! The MQTT ports: accept sockets, up to a limit, and give each its task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use headwater_config::BrokerConfig;
use headwater_store::{GroupId, LogIndex, Store};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catch_up::Backlog;
use crate::clients::Clients;
use crate::connection;
use crate::dispatch::Dispatched;
use crate::events::Events;
use crate::limits::ACCEPT_PAUSE_MS;
use crate::metrics::Metrics;
use crate::publish::Publisher;
use crate::queue::Queues;
use crate::refusals::Refusals;
use crate::scan::Scans;
use crate::scram::Verifiers;
use crate::session::SessionLimits;
use crate::sessions::Sessions;
use crate::share::Shares;
use crate::subscriptions::Subscriptions;
use crate::sys::Sys;
use crate::transport::Door;
use crate::views::Names;

/// What all connections share.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Shared {
    pub store: Store,
    pub publisher: Publisher,
    pub subscriptions: Arc<Subscriptions>,
    pub clients: Arc<Clients>,
    pub sessions: Sessions,
    pub shares: Arc<Shares>,
    pub queues: Queues,
    pub names: Arc<Names>,
    pub metrics: Arc<Metrics>,
    pub scans: Arc<Scans>,
    pub refusals: Refusals,
    pub sys: Sys,
    pub events: Events,
    pub session_limits: SessionLimits,
    /// Of those who may authenticate with SCRAM-SHA-256; None: it is not offered.
    pub verifiers: Option<Arc<Verifiers>>,
    pub packet_max: usize,
    pub outbox_bytes: usize,
    pub backlog: Backlog,
    pub connect_timeout: Duration,
    /// By group, the catalog's included.
    pub dispatched: Vec<Arc<Dispatched>>,
    /// What recurs in all connections falls together, counted from here.
    pub started: Instant,
    /// Cancelled when the broker stops.
    pub stopping: CancellationToken,
    connections: AtomicU64,
    /// Makes assigned client ids hard to guess, so that nobody takes a session over by counting.
    salt: std::hash::RandomState,
}

impl Shared {
    /// For a broker of `store` with `config`.
    pub fn new(store: Store, config: &BrokerConfig, events: Events, verifiers: Option<Arc<Verifiers>>) -> Shared {
        let publisher = Publisher::new(store.clone());
        let shares: Arc<Shares> = Arc::default();
        let metrics = Arc::new(Metrics::new());
        Shared {
            sessions: Sessions::new(publisher.clone(), shares.clone()),
            shares,
            queues: Queues::new(config),
            names: Arc::new(Names::new(store.clone())),
            publisher,
            dispatched: (0..=store.data_groups().count()).map(|_| Arc::default()).collect(),
            started: Instant::now(),
            subscriptions: Arc::default(),
            clients: Arc::default(),
            scans: Arc::new(Scans::new(&store, &metrics)),
            metrics,
            refusals: Refusals::default(),
            sys: Sys::default(),
            events,
            session_limits: SessionLimits::from(config),
            verifiers,
            packet_max: config.packet_max.as_usize(),
            outbox_bytes: config.outbox.as_usize(),
            backlog: Backlog {
                messages_max: config.session_messages_max,
                bytes_max: config.session_bytes_max.as_usize(),
                age_max_ms: config.session_age_max.0,
            },
            connect_timeout: config.connect_timeout.duration(),
            stopping: CancellationToken::new(),
            store,
            connections: AtomicU64::new(0),
            salt: std::hash::RandomState::new(),
        }
    }

    /// Groups, the catalog's included.
    pub fn groups(&self) -> usize {
        self.dispatched.len()
    }

    /// How far a group's dispatcher is.
    pub fn dispatched(&self, group: GroupId) -> &Arc<Dispatched> {
        &self.dispatched[usize::from(group.0)]
    }

    /// How far each group is applied, by its number.
    pub fn applied(&self) -> Arc<[LogIndex]> {
        let groups = self.store.data_groups().map(|group| self.store.applied(group));
        // Group 0 is the catalog, where nothing is published.
        std::iter::once(LogIndex(u64::MAX)).chain(groups).collect()
    }

    /// A number that no other connection of this process has.
    pub fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// A client id for a client without one.
    pub fn assign_client_id(&self) -> ByteString {
        use std::hash::BuildHasher;
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        format!(
            "auto-{number:x}-{:016x}",
            self.salt.hash_one((number, self.store.boot()))
        )
        .into()
    }
}

/// Accepts until the broker stops. `free` has a permit for each connection that there may be, at all doors together.
pub async fn run(door: Door, shared: Arc<Shared>, tasks: TaskTracker, free: Arc<Semaphore>) {
    loop {
        let (guest, peer) = tokio::select! {
            accepted = door.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                    continue;
                }
            },
            () = shared.stopping.cancelled() => return,
        };
        let Ok(permit) = free.clone().try_acquire_owned() else {
            shared.metrics.connections_refused.increment(1);
            tracing::debug!(%peer, "refused: broker.connections_max is reached");
            continue;
        };
        shared.metrics.connections_accepted.increment(1);
        let served = connection::run(shared.clone(), guest, peer);
        tasks.spawn(async move {
            served.await;
            drop(permit);
        });
    }
}
