//! Wills: what a client leaves to be said when it is lost.
//!
//! Sessions are clean, so they end with their connection, and a will fires then, whatever its Will Delay Interval
//! [MQTT-3.1.3-9]. It is published after everything the client itself sent, and before a successor with the same
//! client id is let in.

use crate::publish::{Message, Origin, Publisher};

/// Publishes a will and waits for its commit.
pub async fn publish(publisher: &Publisher, will: &Message, origin: &Origin) {
    // Not delivered live: subscribers get it from the log like any other, whatever its QoS.
    if let Err(error) = publisher.publish(will.record(origin, None)).await {
        tracing::warn!(client_id = %origin.client_id, topic = %will.topic, %error, "a will was not published");
    }
}
