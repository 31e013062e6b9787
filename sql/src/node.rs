//! What SHOW CLIENTS and SHOW NODES say is known above this crate, by the broker and by who puts the layers together;
//! this is how they tell it.

use std::fmt;
use std::net::SocketAddr;

/// A connected MQTT client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientStatus {
    /// As the client gave it, or as it was assigned.
    pub client_id: String,
    /// If it gave one.
    pub username: Option<String>,
    /// Where it comes from.
    pub peer: String,
    /// The version of MQTT that it speaks.
    pub protocol: &'static str,
    /// Since when, in milliseconds since 1970.
    pub connected_at_ms: i64,
    /// How many subscriptions it has.
    pub subscriptions: usize,
    /// Bytes that wait for its socket.
    pub outbox_bytes: usize,
}

/// This node, as it is seen from outside of the engine.
pub struct NodeWatch {
    /// Where it listens, by the name of what it speaks there: `mqtt`, `mqtts`, `http`.
    pub addresses: Vec<(&'static str, SocketAddr)>,
    /// Who is connected, by client id.
    pub clients: Box<dyn Fn() -> Vec<ClientStatus> + Send + Sync>,
}

impl fmt::Debug for NodeWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeWatch")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}
