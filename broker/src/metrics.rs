//! The broker's figures. Handles are made once: looking a metric up by name for each message would show in a profile.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use crate::error::End;
use crate::subscriptions::Tally;

/// A counter that is also read here, for `$SYS`.
#[derive(Debug)]
pub struct Total {
    counter: Counter,
    value: AtomicU64,
}

impl Total {
    fn of(counter: Counter) -> Total {
        let value = AtomicU64::new(0);
        Total { counter, value }
    }

    /// Adds `by`.
    pub fn increment(&self, by: u64) {
        self.counter.increment(by);
        self.value.fetch_add(by, Ordering::Relaxed);
    }

    /// Since the start.
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// Handles of all metrics. Made after the recorder is installed.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Metrics {
    pub connections: Gauge,
    pub connections_accepted: Total,
    pub connections_refused: Total,
    pub received_bytes: Total,
    pub sent_bytes: Total,
    pub received_messages: Total,
    pub acknowledged_messages: Total,
    pub acknowledged_lost: Total,
    pub refused_messages: Total,
    pub delivered_messages: Total,
    pub queued_messages: Total,
    pub dropped_messages: Total,
    pub expired_messages: Total,
    pub oversize_messages: Total,
    pub slow_clients: Total,
    pub skipped_messages: Total,
    pub scanned_entries: Total,
    pub scanned_records: Total,
    pub queue_redelivered: Total,
    pub queue_dead: Total,
}

impl Metrics {
    /// Registers and describes everything.
    pub fn new() -> Metrics {
        describe();
        Metrics {
            connections: gauge!("headwater_mqtt_connections"),
            connections_accepted: Total::of(counter!("headwater_mqtt_connections_accepted_total")),
            connections_refused: Total::of(counter!("headwater_mqtt_connections_refused_total")),
            received_bytes: Total::of(counter!("headwater_mqtt_received_bytes_total")),
            sent_bytes: Total::of(counter!("headwater_mqtt_sent_bytes_total")),
            received_messages: Total::of(counter!("headwater_mqtt_received_messages_total")),
            acknowledged_messages: Total::of(counter!("headwater_mqtt_acknowledged_messages_total")),
            acknowledged_lost: Total::of(counter!("headwater_mqtt_acknowledged_lost_messages_total")),
            refused_messages: Total::of(counter!("headwater_mqtt_refused_messages_total")),
            delivered_messages: Total::of(counter!("headwater_mqtt_delivered_messages_total")),
            queued_messages: Total::of(counter!("headwater_mqtt_queued_messages_total")),
            dropped_messages: Total::of(counter!("headwater_mqtt_dropped_messages_total")),
            expired_messages: Total::of(counter!("headwater_mqtt_expired_messages_total")),
            oversize_messages: Total::of(counter!("headwater_mqtt_oversize_messages_total")),
            slow_clients: Total::of(counter!("headwater_mqtt_slow_clients_total")),
            skipped_messages: Total::of(counter!("headwater_mqtt_skipped_messages_total")),
            scanned_entries: Total::of(counter!("headwater_mqtt_scanned_entries_total")),
            scanned_records: Total::of(counter!("headwater_mqtt_scanned_records_total")),
            queue_redelivered: Total::of(counter!("headwater_mqtt_queue_redelivered_messages_total")),
            queue_dead: Total::of(counter!("headwater_mqtt_queue_dead_messages_total")),
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
        "QoS 1 and 2 messages acknowledged"
    );
    describe_counter!(
        "headwater_mqtt_acknowledged_lost_messages_total",
        "messages that were acknowledged from memory (ACK = 'memory') and then not committed"
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
        "headwater_mqtt_skipped_messages_total",
        "messages that a session which was away did not get because of its limits"
    );
    describe_counter!(
        "headwater_mqtt_scanned_entries_total",
        "entries of the log, or their rows, that were looked at for sessions which catch up"
    );
    describe_counter!(
        "headwater_mqtt_scanned_records_total",
        "records that were read for them"
    );
    describe_counter!(
        "headwater_mqtt_queue_redelivered_messages_total",
        "records of queues that were not answered in time"
    );
    describe_counter!(
        "headwater_mqtt_queue_dead_messages_total",
        "records of queues that went to a dead letter stream"
    );
    describe_counter!(
        "headwater_mqtt_slow_clients_total",
        "times that a client's outbox was full of QoS 1 or 2 messages, so that it was read from the log"
    );
}
