//! A durable session of a client that is away: brokers that promise durability keep every message for it.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

const PATIENCE: Duration = Duration::from_secs(20);

/// Subscribes to everything with QoS 1 and leaves. False when the broker does not keep sessions.
pub fn leave(address: SocketAddr) -> bool {
    let mut options = MqttOptions::new("bench-away", address.ip().to_string(), address.port());
    options.set_clean_session(false);
    let (client, mut connection) = Client::new(options, 10);
    if client.subscribe("#", QoS::AtLeastOnce).is_err() {
        return false;
    }
    while let Ok(Ok(event)) = connection.recv_timeout(PATIENCE) {
        if let Event::Incoming(Packet::SubAck(_)) = event {
            let _ = client.disconnect();
            // Until the DISCONNECT is written, or the broker has closed.
            while let Ok(Ok(event)) = connection.recv_timeout(PATIENCE) {
                if let Event::Outgoing(rumqttc::Outgoing::Disconnect) = event {
                    break;
                }
            }
            return true;
        }
    }
    false
}
