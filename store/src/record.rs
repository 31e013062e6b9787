//! A record and its headers: what one PUBLISH, one REST publish, one INSERT or one result row becomes.

use bytes::Bytes;
use bytestring::ByteString;

use crate::ids::{BootId, NodeId, TimestampMs};
use crate::limits::DETACHED_PAYLOAD_BYTES_MAX;
use crate::topic::TopicName;

/// MQTT's quality of service, kept with the record because subscribers are served at the lower of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, bincode::Encode, bincode::Decode)]
pub enum Qos {
    /// 0
    #[default]
    AtMostOnce,
    /// 1
    AtLeastOnce,
    /// 2
    ExactlyOnce,
}

impl Qos {
    /// The two bits of the wire.
    pub fn bits(self) -> u8 {
        self as u8
    }

    /// Reads the two bits of the wire; 3 is not a QoS.
    pub fn from_bits(bits: u8) -> Option<Qos> {
        match bits {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }
}

/// The user property of [`Record::watermark`].
const WATERMARK_PROPERTY: &str = "$watermark";

/// What travels with a record besides key, topic and payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// The client id of the publisher.
    ClientId(ByteString),
    /// The user name of the publisher.
    Username(ByteString),
    /// The publisher's own time, in milliseconds since the epoch (EMQX's `timestamp`).
    PublishedAt(TimestampMs),
    /// MQTT 5 Payload Format Indicator = 1: the payload is UTF-8.
    Utf8Payload,
    /// MQTT 5 Message Expiry Interval in seconds, counted from the append time.
    MessageExpiry(u32),
    /// MQTT 5 Content Type.
    ContentType(ByteString),
    /// MQTT 5 Response Topic.
    ResponseTopic(ByteString),
    /// MQTT 5 Correlation Data.
    CorrelationData(Bytes),
    /// MQTT 5 User Property; order is kept.
    User(ByteString, ByteString),
    /// The node and boot that already delivered this record live: its dispatcher skips it.
    DeliveredBy(NodeId, BootId),
}

/// What a query's result does to the row that its key had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There was none.
    Insert,
    /// It takes its place.
    Update,
    /// It is gone: the record is a tombstone.
    Delete,
}

impl Change {
    /// As it is written.
    pub fn bits(self) -> u8 {
        match self {
            Change::Insert => 1,
            Change::Update => 2,
            Change::Delete => 3,
        }
    }

    /// From what was written; None: nothing is said.
    pub fn from_bits(bits: u8) -> Option<Change> {
        [Change::Insert, Change::Update, Change::Delete]
            .into_iter()
            .find(|change| change.bits() == bits)
    }
}

/// One record of a stream. `timestamp` is the append time: it is given by the log, and ignored on the way in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Append time, from the entry that committed it.
    pub timestamp: TimestampMs,
    /// Orders and places the record. None where the topic is the key.
    pub key: Option<Bytes>,
    /// The MQTT topic, for records that MQTT subscribers receive.
    pub topic: Option<TopicName>,
    /// The message. None is a tombstone: the key is deleted.
    pub payload: Option<Bytes>,
    /// QoS it was published with.
    pub qos: Qos,
    /// Whether it was published with RETAIN.
    pub retain: bool,
    /// True for the copies that other matching captures get: only the home copy goes to MQTT subscribers.
    pub copy: bool,
    /// What a query says of its result; None for what others write.
    pub change: Option<Change>,
    /// In the order of the publisher.
    pub headers: Vec<Header>,
}

impl Record {
    /// A record with a payload and nothing else.
    pub fn new(payload: impl Into<Bytes>) -> Record {
        Record {
            payload: Some(payload.into()),
            ..Record::default()
        }
    }

    /// The key, or else the topic: what orders this record.
    pub fn key_or_topic(&self) -> Option<&[u8]> {
        self.key
            .as_deref()
            .or_else(|| self.topic.as_ref().map(|topic| topic.as_str().as_bytes()))
    }

    /// A record that tells queries how far event time has come, in µs since 1970, and nobody else anything: it is never
    /// handed out. It has no payload, key or topic; what clients publish has a topic.
    pub fn watermark(to_us: i64) -> Record {
        Record {
            headers: vec![Header::User(WATERMARK_PROPERTY.into(), to_us.to_string().into())],
            ..Record::default()
        }
    }

    /// What a [`Record::watermark`] tells; None: this is none.
    pub fn watermark_us(&self) -> Option<i64> {
        if self.payload.is_some() || self.key.is_some() || self.topic.is_some() {
            return None;
        }
        self.headers.iter().find_map(|header| match header {
            Header::User(name, to) if *name == WATERMARK_PROPERTY => to.parse().ok(),
            _ => None,
        })
    }

    /// What this record is found by: its key, and its topic.
    pub fn key_and_topic(&self) -> impl Iterator<Item = &[u8]> {
        let topic = self.topic.as_ref().map(|topic| topic.as_str().as_bytes());
        self.key.as_deref().into_iter().chain(topic)
    }

    /// The same record in buffers of its own: one that was cut from a record batch keeps the whole batch in memory. A
    /// payload as large as most batches stays as it is.
    pub fn detached(mut self) -> Record {
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let own_text = |text: &ByteString| ByteString::from(text.to_string());
        self.key = self.key.as_ref().map(own);
        self.topic = self.topic.as_ref().map(TopicName::detached);
        if self
            .payload
            .as_ref()
            .is_some_and(|payload| payload.len() <= DETACHED_PAYLOAD_BYTES_MAX)
        {
            self.payload = self.payload.as_ref().map(own);
        }
        for header in &mut self.headers {
            *header = match &*header {
                Header::ClientId(text) => Header::ClientId(own_text(text)),
                Header::Username(text) => Header::Username(own_text(text)),
                Header::ContentType(text) => Header::ContentType(own_text(text)),
                Header::ResponseTopic(text) => Header::ResponseTopic(own_text(text)),
                Header::CorrelationData(data) => Header::CorrelationData(own(data)),
                Header::User(name, value) => Header::User(own_text(name), own_text(value)),
                Header::PublishedAt(_) | Header::Utf8Payload | Header::MessageExpiry(_) | Header::DeliveredBy(..) => {
                    continue;
                }
            };
        }
        self
    }

    /// An upper bound of its encoded size in bytes, for admission.
    pub fn size_bytes(&self) -> usize {
        let header = |header: &Header| match header {
            Header::ClientId(text)
            | Header::Username(text)
            | Header::ContentType(text)
            | Header::ResponseTopic(text) => text.len(),
            Header::CorrelationData(data) => data.len(),
            Header::User(name, value) => name.len() + value.len(),
            Header::PublishedAt(_) | Header::Utf8Payload | Header::MessageExpiry(_) | Header::DeliveredBy(..) => 16,
        };
        48 + self.key.as_ref().map_or(0, Bytes::len)
            + self.topic.as_ref().map_or(0, |topic| topic.as_str().len())
            + self.payload.as_ref().map_or(0, Bytes::len)
            + self.headers.iter().map(|h| header(h) + 12).sum::<usize>()
    }
}
