//! From a message to a committed Batch. MQTT, wills and the HTTP side share it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use headwater_store::{
    Batch, BootId, Header, LogIndex, NodeId, Offset, Qos, Record, Route, ShardId, Store, TimestampMs, TopicName,
    WriteError,
};

use crate::error::PublishError;
use crate::limits::{ROUTE_ATTEMPTS_MAX, ROUTE_PAUSE_MS};
use crate::packet::{Properties, Property};
use crate::retained;

/// First levels that Headwater keeps for itself: nobody publishes there.
pub const RESERVED_TOPICS: [&str; 6] = ["$SYS", "$share", "$queue", "$stream", "$view", "$events"];

/// The reserved first level of `topic`, if it has one.
pub fn reserved_topic(topic: &TopicName) -> Option<&'static str> {
    if !topic.is_reserved() {
        return None;
    }
    let first = topic.levels().next()?;
    RESERVED_TOPICS.into_iter().find(|name| *name == first)
}

/// What a client published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub topic: TopicName,
    /// May be empty, which with `retain` clears the retained message.
    pub payload: Bytes,
    /// How.
    pub qos: Qos,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
    /// As they came.
    pub properties: Properties,
}

/// Who publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Given or assigned.
    pub client_id: ByteString,
    /// If it gave one.
    pub username: Option<ByteString>,
}

impl Message {
    /// Whether it is delivered to this node's subscribers before it is committed: QoS 0 is, but not what is retained, or
    /// someone who subscribes between delivery and commit would get neither the message nor the retained copy.
    pub fn is_live(&self) -> bool {
        self.qos == Qos::AtMostOnce && !self.retain
    }

    /// The record of this message. `delivered_by` marks a QoS 0 message that this node delivers at once by itself.
    pub fn record(&self, origin: &Origin, delivered_by: Option<(NodeId, BootId)>) -> Record {
        let mut headers = Vec::with_capacity(3);
        headers.push(Header::ClientId(origin.client_id.clone()));
        headers.extend(origin.username.clone().map(Header::Username));
        headers.extend(delivered_by.map(|(node, boot)| Header::DeliveredBy(node, boot)));
        headers.extend(self.properties.iter().filter_map(to_header));
        Record {
            topic: Some(self.topic.clone()),
            payload: Some(self.payload.clone()),
            qos: self.qos,
            retain: self.retain,
            headers,
            ..Record::default()
        }
    }
}

/// A property as the header that keeps it. What speaks about the packet and not about the message is left behind.
pub fn to_header(property: Property) -> Option<Header> {
    Some(match property {
        Property::PayloadFormatIndicator(true) => Header::Utf8Payload,
        Property::MessageExpiryInterval(interval_s) => Header::MessageExpiry(interval_s),
        Property::ContentType(text) => Header::ContentType(text),
        Property::ResponseTopic(text) => Header::ResponseTopic(text),
        Property::CorrelationData(data) => Header::CorrelationData(data),
        Property::UserProperty(name, value) => Header::User(name, value),
        _ => return None,
    })
}

/// A header as the property it came from. Who published a message, and how, is not MQTT's to tell.
pub fn to_property(header: &Header) -> Option<Property> {
    let property = match header {
        Header::Utf8Payload => Property::PayloadFormatIndicator(true),
        Header::MessageExpiry(interval_s) => Property::MessageExpiryInterval(*interval_s),
        Header::ContentType(text) => Property::ContentType(text.clone()),
        Header::ResponseTopic(text) => Property::ResponseTopic(text.clone()),
        Header::CorrelationData(data) => Property::CorrelationData(data.clone()),
        Header::User(name, value) => Property::UserProperty(name.clone(), value.clone()),
        Header::ClientId(_) | Header::Username(_) | Header::PublishedAt(_) | Header::DeliveredBy(..) => return None,
    };
    property.is_valid().then_some(property)
}

/// Adds one message to a Batch of its group: the home copy, a copy for each other matching capture, and the change
/// of the retained row if it asks for one. All of that is one group's, so it is one atomic write.
pub fn add_to_batch(batch: &mut Batch, route: &Route, record: Record, now: TimestampMs) {
    debug_assert_eq!(batch.group, route.group);
    if record.retain
        && let Some(put) = retained::put(&record, now)
    {
        batch.puts.push(put);
    }
    for copy in &route.copies {
        append(
            batch,
            *copy,
            Record {
                copy: true,
                ..record.clone()
            },
        );
    }
    append(batch, route.home, record);
}

fn append(batch: &mut Batch, shard: ShardId, record: Record) {
    match batch.appends.iter_mut().find(|append| append.shard == shard) {
        Some(append) => append.records.push(record),
        None => batch.appends.push(headwater_store::Append {
            shard,
            records: vec![record],
        }),
    }
}

/// Where a published record landed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The home shard.
    pub shard: ShardId,
    /// Its offset there.
    pub offset: Offset,
    /// The entry that holds it.
    pub index: LogIndex,
    /// Its append time.
    pub timestamp: TimestampMs,
}

/// Publishes records one at a time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    store: Store,
}

impl Publisher {
    pub(crate) fn new(store: Store) -> Publisher {
        Publisher { store }
    }

    /// The store that it writes to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The mark of a message that this node delivers at once by itself: QoS 0, which promises nothing.
    pub(crate) fn delivered_live(&self, message: &Message) -> Option<(NodeId, BootId)> {
        message.is_live().then(|| (self.store.node(), self.store.boot()))
    }

    /// Publishes `record` to its topic: routes it, keeps or clears the retained message if it asks for that, and waits
    /// until it is committed. Subscribers then receive it from the dispatcher, whatever its QoS.
    pub async fn publish(&self, record: Record) -> Result<Published, PublishError> {
        self.publish_with(record, |batch| batch).await
    }

    /// The same, with what else the message's Batch is to hold: conditions and rows, but no appends.
    pub(crate) async fn publish_with(
        &self,
        record: Record,
        complete: impl Fn(Batch) -> Batch,
    ) -> Result<Published, PublishError> {
        let topic = record.topic.clone().ok_or(PublishError::NoTopic)?;
        if let Some(name) = reserved_topic(&topic) {
            return Err(PublishError::Reserved(name));
        }
        for _ in 0..ROUTE_ATTEMPTS_MAX {
            let route: Arc<Route> = self.store.route(&topic);
            let mut batch = Batch::new(route.group).routed(route.revision);
            add_to_batch(&mut batch, &route, record.clone(), self.store.now());
            // The home copy is appended last.
            let home = batch.appends.len() - 1;
            match self.store.write(complete(batch)).await {
                Ok(committed) => {
                    return Ok(Published {
                        shard: route.home,
                        offset: committed.offsets[home],
                        index: committed.index,
                        timestamp: committed.timestamp,
                    });
                }
                // The fence reached the group before the catalog's news reached the router.
                Err(WriteError::StaleRoute { .. }) => tokio::time::sleep(Duration::from_millis(ROUTE_PAUSE_MS)).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(WriteError::Indefinite("the routing kept changing").into())
    }
}
