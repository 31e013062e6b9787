//! Who is connected: one connection for each client id [MQTT-3.1.4-3].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytestring::ByteString;
use headwater_store::TimestampMs;
use tokio::sync::Semaphore;

use crate::error::End;
use crate::outbox::Outbox;
use crate::packet::Version;

/// One connected client, as the rest of the node sees it.
#[derive(Debug)]
pub struct Client {
    /// The number of this connection, never used again by this process.
    pub connection: u64,
    /// As the client gave it, or as it was assigned.
    pub client_id: ByteString,
    /// If it gave one.
    pub username: Option<ByteString>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// What it speaks.
    pub version: Version,
    /// Since when.
    pub connected_at: TimestampMs,
    /// What waits for it, and the way to end it.
    pub outbox: Outbox,
    /// How many subscriptions it has.
    pub subscriptions: AtomicUsize,
    /// Told when the connection is over, its will published.
    pub gone: Gone,
}

/// Whether a connection is over. It is part of every client, so it is no larger than it has to be.
#[derive(Debug)]
pub struct Gone(Semaphore);

impl Default for Gone {
    fn default() -> Gone {
        Gone(Semaphore::const_new(0))
    }
}

impl Gone {
    /// It is.
    pub fn tell(&self) {
        self.0.close();
    }

    /// Waits until it is.
    pub async fn wait(&self) {
        // There is never a permit, so this ends with the semaphore.
        let _ = self.0.acquire().await;
    }
}

/// Says that a client is gone, however its task ends.
#[derive(Debug)]
pub struct Presence(pub Arc<Client>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.gone.tell();
    }
}

/// A line in the list of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    /// As the client gave it, or as it was assigned.
    pub client_id: ByteString,
    /// If it gave one.
    pub username: Option<ByteString>,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// What it speaks: `3.1`, `3.1.1` or `5.0`.
    pub version: &'static str,
    /// Since when.
    pub connected_at: TimestampMs,
    /// How many subscriptions it has.
    pub subscriptions: usize,
    /// Bytes that wait for its socket.
    pub waiting_bytes: usize,
}

/// All connected clients, by client id.
#[derive(Debug, Default)]
pub struct Clients(Mutex<HashMap<ByteString, Arc<Client>>>);

impl Clients {
    /// Adds a client. The one that had the same client id is told to end, and returned so that it can be waited for.
    pub fn register(&self, client: &Arc<Client>) -> Option<Arc<Client>> {
        let previous = self.lock().insert(client.client_id.clone(), client.clone());
        if let Some(previous) = &previous {
            previous.outbox.end(End::taken_over());
        }
        previous
    }

    /// Removes a client, unless another connection has its client id by now.
    pub fn unregister(&self, client: &Client) {
        let mut clients = self.lock();
        if clients
            .get(&client.client_id)
            .is_some_and(|current| current.connection == client.connection)
        {
            clients.remove(&client.client_id);
        }
    }

    /// Ends all.
    pub fn end_all(&self, end: &End) {
        self.lock().values().for_each(|client| client.outbox.end(end.clone()));
    }

    /// Those whose outbox had no room for QoS 0 messages since the last call, and how often.
    pub fn take_dropped(&self) -> Vec<(Arc<Client>, u64)> {
        let clients: Vec<Arc<Client>> = self.lock().values().cloned().collect();
        let dropped = clients.into_iter().map(|client| {
            let count = client.outbox.take_dropped();
            (client, count)
        });
        dropped.filter(|(_, count)| *count > 0).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// All of them, by client id.
    pub fn list(&self) -> Vec<ClientInfo> {
        let clients: Vec<Arc<Client>> = self.lock().values().cloned().collect();
        let mut list: Vec<ClientInfo> = clients.iter().map(|client| client.info()).collect();
        list.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        list
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ByteString, Arc<Client>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn info(&self) -> ClientInfo {
        ClientInfo {
            client_id: self.client_id.clone(),
            username: self.username.clone(),
            peer: self.peer,
            version: self.version.as_str(),
            connected_at: self.connected_at,
            subscriptions: self.subscriptions.load(Ordering::Relaxed),
            waiting_bytes: self.outbox.bytes(),
        }
    }
}
