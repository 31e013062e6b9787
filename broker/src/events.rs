//! What happens to clients, as records of the stream `$events`: who came, who went and why, what they subscribe to, who was
//! turned away, who could not keep up. A device that was lost can be asked for with SQL, months later.
//!
//! Records have the client id as their key, so the events of one device are in order and found by its id, and the topic
//! `$events/<event>`, so that MQTT clients may follow them live. Nothing waits for an event: it is put into a bounded queue,
//! and one task writes what has gathered there in one Batch for each group. What does not fit is counted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use headwater_store::{
    Batch, CatalogError, Header, Placement, Qos, Record, Store, StreamOptions, StreamRow, StreamSpec, TopicName,
    shard_for,
};
use metrics::{Counter, counter, describe_counter};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::clients::Client;
use crate::error::End;
use crate::limits::{EVENTS_DURATION_MS, EVENTS_PER_TURN_MAX, EVENTS_WAITING_MAX, FLUSH_WAIT_MS};

/// The stream, and the first level of its topics.
pub const EVENTS: &str = "$events";

/// Where events are told.
#[derive(Debug)]
pub struct Events {
    /// None once the broker stops.
    sender: Mutex<Option<mpsc::Sender<Record>>>,
    lost: Counter,
}

/// Writes the events.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    receiver: mpsc::Receiver<Record>,
    lost: Counter,
}

/// Both ends.
pub fn events(store: &Store) -> (Events, Writer) {
    describe_counter!(
        "headwater_mqtt_events_lost_total",
        "events of clients that could not be written"
    );
    let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
    let lost = counter!("headwater_mqtt_events_lost_total");
    let events = Events {
        sender: Mutex::new(Some(sender)),
        lost: lost.clone(),
    };
    let writer = Writer {
        store: store.clone(),
        receiver,
        lost,
    };
    (events, writer)
}

impl Events {
    /// A client was let in.
    pub fn connected(&self, client: &Client, session_present: bool, expiry_s: u32) {
        self.tell(
            "connected",
            client,
            [
                ("session_present", json!(session_present)),
                ("session_expiry_s", json!(expiry_s)),
            ],
        );
    }

    /// Its connection is over.
    pub fn disconnected(&self, client: &Client, end: &End) {
        let detail = match end {
            End::Server { detail, .. } => json!(detail),
            End::Client { .. } | End::Lost => Value::Null,
        };
        self.tell(
            "disconnected",
            client,
            [("reason", json!(end.label())), ("detail", detail)],
        );
    }

    /// It was granted a subscription.
    pub fn subscribed(&self, client: &Client, filter: &str, qos: Qos) {
        self.tell(
            "subscribed",
            client,
            [("filter", json!(filter)), ("qos", json!(qos.bits()))],
        );
    }

    /// It gave one back.
    pub fn unsubscribed(&self, client: &Client, filter: &str) {
        self.tell("unsubscribed", client, [("filter", json!(filter))]);
    }

    /// So many QoS 0 messages found its outbox full since the last such event.
    pub fn dropped(&self, client: &Client, messages: u64) {
        self.tell("dropped", client, [("messages", json!(messages))]);
    }

    /// A client was not let in, or could not even say who it is.
    pub fn refused(&self, peer: SocketAddr, client_id: &str, why: String) {
        let fields = [("peer", json!(peer.to_string())), ("detail", json!(why))];
        self.send(record("refused", client_id, fields));
    }

    /// No more events; those that were told are still written.
    pub fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn tell<const N: usize>(&self, event: &str, client: &Client, fields: [(&str, Value); N]) {
        let who = [
            ("username", json!(client.username.as_deref())),
            ("peer", json!(client.peer.to_string())),
            ("version", json!(client.version.as_str())),
        ];
        self.send(record(event, &client.client_id, who.into_iter().chain(fields)));
    }

    fn send(&self, record: Record) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if sender.as_ref().is_none_or(|sender| sender.try_send(record).is_err()) {
            self.lost.increment(1);
        }
    }
}

fn record<'a>(event: &str, client_id: &str, fields: impl IntoIterator<Item = (&'a str, Value)>) -> Record {
    let mut payload = Map::new();
    payload.insert("event".into(), event.into());
    payload.insert("client_id".into(), client_id.into());
    payload.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Record {
        key: Some(Bytes::copy_from_slice(client_id.as_bytes())),
        topic: TopicName::new(format!("{EVENTS}/{event}")).ok(),
        qos: Qos::AtLeastOnce,
        headers: vec![Header::Utf8Payload],
        ..Record::new(Value::Object(payload).to_string())
    }
}

impl Writer {
    /// Writes until the events are closed and all are written.
    pub async fn run(mut self) {
        let mut told = Vec::new();
        while self.receiver.recv_many(&mut told, EVENTS_PER_TURN_MAX).await > 0 {
            let count = told.len() as u64;
            if let Err(error) = self.write(std::mem::take(&mut told)).await {
                tracing::warn!(%error, events = count, "events of clients are lost");
                self.lost.increment(count);
            }
        }
    }

    async fn write(&self, told: Vec<Record>) -> Result<(), CatalogError> {
        let stream = self.stream().await?;
        let mut batches: Vec<Batch> = Vec::new();
        for record in told {
            let shard = shard_for(&stream, &record);
            let batch = match batches.iter().position(|batch| batch.group == shard.group) {
                Some(at) => &mut batches[at],
                None => {
                    batches.push(Batch::new(shard.group));
                    let last = batches.len() - 1;
                    &mut batches[last]
                }
            };
            match batch.appends.iter_mut().find(|append| append.shard == shard) {
                Some(append) => append.records.push(record),
                None => batch.appends.push(headwater_store::Append {
                    shard,
                    records: vec![record],
                }),
            }
        }
        let mut receipts = Vec::new();
        for batch in batches {
            receipts.push(self.store.submit(batch).await?);
        }
        for receipt in receipts {
            receipt.await?;
        }
        Ok(())
    }

    /// Made when it is first needed, and again when someone dropped it.
    async fn stream(&self) -> Result<Arc<StreamRow>, CatalogError> {
        if let Some(stream) = self.store.catalog().borrow().stream(EVENTS) {
            return Ok(stream.clone());
        }
        let spec = StreamSpec {
            placement: Placement::Key,
            shards: self.store.data_groups().count() as u16,
            options: StreamOptions {
                duration_ms: Some(EVENTS_DURATION_MS),
                ..StreamOptions::default()
            },
            ..StreamSpec::new(EVENTS)
        };
        self.store.create_stream(spec).await
    }
}

/// Waits a moment for what was told last.
pub async fn finish(writer: &mut tokio::task::JoinHandle<()>) {
    let _ = tokio::time::timeout(Duration::from_millis(FLUSH_WAIT_MS), writer).await;
}
