//! The broker's figures. Handles are made once: looking a metric up by name for each message would show in a profile.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use crate::error::End;
use crate::subscriptions::Tally;

/// Handles of all metrics. Made after the recorder is installed.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Metrics {
    pub connections: Gauge,
    pub connections_accepted: Counter,
    pub connections_refused: Counter,
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    pub received_messages: Counter,
    pub acknowledged_messages: Counter,
    pub refused_messages: Counter,
    pub delivered_messages: Counter,
    pub queued_messages: Counter,
    pub dropped_messages: Counter,
    pub expired_messages: Counter,
    pub oversize_messages: Counter,
    pub slow_clients: Counter,
}

impl Metrics {
    /// Registers and describes everything.
    pub fn new() -> Metrics {
        describe();
        Metrics {
            connections: gauge!("headwater_mqtt_connections"),
            connections_accepted: counter!("headwater_mqtt_connections_accepted_total"),
            connections_refused: counter!("headwater_mqtt_connections_refused_total"),
            received_bytes: counter!("headwater_mqtt_received_bytes_total"),
            sent_bytes: counter!("headwater_mqtt_sent_bytes_total"),
            received_messages: counter!("headwater_mqtt_received_messages_total"),
            acknowledged_messages: counter!("headwater_mqtt_acknowledged_messages_total"),
            refused_messages: counter!("headwater_mqtt_refused_messages_total"),
            delivered_messages: counter!("headwater_mqtt_delivered_messages_total"),
            queued_messages: counter!("headwater_mqtt_queued_messages_total"),
            dropped_messages: counter!("headwater_mqtt_dropped_messages_total"),
            expired_messages: counter!("headwater_mqtt_expired_messages_total"),
            oversize_messages: counter!("headwater_mqtt_oversize_messages_total"),
            slow_clients: counter!("headwater_mqtt_slow_clients_total"),
        }
    }

    /// Counts what a delivery to outboxes did.
    pub fn tally(&self, tally: Tally) {
        for (counter, count) in [
            (&self.queued_messages, tally.queued),
            (&self.dropped_messages, tally.dropped),
            (&self.slow_clients, tally.fell_behind),
        ] {
            if count > 0 {
                counter.increment(count);
            }
        }
    }

    /// Counts the end of a connection, by its reason.
    pub fn ended(&self, end: &End) {
        counter!("headwater_mqtt_connections_ended_total", "reason" => end.label()).increment(1);
    }
}

fn describe() {
    describe_gauge!("headwater_mqtt_connections", "clients connected now");
    describe_counter!("headwater_mqtt_connections_accepted_total", "sockets accepted");
    describe_counter!(
        "headwater_mqtt_connections_refused_total",
        "sockets closed because connections_max was reached"
    );
    describe_counter!("headwater_mqtt_connections_ended_total", "connections ended, by reason");
    describe_counter!("headwater_mqtt_received_bytes_total", "bytes read from clients");
    describe_counter!("headwater_mqtt_sent_bytes_total", "bytes written to clients");
    describe_counter!("headwater_mqtt_received_messages_total", "PUBLISH packets received");
    describe_counter!(
        "headwater_mqtt_acknowledged_messages_total",
        "QoS 1 and 2 messages committed and acknowledged"
    );
    describe_counter!(
        "headwater_mqtt_refused_messages_total",
        "messages refused or not committed"
    );
    describe_counter!(
        "headwater_mqtt_delivered_messages_total",
        "PUBLISH packets made for clients"
    );
    describe_counter!(
        "headwater_mqtt_queued_messages_total",
        "deliveries that entered an outbox"
    );
    describe_counter!(
        "headwater_mqtt_dropped_messages_total",
        "QoS 0 deliveries dropped at a full outbox"
    );
    describe_counter!(
        "headwater_mqtt_expired_messages_total",
        "deliveries left out because the message had expired"
    );
    describe_counter!(
        "headwater_mqtt_oversize_messages_total",
        "deliveries left out because of the client's Maximum Packet Size"
    );
    describe_counter!(
        "headwater_mqtt_slow_clients_total",
        "times that a client's outbox was full of QoS 1 or 2 messages, so that it was read from the log"
    );
}
